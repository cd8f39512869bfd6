//! Volumes and snapshots of an embedded pool, brought to what the configuration says.
//!
//! What is there is what the label says. A table, or a copy of one, is whole on the disks before a label names it; an
//! extent is free once a label, or a table, that has it no longer is durable. Where nobody knows whether a label stands
//! (the pool was suspended on the way), both what it says and what was before keep their extents, until the next import
//! reads which it is.

use crate::backend::{PoolError, Wanted, WantedSnapshot, WantedVolume};
use crate::embedded::EmbeddedPool;
use crate::extents::Misplaced;
use crate::label::{EXTENT_BYTES, Label, Run, SnapshotEntry, VolumeEntry};
use crate::map::Map;
use crate::mapped::{Mapped, MappedError, Unreadable, read_table};
use crate::mirror::{HOLD, Mirror, MirrorError};
use crate::table;
use crate::volume::{Layout, Volume};
use pollux_api::config::item::ItemId;
use pollux_api::id::VolumeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::{error, info};

/// A volume of which a snapshot is taken: who serves it, where its extents are, and what the label says of it.
type Still = (Arc<Volume>, Arc<Mapped<Mirror>>, VolumeEntry);

/// A volume is this from now on; its journal is what the label says, in whose turn it may have come.
fn put_entry(label: &mut Label, id: VolumeId, entry: &VolumeEntry) {
    let journal = label.volumes.get(&id).and_then(|entry| entry.journal);
    let entry = VolumeEntry {
        journal: journal.or(entry.journal),
        ..entry.clone()
    };
    label.volumes.insert(id, entry);
}

impl EmbeddedPool {
    /// Reads every table after an import: where volumes stand, and which extents are in use. One that is damaged costs
    /// its own volume, and new extents for all: what it leads to is not known.
    pub(crate) async fn load(&self) -> Result<(), PoolError> {
        let label = self.mirror.label();
        for (id, entry) in &label.volumes {
            self.learn(*id, entry).await?;
        }
        for (id, entry) in &label.snapshots {
            let read = self.read(id.0.0, &entry.table, entry.extents()).await;
            self.whole("snapshot", &id.to_string(), read)?;
        }
        self.renew_promise();
        Ok(())
    }

    /// How the extents of a volume of the label are found.
    async fn learn(&self, id: VolumeId, entry: &VolumeEntry) -> Result<(), PoolError> {
        let layout = match entry.table.is_empty() {
            true => Layout::Runs,
            false => {
                let read = self.read(*id.as_bytes(), &entry.table, entry.extents()).await;
                match self.whole("volume", &id.to_string(), read)? {
                    Some(map) => Layout::Mapped(Arc::new(self.mapped(map, entry.thin))),
                    None => Layout::Lost,
                }
            }
        };
        self.know(id, entry, layout);
        Ok(())
    }

    async fn read(&self, owner: table::Owner, table: &[u64], extents: u64) -> Result<Map, Unreadable> {
        read_table(&*self.mirror, owner, table, extents).await
    }

    /// What a table that was read leads to is in use. `None`: it is damaged.
    fn whole(
        &self,
        what: &str,
        which: &str,
        read: Result<Map, Unreadable>,
    ) -> Result<Option<Map>, PoolError> {
        let referred = match read {
            Err(Unreadable::Mirror(source)) => return Err(self.failed(source)),
            Err(damaged) => Err(damaged),
            Ok(map) => self.refer(&map).map(|()| map).map_err(Unreadable::from),
        };
        match referred {
            Ok(map) => Ok(Some(map)),
            Err(damaged) => {
                error!(pool = %self.mirror.label().pool, what, which, %damaged, "its table cannot be used: the pool gives no new extents");
                self.space.with(|extents| extents.seal());
                Ok(None)
            }
        }
    }

    fn refer(&self, map: &Map) -> Result<(), Misplaced> {
        self.space
            .with(|extents| map.mapped().try_for_each(|extent| extents.refer(extent)))
    }

    fn mapped(&self, map: Map, thin: bool) -> Mapped<Mirror> {
        Mapped::new(self.mirror.clone(), self.space.clone(), map, thin)
    }

    /// Thick volumes find room for what they share with snapshots.
    fn renew_promise(&self) {
        let known: Vec<_> = self.known().values().map(|volume| volume.layout()).collect();
        let shared = known.iter().map(|layout| match layout {
            Layout::Mapped(mapped) if !mapped.is_thin() => mapped.shared_and_own().0,
            _ => 0,
        });
        let promised = shared.sum();
        self.space.with(|extents| extents.promise(promised));
    }

    fn full(&self, volume: VolumeId, needed: u64) -> PoolError {
        let free = self.space.with(|extents| extents.available());
        PoolError::Full {
            pool: self.mirror.label().pool,
            volume,
            needed: needed * EXTENT_BYTES,
            free: free * EXTENT_BYTES,
        }
    }

    /// Extents that are nobody's yet, zeroed: whoever had them before must not be read there, and legs that never were
    /// equal become so.
    async fn fresh(&self, volume: VolumeId, count: u64) -> Result<Vec<Run>, PoolError> {
        let taken = self.space.with(|extents| extents.take(count));
        let runs = taken.ok_or_else(|| self.full(volume, count))?;
        for Run { start, count } in &runs {
            let zeroed = self.mirror.unmap(start * EXTENT_BYTES, count * EXTENT_BYTES);
            // What was begun there may still take effect: these extents are not given to anybody else.
            zeroed.await.map_err(|source| self.failed(source))?;
        }
        Ok(runs)
    }

    async fn fresh_table(&self, volume: VolumeId, extents: u64) -> Result<Vec<u64>, PoolError> {
        let runs = self.fresh(volume, table::size(extents)).await?;
        Ok(runs
            .iter()
            .flat_map(|run| run.start..run.start + run.count)
            .collect())
    }

    fn release(&self, extents: impl IntoIterator<Item = u64>) {
        self.space.with(|space| {
            for extent in extents {
                space.release(extent);
            }
        });
    }

    async fn relabel(&self, change: impl Fn(&mut Label)) -> Result<Arc<Label>, MirrorError> {
        let changed = self.mirror.relabel(|label| {
            change(label);
            Ok(())
        });
        changed.await
    }

    async fn put(&self, index: u64, id: VolumeId, entry: &VolumeEntry) -> Result<(), PoolError> {
        let put = self.relabel(|label| {
            put_entry(label, id, entry);
            label.config_index = label.config_index.max(index);
        });
        put.await.map(drop).map_err(|source| self.failed(source))
    }

    fn not_mapped(&self, id: VolumeId, error: MappedError) -> PoolError {
        match error {
            MappedError::NoRoom => self.full(id, 1),
            MappedError::Mirror(source) => self.failed(source),
        }
    }

    /// Makes or grows one volume.
    pub(crate) async fn provide(&self, index: u64, wanted: &WantedVolume) -> Result<(), PoolError> {
        let id = wanted.id;
        let label = self.mirror.label();
        let Some(mut entry) = label.volumes.get(&id).cloned() else {
            let entry = self.make(index, wanted).await?;
            info!(pool = %label.pool, volume = %id, size_bytes = entry.size_bytes, thin = entry.thin, "volume provided");
            return self.serve(id, &entry);
        };
        if !self.known().contains_key(&id) {
            // When it was made nobody knew whether the label stood.
            self.learn(id, &entry).await?;
        }
        if wanted.thin || !entry.table.is_empty() {
            entry = self.with_table(index, id, wanted.thin).await?;
        }
        if wanted.size_bytes > entry.size_bytes {
            let runs: u64 = entry.runs.iter().map(|run| run.count).sum();
            let (before, extents) = (entry.extents(), wanted.size_bytes.div_ceil(EXTENT_BYTES));
            if entry.table.is_empty() {
                entry
                    .runs
                    .extend(self.fresh(id, extents.saturating_sub(runs)).await?);
            } else {
                let more = table::size(extents) - table::size(before).min(entry.table.len() as u64);
                let needed = more + if wanted.thin { 0 } else { extents - before };
                if needed > self.space.with(|extents| extents.available()) {
                    return Err(self.full(id, needed));
                }
                let runs = self.fresh(id, more).await?;
                let more = runs.iter().flat_map(|run| run.start..run.start + run.count);
                entry.table.extend(more);
            }
            entry.size_bytes = wanted.size_bytes;
            self.put(index, id, &entry).await?;
            info!(pool = %label.pool, volume = %id, size_bytes = entry.size_bytes, "volume has grown");
        }
        let volume = self.known().get(&id).cloned();
        if let Some(volume) = volume {
            let layout = volume.layout();
            if let Layout::Mapped(mapped) = &layout {
                mapped.map().grow(entry.table.clone(), entry.extents());
            }
            volume.set(entry.clone(), layout);
            self.make_thick_or_thin(index, &volume, &mut entry, wanted)
                .await?;
        }
        if !self.served().contains_key(&id) {
            self.serve(id, &entry)?;
        }
        Ok(())
    }

    async fn make(&self, index: u64, wanted: &WantedVolume) -> Result<VolumeEntry, PoolError> {
        let (id, extents) = (wanted.id, wanted.size_bytes.div_ceil(EXTENT_BYTES));
        let mut entry = VolumeEntry {
            size_bytes: wanted.size_bytes,
            runs: Vec::new(),
            journal: None,
            table: Vec::new(),
            thin: wanted.thin,
        };
        match wanted.thin {
            true => entry.table = self.fresh_table(id, extents).await?,
            false => entry.runs = self.fresh(id, extents).await?,
        }
        self.put(index, id, &entry).await?;
        let layout = match wanted.thin {
            true => {
                let map = Map::new(*id.as_bytes(), entry.table.clone(), extents, Vec::new());
                Layout::Mapped(Arc::new(self.mapped(map, true)))
            }
            false => Layout::Runs,
        };
        self.know(id, &entry, layout);
        Ok(entry)
    }

    /// Of a volume with a table: whether it gives extents back, and that a thick one has them all.
    async fn make_thick_or_thin(
        &self,
        index: u64,
        volume: &Volume,
        entry: &mut VolumeEntry,
        wanted: &WantedVolume,
    ) -> Result<(), PoolError> {
        let Layout::Mapped(mapped) = volume.layout() else {
            return Ok(());
        };
        let (id, holes) = (wanted.id, mapped.map().holes().count() as u64);
        if !wanted.thin && holes > 0 {
            if holes > self.space.with(|extents| extents.available()) {
                return Err(self.full(id, holes));
            }
            // From now on nothing is given back, so that what is filled stays.
            mapped.set_thin(false);
            volume.fill().await.map_err(|error| self.not_mapped(id, error))?;
        }
        mapped.set_thin(wanted.thin);
        if entry.thin != wanted.thin {
            entry.thin = wanted.thin;
            self.put(index, id, entry).await?;
            volume.set(entry.clone(), volume.layout());
            info!(pool = %self.mirror.label().pool, volume = %id, thin = entry.thin, "volume is another kind");
        }
        self.renew_promise();
        Ok(())
    }

    /// Gives a volume a table that leads to the extents which it has, if it has none.
    async fn with_table(&self, index: u64, id: VolumeId, thin: bool) -> Result<VolumeEntry, PoolError> {
        let before = self.mirror.label().volumes.get(&id).cloned();
        let volume = self.known().get(&id).cloned();
        let (Some(before), Some(volume)) = (before, volume) else {
            return Err(PoolError::NoVolume {
                pool: self.mirror.label().pool,
                volume: id,
            });
        };
        if !before.table.is_empty() {
            if matches!(volume.layout(), Layout::Runs) {
                // It was given one, and nobody knew whether the label stood. The table leads to the same extents.
                let _whole = volume.hold().await;
                let read = self.read(*id.as_bytes(), &before.table, before.extents()).await;
                let map = read.map_err(|error| match error {
                    Unreadable::Mirror(source) => self.failed(source),
                    Unreadable::Damaged(_) | Unreadable::Misplaced(_) => self.failed(MirrorError::Medium),
                })?;
                let own: Vec<u64> = map.mapped().collect();
                self.space.with(|extents| extents.loosen(own));
                let mapped = Arc::new(self.mapped(map, before.thin));
                volume.set(before.clone(), Layout::Mapped(mapped));
            }
            return Ok(before);
        }
        let table = self.fresh_table(id, before.extents()).await?;
        let _whole = volume.hold().await;
        let map = Map::new(*id.as_bytes(), table.clone(), before.extents(), Vec::new());
        let mapped = self.mapped(map, thin);
        let own = before
            .runs
            .iter()
            .flat_map(|run| run.start..run.start + run.count);
        for (extent, place) in (0..).zip(own) {
            mapped.map().set(extent, Some(place));
        }
        let settled = mapped.settle(0..u64::MAX).await;
        settled.map_err(|source| self.failed(source))?;
        let entry = VolumeEntry {
            runs: Vec::new(),
            table,
            thin,
            ..before.clone()
        };
        // Whether this label stands or the one before: both lead to the same extents.
        self.put(index, id, &entry).await?;
        let own = before
            .runs
            .iter()
            .flat_map(|run| run.start..run.start + run.count);
        self.space.with(|extents| extents.loosen(own));
        volume.set(entry.clone(), Layout::Mapped(Arc::new(mapped)));
        Ok(entry)
    }

    /// Removes volumes and snapshots that are wanted no longer.
    pub(crate) async fn remove(&self, index: u64, wanted: &Wanted) -> Result<(), PoolError> {
        let label = self.mirror.label();
        let gone: BTreeSet<VolumeId> = label
            .volumes
            .keys()
            .copied()
            .filter(|id| wanted.volumes.iter().all(|volume| volume.id != *id))
            .collect();
        for id in &gone {
            let served = self.served().remove(id);
            let Some(served) = served else { continue };
            // Its extents go to others: no command of its own may be under way any more. Each ends within the hold.
            if !served.close(Instant::now() + HOLD * 2).await {
                return Err(PoolError::Deadline {
                    pool: label.pool,
                    what: "ending the commands of a volume that is removed",
                    after: HOLD * 2,
                });
            }
        }
        let label = self.mirror.label();
        let ended = |id: &ItemId, entry: &SnapshotEntry| {
            gone.contains(&entry.volume) || wanted.snapshots.iter().all(|snapshot| snapshot.id != *id)
        };
        let snapshots: BTreeMap<ItemId, &SnapshotEntry> = label
            .snapshots
            .iter()
            .filter(|(id, entry)| ended(id, entry))
            .map(|(id, entry)| (*id, entry))
            .collect();
        if gone.is_empty() && snapshots.is_empty() {
            return Ok(());
        }
        let mut free: Vec<u64> = Vec::new();
        for (id, entry) in &snapshots {
            free.extend(&entry.table);
            match self.read(id.0.0, &entry.table, entry.extents()).await {
                Ok(map) => free.extend(map.mapped()),
                Err(Unreadable::Mirror(source)) => return Err(self.failed(source)),
                // Nothing is given by this import anyway; the next one does not read it any more.
                Err(damaged) => error!(snapshot = %id, %damaged, "removed unread"),
            }
        }
        for id in &gone {
            let Some(entry) = label.volumes.get(id) else {
                continue;
            };
            free.extend(entry.journal.iter().chain(&entry.table));
            free.extend(entry.runs.iter().flat_map(|run| run.start..run.start + run.count));
            let layout = self.known().get(id).map(|volume| volume.layout());
            if let Some(Layout::Mapped(mapped)) = layout {
                free.extend(mapped.map().everything());
            }
        }
        let removed = self.relabel(|label| {
            label.snapshots.retain(|id, _| !snapshots.contains_key(id));
            label.volumes.retain(|id, _| !gone.contains(id));
            label.config_index = label.config_index.max(index);
        });
        removed.await.map_err(|source| self.failed(source))?;
        self.known().retain(|id, _| !gone.contains(id));
        self.release(free);
        self.renew_promise();
        info!(pool = %label.pool, ?gone, snapshots = ?snapshots.keys(), "volumes and snapshots removed");
        Ok(())
    }

    /// Takes the snapshots that are wanted and not there, all at one instant.
    pub(crate) async fn take_snapshots(
        &self,
        index: u64,
        wanted: &[WantedSnapshot],
    ) -> Result<(), PoolError> {
        let label = self.mirror.label();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|one| !label.snapshots.contains_key(&one.id) && label.volumes.contains_key(&one.volume))
            .collect();
        let mut volumes: BTreeMap<VolumeId, Still> = BTreeMap::new();
        for id in missing.iter().map(|one| one.volume) {
            if volumes.contains_key(&id) {
                continue;
            }
            let entry = self.with_table(index, id, false).await?;
            let volume = self.known().get(&id).cloned();
            match volume.map(|volume| (volume.layout(), volume)) {
                Some((Layout::Mapped(mapped), volume)) => drop(volumes.insert(id, (volume, mapped, entry))),
                _ => {
                    return Err(PoolError::NoVolume {
                        pool: label.pool,
                        volume: id,
                    });
                }
            }
        }
        let mut taken: BTreeMap<ItemId, SnapshotEntry> = BTreeMap::new();
        for one in &missing {
            let Some((_, _, entry)) = volumes.get(&one.volume) else {
                continue;
            };
            let table = self.fresh_table(one.volume, entry.extents()).await?;
            let snapshot = SnapshotEntry {
                volume: one.volume,
                size_bytes: entry.size_bytes,
                table,
            };
            taken.insert(one.id, snapshot);
        }
        if taken.is_empty() {
            return Ok(());
        }
        let undo = || self.release(taken.values().flat_map(|entry| entry.table.iter().copied()));
        let mut held = Vec::new();
        for (volume, mapped, _) in volumes.values() {
            held.push(volume.hold().await);
            let settled = mapped.settle(0..u64::MAX).await;
            settled.map_err(|source| self.failed(source))?;
        }
        // A snapshot keeps what it has been told, also over a loss of power.
        self.mirror.flush().await.map_err(|source| self.failed(source))?;
        // A thick volume must find room to write every extent anew.
        let thick = volumes.iter().filter(|(_, (_, mapped, _))| !mapped.is_thin());
        for (id, (_, mapped, _)) in thick {
            let (_, needed) = mapped.shared_and_own();
            let room = self.space.with(|extents| {
                let room = needed <= extents.available();
                if room {
                    extents.promise(extents.promised() + needed);
                }
                room
            });
            if !room {
                let full = self.full(*id, needed);
                undo();
                self.renew_promise();
                return Err(full);
            }
        }
        for (id, entry) in &taken {
            if let Some((_, mapped, _)) = volumes.get(&entry.volume) {
                let copied = mapped.copy(id.0.0, &entry.table).await;
                copied.map_err(|source| self.failed(source))?;
                // Before a label says so: from here on a write goes elsewhere, whatever becomes of the label.
                if let Err(misplaced) = self.refer(&mapped.map()) {
                    error!(pool = %label.pool, %misplaced, "extents are counted wrongly");
                }
            }
        }
        let put = self.relabel(|label| {
            label.snapshots.extend(taken.clone());
            label.config_index = label.config_index.max(index);
        });
        let put = put.await;
        if let Err(MirrorError::Label(_)) = &put {
            // No label says so, and none will.
            for entry in taken.values() {
                if let Some((_, mapped, _)) = volumes.get(&entry.volume) {
                    let mapped: Vec<u64> = mapped.map().mapped().collect();
                    self.release(mapped);
                }
            }
            undo();
        }
        self.renew_promise();
        drop(held);
        put.map_err(|source| self.failed(source))?;
        info!(pool = %label.pool, snapshots = ?taken.keys(), "snapshots taken");
        Ok(())
    }

    /// Makes a volume what it was when a snapshot was taken. The snapshot stays.
    pub(crate) async fn roll_back_to(&self, snapshot: ItemId) -> Result<VolumeId, PoolError> {
        let _one = self.reconcile.lock().await;
        let label = self.mirror.label();
        let missing = || PoolError::NoSnapshot {
            pool: label.pool,
            snapshot,
        };
        let entry = label.snapshots.get(&snapshot).ok_or_else(missing)?;
        let id = entry.volume;
        let volume = self.known().get(&id).cloned();
        let (Some(before), Some(volume)) = (label.volumes.get(&id).cloned(), volume) else {
            return Err(missing());
        };
        let Layout::Mapped(present) = volume.layout() else {
            return Err(missing());
        };
        let read = self.read(snapshot.0.0, &entry.table, entry.extents()).await;
        let then = match read {
            Ok(map) => map,
            Err(Unreadable::Mirror(source)) => return Err(self.failed(source)),
            Err(damaged) => {
                error!(%snapshot, %damaged, "nothing was rolled back");
                return Err(missing());
            }
        };
        let needed = before.extents();
        if !before.thin && self.space.with(|extents| extents.available()) < needed {
            return Err(self.full(id, needed));
        }
        let table = self.fresh_table(id, before.extents()).await?;
        let _whole = volume.hold().await;
        let map = Map::new(*id.as_bytes(), table.clone(), before.extents(), Vec::new());
        let mapped = Arc::new(self.mapped(map, before.thin));
        for extent in 0..then.extents() {
            if let Some(place) = then.get(extent) {
                mapped.map().set(extent, Some(place));
            }
        }
        let settled = mapped.settle(0..u64::MAX).await;
        settled.map_err(|source| self.failed(source))?;
        if let Err(misplaced) = self.refer(&then) {
            error!(pool = %label.pool, %misplaced, "extents are counted wrongly");
        }
        let after = VolumeEntry {
            table,
            ..before.clone()
        };
        loop {
            let put = self.relabel(|label| put_entry(label, id, &after));
            match put.await {
                Ok(_) => break,
                // Which of the two stands is not known: nobody writes to either until it is.
                Err(MirrorError::Held) => {}
                Err(source @ MirrorError::Label(_)) => {
                    self.release(
                        then.mapped()
                            .chain(after.table.iter().copied())
                            .collect::<Vec<_>>(),
                    );
                    return Err(self.failed(source));
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
        let mut free: Vec<u64> = present.map().everything().collect();
        free.extend(&before.table);
        volume.set(after.clone(), Layout::Mapped(mapped));
        self.release(free);
        self.renew_promise();
        drop(_whole);
        info!(pool = %label.pool, volume = %id, %snapshot, "rolled back");
        if !after.thin {
            volume.fill().await.map_err(|error| self.not_mapped(id, error))?;
        }
        Ok(id)
    }
}
