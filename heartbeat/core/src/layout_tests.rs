//! Damage cases of the quorum area, as a table; round trips; arbitrary bytes.

use super::*;
use crate::record::Record;
use pollux_api::id::{DiskIndex, Epoch};
use proptest::prelude::*;

const PLACE: Place = Place {
    array: ArrayId::from_bytes([7; 16]),
    seat: Seat {
        disk: DiskIndex::new(3),
        since: Generation::new(5),
        mark: 9,
    },
};
const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

pub(crate) mod strategy {
    use crate::area::*;
    use crate::record::*;
    use crate::set::QuorumSet;
    use alloc::vec::Vec;
    use core::time::Duration;
    use pollux_api::id::*;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn base()(length in any::<u64>(), hash in any::<[u8; 32]>()) -> Base {
            Base { length: LogLength::new(length), hash: Hash32::from_bytes(hash) }
        }
    }

    /// The set that takes most bytes: five disks and one that leaves.
    pub(crate) fn widest() -> QuorumSet {
        let disks = [1, 2, 3, 4, 5].map(DiskIndex::new);
        let set = QuorumSet::first(&disks).unwrap();
        set.replaced(disks[2], set.next_seat(DiskIndex::new(6), u32::MAX))
            .unwrap()
    }

    prop_compose! {
        pub(crate) fn quorum()(
            size in 0..3_usize, first in any::<u16>(), changes in proptest::collection::vec((any::<u16>(), any::<u32>()), 0..3),
            joint in any::<bool>(),
        ) -> QuorumSet {
            let disks: Vec<_> = (0..=2 * size as u16).map(|at| DiskIndex::new(first.wrapping_add(at))).collect();
            let mut set = QuorumSet::first(&disks).unwrap();
            for (at, (to, mark)) in changes.into_iter().enumerate() {
                let from = set.seats().nth(at % (2 * size + 1)).unwrap().disk;
                let seat = set.settled().next_seat(DiskIndex::new(to), mark);
                set = set.settled().replaced(from, seat).unwrap_or(set);
            }
            if joint { set } else { set.settled() }
        }
    }

    prop_compose! {
        pub(crate) fn record()(
            epoch in 1..u64::MAX, a in any::<Option<u64>>(), b in any::<Option<u64>>(), open in any::<bool>(),
            base in base(), disks in quorum(),
        ) -> Record {
            let mut members = Members::default();
            for (controller, incarnation) in [(ControllerId::A, a), (ControllerId::B, b)] {
                if let Some(incarnation) = incarnation {
                    members = members.with(controller, Incarnation::new(incarnation));
                }
            }
            let mode = if open { Mode::Open } else { Mode::Sealed };
            Record { epoch: Epoch::new(epoch), members, mode, base, disks }
        }
    }

    prop_compose! {
        pub(crate) fn advert()(
            incarnation in any::<u64>(), role in 0..6_u8, epoch in any::<u64>(), log in base(),
            flags in any::<[bool; 4]>(), spans in any::<[u64; 3]>(),
        ) -> Advert {
            let role = match role {
                0 => Role::Starting,
                1 => Role::Waiting,
                2 => Role::Serving,
                3 => Role::Releasing,
                4 => Role::Dying,
                _ => Role::Left,
            };
            let [slot_period, lease, watchdog] = spans.map(Duration::from_nanos);
            Advert {
                incarnation: Incarnation::new(incarnation), role, epoch: Epoch::new(epoch), log,
                eligible: flags[0], shelf: flags[1], watchdog: flags[2], pausable: flags[3],
                figures: Figures { slot_period, lease, watchdog },
            }
        }
    }

    pub(crate) fn pool() -> impl Strategy<Value = PoolId> {
        any::<[u8; 16]>().prop_map(PoolId::from_bytes)
    }

    prop_compose! {
        pub(crate) fn letter()(
            from in any::<u64>(), to in any::<u64>(), epoch in any::<u64>(), flags in any::<[bool; 2]>(),
            asks in proptest::collection::vec(pool(), 0..=LETTER_MAX),
            gifts in proptest::collection::vec((pool(), any::<u64>().prop_map(Generation::new)), 0..=LETTER_MAX),
        ) -> Letter {
            Letter {
                from: Incarnation::new(from), to: Incarnation::new(to), epoch: Epoch::new(epoch),
                consent: flags[0], invite: flags[1], asks, gifts,
            }
        }
    }

    prop_compose! {
        pub(crate) fn vote()(decided in record(), value in proptest::option::of(record()), ballots in any::<[u64; 2]>())
            -> Vote {
            let instance = decided.epoch.next();
            let bal = ballots[0].min(ballots[1]).max(1);
            Vote {
                instance,
                mbal: Ballot::new(ballots[0].max(ballots[1]).max(1)),
                bal: Ballot::new(if value.is_some() { bal } else { 0 }),
                value: value.map(|value| Record { epoch: instance, ..value }),
                decided,
            }
        }
    }

    prop_compose! {
        fn claim()(numbers in any::<[u64; 3]>(), state in 0..3_u8, serving in any::<bool>(), placed in any::<bool>()) -> Claim {
            let state = match state {
                0 => ClaimState::Held,
                1 => ClaimState::Given,
                _ => ClaimState::Declined,
            };
            Claim {
                epoch: Epoch::new(numbers[0]), generation: Generation::new(numbers[1]), state,
                incarnation: Incarnation::new(numbers[2]), serving, placed
            }
        }
    }

    pub(crate) fn content() -> impl Strategy<Value = Content> {
        let slot =
            (any::<u64>(), advert()).prop_map(|(sequence, advert)| Content::Slot(Slot { sequence, advert }));
        let claims = (
            any::<u64>(),
            proptest::collection::btree_map(pool(), claim(), 0..=POOLS_MAX),
        )
            .prop_map(|(sequence, pools)| Content::Claims(Claims { sequence, pools }));
        prop_oneof![
            slot,
            vote().prop_map(Content::Vote),
            claims,
            letter().prop_map(Content::Letter)
        ]
    }
}

fn first() -> QuorumSet {
    QuorumSet::first(&[1, 2, 3].map(DiskIndex::new)).unwrap()
}

fn blank() -> Vec<u8> {
    super::first(&PLACE, &first())
}

/// A formatted area in which `content` was written by `writer`.
fn written(writer: ControllerId, content: &Content) -> Vec<u8> {
    let mut area = blank();
    let blocks: &[BlockId] = match content {
        Content::Slot(_) => &[BlockId::Slot],
        Content::Vote(_) => &[BlockId::Vote0, BlockId::Vote1],
        Content::Claims(_) => &[BlockId::Claims],
        Content::Letter(_) => &[BlockId::Mailbox],
    };
    for block in blocks {
        put(
            &mut area,
            block_number(*block, writer),
            &encode(&PLACE, *block, writer, content)[..],
        );
    }
    area
}

fn put(area: &mut [u8], number: u64, bytes: &[u8]) {
    let at = number as usize * BLOCK_BYTES;
    area[at..at + bytes.len()].copy_from_slice(bytes);
}

fn contents(area: Area) -> Result<[Content; 4], Unread> {
    Ok([
        Content::Slot(area.slot?),
        Content::Vote(area.vote?),
        Content::Claims(area.claims?),
        Content::Letter(area.letter?),
    ])
}

#[test]
fn a_formatted_area_reads_as_nothing_said() {
    let area = blank();
    for controller in ControllerId::ALL {
        assert_eq!(decode_area(&PLACE, controller, &area), Area::formatted(first()));
    }
}

#[test]
fn every_damage_is_unread_and_named() {
    let slot = Content::Slot(Slot {
        sequence: 77,
        ..Slot::default()
    });
    let good = written(A, &slot);
    let number = block_number(BlockId::Slot, A);
    let at = number as usize * BLOCK_BYTES;
    let foreign = |place: Place| encode(&place, BlockId::Slot, A, &slot);
    let elsewhere = |change: fn(&mut Seat)| {
        let mut seat = PLACE.seat;
        change(&mut seat);
        with(&good, |area| {
            put(area, number, &foreign(Place { seat, ..PLACE })[..])
        })
    };
    let cases: [(&str, Vec<u8>, Unread); 13] = [
        ("cut short", good[..at + 100].to_vec(), Unread::Io),
        (
            "wiped",
            with(&good, |area| put(area, number, &[0; BLOCK_BYTES])),
            Unread::Blank,
        ),
        (
            "overwritten",
            with(&good, |area| put(area, number, b"#!/bin/sh")),
            Unread::Magic,
        ),
        (
            "of a later layout",
            with(&good, |area| area[at + AT_VERSION] = 3),
            Unread::Version(3),
        ),
        (
            "a flipped bit in the content",
            with(&good, |area| area[at + AT_CONTENT + 3] ^= 1),
            Unread::Checksum,
        ),
        (
            "a flipped bit in the header",
            with(&good, |area| area[at + AT_DISK] ^= 1),
            Unread::Checksum,
        ),
        (
            "a flipped bit behind the content",
            with(&good, |area| area[at + 4_095] ^= 1),
            Unread::Checksum,
        ),
        (
            "a length without end",
            with(&good, |area| area[at + AT_LENGTH + 3] = 255),
            Unread::Checksum,
        ),
        (
            "torn: the first sector is new, the rest belongs to a longer block",
            with(&written(A, &slot), |area| area[at + 512..at + 1024].fill(3)),
            Unread::Checksum,
        ),
        (
            "of another array",
            with(&good, |area| {
                put(
                    area,
                    number,
                    &foreign(Place {
                        array: ArrayId::from_bytes([9; 16]),
                        ..PLACE
                    })[..],
                )
            }),
            Unread::Array,
        ),
        (
            "of another disk",
            elsewhere(|seat| seat.disk = DiskIndex::new(4)),
            Unread::Place,
        ),
        (
            "of an older membership of this disk",
            elsewhere(|seat| seat.since = Generation::new(4)),
            Unread::SetGeneration(Generation::new(4)),
        ),
        (
            "of another formatting",
            elsewhere(|seat| seat.mark = 8),
            Unread::SetGeneration(Generation::new(5)),
        ),
    ];
    for (name, area, why) in cases {
        assert_eq!(decode_area(&PLACE, A, &area).slot, Err(why), "{name}");
    }
    let misdirected = with(&good, |area| {
        let bytes = encode(&PLACE, BlockId::Slot, A, &slot);
        put(area, block_number(BlockId::Claims, A), &bytes[..]);
        put(area, block_number(BlockId::Slot, B), &bytes[..]);
    });
    assert_eq!(decode_area(&PLACE, A, &misdirected).claims, Err(Unread::Place));
    assert_eq!(decode_area(&PLACE, B, &misdirected).slot, Err(Unread::Place));
    let header = with(&good, |area| area[AT_CONTENT] = 1);
    assert_eq!(
        decode_area(&PLACE, A, &header),
        Area::unread(Unread::Checksum),
        "the header speaks for the disk"
    );
}

#[test]
fn only_a_blank_disk_or_an_old_one_of_this_array_is_laid_out_again() {
    let parts = [Area::formatted(first()), Area::formatted(first())];
    let new = Place {
        seat: first().next_seat(PLACE.seat.disk, 77),
        ..PLACE
    };
    let may =
        |area: &[u8]| may_lay_out(&new, &parts, area).map_err(|why| why.split(':').next().map(String::from));
    assert_eq!(may(&[0; AREA_BYTES]), Ok(()));
    assert_eq!(may(&blank()), Ok(()), "it was one before");
    assert_eq!(may(&lay_out(&new, &parts)), Ok(()), "an earlier try");
    assert!(may(&[0; AREA_BYTES - 1]).is_err(), "cut short");
    assert!(
        may(&with(&[0; AREA_BYTES], |area| area[AREA_BYTES - 1] = 1)).is_err(),
        "something else"
    );
    assert!(
        may(&with(&blank(), |area| area[AT_CONTENT] = 1)).is_err(),
        "a header that is not whole"
    );
    let foreign = Place {
        array: ArrayId::from_bytes([9; 16]),
        ..PLACE
    };
    assert!(may(&super::first(&foreign, &first())).is_err(), "another array's");
    let elsewhere = Place {
        seat: Seat {
            disk: DiskIndex::new(9),
            ..PLACE.seat
        },
        ..PLACE
    };
    assert!(
        may(&super::first(&elsewhere, &first())).is_err(),
        "a copy of another disk"
    );
    let decided = Record {
        epoch: Record::genesis(first()).epoch.next(),
        ..Record::genesis(first())
    };
    let ahead = Area {
        vote: Ok(Vote::after(decided)),
        ..parts[0].clone()
    };
    assert!(
        may(&lay_out(&PLACE, &[parts[0].clone(), ahead])).is_err(),
        "one in use by a later set"
    );
}

fn with(area: &[u8], damage: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut area = area.to_vec();
    damage(&mut area);
    area
}

#[test]
fn of_two_ballot_copies_the_later_valid_one_counts() {
    let old = Vote::after(Record::genesis(first()));
    let new = Vote {
        mbal: Ballot::NONE.above(A),
        ..old
    };
    let first = block_number(BlockId::Vote0, A);
    let second = block_number(BlockId::Vote1, A);
    let bytes = |block, vote| encode(&PLACE, block, A, &Content::Vote(vote));
    let torn = [0x55; 512];
    let read = |area: &[u8]| decode_area(&PLACE, A, area).vote;
    let before = blank();
    let half = with(&before, |area| put(area, first, &bytes(BlockId::Vote0, new)[..]));
    assert_eq!(read(&half), Ok(new), "between the two writes");
    assert_eq!(
        read(&with(&before, |area| put(area, first, &torn))),
        Ok(old),
        "the first write tore"
    );
    assert_eq!(
        read(&with(&half, |area| put(area, second, &torn))),
        Ok(new),
        "the second write tore"
    );
    let both = with(&half, |area| put(area, second, &torn));
    assert_eq!(
        read(&with(&both, |area| put(area, first, &torn))),
        Err(Unread::Magic),
        "both tore"
    );
    let swapped = with(&before, |area| put(area, second, &bytes(BlockId::Vote0, new)[..]));
    assert_eq!(
        read(&swapped),
        Ok(old),
        "a copy in the other's place does not count"
    );
}

#[test]
fn the_encoding_is_frozen() {
    let slot = Content::Slot(Slot {
        sequence: 0x0102_0304,
        ..Slot::default()
    });
    let block = encode(&PLACE, BlockId::Slot, B, &slot);
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |text, byte| text + &alloc::format!("{byte:02x}"))
    };
    assert_eq!(hex(&block[..16]), "504c5851554f524d0200060003000100");
    assert_eq!(hex(&block[32..44]), "05000000000000005d000000");
    assert_eq!(hex(&block[48..56]), "0900000000000000");
    assert_eq!(hex(&block[64..72]), "0403020100000000");
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(content in strategy::content(), b in any::<bool>()) {
        let writer = if b { B } else { A };
        let area = written(writer, &content);
        let read = contents(decode_area(&PLACE, writer, &area));
        prop_assert!(read.is_ok_and(|read| read.contains(&content)));
        prop_assert_eq!(decode_area(&PLACE, writer.partner(), &area), Area::formatted(first()));
    }

    #[test]
    fn any_single_flip_is_unread(content in strategy::content(), at in 0..BLOCK_BYTES, bit in 0..8_u8) {
        let block = match content {
            Content::Slot(_) => BlockId::Slot,
            Content::Vote(_) => BlockId::Vote0,
            Content::Claims(_) => BlockId::Claims,
            Content::Letter(_) => BlockId::Mailbox,
        };
        let number = block_number(block, A);
        let mut area = blank();
        put(&mut area, number, &encode(&PLACE, block, A, &content)[..]);
        area[number as usize * BLOCK_BYTES + at] ^= 1 << bit;
        prop_assert!(super::content(&PLACE, number, Some(A), &area).is_err());
    }

    #[test]
    fn no_content_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..CONTENT_MAX)) {
        let mut area = blank();
        for block in [BlockId::Slot, BlockId::Vote0, BlockId::Vote1, BlockId::Claims, BlockId::Mailbox] {
            let number = block_number(block, A);
            put(&mut area, number, &seal(&PLACE, number, Some(A), &bytes)[..]);
        }
        let _ = decode_area(&PLACE, A, &area);
    }
}

#[test]
fn of_two_whole_copies_the_later_counts_wherever_it_stands() {
    let old = Vote::after(Record::genesis(first()));
    let new = Vote {
        mbal: Ballot::NONE.above(A),
        ..old
    };
    for [first, second] in [[old, new], [new, old]] {
        let mut area = blank();
        for (block, vote) in [(BlockId::Vote0, first), (BlockId::Vote1, second)] {
            let bytes = encode(&PLACE, block, A, &Content::Vote(vote));
            put(&mut area, block_number(block, A), &bytes[..]);
        }
        assert_eq!(decode_area(&PLACE, A, &area).vote, Ok(new));
    }
}

/// A ballot that no controller can have written is no vote, whatever its checksum.
#[test]
fn a_ballot_that_contradicts_itself_is_unread() {
    let value = Record {
        epoch: pollux_api::id::Epoch::new(2),
        ..Record::genesis(first())
    };
    let two = Ballot::new(2);
    let blank = Vote::after(Record::genesis(first()));
    let voted = Vote {
        mbal: two,
        bal: two,
        value: Some(value),
        ..blank
    };
    let read = |vote| decode_area(&PLACE, A, &written(A, &Content::Vote(vote))).vote;
    for right in [
        blank,
        voted,
        Vote { mbal: two, ..blank },
        Vote {
            mbal: Ballot::new(4),
            ..voted
        },
    ] {
        assert_eq!(read(right), Ok(right));
    }
    let wrong = [
        ("a ballot without a value", Vote { value: None, ..voted }),
        (
            "a value without a ballot",
            Vote {
                bal: Ballot::NONE,
                ..voted
            },
        ),
        (
            "voted above what was promised",
            Vote {
                mbal: Ballot::new(1),
                ..voted
            },
        ),
        (
            "another instance than the next",
            Vote {
                instance: pollux_api::id::Epoch::new(3),
                ..blank
            },
        ),
        (
            "a value of another instance",
            Vote {
                value: Some(Record {
                    epoch: pollux_api::id::Epoch::new(3),
                    ..value
                }),
                ..voted
            },
        ),
    ];
    for (what, vote) in wrong {
        assert_eq!(read(vote), Err(Unread::Content), "{what}");
    }
}

#[test]
fn a_length_is_at_most_what_a_block_holds() {
    let whole = [7; BLOCK_BYTES - 64];
    let mut area = vec![0; AREA_BYTES];
    let number = block_number(BlockId::Claims, A);
    put(&mut area, number, &seal(&PLACE, number, Some(A), &whole)[..]);
    let read = |area: &[u8]| content(&PLACE, number, Some(A), area).map(<[u8]>::len);
    assert_eq!(read(&area), Ok(whole.len()));
    let at = number as usize * BLOCK_BYTES + AT_LENGTH;
    for length in [whole.len() as u32 + 1, BLOCK_BYTES as u32, u32::MAX] {
        area[at..at + 4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(read(&area), Err(Unread::Checksum), "{length}");
    }
}

#[test]
fn claims_stand_in_ascending_order_each_once_in_a_state_that_there_is() {
    let pool = |number| pollux_api::id::PoolId::from_bytes([number; 16]);
    let bytes = |pools: &[(u8, u8)]| {
        let mut bytes = Writer::default();
        bytes.u64(1);
        bytes.count(pools.len());
        for (number, state) in pools {
            bytes.pool(pool(*number));
            (0..3).for_each(|_| bytes.u64(1));
            bytes.u8(*state);
            bytes.flag(false);
            bytes.flag(false);
        }
        bytes.0
    };
    let read = |pools: &[(u8, u8)]| parse(Ok(&bytes(pools)), claims);
    let states = read(&[(1, 0), (2, 1), (3, 2)]).unwrap();
    let states: Vec<ClaimState> = states.pools.values().map(|claim| claim.state).collect();
    assert_eq!(
        states,
        [ClaimState::Held, ClaimState::Given, ClaimState::Declined]
    );
    for wrong in [&[(1, 3)][..], &[(2, 0), (1, 0)], &[(1, 0), (1, 0)], &[(1, 255)]] {
        assert_eq!(read(wrong), Err(Unread::Content), "{wrong:?}");
    }
}

#[test]
fn a_record_has_the_length_that_the_sizes_are_reckoned_with() {
    let mut bytes = Writer::default();
    let widest = Record::genesis(strategy::widest());
    bytes.record(&widest);
    assert_eq!(bytes.0.len(), RECORD_BYTES);
    assert_eq!(AREA_BYTES, 45_056, "eleven blocks of 4 KiB");
}

#[test]
fn damage_is_what_a_writer_may_have_torn_and_nothing_else() {
    let damage = [Unread::Checksum, Unread::Content];
    let other = [
        Unread::Io,
        Unread::Blank,
        Unread::Magic,
        Unread::Version(2),
        Unread::Array,
        Unread::Place,
        Unread::SetGeneration(PLACE.seat.since),
    ];
    assert!(damage.into_iter().all(Unread::is_damage));
    assert!(!other.into_iter().any(Unread::is_damage));
}

#[test]
fn a_disk_with_another_seat_says_the_latest_record_that_was_decided_and_nothing_else() {
    let seat = Seat {
        since: Generation::new(3),
        mark: 9,
        ..PLACE.seat
    };
    let there = Place { seat, ..PLACE };
    let mut later = Record::genesis(first());
    later.epoch = Epoch::new(7);
    let parts = [
        Area::formatted(first()),
        Area {
            vote: Ok(Vote::after(later)),
            ..Area::formatted(first())
        },
    ];
    let area = lay_out(&there, &parts);
    for whose in ControllerId::ALL {
        let read = decode_area(&PLACE, whose, &area);
        let unread = Area::unread(Unread::SetGeneration(Generation::new(3)));
        assert_eq!(
            read,
            Area {
                elsewhere: Some(later),
                ..unread
            }
        );
        assert_eq!(decode_area(&there, whose, &area).elsewhere, None);
    }
    let elsewhere = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut area = area.clone();
        change(&mut area);
        decode_area(&PLACE, ControllerId::A, &area).elsewhere
    };
    assert_eq!(elsewhere(&|area| area[AT_CONTENT] ^= 1), None, "a damaged header");
    assert_eq!(elsewhere(&|area| area.fill(0)), None, "a blank disk");
    assert_eq!(elsewhere(&|area| area.truncate(AT_MARK)), None, "not read whole");
    let foreign = Place {
        array: ArrayId::from_bytes([1; 16]),
        ..PLACE
    };
    assert_eq!(decode_area(&foreign, ControllerId::A, &area).elsewhere, None);
}
