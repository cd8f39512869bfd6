//! The volatile write cache of one disk, kept the other way round: the image holds what was written last, the cache
//! holds what each dirty page would go back to.
//!
//! A disk that loses power keeps an arbitrary part of what was in its cache. Here: each dirty page is put back, or not,
//! by a coin. Reads need no overlay, a flush forgets everything, and a killed process loses nothing that was answered
//! (its cache counts as destaged, which a disk may do at any time).

use super::random::Random;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Unit of loss: a physical block, written as a whole or not at all.
pub(super) const PAGE: usize = 4096;
/// Dirty pages before the disk destages by itself, 64 MiB.
const MOST: usize = 16 * 1024;

/// Durable contents of the pages that have been overwritten since.
#[derive(Debug, Default)]
pub(super) struct Cache {
    durable: HashMap<u64, Box<[u8; PAGE]>>,
}

impl Cache {
    /// Before `length` bytes at `at` (offset in the image) are overwritten without force unit access.
    pub(super) fn before_write(&mut self, image: &File, at: u64, length: usize) -> io::Result<()> {
        if self.durable.len() >= MOST {
            self.durable.clear();
        }
        for page in pages(at, length) {
            if let std::collections::hash_map::Entry::Vacant(entry) = self.durable.entry(page) {
                let mut old = Box::new([0; PAGE]);
                image.read_exact_at(&mut old[..], page * PAGE as u64)?;
                entry.insert(old);
            }
        }
        Ok(())
    }

    /// After `data` was written at `at` with force unit access: it is durable, whatever else its pages hold.
    pub(super) fn made_durable(&mut self, at: u64, data: &[u8]) {
        if self.durable.is_empty() {
            return;
        }
        for page in pages(at, data.len()) {
            if let Some(durable) = self.durable.get_mut(&page) {
                let start = page * PAGE as u64;
                let (from, to) = (at.max(start), (at + data.len() as u64).min(start + PAGE as u64));
                durable[(from - start) as usize..(to - start) as usize]
                    .copy_from_slice(&data[(from - at) as usize..(to - at) as usize]);
            }
        }
    }

    /// Everything that was written is durable.
    pub(super) fn flush(&mut self) {
        self.durable.clear();
    }

    /// The power goes: each dirty page is lost, or not. Says how many were lost.
    pub(super) fn power_cut(&mut self, image: &File, random: &mut Random) -> io::Result<usize> {
        let mut lost: Vec<_> = self.durable.drain().collect();
        // A hash map's order is not the seed's.
        lost.sort_unstable_by_key(|(page, _)| *page);
        lost.retain(|_| random.coin());
        for (page, durable) in &lost {
            image.write_all_at(&durable[..], page * PAGE as u64)?;
        }
        Ok(lost.len())
    }
}

fn pages(at: u64, length: usize) -> std::ops::Range<u64> {
    at / PAGE as u64..(at + length as u64).div_ceil(PAGE as u64)
}
