//! What anybody can cause as often as he likes is said seldom: a flood must not fill the journal too.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lets something be said once in a while, and counts what was left out.
#[derive(Debug)]
pub(super) struct Seldom {
    period: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// At most once in so long.
    #[must_use]
    pub(super) const fn new(period: Duration) -> Self {
        Self {
            period,
            state: Mutex::new((None, 0)),
        }
    }

    /// Whether it may be said at `now`: if so, how often it was not since the last time.
    pub(super) fn say(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now < last + self.period) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_once_and_counted() {
        let period = Duration::from_secs(10);
        let (seldom, begin) = (Seldom::new(period), Instant::now());
        assert_eq!(seldom.say(begin), Some(0));
        for _ in 0..1000 {
            assert_eq!(seldom.say(begin + period / 2), None);
        }
        assert_eq!(seldom.say(begin + period), Some(1000));
        assert_eq!(seldom.say(begin + period), None);
    }
}
