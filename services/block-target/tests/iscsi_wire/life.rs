//! Sessions: how they begin again, go quiet, and end.

use crate::initiator::{Initiator, block, read_cdb};
use crate::rig::{BLOCK, HOST, Rig};
use pollux_block_target::iscsi::limits::{DISCOVERY_IDLE, PING_AFTER, PING_TIMEOUT, WRITE_STALL};
use pollux_block_target::iscsi::pdu::{NO_TAG, request, response};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_quiet_host_is_asked_and_a_dead_one_is_found() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let begin = Instant::now();
    for _ in 0..3 {
        let asked = host.expect(response::NOP_IN).await.header;
        assert_eq!(asked.tag(), NO_TAG);
        let mut answer = host.header(0x40 | request::NOP_OUT, 0x80);
        answer.put32(16, NO_TAG);
        answer.put32(20, asked.get32(20));
        host.send(answer, &[]).await;
    }
    assert!(begin.elapsed() >= 3 * PING_AFTER, "{:?}", begin.elapsed());
    assert!(host.read(0).await.is_good());
    // It says nothing any more.
    let (silent, begin) = (host, Instant::now());
    rig.sessions(0).await;
    let found = begin.elapsed();
    let bound = PING_AFTER + PING_TIMEOUT;
    assert!(
        found >= bound && found < bound + Duration::from_secs(1),
        "{found:?}"
    );
    drop(silent);
    // A discovery is not asked, and does not stay.
    let mut discovery = rig.log_in_as(HOST, &[("SessionType", "Discovery")]).await;
    let begin = Instant::now();
    discovery.closed().await;
    assert!(begin.elapsed() >= DISCOVERY_IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_cannot_leave_does_not_kill() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    rig.gate.set(false);
    tokio::time::sleep(10 * (PING_AFTER + PING_TIMEOUT)).await;
    assert_eq!(rig.target.sessions().len(), 1);
    rig.gate.set(true);
    let asked = host.expect(response::NOP_IN).await.header;
    assert_eq!(asked.tag(), NO_TAG);
    assert!(host.read(0).await.is_good(), "anything is an answer");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_nothing_is_dropped() {
    let rig = Rig::new();
    let (mut host, serving) = rig.connect_through(64 * 1024);
    assert_eq!(host.log_in(HOST, &[]).await, 0);
    for _ in 0..8 {
        host.begin(&read_cdb(0, 256), 256 * BLOCK, None).await;
    }
    let begin = Instant::now();
    rig.sessions(0).await;
    assert!(begin.elapsed() < WRITE_STALL + PING_AFTER + PING_TIMEOUT);
    let ended = serving.await.expect("no panic");
    assert!(ended.to_string().contains("takes nothing"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn the_same_port_again_takes_the_place_of_its_session() {
    let rig = Rig::new();
    rig.slow.door.set(false);
    let mut old = rig.log_in().await;
    let first = old.tsih;
    assert_ne!(first, 0);
    old.begin(&read_cdb(0, 1), BLOCK, None).await;
    rig.come(1).await;
    // Another port of the same host is another session.
    let (mut second, _) = rig.connect();
    second.isid[5] = 2;
    assert_eq!(second.log_in(HOST, &[]).await, 0);
    assert_ne!(second.tsih, first);
    let (mut new, _) = rig.connect();
    let logging_in = tokio::spawn(async move {
        let status = new.log_in(HOST, &[]).await;
        (new, status)
    });
    // The old one is told, and the new one is let in when its last command has ended.
    assert_eq!(old.expect(response::ASYNC).await.header.0[36], 2);
    old.closed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!logging_in.is_finished());
    rig.slow.door.set(true);
    let (mut new, status) = logging_in.await.expect("no panic");
    assert_eq!(status, 0);
    assert!(new.read(0).await.is_good() && second.read(0).await.is_good());
    rig.sessions(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_take_the_place_of_the_only_one_and_no_second_is_added() {
    let rig = Rig::new();
    let (mut host, _) = rig.connect();
    host.cid = 7;
    let keys = [("InitialR2T", "No"), ("MaxBurstLength", "4096")];
    assert_eq!(host.log_in(HOST, &keys).await, 0);
    assert!(host.write(0, 1).await.is_good());
    // It has not been told yet that its units have changed.
    let unit = BTreeMap::from([(1, rig.volumes[0].clone()), (2, rig.volumes[1].clone())]);
    let (mut mappings, admissions) = rig.hosts();
    mappings.insert(HOST.to_owned(), unit);
    rig.target.set_hosts(mappings, admissions);
    let joins = |tsih: u16, cid: u16, isid: u8| {
        let (mut joining, _) = rig.connect();
        (joining.tsih, joining.cid, joining.isid[5]) = (tsih, cid, isid);
        joining.cmd_sn = host.cmd_sn;
        joining
    };
    let mut stranger = joins(host.tsih + 1, 7, 1);
    assert_eq!(stranger.log_in(HOST, &[]).await, 0x020a, "no such session");
    let mut stranger = joins(host.tsih, 7, 2);
    assert_eq!(stranger.log_in(HOST, &[]).await, 0x020a, "another port's session");
    let mut second = joins(host.tsih, 8, 1);
    assert_eq!(second.log_in(HOST, &[]).await, 0x0206, "a second connection");
    assert!(rig.target.sessions().len() == 1);
    let mut again = joins(host.tsih, 7, 1);
    assert_eq!(again.log_in(HOST, &[("HeaderDigest", "CRC32C")]).await, 0);
    assert_eq!(host.expect(response::ASYNC).await.header.0[36], 2);
    host.closed().await;
    assert_eq!(
        again.read(0).await.refused(),
        (2, Some((6, 0x3f0e))),
        "told by the new connection"
    );
    assert_eq!(again.read(0).await.data, block(1));
    // The session's keys stand: a burst of 4096 bytes at most.
    let tag = again
        .begin(&crate::initiator::write_cdb(0, 16), 16 * BLOCK, Some(&[]))
        .await;
    let r2t = again.expect(response::R2T).await.header;
    assert_eq!((r2t.tag(), r2t.get32(44)), (tag, 4096));
}

#[tokio::test(start_paused = true)]
async fn logout_has_its_reasons() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    assert_eq!(host.log_out(1, 9).await, 1, "no such connection");
    assert_eq!(host.log_out(2, 0).await, 2, "no recovery at level 0");
    let header = host.header(0x40 | request::LOGOUT, 0x80 | 5);
    host.send(header, &[]).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 9);
    assert!(host.read(0).await.is_good(), "it is still there");
    assert_eq!(host.log_out(1, 0).await, 0);
    host.closed().await;
    // With a command below: answered when it has ended, and the command is not.
    let mut host = rig.log_in().await;
    rig.slow.door.set(false);
    host.begin(&read_cdb(0, 1), BLOCK, None).await;
    rig.come(2).await;
    let header = host.header(request::LOGOUT, 0x80);
    host.send(header, &[]).await;
    rig.slow.door.set(true);
    assert_eq!(host.expect(response::LOGOUT).await.header.0[2], 0);
    host.closed().await;
    rig.sessions(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stops_lets_commands_come_to_their_end() {
    let rig = Rig::new();
    let (mut leaves, mut stays) = (rig.log_in().await, {
        let (mut other, _) = rig.connect();
        other.isid[5] = 9;
        assert_eq!(other.log_in(HOST, &[]).await, 0);
        other
    });
    rig.target.end_sessions("a test ends", 1);
    rig.target.end_sessions("a test ends", 1);
    for host in [&mut leaves, &mut stays] {
        let asked = host.expect(response::ASYNC).await.header;
        assert_eq!((asked.0[36], asked.get16(42)), (1, 1));
    }
    assert!(leaves.read(0).await.is_good(), "it is served until it goes");
    assert_eq!(leaves.log_out(0, 0).await, 0);
    leaves.closed().await;
    assert_eq!(stays.expect(response::ASYNC).await.header.0[36], 2);
    stays.closed().await;
}

async fn next_unit_attention(host: &mut Initiator) -> (u8, Option<(u8, u16)>) {
    host.run(&[0; 6], 0, None).await.refused()
}

#[tokio::test(start_paused = true)]
async fn hosts_are_told_of_what_has_changed() {
    use pollux_block_target::scsi::sense::Sense;
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let (mut mappings, admissions) = rig.hosts();
    mappings
        .entry(HOST.to_owned())
        .or_default()
        .insert(2, rig.volumes[1].clone());
    rig.target.set_hosts(mappings, admissions);
    assert_eq!(next_unit_attention(&mut host).await, (2, Some((6, 0x3f0e))));
    assert_eq!(next_unit_attention(&mut host).await, (0, None));
    assert!(rig.volumes[0].resize(128 * 1024));
    let id = rig.volumes[0].identity().id;
    assert_eq!(rig.target.attend(id, Sense::CAPACITY_CHANGED), 1);
    assert_eq!(next_unit_attention(&mut host).await, (2, Some((6, 0x2a09))));
    assert_eq!(next_unit_attention(&mut host).await, (0, None));
    // A mapping that is gone: the unit is, too.
    let (mut mappings, admissions) = rig.hosts();
    mappings.remove(HOST);
    rig.target.set_hosts(mappings, admissions);
    assert_eq!(host.read(0).await.refused(), (2, Some((5, 0x2500))));
}
