//! Who is at the end of a cable.
//!
//! The disks know ports; READ FULL STATUS names initiators (SPC-4, 6.15.5). So the shelf keeps which initiator has
//! registered last through each port, in a file, because registrations outlive its process.

use pollux_api::id::ControllerId;
use pollux_block_frame::Nexus;
use pollux_block_target::scsi::inquiry::port_number;
use pollux_platform::file::replace;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the file in the shelf's folder.
const FILE: &str = "initiators.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Initiator {
    name: String,
    isid: [u8; 6],
}

/// The initiators of both ports.
#[derive(Debug)]
pub(crate) struct Names {
    path: PathBuf,
    known: Mutex<[Option<Initiator>; 2]>,
}

impl Names {
    /// Reads who registered last.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let known = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => [None, None],
            Err(error) => return Err(error),
        };
        let known = Mutex::new(known);
        Ok(Names { path, known })
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Initiator>; 2]> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This nexus registers through its port. In the file when this returns.
    pub(crate) fn registers(&self, port: ControllerId, nexus: &Nexus) -> io::Result<()> {
        let new = Some(Initiator {
            name: nexus.initiator.clone(),
            isid: nexus.isid,
        });
        let mut known = self.lock();
        if known[port.index()] == new {
            return Ok(());
        }
        known[port.index()] = new;
        replace(&self.path, &serde_json::to_vec(&*known)?, 0o600)
    }

    /// The nexus of a port.
    pub(crate) fn nexus(&self, port: ControllerId) -> Nexus {
        let known = self.lock()[port.index()].clone();
        // A registration whose initiator is not known was made when the file was another.
        let known = known.unwrap_or_else(|| Initiator {
            name: format!("iqn.2026-01.pollux.lab:unknown.{port}"),
            isid: [0; 6],
        });
        Nexus {
            initiator: known.name,
            isid: known.isid,
            port: port_number(port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_registered_last_is_known_after_a_restart_and_damage_is_named() {
        let folder = tempfile::tempdir().expect("scratch");
        let names = Names::open(folder.path()).expect("no file is no error");
        let nexus = |name: &str| Nexus {
            initiator: name.to_owned(),
            isid: [7; 6],
            port: 2,
        };
        assert!(names.nexus(ControllerId::B).initiator.ends_with("unknown.b"));
        for name in ["iqn.x:one", "iqn.x:two"] {
            names.registers(ControllerId::B, &nexus(name)).expect("written");
        }
        let again = Names::open(folder.path()).expect("readable");
        assert_eq!(again.nexus(ControllerId::B), nexus("iqn.x:two"));
        assert_eq!(again.nexus(ControllerId::A).port, 1);
        std::fs::write(folder.path().join(FILE), "[null").expect("written");
        assert!(Names::open(folder.path()).is_err());
    }
}
