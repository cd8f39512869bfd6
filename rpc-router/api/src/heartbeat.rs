//! Service `heartbeat`: who is alive, who may serve, and the moves of pools.
//!
//! Every answer says whose view it is. What is not known is said to be unknown: a tool that guesses here costs
//! somebody a pool.

use crate::id::{ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Name under which it registers.
pub const SERVICE: &str = "heartbeat";
/// `heartbeat.status`: no parameters -> [`Status`].
pub const STATUS: &str = "heartbeat.status";
/// `heartbeat.why`: no parameters -> `Vec<`[`Blocker`]`>`.
pub const WHY: &str = "heartbeat.why";
/// `heartbeat.timeline`: [`TimelineQuery`] -> `Vec<`[`Incident`]`>`, newest first.
pub const TIMELINE: &str = "heartbeat.timeline";
/// `heartbeat.switchover`: [`Switchover`] -> [`Accepted`]: planned move of one pool to the partner.
pub const SWITCHOVER: &str = "heartbeat.switchover";
/// `heartbeat.giveback`: [`Giveback`] -> [`Accepted`]: move pools to their homes.
pub const GIVEBACK: &str = "heartbeat.giveback";
/// `heartbeat.takeover`: [`Takeover`] -> [`Accepted`]: take what the partner owns, fencing it first.
pub const TAKEOVER: &str = "heartbeat.takeover";
/// `heartbeat.open_alone`: [`OpenAlone`] -> [`Accepted`]: a lone controller may change the configuration again; the
/// partner cannot go on without its log any more.
pub const OPEN_ALONE: &str = "heartbeat.open_alone";
/// `heartbeat.abort`: [`Switchover`] -> [`Accepted`]: abort a planned move before its point of no return.
pub const ABORT: &str = "heartbeat.abort";
/// Notification `heartbeat.pool_event` with [`crate::pool::PoolEvent`].
pub const POOL_EVENT: &str = "heartbeat.pool_event";
/// Notification `heartbeat.config_status` with the configuration's status after each durable change.
pub const CONFIG_STATUS: &str = "heartbeat.config_status";
/// Topic on which every [`Event`] is published.
pub const EVENTS: &str = "heartbeat.events";

/// The array as one controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Its incarnation (count of its boots).
    pub incarnation: Incarnation,
    /// Timing profile: `fast`, `safe` or `ci`.
    pub profile: String,
    /// What this controller is doing: `booting`, `joining`, `serving`, `holding`, `stopped`, ...
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
    /// Pools that are known here.
    pub pools: Vec<Pool>,
    /// The configuration is locked: why and since when.
    pub config_lock: Option<Lock>,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
}

/// An epoch record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct QuorumDisk {
    /// The disk.
    pub disk: DiskIndex,
    /// Own slot was written within the lease.
    pub writable: bool,
    /// The partner's slot was read: `ok`, or why not.
    pub readable: Result<(), String>,
    /// Time of the last slot write, microseconds.
    pub latency_us: Option<u64>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Lock {
    /// Why, in words.
    pub reason: String,
    /// For how long, ms.
    pub for_ms: u64,
}

/// Something that is wrong and has a stable name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct TimelineQuery {
    /// One incident, by its action_id or that of the request that caused it; none: all that are kept.
    pub action_id: Option<String>,
    /// At most so many, newest first; 0: no limit.
    #[serde(default)]
    pub limit: u32,
}

/// A takeover, switchover or giveback, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The action under which everything it caused can be traced.
    pub action_id: String,
    /// `takeover`, `switchover`, `giveback`, `boot`.
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
    /// `done`, `running`, `aborted` or `failed: why`.
    pub outcome: String,
}

/// One phase of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Switchover {
    /// The pool.
    pub pool: PoolId,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Move pools to their homes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giveback {
    /// One pool; none: all that are away from home.
    pub pool: Option<PoolId>,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Take what the partner owns. Fencing is never skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct OpenAlone {
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A move has begun, or would begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
