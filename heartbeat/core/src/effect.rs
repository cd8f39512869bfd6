//! What the core wants done. Effects are data; the driver carries them out in the order given and reports back.

use crate::area::{Area, Content};
use crate::event::{RequestId, Victim};
use crate::record::{Base, Record};
use crate::set::{QuorumSet, Seat};
use crate::time::Instant;
use crate::wire::Datagram;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::alua;
use pollux_api::id::{ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_api::pool::ReservationKey;

/// Correlates a write with its end. Never used twice by one `Core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// Correlates a read with its end. Never used twice by one `Core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// A block that this controller writes, on each quorum disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockId {
    /// Sign of life.
    Slot,
    /// First copy of the ballot.
    Vote0,
    /// Second copy of the ballot.
    Vote1,
    /// Claims on pools.
    Claims,
    /// Wishes to the partner.
    Mailbox,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write a block durably (FUA) and answer `Event::WriteDone`. There is never a second write to the same block
    /// of the same seat before that answer. Whatever depends on this write is emitted only after the answer.
    WriteBlock {
        /// For the answer.
        id: WriteId,
        /// The quorum disk; its blocks carry the seat.
        disk: Seat,
        /// Its block, of this controller.
        block: BlockId,
        /// What to write; `layout::encode` makes the bytes.
        content: Content,
    },
    /// Read one controller's whole area of one quorum disk and answer `Event::ReadDone`, also when it failed.
    ReadArea {
        /// For the answer.
        id: ReadId,
        /// The quorum disk; what carries another seat is unread.
        disk: Seat,
        /// Whose area: the partner's all the time, the own one at start.
        whose: ControllerId,
    },
    /// These are the quorum disks from now on: open what is new, let go of what is not among them, and keep the set as
    /// the place where to look after a restart (`Params::set`). Not answered.
    UseDisks(QuorumSet),
    /// Make a disk ready to be a quorum disk: write its whole area durably, with these parts of both controllers
    /// (`layout::lay_out`); answer `Event::DiskFormatted`. It is no quorum disk yet, and nothing is on its way to it. To be
    /// refused for a disk that holds anything but zeros or an old area of this array.
    FormatDisk {
        /// What it is to be.
        seat: Seat,
        /// The parts of both controllers, in the order of [`ControllerId::ALL`].
        parts: Box<[Area; 2]>,
    },
    /// Send a datagram to the partner, on the bonded interconnect. May be lost.
    Send(Datagram),
    /// Replies to hosts may leave until then. Never later than `g` after the submission of a sign of life.
    GrantLease {
        /// Deadline on this controller's clock; [`Instant::ZERO`] revokes at once.
        until: Instant,
        /// The epoch under which it is granted.
        epoch: Epoch,
    },
    /// Arm the watchdog, so that only petting keeps the controller up; answer `Event::Watchdog`.
    ArmWatchdog {
        /// Its timeout.
        timeout: Duration,
    },
    /// Pet the watchdog, now or not at all: a driver that is late must drop it.
    Pet,
    /// Ask the chassis or BMC for the partner's power; answer `Event::Power`.
    QueryPower,
    /// Cut the partner's power, then ask for it; answer `Event::Power`.
    PowerOff(Victim),
    /// First rung of the fence: register `key` on every member disk of the pool, preempt and abort every other key,
    /// read keys and reservation back; answer `Event::FenceDone`. Emitted only after the record (or the gift) that
    /// entitles to it.
    FencePool {
        /// The pool.
        pool: PoolId,
        /// The key that has to stand alone.
        key: ReservationKey,
        /// Who is being fenced; none where nobody can be writing.
        victim: Option<ControllerId>,
    },
    /// Import a pool, on this evidence; answer `PoolDone(Take)`. The claim is durable. Not yet published: the old
    /// owner's lease may still run.
    TakePool {
        /// The pool.
        pool: PoolId,
        /// The key under which it is held.
        key: ReservationKey,
        /// Why nobody else writes to its disks.
        evidence: Evidence,
    },
    /// Serve an imported pool: publish its volumes, make the path optimized, raise its addresses; answer
    /// `PoolDone(Publish)`. The old owner's lease has run out.
    PublishPool {
        /// The pool.
        pool: PoolId,
        /// The key under which it is held.
        key: ReservationKey,
    },
    /// Quiesce, lower addresses, export, give the reservations up; answer `PoolDone(Release)`: `Ok` only if its disks
    /// took the last of it under this key. On `Err` the pool may be in any state on the way, and `ResumePool` or
    /// `StopPool` follows.
    ReleasePool {
        /// The pool.
        pool: PoolId,
        /// The key under which it is held.
        key: ReservationKey,
    },
    /// Go back to serving after a release that failed; answer `PoolDone(Resume)`: `Err` if the pool is not imported
    /// under this key any more. A key that was given up or has vanished is never registered again (S6).
    ResumePool {
        /// The pool.
        pool: PoolId,
        /// The key under which it is held.
        key: ReservationKey,
    },
    /// Stop using a pool at once and do not touch its disks; answer `PoolDone(Stop)`. Ends whatever is under way for
    /// the pool, a fence as well: nothing of it takes effect after the answer.
    StopPool {
        /// The pool.
        pool: PoolId,
        /// The generation that is stopped; the answer names it.
        generation: Generation,
        /// Why, in words.
        reason: String,
    },
    /// The configuration has this pool no more: end its use, and if nothing is in it leave disks of which another pool can be
    /// made. Not answered; what cannot be removed is stopped as by `StopPool`.
    DeletePool {
        /// The pool.
        pool: PoolId,
        /// The generation of its last claim.
        generation: Generation,
    },
    /// Withhold every reply, lower addresses, close ports, stop pools; answer `PoolDone(StopAll)` for any pool id;
    /// then reset the controller. Petting has ended already.
    StopAll {
        /// Why.
        reason: StopReason,
    },
    /// What this controller is for a pool that it does not (yet, any more) serve: for port groups and forwarding.
    Route {
        /// The pool.
        pool: PoolId,
        /// Epoch of the claim that counts.
        epoch: Epoch,
        /// Generation of the claim that counts.
        generation: Generation,
        /// The role.
        role: alua::Role,
        /// The partner is a member and answers on the wire.
        partner_reachable: bool,
    },
    /// Tell the configuration the highest record, and why it is locked beyond what the record says.
    ConfigEpoch {
        /// The record.
        record: Record,
        /// A further reason why nothing may be changed.
        lock: Option<Lock>,
    },
    /// Append nothing, acknowledge nothing, count no acknowledgement until a record of this epoch or above is set;
    /// answer `ConfigFrozen` when nothing is on its way any more. Repeated until answered.
    ConfigFreeze {
        /// The epoch that will be proposed.
        epoch: Epoch,
    },
    /// The proposal was given up before this controller voted in it.
    ConfigUnfreeze {
        /// The epoch of the freeze.
        epoch: Epoch,
    },
    /// Does the durable log contain this point? Answer `ConfigProbed`.
    ConfigProbe {
        /// The point.
        base: Base,
    },
    /// Make the own log equal to the partner's, which is frozen; answer `ConfigCaughtUp`. Repeated until equal.
    ConfigCatchUp,
    /// The answer to `Event::Request`: what will happen, or why not.
    Answer {
        /// Of the request.
        id: RequestId,
        /// What will happen, or why not.
        result: Result<Plan, Refusal>,
    },
    /// For the journal and the timeline; nothing is to be done.
    Note(Note),
}

/// Why nobody else writes to the disks of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Nobody could: no claim of an owner that may live, and the reservation was taken and read back.
    Unowned,
    /// The own incarnation held it, or an earlier incarnation of this controller, which has ended.
    Own,
    /// The owner released it and said so in its claim (or on the wire).
    Released {
        /// Generation of the giver's claim.
        generation: Generation,
    },
    /// Reservations were taken, and read back as held by this controller alone.
    Reserved {
        /// Who was fenced.
        victim: Victim,
        /// The epoch under which.
        epoch: Epoch,
    },
    /// The owner was reported off, to a question asked after the choice.
    PowerOff {
        /// Who was off.
        victim: Victim,
        /// The epoch under which.
        epoch: Epoch,
    },
    /// The owner's armed watchdog has fired, by time.
    Waited {
        /// Who was waited for.
        victim: Victim,
        /// The epoch under which.
        epoch: Epoch,
    },
    /// A later incarnation of the owner was seen: the one that owned has ended.
    Rebooted {
        /// Who has ended.
        victim: Victim,
        /// The epoch under which.
        epoch: Epoch,
    },
}

/// Why a controller stops altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// A higher epoch without this incarnation was decided.
    Superseded(Epoch),
    /// Wire silent and no sign of life got out for g + w.
    LeaseOut,
    /// The partner's key, or one of a higher epoch, stands on a disk of a pool held here.
    Fenced(PoolId),
    /// The partner asked for a pool that is not served here, and it was not given in time.
    Unserving(PoolId),
    /// An operator asked for it, and everything was given, or exported where nobody is there to take it, as far as that could
    /// be done.
    Shutdown,
}

/// A reason to lock the configuration beyond what the record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// The partner is a member and lives on the disks, but the wire is silent: nothing can be made durable on both.
    PartnerUnreachable,
    /// The partner is a member and nothing is known of it yet.
    PartnerUnknown,
    /// The partner is silent, and nothing more can be learnt of it: too few quorum disks can be read.
    QuorumUnreadable,
}

/// What a request sets in motion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Pools that move.
    pub pools: Vec<PoolId>,
    /// What happens, step by step, in words.
    pub steps: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// What stands against it.
    pub reason: String,
    /// What would clear that: a command or a deed.
    pub remedy: String,
}

/// Something that the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The wire to the partner lives or is silent.
    Wire {
        /// It lives.
        alive: bool,
    },
    /// The partner is suspected: what was seen, in words. Detection began at `since`.
    Suspected {
        /// The last sign of life.
        since: Instant,
        /// What was seen.
        cause: String,
    },
    /// Arbitration of a record begins.
    Proposing {
        /// Its number.
        epoch: Epoch,
    },
    /// A proposal was given up before a vote.
    Abandoned {
        /// Its number.
        epoch: Epoch,
        /// Why.
        reason: &'static str,
    },
    /// A record is decided (by whomever) and known here.
    Decided(Record),
    /// The fence begins.
    Fencing(Victim),
    /// A rung of the fence is confirmed, for one pool or for all.
    Fenced {
        /// For which pool; none: for all.
        pool: Option<PoolId>,
        /// Which rung.
        rung: &'static str,
    },
    /// This controller has let go of everything in good order, and says good-bye.
    Left,
    /// What the own slot shows at the start: the last incarnation ended in good order, or without a word.
    LastEnd {
        /// That incarnation.
        incarnation: Incarnation,
        /// In good order.
        orderly: bool,
    },
    /// A claim is durable on a majority.
    Claimed {
        /// The pool.
        pool: PoolId,
        /// Its generation.
        generation: Generation,
    },
    /// A pool came to another state.
    Pool {
        /// The pool.
        pool: PoolId,
        /// The state's name, as in `status`.
        state: &'static str,
    },
    /// A disk is ready to take the place of a quorum disk, or will not.
    Formatted {
        /// The disk.
        disk: DiskIndex,
        /// Ready, or why not, in words.
        result: Result<(), String>,
    },
    /// An alarm came or went.
    Alarm {
        /// Stable id.
        id: &'static str,
        /// Leg, disk or pool.
        subject: String,
        /// It came (false: it went).
        raised: bool,
    },
}
