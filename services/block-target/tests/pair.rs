//! Two targets, as on two controllers, with one pool between them: real sockets everywhere, a pool in memory, and
//! a small initiator that sees every PDU.

use bytes::{Bytes, BytesMut};
use pollux_api::config::{Hex, Host, HostId, Mapping, MappingId, Tables, Volume as VolumeRow};
use pollux_api::id::{ArrayId, ControllerId, Epoch, Generation, PoolId, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_frame::{
    AuthKey, EndpointInfo, Handler, Hello, Operation, Purpose, Reply, Request, Server, ServerOptions, Status,
};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::backend::{Failure, VolumeBackend};
use pollux_block_target::daemon::{BLOCK_SIZE, Forwarded, Surroundings, World};
use pollux_block_target::gate::{ManualGate, ReplyGate};
use pollux_block_target::iscsi::pdu::{self, Digests, Header, Pdu};
use pollux_block_target::iscsi::{server, text};
use pollux_block_target::paths::{Cancel, Route, Scope};
use pollux_block_target::target::Target;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

const ARRAY: ArrayId = ArrayId::from_bytes([1; 16]);
const POOL: PoolId = PoolId::from_bytes([2; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([3; 16]);
const BLOCKS: u64 = 4096;
const TARGET: &str = "iqn.2026-01.io.pollux:pair";
const HOST: &str = "iqn.2026-01.io.pollux:host";
/// Nothing here takes longer unless it hangs.
const BOUND: Duration = Duration::from_secs(20);
/// Long enough for a reply on loopback that is not held back.
const QUIET: Duration = Duration::from_millis(300);

/// The pool manager's end of a volume socket.
#[derive(Debug)]
struct Pool {
    memory: Arc<Memory>,
    commands: AtomicU64,
    /// Commands wait here until it is opened.
    stuck: ManualGate,
}

impl Handler for Pool {
    type Session = ();

    async fn log_in(&self, hello: &Hello) -> Result<(), Status> {
        if hello.purpose == Purpose::Volume {
            Ok(())
        } else {
            Err(Status::BadRequest)
        }
    }

    async fn handle(&self, _: &Arc<()>, request: Request) -> Reply {
        self.commands.fetch_add(1, Ordering::SeqCst);
        if request.operation == Operation::Info {
            return Reply::info(&EndpointInfo {
                block_size: BLOCK_SIZE,
                physical_block_size: 4096,
                blocks: BLOCKS,
                id: Uuid::from_bytes(*VOLUME.as_bytes()),
                volatile_cache: false,
                serial: "s".into(),
            });
        }
        self.stuck.opened().await;
        match self.memory.submit(request.operation).await {
            Ok(data) if data.is_empty() => Reply::ok(),
            Ok(data) => Reply::data(data),
            Err(Failure::Miscompare(at)) => Reply::with_detail(Status::Miscompare, at),
            Err(_) => Reply::status(Status::OutOfRange),
        }
    }

    fn ended(&self, _: &Arc<()>) {}
}

/// A pool that is imported: dropping it is a pool manager that was killed.
struct Imported {
    task: tokio::task::JoinHandle<()>,
    pool: Arc<Pool>,
}

impl Imported {
    fn start(directory: &Path, memory: &Arc<Memory>) -> Self {
        let path = directory.join(format!("{VOLUME}.sock"));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("volume socket");
        let pool = Arc::new(Pool {
            memory: memory.clone(),
            commands: AtomicU64::new(0),
            stuck: ManualGate::default(),
        });
        let array = Uuid::from_bytes(*ARRAY.as_bytes());
        let server = Server::new(pool.clone(), ServerOptions::new(array, Purpose::Volume, None));
        let task = tokio::spawn(async move { server.serve_unix(listener).await });
        Self { task, pool }
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Controller {
    world: Arc<World>,
    gate: Arc<ManualGate>,
    portal: SocketAddr,
    directory: tempfile::TempDir,
}

struct Pair {
    a: Controller,
    b: Controller,
    memory: Arc<Memory>,
}

fn tables() -> Tables {
    let host = HostId(Hex([4; 16]));
    let id = MappingId(Hex([5; 16]));
    let mut tables = Tables::default();
    let (size_bytes, serial) = (BLOCKS * u64::from(BLOCK_SIZE), "0123456789abcdef".to_owned());
    tables.volumes.insert(
        VOLUME,
        VolumeRow {
            id: VOLUME,
            name: "v".into(),
            pool: POOL,
            size_bytes,
            serial,
        },
    );
    tables.hosts.insert(
        host,
        Host {
            id: host,
            name: "h".into(),
            iqns: vec![HOST.into()],
        },
    );
    tables.mappings.insert(
        id,
        Mapping {
            id,
            volume: VOLUME,
            host,
            lun: 1,
        },
    );
    tables
}

async fn controller(own: ControllerId, forward: TcpListener, partner: SocketAddr) -> Controller {
    let directory = tempfile::tempdir().expect("scratch");
    let gate = Arc::new(ManualGate::default());
    let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
    let listener = server::reserve(any)
        .and_then(|port| port.listen(any))
        .expect("portal");
    let portal = listener.local_addr().expect("bound");
    let target = Target::new(TARGET.into(), own, vec![format!("{portal},1")], gate.clone());
    let key = AuthKey::new([7; 32]);
    let around = Surroundings {
        array: ARRAY,
        own,
        volumes: directory.path().to_owned(),
        local: any,
        partner,
        key: key.clone(),
    };
    let world = World::new(around, target.clone());
    world.apply(&tables());
    let handler = Arc::new(Forwarded::new(world.clone(), own, gate.clone()));
    let array = Uuid::from_bytes(*ARRAY.as_bytes());
    let forwarding = Server::new(handler, ServerOptions::new(array, Purpose::Forward, Some(key)));
    tokio::spawn(async move { forwarding.serve_tcp(forward).await });
    tokio::spawn(server::serve(listener, target));
    Controller {
        world,
        gate,
        portal,
        directory,
    }
}

impl Pair {
    async fn start() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (a, b) = (listen().await.expect("port"), listen().await.expect("port"));
        let (at_a, at_b) = (a.local_addr().expect("bound"), b.local_addr().expect("bound"));
        Self {
            a: controller(ControllerId::A, a, at_b).await,
            b: controller(ControllerId::B, b, at_a).await,
            memory: Arc::new(Memory::new(BLOCK_SIZE, BLOCKS)),
        }
    }

    /// Both controllers are told that `owner` has the pool.
    fn own(&self, owner: ControllerId, generation: u64) {
        let mut access = [Access::NonOptimized; 2];
        access[owner.index()] = Access::Optimized;
        for (id, controller) in [(ControllerId::A, &self.a), (ControllerId::B, &self.b)] {
            let backing = if id == owner {
                Backing::Local
            } else {
                Backing::Partner
            };
            controller
                .world
                .flip(POOL, route(generation, backing, access))
                .expect("a newer claim");
        }
    }
}

fn route(generation: u64, backing: Backing, access: [Access; 2]) -> Route {
    Route {
        epoch: Epoch::new(1),
        generation: Generation::new(generation),
        backing,
        access,
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u8,
    /// Sense key, code and qualifier.
    sense: Option<(u8, u16)>,
    data: Vec<u8>,
}

/// An initiator with one command at a time, or several if they are sent and awaited apart.
struct Initiator {
    stream: TcpStream,
    buffer: BytesMut,
    digests: Digests,
    cmd_sn: u32,
    tag: u32,
}

impl Initiator {
    async fn log_in(portal: SocketAddr) -> Self {
        timeout(BOUND, Self::try_log_in(portal, &[]))
            .await
            .expect("in time")
            .expect("logged in")
    }

    async fn try_log_in(portal: SocketAddr, extra: &[(&str, &str)]) -> Option<Self> {
        let stream = TcpStream::connect(portal).await.expect("portal");
        let (buffer, digests) = (BytesMut::new(), Digests::default());
        let mut initiator = Self {
            stream,
            buffer,
            digests,
            cmd_sn: 1,
            tag: 0,
        };
        let mut header = Header([0; 48]);
        header.0[0] = 0x43;
        header.0[1] = 0x87;
        header.0[8] = 0x80;
        header.put32(24, 1);
        let mut data = Vec::new();
        let keys = [
            ("InitiatorName", HOST),
            ("TargetName", TARGET),
            ("InitialR2T", "No"),
        ];
        for (key, value) in keys.iter().chain(extra) {
            text::push(&mut data, key, value);
        }
        initiator.send(header, &data).await;
        let reply = initiator.next().await?;
        initiator.digests = Digests {
            header: extra.contains(&("HeaderDigest", "CRC32C")),
            data: extra.contains(&("DataDigest", "CRC32C")),
        };
        (reply.header.get16(36) == 0).then_some(initiator)
    }

    async fn send(&mut self, header: Header, data: &[u8]) {
        let mut out = Vec::new();
        pdu::put(&mut out, header, data, self.digests);
        self.stream.write_all(&out).await.expect("sent");
    }

    /// The next PDU; `None`: the target has closed the connection.
    async fn next(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = pdu::take(&mut self.buffer, self.digests, 1 << 24).expect("sound") {
                return Some(pdu);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Sends a command without waiting; its tag.
    async fn begin(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> u32 {
        self.tag += 1;
        let mut header = Header([0; 48]);
        header.0[0] = 0x01;
        header.0[1] = 0x81
            | if data.is_some() {
                0x20
            } else if expected > 0 {
                0x40
            } else {
                0
            };
        header.0[9] = 1;
        header.put32(16, self.tag);
        header.put32(20, data.map_or(expected, |data| data.len() as u32));
        header.put32(24, self.cmd_sn);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(header, data.unwrap_or_default()).await;
        self.tag
    }

    /// Waits for the end of the one command that is under way.
    async fn end(&mut self) -> Option<Answer> {
        let mut all = Vec::new();
        loop {
            let pdu = self.next().await?;
            match pdu.header.opcode() {
                0x25 => {
                    all.extend_from_slice(&pdu.data);
                    if pdu.header.0[1] & 1 != 0 {
                        return Some(Answer {
                            status: pdu.header.0[3],
                            sense: None,
                            data: all,
                        });
                    }
                }
                0x21 => {
                    let sense = (!pdu.data.is_empty()).then(|| {
                        (
                            pdu.data[4] & 0x0f,
                            u16::from_be_bytes([pdu.data[14], pdu.data[15]]),
                        )
                    });
                    return Some(Answer {
                        status: pdu.header.0[3],
                        sense,
                        data: all,
                    });
                }
                0x31 => panic!("all data was immediate"),
                _ => {}
            }
        }
    }

    async fn run(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> Answer {
        self.begin(cdb, expected, data).await;
        timeout(BOUND, self.end())
            .await
            .expect("in time")
            .expect("connected")
    }

    async fn read(&mut self, lba: u8) -> Answer {
        self.run(&read_cdb(lba), BLOCK_SIZE, None).await
    }

    async fn write(&mut self, lba: u8, fill: u8) -> Answer {
        self.run(&write_cdb(lba), 0, Some(&block(fill))).await
    }

    async fn port_groups(&mut self) -> Vec<u8> {
        let answer = self.run(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255], 255, None).await;
        assert_eq!(answer.status, 0, "{answer:?}");
        answer.data
    }
}

fn read_cdb(lba: u8) -> [u8; 10] {
    [0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

fn write_cdb(lba: u8) -> [u8; 10] {
    [0x2a, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

fn block(fill: u8) -> Vec<u8> {
    vec![fill; BLOCK_SIZE as usize]
}

fn good(data: Vec<u8>) -> Answer {
    Answer {
        status: 0,
        sense: None,
        data,
    }
}

const CHANGED: Answer = Answer {
    status: 2,
    sense: Some((6, 0x2a06)),
    data: Vec::new(),
};

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
