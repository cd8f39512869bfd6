//! S2, one survivor: for each epoch number at most one record is ever chosen; a controller serves only as a member, by
//! its present incarnation, and stops the moment it learns of a higher record without itself.
//!
//! What is chosen is worked out from the disks, not taken from the cores: a value is chosen in a ballot when a majority
//! of the disks count for it, and a disk counts when its proposer has read there, after its own vote took effect, no
//! higher ballot of the other in the same instance (Gafni and Lamport, Disk Paxos, 2000).

use crate::truth::Fact;
use crate::world::World;
use pollux_api::id::{ControllerId, Epoch, Generation};
use pollux_heartbeat_core::record::{Record, Vote};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(crate) struct OneSurvivor {
    majority: usize,
    /// The last vote of each controller on each disk.
    standing: [Vec<Option<Vote>>; 2],
    /// Disks that count, by proposer, instance and ballot.
    counted: BTreeMap<(usize, u64, u64), BTreeSet<usize>>,
    chosen: BTreeMap<Epoch, Record>,
    published: BTreeMap<Epoch, Record>,
    /// The highest record without itself that each controller was shown.
    excluded: [Option<(Epoch, u64)>; 2],
}

impl OneSurvivor {
    pub(crate) fn new(disks: usize) -> Self {
        let genesis = Record::genesis(Generation::new(1));
        let known: BTreeMap<Epoch, Record> = [(genesis.epoch, genesis)].into();
        Self {
            majority: disks / 2 + 1,
            standing: [vec![None; disks], vec![None; disks]],
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
            .unwrap_or_else(|| Record::genesis(Generation::new(1)))
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

    fn count(&mut self, c: usize, disk: usize, seen: &Vote) -> Result<(), String> {
        let Some(mine) = self.standing[c][disk] else {
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
        disks.insert(disk);
        if disks.len() < self.majority {
            return Ok(());
        }
        match self.chosen.insert(mine.instance, value) {
            Some(other) if other != value => Err(format!("two records are chosen: {other} and {value}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Voted { c, disk, vote } => {
                self.standing[c][disk] = Some(vote);
                Ok(())
            }
            Fact::Polled {
                c,
                disk,
                seen: Some(seen),
            } => self.count(c, disk, &seen),
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
