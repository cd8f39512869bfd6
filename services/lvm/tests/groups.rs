//! Two controllers at one shelf: what is asked at the socket of each, over programs that hold state and obey the rules.

use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{Activate, Apply, Disk, RollBack, Snapshot, Volume};
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
    }
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
    assert!(!a.remove(POOL).await.expect("nothing there"));
    assert!(a.remove(other.pool).await.expect("removed"));
    assert_eq!(a.tools().owner(&names::group(other.pool)), None);
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
