//! Waiting for a state of the lab.

use crate::error::{Error, Result};
use pollux_wait::End;
use std::time::Duration;

pub use pollux_wait::last;

/// Time between two looks. A virtual machine has so little of the processor that a faster look would slow it down.
const STEP: Duration = Duration::from_millis(200);

/// Asks `probe` until it yields a value. What it says instead (`Err`) is what a late wait reports.
///
/// # Errors
/// [`Error::Late`] once `bound` is over.
pub fn wait_for<T>(
    what: &str,
    bound: Duration,
    probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let seen = match pollux_wait::until(bound, STEP, || false, probe) {
        Ok(value) => return Ok(value),
        Err(End::Late { seen, .. }) => seen,
        Err(End::Stopped) => "nothing: nobody stops it".to_owned(),
    };
    Err(Error::Late {
        what: what.to_owned(),
        waited_ms: bound.as_millis() as u64,
        seen,
    })
}
