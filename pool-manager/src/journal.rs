//! The journal of a volume: one record that is replaced as a whole, on the same mirror as the volume's data. The block
//! target keeps there what hosts have reserved; what it says is no business of the pool's.
//!
//! ```text
//!  an extent of its own, taken when the first record is stored:
//!  | slot 0: header (64 bytes), record ............ | slot 1: header, record ..................................... |
//!    magic, volume, sequence, length, CRC32C of the record, CRC32C of the header
//! ```
//!
//! A record goes into the slot that does not hold the one in force, with force unit access, under the next sequence; the
//! slot with the highest sequence whose checksums fit is in force. So after a crash in mid-write the former one stands,
//! and nobody was told otherwise.
//!
//! A header stands in one physical block, which a disk writes as a whole: a record that was torn has a sound header. A
//! header that is neither sound nor blank is damage, and the record in force may have been there: nothing is served in
//! its place ([`Found::Damaged`]).

use crate::label::EXTENT_BYTES;
use bytes::Bytes;
use pollux_api::id::VolumeId;

/// Bytes of one slot.
pub const SLOT_BYTES: u64 = EXTENT_BYTES / 2;
/// Longest record.
pub const RECORD_MAX: usize = SLOT_BYTES as usize - HEADER;

const HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"PLXJRNL1";
/// Writes are padded to whole physical blocks.
const PAD: usize = 4096;

/// Where the record in force stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Highest sequence that was ever tried.
    sequence: u64,
    /// The slot that holds the record in force; the other one is written next.
    in_force: usize,
}

impl Place {
    /// Sequence and slot of the next record. Not in force before it is durable: until then another try takes the same slot.
    pub fn begin(&mut self) -> (u64, usize) {
        self.sequence += 1;
        (self.sequence, 1 - self.in_force)
    }

    /// What was written into this slot is durable.
    pub fn stands(&mut self, slot: usize) {
        self.in_force = slot;
    }
}

/// What both slots say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This record is in force; empty: none was ever.
    Record(Place, Bytes),
    /// A record may have been in force that cannot be read. Who knows better writes both slots anew, from here on.
    Damaged(Place),
}

/// One slot, as written.
pub fn encode(volume: VolumeId, sequence: u64, record: &[u8]) -> Bytes {
    debug_assert!(record.len() <= RECORD_MAX);
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(volume.as_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
    out.resize(HEADER - 4, 0);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(record);
    out.resize(out.len().next_multiple_of(PAD), 0);
    out.into()
}

enum Slot {
    Blank,
    Whole(u64, Bytes),
    /// A sound header over another record.
    Torn(u64),
    Damaged,
}

fn decode(bytes: &Bytes, volume: VolumeId) -> Slot {
    let Some(header) = bytes.get(..HEADER) else {
        return Slot::Damaged;
    };
    if header.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let sequence = u64::from_le_bytes(header[24..32].try_into().expect("eight bytes"));
    let sound = header[..8] == MAGIC
        && header[8..24] == *volume.as_bytes()
        && word(HEADER - 4) == crc32c::crc32c(&header[..HEADER - 4]);
    let end = HEADER + word(32) as usize;
    if !sound {
        return Slot::Damaged;
    }
    match bytes.get(HEADER..end) {
        Some(record) if crc32c::crc32c(record) == word(36) => Slot::Whole(sequence, bytes.slice(HEADER..end)),
        _ => Slot::Torn(sequence),
    }
}

/// Reads both slots.
pub fn read(slots: [&Bytes; 2], volume: VolumeId) -> Found {
    let [first, second] = slots.map(|slot| decode(slot, volume));
    let place = |sequence, in_force| Place { sequence, in_force };
    let sequence = |slot: &Slot| match slot {
        Slot::Whole(sequence, _) | Slot::Torn(sequence) => *sequence,
        Slot::Blank | Slot::Damaged => 0,
    };
    let damaged = Found::Damaged(place(sequence(&first).max(sequence(&second)), 1));
    match (first, second) {
        (Slot::Damaged, _) | (_, Slot::Damaged) => damaged,
        (Slot::Whole(a, _), Slot::Whole(b, record)) if b > a => Found::Record(place(b, 1), record),
        (Slot::Whole(a, record), Slot::Whole(..) | Slot::Blank) => Found::Record(place(a, 0), record),
        (Slot::Whole(a, record), Slot::Torn(b)) => Found::Record(place(a.max(b), 0), record),
        (Slot::Torn(a), Slot::Whole(b, record)) => Found::Record(place(a.max(b), 1), record),
        (Slot::Blank, Slot::Whole(b, record)) => Found::Record(place(b, 1), record),
        (Slot::Blank, Slot::Blank) => Found::Record(Place::default(), Bytes::new()),
        // The very first record did not come to its end, as often as it was tried: always into the same slot.
        (Slot::Blank, Slot::Torn(b)) => Found::Record(place(b, 0), Bytes::new()),
        // With one in force the other slot alone is written.
        (Slot::Torn(_), Slot::Blank | Slot::Torn(_)) => damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOLUME: VolumeId = VolumeId::from_bytes([3; 16]);

    fn slot() -> Vec<u8> {
        vec![0; SLOT_BYTES as usize]
    }

    fn read_both(slots: &[Vec<u8>; 2]) -> Found {
        let [first, second] = slots.each_ref().map(|slot| Bytes::copy_from_slice(slot));
        read([&first, &second], VOLUME)
    }

    fn record(fill: u8, length: usize) -> Vec<u8> {
        vec![fill; length]
    }

    proptest! {
        /// Any sequence of stores, each of which may be cut off after any number of physical blocks: what was stored
        /// last, or, if the last ones were cut off, what stood before or one of those. Never anything else.
        #[test]
        fn a_cut_leaves_the_old_record_or_the_new(
            stores in prop::collection::vec((1..20_000_usize, prop::option::of(0..5_usize)), 1..12),
        ) {
            let mut slots = [slot(), slot()];
            let mut place = Place::default();
            let mut permitted = vec![Bytes::new()];
            for (fill, (length, cut)) in stores.into_iter().enumerate() {
                let new = record(fill as u8 + 1, length);
                let (sequence, at) = place.begin();
                let bytes = encode(VOLUME, sequence, &new);
                let written = cut.map_or(bytes.len(), |blocks| (blocks * PAD).min(bytes.len()));
                slots[at][..written].copy_from_slice(&bytes[..written]);
                if written == bytes.len() {
                    permitted = vec![new.into()];
                    place.stands(at);
                } else {
                    // A crash: the next one reads before it writes.
                    permitted.push(new.into());
                    let Found::Record(found, _) = read_both(&slots) else { panic!("no damage") };
                    place = found;
                }
                let Found::Record(_, found) = read_both(&slots) else { panic!("no damage") };
                prop_assert!(permitted.contains(&found));
                if written < HEADER {
                    permitted = vec![found];
                }
            }
        }

        #[test]
        fn a_damaged_record_is_never_read_as_another(at in 0..300_usize, bit in 0..8_u8, both in any::<bool>()) {
            let mut slots = [slot(), slot()];
            let mut place = Place::default();
            let (sequence, first) = place.begin();
            let bytes = encode(VOLUME, sequence, &record(1, 236));
            slots[first][..bytes.len()].copy_from_slice(&bytes);
            place.stands(first);
            if both {
                let (sequence, second) = place.begin();
                let bytes = encode(VOLUME, sequence, &record(2, 236));
                slots[second][..bytes.len()].copy_from_slice(&bytes);
            }
            let in_force = if both { 1 - first } else { first };
            slots[in_force][at] ^= 1 << bit;
            match read_both(&slots) {
                Found::Damaged(mut place) => {
                    // Written anew, it is whole again; until both are, it is that record or damage.
                    for _ in 0..2 {
                        let (sequence, slot) = place.begin();
                        let bytes = encode(VOLUME, sequence, &record(3, 100));
                        slots[slot][..bytes.len()].copy_from_slice(&bytes);
                        place.stands(slot);
                        if let Found::Record(_, found) = read_both(&slots) {
                            prop_assert_eq!(found, record(3, 100));
                        }
                    }
                    prop_assert_eq!(read_both(&slots), Found::Record(place, record(3, 100).into()));
                }
                // As if it had been cut off.
                Found::Record(_, found) => {
                    prop_assert!(at >= HEADER);
                    prop_assert_eq!(found, if both { record(1, 236) } else { record(0, 0) });
                }
            }
        }
    }

    #[test]
    fn another_volumes_journal_is_damage() {
        let bytes = encode(VolumeId::from_bytes([4; 16]), 1, b"x");
        let mut slots = [slot(), slot()];
        slots[1][..bytes.len()].copy_from_slice(&bytes);
        assert!(matches!(read_both(&slots), Found::Damaged(_)));
    }

    #[test]
    fn the_layout_is_frozen() {
        let bytes = encode(VOLUME, 5, b"record");
        let hex: String = bytes[..72].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            hex.starts_with("504c584a524e4c31030303030303030303030303030303030500000000000000"),
            "{hex}"
        );
        assert_eq!((bytes.len(), bytes[32], &bytes[64..70]), (PAD, 6, &b"record"[..]));
    }
}
