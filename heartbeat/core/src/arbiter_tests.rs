//! Arbitration in small: rules one by one, then every order of steps of two proposers on three disks.

use super::*;
use crate::record::{Base, Members, Mode};
use crate::set::QuorumSet;
use alloc::collections::BTreeSet as Set;
use alloc::vec::Vec;
use pollux_api::id::{DiskIndex, Incarnation};

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

fn disk(number: usize) -> DiskIndex {
    DiskIndex::new(number as u16)
}

fn set() -> QuorumSet {
    QuorumSet::first(&[0, 1, 2].map(disk)).unwrap()
}

fn genesis() -> Vote {
    Vote::after(Record::genesis(set()))
}

fn alone(who: ControllerId, instance: &Vote) -> Record {
    Record {
        epoch: instance.instance,
        members: Members::alone(who, Incarnation::new(1)),
        mode: Mode::Sealed,
        base: Base::default(),
        disks: set(),
    }
}

fn arbiter(me: ControllerId) -> Arbiter {
    Arbiter::new(me, genesis())
}

/// Counts disks until something happens.
fn count(arbiter: &mut Arbiter, others: [&Vote; 2]) -> Progress {
    match arbiter.counted(disk(0), others[0]) {
        Progress::None => arbiter.counted(disk(1), others[1]),
        progress => progress,
    }
}

#[test]
fn alone_it_decides_its_wish_in_two_phases() {
    let mut a = arbiter(A);
    let other = genesis();
    a.propose();
    assert_eq!(a.counted(disk(0), &other), Progress::None);
    assert_eq!(a.counted(disk(0), &other), Progress::None, "one disk counts once");
    assert_eq!(a.counted(disk(2), &other), Progress::Promised { bound: None });
    assert!(!a.voted());
    let wish = alone(A, a.block());
    a.vote(Some(wish));
    assert!(a.voted());
    assert_eq!(count(&mut a, [&other, &other]), Progress::Decided(wish));
    assert_eq!(*a.decided(), wish);
    assert_eq!(*a.block(), Vote::after(wish));
    assert!(!a.running() && !a.voted());
}

#[test]
fn a_wish_of_another_instance_is_not_voted_for() {
    let mut a = arbiter(A);
    let late = alone(A, a.block());
    a.learn(alone(B, a.block()));
    a.propose();
    let other = *a.block();
    assert!(matches!(
        count(
            &mut a,
            [
                &Vote {
                    mbal: Ballot::NONE,
                    ..other
                },
                &genesis()
            ]
        ),
        Progress::Promised { .. }
    ));
    a.vote(Some(late));
    assert!(!a.voted() && !a.running());
}

#[test]
fn a_vote_that_stands_binds_the_value() {
    let (mut a, mut b) = (arbiter(A), arbiter(B));
    a.propose();
    count(&mut a, [&genesis(), &genesis()]);
    let first = alone(A, a.block());
    a.vote(Some(first));
    let minority = *a.block();
    b.observe(&minority);
    b.propose();
    assert_eq!(
        count(&mut b, [&genesis(), &minority]),
        Progress::Promised { bound: Some(first) }
    );
    b.vote(Some(alone(B, b.block())));
    assert_eq!(
        count(&mut b, [&genesis(), &minority]),
        Progress::Decided(first),
        "K9: the minority vote is finished"
    );
}

#[test]
fn the_own_vote_binds_after_a_restart() {
    let mut a = arbiter(A);
    a.propose();
    count(&mut a, [&genesis(), &genesis()]);
    let first = alone(A, a.block());
    a.vote(Some(first));
    let mut restarted = Arbiter::new(A, *a.block());
    assert!(restarted.voted());
    restarted.propose();
    assert!(restarted.block().mbal > a.block().mbal);
    assert_eq!(
        count(&mut restarted, [&genesis(), &genesis()]),
        Progress::Promised { bound: Some(first) }
    );
}

#[test]
fn a_higher_ballot_outbids_and_a_later_instance_ends_it() {
    let (mut a, mut b) = (arbiter(A), arbiter(B));
    a.propose();
    b.propose();
    assert!(b.block().mbal > a.block().mbal);
    assert_eq!(a.counted(disk(0), b.block()), Progress::Outbid);
    assert!(!a.running());
    a.propose();
    assert!(a.block().mbal > b.block().mbal, "it goes above what it met");
    let decided = alone(B, b.block());
    b.learn(decided);
    assert_eq!(
        a.counted(disk(0), b.block()),
        Progress::Decided(decided),
        "K2: the moved-on block tells the result"
    );
    assert_eq!(a.block().instance, b.block().instance);
}

#[test]
fn an_older_instance_is_no_vote() {
    let mut a = arbiter(A);
    let mut stale = genesis();
    stale.mbal = Ballot::new(1_000);
    stale.bal = Ballot::new(1_000);
    stale.value = Some(alone(B, &stale));
    a.learn(alone(A, a.block()));
    a.propose();
    assert_eq!(
        count(&mut a, [&stale, &stale]),
        Progress::Promised { bound: None }
    );
}

/// Two proposers, three disks, one of them trying twice: every interleaving of writes and reads.
#[test]
fn two_proposers_never_decide_differently() {
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Side {
        arbiter: Arbiter,
        ballots: u8,
        restarts: u8,
        /// Per disk: version written, and whether it was counted since.
        done: [(u64, bool); 3],
        decided: Option<Record>,
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct World {
        sides: [Side; 2],
        disks: [[Vote; 2]; 3],
    }

    fn check(world: &World) {
        if let [Some(a), Some(b)] = [world.sides[0].decided, world.sides[1].decided] {
            assert_eq!(a, b, "two values chosen in one instance: {world:#?}");
        }
    }

    fn react(side: &mut Side, me: ControllerId, progress: Progress) {
        match progress {
            Progress::None | Progress::Outbid => {}
            Progress::Promised { .. } => {
                let wish = alone(me, side.arbiter.block());
                side.arbiter.vote(Some(wish));
            }
            Progress::Decided(record) => {
                // The first instance is what is compared.
                side.decided = side.decided.or(Some(record));
            }
        }
    }

    fn successors(world: &World) -> Vec<World> {
        let mut next = Vec::new();
        for me in ControllerId::ALL {
            let i = me.index();
            let side = &world.sides[i];
            if side.decided.is_none() && side.ballots > 0 && !side.arbiter.running() {
                let mut w = world.clone();
                w.sides[i].ballots -= 1;
                w.sides[i].arbiter.propose();
                next.push(w);
            }
            if side.restarts > 0 {
                // Any two disks can be the majority that is read back.
                for skip in 0..3 {
                    let mut w = world.clone();
                    let own = (0..3)
                        .filter(|disk| *disk != skip)
                        .map(|disk| world.disks[disk][i]);
                    let Some(own) = own.max_by_key(Vote::age) else {
                        continue;
                    };
                    w.sides[i].arbiter = Arbiter::new(me, own);
                    w.sides[i].restarts -= 1;
                    w.sides[i].done = [(0, false); 3];
                    next.push(w);
                }
            }
            for at in 0..3 {
                let (written, counted) = side.done[at];
                let mut w = world.clone();
                if written != side.arbiter.version() {
                    w.disks[at][i] = *side.arbiter.block();
                    w.sides[i].done[at] = (side.arbiter.version(), false);
                    next.push(w);
                } else if !counted {
                    w.sides[i].done[at].1 = true;
                    let other = world.disks[at][1 - i];
                    let progress = w.sides[i].arbiter.counted(disk(at), &other);
                    react(&mut w.sides[i], me, progress);
                    next.push(w);
                }
            }
        }
        next
    }

    let side = |me, ballots, restarts| Side {
        arbiter: arbiter(me),
        ballots,
        restarts,
        done: [(1, true); 3],
        decided: None,
    };
    let start = World {
        sides: [side(A, 1, 0), side(B, 2, 0)],
        disks: [[genesis(); 2]; 3],
    };
    let mut seen = Set::new();
    let mut queue = alloc::vec![start];
    let (mut decided, mut both) = (0, 0);
    while let Some(world) = queue.pop() {
        check(&world);
        decided += usize::from(world.sides.iter().any(|side| side.decided.is_some()));
        both += usize::from(world.sides.iter().all(|side| side.decided.is_some()));
        for next in successors(&world) {
            if seen.insert(fingerprint(&next)) {
                queue.push(next);
            }
        }
    }
    assert!(
        decided > 1_000 && both > 100,
        "the search reached decisions: {decided}, {both}"
    );

    fn fingerprint(world: &World) -> (u64, u64) {
        use core::hash::{Hash, Hasher};
        /// FNV-1a, twice with different offsets: 128 bits against collisions.
        struct Fnv(u64);
        impl Hasher for Fnv {
            fn finish(&self) -> u64 {
                self.0
            }
            fn write(&mut self, bytes: &[u8]) {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
        let mut one = Fnv(0xcbf2_9ce4_8422_2325);
        let mut two = Fnv(0x9e37_79b9_7f4a_7c15);
        world.hash(&mut one);
        world.hash(&mut two);
        (one.finish(), two.finish())
    }
}

#[test]
fn a_proposal_goes_above_every_ballot_of_the_instance_that_was_met() {
    let mut a = arbiter(A);
    let met = Vote {
        mbal: Ballot::new(9),
        ..genesis()
    };
    assert_eq!(a.observe(&met), Progress::None);
    a.propose();
    assert!(a.block().mbal > met.mbal, "{:?}", a.block());
    // A ballot of another instance says nothing about this one.
    let mut a = arbiter(A);
    let decided = alone(B, a.block());
    a.learn(decided);
    a.observe(&met);
    a.propose();
    assert!(a.block().mbal < met.mbal, "{:?}", a.block());
}

#[test]
fn of_several_votes_that_of_the_highest_ballot_binds() {
    let vote = |ballot: u64, who| Vote {
        mbal: Ballot::new(ballot),
        bal: Ballot::new(ballot),
        value: Some(alone(who, &genesis())),
        ..genesis()
    };
    let (older, later) = (vote(3, A), vote(5, B));
    for order in [[&older, &later], [&later, &older]] {
        let mut a = arbiter(A);
        a.observe(&later);
        a.propose();
        assert_eq!(count(&mut a, order), Progress::Promised { bound: later.value });
    }
    // The own vote as well: it binds where it is the later one, and is outvoted where it is not.
    for (own, bound) in [(2, later.value), (8, vote(8, A).value)] {
        let mut a = Arbiter::new(A, vote(own, A));
        a.observe(&later);
        a.propose();
        assert_eq!(
            count(&mut a, [&later, &later]),
            Progress::Promised { bound },
            "own vote {own}"
        );
    }
}

#[test]
fn a_majority_of_five_disks_are_three() {
    let of = |disks: usize| {
        let disks: Vec<_> = (0..disks).map(disk).collect();
        Arbiter::new(A, Vote::after(Record::genesis(QuorumSet::first(&disks).unwrap())))
    };
    let mut a = of(5);
    a.propose();
    assert_eq!(a.counted(disk(0), &genesis()), Progress::None);
    assert_eq!(a.counted(disk(1), &genesis()), Progress::None);
    assert_eq!(a.counted(disk(2), &genesis()), Progress::Promised { bound: None });
    let mut a = of(1);
    a.propose();
    assert_eq!(a.counted(disk(0), &genesis()), Progress::Promised { bound: None });
}

#[test]
fn an_own_block_that_is_read_late_counts_if_it_is_later_than_what_is_known() {
    let voted = Vote {
        mbal: Ballot::new(8),
        bal: Ballot::new(8),
        value: Some(alone(A, &genesis())),
        ..genesis()
    };
    // Of the present instance: its vote stands, and the next ballot is above every one that was met.
    for (met, next) in [(3, 8), (21, 21)] {
        let mut a = arbiter(A);
        a.observe(&Vote {
            mbal: Ballot::new(met),
            ..genesis()
        });
        let version = a.version();
        assert_eq!(a.restore(voted), Progress::None);
        assert!((a.voted(), *a.block(), a.version()) == (true, voted, version + 1));
        assert!(!a.running());
        a.propose();
        assert!(a.block().mbal > Ballot::new(next), "{:?}", a.block());
        assert!(a.block().mbal < Ballot::new(next + 4), "{:?}", a.block());
    }
    // Of a later one: what it knows as decided is decided, and the ballots of the earlier one say nothing.
    let decided = alone(B, &genesis());
    let later = Vote {
        mbal: Ballot::new(4),
        ..Vote::after(decided)
    };
    let mut a = arbiter(A);
    a.observe(&Vote {
        mbal: Ballot::new(21),
        ..genesis()
    });
    a.propose();
    let version = a.version();
    assert_eq!(a.restore(later), Progress::Decided(decided));
    assert_eq!(
        (*a.block(), a.version(), a.running()),
        (later, version + 1, false)
    );
    a.propose();
    assert!(
        a.block().mbal > later.mbal && a.block().mbal < Ballot::new(8),
        "{:?}",
        a.block()
    );
    // What is known already changes nothing.
    let mut a = Arbiter::new(A, voted);
    let before = a.clone();
    for block in [voted, genesis()] {
        assert_eq!(a.restore(block), Progress::None);
        assert!(a == before);
    }
}
