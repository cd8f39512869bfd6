//! Bad input over a running array: each is refused with a message that names what, where and what
//! would be right, and nothing has changed afterwards.

use pollux_api::config::{Class, Op, Redundancy};
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_api::id::DiskIndex;
use pollux_host::time::now_ns;
use pollux_pair::stage::Stage;
use pollux_pair::{Error, Result};

fn volume(name: &str, pool: &str, size_bytes: u64) -> Op {
    Op::CreateVolume {
        name: name.into(),
        pool: pool.into(),
        size_bytes,
    }
}

fn map(volume: &str, host: &str, lun: u16) -> Op {
    Op::Map {
        volume: volume.into(),
        host: host.into(),
        lun: Some(lun),
    }
}

fn host(name: &str, iqn: &str) -> Op {
    Op::CreateHost {
        name: name.into(),
        iqns: vec![iqn.into()],
    }
}

fn address(pool: &str, cidr: &str) -> Op {
    Op::CreateAddress {
        pool: pool.into(),
        cidr: cidr.into(),
    }
}

#[test]
fn every_wrong_change_is_refused_with_its_fields_and_changes_nothing() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let taken = stage.pools[0].address.clone();
    let used = stage.pools[0].disks.clone();
    let pool = |name: &str, disks: Vec<DiskIndex>| Op::CreatePool {
        name: name.into(),
        class: Class::Fast,
        home: A,
        redundancy: Redundancy::Mirror,
        backend: None,
        disks,
    };
    let wrong = [
        ("a volume on no pool", vec![volume("v", "gamma", 1 << 20)]),
        (
            "a volume of an odd size",
            vec![volume("v", "alpha", (1 << 20) + 1)],
        ),
        ("a volume of nothing", vec![volume("v", "alpha", 0)]),
        (
            "a volume larger than its pool",
            vec![volume("v", "alpha", 1 << 40)],
        ),
        ("a name with a blank", vec![volume("two words", "alpha", 1 << 20)]),
        ("a name that is taken", vec![volume("alpha-0", "alpha", 1 << 20)]),
        (
            "a second mapping of a LUN",
            vec![volume("v", "alpha", 1 << 20), map("v", "rig", 0)],
        ),
        (
            "a LUN out of range",
            vec![volume("v", "alpha", 1 << 20), map("v", "rig", 9999)],
        ),
        ("a mapping to nobody", vec![map("alpha-0", "nobody", 9)]),
        ("an initiator that has no IQN", vec![host("h", "not an iqn")]),
        (
            "an address that is none",
            vec![address("alpha", "10.78.0.999/24")],
        ),
        ("an address that is taken", vec![address("beta", &taken)]),
        ("a pool on disks in use", vec![pool("gamma", used)]),
        (
            "a pool on disks that are not there",
            vec![pool("gamma", vec![DiskIndex::new(77), DiskIndex::new(78)])],
        ),
    ];
    for at in [A, B] {
        let before = stage.array.config(at).expect("the configuration answers");
        for (what, ops) in &wrong {
            let refused = match stage.array.change(at, ops.clone()) {
                Ok((_, changed)) => panic!("{at} took {what}: {:?}", changed.rows),
                Err(refused) => refused,
            };
            assert!(
                refused.is(Code::InvalidParams) || refused.is(Code::NotFound),
                "{what}: {refused:?}"
            );
            assert!(
                !refused.data.problems.is_empty(),
                "{what}: no field is named: {refused:?}"
            );
            for problem in &refused.data.problems {
                let told = !problem.path.is_empty() && !problem.what.is_empty() && !problem.remedy.is_empty();
                assert!(told, "{what}: {problem:?}");
            }
        }
        let after = stage.array.config(at).expect("the configuration answers");
        assert_eq!(
            (before.length, before.hash),
            (after.length, after.hash),
            "nothing changed at {at}"
        );
    }
    stage.judge(now_ns())?.expect_clean();
    Ok(())
}

#[test]
fn a_second_enclosure_on_one_directory_is_refused_and_does_no_harm() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    // By its own command line: the panel of the first one would answer in place of the second's.
    let output = std::process::Command::new(stage.array.programs().chassis())
        .arg("run")
        .arg("--dir")
        .arg(stage.array.directory())
        .output()
        .map_err(|err| Error::step("start a second enclosure", err))?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    let holder = stage.array.enclosure_status()?.pid.to_string();
    assert!(told.contains(&holder), "process {holder} is not named: {told}");
    stage.wait_progress(50, pollux_pair::rig::MOVE)?;
    stage.judge(now_ns())?.expect_clean();
    Ok(())
}
