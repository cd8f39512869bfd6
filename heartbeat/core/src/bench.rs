//! A test bench: two cores, three quorum disks with two spare ones and a wire on one table, and a hand for every lead.
//!
//! The simulator plays whole arrays under faults that nobody has thought of. Here a test brings two cores into one
//! situation, turns one thing, and looks at what they say: the words, the instants, the single effect. Everything is
//! answered at once and in order; what a test wants answered badly or not at all it says before.
//!
//! It must never decide anything that a core decides.

use crate::area::{Area, Content, Unread};
use crate::effect::{BlockId, Effect, Note, Plan, Refusal};
use crate::event::{ConfigStatus, Event, Import, PoolInfo, PoolStep, Power, Request, RequestId};
use crate::machine::{Core, Params};
use crate::set::{QuorumSet, Seat};
use crate::status::Blocker;
use crate::time::Instant;
use crate::timing::{Profile, Timing};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Generation, Incarnation, PoolId};

pub(crate) const A: ControllerId = ControllerId::A;
pub(crate) const B: ControllerId = ControllerId::B;

/// A pool at home on `a`, and one at home on `b`.
pub(crate) const POOLS: [PoolId; 2] = [PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16])];

/// What a step that a core asks for comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// Done at once.
    Well,
    /// It fails at once.
    Badly,
    /// No answer.
    Never,
}

/// How a quorum disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    ReadOnly,
    Gone,
}

/// Two controllers on a table.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) now: Instant,
    /// None: it is off.
    pub(crate) cores: [Option<Core>; 2],
    /// What stands on each quorum disk, by writer.
    pub(crate) disks: Vec<[Area; 2]>,
    /// The wire carries, from that controller.
    pub(crate) wire: [bool; 2],
    /// The shelf answers that controller.
    pub(crate) shelf: [bool; 2],
    /// Each quorum disk, for both.
    pub(crate) health: [Health; DISKS],
    /// As which quorum disk each disk is formatted; none: it is blank.
    pub(crate) seats: [Option<Seat>; DISKS],
    /// How the formatting of a disk ends.
    pub(crate) formats: Comes,
    /// Ballots can be written.
    pub(crate) ballots: bool,
    /// The power control answers.
    pub(crate) power: bool,
    /// The keeper answers a freeze.
    pub(crate) keeper: bool,
    /// The watchdog can be armed.
    pub(crate) watchdog: bool,
    /// How fences end.
    pub(crate) fences: Comes,
    /// How steps of pools end, where not well.
    pub(crate) steps: BTreeMap<PoolStep, Comes>,
    pub(crate) config: [ConfigStatus; 2],
    /// Everything that was asked for since it was last taken.
    pub(crate) said: Vec<(ControllerId, Effect)>,
    events: VecDeque<(ControllerId, Event)>,
}

/// Disks on the table: those of [`set`], and spare ones.
const DISKS: usize = 5;

/// The pools of the configuration.
pub(crate) fn configured() -> Vec<PoolInfo> {
    [(POOLS[0], A), (POOLS[1], B)]
        .map(|(pool, home)| PoolInfo { pool, home })
        .to_vec()
}

/// The quorum disks.
pub(crate) fn set() -> QuorumSet {
    QuorumSet::first(&[0, 1, 2].map(DiskIndex::new)).unwrap()
}

/// What the bench gives a controller to live by.
pub(crate) fn params(controller: ControllerId, incarnation: u64) -> Params {
    Params {
        array: ArrayId::from_bytes([9; 16]),
        controller,
        incarnation: Incarnation::new(incarnation),
        set: set(),
        timing: Timing::derive(Profile::Fast),
        seed: 7 * incarnation + controller.index() as u64,
        power_rung: true,
        reservation_rung: true,
        pausable: false,
        auto_giveback: false,
    }
}

impl Bench {
    /// Both are off, and the disks are formatted.
    pub(crate) fn new() -> Self {
        let area = Area::formatted(set());
        Self {
            now: Instant::from_nanos(1_000_000_000_000),
            cores: [None, None],
            disks: alloc::vec![[area.clone(), area]; DISKS],
            wire: [true; 2],
            shelf: [true; 2],
            health: [Health::Good; DISKS],
            seats: core::array::from_fn(|disk| set().seats().nth(disk)),
            formats: Comes::Well,
            ballots: true,
            power: true,
            keeper: true,
            watchdog: true,
            fences: Comes::Well,
            steps: BTreeMap::new(),
            config: [ConfigStatus::default(); 2],
            said: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Both serve, each its own pool, and nothing is under way.
    pub(crate) fn whole() -> Self {
        Self::new().made_whole([params(A, 1), params(B, 1)])
    }

    /// The same, from a bench on which both are off.
    pub(crate) fn made_whole(mut self, both: [Params; 2]) -> Self {
        for params in both {
            self.boot(params);
        }
        let mut bench = self;
        bench.until("both are members and every pool is served", |bench| {
            let served = |pool: &PoolId| [A, B].iter().any(|who| bench.serves(*who, *pool));
            bench.core(A).record().members.both() && POOLS.iter().all(served)
        });
        // Who was there first has taken everything.
        let away = if bench.serves(A, POOLS[1]) { A } else { B };
        bench.run(Duration::from_secs(2));
        bench.ask(away, Request::Giveback(None)).unwrap();
        bench.until("every pool is at home", |bench| {
            bench.serves(A, POOLS[0]) && bench.serves(B, POOLS[1])
        });
        bench.run(Duration::from_secs(2));
        bench.said.clear();
        bench
    }

    /// `a` serves alone: `b` went down, with its power reported off, and was fenced.
    pub(crate) fn alone() -> Self {
        let mut bench = Self::whole();
        bench.cores[B.index()] = None;
        bench.until("a serves both", |bench| {
            POOLS.iter().all(|pool| bench.serves(A, *pool))
        });
        bench.run(Duration::from_secs(1));
        bench.said.clear();
        bench
    }

    pub(crate) fn core(&self, who: ControllerId) -> &Core {
        self.cores[who.index()].as_ref().unwrap()
    }

    /// That controller serves the pool.
    pub(crate) fn serves(&self, who: ControllerId, pool: PoolId) -> bool {
        let core = self.cores[who.index()].as_ref();
        core.is_some_and(|core| core.pool_state(pool) == Some("serving"))
    }

    pub(crate) fn core_mut(&mut self, who: ControllerId) -> &mut Core {
        self.cores[who.index()].as_mut().unwrap()
    }

    /// A controller starts, with nothing imported.
    pub(crate) fn boot(&mut self, params: Params) {
        self.start(params, Vec::new());
    }

    /// A daemon starts, and finds this imported.
    pub(crate) fn start(&mut self, params: Params, imports: Vec<Import>) {
        let who = params.controller;
        self.events.retain(|(to, _)| *to != who);
        self.cores[who.index()] = Some(Core::new(params, self.now).unwrap());
        let status = self.config[who.index()];
        for event in [
            Event::Tick,
            Event::Pools(configured()),
            Event::Imports(imports),
            Event::Config(status),
        ] {
            self.events.push_back((who, event));
        }
        self.settle();
    }

    /// Tells a controller something, and lets everything that follows at this instant happen.
    pub(crate) fn tell(&mut self, who: ControllerId, event: Event) {
        self.events.push_back((who, event));
        self.settle();
    }

    /// Asks as an operator does.
    pub(crate) fn ask(&mut self, who: ControllerId, request: Request) -> Result<Plan, Refusal> {
        let id = RequestId(17);
        self.said.clear();
        self.tell(who, Event::Request { id, request });
        let answers = self.said.iter().filter_map(|(from, effect)| match effect {
            Effect::Answer { id: of, result } if *from == who && *of == id => Some(result.clone()),
            _ => None,
        });
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers.len(), 1, "one answer to one request");
        answers.into_iter().next().unwrap()
    }

    /// What a controller says that it is doing, one after the other, while this much time passes.
    pub(crate) fn states(&mut self, who: ControllerId, span: Duration) -> Vec<&'static str> {
        let end = self.now + span;
        let mut states = alloc::vec![self.core(who).state(self.now)];
        while self.turn(end) {
            states.push(self.core(who).state(self.now));
        }
        states.dedup();
        states
    }

    /// Lets this much time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.turn(end) {}
        self.now = end;
        self.tick();
    }

    /// Lets time pass until something is so; a minute at most.
    pub(crate) fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = self.now + Duration::from_secs(60);
        while !so(self) {
            assert!(self.turn(end), "not within a minute: {what}; {:?}", self.whys());
        }
    }

    /// The next instant at which a core wants to be called; false: not before `end`.
    fn turn(&mut self, end: Instant) -> bool {
        let next = self.cores.iter().flatten().map(Core::next_deadline).min();
        let Some(next) = next.map(|at| at.max(self.now)).filter(|at| *at < end) else {
            return false;
        };
        self.now = next;
        self.tick();
        // A core that asks for this very instant again would never let it end.
        assert!(
            self.cores
                .iter()
                .flatten()
                .all(|core| core.next_deadline() > self.now),
            "a deadline lies in the past"
        );
        true
    }

    fn tick(&mut self) {
        for who in ControllerId::ALL {
            self.events.push_back((who, Event::Tick));
        }
        self.settle();
    }

    fn settle(&mut self) {
        let mut turns = 0;
        while let Some((who, event)) = self.events.pop_front() {
            turns += 1;
            assert!(turns < 10_000, "one instant has no end: {event:?}");
            let Some(core) = &mut self.cores[who.index()] else {
                continue;
            };
            let leased = core.lease_until;
            for effect in core.handle(self.now, event) {
                // The contract with every driver.
                if let Effect::GrantLease { until, .. } = effect
                    && until != Instant::ZERO
                {
                    assert!(
                        until > self.now && until > leased,
                        "a lease that grants nothing: {until}"
                    );
                }
                self.said.push((who, effect.clone()));
                self.carry_out(who, effect);
            }
        }
    }

    fn carry_out(&mut self, who: ControllerId, effect: Effect) {
        let now = self.now;
        let at = who.index();
        let answer = match effect {
            Effect::WriteBlock {
                id,
                disk,
                block,
                content,
            } => {
                let ballot = matches!(block, BlockId::Vote0 | BlockId::Vote1);
                let good = self.health[usize::from(disk.disk.get())] == Health::Good;
                assert_eq!(
                    self.seats[usize::from(disk.disk.get())],
                    Some(disk),
                    "a write to a disk that is nobody's"
                );
                let taken = self.shelf[at] && good && (self.ballots || !ballot);
                let result = if taken { Ok(()) } else { Err(()) };
                if result.is_ok() {
                    self.write(who, disk.disk, block, content);
                }
                Event::WriteDone {
                    id,
                    submitted: now,
                    result,
                }
            }
            Effect::ReadArea { id, disk, whose } => {
                let shown = self.shelf[at] && self.health[usize::from(disk.disk.get())] != Health::Gone;
                let area = match self.seats[usize::from(disk.disk.get())] {
                    _ if !shown => Area::unread(Unread::Io),
                    Some(seat) if seat == disk => {
                        self.disks[usize::from(disk.disk.get())][whose.index()].clone()
                    }
                    Some(seat) => Area {
                        elsewhere: self.disks[usize::from(disk.disk.get())][whose.index()]
                            .vote
                            .ok()
                            .map(|vote| vote.decided),
                        ..Area::unread(Unread::SetGeneration(seat.since))
                    },
                    None => Area::unread(Unread::Blank),
                };
                Event::ReadDone {
                    id,
                    issued: now,
                    area,
                }
            }
            // Every disk is open.
            Effect::UseDisks(_) => return,
            Effect::FormatDisk { seat, parts } => {
                let Some(result) = comes(self.formats) else { return };
                if result.is_ok() {
                    let disk = usize::from(seat.disk.get());
                    (self.seats[disk], self.disks[disk]) = (Some(seat), *parts);
                }
                Event::DiskFormatted { seat, result }
            }
            Effect::Send(datagram) => {
                if self.wire[at] {
                    self.events.push_back((who.partner(), Event::Received(datagram)));
                }
                return;
            }
            Effect::ArmWatchdog { .. } => Event::Watchdog { armed: self.watchdog },
            Effect::QueryPower | Effect::PowerOff(_) => {
                if !self.power {
                    return;
                }
                if matches!(effect, Effect::PowerOff(_)) {
                    self.cores[who.partner().index()] = None;
                }
                let on = self.cores[who.partner().index()].is_some();
                let state = if on { Power::On } else { Power::Off };
                Event::Power { state, asked: now }
            }
            Effect::ConfigFreeze { epoch } => {
                // One that goes by a record does not stand still for an epoch that is not above it.
                if !self.keeper || self.config[at].epoch >= Some(epoch) {
                    return;
                }
                self.config[at].frozen = Some(epoch);
                Event::ConfigFrozen {
                    epoch,
                    status: self.config[at],
                }
            }
            Effect::ConfigUnfreeze { .. } => {
                self.config[at].frozen = None;
                Event::Config(self.config[at])
            }
            // Of an older one it takes no notice.
            Effect::ConfigEpoch { record, .. } => {
                if self.config[at].epoch > Some(record.epoch) {
                    return;
                }
                self.config[at].frozen = None;
                self.config[at].epoch = Some(record.epoch);
                Event::Config(self.config[at])
            }
            Effect::ConfigProbe { base } => Event::ConfigProbed {
                base,
                contained: true,
            },
            Effect::ConfigCatchUp => {
                self.config[at].log = self.config[who.partner().index()].log;
                Event::ConfigCaughtUp {
                    log: self.config[at].log,
                    equal: true,
                }
            }
            Effect::FencePool { pool, key, .. } => {
                let Some(result) = comes(self.fences) else { return };
                Event::FenceDone { pool, key, result }
            }
            Effect::TakePool { pool, key, .. } => {
                return self.step(who, pool, key.generation, PoolStep::Take);
            }
            Effect::PublishPool { pool, key } => {
                return self.step(who, pool, key.generation, PoolStep::Publish);
            }
            Effect::ReleasePool { pool, key } => {
                return self.step(who, pool, key.generation, PoolStep::Release);
            }
            Effect::ResumePool { pool, key } => {
                return self.step(who, pool, key.generation, PoolStep::Resume);
            }
            Effect::StopPool { pool, generation, .. } => {
                return self.step(who, pool, generation, PoolStep::Stop);
            }
            Effect::GrantLease { .. }
            | Effect::Pet
            | Effect::StopAll { .. }
            | Effect::DeletePool { .. }
            | Effect::Route { .. }
            | Effect::Answer { .. }
            | Effect::Note(_) => return,
        };
        self.events.push_back((who, answer));
    }

    fn step(&mut self, who: ControllerId, pool: PoolId, generation: Generation, step: PoolStep) {
        if let Some(result) = comes(self.steps.get(&step).copied().unwrap_or(Comes::Well)) {
            self.events.push_back((
                who,
                Event::PoolDone {
                    pool,
                    generation,
                    step,
                    result,
                },
            ));
        }
    }

    fn write(&mut self, who: ControllerId, disk: DiskIndex, block: BlockId, content: Content) {
        let area = &mut self.disks[usize::from(disk.get())][who.index()];
        match (block, content) {
            (BlockId::Slot, Content::Slot(slot)) => area.slot = Ok(slot),
            (BlockId::Vote0 | BlockId::Vote1, Content::Vote(vote)) => area.vote = Ok(vote),
            (BlockId::Claims, Content::Claims(claims)) => area.claims = Ok(claims),
            (BlockId::Mailbox, Content::Letter(letter)) => area.letter = Ok(letter),
            (block, content) => panic!("{block:?} is no place for {content:?}"),
        }
    }

    /// What that controller has asked for since this was last asked, but for what it does all the time.
    pub(crate) fn heard(&mut self, who: ControllerId) -> Vec<Effect> {
        let said = core::mem::take(&mut self.said);
        let said = said
            .into_iter()
            .filter(|(from, _)| *from == who)
            .map(|(_, effect)| effect);
        let ordinary = |effect: &Effect| {
            matches!(
                effect,
                Effect::WriteBlock { .. }
                    | Effect::ReadArea { .. }
                    | Effect::Send(_)
                    | Effect::GrantLease { .. }
                    | Effect::UseDisks(_)
                    | Effect::Pet
            )
        };
        said.filter(|effect| !ordinary(effect)).collect()
    }

    /// The notes that it has made since.
    pub(crate) fn notes(&mut self, who: ControllerId) -> Vec<Note> {
        let heard = self.heard(who);
        heard
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Note(note) => Some(note),
                _ => None,
            })
            .collect()
    }

    /// What each says stands in its way.
    fn whys(&self) -> Vec<(ControllerId, &'static str, Vec<Blocker>)> {
        let cores = self.cores.iter().flatten();
        cores
            .map(|core| (core.me(), core.state(self.now), core.why(self.now)))
            .collect()
    }

    /// The alarms that stand there, by id and subject.
    pub(crate) fn alarms(&self, who: ControllerId) -> Vec<(&'static str, String)> {
        let status = self.core(who).status(self.now);
        status
            .alarms
            .into_iter()
            .map(|alarm| (alarm.id, alarm.subject))
            .collect()
    }
}

fn comes(how: Comes) -> Option<Result<(), String>> {
    match how {
        Comes::Well => Some(Ok(())),
        Comes::Badly => Some(Err("it did not work".to_string())),
        Comes::Never => None,
    }
}
