//! What really happened, as the world itself saw it: disks, replies that left, words on the wire. The invariants judge
//! these facts and never what a core says of itself.

use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::Seat;
use pollux_heartbeat_core::effect::Evidence;
use pollux_heartbeat_core::record::{Record, Vote};

/// One thing that happened, at the world's present time.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A write took effect on a leg of a pool; `key` is the one under which its writer had imported the pool.
    Wrote {
        c: usize,
        pool: usize,
        leg: usize,
        key: ReservationKey,
    },
    /// A key was registered on a leg and stands there alone.
    Registered {
        c: usize,
        pool: usize,
        leg: usize,
        key: ReservationKey,
    },
    /// The owner of a pool goes on without a leg: no exclusion rests on it any more.
    CalledFailed { pool: usize, leg: usize },
    /// A key vanished from a leg without having been preempted or given up.
    ExclusionLost {
        pool: usize,
        leg: usize,
        key: ReservationKey,
    },
    /// A controller set out to fence a pool, or took it, as its claim says.
    Taking {
        c: usize,
        pool: usize,
        key: ReservationKey,
    },
    /// A pool is taken on the strength of this.
    Trusted {
        c: usize,
        pool: usize,
        key: ReservationKey,
        evidence: Evidence,
    },
    /// The partner's present incarnation was told that it is heard.
    Echoed { c: usize },
    /// A pool was imported; what its blocks hold.
    Imported {
        c: usize,
        pool: usize,
        key: ReservationKey,
        blocks: Vec<u64>,
        hand: Hand,
    },
    /// A reply left for a host.
    Replied {
        c: usize,
        pool: usize,
        key: ReservationKey,
        what: Answer,
    },
    /// A ballot block took effect on a quorum disk.
    Voted { c: usize, seat: Seat, vote: Vote },
    /// A ballot with a value was handed to a quorum disk.
    Proposed { c: usize, vote: Vote },
    /// A controller read its partner's ballot on a quorum disk, after which that disk may count.
    Polled {
        c: usize,
        seat: Seat,
        seen: Option<Vote>,
    },
    /// A decided record was written, sent, or acted on.
    Published { c: usize, record: Record },
    /// A decided record was put before a core.
    Learnt { c: usize, record: Record },
    /// A sign of the partner's life was put before a core; it was given no earlier than `since`.
    Sighted { c: usize, since: u64 },
    /// The partner was reported off to a core: this incarnation of it, or none since, to a question of then.
    SeenOff { c: usize, incarnation: u64, asked: u64 },
    /// The partner's later incarnation, or its word that it serves nothing any more, was put before a core.
    SeenGone { c: usize, incarnation: u64 },
    /// An operator demanded that the partner's pools be taken.
    Demanded { c: usize },
    /// A controller that had no lease has one.
    Leased,
    /// A controller's target took what hosts are told of the port groups of a pool.
    Told { pool: usize },
    /// A controller started: its earlier incarnation has ended.
    Booted { c: usize },
    /// A change of the configuration was acknowledged to whoever asked for it; `again`: out of what the log already had
    /// as acknowledged.
    Acknowledged { c: usize, entry: u64, again: bool },
}

/// How a pool came to whoever imported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hand {
    /// It was its own, or nobody's.
    Own,
    /// Its owner gave it.
    Given,
    /// Its owner was fenced.
    Fenced,
}

/// What was said to a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// The write is durable.
    Write { block: usize, value: u64 },
    /// The block held this; `floor` is the last write that had been acknowledged when the read began.
    Read { block: usize, value: u64, floor: u64 },
}
