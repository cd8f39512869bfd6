//! The block target: publishes the volumes of the array to hosts over iSCSI, on both controllers at once.
//!
//! Picture two counters of one shop. Customers may queue at either; one of them has the stock behind it
//! (*optimized*), the other sends a runner across (*non-optimized*). When the stock moves, both counters ask
//! their customers to wait a moment, swap their signs, tell everybody that the signs have changed, and go on. Nobody is
//! sent away.
//!
//! ```text
//!  host --TCP 3260-->  iscsi   PDUs, login, command window, data phases
//!                        |
//!                      scsi    CDBs, pages, reports           target   who sees which volume
//!                        |
//!                      volume  one identity, turns of overlapping writes
//!                        |        registry  whose reservation it is (on the owner)
//!                      paths   hold and flip of a pool's volumes
//!                      /    \
//!               local pool   partner (over the interconnect)
//!                 backend      backend
//! ```
//!
//! Invariants: a reply leaves only through the [`gate`] (a fresh lease), after what it reports is durable; what
//! came back by an older route is never given to a host; both ports tell the same tale of both port groups; what a host
//! was told is given up takes effect before whatever comes after it, or never.
//!
//! It must never decide who owns a pool, never forward what was forwarded to it, and never hold a command longer
//! than [`paths::HOLD_LIMIT`].

pub mod backend;
pub mod daemon;
pub mod gate;
pub mod iscsi;
pub mod paths;
mod ranges;
pub mod registry;
pub mod scsi;
pub mod target;
pub mod volume;
