//! Fault matrix, B: the interconnect.

use pollux_api::chassis::Cable;
use pollux_api::config::Op;
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE, Rig};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

fn nothing_moved(rig: &Rig) {
    for pool in &rig.pools {
        rig.array
            .serves(pool.home, pool.id)
            .expect("every pool stays at home");
    }
}

/// Waits until both controllers have locked the configuration.
fn wait_locked(rig: &Rig) -> Result<()> {
    wait_for("both controllers lock the configuration", MOVE, || {
        for at in [A, B] {
            let status = rig.array.heartbeat(at)?;
            that(status.config_lock.is_some(), || {
                format!("{at}: wire {}", status.wire.state)
            })?;
        }
        Ok(())
    })
}

fn new_host(name: &str) -> Vec<Op> {
    vec![Op::CreateHost {
        name: name.into(),
        iqns: vec![format!("iqn.2026-01.test:{name}")],
    }]
}

#[test]
fn b1_one_leg() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.leg(0, Cable::Cut)?;
    wait_for("both controllers raise the alarm of the leg", MOVE, || {
        for at in [A, B] {
            let status = stage.array.heartbeat(at)?;
            that(status.alarms.iter().any(|alarm| alarm.id == "leg_down"), || {
                format!("{at}: {:?}", status.alarms)
            })?;
        }
        Ok(())
    })?;
    stage.wait_progress(200, MOVE)?;
    stage.array.wait_joined(MOVE)?;
    nothing_moved(&stage);
    stage.array.leg(0, Cable::Whole)?;
    wait_for("the alarm goes", MOVE, || {
        let status = stage.array.heartbeat(A)?;
        that(status.alarms.iter().all(|alarm| alarm.id != "leg_down"), || {
            format!("{:?}", status.alarms)
        })
    })?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn b2_both_legs_lock_refuse_and_unlock() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.interconnect(Cable::Cut)?;
    wait_locked(&stage)?;
    stage.wait_progress(200, MOVE)?;
    nothing_moved(&stage);
    for at in [A, B] {
        let refused = stage
            .array
            .change(at, new_host("late"))
            .expect_err("a locked array takes no change");
        assert!(refused.is(Code::ConfigLocked), "{refused}");
        assert!(
            !refused.data.what.is_empty() && !refused.data.remedy.is_empty(),
            "why, and what clears it: {refused:?}"
        );
    }
    let blockers: Vec<pollux_api::heartbeat::Blocker> = stage
        .array
        .call(A, pollux_api::heartbeat::WHY, &())
        .expect("heartbeat answers");
    assert!(
        blockers.iter().any(|blocker| blocker.blocks == "configuration"),
        "{blockers:?}"
    );
    stage.array.interconnect(Cable::Whole)?;
    stage.array.wait_joined(MOVE)?;
    stage
        .array
        .change(A, new_host("early"))
        .expect("an unlocked array takes changes");
    nothing_moved(&stage);
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn b3_one_way() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.interconnect(Cable::OnlyAToB)?;
    wait_locked(&stage)?;
    stage.wait_progress(200, MOVE)?;
    nothing_moved(&stage);
    stage.array.interconnect(Cable::Whole)?;
    stage.array.wait_joined(MOVE)?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn b7_wire_dead_and_later_a_hang() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    stage.array.interconnect(Cable::Cut)?;
    wait_locked(&stage)?;
    let hung = stage.array.hang(A, true)?;
    stage.wait_taken(B, alpha)?;
    stage.array.interconnect(Cable::Whole)?;
    stage.wait_progress(100, MOVE + BOOT)?;
    stage.judge(hung.began_ns)?.expect_clean();
    Ok(())
}
