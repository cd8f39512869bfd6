//! Fingerprints: 128 bits in the place of a whole state.
//!
//! Two lanes, each multiplied and rotated by its own constants, so that a step of a lane is a bijection: two states that
//! differ stay different but by chance. With 10^8 states that chance is below 10^-21.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A set of fingerprints: they are random enough to be their own hash.
pub(crate) type Set = std::collections::HashSet<u128, BuildHasherDefault<Low>>;

/// Takes the low half of a fingerprint.
#[derive(Default)]
pub(crate) struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

struct Lanes(u64, u64);

impl Lanes {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Lanes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            self.word(u64::from_le_bytes(word) ^ ((eight.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.word(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }
}

/// Makes every bit depend on every bit (the finalizer of MurmurHash3, Appleby).
fn avalanche(mut word: u64) -> u64 {
    word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// The fingerprint of a value.
pub(crate) fn of(value: &impl Hash) -> u128 {
    let mut lanes = Lanes(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    value.hash(&mut lanes);
    let (one, two) = (avalanche(lanes.0), avalanche(lanes.1 ^ lanes.0.rotate_left(32)));
    (u128::from(one) << 64) | u128::from(two)
}
