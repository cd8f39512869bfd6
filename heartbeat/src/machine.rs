//! The word about the machine: what becomes of it when its controller has said good-bye.
//!
//! A note on the door. Whoever decides here has no right to take a machine down, so it leaves one word in the runtime folder,
//! and the unit pollux-machine, which has that right and decides nothing, does what stands there and takes the note away.
//!
//! ```text
//!  asked for        word             then
//!  off, reboot      written whole    pollux-machine -> systemd -> gone with the job, or with the boot, which wipes the folder
//!  stay             none             whoever asked sees to the rest
//!  a life ends      forgotten        what nobody did in this life is not wanted in the next one
//! ```
//!
//! It must never be seen half-written, nor outlive the daemon that ends in good order: the next start of the units would take
//! the machine down for no reason.

use pollux_api::heartbeat::Machine;
use std::io;
use std::path::Path;

/// Its file, in the runtime folder.
pub const FILE: &str = "machine";

/// The word for what was asked for; none: the machine stays as it is.
#[must_use]
pub fn word(machine: Machine) -> Option<&'static str> {
    match machine {
        Machine::Off => Some("off"),
        Machine::Reboot => Some("reboot"),
        Machine::Stay => None,
    }
}

/// What counts when two have asked: the later one, but who wants nothing of the machine takes nothing back.
#[must_use]
pub fn both(before: Machine, asked: Machine) -> Machine {
    match asked {
        Machine::Stay => before,
        Machine::Off | Machine::Reboot => asked,
    }
}

/// Leaves a word, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn leave(run: &Path, word: &str) -> io::Result<()> {
    pollux_platform::file::replace(&run.join(FILE), format!("{word}\n").as_bytes(), 0o644)
}

/// Takes back a word that nobody has done.
///
/// # Errors
/// It is there and cannot be removed.
pub fn forget(run: &Path) -> io::Result<()> {
    match std::fs::remove_file(run.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_whole_beside_what_a_killed_writer_has_left_and_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        // As far as one came that was killed while it wrote: it is no word.
        let torn = dir.path().join(format!("{FILE}.{}.tmp", std::process::id()));
        std::fs::write(&torn, "of").unwrap();
        assert!(!path.exists());
        for machine in [Machine::Off, Machine::Reboot] {
            leave(dir.path(), word(machine).unwrap()).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(Some(text.trim_end()), word(machine));
            assert!(!torn.exists());
        }
        for _ in 0..2 {
            forget(dir.path()).unwrap();
            assert!(!path.exists());
        }
        assert_eq!(word(Machine::Stay), None);
        assert!(leave(&dir.path().join("absent"), "off").is_err());
    }

    #[test]
    fn who_wants_nothing_of_the_machine_takes_nothing_back() {
        use Machine::{Off, Reboot, Stay};
        for (before, asked, counts) in [
            (Stay, Off, Off),
            (Off, Stay, Off),
            (Off, Reboot, Reboot),
            (Reboot, Off, Off),
            (Stay, Stay, Stay),
        ] {
            assert_eq!(both(before, asked), counts, "{before:?}, then {asked:?}");
        }
    }
}
