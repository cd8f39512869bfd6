//! Requests and replies as types, and their mapping on to frames.

use crate::frame::{Flags, FrameError, Header, MAX_PAYLOAD, Opcode, Status, field};
use crate::hello::Port;
use bytes::Bytes;
use core::fmt;
use std::sync::Arc;
use tokio::time::Instant;
use uuid::Uuid;

/// A reservation key as the disk sees it. Zero is "no key".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key(pub u64);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// Type of a persistent reservation (SPC-4, PERSISTENT RESERVE, TYPE field).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReservationType {
    /// Only the holder writes; everybody reads.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Registered ports write; everybody reads. What fences a pool.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registered ports read and write.
    ExclusiveAccessRegistrantsOnly = 6,
}

impl ReservationType {
    /// From the TYPE field.
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::WriteExclusive),
            3 => Some(Self::ExclusiveAccess),
            5 => Some(Self::WriteExclusiveRegistrantsOnly),
            6 => Some(Self::ExclusiveAccessRegistrantsOnly),
            _ => None,
        }
    }
}

/// A held reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// Key of the holder.
    pub key: Key,
    /// The initiator port that holds it.
    pub port: Port,
    /// Its type.
    pub kind: ReservationType,
}

/// A registered initiator port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registrant {
    /// The port.
    pub port: Port,
    /// Its key.
    pub key: Key,
}

/// Everything that a disk knows about reservations, at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FullStatus {
    /// PRgeneration: grows with each register, clear and preempt.
    pub generation: u32,
    /// Registered ports.
    pub registrants: Vec<Registrant>,
    /// The reservation, if any.
    pub reservation: Option<Reservation>,
}

/// PERSISTENT RESERVE OUT. The caller's key is the key of the I_T nexus unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservationOut {
    /// REGISTER: replaces `current` (zero: none yet) by `new` (zero: unregister).
    Register {
        /// The key that must be registered now.
        current: Key,
        /// The key to register.
        new: Key,
    },
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore {
        /// The key to register; zero unregisters.
        new: Key,
    },
    /// RESERVE.
    Reserve {
        /// The caller's key.
        key: Key,
        /// Type of the reservation.
        kind: ReservationType,
    },
    /// RELEASE.
    Release {
        /// The caller's key.
        key: Key,
        /// Type of the reservation.
        kind: ReservationType,
    },
    /// CLEAR: removes the reservation and every registration.
    Clear {
        /// The caller's key.
        key: Key,
    },
    /// PREEMPT, or PREEMPT AND ABORT: removes the registrations with `victim`, takes over its reservation, and (with
    /// `abort`) ends the victim's commands before it is answered.
    Preempt {
        /// The caller's key.
        key: Key,
        /// The key to remove.
        victim: Key,
        /// Type of the reservation.
        kind: ReservationType,
        /// Abort the victim's commands.
        abort: bool,
    },
}

/// An I_T nexus of a host: which initiator port speaks through which target port (SAM-5, 4.6; for iSCSI the initiator
/// port is the name with the ISID, RFC 7143, 4.4.1). It outlives sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nexus {
    /// iSCSI name of the initiator, 1 to [`INITIATOR_NAME_MAX`] bytes.
    pub initiator: String,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// Relative target port identifier: 1 is controller a's port, 2 is controller b's.
    pub port: u16,
}

/// Longest iSCSI name, bytes (RFC 7143, 4.2.7.2).
pub const INITIATOR_NAME_MAX: usize = 223;
/// Port, length, reserve and ISID before the name.
const NEXUS_HEAD: usize = 10;

impl Nexus {
    fn put(&self, out: &mut Vec<u8>) {
        let name = &self.initiator.as_bytes()[..self.initiator.len().min(INITIATOR_NAME_MAX)];
        out.extend_from_slice(&self.port.to_le_bytes());
        out.extend_from_slice(&[name.len() as u8, 0]);
        out.extend_from_slice(&self.isid);
        out.extend_from_slice(name);
    }

    fn take(bytes: &mut Bytes) -> Option<Self> {
        if bytes.len() < NEXUS_HEAD {
            return None;
        }
        let head = bytes.split_to(NEXUS_HEAD);
        let length = usize::from(head[2]);
        let sound = (1..=INITIATOR_NAME_MAX).contains(&length) && head[3] == 0 && length <= bytes.len();
        let name = sound.then(|| bytes.split_to(length))?;
        Some(Nexus {
            initiator: std::str::from_utf8(&name).ok()?.to_owned(),
            isid: field(&head, 4),
            port: u16::from_le_bytes(field(&head, 0)),
        })
    }
}

/// For whom a request is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behalf {
    /// The host's nexus.
    pub nexus: Arc<Nexus>,
    /// The host's command begins with this request: it may end with a unit attention.
    pub begins: bool,
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Identity and geometry.
    Info,
    /// Read `blocks` logical blocks.
    Read {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// Write; the length of `data` is a multiple of the logical block size.
    Write {
        /// First block.
        lba: u64,
        /// The data.
        data: Bytes,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Make every completed write durable.
    Flush,
    /// Deallocate; the blocks read as zeros afterwards.
    Unmap {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// If the blocks equal `compare`, write `data`; atomic for every initiator. Both have the same length.
    CompareAndWrite {
        /// First block.
        lba: u64,
        /// What must stand there.
        compare: Bytes,
        /// What will stand there.
        data: Bytes,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Which blocks of a range are mapped; answered with [`LbaRun`]s, which may end before the range does.
    LbaStatus {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// PERSISTENT RESERVE OUT.
    ReservationOut(ReservationOut),
    /// PERSISTENT RESERVE IN, full status.
    ReservationIn,
    /// A host's command, for the owner to answer: one that concerns the hosts' reservations is carried out, any other is
    /// only checked against them. Answered with data, or with [`Status::Scsi`].
    Scsi {
        /// Command descriptor block.
        cdb: [u8; 16],
        /// Names the command for all times: sent again it is not done again.
        id: Uuid,
        /// Parameter list.
        data: Bytes,
    },
    /// The record of hosts' reservations of a volume, as it was last stored; empty: it never was.
    RecordLoad,
    /// Replaces that record: afterwards the old or the new one stands, whatever happens; the new one once answered.
    RecordStore {
        /// The record.
        record: Bytes,
    },
}

impl Operation {
    /// The opcode that carries it.
    pub fn opcode(&self) -> Opcode {
        match self {
            Operation::Info => Opcode::Info,
            Operation::Read { .. } => Opcode::Read,
            Operation::Write { .. } => Opcode::Write,
            Operation::Flush => Opcode::Flush,
            Operation::Unmap { .. } => Opcode::Unmap,
            Operation::CompareAndWrite { .. } => Opcode::CompareAndWrite,
            Operation::LbaStatus { .. } => Opcode::LbaStatus,
            Operation::ReservationOut(_) => Opcode::ReservationOut,
            Operation::ReservationIn => Opcode::ReservationIn,
            Operation::Scsi { .. } => Opcode::Scsi,
            Operation::RecordLoad => Opcode::RecordLoad,
            Operation::RecordStore { .. } => Opcode::RecordStore,
        }
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which volume; nil for the endpoint itself.
    pub volume: Uuid,
    /// For whom, where a host stands behind it.
    pub behalf: Option<Behalf>,
    /// What is asked.
    pub operation: Operation,
    /// It must not be begun after this: who asks has told the host then that it was given up.
    pub begin_by: Option<Instant>,
}

impl Request {
    /// A command for the endpoint itself.
    pub fn new(operation: Operation) -> Self {
        Request::for_volume(Uuid::nil(), operation)
    }

    /// A command for one volume.
    pub fn for_volume(volume: Uuid, operation: Operation) -> Self {
        Request {
            volume,
            behalf: None,
            operation,
            begin_by: None,
        }
    }

    /// The same, with the moment after which it must not be begun. It is told to targets of version 2, for a host's
    /// commands; see [`Client::tells_when_to_begin`](crate::Client::tells_when_to_begin).
    #[must_use]
    pub fn begin_by(self, begin_by: Instant) -> Self {
        Request {
            begin_by: Some(begin_by),
            ..self
        }
    }

    /// It has room for that.
    pub(crate) fn names_a_moment(header: &Header) -> bool {
        header.flags.contains(Flags::NEXUS) && header.opcode != Opcode::ReservationOut
    }

    /// The same on behalf of a host.
    pub fn on_behalf(self, behalf: Option<Behalf>) -> Self {
        Request { behalf, ..self }
    }

    /// As a frame: header and payload.
    pub fn into_frame(self, tag: u64) -> (Header, Bytes) {
        let mut header = Header::new(self.operation.opcode(), tag);
        header.volume = *self.volume.as_bytes();
        let mut payload = Bytes::new();
        match self.operation {
            Operation::Info | Operation::Flush | Operation::ReservationIn | Operation::RecordLoad => {}
            Operation::Scsi { cdb, id, data } => {
                payload = [&cdb[..], id.as_bytes(), &data].concat().into();
            }
            Operation::RecordStore { record } => payload = record,
            Operation::Read { lba, blocks }
            | Operation::Unmap { lba, blocks }
            | Operation::LbaStatus { lba, blocks } => {
                (header.lba, header.blocks) = (lba, blocks);
            }
            Operation::Write { lba, data, fua } => {
                header.lba = lba;
                header.flags.set(Flags::FUA, fua);
                payload = data;
            }
            Operation::CompareAndWrite {
                lba,
                compare,
                data,
                fua,
            } => {
                header.lba = lba;
                header.flags.set(Flags::FUA, fua);
                // `arg` is where the second image begins; a request that mixes lengths is refused by the decoder.
                header.arg = compare.len() as u64;
                payload = [compare, data].concat().into();
            }
            Operation::ReservationOut(out) => {
                // The service action of SPC-4 in the low byte of `blocks`, the type in the next one.
                let (action, kind) = match out {
                    ReservationOut::Register { current, new } => {
                        (header.key, header.arg) = (current.0, new.0);
                        (0, 0)
                    }
                    ReservationOut::Reserve { key, kind } => {
                        header.key = key.0;
                        (1, kind as u32)
                    }
                    ReservationOut::Release { key, kind } => {
                        header.key = key.0;
                        (2, kind as u32)
                    }
                    ReservationOut::Clear { key } => {
                        header.key = key.0;
                        (3, 0)
                    }
                    ReservationOut::Preempt {
                        key,
                        victim,
                        kind,
                        abort,
                    } => {
                        (header.key, header.arg) = (key.0, victim.0);
                        (if abort { 5 } else { 4 }, kind as u32)
                    }
                    ReservationOut::RegisterAndIgnore { new } => {
                        header.arg = new.0;
                        (6, 0)
                    }
                };
                header.blocks = action | kind << 8;
            }
        }
        if let Some(behalf) = self.behalf {
            header.flags.insert(Flags::NEXUS);
            header.flags.set(Flags::BEGINS, behalf.begins);
            let mut all = Vec::with_capacity(NEXUS_HEAD + behalf.nexus.initiator.len() + payload.len());
            behalf.nexus.put(&mut all);
            all.extend_from_slice(&payload);
            payload = all.into();
        }
        (header.covering(&payload), payload)
    }

    /// The request in a frame whose checksums have been verified.
    pub fn from_frame(header: &Header, mut payload: Bytes) -> Result<Self, FrameError> {
        let malformed = |what| FrameError::Malformed {
            opcode: header.opcode,
            what,
        };
        if header.is_reply() {
            return Err(malformed("a reply where a request is due"));
        }
        let begins = header.flags.contains(Flags::BEGINS);
        let behalf = match header.flags.contains(Flags::NEXUS) {
            true => {
                let nexus = Nexus::take(&mut payload).ok_or_else(|| malformed("a nexus is due"))?;
                let nexus = Arc::new(nexus);
                Some(Behalf { nexus, begins })
            }
            false if begins => return Err(malformed("only a host's command begins")),
            false => None,
        };
        let fua = header.flags.contains(Flags::FUA);
        let takes_fua = matches!(header.opcode, Opcode::Write | Opcode::CompareAndWrite);
        let takes_data = takes_fua || matches!(header.opcode, Opcode::Scsi | Opcode::RecordStore);
        if !takes_data && !payload.is_empty() || !takes_fua && fua {
            return Err(malformed("this request carries neither data nor FUA"));
        }
        let (lba, blocks) = (header.lba, header.blocks);
        let operation = match header.opcode {
            Opcode::Hello | Opcode::Auth => return Err(malformed("only valid while logging in")),
            Opcode::Info => Operation::Info,
            Opcode::Flush => Operation::Flush,
            Opcode::ReservationIn => Operation::ReservationIn,
            Opcode::RecordLoad => Operation::RecordLoad,
            Opcode::RecordStore => Operation::RecordStore { record: payload },
            Opcode::Scsi if payload.len() < 32 => {
                return Err(malformed("a command block and an identity are due"));
            }
            Opcode::Scsi => Operation::Scsi {
                cdb: field(&payload, 0),
                id: Uuid::from_bytes(field(&payload, 16)),
                data: payload.slice(32..),
            },
            Opcode::Read => Operation::Read { lba, blocks },
            Opcode::Unmap => Operation::Unmap { lba, blocks },
            Opcode::LbaStatus => Operation::LbaStatus { lba, blocks },
            Opcode::Write => Operation::Write {
                lba,
                data: payload,
                fua,
            },
            Opcode::CompareAndWrite => {
                let half = payload.len() / 2;
                if !payload.len().is_multiple_of(2) || header.arg != half as u64 {
                    return Err(malformed("the two images have the same length"));
                }
                Operation::CompareAndWrite {
                    lba,
                    compare: payload.slice(..half),
                    data: payload.slice(half..),
                    fua,
                }
            }
            Opcode::ReservationOut => {
                let (key, arg) = (Key(header.key), Key(header.arg));
                if blocks >> 16 != 0 {
                    return Err(malformed("unused bytes are zero"));
                }
                let kind = || {
                    ReservationType::from_u8((blocks >> 8) as u8)
                        .ok_or_else(|| malformed("reservation type is 1, 3, 5 or 6"))
                };
                Operation::ReservationOut(match blocks & 0xff {
                    0 => ReservationOut::Register {
                        current: key,
                        new: arg,
                    },
                    1 => ReservationOut::Reserve { key, kind: kind()? },
                    2 => ReservationOut::Release { key, kind: kind()? },
                    3 => ReservationOut::Clear { key },
                    action @ (4 | 5) => ReservationOut::Preempt {
                        key,
                        victim: arg,
                        kind: kind()?,
                        abort: action == 5,
                    },
                    6 => ReservationOut::RegisterAndIgnore { new: arg },
                    _ => return Err(malformed("service action is 0..=6")),
                })
            }
        };
        Ok(Request {
            volume: Uuid::from_bytes(header.volume),
            behalf,
            operation,
            begin_by: None,
        })
    }
}

/// Consecutive blocks of one provisioning status (SBC-3, 5.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LbaRun {
    /// First block.
    pub lba: u64,
    /// How many, above zero.
    pub blocks: u32,
    /// They have space; otherwise they are deallocated, and read as zeros.
    pub mapped: bool,
}

/// Bytes of a [`LbaRun`]: block, count, 1 for mapped.
const LBA_RUN: usize = 16;

/// Identity and geometry of a disk or volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Bytes per logical block: the unit of every address.
    pub block_size: u32,
    /// Bytes per physical block: written as a whole or not at all.
    pub physical_block_size: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Identity of the medium: the disk's or the volume's.
    pub id: Uuid,
    /// Writes that are neither FUA nor flushed may be lost with the power.
    pub volatile_cache: bool,
    /// Serial number, as printed on the disk.
    pub serial: String,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: Status,
    /// Depends on the status: offset of a miscompare, version, SCSI status byte.
    pub detail: u64,
    /// Data that was read, or sense data.
    pub payload: Bytes,
}

impl Reply {
    /// Done, no data.
    pub fn ok() -> Self {
        Reply::status(Status::Ok)
    }

    /// Done, with data.
    pub fn data(payload: Bytes) -> Self {
        Reply {
            status: Status::Ok,
            detail: 0,
            payload,
        }
    }

    /// Ended with `status`, no data.
    pub fn status(status: Status) -> Self {
        Reply {
            status,
            detail: 0,
            payload: Bytes::new(),
        }
    }

    /// Ended with `status`, with the figure that belongs to it.
    pub fn with_detail(status: Status, detail: u64) -> Self {
        Reply {
            status,
            detail,
            payload: Bytes::new(),
        }
    }

    /// A SCSI status byte with sense data, passed through as it is.
    pub fn scsi(status: u8, sense: Bytes) -> Self {
        Reply {
            status: Status::Scsi,
            detail: status.into(),
            payload: sense,
        }
    }

    /// Answer to [`Operation::Info`].
    pub fn info(info: &EndpointInfo) -> Self {
        let mut out = Vec::with_capacity(40 + info.serial.len());
        out.extend_from_slice(&info.block_size.to_le_bytes());
        out.extend_from_slice(&info.physical_block_size.to_le_bytes());
        out.extend_from_slice(&info.blocks.to_le_bytes());
        out.extend_from_slice(info.id.as_bytes());
        out.extend_from_slice(&u64::from(info.volatile_cache).to_le_bytes());
        out.extend_from_slice(info.serial.as_bytes());
        Reply::data(out.into())
    }

    /// Answer to [`Operation::LbaStatus`].
    pub fn lba_status(runs: &[LbaRun]) -> Self {
        let mut out = Vec::with_capacity(LBA_RUN * runs.len());
        for run in runs {
            out.extend_from_slice(&run.lba.to_le_bytes());
            out.extend_from_slice(&run.blocks.to_le_bytes());
            out.extend_from_slice(&u32::from(run.mapped).to_le_bytes());
        }
        Reply::data(out.into())
    }

    /// Answer to [`Operation::ReservationIn`].
    pub fn full_status(status: &FullStatus) -> Self {
        let mut out = Vec::new();
        out.extend_from_slice(&status.generation.to_le_bytes());
        let (port, kind, key) = match &status.reservation {
            Some(held) => (held.port.0, held.kind as u16, held.key.0),
            None => (0, 0, 0),
        };
        out.extend_from_slice(&port.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&key.to_le_bytes());
        for registrant in &status.registrants {
            out.extend_from_slice(&u64::from(registrant.port.0).to_le_bytes());
            out.extend_from_slice(&registrant.key.0.to_le_bytes());
        }
        Reply::data(out.into())
    }

    /// As a frame that answers the request of this opcode and tag.
    pub fn into_frame(self, opcode: Opcode, tag: u64) -> (Header, Bytes) {
        let mut header = Header::new(opcode, tag);
        header.flags = Flags::REPLY;
        let (mut status, mut payload) = (self.status, self.payload);
        if payload.len() > MAX_PAYLOAD as usize {
            // A handler that answers more than the protocol carries has misread the request; the peer would drop
            // the session over it.
            (status, payload) = (Status::BadRequest, Bytes::new());
        }
        header.status = status;
        header.arg = self.detail;
        (header.covering(&payload), payload)
    }

    /// The reply in a frame whose checksums have been verified.
    pub fn from_frame(header: &Header, payload: Bytes) -> Self {
        Reply {
            status: header.status,
            detail: header.arg,
            payload,
        }
    }

    /// Reads the answer to [`Operation::Info`].
    pub fn to_info(&self) -> Result<EndpointInfo, FrameError> {
        let bytes = &self.payload[..];
        let malformed = |what| FrameError::Malformed {
            opcode: Opcode::Info,
            what,
        };
        if bytes.len() < 40 {
            return Err(malformed("at least 40 bytes"));
        }
        let info = EndpointInfo {
            block_size: u32::from_le_bytes(field(bytes, 0)),
            physical_block_size: u32::from_le_bytes(field(bytes, 4)),
            blocks: u64::from_le_bytes(field(bytes, 8)),
            id: Uuid::from_bytes(field(bytes, 16)),
            volatile_cache: u64::from_le_bytes(field(bytes, 32)) != 0,
            serial: std::str::from_utf8(&bytes[40..])
                .map_err(|_| malformed("the serial is UTF-8"))?
                .to_owned(),
        };
        if !info.block_size.is_power_of_two() || !(512..=65536).contains(&info.block_size) {
            return Err(malformed("the logical block size is a power of two, 512..=65536"));
        }
        Ok(info)
    }

    /// Reads the answer to [`Operation::LbaStatus`].
    pub fn to_lba_status(payload: &[u8]) -> Result<Vec<LbaRun>, FrameError> {
        let malformed = |what| FrameError::Malformed {
            opcode: Opcode::LbaStatus,
            what,
        };
        if !payload.len().is_multiple_of(LBA_RUN) {
            return Err(malformed("16 bytes per run of blocks"));
        }
        let runs = payload.chunks_exact(LBA_RUN).map(|bytes| LbaRun {
            lba: u64::from_le_bytes(field(bytes, 0)),
            blocks: u32::from_le_bytes(field(bytes, 8)),
            mapped: u32::from_le_bytes(field(bytes, 12)) != 0,
        });
        let runs: Vec<LbaRun> = runs.collect();
        let in_order = |pair: &[LbaRun]| pair[0].lba.checked_add(pair[0].blocks.into()) == Some(pair[1].lba);
        if !runs.windows(2).all(in_order) || runs.iter().any(|run| run.blocks == 0) {
            return Err(malformed("each run follows the one before it, and none is empty"));
        }
        Ok(runs)
    }

    /// Reads the answer to [`Operation::ReservationIn`].
    pub fn to_full_status(&self) -> Result<FullStatus, FrameError> {
        let bytes = &self.payload[..];
        let malformed = |what| FrameError::Malformed {
            opcode: Opcode::ReservationIn,
            what,
        };
        if bytes.len() < 16 || !(bytes.len() - 16).is_multiple_of(16) {
            return Err(malformed("16 bytes, then 16 per registrant"));
        }
        let kind = u16::from_le_bytes(field(bytes, 6));
        let reservation = match kind {
            0 => None,
            _ => Some(Reservation {
                port: Port(u16::from_le_bytes(field(bytes, 4))),
                kind: u8::try_from(kind)
                    .ok()
                    .and_then(ReservationType::from_u8)
                    .ok_or_else(|| malformed("unknown reservation type"))?,
                key: Key(u64::from_le_bytes(field(bytes, 8))),
            }),
        };
        let registrants = bytes[16..]
            .chunks_exact(16)
            .map(|entry| {
                Ok(Registrant {
                    port: u16::try_from(u64::from_le_bytes(field(entry, 0)))
                        .map(Port)
                        .map_err(|_| malformed("port above 65535"))?,
                    key: Key(u64::from_le_bytes(field(entry, 8))),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(FullStatus {
            generation: u32::from_le_bytes(field(bytes, 0)),
            registrants,
            reservation,
        })
    }
}
