//! Pairs of two builds: this one against recordings of version 1, and against ends that speak later versions.
//!
//! `frozen/*.txt`: what went over the wire between both ends of version 1, a line per piece, `>` from the initiator. It was
//! recorded when that was the only version, and is never recorded again.

use crate::client::{log_in, read_frame, read_opening, write_frame};
use crate::frame::{HEADER_BYTES, field};
use crate::hello::{VERSIONS, Versions};
use crate::tests::{ARRAY, LONG, Memory, hello};
use crate::*;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

const PLAIN: &str = include_str!("../frozen/version-1.txt");
const WITH_KEY: &str = include_str!("../frozen/version-1-with-key.txt");

/// The bytes of each direction, piece by piece.
fn pieces(recording: &str) -> Vec<(bool, Vec<u8>)> {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = (0..hex.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    };
    let lines = recording
        .lines()
        .map(|line| line.split_once(' ').expect("direction and bytes"));
    lines
        .map(|(direction, hex)| (direction == ">", bytes(hex)))
        .collect()
}

/// Without what differs from session to session: nonces and session numbers of a welcome, and the sums over them.
fn without_chance(mut frames: Vec<u8>) -> Vec<u8> {
    if frames[4] == Opcode::Hello as u8 {
        frames[64..72].fill(0);
        frames[HEADER_BYTES + 24..HEADER_BYTES + 48].fill(0);
    }
    frames
}

fn bench(versions: Versions) -> Arc<Server<Memory>> {
    let mut options = ServerOptions::new(ARRAY, Purpose::Disk, None);
    options.versions = versions;
    Server::new(Arc::new(Memory::new()), options)
}

fn serve(server: &Arc<Server<Memory>>) -> DuplexStream {
    let (near, far) = duplex(1 << 16);
    let server = server.clone();
    tokio::spawn(async move { server.connection(far).await });
    near
}

#[tokio::test]
async fn an_initiator_of_version_1_finds_everything_as_it_was() {
    let mut stream = serve(&bench(VERSIONS));
    for (from_initiator, expected) in pieces(PLAIN) {
        if from_initiator {
            stream.write_all(&expected).await.expect("sent");
            continue;
        }
        let mut found = vec![0; expected.len()];
        timeout(LONG, stream.read_exact(&mut found))
            .await
            .expect("in time")
            .expect("as much as was recorded");
        // The range of a welcome stands where version 1 has zeros and does not look.
        if found[4] == Opcode::Hello as u8 {
            let range = &mut found[HEADER_BYTES + 4..HEADER_BYTES + 8];
            assert_eq!(*range, [1, 0, 2, 0]);
            range.fill(0);
        }
        assert_eq!(without_chance(found), without_chance(expected));
    }
}

/// A target of version 1: it plays its part of the recording, and looks at what came as that version did.
#[tokio::test]
async fn a_target_of_version_1_is_spoken_to_as_it_expects() {
    let (near, mut far) = duplex(1 << 16);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let playing = tokio::spawn({
        let heard = heard.clone();
        async move {
            for (from_initiator, bytes) in pieces(PLAIN) {
                if !from_initiator {
                    far.write_all(&bytes).await.expect("sent");
                    continue;
                }
                let mut found = vec![0; bytes.len()];
                far.read_exact(&mut found).await.expect("as much as was recorded");
                heard.lock().expect("lock").push((found, bytes));
            }
        }
    });
    let client = Client::over(near, "x".into(), &hello(), None)
        .await
        .expect("session");
    assert_eq!(client.welcome().version, 1);
    assert!(!client.tells_when_to_begin());
    let later = Instant::now() + LONG;
    client.info(None).await.expect("info");
    let nexus = Arc::new(Nexus {
        initiator: "iqn.x:y".to_owned(),
        isid: [0x80, 1, 2, 3, 4, 5],
        port: 2,
    });
    let id = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let behalf = Some(Behalf { nexus, begins: true });
    let data: Bytes = vec![0x5a; 512].into();
    for operation in [
        Operation::Write {
            lba: 3,
            data,
            fua: true,
        },
        Operation::Read { lba: 3, blocks: 1 },
    ] {
        let request = Request::for_volume(id, operation).on_behalf(behalf.clone());
        // It cannot be told by when to begin.
        client
            .call(request.begin_by(later), None)
            .await
            .expect("answered");
    }
    client.read(60, 5, None).await.expect_err("beyond the end");
    timeout(LONG, playing).await.expect("in time").expect("no panic");
    for (found, recorded) in heard.lock().expect("lock").drain(..) {
        let (mut found, recorded) = (found, without_chance(recorded));
        if found[4] == Opcode::Hello as u8 {
            // Version 1: 112 bytes, 1 at offset 0; what it does not look at may be anything.
            let range = &mut found[HEADER_BYTES + 6..HEADER_BYTES + 8];
            assert_eq!(*range, [2, 0], "the newest");
            range.fill(0);
        }
        assert_eq!(without_chance(found), recorded);
    }
}

#[test]
fn proofs_are_what_they_were() {
    let all = pieces(WITH_KEY);
    let payload = |at: usize| &all[at].1[HEADER_BYTES..];
    let (mine, theirs, proof) = (payload(0), payload(1), payload(2));
    let key = AuthKey::new([7; 32]);
    let (welcome, raw, theirs_proof) = Welcome::decode(theirs).expect("a welcome");
    assert_eq!((welcome.version, welcome.array), (1, ARRAY));
    assert_eq!(theirs_proof, Some(&key.target_proof(mine, raw)[..]));
    assert_eq!(proof, key.initiator_proof(mine, raw));
}

/// Logs in at a target that speaks `there` as an initiator that speaks `here`.
async fn meet(here: Versions, there: Versions) -> Result<Welcome, Error> {
    let stream = serve(&bench(there));
    let (mut read, mut write) = tokio::io::split(stream);
    let hello = hello();
    let meeting = log_in(&mut read, &mut write, "x", (&hello, here), None);
    timeout(LONG, meeting).await.expect("in time")
}

#[tokio::test]
async fn two_builds_speak_the_newest_version_that_both_know_or_say_why_not() {
    let range = |oldest, newest| Versions { oldest, newest };
    for (here, there, agreed) in [
        (VERSIONS, VERSIONS, 2),
        (range(1, 1), VERSIONS, 1),
        (VERSIONS, range(1, 1), 1),
        // Two builds on: the next one, and one that has dropped version 1.
        (VERSIONS, range(1, 3), 2),
        (range(1, 3), VERSIONS, 2),
        (range(2, 3), VERSIONS, 2),
    ] {
        let welcome = meet(here, there).await.expect("a version in common");
        assert_eq!(welcome.version, agreed, "{here} and {there}");
        assert_eq!(welcome.clock_us > 0, agreed >= 2);
    }
    for (here, there, says) in [
        (
            VERSIONS,
            range(3, 4),
            "it speaks versions 3 to 4, this end versions 1 to 2",
        ),
        (range(3, 4), VERSIONS, "it speaks versions 1 to 2, this end"),
        (range(3, 3), range(1, 1), "it speaks version 1, this end"),
    ] {
        let refused = meet(here, there).await.expect_err("nothing in common");
        assert_eq!(refused.status(), Some(Status::VersionMismatch));
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(refused.nothing_was_done());
    }
}

#[tokio::test]
async fn what_a_later_version_adds_to_its_hello_is_skipped() {
    let mut stream = serve(&bench(VERSIONS));
    let later = Versions { oldest: 2, newest: 9 };
    let mut mine = hello().encode(later, [1; 16]);
    mine.extend_from_slice(b"what nobody knows yet");
    write_frame(&mut stream, &Header::new(Opcode::Hello, 0).covering(&mine), &mine)
        .await
        .expect("sent");
    let (header, theirs) = read_opening(&mut stream).await.expect("a welcome");
    assert_eq!(header.status, Status::Ok);
    assert_eq!(u16::from_le_bytes(field(&theirs, 0)), 2);
    // The same in a welcome.
    let mut added = theirs.to_vec();
    added[2..4].copy_from_slice(&5_u16.to_le_bytes());
    added.extend_from_slice(b"added");
    let (welcome, raw, proof) = Welcome::decode(&added).expect("a welcome");
    assert_eq!((welcome.version, raw.len(), proof), (2, 117, None));
    added.extend_from_slice(&[7; 32]);
    let (_, raw, proof) = Welcome::decode(&added).expect("a welcome");
    assert_eq!(
        (raw.len(), proof),
        (117, Some(&[7; 32][..])),
        "the proof covers it"
    );
    added.pop();
    assert!(Welcome::decode(&added).is_err());
    let auth = Header::new(Opcode::Auth, 0).covering(&[]);
    write_frame(&mut stream, &auth, &[]).await.expect("sent");
    let (answer, _) = read_frame(&mut stream).await.expect("an answer");
    assert_eq!((answer.opcode, answer.status), (Opcode::Auth, Status::Ok));
}

#[tokio::test]
async fn a_host_s_request_says_by_when_it_may_be_begun() {
    let server = bench(VERSIONS);
    let client = Client::over(serve(&server), "x".into(), &hello(), None)
        .await
        .expect("session");
    assert!(client.tells_when_to_begin());
    let nexus = Arc::new(Nexus {
        initiator: "iqn.x:y".to_owned(),
        isid: [1; 6],
        port: 1,
    });
    let behalf = Some(Behalf { nexus, begins: true });
    let begin_by = Instant::now() + Duration::from_secs(5);
    let read = || Request::new(Operation::Read { lba: 0, blocks: 1 });
    for (request, told) in [
        (read().on_behalf(behalf.clone()).begin_by(begin_by), true),
        (read().on_behalf(behalf), false),
        (read().begin_by(begin_by), false),
    ] {
        client.call(request, None).await.expect("answered");
        let heard = server.handler().begin_by.lock().expect("lock").take();
        // Never later than what was meant, and not much earlier.
        let sound = heard.is_some_and(|heard| heard <= begin_by && begin_by - heard < Duration::from_secs(4));
        assert_eq!((heard.is_some(), sound), (told, told), "{heard:?}");
    }
}
