//! Fault matrix, H7: a database that is damaged, on one controller and on both, with whole arrays.

use pollux_api::chassis::PowerAction;
use pollux_api::config::Op;
use pollux_api::id::ControllerId::{self, A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};
use std::path::PathBuf;

fn database(stage: &Stage, at: ControllerId) -> PathBuf {
    stage.array.directory().join(at.as_str()).join("var/config.db")
}

/// Writes over every page of the database but the first, and over what was not copied into it yet.
fn scribble(stage: &Stage, at: ControllerId) -> Vec<u8> {
    let path = database(stage, at);
    let mut bytes = std::fs::read(&path).expect("the database is there");
    let from = bytes.len().min(4096);
    bytes[from..].fill(0x5a);
    std::fs::write(&path, &bytes).expect("it can be written");
    let wal = PathBuf::from(format!("{}-wal", path.display()));
    if wal.exists() {
        std::fs::write(&wal, [0x5a; 8192]).expect("it can be written");
    }
    bytes
}

fn host(name: &str) -> Vec<Op> {
    vec![Op::CreateHost {
        name: name.into(),
        iqns: vec![format!("iqn.2026-01.test:{name}")],
    }]
}

fn is_sound(stage: &Stage) -> std::result::Result<(), String> {
    let (code, said) = stage.pollux(&["config", "verify"], "");
    that(code == Some(0) && said.matches("are sound").count() == 2, || {
        said.clone()
    })
}

/// The backup is brought, and both controllers have its changes again.
fn bring_back(stage: &Stage, file: &str, length: u64) -> Result<()> {
    wait_for("the backup is taken", MOVE + BOOT, || {
        let (code, said) = stage.pollux(&["config", "restore", file, "--yes"], "");
        that(code == Some(0) && said.contains("done: controller"), || {
            said.clone()
        })
    })?;
    wait_for("both have it again", MOVE + BOOT, || {
        for at in [A, B] {
            let status = stage.array.config(at)?;
            that(status.lost.is_none() && status.length >= length, || {
                format!("{at}: {status:?}")
            })?;
        }
        is_sound(stage)
    })
}

#[test]
fn h7_a_damaged_database_is_kept_and_repaired_from_the_partner() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    stage
        .array
        .change(A, host("before"))
        .expect("a joined array takes changes");
    let cut = stage.array.power(B, PowerAction::Off)?;
    let damaged = scribble(&stage, B);
    stage.array.power(B, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_for("both databases are sound", MOVE + BOOT, || {
        let status = stage.array.config(B)?;
        that(status.lost.is_none(), || format!("{:?}", status.lost))?;
        is_sound(&stage)
    })?;
    let kept = database(&stage, B).with_file_name("config.db.damaged-1");
    assert_eq!(std::fs::read(kept).expect("the damaged one is kept"), damaged);
    wait_for("changes are taken again", MOVE + BOOT, || {
        stage
            .array
            .change(B, host("after"))
            .map(drop)
            .map_err(|error| error.to_string())
    })?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

#[test]
fn h7_both_damaged_serves_no_configuration_until_a_backup_is_restored() -> Result<()> {
    let Some(stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    stage
        .array
        .change(A, host("before"))
        .expect("a joined array takes changes");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup");
    let file = file.to_str().expect("a plain name");
    let (code, said) = stage.pollux(&["config", "backup", file], "");
    assert_eq!(code, Some(0), "{said}");
    let length = stage.array.config(A).expect("status").acknowledged_length;
    // Nothing is lost here: restoring is a change like any other, and there is none to make.
    let (code, said) = stage.pollux(&["config", "restore", file], "");
    assert!(code == Some(0) && said.contains("says already"), "{said}");
    for at in [A, B] {
        stage.array.power(at, PowerAction::Off)?;
    }
    for at in [A, B] {
        scribble(&stage, at);
    }
    for at in [A, B] {
        stage.array.power(at, PowerAction::On)?;
    }
    wait_for("both say that they have lost it", MOVE + BOOT, || {
        for at in [A, B] {
            let status = stage.array.config(at)?;
            that(status.lost.is_some() && status.length == 0, || {
                format!("{at}: {status:?}")
            })?;
        }
        Ok(())
    })?;
    let refused = stage
        .array
        .change(A, host("never"))
        .expect_err("nothing may be begun");
    assert!(!refused.data.what.is_empty(), "{refused:?}");
    let (code, said) = stage.pollux(&["config", "restore", file, "--dry-run"], "");
    assert!(code == Some(0) && said.contains("nothing was done"), "{said}");
    bring_back(&stage, file, length)
}

/// So many changes, one after the other.
fn grow(stage: &Stage, at: ControllerId, name: &str, count: usize) {
    for number in 0..count {
        let made = stage.array.change(at, host(&format!("{name}{number}")));
        made.unwrap_or_else(|error| panic!("{name}{number}: {error:?}"));
    }
}

#[test]
fn a_partner_that_missed_more_than_is_kept_and_a_backup_begin_with_what_the_changes_amount_to() -> Result<()>
{
    let Some(stage) = Stage::set(|plan| plan.array.history = Some(16)) else {
        return Ok(());
    };
    grow(&stage, A, "before", 40);
    let begins = |at: ControllerId| stage.array.config(at).map(|status| status.compacted);
    wait_for("both let their first changes go", MOVE, || {
        for at in [A, B] {
            let gone = begins(at)?;
            that(gone > 16, || format!("{at}: the first {gone} are gone"))?;
        }
        Ok(())
    })?;
    // What is gone is named, and what it amounts to is shown.
    let (code, said) = stage.pollux(&["config", "history", "--after", "1"], "");
    assert!(code == Some(0) && said.contains("are no longer kept"), "{said}");
    let (code, said) = stage.pollux(&["config", "diff", "2"], "");
    assert!(code == Some(2) && said.contains("an index from"), "{said}");
    let (code, said) = stage.pollux(&["host", "list"], "");
    assert!(
        code == Some(0) && said.contains("before0") && said.contains("before39"),
        "{said}"
    );

    // The survivor changes more than it keeps while its partner is away.
    stage.array.power(B, PowerAction::Off)?;
    let mut tries = 0;
    wait_for("the survivor takes changes alone", MOVE + BOOT, || {
        let (_, said) = stage.pollux(&["config", "open", "--yes"], "");
        // A try may be done although its answer was lost: each has a name of its own.
        tries += 1;
        stage
            .array
            .change(A, host(&format!("try{tries}")))
            .map(drop)
            .map_err(|error| format!("{error:?}; {said}"))
    })?;
    grow(&stage, A, "away", 100);
    stage.array.power(B, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_for("both say the same", MOVE + BOOT, || is_sound(&stage))?;
    let (a, b) = (
        stage.array.config(A).expect("status"),
        stage.array.config(B).expect("status"),
    );
    assert_eq!((a.length, a.hash), (b.length, b.hash));
    // What it had may be in that history, and nobody can say so any more: it is kept for people to see.
    assert!(b.aside <= 16, "{b:?}");

    // Both databases are lost, and a backup that begins with rows is brought.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup");
    let file = file.to_str().expect("a plain name");
    let (code, said) = stage.pollux(&["config", "backup", file], "");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = stage.pollux(&["config", "restore", file], "");
    assert!(code == Some(0) && said.contains("says already"), "{said}");
    let length = stage.array.config(A).expect("status").acknowledged_length;
    for at in [A, B] {
        stage.array.power(at, PowerAction::Off)?;
        scribble(&stage, at);
    }
    for at in [A, B] {
        stage.array.power(at, PowerAction::On)?;
    }
    bring_back(&stage, file, length)?;
    let (code, said) = stage.pollux(&["host", "list"], "");
    assert!(
        code == Some(0) && said.contains("before0") && said.contains("away99"),
        "{said}"
    );
    Ok(())
}
