//! What a volume can be made to be: thin, kept by snapshots, with a write cache; under load, over a takeover and a loss of
//! power.

use pollux_api::chassis::PowerAction;
use pollux_api::id::ControllerId::{A, B};
use pollux_api::pool::{STATUS, Status};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

/// Bytes at the beginning of each volume that are the test's own.
const IMAGE: usize = 3 << 20;

/// A thin volume is written, kept by a snapshot, written again; its owner dies. The partner has both: what was acknowledged,
/// and, once no host sees the volume, what it was before.
#[test]
fn j1_a_thin_volume_and_its_snapshot_survive_a_takeover() -> Result<()> {
    let adjusted = |plan: &mut pollux_pair::rig::Plan| {
        plan.thin = true;
        plan.reserved_bytes = IMAGE as u64;
    };
    let Some(mut stage) = Stage::set(adjusted) else {
        return Ok(());
    };
    let said = |stage: &Stage, arguments: &[&str], code: i32, words: &str| {
        let (ended, said) = stage.pollux(arguments, "");
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    let folder = tempfile::tempdir().expect("scratch directory");
    let image = |name: &str, fill: u8| {
        let file = folder.path().join(name);
        let bytes: Vec<u8> = (0..IMAGE).map(|at| (at / 512) as u8 ^ fill).collect();
        std::fs::write(&file, &bytes).expect("an image");
        (file, bytes)
    };
    let (before, expected) = image("before", 0x00);
    let (after, _) = image("after", 0xff);
    let alpha = stage.pool_of(A).id;
    let written = stage.host.copy_in(0, before).wait();
    written.expect("the first image is written");
    said(
        &stage,
        &["snapshot", "create", "monday", "--volume", "alpha-0"],
        0,
        "it stands",
    );
    said(&stage, &["volume", "list"], 0, "thin");
    let written = stage.host.copy_in(0, after).wait();
    written.expect("the second image is written");

    let cut = stage.array.power(A, PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    said(&stage, &["snapshot", "list"], 0, "stands");
    let rollback = ["snapshot", "rollback", "monday", "--discard-data"];
    said(&stage, &rollback[..3], 2, "--discard-data");
    let (refused, why) = stage.pollux(&rollback, "");
    assert!(refused != Some(0) && why.contains("1 hosts see"), "{why}");
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.judge(cut.began_ns)?.expect_clean();

    let status = || {
        stage
            .array
            .call::<_, Status>(B, STATUS, &())
            .map_err(|err| err.to_string())
    };
    let pool = status()
        .expect("told")
        .imported
        .into_iter()
        .find(|pool| pool.pool == alpha);
    let pool = pool.expect("b has it");
    assert_eq!(pool.snapshots.len(), 1);
    // The volume, 32 MiB of which its streams use a few, its copy in the snapshot and two tables.
    assert!(pool.used_bytes < 32 << 20, "{} bytes are used", pool.used_bytes);
    said(&stage, &["map", "delete", "alpha-0", "rig"], 0, "does not see");
    // The owner reads the configuration beside.
    wait_for("the snapshot is rolled back", MOVE, || {
        let (ended, said) = stage.pollux(&rollback, "");
        that(ended == Some(0), || said)
    })?;
    said(
        &stage,
        &["map", "create", "alpha-0", "rig", "--lun", "0"],
        0,
        "LUN 0",
    );
    let out = folder.path().join("out");
    wait_for("the host reads what the volume was", MOVE, || {
        stage.host.rescan()?;
        stage.host.copy_out(0, IMAGE as u64, out.clone())?;
        let found = std::fs::read(&out).map_err(|err| err.to_string())?;
        that(found == expected, || "other bytes".to_owned())
    })?;
    said(
        &stage,
        &["snapshot", "delete", "monday", "--discard-data"],
        0,
        "deleted",
    );
    wait_for("the space of the snapshot is free", MOVE, || {
        let pool = status()?.imported.into_iter().find(|pool| pool.pool == alpha);
        let pool = pool.ok_or("b has it no longer")?;
        that(pool.snapshots.is_empty(), || format!("{:?}", pool.snapshots))
    })
}

/// Volumes with their write cache on. A host copies an image without FUA and flushes it; then the shelf loses its power, and
/// with it every disk its cache. The image is there, and so is all that the streams have written with FUA.
#[test]
fn j2_what_a_host_flushed_survives_the_caches_of_the_disks() -> Result<()> {
    let adjusted = |plan: &mut pollux_pair::rig::Plan| {
        plan.write_cache = true;
        plan.reserved_bytes = IMAGE as u64;
    };
    let Some(mut stage) = Stage::set(adjusted) else {
        return Ok(());
    };
    let devices = stage.host.devices().expect("devices");
    assert!(devices.iter().all(|device| device.write_cache), "{devices:?}");
    let folder = tempfile::tempdir().expect("scratch directory");
    let bytes: Vec<u8> = (0..IMAGE).map(|at| (at / 4096) as u8 ^ 0x5a).collect();
    let file = folder.path().join("image");
    std::fs::write(&file, &bytes).expect("an image");
    for lun in [0, 1] {
        let written = stage.host.copy_in(lun, file.clone()).wait();
        written.expect("the image is written and flushed");
    }
    let cut = stage.array.shelf_power(PowerAction::Off)?;
    stage.array.shelf_power(PowerAction::On)?;
    stage.wait_progress(20, MOVE + BOOT)?;
    let out = folder.path().join("out");
    for lun in [0, 1] {
        let read = stage.host.copy_out(lun, IMAGE as u64, out.clone());
        read.expect("the image is read");
        assert!(
            std::fs::read(&out).expect("read") == bytes,
            "LUN {lun}: other bytes"
        );
    }
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}
