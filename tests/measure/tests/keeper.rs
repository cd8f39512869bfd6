//! The stopwatch of the keeper: what it measures here is how little there is to measure.

use pollux_measure::keeper::report::{markdown, svg};
use pollux_measure::keeper::{ARRAY, FLOOR, Plan, SYSTEMS, THREE, measure};
use pollux_measure::process::children;
use std::time::Duration;

/// Every system that can run here answers every change (anything else is an error) and has a sample of each round;
/// every other one is named with the reason; and nothing outlives the measurement, no process and no data.
#[test]
fn every_system_is_measured_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        rounds: 2,
        time: Duration::from_millis(60),
        scales: vec![3, 40],
        missed: vec![2],
        patience: Duration::from_secs(30),
    };
    let outcome = measure(&plan, &SYSTEMS, folder.path(), |_| ()).unwrap();
    for system in SYSTEMS {
        let missing = outcome.missing.iter().find(|missing| missing.system == system);
        if let Some(missing) = missing {
            // Daemons and etcd need not be here. What is here must work.
            let absent = missing.why.contains("is not there") || missing.why.contains("start etcd");
            assert!(absent && system != FLOOR, "{missing:?}");
            continue;
        }
        for objects in [3, 40] {
            let measured = outcome.of(system, objects).unwrap();
            assert_eq!(measured.samples.len(), plan.rounds, "{system}");
            for sample in &measured.samples {
                assert!(
                    sample.p50_us > 0.0 && sample.p50_us <= sample.p99_us,
                    "{sample:?}"
                );
                assert!(sample.calls_per_s > 0.0 && sample.cpu_us > 0.0, "{sample:?}");
            }
        }
        if [ARRAY, THREE].contains(&system) {
            let back = outcome.back(system, 2).unwrap();
            assert!(
                back.took.len() == 2 && back.took.iter().all(|took| *took > 0.0),
                "{back:?}"
            );
        }
    }
    let left = children(std::process::id());
    assert!(left.is_empty(), "processes that were not ended: {left:?}");
    let data: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(data.is_empty(), "data that was left: {data:?}");
    let text = markdown(&outcome, "here");
    for line in ["## 3 objects", "| floor |", "| 1 writer, p50 | floor |"] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert!(svg(&outcome, "here").contains("changes/s, 40 objects"));
}
