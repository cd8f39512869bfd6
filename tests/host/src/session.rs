//! One iSCSI session: a cable from this host into one port of the array.
//!
//! The library keeps the protocol; this file keeps the library honest. Each command that is handed
//! over stays registered here, with its task and its buffer, until the library has called back or
//! its context is gone; only then are they freed. So no callback that comes late, twice or never
//! can touch freed memory or lose a command: what was not answered when the context ends is
//! reported as lost with the transport.
//!
//! Automatic reconnection is off: a lost session stays lost until the host decides otherwise,
//! because what is retried, and when, is the host's to know.
//!
//! Must never: block, sleep, or answer a command that the target did not answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_void};
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::ffi::{Api, Context, Sense as RawSense, Task};
use crate::scsi::{Direction, Sense, Status};

/// What a session tells its owner after [`Session::service`].
#[derive(Debug)]
pub(crate) enum Event {
    /// Logged in; commands may be sent.
    Up,
    /// Connection, login or established session lost; every command in flight follows as `Done`.
    Down(String),
    /// A command ended.
    Done {
        token: u64,
        status: Status,
        data: Vec<u8>,
    },
    /// A NOP-Out was answered.
    Pong,
    /// An ABORT TASK was answered; `complete` if the target took it.
    Aborted { complete: bool },
}

/// Kinds of things that the library may call back about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Login,
    Command(u64),
    Nop,
    Abort,
    Logout,
}

/// What a callback leaves for [`Session::service`] to look at.
struct Called {
    kind: Kind,
    status: c_int,
    /// First word of the callback's data, for task management.
    word: Option<u32>,
}

type Queue = Rc<RefCell<Vec<Called>>>;

/// The word that travels through the library and comes back with a callback.
struct Note {
    kind: Kind,
    queue: Queue,
}

unsafe extern "C" fn called(_: *mut Context, status: c_int, data: *mut c_void, private: *mut c_void) {
    // SAFETY: `private` is the address of a `Note` in a box that the session keeps until the
    // context is destroyed (or the command's own callback has run); the library calls back only
    // from `iscsi_service` and `iscsi_destroy_context`, on the thread that owns the session.
    let note = unsafe { &*private.cast::<Note>() };
    let word = match note.kind {
        // SAFETY: on GOOD the library passes the address of a u32, the response code
        // (iscsi.h, iscsi_task_mgmt_async); null otherwise.
        Kind::Abort if status == 0 && !data.is_null() => Some(unsafe { *data.cast::<u32>() }),
        _ => None,
    };
    note.queue.borrow_mut().push(Called {
        kind: note.kind,
        status,
        word,
    });
}

/// A command that the library has.
struct InFlight {
    task: *mut Task,
    buffer: Vec<u8>,
    direction: Direction,
    /// Kept for the callback; never read here.
    _note: Box<Note>,
}

/// Who logs in where.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) initiator: String,
    pub(crate) target: String,
    /// `address:port`.
    pub(crate) portal: String,
    /// Distinguishes the sessions of one host; stable over reconnections, so that a new login
    /// takes the place of the old one at the target.
    pub(crate) isid: u32,
    pub(crate) header_digest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    LoggingIn,
    Up,
    Down,
}

/// A session from the first SYN to its end; a lost one is dropped and a new one made.
pub(crate) struct Session {
    api: Rc<Api>,
    context: *mut Context,
    phase: Phase,
    queue: Queue,
    in_flight: BTreeMap<u64, InFlight>,
    /// Notes of calls without a task; they live as long as the context.
    #[allow(
        clippy::vec_box,
        reason = "the library holds the notes' addresses while the vector grows"
    )]
    notes: Vec<Box<Note>>,
    nop: Box<Note>,
    /// Aborted commands: parts of their data may still wait in the library's send queue, so their
    /// tasks and buffers stay until the context is gone.
    aborted: BTreeMap<u64, Option<InFlight>>,
}

impl Session {
    /// Starts connecting. The outcome comes as [`Event::Up`] or [`Event::Down`].
    pub(crate) fn open(api: Rc<Api>, address: &Address) -> Result<Self, String> {
        let text = |value: &str| CString::new(value).map_err(|_| format!("{value:?} contains a NUL byte"));
        let (initiator, target, portal) = (
            text(&address.initiator)?,
            text(&address.target)?,
            text(&address.portal)?,
        );
        // SAFETY: a NUL-terminated name; the library copies it.
        let context = unsafe { (api.iscsi_create_context)(initiator.as_ptr()) };
        if context.is_null() {
            return Err("libiscsi could not allocate a context".into());
        }
        let queue = Queue::default();
        let nop = Box::new(Note {
            kind: Kind::Nop,
            queue: Rc::clone(&queue),
        });
        let mut session = Session {
            api,
            context,
            phase: Phase::Connecting,
            queue,
            in_flight: BTreeMap::new(),
            notes: Vec::new(),
            nop,
            aborted: BTreeMap::new(),
        };
        const NORMAL: c_int = 2;
        let digest = if address.header_digest { 3 } else { 0 };
        // SAFETY: `context` is live and not yet connected, which is when these may be set; the
        // strings are copied.
        let refused = unsafe {
            (session.api.iscsi_set_noautoreconnect)(context, 1);
            (session.api.iscsi_set_targetname)(context, target.as_ptr()) != 0
                || (session.api.iscsi_set_session_type)(context, NORMAL) != 0
                || (session.api.iscsi_set_header_digest)(context, digest) != 0
                || (session.api.iscsi_set_isid_random)(context, address.isid, 0) != 0
        };
        if refused {
            return Err(session.api.error_of(context));
        }
        let note = session.note(Kind::Connect);
        // SAFETY: live context; `note` stays in `session.notes` for as long as the context.
        let rc = unsafe { (session.api.iscsi_connect_async)(context, portal.as_ptr(), called, note) };
        if rc != 0 {
            return Err(session.api.error_of(context));
        }
        Ok(session)
    }

    fn note(&mut self, kind: Kind) -> *mut c_void {
        let note = Box::new(Note {
            kind,
            queue: Rc::clone(&self.queue),
        });
        let address: *const Note = &*note;
        self.notes.push(note);
        address.cast_mut().cast()
    }

    /// The descriptor to poll, and the events to poll it for.
    pub(crate) fn interest(&self) -> Option<(RawFd, i16)> {
        if self.phase == Phase::Down {
            return None;
        }
        // SAFETY: live context.
        let (fd, events) = unsafe {
            (
                (self.api.iscsi_get_fd)(self.context),
                (self.api.iscsi_which_events)(self.context),
            )
        };
        (fd >= 0).then_some((fd, events as i16))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Lets the library read and write, and returns what came of it.
    pub(crate) fn service(&mut self, revents: i16) -> Vec<Event> {
        let mut events = Vec::new();
        if self.phase == Phase::Down {
            return events;
        }
        // An orderly close by the target is seen here, since the library with reconnection off
        // keeps it to itself when nothing is in flight.
        let closed = revents & libc::POLLIN != 0 && self.peer_has_closed();
        // SAFETY: live context; callbacks only push to `queue`, which is not borrowed now.
        let rc = unsafe { (self.api.iscsi_service)(self.context, c_int::from(revents)) };
        self.drain(&mut events);
        if self.phase == Phase::Down {
            return events;
        }
        if rc != 0 || closed || revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            let reason = match self.api.error_of(self.context) {
                text if text.is_empty() => "connection closed by the target".into(),
                text => text,
            };
            self.fail(reason, &mut events);
        }
        events
    }

    fn peer_has_closed(&self) -> bool {
        let mut byte = 0u8;
        // SAFETY: live context for the descriptor; one byte of our own is written at most.
        let n = unsafe {
            libc::recv(
                (self.api.iscsi_get_fd)(self.context),
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        n == 0
    }

    fn drain(&mut self, events: &mut Vec<Event>) {
        // One callback can cause another call into the library (login after connect), hence the loop.
        loop {
            let batch = std::mem::take(&mut *self.queue.borrow_mut());
            if batch.is_empty() {
                return;
            }
            for Called { kind, status, word } in batch {
                match (kind, status) {
                    (Kind::Command(token), _) => self.done(token, status, events),
                    (Kind::Nop, 0) => events.push(Event::Pong),
                    (Kind::Abort, _) => events.push(Event::Aborted {
                        complete: word == Some(0),
                    }),
                    (Kind::Connect, 0) if self.phase == Phase::Connecting => self.login(events),
                    (Kind::Login, 0) if self.phase == Phase::LoggingIn => {
                        self.phase = Phase::Up;
                        events.push(Event::Up);
                    }
                    (Kind::Connect | Kind::Login, 0) | (Kind::Nop, _) | (Kind::Logout, _) => {}
                    (Kind::Connect | Kind::Login, _) => {
                        let reason = self.api.error_of(self.context);
                        self.fail(reason, events);
                    }
                }
            }
        }
    }

    fn login(&mut self, events: &mut Vec<Event>) {
        self.phase = Phase::LoggingIn;
        let note = self.note(Kind::Login);
        // SAFETY: live, connected context; `note` lives as long as the context.
        if unsafe { (self.api.iscsi_login_async)(self.context, called, note) } != 0 {
            let reason = self.api.error_of(self.context);
            self.fail(reason, events);
        }
    }

    fn done(&mut self, token: u64, status: c_int, events: &mut Vec<Event>) {
        let Some(command) = self.in_flight.remove(&token) else {
            return;
        };
        let status = Status::from_library(status, || self.sense(command.task));
        if let Some(kept) = self.aborted.get_mut(&token) {
            *kept = Some(command);
            events.push(Event::Done {
                token,
                status: Status::TimedOut,
                data: Vec::new(),
            });
            return;
        }
        // SAFETY: the library has called back for this task, the last time that it uses it; the
        // buffer that the task points to is still ours.
        unsafe { (self.api.scsi_free_scsi_task)(command.task) };
        let data = if command.direction == Direction::In {
            command.buffer
        } else {
            Vec::new()
        };
        events.push(Event::Done { token, status, data });
    }

    fn sense(&self, task: *mut Task) -> Sense {
        let mut raw = RawSense::zeroed();
        // SAFETY: `task` is live until it is freed by `done`; `raw` has room for the sense of any
        // known version (see the probe in `ffi`).
        unsafe { (self.api.scsi_task_get_status)(task, &mut raw) };
        Sense {
            key: raw.key as u8,
            asc: (raw.ascq >> 8) as u8,
            ascq: raw.ascq as u8,
        }
    }

    /// Hands a command to the library. `buffer` is filled (In) or sent (Out) and stays here until
    /// the command ends. On an error the session is of no more use and the buffer comes back.
    pub(crate) fn send(
        &mut self,
        token: u64,
        lun: u16,
        cdb: &[u8],
        direction: Direction,
        mut buffer: Vec<u8>,
    ) -> Result<(), (String, Vec<u8>)> {
        if self.phase != Phase::Up {
            return Err(("session is not logged in".into(), buffer));
        }
        let Ok(length) = c_int::try_from(buffer.len()) else {
            return Err((format!("{} bytes do not fit one command", buffer.len()), buffer));
        };
        let way = match direction {
            Direction::None => 0,
            Direction::In => 1,
            Direction::Out => 2,
        };
        let mut copy = [0u8; 16];
        copy[..cdb.len()].copy_from_slice(cdb);
        // SAFETY: at most 16 bytes of a command block are read from `copy` and copied.
        let task = unsafe { (self.api.scsi_create_task)(cdb.len() as c_int, copy.as_mut_ptr(), way, length) };
        if task.is_null() {
            return Err(("libiscsi could not allocate a task".into(), buffer));
        }
        let data = buffer.as_mut_ptr();
        let note = Box::new(Note {
            kind: Kind::Command(token),
            queue: Rc::clone(&self.queue),
        });
        let word: *const Note = &*note;
        // SAFETY: `data` points to the heap block of `buffer`, which moves into `in_flight` below
        // and is neither resized nor freed before the library has called back for this task or its
        // context is destroyed. The same holds for `note`.
        let rc = unsafe {
            let attached = match direction {
                Direction::None => 0,
                Direction::In => (self.api.scsi_task_add_data_in_buffer)(task, length, data),
                Direction::Out => (self.api.scsi_task_add_data_out_buffer)(task, length, data),
            };
            if attached != 0 {
                attached
            } else {
                (self.api.iscsi_scsi_command_async)(
                    self.context,
                    c_int::from(lun),
                    task,
                    called,
                    std::ptr::null_mut(),
                    word.cast_mut().cast(),
                )
            }
        };
        if rc != 0 {
            // SAFETY: the library did not take the task.
            unsafe { (self.api.scsi_free_scsi_task)(task) };
            return Err((self.api.error_of(self.context), buffer));
        }
        self.in_flight.insert(
            token,
            InFlight {
                task,
                buffer,
                direction,
                _note: note,
            },
        );
        Ok(())
    }

    /// Sends a NOP-Out; its answer comes as [`Event::Pong`].
    pub(crate) fn ping(&mut self) -> Result<(), String> {
        let word: *const Note = &*self.nop;
        // SAFETY: live context; no data; the note lives as long as the context.
        let rc = unsafe {
            (self.api.iscsi_nop_out_async)(
                self.context,
                called,
                std::ptr::null_mut(),
                0,
                word.cast_mut().cast(),
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(self.api.error_of(self.context))
        }
    }

    /// Sends ABORT TASK for a command. The library ends the command at once (it comes back as timed out
    /// from [`Session::service`]); the target's word follows as [`Event::Aborted`].
    pub(crate) fn abort(&mut self, token: u64) -> Result<(), String> {
        let Some(task) = self.in_flight.get(&token).map(|command| command.task) else {
            return Err("the command has already ended".into());
        };
        let note = self.note(Kind::Abort);
        // SAFETY: live context, a task that the library still has, a note that lives as long as
        // the context.
        let rc = unsafe { (self.api.iscsi_task_mgmt_abort_task_async)(self.context, task, called, note) };
        if rc != 0 {
            return Err(self.api.error_of(self.context));
        }
        self.aborted.insert(token, None);
        Ok(())
    }

    /// Sends a logout; whatever comes of it, the session is to be dropped soon after.
    pub(crate) fn logout(&mut self) {
        if self.phase == Phase::Up {
            let note = self.note(Kind::Logout);
            // SAFETY: live context; the note lives as long as the context.
            unsafe { (self.api.iscsi_logout_async)(self.context, called, note) };
        }
    }

    /// Ends the session at once; returns every command that was in flight, as lost.
    pub(crate) fn drop_now(&mut self, reason: &str) -> Vec<Event> {
        let mut events = Vec::new();
        self.fail(reason.to_owned(), &mut events);
        events
    }

    fn fail(&mut self, reason: String, events: &mut Vec<Event>) {
        if self.phase == Phase::Down {
            return;
        }
        self.phase = Phase::Down;
        events.push(Event::Down(reason));
        self.close();
        for (token, status) in self.lost() {
            self.done(token, status, events);
        }
    }

    /// Commands still registered once the context is gone: lost with the transport.
    fn lost(&self) -> Vec<(u64, c_int)> {
        const CANCELLED: c_int = 0x0f00_0000;
        self.in_flight.keys().map(|token| (*token, CANCELLED)).collect()
    }

    fn close(&mut self) {
        if !self.context.is_null() {
            // SAFETY: live context, destroyed once; callbacks run inside the call push to `queue`,
            // which is emptied unread: every command is still registered and reported as lost.
            unsafe { (self.api.iscsi_destroy_context)(self.context) };
            self.context = std::ptr::null_mut();
            self.queue.borrow_mut().clear();
            self.notes.clear();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
        let aborted = std::mem::take(&mut self.aborted).into_values().flatten();
        for command in aborted.chain(std::mem::take(&mut self.in_flight).into_values()) {
            // SAFETY: the context is gone, nothing uses the task any more.
            unsafe { (self.api.scsi_free_scsi_task)(command.task) };
        }
    }
}
