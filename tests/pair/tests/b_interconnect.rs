//! Fault matrix, B: the interconnect.

use pollux_api::chassis::Cable;
use pollux_api::config::Op;
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;

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
    stage.wait_alarm("leg_down", true)?;
    stage.wait_progress(200, MOVE)?;
    stage.array.wait_joined(MOVE)?;
    stage.nothing_moved()?;
    stage.array.leg(0, Cable::Whole)?;
    stage.wait_alarm("leg_down", false)?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn b2_both_legs_lock_refuse_and_unlock() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.interconnect(Cable::Cut)?;
    stage.wait_locked()?;
    stage.wait_progress(200, MOVE)?;
    stage.nothing_moved()?;
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
    stage.nothing_moved()?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn b3_one_way() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let cut = stage.array.interconnect(Cable::OnlyAToB)?;
    stage.wait_locked()?;
    stage.wait_progress(200, MOVE)?;
    stage.nothing_moved()?;
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
    stage.wait_locked()?;
    let hung = stage.array.hang(A, true)?;
    stage.wait_taken(B, alpha)?;
    stage.array.interconnect(Cable::Whole)?;
    stage.wait_progress(100, MOVE + BOOT)?;
    stage.judge(hung.began_ns)?.expect_clean();
    Ok(())
}
