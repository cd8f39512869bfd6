//! What is done to the array in the machines, and what must hold afterwards.
//!
//! Numbers are those of the fault matrix. Every case begins with both controllers joined, every pool at home and a host that
//! writes, and ends the same way; between them lies one fault. Then the host's writer and the shelf's log judge.

use crate::array::{Array, JOIN, MOVE, POOLS, Pool};
use crate::diagnosis;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::{Node, Segment};
use crate::wait::last;
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
    fault: fn(&mut Lab) -> Result<()>,
}

/// What a case has shown.
#[derive(Debug)]
pub struct Outcome {
    /// Commands of the host that were answered.
    pub answered: u64,
    /// The host's longest pause since the fault, ms.
    pub pause_ms: u64,
    /// How long the whole case took.
    pub took: Duration,
}

/// All of them, in the order in which they are run.
pub const CASES: [Case; 4] = [
    Case {
        name: "a1",
        what: "the owner's power is cut: the partner takes its pool, and gives it back later",
        fault: power_cut,
    },
    Case {
        name: "a3",
        what: "the owner hangs without a power fence and is let go later: its writes are refused by the disks",
        fault: hang,
    },
    Case {
        name: "b2",
        what: "both legs are cut: nobody takes anything, the configuration is locked, then unlocked",
        fault: both_legs,
    },
    Case {
        name: "i1",
        what: "planned switchover and giveback under load",
        fault: planned,
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
        let start = Instant::now();
        match self.judged(lab) {
            Ok((answered, pause_ms)) => Ok(Outcome {
                answered,
                pause_ms,
                took: start.elapsed(),
            }),
            Err(error) => {
                let kept = diagnosis::collect(lab, self.name).map_err(|other| {
                    Error::step(format!("{error}; and collect what the machines say"), other)
                })?;
                Err(Error::step(
                    format!("case {}", self.name),
                    format!("{error}\nwhat the machines say is in {}", kept.display()),
                ))
            }
        }
    }

    fn judged(&self, lab: &mut Lab) -> Result<(u64, u64)> {
        let host = Host::of(lab)?;
        Array::of(lab).wait_joined()?;
        Array::of(lab).wait_home()?;
        host.load()?;
        let since = host.now_ms()?;
        (self.fault)(lab)?;
        let array = Array::of(lab);
        array.wait_joined()?;
        array.wait_home()?;
        host.wait_progress()?;
        let written = host.judge(since)?;
        lab.shelf()?.judge(&POOLS.map(|pool| pool.disks))?;
        Ok((written.answered, written.pause.length_ms))
    }
}

/// The pool of a controller.
fn pool_of(node: Node) -> Pool {
    if node == Node::A { POOLS[0] } else { POOLS[1] }
}

fn power_cut(lab: &mut Lab) -> Result<()> {
    lab.machine(Node::A)?.cut_power()?;
    Array::of(lab).wait_owner(pool_of(Node::A), Node::B, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up().map(drop)
}

fn hang(lab: &mut Lab) -> Result<()> {
    let a = lab.machine(Node::A)?;
    a.hang(true)?;
    Array::of(lab).wait_owner(pool_of(Node::A), Node::B, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    last(FAULT);
    a.hang(false)?;
    crate::wait::wait_for("a notices that it was replaced", JOIN, || {
        match Array::of(lab).serves(pool_of(Node::A), Node::A) {
            Ok(()) => Err("a still says that it serves".into()),
            Err(_) => Ok(()),
        }
    })
}

fn both_legs(lab: &mut Lab) -> Result<()> {
    let plug = |plugged| -> Result<()> {
        for node in Node::CONTROLLERS {
            for leg in Segment::LEGS {
                lab.machine(node)?.plug(leg, plugged)?;
            }
        }
        Ok(())
    };
    plug(false)?;
    let array = Array::of(lab);
    for node in Node::CONTROLLERS {
        array.wait_locked(node, true)?;
    }
    last(FAULT);
    for pool in POOLS {
        array
            .serves(pool, pool.home)
            .map_err(|seen| Error::broken("nobody takes from the living", seen))?;
    }
    plug(true)?;
    for node in Node::CONTROLLERS {
        array.wait_locked(node, false)?;
    }
    Ok(())
}

fn planned(lab: &mut Lab) -> Result<()> {
    let array = Array::of(lab);
    array.switchover(pool_of(Node::A), Node::A)?;
    Host::of(lab)?.wait_progress()?;
    array.wait_home()
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
