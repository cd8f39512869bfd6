//! Service `address`: floating addresses, which belong to a pool and move with it; and the portal of a partner that is
//! switched off, for which this controller answers "nobody is here" until the partner is back.

use crate::id::PoolId;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "address", rank crate::rank::ADDRESS, door crate::contract::Door::Router;
    /// Adds, announces and removes floating addresses, and answers for the portal of a partner that is off.
    calls [];
    requests {
        /// Adds the addresses of a pool and announces them; those of it that are not listed are removed. Idempotent.
        idempotent nobody RAISE = "address.raise": Raise => Changed, [Conflict, Failed];
        /// Removes every address of a pool. Idempotent.
        idempotent nobody LOWER = "address.lower": Lower => Changed, [Failed];
        /// Removes every floating address from this controller. Idempotent.
        idempotent nobody LOWER_ALL = "address.lower_all": () => Changed, [Failed];
        /// Takes the portal address of a partner whose power is proven off, and has every connection to it end now
        /// instead of when its host loses patience. Idempotent.
        idempotent nobody STAND_IN = "address.stand_in": StandIn => Changed, [Conflict, Failed];
        /// Gives the partner's portal address up. Idempotent.
        idempotent nobody STEP_BACK = "address.step_back": () => Changed, [Failed];
        /// Floating addresses that are up on this controller.
        idempotent viewer STATUS = "address.status": () => Status, [];
    }
    notifications {}
    topics {}
}
/// Bring the addresses of a pool up; those that it has here and are not listed are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Raise {
    /// The pool.
    pub pool: PoolId,
    /// Addresses with prefix length, `10.78.0.50/24` or `fd00::50/64`.
    pub addresses: Vec<String>,
}

/// Take the addresses of a pool down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lower {
    /// The pool.
    pub pool: PoolId,
}

/// Answer for the portal of a partner that is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StandIn {
    /// Its portal, `address:port`.
    pub portal: String,
    /// The other ends of its connections, `address:port` each, of the same family.
    pub connections: Vec<String>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// Addresses that were added.
    pub added: Vec<String>,
    /// Addresses that were removed.
    pub removed: Vec<String>,
}

/// Addresses on this controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Interface that carries them.
    pub interface: String,
    /// One line per address.
    pub addresses: Vec<Address>,
}

/// One floating address that is up here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
