//! What a host sees: its cables, and a move under a full queue.

use super::{FAULT, homes_keep, pool_of, shelf};
use crate::array::{Array, POOLS};
use crate::error::Result;
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::{Node, Segment};
use crate::wait::last;
use serde_json::json;

/// F1: the host's way to the owner, then every way, for ten seconds each.
pub(super) fn ports(lab: &mut Lab) -> Result<()> {
    let host = Host::of(lab)?;
    lab.machine(Node::A)?.plug(Segment::Front, false)?;
    // The other port forwards.
    host.wait_progress()?;
    homes_keep(lab)?;
    lab.machine(Node::A)?.plug(Segment::Front, true)?;
    host.wait_paths()?;
    lab.machine(Node::Host)?.plug(Segment::Front, false)?;
    last(FAULT);
    homes_keep(lab)?;
    lab.machine(Node::Host)?.plug(Segment::Front, true)?;
    host.wait_progress()?;
    host.wait_paths()
}

/// I1, F6, F7: each pool goes to the partner and comes back; the host's own kernel says each time which port is optimized.
pub(super) fn planned(lab: &mut Lab) -> Result<()> {
    let host = Host::of(lab)?;
    for pool in POOLS {
        host.wait_optimized(pool, pool.home)?;
        Array::of(lab).switchover(pool, pool.home)?;
        host.wait_optimized(pool, pool.home.partner())?;
        host.wait_progress()?;
        Array::of(lab).wait_home()?;
        host.wait_optimized(pool, pool.home)?;
    }
    Ok(())
}

/// I2: a move is called off before its point of no return, which is far away while its disks are slow: the pool stays, and is
/// served by who had it.
pub(super) fn aborted(lab: &mut Lab) -> Result<()> {
    let pool = pool_of(Node::A);
    let slow = json!({ "slow": { "min_ms": 1_000, "max_ms": 1_500 } });
    for disk in pool.slots() {
        shelf::fault(lab, disk, &slow)?;
    }
    Array::of(lab).switchover_and_abort(pool)?;
    shelf::heal(lab)?;
    homes_keep(lab)?;
    Host::of(lab)?.wait_progress()
}
