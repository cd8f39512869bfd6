//! Everything that there is to do at once: a controller that is busy is not dead.

use super::homes_keep;
use crate::array::Array;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::Node;
use crate::wait::last;
use pollux_api::id::Generation;
use std::time::Duration;

/// How long it lasts in a run of every case.
const LENGTH: Duration = Duration::from_secs(300);
/// What is left of a controller's memory, MiB.
const LEFT_MIB: u32 = 64;

/// C9.
pub(super) fn saturated(lab: &mut Lab) -> Result<()> {
    saturate(lab, LENGTH)
}

/// Lets the host's writer, which has been started, go on for so long while the controllers have hardly any memory left and
/// read all of their programs again and again; prints how late their slots came at the worst.
///
/// # Errors
/// A pool changed hands, or the writer ended.
pub fn saturate(lab: &Lab, length: Duration) -> Result<()> {
    let before = generations(lab)?;
    for node in Node::CONTROLLERS {
        lab.machine(node)?.run(&format!(
            "left=$(awk '/MemAvailable/ {{ print int($2 / 1024) - {LEFT_MIB} }}' /proc/meminfo); \
             head --bytes=${{left}}M /dev/zero > /dev/shm/lab-pressure; \
             systemd-run --unit=lab-pressure sh -c 'while :; do cat /usr/bin/* /usr/sbin/* > /dev/null 2>&1; done'"
        ))?;
    }
    last(length);
    for node in Node::CONTROLLERS {
        lab.machine(node)?
            .run("systemctl stop lab-pressure; rm /dev/shm/lab-pressure")?;
    }
    for node in Node::CONTROLLERS {
        let worst = lab.shelf()?.worst_slot(node, length)?;
        println!(
            "{node}: longest time without a slot in {} s of full load: {worst} ms",
            length.as_secs()
        );
    }
    homes_keep(lab)?;
    let after = generations(lab)?;
    if after != before {
        return Err(Error::broken(
            "no takeover under load",
            format!("generations {before:?}, then {after:?}"),
        ));
    }
    Host::of(lab)?.wait_progress()
}

fn generations(lab: &Lab) -> Result<Vec<Generation>> {
    let status = Array::of(lab)
        .status(Node::B)
        .map_err(|seen| Error::step("ask for the generations of the pools", seen))?;
    Ok(status.pools.iter().map(|pool| pool.generation).collect())
}
