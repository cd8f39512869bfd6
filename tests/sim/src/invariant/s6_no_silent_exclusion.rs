//! S6, no silent exclusion: when a key has vanished without being preempted, writes under it are held until a new epoch
//! confirms the members and exclusion is taken again. It is never quietly registered again.

use crate::truth::Fact;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoSilentExclusion {
    /// By pool and leg: the epoch whose key vanished last.
    lost: BTreeMap<(usize, usize), u64>,
}

impl NoSilentExclusion {
    pub(crate) fn observe(&mut self, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::ExclusionLost { pool, leg, key } => {
                let epoch = self.lost.entry((pool, leg)).or_default();
                *epoch = (*epoch).max(key.epoch.get());
                Ok(())
            }
            Fact::Wrote { c, pool, leg, key } | Fact::Registered { c, pool, leg, key } => {
                match self.lost.get(&(pool, leg)) {
                    Some(epoch) if key.epoch.get() <= *epoch => Err(format!(
                        "{c} uses {key:?} on leg {leg} of pool {pool}, where a key of epoch {epoch} vanished"
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
