//! Two targets, as on two controllers, with one pool between them: real sockets everywhere, a pool in memory, and
//! a small initiator that sees every PDU.

mod support;

use bytes::Bytes;
use pollux_api::config::Tables;
use pollux_api::id::ControllerId;
use pollux_api::target::{Access, Backing};
use pollux_block_frame::Operation;
use pollux_block_target::daemon::BLOCK_SIZE;
use pollux_block_target::iscsi::pdu::{self, Header};
use pollux_block_target::paths::{Cancel, Scope};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    BOUND, CHANGED, Imported, Initiator, POOL, Pair, QUIET, VOLUME, block, good, read_cdb, route, write_cdb,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn both_ports_show_one_device_and_tell_one_tale() {
    let pair = Pair::start().await;
    let _imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let (mut a, mut b) = (
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in(pair.b.portal).await,
    );
    assert_eq!(a.port_groups().await, b.port_groups().await);
    for page in [0x80, 0xb0, 0xb1, 0xb2] {
        let cdb = [0x12, 1, page, 0, 255, 0];
        assert_eq!(
            a.run(&cdb, 255, None).await,
            b.run(&cdb, 255, None).await,
            "page {page:#x}"
        );
    }
    assert_eq!(a.write(3, 0x11).await, good(vec![]));
    assert_eq!(b.read(3).await, good(block(0x11)), "the partner forwards");
    assert_eq!(b.write(4, 0x22).await, good(vec![]));
    assert_eq!(a.read(4).await, good(block(0x22)));
    let beyond = b
        .run(&[0x28, 0, 0, 0xff, 0, 0, 0, 0, 1, 0], BLOCK_SIZE, None)
        .await;
    assert_eq!(beyond.sense, Some((5, 0x2100)));
}

#[tokio::test]
async fn a_takeover_finishes_what_was_on_its_way_and_tells_every_session() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut b = Initiator::log_in(pair.b.portal).await;
    let mut other = Initiator::try_log_in(pair.b.portal, &[("SessionType", "Normal")])
        .await
        .expect("reinstated");
    // The second login has the same initiator port: the first session is over.
    assert!(
        timeout(BOUND, async { while b.next().await.is_some() {} })
            .await
            .is_ok()
    );
    assert_eq!(other.read(0).await, good(block(0)));
    // The owner hangs with a write below it.
    at_a.pool.stuck.set(false);
    other.begin(&write_cdb(9), 0, Some(&block(0x99))).await;
    while at_a.pool.commands.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(
        timeout(QUIET, other.end()).await.is_err(),
        "nothing is acknowledged"
    );
    let at_b = Imported::start(pair.b.directory.path(), &pair.memory);
    let access = [Access::Unavailable, Access::Optimized];
    let flipped = pair
        .b
        .world
        .flip(POOL, route(2, Backing::Local, access))
        .expect("a newer claim");
    assert_eq!((flipped.changed, flipped.sessions), (true, 1));
    assert_eq!(
        timeout(BOUND, other.end()).await.expect("in time"),
        Some(good(vec![]))
    );
    assert!(
        at_b.pool.commands.load(Ordering::SeqCst) > 0,
        "it was done again by the new owner"
    );
    assert_eq!(other.read(9).await, CHANGED);
    assert_eq!(other.read(9).await, good(block(0x99)));
    assert_eq!(
        pair.b
            .world
            .flip(POOL, route(1, Backing::Partner, access))
            .expect_err("older")
            .stands
            .1
            .get(),
        2
    );
}

#[tokio::test]
async fn no_reply_leaves_without_a_lease_and_none_is_lost() {
    let pair = Pair::start().await;
    let imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let (mut a, mut b) = (
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in(pair.b.portal).await,
    );
    assert_eq!(b.read(0).await, good(block(0)));
    pair.a.gate.set(false);
    a.begin(&write_cdb(1), 0, Some(&block(1))).await;
    b.begin(&write_cdb(2), 0, Some(&block(2))).await;
    let done = async {
        while imported.pool.commands.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, done).await.expect("the owner carries both out");
    assert!(
        timeout(QUIET, a.end()).await.is_err(),
        "the owner answers its host"
    );
    assert!(
        timeout(QUIET, b.end()).await.is_err(),
        "the owner answers the partner"
    );
    let stranger = timeout(QUIET, Initiator::try_log_in(pair.a.portal, &[])).await;
    assert!(stranger.is_err(), "not even a login is answered");
    pair.a.gate.set(true);
    assert_eq!(
        timeout(BOUND, b.end()).await.expect("in time"),
        Some(good(vec![]))
    );
    pair.b.gate.set(false);
    b.begin(&read_cdb(2), BLOCK_SIZE, None).await;
    assert!(
        timeout(QUIET, b.end()).await.is_err(),
        "the forwarding port needs a lease of its own"
    );
    pair.b.gate.set(true);
    assert_eq!(
        timeout(BOUND, b.end()).await.expect("in time"),
        Some(good(block(2)))
    );
}

#[tokio::test]
async fn commands_outlive_the_pool_manager() {
    let pair = Pair::start().await;
    let first = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let (mut a, mut b) = (
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in(pair.b.portal).await,
    );
    assert_eq!(a.write(1, 1).await, good(vec![]));
    drop(first);
    a.begin(&read_cdb(1), BLOCK_SIZE, None).await;
    b.begin(&write_cdb(2), 0, Some(&block(2))).await;
    assert!(timeout(QUIET, a.end()).await.is_err(), "nobody has the data");
    let _second = Imported::start(pair.a.directory.path(), &pair.memory);
    assert_eq!(
        timeout(BOUND, a.end()).await.expect("in time"),
        Some(good(block(1)))
    );
    assert_eq!(
        timeout(BOUND, b.end()).await.expect("in time"),
        Some(good(vec![]))
    );
}

#[tokio::test]
async fn switchovers_under_load_lose_nothing_and_show_no_old_block() {
    let pair = Arc::new(Pair::start().await);
    let mut imported = Some(Imported::start(pair.a.directory.path(), &pair.memory));
    pair.own(ControllerId::A, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for stream in 0..8_u8 {
        let (pair, stop) = (pair.clone(), stop.clone());
        writers.push(tokio::spawn(async move {
            let volumes = [&pair.a, &pair.b].map(|c| c.world.volume(VOLUME).expect("configured"));
            let mut last = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                last += 1;
                let mut data = block(stream);
                data[..8].copy_from_slice(&last.to_le_bytes());
                let lba = u64::from(stream);
                let (by, back) = (&volumes[last as usize % 2], &volumes[(last as usize + 1) % 2]);
                let write = Operation::Write {
                    lba,
                    data: data.clone().into(),
                    fua: true,
                };
                by.submit(write, &Scope::new()).await.expect("written");
                let read = Operation::Read { lba, blocks: 1 };
                let found = back
                    .submit(read, &Scope::new())
                    .await
                    .expect("read by the other path");
                assert_eq!(found, Bytes::from(data), "stream {stream}, write {last}");
            }
            last
        }));
    }
    for generation in 2..12 {
        let (from, to, owner) = match generation % 2 {
            0 => (&pair.a, &pair.b, ControllerId::B),
            _ => (&pair.b, &pair.a, ControllerId::A),
        };
        assert!(from.world.paths(POOL).hold(BOUND).await, "drained");
        drop(imported.take());
        let _ = std::fs::remove_file(from.directory.path().join(format!("{VOLUME}.sock")));
        imported = Some(Imported::start(to.directory.path(), &pair.memory));
        let published = to.world.publish(POOL, BOUND).await;
        assert_eq!((published.volumes, published.failed), (vec![VOLUME], vec![]));
        pair.own(owner, generation);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let writes = timeout(BOUND, writer)
            .await
            .expect("in time")
            .expect("no wrong block");
        assert!(writes > 0);
    }
}

#[tokio::test]
async fn an_aborted_command_is_answered_by_its_abort_and_leaves_no_trace() {
    let pair = Pair::start().await;
    // Nobody owns the pool yet: commands are held.
    let mut a = Initiator::log_in(pair.a.portal).await;
    let tag = a.begin(&write_cdb(1), 0, Some(&block(1))).await;
    let mut abort = Header([0; 48]);
    abort.0[0] = 0x42;
    abort.0[1] = 0x81;
    abort.0[9] = 1;
    abort.put32(16, 1000);
    abort.put32(20, tag);
    abort.put32(24, a.cmd_sn);
    a.send(abort, &[]).await;
    let answer = timeout(BOUND, a.next())
        .await
        .expect("in time")
        .expect("connected");
    assert_eq!(
        (answer.header.opcode(), answer.header.0[2], answer.header.tag()),
        (0x22, 0, 1000)
    );
    let _imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    assert_eq!(a.read(1).await, CHANGED);
    assert_eq!(
        a.read(1).await,
        good(block(0)),
        "the aborted write was never done"
    );
}

#[tokio::test]
async fn digests_are_honoured_and_a_damaged_pdu_ends_the_session() {
    let pair = Pair::start().await;
    let _imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let both = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    let mut a = Initiator::try_log_in(pair.a.portal, &both)
        .await
        .expect("logged in");
    assert_eq!(a.write(5, 0x55).await, good(vec![]));
    assert_eq!(a.read(5).await, good(block(0x55)));
    let mut out = Vec::new();
    let mut header = Header([0; 48]);
    header.0[..2].copy_from_slice(&[0x01, 0xa1]);
    header.0[9] = 1;
    header.put32(16, 77);
    header.put32(20, BLOCK_SIZE);
    header.put32(24, a.cmd_sn);
    header.0[32..42].copy_from_slice(&write_cdb(5));
    pdu::put(&mut out, header, &block(0x66), a.digests);
    let last = out.len() - 10;
    out[last] ^= 1;
    a.stream.write_all(&out).await.expect("sent");
    let reject = timeout(BOUND, a.next())
        .await
        .expect("in time")
        .expect("a reject");
    assert_eq!((reject.header.opcode(), reject.header.0[2]), (0x3f, 0x02));
    assert!(
        timeout(BOUND, a.next()).await.expect("in time").is_none(),
        "closed"
    );
    let mut again = Initiator::log_in(pair.a.portal).await;
    assert_eq!(
        again.read(5).await,
        good(block(0x55)),
        "the damaged write was not done"
    );
}

#[tokio::test]
async fn unavailable_is_said_at_once_and_an_unknown_unit_is_none() {
    let pair = Pair::start().await;
    let access = [Access::Unavailable, Access::Optimized];
    pair.a
        .world
        .flip(POOL, route(1, Backing::None, access))
        .expect("first");
    let mut a = Initiator::log_in(pair.a.portal).await;
    let begun = Instant::now();
    assert_eq!(a.read(0).await.sense, Some((2, 0x040c)));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let luns = a.run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], 64, None).await;
    assert_eq!(luns.data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    pair.a.world.apply(&Tables::default());
    assert_eq!(a.read(0).await.sense, Some((5, 0x2500)));
}

/// A held command does not outlive its host: the next login of the same port would wait for it.
#[tokio::test]
async fn a_cancelled_scope_ends_a_wait_at_once() {
    let pair = Pair::start().await;
    let volume = pair.a.world.volume(VOLUME).expect("configured");
    let scope = Scope {
        cancel: Arc::new(Cancel::default()),
        ..Scope::new()
    };
    let cancel = scope.cancel.clone();
    let waiting = tokio::spawn(async move { volume.submit(Operation::Flush, &scope).await });
    while pair.a.world.paths(POOL).load().0 == 0 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert!(
        timeout(BOUND, waiting)
            .await
            .expect("in time")
            .expect("task")
            .is_err()
    );
}
