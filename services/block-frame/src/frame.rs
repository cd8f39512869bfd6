//! The frame: 72 bytes of header, little-endian, then the payload.
//!
//! ```text
//!  0 u32 magic "PBF1"      4 u8 opcode      5 u8 flags      6 u16 status (replies; 0 in requests)
//!  8 u64 tag              16 u64 lba       24 u32 blocks   28 u32 payload length
//! 32 u64 key              40 u64 arg       48 [16] volume (zero: the endpoint itself)
//! 64 u32 CRC32C of the payload             68 u32 CRC32C of bytes 0..68
//! ```
//!
//! One layout serves requests and replies: a reply repeats opcode and tag, sets [`Flags::REPLY`] and a status.

use crate::hello::Versions;
use bitflags::bitflags;
use thiserror::Error;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 72;
/// Largest payload in bytes. A host's largest transfer (MAXIMUM TRANSFER LENGTH of VPD page b0) stays below it, and
/// compare-and-write carries two images.
pub const MAX_PAYLOAD: u32 = 8 * 1024 * 1024;

const MAGIC: u32 = u32::from_le_bytes(*b"PBF1");

/// What a frame asks for or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Opcode {
    /// First frame of a session, both ways.
    Hello = 0x01,
    /// Proof of the pairing key by the initiator, and its acceptance.
    Auth = 0x02,
    /// Identity and geometry of the endpoint or volume.
    Info = 0x10,
    /// Read blocks.
    Read = 0x11,
    /// Write blocks.
    Write = 0x12,
    /// Make every completed write durable.
    Flush = 0x13,
    /// Deallocate blocks; they read as zeros afterwards.
    Unmap = 0x14,
    /// Compare blocks, and write others if they are equal, atomically.
    CompareAndWrite = 0x15,
    /// Which of a range of blocks are mapped.
    LbaStatus = 0x16,
    /// PERSISTENT RESERVE OUT.
    ReservationOut = 0x20,
    /// PERSISTENT RESERVE IN, READ FULL STATUS: generation, keys and reservation in one consistent answer.
    ReservationIn = 0x21,
    /// A host's command for the owner of the volume: to carry out (reservations) or to let pass (all others).
    Scsi = 0x30,
    /// Read the record of hosts' reservations that stands with a volume.
    RecordLoad = 0x31,
    /// Replace it, durably.
    RecordStore = 0x32,
}

impl Opcode {
    fn from_u8(value: u8) -> Option<Self> {
        use Opcode::*;
        [
            Hello,
            Auth,
            Info,
            Read,
            Write,
            Flush,
            Unmap,
            CompareAndWrite,
            LbaStatus,
            ReservationOut,
            ReservationIn,
            Scsi,
            RecordLoad,
            RecordStore,
        ]
        .into_iter()
        .find(|op| *op as u8 == value)
    }
}

bitflags! {
    /// Modifiers of a frame.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Flags: u8 {
        /// The frame is an answer.
        const REPLY = 1 << 0;
        /// Force unit access: durable before it is answered.
        const FUA = 1 << 1;
        /// The payload begins with the nexus of the host for which it is done.
        const NEXUS = 1 << 2;
        /// The host's command begins with it: a unit attention of the nexus is due now.
        const BEGINS = 1 << 3;
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Another initiator port holds a reservation that forbids it. Nothing was done.
    ReservationConflict = 1,
    /// The medium failed. A write may have been done in part.
    MediumError = 2,
    /// The medium is write-protected. Nothing was done.
    WriteProtected = 3,
    /// The endpoint exists but cannot work now (no power, not imported yet). Nothing was done.
    NotReady = 4,
    /// Aborted by a preempt, or by a newer session of the same initiator. Nothing was or will be done.
    Aborted = 5,
    /// The range lies beyond the last block. Nothing was done.
    OutOfRange = 6,
    /// The request contradicts itself or the endpoint's geometry. Nothing was done.
    BadRequest = 7,
    /// The path from this port to the medium is lost. Whether a write was done is unknown.
    NoPath = 8,
    /// Compare-and-write found other data; the reply's detail is the offset in bytes of the first difference.
    Miscompare = 9,
    /// The endpoint is out of memory, registrations or queue. Nothing was done.
    NoResources = 10,
    /// No such volume here. Nothing was done.
    UnknownVolume = 11,
    /// This controller does not own the volume's pool (now, or under the generation of the session). Nothing was done.
    NotOwner = 12,
    /// The commands of the volume are held (flip, suspended pool, lease run out) and the hold has reached its bound;
    /// whether a write was done is unknown, and it is safe to send it again.
    Held = 13,
    /// A SCSI status with sense data: detail is the status byte, the payload is the sense data.
    Scsi = 14,
    /// The session is not permitted: wrong pairing key, or a proof is missing.
    Unauthorized = 15,
    /// The other end belongs to another array.
    WrongArray = 16,
    /// The two ends speak no common version; the reply's detail is those that the target speaks: the newest in its lower
    /// 16 bits, the oldest in the next 16 (0: only that one).
    VersionMismatch = 17,
    /// The endpoint does not know this opcode or this variant of it. Nothing was done.
    Unsupported = 18,
}

impl Status {
    fn from_u16(value: u16) -> Option<Self> {
        use Status::*;
        [
            Ok,
            ReservationConflict,
            MediumError,
            WriteProtected,
            NotReady,
            Aborted,
            OutOfRange,
            BadRequest,
            NoPath,
            Miscompare,
            NoResources,
            UnknownVolume,
            NotOwner,
            Held,
            Scsi,
            Unauthorized,
            WrongArray,
            VersionMismatch,
            Unsupported,
        ]
        .into_iter()
        .find(|status| *status as u16 == value)
    }

    /// In words, for messages.
    pub fn text(self) -> &'static str {
        match self {
            Status::Ok => "done",
            Status::ReservationConflict => "reservation conflict",
            Status::MediumError => "medium error",
            Status::WriteProtected => "write-protected",
            Status::NotReady => "not ready",
            Status::Aborted => "aborted",
            Status::OutOfRange => "beyond the last block",
            Status::BadRequest => "bad request",
            Status::NoPath => "path lost",
            Status::Miscompare => "miscompare",
            Status::NoResources => "out of resources",
            Status::UnknownVolume => "unknown volume",
            Status::NotOwner => "not the owner",
            Status::Held => "held",
            Status::Scsi => "SCSI status with sense data",
            Status::Unauthorized => "not authorized (pairing key)",
            Status::WrongArray => "belongs to another array",
            Status::VersionMismatch => "no common protocol version",
            Status::Unsupported => "unsupported",
        }
    }
}

/// Why a frame cannot be trusted. The session that sent it is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Not a block frame at all.
    #[error("bad magic {found:#010x} (a block frame begins with {MAGIC:#010x})")]
    Magic {
        /// What stood there.
        found: u32,
    },
    /// The header is damaged.
    #[error("header checksum {found:#010x} does not match its bytes ({computed:#010x})")]
    HeaderChecksum {
        /// As received.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The payload is damaged.
    #[error("payload checksum {found:#010x} does not match its bytes ({computed:#010x})")]
    PayloadChecksum {
        /// As received.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The payload is longer than the protocol permits.
    #[error("payload of {length} bytes (at most {limit})")]
    TooLong {
        /// As announced.
        length: u32,
        /// What is permitted at this point of the session.
        limit: u32,
    },
    /// An opcode, status or flag that this version does not know.
    #[error("unknown {field} {value:#x}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// No version is spoken by both ends.
    #[error("the initiator speaks {theirs}, this end {ours}")]
    Versions {
        /// Those of the other end.
        theirs: Versions,
        /// Those of this one.
        ours: Versions,
    },
    /// A well-formed frame whose contents make no sense.
    #[error("{opcode:?}: {what}")]
    Malformed {
        /// Of which frame.
        opcode: Opcode,
        /// What is wrong and what would be right.
        what: &'static str,
    },
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked or answered.
    pub opcode: Opcode,
    pub(crate) flags: Flags,
    /// How it ended (replies).
    pub status: Status,
    /// Pairs an answer with its request.
    pub tag: u64,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks.
    pub blocks: u32,
    /// Length of the payload that follows, bytes.
    pub payload_len: u32,
    /// Reservation key of the caller. From version 2 on: in replies the target's clock, us, and in a host's request by when
    /// on that clock it may be begun.
    pub key: u64,
    /// Depends on the opcode.
    pub arg: u64,
    /// Which volume; zero for the endpoint itself.
    pub volume: [u8; 16],
    /// CRC32C of the payload.
    pub payload_crc: u32,
}

impl Header {
    pub(crate) fn new(opcode: Opcode, tag: u64) -> Self {
        Header {
            opcode,
            flags: Flags::empty(),
            status: Status::Ok,
            tag,
            lba: 0,
            blocks: 0,
            payload_len: 0,
            key: 0,
            arg: 0,
            volume: [0; 16],
            payload_crc: 0,
        }
    }

    /// Sets length and checksum of the payload.
    pub(crate) fn covering(mut self, payload: &[u8]) -> Self {
        self.payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.payload_crc = crc32c::crc32c(payload);
        self
    }

    /// The frame answers a request.
    pub fn is_reply(&self) -> bool {
        self.flags.contains(Flags::REPLY)
    }

    /// As bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.opcode as u8;
        out[5] = self.flags.bits();
        out[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        out[8..16].copy_from_slice(&self.tag.to_le_bytes());
        out[16..24].copy_from_slice(&self.lba.to_le_bytes());
        out[24..28].copy_from_slice(&self.blocks.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_len.to_le_bytes());
        out[32..40].copy_from_slice(&self.key.to_le_bytes());
        out[40..48].copy_from_slice(&self.arg.to_le_bytes());
        out[48..64].copy_from_slice(&self.volume);
        out[64..68].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..68]);
        out[68..72].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From bytes on the wire; every length is checked here, before anything is allocated.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_le_bytes(field(bytes, at));
        let u32_at = |at: usize| u32::from_le_bytes(field(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(field(bytes, at));
        if u32_at(0) != MAGIC {
            return Err(FrameError::Magic { found: u32_at(0) });
        }
        let computed = crc32c::crc32c(&bytes[..68]);
        if u32_at(68) != computed {
            return Err(FrameError::HeaderChecksum {
                found: u32_at(68),
                computed,
            });
        }
        let unknown = |field, value| FrameError::Unknown { field, value };
        let header = Header {
            opcode: Opcode::from_u8(bytes[4]).ok_or_else(|| unknown("opcode", bytes[4].into()))?,
            flags: Flags::from_bits(bytes[5]).ok_or_else(|| unknown("flags", bytes[5].into()))?,
            status: Status::from_u16(u16_at(6)).ok_or_else(|| unknown("status", u16_at(6).into()))?,
            tag: u64_at(8),
            lba: u64_at(16),
            blocks: u32_at(24),
            payload_len: u32_at(28),
            key: u64_at(32),
            arg: u64_at(40),
            volume: field(bytes, 48),
            payload_crc: u32_at(64),
        };
        if header.payload_len > MAX_PAYLOAD {
            return Err(FrameError::TooLong {
                length: header.payload_len,
                limit: MAX_PAYLOAD,
            });
        }
        Ok(header)
    }

    pub(crate) fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        let computed = crc32c::crc32c(payload);
        if computed != self.payload_crc {
            return Err(FrameError::PayloadChecksum {
                found: self.payload_crc,
                computed,
            });
        }
        Ok(())
    }
}

/// `N` bytes at `at`; the caller names offsets inside a fixed-size header.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
