//! The shelf of fakes, asked through the sockets as the other daemons ask.

use crate::config::Disk;
use crate::shelf::{Place, Shelf, World};
use bytes::Bytes;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_block_frame::{
    Client, Error, FullStatus, Hello, Key, Operation, Port, Purpose, Registrant, Reservation, ReservationOut,
    ReservationType, Status,
};
use pollux_platform::fake::scsi::{FakeDisk, FakePort, Model};
use pollux_platform::scsi::command::{ReserveOut, reserve_out};
use pollux_platform::scsi::decode::Wwn;
use pollux_platform::scsi::discover::{Block, Found};
use pollux_platform::scsi::{ScsiDisk, Sharing, decode};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

const ARRAY: ArrayId = ArrayId::from_bytes(*b"enclosure-tests!");
const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
const LIMIT: Duration = Duration::from_secs(60);

fn wwn(number: u64) -> Wwn {
    decode::Wwn::Naa(0x5000_c500_0000_0000 | number)
}

/// What one controller's kernel sees.
#[derive(Clone, Default)]
struct Cables(Arc<Mutex<Vec<(Found, FakePort)>>>);

impl World for Cables {
    fn scan(&self) -> io::Result<Vec<Found>> {
        Ok(self
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(found, _)| found.clone())
            .collect())
    }

    fn open(&self, found: &Found, block: &Block, _: Sharing) -> io::Result<Arc<dyn ScsiDisk>> {
        let cables = self.0.lock().unwrap();
        let named = cables
            .iter()
            .find(|(one, _)| one.block.as_ref() == Some(block) && one.address == found.address);
        let (_, port) = named.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(port.clone()))
    }
}

/// One controller's daemon, without a process.
struct Daemon {
    controller: ControllerId,
    cables: Cables,
    bell: Arc<Notify>,
    directory: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn nexus(controller: ControllerId) -> u16 {
    controller.index() as u16 + 1
}

impl Daemon {
    /// Cabled to some disks, and settled.
    async fn start(controller: ControllerId, disks: &[Disk], cabled: &[&Arc<FakeDisk>]) -> Self {
        let cables = Cables::default();
        for (at, disk) in cabled.iter().enumerate() {
            let found = disk.found(
                &format!("1:0:{at}:0"),
                &format!("sd{}", char::from(b'a' + at as u8)),
            );
            cables
                .0
                .lock()
                .unwrap()
                .push((found, disk.port(nexus(controller))));
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("disk-77.sock"), "of an earlier process").unwrap();
        let place = Place {
            array: ARRAY,
            controller,
            directory: directory.path().to_owned(),
        };
        let mut shelf = Shelf::new(cables.clone(), place, disks).unwrap();
        let mut settled = shelf.settled();
        let (stop, stopped) = oneshot::channel();
        let bell = Arc::new(Notify::new());
        let rung = bell.clone();
        let task = tokio::spawn(async move {
            shelf.run(|| rung.notified(), async { drop(stopped.await) }).await;
        });
        timeout(LIMIT, settled.wait_for(|settled| *settled))
            .await
            .unwrap()
            .unwrap();
        Daemon {
            controller,
            cables,
            bell,
            directory,
            stop,
            task,
        }
    }

    fn socket(&self, slot: u16) -> PathBuf {
        self.directory
            .path()
            .join(format!("{}.sock", DiskIndex::new(slot)))
    }

    fn hello(&self, client: &str) -> Hello {
        Hello {
            array: uuid::Uuid::from_bytes(*ARRAY.as_bytes()),
            port: crate::disk::port_of(self.controller),
            purpose: Purpose::Disk,
            client: client.to_owned(),
            epoch: 0,
            generation: 0,
        }
    }

    async fn client(&self, slot: u16) -> Client {
        Client::connect_unix(&self.socket(slot), &self.hello("test"), None, LIMIT)
            .await
            .unwrap()
    }

    /// Waits until the socket of a slot is there, or not.
    async fn until_served(&self, slot: u16, served: bool) {
        let until = Instant::now() + LIMIT;
        while self.socket(slot).exists() != served {
            assert!(Instant::now() < until, "slot {slot} is never {served}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        drop(self.stop);
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

fn disk(slot: u16, number: u64) -> Disk {
    Disk {
        slot: DiskIndex::new(slot),
        wwn: wwn(number),
        bytes: None,
        quorum: false,
        kernel: false,
    }
}

fn deadline() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

fn filled(byte: u8, blocks: usize) -> Bytes {
    Bytes::from(vec![byte; blocks * 512])
}

fn status<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<Status> {
    result.unwrap_err().status()
}

/// A key as pool-manager writes it.
fn key(controller: ControllerId, claim: u64) -> Key {
    let tag = ARRAY
        .as_bytes()
        .iter()
        .fold(0, |tag, byte| tag ^ u64::from(*byte));
    Key(0xa << 60 | (controller.index() as u64 + 1) << 56 | tag << 48 | 5 << 24 | claim)
}

#[tokio::test]
async fn a_disk_is_read_written_flushed_and_zeroed() {
    let (fake, other) = (
        FakeDisk::new(Model::new(wwn(1))),
        FakeDisk::new(Model::new(wwn(9))),
    );
    let (a, b) = (
        Daemon::start(ControllerId::A, &[disk(4, 1)], &[&fake]).await,
        Daemon::start(ControllerId::B, &[disk(4, 1)], &[&other, &fake]).await,
    );
    assert!(
        !a.socket(77).exists(),
        "a socket of an earlier process is removed"
    );
    let (left, right) = (a.client(4).await, b.client(4).await);
    let info = left.info(deadline()).await.unwrap();
    assert_eq!(
        info,
        right.info(deadline()).await.unwrap(),
        "the same disk through both ports"
    );
    assert_eq!(
        (info.blocks, info.block_size, info.volatile_cache),
        (16384, 512, true)
    );
    assert_eq!(info.id.as_bytes()[..8], 0x5000_c500_0000_0001u64.to_be_bytes());

    left.write(8, filled(1, 8), false, deadline()).await.unwrap();
    assert_eq!(right.read(8, 8, deadline()).await.unwrap(), filled(1, 8));
    left.flush(deadline()).await.unwrap();
    left.write(8, filled(2, 4), false, deadline()).await.unwrap();
    left.write(12, filled(3, 4), true, deadline()).await.unwrap();
    fake.cycle_power();
    let kept = [filled(1, 4), filled(3, 4)].concat();
    assert_eq!(
        right.read(8, 8, deadline()).await.unwrap(),
        kept,
        "what was not flushed went with the power"
    );
    right.unmap(10, 4, deadline()).await.unwrap();
    let zeroed = [filled(1, 2), filled(0, 4), filled(3, 2)].concat();
    assert_eq!(left.read(8, 8, deadline()).await.unwrap(), zeroed);

    for (operation, expected) in [
        (
            Operation::Read {
                lba: 16384,
                blocks: 1,
            },
            Status::OutOfRange,
        ),
        (
            Operation::Read {
                lba: u64::MAX,
                blocks: 2,
            },
            Status::OutOfRange,
        ),
        (
            Operation::Write {
                lba: 16383,
                data: filled(0, 2),
                fua: false,
            },
            Status::OutOfRange,
        ),
        (
            Operation::Write {
                lba: 0,
                data: Bytes::from_static(b"odd"),
                fua: false,
            },
            Status::BadRequest,
        ),
        (
            Operation::Unmap {
                lba: 16380,
                blocks: 9,
            },
            Status::OutOfRange,
        ),
        (Operation::RecordLoad, Status::Unsupported),
        (
            Operation::CompareAndWrite {
                lba: 0,
                compare: filled(0, 9),
                data: filled(1, 9),
                fua: false,
            },
            Status::BadRequest,
        ),
    ] {
        let what = format!("{operation:?}");
        assert_eq!(
            status(left.perform(operation, deadline()).await),
            Some(expected),
            "{what}"
        );
    }
    let mut compare = vec![1; 512];
    compare[77] = 9;
    let swap = |compare: Vec<u8>| Operation::CompareAndWrite {
        lba: 8,
        compare: compare.into(),
        data: filled(7, 1),
        fua: true,
    };
    let reply = left
        .call(pollux_block_frame::Request::new(swap(compare)), deadline())
        .await
        .unwrap();
    assert_eq!((reply.status, reply.detail), (Status::Miscompare, 77));
    left.perform(swap(vec![1; 512]), deadline()).await.unwrap();
    assert_eq!(fake.peek(8 * 512, 512), [7; 512]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn whoever_is_preempted_writes_no_more() {
    for change in [
        |_: &mut Model| (),
        |model: &mut Model| model.rejects_in = [3].into(),
    ] {
        let mut model = Model::new(wwn(1));
        change(&mut model);
        let fake = FakeDisk::new(model);
        let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[&fake]).await;
        let b = Daemon::start(ControllerId::B, &[disk(0, 1)], &[&fake]).await;
        let (left, right) = (a.client(0).await, b.client(0).await);
        let (old, new) = (key(ControllerId::A, 1), key(ControllerId::B, 2));
        let preempt = ReservationOut::Preempt {
            key: new,
            victim: old,
            kind: WERO,
            abort: true,
        };

        let out = |out| left.reservation_out(out, deadline());
        out(ReservationOut::RegisterAndIgnore { new: old }).await.unwrap();
        out(ReservationOut::Reserve { key: old, kind: WERO })
            .await
            .unwrap();
        left.write(0, filled(1, 1), true, deadline()).await.unwrap();
        let conflict = Some(Status::ReservationConflict);
        assert_eq!(
            status(right.write(0, filled(2, 1), true, deadline()).await),
            conflict
        );
        assert_eq!(
            right.read(0, 1, deadline()).await.unwrap(),
            filled(1, 1),
            "everybody reads"
        );

        let out = |out| right.reservation_out(out, deadline());
        assert_eq!(status(out(preempt).await), conflict, "not registered");
        out(ReservationOut::RegisterAndIgnore { new }).await.unwrap();
        out(preempt).await.unwrap();
        let alone = FullStatus {
            generation: 3,
            registrants: vec![Registrant {
                port: Port::B,
                key: new,
            }],
            reservation: Some(Reservation {
                key: new,
                port: Port::B,
                kind: WERO,
            }),
        };
        // Through either port: a's first command since then meets a unit attention, and is sent again.
        assert_eq!(left.reservation_status(deadline()).await.unwrap(), alone);
        assert_eq!(right.reservation_status(deadline()).await.unwrap(), alone);
        assert_eq!(
            status(left.write(0, filled(3, 1), true, deadline()).await),
            conflict
        );
        assert_eq!(status(left.flush(deadline()).await), conflict);
        let wrong = ReservationOut::Release {
            key: new,
            kind: ReservationType::WriteExclusive,
        };
        assert_eq!(status(out(wrong).await), Some(Status::BadRequest));
        let nobody = ReservationOut::Preempt {
            key: new,
            victim: Key(0),
            kind: WERO,
            abort: true,
        };
        assert_eq!(status(out(nobody).await), Some(Status::BadRequest));
        right.write(0, filled(4, 1), true, deadline()).await.unwrap();
        fake.cycle_power();
        assert_eq!(fake.peek(0, 512), [4; 512]);
        let kept = FullStatus {
            generation: 0,
            ..alone
        };
        assert_eq!(
            right.reservation_status(deadline()).await.unwrap(),
            kept,
            "they outlive the power (APTPL)"
        );
        out(ReservationOut::Register {
            current: new,
            new: Key(0),
        })
        .await
        .unwrap();
        assert_eq!(left.reservation_status(deadline()).await.unwrap().registrants, []);
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test]
async fn what_a_disk_cannot_is_refused_and_not_replaced() {
    let mut model = Model::new(wwn(1));
    model.rejects_out = [5].into();
    model.swaps = false;
    let fake = FakeDisk::new(model);
    let quorum = Disk {
        quorum: true,
        kernel: false,
        ..disk(1, 2)
    };
    let voted = FakeDisk::new(Model::new(wwn(2)));
    let a = Daemon::start(ControllerId::A, &[disk(0, 1), quorum], &[&fake, &voted]).await;
    let client = a.client(0).await;
    let mine = key(ControllerId::A, 1);
    client
        .reservation_out(ReservationOut::RegisterAndIgnore { new: mine }, deadline())
        .await
        .unwrap();
    fake.port(9)
        .execute(&reserve_out(ReserveOut::Register, 0, 0, 0x99, false))
        .unwrap();
    let preempt = ReservationOut::Preempt {
        key: mine,
        victim: Key(0x99),
        kind: WERO,
        abort: true,
    };
    let refused = client.reservation_out(preempt, deadline()).await;
    assert_eq!(
        status(refused),
        Some(Status::Unsupported),
        "PREEMPT is no PREEMPT AND ABORT"
    );
    assert_eq!(fake.received(0x5f, 4), 0);
    let swap = Operation::CompareAndWrite {
        lba: 0,
        compare: filled(0, 1),
        data: filled(1, 1),
        fua: false,
    };
    assert_eq!(
        status(client.perform(swap, deadline()).await),
        Some(Status::Unsupported)
    );
    // A stranger's reservation can be cleared from a quorum disk; none can be made, by no way.
    let stranger = |action, key, argument| {
        let out = reserve_out(action, WERO as u8, key, argument, false);
        voted.port(9).execute(&out).unwrap();
    };
    stranger(ReserveOut::Register, 0, 0x99);
    stranger(ReserveOut::Reserve, 0x99, 0);
    let client = a.client(1).await;
    let register = ReservationOut::RegisterAndIgnore { new: mine };
    client.reservation_out(register, deadline()).await.unwrap();
    for abort in [false, true] {
        let preempt = ReservationOut::Preempt {
            key: mine,
            victim: Key(0x99),
            kind: WERO,
            abort,
        };
        let refused = client.reservation_out(preempt, deadline()).await;
        assert_eq!(status(refused), Some(Status::Unsupported));
    }
    let clear = ReservationOut::Clear { key: mine };
    client.reservation_out(clear, deadline()).await.unwrap();
    client
        .reservation_out(ReservationOut::RegisterAndIgnore { new: mine }, deadline())
        .await
        .unwrap();
    let reserve = ReservationOut::Reserve {
        key: mine,
        kind: WERO,
    };
    let refused = client.reservation_out(reserve, deadline()).await;
    assert_eq!(status(refused), Some(Status::Unsupported));
    let left = client.reservation_status(deadline()).await.unwrap();
    assert_eq!((left.registrants.len(), left.reservation), (1, None));
    a.stop().await;
}

#[tokio::test]
async fn only_the_controllers_own_sessions_get_in() {
    let fake = FakeDisk::new(Model::new(wwn(1)));
    let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[&fake]).await;
    for hello in [
        Hello {
            port: Port::B,
            ..a.hello("test")
        },
        Hello {
            array: uuid::Uuid::nil(),
            ..a.hello("test")
        },
    ] {
        Client::connect_unix(&a.socket(0), &hello, None, LIMIT)
            .await
            .unwrap_err();
    }
    a.client(0).await.info(deadline()).await.unwrap();
    a.stop().await;
}

#[tokio::test]
async fn a_newer_session_waits_for_what_is_in_the_kernel_and_nothing_is_begun_after() {
    let fake = FakeDisk::new(Model::new(wwn(1)));
    let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[&fake]).await;
    fake.stall(true);
    let old = a.client(0).await;
    // More than may be in the kernel at a time: the rest wait in their lane.
    let count = crate::disk::DATA_LANE + 8;
    let mut writes = tokio::task::JoinSet::new();
    for at in 0..count {
        let old = old.clone();
        writes.spawn(async move { old.write(at as u64, filled(1, 1), false, None).await });
    }
    let stalled = fake.clone();
    tokio::task::spawn_blocking(move || stalled.wait_for_stalled(crate::disk::DATA_LANE))
        .await
        .unwrap();
    // Reservations have a lane of their own.
    old.reservation_status(deadline()).await.unwrap();
    // The older session ends when the newer one asks to be let in, and that is when its writes fail here.
    let (path, hello) = (a.socket(0), a.hello("test"));
    let newer = tokio::spawn(async move { Client::connect_unix(&path, &hello, None, LIMIT).await.unwrap() });
    while let Some(write) = writes.join_next().await {
        assert!(write.unwrap().is_err(), "nobody hears of the end of these");
    }
    assert!(
        !newer.is_finished(),
        "writes of the older session are in the kernel"
    );
    assert_eq!(fake.peek(0, count * 512), vec![0; count * 512]);
    fake.stall(false);
    let newer = timeout(LIMIT, newer).await.unwrap().unwrap();
    let written = newer.read(0, count as u32, deadline()).await.unwrap();
    let begun = written.chunks(512).filter(|block| block[0] == 1).count();
    assert_eq!(
        begun,
        crate::disk::DATA_LANE,
        "those in the kernel ended, the others were never begun"
    );
    a.stop().await;
}

#[tokio::test]
async fn a_disk_that_goes_takes_its_socket_along_and_comes_back_under_another_name() {
    let fake = FakeDisk::new(Model::new(wwn(1)));
    let other = FakeDisk::new(Model::new(wwn(2)));
    let a = Daemon::start(ControllerId::A, &[disk(0, 1), disk(1, 2)], &[&fake]).await;
    assert!(
        a.socket(0).exists() && !a.socket(1).exists(),
        "what is not there has no socket"
    );
    let client = a.client(0).await;
    client.write(0, filled(1, 1), true, deadline()).await.unwrap();

    fake.cut(1, true);
    assert_eq!(
        status(client.write(0, filled(2, 1), true, deadline()).await),
        Some(Status::NoPath)
    );
    a.cables.0.lock().unwrap().clear();
    a.bell.notify_one();
    a.until_served(0, false).await;
    timeout(LIMIT, client.closed()).await.unwrap();

    // Another disk has its name now.
    fake.cut(1, false);
    {
        let mut cables = a.cables.0.lock().unwrap();
        cables.push((other.found("1:0:0:0", "sda"), other.port(1)));
        cables.push((fake.found("1:0:5:0", "sdx"), fake.port(1)));
    }
    a.bell.notify_one();
    a.until_served(0, true).await;
    a.until_served(1, true).await;
    assert_eq!(
        a.client(0).await.read(0, 1, deadline()).await.unwrap(),
        filled(1, 1)
    );
    assert_eq!(
        a.client(1).await.read(0, 1, deadline()).await.unwrap(),
        filled(0, 1)
    );
    let sockets = [a.socket(0), a.socket(1)];
    a.stop().await;
    assert!(
        sockets.iter().all(|socket| !socket.exists()),
        "a daemon that ends leaves none"
    );
}

/// D5: two paths from one controller, one of them fails.
#[tokio::test]
async fn the_other_path_goes_on_with_the_registration_of_the_first() {
    let fake = FakeDisk::new(Model::new(wwn(1)));
    let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[&fake]).await;
    let b = Daemon::start(ControllerId::B, &[disk(0, 1)], &[&fake]).await;
    let second = (fake.found("2:0:0:0", "sdq"), fake.port(11));
    a.cables.0.lock().unwrap().push(second);
    let (old, new) = (key(ControllerId::A, 1), key(ControllerId::B, 2));
    let first = a.client(0).await;
    for out in [
        ReservationOut::RegisterAndIgnore { new: old },
        ReservationOut::Reserve { key: old, kind: WERO },
    ] {
        first.reservation_out(out, deadline()).await.unwrap();
    }
    first.write(0, filled(1, 1), true, deadline()).await.unwrap();
    // The kernel leaves the device where it is and says that it is offline.
    fake.cut(1, true);
    a.cables.0.lock().unwrap()[0].0.state = "transport-offline".to_owned();
    a.bell.notify_one();
    timeout(LIMIT, first.closed()).await.unwrap();
    a.until_served(0, true).await;
    let over_second = a.client(0).await;
    over_second
        .write(1, filled(2, 1), true, deadline())
        .await
        .unwrap();
    let status_now = over_second.reservation_status(deadline()).await.unwrap();
    assert_eq!(status_now.registrants.len(), 1, "{status_now:?}");
    // What comes late over the path before is refused, wherever it waited.
    fake.cut(1, false);
    let raw = fake.port(1);
    assert!(raw.write(0, &filled(3, 1), true).is_err());
    let partner = b.client(0).await;
    let conflict = Some(Status::ReservationConflict);
    assert_eq!(
        status(partner.write(2, filled(9, 1), true, deadline()).await),
        conflict
    );

    // Whoever fences the controller fences both of its paths.
    for out in [
        ReservationOut::RegisterAndIgnore { new },
        ReservationOut::Preempt {
            key: new,
            victim: old,
            kind: WERO,
            abort: true,
        },
    ] {
        partner.reservation_out(out, deadline()).await.unwrap();
    }
    assert_eq!(
        status(over_second.write(1, filled(3, 1), true, deadline()).await),
        conflict
    );
    assert!(
        raw.write(0, &filled(3, 1), true).is_err(),
        "nor by the first path"
    );
    // And a path that comes back then inherits nothing.
    a.cables.0.lock().unwrap()[0].0.state = "running".to_owned();
    a.cables.0.lock().unwrap().remove(1);
    a.bell.notify_one();
    timeout(LIMIT, over_second.closed()).await.unwrap();
    a.until_served(0, true).await;
    let back = a.client(0).await;
    assert_eq!(
        status(back.write(0, filled(3, 1), true, deadline()).await),
        conflict
    );
    assert_eq!(
        back.reservation_status(deadline())
            .await
            .unwrap()
            .registrants
            .len(),
        1
    );
    assert_eq!(fake.peek(0, 1024), [[1; 512], [2; 512]].concat());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_path_does_not_serve_before_the_one_before_it_is_ended() {
    let model = Model {
        rejects_out: [5].into(),
        ..Model::new(wwn(1))
    };
    let fake = FakeDisk::new(model);
    let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[&fake]).await;
    let key = key(ControllerId::A, 1);
    let first = a.client(0).await;
    for out in [
        ReservationOut::RegisterAndIgnore { new: key },
        ReservationOut::Reserve { key, kind: WERO },
    ] {
        first.reservation_out(out, deadline()).await.unwrap();
    }
    fake.cut(1, true);
    {
        let mut cables = a.cables.0.lock().unwrap();
        cables[0].0.state = "transport-offline".to_owned();
        cables.push((fake.found("2:0:0:0", "sdq"), fake.port(11)));
    }
    a.bell.notify_one();
    timeout(LIMIT, first.closed()).await.unwrap();
    let asked = Instant::now() + LIMIT;
    // Refused, and tried again without having been called.
    while fake.received(0x5f, 5) < 2 {
        assert!(Instant::now() < asked, "it is not tried again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!a.socket(0).exists());
    a.stop().await;
}

#[tokio::test]
async fn a_disk_that_is_not_what_its_node_says_is_not_served_until_it_is() {
    let (right, wrong) = (
        FakeDisk::new(Model::new(wwn(1))),
        FakeDisk::new(Model::new(wwn(2))),
    );
    let a = Daemon::start(ControllerId::A, &[disk(0, 1)], &[]).await;
    // sysfs still shows the one, the node leads to the other.
    a.cables
        .0
        .lock()
        .unwrap()
        .push((right.found("1:0:0:0", "sda"), wrong.port(1)));
    a.bell.notify_one();
    let asked = Instant::now() + LIMIT;
    while wrong.received(0x12, 0) == 0 {
        assert!(Instant::now() < asked, "it is never asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!a.socket(0).exists());
    a.cables.0.lock().unwrap()[0].1 = right.port(1);
    // Nobody rings: what is not served is looked at again all the same.
    a.until_served(0, true).await;
    a.stop().await;
}
