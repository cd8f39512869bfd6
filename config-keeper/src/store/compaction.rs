//! The beginning of the log in the database: rows in place of entries.
//!
//! ```text
//! compacted (rows)  +  meta.compacted (length, hash, digest of the rows)   <-   log, from length + 1 on
//! ```
//!
//! Entries leave and their rows come in one transaction. The tables of the configuration are never behind the beginning.

use super::{Kind, Loaded, LogHash, damage, encode_body, fact, fold_between, insert_aside, place};
use pollux_api::config::{self, LogEntry, Resource, RowOp};
use pollux_config_core::compacted::Compacted;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// The fact that says where the log begins.
const FACT: &str = "compacted";

/// Length and hash of a log.
pub(super) fn end(loaded: &Loaded) -> (u64, LogHash) {
    let facts = &loaded.compacted.facts;
    loaded
        .entries
        .last()
        .map_or((facts.length, facts.hash), |entry| (entry.index, entry.hash))
}

/// What the log begins with; whether its rows are those that were written is the caller's to ask.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Compacted> {
    let mut compacted = Compacted::default();
    let said: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [FACT], |row| row.get(0))
        .optional()?;
    if let Some(said) = said {
        compacted.facts = parsed(&said)?;
    }
    let mut statement = connection.prepare("SELECT kind, id, body FROM compacted")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, id, text): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let found: Resource = parsed(&text)?;
        // A row under another key than its own would be written over by the next of its kind.
        let (own, key) = place(&found);
        if (own.as_str(), &key) != (kind.as_str(), &id) {
            return Err(conversion(
                format!("row {kind} {id} of the beginning is {own} {key}").into(),
            ));
        }
        compacted.tables.apply(&RowOp::Put(found));
    }
    Ok(compacted)
}

fn conversion(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| conversion(error.into()))
}

fn note(transaction: &Transaction<'_>, facts: &config::Compacted) -> rusqlite::Result<()> {
    let text = serde_json::to_string(facts).expect("facts are plain data");
    damage::put(transaction, FACT, text)
}

/// Lets the entries up to there go.
pub(super) fn compact(transaction: &Transaction<'_>, facts: &config::Compacted) -> rusqlite::Result<()> {
    let upto = facts.length;
    let folded = damage::folded(transaction)?;
    if folded < upto {
        fold_between(transaction, folded, upto)?;
        fact(transaction, "folded", upto)?;
    }
    let mut statement = transaction.prepare_cached("SELECT rows FROM log WHERE idx <= ?1 ORDER BY idx")?;
    let mut entries = statement.query([upto.cast_signed()])?;
    while let Some(row) = entries.next()? {
        let rows: Vec<RowOp> = parsed(&row.get::<_, String>(0)?)?;
        for row in &rows {
            match row {
                RowOp::Put(row) => put(transaction, row)?,
                RowOp::Delete(key) => {
                    let (kind, id) = (key.kind(), super::reference(key));
                    transaction
                        .prepare_cached("DELETE FROM compacted WHERE kind = ?1 AND id = ?2")?
                        .execute(params![kind.as_str(), id])?;
                }
            }
        }
    }
    transaction.execute("DELETE FROM log WHERE idx <= ?1", [upto.cast_signed()])?;
    note(transaction, facts)
}

fn put(transaction: &Transaction<'_>, row: &Resource) -> rusqlite::Result<()> {
    let (kind, id) = place(row);
    let put =
        "INSERT INTO compacted VALUES (?1, ?2, ?3) ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body";
    transaction
        .prepare_cached(put)?
        .execute(params![kind.as_str(), id, encode_body(row)])
        .map(drop)
}

/// The log begins with this, whatever stood there.
pub(super) fn begin(
    transaction: &Transaction<'_>,
    with: &Compacted,
    aside: &[(LogEntry, bool)],
) -> rusqlite::Result<()> {
    insert_aside(transaction, aside)?;
    transaction.execute("DELETE FROM log", [])?;
    transaction.execute("DELETE FROM compacted", [])?;
    for row in with.tables.rows() {
        put(transaction, &row)?;
    }
    super::rebuild(transaction)?;
    fact(transaction, "folded", with.facts.length)?;
    fact(transaction, "acknowledged", with.facts.length)?;
    note(transaction, &with.facts)
}

/// Makes the tables what the log begins with.
pub(super) fn restore(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for kind in Kind::ALL {
        transaction.execute(&format!("DELETE FROM \"{kind}\""), [])?;
        transaction.execute(
            &format!("INSERT INTO \"{kind}\" (id, body) SELECT id, body FROM compacted WHERE kind = ?1"),
            [kind.as_str()],
        )?;
    }
    Ok(())
}
