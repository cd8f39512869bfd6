//! `rpc-routerd`: the switchboard of one controller, and its line to the partner's.
//!
//! Services and people plug into one unix socket; who wants something of somebody says so in JSON-RPC, and the
//! switchboard connects them, here or on the other controller. It notes who asked whom for what under which action,
//! so that every effect has a path back to its cause.
//!
//! * [`routing`]: the decisions, without I/O; [`pending`]: calls on their way; [`trace`]: the book;
//!   [`discover`]: the directory; [`actions`]: long work.
//! * [`server`]: the local socket; [`web`]: WebSocket and the management address; [`link`]: the line to the partner.
//!
//! It must never be on the data path, and nothing that keeps data safe may wait for it: heartbeat's wire, its quorum
//! area and the lease work without it. Killed, it comes back empty; services register again.

#![forbid(unsafe_code)]

pub mod actions;
pub mod discover;
pub mod link;
pub mod pending;
pub mod routing;
pub mod server;
pub mod trace;
pub mod web;
