use super::*;
use crate::report::parse;
use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::id::PoolId;
use pollux_api::lvm::{Snapshot, Volume};

const MIB: u64 = 1 << 20;

fn systems() -> Systems {
    Systems {
        own: "pollux-a".to_owned(),
        partner: "pollux-b".to_owned(),
    }
}

fn lv(name: &str, bytes: u64, layout: &str) -> Lv {
    Lv {
        name: name.to_owned(),
        bytes,
        active: true,
        layout: layout.to_owned(),
        error_when_full: name == POOL && layout.contains("thin"),
        skipped: name.starts_with("s_"),
        partial: false,
    }
}

fn vg(lvs: Vec<Lv>) -> Vg {
    Vg {
        name: "g".to_owned(),
        system_id: "pollux-a".to_owned(),
        extent_bytes: MIB,
        extents: 1018,
        free_extents: 1018,
        missing: 0,
        present: vec!["/dev/mapper/x".to_owned(), "/dev/mapper/y".to_owned()],
        lvs,
    }
}

fn thin() -> Lv {
    lv(POOL, 480 * MIB, "thin,pool")
}

fn heads(calls: &[Call]) -> Vec<String> {
    calls
        .iter()
        .map(|call| format!("{} {}", call[0], call[call.len() - 1]))
        .collect()
}

fn gates(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("/dev/mapper/gate{number}"))
        .collect()
}

#[test]
fn a_group_is_made_in_steps_and_gone_on_with_from_any_of_them() {
    let next = |groups: &[Vg]| heads(&create(groups, "g", &gates(2), &systems()).expect("possible"));
    assert_eq!(next(&[]), ["vgcreate /dev/mapper/gate1"]);
    assert_eq!(
        next(&[vg(vec![])]),
        ["lvcreate g", "lvcreate g", "lvconvert g/pool"]
    );
    let data = lv(POOL, 480 * MIB, "raid,raid1");
    assert_eq!(
        next(&[vg(vec![data.clone()])]),
        ["lvcreate g", "lvconvert g/pool"]
    );
    let map = lv(META, 16 * MIB, "raid,raid1");
    assert_eq!(next(&[vg(vec![data, map])]), ["lvconvert g/pool"]);
    let holds = Lv {
        error_when_full: false,
        ..thin()
    };
    assert_eq!(next(&[vg(vec![holds])]), ["lvchange g/pool"]);
    assert_eq!(next(&[vg(vec![thin()])]), Vec::<String>::new());
    // Whoever had begun lost it: its partner goes on, once the group is its own.
    let begun = Vg {
        system_id: "pollux-b".to_owned(),
        ..vg(vec![])
    };
    assert_eq!(
        next(&[begun]),
        ["vgchange g", "lvcreate g", "lvcreate g", "lvconvert g/pool"]
    );
}

#[test]
fn the_layout_follows_from_the_number_of_disks() {
    let words = |disks: usize| {
        let calls = create(&[vg(vec![])], "g", &gates(disks), &systems());
        calls.map(|calls| calls[0][6..calls[0].len() - 5].join(" "))
    };
    assert_eq!(words(1).expect("one"), "--type linear");
    assert_eq!(words(2).expect("two"), "--type raid1 --mirrors 1");
    assert_eq!(words(3).expect("three"), "--type raid1 --mirrors 2");
    assert_eq!(words(4).expect("four"), "--type raid10 --mirrors 1 --stripes 2");
    assert_eq!(words(8).expect("eight"), "--type raid10 --mirrors 1 --stripes 4");
    for disks in [0, 5, 7] {
        let refusal = Layout::over(disks).expect_err("no way to mirror");
        assert_eq!(refusal, Refusal::Disks { disks });
    }
}

#[test]
fn everything_finds_its_room() {
    // What the extents of each disk have to hold: its share of data and of the map, each with an extent of its own.
    for (disks, each) in [
        (1, 100),
        (2, 509),
        (2, 60),
        (3, 1000),
        (4, 509),
        (6, 300),
        (4, 4_000_000),
    ] {
        let layout = Layout::over(disks).expect("a layout");
        let (data, map) = sizes(layout, disks, each * disks as u64).expect("room");
        let (share, map_disks) = match layout {
            Layout::Linear => (data, 1),
            Layout::Mirror { .. } => (data + 1, disks),
            Layout::Pairs { pairs } => (data / pairs as u64 + 1, 2),
        };
        assert!(
            map_disks <= disks && share + map < each,
            "{disks} disks of {each}: {data} and {map}"
        );
        assert!(map * MIB >= MAP_BYTES.0 && map * MIB <= MAP_BYTES.1, "{map}");
        assert!(
            share * 10 > each * 6,
            "{disks} disks of {each}: {data} leave too much"
        );
    }
    assert!(matches!(
        sizes(Layout::Mirror { disks: 2 }, 2, 34),
        Err(Refusal::Small { .. })
    ));
}

#[test]
fn what_is_anothers_is_not_touched() {
    let other = Vg {
        name: "root".to_owned(),
        ..vg(vec![])
    };
    assert!(matches!(
        create(std::slice::from_ref(&other), "g", &gates(2), &systems()),
        Err(Refusal::Occupied { .. })
    ));
    assert!(matches!(
        activate(&[other], "g", &systems()),
        Err(Refusal::Missing { .. })
    ));
    for owner in ["", "host", "pollux-c"] {
        let foreign = Vg {
            system_id: owner.to_owned(),
            ..vg(vec![thin()])
        };
        let groups = [foreign];
        assert!(
            matches!(activate(&groups, "g", &systems()), Err(Refusal::Foreign { .. })),
            "{owner}"
        );
        assert!(
            matches!(
                create(&groups, "g", &gates(2), &systems()),
                Err(Refusal::Foreign { .. })
            ),
            "{owner}"
        );
    }
}

#[test]
fn a_takeover_makes_the_group_ones_own_before_it_activates_it() {
    let recorded = parse(include_str!("../../tests/recorded/inactive.json")).expect("a report");
    let as_b = Systems {
        own: "pollux-b".to_owned(),
        partner: "pollux-a".to_owned(),
    };
    let calls = activate(&recorded, "pollux_0123", &as_b).expect("possible");
    let lines: Vec<_> = calls.iter().map(|call| call.join(" ")).collect();
    assert_eq!(
        lines,
        [
            "vgchange --yes --systemid pollux-b pollux_0123",
            "vgchange --activate y pollux_0123"
        ]
    );
    assert_eq!(system(recorded.first(), &as_b), "pollux-b");
    // A disk is missing: LVM changes nothing of the group then, and activates it under the name that it has.
    let mut degraded = recorded.clone();
    degraded[0].missing = 1;
    let calls = activate(&degraded, "pollux_0123", &as_b).expect("possible");
    assert_eq!(heads(&calls), ["vgchange pollux_0123"]);
    assert_eq!(system(degraded.first(), &as_b), "pollux-a");
    // The owner's own restart: everything stands already.
    let active = parse(include_str!("../../tests/recorded/four-disks.json")).expect("a report");
    let as_a = systems();
    assert_eq!(activate(&active, "pollux_0123", &as_a), Ok(Vec::new()));
}

#[test]
fn volumes_are_made_grown_and_removed() {
    let (kept, grown, gone) = ([1; 16], [2; 16], [3; 16]);
    let name = |id| names::volume(VolumeId::from_bytes(id));
    let old = ItemId(Hex([9; 16]));
    let group = vg(vec![
        thin(),
        lv("pool_tdata", 480 * MIB, "raid,raid1"),
        lv(&name(kept), 11 * MIB, "thin,sparse"),
        lv(&name(grown), 11 * MIB, "thin,sparse"),
        lv(&name(gone), 11 * MIB, "thin,sparse"),
        lv(&names::snapshot(old), 11 * MIB, "thin,sparse"),
    ]);
    let volume = |id, size_bytes| Volume {
        id: VolumeId::from_bytes(id),
        size_bytes,
    };
    let new = [4; 16];
    let taken = ItemId(Hex([7; 16]));
    let wanted = Apply {
        pool: PoolId::from_bytes([0; 16]),
        volumes: vec![
            volume(kept, 10 * MIB),
            volume(grown, 10 * MIB + 1),
            volume(new, MIB),
        ],
        snapshots: vec![
            Snapshot {
                id: taken,
                volume: VolumeId::from_bytes(kept),
            },
            Snapshot {
                id: ItemId(Hex([8; 16])),
                volume: VolumeId::from_bytes(new),
            },
        ],
        file_systems: Vec::new(),
        file_system_snapshots: Vec::new(),
    };
    let (calls, refusals) = apply(&group, &wanted, &BTreeSet::new());
    assert_eq!(refusals, []);
    assert_eq!(
        heads(&calls),
        [
            format!("lvremove g/{}", name(gone)),
            format!("lvremove g/{}", names::snapshot(old)),
            format!("lvextend g/{}", name(grown)),
            "lvcreate g".to_owned(),
            // The snapshot of the new volume waits until there is one.
            format!("lvcreate g/{}", name(kept)),
        ]
    );
    assert!(
        calls[2].contains(&format!("{}b", 12 * MIB)),
        "whole extents behind the head: {:?}",
        calls[2]
    );
    let smaller = Apply {
        volumes: vec![volume(kept, 5 * MIB)],
        ..wanted
    };
    let (_, refusals) = apply(&group, &smaller, &BTreeSet::new());
    assert!(
        matches!(refusals[..], [Refusal::Shrink { has, .. }] if has == 10 * MIB),
        "{refusals:?}"
    );
}

#[test]
fn a_roll_back_that_was_cut_short_is_settled_either_way() {
    let (volume, snapshot) = (VolumeId::from_bytes([1; 16]), ItemId(Hex([2; 16])));
    let request = RollBack {
        pool: PoolId::from_bytes([0; 16]),
        to: Snapshot { id: snapshot, volume },
    };
    let (is, next, taken) = (
        names::volume(volume),
        names::next(volume),
        names::snapshot(snapshot),
    );
    let with = |names: &[&str]| {
        let lvs = names.iter().map(|name| lv(name, 11 * MIB, "thin,sparse"));
        vg(std::iter::once(thin()).chain(lvs).collect())
    };
    let whole = roll_back(&with(&[&is, &taken]), &request).expect("possible");
    assert_eq!(
        heads(&whole),
        [
            format!("lvcreate g/{taken}"),
            format!("lvremove g/{is}"),
            format!("lvrename {is}")
        ]
    );
    assert_eq!(
        heads(&settle(&with(&[&is, &next, &taken]))),
        [format!("lvremove g/{next}")]
    );
    assert_eq!(
        heads(&settle(&with(&[&next, &taken]))),
        [format!("lvrename {is}")]
    );
    assert_eq!(settle(&with(&[&is, &taken])), Vec::<Call>::new());
    assert!(matches!(
        roll_back(&with(&[&is]), &request),
        Err(Refusal::NoSnapshot { .. })
    ));
}

#[test]
fn a_disk_comes_in_the_place_of_a_lost_one_step_by_step() {
    let recorded = parse(include_str!("../../tests/recorded/missing-disk.json")).expect("a report");
    let gate = "/dev/mapper/new";
    let mut group = recorded[0].clone();
    assert_eq!(may_replace(&group), Ok(()));
    let none = BTreeSet::new();
    assert_eq!(heads(&replace(&group, gate, &none)), [format!("vgextend {gate}")]);
    group.present.push(gate.to_owned());
    let calls = replace(&group, gate, &none);
    let lines: Vec<_> = calls.iter().map(|call| call.join(" ")).collect();
    // What stands on the mirrors is in pieces with them, and whole with them.
    assert!(
        lines.contains(&format!("lvconvert --yes --repair pollux_0123/pool_tdata {gate}")),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line.contains("/pool_t")), "{lines:?}");
    let tried = group.lvs.iter().map(|lv| lv.name.clone()).collect();
    assert_eq!(
        replace(&group, gate, &tried),
        Vec::<Call>::new(),
        "two are lost, and one has come"
    );
    group.lvs.iter_mut().for_each(|lv| lv.partial = false);
    assert_eq!(heads(&replace(&group, gate, &none)), ["vgreduce pollux_0123"]);
    group.missing = 0;
    assert_eq!(replace(&group, gate, &none), Vec::<Call>::new());
    assert!(matches!(may_replace(&group), Err(Refusal::Whole { .. })));
    assert!(matches!(
        may_replace(&vg(vec![thin()])),
        Err(Refusal::Single { .. })
    ));
}
