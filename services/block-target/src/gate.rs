//! The last door before the wire: a reply leaves only under a fresh lease.
//!
//! Looked at after the work is done and before each piece of a reply is handed to the socket. The request was
//! received before that look, so a lease that is fresh then proves that no other controller had begun to answer
//! when the host asked: what the reply says was true at some moment between question and answer.
//!
//! A stale lease is reversible: replies wait, nothing is dropped, and they leave when it is fresh again.

use crate::backend::BoxFuture;
use pollux_platform::lease;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

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
