//! The watchdog of one controller. Pure: time is a parameter.

use std::time::Duration;

/// A watchdog; `T` is the caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dog<T> {
    /// It acts when it runs out.
    pub(crate) enabled: bool,
    armed: Option<Armed<T>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Armed<T> {
    timeout: Duration,
    deadline: T,
}

impl<T: Copy + Ord + std::ops::Add<Duration, Output = T>> Dog<T> {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, armed: None }
    }

    /// Arms it or changes its timeout; its time starts at `now`.
    pub(crate) fn arm(&mut self, now: T, timeout: Duration) {
        self.armed = Some(Armed {
            timeout,
            deadline: now + timeout,
        });
    }

    /// Starts its time anew. False: it is not armed.
    pub(crate) fn pet(&mut self, now: T) -> bool {
        let Some(armed) = &mut self.armed else {
            return false;
        };
        armed.deadline = now + armed.timeout;
        true
    }

    pub(crate) fn disarm(&mut self) {
        self.armed = None;
    }

    /// Its timeout while it is armed.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.armed.map(|armed| armed.timeout)
    }

    /// When it runs out if nobody pets it.
    pub(crate) fn deadline(&self) -> Option<T> {
        self.armed.map(|armed| armed.deadline)
    }

    /// It has run out by `now`. It is disarmed by that, so that it says so once.
    pub(crate) fn runs_out(&mut self, now: T) -> bool {
        let out = self.deadline().is_some_and(|deadline| deadline <= now);
        if out {
            self.armed = None;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_pet_counts_from_now_and_the_end_is_told_once() {
        let mut dog = Dog::new(true);
        assert!(!dog.pet(S), "not armed");
        assert!(!dog.runs_out(100 * S));
        dog.arm(S, 5 * S);
        assert_eq!(dog.deadline(), Some(6 * S));
        assert!(dog.pet(4 * S));
        assert!(!dog.runs_out(8 * S));
        assert!(dog.runs_out(9 * S));
        assert!(!dog.runs_out(10 * S) && !dog.pet(10 * S));
        dog.arm(S, S);
        dog.disarm();
        assert_eq!((dog.deadline(), dog.timeout()), (None, None));
    }
}
