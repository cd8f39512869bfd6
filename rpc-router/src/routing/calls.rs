//! Requests and their answers: to whom, under which ticket, and what comes back.

use super::{
    Address, ConnectionId, Core, JOURNAL_PER_SECOND, KEEP, Now, PENDING, RequestId, Sender, World,
    history::Tracing,
};
use crate::pending::Ticket;
use crate::trace::{Entry, Place};
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::rank;
use pollux_api::router::{DEFAULT_DEADLINE_MS, MAX_DEADLINE_MS, Outcome, SERVICE, TRACE};
use pollux_api::rpc;
use pollux_runtime::wire::{self, Envelope, Head};
use std::borrow::Cow;
use std::sync::Arc;

/// Requests on their way of one caller (the link counts as one).
const PENDING_PER_CALLER: usize = 8192;

/// To whom an answer goes.
#[derive(Debug)]
pub(super) enum ReplyTo {
    Caller {
        connection: ConnectionId,
        id: RequestId,
        batch: Option<u64>,
    },
    Trace(Box<Tracing>),
    /// The router itself, which only wanted it to be done.
    Nobody,
}

impl ReplyTo {
    pub(super) fn caller(&self) -> Option<ConnectionId> {
        match self {
            Self::Caller { connection, .. } => Some(*connection),
            Self::Trace(tracing) => tracing.reply.caller(),
            Self::Nobody => None,
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) reply: ReplyTo,
    pub(super) callee: ConnectionId,
    pub(super) action: ActionId,
    /// Without the controller.
    pub(super) method: Arc<str>,
    /// `b/pool`.
    pub(super) to: Arc<str>,
    pub(super) deadline_ms: u64,
    /// Its place in the ring.
    pub(super) trace: Option<Place>,
    /// It may change something: its record belongs in the journal, whatever else happens.
    pub(super) change: bool,
    /// It is counted in the caller's `asked` and the callee's `owed`.
    pub(super) counted: bool,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) connection: ConnectionId,
    pub(super) expected: usize,
    pub(super) answers: Vec<u8>,
}

impl Core {
    pub(super) fn request(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        method: &str,
        reply: ReplyTo,
        now: Now,
        world: &mut impl World,
    ) {
        self.counters.requests += 1;
        let mut call = Call {
            reply,
            callee: from,
            action: envelope.action_id.unwrap_or_else(|| world.new_action()),
            method: Arc::clone(&self.shell),
            to: Arc::clone(&self.shell),
            deadline_ms: envelope
                .deadline_ms
                .unwrap_or(DEFAULT_DEADLINE_MS)
                .min(MAX_DEADLINE_MS),
            trace: None,
            change: false,
            counted: false,
        };
        let sender = match self.sender(from, envelope) {
            Ok(sender) => sender,
            Err(error) => {
                (call.method, call.to) = (method.into(), self.me.as_str().into());
                return self.settle(call, Err(error), now, world);
            }
        };
        let (there, address) = match self.address(method, sender.over_link) {
            Ok(address) if address.remote => (self.me.partner(), address),
            Ok(address) => (self.me, address),
            Err(error) => {
                (call.method, call.to) = (method.into(), self.me.as_str().into());
                self.note(&mut call, envelope.parent, &sender.from, now, world);
                return self.settle(call, Err(error), now, world);
            }
        };
        let routed = self
            .open(&sender, &address)
            .and_then(|()| self.route(from, &sender, &address, &mut call, now));
        match routed {
            Ok(Some(callee)) => self.forward(callee, envelope, call, from, &sender, now, world),
            Ok(None) => {
                (call.method, call.to) = (self.names.share(address.method), self.me.as_str().into());
                self.own_method(from, envelope, call, &sender, now, world);
            }
            Err(error) => {
                call.method = self.names.share(address.method);
                call.to = self.names.share(&format!("{there}/{}", address.service));
                self.note(&mut call, envelope.parent, &sender.from, now, world);
                self.settle(call, Err(error), now, world);
            }
        }
    }

    /// Where a request goes: to a connection, or to the router itself. Fills in the names of a call that goes on.
    fn route(
        &mut self,
        from: ConnectionId,
        sender: &Sender,
        address: &Address<'_>,
        call: &mut Call,
        now: Now,
    ) -> Result<Option<ConnectionId>, RpcError> {
        let there = if address.remote {
            self.me.partner()
        } else {
            self.me
        };
        let place = || format!("{there}/{}", address.service);
        if call.deadline_ms == 0 {
            let what = "the deadline had passed when it came";
            return Err(
                RpcError::new(Code::DeadlinePassed, place(), what).remedy("give it more time (deadline_ms)")
            );
        }
        if self.connections[&from].asked >= PENDING_PER_CALLER {
            return Err(overloaded(
                self.me,
                format!("{PENDING_PER_CALLER} requests of this caller are on their way"),
            ));
        }
        if address.remote {
            let link = self.link_for(address.method)?;
            call.method = self.names.share(address.method);
            call.to = self.names.share_pair(there.as_str(), address.service);
            return Ok(Some(link));
        }
        if matches!(address.service, SERVICE | rpc::SERVICE) {
            return Ok(None);
        }
        let (callee, service) = self.service(address.service, now)?;
        let (name, method) = service
            .methods
            .get_key_value(address.method)
            .filter(|(_, method)| !method.notification)
            .ok_or_else(|| {
                let what = format!(
                    "{} {} has no method {}",
                    service.name, service.version, address.method
                );
                let mut names: Vec<&str> = service
                    .methods
                    .values()
                    .filter(|m| !m.notification)
                    .map(|m| m.name.as_str())
                    .collect();
                names.sort_unstable();
                RpcError::new(Code::MethodNotFound, place(), what)
                    .remedy(format!("one of {}", names.join(", ")))
            })?;
        let same = || {
            let (caller_at, caller_name) = sender.from.split_once('/').unwrap_or(("", &sender.from));
            method.peer && caller_name == service.name && caller_at == self.me.partner().as_str()
        };
        if !rank::may_call(sender.rank, service.rank, false) && !same() {
            let what = format!(
                "{} (rank {}) may not call {} (rank {}): calls go to a higher rank",
                sender.from, sender.rank, address.method, service.rank
            );
            return Err(RpcError::new(Code::NotPermitted, place(), what)
                .remedy("send a notification, or let the lower rank ask"));
        }
        call.method = Arc::clone(name);
        call.to = Arc::clone(&service.full);
        call.change = !method.idempotent;
        Ok(Some(callee))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one request, and where it came from and goes to"
    )]
    fn forward(
        &mut self,
        callee: ConnectionId,
        envelope: &Envelope<'_>,
        mut call: Call,
        from: ConnectionId,
        sender: &Sender,
        now: Now,
        world: &mut impl World,
    ) {
        self.note(&mut call, envelope.parent, &sender.from, now, world);
        call.callee = callee;
        let head = Head {
            action_id: Some(call.action),
            parent: envelope.parent,
            deadline_ms: Some(call.deadline_ms),
            from: Some(&sender.from),
            rank: (Some(callee) == self.link).then_some(sender.rank),
        };
        let (method, deadline) = (Arc::clone(&call.method), now.us + call.deadline_ms * 1000);
        call.counted = true;
        let ticket = match self.pending.insert(deadline, call) {
            Ok(ticket) => ticket,
            Err(mut call) => {
                call.counted = false;
                let error = overloaded(self.me, format!("{PENDING} requests are on their way"));
                return self.settle(call, Err(error), now, world);
            }
        };
        self.owe(callee, from, 1);
        let mut digits = [0; 20];
        let id = ticket.write(&mut digits);
        let sent = self.put(world, callee, |out| {
            wire::write_call(out, Some(id), &method, envelope.params, &head);
        });
        if !sent && let Some(call) = self.pending.take(ticket) {
            let what = "its queue is full: it does not read what is sent to it";
            let error = overloaded(&call.to, what.into());
            self.settle(call, Err(error), now, world);
        }
    }

    /// Puts a message together and queues it; false if there is no room.
    pub(super) fn put(
        &mut self,
        world: &mut impl World,
        to: ConnectionId,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        self.out.clear();
        self.out.shrink_to(KEEP);
        write(&mut self.out);
        world.send(to, &self.out)
    }

    pub(super) fn owe(&mut self, callee: ConnectionId, caller: ConnectionId, change: isize) {
        if let Some(connection) = self.connections.get_mut(&callee) {
            connection.owed = connection.owed.saturating_add_signed(change);
        }
        if let Some(connection) = self.connections.get_mut(&caller) {
            connection.asked = connection.asked.saturating_add_signed(change);
        }
    }

    /// Notes a request in the ring; whatever becomes of it is noted in [`Core::settle`].
    pub(super) fn note(
        &mut self,
        call: &mut Call,
        parent: Option<ActionId>,
        from: &Arc<str>,
        now: Now,
        world: &mut impl World,
    ) {
        // Looking at the book is not an entry in the book.
        if &*call.method != TRACE {
            let entry = Entry {
                action_id: call.action,
                parent,
                at: self.me,
                method: Arc::clone(&call.method),
                from: Arc::clone(from),
                to: Arc::clone(&call.to),
                start_unix_us: now.unix_us,
                duration_us: None,
                outcome: Outcome::Pending,
            };
            // This router may be dead before the answer, and what was to change is asked for then.
            if (call.change || parent.is_some()) && !world.journal(&entry) {
                self.counters.trace_dropped += 1;
            }
            call.trace = Some(self.ring.push(entry, call.change));
        }
    }

    pub(super) fn answer(
        &mut self,
        from: ConnectionId,
        id: &str,
        answer: Result<&str, &str>,
        now: Now,
        world: &mut impl World,
    ) {
        let ticket = Ticket::parse(id);
        // Only the callee has the ticket; an answer of anybody else is a forgery or a mistake.
        let good = ticket.filter(|ticket| self.pending.get(*ticket).is_some_and(|call| call.callee == from));
        let Some(call) = good.and_then(|ticket| self.pending.take(ticket)) else {
            self.counters.late_answers += 1;
            return;
        };
        self.counters.answers += 1;
        let ReplyTo::Caller {
            connection,
            id,
            batch,
        } = &call.reply
        else {
            let answer = answer.map(str::to_owned).map_err(|error| {
                serde_json::from_str(error)
                    .unwrap_or_else(|_| RpcError::new(Code::Internal, &*call.to, error))
            });
            return self.settle(call, answer, now, world);
        };
        let outcome = answer.map_or_else(
            |error| Outcome::Error(error_name(error).into()),
            |_| Outcome::Done,
        );
        self.finish(&call, outcome, now, world);
        self.owe(call.callee, *connection, -1);
        self.deliver(*connection, *batch, world, |out| {
            wire::write_answer(out, id.as_str(), answer, Some(call.action));
        });
    }

    /// A request has its answer, from wherever.
    pub(super) fn settle(
        &mut self,
        call: Call,
        answer: Result<String, RpcError>,
        now: Now,
        world: &mut impl World,
    ) {
        if let (true, Some(caller)) = (call.counted, call.reply.caller()) {
            self.owe(call.callee, caller, -1);
        }
        let outcome = answer
            .as_ref()
            .map_or_else(|error| Outcome::Error(error.message.clone()), |_| Outcome::Done);
        if answer.as_ref().is_err_and(|error| error.is(Code::Overloaded)) {
            self.counters.overloaded += 1;
        }
        self.finish(&call, outcome, now, world);
        match call.reply {
            ReplyTo::Caller {
                connection,
                id,
                batch,
            } => self.deliver(connection, batch, world, |out| match &answer {
                Ok(result) => wire::write_answer(out, id.as_str(), Ok(result), Some(call.action)),
                Err(error) => wire::write_error(out, id.as_str(), error, Some(call.action)),
            }),
            ReplyTo::Trace(tracing) => self.traced(*tracing, answer, now, world),
            ReplyTo::Nobody => {
                if let Err(error) = answer {
                    tracing::warn!(method = &*call.method, %error, "the partner's router refused");
                }
            }
        }
    }

    fn finish(&mut self, call: &Call, outcome: Outcome, now: Now, world: &mut impl World) {
        let Some(number) = call.trace else { return };
        let room = call.change || self.journal_has_room(now);
        let Some(record) = self.ring.finish(number, now.unix_us, outcome) else {
            return;
        };
        // What nobody caused is not shared, and not copied for it.
        let effect = record.parent.is_some().then(|| record.clone());
        if !(room && world.journal(record)) {
            self.counters.trace_dropped += 1;
        } else if let Some(effect) = effect {
            self.share(&effect, world);
        }
    }

    /// Whether one more record of a call that changes nothing goes into the journal in this second.
    pub(super) fn journal_has_room(&mut self, now: Now) -> bool {
        let second = now.us / 1_000_000;
        if self.journalled.0 != second {
            self.journalled = (second, 0);
        }
        self.journalled.1 += 1;
        self.journalled.1 <= JOURNAL_PER_SECOND
    }

    /// Hands an answer to its caller. One that does not read its answers is disconnected.
    pub(super) fn deliver(
        &mut self,
        to: ConnectionId,
        batch: Option<u64>,
        world: &mut impl World,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(number) = batch else {
            if self.connections.contains_key(&to) && !self.put(world, to, write) {
                world.close(to, "it does not read its answers");
            }
            return;
        };
        if let Some(batch) = self.batches.get_mut(&number) {
            batch
                .answers
                .push(if batch.answers.is_empty() { b'[' } else { b',' });
            write(&mut batch.answers);
            // Only the array ends its line.
            batch.answers.pop_if(|byte| *byte == b'\n');
            self.nothing_to_answer(Some(number), world);
        }
    }

    /// One message of a batch is done with; the last one sends the answers.
    pub(super) fn nothing_to_answer(&mut self, batch: Option<u64>, world: &mut impl World) {
        let Some(number) = batch else { return };
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.expected -= 1;
        if batch.expected == 0
            && let Some(mut batch) = self.batches.remove(&number)
            && !batch.answers.is_empty()
        {
            batch.answers.extend_from_slice(b"]\n");
            self.deliver(batch.connection, None, world, |out| *out = batch.answers);
        }
    }
}

pub(super) fn overloaded(place: impl ToString, what: String) -> RpcError {
    RpcError::new(Code::Overloaded, place.to_string(), what)
        .remedy("ask again later under the same action_id")
}

/// The stable name of an error on its way through.
fn error_name(error: &str) -> Cow<'_, str> {
    #[derive(serde::Deserialize)]
    struct Name<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    serde_json::from_str::<Name<'_>>(error).map_or(Cow::Borrowed("error"), |name| name.message)
}
