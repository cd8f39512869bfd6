//! Every refusal is a line: what is asked, the field that is blamed, and a word of what would be right.

use super::*;
use pollux_api::config::Class;
use pollux_api::id::ControllerId;

/// Plans over tables, and has the book be as before.
fn plan(site: &Site, tables: &Tables, action: ActionId, change: &Change) -> Result<Vec<RowOp>, Vec<Problem>> {
    let mut book = Book::from(tables);
    let planned = super::plan(site, &mut book, action, change);
    assert_eq!(book, Book::from(tables));
    planned
}

pub(super) fn action(number: u8) -> ActionId {
    ActionId::from_bytes([number; 16])
}

pub(super) fn site() -> Site {
    let disks = |range: std::ops::Range<u16>| range.map(DiskIndex::new).collect();
    Site {
        disks: disks(0..12),
        quorum: disks(0..3),
        reserved: BTreeSet::from(["10.78.0.1".parse().unwrap(), "10.78.0.2".parse().unwrap()]),
    }
}

pub(super) fn change(ops: Vec<Op>) -> Change {
    Change {
        ops,
        expected_index: None,
        dry_run: false,
    }
}

fn pool(name: &str, redundancy: Redundancy, disks: &[u16]) -> Op {
    let disks = disks.iter().copied().map(DiskIndex::new).collect();
    Op::CreatePool {
        name: name.into(),
        class: Class::Fast,
        home: ControllerId::A,
        redundancy,
        backend: None,
        disks,
    }
}

fn group(name: &str, disks: &[u16]) -> Op {
    let mut op = pool(name, Redundancy::Mirror, disks);
    if let Op::CreatePool { backend, .. } = &mut op {
        *backend = Some(Backend::Lvm);
    }
    op
}

fn volume(name: &str, pool: &str, size_bytes: u64) -> Op {
    Op::CreateVolume {
        name: name.into(),
        pool: pool.into(),
        size_bytes,
    }
}

fn host(name: &str, iqns: &[&str]) -> Op {
    Op::CreateHost {
        name: name.into(),
        iqns: iqns.iter().map(ToString::to_string).collect(),
    }
}

fn map(volume: &str, host: &str, lun: Option<u16>) -> Op {
    Op::Map {
        volume: volume.into(),
        host: host.into(),
        lun,
    }
}

fn address(pool: &str, cidr: &str) -> Op {
    Op::CreateAddress {
        pool: pool.into(),
        cidr: cidr.into(),
    }
}

fn delete(kind: Kind, which: &str) -> Op {
    Op::Delete {
        kind,
        which: which.into(),
    }
}

fn ready(pool: &str, capacity_bytes: u64) -> Op {
    Op::PoolReady {
        pool: pool.into(),
        capacity_bytes,
        extent_bytes: 1 << 20,
    }
}

const MIB: u64 = 1 << 20;

/// A pool of 100 MiB with a volume of 10, mapped to a host as LUN 0; an address; a pool that is not ready.
pub(super) fn tables() -> Tables {
    let ops = vec![
        pool("fast", Redundancy::Mirror, &[3, 4]),
        ready("fast", 100 * MIB),
        pool("new", Redundancy::Single, &[5]),
        volume("v", "fast", 10 * MIB),
        host("h", &["iqn.2026-01.com.example:h"]),
        host("other", &["iqn.2026-01.com.example:other"]),
        map("v", "h", None),
        address("fast", "10.78.0.50/24"),
    ];
    let mut tables = Tables::default();
    for row in plan(&site(), &tables, action(1), &change(ops)).unwrap() {
        tables.apply(&row);
    }
    tables
}

#[test]
fn a_whole_array_is_one_change_and_the_same_action_gives_the_same_rows() {
    assert_eq!(tables(), tables());
    let tables = tables();
    assert_eq!(
        tables.used_bytes(
            *tables
                .pools
                .keys()
                .find(|id| tables.pools[id].name == "fast")
                .unwrap()
        ),
        10 * MIB
    );
    assert_eq!(tables.mappings.values().next().unwrap().lun, 0);
    assert_eq!(tables.volumes.values().next().unwrap().serial.len(), 16);
}

#[test]
fn what_keeps_a_pools_data_is_written_down_and_needs_a_version_that_knows_it() {
    let (site, tables) = (site(), tables());
    for (op, format, expected) in [
        (group("p", &[6, 7, 8, 9]), 5, Some(Backend::Lvm)),
        (pool("p", Redundancy::Mirror, &[6, 7]), 1, None),
    ] {
        let rows = plan(&site, &tables, action(2), &change(vec![op])).unwrap();
        let [RowOp::Put(Resource::Pool(made))] = &rows[..] else {
            panic!("{rows:?}");
        };
        assert_eq!(made.backend, expected);
        assert_eq!(pollux_api::config::format_of(&rows), format);
    }
}

#[test]
fn every_refusal_names_the_field_and_what_would_be_right() {
    use Redundancy::{Mirror, Single};
    let good = "iqn.2026-01.com.example:x";
    let long = "x".repeat(64);
    #[rustfmt::skip]
    let lines: &[(Op, &str, &str, &str)] = &[
        (pool("", Single, &[6]),             "name",          "`` is no name",          "1 to 63 letters"),
        (pool("-x", Single, &[6]),           "name",          "is no name",             "the first a letter"),
        (pool("a b", Single, &[6]),          "name",          "`a b` is no name",       "1 to 63 letters"),
        (pool("x\n", Single, &[6]),          "name",          "`x\\n` is no name",      "1 to 63 letters"),
        (pool(&long, Single, &[6]),          "name",          "is no name",             "1 to 63"),
        (pool("fast", Single, &[6]),         "name",          "a pool `fast` exists",   "free"),
        (pool("01234567-89ab-cdef-0123-456789abcdef", Single, &[6]), "name", "reads like an identity", "not 32 hex"),
        (pool("p", Single, &[]),             "disks",         "0 different",            "exactly 1"),
        (pool("p", Single, &[6, 7]),         "disks",         "2 different",            "exactly 1"),
        (pool("p", Mirror, &[6]),            "disks",         "1 different",            "2 to 4"),
        (pool("p", Mirror, &[6, 7, 8, 9, 10]), "disks",       "5 different",            "2 to 4"),
        (group("p", &[6, 7, 8, 9, 10]),        "disks",       "5 different",            "an even number"),
        (group("p", &[6]),                     "disks",       "1 different",            "2, 3 or"),
        (pool("p", Mirror, &[6, 7, 6]),      "disks[2]",      "disk-06 is listed twice", "once"),
        (pool("p", Mirror, &[2, 6]),         "disks[0]",      "quorum area",            "not a quorum disk"),
        (pool("p", Mirror, &[6, 99]),        "disks[1]",      "has no disk-99",         "one of disk-03, disk-04"),
        (pool("p", Mirror, &[6, 3]),         "disks[1]",      "belongs to pool `fast`", "no pool"),
        (ready("gone", MIB),                 "pool",          "no pool `gone`",         "fast"),
        (ready("fast", 9 * MIB),             "capacity_bytes", "9437184",               "at least the 10485760"),
        (Op::PoolReady { pool: "fast".into(), capacity_bytes: 100 * MIB, extent_bytes: 1000 }, "extent_bytes", "1000", "multiple of 4096"),
        (volume("v", "fast", MIB),           "name",          "a volume `v` exists",    "free"),
        (volume("w", "nope", MIB),           "pool",          "no pool `nope`",         "one of"),
        (volume("w", "new", MIB),            "pool",          "not been imported",      "with a size"),
        (volume("w", "fast", 0),             "size_bytes",    "0",                      "at least 1048576"),
        (volume("w", "fast", MIB + 1),       "size_bytes",    "1048577",                "multiple of 4096"),
        (volume("w", "fast", 91 * MIB),      "size_bytes",    "do not fit",             "at most 94371840"),
        (volume("w", "fast", u64::MAX - 4095), "size_bytes",  "do not fit",             "at most 94371840"),
        (Op::ResizeVolume { volume: "v".into(), size_bytes: 9 * MIB }, "size_bytes", "9437184", "does not shrink"),
        (Op::ResizeVolume { volume: "v".into(), size_bytes: 101 * MIB }, "size_bytes", "do not fit", "at most 104857600"),
        (Op::ResizeVolume { volume: "w".into(), size_bytes: MIB }, "volume", "no volume `w`", "one of v"),
        (host("x", &[]),                     "iqns",          "there is none",          "at least one"),
        (host("x", &["disk1"]),              "iqns[0]",       "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-13.com.example"]), "iqns[0]",  "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.26-01.com.example"]), "iqns[0]",    "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-01."]),       "iqns[0]",       "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-01.com..x"]), "iqns[0]",       "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-01.com.x:"]), "iqns[0]",       "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-01.com.x:a b"]), "iqns[0]",    "no iSCSI name",          "iqn.YYYY-MM"),
        (host("x", &["iqn.2026-01.com.Example"]), "iqns[0]",  "no iSCSI name",          "lower case"),
        (host("x", &["eui.0123"]),           "iqns[0]",       "no iSCSI name",          "16 hexadecimal"),
        (host("x", &["naa.0123"]),           "iqns[0]",       "no iSCSI name",          "16 or 32"),
        (host("x", &[good, good]),           "iqns[1]",       "listed twice",           "once"),
        (host("x", &["iqn.2026-01.com.example:h"]), "iqns[0]", "belongs to host `h`",   "no other host"),
        (Op::SetIqns { host: "h".into(), iqns: vec!["iqn.2026-01.com.example:other".into()] }, "iqns[0]", "belongs to host `other`", "no other"),
        (map("w", "h", None),                "volume",        "no volume `w`",          "one of v"),
        (map("v", "x", None),                "host",          "no host `x`",            "one of"),
        (map("v", "h", Some(1)),             "volume",        "mapped to `h` already",  "does not see yet"),
        (map("v", "other", Some(256)),       "lun",           "256",                    "0 to 255"),
        (Op::Unmap { volume: "v".into(), host: "other".into() }, "volume", "not mapped",  "mapped to that host"),
        (address("fast", "10.78.0.51"),      "cidr",          "is no address",          "prefix length"),
        (address("fast", "10.78.0.51/33"),   "cidr",          "prefix of 33",           "prefix length"),
        (address("fast", "10.78.0.51/0"),    "cidr",          "prefix of 0",            "prefix length"),
        (address("fast", "10.78.0.51/+24"),  "cidr",          "is no address",          "prefix length"),
        (address("fast", "10.78.0.300/24"),  "cidr",          "is no address",          "prefix length"),
        (address("fast", "10.79.0.0/24"),    "cidr",          "the network",            "prefix length"),
        (address("fast", "10.79.0.255/24"),  "cidr",          "broadcast",              "prefix length"),
        (address("fast", "127.0.0.1/8"),     "cidr",          "one machine",            "prefix length"),
        (address("fast", "224.0.0.5/24"),    "cidr",          "one machine",            "prefix length"),
        (address("fast", "::/64"),           "cidr",          "one machine",            "prefix length"),
        (address("fast", "10.78.0.1/24"),    "cidr",          "controller's own",       "free"),
        (address("fast", "10.78.0.50/24"),   "cidr",          "10.78.0.50/24 exists",   "free"),
        (address("fast", "10.78.0.51/16"),   "cidr",          "overlaps that of 10.78.0.50/24", "/24"),
        (Op::Rename { kind: Kind::Pool, which: "new".into(), name: "fast".into() }, "name", "exists", "free"),
        (Op::Rename { kind: Kind::Address, which: "10.78.0.50".into(), name: "x".into() }, "kind", "no name", "pool, volume or host"),
        (delete(Kind::Pool, "fast"),         "which",         "volume `v`, address 10.78.0.50/24", "those first"),
        (delete(Kind::Volume, "v"),          "which",         "mapping of `v` to `h` as LUN 0", "those first"),
        (delete(Kind::Host, "h"),            "which",         "mapping of `v` to `h`",  "those first"),
        (delete(Kind::Mapping, "v@other"),   "which",         "no mapping `v@other`",   "one of"),
        (delete(Kind::Address, "10.78.0.99"), "which",        "no address",             "10.78.0.50/24"),
    ];
    for (op, field, what, remedy) in lines {
        let problems = plan(&site(), &tables(), action(2), &change(vec![op.clone()]))
            .expect_err(&format!("{op:?} was taken"));
        let right = |problem: &&Problem| {
            problem.path == format!("ops[0].{field}")
                && problem.what.contains(what)
                && problem.remedy.contains(remedy)
        };
        assert!(problems.iter().find(right).is_some(), "{op:?}: {problems:#?}");
    }
    let two = change(vec![
        map("v", "other", Some(3)),
        volume("w", "fast", MIB),
        map("w", "other", Some(3)),
    ]);
    let problems = plan(&site(), &tables(), action(2), &two).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, "ops[2].lun");
    assert!(
        problems[0].remedy.contains("0 for example"),
        "{}",
        problems[0].remedy
    );
}

#[test]
fn all_problems_are_told_at_once_and_no_op_is_blamed_for_another() {
    let ops = vec![
        pool("bad name", Redundancy::Mirror, &[0, 6, 6]),
        volume("w", "bad name", MIB + 1),
        map("w", "h", Some(0)),
        volume("w2", "typo", MIB),
    ];
    let problems = plan(&site(), &tables(), action(2), &change(ops)).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "ops[0].name",
            "ops[0].disks[0]",
            "ops[0].disks[2]",
            "ops[1].size_bytes",
            "ops[3].pool"
        ]
    );
    let empty = plan(&site(), &tables(), action(2), &change(vec![])).unwrap_err();
    assert_eq!(empty[0].path, "ops");
    let many = plan(
        &site(),
        &tables(),
        action(2),
        &change(vec![ready("fast", MIB); OPS_MAX + 1]),
    )
    .unwrap_err();
    assert_eq!(many.len(), 1);
}

#[test]
fn what_is_so_already_is_no_change() {
    for op in [
        ready("fast", 100 * MIB),
        Op::SetHome {
            pool: "fast".into(),
            home: ControllerId::A,
        },
        Op::Rename {
            kind: Kind::Host,
            which: "h".into(),
            name: "h".into(),
        },
    ] {
        assert_eq!(
            plan(&site(), &tables(), action(2), &change(vec![op.clone()])),
            Ok(vec![]),
            "{op:?}"
        );
    }
}

#[test]
fn taking_everything_down_in_order_leaves_nothing() {
    let ops = vec![
        Op::Unmap {
            volume: "v".into(),
            host: "h".into(),
        },
        delete(Kind::Volume, "v"),
        delete(Kind::Address, "10.78.0.50"),
        delete(Kind::Pool, "fast"),
        delete(Kind::Pool, "new"),
        delete(Kind::Host, "h"),
        delete(Kind::Host, "other"),
    ];
    let mut tables = tables();
    for row in plan(&site(), &tables, action(2), &change(ops)).unwrap() {
        tables.apply(&row);
    }
    assert_eq!(tables, Tables::default());
}

#[test]
fn a_grown_volume_keeps_what_it_is() {
    let tables = tables();
    let grow = Op::ResizeVolume {
        volume: "v".into(),
        size_bytes: 100 * MIB,
    };
    let rows = plan(&site(), &tables, action(2), &change(vec![grow])).unwrap();
    let [RowOp::Put(Resource::Volume(grown))] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    let before = tables.volumes.values().next().unwrap();
    assert_eq!(
        (grown.id, &grown.serial, grown.size_bytes),
        (before.id, &before.serial, 100 * MIB)
    );
}
