//! I4, one optimized: at most one controller that may answer calls its own port group of a pool optimized.

use crate::truth::Fact;
use crate::world::{World, own_access};
use pollux_api::target::Access;

/// Keeps nothing: what both targets are at that instant is enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OneOptimized;

impl OneOptimized {
    pub(crate) fn observe(world: &World, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Told { pool } => Self::judge(world, pool),
            Fact::Leased => (0..world.setup.pools.len()).try_for_each(|pool| Self::judge(world, pool)),
            _ => Ok(()),
        }
    }

    fn judge(world: &World, pool: usize) -> Result<(), String> {
        let optimized = |c: usize| {
            let node = &world.nodes[c];
            // Without a lease nothing leaves this port: whatever it would say, nobody hears it.
            let speaks = node.up && !node.paused && world.leased(c);
            let flip = node.port.told(pool).filter(|_| speaks);
            flip.is_some_and(|flip| own_access(flip, c) == Access::Optimized)
        };
        if optimized(0) && optimized(1) {
            let [a, b] = [0, 1].map(|c| world.nodes[c].port.told(pool));
            return Err(format!(
                "both ports of pool {pool} are optimized: a says {a:?}, b says {b:?}"
            ));
        }
        Ok(())
    }
}
