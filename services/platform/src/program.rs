//! Programs of others that are run here: each is declared once, runs for so long at most, and is read by a function.
//!
//! | program | where | longest run | what is read of it |
//! |---|---|---|---|
//! | [`timedatectl`](Program::timedatectl) | `/usr/bin/timedatectl` | 5 s | lines `NTP=`, `NTPSynchronized=` (`pollux setup`) |
//! | [`fence_agent`](Program::fence_agent) | `bmc.agent` of enclosure.toml | `deadline_s` | `Status: ON` or `OFF` and its exit code (`enclosured`) |
//!
//! Each runs without the environment of its caller, in `/`, and without a shell; what it is told on standard input is seen
//! by nobody else. Of what it says the beginning is read. Given up, it is killed with all that it has started: it does not act
//! later. (What waits in the kernel dies when that lets it go; a program that makes a session of its own gets away.)
//!
//! (LVM, the device mapper, XFS and mounts are services/lvm's alone, with a runner of its own: what they say is longer, and a
//! mount is run by the service manager. Programs of this project are started by the enclosure in software, by `pollux demo` and by `pollux quorum format`; they
//! stand beside whoever starts them.)

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Most that is read of what a program writes to one of its outputs, bytes.
const SAID: u64 = 64 << 10;
/// Where a program finds others, if it looks for any.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    deadline: Duration,
}

/// Why a program has said nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A name that would be looked for somewhere.
    #[error("{} cannot be run: right would be its absolute path", .0.display())]
    NotAbsolute(PathBuf),
    /// It is not there, or no program.
    #[error("{} cannot be run: {source}", path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its outputs cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It has not ended in time, and was killed.
    #[error("{}: no end within {} s", path.display(), deadline.as_secs())]
    NoEnd {
        /// Which.
        path: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
}

impl Program {
    /// Tells how the clock is kept.
    #[must_use]
    pub fn timedatectl() -> Self {
        Program {
            path: "/usr/bin/timedatectl".into(),
            deadline: Duration::from_secs(5),
        }
    }

    /// Knows one kind of power control.
    #[must_use]
    pub fn fence_agent(path: &Path, deadline: Duration) -> Self {
        Program {
            path: path.to_owned(),
            deadline,
        }
    }

    /// Runs it to its end: what it has said, and its exit code.
    ///
    /// # Errors
    /// It was not started, or has not ended in time.
    pub async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Output, ProgramError> {
        let path = self.path.clone();
        if !path.is_absolute() {
            return Err(ProgramError::NotAbsolute(path));
        }
        let started = Command::new(&path)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut group = match started {
            Ok(child) => Group(child),
            Err(source) => return Err(ProgramError::Start { path, source }),
        };
        let child = &mut group.0;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut to), Some(output), Some(errors)) = pipes else {
            let source = io::ErrorKind::BrokenPipe.into();
            return Err(ProgramError::Io { path, source });
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let conversation = async {
            let tell = async {
                // One that does not listen says why by its end.
                let _ = to.write_all(input).await;
                drop(to);
            };
            let ((), heard, complaints) = tokio::join!(
                tell,
                beginning(output, &mut stdout),
                beginning(errors, &mut stderr)
            );
            heard.and(complaints)?;
            child.wait().await
        };
        match timeout(self.deadline, conversation).await {
            Ok(Ok(status)) => Ok(Output {
                status,
                stdout,
                stderr,
            }),
            Ok(Err(source)) => Err(ProgramError::Io { path, source }),
            Err(_) => Err(ProgramError::NoEnd {
                path,
                deadline: self.deadline,
            }),
        }
    }
}

/// A program that was started, and all that it starts, which ends with this unless it has ended before.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // It has a number while nobody has heard of its end: the number is not another's yet.
        let number = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(number) = number {
            // That nobody is left is as good.
            let _ = killpg(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
}

/// Reads the beginning of what is said, and hangs up.
async fn beginning(from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> io::Result<()> {
    from.take(SAID).read_to_end(into).await.map(drop)
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(deadline: Duration) -> Program {
        Program::fence_agent(Path::new("/bin/sh"), deadline)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_is_told_and_heard_and_sees_nothing_of_its_caller() {
        let said = shell(LONG)
            .run(&["-c", "cat; env; pwd; echo why >&2; exit 3"], b"secret\n")
            .await
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(text.starts_with("secret\n") && text.ends_with("\n/\n"), "{text}");
        assert!(text.contains("LC_ALL=C\n") && !text.contains("HOME="), "{text}");
        assert_eq!((said.stderr, said.status.code()), (b"why\n".to_vec(), Some(3)));
    }

    #[tokio::test]
    async fn one_that_talks_for_ever_or_never_ends_is_cut_short() {
        let late = shell(Duration::from_millis(200))
            .run(&["-c", "exec sleep 600"], b"")
            .await
            .unwrap_err();
        assert!(late.to_string().contains("/bin/sh: no end within"), "{late}");
        let said = shell(LONG).run(&["-c", "head -c 1000000 /dev/zero"], b"").await;
        assert_eq!(said.unwrap().stdout.len() as u64, SAID);
    }

    #[tokio::test]
    async fn what_was_given_up_ends_with_all_that_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number");
        let script = format!(
            "sleep 600 & echo $! > {}.new; mv {0}.new {0}; wait",
            number.display()
        );
        let program = shell(LONG);
        let words = ["-c", &script];
        let run = program.run(&words, b"");
        let started = async {
            while !number.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Given up by whoever waited for it, as a deadline gives it up.
        tokio::select! {
            said = run => panic!("{said:?}"),
            () = started => {}
        }
        let child = std::fs::read_to_string(&number).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let gone = async {
            // A dead one whose parent has gone waits for the machine's first process.
            let lives = || std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z "));
            while lives() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, gone).await.expect("it ends with its parent");
    }

    #[tokio::test]
    async fn a_name_alone_is_not_looked_for() {
        for (path, words) in [
            ("sh", "absolute path"),
            ("/nowhere/agent", "/nowhere/agent cannot be run"),
        ] {
            let refused = Program::fence_agent(Path::new(path), LONG)
                .run(&[], b"")
                .await
                .unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }
}
