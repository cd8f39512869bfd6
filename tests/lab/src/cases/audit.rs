//! What must hold after every case, beside what the writer at the host and the shelf's log say.
//!
//! What settles by itself (a configuration that is caught up, a path that a host looks at again) is waited for; what may never
//! have been is looked for in what is kept of the time since the fault.

use crate::array::{Array, POOLS, Pool};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::machine::LOOK;
use crate::topology::Node;
use crate::wait::wait_for;
use pollux_api::heartbeat;
use pollux_api::id::ControllerId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Until both say the same, once the array is whole again.
const SETTLE: Duration = Duration::from_secs(120);

/// All of them, on an array that is whole again. `since_ms`: the fault.
pub(super) fn all(lab: &Lab, since_ms: u64) -> Result<()> {
    one_configuration(lab)?;
    one_story(lab)?;
    for pool in POOLS {
        Host::of(lab)?.wait_optimized(pool, pool.home)?;
        one_address(lab, pool)?;
    }
    nobody_gave_up(lab, since_ms)
}

/// Both controllers hold the same configuration, to the last change, and the rows of each are what its log says.
fn one_configuration(lab: &Lab) -> Result<()> {
    let array = Array::of(lab);
    wait_for("both controllers hold the same configuration", SETTLE, || {
        let mut held = vec![];
        for node in Node::CONTROLLERS {
            let status = array.keeper(node)?;
            if status.length != status.acknowledged_length {
                return Err(format!(
                    "{node}: {} changes, {} of them acknowledged",
                    status.length, status.acknowledged_length
                ));
            }
            held.push((status.length, status.hash));
        }
        if held[0] == held[1] {
            Ok(())
        } else {
            Err(format!("{held:?}"))
        }
    })?;
    for node in Node::CONTROLLERS {
        let status = array
            .keeper(node)
            .map_err(|seen| Error::step("ask for the state of the configuration", seen))?;
        let problems = array.verify(node)?;
        if status.diverged.is_some() || status.aside_acknowledged || !problems.is_empty() {
            return Err(Error::broken(
                "no acknowledged change is lost, and rows are what the log says",
                format!("{node}: {status:?}, {problems:?}"),
            ));
        }
    }
    Ok(())
}

/// Both controllers tell of each pool the same owner under the same claim.
fn one_story(lab: &Lab) -> Result<()> {
    wait_for("both controllers tell the same of every pool", SETTLE, || {
        let mut told = vec![];
        for node in Node::CONTROLLERS {
            let status = Array::of(lab).status(node)?;
            let owned = |pool: &heartbeat::Pool| (pool.pool, (pool.owner, pool.generation));
            told.push(status.pools.iter().map(owned).collect::<BTreeMap<_, _>>());
        }
        if told[0] == told[1] {
            Ok(())
        } else {
            Err(format!("a: {:?}, b: {:?}", told[0], told[1]))
        }
    })
}

/// The floating address of a pool is on its owner alone, and the host reaches it there.
fn one_address(lab: &Lab, pool: Pool) -> Result<()> {
    for node in Node::CONTROLLERS {
        let wanted = node == pool.home;
        wait_for(&format!("{node} has {}: {wanted}", pool.address), SETTLE, || {
            let machine = lab.machine(node).map_err(|error| error.to_string())?;
            let said = machine
                .run(&format!("ip -oneline address show to {}", pool.address))
                .map_err(|error| error.to_string())?;
            if said.trim().is_empty() == wanted {
                Err(format!("it has {said:?}"))
            } else {
                Ok(())
            }
        })?;
    }
    address_answers(lab, pool, pool.home)
}

/// The host reaches the floating address of a pool at that controller. Nothing tells the host to look anew: what it knew of the
/// address is of the time before, so it has to be announced.
pub(super) fn address_answers(lab: &Lab, pool: Pool, node: Node) -> Result<()> {
    let host = lab.machine(Node::Host)?;
    let what = format!("{} answers at {node}", pool.address);
    wait_for(&what, SETTLE, || {
        let script = format!(
            "ping -q -c 1 -W 2 {0} > /dev/null; echo answered $?; ip neighbor show {0}",
            pool.address
        );
        let said = host.try_run(&script, LOOK).map_err(|error| error.to_string())?;
        if said.out.contains("answered 0") && said.out.contains(&node.front_mac()) {
            Ok(())
        } else {
            Err(said.out)
        }
    })
}

/// The host gets a connection to the target of a controller.
pub(super) fn connects(lab: &Lab, node: Node) -> Result<bool> {
    let script = format!(
        "timeout 3 bash -c 'exec 3<> /dev/tcp/{}/3260' 2> /dev/null && echo yes || echo no",
        node.front()
    );
    Ok(lab.machine(Node::Host)?.run(&script)?.trim() == "yes")
}

/// Asked anew, again and again, who has the address of a pool, that controller alone answers.
pub(super) fn address_is_only_at(lab: &Lab, pool: Pool, node: Node) -> Result<()> {
    let script = format!(
        "for turn in 1 2 3 4 5; do ip neighbor flush to {0}; ping -q -c 1 -W 2 {0} > /dev/null; ip neighbor show {0}; done",
        pool.address
    );
    let said = lab.machine(Node::Host)?.run(&script)?;
    if said.contains(&node.front_mac()) && !said.contains(&node.partner().front_mac()) {
        Ok(())
    } else {
        Err(Error::broken(
            "an address has one controller",
            format!("{}: {said}", pool.address),
        ))
    }
}

/// What the newest move has caused on either controller is found by its action.
pub(super) fn traced(lab: &Lab) -> Result<()> {
    let told = Array::of(lab).timeline()?;
    let newest = told
        .first()
        .ok_or_else(|| Error::broken("a move is told", "nothing is"))?;
    let action = newest.caused_by.as_ref().unwrap_or(&newest.action_id);
    let trace = Array::of(lab).trace(action)?;
    for id in [ControllerId::A, ControllerId::B] {
        if !trace.records.iter().any(|record| record.at == id) {
            return Err(Error::broken(
                "all that a move has caused is found by its action",
                format!("{newest:?}: of {id} there is nothing in {trace:?}"),
            ));
        }
    }
    Ok(())
}

/// No daemon ended in a panic in any of its machine's lives since then, or fell silent before its service manager in the last
/// one: in an earlier one a case may have silenced it.
fn nobody_gave_up(lab: &Lab, since_ms: u64) -> Result<()> {
    for node in Node::CONTROLLERS {
        let said = lab.machine(node)?.run(&format!(
            "journalctl --no-pager --since=@{0} --grep 'panicked at' --lines 5; \
             journalctl --no-pager --boot --since=@{0} --grep 'Watchdog timeout' --lines 5 || true",
            since_ms / 1000
        ))?;
        if said.contains("Watchdog timeout") || said.contains("panicked at") {
            return Err(Error::broken(
                "no daemon panics, or has to be killed by the service manager",
                format!("{node}: {said}"),
            ));
        }
    }
    Ok(())
}
