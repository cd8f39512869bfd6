//! What stands in the quorum area, as values. The bytes are in [`crate::layout`].

use crate::record::{Base, Record, Vote};
use crate::set::QuorumSet;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::{Epoch, Generation, Incarnation, PoolId};

/// Pools that an array can have: their claims share one block.
pub const POOLS_MAX: usize = 64;
/// Pools that one letter can ask for, and can give: a datagram stays below every MTU. More follow when these are done.
pub const LETTER_MAX: usize = 16;

/// What a controller says it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// It looks at the world; it has not said more since its start.
    #[default]
    Starting,
    /// It is up and a member of nothing: it waits to be joined, or to be sure that it may go on alone.
    Waiting,
    /// It is a member of the epoch that it names.
    Serving,
    /// It is a member and gives its pools away, because it is to be shut down or has lost the shelf.
    Releasing,
    /// It was a member, and its daemon ends, or has stopped serving and is about to reset. It may hold what it has not let go of:
    /// that has to be fenced.
    Dying,
    /// Good-bye: this incarnation has let go of everything in good order, and does nothing any more. True for ever.
    Left,
}

/// The figures of its owner's timing that an observer needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Figures {
    /// Period of the slot, `d`.
    pub slot_period: Duration,
    /// The lease, `g`.
    pub lease: Duration,
    /// The watchdog's timeout, `w`.
    pub watchdog: Duration,
}

/// What a controller says of itself, on the disks and on the wire alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Advert {
    /// Which start of the controller this is.
    pub incarnation: Incarnation,
    /// What it is doing.
    pub role: Role,
    /// Number of the highest record that it knows.
    pub epoch: Epoch,
    /// Its whole durable configuration log.
    pub log: Base,
    /// It could go on alone from that record, by the rules of eligibility.
    pub eligible: bool,
    /// Its own slot is written to a majority of the quorum disks.
    pub shelf: bool,
    /// Its watchdog is armed and cannot be disarmed (nowayout) while it has anything imported.
    pub watchdog: bool,
    /// Its clock may be paused (a virtual machine): waiting proves nothing about it.
    pub pausable: bool,
    /// Its timing.
    pub figures: Figures,
}

/// Slot: the sign of life on the disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Grows with every write. Only that it changes matters, on the observer's clock.
    pub sequence: u64,
    /// The rest.
    pub advert: Advert,
}

/// State of a claim on a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClaimState {
    /// Its writer owns the pool.
    Held,
    /// Its writer has released the pool to the partner and will not touch it: the point of no return.
    Given,
    /// Its writer was given the pool and does not take it: the giver may resume.
    Declined,
}

/// One controller's word on one pool. The highest (`epoch`, `generation`, `state`) of both controllers counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// Grows by one with each change of hands.
    pub generation: Generation,
    /// What is claimed.
    pub state: ClaimState,
    /// Incarnation of its writer. A later one has nothing imported by it.
    pub incarnation: Incarnation,
    /// The pool is published: its hosts are being answered. Without meaning unless held.
    pub serving: bool,
    /// A person has put the pool where it is: it does not go home by itself.
    pub placed: bool,
}

/// All claims of one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claims {
    /// Grows with every write, for the reader's order of one writer's blocks.
    pub sequence: u64,
    /// By pool; at most [`POOLS_MAX`].
    pub pools: BTreeMap<PoolId, Claim>,
}

/// Wishes of one controller to the other: on the disks (the mailbox) and on the wire alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Letter {
    /// Incarnation of the writer.
    pub from: Incarnation,
    /// Incarnation of the reader that is meant; a letter to another one is void.
    pub to: Incarnation,
    /// The epoch of the writer; a letter of another epoch than the reader's is void.
    pub epoch: Epoch,
    /// Both have booted and none is a member: the reader may go on alone and let me join.
    pub consent: bool,
    /// The writer serves alone, has frozen its configuration and asks the reader to become equal to it, to be joined.
    pub invite: bool,
    /// The reader should give me these pools.
    pub asks: Vec<PoolId>,
    /// I have released these, with the generation of my claim. Counts on the wire alone, where the writer has
    /// lost the shelf; otherwise the claims say it.
    pub gifts: Vec<(PoolId, Generation)>,
}

/// Why a block was not read. Never a vote of "nothing".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unread {
    /// The disk did not give it: no path, an error, a time-out.
    Io,
    /// Nothing but zeros: never formatted, or wiped.
    Blank,
    /// Something else stands there.
    Magic,
    /// A layout of a version that this program does not know.
    Version(u16),
    /// A block of another array.
    Array,
    /// A block that belongs to another place: other disk, block or writer.
    Place,
    /// A block of another seat of this disk: it was a quorum disk before, or was formatted again.
    SetGeneration(Generation),
    /// The checksum is wrong: torn or flipped.
    Checksum,
    /// The checksum is right and the content breaks the rules of the layout.
    Content,
}

impl Unread {
    /// It was read, and is a write of its writer that tore or rotted; it stays so until it is written again.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::Checksum | Self::Content)
    }
}

/// One controller's part of one quorum disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// The disk is the one that it should be: what is not may belong to somebody else by now, and is never written to.
    pub header: Result<(), Unread>,
    /// Sign of life.
    pub slot: Result<Slot, Unread>,
    /// The later of the valid copies of the ballot.
    pub vote: Result<Vote, Unread>,
    /// Claims on pools.
    pub claims: Result<Claims, Unread>,
    /// Wishes to the partner.
    pub letter: Result<Letter, Unread>,
    /// The disk has another seat than was asked for, and this is the latest record that its ballots call decided: true
    /// for ever, and it says where the quorum disks are to be found.
    pub elsewhere: Option<Record>,
}

impl Area {
    /// A disk that gave nothing.
    #[must_use]
    pub fn unread(why: Unread) -> Self {
        Self {
            header: Err(why),
            slot: Err(why),
            vote: Err(why),
            claims: Err(why),
            letter: Err(why),
            elsewhere: None,
        }
    }

    /// What formatting leaves when an array is made.
    #[must_use]
    pub fn formatted(disks: QuorumSet) -> Self {
        Self {
            header: Ok(()),
            slot: Ok(Slot::default()),
            vote: Ok(Vote::after(Record::genesis(disks))),
            claims: Ok(Claims::default()),
            letter: Ok(Letter::default()),
            elsewhere: None,
        }
    }
}

/// Content of a block that this controller writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::large_enum_variant,
    reason = "a ballot names two records with their disks; contents are made, written and dropped"
)]
pub enum Content {
    /// To the slot.
    Slot(Slot),
    /// To the first or the second copy of the ballot; see `Effect::WriteBlock`.
    Vote(Vote),
    /// To the claims.
    Claims(Claims),
    /// To the mailbox.
    Letter(Letter),
}
