//! One session, and any command: for questions that no engine asks (reservations, pages, aborts).
//!
//! The engine does what a host does; this does what it is told, once, and hands back what came. Nothing is retried.
//!
//! Must never: take silence for an answer. A command that has not ended in time is still in flight, and is said to be.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::ffi::Api;
use crate::scsi::{Direction, Status};
use crate::session::{Address, Event, Session};
use crate::time::{ms, now_ns};

/// Who logs in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Initiator name.
    pub initiator: String,
    /// Distinguishes the sessions of one initiator; 24 bits.
    pub isid: u32,
    /// Target name.
    pub target: String,
    /// `address:port`.
    pub portal: String,
}

/// How a command has ended: its status, and the whole buffer of one that brings data.
pub type Ended = (Status, Vec<u8>);

/// A session. Dropping it closes the connection without a word.
pub struct Single {
    session: Session,
    portal: String,
    next: u64,
    ended: BTreeMap<u64, Ended>,
    /// Answers to ABORT TASK, oldest first: whether the target took it.
    aborted: Vec<bool>,
    down: Option<String>,
}

impl Single {
    /// Logs in.
    ///
    /// # Errors
    /// In words: no library, refused, or not done within `limit`.
    pub fn log_in(login: &Login, limit: Duration) -> Result<Self, String> {
        let api = Api::load().map_err(|error| error.to_string())?;
        let session = Session::open(
            Rc::new(api),
            &Address {
                initiator: login.initiator.clone(),
                target: login.target.clone(),
                portal: login.portal.clone(),
                isid: login.isid & 0x00ff_ffff,
                header_digest: false,
            },
        )?;
        let mut single = Single {
            session,
            portal: login.portal.clone(),
            next: 0,
            ended: BTreeMap::new(),
            aborted: Vec::new(),
            down: None,
        };
        if !single.serve_until(limit, |single| single.session.is_up())? {
            return Err(format!("{}: not logged in within {limit:?}", login.portal));
        }
        Ok(single)
    }

    /// Lets the library work until `done` says so; false: it has not within `limit`.
    fn serve_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let until = now_ns() + ms(limit.as_millis() as u64);
        loop {
            if done(self) {
                return Ok(true);
            }
            if let Some(reason) = &self.down {
                return Err(format!("{}: session lost: {reason}", self.portal));
            }
            let now = now_ns();
            if now >= until {
                return Ok(false);
            }
            let Some((fd, events)) = self.session.interest() else {
                return Err(format!("{}: not connected", self.portal));
            };
            let mut fds = [libc::pollfd {
                fd,
                events,
                revents: 0,
            }];
            let wait = ((until - now) / ms(1)).clamp(1, 1000) as libc::c_int;
            // SAFETY: one valid pollfd, written to during the call only.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), 1, wait) };
            let revents = if ready > 0 { fds[0].revents } else { 0 };
            for event in self.session.service(revents) {
                match event {
                    Event::Done { token, status, data } => drop(self.ended.insert(token, (status, data))),
                    Event::Down(reason) => self.down = Some(reason),
                    Event::Aborted { complete } => self.aborted.push(complete),
                    Event::Up | Event::Pong => {}
                }
            }
        }
    }

    /// Sends a command; `buffer` is filled or sent. With the number by which [`end`](Self::end) knows it.
    ///
    /// # Errors
    /// The session is of no use any more.
    pub fn begin(
        &mut self,
        lun: u16,
        cdb: &[u8],
        direction: Direction,
        buffer: Vec<u8>,
    ) -> Result<u64, String> {
        let token = self.next;
        self.next += 1;
        let sent = self.session.send(token, lun, cdb, direction, buffer);
        sent.map_err(|(reason, _)| reason)?;
        Ok(token)
    }

    /// Waits for the end of a command. `None`: it is still in flight after `limit`.
    ///
    /// # Errors
    /// The session was lost before it ended.
    pub fn end(&mut self, token: u64, limit: Duration) -> Result<Option<Ended>, String> {
        self.serve_until(limit, |single| single.ended.contains_key(&token))?;
        Ok(self.ended.remove(&token))
    }

    /// Sends a command and waits for its end.
    ///
    /// # Errors
    /// The session was lost, or nothing came within `limit`.
    pub fn run(
        &mut self,
        lun: u16,
        cdb: &[u8],
        direction: Direction,
        buffer: Vec<u8>,
        limit: Duration,
    ) -> Result<Ended, String> {
        let token = self.begin(lun, cdb, direction, buffer)?;
        let ended = self.end(token, limit)?;
        ended.ok_or_else(|| format!("{}: {:#04x}: no answer within {limit:?}", self.portal, cdb[0]))
    }

    /// Sends ABORT TASK for a command in flight and waits for the target's word: true: it took it.
    ///
    /// # Errors
    /// The session was lost, the command had ended, or nothing came within `limit`.
    pub fn abort(&mut self, token: u64, limit: Duration) -> Result<bool, String> {
        self.session.abort(token)?;
        let before = self.aborted.len();
        match self.serve_until(limit, |single| single.aborted.len() > before)? {
            true => Ok(self.aborted[before]),
            false => Err(format!("{}: ABORT TASK: no answer within {limit:?}", self.portal)),
        }
    }

    /// Whether the session is lost, after waiting at most so long for it.
    pub fn is_lost(&mut self, limit: Duration) -> bool {
        self.serve_until(limit, |_| false).is_err()
    }

    /// Logs out and waits until the target has closed, at most so long.
    pub fn log_out(mut self, limit: Duration) {
        self.session.logout();
        let _ = self.serve_until(limit, |_| false);
    }
}
