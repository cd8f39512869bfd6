//! The configuration of the array, the same on both controllers.
//!
//! Two clerks keep one ledger in two books. One of them, the sequencer, numbers the lines; a line counts once it
//! stands in both books, or once the epoch's record says that the clerk is alone.
//!
//! | part | what it is |
//! |---|---|
//! | `core` | decisions, in a crate of their own: plans, the log, sessions, epochs, freeze, catch-up. Pure. |
//! | [`store`] | one SQLite database: log and tables in one transaction, commits in groups |
//! | [`seal`] | secrets, which stand in the database sealed |
//! | [`service`] | the methods at the router; carries effects out |
//!
//! Invariants stand in [`pollux_config_core::keeper`]. The daemon must never: acknowledge what is not durable where it must be;
//! open another keeper's database; decide who is a member (heartbeat does); keep a takeover waiting.

#![forbid(unsafe_code)]

pub mod seal;
pub mod service;
pub mod store;
