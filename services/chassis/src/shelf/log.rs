//! The shelf's own log: every command that wanted to change a disk, in the order in which the disks took effect.
//!
//! It is the camera over the shelf. Controllers cannot write to it, so what it shows is evidence: who wrote where,
//! under which key, while whose reservation stood, and whether the disk accepted it.
//!
//! ```text
//! header  64 bytes: magic "PLXWLOG1", array id, zeros, CRC32C of the first 60
//! record  64 bytes, little-endian:
//!   0 u64 sequence from 1, no gaps    8 u64 CLOCK_MONOTONIC ns    16 u64 lba (512-byte blocks)
//!  24 u32 blocks   28 u32 CRC32C of the data   32 u64 key of the writer   40 u64 key of the holder
//!  48 u16 disk     50 u8 port (1 a, 2 b, 0 the shelf)   51 u8 event   52 u8 status   53 u8 flags
//!  54 zeros        60 u32 CRC32C of the first 60
//! ```
//!
//! A record is appended while the disk is locked, before the command is answered. A record cut short at the end is the
//! mark of a killed shelf and is dropped; a damaged one anywhere else is damage, and reading says where.

use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_block_frame::{Key, Port, Status};
use pollux_platform::clock::monotonic_ns;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

const MAGIC: [u8; 8] = *b"PLXWLOG1";
const RECORD: usize = 64;

/// File name of the log in the shelf's directory.
pub const WRITE_LOG: &str = "writes.log";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Event {
    /// Write.
    Write = 1,
    /// Unmap.
    Unmap = 2,
    /// Compare-and-write.
    CompareAndWrite = 3,
    /// PERSISTENT RESERVE OUT, REGISTER or REGISTER AND IGNORE; the new key stands in `lba`.
    Register = 8,
    /// RESERVE.
    Reserve = 9,
    /// RELEASE.
    Release = 10,
    /// CLEAR.
    Clear = 11,
    /// PREEMPT; the victim's key stands in `lba`.
    Preempt = 12,
    /// PREEMPT AND ABORT; the victim's key stands in `lba`.
    PreemptAndAbort = 13,
    /// The shelf lost its power; `blocks` is how many pages of the disk's cache were lost.
    PowerOff = 16,
    /// The shelf has its power back.
    PowerOn = 17,
    /// The disk forgot its registrations and its reservation.
    ReservationsLost = 18,
}

impl Event {
    fn from_u8(value: u8) -> Option<Self> {
        use Event::*;
        [
            Write,
            Unmap,
            CompareAndWrite,
            Register,
            Reserve,
            Release,
            Clear,
            Preempt,
            PreemptAndAbort,
            PowerOff,
            PowerOn,
            ReservationsLost,
        ]
        .into_iter()
        .find(|event| *event as u8 == value)
    }
}

/// The data was durable before the answer.
pub const FLAG_FUA: u8 = 1 << 0;
/// Only a part of the blocks was written (fault).
pub const FLAG_TORN: u8 = 1 << 1;
/// Nothing was written, and it was acknowledged (fault).
pub const FLAG_LOST: u8 = 1 << 2;
/// It was written elsewhere (fault).
pub const FLAG_MISDIRECTED: u8 = 1 << 3;

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts from 1, no gaps, over all disks.
    pub sequence: u64,
    /// When it took effect, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// First logical block, or a key (see [`Event`]).
    pub lba: u64,
    /// Logical blocks.
    pub blocks: u32,
    /// CRC32C of the data.
    pub data_crc: u32,
    /// Key under which the writer's port was registered; zero: not registered.
    pub key: Key,
    /// Key of the reservation's holder; zero: nobody.
    pub holder: Key,
    /// Which disk.
    pub disk: DiskIndex,
    /// Whose port; none: the shelf itself.
    pub port: Option<ControllerId>,
    /// What it was.
    pub event: Event,
    /// The low byte of [`Status`]: 0 accepted.
    pub status: u8,
    /// `FLAG_*`.
    pub flags: u8,
}

impl Record {
    /// The disk did it.
    pub fn accepted(&self) -> bool {
        self.status == Status::Ok as u8
    }

    fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        out[0..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..16].copy_from_slice(&self.at_ns.to_le_bytes());
        out[16..24].copy_from_slice(&self.lba.to_le_bytes());
        out[24..28].copy_from_slice(&self.blocks.to_le_bytes());
        out[28..32].copy_from_slice(&self.data_crc.to_le_bytes());
        out[32..40].copy_from_slice(&self.key.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.holder.0.to_le_bytes());
        out[48..50].copy_from_slice(&self.disk.get().to_le_bytes());
        out[50] = self.port.map_or(0, |port| port.index() as u8 + 1);
        out[51] = self.event as u8;
        out[52] = self.status;
        out[53] = self.flags;
        seal(&mut out);
        out
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        if !sealed(bytes) {
            return None;
        }
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        let u32_at = |at: usize| u32::from_le_bytes(array(bytes, at));
        Some(Record {
            sequence: u64_at(0),
            at_ns: u64_at(8),
            lba: u64_at(16),
            blocks: u32_at(24),
            data_crc: u32_at(28),
            key: Key(u64_at(32)),
            holder: Key(u64_at(40)),
            disk: DiskIndex::new(u16::from_le_bytes(array(bytes, 48))),
            port: match bytes[50] {
                0 => None,
                port => Some(ControllerId::from_index(usize::from(port) - 1)?),
            },
            event: Event::from_u8(bytes[51])?,
            status: bytes[52],
            flags: bytes[53],
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn seal(bytes: &mut [u8; RECORD]) {
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
}

fn sealed(bytes: &[u8; RECORD]) -> bool {
    u32::from_le_bytes(array(bytes, 60)) == crc32c::crc32c(&bytes[..60])
}

fn header(array: ArrayId) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..8].copy_from_slice(&MAGIC);
    out[8..24].copy_from_slice(array.as_bytes());
    seal(&mut out);
    out
}

/// Why a log cannot be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file cannot be read.
    #[error("write log {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a write log, or a damaged one.
    #[error("write log {}: {what} at byte {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong and what would be right.
        what: String,
    },
}

/// A log that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteLog {
    /// The array it belongs to.
    pub array: ArrayId,
    /// All of it, in order.
    pub records: Vec<Record>,
}

impl WriteLog {
    /// Reads a log, also while the shelf appends to it.
    pub fn read(path: &Path) -> Result<WriteLog, LogError> {
        let io = |source| LogError::Io {
            path: path.to_owned(),
            source,
        };
        let damaged = |offset, what: &str| LogError::Damaged {
            path: path.to_owned(),
            offset,
            what: what.to_owned(),
        };
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        let mut bytes = [0; RECORD];
        file.read_exact(&mut bytes)
            .map_err(|_| damaged(0, "no header of 64 bytes"))?;
        if bytes[..8] != MAGIC || !sealed(&bytes) {
            return Err(damaged(0, "not the header of a write log (magic PLXWLOG1)"));
        }
        let mut log = WriteLog {
            array: ArrayId::from_bytes(array(&bytes, 8)),
            records: Vec::new(),
        };
        loop {
            match file.read_exact(&mut bytes) {
                Ok(()) => {}
                // The end, or a record that a killed shelf has not finished.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(log),
                Err(error) => return Err(io(error)),
            }
            let sequence = log.records.len() as u64 + 1;
            let record = Record::decode(&bytes)
                .ok_or_else(|| damaged(sequence * RECORD as u64, "a record whose checksum does not fit"))?;
            if record.sequence != sequence {
                let what = format!("record {} where {sequence} is due", record.sequence);
                return Err(damaged(sequence * RECORD as u64, &what));
            }
            log.records.push(record);
        }
    }

    /// Data writes that the disks `of` accepted from a second writer: from a (port, key) after another one had already
    /// written to any of them, or from another port than the last writer's without holding the reservation.
    ///
    /// Keys are never used twice (they carry epoch and claim generation), so an owner that comes back does so under a
    /// new key, and any return of an old one is a breach of exclusion. A port that goes on after the shelf lost its
    /// reservations is not a second writer; whether it stopped soon enough is another question.
    pub fn second_writers(&self, of: &[DiskIndex]) -> Vec<Record> {
        let mut writers: Vec<(Option<ControllerId>, Key)> = Vec::new();
        let mut breaches = Vec::new();
        for record in &self.records {
            let data = matches!(record.event, Event::Write | Event::Unmap | Event::CompareAndWrite);
            if !data || !record.accepted() || !of.contains(&record.disk) {
                continue;
            }
            let writer = (record.port, record.key);
            let excluded = record.key != Key(0) && record.holder == record.key;
            match writers.last() {
                Some(last) if *last == writer || (last.0 == writer.0 && record.key == Key(0)) => {}
                Some(last) if writers.contains(&writer) || (last.0 != writer.0 && !excluded) => {
                    breaches.push(*record);
                }
                _ => writers.push(writer),
            }
        }
        breaches
    }
}

/// The end at which the shelf appends.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    state: Mutex<(File, u64)>,
}

impl Appender {
    /// Opens the log of `array` at `path`, or begins one. What a killed shelf left half-written is cut off.
    pub(super) fn open(path: &Path, array: ArrayId) -> Result<Self, LogError> {
        let io = |source| LogError::Io {
            path: path.to_owned(),
            source,
        };
        let exists = path.try_exists().map_err(io)?;
        let written = if exists {
            WriteLog::read(path)?
        } else {
            WriteLog {
                array,
                records: Vec::new(),
            }
        };
        if written.array != array {
            return Err(LogError::Damaged {
                path: path.to_owned(),
                offset: 8,
                what: format!("belongs to array {}, this shelf to {array}:", written.array),
            });
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io)?;
        let sequence = written.records.len() as u64;
        if exists {
            file.set_len((sequence + 1) * RECORD as u64).map_err(io)?;
        } else {
            file.write_all(&header(array)).map_err(io)?;
        }
        Ok(Appender {
            path: path.to_owned(),
            state: Mutex::new((file, sequence)),
        })
    }

    /// Appends; sequence and time are given here, so that order in the file, sequence and time agree.
    pub(super) fn append(&self, mut record: Record) -> Result<(), LogError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        record.sequence = state.1 + 1;
        record.at_ns = monotonic_ns();
        state
            .0
            .write_all(&record.encode())
            .map_err(|source| LogError::Io {
                path: self.path.clone(),
                source,
            })?;
        state.1 += 1;
        Ok(())
    }
}

/// The port of a controller.
pub(super) fn port_of(controller: ControllerId) -> Port {
    match controller {
        ControllerId::A => Port::A,
        ControllerId::B => Port::B,
    }
}
