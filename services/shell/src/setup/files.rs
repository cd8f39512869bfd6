//! The files that setup writes: their text, and what differs from what is there.

use super::propose::{Enclosure, Proposal, Slot};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file that names the hardware.
pub const ENCLOSURE: &str = "enclosure.toml";
/// Name of the file of answers for the second controller.
pub const PARTNER: &str = "partner.toml";
/// The rules of udev for the disks of the shelf.
pub const SHELF_RULES: &str = "udev/rules.d/62-pollux-shelf.rules";

/// A file as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

/// What a file that is there has, and has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not there.
    New,
    /// It is there already, as it should be.
    Same,
    /// It is there, and differs in these lines: `- ` is there, `+ ` would be.
    Differs(String),
}

/// Everything that a proposal writes. `folder`: /etc/pollux; its parent has udev's rules.
#[must_use]
pub fn wanted(folder: &Path, proposal: &Proposal) -> Vec<Wanted> {
    let etc = folder.parent().unwrap_or(folder);
    vec![
        Wanted {
            path: folder.join(pollux_runtime::config::FILE),
            text: format!(
                "# Who and where this controller is. Written by `pollux setup`.\n{}",
                proposal.controller.render()
            ),
        },
        Wanted {
            path: folder.join(ENCLOSURE),
            text: format!(
                "# Which hardware stands behind the names of the array. Written by `pollux setup`; a disk has the same slot\n\
                 # on both controllers.\n{}",
                toml(&proposal.enclosure)
            ),
        },
        Wanted {
            path: folder.join(PARTNER),
            text: format!(
                "# For the partner: copy this file there, then `pollux setup --answers FILE`. It holds no secret.\n{}",
                toml(&proposal.partner)
            ),
        },
        Wanted {
            path: etc.join(SHELF_RULES),
            text: shelf_rules(&proposal.enclosure.disk),
        },
    ]
}

fn toml(value: &impl serde::Serialize) -> String {
    // Maps with keys of text, lists, numbers below 2^63: every answer and every enclosure has a TOML form.
    toml::to_string(value).expect("answers and enclosures always have a TOML form")
}

/// Keeps this machine's hands off the disks of the shelf: who owns a pool decides, not who sees a signature on a disk.
#[must_use]
pub fn shelf_rules(disks: &[Slot]) -> String {
    let mut text = "# Disks of the shelf, written by `pollux setup`.\n\
                    # nowatch: udev must not read partitions again whenever a disk is closed, the nodes vanish meanwhile.\n\
                    # The rest: no volume group, array or file system on them is assembled or mounted by this machine itself.\n\
                    ACTION==\"remove\", GOTO=\"pollux_shelf_end\"\n\
                    SUBSYSTEM!=\"block\", GOTO=\"pollux_shelf_end\"\n"
        .to_owned();
    for Slot { slot, wwn, .. } in disks {
        let _ = writeln!(
            text,
            "# disk-{slot:02}\nATTRS{{wwid}}==\"{wwn}\", GOTO=\"pollux_shelf_disk\""
        );
        // Of several names the kernel takes the longest, and not one that somebody gave on the spot (NAA 3); udev takes the NAA.
        if let Some(number) = wwn.strip_prefix("naa.") {
            let _ = writeln!(
                text,
                "ENV{{ID_WWN_WITH_EXTENSION}}==\"0x{number}\", GOTO=\"pollux_shelf_disk\""
            );
        }
    }
    text += "GOTO=\"pollux_shelf_end\"\n\
             LABEL=\"pollux_shelf_disk\"\n\
             OPTIONS+=\"nowatch\"\n\
             ENV{ID_FS_TYPE}=\"\", ENV{ID_FS_USAGE}=\"\", ENV{SYSTEMD_READY}=\"0\", ENV{UDISKS_IGNORE}=\"1\"\n\
             ENV{DM_MULTIPATH_DEVICE_PATH}=\"0\"\n\
             LABEL=\"pollux_shelf_end\"\n";
    text
}

impl Wanted {
    /// How the file that is there compares.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn state(&self) -> io::Result<State> {
        match fs::read_to_string(&self.path) {
            Ok(there) if there == self.text => Ok(State::Same),
            Ok(there) => Ok(State::Differs(differences(&there, &self.text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::New),
            Err(error) => Err(error),
        }
    }
}

/// Lines that only one of two texts has; each with the section of TOML that it stands in.
#[must_use]
pub fn differences(there: &str, wanted: &str) -> String {
    let (old, new) = (placed(there), placed(wanted));
    let (have, want): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
    let mut text = String::new();
    for line in old.iter().filter(|line| !want.contains(line)) {
        let _ = writeln!(text, "    - {line}");
    }
    for line in new.iter().filter(|line| !have.contains(line)) {
        let _ = writeln!(text, "    + {line}");
    }
    if text.is_empty() {
        text = "    only in comments, empty lines or order\n".into();
    }
    text
}

/// Lines of a file, without comments, each with its section before it; a disk's with the slot that stands above.
fn placed(text: &str) -> Vec<String> {
    let (mut section, mut slot, mut lines) = (String::new(), String::new(), vec![]);
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned() + ".";
            slot.clear();
            continue;
        }
        if section == "disk." && line.starts_with("slot") {
            slot = format!("{line}, ");
            continue;
        }
        lines.push(format!("{section}{slot}{line}"));
    }
    lines
}

/// Reads what an earlier setup, or a person, has written.
///
/// # Errors
/// It is there, and is not what it should be.
pub fn read_enclosure(folder: &Path) -> Result<Option<Enclosure>, String> {
    let path = folder.join(ENCLOSURE);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
