//! Service `heartbeat`: who is alive, who may serve, and the moves of pools.
//!
//! Every answer says whose view it is. What is not known is said to be unknown: a tool that guesses here costs
//! somebody a pool.

use crate::id::{ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "heartbeat", rank crate::rank::HEARTBEAT, door crate::contract::Door::Router;
    /// Decides who is alive and who may serve, and drives takeover, switchover and giveback.
    calls [
        crate::address::LOWER,
        crate::address::RAISE,
        crate::address::STAND_IN,
        crate::address::STEP_BACK,
        crate::alua::SET,
        crate::config::CATCH_UP,
        crate::config::FREEZE,
        crate::config::HASH_AT,
        crate::config::LEASE,
        crate::config::SET_EPOCH,
        crate::config::STATUS,
        crate::config::UNFREEZE,
        crate::config::WATCH,
        crate::pool::DELETE,
        crate::pool::EXPORT,
        crate::pool::IMPORT,
        crate::pool::IMPORTED,
        crate::pool::STOP,
        crate::pool::TAKE,
        crate::router::STATUS,
        crate::target::HOLD,
        crate::target::PUBLISH,
        crate::target::STATUS,
    ];
    requests {
        /// The array as this controller sees it.
        idempotent viewer STATUS = "heartbeat.status": () => Status, [Failed];
        /// What now blocks a takeover, a switchover, a giveback or a change of the configuration.
        idempotent viewer WHY = "heartbeat.why": () => Vec<Blocker>, [Failed];
        /// Takeovers and moves as they went, newest first.
        idempotent viewer TIMELINE = "heartbeat.timeline": TimelineQuery => Vec<Incident>, [];
        /// Planned move of one pool to the partner. Answered when it has begun; its end is in the timeline.
        once operator SWITCHOVER = "heartbeat.switchover": Switchover => Accepted, [Refused, Failed];
        /// Moves pools to their homes. Answered when it has begun; its end is in the timeline.
        once operator GIVEBACK = "heartbeat.giveback": Giveback => Accepted, [Refused, Failed];
        /// Takes what the partner owns, fencing it first. Answered when it has begun; its end is in the timeline.
        // Admin's, because its parameters can override the highest epoch, and routers read no parameters.
        once admin TAKEOVER = "heartbeat.takeover": Takeover => Accepted, [Refused, Failed];
        /// A lone controller may change the configuration again; the partner cannot go on without its log any more.
        once admin OPEN_ALONE = "heartbeat.open_alone": OpenAlone => Accepted, [Refused, Failed];
        /// Aborts a planned move before its point of no return.
        once operator ABORT = "heartbeat.abort": Switchover => Accepted, [Refused, Failed];
        /// Lets go of everything here in good order, says good-bye to the partner, and takes the machine down. Answered when it
        /// has begun; it is done when `heartbeat.status` says `left`.
        // Admin's: nobody who may only move pools should be able to end the service of all of them.
        once admin SHUTDOWN = "heartbeat.shutdown": Shutdown => Accepted, [Refused, Failed];
        /// Puts another disk in the place of a quorum disk. Answered when it has begun; `heartbeat.status` shows the end.
        once admin REPLACE_QUORUM_DISK = "heartbeat.replace_quorum_disk": ReplaceQuorumDisk => Accepted, [Refused, Failed];
        /// Removes every reservation key from a quorum disk, if they are those that are named and none is of this array.
        idempotent admin CLEAR_KEYS = "heartbeat.clear_keys": ClearKeys => ClearedKeys, [Refused, Failed];
    }
    notifications {
        /// From the pool manager: something happened to a pool that must be known at once.
        nobody POOL_EVENT = "heartbeat.pool_event": crate::pool::PoolEvent;
        /// From the config keeper: its status after each durable change.
        nobody CONFIG_STATUS = "heartbeat.config_status": crate::config::Status;
        /// From the config keeper, which is alone and is read from: does this controller still decide? Answered with
        /// `config.lease`.
        nobody CONFIG_LEASE = "heartbeat.config_lease": crate::config::LeaseAsked;
    }
    topics {
        /// Everything that heartbeat reports, as it happens.
        viewer EVENTS = "heartbeat.events": Event;
    }
}
/// The array as one controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Its incarnation (count of its boots).
    pub incarnation: Incarnation,
    /// Timing profile: `fast`, `safe` or `ci`.
    pub profile: String,
    /// What this controller is doing: `booting`, `joining`, `serving`, `holding`, `stopped`, `left` (it has said good-bye), ...
    pub state: String,
    /// The current epoch record, as far as it is known here.
    pub epoch: Option<EpochRecord>,
    /// The wire to the partner.
    pub wire: Wire,
    /// The partner's slot on the quorum disks: `alive`, `still`, `unreadable` or `unknown`.
    pub partner_disk: String,
    /// Since when it is so, ms ago.
    pub partner_disk_for_ms: Option<u64>,
    /// Power of the partner as its power control reports it: `on`, `off` or `unknown`.
    pub partner_power: String,
    /// Incarnation of the partner, when known.
    pub partner_incarnation: Option<Incarnation>,
    /// The lease under which replies leave: fresh now.
    pub lease_fresh: bool,
    /// The watchdog is armed.
    pub watchdog_armed: bool,
    /// The process runs with real-time priority and locked memory; otherwise why not.
    pub realtime: Result<(), String>,
    /// Quorum disks.
    pub quorum: Vec<QuorumDisk>,
    /// Generation of their set: how often a disk was replaced, and one.
    #[serde(default)]
    pub quorum_generation: Generation,
    /// Pools that are known here.
    pub pools: Vec<Pool>,
    /// The configuration is locked: why and since when.
    pub config_lock: Option<Lock>,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
}

/// An epoch record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// Members with the incarnation under which they are members.
    pub members: Vec<(ControllerId, Incarnation)>,
    /// Members may change the configuration; false: sealed, a lone controller serves with it frozen.
    pub open: bool,
    /// Length of the configuration log on which the epoch stands.
    pub base_length: u64,
}

/// The wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Wire {
    /// `alive`, `silent` or `unknown` (never heard since boot).
    pub state: String,
    /// Since when, ms ago.
    pub for_ms: Option<u64>,
    /// Carrier of each leg.
    pub legs: Vec<(String, bool)>,
    /// Round-trip time of the last echo, microseconds.
    pub round_trip_us: Option<u64>,
}

/// One quorum disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QuorumDisk {
    /// The disk.
    pub disk: DiskIndex,
    /// Own slot was written within the lease.
    pub writable: bool,
    /// The partner's slot was read: `ok`, or why not.
    pub readable: Result<(), String>,
    /// Time of the last slot write, microseconds.
    pub latency_us: Option<u64>,
    /// Generation of the set with which it joined.
    #[serde(default)]
    pub since: Generation,
    /// `member`; during a change `joins` or `leaves`.
    #[serde(default)]
    pub part: String,
    /// How long this daemon has gone by it, ms.
    #[serde(default)]
    pub for_ms: u64,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pool {
    /// Its identity.
    pub pool: PoolId,
    /// Its name, when the configuration is known.
    pub name: Option<String>,
    /// Where it belongs.
    pub home: Option<ControllerId>,
    /// Who holds its claim, when that can be read.
    pub owner: Option<ControllerId>,
    /// Generation of the claim.
    pub generation: Generation,
    /// What happens to it: `serving`, `taking`, `releasing`, `given`, `partner`, `unserved`, `stopped`, ...
    pub state: String,
}

/// Why and since when the configuration is locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lock {
    /// Why, in words.
    pub reason: String,
    /// For how long, ms.
    pub for_ms: u64,
}

/// Something that is wrong and has a stable name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Alarm {
    /// Stable id, `leg_down`, `quorum_disk_unreadable`, ...
    pub id: String,
    /// What it is about: a leg, a disk, a pool.
    pub subject: String,
    /// In words.
    pub text: String,
    /// For how long, ms.
    pub for_ms: u64,
}

/// One thing that now blocks a takeover, a switchover, a giveback or a change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Blocker {
    /// What is blocked: `takeover`, `switchover`, `giveback`, `configuration`.
    pub blocks: String,
    /// Why.
    pub reason: String,
    /// Since when, ms ago.
    pub for_ms: u64,
    /// The command or deed that would clear it.
    pub remedy: String,
}

/// Ask for incidents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TimelineQuery {
    /// One incident, by its action_id or that of the request that caused it; none: all that are kept.
    pub action_id: Option<String>,
    /// At most so many, newest first; 0: no limit.
    #[serde(default)]
    pub limit: u32,
}

/// A takeover, switchover or giveback, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Incident {
    /// The action under which everything it caused can be traced.
    pub action_id: String,
    /// `takeover`, `membership` (of the epoch, without a death), `quorum` (another disk), `switchover`, `giveback`, `shutdown`, `move`
    /// (without a request), `restart` (a pool is served on by a heartbeat that was started again), `delete`, `stop`.
    pub kind: String,
    /// Who drove it.
    pub controller: ControllerId,
    /// The epoch under which it ran.
    pub epoch: Epoch,
    /// The request that caused it, if a person's did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
    /// In words: what was seen.
    pub cause: String,
    /// Wall clock at the start, ms since 1970, for people only; nothing is decided by it.
    pub started_unix_ms: u64,
    /// Monotonic clock of that controller at the start, ns.
    pub started_ns: u64,
    /// Phases in order of their start; those without a pool concern the whole.
    pub phases: Vec<Phase>,
    /// `done`, `running`, `aborted` (also `aborted: why`) or `failed: why`.
    pub outcome: String,
}

/// One phase of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Phase {
    /// `detect`, `arbitrate`, `fence`, `claim`, `import`, `lease`, `publish`, `optimize`, `addresses`,
    /// `quiesce`, `export`, `release`.
    pub name: String,
    /// The pool, where the phase is about one.
    pub pool: Option<PoolId>,
    /// Start, microseconds after the incident's start (negative for detection, which began before).
    pub start_us: i64,
    /// Length, microseconds; none while it runs.
    pub length_us: Option<u64>,
    /// How it ended, where it did not end well, or what it found.
    pub note: Option<String>,
}

/// Move one pool to the partner, or abort that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Switchover {
    /// The pool.
    pub pool: PoolId,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Move pools to their homes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Giveback {
    /// One pool; none: all that are away from home.
    pub pool: Option<PoolId>,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Take what the partner owns. Fencing is never skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Takeover {
    /// Go on although the highest record is this one, of the partner alone: changes that only the partner holds are
    /// lost. The number is typed by a person who has read what is lost.
    #[serde(default)]
    pub override_epoch: Option<Epoch>,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Change the configuration alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OpenAlone {
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Put a disk of the shelf in the place of a quorum disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReplaceQuorumDisk {
    /// The quorum disk that leaves.
    pub from: DiskIndex,
    /// The disk that joins: no pool has it, and it is blank or was a quorum disk of this array.
    pub to: DiskIndex,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Remove the reservation keys that strangers have left on a quorum disk, with the reservation. All go at once: removed one by
/// one, the disk would be reserved in between, and one controller could not vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClearKeys {
    /// The disk.
    pub disk: DiskIndex,
    /// Every key that stands there: 16 hexadecimal digits, with or without 0x. Refused if there is another one.
    pub keys: Vec<String>,
    /// Say whether it would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// No key is on a quorum disk, as read back (with `dry_run`: would be).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClearedKeys {
    /// The disk.
    pub disk: DiskIndex,
    /// Keys that were there; none: nothing was to be done.
    pub removed: Vec<String>,
}

/// What becomes of the machine once its controller has said good-bye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// It is powered off.
    Off,
    /// It starts again.
    Reboot,
    /// It stays as it is: whoever asked sees to the rest.
    #[default]
    Stay,
}

/// Shut a controller down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Shutdown {
    /// Go although pools would be served by nobody: they are exported.
    #[serde(default)]
    pub unserved: bool,
    /// What becomes of the machine.
    #[serde(default)]
    pub machine: Machine,
    /// Why, for the logs; empty: nothing was said.
    #[serde(default)]
    pub reason: String,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A move has begun, or would begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Accepted {
    /// Watch it under this action.
    pub action_id: String,
    /// Pools that it concerns.
    pub pools: Vec<PoolId>,
    /// In words: what happens, to whom.
    pub plan: Vec<String>,
}

/// Something happened; published on [`EVENTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Monotonic clock of the reporting controller, ns.
    pub at_ns: u64,
    /// Who reports.
    pub controller: ControllerId,
    /// Stable name.
    pub name: String,
    /// In words.
    pub text: String,
}
