//! Ranges of addresses in use: overlapping writes to a volume go one after the other, so that every leg sees them in
//! the same order, and a read waits for a write that it overlaps, so that what it returns is on every leg.

use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug)]
struct Held {
    ticket: u64,
    start: u64,
    end: u64,
    shared: bool,
}

/// Ranges that are in use.
#[derive(Debug, Default)]
pub struct Ranges {
    held: Mutex<(u64, Vec<Held>)>,
    freed: Notify,
}

/// A range in use, until it is dropped.
#[derive(Debug)]
pub struct Guard<'a> {
    ranges: &'a Ranges,
    ticket: u64,
}

impl Ranges {
    /// Waits until `start..end` is free (for a shared use: of exclusive ones) and takes it. First come, first served
    /// among ranges that overlap: a stream of reads does not starve a write.
    pub async fn take(&self, start: u64, end: u64, shared: bool) -> Guard<'_> {
        let guard = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.0 += 1;
            let ticket = held.0;
            held.1.push(Held {
                ticket,
                start,
                end,
                shared,
            });
            Guard { ranges: self, ticket }
        };
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before looking: what is freed in between is not missed.
            freed.as_mut().enable();
            let blocked = {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.1.iter().any(|other| {
                    other.ticket < guard.ticket
                        && other.start < end
                        && start < other.end
                        && !(shared && other.shared)
                })
            };
            if !blocked {
                return guard;
            }
            freed.await;
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.ranges.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.1.retain(|other| other.ticket != self.ticket);
        drop(held);
        self.ranges.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn overlapping_writes_wait_and_others_do_not() {
        let ranges = Ranges::default();
        let first = ranges.take(0, 10, false).await;
        assert!(ranges.take(10, 20, false).now_or_never().is_some(), "neighbours");
        assert!(
            ranges.take(5, 6, true).now_or_never().is_none(),
            "a read inside waits"
        );
        let mut second = Box::pin(ranges.take(9, 12, false));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(ranges.take(11, 12, true));
        assert!(
            third.as_mut().now_or_never().is_none(),
            "behind the second, which came before"
        );
        drop(first);
        let second = second.await;
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        third.await;
        let one = ranges.take(0, 5, true).await;
        assert!(ranges.take(0, 5, true).now_or_never().is_some(), "reads share");
        drop(one);
        assert!(
            ranges.held.lock().expect("lock").1.is_empty(),
            "nothing is left behind"
        );
    }
}
