//! The backend `lvm`: pools in volume groups of the kernel, for disks whose data are the kernel's (`kernel = true` in
//! `enclosure.toml`). Their sockets reach the label area alone.
//!
//! ```text
//!            label area of each disk                    everything behind it
//!  this daemon: label, reservations     lvmd, on request: gate -> mirrors -> thin pool -> volumes
//!        |                                                                                   |
//!        +-- the label says which disks may hold acknowledged writes; what is fenced follows  +-- served from here
//! ```
//!
//! Fencing, evidence and label are those of every pool. A group is activated only when each of its disks that the label does not
//! call failed is *fenced by this process*: that the old owner is off is not enough here. Gates are opened for exactly these
//! disks. So a disk that was left behind stays out even when it is there again, until the label says otherwise; and before the
//! label says so, the kernel has nothing of it.
//!
//! When the kernel goes on without a disk, the label is told. It may be told too late: then the disk has to be fenced at the next
//! import, and the kernel's own records on the other disks say that it is behind.
//!
//! A disk comes in the place of a failed one in that order: fenced, in the label as being copied to, in the group. The label calls
//! it in sync when the kernel does. What is cut short in between the next import goes on with.

use crate::assemble;
use crate::backend::{Backend, Imported, PoolError, Wanted, WantedSnapshot, WantedVolume};
use crate::device::Device;
use crate::disks::{COMMAND_DEADLINE, Disks, Session};
use crate::embedded::{LOW_PERCENT, Served};
use crate::fence::{self, Exclusion, FenceError};
use crate::label::{self, GroupEntry, Label, Member, MemberState};
use crate::lvmd::Groups;
use crate::mirror::{Condition, ReadmitError};
use crate::record::Records;
use futures_util::future::join_all;
use pollux_api::config::item::ItemId;
use pollux_api::config::{self, Hex};
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{
    Activate, Apply, Disk, EXTENT_BYTES, Files, Group, Health, LABEL_AREA_BYTES, Level, Remove, Replace,
    RollBack, Snapshot, State,
};
use pollux_api::pool::{Leg, LegState, Made, PoolEvent, PoolHealth, PowerOff, ReservationKey, SeenPool};
use pollux_block_frame::{Error, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

/// How often the kernel is asked how a group is.
const LOOK: Duration = Duration::from_secs(2);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk whose data are the kernel's: its socket ends behind its label area.
fn is_for_groups(session: &Session) -> bool {
    session.bytes() == LABEL_AREA_BYTES
}

fn not_for_groups(disk: DiskIndex) -> PoolError {
    let why = "its data are not the kernel's (`kernel = true` in enclosure.toml), and a volume group is on such disks alone";
    PoolError::Kind {
        disk,
        why: why.to_owned(),
    }
}

/// What a pool on these disks would be made of, where each is known to be one of the kernel's or not.
///
/// # Errors
/// A disk is for the other kind, or there is no volume group over so many.
pub fn made(ours: &[(DiskIndex, bool)], chosen: Option<config::Backend>) -> Result<Made, PoolError> {
    let first = |of_kernel: bool| {
        ours.iter()
            .find(|(_, ours)| *ours == of_kernel)
            .map(|(disk, _)| *disk)
    };
    match (chosen, first(true), first(false)) {
        (Some(config::Backend::Embedded), Some(disk), _) => Err(PoolError::Kind {
            disk,
            why: "its data are the kernel's (`kernel = true` in enclosure.toml): a volume group alone (`lvm`) can be on it"
                .to_owned(),
        }),
        (Some(config::Backend::Lvm), _, Some(disk)) => Err(not_for_groups(disk)),
        (None, Some(other), Some(disk)) => Err(PoolError::Kind {
            disk,
            why: format!(
                "its data are not the kernel's, and those of {other} are (`kernel = true` in enclosure.toml): \
                 a pool has disks of one kind"
            ),
        }),
        (_, None, _) => Ok(Made {
            backend: config::Backend::Embedded,
            level: None,
        }),
        (_, Some(_), _) => {
            let disks = ours.len();
            Ok(Made {
                backend: config::Backend::Lvm,
                level: Some(Level::over(disks).ok_or(PoolError::Level { disks })?),
            })
        }
    }
}

/// Pools in volume groups.
#[derive(Debug)]
pub struct Lvm<G> {
    disks: Arc<Disks>,
    groups: Arc<G>,
    sockets: PathBuf,
    records: Arc<Records>,
    key_check: Duration,
}

/// Label, proof and groups of one pool: what outlives its volumes.
#[derive(Debug)]
struct Holding<G> {
    disks: Arc<Disks>,
    groups: Arc<G>,
    records: Arc<Records>,
    pool: PoolId,
    key: ReservationKey,
    power_off: Option<PowerOff>,
    exclusion: tokio::sync::Mutex<Exclusion>,
    /// Held while the label is written.
    writing: tokio::sync::Mutex<()>,
    label: Mutex<Label>,
    state: watch::Sender<State>,
    condition: watch::Sender<Condition>,
    events: mpsc::UnboundedSender<PoolEvent>,
    /// Free space in percent that is low, and whether it is.
    low: Mutex<(u8, bool)>,
    /// A disk that is on its way into the group: the label has it already, and the kernel does not yet.
    coming: Mutex<Option<DiskIndex>>,
}

impl<G: Groups> Lvm<G> {
    /// Pools on `disks`, in `groups`; volumes' sockets in `sockets`; what a restart has to know in `records`.
    pub fn new(
        disks: Arc<Disks>,
        groups: G,
        sockets: &Path,
        records: Arc<Records>,
        key_check: Duration,
    ) -> Self {
        Lvm {
            disks,
            groups: Arc::new(groups),
            sockets: sockets.to_owned(),
            records,
            key_check,
        }
    }

    /// Which of these disks are for pools of this kind.
    ///
    /// # Errors
    /// One of them cannot be asked.
    pub async fn suits(&self, disks: &[DiskIndex]) -> Result<Vec<(DiskIndex, bool)>, PoolError> {
        let sessions = self.disks.each(disks, |disk| self.disks.session(disk)).await;
        let ours = |(disk, session): (DiskIndex, Result<Session, Error>)| match session {
            Ok(session) => Ok((disk, is_for_groups(&session))),
            Err(error) => {
                let why = format!("it cannot be asked what it is for: {error}");
                Err(PoolError::Kind { disk, why })
            }
        };
        sessions.into_iter().map(ours).collect()
    }

    /// Whether the newest label of a pool on the disks of a proof is that of a group.
    pub async fn has(&self, evidence: &Exclusion) -> bool {
        let on: Vec<_> = evidence.fenced().iter().copied().collect();
        let read = self.disks.each(&on, |disk| label::read(&self.disks, disk)).await;
        let labels = read
            .into_iter()
            .filter_map(|(_, on)| on.ok()?.newest(evidence.pool()));
        label::newest(labels).is_some_and(|label| label.group.is_some())
    }

    /// Takes down what stands in the kernel of pools that nobody holds: after a start, when every record has been looked at.
    pub async fn clear(&self, held: &BTreeSet<PoolId>) -> Result<(), String> {
        let left = self.groups.pools().await?;
        let left = left.into_iter().filter(|pool| !held.contains(pool));
        for (pool, cut) in join_all(left.map(async |pool| (pool, self.groups.cut(pool).await))).await {
            match cut {
                Ok(()) => warn!(%pool, "rests of a pool that is not held here were taken down"),
                Err(error) => error!(%pool, error, "rests of a pool that is not held here stay"),
            }
        }
        Ok(())
    }

    /// The label of a pool that is being made. Nothing has been written yet.
    async fn first_label(
        &self,
        evidence: &Exclusion,
        name: &str,
        disks: &[DiskIndex],
    ) -> Result<Label, PoolError> {
        let pool = evidence.pool();
        let own = |label: &Label| label.pool == pool && label.group.is_some();
        // Extents are the group's own business.
        let room = |disk, session: &Session| match is_for_groups(session) {
            true => Ok(0),
            false => Err(not_for_groups(disk)),
        };
        let label = assemble::first(&self.disks, evidence, name, disks, own, room).await?;
        Ok(Label {
            group: Some(GroupEntry { made: false }),
            ..label
        })
    }

    /// The label of a pool that is taken: each disk that it does not call failed is fenced.
    async fn label(&self, evidence: &Exclusion) -> Result<Label, PoolError> {
        let label = assemble::label(&self.disks, evidence).await?;
        let open = label
            .members
            .iter()
            .filter(|member| member.state != MemberState::Failed);
        let open: Vec<_> = open
            .map(|member| member.disk)
            .filter(|disk| !evidence.guards(*disk))
            .collect();
        match open.is_empty() {
            true => Ok(label),
            // The kernel writes there, and nothing would keep another from it.
            false => Err(PoolError::NotExclusive {
                pool: evidence.pool(),
                disks: open,
            }),
        }
    }

    async fn open(
        &self,
        evidence: Exclusion,
        label: Label,
        create: bool,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<LvmPool<G>, (Exclusion, PoolError)> {
        let (pool, began) = (label.pool, Instant::now());
        let nothing = State {
            capacity_bytes: 0,
            used_bytes: 0,
            map_capacity_bytes: 0,
            map_used_bytes: 0,
            writable: false,
            legs: Vec::new(),
        };
        let holding = Arc::new(Holding {
            disks: self.disks.clone(),
            groups: self.groups.clone(),
            records: self.records.clone(),
            pool,
            key: evidence.key(),
            power_off: evidence.power_off(),
            exclusion: tokio::sync::Mutex::new(evidence),
            writing: tokio::sync::Mutex::new(()),
            label: Mutex::new(label),
            state: watch::Sender::new(nothing),
            condition: watch::Sender::new(Condition::Active),
            events,
            low: Mutex::new((LOW_PERCENT, false)),
            coming: Mutex::default(),
        });
        let opened = async {
            // Every disk learns whose the pool is now, before anything behind the label is touched.
            holding.relabel(|label| label.clean = false).await?;
            let disks = holding.open_disks();
            let request = Activate { pool, disks, create };
            let group = self.groups.activate(request).await;
            let group = group.map_err(|why| PoolError::Group { pool, why })?;
            holding.state.send_replace(group.state.clone());
            if create {
                holding
                    .relabel(|label| label.group = Some(GroupEntry { made: true }))
                    .await?;
            }
            Ok::<_, PoolError>(group)
        };
        let group = match opened.await {
            Ok(group) => group,
            Err(error) => {
                holding.condition.send_replace(Condition::Stopped);
                if let Err(why) = self.groups.cut(pool).await {
                    error!(%pool, why, "what was activated of it stays in the kernel");
                }
                let evidence = holding.exclusion.lock().await.take();
                return Err((evidence, error));
            }
        };
        let imported = LvmPool {
            sockets: self.sockets.clone(),
            array: Uuid::from_bytes(*self.disks.array().as_bytes()),
            holding: holding.clone(),
            known: Mutex::default(),
            served: Mutex::default(),
            snapshots: Mutex::default(),
            files: Mutex::default(),
            applied: Mutex::default(),
            of: Mutex::default(),
            reconcile: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(vec![
                tokio::spawn(tend(holding.clone(), self.key_check)).abort_handle(),
                tokio::spawn(look(holding.clone())).abort_handle(),
            ]),
        };
        if let Err(error) = imported.show(group).await {
            imported.end();
            if let Err(why) = self.groups.cut(pool).await {
                error!(%pool, why, "what was activated of it stays in the kernel");
            }
            let evidence = holding.exclusion.lock().await.take();
            return Err((evidence, error));
        }
        lock(&imported.tasks).push(tokio::spawn(go_on(holding)).abort_handle());
        info!(%pool, volumes = imported.volumes().len(), took = ?began.elapsed(), "imported");
        Ok(imported)
    }
}

impl<G: Groups> Backend for Lvm<G> {
    type Pool = LvmPool<G>;

    /// Labels are those of every pool, and are found by whoever looks for them.
    async fn discover(&self) -> Vec<SeenPool> {
        Vec::new()
    }

    async fn propose(&self, disks: &[DiskIndex], chosen: Option<config::Backend>) -> Result<Made, PoolError> {
        let ours = self.suits(disks).await?;
        let made = made(&ours, chosen.or(Some(config::Backend::Lvm)))?;
        // Asked now, so that a missing daemon is told before anything has been written down.
        let there = self.groups.pools().await;
        there.map_err(|why| PoolError::NoGroups {
            controller: self.disks.controller(),
            why,
        })?;
        Ok(made)
    }

    async fn create(
        &self,
        evidence: Exclusion,
        name: &str,
        disks: &[DiskIndex],
        chosen: Option<config::Backend>,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<LvmPool<G>, (Exclusion, PoolError)> {
        let label = match self.propose(disks, chosen).await {
            Ok(_) => self.first_label(&evidence, name, disks).await,
            Err(error) => Err(error),
        };
        match label {
            Err(error) => Err((evidence, error)),
            Ok(label) => self.open(evidence, label, true, events).await,
        }
    }

    async fn import(
        &self,
        evidence: Exclusion,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<LvmPool<G>, (Exclusion, PoolError)> {
        match self.label(&evidence).await {
            Err(error) => Err((evidence, error)),
            Ok(label) => self.open(evidence, label, false, events).await,
        }
    }
}

impl<G: Groups> Holding<G> {
    fn is_stopped(&self) -> bool {
        *self.condition.borrow() == Condition::Stopped
    }

    fn report(&self, event: PoolEvent) {
        // Without a listener the daemon is on its way out.
        let _ = self.events.send(event);
    }

    /// Disks whose gates are open.
    fn open_disks(&self) -> Vec<Disk> {
        let label = lock(&self.label);
        let open = label
            .members
            .iter()
            .filter(|member| member.state != MemberState::Failed);
        let disk = |member: &Member| Disk {
            slot: member.disk,
            id: Hex(*member.id.as_bytes()),
        };
        open.map(disk).collect()
    }

    /// Writes the label, changed, onto every disk that it does not call failed. One of them is enough: whoever takes the pool
    /// has to fence each disk that *any* label in force might mean, and reads the newest.
    async fn relabel(&self, change: impl FnOnce(&mut Label)) -> Result<(), PoolError> {
        let _one = self.writing.lock().await;
        let mut next = lock(&self.label).clone();
        change(&mut next);
        next.txg += 1;
        next.key = self.key;
        if self.is_stopped() {
            return Err(self.stopped());
        }
        let on: Vec<_> = (next.members.iter())
            .filter(|member| member.state != MemberState::Failed)
            .map(|member| member.disk)
            .collect();
        let written = self
            .disks
            .each(&on, |disk| write_label(&self.disks, &next, disk))
            .await;
        let mut stands = 0;
        let mut last = None;
        for (disk, result) in written {
            match result {
                Ok(()) => stands += 1,
                Err(why) => {
                    warn!(pool = %self.pool, %disk, why, "a label was not written");
                    last = Some(why);
                }
            }
        }
        if let (0, Some(why)) = (stands, last) {
            return Err(PoolError::Group { pool: self.pool, why });
        }
        if let Err(error) = self.records.write(&next, self.power_off) {
            error!(pool = %self.pool, %error, "a restart will not find this pool");
        }
        *lock(&self.label) = next;
        Ok(())
    }

    /// Reads the own keys back on some disks. True: one of them is another's, and the pool has been stopped.
    async fn check(&self, on: &[DiskIndex]) -> bool {
        let check = |disk| fence::check(&self.disks, disk, self.key);
        for (disk, result) in self.disks.each(on, check).await {
            let Err(FenceError::Lost { holder, status, .. }) = result else {
                continue;
            };
            if self.condition.send_replace(Condition::Stopped) != Condition::Stopped {
                let pool = self.pool;
                warn!(%pool, %disk, status, "exclusion lost: the pool is stopped");
                self.report(PoolEvent::ExclusionLost { pool, disk, holder });
            }
            return true;
        }
        false
    }

    fn stopped(&self) -> PoolError {
        PoolError::Group {
            pool: self.pool,
            why: "it has been stopped".to_owned(),
        }
    }

    fn health(&self) -> PoolHealth {
        let coming = *lock(&self.coming);
        let (label, state) = (lock(&self.label), self.state.borrow());
        let leg = |member: &Member| {
            let seen = state.legs.iter().find(|leg| leg.slot == member.disk);
            let by_kernel = match coming == Some(member.disk) {
                true => Health::Copying,
                false => seen.map_or(Health::Failed, |leg| leg.health),
            };
            Leg {
                disk: member.disk,
                state: match (member.state, by_kernel) {
                    (MemberState::Failed, _) | (_, Health::Failed) => LegState::Failed,
                    (_, Health::Copying) => LegState::Resyncing,
                    (_, Health::InSync) => LegState::InSync,
                },
                resync_percent: seen.and_then(|leg| leg.copied_percent),
            }
        };
        PoolHealth {
            legs: label.members.iter().map(leg).collect(),
            suspended: false,
        }
    }

    /// Takes in what the kernel says: tells the label of disks that it goes on without, and everybody of what has changed.
    async fn take_in(&self, state: State) {
        let before = self.health();
        self.state.send_replace(state);
        let now = self.health();
        let failed: BTreeSet<_> = (now.legs.iter())
            .filter(|leg| leg.state == LegState::Failed)
            .map(|leg| leg.disk)
            .collect();
        let left = now.legs.iter().any(|leg| leg.state == LegState::InSync);
        let is_news = |member: &Member| member.state != MemberState::Failed && failed.contains(&member.disk);
        let news = lock(&self.label).members.iter().any(is_news);
        // A group of which the kernel has lost every disk is told of nothing: which of them is newest, nobody knows.
        if left && news {
            // A disk that another has taken fails here, too, and is none that has been left behind.
            let failed: Vec<_> = failed.iter().copied().collect();
            if self.check(&failed).await {
                return;
            }
            let told = self.relabel(|label| {
                // One that comes back meanwhile is none of them any more.
                let coming = *lock(&self.coming);
                let lost = (label.members.iter_mut())
                    .filter(|member| failed.contains(&member.disk) && coming != Some(member.disk));
                lost.for_each(|member| member.state = MemberState::Failed);
            });
            if let Err(error) = told.await {
                warn!(%error, "the label does not know of a failed disk yet");
            }
        }
        self.take_in_copies(&now).await;
        if before != now {
            warn!(pool = %self.pool, ?now, "disks of a group");
            self.report(PoolEvent::Health {
                pool: self.pool,
                health: now,
            });
        }
        self.watch_space();
    }

    /// Tells the label of disks to which the copy has come to its end.
    async fn take_in_copies(&self, now: &PoolHealth) {
        let is_done = |member: &Member| {
            let mut legs = now.legs.iter();
            let leg = legs.find(|leg| leg.disk == member.disk);
            member.state == MemberState::Resyncing
                && leg.is_some_and(|leg| leg.state == LegState::InSync && leg.resync_percent.is_none())
        };
        if !lock(&self.label).members.iter().any(is_done) {
            return;
        }
        let told = self.relabel(|label| {
            let done = label.members.iter_mut().filter(|member| is_done(member));
            done.for_each(|member| member.state = MemberState::InSync);
        });
        if let Err(error) = told.await {
            warn!(%error, "the label does not know yet that a copy has come to its end");
        }
    }

    /// Takes a disk into the place of a member that has failed: a new one in its slot, or that one again.
    async fn join(&self, disk: DiskIndex) -> Result<(), PoolError> {
        let pool = self.pool;
        let unreadable = |error: Error| PoolError::Readmit {
            pool,
            source: ReadmitError::Disk(error),
        };
        let session = self.disks.session(disk).await.map_err(unreadable)?;
        if !is_for_groups(&session) {
            return Err(not_for_groups(disk));
        }
        let found = label::read(&self.disks, disk).await.map_err(unreadable)?;
        let others = found.any().is_some_and(|label| label.pool != pool) && found.holds_data();
        if !found.legible() || others {
            let why = found.why();
            return Err(PoolError::Occupied { pool, disk, why });
        }
        let label = lock(&self.label).clone();
        let fenced = fence::extend(&self.disks, &mut *self.exclusion.lock().await, disk, &label).await;
        fenced.map_err(|error| PoolError::Readmit {
            pool,
            source: ReadmitError::Fence(error),
        })?;
        *lock(&self.coming) = Some(disk);
        let joined = async {
            self.relabel(|label| {
                for member in label.members.iter_mut().filter(|member| member.disk == disk) {
                    member.id = session.info.id;
                    member.state = MemberState::Resyncing;
                }
            })
            .await?;
            self.enter(disk).await
        };
        let joined = joined.await;
        if joined.is_err() {
            self.give_up(disk).await;
        }
        *lock(&self.coming) = None;
        joined
    }

    /// Has a disk taken into the group that the label has as being copied to.
    async fn enter(&self, disk: DiskIndex) -> Result<(), PoolError> {
        let pool = self.pool;
        let of_disk = self.open_disks().into_iter().find(|open| open.slot == disk);
        let Some(of_disk) = of_disk else {
            let source = ReadmitError::NoMember(disk);
            return Err(PoolError::Readmit { pool, source });
        };
        let request = Replace { pool, disk: of_disk };
        let group = self.groups.replace(request).await;
        let group = group.map_err(|why| PoolError::Group { pool, why })?;
        *lock(&self.coming) = None;
        self.take_in(group.state).await;
        Ok(())
    }

    /// A disk that has not come into the group has failed, as before.
    async fn give_up(&self, disk: DiskIndex) {
        let told = self.relabel(|label| {
            let coming = label.members.iter_mut().filter(|member| member.disk == disk);
            coming.for_each(|member| member.state = MemberState::Failed);
        });
        if let Err(error) = told.await {
            warn!(%error, %disk, "the label does not know yet that a disk has not come");
        }
    }

    fn watch_space(&self) {
        let state = self.state.borrow().clone();
        let (free, capacity) = (
            state.capacity_bytes.saturating_sub(state.used_bytes),
            state.capacity_bytes,
        );
        let map_free = state.map_capacity_bytes.saturating_sub(state.map_used_bytes);
        let below =
            |percent: u8, free: u64, of: u64| u128::from(free) * 100 < u128::from(of) * u128::from(percent);
        let low = {
            let mut low = lock(&self.low);
            // A map that is full stops a pool as much as data that are.
            let is = below(low.0, free, capacity) || below(low.0, map_free, state.map_capacity_bytes);
            match std::mem::replace(&mut low.1, is) == is {
                true => return,
                false => is,
            }
        };
        warn!(pool = %self.pool, low, free, capacity, map_free, "free space of a pool");
        self.report(PoolEvent::Space {
            pool: self.pool,
            low,
            free_bytes: free,
            capacity_bytes: capacity,
        });
    }
}

async fn write_label(disks: &Disks, label: &Label, disk: DiskIndex) -> Result<(), String> {
    let session = disks.session(disk).await.map_err(|error| error.to_string())?;
    let bytes = label.encode(session.info.id).map_err(|error| error.to_string())?;
    let at = label::place(label.txg, session.bytes());
    let written = label::write_bytes(&session, at, bytes).await;
    written.map_err(|error| error.to_string())
}

/// Reads the own keys back.
async fn tend<G: Groups>(holding: Arc<Holding<G>>, period: Duration) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if holding.is_stopped() {
            return;
        }
        let guarded: Vec<_> = holding.open_disks().iter().map(|disk| disk.slot).collect();
        if holding.check(&guarded).await {
            return;
        }
    }
}

/// Asks the kernel how the group is.
async fn look<G: Groups>(holding: Arc<Holding<G>>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if holding.is_stopped() {
            return;
        }
        match holding.groups.state(holding.pool).await {
            Ok(state) => holding.take_in(state).await,
            Err(error) => warn!(pool = %holding.pool, error, "the kernel cannot be asked how a group is"),
        }
    }
}

/// Takes disks into the group that were on their way into it when the pool was imported.
async fn go_on<G: Groups>(holding: Arc<Holding<G>>) {
    let coming: Vec<_> = lock(&holding.label).disks_in(MemberState::Resyncing).collect();
    for disk in coming {
        if let Err(error) = holding.enter(disk).await {
            warn!(%error, %disk, "a disk was on its way into the group, and does not come");
            holding.give_up(disk).await;
        }
    }
}

/// A group that is active here.
#[derive(Debug)]
pub struct LvmPool<G: Groups> {
    sockets: PathBuf,
    array: Uuid,
    holding: Arc<Holding<G>>,
    /// Volumes whose devices are open.
    known: Mutex<BTreeMap<VolumeId, Arc<Device>>>,
    served: Mutex<BTreeMap<VolumeId, Served<Device>>>,
    snapshots: Mutex<Vec<ItemId>>,
    files: Mutex<Vec<Files>>,
    /// What was asked for last: asked for again when the group was given up and is not gone.
    applied: Mutex<Option<Apply>>,
    /// Of which volume a snapshot is, as the configuration has it.
    of: Mutex<BTreeMap<ItemId, VolumeId>>,
    /// Held while volumes and snapshots are changed.
    reconcile: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl<G: Groups> Drop for LvmPool<G> {
    /// As the end of the process: the group stays active, and whoever starts next adopts it.
    fn drop(&mut self) {
        self.end();
    }
}

impl<G: Groups> LvmPool<G> {
    fn failed(&self, why: String) -> PoolError {
        PoolError::Group { pool: self.id(), why }
    }

    /// Serves what a group has.
    async fn show(&self, group: Group) -> Result<(), PoolError> {
        *lock(&self.snapshots) = group.snapshots;
        *lock(&self.files) = group.files;
        for volume in &group.volumes {
            if let Some(device) = lock(&self.known).get(&volume.id) {
                device.set_size(volume.size_bytes);
                continue;
            }
            let (groups, path) = (self.holding.groups.clone(), PathBuf::from(&volume.node));
            let opened = tokio::task::spawn_blocking(move || groups.open(&path)).await;
            let node = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let node = node.map_err(|source| PoolError::Io {
                path: volume.node.clone().into(),
                source,
            })?;
            let device = Arc::new(Device::new(volume.id, node, volume.size_bytes));
            lock(&self.known).insert(volume.id, device);
        }
        self.holding.take_in(group.state).await;
        self.serve_all()
    }

    /// Opens the volumes that are known and not served.
    fn serve_all(&self) -> Result<(), PoolError> {
        let known = lock(&self.known).clone();
        for (id, device) in known {
            if !lock(&self.served).contains_key(&id) {
                let served = Served::open(device, &self.sockets, id, self.array)?;
                lock(&self.served).insert(id, served);
            }
        }
        Ok(())
    }

    /// Ends the sessions of some volumes, and closes their devices. Those whose commands do not end in time stay open.
    async fn close(&self, which: impl Fn(VolumeId) -> bool, within: Duration) -> Result<(), PoolError> {
        let deadline = Instant::now() + within;
        let gone: Vec<_> = {
            let mut served = lock(&self.served);
            let ids: Vec<_> = served.keys().copied().filter(|id| which(*id)).collect();
            ids.into_iter().filter_map(|id| served.remove(&id)).collect()
        };
        let closed = join_all(gone.into_iter().map(|served| served.close(deadline))).await;
        if !closed.into_iter().all(|in_time| in_time) {
            return Err(PoolError::Deadline {
                pool: self.id(),
                what: "ending its commands",
                after: within,
            });
        }
        lock(&self.known).retain(|id, _| !which(*id));
        Ok(())
    }

    async fn leave(&self, within: Duration, destroy: bool) -> Result<(), PoolError> {
        let _no_changes = self.reconcile.lock().await;
        let began = Instant::now();
        self.close(|_| true, within).await?;
        let late = |what| PoolError::Deadline {
            pool: self.id(),
            what,
            after: within,
        };
        let left = within.saturating_sub(began.elapsed());
        let groups = &self.holding.groups;
        let down = async {
            match destroy {
                true => {
                    let (pool, disks) = (self.id(), self.holding.open_disks());
                    groups.remove(Remove { pool, disks }).await
                }
                false => groups.deactivate(self.id()).await,
            }
        };
        let down = timeout(left, down)
            .await
            .map_err(|_| late("deactivating its group"))?;
        if let Err(why) = down {
            // It is served again, until somebody decides what becomes of it: not what was stopped meanwhile, and what is stopped
            // while it comes back goes again.
            if !self.holding.is_stopped() {
                self.again().await?;
            }
            if self.holding.is_stopped() {
                let cut = groups.cut(self.id()).await;
                cut.map_err(|why| self.failed(why))?;
            }
            return Err(self.failed(why));
        }
        let left = within.saturating_sub(began.elapsed());
        let last = self.holding.relabel(|label| {
            label.clean = true;
            if destroy {
                label.group = Some(GroupEntry { made: false });
            }
        });
        timeout(left, last)
            .await
            .map_err(|_| late("leaving its disks clean"))??;
        self.holding.condition.send_replace(Condition::Stopped);
        self.end_tasks();
        fence::release(&self.holding.disks, &*self.holding.exclusion.lock().await).await;
        self.holding.records.forget(self.id());
        Ok(())
    }

    /// Activates what is not active any more, and serves it.
    async fn again(&self) -> Result<(), PoolError> {
        let request = Activate {
            pool: self.id(),
            disks: self.holding.open_disks(),
            create: false,
        };
        let group = self.holding.groups.activate(request).await;
        self.show(group.map_err(|why| self.failed(why))?).await?;
        // Mounts have ended, and are nothing that an activation brings back.
        let applied = lock(&self.applied).clone();
        if let Some(request) = applied.filter(|applied| !applied.file_systems.is_empty()) {
            let group = self.holding.groups.apply(request).await;
            self.show(group.map_err(|why| self.failed(why))?).await?;
        }
        Ok(())
    }

    /// Ends every session at once, and whatever runs beside.
    fn end(&self) {
        self.holding.condition.send_replace(Condition::Stopped);
        self.end_tasks();
        std::mem::take(&mut *lock(&self.served))
            .into_values()
            .for_each(Served::cut);
        lock(&self.known).clear();
    }

    fn end_tasks(&self) {
        lock(&self.tasks).drain(..).for_each(|task| task.abort());
    }
}

impl<G: Groups> Imported for LvmPool<G> {
    fn id(&self) -> PoolId {
        self.holding.pool
    }

    fn name(&self) -> String {
        lock(&self.holding.label).name.clone()
    }

    fn made(&self) -> Made {
        Made {
            backend: config::Backend::Lvm,
            level: Level::over(lock(&self.holding.label).members.len()),
        }
    }

    fn key(&self) -> ReservationKey {
        self.holding.key
    }

    fn space(&self) -> (u64, u64, u64) {
        let state = self.holding.state.borrow();
        (state.capacity_bytes, state.used_bytes, EXTENT_BYTES)
    }

    fn health(&self) -> PoolHealth {
        self.holding.health()
    }

    async fn reopen(&self) -> Result<(), PoolError> {
        let _no_changes = self.reconcile.lock().await;
        // Its devices are closed before the group is deactivated. What lvmd has begun of that it brings to its end, also when nobody
        // waits for it any more: then the group is active no longer, and is activated behind it.
        if lock(&self.known).is_empty() {
            return self.again().await;
        }
        self.serve_all()
    }

    fn volumes(&self) -> Vec<VolumeId> {
        lock(&self.served).keys().copied().collect()
    }

    fn condition(&self) -> watch::Receiver<Condition> {
        self.holding.condition.subscribe()
    }

    fn is_low(&self) -> bool {
        lock(&self.holding.low).1
    }

    fn snapshots(&self) -> Vec<ItemId> {
        lock(&self.snapshots).clone()
    }

    fn files(&self) -> Vec<Files> {
        lock(&self.files).clone()
    }

    async fn reconcile(&self, index: u64, wanted: &Wanted) -> Vec<PoolError> {
        let _one = self.reconcile.lock().await;
        if index < lock(&self.holding.label).config_index || self.holding.is_stopped() {
            // An older configuration than the one that shaped this pool knows nothing of what came after.
            return Vec::new();
        }
        lock(&self.holding.low).0 = wanted.low_percent;
        *lock(&self.of) = (wanted.snapshots.iter())
            .map(|snapshot| (snapshot.id, snapshot.volume))
            .collect();
        let ids: BTreeSet<_> = wanted.volumes.iter().map(|volume| volume.id).collect();
        let of_files = wanted.file_system_snapshots.iter().map(|snapshot| snapshot.id);
        let taken: BTreeSet<_> = (wanted.snapshots.iter().map(|snapshot| snapshot.id))
            .chain(of_files.clone())
            .collect();
        let kept: BTreeSet<_> = (wanted.file_systems.iter().map(|files| files.id))
            .chain(of_files)
            .collect();
        let removes = lock(&self.known).keys().any(|id| !ids.contains(id))
            || lock(&self.snapshots).iter().any(|id| !taken.contains(id))
            || lock(&self.files).iter().any(|files| !kept.contains(&files.id));
        let fits = |volume: &&WantedVolume| {
            let known = lock(&self.known);
            known
                .get(&volume.id)
                .is_some_and(|device| device.size_bytes() >= volume.size_bytes)
        };
        let mounted = |id: &ItemId, size_bytes: u64| {
            let files = lock(&self.files);
            let found = files.iter().find(|files| files.id == *id);
            found.is_some_and(|files| files.path.is_some() && files.size_bytes >= size_bytes)
        };
        let sizes = (wanted.file_systems.iter()).map(|files| (files.id, files.size_bytes));
        let sizes: BTreeMap<_, _> = sizes.collect();
        let stands = wanted.volumes.iter().all(|volume| fits(&volume))
            && taken.iter().all(|id| lock(&self.snapshots).contains(id))
            && kept
                .iter()
                .all(|id| mounted(id, sizes.get(id).copied().flatten().unwrap_or(0)));
        if stands && !removes {
            return Vec::new();
        }
        // Before something is removed the label knows of the change that wants it: an older one would make it anew.
        let told = async {
            if removes {
                self.holding.relabel(|label| label.config_index = index).await?;
            }
            self.close(|id| !ids.contains(&id), COMMAND_DEADLINE).await?;
            let volume = |volume: &WantedVolume| pollux_api::lvm::Volume {
                id: volume.id,
                size_bytes: volume.size_bytes,
            };
            let snapshot = |snapshot: &WantedSnapshot| Snapshot {
                id: snapshot.id,
                volume: snapshot.volume,
            };
            let request = Apply {
                pool: self.id(),
                volumes: wanted.volumes.iter().map(volume).collect(),
                snapshots: wanted.snapshots.iter().map(snapshot).collect(),
                file_systems: wanted.file_systems.clone(),
                file_system_snapshots: wanted.file_system_snapshots.clone(),
            };
            *lock(&self.applied) = Some(request.clone());
            let group = self.holding.groups.apply(request).await;
            let group = group.map_err(|why| self.failed(why))?;
            let problems = group.problems.clone();
            self.show(group).await?;
            Ok::<_, PoolError>(problems)
        };
        match told.await {
            Ok(problems) => problems.into_iter().map(|why| self.failed(why)).collect(),
            Err(error) => vec![error],
        }
    }

    async fn roll_back(&self, snapshot: ItemId) -> Result<VolumeId, PoolError> {
        let _one = self.reconcile.lock().await;
        let pool = self.id();
        let volume = lock(&self.of).get(&snapshot).copied();
        let volume = volume.filter(|_| lock(&self.snapshots).contains(&snapshot));
        let volume = volume.ok_or(PoolError::NoSnapshot { pool, snapshot })?;
        let device = lock(&self.known).get(&volume).cloned();
        let device = device.ok_or(PoolError::NoVolume { pool, volume })?;
        let wrong = |status: Status| self.failed(format!("the journal of volume {volume}: {status:?}"));
        let record = device.take_record().await.map_err(wrong)?;
        drop(device);
        self.close(|id| id == volume, COMMAND_DEADLINE).await?;
        let to = Snapshot { id: snapshot, volume };
        let groups = &self.holding.groups;
        let group = match groups.roll_back(RollBack { pool, to }).await {
            Ok(group) => group,
            Err(why) => {
                // It is served again, as what it is now.
                self.again().await?;
                return Err(self.failed(why));
            }
        };
        self.show(group).await?;
        let device = lock(&self.known).get(&volume).cloned();
        if let Some(device) = device.filter(|_| !record.is_empty()) {
            device.put_record(&record).await.map_err(wrong)?;
        }
        Ok(volume)
    }

    async fn resync(&self, disk: DiskIndex) -> Result<(), PoolError> {
        let _one = self.reconcile.lock().await;
        let (holding, pool) = (&self.holding, self.id());
        // A disk may have failed since the kernel was asked last.
        let state = holding.groups.state(pool).await;
        holding.take_in(state.map_err(|why| self.failed(why))?).await;
        if holding.is_stopped() {
            return Err(holding.stopped());
        }
        let member = lock(&holding.label).member(disk).map(|member| member.state);
        match member {
            None => Err(PoolError::Readmit {
                pool,
                source: ReadmitError::NoMember(disk),
            }),
            Some(MemberState::InSync) => Ok(()),
            Some(MemberState::Resyncing) => holding.enter(disk).await,
            Some(MemberState::Failed) => holding.join(disk).await,
        }
    }

    async fn export(&self, within: Duration) -> Result<(), PoolError> {
        self.leave(within, false).await
    }

    async fn destroy(&self, index: u64, within: Duration) -> Result<(), PoolError> {
        lock(&self.holding.label).allows_deletion(index)?;
        self.leave(within, true).await
    }

    fn stop(&self) {
        self.end();
        let (groups, pool) = (self.holding.groups.clone(), self.id());
        tokio::spawn(async move {
            if let Err(why) = groups.cut(pool).await {
                error!(%pool, why, "a stopped group stays in the kernel");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pool_is_made_of_follows_from_its_disks_unless_it_is_chosen() {
        use config::Backend::{Embedded, Lvm};
        let disks = |ours: &[bool]| -> Vec<(DiskIndex, bool)> {
            let numbered = ours.iter().enumerate();
            numbered
                .map(|(at, ours)| (DiskIndex::new(at as u16), *ours))
                .collect()
        };
        for (ours, chosen, level) in [
            (&[true][..], None, Level::Linear),
            (&[true, true], Some(Lvm), Level::Raid1),
            (&[true; 3], None, Level::Raid1),
            (&[true; 6], Some(Lvm), Level::Raid10),
        ] {
            let made = made(&disks(ours), chosen).expect("possible");
            assert_eq!((made.backend, made.level), (Lvm, Some(level)), "{ours:?}");
        }
        for chosen in [None, Some(Embedded)] {
            let made = made(&disks(&[false, false]), chosen).expect("possible");
            assert_eq!((made.backend, made.level), (Embedded, None));
        }
        for (ours, chosen, which) in [
            (&[true, false][..], None, 1),
            (&[true, false], Some(Lvm), 1),
            (&[false, true], Some(Embedded), 1),
            (&[true, true], Some(Embedded), 0),
        ] {
            let error = made(&disks(ours), chosen).expect_err("refused");
            assert!(
                matches!(error, PoolError::Kind { disk, .. } if disk == DiskIndex::new(which)),
                "{ours:?}: {error}"
            );
        }
        let error = made(&disks(&[true; 5]), None).expect_err("no level over five");
        assert!(error.to_string().contains("an even number from 4 on"), "{error}");
    }
}
