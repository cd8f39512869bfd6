//! Who may go on, who has to ask, and what proves that the other has ended: each rule alone.

use super::*;
use crate::arbiter::Arbiter;
use crate::area::{Advert, Claims};
use crate::bench::{A, B, Bench, POOLS, params};
use crate::event::{Event, Request};
use crate::record::{Ballot, Vote};
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::Epoch;

const NS: Duration = Duration::from_nanos(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn incarnation(number: u64) -> Incarnation {
    Incarnation::new(number)
}

fn base(length: u64) -> Base {
    Base {
        length: LogLength::new(length),
        ..Base::default()
    }
}

fn status(length: u64) -> ConfigStatus {
    ConfigStatus {
        log: base(length),
        ..ConfigStatus::default()
    }
}

fn whole() -> (Core, Instant) {
    let mut bench = Bench::whole();
    bench.run(ms(500));
    (bench.core(A).clone(), bench.now)
}

/// A lone member, and a partner that waits to be joined.
fn visited() -> (Core, Instant) {
    let mut bench = Bench::alone();
    bench.ballots = false;
    bench.boot(params(B, 2));
    bench.run(ms(1_500));
    (bench.core(A).clone(), bench.now)
}

/// Puts a record above the present one.
fn learn(core: &mut Core, change: impl FnOnce(&mut Record)) {
    let mut record = *core.record();
    record.epoch = record.epoch.next();
    change(&mut record);
    core.arbiter = Arbiter::new(core.me(), Vote::after(record));
}

/// An own vote in the present instance.
fn vote_for(core: &mut Core, members: Members) {
    let record = *core.record();
    let value = Some(Record {
        epoch: record.epoch.next(),
        members,
        ..record
    });
    let ballot = Ballot::new(2);
    let vote = Vote {
        mbal: ballot,
        bal: ballot,
        value,
        ..Vote::after(record)
    };
    core.arbiter = Arbiter::new(core.me(), vote);
}

// ---- letters --------------------------------------------------------------------------------------------------

#[test]
fn a_letter_counts_from_and_to_these_incarnations_in_this_epoch() {
    let (core, _) = whole();
    let counts = |change: fn(&mut Letter)| {
        let mut core = core.clone();
        core.partner.letter = Letter {
            from: core.partner.incarnation,
            to: core.params.incarnation,
            epoch: core.record().epoch,
            ..Letter::default()
        };
        change(&mut core.partner.letter);
        core.mail().is_some()
    };
    assert!(counts(|_| {}));
    assert!(!counts(|letter| letter.from = Incarnation::new(9)));
    assert!(!counts(|letter| letter.to = Incarnation::new(9)));
    assert!(!counts(|letter| letter.epoch = Epoch::new(9)));
}

#[test]
fn a_partner_is_invited_when_the_configuration_stands_still_for_the_next_epoch() {
    let (core, now) = visited();
    let invites = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        let epoch = core.record().epoch.next();
        core.freeze = Some(Freeze {
            epoch,
            asked: now,
            done: Some(status(0)),
        });
        change(&mut core);
        core.compose(now).invite
    };
    assert!(core.join_wanted());
    assert!(invites(&|_| {}));
    assert!(!invites(&|core| core.freeze = None));
    assert!(!invites(&|core| core.freeze.as_mut().unwrap().done = None));
    assert!(!invites(
        &|core| core.freeze.as_mut().unwrap().epoch = Epoch::new(99)
    ));
    assert!(!invites(&|core| core.wire_sight.0 = WireSight::Silent));
}

// ---- who may go on --------------------------------------------------------------------------------------------

#[test]
fn who_is_no_member_goes_on_alone_as_the_record_says() {
    let (mut core, _) = whole();
    core.params.incarnation = incarnation(2);
    core.config = Some(status(5));
    let eligible = |members: Members, mode, log: u64, wish: bool| {
        let mut core = core.clone();
        learn(&mut core, |record| {
            (record.members, record.mode, record.base) = (members, mode, base(3))
        });
        core.wishes.override_of = wish.then_some(core.record().epoch);
        core.config = Some(status(log));
        core.probe = Some((base(3), Some(true), Instant::ZERO));
        core.eligible().map(|want| (want.mode, want.base))
    };
    let both = Members::alone(A, incarnation(1)).with(B, incarnation(1));
    let (mine, theirs) = (
        Members::alone(A, incarnation(1)),
        Members::alone(B, incarnation(1)),
    );
    let (open, sealed) = (Mode::Open, Mode::Sealed);
    for mode in [open, sealed] {
        assert_eq!(eligible(both, mode, 5, false), Some((sealed, From::Acknowledged)));
        assert_eq!(eligible(Members::default(), mode, 5, true), None);
    }
    assert_eq!(eligible(mine, open, 5, false), Some((open, From::Whole)));
    assert_eq!(eligible(mine, sealed, 5, false), Some((sealed, From::Record)));
    assert_eq!(eligible(theirs, sealed, 5, false), Some((sealed, From::Record)));
    assert_eq!(eligible(theirs, open, 5, false), None);
    assert_eq!(
        eligible(theirs, open, 5, true),
        Some((sealed, From::Whole)),
        "a person has said so"
    );
    assert_eq!(
        eligible(both, open, 2, false),
        None,
        "the log lacks what the record stands on"
    );
    let mut other = core.clone();
    learn(&mut other, |record| {
        (record.members, record.mode) = (theirs, open)
    });
    other.wishes.override_of = Some(core.record().epoch);
    assert_eq!(other.eligible(), None, "of another epoch");
    core.config = Some(ConfigStatus {
        diverged: true,
        ..status(5)
    });
    assert_eq!(core.eligible(), None);
    core.config = None;
    assert_eq!(core.eligible(), None);
}

/// H7: what was acknowledged is not in it, and nobody knows how much that is.
#[test]
fn nobody_goes_on_from_a_log_that_was_lost_unless_the_record_says_all_that_there_is() {
    let lost = ConfigStatus {
        lost: true,
        ..status(5)
    };
    let (mut core, _) = whole();
    core.params.incarnation = incarnation(2);
    let eligible = |members: Members, mode| {
        let mut core = core.clone();
        learn(&mut core, |record| {
            (record.members, record.mode, record.base) = (members, mode, base(3))
        });
        core.config = Some(lost);
        core.probe = Some((base(3), Some(true), Instant::ZERO));
        core.eligible().map(|want| (want.mode, want.base))
    };
    let both = Members::alone(A, incarnation(1)).with(B, incarnation(1));
    let (mine, theirs) = (
        Members::alone(A, incarnation(1)),
        Members::alone(B, incarnation(1)),
    );
    assert_eq!(eligible(both, Mode::Open), None);
    assert_eq!(eligible(mine, Mode::Open), None);
    let sealed = Some((Mode::Sealed, From::Record));
    assert_eq!(eligible(mine, Mode::Sealed), sealed);
    assert_eq!(eligible(theirs, Mode::Sealed), sealed);

    // A member whose partner is dead, with its log, without it, and with less than the record stands on.
    let (mut core, now) = whole();
    core.partner.power = Some(crate::event::Power::Off);
    core.partner.off = Some((core.partner.incarnation, now));
    core.sights(now);
    learn(&mut core, |record| record.base = base(3));
    for (config, wanted) in [
        (status(5), true),
        (lost, false),
        (status(2), false),
        (status(3), true),
    ] {
        core.config = Some(config);
        assert_eq!(core.want(now).is_some(), wanted, "{config:?}");
    }
    // One that is alone does not stand still for one who waits: it has nothing to give.
    let (mut core, _) = visited();
    assert!(core.join_wanted());
    core.config = Some(lost);
    assert!(!core.join_wanted());
}

#[test]
fn a_log_contains_what_it_is_equal_to_or_was_seen_to_contain() {
    let (mut core, now) = whole();
    let hash = pollux_api::id::Hash32::from_bytes([1; 32]);
    let other = |length| Base { hash, ..base(length) };
    core.config = Some(status(5));
    assert_eq!(core.contains(base(0)), Some(true));
    assert_eq!(core.contains(base(5)), Some(true));
    assert_eq!(core.contains(other(5)), Some(false), "another log of that length");
    assert_eq!(core.contains(other(6)), Some(false));
    assert_eq!(core.contains(other(4)), None, "it has to be asked");
    for answer in [true, false] {
        core.probe = Some((other(4), Some(answer), now));
        assert_eq!(core.contains(other(4)), Some(answer));
        assert_eq!(core.contains(other(3)), None);
    }
    core.config = None;
    assert_eq!(core.contains(base(0)), None);
}

/// K16: of two that have booted with the wire down exactly one goes on, and both agree which.
#[test]
fn of_two_that_have_booted_the_better_one_goes_on_and_then_the_first() {
    let (core, _) = whole();
    // Eligible, epoch of the record, length of the log: of this controller and of the other.
    let preferred = |me: ControllerId, mine: (bool, u64), theirs: (bool, u64, u64)| {
        let mut core = core.clone();
        core.params.controller = me;
        core.params.incarnation = incarnation(9);
        let status = ConfigStatus {
            diverged: !mine.0,
            ..status(mine.1)
        };
        core.config = Some(status);
        core.partner.advert = Some(Advert {
            role: Role::Waiting,
            eligible: theirs.0,
            epoch: Epoch::new(theirs.1),
            log: base(theirs.2),
            ..Advert::default()
        });
        core.partner_preferred()
    };
    let epoch = core.record().epoch.get();
    for (me, first) in [(A, false), (B, true)] {
        assert_eq!(
            preferred(me, (true, 5), (true, epoch, 5)),
            Some(first),
            "equal: a goes on"
        );
        assert_eq!(preferred(me, (true, 5), (true, epoch, 6)), Some(true));
        assert_eq!(preferred(me, (true, 6), (true, epoch, 5)), Some(false));
        assert_eq!(
            preferred(me, (true, 9), (true, epoch + 1, 5)),
            Some(true),
            "a higher epoch before a longer log"
        );
        assert_eq!(
            preferred(me, (true, 5), (false, epoch + 1, 9)),
            Some(false),
            "who may not does not"
        );
        assert_eq!(preferred(me, (false, 9), (true, epoch, 5)), Some(true));
    }
    let mut other = core.clone();
    other.partner.advert.as_mut().unwrap().role = Role::Serving;
    assert_eq!(other.partner_preferred(), None);
    other.partner.advert = None;
    assert_eq!(other.partner_preferred(), None);
}

/// Two that have booted, neither a member, the partner preferred by its log.
fn booted() -> Core {
    let (mut core, _) = whole();
    core.params.incarnation = incarnation(2);
    core.partner.incarnation = incarnation(2);
    core.was_member = false;
    core.config = Some(status(5));
    let log = base(6);
    let epoch = core.record().epoch;
    let advert = Advert {
        role: Role::Waiting,
        incarnation: incarnation(2),
        eligible: true,
        epoch,
        log,
        ..Advert::default()
    };
    core.partner.advert = Some(advert);
    core
}

#[test]
fn consent_is_given_to_a_living_better_one_by_one_who_serves_nothing() {
    let consents = |change: fn(&mut Core)| {
        let mut core = booted();
        change(&mut core);
        core.consents()
    };
    assert!(consents(|_| {}));
    assert!(!consents(|core| core.was_member = true));
    assert!(
        !consents(|core| core.params.incarnation = Incarnation::new(1)),
        "a member"
    );
    assert!(
        !consents(|core| core.partner.incarnation = Incarnation::new(1)),
        "the partner is one"
    );
    let gone = |core: &mut Core| {
        core.wire_sight.0 = WireSight::Silent;
        core.disk_sight.0 = crate::detect::DiskSight::Still;
    };
    assert!(!consents(gone));
    assert!(
        !consents(|core| core.config = Some(status(7))),
        "this one is better"
    );
    assert!(!consents(|core| core.partner.advert = None));
}

#[test]
fn who_is_no_member_proposes_over_a_dead_partner_or_with_its_consent() {
    let wants = |change: fn(&mut Core)| {
        let mut core = booted();
        core.config = Some(status(7));
        let (from, to) = (core.partner.incarnation, core.params.incarnation);
        core.partner.letter = Letter {
            from,
            to,
            epoch: core.record().epoch,
            consent: true,
            ..Letter::default()
        };
        change(&mut core);
        core.want(core.present).is_some()
    };
    assert!(wants(|_| {}));
    assert!(!wants(|core| core.partner.letter.consent = false));
    assert!(!wants(|core| core.partner.letter.epoch = Epoch::new(99)));
    assert!(
        !wants(|core| core.config = Some(status(5))),
        "the partner is better"
    );
    assert!(
        !wants(|core| core.partner.incarnation = Incarnation::new(1)),
        "the partner is a member"
    );
    let gone = |core: &mut Core| {
        core.wire_sight.0 = WireSight::Silent;
        core.disk_sight.0 = crate::detect::DiskSight::Unknown;
    };
    assert!(!wants(gone), "a consent of one who is not seen any more");
    let dead = |core: &mut Core| {
        core.partner.letter.consent = false;
        core.verdict = Partner::TakeOver;
    };
    assert!(wants(dead));
    assert!(!wants(
        |core| (core.verdict, core.was_member) = (Partner::TakeOver, true)
    ));
    assert!(!wants(
        |core| (core.verdict, core.imports) = (Partner::TakeOver, None)
    ));
    assert!(!wants(
        |core| (core.verdict, core.wishes.shutdown) = (Partner::TakeOver, Some(Instant::ZERO))
    ));
}

// ---- joining --------------------------------------------------------------------------------------------------

#[test]
fn a_partner_is_joined_by_a_lone_one_who_serves_hears_it_and_has_finished_with_its_last_life() {
    let (core, now) = visited();
    let joins = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.join_wanted()
    };
    assert!(joins(&|_| {}));
    assert!(!joins(&|core| core.wire_sight.0 = WireSight::Silent));
    assert!(!joins(&|core| core.leaving = true));
    assert!(!joins(
        &|core| core.partner.advert.as_mut().unwrap().role = Role::Starting
    ));
    assert!(!joins(&|core| core.partner.advert.as_mut().unwrap().shelf = false));
    assert!(!joins(&|core| core.partner.advert = None));
    assert!(!joins(&|core| core.params.incarnation = Incarnation::new(9)));
    let with = Members::alone(A, incarnation(1)).with(B, incarnation(2));
    assert!(
        !joins(&|core| learn(core, |record| record.members = with)),
        "it is a member"
    );
    let victim =
        |number: u64| move |core: &mut Core| core.fence.as_mut().unwrap().victim = incarnation(number);
    assert!(!joins(&victim(2)), "that very life is being fenced");
    assert!(
        !joins(&|core| core.fence = None),
        "whom its last life may have been is not known yet"
    );
    let pool = |change: fn(&mut crate::pools::Pool)| {
        move |core: &mut Core| change(core.pools.get_mut(&POOLS[1]).unwrap())
    };
    let key = core.imports.as_ref().unwrap()[&POOLS[1]];
    let taking = move |core: &mut Core| {
        core.pools.get_mut(&POOLS[1]).unwrap().state = crate::pools::State::LeaseWait { key };
    };
    assert!(!joins(&taking), "P32: what was taken is finished first");
    assert!(
        joins(&|core| (taking(core), pool(|pool| pool.failures = 1)(core)).1),
        "but not what cannot be"
    );
    let wanted = move |core: &mut Core| {
        core.pools.get_mut(&POOLS[1]).unwrap().state = crate::pools::State::Idle;
        core.imports.as_mut().unwrap().remove(&POOLS[1]);
    };
    assert!(!joins(&wanted));
    assert!(joins(&|core| (
        wanted(core),
        pool(|pool| pool.failures = 1)(core)
    )
        .1));
    let _ = now;
}

#[test]
fn a_joiner_catches_up_by_wire_until_it_is_equal_to_what_is_frozen_there() {
    let mut bench = Bench::alone();
    bench.ballots = false;
    bench.boot(params(B, 2));
    bench.run(ms(1_500));
    let (core, now) = (bench.core(B).clone(), bench.now);
    assert_eq!(core.state(now), "joining");
    let asks = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        (core.caught_up, core.catch_up_at) = (false, now);
        change(&mut core);
        core.out.clear();
        core.catch_up(now);
        (core.out.contains(&Effect::ConfigCatchUp), core.caught_up)
    };
    assert!(asks(&|_| {}).0);
    assert!(!asks(&|core| core.catch_up_at = now + NS).0);
    assert_eq!(asks(&|core| core.caught_up = true), (false, true));
    let longer = |core: &mut Core| {
        core.caught_up = true;
        core.partner.advert.as_mut().unwrap().log = base(9);
    };
    assert!(asks(&longer).0, "it has grown before it stood still");
    assert!(!asks(&|core| (longer(core), core.catch_up_at = now + NS).1).0);
    let uninvited: [fn(&mut Core); 4] = [
        |core| core.partner.letter.invite = false,
        |core| core.wire_sight.0 = WireSight::Silent,
        |core| {
            learn(core, |record| {
                record.members = Members::alone(A, Incarnation::new(9))
            })
        },
        |core| {
            learn(core, |record| {
                record.members = record.members.with(B, Incarnation::new(2))
            })
        },
    ];
    for change in uninvited {
        assert_eq!(
            asks(&|core| (core.caught_up = true, change(core)).1),
            (false, false)
        );
    }
}

// ---- what is wanted of a member -------------------------------------------------------------------------------

#[test]
fn a_member_excludes_a_dead_a_rebooted_and_an_operators_partner_and_no_other() {
    let (core, _) = whole();
    let wants = |change: fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.want(core.present)
            .map(|want| (want.members.both(), want.mode, want.base))
    };
    let sealed = Some((false, Mode::Sealed, From::Acknowledged));
    assert_eq!(wants(|_| {}), None);
    assert_eq!(wants(|core| core.verdict = Partner::TakeOver), sealed);
    assert_eq!(wants(|core| core.verdict = Partner::TakeOverAtOnce), sealed);
    assert_eq!(
        wants(|core| core.partner.incarnation = Incarnation::new(2)),
        sealed,
        "K14"
    );
    assert_eq!(wants(|core| core.partner.incarnation = Incarnation::new(0)), None);
    assert_eq!(
        wants(|core| core.wishes.force = Some(core.record().epoch)),
        sealed
    );
    assert_eq!(
        wants(|core| core.wishes.force = Some(core.record().epoch.next())),
        None
    );
}

#[test]
fn a_new_epoch_confirms_the_members_before_exclusion_that_was_lost_is_taken_again() {
    let wants = |bench: &Bench, change: &dyn Fn(&mut Core)| {
        let mut core = bench.core(A).clone();
        let epoch = core.record().epoch;
        core.pools.get_mut(&POOLS[0]).unwrap().state = crate::pools::State::Idle;
        core.imports.as_mut().unwrap().remove(&POOLS[0]);
        core.renew.insert(POOLS[0], epoch);
        change(&mut core);
        core.want(core.present)
            .map(|want| (want.members == core.record().members, want.mode, want.base))
    };
    let mut whole = Bench::whole();
    whole.run(ms(500));
    assert_eq!(wants(&whole, &|_| {}), Some((true, Mode::Open, From::Record)));
    assert_eq!(wants(&whole, &|core| core.renew.clear()), None);
    let later = |core: &mut Core| {
        let epoch = core.record().epoch.next();
        core.renew.insert(POOLS[0], epoch);
    };
    assert_eq!(wants(&whole, &later), None, "that epoch has to come first");
    let taken = |core: &mut Core| {
        let key = core.imports.as_ref().unwrap().values().next().copied();
        let key = key.unwrap_or(pollux_api::pool::ReservationKey {
            controller: A,
            epoch: core.record().epoch,
            generation: pollux_api::id::Generation::new(1),
        });
        core.imports.as_mut().unwrap().insert(POOLS[0], key);
    };
    assert_eq!(wants(&whole, &taken), None, "it has to be let go first");
    let alone = Bench::alone();
    assert_eq!(wants(&alone, &|_| {}), Some((true, Mode::Sealed, From::Record)));
    let open = |core: &mut Core| {
        learn(core, |record| record.mode = Mode::Open);
        core.renew.insert(POOLS[0], core.record().epoch);
    };
    assert_eq!(wants(&alone, &open), Some((true, Mode::Open, From::Whole)));
}

#[test]
fn a_record_stands_on_what_was_acknowledged_or_on_the_whole_log_or_on_what_the_last_one_did() {
    let (mut core, _) = whole();
    learn(&mut core, |record| record.base = base(2));
    let record = *core.record();
    let built = |from, acknowledging| {
        let want = Want {
            members: record.members,
            mode: Mode::Sealed,
            base: from,
            disks: record.disks,
        };
        let status = ConfigStatus {
            acknowledged: base(4),
            acknowledging,
            ..status(6)
        };
        let built = core.build(want, &status);
        assert_eq!(
            (built.epoch, built.mode, built.disks),
            (record.epoch.next(), Mode::Sealed, record.disks)
        );
        built.base
    };
    assert_eq!(built(From::Acknowledged, true), base(4));
    assert_eq!(
        built(From::Acknowledged, false),
        base(6),
        "its session had no word in what is acknowledged"
    );
    assert_eq!(built(From::Whole, true), base(6));
    assert_eq!(built(From::Record, true), base(2));
}

#[test]
fn a_dead_partners_vote_is_finished() {
    let (core, now) = whole();
    let own = *core.arbiter.block();
    let value = Some(Record {
        epoch: own.instance,
        ..*core.record()
    });
    let ballot = Ballot::new(3);
    let voted = Vote {
        mbal: ballot,
        bal: ballot,
        value,
        ..own
    };
    let sees = |vote: Vote| {
        let mut core = core.clone();
        core.disks[1].vote = Some((vote, 9_999));
        core.partner_voted()
    };
    assert!(sees(voted));
    assert!(!sees(own) && !sees(Vote { mbal: ballot, ..own }));
    assert!(
        !sees(Vote {
            instance: Epoch::new(1),
            ..voted
        }),
        "of an instance that is over"
    );

    // Whether it freezes, in order to propose.
    let freezes = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.out.clear();
        core.membership(now);
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::ConfigFreeze { .. }))
    };
    let theirs = |core: &mut Core| core.disks[1].vote = Some((voted, 9_999));
    // It left by itself: nothing is wanted of this member, who has to know which epoch is the highest.
    let outside = |core: &mut Core| {
        core.params.incarnation = incarnation(2);
        core.was_member = true;
        core.verdict = Partner::TakeOver;
    };
    assert!(
        !freezes(&|_| {}) && !freezes(&theirs),
        "while it lives it finishes that itself"
    );
    assert!(!freezes(&outside), "there is nothing to finish");
    assert!(freezes(&|core| (outside(core), theirs(core)).1));
    assert!(
        freezes(&|core| vote_for(core, core.record().members)),
        "and so is an own one, in any case"
    );
}

#[test]
fn a_proposal_whose_reason_has_gone_is_given_up_unless_this_controller_has_voted() {
    let (core, now) = whole();
    let given_up = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        core.arbiter.propose();
        change(&mut core);
        core.out.clear();
        core.membership(now);
        !core.arbiter.running()
    };
    assert!(given_up(&|_| {}));
    assert!(!given_up(&|core| core.verdict = Partner::TakeOver));
    let voted = |core: &mut Core| {
        vote_for(core, core.record().members);
        core.arbiter.propose();
    };
    assert!(!given_up(&voted));
}

#[test]
fn the_configuration_is_asked_again_to_stand_still_until_it_does() {
    let (mut core, now) = whole();
    let retry = core.params.timing.slot_period;
    core.verdict = Partner::TakeOver;
    let asked = |core: &mut Core, at| {
        core.out.clear();
        core.membership(at);
        core.out
            .iter()
            .filter(|effect| matches!(effect, Effect::ConfigFreeze { .. }))
            .count()
    };
    assert_eq!(asked(&mut core, now), 1);
    assert_eq!(asked(&mut core, (now + retry).before(NS)), 0);
    assert_eq!(asked(&mut core, now + retry), 1);
    core.freeze.as_mut().unwrap().done = Some(status(0));
    assert_eq!(asked(&mut core, now + retry * 9), 0, "it stands still");
    learn(&mut core, |_| {});
    assert_eq!(
        asked(&mut core, now + retry * 9),
        1,
        "another epoch is another question"
    );
}

// ---- what a new record changes --------------------------------------------------------------------------------

#[test]
fn a_freeze_ends_with_the_record_that_it_was_for() {
    let (core, now) = whole();
    let stands = |epoch: Epoch| {
        let mut core = core.clone();
        core.freeze = Some(Freeze {
            epoch,
            asked: now,
            done: None,
        });
        core.adopt_record(now);
        core.freeze.is_some()
    };
    let epoch = core.record().epoch;
    assert!(stands(epoch.next()) && !stands(epoch) && !stands(Epoch::new(1)));
}

#[test]
fn a_fence_begins_with_the_first_record_without_the_partner_and_ends_with_the_first_with_it() {
    let (mut core, now) = whole();
    core.adopt_record(now);
    assert!(core.fence.is_none());
    learn(&mut core, |record| {
        record.members = Members::alone(A, incarnation(1))
    });
    core.adopt_record(now);
    let first = core.fence.unwrap();
    assert_eq!(
        (first.epoch, first.victim, first.since),
        (core.record().epoch, incarnation(1), now)
    );
    learn(&mut core, |_| {});
    core.adopt_record(now + ms(1));
    assert_eq!(core.fence, Some(first), "evidence counts from the first choice");
    learn(&mut core, |record| {
        record.members = record.members.with(B, incarnation(2))
    });
    core.adopt_record(now + ms(2));
    assert!(core.fence.is_none());
    learn(&mut core, |record| {
        record.members = Members::alone(B, incarnation(2))
    });
    core.adopt_record(now + ms(3));
    assert!(
        core.fence.is_none() && core.was_member,
        "one who is out fences nobody"
    );
}

#[test]
fn who_has_missed_an_epoch_may_have_been_a_member_in_it() {
    let was = |waited: Option<u64>, before: bool| {
        let (mut core, now) = whole();
        core.params.incarnation = incarnation(9);
        let epoch = core.record().epoch.get();
        core.waited = waited.map(|back| Epoch::new(epoch - back));
        core.was_member = before;
        core.adopt_record(now);
        core.was_member
    };
    assert!(!was(None, false) && !was(Some(0), false) && !was(Some(1), false));
    assert!(
        was(Some(2), false),
        "between them it may have been joined and fenced again"
    );
    assert!(was(None, true), "once is for ever");
}

#[test]
fn the_victim_is_the_last_incarnation_that_anything_shows_as_a_member() {
    let (core, _) = whole();
    let last = |recorded: Option<u64>, claimed: u64, said: (u64, Role)| {
        let mut core = core.clone();
        let mut record = *core.record();
        record.members = recorded.map_or(Members::alone(A, incarnation(1)), |number| {
            record.members.with(B, incarnation(number))
        });
        core.previous = Some(record);
        let claim = crate::area::Claim {
            incarnation: incarnation(claimed),
            ..core.claims.pools[&POOLS[0]]
        };
        for disk in &mut core.disks {
            disk.claims = Some((
                Claims {
                    sequence: 1,
                    pools: [(POOLS[1], claim)].into(),
                },
                1,
            ));
        }
        core.partner.advert = Some(Advert {
            incarnation: incarnation(said.0),
            role: said.1,
            ..Advert::default()
        });
        core.last_member().get()
    };
    assert_eq!(last(Some(3), 1, (1, Role::Serving)), 3);
    assert_eq!(last(Some(1), 3, (1, Role::Serving)), 3);
    for role in [Role::Serving, Role::Releasing, Role::Dying] {
        assert_eq!(last(None, 0, (3, role)), 3);
    }
    for role in [Role::Starting, Role::Waiting] {
        assert_eq!(last(None, 1, (3, role)), 1, "it has served nobody in that life");
    }
}

// ---- the fence ------------------------------------------------------------------------------------------------

/// A core that fences incarnation 1 of its partner since `now`, and has read its slots since.
fn fencing() -> (Core, Instant) {
    let (mut core, now) = whole();
    let epoch = core.record().epoch;
    core.fence = Some(Fence {
        epoch,
        victim: incarnation(1),
        since: now,
        stamp: 100,
        cut_at: None,
    });
    core.disks.iter_mut().for_each(|disk| disk.set_slot_read(100));
    core.partner.advert.as_mut().unwrap().watchdog = true;
    (core, now)
}

#[test]
fn power_is_evidence_for_the_victim_and_by_a_question_that_was_asked_after_the_choice() {
    let (core, now) = fencing();
    let off = |who: u64, asked| {
        let mut core = core.clone();
        core.partner.off = Some((incarnation(who), asked));
        core.powered_off()
    };
    assert!(off(1, now) && off(2, now + NS));
    assert!(off(0, now), "it ran before the choice, whoever was seen of it");
    assert!(!off(1, now.before(NS)), "asked before");
    let mut none = core.clone();
    none.fence = None;
    assert!(!none.powered_off() && !none.rebooted());
    let reboots = |number| {
        let mut core = core.clone();
        core.partner.incarnation = incarnation(number);
        core.rebooted()
    };
    assert!(!reboots(1) && reboots(2));
}

#[test]
fn waiting_proves_something_of_an_armed_watchdog_under_clocks_that_do_not_stop() {
    let (core, now) = fencing();
    let deadline = |change: fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.wait_deadline()
    };
    let figures = core.partner.advert.unwrap().figures;
    let at = core.partner_last() + watchdog_gone_after(figures);
    assert_eq!(deadline(|_| {}), Some(at));
    assert_eq!(
        deadline(|core| core.partner.advert.as_mut().unwrap().watchdog = false),
        None
    );
    assert_eq!(
        deadline(|core| core.partner.advert.as_mut().unwrap().pausable = true),
        None
    );
    assert_eq!(deadline(|core| core.params.pausable = true), None);
    assert_eq!(
        deadline(|core| core.fence.as_mut().unwrap().victim = Incarnation::new(2)),
        None
    );
    assert_eq!(deadline(|core| core.partner.advert = None), None);
    assert_eq!(deadline(|core| core.fence = None), None);
    let read = |at: Instant| {
        let mut core = core.clone();
        core.disks.iter_mut().for_each(|disk| disk.watch.read = Some(at));
        core.disks[0].watch.read = Some(now);
        core.waited()
    };
    assert!(
        !read(at.before(NS)) && read(at),
        "a majority, issued from then on"
    );
}

/// S7: the old owner's lease has run out by the longer of both sides' figures, and its slot was read after the choice.
#[test]
fn an_old_lease_is_gone_when_it_has_run_out_by_both_sides_figures() {
    let (core, _) = fencing();
    let own = lease_gone_after(core.params.timing.figures());
    let at = core.partner_last() + own;
    let clear = |change: &dyn Fn(&mut Core)| {
        let mut core = core.clone();
        change(&mut core);
        core.lease_clear_at()
    };
    assert_eq!(clear(&|_| {}), Some(at));
    assert_eq!(clear(&|core| core.partner.advert = None), Some(at));
    let longer = |core: &mut Core| core.partner.advert.as_mut().unwrap().figures.lease = ms(30_000);
    assert_eq!(clear(&longer), Some(core.partner_last() + ms(31_700)));
    let shorter = |core: &mut Core| core.partner.advert.as_mut().unwrap().figures.lease = ms(10);
    assert_eq!(clear(&shorter), Some(at));
    let ended: [fn(&mut Core); 4] = [
        |core| core.fence = None,
        |core| core.fence.as_mut().unwrap().victim = Incarnation::new(0),
        |core| core.partner.incarnation = Incarnation::new(2),
        |core| core.partner.off = Some((Incarnation::new(1), core.fence.unwrap().since)),
    ];
    for change in ended {
        assert_eq!(clear(&change), None);
        let mut core = core.clone();
        change(&mut core);
        assert!(core.lease_gone(Instant::ZERO), "nobody is there who could answer");
    }
    assert!(!core.lease_gone(at.before(NS)) && core.lease_gone(at));
    let mut unread = core.clone();
    unread.disks[..2]
        .iter_mut()
        .for_each(|disk| disk.set_slot_read(99));
    assert!(
        !unread.lease_gone(at),
        "a write that came before its reading of the vote was not seen"
    );
}

/// A daemon that starts under a lone record does not know around whom the fence stands before it has read that.
#[test]
fn a_fence_is_set_as_soon_as_it_is_known_around_whom_and_until_then_nothing_is_proven() {
    let bench = Bench::alone();
    let lone = *bench.core(A).record();
    let both = Record {
        members: lone.members.with(B, incarnation(1)),
        ..lone
    };
    let fenced = |previous: Option<Record>, read: bool| {
        let mut core = bench.core(A).clone();
        (core.fence, core.previous) = (None, previous);
        if !read {
            core.disks.iter_mut().for_each(|disk| disk.vote = None);
        }
        assert!(core.victim_unknown() && !core.lease_gone(bench.now + Duration::from_secs(3_600)));
        core.set_fence(bench.now);
        assert_eq!(core.victim_unknown(), core.fence.is_none());
        core.fence.map(|fence| fence.since)
    };
    let now = Some(bench.now);
    assert_eq!(fenced(Some(both), false), now, "the record before says it");
    for previous in [None, Some(lone)] {
        assert_eq!(fenced(previous, false), None);
        assert_eq!(fenced(previous, true), now);
    }
    let (mut core, now) = whole();
    core.set_fence(now);
    assert!(
        core.fence.is_none() && !core.victim_unknown(),
        "nobody is to be fenced"
    );
    let mut outside = bench.core(A).clone();
    (outside.params.incarnation, outside.fence) = (incarnation(9), None);
    outside.set_fence(now);
    assert!(outside.fence.is_none() && !outside.victim_unknown());
}

#[test]
fn power_is_cut_again_and_again_until_the_victim_has_ended() {
    let (core, now) = fencing();
    let retry = core.params.timing.retry;
    let cuts = |core: &mut Core, at: Instant| {
        core.out.clear();
        core.step_fence(at);
        let cut = core
            .out
            .iter()
            .filter(|effect| matches!(effect, Effect::PowerOff(_)))
            .count();
        let noted = core
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::Note(Note::Fencing(_))));
        (cut, noted)
    };
    let mut again = core.clone();
    assert_eq!(cuts(&mut again, now), (1, true));
    assert_eq!(cuts(&mut again, (now + retry).before(NS)), (0, false));
    assert_eq!(cuts(&mut again, now + retry), (1, false), "noted once");
    let ended: [fn(&mut Core); 5] = [
        |core| core.fence = None,
        |core| core.fence.as_mut().unwrap().victim = Incarnation::new(0),
        |core| core.partner.incarnation = Incarnation::new(2),
        |core| core.partner.off = Some((Incarnation::new(1), core.fence.unwrap().since)),
        |core| core.params.power_rung = false,
    ];
    for change in ended {
        let mut core = core.clone();
        change(&mut core);
        assert_eq!(cuts(&mut core, now), (0, false));
    }
}

#[test]
fn a_probe_is_asked_where_it_is_needed_and_again_until_it_is_answered() {
    let (core, now) = whole();
    let mut core = core;
    core.params.incarnation = incarnation(9);
    learn(&mut core, |record| {
        record.base = Base {
            hash: pollux_api::id::Hash32::from_bytes([1; 32]),
            ..base(3)
        }
    });
    core.config = Some(status(5));
    let retry = core.params.timing.retry;
    let asks = |core: &mut Core, at| {
        core.out.clear();
        core.ask_probe(at);
        core.out
            .iter()
            .any(|effect| matches!(effect, Effect::ConfigProbe { .. }))
    };
    let asked: Vec<bool> = [now, (now + retry).before(NS), now + retry]
        .map(|at| asks(&mut core, at))
        .to_vec();
    assert_eq!(asked, [true, false, true]);
    let mut other = core.clone();
    learn(&mut other, |record| record.base.length = LogLength::new(4));
    assert!(asks(&mut other, now + retry), "another point is another question");
    let needless: [fn(&mut Core); 4] = [
        |core| core.config = None,
        |core| core.config = Some(status(2)),
        |core| core.probe.as_mut().unwrap().1 = Some(true),
        |core| core.params.incarnation = Incarnation::new(1),
    ];
    for change in needless {
        let mut core = core.clone();
        change(&mut core);
        assert!(!asks(&mut core, now + retry * 9));
    }
}

/// An override as a whole: the one who is kept out goes on, sealed, with all that it has.
#[test]
fn an_override_is_carried_out() {
    let mut bench = Bench::alone();
    bench.ask(A, Request::OpenAlone).unwrap();
    bench.until("a is open", |bench| bench.core(A).record().mode == Mode::Open);
    bench.run(ms(500));
    bench.cores[A.index()] = None;
    bench.boot(params(B, 2));
    bench.run(Duration::from_secs(4));
    assert!(!bench.core(B).member());
    let epoch = bench.core(B).record().epoch;
    bench.ask(B, Request::Override(epoch)).unwrap();
    bench.until("b goes on", |bench| bench.core(B).member());
    assert_eq!(bench.core(B).record().mode, Mode::Sealed);
    bench.until("and serves", |bench| {
        POOLS.iter().all(|pool| bench.serves(B, *pool))
    });
    bench.tell(B, Event::Tick);
}

/// Its daemon was the only one to know what was decided, and ended before it had written that down; its keeper was told.
#[test]
fn what_the_keeper_goes_by_is_finished_though_nothing_stands_still_for_it_any_more() {
    let mut bench = Bench::whole();
    let before = *bench.core(A).record();
    bench.cores[B.index()] = None;
    bench.until("a serves both", |bench| {
        POOLS.iter().all(|pool| bench.serves(A, *pool))
    });
    let after = *bench.core(A).record();
    let vote = Vote {
        mbal: Ballot::new(1),
        bal: Ballot::new(1),
        value: Some(after),
        ..Vote::after(before)
    };
    bench
        .disks
        .iter_mut()
        .for_each(|disk| disk[A.index()].vote = Ok(vote));
    let imports = bench.core(A).imports.clone().unwrap().into_iter();
    let imports = imports.map(|(pool, key)| crate::event::Import { pool, key });
    let mut again = params(A, 1);
    again.seed += 1_000;
    bench.said.clear();
    bench.start(again, imports.collect());
    bench.until("it knows the record again, and serves on", |bench| {
        *bench.core(A).record() == after && POOLS.iter().all(|pool| bench.serves(A, *pool))
    });
}

/// Without a vote that stands a decided epoch is nobody's to propose.
#[test]
fn what_the_keeper_goes_by_is_never_proposed_anew() {
    let (mut core, now) = whole();
    let epoch = core.record().epoch.next();
    core.config = Some(ConfigStatus {
        epoch: Some(epoch),
        ..core.config.unwrap()
    });
    core.partner.power = Some(crate::event::Power::Off);
    core.partner.off = Some((core.partner.incarnation, now));
    core.sights(now);
    core.membership(now);
    assert!(core.arbiter.running(), "it looks what stands");
    core.promised(now, None);
    assert!(!core.arbiter.voted());
}
