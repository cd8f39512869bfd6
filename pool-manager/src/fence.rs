//! Taking a pool's disks for oneself, and the proof of having done so.
//!
//! A disk with Write Exclusive - Registrants Only and a single registrant is a door with one key. Taking it: register
//! one's own key, preempt and abort whoever else has one, and then *look*: the reservation is mine and mine is the only
//! key. Only what was read back counts; an answer of "done" does not.
//!
//! ```text
//!              not registered          nobody holds it         another holds it, or is registered
//!  read back ------------------> REGISTER --> RESERVE --> PREEMPT AND ABORT --> read back, until nothing is left to do
//!       |
//!       +-- a key that is not older than ours: stop, unregister (the fence was decided upon too long ago)
//!       +-- a stranger's key, and the disk is not known to be this pool's: stop; people decide about it
//! ```
//!
//! Before anything is sent it is looked whether the disks carry the label of another pool with something in it, and none of
//! this one: then the pool is to be made of disks that it may not have.
//!
//! A key that is none of this array's is preempted only on a disk that the pool's own label calls a member: whose disk it
//! is otherwise, nobody here knows, and it may be somebody's who lives. Such a key is shown ([`strangers`]) and removed
//! when an operator says so ([`evict`]).
//!
//! [`Exclusion`] is the proof, and nothing outside this file can make one: `import` takes it by value, so a pool cannot
//! be imported by a process that has not fenced it. Proof is complete when every member disk is fenced but those which
//! the pool's own label, read on fenced disks, already calls failed. One disk less, and the old owner could still write
//! there and acknowledge.

use crate::disks::{Disks, deadline};
use crate::label::{self, Label, MemberState, OnDisk};
use pollux_api::id::{ArrayId, DiskIndex, PoolId};
use pollux_api::pool::{ForeignKey, PowerOff, ReservationKey, Take};
use pollux_block_frame::key::{decode, encode, port_of, remover, whose};
use pollux_block_frame::{
    Error, FullStatus, Key, Port, Registrant, Reservation, ReservationOut, ReservationType, Status,
};
use std::collections::BTreeSet;
use thiserror::Error;

/// The reservation that guards a pool's disks.
pub const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// Rounds of one fence on one disk. Each removes a registrant, and there are two ports.
const ROUNDS: usize = 8;

/// Why exclusion was not taken on a disk, or is not there any more.
#[derive(Debug, Error)]
pub enum FenceError {
    /// A key that is not older than ours stands on the disk: whoever fenced later is right.
    #[error("{disk}: held by controller {} of epoch {} and claim {}, which is not older than this fence", by.controller, by.epoch, by.generation)]
    Superseded {
        /// Where it was seen.
        disk: DiskIndex,
        /// Whose key.
        by: ReservationKey,
    },
    /// Somebody who is none of this array is registered, on a disk that is not known to be this pool's.
    #[error("{disk}: key {key} is registered there ({}); `pollux disk clear-key {disk} {key}` removes it", whose(*key))]
    Foreign {
        /// Where it was seen.
        disk: DiskIndex,
        /// The key.
        key: Key,
    },
    /// The disk did not come to rest: somebody registers as fast as we preempt.
    #[error("{disk}: other keys keep coming back ({status})")]
    Contended {
        /// Which.
        disk: DiskIndex,
        /// What stood there last.
        status: String,
    },
    /// Exclusion is gone: a readable wrong key, or none.
    #[error("{disk}: exclusion lost ({status})")]
    Lost {
        /// Where it was seen.
        disk: DiskIndex,
        /// The key that stands there instead, if it is one of this array's.
        holder: Option<ReservationKey>,
        /// What stands there.
        status: String,
    },
    /// The disk cannot be asked.
    #[error("{disk}: {source}")]
    Disk {
        /// Which.
        disk: DiskIndex,
        /// Why.
        source: Error,
    },
    /// A pool that is not known on its disks, and another one that is, with something in it.
    #[error("{disk}: {why}: no key is put on it for another pool")]
    Occupied {
        /// Where it was seen.
        disk: DiskIndex,
        /// What stands there.
        why: String,
    },
    /// Epoch or generation do not fit into a key.
    #[error("epoch {} or claim generation {} is beyond 2^24", key.epoch, key.generation)]
    KeyRange {
        /// The key.
        key: ReservationKey,
    },
}

/// What has to be done next on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Exclusion is ours, as just read.
    Done,
    /// Send this, then read again.
    Do(ReservationOut),
    /// Stop.
    Superseded(ReservationKey),
    /// Stop: it is not ours to decide about this one.
    Foreign(Key),
}

/// A key that is to stand alone, in both forms.
#[derive(Clone, Copy, Debug)]
struct Mine {
    array: ArrayId,
    port: Port,
    raw: Key,
    key: ReservationKey,
}

impl Mine {
    fn new(array: ArrayId, key: ReservationKey) -> Result<Self, FenceError> {
        let raw = encode(array, key).ok_or(FenceError::KeyRange { key })?;
        Ok(Mine {
            array,
            port: port_of(key.controller),
            raw,
            key,
        })
    }

    fn alone(&self, status: &FullStatus) -> bool {
        status.registrants
            == [Registrant {
                port: self.port,
                key: self.raw,
            }]
            && status.reservation
                == Some(Reservation {
                    key: self.raw,
                    port: self.port,
                    kind: KIND,
                })
    }

    /// The decision, from what was read. `known`: the disk is a member of the pool by the pool's own label.
    fn next(&self, status: &FullStatus, known: bool) -> Step {
        let others = status.registrants.iter().filter(|entry| entry.key != self.raw);
        let age = |key: &ReservationKey| (key.epoch, key.generation);
        let newest = others
            .clone()
            .filter_map(|entry| decode(self.array, entry.key))
            .max_by_key(age);
        // A key of our own port is replaced when we register; only a younger one says that we are late. At the other
        // port equal age is impossible (a claim generation has one holder), so it counts as younger.
        if let Some(other) = newest
            && (age(&other) > age(&self.key)
                || (age(&other) == age(&self.key) && other.controller != self.key.controller))
        {
            return Step::Superseded(other);
        }
        let stranger = others
            .clone()
            .find(|entry| decode(self.array, entry.key).is_none());
        if let Some(stranger) = stranger.filter(|_| !known) {
            return Step::Foreign(stranger.key);
        }
        let registered = status
            .registrants
            .iter()
            .any(|entry| entry.port == self.port && entry.key == self.raw);
        let preempt = |victim| {
            Step::Do(ReservationOut::Preempt {
                key: self.raw,
                victim,
                kind: KIND,
                abort: true,
            })
        };
        match status.reservation {
            _ if !registered => Step::Do(ReservationOut::RegisterAndIgnore { new: self.raw }),
            None => Step::Do(ReservationOut::Reserve {
                key: self.raw,
                kind: KIND,
            }),
            Some(held) if held.key != self.raw || held.kind != KIND => preempt(held.key),
            Some(_) => match others.clone().next() {
                Some(other) => preempt(other.key),
                None => Step::Done,
            },
        }
    }
}

/// In words, for messages.
fn describe(array: ArrayId, status: &FullStatus) -> String {
    let name = |key: Key| match decode(array, key) {
        Some(key) => format!("{}/{}/{}", key.controller, key.epoch, key.generation),
        None => key.to_string(),
    };
    let keys: Vec<_> = status.registrants.iter().map(|entry| name(entry.key)).collect();
    let holder = status
        .reservation
        .map_or("nobody".to_owned(), |held| name(held.key));
    format!("holder {holder}, keys [{}]", keys.join(", "))
}

/// Takes exclusion on one disk and reads it back. `label` is the pool's, if it has one.
async fn take_disk(
    disks: &Disks,
    disk: DiskIndex,
    mine: &Mine,
    label: Option<&Label>,
) -> Result<(), FenceError> {
    let failed = |source| FenceError::Disk { disk, source };
    let mut session = disks.session(disk).await.map_err(failed)?;
    if session.client.outstanding() > 0 {
        // Commands of a pool that was stopped here: the next session drains them before anything else.
        disks.give_up(disk, &session).await;
        session = disks.session(disk).await.map_err(failed)?;
    }
    let member = label.and_then(|label| label.member(disk));
    let known = member.is_some_and(|member| member.id == session.info.id);
    let client = session.client;
    let read = async || client.reservation_status(deadline()).await.map_err(failed);
    let mut status = read().await?;
    let result = 'taken: {
        for _ in 0..ROUNDS {
            match mine.next(&status, known) {
                Step::Done => break 'taken Ok(()),
                Step::Foreign(key) => break 'taken Err(FenceError::Foreign { disk, key }),
                Step::Superseded(by) => break 'taken Err(FenceError::Superseded { disk, by }),
                Step::Do(out) => match client.reservation_out(out, deadline()).await {
                    Ok(()) => {}
                    // Somebody was quicker: what to do about it depends on what stands there now.
                    Err(error) if error.status() == Some(Status::ReservationConflict) => {}
                    Err(error) => break 'taken Err(failed(error)),
                },
            }
            match read().await {
                Ok(now) => status = now,
                Err(error) => break 'taken Err(error),
            }
        }
        Err(FenceError::Contended {
            disk,
            status: describe(mine.array, &status),
        })
    };
    if result.is_err() {
        give_back(disks, disk, mine).await;
    }
    result
}

/// Removes the own registration (and with it the reservation, if it is ours), so that an aborted fence leaves nothing.
/// Only exactly this key: a later one of the same controller stays.
async fn give_back(disks: &Disks, disk: DiskIndex, mine: &Mine) {
    let Ok(session) = disks.session(disk).await else {
        return;
    };
    let out = ReservationOut::Register {
        current: mine.raw,
        new: Key(0),
    };
    if let Err(error) = session.client.reservation_out(out, deadline()).await
        && error.status() != Some(Status::ReservationConflict)
    {
        tracing::warn!(%disk, %error, "own registration was not removed");
    }
}

/// Reads keys and reservation of a disk: is exclusion (still) ours? Answers the disk's count of changes (PRGENERATION),
/// which a disk that has been without power begins anew, also where its registrations outlive that.
pub async fn check(disks: &Disks, disk: DiskIndex, key: ReservationKey) -> Result<u32, FenceError> {
    let mine = Mine::new(disks.array(), key)?;
    let failed = |source| FenceError::Disk { disk, source };
    let session = disks.session(disk).await.map_err(failed)?;
    let status = session
        .client
        .reservation_status(deadline())
        .await
        .map_err(failed)?;
    if mine.alone(&status) {
        return Ok(status.generation);
    }
    let foreign = status
        .registrants
        .iter()
        .map(|entry| entry.key)
        .filter(|other| *other != mine.raw);
    let holder = status.reservation.map(|held| held.key).into_iter().chain(foreign);
    Err(FenceError::Lost {
        disk,
        holder: holder
            .filter_map(|other| decode(disks.array(), other))
            .find(|other| *other != key),
        status: describe(disks.array(), &status),
    })
}

/// Makes a disk count at least one change of its reservations, without changing any: own key is replaced by itself, which
/// only a disk that still has it does. A disk that counts nothing could be without power again unnoticed. Answers as
/// [`check`].
pub async fn wind(disks: &Disks, disk: DiskIndex, key: ReservationKey) -> Result<u32, FenceError> {
    let mine = Mine::new(disks.array(), key)?;
    let failed = |source| FenceError::Disk { disk, source };
    let session = disks.session(disk).await.map_err(failed)?;
    let itself = ReservationOut::Register {
        current: mine.raw,
        new: mine.raw,
    };
    match session.client.reservation_out(itself, deadline()).await {
        // It has the key no more: what stands there instead is told below.
        Err(error) if error.status() != Some(Status::ReservationConflict) => Err(failed(error)),
        _ => check(disks, disk, key).await,
    }
}

/// Who holds a disk, if it is a key of this array.
pub async fn holder(disks: &Disks, disk: DiskIndex) -> Option<ReservationKey> {
    let session = disks.session(disk).await.ok()?;
    let status = session.client.reservation_status(deadline()).await.ok()?;
    decode(disks.array(), status.reservation?.key)
}

/// Keys that are none of this array's, on every disk that is there and can be asked.
pub async fn strangers(disks: &Disks) -> Vec<ForeignKey> {
    let present = disks.present().unwrap_or_default();
    let read = disks.each(&present, |disk| async move {
        let session = disks.session(disk).await.ok()?;
        session.client.reservation_status(deadline()).await.ok()
    });
    let found = read
        .await
        .into_iter()
        .filter_map(|(disk, status)| Some((disk, status?)));
    found
        .flat_map(|(disk, status)| strangers_of(disks.array(), disk, &status))
        .collect()
}

/// Those that stand on one disk, each once.
fn strangers_of(array: ArrayId, disk: DiskIndex, status: &FullStatus) -> Vec<ForeignKey> {
    let keys: BTreeSet<Key> = status.registrants.iter().map(|entry| entry.key).collect();
    let strangers = keys.into_iter().filter(|key| decode(array, *key).is_none());
    strangers
        .map(|key| ForeignKey {
            disk,
            key: key.to_string(),
            whose: whose(key),
            // Zero: every registrant holds it.
            holds: status
                .reservation
                .is_some_and(|held| held.key == key || held.key == Key(0)),
        })
        .collect()
}

/// What came of a removal.
#[derive(Debug)]
pub struct Evicted {
    /// The key was there.
    pub removed: bool,
    /// Keys of strangers that stand there still.
    pub left: Vec<ForeignKey>,
}

/// Why a key is not removed.
#[derive(Debug, Error)]
pub enum EvictError {
    /// A controller of this array has registered there.
    #[error("{disk}: controller {} of this array is registered there, in epoch {} under claim {}", by.controller, by.epoch, by.generation)]
    Owned {
        /// The disk.
        disk: DiskIndex,
        /// Its key.
        by: ReservationKey,
    },
    /// The disk.
    #[error("{disk}: {source}")]
    Disk {
        /// Which.
        disk: DiskIndex,
        /// Why.
        source: Error,
    },
    /// It was done, and it is there again.
    #[error("{disk}: key {key} is there again: somebody registers it")]
    Again {
        /// The disk.
        disk: DiskIndex,
        /// The key.
        key: Key,
    },
}

/// What [`evict`] would do, without doing it.
pub async fn standing(disks: &Disks, disk: DiskIndex, victim: Key) -> Result<Evicted, EvictError> {
    let failed = |source| EvictError::Disk { disk, source };
    let session = disks.session(disk).await.map_err(failed)?;
    let status = session
        .client
        .reservation_status(deadline())
        .await
        .map_err(failed)?;
    may_evict(disks.array(), disk, victim, &status)?;
    let mut left = strangers_of(disks.array(), disk, &status);
    left.retain(|found| found.key != victim.to_string());
    Ok(Evicted {
        removed: status.registrants.iter().any(|entry| entry.key == victim),
        left,
    })
}

/// Nobody of this array but the victim is registered.
fn may_evict(array: ArrayId, disk: DiskIndex, victim: Key, status: &FullStatus) -> Result<(), EvictError> {
    let others = status
        .registrants
        .iter()
        .map(|entry| entry.key)
        .filter(|key| *key != victim);
    match { others }.find_map(|key| decode(array, key)) {
        Some(by) => Err(EvictError::Owned { disk, by }),
        None => Ok(()),
    }
}

/// Removes a key from a disk that no controller of this array has a key on, the key itself apart; with its commands
/// aborted and its reservation released, and nothing of ours left behind. Reads back.
pub async fn evict(disks: &Disks, disk: DiskIndex, victim: Key) -> Result<Evicted, EvictError> {
    let array = disks.array();
    let failed = |source| EvictError::Disk { disk, source };
    let session = disks.session(disk).await.map_err(failed)?;
    let client = session.client;
    let read = async || client.reservation_status(deadline()).await.map_err(failed);
    // False: the disk says that this path has not the key that it would need for that.
    let out = async |out| match client.reservation_out(out, deadline()).await {
        Ok(()) => Ok(true),
        Err(error) if error.status() == Some(Status::ReservationConflict) => Ok(false),
        Err(error) => Err(failed(error)),
    };
    let mut removed = false;
    for _ in 0..ROUNDS {
        let status = read().await?;
        let keys: BTreeSet<Key> = status.registrants.iter().map(|entry| entry.key).collect();
        may_evict(array, disk, victim, &status)?;
        if !keys.contains(&victim) {
            let left = strangers_of(array, disk, &status);
            return Ok(Evicted { removed, left });
        }
        removed = true;
        // Only the disk knows whether one of them was registered through this very path, as by an earlier life of this
        // controller: it lets a key be replaced by itself only there.
        let mut own = None;
        for &key in &keys {
            if out(ReservationOut::Register {
                current: key,
                new: key,
            })
            .await?
            {
                own = Some(key);
                break;
            }
        }
        let unregister = |key| ReservationOut::Register {
            current: key,
            new: Key(0),
        };
        if own == Some(victim) {
            out(unregister(victim)).await?;
            continue;
        }
        let passing = remover(array, disks.controller());
        let key = own.unwrap_or(passing);
        if own.is_none() {
            out(ReservationOut::Register {
                current: Key(0),
                new: passing,
            })
            .await?;
        }
        let preempted = out(ReservationOut::Preempt {
            key,
            victim,
            kind: KIND,
            abort: true,
        })
        .await;
        if own.is_none() {
            out(unregister(passing)).await?;
        }
        preempted?;
    }
    Err(EvictError::Again { disk, key: victim })
}

/// Proof that a pool's disks were taken, read back, by this process, under this key.
#[derive(Debug)]
pub struct Exclusion {
    pool: PoolId,
    key: ReservationKey,
    fenced: BTreeSet<DiskIndex>,
    unfenced: BTreeSet<DiskIndex>,
    confirmed: bool,
    power_off: Option<PowerOff>,
}

impl Exclusion {
    /// The pool.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// The key.
    pub fn key(&self) -> ReservationKey {
        self.key
    }

    /// Disks on which the key stands alone.
    pub fn fenced(&self) -> &BTreeSet<DiskIndex> {
        &self.fenced
    }

    /// Disks on which it does not.
    pub fn unfenced(&self) -> &BTreeSet<DiskIndex> {
        &self.unfenced
    }

    /// Every disk is fenced but those that the pool's own label calls failed.
    pub fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// It permits an import: confirmed, or the previous owner was reported off under the epoch of the key.
    pub fn sufficient(&self) -> bool {
        self.confirmed || self.power_off.is_some()
    }

    /// Adds the report that the previous owner is off. It stands in for the disks that could not be fenced, if it
    /// is about the partner and was gathered under the epoch of this key; otherwise says why not.
    pub fn with_power_off(mut self, report: PowerOff) -> Result<Self, (Self, String)> {
        if report.controller == self.key.controller {
            let why = format!("controller {} cannot report itself off", report.controller);
            return Err((self, why));
        }
        if report.epoch != self.key.epoch {
            let why = format!(
                "power was off in epoch {}, but the key is of epoch {}",
                report.epoch, self.key.epoch
            );
            return Err((self, why));
        }
        self.power_off = Some(report);
        Ok(self)
    }

    /// The own key is checked on this disk: a disk that only the power report covers carries none.
    pub fn guards(&self, disk: DiskIndex) -> bool {
        self.fenced.contains(&disk)
    }

    /// The report that stands in for reservations.
    pub fn power_off(&self) -> Option<PowerOff> {
        self.power_off
    }

    /// Moves the proof out; what stays behind covers nothing.
    pub(crate) fn take(&mut self) -> Exclusion {
        let nothing = Exclusion {
            pool: self.pool,
            key: self.key,
            fenced: BTreeSet::new(),
            unfenced: BTreeSet::new(),
            confirmed: false,
            power_off: None,
        };
        std::mem::replace(self, nothing)
    }

    /// The disk has been taken under the same key.
    fn add(&mut self, disk: DiskIndex) {
        self.unfenced.remove(&disk);
        self.fenced.insert(disk);
    }
}

/// The best label that can be read on `disks`.
async fn best_label(disks: &Disks, pool: PoolId, on: &[DiskIndex]) -> Option<Label> {
    let read = disks.each(on, |disk| label::read(disks, disk)).await;
    label::newest(read.into_iter().filter_map(|(_, read)| read.ok()?.newest(pool)))
}

/// Takes exclusion of a pool on every member disk at once. Confirms it, or says on which disks it failed.
pub async fn take(disks: &Disks, request: &Take) -> Result<(Exclusion, Vec<FenceError>), FenceError> {
    let mine = Mine::new(disks.array(), request.key)?;
    // Disks that the label names and the configuration does not are members, too.
    let mut members: BTreeSet<DiskIndex> = request.disks.iter().copied().collect();
    let listed: Vec<_> = members.iter().copied().collect();
    let read = disks.each(&listed, |disk| label::read(disks, disk)).await;
    let read: Vec<_> = (read.into_iter())
        .filter_map(|(disk, read)| Some((disk, read.ok()?)))
        .collect();
    let newest = |(_, on): &(_, OnDisk)| on.clone().newest(request.pool);
    let seen = label::newest(read.iter().filter_map(newest));
    match &seen {
        Some(label) => members.extend(label.members.iter().map(|member| member.disk)),
        // It is to be made. Another pool may be served from these disks, or be about to leave them: a key would end that.
        None => {
            if let Some((disk, on)) = read.iter().find(|(_, on)| on.holds_data()) {
                let (disk, why) = (*disk, on.why());
                return Err(FenceError::Occupied { disk, why });
            }
        }
    }
    let members: Vec<_> = members.into_iter().collect();
    let results = disks
        .each(&members, |disk| take_disk(disks, disk, &mine, seen.as_ref()))
        .await;
    let mut exclusion = Exclusion {
        pool: request.pool,
        key: request.key,
        fenced: BTreeSet::new(),
        unfenced: BTreeSet::new(),
        confirmed: false,
        power_off: None,
    };
    let mut errors = Vec::new();
    for (disk, result) in results {
        match result {
            Ok(()) => drop(exclusion.fenced.insert(disk)),
            Err(error) => {
                exclusion.unfenced.insert(disk);
                errors.push(error);
            }
        }
    }
    // Late on one disk is late on all: whoever came after us takes them, we leave no key in the way. And a pool that is
    // being made is not made on a stranger's disk, whatever becomes of the partner.
    let late = |error: &FenceError| matches!(error, FenceError::Superseded { .. });
    let strange = |error: &FenceError| matches!(error, FenceError::Foreign { .. }) && seen.is_none();
    let fatal = errors.iter().position(late);
    if let Some(at) = fatal.or_else(|| errors.iter().position(strange)) {
        let fenced: Vec<_> = exclusion.fenced.iter().copied().collect();
        disks.each(&fenced, |disk| give_back(disks, disk, &mine)).await;
        return Err(errors.swap_remove(at));
    }
    // Only now, on fenced disks, does the label stand still.
    let fenced: Vec<_> = exclusion.fenced.iter().copied().collect();
    let label = best_label(disks, request.pool, &fenced).await;
    exclusion.confirmed = confirmed(&exclusion.fenced, &exclusion.unfenced, label.as_ref());
    Ok((exclusion, errors))
}

/// Every disk is fenced but those that the label, read on fenced disks, calls failed; and one of them is in sync.
fn confirmed(fenced: &BTreeSet<DiskIndex>, unfenced: &BTreeSet<DiskIndex>, label: Option<&Label>) -> bool {
    let Some(label) = label else {
        return unfenced.is_empty() && !fenced.is_empty();
    };
    let state = |disk: &DiskIndex| {
        label
            .members
            .iter()
            .find(|member| member.disk == *disk)
            .map(|m| m.state)
    };
    let in_sync = |disk: &DiskIndex| state(disk) == Some(MemberState::InSync);
    let all = label
        .members
        .iter()
        .all(|member| fenced.contains(&member.disk) || member.state == MemberState::Failed);
    all && fenced.iter().any(in_sync)
        && unfenced
            .iter()
            .all(|disk| state(disk) == Some(MemberState::Failed))
}

/// After a restart: the exclusion that this controller has already, if it still stands, exactly as it was, on every
/// disk of `fenced`. Changes nothing.
pub async fn adopt(
    disks: &Disks,
    pool: PoolId,
    key: ReservationKey,
    fenced: &BTreeSet<DiskIndex>,
) -> Result<Exclusion, FenceError> {
    let on: Vec<_> = fenced.iter().copied().collect();
    let checked = disks.each(&on, |disk| check(disks, disk, key)).await;
    // A wrong key outweighs a disk that cannot be asked.
    let mut unreadable = None;
    for (_, result) in checked {
        match result {
            Ok(_) => {}
            Err(error @ FenceError::Disk { .. }) => unreadable = Some(error),
            Err(error) => return Err(error),
        }
    }
    match unreadable {
        Some(error) => Err(error),
        None => Ok(Exclusion {
            pool,
            key,
            fenced: fenced.clone(),
            unfenced: BTreeSet::new(),
            confirmed: true,
            power_off: None,
        }),
    }
}

/// Takes one more disk for a pool that is held: a leg that returns or is replaced. `label` is the pool's.
pub async fn extend(
    disks: &Disks,
    exclusion: &mut Exclusion,
    disk: DiskIndex,
    label: &Label,
) -> Result<(), FenceError> {
    let mine = Mine::new(disks.array(), exclusion.key)?;
    take_disk(disks, disk, &mine, Some(label)).await?;
    exclusion.add(disk);
    Ok(())
}

/// Gives the disks up: unregisters exactly this key wherever it may stand.
pub async fn release(disks: &Disks, exclusion: &Exclusion) {
    let Ok(mine) = Mine::new(disks.array(), exclusion.key) else {
        return;
    };
    let all: Vec<_> = exclusion.fenced.union(&exclusion.unfenced).copied().collect();
    disks.each(&all, |disk| give_back(disks, disk, &mine)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::{ControllerId, Epoch, Generation};

    const ARRAY: ArrayId = ArrayId::from_bytes(*b"fence-test-array");

    fn key(controller: ControllerId, epoch: u64, generation: u64) -> ReservationKey {
        ReservationKey {
            controller,
            epoch: Epoch::new(epoch),
            generation: Generation::new(generation),
        }
    }

    fn mine() -> Mine {
        Mine::new(ARRAY, key(ControllerId::B, 5, 3)).expect("fits")
    }

    fn raw(controller: ControllerId, epoch: u64, generation: u64) -> Key {
        encode(ARRAY, key(controller, epoch, generation)).expect("fits")
    }

    fn status(registrants: &[(Port, Key)], holder: Option<(Port, Key, ReservationType)>) -> FullStatus {
        FullStatus {
            generation: 0,
            registrants: registrants
                .iter()
                .map(|&(port, key)| Registrant { port, key })
                .collect(),
            reservation: holder.map(|(port, key, kind)| Reservation { port, key, kind }),
        }
    }

    #[test]
    fn every_state_of_a_disk_has_a_next_step() {
        let me = mine().raw;
        let old = raw(ControllerId::A, 4, 2);
        let register = Step::Do(ReservationOut::RegisterAndIgnore { new: me });
        let preempt = |victim| {
            Step::Do(ReservationOut::Preempt {
                key: me,
                victim,
                kind: KIND,
                abort: true,
            })
        };
        let foreign = Key(0x1234);
        for (what, status, step) in [
            ("blank", status(&[], None), register),
            (
                "the victim's",
                status(&[(Port::A, old)], Some((Port::A, old, KIND))),
                register,
            ),
            (
                "registered beside the victim",
                status(&[(Port::A, old), (Port::B, me)], Some((Port::A, old, KIND))),
                preempt(old),
            ),
            (
                "registered alone",
                status(&[(Port::B, me)], None),
                Step::Do(ReservationOut::Reserve { key: me, kind: KIND }),
            ),
            (
                "mine",
                status(&[(Port::B, me)], Some((Port::B, me, KIND))),
                Step::Done,
            ),
            (
                "mine, but the victim may still write",
                status(&[(Port::A, old), (Port::B, me)], Some((Port::B, me, KIND))),
                preempt(old),
            ),
            (
                "mine, of the wrong type",
                status(
                    &[(Port::B, me)],
                    Some((Port::B, me, ReservationType::WriteExclusive)),
                ),
                preempt(me),
            ),
            (
                "my own older key",
                status(
                    &[(Port::B, raw(ControllerId::B, 5, 2))],
                    Some((Port::B, raw(ControllerId::B, 5, 2), KIND)),
                ),
                register,
            ),
            (
                "a stranger's",
                status(
                    &[(Port::A, foreign), (Port::B, me)],
                    Some((Port::A, foreign, KIND)),
                ),
                preempt(foreign),
            ),
            (
                "a younger owner's",
                status(&[(Port::A, raw(ControllerId::A, 6, 4))], None),
                Step::Superseded(key(ControllerId::A, 6, 4)),
            ),
            (
                "my own younger key",
                status(&[(Port::B, raw(ControllerId::B, 5, 4))], None),
                Step::Superseded(key(ControllerId::B, 5, 4)),
            ),
            (
                "the same generation at the partner",
                status(&[(Port::A, raw(ControllerId::A, 5, 3))], None),
                Step::Superseded(key(ControllerId::A, 5, 3)),
            ),
        ] {
            assert_eq!(mine().next(&status, true), step, "{what}");
            assert_eq!(mine().alone(&status), step == Step::Done, "{what}");
            // Where nothing says that the disk is ours, only what strangers have there makes a difference.
            let strange = status.registrants.iter().any(|entry| entry.key == foreign);
            let unknown = if strange { Step::Foreign(foreign) } else { step };
            assert_eq!(mine().next(&status, false), unknown, "{what}, on an unknown disk");
        }
    }

    #[test]
    fn keys_of_strangers_are_told_once_and_those_of_the_array_never() {
        let (disk, theirs) = (DiskIndex::new(4), Key(0x77));
        let mine = mine().raw;
        let stranger = Port(0x1ff);
        let seen = |status: &FullStatus| strangers_of(ARRAY, disk, status);
        assert_eq!(seen(&status(&[(Port::B, mine)], Some((Port::B, mine, KIND)))), []);
        let both = [(Port::B, mine), (stranger, theirs), (Port(0x2ff), theirs)];
        let found = seen(&status(&both, Some((Port::B, mine, KIND))));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].key.as_str(), found[0].holds),
            ("0x0000000000000077", false)
        );
        for holder in [theirs, Key(0)] {
            assert!(seen(&status(&both, Some((stranger, holder, KIND))))[0].holds);
        }
    }

    fn set(disks: &[u16]) -> BTreeSet<DiskIndex> {
        disks.iter().copied().map(DiskIndex::new).collect()
    }

    #[test]
    fn confirmed_means_every_disk_but_failed_ones() {
        use MemberState::{Failed, InSync, Resyncing};
        let label = |states: [MemberState; 3]| label::tests::label_with(&states);
        for (fenced, unfenced, states, expected, why) in [
            (set(&[0, 1, 2]), set(&[]), [InSync; 3], true, "all"),
            (
                set(&[0, 1]),
                set(&[2]),
                [InSync; 3],
                false,
                "K6: the old owner writes on the third",
            ),
            (
                set(&[0, 1]),
                set(&[2]),
                [InSync, InSync, Failed],
                true,
                "the label calls it failed",
            ),
            (
                set(&[0, 1]),
                set(&[2]),
                [InSync, InSync, Resyncing],
                false,
                "a leg that is copied to is no failed one",
            ),
            (
                set(&[2]),
                set(&[0, 1]),
                [Failed, Failed, InSync],
                true,
                "the last leg",
            ),
            (
                set(&[0, 1]),
                set(&[2]),
                [Failed, Failed, InSync],
                false,
                "the last leg is missing",
            ),
            (
                set(&[0]),
                set(&[1]),
                [InSync, Failed, InSync],
                false,
                "a member that nobody tried",
            ),
        ] {
            assert_eq!(
                confirmed(&fenced, &unfenced, Some(&label(states))),
                expected,
                "{why}"
            );
        }
        assert!(confirmed(&set(&[0, 1]), &set(&[]), None), "a new pool");
        assert!(
            !confirmed(&set(&[0]), &set(&[1]), None),
            "a new pool on half of its disks"
        );
        assert!(!confirmed(&set(&[]), &set(&[]), None), "nothing is no proof");
    }
}
