//! A numbered, sealed block: a letter that says who wrote it, where it belongs and which edition it
//! is.
//!
//! Every logical block that a stream writes carries its run, volume, writer, address and sequence
//! number under one checksum, and a body that depends on all of them. So a read can be judged on
//! its own: a block of another place, another volume, another run, of two editions mixed, or of an
//! edition older than one that was acknowledged, each shows for what it is.
//!
//! ```text
//!   0 magic(8)  8 run(16)  24 volume(8)  32 lba(8)  40 seq(8)  48 writer(4)  52 zero(8)  60 crc(4)  64 body
//! ```
//!
//! Little-endian; the checksum (CRC32C) covers everything but itself.

use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"SEALEDBK";
const HEADER: usize = 64;

/// What every block of one stream has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The run; no two have the same.
    pub run: u128,
    /// The volume, from its identity.
    pub volume: u64,
    /// The stream.
    pub writer: u32,
}

impl Origin {
    /// Writes the block of `lba`, edition `seq`, into `block` (512 bytes or more).
    pub fn seal(&self, lba: u64, seq: u64, block: &mut [u8]) {
        let (header, body) = block.split_at_mut(HEADER);
        header.fill(0);
        header[0..8].copy_from_slice(&MAGIC);
        header[8..24].copy_from_slice(&self.run.to_le_bytes());
        header[24..32].copy_from_slice(&self.volume.to_le_bytes());
        header[32..40].copy_from_slice(&lba.to_le_bytes());
        header[40..48].copy_from_slice(&seq.to_le_bytes());
        header[48..52].copy_from_slice(&self.writer.to_le_bytes());
        fill(lba ^ seq.rotate_left(32) ^ self.volume ^ self.run as u64, body);
        let crc = checksum(block);
        block[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    /// Judges what a read of `lba` brought, given the newest acknowledged edition when the read
    /// began (`floor`) and the newest one issued when it ended (`ceiling`).
    pub fn judge(&self, lba: u64, block: &[u8], floor: u64, ceiling: u64) -> Result<u64, Wrong> {
        if block.iter().all(|byte| *byte == 0) {
            return if floor == 0 {
                Ok(0)
            } else {
                Err(Wrong::Lost { floor })
            };
        }
        if block[0..8] != MAGIC {
            return Err(Wrong::Alien {
                detail: "not one of our blocks".into(),
            });
        }
        if u32_at(block, 60) != checksum(block) {
            return Err(Wrong::Torn);
        }
        let run = u128::from_le_bytes(block[8..24].try_into().expect("16 bytes"));
        let (volume, at, seq, writer) = (
            u64_at(block, 24),
            u64_at(block, 32),
            u64_at(block, 40),
            u32_at(block, 48),
        );
        if (run, volume, at, writer) != (self.run, self.volume, lba, self.writer) {
            return Err(Wrong::Alien {
                detail: format!(
                    "volume {volume:016x} writer {writer} lba {at} seq {seq}{}",
                    if run == self.run { "" } else { " of another run" }
                ),
            });
        }
        if seq < floor {
            return Err(Wrong::Stale { seq, floor });
        }
        if seq > ceiling {
            return Err(Wrong::Future { seq, ceiling });
        }
        Ok(seq)
    }
}

/// What can be wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// Blank, although a write was acknowledged.
    #[error("blank, although edition {floor} was acknowledged")]
    Lost {
        /// The acknowledged edition.
        floor: u64,
    },
    /// Older than what was acknowledged before the read began.
    #[error("edition {seq}, although {floor} was acknowledged before the read began")]
    Stale {
        /// What was read.
        seq: u64,
        /// What had been acknowledged.
        floor: u64,
    },
    /// An edition that was never issued.
    #[error("edition {seq}, although no more than {ceiling} was ever issued")]
    Future {
        /// What was read.
        seq: u64,
        /// The newest issued.
        ceiling: u64,
    },
    /// Checksum wrong: two editions mixed, or damaged.
    #[error("torn: its checksum does not hold")]
    Torn,
    /// A block that belongs elsewhere, or to nobody.
    #[error("alien: {detail}")]
    Alien {
        /// Whose it says it is.
        detail: String,
    },
}

fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..60]), &block[64..])
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("4 bytes"))
}

/// A body that differs for every edition (xorshift64*).
fn fill(seed: u64, body: &mut [u8]) {
    let mut random = Random::new(seed);
    for word in body.chunks_mut(8) {
        let bytes = random.word().to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// A small reproducible source of numbers (xorshift64*), so that a seed says everything.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Random((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin {
        run: 7,
        volume: 8,
        writer: 9,
    };

    fn sealed(lba: u64, seq: u64) -> Vec<u8> {
        let mut block = vec![0; 512];
        ORIGIN.seal(lba, seq, &mut block);
        block
    }

    #[test]
    fn an_edition_between_floor_and_ceiling_is_right() {
        assert_eq!(ORIGIN.judge(5, &sealed(5, 3), 3, 4), Ok(3));
        assert_eq!(ORIGIN.judge(5, &sealed(5, 4), 3, 4), Ok(4));
        assert_eq!(ORIGIN.judge(5, &[0; 512], 0, 4), Ok(0));
    }

    #[test]
    fn each_kind_of_wrong_shows_for_what_it_is() {
        assert_eq!(
            ORIGIN.judge(5, &sealed(5, 2), 3, 4),
            Err(Wrong::Stale { seq: 2, floor: 3 })
        );
        assert_eq!(
            ORIGIN.judge(5, &sealed(5, 5), 3, 4),
            Err(Wrong::Future { seq: 5, ceiling: 4 })
        );
        assert_eq!(ORIGIN.judge(5, &[0; 512], 1, 4), Err(Wrong::Lost { floor: 1 }));
        assert!(matches!(
            ORIGIN.judge(6, &sealed(5, 3), 3, 4),
            Err(Wrong::Alien { .. })
        ));
        assert!(matches!(
            ORIGIN.judge(6, &[1; 512], 0, 4),
            Err(Wrong::Alien { .. })
        ));
        let other = Origin { run: 6, ..ORIGIN };
        assert!(matches!(
            other.judge(5, &sealed(5, 3), 3, 4),
            Err(Wrong::Alien { .. })
        ));
    }

    #[test]
    fn every_flipped_byte_and_every_mixture_is_seen() {
        let good = sealed(5, 3);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(ORIGIN.judge(5, &bad, 0, u64::MAX).is_err(), "byte {at}");
        }
        let newer = sealed(5, 4);
        let mut mixed = good[..256].to_vec();
        mixed.extend(&newer[256..]);
        assert_eq!(ORIGIN.judge(5, &mixed, 3, 4), Err(Wrong::Torn));
    }

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let (mut a, mut b) = (Random::new(1), Random::new(1));
        for _ in 0..100 {
            let n = a.below(10);
            assert_eq!(n, b.below(10));
            assert!(n < 10);
        }
    }
}
