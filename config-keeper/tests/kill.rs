//! A keeper that is killed with SIGKILL again and again, in mid-commit: what it had acknowledged is there, log and
//! tables agree, and the same action asked again is answered alike. Also: what a damaged, foreign or busy database is
//! told.

mod common;

use common::{ARRAY, Alone, action, change};
use pollux_api::config::{Changed, Hex, LogHash};
use pollux_api::id::{ArrayId, ControllerId};
use pollux_config_core::keeper::{Event, Job, Keeper, Loaded};
use pollux_config_core::plan::Site;
use pollux_config_keeper::store::{Opened, Report, Store, StoreError};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

/// Set for the process that is to be killed: where its database is.
const CHILD: &str = "POLLUX_TEST_KEEPER_DATABASE";

/// Not a test of its own: the body of the process that gets killed.
#[test]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut alone = Alone::open(Path::new(&path));
    let mut out = std::io::stdout();
    for number in (alone.keeper.length() + 1..).step_by(3) {
        // Three at a time: the first has a commit of its own, the others share the next.
        let mut answers = vec![];
        for number in number..number + 3 {
            answers.extend(alone.handle(Event::Change {
                request: number,
                action: action(number),
                change: change(number),
            }));
        }
        while answers.len() < 3 {
            answers.extend(alone.stored());
        }
        for Changed { index, hash, .. } in answers {
            writeln!(out, "ack {index} {hash}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn sigkill_in_a_loop_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    let mut acknowledged: BTreeMap<u64, LogHash> = BTreeMap::new();
    for round in 0..12_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        while heard < 5 + round * 7 {
            let line = lines.next().expect("the child stopped by itself").unwrap();
            let Some(rest) = line
                .strip_prefix("ack ")
                .or_else(|| line.split_once("ack ").map(|(_, rest)| rest))
            else {
                continue;
            };
            let (index, hash) = rest.split_once(' ').unwrap();
            acknowledged.insert(index.parse().unwrap(), hash.parse::<Hex<32>>().unwrap());
            heard += 1;
        }
        child.kill().unwrap();
        // What it said between the last line read and its death was said too.
        for line in lines.map_while(Result::ok) {
            let whole = line
                .strip_prefix("ack ")
                .and_then(|rest| rest.split_once(' '))
                .filter(|(_, hash)| hash.len() == 64);
            if let Some((index, hash)) = whole {
                acknowledged.insert(index.parse().unwrap(), hash.parse::<Hex<32>>().unwrap());
            }
        }
        child.wait().unwrap();

        let mut alone = Alone::open(&path);
        for (index, hash) in &acknowledged {
            assert_eq!(
                alone.keeper.hash_at(*index),
                Some(*hash),
                "round {round}: acknowledged change {index} is lost"
            );
        }
        assert_eq!(
            alone.keeper.tables().hosts.len() as u64,
            alone.keeper.length(),
            "log and tables"
        );
        // Asked again after the crash: the same answer, no second change.
        let (index, hash) = acknowledged.last_key_value().unwrap();
        let length = alone.keeper.length();
        let answers = alone.handle(Event::Change {
            request: 1,
            action: action(*index),
            change: change(*index),
        });
        assert_eq!(
            answers
                .iter()
                .map(|changed| (changed.index, changed.hash))
                .collect::<Vec<_>>(),
            [(*index, *hash)]
        );
        assert_eq!(alone.keeper.length(), length);
    }
    assert!(acknowledged.len() > 300, "{} changes", acknowledged.len());
}

#[test]
fn the_wal_has_its_size_before_the_first_change_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    let size = || std::fs::metadata(dir.path().join("config.db-wal")).unwrap().len();
    let mut alone = Alone::open(&path);
    let before = size();
    assert!(before >= 4 << 20, "{before}");
    alone.changes(1..=50);
    assert_eq!(size(), before);
}

fn filled(path: &Path, changes: u64) {
    Alone::open(path).changes(1..=changes);
}

#[test]
fn a_database_that_cannot_be_used_says_which_and_why_and_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    filled(&path, 40);
    let good = std::fs::read(&path).unwrap();
    let refusal = |path: &Path, array| match Store::open(path, array) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            error
        }
    };

    let other = ArrayId::from_bytes([8; 16]);
    assert!(matches!(refusal(&path, other), StoreError::Foreign { wanted, .. } if wanted == other));

    let open = Store::open(&path, ARRAY).unwrap();
    assert!(matches!(refusal(&path, ARRAY), StoreError::Busy { .. }));
    drop(open);

    for (name, bytes) in [
        ("truncated", good[..good.len() / 2].to_vec()),
        ("scribbled", {
            let mut bytes = good.clone();
            bytes[8192..12288].fill(0x5a);
            bytes
        }),
        (
            "no-database",
            b"this is a letter to a friend, not a database, and quite long".repeat(20),
        ),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let error = refusal(&path, ARRAY);
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}: it was written to");
    }

    let path = dir.path().join("newer.db");
    filled(&path, 1);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection
        .execute("UPDATE meta SET value = 99 WHERE key = 'schema'", [])
        .unwrap();
    drop(connection);
    assert!(matches!(
        refusal(&path, ARRAY),
        StoreError::Newer { found: 99, .. }
    ));
}

#[test]
fn tables_that_are_not_what_the_log_says_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    filled(&path, 3);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("DELETE FROM host WHERE id = (SELECT min(id) FROM host)", [])
        .unwrap();
    drop(connection);
    let Err(error) = Store::open(&path, ARRAY) else {
        panic!("taken")
    };
    assert!(
        matches!(&error, StoreError::Damaged { what, .. } if what.starts_with("host ") && what.ends_with("is missing")),
        "{error}"
    );
}

#[test]
fn a_mended_log_is_rebuilt_and_what_was_cut_off_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.db");
    filled(&path, 5);
    let (store, Opened { loaded, .. }) = Store::open(&path, ARRAY).unwrap();
    let (sender, reports) = channel();
    let writer = store.spawn(move |report| drop(sender.send(report)));
    writer.mark(5);
    let aside: Vec<_> = loaded.entries[2..]
        .iter()
        .map(|entry| (entry.clone(), true))
        .collect();
    writer.job(
        1,
        Job::Mend {
            keep: 2,
            aside,
            entries: vec![],
        },
    );
    let stored = reports.iter().find(|report| !matches!(report, Report::Room(_)));
    assert!(matches!(stored, Some(Report::Stored(1))));
    let (sender, found) = channel();
    writer.verify(move |verified| drop(sender.send(verified.unwrap())));
    let verified = found.recv().unwrap();
    assert_eq!(
        (verified.entries, verified.rows, verified.problems),
        (2, 2, vec![])
    );
    drop(writer);
    let (_, Opened { loaded, aside, .. }) = Store::open(&path, ARRAY).unwrap();
    assert_eq!(
        (loaded.entries.len(), loaded.acknowledged <= 2, aside),
        (2, true, (3, true))
    );
}

#[test]
fn a_log_that_is_shortened_and_one_that_begins_with_rows_say_the_same_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (short, whole) = (dir.path().join("short.db"), dir.path().join("whole.db"));
    filled(&whole, 60);
    let mut alone = Alone::keeping(Store::open(&short, ARRAY).unwrap(), 3);
    alone.changes(1..=60).writer.mark(60);
    alone.writer.rest();
    alone.done();
    let (tables, hash) = (alone.keeper.tables().clone(), alone.keeper.hash_at(60));
    drop(alone);
    let (store, Opened { loaded, .. }) = Store::open(&short, ARRAY).unwrap();
    let gone = loaded.compacted.facts.length;
    assert!(gone > 40 && loaded.entries.len() as u64 == 60 - gone, "{gone}");
    let with = loaded.compacted.clone();
    let entries = loaded.entries.clone();
    let same = |loaded: Loaded| {
        let keeper = Keeper::load(ControllerId::A, None, Site::default(), loaded).unwrap();
        assert_eq!((keeper.length(), keeper.hash_at(60)), (60, hash));
        assert_eq!(keeper.acknowledged(), keeper.length());
        assert_eq!(keeper.tables(), &tables);
    };
    same(loaded);
    drop(store);
    // Another database, of which nothing stays but what is set aside, takes over rows and entries.
    let (store, Opened { loaded, .. }) = Store::open(&whole, ARRAY).unwrap();
    let aside = loaded.entries[50..]
        .iter()
        .map(|entry| (entry.clone(), false))
        .collect();
    let (sender, reports) = channel();
    let writer = store.spawn(move |report| drop(sender.send(report)));
    let with = Box::new(with);
    writer.job(1, Job::Begin { with, aside });
    writer.job(2, Job::Append(entries));
    writer.mark(60);
    writer.rest();
    let mut stored = reports.iter().filter(|report| !matches!(report, Report::Room(_)));
    for number in 1..=2 {
        assert!(matches!(stored.next(), Some(Report::Stored(serial)) if serial == number));
    }
    let (sender, found) = channel();
    writer.verify(move |verified| drop(sender.send(verified.unwrap())));
    assert_eq!(found.recv().unwrap().problems, Vec::<String>::new());
    drop(writer);
    let (_, Opened { loaded, aside, .. }) = Store::open(&whole, ARRAY).unwrap();
    assert_eq!(aside, (10, false));
    same(loaded);
}
