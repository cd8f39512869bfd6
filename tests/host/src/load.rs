//! Load for a stopwatch: one session, commands of one kind, so many of them in flight.
//!
//! The notary ([`crate::workload`]) asks whether what it reads is right; this asks how long it takes, and of any target
//! that speaks iSCSI, with the same library and the same loop. It does as little else as it can, because what it does is
//! paid for by the same processors.
//!
//! Every 4 KiB that are written carry their number in their first bytes, and reads look at it: a target that is fast
//! because it answers something else is found out. A volume that is to be read is filled first ([`Kind::Fill`]).
//!
//! Must never: take a command as done that was not answered with GOOD, or go on after one that was not.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::block::Random;
use crate::ffi::Api;
use crate::scsi::{self, Direction, Status, UNIT_ATTENTION};
use crate::session::{Address, Event, Session};
use crate::time::{ms, now_ns};

/// Every so many bytes there is a number.
const STAMPED: usize = 4096;
/// How long a login, and any answer, may take.
const ANSWER: u64 = ms(30_000);
/// Unit attentions that a target may have for a session that is new.
const ATTENTIONS: usize = 8;

/// What the commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Read anywhere.
    RandomRead,
    /// Write anywhere.
    RandomWrite,
    /// Read from the start, and again from the start.
    SequentialRead,
    /// Write from the start, and again from the start.
    SequentialWrite,
    /// Write everything once, however long it takes.
    Fill,
}

impl Kind {
    fn reads(self) -> bool {
        matches!(self, Kind::RandomRead | Kind::SequentialRead)
    }
}

/// Which load, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadConfig {
    /// Initiator name.
    pub initiator: String,
    /// Target name.
    pub target: String,
    /// `address:port`.
    pub portal: String,
    /// Unit number.
    pub lun: u16,
    /// What the commands do.
    pub kind: Kind,
    /// Bytes of a command; a multiple of 4096.
    pub bytes: u32,
    /// Commands in flight.
    pub depth: u32,
    /// Before the measurement, ms.
    pub warm_ms: u64,
    /// The measurement, ms.
    pub time_ms: u64,
    /// Says where random commands go.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Commands that ended within the measurement.
    pub commands: u64,
    /// Commands from the first to the last, which includes those before and after the measurement.
    pub all: u64,
    /// Length of the measurement, ns.
    pub took_ns: u64,
    /// Half of the commands took no longer, ns.
    pub p50_ns: u64,
    /// 99 of 100 commands took no longer, ns.
    pub p99_ns: u64,
}

/// Logs in, loads, logs out. Blocks until it is done.
pub fn run(config: &LoadConfig) -> Result<LoadReport, String> {
    let bytes = config.bytes as usize;
    if bytes == 0 || !bytes.is_multiple_of(STAMPED) || config.depth == 0 {
        return Err(format!(
            "{bytes} bytes, {} in flight: bytes have to be a multiple of {STAMPED}, commands in flight 1 or more",
            config.depth
        ));
    }
    let api = Api::load().map_err(|err| err.to_string())?;
    let mut load = Load::log_in(Rc::new(api), config)?;
    let report = load.measure()?;
    load.session.logout();
    let _ = load.session.service(libc::POLLOUT);
    Ok(report)
}

struct Load<'a> {
    config: &'a LoadConfig,
    session: Session,
    block_size: u32,
    /// Places for commands on the volume.
    places: u64,
    random: Random,
    next_place: u64,
    /// By token: where the command in flight goes, and when it left.
    in_flight: Vec<Option<(u64, u64)>>,
    /// Buffers of reads, to be used again.
    buffers: Vec<Vec<u8>>,
}

impl<'a> Load<'a> {
    fn log_in(api: Rc<Api>, config: &'a LoadConfig) -> Result<Self, String> {
        let session = Session::open(
            api,
            &Address {
                initiator: config.initiator.clone(),
                target: config.target.clone(),
                portal: config.portal.clone(),
                isid: std::process::id() & 0x00ff_ffff,
                header_digest: false,
            },
        )?;
        let mut load = Load {
            config,
            session,
            block_size: 0,
            places: 0,
            random: Random::new(config.seed),
            next_place: 0,
            in_flight: vec![None; config.depth as usize],
            buffers: Vec::new(),
        };
        let until = now_ns() + ANSWER;
        while !load.session.is_up() {
            load.next_events(until)?;
        }
        for attention in 0.. {
            match load.one(&scsi::test_unit_ready(), Direction::None, 0)? {
                (Status::Good, _) => break,
                (Status::CheckCondition(sense), _)
                    if sense.key == UNIT_ATTENTION && attention < ATTENTIONS => {}
                (status, _) => return Err(format!("TEST UNIT READY: {status}")),
            }
        }
        let (status, data) = load.one(&scsi::read_capacity16(), Direction::In, 32)?;
        if status != Status::Good {
            return Err(format!("READ CAPACITY (16): {status}"));
        }
        let capacity = scsi::parse_capacity(&data).map_err(|err| err.to_string())?;
        load.block_size = capacity.block_size;
        load.places = capacity.blocks * u64::from(capacity.block_size) / u64::from(config.bytes);
        if load.places < u64::from(config.depth) {
            let (lun, places, bytes) = (config.lun, load.places, config.bytes);
            return Err(format!(
                "LUN {lun} has room for {places} times {bytes} bytes only"
            ));
        }
        Ok(load)
    }

    /// Waits until something has come, and lets the library look at it.
    fn next_events(&mut self, until: u64) -> Result<Vec<Event>, String> {
        let portal = &self.config.portal;
        let Some((fd, events)) = self.session.interest() else {
            return Err(format!("{portal}: not connected"));
        };
        let now = now_ns();
        if now >= until {
            return Err(format!("{portal}: no answer within {} s", ANSWER / ms(1000)));
        }
        let mut fds = [libc::pollfd {
            fd,
            events,
            revents: 0,
        }];
        let wait = ((until - now) / ms(1)).max(1) as libc::c_int;
        // SAFETY: one valid pollfd, written to during the call only.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 1, wait) };
        if ready <= 0 {
            return Ok(Vec::new());
        }
        let events = self.session.service(fds[0].revents);
        for event in &events {
            if let Event::Down(reason) = event {
                return Err(format!("{portal}: session lost: {reason}"));
            }
        }
        Ok(events)
    }

    /// One command of those that come before the load.
    fn one(&mut self, cdb: &[u8], direction: Direction, length: usize) -> Result<(Status, Vec<u8>), String> {
        let buffer = vec![0; length];
        let sent = self.session.send(0, self.config.lun, cdb, direction, buffer);
        sent.map_err(|(reason, _)| reason)?;
        let until = now_ns() + ANSWER;
        loop {
            for event in self.next_events(until)? {
                if let Event::Done { status, data, .. } = event {
                    return Ok((status, data));
                }
            }
        }
    }

    fn place(&mut self) -> u64 {
        match self.config.kind {
            Kind::RandomRead | Kind::RandomWrite => self.random.below(self.places),
            Kind::SequentialRead | Kind::SequentialWrite | Kind::Fill => {
                let place = self.next_place % self.places;
                self.next_place += 1;
                place
            }
        }
    }

    fn send(&mut self, token: usize) -> Result<(), String> {
        let (lun, bytes) = (self.config.lun, self.config.bytes as usize);
        let place = self.place();
        let blocks = self.config.bytes / self.block_size;
        let lba = place * u64::from(blocks);
        let (cdb, direction, buffer) = if self.config.kind.reads() {
            let buffer = self.buffers.pop().unwrap_or_else(|| vec![0; bytes]);
            (scsi::read16(lba, blocks), Direction::In, buffer)
        } else {
            let mut buffer = vec![0; bytes];
            stamp(&mut buffer, place);
            (scsi::write16(lba, blocks, false), Direction::Out, buffer)
        };
        self.in_flight[token] = Some((place, now_ns()));
        self.session
            .send(token as u64, lun, &cdb, direction, buffer)
            .map_err(|(reason, _)| reason)
    }

    fn measure(&mut self) -> Result<LoadReport, String> {
        let fill = self.config.kind == Kind::Fill;
        let begin = now_ns() + ms(self.config.warm_ms);
        let end = begin + ms(self.config.time_ms);
        let mut report = LoadReport::default();
        let mut times = Vec::with_capacity(1 << 16);
        let (mut flying, mut last) = (0_usize, begin);
        for token in 0..self.in_flight.len() {
            self.send(token)?;
            flying += 1;
        }
        while flying > 0 {
            for event in self.next_events(now_ns() + ANSWER)? {
                let Event::Done { token, status, data } = event else {
                    continue;
                };
                let now = now_ns();
                let token = token as usize;
                let (place, sent) = self.in_flight[token]
                    .take()
                    .ok_or("a command was answered twice")?;
                if status != Status::Good {
                    return Err(format!("{:?} at place {place}: {status}", self.config.kind));
                }
                if self.config.kind.reads() {
                    check(&data, place)?;
                    self.buffers.push(data);
                }
                report.all += 1;
                // The first counts however late it is: the measurement lasts until one has ended.
                if now >= begin && (fill || now < end || times.is_empty()) {
                    times.push(now - sent);
                    last = now;
                }
                let more = if fill {
                    self.next_place < self.places
                } else {
                    now < end || times.is_empty()
                };
                if more {
                    self.send(token)?;
                } else {
                    flying -= 1;
                }
            }
        }
        report.commands = times.len() as u64;
        report.took_ns = if fill { last - begin } else { last.max(end) - begin };
        times.sort_unstable();
        let percentile = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(place).copied().unwrap_or_default()
        };
        (report.p50_ns, report.p99_ns) = (percentile(50), percentile(99));
        Ok(report)
    }
}

/// The number of a piece: never zero, so that what was never written is told from the first.
fn number(bytes: usize, place: u64, piece: usize) -> u64 {
    place * (bytes / STAMPED) as u64 + piece as u64 + 1
}

fn stamp(buffer: &mut [u8], place: u64) {
    let bytes = buffer.len();
    for (piece, chunk) in buffer.chunks_exact_mut(STAMPED).enumerate() {
        chunk[..8].copy_from_slice(&number(bytes, place, piece).to_le_bytes());
    }
}

fn check(data: &[u8], place: u64) -> Result<(), String> {
    for (piece, chunk) in data.chunks_exact(STAMPED).enumerate() {
        let expected = number(data.len(), place, piece);
        if chunk[..8] != expected.to_le_bytes() {
            let found = u64::from_le_bytes(chunk[..8].try_into().expect("eight bytes"));
            return Err(format!("read piece {found} where {expected} was written"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_apart_whatever_the_size_of_the_commands_was() {
        let mut large = vec![0; 4 * STAMPED];
        stamp(&mut large, 3);
        assert_eq!(check(&large, 3), Ok(()));
        for piece in 0..4 {
            let small = &large[piece * STAMPED..][..STAMPED];
            assert_eq!(check(small, 12 + piece as u64), Ok(()));
        }
        assert!(check(&large, 2).is_err());
        let unwritten = check(&[0; STAMPED], 0).unwrap_err();
        assert!(unwritten.contains("piece 0 where 1"), "{unwritten}");
    }

    #[test]
    fn a_load_that_makes_no_sense_is_refused() {
        let config = LoadConfig {
            initiator: "iqn.2026-01.org.pollux.host:test".into(),
            target: "iqn.2026-01.org.pollux:test".into(),
            portal: "127.0.0.1:1".into(),
            lun: 0,
            kind: Kind::RandomRead,
            bytes: 1000,
            depth: 1,
            warm_ms: 0,
            time_ms: 1,
            seed: 0,
        };
        let refused = run(&config).unwrap_err();
        assert!(refused.contains("multiple of 4096"), "{refused}");
        let none = LoadConfig {
            bytes: 4096,
            depth: 0,
            ..config
        };
        assert!(run(&none).is_err());
    }
}
