//! Every period and limit, derived in one place from a profile.
//!
//! Picture two watchmen who check on each other by lantern. How long darkness must last before one may take the
//! other's keys follows from how long the other may still be inside with them; everything else follows from that.
//!
//! | symbol | field | |
//! |---|---|---|
//! | h | `beat` | period of heartbeats on the wire |
//! | Tn | `wire_limit` | silence of the wire that counts |
//! | d | `slot_period` | period of slot writes and of reading the partner's |
//! | Td | `disk_limit` | stillness of the slot that counts |
//! | g | `lease` | replies to hosts leave for so long after a sign of life was *submitted* |
//! | w | `watchdog` | the controller resets so long after it was last petted |
//! | X, Y | `unserved_limit`, `ask_limit` | a pool of the living partner unserved for X is asked for; not done in Y, the partner fences itself |
//!
//! Nothing here is measured and nothing is tuned elsewhere: [`Timing::check`] refuses figures that contradict
//! each other and names the inequality.

use crate::area::Figures;
use alloc::string::String;
use core::fmt::{self, Write as _};
use core::time::Duration;

/// Derivation by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Real-time priority, a bond that fails over within 0.1 s: pauses of seconds.
    Fast,
    /// LACP bonds, ordinary priority, disks with long error recovery.
    Safe,
    /// Build machines: as safe as `Safe` in its proportions, tolerant of a scheduler that stalls for seconds.
    Ci,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Safe, Self::Ci];

    /// Its name in configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
            Self::Ci => "ci",
        }
    }

    /// The profile of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// The figures of one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// h.
    pub beat: Duration,
    /// How long the bond may take to move to its other leg.
    pub bond_failover: Duration,
    /// Tn.
    pub wire_limit: Duration,
    /// d.
    pub slot_period: Duration,
    /// Stall of the median quorum disk that must not look like death.
    pub disk_stall: Duration,
    /// Td.
    pub disk_limit: Duration,
    /// g.
    pub lease: Duration,
    /// w.
    pub watchdog: Duration,
    /// Period at which a controller looks whether its key still stands on the disks of its pools.
    pub key_check: Duration,
    /// X.
    pub unserved_limit: Duration,
    /// Y.
    pub ask_limit: Duration,
    /// n: so often may the wire fall silent ...
    pub flap_count: u32,
    /// m: ... within this time before it counts as flapping.
    pub flap_window: Duration,
    /// The pair must have been whole and quiet for so long before pools go home by themselves.
    pub giveback_after: Duration,
    /// A rung of the fence or a step of a move that was given up is tried again after this.
    pub retry: Duration,
    /// What an unplanned takeover may cost a host in the worst case.
    pub budget: Duration,
}

/// An inequality that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTiming {
    /// The rule, in the symbols of the module's table.
    pub rule: &'static str,
    /// Its left side as configured.
    pub left: Duration,
    /// Its right side as configured.
    pub right: Duration,
}

impl fmt::Display for BadTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "timing: {} does not hold: {:?} against {:?}",
            self.rule, self.left, self.right
        )
    }
}

impl core::error::Error for BadTiming {}

/// The share by which two sound clocks may differ (5 %), on top of a span that must pass on both.
fn stretched(span: Duration) -> Duration {
    span + span / 20
}

/// What a step of the scheduler or of a packet may add to a span that must pass at the partner.
const SLACK: Duration = Duration::from_millis(200);

/// How long after the last sign of life its lease has surely run out, on the observer's clock.
#[must_use]
pub fn lease_gone_after(figures: Figures) -> Duration {
    stretched(figures.lease) + SLACK
}

/// How long after the last sign of life an armed watchdog has surely reset its controller. The partner may have
/// checked its lease at the last moment, stalled, petted (+ w), and the timer counts from there (+ w): K8.
#[must_use]
pub fn watchdog_gone_after(figures: Figures) -> Duration {
    stretched(figures.lease + figures.watchdog * 2) + SLACK
}

impl Timing {
    /// The figures of a profile.
    #[must_use]
    pub fn derive(profile: Profile) -> Self {
        let ms = Duration::from_millis;
        // The free choices: what is tolerated. Everything below is derived.
        let (beat, bond_failover, slot_period, disk_stall, lease, watchdog, budget) = match profile {
            Profile::Fast => (
                ms(100),
                ms(300),
                ms(250),
                ms(750),
                ms(1_000),
                ms(5_000),
                ms(20_000),
            ),
            Profile::Safe => (
                ms(500),
                ms(3_000),
                ms(1_000),
                ms(5_000),
                ms(5_000),
                ms(10_000),
                ms(30_000),
            ),
            Profile::Ci => (
                ms(250),
                ms(500),
                ms(500),
                ms(3_000),
                ms(3_000),
                ms(8_000),
                ms(30_000),
            ),
        };
        // Each limit stands one period above the bound of its inequality.
        let wire_limit = bond_failover * 2 + beat * 4;
        let figures = Figures {
            slot_period,
            lease,
            watchdog,
        };
        let stillness = slot_period * 3 + disk_stall;
        Self {
            beat,
            bond_failover,
            wire_limit,
            slot_period,
            disk_stall,
            disk_limit: stillness.max(lease_gone_after(figures)),
            lease,
            watchdog,
            key_check: lease / 4,
            unserved_limit: budget,
            ask_limit: budget,
            flap_count: 4,
            flap_window: Duration::from_secs(300),
            giveback_after: wire_limit.max(stillness) * 3,
            retry: slot_period * 2,
            budget,
        }
    }

    /// What an observer needs of them.
    #[must_use]
    pub const fn figures(&self) -> Figures {
        Figures {
            slot_period: self.slot_period,
            lease: self.lease,
            watchdog: self.watchdog,
        }
    }

    /// Stillness that counts for a partner with these figures: the larger of ours and what its own demand.
    #[must_use]
    pub fn disk_limit_for(&self, partner: Figures) -> Duration {
        let theirs = (partner.slot_period * 3).max(lease_gone_after(partner));
        self.disk_limit.max(theirs)
    }

    /// Silence and stillness that count for a partner with these figures which has said that its daemon ends: the time in
    /// which its lease has surely run out. A daemon that is started again has to be heard within it.
    #[must_use]
    pub fn dying_limits_for(&self, partner: Figures) -> (Duration, Duration) {
        let longer = self.slot_period.max(partner.slot_period);
        let gone = lease_gone_after(self.figures()).max(lease_gone_after(partner));
        let gone = gone.max(longer * 3);
        (self.wire_limit.min(gone), self.disk_limit_for(partner).min(gone))
    }

    /// From the last sign of life until a silent and still partner is suspected, at the latest.
    #[must_use]
    pub fn detection(&self) -> Duration {
        self.wire_limit.max(self.disk_limit + self.slot_period)
    }

    /// How long cutting the partner's power may take until it is reported off, by a program that speaks to a BMC over a
    /// network: what the budget leaves after detection.
    #[must_use]
    pub fn power_cut(&self) -> Duration {
        self.budget.saturating_sub(self.detection())
    }

    /// How long a question for the partner's power may take: four of them fit into a cut, which waits for one and asks again
    /// after it was done.
    #[must_use]
    pub fn power_ask(&self) -> Duration {
        self.power_cut() / 4
    }

    /// # Errors
    /// The first inequality that does not hold.
    pub fn check(&self) -> Result<(), BadTiming> {
        let bound = |rule, left: Duration, right: Duration, holds: bool| {
            if holds {
                Ok(())
            } else {
                Err(BadTiming { rule, left, right })
            }
        };
        let at_least = |rule, left: Duration, right: Duration| bound(rule, left, right, left >= right);
        let above = |rule, left: Duration, right: Duration| bound(rule, left, right, left > right);
        above("h > 0", self.beat, Duration::ZERO)?;
        above("d > 0", self.slot_period, Duration::ZERO)?;
        above(
            "Tn > 2 x bond failover + 3 h",
            self.wire_limit,
            self.bond_failover * 2 + self.beat * 3,
        )?;
        let stillness = self.slot_period * 3 + self.disk_stall;
        at_least("Td >= 3 d + tolerated stall", self.disk_limit, stillness)?;
        at_least(
            "Td >= 1.05 g + 0.2 s",
            self.disk_limit,
            lease_gone_after(self.figures()),
        )?;
        // A lease must outlive the loss of one beat and of one slot write, or it flickers in health.
        at_least("g >= 2 d", self.lease, self.slot_period * 2)?;
        at_least("g >= 3 h", self.lease, self.beat * 3)?;
        at_least("g / 4 >= key check", self.lease / 4, self.key_check)?;
        above("key check > 0", self.key_check, Duration::ZERO)?;
        above("w > g", self.watchdog, self.lease)?;
        above("retry > 0", self.retry, Duration::ZERO)?;
        at_least("X >= detection", self.unserved_limit, self.detection())?;
        above("Y > w", self.ask_limit, self.watchdog)?;
        above(
            "n > 0",
            Duration::from_secs(u64::from(self.flap_count)),
            Duration::ZERO,
        )?;
        at_least(
            "m >= n x (Tn + Td)",
            self.flap_window,
            (self.wire_limit + self.disk_limit) * self.flap_count,
        )?;
        at_least(
            "giveback after >= detection",
            self.giveback_after,
            self.detection(),
        )?;
        let slowest = self.detection() + watchdog_gone_after(self.figures());
        at_least(
            "budget >= Tn or Td + d, whichever is longer",
            self.budget,
            self.detection(),
        )?;
        // The slowest rung may miss the budget of hosts, never the patience of Linux multipath.
        at_least(
            "60 s >= detection + 1.05 (g + 2 w) + 0.2 s",
            Duration::from_secs(60),
            slowest,
        )
    }

    /// The life of a takeover as prose, second by second from the partner's last sign of life.
    #[must_use]
    pub fn timeline(&self) -> String {
        let figures = self.figures();
        let mut lines = [
            (
                Duration::ZERO,
                "the partner's last sign of life: a slot write submitted, or a heartbeat sent that was echoed",
            ),
            (self.wire_limit, "(Tn) the wire counts as silent"),
            (
                self.lease,
                "(g) the partner's lease runs out on its own clock: it holds its replies, which is reversible",
            ),
            (
                lease_gone_after(figures),
                "(1.05 g + 0.2 s) the lease has run out on this controller's clock, too: what was taken may be published",
            ),
            (
                self.disk_limit,
                "(Td) the slot counts as still, at the next reading",
            ),
            (
                self.detection(),
                "silent and still: arbitrate, then fence; every rung starts at once",
            ),
            (
                self.lease + self.watchdog,
                "(g + w) the partner stops: its watchdog fires or it resets itself",
            ),
            (
                watchdog_gone_after(figures),
                "(1.05 (g + 2 w) + 0.2 s) readings issued from now on confirm the rung of waiting",
            ),
        ];
        lines.sort_by_key(|(at, _)| *at);
        let mut text = String::new();
        for (at, what) in lines {
            let ms = at.as_millis();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:>4}.{:03} s  {what}", ms / 1000, ms % 1000);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_sound_and_within_the_figures_of_the_design() {
        for profile in Profile::ALL {
            Timing::derive(profile)
                .check()
                .unwrap_or_else(|bad| panic!("{}: {bad}", profile.name()));
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
        }
        let fast = Timing::derive(Profile::Fast);
        assert_eq!(
            (fast.wire_limit, fast.disk_limit),
            (Duration::from_secs(1), Duration::from_millis(1_500))
        );
        let safe = Timing::derive(Profile::Safe);
        assert_eq!(
            (safe.wire_limit, safe.disk_limit),
            (Duration::from_secs(8), Duration::from_secs(8))
        );
        assert_eq!(Profile::from_name("turbo"), None);
    }

    #[test]
    fn a_power_control_behind_a_network_has_the_time_that_the_budget_leaves() {
        // Measured: a fence agent answers a question in 0.3 s, and has power off and seen to be off in 2.7 s.
        let (question, deed) = (Duration::from_millis(300), Duration::from_millis(2_700));
        for profile in Profile::ALL {
            let timing = Timing::derive(profile);
            assert!(
                timing.power_ask() >= question * 8 && timing.power_cut() >= deed * 4,
                "{profile:?}"
            );
            assert!(
                timing.detection() + timing.power_cut() <= timing.budget,
                "{profile:?}"
            );
        }
    }

    #[test]
    fn each_violation_is_named_with_both_values() {
        let sound = Timing::derive(Profile::Fast);
        let ms = Duration::from_millis;
        let cases: [(&str, Timing); 12] = [
            ("h > 0", Timing { beat: ms(0), ..sound }),
            (
                "d > 0",
                Timing {
                    slot_period: ms(0),
                    ..sound
                },
            ),
            (
                "Tn > 2 x bond failover + 3 h",
                Timing {
                    wire_limit: ms(900),
                    ..sound
                },
            ),
            (
                "Td >= 3 d + tolerated stall",
                Timing {
                    disk_limit: ms(1_499),
                    ..sound
                },
            ),
            (
                "Td >= 1.05 g + 0.2 s",
                Timing {
                    lease: ms(1_239),
                    ..sound
                },
            ),
            (
                "g >= 2 d",
                Timing {
                    lease: ms(499),
                    ..sound
                },
            ),
            (
                "g / 4 >= key check",
                Timing {
                    key_check: ms(251),
                    ..sound
                },
            ),
            (
                "w > g",
                Timing {
                    watchdog: ms(1_000),
                    ..sound
                },
            ),
            (
                "X >= detection",
                Timing {
                    unserved_limit: ms(1_700),
                    ..sound
                },
            ),
            (
                "Y > w",
                Timing {
                    ask_limit: ms(5_000),
                    ..sound
                },
            ),
            (
                "n > 0",
                Timing {
                    flap_count: 0,
                    ..sound
                },
            ),
            (
                "60 s >= detection + 1.05 (g + 2 w) + 0.2 s",
                Timing {
                    watchdog: ms(28_000),
                    ask_limit: ms(30_000),
                    ..sound
                },
            ),
        ];
        for (rule, timing) in cases {
            let bad = timing.check().expect_err(rule);
            assert_eq!(bad.rule, rule);
            assert_ne!(bad.left, Duration::MAX);
        }
    }

    #[test]
    fn the_timeline_is_in_order_and_from_the_same_figures() {
        let text = Timing::derive(Profile::Fast).timeline();
        let at: Vec<&str> = text
            .lines()
            .map(|line| line.split(" s  ").next().unwrap_or("").trim())
            .collect();
        assert_eq!(
            at,
            [
                "0.000", "1.000", "1.000", "1.250", "1.500", "1.750", "6.000", "11.750"
            ]
        );
    }

    #[test]
    fn every_limit_is_derived_from_what_is_tolerated() {
        let ms = Duration::from_millis;
        for profile in Profile::ALL {
            let t = Timing::derive(profile);
            let name = profile.name();
            assert_eq!(
                t.wire_limit,
                ms(2 * millis(t.bond_failover) + 4 * millis(t.beat)),
                "{name}"
            );
            let stillness = 3 * millis(t.slot_period) + millis(t.disk_stall);
            let lease_gone = millis(t.lease) * 105 / 100 + 200;
            assert_eq!(t.disk_limit, ms(stillness.max(lease_gone)), "{name}");
            assert_eq!(t.key_check, ms(millis(t.lease) / 4), "{name}");
            assert_eq!(t.retry, ms(2 * millis(t.slot_period)), "{name}");
            assert_eq!(
                t.giveback_after,
                ms(3 * stillness.max(millis(t.wire_limit))),
                "{name}"
            );
            assert_eq!(
                t.detection(),
                t.wire_limit.max(t.disk_limit + t.slot_period),
                "{name}"
            );
            let figures = Figures {
                slot_period: t.slot_period,
                lease: t.lease,
                watchdog: t.watchdog,
            };
            assert_eq!(t.figures(), figures, "{name}");
            assert_eq!(lease_gone_after(figures), ms(lease_gone), "{name}");
            let watchdog_gone = (millis(t.lease) + 2 * millis(t.watchdog)) * 105 / 100 + 200;
            assert_eq!(watchdog_gone_after(figures), ms(watchdog_gone), "{name}");
        }
    }

    fn millis(span: Duration) -> u64 {
        u64::try_from(span.as_millis()).unwrap()
    }

    #[test]
    fn the_slower_figures_of_the_partner_are_honoured() {
        let own = Timing::derive(Profile::Fast);
        let ms = Duration::from_millis;
        assert_eq!(own.disk_limit_for(Figures::default()), own.disk_limit);
        let slow_slot = Figures {
            slot_period: ms(3_000),
            ..Figures::default()
        };
        assert_eq!(own.disk_limit_for(slow_slot), ms(9_000));
        let long_lease = Figures {
            lease: ms(10_000),
            ..Figures::default()
        };
        assert_eq!(own.disk_limit_for(long_lease), ms(10_700));
    }

    /// Figures with room on every side, so that one can be moved to its bound alone.
    fn roomy() -> Timing {
        let ms = Duration::from_millis;
        Timing {
            beat: ms(100),
            bond_failover: ms(300),
            wire_limit: ms(3_000),
            slot_period: ms(250),
            disk_stall: ms(750),
            disk_limit: ms(3_000),
            lease: ms(1_000),
            watchdog: ms(5_000),
            key_check: ms(10),
            unserved_limit: ms(59_000),
            ask_limit: ms(59_000),
            flap_count: 4,
            flap_window: ms(1_000_000),
            giveback_after: ms(100_000),
            retry: ms(500),
            budget: ms(59_000),
        }
    }

    /// One inequality at its bound: a change of the roomy figures by which it still holds, and one by which it does not.
    type Bound = (&'static str, fn(&mut Timing), fn(&mut Timing));

    #[test]
    fn every_inequality_holds_up_to_its_bound_and_no_further() {
        const NS: Duration = Duration::from_nanos(1);
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let bounds: [Bound; 18] = [
            ("h > 0", |t| t.beat = NS, |t| t.beat = Duration::ZERO),
            (
                "d > 0",
                |t| t.slot_period = NS,
                |t| t.slot_period = Duration::ZERO,
            ),
            (
                "Tn > 2 x bond failover + 3 h",
                |t| t.wire_limit = ms(900) + NS,
                |t| t.wire_limit = ms(900),
            ),
            (
                "Td >= 3 d + tolerated stall",
                |t| (t.lease, t.disk_limit) = (ms(900), ms(1_500)),
                |t| (t.lease, t.disk_limit) = (ms(900), ms(1_500) - NS),
            ),
            (
                "Td >= 1.05 g + 0.2 s",
                |t| (t.disk_stall, t.disk_limit) = (ms(0), ms(1_250)),
                |t| (t.disk_stall, t.disk_limit) = (ms(0), ms(1_250) - NS),
            ),
            ("g >= 2 d", |t| t.lease = ms(500), |t| t.lease = ms(500) - NS),
            (
                "g >= 3 h",
                |t| (t.beat, t.lease) = (ms(400), ms(1_200)),
                |t| (t.beat, t.lease) = (ms(400), ms(1_200) - NS),
            ),
            (
                "g / 4 >= key check",
                |t| t.key_check = ms(250),
                |t| t.key_check = ms(250) + NS,
            ),
            (
                "key check > 0",
                |t| t.key_check = NS,
                |t| t.key_check = Duration::ZERO,
            ),
            (
                "w > g",
                |t| t.watchdog = ms(1_000) + NS,
                |t| t.watchdog = ms(1_000),
            ),
            ("retry > 0", |t| t.retry = NS, |t| t.retry = Duration::ZERO),
            (
                "X >= detection",
                |t| t.unserved_limit = ms(3_250),
                |t| t.unserved_limit = ms(3_250) - NS,
            ),
            (
                "Y > w",
                |t| t.ask_limit = ms(5_000) + NS,
                |t| t.ask_limit = ms(5_000),
            ),
            ("n > 0", |t| t.flap_count = 1, |t| t.flap_count = 0),
            (
                "m >= n x (Tn + Td)",
                |t| t.flap_window = ms(24_000),
                |t| t.flap_window = ms(24_000) - NS,
            ),
            (
                "giveback after >= detection",
                |t| t.giveback_after = ms(3_250),
                |t| t.giveback_after = ms(3_250) - NS,
            ),
            (
                "budget >= Tn or Td + d, whichever is longer",
                |t| t.budget = ms(3_250),
                |t| t.budget = ms(3_250) - NS,
            ),
            (
                // 4.15 s + 1.05 x (1 + 2 x 26) s + 0.2 s
                "60 s >= detection + 1.05 (g + 2 w) + 0.2 s",
                |t| (t.watchdog, t.disk_limit) = (ms(26_000), ms(3_900)),
                |t| (t.watchdog, t.disk_limit) = (ms(26_000), ms(3_900) + NS),
            ),
        ];
        assert_eq!(roomy().check(), Ok(()));
        for (rule, holds, breaks) in bounds {
            let mut timing = roomy();
            holds(&mut timing);
            assert_eq!(timing.check(), Ok(()), "{rule}");
            let mut timing = roomy();
            breaks(&mut timing);
            let bad = timing.check().expect_err(rule);
            assert_eq!(bad.rule, rule);
            use alloc::string::ToString;
            let words = bad.to_string();
            assert!(words.contains(rule) && words.contains("does not hold"), "{words}");
        }
    }

    use alloc::vec::Vec;
}
