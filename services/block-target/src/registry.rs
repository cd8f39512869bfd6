//! The gatekeeper of one volume, on the controller that owns it: holds what hosts have reserved, and lets commands in.
//!
//! ```text
//!  own port's hosts ----> admit ----+---> running ----> below
//!  partner's (forwarded) ----^      |        |
//!                                   |        +-- PREEMPT AND ABORT waits for its end
//!                              conflict, unit attention
//! ```
//!
//! What is decided is [`reservation`](crate::scsi::reservation)'s business; making it durable is
//! [`Volume`](crate::volume::Volume)'s. Here stands what was made durable, under the claim under which it was read: with a
//! newer claim it is unknown until it has been read again, and nothing is let in meanwhile. So a controller that slept
//! through two changes of owner goes on from what the other one has written.
//!
//! Unit attentions of reservations are kept here for the nexuses of *both* ports, and told with the next command of each:
//! every command passes the owner. They, and a reservation by RESERVE(6), are part of the record and outlive the owner.
//! What was told, or has ended by itself, leaves the record a moment later ([`Volume::tidy`](crate::volume::Volume::tidy)):
//! a controller that takes over in between tells it once more and keeps what had ended. LOGICAL UNIT RESET ends that.

use crate::scsi::reservation::{Access, Change, Nexus, State};
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status};
use pollux_api::id::Generation;
use pollux_api::target::ResetReach;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedMutexGuard};

/// Nexuses whose count of resets is remembered. Those who never come back are forgotten beyond that.
const WAITING_MAX: usize = 1024;

/// A command of RESERVE(6) or RELEASE(6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
}

/// What follows from it.
#[derive(Debug)]
pub enum LegacyStep {
    /// Nothing was read under this claim.
    Unknown,
    /// It ends with this.
    Answered(Outcome),
    /// This has to be made durable before it is answered GOOD.
    Becomes(State),
}

/// Whether a command is let in.
#[derive(Debug)]
pub enum Admission {
    /// It may go below, and is running until this is dropped.
    Admitted(Running),
    /// It ends with this.
    Refused(Outcome),
    /// Nothing has been read under this claim.
    Unknown,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of the claim under which something was read last.
    last: Option<Generation>,
    known: Option<(Generation, State)>,
    /// Whose reservation by RESERVE(6) has ended while the record has it.
    ended: Option<Nexus>,
    /// The port whose nexuses are lost.
    gone: Option<u16>,
    /// Resets of the unit that came by port 1 and by port 2, and of which the other port's sessions could not be told.
    resets: [u64; 2],
    /// How many of them by the other port each nexus knows of.
    heard: BTreeMap<Nexus, u64>,
    next: u64,
    running: BTreeMap<u64, (Option<Arc<Nexus>>, bool)>,
}

/// The gatekeeper.
#[derive(Debug, Default)]
pub struct Registry {
    core: Arc<Core>,
    /// Changes are made one by one.
    change: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Core {
    inner: Mutex<Inner>,
    ended: Notify,
    /// The record has something that was told or has ended. Looked at after every command.
    untidy: AtomicBool,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.core.lock()
    }

    /// Waits for the turn to make a change.
    pub(crate) async fn turn_to_change(&self) -> OwnedMutexGuard<()> {
        self.change.clone().lock_owned().await
    }

    /// Lets a command in that needs `access`. `begins`: a unit attention may be told.
    pub fn admit(
        &self,
        generation: Generation,
        nexus: Option<&Arc<Nexus>>,
        access: Access,
        begins: bool,
    ) -> Admission {
        let mut inner = self.lock();
        if let Some(refused) = self.refusal(&mut inner, generation, nexus, begins) {
            return refused;
        }
        let Some((_, state)) = &inner.known else {
            return Admission::Unknown;
        };
        // Nobody is no registrant, and reserved is reserved.
        let conflicts = match nexus {
            Some(nexus) => state.conflicts(nexus, access),
            None => state.held().is_some() && state.conflicts(&NOBODY, access),
        };
        if conflicts {
            return Admission::Refused(Outcome::status(Status::ReservationConflict));
        }
        inner.next += 1;
        let id = inner.next;
        inner.running.insert(id, (nexus.cloned(), false));
        let core = self.core.clone();
        Admission::Admitted(Running { core, id })
    }

    /// What was read under a claim.
    pub fn restore(&self, generation: Generation, state: State) {
        let mut inner = self.lock();
        if inner.last.replace(generation) != Some(generation) {
            inner.ended = None;
            self.core.untidy.store(false, Ordering::Relaxed);
            inner.heard.clear();
        }
        let ended = inner.ended.take();
        inner.known = Some((generation, state));
        let gone = inner.gone;
        self.end_legacy(&mut inner, |holder| {
            ended.as_ref() == Some(holder) || Some(holder.port) == gone
        });
    }

    fn end_legacy(&self, inner: &mut Inner, ends: impl Fn(&Nexus) -> bool) {
        let Some((_, state)) = &mut inner.known else {
            return;
        };
        if let Some(holder) = state.legacy().filter(|holder| ends(holder)).cloned() {
            *state = state.with_legacy(None);
            inner.ended = Some(holder);
            self.core.untidy.store(true, Ordering::Relaxed);
        }
    }

    /// Whether anything was read under this claim.
    #[must_use]
    pub fn knows(&self, generation: Generation) -> bool {
        self.state(generation).is_some()
    }

    /// What stands under this claim.
    #[must_use]
    pub fn state(&self, generation: Generation) -> Option<State> {
        let inner = self.lock();
        let (known, state) = inner.known.as_ref()?;
        (*known == generation).then(|| state.clone())
    }

    /// Nobody knows whether a change was made: it is read again before anything is let in. What RESERVE(6) holds stays.
    pub fn forget(&self) {
        self.lock().known = None;
    }

    /// A change that is durable takes effect. Who was told something in the meantime is not told it again.
    pub fn commit(&self, generation: Generation, change: &Change) {
        let mut inner = self.lock();
        let mut state = change.state.clone();
        if let Some((known, before)) = &inner.known
            && *known == generation
        {
            state.goes_on_from(before, &change.attentions);
        }
        inner.known = Some((generation, state));
    }

    /// RESERVE(6) and RELEASE(6) as SPC-2 has them, with the exceptions of SPC-4, 5.13.3.
    pub fn legacy(
        &self,
        generation: Generation,
        nexus: &Arc<Nexus>,
        what: Legacy,
        begins: bool,
    ) -> LegacyStep {
        let mut inner = self.lock();
        if inner.known.as_ref().is_none_or(|(known, _)| *known != generation) {
            return LegacyStep::Unknown;
        }
        if let Some(refused) = self.attention(&mut inner, nexus, begins) {
            return LegacyStep::Answered(refused);
        }
        let Some((_, state)) = &inner.known else {
            return LegacyStep::Unknown;
        };
        if state.covers_legacy(nexus) {
            return LegacyStep::Answered(Outcome::good());
        }
        // Once anybody has registered, the older kind conflicts for everybody who has no exception.
        let registered = !state.registrations().is_empty();
        let free = state.legacy().is_none_or(|holder| *holder == **nexus);
        let next = match what {
            _ if registered => return LegacyStep::Answered(Outcome::status(Status::ReservationConflict)),
            Legacy::Reserve if free => Some(Nexus::clone(nexus)),
            Legacy::Reserve => return LegacyStep::Answered(Outcome::status(Status::ReservationConflict)),
            Legacy::Release if free => None,
            // Who has nothing to release hears no complaint.
            Legacy::Release => return LegacyStep::Answered(Outcome::good()),
        };
        match state.legacy() == next.as_ref() {
            true => LegacyStep::Answered(Outcome::good()),
            false => LegacyStep::Becomes(state.with_legacy(next)),
        }
    }

    /// A step of RESERVE(6) or RELEASE(6) that is durable takes effect.
    pub fn commit_legacy(&self, generation: Generation, next: &State) {
        let mut inner = self.lock();
        if let Some((known, state)) = &mut inner.known
            && *known == generation
        {
            *state = state.with_legacy(next.legacy().cloned());
        }
    }

    /// A port's nexuses are lost, and what RESERVE(6) holds for one of them with it; or no port's are.
    pub fn port_is_gone(&self, port: Option<u16>) {
        let mut inner = self.lock();
        inner.gone = port;
        self.end_legacy(&mut inner, |holder| Some(holder.port) == port);
    }

    /// The unit was reset, or its task set cleared, by a nexus: what RESERVE(6) holds ends with a reset. With the nexuses
    /// of the other port that have commands running.
    pub fn reset(&self, by: &Nexus, reach: ResetReach) -> Vec<Nexus> {
        let mut inner = self.lock();
        if reach != ResetReach::Clear {
            self.end_legacy(&mut inner, |_| true);
        }
        let running = inner.running.values().filter_map(|(nexus, _)| nexus.as_deref());
        running.filter(|nexus| nexus.port != by.port).cloned().collect()
    }

    /// The other port's sessions could not be told of a reset by this nexus: each is told with its next command.
    pub fn tell_later(&self, by: &Nexus) {
        if let Some(count) = self.lock().resets.get_mut(usize::from(by.port).wrapping_sub(1)) {
            *count += 1;
        }
    }

    /// Whether the record has something that was told or has ended, which the caller takes out of it now.
    #[must_use]
    pub fn begins_to_tidy(&self) -> bool {
        let untidy = &self.core.untidy;
        untidy.load(Ordering::Relaxed) && untidy.swap(false, Ordering::Relaxed)
    }

    /// The record is this now.
    pub fn is_saved(&self, saved: &State) {
        let mut inner = self.lock();
        if inner.known.as_ref().is_some_and(|(_, state)| state == saved) {
            inner.ended = None;
        }
    }

    fn attention(&self, inner: &mut Inner, nexus: &Nexus, begins: bool) -> Option<Outcome> {
        if !begins {
            return None;
        }
        let (sense, of_record) = inner.next_attention(nexus)?;
        self.core.untidy.fetch_or(of_record, Ordering::Relaxed);
        Some(sense.into())
    }

    /// What ends every command alike: nothing known, a unit attention, a reservation by RESERVE(6).
    fn refusal(
        &self,
        inner: &mut Inner,
        generation: Generation,
        nexus: Option<&Arc<Nexus>>,
        begins: bool,
    ) -> Option<Admission> {
        if inner.known.as_ref().is_none_or(|(known, _)| *known != generation) {
            return Some(Admission::Unknown);
        }
        if let Some(outcome) = nexus.and_then(|nexus| self.attention(inner, nexus, begins)) {
            return Some(Admission::Refused(outcome));
        }
        let holder = inner.known.as_ref().and_then(|(_, state)| state.legacy());
        let other = holder.is_some_and(|holder| nexus.is_none_or(|nexus| **nexus != *holder));
        other.then(|| Admission::Refused(Outcome::status(Status::ReservationConflict)))
    }

    /// The running commands of these nexuses are aborted, and have ended when this returns. What is below runs out; its
    /// host is not answered.
    pub async fn abort(&self, nexuses: &[Nexus]) {
        let concerns =
            |nexus: &Option<Arc<Nexus>>| nexus.as_ref().is_some_and(|nexus| nexuses.contains(nexus));
        let marked: Vec<u64> = {
            let mut inner = self.lock();
            let hit = inner.running.iter_mut().filter(|(_, (nexus, _))| concerns(nexus));
            hit.map(|(id, (_, aborted))| {
                *aborted = true;
                *id
            })
            .collect()
        };
        loop {
            let ended = self.core.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !marked.iter().any(|id| self.lock().running.contains_key(id)) {
                return;
            }
            ended.await;
        }
    }
}

/// A nexus that nobody can have: an iSCSI name is not empty.
static NOBODY: Nexus = Nexus {
    initiator: String::new(),
    isid: [0; 6],
    port: 0,
};

impl Inner {
    /// A unit attention of this nexus, which is told now, and whether it was in the record.
    fn next_attention(&mut self, nexus: &Nexus) -> Option<(Sense, bool)> {
        // Ports 1 and 2: the other one's index is 1 and 0.
        let resets = self.resets.get(2_usize.wrapping_sub(nexus.port.into()));
        let resets = resets.copied().unwrap_or(0);
        if self.heard.len() >= WAITING_MAX && !self.heard.contains_key(nexus) {
            self.heard.pop_first();
        }
        let known = self.heard.insert(nexus.clone(), resets);
        if known.is_some_and(|known| known != resets) {
            return Some((Sense::RESET_OCCURRED, false));
        }
        let (_, state) = self.known.as_mut()?;
        state.tell(nexus).map(|sense| (sense, true))
    }
}

/// A command below, until it is dropped.
#[derive(Debug)]
pub struct Running {
    core: Arc<Core>,
    id: u64,
}

impl Running {
    /// Another host has aborted it: its end is told to nobody.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.core
            .lock()
            .running
            .get(&self.id)
            .is_some_and(|(_, aborted)| *aborted)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.lock().running.remove(&self.id);
        self.core.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::reservation::{Kind, Out};
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const CLAIM: Generation = Generation::new(3);

    fn nexus(name: &str) -> Arc<Nexus> {
        Arc::new(Nexus {
            initiator: name.to_owned(),
            isid: [1; 6],
            port: 1,
        })
    }

    fn made(registry: &Registry, nexus: &Nexus, out: &Out) -> Change {
        let state = registry.state(CLAIM).expect("known");
        let id = uuid::Uuid::new_v4().into_bytes();
        let change = state.decide(nexus, out, id).expect("permitted");
        registry.commit(CLAIM, &change);
        change
    }

    fn register(new: u64) -> Out {
        Out::RegisterAndIgnore {
            new,
            all_ports: false,
            aptpl: true,
        }
    }

    fn reserved(registry: &Registry, holder: &Nexus) {
        made(registry, holder, &register(7));
        let kind = Kind::WriteExclusive;
        made(registry, holder, &Out::Reserve { key: 7, kind });
    }

    fn conflicts(admission: &Admission) -> bool {
        matches!(admission, Admission::Refused(outcome) if outcome.status == Status::ReservationConflict)
    }

    #[test]
    fn nothing_is_let_in_before_it_was_read_under_the_claim() {
        let registry = Registry::default();
        let host = nexus("a");
        let unknown = |generation| {
            let admission = registry.admit(generation, Some(&host), Access::Free, true);
            matches!(admission, Admission::Unknown)
        };
        assert!(unknown(CLAIM));
        registry.restore(CLAIM, State::default());
        assert!(!unknown(CLAIM));
        assert!(unknown(Generation::new(4)), "a newer claim");
        let step = registry.legacy(Generation::new(4), &host, Legacy::Reserve, true);
        assert!(matches!(step, LegacyStep::Unknown));
        registry.forget();
        assert!(unknown(CLAIM));
    }

    #[test]
    fn nobody_conflicts_with_whatever_is_reserved() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        reserved(&registry, &nexus("a"));
        assert!(conflicts(&registry.admit(CLAIM, None, Access::Write, false)));
        assert!(!conflicts(&registry.admit(CLAIM, None, Access::Read, false)));
    }

    #[tokio::test]
    async fn preempt_and_abort_waits_for_what_the_victim_has_below() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        let (a, b) = (nexus("a"), nexus("b"));
        reserved(&registry, &a);
        made(&registry, &b, &register(8));
        let Admission::Admitted(below) = registry.admit(CLAIM, Some(&a), Access::Write, true) else {
            panic!("the holder writes")
        };
        let change = made(
            &registry,
            &b,
            &Out::Preempt {
                key: 8,
                victim: 7,
                kind: Some(Kind::WriteExclusive),
                abort: true,
            },
        );
        let mut abort = pin!(registry.abort(&change.aborts));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(abort.as_mut().poll(&mut context), Poll::Pending));
        assert!(below.is_aborted());
        drop(below);
        assert!(matches!(abort.as_mut().poll(&mut context), Poll::Ready(())));
        let told = registry.admit(CLAIM, Some(&a), Access::Write, true);
        assert!(
            matches!(told, Admission::Refused(outcome) if outcome.sense == Some(Sense::REGISTRATIONS_PREEMPTED))
        );
        assert!(conflicts(&registry.admit(CLAIM, Some(&a), Access::Write, true)));
    }

    #[test]
    fn reserve_6_excludes_everybody_until_it_ends_and_gives_way_to_registrations() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        let (a, b) = (nexus("a"), nexus("b"));
        let legacy = |host, what| match registry.legacy(CLAIM, host, what, true) {
            LegacyStep::Unknown => panic!("known"),
            LegacyStep::Answered(outcome) => outcome.status,
            LegacyStep::Becomes(next) => {
                registry.commit_legacy(CLAIM, &next);
                Status::Good
            }
        };
        let end = |port| registry.port_is_gone(port);
        assert_eq!(legacy(&a, Legacy::Reserve), Status::Good);
        assert_eq!(legacy(&b, Legacy::Reserve), Status::ReservationConflict);
        assert_eq!(legacy(&b, Legacy::Release), Status::Good, "and releases nothing");
        assert!(conflicts(&registry.admit(CLAIM, Some(&b), Access::Free, true)));
        assert!(!conflicts(&registry.admit(CLAIM, Some(&a), Access::Write, true)));
        end(Some(2));
        assert_eq!(legacy(&b, Legacy::Reserve), Status::ReservationConflict);
        end(Some(1));
        assert_eq!(legacy(&b, Legacy::Reserve), Status::Good);
        assert_eq!(legacy(&b, Legacy::Release), Status::Good);
        reserved(&registry, &a);
        assert_eq!(
            legacy(&a, Legacy::Reserve),
            Status::Good,
            "the holder has it already"
        );
        assert_eq!(legacy(&b, Legacy::Reserve), Status::ReservationConflict);
        assert!(
            !conflicts(&registry.admit(CLAIM, Some(&b), Access::Read, true)),
            "RESERVE(6) by the holder reserved nothing"
        );
    }

    fn next(registry: &Registry, claim: Generation, nexus: &Arc<Nexus>) -> Option<Sense> {
        match registry.admit(claim, Some(nexus), Access::Free, true) {
            Admission::Refused(outcome) => outcome.sense,
            _ => None,
        }
    }

    /// What another owner reads of the record.
    fn taken_over(registry: &Registry, claim: u64) -> Registry {
        let state = registry.state(CLAIM).expect("known");
        let record = state.to_record();
        let other = Registry::default();
        other.restore(
            Generation::new(claim),
            State::from_record(&record).expect("sound"),
        );
        other
    }

    #[test]
    fn what_was_not_told_is_told_by_the_next_owner_and_what_was_is_not() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        let (a, b, c) = (nexus("a"), nexus("b"), nexus("c"));
        for host in [&a, &b, &c] {
            made(&registry, host, &register(7));
        }
        made(&registry, &a, &Out::Clear { key: 7 });
        assert_eq!(next(&registry, CLAIM, &b), Some(Sense::RESERVATIONS_PREEMPTED));
        assert!(registry.begins_to_tidy() && !registry.begins_to_tidy());
        let other = taken_over(&registry, 4);
        let claim = Generation::new(4);
        assert_eq!(next(&other, claim, &a), None, "who did it is not told");
        assert_eq!(next(&other, claim, &b), None);
        assert_eq!(next(&other, claim, &c), Some(Sense::RESERVATIONS_PREEMPTED));
        assert_eq!(next(&other, claim, &c), None);
    }

    #[test]
    fn who_is_told_while_a_change_is_made_durable_is_not_told_again() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        let (a, b) = (nexus("a"), nexus("b"));
        for host in [&a, &b] {
            made(&registry, host, &register(7));
        }
        made(&registry, &a, &Out::Clear { key: 7 });
        let state = registry.state(CLAIM).expect("known");
        let change = state.decide(&a, &register(9), [9; 16]).expect("permitted");
        assert_eq!(next(&registry, CLAIM, &b), Some(Sense::RESERVATIONS_PREEMPTED));
        registry.commit(CLAIM, &change);
        assert_eq!(next(&registry, CLAIM, &b), None);
    }

    #[test]
    fn reserve_6_outlives_the_owner_unless_its_port_is_gone_or_it_had_ended() {
        let registry = Registry::default();
        registry.restore(CLAIM, State::default());
        let a = nexus("a");
        let LegacyStep::Becomes(held) = registry.legacy(CLAIM, &a, Legacy::Reserve, true) else {
            panic!("free")
        };
        registry.commit_legacy(CLAIM, &held);
        let claim = Generation::new(4);
        let other = taken_over(&registry, 4);
        assert!(conflicts(&other.admit(
            claim,
            Some(&nexus("b")),
            Access::Free,
            true
        )));
        assert!(!conflicts(&other.admit(claim, Some(&a), Access::Write, true)));
        // The next owner knows that the port is gone before it reads the record.
        let other = Registry::default();
        other.port_is_gone(Some(1));
        other.restore(claim, held.clone());
        assert!(!conflicts(&other.admit(
            claim,
            Some(&nexus("b")),
            Access::Free,
            true
        )));
        assert!(other.begins_to_tidy(), "the record has it still");
        // It has ended, and the record is read again before that is in it.
        let by = Nexus {
            port: 2,
            ..(*a).clone()
        };
        assert_eq!(registry.reset(&by, ResetReach::Clear), []);
        assert!(conflicts(&registry.admit(
            CLAIM,
            Some(&nexus("b")),
            Access::Free,
            true
        )));
        registry.reset(&by, ResetReach::Unit);
        registry.forget();
        registry.restore(CLAIM, held);
        assert!(!conflicts(&registry.admit(
            CLAIM,
            Some(&nexus("b")),
            Access::Free,
            true
        )));
    }
}
