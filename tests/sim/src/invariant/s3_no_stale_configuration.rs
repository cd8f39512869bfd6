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

    /// The acknowledged changes are in the log, in their order, and nothing was slipped in between them once they were
    /// acknowledged: entry by entry the log begins with them.
    fn holds(&self, world: &World, c: usize) -> Result<(), String> {
        let log = &world.nodes[c].keeper.log;
        let mut entries = log.iter();
        match self
            .acknowledged
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

    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Acknowledged { c, entry } => {
                // Asked again, answered again; or answered at last, when later ones were answered long ago: its place
                // is where the log has it.
                if !self.acknowledged.contains(&entry) {
                    let log = &world.nodes[c].keeper.log;
                    let place = |wanted: &u64| log.iter().position(|entry| entry == wanted);
                    let before = |known: &u64| place(known) < place(&entry) || place(&entry).is_none();
                    let at = self.acknowledged.partition_point(before);
                    self.acknowledged.insert(at, entry);
                }
                self.holds(world, c)
                    .map_err(|why| format!("{c} acknowledges change {entry}, but {why}"))
            }
            Fact::Replied { c, pool, .. } => self
                .holds(world, c)
                .map_err(|why| format!("{c} answers a host of pool {pool}, but {why}")),
            _ => Ok(()),
        }
    }
}
