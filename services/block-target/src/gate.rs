//! The last door before the wire: a reply leaves only under a fresh lease.
//!
//! Looked at after the work is done and before each piece of a reply is handed to the socket. The request was
//! received before that look, so a lease that is fresh then proves that no other controller had begun to answer
//! when the host asked: what the reply says was true at some moment between question and answer.
//!
//! A stale lease is reversible: replies wait, nothing is dropped, and they leave when it is fresh again. For [`GRACE`]: then
//! it is no hiccup any more, and hosts are told that this port is no way now ([`lost`]) instead of waiting for the limits
//! that they have for a port that is dead. That, too, is no answer: what they have under way they ask again, by the other
//! port or, when the lease has come back, by this one.

use crate::backend::BoxFuture;
use pollux_platform::lease;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A stale lease that is fresh again within so long was a hiccup, of which no host hears.
///
/// Longer than two of them in a row, heartbeat's and this daemon's: the scheduler may delay each by 0.2 s (`SLACK` in
/// heartbeat's `timing`). Shorter, with one [`LOOK`], than what is left until the partner takes over from a controller that
/// has fallen silent: 0.75 s in the profile `fast` (detection after 1.75 s, the lease ends after 1 s), 2 s in `ci`, 4 s in
/// `safe`. So whoever is told goes by the other port no later than that one is the better.
pub const GRACE: Duration = Duration::from_millis(500);
/// How often a lease that does not keep anybody waiting is looked at. Shared memory cannot wake anybody.
pub const LOOK: Duration = Duration::from_millis(100);

const _: () = assert!(GRACE.as_millis() > 2 * 200 && GRACE.as_millis() + LOOK.as_millis() < 750);

/// Says whether replies may leave.
pub trait ReplyGate: Send + Sync + fmt::Debug {
    /// Now.
    fn is_open(&self) -> bool;
    /// Waits until they may. The caller looks again with [`is_open`](Self::is_open).
    fn opened(&self) -> BoxFuture<'_, ()>;
}

/// How often a stale lease is looked at. Only while replies are held; shared memory cannot wake anybody.
const POLL: Duration = Duration::from_millis(2);

/// The gate of a controller: the lease word that heartbeat writes.
#[derive(Debug)]
pub struct LeaseGate {
    path: PathBuf,
    reader: OnceLock<lease::Reader>,
}

impl LeaseGate {
    /// A gate on the lease file at `path`. Closed until heartbeat has made it and granted a lease.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            reader: OnceLock::new(),
        }
    }

    fn reader(&self) -> Option<&lease::Reader> {
        if let Some(reader) = self.reader.get() {
            return Some(reader);
        }
        match lease::Reader::open(&self.path) {
            Ok(reader) => Some(self.reader.get_or_init(|| reader)),
            Err(error) if error.is_absent() => None,
            Err(error) => {
                tracing::warn!(%error, "replies are held");
                None
            }
        }
    }
}

impl ReplyGate for LeaseGate {
    fn is_open(&self) -> bool {
        self.reader().is_some_and(lease::Reader::is_fresh)
    }

    fn opened(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while !self.is_open() {
                // A file that is damaged or absent is asked for less often than a word of memory.
                let pause = if self.reader.get().is_some() {
                    POLL
                } else {
                    25 * POLL
                };
                tokio::time::sleep(pause).await;
            }
        })
    }
}

/// Waits until the gate has been shut for [`GRACE`].
pub async fn lost(gate: &dyn ReplyGate) {
    loop {
        while gate.is_open() {
            sleep(LOOK).await;
        }
        if timeout(GRACE, gate.opened()).await.is_err() && !gate.is_open() {
            return;
        }
    }
}

/// A gate that a test opens and closes; open at first.
#[derive(Debug)]
pub struct ManualGate(tokio::sync::watch::Sender<bool>);

impl Default for ManualGate {
    fn default() -> Self {
        Self(tokio::sync::watch::Sender::new(true))
    }
}

impl ManualGate {
    /// Opens or closes it.
    pub fn set(&self, open: bool) {
        self.0.send_replace(open);
    }
}

impl ReplyGate for ManualGate {
    fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    fn opened(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // The sender lives in `self`.
            let _ = self.0.subscribe().wait_for(|open| *open).await;
        })
    }
}
