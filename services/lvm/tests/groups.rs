//! Two controllers at one shelf: what is asked at the socket of each, over programs that hold state and obey the rules.

use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{
    Activate, Apply, Disk, FileSystem, FileSystemSnapshot, Group, Health, Remove, Replace, RollBack,
    Snapshot, Volume,
};
use pollux_lvm::fake::FakeTools;
use pollux_lvm::groups::{GroupError, Groups};
use pollux_lvm::names;
use pollux_lvm::plan::{Refusal, Systems};
use pollux_lvm::service::Door;
use serde_json::{Value, json};

const POOL: PoolId = PoolId::from_bytes([0xab; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);
const MIB: u64 = 1 << 20;

fn pair(disks: u8) -> [Groups<FakeTools>; 2] {
    let systems = [("pollux-x-a", "pollux-x-b"), ("pollux-x-b", "pollux-x-a")];
    let mut systems = systems.into_iter();
    FakeTools::pair(disks).map(|tools| {
        let (own, partner) = systems.next().expect("two of them");
        let (own, partner) = (own.to_owned(), partner.to_owned());
        Groups::new(tools, Systems { own, partner })
    })
}

fn disks(which: std::ops::Range<u8>) -> Vec<Disk> {
    let disk = |number: u8| Disk {
        slot: DiskIndex::new(number.into()),
        id: Hex([number; 16]),
    };
    which.map(disk).collect()
}

fn activate(which: std::ops::Range<u8>, create: bool) -> Activate {
    Activate {
        pool: POOL,
        disks: disks(which),
        create,
    }
}

fn remove(pool: PoolId, which: std::ops::Range<u8>) -> Remove {
    Remove {
        pool,
        disks: disks(which),
    }
}

fn wanted(size_bytes: u64, snapshots: &[ItemId]) -> Apply {
    let snapshot = |id: &ItemId| Snapshot {
        id: *id,
        volume: VOLUME,
    };
    Apply {
        pool: POOL,
        volumes: vec![Volume {
            id: VOLUME,
            size_bytes,
        }],
        snapshots: snapshots.iter().map(snapshot).collect(),
        file_systems: Vec::new(),
        file_system_snapshots: Vec::new(),
    }
}

const HOME: ItemId = ItemId(Hex([0x40; 16]));
const BEFORE: ItemId = ItemId(Hex([0x41; 16]));

/// A file system of so many bytes, and perhaps a snapshot of it; beside the volume.
fn files(size_bytes: Option<u64>, snapshot: bool) -> Apply {
    let snapshot = snapshot.then_some(FileSystemSnapshot {
        id: BEFORE,
        file_system: HOME,
    });
    Apply {
        file_systems: vec![FileSystem { id: HOME, size_bytes }],
        file_system_snapshots: snapshot.into_iter().collect(),
        ..wanted(MIB, &[])
    }
}

#[tokio::test]
async fn a_file_system_is_made_mounted_grown_kept_and_moved() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    // The snapshot of a file system that is made in the same step is taken once there is one.
    let group = a.apply(&files(Some(300 * MIB), true)).await.expect("mounted");
    assert_eq!(group.problems, Vec::<String>::new());
    let of = |group: &Group, id: ItemId| group.files.iter().find(|files| files.id == id).cloned();
    let home = of(&group, HOME).expect("there");
    assert_eq!(
        (home.size_bytes, home.path.as_deref()),
        (300 * MIB, Some(&*names::folder(HOME)))
    );
    let (options, bytes) = a.tools().mount_of(&names::folder(HOME)).expect("mounted");
    assert_eq!(bytes, 300 * MIB);
    for option in ["nodev", "nosuid", "noexec"] {
        assert!(options.split(',').any(|word| word == option), "{options}");
    }
    let (options, bytes) = a.tools().mount_of(&names::folder(BEFORE)).expect("mounted");
    for option in ["ro", "nouuid", "norecovery", "nodev", "nosuid", "noexec"] {
        assert!(options.split(',').any(|word| word == option), "{options}");
    }
    assert_eq!((bytes, group.snapshots), (300 * MIB, vec![BEFORE]));
    // Asked again nothing is made; that it is as large as its device is looked after.
    a.tools().calls();
    a.apply(&files(Some(300 * MIB), true))
        .await
        .expect("is so already");
    let calls = a.tools().calls();
    assert!(
        calls.len() == 1 && calls[0].starts_with("xfs_growfs"),
        "{calls:?}"
    );
    let group = a.apply(&files(Some(400 * MIB), true)).await.expect("grown");
    assert_eq!(
        a.tools().mount_of(&names::folder(HOME)).expect("mounted").1,
        400 * MIB
    );
    assert_eq!(of(&group, BEFORE).expect("there").size_bytes, 300 * MIB);
    // Smaller it does not become, and volumes have no part in that.
    let mut smaller = files(Some(310 * MIB), true);
    smaller.volumes[0].size_bytes = 3 * MIB;
    let group = a.apply(&smaller).await.expect("the rest is done");
    assert!(
        group.problems[0].contains("does not shrink"),
        "{:?}",
        group.problems
    );
    assert_eq!(group.volumes[0].size_bytes, 3 * MIB);

    // Somebody works in it: the pool is not given up, and nothing is lost.
    let device = names::mapped(POOL, &names::file_system(HOME));
    a.tools().hold(&device, true);
    let error = a.deactivate(POOL).await.expect_err("in use").to_string();
    assert!(error.contains("busy"), "{error}");
    a.tools().hold(&device, false);
    assert!(a.deactivate(POOL).await.expect("given up"));
    assert_eq!(a.tools().mount_of(&names::folder(HOME)), None);

    // It is not mounted before it is asked for, and then with what it holds.
    let group = b.activate(&activate(0..2, false)).await.expect("taken");
    assert_eq!(of(&group, HOME).expect("there").path, None);
    b.tools().calls();
    let mut as_it_is = files(Some(400 * MIB), true);
    as_it_is.volumes[0].size_bytes = 3 * MIB;
    b.apply(&as_it_is).await.expect("mounted");
    let calls = b.tools().calls();
    assert!(calls.iter().all(|call| !call.starts_with("mkfs")), "{calls:?}");
    assert_eq!(
        b.tools().mount_of(&names::folder(HOME)).expect("mounted").1,
        400 * MIB
    );
    assert!(b.tools().mount_of(&names::folder(BEFORE)).is_some());
    // What is not wanted any more is unmounted, and goes; what somebody uses goes later, and nothing else waits for it.
    b.tools().hold(&device, true);
    let group = b.apply(&wanted(4 * MIB, &[])).await.expect("the rest is done");
    assert!(group.problems[0].contains("busy"), "{:?}", group.problems);
    assert_eq!((group.volumes[0].size_bytes, group.files.len()), (4 * MIB, 1));
    b.tools().hold(&device, false);
    let group = b.apply(&wanted(4 * MIB, &[])).await.expect("removed");
    assert_eq!((group.files, group.snapshots), (Vec::new(), Vec::new()));
    assert_eq!(b.tools().mount_of(&names::folder(HOME)), None);
}

#[tokio::test]
async fn a_cut_takes_mounts_away_while_somebody_uses_them() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.apply(&files(None, false)).await.expect("mounted");
    let device = names::mapped(POOL, &names::file_system(HOME));
    a.tools().hold(&device, true);
    a.tools().calls();
    let error = a.cut(POOL).await.expect_err("somebody has it open");
    assert!(
        matches!(&error, GroupError::Stuck { names } if names.contains(&device)),
        "{error}"
    );
    let calls = a.tools().calls();
    let place = |head: &str| calls.iter().position(|call| call.starts_with(head)).expect(head);
    assert!(
        place("wipe_table") < place("umount --lazy") && place("umount --lazy") < place("remove"),
        "{calls:?}"
    );
    assert_eq!(a.tools().mount_of(&names::folder(HOME)), None);
    b.activate(&activate(0..2, false)).await.expect("taken meanwhile");
    let group = b.apply(&files(None, false)).await.expect("mounted");
    assert!(
        group.problems.is_empty() && group.files[0].path.is_some(),
        "{group:?}"
    );
}

#[tokio::test]
async fn what_goes_wrong_with_files_is_told_and_keeps_nothing_else() {
    let [a, _] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    let group = a
        .apply(&files(Some(MIB), false))
        .await
        .expect("the volume is made");
    assert!(group.problems[0].contains("XFS needs"), "{:?}", group.problems);
    assert_eq!((group.volumes.len(), group.files.len()), (1, 0));
    // The program for it is not there at first.
    a.tools().break_at("-q");
    let group = a
        .apply(&files(Some(300 * MIB), true))
        .await
        .expect("the rest is done");
    assert_eq!((group.problems.len(), group.files[0].path.as_ref()), (1, None));
    assert!(group.problems[0].contains("mkfs.xfs"), "{:?}", group.problems);
    let group = a.apply(&files(Some(300 * MIB), true)).await.expect("done");
    assert!(group.problems.is_empty() && group.files.len() == 2, "{group:?}");
}

#[tokio::test]
async fn a_pool_is_made_used_given_up_and_taken() {
    let [a, b] = pair(2);
    let group = a.activate(&activate(0..2, true)).await.expect("made");
    assert!(group.volumes.is_empty() && group.state.writable);
    let snapshot = ItemId(Hex([7; 16]));
    let group = a.apply(&wanted(10 * MIB, &[snapshot])).await.expect("a volume");
    assert_eq!(
        (group.volumes[0].id, group.volumes[0].size_bytes),
        (VOLUME, 10 * MIB)
    );
    assert_eq!(group.snapshots, [snapshot]);
    assert_eq!(
        group.volumes[0].node,
        names::node(&names::mapped(POOL, &names::volume(VOLUME)))
    );
    a.tools().calls();
    // Asked again nothing is done.
    a.activate(&activate(0..2, false)).await.expect("active already");
    a.apply(&wanted(10 * MIB, &[snapshot]))
        .await
        .expect("is so already");
    assert_eq!(a.tools().calls(), Vec::<String>::new());
    // A program has the volume open: it is not given up.
    let mapped = names::mapped(POOL, &names::volume(VOLUME));
    a.tools().hold(&mapped, true);
    assert!(a.deactivate(POOL).await.is_err());
    a.tools().hold(&mapped, false);
    assert!(a.deactivate(POOL).await.expect("given up"));
    assert_eq!(a.pools().await.expect("asked"), []);
    assert!(!a.deactivate(POOL).await.expect("again"));
    let group = b.activate(&activate(0..2, false)).await.expect("taken");
    assert_eq!((group.volumes.len(), group.snapshots.len()), (1, 1));
    assert_eq!(
        b.tools().owner(&names::group(POOL)).as_deref(),
        Some("pollux-x-b")
    );
}

#[tokio::test]
async fn a_cut_lets_nothing_through_even_while_a_volume_is_open() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.apply(&wanted(MIB, &[])).await.expect("a volume");
    let mapped = names::mapped(POOL, &names::volume(VOLUME));
    a.tools().hold(&mapped, true);
    let error = a.cut(POOL).await.expect_err("the volume stays open");
    assert!(
        matches!(&error, GroupError::Stuck { names } if names.contains(&mapped)),
        "{error}"
    );
    for slot in [0, 1] {
        let table = a
            .tools()
            .table(&names::gate(POOL, DiskIndex::new(slot)))
            .expect("still there");
        assert!(table.contains("error"), "{table}");
    }
    b.activate(&activate(0..2, false)).await.expect("taken meanwhile");
    // What is left of it is in nobody's way when the pool comes back.
    a.tools().hold(&mapped, false);
    b.deactivate(POOL).await.expect("given up");
    let group = a.activate(&activate(0..2, false)).await.expect("back");
    assert_eq!(group.volumes.len(), 1);
    assert!(a.cut(POOL).await.expect("cut") && a.pools().await.expect("asked").is_empty());
}

#[tokio::test]
async fn a_takeover_with_a_missing_disk_activates_and_changes_nothing() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.apply(&wanted(MIB, &[])).await.expect("a volume");
    a.cut(POOL).await.expect("gone");
    b.tools().lose([1; 16], true);
    let error = b
        .activate(&activate(0..2, false))
        .await
        .expect_err("not with a disk that is not there");
    assert!(
        matches!(error, GroupError::Disk { slot, .. } if slot == DiskIndex::new(1)),
        "{error}"
    );
    let group = b
        .activate(&activate(0..1, false))
        .await
        .expect("with the other one");
    assert_eq!(group.volumes.len(), 1);
    let error = b
        .apply(&wanted(2 * MIB, &[]))
        .await
        .expect_err("no change")
        .to_string();
    assert!(error.contains("missing"), "{error}");
    assert!(b.deactivate(POOL).await.expect("given up"));
}

fn disk(slot: u16, id: u8) -> Disk {
    Disk {
        slot: DiskIndex::new(slot),
        id: Hex([id; 16]),
    }
}

async fn leg(groups: &Groups<FakeTools>, slot: u16) -> (Health, Option<u8>) {
    let state = groups.state(POOL).await.expect("active");
    let leg = state.legs.iter().find(|leg| leg.slot == DiskIndex::new(slot));
    leg.map(|leg| (leg.health, leg.copied_percent)).expect("a leg")
}

#[tokio::test]
async fn a_disk_that_has_died_is_replaced_while_the_group_serves() {
    let [a, b] = pair(3);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.apply(&wanted(MIB, &[])).await.expect("a volume");
    let come = |id| Replace {
        pool: POOL,
        disk: disk(1, id),
    };
    a.tools().calls();
    a.replace(&come(1)).await.expect("it works");
    assert_eq!(
        a.tools().calls(),
        Vec::<String>::new(),
        "nothing is done to what works"
    );
    let error = a.replace(&come(2)).await.expect_err("another in its place");
    assert!(error.to_string().contains("works"), "{error}");

    a.tools().exchange([1; 16], [8; 16], 100 << 20);
    assert_eq!(leg(&a, 1).await, (Health::Failed, None));
    let error = a.apply(&wanted(2 * MIB, &[])).await.expect_err("no change");
    assert!(error.to_string().contains("missing"), "{error}");
    let error = a.replace(&come(8)).await.expect_err("too small");
    assert!(matches!(error, GroupError::Disk { .. }), "{error}");
    assert_eq!(a.tools().calls().len(), 1, "only the change of before was tried");

    a.tools().exchange([8; 16], [9; 16], 512 << 20);
    let group = a.replace(&come(9)).await.expect("it comes");
    assert_eq!(group.volumes.len(), 1);
    assert_eq!(leg(&a, 1).await, (Health::Copying, Some(25)));
    let calls = a.tools().calls();
    let heads: Vec<_> = calls
        .iter()
        .filter_map(|call| call.split_whitespace().next())
        .collect();
    let expected = [
        "wipe_table",
        "rename",
        "create",
        "erase",
        "vgextend",
        "lvconvert",
        "vgreduce",
        "remove",
    ];
    assert_eq!(heads, expected, "{calls:?}");
    assert_eq!(a.tools().table(&names::aside(POOL, DiskIndex::new(1))), None);
    a.apply(&wanted(2 * MIB, &[]))
        .await
        .expect("it can be changed again");
    a.tools().copied();
    assert_eq!(leg(&a, 1).await, (Health::InSync, None));
    a.tools().calls();
    a.replace(&come(9)).await.expect("done already");
    assert_eq!(a.tools().calls(), Vec::<String>::new());

    a.deactivate(POOL).await.expect("given up");
    let request = Activate {
        disks: vec![disk(0, 0), disk(1, 9)],
        ..activate(0..2, false)
    };
    let group = b.activate(&request).await.expect("taken");
    assert_eq!(group.volumes[0].size_bytes, 2 * MIB);
}

#[tokio::test]
async fn a_replacement_that_was_cut_short_goes_on_from_what_stands() {
    for (command, erased) in [
        ("wipe_table", 1),
        ("rename", 1),
        ("create", 1),
        ("vgextend", 2),
        ("lvconvert", 1),
        ("vgreduce", 1),
    ] {
        let [a, _] = pair(2);
        a.activate(&activate(0..2, true)).await.expect("made");
        a.apply(&wanted(MIB, &[])).await.expect("a volume");
        a.tools().exchange([1; 16], [9; 16], 512 << 20);
        let request = Replace {
            pool: POOL,
            disk: disk(1, 9),
        };
        a.tools().calls();
        a.tools().break_at(command);
        a.replace(&request).await.expect_err(command);
        let again = a.replace(&request).await;
        again.unwrap_or_else(|error| panic!("{command}: {error}"));
        let calls = a.tools().calls();
        let erasures = calls.iter().filter(|call| call.starts_with("erase")).count();
        // What has joined the group is not overwritten any more.
        assert_eq!(erasures, erased, "{command}: {calls:?}");
        assert_eq!(leg(&a, 1).await.0, Health::Copying, "{command}");
        a.apply(&wanted(2 * MIB, &[])).await.expect("it can be changed");
        assert!(a.cut(POOL).await.expect("cut") && a.pools().await.expect("asked").is_empty());
    }
}

#[tokio::test]
async fn a_group_that_was_taken_without_a_disk_gets_another_and_its_own_name() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.cut(POOL).await.expect("gone");
    b.tools().exchange([1; 16], [9; 16], 512 << 20);
    b.activate(&activate(0..1, false)).await.expect("taken");
    let owner = || b.tools().owner(&names::group(POOL));
    assert_eq!(
        owner().as_deref(),
        Some("pollux-x-a"),
        "nothing of it could be changed"
    );
    let request = Replace {
        pool: POOL,
        disk: disk(1, 9),
    };
    b.replace(&request).await.expect("it comes");
    assert_eq!(owner().as_deref(), Some("pollux-x-b"));
}

#[tokio::test]
async fn a_group_on_one_disk_has_nothing_to_copy_from() {
    let [a, _] = pair(2);
    a.activate(&activate(0..1, true)).await.expect("made");
    let request = Replace {
        pool: POOL,
        disk: disk(1, 1),
    };
    let error = a.replace(&request).await.expect_err("nothing is twice");
    assert!(
        matches!(error, GroupError::Refused(Refusal::Single { .. })),
        "{error}"
    );
    let [a, _] = pair(3);
    a.activate(&activate(0..2, true)).await.expect("made");
    let request = Replace {
        pool: POOL,
        disk: disk(2, 2),
    };
    let error = a.replace(&request).await.expect_err("nothing is missing");
    assert!(
        matches!(error, GroupError::Refused(Refusal::Whole { .. })),
        "{error}"
    );
    let gate = names::gate(POOL, DiskIndex::new(2));
    assert_eq!(a.tools().table(&gate), None, "and nothing was opened for it");
}

#[tokio::test]
async fn a_roll_back_leaves_the_snapshot_and_the_volume() {
    let [a, _] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    let id = ItemId(Hex([7; 16]));
    a.apply(&wanted(MIB, &[id]))
        .await
        .expect("a volume and its snapshot");
    let request = RollBack {
        pool: POOL,
        to: Snapshot { id, volume: VOLUME },
    };
    let mapped = names::mapped(POOL, &names::volume(VOLUME));
    a.tools().hold(&mapped, true);
    a.roll_back(&request).await.expect_err("somebody has it open");
    a.tools().hold(&mapped, false);
    a.tools().calls();
    let group = a.roll_back(&request).await.expect("rolled back");
    assert_eq!((group.volumes.len(), group.snapshots.len()), (1, 1));
    // What the first try left is cleared away before the second.
    let calls = a.tools().calls();
    let next = names::next(VOLUME);
    assert!(
        calls[0].starts_with("lvremove") && calls[0].ends_with(&next),
        "{calls:?}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_made_and_the_rest_is_told_apart() {
    let [a, _] = pair(3);
    let error = a.activate(&activate(0..2, false)).await.expect_err("no group");
    assert!(
        matches!(error, GroupError::Refused(Refusal::Missing { .. })),
        "{error}"
    );
    let other = Activate {
        pool: PoolId::from_bytes([0xcd; 16]),
        ..activate(0..2, true)
    };
    a.cut(POOL).await.expect("its gates are closed again");
    a.activate(&other).await.expect("made");
    let error = a
        .activate(&activate(1..3, true))
        .await
        .expect_err("a disk of another pool");
    assert!(
        matches!(error, GroupError::Tool(_)),
        "a disk has one gate: {error}"
    );
    a.cut(other.pool).await.expect("its gates are closed");
    let error = a.remove(&remove(POOL, 0..2)).await.expect_err("another's disks");
    assert!(
        matches!(error, GroupError::Refused(Refusal::Occupied { .. })),
        "{error}"
    );
    a.cut(POOL).await.expect("its gates are closed");
    // Not active any more: what stands on the disks counts.
    assert!(a.remove(&remove(other.pool, 0..2)).await.expect("removed"));
    assert_eq!(a.tools().owner(&names::group(other.pool)), None);
    assert!(!a.remove(&remove(other.pool, 0..2)).await.expect("nothing there"));
    a.activate(&activate(0..2, true))
        .await
        .expect("made of the same disks");
}

#[tokio::test]
async fn a_group_is_removed_when_nothing_is_in_it_also_with_a_disk_missing() {
    let [a, b] = pair(2);
    a.activate(&activate(0..2, true)).await.expect("made");
    a.apply(&wanted(8 * MIB, &[])).await.expect("a volume");
    let error = a.remove(&remove(POOL, 0..2)).await.expect_err("used");
    assert!(
        matches!(error, GroupError::Refused(Refusal::Used { count: 1, .. })),
        "{error}"
    );
    assert_eq!(a.state(POOL).await.expect("active").legs.len(), 2, "it goes on");
    let none = Apply {
        volumes: Vec::new(),
        ..wanted(MIB, &[])
    };
    a.apply(&none).await.expect("no volume");
    a.tools().lose([1; 16], true);
    a.cut(POOL).await.expect("given up");
    // The other system takes it with one disk, and it is the first one's by name still.
    b.tools().lose([1; 16], true);
    b.activate(&activate(0..1, false)).await.expect("taken");
    assert!(b.remove(&remove(POOL, 0..1)).await.expect("removed"));
    assert!(
        b.pools().await.expect("asked").is_empty(),
        "nothing is left in the kernel"
    );
}

#[tokio::test]
async fn the_socket_names_what_is_wrong() {
    let [a, _] = pair(2);
    let door = Door::new(a);
    let ask = async |method: &str, given: Value| -> Result<Value, RpcError> { door.ask(method, given).await };
    let which = json!({ "pool": POOL });
    let refused = async |method: &str, given: Value| ask(method, given).await.expect_err("refused");
    assert!(refused("lvm.state", which.clone()).await.is(Code::NotFound));
    assert!(refused("lvm.state", json!({})).await.is(Code::InvalidParams));
    assert!(refused("lvm.sing", which.clone()).await.is(Code::MethodNotFound));
    let made = serde_json::to_value(activate(0..2, true)).expect("json");
    ask("lvm.activate", made).await.expect("made");
    assert_eq!(ask("lvm.pools", json!(null)).await.expect("asked"), json!([POOL]));
    assert_eq!(ask("lvm.cut", which).await.expect("cut"), json!(true));
}
