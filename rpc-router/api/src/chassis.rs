//! The enclosure's control: the front panel, the cables and the shelf, as buttons.
//!
//! Not a service of a controller: no router carries these calls. They are JSON-RPC 2.0, one object per line, on the
//! socket `chassis.sock` in the array's directory, and whoever may open that socket may press every button.
//! What a button does has happened when the answer arrives: `power` answers `off` after the last process was reaped.

use crate::id::{ArrayId, ControllerId, DiskIndex};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// File name of the control socket in the array's directory.
pub const SOCKET: &str = "chassis.sock";
/// File name of the event journal in the array's directory: one [`Event`] as JSON per line.
pub const JOURNAL: &str = "chassis.jsonl";

/// `chassis.status`: no parameters -> [`Status`].
pub const STATUS: &str = "chassis.status";
/// `chassis.power`: [`SetPower`] -> [`Done`]: the power button of a controller.
pub const POWER: &str = "chassis.power";
/// `chassis.hang`: [`SetHung`] -> [`Done`]: stop every process of a controller, or let them go on.
pub const HANG: &str = "chassis.hang";
/// `chassis.reboot`: [`Reboot`] -> [`Done`]: orderly restart: daemons are asked to end, then the power is cycled.
pub const REBOOT: &str = "chassis.reboot";
/// `chassis.daemon`: [`SignalDaemon`] -> [`Done`]: one daemon of a controller.
pub const DAEMON: &str = "chassis.daemon";
/// `chassis.leg`: [`SetLeg`] -> [`Done`]: one cable of the interconnect.
pub const LEG: &str = "chassis.leg";
/// `chassis.host_port`: [`SetHostPort`] -> [`Done`]: the front-end cable of a controller.
pub const HOST_PORT: &str = "chassis.host_port";
/// `chassis.disk_path`: [`SetDiskPath`] -> [`Done`]: the path of one controller to one disk, or to all.
pub const DISK_PATH: &str = "chassis.disk_path";
/// `chassis.disk_fault`: [`SetDiskFault`] -> [`Done`]: make a disk misbehave, or behave again.
pub const DISK_FAULT: &str = "chassis.disk_fault";
/// `chassis.shelf_power`: [`SetShelfPower`] -> [`Done`]: the shelf's power; what was not flushed is lost.
pub const SHELF_POWER: &str = "chassis.shelf_power";
/// `chassis.bmc`: [`SetBmc`] -> [`Done`]: may a controller reach the power control of its partner?
pub const BMC: &str = "chassis.bmc";
/// `chassis.watchdog`: [`SetWatchdog`] -> [`Done`]: does the watchdog of a controller act when it runs out?
pub const WATCHDOG: &str = "chassis.watchdog";
/// `chassis.heal`: no parameters -> [`Done`]: every cable, path, disk, power control and watchdog as new, everything
/// stopped goes on. Power stays as it is.
pub const HEAL: &str = "chassis.heal";
/// `chassis.note`: [`Note`] -> [`Done`]: write a line of the caller's into the journal, on the journal's clock.
pub const NOTE: &str = "chassis.note";
/// `chassis.events`: [`EventQuery`] -> `Vec<`[`Event`]`>`, oldest first.
pub const EVENTS: &str = "chassis.events";
/// `chassis.shutdown`: no parameters -> [`Done`]: end everything; the answer comes before the end.
pub const SHUTDOWN: &str = "chassis.shutdown";

/// What a power button is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Cut: cables and shelf port first, then every process at once.
    Off,
    /// Boot.
    On,
    /// Off, then on, as fast as it goes.
    Reset,
}

/// Power as the chassis knows it: never a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Processes run, or may run.
    On,
    /// The power is being cut or the controller is being started; proves nothing.
    Changing,
    /// Every process of the controller has been reaped and its ports are closed.
    Off,
}

/// Parameters of [`POWER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPower {
    /// Which controller.
    pub controller: ControllerId,
    /// What to do.
    pub action: PowerAction,
}

/// Parameters of [`HANG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetHung {
    /// Which controller.
    pub controller: ControllerId,
    /// True: stopped; false: goes on.
    pub hung: bool,
}

/// Parameters of [`REBOOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// Which controller.
    pub controller: ControllerId,
    /// How long daemons may take to end, ms; what still lives then loses its power.
    pub grace_ms: u64,
}

/// What happens to one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonAction {
    /// SIGKILL: it crashes, and is started again.
    Kill,
    /// SIGTERM: it ends in order, and is started again.
    Restart,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Parameters of [`DAEMON`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalDaemon {
    /// Which controller.
    pub controller: ControllerId,
    /// Name of its program, `heartbeatd` for instance.
    pub daemon: String,
    /// What to do.
    pub action: DaemonAction,
}

/// State of one cable between the controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cable {
    /// Carries both ways.
    #[default]
    Whole,
    /// Cut: neither end has carrier.
    Cut,
    /// Only what a sends arrives; both ends have carrier, so a bond that watches carrier stays on it.
    OnlyAToB,
    /// Only what b sends arrives; both ends have carrier.
    OnlyBToA,
}

/// Parameters of [`LEG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLeg {
    /// 0 or 1.
    pub leg: u8,
    /// What becomes of it.
    pub cable: Cable,
}

/// Parameters of [`HOST_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetHostPort {
    /// Which controller.
    pub controller: ControllerId,
    /// Plugged in.
    pub connected: bool,
}

/// Parameters of [`DISK_PATH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDiskPath {
    /// Whose path.
    pub controller: ControllerId,
    /// To which disk; absent: the whole shelf port.
    pub disk: Option<DiskIndex>,
    /// Plugged in.
    pub connected: bool,
}

/// How a disk misbehaves. Faults on one disk add up until [`DiskFault::None`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFault {
    /// As new.
    None,
    /// Every command takes a while longer, chosen evenly between the bounds.
    Slow {
        /// At least, ms.
        min_ms: u64,
        /// At most, ms.
        max_ms: u64,
    },
    /// Reads, writes or both end with a medium error.
    Failing {
        /// Reads fail.
        reads: bool,
        /// Writes fail.
        writes: bool,
    },
    /// Writes end with a write-protect error.
    ReadOnly,
    /// Commands are taken and never answered.
    Stuck,
    /// The next write of more than one block applies a part of its blocks, then fails.
    TornWrite,
    /// The next write lands in the wrong place and is acknowledged.
    MisdirectedWrite,
    /// The next write is acknowledged and does not happen.
    LostWrite,
}

/// Parameters of [`DISK_FAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDiskFault {
    /// Which disk.
    pub disk: DiskIndex,
    /// Through one controller's port only; absent: both.
    pub port: Option<ControllerId>,
    /// What it does.
    pub fault: DiskFault,
}

/// Parameters of [`SHELF_POWER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetShelfPower {
    /// What to do.
    pub action: PowerAction,
}

/// Parameters of [`BMC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBmc {
    /// The controller that asks.
    pub controller: ControllerId,
    /// It gets an answer.
    pub reachable: bool,
}

/// Parameters of [`WATCHDOG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWatchdog {
    /// Whose.
    pub controller: ControllerId,
    /// It resets the controller when it runs out.
    pub enabled: bool,
}

/// Parameters of [`NOTE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// What to write.
    pub text: String,
}

/// Parameters of [`EVENTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events with a higher number.
    pub after: u64,
}

/// It has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// When it began, ns of CLOCK_MONOTONIC, which every process of the array shares.
    pub began_ns: u64,
    /// When it was complete, on the same clock.
    pub done_ns: u64,
    /// False: it was so already.
    pub changed: bool,
}

/// Everything that the enclosure knows about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the enclosure.
    pub pid: u32,
    /// Now, ns of CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// Identity of the array.
    pub array: ArrayId,
    /// Both controllers.
    pub controllers: BTreeMap<ControllerId, Controller>,
    /// The two cables of the interconnect.
    pub legs: [Leg; 2],
    /// The leg that carries the traffic.
    pub active_leg: u8,
    /// The shelf has power.
    pub shelf_powered: bool,
    /// Disks of the shelf.
    pub disks: Vec<Disk>,
}

/// One controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Power.
    pub power: PowerState,
    /// How often it has been started since the enclosure was.
    pub boots: u64,
    /// Every process is stopped.
    pub hung: bool,
    /// Its front-end cable is plugged in.
    pub host_port: bool,
    /// It can reach the power control of its partner.
    pub bmc_reachable: bool,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// Its daemons by name of program.
    pub daemons: BTreeMap<String, Daemon>,
}

/// A watchdog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// It acts when it runs out.
    pub enabled: bool,
    /// Its timeout, ms, while it is armed.
    pub armed_ms: Option<u64>,
    /// How often it has reset the controller.
    pub fired: u64,
}

/// One daemon of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// It has said that it is ready.
    pub ready: bool,
    /// What it last said about itself.
    pub status: String,
    /// It is stopped.
    pub stopped: bool,
    /// Unexpected ends since the controller was started.
    pub crashes: u64,
    /// How it ended last: `exit code 1`, `signal 9`.
    pub last_exit: Option<String>,
    /// It crashed so often that its next start waits.
    pub throttled: bool,
}

/// One leg of the interconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// What was done to it.
    pub cable: Cable,
    /// Both ends have carrier.
    pub carrier: bool,
}

/// One disk of the shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its place.
    pub index: DiskIndex,
    /// Serial number.
    pub serial: String,
    /// Size, bytes.
    pub bytes: u64,
    /// It is a quorum disk: carries no pool and no reservation.
    pub quorum: bool,
    /// Controllers whose path to it is plugged in.
    pub paths: Vec<ControllerId>,
    /// What is wrong with it, in words; empty: nothing.
    pub faults: Vec<String>,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 since the enclosure was started, no gaps.
    pub seq: u64,
    /// When, ns of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Which controller it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub controller: Option<ControllerId>,
    /// Kind: `power_off_begin`, `power_off`, `power_on`, `hang`, `resume`, `leg`, `bond`, `host_port`, `disk_path`,
    /// `disk_fault`, `shelf_power`, `bmc`, `bmc_request`, `watchdog_armed`, `watchdog_fired`, `daemon_start`,
    /// `daemon_ready`, `daemon_exit`, `daemon_signal`, `note`, `start`, `end`.
    pub kind: String,
    /// The thing within: a daemon, a leg, a disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<String>,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub detail: String,
}

/// Power control and watchdog as a controller has them: JSON-RPC 2.0, one object per line, on `bmc.sock` in the
/// controller's own directory.
pub mod bmc {
    use super::PowerState;
    use serde::{Deserialize, Serialize};

    /// `bmc.partner`: no parameters -> [`Partner`].
    pub const PARTNER: &str = "bmc.partner";
    /// `bmc.partner_off`: no parameters -> [`Partner`], answered when the partner is off.
    pub const PARTNER_OFF: &str = "bmc.partner_off";
    /// `bmc.partner_on`: no parameters -> [`Partner`], answered when the partner has power.
    pub const PARTNER_ON: &str = "bmc.partner_on";
    /// `bmc.reset`: no parameters; no answer: the caller's own controller is reset at once.
    pub const RESET: &str = "bmc.reset";
    /// `bmc.watchdog_arm`: [`Arm`] -> `true`.
    pub const WATCHDOG_ARM: &str = "bmc.watchdog_arm";
    /// `bmc.watchdog_pet`: no parameters -> `true`.
    pub const WATCHDOG_PET: &str = "bmc.watchdog_pet";
    /// `bmc.watchdog_disarm`: no parameters -> `true`.
    pub const WATCHDOG_DISARM: &str = "bmc.watchdog_disarm";

    /// Power of the partner.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Partner {
        /// Its power. [`PowerState::Off`] proves that whatever ran there before has stopped.
        pub power: PowerState,
        /// How often it has been started. A higher number than before proves that what ran then has stopped.
        pub boots: u64,
    }

    /// Parameters of [`WATCHDOG_ARM`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Arm {
        /// Not petted for so long, ms: the controller is reset.
        pub timeout_ms: u64,
    }
}
