//! A failing seed made small: which of its faults are needed, and how short they may be.
//!
//! ```text
//!  seed fails -> leave faults out, by halves and then one by one, while it still fails -> halve what lasts -> print
//! ```
//!
//! A fault is known by its number in the whole play. Before each fault that is left out or kept, chance goes on from where
//! it was in the whole play, so the others strike at the same instants, in the same way.

use crate::play::Failure;
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Plays that one search may cost.
const PLAYS: u32 = 400;
/// A fault is shortened to this share of its time at least: a half, five times over.
const HALVES: u32 = 5;

/// The faults that strike: number, and how often its duration is halved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeMap<usize, u32>);

impl Mask {
    fn all(faults: usize) -> Self {
        Self((0..faults).map(|number| (number, 0)).collect())
    }

    /// How often the duration of this fault is halved; none: it does not strike.
    pub(crate) fn halves(&self, number: usize) -> Option<u32> {
        self.0.get(&number).copied()
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, (number, halves)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{number}")?;
            if *halves > 0 {
                write!(f, "/{}", 1_u64 << halves)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Mask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let wrong = |part: &str| {
            format!(
                "{part:?}: expected numbers of faults with a divisor that is a power of two, such as 3,7/4, or none"
            )
        };
        let mut mask = BTreeMap::new();
        for part in text.split(',') {
            let (number, divisor) = part.split_once('/').unwrap_or((part, "1"));
            let number = number.parse().map_err(|_| wrong(part))?;
            let divisor: u64 = divisor.parse().map_err(|_| wrong(part))?;
            if !divisor.is_power_of_two() {
                return Err(wrong(part));
            }
            mask.insert(number, divisor.trailing_zeros());
        }
        Ok(Self(mask))
    }
}

/// The faults of a play: how chance stood before each, and which are to strike.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storm {
    struck: usize,
    /// Of this play.
    pub(crate) before: Vec<Rng>,
    /// What each was, for people.
    pub(crate) lines: BTreeMap<usize, String>,
    /// Of the whole play, with what is left of it.
    plan: Option<(Vec<Rng>, Mask)>,
}

impl Storm {
    pub(crate) fn planned(before: Vec<Rng>, mask: Mask) -> Self {
        Self {
            plan: Some((before, mask)),
            ..Self::default()
        }
    }

    /// The next fault is due: its number. Chance goes on as in the whole play. None: that play had no more faults.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Option<usize> {
        let number = self.struck;
        if let Some((before, _)) = &self.plan {
            *rng = before.get(number)?.clone();
        } else {
            self.before.push(rng.clone());
        }
        self.struck += 1;
        Some(number)
    }

    /// How often the duration of this fault is halved; none: it is left out.
    pub(crate) fn halves(&self, number: usize) -> Option<u32> {
        self.plan
            .as_ref()
            .map_or(Some(0), |(_, mask)| mask.halves(number))
    }
}

/// The smallest set of faults that was found, and how the seed fails with it.
#[derive(Clone, Debug)]
pub struct Small {
    /// The faults.
    pub mask: Mask,
    /// One line each.
    pub faults: Vec<String>,
    /// How many there were in the whole play.
    pub of: usize,
    /// How it fails.
    pub failure: Failure,
}

impl fmt::Display for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.failure.seed;
        writeln!(f, "{} of {} faults are enough:", self.mask.0.len(), self.of)?;
        for line in &self.faults {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "again: --seed {seed} --mask {}; {}",
            self.mask,
            self.failure.last_line()
        )
    }
}

/// Looks for the smallest set of faults with which the play still breaks the same invariant. `plays` plays with a mask
/// and says what was broken.
pub(crate) fn smallest(faults: usize, mut fails: impl FnMut(&Mask) -> bool) -> Mask {
    let mut best = Mask::all(faults);
    let mut plays = 0;
    let mut still = |mask: &Mask| {
        plays += 1;
        plays <= PLAYS && fails(mask)
    };
    // Halves, quarters, ... single ones; again from the start of a size while that finds something.
    let mut size = faults.div_ceil(2).max(1);
    loop {
        let numbers: Vec<usize> = best.0.keys().copied().collect();
        let mut found = false;
        for part in numbers.chunks(size) {
            let mut less = best.clone();
            less.0.retain(|number, _| !part.contains(number));
            if less != best && still(&less) {
                best = less;
                found = true;
            }
        }
        if size == 1 && !found {
            break;
        }
        if !found {
            size = size.div_ceil(2);
        }
    }
    for number in best.0.keys().copied().collect::<Vec<_>>() {
        for _ in 0..HALVES {
            let mut less = best.clone();
            less.0.entry(number).and_modify(|halves| *halves += 1);
            if !still(&less) {
                break;
            }
            best = less;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_needed_faults_of_forty_are_found() {
        let mut plays = 0;
        let mask = smallest(40, |mask| {
            plays += 1;
            mask.halves(7).is_some() && mask.halves(31).is_some_and(|halves| halves <= 2)
        });
        assert_eq!(mask.to_string(), "7/32,31/4");
        assert_eq!(mask.to_string().parse(), Ok(mask));
        assert!(plays < 80, "{plays}");
    }

    #[test]
    fn a_play_that_fails_without_faults_needs_none() {
        assert_eq!(smallest(5, |_| true).to_string(), "none");
        assert_eq!("none".parse(), Ok(Mask::default()));
        assert!("3,x".parse::<Mask>().is_err());
        assert!(
            "3/3"
                .parse::<Mask>()
                .is_err_and(|why| why.contains("power of two"))
        );
    }

    #[test]
    fn a_mask_of_every_fault_is_the_same_play() {
        let seed = 11;
        let whole = crate::play::masked(seed, None);
        let mask = Mask::all(whole.storm.before.len());
        assert!(!mask.0.is_empty(), "seed {seed} has no fault to leave out");
        let again = crate::play::masked(seed, Some((whole.storm.before.clone(), mask)));
        assert_eq!((whole.stats.events, whole.now), (again.stats.events, again.now));
        let none = crate::play::masked(seed, Some((whole.storm.before.clone(), Mask::default())));
        assert_eq!((none.stats.faults, none.violation.is_none()), (0, true));
    }
}
