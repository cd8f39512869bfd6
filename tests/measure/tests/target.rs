//! The stopwatches that need a whole array: short, with as little of everything as there can be.

use pollux_measure::process::children;
use pollux_measure::takeover::{self, Scale};
use pollux_measure::target::{self, CACHED, ONE, SYSTEMS, TGTD, WORKLOADS};
use pollux_runtime::Profile;
use std::path::Path;
use std::time::Duration;

/// What of an array is not there: daemons that nobody has built, or a kernel that gives no namespaces.
fn cannot_run(why: &str) -> bool {
    [
        "build them first",
        "may not create namespaces",
        "cannot be opened",
    ]
    .iter()
    .any(|reason| why.contains(reason))
}

fn left() -> Vec<u32> {
    children(std::process::id())
}

/// Every system that can run here answers every command with GOOD and the data that was written (anything else is an
/// error) and has a sample of each round; every other one is named with the reason; and nothing outlives the measurement.
#[test]
fn every_system_is_measured_or_named() {
    let folder = tempfile::Builder::new().prefix("px-").tempdir().unwrap();
    let plan = target::Plan {
        rounds: 2,
        time: Duration::from_millis(60),
        volume_bytes: 16 << 20,
        data: folder.path().to_owned(),
    };
    let outcome = match target::measure(&plan, &SYSTEMS, |_| ()) {
        Ok(outcome) => outcome,
        Err(error) if cannot_run(&error.to_string()) => return eprintln!("SKIPPED: {error}"),
        Err(error) => panic!("{error}"),
    };
    for system in SYSTEMS {
        if let Some((_, why)) = outcome.missing.iter().find(|(missing, _)| *missing == system) {
            // tgtd need not be here. What is here must work.
            let absent = why.contains("Debian package tgt");
            assert!(absent && [TGTD, CACHED].contains(&system), "{system}: {why}");
            continue;
        }
        for place in 0..WORKLOADS.len() {
            let measured = outcome.of(system, place).unwrap();
            assert_eq!(measured.samples.len(), plan.rounds, "{system}");
            for (sample, parts) in measured.samples.iter().zip(&measured.parts) {
                assert!(
                    sample.p50_us > 0.0 && sample.p50_us <= sample.p99_us,
                    "{sample:?}"
                );
                assert!(sample.calls_per_s > 0.0 && sample.cpu_us > 0.0, "{sample:?}");
                let array = ![TGTD, CACHED].contains(&system);
                assert_eq!(parts.pool > 0.0 && parts.disks > 0.0, array, "{parts:?}");
            }
        }
    }
    assert!(outcome.of(ONE, 0).is_some(), "{:?}", outcome.missing);
    assert!(left().is_empty(), "processes that were not ended: {:?}", left());
    assert_empty(folder.path());
}

/// A takeover is measured and taken apart, nothing is lost, and the floor is below it.
#[test]
fn a_takeover_is_measured_and_taken_apart() {
    let folder = tempfile::Builder::new().prefix("px-").tempdir().unwrap();
    let plan = takeover::Plan {
        rounds: 1,
        scales: vec![Scale { pools: 1, volumes: 2 }],
        profile: Profile::Ci,
        fault: takeover::Fault::Power,
        data: folder.path().to_owned(),
    };
    let outcome = takeover::measure(&plan, |_| ()).unwrap();
    for (what, why) in &outcome.missing {
        if cannot_run(why) || why.contains("Debian package tgt") {
            eprintln!("SKIPPED: {what}: {why}");
        } else {
            panic!("{what}: {why}");
        }
    }
    for measured in &outcome.measured {
        let take = &measured.takes[0];
        assert!(take.pause > 0.0 && take.resumed > 0.0, "{take:?}");
        for phase in ["detect", "fence", "import", "publish", "optimize"] {
            let (from, to) = take.phases[phase];
            assert!(from <= to, "{phase}: {take:?}");
            // The host may hear that its path is optimized before heartbeat hears that it was told.
            let before = if phase == "optimize" { from } else { to };
            assert!(before <= take.resumed, "{phase}: {take:?}");
        }
    }
    if let ([floor], [measured]) = (&outcome.floor[..], &outcome.measured[..]) {
        let (_, noticed) = measured.takes[0].phases["detect"];
        assert!(*floor >= noticed, "{floor} ms");
    }
    assert!(left().is_empty(), "processes that were not ended: {:?}", left());
    assert_empty(folder.path());
}

fn assert_empty(folder: &Path) {
    let data: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(data.is_empty(), "data that was left: {data:?}");
}
