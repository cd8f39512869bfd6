use super::*;
use alloc::string::ToString;

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

#[test]
fn members_are_who_was_put_there_with_that_incarnation() {
    let (one, two) = (Incarnation::new(1), Incarnation::new(2));
    let alone = Members::alone(A, one);
    assert_eq!((alone.get(A), alone.get(B)), (Some(one), None));
    assert!(alone.has(A, one) && !alone.has(A, two) && !alone.has(B, one) && !alone.both());
    assert!(!Members::alone(B, one).both());
    let both = alone.with(B, two);
    assert!(both.both() && both.has(A, one) && both.has(B, two) && !both.has(B, one));
    assert_eq!(both.with(A, two).get(A), Some(two));
}

#[test]
fn the_first_record_admits_nobody_who_has_ever_started() {
    let genesis = Record::genesis(crate::bench::set());
    assert_eq!(
        (genesis.epoch, genesis.disks, genesis.mode),
        (Epoch::new(1), crate::bench::set(), Mode::Open)
    );
    assert!(genesis.members.both());
    assert!(genesis.admits(A, Incarnation::new(0)) && !genesis.admits(A, Incarnation::new(1)));
}

#[test]
fn a_record_is_shown_with_its_members_and_its_mode() {
    let genesis = Record::genesis(crate::bench::set());
    assert_eq!(genesis.to_string(), "epoch 1 {a:0, b:0} open, log 0");
    let members = Members::alone(B, Incarnation::new(3));
    let record = Record {
        members,
        mode: Mode::Sealed,
        ..genesis
    };
    assert_eq!(record.to_string(), "epoch 1 {b:3} sealed, log 0");
}

#[test]
fn ballots_grow_and_two_controllers_never_have_the_same() {
    for number in 0..20 {
        let met = Ballot::new(number);
        assert_eq!(met.get(), number);
        let (a, b) = (met.above(A), met.above(B));
        assert!(a > met && b > met && a != b, "{met:?}: {a:?}, {b:?}");
        assert_eq!((a.get() % 2, b.get() % 2), (0, 1));
        assert!(
            a.get() <= met.get() + 2 && b.get() <= met.get() + 3,
            "no number is left out for nothing"
        );
    }
    assert!(Ballot::NONE < Ballot::NONE.above(A));
}

#[test]
fn votes_are_in_order_of_instance_and_then_of_ballots() {
    let first = Vote::after(Record::genesis(crate::bench::set()));
    assert_eq!((first.instance, first.value), (Epoch::new(2), None));
    let promised = Vote {
        mbal: Ballot::new(4),
        ..first
    };
    let voted = Vote {
        bal: Ballot::new(4),
        ..promised
    };
    let next = Vote {
        instance: Epoch::new(3),
        ..first
    };
    let ages = [first, promised, voted, next].map(|vote| vote.age());
    assert!(ages.is_sorted_by(|a, b| a < b), "{ages:?}");
}
