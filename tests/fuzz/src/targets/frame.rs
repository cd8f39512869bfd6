//! Block frames: what an initiator sends to a port of the shelf or to a volume, and what a target answers.

use super::block_on;
use crate::script::{Script, put_long};
use bytes::Bytes;
use pollux_block_frame::{
    AuthKey, Behalf, Client, EndpointInfo, FullStatus, HEADER_BYTES, Handler, Header, Hello, Key,
    MAX_PAYLOAD, Nexus, Operation, Port, Purpose, Registrant, Reply, Request, Reservation, ReservationOut,
    ReservationType, Server, ServerOptions, Status,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);
const WINDOW: usize = 1 << 16;
const BLOCK: usize = 512;
/// What the log-in of a session takes: version 1 of a hello.
const HELLO_BYTES: usize = 112;

/// Reads one frame of a script: a byte of choices, a header, a payload behind its length. Bit 0 leaves the magic,
/// bit 1 the length and checksum of the payload, bit 2 the checksum of the header as they come; otherwise right.
fn frame(script: &mut Script<'_>) -> Vec<u8> {
    let choices = script.byte();
    let mut header: [u8; HEADER_BYTES] = script.array();
    let payload = script.long();
    if choices & 1 == 0 {
        header[..4].copy_from_slice(b"PBF1");
    }
    if choices & 2 == 0 {
        header[28..32].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[64..68].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    }
    if choices & 4 == 0 {
        let crc = crc32c::crc32c(&header[..68]);
        header[68..].copy_from_slice(&crc.to_le_bytes());
    }
    [&header, payload].concat()
}

/// A frame as a request and as a reply; then its payload as every answer that has a form.
pub(super) fn message(data: &[u8]) {
    let bytes = frame(&mut Script(data));
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a header");
    let payload = Bytes::copy_from_slice(payload);
    if let Ok(header) = Header::decode(header) {
        assert!(header.payload_len <= MAX_PAYLOAD);
        assert_eq!(
            header.encode()[..],
            bytes[..HEADER_BYTES],
            "one header, two encodings"
        );
        if let Ok(request) = Request::from_frame(&header, payload.clone()) {
            let (again, data) = request.clone().into_frame(header.tag);
            assert_eq!(again.opcode, header.opcode);
            assert_eq!(
                Request::from_frame(&again, data),
                Ok(request),
                "one request, two readings"
            );
        }
        if header.is_reply() {
            let reply = Reply::from_frame(&header, payload.clone());
            let (again, data) = reply.clone().into_frame(header.opcode, header.tag);
            assert_eq!(Reply::from_frame(&again, data), reply, "one reply, two readings");
        }
    }
    let reply = Reply::data(payload);
    if let Ok(info) = reply.to_info() {
        assert_eq!(
            Reply::info(&info).to_info(),
            Ok(info),
            "one description, two readings"
        );
    }
    if let Ok(status) = reply.to_full_status() {
        let again = Reply::full_status(&status).to_full_status();
        assert_eq!(again, Ok(status), "one state of reservations, two readings");
    }
}

/// A frame of a script out of one that the encoder made.
fn put_frame(out: &mut Vec<u8>, (header, payload): (Header, Bytes)) {
    out.push(0);
    out.extend_from_slice(&header.encode());
    put_long(out, &payload);
}

fn requests() -> Vec<Request> {
    let key = Key(5);
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let data = Bytes::from_static(&[7; BLOCK]);
    [
        Operation::Info,
        Operation::Read { lba: 3, blocks: 2 },
        Operation::Write {
            lba: 3,
            data: data.clone(),
            fua: true,
        },
        Operation::Flush,
        Operation::Unmap { lba: 3, blocks: 1 },
        Operation::LbaStatus { lba: 3, blocks: 9 },
        Operation::CompareAndWrite {
            lba: 3,
            compare: data.clone(),
            data,
            fua: false,
        },
        Operation::ReservationOut(ReservationOut::Register {
            current: Key(0),
            new: key,
        }),
        Operation::ReservationOut(ReservationOut::Reserve { key, kind }),
        Operation::ReservationOut(ReservationOut::Preempt {
            key,
            victim: Key(6),
            kind,
            abort: true,
        }),
        Operation::ReservationIn,
        Operation::Scsi {
            cdb: [0x5e; 16],
            id: Uuid::from_bytes([4; 16]),
            data: Bytes::from_static(b"list"),
        },
        Operation::RecordLoad,
        Operation::RecordStore {
            record: Bytes::from_static(b"record"),
        },
    ]
    .map(|operation| {
        let nexus = Nexus {
            initiator: "iqn.x:host".to_owned(),
            isid: [1; 6],
            port: 2,
        };
        let behalf = matches!(operation, Operation::Scsi { .. }).then(|| Behalf {
            nexus: Arc::new(nexus),
            begins: true,
        });
        Request::new(operation).on_behalf(behalf)
    })
    .into()
}

fn replies() -> Vec<Reply> {
    let info = EndpointInfo {
        block_size: 512,
        physical_block_size: 4096,
        blocks: 64,
        id: Uuid::from_bytes([3; 16]),
        volatile_cache: true,
        serial: "PLX0".into(),
    };
    let full = FullStatus {
        generation: 3,
        registrants: vec![Registrant {
            port: Port::A,
            key: Key(5),
        }],
        reservation: Some(Reservation {
            key: Key(5),
            port: Port::A,
            kind: ReservationType::WriteExclusive,
        }),
    };
    vec![
        Reply::info(&info),
        Reply::full_status(&full),
        Reply::ok(),
        Reply::with_detail(Status::Miscompare, 7),
        Reply::scsi(2, Bytes::from_static(&[0x70; 18])),
    ]
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let opcode = |number: usize| requests()[number % 10].operation.opcode();
    let requests = requests().into_iter().map(|request| request.into_frame(9));
    let replies = replies()
        .into_iter()
        .enumerate()
        .map(|(number, reply)| reply.into_frame(opcode(number * 9), 9));
    requests
        .chain(replies)
        .map(|frame| {
            let mut out = vec![];
            put_frame(&mut out, frame);
            out
        })
        .collect()
}

/// A disk that does nothing and says so at length.
struct Yes;

impl Handler for Yes {
    type Session = ();

    async fn log_in(&self, _hello: &Hello) -> Result<(), Status> {
        Ok(())
    }

    async fn handle(&self, _session: &Arc<()>, request: Request) -> Reply {
        match request.operation {
            Operation::Info => replies().swap_remove(0),
            Operation::ReservationIn => replies().swap_remove(1),
            Operation::Read { blocks, .. } => Reply::data(vec![0; BLOCK * blocks.min(8) as usize].into()),
            Operation::CompareAndWrite { .. } => Reply::with_detail(Status::Miscompare, 1),
            _ => Reply::ok(),
        }
    }

    fn ended(&self, _session: &Arc<()>) {}
}

/// A session at a server: a byte that says whether it wants the pairing key, then frames, then raw bytes.
pub(super) fn server(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let key = (choices & 1 != 0).then(|| AuthKey::new([1; 32]));
    let mut said = vec![];
    for _ in 0..choices >> 1 {
        if script.is_empty() {
            break;
        }
        said.extend(frame(&mut script));
    }
    said.extend_from_slice(script.0);
    let heard = block_on(async {
        let options = ServerOptions::new(ARRAY, Purpose::Disk, key.clone());
        let server = Server::new(Arc::new(Yes), options);
        let (near, far) = tokio::io::duplex(WINDOW);
        let (mut read, mut write) = tokio::io::split(near);
        let initiator = async {
            // The server may hang up before it has read everything.
            let _ = write.write_all(&said).await;
            let _ = write.shutdown().await;
        };
        let mut heard = vec![];
        let ends = async { tokio::join!(initiator, read.read_to_end(&mut heard), server.connection(far)) };
        let ended = tokio::time::timeout(Duration::from_secs(30), ends).await;
        assert!(ended.is_ok(), "the initiator has hung up and the session stays");
        heard
    });
    let mut rest = &heard[..];
    let mut answers = 0;
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(header).expect("the server sends frames");
        assert!(header.is_reply(), "a server that asks");
        let Some((payload, behind)) = behind.split_at_checked(header.payload_len as usize) else {
            break;
        };
        assert_eq!(crc32c::crc32c(payload), header.payload_crc);
        if answers == 1 {
            // Whoever could not prove the key is told so; nothing else is said to it.
            let refused = header.status == Status::Unauthorized && behind.is_empty();
            assert!(key.is_none() || refused, "let in without the key");
        }
        answers += 1;
        rest = behind;
    }
}

fn hello() -> Vec<u8> {
    let mut hello = vec![0; HELLO_BYTES];
    hello[0] = 1;
    hello[2] = Purpose::Disk as u8;
    hello[4] = 1;
    hello[8..24].copy_from_slice(ARRAY.as_bytes());
    hello[56..61].copy_from_slice(b"poolm");
    hello
}

/// A frame of a session's beginning: 1 is a hello, 2 a proof.
fn put_opening(out: &mut Vec<u8>, opcode: u8, flags: u8, payload: &[u8]) {
    let mut header = [0; HEADER_BYTES];
    (header[4], header[5]) = (opcode, flags);
    out.push(0);
    out.extend_from_slice(&header);
    put_long(out, payload);
}

pub(super) fn servers() -> Vec<Vec<u8>> {
    let session = |key: u8, frames: u8| {
        let mut out = vec![key | frames << 1];
        put_opening(&mut out, 1, 0, &hello());
        put_opening(&mut out, 2, 0, if key == 0 { &[] } else { &[9; 32] });
        for (tag, request) in (1..).zip(requests()) {
            put_frame(&mut out, request.into_frame(tag));
        }
        out
    };
    let mut old = vec![2];
    put_opening(&mut old, 1, 0, &[2, 0, 9]);
    vec![session(0, 12), session(1, 12), session(0, 4), old]
}

/// What a server says to a client that logs in and asks for everything: frames, then raw bytes.
pub(super) fn client(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let key = (choices & 1 != 0).then(|| AuthKey::new([1; 32]));
    let mut said = vec![];
    for _ in 0..choices >> 1 {
        if script.is_empty() {
            break;
        }
        said.extend(frame(&mut script));
    }
    said.extend_from_slice(script.0);
    block_on(async {
        let (near, far) = tokio::io::duplex(WINDOW);
        let (mut read, mut write) = tokio::io::split(far);
        let server = async {
            let _ = write.write_all(&said).await;
            let _ = write.shutdown().await;
            let mut ignored = vec![];
            let _ = read.read_to_end(&mut ignored).await;
        };
        let initiator = async {
            let hello = Hello {
                array: ARRAY,
                port: Port::A,
                purpose: Purpose::Disk,
                client: "poolm".into(),
                epoch: 1,
                generation: 1,
            };
            let Ok(client) = Client::over(near, "fuzz".into(), &hello, key.as_ref()).await else {
                return;
            };
            assert!(key.is_none(), "a server without the key was believed");
            let answers = tokio::join!(
                client.info(None),
                client.reservation_status(None),
                client.read(3, 1, None),
                client.write(3, Bytes::from_static(&[7; BLOCK]), true, None),
                client.flush(None),
            );
            drop(answers);
        };
        let ends = async { tokio::join!(initiator, server) };
        let ended = tokio::time::timeout(Duration::from_secs(30), ends).await;
        assert!(ended.is_ok(), "the server has hung up and the client waits");
    });
}

pub(super) fn clients() -> Vec<Vec<u8>> {
    let opening = |out: &mut Vec<u8>, key: u8, proof: &[u8]| {
        out.push(key | 20 << 1);
        let mut welcome = hello();
        welcome[2..8].fill(0);
        welcome[48..56].copy_from_slice(&[0, 0, 128, 0, 0, 1, 0, 0]);
        welcome.extend_from_slice(proof);
        put_opening(out, 1, 1, &welcome);
        put_opening(out, 2, 1, &[]);
    };
    let mut sound = vec![];
    opening(&mut sound, 0, &[]);
    let asked = requests();
    let answers = [(0, 0), (9, 1), (1, 2), (2, 2), (3, 2)];
    for (tag, (request, reply)) in (1..).zip(answers) {
        let opcode = asked[request].operation.opcode();
        put_frame(&mut sound, replies()[reply].clone().into_frame(opcode, tag));
    }
    let mut unproven = vec![];
    opening(&mut unproven, 1, &[9; 32]);
    let mut refused = vec![20 << 1];
    put_opening(&mut refused, 1, 1, &[]);
    vec![sound, unproven, refused]
}
