//! Epoch records: who may serve, and on which configuration.
//!
//! Think of the list of watch-keepers on a ship: one sheet per watch, numbered, never altered. Whoever is not on
//! the highest sheet goes below at once. Sheet n+1 is chosen on the quorum disks ([`crate::arbiter`]).

use crate::set::QuorumSet;
use core::fmt;
use pollux_api::id::{ControllerId, Epoch, Hash32, Incarnation, LogLength};

/// A point of the configuration log: its length and the hash of everything up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Base {
    /// Number of entries.
    pub length: LogLength,
    /// Hash of the history up to there; [`Hash32::ZERO`] for no entries.
    pub hash: Hash32,
}

/// Whether the members may change the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They may.
    Open,
    /// A lone controller serves, with the configuration frozen, so that a repaired partner that is identical up to
    /// the base may go on if this one dies.
    Sealed,
}

/// The members of an epoch, each with the incarnation under which it is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members([Option<Incarnation>; 2]);

impl Members {
    /// One member.
    #[must_use]
    pub fn alone(controller: ControllerId, incarnation: Incarnation) -> Self {
        Self::default().with(controller, incarnation)
    }

    /// The same and one more (or the same one with another incarnation).
    #[must_use]
    pub fn with(mut self, controller: ControllerId, incarnation: Incarnation) -> Self {
        self.0[controller.index()] = Some(incarnation);
        self
    }

    /// The incarnation under which a controller is a member.
    #[must_use]
    pub fn get(self, controller: ControllerId) -> Option<Incarnation> {
        self.0[controller.index()]
    }

    /// Whether this incarnation of this controller is a member.
    #[must_use]
    pub fn has(self, controller: ControllerId, incarnation: Incarnation) -> bool {
        self.get(controller) == Some(incarnation)
    }

    /// Both controllers are members.
    #[must_use]
    pub fn both(self) -> bool {
        self.0[0].is_some() && self.0[1].is_some()
    }
}

/// Epoch record number `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its number; it grows by one with each decision.
    pub epoch: Epoch,
    /// Who may serve.
    pub members: Members,
    /// May they change the configuration?
    pub mode: Mode,
    /// The part of the configuration log that every member holds and no successor may lack.
    pub base: Base,
    /// The quorum disks on which the next record is chosen.
    pub disks: QuorumSet,
}

impl Record {
    /// What a freshly formatted quorum area holds as decided: epoch 1, both controllers by an incarnation that
    /// never was (0). So nobody is a member, and both may become one as after any common stop.
    #[must_use]
    pub fn genesis(disks: QuorumSet) -> Self {
        Self {
            epoch: Epoch::new(1),
            members: Members::alone(ControllerId::A, Incarnation::new(0))
                .with(ControllerId::B, Incarnation::new(0)),
            mode: Mode::Open,
            base: Base::default(),
            disks,
        }
    }

    /// Whether this incarnation of this controller may serve under this record.
    #[must_use]
    pub fn admits(&self, controller: ControllerId, incarnation: Incarnation) -> bool {
        self.members.has(controller, incarnation)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} {{", self.epoch)?;
        let members = ControllerId::ALL
            .iter()
            .filter_map(|c| self.members.get(*c).map(|i| (c, i)));
        for (at, (controller, incarnation)) in members.enumerate() {
            write!(f, "{}{controller}:{incarnation}", if at == 0 { "" } else { ", " })?;
        }
        let mode = match self.mode {
            Mode::Open => "open",
            Mode::Sealed => "sealed",
        };
        write!(f, "}} {mode}, log {}", self.base.length)?;
        match self.disks.leaving().zip(self.disks.joining()) {
            Some((leaves, joins)) => write!(f, ", quorum {} -> {}", leaves.disk, joins.disk),
            None => Ok(()),
        }
    }
}

/// Number of a ballot: a round, made unique by the proposer's rank. Zero is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ballot(u64);

impl Ballot {
    /// No ballot.
    pub const NONE: Self = Self(0);

    /// From its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The lowest ballot of `controller` above this one.
    #[must_use]
    pub fn above(self, controller: ControllerId) -> Self {
        // Round r of a is 2r + 2, of b 2r + 3: never zero, never equal.
        let round = self.0 / 2 + 1;
        Self(round.saturating_mul(2).saturating_add(controller.index() as u64))
    }
}

/// What a controller has said in the arbitration of one record: its block of Disk Paxos (Gafni and Lamport, 2000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Number of the record that is being chosen.
    pub instance: Epoch,
    /// Highest ballot in which its writer takes part.
    pub mbal: Ballot,
    /// Ballot of the last vote in this instance; none: it has not voted.
    pub bal: Ballot,
    /// What it voted for; present exactly if `bal` is not none.
    pub value: Option<Record>,
    /// The record decided as `instance` - 1.
    pub decided: Record,
}

impl Vote {
    /// What a controller writes when it has learnt `decided` and has said nothing about the next.
    #[must_use]
    pub fn after(decided: Record) -> Self {
        Self {
            instance: decided.epoch.next(),
            mbal: Ballot::NONE,
            bal: Ballot::NONE,
            value: None,
            decided,
        }
    }

    /// Order of one writer's blocks: of two valid copies the later counts.
    pub(crate) fn age(&self) -> (Epoch, Ballot, Ballot) {
        (self.instance, self.mbal, self.bal)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
