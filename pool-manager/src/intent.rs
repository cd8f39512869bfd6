//! Write intents: which regions of a mirror may differ between its legs.
//!
//! A bit is durable on every leg before the first write into its region, and is cleared lazily once the region has
//! been idle. So after a crash the legs differ in marked regions only, and those are made equal again before anything
//! in them is read.
//!
//! A write that the disks may still hold in their caches keeps its bit until they were flushed: what a loss of power
//! takes from one leg it may leave on the other.
//!
//! Two copies of 4 KiB, written in turn: `magic, pool, sequence, region size, CRC32C, one bit per region`. A reader
//! takes the union of every copy it can read: a bit too many costs a comparison, a bit too few would be two answers
//! to one question.

use bytes::Bytes;
use pollux_api::id::PoolId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Size of one copy.
pub const INTENT_BYTES: u64 = 4096;
/// A region is marked for so long after its last write: the price of a write into a fresh one is a write to every leg.
pub const IDLE: Duration = Duration::from_secs(1);

const HEADER: usize = 64;
const REGIONS: u64 = (INTENT_BYTES - HEADER as u64) * 8;
const MAGIC: [u8; 8] = *b"PLXINTN1";
const SMALLEST_REGION: u64 = 1024 * 1024;

/// Size of a region such that the bits of all of them fit into one copy.
pub fn region_bytes(data_bytes: u64) -> u64 {
    data_bytes
        .div_ceil(REGIONS)
        .next_power_of_two()
        .max(SMALLEST_REGION)
}

/// Regions that a range of the data touches.
pub fn regions(region_bytes: u64, at: u64, length: u64) -> std::ops::Range<u32> {
    let first = at / region_bytes;
    let end = (at + length).div_ceil(region_bytes).max(first);
    first as u32..end as u32
}

/// One copy, as written.
pub fn encode(pool: PoolId, sequence: u64, region_bytes: u64, marked: &BTreeSet<u32>) -> Bytes {
    let mut out = vec![0; INTENT_BYTES as usize];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..24].copy_from_slice(pool.as_bytes());
    out[24..32].copy_from_slice(&sequence.to_le_bytes());
    out[32..40].copy_from_slice(&region_bytes.to_le_bytes());
    for region in marked {
        out[HEADER + *region as usize / 8] |= 1 << (region % 8);
    }
    let crc = crc32c::crc32c(&out);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out.into()
}

/// What one copy says: its sequence and the regions that it marks. `None`: it says nothing about this pool.
pub fn decode(bytes: &[u8], pool: PoolId, region_bytes: u64) -> Option<(u64, BTreeSet<u32>)> {
    let mut plain: Vec<u8> = bytes.get(..INTENT_BYTES as usize)?.to_vec();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    plain[60..64].fill(0);
    let crc = u32::from_le_bytes(bytes[60..64].try_into().expect("four bytes"));
    let fits = bytes[0..8] == MAGIC
        && bytes[8..24] == *pool.as_bytes()
        && word(32) == region_bytes
        && crc == crc32c::crc32c(&plain);
    fits.then(|| {
        let marked = (0..REGIONS as u32)
            .filter(|region| bytes[HEADER + *region as usize / 8] & (1 << (region % 8)) != 0)
            .collect();
        (word(24), marked)
    })
}

#[derive(Clone, Copy, Debug)]
struct Region {
    /// Writes under way.
    writers: u32,
    /// When the last one ended.
    idle_since: Instant,
    /// Its bit is durable.
    durable: bool,
    /// The last write into it that was left in the disks' caches; zero: none.
    cached: u64,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// On the medium of every leg.
    Durable,
    /// In the cache of every leg.
    Cached,
    /// Perhaps on some legs and not on others.
    InPart,
}

/// The bits as they are, as they should be, and who depends on them. Decides; writing is somebody else's.
#[derive(Debug, Default)]
pub struct Intents {
    regions: BTreeMap<u32, Region>,
    /// Regions in which legs may differ since before the import.
    unsynced: BTreeSet<u32>,
    sequence: u64,
    /// Number of the last write that was left in the disks' caches.
    cached: u64,
    /// Up to which of them the caches were flushed.
    flushed: u64,
}

impl Intents {
    /// After an import: `unsynced` regions are marked, and stay so until they have been made equal.
    pub fn new(sequence: u64, unsynced: BTreeSet<u32>) -> Self {
        Intents {
            regions: BTreeMap::new(),
            unsynced,
            sequence,
            // What the owner before may have left there.
            cached: 1,
            flushed: 0,
        }
    }

    /// A write begins. True: every bit that it needs is durable.
    pub fn begin(&mut self, regions: impl Iterator<Item = u32>, now: Instant) -> bool {
        let mut durable = true;
        for region in regions {
            let unsynced = self.unsynced.contains(&region);
            let entry = self.regions.entry(region).or_insert(Region {
                writers: 0,
                idle_since: now,
                durable: unsynced,
                cached: 0,
            });
            entry.writers += 1;
            durable &= entry.durable;
        }
        durable
    }

    /// All of these bits are durable.
    pub fn is_durable(&self, regions: impl IntoIterator<Item = u32>) -> bool {
        regions
            .into_iter()
            .all(|region| self.regions.get(&region).is_some_and(|entry| entry.durable))
    }

    /// A write has ended, well or not.
    pub fn end(&mut self, regions: impl Iterator<Item = u32>, how: Ended, now: Instant) {
        self.cached += u64::from(how == Ended::Cached);
        for region in regions {
            if let Some(entry) = self.regions.get_mut(&region) {
                entry.writers = entry.writers.saturating_sub(1);
                entry.idle_since = now;
                match how {
                    Ended::Durable => {}
                    Ended::Cached => entry.cached = self.cached,
                    Ended::InPart => drop(self.unsynced.insert(region)),
                }
            }
        }
    }

    /// The last write that may be in a cache and nowhere else.
    pub fn unflushed(&self) -> Option<u64> {
        (self.cached > self.flushed).then_some(self.cached)
    }

    /// Everything up to this write is on the medium of every leg.
    pub fn is_flushed(&self, write: u64) -> bool {
        self.flushed >= write
    }

    /// Some disk may have lost its cache: what was not flushed may differ between legs.
    pub fn doubt(&mut self) {
        let in_cache = self
            .regions
            .iter()
            .filter(|(_, entry)| entry.cached > self.flushed);
        self.unsynced.extend(in_cache.map(|(region, _)| *region));
    }

    /// The caches were flushed after `write` had ended.
    pub fn flushed(&mut self, write: u64) {
        self.flushed = self.flushed.max(write);
    }

    /// The next copy to write: its sequence and its bits, without those that have been idle for long enough and are in
    /// no cache.
    pub fn next_copy(&mut self, now: Instant) -> (u64, BTreeSet<u32>) {
        let flushed = self.flushed;
        self.regions.retain(|_, entry| {
            entry.writers > 0 || now.duration_since(entry.idle_since) < IDLE || entry.cached > flushed
        });
        self.sequence += 1;
        (
            self.sequence,
            self.regions.keys().chain(&self.unsynced).copied().collect(),
        )
    }

    /// That copy is durable on every leg.
    pub fn written(&mut self, marked: &BTreeSet<u32>) {
        for (region, entry) in &mut self.regions {
            entry.durable |= marked.contains(region);
        }
    }

    /// There is a bit that could be cleared, perhaps after a flush.
    pub fn has_idle(&self, now: Instant) -> bool {
        self.regions
            .values()
            .any(|entry| entry.writers == 0 && now.duration_since(entry.idle_since) >= IDLE)
    }

    /// The region's legs are equal now. Its bit is cleared when it has been idle.
    pub fn synced(&mut self, region: u32, now: Instant) {
        if self.unsynced.remove(&region) {
            // Alike, but perhaps only in the caches.
            self.cached += 1;
            let entry = self.regions.entry(region).or_insert(Region {
                writers: 0,
                idle_since: now,
                durable: true,
                cached: 0,
            });
            entry.cached = self.cached;
        }
    }

    /// Legs may differ there.
    pub fn is_unsynced(&self, region: u32) -> bool {
        self.unsynced.contains(&region)
    }

    /// Some region whose legs may differ.
    pub fn first_unsynced(&self) -> Option<u32> {
        self.unsynced.first().copied()
    }

    /// How many there are.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POOL: PoolId = PoolId::from_bytes([3; 16]);

    proptest! {
        #[test]
        fn round_trip(marked in proptest::collection::btree_set(0..REGIONS as u32, 0..50), sequence in any::<u64>()) {
            let bytes = encode(POOL, sequence, 1 << 20, &marked);
            prop_assert_eq!(decode(&bytes, POOL, 1 << 20), Some((sequence, marked)));
            prop_assert_eq!(decode(&bytes, POOL, 1 << 21), None);
            prop_assert_eq!(decode(&bytes, PoolId::from_bytes([4; 16]), 1 << 20), None);
        }

        #[test]
        fn damage_is_noticed(at in 0..INTENT_BYTES as usize, bit in 0..8u8) {
            let mut bytes = encode(POOL, 5, 1 << 20, &BTreeSet::from([1, 2, 3])).to_vec();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes, POOL, 1 << 20), None);
        }

        #[test]
        fn every_byte_of_every_disk_has_a_region(data in 1..(64_u64 << 40)) {
            let size = region_bytes(data);
            prop_assert!(data.div_ceil(size) <= REGIONS);
            prop_assert_eq!(regions(size, data - 1, 1).end, data.div_ceil(size) as u32);
        }
    }

    #[test]
    fn a_bit_outlives_its_write_and_no_longer() {
        let start = Instant::now();
        let mut intents = Intents::new(0, BTreeSet::from([9]));
        assert!(!intents.begin([1, 2].into_iter(), start), "not durable yet");
        let (sequence, marked) = intents.next_copy(start);
        assert_eq!((sequence, &marked), (1, &BTreeSet::from([1, 2, 9])));
        assert!(!intents.is_durable([1]), "not before it is written");
        intents.written(&marked);
        assert!(intents.is_durable([1, 2]));
        assert!(
            intents.begin([1].into_iter(), start),
            "a second write needs nothing"
        );
        intents.end([1, 2].into_iter(), Ended::Durable, start);
        assert_eq!(
            intents.next_copy(start + IDLE).1,
            BTreeSet::from([1, 9]),
            "region 1 is still being written"
        );
        intents.end([1].into_iter(), Ended::Durable, start + IDLE);
        assert!(!intents.has_idle(start + IDLE));
        assert!(intents.has_idle(start + IDLE * 2));
        assert_eq!(
            intents.next_copy(start + IDLE * 2).1,
            BTreeSet::from([9]),
            "unsynced ones stay"
        );
        assert!(
            !intents.begin([1].into_iter(), start),
            "a cleared bit is set again before the next write"
        );
        intents.synced(9, start);
        assert_eq!(intents.first_unsynced(), None);
        assert_eq!(intents.next_copy(start + IDLE).1, BTreeSet::from([1, 9]));
        intents.flushed(intents.unflushed().expect("made equal"));
        assert_eq!(intents.next_copy(start + IDLE).1, BTreeSet::from([1]));
    }

    #[test]
    fn a_bit_stays_until_what_is_in_caches_was_flushed() {
        let start = Instant::now();
        let mut intents = Intents::new(0, BTreeSet::new());
        let left = intents
            .unflushed()
            .expect("the owner before may have left something");
        intents.flushed(left);
        assert_eq!(intents.unflushed(), None);
        intents.begin([1, 2].into_iter(), start);
        intents.end([2].into_iter(), Ended::Durable, start);
        intents.end([1].into_iter(), Ended::Cached, start);
        let first = intents.unflushed().expect("in a cache");
        intents.begin([3].into_iter(), start);
        intents.end([3].into_iter(), Ended::Cached, start);
        let later = start + IDLE * 2;
        assert_eq!(intents.next_copy(later).1, BTreeSet::from([1, 3]));
        intents.flushed(first);
        assert!(intents.is_flushed(first));
        assert_eq!(
            intents.next_copy(later).1,
            BTreeSet::from([3]),
            "written after that flush had begun"
        );
        intents.flushed(intents.unflushed().expect("the second"));
        assert_eq!(intents.next_copy(later).1, BTreeSet::new());
    }

    #[test]
    fn a_cache_that_may_be_lost_leaves_what_was_in_it_in_doubt() {
        let start = Instant::now();
        let mut intents = Intents::new(0, BTreeSet::new());
        intents.begin([1, 2].into_iter(), start);
        intents.end([1].into_iter(), Ended::Cached, start);
        intents.end([2].into_iter(), Ended::Durable, start);
        intents.doubt();
        assert!(intents.is_unsynced(1) && !intents.is_unsynced(2));
        intents.synced(1, start);
        intents.flushed(intents.unflushed().expect("made equal, and not flushed"));
        intents.doubt();
        assert_eq!(intents.first_unsynced(), None);
    }

    #[test]
    fn what_was_written_in_part_is_made_equal() {
        let start = Instant::now();
        let mut intents = Intents::new(0, BTreeSet::new());
        intents.begin([4].into_iter(), start);
        intents.end([4].into_iter(), Ended::InPart, start);
        assert!(intents.is_unsynced(4));
        assert_eq!(intents.next_copy(start + IDLE * 2).1, BTreeSet::from([4]));
        intents.synced(4, start);
        assert_eq!(
            intents.next_copy(start + IDLE * 2).1,
            BTreeSet::from([4]),
            "alike, but not flushed"
        );
    }
}
