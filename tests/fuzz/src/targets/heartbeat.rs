//! What the partner says on the wire, and what stands on the quorum disks.

use crate::script::{Script, put_long};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_heartbeat_core::area::{
    Advert, Area, Claim, ClaimState, Claims, Content, Letter, Role, Slot, Unread,
};
use pollux_heartbeat_core::effect::BlockId;
use pollux_heartbeat_core::layout::{self, AREA_BLOCKS, AREA_BYTES, BLOCK_BYTES, Place};
use pollux_heartbeat_core::record::{Ballot, Members, Record, Vote};
use pollux_heartbeat_core::wire::{BODY_MAX, Datagram};
use pollux_heartbeat_core::{QuorumSet, Seat};

const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);
const PLACE: Place = Place {
    array: ARRAY,
    seat: Seat {
        disk: DiskIndex::new(3),
        since: Generation::new(5),
        mark: 9,
    },
};
/// Magic, array and sender of a datagram: what any other array's lacks.
const HEAD: usize = 25;

/// A body behind a flag: even, and the head that names array and sender is made right.
pub(super) fn datagram(data: &[u8]) {
    let mut script = Script(data);
    let right = script.byte() & 1 == 0;
    let mut body = script.0.to_vec();
    if right && body.len() >= HEAD {
        let sound = quiet().encode(ARRAY, ControllerId::B);
        body[..HEAD].copy_from_slice(&sound[..HEAD]);
    }
    if let Ok(datagram) = Datagram::decode(&body, ARRAY, ControllerId::B) {
        let again = datagram.encode(ARRAY, ControllerId::B);
        assert_eq!(again, body, "one datagram, two encodings");
        assert!(
            again.len() <= BODY_MAX,
            "a datagram of {} bytes was taken",
            again.len()
        );
    }
}

pub(super) fn datagrams() -> Vec<Vec<u8>> {
    let mut full = quiet();
    full.echo = Some(9);
    full.advert = advert();
    full.record = Some(record());
    full.letter = letter();
    full.holdings = vec![(PoolId::from_bytes([2; 16]), Epoch::new(4), Generation::new(3))];
    [quiet(), full]
        .iter()
        .map(|datagram| [vec![0], datagram.encode(ARRAY, ControllerId::B)].concat())
        .collect()
}

/// A script of the area of a disk: for each block, how long its content is (0: as formatting leaves it) and the
/// content, which is sealed; then bytes that fall somewhere on the area, behind their place and length.
pub(super) fn area(data: &[u8]) {
    let mut script = Script(data);
    let mut area = layout::first(&PLACE, &set());
    for number in 0..AREA_BLOCKS {
        let content = script.long();
        if !content.is_empty() {
            let at = number * BLOCK_BYTES;
            seal(&mut area[at..at + BLOCK_BYTES], content);
        }
    }
    while !script.is_empty() {
        let at = usize::from(script.word()) % AREA_BYTES;
        let bytes = script.short();
        let length = bytes.len().min(AREA_BYTES - at);
        area[at..at + length].copy_from_slice(&bytes[..length]);
    }
    for whose in ControllerId::ALL {
        let read = layout::decode_area(&PLACE, whose, &area);
        let block = |id| {
            let at = layout::block_number(id, whose) as usize * BLOCK_BYTES;
            &area[at..at + BLOCK_BYTES]
        };
        let written = |id, content: &Content| layout::encode(&PLACE, id, whose, content);
        if let Ok(slot) = read.slot {
            let again = written(BlockId::Slot, &Content::Slot(slot));
            assert_eq!(again[..], *block(BlockId::Slot), "one slot, two encodings");
        }
        if let Ok(claims) = read.claims {
            let again = written(BlockId::Claims, &Content::Claims(claims));
            assert_eq!(
                again[..],
                *block(BlockId::Claims),
                "one block of claims, two encodings"
            );
        }
        if let Ok(letter) = read.letter {
            let again = written(BlockId::Mailbox, &Content::Letter(letter));
            assert_eq!(again[..], *block(BlockId::Mailbox), "one letter, two encodings");
        }
        if let Ok(vote) = read.vote {
            let stands = |id| written(id, &Content::Vote(vote))[..] == *block(id);
            let somewhere = stands(BlockId::Vote0) || stands(BlockId::Vote1);
            assert!(somewhere, "a vote that stands in neither copy: {vote:?}");
        }
        // A disk that gives less than the whole area has given nothing beyond what it gave.
        let cut = usize::from(Script(data).word()) % AREA_BYTES;
        let part = layout::decode_area(&PLACE, whose, &area[..cut]);
        assert!(cut >= BLOCK_BYTES || part == Area::unread(Unread::Io));
    }
}

/// Puts a content into a formatted block, with the length and the checksum that the layout wants.
fn seal(block: &mut [u8], content: &[u8]) {
    let content = &content[..content.len().min(BLOCK_BYTES - 64)];
    block[40..44].copy_from_slice(&(content.len() as u32).to_le_bytes());
    block[44..48].fill(0);
    block[64..].fill(0);
    block[64..64 + content.len()].copy_from_slice(content);
    let crc = crc32c::crc32c(&block[..64 + content.len()]);
    block[44..48].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn areas() -> Vec<Vec<u8>> {
    let pool = |number| PoolId::from_bytes([number; 16]);
    let claim = |state| Claim {
        epoch: Epoch::new(4),
        generation: Generation::new(2),
        state,
        incarnation: Incarnation::new(7),
        serving: true,
        placed: false,
    };
    let vote = Vote {
        instance: record().epoch.next(),
        mbal: Ballot::new(4),
        bal: Ballot::new(2),
        value: Some(Record {
            epoch: record().epoch.next(),
            ..record()
        }),
        decided: record(),
    };
    let states = [ClaimState::Held, ClaimState::Given, ClaimState::Declined];
    let claims = Claims {
        sequence: 8,
        pools: states
            .into_iter()
            .zip(1..)
            .map(|(state, number)| (pool(number), claim(state)))
            .collect(),
    };
    let slot = Slot {
        sequence: 6,
        advert: advert(),
    };
    let content = |id, content: &Content| {
        let block = layout::encode(&PLACE, id, ControllerId::A, content);
        let length = u32::from_le_bytes([block[40], block[41], block[42], block[43]]);
        block[64..64 + length as usize].to_vec()
    };
    let slot = content(BlockId::Slot, &Content::Slot(slot));
    let vote = content(BlockId::Vote0, &Content::Vote(vote));
    let claims = content(BlockId::Claims, &Content::Claims(claims));
    let letter = content(BlockId::Mailbox, &Content::Letter(letter()));
    let mut said = vec![];
    put_long(&mut said, &[]);
    for _ in ControllerId::ALL {
        for content in [&slot, &vote, &vote, &claims, &letter] {
            put_long(&mut said, content);
        }
    }
    let mut damaged = vec![0; 2 * AREA_BLOCKS];
    damaged.extend_from_slice(&[0x2c, 0x10, 4, 1, 2, 3, 4]);
    vec![vec![], said, damaged]
}

fn quiet() -> Datagram {
    Datagram {
        sequence: 1,
        nonce: 2,
        echo: None,
        advert: Advert::default(),
        record: None,
        letter: Letter::default(),
        holdings: vec![],
    }
}

/// Five disks, one of them about to leave: every field of a set.
fn set() -> QuorumSet {
    let disks = [1, 2, 3, 4, 5].map(DiskIndex::new);
    let first = QuorumSet::first(&disks).unwrap_or_default();
    let seat = first.next_seat(DiskIndex::new(6), 77);
    first.replaced(disks[1], seat).unwrap_or(first)
}

fn record() -> Record {
    let members = Members::alone(ControllerId::A, Incarnation::new(7));
    Record {
        epoch: Epoch::new(4),
        members: members.with(ControllerId::B, Incarnation::new(9)),
        ..Record::genesis(set())
    }
}

fn advert() -> Advert {
    Advert {
        incarnation: Incarnation::new(7),
        role: Role::Serving,
        epoch: Epoch::new(4),
        eligible: true,
        shelf: true,
        ..Advert::default()
    }
}

fn letter() -> Letter {
    Letter {
        from: Incarnation::new(7),
        to: Incarnation::new(9),
        epoch: Epoch::new(4),
        consent: true,
        invite: false,
        asks: vec![PoolId::from_bytes([1; 16])],
        gifts: vec![(PoolId::from_bytes([2; 16]), Generation::new(3))],
    }
}
