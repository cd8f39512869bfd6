//! The world: two controllers in one enclosure, everything between them, and their hosts, on one virtual clock.
//!
//! Think of a stage with trapdoors. The actors are the shipped cores; the stage is a queue of what happens next. A fault
//! is a trapdoor that opens at an instant which the seed decides. Nothing happens but by an event of the queue, events of
//! one instant happen in the order in which they were scheduled, and so one seed is one play.
//!
//! Invariants
//! * Effects of a core are carried out as the driver's contract says: in order, and each answered once, or never if its
//!   daemon has died.
//! * What stands on a disk changes at exactly one instant per command; whoever is paused sees nothing until it goes on.
//! * Whatever an invariant needs to know is written down as a [`Fact`] at the instant when it became true.
//!
//! It must never ask a core for the truth, look at a clock of this machine, or iterate over anything unordered.

mod channels;
mod configuration;
mod driver;
mod hosts;
mod pools;
mod ports;
mod power;

pub(crate) use ports::own_access;

use crate::invariant::Invariants;
use crate::keeper::{Chain, Keeper, Message};
use crate::linear::History;
use crate::quorum::QuorumDisk;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::shelf::{DataDisk, Status, rank};
use crate::stats::Stats;
use crate::truth::{Answer, Fact, Hand};
use pollux_api::alua;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_api::pool::ReservationKey;
use pollux_api::target::Flip;
use pollux_config_core::reads::Proof;
use pollux_heartbeat_core::area::{Area, Content, Role};
use pollux_heartbeat_core::effect::{BlockId, Evidence, ReadId, StopReason, WriteId};
use pollux_heartbeat_core::event::{ConfigStatus, Import, PoolInfo, PoolStep, Power, Request, RequestId};
use pollux_heartbeat_core::layout::{self, Block, Place};
use pollux_heartbeat_core::liaison::{Ask, Call};
use pollux_heartbeat_core::record::Record;
use pollux_heartbeat_core::set::FIRST;
use pollux_heartbeat_core::wire::Datagram;
use pollux_heartbeat_core::{Core, Effect, Event, Instant, Params, QuorumSet, Seat, Timing};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds.
pub(crate) const SEC: u64 = 1_000 * MS;
/// Blocks of a pool that hosts use.
pub(crate) const BLOCKS: usize = 3;
/// The array.
const ARRAY: ArrayId = ArrayId::from_bytes(*b"one seed, 1 play");
/// A command that waits in a disk that is stuck is looked at so often: a heal ends the wait.
const AGAIN: u64 = 100 * MS;
/// After this a host tries its other path.
const HOST_PATIENCE: u64 = 2 * SEC;

/// Both controllers, by index.
pub(crate) const A: usize = 0;
/// Both controllers, by index.
pub(crate) const B: usize = 1;

/// Identity of a pool by its number.
pub(crate) fn pool_id(pool: usize) -> PoolId {
    PoolId::from_bytes([pool as u8 + 1; 16])
}

/// Index of a quorum disk, or a spare, by its number.
pub(crate) fn quorum_index(number: usize) -> DiskIndex {
    DiskIndex::new(number as u16 + 20)
}

/// The quorum disks with which the array is made.
pub(crate) fn first_set(disks: usize) -> QuorumSet {
    let disks: Vec<DiskIndex> = (0..disks).map(quorum_index).collect();
    QuorumSet::first(&disks).unwrap_or_default()
}

fn pool_number(id: PoolId) -> usize {
    usize::from(id.as_bytes()[0]) - 1
}

fn id(c: usize) -> ControllerId {
    ControllerId::ALL[c]
}

/// What happens next. `life` is one life of the heartbeat daemon, `boot` one of the controller: what belongs to an
/// earlier one does not happen any more.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most that happens is the large one: telling a core something"
)]
pub(crate) enum Happening {
    /// The core's deadline.
    Tick { c: usize, life: u32 },
    /// A core is told something.
    Tell { c: usize, life: u32, event: Event },
    /// A datagram arrives.
    Datagram { c: usize, datagram: Box<Datagram> },
    /// A write to a quorum disk takes effect, or fails.
    QuorumWrite { c: usize, boot: u32, id: WriteId },
    /// Its end is known at the controller.
    QuorumWritten {
        c: usize,
        boot: u32,
        id: WriteId,
        result: Result<(), ()>,
    },
    /// A quorum disk is read.
    QuorumRead {
        c: usize,
        life: u32,
        boot: u32,
        id: ReadId,
        disk: usize,
        seat: Seat,
        whose: ControllerId,
        issued: u64,
    },
    /// A disk is formatted as a quorum disk, or not.
    Format {
        c: usize,
        life: u32,
        boot: u32,
        session: u64,
        seat: Seat,
        parts: Box<[Area; 2]>,
    },
    /// The heartbeat daemon starts.
    Daemon { c: usize, boot: u32 },
    /// A restarted daemon hears what is imported.
    Observe { c: usize, life: u32 },
    /// The controller has started.
    Boot { c: usize, boot: u32 },
    /// A stopped controller resets itself.
    Reset { c: usize, boot: u32, off: bool },
    /// The watchdog looks at its deadline.
    Watchdog { c: usize, boot: u32 },
    /// The watchdog runs from now on.
    Arm { c: usize, life: u32, timeout: u64 },
    /// The power control of the partner of `c` acts (`cut`) and reports.
    PowerControl {
        c: usize,
        life: u32,
        cut: bool,
        asked: u64,
    },
    /// A step of the pool manager.
    Pool {
        c: usize,
        boot: u32,
        pool: usize,
        job: u64,
        step: usize,
    },
    /// Keys of imported pools are looked at.
    KeyCheck { c: usize, boot: u32 },
    /// A write command reaches a data disk.
    LegWrite {
        c: usize,
        boot: u32,
        op: u64,
        leg: usize,
        cycle: u32,
    },
    /// Its status is known at the controller.
    LegDone {
        c: usize,
        boot: u32,
        op: u64,
        leg: usize,
        status: Status,
    },
    /// A read command reaches a data disk.
    LegRead { c: usize, boot: u32, op: u64 },
    /// A host's stream takes up its next command.
    Host { stream: usize },
    /// A host's command reaches a controller.
    Command {
        c: usize,
        boot: u32,
        stream: usize,
        op: u64,
    },
    /// A host looks whether it has waited for long enough on this path.
    Patience { stream: usize },
    /// A keeper's message arrives.
    Keeper { c: usize, boot: u32, message: Message },
    /// A keeper's period has passed. `life` is one of its daemon.
    KeeperTick { c: usize, life: u32 },
    /// A keeper's daemon starts.
    KeeperStarts { c: usize, boot: u32 },
    /// The oldest transaction of a keeper is durable.
    Stored { c: usize, life: u32 },
    /// A keeper has waited for long enough for the other's answer.
    PartnerSilent { c: usize, life: u32, number: u64 },
    /// Heartbeat looks at its keeper.
    Look { c: usize, life: u32 },
    /// A keeper tells heartbeat that something has changed.
    Moved { c: usize, boot: u32, life: u32 },
    /// A call of heartbeat reaches its keeper.
    KeeperCall {
        c: usize,
        boot: u32,
        number: u64,
        call: Call,
    },
    /// Its answer, or its end, reaches heartbeat.
    KeeperSays {
        c: usize,
        life: u32,
        number: u64,
        answer: Option<ConfigStatus>,
    },
    /// The target takes a flip. `life` is one of the port groups' daemon.
    Flip { c: usize, life: u32, flip: Flip },
    /// The port groups' daemon looks at its target.
    PortLook { c: usize, life: u32 },
    /// Heartbeat hears that its keeper asks for the lease. `life` is one of the keeper's daemon.
    LeaseAsked { c: usize, life: u32, round: u64 },
    /// It has answered, or has had its time.
    LeaseSaid {
        c: usize,
        life: u32,
        round: u64,
        answer: Result<Proof, String>,
    },
    /// A person changes the configuration.
    Change,
    /// A person reads it.
    Read,
    /// A paused controller goes on.
    Resume { c: usize, pause: u32 },
    /// An operator wants every pool at its home, while the array is being made whole.
    Home { c: usize },
    /// The next random fault.
    Fault,
    /// A fault ends.
    Mend(crate::swarm::Mend),
    /// A look at both cores for the coverage.
    Sample,
}

impl Happening {
    /// The controller whose processes have to run for this to be noticed.
    fn needs(&self) -> Option<usize> {
        use Happening as H;
        match *self {
            H::Tick { c, .. }
            | H::Tell { c, .. }
            | H::Datagram { c, .. }
            | H::QuorumWritten { c, .. }
            | H::Daemon { c, .. }
            | H::Observe { c, .. }
            | H::Reset { c, .. }
            | H::Arm { c, .. }
            | H::Pool { c, .. }
            | H::KeyCheck { c, .. }
            | H::LegDone { c, .. }
            | H::Command { c, .. }
            | H::Keeper { c, .. }
            | H::KeeperTick { c, .. }
            | H::KeeperStarts { c, .. }
            | H::Stored { c, .. }
            | H::PartnerSilent { c, .. }
            | H::Look { c, .. }
            | H::Moved { c, .. }
            | H::KeeperCall { c, .. }
            | H::KeeperSays { c, .. }
            | H::LeaseAsked { c, .. }
            | H::LeaseSaid { c, .. }
            | H::Flip { c, .. }
            | H::PortLook { c, .. } => Some(c),
            H::QuorumWrite { .. }
            | H::QuorumRead { .. }
            | H::Format { .. }
            | H::Boot { .. }
            | H::Watchdog { .. }
            | H::PowerControl { .. }
            | H::LegWrite { .. }
            | H::LegRead { .. }
            | H::Host { .. }
            | H::Patience { .. }
            | H::Change
            | H::Read
            | H::Resume { .. }
            | H::Home { .. }
            | H::Fault
            | H::Mend(_)
            | H::Sample => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    /// Boxed: the queue moves what it sorts, and a block that was read is large.
    what: Box<Happening>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A controller's clock: where it began, and how wrong it runs (parts per million).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    pub(crate) offset: u64,
    pub(crate) ppm: i64,
}

impl Clock {
    fn read(self, now: u64) -> Instant {
        let drift = i128::from(now) * i128::from(self.ppm) / 1_000_000;
        Instant::from_nanos((i128::from(now) + drift) as u64 + self.offset)
    }

    /// The first instant of the world at which this clock shows at least `local`.
    fn when(self, local: Instant) -> u64 {
        let target = i128::from(local.as_nanos()) - i128::from(self.offset);
        (target * 1_000_000 / i128::from(1_000_000 + self.ppm) + 1).max(0) as u64
    }

    /// How long a span of this clock is in the world.
    fn span(self, local: u64) -> u64 {
        (i128::from(local) * 1_000_000 / i128::from(1_000_000 + self.ppm)) as u64
    }
}

#[derive(Clone, Debug)]
struct QuorumWrite {
    disk: usize,
    seat: Seat,
    block: BlockId,
    content: Content,
    bytes: Box<Block>,
    submitted: Instant,
    life: u32,
    applied: bool,
}

/// A pool as one controller's pool manager holds it.
#[derive(Clone, Debug)]
pub(crate) struct Imported {
    pub(crate) key: ReservationKey,
    pub(crate) published: bool,
    pub(crate) quiesced: bool,
    in_sync: BTreeSet<usize>,
    label: u64,
    /// What a server would answer from its cache.
    cache: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Fence(ReservationKey),
    Take(ReservationKey, Evidence),
    Publish(ReservationKey),
    Release(ReservationKey),
    Resume(ReservationKey),
    /// Not the pool manager's, and in its turn all the same: heartbeat has one queue for each pool.
    Route {
        claim: (Epoch, Generation),
        role: alua::Role,
        reachable: bool,
    },
}

#[derive(Clone, Debug)]
struct Job {
    id: u64,
    life: u32,
    task: Task,
    fails: bool,
    order: Vec<usize>,
    deadline: u64,
}

#[derive(Clone, Debug, Default)]
struct Manager {
    imported: Option<Imported>,
    /// The key under which every leg that counts was fenced, as it was answered last.
    confirmed: Option<ReservationKey>,
    job: Option<Job>,
    queue: VecDeque<Job>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Write(u64),
    Read { floor: u64 },
}

/// A host's command inside a controller.
#[derive(Clone, Debug)]
struct Operation {
    stream: usize,
    host: u64,
    pool: usize,
    block: usize,
    deed: Deed,
    key: ReservationKey,
    waiting: BTreeSet<usize>,
    value: u64,
    retries: u32,
}

/// A stream of a host: one command at a time to one block.
#[derive(Clone, Debug)]
struct Stream {
    pool: usize,
    block: usize,
    op: u64,
    deed: Option<Deed>,
    path: usize,
    /// When the answer is overdue, and how many looks at that are on their way.
    deadline: u64,
    watches: u32,
    began: u64,
    /// The last command that was answered began then.
    pub(crate) answered: u64,
}

/// One controller.
pub(crate) struct Node {
    pub(crate) powered: bool,
    /// The system runs (power is on, and it has started).
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// The heartbeat daemon alone stands still (SIGSTOP).
    pub(crate) halted: bool,
    /// How often it was: a resumption belongs to one pause.
    pub(crate) pauses: u32,
    /// Its heartbeat daemon never comes back (until the heal).
    pub(crate) maimed: bool,
    pub(crate) boot: u32,
    pub(crate) life: u32,
    pub(crate) incarnation: u64,
    pub(crate) core: Option<Core>,
    pub(crate) clock: Clock,
    pub(crate) stopped: Option<StopReason>,
    pub(crate) watchdog: Option<(u64, u64)>,
    pub(crate) keeper: Keeper,
    deferred: Vec<Happening>,
    stalled: Vec<(u32, Vec<Effect>)>,
    tick: u64,
    lease_until: Instant,
    writes: BTreeMap<WriteId, QuorumWrite>,
    managers: Vec<Manager>,
    operations: BTreeMap<u64, Operation>,
    busy: BTreeMap<(usize, usize), VecDeque<u64>>,
    held: Vec<u64>,
    nonces: VecDeque<(u64, u64)>,
    /// Readings of the partner's blocks that are not answered: the disk, and when they were issued.
    readings: BTreeMap<ReadId, (Seat, u64)>,
    /// What the power control saw: when it was asked, by the own clock; when that was; and which incarnation was off.
    reports: VecDeque<(Instant, u64, u64)>,
    slots: BTreeMap<Seat, (u64, u64)>,
    /// Sessions with quorum disks: a new one ends what the one before has begun.
    sessions: BTreeMap<DiskIndex, u64>,
    /// The quorum disks that its daemon uses.
    open: QuorumSet,
    /// What its state folder says of the quorum disks.
    pub(crate) hint: QuorumSet,
    desk: configuration::Desk,
    /// The last datagram that came, for the forger.
    heard: Option<Box<Datagram>>,
    /// The last datagram that its daemon sent: what it says when it panics is the same, and that it ends.
    spoken: Option<Box<Datagram>>,
    pub(crate) role: Role,
    pub(crate) port: ports::Port,
}

/// The wire in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    pub(crate) loss: u64,
    pub(crate) double: u64,
    pub(crate) delay: u64,
    /// Datagrams that are sent again much later, per million.
    pub(crate) replay: u64,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) at: u64,
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// Deliberate breakages of the world, to show that the invariants can fail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breakage {
    /// Replies leave whatever the lease says.
    pub(crate) lease_ignored: bool,
    /// A port group goes on calling itself what it was while its pool is taken away.
    pub(crate) signs_left_up: bool,
    /// The pool manager registers again by itself when its key is gone.
    pub(crate) silent_reregistration: bool,
    /// Fencing is reported as confirmed when one member disk is fenced.
    pub(crate) one_leg_is_enough: bool,
    /// A controller that is told to stop goes on.
    pub(crate) stop_ignored: bool,
    /// Whatever b sends is echoed in the name of a: somebody forges the wire.
    pub(crate) forged_echo: bool,
    /// A write is acknowledged before it is on the disks.
    pub(crate) early_acknowledgement: bool,
    /// Fencing is confirmed without looking.
    pub(crate) fence_confirmed_blindly: bool,
    /// The quorum area lies on the disks of the pools, and their reservations reject whoever does not own the pool (K1).
    pub(crate) quorum_on_pools: bool,
    /// A change is acknowledged when only the sequencer holds it.
    pub(crate) lone_acknowledgement: bool,
}

/// Is shown what happens next. False: it has seen enough.
pub(crate) type Onlooker = Box<dyn FnMut(&mut World, &Happening) -> bool>;

/// The stage.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) setup: Setup,
    pub(crate) timing: Timing,
    pub(crate) nodes: [Node; 2],
    pub(crate) quorum: Vec<QuorumDisk>,
    pub(crate) disks: Vec<DataDisk>,
    /// From a to b, from b to a.
    pub(crate) links: [Link; 2],
    /// The power control of each controller answers its partner.
    pub(crate) bmc: [bool; 2],
    pub(crate) breakage: Breakage,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
    /// Lines of the play, if it is recorded.
    pub(crate) script: Option<VecDeque<String>>,
    pub(crate) script_limit: usize,
    pub(crate) healed: bool,
    /// The faults so far, and which of them are left out.
    pub(crate) storm: crate::shrink::Storm,
    /// Looks on before anything happens, and may end the play.
    pub(crate) onlooker: Option<Onlooker>,
    /// And it has become whole.
    pub(crate) settled: bool,
    /// The next decision of this controller is followed by a stall of so long before its deeds.
    pub(crate) stall_next: Option<(usize, u64)>,
    /// Writes of this controller to these blocks of the quorum disks hang: a disk may hold up any one command.
    pub(crate) wedged: [&'static [BlockId]; 2],
    /// Readings of the quorum disks by this controller hang.
    pub(crate) deaf: [bool; 2],
    /// Answers to this controller's readings come up to so much later than what they show was so.
    pub(crate) late_answers: [u64; 2],
    /// Confirmations of this controller's writes come so much later than these took effect.
    pub(crate) late_confirmations: [u64; 2],
    /// Processors and disks have more to do than they can.
    pub(crate) saturated: bool,
    /// What once stood on the first quorum disk.
    pub(crate) copy: Option<Vec<u8>>,
    /// The power control of each controller answers its partner up to so much later than it looked.
    pub(crate) bmc_slow: [u64; 2],
    /// Streams between the controllers carry nothing, datagrams do: a filtered port, or an MTU hole.
    pub(crate) filtered: bool,
    /// Messages between the keepers are lost, doubled, and overtake each other, per million each.
    pub(crate) misrouted: u64,
    /// Initiators of the host that each change of the configuration makes.
    pub(crate) initiators: usize,
    /// The keeper of this controller is one version older than the other's.
    pub(crate) older: Option<usize>,
    /// So many of the last pools are not in the configuration yet.
    pub(crate) untold: usize,
    /// Every step of this controller's pool manager fails.
    pub(crate) lame: [bool; 2],
    /// This controller's pool manager does not look at keys and conflicts: a kernel target that outlives it.
    pub(crate) blind: [bool; 2],
    /// They look at the world in which they stand.
    pub(crate) invariants: RefCell<Invariants>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    jobs: u64,
    ops: u64,
    values: u64,
    entries: u64,
    /// Changes of which nobody knows whether they were made.
    doubts: Vec<u64>,
    /// What people asked of the configuration, and were told.
    pub(crate) history: History,
    /// Calls of keepers.
    calls: u64,
    /// What is done now was decided before a pause.
    late: bool,
    streams: Vec<Stream>,
    floors: Vec<[u64; BLOCKS]>,
    facts: Vec<Fact>,
    /// Answers to operators, last first.
    pub(crate) answers: Vec<(usize, bool)>,
}

impl World {
    /// A formatted array, both controllers starting.
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let mut rng = Rng::new(seed);
        let timing = Timing::derive(setup.profile);
        let set = first_set(setup.quorum_disks);
        let quorum = (0..setup.quorum_disks + setup.spares)
            .map(|at| {
                let disk = quorum_index(at);
                let seat = Seat {
                    disk,
                    since: FIRST,
                    mark: 0,
                };
                let place = Place { array: ARRAY, seat };
                QuorumDisk::new(place, set.seat(disk).map(|_| &set))
            })
            .collect::<Vec<_>>();
        let mut disks = Vec::new();
        for (pool, spec) in setup.pools.iter().enumerate() {
            for leg in 0..spec.legs {
                let mut disk = DataDisk::new((pool, leg), BLOCKS);
                disk.reservations = setup.reservations;
                disk.aptpl = setup.aptpl;
                disks.push(disk);
            }
        }
        let chain = Chain::default();
        let nodes = [A, B].map(|c| Node {
            powered: true,
            up: false,
            paused: false,
            halted: false,
            pauses: 0,
            maimed: false,
            boot: 0,
            life: 0,
            incarnation: 0,
            core: None,
            clock: Clock {
                offset: 0,
                ppm: setup.clock_ppm[c],
            },
            stopped: None,
            watchdog: None,
            keeper: Keeper::new(id(c), setup.keep, chain.clone()),
            deferred: Vec::new(),
            stalled: Vec::new(),
            tick: u64::MAX,
            lease_until: Instant::ZERO,
            writes: BTreeMap::new(),
            managers: vec![Manager::default(); setup.pools.len()],
            operations: BTreeMap::new(),
            busy: BTreeMap::new(),
            held: Vec::new(),
            nonces: VecDeque::new(),
            readings: BTreeMap::new(),
            reports: VecDeque::new(),
            slots: BTreeMap::new(),
            sessions: BTreeMap::new(),
            open: QuorumSet::default(),
            hint: set,
            desk: configuration::Desk::default(),
            heard: None,
            spoken: None,
            role: Role::Starting,
            port: ports::Port::new(id(c)),
        });
        let streams = (0..setup.pools.len() * BLOCKS)
            .map(|at| Stream {
                pool: at / BLOCKS,
                block: at % BLOCKS,
                op: 0,
                deed: None,
                path: rng.index(2),
                deadline: 0,
                watches: 0,
                began: 0,
                answered: 0,
            })
            .collect::<Vec<_>>();
        let invariants = RefCell::new(Invariants::new(&setup, &timing));
        let link = setup.link;
        let mut world = Self {
            now: 0,
            rng,
            timing,
            nodes,
            quorum,
            disks,
            links: [link; 2],
            bmc: [true; 2],
            breakage: Breakage::default(),
            stats: Stats::default(),
            violation: None,
            script: None,
            script_limit: usize::MAX,
            healed: false,
            storm: crate::shrink::Storm::default(),
            onlooker: None,
            settled: false,
            stall_next: None,
            wedged: [&[]; 2],
            deaf: [false; 2],
            late_answers: [0; 2],
            late_confirmations: [0; 2],
            saturated: false,
            copy: None,
            bmc_slow: [0; 2],
            filtered: false,
            misrouted: 0,
            initiators: 1,
            older: None,
            untold: 0,
            lame: [false; 2],
            blind: [false; 2],
            invariants,
            queue: BinaryHeap::new(),
            order: 0,
            jobs: 0,
            ops: 0,
            values: 0,
            entries: 0,
            doubts: Vec::new(),
            history: History::default(),
            calls: 0,
            late: false,
            floors: vec![[0; BLOCKS]; setup.pools.len()],
            streams,
            facts: Vec::new(),
            answers: Vec::new(),
            setup,
        };
        for disk in &mut world.quorum {
            disk.flaky = world.setup.flaky;
        }
        for c in [A, B] {
            world.power_on(c);
        }
        for stream in 0..world.streams.len() {
            let at = world.rng.range(SEC, 2 * SEC);
            world.at(at, Happening::Host { stream });
        }
        world.after(SEC, Happening::Change);
        world.after(SEC, Happening::Read);
        world.after(SEC, Happening::Sample);
        world
    }

    // Time.

    /// Something happens at an instant.
    pub(crate) fn at(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled {
            at: at.max(self.now),
            order: self.order,
            what: Box::new(what),
        }));
    }

    /// Something happens after a while.
    pub(crate) fn after(&mut self, span: u64, what: Happening) {
        self.at(self.now + span, what);
    }

    /// The next thing happens, and every invariant is asked. False: the play is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.queue.pop() else {
            return false;
        };
        self.now = next.at;
        if let Some(mut onlooker) = self.onlooker.take() {
            let go_on = onlooker(self, &next.what);
            self.onlooker = Some(onlooker);
            if !go_on {
                self.queue.clear();
                return false;
            }
        }
        self.stats.events += 1;
        match next.what.needs() {
            Some(c) if self.nodes[c].paused => self.nodes[c].deferred.push(*next.what),
            _ => self.happen(*next.what),
        }
        self.judge();
        self.violation.is_none()
    }

    /// Goes on until an instant.
    pub(crate) fn run_until(&mut self, end: u64) -> bool {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            if !self.step() {
                return false;
            }
        }
        self.now = self.now.max(end);
        true
    }

    /// Goes on for a while.
    pub(crate) fn run_for(&mut self, span: u64) -> bool {
        self.run_until(self.now + span)
    }

    /// Goes on until something is so, for at most this long. True: it is so.
    pub(crate) fn run_till(&mut self, bound: u64, mut so: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + bound;
        loop {
            if so(self) {
                return true;
            }
            if self.queue.peek().is_none_or(|Reverse(next)| next.at > end) || !self.step() {
                return false;
            }
        }
    }

    fn judge(&mut self) {
        if self.facts.is_empty() || self.violation.is_some() {
            self.facts.clear();
            return;
        }
        let facts = std::mem::take(&mut self.facts);
        let verdict = {
            let mut judges = self.invariants.borrow_mut();
            facts.iter().try_for_each(|fact| judges.observe(self, fact))
        };
        for fact in &facts {
            self.stats.observe(fact);
        }
        if let Err((invariant, what)) = verdict {
            self.say(|| format!("VIOLATED {invariant}: {what}"));
            self.violation = Some(Violation {
                at: self.now,
                invariant,
                what,
            });
        }
        self.facts = facts;
        self.facts.clear();
    }

    fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// A line of the play.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        let limit = self.script_limit;
        if let Some(script) = &mut self.script {
            if script.len() >= limit {
                script.pop_front();
            }
            script.push_back(format!(
                "{:>5}.{:06} {}",
                now / SEC,
                now / 1000 % 1_000_000,
                line()
            ));
        }
    }

    /// What a controller's clock shows.
    pub(crate) fn local(&self, c: usize) -> Instant {
        self.nodes[c].clock.read(self.now)
    }

    fn span(&mut self, low_us: u64, high_us: u64) -> u64 {
        self.rng.range(low_us * 1000, high_us * 1000)
    }

    // One thing.

    fn boot_is(&self, c: usize, boot: u32) -> bool {
        self.nodes[c].boot == boot && self.nodes[c].powered
    }

    fn happen(&mut self, what: Happening) {
        use Happening as H;
        match what {
            H::Tick { c, life } => {
                if self.nodes[c].life == life
                    && self.nodes[c].core.is_some()
                    && self.nodes[c].tick <= self.now
                {
                    self.tell(c, Event::Tick);
                }
            }
            H::Tell { c, life, event } => {
                if self.nodes[c].life == life {
                    self.tell(c, event);
                }
            }
            H::Datagram { c, datagram } => {
                if self.breakage.forged_echo {
                    self.nodes[c].heard = Some(datagram.clone());
                }
                if self.nodes[c].core.is_some() {
                    self.tell(c, Event::Received(*datagram));
                }
            }
            H::QuorumWrite { c, boot, id } if self.boot_is(c, boot) => self.quorum_write(c, boot, id),
            H::QuorumWritten { c, boot, id, result } if self.boot_is(c, boot) => {
                self.quorum_written(c, id, result)
            }
            H::QuorumRead {
                c,
                life,
                boot,
                id,
                disk,
                seat,
                whose,
                issued,
            } if self.boot_is(c, boot) => {
                self.quorum_read(c, (life, boot), id, disk, (seat, whose), issued);
            }
            H::Format {
                c,
                life,
                boot,
                session,
                seat,
                parts,
            } if self.boot_is(c, boot) => self.format(c, (life, boot, session), seat, parts),
            H::Daemon { c, boot } if self.boot_is(c, boot) => self.daemon(c, boot),
            H::Observe { c, life } => self.observe(c, life),
            H::Boot { c, boot } if self.boot_is(c, boot) => self.boot(c),
            H::Reset { c, boot, off } if self.boot_is(c, boot) => {
                if off {
                    self.power_cut(c);
                    // Whoever has asked for it pushes the button again, some time after it went dark.
                    if self.setup.repower {
                        let (boot, span) = (self.nodes[c].boot, self.rng.range(SEC, 20 * SEC));
                        let mend = crate::swarm::Mend::PowerOn { c, boot };
                        self.after(span, H::Mend(mend));
                    }
                } else {
                    self.reset(c);
                }
            }
            H::Watchdog { c, boot } if self.boot_is(c, boot) => self.look_at_watchdog(c),
            H::Arm { c, life, timeout } => {
                if self.nodes[c].life == life {
                    let timeout = self.nodes[c].clock.span(timeout);
                    let fresh = self.nodes[c].watchdog.is_none();
                    self.nodes[c].watchdog = Some((timeout, self.now + timeout));
                    if fresh {
                        self.look_at_watchdog(c);
                    }
                    self.tell(c, Event::Watchdog { armed: true });
                }
            }
            H::PowerControl { c, life, cut, asked } => self.power_control(c, life, cut, asked),
            H::Pool {
                c,
                boot,
                pool,
                job,
                step,
            } if self.boot_is(c, boot) => self.pool(c, pool, job, step),
            H::KeyCheck { c, boot } if self.boot_is(c, boot) => {
                self.key_check(c);
                let span = self.timing.key_check.as_nanos() as u64;
                self.after(span, H::KeyCheck { c, boot });
            }
            H::LegWrite {
                c,
                boot,
                op,
                leg,
                cycle,
            } if self.boot_is(c, boot) => self.leg_write(c, boot, op, leg, cycle),
            H::LegDone {
                c,
                boot,
                op,
                leg,
                status,
            } if self.boot_is(c, boot) => self.leg_done(c, op, leg, status),
            H::LegRead { c, boot, op } if self.boot_is(c, boot) => self.leg_read(c, op),
            H::Host { stream } => self.host(stream),
            H::Command { c, boot, stream, op } => self.command(c, boot, stream, op),
            H::Patience { stream } => self.patience(stream),
            H::Keeper { c, boot, message } if self.boot_is(c, boot) => self.keeper(c, message),
            H::KeeperTick { c, life } if self.nodes[c].keeper.life == life => self.keeper_tick(c, life),
            H::KeeperStarts { c, boot } if self.boot_is(c, boot) => self.start_keeper(c),
            H::Stored { c, life } if self.nodes[c].keeper.life == life => self.stored(c),
            H::PartnerSilent { c, life, number } if self.nodes[c].keeper.life == life => {
                self.partner_says(c, number, None);
            }
            H::Look { c, life } if self.nodes[c].life == life => self.look(c, life),
            H::Moved { c, boot, life } if self.boot_is(c, boot) && self.nodes[c].life == life => {
                if self.nodes[c].halted {
                    self.nodes[c].deferred.push(what);
                } else {
                    self.ask_keeper(c, Ask::Look);
                }
            }
            H::KeeperCall {
                c,
                boot,
                number,
                call,
            } if self.boot_is(c, boot) => self.keeper_call(c, number, call),
            H::KeeperSays {
                c,
                life,
                number,
                answer,
            } if self.nodes[c].life == life => self.keeper_says(c, number, answer),
            H::Flip { c, life, flip } if self.nodes[c].port.life == life => self.flip(c, flip),
            H::PortLook { c, life } if self.nodes[c].port.life == life => self.port_look(c, life),
            H::LeaseAsked { c, life, round } if self.nodes[c].keeper.life == life => {
                self.lease_asked(c, life, round);
            }
            H::LeaseSaid {
                c,
                life,
                round,
                answer,
            } if self.nodes[c].keeper.life == life => self.lease_said(c, round, answer),
            H::Change => self.change(),
            H::Read => self.reader(),
            H::Resume { c, pause } if self.nodes[c].pauses == pause => self.resume(c),
            H::Home { c } => {
                if !self.settled {
                    self.ask(c, Request::Giveback(None));
                }
            }
            H::Fault => self.strike(),
            H::Mend(mend) => self.mend(mend),
            H::Sample => {
                self.sample();
                self.after(100 * MS, H::Sample);
            }
            // Of an earlier start of the controller.
            H::QuorumWrite { .. }
            | H::QuorumWritten { .. }
            | H::QuorumRead { .. }
            | H::Format { .. }
            | H::Daemon { .. }
            | H::Boot { .. }
            | H::Reset { .. }
            | H::Watchdog { .. }
            | H::Pool { .. }
            | H::KeyCheck { .. }
            | H::LegWrite { .. }
            | H::LegDone { .. }
            | H::LegRead { .. }
            | H::Keeper { .. }
            | H::KeeperTick { .. }
            | H::KeeperStarts { .. }
            | H::Stored { .. }
            | H::PartnerSilent { .. }
            | H::Look { .. }
            | H::Moved { .. }
            | H::KeeperCall { .. }
            | H::KeeperSays { .. }
            | H::LeaseAsked { .. }
            | H::LeaseSaid { .. }
            | H::Flip { .. }
            | H::PortLook { .. }
            | H::Resume { .. } => {}
        }
    }

    fn observe(&mut self, c: usize, life: u32) {
        if self.nodes[c].life != life {
            return;
        }
        // The pool manager answers when what it was told before is done.
        if self.nodes[c].managers.iter().any(|manager| manager.job.is_some()) {
            return self.after(20 * MS, Happening::Observe { c, life });
        }
        let held = self.nodes[c].managers.iter().enumerate();
        let imports = held.filter_map(|(at, m)| m.imported.as_ref().map(|held| (at, held.key)));
        let imports = imports
            .map(|(at, key)| Import {
                pool: pool_id(at),
                key,
            })
            .collect();
        self.tell(c, Event::Imports(imports));
    }

    fn sample(&mut self) {
        for c in [A, B] {
            let now = self.local(c);
            if let Some(core) = self.nodes[c].core.as_ref().filter(|_| !self.nodes[c].paused) {
                let status = core.status(now);
                self.stats
                    .visit(status.state, status.wire.0, status.disk.0, status.role);
                for pool in &status.pools {
                    self.stats.visit_pool(pool.state);
                }
            }
        }
    }

    // For scenarios, faults and judges.

    /// An operator asks.
    pub(crate) fn ask(&mut self, c: usize, request: Request) {
        self.ops += 1;
        let request_id = RequestId(self.ops);
        if !self.nodes[c].paused {
            self.tell(
                c,
                Event::Request {
                    id: request_id,
                    request,
                },
            );
            self.judge();
        }
    }

    /// Whether a controller serves a pool to hosts now.
    pub(crate) fn serves(&self, c: usize, pool: usize) -> bool {
        let held = self.nodes[c].managers[pool].imported.as_ref();
        self.nodes[c].up && self.fresh(c) && held.is_some_and(|held| held.published && !held.quiesced)
    }

    /// What a controller's pool manager holds.
    pub(crate) fn held(&self, c: usize, pool: usize) -> Option<&Imported> {
        self.nodes[c].managers[pool].imported.as_ref()
    }

    /// The key under which a controller's pool manager has confirmed the fence of a pool.
    pub(crate) fn confirmed(&self, c: usize, pool: usize) -> Option<ReservationKey> {
        self.nodes[c].managers[pool].confirmed
    }

    /// Every stream of a pool was answered a command that began after `since`.
    pub(crate) fn answered_since(&self, pool: usize, since: u64) -> bool {
        self.streams
            .iter()
            .filter(|stream| stream.pool == pool)
            .all(|stream| stream.answered > since)
    }

    /// The highest record that anybody has acted on.
    pub(crate) fn record(&self) -> Record {
        self.invariants.borrow().highest()
    }

    /// A controller is a member of the highest record, as the incarnation that runs now.
    pub(crate) fn member(&self, c: usize) -> bool {
        self.record()
            .members
            .get(id(c))
            .is_some_and(|i| i.get() == self.nodes[c].incarnation)
            && self.nodes[c].up
    }

    /// The array is as it should be: both members, open, in sync, every pool served where it belongs, hosts go on.
    pub(crate) fn whole(&mut self, since: u64) -> Result<(), String> {
        let record = self.record();
        for c in [A, B] {
            if !self.member(c) {
                return Err(format!(
                    "{} (incarnation {}) is not a member of {record}",
                    id(c),
                    self.nodes[c].incarnation
                ));
            }
            if self.nodes[c].core.is_none() || self.nodes[c].stopped.is_some() {
                return Err(format!("{} does not run", id(c)));
            }
        }
        if record.mode != pollux_heartbeat_core::record::Mode::Open {
            return Err(format!("{record} is not open"));
        }
        if record.disks.leaving().is_some() {
            return Err(format!("a disk of the quorum is leaving: {}", record.disks));
        }
        for (pool, spec) in self.setup.pools.iter().enumerate() {
            let home = self.serves(spec.home, pool);
            if !home && (self.setup.auto_giveback || !self.serves(1 - spec.home, pool)) {
                return Err(format!(
                    "pool {pool} is not served{}",
                    if self.setup.auto_giveback {
                        " at its home"
                    } else {
                        ""
                    }
                ));
            }
            if !self.answered_since(pool, since) {
                return Err(format!("hosts of pool {pool} wait"));
            }
            self.one_story(pool)?;
        }
        if self.nodes[A].keeper.log != self.nodes[B].keeper.log {
            return Err("the configurations differ".to_owned());
        }
        if !self.nodes[A].keeper.acknowledging() {
            return Err("the configuration is locked".to_owned());
        }
        Ok(())
    }

    /// Writes down a fact and asks every invariant: for breakages.
    #[cfg(test)]
    pub(crate) fn rogue_register(&mut self, c: usize, pool: usize, key: ReservationKey) {
        for disk in self.legs(pool) {
            self.register(c, disk, key);
        }
        self.fact(Fact::Taking { c, pool, key });
        self.judge();
    }

    /// The shelf's power goes for a while.
    pub(crate) fn shelf_fails(&mut self) {
        self.say(|| "SHELF POWER OFF".to_owned());
        for disk in &mut self.quorum {
            disk.up = false;
        }
        let mut lost = Vec::new();
        for disk in &mut self.disks {
            let of = disk.of;
            lost.extend(disk.power_fails().into_iter().map(|key| (of, key)));
        }
        for ((pool, leg), key) in lost {
            // A key that was registered and not yet confirmed excluded nobody: nothing is lost with it.
            let owner = self.held(key.controller.index(), pool);
            if owner.is_some_and(|held| held.key == key) {
                self.fact(Fact::ExclusionLost { pool, leg, key });
            }
        }
        self.judge();
    }

    /// Somebody who is none of the two clears the reservation of a disk with everything that is registered there.
    pub(crate) fn stranger_clears(&mut self, disk: usize) {
        self.say(|| format!("A STRANGER clears data disk {disk}"));
        let (pool, leg) = self.disks[disk].of;
        for key in self.disks[disk].clear() {
            // A leg that was called failed before is used by nobody, and is registered anew when it comes back.
            let owner = self.held(key.controller.index(), pool);
            if owner.is_some_and(|held| held.key == key && held.in_sync.contains(&leg)) {
                self.fact(Fact::ExclusionLost { pool, leg, key });
            }
        }
        self.judge();
    }

    /// And is back.
    pub(crate) fn shelf_returns(&mut self) {
        self.say(|| "SHELF POWER ON".to_owned());
        for disk in &mut self.quorum {
            disk.up = true;
        }
        for disk in &mut self.disks {
            disk.up = true;
        }
    }
}

/// A span as nanoseconds.
pub(crate) fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// The order in which keys take a pool.
pub(crate) fn key_rank(key: ReservationKey) -> (u64, u64) {
    rank(key)
}
