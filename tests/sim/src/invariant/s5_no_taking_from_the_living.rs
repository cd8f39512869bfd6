//! S5, no taking from the living: while the partner is alive nothing of its is taken, unless it gives.
//!
//! Two moments are judged. When a vote without the partner is first handed to a disk: the voter must not have been shown a
//! sign of the partner's life within the shorter of Tn and Td (less what travels between a read and a vote). When
//! disks are taken: whoever still holds the pool must be no member of what is chosen.

use super::s2_one_survivor::OneSurvivor;
use crate::truth::Fact;
use crate::world::{MS, World, nanos};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::Timing;
use pollux_heartbeat_core::record::Record;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoTakingFromTheLiving {
    /// A sign of life is fresh for so long.
    window: u64,
    /// When the partner last gave a sign of life that its observer was shown.
    sighted: [u64; 2],
    /// The last incarnation of the partner that was reported off.
    off: [u64; 2],
    /// The highest incarnation of the partner that was seen to have ended or to give everything up.
    gone: [u64; 2],
    /// An operator has demanded the takeover in this life of the controller.
    demanded: [bool; 2],
    /// What was voted for last and handed to a disk. It may be on it, whatever the disk said: its other copies are no new
    /// decision (K18), and neither are votes for it in a later ballot, which has to finish it.
    cast: [Option<Record>; 2],
}

impl NoTakingFromTheLiving {
    pub(crate) fn new(timing: &Timing) -> Self {
        let shorter = timing.wire_limit.min(timing.disk_limit);
        let window = nanos(shorter) * 9 / 10 - nanos(timing.slot_period).min(nanos(shorter) / 4) - 20 * MS;
        Self {
            window,
            sighted: [0; 2],
            off: [0; 2],
            gone: [0; 2],
            demanded: [false; 2],
            cast: [None; 2],
        }
    }

    pub(crate) fn observe(
        &mut self,
        world: &World,
        records: &OneSurvivor,
        fact: &Fact,
    ) -> Result<(), String> {
        match *fact {
            Fact::Sighted { c, since } => {
                self.sighted[c] = self.sighted[c].max(since);
            }
            Fact::SeenOff { c, incarnation, .. } => self.off[c] = self.off[c].max(incarnation),
            Fact::SeenGone { c, incarnation } => self.gone[c] = self.gone[c].max(incarnation),
            Fact::Demanded { c } => self.demanded[c] = true,
            Fact::Booted { c } => {
                self.demanded[c] = false;
                self.sighted[c] = 0;
                self.off[c] = 0;
            }
            Fact::Proposed { c, vote } => {
                let Some(value) = vote.value else { return Ok(()) };
                if self.cast[c].replace(value) == Some(value) {
                    return Ok(());
                }
                let (partner, record) = (1 - c, records.decided());
                let incarnation = world.nodes[partner].incarnation;
                let member = |record: &Record| {
                    record
                        .members
                        .get(ControllerId::ALL[partner])
                        .is_some_and(|i| i.get() == incarnation)
                };
                // A value that was found is finished, whoever is alive: it may be chosen already.
                let own = value.members.get(ControllerId::ALL[c]).is_some();
                let lives =
                    world.nodes[partner].up && !world.nodes[partner].paused && self.gone[c] < incarnation;
                let fresh = self.sighted[c] > 0 && world.now.saturating_sub(self.sighted[c]) < self.window;
                // Off is proof for the incarnation that was off, and for no later one.
                let excused = self.off[c] >= incarnation || self.demanded[c];
                if value.epoch > record.epoch
                    && own
                    && member(&record)
                    && !member(&value)
                    && lives
                    && fresh
                    && !excused
                {
                    return Err(format!(
                        "{c} votes for {value} {} ms after a sign of life of incarnation {incarnation}",
                        (world.now - self.sighted[c]) / MS
                    ));
                }
            }
            Fact::Registered { c, pool, key, .. } | Fact::Taking { c, pool, key } => {
                let (partner, record) = (1 - c, records.decided());
                let incarnation = world.nodes[partner].incarnation;
                let member = record
                    .members
                    .get(ControllerId::ALL[partner])
                    .is_some_and(|i| i.get() == incarnation);
                if let Some(held) = world.held(partner, pool)
                    && member
                    && world.nodes[partner].stopped.is_none()
                {
                    return Err(format!(
                        "{c} takes pool {pool} under {key:?} from {partner}, which holds it under {:?} as a member of {record}",
                        held.key
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
