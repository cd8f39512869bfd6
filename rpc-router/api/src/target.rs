//! Service `target`: how volumes are published to hosts.
//!
//! Volumes, hosts and mappings come from the configuration (the target watches it) and are published on both
//! controllers for ever; what changes is only the *backing* of a pool's volumes and the access state that the
//! port groups report. A flip is one call: hold commands, switch the backing, set the states, raise the unit
//! attention, let the commands go.

use crate::id::{ControllerId, Epoch, Generation, PoolId, VolumeId};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "target", rank crate::rank::BLOCK_TARGET, door crate::contract::Door::Router;
    /// Publishes volumes to hosts (iSCSI), and switches where their commands go.
    calls [
        crate::config::UNSEAL,
        crate::config::WATCH,
        crate::pool::EVENTS,
        STATUS,
        PARTNER_HOSTS,
        PARTNER_RESET,
    ];
    requests {
        /// Opens the local volumes of a pool that has just been imported, and says which answer. Hosts notice
        /// nothing yet. Idempotent.
        idempotent nobody PUBLISH = "target.publish": Publish => Published, [];
        /// Holds the commands of a pool's volumes and waits until none is in flight. Idempotent. `deadline_passed`:
        /// some still are; new ones are held all the same.
        idempotent nobody HOLD = "target.hold": Hold => Held, [];
        /// Switches the volumes of a pool in one step: backing, access states, unit attention; then held commands go
        /// on. Idempotent for one (epoch, generation, backing, access).
        idempotent nobody FLIP = "target.flip": Flip => Flipped, [Superseded];
        /// What is published here, who is logged in, and where commands go.
        peer viewer STATUS = "target.status": () => Status, [];
        /// The partner's target says who is logged in at its portal, after each change: whoever stands in for that
        /// portal one day has to know whom to tell.
        peer nobody PARTNER_HOSTS = "target.partner_hosts": Hosts => (), [];
        /// A host of the partner's port has reset a unit or cleared its task set: what this port's hosts have under way
        /// there ends before this is answered, and they are told.
        peer nobody PARTNER_RESET = "target.partner_reset": UnitReset => (), [];
    }
    notifications {}
    topics {}
}
/// Who is connected to the portal of a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hosts {
    /// The portal, `address:port`.
    pub portal: String,
    /// The other ends of its connections, `address:port` each.
    pub connections: Vec<String>,
    /// The initiator ports of its host sessions. Empty, too, where the other end does not say them yet.
    #[serde(default)]
    pub initiators: Vec<InitiatorPort>,
}

/// An initiator port (RFC 7143, 4.4.1): one name with one ISID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitiatorPort {
    /// iSCSI name of the initiator.
    pub name: String,
    /// Its part of the session identifier, six bytes.
    pub isid: crate::config::Hex<6>,
}

/// What a host has done to a unit by task management (RFC 7143, 11.5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UnitReset {
    /// The volume behind the unit.
    pub volume: VolumeId,
    /// How far it goes.
    pub reach: ResetReach,
}

/// What follows for the other hosts of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResetReach {
    /// CLEAR TASK SET: commands end, and those whose they were are told.
    Clear,
    /// LOGICAL UNIT RESET, TARGET WARM RESET: commands end, everybody is told.
    Unit,
    /// TARGET COLD RESET: sessions end as well.
    Cold,
}

/// Access state of a target port group (SPC-4, asymmetric access states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Active/optimized (0h): the owner.
    Optimized,
    /// Active/non-optimized (1h): served by forwarding to the owner.
    NonOptimized,
    /// Standby (2h): this port answers what says who the volume is and whose it is, and no command for its blocks.
    /// `alua` wants none today, because the partner of an owner serves by forwarding; the target reports and follows it
    /// if told.
    Standby,
    /// Unavailable (3h): this controller cannot reach the owner.
    Unavailable,
    /// Transitioning (Fh): a flip is under way; commands are held.
    Transitioning,
}

/// Where the commands of a pool's volumes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// To the pool, imported on this controller.
    Local,
    /// To the partner, over the interconnect.
    Partner,
    /// Nowhere: commands are held (within the bound of a hold, then answered with a retryable status).
    None,
}

/// Open the volumes of an imported pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Publish {
    /// The pool.
    pub pool: PoolId,
    /// The claim under which it is imported.
    pub generation: Generation,
}

/// The volumes of a pool answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Published {
    /// Volumes that answer.
    pub volumes: Vec<VolumeId>,
    /// Volumes in the configuration that do not answer, with the reason.
    pub failed: Vec<(VolumeId, String)>,
}

/// Hold the commands of a pool's volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hold {
    /// The pool.
    pub pool: PoolId,
    /// How long to wait for commands in flight, ms, before answering `deadline`.
    pub drain_ms: u64,
}

/// Commands are held; none is in flight below the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// Commands that wait.
    pub waiting: u64,
}

/// Switch a pool's volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flip {
    /// The pool.
    pub pool: PoolId,
    /// Epoch of the claim; a flip of a lower (epoch, generation) than the present one is refused as stale.
    pub epoch: Epoch,
    /// Generation of the claim.
    pub generation: Generation,
    /// Where commands go from now on.
    pub backing: Backing,
    /// Access state of controller a's port group, as both ports report it.
    pub access_a: Access,
    /// Access state of controller b's port group.
    pub access_b: Access,
}

/// The flip is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flipped {
    /// Something changed (false: it was so already).
    pub changed: bool,
    /// Sessions that got a unit attention.
    pub sessions: u64,
    /// Commands that had been held and were let go.
    pub released: u64,
}

/// What the target serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The controller that answers.
    pub controller: ControllerId,
    /// Portal on which hosts log in, `address:port`.
    pub portal: String,
    /// Name of the target.
    pub iqn: String,
    /// Replies leave only under a lease; whether it is fresh now.
    pub lease_fresh: bool,
    /// Host sessions.
    pub sessions: Vec<Session>,
    /// What the partner's target last said of its own; `None` until it has.
    pub partner: Option<Hosts>,
    /// One line per pool.
    pub pools: Vec<PoolPaths>,
    /// What hosts can take at most, and have taken; `None`: it does not say.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Versions of the block protocol on the lines to the partner; `None`: it does not say.
    #[serde(default)]
    pub forwarding: Option<Forwarding>,
}

/// So much of so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Use {
    /// Taken now.
    pub used: u64,
    /// At most.
    pub limit: u64,
}

/// What hosts can take of this controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Limits {
    /// Sessions, those that only ask for targets included; each has one connection.
    pub sessions: Use,
    /// Connections that are logging in.
    pub logins: Use,
    /// Commands of the session that has the most of them in flight.
    pub commands_per_session: Use,
    /// Memory for data that comes with commands, KiB.
    pub unasked_kib: Use,
    /// Memory for data that is asked for or read, KiB.
    pub data_kib: Use,
}

/// How this controller and its partner talk of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Forwarding {
    /// The oldest version that this end speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// What was agreed with the partner when a line was last opened; `None`: none was.
    pub agreed: Option<u16>,
}

/// One host session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// IQN of the initiator.
    pub initiator: String,
    /// Its address.
    pub peer: String,
    /// Commands in flight.
    pub in_flight: u64,
}

/// Paths of one pool's volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolPaths {
    /// The pool.
    pub pool: PoolId,
    /// Epoch and generation of the last flip.
    pub epoch: Epoch,
    /// Generation of the last flip.
    pub generation: Generation,
    /// Where commands go.
    pub backing: Backing,
    /// Access state of a's port group.
    pub access_a: Access,
    /// Access state of b's port group.
    pub access_b: Access,
    /// Commands that are held now.
    pub held: u64,
    /// Volumes that are published.
    pub volumes: Vec<VolumeId>,
}
