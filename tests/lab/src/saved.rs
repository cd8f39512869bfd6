//! A lab that was switched on once and put away: so that the next one is there in seconds.
//!
//! A machine needs a minute of an emulated processor to boot, and the same minute each time. So the first lab is stopped
//! once everything is up; memory, disks and the shelf go into the cache, under a hash of all they were made of; every later
//! lab begins there. Machines that lose their power boot as any machine does.
//!
//! Invariant: all machines are stopped before the first is put away, so no disk is younger than the memory that knows it.

use crate::error::{Error, Result};
use crate::programs::{self, CP};
use crate::qmp::Qmp;
use crate::wait::wait_for;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Some 200 MB to a disk that others use.
const WRITE: Duration = Duration::from_secs(300);
/// Name of a machine's memory in its folder.
pub const MEMORY: &str = "memory.state";

/// Puts the memory of a stopped machine into a file; it stays stopped.
///
/// # Errors
/// QEMU cannot write it.
pub fn put_away(qmp: &mut Qmp, file: &Path) -> Result<()> {
    qmp.ask("migrate", json!({ "uri": format!("file:{}", file.display()) }))?;
    wait_for("the memory is written", WRITE, || {
        let said = qmp
            .ask("query-migrate", json!({}))
            .map_err(|error| error.to_string())?;
        match said["status"].as_str() {
            Some("completed") => Ok(Ok(())),
            Some("failed" | "cancelled") => Ok(Err(Error::step("put a machine away", &said))),
            _ => Err(said.to_string()),
        }
    })?
}

/// Waits until a machine that was started from a file has read it, and lets it go on.
///
/// # Errors
/// QEMU cannot read it.
pub fn wake(qmp: &mut Qmp) -> Result<()> {
    wait_for("the memory is read", WRITE, || {
        let said = qmp
            .ask("query-status", json!({}))
            .map_err(|error| error.to_string())?;
        match said["status"].as_str() {
            Some("paused" | "postmigrate" | "prelaunch") => Ok(()),
            _ => Err(said.to_string()),
        }
    })?;
    qmp.ask("cont", json!({})).map(drop)
}

/// Copies a file or a folder, holes as holes.
///
/// # Errors
/// cp fails.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = CP.command()?;
    command
        .args(["--recursive", "--sparse=always", "--reflink=auto"])
        .arg(from)
        .arg(to);
    programs::run(&format!("copy {}", from.display()), &mut command).map(drop)
}
