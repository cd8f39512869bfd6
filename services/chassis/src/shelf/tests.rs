//! The shelf over real sockets and files.

use super::*;
use pollux_block_frame::{
    Client, Error, Hello, Key, Operation, Port, ReservationOut, ReservationType, Status,
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const ARRAY: ArrayId = ArrayId::from_bytes(*b"shelf-test-array");
const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
const LONG: Duration = Duration::from_secs(10);
const D0: DiskIndex = DiskIndex::new(0);
const KA: Key = Key(0xa1);
const KB: Key = Key(0xb1);

struct Bench {
    dir: tempfile::TempDir,
    shelf: Shelf,
}

fn layout() -> Layout {
    Layout {
        array: ARRAY,
        data_disks: 2,
        data_bytes: 16 << 20,
        quorum_disks: 1,
        quorum_bytes: 1 << 20,
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        Shelf::create(&dir.path().join("shelf"), &layout()).expect("create");
        Self::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let shelf = Shelf::open(&dir.path().join("shelf"), Some(ARRAY), 7).expect("open");
        for controller in ControllerId::ALL {
            shelf
                .serve(controller, &dir.path().join(controller.as_str()))
                .expect("serve");
        }
        Bench { dir, shelf }
    }

    async fn log_in(&self, controller: ControllerId, disk: u16, client: &str) -> Result<Client, Error> {
        let hello = Hello {
            array: Uuid::from_bytes(*ARRAY.as_bytes()),
            port: if controller == ControllerId::A {
                Port::A
            } else {
                Port::B
            },
            purpose: Purpose::Disk,
            client: client.to_owned(),
            epoch: 0,
            generation: 0,
        };
        let path = self
            .dir
            .path()
            .join(controller.as_str())
            .join(socket_name(DiskIndex::new(disk)));
        Client::connect_unix(&path, &hello, None, LONG).await
    }

    async fn client(&self, controller: ControllerId, disk: u16) -> Client {
        self.log_in(controller, disk, "test").await.expect("session")
    }

    fn log(&self) -> WriteLog {
        WriteLog::read(self.shelf.log_path()).expect("write log")
    }
}

fn data(fill: u8, blocks: usize) -> bytes::Bytes {
    vec![fill; blocks * BLOCK_SIZE as usize].into()
}

async fn own(client: &Client, key: Key) {
    client
        .reservation_out(ReservationOut::RegisterAndIgnore { new: key }, None)
        .await
        .expect("register");
    client
        .reservation_out(ReservationOut::Reserve { key, kind: WERO }, None)
        .await
        .expect("reserve");
}

async fn write_status(client: &Client, lba: u64, fill: u8) -> Option<Status> {
    client
        .write(lba, data(fill, 1), true, Some(Instant::now() + LONG))
        .await
        .err()
        .map(|error| {
            error
                .status()
                .unwrap_or_else(|| panic!("the disk answers: {error}"))
        })
}

#[tokio::test]
async fn both_ports_show_one_disk() {
    let bench = Bench::new();
    let (a, b) = (
        bench.client(ControllerId::A, 0).await,
        bench.client(ControllerId::B, 0).await,
    );
    let info = a.info(None).await.expect("info");
    assert_eq!(info, b.info(None).await.expect("info"));
    assert_eq!(
        (info.block_size, info.physical_block_size, info.blocks),
        (512, 4096, (16 << 20) / 512)
    );
    a.write(3, data(5, 2), true, None).await.expect("write");
    assert_eq!(b.read(3, 2, None).await.expect("read"), data(5, 2));
    b.unmap(3, 1, None).await.expect("unmap");
    assert_eq!(a.read(3, 1, None).await.expect("read"), data(0, 1));
    for (lba, blocks) in [(info.blocks, 1), (u64::MAX, 1), (info.blocks - 1, 2)] {
        let error = a.read(lba, blocks, None).await.expect_err("beyond the end");
        assert_eq!(error.status(), Some(Status::OutOfRange), "{lba}+{blocks}");
    }
    let half = a
        .write(0, vec![0; 100].into(), true, None)
        .await
        .expect_err("not whole blocks");
    assert_eq!(half.status(), Some(Status::BadRequest));
}

#[tokio::test]
async fn compare_and_write_is_one_step() {
    let bench = Bench::new();
    let a = bench.client(ControllerId::A, 0).await;
    let swap = |compare: u8, new: u8| Operation::CompareAndWrite {
        lba: 1,
        compare: data(compare, 1),
        data: data(new, 1),
        fua: true,
    };
    a.perform(swap(0, 9), None).await.expect("equal");
    let error = a.perform(swap(0, 8), None).await.expect_err("different");
    assert!(
        matches!(
            error,
            Error::Status {
                status: Status::Miscompare,
                detail: 0,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(a.read(1, 1, None).await.expect("read"), data(9, 1));
}

#[tokio::test]
async fn preempt_and_abort_drains_the_victim() {
    let bench = Bench::new();
    let (a, b) = (
        bench.client(ControllerId::A, 0).await,
        bench.client(ControllerId::B, 0).await,
    );
    own(&a, KA).await;
    assert_eq!(write_status(&b, 0, 1).await, Some(Status::ReservationConflict));
    bench
        .shelf
        .set_fault(D0, Some(ControllerId::A), DiskFault::Stuck)
        .expect("fault");
    let late = tokio::spawn({
        let a = a.clone();
        async move { a.write(0, data(1, 1), true, None).await }
    });
    timeout(LONG, async {
        while bench.shelf.disks[0].waiting() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the victim's write is at the disk");
    b.reservation_out(ReservationOut::RegisterAndIgnore { new: KB }, None)
        .await
        .expect("register");
    let preempt = ReservationOut::Preempt {
        key: KB,
        victim: KA,
        kind: WERO,
        abort: true,
    };
    b.reservation_out(preempt, None).await.expect("preempt");
    b.write(0, data(2, 1), true, None)
        .await
        .expect("the new owner writes");
    bench.shelf.set_fault(D0, None, DiskFault::None).expect("heal");
    let error = timeout(LONG, late)
        .await
        .expect("answered")
        .expect("task")
        .expect_err("aborted");
    assert_eq!(error.status(), Some(Status::Aborted), "{error}");
    assert_eq!(b.read(0, 1, None).await.expect("read"), data(2, 1));
    let status = b.reservation_status(None).await.expect("status");
    assert_eq!(status.registrants.len(), 1);
    assert_eq!(
        status.reservation.map(|held| (held.key, held.port)),
        Some((KB, Port::B))
    );
    assert_eq!(write_status(&a, 0, 3).await, Some(Status::ReservationConflict));
    assert_eq!(bench.log().second_writers(&[D0]), []);
}

#[tokio::test]
async fn a_newer_session_never_meets_its_own_past() {
    let bench = Bench::new();
    let old = bench.client(ControllerId::A, 0).await;
    bench.shelf.set_fault(D0, None, DiskFault::Stuck).expect("fault");
    let write = tokio::spawn(async move { old.write(0, data(1, 1), true, None).await });
    timeout(LONG, async {
        while bench.shelf.disks[0].waiting() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the older session's write is at the disk");
    let new = timeout(LONG, bench.client(ControllerId::A, 0))
        .await
        .expect("let in");
    let error = write.await.expect("task").expect_err("its session is over");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    bench.shelf.set_fault(D0, None, DiskFault::None).expect("heal");
    assert_eq!(
        new.read(0, 1, None).await.expect("read"),
        data(0, 1),
        "the older write never takes effect"
    );
    let other = bench
        .log_in(ControllerId::A, 0, "somebody else")
        .await
        .expect("session");
    new.info(None)
        .await
        .expect("another program on the same controller ends nothing");
    other.info(None).await.expect("info");
}

#[tokio::test]
async fn power_cut_loses_what_was_not_flushed_and_nothing_else() {
    let bench = Bench::new();
    let a = bench.client(ControllerId::A, 0).await;
    let pages = 64;
    for page in 0..pages {
        a.write(page * 8, data(1, 8), false, None).await.expect("write");
    }
    a.flush(None).await.expect("flush");
    for page in 0..pages {
        a.write(page * 8, data(2, 8), false, None).await.expect("write");
    }
    // A forced write into a dirty page is durable even if the rest of the page is lost.
    a.write(1, data(3, 1), true, None).await.expect("write");
    bench.shelf.set_power(false).expect("off");
    timeout(LONG, a.closed()).await.expect("the session ends");
    let refused = bench
        .log_in(ControllerId::A, 0, "test")
        .await
        .expect_err("no power");
    assert_eq!(refused.status(), Some(Status::NotReady));
    bench.shelf.set_power(true).expect("on");
    let a = bench.client(ControllerId::A, 0).await;
    let after = a.read(0, pages as u32 * 8, None).await.expect("read");
    assert_eq!(after[512], 3, "forced unit access");
    let fills: Vec<u8> = (1..pages as usize).map(|page| after[page * 4096]).collect();
    for (page, chunk) in after.chunks(4096).enumerate().skip(1) {
        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "page {page} is torn");
    }
    assert!(fills.iter().all(|fill| matches!(fill, 1 | 2)), "{fills:?}");
    assert!(
        fills.contains(&1) && fills.contains(&2),
        "some are lost, some are not: {fills:?}"
    );
}

#[tokio::test]
async fn reservations_survive_power_and_process() {
    let bench = Bench::new();
    let a = bench.client(ControllerId::A, 0).await;
    own(&a, KA).await;
    let before = a.reservation_status(None).await.expect("status");
    bench.shelf.set_power(false).expect("off");
    bench.shelf.set_power(true).expect("on");
    let b = bench.client(ControllerId::B, 0).await;
    assert_eq!(b.reservation_status(None).await.expect("status"), before);
    let Bench { dir, shelf } = bench;
    drop(shelf);
    let bench = Bench::open(dir);
    let b = bench.client(ControllerId::B, 0).await;
    assert_eq!(b.reservation_status(None).await.expect("status"), before);
    assert_eq!(write_status(&b, 0, 1).await, Some(Status::ReservationConflict));
    bench.shelf.forget_reservations(Some(D0)).await.expect("forget");
    assert_eq!(write_status(&b, 0, 1).await, None, "nobody holds it any more");
}

#[tokio::test]
async fn a_pulled_cable_ends_one_path() {
    let bench = Bench::new();
    let (a, b) = (
        bench.client(ControllerId::A, 0).await,
        bench.client(ControllerId::B, 0).await,
    );
    let other_disk = bench.client(ControllerId::A, 1).await;
    assert!(
        bench
            .shelf
            .set_path(ControllerId::A, Some(D0), false)
            .expect("pull")
    );
    timeout(LONG, a.closed()).await.expect("the session ends");
    let refused = bench
        .log_in(ControllerId::A, 0, "test")
        .await
        .expect_err("no path");
    assert_eq!(refused.status(), Some(Status::NoPath));
    b.write(0, data(1, 1), true, None)
        .await
        .expect("the other path is whole");
    other_disk.info(None).await.expect("the other disk too");
    assert!(
        !bench
            .shelf
            .set_path(ControllerId::A, Some(D0), false)
            .expect("pull"),
        "it was out already"
    );
    bench.shelf.heal();
    bench.client(ControllerId::A, 0).await;
}

#[tokio::test]
async fn faults() {
    let bench = Bench::new();
    let a = bench.client(ControllerId::A, 0).await;
    let fault = |fault| bench.shelf.set_fault(D0, None, fault).expect("fault");
    let heal = || fault(DiskFault::None);
    a.write(0, data(1, 4), true, None).await.expect("write");

    fault(DiskFault::Failing {
        reads: true,
        writes: false,
    });
    assert_eq!(
        a.read(0, 1, None).await.expect_err("fails").status(),
        Some(Status::MediumError)
    );
    assert_eq!(write_status(&a, 8, 1).await, None);
    heal();
    fault(DiskFault::Failing {
        reads: false,
        writes: true,
    });
    assert_eq!(write_status(&a, 0, 9).await, Some(Status::MediumError));
    assert_eq!(
        a.flush(None).await.expect_err("fails").status(),
        Some(Status::MediumError)
    );
    heal();
    fault(DiskFault::ReadOnly);
    assert_eq!(write_status(&a, 0, 9).await, Some(Status::WriteProtected));
    heal();
    assert_eq!(
        a.read(0, 4, None).await.expect("read"),
        data(1, 4),
        "none of them wrote"
    );

    fault(DiskFault::TornWrite);
    let torn = a.write(0, data(2, 4), true, None).await.expect_err("torn");
    assert_eq!(torn.status(), Some(Status::MediumError));
    assert!(!torn.nothing_was_done());
    let after = a.read(0, 4, None).await.expect("read");
    assert_eq!((after[0], after[4 * 512 - 1]), (2, 1), "a prefix was written");

    fault(DiskFault::LostWrite);
    a.write(0, data(3, 4), true, None).await.expect("acknowledged");
    assert_eq!(a.read(0, 4, None).await.expect("read"), after, "and lost");

    fault(DiskFault::MisdirectedWrite);
    a.write(0, data(4, 4), true, None).await.expect("acknowledged");
    let flags: Vec<u8> = bench
        .log()
        .records
        .iter()
        .map(|record| record.flags & !FLAG_FUA)
        .collect();
    assert_eq!(flags[flags.len() - 3..], [FLAG_TORN, FLAG_LOST, FLAG_MISDIRECTED]);

    fault(DiskFault::Slow {
        min_ms: 30,
        max_ms: 40,
    });
    assert_eq!(bench.shelf.disks()[0].faults, ["slow (30-40 ms)"]);
    let began = Instant::now();
    a.read(0, 1, None).await.expect("read");
    assert!(began.elapsed() >= Duration::from_millis(30));
    heal();
    assert_eq!(bench.shelf.disks()[0].faults, [""; 0]);
    let nowhere = bench
        .shelf
        .set_fault(DiskIndex::new(9), None, DiskFault::Stuck)
        .expect_err("no such disk");
    assert_eq!(
        nowhere.to_string(),
        "shelf: no disk-09; this shelf has disk-00 to disk-02"
    );
}

#[tokio::test]
async fn a_fault_through_one_port_spares_the_other() {
    let bench = Bench::new();
    let (a, b) = (
        bench.client(ControllerId::A, 0).await,
        bench.client(ControllerId::B, 0).await,
    );
    let both = DiskFault::Failing {
        reads: true,
        writes: true,
    };
    bench
        .shelf
        .set_fault(D0, Some(ControllerId::A), both)
        .expect("fault");
    assert_eq!(write_status(&a, 0, 1).await, Some(Status::MediumError));
    assert_eq!(write_status(&b, 0, 1).await, None);
    assert_eq!(
        bench.shelf.disks()[0].faults,
        ["reads fail through port a", "writes fail through port a"]
    );
}

#[tokio::test]
async fn quorum_disks_take_no_reservation_and_ports_no_stranger() {
    let bench = Bench::new();
    let quorum = bench.client(ControllerId::A, 2).await;
    let register = ReservationOut::RegisterAndIgnore { new: KA };
    let error = quorum.reservation_out(register, None).await.expect_err("refused");
    assert_eq!(error.status(), Some(Status::Unsupported));
    let path = bench.dir.path().join("a").join(socket_name(D0));
    let stranger = Hello {
        array: Uuid::from_bytes(*ARRAY.as_bytes()),
        port: Port::B,
        purpose: Purpose::Disk,
        client: "test".to_owned(),
        epoch: 0,
        generation: 0,
    };
    let error = Client::connect_unix(&path, &stranger, None, LONG)
        .await
        .expect_err("b at a's port");
    assert_eq!(error.status(), Some(Status::Unauthorized));
}

#[tokio::test]
async fn the_log_shows_a_second_writer() {
    let bench = Bench::new();
    let (a, b) = (
        bench.client(ControllerId::A, 0).await,
        bench.client(ControllerId::B, 0).await,
    );
    own(&a, KA).await;
    a.write(0, data(1, 1), true, None).await.expect("write");
    assert_eq!(write_status(&b, 0, 2).await, Some(Status::ReservationConflict));
    assert_eq!(
        bench.log().second_writers(&[D0]),
        [],
        "a write that was turned away is no second writer"
    );
    // A registrant may write without holding the reservation: exactly what must never happen to a pool.
    b.reservation_out(ReservationOut::RegisterAndIgnore { new: KB }, None)
        .await
        .expect("register");
    b.write(5, data(2, 1), true, None).await.expect("write");
    let log = bench.log();
    let breaches = log.second_writers(&[D0]);
    assert_eq!(breaches.len(), 1);
    let breach = breaches[0];
    assert_eq!(
        (
            breach.port,
            breach.key,
            breach.holder,
            breach.lba,
            breach.data_crc
        ),
        (Some(ControllerId::B), KB, KA, 5, crc32c::crc32c(&data(2, 1)))
    );
    assert_eq!(log.second_writers(&[DiskIndex::new(1)]), [], "of another pool");
    assert!(log.records.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
}

#[tokio::test]
async fn the_log_goes_on_after_a_kill() {
    let bench = Bench::new();
    let a = bench.client(ControllerId::A, 0).await;
    a.write(0, data(1, 1), true, None).await.expect("write");
    let Bench { dir, shelf } = bench;
    let path = shelf.log_path().to_owned();
    drop(shelf);
    let whole = std::fs::read(&path).expect("read");
    std::fs::write(&path, &whole[..whole.len() - 10]).expect("a record cut short");
    let bench = Bench::open(dir);
    let a = bench.client(ControllerId::A, 0).await;
    a.write(1, data(1, 1), true, None).await.expect("write");
    let log = bench.log();
    assert_eq!(log.records.len(), 1);
    assert_eq!((log.records[0].sequence, log.records[0].lba), (1, 1));
    let mut damaged = whole.clone();
    damaged[70] ^= 1;
    let other = bench.dir.path().join("damaged.log");
    std::fs::write(&other, damaged).expect("write");
    let error = WriteLog::read(&other).expect_err("damaged");
    assert!(matches!(error, LogError::Damaged { offset: 64, .. }), "{error}");
}

#[test]
fn layouts_that_no_shelf_has() {
    let dir = tempfile::tempdir().expect("directory");
    let refused = |layout: Layout| {
        Shelf::create(dir.path(), &layout)
            .expect_err("refused")
            .to_string()
    };
    assert_eq!(
        refused(Layout {
            quorum_disks: 2,
            ..layout()
        }),
        "shelf: number of quorum disks 2: 1, 3 or 5 have a majority"
    );
    assert!(
        refused(Layout {
            data_disks: 0,
            ..layout()
        })
        .contains("1 to 64")
    );
    assert!(
        refused(Layout {
            data_bytes: 12345,
            ..layout()
        })
        .contains("12345: a multiple of 4096")
    );
    assert!(
        refused(Layout {
            quorum_bytes: 0,
            ..layout()
        })
        .contains("size of a quorum disk 0")
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("list").count(),
        0,
        "nothing was made"
    );
}

/// What is wrong with a file, and what the message says. Each row starts from a whole shelf.
#[test]
fn damaged_shelves_are_named_and_left_alone() {
    type Damage = fn(&Path);
    let rows: &[(&str, Damage, &str)] = &[
        (
            "no description",
            |dir| std::fs::remove_file(dir.join("shelf.json")).expect("rm"),
            "shelf.json",
        ),
        (
            "not JSON",
            |dir| std::fs::write(dir.join("shelf.json"), "{").expect("write"),
            "not a shelf's description",
        ),
        (
            "edited",
            |dir| {
                let text = std::fs::read_to_string(dir.join("shelf.json")).expect("read");
                std::fs::write(dir.join("shelf.json"), text.replace("16777216", "16777217")).expect("write");
            },
            "damaged or edited",
        ),
        (
            "disk missing",
            |dir| std::fs::remove_file(dir.join("disk-01.img")).expect("rm"),
            "disk-01.img",
        ),
        (
            "image cut short",
            |dir| {
                let file = std::fs::File::options()
                    .write(true)
                    .open(dir.join("disk-01.img"))
                    .expect("open");
                file.set_len(1 << 20).expect("truncate");
            },
            "1048576 bytes, but disk-01 has 16781312",
        ),
        (
            "image shorter than its header",
            |dir| std::fs::write(dir.join("disk-00.img"), "x").expect("write"),
            "1 bytes, too short",
        ),
        (
            "image header damaged",
            |dir| {
                let mut bytes = std::fs::read(dir.join("disk-00.img")).expect("read");
                bytes[30] ^= 1;
                std::fs::write(dir.join("disk-00.img"), bytes).expect("write");
            },
            "or is damaged",
        ),
        (
            "images swapped",
            |dir| {
                std::fs::rename(dir.join("disk-00.img"), dir.join("x")).expect("mv");
                std::fs::rename(dir.join("disk-01.img"), dir.join("disk-00.img")).expect("mv");
                std::fs::rename(dir.join("x"), dir.join("disk-01.img")).expect("mv");
            },
            "is the image of another disk (slot 1); here stands disk-00",
        ),
        (
            "reservations damaged",
            |dir| std::fs::write(dir.join("disk-00.pr"), "PLXPRST1....").expect("write"),
            "not a file of reservations",
        ),
        (
            "foreign image",
            |dir| {
                let other = dir.join("other");
                let array = ArrayId::from_bytes(*b"some-other-array");
                Shelf::create(&other, &Layout { array, ..layout() }).expect("create");
                std::fs::copy(other.join("disk-00.img"), dir.join("disk-00.img")).expect("cp");
            },
            "belongs to array 736f6d65-2d6f-7468-6572-2d6172726179, not to",
        ),
        (
            "foreign log",
            |dir| {
                let other = dir.join("other");
                let array = ArrayId::from_bytes(*b"some-other-array");
                Shelf::create(&other, &Layout { array, ..layout() }).expect("create");
                drop(Shelf::open(&other, None, 0).expect("open"));
                std::fs::copy(other.join(WRITE_LOG), dir.join(WRITE_LOG)).expect("cp");
            },
            "belongs to array 736f6d65",
        ),
    ];
    for (row, damage, says) in rows {
        let dir = tempfile::tempdir().expect("directory");
        Shelf::create(dir.path(), &layout()).expect("create");
        damage(dir.path());
        let error = Shelf::open(dir.path(), Some(ARRAY), 0)
            .expect_err(row)
            .to_string();
        assert!(error.contains(says), "{row}: {error}");
    }
}

#[test]
fn one_shelf_per_directory() {
    let dir = tempfile::tempdir().expect("directory");
    Shelf::create(dir.path(), &layout()).expect("create");
    let again = Shelf::create(dir.path(), &layout())
        .expect_err("exists")
        .to_string();
    assert!(again.contains("exists already"), "{again}");
    let first = Shelf::open(dir.path(), None, 0).expect("open");
    let error = Shelf::open(dir.path(), None, 0).expect_err("busy").to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(first);
    Shelf::open(dir.path(), None, 0).expect("free again");
    let other = ArrayId::from_bytes(*b"some-other-array");
    let error = Shelf::open(dir.path(), Some(other), 0)
        .expect_err("another array")
        .to_string();
    assert!(error.contains("belongs to array"), "{error}");
}
