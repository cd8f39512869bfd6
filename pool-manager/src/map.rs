//! Where the extents of one volume stand, and which of that is on the disks already.
//!
//! Think of a removal firm's list. Furniture is in the new room before the list says so, the list is in the safe before
//! the customer is told, and the old room is let only then. This is the list: a function of what it is told, without a
//! disk or a clock. Carrying is [`mapped`](crate::mapped)'s.
//!
//! ```text
//!            set(q)                    stands()
//!   p, durable -----> q, not durable ----------> q, durable; p is given back
//!                        ^      |
//!                        +------+  set again before it was durable
//! ```
//!
//! Invariants:
//! * what an entry led to before is given back only when the page that leads elsewhere is durable;
//! * a page is written only as a whole, into the place that does not count, with a number above every earlier one;
//! * an extent that was taken for an entry and has not got there stays with the entry: whatever was begun there may still
//!   take effect, so nobody else is given it.

use crate::label::EXTENT_BYTES;
use crate::table::{self, ENTRIES, Owner};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Clone, Debug)]
struct PageState {
    /// Highest number that was ever written.
    sequence: u64,
    /// The place that counts.
    place: usize,
    /// What its entries led to until they were changed, with the change.
    leaving: Vec<(u64, u64)>,
}

/// A page to write.
#[derive(Clone, Debug)]
pub struct PageWrite {
    page: u64,
    place: usize,
    /// Changes up to this one are in it.
    covers: u64,
    /// Where it goes: a byte of the pool's data.
    pub at: u64,
    /// What goes there.
    pub bytes: Bytes,
}

/// Where the extents of one volume stand.
#[derive(Clone, Debug)]
pub struct Map {
    owner: Owner,
    /// Extents of the table.
    table: Vec<u64>,
    /// By extent of the volume; zero: none, else the extent of the pool + 1.
    entries: Vec<u32>,
    pages: Vec<PageState>,
    /// Extents of the volume whose entry is not durable, with the change.
    unsettled: BTreeMap<u64, u64>,
    /// Extents of the pool that were taken for an extent of the volume and are not in its entry yet.
    spare: BTreeMap<u64, u64>,
    changes: u64,
}

impl Map {
    /// The map of a volume with so many extents, whose table has these pages.
    #[must_use]
    pub fn new(owner: Owner, table: Vec<u64>, extents: u64, pages: Vec<table::Page>) -> Self {
        let mut map = Map {
            owner,
            table,
            entries: Vec::new(),
            pages: Vec::new(),
            unsettled: BTreeMap::new(),
            spare: BTreeMap::new(),
            changes: 0,
        };
        for page in pages {
            map.entries.extend_from_slice(&page.entries);
            map.pages.push(PageState {
                sequence: page.sequence,
                place: page.place,
                leaving: Vec::new(),
            });
        }
        map.resize(extents);
        map
    }

    fn resize(&mut self, extents: u64) {
        // What a page says beyond the end of its volume means nothing; it is not written again.
        self.entries.resize(extents as usize, 0);
        let pages = table::pages(extents) as usize;
        let new = PageState {
            sequence: 0,
            place: 0,
            leaving: Vec::new(),
        };
        self.pages.resize(pages, new);
    }

    /// The volume has grown, and its table perhaps with it; more extents of the table have been zeroed.
    pub fn grow(&mut self, table: Vec<u64>, extents: u64) {
        self.table = table;
        if extents > self.extents() {
            self.resize(extents);
        }
    }

    /// Extents of the volume.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Extents of its table.
    #[must_use]
    pub fn table(&self) -> &[u64] {
        &self.table
    }

    /// Where an extent stands.
    #[must_use]
    pub fn get(&self, extent: u64) -> Option<u64> {
        let entry = self.entries.get(extent as usize).copied().unwrap_or(0);
        entry.checked_sub(1).map(u64::from)
    }

    /// Every extent of the pool that it leads to.
    pub fn mapped(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries
            .iter()
            .filter_map(|entry| entry.checked_sub(1).map(u64::from))
    }

    /// Extents that lead nowhere.
    pub fn holes(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.extents()).filter(|extent| self.get(*extent).is_none())
    }

    /// Its entry is durable.
    #[must_use]
    pub fn is_settled(&self, extent: u64) -> bool {
        !self.unsettled.contains_key(&extent)
    }

    /// What was taken for an extent before, and is not in its entry.
    #[must_use]
    pub fn spare(&self, extent: u64) -> Option<u64> {
        self.spare.get(&extent).copied()
    }

    /// An extent of the pool was taken for an extent of the volume.
    pub fn keep(&mut self, extent: u64, taken: u64) {
        self.spare.insert(extent, taken);
    }

    /// What was taken for it, to give it back: nothing was begun there.
    pub fn discard(&mut self, extent: u64) -> Option<u64> {
        self.spare.remove(&extent)
    }

    /// From now on the extent stands there, or nowhere. Durable with the next page.
    pub fn set(&mut self, extent: u64, to: Option<u64>) {
        let entry = match to.map(|to| u32::try_from(to + 1)) {
            None => 0,
            Some(Ok(entry)) => entry,
            // No pool has so many: 4 PiB of extents.
            Some(Err(_)) => return,
        };
        let Some(place) = self.entries.get_mut(extent as usize) else {
            return;
        };
        let before = std::mem::replace(place, entry);
        if to.is_some() && self.spare.get(&extent).copied() == to {
            self.spare.remove(&extent);
        }
        self.changes += 1;
        self.unsettled.insert(extent, self.changes);
        if before != 0 && before != entry {
            let page = (extent / ENTRIES) as usize;
            self.pages[page]
                .leaving
                .push((self.changes, u64::from(before) - 1));
        }
    }

    /// Pages with changes that are not durable, of these extents.
    #[must_use]
    pub fn unsettled(&self, extents: Range<u64>) -> BTreeSet<u64> {
        self.unsettled
            .range(extents)
            .map(|(extent, _)| extent / ENTRIES)
            .collect()
    }

    /// The next write of a page.
    pub fn begin(&mut self, page: u64) -> PageWrite {
        let state = &mut self.pages[page as usize];
        state.sequence += 1;
        let place = 1 - state.place;
        let from = (page * ENTRIES) as usize;
        let until = (from + ENTRIES as usize).min(self.entries.len());
        let (extent, places) = table::places(page);
        PageWrite {
            page,
            place,
            covers: self.changes,
            at: self.table[extent] * EXTENT_BYTES + places[place],
            bytes: table::encode(self.owner, page, state.sequence, &self.entries[from..until]),
        }
    }

    /// That write is durable on every leg. What nobody leads to any more is given back by the caller.
    pub fn stands(&mut self, write: &PageWrite) -> Vec<u64> {
        let of_page = write.page * ENTRIES..(write.page + 1) * ENTRIES;
        let durable: Vec<u64> = self
            .unsettled
            .range(of_page)
            .filter(|(_, change)| **change <= write.covers)
            .map(|(extent, _)| *extent)
            .collect();
        for extent in &durable {
            self.unsettled.remove(extent);
        }
        let state = &mut self.pages[write.page as usize];
        state.place = write.place;
        let (gone, stays): (Vec<_>, Vec<_>) = std::mem::take(&mut state.leaving)
            .into_iter()
            .partition(|(change, _)| *change <= write.covers);
        state.leaving = stays;
        gone.into_iter().map(|(_, extent)| extent).collect()
    }

    /// The pages of a copy for another owner, each with where it goes in that owner's table, which has been zeroed.
    /// Pages without an entry are left out: they stand there already.
    pub fn copies<'a>(&'a self, owner: Owner, table: &'a [u64]) -> impl Iterator<Item = (u64, Bytes)> + 'a {
        let pages = self.entries.chunks(ENTRIES as usize).enumerate();
        let used = pages.filter(|(_, entries)| entries.iter().any(|entry| *entry != 0));
        used.map(move |(page, entries)| {
            let (extent, places) = table::places(page as u64);
            let at = table[extent] * EXTENT_BYTES + places[1];
            (at, table::encode(owner, page as u64, 1, entries))
        })
    }

    /// Everything that it holds: what its entries lead to, what is leaving, and what is kept for some.
    pub fn everything(&self) -> impl Iterator<Item = u64> + '_ {
        let leaving = self.pages.iter().flat_map(|page| &page.leaving);
        self.mapped()
            .chain(leaving.map(|(_, extent)| *extent))
            .chain(self.spare.values().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(extents: u64) -> Map {
        Map::new([1; 16], vec![40], extents, Vec::new())
    }

    #[test]
    fn an_extent_is_left_when_the_page_that_says_so_is_durable() {
        let mut map = map(10);
        map.set(3, Some(7));
        let first = map.begin(0);
        assert_eq!((map.get(3), map.is_settled(3)), (Some(7), false));
        // Changed again while the page is on its way.
        map.set(3, Some(8));
        map.set(4, Some(9));
        assert_eq!(map.stands(&first), [] as [u64; 0]);
        assert_eq!(
            map.unsettled(0..4),
            BTreeSet::from([0]),
            "the later change is not in it"
        );
        let second = map.begin(0);
        assert_ne!(first.at, second.at, "into the other place");
        assert_eq!(map.stands(&second), [7]);
        assert!(map.is_settled(3) && map.unsettled(0..10).is_empty());
        map.set(3, None);
        assert_eq!(map.everything().collect::<Vec<_>>(), [9, 8], "still leaving");
        // A write that did not come to its end is done again into the same place, with the next number.
        let (lost, again) = (map.begin(0), map.begin(0));
        assert_eq!(lost.at, again.at);
        assert_ne!(lost.bytes, again.bytes);
        assert_eq!(map.stands(&again), [8]);
        assert_eq!(map.holes().count(), 9);
    }

    #[test]
    fn what_was_taken_stays_with_its_entry() {
        let mut map = map(10);
        map.keep(2, 5);
        assert_eq!((map.get(2), map.spare(2)), (None, Some(5)));
        map.set(2, Some(5));
        assert_eq!((map.get(2), map.spare(2)), (Some(5), None));
    }

    #[test]
    fn a_shorter_volume_reads_nothing_beyond_its_end_and_grows_with_holes() {
        let mut page = table::decode([1; 16], 0, [&[0; 4096], &[0; 4096]]).expect("blank");
        page.entries.fill(6);
        let mut map = Map::new([1; 16], vec![40], 2, vec![page]);
        assert_eq!((map.extents(), map.get(1), map.get(2)), (2, Some(5), None));
        map.grow(vec![40], 5);
        assert_eq!(map.get(3), None);
        assert_eq!(map.begin(0).bytes, table::encode([1; 16], 0, 1, &[6, 6, 0, 0, 0]));
    }
}
