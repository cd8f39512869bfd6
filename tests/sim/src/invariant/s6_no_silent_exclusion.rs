//! S6, no silent exclusion: when a key has vanished without being preempted, writes under it are held until a new epoch
//! confirms the members and exclusion is taken again. It is never quietly registered again.
//!
//! What was lost is the exclusion of one owner. If the pool has changed hands meanwhile, by a gift and a fence under a
//! later claim, the matter has ended: who gave the pool up holds nothing that could be lost, and S1 and S5 judge the
//! hand-over. And once its owner has called the leg failed on every other leg, as it must before it writes without it, nothing rests
//! on the leg any more: it comes back under a new registration, and is copied whole.

use crate::truth::Fact;
use pollux_api::pool::ReservationKey;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoSilentExclusion {
    /// By pool and leg: the key that vanished last.
    lost: BTreeMap<(usize, usize), ReservationKey>,
}

impl NoSilentExclusion {
    pub(crate) fn observe(&mut self, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::ExclusionLost { pool, leg, key } => {
                self.lost.insert((pool, leg), key);
                Ok(())
            }
            Fact::CalledFailed { pool, leg } => {
                self.lost.remove(&(pool, leg));
                Ok(())
            }
            Fact::Wrote { c, pool, leg, key } | Fact::Registered { c, pool, leg, key } => {
                let Some(lost) = self.lost.get(&(pool, leg)).copied() else {
                    return Ok(());
                };
                if key.controller != lost.controller && key.generation > lost.generation {
                    self.lost.remove(&(pool, leg));
                    return Ok(());
                }
                if key.epoch > lost.epoch {
                    return Ok(());
                }
                Err(format!(
                    "{c} uses {key:?} on leg {leg} of pool {pool}, where {lost:?} vanished"
                ))
            }
            _ => Ok(()),
        }
    }
}
