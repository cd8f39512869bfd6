//! Who dies while the database of an older version is upgraded finds all of it the next time, and an older copy that is whole.

use pollux_api::id::ArrayId;
use pollux_config_keeper::store::{Opened, Places, Store};
use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// The array of the frozen databases.
const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);
/// More flushes than an upgrade makes.
const FLUSHES: u64 = 200;

/// One life of a keeper, which ends when there are no more orders, or where it is told to die.
fn life(folder: &Path, seed: u64, death: Option<(&str, u64)>) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollux-crash"));
    command.args(["keeper", "--side", "a", "--seed", &seed.to_string()]);
    command.args(["--array", &ARRAY.to_string()]);
    command.arg("--folder").arg(folder);
    if let Some((place, nth)) = death {
        command.args(["--place", place, "--nth", &nth.to_string()]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("the program starts")
}

/// Entries of a database, and its version, if SQLite finds nothing wrong with it.
fn sound(path: &Path) -> (i64, i64) {
    let connection = Connection::open(path).unwrap();
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok", "{}", path.display());
    let one = |sql| connection.query_row(sql, [], |row| row.get(0)).unwrap();
    (one("SELECT count(*) FROM log"), one("PRAGMA user_version"))
}

/// Dies there, and begins again; false: it was not passed so often.
fn dies(place: &str, nth: u64) -> bool {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config-keeper/tests/frozen/v1.db");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.db");
    std::fs::copy(frozen, &path).unwrap();
    let died = !life(folder.path(), nth, Some((place, nth))).success();
    let copy = path.with_extension("db.v1");
    if copy.exists() {
        assert_eq!(sound(&copy), (7, 1), "{place} {nth}");
    }
    assert!(life(folder.path(), nth + 1, None).success(), "{place} {nth}");
    assert_eq!(sound(&copy), (7, 1), "{place} {nth}");
    let (store, Opened { loaded, lost, .. }) = Store::open(&path, ARRAY).unwrap();
    drop(store);
    assert_eq!((loaded.entries.len(), lost), (7, None), "{place} {nth}");
    assert!(sound(&path).1 > 1, "{place} {nth}");
    died
}

#[test]
fn who_dies_in_an_upgrade_loses_nothing_and_leaves_a_whole_copy_or_none() {
    let migrations = Places::ALL.iter().filter(|place| place.ends_with("migration"));
    for place in Places::UPGRADE.iter().chain(migrations) {
        assert!(dies(place, 1), "{place} is not passed");
    }
    let flushes = (1..FLUSHES).take_while(|nth| dies("in flush", *nth)).count();
    assert!(flushes > 5, "{flushes} flushes");
    assert!(flushes + 1 < FLUSHES as usize, "an upgrade without an end");
}
