//! Pools on a real shelf: two managers, one per controller, each over its own ports; faults; the shelf's log as judge.

#[path = "pools/thin.rs"]
mod thin;

use bytes::Bytes;
use pollux_api::chassis::DiskFault;
use pollux_api::config::Tables;
use pollux_api::error::Code;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId, VolumeId};
use pollux_api::pool::{
    Export, Import, LegState, PoolEvent, PoolHealth, PowerOff, ReservationKey, Resync, Take, Taken,
};
use pollux_block_frame::{Client, Error, Hello, Operation, Port, Purpose, Status};
use pollux_chassis::shelf::{Layout, Shelf, WriteLog};
use pollux_pool_manager::backend::{Wanted, WantedVolume};
use pollux_pool_manager::disks::Disks;
use pollux_pool_manager::embedded::Embedded;
use pollux_pool_manager::fence;
use pollux_pool_manager::label::{self, DATA_AT, EXTENT_BYTES};
use pollux_pool_manager::record::Records;
use pollux_pool_manager::service::Manager;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

const ARRAY: ArrayId = ArrayId::from_bytes(*b"pool-test--array");
const POOL: PoolId = PoolId::from_bytes([9; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;
const LONG: Duration = Duration::from_secs(20);
const KEY_CHECK: Duration = Duration::from_millis(100);
const VOLUME_BYTES: u64 = 4 * EXTENT_BYTES;

fn disk(slot: u16) -> DiskIndex {
    DiskIndex::new(slot)
}

fn key(controller: ControllerId, epoch: u64, generation: u64) -> ReservationKey {
    ReservationKey {
        controller,
        epoch: Epoch::new(epoch),
        generation: Generation::new(generation),
    }
}

/// A manager of one controller, as its daemon would run it, without a router.
struct Controller {
    manager: Arc<Manager<Embedded>>,
    disks: Arc<Disks>,
    events: UnboundedReceiver<PoolEvent>,
    volumes: PathBuf,
    controller: ControllerId,
    legs: Vec<DiskIndex>,
}

struct Array {
    dir: tempfile::TempDir,
    shelf: Shelf,
    legs: Vec<DiskIndex>,
}

impl Array {
    /// A shelf with `legs` data disks, all of which become members of the pool.
    fn new(legs: u16) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let layout = Layout {
            array: ARRAY,
            data_disks: legs,
            data_bytes: 16 << 20,
            quorum_disks: 1,
            quorum_bytes: 1 << 20,
        };
        let path = dir.path().join("shelf");
        Shelf::create(&path, &layout).expect("create");
        let shelf = Shelf::open(&path, Some(ARRAY), 1).expect("open");
        for controller in ControllerId::ALL {
            shelf
                .serve(controller, &dir.path().join(controller.as_str()).join("port"))
                .expect("serve");
        }
        Array {
            dir,
            shelf,
            legs: (0..legs).map(disk).collect(),
        }
    }

    /// A freshly started manager.
    fn start(&self, controller: ControllerId) -> Controller {
        let own = self.dir.path().join(controller.as_str());
        let disks = Arc::new(Disks::new(&own.join("port"), ARRAY, controller));
        let records = Arc::new(Records::open(&own.join("run/pools")).expect("records"));
        let volumes = own.join("run/volumes");
        let backend = Embedded::new(disks.clone(), &volumes, records.clone(), KEY_CHECK);
        let (send, events) = mpsc::unbounded_channel();
        let manager = Manager::new(backend, disks.clone(), records, send);
        Controller {
            manager,
            disks,
            events,
            volumes,
            controller,
            legs: self.legs.clone(),
        }
    }

    /// Controller a with the pool, new, imported, and one volume in it.
    async fn serving(&self) -> Controller {
        let a = self.start(A);
        assert!(a.take(key(A, 1, 1)).await.confirmed);
        let create = Import {
            create: true,
            ..a.import_request(key(A, 1, 1))
        };
        a.manager.import(create).await.expect("create");
        a.reconcile(1, &[VOLUME]).await;
        a
    }

    fn fault(&self, slot: u16, port: Option<ControllerId>, fault: DiskFault) {
        self.shelf.set_fault(disk(slot), port, fault).expect("fault");
    }

    fn assert_one_writer(&self) {
        let log = WriteLog::read(self.shelf.log_path()).expect("write log");
        assert_eq!(log.second_writers(&self.legs), [], "a second writer");
    }

    /// What stands on a disk of the shelf, past every manager.
    async fn raw(&self, slot: u16, at: u64, bytes: u64) -> Bytes {
        let hello = hello(Purpose::Disk, B, "the test");
        let path = self
            .dir
            .path()
            .join("b/port")
            .join(format!("{}.sock", disk(slot)));
        let client = Client::connect_unix(&path, &hello, None, LONG)
            .await
            .expect("session");
        client
            .read(at / 512, (bytes / 512) as u32, None)
            .await
            .expect("read")
    }
}

fn hello(purpose: Purpose, controller: ControllerId, client: &str) -> Hello {
    Hello {
        array: Uuid::from_bytes(*ARRAY.as_bytes()),
        port: if controller == A { Port::A } else { Port::B },
        purpose,
        client: client.to_owned(),
        epoch: 0,
        generation: 0,
    }
}

impl Controller {
    async fn try_take(&self, key: ReservationKey) -> Result<Taken, pollux_api::error::RpcError> {
        let victim = (self.controller == B).then_some(A);
        self.manager
            .take(Take {
                pool: POOL,
                disks: self.legs.clone(),
                key,
                victim,
            })
            .await
    }

    async fn take(&self, key: ReservationKey) -> Taken {
        self.try_take(key).await.expect("take")
    }

    fn import_request(&self, key: ReservationKey) -> Import {
        Import {
            pool: POOL,
            name: "tank".to_owned(),
            disks: self.legs.clone(),
            key,
            create: false,
            backend: None,
            power_off: None,
        }
    }

    async fn import(&self, key: ReservationKey) {
        self.manager
            .import(self.import_request(key))
            .await
            .expect("import");
    }

    async fn reconcile(&self, index: u64, volumes: &[VolumeId]) {
        let wanted: Vec<_> = volumes
            .iter()
            .map(|id| WantedVolume {
                id: *id,
                size_bytes: VOLUME_BYTES,
                thin: false,
            })
            .collect();
        let errors = self.manager.reconcile(POOL, index, &only(wanted)).await;
        assert!(errors.is_empty(), "{errors:?}");
    }

    async fn volume(&self) -> Client {
        let path = self.volumes.join(format!("{VOLUME}.sock"));
        let hello = hello(Purpose::Volume, self.controller, "block-target");
        Client::connect_unix(&path, &hello, None, LONG)
            .await
            .expect("volume session")
    }

    async fn health(&self) -> PoolHealth {
        let mut status = self.manager.status().await;
        status.imported.pop().expect("imported").health
    }

    async fn states(&self) -> Vec<LegState> {
        self.health()
            .await
            .legs
            .into_iter()
            .map(|leg| leg.state)
            .collect()
    }

    /// Waits for an event that fits.
    async fn event(&mut self, what: &str, fits: impl Fn(&PoolEvent) -> bool) -> PoolEvent {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the manager lives");
                if fits(&event) {
                    return event;
                }
            }
        };
        timeout(LONG, wait)
            .await
            .unwrap_or_else(|_| panic!("no event: {what}"))
    }

    /// As a crash: nothing is told to anybody.
    fn kill(self) {
        self.manager.abandon();
    }
}

/// These volumes, and no snapshot.
fn only(volumes: Vec<WantedVolume>) -> Wanted {
    Wanted {
        volumes,
        ..Wanted::default()
    }
}

fn block(fill: u8) -> Bytes {
    vec![fill; 4096].into()
}

async fn put(volume: &Client, index: u64, fill: u8) {
    volume
        .write(index * 8, block(fill), true, Some(Instant::now() + LONG))
        .await
        .expect("write");
}

async fn get(volume: &Client, index: u64) -> u8 {
    let data = volume
        .read(index * 8, 8, Some(Instant::now() + LONG))
        .await
        .expect("read");
    assert!(data.iter().all(|byte| *byte == data[0]), "block {index} is torn");
    data[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_over_in_order() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    let info = volume.info(None).await.expect("info");
    assert_eq!((info.blocks * 512, info.volatile_cache), (VOLUME_BYTES, true));
    for index in 0..64 {
        put(&volume, index * 16, index as u8 + 1).await;
    }
    drop(volume);
    let exported = a
        .manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("export");
    assert!(exported.was_imported);
    assert!(
        !a.manager
            .export(Export { pool: POOL }, LONG)
            .await
            .expect("again")
            .was_imported
    );
    assert!(a.manager.status().await.imported.is_empty());

    let b = array.start(B);
    assert!(b.take(key(B, 1, 2)).await.confirmed);
    b.import(key(B, 1, 2)).await;
    let volume = b.volume().await;
    for index in 0..64 {
        assert_eq!(get(&volume, index * 16).await, index as u8 + 1);
    }
    let seen = a.manager.status().await.seen.pop().expect("a sees the pool");
    assert_eq!(
        (seen.pool, seen.name.as_str(), seen.holder),
        (POOL, "tank", Some(key(B, 1, 2)))
    );
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_import_without_proof() {
    let array = Array::new(2);
    let b = array.start(B);
    let import = b.import_request(key(B, 1, 1));
    let error = b.manager.import(import.clone()).await.expect_err("not taken");
    assert!(
        error.is(Code::Refused) && error.to_string().contains("pool.take"),
        "{error}"
    );

    b.take(key(B, 1, 1)).await;
    let other = Import {
        key: key(B, 1, 2),
        ..import.clone()
    };
    assert!(
        b.manager
            .import(other)
            .await
            .expect_err("another key")
            .is(Code::Refused)
    );
    let error = b
        .manager
        .import(import.clone())
        .await
        .expect_err("blank disks")
        .to_string();
    assert!(error.contains("no label on disk-00, disk-01"), "{error}");
    b.manager
        .import(Import {
            create: true,
            ..import.clone()
        })
        .await
        .expect("create");
    b.manager.import(import).await.expect("it is imported already");
    let stranger = Take {
        pool: POOL,
        disks: b.legs.clone(),
        key: key(A, 1, 9),
        victim: None,
    };
    assert!(
        b.manager
            .take(stranger)
            .await
            .expect_err("a's key at b")
            .is(Code::InvalidParams)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takeover_in_mid_write_loses_nothing() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0_u64;
        for number in 0_u64.. {
            let mut data = vec![0; 4096];
            data[..8].copy_from_slice(&(number + 1).to_le_bytes());
            match volume.write((number % 256) * 8, data.into(), true, None).await {
                Ok(()) => acknowledged = number + 1,
                Err(error) => return (acknowledged, error),
            }
        }
        unreachable!("the takeover ends it")
    });
    timeout(LONG, async {
        while array.raw(0, DATA_AT, 4096).await[0] == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("writes arrive");
    let b = array.start(B);
    let taken = b.take(key(B, 2, 2)).await;
    assert!(taken.confirmed && taken.unfenced.is_empty());
    let event = a
        .event("exclusion lost", |event| {
            matches!(event, PoolEvent::ExclusionLost { .. })
        })
        .await;
    assert!(
        matches!(event, PoolEvent::ExclusionLost { pool: POOL, holder, .. } if holder == Some(key(B, 2, 2))),
        "{event:?}"
    );
    a.manager.observe(&event);
    let (acknowledged, error) = timeout(LONG, writer).await.expect("ends").expect("task");
    assert!(
        matches!(error.status(), Some(Status::NotOwner)) || matches!(error, Error::Disconnected { .. }),
        "{error}"
    );
    b.import(key(B, 2, 2)).await;
    let volume = b.volume().await;
    assert!(acknowledged > 0);
    // Block i holds the last write to it that was acknowledged, or the one that was under way.
    for slot in 0..256_u64.min(acknowledged) {
        let data = volume.read(slot * 8, 8, None).await.expect("read");
        let number = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
        let last = (acknowledged - 1 - slot) / 256 * 256 + slot + 1;
        assert!(
            number == last || number == acknowledged + 1,
            "block {slot}: {number}, acknowledged {last}"
        );
    }
    put(&volume, 0, 7).await;
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_leg_is_recorded_before_the_write_is_acknowledged() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    put(&volume, 0, 1).await;
    array.fault(
        1,
        None,
        DiskFault::Failing {
            reads: false,
            writes: true,
        },
    );
    put(&volume, 0, 2).await;
    // Already now, not some time later: this is what whoever comes after a power cut would find.
    let on_disk = label::read(&a.disks, disk(0))
        .await
        .expect("label")
        .newest(POOL)
        .expect("label");
    assert_eq!(
        on_disk.member(disk(1)).map(|member| member.state),
        Some(label::MemberState::Failed)
    );
    assert_eq!(a.states().await, [LegState::InSync, LegState::Failed]);
    // Its successor need not fence the failed leg, and does not believe it.
    array.fault(1, None, DiskFault::None);
    array.shelf.set_path(B, Some(disk(1)), false).expect("path");
    let b = array.start(B);
    let taken = b.take(key(B, 2, 2)).await;
    assert_eq!((taken.confirmed, taken.unfenced), (true, vec![disk(1)]));
    b.import(key(B, 2, 2)).await;
    assert_eq!(get(&b.volume().await, 0).await, 2);
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_legs_never_call_each_other_failed() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    put(&volume, 0, 1).await;
    // The second leg fails; and while that is being recorded on the first, the first stalls.
    let before = WriteLog::read(array.shelf.log_path()).expect("log").records.len();
    array.fault(
        0,
        Some(A),
        DiskFault::Slow {
            min_ms: 400,
            max_ms: 400,
        },
    );
    array.fault(
        1,
        None,
        DiskFault::Failing {
            reads: false,
            writes: true,
        },
    );
    let write = tokio::spawn({
        let volume = volume.clone();
        async move { volume.write(0, block(2), true, None).await }
    });
    timeout(LONG, async {
        let data_lba = DATA_AT / 512;
        let is_data = |record: &pollux_chassis::shelf::Record| {
            record.disk == disk(0) && record.accepted() && record.lba == data_lba
        };
        while !WriteLog::read(array.shelf.log_path()).expect("log").records[before..]
            .iter()
            .any(is_data)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the data is on the first leg");
    array.fault(0, Some(A), DiskFault::Stuck);
    a.event("suspended", |event| matches!(event, PoolEvent::Suspended { .. }))
        .await;
    // Now the second is well and the first cannot be reached: its label may say that the second has failed.
    array.shelf.set_path(A, Some(disk(0)), false).expect("path");
    array.fault(0, None, DiskFault::None);
    array.fault(1, None, DiskFault::None);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(
        !write.is_finished(),
        "nothing is acknowledged on the second leg alone"
    );
    let b = array.start(B);
    let second = label::read(&b.disks, disk(1))
        .await
        .expect("label")
        .newest(POOL)
        .expect("label");
    assert_eq!(
        second.member(disk(0)).map(|member| member.state),
        Some(label::MemberState::InSync)
    );
    array.shelf.set_path(A, Some(disk(0)), true).expect("path");
    a.event("resumed", |event| matches!(event, PoolEvent::Resumed { .. }))
        .await;
    put(&volume, 0, 3).await;
    assert_eq!(a.states().await, [LegState::InSync, LegState::Failed]);
    assert_eq!(get(&volume, 0).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leg_unfenced_is_no_fence() {
    let array = Array::new(3);
    let a = array.serving().await;
    put(&a.volume().await, 0, 1).await;
    array.shelf.set_path(B, Some(disk(2)), false).expect("path");
    let b = array.start(B);
    let taken = b.take(key(B, 2, 2)).await;
    assert_eq!((taken.confirmed, taken.unfenced), (false, vec![disk(2)]));
    let import = b.import_request(key(B, 2, 2));
    let error = b.manager.import(import.clone()).await.expect_err("not confirmed");
    assert!(
        error.is(Code::Refused) && error.to_string().contains("disk-02"),
        "{error}"
    );

    let report = PowerOff {
        controller: A,
        incarnation: Incarnation::new(1),
        epoch: Epoch::new(1),
    };
    let old = Import {
        power_off: Some(report),
        ..import.clone()
    };
    assert!(
        b.manager
            .import(old)
            .await
            .expect_err("report of an older epoch")
            .is(Code::InvalidParams)
    );
    let own = Import {
        power_off: Some(PowerOff {
            controller: B,
            epoch: Epoch::new(2),
            ..report
        }),
        ..import.clone()
    };
    assert!(
        b.manager
            .import(own)
            .await
            .expect_err("report about oneself")
            .is(Code::InvalidParams)
    );
    // The owner is off, but the leg that cannot be seen may hold what the others do not.
    let good = Import {
        power_off: Some(PowerOff {
            epoch: Epoch::new(2),
            ..report
        }),
        ..import
    };
    let error = b
        .manager
        .import(good.clone())
        .await
        .expect_err("a member is missing")
        .to_string();
    assert!(error.contains("disk-02 is in sync by its label"), "{error}");
    array.shelf.set_path(B, Some(disk(2)), true).expect("path");
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.manager.import(good).await.expect("import");
    assert_eq!(get(&b.volume().await, 0).await, 1);
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_leg_is_never_served() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    put(&volume, 0, 1).await;
    // a loses its path to the first leg and goes on alone on the second.
    array.shelf.set_path(A, Some(disk(0)), false).expect("path");
    put(&volume, 0, 2).await;
    // b sees only the first, whose label calls both in sync.
    array.shelf.set_path(B, Some(disk(1)), false).expect("path");
    let b = array.start(B);
    assert!(!b.take(key(B, 2, 2)).await.confirmed);
    let report = PowerOff {
        controller: A,
        incarnation: Incarnation::new(1),
        epoch: Epoch::new(2),
    };
    let import = Import {
        power_off: Some(report),
        ..b.import_request(key(B, 2, 2))
    };
    let error = b.manager.import(import).await.expect_err("stale").to_string();
    assert!(error.contains("disk-01"), "{error}");
    array.shelf.heal();
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.import(key(B, 2, 2)).await;
    assert_eq!(b.states().await, [LegState::Failed, LegState::InSync]);
    assert_eq!(get(&b.volume().await, 0).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legs_that_a_crash_left_different_give_one_answer() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    for index in 0..8 {
        put(&volume, index, 1).await;
    }
    array.fault(1, Some(A), DiskFault::Stuck);
    let write = tokio::spawn(async move { volume.write(0, block(2), true, None).await });
    timeout(LONG, async {
        while array.raw(0, DATA_AT, 4096).await != block(2) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the write is on the first leg");
    assert_eq!(
        array.raw(1, DATA_AT, 4096).await,
        block(1),
        "and not on the second"
    );
    let b = array.start(B);
    assert!(
        b.take(key(B, 2, 2)).await.confirmed,
        "the stuck command is aborted"
    );
    a.kill();
    write.abort();
    b.import(key(B, 2, 2)).await;
    let answer = get(&b.volume().await, 0).await;
    assert!(
        matches!(answer, 1 | 2),
        "the write was never acknowledged: either is right"
    );
    for slot in 0..2 {
        assert_eq!(
            array.raw(slot, DATA_AT, 4096).await,
            block(answer),
            "leg {slot} after it was read"
        );
    }
    array.fault(
        0,
        None,
        DiskFault::Failing {
            reads: true,
            writes: true,
        },
    );
    assert_eq!(
        get(&b.volume().await, 0).await,
        answer,
        "the other leg says the same"
    );
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_fencer_stops_and_leaves_nothing() {
    let array = Array::new(2);
    let b = array.start(B);
    b.take(key(B, 5, 5)).await;
    b.manager
        .import(Import {
            create: true,
            ..b.import_request(key(B, 5, 5))
        })
        .await
        .expect("create");
    let a = array.start(A);
    for late in [key(A, 4, 9), key(A, 5, 4), key(A, 5, 5)] {
        let error = a.try_take(late).await.expect_err("late");
        assert!(error.is(Code::Superseded), "{error}");
    }
    for slot in 0..2 {
        fence::check(&b.disks, disk(slot), key(B, 5, 5))
            .await
            .expect("as if nobody had tried");
    }
    a.take(key(A, 6, 6)).await;
    assert!(
        b.try_take(key(B, 5, 5)).await.is_err(),
        "what was taken is not taken back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_fencers_at_once_leave_one_owner() {
    for round in 0..10 {
        let array = Array::new(3);
        let (a, b) = (array.start(A), array.start(B));
        let (younger, older) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (young, old) = (key(younger.controller, 2, 2), key(older.controller, 1, 1));
        let (first, second) = tokio::join!(younger.try_take(young), older.try_take(old));
        assert!(first.expect("the younger wins").confirmed);
        if let Ok(taken) = second {
            // It was done before the younger came; the disks know better by now.
            assert!(taken.confirmed);
        }
        for slot in 0..3 {
            fence::check(&younger.disks, disk(slot), young)
                .await
                .expect("alone on every disk");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_pool_that_is_not_imported_is_given_back_whole() {
    let array = Array::new(2);
    let a = array.start(A);
    a.take(key(A, 1, 1)).await;
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("export");
    let session = a.disks.session(disk(0)).await.expect("session");
    let status = session.client.reservation_status(None).await.expect("status");
    assert!(
        status.registrants.is_empty() && status.reservation.is_none(),
        "{status:?}"
    );
    let error = a
        .manager
        .import(a.import_request(key(A, 1, 1)))
        .await
        .expect_err("the proof is gone");
    assert!(error.is(Code::Refused), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cycle_of_the_shelf_holds_commands_and_loses_none() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    for index in 0..32 {
        put(&volume, index, 1).await;
    }
    array.shelf.set_power(false).expect("off");
    let held = tokio::spawn({
        let volume = volume.clone();
        async move { volume.write(0, block(2), true, None).await }
    });
    a.event("suspended", |event| matches!(event, PoolEvent::Suspended { .. }))
        .await;
    assert!(!held.is_finished());
    array.shelf.set_power(true).expect("on");
    timeout(LONG, held)
        .await
        .expect("goes on")
        .expect("task")
        .expect("and is done");
    a.event("resumed", |event| matches!(event, PoolEvent::Resumed { .. }))
        .await;
    assert_eq!(get(&volume, 0).await, 2);
    for index in 1..32 {
        assert_eq!(get(&volume, index).await, 1);
    }
    assert_eq!(
        a.states().await,
        [LegState::InSync; 2],
        "no leg was given up for it"
    );
    array.assert_one_writer();
}

async fn leave(volume: &Client, index: u64, fill: u8) {
    volume
        .write(index * 8, block(fill), false, Some(Instant::now() + LONG))
        .await
        .expect("write");
}

async fn flush(volume: &Client) -> Result<(), Error> {
    volume.flush(Some(Instant::now() + LONG)).await
}

/// What was flushed stands, whatever becomes of the power; what was not is lost with it, and then the next flush says so,
/// once, and both legs say the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_flushed_outlives_the_power_of_the_shelf_and_what_was_not_is_told() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    for index in 0..16 {
        leave(&volume, index, 1).await;
    }
    flush(&volume).await.expect("flushed");
    for index in 0..16 {
        leave(&volume, index, 2).await;
        assert_eq!(get(&volume, index).await, 2);
    }
    array.shelf.set_power(false).expect("off");
    let held = tokio::spawn({
        let volume = volume.clone();
        async move { volume.write(16 * 8, block(3), true, None).await }
    });
    a.event("suspended", |event| matches!(event, PoolEvent::Suspended { .. }))
        .await;
    array.shelf.set_power(true).expect("on");
    let held = timeout(LONG, held).await.expect("goes on").expect("task");
    held.expect("and is done");
    let error = flush(&volume).await.expect_err("lost");
    assert_eq!(error.status(), Some(Status::MediumError), "{error}");
    flush(&volume).await.expect("said once");
    let mut left = Vec::new();
    for index in 0..16 {
        left.push(get(&volume, index).await);
    }
    assert!(left.iter().all(|fill| [1, 2].contains(fill)), "{left:?}");
    for slot in 0..2 {
        for index in 0..16 {
            let raw = array.raw(slot, DATA_AT + index * 4096, 4096).await;
            assert_eq!(raw, block(left[index as usize]), "leg {slot}, block {index}");
        }
    }
    assert_eq!(get(&volume, 16).await, 3);
    array.assert_one_writer();
}

/// A controller that dies takes nothing with it that it had answered, flushed or not; its successor's flush makes it
/// durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_disks_caches_outlives_the_owner() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    for index in 0..16 {
        leave(&volume, index, 4).await;
    }
    a.kill();
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.import(key(B, 2, 2)).await;
    let volume = b.volume().await;
    flush(&volume).await.expect("flushed by the successor");
    array.shelf.set_power(false).expect("off");
    array.shelf.set_power(true).expect("on");
    for index in 0..16 {
        assert_eq!(get(&volume, index).await, 4);
    }
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_reservations_are_never_quietly_taken_again() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    put(&volume, 0, 1).await;
    array.shelf.forget_reservations(None).await.expect("forget");
    let event = a
        .event("exclusion lost", |event| {
            matches!(event, PoolEvent::ExclusionLost { .. })
        })
        .await;
    assert!(
        matches!(event, PoolEvent::ExclusionLost { holder: None, .. }),
        "{event:?}"
    );
    a.manager.observe(&event);
    let error = volume
        .write(0, block(2), true, Some(Instant::now() + LONG))
        .await
        .expect_err("stopped");
    assert!(
        error.status() == Some(Status::NotOwner) || matches!(error, Error::Disconnected { .. }),
        "{error}"
    );
    let session = array.start(B).disks.session(disk(0)).await.expect("session");
    assert!(
        session
            .client
            .reservation_status(None)
            .await
            .expect("status")
            .registrants
            .is_empty()
    );
    // A new claim takes it again.
    assert!(a.take(key(A, 2, 2)).await.confirmed);
    a.import(key(A, 2, 2)).await;
    assert_eq!(get(&a.volume().await, 0).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_disk_says_nothing_about_exclusion() {
    let array = Array::new(2);
    let a = array.serving().await;
    array.fault(
        1,
        None,
        DiskFault::Slow {
            min_ms: 600,
            max_ms: 700,
        },
    );
    tokio::time::sleep(KEY_CHECK * 8).await;
    array.fault(1, None, DiskFault::None);
    put(&a.volume().await, 0, 1).await;
    assert_eq!(a.states().await, [LegState::InSync; 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_adopts_what_its_keys_still_hold() {
    let array = Array::new(2);
    let a = array.serving().await;
    put(&a.volume().await, 3, 9).await;
    a.kill();
    let a = array.start(A);
    a.manager.adopt_all().await.expect("adopt");
    assert_eq!(a.manager.status().await.imported.len(), 1);
    assert_eq!(get(&a.volume().await, 3).await, 9);
    assert!(
        a.take(key(A, 1, 1)).await.confirmed,
        "for heartbeat it was always there"
    );
    // And what somebody else has taken meanwhile it does not touch.
    a.kill();
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.import(key(B, 2, 2)).await;
    let mut a = array.start(A);
    a.manager.adopt_all().await.expect("adopt");
    let event = a
        .event("exclusion lost", |event| {
            matches!(event, PoolEvent::ExclusionLost { .. })
        })
        .await;
    assert!(
        matches!(event, PoolEvent::ExclusionLost { holder, .. } if holder == Some(key(B, 2, 2))),
        "{event:?}"
    );
    assert!(a.manager.status().await.imported.is_empty());
    put(&b.volume().await, 3, 10).await;
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_leg_is_copied_and_then_trusted() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    put(&volume, 0, 1).await;
    array.fault(
        1,
        None,
        DiskFault::Failing {
            reads: true,
            writes: true,
        },
    );
    for index in 0..100 {
        put(&volume, index, 2).await;
    }
    assert_eq!(a.states().await, [LegState::InSync, LegState::Failed]);
    array.fault(1, None, DiskFault::None);
    a.manager
        .resync(Resync {
            pool: POOL,
            disk: disk(1),
        })
        .await
        .expect("resync");
    put(&volume, 50, 3).await;
    timeout(LONG, async {
        while a.states().await != [LegState::InSync; 2] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("in sync again");
    array.fault(
        0,
        None,
        DiskFault::Failing {
            reads: true,
            writes: true,
        },
    );
    put(&volume, 51, 4).await;
    for index in 0..100 {
        let expected = match index {
            50 => 3,
            51 => 4,
            _ => 2,
        };
        assert_eq!(get(&volume, index).await, expected, "block {index}");
    }
    assert_eq!(a.states().await, [LegState::Failed, LegState::InSync]);
    let stranger = a
        .manager
        .resync(Resync {
            pool: POOL,
            disk: disk(7),
        })
        .await
        .expect_err("no member");
    assert!(
        stranger.to_string().contains("disk-07 is not a member"),
        "{stranger}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_follow_the_configuration() {
    let array = Array::new(2);
    let a = array.serving().await;
    let other = VolumeId::from_bytes([6; 16]);
    put(&a.volume().await, 0, 1).await;
    a.reconcile(2, &[VOLUME, other]).await;
    assert_eq!(a.manager.status().await.imported[0].volumes, [VOLUME, other]);
    // An older configuration removes nothing.
    a.reconcile(1, &[]).await;
    assert_eq!(get(&a.volume().await, 0).await, 1);
    let huge = WantedVolume {
        id: VolumeId::from_bytes([7; 16]),
        size_bytes: 1 << 40,
        thin: false,
    };
    let two = [VOLUME, other].map(|id| WantedVolume {
        id,
        size_bytes: VOLUME_BYTES,
        thin: false,
    });
    let errors = a
        .manager
        .reconcile(POOL, 3, &only(vec![two[0], two[1], huge]))
        .await;
    assert!(
        errors.len() == 1 && errors[0].to_string().contains("needs 1099511627776 bytes more"),
        "{errors:?}"
    );
    // Gone, and made again: the space is the same, what stood there is not.
    a.reconcile(4, &[other]).await;
    assert_eq!(a.manager.status().await.imported[0].volumes, [other]);
    a.reconcile(5, &[VOLUME, other]).await;
    assert_eq!(get(&a.volume().await, 0).await, 0);
    // Grown, under an open session.
    let volume = a.volume().await;
    put(&volume, 0, 5).await;
    let grown = WantedVolume {
        id: VOLUME,
        size_bytes: 2 * VOLUME_BYTES,
        thin: false,
    };
    let wanted = only(vec![grown, two[1]]);
    assert!(a.manager.reconcile(POOL, 6, &wanted).await.is_empty());
    assert_eq!(
        volume.info(None).await.expect("info").blocks * 512,
        2 * VOLUME_BYTES
    );
    assert_eq!(
        (get(&volume, 0).await, get(&volume, VOLUME_BYTES / 4096).await),
        (5, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_at_the_edges_of_a_volume() {
    let array = Array::new(2);
    let a = array.serving().await;
    let volume = a.volume().await;
    let last = VOLUME_BYTES / 512;
    let status = |result: Result<_, Error>| result.err().and_then(|error: Error| error.status());
    assert_eq!(
        status(volume.write(last - 1, block(1), true, None).await),
        Some(Status::OutOfRange)
    );
    assert_eq!(
        status(volume.write(u64::MAX, block(1), true, None).await),
        Some(Status::OutOfRange)
    );
    assert_eq!(
        status(volume.write(0, vec![1; 100].into(), true, None).await),
        Some(Status::BadRequest)
    );
    assert_eq!(
        status(volume.read(last, 1, None).await.map(drop)),
        Some(Status::OutOfRange)
    );
    // Across an extent, and across a region of write intents.
    let middle = EXTENT_BYTES / 512 - 4;
    volume.write(middle, block(7), false, None).await.expect("write");
    assert_eq!(volume.read(middle, 8, None).await.expect("read"), block(7));
    let swap = |compare: u8, new: u8| Operation::CompareAndWrite {
        lba: middle,
        compare: block(compare),
        data: block(new),
        fua: true,
    };
    volume.perform(swap(7, 8), None).await.expect("equal");
    let miscompare = volume.perform(swap(7, 9), None).await.expect_err("different");
    assert_eq!(miscompare.status(), Some(Status::Miscompare));
    volume.unmap(middle, 4, None).await.expect("unmap");
    let data = volume.read(middle, 8, None).await.expect("read");
    assert!(data[..2048].iter().all(|byte| *byte == 0) && data[2048..].iter().all(|byte| *byte == 8));
    for slot in 0..2 {
        assert_eq!(
            array.raw(slot, DATA_AT + middle * 512, 4096).await,
            data,
            "leg {slot}"
        );
    }
    // Many at once into the same blocks: the legs agree about who was last.
    let writes: Vec<_> = (0..64_u8)
        .map(|fill| {
            let volume = volume.clone();
            tokio::spawn(async move {
                volume
                    .write(16 + u64::from(fill % 3), block(fill), true, None)
                    .await
            })
        })
        .collect();
    for write in writes {
        write.await.expect("task").expect("write");
    }
    let at = DATA_AT + 16 * 512;
    assert_eq!(array.raw(0, at, 8192).await, array.raw(1, at, 8192).await);
    let reserve = volume
        .perform(Operation::ReservationIn, None)
        .await
        .expect_err("not a host's business");
    assert_eq!(reserve.status(), Some(Status::Unsupported));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_of_another_pool_are_left_alone() {
    let array = Array::new(2);
    let a = array.serving().await;
    let b = array.start(B);
    let other = PoolId::from_bytes([1; 16]);
    let later = |generation| key(A, 2, generation);
    let take = |key| Take {
        pool: other,
        disks: a.legs.clone(),
        key,
        victim: None,
    };
    // No key of another one touches them, wherever they are served and whether or not.
    let error = b.manager.take(take(key(B, 2, 2))).await.expect_err("served by a");
    assert!(
        error.is(Code::Conflict) && error.to_string().contains("label of pool tank"),
        "{error}"
    );
    put(&a.volume().await, 0, 1).await;
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("export");
    let error = a.manager.take(take(later(2))).await.expect_err("occupied");
    assert!(error.is(Code::Conflict), "{error}");
    // Without volumes there is nothing to lose: the disks of a deleted pool can be used again.
    a.take(later(3)).await;
    a.import(later(3)).await;
    a.reconcile(2, &[]).await;
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("export");
    let key = later(4);
    a.manager.take(take(key)).await.expect("take");
    let create = Import {
        pool: other,
        create: true,
        ..a.import_request(key)
    };
    a.manager.import(create).await.expect("create");
    let seen = a.manager.status().await.seen;
    assert_eq!(seen.iter().map(|pool| pool.pool).collect::<Vec<_>>(), [other]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_the_configuration_has_no_more_leaves_disks_for_another() {
    let array = Array::new(2);
    let a = array.serving().await;
    let delete = |within| a.manager.delete(Export { pool: POOL }, within);
    let other = PoolId::from_bytes([1; 16]);
    let later = |generation| key(A, 2, generation);
    let take = |generation| Take {
        pool: other,
        disks: a.legs.clone(),
        key: later(generation),
        victim: None,
    };
    // Nothing is known of the configuration here, and then something that is older than the volumes.
    let refused = delete(Duration::from_millis(100)).await.expect_err("unknown");
    assert!(refused.is(Code::Refused), "{refused}");
    a.manager.learn(0, Tables::default());
    let refused = delete(LONG).await.expect_err("older");
    assert!(refused.is(Code::Superseded), "{refused}");
    let taken = a.manager.take(take(2)).await.expect_err("imported here");
    assert!(
        taken.is(Code::Conflict) && taken.to_string().contains("pool tank"),
        "{taken}"
    );
    // One that was brought back from before the pool was made has no word about its volumes.
    a.manager.learn(9, Tables::default());
    let refused = delete(LONG).await.expect_err("a volume is in it");
    assert!(
        refused.is(Code::Refused) && refused.to_string().contains("1 volumes"),
        "{refused}"
    );
    put(&a.volume().await, 0, 1).await;
    a.reconcile(2, &[]).await;
    assert!(delete(LONG).await.expect("deleted").was_imported);
    assert!(!delete(LONG).await.expect("and again").was_imported);
    for disk in &a.legs {
        let session = a.disks.session(*disk).await.expect("session");
        let status = session.client.reservation_status(None).await.expect("read");
        assert!(status.registrants.is_empty(), "{disk}: {status:?}");
    }
    a.manager.take(take(3)).await.expect("take");
    let create = Import {
        pool: other,
        create: true,
        ..a.import_request(later(3))
    };
    a.manager.import(create).await.expect("made of the same disks");
}

async fn load(volume: &Client) -> Bytes {
    let reply = volume
        .perform(Operation::RecordLoad, Some(Instant::now() + LONG))
        .await;
    reply.expect("a record").payload
}

async fn store(volume: &Client, record: Vec<u8>) -> Result<(), Error> {
    let record = record.into();
    volume
        .perform(Operation::RecordStore { record }, None)
        .await
        .map(drop)
}

/// Longer than a physical block, so that it can be torn; every byte says which it is.
fn record(number: u8) -> Vec<u8> {
    vec![number; 20_000]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_the_old_or_the_new_one_after_a_takeover_in_mid_store() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let volume = a.volume().await;
    assert!(load(&volume).await.is_empty(), "nothing was ever stored");
    store(&volume, record(1)).await.expect("stored");
    assert_eq!(load(&volume).await, record(1));
    put(&volume, 0, 5).await;
    let storing = tokio::spawn(async move {
        let mut acknowledged = 1_u8;
        for number in (2..=250).cycle() {
            match store(&volume, record(number)).await {
                Ok(()) => acknowledged = number,
                Err(_) => return acknowledged,
            }
        }
        unreachable!("the takeover ends it")
    });
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    let lost = |event: &PoolEvent| matches!(event, PoolEvent::ExclusionLost { .. });
    let event = a.event("exclusion lost", lost).await;
    a.manager.observe(&event);
    let acknowledged = timeout(LONG, storing).await.expect("ends").expect("task");
    b.import(key(B, 2, 2)).await;
    let volume = b.volume().await;
    let next = if acknowledged == 250 { 2 } else { acknowledged + 1 };
    let found = load(&volume).await;
    assert!(
        found == record(acknowledged) || found == record(next),
        "{acknowledged}: {:?}",
        found.first()
    );
    assert_eq!(get(&volume, 0).await, 5, "a journal takes no block of the volume");

    // And over a crash of everything: only what is on the disks is left.
    store(&volume, record(251)).await.expect("stored");
    drop(volume);
    b.kill();
    let a = array.start(A);
    let take = Take {
        pool: POOL,
        disks: a.legs.clone(),
        key: key(A, 3, 3),
        victim: Some(B),
    };
    assert!(a.manager.take(take).await.expect("take").confirmed);
    a.import(key(A, 3, 3)).await;
    assert_eq!(load(&a.volume().await).await, record(251));
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_room_is_refused_for_good_and_changes_nothing() {
    let array = Array::new(2);
    let a = array.serving().await;
    let (total, used) = {
        let mut status = a.manager.status().await;
        let pool = status.imported.pop().expect("imported");
        (pool.capacity_bytes, pool.used_bytes)
    };
    let other = VolumeId::from_bytes([6; 16]);
    let wanted = [(VOLUME, VOLUME_BYTES), (other, total - used)];
    let wanted = wanted.map(|(id, size_bytes)| WantedVolume {
        id,
        size_bytes,
        thin: false,
    });
    a.manager.reconcile(POOL, 2, &only(wanted.to_vec())).await;
    let volume = a.volume().await;
    let request = pollux_block_frame::Request::new(Operation::RecordStore {
        record: record(1).into(),
    });
    let reply = volume.call(request, None).await.expect("a reply");
    assert_eq!((reply.status, reply.detail), (Status::NoResources, 1));
    assert!(load(&volume).await.is_empty());
    put(&volume, 3, 9).await;
    assert_eq!(get(&volume, 3).await, 9);
}
