//! The job sheet that travels with a call: which action, caused by what, and how much time is left.

use pollux_api::action::ActionId;
use std::time::Duration;
use tokio::time::Instant;

/// A new action: a UUID of version 7.
pub fn new_action() -> ActionId {
    ActionId::from_bytes(uuid::Uuid::now_v7().into_bytes())
}

/// Under which action, for whom, and until when something is done.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The action.
    pub action: ActionId,
    /// The action in whose course it was asked for.
    pub parent: Option<ActionId>,
    /// Who asked, `a/heartbeat`; `None` where it begins here.
    pub caller: Option<String>,
    /// When the answer has no taker any more.
    pub deadline: Instant,
}

impl Ctx {
    /// A new action that begins here and has `timeout` to end.
    pub fn new(timeout: Duration) -> Self {
        Self::of(new_action(), timeout)
    }

    /// An action whose identity is known already: what is asked again under it is done once.
    pub fn of(action: ActionId, timeout: Duration) -> Self {
        Self {
            action,
            parent: None,
            caller: None,
            deadline: Instant::now() + timeout,
        }
    }

    /// For a call made in the course of this action: a new action with this one as its parent and no more time.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            action: new_action(),
            parent: Some(self.action),
            caller: None,
            deadline: self.deadline,
        }
    }

    /// The same with at most `timeout` from now.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.deadline = self.deadline.min(Instant::now() + timeout);
        self
    }

    /// The same with `timeout` from now, however little the cause had left: for work that outlives its caller.
    #[must_use]
    pub fn extended(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now() + timeout;
        self
    }

    /// Time left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
