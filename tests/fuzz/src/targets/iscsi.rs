//! What a host sends: the login, then PDUs with commands and data.

use super::{block_on, volume};
use crate::script::{Script, put_long};
use bytes::{Bytes, BytesMut};
use pollux_api::id::ControllerId;
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::chap::{Algorithm, Challenge, Credential, Credentials};
use pollux_block_target::iscsi::limits::LOGIN_SEGMENT;
use pollux_block_target::iscsi::login::{Admission, Doorkeeper, Login, MAX_RECEIVE, Step};
use pollux_block_target::iscsi::pdu::{self, BHS, Digests, Header, NO_TAG, Pdu, request, response};
use pollux_block_target::iscsi::{connection, text};
use pollux_block_target::target::Target;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TARGET: &str = "iqn.2026-01.io.pollux:fuzz";
const HOST: &str = "iqn.2026-01.io.pollux:host";
/// A host that has to prove itself.
const PROVEN: &str = "iqn.2026-01.io.pollux:proven";
const SECRET: &str = "a secret of the host";
/// What the target calls out: the same in each run, so that a seed can have the answer to it.
const RANDOM: [u8; 33] = [0x5a; 33];

struct Door;

impl Doorkeeper for Door {
    fn admit(&self, initiator: &str) -> Admission {
        match initiator {
            PROVEN => Admission::Chap(std::sync::Arc::new(Credentials {
                host: Credential::new("user", SECRET),
                target: Some(Credential::new("array", "a secret of the target")),
            })),
            "iqn.2026-01.io.pollux:locked" => Admission::Locked,
            "iqn.2026-01.io.pollux:stranger" => Admission::Unknown,
            _ => Admission::Open,
        }
    }
}

/// Login requests, each as a word of flags (which are byte 1 of the header), its text, and what stands in the header
/// behind byte 8.
pub(super) fn login(data: &[u8]) {
    let mut script = Script(data);
    let mut login = Login::new(TARGET, 1, Challenge::from_random(RANDOM));
    while !script.is_empty() {
        let mut header = Header([0; BHS]);
        let [flags, opcode] = script.array();
        header.0[0] = request::LOGIN | opcode & 0x40;
        header.0[1] = flags;
        let rest = script.short();
        let length = rest.len().min(BHS - 8);
        header.0[8..8 + length].copy_from_slice(&rest[..length]);
        let data = Bytes::copy_from_slice(script.long());
        header.set_data_length(data.len());
        let pdu = Pdu {
            header,
            additional: Bytes::new(),
            data,
        };
        let step = login.step(&pdu, &Door);
        match step {
            Step::Continue(header, data) => answered(&header, &data),
            Step::Done(header, data, agreed) => {
                answered(&header, &data);
                let p = &agreed.parameters;
                assert!((512..1 << 24).contains(&p.max_send), "{p:?}");
                assert!((512..1 << 24).contains(&p.max_burst), "{p:?}");
                assert!((512..1 << 24).contains(&p.first_burst), "{p:?}");
                assert!(p.first_burst <= p.max_burst, "{p:?}");
                assert!(!agreed.initiator.is_empty(), "nobody logged in");
                assert_eq!(
                    agreed.proof.is_some(),
                    agreed.initiator == PROVEN,
                    "let in by another proof than its own"
                );
                return;
            }
            Step::Refuse(header, why) => {
                assert_ne!(header.0[36], 0, "refused with status class 0");
                assert!(!why.is_empty(), "refused without a reason");
                return;
            }
        }
    }
}

fn answered(header: &Header, data: &[u8]) {
    assert_eq!(header.opcode(), response::LOGIN);
    assert_eq!(header.get16(36), 0, "neither refused nor taken");
    assert!(
        data.len() <= LOGIN_SEGMENT,
        "{} bytes before the host said how many it takes",
        data.len()
    );
    // An answer that goes on is cut anywhere.
    if header.0[1] & 0x40 == 0 && data.len() < LOGIN_SEGMENT {
        let whole = data.is_empty() || data.last() == Some(&0);
        assert!(whole, "a key without its end");
    }
}

fn keys(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        text::push(&mut out, key, value);
    }
    out
}

const NAMES: [(&str, &str); 3] = [
    ("InitiatorName", HOST),
    ("TargetName", TARGET),
    ("SessionType", "Normal"),
];

pub(super) fn logins() -> Vec<Vec<u8>> {
    let step = |flags: u8, text: &[u8]| {
        let mut out = vec![flags, 0x40, 0];
        put_long(&mut out, text);
        out
    };
    let all = keys(&[
        ("HeaderDigest", "CRC32C,None"),
        ("DataDigest", "CRC32C,None"),
        ("MaxRecvDataSegmentLength", "0x10000"),
        ("MaxBurstLength", "1048576"),
        ("FirstBurstLength", "65536"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxConnections", "1"),
        ("MaxOutstandingR2T", "1"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("ErrorRecoveryLevel", "0"),
        ("DataPDUInOrder", "Yes"),
        ("X-com.example.Key", "value"),
    ]);
    let names = keys(&NAMES);
    let discovery = keys(&[
        ("InitiatorName", HOST),
        ("SessionType", "Discovery"),
        ("AuthMethod", "CHAP,None"),
    ]);
    vec![
        step(0x87, &[&names[..], &all].concat()),
        [
            step(0x81, &[&names[..], b"AuthMethod=None\0"].concat()),
            step(0x87, &all),
        ]
        .concat(),
        step(0x83, &discovery),
        [step(0x40, &names[..20]), step(0x87, &names[20..])].concat(),
        step(0x87, &keys(&NAMES[..1])),
        proof(&step, "5"),
        proof(&step, "6,7,5"),
        proof(&step, "8"),
        // Reflection; a stage left out; a second offer.
        [
            step(
                0x00,
                &keys(&[
                    ("InitiatorName", PROVEN),
                    ("TargetName", TARGET),
                    ("AuthMethod", "CHAP"),
                ]),
            ),
            step(0x00, b"CHAP_A=5\0"),
            step(
                0x01,
                &keys(&[
                    ("CHAP_N", "user"),
                    ("CHAP_R", "0x00"),
                    ("CHAP_I", "90"),
                    ("CHAP_C", &called_out()),
                ]),
            ),
        ]
        .concat(),
        step(0x87, &keys(&[("InitiatorName", PROVEN), ("TargetName", TARGET)])),
        [
            step(0x00, &names),
            step(0x04, b"MaxBurstLength=512\0FirstBurstLength=65536\0"),
            step(0x87, b"MaxBurstLength=512\0"),
        ]
        .concat(),
        // More unknown keys than one answer holds, fetched to the end.
        [step(0x04, &[&names[..], &strange(200)].concat()), step(0x87, b"")].concat(),
    ]
}

fn strange(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| format!("X-com.example.{number}=\0").into_bytes())
        .collect()
}

fn called_out() -> String {
    text::hexadecimal(&RANDOM[1..])
}

/// A whole login by CHAP, both ways.
fn proof(step: &impl Fn(u8, &[u8]) -> Vec<u8>, algorithms: &str) -> Vec<u8> {
    let algorithm = Algorithm::choose(algorithms).expect("one of them is known");
    let response = algorithm.respond(RANDOM[0], SECRET.as_bytes(), &RANDOM[1..]);
    let names = [
        ("InitiatorName", PROVEN),
        ("TargetName", TARGET),
        ("AuthMethod", "CHAP,None"),
    ];
    let answer = [
        ("CHAP_N", "user"),
        ("CHAP_R", &text::hexadecimal(&response)),
        ("CHAP_I", "7"),
        ("CHAP_C", "0bAAECAwQFBgc="),
    ];
    [
        step(0x81, &keys(&names)),
        step(0x00, &keys(&[("CHAP_A", algorithms)])),
        step(0x81, &keys(&answer)),
        step(0x87, b"HeaderDigest=CRC32C\0"),
    ]
    .concat()
}

/// What stands between a host and its data in the target: bytes that nobody agreed to, on either side.
const WINDOW: usize = 1 << 16;

/// A whole connection, and after a sound login whatever the script wants: a byte of choices for the login, then
/// records. A record is a byte that says what it is, and
///
/// * below 0x80: a PDU, its header and its data (behind their length); bit 0 sets CmdSN to the next in turn, bit 1
///   ExpStatSN aside the tag to the number of the record, bits 2 and 3 are words of additional headers;
/// * else raw bytes behind their length: nothing about them is made right.
pub(super) fn session(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let digests = Digests {
        header: choices & 1 != 0,
        data: choices & 2 != 0,
    };
    let said = said_by_host(choices, digests, script);
    let heard = block_on(async {
        let gate = std::sync::Arc::new(ManualGate::default());
        let portals = vec!["10.78.0.1:3260,1".to_owned()];
        let target = Target::new(TARGET.to_owned(), ControllerId::A, portals, gate);
        let (volume, _) = volume(512, 64);
        let units = BTreeMap::from([(0, volume.clone()), (300, volume)]);
        target.set_mappings([(HOST.to_owned(), units)].into());
        let (near, far) = tokio::io::duplex(WINDOW);
        let peer = "10.78.0.254:50000".parse().expect("an address");
        let (mut read, mut write) = tokio::io::split(near);
        let host = async {
            // The target may hang up before it has read everything.
            let _ = write.write_all(&said).await;
            let _ = write.shutdown().await;
        };
        let mut heard = Vec::new();
        let ends = async {
            let reading = read.read_to_end(&mut heard);
            tokio::join!(host, reading, connection::serve(far, peer, target.clone()))
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), ends).await;
        assert!(ended.is_ok(), "the host has hung up and the connection stays");
        assert!(
            target.sessions().is_empty(),
            "the connection has ended and its session stays"
        );
        heard
    });
    check_answers(&heard, digests);
}

fn said_by_host(choices: u8, digests: Digests, mut script: Script<'_>) -> Vec<u8> {
    let word = |yes| if yes { "CRC32C" } else { "None" };
    let mut pairs = NAMES.to_vec();
    if choices & 4 != 0 {
        pairs[2].1 = "Discovery";
    }
    pairs.extend([
        ("HeaderDigest", word(digests.header)),
        ("DataDigest", word(digests.data)),
        ("InitialR2T", if choices & 8 != 0 { "No" } else { "Yes" }),
        ("ImmediateData", if choices & 16 != 0 { "No" } else { "Yes" }),
        (
            "FirstBurstLength",
            if choices & 32 != 0 { "512" } else { "65536" },
        ),
        (
            "MaxBurstLength",
            if choices & 64 != 0 { "1024" } else { "262144" },
        ),
    ]);
    let mut header = Header([0; BHS]);
    header.0[0] = request::LOGIN | 0x40;
    header.0[1] = 0x87;
    let mut out = Vec::new();
    pdu::put(&mut out, header, &keys(&pairs), Digests::default());
    let mut number = 0;
    while !script.is_empty() {
        let kind = script.byte();
        if kind >= 0x80 {
            out.extend_from_slice(script.long());
            continue;
        }
        let mut header = Header(script.array());
        let words = kind >> 2 & 3;
        header.0[4] = words;
        let additional = script.bytes(usize::from(words) * 4).to_vec();
        if kind & 1 != 0 {
            header.put32(24, number);
        }
        if kind & 2 != 0 {
            header.put32(16, number);
        }
        if !header.is_immediate() && header.opcode() != request::DATA_OUT {
            number = number.wrapping_add(1);
        }
        frame(&mut out, header, &additional, script.long(), digests);
    }
    out
}

/// A PDU with additional headers, which the target's own encoder has no use for.
fn frame(out: &mut Vec<u8>, mut header: Header, additional: &[u8], data: &[u8], digests: Digests) {
    header.set_data_length(data.len());
    let start = out.len();
    out.extend_from_slice(&header.0);
    out.extend_from_slice(additional);
    out.resize(start + BHS + header.additional_length(), 0);
    if digests.header {
        let sum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    if data.is_empty() {
        return;
    }
    let start = out.len();
    out.extend_from_slice(data);
    out.resize(start + data.len().next_multiple_of(4), 0);
    if digests.data {
        let sum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

/// Everything that the target said is PDUs of a target, the last of which may be cut; the first is the login's.
fn check_answers(heard: &[u8], digests: Digests) {
    let mut buffer = BytesMut::from(heard);
    let mut count = 0_usize;
    // As the host declared nothing, it takes 8192 bytes at most.
    while let Some(pdu) = pdu::take(
        &mut buffer,
        if count == 0 { Digests::default() } else { digests },
        8192,
    )
    .expect("the target keeps to what was agreed")
    {
        let opcode = pdu.header.opcode();
        assert!(opcode >= 0x20, "a target that sends requests");
        assert_eq!(count == 0, opcode == response::LOGIN, "one login, first");
        if opcode == response::SCSI && pdu.header.0[3] == 2 {
            assert!(!pdu.data.is_empty(), "CHECK CONDITION without sense data");
        }
        count += 1;
    }
    assert!(count > 0, "a sound login was not answered");
}

/// A record of [`session`].
fn record(out: &mut Vec<u8>, kind: u8, bytes: &[(usize, &[u8])], data: &[u8]) {
    let mut header = [0; BHS];
    for (at, bytes) in bytes {
        header[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    out.push(kind);
    out.extend_from_slice(&header);
    put_long(out, data);
}

pub(super) fn sessions() -> Vec<Vec<u8>> {
    let command = |out: &mut Vec<u8>, flags: u8, tag: u8, expected: u32, cdb: &[u8], data: &[u8]| {
        let head = [
            (0, &[request::SCSI_COMMAND, flags][..]),
            (16, &[0, 0, 0, tag]),
            (20, &expected.to_be_bytes()),
            (32, cdb),
        ];
        record(out, 1, &head, data);
    };
    let data_out = |out: &mut Vec<u8>, tag: u8, transfer: [u8; 4], offset: u32, data: &[u8]| {
        let head = [
            (0, &[request::DATA_OUT, 0x80][..]),
            (16, &[0, 0, 0, tag]),
            (20, &transfer),
            (40, &offset.to_be_bytes()),
        ];
        record(out, 0, &head, data);
    };
    let block = [0x5a; 512];
    // Inquiry, capacity, read, report luns.
    let mut look = vec![0];
    command(&mut look, 0xc1, 1, 96, &[0x12, 0, 0, 0, 96], &[]);
    command(
        &mut look,
        0xc1,
        2,
        32,
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[],
    );
    command(&mut look, 0xc1, 3, 1024, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], &[]);
    command(&mut look, 0xc1, 4, 64, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], &[]);
    // Writes: immediate data; asked for; unsolicited.
    let write = [0x2a, 0, 0, 0, 0, 4, 0, 0, 1];
    let mut writes = vec![8 + 3];
    command(&mut writes, 0xa1, 1, 512, &write, &block);
    command(&mut writes, 0xa1, 2, 512, &write, &[]);
    data_out(&mut writes, 2, [0; 4], 0, &block);
    command(&mut writes, 0x21, 3, 512, &write, &[]);
    data_out(&mut writes, 3, NO_TAG.to_be_bytes(), 0, &block);
    command(
        &mut writes,
        0xa1,
        4,
        1024,
        &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1],
        &[block, [1; 512]].concat(),
    );
    // Ping, text, task management, logout; then bytes without sense.
    let mut others = vec![1];
    record(
        &mut others,
        0,
        &[(0, &[0x40, 0x80]), (16, &[0, 0, 0, 9]), (20, &[0xff; 4])],
        b"ping",
    );
    record(
        &mut others,
        1,
        &[(0, &[request::TEXT, 0x80]), (16, &[0, 0, 0, 8]), (20, &[0xff; 4])],
        b"SendTargets=All\0",
    );
    command(&mut others, 0xa1, 7, 1024, &[0x2a, 0, 0, 0, 0, 4, 0, 0, 2], &[]);
    record(
        &mut others,
        1,
        &[
            (0, &[request::TASK_MANAGEMENT, 0x81]),
            (16, &[0, 0, 0, 6]),
            (20, &[0, 0, 0, 7]),
        ],
        &[],
    );
    record(
        &mut others,
        1,
        &[(0, &[request::TASK_MANAGEMENT, 0x86]), (16, &[0, 0, 0, 5])],
        &[],
    );
    record(
        &mut others,
        1,
        &[(0, &[request::LOGOUT, 0x80]), (16, &[0, 0, 0, 4])],
        &[],
    );
    others.push(0x80);
    put_long(&mut others, &[0xff; 60]);
    // Every function, a SNACK, an answer to a ping, text that goes on, and commands ahead of their turn.
    let mut functions = vec![2 + 8];
    command(
        &mut functions,
        0xa1,
        1,
        1024,
        &[0x2a, 0, 0, 0, 0, 4, 0, 0, 2],
        &[],
    );
    for function in 1..=8 {
        let head = [
            (0, &[0x40 | request::TASK_MANAGEMENT, 0x80 | function][..]),
            (16, &[0, 0, 1, function]),
            (20, &[0, 0, 0, 1]),
            (32, &[0, 0, 0, 0]),
        ];
        record(&mut functions, 1, &head, &[]);
    }
    let mut talk = vec![0];
    record(
        &mut talk,
        0,
        &[(0, &[request::SNACK, 0x80]), (16, &[0xff; 4])],
        &[],
    );
    record(
        &mut talk,
        0,
        &[(0, &[0x40, 0x80]), (16, &[0xff; 4]), (20, &[0, 0, 0, 1])],
        &[],
    );
    record(
        &mut talk,
        1,
        &[(0, &[request::TEXT, 0x40]), (16, &[0, 0, 0, 8]), (20, &[0xff; 4])],
        b"SendTar",
    );
    record(
        &mut talk,
        1,
        &[
            (0, &[request::TEXT, 0x80]),
            (16, &[0, 0, 0, 8]),
            (20, &[0, 0, 0, 1]),
        ],
        b"gets=\0MaxRecvDataSegmentLength=512\0X=1\0",
    );
    let early = [
        (0, &[request::SCSI_COMMAND, 0x81][..]),
        (16, &[0, 0, 0, 40]),
        (24, &[0, 0, 0, 5]),
    ];
    record(&mut talk, 0, &early, &[]);
    record(
        &mut talk,
        1,
        &[(0, &[request::LOGOUT, 0x81]), (16, &[0, 0, 0, 4])],
        &[],
    );
    // An additional header (extended CDB), and a discovery.
    let mut extended = vec![0];
    record(&mut extended, 1 + 4, &[(0, &[request::SCSI_COMMAND, 0x81])], &[]);
    let mut discovery = vec![4];
    record(
        &mut discovery,
        1,
        &[(0, &[request::TEXT, 0x80]), (16, &[0, 0, 0, 8]), (20, &[0xff; 4])],
        b"SendTargets=All\0",
    );
    vec![look, writes, others, functions, talk, extended, discovery]
}

/// PDUs out of a stream, in pieces; behind a byte that says which digests there are and one for the size of the
/// pieces.
pub(super) fn stream(data: &[u8]) {
    let mut script = Script(data);
    let (choices, step) = (script.byte(), usize::from(script.byte()).max(1));
    let digests = Digests {
        header: choices & 1 != 0,
        data: choices & 2 != 0,
    };
    let take_all = |step: usize| {
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for piece in script.0.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match pdu::take(&mut buffer, digests, MAX_RECEIVE as usize) {
                    Ok(None) => break,
                    Ok(Some(pdu)) => found.push(Ok(pdu)),
                    Err(broken) => {
                        found.push(Err(broken));
                        return found;
                    }
                }
            }
        }
        found
    };
    let found = take_all(usize::MAX);
    assert_eq!(take_all(step), found, "in pieces of {step} bytes");
    let mut again = Vec::new();
    for pdu in found.iter().filter_map(|pdu| pdu.as_ref().ok()) {
        frame(&mut again, pdu.header, &pdu.additional, &pdu.data, digests);
        // Padding may be anything, so only what it pads is the same.
        let mut buffer = BytesMut::from(&again[..]);
        let read = pdu::take(&mut buffer, digests, MAX_RECEIVE as usize);
        assert_eq!(
            read.as_ref().map(Option::as_ref),
            Ok(Some(pdu)),
            "one PDU, two readings"
        );
        again.clear();
    }
    for (_, value) in text::split(script.0).unwrap_or_default() {
        let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
        if text::number(&value).is_some() {
            let sound = digits
                .unwrap_or(&value)
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit());
            assert!(sound, "{value} is taken for a number");
        }
    }
}

pub(super) fn streams() -> Vec<Vec<u8>> {
    let stream = |choices: u8| {
        let digests = Digests {
            header: choices & 1 != 0,
            data: choices & 2 != 0,
        };
        let mut out = vec![choices, 50];
        frame(&mut out, Header([0; BHS]), &[], b"hello", digests);
        let mut header = Header([1; BHS]);
        header.0[4] = 2;
        frame(&mut out, header, &[3; 8], &[], digests);
        out
    };
    let mut all: Vec<_> = (0..4).map(stream).collect();
    all.push(b"\0\x32Key=0x1f\0Other=19\0Third=+7\0".to_vec());
    all
}
