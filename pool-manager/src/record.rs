//! What a restarted pool manager has to know of its predecessor: one small file per imported pool in `run/pools`.
//!
//! The directory is wiped at each boot, as the controller's memory is. A record says under which key the pool was held
//! and on which disks the key stood; whether that is still so is read back from the disks, never believed.

use crate::label::{Label, MemberState};
use pollux_api::id::{DiskIndex, PoolId};
use pollux_api::pool::{PowerOff, ReservationKey};
use pollux_platform::file::replace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// An imported pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The pool.
    pub pool: PoolId,
    /// The key under which it is held.
    pub key: ReservationKey,
    /// Disks that are written to.
    pub disks: BTreeSet<DiskIndex>,
    /// What stood in for reservations, where they could not be taken.
    pub power_off: Option<PowerOff>,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// In `directory`, which is made if it is not there.
    pub fn open(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        Ok(Records {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, pool: PoolId) -> PathBuf {
        self.directory.join(format!("{pool}.json"))
    }

    /// The pool is imported with this label.
    pub fn write(&self, label: &Label, power_off: Option<PowerOff>) -> io::Result<()> {
        let written = label
            .members
            .iter()
            .filter(|member| member.state != MemberState::Failed);
        let disks = written.map(|member| member.disk).collect();
        let record = Record {
            pool: label.pool,
            key: label.key,
            disks,
            power_off,
        };
        let path = self.path(label.pool);
        if self.read(&path).is_ok_and(|old| old == record) {
            return Ok(());
        }
        let text = serde_json::to_vec(&record).expect("a record always has a JSON form");
        replace(&path, &text, 0o600)
    }

    /// The pool is not imported any more.
    pub fn forget(&self, pool: PoolId) {
        match std::fs::remove_file(self.path(pool)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%pool, %error, "the record of an exported pool stays");
            }
            _ => {}
        }
    }

    fn read(&self, path: &Path) -> io::Result<Record> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
    }

    /// Every pool that was imported. A record that cannot be read is reported and left alone.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                match self.read(&path) {
                    Ok(record) => records.push(record),
                    Err(error) => tracing::error!(path = %path.display(), %error, "not a record of a pool"),
                }
            }
        }
        Ok(records)
    }
}
