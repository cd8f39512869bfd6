//! A volume as a socket: block frames in, ranges of the mirror out; and the journal that goes with it.

use crate::journal::{self, Found, Place, RECORD_MAX, SLOT_BYTES};
use crate::label::{EXTENT_BYTES, Label, VolumeEntry};
use crate::mirror::{Mirror, MirrorError};
use crate::range::Ranges;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use pollux_api::id::VolumeId;
use pollux_block_frame::{EndpointInfo, Handler, Hello, MAX_PAYLOAD, Operation, Reply, Request, Status};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Bytes per logical block of a volume.
pub const BLOCK_SIZE: u32 = 512;
/// Bytes per physical block of a volume.
pub const PHYSICAL_BLOCK_SIZE: u32 = 4096;

/// A volume of an imported pool.
#[derive(Debug)]
pub struct Volume {
    id: VolumeId,
    mirror: Arc<Mirror>,
    entry: Mutex<VolumeEntry>,
    ranges: Ranges,
    /// Where the record in force stands, once it was read. Held while the journal is read or written.
    journal: tokio::sync::Mutex<Option<Place>>,
    /// Held by whoever takes extents of the pool, until the label says so.
    space: Arc<tokio::sync::Mutex<()>>,
}

/// Detail of [`Status::NoResources`]: there will be no room later either, unless somebody makes some.
pub const NO_ROOM: u64 = 1;

impl Volume {
    /// The volume whose place `entry` describes; `space` is held while extents are taken.
    pub fn new(
        id: VolumeId,
        mirror: Arc<Mirror>,
        entry: VolumeEntry,
        space: Arc<tokio::sync::Mutex<()>>,
    ) -> Self {
        Volume {
            id,
            mirror,
            entry: Mutex::new(entry),
            ranges: Ranges::default(),
            journal: tokio::sync::Mutex::default(),
            space,
        }
    }

    /// It has grown.
    pub fn set_entry(&self, entry: VolumeEntry) {
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = entry;
    }

    fn entry(&self) -> VolumeEntry {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn carry_out(&self, operation: Operation) -> Result<Reply, Status> {
        let entry = self.entry();
        let block = u64::from(BLOCK_SIZE);
        let range = |lba: u64, bytes: u64| match lba
            .checked_mul(block)
            .and_then(|at| Some((at, at.checked_add(bytes)?)))
        {
            Some((at, end)) if end <= entry.size_bytes => Ok((at, end)),
            _ => Err(Status::OutOfRange),
        };
        let whole = |data: &Bytes| match data.len() as u64 {
            length if length.is_multiple_of(block) => Ok(length),
            _ => Err(Status::BadRequest),
        };
        match operation {
            Operation::Info => Ok(Reply::info(&EndpointInfo {
                block_size: BLOCK_SIZE,
                physical_block_size: PHYSICAL_BLOCK_SIZE,
                blocks: entry.size_bytes / block,
                id: Uuid::from_bytes(*self.id.as_bytes()),
                volatile_cache: false,
                serial: Uuid::from_bytes(*self.id.as_bytes()).simple().to_string(),
            })),
            Operation::Read { lba, blocks } => {
                let (at, end) = range(lba, u64::from(blocks) * block)?;
                if end - at > u64::from(MAX_PAYLOAD) {
                    return Err(Status::BadRequest);
                }
                let _range = self.ranges.take(at, end, true).await;
                Ok(Reply::data(self.read(&entry, at, end).await?))
            }
            Operation::Write { lba, data, fua: _ } => {
                let (at, end) = range(lba, whole(&data)?)?;
                let _range = self.ranges.take(at, end, false).await;
                self.write(&entry, at, data).await?;
                Ok(Reply::ok())
            }
            // Every write is durable when it is answered; what was never answered needs no flush.
            Operation::Flush => Ok(Reply::ok()),
            Operation::Unmap { lba, blocks } => {
                let (at, end) = range(lba, u64::from(blocks) * block)?;
                let _range = self.ranges.take(at, end, false).await;
                for (at, length) in segments(&entry, at, end) {
                    self.mirror.unmap(at, length).await.map_err(status)?;
                }
                Ok(Reply::ok())
            }
            Operation::CompareAndWrite {
                lba,
                compare,
                data,
                fua: _,
            } => {
                let (at, end) = range(lba, whole(&data)?)?;
                let _range = self.ranges.take(at, end, false).await;
                let found = self.read(&entry, at, end).await?;
                if let Some(differs) = found.iter().zip(&compare).position(|(a, b)| a != b) {
                    return Ok(Reply::with_detail(Status::Miscompare, differs as u64));
                }
                self.write(&entry, at, data).await?;
                Ok(Reply::ok())
            }
            Operation::RecordLoad => Ok(Reply::data(self.record().await?)),
            Operation::RecordStore { record } => self.store(&record).await,
            // Hosts' reservations are the block target's; those of the disks are no host's business.
            Operation::ReservationOut(_) | Operation::ReservationIn | Operation::Scsi { .. } => {
                Err(Status::Unsupported)
            }
        }
    }

    async fn read_journal(&self, at: u64) -> Result<Found, Status> {
        let slot = |number: u64| {
            self.mirror
                .read(at * EXTENT_BYTES + number * SLOT_BYTES, SLOT_BYTES)
        };
        let (first, second) = futures_util::future::try_join(slot(0), slot(1))
            .await
            .map_err(status)?;
        Ok(journal::read([&first, &second], self.id))
    }

    /// The extent of the journal, taken now if there is none yet.
    async fn journal_extent(&self) -> Result<Option<u64>, Status> {
        if let Some(at) = self.journal_at() {
            return Ok(Some(at));
        }
        let _space = self.space.lock().await;
        let free = self.mirror.label().allocate(1);
        let Some(at) = free.and_then(|runs| Some(runs.first()?.start)) else {
            return Ok(None);
        };
        // Whoever had the extent before must not be taken for a record, and legs that never were equal become so.
        let zeroed = self.mirror.unmap(at * EXTENT_BYTES, EXTENT_BYTES).await;
        zeroed.map_err(status)?;
        let put = |label: &mut Label| {
            if let Some(entry) = label.volumes.get_mut(&self.id) {
                entry.journal = Some(at);
            }
            Ok(())
        };
        match self.mirror.relabel(put).await {
            Ok(_) => Ok(self.journal_at()),
            Err(MirrorError::Label(_)) => Ok(None),
            Err(error) => Err(status(error)),
        }
    }

    /// As the label in force has it: the entry here may be older.
    fn journal_at(&self) -> Option<u64> {
        self.mirror.label().volumes.get(&self.id)?.journal
    }

    async fn record(&self) -> Result<Bytes, Status> {
        let mut place = self.journal.lock().await;
        let Some(at) = self.journal_at() else {
            return Ok(Bytes::new());
        };
        match self.read_journal(at).await? {
            Found::Record(found, record) => {
                *place = Some(found);
                Ok(record)
            }
            Found::Damaged(_) => {
                tracing::error!(volume = %self.id, extent = at, "its journal is damaged");
                Err(Status::MediumError)
            }
        }
    }

    async fn store(&self, record: &Bytes) -> Result<Reply, Status> {
        if record.len() > RECORD_MAX {
            return Err(Status::BadRequest);
        }
        let mut known = self.journal.lock().await;
        let Some(at) = self.journal_extent().await? else {
            return Ok(Reply::with_detail(Status::NoResources, NO_ROOM));
        };
        let (mut place, slots) = match *known {
            Some(place) => (place, 1),
            None => match self.read_journal(at).await? {
                Found::Record(place, _) => (place, 1),
                Found::Damaged(place) => (place, 2),
            },
        };
        for _ in 0..slots {
            let (sequence, slot) = place.begin();
            if slots == 1 {
                *known = Some(place);
            }
            let bytes = journal::encode(self.id, sequence, record);
            let to = at * EXTENT_BYTES + slot as u64 * SLOT_BYTES;
            self.mirror.write(to, bytes).await.map_err(status)?;
            place.stands(slot);
        }
        *known = Some(place);
        Ok(Reply::ok())
    }

    async fn read(&self, entry: &VolumeEntry, at: u64, end: u64) -> Result<Bytes, Status> {
        let segments = segments(entry, at, end);
        if let [(at, length)] = segments[..] {
            return self.mirror.read(at, length).await.map_err(status);
        }
        let parts = segments
            .into_iter()
            .map(|(at, length)| self.mirror.read(at, length));
        let parts = try_join_all(parts).await.map_err(status)?;
        Ok(parts
            .into_iter()
            .fold(BytesMut::with_capacity((end - at) as usize), |mut all, part| {
                all.extend_from_slice(&part);
                all
            })
            .freeze())
    }

    async fn write(&self, entry: &VolumeEntry, at: u64, mut data: Bytes) -> Result<(), Status> {
        let segments = segments(entry, at, at + data.len() as u64);
        let parts = segments
            .into_iter()
            .map(|(at, length)| self.mirror.write(at, data.split_to(length as usize)))
            .collect::<Vec<_>>();
        // Every part runs to its end, so that nothing is under way any more when the range is given back.
        let results = futures_util::future::join_all(parts).await;
        results.into_iter().collect::<Result<(), _>>().map_err(status)
    }
}

fn status(error: MirrorError) -> Status {
    match error {
        MirrorError::Stopped => Status::NotOwner,
        MirrorError::Held => Status::Held,
        MirrorError::Medium => Status::MediumError,
        MirrorError::Label(_) => Status::NoResources,
    }
}

/// Where a range of the volume stands in the mirror: (offset, length), in order; neighbours are one.
fn segments(entry: &VolumeEntry, at: u64, end: u64) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    let mut passed = 0;
    for run in &entry.runs {
        let (start, length) = (run.start * EXTENT_BYTES, run.count * EXTENT_BYTES);
        let (from, to) = (at.max(passed), end.min(passed + length));
        if from < to {
            let place = start + (from - passed);
            match out.last_mut() {
                Some((last, size)) if *last + *size == place => *size += to - from,
                _ => out.push((place, to - from)),
            }
        }
        passed += length;
    }
    out
}

/// A session of the block target.
#[derive(Debug)]
pub struct Visitor;

impl Handler for Volume {
    type Session = Visitor;

    async fn log_in(&self, _: &Hello) -> Result<Visitor, Status> {
        Ok(Visitor)
    }

    async fn handle(&self, _: &Arc<Visitor>, request: Request) -> Reply {
        let mine = request.volume.is_nil() || request.volume.as_bytes() == self.id.as_bytes();
        if !mine {
            return Reply::status(Status::UnknownVolume);
        }
        self.carry_out(request.operation)
            .await
            .unwrap_or_else(Reply::status)
    }

    fn ended(&self, _: &Arc<Visitor>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Run;

    #[test]
    fn a_range_is_found_in_scattered_extents() {
        const MIB: u64 = EXTENT_BYTES;
        let run = |start, count| Run { start, count };
        let entry = VolumeEntry {
            size_bytes: 5 * MIB,
            runs: vec![run(10, 2), run(12, 1), run(3, 2)],
            journal: None,
        };
        for (at, end, expected) in [
            (0, 1, vec![(10 * MIB, 1)]),
            (MIB, 3 * MIB, vec![(11 * MIB, 2 * MIB)]),
            (
                3 * MIB - 512,
                3 * MIB + 512,
                vec![(13 * MIB - 512, 512), (3 * MIB, 512)],
            ),
            (0, 5 * MIB, vec![(10 * MIB, 3 * MIB), (3 * MIB, 2 * MIB)]),
            (7, 7, vec![]),
        ] {
            assert_eq!(segments(&entry, at, end), expected, "{at}..{end}");
        }
    }
}
