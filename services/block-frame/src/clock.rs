//! By when a request may be begun, told between two machines whose clocks have nothing in common.
//!
//! ```text
//!  target   clock t1 ......................... begins before t1 + waited + left, or never
//!             \\ reply (t1)                    /
//!  initiator   +--- waited ---| request: t1 + waited + left
//! ```
//!
//! The initiator counts from when the reply *arrived*, which is after the target has read its clock: what it names is never
//! later than what it means. Clocks of two machines run apart; a thousandth of the time since the reply is taken off, twice
//! what Linux slews a clock at most (500 ppm on either side, adjtimex(2)).

use std::time::Duration;
use tokio::time::Instant;

/// After so long without a reply one is fetched first, so that what is taken off stays small.
pub(crate) const STALE: Duration = Duration::from_secs(60);

/// A target's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new(begin: Instant) -> Self {
        Self(begin)
    }

    /// What it shows at `now`, us; never zero.
    pub(crate) fn shows(self, now: Instant) -> u64 {
        now.saturating_duration_since(self.0).as_micros() as u64 + 1
    }

    /// What a request names; zero names nothing.
    pub(crate) fn at(self, us: u64) -> Option<Instant> {
        let after = us.checked_sub(1)?;
        // What lies too far ahead for this machine to name is no bound.
        self.0.checked_add(Duration::from_micros(after))
    }
}

/// What an initiator knows of the target's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) clock_us: u64,
    pub(crate) at: Instant,
}

impl Seen {
    /// A moment of this machine on the target's clock, us, as it is said at `now`. At least 1: a moment that has passed is
    /// said, too.
    pub(crate) fn name(self, moment: Instant, now: Instant) -> u64 {
        let apart = |since: Duration| since.as_micros() as u64 / 1000;
        let named = match moment.checked_duration_since(self.at) {
            Some(ahead) => {
                let drift = apart(now.saturating_duration_since(self.at));
                (self.clock_us + ahead.as_micros() as u64).saturating_sub(drift)
            }
            None => 0,
        };
        named.max(1)
    }

    pub(crate) fn is_stale(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_never_later_than_what_is_meant() {
        let s = Duration::from_secs;
        let begin = Instant::now();
        let clock = Clock::new(begin);
        let said = begin + s(100);
        // The reply is on its way for 30 ms, and the request is made 10 s after it came.
        let seen = Seen {
            clock_us: clock.shows(said),
            at: said + Duration::from_millis(30),
        };
        let now = seen.at + s(10);
        let meant = now + s(12);
        let named = clock.at(seen.name(meant, now)).expect("a moment");
        assert_eq!(meant - named, Duration::from_millis(30 + 10));
        let passed = clock.at(seen.name(seen.at - s(1), now));
        assert_eq!(passed, Some(begin), "it has passed there, too");
        assert_eq!(clock.at(0), None, "nothing is named");
        assert!(!seen.is_stale(now) && seen.is_stale(seen.at + 2 * STALE));
    }
}
