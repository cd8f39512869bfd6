//! Fault matrix, H: the configuration.

use pollux_api::chassis::PowerAction;
use pollux_api::config::{Kind, List, Listing, Op, Resource};
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

#[test]
fn h1_change_during_takeover() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let change = |name: &str| {
        vec![Op::CreateHost {
            name: name.into(),
            iqns: vec![format!("iqn.2026-01.test:{name}")],
        }]
    };
    let before = change("before");
    stage
        .array
        .change(A, before)
        .expect("a joined array takes changes");
    let cut = stage.array.power(A, PowerAction::Off)?;
    // In the middle of it: done, or refused with a reason; never half.
    let during = stage.array.change(B, change("during"));
    if let Err(refused) = &during {
        let told = refused.is(Code::ConfigLocked) || refused.is(Code::InDoubt) || refused.is_transient();
        assert!(told && !refused.data.what.is_empty(), "{refused:?}");
    }
    stage.wait_taken(B, alpha)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_for("both controllers list the same hosts", MOVE, || {
        let names = |at| -> std::result::Result<Vec<String>, String> {
            let list: Listing = stage
                .array
                .call(at, pollux_api::config::LIST, &List { kind: Kind::Host })
                .map_err(|e| e.to_string())?;
            Ok(list
                .rows
                .into_iter()
                .filter_map(|row| match row {
                    Resource::Host(host) => Some(host.name),
                    _ => None,
                })
                .collect())
        };
        let (a, b) = (names(A)?, names(B)?);
        that(a == b, || format!("a {a:?}, b {b:?}"))?;
        that(a.iter().any(|name| name == "before"), || {
            format!("an acknowledged change is lost: {a:?}")
        })?;
        that(during.is_err() || a.iter().any(|name| name == "during"), || {
            format!("a change acknowledged in the takeover is lost: {a:?}")
        })
    })?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}
