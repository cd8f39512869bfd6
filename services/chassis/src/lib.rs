//! The enclosure in software: what stands around two controllers, on any machine and without root.
//!
//! Picture the metal box: two controllers slide in, a shelf of disks behind them, a power button and a management
//! processor for each, a pair of cables between them and one from each to the hosts. Here the box is one process,
//! `pollux-chassis`:
//!
//! | in the box | here |
//! |---|---|
//! | controller | a network namespace and the daemons in it, kept running as a service manager does |
//! | power button | off: cables and disk paths are pulled, then every process is killed and reaped; on: `run/` is wiped, daemons start |
//! | boot disk | a database of a daemon loses with its process what was not flushed, but for some sectors, in any order ([`pollux_platform::unsynced`]) |
//! | hang | SIGSTOP to every process of a controller, while its kernel goes on answering |
//! | management processor | `DIR/<controller>/bmc.sock`: the partner's power button and the own watchdog |
//! | interconnect | two legs that can be cut, whole or in one direction, and the bond over them ([`cabling`]) |
//! | front end | a bridge with the hosts' network |
//! | shelf | disks with two ports each, reservations, a cache that forgets, faults, and a log of every write ([`shelf`]) |
//!
//! The front panel is `DIR/chassis.sock` ([`pollux_api::chassis`]); [`Client`] presses its buttons and [`Enclosure`]
//! is the whole box as a value, for tests.
//!
//! Invariants: a controller that is reported off does nothing any more; when the enclosure's process ends, in whatever
//! way, every process that it started is killed by the kernel.
//!
//! It must never: take part in a decision of the controllers, or let them see more than a real enclosure would.

mod bmc;
pub mod cabling;
mod client;
mod control;
mod enclosure;
mod journal;
mod keeper;
pub mod network;
mod options;
mod panel;
mod restart;
mod run;
pub mod shelf;
mod watchdog;

pub use client::Client;
pub use enclosure::{Enclosure, EnclosureError, LOG, PROGRAM, holder};
pub use options::{DAEMONS, Options, control_socket, lock_file, program_dir};
pub use panel::StartError;
pub use pollux_platform::lines::server as lines;
pub use run::{EXIT_CODES, RunError, run};
