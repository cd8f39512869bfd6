//! What a run has seen, so that "clean" does not mean "nothing happened".

use crate::coverage::Coverage;
use crate::swarm::Kind;
use crate::truth::{Fact, Hand};
use pollux_heartbeat_core::area::Role;
use pollux_heartbeat_core::detect::{DiskSight, WireSight};
use std::collections::{BTreeMap, BTreeSet};

/// Counters of one run or of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) seeds: u64,
    pub(crate) nanos: u128,
    pub(crate) events: u64,
    /// Events that a core took.
    pub(crate) handled: u64,
    pub(crate) faults: u64,
    /// Pools imported after a fence.
    pub(crate) takeovers: u64,
    /// Pools imported as a gift.
    pub(crate) switchovers: u64,
    pub(crate) records: u64,
    /// Replies held for want of a lease.
    pub(crate) held: u64,
    /// Leases that were taken back before their end.
    pub(crate) revoked: u64,
    pub(crate) stops: u64,
    pub(crate) watchdogs: u64,
    pub(crate) power_fences: u64,
    pub(crate) exclusions_lost: u64,
    pub(crate) replies: u64,
    pub(crate) changes: u64,
    /// Readings of the configuration that were answered, and that were refused.
    pub(crate) reads: u64,
    pub(crate) unread: u64,
    pub(crate) pauses: BTreeMap<u64, u64>,
    cells: BTreeMap<(&'static str, WireSight, DiskSight), u64>,
    pools: BTreeMap<&'static str, u64>,
    roles: BTreeSet<&'static str>,
    /// Plays in which this struck, or which this weather had.
    struck: BTreeMap<String, u64>,
    pub(crate) coverage: Coverage,
}

impl Stats {
    pub(crate) fn observe(&mut self, fact: &Fact) {
        match fact {
            Fact::Replied { .. } => self.replies += 1,
            Fact::Acknowledged { .. } => self.changes += 1,
            Fact::Imported { hand, .. } => match hand {
                Hand::Own => {}
                Hand::Given => self.switchovers += 1,
                Hand::Fenced => self.takeovers += 1,
            },
            _ => {}
        }
    }

    /// A fault of this kind strikes in a play.
    pub(crate) fn strikes(&mut self, kind: Kind) {
        self.struck.insert(format!("{kind:?}"), 1);
    }

    /// The weather of a play.
    pub(crate) fn weather(&mut self, kinds: impl Iterator<Item = &'static str>) {
        self.struck.extend(kinds.map(|kind| (kind.to_owned(), 1)));
    }

    /// Kinds of faults that struck in no play.
    pub(crate) fn unstruck(&self) -> Vec<String> {
        let kinds = Kind::ALL.into_iter().map(|kind| format!("{kind:?}"));
        kinds.filter(|kind| !self.struck.contains_key(kind)).collect()
    }

    /// How long a host waited for one command, by powers of two of milliseconds.
    pub(crate) fn pause(&mut self, nanos: u64) {
        let class = (nanos / 1_000_000).next_power_of_two();
        *self.pauses.entry(class).or_default() += 1;
    }

    pub(crate) fn visit(&mut self, state: &'static str, wire: WireSight, disk: DiskSight, role: Role) {
        *self.cells.entry((state, wire, disk)).or_default() += 1;
        self.roles.insert(match role {
            Role::Starting => "starting",
            Role::Waiting => "waiting",
            Role::Serving => "serving",
            Role::Releasing => "releasing",
            Role::Dying => "dying",
            Role::Left => "left",
        });
    }

    pub(crate) fn visit_pool(&mut self, state: &'static str) {
        *self.pools.entry(state).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.nanos += other.nanos;
        self.events += other.events;
        self.handled += other.handled;
        self.faults += other.faults;
        self.takeovers += other.takeovers;
        self.switchovers += other.switchovers;
        self.records += other.records;
        self.held += other.held;
        self.revoked += other.revoked;
        self.stops += other.stops;
        self.watchdogs += other.watchdogs;
        self.power_fences += other.power_fences;
        self.exclusions_lost += other.exclusions_lost;
        self.replies += other.replies;
        self.changes += other.changes;
        self.reads += other.reads;
        self.unread += other.unread;
        for (class, count) in &other.pauses {
            *self.pauses.entry(*class).or_default() += count;
        }
        for (cell, count) in &other.cells {
            *self.cells.entry(*cell).or_default() += count;
        }
        for (state, count) in &other.pools {
            *self.pools.entry(state).or_default() += count;
        }
        self.roles.extend(&other.roles);
        for (kind, plays) in &other.struck {
            *self.struck.entry(kind.clone()).or_default() += plays;
        }
        self.coverage.add(&other.coverage);
    }

    /// For people.
    pub(crate) fn summary(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let hours = self.nanos as f64 / 3.6e12;
        let _ = writeln!(
            text,
            "{} seeds, {hours:.1} virtual hours, {} events ({} by the cores), {} faults",
            self.seeds, self.events, self.handled, self.faults
        );
        let _ = writeln!(
            text,
            "{} takeovers, {} switchovers, {} records, {} stops, {} watchdog resets, {} power fences, {} exclusions lost",
            self.takeovers,
            self.switchovers,
            self.records,
            self.stops,
            self.watchdogs,
            self.power_fences,
            self.exclusions_lost
        );
        let _ = writeln!(
            text,
            "{} replies to hosts, {} held for want of a lease, {} leases revoked, {} changes acknowledged, {} readings, {} refused",
            self.replies, self.held, self.revoked, self.changes, self.reads, self.unread
        );
        let states: BTreeMap<&str, u64> =
            self.cells
                .iter()
                .fold(BTreeMap::new(), |mut sum, ((state, ..), count)| {
                    *sum.entry(*state).or_default() += count;
                    sum
                });
        let _ = writeln!(
            text,
            "{} cells of state x wire x disk; states {states:?}",
            self.cells.len()
        );
        let _ = writeln!(text, "pool states {:?}; roles {:?}", self.pools, self.roles);
        let percent = |plays: u64| plays * 100 / self.seeds.max(1);
        let struck: Vec<String> = self
            .struck
            .iter()
            .map(|(kind, plays)| format!("{kind} {}", percent(*plays)))
            .collect();
        let together = self.struck.values().sum::<u64>() as f64 / self.seeds.max(1) as f64;
        let _ = writeln!(
            text,
            "{together:.1} kinds in one play; in % of the plays: {}",
            struck.join(", ")
        );
        let _ = write!(text, "hosts waited (<= ms: commands) {:?}", self.pauses);
        text
    }
}
