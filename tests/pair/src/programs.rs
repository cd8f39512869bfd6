//! Where the programs are: beside the one that asks.
//!
//! `cargo` puts every binary of a workspace into one directory, tests one level below it. A test
//! run builds what is missing or stale first, with the cargo that runs the test, so that it never
//! judges yesterday's daemons.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// What an array consists of, without which nothing can start.
const NEEDED: [&str; 9] = [
    "pollux-chassis",
    "rpc-routerd",
    "heartbeatd",
    "config-keeperd",
    "pool-managerd",
    "aluad",
    "block-targetd",
    "addressd",
    "pollux-host",
];

/// The directory of the programs.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Beside the running program.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe().map_err(|err| Error::step("find the running program", err))?;
        let mut directory = this.parent().unwrap_or(Path::new("/")).to_owned();
        if directory.ends_with("deps") {
            directory.pop();
        }
        let missing: Vec<&str> = NEEDED
            .into_iter()
            .filter(|name| !directory.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Programs { directory });
        }
        Err(Error::Missing(format!(
            "{}: not there: {}; build them first (cargo build --workspace --bins)",
            directory.display(),
            missing.join(", ")
        )))
    }

    /// For tests: builds whatever is not up to date, then as [`Programs::beside_this`].
    pub fn up_to_date() -> Result<Self> {
        static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            // Without cargo (a test program started by hand) what is there has to do.
            let Some(cargo) = std::env::var_os("CARGO") else {
                return Ok(());
            };
            let output = Command::new(cargo)
                .args(["build", "--quiet", "--workspace", "--bins", "--manifest-path"])
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
                .output()
                .map_err(|err| err.to_string())?;
            if output.status.success() {
                return Ok(());
            }
            Err(crate::array::last_lines(
                &String::from_utf8_lossy(&output.stderr),
                5,
            ))
        });
        built
            .clone()
            .map_err(|why| Error::step("build the daemons", why))?;
        Self::beside_this()
    }

    /// The enclosure.
    pub fn chassis(&self) -> PathBuf {
        self.directory.join("pollux-chassis")
    }

    /// The host.
    pub fn host(&self) -> PathBuf {
        self.directory.join("pollux-host")
    }

    /// The operator's command.
    pub fn pollux(&self) -> PathBuf {
        self.directory.join("pollux")
    }
}
