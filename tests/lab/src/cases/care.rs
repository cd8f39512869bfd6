//! What an operator does to the array in good order: all of it is shut down and started again, a controller gets a newer
//! package, loses it, and is exchanged for one that knows nothing.

use super::{Claims, FAULT, pool_of};
use crate::array::{self, Array, JOIN, MOVE, Newer, POOLS};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::machine::{LOOK, Machine};
use crate::topology::Node;
use crate::wait::{last, wait_for};
use std::time::Duration;

/// dpkg on an emulated processor, with every daemon restarted.
const INSTALL: Duration = Duration::from_secs(900);

/// The whole array is shut down by its operator. One controller comes back alone, and knows that the other has left: it
/// serves every pool. Then the other one.
pub(super) fn down(lab: &mut Lab) -> Result<()> {
    shut_down(&lab.machine(Node::A)?)?;
    all_off(lab)?;
    // The one on which nothing was typed went first, and is back first.
    back_one_by_one(lab, Node::B)
}

/// As a power supply does that runs out: both are told at the same time, neither by the other.
pub(super) fn ups(lab: &mut Lab) -> Result<()> {
    let [a, b] = [lab.machine(Node::A)?, lab.machine(Node::B)?];
    std::thread::scope(|scope| {
        let both = [&a, &b].map(|machine| scope.spawn(move || shut_down(machine)));
        let ended = both.map(|one| {
            one.join()
                .unwrap_or_else(|_| Err(Error::step("shut the array down", "a thread died")))
        });
        ended.into_iter().collect::<Result<()>>()
    })?;
    all_off(lab)?;
    back_one_by_one(lab, Node::A)
}

fn shut_down(machine: &Machine) -> Result<()> {
    // The connection ends with the machine.
    match machine.try_run("pollux shutdown --yes --reason lab", MOVE) {
        Ok(said) if !said.status.success() => Err(Error::step("shut the array down", &said.err)),
        _ => Ok(()),
    }
}

fn all_off(lab: &Lab) -> Result<()> {
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
    Ok(())
}

/// Controllers without power come back: one alone, until it serves every pool, then the other.
pub(super) fn back_one_by_one(lab: &mut Lab, first: Node) -> Result<()> {
    lab.power_on(first)?;
    lab.machine(first)?.wait_up()?;
    for pool in POOLS {
        Array::of(lab).wait_owner(pool, first, JOIN)?;
    }
    Host::of(lab)?.wait_progress()?;
    lab.power_on(first.partner())?;
    lab.machine(first.partner())?.wait_up().map(drop)
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
