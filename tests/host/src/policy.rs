//! What the host does with a status: the rules of the Linux initiator, and no others.
//!
//! A test host that retries more than the real one hides faults of the array; one that retries
//! less invents them. The rules are those of the Linux SCSI midlayer (`scsi_decide_disposition`,
//! `scsi_check_sense`, `alua_check_sense`) under dm-multipath with `no_path_retry`:
//!
//! | status | verdict |
//! |---|---|
//! | GOOD | done |
//! | BUSY, TASK SET FULL | again on the same path after a short delay, for as long as the command may live |
//! | RESERVATION CONFLICT | the application's error, never retried |
//! | TASK ABORTED, ABORTED COMMAND, unit attention, NOT READY 04/01 and 04/0A (transitioning) | again on the same path, five times; then the path has failed |
//! | other NOT READY | the path has failed |
//! | MEDIUM ERROR, ILLEGAL REQUEST, DATA PROTECT, HARDWARE ERROR | the application's error, never retried |
//! | transport lost | the path has failed (`replacement_timeout = 0`: handed to multipath at once) |
//! | timed out and aborted | again on the same path, five times; then the path has failed |
//!
//! A command whose path has failed goes to another path, or waits for one up to `no_path_retry`.

use serde::{Deserialize, Serialize};

use crate::scsi::{
    ABORTED_COMMAND, DATA_PROTECT, HARDWARE_ERROR, ILLEGAL_REQUEST, MEDIUM_ERROR, NOT_READY, Sense, Status,
    UNIT_ATTENTION,
};
use crate::time::ms;

/// Settings of a host, under the names that Linux has for them. The defaults are those of the package `pollux-host`, but that
/// silence ends a session sooner (1 s and 1 s where the package has 2, 4 and 1), so that tests wait for the array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// SCSI command timeout (`/sys/block/*/device/timeout`), milliseconds.
    pub command_timeout_ms: u64,
    /// Answer to ABORT TASK (`node.session.err_timeo.abort_timeout`), milliseconds.
    pub abort_timeout_ms: u64,
    /// Silence after which the target is pinged (`noop_out_interval`), milliseconds.
    pub noop_interval_ms: u64,
    /// Silence after the ping that ends the session (`noop_out_timeout`), milliseconds.
    pub noop_timeout_ms: u64,
    /// How long a connection with login may take before it is tried again, milliseconds. Short,
    /// so that a SYN lost in an outage does not add its retransmission time to the pause.
    pub login_timeout_ms: u64,
    /// Wait between two attempts to connect, milliseconds.
    pub reconnect_ms: u64,
    /// How often each path is checked (`polling_interval`), milliseconds.
    pub checker_ms: u64,
    /// How often the port groups are asked for while one is transitioning, milliseconds.
    pub transition_poll_ms: u64,
    /// How long I/O waits when no path is left (`no_path_retry`), milliseconds.
    pub no_path_retry_ms: u64,
    /// Retries of a command on a path (the midlayer's five).
    pub retries: u32,
    /// Delay before a BUSY command goes out again, milliseconds.
    pub busy_delay_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            command_timeout_ms: 30_000,
            abort_timeout_ms: 15_000,
            noop_interval_ms: 1_000,
            noop_timeout_ms: 1_000,
            login_timeout_ms: 400,
            reconnect_ms: 50,
            checker_ms: 1_000,
            transition_poll_ms: 100,
            no_path_retry_ms: 60_000,
            retries: 5,
            busy_delay_ms: 20,
        }
    }
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// The same path, after a delay in nanoseconds.
    Again {
        /// Delay in nanoseconds.
        delay_ns: u64,
        /// Whether it counts against the retries.
        counted: bool,
    },
    /// The path has failed; another one may do.
    FailPath,
    /// The application gets the error.
    FailIo,
}

/// The rule for one status of a command that has been retried `retried` times on this path.
pub fn decide(status: Status, retried: u32, settings: &Settings) -> Verdict {
    let again = || {
        if retried < settings.retries {
            Verdict::Again {
                delay_ns: 0,
                counted: true,
            }
        } else {
            Verdict::FailPath
        }
    };
    match status {
        Status::Good => Verdict::Done,
        Status::Busy | Status::TaskSetFull => Verdict::Again {
            delay_ns: ms(settings.busy_delay_ms),
            counted: false,
        },
        Status::ReservationConflict => Verdict::FailIo,
        Status::TaskAborted | Status::TimedOut => again(),
        Status::TransportLost | Status::Other(_) => Verdict::FailPath,
        Status::CheckCondition(Sense { key, asc, ascq }) => match key {
            UNIT_ATTENTION | ABORTED_COMMAND => again(),
            NOT_READY if asc == 0x04 && (ascq == 0x01 || ascq == 0x0a) => again(),
            NOT_READY => Verdict::FailPath,
            MEDIUM_ERROR | HARDWARE_ERROR | ILLEGAL_REQUEST | DATA_PROTECT => Verdict::FailIo,
            0 | 1 => Verdict::Done,
            _ => Verdict::FailIo,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: u8, asc: u8, ascq: u8) -> Status {
        Status::CheckCondition(Sense { key, asc, ascq })
    }

    #[test]
    fn the_table_of_the_linux_initiator() {
        let settings = Settings::default();
        let again = Verdict::Again {
            delay_ns: 0,
            counted: true,
        };
        let busy = Verdict::Again {
            delay_ns: ms(20),
            counted: false,
        };
        let rows = [
            (Status::Good, Verdict::Done, Verdict::Done),
            (Status::Busy, busy, busy),
            (Status::TaskSetFull, busy, busy),
            (Status::ReservationConflict, Verdict::FailIo, Verdict::FailIo),
            (Status::TaskAborted, again, Verdict::FailPath),
            (Status::TimedOut, again, Verdict::FailPath),
            (Status::TransportLost, Verdict::FailPath, Verdict::FailPath),
            (Status::Other(0x30), Verdict::FailPath, Verdict::FailPath),
            (check(6, 0x2a, 0x06), again, Verdict::FailPath),
            (check(6, 0x29, 0x00), again, Verdict::FailPath),
            (check(2, 0x04, 0x0a), again, Verdict::FailPath),
            (check(2, 0x04, 0x0b), Verdict::FailPath, Verdict::FailPath),
            (check(2, 0x04, 0x0c), Verdict::FailPath, Verdict::FailPath),
            (check(3, 0x11, 0x00), Verdict::FailIo, Verdict::FailIo),
            (check(5, 0x25, 0x00), Verdict::FailIo, Verdict::FailIo),
            (check(7, 0x27, 0x00), Verdict::FailIo, Verdict::FailIo),
            (check(0xb, 0x44, 0x00), again, Verdict::FailPath),
            (check(0xe, 0x1d, 0x00), Verdict::FailIo, Verdict::FailIo),
        ];
        for (status, first, sixth) in rows {
            assert_eq!(decide(status, 0, &settings), first, "{status}, first time");
            assert_eq!(
                decide(status, settings.retries, &settings),
                sixth,
                "{status}, out of retries"
            );
        }
    }
}
