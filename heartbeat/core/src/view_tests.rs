use super::*;
use crate::bench::{A, B, Bench, Comes, Health, POOLS, configured, params};
use crate::effect::StopReason;
use crate::event::{ConfigStatus, Event, PoolInfo, PoolStep};
use crate::machine::Freeze;
use crate::pools::Cause;
use crate::record::{Base, Members, Record};
use core::time::Duration;
use pollux_api::id::{ControllerId, Epoch, Incarnation, LogLength};

const TICK: Duration = Duration::from_nanos(1);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A controller that has booted into an array whose partner serves alone, and is not taken in: its keeper says nothing.
fn outside() -> Bench {
    let mut bench = Bench::alone();
    bench.boot(params(B, 2));
    bench.core_mut(B).config = None;
    bench.run(Duration::from_millis(500));
    assert!(!bench.core(B).member());
    bench
}

fn blocks(core: &Core, now: Instant) -> Vec<(&'static str, String, String)> {
    core.why(now)
        .into_iter()
        .map(|one| (one.blocks, one.reason, one.remedy))
        .collect()
}

#[track_caller]
fn says(core: &Core, now: Instant, blocked: &str, words: &str) -> String {
    let all = blocks(core, now);
    let found = all
        .iter()
        .find(|(what, reason, _)| *what == blocked && reason.contains(words));
    found
        .unwrap_or_else(|| panic!("no {blocked} because of {words:?} in {all:#?}"))
        .2
        .clone()
}

#[track_caller]
fn says_not(core: &Core, now: Instant, words: &str) {
    let all = blocks(core, now);
    assert!(
        all.iter().all(|(_, reason, _)| !reason.contains(words)),
        "{words:?} in {all:#?}"
    );
}

#[track_caller]
fn refused(result: Result<Plan, Refusal>, words: &str) {
    let refusal = result.expect_err(words);
    assert!(refusal.reason.contains(words), "{words:?}: {refusal:?}");
    assert!(!refusal.remedy.is_empty(), "{refusal:?}");
}

#[test]
fn the_status_of_a_whole_array_says_so() {
    let bench = Bench::whole();
    for who in [A, B] {
        let status = bench.core(who).status(bench.now);
        assert_eq!(
            (status.controller, status.incarnation, status.state),
            (who, Incarnation::new(1), "serving")
        );
        assert_eq!((status.role, status.power), (Role::Serving, Power::Unknown));
        assert_eq!(
            (status.wire.0, status.disk.0),
            (WireSight::Alive, DiskSight::Alive)
        );
        assert_eq!(status.partner, Some(Incarnation::new(1)));
        assert!(status.record.is_some_and(|record| record.members.both()));
        assert!(status.watchdog && status.lease_until > bench.now && status.round_trip.is_some());
        assert_eq!((status.lock, status.alarms.len()), (None, 0));
        assert!(
            status
                .quorum
                .iter()
                .all(|disk| disk.writable && disk.readable == Ok(()) && disk.latency.is_some())
        );
        let pools: Vec<_> = status
            .pools
            .iter()
            .map(|pool| (pool.pool, pool.home, pool.owner, pool.state))
            .collect();
        let state = |home: ControllerId| if home == who { "serving" } else { "partner" };
        assert_eq!(
            pools,
            [(POOLS[0], A, Some(A), state(A)), (POOLS[1], B, Some(B), state(B))]
        );
        assert!(
            status
                .pools
                .iter()
                .all(|pool| pool.generation.get() > 0 && pool.problem.is_none())
        );
        assert_eq!(bench.core(who).why(bench.now), []);
    }
}

#[test]
fn what_is_not_known_yet_is_not_said() {
    let mut bench = Bench::new();
    bench.shelf[0] = false;
    bench.boot(params(A, 1));
    let core = bench.core(A);
    let status = core.status(bench.now);
    assert_eq!(
        (status.state, status.record, status.partner),
        ("starting", None, None)
    );
    let unread = |disk: &QuorumStatus| !disk.writable && disk.readable.is_err() && disk.latency.is_none();
    assert!(status.quorum.iter().all(unread), "{:?}", status.quorum);
    assert!(
        status
            .pools
            .iter()
            .all(|pool| pool.state == "unknown" && pool.owner.is_none())
    );
    says(core, bench.now, "takeover", "own area");
    refused(
        core.plan(bench.now, Request::Shutdown { unserved: true }),
        "starting",
    );
    let missed = |bench: &Bench| bench.alarms(A).contains(&("quorum_own_area", "a".into()));
    assert!(
        !missed(&bench),
        "not before the disks have had the time to answer"
    );
    bench.run(core_limit(&bench));
    assert!(missed(&bench));
    bench.shelf[0] = true;
    bench.run(secs(1));
    assert!(!missed(&bench));
}

fn core_limit(bench: &Bench) -> Duration {
    bench.core(A).params.timing.disk_limit
}

#[test]
fn a_quorum_disk_is_writable_for_as_long_as_its_write_carries_a_lease() {
    let bench = Bench::whole();
    let core = bench.core(A);
    let at = core.disks[0].slot_submitted.unwrap();
    let writable = |now| core.status(now).quorum[0].writable;
    assert!(writable((at + core.params.timing.lease).before(TICK)));
    assert!(!writable(at + core.params.timing.lease));
}

#[test]
fn a_controller_stands_in_for_one_that_is_off_beyond_doubt_and_only_then() {
    let bench = Bench::alone();
    let alone = bench.core(A);
    assert!(alone.stands_in());
    let but = |change: fn(&mut Core)| {
        let mut core = alone.clone();
        change(&mut core);
        core.stands_in()
    };
    assert!(
        !but(|core| core.partner.off = None),
        "its power is not known to be off"
    );
    assert!(!but(|core| core.phase = Phase::Stopped(StopReason::LeaseOut)));
    assert!(
        !but(|core| core.params.incarnation = Incarnation::new(2)),
        "not a member"
    );
    let whole = Bench::whole();
    let mut core = whole.core(A).clone();
    assert!(!core.stands_in());
    core.partner.off = Some((core.partner.incarnation, whole.now));
    assert!(!core.stands_in(), "its partner is a member still");
    let mut back = bench.clone();
    back.boot(params(B, 2));
    back.run(secs(1));
    assert!(!back.core(A).stands_in(), "it has come back");
}

/// What the config keeper of a lone controller is told when it is read from.
#[test]
fn who_surely_stands_in_an_epoch_has_a_lease_in_it_and_a_clock_that_does_not_stop() {
    let bench = Bench::alone();
    let core = bench.core(A);
    let epoch = core.record().epoch;
    let last = core.lease_until.before(TICK);
    assert_eq!(core.stands_in_epoch(last), Some(epoch));
    assert_eq!(core.stands_in_epoch(core.lease_until), None, "it has run out");
    let with = |change: fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.stands_in_epoch(last)
    };
    assert_eq!(with(|core| core.params.pausable = true), None);
    assert_eq!(with(|core| core.params.incarnation = Incarnation::new(9)), None);
    assert_eq!(
        with(|core| core.phase = Phase::Stopped(StopReason::LeaseOut)),
        None
    );
}

#[test]
fn the_states_of_a_controller_are_named_as_it_goes_through_them() {
    let mut bench = Bench::alone();
    let core = bench.core(A);
    assert_eq!(core.state(core.lease_until.before(TICK)), "serving");
    assert_eq!(core.state(core.lease_until), "holding");
    let mut stopped = core.clone();
    stopped.phase = Phase::Stopped(StopReason::LeaseOut);
    assert_eq!(stopped.state(bench.now), "stopped");
    says(&stopped, bench.now, "takeover", "has stopped");
    refused(
        stopped.plan(bench.now, Request::Shutdown { unserved: true }),
        "stopped",
    );

    bench.ballots = false;
    bench.boot(params(B, 2));
    let states = bench.states(B, secs(5));
    assert!(states.ends_with(&["waiting", "joining"]), "{states:?}");
    bench.ballots = true;
    assert_eq!(bench.states(B, secs(5)), ["joining", "serving"]);

    // A ballot that nobody takes is asked for again and again.
    bench.ballots = false;
    bench.cores[B.index()] = None;
    let states = bench.states(A, secs(4));
    assert_eq!(states, ["serving", "arbitrating"]);
    assert!(bench.core(A).arbiter.running() && !bench.core(A).arbiter.voted());
    bench.ballots = true;
    assert_eq!(bench.states(A, secs(4)).last(), Some(&"serving"));
}

#[test]
fn who_gives_everything_away_is_releasing() {
    let mut bench = Bench::whole();
    bench.steps.insert(PoolStep::Release, Comes::Never);
    let plan = bench.ask(A, Request::Shutdown { unserved: true }).unwrap();
    assert_eq!(plan.pools, [POOLS[0]], "what the partner holds does not move");
    assert!(plan.steps[0].contains("give 1 pools to controller b"), "{plan:?}");
    assert_eq!(bench.core(A).state(bench.now), "releasing");
    assert_eq!(bench.core(A).pool_state(POOLS[0]), Some("releasing"));
    bench.run(secs(1));
    refused(
        bench.core(B).plan(bench.now, Request::Switchover(POOLS[1])),
        "is leaving",
    );
}

#[test]
fn a_pool_is_shown_as_whose_it_is_by_the_claims() {
    let bench = Bench::whole();
    let shown = |change: &dyn Fn(&mut Core)| {
        let mut core = bench.core(A).clone();
        change(&mut core);
        let status = core.status(bench.now);
        (status.pools[1].owner, status.pools[1].state)
    };
    let each = |core: &mut Core, change: &dyn Fn(&mut crate::area::Claim)| {
        for disk in &mut core.disks {
            disk.claims
                .iter_mut()
                .flat_map(|(claims, _)| claims.pools.values_mut())
                .for_each(change);
        }
    };
    assert_eq!(shown(&|_| {}), (Some(B), "partner"));
    assert_eq!(
        shown(&|core| each(core, &|claim| claim.state = ClaimState::Given)),
        (None, "unowned")
    );
    assert_eq!(
        shown(&|core| each(core, &|claim| claim.incarnation = Incarnation::new(7))),
        (None, "unowned")
    );
    assert_eq!(
        shown(&|core| core.disks.iter_mut().for_each(|disk| disk.claims = None)),
        (None, "unknown")
    );
    let mine = |core: &mut Core| {
        let claim = core.claims.pools[&POOLS[0]];
        let epoch = core.record().epoch.next();
        core.claims
            .pools
            .insert(POOLS[1], crate::area::Claim { epoch, ..claim });
    };
    assert_eq!(
        shown(&mine),
        (Some(A), "unowned"),
        "claimed here, and nothing is going on yet"
    );
}

#[test]
fn a_lock_of_the_configuration_names_its_reason_and_since_when() {
    let mut bench = Bench::whole();
    assert_eq!(bench.core(A).status(bench.now).lock, None);
    let mut freezing = bench.core(A).clone();
    let asked = bench.now;
    freezing.freeze = Some(Freeze {
        epoch: Epoch::new(9),
        asked,
        done: None,
    });
    let (reason, since) = freezing.status(bench.now + secs(1)).lock.unwrap();
    assert!(reason.contains("epoch 9") && since == asked, "{reason}");
    says(&freezing, bench.now, "configuration", "epoch 9");
    says_not(&freezing, bench.now, "config keeper");

    bench.wire = [false; 2];
    bench.run(secs(3));
    let (reason, since) = bench.core(A).status(bench.now).lock.unwrap();
    assert!(reason.contains("cannot be reached by wire"), "{reason}");
    assert_eq!(since, bench.core(A).wire_sight.1, "since the wire is silent");
    says(bench.core(A), bench.now, "switchover", "silent on the wire");
    bench.power = false;
    bench.shelf[0] = false;
    bench.run(secs(2));
    let (reason, _) = bench.core(A).status(bench.now).lock.unwrap();
    assert!(reason.contains("too few quorum disks"), "{reason}");
    says(bench.core(A), bench.now, "takeover", "may be the sick one");

    let alone = Bench::alone();
    let (reason, since) = alone.core(A).status(alone.now).lock.unwrap();
    assert!(
        reason.contains("sealed") && since == alone.core(A).decided_at,
        "{reason}"
    );
    let mut core = alone.core(A).clone();
    core.params.incarnation = Incarnation::new(2);
    let (reason, _) = core.status(alone.now).lock.unwrap();
    assert!(reason.contains("not a member"), "{reason}");
}

#[test]
fn who_may_not_go_on_alone_says_why_and_what_would_help() {
    let bench = outside();
    let now = bench.now;
    let core = bench.core(B);
    says(core, now, "takeover", "status is not known");
    let with = |status: ConfigStatus| {
        let mut core = core.clone();
        core.config = Some(status);
        core
    };
    let log = |length| Base {
        length: LogLength::new(length),
        ..Base::default()
    };
    let diverged = with(ConfigStatus {
        diverged: true,
        ..ConfigStatus::default()
    });
    says(&diverged, now, "takeover", "two histories");
    let lost = with(ConfigStatus {
        lost: true,
        ..ConfigStatus::default()
    });
    says(&lost, now, "takeover", "was lost");
    let equal = with(ConfigStatus::default());
    says_not(&equal, now, "may not go on alone");
    let behind = |members: Members, mode| {
        let mut core = with(ConfigStatus {
            log: log(3),
            ..ConfigStatus::default()
        });
        let epoch = core.record().epoch.next();
        core.arbiter.learn(Record {
            epoch,
            members,
            mode,
            base: log(5),
            ..*core.record()
        });
        core
    };
    let (one, two) = (Incarnation::new(1), Incarnation::new(2));
    let his = Members::alone(A, one);
    let names = |core: &Core| says(core, now, "takeover", "may lack changes").contains("--override");
    assert!(names(&behind(his, Mode::Open)), "only a person can decide that");
    assert!(!names(&behind(his, Mode::Sealed)));
    assert!(!names(&behind(Members::alone(A, one).with(B, one), Mode::Open)));
    let member = behind(Members::alone(A, one).with(B, two), Mode::Open);
    assert!(member.member());
    says_not(&member, now, "may lack changes");
    let mut stopped = core.clone();
    stopped.phase = Phase::Stopped(StopReason::LeaseOut);
    says_not(&stopped, now, "status is not known");
    let mut whole = Bench::whole();
    whole.core_mut(A).config = None;
    says_not(whole.core(A), whole.now, "status is not known");
}

#[test]
fn a_takeover_that_waits_says_for_what() {
    let mut bench = Bench::whole();
    bench.keeper = false;
    bench.cores[B.index()] = None;
    bench.run(secs(3));
    says(
        bench.core(A),
        bench.now,
        "takeover",
        "config keeper does not confirm",
    );
    let mut frozen = bench.core(A).clone();
    let freeze = frozen.freeze.unwrap();
    frozen.freeze = Some(Freeze {
        done: Some(ConfigStatus::default()),
        ..freeze
    });
    says_not(&frozen, bench.now, "config keeper");
    let mut living = Bench::whole();
    living.core_mut(A).freeze = Some(freeze);
    says_not(living.core(A), living.now, "config keeper");

    bench.keeper = true;
    bench.power = false;
    bench.watchdog = false;
    bench.fences = Comes::Badly;
    bench.run(secs(3));
    let remedy = says(
        bench.core(A),
        bench.now,
        "takeover",
        "no rung of the fence is confirmed",
    );
    assert!(remedy.contains("cut the power of controller b"), "{remedy}");
    assert!(bench.alarms(A).contains(&("pool_unserved", POOLS[1].to_string())));
    assert_eq!(bench.core(A).pool_state(POOLS[1]), Some("fencing"));
    bench.fences = Comes::Well;
    bench.until("it is served", |bench| bench.serves(A, POOLS[1]));
    says_not(bench.core(A), bench.now, "no rung");
}

#[test]
fn a_pool_that_stays_away_from_home_says_why() {
    let mut bench = Bench::whole();
    bench.ask(B, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at a", |bench| bench.serves(A, POOLS[1]));
    let now = bench.now;
    says_not(bench.core(A), now, "flapping");
    says_not(bench.core(A), now, "is neither heard nor seen");
    let mut flapping = bench.core(A).clone();
    let count = flapping.params.timing.flap_count + 1;
    flapping.note_silences(now, count);
    assert!(flapping.flapping(now));
    says(&flapping, now, "giveback", "flapping");
    let mut home = Bench::whole();
    let then = home.now;
    home.core_mut(A).note_silences(then, count);
    says_not(home.core(A), home.now, "flapping");

    bench.cores[B.index()] = None;
    bench.until("it is alone", |bench| !bench.core(A).record().members.both());
    let core = bench.core(A);
    says(core, bench.now, "giveback", "controller b is not a member");
    says_not(home.core(A), home.now, "controller b");
}

#[test]
fn why_the_partner_cannot_receive_is_said_as_it_is() {
    let bench = Bench::whole();
    let unready = |change: fn(&mut Core)| {
        let mut core = bench.core(A).clone();
        change(&mut core);
        core.partner_unready().unwrap_or_default()
    };
    assert_eq!(unready(|_| {}), "");
    assert!(unready(|core| core.partner.incarnation = Incarnation::new(2)).contains("not a member"));
    let unheard = unready(|core| {
        core.wire_sight.0 = WireSight::Silent;
        core.disk_sight.0 = DiskSight::Still;
    });
    assert!(unheard.contains("neither heard nor seen"), "{unheard}");
    let leaving = unready(|core| core.partner.advert.as_mut().unwrap().role = Role::Releasing);
    assert!(leaving.contains("is leaving"), "{leaving}");
}

#[test]
fn a_switchover_is_planned_where_it_can_be_carried_out() {
    let mut bench = Bench::whole();
    let now = bench.now;
    let stranger = PoolId::from_bytes([3; 16]);
    for (pool, from, to) in [(POOLS[0], "a", "b"), (POOLS[1], "b", "a")] {
        let plan = bench.core(A).plan(now, Request::Switchover(pool)).unwrap();
        assert_eq!(plan.pools, [pool]);
        assert!(
            plan.steps[0].contains(&format!("controller {from} quiesces")),
            "{plan:?}"
        );
        assert!(
            plan.steps[1].contains(&format!("controller {to} fences")),
            "{plan:?}"
        );
    }
    let refusal = |change: fn(&mut Core), pool| {
        let mut core = bench.core(A).clone();
        change(&mut core);
        core.plan(now, Request::Switchover(pool))
    };
    refused(refusal(|_| {}, stranger), "there is no pool");
    refused(
        refusal(|core| core.params.incarnation = Incarnation::new(2), POOLS[0]),
        "not a member",
    );
    refused(
        refusal(|core| core.partner.incarnation = Incarnation::new(2), POOLS[0]),
        "controller b is not a member",
    );
    refused(
        refusal(|core| core.wire_sight.0 = WireSight::Silent, POOLS[0]),
        "interconnect is down",
    );
    let idle = |core: &mut Core| core.pools.get_mut(&POOLS[0]).unwrap().state = State::Idle;
    refused(refusal(idle, POOLS[0]), "is idle");
    let given = |core: &mut Core| {
        for disk in &mut core.disks {
            let claims = &mut disk.claims.as_mut().unwrap().0;
            claims.pools.get_mut(&POOLS[1]).unwrap().state = ClaimState::Given;
        }
    };
    refused(refusal(given, POOLS[1]), "is idle");
    bench.ask(A, Request::Switchover(POOLS[1])).unwrap();
    bench.until("the pool that was asked for comes", |bench| {
        bench.serves(A, POOLS[1])
    });
    bench.ask(A, Request::Switchover(POOLS[1])).unwrap();
    bench.until("and goes", |bench| bench.serves(B, POOLS[1]));
}

#[test]
fn a_giveback_moves_what_is_away_and_nothing_else() {
    let mut bench = Bench::whole();
    let plan = bench.core(A).plan(bench.now, Request::Giveback(None)).unwrap();
    assert!(
        plan.pools.is_empty() && plan.steps[0].contains("every pool is at home"),
        "{plan:?}"
    );
    let plan = bench
        .core(A)
        .plan(bench.now, Request::Giveback(Some(POOLS[1])))
        .unwrap();
    assert!(plan.pools.is_empty(), "{plan:?}");
    let stranger = PoolId::from_bytes([3; 16]);
    refused(
        bench.core(A).plan(bench.now, Request::Giveback(Some(stranger))),
        "there is no pool",
    );
    bench.ask(A, Request::Switchover(POOLS[0])).unwrap();
    bench.until("it is at b", |bench| bench.serves(B, POOLS[0]));
    bench.run(secs(1));
    for one in [None, Some(POOLS[0])] {
        for who in [A, B] {
            let plan = bench.core(who).plan(bench.now, Request::Giveback(one)).unwrap();
            assert_eq!(plan.pools, [POOLS[0]]);
        }
    }
    let mut core = bench.core(A).clone();
    for disk in &mut core.disks {
        let claims = &mut disk.claims.as_mut().unwrap().0;
        claims.pools.get_mut(&POOLS[0]).unwrap().state = ClaimState::Given;
    }
    let plan = core.plan(bench.now, Request::Giveback(None)).unwrap();
    assert!(plan.pools.is_empty(), "it is on its way already: {plan:?}");
    bench.ask(B, Request::Giveback(None)).unwrap();
    bench.until("it is at home", |bench| bench.serves(A, POOLS[0]));
}

#[test]
fn a_takeover_by_an_operator_takes_what_is_the_partners_although_it_lives() {
    let mut bench = Bench::whole();
    let mut outsider = bench.core(A).clone();
    outsider.params.incarnation = Incarnation::new(2);
    refused(
        outsider.plan(bench.now, Request::Takeover),
        "not a member of the epoch",
    );
    let plan = bench.ask(A, Request::Takeover).unwrap();
    assert_eq!(plan.pools, [POOLS[1]]);
    assert!(plan.steps[2].contains("take 1"), "{plan:?}");
    bench.until("a serves it", |bench| bench.serves(A, POOLS[1]));
    assert!(bench.cores[B.index()].is_none(), "its power was cut");
    refused(bench.core(A).plan(bench.now, Request::Takeover), "nothing is its");
}

#[test]
fn a_move_can_be_aborted_until_it_was_given() {
    let mut bench = Bench::whole();
    bench.steps.insert(PoolStep::Release, Comes::Never);
    refused(
        bench
            .core(A)
            .plan(bench.now, Request::Abort(PoolId::from_bytes([3; 16]))),
        "there is no pool",
    );
    refused(
        bench.core(A).plan(bench.now, Request::Abort(POOLS[0])),
        "not being moved",
    );
    bench.ask(A, Request::Switchover(POOLS[0])).unwrap();
    let generation = bench.core(A).claims.pools[&POOLS[0]].generation;
    let plan = bench.ask(A, Request::Abort(POOLS[0])).unwrap();
    assert_eq!(plan.pools, [POOLS[0]]);
    let (pool, step) = (POOLS[0], PoolStep::Release);
    bench.tell(
        A,
        Event::PoolDone {
            pool,
            generation,
            step,
            result: Err("aborted".into()),
        },
    );
    bench.until("it is served here again", |bench| bench.serves(A, POOLS[0]));
    let mut given = bench.core(A).clone();
    for state in [
        State::Giving {
            generation,
            version: 1,
        },
        State::Given { generation },
    ] {
        given.pools.get_mut(&POOLS[0]).unwrap().state = state;
        refused(
            given.plan(bench.now, Request::Abort(POOLS[0])),
            "point of no return",
        );
    }
}

#[test]
fn an_override_is_for_him_whom_the_rules_keep_out() {
    let bench = outside();
    let now = bench.now;
    let mut core = bench.core(B).clone();
    core.config = Some(ConfigStatus::default());
    let epoch = core.record().epoch.next();
    let open = Record {
        epoch,
        mode: Mode::Open,
        ..*core.record()
    };
    refused(core.plan(now, Request::Override(epoch)), "the highest epoch is");
    let sealed = core.record().epoch;
    refused(core.plan(now, Request::Override(sealed)), "nothing to override");
    core.arbiter.learn(open);
    refused(core.plan(now, Request::Override(epoch)), "controller a lives");
    core.wire_sight.0 = WireSight::Silent;
    core.disk_sight.0 = DiskSight::Still;
    let plan = core.plan(now, Request::Override(epoch)).unwrap();
    assert!(
        plan.steps[0].contains("only controller a holds are lost"),
        "{plan:?}"
    );
    let mine = |members| {
        let mut core = core.clone();
        let epoch = epoch.next();
        core.arbiter.learn(Record {
            epoch,
            members,
            ..open
        });
        core.plan(now, Request::Override(epoch))
    };
    let (one, two) = (Incarnation::new(1), Incarnation::new(2));
    refused(mine(Members::alone(A, one).with(B, one)), "nothing to override");
    refused(mine(Members::alone(A, one).with(B, two)), "nothing to override");
}

#[test]
fn a_lone_controller_is_opened_when_nobody_is_there_to_join() {
    let mut bench = Bench::whole();
    refused(
        bench.core(A).plan(bench.now, Request::OpenAlone),
        "does not serve alone",
    );
    bench = Bench::alone();
    let mut outsider = bench.core(A).clone();
    outsider.params.incarnation = Incarnation::new(2);
    refused(
        outsider.plan(bench.now, Request::OpenAlone),
        "does not serve alone",
    );
    let mut visited = bench.core(A).clone();
    visited.wire_sight.0 = WireSight::Alive;
    visited.verdict = Partner::Normal;
    refused(visited.plan(bench.now, Request::OpenAlone), "is there and joins");
    let plan = bench.ask(A, Request::OpenAlone).unwrap();
    assert!(plan.steps[0].contains("cannot go on without"), "{plan:?}");
    bench.until("it is open", |bench| bench.core(A).record().mode == Mode::Open);
    let plan = bench.core(A).plan(bench.now, Request::OpenAlone).unwrap();
    assert!(plan.steps[0].contains("nothing to do"), "{plan:?}");
    assert_eq!(
        bench.core(A).status(bench.now).lock,
        None,
        "a lone change is possible"
    );
}

#[test]
fn a_shutdown_without_a_partner_leaves_its_pools_unserved_and_says_so() {
    let bench = Bench::alone();
    let plan = bench
        .core(A)
        .plan(bench.now, Request::Shutdown { unserved: true })
        .unwrap();
    assert_eq!(plan.pools, POOLS);
    assert!(
        plan.steps[0].contains("export 2 pools, which stay unserved"),
        "{plan:?}"
    );
    let refusal = bench
        .core(A)
        .plan(bench.now, Request::Shutdown { unserved: false })
        .unwrap_err();
    assert!(
        refusal.reason.contains("2 pools would not be served"),
        "{refusal:?}"
    );
}

/// Every alarm comes with its reason and goes with it.
#[test]
fn alarms_of_the_wire_and_its_legs_come_and_go() {
    let mut bench = Bench::whole();
    bench.tell(A, Event::Legs(alloc::vec![true, false]));
    assert_eq!(bench.alarms(A), [("leg_down", "leg1".into())]);
    let raised = |raised| Note::Alarm {
        id: "leg_down",
        subject: "leg1".into(),
        raised,
    };
    assert!(bench.notes(A).contains(&raised(true)));
    bench.run(secs(1));
    assert!(!bench.notes(A).contains(&raised(true)), "said once");
    bench.tell(A, Event::Legs(alloc::vec![true, true]));
    assert_eq!(bench.alarms(A), []);
    assert!(bench.notes(A).contains(&raised(false)));

    bench.wire = [false; 2];
    bench.run(secs(2));
    assert_eq!(bench.alarms(A), [("wire_silent", "b".into())]);
    bench.wire = [true; 2];
    bench.run(secs(2));
    assert_eq!(bench.alarms(A), []);
    for _ in 0..bench.core(A).params.timing.flap_count {
        bench.wire = [false; 2];
        bench.run(secs(2));
        bench.wire = [true; 2];
        bench.run(secs(2));
    }
    assert_eq!(bench.alarms(A), [("wire_flapping", "b".into())]);
    bench.run(bench.core(A).params.timing.flap_window);
    assert_eq!(bench.alarms(A), []);

    bench.cores[B.index()] = None;
    bench.until("it is alone", |bench| !bench.core(A).record().members.both());
    bench.run(secs(3));
    assert_eq!(
        bench.alarms(A),
        [("alone", "b".into())],
        "a dead partner is no silent wire"
    );
}

#[test]
fn alarms_of_quorum_disks_come_and_go() {
    let mut bench = Bench::whole();
    let disk = |index: u16| ("quorum_disk", pollux_api::id::DiskIndex::new(index).to_string());
    for health in [Health::Gone, Health::ReadOnly] {
        bench.health[1] = health;
        bench.run(secs(3));
        assert_eq!(bench.alarms(A), [disk(1)], "{health:?}");
        bench.health[1] = Health::Good;
        bench.run(secs(3));
        assert_eq!(bench.alarms(A), [], "{health:?}");
    }
    bench.shelf[0] = false;
    bench.run(core_limit(&bench) + Duration::from_millis(300));
    let ids: Vec<&str> = bench.alarms(A).into_iter().map(|(id, _)| id).collect();
    let lost = [
        "quorum_disk",
        "quorum_disk",
        "quorum_disk",
        "quorum_unreadable",
        "shelf_lost",
    ];
    assert_eq!(ids, lost);
    bench.shelf[0] = true;
    bench.run(secs(3));
    assert_eq!(bench.alarms(A), []);
    // An outsider has no shelf to lose, and nobody takes over from it.
    let mut outside = outside();
    outside.watchdog = false;
    outside.tell(B, Event::Watchdog { armed: false });
    outside.shelf[1] = false;
    outside.run(secs(3));
    let ids: Vec<&str> = outside.alarms(B).into_iter().map(|(id, _)| id).collect();
    assert!(
        !ids.contains(&"shelf_lost") && !ids.contains(&"watchdog") && !ids.contains(&"alone"),
        "{ids:?}"
    );
}

#[test]
fn a_controller_that_has_just_come_back_alone_raises_no_alarm_of_a_member() {
    let mut bench = Bench::alone();
    bench.power = false;
    bench.boot(params(A, 2));
    bench.run(Duration::from_millis(500));
    assert!(!bench.core(A).member());
    assert_eq!(bench.alarms(A), []);
}

#[test]
fn alarms_of_the_controller_itself_come_and_go() {
    let mut bench = Bench::whole();
    let cases = [
        (
            Event::Watchdog { armed: false },
            Event::Watchdog { armed: true },
            ("watchdog", "a"),
        ),
        (
            Event::Config(ConfigStatus {
                diverged: true,
                ..ConfigStatus::default()
            }),
            Event::Config(ConfigStatus::default()),
            ("config_diverged", "a"),
        ),
        (
            Event::Config(ConfigStatus {
                lost: true,
                ..ConfigStatus::default()
            }),
            Event::Config(ConfigStatus::default()),
            ("config_lost", "a"),
        ),
        (
            Event::Pools(too_many()),
            Event::Pools(configured()),
            ("too_many_pools", "pools"),
        ),
    ];
    for (wrong, right, (id, subject)) in cases {
        bench.tell(A, wrong);
        assert!(bench.alarms(A).contains(&(id, subject.into())), "{id}");
        bench.tell(A, right);
        assert_eq!(bench.alarms(A), [], "{id}");
    }
}

fn too_many() -> Vec<PoolInfo> {
    let mut pools = configured();
    let more = (10..=72).map(|number| PoolInfo {
        pool: PoolId::from_bytes([number; 16]),
        home: B,
    });
    pools.extend(more);
    pools
}

/// K15, as it looks to people.
#[test]
fn a_pool_that_the_living_partner_does_not_serve_is_an_alarm_after_a_while_and_another_when_asking_was_in_vain()
 {
    let mut bench = Bench::whole();
    bench.steps.insert(PoolStep::Stop, Comes::Never);
    bench.tell(
        B,
        Event::ExclusionLost {
            pool: POOLS[1],
            holder: None,
        },
    );
    let unserved = ("pool_unserved", POOLS[1].to_string());
    assert!(bench.alarms(B).contains(&unserved), "whose it is knows at once");
    says(bench.core(B), bench.now, "switchover", "exclusion was lost");
    let limit = bench.core(A).params.timing.unserved_limit;
    bench.run(limit - Duration::from_millis(500));
    assert_eq!(bench.alarms(A), [], "it may be on its way");
    bench.run(secs(2));
    assert_eq!(bench.alarms(A), [unserved]);
    let ignored = ("ask_ignored", "b".to_string());
    bench.until("asking was in vain", |bench| bench.alarms(A).contains(&ignored));
    bench.until("b has stopped", |bench| {
        bench.core(B).state(bench.now) == "stopped"
    });
    bench.steps.clear();
    bench.until("a serves it", |bench| bench.serves(A, POOLS[1]));
    assert_eq!(bench.alarms(A), [("alone", "b".into())]);
}

#[test]
fn both_halves_of_a_move_lead_to_the_same_claim() {
    let mut bench = Bench::whole();
    let pool = POOLS[0];
    let told = |core: &Core, now| {
        let status = core.status(now);
        let status = status.pools.into_iter().find(|status| status.pool == pool);
        status.map(|status| status.generation).unwrap()
    };
    let leads_to = |core: &Core| core.turn(pool).unwrap().0;
    let before = told(bench.core(A), bench.now);
    assert_eq!(leads_to(bench.core(A)), before, "it led here");
    assert!(!bench.core(A).moves(pool) && !bench.core(B).moves(pool));
    let key = bench.core(A).imports.clone().unwrap()[&pool];
    let mut releasing = bench.core(A).clone();
    let cause = Cause::Operator;
    for state in [State::Releasing { key, cause }, State::Resuming { key }] {
        releasing.pools.get_mut(&pool).unwrap().state = state;
        assert_eq!(leads_to(&releasing), before.next());
        assert!(releasing.moves(pool));
    }
    bench.ask(A, Request::Switchover(pool)).unwrap();
    bench.until("it is taken", |bench| bench.serves(B, pool));
    for who in [A, B] {
        assert_eq!(told(bench.core(who), bench.now), before.next());
    }
    assert_eq!(leads_to(bench.core(B)), before.next());
}

#[test]
fn a_pool_moves_from_the_wish_until_it_is_at_rest() {
    let bench = Bench::whole();
    let pool = POOLS[1];
    let mut asked = bench.core(A).clone();
    asked.pools.get_mut(&pool).unwrap().ask = Some(bench.now);
    assert!(asked.moves(pool), "somebody here has asked for it");
    let mut wanted = bench.core(B).clone();
    wanted.release(pool);
    assert!(wanted.moves(pool), "it is to go");
    let mut leaving = bench.core(B).clone();
    leaving.wishes.shutdown = Some(bench.now);
    assert!(leaving.moves(pool), "its controller goes");
    let mut alone = Bench::alone().core(A).clone();
    assert!(!alone.moves(pool), "it is served");
    alone.pools.get_mut(&pool).unwrap().state = State::Idle;
    assert!(alone.moves(pool), "nobody else could serve it");
    assert!(!alone.moves(PoolId::from_bytes([9; 16])), "one that is not known");
}

#[test]
fn who_is_not_told_what_is_imported_says_so_and_takes_nothing() {
    let mut bench = Bench::alone();
    bench.boot(params(B, 2));
    bench.core_mut(B).imports = None;
    bench.core_mut(B).watchdog = None;
    let limit = bench.core(B).params.timing.watchdog;
    assert_eq!(bench.alarms(B), []);
    bench.core_mut(B).started = Instant::ZERO;
    bench.now = Instant::ZERO + limit + secs(1);
    let now = bench.now;
    let core = bench.core_mut(B);
    core.raise_alarms(now);
    let ids: Vec<&str> = bench.alarms(B).into_iter().map(|(id, _)| id).collect();
    assert!(ids.contains(&"imports_unknown"), "{ids:?}");
    says(
        bench.core(B),
        now,
        "takeover",
        "does not say what it has imported",
    );
    says(
        bench.core(B),
        now,
        "switchover",
        "does not say what it has imported",
    );
}
