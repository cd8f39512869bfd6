//! The interconnect: one leg, both, loss, and a partner that hangs while nobody can hear it.

use super::{Claims, FAULT, pool_of};
use crate::array::{Array, JOIN, MOVE};
use crate::error::{Error, Result};
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
    let claims = Claims::of(lab)?;
    for leg in Segment::LEGS {
        plug(lab, &[leg], false)?;
        for node in Node::CONTROLLERS {
            Array::of(lab).wait_alarm(node, "leg_down", true)?;
        }
        last(FAULT);
        claims.hold(lab)?;
        plug(lab, &[leg], true)?;
        for node in Node::CONTROLLERS {
            Array::of(lab).wait_alarm(node, "leg_down", false)?;
        }
    }
    Ok(())
}

/// B2.
pub(super) fn both_legs(lab: &mut Lab) -> Result<()> {
    let claims = Claims::of(lab)?;
    plug(lab, &Segment::LEGS, false)?;
    for node in Node::CONTROLLERS {
        Array::of(lab).wait_locked(node, true)?;
    }
    for node in Node::CONTROLLERS {
        Array::of(lab).refuses_changes(node)?;
    }
    last(FAULT);
    claims.hold(lab)?;
    plug(lab, &Segment::LEGS, true)?;
    for node in Node::CONTROLLERS {
        Array::of(lab).wait_locked(node, false)?;
    }
    Ok(())
}

/// B4: every third packet of each direction is lost, by the kernel's own emulator.
pub(super) fn loss(lab: &mut Lab) -> Result<()> {
    let claims = Claims::of(lab)?;
    for node in Node::CONTROLLERS {
        lab.machine(node)?
            .run("modprobe sch_netem && tc qdisc add dev bond0 root netem loss 33%")?;
    }
    Host::of(lab)?.wait_progress()?;
    last(FAULT * 3);
    claims.hold(lab)?;
    for node in Node::CONTROLLERS {
        let machine = lab.machine(node)?;
        let said = machine.run("tc -statistics qdisc show dev bond0; tc qdisc del dev bond0 root")?;
        if dropped(&said).is_none_or(|count| count == 0) {
            return Err(Error::step(format!("lose packets of {node}"), said));
        }
    }
    Ok(())
}

/// How many packets a queue has lost, as `tc -statistics` says it.
fn dropped(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("(dropped ")?;
    rest.split(',').next()?.parse().ok()
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
        Array::of(lab).has_given_up(pool_of(Node::A), Node::A)
    })?;
    plug(lab, &Segment::LEGS, true)?;
    a.set_clock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_packets_are_counted() {
        let said = "qdisc netem 8001: root refcnt 2 limit 1000 loss 33%\n \
                    Sent 4016 bytes 63 pkt (dropped 31, overlimits 0 requeues 0)\n backlog 0b 0p requeues 0\n";
        assert_eq!(dropped(said), Some(31));
        assert_eq!(dropped("qdisc noqueue 0: root"), None);
    }
}
