//! The book itself: one SQLite database, of which this process is the only reader and writer.
//!
//! ```text
//! log        index, epoch, session, action_id, request, format, rows, previous, hash     the truth
//! (kind)     id, body, and columns read from the body; one table for each kind            what the log amounts to
//! meta       array, session, acknowledged                                                small facts
//! aside      entries that lost their place when a fork was mended                        for people
//! ```
//!
//! A thread takes jobs in order. Everything that has come in while a commit ran goes into the next one: one
//! transaction, one flush, however many changes. Log and tables change in the same transaction, so no crash can
//! part them.
//!
//! How it is fast: write-ahead log with `synchronous=FULL`; the WAL is filled with zeros to its working size at the
//! start and never shrinks, so a commit overwrites blocks that exist; checkpoints run when nothing waits.
//!
//! Never: report a job as stored before its commit returned; go on after a failed write (what the kernel did with
//! the pages is not known); touch a database of another array or of a newer version.

use pollux_api::action::ActionId;
use pollux_api::config::item::reference;
use pollux_api::config::{AsideEntry, Hex, Kind, LogEntry, LogHash, Resource, RowOp, Tables, Verified};
use pollux_api::id::{ArrayId, Epoch};
use pollux_config_core::keeper::{Job, Loaded};
use pollux_config_core::log::encode_rows;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Working size of the write-ahead log (bytes).
const WAL_BYTES: u64 = 4 << 20;
/// Most jobs of one commit.
const GROUP: usize = 256;
/// Without work for so long, the mark of what is acknowledged is written and the WAL is copied into the database.
const IDLE: Duration = Duration::from_millis(500);

/// Steps from one version of the schema to the next; `user_version` counts those that were taken. Append only.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path}: another process has this database open; only one config-keeperd may run on a controller", path = path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not what was written.
    #[error(
        "{path}: the database is damaged: {what}; move it and its -wal file away and start again: the controller copies \
         the configuration from its partner, or restore a copy of the file",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It belongs to another array.
    #[error("{path}: this is the database of array {found}, not of {wanted}; name the right directory in paths.var", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: ArrayId,
    },
    /// It was written by a newer version.
    #[error("{path}: version {found} of the schema, this program knows up to {known}; install the newer program", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest that is known.
        known: usize,
    },
    /// SQLite or the file system refused.
    #[error("{path}: cannot {what}: {source}", path = path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was answered.
        source: rusqlite::Error,
    },
    /// The file system refused.
    #[error("{path}: cannot {what}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was answered.
        source: std::io::Error,
    },
}

/// An opened database.
pub struct Store {
    path: PathBuf,
    connection: Connection,
}

/// What the database held at the start.
#[derive(Debug)]
pub struct Opened {
    /// For the core.
    pub loaded: Loaded,
    /// Number of entries that were set aside, and whether one may have been acknowledged.
    pub aside: (u64, bool),
}

impl Store {
    /// Opens or makes the database of `array`, brings its schema up to date and checks it.
    ///
    /// # Errors
    /// [`StoreError`] names the file, what is wrong and what would be right.
    pub fn open(path: &Path, array: ArrayId) -> Result<(Self, Opened), StoreError> {
        let failed = |what| move |source| classify(path, what, source);
        let connection = Connection::open(path).map_err(failed("open it"))?;
        let mut store = Self {
            path: path.to_owned(),
            connection,
        };
        // Exclusive: no other process, and the index of the WAL lives in memory.
        let pragmas = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                       PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = -1; PRAGMA temp_store = MEMORY;";
        store
            .connection
            .execute_batch(pragmas)
            .map_err(failed("configure it"))?;
        store.migrate()?;
        store.own(array)?;
        let check = store.integrity().map_err(failed("check it"))?;
        if let Some(what) = check {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                what,
            });
        }
        let opened = store.load()?;
        store.reserve_wal()?;
        Ok((store, opened))
    }

    fn failed(&self, what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        move |source| classify(&self.path, what, source)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let version: i64 = self
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(self.failed("read its version"))?;
        let (found, known) = (usize::try_from(version).unwrap_or(usize::MAX), MIGRATIONS.len());
        if found > known {
            return Err(StoreError::Newer {
                path: self.path.clone(),
                found,
                known,
            });
        }
        if found > 0 && found < known {
            let copy = self.path.with_extension(format!("db.v{found}"));
            if !copy.exists() {
                self.connection
                    .execute("VACUUM INTO ?1", [copy.to_string_lossy()])
                    .map_err(self.failed("copy it before the upgrade"))?;
            }
        }
        for (at, step) in MIGRATIONS.iter().enumerate().skip(found) {
            let path = self.path.clone();
            let upgrade = |connection: &mut Connection| {
                let transaction = connection.transaction()?;
                transaction.execute_batch(step)?;
                transaction.pragma_update(None, "user_version", at as i64 + 1)?;
                transaction.commit()
            };
            upgrade(&mut self.connection).map_err(|source| classify(&path, "upgrade its schema", source))?;
        }
        Ok(())
    }

    fn own(&mut self, array: ArrayId) -> Result<(), StoreError> {
        let found: Option<String> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'array'", [], |row| row.get(0))
            .optional()
            .map_err(self.failed("read its owner"))?;
        match found {
            Some(found) if found == array.to_string() => Ok(()),
            Some(found) => Err(StoreError::Foreign {
                path: self.path.clone(),
                found,
                wanted: array,
            }),
            None => {
                let row = self
                    .connection
                    .execute("INSERT INTO meta VALUES ('array', ?1)", [array.to_string()]);
                row.map(drop).map_err(self.failed("write its owner"))
            }
        }
    }

    /// The first problem that SQLite finds.
    fn integrity(&self) -> rusqlite::Result<Option<String>> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((verdict != "ok").then_some(verdict))
    }

    fn load(&self) -> Result<Opened, StoreError> {
        let entries = self.log().map_err(self.failed("read the log"))?;
        let meta = |key: &'static str| -> rusqlite::Result<u64> {
            let row = self
                .connection
                .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                    row.get::<_, i64>(0)
                });
            Ok(row.optional()?.map_or(0, i64::cast_unsigned))
        };
        let read = || -> rusqlite::Result<Opened> {
            let (session_epoch, session) = (Epoch::new(meta("session_epoch")?), meta("session")?);
            let loaded = Loaded {
                entries,
                acknowledged: meta("acknowledged")?,
                session_epoch,
                session,
                lost: false,
            };
            let aside = self.connection.query_row(
                "SELECT count(*), ifnull(max(acknowledged), 0) FROM aside",
                [],
                |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)),
            )?;
            Ok(Opened { loaded, aside })
        };
        let opened = read().map_err(self.failed("read its facts"))?;
        let damage = self
            .compare(&opened.loaded.entries)
            .map_err(self.failed("read the tables"))?;
        match damage.into_iter().next() {
            Some(what) => Err(StoreError::Damaged {
                path: self.path.clone(),
                what,
            }),
            None => Ok(opened),
        }
    }

    fn log(&self) -> rusqlite::Result<Vec<LogEntry>> {
        let mut statement = self
            .connection
            .prepare("SELECT idx, epoch, session, action_id, request, format, rows, previous, hash FROM log ORDER BY idx")?;
        let rows = statement.query_map([], |row| {
            let rows: String = row.get(6)?;
            let rows = serde_json::from_str(&rows).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, error.into())
            })?;
            Ok(LogEntry {
                index: row.get::<_, i64>(0)?.cast_unsigned(),
                epoch: Epoch::new(row.get::<_, i64>(1)?.cast_unsigned()),
                session: row.get::<_, i64>(2)?.cast_unsigned(),
                action_id: ActionId::from_bytes(row.get(3)?),
                request: Hex(row.get(4)?),
                format: row.get(5)?,
                rows,
                previous: Hex(row.get(7)?),
                hash: Hex(row.get(8)?),
            })
        })?;
        rows.collect()
    }

    /// What in the tables is not what the log amounts to.
    fn compare(&self, entries: &[LogEntry]) -> rusqlite::Result<Vec<String>> {
        let mut tables = Tables::default();
        for row in entries.iter().flat_map(|entry| &entry.rows) {
            tables.apply(row);
        }
        let mut wanted: std::collections::BTreeMap<(Kind, String), String> =
            tables.rows().map(|row| (place(&row), body(&row))).collect();
        let mut problems = vec![];
        for kind in Kind::ALL {
            let mut statement = self
                .connection
                .prepare(&format!("SELECT id, body FROM \"{kind}\""))?;
            let found = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
            for row in found {
                let (id, body): (String, String) = row?;
                match wanted.remove(&(kind, id.clone())) {
                    Some(wanted) if wanted == body => {}
                    Some(_) => problems.push(format!("{kind} {id} is not what the log says")),
                    None => problems.push(format!("{kind} {id} is in no entry of the log")),
                }
            }
        }
        problems.extend(
            wanted
                .into_keys()
                .map(|(kind, id)| format!("{kind} {id} is missing")),
        );
        Ok(problems)
    }

    /// Fills the WAL with zeros up to its working size. Frames behind the last commit are not read: their salt is
    /// not that of the header.
    fn reserve_wal(&mut self) -> Result<(), StoreError> {
        // A first write makes the file.
        self.connection
            .execute(
                "INSERT INTO meta VALUES ('opened', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1",
                [],
            )
            .map_err(self.failed("write to it"))?;
        let wal = PathBuf::from(format!("{}-wal", self.path.display()));
        let grow = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&wal)?;
            let size = file.metadata()?.len();
            if size < WAL_BYTES {
                file.seek(SeekFrom::Start(size))?;
                file.write_all(&vec![0; usize::try_from(WAL_BYTES - size).unwrap_or(0)])?;
                file.sync_all()?;
            }
            Ok(())
        };
        grow().map_err(|source| StoreError::Io {
            path: wal.clone(),
            what: "reserve space in it",
            source,
        })
    }

    /// One commit.
    fn commit(&mut self, jobs: &[(u64, Job)], acknowledged: Option<u64>) -> Result<(), StoreError> {
        let path = self.path.clone();
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            for (_, job) in jobs {
                apply(&transaction, job)?;
            }
            if let Some(mark) = acknowledged {
                fact(&transaction, "acknowledged", mark)?;
            }
            transaction.commit()
        };
        write(&mut self.connection).map_err(|source| classify(&path, "write to it", source))
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(self.failed("copy the WAL into it"))
    }

    fn verify(&self) -> Result<Verified, StoreError> {
        let entries = self.log().map_err(self.failed("read the log"))?;
        let mut problems: Vec<String> = self
            .integrity()
            .map_err(self.failed("check it"))?
            .into_iter()
            .collect();
        let (mut length, mut last) = (0, LogHash::default());
        for entry in &entries {
            if let Err(problem) = pollux_config_core::log::follows(length, last, entry) {
                problems.push(problem);
            }
            (length, last) = (entry.index, entry.hash);
        }
        problems.extend(self.compare(&entries).map_err(self.failed("read the tables"))?);
        let counts: Vec<String> = Kind::ALL
            .into_iter()
            .map(|kind| format!("(SELECT count(*) FROM \"{kind}\")"))
            .collect();
        let rows = self
            .connection
            .query_row(&format!("SELECT {}", counts.join(" + ")), [], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(self.failed("count rows"))?;
        Ok(Verified {
            entries: length,
            rows: rows.cast_unsigned(),
            problems,
        })
    }

    fn aside(&self) -> Result<Vec<AsideEntry>, StoreError> {
        let read = || -> rusqlite::Result<Vec<AsideEntry>> {
            let mut statement = self
                .connection
                .prepare("SELECT entry, acknowledged FROM aside ORDER BY n")?;
            let rows = statement.query_map([], |row| {
                let entry: String = row.get(0)?;
                let entry = serde_json::from_str(&entry).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
                })?;
                Ok(AsideEntry {
                    entry,
                    acknowledged: row.get(1)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(self.failed("read what was set aside"))
    }

    /// Hands the database to a thread of its own. What happens to jobs comes out of `report`.
    #[must_use]
    pub fn spawn(self, report: impl FnMut(Report) + Send + 'static) -> Writer {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || run(self, &receiver, report));
        Writer {
            sender: Some(sender),
            thread: Some(thread),
        }
    }
}

/// What became of jobs.
#[derive(Debug)]
pub enum Report {
    /// Durable.
    Stored(u64),
    /// A write failed: nothing more is taken.
    Failed(String),
}

enum Ask {
    Job(u64, Job),
    Mark(u64),
    Verify(Box<dyn FnOnce(Result<Verified, StoreError>) + Send>),
    Aside(Box<dyn FnOnce(Result<Vec<AsideEntry>, StoreError>) + Send>),
}

/// The thread that writes. Dropped, it finishes what it was given and closes the database.
pub struct Writer {
    sender: Option<Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn ask(&self, ask: Ask) {
        // A thread that has failed has said so; what comes after is of no use to anybody.
        let _ = self.sender.as_ref().map(|sender| sender.send(ask));
    }

    /// Makes a job durable, after all before it.
    pub fn job(&self, serial: u64, job: Job) {
        self.ask(Ask::Job(serial, job));
    }

    /// So much is acknowledged: written along with the next commit, or when nothing else is to do.
    pub fn mark(&self, acknowledged: u64) {
        self.ask(Ask::Mark(acknowledged));
    }

    /// Checks everything.
    pub fn verify(&self, answer: impl FnOnce(Result<Verified, StoreError>) + Send + 'static) {
        self.ask(Ask::Verify(Box::new(answer)));
    }

    /// Reads what was set aside.
    pub fn aside(&self, answer: impl FnOnce(Result<Vec<AsideEntry>, StoreError>) + Send + 'static) {
        self.ask(Ask::Aside(Box::new(answer)));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // It panics only over a defect, which its own message has named.
            let _ = thread.join();
        }
    }
}

fn run(mut store: Store, asks: &Receiver<Ask>, mut report: impl FnMut(Report)) {
    let (mut mark, mut dirty) = (None, false);
    loop {
        let first = match asks.recv_timeout(IDLE) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut jobs = vec![];
        let idle = first.is_none();
        for ask in first.into_iter().chain(asks.try_iter().take(GROUP)) {
            match ask {
                Ask::Job(serial, job) => {
                    if let Job::Mend { keep, .. } = &job {
                        // What was noted before the cut must not reach beyond it.
                        mark = mark.map(|mark: u64| mark.min(*keep));
                    }
                    jobs.push((serial, job));
                }
                Ask::Mark(acknowledged) => mark = Some(acknowledged),
                Ask::Verify(answer) => answer(store.verify()),
                Ask::Aside(answer) => answer(store.aside()),
            }
        }
        let work = if !jobs.is_empty() || idle && mark.is_some() {
            dirty = true;
            store.commit(&jobs, mark.take())
        } else if idle && std::mem::take(&mut dirty) {
            store.checkpoint()
        } else {
            continue;
        };
        if let Err(error) = work {
            return report(Report::Failed(error.to_string()));
        }
        for (serial, _) in jobs {
            report(Report::Stored(serial));
        }
    }
    // Nobody asks any more. The mark is a convenience: what it lacks is found out from the partner.
    if let Some(error) = mark.and_then(|mark| store.commit(&[], Some(mark)).err()) {
        report(Report::Failed(error.to_string()));
    }
}

fn apply(transaction: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    match job {
        Job::Append(entries) => append(transaction, entries),
        Job::Session { epoch, session } => {
            fact(transaction, "session_epoch", epoch.get())?;
            fact(transaction, "session", *session)
        }
        Job::Mend { keep, aside, entries } => {
            for (entry, acknowledged) in aside {
                let entry = serde_json::to_string(entry).expect("entries are plain data");
                transaction.execute(
                    "INSERT INTO aside (entry, acknowledged) VALUES (?1, ?2)",
                    params![entry, acknowledged],
                )?;
            }
            if !aside.is_empty() {
                transaction.execute("DELETE FROM log WHERE idx > ?1", [keep.cast_signed()])?;
                transaction.execute(
                    "UPDATE meta SET value = min(value, ?1) WHERE key = 'acknowledged'",
                    [keep.cast_signed()],
                )?;
                rebuild(transaction)?;
            }
            append(transaction, entries)
        }
    }
}

fn append(transaction: &Transaction<'_>, entries: &[LogEntry]) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for entry in entries {
        insert.execute(params![
            entry.index.cast_signed(),
            entry.epoch.get().cast_signed(),
            entry.session.cast_signed(),
            entry.action_id.as_bytes(),
            entry.request.0,
            entry.format,
            encode_rows(&entry.rows),
            entry.previous.0,
            entry.hash.0,
        ])?;
        for row in &entry.rows {
            fold(transaction, row)?;
        }
    }
    Ok(())
}

fn fold(transaction: &Transaction<'_>, row: &RowOp) -> rusqlite::Result<()> {
    match row {
        RowOp::Put(row) => {
            let (kind, id) = place(row);
            let put = format!(
                "INSERT INTO \"{kind}\" (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
            );
            transaction
                .prepare_cached(&put)?
                .execute(params![id, body(row)])?;
        }
        RowOp::Delete(key) => {
            let delete = format!("DELETE FROM \"{}\" WHERE id = ?1", key.kind());
            transaction.prepare_cached(&delete)?.execute([reference(key)])?;
        }
    }
    Ok(())
}

/// Makes the tables again from what is left of the log.
fn rebuild(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for kind in Kind::ALL {
        transaction.execute(&format!("DELETE FROM \"{kind}\""), [])?;
    }
    let mut statement = transaction.prepare("SELECT rows FROM log ORDER BY idx")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let rows: Vec<RowOp> = serde_json::from_str(&row.get::<_, String>(0)?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
        })?;
        for row in &rows {
            fold(transaction, row)?;
        }
    }
    Ok(())
}

fn fact(transaction: &Transaction<'_>, key: &str, value: u64) -> rusqlite::Result<()> {
    let put = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    transaction
        .prepare_cached(put)?
        .execute(params![key, value.cast_signed()])
        .map(drop)
}

fn place(row: &Resource) -> (Kind, String) {
    let key = row.key();
    (key.kind(), reference(&key))
}

fn body(row: &Resource) -> String {
    serde_json::to_string(row).expect("rows are plain data")
}

fn classify(path: &Path, what: &'static str, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let damaged = matches!(
        source,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
    );
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged {
            path,
            what: source.to_string(),
        },
        _ if damaged => StoreError::Damaged {
            path,
            what: format!("cannot {what}: {source}"),
        },
        _ => StoreError::Failed { path, what, source },
    }
}
