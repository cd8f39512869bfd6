//! The decision core of heartbeat: who is alive, who may serve, and what has to happen next.
//!
//! Two watch-keepers share one ship. Each sees the other's lantern (the wire) and the other's entries in the log
//! book (the slot on the quorum disks). When lantern and entries stop, the one that is left asks the book, not the
//! other, whether the watch is his ([`arbiter`]), locks the other's doors and tries the handles ([`Effect::FencePool`]),
//! and only then takes over the other's work.
//!
//! It maps to one value, [`Core`], and one function, [`Core::handle`]: the state, an instant and an [`Event`] give the
//! next state and [`Effect`]s, which are data. The same code runs in the daemon, in the simulator and in the model.
//!
//! Invariants
//! * Everything is re-evaluated at every call (`Core::step`); no state is terminal, none waits for one
//!   particular message.
//! * What must be durable first is emitted only after `WriteDone`; what must be proven first only after it was read.
//! * Instants come from the caller and are of one controller's monotonic clock. Wall clocks decide nothing.
//!
//! It must never read a clock, block, allocate without a bound, depend on the order of a hash, or panic on what came
//! from outside.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arbiter;
pub mod area;
#[cfg(test)]
mod bench;
mod change;
mod codec;
pub mod detect;
pub mod effect;
pub mod event;
pub mod layout;
pub mod liaison;
mod machine;
mod member;
mod pools;
pub mod record;
pub mod set;
pub mod status;
pub mod table;
pub mod time;
pub mod timing;
mod view;
pub mod wire;

pub use area::{Area, Content};
pub use effect::Effect;
pub use event::Event;
pub use machine::numbers::Number;
pub use machine::{BadParams, Core, Params};
pub use set::{QuorumSet, Seat};
pub use time::Instant;
pub use timing::{Profile, Timing};
