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

crate::contract! {
    service "chassis", rank crate::rank::TOP, door crate::contract::Door::Socket(SOCKET);
    /// The enclosure in software: power buttons, cables, shelf and faults.
    calls [];
    requests {
        /// Everything that the enclosure knows about itself.
        idempotent nobody STATUS = "chassis.status": () => Status, [];
        /// The power button of a controller.
        each nobody POWER = "chassis.power": SetPower => Done, [Conflict, Failed];
        /// Stops every process of a controller, or lets them go on.
        idempotent nobody HANG = "chassis.hang": SetHung => Done, [Conflict, Failed];
        /// Orderly restart: daemons are asked to end, then the power is cycled.
        each nobody REBOOT = "chassis.reboot": Reboot => Done, [Conflict, Failed];
        /// Sends a signal to one daemon of a controller.
        each nobody DAEMON = "chassis.daemon": SignalDaemon => Done, [NotFound, Conflict, Failed];
        /// Cuts or mends one cable of the interconnect.
        idempotent nobody LEG = "chassis.leg": SetLeg => Done, [Failed];
        /// Pulls or plugs the front-end cable of a controller.
        idempotent nobody HOST_PORT = "chassis.host_port": SetHostPort => Done, [Failed];
        /// Cuts or mends the path of one controller to one disk, or to all.
        idempotent nobody DISK_PATH = "chassis.disk_path": SetDiskPath => Done, [NotFound, Failed];
        /// Makes a disk misbehave, or behave again.
        each nobody DISK_FAULT = "chassis.disk_fault": SetDiskFault => Done, [NotFound, Failed];
        /// The shelf's power; what was not flushed is lost.
        each nobody SHELF_POWER = "chassis.shelf_power": SetShelfPower => Done, [Conflict, Failed];
        /// Lets a controller reach the power control of its partner, or not.
        idempotent nobody BMC = "chassis.bmc": SetBmc => Done, [Failed];
        /// Lets the watchdog of a controller act when it runs out, or not.
        idempotent nobody WATCHDOG = "chassis.watchdog": SetWatchdog => Done, [Failed];
        /// Every cable, path, disk, power control and watchdog as new, everything stopped goes on. Power stays as it
        /// is.
        idempotent nobody HEAL = "chassis.heal": () => Done, [Failed];
        /// Writes a line of the caller's into the journal, on the journal's clock.
        each nobody NOTE = "chassis.note": Note => Done, [Failed];
        /// Lines of the journal, oldest first.
        idempotent nobody EVENTS = "chassis.events": EventQuery => Vec<Event>, [];
        /// Ends everything; the answer comes before the end.
        idempotent nobody SHUTDOWN = "chassis.shutdown": () => Done, [];
    }
    notifications {}
    topics {}
}
/// What a power button is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPower {
    /// Which controller.
    pub controller: ControllerId,
    /// What to do.
    pub action: PowerAction,
}

/// Parameters of [`HANG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHung {
    /// Which controller.
    pub controller: ControllerId,
    /// True: stopped; false: goes on.
    pub hung: bool,
}

/// Parameters of [`REBOOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// Which controller.
    pub controller: ControllerId,
    /// How long daemons may take to end, ms; what still lives then loses its power.
    pub grace_ms: u64,
}

/// What happens to one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetLeg {
    /// 0 or 1.
    pub leg: u8,
    /// What becomes of it.
    pub cable: Cable,
}

/// Parameters of [`HOST_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHostPort {
    /// Which controller.
    pub controller: ControllerId,
    /// Plugged in.
    pub connected: bool,
}

/// Parameters of [`DISK_PATH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetShelfPower {
    /// What to do.
    pub action: PowerAction,
}

/// Parameters of [`BMC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetBmc {
    /// The controller that asks.
    pub controller: ControllerId,
    /// It gets an answer.
    pub reachable: bool,
}

/// Parameters of [`WATCHDOG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetWatchdog {
    /// Whose.
    pub controller: ControllerId,
    /// It resets the controller when it runs out.
    pub enabled: bool,
}

/// Parameters of [`NOTE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// What to write.
    pub text: String,
}

/// Parameters of [`EVENTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events with a higher number.
    pub after: u64,
}

/// It has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leg {
    /// What was done to it.
    pub cable: Cable,
    /// Both ends have carrier.
    pub carrier: bool,
}

/// One disk of the shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

    /// File name of the socket in a controller's own directory.
    pub const SOCKET: &str = "bmc.sock";

    crate::contract! {
        service "bmc", rank crate::rank::TOP, door crate::contract::Door::Socket(SOCKET);
        /// Power control and watchdog, as one controller has them.
        calls [];
        requests {
            /// Power of the partner, as its power control reports it.
            idempotent nobody PARTNER = "bmc.partner": () => Partner, [Failed];
            /// Cuts the partner's power; answered when the partner is off.
            idempotent nobody PARTNER_OFF = "bmc.partner_off": () => Partner, [Failed];
            /// Gives the partner power; answered when it has it.
            idempotent nobody PARTNER_ON = "bmc.partner_on": () => Partner, [Failed];
            /// Resets the caller's own controller at once; no answer comes.
            idempotent nobody RESET = "bmc.reset": () => (), [Failed];
            /// Arms the watchdog of the caller's controller.
            idempotent nobody WATCHDOG_ARM = "bmc.watchdog_arm": Arm => bool, [];
            /// Feeds the watchdog. `conflict`: it is not armed.
            idempotent nobody WATCHDOG_PET = "bmc.watchdog_pet": () => bool, [Conflict];
            /// Disarms the watchdog.
            idempotent nobody WATCHDOG_DISARM = "bmc.watchdog_disarm": () => bool, [];
        }
        notifications {}
        topics {}
    }
    /// Power of the partner.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    pub struct Partner {
        /// Its power. [`PowerState::Off`] proves that whatever ran there before has stopped.
        pub power: PowerState,
        /// How often it has been started. A higher number than before proves that what ran then has stopped.
        pub boots: u64,
    }

    /// Parameters of [`WATCHDOG_ARM`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    #[serde(deny_unknown_fields)]
    pub struct Arm {
        /// Not petted for so long, ms: the controller is reset.
        pub timeout_ms: u64,
    }
}
