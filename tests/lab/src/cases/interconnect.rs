//! The interconnect: one leg, both, loss, and a partner that hangs while nobody can hear it.

use super::{FAULT, homes_keep, pool_of};
use crate::array::{Array, JOIN, MOVE};
use crate::error::Result;
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::{Node, Segment};
use crate::wait::{last, wait_for};

fn plug(lab: &Lab, legs: &[Segment], plugged: bool) -> Result<()> {
    for node in Node::CONTROLLERS {
        for leg in legs {
            lab.machine(node)?.plug(*leg, plugged)?;
        }
    }
    Ok(())
}

/// B1: each leg in turn; it is an alarm and nothing else.
pub(super) fn one_leg(lab: &mut Lab) -> Result<()> {
    for leg in Segment::LEGS {
        plug(lab, &[leg], false)?;
        for node in Node::CONTROLLERS {
            Array::of(lab).wait_alarm(node, "leg_down", true)?;
        }
        last(FAULT);
        homes_keep(lab)?;
        plug(lab, &[leg], true)?;
        for node in Node::CONTROLLERS {
            Array::of(lab).wait_alarm(node, "leg_down", false)?;
        }
    }
    Ok(())
}

/// B2.
pub(super) fn both_legs(lab: &mut Lab) -> Result<()> {
    plug(lab, &Segment::LEGS, false)?;
    for node in Node::CONTROLLERS {
        Array::of(lab).wait_locked(node, true)?;
    }
    last(FAULT);
    homes_keep(lab)?;
    plug(lab, &Segment::LEGS, true)?;
    for node in Node::CONTROLLERS {
        Array::of(lab).wait_locked(node, false)?;
    }
    Ok(())
}

/// B4: every third packet of each direction is lost, by the kernel's own emulator.
pub(super) fn loss(lab: &mut Lab) -> Result<()> {
    for node in Node::CONTROLLERS {
        lab.machine(node)?
            .run("modprobe sch_netem && tc qdisc add dev bond0 root netem loss 33%")?;
    }
    Host::of(lab)?.wait_progress()?;
    last(FAULT * 3);
    homes_keep(lab)?;
    for node in Node::CONTROLLERS {
        lab.machine(node)?.run("tc qdisc del dev bond0 root")?;
    }
    Ok(())
}

/// B7: silence on the wire is not for ever a reason not to take over.
pub(super) fn wire_then_hang(lab: &mut Lab) -> Result<()> {
    plug(lab, &Segment::LEGS, false)?;
    for node in Node::CONTROLLERS {
        Array::of(lab).wait_locked(node, true)?;
    }
    let a = lab.machine(Node::A)?;
    a.hang(true)?;
    Array::of(lab).wait_owner(pool_of(Node::A), Node::B, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    a.hang(false)?;
    wait_for("a notices that it was replaced", JOIN, || {
        match Array::of(lab).serves(pool_of(Node::A), Node::A) {
            Ok(()) => Err("a still says that it serves".into()),
            Err(_) => Ok(()),
        }
    })?;
    plug(lab, &Segment::LEGS, true)?;
    a.set_clock()
}
