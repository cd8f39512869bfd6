//! The configuration: what is asked for, what the partner's log says, and the file that tells a daemon who it is.

use crate::script::Script;
use pollux_api::action::ActionId;
use pollux_api::config::{Change, Hex, Kind, LogEntry, Op, Resource, RowOp, Tables, format_of};
use pollux_api::error::Problem;
use pollux_api::id::{ControllerId, DiskIndex, Epoch, PoolId};
use pollux_config_core::book::Book;
use pollux_config_core::compacted::Compacted;
use pollux_config_core::keeper::{Keeper, Loaded};
use pollux_config_core::log;
use pollux_config_core::plan::{self, Site};
use pollux_config_document::{Document, Steps, steps};
use pollux_runtime::ControllerConfig;
use std::collections::BTreeSet;

fn site() -> Site {
    let disks = |range: std::ops::Range<u16>| range.map(DiskIndex::new).collect();
    Site {
        disks: disks(0..12),
        quorum: disks(0..3),
        reserved: BTreeSet::from([[10, 78, 0, 1].into()]),
    }
}

/// Plans over tables, which planning leaves as they are.
fn plan(site: &Site, tables: &Tables, action: ActionId, change: &Change) -> Result<Vec<RowOp>, Vec<Problem>> {
    let mut book = Book::from(tables);
    let planned = plan::plan(site, &mut book, action, change);
    assert_eq!(book.tables(), tables, "planning has changed something");
    planned
}

/// Changes, one JSON object per line, each on top of the one before.
pub(super) fn changes(data: &[u8]) {
    let mut tables = Tables::default();
    for (line, number) in data.split(|byte| *byte == b'\n').zip(1_u128..) {
        let Ok(text) = std::str::from_utf8(line) else {
            continue;
        };
        let Ok(change) = pollux_runtime::wire::params::<Change>("config.change", text) else {
            continue;
        };
        let json = serde_json::to_string(&change).expect("a change has a JSON form");
        assert_eq!(serde_json::from_str::<Change>(&json).ok().as_ref(), Some(&change));
        let action = ActionId::from_bytes(number.to_be_bytes());
        let planned = plan(&site(), &tables, action, &change);
        assert_eq!(
            plan(&site(), &tables, action, &change),
            planned,
            "one change, two plans"
        );
        match planned {
            Ok(rows) => {
                for row in &rows {
                    tables.apply(row);
                }
                sound(&tables);
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "refused without a reason");
                for problem in problems {
                    let said = [&problem.path, &problem.what, &problem.remedy];
                    assert!(said.iter().all(|text| !text.is_empty()), "{problem:?}");
                }
            }
        }
    }
    let json = serde_json::to_string(&tables).expect("tables have a JSON form");
    assert_eq!(serde_json::from_str::<Tables>(&json).ok(), Some(tables));
}

/// What every configuration that the rules let through keeps.
fn sound(tables: &Tables) {
    let once = |what: &str, all: Vec<String>| {
        let distinct: BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{what} twice: {all:?}");
    };
    once(
        "a pool",
        tables.pools.values().map(|pool| pool.name.clone()).collect(),
    );
    once(
        "a volume",
        tables
            .volumes
            .values()
            .map(|volume| volume.name.clone())
            .collect(),
    );
    once(
        "a serial number",
        tables
            .volumes
            .values()
            .map(|volume| volume.serial.clone())
            .collect(),
    );
    once(
        "a host",
        tables.hosts.values().map(|host| host.name.clone()).collect(),
    );
    once(
        "an initiator",
        tables.hosts.values().flat_map(|host| host.iqns.clone()).collect(),
    );
    let disks = tables.pools.values().flat_map(|pool| &pool.disks);
    once("a disk", disks.map(ToString::to_string).collect());
    let mappings = tables.mappings.values();
    once(
        "a LUN",
        mappings.map(|map| format!("{} {}", map.host, map.lun)).collect(),
    );
    once(
        "an address",
        tables
            .addresses
            .values()
            .filter_map(|address| address.cidr.split('/').next().map(str::to_owned))
            .collect(),
    );
    for pool in tables.pools.values() {
        let used = tables.used_bytes(pool.id);
        let capacity = pool.ready.map_or(0, |space| space.capacity_bytes);
        assert!(used <= capacity, "{used} bytes of {capacity} in {}", pool.name);
        assert!(
            pool.disks.iter().all(|disk| !site().quorum.contains(disk)),
            "a pool on a quorum disk"
        );
    }
    let book = Book::from(tables);
    for row in tables.rows() {
        for used in row.uses() {
            assert!(
                tables.get(&used).is_some(),
                "{:?} refers to {used:?}, which is not there",
                row.key()
            );
        }
        if let Resource::Item(mut item) = row {
            let links = item.links().len();
            assert_eq!(
                Resource::Item(item.clone()).uses().len(),
                links,
                "a reference is no identity"
            );
            assert!(
                item.secrets().iter().all(|(_, secret)| secret.is_sealed()),
                "a secret in the clear"
            );
        }
    }
    for volume in tables.volumes.values() {
        assert!(tables.pools.contains_key(&volume.pool), "a volume of no pool");
        let found = book.find(Kind::Volume, &volume.name);
        assert!(found.is_some(), "{} is not found by its name", volume.name);
    }
    for mapping in tables.mappings.values() {
        let both = tables.volumes.contains_key(&mapping.volume) && tables.hosts.contains_key(&mapping.host);
        assert!(both, "a mapping of nothing");
    }
}

fn change(ops: &[&str], rest: &str) -> String {
    format!(r#"{{"ops":[{}]{rest}}}"#, ops.join(","))
}

pub(super) fn change_seeds() -> Vec<Vec<u8>> {
    let pool = change(
        &[
            r#"{"op":"create_pool","name":"fast","class":"fast","home":"a","redundancy":"mirror","disks":[3,4]}"#,
            r#"{"op":"pool_ready","pool":"fast","capacity_bytes":104857600,"extent_bytes":1048576}"#,
        ],
        "",
    );
    let volume = change(
        &[
            r#"{"op":"create_volume","name":"v","pool":"fast","size_bytes":10485760}"#,
            r#"{"op":"create_host","name":"h","iqns":["iqn.2026-01.com.example:h"]}"#,
            r#"{"op":"map","volume":"v","host":"h","lun":3}"#,
        ],
        "",
    );
    let more = change(
        &[
            r#"{"op":"create_address","pool":"fast","cidr":"10.78.0.50/24"}"#,
            r#"{"op":"create_host","name":"h2","iqns":["eui.02004567a425678d"]}"#,
            r#"{"op":"map","volume":"v","host":"h2"}"#,
            r#"{"op":"resize_volume","volume":"v","size_bytes":20971520}"#,
        ],
        r#","expected_index":3,"dry_run":true"#,
    );
    let delete = change(
        &[
            r#"{"op":"unmap","volume":"v","host":"h"}"#,
            r#"{"op":"unmap","volume":"v","host":"h2"}"#,
            r#"{"op":"delete","kind":"volume","which":"v"}"#,
            r#"{"op":"delete","kind":"address","which":"10.78.0.50/24"}"#,
            r#"{"op":"delete","kind":"pool","which":"fast"}"#,
        ],
        "",
    );
    let two = [&*pool, &*volume].join("\n");
    let many = [&*pool, &*volume, &*more, &*delete].join("\n");
    [pool, two, many, change(&[], "")].map(String::into_bytes).into()
}

/// A log that a sound partner may have: lines of rows, chained as they stand. Bit 0 of the first byte leaves the hashes
/// wrong, bit 1 says that all of it is acknowledged.
pub(super) fn entries(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let (mut entries, mut last) = (Vec::new(), Hex([0; 32]));
    for (line, number) in script.0.split(|byte| *byte == b'\n').zip(1_u64..) {
        let Ok(rows) = serde_json::from_slice::<Vec<RowOp>>(line) else {
            break;
        };
        let mut entry = LogEntry {
            index: number,
            epoch: Epoch::new(1),
            session: 1,
            format: format_of(&rows),
            action_id: ActionId::from_bytes(u128::from(number).to_be_bytes()),
            request: Hex([1; 32]),
            rows,
            previous: last,
            hash: Hex([0; 32]),
        };
        if choices & 1 == 0 {
            entry.hash = log::hash(&entry).0;
        }
        last = entry.hash;
        let json = serde_json::to_string(&entry).expect("an entry has a JSON form");
        let again: LogEntry = serde_json::from_str(&json).expect("what was written is read");
        assert_eq!(log::hash(&again), log::hash(&entry), "one entry, two hashes");
        entries.push(entry);
    }
    // The same log with its first half let go: it amounts to the same.
    let whole = entries.clone();
    let mut length = entries.len() as u64;
    let sound = choices & 1 == 0 || entries.is_empty();
    let loaded = Loaded {
        compacted: Compacted::default(),
        acknowledged: if choices & 2 != 0 { length } else { length / 2 },
        entries,
        session_epoch: Epoch::new(1),
        session: 1,
        lost: false,
    };
    match Keeper::load(ControllerId::A, None, site(), loaded) {
        Ok(keeper) => {
            assert!(sound, "a log that is no chain was loaded");
            let shown = keeper.tables().rows().count();
            assert_eq!(keeper.length(), length);
            if length > 0 {
                assert!(!keeper.entries(0, length).is_empty());
            }
            assert!(shown <= data.len(), "{shown} rows");
            let mut compacted = Compacted::default();
            let (gone, kept) = whole.split_at(whole.len() / 2);
            gone.iter().for_each(|entry| compacted.take(entry));
            assert_eq!(compacted.wrong(), None);
            let rest = Loaded {
                compacted,
                entries: kept.to_vec(),
                acknowledged: keeper.acknowledged(),
                ..Loaded::default()
            };
            let rest = Keeper::load(ControllerId::A, None, site(), rest).expect("half of a chain is one");
            assert_eq!(
                (rest.length(), rest.hash_at(length)),
                (length, keeper.hash_at(length))
            );
            if keeper.acknowledged() == length {
                assert!(rest.tables() == keeper.tables(), "another configuration");
            }
            while length > 0 {
                assert!(keeper.hash_at(length).is_some());
                length /= 2;
            }
        }
        Err(why) => assert!(!sound, "a chain was refused: {why}"),
    }
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    let mut tables = Tables::default();
    let mut lines = vec![];
    for (change, number) in change_seeds()[2].split(|byte| *byte == b'\n').zip(1_u128..) {
        let change: Change = serde_json::from_slice(change).expect("a sound seed");
        let action = ActionId::from_bytes(number.to_be_bytes());
        let rows = plan(&site(), &tables, action, &change).expect("a sound seed");
        rows.iter().for_each(|row| tables.apply(row));
        lines.push(log::encode_rows(&rows));
    }
    let text = lines.join("\n");
    (0..3)
        .map(|choices| [&[choices][..], text.as_bytes()].concat())
        .collect()
}

/// What stands between two documents.
const NEXT: &str = "\n----\n";

/// Documents, each imported on top of what the one before has made.
pub(super) fn documents(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut tables = Tables::default();
    let mut number = 0_u128;
    let mut apply = |tables: &mut Tables, ops: Vec<Op>| {
        number += 1;
        let change = Change {
            ops,
            expected_index: None,
            dry_run: false,
        };
        let rows = plan(
            &site(),
            tables,
            ActionId::from_bytes(number.to_be_bytes()),
            &change,
        )?;
        rows.iter().for_each(|row| tables.apply(row));
        Ok::<(), Vec<Problem>>(())
    };
    for text in text.split(NEXT).take(4) {
        let document = match toml::from_str::<Document>(text) {
            Ok(document) => document,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        let again = toml::to_string(&document).expect("a document has a text");
        assert_eq!(toml::from_str::<Document>(&again).ok().as_ref(), Some(&document));
        // Once for what can be made at once, once for what stands on the pools that were made.
        for _ in 0..2 {
            let way = match steps(&tables, &document) {
                Ok(way) => way,
                Err(problems) => {
                    assert!(!problems.is_empty(), "refused without a reason");
                    break;
                }
            };
            if way.ops.is_empty() || apply(&mut tables, way.ops).is_err() {
                break;
            }
            sound(&tables);
            let blank: Vec<PoolId> = tables
                .pools
                .values()
                .filter(|pool| pool.ready.is_none())
                .map(|pool| pool.id)
                .collect();
            for pool in blank {
                let ready = Op::PoolReady {
                    pool: pool.to_string(),
                    capacity_bytes: 1 << 40,
                    extent_bytes: 1 << 20,
                };
                apply(&mut tables, vec![ready]).expect("a pool that is made gets its space");
            }
            let left = steps(&tables, &document).expect("what was done can be looked at");
            let made = |op: &Op| matches!(op, Op::CreateVolume { .. } | Op::Map { .. });
            assert!(
                left.ops.iter().all(made) && !left.waits,
                "not all was done: {left:?}"
            );
        }
        let now = Document::of(&tables);
        assert_eq!(
            steps(&tables, &now),
            Ok(Steps::default()),
            "what is so needs a step"
        );
    }
}

pub(super) fn document_seeds() -> Vec<Vec<u8>> {
    let first = r#"[[pool]]
name = "tank"
class = "fast"
home = "a"
redundancy = "mirror"
disks = [4, 5]

[[volume]]
name = "one"
pool = "tank"
size = "1.5GiB"

[[host]]
name = "h"
iqns = ["iqn.2026-01.com.example:h"]

[[mapping]]
volume = "one"
host = "h"
lun = 3

[[address]]
address = "fd00::50/64"
pool = "tank"
"#;
    let second = first
        .replace("\"one\"", "\"two\"")
        .replace("home = \"a\"", "home = \"b\"")
        .replace("1.5GiB", "2147483648")
        .replace("lun = 3", "");
    let renamed = first.replace(
        "name = \"one\"",
        "id = \"00000000-0000-0000-0000-000000000000\"\nname = \"uno\"",
    );
    [
        first.to_owned(),
        [first, &second].join(NEXT),
        [&second, "", first].join(NEXT),
        renamed,
    ]
    .map(String::into_bytes)
    .into()
}

/// `controller.toml`.
pub(super) fn controller(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match toml::from_str::<ControllerConfig>(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) => {
            for problem in config.problems() {
                assert!(!problem.is_empty());
            }
            let again = toml::from_str::<ControllerConfig>(&config.render());
            assert_eq!(again.as_ref(), Ok(&config), "what is rendered is not read back");
        }
    }
}

pub(super) fn controllers() -> Vec<Vec<u8>> {
    let sound = r#"controller = "a"
array = "07070707-0707-0707-0707-070707070707"
profile = "fast"

[paths]
run = "/a/run"
var = "/a/var"
log = "/a/log"
port = "/a/port"
bmc = "/a/bmc.sock"
keys = "/keys"

[interconnect]
interface = "ic0"
legs = ["leg0", "leg1"]
local = "10.77.0.1"
partner = "fe80::2"
heartbeat_port = 7700
router_port = 7710
forward_port = 7711

[front]
interface = "host0"
address = "10.78.0.1"
prefix = 24
portal_port = 3260

[quorum]
disks = [0, 1, 2]

[fence]
reservations = true
power = true
watchdog = true
"#;
    vec![
        sound.into(),
        sound.replace("/a/", "a/").replace("[0, 1, 2]", "[0, 0]").into(),
        b"x = 1".to_vec(),
    ]
}
