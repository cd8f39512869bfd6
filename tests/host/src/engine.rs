//! The multipath host: several cables into the array, one device per unit.
//!
//! What `iscsid`, the SCSI midlayer, `multipathd` and dm-multipath are on a Linux host, in one
//! thread: it keeps a session per portal, finds the units behind it, asks each who it is, believes
//! that two paths lead to one device only when both answer with the same designators, prefers the
//! optimized port group, and moves commands to another path by the rules in [`crate::policy`].
//!
//! ```text
//!   submit ──> waiting ──choose path──> session ──> target
//!                 ^                        │
//!                 └── again / other path ──┴── done ──> reply
//! ```
//!
//! Invariants: a command is in exactly one place (waiting, in flight, replied); it is replied
//! exactly once; a write is reported as done only after GOOD; every status but GOOD is counted.
//!
//! Must never: block on one session while another could go on, retry what Linux would not, or use
//! a path whose identity was not compared since its session came up.

mod learn;
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::ffi::{Api, LoadError};
use crate::policy::Settings;
use crate::scsi::{self, AccessState, PortGroup, Status};
use crate::session::{Address, Session};
use crate::time::{ms, now_ns};

/// Where to log in, as whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Initiator name (IQN).
    pub initiator: String,
    /// Target name (IQN); empty takes the one name given here for every portal.
    pub target: String,
    /// One portal (`address:port`) per path; their order numbers the ports.
    pub portals: Vec<String>,
    /// Timeouts and retries.
    #[serde(default)]
    pub settings: Settings,
    /// Ask for CRC32C header digests.
    #[serde(default)]
    pub header_digest: bool,
}

/// What to do with a device.
#[derive(Clone, Debug)]
pub enum Op {
    /// Read logical blocks.
    Read {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// Write logical blocks.
    Write {
        /// First block.
        lba: u64,
        /// A whole number of blocks.
        data: Arc<[u8]>,
        /// Past the cache where the device has one that is volatile; otherwise it waits for a flush.
        durable: bool,
    },
    /// Make everything durable.
    Flush,
}

/// Why a command failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum IoError {
    /// The target's last word.
    #[error("{0} on port {1}")]
    Status(Status, usize),
    /// No usable path for `no_path_retry`.
    #[error("no path for {0} ms")]
    NoPath(u64),
    /// BUSY or TASK SET FULL for the whole life of the command.
    #[error("{0} for the whole life of the command ({1} ms)")]
    Expired(Status, u64),
    /// The host was stopped first.
    #[error("the host was stopped")]
    Stopped,
}

/// The end of a command.
#[derive(Debug)]
pub struct Completion {
    /// The caller's word.
    pub tag: u64,
    /// Data of a read; empty for the others.
    pub result: Result<Vec<u8>, IoError>,
    /// When the caller submitted it.
    pub submitted_ns: u64,
    /// When it ended.
    pub completed_ns: u64,
    /// The port that answered last.
    pub port: usize,
}

/// A device as the host sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Unit number.
    pub lun: u16,
    /// Designators of the unit.
    pub identity: Vec<String>,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of one.
    pub block_size: u32,
    /// The device has a volatile write cache (durable writes carry FUA).
    pub write_cache: bool,
    /// The paths, by port.
    pub paths: Vec<PathInfo>,
}

/// A path as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// The session is logged in.
    pub connected: bool,
    /// Identity compared and no failure since.
    pub usable: bool,
    /// Target port group of this path.
    pub group: Option<u16>,
    /// State of that group; absent when the target has no asymmetric access or never told.
    pub state: Option<AccessState>,
}

/// Something that happened to a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathEvent {
    /// When (CLOCK_MONOTONIC ns).
    pub at_ns: u64,
    /// Which port.
    pub port: usize,
    /// Which unit, if it concerns one alone.
    pub lun: Option<u16>,
    /// What happened.
    pub what: String,
}

/// Everything other than GOOD that the host was ever answered.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Port.
    pub port: usize,
    /// Unit, if known.
    pub lun: Option<u16>,
    /// Status with sense.
    pub status: String,
    /// `io` for the application's commands, `probe` for the host's own.
    pub class: String,
}

/// What the engine shows to the outside.
#[derive(Default)]
struct Observed {
    devices: Vec<DeviceInfo>,
    events: Vec<PathEvent>,
    counts: BTreeMap<Counted, u64>,
    conflicts: Vec<String>,
}

/// A port, and its report of the target port groups or why there is none.
pub type GroupReport = (usize, Result<Vec<PortGroup>, String>);

/// Answer of [`Host::port_groups`], one per port.
pub type GroupReports = Vec<GroupReport>;

enum Request {
    Io(Io),
    PortGroups {
        device: usize,
        reply: Sender<GroupReports>,
    },
    Rescan,
    Stop,
}

struct Io {
    tag: u64,
    device: usize,
    op: Op,
    pin: Option<usize>,
    reply: Sender<Completion>,
    submitted_ns: u64,
    /// Start of the first attempt; limits a command that is BUSY for ever.
    started_ns: Option<u64>,
    not_before: u64,
    no_path_since: Option<u64>,
    retried: u32,
    last_port: usize,
    last_status: Status,
}

/// Questions that the host asks for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    Luns,
    Standard,
    Identification,
    Capacity,
    Cache,
    PortGroups,
    Ready,
}

enum Kind {
    Io(Box<Io>),
    Probe { probe: Probe, retried: u32 },
}

struct Command {
    port: usize,
    device: Option<usize>,
    kind: Kind,
    deadline: u64,
    aborted: bool,
}

struct Port {
    address: Address,
    session: Option<Session>,
    /// When a session that is not up yet is given up, or a lost one is replaced.
    deadline: u64,
    last_heard: u64,
    pinged: Option<u64>,
    /// Deadlines of ABORT TASKs that have no answer yet.
    aborts: VecDeque<u64>,
    last_failure: String,
}

#[derive(Clone, Default)]
struct Path {
    /// The port reported this unit.
    present: bool,
    identified: bool,
    probing: bool,
    failed: bool,
    group: Option<u16>,
    check_at: u64,
    groups_at: u64,
    waiting: Vec<Sender<GroupReport>>,
}

struct Device {
    lun: u16,
    identity: Option<Vec<String>>,
    asymmetric: Option<bool>,
    capacity: Option<scsi::Capacity>,
    write_cache: Option<bool>,
    groups: BTreeMap<u16, AccessState>,
    paths: Vec<Path>,
}

impl Device {
    fn state(&self, port: usize) -> Option<AccessState> {
        if self.asymmetric != Some(true) {
            return None;
        }
        self.paths[port]
            .group
            .and_then(|group| self.groups.get(&group).copied())
    }

    /// 0 = best; none = not to be used.
    fn rank(&self, port: usize) -> Option<u8> {
        let path = &self.paths[port];
        if !path.identified || path.failed {
            return None;
        }
        match self.state(port) {
            Some(AccessState::Optimized) => Some(0),
            Some(AccessState::NonOptimized) => Some(1),
            Some(_) => None,
            None => (self.asymmetric == Some(false)).then_some(0),
        }
    }
}

/// Handle of a running host. Dropping it stops the host.
pub struct Host {
    requests: Sender<Request>,
    wake: UnixStream,
    observed: Arc<Mutex<Observed>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Opens libiscsi and starts connecting to every portal.
    pub fn start(config: HostConfig) -> Result<Self, LoadError> {
        let (requests, inbox) = channel();
        let (ready, outcome) = channel();
        let (wake, woken) = UnixStream::pair().expect("a socket pair");
        wake.set_nonblocking(true).expect("non-blocking socket");
        woken.set_nonblocking(true).expect("non-blocking socket");
        let observed = Arc::new(Mutex::new(Observed::default()));
        let shown = Arc::clone(&observed);
        let thread = std::thread::Builder::new()
            .name("multipath".into())
            .spawn(move || match Api::load() {
                Ok(api) => {
                    ready.send(Ok(())).ok();
                    Engine::new(Rc::new(api), &config, inbox, woken, shown).run();
                }
                Err(err) => {
                    ready.send(Err(err)).ok();
                }
            })
            .expect("a thread");
        outcome.recv().expect("the engine says whether it could start")?;
        Ok(Host {
            requests,
            wake,
            observed,
            thread: Some(thread),
        })
    }

    fn send(&self, request: Request) {
        // A stopped engine answers nothing; callers see their reply channel close.
        if self.requests.send(request).is_ok() {
            // A full pipe means that the engine has been woken already.
            let _ = (&self.wake).write(&[1]);
        }
    }

    /// Submits a command; its completion goes to `reply`. `pin` asks for one port while that is
    /// usable.
    pub fn submit(&self, device: usize, op: Op, pin: Option<usize>, tag: u64, reply: &Sender<Completion>) {
        let now = now_ns();
        self.send(Request::Io(Io {
            tag,
            device,
            op,
            pin,
            reply: reply.clone(),
            submitted_ns: now,
            started_ns: None,
            not_before: 0,
            no_path_since: None,
            retried: 0,
            last_port: 0,
            last_status: Status::Good,
        }));
    }

    /// Submits a command and waits for its end.
    pub fn execute(&self, device: usize, op: Op, pin: Option<usize>) -> Result<Vec<u8>, IoError> {
        let (reply, completion) = channel();
        self.submit(device, op, pin, 0, &reply);
        drop(reply);
        completion.recv().map_err(|_| IoError::Stopped)?.result
    }

    /// Asks both ports for their target port groups, now.
    pub fn port_groups(&self, device: usize) -> GroupReports {
        let (reply, reports) = channel();
        self.send(Request::PortGroups { device, reply });
        reports.recv().unwrap_or_default()
    }

    /// Looks for new units on every port.
    pub fn rescan(&self) {
        self.send(Request::Rescan);
    }

    /// Devices found so far, by unit number.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.observed.lock().expect("engine alive").devices.clone()
    }

    /// What happened to the paths since the start.
    pub fn events(&self) -> Vec<PathEvent> {
        self.observed.lock().expect("engine alive").events.clone()
    }

    /// Every answer other than GOOD, counted.
    pub fn counts(&self) -> Vec<(Counted, u64)> {
        let observed = self.observed.lock().expect("engine alive");
        observed
            .counts
            .iter()
            .map(|(what, count)| (what.clone(), *count))
            .collect()
    }

    /// Paths that claimed to be a device and were not, or answered nonsense.
    pub fn conflicts(&self) -> Vec<String> {
        self.observed.lock().expect("engine alive").conflicts.clone()
    }

    /// Waits until `devices` devices have `paths` usable paths each; says what is missing at the
    /// deadline.
    pub fn wait_ready(&self, devices: usize, paths: usize, timeout_ms: u64) -> Result<(), String> {
        let deadline = now_ns() + ms(timeout_ms);
        loop {
            let found = self.devices();
            let ready = found
                .iter()
                .filter(|d| d.paths.iter().filter(|path| path.usable).count() >= paths)
                .count();
            if ready >= devices {
                return Ok(());
            }
            if now_ns() > deadline {
                let last: Vec<String> = self
                    .events()
                    .iter()
                    .rev()
                    .take(4)
                    .map(|e| format!("port {}: {}", e.port, e.what))
                    .collect();
                return Err(format!(
                    "{ready} of {devices} devices have {paths} usable paths after {timeout_ms} ms; \
                     {} devices seen; last events: {}",
                    found.len(),
                    if last.is_empty() {
                        "none".into()
                    } else {
                        last.join("; ")
                    }
                ));
            }
            crate::time::pause(10);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Engine {
    api: Rc<Api>,
    settings: Settings,
    ports: Vec<Port>,
    devices: Vec<Device>,
    inbox: Receiver<Request>,
    woken: UnixStream,
    waiting: VecDeque<Box<Io>>,
    commands: BTreeMap<u64, Command>,
    next_token: u64,
    observed: Arc<Mutex<Observed>>,
    stopping: bool,
}
