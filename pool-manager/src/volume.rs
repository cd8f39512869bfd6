//! A volume whose bytes are in a mirror: what hosts ask ([`commands`](crate::commands)) becomes ranges of it.

use crate::commands::{Blocks, Journal, NO_ROOM, Undone};
use crate::extents::Space;
use crate::journal::SLOT_BYTES;
use crate::label::{EXTENT_BYTES, Label, VolumeEntry};
use crate::mapped::{Mapped, MappedError};
use crate::mirror::{Mirror, MirrorError};
use crate::range::{Guard, Ranges};
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use pollux_api::id::VolumeId;
use pollux_block_frame::Status;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    journal: Journal,
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
            journal: Journal::default(),
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

    /// The extent of the journal, taken now if there is none yet.
    async fn journal_extent(&self) -> Result<Option<u64>, Status> {
        if let Some(at) = self.journal_known() {
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
            Ok(_) => Ok(self.journal_known()),
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
    fn journal_known(&self) -> Option<u64> {
        self.mirror.label().volumes.get(&self.id)?.journal
    }
}

impl Blocks for Volume {
    fn id(&self) -> VolumeId {
        self.id
    }

    fn size_bytes(&self) -> u64 {
        self.lock().0.size_bytes
    }

    fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Whole extents where the change is more than bytes on the volume's own extents.
    async fn claim(&self, at: u64, end: u64, unmap: bool) -> Guard<'_> {
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

    async fn read(&self, at: u64, end: u64) -> Result<Bytes, Undone> {
        let (entry, layout) = self.lock().clone();
        match layout {
            Layout::Runs => {}
            Layout::Mapped(mapped) => return Ok(mapped.read(at, end).await?),
            Layout::Lost => return Err(Status::MediumError.into()),
        }
        let segments = segments(&entry, at, end);
        if let [(at, length)] = segments[..] {
            return Ok(self.mirror.read(at, length).await?);
        }
        let parts = segments
            .into_iter()
            .map(|(at, length)| self.mirror.read(at, length));
        let parts = try_join_all(parts).await?;
        Ok(parts
            .into_iter()
            .fold(BytesMut::with_capacity((end - at) as usize), |mut all, part| {
                all.extend_from_slice(&part);
                all
            })
            .freeze())
    }

    async fn write(&self, at: u64, mut data: Bytes, durable: bool) -> Result<(), Undone> {
        if !durable {
            // Before it is written: caches that are lost meanwhile are lost for it.
            let losses = self.mirror.losses();
            self.cached().get_or_insert(Cached { losses, writes: 0 }).writes += 1;
        }
        let (entry, layout) = self.lock().clone();
        match layout {
            Layout::Runs => {}
            Layout::Mapped(mapped) => return Ok(mapped.write(at, data, durable).await?),
            Layout::Lost => return Err(Status::MediumError.into()),
        }
        let segments = segments(&entry, at, at + data.len() as u64);
        let parts = segments
            .into_iter()
            .map(|(at, length)| (at, data.split_to(length as usize)))
            .map(async |(at, part)| match durable {
                true => self.mirror.write(at, part).await,
                false => self.mirror.write_cached(at, part).await,
            })
            .collect::<Vec<_>>();
        // Every part runs to its end, so that nothing is under way any more when the range is given back.
        let results = futures_util::future::join_all(parts).await;
        Ok(results.into_iter().collect::<Result<(), _>>()?)
    }

    async fn flush(&self) -> Result<(), Undone> {
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
        match lost {
            true => Err(Status::MediumError.into()),
            false => Ok(()),
        }
    }

    async fn unmap(&self, at: u64, end: u64) -> Result<(), Undone> {
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
        Ok(())
    }

    fn mapped(&self, at: u64, end: u64) -> Result<Vec<(u64, bool)>, Undone> {
        match self.layout() {
            Layout::Runs => Ok(vec![(end - at, true)]),
            Layout::Mapped(mapped) => Ok(mapped.status(at, end, LBA_RUNS)),
            Layout::Lost => Err(Status::MediumError.into()),
        }
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    async fn journal_at(&self, make: bool) -> Result<Option<u64>, Undone> {
        let extent = match make {
            true => self.journal_extent().await?,
            false => self.journal_known(),
        };
        Ok(extent.map(|extent| extent * EXTENT_BYTES))
    }

    async fn read_slot(&self, at: u64) -> Result<Bytes, Undone> {
        Ok(self.mirror.read(at, SLOT_BYTES).await?)
    }

    async fn write_slot(&self, at: u64, bytes: Bytes) -> Result<(), Undone> {
        Ok(self.mirror.write(at, bytes).await?)
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
