//! Waiting for a state, with a bound and without hope.

use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// Time between two looks. A virtual machine has so little of the processor that a faster look would slow it down.
const STEP: Duration = Duration::from_millis(200);

/// Asks `probe` until it yields a value. What it says instead (`Err`) is what a late wait reports.
///
/// # Errors
/// [`Error::Late`] once `bound` is over.
pub fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if start.elapsed() >= bound {
            return Err(Error::Late {
                what: what.to_owned(),
                waited_ms: bound.as_millis() as u64,
                seen,
            });
        }
        std::thread::sleep(STEP);
    }
}

/// Lets a fault last: its length is part of the case, nothing is hoped for meanwhile.
pub fn last(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_wait_says_what_it_saw() {
        let mut n = 0;
        let late = wait_for::<()>("a thing", Duration::from_millis(30), || {
            n += 1;
            Err(format!("only {n}"))
        });
        let text = late.expect_err("never true").to_string();
        assert!(text.contains("a thing") && text.contains("only"), "{text}");
    }
}
