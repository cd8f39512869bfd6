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

use crate::invariant::Invariants;
use crate::keeper::{Keeper, Message, base_of};
use crate::quorum::QuorumDisk;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::shelf::{DataDisk, Status, rank};
use crate::stats::Stats;
use crate::truth::{Answer, Fact};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::area::{Content, Role};
use pollux_heartbeat_core::effect::{BlockId, Evidence, ReadId, StopReason, WriteId};
use pollux_heartbeat_core::event::{Import, PoolInfo, PoolStep, Power, Request, RequestId};
use pollux_heartbeat_core::layout::{self, Block, Place};
use pollux_heartbeat_core::record::Record;
use pollux_heartbeat_core::wire::Datagram;
use pollux_heartbeat_core::{Core, Effect, Event, Instant, Params, Timing};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds.
pub(crate) const SEC: u64 = 1_000 * MS;
/// Blocks of a pool that hosts use.
pub(crate) const BLOCKS: usize = 3;
/// Generation of the set of quorum disks.
const SET: Generation = Generation::new(1);
/// The array.
const ARRAY: ArrayId = ArrayId::from_bytes(*b"one seed, 1 play");
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

fn pool_number(id: PoolId) -> usize {
    usize::from(id.as_bytes()[0]) - 1
}

fn id(c: usize) -> ControllerId {
    ControllerId::ALL[c]
}

/// What happens next. `life` is one life of the heartbeat daemon, `boot` one of the controller: what belongs to an
/// earlier one does not happen any more.
#[derive(Clone, Debug)]
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
        whose: ControllerId,
        issued: u64,
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
    /// A host has waited for long enough on this path.
    Patience { stream: usize, op: u64, attempt: u32 },
    /// A keeper's message arrives.
    Keeper { c: usize, boot: u32, message: Message },
    /// A keeper's step: freeze done, or the next round of replication.
    KeeperTick { c: usize, boot: u32 },
    /// A freeze is complete.
    Frozen {
        c: usize,
        boot: u32,
        life: u32,
        epoch: Epoch,
    },
    /// A person changes the configuration.
    Change,
    /// A paused controller goes on.
    Resume { c: usize, boot: u32 },
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
            | H::Frozen { c, .. } => Some(c),
            H::QuorumWrite { .. }
            | H::QuorumRead { .. }
            | H::Boot { .. }
            | H::Watchdog { .. }
            | H::PowerControl { .. }
            | H::LegWrite { .. }
            | H::LegRead { .. }
            | H::Host { .. }
            | H::Patience { .. }
            | H::Change
            | H::Resume { .. }
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
    what: Happening,
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
    attempt: u32,
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
    slots: Vec<Option<(u64, u64)>>,
    catch_up: bool,
    /// The last datagram that came, for the forger.
    heard: Option<Box<Datagram>>,
    pub(crate) role: Role,
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
    /// The pool manager registers again by itself when its key is gone.
    pub(crate) silent_reregistration: bool,
    /// Fencing is reported as confirmed when one member disk is fenced.
    pub(crate) one_leg_is_enough: bool,
    /// A controller that is told to stop goes on.
    pub(crate) stop_ignored: bool,
    /// Whatever a sees no echo of, it gets one: somebody forges the wire.
    pub(crate) forged_echo: bool,
    /// A write is acknowledged before it is on the disks.
    pub(crate) early_acknowledgement: bool,
    /// Fencing is confirmed without looking.
    pub(crate) fence_confirmed_blindly: bool,
    /// A change is acknowledged when only the sequencer holds it.
    pub(crate) lone_acknowledgement: bool,
}

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
    /// The next decision of this controller is followed by a stall of so long before its deeds.
    pub(crate) stall_next: Option<(usize, u64)>,
    /// Every step of this controller's pool manager fails.
    pub(crate) lame: [bool; 2],
    pub(crate) invariants: Invariants,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    jobs: u64,
    ops: u64,
    values: u64,
    entries: u64,
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
        let quorum = (0..setup.quorum_disks)
            .map(|at| {
                QuorumDisk::new(Place {
                    array: ARRAY,
                    disk: DiskIndex::new(at as u16 + 20),
                    set: SET,
                })
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
        let nodes = [A, B].map(|c| Node {
            powered: true,
            up: false,
            paused: false,
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
            keeper: Keeper::new(id(c)),
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
            slots: vec![None; setup.quorum_disks],
            catch_up: false,
            heard: None,
            role: Role::Starting,
        });
        let streams = (0..setup.pools.len() * BLOCKS)
            .map(|at| Stream {
                pool: at / BLOCKS,
                block: at % BLOCKS,
                op: 0,
                deed: None,
                path: rng.index(2),
                attempt: 0,
                began: 0,
                answered: 0,
            })
            .collect::<Vec<_>>();
        let invariants = Invariants::new(&setup, &timing);
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
            stall_next: None,
            lame: [false; 2],
            invariants,
            queue: BinaryHeap::new(),
            order: 0,
            jobs: 0,
            ops: 0,
            values: 0,
            entries: 0,
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
            what,
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
        self.stats.events += 1;
        match next.what.needs() {
            Some(c) if self.nodes[c].paused => self.nodes[c].deferred.push(next.what),
            _ => self.happen(next.what),
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
        // The judges look at the world; they are not part of it meanwhile.
        let mut judges = std::mem::take(&mut self.invariants);
        for fact in &facts {
            self.stats.observe(fact);
            if let Err((invariant, what)) = judges.observe(self, fact) {
                self.say(|| format!("VIOLATED {invariant}: {what}"));
                self.violation = Some(Violation {
                    at: self.now,
                    invariant,
                    what,
                });
                break;
            }
        }
        self.invariants = judges;
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

    // Power, pauses, daemons.

    /// The power button: on.
    pub(crate) fn power_on(&mut self, c: usize) {
        let node = &mut self.nodes[c];
        if node.up || (node.powered && node.boot > 0) {
            return;
        }
        node.powered = true;
        node.boot += 1;
        let boot = node.boot;
        let span = self.rng.range(self.setup.boot_time.0, self.setup.boot_time.1);
        self.after(span, Happening::Boot { c, boot });
    }

    /// Everything of a controller ends here and now: power cut, reset, watchdog.
    fn die(&mut self, c: usize) {
        let writes = std::mem::take(&mut self.nodes[c].writes);
        for write in writes.into_values().filter(|write| !write.applied) {
            // In flight when the power went: not at all, or in full, or torn.
            let fate = self.rng.below(4);
            if !self.quorum[write.disk].reaches(c)
                || fate < 2
                || self.quorum[write.disk].stuck_until > self.now
            {
                continue;
            }
            if fate == 2 {
                self.apply(c, &write);
            } else {
                let disk = &mut self.quorum[write.disk];
                disk.tear(id(c), write.block, &write.bytes, &mut self.rng);
                self.say(|| format!("{} torn on quorum disk {}: {:?}", id(c), write.disk, write.block));
            }
        }
        let legs = self.setup.pools.len();
        let node = &mut self.nodes[c];
        node.up = false;
        node.paused = false;
        node.core = None;
        node.boot += 1;
        node.life += 1;
        node.deferred.clear();
        node.stalled.clear();
        node.stopped = None;
        node.watchdog = None;
        node.lease_until = Instant::ZERO;
        node.tick = u64::MAX;
        node.managers = vec![Manager::default(); legs];
        node.operations.clear();
        node.busy.clear();
        node.held.clear();
        node.nonces.clear();
        node.slots.fill(None);
        node.catch_up = false;
        node.role = Role::Starting;
        node.keeper.boot();
    }

    /// The power goes.
    pub(crate) fn power_cut(&mut self, c: usize) {
        if self.nodes[c].powered {
            self.say(|| format!("{} POWER OFF", id(c)));
            self.die(c);
            self.nodes[c].powered = false;
        }
    }

    /// A reset: everything ends and starts again.
    pub(crate) fn reset(&mut self, c: usize) {
        if self.nodes[c].powered {
            self.say(|| format!("{} RESET", id(c)));
            self.die(c);
            let boot = self.nodes[c].boot;
            let span = self.rng.range(self.setup.boot_time.0, self.setup.boot_time.1);
            self.after(span, Happening::Boot { c, boot });
        }
    }

    /// All of a controller stands still.
    pub(crate) fn pause(&mut self, c: usize) {
        if self.nodes[c].up && !self.nodes[c].paused {
            self.say(|| format!("{} PAUSED", id(c)));
            self.nodes[c].paused = true;
        }
    }

    /// It goes on, and finds everything that waited.
    pub(crate) fn resume(&mut self, c: usize) {
        if !self.nodes[c].paused {
            return;
        }
        self.say(|| format!("{} RESUMED", id(c)));
        self.nodes[c].paused = false;
        for (life, effects) in std::mem::take(&mut self.nodes[c].stalled) {
            if life == self.nodes[c].life {
                self.perform_all(c, effects);
            }
        }
        let mut waiting = std::mem::take(&mut self.nodes[c].deferred);
        // Whichever process the scheduler wakes first.
        if self.rng.chance(500_000) {
            let by = self.rng.index(waiting.len().max(1));
            waiting.rotate_left(by);
        }
        for what in waiting {
            let span = self.span(0, 300);
            self.after(span, what);
        }
    }

    /// The heartbeat daemon dies; systemd starts it again after a while.
    pub(crate) fn crash(&mut self, c: usize, restart: Option<u64>) {
        let node = &mut self.nodes[c];
        if !node.up || node.core.is_none() {
            return;
        }
        node.core = None;
        node.life += 1;
        node.tick = u64::MAX;
        node.stalled.clear();
        node.catch_up = false;
        let boot = node.boot;
        self.say(|| format!("{} heartbeat daemon DIES", id(c)));
        match restart {
            Some(span) => self.after(span, Happening::Daemon { c, boot }),
            None => self.nodes[c].maimed = true,
        }
    }

    fn boot(&mut self, c: usize) {
        self.nodes[c].up = true;
        self.nodes[c].incarnation += 1;
        self.nodes[c].clock.offset = self.rng.range(SEC, 100_000 * SEC);
        let (boot, incarnation) = (self.nodes[c].boot, self.nodes[c].incarnation);
        self.say(|| format!("{} BOOTED as incarnation {incarnation}", id(c)));
        self.fact(Fact::Booted { c });
        let span = self.span(100, 50_000);
        self.after(span, Happening::Daemon { c, boot });
        let span = self.span(1_000, 50_000);
        self.after(span, Happening::KeeperTick { c, boot });
        let span = self.timing.key_check.as_nanos() as u64;
        self.after(span, Happening::KeyCheck { c, boot });
    }

    fn daemon(&mut self, c: usize, boot: u32) {
        if self.nodes[c].core.is_some() || self.nodes[c].maimed {
            return;
        }
        // The dead daemon's writes hold the lock of the quorum area until they have ended.
        if !self.nodes[c].writes.is_empty() {
            return self.after(10 * MS, Happening::Daemon { c, boot });
        }
        let params = Params {
            array: ARRAY,
            controller: id(c),
            incarnation: Incarnation::new(self.nodes[c].incarnation),
            disks: self.quorum.iter().map(|disk| disk.place.disk).collect(),
            set: SET,
            timing: self.timing,
            seed: self.rng.next(),
            power_rung: self.setup.power_rung,
            reservation_rung: self.setup.reservations,
            pausable: false,
            auto_giveback: self.setup.auto_giveback,
        };
        let now = self.local(c);
        let core = Core::new(params, now).unwrap_or_else(|bad| panic!("the setup is refused: {bad}"));
        self.nodes[c].core = Some(core);
        self.nodes[c].life += 1;
        self.nodes[c].nonces.clear();
        self.nodes[c].slots.fill(None);
        let life = self.nodes[c].life;
        self.say(|| format!("{} heartbeat daemon starts", id(c)));
        self.tell(c, Event::Tick);
        let pools = self.setup.pools.iter().enumerate();
        let pools = pools
            .map(|(at, spec)| PoolInfo {
                pool: pool_id(at),
                home: id(spec.home),
            })
            .collect();
        let armed = self.nodes[c].watchdog.is_some();
        let config = self.nodes[c].keeper.status(self.nodes[c].incarnation);
        for event in [
            Event::Pools(pools),
            Event::Config(config),
            Event::Watchdog { armed },
            Event::Legs(vec![true; 2]),
        ] {
            let span = self.span(100, 30_000);
            self.after(span, Happening::Tell { c, life, event });
        }
        let span = self.span(100, 30_000);
        self.after(span, Happening::Observe { c, life });
    }

    // The core.

    fn tell_later(&mut self, c: usize, event: Event, low_us: u64, high_us: u64) {
        let (span, life) = (self.span(low_us, high_us), self.nodes[c].life);
        self.after(span, Happening::Tell { c, life, event });
    }

    /// The core of a controller takes an event, and its effects are carried out.
    pub(crate) fn tell(&mut self, c: usize, event: Event) {
        if self.nodes[c].core.is_none() {
            return;
        }
        self.note(c, &event);
        let now = self.local(c);
        if !matches!(event, Event::Tick) {
            self.say(|| format!("{} <- {event:?}", id(c)));
        }
        let Some(core) = &mut self.nodes[c].core else {
            return;
        };
        let effects = core.handle(now, event);
        let deadline = core.next_deadline();
        self.stats.handled += 1;
        let asked = self
            .stall_next
            .filter(|(of, _)| *of == c && effects.contains(&Effect::Pet));
        let chance = !effects.is_empty() && self.rng.chance(self.setup.stall_midway) && !self.healed;
        if asked.is_some() || chance {
            // The scheduler takes the processor away between the decision and the deed.
            self.stall_next = None;
            let life = self.nodes[c].life;
            self.nodes[c].stalled.push((life, effects));
            self.pause(c);
            let most = nanos(self.timing.watchdog) + SEC;
            let span = asked.map_or_else(|| self.rng.range(MS, most), |(_, span)| span);
            let boot = self.nodes[c].boot;
            self.after(span, Happening::Resume { c, boot });
        } else {
            self.perform_all(c, effects);
        }
        let node = &self.nodes[c];
        if node.core.is_some() {
            let late = self.rng.range(0, self.setup.lateness);
            let at = self.nodes[c].clock.when(deadline).max(self.now + 50_000) + late;
            if at < self.nodes[c].tick || self.nodes[c].tick <= self.now {
                self.nodes[c].tick = at;
                let life = self.nodes[c].life;
                self.at(at, Happening::Tick { c, life });
            }
        }
    }

    /// Writes down what this event shows to the core.
    fn note(&mut self, c: usize, event: &Event) {
        match event {
            Event::Received(datagram) => {
                if let Some(record) = datagram.record {
                    self.fact(Fact::Learnt { c, record });
                }
                self.note_advert(c, datagram.advert.incarnation, datagram.advert.role);
                let sent = self.nodes[c]
                    .nonces
                    .iter()
                    .find(|(nonce, _)| Some(*nonce) == datagram.echo);
                if let Some((_, at)) = sent.copied() {
                    self.fact(Fact::Sighted { c, since: at });
                }
            }
            Event::ReadDone { area, .. } => {
                if let Ok(vote) = area.vote {
                    self.fact(Fact::Learnt {
                        c,
                        record: vote.decided,
                    });
                }
            }
            Event::Power {
                state: Power::Off, ..
            } => self.fact(Fact::SeenOff { c }),
            Event::Request {
                request: Request::Takeover,
                ..
            } => self.fact(Fact::Demanded { c }),
            _ => {}
        }
    }

    fn note_advert(&mut self, c: usize, incarnation: Incarnation, role: Role) {
        let gone = if role == Role::Dying || role == Role::Releasing {
            incarnation.get()
        } else {
            incarnation.get().saturating_sub(1)
        };
        self.fact(Fact::SeenGone { c, incarnation: gone });
    }

    fn perform_all(&mut self, c: usize, effects: Vec<Effect>) {
        let boot = self.nodes[c].boot;
        for effect in effects {
            if self.nodes[c].boot == boot {
                self.perform(c, effect);
            }
        }
    }

    fn perform(&mut self, c: usize, effect: Effect) {
        if !matches!(
            effect,
            Effect::Send(_) | Effect::ReadArea { .. } | Effect::Pet | Effect::GrantLease { .. }
        ) {
            self.say(|| format!("{} -> {effect:?}", id(c)));
        }
        match effect {
            Effect::WriteBlock {
                id: write,
                disk,
                block,
                content,
            } => self.submit(c, write, disk, block, content),
            Effect::ReadArea {
                id: read,
                disk,
                whose,
            } => {
                let Some(disk) = self.quorum.iter().position(|known| known.place.disk == disk) else {
                    return;
                };
                let (life, boot) = (self.nodes[c].life, self.nodes[c].boot);
                let span = self.disk_latency(disk);
                let issued = self.now;
                self.after(
                    span,
                    Happening::QuorumRead {
                        c,
                        life,
                        boot,
                        id: read,
                        disk,
                        whose,
                        issued,
                    },
                );
            }
            Effect::Send(datagram) => self.send(c, datagram),
            Effect::GrantLease { until, .. } => self.grant(c, until),
            Effect::ArmWatchdog { timeout } => {
                if self.setup.watchdog[c] {
                    let (life, timeout) = (self.nodes[c].life, timeout.as_nanos() as u64);
                    let span = self.span(100, 5_000);
                    self.after(span, Happening::Arm { c, life, timeout });
                } else {
                    self.tell_later(c, Event::Watchdog { armed: false }, 100, 5_000);
                }
            }
            Effect::Pet => self.pet(c),
            Effect::QueryPower => self.ask_power(c, false),
            Effect::PowerOff(_) => self.ask_power(c, true),
            Effect::FencePool { pool, key, victim } => {
                let _ = victim;
                self.job(c, pool_number(pool), Task::Fence(key));
            }
            Effect::TakePool { pool, key, evidence } => {
                let number = pool_number(pool);
                self.fact(Fact::Taking { c, pool: number, key });
                self.job(c, number, Task::Take(key, evidence));
            }
            Effect::PublishPool { pool, key } => self.job(c, pool_number(pool), Task::Publish(key)),
            Effect::ReleasePool { pool, key } => self.job(c, pool_number(pool), Task::Release(key)),
            Effect::ResumePool { pool, key } => self.job(c, pool_number(pool), Task::Resume(key)),
            Effect::StopPool { pool, generation, .. } => {
                self.stop_pool(c, pool_number(pool));
                let step = PoolStep::Stop;
                self.tell_later(
                    c,
                    Event::PoolDone {
                        pool,
                        generation,
                        step,
                        result: Ok(()),
                    },
                    100,
                    20_000,
                );
            }
            Effect::StopAll { reason } => self.stop_all(c, reason),
            Effect::ConfigEpoch { record, lock } => {
                self.fact(Fact::Published { c, record });
                self.nodes[c].keeper.epoch(record, lock);
                self.tell_config(c);
            }
            Effect::ConfigFreeze { epoch } => {
                let (life, boot) = (self.nodes[c].life, self.nodes[c].boot);
                let span = self.span(100, 10_000);
                self.after(span, Happening::Frozen { c, boot, life, epoch });
            }
            Effect::ConfigUnfreeze { epoch } => self.nodes[c].keeper.unfreeze(epoch),
            Effect::ConfigProbe { base } => {
                let contained = self.nodes[c].keeper.contains(base);
                self.tell_later(c, Event::ConfigProbed { base, contained }, 100, 5_000);
            }
            Effect::ConfigCatchUp => {
                self.nodes[c].catch_up = true;
                let message = self.nodes[c].keeper.fetch();
                self.post(c, message);
            }
            Effect::Answer { result, .. } => self.answers.push((c, result.is_ok())),
            Effect::Note(_) | Effect::Route { .. } => {}
        }
    }

    // The lease and the watchdog.

    /// Replies of this controller may leave.
    pub(crate) fn fresh(&self, c: usize) -> bool {
        self.breakage.lease_ignored || self.local(c) < self.nodes[c].lease_until
    }

    fn grant(&mut self, c: usize, until: Instant) {
        let was = self.fresh(c);
        self.nodes[c].lease_until = until;
        let is = self.fresh(c);
        if was != is {
            self.say(|| format!("{} lease {}", id(c), if is { "fresh" } else { "revoked" }));
        }
        if is {
            for op in std::mem::take(&mut self.nodes[c].held) {
                self.reply(c, op);
            }
        } else if was {
            self.stats.revoked += 1;
        }
    }

    fn pet(&mut self, c: usize) {
        if let Some((timeout, deadline)) = &mut self.nodes[c].watchdog {
            *deadline = self.now + *timeout;
        }
    }

    fn look_at_watchdog(&mut self, c: usize) {
        let Some((_, deadline)) = self.nodes[c].watchdog else {
            return;
        };
        if self.now >= deadline {
            self.say(|| format!("{} WATCHDOG", id(c)));
            self.stats.watchdogs += 1;
            self.reset(c);
        } else {
            let boot = self.nodes[c].boot;
            self.at(deadline, Happening::Watchdog { c, boot });
        }
    }

    // Quorum disks.

    fn disk_latency(&mut self, disk: usize) -> u64 {
        let slow = self.quorum[disk].slow;
        self.span(200, 3_000) + self.rng.range(0, slow)
    }

    fn submit(&mut self, c: usize, write: WriteId, disk: DiskIndex, block: BlockId, content: Content) {
        let Some(disk) = self.quorum.iter().position(|known| known.place.disk == disk) else {
            return;
        };
        if let Some((other, _)) = self.nodes[c]
            .writes
            .iter()
            .find(|(_, w)| w.disk == disk && w.block == block)
        {
            let what = format!(
                "{}: {write:?} to {block:?} of quorum disk {disk} while {other:?} is outstanding",
                id(c)
            );
            self.violation = Some(Violation {
                at: self.now,
                invariant: "contract",
                what,
            });
            return;
        }
        if let Content::Slot(slot) = &content {
            self.nodes[c].role = slot.advert.role;
        }
        if let Content::Vote(vote) = &content {
            self.fact(Fact::Published {
                c,
                record: vote.decided,
            });
            if vote.value.is_some() {
                self.fact(Fact::Proposed { c, vote: *vote });
            }
        }
        let bytes = layout::encode(&self.quorum[disk].place, block, id(c), &content);
        let (submitted, life, boot) = (self.local(c), self.nodes[c].life, self.nodes[c].boot);
        let entry = QuorumWrite {
            disk,
            block,
            content,
            bytes,
            submitted,
            life,
            applied: false,
        };
        self.nodes[c].writes.insert(write, entry);
        let span = self.disk_latency(disk);
        self.after(span, Happening::QuorumWrite { c, boot, id: write });
    }

    fn apply(&mut self, c: usize, write: &QuorumWrite) {
        self.quorum[write.disk].write(id(c), write.block, &write.bytes);
        if let Content::Vote(vote) = write.content {
            self.fact(Fact::Voted {
                c,
                disk: write.disk,
                vote,
            });
        }
    }

    fn quorum_write(&mut self, c: usize, boot: u32, write: WriteId) {
        let Some(entry) = self.nodes[c].writes.get(&write).cloned() else {
            return;
        };
        let disk = &self.quorum[entry.disk];
        if disk.reaches(c) && disk.stuck_until > self.now {
            let at = disk.stuck_until + self.rng.range(0, MS);
            return self.at(at, Happening::QuorumWrite { c, boot, id: write });
        }
        let result = if disk.reaches(c) {
            self.apply(c, &entry);
            if let Some(entry) = self.nodes[c].writes.get_mut(&write) {
                entry.applied = true;
            }
            Ok(())
        } else {
            Err(())
        };
        let span = self.span(50, 1_000);
        self.after(
            span,
            Happening::QuorumWritten {
                c,
                boot,
                id: write,
                result,
            },
        );
    }

    fn quorum_written(&mut self, c: usize, write: WriteId, result: Result<(), ()>) {
        let Some(entry) = self.nodes[c].writes.remove(&write) else {
            return;
        };
        if entry.life == self.nodes[c].life {
            self.tell(
                c,
                Event::WriteDone {
                    id: write,
                    submitted: entry.submitted,
                    result,
                },
            );
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn quorum_read(
        &mut self,
        c: usize,
        life: u32,
        boot: u32,
        read: ReadId,
        disk: usize,
        whose: ControllerId,
        issued: u64,
    ) {
        let stuck = self.quorum[disk].stuck_until;
        if self.quorum[disk].reaches(c) && stuck > self.now {
            let at = stuck + self.rng.range(0, MS);
            return self.at(
                at,
                Happening::QuorumRead {
                    c,
                    life,
                    boot,
                    id: read,
                    disk,
                    whose,
                    issued,
                },
            );
        }
        let area = self.quorum[disk].read(c, whose, &mut self.rng);
        if whose != id(c) {
            if let Ok(seen) = area.vote {
                self.fact(Fact::Polled {
                    c,
                    disk,
                    seen: Some(seen),
                });
            }
            if let Ok(slot) = area.slot {
                // A change between two reads is life no earlier than the first of them.
                let last = self.nodes[c].slots[disk];
                let changed = last.filter(|(sequence, _)| *sequence != slot.sequence);
                if let Some((_, since)) = changed {
                    self.fact(Fact::Sighted { c, since });
                }
                self.note_advert(c, slot.advert.incarnation, slot.advert.role);
                self.nodes[c].slots[disk] = Some((slot.sequence, issued));
            }
        }
        let issued = self.nodes[c].clock.read(issued);
        let span = self.span(50, 1_000);
        self.after(
            span,
            Happening::Tell {
                c,
                life,
                event: Event::ReadDone {
                    id: read,
                    issued,
                    area,
                },
            },
        );
    }

    // The wire.

    fn send(&mut self, c: usize, datagram: Datagram) {
        self.nodes[c].nonces.push_back((datagram.nonce, self.now));
        if self.nodes[c].nonces.len() > 64 {
            self.nodes[c].nonces.pop_front();
        }
        if let Some(record) = datagram.record {
            self.fact(Fact::Published { c, record });
        }
        if self.breakage.forged_echo
            && c == A
            && let Some(mut forged) = self.nodes[c].heard.clone()
        {
            forged.echo = Some(datagram.nonce);
            let span = self.span(50, 500);
            self.after(span, Happening::Datagram { c, datagram: forged });
        }
        let link = self.links[c];
        if link.cut || self.rng.chance(link.loss) {
            return;
        }
        let copies = if self.rng.chance(link.double) { 2 } else { 1 };
        for _ in 0..copies {
            let span = self.span(50, 500) + self.rng.range(0, link.delay);
            self.after(
                span,
                Happening::Datagram {
                    c: 1 - c,
                    datagram: Box::new(datagram.clone()),
                },
            );
        }
        if self.rng.chance(link.replay) {
            let span = self.rng.range(SEC, 30 * SEC);
            self.after(
                span,
                Happening::Datagram {
                    c: 1 - c,
                    datagram: Box::new(datagram),
                },
            );
        }
    }

    /// A keeper's message sets out; it needs both directions (it is a stream).
    fn post(&mut self, c: usize, message: Message) {
        if self.links.iter().any(|link| link.cut) || !self.nodes[1 - c].up {
            return;
        }
        let span = self.span(100, 2_000) + self.rng.range(0, self.links[c].delay);
        let boot = self.nodes[1 - c].boot;
        self.after(
            span,
            Happening::Keeper {
                c: 1 - c,
                boot,
                message,
            },
        );
    }

    // The power control.

    fn ask_power(&mut self, c: usize, cut: bool) {
        let (life, asked) = (self.nodes[c].life, self.now);
        let span = if cut {
            self.span(5_000, 300_000)
        } else {
            self.span(1_000, 50_000)
        };
        self.after(span, Happening::PowerControl { c, life, cut, asked });
    }

    fn power_control(&mut self, c: usize, life: u32, cut: bool, asked: u64) {
        let victim = 1 - c;
        let reachable = self.bmc[victim] && self.setup.power_rung;
        if reachable && cut {
            self.stats.power_fences += 1;
            self.power_cut(victim);
            // Whoever finds a controller switched off by its partner switches it on again, some time.
            let (boot, span) = (self.nodes[victim].boot, self.rng.range(2 * SEC, 40 * SEC));
            self.after(
                span,
                Happening::Mend(crate::swarm::Mend::PowerOn { c: victim, boot }),
            );
        }
        let state = match (reachable, self.nodes[victim].powered) {
            (false, _) => Power::Unknown,
            (true, false) => Power::Off,
            (true, true) => Power::On,
        };
        // Asked when it was sent; with a cut, the question follows the deed.
        let asked = if cut { self.now } else { asked };
        let asked = self.nodes[c].clock.read(asked);
        let span = self.span(500, 20_000);
        self.after(
            span,
            Happening::Tell {
                c,
                life,
                event: Event::Power { state, asked },
            },
        );
    }

    // The pool manager.

    fn legs(&self, pool: usize) -> Vec<usize> {
        (0..self.disks.len())
            .filter(|at| self.disks[*at].of.0 == pool)
            .collect()
    }

    fn job(&mut self, c: usize, pool: usize, task: Task) {
        if self.nodes[c].stopped.is_some() && !self.breakage.stop_ignored {
            return;
        }
        self.jobs += 1;
        let mut order = self.legs(pool);
        let by = self.rng.index(order.len());
        order.rotate_left(by);
        let fails = self.lame[c] || self.rng.chance(self.setup.pool_failures);
        let (job, life) = (self.jobs, self.nodes[c].life);
        let entry = Job {
            id: job,
            life,
            task,
            fails,
            order,
            deadline: u64::MAX,
        };
        self.nodes[c].managers[pool].queue.push_back(entry);
        self.next_job(c, pool);
    }

    fn next_job(&mut self, c: usize, pool: usize) {
        let now = self.now;
        let manager = &mut self.nodes[c].managers[pool];
        if manager.job.is_some() {
            return;
        }
        let Some(mut job) = manager.queue.pop_front() else {
            return;
        };
        job.deadline = now + 3 * SEC;
        let number = job.id;
        manager.job = Some(job);
        self.pool_step(c, pool, number, 0);
    }

    fn pool_step(&mut self, c: usize, pool: usize, job: u64, step: usize) {
        let span = self.span(500, 15_000) + self.rng.range(0, self.setup.pool_slowness);
        let boot = self.nodes[c].boot;
        self.after(
            span,
            Happening::Pool {
                c,
                boot,
                pool,
                job,
                step,
            },
        );
    }

    fn end_job(&mut self, c: usize, pool: usize, result: Result<(), String>) {
        let Some(job) = self.nodes[c].managers[pool].job.take() else {
            return;
        };
        self.answer_job(c, pool, &job, result);
        self.next_job(c, pool);
    }

    fn answer_job(&mut self, c: usize, pool: usize, job: &Job, result: Result<(), String>) {
        let done = |key: ReservationKey, step, result| Event::PoolDone {
            pool: pool_id(pool),
            generation: key.generation,
            step,
            result,
        };
        let event = match job.task {
            Task::Fence(key) => Event::FenceDone {
                pool: pool_id(pool),
                key,
                result,
            },
            Task::Take(key, _) => done(key, PoolStep::Take, result),
            Task::Publish(key) => done(key, PoolStep::Publish, result),
            Task::Release(key) => done(key, PoolStep::Release, result),
            Task::Resume(key) => done(key, PoolStep::Resume, result),
        };
        let span = self.span(100, 3_000);
        self.after(
            span,
            Happening::Tell {
                c,
                life: job.life,
                event,
            },
        );
    }

    fn pool(&mut self, c: usize, pool: usize, number: u64, step: usize) {
        let Some(job) = self.nodes[c].managers[pool]
            .job
            .clone()
            .filter(|job| job.id == number)
        else {
            return;
        };
        match job.task {
            Task::Fence(key) => match job.order.get(step) {
                Some(disk) => {
                    if self.disks[*disk].stuck_until > self.now && self.now < job.deadline {
                        return self.pool_step(c, pool, number, step);
                    }
                    // A command that is given up is aborted; the disk says so before the answer goes out.
                    if self.disks[*disk].stuck_until <= self.now && !self.breakage.fence_confirmed_blindly {
                        self.register(c, *disk, key);
                    }
                    self.pool_step(c, pool, number, step + 1);
                }
                None => {
                    let result = self.fenced(c, pool, key).and_then(|()| self.chance_fails(&job));
                    self.end_job(c, pool, result);
                }
            },
            Task::Take(key, evidence) => {
                let result = self
                    .chance_fails(&job)
                    .and_then(|()| self.import(c, pool, key, Some(evidence)));
                self.end_job(c, pool, result);
            }
            Task::Publish(key) => {
                let result = self.chance_fails(&job).and_then(|()| self.publish(c, pool, key));
                self.end_job(c, pool, result);
            }
            Task::Resume(key) => {
                let imported = self.nodes[c].managers[pool]
                    .imported
                    .as_ref()
                    .is_some_and(|held| held.key == key);
                let result = self.chance_fails(&job);
                let again = |world: &mut Self| {
                    if imported {
                        Ok(())
                    } else {
                        world.import(c, pool, key, None)
                    }
                };
                let result = result
                    .and_then(|()| again(self))
                    .and_then(|()| self.publish(c, pool, key));
                self.end_job(c, pool, result);
            }
            Task::Release(key) => self.release(c, pool, &job, key, step),
        }
    }

    fn chance_fails(&self, job: &Job) -> Result<(), String> {
        if job.fails {
            Err("the pool manager failed".to_owned())
        } else {
            Ok(())
        }
    }

    fn register(&mut self, c: usize, disk: usize, key: ReservationKey) -> bool {
        let done = self.disks[disk].take(c, key);
        if done.is_ok() {
            let (pool, leg) = self.disks[disk].of;
            self.fact(Fact::Registered { c, pool, leg, key });
        }
        self.say(|| format!("{} registers {key:?} on data disk {disk}: {done:?}", id(c)));
        done.is_ok()
    }

    /// The legs that count, by the newest label that this controller can read; all of them must be readable, or a
    /// newer label may stand on the missing one.
    fn current(&self, c: usize, pool: usize) -> Result<(u64, BTreeSet<usize>), String> {
        let legs = self.legs(pool);
        let readable = legs
            .iter()
            .filter(|at| self.disks[**at].reaches(c) && self.disks[**at].stuck_until <= self.now);
        let newest = readable
            .max_by_key(|at| self.disks[**at].label.event)
            .ok_or("no leg can be read")?;
        let label = &self.disks[*newest].label;
        let wanted = legs
            .iter()
            .filter(|at| !label.failed.contains(&self.disks[**at].of.1));
        let wanted = wanted.copied().collect::<BTreeSet<_>>();
        match wanted
            .iter()
            .find(|at| !self.disks[**at].reaches(c) || self.disks[**at].stuck_until > self.now)
        {
            Some(missing) => Err(format!(
                "leg {} cannot be read and no label calls it failed",
                self.disks[*missing].of.1
            )),
            None => Ok((label.event, wanted)),
        }
    }

    fn fenced(&self, c: usize, pool: usize, key: ReservationKey) -> Result<(), String> {
        if self.breakage.fence_confirmed_blindly {
            return Ok(());
        }
        let alone = |at: &usize| self.disks[*at].reaches(c) && self.disks[*at].holds_alone(c, key);
        if self.breakage.one_leg_is_enough {
            return if self.legs(pool).iter().any(alone) {
                Ok(())
            } else {
                Err("no leg is fenced".to_owned())
            };
        }
        // The label counts only where it stands on fenced disks (K6).
        let (_, wanted) = self.current(c, pool)?;
        match wanted.iter().find(|at| !alone(at)) {
            Some(open) => Err(format!(
                "leg {} is not fenced: {:?}",
                self.disks[*open].of.1, self.disks[*open].keys
            )),
            None => Ok(()),
        }
    }

    fn import(
        &mut self,
        c: usize,
        pool: usize,
        key: ReservationKey,
        evidence: Option<Evidence>,
    ) -> Result<(), String> {
        if self.nodes[c].managers[pool]
            .imported
            .as_ref()
            .is_some_and(|held| held.key == key)
        {
            return Ok(());
        }
        if self.nodes[c].managers[pool].imported.is_some() {
            return Err("imported under another key".to_owned());
        }
        let (event, legs) = if self.breakage.one_leg_is_enough {
            let legs = self
                .legs(pool)
                .into_iter()
                .filter(|at| self.disks[*at].holds_alone(c, key));
            (1, legs.collect::<BTreeSet<_>>())
        } else {
            self.current(c, pool)?
        };
        // Exclusion has been proven by other means, or it is proven by the keys alone.
        let other_means = matches!(
            evidence,
            Some(Evidence::PowerOff { .. } | Evidence::Waited { .. } | Evidence::Rebooted { .. })
        ) || !self.setup.reservations;
        for leg in &legs {
            let resume = evidence.is_none();
            if (other_means || resume) && self.setup.reservations && !self.disks[*leg].holds_alone(c, key) {
                self.register(c, *leg, key);
            }
            let excluded = self.disks[*leg].holds_alone(c, key) || !self.setup.reservations;
            if !excluded && !self.breakage.fence_confirmed_blindly {
                return Err(format!(
                    "leg {} is not held alone: {:?}",
                    self.disks[*leg].of.1, self.disks[*leg].keys
                ));
            }
        }
        // Writes that reached some legs only are made whole, under the own key.
        let blocks: Vec<u64> = (0..BLOCKS)
            .map(|b| legs.iter().map(|at| self.disks[*at].blocks[b]).max().unwrap_or(0))
            .collect();
        let mut in_sync = BTreeSet::new();
        for at in &legs {
            while self.disks[*at].admit(c) == Status::Attention {}
            if self.disks[*at].admit(c) != Status::Good {
                return Err(format!("leg {} refuses writes", self.disks[*at].of.1));
            }
        }
        for at in &legs {
            self.disks[*at].blocks.clone_from(&blocks);
            self.disks[*at].label.event = event + 1;
            let leg = self.disks[*at].of.1;
            in_sync.insert(leg);
            self.fact(Fact::Wrote { c, pool, leg, key });
        }
        let cache = blocks.clone();
        let label = event + 1;
        self.nodes[c].managers[pool].imported = Some(Imported {
            key,
            published: false,
            quiesced: false,
            in_sync,
            label,
            cache,
        });
        self.say(|| format!("{} imported pool {pool} under {key:?}", id(c)));
        self.fact(Fact::Imported { c, pool, key, blocks });
        Ok(())
    }

    fn publish(&mut self, c: usize, pool: usize, key: ReservationKey) -> Result<(), String> {
        match &mut self.nodes[c].managers[pool].imported {
            Some(held) if held.key == key => {
                held.published = true;
                held.quiesced = false;
                Ok(())
            }
            _ => Err("not imported under this key".to_owned()),
        }
    }

    fn release(&mut self, c: usize, pool: usize, job: &Job, key: ReservationKey, step: usize) {
        if step == 0 {
            if self.nodes[c].managers[pool]
                .imported
                .as_ref()
                .is_some_and(|held| held.key != key)
            {
                return self.end_job(c, pool, Err("imported under another key".to_owned()));
            }
            if let Some(held) = &mut self.nodes[c].managers[pool].imported {
                held.quiesced = true;
            }
            return self.pool_step(c, pool, job.id, 1);
        }
        if self.nodes[c].operations.values().any(|op| op.pool == pool) {
            let busy = self.now < job.deadline;
            if busy {
                return self.pool_step(c, pool, job.id, 1);
            }
            return self.end_job(c, pool, Err("commands are in flight".to_owned()));
        }
        // A failure may strike before the export or after it.
        if job.fails && job.id.is_multiple_of(2) {
            return self.end_job(c, pool, Err("busy".to_owned()));
        }
        self.nodes[c].managers[pool].imported = None;
        for disk in self.legs(pool) {
            if self.disks[disk].keys[c] == Some(key) {
                self.disks[disk].unregister(c);
            }
        }
        self.say(|| format!("{} exported pool {pool}", id(c)));
        let result = if job.fails {
            Err("export: the answer was lost".to_owned())
        } else {
            Ok(())
        };
        self.end_job(c, pool, result);
    }

    fn stop_pool(&mut self, c: usize, pool: usize) {
        let manager = std::mem::take(&mut self.nodes[c].managers[pool]);
        for job in manager.job.into_iter().chain(manager.queue) {
            self.answer_job(c, pool, &job, Err("the pool was stopped".to_owned()));
        }
        self.nodes[c].operations.retain(|_, op| op.pool != pool);
        self.nodes[c].busy.retain(|(of, _), _| *of != pool);
    }

    fn stop_all(&mut self, c: usize, reason: StopReason) {
        self.stats.stops += 1;
        if self.breakage.stop_ignored {
            return;
        }
        self.nodes[c].stopped = Some(reason);
        for pool in 0..self.setup.pools.len() {
            self.stop_pool(c, pool);
        }
        let done = Event::PoolDone {
            pool: pool_id(0),
            generation: Generation::default(),
            step: PoolStep::StopAll,
            result: Ok(()),
        };
        self.tell_later(c, done, 1_000, 20_000);
        let (boot, span) = (self.nodes[c].boot, self.span(50_000, 500_000));
        self.after(
            span,
            Happening::Reset {
                c,
                boot,
                off: reason == StopReason::Shutdown,
            },
        );
    }

    fn key_check(&mut self, c: usize) {
        for pool in 0..self.setup.pools.len() {
            let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
                continue;
            };
            for disk in self.legs(pool) {
                let leg = &self.disks[disk];
                let readable = leg.reservations && leg.reaches(c) && leg.stuck_until <= self.now;
                if held.in_sync.contains(&leg.of.1) && readable && !leg.holds_alone(c, held.key) {
                    self.exclusion_lost(c, pool, disk);
                    break;
                }
            }
            self.resync(c, pool);
        }
    }

    fn exclusion_lost(&mut self, c: usize, pool: usize, disk: usize) {
        if self.breakage.silent_reregistration
            && let Some(held) = self.nodes[c].managers[pool].imported.clone()
            && self.register(c, disk, held.key)
        {
            return;
        }
        let holder = self.disks[disk].standing().filter(|key| key.controller != id(c));
        self.say(|| format!("{} exclusion of pool {pool} is lost: {holder:?}", id(c)));
        self.stats.exclusions_lost += 1;
        self.stop_pool(c, pool);
        self.tell_later(
            c,
            Event::ExclusionLost {
                pool: pool_id(pool),
                holder,
            },
            100,
            3_000,
        );
    }

    /// A leg that came back is made equal and counts again.
    fn resync(&mut self, c: usize, pool: usize) {
        let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
            return;
        };
        let legs = self.legs(pool);
        let usable =
            |world: &Self, at: usize| world.disks[at].reaches(c) && world.disks[at].stuck_until <= world.now;
        if held.quiesced || held.in_sync.len() == legs.len() || !legs.iter().all(|at| usable(self, *at)) {
            return;
        }
        let member = |world: &Self, at: usize| held.in_sync.contains(&world.disks[at].of.1);
        let reservations = self.setup.reservations;
        let mine = legs
            .iter()
            .filter(|at| member(self, **at))
            .all(|at| !reservations || self.disks[*at].holds_alone(c, held.key));
        if !mine || self.nodes[c].operations.values().any(|op| op.pool == pool) {
            return;
        }
        let Some(source) = legs.iter().find(|at| member(self, **at)).copied() else {
            return;
        };
        let blocks = self.disks[source].blocks.clone();
        for at in &legs {
            if !member(self, *at) && reservations && !self.register(c, *at, held.key) {
                return;
            }
        }
        let Some(held) = &mut self.nodes[c].managers[pool].imported else {
            return;
        };
        held.label += 1;
        let (label, key) = (held.label, held.key);
        for at in legs {
            let leg = self.disks[at].of.1;
            held.in_sync.insert(leg);
            self.disks[at].blocks.clone_from(&blocks);
            self.disks[at].label = crate::shelf::Label {
                event: label,
                failed: BTreeSet::new(),
            };
            self.facts.push(Fact::Wrote { c, pool, leg, key });
        }
        self.say(|| format!("{} pool {pool} is whole again", id(c)));
    }

    // Hosts.

    fn host(&mut self, stream: usize) {
        self.ops += 1;
        let (op, now) = (self.ops, self.now);
        let deed = if self.rng.chance(500_000) {
            self.values += 1;
            Deed::Write(self.values)
        } else {
            let entry = &self.streams[stream];
            Deed::Read {
                floor: self.floors[entry.pool][entry.block],
            }
        };
        let entry = &mut self.streams[stream];
        (entry.op, entry.deed, entry.attempt, entry.began) = (op, Some(deed), 0, now);
        self.attempt(stream);
    }

    fn attempt(&mut self, stream: usize) {
        let entry = &mut self.streams[stream];
        entry.attempt += 1;
        let (c, op, attempt) = (entry.path, entry.op, entry.attempt);
        let boot = self.nodes[c].boot;
        let span = self.span(50, 500);
        self.after(span, Happening::Command { c, boot, stream, op });
        self.after(HOST_PATIENCE, Happening::Patience { stream, op, attempt });
    }

    fn patience(&mut self, stream: usize, op: u64, attempt: u32) {
        let entry = &mut self.streams[stream];
        if entry.op == op && entry.attempt == attempt && entry.deed.is_some() {
            entry.path = 1 - entry.path;
            self.attempt(stream);
        }
    }

    /// Not here, not now: the host tries its other path soon.
    fn refuse(&mut self, stream: usize, op: u64) {
        let entry = &mut self.streams[stream];
        if entry.op == op && entry.deed.is_some() {
            entry.attempt += 1;
            let attempt = entry.attempt;
            let span = self.span(20_000, 200_000);
            self.after(span, Happening::Patience { stream, op, attempt });
        }
    }

    fn command(&mut self, c: usize, boot: u32, stream: usize, host: u64) {
        let entry = self.streams[stream].clone();
        // A command that its host has given up is aborted with its connection.
        let Some(deed) = entry.deed.filter(|_| entry.op == host) else {
            return;
        };
        let held = self.nodes[c].managers[entry.pool].imported.as_ref();
        let alive = self.nodes[c].boot == boot && self.nodes[c].up && self.nodes[c].stopped.is_none();
        let Some(key) = held
            .filter(|held| alive && held.published && !held.quiesced)
            .map(|held| held.key)
        else {
            return self.refuse(stream, host);
        };
        self.ops += 1;
        let (op, pool, block) = (self.ops, entry.pool, entry.block);
        let operation = Operation {
            stream,
            host,
            pool,
            block,
            deed,
            key,
            waiting: BTreeSet::new(),
            value: 0,
            retries: 0,
        };
        self.nodes[c].operations.insert(op, operation);
        let queue = self.nodes[c].busy.entry((pool, block)).or_default();
        queue.push_back(op);
        if queue.len() == 1 {
            self.issue(c, op);
        }
    }

    fn leg_latency(&mut self) -> u64 {
        self.span(100, 4_000) + self.rng.range(0, self.setup.leg_slowness)
    }

    /// A command of a host goes to the disks.
    fn issue(&mut self, c: usize, op: u64) {
        let boot = self.nodes[c].boot;
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        match operation.deed {
            Deed::Read { .. } => {
                let span = self.leg_latency();
                self.after(span, Happening::LegRead { c, boot, op });
            }
            Deed::Write(value) => {
                let Some(held) = &self.nodes[c].managers[operation.pool].imported else {
                    return;
                };
                let legs: BTreeSet<usize> = held.in_sync.clone();
                for leg in &legs {
                    let span = self.leg_latency();
                    self.after(
                        span,
                        Happening::LegWrite {
                            c,
                            boot,
                            op,
                            leg: *leg,
                        },
                    );
                }
                if let Some(operation) = self.nodes[c].operations.get_mut(&op) {
                    operation.waiting = legs;
                    operation.value = value;
                }
                if self.breakage.early_acknowledgement {
                    self.reply(c, op);
                }
            }
        }
    }

    fn disk_of(&self, pool: usize, leg: usize) -> usize {
        self.disks
            .iter()
            .position(|disk| disk.of == (pool, leg))
            .unwrap_or(0)
    }

    fn leg_write(&mut self, c: usize, boot: u32, op: u64, leg: usize) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let disk = self.disk_of(operation.pool, leg);
        let entry = &mut self.disks[disk];
        if entry.reaches(c) && entry.stuck_until > self.now {
            let at = entry.stuck_until + 1;
            return self.at(at, Happening::LegWrite { c, boot, op, leg });
        }
        let status = entry.admit(c);
        if status == Status::Good {
            entry.blocks[operation.block] = operation.value;
            self.fact(Fact::Wrote {
                c,
                pool: operation.pool,
                leg,
                key: operation.key,
            });
        }
        let span = self.span(50, 500);
        self.after(
            span,
            Happening::LegDone {
                c,
                boot,
                op,
                leg,
                status,
            },
        );
    }

    fn leg_done(&mut self, c: usize, boot: u32, op: u64, leg: usize, status: Status) {
        let Some(operation) = self.nodes[c].operations.get_mut(&op) else {
            return;
        };
        let (pool, key) = (operation.pool, operation.key);
        let disk = self.disk_of(pool, leg);
        let Some(operation) = self.nodes[c].operations.get_mut(&op) else {
            return;
        };
        let again = |world: &mut Self| {
            let span = world.leg_latency() + 100 * MS;
            world.after(span, Happening::LegWrite { c, boot, op, leg });
        };
        match status {
            Status::Good => {
                operation.waiting.remove(&leg);
                if operation.waiting.is_empty() {
                    let (block, value) = (operation.block, operation.value);
                    if let Some(held) = &mut self.nodes[c].managers[pool].imported {
                        held.cache[block] = value;
                    }
                    self.reply(c, op);
                }
            }
            Status::Attention if self.disks[disk].holds_alone(c, key) || !self.setup.reservations => {
                let span = self.leg_latency();
                self.after(span, Happening::LegWrite { c, boot, op, leg });
            }
            Status::Attention | Status::Conflict => self.exclusion_lost(c, pool, disk),
            Status::Lost => {
                operation.retries += 1;
                let patient = operation.retries < 8;
                if patient || !self.drop_leg(c, pool, leg) {
                    return again(self);
                }
                // Every command that waits for the leg goes on without it.
                let mut waiting = Vec::new();
                for (op, other) in self.nodes[c]
                    .operations
                    .iter_mut()
                    .filter(|(_, other)| other.pool == pool)
                {
                    if other.waiting.remove(&leg) && other.waiting.is_empty() {
                        waiting.push(*op);
                    }
                }
                for op in waiting {
                    self.reply(c, op);
                }
            }
        }
    }

    /// Calls a leg failed on every other leg in sync; only then may writes go without it.
    fn drop_leg(&mut self, c: usize, pool: usize, leg: usize) -> bool {
        let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
            return false;
        };
        let rest: Vec<usize> = held
            .in_sync
            .iter()
            .filter(|other| **other != leg)
            .map(|other| self.disk_of(pool, *other))
            .collect();
        let good = |world: &mut Self, at: usize| {
            world.disks[at].stuck_until <= world.now && world.disks[at].admits(c)
        };
        if !held.in_sync.contains(&leg) || rest.is_empty() || !rest.iter().all(|at| good(self, *at)) {
            return false;
        }
        let Some(held) = &mut self.nodes[c].managers[pool].imported else {
            return false;
        };
        held.label += 1;
        held.in_sync.remove(&leg);
        let (label, key, in_sync) = (held.label, held.key, held.in_sync.clone());
        let failed: BTreeSet<usize> = (0..self.setup.pools[pool].legs)
            .filter(|at| !in_sync.contains(at))
            .collect();
        for at in rest {
            self.disks[at].label = crate::shelf::Label {
                event: label,
                failed: failed.clone(),
            };
            let leg = self.disks[at].of.1;
            self.fact(Fact::Wrote { c, pool, leg, key });
        }
        self.say(|| format!("{} pool {pool} goes on without leg {leg}", id(c)));
        true
    }

    fn leg_read(&mut self, c: usize, op: u64) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let Some(held) = &self.nodes[c].managers[operation.pool].imported else {
            return;
        };
        let value = held.cache[operation.block];
        if let Some(operation) = self.nodes[c].operations.get_mut(&op) {
            operation.value = value;
        }
        if !self.nodes[c].paused {
            self.reply(c, op);
        } else {
            self.nodes[c].held.push(op);
        }
    }

    /// The reply leaves, if the lease is fresh; otherwise it is held.
    fn reply(&mut self, c: usize, op: u64) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let (pool, block, key, stream) = (operation.pool, operation.block, operation.key, operation.stream);
        if !self.fresh(c) {
            self.stats.held += 1;
            self.nodes[c].held.push(op);
            return;
        }
        let what = match operation.deed {
            Deed::Write(value) => Answer::Write { block, value },
            Deed::Read { floor } => Answer::Read {
                block,
                value: operation.value,
                floor,
            },
        };
        if let Deed::Write(value) = operation.deed {
            let floor = &mut self.floors[pool][block];
            *floor = (*floor).max(value);
        }
        self.fact(Fact::Replied { c, pool, key, what });
        self.nodes[c].operations.remove(&op);
        let next = self.nodes[c].busy.get_mut(&(pool, block)).and_then(|queue| {
            queue.retain(|other| *other != op);
            queue.front().copied()
        });
        if let Some(next) = next {
            self.issue(c, next);
        }
        let now = self.now;
        let entry = &mut self.streams[stream];
        if entry.op == operation.host && entry.deed.take().is_some() {
            entry.answered = entry.began;
            self.stats.pause(now - entry.began);
            let span = self.rng.range(20 * MS, self.setup.host_idle);
            self.after(span, Happening::Host { stream });
        }
    }

    // The configuration.

    fn tell_config(&mut self, c: usize) {
        if self.nodes[c].core.is_some() {
            let status = self.nodes[c].keeper.status(self.nodes[c].incarnation);
            self.tell_later(c, Event::Config(status), 50, 2_000);
        }
    }

    fn settle(&mut self, c: usize) {
        let incarnation = self.nodes[c].incarnation;
        let entries = self.nodes[c].keeper.settle(incarnation);
        let changed = !entries.is_empty();
        for entry in entries {
            self.fact(Fact::Acknowledged { c, entry });
        }
        if changed {
            self.tell_config(c);
        }
    }

    fn change(&mut self) {
        let span = self.rng.range(200 * MS, self.setup.change_idle);
        self.after(span, Happening::Change);
        for c in [A, B] {
            let node = &mut self.nodes[c];
            if !node.up || node.paused || node.stopped.is_some() {
                continue;
            }
            self.entries += 1;
            let entry = self.entries;
            if node.keeper.append(node.incarnation, entry) {
                self.tell_config(c);
                if self.breakage.lone_acknowledgement {
                    self.fact(Fact::Acknowledged { c, entry });
                }
                self.settle(c);
                self.push(c);
            }
        }
    }

    fn push(&mut self, c: usize) {
        if self.nodes[c].stopped.is_some() {
            return;
        }
        let incarnation = self.nodes[c].incarnation;
        if let Some(message) = self.nodes[c].keeper.push(incarnation) {
            self.post(c, message);
        }
    }

    fn keeper(&mut self, c: usize, message: Message) {
        let joined = matches!(message, Message::Log { .. });
        let answered = matches!(message, Message::Have { .. });
        let incarnation = self.nodes[c].incarnation;
        let before = base_of(&self.nodes[c].keeper.log);
        if self.nodes[c].stopped.is_some() {
            return;
        }
        if let Some(answer) = self.nodes[c].keeper.receive(incarnation, message) {
            self.post(c, answer);
        }
        if answered {
            self.settle(c);
        }
        let after = base_of(&self.nodes[c].keeper.log);
        if after != before {
            self.tell_config(c);
        }
        if joined && self.nodes[c].catch_up && self.nodes[c].keeper.round.take().is_some() {
            self.nodes[c].catch_up = false;
            self.tell_later(
                c,
                Event::ConfigCaughtUp {
                    log: after,
                    equal: true,
                },
                100,
                3_000,
            );
        }
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
                whose,
                issued,
            } if self.boot_is(c, boot) => {
                self.quorum_read(c, life, boot, id, disk, whose, issued);
            }
            H::Daemon { c, boot } if self.boot_is(c, boot) => self.daemon(c, boot),
            H::Observe { c, life } => self.observe(c, life),
            H::Boot { c, boot } if self.boot_is(c, boot) => self.boot(c),
            H::Reset { c, boot, off } if self.boot_is(c, boot) => {
                if off {
                    self.power_cut(c);
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
            H::LegWrite { c, boot, op, leg } if self.boot_is(c, boot) => self.leg_write(c, boot, op, leg),
            H::LegDone {
                c,
                boot,
                op,
                leg,
                status,
            } if self.boot_is(c, boot) => self.leg_done(c, boot, op, leg, status),
            H::LegRead { c, boot, op } if self.boot_is(c, boot) => self.leg_read(c, op),
            H::Host { stream } => self.host(stream),
            H::Command { c, boot, stream, op } => self.command(c, boot, stream, op),
            H::Patience { stream, op, attempt } => self.patience(stream, op, attempt),
            H::Keeper { c, boot, message } if self.boot_is(c, boot) => self.keeper(c, message),
            H::KeeperTick { c, boot } if self.boot_is(c, boot) => {
                self.push(c);
                let span = self.span(100_000, 200_000);
                self.after(span, H::KeeperTick { c, boot });
            }
            H::Frozen { c, boot, life, epoch } if self.boot_is(c, boot) => {
                self.nodes[c].keeper.freeze(epoch);
                let status = self.nodes[c].keeper.status(self.nodes[c].incarnation);
                if self.nodes[c].life == life {
                    self.tell(c, Event::ConfigFrozen { epoch, status });
                }
            }
            H::Change => self.change(),
            H::Resume { c, boot } if self.boot_is(c, boot) => self.resume(c),
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
            | H::Frozen { .. }
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

    /// Every stream of a pool was answered a command that began after `since`.
    pub(crate) fn answered_since(&self, pool: usize, since: u64) -> bool {
        self.streams
            .iter()
            .filter(|stream| stream.pool == pool)
            .all(|stream| stream.answered > since)
    }

    /// The highest record that anybody has acted on.
    pub(crate) fn record(&self) -> Record {
        self.invariants.highest()
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
        }
        if self.nodes[A].keeper.log != self.nodes[B].keeper.log {
            return Err("the configurations differ".to_owned());
        }
        if !self.nodes[A].keeper.acknowledging(self.nodes[A].incarnation) {
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
            self.fact(Fact::ExclusionLost { pool, leg, key });
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
