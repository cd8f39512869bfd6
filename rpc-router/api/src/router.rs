//! Service `router`: what the message bus itself answers.
//!
//! These methods are served by the router, on the connection that asks; `partner/router.status` goes to the
//! partner's router like any other call.

use crate::action::{Action, ActionId, ActionQuery, Cancel, Progress};
use crate::id::ControllerId;
use crate::rank::Rank;
use crate::role::Role;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "router", rank crate::rank::TOP, door crate::contract::Door::Router;
    /// The message bus of one controller: registrations, subscriptions, and what it has seen.
    calls [SUBSCRIBE, TRACE, EVENT, TRACED, WITHDRAWN];
    requests {
        /// This connection is a service from now on. `conflict`: a service of that name lives.
        each nobody REGISTER = "router.register": Register => Registered, [Conflict];
        /// No further calls come on this connection; those that run may be answered.
        idempotent nobody UNREGISTER = "router.unregister": () => (), [];
        /// Adds topics to this connection.
        peer viewer SUBSCRIBE = "router.subscribe": Subscribe => Subscribed, [];
        /// Takes topics from this connection.
        idempotent viewer UNSUBSCRIBE = "router.unsubscribe": Subscribe => Subscribed, [];
        /// Who is registered, the link to the partner's router, and counters.
        idempotent viewer STATUS = "router.status": () => Status, [];
        /// Every message under an action, from both routers.
        peer viewer TRACE = "router.trace": Trace => TraceReport, [];
        /// Long work of this controller's services, oldest first: what goes on, and some of what has ended.
        idempotent viewer ACTIONS = "router.actions": ActionQuery => Vec<Action>, [];
        /// Asks for a piece of work to end. Answered when its service has been told; how it ends is seen in its next
        /// reports. `refused`: not safe now; `conflict`: it has ended.
        idempotent operator CANCEL = "router.cancel": Cancel => Action, [NotFound, Conflict, Refused];
        /// The management address of this controller: where it listens, its certificate, and what is wrong with it.
        idempotent viewer WEB = "router.web": () => Web, [];
        /// Makes a token for the management address of this controller. It is told once, here. `conflict`: a token of
        /// that name is there, or there are 256.
        each admin TOKEN_ADD = "router.token_add": TokenAdd => TokenAdded, [Conflict, Failed];
        /// Every token of this controller, in order of their names, without what is secret.
        idempotent admin TOKEN_LIST = "router.token_list": () => Vec<Token>, [Failed];
        /// Takes a token away; whoever is connected with it is disconnected.
        idempotent admin TOKEN_REMOVE = "router.token_remove": TokenRemove => TokenRemoved, [Failed];
    }
    notifications {
        /// Publishes an event. Only a service may, on topics that begin with its name.
        nobody PUBLISH = "router.publish": Publish<crate::contract::Anything>;
        /// To a subscriber, and from router to router: something was published.
        nobody EVENT = "router.event": Event<crate::contract::Anything>;
        /// From a service: how far a piece of long work is.
        nobody PROGRESS = "router.progress": Progress;
        /// From router to router: a record of what only the sender saw, so that the survivor can tell it.
        nobody TRACED = "router.traced": TraceRecord;
        /// To a service: whoever asked for a piece of work wants it no more.
        nobody WITHDRAWN = "router.withdrawn": Cancel;
    }
    topics {
        /// Every report of long work on this controller.
        viewer WORK = "router.work": Action;
    }
}
/// Longest message in bytes, in either direction, its newline included.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// Deadline of a request that names none, ms.
pub const DEFAULT_DEADLINE_MS: u64 = 30_000;
/// Longest deadline, ms; a longer one is shortened to this.
pub const MAX_DEADLINE_MS: u64 = 600_000;

/// A method that a service offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Method {
    /// Full name, `pool.import`.
    pub name: String,
    /// Doing it twice is the same as doing it once.
    pub idempotent: bool,
    /// The same service on the partner may call it.
    #[serde(default)]
    pub peer: bool,
    /// It takes notifications: no answer is expected and any rank may send.
    #[serde(default)]
    pub notification: bool,
}

/// Parameters of [`REGISTER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Register {
    /// Unique on the controller; every method begins with it and a dot.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Place in the order of calls.
    pub rank: Rank,
    /// What it offers.
    pub methods: Vec<Method>,
}

/// Answer to [`REGISTER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Registered {
    /// The controller that this router belongs to.
    pub controller: ControllerId,
    /// Version of the router.
    pub version: String,
}

/// Parameters of [`SUBSCRIBE`] and [`UNSUBSCRIBE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subscribe {
    /// `config.changed` for this controller's topic, `partner/config.changed` for the partner's.
    pub topics: Vec<String>,
}

/// Answer to [`SUBSCRIBE`] and [`UNSUBSCRIBE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subscribed {
    /// All topics that this connection now has.
    pub topics: Vec<String>,
}

/// Parameters of [`PUBLISH`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Publish<P> {
    /// Topic, `config.changed`.
    pub topic: String,
    /// What happened.
    pub payload: P,
}

/// Parameters of [`EVENT`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event<P> {
    /// Topic as it was subscribed to.
    pub topic: String,
    /// Where it was published.
    pub controller: ControllerId,
    /// Number of events that the router has taken on this topic; starts again at 1 with the router. A hole says
    /// that events were dropped because the subscriber's queue was full.
    pub sequence: u64,
    /// What happened.
    pub payload: P,
}

/// Answer to [`STATUS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The controller that answers.
    pub controller: ControllerId,
    /// Version of the router.
    pub version: String,
    /// Since when the router runs, ms of Unix time.
    pub started_unix_ms: u64,
    /// Services that are registered now, in order of their names.
    pub services: Vec<ServiceInfo>,
    /// The link to the partner's router.
    pub link: Link,
    /// Counters since the router started.
    pub counters: Counters,
}

/// A registered service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its rank.
    pub rank: Rank,
    /// Process, from the socket's peer credentials; 0 if it lives in another process namespace.
    pub pid: i32,
    /// Its methods.
    pub methods: Vec<String>,
    /// Calls that it has not answered yet.
    pub pending: u64,
    /// Since when, ms of Unix time.
    pub since_unix_ms: u64,
}

/// State of the link between the routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    /// Both routers know each other and messages flow.
    pub up: bool,
    /// Since when it is so, ms of Unix time.
    pub since_unix_ms: u64,
    /// Address of the partner's router.
    pub partner: String,
    /// Version of the partner's router, once it has said it.
    pub version: Option<String>,
    /// Why it is down.
    pub problem: Option<String>,
    /// Epoch of the partner, once it has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner_epoch: Option<u64>,
}

/// What a router counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Counters {
    /// Requests taken.
    pub requests: u64,
    /// Notifications taken.
    pub notifications: u64,
    /// Answers delivered.
    pub answers: u64,
    /// Answers with an unknown or an outdated id, dropped.
    pub late_answers: u64,
    /// Refusals because a queue was full.
    pub overloaded: u64,
    /// Notifications and events dropped because a queue was full.
    pub dropped: u64,
    /// Messages that were no JSON-RPC.
    pub malformed: u64,
    /// Trace records that are not in the journal: it could not take them in time, or calls that change nothing came in
    /// a flood.
    pub trace_dropped: u64,
    /// Links refused because the other side is not the partner: another key, another array, a copy or its past.
    #[serde(default)]
    pub foreign_links: u64,
}

/// Answer to [`WEB`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Web {
    /// The controller that answers.
    pub controller: ControllerId,
    /// Address and port from the configuration; none if it has no management address.
    pub address: Option<String>,
    /// It listens.
    pub listening: bool,
    /// Why it does not.
    pub problem: Option<String>,
    /// The file of the certificate that it shows.
    pub certificate: Option<String>,
    /// SHA-256 of that certificate, as other programs print it: 32 bytes in hexadecimal digits with colons between.
    pub fingerprint: Option<String>,
    /// Connections whose token was good, now.
    pub connections: u64,
    /// Requests refused since the router started because of their token, or because too many had been before.
    pub refused: u64,
}

/// Parameters of [`TOKEN_ADD`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenAdd {
    /// Its name, by which traces show who did what: up to 32 lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// It is good for so many days, at most 3650; for ever if not said.
    #[serde(default)]
    pub expires_days: Option<u32>,
}

/// A token, without what is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// When it was made, ms of Unix time.
    pub created_unix_ms: u64,
    /// From when on it is good no longer, ms of Unix time; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<u64>,
}

/// Answer to [`TOKEN_ADD`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenAdded {
    /// What its owner sends in `Authorization: Bearer`. It is kept nowhere.
    pub secret: String,
    /// What is kept of it.
    pub token: Token,
}

/// Without the secret: what is printed ends up in a journal.
impl core::fmt::Debug for TokenAdded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TokenAdded(secret, {:?})", self.token)
    }
}

/// Parameters of [`TOKEN_REMOVE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenRemove {
    /// Its name.
    pub name: String,
}

/// Answer to [`TOKEN_REMOVE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenRemoved {
    /// False: there was none of that name.
    pub removed: bool,
}

/// Parameters of [`TRACE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Trace {
    /// The action to begin with; without it, the newest actions that nobody else caused.
    #[serde(default)]
    pub action_id: Option<ActionId>,
    /// Further actions to begin with: between routers, those that only the asking one has seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<ActionId>,
    /// At most so many records; 1000 if not said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Do not ask the partner.
    #[serde(default)]
    pub local: bool,
}

/// Answer to [`TRACE`]: every message under an action, from the routers that could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TraceReport {
    /// In order of time; the tree is in `parent`.
    pub records: Vec<TraceRecord>,
    /// Controllers whose records are in here.
    pub seen: Vec<ControllerId>,
    /// Controllers that could not be asked, and why.
    pub missing: Vec<Missing>,
    /// There were more records than the limit.
    pub truncated: bool,
}

/// A controller that did not tell what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Missing {
    /// The controller.
    pub controller: ControllerId,
    /// Why.
    pub why: String,
}

/// One message as a router saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TraceRecord {
    /// Its action.
    pub action_id: ActionId,
    /// The action in whose course it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ActionId>,
    /// The router that saw it.
    pub at: ControllerId,
    /// Method, without the controller.
    pub method: String,
    /// Sender: `a/heartbeat`, `a/shell` for a caller that is no service, or `a/web:NAME` for one that came over the
    /// management address with the token NAME.
    pub from: String,
    /// Receiver: `b/pool`.
    pub to: String,
    /// When it came, µs of Unix time on the clock of `at`.
    pub start_unix_us: u64,
    /// Time until it was answered, µs; none for a notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a message ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with a result.
    Done,
    /// Answered with the error of this name.
    Error(String),
    /// A notification: nobody knows.
    Sent,
    /// Not answered yet.
    Pending,
}
