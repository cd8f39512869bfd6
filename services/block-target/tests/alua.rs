//! Asymmetric access as hosts see it: what each state answers on either port, in raw bytes; that both ports tell one tale
//! at every instant outside a flip; that nobody who logs in during one misses it; and what a decoder that nobody here
//! wrote makes of it.
//!
//! The foreign decoder is Wireshark's (Debian package `tshark`); without it that test says SKIPPED. It knows INQUIRY and its
//! pages of vital product data, and has no dissection of REPORT TARGET PORT GROUPS: those bytes are read here by the table of
//! SPC-4, 6.37, and in tests/pair by the host's decoder, which is the work of others.

mod support;

use pollux_api::id::ControllerId;
use pollux_api::target::{Access, Backing};
use pollux_block_target::iscsi::pdu::{self, Digests, Header};
use pollux_block_target::scsi::report::IMPLICIT_TRANSITION_S;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{
    Answer, BOUND, CHANGED, HOST, Imported, Initiator, POOL, Pair, QUIET, SECOND_HOST, block, good, read_cdb,
    route,
};
use tokio::time::timeout;

const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 96, 0];
const PAGE_83: [u8; 6] = [0x12, 1, 0x83, 0, 255, 0];
const PORT_GROUPS: [u8; 12] = [0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
const REQUEST_SENSE: [u8; 6] = [0x03, 0, 0, 0, 18, 0];
const OPCODES: [u8; 12] = [0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
const MODE_SENSE: [u8; 6] = [0x1a, 0, 0x3f, 0, 96, 0];
const READ_KEYS: [u8; 10] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 96, 0];

/// States of both groups in a report with the extended header.
fn states(report: &[u8]) -> [u8; 2] {
    assert_eq!(report[..8], [0, 0, 0, 28, 0x10, IMPLICIT_TRANSITION_S, 0, 0]);
    // T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP; one port in each group, numbered alike.
    assert_eq!(report[9..20], [0x8f, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1]);
    assert_eq!(report[21..32], [0x8f, 0, 2, 0, 2, 0, 1, 0, 0, 0, 2]);
    [report[8], report[20]]
}

async fn groups(host: &mut Initiator) -> [u8; 2] {
    let answer = host.run(&PORT_GROUPS, 256, None).await;
    assert_eq!(answer.status, 0, "{answer:?}");
    states(&answer.data)
}

/// Sense key and code in the parameter data of REQUEST SENSE.
async fn polled(host: &mut Initiator) -> (u8, u16) {
    let answer = host.run(&REQUEST_SENSE, 18, None).await;
    assert_eq!((answer.status, answer.data.len()), (0, 18), "{answer:?}");
    (
        answer.data[2],
        u16::from_be_bytes([answer.data[12], answer.data[13]]),
    )
}

fn refused(code: u16) -> Answer {
    Answer {
        status: 2,
        sense: Some((2, code)),
        data: Vec::new(),
    }
}

/// Sets the state of b's port, a being the owner.
fn set_b(pair: &Pair, generation: u64, access_b: Access) {
    let access = [Access::Optimized, access_b];
    let backing_b = match access_b {
        Access::Unavailable => Backing::None,
        _ => Backing::Partner,
    };
    for (controller, backing) in [(&pair.a, Backing::Local), (&pair.b, backing_b)] {
        let flip = controller.world.flip(POOL, route(generation, backing, access));
        flip.expect("not older");
    }
}

const CAPACITY_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAPACITY_16: [u8; 16] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];

/// Every command that a state refuses, and one of each kind that it serves.
async fn answers(host: &mut Initiator, standby_serves: u8, refusal: Option<u16>) {
    for cdb in [
        &INQUIRY[..],
        &PAGE_83,
        &PORT_GROUPS,
        &REPORT_LUNS,
        &REQUEST_SENSE,
        &OPCODES,
        // A disk that does not tell its size has none for Linux.
        &CAPACITY_10,
        &CAPACITY_16,
    ] {
        assert_eq!(host.run(cdb, 2048, None).await.status, 0, "{cdb:02x?}");
    }
    for cdb in [&MODE_SENSE[..], &READ_KEYS] {
        assert_eq!(host.run(cdb, 96, None).await.status, standby_serves, "{cdb:02x?}");
    }
    let Some(code) = refusal else { return };
    let beyond_the_end = [0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0];
    for cdb in [
        &[0; 6][..],
        &read_cdb(0),
        &beyond_the_end,
        &[0x16, 0, 0, 0, 0, 0],
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let answer = timeout(Duration::from_secs(5), host.run(cdb, 512, None));
        assert_eq!(answer.await.expect("at once"), refused(code), "{cdb:02x?}");
    }
    assert_eq!(host.write(0, 9).await, refused(code));
}

#[tokio::test]
async fn each_state_answers_as_the_standard_says() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    set_b(&pair, 1, Access::NonOptimized);
    let mut a = Initiator::log_in(pair.a.portal).await;
    let mut b = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    assert_eq!((groups(&mut a).await, groups(&mut b).await), ([0, 1], [0, 1]));
    answers(&mut b, 0, None).await;
    assert_eq!(polled(&mut b).await, (0, 0));

    // Standby: who the volume is and whose, and nothing of its blocks (04/0B).
    set_b(&pair, 2, Access::Standby);
    for host in [&mut a, &mut b] {
        assert_eq!(host.read(0).await, CHANGED);
        assert_eq!(groups(host).await, [0, 2]);
    }
    answers(&mut b, 0, Some(0x040b)).await;
    assert_eq!(polled(&mut b).await, (2, 0x040b));
    let register = [&[0; 15][..], &[7], &[0; 8]].concat();
    let out = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(b.run(&out, 0, Some(&register)).await, good(vec![]), "forwarded");
    let keys = b.run(&READ_KEYS, 96, None).await;
    assert_eq!(keys.data[8..], [0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(a.read(0).await, good(block(0)), "the other port goes on");

    // Unavailable: the least, and the unit is not connected to this port (04/0C, qualifier 001b).
    set_b(&pair, 3, Access::Unavailable);
    for host in [&mut a, &mut b] {
        assert_eq!(host.read(0).await, CHANGED);
        assert_eq!(groups(host).await, [0, 3]);
    }
    answers(&mut b, 2, Some(0x040c)).await;
    assert_eq!(polled(&mut b).await, (2, 0x040c));
    for (cdb, qualifier) in [(&INQUIRY, 0x20), (&PAGE_83, 0x20)] {
        assert_eq!(b.run(cdb, 255, None).await.data[0], qualifier);
        assert_eq!(a.run(cdb, 255, None).await.data[0], 0);
    }

    // Transitioning: commands wait, and who polls hears 04/0A.
    set_b(&pair, 4, Access::NonOptimized);
    for controller in [&pair.a, &pair.b] {
        assert!(controller.world.paths(POOL).hold(BOUND).await);
    }
    for host in [&mut a, &mut b] {
        assert_eq!(host.run(&[0; 6], 0, None).await, CHANGED);
        assert_eq!(groups(host).await, [0xf, 0xf]);
        for cdb in [&INQUIRY[..], &PAGE_83, &REPORT_LUNS, &OPCODES] {
            let answer = host.run(cdb, 2048, None).await;
            assert_eq!(answer.status, 0, "{cdb:02x?}");
        }
        assert_eq!(host.run(&INQUIRY, 96, None).await.data[0], 0, "connected");
        let before = tokio::time::Instant::now();
        assert_eq!(polled(host).await, (2, 0x040a));
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "it does not wait for the owner"
        );
        host.begin(&read_cdb(0), 512, None).await;
        assert!(timeout(QUIET, host.end()).await.is_err(), "held");
    }
    // A hold may end in standby, too: then the commands that waited are told so.
    set_b(&pair, 4, Access::Standby);
    let ends = async |host: &mut Initiator| timeout(BOUND, host.end()).await.expect("let go");
    assert_eq!(ends(&mut a).await, Some(good(block(0))));
    assert_eq!(ends(&mut b).await, Some(refused(0x040b)));
    drop(at_a);
}

/// Where the flips stand: odd while one is under way, and the states that it sets.
#[derive(Default)]
struct Flips {
    count: AtomicU64,
    stop: AtomicBool,
}

/// Moves the pool to and fro until it is told to stop; the number of moves.
async fn move_to_and_fro(pair: &Pair, flips: &Flips) -> u64 {
    let mut imported = None;
    let mut generation = 1;
    while !flips.stop.load(Ordering::SeqCst) {
        generation += 1;
        let (to, owner) = match generation % 2 {
            0 => (&pair.b, ControllerId::B),
            _ => (&pair.a, ControllerId::A),
        };
        flips.count.fetch_add(1, Ordering::SeqCst);
        for controller in [&pair.a, &pair.b] {
            assert!(controller.world.paths(POOL).hold(BOUND).await, "drained");
        }
        drop(imported.take());
        imported = Some(Imported::start(to.directory.path(), &pair.memory));
        pair.own(owner, generation);
        flips.count.fetch_add(1, Ordering::SeqCst);
        // Hosts look at it for a while.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    generation - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ports_agree_at_every_instant_outside_a_flip() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut hosts = [
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in_as(pair.b.portal, SECOND_HOST).await,
    ];
    drop(at_a);
    let flips = Flips::default();
    let sampling = async {
        let (mut agreed, mut seen) = (0_u64, std::collections::BTreeSet::new());
        while agreed < 200 || seen.len() < 3 || flips.count.load(Ordering::SeqCst) < 10 {
            let before = flips.count.load(Ordering::SeqCst);
            let mut told = Vec::new();
            for host in &mut hosts {
                let answer = host.run(&PORT_GROUPS, 256, None).await;
                match answer.status {
                    0 => told.push(states(&answer.data)),
                    // It is told of a change, and asks again.
                    _ => assert_eq!(answer, CHANGED),
                }
            }
            let quiet = before == flips.count.load(Ordering::SeqCst) && before % 2 == 0;
            for states in &told {
                seen.insert(*states);
                assert!([[0, 1], [1, 0], [15, 15]].contains(states), "{states:?}");
            }
            if let ([a, b], true) = (&told[..], quiet) {
                assert_eq!(a, b, "outside a flip");
                assert_ne!(*a, [15, 15], "and nobody is in transition");
                agreed += 1;
            }
        }
        flips.stop.store(true, Ordering::SeqCst);
        agreed
    };
    let (agreed, moves) = timeout(3 * BOUND, async {
        tokio::join!(sampling, move_to_and_fro(&pair, &flips))
    })
    .await
    .expect("in time");
    println!("{agreed} samples of both ports agree over {moves} flips");
    assert!(moves > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_logs_in_during_a_flip_misses_it() {
    let pair = Arc::new(Pair::start().await);
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    drop(at_a);
    let flips = Arc::new(Flips::default());
    let mut comers = Vec::new();
    for (number, portal) in [pair.a.portal, pair.b.portal].into_iter().enumerate() {
        let (name, flips) = ([HOST, SECOND_HOST][number], flips.clone());
        comers.push(tokio::spawn(async move {
            let (mut sessions, mut told) = (0_u64, 0_u64);
            while !flips.stop.load(Ordering::SeqCst) {
                // The same initiator port again: the session before is over.
                let mut host = Initiator::log_in_as(portal, name).await;
                sessions += 1;
                let mut last: Option<[u8; 2]> = None;
                for _ in 0..6 {
                    let answer = host.run(&PORT_GROUPS, 256, None).await;
                    if answer == CHANGED {
                        told += 1;
                        last = None;
                        continue;
                    }
                    let now = states(&answer.data);
                    if last.is_some_and(|last| last != now && now != [15, 15] && last != [15, 15]) {
                        // It looked between its turn and the answer: the very next command tells.
                        let next = host.run(&[0; 6], 0, None).await;
                        assert_eq!(next, CHANGED, "from {last:?} to {now:?}");
                        told += 1;
                    }
                    last = Some(now);
                }
            }
            (sessions, told)
        }));
    }
    let moving = tokio::spawn({
        let (pair, flips) = (pair.clone(), flips.clone());
        async move { move_to_and_fro(&pair, &flips).await }
    });
    let enough = async {
        while flips.count.load(Ordering::SeqCst) < 80 {
            tokio::task::yield_now().await;
        }
    };
    timeout(3 * BOUND, enough).await.expect("flips go on");
    flips.stop.store(true, Ordering::SeqCst);
    let mut heard = 0;
    for comer in comers {
        let (sessions, told) = timeout(BOUND, comer)
            .await
            .expect("in time")
            .expect("nothing missed");
        assert!(sessions > 0);
        heard += told;
    }
    assert!(heard > 0, "somebody was there during a flip");
    timeout(BOUND, moving).await.expect("in time").expect("moved");
}

/// A capture in the form of libpcap, of one TCP connection in raw IP packets.
struct Capture {
    bytes: Vec<u8>,
    sent: [u32; 2],
}

impl Capture {
    fn new() -> Self {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
        for half in [2_u16, 4] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        // LINKTYPE_RAW is 101.
        for word in [0_u32, 0, 65535, 101] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        Self { bytes, sent: [1, 1] }
    }

    /// A PDU from the host (0) or the target (1).
    fn add(&mut self, from: usize, header: Header, data: &[u8]) {
        let mut payload = Vec::new();
        pdu::put(&mut payload, header, data, Digests::default());
        let ports = [50_000_u16, 3260];
        let addresses = [[10, 78, 0, 254], [10, 78, 0, 1]];
        let to = 1 - from;
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0]);
        packet.extend_from_slice(&addresses[from]);
        packet.extend_from_slice(&addresses[to]);
        for port in [ports[from], ports[to]] {
            packet.extend_from_slice(&port.to_be_bytes());
        }
        for number in [self.sent[from], self.sent[to]] {
            packet.extend_from_slice(&number.to_be_bytes());
        }
        packet.extend_from_slice(&[0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend_from_slice(&payload);
        self.sent[from] += payload.len() as u32;
        let length = packet.len() as u32;
        for word in [0, 0, length, length] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(&packet);
    }

    /// An INQUIRY and its answer.
    fn inquiry(&mut self, tag: u32, cdb: &[u8], answer: &Answer) {
        let mut command = Header([0; 48]);
        command.0[..2].copy_from_slice(&[0x01, 0xc1]);
        command.0[9] = 1;
        command.put32(16, tag);
        command.put32(20, 255);
        command.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.add(0, command, &[]);
        let mut data = Header::response(0x25, tag);
        data.0[1] = 0x81;
        data.put32(20, u32::MAX);
        self.add(1, data, &answer.data);
    }
}

/// What there is of a designator: code set, association, type and the identifier.
type Designator = (u8, u8, u8, Vec<u8>);

/// Page 83h by the table of SPC-4, 7.8.5.
fn designators(page: &[u8]) -> Vec<Designator> {
    let mut rest = &page[4..];
    let mut found = Vec::new();
    while let [first, second, _, length, ..] = *rest {
        let end = 4 + usize::from(length);
        found.push((first & 0xf, second >> 4 & 3, second & 0xf, rest[4..end].to_vec()));
        rest = &rest[end..];
    }
    found
}

/// Wireshark's words of a page 83h: qualifier, then code set, association, type and length of each designator.
fn told_by_wireshark(text: &str) -> (u8, Vec<(u8, u8, u8, usize)>) {
    let number = |line: &str| {
        let (_, last) = line.rsplit_once("(0x").expect("a figure in brackets");
        u8::from_str_radix(last.trim_end_matches(')'), 16).expect("hexadecimal")
    };
    let mut qualifier = None;
    let mut found = Vec::new();
    let mut current = (0, 0, 0, 0);
    for line in text.lines().map(str::trim) {
        if line.contains("= Qualifier: ") {
            qualifier = Some(number(line));
        } else if line.contains("= Code Set: ") {
            current.0 = number(line);
        } else if line.contains("= Association: ") {
            current.1 = number(line);
        } else if line.contains("= Identifier Type: ") {
            current.2 = number(line);
        } else if let Some(length) = line.strip_prefix("Identifier Length: ") {
            current.3 = length.parse().expect("a number");
            found.push(current);
        }
    }
    (qualifier.expect("a qualifier"), found)
}

#[tokio::test]
async fn a_foreign_decoder_reads_the_same_in_every_state() {
    if !Path::new("/usr/bin/tshark").exists() {
        println!("SKIPPED: tshark is missing (Debian package tshark)");
        return;
    }
    let pair = Pair::start().await;
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    let mut capture = Capture::new();
    let mut expected = Vec::new();
    let states = [
        Access::Optimized,
        Access::NonOptimized,
        Access::Standby,
        Access::Unavailable,
        Access::Transitioning,
    ];
    for (generation, state) in states.into_iter().enumerate() {
        let access = [state; 2];
        let backing = match state {
            Access::Unavailable | Access::Transitioning => Backing::None,
            _ => Backing::Local,
        };
        let flip = pair
            .a
            .world
            .flip(POOL, route(generation as u64 + 1, backing, access));
        flip.expect("newer");
        let mut host = Initiator::log_in(pair.a.portal).await;
        for cdb in [&INQUIRY, &PAGE_83] {
            let answer = host.run(cdb, 255, None).await;
            assert_eq!(answer.status, 0);
            capture.inquiry(expected.len() as u32 + 1, cdb, &answer);
            expected.push(answer.data);
        }
    }
    let directory = tempfile::tempdir().expect("scratch");
    let file = directory.path().join("states.pcap");
    std::fs::File::create(&file)
        .and_then(|mut file| file.write_all(&capture.bytes))
        .expect("written");
    let tshark = |arguments: &[&str]| {
        let output = Command::new("timeout")
            .args(["60", "/usr/bin/tshark", "-r"])
            .arg(&file)
            .args(arguments)
            .output()
            .expect("timeout(1) runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    };
    // The standard data: qualifier, TPGS (implicit: 1), and who it is.
    let fields = [
        "-e",
        "scsi.inquiry.qualifier",
        "-e",
        "scsi.inquiry.tpgs",
        "-e",
        "scsi.inquiry.vendor_id",
    ];
    let only = ["-T", "fields", "-Y", "scsi.inquiry.tpgs"];
    let told = tshark(&[&only[..], &fields].concat());
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), states.len(), "{told}");
    for (line, state) in lines.iter().zip(states) {
        let figure = |text: &str| u8::from_str_radix(text.trim_start_matches("0x"), 16).expect("a figure");
        let qualifier = u8::from(state == Access::Unavailable);
        assert_eq!((figure(line[0]), figure(line[1])), (qualifier, 1), "{state:?}");
        assert_eq!(line[2].trim(), "POLLUX");
    }
    // Page 83h, frame by frame: each pair of frames is a question and its answer.
    for (number, (bytes, state)) in expected.iter().skip(1).step_by(2).zip(states).enumerate() {
        let frame = format!("frame.number == {}", 4 * number + 4);
        let text = tshark(&["-V", "-Y", &frame]);
        let (qualifier, told) = told_by_wireshark(&text);
        let own = designators(bytes);
        assert_eq!(qualifier, bytes[0] >> 5, "{state:?}");
        let shapes: Vec<_> = own
            .iter()
            .map(|(set, association, kind, id)| (*set, *association, *kind, id.len()))
            .collect();
        assert_eq!(told, shapes, "{state:?}: {text}");
        // Relative port and group: what they are called does not change with the state.
        for kind in [4, 5] {
            let found = own
                .iter()
                .find(|found| found.2 == kind)
                .expect("it names the port");
            assert_eq!((found.1, &found.3[..]), (1, &[0, 0, 0, 1][..]));
            assert!(text.contains("Identifier: 00000001"), "{text}");
        }
        let naa = own.iter().find(|found| found.2 == 3).expect("NAA");
        let hex: String = naa.3[1..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&hex), "{hex}: {text}");
    }
}
