//! What strangers and hosts can take at most.

use crate::initiator::{Initiator, block, read_cdb, write_cdb};
use crate::rig::{BLOCK, BOUND, HOST, Portal, Rig, TARGET};
use pollux_block_target::iscsi::limits::{
    LOGIN_SEGMENT, LOGINS_PER_ADDRESS, MEMORY_KIB, SESSION_MEMORY_KIB, SESSIONS_MAX, TEXT_MAX,
};
use pollux_block_target::iscsi::pdu::{NO_TAG, request, response};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test(start_paused = true)]
async fn lengths_beyond_the_limit_are_refused_before_there_is_room_for_them() {
    let rig = Rig::new();
    // Before the login: more than 8 KiB, of which nothing need come.
    for length in [LOGIN_SEGMENT + 1, (1 << 24) - 1] {
        let (mut stranger, serving) = rig.connect();
        let mut header = stranger.header(0x43, 0x87);
        header.set_data_length(length);
        stranger.raw(&header.0).await;
        stranger.closed().await;
        let ended = serving.await.expect("no panic").to_string();
        assert!(ended.contains("at most 8192"), "{ended}");
    }
    // In a session: more than was declared.
    let (mut host, serving) = rig.connect();
    assert_eq!(host.log_in(HOST, &[]).await, 0);
    let mut header = host.header(0x40 | request::NOP_OUT, 0x80);
    header.set_data_length(256 * 1024 + 1);
    host.raw(&header.0).await;
    host.closed().await;
    let ended = serving.await.expect("no panic").to_string();
    assert!(ended.contains("at most 262144"), "{ended}");
    // Additional headers where there are none.
    let mut host = rig.log_in().await;
    let mut header = host.header(request::SCSI_COMMAND, 0x81);
    header.0[4] = 255;
    host.raw(&header.0).await;
    host.raw(&[0; 255 * 4]).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 5);
    assert!(host.read(0).await.is_good());
}

#[tokio::test(start_paused = true)]
async fn text_without_end_is_ended() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let mut transfer = NO_TAG;
    let tag = host.tag + 1;
    for sent in (0..).map(|number| number * 4096) {
        let mut header = host.header(request::TEXT, 0x40);
        header.put32(16, tag);
        header.put32(20, transfer);
        host.send(header, &[b'x'; 4096]).await;
        let answer = host.next().await.expect("an answer");
        if answer.header.opcode() == response::REJECT {
            assert_eq!(sent, TEXT_MAX);
            break;
        }
        transfer = answer.header.get32(20);
    }
    host.closed().await;
}

#[tokio::test(start_paused = true)]
async fn commands_ahead_of_their_turn_are_no_store() {
    let rig = Rig::new();
    let mut host = rig.log_in_as(HOST, &[("FirstBurstLength", "65536")]).await;
    host.cmd_sn += 1;
    for _ in 0..5 {
        host.begin(&write_cdb(0, 128), 65536, Some(&[7; 65536])).await;
    }
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 4);
    host.closed().await;
}

#[tokio::test(start_paused = true)]
async fn data_has_its_share_of_memory_and_hosts_are_told_to_wait() {
    let rig = Rig::new();
    rig.slow.door.set(false);
    let mut host = rig.log_in_as(HOST, &[("FirstBurstLength", "262144")]).await;
    // A session's share in writes that come with their data; more are sent away.
    let whole = vec![7; 256 * 1024];
    let fits = u64::from(SESSION_MEMORY_KIB / 256);
    for _ in 0..fits {
        host.begin(&write_cdb(0, 512), 256 * 1024, Some(&whole)).await;
    }
    // The window has no number left, either: they are immediate.
    let tag = immediate(&mut host, &write_cdb(0, 512), 256 * 1024, &whole).await;
    assert_eq!(host.end(tag).await.status, 0x28, "TASK SET FULL");
    let all = || rig.target.unasked().available_permits() as u32;
    assert_eq!(all(), MEMORY_KIB - SESSION_MEMORY_KIB);
    // What asks for its data has memory of its own, and goes on meanwhile.
    let asks = immediate(&mut host, &write_cdb(0, 1), BLOCK, &[]).await;
    let r2t = host.expect(response::R2T).await.header;
    host.data_out(asks, r2t.get32(20), 0, 0, &block(1), true).await;
    rig.slow.door.set(true);
    for _ in 0..=fits {
        assert_eq!(host.expect(response::SCSI).await.header.0[3], 0);
    }
    // All of it comes back, also what was aborted while it collected its data.
    let collecting = host.begin(&write_cdb(0, 512), 256 * 1024, Some(&[])).await;
    host.expect(response::R2T).await;
    assert_eq!(host.manage(1, collecting, host.cmd_sn - 1).await, 0);
    assert_eq!(rig.target.memory().available_permits(), MEMORY_KIB as usize);
    assert_eq!(all(), MEMORY_KIB);
    // All hosts' share is taken: data that comes unasked is sent away, everything else waits.
    let unasked = rig
        .target
        .unasked()
        .acquire_many(MEMORY_KIB)
        .await
        .expect("all of it");
    let tag = host.begin(&write_cdb(0, 1), BLOCK, Some(&block(1))).await;
    assert_eq!(host.end(tag).await.status, 0x08, "BUSY");
    let memory = rig
        .target
        .memory()
        .acquire_many(MEMORY_KIB)
        .await
        .expect("all of it");
    let read = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    let question = host.header(0x40 | request::NOP_OUT, 0x80);
    host.send(question, &[]).await;
    host.expect(response::NOP_IN).await;
    drop((memory, unasked));
    assert!(host.end(read).await.is_good());
}

/// Sends a write for immediate delivery; its tag.
async fn immediate(host: &mut Initiator, cdb: &[u8; 10], expected: u32, data: &[u8]) -> u32 {
    let mut header = host.header(0x40 | request::SCSI_COMMAND, 0xa1);
    header.0[9] = 1;
    header.put32(20, expected);
    header.0[32..42].copy_from_slice(cdb);
    host.send(header, data).await;
    header.tag()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_of_strangers_takes_nothing_and_hosts_are_served_through_it() {
    let portal = Portal::open();
    let address = portal.address;
    let mut host = portal.connect().await;
    assert_eq!(host.log_in(HOST, &[]).await, 0);
    let mut strangers = JoinSet::new();
    for number in 0..64_u32 {
        strangers.spawn(async move {
            let name = format!("iqn.2026-01.io.pollux:stranger-{number}");
            for _ in 0..32 {
                let stream = TcpStream::connect(address).await.expect("the portal listens");
                let mut stranger = Initiator::over(stream);
                assert_eq!(stranger.log_in(&name, &[]).await, 0x0202, "no such host");
                stranger.closed().await;
            }
        });
    }
    let mut served = 0_u64;
    loop {
        match strangers.try_join_next() {
            Some(refused) => refused.expect("refused, as it should be"),
            None if strangers.is_empty() => break,
            None => {
                assert!(host.read(0).await.is_good());
                served += 1;
            }
        }
    }
    println!("{} logins refused, {served} reads of a host meanwhile", 64 * 32);
    assert_eq!(portal.rig.target.sessions().len(), 1, "the host's");
    let limits = portal.rig.target.limits();
    assert_eq!(
        (limits.sessions.used, limits.sessions.limit),
        (1, SESSIONS_MAX as u64)
    );
    // Whoever has left gives his place back a moment later.
    let empty = async {
        while portal.rig.target.limits().logins.used > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, empty).await.expect("no login is left");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_is_reported() {
    let rig = Rig::new();
    rig.slow.door.set(false);
    let mut host = rig.log_in_as(HOST, &[("FirstBurstLength", "65536")]).await;
    let _idle = rig.log_in_as(crate::rig::NEIGHBOUR, &[]).await;
    let whole = vec![7; 64 * 1024];
    let tags = [
        host.begin(&write_cdb(0, 128), 65536, Some(&whole)).await,
        host.begin(&write_cdb(200, 128), 65536, Some(&whole)).await,
    ];
    rig.come(2).await;
    let limits = rig.target.limits();
    assert_eq!((limits.sessions.used, limits.commands_per_session.used), (2, 2));
    assert_eq!((limits.unasked_kib.used, limits.data_kib.used), (128, 0));
    assert_eq!(limits.unasked_kib.limit, u64::from(MEMORY_KIB));
    rig.slow.door.set(true);
    for _ in tags {
        assert_eq!(host.expect(response::SCSI).await.header.0[3], 0);
    }
    assert!(host.read(0).await.is_good());
    let limits = rig.target.limits();
    assert_eq!(
        (limits.unasked_kib.used, limits.commands_per_session.used),
        (0, 0)
    );
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kib = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_sessions_as_are_promised_are_served_at_once_and_no_more() {
    // Both ends of each connection are in this process.
    let wanted = (2 * SESSIONS_MAX + 1024) as u64;
    let files = pollux_platform::file::raise_descriptors(wanted).expect("a limit");
    if files < wanted {
        println!(
            "SKIPPED: {wanted} open files are needed for both ends, and {files} are allowed (ulimit -Hn)"
        );
        return;
    }
    let portal = Portal::open();
    let before = resident();
    let mut hosts = Vec::new();
    let all = async {
        while hosts.len() < SESSIONS_MAX {
            let mut logins = JoinSet::new();
            for number in hosts.len()..(hosts.len() + 64).min(SESSIONS_MAX) {
                let mut host = portal.connect().await;
                host.isid[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                logins.spawn(async move {
                    assert_eq!(host.log_in(HOST, &[]).await, 0);
                    assert!(host.read(0).await.is_good());
                    host
                });
            }
            hosts.extend(logins.join_all().await);
        }
    };
    timeout(BOUND, all).await.expect("in time");
    assert_eq!(portal.rig.target.sessions().len(), SESSIONS_MAX);
    let each = resident().saturating_sub(before) / SESSIONS_MAX as u64;
    println!("{SESSIONS_MAX} sessions, {each} bytes of memory for both ends of each");
    assert!(each < 128 * 1024, "{each} bytes for both ends of a quiet session");
    // One more is refused and told why; the same port again is not one more.
    let mut more = portal.connect().await;
    more.isid[0] = 0x40;
    assert_eq!(more.log_in(HOST, &[]).await, 0x0302);
    more.closed().await;
    let mut again = portal.connect().await;
    again.isid[2..4].copy_from_slice(&3_u16.to_be_bytes());
    assert_eq!(again.log_in(HOST, &[]).await, 0);
    assert!(again.read(0).await.is_good());
    assert!(
        hosts[SESSIONS_MAX - 1].read(0).await.is_good(),
        "the others do not notice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_half_open_logins_takes_the_places_of_its_address_only() {
    let portal = Portal::open();
    let flood = async {
        let mut open = Vec::new();
        for _ in 0..LOGINS_PER_ADDRESS {
            let mut half = portal.connect().await;
            let names = [("InitiatorName", HOST), ("TargetName", TARGET)];
            let answer = half.login(0x00, &names).await;
            assert!(answer.is_some(), "within the limit it is answered");
            open.push(half);
        }
        // One more of this address is closed, another address's is not.
        portal.connect().await.closed().await;
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.2:0".parse().expect("an address"))
            .expect("loopback");
        let mut other = Initiator::over(socket.connect(portal.address).await.expect("the portal listens"));
        assert_eq!(other.log_in(HOST, &[]).await, 0);
        // A place that is given back is free again.
        drop(open.pop());
        loop {
            let mut next = portal.connect().await;
            next.isid[5] = 3;
            let names = [("InitiatorName", HOST), ("TargetName", TARGET)];
            match next.login(0x87, &names).await {
                Some((header, _)) => break assert_eq!(header.get16(36), 0),
                None => tokio::task::yield_now().await,
            }
        }
    };
    timeout(BOUND.min(Duration::from_secs(60)), flood)
        .await
        .expect("in time");
}
