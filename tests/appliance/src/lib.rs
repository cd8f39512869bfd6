//! Pools on SCSI disks: two pool managers, each over the enclosure's daemon of its controller, both over the same disks.
//!
//! ```text
//!   Manager a            Manager b          pool-manager, without a router
//!       | block frames       |
//!   Shelf a              Shelf b            services/enclosure, without a process
//!       | SCSI commands      |
//!   port 1  (11)         port 2             services/platform: fake disks that read command blocks and hold registrations
//!       +------ disk --------+              by nexus, a volatile cache, and a power plug
//! ```
//!
//! The chassis' shelf, over which pool-manager is tested elsewhere, knows two ports and speaks block frames itself. Here
//! stands what an appliance has: PERSISTENT RESERVE IN and OUT, unit attentions, registrations that belong to paths and may
//! outlive the power.
//!
//! It must never: tell a daemon anything that a real disk would not say.

#![forbid(unsafe_code)]

use bytes::Bytes;
use pollux_api::error::RpcError;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, PoolId, VolumeId};
use pollux_api::pool::{Import, PoolEvent, ReservationKey, Take, Taken};
use pollux_block_frame::{Client, Error, Hello, Operation, Port, Purpose};
use pollux_enclosure::config::Disk;
use pollux_enclosure::shelf::{Place, Shelf, World};
use pollux_heartbeat::quorum;
use pollux_heartbeat_core::Seat;
use pollux_platform::fake::scsi::{FakeDisk, FakePort, Model, Nexus};
use pollux_platform::scsi::decode::Wwn;
use pollux_platform::scsi::discover::{Block, Found};
use pollux_platform::scsi::{ScsiDisk, Sharing};
use pollux_pool_manager::backend::{Wanted, WantedVolume};
use pollux_pool_manager::disks::Disks;
use pollux_pool_manager::embedded::Embedded;
use pollux_pool_manager::label::EXTENT_BYTES;
use pollux_pool_manager::record::Records;
use pollux_pool_manager::service::Manager;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// The array.
pub const ARRAY: ArrayId = ArrayId::from_bytes(*b"appliance-tests!");
/// Its pool.
pub const POOL: PoolId = PoolId::from_bytes([9; 16]);
/// The volume on it.
pub const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
/// Longest wait for anything.
pub const LONG: Duration = Duration::from_secs(60);
/// How often own keys are read back here.
pub const KEY_CHECK: Duration = Duration::from_millis(50);
/// Blocks of a disk, 512 bytes each.
const BLOCKS: u64 = 32 * 1024;

/// Puts something before a path, so that a test can look at what passes.
pub type Wrap = Arc<dyn Fn(FakePort) -> Arc<dyn ScsiDisk> + Send + Sync>;

/// What one controller's kernel sees.
#[derive(Clone)]
pub struct Cables {
    paths: Arc<Mutex<Vec<(Found, FakePort)>>>,
    bell: Arc<Notify>,
    wrap: Wrap,
}

impl Cables {
    /// Changes what is seen, and rings.
    pub fn change(&self, change: impl FnOnce(&mut Vec<(Found, FakePort)>)) {
        change(&mut self.paths.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_one();
    }
}

impl World for Cables {
    fn scan(&self) -> io::Result<Vec<Found>> {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(paths.iter().map(|(found, _)| found.clone()).collect())
    }

    fn open(&self, found: &Found, block: &Block, _: Sharing) -> io::Result<Arc<dyn ScsiDisk>> {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let named = paths
            .iter()
            .find(|(one, _)| one.block.as_ref() == Some(block) && one.address == found.address);
        let (_, port) = named.ok_or(io::ErrorKind::NotFound)?;
        Ok((self.wrap)(port.clone()))
    }
}

/// The disks, and what is on both sides of them.
pub struct Array {
    dir: tempfile::TempDir,
    /// By slot.
    pub disks: Vec<Arc<FakeDisk>>,
    /// Of controllers a and b.
    pub cables: [Cables; 2],
    stops: Vec<oneshot::Sender<()>>,
}

/// The nexus of a controller's first path to each disk.
#[must_use]
pub fn nexus(controller: ControllerId) -> Nexus {
    controller.index() as Nexus + 1
}

/// The nexus of its second path.
#[must_use]
pub fn second(controller: ControllerId) -> Nexus {
    nexus(controller) + 10
}

/// A slot.
#[must_use]
pub fn slot(number: usize) -> DiskIndex {
    DiskIndex::new(number as u16)
}

/// A key of the array.
#[must_use]
pub fn key(controller: ControllerId, epoch: u64, generation: u64) -> ReservationKey {
    ReservationKey {
        controller,
        epoch: Epoch::new(epoch),
        generation: Generation::new(generation),
    }
}

/// The same as a disk has it.
#[must_use]
pub fn raw(key: ReservationKey) -> u64 {
    pollux_block_frame::key::encode(ARRAY, key).map_or(0, |key| key.0)
}

impl Array {
    /// So many usual disks, each seen by both controllers over one path.
    pub async fn new(legs: usize) -> Self {
        Self::with(
            legs,
            |_| (),
            Arc::new(|port: FakePort| Arc::new(port) as Arc<dyn ScsiDisk>),
        )
        .await
    }

    /// So many usual disks that are for the quorum alone.
    pub async fn of_quorum(disks: usize) -> Self {
        let wrap: Wrap = Arc::new(|port: FakePort| Arc::new(port) as Arc<dyn ScsiDisk>);
        Self::build(disks, true, |_| (), wrap).await
    }

    /// The same with other disks, and with something before every path.
    pub async fn with(legs: usize, change: impl Fn(&mut Model), wrap: Wrap) -> Self {
        Self::build(legs, false, change, wrap).await
    }

    async fn build(legs: usize, quorum: bool, change: impl Fn(&mut Model), wrap: Wrap) -> Self {
        let wwn = |at: usize| Wwn::Naa(0x5000_c500_0000_0000 | at as u64);
        let disk = |at| {
            let mut model = Model::new(wwn(at));
            model.blocks = BLOCKS;
            change(&mut model);
            FakeDisk::new(model)
        };
        let disks: Vec<_> = (0..legs).map(disk).collect();
        let cables = ControllerId::ALL.map(|controller| {
            let path = |(at, disk): (usize, &Arc<FakeDisk>)| {
                (
                    disk.found(&format!("1:0:{at}:0"), &format!("sd{at}")),
                    disk.port(nexus(controller)),
                )
            };
            Cables {
                paths: Arc::new(Mutex::new(disks.iter().enumerate().map(path).collect())),
                bell: Arc::default(),
                wrap: wrap.clone(),
            }
        });
        let mut array = Array {
            dir: tempfile::tempdir().expect("a directory"),
            disks,
            cables,
            stops: Vec::new(),
        };
        let slots: Vec<Disk> = (0..legs)
            .map(|at| Disk {
                slot: slot(at),
                wwn: wwn(at),
                bytes: None,
                quorum,
                kernel: false,
            })
            .collect();
        for controller in ControllerId::ALL {
            array.serve(controller, &slots).await;
        }
        array
    }

    /// Runs the enclosure's daemon of a controller until everything is served.
    async fn serve(&mut self, controller: ControllerId, slots: &[Disk]) {
        let cables = self.cables[controller.index()].clone();
        let place = Place {
            array: ARRAY,
            controller,
            directory: self.port_of(controller),
        };
        let mut shelf = Shelf::new(cables.clone(), place, slots).expect("a shelf");
        let mut settled = shelf.settled();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            shelf
                .run(|| cables.bell.notified(), async { drop(stopped.await) })
                .await;
        });
        self.stops.push(stop);
        timeout(LONG, settled.wait_for(|settled| *settled))
            .await
            .expect("in time")
            .expect("it runs");
    }

    /// A controller's way to a disk, as its heartbeat has it.
    #[must_use]
    pub fn way(&self, controller: ControllerId, at: usize) -> quorum::Path {
        let disk = slot(at);
        quorum::Path {
            seat: Seat {
                disk,
                since: Generation::new(1),
                mark: 0,
            },
            socket: self.port_of(controller).join(format!("{disk}.sock")),
            array: ARRAY,
            controller,
        }
    }

    fn port_of(&self, controller: ControllerId) -> PathBuf {
        self.dir.path().join(controller.as_str()).join("port")
    }

    /// Cables a second path of a controller to every disk.
    pub fn cable_twice(&self, controller: ControllerId) {
        self.cables[controller.index()].change(|paths| {
            for (at, disk) in self.disks.iter().enumerate() {
                let found = disk.found(&format!("2:0:{at}:0"), &format!("sdz{at}"));
                paths.push((found, disk.port(second(controller))));
            }
        });
    }

    /// The first path of a controller to a disk fails, and its kernel says so.
    pub fn fail_first_path(&self, controller: ControllerId, at: usize) {
        self.disks[at].cut(nexus(controller), true);
        self.cables[controller.index()].change(|paths| paths[at].0.state = "transport-offline".to_owned());
    }

    /// A freshly started pool manager.
    #[must_use]
    pub fn start(&self, controller: ControllerId) -> Controller {
        let own = self.dir.path().join(controller.as_str());
        let disks = Arc::new(Disks::new(&self.port_of(controller), ARRAY, controller));
        let records = Arc::new(Records::open(&own.join("run/pools")).expect("records"));
        let volumes = own.join("run/volumes");
        let backend = Embedded::new(disks.clone(), &volumes, records.clone(), KEY_CHECK);
        let (send, events) = mpsc::unbounded_channel();
        Controller {
            manager: Manager::new(backend, disks, records, send),
            events,
            volumes,
            controller,
            legs: (0..self.disks.len()).map(slot).collect(),
        }
    }

    /// Controller a with the pool, new, imported, and one volume in it.
    pub async fn serving(&self) -> Controller {
        let a = self.start(ControllerId::A);
        let first = key(ControllerId::A, 1, 1);
        assert!(a.take(first).await.expect("take").confirmed);
        a.import(first, true).await.expect("create");
        a.volume_made().await;
        a
    }
}

/// A pool manager, as its daemon would run it, without a router.
pub struct Controller {
    /// The manager.
    pub manager: Arc<Manager<Embedded>>,
    events: UnboundedReceiver<PoolEvent>,
    volumes: PathBuf,
    controller: ControllerId,
    legs: Vec<DiskIndex>,
}

impl Controller {
    /// `pool.take` of every disk.
    ///
    /// # Errors
    /// The manager's.
    pub async fn take(&self, key: ReservationKey) -> Result<Taken, RpcError> {
        let victim = (self.controller == ControllerId::B).then_some(ControllerId::A);
        let request = Take {
            pool: POOL,
            disks: self.legs.clone(),
            key,
            victim,
        };
        self.manager.take(request).await
    }

    /// `pool.import`.
    ///
    /// # Errors
    /// The manager's.
    pub async fn import(&self, key: ReservationKey, create: bool) -> Result<(), RpcError> {
        let request = Import {
            pool: POOL,
            name: "tank".to_owned(),
            disks: self.legs.clone(),
            key,
            create,
            backend: None,
            power_off: None,
        };
        self.manager.import(request).await.map(drop)
    }

    async fn volume_made(&self) {
        let volume = WantedVolume {
            id: VOLUME,
            size_bytes: 2 * EXTENT_BYTES,
            thin: false,
        };
        let wanted = Wanted {
            volumes: vec![volume],
            ..Wanted::default()
        };
        let errors = self.manager.reconcile(POOL, 1, &wanted).await;
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// A session at the volume, as the target has it.
    pub async fn volume(&self) -> Volume {
        let hello = Hello {
            array: Uuid::from_bytes(*ARRAY.as_bytes()),
            port: match self.controller {
                ControllerId::A => Port::A,
                ControllerId::B => Port::B,
            },
            purpose: Purpose::Volume,
            client: "block-target".to_owned(),
            epoch: 0,
            generation: 0,
        };
        let path = self.volumes.join(format!("{VOLUME}.sock"));
        let session = Client::connect_unix(&path, &hello, None, LONG).await;
        Volume(session.expect("a session at the volume"))
    }

    /// Waits for the report that exclusion was lost, and does with it what the daemon does.
    pub async fn exclusion_lost(&mut self) -> (DiskIndex, Option<ReservationKey>) {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the manager lives");
                if let PoolEvent::ExclusionLost { disk, holder, .. } = event {
                    self.manager.observe(&event);
                    return (disk, holder);
                }
            }
        };
        timeout(LONG, wait).await.expect("exclusion is lost")
    }

    /// Whether exclusion was reported as lost until now.
    pub fn has_lost_exclusion(&mut self) -> bool {
        let told = std::iter::from_fn(|| self.events.try_recv().ok());
        told.fold(false, |lost, event| {
            lost | matches!(event, PoolEvent::ExclusionLost { .. })
        })
    }
}

/// A volume; blocks of 4096 bytes.
#[derive(Clone)]
pub struct Volume(Client);

fn deadline() -> Option<Instant> {
    Some(Instant::now() + LONG)
}

impl Volume {
    /// Writes a block of one byte; `durable`: past the disks' caches.
    ///
    /// # Errors
    /// The pool's.
    pub async fn put(&self, index: u64, fill: u8, durable: bool) -> Result<(), Error> {
        let data = Bytes::from(vec![fill; 4096]);
        self.0.write(index * 8, data, durable, deadline()).await
    }

    /// The byte that a block consists of.
    ///
    /// # Errors
    /// The pool's.
    pub async fn get(&self, index: u64) -> Result<u8, Error> {
        let data = self.0.read(index * 8, 8, deadline()).await?;
        assert!(data.iter().all(|byte| *byte == data[0]), "block {index} is torn");
        Ok(data[0])
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// The pool's.
    pub async fn flush(&self) -> Result<(), Error> {
        self.0.perform(Operation::Flush, deadline()).await.map(drop)
    }

    /// The session has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The keys that are registered at a disk, one for each nexus that has one, and the key that holds it; asked over a nexus of
/// the test's own.
#[must_use]
pub fn registered(disk: &Arc<FakeDisk>) -> (Vec<u64>, Option<(u64, u8)>) {
    use pollux_platform::scsi::command::{ReserveIn, reserve_in};
    use pollux_platform::scsi::decode::{Keys, Reserved};
    let port = disk.port(99);
    let ask = |action| pollux_platform::scsi::run(&port, &reserve_in(action, 512)).expect("asked");
    let keys = Keys::decode(&ask(ReserveIn::ReadKeys)).expect("keys").keys;
    let held = Reserved::decode(&ask(ReserveIn::ReadReservation))
        .expect("reservation")
        .held;
    (keys, held.map(|held| (held.key, held.kind)))
}
