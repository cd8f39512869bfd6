//! Arbitration: which record follows, decided on the quorum disks (Disk Paxos: Gafni and Lamport, 2000).
//!
//! Two people who cannot speak leave notes in an odd number of pigeonholes. Each writes its own note into a hole and
//! *then* looks at the other's; whoever has done both in most of the holes, and met no higher number, has a promise;
//! doing it a second time with a name on the note makes that name the result, whatever happens later.
//!
//! It maps to one [`Vote`] block per controller and disk. The block speaks of one *instance*, the number of the
//! record that is being chosen, and carries the record decided before, so that a block that was moved on to the next
//! instance still tells a latecomer the result of the last (K2).
//!
//! ```text
//!            propose            promised on a majority           voted on a majority
//!   idle ------------> phase 1 -----------------------> phase 2 ----------------------> decided = idle, next instance
//!    ^                  |   ^        S5 checked           |
//!    +--- abandon ------+   +---------- outbid -----------+
//! ```
//!
//! Invariants: a disk counts only when the present own block was durable on it *before* the other's block was read
//! (K11), and only by a valid block; a vote is never taken back: what was written in phase 2 is proposed again until
//! the instance is decided (K9, K18).
//!
//! It must never count an unread block as an empty one, and never vote for its own wish where a vote stands.

use crate::record::{Ballot, Record, Vote};
use alloc::collections::BTreeSet;
use pollux_api::id::{ControllerId, DiskIndex};

/// What an arbitration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// Nothing new.
    None,
    /// A majority has promised. Someone's vote binds the value, or none does and the proposer may still withdraw.
    /// `Arbiter::vote` or `Arbiter::abandon` follows.
    Promised {
        /// A value that stands and must be finished.
        bound: Option<Record>,
    },
    /// The other has a higher ballot: back off, then propose again.
    Outbid,
    /// A record was decided, here or by the other.
    Decided(Record),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Asking for promises.
    One,
    /// Promised by a majority; the proposer has not said yet whether it votes.
    Pause,
    /// Voting.
    Two,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    phase: Phase,
    counted: BTreeSet<DiskIndex>,
    /// The highest vote met so far.
    bound: Option<(Ballot, Record)>,
}

/// One controller's side of the arbitration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arbiter {
    me: ControllerId,
    own: Vote,
    /// Grows when `own` changes: what has to be made durable.
    version: u64,
    highest: Ballot,
    run: Option<Run>,
}

impl Arbiter {
    /// From the latest own block that a majority of the quorum disks gave back. Those on which the next record is chosen
    /// are named by the one that the block knows as decided.
    #[must_use]
    pub fn new(me: ControllerId, own: Vote) -> Self {
        Self {
            me,
            own,
            version: 1,
            highest: own.mbal,
            run: None,
        }
    }

    /// The block to write.
    #[must_use]
    pub fn block(&self) -> &Vote {
        &self.own
    }

    /// Number of the block's present content.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// For a search: see [`crate::Number`].
    #[doc(hidden)]
    pub fn numbers(&mut self, visit: &mut dyn FnMut(crate::Number, &mut u64)) {
        visit(crate::Number::Ballot, &mut self.version);
        if let Some(run) = &mut self.run {
            let mut place = |disk: DiskIndex| {
                let mut number = u64::from(disk.get());
                visit(crate::Number::Disk, &mut number);
                DiskIndex::new(number as u16)
            };
            run.counted = run.counted.iter().map(|disk| place(*disk)).collect();
        }
    }

    /// The highest record known to be decided.
    #[must_use]
    pub fn decided(&self) -> &Record {
        &self.own.decided
    }

    /// This controller has voted in the present instance: it must be finished.
    #[must_use]
    pub fn voted(&self) -> bool {
        self.own.bal != Ballot::NONE
    }

    /// An arbitration is going on here.
    #[must_use]
    pub fn running(&self) -> bool {
        self.run.is_some()
    }

    /// Begins phase 1 with a ballot above every one that was met.
    pub fn propose(&mut self) {
        let ballot = self.highest.max(self.own.mbal).above(self.me);
        self.highest = ballot;
        self.own.mbal = ballot;
        self.version += 1;
        let bound = self.own.value.map(|value| (self.own.bal, value));
        self.run = Some(Run {
            phase: Phase::One,
            counted: BTreeSet::new(),
            bound,
        });
    }

    /// Votes, after [`Progress::Promised`], for the bound value where there is one and for `wish` otherwise.
    /// Without either the proposal is abandoned.
    pub fn vote(&mut self, wish: Option<Record>) {
        let Some(run) = self.run.as_mut().filter(|run| run.phase == Phase::Pause) else {
            return;
        };
        let value = run
            .bound
            .map(|(_, value)| value)
            .or(wish)
            .filter(|value| value.epoch == self.own.instance);
        let Some(value) = value else {
            self.run = None;
            return;
        };
        run.phase = Phase::Two;
        run.counted.clear();
        self.own.bal = self.own.mbal;
        self.own.value = Some(value);
        self.version += 1;
    }

    /// Gives a proposal up. What was voted stays voted.
    pub fn abandon(&mut self) {
        self.run = None;
    }

    /// An own block, read back after the start. Only if it is later than what is known: then an earlier daemon wrote it to
    /// a disk that was not read at the start.
    pub fn restore(&mut self, block: Vote) -> Progress {
        if block.age() <= self.own.age() {
            return Progress::None;
        }
        let news = block.decided.epoch > self.own.decided.epoch;
        self.highest = self.highest.max(block.mbal);
        if news {
            self.highest = block.mbal;
        }
        self.own = block;
        self.run = None;
        self.version += 1;
        if news {
            Progress::Decided(block.decided)
        } else {
            Progress::None
        }
    }

    /// The other's block, read by whatever occasion: a decided record is learnt from it, and its ballots are noted.
    pub fn observe(&mut self, other: &Vote) -> Progress {
        if other.instance > self.own.instance {
            return self.learn(other.decided);
        }
        if other.instance == self.own.instance {
            self.highest = self.highest.max(other.mbal);
        }
        Progress::None
    }

    /// A decided record from elsewhere (the wire).
    pub fn learn(&mut self, record: Record) -> Progress {
        if record.epoch <= self.own.decided.epoch {
            return Progress::None;
        }
        self.own = Vote::after(record);
        self.highest = Ballot::NONE;
        self.run = None;
        self.version += 1;
        Progress::Decided(record)
    }

    /// On this disk the present own block was durable before `other` was read.
    pub fn counted(&mut self, disk: DiskIndex, other: &Vote) -> Progress {
        match self.observe(other) {
            Progress::None => {}
            progress => return progress,
        }
        let Some(run) = self.run.as_mut().filter(|run| run.phase != Phase::Pause) else {
            return Progress::None;
        };
        // A block of an earlier instance has said nothing about this one. Not so for a block that cannot be read:
        // the caller does not count that disk.
        if other.instance == self.own.instance {
            if other.mbal > self.own.mbal {
                self.run = None;
                return Progress::Outbid;
            }
            if let Some(value) = other.value
                && run.bound.is_none_or(|(ballot, _)| other.bal > ballot)
            {
                run.bound = Some((other.bal, value));
            }
        }
        run.counted.insert(disk);
        let counted = |disk| run.counted.contains(&disk);
        if !self.own.decided.disks.reached(counted) {
            return Progress::None;
        }
        match run.phase {
            Phase::One => {
                run.phase = Phase::Pause;
                Progress::Promised {
                    bound: run.bound.map(|(_, value)| value),
                }
            }
            Phase::Two => match self.own.value {
                Some(value) => self.learn(value),
                None => Progress::None,
            },
            Phase::Pause => Progress::None,
        }
    }
}

#[cfg(test)]
#[path = "arbiter_tests.rs"]
mod tests;
