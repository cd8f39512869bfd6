//! What stands in the enclosure: the file `enclosure.toml`, beside `controller.toml`.
//!
//! ```text
//! [[disk]]    slot, wwn; may have bytes, quorum, kernel     one for each disk; the same on both controllers
//! [watchdog]  device                                      without it nothing is armed
//! [bmc]       agent, arguments, password_file, deadline_s without it the partner's power is not known
//! ```
//!
//! A disk is named by its WWN, never by a name that the kernel gives. A slot is the number under which the other daemons
//! know it (`disk-NN.sock`), and belongs to the disk for as long as data are on it.

use pollux_api::id::DiskIndex;
use pollux_platform::scsi::decode::Wwn;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the file is if nothing else is said.
pub const FILE: &str = "/etc/pollux/enclosure.toml";

/// What stands in the enclosure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnclosureConfig {
    /// Its disks.
    #[serde(default, rename = "disk")]
    pub disks: Vec<Disk>,
    /// The controller's own watchdog.
    pub watchdog: Option<Watchdog>,
    /// The power control of the partner.
    pub bmc: Option<Bmc>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its slot.
    pub slot: DiskIndex,
    /// Its name, `naa.` or `eui.` and hexadecimal digits.
    #[serde(deserialize_with = "wwn")]
    pub wwn: Wwn,
    /// Its size, bytes; a disk of another size is refused. Without it any size will do.
    pub bytes: Option<u64>,
    /// It is for the quorum alone: reservations are refused, since one would end the votes of the partner. Those of strangers
    /// can be cleared.
    #[serde(default)]
    pub quorum: bool,
    /// Its data are the kernel's, for a pool of the backend lvm: only its label area and its reservations are reached here.
    #[serde(default)]
    pub kernel: bool,
}

fn wwn<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Wwn, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// The controller's own watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// Its node, `/dev/watchdog` for instance.
    pub device: PathBuf,
}

/// The power control of the partner.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bmc {
    /// A fence agent: a program that reads `name=value` lines (`action` among them) and says `Status: ON` or `OFF`.
    pub agent: PathBuf,
    /// What it is told beside the action.
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
    /// Its `password` stands here, in a file that nobody but the daemon's user may read (mode 600).
    pub password_file: Option<PathBuf>,
    /// How long one run of it may take, seconds.
    #[serde(default = "deadline")]
    pub deadline_s: u64,
}

const fn deadline() -> u64 {
    20
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; --enclosure names the file that says what stands in the enclosure", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no TOML, or a key is missing, unknown or wrong.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        source: Box<toml::de::Error>,
    },
    /// Values do not fit each other.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Values {
        /// The file.
        path: PathBuf,
        /// Each with its key and what would be right.
        problems: Vec<String>,
    },
}

impl EnclosureConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong, where, and what would be right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let problems = config.problems();
        match problems.is_empty() {
            true => Ok(config),
            false => Err(ConfigError::Values {
                path: path.to_owned(),
                problems,
            }),
        }
    }

    /// Everything that is wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (at, disk) in self.disks.iter().enumerate() {
            for other in &self.disks[..at] {
                if other.slot == disk.slot {
                    problems.push(format!(
                        "disk.slot = {} stands twice; each slot has one disk",
                        disk.slot.get()
                    ));
                }
                if other.wwn == disk.wwn {
                    problems.push(format!(
                        "disk.wwn = \"{}\" stands twice; each disk has one slot",
                        disk.wwn
                    ));
                }
            }
            if disk.quorum && disk.kernel {
                problems.push(format!(
                    "disk.kernel = true of {}: a disk of the quorum is in no pool",
                    disk.slot
                ));
            }
            if disk.bytes == Some(0) {
                problems.push(format!("disk.bytes = 0 of {}: a size, or nothing", disk.slot));
            }
        }
        let absolute = |problems: &mut Vec<String>, key: &str, path: &Path| {
            if !path.is_absolute() {
                problems.push(format!("{key} = {path:?} must be absolute"));
            }
        };
        if let Some(watchdog) = &self.watchdog {
            absolute(&mut problems, "watchdog.device", &watchdog.device);
        }
        if let Some(bmc) = &self.bmc {
            absolute(&mut problems, "bmc.agent", &bmc.agent);
            if let Some(file) = &bmc.password_file {
                absolute(&mut problems, "bmc.password_file", file);
            }
            if bmc.deadline_s == 0 {
                problems.push("bmc.deadline_s = 0 must be at least 1".to_owned());
            }
            for (name, value) in &bmc.arguments {
                let taken = matches!(name.as_str(), "action" | "password" | "passwd");
                if taken {
                    problems.push(format!(
                        "bmc.arguments.{name}: the action is the daemon's, and a password stands in bmc.password_file"
                    ));
                }
                if name.contains(['=', '\n']) || name.is_empty() || value.contains('\n') {
                    problems.push(format!(
                        "bmc.arguments.{name} must be one line, and its name without `=`"
                    ));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[disk]]
slot = 0
wwn = "naa.5000c500a1b2c3d7"
bytes = 4000787030016
[[disk]]
slot = 12
wwn = "naa.60000000000000000000000000000012"
quorum = true
[watchdog]
device = "/dev/watchdog"
[bmc]
agent = "/usr/sbin/fence_ipmilan"
arguments = { ip = "10.0.0.2", username = "pollux", lanplus = "1" }
password_file = "/etc/pollux/bmc-password"
"#;

    #[test]
    fn every_refusal_names_the_file_and_the_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("enclosure.toml");
        let load = |text: &str| {
            std::fs::write(&file, text).expect("written");
            EnclosureConfig::load(&file)
        };
        let good = load(GOOD).expect("good");
        assert_eq!(
            (good.disks.len(), good.disks[1].slot, good.disks[1].quorum),
            (2, DiskIndex::new(12), true)
        );
        assert_eq!(good.bmc.expect("there").deadline_s, 20);
        assert_eq!(
            load("").expect("an enclosure without anything"),
            EnclosureConfig::default()
        );
        for (from, to, named) in [
            ("slot = 12", "slot = 0", "disk.slot = 0 stands twice"),
            (
                "naa.60000000000000000000000000000012",
                "naa.5000C500A1B2C3D7",
                "disk.wwn",
            ),
            ("naa.5000c500a1b2c3d7", "/dev/sda", "16 or 32"),
            (
                "naa.5000c500a1b2c3d7",
                "eui.00000000000000010025385971b02b1e",
                "NVMe shelves are not supported",
            ),
            ("bytes = 4000787030016", "bytes = 0", "disk.bytes"),
            ("\"/dev/watchdog\"", "\"watchdog\"", "watchdog.device"),
            ("\"/usr/sbin/fence_ipmilan\"", "\"fence_ipmilan\"", "bmc.agent"),
            ("lanplus", "action", "bmc.arguments.action"),
            ("lanplus", "password", "bmc.password_file"),
            ("quorum = true", "qourum = true", "qourum"),
            ("quorum = true", "quorum = true\nkernel = true", "disk.kernel"),
        ] {
            assert!(GOOD.contains(from));
            let refusal = load(&GOOD.replace(from, to)).expect_err(to).to_string();
            assert!(
                refusal.contains(named) && refusal.contains("enclosure.toml"),
                "{to}: {refusal}"
            );
        }
        std::fs::remove_file(&file).expect("removed");
        let refusal = EnclosureConfig::load(&file).expect_err("no file").to_string();
        assert!(refusal.contains("--enclosure"), "{refusal}");
    }
}
