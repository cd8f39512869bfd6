//! Fault matrix, D: fencing.

use std::time::Duration;

use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{pause, wait_for};

#[test]
fn d4_both_wake_and_want_to_preempt_at_once() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    // Without power control only the ballots and the reservations can keep them apart.
    for controller in [A, B] {
        stage.array.bmc(controller, false)?;
        stage.array.watchdog(controller, false)?;
    }
    let hung = stage.array.hang(A, true)?;
    stage.array.hang(B, true)?;
    // The length of the fault: beyond every limit, so that each finds the other dead when it wakes.
    pause(Duration::from_secs(12));
    stage.array.hang(A, false)?;
    stage.array.hang(B, false)?;
    for pool in stage.pools.clone() {
        wait_for(&format!("somebody serves {}", pool.name), MOVE + BOOT, || {
            let array = &stage.array;
            array
                .serves(A, pool.id)
                .or_else(|a| array.serves(B, pool.id).map_err(|b| format!("{a}; {b}")))
        })?;
    }
    stage.wait_progress(100, MOVE)?;
    // It starts itself again. Only then: its partner has never seen a fence work, and would cut what it can reach again.
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.array.heal()?;
    stage.judge(hung.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn d5_the_owner_loses_its_cable_to_the_shelf() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let pulled = stage.array.disk_path(A, None, false)?;
    stage.wait_taken(B, alpha)?;
    stage.array.disk_path(A, None, true)?;
    stage.wait_progress(100, MOVE)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.judge(pulled.began_ns)?.expect_clean();
    Ok(())
}
