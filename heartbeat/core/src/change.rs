//! Change of the quorum set: one disk in the place of another.
//!
//! A notary's book is moved to a new shelf while people go on writing in it. The new shelf is made ready and a copy is put
//! there; then both shelves count, for whoever still goes to the old one; only when everybody who may write has written
//! on the new one is the old one given away.
//!
//! ```text
//!   wish --FormatDisk--> ready --record n+1, on the old set--> joint --everything copied, record n+2--> the new set
//!          (fails: the wish is dropped, an alarm says why)
//! ```
//!
//! Why that is safe is the argument of [`crate::set`] and these rules:
//!
//! * A disk is formatted by whoever proposes it (of two members always the first one), before it proposes it, under a mark that nobody has used and nobody will
//!   use again: what an earlier try has left, or still writes, is unread under it.
//! * Nothing is written to a disk before the own area was read on it and carried this seat: a disk that has left may be
//!   somebody else's by now.
//! * The joint set ends only when the ballots of every member stand on a majority of it under a record that knows it.
//!   A controller writes its ballot to a disk when its slot and its present claims stand there, so that whoever
//!   reads a majority of the new set misses nothing of what was said on the old one.
//! * A disk that leaves is a place where the partner may have given a sign of life unseen until then: its lease counts
//!   from the leaving (S7).
//!
//! It must never format a disk that a standing vote may already have in its set, and never begin a change before the last one
//! has ended.

use crate::area::{Advert, Area, Letter, Slot, Unread};
use crate::effect::{Effect, Note, Plan, Refusal};
use crate::machine::{Core, Disk, Phase};
use crate::record::Vote;
use crate::set::{QuorumSet, Seat};
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use pollux_api::id::{ControllerId, DiskIndex};

/// A change that was asked for here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    /// Who leaves.
    pub(crate) from: DiskIndex,
    /// Who joins.
    pub(crate) to: Seat,
    /// When it was asked for.
    pub(crate) asked: Instant,
    pub(crate) stage: Stage,
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The new disk is to be formatted.
    Asked,
    /// It is being formatted.
    Formatting,
    /// It is, and may be proposed.
    Ready,
    /// It cannot be. Kept for the alarm, until somebody asks again.
    Failed(String),
}

impl Change {
    /// For a search: see [`crate::Number`].
    pub(crate) fn instant(&mut self) -> &mut Instant {
        &mut self.asked
    }

    fn under_way(&self) -> bool {
        !matches!(self.stage, Stage::Failed(_))
    }
}

fn refuse<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        reason: reason.into(),
        remedy: remedy.into(),
    })
}

impl Core {
    /// Goes by the quorum disks of the highest record that is known.
    pub(crate) fn follow_set(&mut self, now: Instant) {
        let set = *self.set();
        if self.used == Some(set) {
            return;
        }
        self.used = Some(set);
        self.emit(Effect::UseDisks(set));
        let before = self.disks.len();
        self.disks
            .retain(|disk| set.seat(disk.seat.disk) == Some(disk.seat));
        if self.disks.len() < before {
            self.partner.left = Some(now);
        }
        for seat in set.all() {
            if self.disks.iter().all(|disk| disk.seat != seat) {
                self.disks.push(Disk::new(seat, now));
            }
        }
        // Its seat was one of the next set, and that has come: by this change or another.
        let next = set.settled().next_seat(DiskIndex::default(), 0).since;
        if self
            .wishes
            .change
            .as_ref()
            .is_some_and(|change| change.to.since != next)
        {
            self.wishes.change = None;
        }
    }

    /// The set that a change which is ready leads to.
    pub(crate) fn wanted_set(&self) -> Option<QuorumSet> {
        let change = self.wishes.change.as_ref()?;
        let ready = change.stage == Stage::Ready;
        self.set().replaced(change.from, change.to).filter(|_| ready)
    }

    /// While a disk leaves: everything of every member stands on a majority of the joint set.
    pub(crate) fn copied(&self) -> bool {
        // A ballot of this instance knows the joint set; one that formatting has left does not.
        let mine = self.majority_is(|disk| disk.vote_durable() >= self.decided_version);
        let instance = self.arbiter.block().instance;
        let theirs = |disk: &Disk| {
            disk.vote
                .as_ref()
                .is_some_and(|(vote, _)| vote.instance >= instance)
        };
        mine && (self.partner_member().is_none() || self.majority_is(theirs))
    }

    /// When this member may propose the end of the change. Not at once: whoever waits to be joined follows the records one
    /// by one; and not both members at the same instant.
    pub(crate) fn end_change_at(&self) -> Instant {
        let turn = self.me().index() as u32 + 1;
        self.decided_at + self.params.timing.slot_period * turn
    }

    /// Has the new disk formatted.
    pub(crate) fn change_set(&mut self, now: Instant) {
        if self.set().leaving().is_some() {
            let at = self.end_change_at();
            if now < at {
                self.wake_at(at);
            }
        }
        let mine = self.member() && self.changes();
        // A vote that stands may name this disk, as an earlier try has formatted it: it is finished first.
        let voted = self.arbiter.voted() || self.partner_voted();
        let Some(change) = &mut self.wishes.change else {
            return;
        };
        if !mine {
            self.wishes.change = None;
            return;
        }
        if change.stage == Stage::Asked && !voted {
            change.stage = Stage::Formatting;
            let seat = change.to;
            let parts = Box::new(ControllerId::ALL.map(|whose| self.part(now, whose)));
            self.emit(Effect::FormatDisk { seat, parts });
        }
    }

    /// This controller may begin a change: of two members only the first, so that no two format one disk.
    fn changes(&self) -> bool {
        self.me() == ControllerId::A || self.partner_member().is_none()
    }

    /// What a new disk is given of a controller: what is known of it here. What is not known stays unread there until
    /// its controller writes it.
    fn part(&self, now: Instant, whose: ControllerId) -> Area {
        if whose == self.me() {
            let advert = self.advert(now);
            return Area {
                header: Ok(()),
                slot: Ok(Slot { sequence: 0, advert }),
                vote: Ok(*self.arbiter.block()),
                claims: Ok(self.claims.clone()),
                letter: Ok(Letter::default()),
                elsewhere: None,
            };
        }
        let votes = self.disks.iter().filter_map(|disk| Some(disk.vote?.0));
        let claims = self
            .disks
            .iter()
            .filter_map(|disk| Some(&disk.claims.as_ref()?.0));
        // No sign of life (the sequence), and of what it says of itself only what it must not forget.
        let advert = Advert {
            incarnation: self.partner.incarnation,
            ..Advert::default()
        };
        Area {
            header: Ok(()),
            slot: Ok(Slot { sequence: 0, advert }),
            vote: votes.max_by_key(Vote::age).ok_or(Unread::Blank),
            claims: claims
                .max_by_key(|claims| claims.sequence)
                .cloned()
                .ok_or(Unread::Blank),
            letter: Ok(Letter::default()),
            elsewhere: None,
        }
    }

    /// The new disk is formatted, or will not be.
    pub(crate) fn formatted(&mut self, seat: Seat, result: Result<(), String>) {
        let Some(change) = self
            .wishes
            .change
            .as_mut()
            .filter(|change| change.to == seat && change.stage == Stage::Formatting)
        else {
            return;
        };
        change.stage = match &result {
            Ok(()) => Stage::Ready,
            Err(why) => Stage::Failed(why.clone()),
        };
        let disk = seat.disk;
        self.emit(Effect::Note(Note::Formatted { disk, result }));
    }

    /// An operator asks.
    pub(crate) fn replace(&mut self, now: Instant, from: DiskIndex, to: DiskIndex) {
        // Nobody uses a mark twice: the seed is this daemon's alone, the number of the effect grows.
        let mark = crate::detect::split_mix(self.params.seed, self.stamp());
        let mark = u32::try_from(mark & u64::from(u32::MAX)).unwrap_or(1).max(1);
        self.wishes.change = Some(Change {
            from,
            to: self.set().next_seat(to, mark),
            asked: now,
            stage: Stage::Asked,
        });
    }

    pub(crate) fn plan_replace(&self, now: Instant, from: DiskIndex, to: DiskIndex) -> Result<Plan, Refusal> {
        let set = self.set();
        if !self.member() {
            return refuse(
                "this controller is not a member of the epoch",
                "ask the other one, or see pollux why",
            );
        }
        if !self.changes() {
            let partner = self.me().partner();
            return refuse(
                format!("while both controllers are members, controller {partner} changes the quorum disks"),
                format!("ask controller {partner}"),
            );
        }
        // Whoever was out of touch may go by a set that is not the last one.
        if now >= self.lease_until {
            return refuse("this controller holds its replies", "see pollux why");
        }
        if let Some((leaves, joins)) = set.leaving().zip(set.joining()) {
            return refuse(
                format!("the change from {} to {} has not ended", leaves.disk, joins.disk),
                "wait until it has, see pollux quorum",
            );
        }
        if let Some(change) = self.wishes.change.as_ref().filter(|change| change.under_way()) {
            return refuse(
                format!("{} is about to take the place of {}", change.to.disk, change.from),
                "wait until it has, see pollux quorum",
            );
        }
        if set.seat(from).is_none() {
            return refuse(
                format!("{from} is not a quorum disk; these are: {set}"),
                "name one of them as the disk that leaves",
            );
        }
        if set.seat(to).is_some() {
            return refuse(
                format!("{to} is a quorum disk already; these are: {set}"),
                "name another disk of the shelf",
            );
        }
        Ok(Plan {
            pools: alloc::vec::Vec::new(),
            steps: alloc::vec![
                format!(
                    "format {to} as a quorum disk; what stands in its first blocks must be zeros or an old quorum area"
                ),
                format!("decide an epoch in which {from} leaves and {to} joins: both count"),
                format!("copy what every member has said to {to}"),
                format!("decide an epoch without {from}, which is free then"),
            ],
        })
    }

    /// Something about the quorum set that somebody has to know.
    pub(crate) fn change_alarm(&self, now: Instant) -> Option<(DiskIndex, String)> {
        if self.phase != Phase::Up {
            return None;
        }
        let late = self.params.timing.disk_limit;
        if let Some((leaves, joins)) = self.set().leaving().zip(self.set().joining()) {
            let waits = now.since(self.decided_at) >= late;
            let text = format!(
                "{} leaves the quorum and {} joins, and both count until everything is copied: a majority of the old and \
                 of the new disks is needed meanwhile",
                leaves.disk, joins.disk
            );
            return waits.then_some((joins.disk, text));
        }
        let change = self.wishes.change.as_ref()?;
        let Stage::Failed(why) = &change.stage else {
            return None;
        };
        let text = format!(
            "it does not take the place of {}: {why}; mend that, or try another disk: pollux quorum replace {} NEW",
            change.from, change.from
        );
        Some((change.to.disk, text))
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
