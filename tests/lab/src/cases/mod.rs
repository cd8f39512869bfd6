//! What is done to the array in the machines, and what must hold afterwards.
//!
//! Numbers are those of the fault matrix. Every case begins with both controllers joined, every pool at home and a host that
//! writes, and ends the same way; between them lies one fault. Then the host's writer, the shelf's log and [`audit`] judge.

mod audit;
mod care;
mod death;
mod front;
mod groups;
mod interconnect;
mod kernel_target;
mod load;
mod shelf;

use crate::array::{Array, POOLS, Pool};
use crate::diagnosis;
use crate::error::{Error, Result};
use crate::host::{Host, Load, Writer};
use crate::lab::Lab;
use crate::machine::LOOK;
use crate::topology::Node;
use pollux_api::heartbeat::{Incident, Phase};
use pollux_api::id::{Generation, PoolId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a hang and a cut are left as they are after the array has reacted: the zombie wakes long after it was replaced.
const FAULT: Duration = Duration::from_secs(10);

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its number in the fault matrix.
    pub name: &'static str,
    /// What happens, and what must.
    pub what: &'static str,
    /// One of the few that are run where time is short.
    pub quick: bool,
    load: Load,
    fault: fn(&mut Lab) -> Result<()>,
}

/// What a case has shown.
#[derive(Debug)]
pub struct Outcome {
    /// Commands of the host that were answered.
    pub answered: u64,
    /// The host's longest pause since the fault.
    pub pause: Pause,
    /// What the array says of the longest takeover or move since the fault.
    pub phases: Option<Phases>,
    /// How long the whole case took.
    pub took: Duration,
}

/// The longest time without an answer that ended after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long, ms.
    pub length_ms: u64,
    /// When it began, ms after the fault; less than nothing: it was under way.
    pub from_ms: i64,
}

/// A takeover or a move, as its taker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phases {
    /// From its first phase to the end of its last one, ms.
    pub whole_ms: u64,
    /// How long the pool's own import was of it, ms: what a move would cost without everything else.
    pub import_ms: u64,
    /// Names and lengths, in their order.
    pub text: String,
}

/// All of them, in the order in which they are run.
pub const CASES: [Case; 35] = [
    Case {
        name: "a1",
        what: "the owner's power is cut: the partner takes its pool, and gives it back later",
        quick: true,
        load: Load::LIGHT,
        fault: death::power_cut,
    },
    Case {
        name: "a2",
        what: "the owner's kernel panics and starts anew",
        quick: false,
        load: Load::LIGHT,
        fault: death::panic,
    },
    Case {
        name: "a3",
        what: "the owner hangs without a power fence and is let go later: its writes are refused by the disks",
        quick: true,
        load: Load::LIGHT,
        fault: death::hang,
    },
    Case {
        name: "a4",
        what: "heartbeat of the owner is stopped, all else goes on",
        quick: false,
        load: Load::LIGHT,
        fault: death::stopped_heartbeat,
    },
    Case {
        name: "a5",
        what: "each daemon of the owner is killed in turn",
        quick: false,
        load: Load::LIGHT,
        fault: death::killed_daemons,
    },
    Case {
        name: "a8",
        what: "the owner is rebooted by its administrator",
        quick: false,
        load: Load::LIGHT,
        fault: death::reboot,
    },
    Case {
        name: "a9",
        what: "the owner is back, just booted, before its partner calls it dead",
        quick: false,
        load: Load::LIGHT,
        fault: death::reset,
    },
    Case {
        name: "a11",
        what: "both lose their power at once and come back in the same second",
        quick: false,
        load: Load::LIGHT,
        fault: death::both_at_once,
    },
    Case {
        name: "alone",
        what: "both lose their power at once, and one of them comes back alone",
        quick: false,
        load: Load::LIGHT,
        fault: death::both_and_one_is_back,
    },
    Case {
        name: "a12",
        what: "the taker dies when it has begun to arbitrate, to claim, to fence, to import, and to publish",
        quick: false,
        load: Load::LIGHT,
        fault: death::taker_dies,
    },
    Case {
        name: "b1",
        what: "each leg is cut in turn: an alarm, and nothing else",
        quick: false,
        load: Load::LIGHT,
        fault: interconnect::one_leg,
    },
    Case {
        name: "b2",
        what: "both legs are cut: nobody takes anything, the configuration is locked, then unlocked",
        quick: true,
        load: Load::LIGHT,
        fault: interconnect::both_legs,
    },
    Case {
        name: "b4",
        what: "a third of the interconnect's packets is lost",
        quick: false,
        load: Load::LIGHT,
        fault: interconnect::loss,
    },
    Case {
        name: "b7",
        what: "both legs are cut, then the owner hangs: the partner takes its pool",
        quick: false,
        load: Load::LIGHT,
        fault: interconnect::wire_then_hang,
    },
    Case {
        name: "c1",
        what: "one quorum disk fails",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::one_quorum_disk,
    },
    Case {
        name: "c2",
        what: "no quorum disk answers for a while",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::no_quorum_disk,
    },
    Case {
        name: "c3",
        what: "one quorum disk is slow, then two",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::slow_quorum,
    },
    Case {
        name: "c9",
        what: "five minutes of random writes as fast as they go, with little memory left: no takeover",
        quick: true,
        load: Load::FULL,
        fault: load::saturated,
    },
    Case {
        name: "d1",
        what: "the shelf loses its power for ten seconds",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::shelf_power,
    },
    Case {
        name: "d2",
        what: "a stranger registers keys: the owner of a pool takes its disk anew, elsewhere the key is shown and removed",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::foreign_key,
    },
    Case {
        name: "d4",
        what: "the kernels of both controllers preempt each other on a disk in the same moment (of the disks; the array's own is in tests/pair)",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::both_preempt,
    },
    Case {
        name: "d5",
        what: "the owner loses the way to a disk that it uses, and has another one",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::second_way,
    },
    Case {
        name: "d7",
        what: "somebody preempts the owner's key in mid-write",
        quick: false,
        load: Load::LIGHT,
        fault: shelf::preempted,
    },
    Case {
        name: "e3",
        what: "a pool in a volume group of the kernel: made, busy when it should move, moved, lost with its owner, given back, deleted",
        quick: false,
        load: Load::LIGHT,
        fault: groups::volume_group,
    },
    Case {
        name: "f1",
        what: "the host's way to the owner is cut, then every way",
        quick: false,
        load: Load::LIGHT,
        fault: front::ports,
    },
    Case {
        name: "f5",
        what: "the owner's power is cut under a queue of 64",
        quick: false,
        load: Load::DEEP,
        fault: death::deep_queue,
    },
    Case {
        name: "i1",
        what: "planned switchover and giveback of each pool under load; the host sees which port is optimized (and f6, f7)",
        quick: true,
        load: Load::LIGHT,
        fault: front::planned,
    },
    Case {
        name: "i2",
        what: "a planned move is called off",
        quick: false,
        load: Load::LIGHT,
        fault: front::aborted,
    },
    Case {
        name: "i5",
        what: "a newer package is installed on one controller after the other",
        quick: false,
        load: Load::LIGHT,
        fault: care::upgrade,
    },
    Case {
        name: "reserve",
        what: "what a host has reserved through a controller stands when that dies, and when it is back",
        quick: false,
        load: Load::LIGHT,
        fault: front::reservation_stands,
    },
    Case {
        name: "lio",
        what: "a reservation that the kernel's own target has granted dies with its controller",
        quick: false,
        load: Load::LIGHT,
        fault: kernel_target::reservation_is_lost,
    },
    Case {
        name: "down",
        what: "the array is shut down by its operator; one controller comes back alone, then the other one",
        quick: false,
        load: Load::LIGHT,
        fault: care::down,
    },
    Case {
        name: "ups",
        what: "both controllers are shut down at the same moment, as by a power supply that runs out; one comes back alone",
        quick: false,
        load: Load::LIGHT,
        fault: care::ups,
    },
    Case {
        name: "remove",
        what: "the package is removed from a controller, and installed again",
        quick: false,
        load: Load::LIGHT,
        fault: care::removed,
    },
    Case {
        name: "exchange",
        what: "a controller is exchanged for one that knows nothing",
        quick: false,
        load: Load::LIGHT,
        fault: care::exchanged,
    },
];

impl Case {
    /// The case of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CASES.into_iter().find(|case| case.name == name)
    }

    /// Runs it on an array that is installed, and collects what every machine says where it fails.
    ///
    /// # Errors
    /// A promise was broken, or a step could not be taken; the error names the folder with what was collected.
    pub fn run(&self, lab: &mut Lab) -> Result<Outcome> {
        collected(self.name, lab, |lab| around(self.load, lab, self.fault))
    }
}

/// C9 for any length: see [`load::saturate`].
///
/// # Errors
/// As [`Case::run`].
pub fn saturated(lab: &mut Lab, length: Duration) -> Result<Outcome> {
    collected("saturate", lab, |lab| {
        around(Load::FULL, lab, |lab| load::saturate(lab, length))
    })
}

/// Collects what every machine says where it fails.
fn collected(name: &str, lab: &mut Lab, run: impl FnOnce(&mut Lab) -> Result<Outcome>) -> Result<Outcome> {
    run(lab).map_err(|error| {
        let kept = match diagnosis::collect(lab, name) {
            Ok(kept) => format!("what the machines say is in {}", kept.display()),
            Err(other) => format!("what the machines say could not be collected: {other}"),
        };
        Error::step(format!("case {name}"), format!("{error}\n{kept}"))
    })
}

/// What stands around every fault.
fn around(load: Load, lab: &mut Lab, fault: impl FnOnce(&mut Lab) -> Result<()>) -> Result<Outcome> {
    let start = Instant::now();
    let host = Host::of(lab)?;
    Array::of(lab).wait_joined()?;
    Array::of(lab).wait_home()?;
    host.load(Writer::EVERY, load)?;
    let since = host.now_ms()?;
    fault(lab)?;
    let array = Array::of(lab);
    array.wait_joined()?;
    array.wait_home()?;
    host.wait_read_back(Writer::EVERY)?;
    let written = host.judge(Writer::EVERY, since)?;
    lab.shelf()?.judge(&POOLS.map(|pool| pool.disks))?;
    audit::all(lab, since)?;
    let told = Array::of(lab).timeline()?;
    let pause = Pause {
        length_ms: written.pause.length_ms,
        from_ms: written.pause.after_ms.cast_signed() - since.cast_signed(),
    };
    Ok(Outcome {
        answered: written.answered,
        pause,
        phases: longest(&told, since),
        took: start.elapsed(),
    })
}

/// The pool of a controller.
fn pool_of(node: Node) -> Pool {
    if node == Node::A { POOLS[0] } else { POOLS[1] }
}

/// Under which claim each pool is served: another one after each takeover and move.
#[derive(Debug, PartialEq, Eq)]
struct Claims(BTreeMap<PoolId, Generation>);

impl Claims {
    fn of(lab: &Lab) -> Result<Self> {
        let status = Array::of(lab).status(Node::B);
        let status = status.map_err(|seen| Error::step("ask for the claims of the pools", seen))?;
        let claims = status.pools.iter().map(|pool| (pool.pool, pool.generation));
        Ok(Self(claims.collect()))
    }

    /// Nobody has taken from the living: every pool is served where it was, and has been all the while.
    fn hold(&self, lab: &Lab) -> Result<()> {
        at_home(lab)?;
        let now = Self::of(lab)?;
        if now == *self {
            Ok(())
        } else {
            Err(Error::broken(
                "nobody takes from the living",
                format!("claims {:?}, then {:?}", self.0, now.0),
            ))
        }
    }
}

/// Every pool is served where it belongs.
fn at_home(lab: &Lab) -> Result<()> {
    for pool in POOLS {
        Array::of(lab)
            .serves(pool, pool.home)
            .map_err(|seen| Error::broken("nobody takes from the living", seen))?;
    }
    Ok(())
}

/// Mends what a case that failed may have left: faults of disks, cables, machines without power or that stand still.
///
/// # Errors
/// A machine does not come up.
pub fn mend(lab: &mut Lab) -> Result<()> {
    shelf::heal(lab)?;
    for node in Node::ALL {
        let machine = lab.machine(node)?;
        if machine.process.is_alive() {
            machine.hang(false)?;
            // A kernel that has panicked and stays so.
            if machine.try_run("true", LOOK).is_err() {
                machine.reset()?;
                machine.ssh().forget();
                machine.wait_up()?;
            }
        } else {
            lab.power_on(node)?;
            lab.machine(node)?.wait_up()?;
        }
        for segment in node.segments() {
            lab.machine(node)?.plug(*segment, true)?;
        }
    }
    for node in Node::CONTROLLERS {
        lab.machine(node)?.run(
            "tc qdisc del dev bond0 root 2> /dev/null; systemctl stop lab-pressure lab-panic lab-awake 2> /dev/null; \
             rm -f /dev/shm/lab-pressure; echo 5 > /proc/sys/kernel/panic; systemctl start pollux.target",
        )?;
    }
    Ok(())
}

/// The longest import of a pool, with everything around it, that began after `since_ms`.
fn longest(told: &[Incident], since_ms: u64) -> Option<Phases> {
    let imports = told
        .iter()
        .filter(|incident| incident.started_unix_ms >= since_ms);
    imports.filter_map(phases).max_by_key(|phases| phases.whole_ms)
}

fn phases(incident: &Incident) -> Option<Phases> {
    let ms = |us: u64| us / 1000;
    let import = incident.phases.iter().find(|phase| phase.name == "import")?;
    let end = |phase: &Phase| phase.start_us + i64::try_from(phase.length_us.unwrap_or(0)).unwrap_or(0);
    let first = incident.phases.iter().map(|phase| phase.start_us).min()?;
    let last = incident.phases.iter().map(end).max()?;
    let told = incident
        .phases
        .iter()
        .map(|phase| format!("{} {}", phase.name, ms(phase.length_us.unwrap_or(0))));
    Some(Phases {
        whole_ms: ms(u64::try_from(last - first).ok()?),
        import_ms: ms(import.length_us?),
        text: told.collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_found_by_its_name() {
        for case in CASES {
            assert_eq!(Case::named(case.name).map(|found| found.what), Some(case.what));
        }
        assert!(Case::named("z9").is_none());
    }
}
