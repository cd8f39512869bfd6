//! Keys that strangers have left on quorum disks, over the enclosure's daemon and on SCSI disks: what keeps a controller from
//! voting is removed, and nothing of the removal keeps the partner from it.

use pollux_api::id::ControllerId;
use pollux_appliance::{ARRAY, Array, key, raw, registered};
use pollux_block_frame::key::remover;
use pollux_block_frame::{Client, Hello, Key, Port, Purpose, Status};
use pollux_heartbeat::keys::{ClearError, clear};
use pollux_heartbeat::quorum::Path;
use pollux_platform::fake::scsi::{FakeDisk, Nexus};
use pollux_platform::scsi::command::{ReserveOut, reserve_out};
use pollux_platform::scsi::run;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;
/// TYPE: write exclusive, registrants only.
const WERO: u8 = 5;
/// PERSISTENT RESERVE OUT.
const OUT: u8 = 0x5f;
/// Keys of another array's controllers, or of anybody.
const STRANGERS: [u64; 2] = [0x1234, 0x5678];
const FREE: (Vec<u64>, Option<(u64, u8)>) = (Vec::new(), None);

/// A stranger does something at a disk.
fn out(disk: &Arc<FakeDisk>, at: Nexus, action: ReserveOut, key: u64, argument: u64) {
    run(&disk.port(at), &reserve_out(action, WERO, key, argument, true)).expect("the disk does it");
}

/// Two strangers are registered, and the first one has the disk for both of them.
fn locked(disk: &Arc<FakeDisk>) {
    for (at, key) in [40, 41].into_iter().zip(STRANGERS) {
        out(disk, at, ReserveOut::RegisterAndIgnore, 0, key);
    }
    out(disk, 40, ReserveOut::Reserve, STRANGERS[0], 0);
}

fn keys(keys: &[u64]) -> BTreeSet<Key> {
    keys.iter().copied().map(Key).collect()
}

/// Writes a block as heartbeat does; what the disk says.
async fn vote(way: &Path) -> Option<Status> {
    let hello = Hello {
        array: Uuid::from_bytes(*way.array.as_bytes()),
        port: match way.controller {
            ControllerId::A => Port::A,
            ControllerId::B => Port::B,
        },
        purpose: Purpose::Disk,
        client: "heartbeat".to_owned(),
        epoch: 0,
        generation: 0,
    };
    let client = Client::connect_unix(&way.socket, &hello, None, Duration::from_secs(20))
        .await
        .expect("the disk is served");
    let block = vec![7; 4096];
    match client.write(0, block.into(), true, None).await {
        Ok(()) => None,
        Err(error) => Some(error.status().expect("the disk answers")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_keep_both_from_voting_go_at_once_and_only_if_all_are_named() {
    let array = Array::of_quorum(1).await;
    let disk = &array.disks[0];
    let (a, b) = (array.way(A, 0), array.way(B, 0));
    locked(disk);
    for way in [&a, &b] {
        assert_eq!(vote(way).await, Some(Status::ReservationConflict));
    }
    let before = registered(disk);
    let sent = |actions: &[ReserveOut]| -> usize {
        let sent = actions.iter().map(|action| disk.received(OUT, *action as u8));
        sent.sum()
    };
    let locks = [
        ReserveOut::Reserve,
        ReserveOut::Preempt,
        ReserveOut::PreemptAndAbort,
    ];
    let (all, locking) = (
        sent(&[ReserveOut::RegisterAndIgnore, ReserveOut::Clear]),
        sent(&locks),
    );

    let unnamed = clear(&a, &keys(&STRANGERS[..1]), false)
        .await
        .expect_err("one is not named");
    assert!(matches!(&unnamed, ClearError::Unnamed { keys, .. } if *keys == [Key(STRANGERS[1])]));
    assert!(unnamed.to_string().contains("0x0000000000005678"), "{unnamed}");
    let would = clear(&a, &keys(&STRANGERS), true)
        .await
        .expect("it would be done");
    assert_eq!(would, keys(&STRANGERS));
    assert_eq!(registered(disk), before, "nothing was done");
    assert_eq!(sent(&[ReserveOut::RegisterAndIgnore, ReserveOut::Clear]), all);

    assert_eq!(
        clear(&a, &keys(&STRANGERS), false).await.expect("removed"),
        keys(&STRANGERS)
    );
    assert_eq!(registered(disk), FREE, "nor is there one of ours");
    assert_eq!(sent(&locks), locking, "nor was the disk ever ours");
    for way in [&a, &b] {
        assert_eq!(vote(way).await, None);
    }
    let again = clear(&a, &keys(&STRANGERS), false)
        .await
        .expect("nothing is there");
    assert_eq!(again, BTreeSet::new());
}

/// Killed between the two commands: what stays keeps nobody from voting, and goes with the next removal by either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_cut_short_keeps_nobody_from_voting() {
    let array = Array::of_quorum(1).await;
    let disk = &array.disks[0];
    let (a, b) = (array.way(A, 0), array.way(B, 0));
    let left = remover(ARRAY, A).0;
    out(disk, 1, ReserveOut::RegisterAndIgnore, 0, left);
    for way in [&a, &b] {
        assert_eq!(vote(way).await, None);
    }
    let unnamed = clear(&b, &keys(&[]), false)
        .await
        .expect_err("to b it is any key");
    assert!(matches!(unnamed, ClearError::Unnamed { .. }), "{unnamed}");
    assert_eq!(
        clear(&b, &keys(&[left]), false).await.expect("removed"),
        keys(&[left])
    );
    assert_eq!(registered(disk), FREE);

    // By the one that was cut short itself, with what it was to remove.
    out(disk, 1, ReserveOut::RegisterAndIgnore, 0, left);
    locked(disk);
    assert_eq!(
        clear(&a, &keys(&STRANGERS), false).await.expect("removed"),
        keys(&STRANGERS)
    );
    assert_eq!(registered(disk), FREE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_this_array_stays_and_so_does_all_that_stands_beside_it() {
    let array = Array::of_quorum(1).await;
    let disk = &array.disks[0];
    for (of, at) in [(A, 1), (B, 2)] {
        let own = raw(key(of, 3, 1));
        out(disk, at, ReserveOut::RegisterAndIgnore, 0, own);
        locked(disk);
        let before = registered(disk);
        let all = keys(&[STRANGERS[0], STRANGERS[1], own]);
        for dry_run in [true, false] {
            let refused = clear(&array.way(A, 0), &all, dry_run)
                .await
                .expect_err("it is ours");
            assert!(
                matches!(refused, ClearError::Own { of: whose, .. } if whose == of),
                "{refused}"
            );
        }
        assert_eq!(registered(disk), before);
        out(disk, at, ReserveOut::Clear, own, 0);
    }
}
