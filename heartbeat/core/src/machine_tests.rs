use super::*;
use crate::arbiter;
use crate::area::{Claim, ClaimState, Claims, Unread};
use crate::bench::{A, B, Bench, Comes, POOLS, configured, params};
use crate::event::Request;
use crate::record::{Ballot, Members, Mode};
use alloc::string::ToString;

const NS: Duration = Duration::from_nanos(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A core of a whole array, and the instant.
fn whole() -> (Core, Instant) {
    let bench = Bench::whole();
    (bench.core(A).clone(), bench.now)
}

/// A core that has just been born.
fn newborn() -> Core {
    Core::new(params(A, 1), Instant::from_nanos(1_000_000_000_000)).unwrap()
}

#[test]
fn parameters_that_contradict_each_other_are_refused_and_named() {
    let with = |change: fn(&mut Params)| {
        let mut params = params(A, 1);
        change(&mut params);
        Core::new(params, Instant::ZERO).map(|_| ())
    };
    let bad = with(|params| params.set = crate::QuorumSet::default()).unwrap_err();
    assert!(
        bad == BadParams::Disks && bad.to_string().contains("expected 1, 3 or 5"),
        "{bad}"
    );
    let bad = with(|params| params.incarnation = Incarnation::new(0)).unwrap_err();
    assert!(
        bad == BadParams::Incarnation && bad.to_string().contains("number 1"),
        "{bad}"
    );
    let bad = with(|params| params.timing.beat = Duration::ZERO).unwrap_err();
    assert!(
        matches!(bad, BadParams::Timing(_)) && bad.to_string().contains("h > 0"),
        "{bad}"
    );
}

#[test]
fn a_majority_of_five_is_reached_by_the_third_best() {
    let mut given = params(A, 1);
    given.set = crate::QuorumSet::first(&[0, 1, 2, 3, 4].map(DiskIndex::new)).unwrap();
    let mut core = Core::new(given, Instant::ZERO).unwrap();
    let best = |core: &Core| core.majority_of(|disk| disk.slot_submitted);
    let at = Instant::from_nanos;
    for (disk, submitted) in [3_u64, 9, 5].into_iter().enumerate() {
        assert_eq!(best(&core), None, "{disk} of five");
        core.disks[disk].slot_submitted = Some(at(submitted));
    }
    assert_eq!(best(&core), Some(at(3)));
    core.disks[3].slot_submitted = Some(at(7));
    assert_eq!(best(&core), Some(at(5)));
}

/// What comes after what is told by these numbers.
#[test]
fn a_stamp_is_the_number_of_the_next_effect() {
    let mut core = newborn();
    for _ in 0..3 {
        let stamp = core.stamp();
        assert_eq!(core.fresh_id(), stamp);
        assert!(core.stamp() > stamp);
    }
}

// ---- limits: each is sharp ------------------------------------------------------------------------------------

#[test]
fn a_lease_is_fresh_for_g_after_a_sign_of_life_and_out_for_good_after_g_and_w() {
    let (mut core, _) = whole();
    let timing = core.params.timing;
    let at = Instant::from_nanos(5_000_000_000_000);
    let sight = |core: &Core, after: Duration| core.lease_sight(at + after);
    for shown in [true, false] {
        core.served_since = Some(if shown { Instant::from_nanos(1) } else { at });
        (core.slot_basis, core.wire.echoed) = if shown { (Some(at), None) } else { (None, None) };
        assert_eq!(
            core.lease_sight((at + timing.lease).before(NS)),
            LeaseSight::Fresh
        );
        assert_eq!(sight(&core, timing.lease), LeaseSight::RunOut);
        let end = timing.lease + timing.watchdog;
        assert_eq!(core.lease_sight((at + end).before(NS)), LeaseSight::RunOut);
        assert_eq!(sight(&core, end), LeaseSight::LongOut);
    }
    core.served_since = None;
    assert_eq!(
        sight(&core, timing.watchdog * 9),
        LeaseSight::Fresh,
        "who serves nobody has none to lose"
    );
}

#[test]
fn the_shelf_is_lost_when_the_own_slot_was_not_written_for_td_and_a_reason_to_give_after_tn_more() {
    let (mut core, now) = whole();
    let timing = core.params.timing;
    core.disks
        .iter_mut()
        .for_each(|disk| disk.slot_submitted = Some(now));
    core.disks[0].slot_submitted = None;
    let lost = |of: fn(&Core, Instant) -> ShelfSight, after| {
        assert_eq!(of(&core, (now + after).before(NS)), ShelfSight::Reachable);
        assert_eq!(of(&core, now + after), ShelfSight::Lost);
    };
    lost(Core::shelf, timing.disk_limit);
    lost(Core::shelf_for_own, timing.disk_limit + timing.wire_limit);
}

#[test]
fn a_wire_flaps_when_it_fell_silent_more_than_n_times_in_m() {
    let (core, now) = whole();
    let timing = core.params.timing;
    let flaps = |count, ago: Duration| {
        let mut core = core.clone();
        core.note_silences(now, count);
        core.flapping(now + ago)
    };
    assert!(!flaps(timing.flap_count, Duration::ZERO));
    assert!(flaps(timing.flap_count + 1, Duration::ZERO));
    assert!(flaps(timing.flap_count + 1, timing.flap_window - NS));
    assert!(!flaps(timing.flap_count + 1, timing.flap_window));
}

#[test]
fn only_a_wire_that_lived_falls_silent() {
    let mut bench = Bench::new();
    bench.wire = [false; 2];
    bench.boot(params(A, 1));
    bench.run(ms(1_500));
    assert_eq!(
        (bench.core(A).wire_sight.0, bench.core(A).silences.len()),
        (WireSight::Silent, 0)
    );
    let mut bench = Bench::whole();
    for count in 1..=8 {
        bench.wire = [false; 2];
        bench.run(ms(1_500));
        assert!(bench.notes(A).contains(&Note::Wire { alive: false }));
        bench.wire = [true; 2];
        bench.run(ms(1_500));
        assert!(bench.notes(A).contains(&Note::Wire { alive: true }));
        let kept = bench.core(A).silences.len();
        assert_eq!(
            kept,
            count.min(bench.core(A).params.timing.flap_count as usize + 1)
        );
    }
}

#[test]
fn an_unserved_pool_is_asked_for_after_x_and_the_asking_was_in_vain_after_y_more() {
    let (mut core, now) = whole();
    let timing = core.params.timing;
    let sight = |core: &Core, after: Duration| core.pool_sight(now + after);
    assert_eq!(sight(&core, timing.unserved_limit * 9), PoolSight::Served);
    core.pools.get_mut(&POOLS[1]).unwrap().unserved_since = Some(now);
    assert_eq!(sight(&core, timing.unserved_limit - NS), PoolSight::Served);
    assert_eq!(sight(&core, timing.unserved_limit), PoolSight::Unserved);
    assert_eq!(
        sight(&core, timing.unserved_limit + timing.ask_limit - NS),
        PoolSight::Unserved
    );
    assert_eq!(
        sight(&core, timing.unserved_limit + timing.ask_limit),
        PoolSight::Ignored
    );
}

// ---- the watchdog and the end ---------------------------------------------------------------------------------

fn pets(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Pet))
        .count()
}

#[test]
fn a_watchdog_is_petted_on_a_fresh_lease_once_a_beat() {
    let (core, now) = whole();
    let pets_at = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        core.petted = None;
        core.lease_until = now + NS;
        (core.slot_basis, core.wire.echoed) = (None, None);
        change(&mut core);
        core.lease(now);
        pets(&core.out)
    };
    assert_eq!(pets_at(&|_| {}), 1);
    assert_eq!(
        pets_at(&|core| core.lease_until = now),
        0,
        "the lease has run out"
    );
    assert_eq!(pets_at(&|core| core.watchdog = Some(false)), 0);
    assert_eq!(pets_at(&|core| core.watchdog = None), 1, "it may be armed");
    let beat = core.params.timing.beat;
    assert_eq!(pets_at(&|core| core.petted = Some(now.before(beat))), 1);
    assert_eq!(pets_at(&|core| core.petted = Some(now.before(beat - NS))), 0);
    // Who never was a member has nothing that a reset would have to end, if it is known that nothing is imported; who was has.
    let key = ReservationKey {
        controller: A,
        epoch: Epoch::new(2),
        generation: Generation::new(1),
    };
    let kept = BTreeMap::from([(PoolId::from_bytes([1; 16]), key)]);
    let outside = |was_member, imports: Option<BTreeMap<PoolId, ReservationKey>>| {
        pets_at(&move |core| {
            core.params.incarnation = Incarnation::new(2);
            (core.was_member, core.lease_until) = (was_member, Instant::ZERO);
            core.imports.clone_from(&imports);
        })
    };
    let none = Some(BTreeMap::new());
    assert_eq!((outside(false, none.clone()), outside(true, none)), (1, 0));
    assert_eq!(outside(false, Some(kept)), 0, "an earlier daemon's");
    assert_eq!(outside(false, None), 0, "it may be an earlier daemon's");
}

#[test]
fn a_lease_is_granted_that_ends_later_than_now() {
    let (core, now) = whole();
    let lease = core.params.timing.lease;
    let granted = |shown: Instant| {
        let mut core = core.clone();
        (core.slot_basis, core.wire.echoed, core.lease_until) = (Some(shown), None, Instant::ZERO);
        core.lease(now);
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::GrantLease { .. }))
    };
    assert!(granted(now) && granted(now.before(lease - NS)));
    assert!(!granted(now.before(lease)) && !granted(now.before(lease + NS)));
}

#[test]
fn a_watchdog_is_armed_again_and_again_until_there_is_an_answer() {
    let (mut core, now) = whole();
    let retry = core.params.timing.retry;
    let armed = |core: &mut Core, at| {
        core.out.clear();
        core.lease(at);
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::ArmWatchdog { .. }))
    };
    assert!(!armed(&mut core, now), "it is armed");
    core.watchdog = None;
    core.armed_asked = None;
    assert!(armed(&mut core, now));
    assert!(!armed(&mut core, (now + retry).before(NS)));
    assert!(armed(&mut core, now + retry));
    core.watchdog = Some(false);
    assert!(!armed(&mut core, now + retry * 9), "there is none");
}

#[test]
fn who_has_stopped_says_so_once_a_td_and_nothing_else() {
    let mut bench = Bench::whole();
    bench.power = false;
    let reason = StopReason::Superseded(bench.core(A).record().epoch.next());
    let record = Record {
        epoch: bench.core(A).record().epoch.next(),
        members: Members::alone(B, Incarnation::new(1)),
        ..*bench.core(A).record()
    };
    bench.core_mut(A).arbiter.learn(record);
    bench.tell(A, Event::Tick);
    assert_eq!(bench.core(A).phase, Phase::Stopped(reason));
    assert_eq!(bench.core(A).lease_until, Instant::ZERO);
    bench.said.clear();
    let limit = bench.core(A).params.timing.disk_limit;
    bench.run(limit * 2 + ms(1));
    let said: Vec<&Effect> = bench
        .said
        .iter()
        .filter(|(who, _)| *who == A)
        .map(|(_, effect)| effect)
        .collect();
    assert_eq!(said, [&Effect::StopAll { reason }, &Effect::StopAll { reason }]);
}

#[test]
fn a_partner_is_suspected_once_with_what_was_seen() {
    for power in [true, false] {
        let mut bench = Bench::whole();
        bench.power = power;
        bench.cores[B.index()] = None;
        bench.run(Duration::from_secs(4));
        let notes = bench.notes(A);
        let suspected: Vec<_> = notes
            .iter()
            .filter_map(|note| match note {
                Note::Suspected { cause, .. } => Some(cause.as_str()),
                _ => None,
            })
            .collect();
        let cause = if power {
            "its power is reported off"
        } else {
            "the wire is silent and the slot is still"
        };
        assert_eq!(suspected, [cause]);
    }
}

#[test]
fn power_is_asked_for_when_three_beats_are_missing_and_no_more_when_it_is_off() {
    let (core, now) = whole();
    let beat = core.params.timing.beat;
    let asks = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        core.queried = None;
        core.wire.echoed = Some(now.before(beat * 3 + NS));
        change(&mut core);
        core.wake = now + Duration::from_secs(9);
        core.present = now;
        core.query_power(now);
        (core.out.contains(&Effect::QueryPower), core.wake)
    };
    assert!(asks(&|_| {}).0);
    let just = asks(&|core| core.wire.echoed = Some(now.before(beat * 3)));
    assert_eq!(just, (false, now + NS), "not yet, but in a moment");
    assert!(!asks(&|core| core.params.power_rung = false).0);
    assert!(!asks(&|core| core.partner.off = Some((core.partner.incarnation, now))).0);
    assert!(
        asks(&|core| core.partner.off = Some((Incarnation::new(0), now))).0,
        "that was an earlier one"
    );
    assert!(!asks(&|core| core.queried = Some(now.before(beat - NS))).0);
    assert!(asks(&|core| core.queried = Some(now.before(beat))).0);
}

// ---- what is heard --------------------------------------------------------------------------------------------

/// A datagram as the partner would send it now.
fn datagram(core: &mut Core, now: Instant) -> Datagram {
    let (_, nonce) = core.wire.send(now);
    Datagram {
        sequence: 1,
        nonce: 77,
        echo: Some(nonce),
        advert: core.partner.advert.unwrap_or_default(),
        record: Some(*core.record()),
        letter: core.partner.letter.clone(),
        holdings: Vec::new(),
    }
}

#[test]
fn what_an_earlier_incarnation_says_is_not_heard_and_a_later_one_is_met_at_once() {
    let (core, now) = whole();
    let hear = |incarnation: u64| {
        let mut core = core.clone();
        core.partner.nonce = None;
        core.partner.incarnation = Incarnation::new(5);
        core.partner.known_since = now;
        let mut said = datagram(&mut core, now);
        said.advert.incarnation = Incarnation::new(incarnation);
        said.advert.epoch = Epoch::new(99);
        core.received(now + NS, said);
        let believed = core
            .partner
            .advert
            .is_some_and(|advert| advert.epoch == Epoch::new(99));
        (
            core.partner.incarnation.get(),
            core.partner.known_since,
            core.partner.nonce.is_some(),
            believed,
        )
    };
    assert_eq!(hear(4), (5, now, false, false));
    assert_eq!(hear(5), (5, now, true, true), "known since it was met first");
    assert_eq!(hear(6), (6, now + NS, true, true));
}

#[test]
fn what_does_not_answer_the_present_nonce_is_not_believed_but_is_answered() {
    let (mut core, now) = whole();
    let mut said = datagram(&mut core, now);
    said.echo = Some(said.echo.unwrap() ^ 1);
    said.advert.epoch = Epoch::new(99);
    core.partner.nonce = None;
    core.received(now, said);
    assert!(
        core.partner
            .advert
            .is_some_and(|advert| advert.epoch != Epoch::new(99))
    );
    assert!(core.partner.nonce.is_some());
}

#[test]
fn a_record_that_is_heard_before_the_area_is_read_is_kept_and_comes_to_nothing_yet() {
    let mut core = newborn();
    let now = core.present;
    let record = Record {
        epoch: Epoch::new(9),
        ..Record::genesis(crate::bench::set())
    };
    let mut said = datagram(&mut core, now);
    said.record = Some(record);
    core.received(now, said.clone());
    // But for where to look, and the end of a lease that an earlier daemon may have given.
    core.out
        .retain(|effect| !matches!(effect, Effect::UseDisks(_) | Effect::GrantLease { .. }));
    assert!(core.out.is_empty() && core.previous.is_none(), "{:?}", core.out);
    assert_eq!(core.record().epoch, Epoch::new(9));
    let (mut core, now) = whole();
    core.out.clear();
    core.received(now, said);
    assert!(core.out.contains(&Effect::Note(Note::Decided(record))));
}

#[test]
fn who_was_briefed_stays_briefed() {
    let (mut core, now) = whole();
    core.briefed = false;
    let mut said = datagram(&mut core, now);
    said.record = None;
    core.received(now, said);
    assert!(!core.briefed, "no record came");
    for _ in 0..2 {
        let said = datagram(&mut core, now);
        core.received(now, said);
        assert!(core.briefed);
    }
    let mut said = datagram(&mut core, now);
    said.record = None;
    core.received(now, said);
    assert!(core.briefed, "what was heard once was heard");
}

#[test]
fn nobody_is_echoed_who_is_excluded_by_a_fence_or_by_a_vote() {
    let (mut core, _) = whole();
    let one = Incarnation::new(1);
    let two = Incarnation::new(2);
    assert!(core.echoes(one, true) && core.echoes(two, false));
    let next = core.record().epoch.next();
    let vote = |members| Vote {
        mbal: Ballot::new(2),
        bal: Ballot::new(2),
        value: Some(Record {
            epoch: next,
            members,
            mode: Mode::Sealed,
            ..*core.record()
        }),
        ..Vote::after(*core.record())
    };
    let (without, with) = (
        vote(Members::alone(A, one)),
        vote(Members::alone(A, one).with(B, one)),
    );
    core.arbiter = Arbiter::new(A, without);
    assert!(!core.echoes(one, true), "the vote is against it");
    assert!(
        core.echoes(two, false),
        "which is no member: nothing of it is ended by that"
    );
    core.arbiter = Arbiter::new(A, with);
    assert!(core.echoes(one, true));
    core.fence = Some(Fence {
        epoch: next,
        victim: one,
        since: Instant::ZERO,
        stamp: 0,
        cut_at: None,
    });
    assert!(!core.echoes(one, true) && core.echoes(two, false));
    // Whoever acts as a member and is none, by a record that this controller has learnt.
    let (mut core, _) = whole();
    let three = Incarnation::new(3);
    assert!(core.echoes(three, false), "it waits, or starts");
    assert!(!core.echoes(three, true));
    core.arbiter = Arbiter::new(
        A,
        Vote::after(Record {
            members: Members::alone(A, one),
            ..*core.record()
        }),
    );
    assert!(!core.echoes(one, true) && core.echoes(one, false));
    assert!(newborn().echoes(one, true), "nothing is decided that it knows of");
}

#[test]
fn who_offers_itself_has_learnt_what_was_decided() {
    let mut bench = Bench::alone();
    bench.boot(params(B, 2));
    bench.run(ms(500));
    let outside = bench.core(B).clone();
    let role = |change: &dyn Fn(&mut Core)| {
        let mut core = outside.clone();
        core.arbiter = Arbiter::new(
            B,
            Vote::after(Record {
                members: Members::default(),
                ..*core.record()
            }),
        );
        change(&mut core);
        core.role()
    };
    let blind = |core: &mut Core| {
        core.briefed = false;
        core.waited = None;
        core.disks.iter_mut().for_each(|disk| disk.vote = None);
    };
    assert_eq!(role(&|_| {}), Role::Waiting);
    assert_eq!(role(&blind), Role::Starting);
    for which in 0..3 {
        let one = |core: &mut Core| {
            let ballots: Vec<_> = core.disks.iter().map(|disk| disk.vote).collect();
            blind(core);
            match which {
                0 => core.briefed = true,
                1 => core.waited = Some(Epoch::new(1)),
                _ => core
                    .disks
                    .iter_mut()
                    .zip(ballots)
                    .for_each(|(disk, vote)| disk.vote = vote),
            }
        };
        assert_eq!(role(&one), Role::Waiting, "{which}");
    }
    let early = |core: &mut Core| {
        let started = core.started_stamp;
        (core.briefed, core.waited) = (false, None);
        core.disks
            .iter_mut()
            .flat_map(|disk| &mut disk.vote)
            .for_each(|(_, id)| *id = started - 1);
    };
    assert_eq!(
        role(&early),
        Role::Starting,
        "ballots that were read by an earlier daemon's numbers say nothing"
    );
    assert_eq!(role(&|core| core.config = None), Role::Starting);
    assert_eq!(role(&|core| core.imports = None), Role::Starting);
    let unwritten = |core: &mut Core| core.disks.iter_mut().for_each(|disk| disk.slot_submitted = None);
    assert_eq!(
        role(&unwritten),
        Role::Starting,
        "its slot would not show what it offers"
    );
}

// ---- disks ----------------------------------------------------------------------------------------------------

#[test]
fn a_ballot_is_durable_when_its_second_copy_of_this_version_is() {
    let (core, now) = whole();
    let version = core.arbiter.version();
    let stamped = |written, result| {
        let mut core = core.clone();
        core.disks[0].vote_stamp = None;
        core.disks[0].block(BlockId::Vote1).flight = Some((WriteId(9_999), written));
        core.write_done(now, WriteId(9_999), now, result);
        assert!(core.disks[0].block(BlockId::Vote1).flight.is_none());
        core.disks[0].vote_stamp.is_some()
    };
    assert!(stamped(version, Ok(())));
    assert!(!stamped(version, Err(())));
    assert!(!stamped(version - 1, Ok(())), "an older ballot");
}

#[test]
fn the_second_copy_of_a_ballot_waits_for_the_first() {
    let (mut core, now) = whole();
    core.arbiter.propose();
    core.out.clear();
    core.write_block(now, 0, BlockId::Vote1);
    assert!(core.out.is_empty(), "the first is not written");
    core.write_block(now, 0, BlockId::Vote0);
    assert_eq!(core.out.len(), 1);
    core.write_block(now, 0, BlockId::Vote1);
    core.write_block(now, 0, BlockId::Vote0);
    assert_eq!(core.out.len(), 1, "the first is on its way");
    let version = core.arbiter.version();
    let Some((id, _)) = core.disks[0].block(BlockId::Vote0).flight else {
        panic!("it is on its way");
    };
    core.write_done(now, id, now, Ok(()));
    assert_eq!(core.disks[0].block(BlockId::Vote0).durable, version);
    core.write_block(now, 0, BlockId::Vote1);
    assert_eq!(core.out.len(), 2);
    core.arbiter.propose();
    core.write_block(now, 0, BlockId::Vote0);
    assert_eq!(core.out.len(), 2, "never both at once");
}

#[test]
fn a_write_that_failed_is_tried_again_after_a_slot_period_and_not_before() {
    let (mut core, now) = whole();
    let at = now + core.params.timing.slot_period;
    core.disks[0].block(BlockId::Slot).flight = Some((WriteId(9_999), 1));
    core.write_done(now, WriteId(9_999), now, Err(()));
    core.sequence += 1;
    core.out.clear();
    core.wake = at + Duration::from_secs(9);
    core.write_block(at.before(NS), 0, BlockId::Slot);
    assert!(core.out.is_empty() && core.wake == at);
    core.write_block(at, 0, BlockId::Slot);
    assert_eq!(core.out.len(), 1);
}

#[test]
fn a_round_of_slots_counts_once_and_no_more_are_kept_than_a_lease_needs() {
    let (mut core, now) = whole();
    core.rounds.clear();
    let mut submit = |at: Instant| {
        core.disks
            .iter_mut()
            .for_each(|disk| (disk.slot_submitted, disk.want_read) = (Some(at), false));
        core.slot_written(7);
        (core.rounds.len(), core.disks.iter().all(|disk| disk.want_read))
    };
    assert_eq!(submit(now), (1, true));
    assert_eq!(submit(now), (1, false), "the same round on another disk");
    assert_eq!(submit(now.before(NS)), (1, false));
    assert_eq!(submit(now + NS), (2, true));
    for later in 2..40 {
        submit(now + ms(later));
    }
    assert_eq!(submit(now + ms(50)), (16, true));
}

#[test]
fn a_slot_counts_for_the_lease_when_ballots_read_after_it_do_not_oppose() {
    let (core, now) = whole();
    let own = *core.arbiter.block();
    let value = |members| Record {
        epoch: own.instance,
        members,
        ..*core.record()
    };
    let (one, both) = (Incarnation::new(1), core.record().members);
    let opposed = Vote {
        value: Some(value(Members::alone(B, one))),
        ..own
    };
    let basis = |stamp: u64, vote: Vote| {
        let mut core = core.clone();
        (core.slot_basis, core.rounds) = (None, VecDeque::from([(now, stamp)]));
        core.disks.iter_mut().for_each(|disk| disk.vote = Some((own, 10)));
        core.disks[2].vote = Some((vote, 10));
        core.advance_slot_basis();
        (core.slot_basis, core.rounds.len())
    };
    assert_eq!(basis(10, own), (Some(now), 0));
    assert_eq!(basis(9, own), (Some(now), 0));
    assert_eq!(basis(11, own), (None, 1), "what was read came before it");
    assert_eq!(
        basis(10, opposed),
        (None, 0),
        "one vote against this controller is enough"
    );
    assert_eq!(
        basis(
            10,
            Vote {
                value: Some(value(both)),
                ..own
            }
        ),
        (Some(now), 0)
    );
    let earlier = Vote {
        instance: Epoch::new(1),
        ..opposed
    };
    assert_eq!(basis(10, earlier), (Some(now), 0), "of another instance");
}

#[test]
fn the_own_area_is_kept_as_whole_as_it_was_read() {
    let good = Area::formatted(crate::bench::set());
    let bad = Area::unread(Unread::Checksum);
    let kept = |before: Option<&Area>, read: &Area| {
        let mut core = newborn();
        let now = core.present;
        core.disks[0].own = before.cloned();
        core.disks[0].read = Some((ReadId(9_999), A));
        core.read_done(now, ReadId(9_999), now, read.clone());
        core.disks[0].own.clone()
    };
    assert_eq!(kept(None, &bad), Some(bad.clone()));
    assert_eq!(
        kept(Some(&good), &bad),
        Some(good.clone()),
        "a bad reading takes nothing back"
    );
    assert_eq!(kept(Some(&bad), &good), Some(good.clone()));
    assert_eq!(kept(None, &good), Some(good));
}

#[test]
fn a_slot_speaks_for_the_partner_only_where_the_wire_does_not() {
    let (core, now) = whole();
    let told = |change: &dyn Fn(&mut Core), sequence: u64, incarnation: u64| {
        let mut core = core.clone();
        core.partner.incarnation = Incarnation::new(1);
        change(&mut core);
        let advert = Advert {
            incarnation: Incarnation::new(incarnation),
            epoch: Epoch::new(99),
            ..Advert::default()
        };
        let slot = Ok(Slot { sequence, advert });
        core.disks[0].read = Some((ReadId(9_999), B));
        core.read_done(
            now,
            ReadId(9_999),
            now,
            Area {
                slot,
                ..Area::unread(Unread::Io)
            },
        );
        core.partner
            .advert
            .is_some_and(|advert| advert.epoch == Epoch::new(99))
    };
    // Slot 7 stands there, and the one before it was read last at `stood`.
    let seen = |core: &mut Core, stood: Instant| {
        core.disks[0].watch = SlotWatch::default();
        for (sequence, issued) in [(6, stood), (7, now)] {
            let advert = Advert {
                incarnation: Incarnation::new(1),
                ..Advert::default()
            };
            core.disks[0]
                .watch
                .see(now, issued, Ok(&Slot { sequence, advert }));
        }
    };
    let said = core.wire.last();
    let same = |core: &mut Core| seen(core, said);
    let silent = |core: &mut Core| (same(core), core.wire_sight.0 = WireSight::Silent).1;
    let unknown = |core: &mut Core| (silent(core), core.partner.advert = None).1;
    assert!(!told(&same, 8, 1), "the wire is fresher");
    assert!(told(&silent, 8, 1));
    assert!(
        !told(&silent, 7, 1),
        "it has not changed, and may be older than what was said last"
    );
    let written_after = |core: &mut Core| {
        seen(core, said + NS);
        core.wire_sight.0 = WireSight::Silent;
    };
    assert!(
        told(&written_after, 7, 1),
        "it was written after what was said last"
    );
    let alive = |core: &mut Core| (written_after(core), core.wire_sight.0 = WireSight::Alive).1;
    assert!(!told(&alive, 7, 1), "more may be said");
    let shown_by_another =
        |shown: u64| move |core: &mut Core| (written_after(core), core.partner.advert_slot = Some(shown)).1;
    assert!(
        !told(&shown_by_another(8), 7, 1),
        "another disk has shown a later one"
    );
    assert!(told(&shown_by_another(7), 7, 1));
    assert!(told(&unknown, 7, 1), "better than nothing");
    assert!(!told(&unknown, 0, 1), "what formatting wrote is nobody's word");
    assert!(!told(&silent, 8, 0), "of an earlier incarnation");
    let heard = |core: &mut Core| (same(core), core.partner.advert = None).1;
    assert!(told(&heard, 7, 1));
}

#[test]
fn a_disk_is_read_once_a_slot_period_or_when_something_has_to_be_known_soon() {
    let (core, now) = whole();
    let period = core.params.timing.slot_period;
    let reads = |at: Instant, change: fn(&mut Disk)| {
        let mut core = core.clone();
        for disk in &mut core.disks {
            (disk.read, disk.want_read, disk.read_at) = (None, false, Some(now));
            change(disk);
        }
        core.out.clear();
        core.disk_io(at);
        core.out
            .iter()
            .filter(|effect| matches!(effect, Effect::ReadArea { .. }))
            .count()
    };
    assert_eq!(reads((now + period).before(NS), |_| {}), 0);
    assert_eq!(reads(now + period, |_| {}), 3);
    assert_eq!(reads(now, Disk::read_soon), 3);
    assert_eq!(
        reads(now, |disk| (disk.read_soon(), disk.read = Some((ReadId(1), B))).1),
        0,
        "one at a time"
    );
}

/// Who has begun to decide on other disks has written that to most of these: to know that these are the ones that count,
/// the partner's ballots are read as well.
#[test]
fn nobody_starts_by_the_own_areas_alone() {
    let mut core = newborn();
    let now = core.present;
    let area = Area::formatted(crate::bench::set());
    for read in 0..3 {
        core.disks
            .iter_mut()
            .for_each(|disk| disk.own = Some(area.clone()));
        core.start(now);
        assert_eq!(core.phase == Phase::Up, read == 2, "{read} ballots were read");
        if let Some(disk) = core.disks.get_mut(read) {
            disk.vote = area.vote.ok().map(|vote| (vote, 1));
        }
    }
}

// ---- start ----------------------------------------------------------------------------------------------------

/// Whether a controller starts from own areas like this.
fn starts(change: &dyn Fn(&mut Area)) -> bool {
    let mut core = newborn();
    let now = core.present;
    for disk in &mut core.disks {
        let mut area = Area::formatted(crate::bench::set());
        disk.vote = area.vote.ok().map(|vote| (vote, 1));
        change(&mut area);
        disk.own = Some(area);
    }
    core.start(now);
    core.phase == Phase::Up
}

#[test]
fn who_may_have_claimed_something_reads_its_claims_back_before_it_starts() {
    let mine = |area: &mut Area| area.slot.as_mut().unwrap().advert.incarnation = Incarnation::new(1);
    let no_claims = |area: &mut Area| area.claims = Err(Unread::Checksum);
    let no_slot = |area: &mut Area| area.slot = Err(Unread::Checksum);
    assert!(starts(&|_| {}));
    assert!(starts(&mine));
    assert!(
        starts(&no_slot),
        "a slot that tore says nothing that has to be kept"
    );
    assert!(starts(&no_claims), "an older incarnation's claims bind nobody");
    assert!(!starts(&|area| (mine(area), no_claims(area)).1));
    assert!(
        starts(&|area| (no_slot(area), no_claims(area)).1),
        "both tore with the power, and with it the life that wrote them has ended"
    );
    assert!(
        !starts(&|area| (area.slot = Err(Unread::Io), no_claims(area)).1),
        "whose they are is not known"
    );
    assert!(!starts(&|area| area.vote = Err(Unread::Checksum)));
}

#[test]
fn a_start_needs_a_majority_that_tells_each_disk_in_its_own_way() {
    let starts = |changes: [&dyn Fn(&mut Area); 3]| {
        let mut core = newborn();
        let now = core.present;
        for (disk, change) in core.disks.iter_mut().zip(changes) {
            let mut area = Area::formatted(crate::bench::set());
            change(&mut area);
            // What is unread of the one part is unread of the other.
            disk.vote = area.vote.ok().map(|vote| (vote, 0));
            disk.own = Some(area);
        }
        core.start(now);
        core.phase == Phase::Up
    };
    let wiped = |area: &mut Area| *area = Area::unread(Unread::Blank);
    let no_claims = |area: &mut Area| area.claims = Err(Unread::Checksum);
    let no_slot = |area: &mut Area| area.slot = Err(Unread::Checksum);
    let begun = |area: &mut Area| area.slot.as_mut().unwrap().advert.incarnation = Incarnation::new(1);
    assert!(
        starts([&wiped, &no_claims, &no_slot]),
        "one tells by its slot that nothing was claimed, the other shows the claims"
    );
    assert!(!starts([&wiped, &wiped, &no_slot]));
    assert!(!starts([
        &wiped,
        &|area| (begun(area), no_claims(area)).1,
        &no_slot
    ]));
    assert!(
        !starts([&begun, &no_claims, &no_claims]),
        "this incarnation may have claimed on disks whose slots it had not reached"
    );
    assert!(starts([&begun, &no_slot, &no_claims]));
}

#[test]
fn what_is_written_after_a_start_is_later_than_whatever_stands_there() {
    let mut core = newborn();
    let now = core.present;
    for (disk, sequence) in core.disks.iter_mut().zip([5, 40, 7]) {
        let mut area = Area::formatted(crate::bench::set());
        area.slot.as_mut().unwrap().sequence = sequence;
        area.claims.as_mut().unwrap().sequence = sequence;
        disk.vote = area.vote.ok().map(|vote| (vote, 1));
        disk.own = Some(area);
    }
    core.disks[2].own = None;
    core.start(now);
    assert_eq!(core.phase, Phase::Up);
    assert!(
        core.sequence >= 40 + 1_000,
        "a disk that was not read may show more: {}",
        core.sequence
    );
    assert_eq!(core.claims.sequence, 41);
}

#[test]
fn at_the_start_both_areas_take_turns_and_then_only_the_partners_is_read() {
    let whose = |bench: &Bench, disk: u16| -> Vec<ControllerId> {
        let reads = bench.said.iter().filter_map(|(_, effect)| match effect {
            Effect::ReadArea { disk: of, whose, .. } if of.disk == DiskIndex::new(disk) => Some(*whose),
            _ => None,
        });
        reads.collect()
    };
    // What cannot be read back of each disk: its slot, its claims.
    for bad in [
        [[true, true], [true, true], [false, false]],
        [[true, false], [true, true], [true, true]],
    ] {
        let mut bench = Bench::new();
        for (disk, [slot, claims]) in bench.disks.iter_mut().zip(bad) {
            if slot {
                disk[A.index()].slot = Err(Unread::Blank);
            }
            if claims {
                disk[A.index()].claims = Err(Unread::Checksum);
            }
        }
        bench.boot(params(A, 1));
        bench.run(ms(2_000));
        assert_eq!(bench.core(A).phase, Phase::Starting);
        for (disk, bad) in (0..3).zip(bad) {
            let reads = whose(&bench, disk);
            if bad == [false, false] {
                let own = reads.iter().filter(|who| **who == A).count();
                assert_eq!(own, 1, "once was enough: {reads:?}");
            } else {
                let turns = reads.windows(2).all(|two| two[0] != two[1]);
                assert!(reads.len() > 4 && turns, "in turn: {reads:?}");
            }
        }
    }
    let mut bench = Bench::new();
    for disk in &mut bench.disks[..2] {
        disk[A.index()].claims = Err(Unread::Checksum);
        disk[A.index()].slot = Err(Unread::Blank);
    }
    bench.boot(params(A, 1));
    bench.run(ms(2_000));
    for disk in &mut bench.disks[..2] {
        disk[A.index()].claims = Ok(Claims::default());
    }
    bench.until("it is up", |bench| bench.core(A).phase == Phase::Up);
    bench.said.clear();
    bench.run(ms(2_000));
    assert!((0..3).all(|disk| whose(&bench, disk).iter().all(|who| *who == B)));
}

#[test]
fn what_was_offered_is_remembered_under_its_epoch_and_by_nobody_who_serves() {
    let mut bench = Bench::alone();
    let before = bench.core(A).waited;
    bench.run(ms(500));
    assert_eq!(bench.core(A).waited, before);
    assert_ne!(before, Some(bench.core(A).record().epoch));
    bench.ballots = false;
    bench.boot(params(B, 2));
    bench.run(ms(1_000));
    assert_eq!(bench.core(B).waited, Some(bench.core(B).record().epoch));
}

// ---- the configuration ----------------------------------------------------------------------------------------

#[test]
fn a_freeze_that_an_earlier_daemon_asked_for_is_taken_over_and_ended() {
    let (core, now) = whole();
    let frozen = |epoch: Epoch| {
        let mut core = core.clone();
        core.configured(
            now,
            ConfigStatus {
                frozen: Some(epoch),
                ..ConfigStatus::default()
            },
        );
        core.freeze.map(|freeze| freeze.epoch)
    };
    let epoch = core.record().epoch;
    assert_eq!(frozen(epoch.next()), Some(epoch.next()));
    assert_eq!(
        frozen(epoch),
        None,
        "that epoch has come: its record ends the freeze"
    );
    let mut bench = Bench::whole();
    bench.said.clear();
    let status = ConfigStatus {
        frozen: Some(epoch.next()),
        ..ConfigStatus::default()
    };
    bench.tell(A, Event::Config(status));
    assert!(
        bench
            .heard(A)
            .contains(&Effect::ConfigUnfreeze { epoch: epoch.next() })
    );
}

#[test]
fn an_answer_to_a_catch_up_that_is_over_changes_nothing() {
    let log = crate::record::Base {
        length: pollux_api::id::LogLength::new(5),
        ..Default::default()
    };
    let caught_up = |core: &mut Core, now| {
        core.note(now, Event::ConfigCaughtUp { log, equal: true });
        (core.caught_up, core.config.unwrap().log == log)
    };
    let (mut core, now) = whole();
    assert_eq!(
        caught_up(&mut core, now),
        (false, false),
        "a member's log is its own"
    );
    core.params.incarnation = Incarnation::new(2);
    assert_eq!(caught_up(&mut core, now), (true, true));
}

#[test]
fn a_pool_that_is_not_configured_any_more_is_deleted_and_the_others_go_on() {
    let mut bench = Bench::whole();
    bench.ask(B, Request::Switchover(POOLS[1])).unwrap();
    bench.until("it is at a", |bench| bench.serves(A, POOLS[1]));
    bench.said.clear();
    bench.tell(A, Event::Pools(configured()[..1].to_vec()));
    let deleted: Vec<PoolId> = bench
        .heard(A)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::DeletePool { pool, .. } => Some(pool),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, [POOLS[1]]);
    assert!(bench.serves(A, POOLS[0]));
    assert_eq!(bench.core(A).pool_state(POOLS[1]), None);
}

/// Of two who propose at once the one of higher rank is back first, and each outbidding makes both slower.
#[test]
fn who_was_outbid_waits_by_rank_and_by_how_often() {
    for (who, rank) in [(A, 1), (B, 2)] {
        let bench = Bench::whole();
        let mut core = bench.core(who).clone();
        let half = core.params.timing.slot_period / 2;
        for (attempt, times) in [1, 2, 3, 4, 4, 4].into_iter().enumerate() {
            core.progress(bench.now, arbiter::Progress::Outbid);
            assert_eq!(
                core.propose_at,
                bench.now + half * rank * times,
                "{who}, attempt {attempt}"
            );
        }
    }
}

#[test]
fn a_letter_that_has_changed_is_another_version() {
    let mut bench = Bench::whole();
    let before = bench.core(A).letter_version;
    bench.steps.insert(PoolStep::Release, Comes::Never);
    bench.ask(A, Request::Switchover(POOLS[1])).unwrap();
    assert!(bench.core(A).letter.asks.contains(&POOLS[1]));
    let version = bench.core(A).letter_version;
    assert!(version > before);
    let durable = |core: &Core| {
        core.disks
            .iter()
            .all(|disk| disk.blocks[BlockId::Mailbox as usize].durable == version)
    };
    assert!(durable(bench.core(A)), "and it is in the mailbox");
    let letter = bench.disks[0][A.index()].letter.clone().unwrap();
    assert_eq!(letter, bench.core(A).letter);
}

#[test]
fn whoever_has_slept_calls_nobody_dead_before_it_has_listened_for_tn() {
    let mut bench = crate::bench::Bench::whole();
    let limit = bench.core(A).params.timing.wire_limit;
    // The partner is gone, and that is known.
    bench.cores[B.index()] = None;
    bench.power = false;
    let mut core = bench.core(A).clone();
    let at = bench.now;
    core.present = at;
    // A gap of a quarter of Tn is none.
    let _ = core.handle(at + limit / 4, Event::Tick);
    assert_eq!(core.slept, None);
    let woke = at + limit / 4 + (limit / 4 + Duration::from_nanos(1));
    let _ = core.handle(woke, Event::Tick);
    assert_eq!(core.slept, Some(woke));

    // What would be death is none until then.
    bench.until("it is dead", |bench| {
        matches!(bench.core(A).verdict, Partner::TakeOver)
    });
    let mut slept = bench.core(A).clone();
    let now = bench.now;
    slept.slept = Some(now);
    slept.present = now;
    slept.sights(now);
    assert_eq!(slept.verdict, Partner::Watch);
    assert!(slept.next_deadline() <= now + limit);
    let end = now + limit;
    slept.present = end;
    slept.sights(end);
    assert_eq!((slept.slept, slept.verdict), (None, Partner::TakeOver));
}

#[test]
fn a_daemon_that_starts_again_knows_by_any_whole_block_that_it_was_a_member() {
    let start = |change: &dyn Fn(&mut Area)| {
        let mut core = newborn();
        let now = core.present;
        for disk in &mut core.disks {
            let mut area = Area::formatted(crate::bench::set());
            change(&mut area);
            disk.vote = Some((Vote::after(*core.arbiter.decided()), 0));
            disk.own = Some(area);
        }
        core.start(now);
        assert!(core.phase == Phase::Up);
        core.was_member
    };
    let record = |by| {
        let mut record = Record::genesis(crate::bench::set());
        record.epoch = Epoch::new(1);
        record.members = Members::alone(A, Incarnation::new(by));
        record
    };
    let claims = |by| {
        let claim = Claim {
            epoch: Epoch::new(1),
            generation: Generation::new(1),
            state: ClaimState::Given,
            incarnation: Incarnation::new(by),
            serving: false,
            placed: false,
        };
        let pools = [(POOLS[0], claim)].into();
        Claims { pools, sequence: 1 }
    };
    assert!(!start(&|_| {}));
    for (by, member) in [(1, true), (2, false)] {
        let slot = |area: &mut Area| {
            let advert = &mut area.slot.as_mut().unwrap().advert;
            (advert.incarnation, advert.role) = (Incarnation::new(by), Role::Serving);
        };
        assert_eq!(start(&slot), member, "by its slot");
        assert_eq!(start(&|area| area.claims = Ok(claims(by))), member, "by a claim");
        let ballot = |area: &mut Area| area.vote = Ok(Vote::after(record(by)));
        assert_eq!(start(&ballot), member, "by a ballot");
    }
    let waiting = |area: &mut Area| {
        let advert = &mut area.slot.as_mut().unwrap().advert;
        (advert.incarnation, advert.role) = (Incarnation::new(1), Role::Waiting);
    };
    assert!(!start(&waiting));
}

/// K7: the disks tell of it at different times, and what it has promised last binds it.
#[test]
fn of_its_own_ballots_the_latest_of_a_majority_binds_after_a_restart() {
    let decided = Record::genesis(crate::bench::set());
    let vote = |mbal| Vote {
        mbal: Ballot::new(mbal),
        ..Vote::after(decided)
    };
    for ballots in [[2, 9, 5], [9, 2, 5], [5, 2, 9]] {
        let mut core = newborn();
        let now = core.present;
        for (disk, mbal) in core.disks.iter_mut().zip(ballots) {
            let mut area = Area::formatted(crate::bench::set());
            area.vote = Ok(vote(mbal));
            disk.vote = Some((vote(mbal), 1));
            disk.own = Some(area);
        }
        core.start(now);
        assert!(core.phase == Phase::Up);
        assert_eq!(core.arbiter.block().mbal, Ballot::new(9), "{ballots:?}");
    }
}

/// S7: whoever is echoed may count its lease from that, whatever else was seen of it.
#[test]
fn the_partners_lease_may_count_from_the_last_echo_that_it_was_given() {
    let (mut core, now) = whole();
    let before = core.partner_last();
    core.partner.echo_given = before + ms(70);
    assert_eq!(core.partner_last(), before + ms(70));
    core.partner.echo_given = Instant::ZERO;
    assert!(core.partner_last() <= now && core.partner_last() >= core.started);
}

/// S2: its own area cannot be read, and an earlier daemon's lease still runs.
#[test]
fn a_daemon_that_starts_and_hears_of_an_epoch_without_itself_ends_the_lease() {
    let ends = |members| {
        let mut core = newborn();
        let mut record = Record::genesis(crate::bench::set());
        (record.epoch, record.members) = (Epoch::new(7), members);
        core.learn(core.present, record);
        assert!(core.phase == Phase::Starting);
        core.out.iter().any(|effect| {
            matches!(effect, Effect::GrantLease { until, epoch } if (*until, *epoch) == (Instant::ZERO, record.epoch))
        })
    };
    assert!(ends(Members::alone(B, Incarnation::new(1))));
    assert!(
        ends(Members::alone(A, Incarnation::new(2))),
        "another life of its own"
    );
    assert!(!ends(Members::alone(A, Incarnation::new(1))), "it is a member");
}

#[test]
fn a_daemon_that_starts_counts_its_slots_far_above_what_any_disk_may_show() {
    for shown in [0, 1, 7] {
        let mut core = newborn();
        let now = core.present;
        for disk in &mut core.disks {
            let mut area = Area::formatted(crate::bench::set());
            area.slot.as_mut().unwrap().sequence = shown;
            disk.vote = Some((Vote::after(*core.arbiter.decided()), 0));
            disk.own = Some(area);
        }
        core.start(now);
        assert!(core.phase == Phase::Up);
        assert_eq!(core.sequence, shown + 1_000);
    }
}

/// An earlier daemon wrote it to a disk that could not be read when this one started.
#[test]
fn a_later_own_ballot_that_is_read_after_the_start_counts() {
    let (mut core, now) = whole();
    let epoch = core.record().epoch;
    let record = Record {
        epoch: epoch.next(),
        ..*core.record()
    };
    core.disks[0].read = Some((ReadId(9_999), A));
    let area = Area {
        vote: Ok(Vote::after(record)),
        ..Area::unread(Unread::Io)
    };
    core.read_done(now, ReadId(9_999), now, area);
    assert_eq!(*core.record(), record);
    assert!(core.out.contains(&Effect::Note(Note::Decided(record))));
}

/// A ballot tells the partner that the slot and the claims of its writer stand beside it.
#[test]
fn a_ballot_is_written_when_slot_and_claims_stand_on_that_disk() {
    let (core, now) = whole();
    let written = |change: &dyn Fn(&mut Disk, u64)| {
        let mut core = core.clone();
        core.out.clear();
        core.arbiter.propose();
        let sequence = core.claims.sequence;
        core.disks[0].block(BlockId::Slot).durable = 1;
        core.disks[0].block(BlockId::Claims).durable = sequence;
        change(&mut core.disks[0], sequence);
        core.write_block(now, 0, BlockId::Vote0);
        !core.out.is_empty()
    };
    assert!(written(&|_, _| {}));
    assert!(!written(&|disk, _| disk.block(BlockId::Slot).durable = 0));
    assert!(!written(
        &|disk, sequence| disk.block(BlockId::Claims).durable = sequence - 1
    ));
    let neither = |disk: &mut Disk, sequence| {
        disk.block(BlockId::Slot).durable = 0;
        disk.block(BlockId::Claims).durable = sequence - 1;
    };
    assert!(!written(&neither));
}

#[test]
fn of_its_watchdog_a_daemon_says_what_the_one_before_it_said_until_it_knows() {
    let start = |incarnation: u64, armed: bool| {
        let mut core = newborn();
        let now = core.present;
        for disk in &mut core.disks {
            let mut area = Area::formatted(crate::bench::set());
            let advert = &mut area.slot.as_mut().unwrap().advert;
            (advert.incarnation, advert.watchdog) = (Incarnation::new(incarnation), armed);
            disk.vote = Some((Vote::after(*core.arbiter.decided()), 0));
            disk.own = Some(area);
        }
        core.start(now);
        core
    };
    let says = |core: &Core| core.advert(core.present).watchdog;
    let mut core = start(1, true);
    assert!(says(&core));
    core.note(core.present, Event::Watchdog { armed: false });
    assert!(!says(&core));
    assert!(!says(&start(1, false)));
    assert!(!says(&start(9, true)), "another life's");
    let mut core = start(1, false);
    core.note(core.present, Event::Watchdog { armed: true });
    assert!(says(&core));
}

/// S1: what its last life held its present one may not have been able to read.
#[test]
fn claims_count_beside_the_slot_of_the_member_and_of_nobody_else() {
    let (core, now) = whole();
    let known = |incarnation: Option<u64>| {
        let mut core = core.clone();
        for at in 0..core.disks.len() {
            let id = ReadId(9_000 + at as u64);
            core.disks[at].read = Some((id, B));
            let mut area = Area::formatted(crate::bench::set());
            area.vote = Ok(Vote::after(*core.record()));
            area.slot = match incarnation {
                Some(number) => {
                    let mut slot = area.slot.unwrap();
                    slot.advert.incarnation = Incarnation::new(number);
                    Ok(slot)
                }
                None => Err(Unread::Checksum),
            };
            core.read_done(now, id, now, area);
        }
        core.claims_known()
    };
    assert!(known(Some(1)));
    assert!(!known(Some(2)), "a later life's");
    assert!(!known(None), "nobody knows whose");
}

/// Everything below has stopped, well or not.
fn stopped(well: bool) -> Event {
    Event::PoolDone {
        pool: PoolId::from_bytes([0; 16]),
        generation: Generation::default(),
        step: PoolStep::StopAll,
        result: if well { Ok(()) } else { Err("busy".into()) },
    }
}

#[test]
fn a_good_bye_is_said_when_it_stands_on_a_majority_and_is_believed_without_waiting_or_fencing() {
    let mut bench = Bench::whole();
    bench.ask(A, Request::Shutdown { unserved: false }).unwrap();
    bench.until("it has stopped", |bench| {
        matches!(bench.core(A).phase, Phase::Stopped(_))
    });
    assert_eq!(bench.core(A).role(), Role::Dying, "what is below may still run");
    assert!(bench.core(B).record().members.both());
    bench.power = false;
    // On one disk of three it can be overlooked by the next daemon of this life.
    bench.health[1] = crate::bench::Health::ReadOnly;
    bench.health[2] = crate::bench::Health::ReadOnly;
    bench.said.clear();
    bench.tell(A, stopped(true));
    assert_eq!((bench.core(A).role(), bench.core(A).left()), (Role::Left, false));
    assert!(!bench.core(B).partner_left());
    bench.health[1] = crate::bench::Health::Good;
    let since = bench.now;
    bench.until("b is alone", |bench| {
        bench.core(B).record().members.get(A).is_none()
    });
    assert!(bench.core(A).left() && bench.core(A).state(bench.now) == "left");
    assert!(bench.now.since(since) < bench.core(B).params.timing.wire_limit);
    bench.until("b serves both", |bench| {
        POOLS.iter().all(|pool| bench.serves(B, *pool))
    });
    let cut = |(_, effect): &(ControllerId, Effect)| matches!(effect, Effect::PowerOff(_));
    assert!(!bench.said.iter().any(cut), "who has left is not fenced");
    // A daemon of the same life finds it, and keeps to it; the next life joins.
    bench.health[2] = crate::bench::Health::Good;
    bench.boot(params(A, 1));
    bench.run(ms(3_000));
    assert_eq!(bench.core(A).state(bench.now), "left");
    bench.boot(params(A, 2));
    let ended = Note::LastEnd {
        incarnation: Incarnation::new(1),
        orderly: true,
    };
    assert!(bench.notes(A).contains(&ended));
    bench.until("it has joined", |bench| bench.core(A).record().members.both());
}

#[test]
fn no_good_bye_is_said_by_whom_something_is_left() {
    for well in [true, false] {
        let mut bench = Bench::whole();
        if well {
            // It cannot be exported, and is still there when Y is over.
            bench.steps.insert(PoolStep::Release, Comes::Never);
        }
        bench.ask(A, Request::Shutdown { unserved: false }).unwrap();
        bench.until("it has stopped", |bench| {
            matches!(bench.core(A).phase, Phase::Stopped(_))
        });
        bench.tell(A, stopped(well));
        bench.run(ms(500));
        assert_eq!((bench.core(A).role(), bench.core(A).left()), (Role::Dying, false));
        assert!(!bench.core(B).partner_left());
    }
}

#[test]
fn who_says_that_it_dies_is_waited_for_until_its_lease_has_run_out_and_is_alive_when_it_is_back() {
    let (core, now) = whole();
    let datagram = |core: &Core, role| {
        let mut advert = core.partner.advert.unwrap();
        advert.role = role;
        Datagram {
            sequence: 1_000,
            nonce: 77,
            echo: core.wire.newest(),
            advert,
            record: None,
            letter: core.partner.letter.clone(),
            holdings: Vec::new(),
        }
    };
    let mut dying = core.clone();
    let ordinary = dying.limits();
    let word = datagram(&dying, Role::Dying);
    dying.handle(now, Event::Received(word.clone()));
    let short = dying.limits();
    let gone = crate::timing::lease_gone_after(dying.params.timing.figures());
    assert!(
        short.0 <= ordinary.0 && short.1 < ordinary.1 && short.1 >= gone,
        "{short:?}"
    );
    assert_eq!(dying.record(), core.record(), "a word is no death");
    // Said again, it is no sign of life; said by one whom nobody has asked, it is nothing.
    let heard = dying.wire.last();
    dying.handle(now + ms(300), Event::Received(word));
    assert_eq!(dying.wire.last(), heard);
    let mut stale = core.clone();
    let old = Datagram {
        echo: Some(1),
        ..datagram(&core, Role::Dying)
    };
    stale.handle(now, Event::Received(old));
    assert_eq!(stale.limits(), ordinary);
    let back = datagram(&dying, Role::Serving);
    dying.handle(now + ms(400), Event::Received(back));
    assert_eq!(dying.limits(), ordinary);
}

/// The last datagram that a controller of the bench has sent.
fn last_sent(bench: &Bench, who: ControllerId) -> Datagram {
    let sent = bench.said.iter().rev().find_map(|(from, effect)| match effect {
        Effect::Send(datagram) if *from == who => Some(datagram.clone()),
        _ => None,
    });
    sent.unwrap()
}

/// L2: whose last word is believed is fenced, and a daemon that is back in the same life never shows that it was.
#[test]
fn only_a_member_says_that_it_dies() {
    let (core, now) = whole();
    let datagram = |role| {
        let mut bench = Bench::whole();
        bench.run(ms(500));
        let mut datagram = last_sent(&bench, A);
        datagram.advert.role = role;
        datagram
    };
    for (role, says) in [
        (Role::Starting, None),
        (Role::Waiting, None),
        (Role::Serving, Some(Role::Dying)),
        (Role::Releasing, Some(Role::Dying)),
        (Role::Dying, Some(Role::Dying)),
        (Role::Left, None),
    ] {
        let spoken = datagram(role);
        let word = spoken.last_word();
        assert_eq!(word.as_ref().map(|word| word.advert.role), says, "{role:?}");
        assert!(word.is_none_or(|word| word.nonce == spoken.nonce && word.echo == spoken.echo));
    }
    let role = |was_member| {
        let mut core = core.clone();
        core.was_member = was_member;
        core.stop(now, StopReason::LeaseOut);
        core.role()
    };
    assert_eq!((role(false), role(true)), (Role::Starting, Role::Dying));
    // Before its own area was read, it may be one.
    let mut blind = Core::new(params(A, 2), now).unwrap();
    blind.stop(now, StopReason::LeaseOut);
    assert_eq!(blind.role(), Role::Dying);
}

/// S5: with the wire dead nothing but its slot can take its word back, and a stall of the disks must not look like death as
/// long as the wire stays dead.
#[test]
fn who_writes_its_slot_after_it_has_said_that_it_dies_is_not_dying() {
    let mut bench = Bench::whole();
    bench.run(ms(500));
    let ordinary = bench.core(B).limits();
    let word = last_sent(&bench, A).last_word().unwrap();
    bench.wire = [false; 2];
    bench.tell(B, Event::Received(word.clone()));
    let short = bench.core(B).limits();
    assert!(short.1 < ordinary.1, "{short:?} against {ordinary:?}");
    bench.run(ms(1_000));
    assert_eq!(bench.core(B).limits(), ordinary, "it writes");
    // The same once more, late: it echoes what it echoed before, and the next write takes it back.
    bench.tell(B, Event::Received(word));
    bench.run(ms(1_000));
    assert_eq!(bench.core(B).limits(), ordinary);
    assert!(bench.core(B).record().members.both());
}

/// What was on its way to the disks when the word was said takes nothing of it back.
#[test]
fn what_was_written_before_the_last_word_is_no_life_after_it() {
    let mut bench = Bench::whole();
    bench.run(ms(500));
    let word = last_sent(&bench, A).last_word().unwrap();
    bench.cores[A.index()] = None;
    let b = bench.core_mut(B);
    let (now, record) = (b.present, *b.record());
    let slot = |sequence: u64| {
        let mut area = Area::formatted(crate::bench::set());
        area.vote = Ok(Vote::after(record));
        let advert = word.advert;
        area.slot = Ok(Slot { sequence, advert });
        area
    };
    let read = |b: &mut Core, issued: u64, sequence: u64| {
        let id = ReadId(b.fresh_id());
        b.disks[0].read = Some((id, A));
        b.read_done(now + ms(issued), id, now + ms(issued), slot(sequence));
    };
    read(b, 10, 1_000_000);
    b.received(now + ms(20), word.clone());
    assert_eq!(b.partner_dies(), Some(now + ms(20)));
    read(b, 30, 1_000_001);
    assert_eq!(
        b.partner_dies(),
        Some(now + ms(20)),
        "it may have been on its way"
    );
    read(b, 40, 1_000_001);
    assert!(b.partner_dies().is_some(), "nothing new");
    read(b, 50, 1_000_002);
    assert_eq!(
        b.partner_dies(),
        None,
        "it was not there when it was looked for after the word"
    );
}

#[test]
fn with_a_dead_wire_the_slot_says_who_goes_without_having_let_go() {
    for alive in [true, false] {
        let mut bench = Bench::whole();
        bench.steps.insert(PoolStep::Release, Comes::Never);
        bench.power = false;
        bench.wire = [alive; 2];
        bench.run(ms(3_000));
        let ordinary = bench.core(B).limits();
        bench.ask(A, Request::Shutdown { unserved: true }).unwrap();
        bench.until("it has stopped", |bench| {
            matches!(bench.core(A).phase, Phase::Stopped(_))
        });
        bench.tell(A, stopped(false));
        bench.run(ms(600));
        let says = |area: &[Area; 2]| area[A.index()].slot.unwrap().advert.role;
        let said = bench
            .disks
            .iter()
            .filter(|area| says(area) == Role::Dying)
            .count();
        assert_eq!(said > 0, !alive, "the wire says it sooner");
        let short = bench.core(B).limits();
        assert!(short.1 < ordinary.1, "{short:?} against {ordinary:?}");
        bench.until("b is alone", |bench| {
            bench.core(B).record().members.get(A).is_none()
        });
        assert!(!bench.core(B).partner_left());
    }
}

#[test]
fn a_panic_is_told_in_the_slot_of_a_member_whose_wire_is_dead_and_whose_disks_are_there() {
    for alive in [true, false] {
        let mut bench = Bench::whole();
        bench.power = false;
        bench.wire = [alive; 2];
        bench.run(ms(3_000));
        let last = bench.core(A).last_slot(bench.now);
        assert_eq!(last.is_none(), alive, "a living wire says it itself");
        let Some((slot, seats)) = last else { continue };
        let core = bench.core(A);
        assert_eq!((slot.advert.role, seats.len()), (Role::Dying, core.disks.len()));
        assert!((1..1_000).contains(&(slot.sequence - core.sequence)), "{slot:?}");
        let ordinary = bench.core(B).limits();
        bench.cores[A.index()] = None;
        for area in &mut bench.disks {
            area[A.index()].slot = Ok(slot);
        }
        bench.run(ms(600));
        let short = bench.core(B).limits();
        assert!(short.1 < ordinary.1, "{short:?} against {ordinary:?}");
        bench.until("b is alone", |bench| {
            bench.core(B).record().members.get(A).is_none()
        });
    }
    let mut blind = Bench::whole();
    blind.power = false;
    blind.wire = [false; 2];
    blind.shelf[A.index()] = false;
    blind.run(ms(3_000));
    assert_eq!(
        blind.core(A).last_slot(blind.now),
        None,
        "a minority would say that the rest can be written"
    );
}

/// S5: a daemon that has just started has heard of no life of its partner yet, and hears of an earlier one first.
#[test]
fn a_good_bye_of_an_earlier_life_says_nothing_of_the_member() {
    let mut bench = Bench::new().made_whole([params(A, 5), params(B, 1)]);
    bench.run(ms(500));
    for (incarnation, gone) in [(4, false), (5, true)] {
        let mut core = bench.core(B).clone();
        core.partner = PartnerView {
            known_since: bench.now,
            echo_given: bench.now,
            ..PartnerView::default()
        };
        let mut word = last_sent(&bench, A);
        word.advert.role = Role::Left;
        word.advert.incarnation = Incarnation::new(incarnation);
        core.handle(bench.now, Event::Received(word));
        assert_eq!((core.partner_left(), core.partner_dead()), (gone, gone));
    }
}
