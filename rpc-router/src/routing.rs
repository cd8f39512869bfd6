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
//! * Who sent a message, with which rank and role, is what the router knows of the connection, never what the message says;
//!   only the partner's router, which has proven the pairing key, is believed.
//! * What came over the link never goes back over it.
//! * Tables and queues are bounded; a caller that does not read its answers is disconnected, nobody waits for it.
//!
//! It must never wait, read a clock or touch a socket.
//! What it does for requests and their answers stands in `calls`, for notifications and events in `events`, for
//! requests to the router itself in `own`, who comes from afar in `afar`, and what it remembers of all of them in `history`.
//!
//! It must never wait, read a clock or touch a socket.

mod afar;
mod calls;
mod events;
mod history;
mod names;
mod own;
mod shared;
mod work;

use crate::actions::Actions;
use crate::pending::{Pending, Ticket};
use crate::trace::{Entry, Ring};
pub use afar::Errand;
use afar::Remote;
use calls::{Batch, Call, ReplyTo, overloaded};
use events::{Topic, event_message};
use names::{Names, Numbers, RequestId};
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::rank::{self, Rank};
use pollux_api::role;
use pollux_api::router::{Counters, Link, Method, SERVICE};
use pollux_runtime::wire::{self, Envelope, Kind, Message};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Number of a connection; never used again.
pub type ConnectionId = u64;

/// Requests on their way, of all callers together.
const PENDING: usize = 65_536;
/// Messages in one batch.
const BATCH: usize = 256;
/// Trace records per second that the journal gets of calls that change nothing: what reads the state in a flood must
/// not wash out of a bounded journal what changed it.
const JOURNAL_PER_SECOND: u32 = 500;
/// The buffer in which a message is put together keeps at most this between two of them.
const KEEP: usize = 128 << 10;

/// Notification between two routers, beside the contract: the sender's epoch has changed.
pub const PRESENT: &str = "router.present";

/// Parameters of [`PRESENT`].
#[derive(Debug, serde::Deserialize)]
struct Present {
    epoch: u64,
}

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
    fn journal(&mut self, record: &Entry) -> bool;
    /// Has something done that waits for a disk; [`Core::done`] follows. False if there is no room.
    fn run(&mut self, ticket: Ticket, errand: Errand) -> bool;
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
    /// A person or a program that came over the management address.
    Remote(Box<Remote>),
    /// The partner's router.
    Link,
}

#[derive(Debug)]
struct Registration {
    peer: Peer,
    name: String,
    /// `a/pool`: what others are told of it.
    full: Arc<str>,
    version: String,
    rank: Rank,
    methods: HashMap<Arc<str>, Method>,
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

/// The sender of the message that is being handled.
struct Sender {
    from: Arc<str>,
    rank: Rank,
    over_link: bool,
    /// The role of its token, if it came from afar.
    afar: Option<role::Role>,
}

/// Everything that the router knows.
#[derive(Debug)]
pub struct Core {
    me: ControllerId,
    version: &'static str,
    started_unix_us: u64,
    connections: HashMap<ConnectionId, Connection, Numbers>,
    services: BTreeMap<String, ConnectionId>,
    pending: Pending<Call>,
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    topics: BTreeMap<String, Topic>,
    /// Topics of the partner, and under which names they were asked for.
    remote: BTreeMap<String, BTreeMap<ConnectionId, BTreeSet<String>>>,
    link: Option<ConnectionId>,
    link_info: Link,
    /// Epoch of this controller.
    epoch: Option<u64>,
    ring: Ring,
    actions: Actions,
    counters: Counters,
    names: Names,
    /// Sender of what people say: `a/shell`.
    shell: Arc<str>,
    /// The second in which so many records of calls that change nothing went to the journal.
    journalled: (u64, u32),
    /// The message that is being put together.
    out: Vec<u8>,
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
            connections: HashMap::default(),
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
                partner_epoch: None,
            },
            epoch: None,
            ring,
            actions: Actions::default(),
            counters: Counters::default(),
            names: Names::default(),
            shell: format!("{me}/shell").into(),
            journalled: (0, 0),
            out: Vec::new(),
        }
    }

    /// Requests of a person's connection that are not answered yet. A service or link that hung up waits for nothing.
    pub fn awaited(&self, connection: ConnectionId) -> usize {
        match self.connections.get(&connection) {
            Some(Connection {
                role: Role::Anonymous(_) | Role::Remote(_),
                asked,
                ..
            }) => *asked,
            _ => 0,
        }
    }

    /// The earliest time at which [`Core::expire`] has something to do, µs of the monotonic clock.
    pub fn next_deadline(&mut self) -> Option<u64> {
        self.pending.next_deadline()
    }

    /// A time that is not after [`Core::next_deadline`]; cheaper to ask for.
    pub fn earliest_deadline(&self) -> Option<u64> {
        self.pending.earliest()
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

    /// Epoch of this controller, once heartbeat has granted a lease under one.
    pub fn own_epoch(&mut self, epoch: Option<u64>) {
        self.epoch = epoch;
    }

    /// Epoch of the partner, once its router has said it.
    pub fn partner_epoch(&mut self, epoch: Option<u64>) {
        self.link_info.partner_epoch = epoch;
    }

    /// Somebody who is not the partner wanted to be the link; whether that is news.
    pub fn foreign(&mut self, problem: String) -> bool {
        self.counters.foreign_links += 1;
        let news = self.link_info.problem.as_ref() != Some(&problem);
        self.link_problem(problem);
        news
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
                self.work_gone(&service.name, now, world);
                format!("{}/{}", self.me, service.name)
            }
            Role::Link => {
                if self.link == Some(connection) {
                    self.link = None;
                    self.link_info.up = false;
                    self.link_info.since_unix_ms = now.unix_us / 1000;
                    self.link_info.problem = Some("the link to the partner's router broke".to_owned());
                    self.link_info.partner_epoch = None;
                }
                String::new()
            }
            Role::Anonymous(_) | Role::Remote(_) => String::new(),
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
                RpcError::new(Code::ServiceGone, &*call.to, "the caller went away")
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
            let error = RpcError::new(Code::DeadlinePassed, &*call.to, what)
                .remedy("it may still be done; ask again under the same action_id");
            self.settle(call, Err(error), now, world);
        }
    }

    /// A message, or a batch of them, came on a connection.
    pub fn receive<'a>(
        &mut self,
        connection: ConnectionId,
        message: impl Into<Message<'a>>,
        now: Now,
        world: &mut impl World,
    ) {
        let message = message.into();
        if !message.bytes.starts_with(b"[") {
            return self.one(connection, None, &message, now, world);
        }
        if !self.connections.contains_key(&connection) {
            return;
        }
        let parts: Result<Vec<&RawValue>, _> = serde_json::from_slice(message.bytes);
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
                    self.one(
                        connection,
                        Some(number),
                        &part.get().as_bytes().into(),
                        now,
                        world,
                    );
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
        self.deliver(connection, batch, world, |out| {
            wire::write_error(out, "null", error, None);
        });
    }
    fn one(
        &mut self,
        from: ConnectionId,
        batch: Option<u64>,
        message: &Message<'_>,
        now: Now,
        world: &mut impl World,
    ) {
        let Some(connection) = self.connections.get(&from) else {
            return;
        };
        let stranger = matches!(connection.role, Role::Anonymous(_) | Role::Remote(_));
        let envelope = Envelope::of(message).and_then(|envelope| {
            // Who has registered writes JSON, or harms only whom it calls; what others say is read to its end here.
            if stranger {
                wire::validate(message.bytes)?;
            }
            Ok(envelope)
        });
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return self.malformed(from, batch, &error, world),
        };
        match envelope.kind() {
            Err(error) => self.malformed(from, batch, &error, world),
            Ok(Kind::Request { id, method }) => {
                let reply = ReplyTo::Caller {
                    connection: from,
                    id: RequestId::new(id),
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
    fn sender(&mut self, from: ConnectionId, envelope: &Envelope<'_>) -> Result<Sender, RpcError> {
        match &self.connections[&from].role {
            Role::Anonymous(peer) if !peer.trusted => {
                let what = format!("user {} may not use this router", peer.uid);
                Err(RpcError::new(Code::NotPermitted, self.me.as_str(), what)
                    .remedy("ask as root or as the user that the array runs as"))
            }
            Role::Anonymous(_) => Ok(Sender {
                from: Arc::clone(&self.shell),
                rank: rank::SHELL,
                over_link: false,
                afar: None,
            }),
            Role::Remote(remote) => Ok(Sender {
                from: Arc::clone(&remote.full),
                rank: rank::SHELL,
                over_link: false,
                afar: Some(remote.role),
            }),
            Role::Service(service) => Ok(Sender {
                from: Arc::clone(&service.full),
                rank: service.rank,
                over_link: false,
                afar: None,
            }),
            Role::Link => {
                let said = envelope.from.as_deref().unwrap_or("router");
                let name = said.split_once('/').map_or(said, |(_, name)| name);
                Ok(Sender {
                    from: self.names.share_pair(self.me.partner().as_str(), name),
                    rank: envelope.rank.unwrap_or(rank::SHELL),
                    over_link: true,
                    afar: None,
                })
            }
        }
    }
    /// The link, for a call or notification of this method. A partner of a lower epoch has still to join: until then it
    /// gets what it needs for that, and questions how it is. (A courtesy, and no fence: what keeps data safe looks at
    /// epochs itself.)
    fn link_for(&self, method: &str) -> Result<ConnectionId, RpcError> {
        let Some(link) = self.link else {
            return Err(self.partner_unreachable("there is no link now"));
        };
        match (self.epoch, self.link_info.partner_epoch) {
            (Some(own), Some(partner)) if partner < own && !is_for_joining(method) => {
                let what = format!(
                    "the partner is at epoch {partner}, this controller at {own}: it has to join before it is sent {method}"
                );
                Err(self.partner_unreachable(&what))
            }
            _ => Ok(link),
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

/// What a partner of a lower epoch may be sent: heartbeat's and the routers' own messages, what brings its
/// configuration up to date, and questions how it is.
fn is_for_joining(method: &str) -> bool {
    use pollux_api::{config, heartbeat};
    match method.split_once('.') {
        Some((SERVICE | heartbeat::SERVICE, _) | (_, "status")) => true,
        _ => matches!(
            method,
            config::CATCH_UP | config::SYNC | config::APPEND | config::FETCH | config::SET_EPOCH
        ),
    }
}

#[cfg(test)]
mod tests;
