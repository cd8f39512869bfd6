//! Round trips, damage, and sessions over real sockets.

use super::*;
use crate::client::{OPENING_MAX, ReadError, read_frame, read_opening};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

pub(crate) const ARRAY: Uuid = Uuid::from_u128(0xa77a);
pub(crate) const LONG: Duration = Duration::from_secs(10);

fn reservation_type() -> impl Strategy<Value = ReservationType> {
    prop_oneof![
        Just(ReservationType::WriteExclusive),
        Just(ReservationType::ExclusiveAccess),
        Just(ReservationType::WriteExclusiveRegistrantsOnly),
        Just(ReservationType::ExclusiveAccessRegistrantsOnly),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    any::<u64>().prop_map(Key)
}

fn data(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn operation() -> impl Strategy<Value = Operation> {
    let out = prop_oneof![
        (key(), key()).prop_map(|(current, new)| ReservationOut::Register { current, new }),
        key().prop_map(|new| ReservationOut::RegisterAndIgnore { new }),
        (key(), reservation_type()).prop_map(|(key, kind)| ReservationOut::Reserve { key, kind }),
        (key(), reservation_type()).prop_map(|(key, kind)| ReservationOut::Release { key, kind }),
        key().prop_map(|key| ReservationOut::Clear { key }),
        (key(), key(), reservation_type(), any::<bool>()).prop_map(|(key, victim, kind, abort)| {
            ReservationOut::Preempt {
                key,
                victim,
                kind,
                abort,
            }
        }),
    ];
    prop_oneof![
        Just(Operation::Info),
        Just(Operation::Flush),
        Just(Operation::ReservationIn),
        (any::<u64>(), any::<u32>()).prop_map(|(lba, blocks)| Operation::Read { lba, blocks }),
        (any::<u64>(), any::<u32>()).prop_map(|(lba, blocks)| Operation::Unmap { lba, blocks }),
        (any::<u64>(), any::<u32>()).prop_map(|(lba, blocks)| Operation::LbaStatus { lba, blocks }),
        (any::<u64>(), data(2048), any::<bool>()).prop_map(|(lba, data, fua)| Operation::Write {
            lba,
            data,
            fua
        }),
        (any::<u64>(), vec(any::<(u8, u8)>(), 0..1024), any::<bool>()).prop_map(|(lba, pairs, fua)| {
            let (compare, data): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
            Operation::CompareAndWrite {
                lba,
                compare: compare.into(),
                data: data.into(),
                fua,
            }
        }),
        out.prop_map(Operation::ReservationOut),
        (any::<[u8; 16]>(), any::<u128>(), data(64)).prop_map(|(cdb, id, data)| Operation::Scsi {
            cdb,
            id: Uuid::from_u128(id),
            data,
        }),
        Just(Operation::RecordLoad),
        data(2048).prop_map(|record| Operation::RecordStore { record }),
    ]
}

fn behalf() -> impl Strategy<Value = Option<Behalf>> {
    let nexus = ("[a-z0-9.:-]{1,223}", any::<[u8; 6]>(), any::<u16>());
    proptest::option::of(
        (nexus, any::<bool>()).prop_map(|((initiator, isid, port), begins)| Behalf {
            nexus: Arc::new(Nexus {
                initiator,
                isid,
                port,
            }),
            begins,
        }),
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(work)
}

proptest! {
    #[test]
    fn request_round_trip(
        operation in operation(),
        behalf in behalf(),
        volume in any::<u128>(),
        tag in any::<u64>(),
    ) {
        let request = Request::for_volume(Uuid::from_u128(volume), operation).on_behalf(behalf);
        let (header, payload) = request.clone().into_frame(tag);
        let wire = [&header.encode()[..], &payload].concat();
        let (read, payload) = block_on(read_frame(&mut &wire[..])).expect("own frame");
        prop_assert_eq!(read, header);
        prop_assert_eq!(read.tag, tag);
        prop_assert_eq!(Request::from_frame(&read, payload).expect("own request"), request);
    }

    #[test]
    fn any_flipped_bit_is_noticed(operation in operation(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (header, payload) = Request::new(operation).into_frame(7);
        let mut wire = [&header.encode()[..], &payload].concat();
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        prop_assert!(block_on(read_frame(&mut &wire[..])).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = block_on(read_frame(&mut &bytes[..]));
        let _ = Hello::decode(&bytes, VERSIONS);
        let _ = Welcome::decode(&bytes);
        let reply = Reply::data(bytes.into());
        let _ = reply.to_info();
        let _ = reply.to_full_status();
    }

    /// Checksums that fit, contents that need not.
    #[test]
    fn random_fields_never_panic(mut raw in vec(any::<u8>(), 68), opcode in 0..0x36u8, payload in data(64)) {
        raw[0..4].copy_from_slice(b"PBF1");
        raw[4] = opcode;
        raw[5] &= 15;
        raw[6..8].copy_from_slice(&[0, 0]);
        raw[28..32].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        raw[64..68].copy_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        let crc = crc32c::crc32c(&raw).to_le_bytes();
        raw.extend_from_slice(&crc);
        raw.extend_from_slice(&payload);
        if let Ok((header, payload)) = block_on(read_frame(&mut &raw[..])) {
            let _ = Request::from_frame(&header, payload);
        }
    }

    #[test]
    fn full_status_round_trip(
        generation in any::<u32>(),
        registrants in vec((any::<u16>(), key()), 0..8),
        held in proptest::option::of((any::<u16>(), key(), reservation_type())),
    ) {
        let status = FullStatus {
            generation,
            registrants: registrants.into_iter().map(|(port, key)| Registrant { port: Port(port), key }).collect(),
            reservation: held.map(|(port, key, kind)| Reservation { port: Port(port), key, kind }),
        };
        prop_assert_eq!(Reply::full_status(&status).to_full_status().expect("own status"), status);
    }
}

#[test]
fn too_long_is_refused_before_it_is_allocated() {
    let mut header = Header::new(Opcode::Write, 1);
    header.payload_len = MAX_PAYLOAD + 1;
    assert_eq!(
        Header::decode(&header.encode()),
        Err(FrameError::TooLong {
            limit: MAX_PAYLOAD,
            length: MAX_PAYLOAD + 1
        })
    );
}

/// The encoding is a contract between two versions: change it only with the version.
#[test]
fn encoding_is_frozen() {
    let request = Request::for_volume(
        Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        Operation::Write {
            lba: 0x0102_0304,
            data: Bytes::from_static(b"pollux"),
            fua: true,
        },
    );
    let (header, _) = request.into_frame(9);
    let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "50424631",
            "12020000",
            "0900000000000000",
            "0403020100000000",
            "00000000",
            "06000000",
            "0000000000000000",
            "0000000000000000",
            "00112233445566778899aabbccddeeff",
            "7b024535",
            "d2c96410",
        )
    );
}

/// The same for what is done on behalf of a host.
#[test]
fn encoding_of_a_nexus_is_frozen() {
    let nexus = Arc::new(Nexus {
        initiator: "iqn.x:y".to_owned(),
        isid: [0x80, 1, 2, 3, 4, 5],
        port: 2,
    });
    let read = Operation::Read { lba: 1, blocks: 2 };
    let behalf = Some(Behalf { nexus, begins: true });
    let (header, payload) = Request::new(read).on_behalf(behalf).into_frame(9);
    assert_eq!(
        (header.encode()[4], header.encode()[5], header.payload_len),
        (0x11, 0x0c, 17)
    );
    assert_eq!(payload[..], *b"\x02\x00\x07\x00\x80\x01\x02\x03\x04\x05iqn.x:y");
}

/// A disk of 64 blocks in memory; writes to block 63 wait for a permit.
pub(crate) struct Memory {
    blocks: Mutex<Vec<u8>>,
    gate: Semaphore,
    waiting: Notify,
    ended: AtomicUsize,
    refuse: Option<Status>,
    /// By when the last request may be begun.
    pub(crate) begin_by: Mutex<Option<Instant>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Memory {
            blocks: Mutex::new(vec![0; 64 * 512]),
            gate: Semaphore::new(0),
            waiting: Notify::new(),
            ended: AtomicUsize::new(0),
            refuse: None,
            begin_by: Mutex::default(),
        }
    }
}

impl Handler for Memory {
    type Session = Hello;

    async fn log_in(&self, hello: &Hello) -> Result<Hello, Status> {
        self.refuse.map_or_else(|| Ok(hello.clone()), Err)
    }

    async fn handle(&self, _: &Arc<Hello>, request: Request) -> Reply {
        *self.begin_by.lock().expect("lock") = request.begin_by;
        match request.operation {
            Operation::Info => Reply::info(&EndpointInfo {
                block_size: 512,
                physical_block_size: 4096,
                blocks: 64,
                id: request.volume,
                volatile_cache: false,
                serial: "MEM0".to_owned(),
            }),
            Operation::Read { lba, blocks } => {
                let at = lba as usize * 512;
                let bytes = self.blocks.lock().expect("lock");
                match bytes.get(at..at + blocks as usize * 512) {
                    Some(data) => Reply::data(Bytes::copy_from_slice(data)),
                    None => Reply::status(Status::OutOfRange),
                }
            }
            Operation::Write { lba, data, .. } => {
                if lba == 63 {
                    self.waiting.notify_one();
                    self.gate.acquire().await.expect("never closed").forget();
                }
                let at = lba as usize * 512;
                self.blocks.lock().expect("lock")[at..at + data.len()].copy_from_slice(&data);
                Reply::ok()
            }
            Operation::Unmap { .. } => panic!("on purpose"),
            _ => Reply::status(Status::Unsupported),
        }
    }

    fn ended(&self, _: &Arc<Hello>) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        array: ARRAY,
        port: Port::A,
        purpose: Purpose::Disk,
        client: "test".to_owned(),
        epoch: 3,
        generation: 4,
    }
}

struct Bench {
    dir: tempfile::TempDir,
    server: Arc<Server<Memory>>,
}

impl Bench {
    fn new(memory: Memory) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bind");
        let server = Server::new(Arc::new(memory), ServerOptions::new(ARRAY, Purpose::Disk, None));
        let serving = server.clone();
        tokio::spawn(async move { serving.serve_unix(listener).await });
        Bench { dir, server }
    }

    async fn client(&self) -> Result<Client, Error> {
        Client::connect_unix(&self.dir.path().join("s"), &hello(), None, LONG).await
    }
}

fn block(fill: u8) -> Bytes {
    vec![fill; 512].into()
}

#[tokio::test]
async fn many_in_flight_and_out_of_order() {
    let bench = Bench::new(Memory::new());
    let client = bench.client().await.expect("session");
    assert_eq!(client.info(None).await.expect("info").serial, "MEM0");
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.write(63, block(9), true, None).await }
    });
    bench.server.handler().waiting.notified().await;
    let writes: Vec<_> = (0..60)
        .map(|lba| {
            let client = client.clone();
            tokio::spawn(async move { client.write(lba, block(lba as u8), true, None).await })
        })
        .collect();
    for write in writes {
        write.await.expect("task").expect("write");
    }
    assert_eq!(client.outstanding(), 1, "only the held write is in flight");
    bench.server.handler().gate.add_permits(1);
    held.await.expect("task").expect("write");
    let all = client.read(0, 64, None).await.expect("read");
    for lba in 0..60 {
        assert_eq!(all[lba * 512], lba as u8);
    }
    assert_eq!(all[63 * 512], 9);
    let error = client.read(60, 5, None).await.expect_err("beyond the end");
    assert_eq!(error.status(), Some(Status::OutOfRange));
    assert!(error.nothing_was_done());
}

#[tokio::test]
async fn deadline_passes_and_the_answer_comes_late() {
    let bench = Bench::new(Memory::new());
    let client = bench.client().await.expect("session");
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = client
        .write(63, block(1), true, Some(deadline))
        .await
        .expect_err("deadline");
    assert!(
        matches!(
            error,
            Error::Deadline {
                operation: Opcode::Write,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.nothing_was_done(), "the write may still happen");
    assert_eq!(client.outstanding(), 1);
    bench.server.handler().gate.add_permits(1);
    timeout(LONG, async {
        while client.outstanding() > 0 {
            client.info(None).await.expect("info");
        }
    })
    .await
    .expect("the late answer arrives");
    assert_eq!(client.late(), 1);
}

#[tokio::test]
async fn newer_session_waits_for_the_older_ones_commands() {
    let bench = Bench::new(Memory::new());
    let older = bench.client().await.expect("session");
    let write = tokio::spawn({
        let older = older.clone();
        async move { older.write(63, block(1), true, None).await }
    });
    bench.server.handler().waiting.notified().await;
    let path = bench.dir.path().join("s");
    let newer = tokio::spawn(async move { Client::connect_unix(&path, &hello(), None, LONG).await });
    let error = timeout(LONG, write)
        .await
        .expect("the older session ends")
        .expect("task")
        .expect_err("lost");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    assert_eq!(bench.server.handler().ended.load(Ordering::SeqCst), 1);
    assert!(
        !newer.is_finished(),
        "a command of the older session is still in flight"
    );
    bench.server.handler().gate.add_permits(1);
    let newer = timeout(LONG, newer)
        .await
        .expect("let in")
        .expect("task")
        .expect("session");
    let read = newer.read(63, 1, None).await.expect("read");
    assert_eq!(read[0], 1, "the older write came to its end before");
    assert!(older.is_closed());
}

#[tokio::test]
async fn another_client_of_the_same_port_does_not_supersede() {
    let bench = Bench::new(Memory::new());
    let first = bench.client().await.expect("session");
    let other = Hello {
        client: "other".to_owned(),
        ..hello()
    };
    let second = Client::connect_unix(&bench.dir.path().join("s"), &other, None, LONG)
        .await
        .expect("session");
    second.info(None).await.expect("info");
    first.info(None).await.expect("still there");
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let bench = Bench::new(Memory {
        refuse: Some(Status::NotReady),
        ..Memory::new()
    });
    let path = bench.dir.path().join("s");
    let status = async |hello: Hello| {
        let error = Client::connect_unix(&path, &hello, None, LONG)
            .await
            .expect_err("refused");
        assert!(matches!(error, Error::Login { .. }), "{error}");
        error.status()
    };
    assert_eq!(status(hello()).await, Some(Status::NotReady));
    assert_eq!(
        status(Hello {
            array: Uuid::nil(),
            ..hello()
        })
        .await,
        Some(Status::WrongArray)
    );
    assert_eq!(
        status(Hello {
            purpose: Purpose::Forward,
            ..hello()
        })
        .await,
        Some(Status::BadRequest)
    );
    let missing = Client::connect_unix(&bench.dir.path().join("none"), &hello(), None, LONG).await;
    assert!(matches!(missing, Err(Error::Connect { .. })));
}

#[tokio::test]
async fn who_has_not_logged_in_gets_no_memory_for_data() {
    let mut header = Header::new(Opcode::Hello, 0);
    header.payload_len = OPENING_MAX + 1;
    let refused = read_opening(&mut &header.encode()[..]).await;
    let too_long = FrameError::TooLong {
        length: OPENING_MAX + 1,
        limit: OPENING_MAX,
    };
    assert!(
        matches!(&refused, Err(ReadError::Frame(why)) if *why == too_long),
        "{refused:?}"
    );
    header.payload_len = OPENING_MAX;
    let cut = read_opening(&mut &header.encode()[..]).await;
    assert!(
        matches!(cut, Err(ReadError::Io(_))),
        "its payload is waited for: {cut:?}"
    );
}

#[tokio::test]
async fn garbage_and_panics_end_only_their_own_session() {
    let bench = Bench::new(Memory::new());
    let client = bench.client().await.expect("session");
    let mut stream = UnixStream::connect(bench.dir.path().join("s"))
        .await
        .expect("connect");
    stream.write_all(&[0x5a; 4096]).await.expect("write");
    let mut rest = &mut stream;
    let end = timeout(LONG, read_frame(&mut rest))
        .await
        .expect("the server hangs up");
    assert!(matches!(end, Err(ReadError::Io(_))), "{end:?}");
    let other = Hello {
        client: "panics".to_owned(),
        ..hello()
    };
    let panicking = Client::connect_unix(&bench.dir.path().join("s"), &other, None, LONG)
        .await
        .expect("session");
    let error = timeout(LONG, panicking.unmap(0, 1, None))
        .await
        .expect("ends")
        .expect_err("lost");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    client.info(None).await.expect("unharmed");
}

#[tokio::test]
async fn close_lets_commands_run_out() {
    let bench = Bench::new(Memory::new());
    let client = bench.client().await.expect("session");
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.write(63, block(1), true, None).await }
    });
    bench.server.handler().waiting.notified().await;
    bench.server.close();
    bench.server.handler().gate.add_permits(1);
    timeout(LONG, write)
        .await
        .expect("answered")
        .expect("task")
        .expect("its reply still goes out");
    timeout(LONG, client.closed())
        .await
        .expect("then the session ends");
}

#[tokio::test]
async fn tcp_sessions_prove_the_pairing_key() {
    let key = AuthKey::new([7; 32]);
    let options = ServerOptions::new(ARRAY, Purpose::Disk, Some(key.clone()));
    let server = Server::new(Arc::new(Memory::new()), options);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { server.serve_tcp(listener).await });

    let client = Client::connect_tcp(address, &hello(), Some(&key), LONG)
        .await
        .expect("session");
    client.write(1, block(1), true, None).await.expect("write");
    for wrong in [None, Some(AuthKey::new([8; 32]))] {
        let error = Client::connect_tcp(address, &hello(), wrong.as_ref(), LONG)
            .await
            .expect_err("refused");
        assert_eq!(error.status(), Some(Status::Unauthorized), "{error}");
    }
    client.info(None).await.expect("an intruder supersedes nobody");
}

#[tokio::test]
async fn a_target_without_the_key_is_refused() {
    let bench = Bench::new(Memory::new());
    let key = AuthKey::new([7; 32]);
    let error = Client::connect_unix(&bench.dir.path().join("s"), &hello(), Some(&key), LONG)
        .await
        .expect_err("no proof");
    assert_eq!(error.status(), Some(Status::Unauthorized));
}
