//! What a unit is to hosts: a volume of the array, or one plain disk with two ports.
//!
//! The same commands, carried out by the same code; what differs is what such a unit says of itself, and the commands
//! that it has:
//!
//! | | volume | disk |
//! |---|---|---|
//! | write cache (WCE, SPC-4 page 08h) | where the operator switches it on | always: FUA and SYNCHRONIZE CACHE count |
//! | asymmetric access (TPGS; REPORT TARGET PORT GROUPS) | implicit | none: both ports are alike |
//! | space (LBPME; page B2h; UNMAP, GET LBA STATUS) | thick or thin | none of it: every block has its place |
//! | RESERVE(6), RELEASE(6), REGISTER AND MOVE | yes | no |
//! | a command that is stuck | ends with BUSY at the bound of a hold | waits for as long as the host does |

use super::cdb::Command;
use super::opcodes::Opcode;
use super::sense::Sense;
use std::time::Duration;

/// No host waits for one command as long as this.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a unit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A volume of the array, seen by both controllers.
    #[default]
    Volume,
    /// A disk with two ports.
    Disk,
}

impl Kind {
    /// PRODUCT IDENTIFICATION.
    #[must_use]
    pub fn product(self) -> &'static [u8; 16] {
        match self {
            Self::Volume => b"VOLUME          ",
            Self::Disk => b"DISK            ",
        }
    }

    /// What was written may be lost with the power until it is flushed, whatever the operator says.
    #[must_use]
    pub fn has_cache(self) -> bool {
        self == Self::Disk
    }

    /// Its ports have states that are told.
    #[must_use]
    pub fn is_asymmetric(self) -> bool {
        self == Self::Volume
    }

    /// It tells how its blocks get their space, and takes it back.
    #[must_use]
    pub fn is_provisioned(self) -> bool {
        self == Self::Volume
    }

    /// How long a command may take in place of the bound of a hold.
    #[must_use]
    pub fn patience(self) -> Option<Duration> {
        (self == Self::Disk).then_some(PATIENCE)
    }

    /// Whether such a unit has this command.
    #[must_use]
    pub fn has(self, op: &Opcode) -> bool {
        let of_volumes = matches!(
            (op.code, op.action),
            (0x16 | 0x17 | 0x42, None) | (0x5f, Some(0x07)) | (0x9e, Some(0x12)) | (0xa3, Some(0x0a))
        );
        self == Self::Volume || !of_volumes
    }

    /// Why a command is not for such a unit.
    #[must_use]
    pub fn refusal(self, command: &Command) -> Option<Sense> {
        if self == Self::Volume {
            return None;
        }
        match command {
            Command::Reserve6 | Command::Release6 | Command::Unmap { .. } => Some(Sense::INVALID_OPCODE),
            Command::GetLbaStatus { .. }
            | Command::ReportTargetPortGroups { .. }
            | Command::WriteSame { unmap: true, .. } => Some(Sense::invalid_field(1)),
            Command::PersistentReserveOut(parameters) if parameters.action == 0x07 => {
                Some(Sense::invalid_field(1))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::opcodes;

    #[test]
    fn what_a_disk_does_not_report_it_refuses_and_the_other_way_round() {
        let mut refused = 0;
        for op in opcodes::TABLE {
            let mut cdb = [0; 16];
            cdb[0] = op.code;
            cdb[1] = op.action.unwrap_or(0) as u8;
            cdb[4] = u8::from(op.code == 0x1b);
            let command = Command::decode(&cdb).expect("a command of the table");
            assert_eq!(Kind::Volume.refusal(&command), None);
            assert!(Kind::Volume.has(op));
            let has = Kind::Disk.refusal(&command).is_none();
            assert_eq!(Kind::Disk.has(op), has, "{:#04x} {:?}", op.code, op.action);
            refused += usize::from(!has);
        }
        assert_eq!(refused, 6);
    }
}
