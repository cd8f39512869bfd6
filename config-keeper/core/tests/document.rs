//! The way from any state to any other is found, and ends where it should; what has no way is named.

use pollux_api::action::ActionId;
use pollux_api::config::item::{
    Access, AccessRole, FileSystem, HostGroup, Item, ItemId, Schedule, Secret, Share, Smb, Snapshot, User,
};
use pollux_api::config::{Backend, Change, Class, Kind, Op, Redundancy, RowOp, Tables};
use pollux_api::error::Problem;
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_api::role::Role;
use pollux_api::size::Size;
use pollux_config_core::book::Book;
use pollux_config_core::plan::{Site, plan};
use pollux_config_document::{Document, Steps, Volume, differences, steps};
use std::collections::{BTreeMap, BTreeSet};

/// A small generator: the same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn apply(tables: &mut Tables, number: u64, ops: Vec<Op>) -> Result<Vec<RowOp>, Vec<Problem>> {
    let change = Change {
        ops,
        expected_index: None,
        dry_run: false,
    };
    let mut action = [0; 16];
    action[..8].copy_from_slice(&number.to_le_bytes());
    let mut book = Book::from(&*tables);
    let rows = plan(&Site::default(), &mut book, ActionId::from_bytes(action), &change)?;
    assert_eq!(book.tables(), tables, "planning changes nothing");
    rows.iter().for_each(|row| tables.apply(row));
    Ok(rows)
}

/// Some item that refers to others; of kinds of which any two may be had at once.
fn item(dice: &mut Dice) -> Item {
    let (id, name) = (ItemId::default(), word(dice));
    let some = |dice: &mut Dice| (dice.below(2) == 0).then(|| word(dice));
    let list = |dice: &mut Dice| -> Vec<String> {
        let words = (0..dice.below(3)).map(|_| word(dice));
        words.collect::<BTreeSet<_>>().into_iter().collect()
    };
    match dice.below(7) {
        0 => Item::FileSystem(FileSystem {
            name,
            pool: ["fast", "slow", "spare"][dice.below(3)].to_owned(),
            quota_bytes: (dice.below(2) == 0).then_some(1 << 30),
            reserved_bytes: 0,
            id,
        }),
        1 => Item::HostGroup(HostGroup {
            name,
            hosts: list(dice),
            id,
        }),
        2 => Item::Schedule(Schedule {
            name,
            volumes: list(dice),
            file_systems: list(dice),
            every_minutes: 60,
            offset_minutes: dice.below(9) as u32,
            keep: 7,
            enabled: dice.below(2) == 0,
            id,
        }),
        3 => {
            let of = dice.below(2) == 0;
            Item::Snapshot(Snapshot {
                name,
                volume: of.then(|| word(dice)),
                file_system: (!of).then(|| word(dice)),
                taken_ms: 1,
                schedule: some(dice),
                id,
            })
        }
        4 => Item::AccessRole(AccessRole {
            name,
            level: Role::ALL[dice.below(3)],
            services: Vec::new(),
            id,
        }),
        5 => Item::User(User {
            name,
            level: Role::ALL[dice.below(3)],
            role: some(dice),
            full_name: None,
            password: (dice.below(2) == 0).then(|| Secret::new("sealed:1:x")),
            enabled: true,
            id,
        }),
        _ => Item::Share(Share {
            name,
            file_system: word(dice),
            path: "/p".to_owned(),
            nfs: None,
            smb: Some(Smb {
                users: list(dice),
                access: Access::ReadWrite,
                guest: true,
                encrypted: false,
                listed: true,
            }),
            id,
        }),
    }
}

fn word(dice: &mut Dice) -> String {
    ["x", "y", "z", "u"][dice.below(4)].to_owned()
}

/// Some deed; it may be refused.
fn deed(dice: &mut Dice) -> Op {
    let name = |dice: &mut Dice| ["x", "y", "z", "u"][dice.below(4)].to_owned();
    let pool = |dice: &mut Dice| ["fast", "slow", "spare"][dice.below(3)].to_owned();
    let kind = |dice: &mut Dice| [Kind::Pool, Kind::Volume, Kind::Host][dice.below(3)];
    let iqns = |dice: &mut Dice| {
        let count = 1 + dice.below(2);
        let names = (0..count).map(|_| format!("iqn.2026-01.com.example:{}", dice.below(6)));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    };
    match dice.below(22) {
        14..22 => match item(dice) {
            // Of items, as many deletions as of the rest.
            item if dice.below(4) == 0 => Op::Delete {
                kind: item.kind(),
                which: item.name().clone(),
            },
            item if dice.below(6) == 0 => Op::Rename {
                kind: item.kind(),
                which: item.name().clone(),
                name: name(dice),
            },
            item => Op::Set { item },
        },
        0 => {
            let first = dice.below(4) as u16 * 2;
            Op::CreatePool {
                name: pool(dice),
                class: [Class::Fast, Class::Ordinary][dice.below(2)],
                home: ControllerId::ALL[dice.below(2)],
                redundancy: Redundancy::Mirror,
                backend: (dice.below(8) == 0).then_some(Backend::Lvm),
                disks: [first, first + 1].map(DiskIndex::new).to_vec(),
            }
        }
        1 => Op::PoolReady {
            pool: pool(dice),
            capacity_bytes: 1 << 40,
            extent_bytes: 1 << 20,
        },
        2 => Op::SetHome {
            pool: pool(dice),
            home: ControllerId::ALL[dice.below(2)],
        },
        3 | 4 => Op::CreateVolume {
            name: name(dice),
            pool: pool(dice),
            size_bytes: (1 + dice.below(3) as u64) << 30,
        },
        5 => Op::ResizeVolume {
            volume: name(dice),
            size_bytes: (1 + dice.below(5) as u64) << 30,
        },
        6 | 7 => Op::CreateHost {
            name: name(dice),
            iqns: iqns(dice),
        },
        8 => Op::SetIqns {
            host: name(dice),
            iqns: iqns(dice),
        },
        9 => Op::Map {
            volume: name(dice),
            host: name(dice),
            lun: Some(dice.below(3) as u16),
        },
        10 => Op::Unmap {
            volume: name(dice),
            host: name(dice),
        },
        11 => Op::CreateAddress {
            pool: pool(dice),
            cidr: format!("10.9.{}.7/24", dice.below(4)),
        },
        12 => Op::Rename {
            kind: kind(dice),
            which: [name(dice), pool(dice)][dice.below(2)].clone(),
            name: [name(dice), pool(dice)][dice.below(2)].clone(),
        },
        _ => Op::Delete {
            kind: kind(dice),
            which: [name(dice), pool(dice)][dice.below(2)].clone(),
        },
    }
}

fn walk(tables: &mut Tables, dice: &mut Dice, number: &mut u64) {
    for _ in 0..1 + dice.below(60) {
        *number += 1;
        let op = deed(dice);
        // What is refused changes nothing.
        let _ = apply(tables, *number, vec![op]);
    }
}

/// A document without identities, which differ where something was made anew.
fn nameless(tables: &Tables) -> Document {
    let mut document = Document::of(tables);
    document.pool.iter_mut().for_each(|pool| pool.id = None);
    document.volume.iter_mut().for_each(|volume| volume.id = None);
    document.host.iter_mut().for_each(|host| host.id = None);
    document
        .file_system
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .host_group
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .schedule
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .snapshot
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .access_role
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .user
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
        .share
        .iter_mut()
        .for_each(|item| item.id = ItemId::default());
    document
}

/// What becomes of `now` when the document is imported, as often as it takes; the ways that were gone.
fn import(
    mut now: Tables,
    wanted: &Document,
    number: &mut u64,
) -> Result<(Tables, Vec<Steps>), Vec<Problem>> {
    let mut gone = Vec::new();
    loop {
        let way = steps(&now, wanted)?;
        assert!(gone.len() < 4, "it does not come to an end: {way:?}");
        if way.ops.is_empty() && !way.waits {
            return Ok((now, gone));
        }
        *number += 1;
        if !way.ops.is_empty() {
            let done = apply(&mut now, *number, way.ops.clone());
            assert!(done.is_ok(), "{done:?}\n{way:#?}\n{now:#?}");
        }
        // The pool manager reports what was made.
        let blank: Vec<String> = now
            .pools
            .values()
            .filter(|pool| pool.ready.is_none())
            .map(|pool| pool.name.clone())
            .collect();
        for pool in blank {
            *number += 1;
            let ready = Op::PoolReady {
                pool,
                capacity_bytes: 1 << 40,
                extent_bytes: 1 << 20,
            };
            apply(&mut now, *number, vec![ready]).unwrap();
        }
        gone.push(way);
    }
}

#[test]
fn there_is_a_way_from_every_state_to_every_other_or_a_reason() {
    let (mut found, mut reasons, mut waited) = (0, BTreeMap::new(), 0);
    for seed in 1..1_500 {
        let (mut dice, mut number) = (Dice(seed * 0x9E37_79B9), seed << 20);
        let mut before = Tables::default();
        walk(&mut before, &mut dice, &mut number);
        let mut after = before.clone();
        walk(&mut after, &mut dice, &mut number);
        for (from, to, document) in [
            (&before, &after, Document::of(&after)),
            (&after, &before, Document::of(&before)),
            (&before, &after, nameless(&after)),
        ] {
            match import(from.clone(), &document, &mut number) {
                Ok((end, ways)) => {
                    found += 1;
                    waited += usize::from(ways.iter().any(|way| way.waits));
                    assert_eq!(nameless(&end), nameless(to), "seed {seed}");
                    // Nothing that has data goes unsaid.
                    let gone = |kind| {
                        let change = differences(from, &end).into_iter();
                        change
                            .filter(|one| one.kind == kind && one.after.is_none())
                            .count()
                    };
                    let lost = ways.iter().map(|way| way.lost.len()).sum::<usize>();
                    let data = [Kind::Pool, Kind::Volume, Kind::FileSystem, Kind::Snapshot];
                    assert_eq!(lost, data.into_iter().map(gone).sum::<usize>(), "seed {seed}");
                }
                Err(problems) => {
                    for problem in problems {
                        let field = problem.path.rsplit('.').next().unwrap_or_default();
                        *reasons.entry(field.to_owned()).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    assert!(
        found > 2_500 && waited > 20,
        "{found} ways, {waited} of them waited"
    );
    let known = ["class", "disks", "pool", "redundancy", "backend", "size", "iqns"];
    assert!(
        reasons.keys().all(|field| known.contains(&field.as_str())),
        "{reasons:?}"
    );
    assert!(reasons.len() >= 4, "{reasons:?}");
}

fn example() -> (Tables, Document) {
    let mut tables = Tables::default();
    let ops = vec![
        Op::CreatePool {
            name: "tank".into(),
            class: Class::Fast,
            home: ControllerId::A,
            redundancy: Redundancy::Mirror,
            backend: None,
            disks: [4, 5].map(DiskIndex::new).to_vec(),
        },
        Op::PoolReady {
            pool: "tank".into(),
            capacity_bytes: 1 << 40,
            extent_bytes: 1 << 20,
        },
        Op::CreateVolume {
            name: "one".into(),
            pool: "tank".into(),
            size_bytes: 1 << 30,
        },
        Op::CreateVolume {
            name: "two".into(),
            pool: "tank".into(),
            size_bytes: 1 << 30,
        },
        Op::CreateHost {
            name: "h".into(),
            iqns: vec!["iqn.2026-01.com.example:h".into()],
        },
        Op::Map {
            volume: "one".into(),
            host: "h".into(),
            lun: None,
        },
        Op::CreateAddress {
            pool: "tank".into(),
            cidr: "fd00::50/64".into(),
        },
    ];
    apply(&mut tables, 1, ops).unwrap();
    let document = Document::of(&tables);
    (tables, document)
}

#[test]
fn what_is_so_already_needs_no_step() {
    let (tables, mut document) = example();
    assert_eq!(steps(&tables, &document), Ok(Steps::default()));
    assert_eq!(steps(&tables, &nameless(&tables)), Ok(Steps::default()));
    // Order, spelling and a number that is left to the array are no differences.
    document.volume.reverse();
    document.pool[0].disks.reverse();
    document.mapping[0].lun = None;
    document.address[0].address = "FD00:0::50/64".into();
    assert_eq!(steps(&tables, &document), Ok(Steps::default()));
}

#[test]
fn names_that_change_places_pass_by_a_third() {
    let (tables, mut document) = example();
    document.volume[0].name = "two".into();
    document.volume[1].name = "one".into();
    document.mapping[0].volume = "two".into();
    let way = steps(&tables, &document).unwrap();
    assert_eq!(way.ops.len(), 3, "{way:?}");
    assert!(way.lost.is_empty() && way.made.is_empty());
    let (end, _) = import(tables.clone(), &document, &mut 9).unwrap();
    let renamed = differences(&tables, &end);
    assert!(
        renamed.len() == 2 && renamed.iter().all(|one| one.kind == Kind::Volume),
        "{renamed:?}"
    );
}

#[test]
fn every_contradiction_is_named_with_its_field() {
    let wrong = |change: &dyn Fn(&mut Document), path: &str, word: &str| {
        let (tables, mut document) = example();
        change(&mut document);
        let problems = steps(&tables, &document).unwrap_err();
        let said = problems.iter().any(|problem| {
            let all = format!("{} {}", problem.what, problem.remedy);
            problem.path == path && all.contains(word)
        });
        assert!(said, "{path}: {problems:?}");
    };
    wrong(
        &|new| new.volume[1].name = "one".into(),
        "volume[1].name",
        "twice",
    );
    wrong(
        &|new| new.volume[1].id = new.volume[0].id,
        "volume[1].id",
        "twice",
    );
    wrong(
        &|new| new.volume[0].pool = "tonk".into(),
        "volume[0].pool",
        "tonk",
    );
    wrong(
        &|new| new.volume[0].size = Size(1 << 20),
        "volume[0].size",
        "shrink",
    );
    wrong(
        &|new| new.pool[0].class = Class::Ordinary,
        "pool[0].class",
        "another pool",
    );
    wrong(
        &|new| new.pool[0].disks.truncate(1),
        "pool[0].disks",
        "another pool",
    );
    wrong(
        &|new| new.mapping[0].volume = "three".into(),
        "mapping[0].volume",
        "three",
    );
    wrong(&|new| new.mapping[0].host = "g".into(), "mapping[0].host", "`g`");
    let again = |new: &mut Document| new.mapping.push(new.mapping[0].clone());
    wrong(&again, "mapping[1]", "twice");
    wrong(&|new| new.address[0].pool = "x".into(), "address[0].pool", "`x`");
    let twice = |new: &mut Document| {
        let mut other = new.address[0].clone();
        other.address = "fd00:0:0::50/64".into();
        new.address.push(other);
    };
    wrong(&twice, "address[1].address", "twice");
    // All at once.
    let (tables, mut document) = example();
    document.volume[0].size = Size(1);
    document.address[0].pool = "x".into();
    assert_eq!(steps(&tables, &document).unwrap_err().len(), 2);
}

#[test]
fn what_goes_and_what_is_made_is_said() {
    let (tables, mut document) = example();
    document.volume.remove(0);
    document.mapping.clear();
    document.volume.push(Volume {
        name: "three".into(),
        pool: "tank".into(),
        size: Size(1 << 30),
        id: None,
    });
    let way = steps(&tables, &document).unwrap();
    assert_eq!(way.lost, ["volume one"]);
    assert_eq!(way.made, ["volume three"]);
    assert!(
        matches!(
            way.ops[..],
            [Op::Unmap { .. }, Op::Delete { .. }, Op::CreateVolume { .. }]
        ),
        "{way:?}"
    );
}

#[test]
fn an_initiator_that_changes_hosts_is_free_in_between() {
    let (mut tables, _) = example();
    let other = Op::CreateHost {
        name: "g".into(),
        iqns: vec![
            "iqn.2026-01.com.example:g".into(),
            "iqn.2026-01.com.example:both".into(),
        ],
    };
    apply(&mut tables, 2, vec![other]).unwrap();
    let mut document = Document::of(&tables);
    let moved = document.host[0].iqns.remove(0);
    document.host[1].iqns.push(moved);
    let (end, ways) = import(tables.clone(), &document, &mut 9).unwrap();
    assert_eq!((ways.len(), ways[0].ops.len()), (1, 3));
    assert_eq!(nameless(&end).host[1].iqns.len(), 2);
    // The only one cannot go at once.
    let moved = document.host[0].iqns.remove(0);
    document.host[1].iqns.push(moved);
    assert!(steps(&tables, &document).is_err());
}
