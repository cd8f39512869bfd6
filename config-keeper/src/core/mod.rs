//! Decisions without I/O: what a keeper does at each event.
//!
//! Nothing in here knows a clock, a socket, a file or a thread. The same code runs under the daemon and under the
//! tests that crash it at every step.

pub mod keeper;
pub mod log;
pub mod plan;
