//! What a port answers in each asymmetric access state (SPC-4, 5.15.2.4 and 5.15.2.5; SPC-5, 5.16.2).
//!
//! | state | code | what passes | everything else |
//! |---|---|---|---|
//! | active/optimized, active/non-optimized | 0h, 1h | everything | |
//! | standby | 2h | [`ALWAYS`](Passes::Always) and [`InStandby`](Passes::InStandby) | NOT READY, 04/0B |
//! | unavailable | 3h | [`ALWAYS`](Passes::Always) | NOT READY, 04/0C |
//! | transitioning | Fh | [`ALWAYS`](Passes::Always) | is held |
//!
//! The lists of the standard name commands "that it supports while in the active/optimized state": of those for standby
//! this target has INQUIRY, REPORT LUNS, REPORT TARGET PORT GROUPS, REQUEST SENSE, MODE SENSE and PERSISTENT RESERVE IN
//! and OUT; it has no LOG SENSE, LOG SELECT, MODE SELECT, diagnostics, and no echo buffers. REPORT SUPPORTED OPERATION CODES
//! is not on the lists, and "may" be supported: it says nothing of the medium.
//!
//! READ CAPACITY is served in every state, too: both ports know the size from the configuration. Whoever logs in anew has
//! Linux read the size of every disk of the session (open-iscsi does after each login), and `sd` takes a disk that does not
//! tell for one of no blocks, until somebody has it look again: each command "beyond the end of the device" is an error, on a
//! path that is up. Seen where a controller that starts was logged in to before it had its pools.
//!
//! *Transitioning* is to commands one indivisible event (5.15.2.5, first case): they wait for it, and whom the bound of a
//! hold ends is answered BUSY, which that case permits as well as 04/0A. Linux retries 04/0A five times and then fails
//! what an application asked for. Whoever polls with REQUEST SENSE hears 04/0A at once.
//!
//! In *unavailable* the peripheral qualifier of INQUIRY data is 001b (5.15.2.4.5): the unit is known, and not connected to
//! this port.

use super::cdb::Command;
use super::sense::Sense;
use pollux_api::target::Access;

/// Supported states of a group in REPORT TARGET PORT GROUPS (SPC-4, 6.37, table of the descriptor): T_SUP, U_SUP, S_SUP,
/// AN_SUP, AO_SUP; not O_SUP (offline), not LBD_SUP (depends on the LBA).
///
/// Every state that this target reports and follows when it is told. The array of today never asks for standby, because
/// the partner of an owner serves by forwarding; a host that sees S_SUP and never the state loses nothing.
pub const SUPPORTED: u8 = 0x80 | 0x08 | 0x04 | 0x02 | 0x01;

/// Peripheral qualifier 001b, at its place in the first byte of INQUIRY data.
pub const NOT_CONNECTED: u8 = 0x20;

/// ASYMMETRIC ACCESS STATE.
#[must_use]
pub const fn code(access: Access) -> u8 {
    match access {
        Access::Optimized => 0x0,
        Access::NonOptimized => 0x1,
        Access::Standby => 0x2,
        Access::Unavailable => 0x3,
        Access::Transitioning => 0xf,
    }
}

/// In which states a command is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// In every state.
    Always,
    /// In standby, too.
    InStandby,
    /// In the active states only.
    Active,
}

/// The class of a command.
#[must_use]
pub const fn passes(command: &Command) -> Passes {
    match command {
        Command::Inquiry { .. }
        | Command::ReportLuns { .. }
        | Command::RequestSense { .. }
        | Command::ReportTargetPortGroups { .. }
        | Command::ReportSupportedOpcodes { .. }
        | Command::ReadCapacity10
        | Command::ReadCapacity16 { .. } => Passes::Always,
        Command::ModeSense { .. }
        | Command::PersistentReserveIn { .. }
        | Command::PersistentReserveOut(_) => Passes::InStandby,
        Command::TestUnitReady
        | Command::StartUnit
        | Command::GetLbaStatus { .. }
        | Command::Read { .. }
        | Command::Write { .. }
        | Command::Verify { .. }
        | Command::SynchronizeCache { .. }
        | Command::Unmap { .. }
        | Command::WriteSame { .. }
        | Command::OrWrite { .. }
        | Command::Prefetch { .. }
        | Command::CompareAndWrite { .. }
        | Command::Reserve6
        | Command::Release6 => Passes::Active,
    }
}

/// Why a command is not served by a port in this state; `None`: it is, now or when the transition is over.
#[must_use]
pub const fn refusal(access: Access, command: &Command) -> Option<Sense> {
    match (access, passes(command)) {
        (Access::Optimized | Access::NonOptimized | Access::Transitioning, _)
        | (_, Passes::Always)
        | (Access::Standby, Passes::InStandby) => None,
        (Access::Standby, Passes::Active) => Some(Sense::PORT_STANDBY),
        (Access::Unavailable, Passes::InStandby | Passes::Active) => Some(Sense::PORT_UNAVAILABLE),
    }
}

/// What REQUEST SENSE says of the state, when nothing else is to be said.
#[must_use]
pub const fn polled(access: Access) -> Sense {
    match access {
        Access::Optimized | Access::NonOptimized => Sense::NONE,
        Access::Standby => Sense::PORT_STANDBY,
        Access::Unavailable => Sense::PORT_UNAVAILABLE,
        Access::Transitioning => Sense::PORT_TRANSITION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::opcodes;

    const STATES: [Access; 5] = [
        Access::Optimized,
        Access::NonOptimized,
        Access::Standby,
        Access::Unavailable,
        Access::Transitioning,
    ];

    #[test]
    fn every_command_of_the_table_has_its_answer_in_every_state() {
        for op in opcodes::TABLE {
            let mut cdb = [0; 16];
            cdb[0] = op.code;
            cdb[1] = op.action.unwrap_or(0) as u8;
            cdb[4] = u8::from(op.code == 0x1b);
            let command = Command::decode(&cdb).expect("a command of the table");
            // The lists of the standard, by operation code.
            let capacity = matches!((op.code, op.action), (0x25, _) | (0x9e, Some(0x10)));
            let always = capacity || matches!(op.code, 0x03 | 0x12 | 0xa0 | 0xa3);
            let standby = always || matches!(op.code, 0x1a | 0x5a | 0x5e | 0x5f);
            for access in STATES {
                let expected = match access {
                    Access::Standby if !standby => Some((0x2, 0x040b)),
                    Access::Unavailable if !always => Some((0x2, 0x040c)),
                    _ => None,
                };
                let found = refusal(access, &command).map(|sense| (sense.key(), sense.code()));
                assert_eq!(found, expected, "{:#04x} in {access:?}", op.code);
            }
        }
    }

    #[test]
    fn each_state_has_its_code_and_its_bit() {
        // Bits of the descriptor by the state's code.
        for (access, bit) in STATES.into_iter().zip([0x01, 0x02, 0x04, 0x08, 0x80]) {
            assert_eq!(SUPPORTED & bit, bit, "{access:?}");
            let polled = polled(access);
            let active = matches!(access, Access::Optimized | Access::NonOptimized);
            assert_eq!(polled == Sense::NONE, active);
            assert_eq!(polled.key(), if active { 0 } else { 2 });
        }
        assert_eq!(STATES.map(code), [0x0, 0x1, 0x2, 0x3, 0xf]);
        assert_eq!(SUPPORTED & 0x60, 0, "neither offline nor reserved");
        assert_eq!(SUPPORTED & 0x10, 0, "nor dependent on the LBA");
    }
}
