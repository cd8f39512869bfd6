//! Fault matrix, K: controllers that go down in good order, and both that come back in any order, or one without the other.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pollux_api::chassis::PowerAction;
use pollux_api::heartbeat::Status;
use pollux_api::id::ControllerId::{self, A, B};
use pollux_host::time::now_ns;
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

/// The command ends well, and then the machine of that controller goes: on the chassis nobody but the test takes it down.
fn goes(stage: &Stage, arguments: &[&str], which: &[ControllerId]) -> Result<()> {
    let (code, said) = stage.pollux(arguments, "");
    assert_eq!(code, Some(0), "{said}");
    for at in which {
        assert!(
            said.contains(&format!("controller {at} has left in good order")),
            "{said}"
        );
        let word = stage.array.directory().join(at.as_str()).join("run/machine");
        // The command ends when the good-bye stands, and the machine is told after that.
        let told = wait_for("the machine is told", MOVE, || {
            std::fs::read_to_string(&word).map_err(|error| format!("{}: {error}", word.display()))
        })?;
        assert_eq!(told, "off\n");
    }
    for at in which {
        stage.array.power(*at, PowerAction::Off)?;
    }
    Ok(())
}

fn wait_serves_all(stage: &Stage, at: ControllerId) -> Result<()> {
    for pool in &stage.pools {
        stage.wait_taken(at, pool.id)?;
    }
    Ok(())
}

fn fences(stage: &Stage, at: ControllerId) -> std::result::Result<Vec<String>, String> {
    let incidents = stage.array.timeline(at).map_err(|error| error.to_string())?;
    let takeovers = incidents
        .into_iter()
        .filter(|incident| incident.kind == "takeover");
    Ok(takeovers.map(|incident| format!("{incident:?}")).collect())
}

#[test]
fn k1_one_leaves_and_its_partner_waits_for_no_death() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let start = now_ns();
    // Nothing but the word may prove it.
    stage.array.bmc(B, false)?;
    let (code, said) = stage.pollux(&["--on", "a", "shutdown", "--dry-run"], "");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("give 1 pools to controller b") && said.contains("nothing was done"),
        "{said}"
    );
    let (code, said) = stage.pollux(&["--on", "a", "shutdown"], "");
    assert_eq!(code, Some(2), "without a terminal it has to be said: {said}");
    let (code, said) = stage.pollux(&["--on", "a", "shutdown", "--yes"], "");
    assert_eq!(code, Some(0), "{said}");
    // It is alone while a's machine still runs: nobody has died.
    let left = Instant::now();
    wait_for("b is a member alone", MOVE, || {
        let status: Status = stage.array.heartbeat(B)?;
        let members = status.epoch.map(|record| record.members.len());
        that(members == Some(1), || format!("{members:?}"))
    })?;
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    wait_serves_all(&stage, B)?;
    // The other one stays up where nobody else would serve.
    let (code, said) = stage.pollux(&["--on", "b", "shutdown", "--yes"], "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 pools would not be served"), "{said}");
    stage.array.power(A, PowerAction::Reset)?;
    stage.array.heal()?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.judge(start)?.expect_clean();
    Ok(())
}

fn both_leave_and_come_back(first: ControllerId) -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let start = now_ns();
    goes(&stage, &["shutdown", "--yes", "--reason", "test"], &[B, A])?;
    stage.array.power(first, PowerAction::On)?;
    wait_serves_all(&stage, first)?;
    let taken = wait_for("the timeline", MOVE, || fences(&stage, first))?;
    assert!(
        !taken.iter().any(|one| one.contains("power confirmed")),
        "{taken:?}"
    );
    stage.array.power(first.partner(), PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.judge(start)?.expect_clean();
    Ok(())
}

#[test]
fn k2_both_leave_and_the_first_to_go_comes_back_first() -> Result<()> {
    both_leave_and_come_back(B)
}

#[test]
fn k2_both_leave_and_the_last_to_go_comes_back_first() -> Result<()> {
    both_leave_and_come_back(A)
}

#[test]
fn k3_after_a_power_cut_of_both_either_comes_back_first() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let start = now_ns();
    for first in [A, B] {
        stage.array.power(A, PowerAction::Off)?;
        stage.array.power(B, PowerAction::Off)?;
        stage.array.power(first, PowerAction::On)?;
        wait_serves_all(&stage, first)?;
        stage.array.power(first.partner(), PowerAction::On)?;
        stage.array.wait_joined(MOVE + BOOT)?;
    }
    stage.judge(start)?.expect_clean();
    Ok(())
}

/// What the unit pollux-leave does when the daemons are stopped, killed half-way.
#[test]
fn k4_a_leave_that_is_killed_goes_on_and_the_next_one_finds_its_end() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let start = now_ns();
    // Nothing but the word may prove it.
    stage.array.bmc(B, false)?;
    let own = stage.array.directory().join("a");
    let mut leave = Command::new(stage.array.programs().pollux())
        .arg("--controller")
        .arg(&own)
        .arg("leave")
        .stdin(Stdio::null())
        .spawn()
        .expect("the operator's command starts");
    let state = |stage: &Stage| -> std::result::Result<String, String> {
        let status: Status = stage.array.heartbeat(A)?;
        Ok(status.state)
    };
    let begun = wait_for("a has begun to leave", MOVE, || {
        let state = state(&stage)?;
        that(state != "serving" && state != "holding", || state)
    });
    leave.kill().expect("it is ours");
    leave.wait().expect("it is ours");
    begun?;
    wait_for("a has left", MOVE, || {
        let state = state(&stage)?;
        that(state == "left", || state)
    })?;
    wait_serves_all(&stage, B)?;
    let taken = wait_for("the timeline", MOVE, || fences(&stage, B))?;
    assert!(!taken.iter().any(|one| one.contains("; fencing a")), "{taken:?}");
    let word = own.join("run/machine");
    assert!(!word.exists(), "nobody asked for the machine to go");
    let own = own.to_str().expect("a path of the test's own");
    let output = Command::new(stage.array.programs().pollux())
        .args(["--controller", own, "leave"])
        .output()
        .expect("the operator's command starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("left already"), "{said}");
    stage.array.power(A, PowerAction::Reset)?;
    stage.array.heal()?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.judge(start)?.expect_clean();
    Ok(())
}
