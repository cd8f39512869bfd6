//! S2, one survivor: for each epoch number at most one record is ever chosen; a controller serves only as a member, by
//! its present incarnation, and stops the moment it learns of a higher record without itself.
//!
//! What is chosen is worked out from the disks, not taken from the cores: a value is chosen in a ballot when a majority
//! of the disks count for it, and a disk counts when its proposer has read there, after its own vote took effect, no
//! higher ballot of the other in the same instance (Gafni and Lamport, Disk Paxos, 2000).

use crate::truth::Fact;
use crate::world::{World, first_set};
use pollux_api::id::{ControllerId, Epoch};
use pollux_heartbeat_core::record::{Record, Vote};
use pollux_heartbeat_core::{QuorumSet, Seat};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(crate) struct OneSurvivor {
    /// The record with which the array is made.
    genesis: Option<Record>,
    /// The last vote of each controller on each disk, as which it was formatted.
    standing: BTreeMap<(usize, Seat), Vote>,
    /// Disks that count, by proposer, instance and ballot.
    counted: BTreeMap<(usize, u64, u64), BTreeSet<Seat>>,
    chosen: BTreeMap<Epoch, Record>,
    published: BTreeMap<Epoch, Record>,
    /// The highest record without itself that each controller was shown.
    excluded: [Option<(Epoch, u64)>; 2],
}

impl OneSurvivor {
    pub(crate) fn new(disks: usize) -> Self {
        let genesis = Record::genesis(first_set(disks));
        let known: BTreeMap<Epoch, Record> = [(genesis.epoch, genesis)].into();
        Self {
            genesis: Some(genesis),
            standing: BTreeMap::new(),
            counted: BTreeMap::new(),
            chosen: known.clone(),
            published: known,
            excluded: [None; 2],
        }
    }

    pub(crate) fn highest(&self) -> Record {
        self.published
            .values()
            .next_back()
            .copied()
            .or(self.genesis)
            .unwrap_or_else(|| Record::genesis(QuorumSet::default()))
    }

    /// The highest record that the disks decide, published or not.
    pub(crate) fn decided(&self) -> Record {
        self.chosen
            .values()
            .next_back()
            .copied()
            .unwrap_or_else(|| self.highest())
    }

    pub(crate) fn records(&self) -> u64 {
        self.chosen.len() as u64 - 1
    }

    /// More than half of the disks of the set on which this instance is chosen; while one leaves, of those before and of
    /// those after.
    fn enough(&self, instance: Epoch, counted: &BTreeSet<Seat>) -> bool {
        let Some((_, last)) = self.chosen.range(..instance).next_back() else {
            return false;
        };
        if last.epoch.next() != instance {
            return false;
        }
        let after: Vec<Seat> = last.disks.seats().collect();
        let mut before = after.clone();
        if let Some(leaving) = last.disks.leaving() {
            before.retain(|seat| seat.since != last.disks.generation());
            before.push(leaving);
        }
        [after, before].iter().all(|set| {
            let those = set.iter().filter(|seat| counted.contains(seat)).count();
            those * 2 > set.len()
        })
    }

    fn count(&mut self, c: usize, seat: Seat, seen: &Vote) -> Result<(), String> {
        let Some(mine) = self.standing.get(&(c, seat)).copied() else {
            return Ok(());
        };
        let Some(value) = mine.value.filter(|_| mine.bal == mine.mbal) else {
            return Ok(());
        };
        let beaten =
            seen.instance > mine.instance || (seen.instance == mine.instance && seen.mbal > mine.mbal);
        if beaten {
            return Ok(());
        }
        let disks = self
            .counted
            .entry((c, mine.instance.get(), mine.bal.get()))
            .or_default();
        disks.insert(seat);
        let disks = disks.clone();
        if !self.enough(mine.instance, &disks) {
            return Ok(());
        }
        match self.chosen.insert(mine.instance, value) {
            Some(other) if other != value => Err(format!("two records are chosen: {other} and {value}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Voted { c, seat, vote } => {
                self.standing.insert((c, seat), vote);
                Ok(())
            }
            Fact::Polled {
                c,
                seat,
                seen: Some(seen),
            } => self.count(c, seat, &seen),
            Fact::Published { c, record } => {
                if let Some(other) = self.published.insert(record.epoch, record)
                    && other != record
                {
                    return Err(format!("{c} acts on {record}, another on {other}"));
                }
                match self.chosen.get(&record.epoch) {
                    Some(chosen) if *chosen == record => Ok(()),
                    Some(chosen) => Err(format!("{c} acts on {record}, but {chosen} is chosen")),
                    None => Err(format!(
                        "{c} acts on {record}, which no majority of the disks has chosen"
                    )),
                }
            }
            Fact::Learnt { c, record } => {
                let incarnation = world.nodes[c].incarnation;
                let member = record
                    .members
                    .get(ControllerId::ALL[c])
                    .is_some_and(|i| i.get() == incarnation);
                if !member && self.excluded[c].is_none_or(|(epoch, _)| epoch < record.epoch) {
                    self.excluded[c] = Some((record.epoch, incarnation));
                }
                Ok(())
            }
            Fact::Replied { c, key, pool, .. } => {
                let incarnation = world.nodes[c].incarnation;
                if let Some((epoch, of)) = self.excluded[c]
                    && epoch > key.epoch
                    && of == incarnation
                {
                    return Err(format!(
                        "{c} answers a host of pool {pool} under {key:?} after it was shown epoch {epoch} without itself"
                    ));
                }
                let record = self.published.get(&key.epoch);
                if record.is_some_and(|r| {
                    r.members
                        .get(ControllerId::ALL[c])
                        .is_some_and(|i| i.get() == incarnation)
                }) {
                    Ok(())
                } else {
                    Err(format!(
                        "{c} (incarnation {incarnation}) answers under {key:?}, of which it is no member"
                    ))
                }
            }
            _ => Ok(()),
        }
    }
}
