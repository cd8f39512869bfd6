//! Two targets, as on two controllers, with one pool between them: real sockets everywhere, a pool in memory.

#![allow(dead_code, reason = "each test program uses its own part")]

use bytes::BytesMut;
use pollux_api::config::{Hex, Host, HostId, Mapping, MappingId, Tables, Volume as VolumeRow};
use pollux_api::id::{ArrayId, ControllerId, Epoch, Generation, PoolId, VolumeId};
use pollux_api::target::{Access, Backing, UnitReset};
use pollux_block_frame::{
    AuthKey, EndpointInfo, Handler, Hello, Operation, Purpose, Reply, Request, Server, ServerOptions, Status,
};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::backend::{BoxFuture, Failure, VolumeBackend};
use pollux_block_target::daemon::{BLOCK_SIZE, Forwarded, Surroundings, World};
use pollux_block_target::gate::{ManualGate, ReplyGate};
use pollux_block_target::iscsi::pdu::{self, Digests, Header, Pdu};
use pollux_block_target::iscsi::{server, text};
use pollux_block_target::paths::Route;
use pollux_block_target::target::{Herald, Target};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;
use uuid::Uuid;

/// Detail of a status: there will be no room later either.
const NO_ROOM: u64 = 1;
const ARRAY: ArrayId = ArrayId::from_bytes([1; 16]);
pub(crate) const POOL: PoolId = PoolId::from_bytes([2; 16]);
pub(crate) const VOLUME: VolumeId = VolumeId::from_bytes([3; 16]);
pub(crate) const BLOCKS: u64 = 131_072;
pub(crate) const TARGET: &str = "iqn.2026-01.io.pollux:pair";
pub(crate) const HOST: &str = "iqn.2026-01.io.pollux:host";
pub(crate) const SECOND_HOST: &str = "iqn.2026-01.io.pollux:host2";
pub(crate) const LUN: u16 = 1;

/// The pool manager's end of a volume socket.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: Arc<Memory>,
    pub(crate) commands: AtomicU64,
    /// Commands wait here until it is opened.
    pub(crate) stuck: ManualGate,
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
        // What hosts have reserved is no data: neither counted nor stuck.
        let record = matches!(
            request.operation,
            Operation::RecordLoad | Operation::RecordStore { .. }
        );
        self.commands.fetch_add(u64::from(!record), Ordering::SeqCst);
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
        if !record {
            self.stuck.opened().await;
        }
        match self.memory.submit(request.operation).await {
            Ok(data) if data.is_empty() => Reply::ok(),
            Ok(data) => Reply::data(data),
            Err(Failure::NoRoom) => Reply::with_detail(Status::NoResources, NO_ROOM),
            Err(Failure::Miscompare(at)) => Reply::with_detail(Status::Miscompare, at),
            Err(_) => Reply::status(Status::OutOfRange),
        }
    }

    fn ended(&self, _: &Arc<()>) {}
}

/// A pool that is imported: dropping it is a pool manager that was killed.
pub(crate) struct Imported {
    task: tokio::task::JoinHandle<()>,
    pub(crate) pool: Arc<Pool>,
}

impl Imported {
    pub(crate) fn start(directory: &Path, memory: &Arc<Memory>) -> Self {
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

pub(crate) struct Controller {
    pub(crate) world: Arc<World>,
    pub(crate) gate: Arc<ManualGate>,
    pub(crate) portal: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) struct Pair {
    pub(crate) a: Controller,
    pub(crate) b: Controller,
    pub(crate) memory: Arc<Memory>,
}

pub(crate) fn tables() -> Tables {
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
            iqns: vec![HOST.into(), SECOND_HOST.into()],
        },
    );
    tables.mappings.insert(
        id,
        Mapping {
            id,
            volume: VOLUME,
            host,
            lun: LUN,
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

/// The routers' way to the partner, and its end there.
#[derive(Debug)]
struct Direct(Arc<World>);

impl Herald for Direct {
    fn unit_reset(&self, reset: UnitReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.0.target().reset_by_partner(&reset).await;
            Ok(())
        })
    }
}

/// A piece of the interconnect that can be held up: what has been sent stays in it and arrives when it is let go.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    pub(crate) open: Arc<ManualGate>,
}

impl Relay {
    async fn to(partner: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("bound");
        let open = Arc::new(ManualGate::default());
        let gate = open.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(partner).await else {
                    continue;
                };
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near.0, far.1, gate.clone()));
                tokio::spawn(pass(far.0, near.1, gate.clone()));
            }
        });
        Self { address, open }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Arc<ManualGate>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        gate.opened().await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::joined(|partner| async move { partner }).await
    }

    /// The same with a relay on b's way to a.
    pub(crate) async fn start_with_relay() -> (Self, Relay) {
        let (sender, relay) = tokio::sync::oneshot::channel();
        let pair = Self::joined(|partner| async move {
            let relay = Relay::to(partner).await;
            let address = relay.address;
            sender.send(relay).expect("waited for");
            address
        })
        .await;
        (pair, relay.await.expect("made"))
    }

    async fn joined<F: Future<Output = SocketAddr>>(way_to_a: impl FnOnce(SocketAddr) -> F) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (a, b) = (listen().await.expect("port"), listen().await.expect("port"));
        let (at_a, at_b) = (a.local_addr().expect("bound"), b.local_addr().expect("bound"));
        let at_a = way_to_a(at_a).await;
        let pair = Self {
            a: controller(ControllerId::A, a, at_b).await,
            b: controller(ControllerId::B, b, at_a).await,
            memory: Arc::new(Memory::new(BLOCK_SIZE, BLOCKS)),
        };
        for (one, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
            let herald = Arc::new(Direct(other.world.clone()));
            one.world.target().set_herald(herald);
        }
        pair
    }

    /// Both ports hear who is logged in at the other.
    pub(crate) fn tell_initiators(&self) {
        let (a, b) = (self.a.world.target(), self.b.world.target());
        a.set_partner_initiators(b.initiators());
        b.set_partner_initiators(a.initiators());
    }

    /// Both controllers are told that `owner` has the pool.
    pub(crate) fn own(&self, owner: ControllerId, generation: u64) {
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

pub(crate) fn route(generation: u64, backing: Backing, access: [Access; 2]) -> Route {
    Route {
        epoch: Epoch::new(1),
        generation: Generation::new(generation),
        backing,
        access,
    }
}

/// Nothing here takes longer unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
/// Long enough for a reply on loopback that is not held back.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Sense key, code and qualifier.
    pub(crate) sense: Option<(u8, u16)>,
    pub(crate) data: Vec<u8>,
}

/// An initiator with one command at a time, or several if they are sent and awaited apart.
pub(crate) struct Initiator {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: BytesMut,
    pub(crate) digests: Digests,
    pub(crate) cmd_sn: u32,
    pub(crate) tag: u32,
}

impl Initiator {
    pub(crate) async fn log_in(portal: SocketAddr) -> Self {
        timeout(BOUND, Self::try_log_in(portal, &[]))
            .await
            .expect("in time")
            .expect("logged in")
    }

    pub(crate) async fn log_in_as(portal: SocketAddr, name: &str) -> Self {
        timeout(BOUND, Self::try_log_in(portal, &[("InitiatorName", name)]))
            .await
            .expect("in time")
            .expect("logged in")
    }

    /// By another of the host's ports: the last byte of its ISID.
    pub(crate) async fn log_in_with_isid(portal: SocketAddr, name: &str, isid: u8) -> Self {
        timeout(
            BOUND,
            Self::try_log_in_as(portal, isid, &[("InitiatorName", name)]),
        )
        .await
        .expect("in time")
        .expect("logged in")
    }

    pub(crate) async fn try_log_in(portal: SocketAddr, extra: &[(&str, &str)]) -> Option<Self> {
        Self::try_log_in_as(portal, 0, extra).await
    }

    async fn try_log_in_as(portal: SocketAddr, isid: u8, extra: &[(&str, &str)]) -> Option<Self> {
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
        header.0[13] = isid;
        header.put32(24, 1);
        let mut data = Vec::new();
        let keys = [
            ("InitiatorName", HOST),
            ("TargetName", TARGET),
            ("InitialR2T", "No"),
        ];
        let given = |key: &str| extra.iter().any(|(given, _)| *given == key);
        for (key, value) in keys.iter().filter(|(key, _)| !given(key)).chain(extra) {
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

    pub(crate) async fn send(&mut self, header: Header, data: &[u8]) {
        let mut out = Vec::new();
        pdu::put(&mut out, header, data, self.digests);
        self.stream.write_all(&out).await.expect("sent");
    }

    /// A task management function, at the unit; what it is answered.
    pub(crate) async fn manage(&mut self, function: u8) -> u8 {
        self.tag += 1;
        let mut header = Header([0; 48]);
        header.0[0] = 0x42;
        header.0[1] = 0x80 | function;
        header.0[9] = 1;
        header.put32(16, self.tag);
        header.put32(20, u32::MAX);
        header.put32(24, self.cmd_sn);
        self.send(header, &[]).await;
        loop {
            let answer = timeout(BOUND, self.next())
                .await
                .expect("in time")
                .expect("connected");
            if answer.header.opcode() == 0x22 {
                assert_eq!(answer.header.tag(), self.tag);
                return answer.header.0[2];
            }
        }
    }

    /// The next PDU; `None`: the target has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Pdu> {
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
    pub(crate) async fn begin(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> u32 {
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
    pub(crate) async fn end(&mut self) -> Option<Answer> {
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

    pub(crate) async fn run(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> Answer {
        self.begin(cdb, expected, data).await;
        timeout(BOUND, self.end())
            .await
            .expect("in time")
            .expect("connected")
    }

    pub(crate) async fn read(&mut self, lba: u8) -> Answer {
        self.run(&read_cdb(lba), BLOCK_SIZE, None).await
    }

    pub(crate) async fn write(&mut self, lba: u8, fill: u8) -> Answer {
        self.run(&write_cdb(lba), 0, Some(&block(fill))).await
    }

    pub(crate) async fn port_groups(&mut self) -> Vec<u8> {
        let answer = self.run(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255], 255, None).await;
        assert_eq!(answer.status, 0, "{answer:?}");
        answer.data
    }
}

pub(crate) fn read_cdb(lba: u8) -> [u8; 10] {
    [0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

pub(crate) fn write_cdb(lba: u8) -> [u8; 10] {
    [0x2a, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

pub(crate) fn block(fill: u8) -> Vec<u8> {
    vec![fill; BLOCK_SIZE as usize]
}

pub(crate) fn good(data: Vec<u8>) -> Answer {
    Answer {
        status: 0,
        sense: None,
        data,
    }
}

pub(crate) const CHANGED: Answer = Answer {
    status: 2,
    sense: Some((6, 0x2a06)),
    data: Vec::new(),
};
