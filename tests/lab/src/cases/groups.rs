//! A pool in a volume group of the kernel's (`lvm`), beside those of the array's own backend.

use crate::array::{Array, GAMMA, MOVE};
use crate::error::{Error, Result};
use crate::host::{Host, Load, Writer};
use crate::lab::Lab;

/// Holds the device of a volume open, as a forgotten program of an administrator would.
const BUSY: &str = "lab-busy";

/// E3, and the rest of such a pool's life: made, written by the host, not moved while somebody has its device open, moved and
/// moved back, lost with its owner's power and taken by the partner, given back, deleted.
pub(super) fn volume_group(lab: &mut Lab) -> Result<()> {
    let host = Host::of(lab)?;
    let array = Array::of(lab);
    array.create(GAMMA)?;
    host.rescan(Writer::EVERY.jobs() + Writer::GAMMA.jobs())?;
    host.load(Writer::GAMMA, Load::LIGHT)?;
    let since = host.now_ms()?;

    busy(lab)?;
    let array = Array::of(lab);
    array.switchover(GAMMA, GAMMA.home)?;
    host.wait_progress_of(Writer::GAMMA)?;
    nothing_left(lab)?;
    array.switchover(GAMMA, GAMMA.home.partner())?;
    host.wait_progress_of(Writer::GAMMA)?;

    lab.machine(GAMMA.home)?.cut_power()?;
    Array::of(lab).wait_owner(GAMMA, GAMMA.home.partner(), MOVE)?;
    host.wait_progress_of(Writer::GAMMA)?;
    lab.power_on(GAMMA.home)?;
    lab.machine(GAMMA.home)?.wait_up()?;
    let array = Array::of(lab);
    array.wait_joined()?;
    // Asked for its other pools, the partner gives this one back, too.
    array.wait_home()?;
    array.wait_owner(GAMMA, GAMMA.home, MOVE)?;
    host.wait_progress_of(Writer::GAMMA)?;

    let written = host.judge(Writer::GAMMA, since)?;
    println!(
        "{}: {} commands answered, longest pause {} ms",
        GAMMA.name, written.answered, written.pause.length_ms
    );
    lab.shelf()?.judge(&[GAMMA.disks])?;
    host.forget(GAMMA)?;
    array.delete(GAMMA)
}

/// A move is refused while somebody else has a device of the group open, and the pool goes on where it is.
fn busy(lab: &Lab) -> Result<()> {
    let owner = lab.machine(GAMMA.home)?;
    owner.run(&format!(
        "systemd-run --unit={BUSY} sh -c 'exec 3< /dev/mapper/$(ls /dev/mapper | grep \"^pollux.*-v_\"); exec sleep infinity'"
    ))?;
    let asked = Array::of(lab).switchover(GAMMA, GAMMA.home);
    owner.run(&format!("systemctl stop {BUSY}"))?;
    if asked.is_ok() {
        return Err(Error::broken(
            "a group whose device somebody has open stays where it is",
            "it has moved",
        ));
    }
    Array::of(lab).wait_owner(GAMMA, GAMMA.home, MOVE)?;
    Host::of(lab)?.wait_progress_of(Writer::GAMMA)
}

/// Nothing of the group stands in the kernel of the controller that gave it up.
fn nothing_left(lab: &Lab) -> Result<()> {
    let said = lab.machine(GAMMA.home)?.run("dmsetup ls")?;
    if said.contains("pollux") {
        return Err(Error::broken("a group that was given up leaves nothing", said));
    }
    Ok(())
}
