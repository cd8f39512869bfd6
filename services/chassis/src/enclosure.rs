//! A running enclosure as a value, for tests and demonstrations: the process `pollux-chassis` and a [`Client`] of it.

use crate::{
    client::Client,
    options::{Options, control_socket, lock_file, program_dir},
};
use pollux_api::chassis::PowerState;
use pollux_platform::file::{Lock, LockError};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::Instant,
};

/// Name of the enclosure's program.
pub const PROGRAM: &str = "pollux-chassis";
/// Standard error of an enclosure that was started by [`Enclosure::start`], in the array's directory.
pub const LOG: &str = "chassis.log";

/// Longest time from the start to the front panel; both controllers boot meanwhile.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest time from the request to end to the end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A running enclosure. When the value is dropped, or the process that holds it dies, the enclosure ends and leaves no
/// process and no socket; what is in its directory stays.
#[derive(Debug)]
pub struct Enclosure {
    dir: PathBuf,
    program: PathBuf,
    child: Child,
    /// Its end is the enclosure's request to end.
    input: Option<ChildStdin>,
    client: Client,
}

/// Why an enclosure did not start or end.
#[derive(Debug, thiserror::Error)]
pub enum EnclosureError {
    /// The program cannot be started.
    #[error("cannot start {}: {source}; build it with cargo build --package pollux-chassis", program.display())]
    Program {
        /// Where it was looked for.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended instead of starting.
    #[error("the enclosure ended with {status}: {message}")]
    Ended {
        /// Its exit status; the codes are those of `pollux-chassis --help`.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// It did not come up or go down in time.
    #[error("the enclosure in {} did not {what} within {} s", dir.display(), limit.as_secs())]
    Timeout {
        /// Its directory.
        dir: PathBuf,
        /// `start` or `end`.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// A file of its directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Enclosure {
    /// Starts `pollux-chassis` from the directory of the running program and waits until its front panel answers: the
    /// controllers then have power (unless the options say otherwise) and their daemons are being started.
    pub async fn start(mut options: Options) -> Result<Self, EnclosureError> {
        options.end_with_stdin = true;
        let program = program_dir().unwrap_or_default().join(PROGRAM);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| EnclosureError::Io { path, source }
        };
        std::fs::create_dir_all(&options.dir).map_err(io(&options.dir))?;
        let dir = options.dir.canonicalize().map_err(io(&options.dir))?;
        let log_path = dir.join(LOG);
        let log = File::create(&log_path).map_err(io(&log_path))?;
        let mut child = Command::new(&program)
            .arg("run")
            .args(options.to_arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // A terminal's Ctrl-C is for the program that started this one, which then lets go.
            .process_group(0)
            .spawn()
            .map_err(|source| EnclosureError::Program {
                program: program.clone(),
                source,
            })?;
        let input = child.stdin.take();
        let mut enclosure = Self {
            client: Client::new(&dir),
            dir,
            program,
            child,
            input,
        };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = enclosure.child.try_wait().map_err(io(&enclosure.program))? {
                let message = std::fs::read_to_string(&log_path)
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                return Err(EnclosureError::Ended { status, message });
            }
            // The panel of another enclosure on the same directory answers too; this one then ends and says so.
            if control_socket(&enclosure.dir).exists()
                && let Ok(status) = enclosure.client.status().await
                && Some(status.pid) == enclosure.child.id()
            {
                return Ok(enclosure);
            }
            if Instant::now() >= deadline {
                return Err(EnclosureError::Timeout {
                    dir: enclosure.dir.clone(),
                    what: "start",
                    limit: START_LIMIT,
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Directory of the array.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its buttons.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Process id of the enclosure.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// A command that runs in the hosts' network, from where the portals of both controllers can be reached.
    pub fn host_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("exec")
            .arg("--dir")
            .arg(&self.dir)
            .arg("--")
            .arg(program);
        command
    }

    /// Waits until every daemon of every powered controller has said that it is ready, or names those that have not.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.client.status().await.map_err(|error| error.to_string())?;
            let powered = status
                .controllers
                .iter()
                .filter(|(_, controller)| controller.power == PowerState::On);
            let waiting: Vec<String> = powered
                .flat_map(|(id, controller)| {
                    controller
                        .daemons
                        .iter()
                        .map(move |(name, daemon)| (id, name, daemon))
                })
                .filter(|(_, _, daemon)| !daemon.ready)
                .map(|(id, name, daemon)| match &daemon.last_exit {
                    None => format!("{id}/{name}"),
                    Some(exit) => format!("{id}/{name} (crashed {} times, last with {exit})", daemon.crashes),
                })
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let log = self.dir.join("<controller>/log");
                return Err(format!(
                    "not ready after {} s: {}; see {}",
                    limit.as_secs(),
                    waiting.join(", "),
                    log.display()
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the enclosure and waits for its end.
    pub async fn end(mut self) -> Result<(), EnclosureError> {
        drop(self.input.take());
        match tokio::time::timeout(END_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                let message = std::fs::read_to_string(self.dir.join(LOG))
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                Err(EnclosureError::Ended { status, message })
            }
            Ok(Err(source)) => Err(EnclosureError::Io {
                path: self.program.clone(),
                source,
            }),
            Err(_) => Err(EnclosureError::Timeout {
                dir: self.dir.clone(),
                what: "end",
                limit: END_LIMIT,
            }),
        }
    }
}

/// The process of the enclosure that runs in `dir`, if one does.
pub fn holder(dir: &Path) -> Result<Option<u32>, LockError> {
    Lock::holder(&lock_file(dir))
}
