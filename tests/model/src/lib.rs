//! The model: the shipped decision code, in worlds so small that every state of them is visited.
//!
//! The simulator (`tests/sim`) throws dice for weeks in a large world; the model opens every door of a small house. It
//! maps to three kinds of worlds: `consensus`, the arbitration alone with every order of everything; `array`, both
//! whole cores of heartbeat with every placing of so many faults; and `ports`, both port groups in every order. What is
//! searched is the code that ships, not a copy of it.
//!
//! Invariants: a world is a value, a step of it is a function, and the search forgets nothing but what it reports.
//!
//! It must never use real time, threads, or anything whose order depends on the machine.

mod array;
mod consensus;
mod fingerprint;
mod ports;
mod search;
mod worlds;

#[cfg(test)]
mod breakage;

pub use search::{Counterexample, Report, Violation};
pub use worlds::{ALL, Named};
