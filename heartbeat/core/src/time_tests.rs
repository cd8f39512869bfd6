use super::*;
use alloc::string::ToString;

const MS: Duration = Duration::from_millis(1);

#[test]
fn instants_and_spans_fit_together() {
    let at = Instant::from_nanos(5_000_000);
    assert_eq!(at.as_nanos(), 5_000_000);
    assert_eq!(at + MS, Instant::from_nanos(6_000_000));
    assert_eq!((at + MS).since(at), MS);
    assert_eq!(
        at.since(at + MS),
        Duration::ZERO,
        "what is later is no span before"
    );
    assert_eq!((at + MS).before(MS), at);
    let mut moved = at;
    moved += MS;
    assert_eq!(moved, at + MS);
    *moved.number() = 7;
    assert_eq!(moved, Instant::from_nanos(7));
}

#[test]
fn no_span_runs_over_the_ends_of_the_clock() {
    let at = Instant::from_nanos(5);
    assert_eq!(at.before(MS), Instant::ZERO);
    assert_eq!(at + Duration::MAX, Instant::from_nanos(u64::MAX));
}

#[test]
fn an_instant_is_shown_in_seconds() {
    assert_eq!(Instant::from_nanos(1_000_002_000).to_string(), "1.000002 s");
    assert_eq!(Instant::from_nanos(61_500_000_999).to_string(), "61.500000 s");
}
