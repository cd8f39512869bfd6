//! A quorum disk: the bytes of its area, as the shipped layout makes them, and what can happen to them.
//!
//! Damage is done to bytes, and it is the shipped decoder that has to notice. A write takes effect at one instant
//! between submission and answer; power that fails in between leaves the old block, the new one, or a piece of each.

use crate::rng::Rng;
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::area::{Area, Unread};
use pollux_heartbeat_core::effect::BlockId;
use pollux_heartbeat_core::layout::{self, AREA_BYTES, BLOCK_BYTES, Block, Place};
use pollux_heartbeat_core::{QuorumSet, Seat};
use std::ops::Range;

/// Every block of one controller.
pub(crate) static BLOCKS: [BlockId; 5] = [
    BlockId::Slot,
    BlockId::Vote0,
    BlockId::Vote1,
    BlockId::Claims,
    BlockId::Mailbox,
];

/// One quorum disk.
#[derive(Clone, Debug)]
pub(crate) struct QuorumDisk {
    /// As it was formatted last; a spare that never was: as if with the array.
    pub(crate) place: Place,
    area: Vec<u8>,
    /// What the decoder made of each controller's part, read as that seat, until that part changes.
    decoded: [Option<(Seat, Area)>; 2],
    /// Per controller: the path works.
    pub(crate) path: [bool; 2],
    /// The shelf that holds it has power.
    pub(crate) up: bool,
    /// Commands wait until then.
    pub(crate) stuck_until: u64,
    /// Commands take so much longer, at most.
    pub(crate) slow: u64,
    /// Blocks that are read wrong once, per million.
    pub(crate) flaky: u64,
    /// Writes are refused.
    pub(crate) read_only: bool,
    /// Breakage of the simulator's own world: writes are confirmed and forgotten.
    pub(crate) forgets: bool,
}

impl QuorumDisk {
    /// As formatted with the array; none: a spare, blank.
    pub(crate) fn new(place: Place, set: Option<&QuorumSet>) -> Self {
        Self {
            place,
            area: set.map_or_else(|| vec![0; AREA_BYTES], |set| layout::first(&place, set)),
            decoded: [None, None],
            path: [true; 2],
            up: true,
            stuck_until: 0,
            slow: 0,
            flaky: 0,
            read_only: false,
            forgets: false,
        }
    }

    /// It is formatted as a quorum disk, if it may be.
    pub(crate) fn format(&mut self, seat: Seat, parts: &[Area; 2]) -> Result<(), String> {
        let place = Place { seat, ..self.place };
        layout::may_lay_out(&place, parts, &self.area)?;
        if !self.forgets {
            self.place = place;
            self.area = layout::lay_out(&place, parts);
            self.decoded = [None, None];
        }
        Ok(())
    }

    /// A controller can use it.
    pub(crate) fn reaches(&self, c: usize) -> bool {
        self.up && self.path[c]
    }

    fn span(block: BlockId, writer: ControllerId) -> Range<usize> {
        let at = layout::block_number(block, writer) as usize * BLOCK_BYTES;
        at..at + BLOCK_BYTES
    }

    /// The bytes of a block, to be written or damaged.
    pub(crate) fn bytes(&mut self, writer: ControllerId, block: BlockId) -> &mut [u8] {
        self.decoded[writer.index()] = None;
        &mut self.area[Self::span(block, writer)]
    }

    /// A write takes effect.
    pub(crate) fn write(&mut self, writer: ControllerId, block: BlockId, bytes: &Block) {
        if !self.forgets {
            self.bytes(writer, block).copy_from_slice(bytes);
        }
    }

    /// A write is torn at any byte: from there on the block is old.
    pub(crate) fn tear(&mut self, writer: ControllerId, block: BlockId, bytes: &Block, rng: &mut Rng) {
        // Most content is short: tear where it hurts as often as elsewhere.
        let end = if rng.chance(500_000) {
            300
        } else {
            BLOCK_BYTES as u64
        };
        let from = rng.below(end) as usize;
        self.bytes(writer, block)[..from].copy_from_slice(&bytes[..from]);
    }

    /// One bit of a block turns over.
    pub(crate) fn flip(&mut self, writer: ControllerId, block: BlockId, rng: &mut Rng) {
        let at = rng.index(BLOCK_BYTES);
        self.bytes(writer, block)[at] ^= 1 << rng.below(8);
    }

    /// Everything of both controllers is gone; the header stands, as after a wipe of the area alone.
    pub(crate) fn wipe(&mut self) {
        for writer in ControllerId::ALL {
            for block in BLOCKS {
                self.bytes(writer, block).fill(0);
            }
        }
    }

    /// Everything that stands there.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.area.clone()
    }

    /// A copy is written back: what was said since was never said.
    pub(crate) fn restore(&mut self, copy: Vec<u8>) {
        self.decoded = [None, None];
        self.area = copy;
    }

    /// It is somebody else's from now on, and full of it.
    #[cfg(test)]
    pub(crate) fn sell(&mut self) {
        self.decoded = [None, None];
        self.area.fill(0x77);
    }

    /// Nothing was written to it since.
    #[cfg(test)]
    pub(crate) fn is_sold(&self) -> bool {
        self.area.iter().all(|byte| *byte == 0x77)
    }

    /// What a controller reads of one controller's part now, for which the disk is this seat.
    pub(crate) fn read(&mut self, reader: usize, seat: Seat, whose: ControllerId, rng: &mut Rng) -> Area {
        if !self.reaches(reader) {
            return Area::unread(Unread::Io);
        }
        let (place, bytes) = (Place { seat, ..self.place }, &self.area);
        let kept = self.decoded[whose.index()]
            .take()
            .filter(|(as_seat, _)| *as_seat == seat);
        let (_, decoded) = self.decoded[whose.index()]
            .insert(kept.unwrap_or_else(|| (seat, layout::decode_area(&place, whose, bytes))));
        let mut area = decoded.clone();
        if rng.chance(self.flaky) {
            match rng.below(4) {
                0 => area.slot = Err(Unread::Checksum),
                1 => area.vote = Err(Unread::Checksum),
                2 => area.claims = Err(Unread::Checksum),
                _ => area.letter = Err(Unread::Checksum),
            }
        }
        area
    }

    /// What stands there, whoever can reach it.
    pub(crate) fn stands(&mut self, whose: ControllerId) -> Area {
        layout::decode_area(&self.place, whose, &self.area)
    }
}
