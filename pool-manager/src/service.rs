//! The service `pool`: what heartbeat asks, kept in order per pool, and what the configuration wants, brought about.
//!
//! ```text
//!  pool.take -> proof kept -> pool.import -> imported -> pool.export -> (nothing)
//!                  |                            |
//!                  +-- pool.export: released    +-- pool.stop, wrong key, conflict: at once, disks untouched
//!                                               +-- pool.delete: no volumes are left, nor a group -> (nothing)
//! ```
//!
//! Per pool one thing happens at a time, except `stop`, which waits for nobody. Calls are idempotent for one key. A
//! restarted daemon finds the records of its predecessor and adopts those pools whose keys still stand on every disk.
//! Volumes follow the configuration: it is watched, nobody is told.

use crate::backend::{Backend, Imported, PoolError, Wanted};
use crate::disks::Disks;
use crate::embedded::{Embedded, is_stopped};
use crate::fence::{self, EvictError, Exclusion, FenceError};
use crate::kinds::Kinds;
use crate::lvm::Lvm;
use crate::lvmd::Lvmd;
use crate::plan::{self, Known};
use crate::record::{Record, Records};
use crate::schedule;
use pollux_api::config::Tables;
use pollux_api::config::follow::Follower;
use pollux_api::config::{self, Op, PoolSpace, Watched};
use pollux_api::error::{Code, RpcError};
use pollux_api::heartbeat;
use pollux_api::id::PoolId;
use pollux_api::lvm;
use pollux_api::pool::{
    CLEAR_KEY, ClearKey, ClearedKey, Contract, DELETE, EVENTS, EXPORT, Export, Exported, Held, IMPORT,
    IMPORTED, Import, Imported as ImportedReply, ImportedPool, LegState, ListImported, Made, PROPOSE,
    PoolEvent, PoolHealth, Propose, RESYNC, ROLL_BACK, Resync, RollBack, RolledBack, SERVICE, STATUS, STOP,
    Status, TAKE, Take, Taken,
};
use pollux_block_frame::{Status as DiskStatus, key};
use pollux_platform::signal::Shutdown;
use pollux_runtime::{Client, ControllerConfig, Ctx, Profile, Service};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

/// Longest wait of one `config.watch`.
const WATCH_WAIT: Duration = Duration::from_secs(20);
/// Pause before something is tried again that did not work.
const RETRY: Duration = Duration::from_millis(250);
/// How often it is looked which snapshots are due; they are minutes apart.
const SCHEDULES: Duration = Duration::from_secs(5);
/// Most deeds of one change that schedules ask for.
const DEEDS: usize = 500;
/// How long a deletion waits for the change of the configuration that heartbeat has seen already.
const CONFIGURED: Duration = Duration::from_secs(3);
/// How long a start waits for the pools of its predecessor before it reports ready without them.
const ADOPTION: Duration = Duration::from_secs(3);

/// How often own keys are read back: a quarter of the lease of the timing profile, and at least each second.
fn key_check(profile: Profile) -> Duration {
    let lease = match profile {
        Profile::Fast => Duration::from_secs(1),
        Profile::Safe => Duration::from_secs(5),
        Profile::Ci => Duration::from_secs(3),
    };
    (lease / 4).min(Duration::from_secs(1))
}

/// One pool, known because somebody asked about it.
#[derive(Debug)]
struct Entry<P> {
    /// One thing at a time; inside, the proof that waits for its import.
    turn: tokio::sync::Mutex<Option<Exclusion>>,
    imported: Mutex<Option<Arc<P>>>,
    /// The predecessor's pool is still to be adopted.
    adopting: AtomicBool,
}

impl<P> Default for Entry<P> {
    fn default() -> Self {
        Entry {
            turn: Default::default(),
            imported: Default::default(),
            adopting: AtomicBool::new(false),
        }
    }
}

impl<P> Entry<P> {
    fn imported(&self) -> MutexGuard<'_, Option<Arc<P>>> {
        lock(&self.imported)
    }
}

/// The pool manager's state.
#[derive(Debug)]
pub struct Manager<B: Backend> {
    backend: B,
    disks: Arc<Disks>,
    records: Arc<Records>,
    place: String,
    pools: Mutex<HashMap<PoolId, Arc<Entry<B::Pool>>>>,
    events: mpsc::UnboundedSender<PoolEvent>,
    config: watch::Sender<Known>,
    /// Pools that the configuration has no more: the last one that had them, which may not have been followed to its end.
    last: Mutex<HashMap<PoolId, Arc<(u64, Tables)>>>,
    spaces: watch::Sender<HashMap<PoolId, PoolSpace>>,
}

impl<B: Backend> Manager<B> {
    /// A manager of pools of one kind; events come out at the other end of `events`.
    pub fn new(
        backend: B,
        disks: Arc<Disks>,
        records: Arc<Records>,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Arc<Self> {
        let place = format!("{}/{SERVICE}", disks.controller());
        Arc::new(Manager {
            backend,
            disks,
            records,
            place,
            pools: Mutex::default(),
            events,
            config: watch::Sender::new(None),
            last: Mutex::default(),
            spaces: watch::Sender::default(),
        })
    }

    /// The configuration as of change `index`.
    pub fn learn(&self, index: u64, tables: Tables) {
        let now = Arc::new((index, tables));
        let before = self.config.send_replace(Some(now.clone()));
        let gone = |pool: &PoolId| !now.1.pools.contains_key(pool);
        let mut last = lock(&self.last);
        last.retain(|pool, _| gone(pool));
        if let Some(before) = before {
            let pools = before.1.pools.keys().filter(|pool| gone(pool));
            last.extend(pools.map(|pool| (*pool, before.clone())));
        }
    }

    fn entry(&self, pool: PoolId) -> Arc<Entry<B::Pool>> {
        lock(&self.pools).entry(pool).or_default().clone()
    }

    fn error(&self, code: Code, what: impl ToString) -> RpcError {
        RpcError::new(code, &self.place, what.to_string())
    }

    fn pool_error(&self, error: &PoolError) -> RpcError {
        let (code, remedy) = match error {
            PoolError::NotExclusive { .. } => (
                Code::Refused,
                "take the pool again, or bring the report that the previous owner is off",
            ),
            PoolError::NoLabel { .. } => (
                Code::Refused,
                "bring the pool's disks back; a missing label is damage, not a reason to create",
            ),
            PoolError::MemberMissing { .. } => (Code::Refused, "bring the disk or the path to it back"),
            PoolError::Occupied { .. } | PoolError::TooSmall { .. } => (Code::Conflict, "choose other disks"),
            PoolError::Kind { .. } => (
                Code::Refused,
                "choose other disks or the other backend; what a disk is for, enclosure.toml says on both controllers",
            ),
            PoolError::Level { .. } => (Code::Refused, "choose so many disks"),
            PoolError::NoGroups { .. } => (
                Code::Failed,
                "install the packages lvm2, dmsetup and thin-provisioning-tools, and start lvmd on both controllers",
            ),
            PoolError::Used { .. } => (
                Code::Refused,
                "its disks are left as they are; a configuration that has the pool brings it back",
            ),
            PoolError::Older { .. } => (
                Code::Superseded,
                "ask again when the configuration is replicated; `pollux config status` says how far it is",
            ),
            PoolError::Full { .. } => (Code::Refused, "make it smaller, or free space"),
            PoolError::NoVolume { .. } | PoolError::NoSnapshot { .. } => {
                (Code::NotFound, "pool.status says which snapshots stand")
            }
            PoolError::Deadline { .. } => (Code::DeadlinePassed, "ask again, or stop the pool"),
            PoolError::Label { .. } => (Code::Refused, "delete volumes"),
            PoolError::Group { .. } => (
                Code::Failed,
                "see the journal of lvmd, and the state of the pool's disks",
            ),
            PoolError::Mirror { .. } | PoolError::Readmit { .. } | PoolError::Io { .. } => {
                (Code::Failed, "see the state of the pool's disks")
            }
        };
        self.error(code, error).remedy(remedy)
    }

    fn fence_error(&self, error: &FenceError) -> RpcError {
        match error {
            FenceError::Superseded { .. } => self
                .error(Code::Superseded, error)
                .remedy("a later owner holds the pool: ask under the highest epoch"),
            FenceError::Occupied { .. } => self.error(Code::Conflict, error).remedy("choose other disks"),
            FenceError::Foreign { disk, key } => self.error(Code::Refused, error).remedy(format!(
                "make sure that nobody else uses {disk}, then `pollux disk clear-key {disk} {key}`; or choose another disk"
            )),
            _ => self
                .error(Code::Failed, error)
                .remedy("see the state of the pool's disks"),
        }
    }

    /// `pool.take`.
    pub async fn take(&self, request: Take) -> Result<Taken, RpcError> {
        if request.key.controller != self.disks.controller() {
            let what = format!("key of controller {}", request.key.controller);
            return Err(self
                .error(Code::InvalidParams, "the key is not of this controller")
                .problem(
                    "key.controller",
                    what,
                    format!("this is controller {}", self.disks.controller()),
                ));
        }
        let entry = self.entry(request.pool);
        let mut turn = entry.turn.lock().await;
        entry.adopting.store(false, Ordering::SeqCst);
        let imported = entry.imported().clone();
        if let Some(pool) = imported {
            if pool.key() != request.key {
                return Err(self.other_key(&*pool));
            }
            let legs = pool.health().legs;
            let (failed, held): (Vec<_>, Vec<_>) =
                legs.into_iter().partition(|leg| leg.state == LegState::Failed);
            let fenced = held.into_iter().map(|leg| leg.disk).collect();
            // That it was taken once says nothing about now.
            let proof = fence::adopt(&self.disks, request.pool, request.key, &fenced).await;
            proof.map_err(|error| self.fence_error(&error))?;
            return Ok(Taken {
                key: request.key,
                fenced: fenced.into_iter().collect(),
                unfenced: failed.into_iter().map(|leg| leg.disk).collect(),
                confirmed: true,
            });
        }
        if let Some(older) = turn.take().filter(|proof| proof.key() > request.key) {
            let error = FenceError::Superseded {
                disk: older.fenced().first().copied().unwrap_or_default(),
                by: older.key(),
            };
            *turn = Some(older);
            return Err(self.fence_error(&error));
        }
        self.unused(&request)?;
        let (proof, errors) = fence::take(&self.disks, &request)
            .await
            .map_err(|error| self.fence_error(&error))?;
        for error in &errors {
            warn!(pool = %request.pool, %error, "not fenced");
        }
        let taken = Taken {
            key: proof.key(),
            fenced: proof.fenced().iter().copied().collect(),
            unfenced: proof.unfenced().iter().copied().collect(),
            confirmed: proof.confirmed(),
        };
        info!(pool = %request.pool, fenced = taken.fenced.len(), unfenced = taken.unfenced.len(), confirmed = taken.confirmed, "fenced");
        *turn = Some(proof);
        Ok(taken)
    }

    /// None of the disks is a leg of another pool that is imported here: a key for the new one would end that.
    fn unused(&self, request: &Take) -> Result<(), RpcError> {
        let others: Vec<Arc<B::Pool>> = lock(&self.pools)
            .iter()
            .filter(|(pool, _)| **pool != request.pool)
            .filter_map(|(_, entry)| entry.imported().clone())
            .collect();
        for other in others {
            let legs = other.health().legs;
            if let Some(leg) = legs.iter().find(|leg| request.disks.contains(&leg.disk)) {
                let what = format!(
                    "{} belongs to pool {} ({}), which is imported here",
                    leg.disk,
                    other.name(),
                    other.id()
                );
                return Err(self.error(Code::Conflict, what).remedy(
                    "choose other disks, or wait until it is deleted; `pollux pool list` shows whether it should be",
                ));
            }
        }
        Ok(())
    }

    fn other_key(&self, pool: &B::Pool) -> RpcError {
        let key = pool.key();
        let what = format!(
            "pool {} is imported here in epoch {} under claim {}",
            pool.id(),
            key.epoch,
            key.generation
        );
        self.error(Code::Conflict, what).remedy("export or stop it first")
    }

    fn reply(&self, pool: &B::Pool) -> ImportedReply {
        ImportedReply {
            pool: pool.id(),
            capacity_bytes: pool.space().0,
            volumes: pool.volumes(),
            health: pool.health(),
        }
    }

    /// `pool.import`.
    pub async fn import(self: &Arc<Self>, request: Import) -> Result<ImportedReply, RpcError> {
        let entry = self.entry(request.pool);
        let mut turn = entry.turn.lock().await;
        let imported = entry.imported().clone();
        if let Some(pool) = imported {
            if pool.key() != request.key {
                return Err(self.other_key(&*pool));
            }
            // After an export that did not come to its end, its volumes are opened again.
            pool.reopen().await.map_err(|error| self.pool_error(&error))?;
            return Ok(self.reply(&pool));
        }
        let Some(mut proof) = turn.take() else {
            let what = format!("pool {} was not taken by this process", request.pool);
            return Err(self.error(Code::Refused, what).remedy("pool.take comes first"));
        };
        if proof.key() != request.key {
            let what = format!("pool {} was taken under another key", request.pool);
            *turn = Some(proof);
            return Err(self
                .error(Code::Refused, what)
                .remedy("pool.take with the key of the import comes first"));
        }
        if let Some(report) = request.power_off {
            proof = match proof.with_power_off(report) {
                Ok(proof) => proof,
                Err((proof, why)) => {
                    *turn = Some(proof);
                    return Err(self
                        .error(Code::InvalidParams, "the power report is no evidence")
                        .problem(
                            "power_off",
                            why,
                            "a report about the partner, gathered under the epoch of the key",
                        ));
                }
            };
        }
        let result = match request.create {
            true => {
                self.backend
                    .create(
                        proof,
                        &request.name,
                        &request.disks,
                        request.backend,
                        self.events.clone(),
                    )
                    .await
            }
            false => self.backend.import(proof, self.events.clone()).await,
        };
        match result {
            Ok(pool) => Ok(self.reply(&*self.adopt(&entry, pool))),
            Err((proof, error)) => {
                *turn = Some(proof);
                Err(self.pool_error(&error))
            }
        }
    }

    /// A pool has just been imported: it is known, and follows the configuration from now on.
    fn adopt(self: &Arc<Self>, entry: &Entry<B::Pool>, pool: B::Pool) -> Arc<B::Pool> {
        let pool = Arc::new(pool);
        *entry.imported() = Some(pool.clone());
        let (capacity_bytes, _, extent_bytes) = pool.space();
        self.spaces.send_modify(|spaces| {
            spaces.insert(
                pool.id(),
                PoolSpace {
                    capacity_bytes,
                    extent_bytes,
                },
            );
        });
        tokio::spawn(follow(Arc::downgrade(&pool), self.config.subscribe()));
        pool
    }

    fn dropped(&self, pool: PoolId) {
        self.spaces.send_modify(|spaces| {
            spaces.remove(&pool);
        });
    }

    /// `pool.export`.
    pub async fn export(&self, request: Export, within: Duration) -> Result<Exported, RpcError> {
        let entry = self.entry(request.pool);
        let mut turn = entry.turn.lock().await;
        entry.adopting.store(false, Ordering::SeqCst);
        if let Some(proof) = turn.take() {
            // Taken and not imported: nothing of it stays behind.
            fence::release(&self.disks, &proof).await;
        }
        let Some(pool) = entry.imported().clone() else {
            return Ok(Exported {
                pool: request.pool,
                was_imported: false,
            });
        };
        pool.export(within)
            .await
            .map_err(|error| self.pool_error(&error))?;
        *entry.imported() = None;
        self.dropped(request.pool);
        info!(pool = %request.pool, "exported");
        Ok(Exported {
            pool: request.pool,
            was_imported: true,
        })
    }

    /// `pool.delete`. Two have to know: heartbeat, who asks, and the configuration as it is read here, which may come later. And
    /// nothing may be in the pool.
    pub async fn delete(&self, request: Export, within: Duration) -> Result<Exported, RpcError> {
        let began = Instant::now();
        let mut config = self.config.subscribe();
        let without = |known: &Known| {
            known
                .as_deref()
                .is_some_and(|(_, tables)| !tables.pools.contains_key(&request.pool))
        };
        let index = match tokio::time::timeout(CONFIGURED.min(within / 2), config.wait_for(without)).await {
            Ok(Ok(known)) => known.as_deref().map(|(index, _)| *index),
            _ => None,
        };
        let Some(index) = index else {
            let what = match self.config.borrow().as_deref() {
                Some((index, _)) => format!(
                    "pool {} is in the configuration as of change {index}",
                    request.pool
                ),
                None => "no configuration is known here yet".to_owned(),
            };
            return Err(self.error(Code::Refused, what).remedy(
                "delete it with `pollux pool delete`, and see whether the configuration is replicated",
            ));
        };
        let entry = self.entry(request.pool);
        let mut turn = entry.turn.lock().await;
        if let Some(proof) = turn.take() {
            // Taken and not imported: nothing of it stays behind.
            fence::release(&self.disks, &proof).await;
        }
        if entry.adopting.load(Ordering::SeqCst) {
            let what = format!(
                "pool {} is being taken over from the process before",
                request.pool
            );
            return Err(self.error(Code::Failed, what).remedy("ask again"));
        }
        let Some(pool) = entry.imported().clone() else {
            return Ok(Exported {
                pool: request.pool,
                was_imported: false,
            });
        };
        let last = lock(&self.last).get(&request.pool).cloned();
        if let Some(known) = last {
            for error in pool
                .reconcile(known.0, &plan::wanted(&known.1, request.pool))
                .await
            {
                warn!(%error, "something of a deleted pool stays");
            }
        }
        pool.destroy(index, within.saturating_sub(began.elapsed()))
            .await
            .map_err(|error| self.pool_error(&error))?;
        *entry.imported() = None;
        self.dropped(request.pool);
        info!(pool = %request.pool, "deleted: another pool may be made of its disks");
        Ok(Exported {
            pool: request.pool,
            was_imported: true,
        })
    }

    /// `pool.stop`.
    pub async fn stop(&self, request: Export) -> Result<Exported, RpcError> {
        let entry = self.entry(request.pool);
        entry.adopting.store(false, Ordering::SeqCst);
        let was_imported = self.cut(request.pool, &entry);
        // Whatever was under way has seen the stop, or has not begun to serve: wait for it and stop that, too.
        let mut turn = entry.turn.lock().await;
        let late = self.cut(request.pool, &entry);
        *turn = None;
        info!(pool = %request.pool, was_imported, "stopped");
        Ok(Exported {
            pool: request.pool,
            was_imported: was_imported || late,
        })
    }

    fn cut(&self, pool: PoolId, entry: &Entry<B::Pool>) -> bool {
        let imported = entry.imported().take();
        if let Some(imported) = &imported {
            imported.stop();
        }
        self.records.forget(pool);
        self.dropped(pool);
        imported.is_some()
    }

    /// `pool.propose`.
    pub async fn propose(&self, request: Propose) -> Result<Made, RpcError> {
        let made = self.backend.propose(&request.disks, request.backend).await;
        made.map_err(|error| self.pool_error(&error))
    }

    /// `pool.resync`.
    pub async fn resync(&self, request: Resync) -> Result<PoolHealth, RpcError> {
        let Some(pool) = self.entry(request.pool).imported().clone() else {
            let what = format!("pool {} is not imported here", request.pool);
            return Err(self
                .error(Code::NotFound, what)
                .remedy("ask the controller that owns it"));
        };
        pool.resync(request.disk)
            .await
            .map_err(|error| self.pool_error(&error))?;
        Ok(pool.health())
    }

    /// `pool.roll_back`.
    pub async fn roll_back(&self, request: RollBack) -> Result<RolledBack, RpcError> {
        // A host that has the volume in use would find other data under its file system.
        let known = self.config.borrow().clone();
        let seen = match &known {
            None => Err("the configuration is not known yet".to_owned()),
            Some(known) => plan::may_roll_back(&known.1, request.snapshot),
        };
        seen.map_err(|why| {
            self.error(Code::Refused, why)
                .remedy("end the volume's mappings first")
        })?;
        self.roll_back_unseen(&request).await
    }

    /// The same for a volume that no host sees.
    pub async fn roll_back_unseen(&self, request: &RollBack) -> Result<RolledBack, RpcError> {
        let Some(pool) = self.entry(request.pool).imported().clone() else {
            let what = format!("pool {} is not imported here", request.pool);
            return Err(self
                .error(Code::NotFound, what)
                .remedy("ask the controller that owns it"));
        };
        let volume = pool.roll_back(request.snapshot).await;
        let volume = volume.map_err(|error| self.pool_error(&error))?;
        Ok(RolledBack { volume })
    }

    /// `pool.clear_key`.
    pub async fn clear_key(&self, request: ClearKey) -> Result<ClearedKey, RpcError> {
        let ClearKey {
            disk,
            key: given,
            dry_run,
        } = request;
        let key = key::parse(&given).map_err(|why| {
            self.error(Code::InvalidParams, "that is no key").problem(
                "key",
                why,
                "a key as `pool.status` shows it among the foreign ones",
            )
        })?;
        if let Some(own) = key::decode(self.disks.array(), key) {
            let known = self.config.borrow().clone();
            let pool = match &known {
                None => {
                    return Err(self.error(
                        Code::Refused,
                        "the configuration is not known yet, and the key is of this array",
                    ));
                }
                Some(known) => known
                    .1
                    .pools
                    .values()
                    .find(|pool| pool.disks.contains(&disk))
                    .map(|pool| pool.name.clone()),
            };
            if let Some(pool) = pool {
                let what = format!(
                    "{key} is the key of controller {} of this array, and {disk} is a disk of pool {pool}",
                    own.controller
                );
                return Err(self
                    .error(Code::Refused, what)
                    .remedy("nothing: whoever takes the pool next removes it where it is not the owner's"));
            }
        }
        let evicted = match dry_run {
            true => fence::standing(&self.disks, disk, key).await,
            false => fence::evict(&self.disks, disk, key).await,
        };
        let evicted = evicted.map_err(|error| match &error {
            EvictError::Owned { .. } => self.error(Code::Refused, &error).remedy(
                "nothing: an owner that finds another key beside its own stops, and removes it when it takes the pool again",
            ),
            EvictError::Disk { source, .. } if source.status() == Some(DiskStatus::Unsupported) => {
                self.error(Code::Failed, &error).remedy(
                    "a disk for the quorum alone takes no reservation from here: sg_persist --out --clear removes what stands there",
                )
            }
            EvictError::Disk { .. } => self.error(Code::Failed, &error).remedy("see the state of the disk"),
            EvictError::Again { .. } => self.error(Code::Failed, &error).remedy("stop whoever registers it"),
        })?;
        if evicted.removed && !dry_run {
            warn!(%disk, %key, whose = key::whose(key), "a key was removed on an operator's word");
        }
        Ok(ClearedKey {
            disk,
            was_there: evicted.removed,
            left: evicted.left,
        })
    }

    /// `pool.imported`.
    pub async fn held(&self, request: ListImported) -> Vec<Held> {
        let entries: Vec<_> = lock(&self.pools).values().cloned().collect();
        if request.settled {
            for entry in &entries {
                drop(entry.turn.lock().await);
            }
        }
        // All of them in one look: while one was waited for, another has perhaps changed.
        let imported = entries.iter().filter_map(|entry| entry.imported().clone());
        let mut held: Vec<_> = imported
            .map(|pool| Held {
                pool: pool.id(),
                key: pool.key(),
                suspended: pool.health().suspended,
            })
            .collect();
        held.sort_unstable_by_key(|held| held.pool);
        held
    }

    /// `pool.status`.
    pub async fn status(&self) -> Status {
        let entries: Vec<_> = lock(&self.pools).values().cloned().collect();
        let imported = entries
            .iter()
            .filter_map(|entry| entry.imported().clone())
            .map(|pool| {
                let (capacity_bytes, used_bytes, _) = pool.space();
                ImportedPool {
                    pool: pool.id(),
                    name: pool.name(),
                    key: pool.key(),
                    made: Some(pool.made()),
                    capacity_bytes,
                    used_bytes,
                    health: pool.health(),
                    volumes: pool.volumes(),
                    snapshots: pool.snapshots(),
                    files: pool.files(),
                    low_space: pool.is_low(),
                }
            });
        let mut imported: Vec<_> = imported.collect();
        imported.sort_unstable_by_key(|pool| pool.pool);
        let (seen, foreign) = tokio::join!(self.backend.discover(), fence::strangers(&self.disks));
        Status {
            imported,
            seen,
            foreign,
        }
    }

    /// Adopts what the predecessor of this process had imported. Returns when every record has been looked at once, or
    /// the time is over; what cannot be decided yet goes on beside.
    pub async fn adopt_all(self: &Arc<Self>) -> std::io::Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for record in self.records.all()? {
            let entry = self.entry(record.pool);
            entry.adopting.store(true, Ordering::SeqCst);
            let manager = self.clone();
            let task = tokio::spawn(async move { manager.adopt_record(record, &entry).await });
            tasks.spawn(task);
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(ADOPTION, all).await.is_err() {
            warn!("not every pool of before has been adopted yet");
        }
        // The tasks behind the handles go on.
        Ok(())
    }

    async fn adopt_record(self: &Arc<Self>, record: Record, entry: &Entry<B::Pool>) {
        let pool = record.pool;
        let mut reported = false;
        loop {
            {
                let _turn = entry.turn.lock().await;
                if !entry.adopting.load(Ordering::SeqCst) {
                    return;
                }
                match self.adopt_once(&record, entry).await {
                    Ok(()) => {
                        entry.adopting.store(false, Ordering::SeqCst);
                        if reported {
                            self.report(PoolEvent::Resumed { pool });
                        }
                        return;
                    }
                    Err(NotAdopted::Lost { disk, holder, why }) => {
                        error!(%pool, %disk, why, "not adopted: exclusion was lost");
                        entry.adopting.store(false, Ordering::SeqCst);
                        self.records.forget(pool);
                        return self.report(PoolEvent::ExclusionLost { pool, disk, holder });
                    }
                    Err(NotAdopted::NotYet(reason)) => {
                        if !std::mem::replace(&mut reported, true) {
                            warn!(%pool, reason, "not adopted yet");
                            self.report(PoolEvent::Suspended { pool, reason });
                        }
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn adopt_once(self: &Arc<Self>, record: &Record, entry: &Entry<B::Pool>) -> Result<(), NotAdopted> {
        let first = record.disks.first().copied().unwrap_or_default();
        if record.power_off.is_some() {
            let why = "it was held on a power report, which says nothing about now".to_owned();
            return Err(NotAdopted::Lost {
                disk: first,
                holder: None,
                why,
            });
        }
        let proof = match fence::adopt(&self.disks, record.pool, record.key, &record.disks).await {
            Ok(proof) => proof,
            Err(FenceError::Lost { disk, holder, status }) => {
                return Err(NotAdopted::Lost {
                    disk,
                    holder,
                    why: status,
                });
            }
            Err(error) => return Err(NotAdopted::NotYet(error.to_string())),
        };
        match self.backend.import(proof, self.events.clone()).await {
            Ok(pool) => {
                info!(pool = %record.pool, "adopted");
                self.adopt(entry, pool);
                Ok(())
            }
            Err((_, error)) => Err(NotAdopted::NotYet(error.to_string())),
        }
    }

    fn report(&self, event: PoolEvent) {
        // The receiver lives as long as the daemon.
        let _ = self.events.send(event);
    }

    /// Brings the volumes of a pool to what the configuration says as of change `index`; what could not be done. A
    /// pool that is not imported here has none.
    pub async fn reconcile(&self, pool: PoolId, index: u64, wanted: &Wanted) -> Vec<PoolError> {
        let imported = self.entry(pool).imported().clone();
        match imported {
            Some(pool) => pool.reconcile(index, wanted).await,
            None => Vec::new(),
        }
    }

    /// Pools that are imported here.
    fn imported(&self) -> BTreeSet<PoolId> {
        let pools = lock(&self.pools);
        let imported = pools.iter().filter(|(_, entry)| entry.imported().is_some());
        imported.map(|(pool, _)| *pool).collect()
    }

    /// Drops everything as the end of the process does: sessions end, disks and records stay as they are.
    pub fn abandon(&self) {
        for (_, entry) in lock(&self.pools).drain() {
            if let Some(pool) = entry.imported().take() {
                pool.stop();
            }
        }
        self.disks.hang_up();
    }

    /// What an event means here, before anybody else hears of it.
    pub fn observe(&self, event: &PoolEvent) {
        if let PoolEvent::ExclusionLost { pool, .. } = event {
            self.cut(*pool, &self.entry(*pool));
        }
    }
}

/// Why a pool of the predecessor is not imported.
enum NotAdopted {
    /// It is another's, or nobody's.
    Lost {
        disk: pollux_api::id::DiskIndex,
        holder: Option<pollux_api::pool::ReservationKey>,
        why: String,
    },
    /// A disk cannot be asked: the answer may change.
    NotYet(String),
}

/// Brings the volumes of one pool to what the configuration says, again and again, until the pool is gone.
async fn follow<P: Imported>(pool: std::sync::Weak<P>, mut config: watch::Receiver<Known>) {
    let Some(mut condition) = pool.upgrade().map(|pool| pool.condition()) else {
        return;
    };
    loop {
        let known = config.borrow_and_update().clone();
        let mut settled = true;
        if let Some(known) = known {
            let Some(pool) = pool.upgrade() else { return };
            let (index, tables) = &*known;
            let wanted = plan::wanted(tables, pool.id());
            // A configuration that does not know the pool says nothing about its volumes.
            if tables.pools.contains_key(&pool.id()) {
                for error in pool.reconcile(*index, &wanted).await {
                    settled = false;
                    warn!(%error, "a volume is not as it should be");
                }
            }
        }
        if is_stopped(&condition) {
            return;
        }
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            changed = condition.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if !settled => {}
        }
    }
}

/// Watches the configuration for ever.
async fn watch_config<B: Backend>(manager: Arc<Manager<B>>, client: Client) {
    let mut follower = Follower::default();
    loop {
        // Without anything there is nothing to wait for: what is there is wanted at once.
        let wait_ms = if follower.tables().is_some() {
            WATCH_WAIT.as_millis() as u64
        } else {
            0
        };
        let ctx = Ctx::new(WATCH_WAIT + Duration::from_secs(5));
        match client
            .call::<_, Watched>(config::WATCH, &follower.ask(wait_ms), &ctx)
            .await
        {
            Ok(answer) => {
                if follower.take(answer)
                    && let Some((tables, (index, _))) = follower.tables()
                {
                    manager.learn(index, tables.clone());
                } else if wait_ms == 0 && follower == Follower::default() {
                    // The keeper has nothing to show before it knows which epoch counts.
                    tokio::time::sleep(RETRY).await;
                }
            }
            Err(error) => {
                debug!(%error, "the configuration cannot be watched now");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Tells the configuration how much room a pool has, where it does not know yet.
async fn announce_space(
    client: Client,
    mut spaces: watch::Receiver<HashMap<PoolId, PoolSpace>>,
    mut config: watch::Receiver<Known>,
) {
    loop {
        let here = spaces.borrow_and_update().clone();
        let known = config.borrow_and_update().clone();
        let mut settled = true;
        for (pool, space) in here {
            let Some(known) = &known else { continue };
            let space = plan::announced(&known.1, pool, space);
            let row = known.1.pools.get(&pool);
            if row.is_none_or(|row| row.ready == Some(space)) {
                continue;
            }
            let PoolSpace {
                capacity_bytes,
                extent_bytes,
            } = space;
            let op = Op::PoolReady {
                pool: pool.to_string(),
                capacity_bytes,
                extent_bytes,
            };
            let change = config::Change {
                ops: vec![op],
                expected_index: None,
                dry_run: false,
            };
            let ctx = Ctx::new(Duration::from_secs(5));
            match client
                .call_retry::<_, config::Changed>(config::CHANGE, &change, &ctx)
                .await
            {
                Ok(_) => info!(%pool, capacity_bytes, "space announced"),
                Err(error) => {
                    settled = false;
                    debug!(%pool, %error, "space cannot be announced now");
                }
            }
        }
        tokio::select! {
            changed = spaces.changed() => if changed.is_err() { return },
            changed = config.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if !settled => {}
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "schedules are made for people, by their time of day"
)]
fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Asks the configuration for the snapshots that are due, of volumes whose pools are here.
async fn keep_schedules<B: Backend>(manager: Arc<Manager<B>>, client: Client) {
    let mut tick = tokio::time::interval(SCHEDULES);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(known) = manager.config.borrow().clone() else {
            continue;
        };
        let ops = schedule::due(&known.1, &manager.imported(), unix_ms());
        // What is over stands on another index: it is looked at anew at the next tick.
        let ops: Vec<Op> = ops.into_iter().take(DEEDS).collect();
        if !ops.is_empty() {
            let deeds = ops.len();
            let change = config::Change {
                ops,
                // What was looked at is what is changed: nothing is asked for twice.
                expected_index: Some(known.0),
                dry_run: false,
            };
            let ctx = Ctx::new(Duration::from_secs(5));
            let asked = client
                .call_retry::<_, config::Changed>(config::CHANGE, &change, &ctx)
                .await;
            match asked {
                Ok(_) => info!(deeds, "snapshots are due"),
                Err(error) => {
                    warn!(%error, deeds, "snapshots that are due are not taken; they are asked for again")
                }
            }
        }
    }
}

/// Hands events on: to heartbeat, and to whoever has subscribed.
async fn pass_on<B: Backend>(
    manager: Arc<Manager<B>>,
    client: Client,
    mut events: mpsc::UnboundedReceiver<PoolEvent>,
) {
    while let Some(event) = events.recv().await {
        manager.observe(&event);
        let ctx = Ctx::new(Duration::from_secs(5));
        if let Err(error) = client.publish(EVENTS, &event, &ctx) {
            debug!(%error, ?event, "event not published");
        }
        // How much space is free decides nothing about who owns a pool.
        if matches!(event, PoolEvent::Space { .. }) {
            continue;
        }
        // Heartbeat must hear of it, if late: whoever is not there now asks for the status when it comes.
        for _ in 0..20 {
            match client.notify(heartbeat::POOL_EVENT, &event, &ctx) {
                Ok(()) => break,
                Err(error) => debug!(%error, ?event, "heartbeat not told yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Runs the daemon until it is asked to stop.
pub async fn run(config: ControllerConfig) -> std::io::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let disks = Arc::new(Disks::new(&config.paths.port, config.array, config.controller));
    let records = Arc::new(Records::open(&config.paths.run.join("pools"))?);
    let (volumes, check) = (config.paths.volumes(), key_check(config.profile));
    let lvmd = Lvmd::new(&Path::new(lvm::DIRECTORY).join(lvm::SOCKET));
    let backend = Kinds {
        embedded: Embedded::new(disks.clone(), &volumes, records.clone(), check),
        lvm: Lvm::new(disks.clone(), lvmd, &volumes, records.clone(), check),
    };
    let held = records.all()?.iter().map(|record| record.pool).collect();
    if let Err(error) = backend.lvm.clear(&held).await {
        debug!(error, "no volume groups here");
    }
    let (events, received) = mpsc::unbounded_channel();
    let manager = Manager::new(backend, disks, records, events);
    manager.adopt_all().await?;

    let (take, import, export, delete, stop, propose, resync, roll_back, clear_key, imported, status) = (
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
        manager.clone(),
    );
    let service = Service::of::<Contract>()
        .serve::<TAKE>(move |_, request: Take| {
            let manager = take.clone();
            async move { manager.take(request).await }
        })
        .serve::<IMPORT>(move |_, request: Import| {
            let manager = import.clone();
            async move { manager.import(request).await }
        })
        .serve::<EXPORT>(move |ctx: Ctx, request: Export| {
            let manager = export.clone();
            async move { manager.export(request, ctx.remaining()).await }
        })
        .serve::<DELETE>(move |ctx: Ctx, request: Export| {
            let manager = delete.clone();
            async move { manager.delete(request, ctx.remaining()).await }
        })
        .serve::<STOP>(move |_, request: Export| {
            let manager = stop.clone();
            async move { manager.stop(request).await }
        })
        .serve::<PROPOSE>(move |_, request: Propose| {
            let manager = propose.clone();
            async move { manager.propose(request).await }
        })
        .serve::<RESYNC>(move |_, request: Resync| {
            let manager = resync.clone();
            async move { manager.resync(request).await }
        })
        .serve::<ROLL_BACK>(move |_, request: RollBack| {
            let manager = roll_back.clone();
            async move { manager.roll_back(request).await }
        })
        .serve::<CLEAR_KEY>(move |_, request: ClearKey| {
            let manager = clear_key.clone();
            async move { manager.clear_key(request).await }
        })
        .serve::<IMPORTED>(move |_, request: ListImported| {
            let manager = imported.clone();
            async move { Ok::<_, RpcError>(manager.held(request).await) }
        })
        .serve::<STATUS>(move |_, (): ()| {
            let manager = status.clone();
            async move { Ok::<_, RpcError>(manager.status().await) }
        })
        .start(&config);
    let client = service.client().clone();
    let tasks = [
        tokio::spawn(pass_on(manager.clone(), client.clone(), received)),
        tokio::spawn(watch_config(manager.clone(), client.clone())),
        tokio::spawn(keep_schedules(manager.clone(), client.clone())),
        tokio::spawn(announce_space(
            client,
            manager.spaces.subscribe(),
            manager.config.subscribe(),
        )),
    ];
    // An orderly end leaves pools imported, as a crash does: whoever starts next adopts them. Giving them up is
    // heartbeat's decision, by export.
    service.run(&shutdown).await;
    tasks.iter().for_each(|task| task.abort());
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_are_read_back_each_second_at_least() {
        for profile in [Profile::Fast, Profile::Safe, Profile::Ci] {
            let period = key_check(profile);
            assert!(
                period <= Duration::from_secs(1) && !period.is_zero(),
                "{profile:?}: {period:?}"
            );
        }
    }
}
