//! The embedded backend: pools as mirrors over the disks of the chassis' shelf.
//!
//! An import reads every member's label, decides which legs hold every acknowledged write, makes the crash's traces
//! harmless (regions that were being written are made equal before they are read), and opens a socket per volume. It
//! copies nothing before it serves, so its time grows neither with the size of the pool nor with what was in flight.
//!
//! A member that its label calls in sync and that cannot be read stops the import: it could be the very leg on which the
//! old owner went on alone after recording *there* that the others had failed.

use crate::assemble;
use crate::backend::{Backend, Imported, PoolError, Wanted};
use crate::commands::{Blocks, Commands};
use crate::disks::{Disks, Session};
use crate::extents::{Extents, Space};
use crate::fence::{self, Exclusion};
use crate::intent::{self, Intents};
use crate::label::{self, EXTENT_BYTES, Label, MemberState, VolumeEntry};
use crate::mirror::{Condition, Mirror, MirrorError, Surroundings, read_intents};
use crate::record::Records;
use crate::volume::{Layout, Volume};
use futures_util::future::join_all;
use pollux_api::config;
use pollux_api::config::item::ItemId;
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::pool::{Made, PoolEvent, PoolHealth, ReservationKey, SeenPool};
use pollux_block_frame::{Purpose, Server, ServerOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

/// How often idle write intents are looked for.
const CLEAR_EVERY: Duration = Duration::from_millis(500);

/// What such a pool is made of.
const MADE: Made = Made {
    backend: config::Backend::Embedded,
    level: None,
};

/// Free space in percent that is low, until the configuration has said another figure.
pub const LOW_PERCENT: u8 = 10;

/// Pools on the shelf.
#[derive(Debug)]
pub struct Embedded {
    disks: Arc<Disks>,
    /// Where volumes' sockets are made.
    sockets: PathBuf,
    records: Arc<Records>,
    /// How often the own keys are read back.
    key_check: Duration,
}

impl Embedded {
    /// Pools on `disks`; volumes' sockets in `sockets`; what a restart has to know in `records`.
    pub fn new(disks: Arc<Disks>, sockets: &Path, records: Arc<Records>, key_check: Duration) -> Self {
        Embedded {
            disks,
            sockets: sockets.to_owned(),
            records,
            key_check,
        }
    }

    /// The disks.
    pub fn disks(&self) -> &Arc<Disks> {
        &self.disks
    }

    fn start(
        &self,
        evidence: Exclusion,
        label: Label,
        intents: Intents,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> EmbeddedPool {
        let (records, pool) = (self.records.clone(), label.pool);
        let power_off = evidence.power_off();
        let remember = Box::new(move |label: &Label| {
            if let Err(error) = records.write(label, power_off) {
                error!(%pool, %error, "a restart will not find this pool");
            }
        });
        remember(&label);
        let space = Arc::new(Space::new(Extents::of(&label)));
        let reports = events.clone();
        let mirror = Mirror::new(
            self.disks.clone(),
            evidence,
            label,
            intents,
            Surroundings { events, remember },
        );
        let low = watch::Sender::new((LOW_PERCENT, false));
        EmbeddedPool {
            sockets: self.sockets.clone(),
            array: Uuid::from_bytes(*self.disks.array().as_bytes()),
            records: self.records.clone(),
            known: Mutex::default(),
            volumes: Mutex::default(),
            reconcile: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(vec![
                tokio::spawn(watch_space(mirror.clone(), space.clone(), low.clone(), reports)).abort_handle(),
                tokio::spawn(tend(mirror.clone(), self.key_check)).abort_handle(),
                tokio::spawn(clear(mirror.clone())).abort_handle(),
                tokio::spawn(equalize(mirror.clone())).abort_handle(),
            ]),
            space,
            low,
            mirror,
        }
    }

    /// The label with which a pool is imported, and the regions in which legs may differ.
    async fn assemble(&self, evidence: &Exclusion) -> Result<(Label, Intents), PoolError> {
        let pool = evidence.pool();
        let label = assemble::label(&self.disks, evidence).await?;
        let in_sync: Vec<_> = label.disks_in(MemberState::InSync).collect();
        let intents = match read_intents(&self.disks, &label, &in_sync).await {
            Some((sequence, _)) if label.clean => Intents::new(sequence, BTreeSet::new()),
            Some((sequence, marked)) => Intents::new(sequence, marked),
            None if label.clean => Intents::new(0, BTreeSet::new()),
            None => {
                warn!(%pool, "no write intents could be read: every region is compared");
                let bytes = label.extents * EXTENT_BYTES;
                let all = intent::regions(intent::region_bytes(bytes), 0, bytes);
                Intents::new(0, all.collect())
            }
        };
        Ok((label, intents))
    }

    async fn open(
        &self,
        evidence: Exclusion,
        label: Label,
        intents: Intents,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<EmbeddedPool, (Exclusion, PoolError)> {
        let (id, unsynced, clean) = (label.pool, intents.unsynced(), label.clean);
        let pool = self.start(evidence, label, intents, events);
        // From the first write on, the pool is not clean; and every leg learns whose it is now.
        let opened = async {
            let source = |source| PoolError::Mirror { pool: id, source };
            pool.mirror.begin().await.map_err(source)?;
            let label = pool.mirror.relabel(|label| {
                label.clean = false;
                Ok(())
            });
            let label = label.await.map_err(source)?;
            pool.load().await?;
            label
                .volumes
                .iter()
                .try_for_each(|(volume, entry)| pool.serve(*volume, entry))
        };
        if let Err(error) = opened.await {
            pool.stop();
            // A stopped mirror writes nothing any more: its proof may be used again.
            let evidence = pool.mirror.take_exclusion().await;
            return Err((evidence, error));
        }
        info!(pool = %id, clean, unsynced, volumes = pool.volumes().len(), "imported");
        Ok(pool)
    }
}

impl Backend for Embedded {
    type Pool = EmbeddedPool;

    async fn discover(&self) -> Vec<SeenPool> {
        let present = match self.disks.present() {
            Ok(present) => present,
            Err(error) => {
                warn!(%error, "the port directory cannot be listed");
                return Vec::new();
            }
        };
        let read = self.disks.each(&present, |disk| async move {
            let label = label::read(&self.disks, disk).await.ok()?.any().cloned()?;
            Some((label, fence::holder(&self.disks, disk).await))
        });
        let mut pools: BTreeMap<PoolId, (u64, SeenPool)> = BTreeMap::new();
        for (disk, found) in read.await {
            let Some((label, holder)) = found else { continue };
            let (txg, seen) = pools.entry(label.pool).or_insert_with(|| {
                let seen = SeenPool {
                    pool: label.pool,
                    name: label.name.clone(),
                    disks: Vec::new(),
                    holder,
                };
                (label.txg, seen)
            });
            seen.disks.push(disk);
            seen.holder = seen.holder.or(holder);
            if label.txg > *txg {
                (*txg, seen.name) = (label.txg, label.name);
            }
        }
        pools.into_values().map(|(_, seen)| seen).collect()
    }

    async fn propose(&self, _: &[DiskIndex], chosen: Option<config::Backend>) -> Result<Made, PoolError> {
        match chosen {
            None | Some(config::Backend::Embedded) => Ok(MADE),
            Some(config::Backend::Lvm) => Err(PoolError::NoGroups {
                controller: self.disks.controller(),
                why: "this pool manager was started without them".to_owned(),
            }),
        }
    }

    async fn create(
        &self,
        evidence: Exclusion,
        name: &str,
        disks: &[DiskIndex],
        chosen: Option<config::Backend>,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<EmbeddedPool, (Exclusion, PoolError)> {
        if let Err(error) = self.propose(disks, chosen).await {
            return Err((evidence, error));
        }
        let room = |disk, session: &Session| match label::extents(session.bytes()) {
            0 => Err(PoolError::TooSmall {
                disk,
                bytes: session.bytes(),
            }),
            extents => Ok(extents),
        };
        match assemble::first(&self.disks, &evidence, name, disks, |_| false, room).await {
            Err(error) => Err((evidence, error)),
            Ok(label) => {
                self.open(evidence, label, Intents::new(0, BTreeSet::new()), events)
                    .await
            }
        }
    }

    async fn import(
        &self,
        evidence: Exclusion,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<EmbeddedPool, (Exclusion, PoolError)> {
        match self.assemble(&evidence).await {
            Err(error) => Err((evidence, error)),
            Ok((label, intents)) => self.open(evidence, label, intents, events).await,
        }
    }
}

/// Reads the own keys back, and looks whether a suspension can end.
async fn tend(mirror: Arc<Mirror>, period: Duration) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first_back = None;
    loop {
        tick.tick().await;
        mirror.check_keys().await;
        mirror.try_resume(&mut first_back).await;
    }
}

/// Clears write intents that have been idle.
async fn clear(mirror: Arc<Mirror>) {
    let mut tick = tokio::time::interval(CLEAR_EVERY);
    loop {
        tick.tick().await;
        if let Err(MirrorError::Stopped) = mirror.clear_idle().await {
            return;
        }
    }
}

/// Makes legs equal: regions that a crash has left in doubt, then legs that are being copied to.
async fn equalize(mirror: Arc<Mirror>) {
    let began = Instant::now();
    let unsynced = mirror.unsynced();
    loop {
        match mirror.resync().await {
            Ok(()) => break,
            Err(MirrorError::Held) => {}
            Err(error) => return warn!(pool = %mirror.label().pool, %error, "legs were not made equal"),
        }
    }
    if unsynced > 0 {
        info!(pool = %mirror.label().pool, unsynced, took = ?began.elapsed(), "legs are equal");
    }
}

/// Says when free space gets below what the configuration calls low, and when it is above again.
async fn watch_space(
    mirror: Arc<Mirror>,
    space: Arc<Space>,
    low: watch::Sender<(u8, bool)>,
    events: mpsc::UnboundedSender<PoolEvent>,
) {
    let (mut used, mut percent) = (space.watch(), low.subscribe());
    loop {
        used.borrow_and_update();
        percent.borrow_and_update();
        let (total, free) = space.with(|extents| (extents.total(), extents.total() - extents.used()));
        // What only thick volumes take is theirs already: nobody runs out of it.
        let given = |label: &Label| label.volumes.values().any(|volume| !volume.table.is_empty());
        let matters = given(&mirror.label());
        let changed = low.send_if_modified(|(percent, low)| {
            let is = matters && free * 100 < total * u64::from(*percent);
            std::mem::replace(low, is) != is
        });
        if changed {
            let pool = mirror.label().pool;
            let (low, free_bytes, capacity_bytes) =
                (low.borrow().1, free * EXTENT_BYTES, total * EXTENT_BYTES);
            warn!(%pool, low, free_bytes, capacity_bytes, "free space of a pool");
            // Without a listener the daemon is on its way out.
            let _ = events.send(PoolEvent::Space {
                pool,
                low,
                free_bytes,
                capacity_bytes,
            });
        }
        tokio::select! {
            gone = used.changed() => if gone.is_err() { return },
            gone = percent.changed() => if gone.is_err() { return },
        }
    }
}

/// A volume that is served.
#[derive(Debug)]
pub(crate) struct Served<B: Blocks> {
    server: Arc<Server<Commands<B>>>,
    serving: JoinHandle<()>,
    socket: PathBuf,
}

impl<B: Blocks> Served<B> {
    /// Opens the socket of a volume.
    pub(crate) fn open(volume: Arc<B>, sockets: &Path, id: VolumeId, array: Uuid) -> Result<Self, PoolError> {
        let socket = sockets.join(format!("{id}.sock"));
        let io = |source| PoolError::Io {
            path: socket.clone(),
            source,
        };
        std::fs::create_dir_all(sockets).map_err(io)?;
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(io)?;
        let server = Server::new(
            Arc::new(Commands(volume)),
            ServerOptions::new(array, Purpose::Volume, None),
        );
        let serving = {
            let server = server.clone();
            tokio::spawn(async move { server.serve_unix(listener).await })
        };
        Ok(Served {
            server,
            serving,
            socket,
        })
    }

    /// Ends sessions at once.
    pub(crate) fn cut(self) {
        self.server.disconnect();
        self.serving.abort();
        self.unlink();
    }

    /// Ends sessions after their commands. `false`: they did not end in time, and still run.
    pub(crate) async fn close(mut self, deadline: Instant) -> bool {
        self.server.close();
        self.unlink();
        tokio::time::timeout_at(deadline, &mut self.serving).await.is_ok()
    }

    fn unlink(&self) {
        if let Err(error) = std::fs::remove_file(&self.socket) {
            warn!(socket = %self.socket.display(), %error, "not removed");
        }
    }
}

/// An imported mirror.
#[derive(Debug)]
pub struct EmbeddedPool {
    pub(crate) mirror: Arc<Mirror>,
    sockets: PathBuf,
    array: Uuid,
    records: Arc<Records>,
    /// Volumes that were ever served, with the ranges that their commands hold: these outlive a server that did not
    /// drain in time, so that its commands and those of the next one stay in order.
    known: Mutex<BTreeMap<VolumeId, Arc<Volume>>>,
    volumes: Mutex<BTreeMap<VolumeId, Served<Volume>>>,
    /// Held while volumes and snapshots are changed.
    pub(crate) reconcile: tokio::sync::Mutex<()>,
    pub(crate) space: Arc<Space>,
    /// Free space in percent below which it is low, and whether it is.
    low: watch::Sender<(u8, bool)>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for EmbeddedPool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl EmbeddedPool {
    pub(crate) fn served(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Served<Volume>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Arc<Volume>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume whose extents are found in that way.
    pub(crate) fn know(&self, id: VolumeId, entry: &VolumeEntry, layout: Layout) -> Arc<Volume> {
        let mut known = self.known();
        let new = || {
            Arc::new(Volume::new(
                id,
                self.mirror.clone(),
                entry.clone(),
                layout,
                self.space.clone(),
            ))
        };
        known.entry(id).or_insert_with(new).clone()
    }

    pub(crate) fn failed(&self, source: MirrorError) -> PoolError {
        PoolError::Mirror {
            pool: self.id(),
            source,
        }
    }

    /// Opens the socket of a volume.
    pub(crate) fn serve(&self, id: VolumeId, entry: &VolumeEntry) -> Result<(), PoolError> {
        let volume = self.know(id, entry, Layout::Runs);
        let served = Served::open(volume, &self.sockets, id, self.array)?;
        self.served().insert(id, served);
        Ok(())
    }

    /// Ends every command and every session; commands in flight come to their end first.
    async fn quiesce(&self, within: Duration) -> Result<(), PoolError> {
        let deadline = Instant::now() + within;
        let served = std::mem::take(&mut *self.served());
        let closed = join_all(served.into_values().map(|served| served.close(deadline))).await;
        match closed.into_iter().all(|in_time| in_time) {
            true => Ok(()),
            false => Err(PoolError::Deadline {
                pool: self.id(),
                what: "ending its commands",
                after: within,
            }),
        }
    }

    fn end_tasks(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }

    async fn leave(&self, within: Duration, last: impl Fn(&mut Label) + Copy) -> Result<(), PoolError> {
        let _no_changes = self.reconcile.lock().await;
        let began = Instant::now();
        self.quiesce(within).await?;
        let left = within.saturating_sub(began.elapsed());
        match timeout(left, self.mirror.close_clean(last)).await {
            Err(_) => {
                return Err(PoolError::Deadline {
                    pool: self.id(),
                    what: "leaving its disks clean",
                    after: within,
                });
            }
            Ok(result) => result.map_err(|source| self.failed(source))?,
        }
        self.end_tasks();
        self.mirror.release().await;
        self.records.forget(self.id());
        Ok(())
    }
}

impl Imported for EmbeddedPool {
    fn id(&self) -> PoolId {
        self.mirror.label().pool
    }

    fn name(&self) -> String {
        self.mirror.label().name.clone()
    }

    fn made(&self) -> Made {
        MADE
    }

    fn key(&self) -> ReservationKey {
        self.mirror.key()
    }

    fn space(&self) -> (u64, u64, u64) {
        self.space.with(|extents| {
            (
                extents.total() * EXTENT_BYTES,
                extents.used() * EXTENT_BYTES,
                EXTENT_BYTES,
            )
        })
    }

    fn health(&self) -> PoolHealth {
        self.mirror.health()
    }

    async fn reopen(&self) -> Result<(), PoolError> {
        let label = self.mirror.label();
        let missing = label
            .volumes
            .iter()
            .filter(|(id, _)| !self.served().contains_key(id));
        missing
            .into_iter()
            .try_for_each(|(id, entry)| self.serve(*id, entry))
    }

    fn volumes(&self) -> Vec<VolumeId> {
        self.served().keys().copied().collect()
    }

    fn condition(&self) -> watch::Receiver<Condition> {
        self.mirror.condition()
    }

    fn is_low(&self) -> bool {
        self.low.borrow().1
    }

    fn snapshots(&self) -> Vec<ItemId> {
        self.mirror.label().snapshots.keys().copied().collect()
    }

    async fn reconcile(&self, index: u64, wanted: &Wanted) -> Vec<PoolError> {
        let _one = self.reconcile.lock().await;
        if index < self.mirror.label().config_index {
            // An older configuration than the one that shaped this label knows nothing of what came after.
            return Vec::new();
        }
        self.low.send_if_modified(|(percent, _)| {
            std::mem::replace(percent, wanted.low_percent) != wanted.low_percent
        });
        if let Err(error) = self.remove(index, wanted).await {
            return vec![error];
        }
        let mut errors = Vec::new();
        for volume in &wanted.volumes {
            errors.extend(self.provide(index, volume).await.err());
        }
        errors.extend(self.take_snapshots(index, &wanted.snapshots).await.err());
        errors
    }

    async fn roll_back(&self, snapshot: ItemId) -> Result<VolumeId, PoolError> {
        self.roll_back_to(snapshot).await
    }

    async fn resync(&self, disk: DiskIndex) -> Result<(), PoolError> {
        let readmitted = self.mirror.readmit(disk).await;
        readmitted.map_err(|source| PoolError::Readmit {
            pool: self.id(),
            source,
        })?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(equalize(self.mirror.clone())).abort_handle());
        Ok(())
    }

    async fn export(&self, within: Duration) -> Result<(), PoolError> {
        self.leave(within, |label| label.clean = true).await
    }

    async fn destroy(&self, index: u64, within: Duration) -> Result<(), PoolError> {
        self.mirror.label().allows_deletion(index)?;
        self.leave(within, |label| label.clean = true).await
    }

    fn stop(&self) {
        self.mirror.stop();
        self.end_tasks();
        std::mem::take(&mut *self.served())
            .into_values()
            .for_each(Served::cut);
    }
}

/// The condition has become `Stopped`.
pub fn is_stopped(condition: &watch::Receiver<Condition>) -> bool {
    *condition.borrow() == Condition::Stopped
}
