//! Ends of connections: in order behind the last word, by a reset where there is none, and which of them where the lease is
//! gone.

use crate::initiator::{Initiator, block, read_cdb, write_cdb};
use crate::rig::{BLOCK, HOST, NEIGHBOUR, Portal, Rig, TARGET};
use pollux_api::id::{Epoch, Generation};
use pollux_api::target::{Access, Backing};
use pollux_block_target::gate::{GRACE, LOOK};
use pollux_block_target::iscsi::pdu::{request, response};
use pollux_block_target::iscsi::server;
use pollux_block_target::paths::Route;
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a lease is gone here that is gone for long: not so long that hosts are asked whether they are there, or commands
/// are given up.
const LONG: Duration = Duration::from_secs(4);

fn watch(rig: &Rig) -> JoinHandle<()> {
    let target = rig.target.clone();
    tokio::spawn(async move { server::leave_nobody_waiting(&target).await })
}

fn is_reset(ended: &io::Result<()>) -> bool {
    matches!(ended, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn whatever_ends_the_target_its_hosts_hear_of_it_at_once() {
    let portal = Portal::open();
    let (mut quiet, mut busy, mut stranger) = (
        portal.connect().await,
        portal.connect().await,
        portal.connect().await,
    );
    assert_eq!(quiet.log_in(HOST, &[]).await, 0);
    assert_eq!(busy.log_in(NEIGHBOUR, &[]).await, 0);
    let names = [("InitiatorName", HOST), ("TargetName", TARGET)];
    assert!(stranger.login(0x00, &names).await.is_some());
    portal.rig.slow.door.set(false);
    busy.begin(&read_cdb(0, 1), BLOCK, None).await;
    portal.rig.come(1).await;
    portal.kill();
    for (who, mut host) in [("quiet", quiet), ("busy", busy), ("logging in", stranger)] {
        let ended = host.ending().await;
        assert!(is_reset(&ended), "{who}: {ended:?}");
    }
}

#[tokio::test]
async fn an_end_in_order_is_no_reset_and_the_last_word_arrives() {
    let portal = Portal::open();
    let mut host = portal.connect().await;
    assert_eq!(host.log_in(HOST, &[]).await, 0);
    assert_eq!(host.log_out(0, 0).await, 0);
    host.ending().await.expect("logged out");
    let mut stranger = portal.connect().await;
    let name = "iqn.2026-01.io.pollux:stranger";
    assert_eq!(stranger.log_in(name, &[]).await, 0x0202, "no such host");
    stranger.ending().await.expect("refused");
    // The same port again: the older session is told, and ends.
    let (mut older, mut newer) = (portal.connect().await, portal.connect().await);
    assert_eq!(older.log_in(HOST, &[]).await, 0);
    assert_eq!(newer.log_in(HOST, &[]).await, 0);
    assert_eq!(older.expect(response::ASYNC).await.header.0[36], 2);
    older.ending().await.expect("told");
    // A host that is asked to log out, and does not.
    portal.rig.target.end_sessions("a test ends", 0);
    assert_eq!(newer.expect(response::ASYNC).await.header.0[36], 1);
    assert_eq!(newer.expect(response::ASYNC).await.header.0[36], 2);
    newer.ending().await.expect("told");
    portal.rig.sessions(0).await;
}

#[tokio::test]
async fn a_lease_that_is_gone_resets_what_waits_and_hosts_come_back_with_it() {
    let portal = Portal::open();
    let watching = watch(&portal.rig);
    let mut host = portal.connect().await;
    assert_eq!(host.log_in(HOST, &[]).await, 0);
    portal.rig.gate.set(false);
    let since = Instant::now();
    host.begin(&write_cdb(3, 1), BLOCK, Some(&block(3))).await;
    let ended = host.ending().await;
    assert!(is_reset(&ended), "{ended:?}");
    assert!(since.elapsed() >= GRACE, "{:?}", since.elapsed());
    portal.rig.gate.set(true);
    let mut again = portal.connect().await;
    assert_eq!(again.log_in(HOST, &[]).await, 0);
    // It was carried out and not answered, so the host repeats it.
    assert_eq!(again.read(3).await.data, block(3));
    assert!(again.write(3, 4).await.is_good());
    watching.abort();
}

/// The answer to a ping, and nothing before it.
async fn is_served(host: &mut Initiator) -> bool {
    let header = host.header(0x40 | request::NOP_OUT, 0x80);
    host.send(header, &[]).await;
    host.expect(response::NOP_IN).await.header.tag() == header.tag()
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_of_the_lease_ends_nothing() {
    let rig = Rig::new();
    let _watching = watch(&rig);
    let mut host = rig.log_in().await;
    for _ in 0..10 {
        rig.gate.set(false);
        let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
        tokio::time::sleep(GRACE - Duration::from_millis(1)).await;
        rig.gate.set(true);
        assert!(host.end(tag).await.is_good());
        tokio::time::sleep(LOOK / 2).await;
    }
    assert!(is_served(&mut host).await);
    assert_eq!(rig.target.sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_is_said_before_the_end_and_a_login_waits_for_the_lease() {
    let rig = Rig::new();
    let _watching = watch(&rig);
    let mut host = rig.log_in().await;
    let mut discovery = rig.log_in_as(HOST, &[("SessionType", "Discovery")]).await;
    rig.gate.set(false);
    let since = Instant::now();
    host.begin(&read_cdb(0, 1), BLOCK, None).await;
    host.closed().await;
    let took = since.elapsed();
    assert!(took >= GRACE && took <= GRACE + 2 * LOOK, "{took:?}");
    discovery.closed().await;
    rig.sessions(0).await;
    // Who comes now hears nothing, and is let in as soon as there is a lease.
    let (mut early, _) = rig.connect();
    let logging_in = tokio::spawn(async move {
        let status = early.log_in(HOST, &[]).await;
        (early, status)
    });
    tokio::time::sleep(10 * GRACE).await;
    assert!(!logging_in.is_finished());
    rig.gate.set(true);
    let (mut early, status) = logging_in.await.expect("no panic");
    assert_eq!(status, 0);
    assert!(early.read(0).await.is_good());
    // The next time is as the first.
    rig.gate.set(false);
    early.closed().await;
    rig.sessions(0).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_away_is_told_when_nothing_of_his_can_follow() {
    let rig = Rig::new();
    let _watching = watch(&rig);
    let mut host = rig.log_in().await;
    rig.slow.door.set(false);
    host.begin(&write_cdb(5, 1), BLOCK, Some(&block(1))).await;
    rig.come(1).await;
    rig.gate.set(false);
    let away = tokio::spawn(async move { host.closed().await });
    tokio::time::sleep(LONG).await;
    assert!(!away.is_finished(), "his write is under way");
    rig.slow.door.set(true);
    away.await.expect("nothing but the end");
    // What he writes by another connection stands.
    rig.gate.set(true);
    let mut again = rig.log_in().await;
    assert!(again.write(5, 2).await.is_good());
    assert_eq!(again.read(5).await.data, block(2));
}

#[tokio::test(start_paused = true)]
async fn who_has_nowhere_to_go_waits_for_the_lease() {
    let rig = Rig::new();
    let _watching = watch(&rig);
    let mut host = rig.log_in().await;
    let flip = |generation: u64, access| {
        let route = Route {
            epoch: Epoch::new(1),
            generation: Generation::new(generation),
            backing: Backing::Local,
            access,
        };
        rig.target
            .flip(rig.volumes[0].paths(), route)
            .expect("a newer claim");
    };
    flip(2, [Access::Optimized, Access::Unavailable]);
    assert_eq!(host.read(0).await.refused(), (2, Some((6, 0x2a06))));
    rig.gate.set(false);
    let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    tokio::time::sleep(LONG).await;
    rig.gate.set(true);
    assert!(host.end(tag).await.is_good());
    // The partner comes back while the lease is away: from then on it is another way.
    rig.gate.set(false);
    tokio::time::sleep(LONG).await;
    flip(3, [Access::Optimized, Access::NonOptimized]);
    host.closed().await;
    rig.sessions(0).await;
}
