//! How soon a crashed daemon is started again. Pure.
//!
//! At once, as a rule: the array is built so that a daemon may die at any moment. Only one that crashes again and
//! again is slowed down, so that it does not take the machine; it is never given up, because no state is final.

use std::{collections::VecDeque, time::Duration};

/// Crashes within [`WINDOW`] that are answered by an immediate start.
const BURST: usize = 20;
/// See [`BURST`].
const WINDOW: Duration = Duration::from_secs(10);
/// Wait before the next start when the burst is used up.
const HELD: Duration = Duration::from_secs(1);

/// Crashes of one daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct RestartPolicy {
    recent: VecDeque<Duration>,
}

impl RestartPolicy {
    /// It crashed at `now`, a reading of any clock that only goes forward. How long to wait before its next start.
    pub(crate) fn crashed(&mut self, now: Duration) -> Duration {
        self.recent.retain(|at| now.saturating_sub(*at) < WINDOW);
        self.recent.push_back(now);
        if self.recent.len() <= BURST {
            Duration::ZERO
        } else {
            HELD
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_then_it_is_held_and_forgiven() {
        let mut policy = RestartPolicy::default();
        let at = |ms| Duration::from_millis(ms);
        for crash in 0..BURST as u64 {
            assert_eq!(policy.crashed(at(crash * 10)), Duration::ZERO);
        }
        assert_eq!(policy.crashed(at(300)), HELD);
        assert_eq!(policy.crashed(at(1300)), HELD);
        assert_eq!(
            policy.crashed(at(12_000)),
            Duration::ZERO,
            "the burst lies outside the window"
        );
    }
}
