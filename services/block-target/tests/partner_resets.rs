//! Task management of one host, felt by the hosts of the other port: their commands at the unit end, and they are told.

mod support;

use pollux_api::id::ControllerId;
use pollux_api::target::{ResetReach, UnitReset};
use std::sync::atomic::Ordering;
use support::{
    Answer, BOUND, Imported, Initiator, Pair, QUIET, SECOND_HOST, VOLUME, block, good, read_cdb, write_cdb,
};
use tokio::time::timeout;

const CLEAR_TASK_SET: u8 = 4;
const LUN_RESET: u8 = 5;
const WARM_RESET: u8 = 6;
const COLD_RESET: u8 = 7;

fn attention(code: u16) -> Answer {
    Answer {
        status: 2,
        sense: Some((6, code)),
        data: Vec::new(),
    }
}

async fn come(imported: &Imported, count: u64) {
    let come = async {
        while imported.pool.commands.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, come).await.expect("they come");
}

#[tokio::test]
async fn a_reset_reaches_the_hosts_of_the_other_port_whoever_is_the_owner() {
    for owner in ControllerId::ALL {
        for (function, told) in [
            (LUN_RESET, Some(0x2903)),
            (WARM_RESET, Some(0x2903)),
            (CLEAR_TASK_SET, Some(0x2f00)),
        ] {
            let pair = Pair::start().await;
            let home = if owner == ControllerId::A {
                &pair.a
            } else {
                &pair.b
            };
            let imported = Imported::start(home.directory.path(), &pair.memory);
            pair.own(owner, 1);
            let mut by = Initiator::log_in(pair.a.portal).await;
            let mut there = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
            for host in [&mut by, &mut there] {
                assert_eq!(host.read(0).await, good(block(0)));
            }
            imported.pool.stuck.set(false);
            there.begin(&write_cdb(5), 0, Some(&block(1))).await;
            come(&imported, 3).await;
            let answer = {
                let mut resets = std::pin::pin!(by.manage(function));
                let early = timeout(QUIET, &mut resets).await;
                imported.pool.stuck.set(true);
                match early {
                    Ok(answer) => answer,
                    Err(_) => timeout(BOUND, resets).await.expect("in time"),
                }
            };
            assert_eq!(answer, 0, "function {function}");
            // The command is not answered; the next one is told, once.
            let context = format!("owner {owner}, function {function}");
            there.begin(&read_cdb(5), 512, None).await;
            let next = timeout(BOUND, there.end()).await.expect("in time");
            assert_eq!(next, told.map(attention), "{context}");
            assert_eq!(there.read(0).await, good(block(0)), "{context}");
            // Who resets is told of a reset, and not of what it cleared itself.
            let own = (function != CLEAR_TASK_SET).then(|| attention(0x2903));
            assert_eq!(
                by.read(0).await,
                own.unwrap_or_else(|| good(block(0))),
                "{context}"
            );
        }
    }
}

#[tokio::test]
async fn a_cold_reset_ends_the_sessions_of_the_other_port() {
    for owner in ControllerId::ALL {
        let pair = Pair::start().await;
        let home = if owner == ControllerId::A {
            &pair.a
        } else {
            &pair.b
        };
        let _imported = Imported::start(home.directory.path(), &pair.memory);
        pair.own(owner, 1);
        let mut by = Initiator::log_in(pair.a.portal).await;
        let mut there = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
        for host in [&mut by, &mut there] {
            assert_eq!(host.read(0).await, good(block(0)));
        }
        assert_eq!(by.manage(COLD_RESET).await, 0);
        let goodbye = timeout(BOUND, there.next())
            .await
            .expect("in time")
            .expect("told");
        assert_eq!((goodbye.header.opcode(), goodbye.header.0[36]), (0x32, 2));
        assert!(
            timeout(BOUND, there.next()).await.expect("in time").is_none(),
            "closed"
        );
        let mut again = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
        assert_eq!(again.read(0).await, good(block(0)));
    }
}

#[tokio::test]
async fn who_sees_another_volume_does_not_notice() {
    let pair = Pair::start().await;
    let _imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut host = Initiator::log_in(pair.b.portal).await;
    assert_eq!(host.read(0).await, good(block(0)));
    let other = UnitReset {
        volume: pollux_api::id::VolumeId::from_bytes([9; 16]),
        reach: ResetReach::Cold,
    };
    pair.b.world.target().reset_by_partner(&other).await;
    assert_eq!(host.read(0).await, good(block(0)));
    let this = UnitReset {
        volume: VOLUME,
        reach: ResetReach::Unit,
    };
    pair.b.world.target().reset_by_partner(&this).await;
    assert_eq!(host.read(0).await, attention(0x2903));
}
