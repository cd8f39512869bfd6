//! What judges must be able to condemn: three deliberate breakages, each of which must make the
//! suite fail. A test here passes when the audit does not.

use std::time::Duration;

use pollux_api::chassis::{DaemonAction, PowerAction};
use pollux_api::id::ControllerId::{A, B};
use pollux_block_frame::{Client, Hello, Key, Port, Purpose, ReservationOut};
use pollux_host::time::now_ns;
use pollux_pair::liar::{Liar, Lie};
use pollux_pair::rig::{BOOT, MOVE, Rig};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};
use pollux_pair::{Error, Result};
use uuid::Uuid;

fn array_of(rig: &Rig) -> Result<Uuid> {
    Ok(Uuid::from_bytes(*rig.array.enclosure_status()?.array.as_bytes()))
}

/// A daemon starts again, and so connects to what stands there now.
fn restart(rig: &Rig, daemon: &str) -> Result<()> {
    rig.array.daemon(A, daemon, DaemonAction::Kill)?;
    wait_for(&format!("{daemon} is back"), BOOT, || rig.array.daemons_ready())
}

#[test]
fn a_build_with_one_fsync_removed_is_condemned() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let array = array_of(&stage)?;
    let pool = stage.pool_of(A).clone();
    let mut liars = Vec::new();
    for disk in &pool.disks {
        let place = stage.array.directory().join(format!("a/port/{disk}.sock"));
        let runtime = stage.array.runtime();
        liars.push(Liar::insert(
            runtime,
            &place,
            array,
            Purpose::Disk,
            Lie::ForgetsToFlush,
        )?);
    }
    restart(&stage, "pool-managerd")?;
    wait_for("flushes are forgotten", MOVE, || {
        let told: u64 = liars.iter().map(Liar::told).sum();
        that(told > 500, || format!("{told} so far"))
    })?;
    // The shelf loses its power: what was only in its cache is gone.
    let cut = stage.array.shelf_power(PowerAction::Off)?;
    drop(liars);
    stage.array.shelf_power(PowerAction::On)?;
    stage.wait_progress(20, MOVE + BOOT)?;
    let judgement = stage.judge(cut.began_ns)?;
    let audit = judgement.audit("I2").expect("audited");
    assert!(audit.finding.is_err(), "lost writes went unnoticed: {audit}");
    Ok(())
}

#[test]
fn a_rogue_writer_on_the_shelf_is_condemned() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let array = array_of(&stage)?;
    let disk = stage.pool_of(A).disks[0];
    let place = stage.array.directory().join(format!("b/port/{disk}.sock"));
    let hello = Hello {
        array,
        port: Port::B,
        purpose: Purpose::Disk,
        client: "rogue".into(),
        epoch: 0,
        generation: 0,
    };
    let rogue = async {
        let disk = Client::connect_unix(&place, &hello, None, Duration::from_secs(5)).await?;
        let refused = disk.write(0, vec![0; 4096].into(), true, None).await;
        assert!(refused.is_err(), "without a key the reservation must hold");
        disk.reservation_out(ReservationOut::RegisterAndIgnore { new: Key(0xbad) }, None)
            .await?;
        // What is there is written again: no data changes hands, only exclusion is broken.
        let same = disk.read(8, 8, None).await?;
        disk.write(8, same, true, None).await
    };
    stage
        .array
        .runtime()
        .block_on(rogue)
        .map_err(|err| Error::step("write as a rogue", err))?;
    stage.wait_progress(20, MOVE)?;
    let judgement = stage.judge(now_ns())?;
    let audit = judgement.audit("I1").expect("audited");
    assert!(audit.finding.is_err(), "a second writer went unnoticed: {audit}");
    Ok(())
}

#[test]
fn a_target_that_answers_before_it_has_written_is_condemned() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let array = array_of(&stage)?;
    let alpha = stage.pool_of(A).id;
    let volume = stage.volumes[0].id;
    let place = stage
        .array
        .directory()
        .join(format!("a/run/volumes/{volume}.sock"));
    let early = Lie::AnswersFirst(Duration::from_millis(500));
    let liar = Liar::insert(stage.array.runtime(), &place, array, Purpose::Volume, early)?;
    restart(&stage, "block-targetd")?;
    wait_for("writes are answered early", MOVE, || {
        that(liar.told() > 100, || format!("{} so far", liar.told()))
    })?;
    let cut = stage.array.power(A, PowerAction::Off)?;
    stage.wait_taken(B, alpha)?;
    drop(liar);
    let judgement = stage.judge(cut.began_ns)?;
    let lost = judgement.audit("I2").expect("audited");
    let stale = judgement.audit("I11").expect("audited");
    assert!(lost.finding.is_err() && stale.finding.is_err(), "{lost}\n{stale}");
    Ok(())
}
