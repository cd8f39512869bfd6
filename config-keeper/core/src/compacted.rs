//! The beginning of a log whose first entries are gone: what they amount to.
//!
//! ```text
//! rows at `length`, hash(length)   <-  entry length+1  <-  entry length+2  <-  ...
//! ```
//!
//! The chain of hashes covers no rows; a digest does, which does not depend on their order and goes on row by row, so that
//! dropping one entry costs what that entry changes and not what the whole configuration is.
//!
//! Invariants:
//! * The rows are what the entries up to `length` amount to, and the digest is theirs.
//! * Only what is acknowledged is dropped: it is never cut off any more.

use alloc::format;
use alloc::string::String;
use pollux_api::config::{
    self, CompactedPart, FORMAT, FORMAT_FIRST, Hex, Key, LogEntry, LogHash, Resource, RowOp, Tables,
};

/// Facts and rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Compacted {
    /// Length, hash, digest.
    pub facts: config::Compacted,
    /// The rows.
    pub tables: Tables,
}

impl Compacted {
    /// Takes in the entry that comes next.
    pub fn take(&mut self, entry: &LogEntry) {
        for row in &entry.rows {
            let key = match row {
                RowOp::Put(row) => row.key(),
                RowOp::Delete(key) => *key,
            };
            if let Some(before) = self.tables.get(&key) {
                self.count(&before, false);
            }
            self.tables.apply(row);
            if let RowOp::Put(row) = row {
                self.count(row, true);
            }
        }
        self.facts.length = entry.index;
        self.facts.hash = entry.hash;
        self.facts.epoch = entry.epoch;
        self.facts.format = self.facts.format.max(entry.format);
    }

    fn count(&mut self, row: &Resource, there: bool) {
        self.facts.digest = with(self.facts.digest, row, there);
        self.facts.rows = if there {
            self.facts.rows + 1
        } else {
            self.facts.rows - 1
        };
    }

    /// What in it is not as it should be.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        let facts = &self.facts;
        if !(FORMAT_FIRST..=FORMAT).contains(&facts.format) {
            return Some(format!(
                "the first {} entries have version {} of the encoding, this program knows {FORMAT_FIRST} to {FORMAT}: \
                 upgrade it",
                facts.length, facts.format
            ));
        }
        let (mut rows, mut digest) = (0, LogHash::default());
        for row in self.tables.rows() {
            rows += 1;
            digest = with(digest, &row, true);
        }
        if (rows, digest) != (facts.rows, facts.digest) {
            return Some(format!(
                "the rows to which the first {} entries amount are not what was written: {rows} with digest {digest}, \
                 {} with {} should be",
                facts.length, facts.rows, facts.digest
            ));
        }
        None
    }

    /// The rows behind `after`, so many bytes of them and at least one.
    #[must_use]
    pub fn part(&self, after: Option<Key>, most: usize) -> CompactedPart {
        let mut part = CompactedPart {
            of: self.facts,
            after,
            rows: alloc::vec![],
            more: false,
        };
        let mut bytes = 0;
        for row in self.tables.rows_after(after) {
            bytes += serde_json::to_string(&row).map_or(0, |text| text.len() + 1);
            if bytes > most && !part.rows.is_empty() {
                part.more = true;
                break;
            }
            part.rows.push(row);
        }
        part
    }
}

/// A beginning that comes in parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arriving {
    whole: Compacted,
    last: Option<Key>,
}

impl Arriving {
    /// Takes a part: `before` is what has come so far. The whole comes out when its last part is there.
    ///
    /// # Errors
    /// In words: the whole is not what its facts say, or its rows are in no order.
    pub fn take(before: Option<Self>, part: CompactedPart) -> Result<Result<Compacted, Self>, String> {
        // Rows of another beginning than before: the giver has compacted more meanwhile. They begin anew.
        let fresh = || Self {
            whole: Compacted {
                facts: part.of,
                tables: Tables::default(),
            },
            last: None,
        };
        let mut arriving = before
            .filter(|before| before.whole.facts.hash == part.of.hash)
            .unwrap_or_else(fresh);
        arriving.whole.facts = part.of;
        if part.after != arriving.last {
            return Err(format!(
                "rows of the beginning come behind {:?}, and {:?} is the last that is here",
                part.after, arriving.last
            ));
        }
        for row in part.rows {
            let key = row.key();
            if arriving.last >= Some(key) {
                return Err(format!("row {key:?} of the beginning is not in order"));
            }
            arriving.last = Some(key);
            arriving.whole.tables.apply(&RowOp::Put(row));
        }
        if part.more {
            return Ok(Err(arriving));
        }
        match arriving.whole.wrong() {
            Some(what) => Err(what),
            None => Ok(Ok(arriving.whole)),
        }
    }

    /// Where it goes on.
    #[must_use]
    pub fn after(&self) -> Option<config::PartAfter> {
        Some(config::PartAfter {
            hash: self.whole.facts.hash,
            key: self.last?,
        })
    }
}

/// The digest with a row more, or without one that it has: four sums of 64 bits, of what each row hashes to.
fn with(digest: LogHash, row: &Resource, there: bool) -> LogHash {
    let text = serde_json::to_vec(row).expect("rows are plain data");
    let mut hasher = blake3::Hasher::new_derive_key("pollux 2026 row of a compacted configuration log");
    let hash = *hasher.update(&text).finalize().as_bytes();
    let mut sum = [0; 32];
    for ((sum, old), new) in sum
        .chunks_exact_mut(8)
        .zip(digest.0.chunks_exact(8))
        .zip(hash.chunks_exact(8))
    {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("a chunk has 8 bytes"));
        let (old, new) = (number(old), number(new));
        let after = if there {
            old.wrapping_add(new)
        } else {
            old.wrapping_sub(new)
        };
        sum.copy_from_slice(&after.to_le_bytes());
    }
    Hex(sum)
}

#[cfg(test)]
mod tests;
