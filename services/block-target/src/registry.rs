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
//! every command passes the owner. They, and reservations by RESERVE(6), do not survive a change of owner; every session
//! hears ACCESS STATE CHANGED then.

use crate::scsi::reservation::{Access, Change, Nexus, State};
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status};
use pollux_api::id::Generation;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Unit attentions of one nexus that wait for its next command.
const ATTENTIONS_MAX: usize = 8;
/// Nexuses for which some wait. Those who never come back are forgotten beyond that.
const WAITING_MAX: usize = 1024;

/// A command of RESERVE(6) or RELEASE(6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
}

/// Whether a command is let in.
#[derive(Debug)]
pub enum Admission<'a> {
    /// It may go below, and is running until this is dropped.
    Admitted(Running<'a>),
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
    /// Holder of a reservation by RESERVE(6).
    legacy: Option<Nexus>,
    attentions: BTreeMap<Nexus, VecDeque<Sense>>,
    /// Resets of the unit that came by port 1 and by port 2.
    resets: [u64; 2],
    /// How many of them by the other port each nexus knows of.
    heard: BTreeMap<Nexus, u64>,
    next: u64,
    running: BTreeMap<u64, (Option<Arc<Nexus>>, bool)>,
}

/// The gatekeeper.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// Changes are made one by one.
    pub(crate) change: tokio::sync::Mutex<()>,
    ended: Notify,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a command in that needs `access`. `begins`: a unit attention may be told.
    pub fn admit(
        &self,
        generation: Generation,
        nexus: Option<&Arc<Nexus>>,
        access: Access,
        begins: bool,
    ) -> Admission<'_> {
        let mut inner = self.lock();
        if let Some(refused) = inner.refusal(generation, nexus, begins) {
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
        Admission::Admitted(Running { registry: self, id })
    }

    /// What was read under a claim.
    pub fn restore(&self, generation: Generation, state: State) {
        let mut inner = self.lock();
        if inner.last.replace(generation) != Some(generation) {
            inner.legacy = None;
            inner.attentions.clear();
            inner.heard.clear();
        }
        inner.known = Some((generation, state));
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

    /// A change that is durable takes effect.
    pub fn commit(&self, generation: Generation, change: &Change) {
        let mut inner = self.lock();
        inner.known = Some((generation, change.state.clone()));
        for (nexus, sense) in &change.attentions {
            inner.attend(nexus, *sense);
        }
    }

    /// RESERVE(6) and RELEASE(6) as SPC-2 has them, with the exceptions of SPC-4, 5.13.3. `None`: nothing was read under
    /// this claim.
    pub fn legacy(
        &self,
        generation: Generation,
        nexus: &Arc<Nexus>,
        what: Legacy,
        begins: bool,
    ) -> Option<Outcome> {
        let mut inner = self.lock();
        let conflict = Outcome::status(Status::ReservationConflict);
        if let Some(refused) = inner.attention(nexus, begins) {
            return Some(refused);
        }
        let (known, state) = inner.known.as_ref()?;
        if *known != generation {
            return None;
        }
        if state.covers_legacy(nexus) {
            return Some(Outcome::good());
        }
        // Once anybody has registered, the older kind conflicts for everybody who has no exception.
        let registered = !state.registrations().is_empty();
        let free = inner.legacy.as_ref().is_none_or(|holder| *holder == **nexus);
        match what {
            _ if registered => return Some(conflict),
            Legacy::Reserve if !free => return Some(conflict),
            Legacy::Reserve => inner.legacy = Some(Nexus::clone(nexus)),
            // Who has nothing to release hears no complaint.
            Legacy::Release if free => inner.legacy = None,
            Legacy::Release => {}
        }
        Some(Outcome::good())
    }

    /// Ends reservations by RESERVE(6) that this is true of: their nexus is lost, or the unit was reset.
    pub fn end_legacy(&self, ends: impl Fn(&Nexus) -> bool) {
        let mut inner = self.lock();
        if inner.legacy.as_ref().is_some_and(ends) {
            inner.legacy = None;
        }
    }

    /// The unit was reset by a nexus: what RESERVE(6) holds ends, and the nexuses of the other port hear of it; those of
    /// the same port hear of it there. With the nexuses of the other port that have commands running.
    pub fn reset(&self, by: &Nexus) -> Vec<Nexus> {
        let mut inner = self.lock();
        inner.legacy = None;
        if let Some(count) = inner.resets.get_mut(usize::from(by.port).wrapping_sub(1)) {
            *count += 1;
        }
        let running = inner.running.values().filter_map(|(nexus, _)| nexus.as_deref());
        running.filter(|nexus| nexus.port != by.port).cloned().collect()
    }

    /// A unit attention of this nexus, which is told now.
    #[must_use]
    pub fn next_attention(&self, nexus: &Nexus) -> Option<Sense> {
        self.lock().next_attention(nexus)
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
            let ended = self.ended.notified();
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
    fn attend(&mut self, nexus: &Nexus, sense: Sense) {
        if self.attentions.len() >= WAITING_MAX && !self.attentions.contains_key(nexus) {
            self.attentions.pop_first();
        }
        let queue = self.attentions.entry(nexus.clone()).or_default();
        if !queue.contains(&sense) {
            if queue.len() == ATTENTIONS_MAX {
                queue.pop_front();
            }
            queue.push_back(sense);
        }
    }

    fn next_attention(&mut self, nexus: &Nexus) -> Option<Sense> {
        // Ports 1 and 2: the other one's index is 1 and 0.
        let resets = self.resets.get(2_usize.wrapping_sub(nexus.port.into()));
        let resets = resets.copied().unwrap_or(0);
        if self.heard.len() >= WAITING_MAX && !self.heard.contains_key(nexus) {
            self.heard.pop_first();
        }
        let known = self.heard.insert(nexus.clone(), resets);
        if known.is_some_and(|known| known != resets) {
            return Some(Sense::RESET_OCCURRED);
        }
        let queue = self.attentions.get_mut(nexus)?;
        let sense = queue.pop_front();
        if queue.is_empty() {
            self.attentions.remove(nexus);
        }
        sense
    }

    fn attention(&mut self, nexus: &Nexus, begins: bool) -> Option<Outcome> {
        if !begins {
            return None;
        }
        self.next_attention(nexus).map(Outcome::from)
    }

    /// What ends every command alike: nothing known, a unit attention, a reservation by RESERVE(6).
    fn refusal<'a>(
        &mut self,
        generation: Generation,
        nexus: Option<&Arc<Nexus>>,
        begins: bool,
    ) -> Option<Admission<'a>> {
        if self.known.as_ref().is_none_or(|(known, _)| *known != generation) {
            return Some(Admission::Unknown);
        }
        if let Some(outcome) = nexus.and_then(|nexus| self.attention(nexus, begins)) {
            return Some(Admission::Refused(outcome));
        }
        let other = self
            .legacy
            .as_ref()
            .is_some_and(|holder| nexus.is_none_or(|nexus| **nexus != *holder));
        other.then(|| Admission::Refused(Outcome::status(Status::ReservationConflict)))
    }
}

/// A command below, until it is dropped.
#[derive(Debug)]
pub struct Running<'a> {
    registry: &'a Registry,
    id: u64,
}

impl Running<'_> {
    /// Another host has aborted it: its end is told to nobody.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.registry
            .lock()
            .running
            .get(&self.id)
            .is_some_and(|(_, aborted)| *aborted)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.registry.lock().running.remove(&self.id);
        self.registry.ended.notify_waiters();
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

    fn conflicts(admission: &Admission<'_>) -> bool {
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
        assert_eq!(
            registry.legacy(Generation::new(4), &host, Legacy::Reserve, true),
            None
        );
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
        let legacy = |host, what| registry.legacy(CLAIM, host, what, true).expect("known").status;
        assert_eq!(legacy(&a, Legacy::Reserve), Status::Good);
        assert_eq!(legacy(&b, Legacy::Reserve), Status::ReservationConflict);
        assert_eq!(legacy(&b, Legacy::Release), Status::Good, "and releases nothing");
        assert!(conflicts(&registry.admit(CLAIM, Some(&b), Access::Free, true)));
        assert!(!conflicts(&registry.admit(CLAIM, Some(&a), Access::Write, true)));
        registry.end_legacy(|holder| *holder == *b);
        assert_eq!(legacy(&b, Legacy::Reserve), Status::ReservationConflict);
        registry.end_legacy(|holder| *holder == *a);
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
}
