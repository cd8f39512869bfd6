//! Processes that outlive the command that started them, and how they are ended: by their number, and only if the number
//! is still theirs.

use crate::error::{Error, Result};
use crate::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the kernel may take to take a process apart.
const END: Duration = Duration::from_secs(30);

/// A process by its number and by when it was started: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks between the boot of this machine and its start (proc_pid_stat(5), field 22).
    started: u64,
}

impl Process {
    /// Starts a command in the background, in a session of its own, so that the end of a terminal is not its end. What it
    /// says goes into `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(what: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).map_err(Error::file("make", log))?;
        let other = file.try_clone().map_err(Error::file("make", log))?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|error| Error::step(what, format!("cannot start {command:?}: {error}")))?;
        let pid = i32::try_from(child.id()).map_err(|error| Error::step(what, error))?;
        // Whoever ends it waits for it through /proc; the kernel gives the rest to whoever takes in orphans.
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        let started = start_of(pid).ok_or_else(|| {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            Error::step(what, format!("it ended at once: {}", said.trim()))
        })?;
        Ok(Self { pid, started })
    }

    /// It runs, and is no corpse that nobody has buried yet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }

    /// Ends it at once and waits until it is gone; one that has ended is ended.
    ///
    /// # Errors
    /// It is still there after [`END`].
    pub fn end(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        wait_for(&format!("process {} is gone", self.pid), END, || {
            if self.is_alive() {
                Err("it is still there".into())
            } else {
                Ok(())
            }
        })
    }

    /// Sends it a signal; one that has ended gets none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(Error::step(format!("end process {}", self.pid), error)),
        }
    }
}

fn start_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 is the first of the rest.
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_a_used_number_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("/bin/sleep");
        let process =
            Process::start("sleep", command.arg("600"), &dir.path().join("log")).expect("it starts");
        assert!(process.is_alive());
        let other = Process {
            started: process.started + 1,
            ..process
        };
        assert!(!other.is_alive());
        other.end().expect("nothing to end");
        assert!(process.is_alive(), "another one was ended");
        process.end().expect("it ends");
        assert!(!process.is_alive());
    }
}
