//! Is the host still there? A target that only waits finds a dead host when the first answer cannot be delivered, and
//! until then keeps its session, its tasks and whatever it has reserved.
//!
//! ```text
//!  heard ---- PING_AFTER ----> ask ---- written ---- PING_TIMEOUT ----> dead
//!    ^                          |                        |
//!    +--------- anything -------+------------------------+
//! ```
//!
//! Anything that the host says proves that it is there. The time for an answer begins when the question has left:
//! while replies are held back by the gate no host is taken for dead.

use super::limits::{DISCOVERY_IDLE, PING_AFTER, PING_TIMEOUT};
use tokio::time::Instant;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Ask the host.
    Ask,
    /// The host is gone.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was heard.
    Heard(Instant),
    /// It was asked; the question has not left.
    Asked,
    /// The question left then.
    Waiting(Instant),
}

/// What is known of one host.
#[derive(Debug)]
pub struct Alive {
    state: State,
    /// A session to ask for targets: such hosts come, ask and go, and know no pings.
    discovery: bool,
}

impl Alive {
    /// It has just logged in.
    #[must_use]
    pub fn new(now: Instant, discovery: bool) -> Self {
        Self {
            state: State::Heard(now),
            discovery,
        }
    }

    /// It has said something.
    pub fn heard(&mut self, now: Instant) {
        self.state = State::Heard(now);
    }

    /// The question has left.
    pub fn written(&mut self, now: Instant) {
        if self.state == State::Asked {
            self.state = State::Waiting(now);
        }
    }

    /// When [`due`](Self::due) is to be looked at; `None`: after [`written`](Self::written).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Heard(at) if self.discovery => Some(at + DISCOVERY_IDLE),
            State::Heard(at) => Some(at + PING_AFTER),
            State::Waiting(at) => Some(at + PING_TIMEOUT),
            State::Asked => None,
        }
    }

    /// What is to be done at `now`.
    pub fn due(&mut self, now: Instant) -> Due {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        match self.state {
            State::Heard(_) if !self.discovery => {
                self.state = State::Asked;
                Due::Ask
            }
            State::Heard(_) | State::Waiting(_) | State::Asked => Due::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_silent_host_is_asked_once_and_then_given_up() {
        let begin = Instant::now();
        let mut alive = Alive::new(begin, false);
        assert_eq!(alive.due(begin + PING_AFTER - MOMENT), Due::Nothing);
        assert_eq!(alive.due(begin + PING_AFTER), Due::Ask);
        // Held back by the gate, for however long.
        assert_eq!(alive.deadline(), None);
        assert_eq!(alive.due(begin + 100 * PING_TIMEOUT), Due::Nothing);
        let left = begin + 100 * PING_TIMEOUT;
        alive.written(left);
        assert_eq!(alive.due(left + PING_TIMEOUT - MOMENT), Due::Nothing);
        assert_eq!(alive.due(left + PING_TIMEOUT), Due::Dead);
    }

    #[test]
    fn any_word_proves_that_it_is_there() {
        let begin = Instant::now();
        let mut alive = Alive::new(begin, false);
        assert_eq!(alive.due(begin + PING_AFTER), Due::Ask);
        let heard = begin + PING_AFTER + MOMENT;
        alive.heard(heard);
        // The question leaves after the host has spoken: it is no question any more.
        alive.written(heard + MOMENT);
        assert_eq!(alive.deadline(), Some(heard + PING_AFTER));
        assert_eq!(alive.due(heard + PING_AFTER), Due::Ask);
    }

    #[test]
    fn a_discovery_is_not_asked_and_ends() {
        let begin = Instant::now();
        let mut alive = Alive::new(begin, true);
        assert_eq!(alive.due(begin + DISCOVERY_IDLE - MOMENT), Due::Nothing);
        assert_eq!(alive.due(begin + DISCOVERY_IDLE), Due::Dead);
    }
}
