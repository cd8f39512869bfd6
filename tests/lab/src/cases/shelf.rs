//! The shelf: its quorum disks, its power, and keys that somebody else has put there.

use super::{Claims, FAULT, pool_of};
use crate::array::{Array, JOIN, MOVE};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::reservations::{self, STRANGER};
use crate::shelf::{DATA, QUORUM, SPARE};
use crate::topology::{Node, Way};
use crate::wait::{last, wait_for};
use serde_json::json;

pub(super) fn fault(lab: &Lab, disk: u16, fault: &serde_json::Value) -> Result<()> {
    lab.shelf()?
        .press("chassis.disk_fault", &json!({ "disk": disk, "fault": fault }))
        .map(drop)
}

pub(super) fn heal(lab: &Lab) -> Result<()> {
    lab.shelf()?.press("chassis.heal", &json!({})).map(drop)
}

/// C1: one of three quorum disks fails every command.
pub(super) fn one_quorum_disk(lab: &mut Lab) -> Result<()> {
    let claims = Claims::of(lab)?;
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
    claims.hold(lab)?;
    heal(lab)
}

/// C3: every command of one quorum disk takes seconds, then those of two.
pub(super) fn slow_quorum(lab: &mut Lab) -> Result<()> {
    let claims = Claims::of(lab)?;
    let slow = json!({ "slow": { "min_ms": 5_000, "max_ms": 7_000 } });
    fault(lab, DATA, &slow)?;
    last(FAULT * 2);
    claims.hold(lab)?;
    // A majority that is slow for both is nobody's death: whoever cannot write stops, and nobody may take.
    fault(lab, DATA + 1, &slow)?;
    last(FAULT * 2);
    for pool in crate::array::POOLS {
        let taken = Array::of(lab).serves(pool, pool.home.partner());
        if taken.is_ok() {
            return Err(Error::broken(
                "nobody takes from the living",
                format!("{} is served by controller {}", pool.name, pool.home.partner()),
            ));
        }
    }
    heal(lab)?;
    Host::of(lab)?.wait_progress()
}

/// D1: the shelf has no power for ten seconds, and has forgotten who was registered when it is back. What the owners knew of
/// their disks is worth nothing then: each takes its own anew, under a later claim, and stands alone on them.
pub(super) fn shelf_power(lab: &mut Lab) -> Result<()> {
    let power = |action: &str| {
        lab.shelf()?
            .press("chassis.shelf_power", &json!({ "action": action }))
            .map(drop)
    };
    let before = Claims::of(lab)?;
    power("off")?;
    lab.shelf()?.press("shelf.forget_reservations", &json!({}))?;
    last(FAULT);
    power("on")?;
    wait_for(
        "exclusion that the disks have forgotten is taken anew",
        JOIN,
        || {
            let after = Claims::of(lab).map_err(|error| error.to_string())?;
            let later = |(pool, claim)| after.0.get(pool) > Some(claim);
            if before.0.iter().all(later) {
                Ok(())
            } else {
                Err(format!("claims {before:?}, then {after:?}"))
            }
        },
    )?;
    Array::of(lab).wait_joined()?;
    Array::of(lab).wait_home()?;
    Host::of(lab)?.wait_progress()?;
    let a = lab.machine(Node::A)?;
    let disks = reservations::disks(&a)?;
    for slot in crate::array::POOLS.iter().flat_map(crate::array::Pool::slots) {
        let keys = reservations::keys(&a, &disks[usize::from(slot)])?;
        if keys.len() != 1 {
            return Err(Error::broken(
                "the owner alone is registered",
                format!("disk {slot}: {keys:?}"),
            ));
        }
    }
    Ok(())
}

/// D2: a stranger registers a key on a disk of a pool, and on one that is in none. Who may write to a pool's disk unasked is
/// a reason to stop: its owner takes the disk anew, and the stranger's key is gone. On the other one it is shown, with the
/// way to remove it.
pub(super) fn foreign_key(lab: &mut Lab) -> Result<()> {
    let (a, b) = (lab.machine(Node::A)?, lab.machine(Node::B)?);
    let disks = reservations::disks(&b)?;
    reservations::register(&b, &disks[0])?;
    wait_for("nobody but the owner is registered", JOIN, || {
        let keys = reservations::keys(&a, &disks[0]).map_err(|error| error.to_string())?;
        match &keys[..] {
            [key] if key != STRANGER => Ok(()),
            _ => Err(format!("{keys:?}")),
        }
    })?;
    Array::of(lab).wait_owner(pool_of(Node::A), Node::A, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    let claims = Claims::of(lab)?;
    reservations::register(&b, &disks[usize::from(SPARE)])?;
    let found = wait_for("the stranger's key is shown", JOIN, || {
        foreign(&a)?.into_iter().next().ok_or("none is shown".into())
    })?;
    claims.hold(lab)?;
    a.run(&format!(
        "pollux disk clear-key {} {} --yes",
        found.disk, found.key
    ))?;
    wait_for("no stranger's key is left", JOIN, || match foreign(&a)?.len() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    })
}

/// A key of nobody's, as the operator is told of it.
#[derive(serde::Deserialize)]
struct Foreign {
    disk: u16,
    key: String,
}

fn foreign(machine: &Machine) -> std::result::Result<Vec<Foreign>, String> {
    #[derive(serde::Deserialize)]
    struct Report {
        foreign: std::collections::BTreeMap<String, Vec<Foreign>>,
    }
    let text = machine
        .run("pollux --json disk keys")
        .map_err(|error| error.to_string())?;
    let report: Report = serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))?;
    Ok(report.foreign.into_values().flatten().collect())
}

/// D4: both kernels preempt each other on a disk of no pool.
pub(super) fn both_preempt(lab: &mut Lab) -> Result<()> {
    let (a, b) = (lab.machine(Node::A)?, lab.machine(Node::B)?);
    let (seen, other) = (reservations::disks(&a)?, reservations::disks(&b)?);
    let spare = usize::from(SPARE);
    reservations::race((a, &seen[spare]), (b, &other[spare]))
}

/// D5: the owner has a second way to a disk of its pool, and loses the one that it uses; then the other way round. It goes on
/// by the one that is left, under the same key, and its mirror misses nothing.
pub(super) fn second_way(lab: &mut Lab) -> Result<()> {
    const SLOT: u16 = 0;
    let (a, port) = (lab.machine(Node::A)?, lab.shelf()?.port(Node::A));
    let claims = Claims::of(lab)?;
    for (plugged, pulled) in [(Way::Second, Way::First), (Way::First, Way::Second)] {
        a.plug_disk(plugged, &port, SLOT)?;
        Host::of(lab)?.wait_progress()?;
        a.pull_disk(pulled, SLOT)?;
        Host::of(lab)?.wait_progress()?;
        claims.hold(lab)?;
        Array::of(lab)
            .in_sync(Node::A)
            .map_err(|seen| Error::broken("a disk with a way left is no failed disk", seen))?;
    }
    Ok(())
}

/// D7: in mid-write somebody preempts the owner's key on one disk of its pool.
pub(super) fn preempted(lab: &mut Lab) -> Result<()> {
    let b = lab.machine(Node::B)?;
    let disks = reservations::disks(&b)?;
    let stranger = reservations::take(&b, &disks[0])?;
    wait_for("the owner has lost the disk, and says so", JOIN, || {
        Array::of(lab).has_given_up(pool_of(Node::A), Node::A)
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
