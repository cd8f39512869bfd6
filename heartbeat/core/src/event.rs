//! What the world tells the core.

use crate::area::Area;
use crate::effect::{ReadId, WriteId};
use crate::record::Base;
use crate::set::Seat;
use crate::time::Instant;
use crate::wire::Datagram;
use alloc::string::String;
use alloc::vec::Vec;
use pollux_api::id::{ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_api::pool::ReservationKey;

/// Something happened. `Core::handle` takes it with the present instant; instants inside are earlier ones of the
/// same clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::large_enum_variant,
    reason = "an area that was read is what most events bring"
)]
pub enum Event {
    /// Time has passed: call at `Core::next_deadline` at the latest. Any other event serves as well.
    Tick,
    /// An authenticated datagram of the partner, of this array. The driver drops what does not authenticate.
    Received(Datagram),
    /// A write has ended. `Err`: it did not take effect *and will not any more*; a write whose end is unknown has
    /// not ended, and the driver says nothing until the disk confirms that it was aborted.
    WriteDone {
        /// Which one.
        id: WriteId,
        /// When it was handed to the disk. The lease counts from here.
        submitted: Instant,
        /// How it ended.
        result: Result<(), ()>,
    },
    /// A read has ended, well or not.
    ReadDone {
        /// Which one.
        id: ReadId,
        /// When it was handed to the disk: what it shows was true at that instant or later.
        issued: Instant,
        /// What stands there.
        area: Area,
    },
    /// The pools of the configuration, all of them; again whenever they change. A pool that is missing from the
    /// list is neither taken nor given.
    Pools(Vec<PoolInfo>),
    /// What the pool manager has imported on this controller, all of it: an observation, at start and after each
    /// restart of the pool manager. Nothing is taken, and no own pool re-taken, before the first one.
    Imports(Vec<Import>),
    /// A step that an effect asked for has ended.
    PoolDone {
        /// The pool.
        pool: PoolId,
        /// The generation that the effect named. Answers to an older one are ignored.
        generation: Generation,
        /// Which step.
        step: PoolStep,
        /// `Err` says why in words.
        result: Result<(), String>,
    },
    /// Answer to `Effect::FencePool`: what was *read back*.
    FenceDone {
        /// The pool.
        pool: PoolId,
        /// The key that was to stand alone.
        key: ReservationKey,
        /// `Ok`: reservation held and the key set is this key alone, on every member disk but those that the
        /// pool's own metadata on fenced disks calls failed. `Err`: why not, in words.
        result: Result<(), String>,
    },
    /// A key on a disk of a pool that is imported here is readable and is not ours. The pool manager has stopped
    /// the pool. An unreadable key is no event (K10).
    ExclusionLost {
        /// The pool.
        pool: PoolId,
        /// The key that stands there, where it is one of this array's; none: no reservation, or a stranger's.
        holder: Option<ReservationKey>,
    },
    /// What the chassis or the BMC says of the partner's power, to a question asked at `asked` (or unasked: the
    /// instant when it was true).
    Power {
        /// What it says.
        state: Power,
        /// When the question was sent.
        asked: Instant,
    },
    /// Where the configuration stands, at start and whenever that changes.
    Config(ConfigStatus),
    /// Answer to `Effect::ConfigFreeze`: nothing is appended, acknowledged or counted from here on, and nothing is
    /// on its way to the disk. Together with where the log stands.
    ConfigFrozen {
        /// The epoch of the freeze.
        epoch: Epoch,
        /// Where the log stands, for good until the freeze ends.
        status: ConfigStatus,
    },
    /// Answer to `Effect::ConfigProbe`.
    ConfigProbed {
        /// What was asked.
        base: Base,
        /// The durable log contains this point.
        contained: bool,
    },
    /// Answer to `Effect::ConfigCatchUp`: the whole durable log now, and whether the partner's frozen log is it.
    ConfigCaughtUp {
        /// The whole durable log.
        log: Base,
        /// Equal to the partner's, which was frozen.
        equal: bool,
    },
    /// Answer to `Effect::FormatDisk`.
    DiskFormatted {
        /// The seat that the effect named. Answers for another one are ignored.
        seat: Seat,
        /// `Ok`: all of it is durable. `Err`: why not, in words; then nothing of it is on its way any more.
        result: Result<(), String>,
    },
    /// The watchdog: armed with the timeout of `Timing`, or not (there is none, or it was disarmed).
    Watchdog {
        /// It runs, and only petting keeps the controller up.
        armed: bool,
    },
    /// Carrier of the legs of the interconnect. An alarm, not an event of the protocol.
    Legs(Vec<bool>),
    /// An operator asks. Answered by `Effect::Answer` in the same call.
    Request {
        /// For the answer.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
}

/// Correlates a request with its answer; the driver's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What an operator can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Move one pool to the partner (or, asked where it is not, from the partner to here).
    Switchover(PoolId),
    /// Move one pool, or all, to their homes.
    Giveback(Option<PoolId>),
    /// Take what the partner owns although it seems to live: arbitrate, fence with confirmation, take. Nothing of
    /// the fence is skipped.
    Takeover,
    /// Give a planned move up, before its point of no return.
    Abort(PoolId),
    /// Go on alone although the highest record is `epoch` = {partner} open: changes that only the partner holds are
    /// lost. The number is typed by a person who has read what is lost.
    Override(Epoch),
    /// Serve alone with an open configuration: the partner cannot go on without this controller's log any more.
    OpenAlone,
    /// Give everything to the partner, or export it where the partner cannot take it, then stop for good and say good-bye.
    Shutdown {
        /// Go although pools would be served by nobody.
        unserved: bool,
    },
    /// Put a disk of the shelf in the place of a quorum disk: format it, decide the joint set, let the old one go.
    ReplaceQuorumDisk {
        /// The quorum disk that leaves.
        from: DiskIndex,
        /// The disk that joins. That no pool has it is the caller's to know.
        to: DiskIndex,
    },
}

/// A pool of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolInfo {
    /// The pool.
    pub pool: PoolId,
    /// Where it belongs.
    pub home: ControllerId,
}

/// A pool that is imported on this controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Import {
    /// The pool.
    pub pool: PoolId,
    /// The key under which it was imported.
    pub key: ReservationKey,
}

/// Steps of a pool's life that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolStep {
    /// Imported (`Effect::TakePool`).
    Take,
    /// Published, optimized, addresses up (`Effect::PublishPool`).
    Publish,
    /// Quiesced, exported, reservations released (`Effect::ReleasePool`).
    Release,
    /// Published again after a release that failed (`Effect::ResumePool`).
    Resume,
    /// Not used any more; its disks were not touched (`Effect::StopPool`).
    Stop,
    /// Every pool stopped and every reply withheld for ever (`Effect::StopAll`).
    StopAll,
}

/// Power of the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Power {
    /// Its processes are gone and its ports are closed. Proof for the incarnation that was running.
    Off,
    /// Proves nothing.
    On,
    /// The power control does not answer, or does not know. Proves nothing.
    Unknown,
}

/// Where the configuration stands on this controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfigStatus {
    /// The whole durable log.
    pub log: Base,
    /// The part of it that this controller's session acknowledged.
    pub acknowledged: Base,
    /// This controller is the sequencer and may acknowledge now.
    pub acknowledging: bool,
    /// Both controllers held the same log when they last spoke.
    pub in_sync: bool,
    /// Two histories that cannot both be true: nothing may be based on this log until a person has looked.
    pub diverged: bool,
    /// The database was lost, and the log does not hold again what this controller was counted for: nothing may be based
    /// on it.
    pub lost: bool,
    /// It stands still for this epoch.
    pub frozen: Option<Epoch>,
    /// The number of the record that it goes by.
    pub epoch: Option<Epoch>,
}

/// What is remembered of the partner for messages and evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Victim {
    /// Which controller.
    pub controller: ControllerId,
    /// The incarnation that is excluded.
    pub incarnation: Incarnation,
}
