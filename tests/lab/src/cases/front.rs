//! What a host sees: its cables, and a move under a full queue.

use super::{Claims, FAULT, at_home, audit, pool_of, shelf};
use crate::array::{Array, MOVE, POOLS};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::{Node, Segment};
use crate::wait::last;
use serde_json::json;

/// F1: the host's way to the owner, then every way, for ten seconds each.
pub(super) fn ports(lab: &mut Lab) -> Result<()> {
    let (host, claims) = (Host::of(lab)?, Claims::of(lab)?);
    lab.machine(Node::A)?.plug(Segment::Front, false)?;
    // The other port forwards.
    host.wait_progress()?;
    claims.hold(lab)?;
    lab.machine(Node::A)?.plug(Segment::Front, true)?;
    host.wait_paths()?;
    lab.machine(Node::Host)?.plug(Segment::Front, false)?;
    last(FAULT);
    claims.hold(lab)?;
    lab.machine(Node::Host)?.plug(Segment::Front, true)?;
    host.wait_progress()?;
    host.wait_paths()
}

/// I1, F6, F7: each pool goes to the partner and comes back; the host's own kernel says each time which port is optimized, and it
/// is told so at once, by a unit attention, not when multipathd looks again.
pub(super) fn planned(lab: &mut Lab) -> Result<()> {
    let host = Host::of(lab)?;
    for pool in POOLS {
        host.wait_optimized(pool, pool.home)?;
        Array::of(lab).switchover(pool, pool.home)?;
        audit::traced(lab)?;
        audit::address_answers(lab, pool, pool.home.partner())?;
        host.wait_access(pool, pool.home.partner())?;
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
    at_home(lab)?;
    Host::of(lab)?.wait_progress()
}

/// The host registers on both paths and reserves over one of them: what it wrote so far and writes from now on is its own. The
/// controller behind that path dies, and comes back.
pub(super) fn reservation_stands(lab: &mut Lab) -> Result<()> {
    const KEY: &str = "0xfeed";
    let pool = pool_of(Node::A);
    let machine = lab.machine(Node::Host)?;
    let persist = |node: Node, words: &str| {
        let script = format!(
            "sg_persist --no-inquiry {words} $(readlink -f /dev/disk/by-path/ip-{}:3260-*-lun-{})",
            node.front(),
            pool.lun
        );
        // A unit attention takes the place of a command, once, and sg_persist does not repeat it.
        machine.run(&format!("{script} || {script}"))
    };
    let stands = |node: Node| {
        let keys = persist(node, "--in --read-keys")?;
        let held = persist(node, "--in --read-reservation")?;
        if keys.matches(KEY).count() == 2 && held.contains(KEY) {
            Ok(())
        } else {
            Err(Error::broken(
                "a reservation outlives the controller through which it was made",
                format!("through {node}: {keys} {held}"),
            ))
        }
    };
    for node in Node::CONTROLLERS {
        persist(node, &format!("--out --register --param-sark={KEY}"))?;
    }
    persist(
        Node::A,
        &format!("--out --reserve --param-rk={KEY} --prout-type=5"),
    )?;
    lab.cut_power(Node::A)?;
    Array::of(lab).wait_owner(pool, Node::B, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    stands(Node::B)?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up()?;
    Array::of(lab).wait_joined()?;
    Array::of(lab).wait_home()?;
    Host::of(lab)?.wait_paths()?;
    for node in Node::CONTROLLERS {
        stands(node)?;
    }
    persist(Node::A, &format!("--out --clear --param-rk={KEY}")).map(drop)
}
