//! A process that is measured: started here, ended here, whatever happens.

use crate::error::{Context, Error, Result};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How long a program may take until it can be spoken to.
const READY: Duration = Duration::from_secs(10);
/// How long a program may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(2);

/// A child process; dropped, it is asked to end and, if it does not, killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// The same command, killed by the kernel when the thread that starts it ends: a measurement that is killed leaves
/// nothing behind. `setpriv` is part of util-linux, and becomes the program.
fn tied(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    tied
}

/// Starts a command from a thread that ends with this process and not before: threads of a measurement come and go.
fn spawn(mut command: Command) -> std::io::Result<Child> {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        jobs
    });
    let (answer, child) = channel();
    let gone = || std::io::Error::other("the thread that starts processes has ended");
    let job = Box::new(move || drop(answer.send(command.spawn())));
    spawner.send(job).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

impl Process {
    /// Starts a program without input; its output goes to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = std::fs::File::create(log).context(log.display())?;
        let error = output.try_clone().context(log.display())?;
        let mut tied = tied(command);
        tied.stdin(Stdio::null()).stdout(output).stderr(error);
        let child = spawn(tied).context(format!("start {name}"))?;
        Ok(Self {
            name,
            log: log.to_owned(),
            child,
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks `ready` until it says something, while the process lives.
    ///
    /// # Errors
    /// It ended, or nothing was said within ten seconds.
    pub fn until<T>(&mut self, what: &str, ready: impl FnMut() -> Option<T>) -> Result<T> {
        self.until_within(READY, what, ready)
    }

    /// The same with another bound.
    ///
    /// # Errors
    /// It ended, or nothing was said in time.
    pub fn until_within<T>(
        &mut self,
        bound: Duration,
        what: &str,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::Step {
                    what: format!("{}: {what}", self.name),
                    why: format!("it ended: {status}: {}", self.last_words()),
                });
            }
            if Instant::now() > end {
                return Err(Error::Step {
                    what: format!("{}: {what}", self.name),
                    why: format!("not within {bound:?}: {}", self.last_words()),
                });
            }
            pause();
        }
    }

    /// Ends it as a loss of power would, and waits until it is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context(format!("kill {}", self.name))?;
        self.child.wait().map(drop).context(format!("kill {}", self.name))
    }

    /// The last line of its log.
    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + STOP;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A moment between two looks at a state.
#[allow(
    clippy::disallowed_methods,
    reason = "paces the question whether a state is reached; the wait itself is for the state, and bounded"
)]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Processor time that the processes have used so far, all their threads together.
///
/// # Errors
/// One of them is gone.
pub fn cpu_time(processes: &[u32]) -> Result<Duration> {
    processes.iter().try_fold(Duration::ZERO, |sum, &process| {
        let pid = Pid::from_raw(i32::try_from(process).context("process number")?);
        let clock = ClockId::pid_cpu_clock_id(pid).context(format!("processor time of {process}"))?;
        let time = clock_gettime(clock).context(format!("processor time of {process}"))?;
        Ok(sum + Duration::from(time))
    })
}

/// Processes whose parent is `process`.
#[must_use]
pub fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_the_process() {
        let before = cpu_time(&[std::process::id()]).unwrap();
        let mut sum = 0_u64;
        let mut after = before;
        for round in 0..10_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31) + round);
            after = cpu_time(&[std::process::id()]).unwrap();
        }
        assert!(after > before, "{sum}");
    }

    #[test]
    fn a_process_that_ends_at_once_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo the port is taken >&2; exit 1"]);
        let mut process = Process::start(&mut command, &folder.path().join("log")).unwrap();
        let error = process.until("answers", || None::<()>).unwrap_err().to_string();
        assert!(error.contains("sh: answers: it ended"), "{error}");
        assert!(error.contains("the port is taken"), "{error}");
    }
}
