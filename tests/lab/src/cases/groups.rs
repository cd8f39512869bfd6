//! A pool in a volume group of the kernel's (`lvm`), beside those of the array's own backend: a volume that the host writes, and
//! a file system that the owner has mounted.

use super::shelf;
use crate::array::{Array, GAMMA, JOIN, MOVE, Pool};
use crate::error::{Error, Result};
use crate::host::{Host, Load, Writer};
use crate::lab::Lab;
use crate::topology::Node;
use crate::wait::wait_for;
use serde_json::json;
use std::time::Duration;

/// Holds the device of a volume open, as a forgotten program of an administrator would.
const BUSY: &str = "lab-busy";
/// The file system.
const FILES: &str = "docs";
/// The second disk of the group.
const SECOND: u16 = 5;
/// Making a file system, on an emulated processor.
const MAKE: Duration = Duration::from_secs(300);

/// E3, and the rest of such a pool's life: made, written by the host, not moved while somebody has its device open, moved and
/// moved back, a disk lost and taken in again, lost with its owner's power and taken by the partner, given back, deleted.
pub(super) fn volume_group(lab: &mut Lab) -> Result<()> {
    let (home, away) = (GAMMA.home, GAMMA.home.partner());
    let host = Host::of(lab)?;
    let array = Array::of(lab);
    array.create(GAMMA)?;
    host.rescan(Writer::EVERY.jobs() + Writer::GAMMA.jobs())?;
    host.load(Writer::GAMMA, Load::LIGHT)?;
    let since = host.now_ms()?;
    let files = Files::make(lab)?;

    busy(lab)?;
    array.switchover(GAMMA, home)?;
    host.wait_progress_of(Writer::GAMMA)?;
    files.are_on(lab, away)?;
    array.switchover(GAMMA, away)?;
    host.wait_progress_of(Writer::GAMMA)?;
    files.are_on(lab, home)?;

    replaced(lab)?;
    host.wait_progress_of(Writer::GAMMA)?;

    lab.cut_power(home)?;
    Array::of(lab).wait_owner(GAMMA, away, MOVE)?;
    host.wait_progress_of(Writer::GAMMA)?;
    lab.power_on(home)?;
    lab.machine(home)?.wait_up()?;
    files.are_on(lab, away)?;
    let array = Array::of(lab);
    array.wait_joined()?;
    // Asked for its other pools, the partner gives this one back, too.
    array.wait_home()?;
    array.wait_owner(GAMMA, home, MOVE)?;
    host.wait_progress_of(Writer::GAMMA)?;
    files.are_on(lab, home)?;

    let written = host.judge(Writer::GAMMA, since)?;
    println!(
        "{}: {} commands answered, longest pause {} ms",
        GAMMA.name, written.answered, written.pause.length_ms
    );
    lab.shelf()?.judge(&[GAMMA.disks])?;
    lab.machine(Node::A)?
        .run(&format!("pollux file-system delete {FILES} --discard-data"))?;
    host.forget(GAMMA)?;
    array.delete(GAMMA)?;
    // Nothing of it is left that would keep another one from its disks, at the other controller too.
    let other = Pool { home: away, ..GAMMA };
    array.create(other)?;
    array.wait_owner(other, away, MOVE)?;
    array.delete(other)?;
    let owner = lab.machine(away)?;
    wait_for("no group is left on the disks", MOVE, || {
        let left = owner.run("dmsetup ls").map_err(|error| error.to_string())?;
        if left.contains("pollux") {
            Err(left)
        } else {
            Ok(())
        }
    })
}

/// A move is refused while somebody else has a device of the group open, and the pool goes on where it is.
fn busy(lab: &Lab) -> Result<()> {
    let owner = lab.machine(GAMMA.home)?;
    owner.run(&format!(
        "systemd-run --unit={BUSY} sh -c 'exec 3< /dev/mapper/$(ls /dev/mapper | grep \"^pollux.*-v_\"); exec sleep infinity'"
    ))?;
    let asked = Array::of(lab).switchover(GAMMA, GAMMA.home);
    owner.run(&format!("systemctl stop {BUSY}"))?;
    if asked.is_ok() {
        return Err(Error::broken(
            "a group whose device somebody has open stays where it is",
            "it has moved",
        ));
    }
    Array::of(lab).wait_owner(GAMMA, GAMMA.home, MOVE)?;
    Host::of(lab)?.wait_progress_of(Writer::GAMMA)
}

/// A disk of the group fails, and comes back as one that has to be filled.
fn replaced(lab: &Lab) -> Result<()> {
    let owner = lab.machine(GAMMA.home)?;
    shelf::fault(
        lab,
        SECOND,
        &json!({ "failing": { "reads": true, "writes": true } }),
    )?;
    wait_for("the group has lost a disk", JOIN, || {
        let legs = legs(&owner.run("dmsetup status").map_err(|error| error.to_string())?);
        if legs.contains('D') { Ok(()) } else { Err(legs) }
    })?;
    Host::of(lab)?.wait_progress_of(Writer::GAMMA)?;
    shelf::heal(lab)?;
    owner.run_within(
        &format!("pollux pool replace-disk {} {SECOND} --yes", GAMMA.name),
        JOIN,
    )?;
    wait_for("the group has two whole disks", JOIN, || {
        let legs = legs(&owner.run("dmsetup status").map_err(|error| error.to_string())?);
        if legs.chars().all(|leg| leg == 'A') && !legs.is_empty() {
            Ok(())
        } else {
            Err(legs)
        }
    })
}

/// A letter for each leg of each mirror: A alive and in sync, a alive, D dead
/// (Documentation/admin-guide/device-mapper/dm-raid.rst).
fn legs(status: &str) -> String {
    let mirrors = status.lines().filter(|line| line.starts_with("pollux"));
    mirrors
        .filter_map(|line| line.split_once(" raid raid1 "))
        .filter_map(|(_, rest)| rest.split_whitespace().nth(1))
        .collect()
}

/// What was written to the file system of the pool.
struct Files {
    sum: String,
}

impl Files {
    fn make(lab: &Lab) -> Result<Self> {
        lab.machine(Node::A)?.run_within(
            &format!(
                "pollux file-system create {FILES} --pool {} --size 320M --wait 240",
                GAMMA.name
            ),
            MAKE,
        )?;
        let sum = lab.machine(GAMMA.home)?.run(
            "cd \"$(findmnt --noheadings --raw --types xfs --output TARGET)\" && \
             dd if=/dev/urandom of=data bs=1M count=4 conv=fsync status=none && md5sum data",
        )?;
        Ok(Self { sum })
    }

    /// They are read back at their owner, and nothing of the group is left at the other controller.
    fn are_on(&self, lab: &Lab, owner: Node) -> Result<()> {
        let read = "cd \"$(findmnt --noheadings --raw --types xfs --output TARGET)\" && md5sum data";
        wait_for(&format!("{owner} has the files"), MOVE, || {
            let said = lab
                .machine(owner)
                .and_then(|machine| machine.run(read))
                .map_err(|error| error.to_string())?;
            if said == self.sum { Ok(()) } else { Err(said) }
        })?;
        let left = lab
            .machine(owner.partner())?
            .run("dmsetup ls; findmnt --noheadings --types xfs || true")?;
        if left.contains("pollux") {
            return Err(Error::broken("a group that was given up leaves nothing", left));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_are_those_of_our_mirrors() {
        let status = "pollux_x-pool_tdata: 0 520192 raid raid1 2 AD 520192/520192 idle 0 0 -\n\
                      pollux_x-pool_tmeta: 0 8192 raid raid1 2 Aa 4096/8192 recover 0 0 -\n\
                      pollux_gate_x_04: 0 1044480 linear \nother: 0 8 raid raid1 2 DD 8/8 idle 0 0 -\n";
        assert_eq!(legs(status), "ADAa");
    }
}
