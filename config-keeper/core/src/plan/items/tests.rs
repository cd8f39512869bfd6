//! Every rule of items is a line: the item as a person writes it, the field that is blamed, a word of what would be right.

use super::super::tests::{action, change, site, tables};
use super::super::{Book, plan};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use pollux_api::config::item::Item;
use pollux_api::config::{Kind, Op, Resource, RowOp, Tables};
use pollux_api::error::Problem;
use serde_json::{Value, json};

fn item(value: Value) -> Item {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn set(book: &mut Book, number: u8, items: Vec<Value>) -> Result<Vec<RowOp>, Vec<Problem>> {
    let ops = items
        .into_iter()
        .map(|value| Op::Set { item: item(value) })
        .collect();
    let rows = plan(&site(), book, action(number), &change(ops))?;
    rows.iter().for_each(|row| drop(book.apply(row)));
    Ok(rows)
}

/// Everything once.
fn everything() -> Vec<Value> {
    vec![
        json!({ "kind": "controller", "name": "a", "controller": "a", "hostname": "array-a", "dns": ["192.0.2.53"],
            "ntp": ["time.example.com"], "syslog": "logs.example.com:6514" }),
        json!({ "kind": "network", "name": "front", "subnet": "10.80.0.0/24", "gateway": "10.80.0.1", "vlan": 7, "mtu": 9000 }),
        json!({ "kind": "port", "name": "a-front", "controller": "a", "interface": "ens1", "network": "front",
            "address": "10.80.0.2/24", "serves": ["nfs", "iscsi"] }),
        json!({ "kind": "disk", "name": "spare-1", "slot": 9, "role": "spare", "pool": "fast" }),
        json!({ "kind": "host_group", "name": "cluster", "hosts": ["h"] }),
        json!({ "kind": "file_system", "name": "home", "pool": "fast", "quota_bytes": 1_u64 << 40 }),
        json!({ "kind": "schedule", "name": "hourly", "volumes": ["v"], "file_systems": ["home"], "every_minutes": 60, "keep": 24 }),
        json!({ "kind": "snapshot", "name": "v-1", "volume": "v", "taken_ms": 1_800_000_000_000_u64, "schedule": "hourly" }),
        json!({ "kind": "access_role", "name": "helpdesk", "level": "operator", "services": ["config"] }),
        json!({ "kind": "user", "name": "ada", "level": "admin", "role": "helpdesk", "password": "sealed:1:x" }),
        json!({ "kind": "share", "name": "projects", "file_system": "home", "path": "/projects",
            "nfs": { "clients": [{ "who": "10.0.0.0/8", "access": "read_write" }, { "who": "*", "access": "read_only" }] },
            "smb": { "users": ["ada"], "access": "read_write" } }),
        json!({ "kind": "token", "name": "backup", "user": "ada", "digest": "11".repeat(32) }),
        json!({ "kind": "key", "name": "h-chap", "purpose": "chap", "user": "h", "host": "h", "secret": "sealed:1:y" }),
        json!({ "kind": "policy", "name": "giveback", "rule": { "sort": "giveback", "automatic": true, "after_seconds": 60 } }),
        json!({ "kind": "settings", "name": "target", "service": "block-target", "values": { "queue": "32" } }),
    ]
}

fn full() -> Book {
    let mut book = Book::from(&tables());
    set(&mut book, 50, everything()).unwrap();
    book
}

#[test]
fn every_kind_is_made_and_found_and_refers_by_identity() {
    let book = full();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_item()) {
        let rows = book.tables().of_kind(kind);
        assert_eq!(rows.len(), 1, "{kind}");
        let Resource::Item(row) = &rows[0] else {
            panic!("{kind}")
        };
        assert_eq!(book.find(kind, row.name()), Some(rows[0].clone()));
        let mut links = row.clone();
        for link in links.links() {
            let found = book.find(link.kind, link.which).unwrap();
            assert_ne!(
                found.name(),
                Some(&*link.which),
                "{kind}.{} is a name",
                link.field
            );
        }
        assert_eq!(rows[0].uses().len(), links.links().len());
        // Kinds stand behind what they refer to: import makes them in that order.
        assert!(rows[0].uses().iter().all(|used| used.kind() < kind), "{kind}");
    }
    let again = serde_json::to_string(book.tables()).unwrap();
    assert_eq!(&serde_json::from_str::<Tables>(&again).unwrap(), book.tables());
}

#[test]
fn the_same_again_is_no_change_and_another_is_the_same_row() {
    let mut book = full();
    assert_eq!(set(&mut book, 51, everything()).unwrap(), vec![]);
    let before = book.find(Kind::Schedule, "hourly").unwrap();
    let mut other = everything()[6].clone();
    other["keep"] = json!(48);
    let rows = set(&mut book, 52, vec![other.clone()]).unwrap();
    assert_eq!(rows.len(), 1);
    let after = book.find(Kind::Schedule, "hourly").unwrap();
    assert!(before.key() == after.key() && before != after);
    // By identity it may have another name.
    let Resource::Item(row) = &after else { panic!() };
    other["id"] = json!(row.id().to_string());
    other["name"] = json!("each-hour");
    set(&mut book, 53, vec![other]).unwrap();
    assert_eq!(book.find(Kind::Schedule, "each-hour").unwrap().key(), after.key());
    assert_eq!(book.find(Kind::Schedule, "hourly"), None);
}

#[test]
fn what_is_referred_to_is_not_deleted() {
    let mut book = full();
    for (kind, which, user) in [
        (Kind::Host, "h", "host_group `cluster`"),
        (Kind::Network, "front", "port `a-front`"),
        (Kind::FileSystem, "home", "share `projects`"),
        (Kind::Schedule, "hourly", "snapshot `v-1`"),
        (Kind::User, "ada", "token `backup`"),
        (Kind::AccessRole, "helpdesk", "user `ada`"),
    ] {
        let op = Op::Delete {
            kind,
            which: which.into(),
        };
        let problems = plan(&site(), &mut book, action(60), &change(vec![op])).unwrap_err();
        assert!(problems[0].what.contains(user), "{problems:?}");
    }
    let op = Op::Delete {
        kind: Kind::Share,
        which: "projects".into(),
    };
    assert_eq!(
        plan(&site(), &mut book, action(60), &change(vec![op]))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn every_rule_of_an_item_names_the_field_and_what_would_be_right() {
    let nth = |number: usize| everything()[number].clone();
    let with = |number: usize, field: &str, value: Value| {
        let mut item = nth(number);
        item[field] = value;
        item
    };
    // As another beside the one that is there.
    let beside = |number: usize| with(number, "name", json!("another"));
    let lines: Vec<(Value, &str, &str)> = vec![
        (with(0, "name", json!("-")), "name", "letter"),
        (beside(0), "controller", "another"),
        (with(0, "hostname", json!("a_b")), "hostname", "letters"),
        (with(0, "hostname", json!("-a")), "hostname", "letters"),
        (with(0, "dns", json!(["dns.example.com"])), "dns[0]", "address"),
        (with(0, "ntp", json!(["x", "a b"])), "ntp[1]", "time.example.com"),
        (
            with(0, "syslog", json!("logs.example.com")),
            "syslog",
            "host:port",
        ),
        (
            with(0, "syslog", json!("logs.example.com:0")),
            "syslog",
            "host:port",
        ),
        (
            with(1, "subnet", json!("10.80.0.1/24")),
            "subnet",
            "first address",
        ),
        (with(1, "subnet", json!("10.80.0.0")), "subnet", "prefix"),
        (with(1, "gateway", json!("10.81.0.1")), "gateway", "inside"),
        (with(1, "vlan", json!(4095)), "vlan", "4094"),
        (with(1, "vlan", json!(0)), "vlan", "4094"),
        (with(1, "mtu", json!(1279)), "mtu", "1280"),
        (with(1, "mtu", json!(9217)), "mtu", "9216"),
        (beside(1), "subnet", "overlaps no other"),
        (with(2, "interface", json!("a/b")), "interface", "15"),
        (with(2, "interface", json!("abcdefghijklmnop")), "interface", "15"),
        (beside(2), "interface", "another"),
        (with(2, "network", json!("back")), "network", "front"),
        (
            with(2, "address", json!("10.81.0.2/24")),
            "address",
            "10.80.0.0/24",
        ),
        (
            with(2, "address", json!("10.80.0.2/25")),
            "address",
            "10.80.0.0/24",
        ),
        (with(2, "address", json!("10.80.0.2")), "address", "prefix"),
        (
            with(2, "address", json!("10.78.0.50/24")),
            "address",
            "10.80.0.0/24",
        ),
        (with(2, "address", Value::Null), "serves", "address"),
        (with(3, "slot", json!(0)), "slot", "quorum"),
        (with(3, "slot", json!(40)), "slot", "holds a disk"),
        (with(3, "slot", json!(4)), "slot", "in no pool"),
        (beside(3), "slot", "another"),
        (with(3, "pool", json!("none")), "pool", "fast"),
        (with(4, "hosts", json!([])), "hosts", "at least one"),
        (with(4, "hosts", json!(["h", "h"])), "hosts[1]", "once"),
        (with(4, "hosts", json!(["x"])), "hosts[0]", "h"),
        (with(5, "quota_bytes", json!(4096)), "quota_bytes", "1 MiB"),
        (
            with(5, "reserved_bytes", json!(1_u64 << 41)),
            "quota_bytes",
            "reserved",
        ),
        (with(6, "every_minutes", json!(4)), "every_minutes", "44640"),
        (with(6, "every_minutes", json!(44641)), "every_minutes", "44640"),
        (with(6, "offset_minutes", json!(1440)), "offset_minutes", "1439"),
        (with(6, "keep", json!(0)), "keep", "1000"),
        (with(6, "volumes", json!(["v", "v"])), "volumes[1]", "once"),
        (
            json!({ "kind": "schedule", "name": "s", "every_minutes": 60, "keep": 1 }),
            "volumes",
            "at least one",
        ),
        (with(7, "file_system", json!("home")), "volume", "either"),
        (with(7, "volume", Value::Null), "volume", "either"),
        (with(7, "taken_ms", json!(0)), "taken_ms", "1970"),
        (with(8, "services", json!(["a b"])), "services[0]", "letters"),
        (with(9, "password", json!("in the clear")), "password", "seals"),
        (with(9, "full_name", json!("x".repeat(1025))), "full_name", "1024"),
        (with(9, "role", json!("nobody")), "role", "helpdesk"),
        (with(10, "path", json!("projects")), "path", "root"),
        (with(10, "path", json!("/a/../b")), "path", "root"),
        (
            json!({ "kind": "share", "name": "s", "file_system": "home" }),
            "nfs",
            "at least one of both",
        ),
        (
            with(10, "nfs", json!({ "clients": [] })),
            "nfs.clients",
            "everybody",
        ),
        (
            with(
                10,
                "nfs",
                json!({ "clients": [{ "who": "10.0.0.1/8", "access": "read_only" }] }),
            ),
            "nfs.clients[0].who",
            "10.0.0.0/8",
        ),
        (
            with(
                10,
                "nfs",
                json!({ "clients": [{ "who": "*", "access": "read_only" }], "versions": [2] }),
            ),
            "nfs.versions",
            "3, 4",
        ),
        (
            with(10, "smb", json!({ "access": "read_only" })),
            "smb.users",
            "guest",
        ),
        (
            with(10, "smb", json!({ "access": "read_only", "users": ["eve"] })),
            "smb.users[0]",
            "ada",
        ),
        (with(11, "digest", json!("00".repeat(32))), "digest", "BLAKE3"),
        (beside(11), "digest", "another"),
        (with(12, "secret", json!("in the clear")), "secret", "seals"),
        (with(12, "host", Value::Null), "host", "proves"),
        (with(12, "user", json!("")), "user", "255"),
        (with(12, "controller", json!("a")), "controller", "none otherwise"),
        (beside(12), "purpose", "another"),
        (beside(13), "rule", "another"),
        (
            with(
                13,
                "rule",
                json!({ "sort": "giveback", "automatic": true, "after_seconds": 604_801 }),
            ),
            "rule.after_seconds",
            "week",
        ),
        (
            with(13, "rule", json!({ "sort": "alarms", "pool_free_percent": 0 })),
            "rule.pool_free_percent",
            "50",
        ),
        (
            with(
                13,
                "rule",
                json!({ "sort": "alarms", "pool_free_percent": 9, "mail": ["ada"] }),
            ),
            "rule.mail[0]",
            "user@host",
        ),
        (with(14, "service", json!("no service")), "service", "letters"),
        (beside(14), "service", "another"),
        (with(14, "values", json!({ "a b": "c" })), "values", "letters"),
    ];
    for (value, field, word) in lines {
        let mut book = full();
        let before = book.clone();
        let problems = set(&mut book, 70, vec![value.clone()]);
        let problems = problems.err().unwrap_or_else(|| panic!("let through: {value}"));
        let right = |problem: &&Problem| {
            problem.path == format!("ops[0].item.{field}") && problem.remedy.contains(word)
        };
        assert!(
            problems.iter().any(|problem| right(&problem)),
            "{value}: {problems:#?}"
        );
        assert_eq!(book, before);
    }
}

#[test]
fn an_item_may_refer_to_what_the_same_change_makes() {
    let mut book = Book::from(&tables());
    let rows = set(&mut book, 80, everything()).unwrap();
    assert_eq!(rows.len(), everything().len());
    // And nobody is blamed twice: what refers to a refused item says nothing of its own.
    let mut book = Book::from(&tables());
    let mut network = everything()[1].clone();
    network["mtu"] = json!(1);
    let problems = set(&mut book, 81, vec![network, everything()[2].clone()]).unwrap_err();
    let paths: Vec<String> = problems.iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(paths, ["ops[0].item.mtu"]);
}
