//! The request to stop, as a state that every task can look at or wait for.
//!
//! SIGTERM and SIGINT mean the same: finish what must be finished, then go. It never goes back to "running", so
//! nobody can miss it.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The request to stop; clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    state: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(false),
        }
    }
}

impl Shutdown {
    /// Follows SIGTERM and SIGINT of this process. Must be called inside a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let requested = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                () = requested.requested() => return,
            };
            tracing::info!(signal = name, "asked to stop");
            requested.request();
        });
        Ok(shutdown)
    }

    /// Asks everybody to stop.
    pub fn request(&self) {
        self.state.send_replace(true);
    }

    /// Whether it has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.state.borrow()
    }

    /// Waits until it is asked for.
    pub async fn requested(&self) {
        // The sender lives in `self`, so the channel cannot be closed while this waits.
        let _ = self.state.subscribe().wait_for(|requested| *requested).await;
    }
}
