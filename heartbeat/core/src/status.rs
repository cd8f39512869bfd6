//! What the core knows, for people: never a guess, and whose view it is stands beside it.

use crate::area::Role;
use crate::detect::{DiskSight, WireSight};
use crate::event::Power;
use crate::record::Record;
use crate::set::{QuorumSet, Seat};
use crate::time::Instant;
use alloc::string::String;
use alloc::vec::Vec;
use pollux_api::id::{ControllerId, Generation, Incarnation, PoolId};

/// One controller's view of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whose view.
    pub controller: ControllerId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Stable name of what it is doing: `starting`, `waiting`, `joining`, `arbitrating`, `serving`, `holding`,
    /// `releasing`, `stopped`.
    pub state: &'static str,
    /// What it says of itself.
    pub role: Role,
    /// The highest decided record known here.
    pub record: Option<Record>,
    /// The wire, and since when it is so.
    pub wire: (WireSight, Instant),
    /// The partner's slot, and since when it is so.
    pub disk: (DiskSight, Instant),
    /// The partner's power, as last reported.
    pub power: Power,
    /// The partner's incarnation, when it was ever heard of.
    pub partner: Option<Incarnation>,
    /// Replies may leave until then.
    pub lease_until: Instant,
    /// The watchdog is armed.
    pub watchdog: bool,
    /// Time from sending to echo of the last heartbeat that came back.
    pub round_trip: Option<core::time::Duration>,
    /// The quorum disks.
    pub set: QuorumSet,
    /// One line per quorum disk.
    pub quorum: Vec<QuorumStatus>,
    /// One line per pool.
    pub pools: Vec<PoolStatus>,
    /// Why the configuration is locked, and since when.
    pub lock: Option<(String, Instant)>,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
}

/// One quorum disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// The disk, and when it joined.
    pub seat: Seat,
    /// `member`; during a change `joins` or `leaves`.
    pub part: &'static str,
    /// Since when it is gone by here.
    pub entered: Instant,
    /// The own slot was written within the lease.
    pub writable: bool,
    /// The partner's slot was read at the last attempt; otherwise why not.
    pub readable: Result<(), String>,
    /// How long the last write of the slot took.
    pub latency: Option<core::time::Duration>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The pool.
    pub pool: PoolId,
    /// Where it belongs.
    pub home: ControllerId,
    /// Who holds the claim that counts; none: nobody, or it cannot be read.
    pub owner: Option<ControllerId>,
    /// Generation of that claim.
    pub generation: Generation,
    /// Stable name: `serving`, `fencing`, `claiming`, `importing`, `lease-wait`, `publishing`, `releasing`, `giving`,
    /// `given`, `resuming`, `stopping`, `partner`, `unowned`, `unknown`.
    pub state: &'static str,
    /// Since when.
    pub since: Instant,
    /// What went wrong last, if it is not served.
    pub problem: Option<String>,
}

/// Something that is wrong and has a stable name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alarm {
    /// Stable id.
    pub id: &'static str,
    /// Leg, disk or pool.
    pub subject: String,
    /// In words.
    pub text: String,
    /// Since when.
    pub since: Instant,
}

/// What stands against a takeover, a switchover, a giveback or a change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What is blocked: `takeover`, `switchover`, `giveback`, `configuration`.
    pub blocks: &'static str,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Instant,
    /// The command or deed that would clear it.
    pub remedy: String,
}
