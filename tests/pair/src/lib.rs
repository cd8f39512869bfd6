//! The pair under test: shipped daemons, a real initiator, a fault in the middle, and the audits
//! that say whether every promise was kept.
//!
//! Think of a crash test. The car is the one that is sold ([`array`]); the wall is the front panel;
//! the dummies are [`pollux_host`], which believes nobody; afterwards assessors who were not in the
//! car look at what the cameras saw ([`audit`], [`exclusion`]). A [`rig::Rig`] is one such test,
//! built, loaded, and judged; `pollux-demo` and every test under `tests/` are made of it.
//!
//! Invariants: safety decides, pauses are reported; a wait has a bound and says what it saw; what
//! is started is ended, also on an error.
//!
//! Must never: judge by what the array says of itself where somebody else saw it.

#![forbid(unsafe_code)]
#![allow(
    clippy::result_large_err,
    reason = "a refusal is carried as it came; these calls are rare"
)]

pub mod array;
pub mod audit;
pub mod demo;
pub mod error;
pub mod exclusion;
pub mod liar;
pub mod programs;
pub mod rig;
pub mod stage;
pub mod wait;

pub use error::{Error, Result};
