//! S7, no stale reads: once the new owner of a pool has answered a host, the old one answers none; and a read shows
//! every write that was acknowledged before it began.
//!
//! Nor is the end of the old one's lease put off by the one who waits for it: from the vote against an incarnation on its
//! voter echoes nothing of it, because the lease counts from an echo.

use crate::truth::{Answer, Fact};
use crate::world::{World, key_rank};
use pollux_api::id::{ControllerId, Epoch, Incarnation};
use pollux_api::pool::ReservationKey;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoStaleReads {
    latest: Vec<Option<(usize, ReservationKey)>>,
    /// Whom each controller has voted out, in which instance and which life of its daemon: one that starts has to read
    /// first what it has voted for.
    voted_out: [Option<(Incarnation, Epoch, u32)>; 2],
}

impl NoStaleReads {
    pub(crate) fn new(pools: usize) -> Self {
        Self {
            latest: vec![None; pools],
            voted_out: [None; 2],
        }
    }

    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Replied { c, pool, key, what } => self.replied(c, pool, key, what),
            Fact::Proposed { c, vote } => {
                let partner = ControllerId::ALL[1 - c];
                let member = vote.decided.members.get(partner);
                let out = member.filter(|of| vote.value.is_some_and(|value| !value.admits(partner, *of)));
                if let Some(of) = out {
                    self.voted_out[c] = Some((of, vote.instance, world.nodes[c].life));
                }
                Ok(())
            }
            Fact::Published { c, record } => {
                // Another value was chosen than the one that it has voted for.
                self.voted_out[c] = self.voted_out[c].filter(|(of, instance, _)| {
                    record.epoch < *instance || !record.admits(ControllerId::ALL[1 - c], *of)
                });
                Ok(())
            }
            Fact::Echoed { c } => {
                let present = world.nodes[1 - c].incarnation;
                match self.voted_out[c] {
                    Some((of, instance, life)) if of.get() == present && life == world.nodes[c].life => {
                        Err(format!(
                            "{c} echoes incarnation {present}, which it has voted out of epoch {instance}: its lease goes on"
                        ))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn replied(&mut self, c: usize, pool: usize, key: ReservationKey, what: Answer) -> Result<(), String> {
        if let Some((other, latest)) = self.latest[pool] {
            let late = key_rank(key) < key_rank(latest);
            if late || (key_rank(key) == key_rank(latest) && other != c) {
                return Err(format!(
                    "{c} answers a host of pool {pool} under {key:?} after {other} has answered under {latest:?}"
                ));
            }
        }
        self.latest[pool] = Some((c, key));
        if let Answer::Read { block, value, floor } = what
            && value < floor
        {
            return Err(format!(
                "{c} reads {value} from block {block} of pool {pool}; {floor} was acknowledged before"
            ));
        }
        Ok(())
    }
}
