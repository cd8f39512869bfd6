//! Whether the shelf is what an array needs, asked of both controllers' kernels before anything is installed: a disk that
//! both reach, and whose reservations hold against the one who lost it.
//!
//! Every command goes through /dev/sgN: a block device that was opened for writing is scanned again by udev when it is
//! closed, and its links are gone for a moment.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::machine::{LOOK, Machine};
use crate::topology::Node;

/// What the sg3_utils end with where a command was ended by RESERVATION CONFLICT (sg3_utils(8)).
const CONFLICT: i32 = 24;
/// Write exclusive, registrants only (SPC-4, 6.13.3.4): the one that pools are fenced by.
const KIND: &str = "--prout-type=5";

/// Registers, reserves and preempts on one disk from both sides; leaves it without a registration.
///
/// # Errors
/// [`Error::Broken`]: a write passed that must not, or one did not that must.
pub fn hold(lab: &Lab, wwn: &str) -> Result<()> {
    let (a, b) = (Side::of(lab, Node::A, wwn)?, Side::of(lab, Node::B, wwn)?);
    a.persist("--register-ignore --param-sark=0xa1")?;
    a.persist(&format!("--reserve --param-rk=0xa1 {KIND}"))?;
    a.writes(true, "a holds the reservation")?;
    b.writes(false, "a holds the reservation, b is not registered")?;
    b.persist("--register-ignore --param-sark=0xb1")?;
    b.persist(&format!(
        "--preempt-abort --param-rk=0xb1 --param-sark=0xa1 {KIND}"
    ))?;
    b.writes(true, "b has preempted a")?;
    a.writes(false, "b has preempted a")?;
    b.persist("--clear --param-rk=0xb1")?;
    a.writes(true, "every registration is cleared")
}

/// A disk as one controller has it.
struct Side {
    machine: Machine,
    device: String,
}

impl Side {
    fn of(lab: &Lab, node: Node, wwn: &str) -> Result<Self> {
        let machine = lab.machine(node)?;
        let script = format!(
            "for disk in /sys/class/scsi_generic/*; do \
             if [ \"$(cat \"$disk/device/wwid\")\" = {wwn} ]; then echo \"/dev/$(basename \"$disk\")\"; fi; done"
        );
        let device = machine.run(&script)?.trim().to_owned();
        if device.starts_with("/dev/sg") && !device.contains('\n') {
            return Ok(Self { machine, device });
        }
        Err(Error::step(
            format!("find {wwn} on {node}"),
            format!("one disk of that name is needed, there are: {device:?}"),
        ))
    }

    fn persist(&self, words: &str) -> Result<()> {
        let script = format!("sg_persist --no-inquiry --out {words} {}", self.device);
        self.machine.run(&script).map(drop)
    }

    fn writes(&self, may: bool, when: &str) -> Result<()> {
        let script = format!("sg_dd if=/dev/zero of={} bs=512 count=1", self.device);
        let said = self.machine.try_run(&script, LOOK)?;
        let right = if may { 0 } else { CONFLICT };
        if said.status.code() == Some(right) {
            return Ok(());
        }
        Err(Error::broken(
            format!("{when}: a write of {} ends with {right}", self.machine.node),
            format!("{}: {}", said.status, said.err.trim()),
        ))
    }
}
