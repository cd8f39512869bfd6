//! Who is let in, by what proof, and what he is told of.

use crate::rig::{BARE, HOST, OTHER, PROVEN, Rig, SECRET, TARGET, TARGET_SECRET, USER, credentials};
use pollux_block_target::iscsi::login::Admission;
use pollux_block_target::iscsi::pdu::{request, response};

const DISCOVERY: [(&str, &str); 1] = [("SessionType", "Discovery")];

#[tokio::test(start_paused = true)]
async fn chap_lets_in_who_knows_the_secret_and_nobody_else() {
    let rig = Rig::new();
    for algorithms in ["5", "7", "8", "6,8,7,5"] {
        let (mut host, _) = rig.connect();
        let (status, proven) = host
            .log_in_by_chap((PROVEN, USER, SECRET), algorithms, Some(TARGET_SECRET))
            .await;
        assert_eq!((status, proven), (0, true), "{algorithms}");
        assert!(host.read(0).await.is_good());
    }
    let wrong = [
        (PROVEN, USER, "another-secret-of-a-host", "5"),
        (PROVEN, "somebody", SECRET, "5"),
        // The secret of the other direction.
        (PROVEN, USER, TARGET_SECRET, "5"),
        // No algorithm in common: SHA-1.
        (PROVEN, USER, SECRET, "6"),
    ];
    for (host, user, secret, algorithms) in wrong {
        let (mut initiator, _) = rig.connect();
        let (status, _) = initiator
            .log_in_by_chap((host, user, secret), algorithms, None)
            .await;
        assert_eq!(status, 0x0201, "{user} {algorithms}");
        initiator.closed().await;
    }
    // By its name alone; without the security stage; as a discovery.
    for keys in [&[][..], &[("AuthMethod", "None")], &DISCOVERY] {
        let (mut initiator, _) = rig.connect();
        assert_eq!(initiator.log_in(PROVEN, keys).await, 0x0201, "{keys:?}");
        initiator.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_login_is_asked_something_else_and_no_answer_serves_twice() {
    let rig = Rig::new();
    let mut asked = Vec::new();
    for _ in 0..8 {
        let (mut initiator, _) = rig.connect();
        let names = [
            ("InitiatorName", PROVEN),
            ("TargetName", TARGET),
            ("AuthMethod", "CHAP"),
        ];
        initiator.login(0x00, &names).await.expect("an answer");
        let (_, keys) = initiator
            .login(0x00, &[("CHAP_A", "5")])
            .await
            .expect("an answer");
        asked.push(keys);
    }
    for (number, keys) in asked.iter().enumerate() {
        assert!(!asked[..number].contains(keys), "{keys:?}");
    }
    // The challenge sent back as the host's own: reflection.
    let (mut initiator, _) = rig.connect();
    let names = [
        ("InitiatorName", PROVEN),
        ("TargetName", TARGET),
        ("AuthMethod", "CHAP"),
    ];
    initiator.login(0x00, &names).await.expect("an answer");
    let (_, keys) = initiator
        .login(0x00, &[("CHAP_A", "5")])
        .await
        .expect("an answer");
    let value = |key: &str| keys.iter().find(|(name, _)| name == key).expect("said").1.clone();
    let (identifier, challenge) = (value("CHAP_I"), value("CHAP_C"));
    let proof = [
        ("CHAP_N", USER),
        ("CHAP_R", "0x00112233445566778899aabbccddeeff"),
        ("CHAP_I", &identifier),
        ("CHAP_C", &challenge),
    ];
    let (header, answer) = initiator.login(0x00, &proof).await.expect("an answer");
    assert_eq!(header.get16(36), 0x0201);
    assert!(
        answer.is_empty(),
        "the target proves itself to nobody who has not: {answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_secret_is_not_open_is_told_to_come_again() {
    let rig = Rig::new();
    let (mappings, mut admissions) = rig.hosts();
    admissions.insert(PROVEN.to_owned(), Admission::Locked);
    rig.target.set_hosts(mappings, admissions);
    let (mut initiator, _) = rig.connect();
    let (status, _) = initiator.log_in_by_chap((PROVEN, USER, SECRET), "5", None).await;
    assert_eq!(status, 0x0301);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_new_ends_sessions_without_proof_and_a_host_that_is_gone_ends_its_own() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let (mut proven, _) = rig.connect();
    let login = proven.log_in_by_chap((PROVEN, USER, SECRET), "5", None).await;
    assert_eq!(login, (0, false));
    let mut other = rig.log_in_as(OTHER, &[]).await;
    let (mappings, mut admissions) = rig.hosts();
    // HOST gets a key; the key of PROVEN is sealed anew; OTHER is deleted.
    admissions.insert(HOST.to_owned(), Admission::Chap(credentials()));
    admissions.insert(PROVEN.to_owned(), Admission::Locked);
    admissions.remove(OTHER);
    rig.target.set_hosts(mappings, admissions);
    for ended in [&mut host, &mut other] {
        let asked = ended.expect(response::ASYNC).await.header;
        assert_eq!(
            (asked.0[36], asked.get16(42)),
            (1, 3),
            "logout within three seconds"
        );
    }
    // One leaves as it is asked; the other does not, and is told that the connection ends.
    assert_eq!(host.log_out(0, 0).await, 0);
    host.closed().await;
    assert_eq!(other.expect(response::ASYNC).await.header.0[36], 2);
    other.closed().await;
    assert!(proven.read(0).await.is_good(), "it has proven itself");
    let (mut again, _) = rig.connect();
    assert_eq!(again.log_in(HOST, &[]).await, 0x0201);
    let (mut again, _) = rig.connect();
    assert_eq!(again.log_in(OTHER, &[]).await, 0x0202);
}

#[tokio::test(start_paused = true)]
async fn a_host_sees_what_is_mapped_to_it_and_nothing_else() {
    let rig = Rig::new();
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut host = rig.log_in().await;
    let luns = host.run(&report, 256, None).await;
    assert_eq!(luns.data[..4], 8_u32.to_be_bytes());
    let mut bare = rig.log_in_as(BARE, &[]).await;
    assert_eq!(bare.run(&report, 256, None).await.data[..4], [0; 4]);
    assert_eq!(bare.read(0).await.refused(), (2, Some((5, 0x2500))));
    // Unit 1 of two hosts is not one volume.
    let mut other = rig.log_in_as(OTHER, &[]).await;
    assert!(host.write(3, 0x77).await.is_good());
    assert_eq!(other.read(3).await.data, vec![0; 512]);
    // A stranger gets no session, and a discovery that tells him nothing.
    let (mut stranger, _) = rig.connect();
    assert_eq!(stranger.log_in("iqn.x:stranger", &[]).await, 0x0202);
    stranger.closed().await;
    let mut stranger = rig.log_in_as("iqn.x:stranger", &DISCOVERY).await;
    assert_eq!(stranger.ask(b"SendTargets=All\0").await, []);
}

#[tokio::test(start_paused = true)]
async fn discovery_lists_both_portals_and_does_nothing_else() {
    let rig = Rig::new();
    let mut host = rig.log_in_as(HOST, &DISCOVERY).await;
    let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let all = [
        own("TargetName", TARGET),
        own("TargetAddress", "10.78.0.1:3260,1"),
        own("TargetAddress", "10.78.0.2:3260,2"),
    ];
    assert_eq!(host.ask(b"SendTargets=All\0").await, all);
    let by_name = format!("SendTargets={TARGET}\0");
    assert_eq!(host.ask(by_name.as_bytes()).await, all);
    assert_eq!(host.ask(b"SendTargets=iqn.other\0").await, []);
    assert_eq!(host.ask(b"SendTargets=\0").await, [own("SendTargets", "Reject")]);
    for opcode in [request::SCSI_COMMAND, request::NOP_OUT, request::TASK_MANAGEMENT] {
        let header = host.header(opcode, 0x81);
        host.send(header, &[]).await;
        assert_eq!(host.expect(response::REJECT).await.header.0[2], 4);
    }
    assert_eq!(host.log_out(0, 0).await, 0);
    host.closed().await;
    // In a session: its own target, but not all.
    let mut host = rig.log_in().await;
    assert_eq!(host.ask(b"SendTargets=\0").await, all);
    assert_eq!(
        host.ask(b"SendTargets=All\0").await,
        [own("SendTargets", "Reject")]
    );
    assert_eq!(
        host.ask(b"MaxBurstLength=512\0X-other=1\0").await,
        [own("MaxBurstLength", "Reject"), own("X-other", "NotUnderstood")]
    );
}

#[tokio::test(start_paused = true)]
async fn text_goes_on_both_ways_and_a_declaration_counts_from_then_on() {
    let rig = Rig::new();
    let keys = [DISCOVERY[0], ("MaxRecvDataSegmentLength", "512")];
    let mut host = rig.log_in_as(HOST, &keys).await;
    for number in 0..30 {
        rig.target.add_portal(format!("10.78.1.{number}:3260,1"));
    }
    // The question in two pieces; the answer in as many as it takes.
    let mut header = host.header(request::TEXT, 0x40);
    header.put32(20, u32::MAX);
    host.send(header, b"SendTar").await;
    let go_on = host.expect(response::TEXT).await;
    assert_eq!((go_on.header.0[1], go_on.data.len()), (0, 0));
    let transfer = go_on.header.get32(20);
    let tag = header.tag();
    let (mut said, mut rest) = (Vec::new(), &b"gets=All\0"[..]);
    loop {
        let mut header = host.header(request::TEXT, 0x80);
        header.put32(16, tag);
        header.put32(20, transfer);
        host.send(header, rest).await;
        rest = &[];
        let piece = host.expect(response::TEXT).await;
        assert!(piece.data.len() <= 512);
        said.extend_from_slice(&piece.data);
        if piece.header.0[1] == 0x80 {
            break;
        }
        assert_eq!((piece.header.0[1], piece.header.get32(20)), (0x40, transfer));
    }
    let addresses = pollux_block_target::iscsi::text::split(&said)
        .expect("keys")
        .len()
        - 1;
    assert_eq!(addresses, 32);
    // A tag of nobody's.
    let mut header = host.header(request::TEXT, 0x80);
    header.put32(20, 0x1234);
    host.send(header, &[]).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 4);
    // More than one PDU could carry before.
    assert_eq!(host.ask(b"MaxRecvDataSegmentLength=65536\0").await, []);
    assert_eq!(host.ask(b"SendTargets=All\0").await.len(), 33);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_does_not_end_is_ended() {
    let rig = Rig::new();
    // Says nothing at all; then: begins, and stays in the security stage.
    let (mut silent, _) = rig.connect();
    silent.closed().await;
    let (mut slow, _) = rig.connect();
    let names = [("InitiatorName", HOST), ("TargetName", TARGET)];
    slow.login(0x00, &names).await.expect("an answer");
    slow.closed().await;
    // Word by word, each in time: the whole is what counts.
    let (mut dripping, _) = rig.connect();
    dripping.login(0x00, &names).await.expect("an answer");
    let begun = tokio::time::Instant::now();
    let mut requests = 0;
    loop {
        tokio::time::advance(std::time::Duration::from_secs(4)).await;
        requests += 1;
        if dripping.login(0x00, &[]).await.is_none() {
            break;
        }
        assert!(requests < 10, "for ever");
    }
    assert!(begun.elapsed() <= std::time::Duration::from_secs(24));
}
