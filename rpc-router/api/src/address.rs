//! Service `address`: floating addresses, which belong to a pool and move with it.

use crate::id::PoolId;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Name under which it registers.
pub const SERVICE: &str = "address";
/// `address.raise`: [`Raise`] -> [`Changed`]: add the addresses and announce them. Idempotent.
pub const RAISE: &str = "address.raise";
/// `address.lower`: [`Lower`] -> [`Changed`]: remove every address of the pool. Idempotent.
pub const LOWER: &str = "address.lower";
/// `address.lower_all`: no parameters -> [`Changed`]: remove every floating address from this controller.
pub const LOWER_ALL: &str = "address.lower_all";
/// `address.status`: no parameters -> [`Status`].
pub const STATUS: &str = "address.status";

/// Bring the addresses of a pool up; those that it has here and are not listed are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// The pool.
    pub pool: PoolId,
    /// Addresses with prefix length, `10.78.0.50/24` or `fd00::50/64`.
    pub addresses: Vec<String>,
}

/// Take the addresses of a pool down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lower {
    /// The pool.
    pub pool: PoolId,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Addresses that were added.
    pub added: Vec<String>,
    /// Addresses that were removed.
    pub removed: Vec<String>,
}

/// Addresses on this controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Interface that carries them.
    pub interface: String,
    /// One line per address.
    pub addresses: Vec<Address>,
}

/// One floating address that is up here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// Address with prefix length.
    pub address: String,
    /// Announcements (gratuitous ARP, unsolicited neighbour advertisement) sent so far.
    pub announcements: u32,
    /// Time from the request to the first announcement, ms.
    pub announced_after_ms: Option<u64>,
}
