//! The rules of reservations, on SCSI disks.

use pollux_api::error::Code;
use pollux_api::id::ControllerId;
use pollux_api::pool::{ClearKey, Export, ReservationKey};
use pollux_appliance::{Array, LONG, POOL, key, nexus, raw, registered, second, slot};
use pollux_block_frame::{Error, Status};
use pollux_platform::fake::scsi::{FakeDisk, FakePort, Nexus};
use pollux_platform::scsi::command::{Command, ReserveOut, reserve_out};
use pollux_platform::scsi::{Buffer, ScsiDisk, ScsiError, run};
use pollux_pool_manager::label::DATA_AT;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;
/// TYPE: write exclusive, registrants only.
const WERO: u8 = 5;
/// PERSISTENT RESERVE OUT.
const OUT: u8 = 0x5f;

/// What stands on a disk that one key holds alone.
fn alone(key: ReservationKey) -> (Vec<u64>, Option<(u64, u8)>) {
    (vec![raw(key)], Some((raw(key), WERO)))
}

fn stopped(result: Result<(), Error>) {
    let error = result.expect_err("the pool is stopped");
    assert!(
        error.status() == Some(Status::NotOwner) || matches!(error, Error::Disconnected { .. }),
        "{error}"
    );
}

/// A stranger does something at a disk.
fn out(disk: &Arc<FakeDisk>, at: Nexus, action: ReserveOut, kind: u8, key: u64, argument: u64) {
    run(&disk.port(at), &reserve_out(action, kind, key, argument, true)).expect("the disk does it");
}

/// A path over which a registration waits for those at the other disks.
struct Together {
    port: FakePort,
    all: Arc<(Mutex<usize>, Condvar)>,
    wanted: usize,
}

impl ScsiDisk for Together {
    fn volatile_cache(&self) -> bool {
        self.port.volatile_cache()
    }

    fn execute(&self, command: &Command) -> Result<Vec<u8>, ScsiError> {
        if command.cdb()[..2] == [OUT, ReserveOut::RegisterAndIgnore as u8] {
            let (count, changed) = &*self.all;
            let mut count = count.lock().expect("the others are well");
            *count += 1;
            changed.notify_all();
            let wait =
                changed.wait_timeout_while(count, Duration::from_secs(3), |count| *count < self.wanted);
            let (_count, waited) = wait.expect("the others are well");
            if waited.timed_out() {
                let source = io::Error::other("the other disks were not asked");
                return Err(ScsiError::Io {
                    command: command.name(),
                    source,
                });
            }
        }
        self.port.execute(command)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        self.port.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        self.port.write(offset, data, durable)
    }

    fn flush(&self) -> io::Result<()> {
        self.port.flush()
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.port.zero(offset, length)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_disk_is_taken_at_once_and_read_back_with_the_owner_alone() {
    const LEGS: usize = 4;
    let all = Arc::new((Mutex::new(0), Condvar::new()));
    let wrap = Arc::new(move |port: FakePort| {
        let all = all.clone();
        let path = Together {
            port,
            all,
            wanted: LEGS,
        };
        Arc::new(path) as Arc<dyn ScsiDisk>
    });
    let array = Array::with(LEGS, |_| (), wrap).await;
    let a = array.start(A);
    let taken = a.take(key(A, 1, 1)).await.expect("take");
    assert!(taken.confirmed && taken.fenced.len() == LEGS, "{taken:?}");
    for disk in &array.disks {
        assert_eq!(registered(disk), alone(key(A, 1, 1)));
        let sent = |action: ReserveOut| disk.received(OUT, action as u8);
        assert_eq!(
            (sent(ReserveOut::RegisterAndIgnore), sent(ReserveOut::Reserve)),
            (1, 1)
        );
        // READ FULL STATUS: a look of each controller when the path was opened; then before, and after each of two steps.
        assert_eq!(disk.received(0x5e, 3), 2 + 3);
    }
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("given back");
    for disk in &array.disks {
        assert_eq!(registered(disk), (Vec::new(), None), "nothing stays behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_on_one_disk_of_three_stops_the_owner() {
    let array = Array::new(3).await;
    let mut a = array.serving().await;
    let volume = a.volume().await;
    volume.put(0, 1, true).await.expect("write");
    // The partner has come as far as the last disk.
    let (old, new) = (raw(key(A, 1, 1)), raw(key(B, 2, 2)));
    out(
        &array.disks[2],
        nexus(B),
        ReserveOut::RegisterAndIgnore,
        0,
        0,
        new,
    );
    out(
        &array.disks[2],
        nexus(B),
        ReserveOut::PreemptAndAbort,
        WERO,
        new,
        old,
    );
    let error = volume.put(0, 2, true).await;
    assert_eq!(a.exclusion_lost().await, (slot(2), Some(key(B, 2, 2))));
    stopped(error);
    assert!(a.manager.status().await.imported.is_empty());
    let mut written: Vec<u8> = Vec::new();
    for disk in &array.disks {
        let sector = disk.peek(DATA_AT as usize, 512);
        written.push(sector[0]);
    }
    assert_eq!(
        written[2], 1,
        "nothing more on the disk that is another's: {written:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_preempts_and_aborts_and_the_old_owner_notices_by_itself() {
    let array = Array::new(2).await;
    let mut a = array.serving().await;
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.expect("take").confirmed);
    // Nobody writes: it is the look at the own key that notices.
    let (_, holder) = a.exclusion_lost().await;
    assert_eq!(holder, Some(key(B, 2, 2)));
    b.import(key(B, 2, 2), false).await.expect("import");
    for disk in &array.disks {
        assert_eq!(registered(disk), alone(key(B, 2, 2)));
        let sent = |action: ReserveOut| disk.received(OUT, action as u8);
        assert_eq!(
            (sent(ReserveOut::PreemptAndAbort), sent(ReserveOut::Preempt)),
            (1, 0)
        );
    }
    b.volume()
        .await
        .put(0, 7, true)
        .await
        .expect("the new owner writes");
}

/// D1, disks that forget their registrations with the power.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lost_with_the_power_stops_writes_until_the_pool_is_taken_again() {
    let wrap = Arc::new(|port: FakePort| Arc::new(port) as Arc<dyn ScsiDisk>);
    let array = Array::with(2, |model| model.persists = false, wrap).await;
    let mut a = array.serving().await;
    let volume = a.volume().await;
    volume.put(0, 1, true).await.expect("write");
    array.disks.iter().for_each(|disk| disk.cycle_power());
    let (_, holder) = a.exclusion_lost().await;
    assert_eq!(holder, None, "nobody has it");
    stopped(volume.put(0, 2, true).await);
    for disk in &array.disks {
        assert_eq!(
            registered(disk),
            (Vec::new(), None),
            "nothing was registered quietly"
        );
    }
    a.import(key(A, 1, 1), false)
        .await
        .expect_err("the old proof is void");
    assert!(a.take(key(A, 2, 2)).await.expect("take").confirmed);
    a.import(key(A, 2, 2), false).await.expect("import");
    assert_eq!(a.volume().await.get(0).await.expect("read"), 1);
}

/// D1, disks that keep them: exclusion stands, and what was only in their caches is told as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_keys_outlive_the_power_the_lost_cache_is_told_all_the_same() {
    let array = Array::new(2).await;
    let mut a = array.serving().await;
    let volume = a.volume().await;
    volume.put(0, 1, false).await.expect("write");
    volume.flush().await.expect("flushed");
    volume.put(0, 2, false).await.expect("left in the caches");
    array.disks.iter().for_each(|disk| disk.cycle_power());
    let error = volume.flush().await.expect_err("it is lost");
    assert_eq!(error.status(), Some(Status::MediumError), "{error}");
    volume.flush().await.expect("told once");
    assert_eq!(volume.get(0).await.expect("read"), 1);
    assert!(!a.has_lost_exclusion());
    assert_eq!(registered(&array.disks[0]), alone(key(A, 1, 1)));
    // One disk alone: the other has everything.
    volume.put(0, 3, false).await.expect("left in the caches");
    array.disks[1].cycle_power();
    volume.flush().await.expect("one of them has kept it");
    assert_eq!(volume.get(0).await.expect("read"), 3);
    let until = Instant::now() + LONG;
    while array.disks[1].peek(DATA_AT as usize, 512) != [3; 512] {
        assert!(Instant::now() < until, "the other is never made equal");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// D2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_key_keeps_a_new_pool_away_until_an_operator_has_it_removed() {
    const STRANGER: u64 = 0x1234;
    let array = Array::new(2).await;
    out(&array.disks[1], 40, ReserveOut::RegisterAndIgnore, 0, 0, STRANGER);
    out(&array.disks[1], 40, ReserveOut::Reserve, WERO, STRANGER, 0);
    let a = array.start(A);
    let refusal = a.take(key(A, 1, 1)).await.expect_err("whose disk is it?");
    let told = format!("{refusal} {}", refusal.data.remedy);
    assert!(refusal.is(Code::Refused), "{told}");
    assert!(
        told.contains("pollux disk clear-key disk-01 0x0000000000001234"),
        "{told}"
    );
    assert_eq!(
        registered(&array.disks[0]),
        (Vec::new(), None),
        "nothing stays on the others"
    );
    assert_eq!(registered(&array.disks[1]).0, [STRANGER], "and it is still there");

    let foreign = a.manager.status().await.foreign;
    assert_eq!(foreign.len(), 1, "{foreign:?}");
    assert_eq!((foreign[0].disk, foreign[0].holds), (slot(1), true));
    let clear = |key: &str, dry_run| {
        let key = key.to_owned();
        a.manager.clear_key(ClearKey {
            disk: slot(1),
            key,
            dry_run,
        })
    };
    assert!(
        clear("12", false)
            .await
            .expect_err("no key")
            .is(Code::InvalidParams)
    );
    assert!(clear(&foreign[0].key, true).await.expect("would").was_there);
    assert_eq!(registered(&array.disks[1]).0, [STRANGER], "nothing was done");
    let cleared = clear(&foreign[0].key, false).await.expect("removed");
    assert!(cleared.was_there && cleared.left.is_empty(), "{cleared:?}");
    assert_eq!(
        registered(&array.disks[1]),
        (Vec::new(), None),
        "nor is there one of ours"
    );
    assert!(disk_aborted(&array.disks[1]));
    assert!(!clear(&foreign[0].key, false).await.expect("again").was_there);
    assert!(a.take(key(A, 1, 1)).await.expect("take").confirmed);
}

fn disk_aborted(disk: &Arc<FakeDisk>) -> bool {
    disk.received(OUT, ReserveOut::PreemptAndAbort as u8) > 0
}

/// A controller that was set up anew finds its own old key, at its own path, beside others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_an_earlier_life_goes_and_the_others_stay_until_their_turn() {
    let other = pollux_api::id::ArrayId::from_bytes(*b"the array before");
    let theirs = |controller| {
        let key = pollux_block_frame::key::encode(other, key(controller, 3, 4));
        key.expect("it fits").0
    };
    let array = Array::new(1).await;
    let disk = &array.disks[0];
    out(disk, nexus(A), ReserveOut::RegisterAndIgnore, 0, 0, theirs(A));
    out(disk, nexus(A), ReserveOut::Reserve, WERO, theirs(A), 0);
    out(disk, nexus(B), ReserveOut::RegisterAndIgnore, 0, 0, theirs(B));
    let a = array.start(A);
    let foreign = a.manager.status().await.foreign;
    assert_eq!(foreign.len(), 2, "{foreign:?}");
    assert!(
        foreign[0].whose.contains("controller a of another array"),
        "{foreign:?}"
    );
    let clear = |key: u64| {
        let key = format!("{key:#018x}");
        a.manager.clear_key(ClearKey {
            disk: slot(0),
            key,
            dry_run: false,
        })
    };
    let cleared = clear(theirs(B)).await.expect("removed");
    assert_eq!(cleared.left.len(), 1, "{cleared:?}");
    assert_eq!(
        registered(disk),
        (vec![theirs(A)], Some((theirs(A), WERO))),
        "exactly that one"
    );
    clear(theirs(A)).await.expect("removed");
    assert_eq!(registered(disk), (Vec::new(), None));
}

/// What every registrant of a stranger's holds is a stranger's, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_of_all_registrants_is_seen_and_goes_with_the_last_of_them() {
    let array = Array::new(1).await;
    let disk = &array.disks[0];
    for (at, key) in [(40, 0x40), (41, 0x41)] {
        out(disk, at, ReserveOut::RegisterAndIgnore, 0, 0, key);
    }
    out(disk, 40, ReserveOut::Reserve, 7, 0x40, 0);
    let a = array.start(A);
    a.take(key(A, 1, 1)).await.expect_err("strangers");
    for found in a.manager.status().await.foreign {
        assert!(found.holds, "{found:?}");
        let (disk, key) = (found.disk, found.key);
        let request = ClearKey {
            disk,
            key,
            dry_run: false,
        };
        a.manager.clear_key(request).await.expect("removed");
    }
    assert_eq!(registered(disk), (Vec::new(), None));
    assert!(a.take(key(A, 1, 1)).await.expect("take").confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_removed_where_a_controller_of_the_array_has_one() {
    let array = Array::new(2).await;
    let mut a = array.serving().await;
    let b = array.start(B);
    let owner = raw(key(A, 1, 1));
    let ask = |key: u64| {
        let key = format!("{key:#018x}");
        b.manager.clear_key(ClearKey {
            disk: slot(0),
            key,
            dry_run: false,
        })
    };
    let refusal = ask(owner).await.expect_err("the owner's");
    assert!(refusal.is(Code::Refused), "{refusal}");
    let refusal = ask(0x1234).await.expect_err("beside the owner's");
    assert!(
        refusal.is(Code::Refused) && refusal.to_string().contains("controller a"),
        "{refusal}"
    );
    assert_eq!(registered(&array.disks[0]), alone(key(A, 1, 1)));
    a.volume().await.put(0, 1, true).await.expect("the owner goes on");
    assert!(!a.has_lost_exclusion());
}

/// A stranger that gets between is preempted where the pool's own label says that the disk is its member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_a_member_disk_stops_the_owner_and_goes_with_the_next_claim() {
    let array = Array::new(2).await;
    let mut a = array.serving().await;
    a.volume().await.put(0, 1, true).await.expect("write");
    out(&array.disks[0], 40, ReserveOut::RegisterAndIgnore, 0, 0, 0x40);
    let (disk, holder) = a.exclusion_lost().await;
    assert_eq!(
        (disk, holder),
        (slot(0), None),
        "a registrant beside the owner may write"
    );
    assert!(a.take(key(A, 2, 2)).await.expect("take").confirmed);
    a.import(key(A, 2, 2), false).await.expect("import");
    assert_eq!(registered(&array.disks[0]), alone(key(A, 2, 2)));
    assert_eq!(a.volume().await.get(0).await.expect("read"), 1);
}

/// D5: two paths from one controller to each disk, one of them fails under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_fails_costs_the_owner_nothing_and_the_partner_fences_both() {
    let array = Array::new(2).await;
    let mut a = array.serving().await;
    array.cable_twice(A);
    let volume = a.volume().await;
    for round in 1..=8 {
        volume.put(round, 1, true).await.expect("write");
        if round == 4 {
            array.fail_first_path(A, 0);
        }
    }
    array.fail_first_path(A, 1);
    for round in 9..=16 {
        volume
            .put(round, 2, true)
            .await
            .expect("the other path has the registration");
    }
    assert!(!a.has_lost_exclusion());
    for disk in &array.disks {
        assert_eq!(
            registered(disk),
            alone(key(A, 1, 1)),
            "the key is the second path's now: what comes late over the first is refused"
        );
        disk.cut(nexus(A), false);
        let late = disk.port(nexus(A)).write(0, &[0; 512], true);
        late.expect_err("the path before");
    }
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.expect("take").confirmed);
    a.exclusion_lost().await;
    for disk in &array.disks {
        assert_eq!(registered(disk), alone(key(B, 2, 2)));
        for path in [nexus(A), second(A)] {
            disk.port(path).write(0, &[0; 512], true).expect_err("fenced");
        }
    }
    b.import(key(B, 2, 2), false).await.expect("import");
    assert_eq!(b.volume().await.get(16).await.expect("read"), 2);
}

/// Given up over the second path, a pool leaves nothing on the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_over_the_second_path_is_gone_from_the_first() {
    let array = Array::new(1).await;
    let a = array.serving().await;
    array.cable_twice(A);
    let volume = a.volume().await;
    array.fail_first_path(A, 0);
    volume.put(0, 1, true).await.expect("over the second");
    a.manager
        .export(Export { pool: POOL }, LONG)
        .await
        .expect("export");
    assert_eq!(registered(&array.disks[0]), (Vec::new(), None));
}
