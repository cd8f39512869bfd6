//! Who uses which extent of a pool: the room plan of a hotel in which a room may have several tenants.
//!
//! Nothing of it is kept on the disks: it is what one gets by reading the label and every table
//! ([`map`](crate::map)). So there is no second truth that a crash could leave in disagreement with the first.
//!
//! Invariants:
//! * an extent is given to somebody only while nobody refers to it;
//! * an extent that the label gives to one owner (a thick volume, a journal, a table) is never referred to by a table;
//! * what is promised to thick volumes, so that a write to an extent which they share with a snapshot finds room, is
//!   given to nobody else;
//! * once something could not be read, nothing is given at all: what looks free may be in use.

use crate::label::{Label, Run};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error as ThisError;
use tokio::sync::watch;

/// The mark of an extent that the label gives to one owner.
const FIXED: u32 = u32::MAX;

/// A table refers to an extent that it cannot refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error("extent {0} lies beyond the end of the pool, or belongs to somebody else by the label")]
pub struct Misplaced(pub u64);

/// References to each extent of a pool.
#[derive(Clone, Debug)]
pub struct Extents {
    /// How many refer to it; zero: it is free.
    counts: Vec<u32>,
    free: u64,
    /// Below it nothing is free.
    lowest: usize,
    promised: u64,
    sealed: bool,
}

impl Extents {
    /// As the label alone has it: what tables refer to comes in by [`refer`](Self::refer).
    #[must_use]
    pub fn of(label: &Label) -> Self {
        let mut extents = Extents {
            counts: vec![0; usize::try_from(label.extents).unwrap_or(usize::MAX)],
            free: label.extents,
            lowest: 0,
            promised: 0,
            sealed: false,
        };
        for run in label.runs() {
            for extent in run.start..run.start + run.count {
                // A label whose extents overlap or lie beyond the end is not decoded.
                if let Some(count) = extents.counts.get_mut(extent as usize) {
                    *count = FIXED;
                    extents.free -= 1;
                }
            }
        }
        extents
    }

    /// One more table refers to it.
    ///
    /// # Errors
    /// [`Misplaced`]; nothing is changed.
    pub fn refer(&mut self, extent: u64) -> Result<(), Misplaced> {
        let count = usize::try_from(extent)
            .ok()
            .and_then(|at| self.counts.get_mut(at));
        match count {
            Some(count) if *count < FIXED - 1 => {
                self.free -= u64::from(*count == 0);
                *count += 1;
                Ok(())
            }
            _ => Err(Misplaced(extent)),
        }
    }

    /// Whether more than one table refers to it.
    #[must_use]
    pub fn is_shared(&self, extent: u64) -> bool {
        self.counts
            .get(extent as usize)
            .is_some_and(|count| (2..FIXED).contains(count))
    }

    /// One table, or the owner by the label, refers to it no longer.
    pub fn release(&mut self, extent: u64) {
        let Some(count) = self.counts.get_mut(extent as usize) else {
            return;
        };
        match *count {
            0 => debug_assert!(
                false,
                "extent {extent} is released by somebody who has no part in it"
            ),
            1 | FIXED => {
                *count = 0;
                self.free += 1;
                self.lowest = self.lowest.min(extent as usize);
            }
            _ => *count -= 1,
        }
    }

    /// Extents that were one owner's by the label are one table's from now on.
    pub fn loosen(&mut self, extents: impl IntoIterator<Item = u64>) {
        for extent in extents {
            match self.counts.get_mut(extent as usize) {
                Some(count) if *count == FIXED => *count = 1,
                _ => debug_assert!(false, "extent {extent} is not one owner's"),
            }
        }
    }

    /// Extents that anybody may be given.
    #[must_use]
    pub fn available(&self) -> u64 {
        match self.sealed {
            true => 0,
            false => self.free.saturating_sub(self.promised),
        }
    }

    /// Extents that somebody refers to.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.counts.len() as u64 - self.free
    }

    /// Every extent.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Gives `count` extents to one owner, first fit; the label is to say so. `None`: there are not so many.
    pub fn take(&mut self, count: u64) -> Option<Vec<Run>> {
        (count <= self.available()).then(|| self.next_free(count, FIXED))
    }

    /// Gives one extent to a table, out of what is promised where that is asked for. With it: it was promised.
    pub fn take_one(&mut self, promised: bool) -> Option<(u64, bool)> {
        let redeem = promised && self.promised > 0 && !self.sealed && self.free > 0;
        if !redeem && self.available() == 0 {
            return None;
        }
        self.promised -= u64::from(redeem);
        self.next_free(1, 1).first().map(|run| (run.start, redeem))
    }

    fn next_free(&mut self, mut count: u64, mark: u32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        while count > 0 && self.lowest < self.counts.len() {
            let at = self.lowest;
            if self.counts[at] == 0 {
                self.counts[at] = mark;
                self.free -= 1;
                count -= 1;
                match runs.last_mut() {
                    Some(run) if run.start + run.count == at as u64 => run.count += 1,
                    _ => runs.push(Run {
                        start: at as u64,
                        count: 1,
                    }),
                }
            }
            self.lowest += 1;
        }
        runs
    }

    /// So many extents are kept for thick volumes.
    pub fn promise(&mut self, extents: u64) {
        self.promised = extents;
    }

    /// So many are kept for thick volumes.
    #[must_use]
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Something that refers to extents could not be read: from now on nothing is given.
    pub fn seal(&mut self) {
        self.sealed = true;
    }
}

/// The extents of an imported pool, for everybody who takes some of them.
#[derive(Debug)]
pub struct Space {
    extents: Mutex<Extents>,
    /// Used extents, to watch.
    used: watch::Sender<u64>,
}

impl Space {
    /// A pool with this use.
    #[must_use]
    pub fn new(extents: Extents) -> Self {
        Space {
            used: watch::Sender::new(extents.used()),
            extents: Mutex::new(extents),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the extents, or changes them.
    pub fn with<R>(&self, work: impl FnOnce(&mut Extents) -> R) -> R {
        let mut extents = self.lock();
        let result = work(&mut extents);
        let used = extents.used();
        drop(extents);
        self.used
            .send_if_modified(|known| std::mem::replace(known, used) != used);
        result
    }

    /// Extents in use, to watch.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.used.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::MemberState;
    use crate::label::tests::label_with;

    fn ten() -> Extents {
        let mut label = label_with(&[MemberState::InSync]);
        label.extents = 10;
        Extents::of(&label)
    }

    #[test]
    fn an_extent_is_free_when_the_last_reference_ends() {
        let mut extents = ten();
        assert_eq!(extents.take(3), Some(vec![Run { start: 0, count: 3 }]));
        let (one, _) = extents.take_one(false).expect("room");
        assert_eq!((one, extents.used()), (3, 4));
        extents.refer(one).expect("a table's");
        assert!(extents.is_shared(one) && !extents.is_shared(0));
        extents.release(one);
        assert_eq!((extents.used(), extents.is_shared(one)), (4, false));
        extents.release(one);
        extents.release(1);
        assert_eq!(extents.used(), 2);
        assert_eq!(
            extents.take(3),
            Some(vec![Run { start: 1, count: 1 }, Run { start: 3, count: 2 }])
        );
        assert_eq!(extents.refer(0), Err(Misplaced(0)), "a thick volume's");
        assert_eq!(extents.refer(10), Err(Misplaced(10)), "beyond the end");
        extents.loosen([0]);
        extents.refer(0).expect("a table's now");
        assert_eq!(extents.take(6), None, "five are left");
    }

    #[test]
    fn what_is_promised_is_given_to_nobody_else() {
        let mut extents = ten();
        extents.promise(4);
        assert_eq!((extents.available(), extents.take(7)), (6, None));
        assert!(extents.take(6).is_some());
        assert_eq!(extents.take_one(false), None);
        assert_eq!(extents.take_one(true), Some((6, true)));
        assert_eq!((extents.promised(), extents.used()), (3, 7));
    }

    #[test]
    fn nothing_is_given_once_something_was_not_read() {
        let mut extents = ten();
        extents.seal();
        assert_eq!((extents.take(1), extents.take_one(true)), (None, None));
    }
}
