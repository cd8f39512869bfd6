//! Letters to a disk: command descriptor blocks and parameter lists.
//!
//! Pure functions. Figures and fields are those of SPC-4 (r37) and SBC-3 (r36); each function names its clause.

use std::time::Duration;

/// How long a command without data of a host may take before the kernel gives it up and aborts it at the disk. Longer than
/// any of ours takes on a disk that is well, shorter than what waits behind it can bear.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Data of a command, and their direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None.
    None,
    /// From the disk, at most so many bytes.
    In(u32),
    /// To the disk.
    Out(Vec<u8>),
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    name: &'static str,
    cdb: Vec<u8>,
    data: Data,
}

impl Command {
    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its command descriptor block: 6, 10 or 16 bytes.
    #[must_use]
    pub fn cdb(&self) -> &[u8] {
        &self.cdb
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> &Data {
        &self.data
    }
}

/// Service actions of PERSISTENT RESERVE IN (SPC-4, table 214).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReserveIn {
    /// Registered keys.
    ReadKeys = 0,
    /// The reservation.
    ReadReservation = 1,
    /// What the disk can do.
    ReportCapabilities = 2,
    /// Keys and reservation with the nexus of each.
    ReadFullStatus = 3,
}

/// Service actions of PERSISTENT RESERVE OUT (SPC-4, table 227).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReserveOut {
    /// REGISTER.
    Register = 0,
    /// RESERVE.
    Reserve = 1,
    /// RELEASE.
    Release = 2,
    /// CLEAR.
    Clear = 3,
    /// PREEMPT.
    Preempt = 4,
    /// PREEMPT AND ABORT.
    PreemptAndAbort = 5,
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore = 6,
}

impl ReserveOut {
    fn name(self) -> &'static str {
        match self {
            ReserveOut::Register => "REGISTER",
            ReserveOut::Reserve => "RESERVE",
            ReserveOut::Release => "RELEASE",
            ReserveOut::Clear => "CLEAR",
            ReserveOut::Preempt => "PREEMPT",
            ReserveOut::PreemptAndAbort => "PREEMPT AND ABORT",
            ReserveOut::RegisterAndIgnore => "REGISTER AND IGNORE EXISTING KEY",
        }
    }
}

/// TEST UNIT READY (SPC-4, 6.47).
#[must_use]
pub fn test_unit_ready() -> Command {
    Command {
        name: "TEST UNIT READY",
        cdb: vec![0; 6],
        data: Data::None,
    }
}

/// INQUIRY of the standard data (SPC-4, 6.6).
#[must_use]
pub fn inquiry() -> Command {
    inquiry_page("INQUIRY", None)
}

/// INQUIRY of a vital product data page (SPC-4, 6.6 and 7.8).
#[must_use]
pub fn vital(page: u8) -> Command {
    inquiry_page("INQUIRY (vital product data)", Some(page))
}

/// Bytes of an answer to INQUIRY. Old firmware answers wrongly to an allocation length above 255.
const INQUIRY_BYTES: u8 = 252;

fn inquiry_page(name: &'static str, page: Option<u8>) -> Command {
    let evpd = u8::from(page.is_some());
    Command {
        name,
        cdb: vec![0x12, evpd, page.unwrap_or(0), 0, INQUIRY_BYTES, 0],
        data: Data::In(INQUIRY_BYTES.into()),
    }
}

/// READ CAPACITY(16) (SBC-3, 5.16).
#[must_use]
pub fn read_capacity() -> Command {
    const BYTES: u32 = 32;
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[1]) = (0x9e, 0x10);
    cdb[10..14].copy_from_slice(&BYTES.to_be_bytes());
    Command {
        name: "READ CAPACITY(16)",
        cdb,
        data: Data::In(BYTES),
    }
}

/// MODE SENSE(6) of the caching page, without block descriptors (SPC-4, 6.14; SBC-3, 6.5.5).
#[must_use]
pub fn mode_caching() -> Command {
    const BYTES: u8 = 192;
    Command {
        name: "MODE SENSE",
        cdb: vec![0x1a, 0x08, 0x08, 0, BYTES, 0],
        data: Data::In(BYTES.into()),
    }
}

/// SYNCHRONIZE CACHE(10) of the whole medium (SBC-3, 5.25).
#[must_use]
pub fn synchronize_cache() -> Command {
    let mut cdb = vec![0; 10];
    cdb[0] = 0x35;
    Command {
        name: "SYNCHRONIZE CACHE",
        cdb,
        data: Data::None,
    }
}

/// COMPARE AND WRITE (SBC-3, 5.3): `compare` and `data` are of one length, `blocks` blocks each.
#[must_use]
pub fn compare_and_write(lba: u64, blocks: u8, compare: &[u8], data: &[u8], fua: bool) -> Command {
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x89, u8::from(fua) << 3, blocks);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    Command {
        name: "COMPARE AND WRITE",
        cdb,
        data: Data::Out([compare, data].concat()),
    }
}

/// PERSISTENT RESERVE IN (SPC-4, 6.15) with an answer of at most `length` bytes.
#[must_use]
pub fn reserve_in(action: ReserveIn, length: u16) -> Command {
    let mut cdb = vec![0; 10];
    (cdb[0], cdb[1]) = (0x5e, action as u8);
    cdb[7..9].copy_from_slice(&length.to_be_bytes());
    Command {
        name: match action {
            ReserveIn::ReadKeys => "READ KEYS",
            ReserveIn::ReadReservation => "READ RESERVATION",
            ReserveIn::ReportCapabilities => "REPORT CAPABILITIES",
            ReserveIn::ReadFullStatus => "READ FULL STATUS",
        },
        cdb,
        data: Data::In(length.into()),
    }
}

/// PERSISTENT RESERVE OUT (SPC-4, 6.16) of the whole unit. `key` is the caller's, `argument` the service action's key (to
/// register, or the victim), `kind` the TYPE field (0 where there is none), `persist` asks the disk to keep registrations
/// through a loss of power (APTPL, of the registering actions only).
#[must_use]
pub fn reserve_out(action: ReserveOut, kind: u8, key: u64, argument: u64, persist: bool) -> Command {
    const BYTES: u32 = 24;
    let mut cdb = vec![0; 10];
    (cdb[0], cdb[1], cdb[2]) = (0x5f, action as u8, kind & 0xf);
    cdb[5..9].copy_from_slice(&BYTES.to_be_bytes());
    let mut list = vec![0; BYTES as usize];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&argument.to_be_bytes());
    list[20] = u8::from(persist);
    Command {
        name: action.name(),
        cdb,
        data: Data::Out(list),
    }
}
