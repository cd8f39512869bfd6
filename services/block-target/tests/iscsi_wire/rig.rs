//! A target with two volumes, of which the first can be made to wait.

use crate::initiator::Initiator;
use bytes::Bytes;
use pollux_api::id::{ControllerId, Epoch, Generation, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_frame::Operation;
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::backend::{BoxFuture, Failure, VolumeBackend};
use pollux_block_target::gate::{ManualGate, ReplyGate};
use pollux_block_target::iscsi::chap::{Credential, Credentials};
use pollux_block_target::iscsi::connection::{self, Ended};
use pollux_block_target::iscsi::login::Admission;
use pollux_block_target::iscsi::server;
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::target::{Admissions, Mappings, Target};
use pollux_block_target::volume::{Identity, Volume};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const TARGET: &str = "iqn.2026-01.io.pollux:wire";
/// Sees volume 1 as unit 1, by its name alone.
pub(crate) const HOST: &str = "iqn.2026-01.io.pollux:host";
/// Sees volume 1 as unit 1, too.
pub(crate) const NEIGHBOUR: &str = "iqn.2026-01.io.pollux:neighbour";
/// Sees volume 2 as unit 1.
pub(crate) const OTHER: &str = "iqn.2026-01.io.pollux:other";
/// Is known and sees nothing.
pub(crate) const BARE: &str = "iqn.2026-01.io.pollux:bare";
/// Sees volume 2 as unit 1 when it has proven itself.
pub(crate) const PROVEN: &str = "iqn.2026-01.io.pollux:proven";
pub(crate) const USER: &str = "the-host";
pub(crate) const SECRET: &str = "secret-of-the-host";
pub(crate) const TARGET_USER: &str = "the-array";
pub(crate) const TARGET_SECRET: &str = "secret-of-the-array";
pub(crate) const BLOCK: u32 = 512;
const BLOCKS: u64 = 64 * 1024;
/// Nothing takes longer unless it hangs. On a clock that stands still this is a state, not a time.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// A volume whose commands wait while it is stuck.
#[derive(Debug)]
pub(crate) struct Slow {
    memory: Memory,
    /// Open: commands go on.
    pub(crate) door: ManualGate,
    /// Commands that have come.
    pub(crate) come: watch::Sender<u64>,
}

impl VolumeBackend for Slow {
    fn submit(&self, operation: Operation) -> BoxFuture<'_, Result<Bytes, Failure>> {
        Box::pin(async move {
            // What hosts have reserved is no data: neither counted nor held up.
            if !matches!(operation, Operation::RecordLoad | Operation::RecordStore { .. }) {
                self.come.send_modify(|count| *count += 1);
                self.door.opened().await;
            }
            self.memory.submit(operation).await
        })
    }
}

pub(crate) struct Rig {
    pub(crate) target: Arc<Target>,
    pub(crate) gate: Arc<ManualGate>,
    /// Volume 1.
    pub(crate) slow: Arc<Slow>,
    pub(crate) volumes: [Arc<Volume>; 2],
}

fn volume(number: u8, paths: &Arc<Paths>, backend: Arc<dyn VolumeBackend>) -> Arc<Volume> {
    let identity = Identity {
        id: VolumeId::from_bytes([number; 16]),
        serial: format!("00c0ffee0000000{number}"),
        block_size: BLOCK,
    };
    Arc::new(Volume::new(
        identity,
        BLOCKS,
        paths.clone(),
        backend.clone(),
        backend,
    ))
}

pub(crate) fn credentials() -> Arc<Credentials> {
    Arc::new(Credentials {
        host: Credential::new(USER, SECRET),
        target: Some(Credential::new(TARGET_USER, TARGET_SECRET)),
    })
}

impl Rig {
    pub(crate) fn new() -> Self {
        let gate = Arc::new(ManualGate::default());
        let portals = vec!["10.78.0.1:3260,1".to_owned(), "10.78.0.2:3260,2".to_owned()];
        let target = Target::new(TARGET.into(), ControllerId::A, portals, gate.clone());
        let paths = Paths::new(ControllerId::A);
        let slow = Arc::new(Slow {
            memory: Memory::new(BLOCK, BLOCKS),
            door: ManualGate::default(),
            come: watch::Sender::new(0),
        });
        let volumes = [
            volume(1, &paths, slow.clone()),
            volume(2, &paths, Arc::new(Memory::new(BLOCK, BLOCKS))),
        ];
        let route = Route {
            epoch: Epoch::new(1),
            generation: Generation::new(1),
            backing: Backing::Local,
            access: [Access::Optimized, Access::NonOptimized],
        };
        target.flip(&paths, route).expect("the first claim");
        let rig = Self {
            target,
            gate,
            slow,
            volumes,
        };
        let (mappings, admissions) = rig.hosts();
        rig.target.set_hosts(mappings, admissions);
        rig
    }

    /// What the rig begins with.
    pub(crate) fn hosts(&self) -> (Mappings, Admissions) {
        let unit = |volume: usize| BTreeMap::from([(1, self.volumes[volume].clone())]);
        let mappings = [
            (HOST, unit(0)),
            (NEIGHBOUR, unit(0)),
            (OTHER, unit(1)),
            (PROVEN, unit(1)),
        ];
        let open = [HOST, NEIGHBOUR, OTHER, BARE].map(|host| (host.to_owned(), Admission::Open));
        let mut admissions: Admissions = open.into();
        admissions.insert(PROVEN.to_owned(), Admission::Chap(credentials()));
        (
            mappings.map(|(host, units)| (host.to_owned(), units)).into(),
            admissions,
        )
    }

    /// A connection through a pipe that holds so many bytes.
    pub(crate) fn connect_through(&self, bytes: usize) -> (Initiator, JoinHandle<Ended>) {
        let (near, far) = tokio::io::duplex(bytes);
        let peer = "10.78.0.254:50000".parse().expect("an address");
        let serving = tokio::spawn(connection::serve(far, peer, self.target.clone()));
        (Initiator::over(near), serving)
    }

    pub(crate) fn connect(&self) -> (Initiator, JoinHandle<Ended>) {
        self.connect_through(1 << 20)
    }

    /// Logged in, with these keys beside the names.
    pub(crate) async fn log_in_as(&self, host: &str, keys: &[(&str, &str)]) -> Initiator {
        let (mut initiator, _) = self.connect();
        let status = initiator.log_in(host, keys).await;
        assert_eq!(status, 0, "{host} is let in");
        initiator
    }

    pub(crate) async fn log_in(&self) -> Initiator {
        self.log_in_as(HOST, &[]).await
    }

    /// So many commands have come to volume 1.
    pub(crate) async fn come(&self, count: u64) {
        let mut all = self.slow.come.subscribe();
        let come = all.wait_for(|all| *all >= count);
        let come = timeout(BOUND, come).await.expect("the commands come");
        drop(come.expect("the rig is there"));
    }

    /// So many sessions are left.
    pub(crate) async fn sessions(&self, count: usize) {
        let mut comings = self.target.comings();
        let left = async {
            while self.target.sessions().len() != count {
                comings.changed().await.expect("the target is there");
            }
        };
        timeout(BOUND, left).await.expect("sessions come and go");
    }
}

/// The portal on loopback, with a clock that goes.
pub(crate) struct Portal {
    pub(crate) rig: Rig,
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Portal {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Portal {
    pub(crate) fn open() -> Self {
        let rig = Rig::new();
        server::raise_descriptors();
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = server::reserve(any)
            .and_then(|port| port.listen(any))
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(server::serve(listener, rig.target.clone()));
        Self {
            rig,
            address,
            serving,
        }
    }

    pub(crate) async fn connect(&self) -> Initiator {
        Initiator::over(
            TcpStream::connect(self.address)
                .await
                .expect("the portal listens"),
        )
    }

    /// Whatever serves is gone, in the middle of whatever it did.
    pub(crate) fn kill(&self) {
        self.serving.abort();
    }
}
