//! Whether what people at both controllers were told of the configuration could have come from one ledger that is read
//! and written by one after the other (linearizability, Herlihy and Wing, 1990).
//!
//! ```text
//!  asked ----------------- told        each deed happened at one instant between its two ends; a change whose fate was
//!         asked ------ told            never told happened at any instant after it was asked for, or never
//! ```
//!
//! The ledger only grows, each change stands in it once, and a reader is told all of it: so nothing has to be searched.
//! What was told gives each deed its place, the change number n the place 2n, a reading of n changes the place 2n + 1, and
//! the histories that have an order are exactly those in which no deed that was over before another was asked for has a
//! later place than that one: sorted by place, and readings of the same length by when they were asked for, they are such
//! an order. Where a place was told to nobody and a later one was, there has to be a change of unknown fate that can have
//! taken it; windows in which that is possible only grow with the place, so counting them is enough (Hall).
//! A test compares the verdict with a search through every order (Wing and Gong, 1993).

use std::collections::BTreeMap;
use std::rc::Rc;

/// What somebody asked for, and what they were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// This change; its number in the ledger, if they were told.
    Change { entry: u64, number: Option<u64> },
    /// It was refused: it has not happened, as far as this asking goes.
    Refused { entry: u64 },
    /// Everything; what there was, if they were told.
    Read { seen: Option<Rc<[u64]>> },
}

/// A deed and its two ends, by a clock on which no two ends are equal.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) deed: Deed,
    pub(crate) asked: u64,
    /// None: nobody was ever told.
    pub(crate) told: Option<u64>,
}

/// Everything that was asked, in the order of asking.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    clock: u64,
    pub(crate) deeds: Vec<Done>,
}

impl History {
    /// Somebody asks; the number of the deed.
    fn ask(&mut self, deed: Deed) -> usize {
        self.clock += 1;
        self.deeds.push(Done {
            deed,
            asked: self.clock,
            told: None,
        });
        self.deeds.len() - 1
    }

    pub(crate) fn asks_for_change(&mut self, entry: u64) -> usize {
        self.ask(Deed::Change { entry, number: None })
    }

    pub(crate) fn reads(&mut self) -> usize {
        self.ask(Deed::Read { seen: None })
    }

    fn tell(&mut self, deed: usize, what: Deed) {
        self.clock += 1;
        let done = &mut self.deeds[deed];
        if done.told.is_none() {
            (done.told, done.deed) = (Some(self.clock), what);
        }
    }

    /// The change was made, as the one with this number.
    pub(crate) fn changed(&mut self, deed: usize, number: u64) {
        if let Deed::Change { entry, .. } = self.deeds[deed].deed {
            let number = Some(number);
            self.tell(deed, Deed::Change { entry, number });
        }
    }

    /// It was not made.
    pub(crate) fn refused(&mut self, deed: usize) {
        if let Deed::Change { entry, .. } = self.deeds[deed].deed {
            self.tell(deed, Deed::Refused { entry });
        }
    }

    /// This is what there was.
    pub(crate) fn saw(&mut self, deed: usize, seen: Rc<[u64]>) {
        self.tell(deed, Deed::Read { seen: Some(seen) });
    }
}

/// A deed with its place.
struct Placed {
    place: u64,
    asked: u64,
    told: u64,
    what: String,
}

/// How often and when a change was asked for, and told of.
#[derive(Clone, Copy)]
struct Asked {
    first: u64,
    told: Option<u64>,
}

/// Whether one ledger explains it all.
///
/// # Errors
/// Which two deeds it does not explain.
pub(crate) fn explained(deeds: &[Done]) -> Result<(), String> {
    let asked = changes(deeds);
    let numbers = numbers(deeds, &asked)?;
    let mut placed: Vec<Placed> = numbers
        .iter()
        .map(|(number, entry)| {
            let Asked { first, told } = asked[entry];
            Placed {
                place: 2 * number,
                asked: first,
                told: told.unwrap_or(u64::MAX),
                what: format!("change {entry}, number {number}"),
            }
        })
        .collect();
    for done in deeds {
        if let (Deed::Read { seen: Some(seen) }, Some(told)) = (&done.deed, done.told) {
            placed.push(Placed {
                place: 2 * seen.len() as u64 + 1,
                asked: done.asked,
                told,
                what: format!("a reading of {} changes", seen.len()),
            });
        }
    }
    in_order(&placed)?;
    gaps(&numbers, &asked, &placed)
}

/// Each change that may have happened: asked for at first, and told of at first.
fn changes(deeds: &[Done]) -> BTreeMap<u64, Asked> {
    let mut asked: BTreeMap<u64, Asked> = BTreeMap::new();
    for done in deeds {
        let Deed::Change { entry, number } = done.deed else {
            continue;
        };
        let told = done.told.filter(|_| number.is_some());
        let change = asked.entry(entry).or_insert(Asked {
            first: done.asked,
            told: None,
        });
        change.first = change.first.min(done.asked);
        change.told = match (change.told, told) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    asked
}

/// Which change has which number, by all that was told of it.
fn numbers(deeds: &[Done], asked: &BTreeMap<u64, Asked>) -> Result<BTreeMap<u64, u64>, String> {
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut told = |number: u64, entry: u64| {
        if !asked.contains_key(&entry) {
            return Err(format!(
                "change {entry} was read, and was asked for by nobody, or refused"
            ));
        }
        let (one, other) = (
            *numbers.entry(number).or_insert(entry),
            *places.entry(entry).or_insert(number),
        );
        match (one == entry, other == number) {
            (true, true) => Ok(()),
            (false, _) => Err(format!(
                "the change number {number} was said to be {one}, and to be {entry}"
            )),
            (_, false) => Err(format!(
                "change {entry} was said to have the numbers {other} and {number}"
            )),
        }
    };
    for done in deeds {
        match &done.deed {
            Deed::Change {
                entry,
                number: Some(number),
            } => told(*number, *entry)?,
            Deed::Read { seen: Some(seen) } => {
                for (at, entry) in seen.iter().enumerate() {
                    told(at as u64 + 1, *entry)?;
                }
            }
            Deed::Change { number: None, .. } | Deed::Refused { .. } | Deed::Read { seen: None } => {}
        }
    }
    Ok(numbers)
}

/// Whatever was over before something was asked for has no later place.
fn in_order(placed: &[Placed]) -> Result<(), String> {
    let mut ends: Vec<&Placed> = placed.iter().collect();
    ends.sort_by_key(|one| one.told);
    let mut asked: Vec<&Placed> = placed.iter().collect();
    asked.sort_by_key(|one| one.asked);
    let mut ends = ends.into_iter().peekable();
    let mut latest: Option<&Placed> = None;
    for one in asked {
        while let Some(over) = ends.next_if(|over| over.told < one.asked) {
            latest = latest.filter(|latest| latest.place >= over.place).or(Some(over));
        }
        if let Some(before) = latest.filter(|latest| latest.place > one.place) {
            return Err(format!(
                "{} was asked for after {} had been told",
                one.what, before.what
            ));
        }
    }
    Ok(())
}

/// Numbers that nobody was told of were taken by changes of unknown fate.
fn gaps(numbers: &BTreeMap<u64, u64>, asked: &BTreeMap<u64, Asked>, placed: &[Placed]) -> Result<(), String> {
    let Some(last) = numbers.keys().next_back().copied() else {
        return Ok(());
    };
    let placed_entries: Vec<u64> = numbers.values().copied().collect();
    let unknown = |entry: &u64| !placed_entries.contains(entry);
    let mut free: Vec<u64> = asked
        .iter()
        .filter(|(entry, _)| unknown(entry))
        .map(|(_, change)| change.first)
        .collect();
    free.sort_unstable();
    let missing = (1..=last).filter(|number| !numbers.contains_key(number));
    for (before, number) in missing.enumerate() {
        // It happened before whatever is later was told.
        let later = placed.iter().filter(|one| one.place > 2 * number);
        let bound = later.map(|one| one.told).min().unwrap_or(u64::MAX);
        let candidates = free.partition_point(|first| *first < bound);
        if candidates <= before {
            return Err(format!(
                "nobody had asked for the change number {number} when later ones were told"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn list(seen: &[u64]) -> Rc<[u64]> {
        seen.into()
    }

    /// Deeds by hand: asked, told, what.
    fn verdict(deeds: &[(u64, Option<u64>, Deed)]) -> Result<(), String> {
        let deeds: Vec<Done> = deeds
            .iter()
            .map(|(asked, told, deed)| Done {
                deed: deed.clone(),
                asked: *asked,
                told: *told,
            })
            .collect();
        assert_eq!(
            explained(&deeds).is_ok(),
            searched(&deeds),
            "the search says otherwise: {deeds:?}"
        );
        explained(&deeds)
    }

    fn change(entry: u64, number: u64) -> Deed {
        let number = Some(number);
        Deed::Change { entry, number }
    }

    fn doubt(entry: u64) -> Deed {
        Deed::Change { entry, number: None }
    }

    fn read(seen: &[u64]) -> Deed {
        Deed::Read {
            seen: Some(list(seen)),
        }
    }

    /// Every order is tried: Wing and Gong.
    fn searched(deeds: &[Done]) -> bool {
        let asked = changes(deeds);
        let reads = deeds
            .iter()
            .filter(|done| matches!(done.deed, Deed::Read { seen: Some(_) }));
        // Asked for and told of, number, what a reading has to show or which entry it adds.
        let mut steps: Vec<Step> = reads
            .map(|done| Step {
                asked: done.asked,
                told: done.told.unwrap_or(u64::MAX),
                needed: true,
                deed: done.deed.clone(),
            })
            .collect();
        for (entry, Asked { first, told }) in &asked {
            let told_as: Vec<u64> = deeds
                .iter()
                .filter_map(|done| match done.deed {
                    Deed::Change { entry: of, number } if of == *entry => number,
                    _ => None,
                })
                .collect();
            if told_as.windows(2).any(|two| two[0] != two[1]) {
                return false;
            }
            steps.push(Step {
                asked: *first,
                told: told.unwrap_or(u64::MAX),
                needed: told.is_some(),
                deed: Deed::Change {
                    entry: *entry,
                    number: told_as.first().copied(),
                },
            });
        }
        go_on(&steps, &mut vec![false; steps.len()], &mut Vec::new())
    }

    struct Step {
        asked: u64,
        told: u64,
        needed: bool,
        deed: Deed,
    }

    fn go_on(steps: &[Step], taken: &mut Vec<bool>, ledger: &mut Vec<u64>) -> bool {
        let left = || steps.iter().enumerate().filter(|(at, _)| !taken[*at]);
        if left().all(|(_, step)| !step.needed) {
            return true;
        }
        // Nothing may happen after the end of something that has not happened yet.
        let first_end = left()
            .filter(|(_, step)| step.needed)
            .map(|(_, step)| step.told)
            .min();
        let next: Vec<usize> = left()
            .filter(|(_, step)| Some(step.asked) < first_end)
            .map(|(at, _)| at)
            .collect();
        for at in next {
            let fits = match &steps[at].deed {
                Deed::Change { number, .. } => number.is_none_or(|number| number == ledger.len() as u64 + 1),
                Deed::Read { seen } => seen.as_deref() == Some(ledger.as_slice()),
                Deed::Refused { .. } => false,
            };
            if !fits {
                continue;
            }
            taken[at] = true;
            if let Deed::Change { entry, .. } = steps[at].deed {
                ledger.push(entry);
            }
            let done = go_on(steps, taken, ledger);
            taken[at] = false;
            if let Deed::Change { .. } = steps[at].deed {
                ledger.pop();
            }
            if done {
                return true;
            }
        }
        false
    }

    #[test]
    fn what_one_after_the_other_could_have_done_is_explained() {
        assert_eq!(verdict(&[]), Ok(()));
        // A change that overlaps a reading is seen or not.
        for seen in [&[][..], &[7]] {
            let deeds = [(1, Some(4), change(7, 1)), (2, Some(3), read(seen))];
            assert_eq!(verdict(&deeds), Ok(()));
        }
        // In doubt, and made after all: later, or never, or without having been seen under its number.
        let late = [
            (1, None, doubt(7)),
            (2, Some(3), read(&[])),
            (4, Some(5), read(&[7])),
        ];
        assert_eq!(verdict(&late), Ok(()));
        let never = [
            (1, None, doubt(7)),
            (2, Some(3), change(8, 1)),
            (4, Some(5), read(&[8])),
        ];
        assert_eq!(verdict(&never), Ok(()));
        let unseen = [(1, None, doubt(7)), (2, Some(3), change(8, 2))];
        assert_eq!(verdict(&unseen), Ok(()));
        // In doubt, asked again, answered.
        let again = [
            (1, None, doubt(7)),
            (2, Some(3), read(&[7])),
            (4, Some(5), change(7, 1)),
        ];
        assert_eq!(verdict(&again), Ok(()));
        // A reading that was never answered says nothing, nor does a refusal.
        let silent = [
            (1, None, Deed::Read { seen: None }),
            (2, Some(3), Deed::Refused { entry: 9 }),
        ];
        assert_eq!(verdict(&silent), Ok(()));
    }

    fn refuted(deeds: &[(u64, Option<u64>, Deed)], why: &str) {
        let said = verdict(deeds).expect_err(why);
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn what_nobody_could_have_done_is_refuted() {
        // A reading that lacks what was told before it began: the old follower, the old sequencer.
        let stale = [(1, Some(2), change(7, 1)), (3, Some(4), read(&[]))];
        refuted(
            &stale,
            "a reading of 0 changes was asked for after change 7, number 1 had been told",
        );
        // A later reading shows less than an earlier one.
        let back = [
            (1, None, doubt(7)),
            (2, Some(3), read(&[7])),
            (4, Some(5), read(&[])),
        ];
        refuted(&back, "after a reading of 1 changes");
        // Shown before it was asked for.
        let early = [(1, Some(2), read(&[7])), (3, Some(4), change(7, 1))];
        refuted(&early, "change 7, number 1 was asked for after");
        // Two histories.
        let two = [(1, Some(9), change(7, 1)), (2, Some(8), change(8, 1))];
        refuted(&two, "was said to be");
        let fork = [
            (1, None, doubt(7)),
            (2, None, doubt(8)),
            (3, Some(4), read(&[7])),
            (5, Some(6), read(&[8, 7])),
        ];
        refuted(&fork, "was said to");
        // Twice done.
        let twice = [(1, None, doubt(7)), (2, Some(3), read(&[7, 7]))];
        refuted(&twice, "said to have the numbers 1 and 2");
        // Refused, and done; and out of nowhere.
        let refused = [(1, Some(2), Deed::Refused { entry: 7 }), (3, Some(4), read(&[7]))];
        refuted(&refused, "asked for by nobody, or refused");
        // In the wrong order.
        let order = [(1, Some(2), change(7, 2)), (3, Some(4), change(8, 1))];
        refuted(&order, "change 8, number 1 was asked for after change 7");
        // A number that nobody can have taken: nothing else was asked for, or only later.
        let gap = [(1, Some(2), change(7, 2))];
        refuted(&gap, "nobody had asked for the change number 1");
        let late = [(1, Some(2), change(7, 2)), (3, None, doubt(8))];
        refuted(&late, "nobody had asked for the change number 1");
    }

    /// Small histories of all kinds: of one ledger with ends drawn at random, some of them spoilt.
    #[test]
    fn the_verdict_is_that_of_the_search() {
        let mut rng = Rng::new(11);
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..20_000 {
            let mut ledger: Vec<u64> = Vec::new();
            let count = rng.range(2, 6);
            let mut deeds: Vec<Done> = Vec::new();
            for at in 0..count {
                // Happens at 100 * at, and is asked for and told at some time around that.
                let asked = (100 * at + 300).saturating_sub(rng.range(0, 250)) * 10 + at;
                let told = (100 * at + 300 + rng.range(1, 250)) * 10 + at;
                let deed = match rng.below(4) {
                    0 | 1 => {
                        ledger.push(at);
                        let known = rng.chance(600_000).then_some(ledger.len() as u64);
                        Deed::Change {
                            entry: at,
                            number: known,
                        }
                    }
                    2 => read(&ledger),
                    _ => doubt(at),
                };
                let open = matches!(deed, Deed::Change { number: None, .. });
                deeds.push(Done {
                    deed,
                    asked,
                    told: (!open).then_some(told),
                });
            }
            if rng.chance(700_000) {
                let at = rng.index(deeds.len());
                match &mut deeds[at].deed {
                    Deed::Read { seen: Some(seen) } => {
                        let mut other = seen.to_vec();
                        if other.pop().is_none() || rng.chance(300_000) {
                            other.push(rng.below(count));
                        }
                        *seen = other.into();
                    }
                    Deed::Change {
                        number: Some(number), ..
                    } => *number = (*number + rng.range(0, 2)).max(1),
                    _ => {}
                }
            }
            let explained = explained(&deeds);
            assert_eq!(explained.is_ok(), searched(&deeds), "{explained:?}: {deeds:?}");
            if explained.is_ok() {
                right += 1;
            } else {
                wrong += 1;
            }
        }
        assert!(right > 2_000 && wrong > 2_000, "{right} right, {wrong} wrong");
    }
}
