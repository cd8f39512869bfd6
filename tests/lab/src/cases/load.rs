//! Everything that there is to do at once: a controller that is busy is not dead.

use super::Claims;
use crate::error::Result;
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::Node;
use crate::wait::last;
use std::time::Duration;

/// How long it lasts in a run of every case.
const LENGTH: Duration = Duration::from_secs(300);
/// What is left of a controller's memory, MiB.
const LEFT_MIB: u32 = 128;

/// C9.
pub(super) fn saturated(lab: &mut Lab) -> Result<()> {
    saturate(lab, LENGTH)
}

/// Lets the host's writer, which has been started, go on for so long while the controllers have hardly any memory left and
/// read all of their programs again and again; prints the longest time between two slots of each, which are due once a second.
///
/// # Errors
/// A pool changed hands, or the writer ended.
pub(super) fn saturate(lab: &Lab, length: Duration) -> Result<()> {
    let claims = Claims::of(lab)?;
    for node in Node::CONTROLLERS {
        let left = lab.machine(node)?.run(&format!(
            "set -e
             left() {{ awk '/MemAvailable/ {{ print int($2 / 1024) }}' /proc/meminfo; }}
             mount -o remount,size=100% /dev/shm
             fallocate --length $(($(left) - {LEFT_MIB}))MiB /dev/shm/lab-pressure
             systemd-run --quiet --unit=lab-pressure sh -c 'while :; do cat /usr/bin/* /usr/sbin/* > /dev/null 2>&1; done'
             left"
        ))?;
        println!("{node}: {} MiB of memory left", left.trim());
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
    claims.hold(lab)?;
    Host::of(lab)?.wait_progress()
}
