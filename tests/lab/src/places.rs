//! Where the lab keeps its things: under `target/lab`, and nowhere else.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket (unix(7): 108 bytes with the zero at its end).
const SOCKET: usize = 107;

/// The folders of the lab.
#[derive(Clone, Debug)]
pub struct Places {
    /// What takes long to make.
    pub cache: PathBuf,
    /// The running lab.
    pub run: PathBuf,
    /// What is kept of a case.
    pub logs: PathBuf,
    /// Programs of this workspace, beside the running one.
    pub programs: PathBuf,
    /// The workspace's folder of everything that is built.
    pub target: PathBuf,
}

impl Places {
    /// The folders of the workspace that the running program was built in.
    ///
    /// # Errors
    /// The system does not say which program runs, or the folder is so deep that no socket can be made in it.
    pub fn find() -> Result<Self> {
        let this = std::env::current_exe().map_err(|error| Error::step("find the running program", error))?;
        let programs = this.parent().unwrap_or(Path::new("/")).to_owned();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
        let target = workspace.unwrap_or(Path::new("/")).join("target");
        let lab = target.join("lab");
        let places = Self {
            cache: lab.join("cache"),
            run: lab.join("run"),
            logs: lab.join("logs"),
            programs,
            target,
        };
        let longest = places.run.join("switch/front-host.port.and-room-for-ssh");
        if longest.as_os_str().len() > SOCKET {
            return Err(Error::step(
                "place the sockets",
                format!(
                    "{} is too long a path for them; move the workspace up",
                    places.run.display()
                ),
            ));
        }
        Ok(places)
    }
}
