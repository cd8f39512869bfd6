//! Overlapping writes take turns, in the order in which they came.
//!
//! Think of a drawbridge: who comes first crosses first, and who has begun to cross is waited for, also when whoever sent
//! him has gone home meanwhile.
//!
//! A host whose path dies sends its write again by the other path, and goes on to write newer data to the same
//! blocks. The first copy may still be on its way below: the second one waits for it here, so that the old data
//! never lands on the new. The same for a write that was given up ([`Turn::give_up`]): its host was told BUSY, and what it
//! writes next to these blocks waits for the end of the former. Reads wait for those only: a block never changes by a
//! command that was given up after somebody has read it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The writes of one volume that are under way.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Ascending by ticket.
    taken: Vec<Taken>,
}

#[derive(Debug)]
struct Taken {
    ticket: u64,
    range: Range<u64>,
    given_up: bool,
}

impl Taken {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

impl Ranges {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no write that came before overlaps.
    pub(crate) async fn turn(self: &Arc<Self>, range: Range<u64>) -> Turn {
        let turn = {
            let mut state = self.lock();
            state.next += 1;
            let ticket = state.next;
            state.taken.push(Taken {
                ticket,
                range: range.clone(),
                given_up: false,
            });
            Turn {
                ranges: self.clone(),
                ticket,
            }
        };
        let mine = turn.ticket;
        self.free(|state| {
            let before = state.taken.iter().take_while(|taken| taken.ticket < mine);
            !before.into_iter().any(|taken| taken.overlaps(&range))
        })
        .await;
        turn
    }

    /// Waits until no write that was given up overlaps.
    pub(crate) async fn settled(&self, range: Range<u64>) {
        self.free(|state| {
            let mut given_up = state.taken.iter().filter(|taken| taken.given_up);
            !given_up.any(|taken| taken.overlaps(&range))
        })
        .await;
    }

    async fn free(&self, is_free: impl Fn(&State) -> bool) {
        loop {
            if is_free(&self.lock()) {
                return;
            }
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if is_free(&self.lock()) {
                return;
            }
            freed.await;
        }
    }
}

/// A write's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    ranges: Arc<Ranges>,
    ticket: u64,
}

impl Turn {
    /// Its host was told that it is not done, and it may still be.
    pub(crate) fn give_up(self) -> Self {
        let mut state = self.ranges.lock();
        if let Some(taken) = state.taken.iter_mut().find(|taken| taken.ticket == self.ticket) {
            taken.given_up = true;
        }
        drop(state);
        self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.ranges
            .lock()
            .taken
            .retain(|taken| taken.ticket != self.ticket);
        self.ranges.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[tokio::test]
    async fn overlapping_writes_take_turns_and_others_do_not_wait() {
        let ranges = Arc::new(Ranges::default());
        let first = ranges.turn(0..10).await;
        let mut second = pin!(ranges.turn(9..12));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Pending));
        drop(ranges.turn(20..30).await);
        // The third overlaps only the second, which came before it.
        let mut third = pin!(ranges.turn(11..13));
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Pending));
        drop(first);
        let Poll::Ready(second) = second.as_mut().poll(&mut context) else {
            panic!("second waits for nobody")
        };
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Pending));
        drop(second);
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Ready(_)));
    }

    #[tokio::test]
    async fn reads_wait_for_what_was_given_up_and_for_nothing_else() {
        let ranges = Arc::new(Ranges::default());
        let mut context = Context::from_waker(Waker::noop());
        let write = ranges.turn(0..10).await;
        ranges.settled(5..6).await;
        let write = write.give_up();
        ranges.settled(10..20).await;
        let mut read = pin!(ranges.settled(9..20));
        assert!(matches!(read.as_mut().poll(&mut context), Poll::Pending));
        drop(write);
        assert!(matches!(read.as_mut().poll(&mut context), Poll::Ready(())));
    }
}
