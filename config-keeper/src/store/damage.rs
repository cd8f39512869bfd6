//! A database that is not what was written: how it is found out, and how a new one takes its place.
//!
//! What is looked at, beyond SQLite's own check of its pages:
//!
//! | what | covered by |
//! |---|---|
//! | entries of the log | their hash chain |
//! | tables | compared with what the log amounts to |
//! | what the log begins with | a digest over its rows, among the facts |
//! | facts, and what was set aside | a digest among the facts ([`seal`]) |
//! | the schema | compared with a new one of the same version |
//! | version of the schema | repeated among the facts |
//! | the end of the log | the [mark](super::mark) beside the database |
//!
//! Putting it aside, so that a crash at any point leaves the damaged database or the new one, and no mixture:
//!
//! ```text
//! link config.db* to config.db.damaged-N*  ->  make config.db.new, which says what was lost
//!     ->  write config.db-replacing  ->  remove the old -wal and -mark, rename config.db.new to config.db
//!     ->  remove config.db-replacing
//! ```
//!
//! Whoever finds `config.db-replacing` goes on where it stopped. Everything is flushed before the next arrow.
//!
//! Never: overwrite or delete the last name of a damaged file; put a foreign or newer database aside.

use super::space::storage;
use super::{MIGRATIONS, StoreError, beside, classify};
use pollux_platform::file::{replace, sync_directory};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, ffi, params};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Digest over all other facts.
const SEAL: &str = "seal";
/// Digest over what was set aside.
const ASIDE: &str = "aside_digest";
/// The version of the schema, once more.
const SCHEMA: &str = "schema";
/// The name under which a damaged database is kept, and what was wrong with it.
const LOST: &str = "lost";
const LOST_WHAT: &str = "lost_what";
/// What stands beside a database and belongs to it.
const PARTS: [&str; 4] = ["-wal", "-shm", "-journal", "-mark"];

/// A database that was damaged or gone when the keeper started; not yet made good by the partner's copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it is kept: a name in the folder of the database.
    pub file: String,
    /// What was wrong with it.
    pub what: String,
}

// What is found out.

fn digest(connection: &Connection) -> rusqlite::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new_derive_key("pollux 2026 facts of the configuration database");
    let mut statement =
        connection.prepare_cached("SELECT key, value FROM meta WHERE key <> ?1 ORDER BY key")?;
    let mut rows = statement.query([SEAL])?;
    while let Some(row) = rows.next()? {
        for at in 0..2 {
            let (kind, bytes) = match row.get_ref(at)? {
                ValueRef::Null => (0, vec![]),
                ValueRef::Integer(number) => (1, number.to_le_bytes().to_vec()),
                ValueRef::Real(number) => (2, number.to_le_bytes().to_vec()),
                ValueRef::Text(text) => (3, text.to_vec()),
                ValueRef::Blob(bytes) => (4, bytes.to_vec()),
            };
            hasher.update(&[kind]);
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
    }
    Ok(hasher.finalize())
}

/// Makes the facts whole again after one was changed: belongs to every transaction that changes one.
pub(super) fn seal(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let digest = digest(transaction)?;
    put(transaction, SEAL, digest.as_bytes())
}

pub(super) fn put(
    transaction: &Transaction<'_>,
    key: &str,
    value: impl rusqlite::ToSql,
) -> rusqlite::Result<()> {
    let put = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    transaction
        .prepare_cached(put)?
        .execute(params![key, value])
        .map(drop)
}

fn fact<T: rusqlite::types::FromSql>(connection: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
        .optional()
}

/// What is wrong with the facts. Facts of a version that had no digest yet are taken as they are.
pub(super) fn facts(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let seal: Option<[u8; 32]> = fact(connection, SEAL)?;
    let newest: Option<i64> = fact(connection, SCHEMA)?;
    Ok(match seal {
        None if newest.is_none() => None,
        None => Some("its facts have lost their digest".into()),
        Some(seal) if digest(connection)? == seal => None,
        Some(_) => Some("its facts are not those that were written".into()),
    })
}

/// The version of the schema, as the facts have it.
pub(super) fn schema_fact(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    fact(connection, SCHEMA)
}

/// How many entries are in the tables.
pub(super) fn folded(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(fact::<i64>(connection, "folded")?.map_or(0, i64::cast_unsigned))
}

/// The digest over what was set aside goes on by one entry.
pub(super) fn set_aside(
    transaction: &Transaction<'_>,
    entry: &str,
    acknowledged: bool,
) -> rusqlite::Result<()> {
    let before: Option<[u8; 32]> = fact(transaction, ASIDE)?;
    let after = aside_digest(before.unwrap_or_default(), entry, acknowledged);
    put(transaction, ASIDE, after)
}

fn aside_digest(before: [u8; 32], entry: &str, acknowledged: bool) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pollux 2026 entry that was set aside");
    hasher
        .update(&before)
        .update(&[u8::from(acknowledged)])
        .update(entry.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Gives the facts their digests, if they were written by a version that had none; the schema has this version now.
pub(super) fn adopt(transaction: &Transaction<'_>, version: i64) -> rusqlite::Result<()> {
    if schema_fact(transaction)?.is_none() {
        let mut statement = transaction.prepare("SELECT entry, acknowledged FROM aside ORDER BY n")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            set_aside(transaction, &row.get::<_, String>(0)?, row.get(1)?)?;
        }
    }
    put(transaction, SCHEMA, version)
}

/// What is wrong with what was set aside.
pub(super) fn aside(connection: &Connection) -> rusqlite::Result<Option<String>> {
    if schema_fact(connection)?.is_none() {
        return Ok(None);
    }
    let said: Option<[u8; 32]> = fact(connection, ASIDE)?;
    let mut statement = connection.prepare("SELECT entry, acknowledged FROM aside ORDER BY n")?;
    let mut rows = statement.query([])?;
    let mut digest = None;
    while let Some(row) = rows.next()? {
        let (entry, acknowledged): (String, i64) = (row.get(0)?, row.get(1)?);
        if !matches!(acknowledged, 0 | 1) {
            return Ok(Some("what was set aside is not what was written".into()));
        }
        digest = Some(aside_digest(
            digest.unwrap_or_default(),
            &entry,
            acknowledged == 1,
        ));
    }
    Ok((digest != said).then(|| "what was set aside is not what was written".into()))
}

/// What in the schema is not as this version makes it.
pub(super) fn schema(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let list = |connection: &Connection| -> rusqlite::Result<BTreeSet<[String; 4]>> {
        let mut statement =
            connection.prepare("SELECT type, name, tbl_name, ifnull(sql, '') FROM sqlite_schema")?;
        let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<[String; 4]> {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        };
        let rows = statement.query_map([], row)?;
        // Statistics that `ANALYZE` leaves belong to no version.
        let rows = rows.filter(|row| !matches!(row, Ok([_, name, ..]) if name.starts_with("sqlite_stat")));
        rows.collect()
    };
    let fresh = Connection::open_in_memory()?;
    for step in MIGRATIONS {
        fresh.execute_batch(step)?;
    }
    let (found, wanted) = (list(connection)?, list(&fresh)?);
    let odd = found.symmetric_difference(&wanted).next();
    Ok(odd.map(|[kind, name, ..]| format!("{kind} {name} of its schema is not as it was made")))
}

/// Tables stand in it already; whether they are a keeper's.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Option<bool>> {
    let count = |which: &str| {
        let query = format!("SELECT count(*) FROM sqlite_schema {which}");
        connection.query_row(&query, [], |row| row.get::<_, i64>(0))
    };
    if count("")? == 0 {
        return Ok(None);
    }
    Ok(Some(
        count("WHERE name IN ('meta', 'log', 'resource', 'aside')")? >= 2,
    ))
}

/// The error for what SQLite said while a database was being opened: all that is not the world's refusal is damage,
/// because every statement is known to be right.
pub(super) fn opening(path: &Path, what: &'static str, source: rusqlite::Error) -> StoreError {
    match classify(path, what, source) {
        StoreError::Failed { path, what, source } if !is_of_the_world(&path, &source) => {
            StoreError::Damaged {
                what: format!("cannot {what}: {source}"),
                path,
            }
        }
        // A database says in its own header that it must not be written to.
        StoreError::ReadOnly { path, .. } if takes_writes(&path) => StoreError::Damaged {
            what: format!("cannot {what}: it says that it must not be written to"),
            path,
        },
        other => other,
    }
}

fn takes_writes(path: &Path) -> bool {
    std::fs::OpenOptions::new().write(true).open(path).is_ok()
}

fn is_of_the_world(path: &Path, source: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(error, _) = source else {
        return false;
    };
    match error.code {
        // A page that the disk cannot give back is as good as a wrong one.
        ErrorCode::SystemIoFailure => !matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS
        ),
        ErrorCode::CannotOpen => !(path.is_file() && takes_writes(path)),
        ErrorCode::PermissionDenied
        | ErrorCode::OperationAborted
        | ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::DiskFull
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::NoLargeFileSupport => true,
        _ => false,
    }
}

/// The database has no file, but something that belonged to it stands there.
pub(super) fn orphans(path: &Path) -> Option<String> {
    let left: Vec<String> = PARTS
        .into_iter()
        .map(|part| beside(path, part))
        .filter(|part| part.exists())
        .map(|part| name(&part))
        .collect();
    (!left.is_empty() && !path.exists()).then(|| format!("it is gone, and {} stands there", left.join(", ")))
}

// What is kept, and what takes its place.

/// What was lost and has not been found again.
pub(super) fn lost(connection: &Connection) -> rusqlite::Result<Option<Lost>> {
    let file: Option<String> = fact(connection, LOST)?;
    let what: Option<String> = fact(connection, LOST_WHAT)?;
    Ok(file.map(|file| Lost {
        file,
        what: what.unwrap_or_default(),
    }))
}

/// The fact that a new database begins with.
pub(super) fn note_lost(transaction: &Transaction<'_>, lost: &Lost) -> rusqlite::Result<()> {
    put(transaction, LOST, &lost.file)?;
    put(transaction, LOST_WHAT, &lost.what)
}

/// What was lost is there again.
pub(super) fn found_again(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .execute("DELETE FROM meta WHERE key IN (?1, ?2)", [LOST, LOST_WHAT])
        .map(drop)
}

fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

pub(super) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

pub(super) fn fresh(path: &Path) -> PathBuf {
    beside(path, ".new")
}

fn order(path: &Path) -> PathBuf {
    beside(path, "-replacing")
}

/// Gives the damaged database a second name that nobody had; the name.
pub(super) fn keep(path: &Path) -> Result<String, StoreError> {
    let failed = |what| move |source| storage(path, what, source);
    for number in 1_u32.. {
        let kept = beside(path, &format!(".damaged-{number}"));
        let taken = std::iter::once(kept.clone())
            .chain(PARTS.map(|part| beside(&kept, part)))
            .any(|name| name.symlink_metadata().is_ok());
        if taken {
            continue;
        }
        let pairs = std::iter::once((path.to_owned(), kept.clone()))
            .chain(PARTS.map(|part| (beside(path, part), beside(&kept, part))));
        for (from, to) in pairs {
            match std::fs::hard_link(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("give it a second name")(error));
                }
                _ => {}
            }
        }
        sync_directory(folder(path)).map_err(failed("flush the folder of it"))?;
        return Ok(name(&kept));
    }
    unreachable!("there are more numbers than files")
}

/// Removes what an attempt before has left of the new database.
pub(super) fn clear_fresh(path: &Path) -> Result<(), StoreError> {
    let fresh = fresh(path);
    remove(&fresh)?;
    PARTS.iter().try_for_each(|part| remove(&beside(&fresh, part)))
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage(path, "remove it", error)),
        _ => Ok(()),
    }
}

/// Orders that the new database, which is whole, takes the place of the old one.
pub(super) fn order_replacement(path: &Path) -> Result<(), StoreError> {
    let order = order(path);
    replace(&order, b"config.db.new takes the place of config.db\n", 0o600)
        .map_err(|source| storage(&order, "write it", source))
}

/// Does what was ordered, if something was; also after a crash in the middle of it.
pub(super) fn finish_replacement(path: &Path) -> Result<(), StoreError> {
    if !order(path).exists() {
        return Ok(());
    }
    let fresh = fresh(path);
    // Gone: everything but the removal of the order was done.
    if fresh.exists() {
        for part in PARTS {
            remove(&beside(path, part))?;
        }
        std::fs::rename(&fresh, path).map_err(|source| storage(&fresh, "rename it", source))?;
        sync_directory(folder(path)).map_err(|source| storage(path, "flush the folder of it", source))?;
    }
    remove(&order(path))?;
    sync_directory(folder(path)).map_err(|source| storage(path, "flush the folder of it", source))
}
