//! Waiting for a state, with a bound and without hope: what the tests of whole arrays share.
//!
//! A state is asked for again and again; what was seen instead is told when the time is over. Nobody waits for a time to
//! pass and hopes that the state has come.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Why a wait has ended without the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time is over.
    Late {
        /// The bound.
        waited: Duration,
        /// What was there instead.
        seen: String,
    },
    /// Whoever runs this wants to stop.
    Stopped,
}

/// Asks `probe` until it yields a value; what it says instead (`Err`) is what a late wait reports. It is asked at least
/// once, then after each `step`; `stopped` is asked as often.
///
/// # Errors
/// [`End::Late`] once `bound` is over.
pub fn until<T>(
    bound: Duration,
    step: Duration,
    stopped: impl Fn() -> bool,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, End> {
    let start = Instant::now();
    loop {
        let seen = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if stopped() {
            return Err(End::Stopped);
        }
        if start.elapsed() >= bound {
            return Err(End::Late { waited: bound, seen });
        }
        last(step);
    }
}

/// Lets a fault last: its length is part of the case, nothing is hoped for meanwhile.
pub fn last(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(1);

    #[test]
    fn a_late_wait_says_what_it_saw_last() {
        let mut asked = 0;
        let bound = Duration::from_millis(20);
        let late = until::<()>(
            bound,
            STEP,
            || false,
            || {
                asked += 1;
                Err(format!("only {asked}"))
            },
        );
        let seen = format!("only {asked}");
        assert_eq!(late, Err(End::Late { waited: bound, seen }));
        assert!(asked > 1);
    }

    #[test]
    fn it_is_asked_once_at_least_and_ends_when_told_to() {
        assert_eq!(until(Duration::ZERO, STEP, || true, || Ok(1)), Ok(1));
        let stopped = until::<()>(Duration::MAX, STEP, || true, || Err("never".to_owned()));
        assert_eq!(stopped, Err(End::Stopped));
    }
}
