//! The hash chain: what makes two logs of one length and one hash the same history.
//!
//! ```text
//! 0 (empty)  <-  entry 1  <-  entry 2  <-  ...      hash(n) covers entry n and hash(n-1)
//! ```

use alloc::format;
use alloc::string::String;
use pollux_api::config::{FORMAT, FORMAT_FIRST, LogEntry, LogHash, RowOp, format_of};

/// Hash of an entry, from everything in it but the hash itself, and how many bytes its rows take.
///
/// # Panics
/// Never: rows are plain data, which always has a JSON form.
#[must_use]
pub fn hash(entry: &LogEntry) -> (LogHash, usize) {
    let rows = encode_rows(&entry.rows);
    let mut hasher = blake3::Hasher::new_derive_key("pollux 2026 entry of the configuration log");
    for number in [
        entry.index,
        entry.epoch.get(),
        entry.session,
        u64::from(entry.format),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    hasher
        .update(entry.action_id.as_bytes())
        .update(&entry.request.0)
        .update(&entry.previous.0)
        .update(rows.as_bytes());
    (pollux_api::config::Hex(*hasher.finalize().as_bytes()), rows.len())
}

/// The JSON form of rows: what is hashed and what is stored.
#[must_use]
pub fn encode_rows(rows: &[RowOp]) -> String {
    serde_json::to_string(rows).expect("rows are plain data")
}

/// Digest of what was asked, for finding an action_id that is used twice.
#[must_use]
pub fn request_digest(change: &pollux_api::config::Change) -> LogHash {
    let ops = serde_json::to_vec(&change.ops).expect("ops are plain data");
    pollux_api::config::Hex(*blake3::hash(&ops).as_bytes())
}

/// Whether `entry` is sound and comes right after a log of this length and hash; otherwise what is wrong.
///
/// # Errors
/// In words, with the index.
pub fn follows(length: u64, last: LogHash, entry: &LogEntry) -> Result<usize, String> {
    if !(FORMAT_FIRST..=FORMAT).contains(&entry.format) {
        return Err(format!(
            "entry {}: version {} of the encoding, this program knows {FORMAT_FIRST} to {FORMAT}: upgrade it",
            entry.index, entry.format
        ));
    }
    if entry.format != format_of(&entry.rows) {
        return Err(format!(
            "entry {}: version {} of the encoding, its rows are of version {}",
            entry.index,
            entry.format,
            format_of(&entry.rows)
        ));
    }
    if entry.index != length + 1 {
        return Err(format!("entry {} stands after entry {length}", entry.index));
    }
    if entry.previous != last {
        return Err(format!(
            "entry {}: follows {}, the log ends in {last}",
            entry.index, entry.previous
        ));
    }
    let (hash, weight) = hash(entry);
    if entry.hash == hash {
        Ok(weight)
    } else {
        Err(format!(
            "entry {}: its hash is {hash}, it says {}",
            entry.index, entry.hash
        ))
    }
}
