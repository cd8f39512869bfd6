//! Fault matrix, C: the quorum disks.

use pollux_api::chassis::{Cable, DiskFault, PowerAction};
use pollux_api::error::{Code, RpcError};
use pollux_api::heartbeat::{Accepted, REPLACE_QUORUM_DISK, ReplaceQuorumDisk};
use pollux_api::id::ControllerId::{self, A, B};
use pollux_api::id::{DiskIndex, Generation};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE, Rig};
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
    let cut = stage.array.power(A, PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

fn replace(
    rig: &Rig,
    at: ControllerId,
    from: DiskIndex,
    to: DiskIndex,
    dry_run: bool,
) -> std::result::Result<Accepted, RpcError> {
    let request = ReplaceQuorumDisk { from, to, dry_run };
    rig.array.call(at, REPLACE_QUORUM_DISK, &request)
}

/// Both controllers go by these disks and nothing is under way.
fn wait_set(rig: &Rig, disks: &[DiskIndex], generation: u64) -> Result<()> {
    wait_for("both controllers go by the quorum set", MOVE + BOOT, || {
        for at in [A, B] {
            let status = rig.array.heartbeat(at)?;
            let seen: Vec<DiskIndex> = status.quorum.iter().map(|entry| entry.disk).collect();
            let alike = seen.len() == disks.len() && disks.iter().all(|disk| seen.contains(disk));
            that(
                alike && status.quorum_generation == Generation::new(generation),
                || {
                    format!(
                        "{at}: {seen:?} of generation {}, alarms {:?}",
                        status.quorum_generation, status.alarms
                    )
                },
            )?;
        }
        Ok(())
    })
}

#[test]
fn c1_a_failing_quorum_disk_is_replaced_under_load_and_the_next_one_may_fail() -> Result<()> {
    let Some(mut stage) = Stage::set(|plan| plan.array.disks = 5) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let quorum = quorum_disks(&stage)?;
    let status = stage.array.enclosure_status()?;
    let taken = |disk: &DiskIndex| stage.pools.iter().any(|pool| pool.disks.contains(disk));
    let spare = status
        .disks
        .iter()
        .map(|disk| disk.index)
        .find(|disk| !quorum.contains(disk) && !taken(disk))
        .expect("a disk that no pool has");
    let failing = DiskFault::Failing {
        reads: true,
        writes: true,
    };
    let failed = stage.array.disk_fault(quorum[0], None, failing)?;

    // What cannot be done is refused, with the reason.
    let refused = |from, to, reason: &str| {
        let error = replace(&stage, A, from, to, false).expect_err(reason);
        assert!(
            error.is(Code::Refused) && error.to_string().contains(reason),
            "{error}"
        );
    };
    refused(spare, quorum[0], "is not a quorum disk");
    refused(quorum[0], quorum[1], "is a quorum disk already");
    refused(quorum[0], stage.pools[0].disks[0], "is a member of pool `alpha`");
    let error = replace(&stage, B, quorum[0], spare, false).expect_err("b does not change the set");
    assert!(error.to_string().contains("ask controller a"), "{error}");
    // A look at the plan changes nothing.
    let plan = replace(&stage, A, quorum[0], spare, true).expect("it can be done");
    assert!(!plan.plan.is_empty());
    wait_set(&stage, &quorum, 1)?;

    replace(&stage, A, quorum[0], spare, false).expect("it can be done");
    let now = [spare, quorum[1], quorum[2]];
    wait_set(&stage, &now, 2)?;
    stage.wait_progress(100, MOVE)?;
    stage.nothing_moved()?;

    // The new disk counts: with one of the old ones gone, only with it there is a majority.
    stage.array.disk_fault(quorum[1], None, DiskFault::Stuck)?;
    stage.array.power(A, PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    stage.array.disk_fault(quorum[1], None, DiskFault::None)?;
    // Whoever was away, and has forgotten where the disks were, finds the set by what stands on them.
    let hint = stage.array.directory().join("a/var/quorum-set");
    std::fs::remove_file(&hint).expect("a kept the set for its next start");
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_set(&stage, &now, 2)?;
    assert!(hint.is_file(), "it is kept again");
    for pool in stage.pools.clone() {
        stage.array.wait_owner(pool.home, pool.id, MOVE + BOOT)?;
    }
    stage.judge(failed.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn c1_after_a_replacement_both_start_from_the_new_set() -> Result<()> {
    let Some(mut stage) = Stage::set(|plan| plan.array.disks = 5) else {
        return Ok(());
    };
    let quorum = quorum_disks(&stage)?;
    let used: Vec<DiskIndex> = stage.pools.iter().flat_map(|pool| pool.disks.clone()).collect();
    let status = stage.array.enclosure_status()?;
    let spare = status
        .disks
        .iter()
        .map(|disk| disk.index)
        .find(|disk| !quorum.contains(disk) && !used.contains(disk))
        .expect("a disk that no pool has");
    replace(&stage, A, quorum[2], spare, false).expect("it can be done");
    // Power goes while it may be under way: it ends by itself when power is back, and no reboot undoes it.
    let off = stage.array.power(A, PowerAction::Off)?;
    stage.array.power(B, PowerAction::Off)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.power(B, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    let now = [quorum[0], quorum[1], spare];
    wait_for("the change has ended", MOVE + BOOT, || {
        let status = stage.array.heartbeat(A)?;
        let seen: Vec<DiskIndex> = status.quorum.iter().map(|entry| entry.disk).collect();
        that(seen.len() == 3 && seen.contains(&spare), || {
            // If it was not decided when power went nothing of it is left but a disk that was half formatted.
            let asked = replace(&stage, A, quorum[2], spare, false);
            format!("{seen:?}; asked again: {asked:?}")
        })
    })?;
    wait_set(&stage, &now, 2)?;
    stage.array.power(A, PowerAction::Off)?;
    stage.array.power(B, PowerAction::Off)?;
    // What has left is nobody's: its old blocks bind nobody, though it can be read again.
    stage.array.disk_fault(quorum[0], None, DiskFault::Stuck)?;
    stage.array.power(B, PowerAction::On)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_set(&stage, &now, 2)?;
    stage.array.disk_fault(quorum[0], None, DiskFault::None)?;
    for pool in stage.pools.clone() {
        stage.array.wait_owner(pool.home, pool.id, MOVE + BOOT)?;
    }
    stage.judge(off.began_ns)?.expect_clean();
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
