//! A volume as a socket: block frames in, ranges of the mirror out; and the journal that goes with it.

use crate::extents::Space;
use crate::journal::{self, Found, Place, RECORD_MAX, SLOT_BYTES};
use crate::label::{EXTENT_BYTES, Label, VolumeEntry};
use crate::mapped::{Mapped, MappedError};
use crate::mirror::{Mirror, MirrorError};
use crate::range::{Guard, Ranges};
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use pollux_api::id::VolumeId;
use pollux_block_frame::{
    EndpointInfo, Handler, Hello, LbaRun, MAX_PAYLOAD, Operation, Reply, Request, Status,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Bytes per logical block of a volume.
pub const BLOCK_SIZE: u32 = 512;
/// Bytes per physical block of a volume.
pub const PHYSICAL_BLOCK_SIZE: u32 = 4096;

/// Runs of blocks in one answer to [`Operation::LbaStatus`].
const LBA_RUNS: usize = 256;

/// How the extents of a volume are found.
#[derive(Clone, Debug)]
pub enum Layout {
    /// Where the label says.
    Runs,
    /// Where its table says.
    Mapped(Arc<Mapped<Mirror>>),
    /// Nobody knows: its table is damaged.
    Lost,
}

/// A volume of an imported pool.
#[derive(Debug)]
pub struct Volume {
    id: VolumeId,
    mirror: Arc<Mirror>,
    shape: Mutex<(VolumeEntry, Layout)>,
    ranges: Ranges,
    /// Where the record in force stands, once it was read. Held while the journal is read or written.
    journal: tokio::sync::Mutex<Option<Place>>,
    /// Where its journal gets an extent from.
    space: Arc<Space>,
    cached: Mutex<Option<Cached>>,
}

/// What was left in the disks' caches since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    /// How often caches had been lost before the first of these writes.
    losses: u64,
    /// Writes.
    writes: u64,
}

/// Detail of [`Status::NoResources`]: there will be no room later either, unless somebody makes some.
pub const NO_ROOM: u64 = 1;

/// Why a command was not done: a status, with the figure that belongs to it.
struct Undone(Status, u64);

impl From<Status> for Undone {
    fn from(status: Status) -> Self {
        Undone(status, 0)
    }
}

impl From<MirrorError> for Undone {
    fn from(error: MirrorError) -> Self {
        status(error).into()
    }
}

impl From<MappedError> for Undone {
    fn from(error: MappedError) -> Self {
        match error {
            MappedError::NoRoom => Undone(Status::NoResources, NO_ROOM),
            MappedError::Mirror(error) => error.into(),
        }
    }
}

impl Volume {
    /// The volume whose place `entry` and `layout` describe.
    pub fn new(
        id: VolumeId,
        mirror: Arc<Mirror>,
        entry: VolumeEntry,
        layout: Layout,
        space: Arc<Space>,
    ) -> Self {
        Volume {
            id,
            mirror,
            shape: Mutex::new((entry, layout)),
            ranges: Ranges::default(),
            journal: tokio::sync::Mutex::default(),
            space,
            cached: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (VolumeEntry, Layout)> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has grown, or its extents are found in another way; for the latter the caller holds the whole volume.
    pub fn set(&self, entry: VolumeEntry, layout: Layout) {
        *self.lock() = (entry, layout);
    }

    fn cached(&self) -> MutexGuard<'_, Option<Cached>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self) -> VolumeEntry {
        self.lock().0.clone()
    }

    /// How its extents are found.
    pub fn layout(&self) -> Layout {
        self.lock().1.clone()
    }

    /// Holds the whole volume: every command that is under way has ended, and later ones wait.
    pub async fn hold(&self) -> Guard<'_> {
        self.ranges.take(0, u64::MAX, false).await
    }

    /// Gives every extent its place, while hosts use the volume.
    ///
    /// # Errors
    /// There is no room, or the mirror has failed.
    pub async fn fill(&self) -> Result<(), MappedError> {
        let Layout::Mapped(mapped) = self.layout() else {
            return Ok(());
        };
        let holes: Vec<u64> = mapped.map().holes().collect();
        for extent in holes {
            let at = extent * EXTENT_BYTES;
            let _range = self.ranges.take(at, at + EXTENT_BYTES, false).await;
            mapped.fill(extent).await?;
        }
        Ok(())
    }

    /// Takes a range for a change of it: whole extents where the change is more than bytes on the volume's own extents.
    async fn range(&self, at: u64, end: u64, unmap: bool) -> Guard<'_> {
        let mut whole = unmap;
        loop {
            let (from, until) = match whole {
                true => (
                    at / EXTENT_BYTES * EXTENT_BYTES,
                    end.next_multiple_of(EXTENT_BYTES),
                ),
                false => (at, end),
            };
            let guard = self.ranges.take(from, until, false).await;
            match self.layout() {
                Layout::Mapped(mapped) if !whole && !mapped.settled(at, end) => whole = true,
                _ => return guard,
            }
        }
    }

    async fn carry_out(&self, operation: Operation) -> Result<Reply, Undone> {
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
                // What was written without force unit access stays in the disks' caches until it is flushed.
                volatile_cache: true,
                serial: Uuid::from_bytes(*self.id.as_bytes()).simple().to_string(),
            })),
            Operation::Read { lba, blocks } => {
                let (at, end) = range(lba, u64::from(blocks) * block)?;
                if end - at > u64::from(MAX_PAYLOAD) {
                    return Err(Status::BadRequest.into());
                }
                let _range = self.ranges.take(at, end, true).await;
                Ok(Reply::data(self.read(at, end).await?))
            }
            Operation::Write { lba, data, fua } => {
                let (at, end) = range(lba, whole(&data)?)?;
                let _range = self.range(at, end, false).await;
                if !fua {
                    // Before it is written: caches that are lost meanwhile are lost for it.
                    let losses = self.mirror.losses();
                    self.cached().get_or_insert(Cached { losses, writes: 0 }).writes += 1;
                }
                self.write(at, data, fua).await?;
                Ok(Reply::ok())
            }
            Operation::Flush => {
                let before = *self.cached();
                self.mirror.flush().await?;
                let losses = self.mirror.losses();
                let mut cached = self.cached();
                let lost = before.is_some_and(|before| before.losses < losses);
                // Said once: what was lost stays lost. What was written meanwhile waits for the next flush.
                match cached.as_mut() {
                    Some(now) if Some(*now) != before => now.losses = losses,
                    _ => *cached = None,
                }
                if lost {
                    Err(Status::MediumError.into())
                } else {
                    Ok(Reply::ok())
                }
            }
            Operation::Unmap { lba, blocks } => {
                let (at, end) = range(lba, u64::from(blocks) * block)?;
                let _range = self.range(at, end, true).await;
                let (entry, layout) = self.lock().clone();
                match layout {
                    Layout::Mapped(mapped) => mapped.unmap(at, end, entry.size_bytes).await?,
                    Layout::Lost => return Err(Status::MediumError.into()),
                    Layout::Runs => {
                        for (at, length) in segments(&entry, at, end) {
                            self.mirror.unmap(at, length).await?;
                        }
                    }
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
                let _range = self.range(at, end, false).await;
                let found = self.read(at, end).await?;
                if let Some(differs) = found.iter().zip(&compare).position(|(a, b)| a != b) {
                    return Ok(Reply::with_detail(Status::Miscompare, differs as u64));
                }
                self.write(at, data, true).await?;
                Ok(Reply::ok())
            }
            Operation::LbaStatus { lba, blocks } => {
                let (at, end) = range(lba, u64::from(blocks) * block)?;
                Ok(self.lba_status(at, end)?)
            }
            Operation::RecordLoad => Ok(Reply::data(self.record().await?)),
            Operation::RecordStore { record } => Ok(self.store(&record).await?),
            // Hosts' reservations are the block target's; those of the disks are no host's business.
            Operation::ReservationOut(_) | Operation::ReservationIn | Operation::Scsi { .. } => {
                Err(Status::Unsupported.into())
            }
        }
    }

    fn lba_status(&self, at: u64, end: u64) -> Result<Reply, Status> {
        let block = u64::from(BLOCK_SIZE);
        let parts = match self.layout() {
            Layout::Runs => vec![(end - at, true)],
            Layout::Mapped(mapped) => mapped.status(at, end, LBA_RUNS),
            Layout::Lost => return Err(Status::MediumError),
        };
        let mut lba = at / block;
        let mut runs = Vec::with_capacity(parts.len());
        for (length, mapped) in parts.into_iter().filter(|(length, _)| *length > 0) {
            // The range has no more blocks than this figure holds.
            let blocks = (length / block) as u32;
            runs.push(LbaRun { lba, blocks, mapped });
            lba += u64::from(blocks);
        }
        Ok(Reply::lba_status(&runs))
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
        let taken = self.space.with(|extents| extents.take(1));
        let Some(at) = taken.and_then(|runs| Some(runs.first()?.start)) else {
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
            Err(MirrorError::Label(_)) => {
                // No label says so, and none will.
                self.space.with(|extents| extents.release(at));
                Ok(None)
            }
            // It may stand in a label: it stays taken.
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

    async fn read(&self, at: u64, end: u64) -> Result<Bytes, Status> {
        let (entry, layout) = self.lock().clone();
        match layout {
            Layout::Runs => {}
            Layout::Mapped(mapped) => return mapped.read(at, end).await.map_err(status),
            Layout::Lost => return Err(Status::MediumError),
        }
        let segments = segments(&entry, at, end);
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

    async fn write(&self, at: u64, mut data: Bytes, fua: bool) -> Result<(), Undone> {
        let (entry, layout) = self.lock().clone();
        match layout {
            Layout::Runs => {}
            Layout::Mapped(mapped) => return Ok(mapped.write(at, data, fua).await?),
            Layout::Lost => return Err(Status::MediumError.into()),
        }
        let segments = segments(&entry, at, at + data.len() as u64);
        let parts = segments
            .into_iter()
            .map(|(at, length)| (at, data.split_to(length as usize)))
            .map(async |(at, part)| match fua {
                true => self.mirror.write(at, part).await,
                false => self.mirror.write_cached(at, part).await,
            })
            .collect::<Vec<_>>();
        // Every part runs to its end, so that nothing is under way any more when the range is given back.
        let results = futures_util::future::join_all(parts).await;
        Ok(results.into_iter().collect::<Result<(), _>>()?)
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
            .unwrap_or_else(|Undone(status, detail)| Reply::with_detail(status, detail))
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
            table: Vec::new(),
            thin: false,
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
