use super::*;
use crate::bench::{A, B, Bench, POOLS, params};
use crate::event::{Event, PoolStep, Request};
use crate::machine::Params;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::DiskIndex;

/// Every number of a core, by what it counts.
fn shown(core: &mut Core) -> Vec<(Number, u64)> {
    let mut all = Vec::new();
    core.numbers(&mut |kind, number| all.push((kind, *number)));
    all
}

/// The core with the rank of each number in its place, as a search compares it.
fn ranked(core: &Core, now: Instant) -> Core {
    let mut core = core.canonical(now);
    // Nonces mean nothing: only which is which, in the order in which they were sent.
    let mut nonces: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ranks: BTreeMap<Number, BTreeSet<u64>> = BTreeMap::new();
    for (kind, number) in shown(&mut core) {
        ranks.entry(kind).or_default().insert(number);
    }
    core.numbers(&mut |kind, number| {
        let next = nonces.len() as u64;
        *number = match kind {
            Number::Sent | Number::Heard => *nonces.entry(*number).or_insert(next),
            Number::Disk => *number,
            _ => ranks[&kind].range(..*number).count() as u64,
        };
    });
    core
}

/// Situations of many kinds, some with everything under way.
fn situations(mut bench: Bench) -> Vec<(Core, Instant)> {
    let mut all = Vec::new();
    let mut keep = |bench: &Bench| {
        for core in bench.cores.iter().flatten() {
            all.push((core.clone(), bench.now));
        }
    };
    keep(&bench);
    bench.steps.insert(PoolStep::Release, crate::bench::Comes::Never);
    bench.ask(A, Request::Switchover(POOLS[0])).unwrap();
    assert!(
        bench.cores.iter().flatten().all(|core| core.member()),
        "{:?}",
        bench.said
    );
    bench.ask(B, Request::Switchover(POOLS[0])).unwrap();
    bench.run(Duration::from_millis(700));
    keep(&bench);
    bench.wire = [true, false];
    bench.run(Duration::from_millis(1_300));
    keep(&bench);
    bench.power = false;
    bench.fences = crate::bench::Comes::Never;
    bench.cores[B.index()] = None;
    bench.ballots = false;
    bench.run(Duration::from_secs(4));
    keep(&bench);
    bench.ballots = true;
    bench.run(Duration::from_secs(4));
    keep(&bench);
    bench.tell(A, Event::Legs(alloc::vec![true]));
    keep(&bench);
    all
}

/// What is written as an instant when a core is shown for a search for mistakes.
fn instants(core: &Core) -> Vec<u64> {
    let text: String = format!("{core:?}");
    let mut at: Vec<u64> = text
        .split("Instant(")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap().parse().unwrap())
        .collect();
    at.sort_unstable();
    at
}

#[test]
fn every_instant_of_a_core_is_shown_once() {
    let mut changing = Bench::whole();
    changing.formats = crate::bench::Comes::Never;
    let (from, to) = (DiskIndex::new(0), DiskIndex::new(3));
    changing.ask(A, Request::ReplaceQuorumDisk { from, to }).unwrap();
    let changing = (changing.core(A).clone(), changing.now);
    assert!(changing.0.wishes.change.is_some());
    for (core, now) in situations(Bench::whole()).into_iter().chain([changing]) {
        let mut core = core.canonical(now);
        let shown = shown(&mut core);
        let mut given: Vec<u64> = shown
            .iter()
            .filter(|(kind, _)| *kind == Number::Instant)
            .map(|(_, at)| *at)
            .collect();
        given.sort_unstable();
        assert_eq!(given, instants(&core));
    }
}

#[test]
fn the_same_situation_at_another_hour_and_after_another_count_is_the_same_core() {
    let played = |hour: u64| {
        let mut bench = Bench::new();
        bench.now += Duration::from_secs(3_600) * u32::try_from(hour).unwrap();
        for area in bench.disks.iter_mut().flatten() {
            area.slot.as_mut().unwrap().sequence += 1_000_000 * hour;
        }
        let both = [A, B].map(|who| {
            let params = params(who, 1);
            let seed = params.seed + hour;
            Params { seed, ..params }
        });
        situations(bench.made_whole(both))
    };
    let (one, other) = (played(0), played(7));
    assert_eq!(one.len(), other.len());
    for ((one, then), (other, now)) in one.into_iter().zip(other) {
        assert_ne!(one, other, "they are different cores");
        let (one, other) = (ranked(&one, then), ranked(&other, now));
        assert_eq!(format!("{one:#?}"), format!("{other:#?}"));
    }
}

#[test]
fn what_decides_nothing_is_dropped_and_what_decides_is_kept() {
    let bench = Bench::whole();
    let (core, now) = (bench.core(A), bench.now);
    let window = core.params.timing.flap_window;
    let same = |change: &dyn Fn(&mut Core)| {
        let mut other = core.clone();
        change(&mut other);
        core.canonical(now) == other.canonical(now)
    };
    assert!(same(&|core| core.params.seed = 99));
    assert!(same(&|core| core.disks[0].latency = None));
    assert!(same(
        &|core| core.pools.get_mut(&POOLS[0]).unwrap().problem = Some("x".into())
    ));
    let just_too_old = Instant::from_nanos((now.as_nanos()) - window.as_nanos() as u64);
    assert!(
        same(&|core| core.note_silences(just_too_old, 1)),
        "a silence that counts no more"
    );
    assert!(!same(
        &|core| core.note_silences(just_too_old + Duration::from_nanos(1), 1)
    ));
    let sent = |at: Instant| move |core: &mut Core| core.pools.get_mut(&POOLS[0]).unwrap().sent_home.push(at);
    assert!(same(&sent(just_too_old)));
    assert!(!same(&sent(just_too_old + Duration::from_nanos(1))));
    assert!(!same(&|core| core.pools.get_mut(&POOLS[0]).unwrap().abort = true));
    let mut starting = Bench::new();
    starting.ballots = false;
    starting.shelf[0] = false;
    starting.boot(params(A, 1));
    starting.shelf[0] = true;
    let before = starting.core(A).clone();
    starting.health = [crate::bench::Health::Gone; 5];
    starting.health[0] = crate::bench::Health::Good;
    starting.run(Duration::from_secs(1));
    let after = starting.core(A);
    assert_eq!((before.state(now), after.state(now)), ("starting", "starting"));
    assert!(
        after.canonical(now).disks[0].own.is_some(),
        "what was read back counts while it starts"
    );
    assert!(
        core.canonical(now).disks.iter().all(|disk| disk.own.is_none()),
        "and no longer"
    );
}

#[test]
fn a_nonce_that_nobody_can_bring_back_is_forgotten() {
    let mut bench = Bench::whole();
    let core = bench.core_mut(A);
    let sent = |core: &mut Core| {
        shown(core)
            .iter()
            .filter(|(kind, _)| *kind == Number::Sent)
            .count()
    };
    assert!(sent(core) > 0);
    let all = sent(core);
    core.forget_nonces(&mut |_| true);
    assert_eq!(sent(core), all);
    core.forget_nonces(&mut |_| false);
    assert_eq!(sent(core), 0);
}

/// Of a block that is written, what its version counts: who searches renames each kind by itself.
#[test]
fn versions_of_blocks_are_numbers_of_their_kind() {
    let bench = Bench::whole();
    let mut core = bench.core(A).clone();
    let durable = |core: &Core, block: BlockId| core.disks[0].blocks[block as usize].durable;
    let kinds = [
        (BlockId::Slot, Some(Number::OwnSlot)),
        (BlockId::Vote0, Some(Number::Ballot)),
        (BlockId::Vote1, Some(Number::Ballot)),
        (BlockId::Claims, None),
        (BlockId::Mailbox, Some(Number::Letter)),
    ];
    for kind in [Number::OwnSlot, Number::Ballot, Number::Letter] {
        let before = core.clone();
        core.numbers(&mut |one, number| *number += u64::from(one == kind) * 1_000_000);
        for (block, its) in kinds {
            let moved = durable(&core, block) != durable(&before, block);
            assert_eq!(moved, its == Some(kind), "{block:?} and {kind:?}");
        }
        let ballot = core.arbiter.version() != before.arbiter.version();
        assert_eq!(
            ballot,
            kind == Number::Ballot,
            "the version of the own ballot and {kind:?}"
        );
        core = before;
    }
}
