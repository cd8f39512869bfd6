//! The engine's loop: sessions, timers, and commands on their way out.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};

use super::{
    Command, DeviceInfo, Engine, GroupReports, HostConfig, Io, IoError, Kind, Observed, Op, PathEvent,
    PathInfo, Port, Probe, Request,
};
use crate::ffi::Api;
use crate::scsi::{self, Direction, Status};
use crate::session::{Address, Event, Session};
use crate::time::{ms, now_ns};

impl Engine {
    pub(super) fn new(
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

    pub(super) fn run(mut self) {
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
    pub(super) fn finish(&mut self) {
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

    pub(super) fn take_requests(&mut self) {
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
    pub(super) fn ask_port_groups(&mut self, device: usize, reply: Sender<GroupReports>) {
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

    pub(super) fn wait(&mut self) -> Vec<(usize, i16)> {
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

    pub(super) fn service(&mut self, port: usize, revents: i16) {
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

    pub(super) fn handle(&mut self, port: usize, events: Vec<Event>) {
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

    pub(super) fn note(&self, port: usize, lun: Option<u16>, what: impl Into<String>) {
        let event = PathEvent {
            at_ns: now_ns(),
            port,
            lun,
            what: what.into(),
        };
        self.observed.lock().expect("observer alive").events.push(event);
    }

    pub(super) fn session_up(&mut self, port: usize) {
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

    pub(super) fn identify(&mut self, port: usize, device: usize) {
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

    pub(super) fn session_down(&mut self, port: usize, reason: &str) {
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

    pub(super) fn drop_session(&mut self, port: usize, reason: &str) {
        if let Some(session) = &mut self.ports[port].session {
            let events = session.drop_now(reason);
            self.handle(port, events);
        }
    }

    pub(super) fn timers(&mut self) {
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

    pub(super) fn port_timers(&mut self, port: usize, now: u64) {
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

    pub(super) fn path_timers(&mut self, device: usize, port: usize, now: u64) {
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

    pub(super) fn time_out(&mut self, token: u64, now: u64) {
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

    pub(super) fn dispatch(&mut self) {
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

    pub(super) fn choose(&self, device: usize, pin: Option<usize>) -> Option<usize> {
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

    pub(super) fn send_io(&mut self, port: usize, mut io: Box<Io>, now: u64) {
        let device = &self.devices[io.device];
        let (lun, fua) = (device.lun, device.write_cache == Some(true));
        let block_size = device.capacity.map_or(512, |capacity| capacity.block_size) as usize;
        let (cdb, direction, buffer) = match &io.op {
            Op::Read { lba, blocks } => (
                scsi::read16(*lba, *blocks),
                Direction::In,
                vec![0; *blocks as usize * block_size],
            ),
            Op::Write { lba, data, durable } => {
                let fua = fua && *durable;
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

    pub(super) fn probe(&mut self, port: usize, device: Option<usize>, probe: Probe, retried: u32) {
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
    pub(super) fn send(
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

    pub(super) fn show(&mut self) {
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
