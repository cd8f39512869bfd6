//! A database of which a byte is wrong: every page of it and of its write-ahead log, one byte at a time. And what is
//! done about it: the damaged file is kept, an empty one takes its place, and says so until the partner's copy is in.

mod common;

use common::{ARRAY, Alone};
use pollux_api::id::{ArrayId, Epoch};
use pollux_config_core::keeper::{Job, Loaded};
use pollux_config_keeper::store::{Lost, Opened, Report, Store, StoreError, Way};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const FRAME: usize = PAGE + 24;
/// Everything that belongs to a database.
const FILES: [&str; 3] = ["config.db", "config.db-wal", "config.db-mark"];

/// What a crash leaves behind: the files, copied while the keeper has them open.
struct Left {
    name: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    loaded: Loaded,
    aside: (u64, bool),
}

impl Left {
    fn lay(&self, dir: &Path) -> PathBuf {
        for (name, bytes) in &self.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        dir.join("config.db")
    }

    fn bytes(&self, file: &str) -> &[u8] {
        let found = self.files.iter().find(|(name, _)| *name == file);
        found.map_or(&[], |(_, bytes)| bytes)
    }
}

fn left(name: &'static str, dir: &Path) -> Left {
    let files: Vec<_> = FILES
        .into_iter()
        .filter_map(|file| Some((file, std::fs::read(dir.join(file)).ok()?)))
        .collect();
    let mut left = Left {
        name,
        files,
        loaded: Loaded::default(),
        aside: (0, false),
    };
    let dir = scratch();
    let (_, opened) = Store::open(&left.lay(dir.path()), ARRAY).unwrap();
    (left.loaded, left.aside) = (opened.loaded, opened.aside);
    left
}

/// The mark is written after a change was acknowledged: until it tells of all of the log.
fn marked(alone: &Alone, dir: &Path) {
    let length = alone.keeper.durable().to_le_bytes();
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read(dir.join("config.db-mark")).unwrap().get(32..40) != Some(&length[..]) {
        assert!(Instant::now() < end, "the mark does not tell of the last change");
        std::thread::yield_now();
    }
}

/// In memory where that is possible: thousands of flushes are not what is tested.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Databases as they are found: with all of it in the file; with the last changes in the log; with a log that was
/// copied into the file and still stands there.
fn found() -> Vec<Left> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    let mut all = vec![];
    let mut alone = Alone::open(&path);
    alone.changes(1..=25);
    let entries = alone.keeper.entries(0, 25);
    let aside = entries[23..].iter().map(|entry| (entry.clone(), true)).collect();
    let session = Job::Session {
        epoch: Epoch::new(1),
        session: 4,
    };
    let mend = Job::Mend {
        keep: 23,
        aside,
        entries: vec![],
    };
    alone.writer.job(100, session);
    alone.writer.job(101, mend);
    alone.writer.mark(20);
    alone.done();
    all.push(left("all in the log", dir.path()));
    alone.writer.rest();
    alone.done();
    alone.writer.rest();
    alone.done();
    all.push(left("copied into the file, and still in the log", dir.path()));
    drop(alone);
    all.push(left("all in the file", dir.path()));
    let mut alone = Alone::open(&path);
    alone.changes(30..=33);
    marked(&alone, dir.path());
    all.push(left("the last changes in the log", dir.path()));
    alone.writer.rest();
    alone.done();
    alone.changes(34..=35);
    marked(&alone, dir.path());
    all.push(left("a log that has begun anew", dir.path()));
    drop(alone);
    // Most of its entries are let go, and what they amount to stands in rows.
    let mut alone = Alone::keeping(Store::open(&path, ARRAY).unwrap(), 2);
    alone.changes(40..=44);
    alone.writer.rest();
    alone.done();
    assert!(alone.keeper.compacted().facts.length > 3, "nothing was let go");
    drop(alone);
    all.push(left("a log that begins with rows", dir.path()));
    let mut alone = Alone::keeping(Store::open(&path, ARRAY).unwrap(), 2);
    alone.changes(45..=47);
    marked(&alone, dir.path());
    all.push(left("a log that was shortened just now", dir.path()));
    all
}

/// Places of bytes: the heads of all pages, and some in each.
fn places(bytes: &[u8], file: &str) -> Vec<usize> {
    let mut dice = 0x1234_5678_u64;
    let mut below = |n: usize| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % n
    };
    let mut places = vec![];
    if file == "config.db-wal" {
        places.extend((0..32).step_by(3));
        // Behind the frames, and behind what is left of older ones, the log is filled with zeros.
        let frames = (32..bytes.len().saturating_sub(FRAME))
            .step_by(FRAME)
            .take_while(|at| bytes[*at..*at + 8] != [0; 8]);
        for frame in frames {
            places.extend([0, 7, 9, 17].map(|at| frame + at));
            places.extend([0, 1].map(|_| frame + 24 + below(PAGE)));
        }
    } else {
        places.extend(0..100.min(bytes.len()));
        for page in (0..bytes.len()).step_by(PAGE) {
            let head = if page == 0 { 100 } else { 0 };
            places.extend((0..8).map(|at| page + head + at));
            places.extend([0, 1, 2, 3, 4].map(|_| page + below(PAGE)));
        }
    }
    places.retain(|at| *at < bytes.len());
    places
}

#[test]
fn a_wrong_byte_anywhere_is_damage_or_changes_nothing() {
    let (mut tried, mut damaged) = (0, 0);
    let dir = scratch();
    let mut wrong = vec![];
    for left in found() {
        for file in FILES {
            let good = left.bytes(file);
            for at in places(good, file) {
                let path = left.lay(dir.path());
                let mut bytes = good.to_vec();
                bytes[at] ^= [0x01, 0x80, 0xff, 0x20][at % 4];
                std::fs::write(dir.path().join(file), &bytes).unwrap();
                tried += 1;
                let place = format!("{}: byte {at} of {file}", left.name);
                match Store::open(&path, ARRAY) {
                    Ok((_, Opened { loaded, aside, .. })) => {
                        // The mark of what is acknowledged may be older: it may be more.
                        let same = loaded.entries == left.loaded.entries
                            && loaded.compacted == left.loaded.compacted
                            && loaded.acknowledged <= left.loaded.acknowledged
                            && (loaded.session_epoch, loaded.session)
                                == (left.loaded.session_epoch, left.loaded.session)
                            && aside == left.aside;
                        if !same {
                            wrong.push(format!("{place}: taken, with {} entries", loaded.entries.len()));
                        }
                    }
                    Err(StoreError::Damaged { .. }) => {
                        damaged += 1;
                        if std::fs::read(dir.path().join(file)).unwrap() != bytes {
                            wrong.push(format!("{place}: damaged, and written to"));
                        }
                    }
                    Err(error) => wrong.push(format!("{place}: {error}")),
                }
                for file in FILES {
                    // The next finds its own.
                    let _ = std::fs::remove_file(dir.path().join(file));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(tried > 500 && damaged > tried / 4, "{damaged} of {tried}");
    println!("{tried} wrong bytes, {damaged} of them damage, the others changed nothing");
}

fn lost(path: &Path) -> Option<Lost> {
    Store::open_or_replace(path, ARRAY, &Way::default())
        .unwrap()
        .1
        .lost
}

fn scribble(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[PAGE..].fill(0x5a);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn a_damaged_database_is_kept_and_an_empty_one_says_so_until_the_copy_is_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    for number in 1..=2_u32 {
        let mut alone = Alone::open(&path);
        let present = alone.keeper.length() + 1;
        alone.changes(present..present + 30);
        for _ in 0..2 {
            alone.writer.rest();
            alone.done();
        }
        alone.changes([present + 30]);
        let wal = std::fs::read(dir.path().join("config.db-wal")).unwrap();
        drop(alone);
        // As a crash leaves it: with its log.
        let bytes = scribble(&path);
        std::fs::write(dir.path().join("config.db-wal"), &wal).unwrap();
        let name = format!("config.db.damaged-{number}");
        let found = lost(&path).unwrap();
        assert_eq!(found.file, name);
        assert!(!found.what.is_empty());
        assert!(
            std::fs::read(dir.path().join(&name)).unwrap() == bytes,
            "kept as it was"
        );
        assert!(std::fs::read(dir.path().join(format!("{name}-wal"))).unwrap() == wal);
        assert_eq!(lost(&path), Some(found), "it is remembered");
        if number == 1 {
            // As the core does when the log is whole again: of this one everything was lost.
            let (store, _) = Store::open(&path, ARRAY).unwrap();
            let (epoch, session) = (Epoch::new(1), 1);
            store.spawn(|_| {}).job(1, Job::Session { epoch, session });
        }
    }
    // The copy comes, and the loss is forgotten with the session that follows.
    let (store, opened) = Store::open(&path, ARRAY).unwrap();
    assert_eq!(opened.loaded.entries, vec![]);
    let other = tempfile::tempdir().unwrap();
    let mut partner = Alone::open(&other.path().join("config.db"));
    partner.changes(1..=3);
    let (sender, reports) = channel();
    let writer = store.spawn(move |report| drop(sender.send(report)));
    let entries = partner.keeper.entries(0, 3);
    let mend = Job::Mend {
        keep: 0,
        aside: vec![],
        entries: entries.clone(),
    };
    writer.job(1, mend);
    // The core begins a session once the log is whole again.
    let (epoch, session) = (Epoch::new(1), 1);
    writer.job(2, Job::Session { epoch, session });
    let stored = reports
        .iter()
        .find(|report| !matches!(report, Report::Room(_) | Report::Stored(1)));
    assert!(matches!(stored, Some(Report::Stored(2))), "{stored:?}");
    drop(writer);
    let (_, opened) = Store::open(&path, ARRAY).unwrap();
    assert_eq!((opened.loaded.entries, opened.lost), (entries, None));
}

#[test]
fn a_replacement_that_was_interrupted_goes_on() {
    // Where it can stop: how much of the old database stands there, and whether the new one has its name.
    for (old, wal, renamed) in [
        (true, true, false),
        (true, false, false),
        (false, false, false),
        (false, false, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.db");
        Alone::open(&path).changes(1..=9);
        let bytes = scribble(&path);
        let mark = std::fs::read(dir.path().join("config.db-mark")).unwrap();
        let before = lost(&path).unwrap();
        let new = std::fs::read(&path).unwrap();
        for file in FILES {
            let _ = std::fs::remove_file(dir.path().join(file));
        }
        if old {
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(dir.path().join("config.db-mark"), &mark).unwrap();
        }
        if wal {
            std::fs::write(dir.path().join("config.db-wal"), [0x5a; 10_000]).unwrap();
        }
        let name = if renamed { "config.db" } else { "config.db.new" };
        std::fs::write(dir.path().join(name), &new).unwrap();
        std::fs::write(dir.path().join("config.db-replacing"), b"").unwrap();
        assert_eq!(lost(&path).unwrap(), before, "{old} {wal} {renamed}");
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("config.db.damaged-1"))
            .collect();
        names.sort();
        assert_eq!(names, ["config.db", "config.db-lock", "config.db-mark"]);
    }
}

#[test]
fn a_database_that_is_gone_is_lost_where_something_remembers_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    assert_eq!(lost(&path), None, "a new one is not lost");
    Alone::open(&path).changes(1..=2);
    std::fs::remove_file(&path).unwrap();
    let lost = lost(&path).unwrap();
    assert!(lost.what.contains("config.db-mark"), "{lost:?}");
    assert!(dir.path().join("config.db.damaged-1-mark").exists());
}

#[test]
fn a_database_of_another_array_of_another_program_or_of_a_newer_version_is_never_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, array| {
        let before = std::fs::read(path).unwrap();
        let Err(error) = Store::open_or_replace(path, array, &Way::default()) else {
            panic!("{} was taken", path.display())
        };
        assert!(
            std::fs::read(path).unwrap() == before,
            "{error}: it was written to"
        );
        assert!(!dir.path().join("config.db.damaged-1").exists());
        error
    };
    let path = dir.path().join("config.db");
    Alone::open(&path).changes(1..=2);
    let other = ArrayId::from_bytes([8; 16]);
    assert!(matches!(refused(&path, other), StoreError::Foreign { wanted, .. } if wanted == other));

    // A newer program writes its version in both places.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection
        .execute("UPDATE meta SET value = 99 WHERE key = 'schema'", [])
        .unwrap();
    drop(connection);
    assert!(matches!(
        refused(&path, ARRAY),
        StoreError::Newer { found: 99, .. }
    ));

    let strange = dir.path().join("strange.db");
    let connection = rusqlite::Connection::open(&strange).unwrap();
    connection
        .execute_batch("CREATE TABLE letters (to_whom TEXT)")
        .unwrap();
    drop(connection);
    assert!(matches!(refused(&strange, ARRAY), StoreError::Strange { .. }));
}
