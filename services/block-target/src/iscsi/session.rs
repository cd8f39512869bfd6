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
//! answered only when every task that it aborts has ended, so that nothing takes effect afterwards.

use super::login::Parameters;
use super::pdu::{Digests, Header, NO_TAG, Pdu, Reject, put, request, response};
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
/// Text of one request, all its parts together.
const MAX_TEXT: usize = 16 * 1024;

/// Task management functions (RFC 7143, 11.5.1).
mod function {
    pub(super) const ABORT_TASK: u8 = 1;
    pub(super) const ABORT_TASK_SET: u8 = 2;
    pub(super) const CLEAR_TASK_SET: u8 = 4;
    pub(super) const LUN_RESET: u8 = 5;
    pub(super) const TARGET_WARM_RESET: u8 = 6;
    pub(super) const TARGET_COLD_RESET: u8 = 7;
}

/// Answers to them (11.6.1).
mod answer {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_LUN: u8 = 2;
    pub(super) const NOT_SUPPORTED: u8 = 5;
}

/// What the session asks of its surroundings while it decides.
pub trait Surroundings {
    /// Logical block size of a unit, if this host has it.
    fn block_size(&self, lun: [u8; 8]) -> Option<u32>;
    /// Name and portals (`address:port,group`) of the target.
    fn target(&self) -> (String, Vec<String>);
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
        /// The sessions end, too.
        cold: bool,
    },
    /// Every task that this end of another session's reset has waited for has ended.
    Settled(u64),
    /// Send what is queued, then end the connection.
    Close(String),
}

/// Something for the wire. Sequence numbers are stamped when it leaves.
#[derive(Debug)]
pub enum Reply {
    /// One PDU.
    Plain {
        /// Header.
        header: Header,
        /// Data segment.
        data: Bytes,
        /// It carries a StatSN of its own.
        counts: bool,
    },
    /// The end of a SCSI command, with its data.
    Scsi {
        /// Initiator task tag.
        tag: u32,
        /// How it ended.
        outcome: Outcome,
        /// Bytes that the host expects to move.
        expected: u32,
        /// Bytes that the command would move.
        moves: u64,
        /// The host takes data.
        reads: bool,
    },
}

/// Sequence numbers of an outgoing PDU.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// Next StatSN.
    pub stat_sn: u32,
    /// ExpCmdSN.
    pub exp_cmd_sn: u32,
    /// MaxCmdSN.
    pub max_cmd_sn: u32,
}

impl Stamps {
    fn stamp(&mut self, header: &mut Header, counts: bool) {
        header.put32(24, self.stat_sn);
        header.put32(28, self.exp_cmd_sn);
        header.put32(32, self.max_cmd_sn);
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(counts));
    }
}

impl Reply {
    fn plain(header: Header, data: impl Into<Bytes>) -> Self {
        Self::Plain {
            header,
            data: data.into(),
            counts: true,
        }
    }

    /// Bytes that it will take on the wire, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        48 + match self {
            Self::Plain { data, .. } => data.len(),
            Self::Scsi { outcome, .. } => outcome.data.len(),
        }
    }

    /// Appends its PDUs to `out`.
    pub fn encode(self, out: &mut Vec<u8>, p: &Parameters, stamps: &mut Stamps) {
        match self {
            Self::Plain {
                mut header,
                data,
                counts,
            } => {
                stamps.stamp(&mut header, counts);
                put(out, header, &data, p.digests);
            }
            Self::Scsi {
                tag,
                outcome,
                expected,
                moves,
                reads,
            } => {
                let expected_u64 = u64::from(expected);
                let residual = u32::try_from(moves.abs_diff(expected_u64)).unwrap_or(u32::MAX);
                let flag = match moves.cmp(&expected_u64) {
                    std::cmp::Ordering::Less => 0x02,
                    std::cmp::Ordering::Equal => 0x00,
                    std::cmp::Ordering::Greater => 0x04,
                };
                let sendable = if reads { expected as usize } else { 0 };
                let data = outcome.data.slice(..outcome.data.len().min(sendable));
                let good = outcome.status == Status::Good;
                encode_data(out, tag, &data, p, stamps, good.then_some((flag, residual)));
                if good && !data.is_empty() {
                    return;
                }
                let mut header = Header::response(response::SCSI, tag);
                header.0[1] |= flag;
                header.0[3] = outcome.status as u8;
                header.put32(44, residual);
                stamps.stamp(&mut header, true);
                let mut sense = Vec::new();
                if let Some(data) = outcome.sense {
                    sense.extend_from_slice(&(crate::scsi::sense::FIXED_LEN as u16).to_be_bytes());
                    sense.extend_from_slice(&data.to_fixed());
                }
                put(out, header, &sense, p.digests);
            }
        }
    }
}

/// Data-In PDUs; the last one carries the status if there is one to carry.
fn encode_data(
    out: &mut Vec<u8>,
    tag: u32,
    data: &[u8],
    p: &Parameters,
    stamps: &mut Stamps,
    status: Option<(u8, u32)>,
) {
    let (segment, burst) = (p.max_send as usize, p.max_burst as usize);
    let (mut at, mut number) = (0, 0);
    while at < data.len() {
        let burst_end = (at / burst + 1) * burst;
        let end = (at + segment).min(burst_end).min(data.len());
        let mut header = Header::response(response::DATA_IN, tag);
        header.0[1] = if end == burst_end || end == data.len() {
            0x80
        } else {
            0
        };
        header.put32(20, NO_TAG);
        let mut counts = false;
        if let Some((flag, residual)) = status.filter(|_| end == data.len()) {
            header.0[1] |= 0x01 | flag;
            header.put32(44, residual);
            counts = true;
        }
        stamps.stamp(&mut header, counts);
        if !counts {
            // StatSN is only there together with status.
            header.put32(24, 0);
        }
        header.put32(36, number);
        header.put32(40, at as u32);
        put(out, header, &data[at..end], p.digests);
        (at, number) = (end, number + 1);
    }
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

/// One session in full feature phase.
#[derive(Debug)]
pub struct Session {
    parameters: Parameters,
    discovery: bool,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    tasks: HashMap<u32, Task>,
    /// Commands that came ahead of their turn, by CmdSN.
    early: HashMap<u32, Pdu>,
    waiters: Vec<Waiter>,
    next_transfer_tag: u32,
    next_reset: u64,
    text: Vec<u8>,
    closing: bool,
}

impl Session {
    /// A session as it was agreed.
    #[must_use]
    pub fn new(parameters: Parameters, discovery: bool, cmd_sn: u32) -> Self {
        Self {
            parameters,
            discovery,
            exp_cmd_sn: cmd_sn,
            max_cmd_sn: cmd_sn.wrapping_add(DEPTH - 1),
            tasks: HashMap::new(),
            early: HashMap::new(),
            waiters: Vec::new(),
            next_transfer_tag: 0,
            next_reset: 0,
            text: Vec::new(),
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
        if pdu.header.opcode() == request::DATA_OUT {
            self.data_out(&pdu, &mut actions);
            return actions;
        }
        if pdu.header.is_immediate() {
            self.command(pdu, around, &mut actions);
            return actions;
        }
        let number = pdu.header.get32(24);
        let ahead = number.wrapping_sub(self.exp_cmd_sn);
        // Outside of the window, either way: silently ignored (4.2.2.1).
        if ahead > self.max_cmd_sn.wrapping_sub(self.exp_cmd_sn) || self.is_shut() {
            return actions;
        }
        if ahead > 0 {
            self.early.insert(number, pdu);
            return actions;
        }
        let mut next = Some(pdu);
        while let Some(pdu) = next {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            self.command(pdu, around, &mut actions);
            next = self.early.remove(&self.exp_cmd_sn);
        }
        actions
    }

    /// The window has no room at all: MaxCmdSN stands before ExpCmdSN.
    fn is_shut(&self) -> bool {
        self.max_cmd_sn.wrapping_add(1) == self.exp_cmd_sn
    }

    fn command(&mut self, pdu: Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        match pdu.header.opcode() {
            request::SCSI_COMMAND if self.discovery => reject(&pdu, Reject::ProtocolError, actions),
            request::SCSI_COMMAND => self.scsi(pdu, around, actions),
            request::NOP_OUT => nop(&pdu, &self.parameters, actions),
            request::TASK_MANAGEMENT => self.task_management(&pdu, around, actions),
            request::TEXT => self.text_request(&pdu, around, actions),
            request::LOGOUT => self.logout(&pdu, actions),
            _ => reject(&pdu, Reject::NotSupported, actions),
        }
    }

    fn scsi(&mut self, pdu: Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        let Pdu {
            header,
            additional,
            data,
        } = pdu;
        let tag = header.tag();
        let bad = self.tasks.contains_key(&tag) || tag == NO_TAG;
        if bad || !additional.is_empty() {
            let reason = if bad {
                Reject::InvalidField
            } else {
                Reject::NotSupported
            };
            return reject(
                &Pdu {
                    header,
                    additional,
                    data,
                },
                reason,
                actions,
            );
        }
        let (flags, expected) = (header.0[1], header.get32(20));
        let (reads, writes) = (flags & 0x40 != 0, flags & 0x20 != 0);
        let cdb: [u8; 16] = header.0[32..48].try_into().expect("sixteen bytes");
        let lun = header.lun();
        if self.tasks.len() >= DEPTH_WITH_IMMEDIATE {
            let outcome = Outcome::status(Status::TaskSetFull);
            return actions.push(Action::Send(Reply::Scsi {
                tag,
                outcome,
                expected,
                moves: 0,
                reads,
            }));
        }
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
        let more = writes && !header.is_final();
        let expected_out = if writes { expected } else { 0 };
        let transfer = match Transfer::begin(&self.parameters, expected_out, wanted, data, more) {
            Ok(transfer) => transfer,
            Err(violation) => {
                let pdu = Pdu {
                    header,
                    additional,
                    data: Bytes::new(),
                };
                reject(&pdu, Reject::ProtocolError, actions);
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
        if !transfer.is_idle() {
            return;
        }
        let missing = transfer.missing();
        if missing > 0 && !*reserved {
            actions.push(Action::Reserve {
                tag,
                bytes: missing as u32,
            });
            return;
        }
        if missing > 0 {
            self.next_transfer_tag = (self.next_transfer_tag + 1) % NO_TAG;
            let Some(asked) = transfer.request(&self.parameters, self.next_transfer_tag) else {
                return;
            };
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
            return;
        }
        let TaskState::Receiving { transfer, .. } = std::mem::replace(&mut task.state, TaskState::Running)
        else {
            return;
        };
        let execute = Execute {
            tag,
            lun: task.lun,
            command: task.command.clone(),
            data: transfer.finish(),
            returns: if task.reads {
                task.expected.min(MAX_TRANSFER)
            } else {
                0
            },
            cancel: task.cancel.clone(),
        };
        actions.push(Action::Execute(Box::new(execute)));
    }

    fn data_out(&mut self, pdu: &Pdu, actions: &mut Vec<Action>) {
        // Data for a task that was aborted meanwhile is still on its way: nobody needs it.
        let Some(task) = self.tasks.get_mut(&pdu.header.tag()) else {
            return;
        };
        let TaskState::Receiving { transfer, .. } = &mut task.state else {
            return;
        };
        match transfer.data_out(&pdu.header, &pdu.data) {
            Ok(false) => {}
            Ok(true) => self.go_on(pdu.header.tag(), actions),
            Err(violation) => {
                reject(pdu, Reject::ProtocolError, actions);
                self.close(format!("{:?}: {violation}", pdu.header), actions);
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
    fn abort(&mut self, which: impl Fn(u32, &Task) -> bool) -> BTreeSet<u32> {
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

    /// The connection has ended: whatever waits is given up. What is below runs out.
    pub fn abandon(&mut self) {
        self.closing = true;
        self.abort(|_, _| true);
    }

    /// Another session has reset these units: their tasks here end, then [`Action::Settled`] with `id`.
    pub fn reset_by_other(&mut self, id: u64, concerns: impl Fn([u8; 8]) -> bool) -> Vec<Action> {
        let tasks = self.abort(|_, task| concerns(task.lun));
        let mut actions = Vec::new();
        self.waiters.push(Waiter {
            tasks,
            others: None,
            then: Then::Settle(id),
        });
        self.settle(&mut actions);
        actions
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
        let (tasks, reach) = match function {
            function::ABORT_TASK => {
                let referenced = pdu.header.get32(20);
                if !self.tasks.contains_key(&referenced) {
                    // It has been answered already, or never came.
                    return answer_now(header, answer::NO_TASK, actions);
                }
                (self.abort(|tag, _| tag == referenced), None)
            }
            function::ABORT_TASK_SET => (self.abort(|_, task| task.lun == lun), None),
            // One task set for all hosts (TST=0).
            function::CLEAR_TASK_SET | function::LUN_RESET => {
                (self.abort(|_, task| task.lun == lun), Some(Reach::Unit(lun)))
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                (self.abort(|_, _| true), Some(Reach::Target))
            }
            _ => return answer_now(header, answer::NOT_SUPPORTED, actions),
        };
        let cold = function == function::TARGET_COLD_RESET;
        let others = reach.map(|reach| {
            self.next_reset += 1;
            let id = self.next_reset;
            actions.push(Action::ResetOthers { id, reach, cold });
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

    fn text_request(&mut self, pdu: &Pdu, around: &dyn Surroundings, actions: &mut Vec<Action>) {
        if self.text.len() + pdu.data.len() > MAX_TEXT {
            reject(pdu, Reject::ProtocolError, actions);
            return self.close(format!("more than {MAX_TEXT} bytes of text"), actions);
        }
        self.text.extend_from_slice(&pdu.data);
        let mut header = Header::response(response::TEXT, pdu.header.tag());
        header.put32(20, NO_TAG);
        if pdu.header.0[1] & 0x40 != 0 {
            // More text follows: ask for it under a tag of ours.
            header.0[1] = 0;
            header.put32(20, 1);
            return actions.push(Action::Send(Reply::plain(header, Bytes::new())));
        }
        let Ok(keys) = text::split(&std::mem::take(&mut self.text)) else {
            return reject(pdu, Reject::InvalidField, actions);
        };
        let (name, portals) = around.target();
        let mut out = Vec::new();
        for (key, value) in keys {
            match key.as_str() {
                "SendTargets" if value == "All" && !self.discovery => text::push(&mut out, &key, "Reject"),
                "SendTargets" if value.is_empty() || value == "All" || value == name => {
                    text::push(&mut out, "TargetName", &name);
                    for portal in &portals {
                        text::push(&mut out, "TargetAddress", portal);
                    }
                }
                "SendTargets" => {}
                _ => text::push(&mut out, &key, "NotUnderstood"),
            }
        }
        out.truncate(self.parameters.max_send as usize);
        actions.push(Action::Send(Reply::plain(header, out)));
    }

    fn logout(&mut self, pdu: &Pdu, actions: &mut Vec<Action>) {
        let mut header = Header::response(response::LOGOUT, pdu.header.tag());
        // Reasons: close the session, close the connection (the only one), remove it for recovery (level 0 has none).
        let reason = pdu.header.0[1] & 0x7f;
        if reason > 1 {
            header.0[2] = 2;
            return actions.push(Action::Send(Reply::plain(header, Bytes::new())));
        }
        let tasks = self.abort(|_, _| true);
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

    /// Tells the initiator that the connection will end (asynchronous event 2), and ends it.
    pub fn shut_down(&mut self, why: &str) -> Vec<Action> {
        let mut header = Header::response(response::ASYNC, NO_TAG);
        header.0[36] = 2;
        let mut actions = vec![Action::Send(Reply::plain(header, Bytes::new()))];
        self.close(why.to_owned(), &mut actions);
        actions
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

/// The Reject PDU for a header.
#[must_use]
pub fn rejection(rejected: &Header, reason: Reject) -> Reply {
    let mut header = Header::response(response::REJECT, NO_TAG);
    header.0[2] = reason as u8;
    Reply::plain(header, Bytes::copy_from_slice(&rejected.0))
}

#[cfg(test)]
mod tests;
