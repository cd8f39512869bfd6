//! The sorting room: which message goes to whom, and what is answered when it cannot.
//!
//! [`Core`] is a function of its state and one event: a connection opened, sent a message or closed; time passed. What
//! it wants done it does through [`World`], which is a queue per connection, a source of action_ids and a journal. It
//! reads the envelope of a message and never its inside; only messages to the router itself are opened.
//!
//! ```text
//!   person or service --> [ address -> partner? local? ] --> rank, method, room? --> pending (ticket, deadline) --> service
//!                 <------------------------- answer, or the reason why there is none <------------------------------+
//! ```
//!
//! Invariants
//! * Every request is answered exactly once, in time or with the reason: unknown service, method not found, not
//!   permitted, overloaded, service gone, partner unreachable, deadline passed.
//! * Who sent a message, and with which rank, is what the router knows of the connection, never what the message says;
//!   only the partner's router, which has proven the pairing key, is believed.
//! * What came over the link never goes back over it.
//! * Tables and queues are bounded; a caller that does not read its answers is disconnected, nobody waits for it.
//!
//! It must never wait, read a clock or touch a socket.

use crate::pending::{Pending, Ticket};
use crate::trace::{self, Ring};
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::rank::{self, Rank};
use pollux_api::router::{
    Counters, DEFAULT_DEADLINE_MS, EVENT, Event, Link, MAX_DEADLINE_MS, Method, Missing, Outcome, PUBLISH,
    Publish, REGISTER, Register, Registered, SERVICE, STATUS, SUBSCRIBE, ServiceInfo, Status, Subscribe,
    Subscribed, TRACE, Trace, TraceRecord, TraceReport, UNREGISTER,
};
use pollux_runtime::wire::{self, Envelope, Head, Kind};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Number of a connection; never used again.
pub type ConnectionId = u64;

/// Requests on their way, of all callers together.
const PENDING: usize = 65_536;
/// Requests on their way of one caller (the link counts as one).
const PENDING_PER_CALLER: usize = 8192;
/// Messages in one batch.
const BATCH: usize = 256;
/// Topics that the router counts events of.
const TOPICS: usize = 1024;
/// Topics of one subscriber.
const TOPICS_PER_SUBSCRIBER: usize = 64;
/// Methods of one service.
const METHODS: usize = 256;
/// Records of a trace, unless the caller says how many.
const TRACE_LIMIT: usize = 1000;
/// Most records of a trace: at some 350 bytes each they fit one message.
const TRACE_LIMIT_MAX: usize = 2500;
/// Time that the partner has to tell its part of a trace, µs.
const TRACE_WITHIN_US: u64 = 2_000_000;
/// Rounds in which two routers tell each other the actions that only one has seen.
const TRACE_ROUNDS: u8 = 8;

/// The present: µs of a monotonic clock for deadlines, µs of Unix time for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub us: u64,
    /// Unix time.
    pub unix_us: u64,
}

/// What the core may do.
pub trait World {
    /// Queues a whole message, newline included, for a connection; false if there is no room. A connection that is
    /// gone takes everything.
    fn send(&mut self, to: ConnectionId, message: &[u8]) -> bool;
    /// Closes a connection; [`Core::closed`] follows.
    fn close(&mut self, connection: ConnectionId, why: &str);
    /// A new action_id.
    fn new_action(&mut self) -> ActionId;
    /// Notes a finished trace record; false if there is no room.
    fn journal(&mut self, record: &TraceRecord) -> bool;
}

/// Who is at the other end of a local connection, from the socket's peer credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process; 0 if it lives in another process namespace.
    pub pid: i32,
    /// The user is the router's own, or root.
    pub trusted: bool,
}

#[derive(Debug)]
enum Role {
    /// A person or a program that has not registered.
    Anonymous(Peer),
    Service(Box<Registration>),
    /// The partner's router.
    Link,
}

#[derive(Debug)]
struct Registration {
    peer: Peer,
    name: String,
    version: String,
    rank: Rank,
    methods: HashMap<String, Method>,
    since_unix_us: u64,
}

#[derive(Debug)]
struct Connection {
    role: Role,
    /// Requests of this connection that are on their way.
    asked: usize,
    /// Requests that this connection has to answer.
    owed: usize,
    topics: BTreeSet<String>,
}

/// To whom an answer goes.
#[derive(Debug)]
enum ReplyTo {
    Caller {
        connection: ConnectionId,
        id: String,
        batch: Option<u64>,
    },
    Trace(Box<Tracing>),
    /// The router itself, which only wanted it to be done.
    Nobody,
}

#[derive(Debug)]
struct Tracing {
    reply: ReplyTo,
    action: ActionId,
    roots: Vec<ActionId>,
    limit: usize,
    records: Vec<TraceRecord>,
    truncated: bool,
    round: u8,
}

#[derive(Debug)]
struct Call {
    reply: ReplyTo,
    callee: ConnectionId,
    action: ActionId,
    method: String,
    to: String,
    deadline_ms: u64,
    trace: Option<u64>,
    /// It is counted in the caller's `asked` and the callee's `owed`.
    counted: bool,
}

#[derive(Debug)]
struct Batch {
    connection: ConnectionId,
    expected: usize,
    answers: Vec<u8>,
}

#[derive(Debug, Default)]
struct Topic {
    sequence: u64,
    subscribers: BTreeSet<ConnectionId>,
}

/// The sender of the message that is being handled.
struct Sender {
    from: String,
    rank: Rank,
    over_link: bool,
}

/// Everything that the router knows.
#[derive(Debug)]
pub struct Core {
    me: ControllerId,
    version: &'static str,
    started_unix_us: u64,
    connections: HashMap<ConnectionId, Connection>,
    services: BTreeMap<String, ConnectionId>,
    pending: Pending<Call>,
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    topics: BTreeMap<String, Topic>,
    /// Topics of the partner, and under which names they were asked for.
    remote: BTreeMap<String, BTreeMap<ConnectionId, BTreeSet<String>>>,
    link: Option<ConnectionId>,
    link_info: Link,
    ring: Ring,
    counters: Counters,
}

struct Address<'a> {
    remote: bool,
    service: &'a str,
    method: &'a str,
}

impl Core {
    /// A router of controller `me`, whose partner's router is at `partner`; `ring` is what it remembers.
    pub fn new(me: ControllerId, version: &'static str, partner: String, ring: Ring, now: Now) -> Self {
        let problem = Some("the partner's router has not answered since this one started".to_owned());
        let since_unix_ms = now.unix_us / 1000;
        Self {
            me,
            version,
            started_unix_us: now.unix_us,
            connections: HashMap::new(),
            services: BTreeMap::new(),
            pending: Pending::new(PENDING),
            batches: HashMap::new(),
            next_batch: 0,
            topics: BTreeMap::new(),
            remote: BTreeMap::new(),
            link: None,
            link_info: Link {
                up: false,
                since_unix_ms,
                partner,
                version: None,
                problem,
            },
            ring,
            counters: Counters::default(),
        }
    }

    /// Requests of a person's connection that are not answered yet. A service or link that hung up waits for nothing.
    pub fn awaited(&self, connection: ConnectionId) -> usize {
        match self.connections.get(&connection) {
            Some(Connection {
                role: Role::Anonymous(_),
                asked,
                ..
            }) => *asked,
            _ => 0,
        }
    }

    /// The earliest time at which [`Core::expire`] has something to do, µs of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.pending.next_deadline()
    }

    /// A local connection opened.
    pub fn opened(&mut self, connection: ConnectionId, peer: Peer) {
        self.connect(connection, Role::Anonymous(peer));
    }

    /// The partner's router has proven the pairing key. The new link replaces an older one.
    pub fn link_up(&mut self, connection: ConnectionId, version: String, now: Now, world: &mut impl World) {
        if let Some(old) = self.link.replace(connection) {
            world.close(old, "replaced by a newer link");
        }
        self.connect(connection, Role::Link);
        self.link_info.up = true;
        self.link_info.since_unix_ms = now.unix_us / 1000;
        self.link_info.version = Some(version);
        self.link_info.problem = None;
        let topics: Vec<String> = self.remote.keys().cloned().collect();
        if !topics.is_empty() {
            self.subscribe_at_partner(topics, now, world);
        }
        // Whatever was published while the link was down did not come.
        let gaps: Vec<(ConnectionId, Vec<u8>)> = self
            .remote
            .values()
            .flatten()
            .flat_map(|(&to, names)| names.iter().map(move |name| (to, name)))
            .map(|(to, name)| (to, event_message(name, self.me.partner(), 0, "null")))
            .collect();
        for (to, message) in gaps {
            self.deliver_event(to, &message, world);
        }
    }

    /// The link could not be made, or broke: why.
    pub fn link_problem(&mut self, problem: String) {
        if self.link.is_none() {
            self.link_info.problem = Some(problem);
        }
    }

    fn connect(&mut self, connection: ConnectionId, role: Role) {
        let fresh = Connection {
            role,
            asked: 0,
            owed: 0,
            topics: BTreeSet::new(),
        };
        let previous = self.connections.insert(connection, fresh);
        assert!(previous.is_none(), "connection {connection} opened twice");
    }

    /// A connection closed: it has no name any more, and who waited for it hears so now.
    pub fn closed(&mut self, connection: ConnectionId, now: Now, world: &mut impl World) {
        let Some(gone) = self.connections.remove(&connection) else {
            return;
        };
        let name = match &gone.role {
            Role::Service(service) => {
                self.forget_name(&service.name, connection);
                format!("{}/{}", self.me, service.name)
            }
            Role::Link => {
                if self.link == Some(connection) {
                    self.link = None;
                    self.link_info.up = false;
                    self.link_info.since_unix_ms = now.unix_us / 1000;
                    self.link_info.problem = Some("the link to the partner's router broke".to_owned());
                }
                String::new()
            }
            Role::Anonymous(_) => String::new(),
        };
        for topic in self.topics.values_mut() {
            topic.subscribers.remove(&connection);
        }
        self.remote.retain(|_, subscribers| {
            subscribers.remove(&connection);
            !subscribers.is_empty()
        });
        self.batches.retain(|_, batch| batch.connection != connection);
        let orphaned = |call: &Call| call.callee == connection || call.reply.caller() == Some(connection);
        for ticket in self.pending.matching(orphaned) {
            let Some(call) = self.pending.take(ticket) else {
                continue;
            };
            let error = if call.callee != connection {
                // Nobody waits for it any more; the callee's answer will be counted as late.
                RpcError::new(Code::ServiceGone, &call.to, "the caller went away")
            } else if matches!(gone.role, Role::Link) {
                self.partner_unreachable("the link broke before the answer came; it may have been done")
            } else {
                RpcError::new(
                    Code::ServiceGone,
                    &name,
                    format!("it went away before it answered {}", call.method),
                )
                .remedy("it is started again; ask again under the same action_id")
            };
            self.settle(call, Err(error), now, world);
        }
    }

    fn forget_name(&mut self, name: &str, connection: ConnectionId) {
        if self.services.get(name) == Some(&connection) {
            self.services.remove(name);
        }
    }

    /// Answers every request whose deadline has passed.
    pub fn expire(&mut self, now: Now, world: &mut impl World) {
        while let Some(call) = self.pending.take_expired(now.us) {
            let what = format!("no answer to {} within {} ms", call.method, call.deadline_ms);
            let error = RpcError::new(Code::DeadlinePassed, &call.to, what)
                .remedy("it may still be done; ask again under the same action_id");
            self.settle(call, Err(error), now, world);
        }
    }

    /// A message, or a batch of them, came on a connection.
    pub fn receive(&mut self, connection: ConnectionId, message: &[u8], now: Now, world: &mut impl World) {
        if !self.connections.contains_key(&connection) {
            return;
        }
        if !message.starts_with(b"[") {
            return self.one(connection, None, message, now, world);
        }
        let parts: Result<Vec<&RawValue>, _> = serde_json::from_slice(message);
        let refusal = match parts {
            Ok(parts) if (1..=BATCH).contains(&parts.len()) => {
                self.next_batch += 1;
                let number = self.next_batch;
                let batch = Batch {
                    connection,
                    expected: parts.len(),
                    answers: Vec::new(),
                };
                self.batches.insert(number, batch);
                for part in parts {
                    self.one(connection, Some(number), part.get().as_bytes(), now, world);
                }
                return;
            }
            Ok(parts) => RpcError::new(
                Code::InvalidRequest,
                "batch",
                format!("a batch of {} messages", parts.len()),
            )
            .remedy(format!("1 to {BATCH} messages per batch")),
            Err(error) => RpcError::new(Code::Parse, "batch", error.to_string()),
        };
        self.malformed(connection, None, &refusal, world);
    }

    /// Bytes came that are no message.
    pub fn garbage(&mut self, connection: ConnectionId, error: &RpcError, world: &mut impl World) {
        self.malformed(connection, None, error, world);
    }

    fn malformed(
        &mut self,
        connection: ConnectionId,
        batch: Option<u64>,
        error: &RpcError,
        world: &mut impl World,
    ) {
        self.counters.malformed += 1;
        let mut message = Vec::new();
        wire::write_error(&mut message, "null", error, None);
        self.deliver(connection, batch, &message, world);
    }

    fn one(
        &mut self,
        from: ConnectionId,
        batch: Option<u64>,
        message: &[u8],
        now: Now,
        world: &mut impl World,
    ) {
        let envelope = match Envelope::parse(message) {
            Ok(envelope) => envelope,
            Err(error) => return self.malformed(from, batch, &error, world),
        };
        match envelope.kind() {
            Err(error) => self.malformed(from, batch, &error, world),
            Ok(Kind::Request { id, method }) => {
                let reply = ReplyTo::Caller {
                    connection: from,
                    id: id.get().to_owned(),
                    batch,
                };
                self.request(from, &envelope, method, reply, now, world);
            }
            Ok(Kind::Notification { method }) => {
                self.counters.notifications += 1;
                if let Err(error) = self.notification(from, &envelope, method, now, world) {
                    self.counters.dropped += 1;
                    tracing::debug!(method, %error, "notification dropped");
                }
                self.nothing_to_answer(batch, world);
            }
            Ok(Kind::Answer { id, answer }) => {
                self.nothing_to_answer(batch, world);
                self.answer(from, id, answer, now, world);
            }
        }
    }

    fn request(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        method: &str,
        reply: ReplyTo,
        now: Now,
        world: &mut impl World,
    ) {
        self.counters.requests += 1;
        let action = envelope.action_id.unwrap_or_else(|| world.new_action());
        let mut call = Call {
            reply,
            callee: from,
            action,
            method: method.to_owned(),
            to: self.me.to_string(),
            deadline_ms: envelope
                .deadline_ms
                .unwrap_or(DEFAULT_DEADLINE_MS)
                .min(MAX_DEADLINE_MS),
            trace: None,
            counted: false,
        };
        match self.route(from, envelope, &mut call, now) {
            Ok(Some(callee)) => self.forward(callee, envelope, call, from, now, world),
            Ok(None) => self.own_method(from, envelope, call, now, world),
            Err(error) => {
                if let Ok(sender) = self.sender(from, envelope) {
                    self.note(&mut call, envelope.parent, sender.from, now);
                }
                self.settle(call, Err(error), now, world);
            }
        }
    }

    /// Where a request goes: to a connection, or to the router itself. Fills in `method` and `to`.
    fn route(
        &self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        call: &mut Call,
        now: Now,
    ) -> Result<Option<ConnectionId>, RpcError> {
        let sender = self.sender(from, envelope)?;
        let method = call.method.clone();
        let address = self.address(&method, sender.over_link)?;
        call.method = address.method.to_owned();
        let there = if address.remote {
            self.me.partner()
        } else {
            self.me
        };
        call.to = format!("{there}/{}", address.service);
        if call.deadline_ms == 0 {
            return Err(RpcError::new(
                Code::DeadlinePassed,
                &call.to,
                "the deadline had passed when it came",
            )
            .remedy("give it more time (deadline_ms)"));
        }
        if self.connections[&from].asked >= PENDING_PER_CALLER {
            return Err(overloaded(
                self.me,
                format!("{PENDING_PER_CALLER} requests of this caller are on their way"),
            ));
        }
        if address.remote {
            return self
                .link
                .map(Some)
                .ok_or_else(|| self.partner_unreachable("there is no link now"));
        }
        if address.service == SERVICE {
            return Ok(None);
        }
        let (callee, service) = self.service(address.service, now)?;
        let method = service
            .methods
            .get(address.method)
            .filter(|method| !method.notification)
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
                RpcError::new(Code::MethodNotFound, &call.to, what)
                    .remedy(format!("one of {}", names.join(", ")))
            })?;
        let (caller_at, caller_name) = sender.from.split_once('/').unwrap_or(("", &sender.from));
        let same = method.peer && caller_name == service.name && caller_at == self.me.partner().as_str();
        if !rank::may_call(sender.rank, service.rank, same) {
            let what = format!(
                "{} (rank {}) may not call {} (rank {}): calls go to a higher rank",
                sender.from, sender.rank, address.method, service.rank
            );
            return Err(RpcError::new(Code::NotPermitted, &call.to, what)
                .remedy("send a notification, or let the lower rank ask"));
        }
        Ok(Some(callee))
    }

    fn address<'a>(&self, method: &'a str, over_link: bool) -> Result<Address<'a>, RpcError> {
        let place = self.me.as_str();
        let (controller, method) = method
            .split_once('/')
            .map_or((None, method), |(c, m)| (Some(c), m));
        let remote = match controller {
            None => false,
            Some("partner") => true,
            Some(name) => match name.parse::<ControllerId>() {
                Ok(controller) => controller != self.me,
                Err(_) => {
                    return Err(RpcError::new(
                        Code::InvalidRequest,
                        place,
                        format!("no controller `{name}`"),
                    )
                    .remedy("service.method, partner/service.method, a/service.method or b/service.method"));
                }
            },
        };
        if remote && over_link {
            let what = format!("{method} came from the partner and asks for the partner");
            return Err(
                RpcError::new(Code::InvalidRequest, place, what).remedy("the partner asks its own router")
            );
        }
        match method.split_once('.') {
            Some((service, name)) if !service.is_empty() && !name.is_empty() => Ok(Address {
                remote,
                service,
                method,
            }),
            _ => Err(RpcError::new(
                Code::InvalidRequest,
                place,
                format!("`{method}` names no service"),
            )
            .remedy("service.method")),
        }
    }

    fn service(&self, name: &str, now: Now) -> Result<(ConnectionId, &Registration), RpcError> {
        let found = self
            .services
            .get(name)
            .and_then(|id| Some((*id, self.connections.get(id)?)));
        match found {
            Some((
                id,
                Connection {
                    role: Role::Service(service),
                    ..
                },
            )) => Ok((id, service)),
            _ => {
                let place = format!("{}/{name}", self.me);
                let error = RpcError::new(
                    Code::UnknownService,
                    place,
                    format!("no service {name} is registered"),
                );
                Err(if rank::of(name).is_some() {
                    let running = now.unix_us.saturating_sub(self.started_unix_us) / 1_000_000;
                    error.remedy(format!(
                        "it is not started or starts just now (the router runs for {running} s); see `pollux status`"
                    ))
                } else {
                    let names: Vec<&str> = self.services.keys().map(String::as_str).collect();
                    error.remedy(format!("one of router, {}", names.join(", ")))
                })
            }
        }
    }

    /// Who sends on this connection; refuses whom the socket's credentials do not allow to.
    fn sender(&self, from: ConnectionId, envelope: &Envelope<'_>) -> Result<Sender, RpcError> {
        match &self.connections[&from].role {
            Role::Anonymous(peer) if !peer.trusted => {
                let what = format!("user {} may not use this router", peer.uid);
                Err(RpcError::new(Code::NotPermitted, self.me.as_str(), what)
                    .remedy("ask as root or as the user that the array runs as"))
            }
            Role::Anonymous(_) => Ok(Sender {
                from: format!("{}/shell", self.me),
                rank: rank::SHELL,
                over_link: false,
            }),
            Role::Service(service) => {
                let from = format!("{}/{}", self.me, service.name);
                Ok(Sender {
                    from,
                    rank: service.rank,
                    over_link: false,
                })
            }
            Role::Link => {
                let said = envelope.from.as_deref().unwrap_or("router");
                let name = said.split_once('/').map_or(said, |(_, name)| name);
                let from = format!("{}/{name}", self.me.partner());
                Ok(Sender {
                    from,
                    rank: envelope.rank.unwrap_or(rank::SHELL),
                    over_link: true,
                })
            }
        }
    }

    fn forward(
        &mut self,
        callee: ConnectionId,
        envelope: &Envelope<'_>,
        mut call: Call,
        from: ConnectionId,
        now: Now,
        world: &mut impl World,
    ) {
        let sender = match self.sender(from, envelope) {
            Ok(sender) => sender,
            Err(error) => return self.settle(call, Err(error), now, world),
        };
        self.note(&mut call, envelope.parent, sender.from.clone(), now);
        call.callee = callee;
        let head = Head {
            action_id: Some(call.action),
            parent: envelope.parent,
            deadline_ms: Some(call.deadline_ms),
            from: Some(&sender.from),
            rank: (Some(callee) == self.link).then_some(sender.rank),
        };
        let (method, deadline) = (call.method.clone(), now.us + call.deadline_ms * 1000);
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
        let mut message = Vec::with_capacity(envelope.params.map_or(0, |params| params.get().len()) + 256);
        let params = envelope.params.map(RawValue::get);
        wire::write_call(&mut message, Some(&ticket.to_string()), &method, params, &head);
        if !world.send(callee, &message)
            && let Some(call) = self.pending.take(ticket)
        {
            let error = overloaded(
                &call.to,
                "its queue is full: it does not read what is sent to it".into(),
            );
            self.settle(call, Err(error), now, world);
        }
    }

    fn owe(&mut self, callee: ConnectionId, caller: ConnectionId, change: isize) {
        if let Some(connection) = self.connections.get_mut(&callee) {
            connection.owed = connection.owed.saturating_add_signed(change);
        }
        if let Some(connection) = self.connections.get_mut(&caller) {
            connection.asked = connection.asked.saturating_add_signed(change);
        }
    }

    /// Notes a request in the ring; whatever becomes of it is noted in [`Core::settle`].
    fn note(&mut self, call: &mut Call, parent: Option<ActionId>, from: String, now: Now) {
        // Looking at the book is not an entry in the book.
        if call.method != TRACE {
            call.trace = Some(self.ring.push(TraceRecord {
                action_id: call.action,
                parent,
                at: self.me,
                method: call.method.clone(),
                from,
                to: call.to.clone(),
                start_unix_us: now.unix_us,
                duration_us: None,
                outcome: Outcome::Pending,
            }));
        }
    }

    fn answer(
        &mut self,
        from: ConnectionId,
        id: &RawValue,
        answer: Result<&RawValue, &RawValue>,
        now: Now,
        world: &mut impl World,
    ) {
        let ticket = Ticket::parse(id.get());
        // Only the callee has the ticket; an answer of anybody else is a forgery or a mistake.
        let good = ticket.filter(|ticket| self.pending.get(*ticket).is_some_and(|call| call.callee == from));
        let Some(call) = good.and_then(|ticket| self.pending.take(ticket)) else {
            self.counters.late_answers += 1;
            return;
        };
        self.counters.answers += 1;
        match (answer, &call.reply) {
            (
                answer,
                ReplyTo::Caller {
                    connection,
                    id,
                    batch,
                },
            ) => {
                let (connection, batch) = (*connection, *batch);
                let mut message =
                    Vec::with_capacity(answer.map_or_else(|e| e.get().len(), |r| r.get().len()) + 128);
                let raw = answer.map(RawValue::get).map_err(RawValue::get);
                wire::write_answer(&mut message, id, raw, Some(call.action));
                let outcome = answer.map_or_else(
                    |error| Outcome::Error(error_name(error).into()),
                    |_| Outcome::Done,
                );
                self.finish(call.trace, outcome, now, world);
                self.owe(call.callee, connection, -1);
                self.deliver(connection, batch, &message, world);
            }
            (answer, _) => {
                let answer = answer.map(|result| result.get().to_owned()).map_err(|error| {
                    serde_json::from_str(error.get())
                        .unwrap_or_else(|_| RpcError::new(Code::Internal, &call.to, error.get()))
                });
                self.settle(call, answer, now, world);
            }
        }
    }

    /// A request has its answer, from wherever.
    fn settle(&mut self, call: Call, answer: Result<String, RpcError>, now: Now, world: &mut impl World) {
        if let (true, Some(caller)) = (call.counted, call.reply.caller()) {
            self.owe(call.callee, caller, -1);
        }
        let outcome = answer
            .as_ref()
            .map_or_else(|error| Outcome::Error(error.message.clone()), |_| Outcome::Done);
        if answer.as_ref().is_err_and(|error| error.is(Code::Overloaded)) {
            self.counters.overloaded += 1;
        }
        self.finish(call.trace, outcome, now, world);
        match call.reply {
            ReplyTo::Caller {
                connection,
                id,
                batch,
            } => {
                let mut message = Vec::new();
                match &answer {
                    Ok(result) => wire::write_answer(&mut message, &id, Ok(result), Some(call.action)),
                    Err(error) => wire::write_error(&mut message, &id, error, Some(call.action)),
                }
                self.deliver(connection, batch, &message, world);
            }
            ReplyTo::Trace(tracing) => self.traced(*tracing, answer, now, world),
            ReplyTo::Nobody => {
                if let Err(error) = answer {
                    tracing::warn!(method = call.method, %error, "the partner's router refused");
                }
            }
        }
    }

    fn finish(&mut self, number: Option<u64>, outcome: Outcome, now: Now, world: &mut impl World) {
        if let Some(record) = number.and_then(|number| self.ring.finish(number, now.unix_us, outcome))
            && !world.journal(record)
        {
            self.counters.trace_dropped += 1;
        }
    }

    /// Hands an answer to its caller. One that does not read its answers is disconnected.
    fn deliver(&mut self, to: ConnectionId, batch: Option<u64>, message: &[u8], world: &mut impl World) {
        let Some(number) = batch else {
            if self.connections.contains_key(&to) && !world.send(to, message) {
                world.close(to, "it does not read its answers");
            }
            return;
        };
        if let Some(batch) = self.batches.get_mut(&number) {
            batch
                .answers
                .push(if batch.answers.is_empty() { b'[' } else { b',' });
            batch.answers.extend_from_slice(message.trim_ascii_end());
            self.nothing_to_answer(Some(number), world);
        }
    }

    /// One message of a batch is done with; the last one sends the answers.
    fn nothing_to_answer(&mut self, batch: Option<u64>, world: &mut impl World) {
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
            self.deliver(batch.connection, None, &batch.answers, world);
        }
    }

    fn notification(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        method: &str,
        now: Now,
        world: &mut impl World,
    ) -> Result<(), RpcError> {
        let sender = self.sender(from, envelope)?;
        let address = self.address(method, sender.over_link)?;
        let params = envelope.params.map_or("null", RawValue::get);
        if address.service == SERVICE && !address.remote {
            return match address.method {
                PUBLISH => self.publish(from, params, world),
                EVENT if sender.over_link => self.remote_event(params, world),
                other => Err(RpcError::new(
                    Code::MethodNotFound,
                    SERVICE,
                    format!("no notification {other}"),
                )),
            };
        }
        let to = if address.remote {
            self.link
                .ok_or_else(|| self.partner_unreachable("there is no link now"))?
        } else {
            let (to, service) = self.service(address.service, now)?;
            if !service
                .methods
                .get(address.method)
                .is_some_and(|method| method.notification)
            {
                let what = format!("{} takes no notification {}", service.name, address.method);
                return Err(RpcError::new(Code::MethodNotFound, &service.name, what));
            }
            to
        };
        let action = envelope.action_id.unwrap_or_else(|| world.new_action());
        let head = Head {
            action_id: Some(action),
            parent: envelope.parent,
            from: Some(&sender.from),
            rank: address.remote.then_some(sender.rank),
            ..Head::default()
        };
        let mut message = Vec::new();
        wire::write_call(
            &mut message,
            None,
            address.method,
            envelope.params.map(RawValue::get),
            &head,
        );
        let there = if address.remote {
            self.me.partner()
        } else {
            self.me
        };
        let sent = world.send(to, &message);
        let record = TraceRecord {
            action_id: action,
            parent: envelope.parent,
            at: self.me,
            method: address.method.to_owned(),
            from: sender.from,
            to: format!("{there}/{}", address.service),
            start_unix_us: now.unix_us,
            duration_us: None,
            outcome: if sent {
                Outcome::Sent
            } else {
                Outcome::Error(Code::Overloaded.name().to_owned())
            },
        };
        if !world.journal(&record) {
            self.counters.trace_dropped += 1;
        }
        self.ring.push(record);
        if sent {
            Ok(())
        } else {
            Err(overloaded(address.service, "its queue is full".to_owned()))
        }
    }

    fn publish(&mut self, from: ConnectionId, params: &str, world: &mut impl World) -> Result<(), RpcError> {
        let Publish { topic, payload } = wire::params::<Publish<Box<RawValue>>>(PUBLISH, params)?;
        let owner = match &self.connections[&from].role {
            Role::Service(service) => service.name.as_str(),
            _ => "",
        };
        if owner.is_empty() || topic.split_once('.').is_none_or(|(service, _)| service != owner) {
            let what = format!("{topic} is no topic of this caller");
            return Err(RpcError::new(Code::NotPermitted, PUBLISH, what)
                .remedy("a service publishes on topics that begin with its name"));
        }
        if self.topics.len() >= TOPICS && !self.topics.contains_key(&topic) {
            return Err(overloaded(self.me, format!("{TOPICS} topics are known")));
        }
        let entry = self.topics.entry(topic.clone()).or_default();
        entry.sequence += 1;
        let message = event_message(&topic, self.me, entry.sequence, payload.get());
        let subscribers: Vec<ConnectionId> = entry.subscribers.iter().copied().collect();
        for to in subscribers {
            self.deliver_event(to, &message, world);
        }
        Ok(())
    }

    fn deliver_event(&mut self, to: ConnectionId, message: &[u8], world: &mut impl World) {
        // What does not fit is a hole in the sequence, which the subscriber sees.
        if !world.send(to, message) {
            self.counters.dropped += 1;
        }
    }

    /// The partner published something that somebody here has subscribed to.
    fn remote_event(&mut self, params: &str, world: &mut impl World) -> Result<(), RpcError> {
        let event: Event<Box<RawValue>> = wire::params(EVENT, params)?;
        let Some(subscribers) = self.remote.get(&event.topic) else {
            return Ok(());
        };
        let messages: Vec<(ConnectionId, Vec<u8>)> = subscribers
            .iter()
            .flat_map(|(&to, names)| names.iter().map(move |name| (to, name)))
            .map(|(to, name)| {
                (
                    to,
                    event_message(name, event.controller, event.sequence, event.payload.get()),
                )
            })
            .collect();
        for (to, message) in messages {
            self.deliver_event(to, &message, world);
        }
        Ok(())
    }

    fn own_method(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        mut call: Call,
        now: Now,
        world: &mut impl World,
    ) {
        let params = envelope.params.map_or("null", RawValue::get);
        let answer = match call.method.as_str() {
            TRACE => return self.trace(from, params, call, now, world),
            REGISTER => self
                .register(from, params, now)
                .map(|registered| wire::to_json(&registered)),
            UNREGISTER => self.unregister(from).map(|()| "null".to_owned()),
            STATUS => Ok(wire::to_json(&self.status())),
            SUBSCRIBE => self
                .subscribe(from, params, now, world)
                .map(|topics| wire::to_json(&topics)),
            "router.unsubscribe" => self
                .unsubscribe(from, params)
                .map(|topics| wire::to_json(&topics)),
            other => Err(RpcError::new(
                Code::MethodNotFound,
                &call.to,
                format!("router has no method {other}"),
            )
            .remedy("router.status, router.trace, router.subscribe, router.unsubscribe")),
        };
        if let Ok(sender) = self.sender(from, envelope)
            && call.method != STATUS
        {
            self.note(&mut call, envelope.parent, sender.from, now);
        }
        self.settle(call, answer, now, world);
    }

    fn register(&mut self, from: ConnectionId, params: &str, now: Now) -> Result<Registered, RpcError> {
        let register: Register = wire::params(REGISTER, params)?;
        let place = format!("{}/{}", self.me, register.name);
        let peer = match &self.connections[&from].role {
            Role::Anonymous(peer) => *peer,
            Role::Service(service) => {
                let what = format!("this connection is {} already", service.name);
                return Err(RpcError::new(Code::Conflict, place, what).remedy("one connection per service"));
            }
            Role::Link => {
                return Err(
                    RpcError::new(Code::NotPermitted, place, "a service of the partner")
                        .remedy("a service registers at the router of its own controller"),
                );
            }
        };
        let problems = registration_problems(&register);
        if !problems.is_empty() {
            let mut error = RpcError::new(Code::InvalidParams, place, "the registration breaks the contract");
            for (path, what, remedy) in problems {
                error = error.problem(path, what, remedy);
            }
            return Err(error);
        }
        if let Ok((_, living)) = self.service(&register.name, now) {
            let what = format!(
                "{} is registered by process {}, which lives",
                living.name, living.peer.pid
            );
            return Err(RpcError::new(Code::Conflict, place, what)
                .since_ms(living.since_unix_us / 1000)
                .remedy("stop that process first; a name belongs to one living service"));
        }
        self.services.insert(register.name.clone(), from);
        let methods = register
            .methods
            .into_iter()
            .map(|method| (method.name.clone(), method))
            .collect();
        let Register {
            name, version, rank, ..
        } = register;
        let registration = Registration {
            peer,
            name,
            version,
            rank,
            methods,
            since_unix_us: now.unix_us,
        };
        if let Some(connection) = self.connections.get_mut(&from) {
            connection.role = Role::Service(Box::new(registration));
        }
        Ok(Registered {
            controller: self.me,
            version: self.version.to_owned(),
        })
    }

    fn unregister(&mut self, from: ConnectionId) -> Result<(), RpcError> {
        let Role::Service(service) = &self.connections[&from].role else {
            return Err(RpcError::new(
                Code::Conflict,
                self.me.as_str(),
                "this connection is no service",
            ));
        };
        // It keeps its rank for what it still has to ask, and owes its answers; only its name is free.
        let name = service.name.clone();
        self.forget_name(&name, from);
        Ok(())
    }

    fn subscribe(
        &mut self,
        from: ConnectionId,
        params: &str,
        now: Now,
        world: &mut impl World,
    ) -> Result<Subscribed, RpcError> {
        let Subscribe { topics } = wire::params(SUBSCRIBE, params)?;
        let over_link = self.link == Some(from);
        let mut wanted = Vec::new();
        for (i, topic) in topics.iter().enumerate() {
            let address = self.address(topic, over_link).map_err(|error| {
                RpcError::new(Code::InvalidParams, SUBSCRIBE, "no topic").problem(
                    format!("topics[{i}]"),
                    error.data.what,
                    "service.topic or partner/service.topic",
                )
            })?;
            wanted.push((topic, address.remote, address.method.to_owned()));
        }
        let connection = &self.connections[&from];
        let known = self.topics.len() + self.remote.len();
        if connection.topics.len() + wanted.len() > TOPICS_PER_SUBSCRIBER || known + wanted.len() > TOPICS {
            let what = format!("at most {TOPICS_PER_SUBSCRIBER} topics per subscriber and {TOPICS} in all");
            return Err(overloaded(self.me, what));
        }
        let mut at_partner = Vec::new();
        for (name, remote, topic) in wanted {
            if remote {
                let names = self
                    .remote
                    .entry(topic.clone())
                    .or_default()
                    .entry(from)
                    .or_default();
                names.insert(name.clone());
                at_partner.push(topic);
            } else {
                self.topics.entry(topic).or_default().subscribers.insert(from);
            }
            if let Some(connection) = self.connections.get_mut(&from) {
                connection.topics.insert(name.clone());
            }
        }
        if !at_partner.is_empty() {
            self.subscribe_at_partner(at_partner, now, world);
        }
        Ok(self.subscribed(from))
    }

    fn unsubscribe(&mut self, from: ConnectionId, params: &str) -> Result<Subscribed, RpcError> {
        let Subscribe { topics } = wire::params(SUBSCRIBE, params)?;
        for name in topics {
            if let Some(connection) = self.connections.get_mut(&from) {
                connection.topics.remove(&name);
            }
            let topic = name
                .split_once('/')
                .map_or(name.as_str(), |(_, topic)| topic)
                .to_owned();
            let Ok(Address { remote, .. }) = self.address(&name, false) else {
                continue;
            };
            if !remote {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.subscribers.remove(&from);
                }
            } else if let Some(subscribers) = self.remote.get_mut(&topic) {
                // The partner keeps sending what nobody asks for until the link is renewed: cheap, and dropped here.
                subscribers.remove(&from);
                if subscribers.is_empty() {
                    self.remote.remove(&topic);
                }
            }
        }
        Ok(self.subscribed(from))
    }

    fn subscribed(&self, connection: ConnectionId) -> Subscribed {
        Subscribed {
            topics: self.connections[&connection].topics.iter().cloned().collect(),
        }
    }

    fn subscribe_at_partner(&mut self, topics: Vec<String>, now: Now, world: &mut impl World) {
        let params = wire::to_json(&Subscribe { topics });
        let action = world.new_action();
        self.ask_partner(SUBSCRIBE, &params, action, ReplyTo::Nobody, 5_000_000, now, world);
    }

    /// Asks the partner's router; without a link the answer is at once that there is none.
    #[expect(clippy::too_many_arguments, reason = "one call of the wire, spelled out")]
    fn ask_partner(
        &mut self,
        name: &str,
        params: &str,
        action: ActionId,
        reply: ReplyTo,
        within_us: u64,
        now: Now,
        world: &mut impl World,
    ) {
        let to = format!("{}/{SERVICE}", self.me.partner());
        let deadline_ms = within_us / 1000;
        let callee = self.link.unwrap_or(ConnectionId::MAX);
        let method = name.to_owned();
        let call = Call {
            reply,
            callee,
            action,
            method,
            to,
            deadline_ms,
            trace: None,
            counted: false,
        };
        let Some(link) = self.link else {
            // A subscription is made again when the link comes.
            if !matches!(call.reply, ReplyTo::Nobody) {
                let error = self.partner_unreachable("there is no link now");
                self.settle(call, Err(error), now, world);
            }
            return;
        };
        match self.pending.insert(now.us + within_us, call) {
            Err(call) => self.settle(
                call,
                Err(overloaded(self.me, "the table is full".to_owned())),
                now,
                world,
            ),
            Ok(ticket) => {
                let from = format!("{}/{SERVICE}", self.me);
                let head = Head {
                    action_id: Some(action),
                    deadline_ms: Some(deadline_ms),
                    from: Some(&from),
                    rank: Some(rank::SHELL),
                    ..Head::default()
                };
                let mut message = Vec::new();
                wire::write_call(&mut message, Some(&ticket.to_string()), name, Some(params), &head);
                if !world.send(link, &message)
                    && let Some(call) = self.pending.take(ticket)
                {
                    let error = self.partner_unreachable("its queue is full");
                    self.settle(call, Err(error), now, world);
                }
            }
        }
    }

    fn trace(&mut self, from: ConnectionId, params: &str, call: Call, now: Now, world: &mut impl World) {
        let asked: Trace = match wire::params(TRACE, params) {
            Ok(asked) => asked,
            Err(error) => return self.settle(call, Err(error), now, world),
        };
        let limit = asked
            .limit
            .map_or(TRACE_LIMIT, |limit| limit as usize)
            .clamp(1, TRACE_LIMIT_MAX);
        let mut roots: Vec<ActionId> = asked.action_id.into_iter().chain(asked.also).collect();
        let (records, truncated) = if roots.is_empty() {
            self.ring.roots(limit)
        } else {
            self.ring.descendants(&roots, limit)
        };
        if !roots.is_empty() {
            // The partner may know effects of an action whose cause only this router has seen.
            let known: BTreeSet<ActionId> = roots.iter().copied().chain(actions(&records)).collect();
            roots = known.into_iter().collect();
        }
        let tracing = Tracing {
            reply: call.reply,
            action: call.action,
            roots,
            limit,
            records,
            truncated,
            round: 0,
        };
        if asked.local || self.link == Some(from) {
            self.tell_trace(tracing, vec![self.me], Vec::new(), now, world);
        } else {
            self.ask_trace(tracing, now, world);
        }
    }

    fn ask_trace(&mut self, tracing: Tracing, now: Now, world: &mut impl World) {
        let (first, also) = match tracing.roots.split_first() {
            None => (None, Vec::new()),
            Some((first, also)) => (Some(*first), also.to_vec()),
        };
        let limit = u32::try_from(tracing.limit).ok();
        let params = wire::to_json(&Trace {
            action_id: first,
            also,
            limit,
            local: true,
        });
        let action = tracing.action;
        self.ask_partner(
            TRACE,
            &params,
            action,
            ReplyTo::Trace(Box::new(tracing)),
            TRACE_WITHIN_US,
            now,
            world,
        );
    }

    /// The partner has told its part. If it knows effects whose further effects only this router has seen, and the
    /// other way round, they ask each other again.
    fn traced(
        &mut self,
        mut tracing: Tracing,
        answer: Result<String, RpcError>,
        now: Now,
        world: &mut impl World,
    ) {
        let report = answer.and_then(|answer| {
            serde_json::from_str::<TraceReport>(&answer)
                .map_err(|error| RpcError::new(Code::Internal, "partner's trace", error.to_string()))
        });
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                let missing = vec![Missing {
                    controller: self.me.partner(),
                    why: error.to_string(),
                }];
                return self.tell_trace(tracing, vec![self.me], missing, now, world);
            }
        };
        tracing.truncated |= report.truncated;
        add_records(&mut tracing.records, report.records);
        if !tracing.roots.is_empty() && tracing.round < TRACE_ROUNDS {
            let asked: HashSet<ActionId> = tracing.roots.iter().copied().collect();
            let before = tracing.records.len();
            let known = actions(&tracing.records);
            let (more, truncated) = self.ring.descendants(&known, tracing.limit);
            tracing.truncated |= truncated;
            add_records(&mut tracing.records, more);
            // Only what the partner has not been asked about, directly or as an effect of what it was asked about.
            let news: Vec<ActionId> = actions(&tracing.records)
                .into_iter()
                .filter(|action| !asked.contains(action))
                .collect();
            if tracing.records.len() > before && !news.is_empty() {
                tracing.roots.extend(news);
                tracing.round += 1;
                return self.ask_trace(tracing, now, world);
            }
        }
        self.tell_trace(tracing, vec![self.me, self.me.partner()], Vec::new(), now, world);
    }

    fn tell_trace(
        &mut self,
        tracing: Tracing,
        seen: Vec<ControllerId>,
        missing: Vec<Missing>,
        now: Now,
        world: &mut impl World,
    ) {
        let mut records = trace::merge(tracing.records);
        let truncated = tracing.truncated || records.len() > tracing.limit;
        if tracing.roots.is_empty() {
            records.drain(..records.len().saturating_sub(tracing.limit));
        } else {
            records.truncate(tracing.limit);
        }
        let report = TraceReport {
            records,
            seen,
            missing,
            truncated,
        };
        let call = Call {
            reply: tracing.reply,
            callee: ConnectionId::MAX,
            action: tracing.action,
            method: TRACE.to_owned(),
            to: self.me.to_string(),
            deadline_ms: 0,
            trace: None,
            counted: false,
        };
        self.settle(call, Ok(wire::to_json(&report)), now, world);
    }

    fn status(&self) -> Status {
        let services = self.services.values().filter_map(|id| {
            let connection = self.connections.get(id)?;
            let Role::Service(service) = &connection.role else {
                return None;
            };
            let mut methods: Vec<String> = service.methods.keys().cloned().collect();
            methods.sort_unstable();
            Some(ServiceInfo {
                name: service.name.clone(),
                version: service.version.clone(),
                rank: service.rank,
                pid: service.peer.pid,
                methods,
                pending: connection.owed as u64,
                since_unix_ms: service.since_unix_us / 1000,
            })
        });
        Status {
            controller: self.me,
            version: self.version.to_owned(),
            started_unix_ms: self.started_unix_us / 1000,
            services: services.collect(),
            link: self.link_info.clone(),
            counters: self.counters,
        }
    }

    fn partner_unreachable(&self, what: &str) -> RpcError {
        let what = match &self.link_info.problem {
            Some(problem) if self.link.is_none() => format!("{what}: {problem}"),
            _ => what.to_owned(),
        };
        RpcError::new(Code::PartnerUnreachable, self.me.partner().as_str(), what)
            .since_ms(self.link_info.since_unix_ms)
            .remedy("start the partner or mend the interconnect; see `pollux status`")
    }
}

impl ReplyTo {
    fn caller(&self) -> Option<ConnectionId> {
        match self {
            Self::Caller { connection, .. } => Some(*connection),
            Self::Trace(tracing) => tracing.reply.caller(),
            Self::Nobody => None,
        }
    }
}

fn actions(records: &[TraceRecord]) -> Vec<ActionId> {
    let unique: BTreeSet<ActionId> = records.iter().map(|record| record.action_id).collect();
    unique.into_iter().collect()
}

fn add_records(records: &mut Vec<TraceRecord>, more: Vec<TraceRecord>) {
    for record in more {
        let same = |r: &TraceRecord| {
            (r.action_id, r.at, r.start_unix_us) == (record.action_id, record.at, record.start_unix_us)
                && r.method == record.method
        };
        if !records.iter().any(same) {
            records.push(record);
        }
    }
}

fn overloaded(place: impl ToString, what: String) -> RpcError {
    RpcError::new(Code::Overloaded, place.to_string(), what)
        .remedy("ask again later under the same action_id")
}

fn event_message(topic: &str, controller: ControllerId, sequence: u64, payload: &str) -> Vec<u8> {
    let topic = wire::to_json(topic);
    let params = format!(
        r#"{{"topic":{topic},"controller":"{controller}","sequence":{sequence},"payload":{payload}}}"#
    );
    let mut message = Vec::with_capacity(params.len() + 64);
    wire::write_call(&mut message, None, EVENT, Some(&params), &Head::default());
    message
}

/// The stable name of an error on its way through.
fn error_name(error: &RawValue) -> Cow<'_, str> {
    #[derive(serde::Deserialize)]
    struct Name<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    serde_json::from_str::<Name<'_>>(error.get()).map_or(Cow::Borrowed("error"), |name| name.message)
}

/// Every rule of the contract that a registration breaks: field, what, what would be right.
fn registration_problems(register: &Register) -> Vec<(String, String, String)> {
    let mut problems = Vec::new();
    let Register {
        name, rank, methods, ..
    } = register;
    let letters = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'))
    };
    if !letters(name) || name.len() > 32 || matches!(name.as_str(), SERVICE | "shell" | "partner") {
        let remedy = "up to 32 lower-case letters, digits, - and _; not router, shell or partner";
        problems.push((
            "name".into(),
            format!("`{name}` is no name of a service"),
            remedy.into(),
        ));
    }
    if let Some(right) = rank::of(name)
        && right != *rank
    {
        problems.push((
            "rank".into(),
            format!("{rank} is not the rank of {name}"),
            right.to_string(),
        ));
    }
    if methods.len() > METHODS {
        problems.push((
            "methods".into(),
            format!("{} methods", methods.len()),
            format!("at most {METHODS}"),
        ));
    }
    let mut seen = HashSet::new();
    for (i, method) in methods.iter().enumerate() {
        let path = format!("methods[{i}].name");
        if method
            .name
            .split_once('.')
            .is_none_or(|(service, rest)| service != name || !letters(rest))
        {
            let what = format!("`{}` does not belong to {name}", method.name);
            problems.push((path, what, format!("{name}.method, in lower case")));
        } else if !seen.insert(method.name.as_str()) {
            problems.push((
                path,
                format!("`{}` comes twice", method.name),
                "each method once".into(),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests;
