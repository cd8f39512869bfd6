//! The book itself: one SQLite database, of which this process is the only reader and writer.
//!
//! ```text
//! compacted  kind, id, body: what the first entries amounted to when they were let go    what the log begins with
//! log        index, epoch, session, action_id, request, format, rows, previous, hash     the truth
//! (kind)     id, body, and columns read from the body; one table for each kind            what the log amounts to
//! meta       array, session, acknowledged, folded                                        small facts
//! aside      entries that lost their place when a fork was mended                        for people
//! ```
//!
//! A thread takes jobs in order. Everything that has come in while a commit ran goes into the next one: one
//! transaction, one flush, however many changes. The log is what a change is acknowledged by; the tables follow it, and
//! `folded` says, in the transaction that changes them, how far: no crash can part them unseen, and the start goes on from
//! there.
//!
//! How it is fast: write-ahead log with `synchronous=FULL`; the WAL is filled with zeros to its working size at the
//! start and never shrinks, so a commit overwrites blocks that exist. A commit writes the one page of the log at which it
//! appends (an index on actions, the tables and the mark cost three to four pages more, which made a commit take four times
//! as long). Tables are folded and the WAL is copied into the database when nothing waits, or when the WAL is nearly full.
//!
//! What else there is:
//!
//! | part | what it is |
//! |---|---|
//! | [`compaction`] | lets the first entries go, begins a log with rows |
//! | [`damage`] | finds a database that is not what was written; puts it aside, and a new one in its place |
//! | [`mark`] | where the log ended, beside the database: what SQLite drops in silence is missed |
//! | [`space`] | alarm and refusal before the boot disk is full |
//!
//! Never: report a job as stored before its commit returned; go on after a failed write (what the kernel did with
//! the pages is not known); touch a database of another array or of a newer version.

mod compaction;
mod damage;
mod mark;
mod space;

pub use damage::Lost;
pub use space::Room;

use mark::{Height, Mark};
use pollux_api::action::ActionId;
use pollux_api::config::item::reference;
use pollux_api::config::{AsideEntry, Hex, Kind, LogEntry, LogHash, Resource, RowOp, Tables, Verified};
use pollux_api::id::{ArrayId, Epoch};
use pollux_config_core::keeper::{Job, Loaded};
use pollux_config_core::log::encode_rows;
use pollux_platform::file::{Lock, LockError, sync_directory};
use rusqlite::config::DbConfig;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Working size of the write-ahead log (bytes).
const WAL_BYTES: u64 = 4 << 20;
/// What a page takes in the WAL: itself and the head of its frame (<https://www.sqlite.org/fileformat2.html#walformat>).
const FRAME_BYTES: u64 = 4096 + 24;
/// So full the WAL is copied into the database though there is work: what tidying writes fits behind it.
const WAL_FULL: u64 = WAL_BYTES / 4 * 3;
/// Most jobs of one commit.
const GROUP: usize = 256;
/// Without work for so long, the mark of what is acknowledged is written and the WAL is copied into the database.
const IDLE: Duration = Duration::from_millis(500);

/// Steps from one version of the schema to the next; `user_version` counts those that were taken. Append only.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
];

/// What to do where no partner has the configuration.
pub const RESTORE: &str = "the configuration is copied from the partner as soon as it is there; if both databases are \
                           damaged: `pollux config restore FILE` brings a backup in";

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
    #[error("{path}: the database is damaged: {what}; {}", RESTORE, path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It is no keeper's database.
    #[error("{path}: this is a database of another program; name the right directory in paths.var", path = path.display())]
    Strange {
        /// The file.
        path: PathBuf,
    },
    /// The disk has no room.
    #[error(
        "{path}: cannot {what}: the disk is full: {room}, {needed} MiB are needed; free space there (old journals, copies \
         named config.db.v* and config.db.damaged-* that nobody needs), then start config-keeperd again",
        path = path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// How much is free, and where.
        room: String,
        /// How much is needed, MiB.
        needed: u64,
    },
    /// The file system takes no writes.
    #[error(
        "{path}: the file system mounted at {mount} is read-only, and the configuration cannot be kept on it; see `dmesg` for \
         why, check it with fsck, mount it for writing (mount -o remount,rw {mount}), then start config-keeperd again",
        path = path.display(), mount = mount.display()
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// Where its file system is mounted.
        mount: PathBuf,
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

/// Named places in the work of the store, told to whoever wants to know: a test that ends the process there.
#[derive(Clone, Default)]
pub struct Places(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl Places {
    /// All of them, in the order in which they can be passed.
    pub const ALL: &'static [&'static str] = &[
        "before migration",
        "in migration",
        "after migration",
        "before commit",
        "in commit",
        "after commit",
        "before mend",
        "after mend",
        "after report",
        "after mark",
        "before checkpoint",
        "after checkpoint",
    ];

    /// Those that only the upgrade of an older database passes, before its migrations.
    pub const UPGRADE: &'static [&'static str] = &["before copying", "in copying", "after copying"];

    /// `passing` is called at each place that is passed.
    #[must_use]
    pub fn new(passing: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(passing)))
    }

    fn pass(&self, place: &'static str) {
        if let Some(passing) = &self.0 {
            passing(place);
        }
    }
}

/// By what way a database is reached.
#[derive(Clone, Default)]
pub struct Way {
    /// SQLite's name of the file system layer; none: its own.
    pub vfs: Option<String>,
    /// Who is told of the places that are passed.
    pub places: Places,
}

/// An opened database.
pub struct Store {
    path: PathBuf,
    connection: Connection,
    places: Places,
    mark: Mark,
    height: Height,
    /// The mark says less.
    unmarked: bool,
    /// So many entries are in the tables.
    folded: u64,
    /// Bytes in the WAL that are not in the database yet, about.
    wal: u64,
    // Last: it is let go when the database is closed.
    _lock: Lock,
}

/// What the database held at the start.
#[derive(Debug)]
pub struct Opened {
    /// For the core.
    pub loaded: Loaded,
    /// Number of entries that were set aside, and whether one may have been acknowledged.
    pub aside: (u64, bool),
    /// A database that was damaged or gone, and whose content has not been copied from the partner yet.
    pub lost: Option<Lost>,
    /// So many entries were in the tables.
    folded: u64,
    /// The room on its disk; none: it is not known.
    pub room: Option<Room>,
}

impl Store {
    /// Opens or makes the database of `array`, brings its schema up to date and checks it. A damaged one is not touched.
    ///
    /// # Errors
    /// [`StoreError`] names the file, what is wrong and what would be right.
    pub fn open(path: &Path, array: ArrayId) -> Result<(Self, Opened), StoreError> {
        let way = Way::default();
        let lock = lock(path)?;
        damage::finish_replacement(path)?;
        Self::open_locked(path, array, &way, lock).map_err(|(error, _)| error)
    }

    /// The same; a database that is damaged is kept under another name, and an empty one that says so takes its place.
    ///
    /// # Errors
    /// As [`Self::open`], but for damage.
    pub fn open_or_replace(path: &Path, array: ArrayId, way: &Way) -> Result<(Self, Opened), StoreError> {
        let lock = lock(path)?;
        damage::finish_replacement(path)?;
        let (what, lock) = match Self::open_locked(path, array, way, lock) {
            Ok(opened) => return Ok(opened),
            Err((StoreError::Damaged { what, .. }, lock)) => (what, lock),
            Err((error, _)) => return Err(error),
        };
        let lost = Lost {
            file: damage::keep(path)?,
            what,
        };
        begin_anew(path, array, way, &lost)?;
        damage::order_replacement(path)?;
        damage::finish_replacement(path)?;
        Self::open_locked(path, array, way, lock).map_err(|(error, _)| error)
    }

    fn open_locked(
        path: &Path,
        array: ArrayId,
        way: &Way,
        lock: Lock,
    ) -> Result<(Self, Opened), (StoreError, Lock)> {
        let damaged = |what: String| StoreError::Damaged {
            path: path.to_owned(),
            what,
        };
        let checked = || {
            if let Some(what) = damage::orphans(path) {
                return Err(damaged(what));
            }
            let mut connection = connect(path, way)?;
            let (mark, height) = Mark::open(path, array)?;
            prepare(path, &mut connection, array, way, height)?;
            Ok((connection, mark, height))
        };
        let (connection, mark, height) = match checked() {
            Ok(parts) => parts,
            Err(error) => return Err((error, lock)),
        };
        let mut store = Self {
            path: path.to_owned(),
            connection,
            places: way.places.clone(),
            mark,
            height: Height::default(),
            unmarked: false,
            folded: 0,
            wal: 0,
            _lock: lock,
        };
        let mut take = || {
            let opened = store.load()?;
            let session = (opened.loaded.session_epoch, opened.loaded.session);
            let missing = height.and_then(|height| height.missing(&opened.loaded, session, opened.aside.0));
            if let Some(what) = missing {
                return Err(damaged(what));
            }
            store.reserve_wal()?;
            let (length, hash) = compaction::end(&opened.loaded);
            store.height = Height {
                length,
                hash,
                session,
                aside: opened.aside.0,
            };
            store.mark.note(&store.height)?;
            store.folded = opened.folded;
            if store.folded < store.height.length {
                store.tidy_up(None)?;
            }
            // From here on the database is what it should be: closing it brings the WAL in.
            store
                .connection
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
                .map_err(store.failed("configure it"))?;
            Ok(opened)
        };
        match take() {
            Ok(opened) => Ok((store, opened)),
            Err(error) => Err((error, store._lock)),
        }
    }

    fn failed(&self, what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        move |source| classify(&self.path, what, source)
    }

    /// The first problem that SQLite finds.
    fn integrity(&self) -> rusqlite::Result<Option<String>> {
        integrity(&self.connection)
    }

    fn load(&self) -> Result<Opened, StoreError> {
        let opening = |what| move |source| damage::opening(&self.path, what, source);
        let damaged = |what| StoreError::Damaged {
            path: self.path.clone(),
            what,
        };
        let compacted =
            compaction::read(&self.connection).map_err(opening("read what its log begins with"))?;
        if let Some(what) = compacted.wrong() {
            return Err(damaged(what));
        }
        let entries = self.log().map_err(opening("read the log"))?;
        let gone = compacted.facts.length;
        let (mut length, mut last) = (gone, compacted.facts.hash);
        for entry in &entries {
            pollux_config_core::log::follows(length, last, entry).map_err(damaged)?;
            (length, last) = (entry.index, entry.hash);
        }
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
                compacted,
                entries,
                acknowledged: meta("acknowledged")?.max(gone),
                session_epoch,
                session,
                lost: damage::lost(&self.connection)?.is_some(),
            };
            let aside = self.connection.query_row(
                "SELECT count(*), ifnull(max(acknowledged), 0) FROM aside",
                [],
                |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)),
            )?;
            Ok(Opened {
                loaded,
                aside,
                lost: damage::lost(&self.connection)?,
                folded: meta("folded")?,
                room: Room::of(&self.path),
            })
        };
        let opened = read().map_err(opening("read its facts"))?;
        if opened.loaded.acknowledged > length {
            return Err(damaged(format!(
                "{} entries are acknowledged, its log has {length}",
                opened.loaded.acknowledged
            )));
        }
        let folded = opened.folded.checked_sub(gone);
        let folded = folded.and_then(|folded| usize::try_from(folded).ok());
        let folded = folded.and_then(|folded| opened.loaded.entries.get(..folded));
        let Some(folded) = folded else {
            return Err(damaged(format!(
                "its tables are those of {} entries, its log has {length}",
                opened.folded
            )));
        };
        let begun = &opened.loaded.compacted.tables;
        let damage = self.compare(begun, folded).map_err(opening("read the tables"))?;
        match damage.into_iter().next() {
            Some(what) => Err(damaged(what)),
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
    fn compare(&self, begun: &Tables, entries: &[LogEntry]) -> rusqlite::Result<Vec<String>> {
        let mut tables = begun.clone();
        for row in entries.iter().flat_map(|entry| &entry.rows) {
            tables.apply(row);
        }
        let mut wanted: std::collections::BTreeMap<(Kind, String), String> = tables
            .rows()
            .map(|row| (place(&row), encode_body(&row)))
            .collect();
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
        let write = |connection: &mut Connection| {
            let transaction = begin(connection)?;
            transaction.execute(
                "INSERT INTO meta VALUES ('opened', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1",
                [],
            )?;
            damage::adopt(&transaction, MIGRATIONS.len() as i64)?;
            damage::seal(&transaction)?;
            transaction.commit()
        };
        write(&mut self.connection).map_err(|source| damage::opening(&self.path, "write to it", source))?;
        let wal = beside(&self.path, "-wal");
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
        grow().map_err(|source| space::storage(&wal, "reserve space in it", source))
    }

    /// One commit.
    fn commit(&mut self, jobs: &[(u64, Job)]) -> Result<(), StoreError> {
        let (path, places) = (self.path.clone(), self.places.clone());
        let mending = jobs
            .iter()
            .any(|(_, job)| matches!(job, Job::Mend { .. } | Job::Begin { .. }));
        let shortens = |(_, job): &(u64, Job)| match job {
            Job::Mend { aside, .. } => !aside.is_empty(),
            Job::Begin { .. } => true,
            Job::Append(_) | Job::Session { .. } | Job::Compact(_) => false,
        };
        if jobs.iter().any(shortens) {
            self.mark.wipe()?;
        }
        places.pass(if mending { "before mend" } else { "before commit" });
        let height = jobs
            .iter()
            .fold(self.height, |height, (_, job)| after(height, job));
        let write = |connection: &mut Connection| {
            let transaction = begin(connection)?;
            for (_, job) in jobs {
                apply(&transaction, job)?;
            }
            let mut folded = None;
            if jobs.iter().any(|(_, job)| !matches!(job, Job::Append(_))) {
                damage::seal(&transaction)?;
                folded = Some(damage::folded(&transaction)?);
            }
            places.pass("in commit");
            transaction.commit()?;
            Ok(folded)
        };
        let folded = write(&mut self.connection).map_err(|source| classify(&path, "write to it", source))?;
        self.wal += jobs.iter().map(|(_, job)| weight(job)).sum::<u64>();
        self.folded = folded.unwrap_or(self.folded);
        places.pass(if mending { "after mend" } else { "after commit" });
        self.unmarked |= height != self.height || mending;
        self.height = height;
        Ok(())
    }

    /// Notes beside the database where the log ends now. Nobody waits for it: it may lag, and never leads.
    fn mark(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.unmarked) {
            self.mark.note(&self.height)?;
        }
        self.places.pass("after mark");
        Ok(())
    }

    /// Brings the tables up to the log, and notes how much is known to be acknowledged.
    fn tidy_up(&mut self, acknowledged: Option<u64>) -> Result<(), StoreError> {
        let (path, places) = (self.path.clone(), self.places.clone());
        let (folded, length) = (self.folded, self.height.length);
        places.pass("before tidying");
        let write = |connection: &mut Connection| {
            let transaction = begin(connection)?;
            fold_between(&transaction, folded, length)?;
            fact(&transaction, "folded", length)?;
            if let Some(acknowledged) = acknowledged {
                fact(&transaction, "acknowledged", acknowledged)?;
            }
            damage::seal(&transaction)?;
            transaction.commit()
        };
        write(&mut self.connection).map_err(|source| classify(&path, "write to it", source))?;
        self.folded = length;
        places.pass("after tidying");
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.wal = 0;
        self.places.pass("before checkpoint");
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(self.failed("copy the WAL into it"))?;
        self.mark.sync()?;
        self.places.pass("after checkpoint");
        Ok(())
    }

    fn verify(&self) -> Result<Verified, StoreError> {
        let begun =
            compaction::read(&self.connection).map_err(self.failed("read what its log begins with"))?;
        let entries = self.log().map_err(self.failed("read the log"))?;
        let mut problems: Vec<String> = self
            .integrity()
            .map_err(self.failed("check it"))?
            .into_iter()
            .chain(begun.wrong())
            .collect();
        let (mut length, mut last) = (begun.facts.length, begun.facts.hash);
        for entry in &entries {
            if let Err(problem) = pollux_config_core::log::follows(length, last, entry) {
                problems.push(problem);
            }
            (length, last) = (entry.index, entry.hash);
        }
        let compared = self.compare(&begun.tables, &entries);
        problems.extend(compared.map_err(self.failed("read the tables"))?);
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

/// The path with something behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Keeps a second keeper away from the database and from what stands beside it.
fn lock(path: &Path) -> Result<Lock, StoreError> {
    space::writable(path)?;
    Lock::acquire(&beside(path, "-lock")).map_err(|error| match error {
        LockError::Held { .. } => StoreError::Busy {
            path: path.to_owned(),
        },
        LockError::Io { path, source } => space::storage(&path, "lock it", source),
    })
}

fn connect(path: &Path, way: &Way) -> Result<Connection, StoreError> {
    let failed = |what| move |source| damage::opening(path, what, source);
    let connection = match &way.vfs {
        None => Connection::open(path),
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs.as_str()),
    };
    let connection = connection.map_err(failed("open it"))?;
    // Until all of it is found sound: what is wrong stays as it was found.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("configure it"))?;
    // Exclusive: no other process, and the index of the WAL lives in memory. Nothing here writes.
    let pragmas = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
                   PRAGMA journal_size_limit = -1; PRAGMA temp_store = MEMORY;";
    connection
        .execute_batch(pragmas)
        .map_err(failed("configure it"))?;
    Ok(connection)
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// Checks that the database is sound and of this array, and brings its schema up to date. `held`: something stood in
/// it already.
fn prepare(
    path: &Path,
    connection: &mut Connection,
    array: ArrayId,
    way: &Way,
    height: Option<Height>,
) -> Result<(), StoreError> {
    let opening = |what| move |source| damage::opening(path, what, source);
    let sound = |found: Option<String>| match found {
        None => Ok(()),
        Some(what) => Err(StoreError::Damaged {
            path: path.to_owned(),
            what,
        }),
    };
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(opening("read its version"))?;
    let (found, known) = (usize::try_from(version).unwrap_or(usize::MAX), MIGRATIONS.len());
    match damage::tables(connection).map_err(opening("read its schema"))? {
        None if found == 0 && height.is_none() => {}
        Some(false) if found <= known => {
            return Err(StoreError::Strange {
                path: path.to_owned(),
            });
        }
        None if found <= known => sound(Some("its tables are gone".into()))?,
        _ => {
            let facts = damage::facts(connection);
            let claimed = damage::schema_fact(connection);
            let sealed = matches!(facts, Ok(None));
            if found > known {
                return match claimed {
                    // The header is wrong, not the program.
                    Ok(Some(claimed)) if sealed && claimed <= known as i64 => sound(Some(format!(
                        "it says that its schema has version {found}, and has version {claimed}"
                    ))),
                    _ => Err(StoreError::Newer {
                        path: path.to_owned(),
                        found,
                        known,
                    }),
                };
            }
            sound(facts.map_err(opening("read its facts"))?)?;
            let claimed = claimed.map_err(opening("read its facts"))?;
            if let Some(claimed) = claimed.filter(|claimed| *claimed != version) {
                sound(Some(format!(
                    "it says that its schema has version {found}, and has version {claimed}"
                )))?;
            }
            own(path, connection, array)?;
            sound(integrity(connection).map_err(opening("check it"))?)?;
            sound(damage::aside(connection).map_err(opening("read what was set aside"))?)?;
            // The upgrade is in the log of which something is missing, and would only be written once more.
            if let Some(height) = height.filter(|_| found < known) {
                let length: i64 = connection
                    .query_row("SELECT ifnull(max(idx), 0) FROM log", [], |row| row.get(0))
                    .map_err(opening("read the log"))?;
                sound((length.cast_unsigned() < height.length).then(|| {
                    format!(
                        "its log ends at entry {length}, and {} were stored",
                        height.length
                    )
                }))?;
            }
        }
    }
    connection
        .execute_batch("PRAGMA journal_mode = WAL")
        .map_err(opening("configure it"))?;
    migrate(path, connection, array, found, &way.places)?;
    sound(damage::schema(connection).map_err(opening("read its schema"))?)
}

fn migrate(
    path: &Path,
    connection: &mut Connection,
    array: ArrayId,
    found: usize,
    places: &Places,
) -> Result<(), StoreError> {
    if found > 0 && found < MIGRATIONS.len() {
        keep_copy(path, connection, found, places)?;
    }
    for (at, step) in MIGRATIONS.iter().enumerate().skip(found) {
        places.pass("before migration");
        let upgrade = |connection: &mut Connection| {
            let transaction = begin(connection)?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", at as i64 + 1)?;
            transaction.execute(
                "INSERT INTO meta VALUES ('array', ?1) ON CONFLICT (key) DO NOTHING",
                [array.to_string()],
            )?;
            damage::adopt(&transaction, at as i64 + 1)?;
            damage::seal(&transaction)?;
            places.pass("in migration");
            transaction.commit()
        };
        upgrade(connection).map_err(|source| classify(path, "upgrade its schema", source))?;
        places.pass("after migration");
    }
    Ok(())
}

/// A copy of the database as it was, for whoever has to go back to the older program.
fn keep_copy(
    path: &Path,
    connection: &Connection,
    version: usize,
    places: &Places,
) -> Result<(), StoreError> {
    let copy = path.with_extension(format!("db.v{version}"));
    if copy.exists() {
        return Ok(());
    }
    // Made under another name: who dies in the middle leaves nothing that looks like a copy.
    let making = beside(&copy, "-new");
    damage::remove(&making)?;
    places.pass("before copying");
    connection
        .execute("VACUUM INTO ?1", [making.to_string_lossy()])
        .map_err(|source| classify(path, "copy it before the upgrade", source))?;
    places.pass("in copying");
    let made = making.as_path();
    let failed = |what| move |source| space::storage(made, what, source);
    // SQLite does not flush what it copies.
    std::fs::File::open(made)
        .and_then(|file| file.sync_all())
        .map_err(failed("flush it"))?;
    std::fs::rename(made, &copy).map_err(failed("rename it"))?;
    sync_directory(damage::folder(path)).map_err(failed("flush its folder"))?;
    places.pass("after copying");
    Ok(())
}

/// Refuses a database of another array. One that was made before its owner was written belongs to nobody yet.
fn own(path: &Path, connection: &mut Connection, array: ArrayId) -> Result<(), StoreError> {
    let opening = |what| move |source| damage::opening(path, what, source);
    let found: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'array'", [], |row| row.get(0))
        .optional()
        .map_err(opening("read its owner"))?;
    match found {
        Some(found) if found == array.to_string() => Ok(()),
        Some(found) => Err(StoreError::Foreign {
            path: path.to_owned(),
            found,
            wanted: array,
        }),
        None => {
            let write = |connection: &mut Connection| {
                let transaction = begin(connection)?;
                damage::put(&transaction, "array", array.to_string())?;
                damage::seal(&transaction)?;
                transaction.commit()
            };
            write(connection).map_err(opening("write its owner"))
        }
    }
}

/// The first problem that SQLite finds.
fn integrity(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}

/// Makes, beside the damaged database, an empty one that says what was lost.
fn begin_anew(path: &Path, array: ArrayId, way: &Way, lost: &Lost) -> Result<(), StoreError> {
    damage::clear_fresh(path)?;
    let fresh = damage::fresh(path);
    let mut connection = connect(&fresh, way)?;
    prepare(&fresh, &mut connection, array, way, None)?;
    let write = |connection: &mut Connection| {
        let transaction = begin(connection)?;
        damage::note_lost(&transaction, lost)?;
        damage::seal(&transaction)?;
        transaction.commit()?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    write(&mut connection).map_err(|source| classify(&fresh, "write to it", source))
}

/// What became of jobs.
#[derive(Debug)]
pub enum Report {
    /// Durable.
    Stored(u64),
    /// A write failed: nothing more is taken.
    Failed(String),
    /// The room on the disk is no longer what it was.
    Room(Room),
}

enum Ask {
    Job(u64, Job),
    Mark(u64),
    Rest,
    Look(Box<dyn FnOnce(&Store) + Send>),
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

    /// So much is acknowledged: written when nothing else is to do.
    pub fn mark(&self, acknowledged: u64) {
        self.ask(Ask::Mark(acknowledged));
    }

    /// Does now what is done when nothing waits: the mark is written, the WAL is copied into the database.
    pub fn rest(&self) {
        self.ask(Ask::Rest);
    }

    /// Checks everything.
    pub fn verify(&self, answer: impl FnOnce(Result<Verified, StoreError>) + Send + 'static) {
        self.ask(Ask::Look(Box::new(|store| answer(store.verify()))));
    }

    /// Reads what was set aside.
    pub fn aside(&self, answer: impl FnOnce(Result<Vec<AsideEntry>, StoreError>) + Send + 'static) {
        self.ask(Ask::Look(Box::new(|store| answer(store.aside()))));
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
    let (mut mark, mut dirty, mut watch) = (None, false, space::Watch::default());
    loop {
        let first = match asks.recv_timeout(IDLE) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(room) = watch.look(&store.path) {
            report(Report::Room(room));
        }
        let (mut jobs, mut looks) = (vec![], vec![]);
        let mut rest = first.is_none();
        for ask in first.into_iter().chain(asks.try_iter().take(GROUP)) {
            match ask {
                Ask::Job(serial, job) => {
                    // What was noted before a cut must not reach beyond it.
                    match &job {
                        Job::Mend { keep, .. } => mark = mark.map(|mark: u64| mark.min(*keep)),
                        Job::Begin { .. } => mark = None,
                        Job::Append(_) | Job::Session { .. } | Job::Compact(_) => {}
                    }
                    jobs.push((serial, job));
                }
                Ask::Mark(acknowledged) => mark = Some(acknowledged),
                Ask::Rest => rest = true,
                // It sees what was asked for before it.
                Ask::Look(look) => looks.push(look),
            }
        }
        if !jobs.is_empty() {
            dirty = true;
            if let Err(error) = store.commit(&jobs) {
                return report(Report::Failed(error.to_string()));
            }
            for (serial, _) in jobs {
                report(Report::Stored(serial));
                store.places.pass("after report");
            }
            if let Err(error) = store.mark() {
                return report(Report::Failed(error.to_string()));
            }
        }
        let tidying = mark.is_some() || store.folded < store.height.length;
        if tidying && (rest || !looks.is_empty() || store.wal > WAL_FULL) {
            dirty = true;
            if let Err(error) = store.tidy_up(mark.take()) {
                return report(Report::Failed(error.to_string()));
            }
        }
        if (rest || store.wal > WAL_FULL)
            && std::mem::take(&mut dirty)
            && let Err(error) = store.checkpoint()
        {
            return report(Report::Failed(error.to_string()));
        }
        for look in looks {
            look(&store);
        }
    }
    // Nobody asks any more. The mark is a convenience: what it lacks is found out from the partner.
    if (mark.is_some() || store.folded < store.height.length)
        && let Err(error) = store.tidy_up(mark)
    {
        report(Report::Failed(error.to_string()));
    }
}

/// Where the log ends after a job.
fn after(height: Height, job: &Job) -> Height {
    let end = |height: Height, entries: &[LogEntry]| {
        entries.last().map_or(height, |last| Height {
            length: last.index,
            hash: last.hash,
            ..height
        })
    };
    match job {
        Job::Append(entries) => end(height, entries),
        Job::Compact(_) => height,
        Job::Begin { with, aside } => Height {
            length: with.facts.length,
            hash: with.facts.hash,
            aside: height.aside + aside.len() as u64,
            ..height
        },
        Job::Session { epoch, session } => Height {
            session: (*epoch, *session),
            ..height
        },
        Job::Mend { aside, entries, .. } => {
            // What is cut off names the entry before it.
            let cut = aside.first().map_or(height, |(entry, _)| Height {
                length: entry.index - 1,
                hash: entry.previous,
                aside: height.aside + aside.len() as u64,
                ..height
            });
            end(cut, entries)
        }
    }
}

fn apply(transaction: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    match job {
        Job::Append(entries) => append(transaction, entries),
        Job::Session { epoch, session } => {
            fact(transaction, "session_epoch", epoch.get())?;
            fact(transaction, "session", *session)?;
            // The core begins no session before a log that was lost is whole again.
            damage::found_again(transaction)
        }
        Job::Compact(facts) => compaction::compact(transaction, facts),
        Job::Begin { with, aside } => compaction::begin(transaction, with, aside),
        Job::Mend { keep, aside, entries } => {
            insert_aside(transaction, aside)?;
            if !aside.is_empty() {
                fact(transaction, "folded", *keep)?;
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

fn insert_aside(transaction: &Transaction<'_>, aside: &[(LogEntry, bool)]) -> rusqlite::Result<()> {
    for (entry, acknowledged) in aside {
        let entry = serde_json::to_string(entry).expect("entries are plain data");
        transaction.execute(
            "INSERT INTO aside (entry, acknowledged) VALUES (?1, ?2)",
            params![entry, acknowledged],
        )?;
        damage::set_aside(transaction, &entry, *acknowledged)?;
    }
    Ok(())
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
    }
    Ok(())
}

/// How much of the WAL a job takes, about: its entries, and the page at which they begin.
fn weight(job: &Job) -> u64 {
    let entries = match job {
        Job::Append(entries) | Job::Mend { entries, .. } => entries.as_slice(),
        Job::Session { .. } => &[],
        // A page for each of the rows of a step.
        Job::Compact(_) => return 256 * FRAME_BYTES,
        Job::Begin { .. } => return WAL_BYTES,
    };
    let bytes: usize = entries
        .iter()
        .map(|entry| encode_rows(&entry.rows).len() + 256)
        .sum();
    (1 + bytes as u64 / 4096) * FRAME_BYTES
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
                .execute(params![id, encode_body(row)])?;
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
    compaction::restore(transaction)?;
    fold_between(transaction, 0, i64::MAX.cast_unsigned())
}

/// Folds the entries behind that index into the tables, up to another.
fn fold_between(transaction: &Transaction<'_>, folded: u64, upto: u64) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare("SELECT rows FROM log WHERE idx > ?1 AND idx <= ?2 ORDER BY idx")?;
    let mut found = statement.query([folded.cast_signed(), upto.cast_signed()])?;
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

fn encode_body(row: &Resource) -> String {
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
        Some(ErrorCode::DiskFull) => space::full(&path, what),
        Some(ErrorCode::ReadOnly) => space::read_only(&path),
        _ if damaged => StoreError::Damaged {
            path,
            what: format!("cannot {what}: {source}"),
        },
        _ => StoreError::Failed { path, what, source },
    }
}
