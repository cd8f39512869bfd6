//! Fault matrix, I: planned moves.

use pollux_api::id::ControllerId::{self, A, B};
use pollux_host::time::now_ns;
use pollux_pair::Result;
use pollux_pair::rig::MOVE;
use pollux_pair::stage::Stage;
use pollux_pair::wait::wait_for;
use std::collections::BTreeSet;

#[test]
fn i1_switchover_and_giveback_under_load() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let start = now_ns();
    for _ in 0..3 {
        let accepted = stage.array.switchover(A, alpha).expect("a healthy pool may move");
        assert_eq!(accepted.pools, [alpha]);
        stage.wait_taken(B, alpha)?;
        stage
            .array
            .giveback(B)
            .expect("a pool away from home may go home");
        stage.wait_taken(A, alpha)?;
    }
    // Each controller keeps its half of a move, under the same action; and no two moves are one.
    let released = halves(&stage, A, "release");
    assert_eq!(released.len(), 3, "three times it went: {released:?}");
    let imported = halves(&stage, B, "import");
    for action in &released {
        assert!(imported.contains(action), "{action} is not among {imported:?}");
    }
    let judgement = stage.judge(start)?;
    judgement.expect_clean();
    eprintln!("pause: {:?}", judgement.pause);
    Ok(())
}

/// The actions of the incidents of a controller that have such a phase, each once.
fn halves(stage: &Stage, at: ControllerId, phase: &str) -> BTreeSet<String> {
    let told = stage.array.timeline(at).expect("heartbeat answers");
    let with = told
        .into_iter()
        .filter(|incident| incident.phases.iter().any(|known| known.name == phase));
    with.map(|incident| incident.action_id).collect()
}

#[test]
fn i2_abort_before_the_point_of_no_return() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let start = now_ns();
    for _ in 0..3 {
        stage.array.switchover(A, alpha).expect("a healthy pool may move");
        // Either it comes in time, or it is refused because the claim has been given already.
        let aborted = stage.array.abort(A, alpha);
        let at = wait_for("alpha is served by exactly one", MOVE, || {
            let (a, b) = (stage.array.serves(A, alpha), stage.array.serves(B, alpha));
            match (a, b) {
                (Ok(()), Err(_)) => Ok(A),
                (Err(_), Ok(())) => Ok(B),
                other => Err(format!("{other:?}")),
            }
        })?;
        if aborted.is_err() {
            assert_eq!(at, B, "a refused abort lets the move go on: {aborted:?}");
        }
        stage.wait_progress(50, MOVE)?;
        if at == B {
            stage
                .array
                .giveback(B)
                .expect("a pool away from home may go home");
            stage.wait_taken(A, alpha)?;
        }
    }
    stage.judge(start)?.expect_clean();
    Ok(())
}
