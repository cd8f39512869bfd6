//! S4, nothing acknowledged is lost: whatever a host was told is durable is what whoever imports the pool finds.

use crate::truth::{Answer, Fact};
use crate::world::BLOCKS;

#[derive(Clone, Debug, Default)]
pub(crate) struct NothingLost {
    floor: Vec<[u64; BLOCKS]>,
}

impl NothingLost {
    pub(crate) fn new(pools: usize) -> Self {
        Self {
            floor: vec![[0; BLOCKS]; pools],
        }
    }

    pub(crate) fn floor(&self, pool: usize, block: usize) -> u64 {
        self.floor[pool][block]
    }

    pub(crate) fn observe(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Replied {
                pool,
                what: Answer::Write { block, value },
                ..
            } => {
                let floor = &mut self.floor[*pool][*block];
                *floor = (*floor).max(*value);
                Ok(())
            }
            Fact::Imported {
                c, pool, key, blocks, ..
            } => {
                let lost = blocks
                    .iter()
                    .zip(&self.floor[*pool])
                    .position(|(found, floor)| found < floor);
                match lost {
                    Some(block) => Err(format!(
                        "{c} imports pool {pool} under {key:?} and finds {} in block {block}, where {} was acknowledged",
                        blocks[block], self.floor[*pool][block]
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
