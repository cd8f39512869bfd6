//! What the kernel's own iSCSI target (LIO) does with a host's reservation when its controller dies: why the array's volumes
//! are served by a target of ours, which writes a reservation down at both controllers before it says that it is made.
//!
//! It is a measurement of somebody else's work, with one expectation: should the kernel ever keep the reservation, this
//! fails, and the choice has to be made again.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::machine::{LOOK, Machine};
use crate::topology::Node;
use crate::wait::wait_for;
use std::time::Duration;

const SCRIPT: &str = include_str!("../../guest/kernel-target.sh");
/// Path of the host's disk through a controller.
const DISK: &str = "/dev/disk/by-path/ip-ADDRESS:3261-iscsi-iqn.2026-01.pollux.lab:kernel.NODE-lun-0";
const APPEAR: Duration = Duration::from_secs(120);
const KEY: &str = "0xc0ffee";

/// Registers and reserves through the one controller, takes its power, and asks the other one.
pub(super) fn reservation_is_lost(lab: &mut Lab) -> Result<()> {
    let host = lab.machine(Node::Host)?;
    for node in Node::CONTROLLERS {
        unit(&lab.machine(node)?, "up")?;
        let said = host.try_run(
            &format!(
                "iscsiadm --mode discovery --type sendtargets --portal {}:3261 --login",
                node.front()
            ),
            LOOK,
        )?;
        if !said.status.success() {
            return Err(Error::step(
                format!("log in to the kernel's target of {node}"),
                said.err,
            ));
        }
    }
    let persist = |node: Node, words: &str| {
        let disk = disk(node);
        host.run(&format!(
            "sg_persist --no-inquiry {words} /dev/$(basename /sys/block/$(basename $(readlink -f {disk}))/device/scsi_generic/*)"
        ))
    };
    for node in Node::CONTROLLERS {
        wait_for(
            &format!("the host has the kernel's unit through {node}"),
            APPEAR,
            || persist(node, "--in --read-keys").map_err(|error| error.to_string()),
        )?;
    }
    persist(
        Node::A,
        &format!("--out --register --param-sark={KEY} --param-aptpl"),
    )?;
    persist(
        Node::A,
        &format!("--out --reserve --param-rk={KEY} --prout-type=5"),
    )?;
    let kept = persist(Node::A, "--in --read-reservation")?;
    if !kept.contains("Key=") {
        return Err(Error::step("reserve through the kernel's target of a", kept));
    }
    lab.cut_power(Node::A)?;
    let left = persist(Node::B, "--in --read-reservation")?;
    println!(
        "the kernel's target of b, after a has died with a reservation: {}",
        left.trim()
    );
    host.run(
        "iscsiadm --mode node --portal 10.78.0.2:3261 --logout; \
              iscsiadm --mode node --portal 10.78.0.1:3261 --logout || true; \
              iscsiadm --mode node --portal 10.78.0.1:3261 --op delete; \
              iscsiadm --mode node --portal 10.78.0.2:3261 --op delete",
    )?;
    unit(&lab.machine(Node::B)?, "down")?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up()?;
    if left.contains("Key=") {
        return Err(Error::broken(
            "the kernel's target forgets a reservation with its controller (else volumes may be served by it)",
            left,
        ));
    }
    Ok(())
}

fn disk(node: Node) -> String {
    DISK.replace("ADDRESS", node.front())
        .replace("NODE", node.as_str())
}

fn unit(machine: &Machine, what: &str) -> Result<()> {
    let node = machine.node;
    machine
        .run(&format!(
            "cat > /var/tmp/kernel-target.sh <<'END'\n{SCRIPT}END\nsh /var/tmp/kernel-target.sh {node} {} {what}",
            node.front()
        ))
        .map(drop)
}
