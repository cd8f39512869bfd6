//! A boot disk that fills up, and one that takes no writes: real file systems, small ones, in a mount namespace of
//! their own. Says SKIPPED and why where this user may not mount.

mod common;

use common::{ARRAY, Alone, action, change};
use pollux_config_core::keeper::Event;
use pollux_config_keeper::store::{Report, Room, Store, StoreError, Way};
use std::path::Path;
use std::process::Command;

/// Set for the process in the namespace: where its file system is.
const INSIDE: &str = "POLLUX_TEST_SMALL_DISK";

/// Runs a test of this file on a file system of its own; false: it was run, or cannot be.
fn inside(test: &str, size: &str) -> Option<String> {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return folder.into_string().ok();
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size={size} tmpfs \"${INSIDE}\" || exit 77; exec \"$0\" --exact {test} --nocapture"
    );
    let outcome = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, dir.path())
        .output();
    match outcome {
        Err(error) => println!("SKIPPED {test}: cannot run unshare: {error}"),
        Ok(output) => {
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            // Exit code 1 of unshare itself, before anything of ours ran.
            if output.status.code() == Some(77) || said.contains("unshare failed") {
                println!("SKIPPED {test}: this user may not mount: {}", said.trim());
            } else {
                assert!(output.status.success(), "{said}");
                assert!(said.contains("1 passed"), "{said}");
            }
        }
    }
    None
}

fn fill(folder: &Path, leave: u64) {
    let path = folder.join("filler");
    let _ = std::fs::remove_file(&path);
    let room = pollux_platform::file::space(folder).unwrap();
    let bytes = room.free.saturating_sub(leave) / 4096 * 4096;
    std::fs::write(&path, vec![1; usize::try_from(bytes).unwrap()]).unwrap();
}

#[test]
fn a_disk_that_fills_up_gives_an_alarm_then_refuses_then_goes_on() {
    let Some(folder) = inside(
        "a_disk_that_fills_up_gives_an_alarm_then_refuses_then_goes_on",
        "200m",
    ) else {
        return;
    };
    let folder = Path::new(&folder);
    let path = folder.join("config.db");
    let mut alone = Alone::open(&path);
    alone.changes(1..=3);
    // What is done when nothing waits takes room, too.
    for _ in 0..2 {
        alone.writer.rest();
        alone.done();
    }
    let ample = Room::of(&path).unwrap();
    assert_eq!((ample.alarm(), ample.refusal(false)), (None, None));

    fill(folder, 40 << 20);
    // The store says so by itself, when it looks next.
    let told = alone.reports.iter().find_map(|report| match report {
        Report::Room(room) => room.alarm(),
        _ => None,
    });
    // It may have looked while the disk was being filled.
    let (what, _) = told.unwrap();
    assert!(what.contains(" MiB of 200 MiB"), "{what}");
    let (what, remedy) = Room::of(&path).unwrap().alarm().unwrap();
    assert!(
        what.contains("40.0 MiB of 200 MiB") && remedy.contains(&*folder.to_string_lossy()),
        "{what}; {remedy}"
    );
    assert_eq!(
        Room::of(&path).unwrap().refusal(false),
        None,
        "an alarm refuses nothing"
    );
    alone.changes(4..=6);

    fill(folder, 15 << 20);
    let full = Room::of(&path).unwrap();
    let (what, _) = full.refusal(false).unwrap();
    assert!(
        what.contains("15.0 MiB of 200 MiB") && what.contains("16 MiB are needed"),
        "{what}"
    );
    assert_eq!(full.refusal(true), None, "the partner's entries are still copied");
    // What was begun ends: the log has its room, and so has a checkpoint.
    alone.changes(7..=200);
    alone.writer.rest();
    alone.done();

    std::fs::remove_file(folder.join("filler")).unwrap();
    assert_eq!(Room::of(&path).unwrap().alarm(), None);
    alone.changes([201]);
    drop(alone);
    assert_eq!(Alone::open(&path).keeper.length(), 201);
}

#[test]
fn a_write_that_finds_no_room_stops_the_store_and_a_restart_has_what_was_acknowledged() {
    let Some(folder) = inside(
        "a_write_that_finds_no_room_stops_the_store_and_a_restart_has_what_was_acknowledged",
        "32m",
    ) else {
        return;
    };
    let folder = Path::new(&folder);
    let path = folder.join("config.db");
    let mut alone = Alone::open(&path);
    alone.changes(1..=50);
    fill(folder, 0);
    // A log longer than its reserve needs room that is not there.
    let mut number = 50;
    let failed = 'full: loop {
        number += 1;
        let mut answers = alone.handle(Event::Change {
            request: 1,
            action: action(number),
            change: change(number),
        });
        while answers.is_empty() {
            match alone.reports.recv().unwrap() {
                Report::Stored(serial) => answers = alone.handle(Event::Stored { serial }),
                Report::Failed(what) => break 'full what,
                Report::Room(_) => {}
            }
        }
        assert!(number < 5000, "it never filled up");
    };
    assert!(
        failed.contains("the disk is full") && failed.contains("free space there"),
        "{failed}"
    );
    drop(alone);
    // As long as it is full, the start says so too, and leaves everything as it is.
    match Store::open_or_replace(&path, ARRAY, &Way::default()) {
        // The last checkpoint may have left room in the log.
        Ok((_, opened)) => assert_eq!(opened.lost, None),
        Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
    }
    std::fs::remove_file(folder.join("filler")).unwrap();
    let mut alone = Alone::open(&path);
    let length = alone.keeper.length();
    assert!(length == number - 1 || length == number, "{length} of {number}");
    alone.changes([number, number + 1]);
    assert_eq!(alone.keeper.length(), number + 1);
}

#[test]
fn a_read_only_file_system_is_named_with_its_mount() {
    let Some(folder) = inside("a_read_only_file_system_is_named_with_its_mount", "32m") else {
        return;
    };
    let path = Path::new(&folder).join("config.db");
    Alone::open(&path).changes(1..=2);
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how, &folder]).status().unwrap();
        assert!(done.success(), "{how}");
    };
    remount("remount,ro");
    let Err(error) = Store::open_or_replace(&path, ARRAY, &Way::default()) else {
        panic!("taken")
    };
    assert!(
        matches!(&error, StoreError::ReadOnly { mount, .. } if *mount == *folder),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("remount,rw {folder}")),
        "{error}"
    );
    remount("remount,rw");
    assert_eq!(Alone::open(&path).keeper.length(), 2);
}
