//! Fault matrix, A: a controller, or a part of one, dies.

use std::time::Duration;

use pollux_api::chassis::{DaemonAction, PowerAction};
use pollux_api::id::ControllerId::{A, B};
use pollux_host::time::now_ns;
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE, Rig};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{pause, that, wait_for};

/// Waits until somebody serves every pool, whoever it is, and the host's writes flow.
fn wait_served(rig: &Rig) -> Result<()> {
    for pool in &rig.pools {
        wait_for(&format!("somebody serves {}", pool.name), MOVE + BOOT, || {
            rig.array
                .serves(A, pool.id)
                .or_else(|a| rig.array.serves(B, pool.id).map_err(|b| format!("{a}; {b}")))
        })?;
    }
    rig.wait_progress(50, MOVE)
}

#[test]
fn a1_power_cut_of_the_owner() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let cut = stage.array.power(A, PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    // The dead portal refuses instead of being silent, and is a's own again as soon as a is back.
    stage.array.wait_stand_in(B, true, MOVE)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.array.wait_stand_in(B, false, MOVE)?;
    wait_for("the host is back on a's own portal", MOVE, || {
        let target = stage.array.target(A)?;
        that(!target.sessions.is_empty(), || format!("{target:?}"))
    })?;
    let judgement = stage.judge(cut.began_ns)?;
    judgement.expect_clean();
    eprintln!("pause: {:?}", judgement.pause);
    Ok(())
}

#[test]
fn a3_hang_with_power_fence() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let hung = stage.array.hang(A, true)?;
    stage.wait_taken(B, alpha)?;
    let judgement = stage.judge(hung.began_ns)?;
    judgement.expect_clean();
    eprintln!("pause: {:?}", judgement.pause);
    Ok(())
}

#[test]
fn a3_hang_without_power_fence_and_watchdog_and_let_go_later() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    stage.array.bmc(B, false)?;
    stage.array.watchdog(A, false)?;
    let hung = stage.array.hang(A, true)?;
    stage.wait_taken(B, alpha)?;
    // The zombie wakes with commands in its hands and a lease that ran out long ago.
    stage.array.hang(A, false)?;
    wait_for("a notices by itself that it was replaced", MOVE, || {
        that(stage.array.serves(A, alpha).is_err(), || {
            "a still says that it serves alpha".into()
        })
    })?;
    stage.wait_progress(200, MOVE)?;
    // It starts itself again. Only then: its partner has never seen a fence work, and would cut what it can reach again.
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.array.heal()?;
    stage.judge(hung.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn a4_heartbeat_alone_stopped_while_the_target_lives() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    // Nothing but the lease may keep a's target from answering.
    stage.array.bmc(B, false)?;
    stage.array.watchdog(A, false)?;
    let stopped = stage.array.daemon(A, "heartbeatd", DaemonAction::Stop)?;
    wait_for("the lease of a runs out", MOVE, || {
        let target = stage.array.target(A)?;
        that(!target.lease_fresh, || "still fresh".into())
    })?;
    stage.wait_taken(B, alpha)?;
    stage.array.daemon(A, "heartbeatd", DaemonAction::Continue)?;
    stage.wait_progress(200, MOVE)?;
    // It starts itself again. Only then: its partner has never seen a fence work, and would cut what it can reach again.
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.array.heal()?;
    stage.judge(stopped.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn a5_sigkill_of_each_daemon() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let epoch = |rig: &Rig| -> std::result::Result<_, String> {
        Ok(rig.array.heartbeat(A)?.epoch.map(|record| record.epoch))
    };
    let before = wait_for("heartbeat tells the epoch", BOOT, || epoch(&stage))?;
    let start = now_ns();
    for controller in [A, B] {
        for daemon in pollux_chassis::DAEMONS {
            stage.array.daemon(controller, daemon, DaemonAction::Kill)?;
            wait_for(&format!("{controller}/{daemon} is back"), BOOT, || {
                stage.array.daemons_ready()
            })?;
            stage.wait_progress(50, MOVE)?;
            for pool in &stage.pools {
                stage.array.wait_owner(pool.home, pool.id, MOVE)?;
            }
        }
    }
    let after = wait_for("heartbeat tells the epoch", BOOT, || epoch(&stage))?;
    assert_eq!(before, after, "a daemon that dies is not a controller that dies");
    for at in [A, B] {
        let incidents = stage.array.timeline(at).expect("heartbeat answers");
        let takeovers: Vec<_> = incidents
            .iter()
            .filter(|incident| incident.kind == "takeover")
            .collect();
        assert!(takeovers.is_empty(), "{takeovers:?}");
    }
    stage.judge(start)?.expect_clean();
    Ok(())
}

#[test]
fn a9_reboot_faster_than_detection() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let reset = stage.array.power(A, PowerAction::Reset)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_served(&stage)?;
    stage.judge(reset.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn a11_both_at_once() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let off = stage.array.power(A, PowerAction::Off)?;
    stage.array.power(B, PowerAction::Off)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.power(B, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_served(&stage)?;
    stage.judge(off.began_ns)?.expect_clean();
    Ok(())
}

/// The taker loses its power so long after the owner did: before detection, in arbitration,
/// fencing, import, publication, and after it.
const DEATHS_MS: [u64; 6] = [0, 20, 60, 150, 400, 1500];

#[test]
fn a12_death_of_the_taker_in_each_phase() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let start = now_ns();
    for delay in DEATHS_MS {
        stage.array.power(A, PowerAction::Off)?;
        pause(Duration::from_millis(delay));
        stage.array.power(B, PowerAction::Off)?;
        stage.array.power(B, PowerAction::On)?;
        stage.array.power(A, PowerAction::On)?;
        stage.array.wait_joined(MOVE + BOOT)?;
        wait_served(&stage)?;
    }
    stage.judge(start)?.expect_clean();
    Ok(())
}

#[test]
fn a12_death_of_the_takers_daemons_in_a_takeover() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let start = now_ns();
    for daemon in [
        "heartbeatd",
        "pool-managerd",
        "block-targetd",
        "config-keeperd",
        "rpc-routerd",
    ] {
        for pool in stage.pools.clone() {
            stage.array.wait_owner(pool.home, pool.id, MOVE + BOOT)?;
        }
        stage.array.power(A, PowerAction::Off)?;
        stage.array.daemon(B, daemon, DaemonAction::Kill)?;
        stage.wait_taken(B, alpha)?;
        stage.array.power(A, PowerAction::On)?;
        stage.array.wait_joined(MOVE + BOOT)?;
        // Automatic giveback may be under way; asking for it again is no harm.
        let back = wait_for("alpha goes home", MOVE + BOOT, || {
            stage.array.serves(A, alpha).map_err(|seen| {
                let asked = stage.array.giveback(B).map_err(|err| err.to_string());
                format!("{seen}; asked: {asked:?}")
            })
        });
        back?;
        stage.wait_progress(50, MOVE)?;
    }
    stage.judge(start)?.expect_clean();
    Ok(())
}
