//! The mirror: one space of bytes on several disks.
//!
//! Picture a clerk with carbon copies. Every line is written on all sheets before it counts. If a sheet tears, the clerk
//! first notes on every other sheet "sheet 2 is void from here", and only then says that the line is written: whoever
//! picks up the sheets later can tell which one to trust.
//!
//! | event | what happens |
//! |---|---|
//! | write | intents durable, then every leg that is written to, with force unit access |
//! | write that may stay in caches | intents durable, then every leg that is written to |
//! | flush | every leg; then own key is read back on each, which a disk may have lost with its cache |
//! | a leg's session ends before a flush | it may have lost its cache: made equal to a leg that has not; without one the next flush fails |
//! | a disk counts changes of its reservations anew | it was without power: the same |
//! | the path to a leg fails | tried again for a moment: the enclosure may have another path to the disk |
//! | a leg fails | its failure is recorded, durably, on the legs that remain; only then is the write acknowledged |
//! | no leg in sync remains | suspended: nothing is recorded, commands wait; it goes on when legs come back |
//! | reservation conflict, preempted, wrong key | stopped, at once and for good; never retried |
//! | read | one leg; after a crash the region is made equal on all legs first |
//!
//! Invariants:
//! * a leg is read only if every acknowledged write is on it;
//! * a new session at a disk is used only after own key and reservation have been read back there: what a disk forgot
//!   while it was away is never silently registered again;
//! * while a command to a leg may still take effect (no answer in time) its session is given up, and the next one
//!   begins only after the disk has drained it.
//!
//! It must never: acknowledge on a leg what the others do not know to be missing there; decide by itself that a disk
//! which was not seen at the import may be left out.

use crate::disks::{Disks, Session};
use crate::fence::{self, Exclusion, FenceError};
use crate::intent::{self, Ended, INTENT_BYTES, Intents};
use crate::label::{self, DATA_AT, EXTENT_BYTES, INTENT_AT, Label, MemberState, TooLarge};
use bytes::Bytes;
use pollux_api::id::DiskIndex;
use pollux_api::pool::{Leg, LegState, PoolEvent, PoolHealth, ReservationKey};
use pollux_block_frame::{Error, Operation, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error as ThisError;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

/// How long a command waits for a suspended pool: below a host's timeout (30 s) with room for the rest of the way.
pub const HOLD: Duration = Duration::from_secs(15);
/// How long legs that are still missing are waited for once the first has come back after a suspension. A shelf
/// switches its disks on one after the other; without patience each power cycle would cost a leg.
const GATHER: Duration = Duration::from_secs(3);
/// How long a leg that was in use is written to again and again after its path has failed: the enclosure has to notice, to bring
/// what is under way to its end, and to open another path where there is one. A disk without one stalls its pool so long, once.
///
/// A write that was answered with "no path" may still be in the disk, and must not be executed after a newer one of the same
/// range: the enclosure serves the other path only when it has aborted there what came over the one before.
const REPATH: Duration = Duration::from_secs(2);
/// How soon it is tried again. Nothing tells this side that the disk is served anew.
const REPATH_LOOK: Duration = Duration::from_millis(50);
/// Locks of regions; regions share them.
const STRIPES: usize = 64;
/// Unmaps are cut into pieces, so that none takes long.
const UNMAP_PIECE: u64 = 16 * 1024 * 1024;

/// What a mirror may do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Serve.
    Active,
    /// No leg in sync can be written: commands wait.
    Suspended,
    /// Exclusion was lost, or the pool was given up. For good.
    Stopped,
}

/// Why a command on a mirror was not done.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum MirrorError {
    /// The pool is not (any more) this controller's.
    #[error("the pool is stopped here")]
    Stopped,
    /// The pool was suspended for as long as a command may wait. A write may have been done in part; it may be repeated.
    #[error("the pool is suspended: no leg in sync can be used")]
    Held,
    /// The label has no room.
    #[error("{0}")]
    Label(#[from] TooLarge),
    /// Nothing here can serve the command: every leg in sync answered a medium error.
    #[error("medium error on every leg in sync")]
    Medium,
}

/// Where a mirror reports, and where it keeps what its successor after a restart needs.
pub struct Surroundings {
    /// Events for heartbeat and whoever watches.
    pub events: mpsc::UnboundedSender<PoolEvent>,
    /// Called with every new label, before anything that depends on it is acknowledged.
    pub remember: Box<dyn Fn(&Label) + Send + Sync>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surroundings")
    }
}

/// A mirror whose disks are held by this controller.
#[derive(Debug)]
pub struct Mirror {
    disks: Arc<Disks>,
    key: ReservationKey,
    surroundings: Surroundings,
    region_bytes: u64,
    exclusion: tokio::sync::Mutex<Exclusion>,
    /// The label in force. Changed only under `relabel`.
    label: Mutex<Arc<Label>>,
    relabel: tokio::sync::Mutex<Relabel>,
    intents: Mutex<Intents>,
    intent_writer: tokio::sync::Mutex<()>,
    /// Held while the caches are flushed: whoever waits may find itself flushed.
    flusher: tokio::sync::Mutex<()>,
    stripes: Vec<RwLock<()>>,
    condition: watch::Sender<Condition>,
    /// Per disk: the session in which the key was read back, and the disk's count of changes then.
    verified: Mutex<BTreeMap<DiskIndex, (u64, u32)>>,
    /// Disks that carry our key. Others are used only where the previous owner was reported off instead.
    guarded: Mutex<BTreeSet<DiskIndex>>,
    progress: Mutex<BTreeMap<DiskIndex, u8>>,
    caches: Mutex<Caches>,
}

/// What is known of the disks' caches.
#[derive(Debug, Default)]
struct Caches {
    /// Legs that may have lost what was not flushed, until all is equal again.
    lost: BTreeSet<DiskIndex>,
    /// How often no leg was left that certainly has what was not flushed.
    losses: u64,
}

/// What is known of labels beyond the one in force.
#[derive(Debug)]
struct Relabel {
    /// Highest transaction number that was ever tried.
    last_txg: u64,
    /// A label that may have reached a leg, and is on too few of them to be in force. Whatever it says of its members
    /// may be read by somebody who finds only that leg; so it is finished before anything else is decided. (Two legs:
    /// "the first has failed" perhaps arrives at the second, which then goes away. To go on with the first alone and
    /// record "the second has failed" would leave two labels that contradict each other.)
    in_doubt: Option<Label>,
}

/// How a command failed on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The medium: whether a write was done, in part or whole, is unknown.
    Medium,
    /// Nothing was done and nothing will be.
    NotDone,
    /// The same: nobody serves the disk.
    NoSession,
    /// Whether it was done is unknown.
    Unknown,
}

impl Failure {
    /// Whether the command may have had an effect.
    fn may_be_done(self) -> bool {
        match self {
            Self::Medium | Self::Unknown => true,
            Self::NotDone | Self::NoSession => false,
        }
    }
}

/// How one leg took one command.
enum LegResult {
    Done(Bytes),
    /// The leg cannot do it; the reason, for the journal.
    Failed {
        failure: Failure,
        why: String,
    },
    /// Exclusion is gone.
    Conflict {
        holder: Option<ReservationKey>,
        why: String,
    },
}

impl Mirror {
    /// A mirror over the disks of `label`, which is the newest; `unsynced` are the regions in which legs may differ.
    pub fn new(
        disks: Arc<Disks>,
        exclusion: Exclusion,
        label: Label,
        intents: Intents,
        surroundings: Surroundings,
    ) -> Arc<Self> {
        let guarded = exclusion.fenced().clone();
        let relabel = Relabel {
            last_txg: label.txg,
            in_doubt: None,
        };
        Arc::new(Mirror {
            disks,
            key: exclusion.key(),
            surroundings,
            region_bytes: intent::region_bytes(label.extents * EXTENT_BYTES),
            exclusion: tokio::sync::Mutex::new(exclusion),
            label: Mutex::new(Arc::new(label)),
            relabel: tokio::sync::Mutex::new(relabel),
            intents: Mutex::new(intents),
            intent_writer: tokio::sync::Mutex::new(()),
            flusher: tokio::sync::Mutex::new(()),
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            condition: watch::Sender::new(Condition::Active),
            verified: Mutex::default(),
            guarded: Mutex::new(guarded),
            progress: Mutex::default(),
            caches: Mutex::default(),
        })
    }

    /// The label in force.
    pub fn label(&self) -> Arc<Label> {
        lock(&self.label).clone()
    }

    /// The key under which the disks are held.
    pub fn key(&self) -> ReservationKey {
        self.key
    }

    /// What it may do now, to watch.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// State of every leg.
    pub fn health(&self) -> PoolHealth {
        let progress = lock(&self.progress);
        let label = self.label();
        let legs = label.members.iter().map(|member| Leg {
            disk: member.disk,
            state: match member.state {
                MemberState::InSync => LegState::InSync,
                MemberState::Resyncing => LegState::Resyncing,
                MemberState::Failed => LegState::Failed,
            },
            resync_percent: match member.state {
                MemberState::Resyncing => Some(progress.get(&member.disk).copied().unwrap_or(0)),
                _ => None,
            },
        });
        PoolHealth {
            legs: legs.collect(),
            suspended: *self.condition.borrow() == Condition::Suspended,
        }
    }

    /// Regions that have not been made equal since the import.
    pub fn unsynced(&self) -> usize {
        lock(&self.intents).unsynced()
    }

    fn report(&self, event: PoolEvent) {
        // Without a listener the daemon is on its way out.
        let _ = self.surroundings.events.send(event);
    }

    // ---------------------------------------------------------------- condition

    /// Stop for good: no command is begun any more.
    pub fn stop(&self) {
        self.condition.send_replace(Condition::Stopped);
    }

    fn lost(&self, disk: DiskIndex, holder: Option<ReservationKey>, why: &str) {
        let was = self.condition.send_replace(Condition::Stopped);
        if was != Condition::Stopped {
            warn!(pool = %self.label().pool, %disk, why, "exclusion lost: the pool is stopped");
            self.report(PoolEvent::ExclusionLost {
                pool: self.label().pool,
                disk,
                holder,
            });
        }
    }

    fn suspend(&self, reason: &str) {
        let suspended = self.condition.send_if_modified(|condition| {
            let active = *condition == Condition::Active;
            if active {
                *condition = Condition::Suspended;
            }
            active
        });
        if suspended {
            warn!(pool = %self.label().pool, reason, "suspended");
            self.report(PoolEvent::Suspended {
                pool: self.label().pool,
                reason: reason.to_owned(),
            });
        }
    }

    /// Waits until the mirror may serve.
    async fn active(&self, until: Instant) -> Result<(), MirrorError> {
        let mut condition = self.condition.subscribe();
        let settled = condition.wait_for(|condition| *condition != Condition::Suspended);
        match timeout_at(until, settled).await {
            Err(_) => Err(MirrorError::Held),
            // The sender lives in `self`.
            Ok(Err(_)) => Err(MirrorError::Stopped),
            Ok(Ok(condition)) => match *condition {
                Condition::Stopped => Err(MirrorError::Stopped),
                Condition::Active | Condition::Suspended => Ok(()),
            },
        }
    }

    // ---------------------------------------------------------------- one leg

    /// A session at a leg in which the own key was read back.
    async fn leg(&self, disk: DiskIndex) -> Result<Session, LegResult> {
        // No command has been sent yet: whatever goes wrong here, nothing was done.
        let not_done = |why: String| LegResult::Failed {
            failure: Failure::NotDone,
            why,
        };
        let session = self
            .disks
            .session(disk)
            .await
            .map_err(|error| LegResult::Failed {
                failure: Failure::NoSession,
                why: error.to_string(),
            })?;
        let expected = self.label().member(disk).map(|member| member.id);
        if expected != Some(session.info.id) {
            let why = format!(
                "{disk} is another disk now ({}, serial {})",
                session.info.id, session.info.serial
            );
            return Err(not_done(why));
        }
        let verified = lock(&self.verified).get(&disk).map(|(number, _)| *number);
        if lock(&self.guarded).contains(&disk) && verified != Some(session.number()) {
            let checked = match fence::check(&self.disks, disk, self.key).await {
                Ok(0) => fence::wind(&self.disks, disk, self.key).await,
                checked => checked,
            };
            match checked {
                Ok(generation) => {
                    let before = lock(&self.verified).insert(disk, (session.number(), generation));
                    if before.is_some() {
                        self.cache_lost(disk);
                    }
                }
                Err(FenceError::Lost { holder, status, .. }) => {
                    return Err(LegResult::Conflict { holder, why: status });
                }
                Err(error) => return Err(not_done(error.to_string())),
            }
        }
        Ok(session)
    }

    /// One command on one leg; `operation` makes it anew for another try after the connection was lost, or, within `patience`,
    /// the path. The caller holds off everything that must not overtake it, so trying twice is the same as trying once.
    async fn on_leg(
        &self,
        disk: DiskIndex,
        patience: Duration,
        operation: impl Fn(&Session) -> Operation,
    ) -> LegResult {
        // Whoever was never in use here is not waited for: an import goes on without it.
        let used = lock(&self.verified).contains_key(&disk);
        let until = Instant::now() + if used { patience } else { Duration::ZERO };
        let mut again = true;
        loop {
            let session = match self.leg(disk).await {
                Ok(session) => session,
                Err(LegResult::Failed {
                    failure: Failure::NoSession,
                    ..
                }) if Instant::now() < until => {
                    sleep(REPATH_LOOK).await;
                    continue;
                }
                // The first of two tries may have been done.
                Err(LegResult::Failed { why, .. }) if !again => {
                    return LegResult::Failed {
                        failure: Failure::Unknown,
                        why,
                    };
                }
                Err(result) => return result,
            };
            let error = match session
                .client
                .perform(operation(&session), crate::disks::deadline())
                .await
            {
                Ok(reply) => return LegResult::Done(reply.payload),
                Err(error) => error,
            };
            match (&error, error.status()) {
                // Nothing of it was done. By a preempt, or because the enclosure has given up the path on which it waited:
                // whose the disk is tells which.
                (_, Some(Status::Aborted)) if again => {
                    match fence::check(&self.disks, disk, self.key).await {
                        Ok(_) => again = false,
                        Err(FenceError::Lost { holder, status, .. }) => {
                            return LegResult::Conflict { holder, why: status };
                        }
                        Err(other) => {
                            return LegResult::Failed {
                                failure: Failure::NotDone,
                                why: format!("{error}; {other}"),
                            };
                        }
                    }
                }
                // Preempted: the command that was aborted and the one that is turned away tell the same.
                (_, Some(Status::ReservationConflict | Status::Aborted)) => {
                    return LegResult::Conflict {
                        holder: fence::holder(&self.disks, disk).await,
                        why: error.to_string(),
                    };
                }
                (Error::Disconnected { .. }, _) if again => again = false,
                (Error::Disconnected { .. }, _) | (_, Some(Status::NoPath)) if Instant::now() < until => {
                    again = false;
                    sleep(REPATH_LOOK).await;
                }
                (Error::Deadline { .. }, _) => {
                    self.disks.give_up(disk, &session).await;
                    return LegResult::Failed {
                        failure: Failure::Unknown,
                        why: error.to_string(),
                    };
                }
                (_, status) => {
                    let failure = match status {
                        Some(Status::MediumError) => Failure::Medium,
                        // The first of two tries may have been done.
                        _ if error.nothing_was_done() && again => Failure::NotDone,
                        _ => Failure::Unknown,
                    };
                    return LegResult::Failed {
                        failure,
                        why: error.to_string(),
                    };
                }
            }
        }
    }

    /// The same command on every leg that is written to. Returns which of them failed; conflicts stop the mirror.
    async fn on_legs(
        &self,
        legs: &[DiskIndex],
        operation: impl Fn(&Session) -> Operation,
    ) -> Result<Vec<(DiskIndex, Failure)>, MirrorError> {
        let results = self
            .disks
            .each(legs, |disk| self.on_leg(disk, REPATH, &operation))
            .await;
        let mut failed = Vec::new();
        let mut stopped = false;
        for (disk, result) in results {
            match result {
                LegResult::Done(_) => {}
                LegResult::Failed { failure, why } => {
                    warn!(pool = %self.label().pool, %disk, why, "a leg failed");
                    failed.push((disk, failure));
                }
                LegResult::Conflict { holder, why } => {
                    self.lost(disk, holder, &why);
                    stopped = true;
                }
            }
        }
        if stopped {
            Err(MirrorError::Stopped)
        } else {
            Ok(failed)
        }
    }

    /// Legs that every write goes to.
    fn written(label: &Label) -> Vec<DiskIndex> {
        let writable = label
            .members
            .iter()
            .filter(|member| member.state != MemberState::Failed);
        writable.map(|member| member.disk).collect()
    }

    // ---------------------------------------------------------------- labels

    /// Changes the label, durably on every leg that is written to.
    pub async fn relabel(
        &self,
        change: impl Fn(&mut Label) -> Result<(), MirrorError>,
    ) -> Result<Arc<Label>, MirrorError> {
        let until = Instant::now() + HOLD;
        let mut state = self.relabel.lock().await;
        loop {
            self.active(until).await?;
            let mut next = self.base(&state);
            change(&mut next)?;
            if let Some(label) = self.commit(&mut state, next, until).await? {
                return Ok(label);
            }
        }
    }

    /// What the next label starts from.
    fn base(&self, state: &Relabel) -> Label {
        state
            .in_doubt
            .clone()
            .unwrap_or_else(|| Label::clone(&self.label()))
    }

    /// Writes a label until it stands, without the legs that fail meanwhile, on every leg that it does not call failed.
    /// `None`: it certainly stands nowhere, no leg in sync would take it, and the mirror is suspended.
    async fn commit(
        &self,
        state: &mut Relabel,
        mut next: Label,
        until: Instant,
    ) -> Result<Option<Arc<Label>>, MirrorError> {
        let before = self.label();
        let doubt_before = state.in_doubt.take();
        next.key = self.key;
        let mut anywhere = doubt_before.is_some();
        loop {
            // Always into the copy that does not hold the label in force.
            next.txg = state.last_txg
                + if (state.last_txg + before.txg).is_multiple_of(2) {
                    1
                } else {
                    2
                };
            state.last_txg = next.txg;
            // The size hardly depends on the disk: what fits once fits everywhere.
            next.encode(uuid::Uuid::nil())
                .inspect_err(|_| state.in_doubt = doubt_before.clone())?;
            state.in_doubt = Some(next.clone());
            let legs = Self::written(&next);
            let failed = self
                .on_legs(&legs, |session| Operation::Write {
                    lba: label::place(next.txg, session.bytes()) / u64::from(session.info.block_size),
                    data: next.encode(session.info.id).unwrap_or_default(),
                    fua: true,
                })
                .await?;
            if failed.is_empty() {
                break;
            }
            anywhere |= failed.len() < legs.len() || failed.iter().any(|(_, how)| how.may_be_done());
            let mut remaining = next.clone();
            for member in &mut remaining.members {
                if failed.iter().any(|(disk, _)| *disk == member.disk) {
                    member.state = MemberState::Failed;
                }
            }
            if remaining.disks_in(MemberState::InSync).next().is_some() {
                next = remaining;
                continue;
            }
            self.suspend("no leg in sync could be labelled");
            if !anywhere {
                state.in_doubt = None;
                return Ok(None);
            }
            self.active(until).await?;
        }
        state.in_doubt = None;
        let next = Arc::new(next);
        (self.surroundings.remember)(&next);
        *lock(&self.label) = next.clone();
        if next.members != before.members {
            let failed: Vec<_> = next
                .disks_in(MemberState::Failed)
                .map(|disk| disk.to_string())
                .collect();
            info!(pool = %next.pool, txg = next.txg, failed = failed.join(" "), "members changed");
            self.report(PoolEvent::Health {
                pool: next.pool,
                health: self.health(),
            });
        }
        Ok(Some(next))
    }

    /// Records legs as failed on the others. `false`: that was not recorded anywhere, since no leg in sync would remain
    /// or none took it; the mirror is suspended.
    async fn fail(&self, failed: &[(DiskIndex, Failure)], until: Instant) -> Result<bool, MirrorError> {
        let mut state = self.relabel.lock().await;
        let mut next = self.base(&state);
        let mut changed = state.in_doubt.is_some();
        for member in &mut next.members {
            if failed.iter().any(|(disk, _)| *disk == member.disk) && member.state != MemberState::Failed {
                member.state = MemberState::Failed;
                changed = true;
            }
        }
        if !changed {
            return Ok(true);
        }
        if next.disks_in(MemberState::InSync).next().is_none() {
            self.suspend("no leg in sync can be written");
            return Ok(false);
        }
        self.commit(&mut state, next, until)
            .await
            .map(|label| label.is_some())
    }

    /// One command on every leg that is written to, as often as it takes: when this returns `Ok`, it is done on every
    /// leg that the durable label does not call failed, and one of these is in sync.
    async fn on_all(
        &self,
        until: Instant,
        operation: impl Fn(&Session) -> Operation,
    ) -> Result<(), MirrorError> {
        loop {
            self.active(until).await?;
            let failed = self.on_legs(&Self::written(&self.label()), &operation).await?;
            if failed.is_empty() || self.fail(&failed, until).await? {
                return Ok(());
            }
        }
    }

    // ---------------------------------------------------------------- data

    /// Writes; durable on every leg when it returns. The caller holds the range against overlapping writes.
    pub async fn write(&self, at: u64, data: Bytes) -> Result<(), MirrorError> {
        self.put(at, data, Ended::Durable).await
    }

    /// Writes; durable with the next flush. A loss of power of this controller takes nothing, one of the disks may.
    ///
    /// On a disk that does not carry own key nobody could tell later that its cache was lost: then it is durable at once.
    pub async fn write_cached(&self, at: u64, data: Bytes) -> Result<(), MirrorError> {
        let told = {
            let guarded = lock(&self.guarded);
            Self::written(&self.label())
                .iter()
                .all(|disk| guarded.contains(disk))
        };
        let how = if told { Ended::Cached } else { Ended::Durable };
        self.put(at, data, how).await
    }

    async fn put(&self, at: u64, data: Bytes, how: Ended) -> Result<(), MirrorError> {
        let length = data.len() as u64;
        self.change(at, length, how, |session| Operation::Write {
            lba: (DATA_AT + at) / u64::from(session.info.block_size),
            data: data.clone(),
            fua: how == Ended::Durable,
        })
        .await
    }

    /// Everything whose write has returned is durable on every leg when it returns; also what an earlier owner left in
    /// the caches.
    pub async fn flush(&self) -> Result<(), MirrorError> {
        let Some(wanted) = lock(&self.intents).unflushed() else {
            return Ok(());
        };
        let _one = self.flusher.lock().await;
        let upto = {
            let intents = lock(&self.intents);
            match intents.unflushed() {
                Some(upto) if !intents.is_flushed(wanted) => upto,
                _ => return Ok(()),
            }
        };
        let until = Instant::now() + HOLD;
        self.on_all(until, |_| Operation::Flush).await?;
        self.caches_were_kept(until).await?;
        lock(&self.intents).flushed(upto);
        Ok(())
    }

    /// How often what was written and not flushed may have been lost on every leg. Whoever waits for a flush of a write
    /// from before the last time has to be told that it failed.
    pub fn losses(&self) -> u64 {
        lock(&self.caches).losses
    }

    /// The session at a leg has ended: the disk may have been without power.
    fn cache_lost(&self, disk: DiskIndex) {
        let mut intents = lock(&self.intents);
        if intents.unflushed().is_none() {
            return;
        }
        intents.doubt();
        let mut caches = lock(&self.caches);
        caches.lost.insert(disk);
        let label = self.label();
        if label
            .disks_in(MemberState::InSync)
            .all(|leg| caches.lost.contains(&leg))
        {
            warn!(pool = %label.pool, "every disk may have lost what was written to its cache and not flushed");
            caches.losses += 1;
            caches.lost.clear();
        } else {
            info!(pool = %label.pool, %disk, "it may have lost its cache: made equal to the others");
        }
    }

    /// The legs in sync, those first that have everything.
    fn sources(&self, label: &Label) -> Vec<DiskIndex> {
        let caches = lock(&self.caches);
        let (doubtful, sure): (Vec<_>, Vec<_>) = label
            .disks_in(MemberState::InSync)
            .partition(|disk| caches.lost.contains(disk));
        [sure, doubtful].concat()
    }

    /// Own key stands, and the disk has counted so many changes of its reservations. A disk that was without power begins
    /// to count anew: where keys outlive that, it is all that tells of a cache that was lost.
    async fn counted(&self, disk: DiskIndex, generation: u32) {
        let known = lock(&self.verified).get(&disk).map(|(_, known)| *known);
        let Some(known) = known.filter(|known| *known != generation) else {
            return;
        };
        // Before the loss is noted: what is written from now on is told of by the next one.
        let now = match generation {
            0 => fence::wind(&self.disks, disk, self.key).await,
            _ => Ok(generation),
        };
        match now {
            // Unless somebody else was quicker with the same news.
            Ok(now) => {
                let mut verified = lock(&self.verified);
                match verified.get_mut(&disk) {
                    Some((_, standing)) if *standing == known => *standing = now,
                    _ => return,
                }
            }
            // As long as it cannot be, it is told again and again.
            Err(error) => warn!(pool = %self.label().pool, %disk, %error, "it cannot be made to count"),
        }
        if generation < known {
            self.cache_lost(disk);
        }
    }

    /// A disk that was without power since this controller took it has lost own key with its cache, or counts anew. Asked
    /// after a flush, since it may have been without power just before that.
    async fn caches_were_kept(&self, until: Instant) -> Result<(), MirrorError> {
        loop {
            self.active(until).await?;
            let legs: Vec<_> = {
                let guarded = lock(&self.guarded);
                let written = Self::written(&self.label()).into_iter();
                written.filter(|disk| guarded.contains(disk)).collect()
            };
            let checked = self
                .disks
                .each(&legs, |disk| fence::check(&self.disks, disk, self.key))
                .await;
            let mut failed = Vec::new();
            for (disk, result) in checked {
                match result {
                    Ok(generation) => self.counted(disk, generation).await,
                    Err(FenceError::Lost { holder, status, .. }) => {
                        self.lost(disk, holder, &status);
                        return Err(MirrorError::Stopped);
                    }
                    // What it has kept nobody knows.
                    Err(error) => {
                        warn!(pool = %self.label().pool, %disk, %error, "a leg failed");
                        failed.push((disk, Failure::Unknown));
                    }
                }
            }
            if failed.is_empty() || self.fail(&failed, until).await? {
                return Ok(());
            }
        }
    }

    /// Zeros a range, durably on every leg.
    pub async fn unmap(&self, at: u64, length: u64) -> Result<(), MirrorError> {
        let mut from = at;
        while from < at + length {
            let piece = UNMAP_PIECE.min(at + length - from);
            self.change(from, piece, Ended::Cached, |session| Operation::Unmap {
                lba: (DATA_AT + from) / u64::from(session.info.block_size),
                blocks: (piece / u64::from(session.info.block_size)) as u32,
            })
            .await?;
            from += piece;
        }
        // An unmap has no force unit access.
        self.flush().await
    }

    async fn change(
        &self,
        at: u64,
        length: u64,
        how: Ended,
        operation: impl Fn(&Session) -> Operation,
    ) -> Result<(), MirrorError> {
        let until = Instant::now() + HOLD;
        let regions = intent::regions(self.region_bytes, at, length);
        // Held against making a region equal; in ascending order, so that two writes never wait for each other.
        let stripes: BTreeSet<_> = regions.clone().map(|region| region as usize % STRIPES).collect();
        let mut shared = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            shared.push(self.stripes[stripe].read().await);
        }
        let mut marked = Marked::begin(self, regions, until).await?;
        self.on_all(until, operation).await?;
        marked.ends = how;
        Ok(())
    }

    /// Makes the bits of a write durable; many writes share one copy.
    async fn mark(&self, regions: std::ops::Range<u32>, until: Instant) -> Result<(), MirrorError> {
        let _one = self.intent_writer.lock().await;
        if lock(&self.intents).is_durable(regions) {
            return Ok(());
        }
        self.write_intents(until).await
    }

    /// Before the first command: the intents of this import are on every leg, so that whoever comes after a crash need
    /// not compare everything.
    pub async fn begin(&self) -> Result<(), MirrorError> {
        let _one = self.intent_writer.lock().await;
        self.write_intents(Instant::now() + HOLD).await
    }

    async fn write_intents(&self, until: Instant) -> Result<(), MirrorError> {
        let (sequence, marked) = lock(&self.intents).next_copy(Instant::now());
        let copy = intent::encode(self.label().pool, sequence, self.region_bytes, &marked);
        let place = INTENT_AT[(sequence % 2) as usize];
        self.on_all(until, |session| Operation::Write {
            lba: place / u64::from(session.info.block_size),
            data: copy.clone(),
            fua: true,
        })
        .await?;
        lock(&self.intents).written(&marked);
        Ok(())
    }

    /// Reads from one leg that is in sync; what it returns is what every other would.
    pub async fn read(&self, at: u64, length: u64) -> Result<Bytes, MirrorError> {
        let until = Instant::now() + HOLD;
        for region in intent::regions(self.region_bytes, at, length) {
            if lock(&self.intents).is_unsynced(region) {
                self.sync_region(region, until).await?;
            }
        }
        self.read_any(at, length, until).await
    }

    async fn read_any(&self, at: u64, length: u64, until: Instant) -> Result<Bytes, MirrorError> {
        loop {
            self.active(until).await?;
            let label = self.label();
            let mut all_medium = true;
            for disk in self.sources(&label) {
                match self.read_leg(disk, at, length).await {
                    LegResult::Done(data) => return Ok(data),
                    LegResult::Failed { failure, why } => {
                        warn!(pool = %label.pool, %disk, at, length, why, "read failed; trying the next leg");
                        all_medium &= failure == Failure::Medium;
                    }
                    LegResult::Conflict { holder, why } => {
                        self.lost(disk, holder, &why);
                        return Err(MirrorError::Stopped);
                    }
                }
            }
            if all_medium {
                return Err(MirrorError::Medium);
            }
            self.suspend("no leg in sync can be read");
        }
    }

    async fn read_leg(&self, disk: DiskIndex, at: u64, length: u64) -> LegResult {
        let read = |session: &Session| Operation::Read {
            lba: (DATA_AT + at) / u64::from(session.info.block_size),
            blocks: (length / u64::from(session.info.block_size)) as u32,
        };
        // There is another leg to read.
        match self.on_leg(disk, Duration::ZERO, read).await {
            LegResult::Done(data) if data.len() as u64 != length => {
                let why = format!("{} bytes where {length} were asked", data.len());
                LegResult::Failed {
                    failure: Failure::Unknown,
                    why,
                }
            }
            result => result,
        }
    }

    // ---------------------------------------------------------------- making legs equal

    fn region_range(&self, region: u32) -> (u64, u64) {
        let end = self.label().extents * EXTENT_BYTES;
        let at = u64::from(region) * self.region_bytes;
        (at.min(end), self.region_bytes.min(end.saturating_sub(at)))
    }

    /// Makes a region equal on every leg in sync: what the first of them says is what it says from now on.
    async fn sync_region(&self, region: u32, until: Instant) -> Result<(), MirrorError> {
        let _alone = self.stripes[region as usize % STRIPES].write().await;
        if !lock(&self.intents).is_unsynced(region) {
            return Ok(());
        }
        let (at, length) = self.region_range(region);
        self.copy(at, length, MemberState::InSync, until).await?;
        let mut intents = lock(&self.intents);
        intents.synced(region, Instant::now());
        if intents.unsynced() == 0 {
            lock(&self.caches).lost.clear();
        }
        Ok(())
    }

    /// Copies a range from the first leg in sync that can be read to every leg in state `to`, where they differ. The
    /// caller keeps writers away.
    async fn copy(&self, at: u64, length: u64, to: MemberState, until: Instant) -> Result<(), MirrorError> {
        if length == 0 {
            return Ok(());
        }
        let source = self.read_any(at, length, until).await?;
        loop {
            self.active(until).await?;
            let targets: Vec<_> = self.label().disks_in(to).collect();
            let mut differing = Vec::new();
            for (disk, result) in self
                .disks
                .each(&targets, |disk| self.read_leg(disk, at, length))
                .await
            {
                match result {
                    LegResult::Done(data) if data == source => {}
                    // Unreadable counts as different: writing decides whether the leg is any good.
                    LegResult::Done(_) | LegResult::Failed { .. } => differing.push(disk),
                    LegResult::Conflict { holder, why } => {
                        self.lost(disk, holder, &why);
                        return Err(MirrorError::Stopped);
                    }
                }
            }
            let write = |session: &Session| Operation::Write {
                lba: (DATA_AT + at) / u64::from(session.info.block_size),
                data: source.clone(),
                fua: true,
            };
            let failed = self.on_legs(&differing, write).await?;
            if failed.is_empty() || self.fail(&failed, until).await? {
                return Ok(());
            }
        }
    }

    /// Makes every region equal that is not yet, one after the other; reads do not wait for it.
    pub async fn sync(&self) -> Result<(), MirrorError> {
        while let Some(region) = { lock(&self.intents).first_unsynced() } {
            match self.sync_region(region, Instant::now() + HOLD).await {
                Err(MirrorError::Held) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Copies everything to the legs that are being copied to, then calls them in sync.
    pub async fn resync(&self) -> Result<(), MirrorError> {
        self.sync().await?;
        let targets: Vec<_> = self.label().disks_in(MemberState::Resyncing).collect();
        if targets.is_empty() {
            return Ok(());
        }
        let regions = intent::regions(self.region_bytes, 0, self.label().extents * EXTENT_BYTES);
        for region in regions.clone() {
            loop {
                let _alone = self.stripes[region as usize % STRIPES].write().await;
                let (at, length) = self.region_range(region);
                match self
                    .copy(at, length, MemberState::Resyncing, Instant::now() + HOLD)
                    .await
                {
                    Err(MirrorError::Held) => continue,
                    result => break result?,
                }
            }
            let percent = (u64::from(region) * 100 / u64::from(regions.end.max(1))) as u8;
            lock(&self.progress).extend(targets.iter().map(|disk| (*disk, percent)));
        }
        self.relabel(|label| {
            for member in &mut label.members {
                // Only those that were there from the first region on.
                if targets.contains(&member.disk) && member.state == MemberState::Resyncing {
                    member.state = MemberState::InSync;
                }
            }
            Ok(())
        })
        .await?;
        lock(&self.progress).clear();
        Ok(())
    }

    /// Takes a failed leg, or a new disk in its place, back: fenced, labelled as being copied to. `resync` does the rest.
    pub async fn readmit(&self, disk: DiskIndex) -> Result<(), ReadmitError> {
        let state = self.label().member(disk).map(|member| member.state);
        match state {
            None => return Err(ReadmitError::NoMember(disk)),
            Some(MemberState::InSync | MemberState::Resyncing) => return Ok(()),
            Some(MemberState::Failed) => {}
        }
        let session = self.disks.session(disk).await.map_err(ReadmitError::Disk)?;
        let on_disk = label::read(&self.disks, disk).await.map_err(ReadmitError::Disk)?;
        if let Some(other) = on_disk.any().filter(|other| other.pool != self.label().pool) {
            return Err(ReadmitError::Occupied {
                disk,
                name: other.name.clone(),
            });
        }
        let extents = label::extents(session.bytes());
        if extents < self.label().extents {
            return Err(ReadmitError::TooSmall {
                disk,
                extents,
                needed: self.label().extents,
            });
        }
        let label = self.label();
        fence::extend(&self.disks, &mut *self.exclusion.lock().await, disk, &label).await?;
        lock(&self.guarded).insert(disk);
        lock(&self.verified).remove(&disk);
        // Legs are recognized by the label in force, and this one may be a new disk in an old place. It stays failed
        // until the label that says otherwise is durable.
        self.recognize(disk, session.info.id).await;
        self.relabel(|label| {
            for member in label.members.iter_mut().filter(|member| member.disk == disk) {
                member.id = session.info.id;
                member.state = MemberState::Resyncing;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn recognize(&self, disk: DiskIndex, id: uuid::Uuid) {
        let _one = self.relabel.lock().await;
        let mut label = lock(&self.label);
        for member in Arc::make_mut(&mut label)
            .members
            .iter_mut()
            .filter(|member| member.disk == disk)
        {
            member.id = id;
        }
    }

    // ---------------------------------------------------------------- in the background

    /// Reads own key and reservation on every leg: a readable wrong one stops the mirror. An unreadable one does not:
    /// a disk that stalls has nothing to say about exclusion.
    pub async fn check_keys(&self) {
        if *self.condition.borrow() == Condition::Stopped {
            return;
        }
        let legs = Self::written(&self.label());
        let legs: Vec<_> = legs
            .into_iter()
            .filter(|disk| lock(&self.guarded).contains(disk))
            .collect();
        for (disk, result) in self
            .disks
            .each(&legs, |disk| fence::check(&self.disks, disk, self.key))
            .await
        {
            match result {
                Ok(generation) => self.counted(disk, generation).await,
                Err(FenceError::Lost { holder, status, .. }) => self.lost(disk, holder, &status),
                Err(_) => {}
            }
        }
    }

    /// Tries to end a suspension: every leg in sync is back, or some are and the rest has had its time.
    pub async fn try_resume(&self, first_back: &mut Option<Instant>) {
        if *self.condition.borrow() != Condition::Suspended {
            *first_back = None;
            return;
        }
        // A label in doubt says with which legs it may go on. Whoever holds the lock is about to find out.
        let in_doubt = self
            .relabel
            .try_lock()
            .ok()
            .and_then(|state| state.in_doubt.clone());
        let label = in_doubt.map_or_else(|| self.label(), Arc::new);
        let legs: Vec<_> = label.disks_in(MemberState::InSync).collect();
        let mut back = 0;
        for (disk, result) in self.disks.each(&legs, |disk| self.read_leg(disk, 0, 4096)).await {
            match result {
                LegResult::Done(_) => back += 1,
                LegResult::Failed { .. } => {}
                LegResult::Conflict { holder, why } => return self.lost(disk, holder, &why),
            }
        }
        if back == 0 {
            *first_back = None;
            return;
        }
        let since = *first_back.get_or_insert_with(Instant::now);
        if back == legs.len() || since.elapsed() >= GATHER {
            *first_back = None;
            let resumed = self.condition.send_if_modified(|condition| {
                let suspended = *condition == Condition::Suspended;
                if suspended {
                    *condition = Condition::Active;
                }
                suspended
            });
            if resumed {
                info!(pool = %self.label().pool, "resumed");
                self.report(PoolEvent::Resumed {
                    pool: self.label().pool,
                });
            }
        }
    }

    /// Clears the bits of regions that nobody writes to any more.
    pub async fn clear_idle(&self) -> Result<(), MirrorError> {
        if *self.condition.borrow() != Condition::Active || !lock(&self.intents).has_idle(Instant::now()) {
            return Ok(());
        }
        // Before the lock: a write into a fresh region does not wait for it.
        self.flush().await?;
        let _one = self.intent_writer.lock().await;
        self.write_intents(Instant::now() + HOLD).await
    }

    // ---------------------------------------------------------------- the end

    /// Everything is equal and durable, and the label says so, with `last` done to it. The caller has ended all commands.
    pub async fn close_clean(&self, last: impl Fn(&mut Label)) -> Result<(), MirrorError> {
        self.sync().await?;
        self.flush().await?;
        self.relabel(|label| {
            last(label);
            Ok(())
        })
        .await?;
        self.stop();
        Ok(())
    }

    /// The proof, for another import; only of a mirror that has been stopped. What is left here fences nothing.
    pub async fn take_exclusion(&self) -> Exclusion {
        debug_assert_eq!(*self.condition.borrow(), Condition::Stopped);
        self.exclusion.lock().await.take()
    }

    /// Gives the disks up; only after `close_clean`.
    pub async fn release(&self) {
        fence::release(&self.disks, &*self.exclusion.lock().await).await;
    }
}

/// Why a leg was not taken back.
#[derive(Debug, ThisError)]
pub enum ReadmitError {
    /// The pool has no such leg.
    #[error("{0} is not a member of the pool")]
    NoMember(DiskIndex),
    /// The disk cannot be used.
    #[error("{0}")]
    Disk(Error),
    /// The disk belongs to another pool.
    #[error("{disk} carries the label of pool {name}")]
    Occupied {
        /// Which.
        disk: DiskIndex,
        /// Whose it is.
        name: String,
    },
    /// The disk is too small.
    #[error("{disk} has room for {extents} extents, and the pool needs {needed}")]
    TooSmall {
        /// Which.
        disk: DiskIndex,
        /// What it has.
        extents: u64,
        /// What is needed.
        needed: u64,
    },
    /// It could not be fenced.
    #[error("{0}")]
    Fence(#[from] FenceError),
    /// The label could not be changed.
    #[error("{0}")]
    Mirror(#[from] MirrorError),
}

/// A write under way: its regions are marked, until it is dropped.
struct Marked<'a> {
    mirror: &'a Mirror,
    regions: std::ops::Range<u32>,
    ends: Ended,
}

impl<'a> Marked<'a> {
    async fn begin(
        mirror: &'a Mirror,
        regions: std::ops::Range<u32>,
        until: Instant,
    ) -> Result<Self, MirrorError> {
        let durable = lock(&mirror.intents).begin(regions.clone(), Instant::now());
        // Until a command is sent, nothing is different.
        let mut marked = Marked {
            mirror,
            regions: regions.clone(),
            ends: Ended::Durable,
        };
        if !durable {
            mirror.mark(regions, until).await?;
        }
        marked.ends = Ended::InPart;
        Ok(marked)
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        lock(&self.mirror.intents).end(self.regions.clone(), self.ends, Instant::now());
    }
}

/// Bits of every copy on every one of `from`: the union, and the highest sequence. `None`: no copy could be read, and
/// anything may differ.
pub async fn read_intents(disks: &Disks, label: &Label, from: &[DiskIndex]) -> Option<(u64, BTreeSet<u32>)> {
    let region_bytes = intent::region_bytes(label.extents * EXTENT_BYTES);
    let read = disks
        .each(from, |disk| async move {
            let session = disks.session(disk).await.ok()?;
            let mut copies = Vec::new();
            for at in INTENT_AT {
                let bytes = label::read_bytes(&session, at, INTENT_BYTES).await.ok()?;
                copies.extend(intent::decode(&bytes, label.pool, region_bytes));
            }
            Some(copies)
        })
        .await;
    let copies: Vec<_> = read
        .into_iter()
        .filter_map(|(_, copies)| copies)
        .flatten()
        .collect();
    let sequence = copies.iter().map(|(sequence, _)| *sequence).max()?;
    Some((
        sequence,
        copies.into_iter().flat_map(|(_, marked)| marked).collect(),
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
