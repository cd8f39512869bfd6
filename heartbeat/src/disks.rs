//! The quorum disks that are open, and where the next start has to look for them.
//!
//! A switchboard: one line for each disk, plugged in when the core goes by it and pulled when it does not any more. A line
//! is of a *seat*, so a disk that left and came back gets a new one, and what was said on the old one is ended by the disk's
//! port before the new one stands.
//!
//! The state folder keeps the last set that was gone by. It is only where the next daemon looks first: what stands on the
//! disks says which set it is (`Core`), so a file that is lost, damaged or years old costs time and never safety.
//!
//! It must never write to a disk but what the core has asked for.

use crate::quorum::{self, Command, Outcome, Path};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_heartbeat_core::area::Area;
use pollux_heartbeat_core::effect::{ReadId, WriteId};
use pollux_heartbeat_core::layout::{self, Place};
use pollux_heartbeat_core::{Event, QuorumSet, Seat};
use pollux_runtime::ControllerConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// How a command of the loop to a quorum disk ended.
pub type Done = Outcome<WriteId, (ReadId, ControllerId)>;
/// Results, from all quorum disks.
pub type Outcomes = mpsc::UnboundedReceiver<(Seat, Done)>;
type Queue = mpsc::UnboundedSender<Command<WriteId, (ReadId, ControllerId)>>;

/// Name of the file in the state folder.
const FILE: &str = "quorum-set";
const MAGIC: &[u8; 8] = b"PLXQSET1";

/// The open quorum disks.
pub struct Disks {
    config: ControllerConfig,
    open: BTreeMap<Seat, Queue>,
    sink: mpsc::UnboundedSender<(Seat, Done)>,
    formatting: BTreeSet<DiskIndex>,
}

impl Disks {
    /// None yet; the results will come by the second value.
    #[must_use]
    pub fn new(config: ControllerConfig) -> (Self, Outcomes) {
        let (sink, outcomes) = mpsc::unbounded_channel();
        let disks = Self {
            config,
            open: BTreeMap::new(),
            sink,
            formatting: BTreeSet::new(),
        };
        (disks, outcomes)
    }

    /// The array.
    #[must_use]
    pub fn array(&self) -> ArrayId {
        self.config.array
    }

    /// What every block of a seat must carry.
    #[must_use]
    pub fn place(&self, seat: Seat) -> Place {
        let array = self.config.array;
        Place { array, seat }
    }

    /// The way to a seat.
    #[must_use]
    pub fn path(&self, seat: Seat) -> Path {
        Path {
            seat,
            socket: self.config.paths.disk_socket(seat.disk),
            array: self.config.array,
            controller: self.config.controller,
        }
    }

    /// The way to a disk, if it is a quorum disk now.
    #[must_use]
    pub fn way(&self, disk: DiskIndex) -> Option<Path> {
        let seat = self.open.keys().find(|seat| seat.disk == disk)?;
        Some(self.path(*seat))
    }

    /// Opens what is new, on the present runtime, and lets go of what is not in the set.
    pub fn use_set(&mut self, set: &QuorumSet) {
        self.open.retain(|seat, _| set.seat(seat.disk) == Some(*seat));
        for seat in set.all() {
            if !self.open.contains_key(&seat) {
                let (queue, commands) = mpsc::unbounded_channel();
                tokio::spawn(quorum::serve(self.path(seat), commands, self.sink.clone()));
                self.open.insert(seat, queue);
            }
        }
    }

    /// Asks a disk, if it is open: a command to one that is not has nobody who waits for its end.
    pub fn ask(&self, seat: Seat, command: Command<WriteId, (ReadId, ControllerId)>) {
        if let Some(queue) = self.open.get(&seat) {
            drop(queue.send(command));
        }
    }

    /// Reads the whole area.
    pub fn read(&self, seat: Seat, token: (ReadId, ControllerId)) {
        let count = u32::try_from(layout::AREA_BLOCKS).unwrap_or(u32::MAX);
        let block = 0;
        self.ask(seat, Command::Read { token, block, count });
    }

    /// Makes a disk a quorum disk and says so by an event. One attempt at a time for each disk: whose end is not known has
    /// not ended.
    pub fn format(&mut self, seat: Seat, parts: Box<[Area; 2]>, events: mpsc::UnboundedSender<Event>) {
        if !self.formatting.insert(seat.disk) {
            let result = Err("an earlier attempt to format it has not ended".to_owned());
            return drop(events.send(Event::DiskFormatted { seat, result }));
        }
        let (path, place) = (self.path(seat), self.place(seat));
        tokio::spawn(async move {
            let result = quorum::format(&path, &place, &parts).await;
            drop(events.send(Event::DiskFormatted { seat, result }));
        });
    }

    /// An attempt to format a disk has ended.
    pub fn formatted(&mut self, disk: DiskIndex) {
        self.formatting.remove(&disk);
    }
}

/// Where the quorum disks are looked for at a start: in the state folder, and where that says nothing, in the
/// controller's file.
#[must_use]
pub fn hint(config: &ControllerConfig) -> QuorumSet {
    let path = file(config);
    let first = QuorumSet::first(&config.quorum.disks).unwrap_or_default();
    match std::fs::read(&path) {
        Ok(bytes) => decode(config.array, &bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "damaged, or of another array: the quorum disks of controller.toml are tried");
            first
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => first,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not read: the quorum disks of controller.toml are tried");
            first
        }
    }
}

/// Keeps a set for the next start.
///
/// # Errors
/// The file cannot be written; the old one stands.
pub fn keep(config: &ControllerConfig, set: &QuorumSet) -> std::io::Result<()> {
    pollux_platform::file::replace(&file(config), &encode(config.array, set), 0o644)
}

fn file(config: &ControllerConfig) -> PathBuf {
    config.paths.var.join(FILE)
}

/// Magic, array, the set, CRC32C of all that.
fn encode(array: ArrayId, set: &QuorumSet) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], array.as_bytes(), &set.to_bytes()].concat();
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(array: ArrayId, bytes: &[u8]) -> Option<QuorumSet> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let set = content
        .strip_prefix(&MAGIC[..])?
        .strip_prefix(&array.as_bytes()[..])?;
    QuorumSet::from_bytes(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_set_is_read_back_and_no_damaged_or_foreign_one_is_taken() {
        let set = QuorumSet::first(&[4, 5, 6].map(DiskIndex::new)).unwrap();
        let set = set
            .replaced(DiskIndex::new(5), set.next_seat(DiskIndex::new(9), 77))
            .unwrap();
        let array = ArrayId::from_bytes([7; 16]);
        let bytes = encode(array, &set);
        assert_eq!(decode(array, &bytes), Some(set));
        assert_eq!(
            decode(ArrayId::from_bytes([8; 16]), &bytes),
            None,
            "another array's"
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(array, &damaged), None, "byte {at}");
            assert_eq!(decode(array, &bytes[..at]), None, "cut at {at}");
        }
    }
}
