//! What comes back: the application's answers go to the application, the host's own questions teach
//! it which device is behind which path and which path is to be preferred.

use super::{Completion, Counted, Device, Engine, Io, IoError, Kind, Path, Probe};
use crate::policy::{Verdict, decide};
use crate::scsi::{self, AccessState, PortGroup, Status};
use crate::time::{ms, now_ns};
use std::collections::BTreeMap;

impl Engine {
    pub(super) fn count(&self, port: usize, device: Option<usize>, status: Status, class: &str) {
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

    pub(super) fn command_done(&mut self, token: u64, status: Status, data: Vec<u8>) {
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
    pub(super) fn look_at_sense(&mut self, port: usize, device: Option<usize>, status: Status) {
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

    pub(super) fn io_done(&mut self, mut io: Box<Io>, port: usize, status: Status, data: Vec<u8>) {
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

    pub(super) fn fail_path(&mut self, device: usize, port: usize, status: Status) {
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

    pub(super) fn reply(io: Io, result: Result<Vec<u8>, IoError>) {
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

    pub(super) fn probe_done(
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

    pub(super) fn probe_failed(&mut self, port: usize, device: Option<usize>, probe: Probe, reason: &str) {
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
    pub(super) fn learn(
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

    pub(super) fn after_cache(&mut self, port: usize, device: usize) -> Option<Probe> {
        if self.devices[device].asymmetric == Some(true) {
            return Some(Probe::PortGroups);
        }
        self.path_ready(port, device);
        None
    }

    pub(super) fn path_ready(&mut self, port: usize, device: usize) {
        let path = &mut self.devices[device].paths[port];
        path.probing = false;
        path.identified = true;
        path.check_at = now_ns() + ms(self.settings.checker_ms);
    }

    pub(super) fn groups_reported(&mut self, port: usize, index: usize, groups: Vec<PortGroup>) {
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

    pub(super) fn units_found(&mut self, port: usize, luns: &[u16]) {
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
}
