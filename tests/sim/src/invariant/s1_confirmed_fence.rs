//! S1, the fence before the taking: a pool is taken under the epoch that counts, on evidence that is true, that was confirmed,
//! and that is younger than the choice.
//!
//! Whoever takes a pool names its reason. The reason is compared with the world: that every leg is fenced was answered under
//! this very key (K6, K12); whose end is named has ended; and a report of the power control answers a question that was
//! asked after the record without its victim was known (K12). The pool manager would refuse most of what is caught here, and
//! the disks the rest: that is the second line, and this judge holds the first.

use crate::truth::Fact;
use crate::world::World;
use pollux_api::id::Epoch;
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::effect::Evidence;

#[derive(Clone, Debug, Default)]
pub(crate) struct ConfirmedFence {
    /// Since when each controller acts on records without its partner.
    alone_since: [Option<u64>; 2],
    /// When the last question was asked that was answered to each controller with "off".
    asked: [Option<u64>; 2],
    /// The highest epoch that each controller acts on.
    epoch: [Epoch; 2],
    /// The incarnation of each controller whose good-bye its partner went by: it must not do anything any more.
    gone: [Option<u64>; 2],
}

impl ConfirmedFence {
    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        self.gone_does_nothing(world, fact)?;
        match *fact {
            Fact::Published { c, record } => {
                self.epoch[c] = self.epoch[c].max(record.epoch);
                if record.members.both() {
                    self.alone_since[c] = None;
                } else {
                    self.alone_since[c].get_or_insert(world.now);
                }
            }
            Fact::Booted { c } => {
                self.alone_since[c] = None;
                self.asked[c] = None;
            }
            Fact::SeenOff { c, asked, .. } => self.asked[c] = self.asked[c].max(Some(asked)),
            Fact::Trusted {
                c,
                pool,
                key,
                evidence,
            } => {
                return self.holds(world, c, pool, key, evidence).map_err(|why| {
                    format!("{c} takes pool {pool} under {key:?} on {evidence:?}, but {why}")
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Whoever was believed to have gone for good writes, takes, answers and votes no more.
    fn gone_does_nothing(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let (c, what) = match *fact {
            Fact::Wrote { c, .. } => (c, "writes"),
            Fact::Registered { c, .. } | Fact::Taking { c, .. } | Fact::Imported { c, .. } => {
                (c, "takes a pool")
            }
            Fact::Replied { c, .. } => (c, "answers a host"),
            Fact::Proposed { c, .. } => (c, "votes"),
            Fact::Trusted {
                c,
                evidence: Evidence::Rebooted { victim, .. },
                ..
            } => {
                let (partner, at) = (&world.nodes[1 - c], 1 - c);
                if partner.up && partner.incarnation == victim.incarnation.get() {
                    self.gone[at] = Some(partner.incarnation);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.gone[c] == Some(world.nodes[c].incarnation) {
            return Err(format!("{c} {what} after its good-bye was believed"));
        }
        Ok(())
    }

    fn holds(
        &self,
        world: &World,
        c: usize,
        pool: usize,
        key: ReservationKey,
        evidence: Evidence,
    ) -> Result<(), String> {
        if key.epoch != self.epoch[c] {
            return Err(format!("it acts on epoch {}", self.epoch[c]));
        }
        let victim = match evidence {
            Evidence::Reserved { .. } | Evidence::Own | Evidence::Unowned | Evidence::Released { .. } => {
                let confirmed = world.confirmed(c, pool);
                return match (world.setup.reservations, world.held(1 - c, pool)) {
                    (true, _) if confirmed == Some(key) => Ok(()),
                    (true, _) => Err(format!("the fence was confirmed under {confirmed:?}")),
                    (false, Some(held)) => Err(format!("the partner holds it under {:?}", held.key)),
                    (false, None) => Ok(()),
                };
            }
            Evidence::PowerOff { victim, .. } => {
                if self.asked[c].is_none() || self.asked[c] < self.alone_since[c] {
                    return Err("nobody has asked for its power since the choice".to_owned());
                }
                victim
            }
            Evidence::Waited { victim, .. } | Evidence::Rebooted { victim, .. } => victim,
        };
        let partner = &world.nodes[1 - c];
        // Good-bye counts for an end: nothing is held, and `gone_does_nothing` sees to it that it stays so.
        let left = matches!(evidence, Evidence::Rebooted { .. })
            && (0..world.setup.pools.len()).all(|pool| world.held(1 - c, pool).is_none());
        let ended = partner.incarnation > victim.incarnation.get() || !partner.up || left;
        if ended {
            Ok(())
        } else {
            Err(format!("incarnation {} runs", partner.incarnation))
        }
    }
}
