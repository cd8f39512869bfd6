//! `pollux config backup|restore`: the whole log in a file, and back.
//!
//! ```text
//! {"pollux_backup":1,"length":7,"hash":"275f...","version":"0.1.0"}      what follows
//! {"index":1, ...}                                                       every change, oldest first
//! ```
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
use pollux_api::config::{self, LogEntry, LogHash, Restore, Restored, Tables};
use pollux_config_document::Document;
use pollux_runtime::Ctx;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

/// Version of the file.
const VERSION: u32 = 1;
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
}

/// `pollux config backup`
pub(crate) async fn backup(array: &Array, file: &Path) -> Result<Shown, Error> {
    let (mut log, length) = Log::of(array).await?;
    let (mut lines, mut hash) = (String::new(), LogHash::default());
    while let Some(entry) = log.next().await? {
        if entry.previous != hash {
            let what = format!("change {} does not follow the one before it", entry.index);
            return Err(Error::failed(what, "pollux config verify"));
        }
        hash = entry.hash;
        lines += &text(&entry)?;
        lines.push('\n');
    }
    let head = Head {
        pollux_backup: VERSION,
        length,
        hash,
        version: env!("CARGO_PKG_VERSION").to_owned(),
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
fn read(file: &Path) -> Result<(Head, Vec<LogEntry>), Error> {
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
    if head.pollux_backup != VERSION {
        return Err(wrong(format!(
            "version {} of a backup, this program knows {VERSION}",
            head.pollux_backup
        )));
    }
    let (mut entries, mut hash) = (Vec::<LogEntry>::new(), LogHash::default());
    for (line, number) in lines.zip(1_u64..) {
        let entry: LogEntry =
            serde_json::from_str(line).map_err(|error| wrong(format!("line {}: {error}", number + 1)))?;
        if (entry.index, entry.previous) != (number, hash) {
            return Err(wrong(format!(
                "line {}: change {} does not follow the one before it",
                number + 1,
                entry.index
            )));
        }
        hash = entry.hash;
        entries.push(entry);
    }
    if (entries.len() as u64, hash) != (head.length, head.hash) {
        return Err(wrong(format!(
            "it ends after {} of {} changes",
            entries.len(),
            head.length
        )));
    }
    Ok((head, entries))
}

/// `pollux config restore`
pub(crate) async fn restore(
    array: &Array,
    file: &Path,
    how: Bring,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (head, entries) = read(file)?;
    let mut lost = Vec::new();
    for id in BOTH {
        if let Ok(status) = array.look::<config::Status>(id, config::STATUS).await
            && status.lost.is_some()
        {
            lost.push(id);
        }
    }
    let Some(at) = lost.first().copied() else {
        return go_back(
            array,
            &head,
            &entries,
            &file.display().to_string(),
            how,
            action,
            style,
        )
        .await;
    };
    let mut text = String::new();
    for id in &lost {
        let _ = writeln!(text, "controller {id} has lost its database");
    }
    let _ = writeln!(
        text,
        "it gets the {} changes of {}; what was changed after them is lost",
        head.length,
        file.display()
    );
    if how.dry_run {
        let text = text + "nothing was done\n";
        return Ok(Shown {
            text,
            json: json!({ "dry_run": true, "lost": lost, "length": head.length }),
        });
    }
    if !how.yes {
        confirm(&text)?;
    }
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let mut left = entries.into_iter().peekable();
    loop {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = left.peek() {
            bytes += serde_json::to_string(entry).map_or(0, |text| text.len());
            if bytes > PIECE && !piece.is_empty() {
                break;
            }
            piece.extend(left.next());
        }
        let last = left.peek().is_none();
        let piece = Restore { entries: piece, last };
        let restored: Restored = array.ask(at, config::RESTORE, &piece, &ctx).await?;
        if last {
            let _ = writeln!(
                text,
                "done: controller {at} holds {} changes, action {}",
                restored.length, ctx.action
            );
            return Ok(Shown {
                text,
                json: json!({ "action_id": ctx.action, "controller": at, "length": restored.length }),
            });
        }
    }
}

/// Makes the array what it was at the end of a backup of the same array.
async fn go_back(
    array: &Array,
    head: &Head,
    entries: &[LogEntry],
    name: &str,
    how: Bring,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (mut log, last) = Log::of(array).await?;
    let first = log.next().await?;
    if let (Some(ours), Some(theirs)) = (&first, entries.first())
        && ours.hash != theirs.hash
    {
        let what = format!("{name}: this is a backup of another array: its first change is not this one's");
        return Err(Error::usage(
            what,
            "a backup of this array; or edit an export of the other one and import it",
        ));
    }
    let mut tables = Tables::default();
    entries
        .iter()
        .flat_map(|entry| &entry.rows)
        .for_each(|row| tables.apply(row));
    let mut wanted = Document::of(&tables);
    let kept = keep_sizes(&log.at(last).await?, &mut wanted);
    let name = format!("{name} (change {})", head.length);
    let mut shown = bring_about(array, &wanted, &name, how, action, style).await?;
    shown.text += &kept;
    Ok(shown)
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
        assert_eq!(read(&path).unwrap().1, whole);
        let mut gap = whole.clone();
        gap.remove(2);
        let newer = file(5, &whole).replacen("\"pollux_backup\":1", "\"pollux_backup\":2", 1);
        for (content, word) in [
            (file(6, &whole), "ends after 5 of 6"),
            (file(5, &whole[..3]), "ends after 3 of 5"),
            (file(4, &gap), "line 4"),
            (file(5, &whole) + "{\n", "line 7"),
            (newer, "version 2"),
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
