//! What the config keeper has to be told, and told again.
//!
//! The keeper is a process of its own and may restart at any moment; what it was told is gone with it. This remembers
//! what has to be so there, looks where the log stands, and says it again until it is so.
//!
//! ```text
//! the core asks --> one call at a time --> the keeper's answer --> perhaps an event for the core, perhaps a next call
//! a look: status -> an unfreeze that is owed -> a freeze that was forgotten -> a record that was forgotten -> the core
//! ```
//!
//! Invariant: whoever has to stand still for an epoch that is being decided is told so before it is told any record:
//! between the two it would acknowledge changes that this epoch lacks (K13).
//!
//! It must never say "frozen" to the core for what the keeper has not confirmed.

use crate::effect::Lock;
use crate::event::{ConfigStatus, Event};
use crate::record::{Base, Mode, Record};
use alloc::borrow::ToOwned;
use alloc::string::String;
use pollux_api::config::{EpochRecord, Hex};
use pollux_api::id::{ControllerId, Epoch};

/// What is asked of the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "few of them are ever there at once")]
pub enum Ask {
    /// This is the highest record.
    Epoch(Record, Option<Lock>),
    /// Stand still for this epoch.
    Freeze(Epoch),
    /// The freeze for this epoch is over without a record.
    Unfreeze(Epoch),
    /// Does the log contain this point?
    Probe(Base),
    /// Become equal to the partner.
    CatchUp,
    /// Time to look, or the keeper says that something has changed.
    Look,
}

/// One call of the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "few of them are ever there at once")]
pub enum Call {
    /// Set the epoch: answered by a status.
    SetEpoch(Record, Option<Lock>),
    /// Freeze: answered by a status, once nothing is on its way to the disk.
    Freeze(Epoch),
    /// Unfreeze: answered by a status.
    Unfreeze(Epoch),
    /// Status.
    Status,
    /// Whether the log contains a point; its answer goes to the core as [`Event::ConfigProbed`].
    Probe(Base),
    /// Catch up; its answer goes to the core as [`Event::ConfigCaughtUp`]. The next call does not wait for it.
    CatchUp,
}

/// What follows an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// For the core.
    pub event: Option<Event>,
    /// At once, before anything else is asked.
    pub call: Option<Call>,
}

/// What the keeper has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liaison {
    wanted: Option<(Record, Option<Lock>)>,
    /// It was told, and the keeper has not confirmed it.
    unsaid: bool,
    frozen_for: Option<Epoch>,
    /// A freeze that has to end and is not known to have ended.
    thawing: Option<Epoch>,
    told: Option<ConfigStatus>,
    /// The status of the look that is under way.
    looking: Option<ConfigStatus>,
}

impl Liaison {
    /// The call that carries out what is asked.
    pub fn ask(&mut self, ask: Ask) -> Call {
        self.looking = None;
        match ask {
            Ask::Epoch(record, lock) => {
                if self.frozen_for.is_some_and(|epoch| record.epoch >= epoch) {
                    self.frozen_for = None;
                }
                if self.thawing.is_some_and(|epoch| record.epoch >= epoch) {
                    self.thawing = None;
                }
                self.wanted = Some((record, lock));
                self.unsaid = true;
                Call::SetEpoch(record, lock)
            }
            Ask::Freeze(epoch) => {
                self.frozen_for = Some(epoch);
                self.thawing = None;
                Call::Freeze(epoch)
            }
            Ask::Unfreeze(epoch) => {
                self.frozen_for = None;
                Call::Unfreeze(epoch)
            }
            Ask::Probe(base) => Call::Probe(base),
            Ask::CatchUp => Call::CatchUp,
            Ask::Look => Call::Status,
        }
    }

    /// Takes the answer to a call that is answered by a status; none: refused, failed, or no answer in time.
    pub fn answered(&mut self, call: &Call, answer: Option<ConfigStatus>) -> Next {
        match *call {
            Call::Status => {
                let Some(seen) = answer else {
                    return Next::default();
                };
                self.looking = Some(seen);
                match self.thawing {
                    Some(epoch) if seen.frozen == Some(epoch) => Next::call(Call::Unfreeze(epoch)),
                    _ => {
                        self.thawing = None;
                        self.freeze_again()
                    }
                }
            }
            Call::Unfreeze(epoch) => {
                let over = answer.is_some_and(|seen| seen.frozen != Some(epoch));
                self.thawing = (!over).then_some(epoch);
                if self.looking.is_some() {
                    self.freeze_again()
                } else {
                    Next::default()
                }
            }
            Call::Freeze(epoch) => {
                let frozen = answer.filter(|seen| seen.frozen == Some(epoch));
                match (frozen, self.looking) {
                    (Some(_), Some(_)) => self.tell_again(),
                    (Some(status), None) => Next::event(Event::ConfigFrozen { epoch, status }),
                    (None, _) => Next::default(),
                }
            }
            Call::SetEpoch(..) => {
                self.unsaid = answer.is_none();
                match self.looking.take() {
                    Some(seen) => self.report(seen),
                    None => Next::default(),
                }
            }
            Call::Probe(_) | Call::CatchUp => Next::default(),
        }
    }

    fn freeze_again(&mut self) -> Next {
        let frozen = self.looking.and_then(|seen| seen.frozen);
        match self.frozen_for {
            Some(epoch) if frozen.is_none() => Next::call(Call::Freeze(epoch)),
            _ => self.tell_again(),
        }
    }

    fn tell_again(&mut self) -> Next {
        let Some(seen) = self.looking else {
            return Next::default();
        };
        match self.wanted {
            // The record may be the one that it knows, under another lock.
            Some((record, lock)) if self.unsaid || seen.epoch != Some(record.epoch) => {
                Next::call(Call::SetEpoch(record, lock))
            }
            _ => {
                self.looking = None;
                self.report(seen)
            }
        }
    }

    fn report(&mut self, seen: ConfigStatus) -> Next {
        if self.told.replace(seen) == Some(seen) {
            return Next::default();
        }
        Next::event(Event::Config(seen))
    }
}

/// A record as the keeper is told it.
#[must_use]
pub fn epoch_record(record: &Record) -> EpochRecord {
    let member = |c| record.members.get(c).map(|incarnation| (c, incarnation));
    EpochRecord {
        epoch: record.epoch,
        members: ControllerId::ALL.into_iter().filter_map(member).collect(),
        open: record.mode == Mode::Open,
        base_length: record.base.length.get(),
        base_hash: Hex(*record.base.hash.as_bytes()),
        quorum: record.disks.all().map(|seat| seat.disk).collect(),
    }
}

/// A lock as people read it.
#[must_use]
pub fn lock_words(lock: Lock) -> String {
    match lock {
        Lock::PartnerUnreachable => {
            "the partner lives on the disks but does not answer on the wire: a change cannot be made durable on both"
        }
        Lock::PartnerUnknown => "the partner is a member and nothing is known of it yet",
        Lock::QuorumUnreadable => {
            "the partner is silent and too few quorum disks can be read to know whether it lives"
        }
    }
    .to_owned()
}

impl Next {
    fn call(call: Call) -> Self {
        Self {
            event: None,
            call: Some(call),
        }
    }

    fn event(event: Event) -> Self {
        Self {
            event: Some(event),
            call: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn record(epoch: u64) -> Record {
        Record {
            epoch: Epoch::new(epoch),
            ..Record::genesis(crate::QuorumSet::default())
        }
    }

    fn seen(epoch: Option<u64>, frozen: Option<u64>) -> Option<ConfigStatus> {
        Some(ConfigStatus {
            frozen: frozen.map(Epoch::new),
            epoch: epoch.map(Epoch::new),
            ..ConfigStatus::default()
        })
    }

    /// K13: a keeper that restarts while an epoch is being decided stands still before it hears of a record.
    #[test]
    fn who_has_forgotten_is_frozen_first_and_then_told_the_record() {
        let mut liaison = Liaison::default();
        let told = liaison.ask(Ask::Epoch(record(3), None));
        liaison.answered(&told, seen(Some(3), None));
        let freeze = liaison.ask(Ask::Freeze(Epoch::new(4)));
        let next = liaison.answered(&freeze, seen(Some(3), Some(4)));
        assert!(matches!(next.event, Some(Event::ConfigFrozen { .. })));

        let look = liaison.ask(Ask::Look);
        let next = liaison.answered(&look, seen(None, None));
        assert_eq!(next.call, Some(Call::Freeze(Epoch::new(4))));
        // As long as it does not stand still it is told nothing.
        assert_eq!(liaison.answered(&freeze, None), Next::default());
        let look = liaison.ask(Ask::Look);
        let next = liaison.answered(&look, seen(None, None));
        assert_eq!(next.call, Some(freeze.clone()));
        let next = liaison.answered(&freeze, seen(None, Some(4)));
        assert_eq!(next.call, Some(Call::SetEpoch(record(3), None)));
        assert_eq!(next.event, None, "the core was told of this freeze already");
    }

    #[test]
    fn a_lock_that_did_not_arrive_is_told_again_under_the_same_record() {
        let mut liaison = Liaison::default();
        let told = liaison.ask(Ask::Epoch(record(3), None));
        liaison.answered(&told, seen(Some(3), None));
        let lock = Some(Lock::PartnerUnreachable);
        let told = liaison.ask(Ask::Epoch(record(3), lock));
        assert_eq!(liaison.answered(&told, None), Next::default());
        let look = liaison.ask(Ask::Look);
        let next = liaison.answered(&look, seen(Some(3), None));
        assert_eq!(next.call, Some(Call::SetEpoch(record(3), lock)));
        let next = liaison.answered(&told, seen(Some(3), None));
        assert!(matches!(next.event, Some(Event::Config(_))));
        let look = liaison.ask(Ask::Look);
        assert_eq!(liaison.answered(&look, seen(Some(3), None)), Next::default());
    }

    #[test]
    fn a_freeze_that_is_over_is_ended_until_it_has_ended() {
        let mut liaison = Liaison::default();
        let unfreeze = liaison.ask(Ask::Unfreeze(Epoch::new(4)));
        assert_eq!(liaison.answered(&unfreeze, None), Next::default());
        for answer in [None, seen(None, Some(4))] {
            let look = liaison.ask(Ask::Look);
            let next = liaison.answered(&look, seen(None, Some(4)));
            assert_eq!(next.call, Some(Call::Unfreeze(Epoch::new(4))));
            liaison.answered(&unfreeze, answer);
        }
        let look = liaison.ask(Ask::Look);
        let next = liaison.answered(&look, seen(None, None));
        assert_eq!(next.call, None);
        // A freeze of another epoch is not its to end.
        let look = liaison.ask(Ask::Look);
        assert_eq!(liaison.answered(&look, seen(None, Some(5))).call, None);
    }

    fn look(liaison: &mut Liaison, answer: Option<ConfigStatus>) -> Next {
        let look = liaison.ask(Ask::Look);
        liaison.answered(&look, answer)
    }

    #[test]
    fn a_freeze_ends_with_a_record_of_its_epoch_or_a_later_one_and_not_with_an_earlier() {
        for (told, ended) in [(3, false), (4, true), (5, true)] {
            let mut liaison = Liaison::default();
            let freeze = liaison.ask(Ask::Freeze(Epoch::new(4)));
            liaison.answered(&freeze, seen(None, Some(4)));
            let epoch = liaison.ask(Ask::Epoch(record(told), None));
            liaison.answered(&epoch, seen(Some(told), None));
            let next = look(&mut liaison, seen(Some(told), None));
            assert_eq!(next.call.is_none(), ended, "record {told}: {next:?}");
            // The same for a freeze that was to end and is not known to have ended.
            let mut liaison = Liaison::default();
            let unfreeze = liaison.ask(Ask::Unfreeze(Epoch::new(4)));
            liaison.answered(&unfreeze, None);
            let epoch = liaison.ask(Ask::Epoch(record(told), None));
            liaison.answered(&epoch, seen(Some(told), Some(4)));
            let next = look(&mut liaison, seen(Some(told), Some(4)));
            assert_eq!(next.call.is_none(), ended, "record {told}: {next:?}");
        }
    }

    #[test]
    fn a_keeper_that_stands_still_is_not_asked_to_and_one_that_stands_still_for_another_epoch_has_not_answered()
     {
        let mut liaison = Liaison::default();
        let freeze = liaison.ask(Ask::Freeze(Epoch::new(4)));
        assert_eq!(liaison.answered(&freeze, seen(None, Some(3))), Next::default());
        assert_eq!(liaison.answered(&freeze, seen(None, None)), Next::default());
        assert!(matches!(
            liaison.answered(&freeze, seen(None, Some(4))).event,
            Some(Event::ConfigFrozen { epoch, .. }) if epoch == Epoch::new(4)
        ));
        assert_eq!(look(&mut liaison, seen(None, Some(4))).call, None);
    }

    #[test]
    fn a_status_is_reported_when_it_has_changed_and_a_record_told_when_it_was_forgotten() {
        let mut liaison = Liaison::default();
        let event = |next: Next| {
            matches!(
                next,
                Next {
                    event: Some(Event::Config(_)),
                    call: None
                }
            )
        };
        assert!(event(look(&mut liaison, seen(None, None))));
        assert_eq!(
            look(&mut liaison, seen(None, None)),
            Next::default(),
            "nothing new"
        );
        assert!(event(look(&mut liaison, seen(None, Some(9)))));
        assert_eq!(look(&mut liaison, None), Next::default(), "no answer is no news");
        let told = liaison.ask(Ask::Epoch(record(3), None));
        assert_eq!(told, Call::SetEpoch(record(3), None));
        liaison.answered(&told, seen(Some(3), None));
        assert_eq!(look(&mut liaison, seen(Some(3), None)).call, None);
        assert_eq!(look(&mut liaison, seen(Some(2), None)).call, Some(told));
    }

    #[test]
    fn a_freeze_is_over_when_the_keeper_shows_it_no_more() {
        for (shown, over) in [(None, true), (Some(4), false), (Some(5), true)] {
            let mut liaison = Liaison::default();
            let unfreeze = liaison.ask(Ask::Unfreeze(Epoch::new(4)));
            liaison.answered(&unfreeze, seen(None, shown));
            let again = look(&mut liaison, seen(None, Some(4))).call;
            assert_eq!(again.is_none(), over, "shown: {shown:?}");
        }
    }

    #[test]
    fn a_question_is_passed_on_as_it_is() {
        let mut liaison = Liaison::default();
        let base = Base::default();
        assert_eq!(liaison.ask(Ask::Probe(base)), Call::Probe(base));
        assert_eq!(liaison.ask(Ask::CatchUp), Call::CatchUp);
        assert_eq!(liaison.ask(Ask::Look), Call::Status);
        assert_eq!(
            liaison.answered(&Call::CatchUp, seen(None, None)),
            Next::default()
        );
    }

    #[test]
    fn the_keeper_is_told_a_record_with_all_that_it_says() {
        let open = epoch_record(&record(3));
        assert_eq!(
            (open.epoch, open.open, open.members.len()),
            (Epoch::new(3), true, 2)
        );
        let alone = crate::record::Members::alone(ControllerId::B, pollux_api::id::Incarnation::new(7));
        let base = Base {
            length: pollux_api::id::LogLength::new(5),
            ..Base::default()
        };
        let sealed = epoch_record(&Record {
            members: alone,
            mode: Mode::Sealed,
            base,
            ..record(4)
        });
        let member = (ControllerId::B, pollux_api::id::Incarnation::new(7));
        assert_eq!(sealed.members, [member]);
        assert_eq!((sealed.open, sealed.base_length), (false, 5));
    }

    #[test]
    fn every_lock_has_its_words() {
        let locks = [
            Lock::PartnerUnreachable,
            Lock::PartnerUnknown,
            Lock::QuorumUnreadable,
        ];
        let words = locks.map(lock_words);
        assert!(
            words.iter().all(|words| words.contains("the partner")),
            "{words:?}"
        );
        assert!(words[0] != words[1] && words[1] != words[2] && words[0] != words[2]);
    }
}
