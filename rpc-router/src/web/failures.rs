//! How often an address may be wrong: a bucket of tries per address, which fills again slowly.
//!
//! It does not keep anybody from finding a token, which cannot be found; it keeps the journal readable and the
//! processor free. While an address has no tries left, whatever it shows is refused without a look. A function of what
//! it is told; it reads no clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;
use tokio::time::Instant;

/// Wrong tries in a row.
pub(super) const TRIES: u32 = 10;
/// One more after so long.
pub(super) const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered; of more, those that were wrong longest ago are forgotten.
const ADDRESSES: usize = 4096;

/// What every address has left.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// When it will have all its tries again.
    full_at: HashMap<IpAddr, Instant>,
}

impl Failures {
    /// How long this address has to wait before it is heard; zero if it has not.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Duration {
        let Some(full_at) = self.full_at.get(&neighbours(address)) else {
            return Duration::ZERO;
        };
        full_at
            .saturating_duration_since(now)
            .saturating_sub(REFILL * (TRIES - 1))
    }

    /// It was wrong. Whether it has no tries left now.
    pub(super) fn wrong(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = neighbours(address);
        if self.full_at.len() >= ADDRESSES && !self.full_at.contains_key(&address) {
            self.full_at.retain(|_, full_at| *full_at > now);
            let first = self.full_at.iter().min_by_key(|(_, full_at)| **full_at);
            if let Some(first) = first.map(|(address, _)| *address)
                && self.full_at.len() >= ADDRESSES
            {
                self.full_at.remove(&first);
            }
        }
        let full_at = self.full_at.entry(address).or_insert(now);
        *full_at = (*full_at).max(now) + REFILL;
        self.wait(address, now) > Duration::ZERO
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn neighbours(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tries_and_then_one_in_six_seconds() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for number in 1..=TRIES {
            assert_eq!(failures.wait(one, now), Duration::ZERO);
            assert_eq!(failures.wrong(one, now), number == TRIES);
        }
        assert_eq!(failures.wait(one, now), REFILL);
        assert_eq!(failures.wait(other, now), Duration::ZERO);
        assert_eq!(failures.wait(one, now + REFILL), Duration::ZERO);
        assert!(failures.wrong(one, now + REFILL));
        assert_eq!(failures.wait(one, now + REFILL), REFILL);
        // After a while all is forgiven.
        let later = now + REFILL * 20;
        assert!(!failures.wrong(one, later));
    }

    #[test]
    fn neighbours_share_their_tries_and_memory_is_bounded() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for number in 1..=TRIES {
            failures.wrong(format!("fd00::{number}").parse().unwrap(), now);
        }
        assert!(failures.wait("fd00::77".parse().unwrap(), now) > Duration::ZERO);
        assert_eq!(
            failures.wait("fd00:0:0:1::1".parse().unwrap(), now),
            Duration::ZERO
        );
        assert_eq!(
            neighbours("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
        for number in 0..2 * ADDRESSES as u32 {
            failures.wrong(
                IpAddr::from(number.to_be_bytes()),
                now + Duration::from_millis(number.into()),
            );
        }
        assert!(failures.full_at.len() <= ADDRESSES);
        // Whoever has used them all is not forgotten for those that were wrong once.
        assert!(failures.wait("fd00::77".parse().unwrap(), now) > Duration::ZERO);
    }
}
