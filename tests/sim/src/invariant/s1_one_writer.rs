//! S1, one writer: at every instant writes issued to the disks of a pool take effect from at most one controller.
//!
//! Judged from the shelf's own log. Keys order the owners of a pool; once a write under a later key has taken effect on
//! any leg, none under an earlier key may take effect on any leg, and one key has one writer.

use crate::truth::Fact;
use crate::world::key_rank;
use pollux_api::pool::ReservationKey;

#[derive(Clone, Debug, Default)]
pub(crate) struct OneWriter {
    last: Vec<Option<(usize, ReservationKey)>>,
}

impl OneWriter {
    pub(crate) fn new(pools: usize) -> Self {
        Self {
            last: vec![None; pools],
        }
    }

    pub(crate) fn observe(&mut self, fact: &Fact) -> Result<(), String> {
        let Fact::Wrote { c, pool, leg, key } = *fact else {
            return Ok(());
        };
        let last = &mut self.last[pool];
        if let Some((writer, latest)) = *last {
            let late = key_rank(key) < key_rank(latest);
            let twice = key_rank(key) == key_rank(latest) && writer != c;
            if late || twice {
                return Err(format!(
                    "a write of {c} under {key:?} took effect on leg {leg} of pool {pool} after one of {writer} under {latest:?}"
                ));
            }
        }
        *last = Some((c, key));
        Ok(())
    }
}
