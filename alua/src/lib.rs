//! `aluad`: which path to a volume is optimized.
//!
//! Think of the signs over the two counters of a shop. Whoever runs the shop (heartbeat) says where the stock is;
//! the sign painter works out what both signs must say, has the counters stop serving where that is needed, swaps
//! the signs, and looks every now and then whether somebody has taken one down.
//!
//! ```text
//!  heartbeat --alua.set--> core: role -> states of both groups, backing --> Target trait --> block target
//!                            ^                                                   |
//!                            +------------------ reconcile <---------------------+
//! ```
//!
//! Invariants: an older claim never replaces a newer one; for one claim the two controllers never both call
//! themselves optimized ([`pollux_alua_core::plan`] takes the role, of which there is one owner); what was last asked survives a
//! crash of this daemon, and is driven again into a target that has lost it.
//!
//! It must never decide a role by itself, and never end a hold that heartbeat has asked for.

#![forbid(unsafe_code)]

pub mod drive;
pub mod service;
