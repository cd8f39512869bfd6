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

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::ffi::{Api, LoadError};
use crate::policy::{Settings, Verdict, decide};
use crate::scsi::{self, AccessState, Direction, PortGroup, Status};
use crate::session::{Address, Event, Session};
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
    /// Write logical blocks; past the cache where the device has one that is volatile.
    Write {
        /// First block.
        lba: u64,
        /// A whole number of blocks.
        data: Arc<[u8]>,
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
    /// The device has a volatile write cache (writes carry FUA).
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
            std::thread::sleep(std::time::Duration::from_millis(10));
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

impl Engine {
    fn new(
        api: Rc<Api>,
        config: &HostConfig,
        inbox: Receiver<Request>,
        woken: UnixStream,
        observed: Arc<Mutex<Observed>>,
    ) -> Self {
        let seed = crc32c::crc32c(config.initiator.as_bytes());
        let ports = config
            .portals
            .iter()
            .enumerate()
            .map(|(index, portal)| Port {
                address: Address {
                    initiator: config.initiator.clone(),
                    target: config.target.clone(),
                    portal: portal.clone(),
                    isid: (seed & 0x00ff_fff0) | index as u32,
                    header_digest: config.header_digest,
                },
                session: None,
                deadline: 0,
                last_heard: 0,
                pinged: None,
                aborts: VecDeque::new(),
                last_failure: String::new(),
            })
            .collect();
        Engine {
            api,
            settings: config.settings.clone(),
            ports,
            devices: Vec::new(),
            inbox,
            woken,
            waiting: VecDeque::new(),
            commands: BTreeMap::new(),
            next_token: 1,
            observed,
            stopping: false,
        }
    }

    fn run(mut self) {
        while !self.stopping {
            self.take_requests();
            self.timers();
            self.dispatch();
            let ready = self.wait();
            for (port, revents) in ready {
                self.service(port, revents);
            }
            self.show();
        }
        self.finish();
    }

    /// Leaves as a host does that shuts down: logs out, and says so to every waiting caller.
    fn finish(&mut self) {
        for port in &mut self.ports {
            if let Some(session) = &mut port.session {
                session.logout();
                let _ = session.service(libc::POLLOUT);
            }
        }
        for io in std::mem::take(&mut self.waiting) {
            Self::reply(*io, Err(IoError::Stopped));
        }
        for (_, command) in std::mem::take(&mut self.commands) {
            if let Kind::Io(io) = command.kind {
                Self::reply(*io, Err(IoError::Stopped));
            }
        }
    }

    fn take_requests(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Request::Io(io)) if io.device < self.devices.len() => self.waiting.push_back(Box::new(io)),
                Ok(Request::Io(io)) => Self::reply(io, Err(IoError::NoPath(0))),
                Ok(Request::PortGroups { device, reply }) => self.ask_port_groups(device, reply),
                Ok(Request::Rescan) => {
                    for port in 0..self.ports.len() {
                        self.probe(port, None, Probe::Luns, 0);
                    }
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Fans one question out to all ports; a small thread gathers, so that the engine waits for none.
    fn ask_port_groups(&mut self, device: usize, reply: Sender<GroupReports>) {
        let (one, all) = channel();
        if let Some(found) = self.devices.get_mut(device) {
            for port in 0..self.ports.len() {
                if self.ports[port].session.as_ref().is_some_and(Session::is_up) && found.paths[port].present
                {
                    found.paths[port].waiting.push(one.clone());
                    found.paths[port].groups_at = 0;
                } else {
                    one.send((port, Err("not connected".into()))).ok();
                }
            }
        }
        drop(one);
        std::thread::spawn(move || {
            let mut reports: GroupReports = all.iter().collect();
            reports.sort_by_key(|(port, _)| *port);
            reply.send(reports).ok();
        });
    }

    fn wait(&mut self) -> Vec<(usize, i16)> {
        let mut fds = vec![libc::pollfd {
            fd: self.woken.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        let mut owners = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            if let Some((fd, events)) = port.session.as_ref().and_then(Session::interest) {
                fds.push(libc::pollfd {
                    fd,
                    events,
                    revents: 0,
                });
                owners.push(index);
            }
        }
        // Timers are coarse; 5 ms is far below anything that is measured.
        // SAFETY: `fds` is a valid array of its own length for the whole call.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 5) };
        if n > 0 && fds[0].revents != 0 {
            let mut sink = [0; 256];
            while matches!(self.woken.read(&mut sink), Ok(n) if n == sink.len()) {}
        }
        owners
            .into_iter()
            .zip(fds[1..].iter().map(|fd| fd.revents))
            .filter(|(_, r)| *r != 0)
            .collect()
    }

    fn service(&mut self, port: usize, revents: i16) {
        let Some(session) = &mut self.ports[port].session else {
            return;
        };
        let events = session.service(revents);
        if revents & libc::POLLIN != 0 {
            self.ports[port].last_heard = now_ns();
            self.ports[port].pinged = None;
        }
        self.handle(port, events);
    }

    fn handle(&mut self, port: usize, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Up => self.session_up(port),
                Event::Down(reason) => self.session_down(port, &reason),
                Event::Done { token, status, data } => self.command_done(token, status, data),
                Event::Pong => {}
                Event::Aborted { complete } => {
                    self.ports[port].aborts.pop_front();
                    if !complete {
                        self.drop_session(port, "ABORT TASK was not completed");
                    }
                }
            }
        }
    }

    fn note(&self, port: usize, lun: Option<u16>, what: impl Into<String>) {
        let event = PathEvent {
            at_ns: now_ns(),
            port,
            lun,
            what: what.into(),
        };
        self.observed.lock().expect("observer alive").events.push(event);
    }

    fn session_up(&mut self, port: usize) {
        let now = now_ns();
        let entry = &mut self.ports[port];
        entry.last_heard = now;
        entry.pinged = None;
        entry.last_failure.clear();
        self.note(port, None, "logged in");
        self.probe(port, None, Probe::Luns, 0);
        for device in 0..self.devices.len() {
            if self.devices[device].paths[port].present {
                self.identify(port, device);
            }
        }
    }

    fn identify(&mut self, port: usize, device: usize) {
        let path = &mut self.devices[device].paths[port];
        path.identified = false;
        path.failed = false;
        path.probing = true;
        let first = if self.devices[device].asymmetric.is_none() {
            Probe::Standard
        } else {
            Probe::Identification
        };
        self.probe(port, Some(device), first, 0);
    }

    fn session_down(&mut self, port: usize, reason: &str) {
        let was_up = self.ports[port].last_heard != 0;
        let entry = &mut self.ports[port];
        // Dropping the session object waits until its lost commands have been handled: they come
        // as events of the same batch.
        entry.deadline = now_ns() + ms(self.settings.reconnect_ms);
        entry.pinged = None;
        entry.aborts.clear();
        entry.last_heard = 0;
        if was_up || entry.last_failure != reason {
            entry.last_failure = reason.to_owned();
            self.note(port, None, format!("session lost: {reason}"));
        }
        for device in &mut self.devices {
            let path = &mut device.paths[port];
            path.identified = false;
            path.probing = false;
            for reply in path.waiting.drain(..) {
                reply.send((port, Err("session lost".into()))).ok();
            }
        }
    }

    fn drop_session(&mut self, port: usize, reason: &str) {
        if let Some(session) = &mut self.ports[port].session {
            let events = session.drop_now(reason);
            self.handle(port, events);
        }
    }

    fn timers(&mut self) {
        let now = now_ns();
        for port in 0..self.ports.len() {
            self.port_timers(port, now);
        }
        let late: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, command)| !command.aborted && command.deadline <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.time_out(token, now);
        }
        for device in 0..self.devices.len() {
            for port in 0..self.ports.len() {
                self.path_timers(device, port, now);
            }
        }
    }

    fn port_timers(&mut self, port: usize, now: u64) {
        let settings = &self.settings;
        let entry = &mut self.ports[port];
        match &mut entry.session {
            Some(session) if session.is_up() => {
                let verdict = if entry.aborts.front().is_some_and(|deadline| *deadline <= now) {
                    Some("no answer to ABORT TASK")
                } else if let Some(pinged) = entry.pinged {
                    (now >= pinged + ms(settings.noop_timeout_ms)).then_some("no answer to NOP-Out")
                } else if now >= entry.last_heard + ms(settings.noop_interval_ms) {
                    entry.pinged = Some(now);
                    session.ping().err().map(|_| "NOP-Out could not be sent")
                } else {
                    None
                };
                if let Some(reason) = verdict {
                    self.drop_session(port, reason);
                }
            }
            Some(session) if session.interest().is_some() && now >= entry.deadline => {
                self.drop_session(port, "no connection and login in time");
            }
            _ if now >= entry.deadline => {
                entry.session = None;
                entry.deadline = now + ms(settings.login_timeout_ms);
                match Session::open(Rc::clone(&self.api), &entry.address) {
                    Ok(session) => entry.session = Some(session),
                    Err(reason) => self.session_down(port, &reason),
                }
            }
            _ => {}
        }
    }

    fn path_timers(&mut self, device: usize, port: usize, now: u64) {
        if !self.ports[port].session.as_ref().is_some_and(Session::is_up) {
            return;
        }
        let asymmetric = self.devices[device].asymmetric == Some(true);
        let path = &mut self.devices[device].paths[port];
        if !path.present || path.probing {
            return;
        }
        if !path.identified {
            if now >= path.check_at {
                path.check_at = now + ms(self.settings.checker_ms);
                self.identify(port, device);
            }
            return;
        }
        let check = now >= path.check_at;
        let groups = asymmetric && (check || now >= path.groups_at);
        if check {
            path.check_at = now + ms(self.settings.checker_ms);
            self.probe(port, Some(device), Probe::Ready, 0);
        }
        if groups {
            self.devices[device].paths[port].groups_at = u64::MAX;
            self.probe(port, Some(device), Probe::PortGroups, 0);
        }
    }

    fn time_out(&mut self, token: u64, now: u64) {
        let Some(command) = self.commands.get_mut(&token) else {
            return;
        };
        command.aborted = true;
        let port = command.port;
        let aborted = match &mut self.ports[port].session {
            Some(session) => session.abort(token),
            None => return,
        };
        match aborted {
            Ok(()) => {
                self.ports[port]
                    .aborts
                    .push_back(now + ms(self.settings.abort_timeout_ms));
                // The library has ended the command already; fetch that.
                self.service(port, 0);
            }
            Err(reason) => self.drop_session(port, &format!("ABORT TASK could not be sent: {reason}")),
        }
    }

    // Sending.

    fn dispatch(&mut self) {
        let now = now_ns();
        for _ in 0..self.waiting.len() {
            let Some(mut io) = self.waiting.pop_front() else {
                return;
            };
            if io.not_before > now {
                self.waiting.push_back(io);
                continue;
            }
            let Some(port) = self.choose(io.device, io.pin) else {
                let since = *io.no_path_since.get_or_insert(now);
                if now - since >= ms(self.settings.no_path_retry_ms) {
                    Self::reply(*io, Err(IoError::NoPath(self.settings.no_path_retry_ms)));
                } else {
                    self.waiting.push_back(io);
                }
                continue;
            };
            self.send_io(port, io, now);
        }
    }

    fn choose(&self, device: usize, pin: Option<usize>) -> Option<usize> {
        let up = |port: usize| self.ports[port].session.as_ref().is_some_and(Session::is_up);
        let rank = |port: usize| {
            if up(port) {
                self.devices[device].rank(port)
            } else {
                None
            }
        };
        if let Some(port) = pin.filter(|port| *port < self.ports.len() && rank(*port).is_some()) {
            return Some(port);
        }
        (0..self.ports.len())
            .filter_map(|port| Some((rank(port)?, port)))
            .min()
            .map(|(_, port)| port)
    }

    fn send_io(&mut self, port: usize, mut io: Box<Io>, now: u64) {
        let device = &self.devices[io.device];
        let (lun, fua) = (device.lun, device.write_cache == Some(true));
        let block_size = device.capacity.map_or(512, |capacity| capacity.block_size) as usize;
        let (cdb, direction, buffer) = match &io.op {
            Op::Read { lba, blocks } => (
                scsi::read16(*lba, *blocks),
                Direction::In,
                vec![0; *blocks as usize * block_size],
            ),
            Op::Write { lba, data } => {
                let blocks = (data.len() / block_size) as u32;
                (scsi::write16(*lba, blocks, fua), Direction::Out, data.to_vec())
            }
            Op::Flush => (scsi::synchronize_cache16(), Direction::None, Vec::new()),
        };
        if io.last_port != port {
            io.retried = 0;
        }
        io.last_port = port;
        io.started_ns.get_or_insert(now);
        io.no_path_since = None;
        let index = io.device;
        self.send(port, Some(index), lun, &cdb, direction, buffer, Kind::Io(io));
    }

    fn probe(&mut self, port: usize, device: Option<usize>, probe: Probe, retried: u32) {
        let lun = device.map_or(0, |device| self.devices[device].lun);
        let (cdb, length): (Vec<u8>, usize) = match probe {
            Probe::Luns => (scsi::report_luns(4096).into(), 4096),
            Probe::Standard => (scsi::inquiry(None, 96).into(), 96),
            Probe::Identification => (scsi::inquiry(Some(0x83), 1024).into(), 1024),
            Probe::Capacity => (scsi::read_capacity16().into(), 32),
            Probe::Cache => (scsi::mode_sense_caching(192).into(), 192),
            Probe::PortGroups => (scsi::report_target_port_groups(1024).into(), 1024),
            Probe::Ready => (scsi::test_unit_ready().into(), 0),
        };
        let direction = if length == 0 {
            Direction::None
        } else {
            Direction::In
        };
        self.send(
            port,
            device,
            lun,
            &cdb,
            direction,
            vec![0; length],
            Kind::Probe { probe, retried },
        );
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command, used once")]
    fn send(
        &mut self,
        port: usize,
        device: Option<usize>,
        lun: u16,
        cdb: &[u8],
        direction: Direction,
        buffer: Vec<u8>,
        kind: Kind,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        let deadline = now_ns() + ms(self.settings.command_timeout_ms);
        self.commands.insert(
            token,
            Command {
                port,
                device,
                kind,
                deadline,
                aborted: false,
            },
        );
        let sent = match &mut self.ports[port].session {
            Some(session) => session
                .send(token, lun, cdb, direction, buffer)
                .map_err(|(reason, _)| reason),
            None => Err("no session".to_owned()),
        };
        if sent.is_err() {
            self.command_done(token, Status::TransportLost, Vec::new());
        }
    }

    // Answers.

    fn count(&self, port: usize, device: Option<usize>, status: Status, class: &str) {
        let what = Counted {
            port,
            lun: device.map(|device| self.devices[device].lun),
            status: status.to_string(),
            class: class.to_owned(),
        };
        *self
            .observed
            .lock()
            .expect("observer alive")
            .counts
            .entry(what)
            .or_default() += 1;
    }

    fn command_done(&mut self, token: u64, status: Status, data: Vec<u8>) {
        let Some(command) = self.commands.remove(&token) else {
            return;
        };
        let (port, device) = (command.port, command.device);
        if status != Status::Good {
            let class = if matches!(command.kind, Kind::Io(_)) {
                "io"
            } else {
                "probe"
            };
            self.count(port, device, status, class);
        }
        self.look_at_sense(port, device, status);
        match command.kind {
            Kind::Io(io) => self.io_done(io, port, status, data),
            Kind::Probe { probe, retried } => self.probe_done(port, device, probe, retried, status, &data),
        }
    }

    /// What a status tells about the path, whatever command it answered.
    fn look_at_sense(&mut self, port: usize, device: Option<usize>, status: Status) {
        let Status::CheckCondition(sense) = status else {
            return;
        };
        let Some(index) = device else { return };
        let device = &mut self.devices[index];
        if sense.is_access_state_changed() {
            device.paths[port].groups_at = 0;
            self.note(
                port,
                Some(self.devices[index].lun),
                "unit attention: access state changed",
            );
        } else if sense.key == scsi::NOT_READY && (sense.asc, sense.ascq) == (0x04, 0x0a) {
            if let Some(group) = device.paths[port].group {
                device.groups.insert(group, AccessState::Transitioning);
            }
            device.paths[port].groups_at = now_ns() + ms(self.settings.transition_poll_ms);
        } else if sense.key == scsi::UNIT_ATTENTION && (sense.asc, sense.ascq) == (0x3f, 0x0e) {
            self.probe(port, None, Probe::Luns, 0);
        }
    }

    fn io_done(&mut self, mut io: Box<Io>, port: usize, status: Status, data: Vec<u8>) {
        io.last_status = status;
        match decide(status, io.retried, &self.settings) {
            Verdict::Done => Self::reply(*io, Ok(data)),
            Verdict::FailIo => Self::reply(*io, Err(IoError::Status(status, port))),
            Verdict::Again { delay_ns, counted } => {
                let now = now_ns();
                let life = ms(self.settings.command_timeout_ms) * u64::from(self.settings.retries + 1);
                if now - io.started_ns.unwrap_or(now) > life {
                    let expired = IoError::Expired(status, life / ms(1));
                    return Self::reply(*io, Err(expired));
                }
                io.retried += u32::from(counted);
                io.not_before = now + delay_ns;
                self.waiting.push_front(io);
            }
            Verdict::FailPath => {
                self.fail_path(io.device, port, status);
                io.retried = 0;
                self.waiting.push_front(io);
            }
        }
    }

    fn fail_path(&mut self, device: usize, port: usize, status: Status) {
        let path = &mut self.devices[device].paths[port];
        // A lost session has its own event and fails all its paths anyway.
        if !path.failed && status != Status::TransportLost {
            path.failed = true;
            path.check_at = now_ns() + ms(self.settings.checker_ms);
            self.note(
                port,
                Some(self.devices[device].lun),
                format!("path failed: {status}"),
            );
        }
    }

    fn reply(io: Io, result: Result<Vec<u8>, IoError>) {
        let completion = Completion {
            tag: io.tag,
            result,
            submitted_ns: io.submitted_ns,
            completed_ns: now_ns(),
            port: io.last_port,
        };
        // A caller that has gone away does not want to know.
        io.reply.send(completion).ok();
    }

    fn probe_done(
        &mut self,
        port: usize,
        device: Option<usize>,
        probe: Probe,
        retried: u32,
        status: Status,
        data: &[u8],
    ) {
        match decide(status, retried, &self.settings) {
            Verdict::Done => match self.learn(port, device, probe, data) {
                Ok(Some(next)) => self.probe(port, device, next, 0),
                Ok(None) => {}
                Err(reason) => self.probe_failed(port, device, probe, &reason),
            },
            Verdict::Again { counted, .. } if retried < 100 => {
                self.probe(port, device, probe, retried + u32::from(counted));
            }
            // A unit without this page or command: go on without what it would have told.
            Verdict::FailIo if matches!(probe, Probe::Cache) => {
                let index = device.expect("a unit's page");
                self.devices[index].write_cache = Some(true);
                if let Some(next) = self.after_cache(port, index) {
                    self.probe(port, device, next, 0);
                }
            }
            _ => self.probe_failed(port, device, probe, &status.to_string()),
        }
    }

    fn probe_failed(&mut self, port: usize, device: Option<usize>, probe: Probe, reason: &str) {
        let lun = device.map(|device| self.devices[device].lun);
        self.note(port, lun, format!("{probe:?} failed: {reason}"));
        let Some(index) = device else { return };
        let check_at = now_ns() + ms(self.settings.checker_ms);
        let path = &mut self.devices[index].paths[port];
        path.probing = false;
        path.check_at = check_at;
        path.groups_at = check_at;
        if !matches!(probe, Probe::PortGroups) {
            path.failed = true;
        }
        for reply in path.waiting.drain(..) {
            reply.send((port, Err(reason.to_owned()))).ok();
        }
    }

    /// Takes in a GOOD answer; returns the next question about this path.
    fn learn(
        &mut self,
        port: usize,
        device: Option<usize>,
        probe: Probe,
        data: &[u8],
    ) -> Result<Option<Probe>, String> {
        if probe == Probe::Luns {
            let luns = scsi::parse_luns(data).map_err(|err| err.to_string())?;
            self.units_found(port, &luns);
            return Ok(None);
        }
        let index = device.expect("every other question is to a unit");
        let device = &mut self.devices[index];
        match probe {
            Probe::Luns => Ok(None),
            Probe::Standard => {
                device.asymmetric = Some(scsi::parse_tpgs(data).map_err(|err| err.to_string())? != 0);
                Ok(Some(Probe::Identification))
            }
            Probe::Identification => {
                let id = scsi::parse_identification(data).map_err(|err| err.to_string())?;
                let known = device.identity.get_or_insert_with(|| id.unit.clone());
                if *known != id.unit {
                    let conflict = format!(
                        "LUN {} on port {port} says it is {:?}, another path said {known:?}",
                        device.lun, id.unit
                    );
                    self.observed
                        .lock()
                        .expect("observer alive")
                        .conflicts
                        .push(conflict.clone());
                    return Err(conflict);
                }
                device.paths[port].group = id.group;
                Ok(match (device.capacity, device.asymmetric) {
                    (None, _) => Some(Probe::Capacity),
                    (Some(_), Some(true)) => Some(Probe::PortGroups),
                    _ => {
                        self.path_ready(port, index);
                        None
                    }
                })
            }
            Probe::Capacity => {
                device.capacity = Some(scsi::parse_capacity(data).map_err(|err| err.to_string())?);
                Ok(Some(Probe::Cache))
            }
            Probe::Cache => {
                device.write_cache = Some(scsi::parse_write_cache(data).map_err(|err| err.to_string())?);
                Ok(self.after_cache(port, index))
            }
            Probe::PortGroups => {
                let groups = scsi::parse_target_port_groups(data).map_err(|err| err.to_string())?;
                self.groups_reported(port, index, groups);
                Ok(None)
            }
            Probe::Ready => {
                let path = &mut device.paths[port];
                if path.failed {
                    path.failed = false;
                    self.note(port, Some(self.devices[index].lun), "path reinstated");
                }
                Ok(None)
            }
        }
    }

    fn after_cache(&mut self, port: usize, device: usize) -> Option<Probe> {
        if self.devices[device].asymmetric == Some(true) {
            return Some(Probe::PortGroups);
        }
        self.path_ready(port, device);
        None
    }

    fn path_ready(&mut self, port: usize, device: usize) {
        let path = &mut self.devices[device].paths[port];
        path.probing = false;
        path.identified = true;
        path.check_at = now_ns() + ms(self.settings.checker_ms);
    }

    fn groups_reported(&mut self, port: usize, index: usize, groups: Vec<PortGroup>) {
        let now = now_ns();
        let device = &mut self.devices[index];
        let before: Vec<_> = (0..device.paths.len()).map(|port| device.state(port)).collect();
        for group in &groups {
            device.groups.insert(group.group, group.state);
        }
        let after: Vec<_> = (0..device.paths.len()).map(|port| device.state(port)).collect();
        let transitioning = groups
            .iter()
            .any(|group| group.state == AccessState::Transitioning);
        let poll = if transitioning {
            self.settings.transition_poll_ms
        } else {
            self.settings.checker_ms
        };
        let path = &mut device.paths[port];
        path.groups_at = now + ms(poll);
        for reply in path.waiting.drain(..) {
            reply.send((port, Ok(groups.clone()))).ok();
        }
        let lun = device.lun;
        for (other, (old, new)) in before.into_iter().zip(after).enumerate() {
            if let Some(new) = new.filter(|_| old != new) {
                self.note(other, Some(lun), format!("{new:?}, said port {port}"));
            }
        }
        if !self.devices[index].paths[port].identified {
            self.path_ready(port, index);
        }
    }

    fn units_found(&mut self, port: usize, luns: &[u16]) {
        for lun in luns {
            let index = match self.devices.iter().position(|device| device.lun == *lun) {
                Some(index) => index,
                None => {
                    self.devices.push(Device {
                        lun: *lun,
                        identity: None,
                        asymmetric: None,
                        capacity: None,
                        write_cache: None,
                        groups: BTreeMap::new(),
                        paths: vec![Path::default(); self.ports.len()],
                    });
                    self.devices.len() - 1
                }
            };
            if !self.devices[index].paths[port].present {
                self.devices[index].paths[port].present = true;
                self.identify(port, index);
            }
        }
    }

    fn show(&mut self) {
        let devices = self
            .devices
            .iter()
            .map(|device| DeviceInfo {
                lun: device.lun,
                identity: device.identity.clone().unwrap_or_default(),
                blocks: device.capacity.map_or(0, |capacity| capacity.blocks),
                block_size: device.capacity.map_or(0, |capacity| capacity.block_size),
                write_cache: device.write_cache == Some(true),
                paths: (0..self.ports.len())
                    .map(|port| {
                        let connected = self.ports[port].session.as_ref().is_some_and(Session::is_up);
                        PathInfo {
                            connected,
                            usable: connected && device.rank(port).is_some(),
                            group: device.paths[port].group,
                            state: device.state(port),
                        }
                    })
                    .collect(),
            })
            .collect();
        self.observed.lock().expect("observer alive").devices = devices;
    }
}
