//! The job sheet that travels with a call: which action, caused by what, and how much time is left.

use pollux_api::action::ActionId;
use std::cell::RefCell;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Random bytes that are fetched from the system at once: 256 actions' worth.
const RANDOM: usize = 256 * PART;
/// Random bytes of one action.
const PART: usize = 10;

/// A new action: a UUID of version 7.
#[allow(
    clippy::disallowed_methods,
    reason = "the time in a UUID is for people who sort them; nothing decides by it"
)]
pub fn new_action() -> ActionId {
    thread_local! {
        static STOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let part = STOCK.with_borrow_mut(|stock| {
        if stock.is_empty() {
            stock.resize(RANDOM, 0);
            if let Err(error) = getrandom::fill(stock) {
                // Before the kernel has collected any randomness; no daemon runs that early.
                tracing::error!(%error, "the system has no random bytes");
            }
        }
        let part = stock.last_chunk().copied().unwrap_or_default();
        stock.truncate(stock.len() - PART);
        part
    });
    let ms = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let ms = u64::try_from(ms).unwrap_or_default();
    ActionId::from_bytes(
        uuid::Builder::from_unix_timestamp_millis(ms, &part)
            .into_uuid()
            .into_bytes(),
    )
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
