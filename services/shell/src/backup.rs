//! `pollux config backup|restore`: the log in a file, from where it begins, and back.
//!
//! ```text
//! {"pollux_backup":1,"length":7,"hash":"275f...","version":"0.1.0"}      what follows
//! {"index":1, ...}                                                       every change, oldest first
//! ```
//!
//! Where the array no longer keeps its first changes, the file has version 2: its head says with what the log begins, and
//! the rows of that stand, one in a line, before the changes.
//!
//! A backup is history and not only its end: a controller that has lost its database gets back the very log on which the
//! record of the epoch stands. Where no database is lost, restoring is a change like any other: the array is made what it
//! was at the end of the backup, after the difference was shown.
//!
//! Secrets are in it as they are in the log: sealed, and of use only to an array that still has the keys.

use crate::array::{Array, BOTH, CHANGE};
use crate::cli::Bring;
use crate::configuration::{Log, bring_about, keep_sizes};
use crate::error::Error;
use crate::moves::confirm;
use crate::print::Style;
use crate::resources::Shown;
use pollux_api::action::ActionId;
use pollux_api::config::{
    self, CompactedPart, LogEntry, LogHash, Resource, Restore, Restored, RowOp, Tables,
};
use pollux_config_document::Document;
use pollux_runtime::Ctx;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

/// Version of the file.
const VERSION: u32 = 1;
/// Version of a file that begins with rows.
const BEGUN: u32 = 2;
/// Longest file that is read.
const FILE_MAX: u64 = 4 << 30;
/// Bytes of entries that are sent in one message; the keeper takes half of what the router carries.
const PIECE: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    pollux_backup: u32,
    length: u64,
    hash: LogHash,
    /// Of the program that wrote it, for people.
    version: String,
    /// With what the log begins, if its first changes are no longer kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compacted: Option<config::Compacted>,
}

/// What a file holds.
#[derive(Debug)]
struct Backup {
    head: Head,
    /// Rows with which the log begins, in the order of their keys.
    rows: Vec<Resource>,
    entries: Vec<LogEntry>,
}

impl Backup {
    /// What it amounts to.
    fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        for row in &self.rows {
            tables.apply(&RowOp::Put(row.clone()));
        }
        self.entries
            .iter()
            .flat_map(|entry| &entry.rows)
            .for_each(|row| tables.apply(row));
        tables
    }

    /// In pieces that fit into a message.
    fn pieces(self) -> Vec<Restore> {
        let mut pieces = Vec::new();
        let of = self.head.compacted.unwrap_or_default();
        let mut after = None;
        for rows in packed(self.rows) {
            let last = rows.last().map(Resource::key);
            pieces.push(Restore {
                compacted: Some(CompactedPart {
                    of,
                    after: std::mem::replace(&mut after, last),
                    rows,
                    more: true,
                }),
                entries: Vec::new(),
                last: false,
            });
        }
        if let Some(Restore {
            compacted: Some(part),
            ..
        }) = pieces.last_mut()
        {
            part.more = false;
        } else if of.length > 0 {
            // It amounts to nothing.
            let (after, rows, more) = (None, Vec::new(), false);
            pieces.push(Restore {
                compacted: Some(CompactedPart {
                    of,
                    after,
                    rows,
                    more,
                }),
                entries: Vec::new(),
                last: false,
            });
        }
        pieces.extend(packed(self.entries).into_iter().map(|entries| Restore {
            compacted: None,
            entries,
            last: false,
        }));
        match pieces.last_mut() {
            Some(Restore {
                compacted: None,
                last,
                ..
            }) => *last = true,
            // Its last word, though nothing comes behind the rows.
            _ => pieces.push(Restore {
                compacted: None,
                entries: Vec::new(),
                last: true,
            }),
        }
        pieces
    }
}

/// Parts of at most [`PIECE`] bytes, or of one.
fn packed<T: Serialize>(all: Vec<T>) -> Vec<Vec<T>> {
    let (mut parts, mut bytes) = (Vec::<Vec<T>>::new(), usize::MAX);
    for one in all {
        let own = serde_json::to_string(&one).map_or(0, |text| text.len());
        bytes = bytes.saturating_add(own);
        match parts.last_mut() {
            Some(part) if bytes <= PIECE => part.push(one),
            _ => {
                parts.push(vec![one]);
                bytes = own;
            }
        }
    }
    parts
}

/// `pollux config backup`
pub(crate) async fn backup(array: &Array, file: &Path) -> Result<Shown, Error> {
    let (mut log, length) = Log::of(array).await?;
    let begun = log.begun;
    let (mut lines, mut hash) = (String::new(), begun.hash);
    for row in log.tables().rows_after(None) {
        lines += &text(&row)?;
        lines.push('\n');
    }
    while let Some(entry) = log.next()? {
        if entry.previous != hash {
            let what = format!("change {} does not follow the one before it", entry.index);
            return Err(Error::failed(what, "pollux config verify"));
        }
        hash = entry.hash;
        lines += &text(&entry)?;
        lines.push('\n');
    }
    let head = Head {
        pollux_backup: if begun.length > 0 { BEGUN } else { VERSION },
        length,
        hash,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        compacted: Some(begun).filter(|begun| begun.length > 0),
    };
    let whole = format!("{}\n{lines}", text(&head)?);
    pollux_platform::file::replace(file, whole.as_bytes(), 0o600).map_err(|error| {
        Error::failed(
            format!("{}: {error}", file.display()),
            "a file that can be written",
        )
    })?;
    let text = format!("{length} changes, up to hash {hash}, are in {}\n", file.display());
    Ok(Shown {
        text,
        json: json!({ "length": length, "hash": hash, "file": file }),
    })
}

fn text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::failed(format!("it cannot be written: {error}"), "report this"))
}

/// What a file holds, whole and in order; whether each entry's hash is right is the keeper's to check.
fn read(file: &Path) -> Result<Backup, Error> {
    let wrong = |what: String| {
        Error::usage(
            format!("{}: {what}", file.display()),
            "a file that `pollux config backup` has written",
        )
    };
    let size = std::fs::metadata(file)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > FILE_MAX {
        return Err(wrong(format!("longer than {FILE_MAX} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let mut lines = text.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default())
        .map_err(|error| wrong(format!("line 1 is no head of a backup: {error}")))?;
    let begun = head.compacted.unwrap_or_default();
    let version = if head.compacted.is_some() { BEGUN } else { VERSION };
    if head.pollux_backup != version {
        return Err(wrong(format!(
            "version {} of a backup, this program knows {VERSION} and {BEGUN}",
            head.pollux_backup
        )));
    }
    let mut lines = lines.zip(2_u64..);
    let mut rows = Vec::<Resource>::new();
    for (line, number) in lines
        .by_ref()
        .take(usize::try_from(begun.rows).unwrap_or(usize::MAX))
    {
        let row: Resource =
            serde_json::from_str(line).map_err(|error| wrong(format!("line {number}: {error}")))?;
        if rows.last().is_some_and(|last| last.key() >= row.key()) {
            return Err(wrong(format!("line {number}: a row that is not in order")));
        }
        rows.push(row);
    }
    let (mut entries, mut index, mut hash) = (Vec::<LogEntry>::new(), begun.length, begun.hash);
    for (line, number) in lines {
        let entry: LogEntry =
            serde_json::from_str(line).map_err(|error| wrong(format!("line {number}: {error}")))?;
        if (entry.index, entry.previous) != (index + 1, hash) {
            return Err(wrong(format!(
                "line {number}: change {} does not follow the one before it",
                entry.index
            )));
        }
        (index, hash) = (entry.index, entry.hash);
        entries.push(entry);
    }
    if (rows.len() as u64, index, hash) != (begun.rows, head.length, head.hash) {
        return Err(wrong(format!(
            "it ends after {} of {} changes and {} of {} rows",
            index,
            head.length,
            rows.len(),
            begun.rows
        )));
    }
    Ok(Backup { head, rows, entries })
}

/// `pollux config restore`
pub(crate) async fn restore(
    array: &Array,
    file: &Path,
    how: Bring,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let brought = read(file)?;
    let mut lost = Vec::new();
    for id in BOTH {
        if let Ok(status) = array.look::<config::Status>(id, config::STATUS).await
            && status.lost.is_some()
        {
            lost.push(id);
        }
    }
    let Some(at) = lost.first().copied() else {
        let name = file.display().to_string();
        return go_back(array, &brought, &name, how, action, style).await;
    };
    let mut text = String::new();
    for id in &lost {
        let _ = writeln!(text, "controller {id} has lost its database");
    }
    let _ = writeln!(
        text,
        "it gets the {} changes of {}; what was changed after them is lost",
        brought.head.length,
        file.display()
    );
    if how.dry_run {
        let text = text + "nothing was done\n";
        return Ok(Shown {
            text,
            json: json!({ "dry_run": true, "lost": lost, "length": brought.head.length }),
        });
    }
    if !how.yes {
        confirm(&text)?;
    }
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let mut length = 0;
    for piece in brought.pieces() {
        let restored: Restored = array.ask(at, config::RESTORE, &piece, &ctx).await?;
        length = restored.length;
    }
    let _ = writeln!(
        text,
        "done: controller {at} holds {length} changes, action {}",
        ctx.action
    );
    Ok(Shown {
        text,
        json: json!({ "action_id": ctx.action, "controller": at, "length": length }),
    })
}

/// Makes the array what it was at the end of a backup of the same array.
async fn go_back(
    array: &Array,
    brought: &Backup,
    name: &str,
    how: Bring,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (mut log, last) = Log::of(array).await?;
    if !is_ours(&mut log, brought)? {
        let what =
            format!("{name}: this is a backup of another array: none of its changes is one of this array's");
        return Err(Error::usage(
            what,
            "a backup of this array; or edit an export of the other one and import it",
        ));
    }
    let tables = brought.tables();
    let mut wanted = Document::of(&tables);
    let kept = keep_sizes(&log.at(last)?, &mut wanted);
    let name = format!("{name} (change {})", brought.head.length);
    let mut shown = bring_about(array, &wanted, &name, how, action, style).await?;
    shown.text += &kept;
    Ok(shown)
}

/// The backup and the log have something in common. Where neither keeps what the other keeps that cannot be said, and a
/// person is shown the difference anyhow.
fn is_ours(log: &mut Log<'_>, brought: &Backup) -> Result<bool, Error> {
    let ours = log.begun;
    let theirs = brought.head.compacted.unwrap_or_default();
    let hash_of = |length: u64| {
        let at = length.checked_sub(theirs.length)?;
        match at.checked_sub(1) {
            None => Some(theirs.hash),
            Some(at) => Some(brought.entries.get(usize::try_from(at).ok()?)?.hash),
        }
    };
    if ours.length >= theirs.length && ours.length > 0 {
        return Ok(hash_of(ours.length).is_none_or(|hash| hash == ours.hash));
    }
    // The first change behind both beginnings.
    while let Some(entry) = log.next()? {
        if entry.index > theirs.length {
            return Ok(hash_of(entry.index).is_none_or(|hash| hash == entry.hash));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::Hex;
    use pollux_api::id::Epoch;

    fn entry(index: u64) -> LogEntry {
        LogEntry {
            index,
            epoch: Epoch::new(1),
            session: 1,
            action_id: ActionId::from_bytes([index as u8; 16]),
            request: Hex([0; 32]),
            rows: Vec::new(),
            format: 1,
            previous: Hex([index as u8 - 1; 32]),
            hash: Hex([index as u8; 32]),
        }
    }

    fn file(length: u64, entries: &[LogEntry]) -> String {
        let head = Head {
            pollux_backup: VERSION,
            length,
            hash: entries.last().map_or_else(LogHash::default, |entry| entry.hash),
            version: "x".into(),
            compacted: None,
        };
        let lines: Vec<String> = entries.iter().map(|entry| text(entry).unwrap()).collect();
        format!("{}\n{}\n", text(&head).unwrap(), lines.join("\n"))
    }

    #[test]
    fn what_is_whole_is_read_and_what_is_not_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        let whole: Vec<LogEntry> = (1..=5).map(entry).collect();
        std::fs::write(&path, file(5, &whole)).unwrap();
        assert_eq!(read(&path).unwrap().entries, whole);
        let mut gap = whole.clone();
        gap.remove(2);
        let newer = file(5, &whole).replacen("\"pollux_backup\":1", "\"pollux_backup\":2", 1);
        for (content, word) in [
            (file(6, &whole), "ends after 5 of 6"),
            (file(5, &whole[..3]), "ends after 3 of 5"),
            (file(4, &gap), "line 4"),
            (file(5, &whole) + "{\n", "line 7"),
            (newer.clone(), "version 2"),
            (String::new(), "line 1"),
            ("[[pool]]\n".to_owned(), "line 1"),
        ] {
            std::fs::write(&path, &content).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains(word), "{word}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
