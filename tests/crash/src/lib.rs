//! `cargo crash`: two keepers that die at every point of their work, ten thousand times.
//!
//! Picture two clerks who share a ledger, and somebody who shoots one or both of them at a moment of his choice, in
//! the middle of a word. Each time they are replaced, the new ones read what stands in the books, and an auditor
//! compares it with everything that was ever promised.
//!
//! | here | in the array |
//! |---|---|
//! | [`child`]: core, store and thread of the store as they are shipped | `config-keeperd` |
//! | the disk under its SQLite: forgets what was not flushed ([`pollux_platform::unsynced`]) | boot disk and power cut |
//! | [`Play`], over pipes: carries calls, decides epochs by the rules of membership | routers, link, heartbeat |
//! | a named place in the work, and how often it is passed before the process kills itself | bad luck |
//!
//! The daemon itself is not started: it would need routers, keys and heartbeat of both controllers for each of its
//! lives, some hundred milliseconds each; its loop around the core is played by the child, call by call.
//!
//! Invariants, audited after each cycle on both books:
//! * every change that was acknowledged is there, at its index, with its hash;
//! * both logs are one hash chain; tables are what the log amounts to; SQLite finds nothing wrong;
//! * the same action, asked again, gets the same answer.
//!
//! Never: a decision that depends on how long something took; a kill of a process that this one did not start.

#![forbid(unsafe_code)]

pub mod child;
mod link;
mod play;
mod wire;

pub use play::{Fault, Options, Outcome, Play, run};
