//! The notch on the doorpost: how tall the log was when it was last measured.
//!
//! SQLite takes a damaged write-ahead log for one that was never finished: it opens with what stood before, and says
//! nothing. What is missing then cannot be seen in the database, only beside it. After each commit the place where
//! the log ends is noted in a small file:
//!
//! ```text
//! config.db-mark   magic 16 | array 16 | length 8 | hash 32 | session_epoch 8 | session 8 | aside 8 | blake3 32
//! ```
//!
//! Invariants:
//! * It is written after the commit that it tells of, never before: it never promises more than the database holds.
//! * It is one write into one sector, without a flush: it outlives the process at once, and a power cut as soon as
//!   the kernel or the next pause has written it. An old mark asks for less, never for something else.
//! * Before a log is cut, the mark is wiped, durably: what is cut off on purpose is not missed.
//!
//! Never: a reason to take a database that is damaged; a reason of its own to refuse one when it cannot be read.

use super::compaction::end;
use super::space::storage;
use super::{StoreError, beside};
use pollux_api::config::{Hex, LogHash};
use pollux_api::id::{ArrayId, Epoch};
use pollux_config_core::keeper::Loaded;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"pollux log mark1";
const LENGTH: usize = 16 + 16 + 8 + 32 + 8 + 8 + 8 + 32;

/// What was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Height {
    /// Length of the log.
    pub(super) length: u64,
    /// Its hash.
    pub(super) hash: LogHash,
    /// The last session.
    pub(super) session: (Epoch, u64),
    /// Number of entries that were set aside.
    pub(super) aside: u64,
}

impl Height {
    fn encode(&self, array: ArrayId) -> [u8; LENGTH] {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(MAGIC);
        bytes.extend(array.as_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.hash.0);
        for number in [self.session.0.get(), self.session.1, self.aside] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes.try_into().expect("the parts have the length of the whole")
    }

    /// Nothing, if it is not a whole mark of this array.
    fn decode(bytes: &[u8; LENGTH], array: ArrayId) -> Option<Self> {
        let (said, digest) = bytes.split_at(LENGTH - 32);
        let sound = blake3::hash(said).as_bytes() == digest && said.starts_with(MAGIC);
        if !sound || said[16..32] != *array.as_bytes() {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(said.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            length: number(32)?,
            hash: Hex(said[40..72].try_into().ok()?),
            session: (Epoch::new(number(72)?), number(80)?),
            aside: number(88)?,
        })
    }

    /// What of this is not in a database that holds this, with this session and so many entries set aside.
    pub(super) fn missing(&self, loaded: &Loaded, session: (Epoch, u64), aside: u64) -> Option<String> {
        let (facts, (length, _)) = (&loaded.compacted.facts, end(loaded));
        if length < self.length {
            return Some(format!(
                "its log ends at entry {length}, and {} were stored",
                self.length
            ));
        }
        // An old mark may be of an entry that was let go since.
        let hash = match self.length.checked_sub(facts.length) {
            None => self.hash,
            Some(0) => facts.hash,
            Some(at) => usize::try_from(at - 1)
                .ok()
                .and_then(|at| loaded.entries.get(at))
                .map_or(LogHash::default(), |entry| entry.hash),
        };
        if hash != self.hash {
            return Some(format!(
                "its entry {} is not the one that was stored",
                self.length
            ));
        }
        if session < self.session {
            return Some(format!(
                "it knows session {} of epoch {}, and {} of epoch {} was stored",
                session.1, session.0, self.session.1, self.session.0
            ));
        }
        (aside < self.aside).then(|| format!("{aside} entries are set aside in it, and {} were", self.aside))
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    file: File,
    array: ArrayId,
}

/// Where the mark of a database is.
pub(super) fn path(database: &Path) -> PathBuf {
    beside(database, "-mark")
}

impl Mark {
    /// Opens or makes the mark of a database; what it says, if it says something.
    pub(super) fn open(database: &Path, array: ArrayId) -> Result<(Self, Option<Height>), StoreError> {
        let path = path(database);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(|source| storage(&path, "open it", source))?;
        let mut bytes = [0; LENGTH];
        let height = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Height::decode(&bytes, array),
            // New, or of a length that no mark has.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(source) => return Err(storage(&path, "read it", source)),
        };
        Ok((Self { path, file, array }, height))
    }

    /// So much is durable.
    pub(super) fn note(&self, height: &Height) -> Result<(), StoreError> {
        self.write(&height.encode(self.array))
    }

    /// Less than was noted will be durable, on purpose.
    pub(super) fn wipe(&self) -> Result<(), StoreError> {
        self.write(&[0; LENGTH])?;
        self.sync()
    }

    /// Lets it outlive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|source| storage(&self.path, "flush it", source))
    }

    fn write(&self, bytes: &[u8; LENGTH]) -> Result<(), StoreError> {
        self.file
            .write_all_at(bytes, 0)
            .map_err(|source| storage(&self.path, "write to it", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_noted_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("config.db");
        let array = ArrayId::from_bytes([7; 16]);
        let height = Height {
            length: 3,
            hash: Hex([5; 32]),
            session: (Epoch::new(4), 2),
            aside: 1,
        };
        let (mark, nothing) = Mark::open(&database, array).unwrap();
        assert_eq!(nothing, None);
        mark.note(&height).unwrap();
        assert_eq!(Mark::open(&database, array).unwrap().1, Some(height));
        assert_eq!(
            Mark::open(&database, ArrayId::from_bytes([8; 16])).unwrap().1,
            None,
            "of another array"
        );
        let good = std::fs::read(path(&database)).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(path(&database), &bytes).unwrap();
            assert_eq!(Mark::open(&database, array).unwrap().1, None, "byte {at}");
            std::fs::write(path(&database), &good[..at]).unwrap();
            assert_eq!(Mark::open(&database, array).unwrap().1, None, "cut at {at}");
        }
        std::fs::write(path(&database), &good).unwrap();
        mark.wipe().unwrap();
        assert_eq!(Mark::open(&database, array).unwrap().1, None);
    }
}
