//! Tables: where each extent of a volume, or of a snapshot, stands in the pool.
//!
//! A page is 4 KiB and says it of [`ENTRIES`] extents; it has two places and is replaced by writing the *other* one with
//! the next sequence number, as a label is. What a write leaves behind that was cut off is told from damage, sector by
//! sector: each of the eight sectors of 512 bytes carries the sequence number and a checksum of its own.
//!
//! ```text
//!  sector:   124 entries of u32 (0: none, else extent + 1) | sequence u64 | zero u32 | CRC32C u32
//! ```
//!
//! | both places | means |
//! |---|---|
//! | two whole pages | the one with the higher number counts |
//! | a whole one, and one of whole sectors with different numbers | the second was cut off, and nobody was told that it stands |
//! | any sector with a wrong checksum | damage: it may have been the newer one |
//!
//! The checksum covers the owner, the number of the page and that of the sector, so that a page which was written
//! elsewhere is damage here. A place that was only ever zeroed is a whole page with the number 0.

use crate::label::EXTENT_BYTES;
use bytes::Bytes;
use std::fmt;
use thiserror::Error as ThisError;

/// Size of a page.
pub const PAGE: u64 = 4096;
const SECTOR: usize = 512;
const SECTORS: usize = PAGE as usize / SECTOR;
const PER_SECTOR: usize = 124;
const SEQUENCE_AT: usize = PER_SECTOR * 4;
const CRC_AT: usize = SECTOR - 4;
/// Entries of a page.
pub const ENTRIES: u64 = (PER_SECTOR * SECTORS) as u64;
/// Pages of one extent, each with two places.
const PAGES: u64 = EXTENT_BYTES / (2 * PAGE);

/// Whose table it is: the identity of a volume or of a snapshot.
pub type Owner = [u8; 16];

/// Pages for so many extents of a volume.
#[must_use]
pub fn pages(extents: u64) -> u64 {
    extents.div_ceil(ENTRIES)
}

/// Extents that the table of so many extents takes.
#[must_use]
pub fn size(extents: u64) -> u64 {
    pages(extents).div_ceil(PAGES)
}

/// Where the two places of a page are: which extent of the table, and how far in it.
#[must_use]
pub fn places(page: u64) -> (usize, [u64; 2]) {
    let at = page % PAGES * 2 * PAGE;
    ((page / PAGES) as usize, [at, at + PAGE])
}

/// A page that is neither whole nor cut off.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("page {page} of the table: {what}")]
pub struct Damaged {
    /// Which.
    pub page: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// What a page says.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    /// The highest number that was ever seen in either place.
    pub sequence: u64,
    /// The place that counts.
    pub place: usize,
    /// Its entries.
    pub entries: Vec<u32>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.entries.iter().filter(|entry| **entry != 0).count();
        write!(
            f,
            "page {} in place {}, {used} entries",
            self.sequence, self.place
        )
    }
}

fn checksum(owner: Owner, page: u64, sector: usize, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&owner);
    let crc = crc32c::crc32c_append(crc, &page.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &[sector as u8]);
    crc32c::crc32c_append(crc, bytes)
}

/// A page, as written. `entries` beyond its end are none.
#[must_use]
pub fn encode(owner: Owner, page: u64, sequence: u64, entries: &[u32]) -> Bytes {
    let mut out = vec![0; PAGE as usize];
    for (number, sector) in out.chunks_exact_mut(SECTOR).enumerate() {
        let own = entries.iter().skip(number * PER_SECTOR).take(PER_SECTOR);
        for (place, entry) in sector.chunks_exact_mut(4).zip(own) {
            place.copy_from_slice(&entry.to_le_bytes());
        }
        sector[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_le_bytes());
        let crc = checksum(owner, page, number, &sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
    out.into()
}

/// One place.
enum Slot {
    Whole(u64, Vec<u32>),
    /// Two writes have met in it; the higher number.
    Cut(u64),
    Damaged,
}

fn slot(owner: Owner, page: u64, bytes: &[u8]) -> Slot {
    let (mut entries, mut numbers) = (Vec::with_capacity(ENTRIES as usize), Vec::new());
    if bytes.len() as u64 != PAGE {
        return Slot::Damaged;
    }
    for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
        let word =
            |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        let blank = sector.iter().all(|byte| *byte == 0);
        if !blank && word(CRC_AT) != checksum(owner, page, number, &sector[..CRC_AT]) {
            return Slot::Damaged;
        }
        numbers.push(u64::from(word(SEQUENCE_AT + 4)) << 32 | u64::from(word(SEQUENCE_AT)));
        entries.extend((0..PER_SECTOR).map(|entry| word(4 * entry)));
    }
    let highest = numbers.iter().copied().max().unwrap_or_default();
    match numbers.iter().all(|number| *number == highest) {
        true => Slot::Whole(highest, entries),
        false => Slot::Cut(highest),
    }
}

/// What the two places of a page say together.
///
/// # Errors
/// [`Damaged`]: neither can be taken for the newest.
pub fn decode(owner: Owner, page: u64, places: [&[u8]; 2]) -> Result<Page, Damaged> {
    let damaged = |what| Err(Damaged { page, what });
    let counts = |sequence, place, entries| {
        Ok(Page {
            sequence,
            place,
            entries,
        })
    };
    match places.map(|bytes| slot(owner, page, bytes)) {
        [Slot::Damaged, _] | [_, Slot::Damaged] => damaged("a sector has a wrong checksum"),
        [Slot::Whole(a, _), Slot::Whole(b, entries)] if b > a => counts(b, 1, entries),
        [Slot::Whole(a, _), Slot::Whole(b, _)] if a == b && a > 0 => damaged("both places have one number"),
        [Slot::Whole(a, entries), Slot::Whole(..)] => counts(a, 0, entries),
        [Slot::Whole(a, entries), Slot::Cut(b)] => counts(a.max(b), 0, entries),
        [Slot::Cut(a), Slot::Whole(b, entries)] => counts(a.max(b), 1, entries),
        [Slot::Cut(_), Slot::Cut(_)] => damaged("both places were cut off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: Owner = [7; 16];

    fn blank() -> Vec<u8> {
        vec![0; PAGE as usize]
    }

    proptest! {
        /// Any number of writes, each of which may be cut off after any sector: the last whole page counts.
        #[test]
        fn a_cut_leaves_the_page_before(writes in prop::collection::vec((any::<u32>(), 0..=SECTORS), 1..20)) {
            let mut slots = [blank(), blank()];
            let mut stands = vec![0; ENTRIES as usize];
            for (fill, sectors) in writes {
                let found = decode(OWNER, 3, [&slots[0], &slots[1]]).expect("no damage");
                prop_assert_eq!(&found.entries, &stands);
                let entries = vec![fill; ENTRIES as usize];
                let bytes = encode(OWNER, 3, found.sequence + 1, &entries);
                slots[1 - found.place][..sectors * SECTOR].copy_from_slice(&bytes[..sectors * SECTOR]);
                if sectors == SECTORS {
                    stands = entries;
                }
            }
            prop_assert_eq!(decode(OWNER, 3, [&slots[0], &slots[1]]).expect("no damage").entries, stands);
        }

        #[test]
        fn a_wrong_bit_is_damage(at in 0..PAGE as usize, bit in 0..8_u8, newer in any::<bool>()) {
            let mut slots = [
                encode(OWNER, 0, 1, &[1, 2, 3]).to_vec(),
                encode(OWNER, 0, 2, &[4, 5, 6]).to_vec(),
            ];
            slots[usize::from(newer)][at] ^= 1 << bit;
            prop_assert!(decode(OWNER, 0, [&slots[0], &slots[1]]).is_err());
        }

        #[test]
        fn random_bytes_never_panic(a in prop::collection::vec(any::<u8>(), 0..5000), b in prop::collection::vec(any::<u8>(), 4096)) {
            let _ = decode(OWNER, 0, [&a, &b]);
        }
    }

    #[test]
    fn a_page_of_elsewhere_is_damage() {
        let page = encode(OWNER, 5, 1, &[1]);
        assert!(decode(OWNER, 5, [&page, &blank()]).is_ok());
        assert!(decode(OWNER, 6, [&page, &blank()]).is_err());
        assert!(decode([8; 16], 5, [&page, &blank()]).is_err());
    }

    #[test]
    fn every_page_has_places_of_its_own() {
        assert_eq!(
            (pages(0), pages(1), pages(ENTRIES), pages(ENTRIES + 1)),
            (0, 1, 1, 2)
        );
        assert_eq!(
            (size(1), size(ENTRIES * PAGES), size(ENTRIES * PAGES + 1)),
            (1, 1, 2)
        );
        assert_eq!(places(0), (0, [0, PAGE]));
        assert_eq!(
            places(PAGES - 1),
            (0, [EXTENT_BYTES - 2 * PAGE, EXTENT_BYTES - PAGE])
        );
        assert_eq!(places(PAGES), (1, [0, PAGE]));
    }

    #[test]
    fn the_layout_is_frozen() {
        let page = encode(OWNER, 1, 0x0102, &[0x0a0b_0c0d]);
        assert_eq!(page[..5], [0x0d, 0x0c, 0x0b, 0x0a, 0]);
        assert_eq!(page[496..508], [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            page[508..512],
            [0x13, 0x6c, 0x76, 0x58],
            "{:02x?}",
            &page[508..512]
        );
    }
}
