//! Pools in volume groups: labels and fences on a real shelf whose disks end behind their label area, and in the place of lvmd
//! something that holds groups and obeys its rules.

use bytes::Bytes;
use pollux_api::config::item::ItemId;
use pollux_api::config::{Backend, Hex, Tables};
use pollux_api::error::Code;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId, VolumeId};
use pollux_api::lvm::{
    Activate, Apply, Device, FileSystem, Group, HEAD_BYTES, Health, LABEL_AREA_BYTES, Leg, Level, Remove,
    Replace, RollBack, State,
};
use pollux_api::pool::{
    Export, Import, LegState, PoolEvent, PowerOff, Propose, ReservationKey, Resync, RollBack as AskRollBack,
    Take,
};
use pollux_block_frame::{Client, Hello, Operation, Port, Purpose};
use pollux_chassis::shelf::{Layout, Shelf};
use pollux_platform::scsi::{LinuxDisk, Sharing};
use pollux_pool_manager::backend::{Wanted, WantedSnapshot, WantedVolume};
use pollux_pool_manager::device::Node;
use pollux_pool_manager::disks::Disks;
use pollux_pool_manager::embedded::Embedded;
use pollux_pool_manager::kinds::Kinds;
use pollux_pool_manager::label::{self, MemberState};
use pollux_pool_manager::lvm::Lvm;
use pollux_pool_manager::lvmd::Groups;
use pollux_pool_manager::record::Records;
use pollux_pool_manager::service::Manager;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

const ARRAY: ArrayId = ArrayId::from_bytes(*b"lvm-pools--array");
const POOL: PoolId = PoolId::from_bytes([9; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;
const LONG: Duration = Duration::from_secs(60);
const KEY_CHECK: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// What stands behind the label areas, for both controllers.
#[derive(Debug, Default)]
struct Stored {
    /// There is a group, of these disks.
    members: Option<BTreeSet<DiskIndex>>,
    volumes: BTreeMap<VolumeId, u64>,
    snapshots: BTreeMap<ItemId, VolumeId>,
    /// File systems and their sizes; where they are mounted.
    files: BTreeMap<ItemId, u64>,
    mounted: BTreeSet<ControllerId>,
    /// Disks that are copied to.
    copying: BTreeSet<DiskIndex>,
    /// Where it is active.
    active: BTreeSet<ControllerId>,
}

/// The groups of one controller. A volume is a file; a snapshot is a copy of one.
#[derive(Debug, Clone)]
struct Files {
    controller: ControllerId,
    folder: PathBuf,
    stored: Arc<Mutex<Stored>>,
    /// With which disks it was activated last.
    opened: Arc<Mutex<BTreeSet<DiskIndex>>>,
    /// Disks that this kernel goes on without.
    failed: Arc<Mutex<BTreeSet<DiskIndex>>>,
    /// Somebody uses something of the group.
    busy: Arc<Mutex<bool>>,
    /// Nobody listens at the socket.
    gone: Arc<Mutex<bool>>,
    /// What is begun comes to its end, and nobody hears of it.
    silent: Arc<Mutex<bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    fn path(&self, name: impl std::fmt::Display) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn state_now(&self) -> State {
        let (opened, failed) = (lock(&self.opened), lock(&self.failed));
        let stored = lock(&self.stored);
        let leg = |slot: &DiskIndex| {
            let (health, copied_percent) = match (failed.contains(slot), stored.copying.contains(slot)) {
                (true, _) => (Health::Failed, None),
                (false, true) => (Health::Copying, Some(40)),
                (false, false) => (Health::InSync, None),
            };
            Leg {
                slot: *slot,
                health,
                copied_percent,
            }
        };
        let used = stored.volumes.values().sum();
        State {
            capacity_bytes: 100 * MIB,
            used_bytes: used,
            map_capacity_bytes: 16 * MIB,
            map_used_bytes: MIB,
            writable: true,
            legs: opened.iter().map(leg).collect(),
        }
    }

    fn group(&self) -> Group {
        let state = self.state_now();
        let stored = lock(&self.stored);
        let device = |(id, size_bytes): (&VolumeId, &u64)| Device {
            id: *id,
            size_bytes: *size_bytes,
            node: self.path(id).display().to_string(),
        };
        let mounted = stored.mounted.contains(&self.controller);
        let files = |(id, size_bytes): (&ItemId, &u64)| pollux_api::lvm::Files {
            id: *id,
            size_bytes: *size_bytes,
            path: mounted.then(|| format!("/run/pollux-files/{id}")),
        };
        Group {
            files: stored.files.iter().map(files).collect(),
            problems: Vec::new(),
            volumes: stored.volumes.iter().map(device).collect(),
            snapshots: stored.snapshots.keys().copied().collect(),
            state,
        }
    }

    fn is_active(&self) -> Result<(), String> {
        match lock(&self.stored).active.contains(&self.controller) {
            true => Ok(()),
            false => Err("not active".to_owned()),
        }
    }
}

impl Groups for Files {
    async fn activate(&self, request: Activate) -> Result<Group, String> {
        let disks: BTreeSet<_> = request.disks.iter().map(|disk| disk.slot).collect();
        {
            let mut stored = lock(&self.stored);
            match &stored.members {
                None if request.create => stored.members = Some(disks.clone()),
                None => return Err("no group".to_owned()),
                Some(members) if disks.is_subset(members) => {}
                Some(_) => return Err("a disk of no group".to_owned()),
            }
            stored.active.insert(self.controller);
        }
        *lock(&self.opened) = disks;
        Ok(self.group())
    }

    async fn apply(&self, request: Apply) -> Result<Group, String> {
        self.is_active()?;
        let mut stored = lock(&self.stored);
        if stored.members.as_ref() != Some(&*lock(&self.opened)) {
            return Err("Cannot change VG while PVs are missing".to_owned());
        }
        stored.volumes = request
            .volumes
            .iter()
            .map(|volume| (volume.id, volume.size_bytes))
            .collect();
        for (id, size_bytes) in &stored.volumes {
            let file = std::fs::File::options()
                .create(true)
                .write(true)
                .truncate(false)
                .open(self.path(id));
            let grown = file.and_then(|file| file.set_len(HEAD_BYTES + size_bytes));
            grown.map_err(|error| error.to_string())?;
        }
        let taken: BTreeMap<_, _> = request.snapshots.iter().map(|one| (one.id, one.volume)).collect();
        for (id, volume) in taken.iter().filter(|(id, _)| !stored.snapshots.contains_key(*id)) {
            std::fs::copy(self.path(volume), self.path(id)).map_err(|error| error.to_string())?;
        }
        stored.snapshots = taken;
        let all = 100 * MIB;
        stored.files = (request.file_systems.iter())
            .map(|files| (files.id, files.size_bytes.unwrap_or(all)))
            .collect();
        stored.mounted.insert(self.controller);
        drop(stored);
        Ok(self.group())
    }

    async fn replace(&self, request: Replace) -> Result<Group, String> {
        self.is_active()?;
        if *lock(&self.gone) {
            return Err("no end within 25 s".to_owned());
        }
        let slot = request.disk.slot;
        let was_failed = lock(&self.failed).remove(&slot);
        if lock(&self.opened).insert(slot) || was_failed {
            lock(&self.stored).copying.insert(slot);
        }
        Ok(self.group())
    }

    async fn roll_back(&self, request: RollBack) -> Result<Group, String> {
        self.is_active()?;
        let (from, to) = (self.path(request.to.id), self.path(request.to.volume));
        std::fs::copy(from, to).map_err(|error| error.to_string())?;
        Ok(self.group())
    }

    async fn state(&self, _: PoolId) -> Result<State, String> {
        self.is_active()?;
        Ok(self.state_now())
    }

    async fn deactivate(&self, _: PoolId) -> Result<(), String> {
        lock(&self.stored).mounted.remove(&self.controller);
        if *lock(&self.busy) {
            return Err("target is busy".to_owned());
        }
        lock(&self.stored).active.remove(&self.controller);
        let silent = *lock(&self.silent);
        if silent {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn cut(&self, pool: PoolId) -> Result<(), String> {
        self.deactivate(pool).await
    }

    async fn remove(&self, _: Remove) -> Result<(), String> {
        let mut stored = lock(&self.stored);
        if *lock(&self.busy) || stored.volumes.len() + stored.snapshots.len() + stored.files.len() > 0 {
            return Err("something is in it: busy".to_owned());
        }
        *stored = Stored::default();
        Ok(())
    }

    async fn pools(&self) -> Result<Vec<PoolId>, String> {
        if *lock(&self.gone) {
            return Err("lvmd.sock: No such file or directory".to_owned());
        }
        Ok(Vec::from_iter(self.is_active().is_ok().then_some(POOL)))
    }

    fn open(&self, node: &Path) -> io::Result<Node> {
        Ok(Arc::new(LinuxDisk::open(node, true, Sharing::Alone)?))
    }
}

struct Array {
    dir: tempfile::TempDir,
    shelf: Shelf,
    stored: Arc<Mutex<Stored>>,
}

struct Controller {
    manager: Arc<Manager<Kinds<Files>>>,
    groups: Files,
    events: UnboundedReceiver<PoolEvent>,
    volumes: PathBuf,
    controller: ControllerId,
}

fn key(controller: ControllerId, epoch: u64) -> ReservationKey {
    ReservationKey {
        controller,
        epoch: Epoch::new(epoch),
        generation: Generation::new(epoch),
    }
}

fn legs() -> Vec<DiskIndex> {
    vec![DiskIndex::new(0), DiskIndex::new(1)]
}

impl Array {
    fn new(data_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let layout = Layout {
            array: ARRAY,
            data_disks: 2,
            data_bytes,
            quorum_disks: 1,
            quorum_bytes: MIB,
        };
        let path = dir.path().join("shelf");
        Shelf::create(&path, &layout).expect("create");
        let shelf = Shelf::open(&path, Some(ARRAY), 1).expect("open");
        for controller in ControllerId::ALL {
            let port = dir.path().join(controller.as_str()).join("port");
            shelf.serve(controller, &port).expect("serve");
        }
        Array {
            dir,
            shelf,
            stored: Arc::default(),
        }
    }

    fn start(&self, controller: ControllerId) -> Controller {
        let own = self.dir.path().join(controller.as_str());
        let disks = Arc::new(Disks::new(&own.join("port"), ARRAY, controller));
        let records = Arc::new(Records::open(&own.join("run/pools")).expect("records"));
        let volumes = own.join("run/volumes");
        let groups = Files {
            controller,
            folder: self.dir.path().to_owned(),
            stored: self.stored.clone(),
            opened: Arc::default(),
            failed: Arc::default(),
            busy: Arc::default(),
            gone: Arc::default(),
            silent: Arc::default(),
        };
        let backend = Kinds {
            embedded: Embedded::new(disks.clone(), &volumes, records.clone(), KEY_CHECK),
            lvm: Lvm::new(
                disks.clone(),
                groups.clone(),
                &volumes,
                records.clone(),
                KEY_CHECK,
            ),
        };
        let (send, events) = mpsc::unbounded_channel();
        let manager = Manager::new(backend, disks, records, send);
        Controller {
            manager,
            groups,
            events,
            volumes,
            controller,
        }
    }

    /// Controller a with the pool, new, and one volume in it.
    async fn serving(&self) -> Controller {
        let a = self.start(A);
        a.take(1).await;
        a.manager.import(a.import(1, true)).await.expect("made");
        assert_eq!(a.reconcile(1, &[]).await, Vec::<String>::new());
        a
    }
}

impl Controller {
    fn import(&self, epoch: u64, create: bool) -> Import {
        Import {
            pool: POOL,
            name: "fast".to_owned(),
            disks: legs(),
            key: key(self.controller, epoch),
            create,
            backend: None,
            power_off: None,
        }
    }

    async fn take(&self, epoch: u64) {
        let request = Take {
            pool: POOL,
            disks: legs(),
            key: key(self.controller, epoch),
            victim: None,
        };
        self.manager.take(request).await.expect("taken");
    }

    async fn reconcile(&self, index: u64, snapshots: &[ItemId]) -> Vec<String> {
        let wanted = Wanted {
            volumes: vec![WantedVolume {
                id: VOLUME,
                size_bytes: 4 * MIB,
                thin: true,
            }],
            snapshots: snapshots
                .iter()
                .map(|&id| WantedSnapshot { id, volume: VOLUME })
                .collect(),
            low_percent: 10,
            ..Wanted::default()
        };
        let errors = self.manager.reconcile(POOL, index, &wanted).await;
        errors.iter().map(ToString::to_string).collect()
    }

    /// A host's side of the volume.
    async fn host(&self) -> Client {
        let hello = Hello {
            array: Uuid::from_bytes(*ARRAY.as_bytes()),
            port: if self.controller == A { Port::A } else { Port::B },
            purpose: Purpose::Volume,
            client: "host".to_owned(),
            epoch: 0,
            generation: 0,
        };
        let socket = self.volumes.join(format!("{VOLUME}.sock"));
        Client::connect_unix(&socket, &hello, None, LONG)
            .await
            .expect("served")
    }

    /// Waits for an event.
    async fn event(&mut self, what: impl Fn(&PoolEvent) -> bool) -> PoolEvent {
        let deadline = Instant::now() + LONG;
        loop {
            let event = timeout_at(deadline, self.events.recv())
                .await
                .expect("in time")
                .expect("open");
            if what(&event) {
                return event;
            }
        }
    }
}

fn until() -> Option<Instant> {
    Some(Instant::now() + LONG)
}

fn block(byte: u8) -> Bytes {
    vec![byte; 4096].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_made_written_given_up_and_taken() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    let host = a.host().await;
    host.write(8, block(7), true, until()).await.expect("written");
    host.flush(until()).await.expect("flushed");
    let record = Bytes::from_static(b"reservations of hosts");
    let store = Operation::RecordStore {
        record: record.clone(),
    };
    host.perform(store, until()).await.expect("kept");
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given up");
    assert!(lock(&array.stored).active.is_empty());

    let b = array.start(B);
    b.take(2).await;
    let imported = b.manager.import(b.import(2, false)).await.expect("imported");
    assert_eq!(imported.volumes, [VOLUME]);
    assert!(
        imported
            .health
            .legs
            .iter()
            .all(|leg| leg.state == LegState::InSync)
    );
    let host = b.host().await;
    assert_eq!(host.read(8, 8, until()).await.expect("read"), block(7));
    // Beyond what was written there is nothing, and the journal is not what hosts see.
    assert_eq!(host.read(0, 8, until()).await.expect("read"), block(0));
    let kept = host
        .perform(Operation::RecordLoad, until())
        .await
        .expect("loaded");
    assert_eq!(kept.payload, record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_fenced_is_stopped_and_cut() {
    let array = Array::new(LABEL_AREA_BYTES);
    let mut a = array.serving().await;
    let b = array.start(B);
    b.take(2).await;
    let lost = a
        .event(|event| matches!(event, PoolEvent::ExclusionLost { .. }))
        .await;
    a.manager.observe(&lost);
    b.manager.import(b.import(2, false)).await.expect("imported");
    let deadline = Instant::now() + LONG;
    while lock(&array.stored).active.contains(&A) {
        assert!(Instant::now() < deadline, "a's group is still active");
        tokio::task::yield_now().await;
    }
    assert!(a.manager.status().await.imported.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_not_fenced_keeps_the_group_inactive_even_when_the_old_owner_is_off() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    a.manager.abandon();
    lock(&array.stored).active.clear();
    let b = array.start(B);
    array
        .shelf
        .set_path(B, Some(DiskIndex::new(1)), false)
        .expect("path");
    b.take(2).await;
    let power_off = PowerOff {
        controller: A,
        incarnation: Incarnation::new(1),
        epoch: Epoch::new(2),
    };
    let request = Import {
        power_off: Some(power_off),
        ..b.import(2, false)
    };
    let error = b
        .manager
        .import(request)
        .await
        .expect_err("one disk is anybody's");
    assert!(error.is(Code::Refused), "{error}");
    assert!(lock(&array.stored).active.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_kernel_has_given_up_stays_out() {
    let array = Array::new(LABEL_AREA_BYTES);
    let mut a = array.serving().await;
    lock(&a.groups.failed).insert(DiskIndex::new(1));
    a.event(|event| match event {
        PoolEvent::Health { health, .. } => health.legs[1].state == LegState::Failed,
        _ => false,
    })
    .await;
    a.manager.abandon();
    lock(&array.stored).active.clear();
    let b = array.start(B);
    b.take(2).await;
    let imported = b.manager.import(b.import(2, false)).await.expect("imported");
    assert_eq!(imported.health.legs[1].state, LegState::Failed);
    assert_eq!(*lock(&b.groups.opened), BTreeSet::from([DiskIndex::new(0)]));
    // It serves; what LVM cannot change stays as it is, and is said.
    assert_eq!(b.host().await.read(0, 8, until()).await.expect("read"), block(0));
    let errors = b.reconcile(5, &[ItemId(Hex([1; 16]))]).await;
    assert!(errors.len() == 1 && errors[0].contains("missing"), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_comes_back_into_the_group_and_the_label_follows_the_kernel() {
    let is = |state: LegState| {
        move |event: &PoolEvent| match event {
            PoolEvent::Health { health, .. } => health.legs[1].state == state,
            _ => false,
        }
    };
    let array = Array::new(LABEL_AREA_BYTES);
    let mut a = array.serving().await;
    let disk = DiskIndex::new(1);
    let resync = Resync { pool: POOL, disk };
    a.manager.resync(resync.clone()).await.expect("it is in sync");
    assert!(lock(&array.stored).copying.is_empty());
    let stranger = Resync {
        disk: DiskIndex::new(7),
        ..resync.clone()
    };
    let error = a.manager.resync(stranger).await.expect_err("no member");
    assert!(error.to_string().contains("disk-07 is not a member"), "{error}");

    lock(&a.groups.failed).insert(disk);
    a.event(is(LegState::Failed)).await;
    // What cannot come in is out, as before; and it can be asked for again.
    *lock(&a.groups.gone) = true;
    let error = a
        .manager
        .resync(resync.clone())
        .await
        .expect_err("lvmd does not do it");
    assert!(error.to_string().contains("no end within"), "{error}");
    let health = a.manager.status().await.imported[0].health.clone();
    assert_eq!(health.legs[1].state, LegState::Failed);
    *lock(&a.groups.gone) = false;
    let health = a.manager.resync(resync).await.expect("it comes");
    assert_eq!(
        (health.legs[1].state, health.legs[1].resync_percent),
        (LegState::Resyncing, Some(40))
    );

    // Its owner dies in the middle of the copy: whoever comes next has it, fenced, and goes on.
    a.manager.abandon();
    lock(&array.stored).active.clear();
    let mut b = array.start(B);
    b.take(2).await;
    let imported = b.manager.import(b.import(2, false)).await.expect("imported");
    assert_eq!(imported.health.legs[1].state, LegState::Resyncing);
    assert_eq!(*lock(&b.groups.opened), legs().into_iter().collect());
    lock(&array.stored).copying.clear();
    b.event(is(LegState::InSync)).await;
    b.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given up");

    // And the label knows.
    let disks = Disks::new(&array.dir.path().join("a/port"), ARRAY, A);
    let on_disk = label::read(&disks, disk).await.expect("read");
    let label = on_disk.newest(POOL).expect("a label");
    assert_eq!(
        label.member(disk).map(|member| member.state),
        Some(MemberState::InSync)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_brings_data_back_and_keeps_reservations() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    let host = a.host().await;
    host.write(0, block(1), true, until()).await.expect("written");
    let snapshot = ItemId(Hex([3; 16]));
    assert_eq!(a.reconcile(2, &[snapshot]).await, Vec::<String>::new());
    host.write(0, block(2), true, until()).await.expect("written");
    let record = Bytes::from_static(b"newer than the snapshot");
    let store = Operation::RecordStore {
        record: record.clone(),
    };
    host.perform(store, until()).await.expect("kept");
    drop(host);
    let request = AskRollBack { pool: POOL, snapshot };
    let done = a.manager.roll_back_unseen(&request).await.expect("rolled back");
    assert_eq!(done.volume, VOLUME);
    let host = a.host().await;
    assert_eq!(host.read(0, 8, until()).await.expect("read"), block(1));
    let kept = host
        .perform(Operation::RecordLoad, until())
        .await
        .expect("loaded");
    assert_eq!(kept.payload, record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_systems_are_mounted_by_the_owner_alone_and_after_an_export_that_failed() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    let id = ItemId(Hex([0x40; 16]));
    let wanted = Wanted {
        volumes: vec![WantedVolume {
            id: VOLUME,
            size_bytes: 4 * MIB,
            thin: true,
        }],
        file_systems: vec![FileSystem {
            id,
            size_bytes: Some(50 * MIB),
        }],
        low_percent: 10,
        ..Wanted::default()
    };
    let paths = async |one: &Controller| {
        let status = one.manager.status().await;
        let files = status.imported.into_iter().flat_map(|pool| pool.files);
        files
            .map(|files| (files.id, files.path.is_some()))
            .collect::<Vec<_>>()
    };
    assert!(a.manager.reconcile(POOL, 2, &wanted).await.is_empty());
    assert_eq!(paths(&a).await, [(id, true)]);
    // Somebody uses it: what was mounted is mounted again.
    *lock(&a.groups.busy) = true;
    let error = a
        .manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect_err("in use");
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(paths(&a).await, [(id, true)]);
    assert!(lock(&array.stored).mounted.contains(&A));
    *lock(&a.groups.busy) = false;
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given up");
    assert!(lock(&array.stored).mounted.is_empty());

    // An import does not wait for it; what the configuration wants is mounted then.
    let b = array.start(B);
    b.take(2).await;
    b.manager.import(b.import(2, false)).await.expect("imported");
    assert_eq!(paths(&b).await, [(id, false)]);
    assert!(b.manager.reconcile(POOL, 2, &wanted).await.is_empty());
    assert_eq!(paths(&b).await, [(id, true)]);
    assert!(b.reconcile(3, &[]).await.is_empty());
    assert_eq!(paths(&b).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_deactivated_too_late_is_activated_when_its_pool_goes_on() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    *lock(&a.groups.silent) = true;
    let within = Duration::from_secs(3);
    let error = a.manager.export(Export { pool: POOL }, within).await;
    assert!(
        error
            .expect_err("late")
            .to_string()
            .contains("deactivating its group")
    );
    assert!(
        lock(&array.stored).active.is_empty(),
        "it came to its end all the same"
    );
    *lock(&a.groups.silent) = false;
    // As heartbeat resumes what it could not give.
    let served = a.manager.import(a.import(1, false)).await.expect("it goes on");
    assert_eq!(served.volumes, [VOLUME]);
    assert!(lock(&array.stored).active.contains(&A));
    let host = a.host().await;
    host.write(0, block(7), true, until()).await.expect("written");
    drop(host);
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_chosen_is_made_or_refused_with_why() {
    let propose = |disks, backend| Propose { disks, backend };
    let (lvm, embedded) = (Some(Backend::Lvm), Some(Backend::Embedded));

    let array = Array::new(16 * MIB);
    let a = array.start(A);
    let made = a.manager.propose(propose(legs(), None)).await.expect("possible");
    assert_eq!((made.backend, made.level), (Backend::Embedded, None));
    let error = a
        .manager
        .propose(propose(legs(), lvm))
        .await
        .expect_err("other disks");
    assert!(error.is(Code::Refused), "{error}");
    assert!(error.to_string().contains("kernel = true"), "{error}");
    a.take(1).await;
    let request = Import {
        backend: lvm,
        ..a.import(1, true)
    };
    let error = a.manager.import(request).await.expect_err("other disks");
    assert!(error.is(Code::Refused), "{error}");
    // Nothing was written: the disks are as good for the other kind as before.
    let request = Import {
        backend: embedded,
        ..a.import(1, true)
    };
    a.manager.import(request).await.expect("made");
    let status = a.manager.status().await;
    assert_eq!(status.imported[0].made, Some(made));

    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.start(A);
    let made = a.manager.propose(propose(legs(), None)).await.expect("possible");
    assert_eq!((made.backend, made.level), (Backend::Lvm, Some(Level::Raid1)));
    let error = a.manager.propose(propose(legs(), embedded)).await;
    let error = error.expect_err("the kernel's disks");
    assert!(
        error.is(Code::Refused) && error.to_string().contains("disk-00"),
        "{error}"
    );
    let nowhere = a.manager.propose(propose(vec![DiskIndex::new(7)], None)).await;
    assert!(
        nowhere
            .expect_err("no such disk")
            .to_string()
            .contains("cannot be asked")
    );
    *lock(&a.groups.gone) = true;
    let error = a
        .manager
        .propose(propose(legs(), lvm))
        .await
        .expect_err("no lvmd");
    assert!(
        error.is(Code::Failed) && error.data.remedy.contains("start lvmd"),
        "{error}"
    );
    a.take(1).await;
    let refused = a.manager.import(a.import(1, true)).await.expect_err("no lvmd");
    assert!(refused.is(Code::Failed), "{refused}");
    *lock(&a.groups.gone) = false;
    a.manager.import(a.import(1, true)).await.expect("made");
    assert_eq!(a.manager.status().await.imported[0].made, Some(made));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_the_configuration_has_no_more_leaves_disks_for_another() {
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    a.manager.learn(9, Tables::default());
    let delete = || a.manager.delete(Export { pool: POOL }, LONG);
    // A configuration that was brought back from before the pool was made says nothing of its volumes.
    let error = delete().await.expect_err("a volume is in it");
    assert!(error.to_string().contains("something is in it"), "{error}");
    a.host()
        .await
        .write(8, block(7), true, until())
        .await
        .expect("it goes on");
    assert!(a.manager.reconcile(POOL, 2, &Wanted::default()).await.is_empty());
    *lock(&a.groups.busy) = true;
    let error = delete().await.expect_err("in use");
    assert!(error.to_string().contains("busy"), "{error}");
    *lock(&a.groups.busy) = false;
    assert!(delete().await.expect("deleted").was_imported);
    assert!(lock(&array.stored).members.is_none(), "no group is left");
    let other = PoolId::from_bytes([1; 16]);
    let take = Take {
        pool: other,
        disks: legs(),
        key: key(A, 2),
        victim: None,
    };
    a.manager.take(take).await.expect("taken");
    let create = Import {
        pool: other,
        ..a.import(2, true)
    };
    a.manager.import(create).await.expect("made of the same disks");
    assert!(lock(&array.stored).members.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_of_the_other_kind_make_the_other_kind_of_pool() {
    let array = Array::new(16 * MIB);
    let a = array.start(A);
    a.take(1).await;
    a.manager.import(a.import(1, true)).await.expect("made");
    assert!(lock(&array.stored).members.is_none(), "no group was asked for");
    // A group whose label is there, and whose disks do not have one any more, is damage.
    let array = Array::new(LABEL_AREA_BYTES);
    let a = array.serving().await;
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given up");
    *lock(&array.stored) = Stored::default();
    let b = array.start(B);
    b.take(2).await;
    let error = b.manager.import(b.import(2, false)).await.expect_err("damage");
    assert!(error.to_string().contains("no group"), "{error}");
}
