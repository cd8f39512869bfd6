//! S3, no stale configuration: nobody serves, or accepts a change, from a configuration that lacks an acknowledged
//! change.

use crate::truth::Fact;
use crate::world::World;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoStaleConfiguration {
    acknowledged: Vec<u64>,
}

impl NoStaleConfiguration {
    pub(crate) fn acknowledged(&self) -> &[u64] {
        &self.acknowledged
    }

    /// The first so many acknowledged changes are in the log, in their order, and nothing was slipped in between them
    /// once they were acknowledged: entry by entry the log begins with them.
    fn holds(&self, log: &[u64], upto: usize) -> Result<(), String> {
        let mut entries = log.iter();
        let wanted = &self.acknowledged[..upto];
        match wanted
            .iter()
            .find(|wanted| !entries.any(|entry| entry == *wanted))
        {
            Some(missing) => Err(format!(
                "its log of {} entries lacks acknowledged change {missing}",
                log.len()
            )),
            None => Ok(()),
        }
    }

    /// Where a change stands among the acknowledged ones: asked again it is answered again, and what was in doubt is
    /// answered at last when later ones were answered long ago. Its place is where the log has it.
    fn place(&mut self, world: &World, c: usize, entry: u64) -> usize {
        if let Some(at) = self.acknowledged.iter().position(|known| *known == entry) {
            return at;
        }
        let log = &world.nodes[c].keeper.log;
        let place = |wanted: &u64| log.iter().position(|entry| entry == wanted);
        let here = place(&entry).unwrap_or(log.len());
        let at = self
            .acknowledged
            .partition_point(|known| place(known).is_some_and(|known| known < here));
        self.acknowledged.insert(at, entry);
        at
    }

    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Acknowledged { c, entry, again } => {
                let at = self.place(world, c, entry);
                // A true word about the past needs no more than that past.
                let upto = if again { at + 1 } else { self.acknowledged.len() };
                self.holds(&world.nodes[c].keeper.log, upto)
                    .map_err(|why| format!("{c} acknowledges change {entry}, but {why}"))
            }
            // If the database was lost under running services, they go by what they were given before.
            Fact::Replied { c, pool, .. } => {
                let keeper = &world.nodes[c].keeper;
                let all = self.acknowledged.len();
                let kept = keeper
                    .kept
                    .as_ref()
                    .is_some_and(|kept| self.holds(kept, all).is_ok());
                if kept {
                    return Ok(());
                }
                self.holds(&keeper.log, all)
                    .map_err(|why| format!("{c} answers a host of pool {pool}, but {why}"))
            }
            _ => Ok(()),
        }
    }
}
