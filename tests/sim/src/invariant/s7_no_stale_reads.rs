//! S7, no stale reads: once the new owner of a pool has answered a host, the old one answers none; and a read shows
//! every write that was acknowledged before it began.

use crate::truth::{Answer, Fact};
use crate::world::key_rank;
use pollux_api::pool::ReservationKey;

#[derive(Clone, Debug, Default)]
pub(crate) struct NoStaleReads {
    latest: Vec<Option<(usize, ReservationKey)>>,
}

impl NoStaleReads {
    pub(crate) fn new(pools: usize) -> Self {
        Self {
            latest: vec![None; pools],
        }
    }

    pub(crate) fn observe(&mut self, fact: &Fact) -> Result<(), String> {
        let Fact::Replied { c, pool, key, what } = *fact else {
            return Ok(());
        };
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
