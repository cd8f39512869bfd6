//! Fault matrix, C: the quorum disks.

use pollux_api::chassis::{Cable, DiskFault};
use pollux_api::id::ControllerId::{A, B};
use pollux_api::id::DiskIndex;
use pollux_pair::Result;
use pollux_pair::rig::{MOVE, Rig};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

fn quorum_disks(rig: &Rig) -> Result<Vec<DiskIndex>> {
    let status = rig.array.enclosure_status()?;
    Ok(status
        .disks
        .iter()
        .filter(|disk| disk.quorum)
        .map(|disk| disk.index)
        .collect())
}

#[test]
fn c1_one_quorum_disk_fails() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let disk = quorum_disks(&stage)?[0];
    let failed = stage.array.disk_fault(
        disk,
        None,
        DiskFault::Failing {
            reads: true,
            writes: true,
        },
    )?;
    wait_for("both controllers notice the disk", MOVE, || {
        for at in [A, B] {
            let status = stage.array.heartbeat(at)?;
            let sick = status.quorum.iter().find(|entry| entry.disk == disk);
            that(sick.is_some_and(|entry| !entry.writable), || {
                format!("{at}: {sick:?}")
            })?;
            that(!status.alarms.is_empty(), || format!("{at}: no alarm"))?;
        }
        Ok(())
    })?;
    stage.wait_progress(300, MOVE)?;
    stage.nothing_moved()?;
    stage.array.wait_joined(MOVE)?;
    stage.array.disk_fault(disk, None, DiskFault::None)?;
    wait_for("both controllers use the disk again", MOVE, || {
        for at in [A, B] {
            let status = stage.array.heartbeat(at)?;
            let well = status.quorum.iter().find(|entry| entry.disk == disk);
            that(well.is_some_and(|entry| entry.writable), || {
                format!("{at}: {well:?}")
            })?;
        }
        Ok(())
    })?;
    stage.judge(failed.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn c1_one_quorum_disk_stuck_and_then_a_power_cut() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let disk = quorum_disks(&stage)?[0];
    stage.array.disk_fault(disk, None, DiskFault::Stuck)?;
    stage.wait_progress(200, MOVE)?;
    stage.nothing_moved()?;
    let cut = stage.array.power(A, pollux_api::chassis::PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn c8_slots_are_written_but_the_wire_is_dead() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.interconnect(Cable::Cut)?;
    wait_for("the wire is silent and the slots are alive", MOVE, || {
        for at in [A, B] {
            let status = stage.array.heartbeat(at)?;
            that(
                status.wire.state == "silent" && status.partner_disk == "alive",
                || format!("{at}: wire {}, slot {}", status.wire.state, status.partner_disk),
            )?;
        }
        Ok(())
    })?;
    // Hosts go on over the optimized paths alone, and nobody takes anything.
    stage.wait_progress(500, MOVE)?;
    stage.nothing_moved()?;
    stage.array.interconnect(Cable::Whole)?;
    stage.array.wait_joined(MOVE)?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}
