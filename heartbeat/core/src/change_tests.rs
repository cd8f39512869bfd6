//! A quorum disk takes the place of another: who may ask, in which order it goes, and what it waits for.

use super::*;
use crate::arbiter::Arbiter;
use crate::area::Claims;
use crate::bench::{A, B, Bench, Comes, Health, POOLS, params};
use crate::event::{Event, Request};
use crate::record::{Ballot, Members, Record};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::{Epoch, Generation, Incarnation};

const NS: Duration = Duration::from_nanos(1);

fn disk(number: u16) -> DiskIndex {
    DiskIndex::new(number)
}

fn request(from: u16, to: u16) -> Request {
    let (from, to) = (disk(from), disk(to));
    Request::ReplaceQuorumDisk { from, to }
}

fn numbers(core: &Core) -> Vec<u16> {
    core.set().seats().map(|seat| seat.disk.get()).collect()
}

/// The first of two members, and the instant.
fn member() -> (Core, Instant) {
    let bench = Bench::whole();
    (bench.core(A).clone(), bench.now)
}

/// One with a vote in the present instance for a record that changes nothing.
fn voted(core: &Core) -> Vote {
    let record = *core.record();
    let ballot = Ballot::new(2);
    Vote {
        mbal: ballot,
        bal: ballot,
        value: Some(Record {
            epoch: record.epoch.next(),
            ..record
        }),
        ..Vote::after(record)
    }
}

/// Puts a record with this set above the present one.
fn decide(core: &mut Core, disks: QuorumSet) {
    let mut record = *core.record();
    record.epoch = record.epoch.next();
    record.disks = disks;
    core.arbiter = Arbiter::new(core.me(), Vote::after(record));
}

fn joint(core: &Core) -> QuorumSet {
    let set = core.set();
    set.replaced(disk(0), set.next_seat(disk(3), 77)).unwrap()
}

fn reason(core: &Core, now: Instant, from: u16, to: u16) -> String {
    core.plan_replace(now, disk(from), disk(to)).unwrap_err().reason
}

#[test]
fn a_disk_takes_the_place_of_another_in_two_records_and_nothing_moves() {
    let mut bench = Bench::whole();
    let epoch = bench.core(A).record().epoch;
    let plan = bench.ask(A, request(0, 3)).unwrap();
    assert_eq!((plan.pools.len(), plan.steps.len()), (0, 4));
    assert!(plan.steps[0].contains("disk-03") && plan.steps[1].contains("disk-00"));
    bench.until("both count", |bench| bench.core(B).set().leaving().is_some());
    let parts = |core: &Core, now| {
        let status = core.status(now);
        let parts = status.quorum.iter().map(|disk| (disk.seat.disk.get(), disk.part));
        parts.collect::<Vec<_>>()
    };
    let seen = [(1, "member"), (2, "member"), (0, "leaves"), (3, "joins")];
    assert!(
        seen.iter()
            .all(|part| parts(bench.core(B), bench.now).contains(part)),
        "{:?}",
        parts(bench.core(B), bench.now)
    );
    bench.until("it has ended", |bench| {
        [A, B]
            .iter()
            .all(|who| bench.core(*who).set().leaving().is_none())
    });
    for who in [A, B] {
        let core = bench.core(who);
        assert_eq!(numbers(core), [3, 1, 2]);
        assert_eq!(core.set().generation(), Generation::new(2));
        assert_eq!(core.record().epoch, epoch.next().next());
        assert!(core.record().members.both());
        assert_eq!(core.disks.len(), 3, "nobody goes by the old one");
        assert_eq!(
            core.partner.left,
            Some(core.disks.iter().map(|_| bench.now).max().unwrap())
        );
        assert!(core.wishes.change.is_none());
    }
    let formatted = |effect: &Effect| matches!(effect, Effect::FormatDisk { .. });
    assert_eq!(
        bench.said.iter().filter(|(_, effect)| formatted(effect)).count(),
        1
    );
    let told = |effect: &Effect| matches!(effect, Effect::Note(Note::Formatted { disk, result: Ok(()) }) if disk.get() == 3);
    assert!(bench.said.iter().any(|(who, effect)| *who == A && told(effect)));
    bench.said.clear();
    bench.run(Duration::from_secs(2));
    assert!(bench.serves(A, POOLS[0]) && bench.serves(B, POOLS[1]));
    assert_eq!(bench.alarms(A), []);
    let used = |effect: &Effect| matches!(effect, Effect::UseDisks(_));
    assert!(!bench.said.iter().any(|(_, effect)| used(effect)), "said once");
    // Without the new one there would be no majority now.
    bench.health[1] = Health::Gone;
    bench.run(Duration::from_secs(5));
    assert!(bench.serves(A, POOLS[0]) && bench.serves(B, POOLS[1]));
}

#[test]
fn whoever_is_alone_changes_the_set_whichever_it_is() {
    let mut bench = Bench::whole();
    bench.cores[A.index()] = None;
    bench.until("b serves both", |bench| bench.serves(B, POOLS[0]));
    bench.run(Duration::from_secs(1));
    bench.ask(B, request(2, 4)).unwrap();
    bench.until("it has ended", |bench| {
        numbers(bench.core(B)) == [0, 1, 4] && bench.core(B).set().leaving().is_none()
    });
    // Who was away starts with the set that it knew, and finds the last one.
    bench.boot(params(A, 2));
    bench.until("a is a member again", |bench| {
        bench.core(A).record().members.both()
    });
    assert_eq!(numbers(bench.core(A)), [0, 1, 4]);
}

#[test]
fn a_disk_that_has_come_back_under_another_seat_leads_to_the_set() {
    let mut bench = Bench::whole();
    for (from, to) in [(0, 3), (1, 4), (3, 0), (4, 1)] {
        bench.ask(A, request(from, to)).unwrap();
        bench.until("it has ended", |bench| {
            let ended = |core: &Core| numbers(core).contains(&to) && core.set().leaving().is_none();
            [A, B].iter().all(|who| ended(bench.core(*who)))
        });
    }
    bench.run(Duration::from_secs(1));
    let set = *bench.core(A).set();
    bench.cores = [None, None];
    // Both have forgotten everything: they look for the disks with which the array was made.
    bench.boot(params(A, 2));
    bench.boot(params(B, 2));
    bench.until("both are members again", |bench| {
        bench.core(A).record().members.both()
    });
    assert_eq!([A, B].map(|who| *bench.core(who).set()), [set, set]);
}

#[test]
fn nothing_is_written_to_a_disk_that_stands_where_a_quorum_disk_should() {
    let mut bench = Bench::new();
    bench.seats[2] = None;
    // The bench looks.
    let mut bench = bench.made_whole([params(A, 1), params(B, 1)]);
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.alarms(B), [("quorum_disk", "disk-02".to_string())]);
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let (core, now) = member();
    assert!(core.plan_replace(now, disk(0), disk(3)).is_ok());
    assert!(
        reason(&core, now, 3, 4)
            .contains("disk-03 is not a quorum disk; these are: disk-00, disk-01, disk-02")
    );
    assert!(reason(&core, now, 0, 1).contains("disk-01 is a quorum disk already"));
    let mut late = core.clone();
    late.lease_until = now;
    assert_eq!(reason(&late, now, 0, 3), "this controller holds its replies");
    late.lease_until = now + NS;
    assert!(late.plan_replace(now, disk(0), disk(3)).is_ok());
    let mut changing = core.clone();
    let set = joint(&core);
    decide(&mut changing, set);
    assert_eq!(
        reason(&changing, now, 1, 4),
        "the change from disk-00 to disk-03 has not ended"
    );

    let bench = Bench::whole();
    assert!(reason(bench.core(B), now, 0, 3).contains("controller a changes the quorum disks"));
    let newborn = Core::new(params(A, 1), now).unwrap();
    assert!(reason(&newborn, now, 0, 3).contains("not a member"));
}

#[test]
fn one_wish_at_a_time_and_one_that_failed_hinders_nobody() {
    let mut bench = Bench::whole();
    bench.formats = Comes::Never;
    bench.ask(A, request(0, 3)).unwrap();
    bench.run(Duration::from_secs(1));
    let busy = bench.ask(A, request(1, 4)).unwrap_err();
    assert_eq!(busy.reason, "disk-03 is about to take the place of disk-00");
    let seat = bench.core(A).wishes.change.as_ref().unwrap().to;
    let failed = |seat| Event::DiskFormatted {
        seat,
        result: Err("it burns".to_string()),
    };
    // The end of another attempt is not the end of this one.
    let other = Seat {
        mark: seat.mark ^ 1,
        ..seat
    };
    bench.tell(A, failed(other));
    assert_eq!(
        bench.core(A).wishes.change.as_ref().unwrap().stage,
        Stage::Formatting
    );
    bench.tell(A, failed(seat));
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.alarms(A), [("quorum_change", "disk-03".to_string())]);
    let (subject, text) = bench.core(A).change_alarm(bench.now).unwrap();
    assert!(
        subject == disk(3) && text.contains("disk-00: it burns;"),
        "{text}"
    );
    // It has ended: what comes late changes nothing.
    bench.tell(A, Event::DiskFormatted { seat, result: Ok(()) });
    bench.run(Duration::from_secs(1));
    assert_eq!(numbers(bench.core(A)), [0, 1, 2]);

    bench.formats = Comes::Well;
    bench.ask(A, request(1, 4)).unwrap();
    bench.until("it has ended", |bench| {
        numbers(bench.core(A)) == [0, 4, 2] && bench.core(A).set().leaving().is_none()
    });
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.alarms(A), []);
}

#[test]
fn a_change_ends_when_every_members_words_stand_on_the_new_disks() {
    let mut bench = Bench::whole();
    bench.ask(A, request(0, 3)).unwrap();
    bench.until("both count", |bench| bench.core(A).set().leaving().is_some());
    // Of the new disks one alone takes what is written.
    (bench.health[1], bench.health[3]) = (Health::ReadOnly, Health::ReadOnly);
    bench.run(Duration::from_secs(3));
    assert!(bench.core(A).set().leaving().is_some());
    let alarm = bench.core(A).change_alarm(bench.now).unwrap();
    assert!(alarm.0 == disk(3) && alarm.1.contains("disk-00 leaves the quorum and disk-03 joins"));
    let decided = bench.core(A).decided_at;
    let late = bench.core(A).params.timing.disk_limit;
    assert!(bench.core(A).change_alarm(decided + (late - NS)).is_none());
    assert!(bench.core(A).change_alarm(decided + late).is_some());
    bench.health[3] = Health::Good;
    bench.until("it has ended", |bench| bench.core(A).set().leaving().is_none());
    assert!(bench.core(A).change_alarm(bench.now + late).is_none());
}

#[test]
fn the_end_is_proposed_by_one_after_the_other() {
    let bench = Bench::whole();
    for (who, turns) in [(A, 1), (B, 2)] {
        let core = bench.core(who);
        assert_eq!(
            core.end_change_at(),
            core.decided_at + core.params.timing.slot_period * turns
        );
    }
    let (mut core, now) = member();
    let set = joint(&core);
    decide(&mut core, set);
    core.decided_at = now;
    core.wake = Instant::from_nanos(u64::MAX);
    core.change_set(now);
    assert_eq!(core.wake, core.end_change_at());
    core.wake = Instant::from_nanos(u64::MAX);
    core.change_set(core.end_change_at());
    assert!(core.wake > core.end_change_at(), "its time has come");
}

#[test]
fn nothing_is_formatted_while_a_vote_stands_or_by_whoever_may_not() {
    let formats = |change: &dyn Fn(&mut Core)| {
        let (mut core, now) = member();
        core.replace(now, disk(0), disk(3));
        change(&mut core);
        core.change_set(now);
        core.wishes.change.map(|change| change.stage)
    };
    assert_eq!(formats(&|_| {}), Some(Stage::Formatting));
    // It may name this disk, as an earlier try has formatted it.
    assert_eq!(
        formats(&|core| core.arbiter = Arbiter::new(A, voted(core))),
        Some(Stage::Asked)
    );
    assert_eq!(
        formats(&|core| {
            let vote = voted(core);
            core.disks.iter_mut().for_each(|disk| disk.vote = Some((vote, 1)));
        }),
        Some(Stage::Asked)
    );
    // What has been formatted is not formatted again.
    assert_eq!(
        formats(&|core| core.wishes.change.as_mut().unwrap().stage = Stage::Ready),
        Some(Stage::Ready)
    );
    let bench = Bench::whole();
    let mut second = bench.core(B).clone();
    second.replace(bench.now, disk(0), disk(3));
    second.change_set(bench.now);
    assert!(
        second.wishes.change.is_none(),
        "of two members the first changes the set"
    );
    let mut newborn = Core::new(params(A, 1), bench.now).unwrap();
    newborn.replace(bench.now, disk(0), disk(3));
    newborn.change_set(bench.now);
    assert!(newborn.wishes.change.is_none(), "no member");
}

#[test]
fn no_two_attempts_have_the_same_mark_and_none_has_that_of_the_first_disks() {
    let (mut core, now) = member();
    let mut marks = Vec::new();
    for _ in 0..50 {
        core.replace(now, disk(0), disk(3));
        // As every effect does.
        core.fresh_id();
        marks.push(core.wishes.change.as_ref().unwrap().to.mark);
    }
    marks.sort_unstable();
    marks.dedup();
    assert!(marks.len() == 50 && !marks.contains(&0));
    let change = core.wishes.change.unwrap();
    assert_eq!(
        (change.from, change.to.disk, change.asked),
        (disk(0), disk(3), now)
    );
    assert_eq!(change.to.since, Generation::new(2));
}

#[test]
fn only_a_disk_that_is_ready_is_proposed() {
    let (mut core, now) = member();
    assert_eq!(core.wanted_set(), None);
    core.replace(now, disk(0), disk(3));
    let seat = core.wishes.change.as_ref().unwrap().to;
    for stage in [Stage::Asked, Stage::Formatting, Stage::Failed(String::new())] {
        core.wishes.change.as_mut().unwrap().stage = stage;
        assert_eq!(core.wanted_set(), None);
    }
    core.wishes.change.as_mut().unwrap().stage = Stage::Ready;
    assert_eq!(core.wanted_set(), core.set().replaced(disk(0), seat));
    assert!(core.wanted_set().is_some());
}

#[test]
fn a_wish_ends_with_the_set_that_it_was_for() {
    let (mut core, now) = member();
    core.replace(now, disk(0), disk(3));
    core.wishes.change.as_mut().unwrap().stage = Stage::Ready;
    // The set is the same.
    core.used = None;
    core.follow_set(now);
    assert!(core.wishes.change.is_some());
    assert_eq!(core.partner.left, None);
    // Another change was decided.
    let set = core.set();
    let other = set.replaced(disk(2), set.next_seat(disk(4), 5)).unwrap();
    decide(&mut core, other);
    core.follow_set(now);
    assert!(core.wishes.change.is_none());
    assert_eq!(core.disks.len(), 4);
    assert_eq!(core.partner.left, None, "nobody has left");
    let entered = core.disks.iter().find(|found| found.seat.disk == disk(4));
    assert_eq!(entered.map(|found| found.entered), Some(now));
    decide(&mut core, other.settled());
    core.follow_set(now + NS);
    assert_eq!((core.disks.len(), core.partner.left), (3, Some(now + NS)));
}

#[test]
fn everything_is_copied_when_both_ballots_of_the_joint_record_stand_on_a_majority_of_it() {
    let mut bench = Bench::whole();
    bench.ask(A, request(0, 3)).unwrap();
    bench.until("both count", |bench| bench.core(A).set().leaving().is_some());
    bench.until("it is copied", |bench| bench.core(A).copied());
    let copied = |change: &dyn Fn(&mut Core)| {
        let mut core = bench.core(A).clone();
        change(&mut core);
        core.copied()
    };
    assert!(copied(&|_| {}));
    // Its own ballot is not there.
    assert!(!copied(&|core| core.decided_version = u64::MAX));
    // The other's ballot is of before the change, or was not seen.
    let old = |core: &mut Core| {
        let instance = core.arbiter.block().instance;
        for disk in &mut core.disks {
            let vote = disk.vote.as_mut().unwrap();
            vote.0.instance = Epoch::new(instance.get() - 1);
        }
    };
    assert!(!copied(&old));
    assert!(!copied(&|core| core
        .disks
        .iter_mut()
        .for_each(|disk| disk.vote = None)));
    // Whoever is alone waits for nobody.
    assert!(copied(&|core| {
        let mut record = *core.record();
        record.members = Members::alone(A, core.params.incarnation);
        core.arbiter = Arbiter::new(A, Vote::after(record));
        core.disks.iter_mut().for_each(|disk| disk.vote = None);
        core.decided_version = 0;
    }));
}

#[test]
fn a_new_disk_is_given_what_is_known_and_no_sign_of_life() {
    let (mut core, now) = member();
    core.claims.sequence = 9;
    let mine = core.part(now, A);
    assert_eq!(mine.claims, Ok(core.claims.clone()));
    assert_eq!(mine.vote, Ok(*core.arbiter.block()));
    let slot = mine.slot.unwrap();
    assert_eq!((slot.sequence, slot.advert), (0, core.advert(now)));
    assert_eq!((mine.header, mine.letter), (Ok(()), Ok(Letter::default())));

    let older = core.disks[0].vote.unwrap();
    let mut newer = voted(&core);
    newer.mbal = Ballot::new(9);
    core.disks[1].vote = Some((newer, 1));
    let claims = |sequence| Claims {
        sequence,
        ..Claims::default()
    };
    core.disks[0].claims = Some((claims(3), 1));
    core.disks[1].claims = Some((claims(4), 1));
    core.disks[2].claims = None;
    core.partner.incarnation = Incarnation::new(6);
    let theirs = core.part(now, B);
    assert!(newer.age() > older.0.age());
    assert_eq!(theirs.vote, Ok(newer));
    assert_eq!(theirs.claims, Ok(claims(4)));
    let slot = theirs.slot.unwrap();
    assert_eq!(slot.sequence, 0);
    assert_eq!(
        slot.advert,
        Advert {
            incarnation: Incarnation::new(6),
            ..Advert::default()
        }
    );
    for disk in &mut core.disks {
        (disk.vote, disk.claims) = (None, None);
    }
    let nothing = core.part(now, B);
    assert_eq!(
        (nothing.vote, nothing.claims),
        (Err(Unread::Blank), Err(Unread::Blank))
    );
}

#[test]
fn nobody_who_does_not_serve_yet_raises_an_alarm_of_a_change() {
    let (mut core, now) = member();
    core.replace(now, disk(0), disk(3));
    core.wishes.change.as_mut().unwrap().stage = Stage::Failed("no".to_string());
    assert!(core.change_alarm(now).is_some());
    core.phase = Phase::Starting;
    assert_eq!(core.change_alarm(now), None);
    core.phase = Phase::Up;
    core.wishes.change.as_mut().unwrap().stage = Stage::Ready;
    assert_eq!(core.change_alarm(now), None);
    core.wishes.change = None;
    assert_eq!(core.change_alarm(now), None);
}
