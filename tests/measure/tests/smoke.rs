//! The stopwatch itself: what it measures here is how little there is to measure.

use pollux_measure::report::markdown;
use pollux_measure::router::{FLOOR, FLOOR_OF_TWO, Plan, measure};
use std::time::Duration;

/// Every call is answered with what was sent (anything else is an error), times and calls fit each other, and nothing
/// outlives the measurement.
#[test]
fn floors_answer_every_call_and_are_measured() {
    let plan = Plan {
        rounds: 2,
        time: Duration::from_millis(60),
    };
    let outcome = measure(plan, &[FLOOR, FLOOR_OF_TWO], |_| ()).unwrap();
    assert!(outcome.missing.is_empty(), "{:?}", outcome.missing);
    assert_eq!(outcome.measured.len(), 2);
    for measured in &outcome.measured {
        for samples in &measured.samples {
            assert_eq!(samples.len(), plan.rounds);
            for sample in samples {
                assert!(
                    sample.p50_us > 0.0 && sample.p50_us <= sample.p99_us,
                    "{sample:?}"
                );
                assert!(sample.calls_per_s > 0.0 && sample.cpu_us > 0.0, "{sample:?}");
            }
        }
    }
    let left = pollux_measure::process::children(std::process::id());
    assert!(left.is_empty(), "processes that were not ended: {left:?}");
    assert!(markdown(&outcome, "here").contains("| two forwarders |"));
}
