//! Waiting for a state of the array, until somebody interrupts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use pollux_wait::End;

pub use pollux_wait::last as pause;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait end with [`Error::Interrupted`]. For a signal handler's thread.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Release);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Time between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Asks `probe` until it yields a value. What it says instead (`Err`) is what a late wait reports.
pub fn wait_for<T>(
    what: &str,
    bound: Duration,
    probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    pollux_wait::until(bound, STEP, interrupted, probe).map_err(|end| match end {
        End::Stopped => Error::Interrupted,
        End::Late { waited, seen } => Error::Late {
            what: what.to_owned(),
            waited_ms: waited.as_millis() as u64,
            seen,
        },
    })
}

/// A condition as a probe.
pub fn that(condition: bool, otherwise: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
