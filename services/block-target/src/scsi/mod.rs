//! SCSI: what a command block says, what it is answered, and how it is carried out.
//!
//! Sources: SPC-4 (T10/1731-D), SBC-3 (T10/BSR INCITS 514), SAM-5. Everything but [`exec`] is a function of its
//! arguments.

pub mod access_state;
pub mod cdb;
pub mod exec;
pub mod inquiry;
pub mod kind;
pub mod mode;
pub mod opcodes;
pub mod provisioning;
pub mod report;
pub mod reservation;
pub mod sense;

/// Status byte of a command (SAM-5, 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// See the sense data.
    CheckCondition = 0x02,
    /// Later, please; nothing is wrong.
    Busy = 0x08,
    /// A reservation forbids it.
    ReservationConflict = 0x18,
    /// More commands than the target takes.
    TaskSetFull = 0x28,
    /// Another host has aborted it.
    TaskAborted = 0x40,
}

impl Status {
    /// From the status byte.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        [
            Self::Good,
            Self::CheckCondition,
            Self::Busy,
            Self::ReservationConflict,
            Self::TaskSetFull,
            Self::TaskAborted,
        ]
        .into_iter()
        .find(|status| *status as u64 == code)
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Status byte.
    pub status: Status,
    /// With CHECK CONDITION: why.
    pub sense: Option<sense::Sense>,
    /// Data for the host, already cut to the allocation length.
    pub data: bytes::Bytes,
}

impl Outcome {
    /// Done, nothing to say.
    #[must_use]
    pub fn good() -> Self {
        Self::data(bytes::Bytes::new())
    }

    /// Done, with data.
    #[must_use]
    pub fn data(data: impl Into<bytes::Bytes>) -> Self {
        Self {
            status: Status::Good,
            sense: None,
            data: data.into(),
        }
    }

    /// Refused with a bare status.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            data: bytes::Bytes::new(),
        }
    }
}

impl From<sense::Sense> for Outcome {
    fn from(sense: sense::Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            data: bytes::Bytes::new(),
        }
    }
}
