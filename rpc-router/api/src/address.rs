//! Service `address`: floating addresses, which belong to a pool and move with it; and the portal of a partner that is
//! switched off, for which this controller answers "nobody is here" until the partner is back.

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
/// `address.stand_in`: [`StandIn`] -> [`Changed`]: take the portal address of a partner whose power is proven off, and
/// have every connection to it end now instead of when its host loses patience. Idempotent.
pub const STAND_IN: &str = "address.stand_in";
/// `address.step_back`: no parameters -> [`Changed`]: give the partner's portal address up. Idempotent.
pub const STEP_BACK: &str = "address.step_back";
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

/// Answer for the portal of a partner that is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// Its portal, `address:port`.
    pub portal: String,
    /// The other ends of its connections, `address:port` each, of the same family.
    pub connections: Vec<String>,
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
    /// The pool it belongs to; `None`: the portal of the partner, which is off.
    pub pool: Option<PoolId>,
    /// Address with prefix length.
    pub address: String,
    /// Announcements (gratuitous ARP, unsolicited neighbour advertisement) sent so far.
    pub announcements: u32,
    /// Time from the request to the first announcement, ms.
    pub announced_after_ms: Option<u64>,
}
