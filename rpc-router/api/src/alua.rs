//! Service `alua`: which path is optimized.
//!
//! Heartbeat says who owns a pool and whether the partner can be reached; the port-group machine turns that into
//! access states of both groups and a backing, and drives the target through it. It refuses what is older than
//! what it has done.

use crate::id::{ControllerId, Epoch, Generation, PoolId};
use crate::target::Access;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "alua", rank crate::rank::ALUA, door crate::contract::Door::Router;
    /// Decides the access states of both port groups of each pool, and brings the target to them.
    calls [crate::target::HOLD, crate::target::FLIP, crate::target::STATUS];
    requests {
        /// Says what heartbeat knows of a pool; answered when the target has been brought to it. Idempotent.
        idempotent nobody SET = "alua.set": Set => Done, [Superseded, Failed];
        /// State of every port group.
        idempotent viewer STATUS = "alua.status": () => Status, [];
    }
    notifications {}
    topics {}
}
/// What heartbeat knows of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Set {
    /// The pool.
    pub pool: PoolId,
    /// Epoch of the claim.
    pub epoch: Epoch,
    /// Generation of the claim.
    pub generation: Generation,
    /// The role of this controller for this pool.
    pub role: Role,
    /// The partner is a member and answers on the wire.
    pub partner_reachable: bool,
}

/// The role of this controller for one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The pool is imported and published here: own group optimized, the partner's non-optimized (or
    /// unavailable, if it cannot be reached).
    Owner,
    /// The partner owns it: own group non-optimized by forwarding, or unavailable if it cannot be reached.
    Partner,
    /// It is on its way: commands are held, both groups are transitioning.
    Moving,
    /// This controller may not serve it and does not know who does: own group unavailable.
    Nobody,
}

/// The target has been brought to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Done {
    /// Something changed (false: it was so already).
    pub changed: bool,
    /// Commands that were held and went on.
    pub released: u64,
}

/// State of every port group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The controller that answers.
    pub controller: ControllerId,
    /// One line per pool.
    pub pools: Vec<Group>,
}

/// Port groups of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    /// What was last asked.
    pub wanted: Set,
    /// Access state of a's group.
    pub access_a: Access,
    /// Access state of b's group.
    pub access_b: Access,
    /// The target has confirmed it; otherwise what it answered last.
    pub settled: bool,
    /// Why it is not settled.
    pub problem: Option<String>,
}
