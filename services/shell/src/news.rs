//! News of both heartbeats: when it is worth looking again.
//!
//! A doorbell, not a letter: what a heartbeat tells of is never taken for the state, only for a reason to ask for it. So it
//! does not matter that news may be lost on the way, with a router or a heartbeat that dies: whoever waits looks again after
//! [`AGAIN`] without any, too.
//!
//! It must be listened to *before* the first look: a change falls before the look, or is news after it.

use crate::array::{Array, BOTH};
use pollux_api::heartbeat::{EVENTS, Event};
use pollux_api::id::ControllerId;
use pollux_runtime::Subscription;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long nobody looks without news.
const AGAIN: Duration = Duration::from_secs(2);

/// What both heartbeats tell, from now on.
pub(crate) struct News {
    from: [Option<Subscription>; 2],
}

impl News {
    /// Listens to both, as far as they can be listened to.
    pub(crate) async fn of(array: &Array) -> Self {
        let [a, b] = BOTH;
        let (a, b) = tokio::join!(subscribe(array, a), subscribe(array, b));
        Self { from: [a, b] }
    }

    /// Returns when one of them tells of something, when it is time to look without news, and not after `end`.
    pub(crate) async fn wait(&mut self, end: Instant) {
        let [a, b] = &mut self.from;
        let told = async {
            tokio::select! {
                () = next(a) => {}
                () = next(b) => {}
            }
        };
        // Whether it was told or not: whoever waits looks.
        let _ = timeout_at(end.min(Instant::now() + AGAIN), told).await;
    }
}

async fn subscribe(array: &Array, at: ControllerId) -> Option<Subscription> {
    let (client, topic) = array.topic(at, EVENTS);
    client.subscribe(&topic).await.ok()
}

/// The next thing that one of them tells; never, where nobody tells anything any more. What was missed counts as told.
async fn next(from: &mut Option<Subscription>) {
    if let Some(news) = from {
        if news.next::<Event>().await.is_some() {
            return;
        }
        *from = None;
    }
    std::future::pending().await
}
