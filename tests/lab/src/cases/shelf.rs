//! The shelf: its quorum disks, its power, and keys that somebody else has put there.

use super::{FAULT, homes_keep, pool_of};
use crate::array::{Array, JOIN};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::reservations;
use crate::shelf::{DATA, QUORUM};
use crate::topology::Node;
use crate::wait::{last, wait_for};
use serde_json::json;

fn fault(lab: &Lab, disk: u16, fault: &serde_json::Value) -> Result<()> {
    lab.shelf()?
        .press("chassis.disk_fault", &json!({ "disk": disk, "fault": fault }))
        .map(drop)
}

fn heal(lab: &Lab) -> Result<()> {
    lab.shelf()?.press("chassis.heal", &json!({})).map(drop)
}

/// C1: one of three quorum disks fails every command.
pub(super) fn one_quorum_disk(lab: &mut Lab) -> Result<()> {
    fault(
        lab,
        DATA,
        &json!({ "failing": { "reads": true, "writes": true } }),
    )?;
    wait_for("a says that the quorum disk fails", JOIN, || {
        let status = Array::of(lab).status(Node::A)?;
        let bad = status
            .quorum
            .iter()
            .filter(|disk| !disk.writable || disk.readable.is_err())
            .count();
        if bad == 1 {
            Ok(())
        } else {
            Err(format!("{:?}", status.quorum))
        }
    })?;
    last(FAULT);
    homes_keep(lab)?;
    heal(lab)
}

/// C3: every command of one quorum disk takes seconds, then those of two.
pub(super) fn slow_quorum(lab: &mut Lab) -> Result<()> {
    let slow = json!({ "slow": { "min_ms": 5_000, "max_ms": 7_000 } });
    fault(lab, DATA, &slow)?;
    last(FAULT * 2);
    homes_keep(lab)?;
    // A majority that is slow for both is nobody's death: whoever cannot write stops, and nobody may take.
    fault(lab, DATA + 1, &slow)?;
    last(FAULT * 2);
    heal(lab)?;
    Host::of(lab)?.wait_progress()
}

/// D1: the shelf has no power for ten seconds.
pub(super) fn shelf_power(lab: &mut Lab) -> Result<()> {
    let power = |action: &str| {
        lab.shelf()?
            .press("chassis.shelf_power", &json!({ "action": action }))
            .map(drop)
    };
    power("off")?;
    last(FAULT);
    power("on")?;
    Array::of(lab).wait_joined()?;
    Host::of(lab)?.wait_progress()
}

/// D7: in mid-write somebody preempts the owner's key on one disk of its pool.
pub(super) fn preempted(lab: &mut Lab) -> Result<()> {
    let b = lab.machine(Node::B)?;
    let disks = reservations::disks(&b)?;
    let stranger = reservations::take(&b, &disks[0])?;
    wait_for("the owner has lost the disk, and says so", JOIN, || {
        let pool = pool_of(Node::A);
        match Array::of(lab).serves(pool, Node::A) {
            Err(_) => Ok(()),
            Ok(()) => Err(format!("a serves {}", pool.name)),
        }
    })?;
    reservations::clear(&b, &disks[0], &stranger)?;
    Array::of(lab).wait_joined()?;
    Host::of(lab)?.wait_progress()
}

/// The disks of the quorum are those after the data disks.
pub(super) fn quorum() -> std::ops::Range<u16> {
    DATA..DATA + QUORUM
}

/// C2: no quorum disk answers anybody: nobody takes, nobody serves longer than its lease, and everything comes back.
pub(super) fn no_quorum_disk(lab: &mut Lab) -> Result<()> {
    for disk in quorum() {
        fault(lab, disk, &json!("stuck"))?;
    }
    last(FAULT * 2);
    for pool in crate::array::POOLS {
        let both = Node::CONTROLLERS
            .into_iter()
            .filter(|node| Array::of(lab).serves(pool, *node).is_ok())
            .count();
        if both > 1 {
            return Err(Error::broken("one owner at every instant", pool.name));
        }
    }
    heal(lab)?;
    Host::of(lab)?.wait_progress()
}
