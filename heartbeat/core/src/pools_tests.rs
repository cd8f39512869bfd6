//! Claims as a table, answers of the driver as a table, and the steps whose order carries the promise.

use super::*;
use crate::area::Claims;
use crate::bench::{A, B, Bench, Comes, POOLS, params};
use crate::event::{Event, Import, Request};
use crate::machine::Fence;
use alloc::string::ToString;
use core::time::Duration;
use pollux_api::id::Incarnation;

const NS: Duration = Duration::from_nanos(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn one() -> Incarnation {
    Incarnation::new(1)
}

fn whole() -> (Core, Instant) {
    let mut bench = Bench::whole();
    bench.run(ms(500));
    (bench.core(A).clone(), bench.now)
}

fn claim(generation: u64, state: ClaimState) -> Claim {
    Claim {
        epoch: Epoch::new(3),
        generation: Generation::new(generation),
        state,
        incarnation: one(),
        serving: state == ClaimState::Held,
        placed: false,
    }
}

fn key(core: &Core, generation: u64) -> ReservationKey {
    ReservationKey {
        controller: A,
        epoch: core.record().epoch,
        generation: Generation::new(generation),
    }
}

/// A core of a whole array in which a pool is claimed like this: by itself, and by the partner on so many disks.
fn claimed(pool: PoolId, mine: Option<Claim>, theirs: Option<(Claim, usize)>) -> Core {
    let (mut core, _) = whole();
    core.claims.pools.remove(&pool);
    core.claims.pools.extend(mine.map(|claim| (pool, claim)));
    for (at, disk) in core.disks.iter_mut().enumerate() {
        let claims = &mut disk.claims.as_mut().unwrap().0;
        claims.pools.remove(&pool);
        claims.pools.extend(
            theirs
                .filter(|(_, disks)| at < *disks)
                .map(|(claim, _)| (pool, claim)),
        );
    }
    core.pools.get_mut(&pool).unwrap().state = State::Idle;
    core.imports.as_mut().unwrap().remove(&pool);
    core
}

// ---- whose a pool is ------------------------------------------------------------------------------------------

#[test]
fn whose_a_pool_is_follows_from_the_claims() {
    use ClaimState::{Declined, Given, Held};
    let released = |generation| Basis::Take(Kind::Released(Generation::new(generation)));
    let (own, free) = (Basis::Take(Kind::Own), Basis::Take(Kind::Unowned));
    let ended = |claim: Claim| Claim {
        incarnation: Incarnation::new(0),
        ..claim
    };
    let mine = |generation, state| Some(claim(generation, state));
    let theirs = |generation, state| Some((claim(generation, state), 3));
    // What is claimed, and what follows for a pool at home here and for one at home there.
    let table = [
        ("nobody claims it", None, None, free, Basis::No),
        ("held here", mine(5, Held), theirs(4, Given), own, own),
        (
            "given here",
            mine(5, Given),
            theirs(4, Declined),
            Basis::No,
            Basis::No,
        ),
        (
            "yielded here",
            mine(5, Declined),
            theirs(4, Held),
            Basis::No,
            Basis::No,
        ),
        (
            "both have given alike",
            mine(5, Given),
            theirs(5, Given),
            free,
            Basis::No,
        ),
        (
            "both have yielded alike",
            mine(5, Declined),
            theirs(5, Declined),
            free,
            Basis::No,
        ),
        (
            "held by an ended one here",
            mine(5, Held).map(ended),
            None,
            free,
            Basis::No,
        ),
        (
            "given by an ended one here",
            mine(5, Given).map(ended),
            None,
            free,
            Basis::No,
        ),
        (
            "held there",
            mine(4, Given),
            theirs(5, Held),
            Basis::No,
            Basis::No,
        ),
        (
            "held by an ended one there",
            None,
            Some((ended(claim(5, Held)), 3)),
            free,
            Basis::No,
        ),
        (
            "given there",
            mine(4, Declined),
            theirs(5, Given),
            released(5),
            released(5),
        ),
        (
            "given there on a majority",
            None,
            Some((claim(5, Given), 2)),
            released(5),
            released(5),
        ),
        (
            "given there on a minority",
            None,
            Some((claim(5, Given), 1)),
            Basis::No,
            Basis::No,
        ),
        (
            "yielded there",
            mine(4, Given),
            theirs(5, Declined),
            released(5),
            released(5),
        ),
        ("claimed by both alike", mine(5, Held), theirs(5, Held), own, own),
    ];
    for (what, mine, theirs, at_home, away) in table {
        for (pool, expected) in [(POOLS[0], at_home), (POOLS[1], away)] {
            assert_eq!(claimed(pool, mine, theirs).basis(pool), expected, "{what}");
        }
    }
}

#[test]
fn nothing_is_known_of_a_pool_without_membership_or_before_the_partners_claims_were_read() {
    let held = || claimed(POOLS[0], Some(claim(5, ClaimState::Held)), None);
    let basis = |change: &dyn Fn(&mut Core)| {
        let mut core = held();
        change(&mut core);
        core.basis(POOLS[0])
    };
    assert_eq!(basis(&|_| {}), Basis::Take(Kind::Own));
    assert_eq!(
        basis(&|core| core.params.incarnation = Incarnation::new(2)),
        Basis::No
    );
    assert_eq!(held().basis(PoolId::from_bytes([9; 16])), Basis::No);
    let unread = |core: &mut Core| {
        let stamp = core.decided_stamp;
        core.disks
            .iter_mut()
            .flat_map(|disk| &mut disk.claims)
            .for_each(|(_, id)| *id = stamp - 1);
    };
    assert_eq!(basis(&unread), Basis::No);
    assert!(!{
        let mut core = held();
        unread(&mut core);
        core.claims_known()
    });
}

#[test]
fn a_gift_by_wire_counts_while_the_wire_lives_and_names_the_claim() {
    let core = |generation: u64, alive: bool| {
        let mut core = claimed(POOLS[1], None, Some((claim(5, ClaimState::Held), 3)));
        core.partner.letter.from = core.partner.incarnation;
        core.partner.letter.to = core.params.incarnation;
        core.partner.letter.epoch = core.record().epoch;
        core.partner.letter.gifts = alloc::vec![(POOLS[1], Generation::new(generation))];
        core.wire_sight.0 = if alive {
            WireSight::Alive
        } else {
            WireSight::Silent
        };
        core.basis(POOLS[1])
    };
    assert_eq!(core(5, true), Basis::Take(Kind::Released(Generation::new(5))));
    assert_eq!(core(5, false), Basis::No);
    assert_eq!(core(4, true), Basis::No, "an older gift");
}

#[test]
fn a_lone_member_takes_everything_and_owns_what_it_holds() {
    let bench = Bench::alone();
    let basis = |claim: Claim| {
        let mut core = bench.core(A).clone();
        let epoch = core.record().epoch.next();
        core.claims.pools.insert(POOLS[0], Claim { epoch, ..claim });
        core.basis(POOLS[0])
    };
    assert_eq!(basis(claim(9, ClaimState::Held)), Basis::Take(Kind::Own));
    assert_eq!(basis(claim(9, ClaimState::Given)), Basis::Take(Kind::Fenced));
    let ended = Claim {
        incarnation: Incarnation::new(0),
        ..claim(9, ClaimState::Held)
    };
    assert_eq!(basis(ended), Basis::Take(Kind::Fenced));
    let mut core = bench.core(A).clone();
    for disk in &mut core.disks {
        let epoch = core.arbiter.decided().epoch.next();
        let theirs = Claim {
            epoch,
            ..claim(9, ClaimState::Held)
        };
        disk.claims = Some((
            Claims {
                sequence: 9,
                pools: [(POOLS[0], theirs)].into(),
            },
            1,
        ));
    }
    assert_eq!(
        core.basis(POOLS[0]),
        Basis::Take(Kind::Fenced),
        "it was the partner's"
    );
}

#[test]
fn a_pool_is_wanted_back_when_nothing_is_going_on_with_it() {
    let wants = |change: &dyn Fn(&mut Core)| {
        let mut core = claimed(POOLS[0], Some(claim(5, ClaimState::Held)), None);
        change(&mut core);
        core.wants_back(POOLS[0])
    };
    assert!(wants(&|_| {}));
    let import = key(&whole().0, 5);
    assert!(!wants(&|core| {
        core.imports.as_mut().unwrap().insert(POOLS[0], import);
    }));
    let generation = Generation::new(5);
    assert!(!wants(
        &|core| core.pools.get_mut(&POOLS[0]).unwrap().state = State::Given { generation }
    ));
    assert!(!claimed(POOLS[1], None, None).wants_back(POOLS[1]));
}

#[test]
fn who_put_a_pool_where_it_is_is_said_by_the_claim_or_by_the_asking() {
    let placed = Claim {
        placed: true,
        ..claim(5, ClaimState::Given)
    };
    let released = Kind::Released(Generation::new(5));
    let of = |claims: (Option<Claim>, Option<Claim>), asked: bool, kind| {
        let mut core = claimed(POOLS[1], claims.0, claims.1.map(|claim| (claim, 3)));
        core.pools.get_mut(&POOLS[1]).unwrap().ask = asked.then_some(Instant::ZERO);
        core.placed(POOLS[1], kind)
    };
    let plain = claim(5, ClaimState::Given);
    assert!(of((Some(placed), None), false, Kind::Own) && !of((Some(plain), None), false, Kind::Own));
    assert!(
        !of((Some(plain), None), true, Kind::Own),
        "it was not asked for: it is here"
    );
    assert!(of((None, Some(placed)), false, released) && of((None, Some(plain)), true, released));
    assert!(!of((None, Some(plain)), false, released));
    for kind in [Kind::Unowned, Kind::Fenced] {
        assert!(!of((Some(placed), Some(placed)), true, kind));
    }
}

#[test]
fn claims_are_durable_on_a_majority_of_that_version_or_a_later_one() {
    let (mut core, _) = whole();
    let version = core.claims.sequence;
    assert!(core.claims_durable(version) && core.claims_durable(version - 1));
    assert!(!core.claims_durable(version + 1));
    core.disks[0].set_claims_durable(version + 1);
    assert!(!core.claims_durable(version + 1), "one of three");
    core.disks[2].set_claims_durable(version + 2);
    assert!(
        core.claims_durable(version + 1) && !core.claims_durable(version + 2),
        "two of three"
    );
}

// ---- what the driver reports ----------------------------------------------------------------------------------

/// What comes of an answer to a step of this generation while the pool is in that state under generation 5.
fn after(
    state: &dyn Fn(ReservationKey) -> State,
    step: PoolStep,
    generation: u64,
    good: bool,
) -> &'static str {
    let (mut core, now) = whole();
    let key = key(&core, 5);
    core.pools.get_mut(&POOLS[0]).unwrap().state = state(key);
    let result = if good { Ok(()) } else { Err("x".to_string()) };
    core.pool_done(now, POOLS[0], Generation::new(generation), step, result);
    core.pool_state(POOLS[0]).unwrap()
}

#[test]
fn an_answer_moves_the_step_that_it_belongs_to_and_no_other() {
    let (core, _) = whole();
    let victim = core.victim();
    let epoch = core.record().epoch;
    let waits = [
        Evidence::Reserved { victim, epoch },
        Evidence::Waited { victim, epoch },
    ];
    let published = [
        Evidence::Own,
        Evidence::Unowned,
        Evidence::PowerOff { victim, epoch },
        Evidence::Rebooted { victim, epoch },
        Evidence::Released {
            generation: Generation::new(1),
        },
    ];
    let each = waits.map(|evidence| (evidence, "lease-wait")).into_iter();
    for (evidence, next) in each.chain(published.map(|evidence| (evidence, "publishing"))) {
        let importing = move |key| State::Importing { key, evidence };
        assert_eq!(after(&importing, PoolStep::Take, 5, true), next, "{evidence:?}");
        assert_eq!(
            after(&importing, PoolStep::Take, 4, true),
            "importing",
            "an older generation"
        );
        assert_eq!(
            after(&importing, PoolStep::Publish, 5, true),
            "importing",
            "another step"
        );
        assert_eq!(after(&importing, PoolStep::Take, 5, false), "idle");
    }
    let publishing = |key| State::Publishing { key, out: true };
    assert_eq!(after(&publishing, PoolStep::Publish, 5, true), "serving");
    assert_eq!(after(&publishing, PoolStep::Publish, 4, true), "publishing");
    assert_eq!(
        after(&publishing, PoolStep::Publish, 5, false),
        "publishing",
        "once more"
    );
    let releasing = |key| State::Releasing {
        key,
        cause: Cause::Operator,
    };
    assert_eq!(after(&releasing, PoolStep::Release, 5, true), "giving");
    assert_eq!(after(&releasing, PoolStep::Release, 4, true), "releasing");
    assert_eq!(after(&releasing, PoolStep::Release, 5, false), "resuming");
    let leaving = |key| State::Releasing {
        key,
        cause: Cause::Leaving,
    };
    assert_eq!(after(&leaving, PoolStep::Release, 5, false), "stopping");
    let resuming = |key| State::Resuming { key };
    assert_eq!(after(&resuming, PoolStep::Resume, 5, true), "serving");
    assert_eq!(after(&resuming, PoolStep::Resume, 4, true), "resuming");
    assert_eq!(after(&resuming, PoolStep::Resume, 5, false), "stopping");
    for (give, next) in [(true, "giving"), (false, "idle")] {
        let stopping = move |key: ReservationKey| State::Stopping {
            generation: key.generation,
            give,
        };
        for good in [true, false] {
            assert_eq!(
                after(&stopping, PoolStep::Stop, 5, good),
                next,
                "either way it is over"
            );
            assert_eq!(after(&stopping, PoolStep::Stop, 4, good), "stopping");
        }
    }
    assert_eq!(after(&|_| State::Idle, PoolStep::Take, 5, true), "idle");
}

#[test]
fn a_pool_that_cannot_be_published_three_times_is_begun_again_from_the_import() {
    let (mut core, now) = whole();
    let key = key(&core, 5);
    for failure in 1..=3 {
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Publishing { key, out: true };
        core.pool_done(
            now,
            POOLS[0],
            key.generation,
            PoolStep::Publish,
            Err("x".to_string()),
        );
        let expected = if failure < 3 { "publishing" } else { "stopping" };
        assert_eq!(core.pool_state(POOLS[0]), Some(expected), "failure {failure}");
    }
}

#[test]
fn a_release_that_has_been_given_up_or_has_nobody_to_go_to_ends_in_idleness_and_says_who_wished_it() {
    let release = |change: &dyn Fn(&mut Core), cause| {
        let (mut core, now) = whole();
        let key = key(&core, 5);
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Releasing { key, cause };
        change(&mut core);
        core.pool_done(now, POOLS[0], key.generation, PoolStep::Release, Ok(()));
        (
            core.pool_state(POOLS[0]).unwrap(),
            core.claims.pools[&POOLS[0]].placed,
        )
    };
    assert_eq!(release(&|_| {}, Cause::Operator), ("giving", true));
    for cause in [Cause::Asked, Cause::Home, Cause::Leaving] {
        assert_eq!(release(&|_| {}, cause), ("giving", false));
    }
    let abort = |core: &mut Core| core.pools.get_mut(&POOLS[0]).unwrap().abort = true;
    assert_eq!(release(&abort, Cause::Operator).0, "idle");
    let lost = |core: &mut Core| core.partner.advert.as_mut().unwrap().shelf = false;
    assert_eq!(
        release(&lost, Cause::Operator).0,
        "idle",
        "nobody is there to take it"
    );
}

#[test]
fn imports_that_have_gone_are_taken_again_in_a_new_epoch() {
    let states = |key: ReservationKey| {
        [
            State::LeaseWait { key },
            State::Publishing { key, out: true },
            State::Serving { key },
        ]
    };
    let (core, now) = whole();
    let key = key(&core, 1);
    for state in states(key) {
        let report = |imports: &[(PoolId, ReservationKey)]| {
            let mut core = core.clone();
            core.pools.get_mut(&POOLS[0]).unwrap().state = state.clone();
            core.set_imports(now, imports.iter().copied().collect());
            (
                core.pool_state(POOLS[0]) == Some("idle"),
                core.renew.contains_key(&POOLS[0]),
            )
        };
        assert_eq!(report(&[(POOLS[0], key)]), (false, false));
        assert_eq!(report(&[]), (true, true));
        let other = ReservationKey {
            generation: key.generation.next(),
            ..key
        };
        assert_eq!(report(&[(POOLS[0], other)]), (true, true), "another import");
    }
    let mut idle = core.clone();
    idle.pools.get_mut(&POOLS[0]).unwrap().state = State::Idle;
    idle.set_imports(now, BTreeMap::new());
    assert!(idle.renew.is_empty());
}

#[test]
fn what_an_earlier_daemon_held_and_is_gone_is_taken_again_in_a_new_epoch() {
    let missed = |claim: Claim, imported: bool| {
        let mut core = claimed(POOLS[0], Some(claim), None);
        if imported {
            let key = key(&core, 5);
            core.imports.as_mut().unwrap().insert(POOLS[0], key);
        }
        core.miss_imports();
        (
            core.renew.contains_key(&POOLS[0]),
            core.claims.pools[&POOLS[0]].serving,
        )
    };
    let held = claim(5, ClaimState::Held);
    assert_eq!(missed(held, false), (true, false));
    assert_eq!(missed(held, true), (false, true));
    assert!(!missed(claim(5, ClaimState::Given), false).0);
    assert!(
        !missed(
            Claim {
                incarnation: Incarnation::new(0),
                ..held
            },
            false
        )
        .0
    );
}

#[test]
fn a_pool_that_is_dropped_leaves_nothing_behind() {
    let (mut core, _) = whole();
    let sequence = core.claims.sequence;
    core.renew.insert(POOLS[0], Epoch::new(3));
    core.drop_pool(POOLS[0]);
    assert!(
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::DeletePool { pool, .. } if *pool == POOLS[0]))
    );
    assert!(
        core.pool_state(POOLS[0]).is_none() && core.imported(POOLS[0]).is_none() && core.renew.is_empty()
    );
    assert!(!core.claims.pools.contains_key(&POOLS[0]));
    assert_eq!(core.claims.sequence, sequence + 1, "the disks are told");
    core.out.clear();
    core.drop_pool(POOLS[1]);
    assert!(
        matches!(core.out[..], [Effect::DeletePool { pool, .. }] if pool == POOLS[1]),
        "keys of an attempt may be left"
    );
    core.out.clear();
    core.drop_pool(POOLS[1]);
    assert!(core.out.is_empty(), "once");
}

#[test]
fn an_import_that_no_configuration_has_is_deleted_once() {
    let (mut core, now) = whole();
    let stray = PoolId::from_bytes([0x77; 16]);
    let key = ReservationKey {
        controller: A,
        epoch: core.record().epoch,
        generation: Generation::new(4),
    };
    let mut imports = core.imports.clone().unwrap();
    imports.insert(stray, key);
    core.set_imports(now, imports);
    core.out.clear();
    core.step_pools(now);
    let deleted = |effect: &&Effect| matches!(effect, Effect::DeletePool { .. });
    assert_eq!(
        core.out.iter().filter(deleted).collect::<Vec<_>>(),
        [&Effect::DeletePool {
            pool: stray,
            generation: key.generation
        }]
    );
    core.out.clear();
    core.step_pools(now);
    assert_eq!(core.out.iter().find(deleted), None);
}

#[test]
fn a_key_of_the_partner_or_of_a_higher_epoch_is_a_fence_and_any_other_a_loss() {
    let (core, now) = whole();
    let epoch = core.record().epoch;
    let lost = |holder: Option<(ControllerId, Epoch)>, state: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        state(&mut core);
        let generation = Generation::new(9);
        let holder = holder.map(|(controller, epoch)| ReservationKey {
            controller,
            epoch,
            generation,
        });
        core.exclusion_lost(now, POOLS[0], holder);
        let stopped = core
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::StopPool { .. }));
        (
            core.key_sight == KeySight::Partners,
            stopped,
            core.renew.contains_key(&POOLS[0]),
        )
    };
    let serving = |_: &mut Core| {};
    assert_eq!(lost(Some((B, epoch)), &serving), (true, false, false));
    assert_eq!(lost(Some((A, epoch.next())), &serving), (true, false, false));
    assert_eq!(lost(Some((A, epoch)), &serving), (false, true, true));
    assert_eq!(lost(None, &serving), (false, true, true));
    let idle = |core: &mut Core| core.pools.get_mut(&POOLS[0]).unwrap().state = State::Idle;
    assert_eq!(
        lost(None, &idle),
        (false, true, true),
        "imported, and not adopted yet"
    );
    let nothing = |core: &mut Core| {
        idle(core);
        core.forget_import(POOLS[0]);
    };
    assert_eq!(
        lost(Some((B, epoch)), &nothing),
        (false, false, false),
        "it holds nothing that could be lost"
    );
}

// ---- steps ----------------------------------------------------------------------------------------------------

#[test]
fn a_fence_that_is_under_way_is_called_back_before_anything_else() {
    let called_back = |state: &dyn Fn(ReservationKey) -> State, give: bool| {
        let (mut core, now) = whole();
        let key = key(&core, 5);
        core.pools.get_mut(&POOLS[0]).unwrap().state = state(key);
        core.call_back(now, POOLS[0], give);
        let stopped = core
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::StopPool { .. }));
        (core.pool_state(POOLS[0]).unwrap(), stopped)
    };
    let fencing = |outcome| {
        move |key| State::Fencing {
            key,
            kind: Kind::Fenced,
            claimed: false,
            outcome,
        }
    };
    for give in [true, false] {
        assert_eq!(called_back(&fencing(None), give), ("stopping", true));
        let next = if give { "giving" } else { "idle" };
        assert_eq!(called_back(&fencing(Some(false)), give), (next, false));
        let verifying = |key| State::Verifying {
            key,
            kind: Kind::Unowned,
            stamp: 0,
        };
        assert_eq!(called_back(&verifying, give), (next, false));
    }
}

#[test]
fn what_is_given_is_what_was_held_and_otherwise_a_claim_above_all() {
    let given = |claim: Claim| {
        let mut core = claimed(POOLS[0], Some(claim), None);
        core.give(Instant::ZERO, POOLS[0], false);
        let given = core.claims.pools[&POOLS[0]];
        assert_eq!(given.state, ClaimState::Given);
        (given.generation.get(), given.epoch)
    };
    let held = claim(5, ClaimState::Held);
    let epoch = whole().0.record().epoch;
    assert_eq!(
        given(Claim {
            epoch: Epoch::new(2),
            ..held
        }),
        (5, Epoch::new(2))
    );
    assert_eq!(given(claim(5, ClaimState::Declined)), (6, epoch));
    assert_eq!(
        given(Claim {
            incarnation: Incarnation::new(0),
            ..held
        }),
        (6, epoch)
    );
}

#[test]
fn nothing_is_taken_before_the_pools_and_the_imports_are_known() {
    let steps = |change: &dyn Fn(&mut Core)| {
        let mut core = claimed(POOLS[0], None, None);
        core.adopted = false;
        change(&mut core);
        core.step_pools(Instant::from_nanos(u64::MAX / 2));
        (core.pool_state(POOLS[0]).unwrap(), core.adopted)
    };
    assert_eq!(steps(&|_| {}), ("claiming", true));
    assert_eq!(steps(&|core| core.imports = None), ("idle", false));
    assert_eq!(steps(&|core| core.pools_known = false), ("idle", false));
}

#[test]
fn a_claim_is_written_before_it_is_read_against_and_the_ground_must_stay() {
    let (base, now) = (claimed(POOLS[0], None, None), Instant::from_nanos(u64::MAX / 2));
    let mut core = base.clone();
    assert!(core.step_pool(now, POOLS[0]), "it is free, and at home here");
    let version = core.claims.sequence;
    assert!(!core.step_pool(now, POOLS[0]), "the claim is not durable");
    core.disks[0].set_claims_durable(version);
    assert!(!core.claims_durable(version));
    core.disks[1].set_claims_durable(version);
    core.out.clear();
    assert!(core.step_pool(now, POOLS[0]));
    assert!(matches!(core.pools[&POOLS[0]].state, State::Verifying { stamp, .. } if stamp == core.stamp()));
    assert!(
        !core.step_pool(now, POOLS[0]),
        "the partner's claims were not read since"
    );
    let stamp = core.stamp();
    let read = |core: &mut Core, id| {
        core.disks
            .iter_mut()
            .flat_map(|disk| &mut disk.claims)
            .for_each(|(_, of)| *of = id);
    };
    read(&mut core, stamp - 1);
    assert!(!core.step_pool(now, POOLS[0]), "read too early");
    let mut moved = core.clone();
    read(&mut core, stamp);
    assert!(core.step_pool(now, POOLS[0]));
    assert_eq!(core.pool_state(POOLS[0]), Some("fencing"));
    assert!(
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::FencePool { victim: None, .. }))
    );
    // The partner has claimed it as well: the one that sees it yields.
    let epoch = moved.record().epoch;
    for disk in &mut moved.disks {
        let claims = &mut disk.claims.as_mut().unwrap().0;
        claims.pools.insert(
            POOLS[0],
            Claim {
                epoch,
                ..claim(1, ClaimState::Declined)
            },
        );
    }
    read(&mut moved, stamp);
    assert!(moved.step_pool(now, POOLS[0]));
    assert_eq!(moved.claims.pools[&POOLS[0]].state, ClaimState::Declined);
    assert_eq!(moved.pool_state(POOLS[0]), Some("idle"));
    // Another epoch, or a claim of the partner's that counts: begin again.
    for state in [
        State::Claiming {
            key: key(&base, 5),
            kind: Kind::Unowned,
            evidence: None,
            version: 1,
        },
        State::Verifying {
            key: key(&base, 5),
            kind: Kind::Unowned,
            stamp: 0,
        },
        State::Fencing {
            key: key(&base, 5),
            kind: Kind::Unowned,
            claimed: true,
            outcome: Some(true),
        },
    ] {
        let again = |change: &dyn Fn(&mut Core)| {
            let mut core = base.clone();
            let state = state.clone();
            core.pools.get_mut(&POOLS[0]).unwrap().state = state;
            change(&mut core);
            core.step_pool(now, POOLS[0]);
            core.pool_state(POOLS[0]) == Some("idle")
        };
        assert!(!again(&|_| {}), "{state:?}");
        let held = |core: &mut Core| {
            let theirs = Claim {
                epoch: core.record().epoch,
                ..claim(9, ClaimState::Held)
            };
            for disk in &mut core.disks {
                disk.claims.as_mut().unwrap().0.pools.insert(POOLS[0], theirs);
            }
        };
        assert!(again(&held), "{state:?}");
        let later = |core: &mut Core| {
            let record = *core.record();
            core.arbiter.learn(crate::record::Record {
                epoch: record.epoch.next(),
                ..record
            });
        };
        assert!(again(&later), "{state:?}");
    }
}

#[test]
fn a_gift_is_verified_against_the_same_gift() {
    let stamp = 1;
    let verified = |theirs: Claim| {
        let mut core = claimed(POOLS[1], Some(claim(6, ClaimState::Held)), Some((theirs, 3)));
        let key = key(&core, 6);
        core.pools.get_mut(&POOLS[1]).unwrap().seen =
            Some((Epoch::new(3), Generation::new(5), ClaimState::Held));
        core.step_verifying(
            Instant::ZERO,
            POOLS[1],
            key,
            Kind::Released(Generation::new(5)),
            stamp,
        );
        core.pool_state(POOLS[1]).unwrap()
    };
    assert_eq!(
        verified(claim(5, ClaimState::Given)),
        "fencing",
        "by wire first, and now on the disks"
    );
    assert_eq!(verified(claim(5, ClaimState::Held)), "fencing", "as it was seen");
    assert_eq!(verified(claim(5, ClaimState::Declined)), "idle", "something else");
    assert_eq!(verified(claim(4, ClaimState::Given)), "idle", "another gift");
}

#[test]
fn a_publication_waits_for_its_next_attempt_and_no_longer() {
    let (mut core, now) = whole();
    let key = key(&core, 5);
    let step = |core: &mut Core, at| {
        let pool = core.pools.get_mut(&POOLS[0]).unwrap();
        (pool.state, pool.retry_at) = (State::Publishing { key, out: false }, now);
        core.out.clear();
        core.step_pool(at, POOLS[0]);
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::PublishPool { .. }))
    };
    assert!(!step(&mut core, now.before(NS)));
    assert!(step(&mut core, now));
    assert!(step(&mut core, now + NS));
}

#[test]
fn a_pool_that_could_not_be_taken_waits_for_its_next_attempt_and_no_longer() {
    let core = claimed(POOLS[0], None, None);
    let now = Instant::from_nanos(u64::MAX / 2);
    let begun = |at| {
        let mut core = core.clone();
        core.pools.get_mut(&POOLS[0]).unwrap().retry_at = now;
        core.step_idle(at, POOLS[0])
    };
    assert!(!begun(now.before(NS)) && begun(now) && begun(now + NS));
}

#[test]
fn a_fence_that_failed_is_tried_again_when_its_time_has_come() {
    let core = claimed(POOLS[0], None, None);
    let now = Instant::from_nanos(u64::MAX / 2);
    let again = |at: Instant| {
        let mut core = core.clone();
        core.pools.get_mut(&POOLS[0]).unwrap().retry_at = now;
        let key = key(&core, 5);
        core.out.clear();
        core.step_fencing(at, POOLS[0], key, Kind::Unowned, true, Some(false));
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::FencePool { .. }))
    };
    assert!(!again(now.before(NS)) && again(now) && again(now + NS));
}

#[test]
fn steps_that_need_no_answer_follow_each_other_at_once() {
    let bench = Bench::alone();
    let mut core = bench.core(A).clone();
    let State::Serving { key } = core.pools[&POOLS[1]].state else {
        panic!("it is served");
    };
    core.pools.get_mut(&POOLS[1]).unwrap().state = State::LeaseWait { key };
    core.step_pools(bench.now);
    let published = Effect::PublishPool { pool: POOLS[1], key };
    assert!(core.out.contains(&published), "the old lease has run out");
}

#[test]
fn a_gift_is_over_when_it_stands_on_the_disks_or_the_shelf_is_gone() {
    let (core, now) = whole();
    let version = core.claims.sequence + 1;
    let generation = Generation::new(5);
    let state = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Giving { generation, version };
        change(&mut core);
        core.step_pool(now, POOLS[0]);
        core.pool_state(POOLS[0]).unwrap()
    };
    assert_eq!(state(&|_| {}), "giving");
    assert_eq!(
        state(&|core| core
            .disks
            .iter_mut()
            .for_each(|disk| disk.set_claims_durable(version))),
        "given"
    );
    let lost = |core: &mut Core| {
        core.disks
            .iter_mut()
            .for_each(|disk| disk.slot_submitted = Some(Instant::ZERO))
    };
    assert_eq!(state(&lost), "given", "the wire carries it");
}

/// K5: only the receiver's word, or an epoch without it, ends a gift.
#[test]
fn what_was_given_comes_back_only_by_the_receivers_word() {
    let state = |mine: ClaimState, theirs: Option<Claim>| {
        let mut core = claimed(POOLS[0], Some(claim(5, mine)), theirs.map(|claim| (claim, 3)));
        let generation = Generation::new(5);
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Given { generation };
        let moved = core.step_pool(Instant::ZERO, POOLS[0]);
        assert_eq!(
            moved,
            core.pool_state(POOLS[0]) == Some("idle"),
            "and what follows is done at once"
        );
        core.pool_state(POOLS[0]).unwrap()
    };
    assert_eq!(state(ClaimState::Given, None), "given");
    assert_eq!(
        state(ClaimState::Given, Some(claim(4, ClaimState::Held))),
        "given",
        "an older word"
    );
    assert_eq!(
        state(ClaimState::Given, Some(claim(6, ClaimState::Held))),
        "idle",
        "it was taken"
    );
    assert_eq!(
        state(ClaimState::Given, Some(claim(6, ClaimState::Declined))),
        "idle",
        "it was declined"
    );
    assert_eq!(state(ClaimState::Held, None), "idle");
}

#[test]
fn an_import_is_adopted_exactly_if_the_claim_is_that_imports() {
    let (core, now) = whole();
    let held = Claim {
        epoch: core.record().epoch,
        ..claim(5, ClaimState::Held)
    };
    let step = |claim: Claim, change: &dyn Fn(&mut Core)| {
        let mut core = claimed(POOLS[0], Some(claim), None);
        let key = key(&core, 5);
        core.imports.as_mut().unwrap().insert(POOLS[0], key);
        change(&mut core);
        core.step_idle(now, POOLS[0]);
        core.pool_state(POOLS[0]).unwrap()
    };
    assert_eq!(step(held, &|_| {}), "publishing");
    let other = Claim {
        generation: Generation::new(6),
        ..held
    };
    assert_eq!(step(other, &|_| {}), "stopping");
    assert_eq!(
        step(
            Claim {
                epoch: Epoch::new(2),
                ..held
            },
            &|_| {}
        ),
        "stopping"
    );
    assert_eq!(
        step(held, &|core| {
            core.renew.insert(POOLS[0], Epoch::new(3));
        }),
        "stopping"
    );
    assert_eq!(step(claim(5, ClaimState::Given), &|_| {}), "stopping");
    let unread = |core: &mut Core| core.disks.iter_mut().for_each(|disk| disk.claims = None);
    assert_eq!(
        step(held, &unread),
        "idle",
        "what the partner claims is not known yet"
    );
    let bench = Bench::alone();
    let alone = |serving: bool, generation: u64| {
        let mut core = bench.core(A).clone();
        let epoch = core.record().epoch;
        core.claims.pools.insert(
            POOLS[0],
            Claim {
                epoch,
                serving,
                ..claim(9, ClaimState::Held)
            },
        );
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Idle;
        let key = key(&core, generation);
        core.imports.as_mut().unwrap().insert(POOLS[0], key);
        core.disks.iter_mut().for_each(|disk| disk.claims = None);
        core.step_idle(bench.now, POOLS[0]);
        core.pool_state(POOLS[0]).unwrap()
    };
    assert_eq!(alone(true, 9), "publishing");
    assert_eq!(alone(false, 9), "lease-wait", "it may never have been published");
    assert_eq!(
        alone(true, 8),
        "stopping",
        "a lone member waits for nobody's claims"
    );
}

#[test]
fn nothing_is_begun_while_an_own_vote_stands_or_ballots_are_unread() {
    let begun = |change: &dyn Fn(&mut Core)| {
        let mut core = claimed(POOLS[0], None, None);
        change(&mut core);
        core.step_idle(Instant::from_nanos(u64::MAX / 2), POOLS[0])
    };
    assert!(begun(&|_| {}));
    assert!(!begun(&|core| core
        .disks
        .iter_mut()
        .for_each(|disk| disk.vote = None)));
    let voted = |core: &mut Core| {
        let record = *core.record();
        let ballot = crate::record::Ballot::new(2);
        let value = Some(crate::record::Record {
            epoch: record.epoch.next(),
            ..record
        });
        let vote = crate::record::Vote {
            mbal: ballot,
            bal: ballot,
            value,
            ..crate::record::Vote::after(record)
        };
        core.arbiter = crate::arbiter::Arbiter::new(A, vote);
    };
    assert!(!begun(&voted));
}

#[test]
fn who_leaves_begins_nothing_and_passes_on_what_it_has() {
    let leave = |kind, ready: bool| {
        let mut core = claimed(POOLS[0], None, None);
        core.partner.advert.as_mut().unwrap().shelf = ready;
        let went = core.step_leaving(Instant::ZERO, POOLS[0], kind);
        (went, core.claims.pools.get(&POOLS[0]).map(|claim| claim.state))
    };
    let released = Kind::Released(Generation::new(5));
    assert_eq!(leave(released, true), (true, Some(ClaimState::Declined)));
    for kind in [Kind::Own, Kind::Unowned] {
        assert_eq!(leave(kind, true), (true, Some(ClaimState::Given)));
    }
    assert_eq!(leave(Kind::Fenced, true), (false, None));
    for kind in [released, Kind::Own, Kind::Unowned, Kind::Fenced] {
        assert_eq!(leave(kind, false), (false, None), "nobody is there");
    }
}

#[test]
fn a_gift_that_cannot_be_taken_goes_back_after_three_failures() {
    let back = |kind, failures, ready: bool| {
        let mut core = claimed(POOLS[1], Some(claim(6, ClaimState::Held)), None);
        core.pools.get_mut(&POOLS[1]).unwrap().failures = failures;
        core.partner.advert.as_mut().unwrap().shelf = ready;
        let back = core.pass_on_gift(Instant::ZERO, POOLS[1], kind);
        assert_eq!(back, core.pool_state(POOLS[1]) == Some("giving"));
        back
    };
    let released = Kind::Released(Generation::new(5));
    assert!(back(released, 3, true) && back(released, 4, true));
    assert!(!back(released, 2, true) && !back(released, 3, false) && !back(Kind::Own, 3, true));
}

/// The rungs of the fence, and what each proves.
#[test]
fn the_first_confirmed_rung_is_the_evidence() {
    let (core, now) = whole();
    let epoch = core.record().epoch;
    let victim_of = |number| crate::event::Victim {
        controller: B,
        incarnation: Incarnation::new(number),
    };
    let evidence = |change: &dyn Fn(&mut Core), victim: u64, reserved: bool| {
        let mut core = core.clone();
        let victim = Incarnation::new(victim);
        core.fence = Some(Fence {
            epoch,
            victim,
            since: now,
            stamp: 0,
            cut_at: None,
        });
        core.partner.advert.as_mut().unwrap().watchdog = false;
        change(&mut core);
        core.fence_evidence(reserved, reserved)
    };
    let victim = victim_of(1);
    assert_eq!(evidence(&|_| {}, 0, true), Some(Evidence::Unowned));
    assert_eq!(evidence(&|_| {}, 0, false), None);
    assert_eq!(
        evidence(&|_| {}, 1, true),
        Some(Evidence::Reserved { victim, epoch })
    );
    assert_eq!(evidence(&|_| {}, 1, false), None);
    assert_eq!(
        evidence(&|core| core.params.reservation_rung = false, 1, true),
        None
    );
    let off = |core: &mut Core| core.partner.off = Some((one(), now));
    assert_eq!(
        evidence(&off, 1, false),
        Some(Evidence::PowerOff { victim, epoch })
    );
    let back = |core: &mut Core| core.partner.incarnation = Incarnation::new(2);
    assert_eq!(
        evidence(&back, 1, false),
        Some(Evidence::Rebooted { victim, epoch })
    );
    let long_gone = |core: &mut Core| {
        core.partner.advert.as_mut().unwrap().watchdog = true;
        let at = core.wait_deadline().unwrap();
        core.disks.iter_mut().for_each(|disk| disk.watch.read = Some(at));
    };
    assert_eq!(
        evidence(&long_gone, 1, false),
        Some(Evidence::Waited { victim, epoch })
    );
}

#[test]
fn what_is_served_without_a_claim_that_counts_is_stopped() {
    let (core, now) = whole();
    let serve = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        let State::Serving { key } = core.pools[&POOLS[0]].state else {
            panic!("it is served")
        };
        core.step_serving(now, POOLS[0], key);
        core.pool_state(POOLS[0]).unwrap()
    };
    assert_eq!(serve(&|_| {}), "serving");
    let other = |core: &mut Core| {
        core.claims.pools.get_mut(&POOLS[0]).unwrap().generation = Generation::new(9);
    };
    assert_eq!(serve(&other), "stopping");
    let taken = |core: &mut Core| {
        let theirs = Claim {
            epoch: core.record().epoch,
            ..claim(9, ClaimState::Held)
        };
        for disk in &mut core.disks {
            disk.claims.as_mut().unwrap().0.pools.insert(POOLS[0], theirs);
        }
    };
    assert_eq!(serve(&taken), "stopping");
    let unread = |core: &mut Core| core.disks.iter_mut().for_each(|disk| disk.claims = None);
    assert_eq!(serve(&unread), "serving", "what the partner claims is not known");
    let outside = |core: &mut Core| (other(core), core.params.incarnation = Incarnation::new(2)).1;
    assert_eq!(serve(&outside), "serving", "no member: it stops as a whole");
}

// ---- home, asks, ends -----------------------------------------------------------------------------------------

#[test]
fn a_pool_goes_home_when_all_is_whole_and_quiet_and_nobody_has_put_it_here() {
    let mut bench = Bench::whole();
    bench.ask(B, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at a", |bench| bench.serves(A, POOLS[1]));
    bench.run(ms(500));
    let now = bench.now + Duration::from_secs(3_600);
    let goes = |change: &dyn Fn(&mut Core)| {
        let mut core = bench.core(A).clone();
        core.params.auto_giveback = true;
        core.claims.pools.get_mut(&POOLS[1]).unwrap().placed = false;
        core.wire_sight = (WireSight::Alive, now.before(core.params.timing.giveback_after));
        core.decided_at = Instant::ZERO;
        change(&mut core);
        core.goes_home(now, POOLS[1])
    };
    let timing = bench.core(A).params.timing;
    assert!(goes(&|_| {}));
    assert!(!goes(&|core| core.params.auto_giveback = false));
    assert!(!goes(&|core| core.pools.get_mut(&POOLS[1]).unwrap().home = A));
    let placed = |core: &mut Core| core.claims.pools.get_mut(&POOLS[1]).unwrap().placed = true;
    assert!(!goes(&placed));
    let before = |core: &mut Core| {
        placed(core);
        core.claims.pools.get_mut(&POOLS[1]).unwrap().epoch = Epoch::new(1);
    };
    assert!(goes(&before), "it was put here in an epoch that has ended");
    assert!(!goes(&|core| core.wire_sight.0 = WireSight::Silent));
    assert!(
        !goes(&|core| core.wire_sight.1 += NS),
        "quiet, but not for long enough"
    );
    assert!(!goes(&|core| core.decided_at = core.wire_sight.1 + NS));
    assert!(!goes(&|core| core.note_silences(now, timing.flap_count + 1)));
    let sent = |count: usize, at: Instant| {
        move |core: &mut Core| core.pools.get_mut(&POOLS[1]).unwrap().sent_home = alloc::vec![at; count]
    };
    assert!(goes(&sent(1, now)) && !goes(&sent(2, now)));
    assert!(!goes(&sent(2, now.before(timing.flap_window - NS))));
    assert!(goes(&sent(9, now.before(timing.flap_window))));
    assert!(!goes(&|core| core.leaving = true));
    assert!(!goes(&|core| core.partner.advert.as_mut().unwrap().shelf = false));
}

#[test]
fn a_pool_that_was_sent_home_is_counted_and_one_that_was_asked_for_is_not() {
    let mut bench = Bench::whole();
    bench.ask(B, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at a", |bench| bench.serves(A, POOLS[1]));
    bench.ask(A, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at b", |bench| bench.serves(B, POOLS[1]));
    assert_eq!(bench.core(A).pools[&POOLS[1]].sent_home.len(), 0);
    for who in [A, B] {
        bench.core_mut(who).params.auto_giveback = true;
    }
    bench.ask(B, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at a", |bench| bench.serves(A, POOLS[1]));
    bench.core_mut(A).claims.pools.get_mut(&POOLS[1]).unwrap().placed = false;
    bench.until("it has gone home", |bench| bench.serves(B, POOLS[1]));
    assert_eq!(bench.core(A).pools[&POOLS[1]].sent_home.len(), 1);
}

#[test]
fn a_pool_that_is_asked_for_and_not_served_is_handed_over_from_wherever_it_stands() {
    let (core, now) = whole();
    let asked = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        core.partner.letter.asks = alloc::vec![POOLS[0]];
        change(&mut core);
        core.note_ask(now, POOLS[0]);
        (
            core.pool_state(POOLS[0]).unwrap(),
            core.pools[&POOLS[0]].asked_since,
        )
    };
    let key = key(&core, 1);
    let put =
        |state: State| move |core: &mut Core| core.pools.get_mut(&POOLS[0]).unwrap().state = state.clone();
    assert_eq!(
        asked(&|_| {}),
        ("serving", None),
        "it is served: nothing to hand over in need"
    );
    let publishing = put(State::Publishing { key, out: false });
    assert_eq!(asked(&publishing), ("stopping", Some(now)));
    assert_eq!(asked(&put(State::LeaseWait { key })), ("stopping", Some(now)));
    assert_eq!(
        asked(&put(State::Claiming {
            key,
            kind: Kind::Own,
            evidence: None,
            version: 0
        }))
        .0,
        "giving"
    );
    assert_eq!(
        asked(&put(State::Resuming { key })),
        ("resuming", Some(now)),
        "its end is awaited"
    );
    assert_eq!(
        asked(&put(State::Idle)),
        ("idle", Some(now)),
        "imported: it is adopted or stopped first"
    );
    let gone = |core: &mut Core| (put(State::Idle)(core), core.forget_import(POOLS[0])).1;
    assert_eq!(
        asked(&gone),
        ("giving", None),
        "and what was given is asked for no more"
    );
    let unready = |core: &mut Core| {
        publishing(core);
        core.partner.advert.as_mut().unwrap().shelf = false;
    };
    assert_eq!(
        asked(&unready),
        ("publishing", Some(now)),
        "nobody is there to take it"
    );
    let silent = |core: &mut Core| (publishing(core), core.wire_sight.0 = WireSight::Silent).1;
    assert_eq!(asked(&silent), ("publishing", None));
    let unasked = |core: &mut Core| (publishing(core), core.partner.letter.asks.clear()).1;
    assert_eq!(asked(&unasked), ("publishing", None));
    let outside = |core: &mut Core| (publishing(core), core.params.incarnation = Incarnation::new(2)).1;
    assert_eq!(asked(&outside), ("publishing", None));
    let not_mine = |core: &mut Core| {
        publishing(core);
        core.claims.pools.get_mut(&POOLS[0]).unwrap().state = ClaimState::Given;
    };
    assert_eq!(asked(&not_mine), ("publishing", None));
}

#[test]
fn an_ask_that_was_ignored_for_y_is_ignored() {
    let (mut core, now) = whole();
    assert_eq!(core.ignored_ask(now + Duration::from_secs(3_600)), None);
    core.pools.get_mut(&POOLS[1]).unwrap().asked_since = Some(now);
    let limit = core.params.timing.ask_limit;
    assert_eq!(core.ignored_ask((now + limit).before(NS)), None);
    assert_eq!(core.ignored_ask(now + limit), Some(POOLS[1]));
}

#[test]
fn the_partner_is_responsible_for_what_it_holds_and_for_what_is_at_home_there() {
    let unserved = |pool, mine: Option<Claim>, theirs: Option<Claim>| {
        let mut core = claimed(pool, mine, theirs.map(|claim| (claim, 3)));
        core.watch_partner_pool(Instant::ZERO, pool);
        core.pools[&pool].unserved_since.is_some()
    };
    let held = claim(5, ClaimState::Held);
    let idle = Claim {
        serving: false,
        ..held
    };
    let given = claim(5, ClaimState::Given);
    let ended = Claim {
        incarnation: Incarnation::new(0),
        ..held
    };
    let [here, there] = POOLS;
    assert!(!unserved(here, None, Some(held)) && unserved(here, None, Some(idle)));
    assert!(!unserved(here, None, Some(given)), "it is on its way here");
    assert!(!unserved(here, None, Some(ended)) && unserved(there, None, Some(ended)));
    assert!(!unserved(here, None, None) && unserved(there, None, None));
    assert!(
        !unserved(there, Some(held), None) && !unserved(there, Some(idle), None),
        "it is this one's"
    );
    let mut core = Bench::alone().core(A).clone();
    core.claims.pools.clear();
    core.watch_partner_pool(Instant::ZERO, there);
    assert!(
        core.pools[&there].unserved_since.is_none(),
        "no member is responsible for nothing"
    );
}

#[test]
fn an_operators_ask_ends_when_it_is_served_or_after_y() {
    let (core, now) = whole();
    let limit = core.params.timing.ask_limit;
    let stands = |pool, at: Instant| {
        let mut core = core.clone();
        core.pools.get_mut(&pool).unwrap().ask = Some(now);
        core.watch_partner_pool(at, pool);
        core.pools[&pool].ask.is_some()
    };
    assert!(stands(POOLS[1], (now + limit).before(NS)) && !stands(POOLS[1], now + limit));
    assert!(!stands(POOLS[0], now), "it is served here");
}

#[test]
fn what_is_asked_for_is_what_was_asked_for_here_or_is_unserved_for_x() {
    let (core, now) = whole();
    let limit = core.params.timing.unserved_limit;
    let asks = |change: &dyn Fn(&mut Core), at: Instant| {
        let mut core = core.clone();
        change(&mut core);
        core.asks(at)
    };
    let unserved = |core: &mut Core| core.pools.get_mut(&POOLS[1]).unwrap().unserved_since = Some(now);
    assert_eq!(asks(&|_| {}, now), []);
    assert_eq!(asks(&unserved, (now + limit).before(NS)), []);
    assert_eq!(asks(&unserved, now + limit), [POOLS[1]]);
    let asked = |core: &mut Core| core.pools.get_mut(&POOLS[1]).unwrap().ask = Some(now);
    assert_eq!(asks(&asked, now), [POOLS[1]]);
    assert_eq!(asks(&|core| (asked(core), core.leaving = true).1, now), []);
    assert_eq!(
        asks(
            &|core| (asked(core), core.params.incarnation = Incarnation::new(2)).1,
            now
        ),
        []
    );
}

#[test]
fn holdings_are_told_in_turn_to_a_partner_that_cannot_read_them() {
    let (core, _) = whole();
    let told = |change: &dyn Fn(&mut Core), sequence| {
        let mut core = core.clone();
        core.partner.advert.as_mut().unwrap().shelf = false;
        change(&mut core);
        core.holdings(sequence)
    };
    let key = key(&core, 1);
    let claim = core.claims.pools[&POOLS[0]];
    assert_eq!(told(&|_| {}, 0), [(POOLS[0], claim.epoch, claim.generation)]);
    assert_eq!(
        told(&|core| core.partner.advert.as_mut().unwrap().shelf = true, 0),
        []
    );
    assert_eq!(
        told(&|core| core.partner.incarnation = Incarnation::new(2), 0),
        [],
        "it is no member"
    );
    assert_eq!(told(&|core| core.partner.advert = None, 0), []);
    let many = |core: &mut Core| {
        let pool = Pool {
            state: State::Serving { key },
            ..core.pools[&POOLS[0]].clone()
        };
        core.pools = (0..40)
            .map(|number| (PoolId::from_bytes([number; 16]), pool.clone()))
            .collect();
    };
    let of = |sequence| {
        told(&many, sequence)
            .into_iter()
            .map(|(pool, ..)| pool)
            .collect::<Vec<_>>()
    };
    let all: Vec<PoolId> = (0..4).flat_map(of).collect();
    assert_eq!(
        all,
        (0..40)
            .map(|number| PoolId::from_bytes([number; 16]))
            .collect::<Vec<_>>()
    );
    assert_eq!(of(4), of(0));
    assert!((0..3).all(|sequence| of(sequence).len() <= HOLDINGS_MAX));
}

#[test]
fn a_shutdown_is_done_when_nothing_is_left_that_could_go_or_after_y() {
    let (core, now) = whole();
    let limit = core.params.timing.ask_limit;
    let done = |change: &dyn Fn(&mut Core), at: Instant| {
        let mut core = core.clone();
        core.wishes.shutdown = Some(now);
        change(&mut core);
        core.shutdown_done(at)
    };
    assert!(!done(&|_| {}, now) && !done(&|_| {}, (now + limit).before(NS)) && done(&|_| {}, now + limit));
    assert!(!done(&|core| core.wishes.shutdown = None, now + limit));
    let idle = |core: &mut Core| core.pools.values_mut().for_each(|pool| pool.state = State::Idle);
    assert!(done(&idle, now));
    // What is given is waited for while somebody is there to take it; what is served is exported first in any case.
    let given = |core: &mut Core| {
        let generation = Generation::new(1);
        core.pools
            .values_mut()
            .for_each(|pool| pool.state = State::Given { generation });
    };
    let alone = |core: &mut Core| core.partner.advert.as_mut().unwrap().shelf = false;
    assert!(!done(&given, now) && !done(&alone, now));
    assert!(done(&|core| (given(core), alone(core)).0, now));
}

#[test]
fn a_pool_counts_as_being_taken_at_its_first_attempt_only() {
    let (core, now) = whole();
    let key = key(&core, 5);
    let taking = |state, failures| {
        Pool {
            state,
            failures,
            ..Pool::new(A, now)
        }
        .taking()
    };
    let states = [
        State::Claiming {
            key,
            kind: Kind::Own,
            evidence: None,
            version: 0,
        },
        State::Verifying {
            key,
            kind: Kind::Own,
            stamp: 0,
        },
        State::Fencing {
            key,
            kind: Kind::Own,
            claimed: true,
            outcome: None,
        },
        State::Importing {
            key,
            evidence: Evidence::Own,
        },
        State::LeaseWait { key },
        State::Publishing { key, out: true },
    ];
    for state in states {
        assert!(taking(state.clone(), 0) && !taking(state, 1));
    }
    assert!(!taking(State::Idle, 0) && !taking(State::Serving { key }, 0));
}

#[test]
fn a_change_of_state_is_noted_once_with_its_time() {
    let (mut core, now) = whole();
    let key = key(&core, 5);
    let later = now + ms(5);
    core.out.clear();
    core.set_state(
        later,
        POOLS[0],
        State::Releasing {
            key,
            cause: Cause::Operator,
        },
    );
    let noted = Effect::Note(Note::Pool {
        pool: POOLS[0],
        state: "releasing",
    });
    assert_eq!(core.out, [noted]);
    assert_eq!(core.pools[&POOLS[0]].since, later);
    core.set_state(
        later + ms(5),
        POOLS[0],
        State::Releasing {
            key,
            cause: Cause::Home,
        },
    );
    assert_eq!(
        (core.out.len(), core.pools[&POOLS[0]].since),
        (1, later),
        "the same to people"
    );
}

#[test]
fn a_daemon_that_comes_back_adopts_what_it_had_and_stops_what_it_had_not() {
    let mut bench = Bench::whole();
    let imports = bench.core(A).imports.clone().unwrap();
    let imports: Vec<Import> = imports
        .into_iter()
        .map(|(pool, key)| Import { pool, key })
        .collect();
    let mut again = params(A, 1);
    again.seed += 1_000;
    bench.start(again.clone(), imports.clone());
    bench.until("it serves on", |bench| bench.serves(A, POOLS[0]));
    let took = |bench: &Bench| {
        bench
            .said
            .iter()
            .any(|(_, effect)| matches!(effect, Effect::TakePool { .. }))
    };
    assert!(!took(&bench), "nothing was imported anew");
    // With another key than the claim's it is stopped, and taken again in a new epoch.
    let epoch = bench.core(A).record().epoch;
    let mut strange = imports;
    strange[0].key.generation = Generation::new(99);
    again.seed += 1_000;
    bench.start(again, strange);
    bench.until("it serves again", |bench| bench.serves(A, POOLS[0]));
    assert!(took(&bench) && bench.core(A).record().epoch > epoch);
}

/// A shared takeover and a lone one ask the same rungs: what confirms nothing is asked again after a while.
#[test]
fn a_fence_that_fails_is_tried_again_after_the_retry_and_not_at_once() {
    let mut bench = Bench::whole();
    (bench.power, bench.watchdog, bench.fences) = (false, false, Comes::Badly);
    bench.core_mut(A).partner.advert.as_mut().unwrap().watchdog = false;
    bench.tell(B, Event::Watchdog { armed: false });
    bench.run(ms(500));
    bench.cores[B.index()] = None;
    bench.until("it fences", |bench| {
        bench.core(A).pool_state(POOLS[1]) == Some("fencing")
    });
    bench.said.clear();
    let retry = bench.core(A).params.timing.retry;
    bench.run(retry * 4 + ms(10));
    let fences = bench
        .heard(A)
        .iter()
        .filter(|effect| matches!(effect, Effect::FencePool { .. }))
        .count();
    assert!((3..=5).contains(&fences), "{fences} in four retries");
}

#[test]
fn a_gift_is_told_by_wire_where_the_disks_cannot_tell_it() {
    let (core, now) = whole();
    let told = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        let generation = Generation::new(5);
        core.pools.get_mut(&POOLS[0]).unwrap().state = State::Given { generation };
        core.disks
            .iter_mut()
            .for_each(|disk| disk.slot_submitted = Some(Instant::ZERO));
        change(&mut core);
        core.gifts(now)
    };
    assert_eq!(told(&|_| {}), [(POOLS[0], Generation::new(5))]);
    assert_eq!(
        told(&|core| core
            .disks
            .iter_mut()
            .for_each(|disk| disk.slot_submitted = Some(now))),
        []
    );
    assert_eq!(
        told(&|core| core.pools.get_mut(&POOLS[0]).unwrap().state = State::Idle),
        []
    );
}

#[test]
fn a_route_says_what_this_controller_is_for_a_pool_and_is_told_when_it_changes() {
    let routed = |core: &mut Core, pool: PoolId| {
        core.out.clear();
        core.route(pool);
        core.out.iter().find_map(|effect| match effect {
            Effect::Route {
                role,
                partner_reachable,
                ..
            } => Some((*role, *partner_reachable)),
            _ => None,
        })
    };
    let route = |mine: Option<Claim>, theirs: Option<Claim>, change: &dyn Fn(&mut Core)| {
        let mut core = claimed(POOLS[1], mine, theirs.map(|claim| (claim, 3)));
        core.pools.get_mut(&POOLS[1]).unwrap().route = None;
        change(&mut core);
        let first = routed(&mut core, POOLS[1]);
        assert_eq!(routed(&mut core, POOLS[1]), None, "it has not changed");
        first.unwrap()
    };
    use alua::Role::{Moving, Nobody, Owner, Partner};
    let held = claim(5, ClaimState::Held);
    assert_eq!(route(None, Some(held), &|_| {}), (Partner, true));
    assert_eq!(
        route(None, Some(claim(5, ClaimState::Given)), &|_| {}),
        (Moving, true)
    );
    let ended = Claim {
        incarnation: Incarnation::new(0),
        ..held
    };
    assert_eq!(route(None, Some(ended), &|_| {}), (Nobody, true));
    assert_eq!(route(Some(held), None, &|_| {}), (Nobody, true));
    assert_eq!(route(None, None, &|_| {}), (Nobody, true));
    let silent = |core: &mut Core| core.wire_sight.0 = WireSight::Silent;
    assert_eq!(route(None, Some(held), &silent), (Partner, false));
    let outside = |core: &mut Core| core.params.incarnation = Incarnation::new(2);
    assert_eq!(route(None, Some(held), &outside).0, Nobody);
    let put =
        |state: State| move |core: &mut Core| core.pools.get_mut(&POOLS[1]).unwrap().state = state.clone();
    let key = key(&whole().0, 5);
    assert_eq!(route(Some(held), None, &put(State::Serving { key })).0, Owner);
    assert_eq!(route(Some(held), None, &put(State::Resuming { key })).0, Moving);
    let mut alone = Bench::alone().core(A).clone();
    alone.wire_sight.0 = WireSight::Alive;
    alone.pools.get_mut(&POOLS[1]).unwrap().route = None;
    assert_eq!(
        routed(&mut alone, POOLS[1]),
        Some((Owner, false)),
        "who is heard is not yet a member"
    );
}

#[test]
fn nothing_is_taken_after_the_own_lease() {
    let epoch = |core: &Core| core.record().epoch;
    let taken = |core: &mut Core| {
        let state = core.pools[&POOLS[0]].state.clone();
        matches!(state, State::Importing { .. })
    };
    let (core, now) = whole();
    assert!(core.lease_until > now && core.may_take(now));
    for leased in [true, false] {
        let mut claiming = core.clone();
        let key = ReservationKey {
            controller: A,
            epoch: epoch(&core),
            generation: core.next_generation(POOLS[0]),
        };
        claiming.claim(POOLS[0], key.generation, key.epoch, ClaimState::Held, false);
        let (kind, evidence) = (Kind::Own, Some(Evidence::Own));
        let mut fencing = claiming.clone();
        let version = core.claims.sequence;
        claiming.pools.get_mut(&POOLS[0]).unwrap().state = State::Claiming {
            key,
            kind,
            evidence,
            version,
        };
        fencing.pools.get_mut(&POOLS[0]).unwrap().state = State::Fencing {
            key,
            kind,
            claimed: true,
            outcome: Some(true),
        };
        for core in [&mut claiming, &mut fencing] {
            if !leased {
                core.lease_until = now;
            }
            assert_eq!(core.step_pool(now, POOLS[0]), leased);
            assert_eq!(taken(core), leased);
        }
    }
}

#[test]
fn what_an_earlier_life_of_the_partner_served_stays_that_lifes() {
    let mut core = claimed(POOLS[1], None, None);
    let (epoch, generation) = (core.record().epoch, Generation::new(7));
    core.partner.incarnation = Incarnation::new(2);
    core.partner
        .holdings
        .insert(POOLS[1], (epoch, generation, Incarnation::new(1)));
    let told = core.partner_claim(POOLS[1]).unwrap();
    assert_eq!(
        (told.epoch, told.generation, told.incarnation),
        (epoch, generation, Incarnation::new(1))
    );
    assert!(told.serving && told.state == ClaimState::Held);
}
