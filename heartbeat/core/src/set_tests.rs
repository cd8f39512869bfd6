//! Majorities meet, and a seat is what it says.

use super::*;
use alloc::vec::Vec;

fn disks(numbers: &[u16]) -> Vec<DiskIndex> {
    numbers.iter().map(|number| DiskIndex::new(*number)).collect()
}

fn set(numbers: &[u16]) -> QuorumSet {
    QuorumSet::first(&disks(numbers)).unwrap()
}

fn replaced(set: &QuorumSet, from: u16, to: u16) -> QuorumSet {
    let seat = set.next_seat(DiskIndex::new(to), 7);
    set.replaced(DiskIndex::new(from), seat).unwrap()
}

/// Every group of the disks 0 to 9 that is a majority of the set.
fn majorities(set: &QuorumSet) -> Vec<u32> {
    let among = |group: u32| move |disk: DiskIndex| group & (1 << disk.get()) != 0;
    (0..1 << 10).filter(|group| set.reached(among(*group))).collect()
}

#[test]
fn any_two_majorities_of_one_set_and_of_neighbouring_sets_meet() {
    for numbers in [&[0][..], &[0, 1, 2], &[0, 1, 2, 3, 4]] {
        let old = set(numbers);
        let joint = replaced(&old, 0, 8);
        let new = joint.settled();
        // The disk that has just come goes again.
        let chain = [old, joint, new, replaced(&new, 8, 9)];
        for (at, set) in chain.iter().enumerate() {
            for other in &chain[at..chain.len().min(at + 2)] {
                let apart = majorities(set)
                    .into_iter()
                    .any(|one| majorities(other).iter().any(|two| one & two == 0));
                assert!(!apart, "{set} and {other} have majorities that do not meet");
            }
        }
    }
    let (old, new) = (set(&[1, 2, 3]), replaced(&set(&[1, 2, 3]), 1, 4).settled());
    let apart = majorities(&old)
        .into_iter()
        .any(|one| majorities(&new).iter().any(|two| one & two == 0));
    assert!(apart, "which is why there is a joint set between them");
}

#[test]
fn the_highest_common_value_is_that_of_the_last_disk_of_a_majority() {
    let of = |values: &'static [Option<u64>]| move |disk: DiskIndex| values[usize::from(disk.get())];
    assert_eq!(set(&[0]).common(of(&[Some(4)])), Some(4));
    assert_eq!(set(&[0, 1, 2]).common(of(&[Some(4), None, Some(9)])), Some(4));
    assert_eq!(set(&[0, 1, 2]).common(of(&[Some(4), None, None])), None);
    assert_eq!(
        set(&[0, 1, 2, 3, 4]).common(of(&[Some(1), Some(5), Some(4), None, Some(2)])),
        Some(2)
    );
    let joint = replaced(&set(&[0, 1, 2]), 2, 3);
    assert_eq!(
        joint.common(of(&[Some(6), Some(7), Some(9), None])),
        Some(6),
        "0 and 1 are most of both"
    );
    assert_eq!(
        joint.common(of(&[Some(6), None, Some(9), None])),
        None,
        "most of the old alone"
    );
    assert_eq!(
        joint.common(of(&[Some(6), None, None, Some(9)])),
        None,
        "most of the new alone"
    );
    assert_eq!(joint.common(of(&[Some(6), None, Some(3), Some(9)])), Some(3));
}

#[test]
fn one_disk_at_a_time_is_replaced_and_gets_a_seat_of_its_own() {
    let old = set(&[1, 2, 3]);
    let joint = replaced(&old, 2, 4);
    assert_eq!(joint.leaving(), old.seat(DiskIndex::new(2)));
    assert_eq!(joint.joining(), Some(old.next_seat(DiskIndex::new(4), 7)));
    assert_eq!(joint.all().count(), 4);
    let next = |set: &QuorumSet, from, to| {
        let seat = set.next_seat(DiskIndex::new(to), 7);
        set.replaced(DiskIndex::new(from), seat)
    };
    assert_eq!(next(&joint, 3, 5), None, "the last change has not ended");
    let new = joint.settled();
    assert_eq!((new.joining(), new.leaving()), (None, None));
    assert_eq!(next(&new, 2, 5), None, "it is not in the set any more");
    assert_eq!(next(&new, 3, 1), None, "it is in the set already");
    assert_eq!(next(&new, 3, 3), None, "by itself");
    let back = replaced(&new, 4, 2).settled();
    assert_ne!(
        back.seat(DiskIndex::new(2)),
        old.seat(DiskIndex::new(2)),
        "its old blocks stay unread"
    );
    assert_eq!(
        back.seat(DiskIndex::new(1)),
        old.seat(DiskIndex::new(1)),
        "and those of disks that stayed are read"
    );
    assert_eq!(back.generation().get(), 3);
}

#[test]
fn only_one_three_or_five_different_disks_are_a_set() {
    for numbers in [&[][..], &[1, 2], &[1, 2, 3, 4], &[1, 2, 2], &[1, 2, 3, 4, 5, 6]] {
        assert_eq!(QuorumSet::first(&disks(numbers)), None, "{numbers:?}");
    }
}

#[test]
fn its_bytes_are_read_back_and_no_others_are_taken() {
    let old = set(&[1, 2, 3]);
    for set in [old, replaced(&old, 2, 4), set(&[1, 2, 3, 4, 5])] {
        let bytes = set.to_bytes();
        assert_eq!(QuorumSet::from_bytes(&bytes), Some(set));
        for length in 0..bytes.len() {
            assert_eq!(QuorumSet::from_bytes(&bytes[..length]), None);
        }
        assert_eq!(QuorumSet::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }
    let wrong = |change: fn(&mut QuorumSet)| {
        let mut set = replaced(&old, 2, 4);
        change(&mut set);
        QuorumSet::from_bytes(&set.to_bytes())
    };
    assert!(wrong(|_| {}).is_some());
    assert_eq!(wrong(|set| set.seats[2] = None), None, "two disks");
    assert_eq!(wrong(|set| set.seats[2] = set.seats[0]), None, "one disk twice");
    assert_eq!(
        wrong(|set| set.leaving = set.seats[0]),
        None,
        "a disk that leaves and stays"
    );
    assert_eq!(
        wrong(|set| set.generation = Generation::new(3)),
        None,
        "a joint set in which none joins"
    );
    assert_eq!(
        wrong(|set| set.generation = Generation::new(1)),
        None,
        "a seat of a later set"
    );
    let leaves_as_it_comes = |set: &mut QuorumSet| {
        let generation = set.generation;
        set.leaving.as_mut().unwrap().since = generation;
    };
    assert_eq!(
        wrong(leaves_as_it_comes),
        None,
        "a seat that leaves in the set in which it came"
    );
}
