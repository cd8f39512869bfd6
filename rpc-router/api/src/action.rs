//! The number on a job sheet: one identity that every message about one piece of work carries.
//!
//! An `action_id` is a UUID of version 7 (RFC 9562), so identities sort by the time they were given. Giving new
//! ones needs a clock and randomness and is the runtime's work.
//!
//! Long work answers at once with its action ([`Begun`]); how far it is, its service tells the router ([`Progress`]),
//! which anybody may ask, watch, and have it cancelled, also when whoever asked for the work has gone.

use crate::error::RpcError;
use crate::id::ControllerId;
use alloc::string::String;
use serde::{Deserialize, Serialize};

crate::uuid_id! {
    /// Identity of one action.
    ActionId
}

/// How far a piece of long work is. Each report is whole: whoever missed those before loses nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Progress {
    /// The action under which it was asked for.
    pub action_id: ActionId,
    /// The method that was asked, `pool.resync`.
    pub method: String,
    /// When it began, ms of Unix time.
    pub started_unix_ms: u64,
    /// What is done now, in a word: `copy`.
    pub phase: String,
    /// How much of the whole is done, 0..=100; none: not known.
    #[serde(default)]
    pub percent: Option<u8>,
    /// How fast it goes.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// It ends without harm when it is cancelled now.
    #[serde(default)]
    pub cancellable: bool,
    /// Whether it goes on, or how it ended.
    pub state: State,
}

/// Speed of a piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rate {
    /// So many in a second.
    pub per_second: u64,
    /// Of these: `bytes`, `entries`.
    pub unit: String,
}

/// Whether a piece of work goes on, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It goes on.
    Running,
    /// It was asked to end, and goes on until it can.
    Cancelling,
    /// It has done what was asked.
    Done,
    /// It ended before, because it was asked to.
    Cancelled,
    /// It ended before, for this reason.
    Failed(RpcError),
}

impl State {
    /// It has ended, one way or another.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        !matches!(self, Self::Running | Self::Cancelling)
    }
}

/// One piece of long work, as its router knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Action {
    /// The controller on which it is done.
    pub controller: ControllerId,
    /// The service that does it.
    pub service: String,
    /// When it was last heard of, ms of Unix time.
    pub heard_unix_ms: u64,
    /// Its last report.
    pub progress: Progress,
}

/// Which actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ActionQuery {
    /// Only this one.
    #[serde(default)]
    pub action_id: Option<ActionId>,
    /// Also those that have ended.
    #[serde(default)]
    pub ended: bool,
}

/// A request, or a notice, that work should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cancel {
    /// The action under which the work was asked for.
    pub action_id: ActionId,
}

/// Answer to a request for long work: it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Begun {
    /// Watch it, or cancel it, under this action.
    pub action_id: ActionId,
}
