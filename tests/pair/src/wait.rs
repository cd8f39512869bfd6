//! Waiting for a state, with a bound and without hope.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait end with [`Error::Interrupted`]. For a signal handler's thread.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Release);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Asks `probe` until it yields a value. What it says instead (`Err`) is what a late wait reports.
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
        if interrupted() {
            return Err(Error::Interrupted);
        }
        if start.elapsed() >= bound {
            let waited_ms = bound.as_millis() as u64;
            return Err(Error::Late {
                what: what.to_owned(),
                waited_ms,
                seen,
            });
        }
        pause(Duration::from_millis(10));
    }
}

/// Lets a fault last: its length is part of the scenario, nothing is hoped for meanwhile. (Also the
/// step of [`wait_for`], which looks again and has a bound.)
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// A condition as a probe.
pub fn that(condition: bool, otherwise: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
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
        assert!(matches!(
            wait_for("now", Duration::ZERO, || Ok::<_, String>(1)),
            Ok(1)
        ));
    }
}
