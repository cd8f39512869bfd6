//! The quorum area as bytes.
//!
//! Eleven pigeonholes on each quorum disk, 4 KiB each, and every pigeonhole has one key-holder:
//!
//! ```text
//! block  0      header        written once, by whoever formats
//!        1      slot     [a]  6  slot     [b]
//!        2, 3   ballot   [a]  7, 8  ballot   [b]     two copies, the second written after the first is durable
//!        4      claims   [a]  9  claims   [b]
//!        5      mailbox  [a]  10 mailbox  [b]
//! ```
//!
//! Each block, little-endian:
//!
//! ```text
//! offset  0  u64  magic            offset 32  u64  generation of the set with which the disk joined
//!         8  u16  layout version           40  u32  length of the content
//!        10  u16  block                    44  u32  CRC32C of bytes 0..64 (this field zero) and the content
//!        12  u16  disk                     48  u32  mark of the formatting, then zero
//!        14  u8   writer: 0 a, 1 b, 255 nobody (header)
//!        15  u8   zero                     64       content, then zero to the end
//!        16  [16] array id
//! ```
//!
//! A block that is anything but exactly this is [`Unread`]: a wrong disk, a wrong place, a torn, old or wiped block
//! is never a vote of "nothing". The zeros are part of the rule, so a tear after the content is seen as well.

use crate::area::{Area, Claim, ClaimState, Claims, Content, POOLS_MAX, Slot, Unread};
use crate::codec::{Malformed, Parsed, Reader, Writer};
use crate::effect::BlockId;
use crate::record::{Ballot, Record, Vote};
use crate::set::{QuorumSet, Seat};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use pollux_api::id::{ArrayId, ControllerId, Generation};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of the area, from the disk's first.
pub const AREA_BLOCKS: usize = 11;
/// Bytes of the area.
pub const AREA_BYTES: usize = AREA_BLOCKS * BLOCK_BYTES;
/// Version of the layout that is written. 2: a record names its quorum disks, a block the formatting of its disk.
/// 1: the first.
pub const VERSION: u16 = 2;

/// Bytes of one block.
pub type Block = [u8; BLOCK_BYTES];

const MAGIC: u64 = u64::from_le_bytes(*b"PLXQUORM");
const AT_VERSION: usize = 8;
const AT_BLOCK: usize = 10;
const AT_DISK: usize = 12;
const AT_WRITER: usize = 14;
const AT_ARRAY: usize = 16;
const AT_SET: usize = 32;
const AT_LENGTH: usize = 40;
const AT_CRC: usize = 44;
const AT_MARK: usize = 48;
const AT_CONTENT: usize = 64;
const NOBODY: u8 = 255;
const ZEROS: Block = [0; BLOCK_BYTES];

/// A claim: pool 16, epoch 8, generation 8, incarnation 8, state 1, serving 1, placed 1.
const CLAIM_BYTES: usize = 43;
const CONTENT_MAX: usize = BLOCK_BYTES - AT_CONTENT;
/// A set of quorum disks: generation 8, count 1, seats of 14, whether one leaves 1 and which 14.
const SET_BYTES: usize = 94;
/// A record: epoch 8, each member 1 and 8, mode 1, base 8 and 32, the set.
const RECORD_BYTES: usize = 67 + SET_BYTES;

const _: () = assert!(AT_CRC + 4 == AT_MARK && AT_MARK + 4 <= AT_CONTENT && AT_CONTENT.is_multiple_of(8));
const _: () = assert!(
    8 + 1 + POOLS_MAX * CLAIM_BYTES <= CONTENT_MAX,
    "claims of every pool fit one block"
);
const _: () = assert!(3 * 8 + 1 + 2 * RECORD_BYTES <= CONTENT_MAX);
const _: () = assert!(POOLS_MAX <= u8::MAX as usize);
const _: () = assert!(AREA_BLOCKS == 1 + 2 * 5);

/// Which disk of which array: what every block of it must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The array.
    pub array: ArrayId,
    /// The disk, as which member of the quorum set.
    pub seat: Seat,
}

/// Number of a controller's block, counted from the disk's first.
#[must_use]
pub const fn block_number(block: BlockId, writer: ControllerId) -> u64 {
    let within = match block {
        BlockId::Slot => 0,
        BlockId::Vote0 => 1,
        BlockId::Vote1 => 2,
        BlockId::Claims => 3,
        BlockId::Mailbox => 4,
    };
    (1 + writer.index() * 5 + within) as u64
}

/// The bytes of a block that `writer` writes.
#[must_use]
pub fn encode(place: &Place, block: BlockId, writer: ControllerId, content: &Content) -> Box<Block> {
    let mut bytes = Writer::default();
    match content {
        Content::Slot(slot) => {
            bytes.u64(slot.sequence);
            bytes.advert(&slot.advert);
        }
        Content::Vote(vote) => {
            bytes.u64(vote.instance.get());
            bytes.u64(vote.mbal.get());
            bytes.u64(vote.bal.get());
            bytes.option_record(vote.value.as_ref());
            bytes.record(&vote.decided);
        }
        Content::Claims(claims) => {
            debug_assert!(
                claims.pools.len() <= POOLS_MAX,
                "more pools than an array can have"
            );
            bytes.u64(claims.sequence);
            bytes.count(claims.pools.len().min(POOLS_MAX));
            for (pool, claim) in claims.pools.iter().take(POOLS_MAX) {
                bytes.pool(*pool);
                bytes.u64(claim.epoch.get());
                bytes.u64(claim.generation.get());
                bytes.u64(claim.incarnation.get());
                bytes.u8(match claim.state {
                    ClaimState::Held => 0,
                    ClaimState::Given => 1,
                    ClaimState::Declined => 2,
                });
                bytes.flag(claim.serving);
                bytes.flag(claim.placed);
            }
        }
        Content::Letter(letter) => bytes.letter(letter),
    }
    seal(place, block_number(block, writer), Some(writer), &bytes.0)
}

/// The whole area as formatting leaves it when an array is made: valid blocks in which nobody has said anything, so that
/// a blank block later is damage.
#[must_use]
pub fn first(place: &Place, set: &QuorumSet) -> Vec<u8> {
    lay_out(place, &[Area::formatted(*set), Area::formatted(*set)])
}

/// The whole area with these parts of both controllers. What is unread in a part is left blank, and stays unread.
#[must_use]
pub fn lay_out(place: &Place, parts: &[Area; 2]) -> Vec<u8> {
    let mut area = vec![0; AREA_BYTES];
    let mut put = |number: u64, bytes: &[u8]| {
        let at = number as usize * BLOCK_BYTES;
        area[at..at + BLOCK_BYTES].copy_from_slice(bytes);
    };
    put(0, &seal(place, 0, None, &[])[..]);
    for (writer, part) in ControllerId::ALL.into_iter().zip(parts) {
        let slot = part.slot.map(Content::Slot).ok();
        let vote = part.vote.map(Content::Vote).ok();
        let claims = part.claims.clone().map(Content::Claims).ok();
        let letter = part.letter.clone().map(Content::Letter).ok();
        let blocks = [
            (BlockId::Slot, slot),
            (BlockId::Vote0, vote.clone()),
            (BlockId::Vote1, vote),
            (BlockId::Claims, claims),
            (BlockId::Mailbox, letter),
        ];
        for (block, content) in blocks {
            if let Some(content) = content {
                put(
                    block_number(block, writer),
                    &encode(place, block, writer, &content)[..],
                );
            }
        }
    }
    area
}

/// Whether a disk of which these are the first [`AREA_BYTES`] may be laid out with these parts: there is nothing on it, or
/// what an earlier life as a quorum disk of this array has left. A ballot later than those in the parts belongs to a set
/// of which whoever asks has not heard.
///
/// # Errors
/// What stands there instead, in words.
pub fn may_lay_out(place: &Place, parts: &[Area; 2], area: &[u8]) -> Result<(), String> {
    if area.len() != AREA_BYTES {
        return Err(format!(
            "{} bytes were read where {AREA_BYTES} were asked",
            area.len()
        ));
    }
    if area.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let number = |at: usize| area[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let mark = area[AT_MARK..AT_MARK + 4]
        .try_into()
        .map_or(0, u32::from_le_bytes);
    let found = Seat {
        since: Generation::new(number(AT_SET)),
        mark,
        ..place.seat
    };
    let found = Place {
        seat: found,
        ..*place
    };
    for (whose, part) in ControllerId::ALL.into_iter().zip(parts) {
        let there = decode_area(&found, whose, area);
        match there.header {
            Ok(()) => {}
            Err(Unread::Array) => return Err("it is a quorum disk of another array".into()),
            Err(why) => {
                return Err(format!(
                    "it is not blank and no old quorum disk of this array ({why:?}): wipe it"
                ));
            }
        }
        let later = |vote: Vote| part.vote.is_ok_and(|known| vote.instance > known.instance);
        if there.vote.is_ok_and(later) {
            return Err("it is a quorum disk of a later set of this array".into());
        }
    }
    Ok(())
}

/// Reads one controller's part out of the bytes of the whole area ([`AREA_BYTES`], from the disk's first block).
/// Fewer bytes are a read that failed.
#[must_use]
pub fn decode_area(place: &Place, whose: ControllerId, area: &[u8]) -> Area {
    // A header that is not ours means that this is not the disk that we think it is, whatever its blocks say.
    if let Err(why) = content(place, 0, None, area) {
        return Area {
            elsewhere: decided_elsewhere(place, area),
            ..Area::unread(why)
        };
    }
    let read = |block| content(place, block_number(block, whose), Some(whose), area);
    let copies = [read(BlockId::Vote0), read(BlockId::Vote1)].map(|bytes| parse(bytes, vote));
    let vote = match copies {
        [Ok(first), Ok(second)] if second.age() > first.age() => Ok(second),
        [Ok(first), _] => Ok(first),
        [Err(_), Ok(second)] => Ok(second),
        [Err(why), Err(_)] => Err(why),
    };
    Area {
        header: Ok(()),
        slot: parse(read(BlockId::Slot), slot),
        vote,
        claims: parse(read(BlockId::Claims), claims),
        letter: parse(read(BlockId::Mailbox), |bytes| bytes.letter()),
        elsewhere: None,
    }
}

/// The latest decided record on a disk of this array that has another seat than was asked for.
fn decided_elsewhere(place: &Place, area: &[u8]) -> Option<Record> {
    let header = area.get(..BLOCK_BYTES)?;
    let since = u64::from_le_bytes(header[AT_SET..AT_SET + 8].try_into().ok()?);
    let mark = u32::from_le_bytes(header[AT_MARK..AT_MARK + 4].try_into().ok()?);
    let seat = Seat {
        since: Generation::new(since),
        mark,
        ..place.seat
    };
    let there = Place { seat, ..*place };
    content(&there, 0, None, area).ok()?;
    let blocks = ControllerId::ALL
        .into_iter()
        .flat_map(|whose| [BlockId::Vote0, BlockId::Vote1].map(|block| (whose, block)));
    let votes = blocks.filter_map(|(whose, block)| {
        let bytes = content(&there, block_number(block, whose), Some(whose), area);
        parse(bytes, vote).ok()
    });
    votes.map(|vote| vote.decided).max_by_key(|record| record.epoch)
}

fn seal(place: &Place, number: u64, writer: Option<ControllerId>, content: &[u8]) -> Box<Block> {
    let mut block: Box<Block> = Box::new([0; BLOCK_BYTES]);
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(AT_VERSION, &VERSION.to_le_bytes());
    put(AT_BLOCK, &(number as u16).to_le_bytes());
    put(AT_DISK, &place.seat.disk.get().to_le_bytes());
    put(AT_WRITER, &[writer.map_or(NOBODY, |writer| writer.index() as u8)]);
    put(AT_ARRAY, place.array.as_bytes());
    put(AT_SET, &place.seat.since.get().to_le_bytes());
    put(AT_MARK, &place.seat.mark.to_le_bytes());
    put(AT_LENGTH, &(content.len() as u32).to_le_bytes());
    put(AT_CONTENT, content);
    let crc = crc32c::crc32c(&block[..AT_CONTENT + content.len()]);
    block[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    block
}

/// The content of a block, if it is exactly what was written there.
fn content<'a>(
    place: &Place,
    number: u64,
    writer: Option<ControllerId>,
    area: &'a [u8],
) -> Result<&'a [u8], Unread> {
    let at = number as usize * BLOCK_BYTES;
    let block = area.get(at..at + BLOCK_BYTES).ok_or(Unread::Io)?;
    if *block == ZEROS {
        return Err(Unread::Blank);
    }
    let u16_at = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if block[..8] != MAGIC.to_le_bytes() {
        return Err(Unread::Magic);
    }
    match u16_at(AT_VERSION) {
        VERSION => {}
        other => return Err(Unread::Version(other)),
    }
    let length = u32_at(AT_LENGTH) as usize;
    if length > CONTENT_MAX {
        return Err(Unread::Checksum);
    }
    let (used, rest) = block.split_at(AT_CONTENT + length);
    let crc = crc32c::crc32c(&used[..AT_CRC]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &used[AT_CRC + 4..]);
    if crc != u32_at(AT_CRC) || *rest != ZEROS[..rest.len()] {
        return Err(Unread::Checksum);
    }
    if block[AT_ARRAY..AT_ARRAY + 16] != *place.array.as_bytes() {
        return Err(Unread::Array);
    }
    let writer = writer.map_or(NOBODY, |writer| writer.index() as u8);
    let here = (u64::from(u16_at(AT_BLOCK)), u16_at(AT_DISK), block[AT_WRITER]);
    if here != (number, place.seat.disk.get(), writer) {
        return Err(Unread::Place);
    }
    let set = block[AT_SET..AT_SET + 8].try_into().map_or(0, u64::from_le_bytes);
    if (set, u32_at(AT_MARK)) != (place.seat.since.get(), place.seat.mark) {
        return Err(Unread::SetGeneration(Generation::new(set)));
    }
    Ok(&used[AT_CONTENT..])
}

fn parse<T>(
    content: Result<&[u8], Unread>,
    read: impl Fn(&mut Reader<'_>) -> Parsed<T>,
) -> Result<T, Unread> {
    let mut bytes = Reader(content?);
    let value = read(&mut bytes).map_err(|Malformed| Unread::Content)?;
    if bytes.0.is_empty() {
        Ok(value)
    } else {
        Err(Unread::Content)
    }
}

fn slot(bytes: &mut Reader<'_>) -> Parsed<Slot> {
    Ok(Slot {
        sequence: bytes.u64()?,
        advert: bytes.advert()?,
    })
}

fn vote(bytes: &mut Reader<'_>) -> Parsed<Vote> {
    let vote = Vote {
        instance: bytes.epoch()?,
        mbal: Ballot::new(bytes.u64()?),
        bal: Ballot::new(bytes.u64()?),
        value: bytes.option_record()?,
        decided: bytes.record()?,
    };
    let voted = vote.value.is_some() == (vote.bal != Ballot::NONE) && vote.bal <= vote.mbal;
    let numbered = vote.decided.epoch.next() == vote.instance
        && vote.value.is_none_or(|value| value.epoch == vote.instance);
    if voted && numbered {
        Ok(vote)
    } else {
        Err(Malformed)
    }
}

fn claims(bytes: &mut Reader<'_>) -> Parsed<Claims> {
    let sequence = bytes.u64()?;
    let mut pools = BTreeMap::new();
    for _ in 0..bytes.count(POOLS_MAX)? {
        let pool = bytes.pool()?;
        let (epoch, generation, incarnation) = (bytes.epoch()?, bytes.generation()?, bytes.incarnation()?);
        let state = match bytes.u8()? {
            0 => ClaimState::Held,
            1 => ClaimState::Given,
            2 => ClaimState::Declined,
            _ => return Err(Malformed),
        };
        let (serving, placed) = (bytes.flag()?, bytes.flag()?);
        // In ascending order, each once: one encoding for each value.
        if pools.last_key_value().is_some_and(|(last, _)| *last >= pool) {
            return Err(Malformed);
        }
        pools.insert(
            pool,
            Claim {
                epoch,
                generation,
                state,
                incarnation,
                serving,
                placed,
            },
        );
    }
    Ok(Claims { sequence, pools })
}

#[cfg(test)]
#[path = "layout_tests.rs"]
pub(crate) mod tests;
