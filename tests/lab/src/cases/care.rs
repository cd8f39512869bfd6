//! What an operator does to the array in good order: all of it is shut down and started again, a controller gets a newer
//! package, loses it, and is exchanged for one that knows nothing.

use super::{Claims, FAULT, pool_of};
use crate::array::{self, Array, JOIN, MOVE, Newer, POOLS};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::machine::LOOK;
use crate::topology::Node;
use crate::wait::{last, wait_for};
use std::time::Duration;

/// dpkg on an emulated processor, with every daemon restarted.
const INSTALL: Duration = Duration::from_secs(900);

/// The whole array is shut down by its operator. One controller comes back alone, and knows that the other has left: it
/// serves every pool. Then the other one.
pub(super) fn down(lab: &mut Lab) -> Result<()> {
    let a = lab.machine(Node::A)?;
    // The connection ends with the machine.
    let said = a.try_run("pollux shutdown --yes --reason lab", MOVE);
    if let Ok(said) = &said
        && !said.status.success()
    {
        return Err(Error::step("shut the array down", &said.err));
    }
    for node in Node::CONTROLLERS {
        let machine = lab.machine(node)?;
        wait_for(&format!("{node} is off"), MOVE, || {
            if machine.process.is_alive() {
                Err("its power is on".into())
            } else {
                Ok(())
            }
        })?;
        machine.ssh().forget();
        lab.carriers()?;
    }
    // The one on which nothing was typed went first, and is back first.
    lab.power_on(Node::B)?;
    lab.machine(Node::B)?.wait_up()?;
    for pool in POOLS {
        Array::of(lab).wait_owner(pool, Node::B, JOIN)?;
    }
    Host::of(lab)?.wait_progress()?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up().map(drop)
}

/// One controller after the other gets a newer package: no pool moves.
pub(super) fn upgrade(lab: &mut Lab) -> Result<()> {
    let (newer, claims) = (Newer::make(lab)?, Claims::of(lab)?);
    for node in Node::CONTROLLERS {
        let machine = lab.machine(node)?;
        let process = "systemctl show --property=MainPID --value heartbeatd";
        let before = machine.run(process)?;
        newer.install(&machine)?;
        let version = machine.run("dpkg-query --show --showformat='${Version}' pollux")?;
        if version != newer.version || machine.run(process)? == before {
            return Err(Error::broken(
                "a newer package runs once it is installed",
                format!(
                    "{version} where {} should be, heartbeatd is {before}",
                    newer.version
                ),
            ));
        }
        Array::of(lab).wait_joined()?;
        claims.hold(lab)?;
        Host::of(lab)?.wait_progress()?;
    }
    Ok(())
}

/// The package is removed from a controller: it goes in good order, and the other serves everything. Installed again, it is
/// back with all that it knew.
pub(super) fn removed(lab: &mut Lab) -> Result<()> {
    let b = lab.machine(Node::B)?;
    b.run_within("dpkg --remove pollux", INSTALL)?;
    Array::of(lab).wait_owner(pool_of(Node::B), Node::A, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    silent(lab, Node::B)?;
    last(FAULT);
    b.run_within(&format!("dpkg --install {}", array::INSTALLED), INSTALL)
        .map(drop)
}

/// A controller is exchanged: the new one knows nothing, is set up with the answers that the array wrote for it, paired, and
/// learns everything from its partner and from the disks.
pub(super) fn exchanged(lab: &mut Lab) -> Result<()> {
    let b = lab.machine(Node::B)?;
    b.run_within("dpkg --purge pollux", INSTALL)?;
    let left = b.run("ls -d /etc/pollux /var/lib/pollux 2>/dev/null || true")?;
    if !left.trim().is_empty() {
        return Err(Error::broken("a purge leaves nothing", left));
    }
    Array::of(lab).wait_owner(pool_of(Node::B), Node::A, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    silent(lab, Node::B)?;
    b.run_within(&format!("dpkg --install {}", array::INSTALLED), INSTALL)?;
    Array::of(lab).exchange_second()
}

/// Nothing of the array answers at a controller that has none.
fn silent(lab: &Lab, node: Node) -> Result<()> {
    let said = lab
        .machine(node)?
        .try_run("pgrep --list-full --uid pollux; pgrep --list-full lvmd", LOOK)?;
    if said.out.trim().is_empty() {
        Ok(())
    } else {
        Err(Error::broken(
            "nothing runs where the package was removed",
            said.out,
        ))
    }
}
