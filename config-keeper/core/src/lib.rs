//! Decisions without I/O: what a keeper does at each event.
//!
//! | part | what it is |
//! |---|---|
//! | [`plan`] | what a change does to the tables, or every reason why it may not |
//! | [`book`] | the tables with a register of names and of who refers to whom |
//! | [`compacted`] | the beginning of a log whose first entries are gone |
//! | [`log`] | the hash chain: one length and one hash are one history |
//! | [`keeper`] | sessions, epochs, freeze, catch-up. Invariants stand here. |
//! | [`reads`] | who may answer a reader, and on whose word |
//!
//! Nothing in here knows a clock, a socket, a file or a thread. The same code runs under the daemon, in the simulator,
//! and under the tests that crash it at every step.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod book;
pub mod compacted;
pub mod keeper;
pub mod log;
pub mod plan;
pub mod reads;
