//! A session in full feature phase: the command window, the tasks, and what ends them.
//!
//! ```text
//!               data complete                outcome
//!  receiving --------------------> running ----------> answered
//!      |                              |
//!      | abort: dropped               | abort: runs out, is not answered; who aborted it
//!      v                              v waits for its end
//! ```
//!
//! [`Session`] is a function of its state and what came in. Everything it wants done is in the [`Action`]s that
//! it returns; [`super::connection`] does them.
//!
//! Invariants: commands are taken up in the order of CmdSN; MaxCmdSN never falls; a task management function is
//! answered only when every task that it aborts has ended, so that nothing takes effect afterwards; data that nobody
//! asked for is taken only as far as there is memory for it.

use super::keys::{self, Parameters};
use super::limits::{EARLY_BYTES_MAX, TEXT_MAX};
use super::pdu::{Digests, Header, NO_TAG, Pdu, Reject, request, response};
pub use super::reply::{Reply, Stamps, rejection};
use super::text;
use super::transfer::Transfer;
use crate::paths::Cancel;
use crate::scsi::cdb::Command;
use crate::scsi::inquiry::MAX_TRANSFER;
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Commands that a session may have in flight.
pub const DEPTH: u32 = 128;
/// Immediate commands come on top of the window; beyond this they are refused.
const DEPTH_WITH_IMMEDIATE: usize = DEPTH as usize + 16;
/// Data that came with a command is copied out of what was read from the socket up to this length: a longer one may
/// keep that memory.
const COPIED: usize = 16 * 1024;

/// Task management functions (RFC 7143, 11.5.1).
mod function {
    pub(super) const ABORT_TASK: u8 = 1;
    pub(super) const ABORT_TASK_SET: u8 = 2;
    pub(super) const CLEAR_TASK_SET: u8 = 4;
    pub(super) const LUN_RESET: u8 = 5;
    pub(super) const TARGET_WARM_RESET: u8 = 6;
    pub(super) const TARGET_COLD_RESET: u8 = 7;
    pub(super) const TASK_REASSIGN: u8 = 8;
}

/// Answers to them (11.6.1).
mod answer {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_LUN: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
}

/// Answers to a logout (11.15.1).
mod logout {
    pub(super) const NO_CID: u8 = 1;
    pub(super) const NO_RECOVERY: u8 = 2;
}

/// What the session asks of its surroundings while it decides.
pub trait Surroundings {
    /// Logical block size of a unit, if this host has it.
    fn block_size(&self, lun: [u8; 8]) -> Option<u32>;
    /// Name and portals (`address:port,group`) of the target; `None`: not for this host.
    fn target(&self) -> Option<(String, Vec<String>)>;
    /// Memory for data of this task that comes unasked. False: there is none, and the command is sent away.
    fn take_memory(&self, tag: u32, bytes: u32) -> bool;
}

/// A command that is ready to run.
#[derive(Debug)]
pub struct Execute {
    /// Initiator task tag.
    pub tag: u32,
    /// The unit.
    pub lun: [u8; 8],
    /// The command, or why it is none.
    pub command: Result<Command, Sense>,
    /// Its data.
    pub data: Bytes,
    /// Bytes of data that the command will return at most, to be accounted for.
    pub returns: u32,
    /// Set when the host gives it up.
    pub cancel: Arc<Cancel>,
}

/// Which units a reset reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One, as this host numbers it.
    Unit([u8; 8]),
    /// All that this host sees.
    Target,
}

/// What is done to the tasks of others, and what they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// CLEAR TASK SET: only those whose commands were cleared are told.
    Clear,
    /// LOGICAL UNIT RESET and TARGET WARM RESET: everybody is told.
    Units,
    /// TARGET COLD RESET: everybody is told, and the sessions end.
    Cold,
}

/// What the session wants done.
#[derive(Debug)]
pub enum Action {
    /// Put this on the wire.
    Send(Reply),
    /// Find memory for so many bytes of this task's data, then call [`Session::reserved`].
    Reserve {
        /// The task.
        tag: u32,
        /// Bytes.
        bytes: u32,
    },
    /// Run it, then call [`Session::completed`].
    Execute(Box<Execute>),
    /// Abort the tasks of other sessions at these units, tell them, then call [`Session::others_reset`].
    ResetOthers {
        /// Names this reset.
        id: u64,
        /// Which units.
        reach: Reach,
        /// How far it goes.
        reset: Reset,
    },
    /// Every task that this end of another session's reset has waited for has ended.
    Settled(u64),
    /// The task is gone without having run: its memory is free.
    Dropped(u32),
    /// Send what is queued, then end the connection.
    Close(String),
}

#[derive(Debug)]
enum TaskState {
    Receiving { transfer: Transfer, reserved: bool },
    Running,
}

#[derive(Debug)]
struct Task {
    lun: [u8; 8],
    cdb: [u8; 16],
    expected: u32,
    moves_out: u64,
    reads: bool,
    command: Result<Command, Sense>,
    state: TaskState,
    cancel: Arc<Cancel>,
    /// Aborted: it runs out and is not answered.
    aborted: bool,
}

/// What came ahead of its turn.
#[derive(Debug)]
enum Early {
    Command(Pdu),
    /// It was aborted before its turn came: its number counts as received (11.6.1).
    Aborted,
}

/// Something that waits for aborted tasks.
#[derive(Debug)]
struct Waiter {
    tasks: BTreeSet<u32>,
    /// Other sessions have yet to end theirs.
    others: Option<u64>,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Answer(Header),
    AnswerAndClose(Header),
    Settle(u64),
}

/// A text that is under way, either way. There is one at a time (11.10).
#[derive(Debug)]
struct TextExchange {
    /// The initiator's tag.
    tag: u32,
    /// The target's.
    transfer_tag: u32,
    /// What has come so far.
    input: Vec<u8>,
    /// What the initiator has not fetched.
    output: Vec<u8>,
}

/// One session in full feature phase.
#[derive(Debug)]
pub struct Session {
    parameters: Parameters,
    discovery: bool,
    cid: u16,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    tasks: HashMap<u32, Task>,
    /// Commands that came ahead of their turn, by CmdSN, and the data in them.
    early: HashMap<u32, Early>,
    early_bytes: usize,
    waiters: Vec<Waiter>,
    next_transfer_tag: u32,
    next_reset: u64,
    text: Option<TextExchange>,
    closing: bool,
}

impl Session {
    /// A session as it was agreed, over the connection `cid`.
    #[must_use]
    pub fn new(parameters: Parameters, discovery: bool, cmd_sn: u32, cid: u16) -> Self {
        Self {
            parameters,
            discovery,
            cid,
            exp_cmd_sn: cmd_sn,
            max_cmd_sn: cmd_sn.wrapping_add(DEPTH - 1),
            tasks: HashMap::new(),
            early: HashMap::new(),
            early_bytes: 0,
            waiters: Vec::new(),
            next_transfer_tag: 0,
            next_reset: 0,
            text: None,
            closing: false,
        }
    }

    /// How the two ends talk.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// ExpCmdSN and MaxCmdSN as they stand.
    #[must_use]
    pub fn window(&self) -> (u32, u32) {
        (self.exp_cmd_sn, self.max_cmd_sn)
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The checksums in use.
    #[must_use]
    pub fn digests(&self) -> Digests {
        self.parameters.digests
    }

    /// Takes a PDU.
    pub fn receive(&mut self, pdu: Pdu, around: &dyn Surroundings) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.closing {
            return actions;
        }
        match pdu.header.opcode() {
            request::DATA_OUT => {
                self.data_out(&pdu.header, Some(&pdu.data), &mut actions);
                return actions;
            }
            // It has no CmdSN. What was lost is not sent again at level 0.
            request::SNACK => {
                reject(&pdu, Reject::Snack, &mut actions);
                return actions;
            }
            _ => {}
        }
        if pdu.header.is_immediate() {
            self.command(pdu, around, &mut actions);
            return actions;
        }
        let number = pdu.header.get32(24);
        let ahead = number.wrapping_sub(self.exp_cmd_sn);
        // Outside of the window, either way, or a second time: silently ignored (4.2.2.1).
        if !self.is_in_window(number) || self.early.contains_key(&number) {
            return actions;
        }
        if ahead > 0 {
            self.early_bytes += pdu.data.len();
            if self.early_bytes > EARLY_BYTES_MAX {
                reject(&pdu, Reject::ProtocolError, &mut actions);
                let why = format!("more than {EARLY_BYTES_MAX} bytes of data ahead of their turn");
                self.close(why, &mut actions);
                return actions;
            }
            self.early.insert(number, Early::Command(pdu));
            return actions;
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        self.command(pdu, around, &mut actions);
        self.take_early(around, &mut actions);
        actions
    }

    /// Takes the header of a PDU whose data did not match its digest. It was rejected already.
    ///
    /// Data of a task: the task ends when its data has come, unexecuted. A command: its number is missing, and at
    /// level 0 nothing can fill the gap but a new session (RFC 7143, 7.8 and 7.1.4.1).
    pub fn receive_damaged(&mut self, header: &Header) -> Vec<Action> {
        if self.closing {
            return Vec::new();
        }
        let mut actions = vec![Action::Send(rejection(header, Reject::DataDigest))];
        if header.opcode() == request::DATA_OUT {
            self.data_out(header, None, &mut actions);
        } else if !header.is_immediate() {
            let why = format!("data digest of {header:?}, whose number is missing now");
            self.close(why, &mut actions);
        }
        actions
    }

    fn is_in_window(&self, number: u32) -> bool {
        // The window has no room at all where MaxCmdSN stands before ExpCmdSN.
        let room = self.max_cmd_sn.wrapping_add(1).wrapping_sub(self.exp_cmd_sn);
        number.wrapping_sub(self.exp_cmd_sn) < room
    }

    /// Takes up what waited for the number that has come.
    fn take_early(&mut self, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        while let Some(early) = self.early.remove(&self.exp_cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            if let Early::Command(pdu) = early {
                self.early_bytes -= pdu.data.len();
                self.command(pdu, around, actions);
            }
        }
        self.open_window();
    }

    fn command(&mut self, pdu: Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        if self.closing {
            return;
        }
        match pdu.header.opcode() {
            // Asking for targets and leaving is all that there is to do (4.3).
            opcode if self.discovery && !matches!(opcode, request::TEXT | request::LOGOUT) => {
                reject(&pdu, Reject::ProtocolError, actions);
            }
            request::SCSI_COMMAND => self.scsi(pdu, around, actions),
            request::NOP_OUT => nop(&pdu, &self.parameters, actions),
            request::TASK_MANAGEMENT => self.task_management(&pdu, around, actions),
            request::TEXT => self.text_request(&pdu, around, actions),
            request::LOGOUT => self.logout(&pdu, actions),
            _ => reject(&pdu, Reject::NotSupported, actions),
        }
        // What made no task has not narrowed the window.
        self.open_window();
    }

    fn scsi(&mut self, pdu: Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        let header = pdu.header;
        let tag = header.tag();
        let refused = if self.tasks.contains_key(&tag) || tag == NO_TAG {
            Some(Reject::InvalidField)
        } else if !pdu.additional.is_empty() {
            Some(Reject::NotSupported)
        } else if header.is_immediate() && self.tasks.len() >= DEPTH_WITH_IMMEDIATE {
            Some(Reject::TooManyImmediate)
        } else {
            None
        };
        if let Some(reason) = refused {
            return reject(&pdu, reason, actions);
        }
        let (flags, expected) = (header.0[1], header.get32(20));
        let (reads, writes) = (flags & 0x40 != 0, flags & 0x20 != 0);
        let more = writes && !header.is_final();
        let unsolicited = match more {
            true => self.parameters.first_burst.min(expected),
            false => pdu.data.len() as u32,
        };
        let no_room = self.tasks.len() >= DEPTH_WITH_IMMEDIATE;
        if no_room || unsolicited > 0 && !around.take_memory(tag, unsolicited) {
            // The one makes a host send less at once, the other makes it wait (SAM-5, 5.3.1).
            let status = match self.tasks.is_empty() {
                true => Status::Busy,
                false => Status::TaskSetFull,
            };
            return actions.push(Action::Send(Reply::Scsi {
                tag,
                outcome: Outcome::status(status),
                expected,
                moves: 0,
                reads,
            }));
        }
        let cdb: [u8; 16] = header.0[32..48].try_into().expect("sixteen bytes");
        let lun = header.lun();
        let mut command = Command::decode(&cdb);
        // Untagged (0), simple (1) and head of queue (3) run as they come; ordered and ACA are not supported.
        if !matches!(flags & 7, 0 | 1 | 3) {
            command = Err(Sense::INVALID_MESSAGE);
        }
        if let (Ok(decoded), Some(block_size)) = (&command, around.block_size(lun))
            && writes
            && decoded.takes_exactly()
            && decoded.data_out(block_size) != u64::from(expected)
        {
            command = Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let needs = match (&command, around.block_size(lun)) {
            (Ok(command), Some(block_size)) => command.data_out(block_size),
            _ => 0,
        };
        // What cannot be done needs no data; it is refused when it runs.
        let wanted = if needs <= MAX_TRANSFER.into() && writes {
            needs
        } else {
            0
        };
        let expected_out = if writes { expected } else { 0 };
        let data = match pdu.data.len() {
            0..=COPIED => Bytes::copy_from_slice(&pdu.data),
            _ => pdu.data,
        };
        let transfer = match Transfer::begin(&self.parameters, expected_out, wanted, data, more) {
            Ok(transfer) => transfer,
            Err(violation) => {
                actions.push(Action::Dropped(tag));
                actions.push(Action::Send(rejection(&header, Reject::ProtocolError)));
                return self.close(format!("{header:?}: {violation}"), actions);
            }
        };
        let state = TaskState::Receiving {
            transfer,
            reserved: false,
        };
        let task = Task {
            lun,
            cdb,
            expected,
            moves_out: if writes { needs } else { 0 },
            reads,
            command,
            state,
            cancel: Arc::default(),
            aborted: false,
        };
        self.tasks.insert(tag, task);
        self.go_on(tag, actions);
    }

    /// Moves a receiving task as far as it goes.
    fn go_on(&mut self, tag: u32, actions: &mut Vec<Action>) {
        let Some(task) = self.tasks.get_mut(&tag) else {
            return;
        };
        let TaskState::Receiving { transfer, reserved } = &mut task.state else {
            return;
        };
        let missing = transfer.missing();
        if missing > 0 && !*reserved {
            if transfer.is_idle() {
                let bytes = missing as u32;
                actions.push(Action::Reserve { tag, bytes });
            }
            return;
        }
        loop {
            let transfer_tag = (self.next_transfer_tag + 1) % NO_TAG;
            let Some(asked) = transfer.request(&self.parameters, transfer_tag) else {
                break;
            };
            self.next_transfer_tag = transfer_tag;
            let mut header = Header::response(response::R2T, tag);
            header.0[8..16].copy_from_slice(&task.lun);
            header.put32(20, asked.tag);
            header.put32(36, asked.number);
            header.put32(40, asked.offset);
            header.put32(44, asked.length);
            actions.push(Action::Send(Reply::Plain {
                header,
                data: Bytes::new(),
                counts: false,
            }));
        }
        if !transfer.is_idle() {
            return;
        }
        if transfer.is_damaged() {
            let (expected, reads) = (task.expected, task.reads);
            self.tasks.remove(&tag);
            self.open_window();
            actions.push(Action::Dropped(tag));
            return actions.push(Action::Send(Reply::Scsi {
                tag,
                outcome: Sense::DATA_DIGEST.into(),
                expected,
                moves: 0,
                reads,
            }));
        }
        // What collected data returns none, so no task waits for memory while it has some.
        let returns = match *reserved || !task.reads {
            true => 0,
            false => task.expected.min(MAX_TRANSFER),
        };
        let TaskState::Receiving { transfer, .. } = std::mem::replace(&mut task.state, TaskState::Running)
        else {
            return;
        };
        let execute = Execute {
            tag,
            lun: task.lun,
            command: task.command.clone(),
            data: transfer.finish(),
            returns,
            cancel: task.cancel.clone(),
        };
        actions.push(Action::Execute(Box::new(execute)));
    }

    /// Data of a task; `None`: it is damaged.
    fn data_out(&mut self, header: &Header, data: Option<&Bytes>, actions: &mut Vec<Action>) {
        // Data for a task that was aborted or sent away meanwhile is still on its way: nobody needs it.
        let Some(task) = self.tasks.get_mut(&header.tag()) else {
            return;
        };
        let TaskState::Receiving { transfer, .. } = &mut task.state else {
            return;
        };
        let taken = match data {
            Some(data) => transfer.data_out(header, data),
            None => transfer.damaged(header),
        };
        match taken {
            Ok(false) => {}
            Ok(true) => self.go_on(header.tag(), actions),
            Err(violation) => {
                actions.push(Action::Send(rejection(header, Reject::ProtocolError)));
                self.close(format!("{header:?}: {violation}"), actions);
            }
        }
    }

    /// Memory for the data of a task has been found. False: the task is gone, give the memory back.
    pub fn reserved(&mut self, tag: u32, actions: &mut Vec<Action>) -> bool {
        let Some(Task {
            state: TaskState::Receiving { reserved, .. },
            ..
        }) = self.tasks.get_mut(&tag)
        else {
            return false;
        };
        *reserved = true;
        self.go_on(tag, actions);
        true
    }

    /// A task has ended.
    pub fn completed(&mut self, tag: u32, outcome: Outcome) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(task) = self.tasks.remove(&tag) else {
            return actions;
        };
        self.open_window();
        if task.aborted || self.closing {
            self.task_ended(tag, &mut actions);
            return actions;
        }
        let moves = if task.moves_out > 0 {
            task.moves_out
        } else {
            outcome.data.len() as u64
        };
        let Task { expected, reads, .. } = task;
        actions.push(Action::Send(Reply::Scsi {
            tag,
            outcome,
            expected,
            moves,
            reads,
        }));
        actions
    }

    fn open_window(&mut self) {
        let free = DEPTH.saturating_sub(self.tasks.len() as u32);
        let max = self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1);
        // In serial arithmetic; it must not fall.
        if (max.wrapping_sub(self.max_cmd_sn) as i32) > 0 {
            self.max_cmd_sn = max;
        }
    }

    fn task_ended(&mut self, tag: u32, actions: &mut Vec<Action>) {
        for waiter in &mut self.waiters {
            waiter.tasks.remove(&tag);
        }
        self.settle(actions);
    }

    fn settle(&mut self, actions: &mut Vec<Action>) {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.tasks.is_empty() && waiter.others.is_none());
        self.waiters = waiting;
        for waiter in done {
            match waiter.then {
                Then::Answer(header) => actions.push(Action::Send(Reply::plain(header, Bytes::new()))),
                Then::AnswerAndClose(header) => {
                    actions.push(Action::Send(Reply::plain(header, Bytes::new())));
                    self.close("the host asked for it".to_owned(), actions);
                }
                Then::Settle(id) => actions.push(Action::Settled(id)),
            }
        }
    }

    /// Aborts tasks; those that are still to be waited for.
    fn abort(&mut self, which: impl Fn(u32, &Task) -> bool, actions: &mut Vec<Action>) -> BTreeSet<u32> {
        let tags: Vec<u32> = self
            .tasks
            .iter()
            .filter(|(tag, task)| which(**tag, task))
            .map(|(tag, _)| *tag)
            .collect();
        let mut running = BTreeSet::new();
        for tag in tags {
            let Some(task) = self.tasks.get_mut(&tag) else {
                continue;
            };
            match task.state {
                TaskState::Receiving { .. } => {
                    self.tasks.remove(&tag);
                    actions.push(Action::Dropped(tag));
                }
                TaskState::Running => {
                    task.aborted = true;
                    task.cancel.cancel();
                    running.insert(tag);
                }
            }
        }
        self.open_window();
        running
    }

    /// Aborts what came ahead of its turn and before number `end`. The numbers count as received.
    fn abort_early(&mut self, end: u32, which: impl Fn(&Header) -> bool) {
        for (number, early) in &mut self.early {
            let before = (number.wrapping_sub(end) as i32) < 0;
            if let Early::Command(pdu) = early
                && before
                && pdu.header.opcode() == request::SCSI_COMMAND
                && which(&pdu.header)
            {
                self.early_bytes -= pdu.data.len();
                *early = Early::Aborted;
            }
        }
    }

    /// The connection has ended: whatever waits is given up. What is below runs out.
    pub fn abandon(&mut self) {
        self.closing = true;
        self.early.clear();
        self.early_bytes = 0;
        self.text = None;
        self.abort(|_, _| true, &mut Vec::new());
    }

    /// Another session has reset these units: their tasks here end, then [`Action::Settled`] with `id`. With the
    /// units whose tasks these were.
    pub fn reset_by_other(
        &mut self,
        id: u64,
        concerns: impl Fn([u8; 8]) -> bool,
    ) -> (Vec<Action>, BTreeSet<[u8; 8]>) {
        let mut actions = Vec::new();
        let concerned = self
            .tasks
            .values()
            .filter(|task| !task.aborted && concerns(task.lun));
        let units = concerned.map(|task| task.lun).collect();
        let tasks = self.abort(|_, task| concerns(task.lun), &mut actions);
        self.waiters.push(Waiter {
            tasks,
            others: None,
            then: Then::Settle(id),
        });
        self.settle(&mut actions);
        (actions, units)
    }

    /// The other sessions have done what [`Action::ResetOthers`] asked.
    pub fn others_reset(&mut self, id: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for waiter in self.waiters.iter_mut().filter(|waiter| waiter.others == Some(id)) {
            waiter.others = None;
        }
        self.settle(&mut actions);
        actions
    }

    fn task_management(&mut self, pdu: &Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        let (function, lun) = (pdu.header.0[1] & 0x7f, pdu.header.lun());
        let mut header = Header::response(response::TASK_MANAGEMENT, pdu.header.tag());
        let answer_now = |mut header: Header, code: u8, actions: &mut Vec<Action>| {
            header.0[2] = code;
            actions.push(Action::Send(Reply::plain(header, Bytes::new())));
        };
        let names_unit = matches!(
            function,
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LUN_RESET
        );
        if names_unit && around.block_size(lun).is_none() {
            return answer_now(header, answer::NO_LUN, actions);
        }
        header.0[2] = answer::COMPLETE;
        let number = pdu.header.get32(24);
        let (tasks, reset) = match function {
            function::ABORT_TASK => {
                let referenced = pdu.header.get32(20);
                let of_unit = |task: &Task| task.lun == lun;
                if !self.tasks.get(&referenced).is_some_and(of_unit) {
                    let code = self.abort_unknown(pdu, around, actions);
                    return answer_now(header, code, actions);
                }
                (self.abort(|tag, _| tag == referenced, actions), None)
            }
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LUN_RESET => {
                self.abort_early(number, |early| early.lun() == lun);
                let tasks = self.abort(|_, task| task.lun == lun, actions);
                // One task set for all hosts (TST=0).
                let reset = match function {
                    function::ABORT_TASK_SET => None,
                    function::CLEAR_TASK_SET => Some((Reach::Unit(lun), Reset::Clear)),
                    _ => Some((Reach::Unit(lun), Reset::Units)),
                };
                (tasks, reset)
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                self.abort_early(number, |_| true);
                let reset = match function {
                    function::TARGET_WARM_RESET => Reset::Units,
                    _ => Reset::Cold,
                };
                (self.abort(|_, _| true, actions), Some((Reach::Target, reset)))
            }
            // A matter of level 2.
            function::TASK_REASSIGN => return answer_now(header, answer::NO_REASSIGNMENT, actions),
            _ => return answer_now(header, answer::NOT_SUPPORTED, actions),
        };
        let cold = function == function::TARGET_COLD_RESET;
        let others = reset.map(|(reach, reset)| {
            self.next_reset += 1;
            let id = self.next_reset;
            actions.push(Action::ResetOthers { id, reach, reset });
            id
        });
        let then = if cold {
            Then::AnswerAndClose(header)
        } else {
            Then::Answer(header)
        };
        self.waiters.push(Waiter { tasks, others, then });
        self.settle(actions);
    }

    /// ABORT TASK of a task that is not there: the answer. Where its number is still to come it counts as received
    /// from now on, and the task will never be (11.6.1, b); else it was answered already, or never was.
    fn abort_unknown(&mut self, pdu: &Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) -> u8 {
        let (referenced, number) = (pdu.header.get32(20), pdu.header.get32(32));
        let before = (number.wrapping_sub(pdu.header.get32(24)) as i32) < 0;
        if !pdu.header.is_immediate() || !before || !self.is_in_window(number) {
            return answer::NO_TASK;
        }
        match self.early.get(&number) {
            Some(Early::Command(early)) if early.header.tag() != referenced => return answer::NO_TASK,
            Some(Early::Command(early)) => self.early_bytes -= early.data.len(),
            Some(Early::Aborted) | None => {}
        }
        self.early.insert(number, Early::Aborted);
        self.take_early(around, actions);
        answer::COMPLETE
    }

    fn text_request(&mut self, pdu: &Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        let (tag, transfer_tag) = (pdu.header.tag(), pdu.header.get32(20));
        let (ends, continues) = (pdu.header.is_final(), pdu.header.0[1] & 0x40 != 0);
        // A tag of ours goes on with what is under way; none begins anew, whatever was before.
        let mut exchange = match self.text.take() {
            _ if transfer_tag == NO_TAG => {
                self.next_transfer_tag = (self.next_transfer_tag + 1) % NO_TAG;
                TextExchange {
                    tag,
                    transfer_tag: self.next_transfer_tag,
                    input: Vec::new(),
                    output: Vec::new(),
                }
            }
            Some(exchange) if (exchange.tag, exchange.transfer_tag) == (tag, transfer_tag) => exchange,
            _ => return reject(pdu, Reject::ProtocolError, actions),
        };
        if ends && continues || !exchange.output.is_empty() && !pdu.data.is_empty() {
            return reject(pdu, Reject::ProtocolError, actions);
        }
        let mut header = Header::response(response::TEXT, tag);
        header.0[8..16].copy_from_slice(&pdu.header.0[8..16]);
        if exchange.output.is_empty() {
            if exchange.input.len() + pdu.data.len() > TEXT_MAX {
                reject(pdu, Reject::ProtocolError, actions);
                return self.close(format!("more than {TEXT_MAX} bytes of text"), actions);
            }
            exchange.input.extend_from_slice(&pdu.data);
            if !continues {
                let Ok(keys) = text::split(&std::mem::take(&mut exchange.input)) else {
                    return reject(pdu, Reject::InvalidField, actions);
                };
                exchange.output = self.answer_text(&keys, around);
            }
        }
        let rest = exchange
            .output
            .split_off(exchange.output.len().min(self.parameters.max_send as usize));
        let piece = std::mem::replace(&mut exchange.output, rest);
        // The end is the target's to say, and only where the initiator has said it.
        let more = !exchange.output.is_empty();
        header.0[1] = match (ends && !more, more) {
            (true, _) => 0x80,
            (false, true) => 0x40,
            (false, false) => 0,
        };
        header.put32(20, NO_TAG);
        if header.0[1] != 0x80 {
            header.put32(20, exchange.transfer_tag);
            self.text = Some(exchange);
        }
        actions.push(Action::Send(Reply::plain(header, piece)));
    }

    fn answer_text(&mut self, keys: &[(String, String)], around: &dyn Surroundings) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in keys {
            if key != "SendTargets" {
                if let Some(answer) = keys::in_full_feature(&mut self.parameters, key, value) {
                    text::push(&mut out, key, &answer);
                }
                continue;
            }
            // Everything in a discovery, the session's own target in a session, one by name in either (appendix C).
            if value == "All" && !self.discovery || value.is_empty() && self.discovery {
                text::push(&mut out, key, "Reject");
                continue;
            }
            let Some((name, portals)) = around.target() else {
                continue;
            };
            if value.is_empty() || value == "All" || *value == name {
                text::push(&mut out, "TargetName", &name);
                for portal in &portals {
                    text::push(&mut out, "TargetAddress", portal);
                }
            }
        }
        out
    }

    fn logout(&mut self, pdu: &Pdu, actions: &mut Vec<Action>) {
        let mut header = Header::response(response::LOGOUT, pdu.header.tag());
        let cid = pdu.header.get16(20);
        let code = match pdu.header.0[1] & 0x7f {
            // The session, or its only connection.
            0 => None,
            1 if cid == self.cid => None,
            1 => Some(logout::NO_CID),
            2 => Some(logout::NO_RECOVERY),
            _ => return reject(pdu, Reject::InvalidField, actions),
        };
        if let Some(code) = code {
            header.0[2] = code;
            return actions.push(Action::Send(Reply::plain(header, Bytes::new())));
        }
        let tasks = self.abort(|_, _| true, actions);
        self.waiters.push(Waiter {
            tasks,
            others: None,
            then: Then::AnswerAndClose(header),
        });
        self.settle(actions);
    }

    fn close(&mut self, why: String, actions: &mut Vec<Action>) {
        if !self.closing {
            self.abandon();
            actions.push(Action::Close(why));
        }
    }

    /// Tells the initiator that the connection ends now (asynchronous event 2), and ends it.
    pub fn shut_down(&mut self, why: &str) -> Vec<Action> {
        let mut header = Header::response(response::ASYNC, NO_TAG);
        header.0[36] = 2;
        header.put16(38, self.cid);
        let mut actions = vec![Action::Send(Reply::plain(header, Bytes::new()))];
        self.close(why.to_owned(), &mut actions);
        actions
    }

    /// Asks the initiator to log out within so many seconds (asynchronous event 1). Commands go on until it does.
    pub fn request_logout(&mut self, seconds: u16) -> Vec<Action> {
        let mut header = Header::response(response::ASYNC, NO_TAG);
        header.0[36] = 1;
        header.put16(42, seconds);
        match self.closing {
            true => Vec::new(),
            false => vec![Action::Send(Reply::plain(header, Bytes::new()))],
        }
    }

    /// Asks the initiator whether it is there (11.19): a NOP-In with a tag of ours.
    pub fn ping(&mut self) -> Vec<Action> {
        self.next_transfer_tag = (self.next_transfer_tag + 1) % NO_TAG;
        let mut header = Header::response(response::NOP_IN, NO_TAG);
        header.put32(20, self.next_transfer_tag);
        vec![Action::Send(Reply::Plain {
            header,
            data: Bytes::new(),
            counts: false,
        })]
    }

    /// Commands that run or wait, for reports: operation codes by tag.
    #[must_use]
    pub fn running(&self) -> Vec<(u32, u8)> {
        self.tasks.iter().map(|(tag, task)| (*tag, task.cdb[0])).collect()
    }
}

fn nop(pdu: &Pdu, p: &Parameters, actions: &mut Vec<Action>) {
    // Without a tag it is no question.
    if pdu.header.tag() == NO_TAG {
        return;
    }
    let mut header = Header::response(response::NOP_IN, pdu.header.tag());
    header.0[8..16].copy_from_slice(&pdu.header.0[8..16]);
    header.put32(20, NO_TAG);
    let data = pdu.data.slice(..pdu.data.len().min(p.max_send as usize));
    actions.push(Action::Send(Reply::plain(header, data)));
}

/// Rejects a PDU, with its header as evidence.
fn reject(pdu: &Pdu, reason: Reject, actions: &mut Vec<Action>) {
    actions.push(Action::Send(rejection(&pdu.header, reason)));
}

#[cfg(test)]
mod tests;
