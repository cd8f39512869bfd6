//! The arbitration alone: two proposers, one or three quorum disks, every order of everything.
//!
//! Two clerks, each with one form per pigeonhole and a carbon copy of it. A clerk may faint with a form half way in: it
//! then lies there old, new, or spoilt. Whoever comes to in his place reads what most of the pigeonholes hold of his own
//! forms and goes on from there.
//!
//! It maps to the shipped [`Arbiter`], with the disks and the order of writes and reads around it as the core keeps it:
//! content is fixed when a write is handed over; there is no second write to a disk before the first has ended; the
//! second copy follows the first; a disk counts by a read that came after the present ballot was durable there. A read
//! that is answered late is a read that came early and is not counted, so reads are one step.
//!
//! Promises: one decided record per epoch, for whoever learns it in whatever way (S2); nothing is decided that nobody
//! wished; from every state each proposer, left alone and with its disks readable, comes to a decision.

use crate::fingerprint;
use crate::search::{Violation, World};
use pollux_api::id::{ControllerId, DiskIndex, Epoch, Incarnation};
use pollux_heartbeat_core::arbiter::{Arbiter, Progress};
use pollux_heartbeat_core::record::{Base, Members, Mode, Record, Vote};
use pollux_heartbeat_core::{Number, QuorumSet, Seat};
use std::collections::BTreeMap;

/// The bound of a world of proposers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bound {
    /// Quorum disks.
    pub(crate) disks: usize,
    /// Proposals of each controller.
    pub(crate) proposals: [u8; 2],
    /// Ends of each controller, each with the writes that are on their way lost, landed or torn.
    pub(crate) deaths: [u8; 2],
    /// Disks that lose everything that stands on them.
    pub(crate) wipes: u8,
    /// Copies of ballots that rot.
    pub(crate) rots: u8,
    /// Breakage of the model's own world: what is wiped reads as formatted, "nobody has voted".
    pub(crate) blank_is_empty: bool,
    /// Breakage: a write is confirmed and does not reach the disk, so often.
    pub(crate) forgotten: u8,
    /// Disks that a formats to put them in the place of one that leaves; there is one disk more, then.
    pub(crate) changes: u8,
    /// Breakage: a change is done in one record, with no joint set between the old and the new.
    pub(crate) at_once: bool,
}

impl Bound {
    fn all_disks(&self) -> usize {
        self.disks + usize::from(self.changes > 0)
    }
}

/// Both copies of one controller's ballot on one disk; `None`: unreadable.
type Copies = [Option<Vote>; 2];

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Way {
    /// A write that was handed over; whether it carries the present ballot; as which seat of the set.
    flight: Option<(Vote, bool, Seat)>,
    /// The present ballot is durable here.
    durable: bool,
    /// And this disk was counted since.
    counted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposer {
    /// None while it is down.
    arbiter: Option<Arbiter>,
    version: u64,
    /// Its wish differs from life to life.
    life: u8,
    promised: bool,
    /// A disk that was formatted here and may be proposed.
    ready: Option<Seat>,
    ways: Vec<Way>,
}

/// Two proposers and their disks.
#[derive(Clone, Debug)]
pub(crate) struct Proposers {
    bound: Bound,
    sides: [Proposer; 2],
    disks: Vec<[Copies; 2]>,
    /// As which seat each disk is formatted.
    seats: Vec<Option<Seat>>,
    decided: BTreeMap<Epoch, Record>,
    /// A recovery in which this one acts alone, until it has decided this epoch.
    alone: Option<(usize, Epoch)>,
}

/// What becomes of a write whose writer dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Lost,
    Landed,
    FirstTorn,
    FirstOnly,
    SecondTorn,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Propose(usize),
    /// A wish is voted for, or withdrawn.
    Promised(usize, Wish),
    /// A disk that is not in the set is formatted.
    Format(usize),
    Land(usize, usize),
    /// It is confirmed, and the disk has forgotten it.
    Forget(usize, usize),
    Read(usize, usize),
    /// The fates of the writes that are on their way, by disk.
    Die(usize, [Fate; DISKS_MAX]),
    /// A start that reads its own ballot from every disk but this one (255: from all).
    Start(usize, usize),
    Wipe(usize),
    Rot(usize, usize, usize),
}

/// What a proposer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    /// Itself alone, on the same disks.
    Alone,
    /// And a disk that leaves.
    Begin,
    /// And that it has left.
    End,
}

/// Disks of the largest world.
const DISKS_MAX: usize = 4;

const FATES: [Fate; 5] = [
    Fate::Lost,
    Fate::Landed,
    Fate::FirstTorn,
    Fate::FirstOnly,
    Fate::SecondTorn,
];

fn id(c: usize) -> ControllerId {
    ControllerId::ALL[c]
}

fn index(disk: usize) -> DiskIndex {
    DiskIndex::new(disk as u16)
}

fn genesis(disks: usize) -> Vote {
    let disks: Vec<DiskIndex> = (0..disks).map(index).collect();
    Vote::after(Record::genesis(QuorumSet::first(&disks).unwrap_or_default()))
}

/// The later of the valid copies, as the layout's decoder takes it.
fn later(copies: &Copies) -> Option<Vote> {
    match *copies {
        [Some(first), Some(second)] if age(&second) > age(&first) => Some(second),
        [first, second] => first.or(second),
    }
}

fn age(vote: &Vote) -> (u64, u64, u64) {
    (vote.instance.get(), vote.mbal.get(), vote.bal.get())
}

impl Proposer {
    fn fall(&mut self) {
        self.arbiter = None;
        self.version = 0;
        self.promised = false;
        self.ready = None;
        self.ways.fill(Way::default());
    }
}

impl Proposers {
    pub(crate) fn new(bound: Bound) -> Self {
        let first = genesis(bound.disks).decided.disks;
        let member = |disk: usize| first.seat(index(disk));
        let all = bound.all_disks();
        let side = |c| Proposer {
            arbiter: Some(Arbiter::new(id(c), genesis(bound.disks))),
            version: 1,
            life: 0,
            promised: false,
            ready: None,
            ways: vec![
                Way {
                    flight: None,
                    durable: true,
                    counted: true,
                };
                all
            ],
        };
        let stands = |disk| [[member(disk).map(|_| genesis(bound.disks)); 2]; 2];
        Self {
            bound,
            sides: [side(0), side(1)],
            disks: (0..all).map(stands).collect(),
            seats: (0..all).map(member).collect(),
            decided: BTreeMap::new(),
            alone: None,
        }
    }

    /// The set that a proposer goes by.
    fn set(&self, c: usize) -> Option<QuorumSet> {
        self.sides[c]
            .arbiter
            .as_ref()
            .map(|arbiter| arbiter.decided().disks)
    }

    fn wish(&self, c: usize, what: Wish) -> Option<Record> {
        let arbiter = self.sides[c].arbiter.as_ref()?;
        let set = arbiter.decided().disks;
        let disks = match what {
            Wish::Nothing => return None,
            Wish::Alone => set,
            Wish::Begin => {
                let joint = set.replaced(set.seats().next()?.disk, self.sides[c].ready?)?;
                if self.bound.at_once {
                    joint.settled()
                } else {
                    joint
                }
            }
            Wish::End => set.leaving().map(|_| set.settled())?,
        };
        Some(Record {
            epoch: arbiter.block().instance,
            members: Members::alone(id(c), Incarnation::new(u64::from(self.sides[c].life) + 1)),
            mode: Mode::Sealed,
            base: Base::default(),
            disks,
        })
    }

    /// A disk that is not in the set of the first controller, while nothing leaves it.
    fn spare(&self) -> Option<(usize, Seat)> {
        let set = self.set(0).filter(|set| set.leaving().is_none())?;
        let disk = (0..self.disks.len()).find(|disk| set.seat(index(*disk)).is_none())?;
        // Marks differ: so many were given away as are not left.
        Some((disk, set.next_seat(index(disk), u32::from(self.bound.changes))))
    }

    /// What somebody has on a disk, as it reads for whoever takes the disk for this seat.
    fn shown(&self, seat: Seat, whose: usize) -> Option<Vote> {
        let disk = usize::from(seat.disk.get());
        later(&self.disks[disk][whose]).filter(|_| self.seats[disk] == Some(seat))
    }

    /// What a start comes to that begins with the disks of a record and leaves one disk out: the records that it finds are
    /// followed, and the last set has to give back its own ballots and the partner's from a majority (`Core::start`). The
    /// own ballot, and the highest record.
    fn follow(&self, c: usize, without: usize, from: Record) -> Option<(Vote, Record)> {
        let mut known = from;
        loop {
            let set = known.disks;
            let read = |whose: usize| {
                let there = set
                    .all()
                    .filter(|seat| seat.disk != index(without.min(DISKS_MAX)));
                there.filter_map(move |seat| self.shown(seat, whose))
            };
            let last = read(c)
                .chain(read(1 - c))
                .map(|vote| vote.decided)
                .max_by_key(|record| record.epoch);
            if let Some(last) = last.filter(|last| last.epoch > known.epoch) {
                known = last;
                continue;
            }
            let most = |whose: usize| {
                set.reached(|disk| {
                    let seat = set
                        .seat(disk)
                        .filter(|seat| seat.disk != index(without.min(DISKS_MAX)));
                    seat.is_some_and(|seat| self.shown(seat, whose).is_some())
                })
            };
            let own = read(c).max_by_key(age).filter(|_| most(c) && most(1 - c))?;
            return Some((own, known));
        }
    }

    fn react(&mut self, c: usize, progress: Progress) -> Result<(), Violation> {
        match progress {
            Progress::None | Progress::Outbid => Ok(()),
            Progress::Promised { .. } => {
                self.sides[c].promised = true;
                Ok(())
            }
            Progress::Decided(record) => self.judge(c, record),
        }
    }

    fn judge(&mut self, c: usize, record: Record) -> Result<(), Violation> {
        let wished = ControllerId::ALL.iter().enumerate().any(|(of, controller)| {
            let lives = 1..=u64::from(self.sides[of].life) + 1;
            let wish = |life| Members::alone(*controller, Incarnation::new(life)) == record.members;
            lives.into_iter().any(wish)
        });
        if !wished {
            return Err(Violation::new(
                "S2",
                format!("{} has learnt {record}, which nobody wished", id(c)),
            ));
        }
        let known = *self.decided.entry(record.epoch).or_insert(record);
        if known == record {
            Ok(())
        } else {
            let text = format!("{} has decided {record}, and {known} is decided", id(c));
            Err(Violation::new("S2", text))
        }
    }

    /// After whatever the arbiter did: what was durable or promised for another ballot does not count for this one.
    fn refresh(&mut self, c: usize) {
        let side = &mut self.sides[c];
        let Some(arbiter) = &side.arbiter else { return };
        if arbiter.version() != side.version {
            side.version = arbiter.version();
            side.promised = false;
            for way in &mut side.ways {
                way.durable = false;
                way.counted = false;
                if let Some((_, present, _)) = &mut way.flight {
                    *present = false;
                }
            }
        }
        if !arbiter.running() {
            side.promised = false;
        }
        // Handed over at once, as soon as the disk is free.
        for (disk, way) in side.ways.iter_mut().enumerate() {
            let Some(seat) = arbiter.decided().disks.seat(index(disk)) else {
                continue;
            };
            if !way.durable && way.flight.is_none() {
                way.flight = Some((*arbiter.block(), true, seat));
            }
        }
    }

    fn land(&mut self, c: usize, disk: usize, fate: Fate) {
        let Some((vote, present, seat)) = self.sides[c].ways[disk].flight.take() else {
            return;
        };
        let copies = &mut self.disks[disk][c];
        // On a disk that was formatted again meanwhile it lands as well, and is no block of the seat that it is now.
        let vote = (self.seats[disk] == Some(seat)).then_some(vote);
        match fate {
            Fate::Lost => {}
            Fate::Landed => *copies = [vote; 2],
            Fate::FirstTorn => copies[0] = None,
            Fate::FirstOnly => copies[0] = vote,
            Fate::SecondTorn => *copies = [vote, None],
        }
        if matches!(fate, Fate::Landed) && present {
            self.sides[c].ways[disk].durable = true;
        }
    }

    fn read(&mut self, c: usize, disk: usize) -> Result<(), Violation> {
        let seat = self.set(c).and_then(|set| set.seat(index(disk)));
        let Some(other) = seat.and_then(|seat| self.shown(seat, 1 - c)) else {
            return Ok(());
        };
        self.judge_shown(&other, c)?;
        let side = &mut self.sides[c];
        let way = &mut side.ways[disk];
        let Some(arbiter) = &mut side.arbiter else {
            return Ok(());
        };
        let progress = if way.durable && !way.counted && arbiter.running() {
            way.counted = true;
            arbiter.counted(index(disk), &other)
        } else {
            arbiter.observe(&other)
        };
        self.react(c, progress)
    }

    fn judge_shown(&mut self, vote: &Vote, c: usize) -> Result<(), Violation> {
        if vote.decided.epoch == Epoch::new(1) {
            return Ok(());
        }
        self.judge(c, vote.decided)
    }

    /// The fixed rule by which one controller goes on alone.
    fn next_alone(&self, c: usize) -> Step {
        let side = &self.sides[c];
        let Some(arbiter) = &side.arbiter else {
            return Step::Start(c, usize::MAX);
        };
        for (disk, way) in side.ways.iter().enumerate() {
            if way.flight.is_some() {
                return Step::Land(c, disk);
            }
        }
        if side.promised {
            return Step::Promised(c, Wish::Alone);
        }
        if !arbiter.running() {
            return Step::Propose(c);
        }
        let set = arbiter.decided().disks;
        let unread = |seat: &Seat| {
            let way = &side.ways[usize::from(seat.disk.get())];
            !way.counted && self.shown(*seat, 1 - c).is_some()
        };
        let next = set.all().find(unread).or_else(|| set.all().next());
        Step::Read(c, next.map_or(0, |seat| usize::from(seat.disk.get())))
    }

    fn readable(&self, c: usize) -> bool {
        let from = match &self.sides[c].arbiter {
            Some(arbiter) => *arbiter.decided(),
            None => genesis(self.bound.disks).decided,
        };
        self.follow(c, usize::MAX, from).is_some()
    }
}

impl World for Proposers {
    type Step = Step;

    fn steps(&self, _left: u8) -> Vec<(Step, u8)> {
        if let Some((c, _)) = self.alone {
            return vec![(self.next_alone(c), 0)];
        }
        let mut steps = Vec::new();
        for c in [0, 1] {
            let side = &self.sides[c];
            let Some(arbiter) = &side.arbiter else {
                // The disk that is left out is any of them: another majority, another past.
                let lacking = if self.disks.len() == 1 {
                    usize::MAX..=usize::MAX
                } else {
                    0..=self.disks.len() - 1
                };
                for without in lacking {
                    if self
                        .follow(c, without, genesis(self.bound.disks).decided)
                        .is_some()
                    {
                        steps.push(Step::Start(c, without));
                    }
                }
                if self.disks.len() > self.bound.disks
                    && self
                        .follow(c, usize::MAX, genesis(self.bound.disks).decided)
                        .is_some()
                {
                    steps.push(Step::Start(c, usize::MAX));
                }
                continue;
            };
            if !arbiter.running() && self.bound.proposals[c] > 0 {
                steps.push(Step::Propose(c));
            }
            if side.promised {
                for wish in [Wish::Nothing, Wish::Alone, Wish::Begin, Wish::End] {
                    if wish == Wish::Nothing || self.wish(c, wish).is_some() {
                        steps.push(Step::Promised(c, wish));
                    }
                }
            }
            for (disk, way) in side.ways.iter().enumerate() {
                if way.flight.is_some() {
                    steps.push(Step::Land(c, disk));
                    if self.bound.forgotten > 0 {
                        steps.push(Step::Forget(c, disk));
                    }
                }
                if arbiter.decided().disks.seat(index(disk)).is_some() {
                    steps.push(Step::Read(c, disk));
                }
            }
            // Never while a vote stands: its set may have that disk, as it was formatted before.
            let stands = |seat| {
                let vote = self
                    .shown(seat, 1)
                    .filter(|vote| vote.instance == arbiter.block().instance);
                vote.is_some_and(|vote| vote.value.is_some())
            };
            let voted = arbiter.voted() || arbiter.decided().disks.all().any(stands);
            if c == 0 && self.bound.changes > 0 && side.ready.is_none() && !voted && self.spare().is_some() {
                steps.push(Step::Format(c));
            }
            if self.bound.deaths[c] > 0 {
                let under_way: Vec<usize> = (0..self.disks.len())
                    .filter(|disk| side.ways[*disk].flight.is_some())
                    .collect();
                let ways = FATES.len().pow(under_way.len() as u32);
                for number in 0..ways {
                    let mut fates = [Fate::Lost; DISKS_MAX];
                    let mut rest = number;
                    for disk in &under_way {
                        fates[*disk] = FATES[rest % FATES.len()];
                        rest /= FATES.len();
                    }
                    steps.push(Step::Die(c, fates));
                }
            }
            if self.bound.rots > 0 {
                let copies = |disk| [Step::Rot(c, disk, 0), Step::Rot(c, disk, 1)];
                steps.extend((0..self.bound.disks).flat_map(copies));
            }
        }
        if self.bound.wipes > 0 {
            steps.extend((0..self.bound.disks).map(Step::Wipe));
        }
        steps.into_iter().map(|step| (step, 0)).collect()
    }

    fn apply(&mut self, step: Step, script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        let controller = match step {
            Step::Propose(c)
            | Step::Promised(c, _)
            | Step::Format(c)
            | Step::Land(c, _)
            | Step::Forget(c, _)
            | Step::Read(c, _)
            | Step::Die(c, _)
            | Step::Start(c, _)
            | Step::Rot(c, ..) => Some(c),
            Step::Wipe(_) => None,
        };
        let result = match step {
            Step::Propose(c) => {
                self.bound.proposals[c] = self.bound.proposals[c].saturating_sub(1);
                if let Some(arbiter) = &mut self.sides[c].arbiter {
                    arbiter.propose();
                }
                Ok(())
            }
            Step::Promised(c, what) => {
                self.sides[c].promised = false;
                let wish = self.wish(c, what);
                if let Some(arbiter) = &mut self.sides[c].arbiter {
                    arbiter.vote(wish);
                }
                Ok(())
            }
            Step::Format(c) => {
                if let Some((disk, seat)) = self.spare() {
                    self.bound.changes -= 1;
                    let own = self.sides[c].arbiter.as_ref().map(|arbiter| *arbiter.block());
                    // Of the other as little as can be known.
                    let theirs = Some(genesis(self.bound.disks));
                    self.disks[disk] = [[own; 2], [theirs; 2]];
                    self.seats[disk] = Some(seat);
                    // A new session with the disk ends what is on its way there.
                    self.sides
                        .iter_mut()
                        .for_each(|side| side.ways[disk].flight = None);
                    self.sides[c].ready = Some(seat);
                }
                Ok(())
            }
            Step::Land(c, disk) => {
                self.land(c, disk, Fate::Landed);
                Ok(())
            }
            Step::Forget(c, disk) => {
                self.bound.forgotten -= 1;
                let before = self.disks[disk][c];
                self.land(c, disk, Fate::Landed);
                self.disks[disk][c] = before;
                Ok(())
            }
            Step::Read(c, disk) => self.read(c, disk),
            Step::Die(c, fates) => {
                self.bound.deaths[c] -= 1;
                for (disk, fate) in fates.into_iter().enumerate().take(self.disks.len()) {
                    self.land(c, disk, fate);
                }
                self.sides[c].fall();
                Ok(())
            }
            Step::Start(c, without) => match self.follow(c, without, genesis(self.bound.disks).decided) {
                Some((vote, known)) => {
                    let shown = self.judge_shown(&vote, c);
                    let side = &mut self.sides[c];
                    side.life += 1;
                    side.version = 1;
                    let mut arbiter = Arbiter::new(id(c), vote);
                    arbiter.learn(known);
                    side.arbiter = Some(arbiter);
                    shown
                }
                None => Ok(()),
            },
            Step::Wipe(disk) => {
                self.bound.wipes -= 1;
                let left = self.bound.blank_is_empty.then(|| genesis(self.bound.disks));
                self.disks[disk] = [[left; 2]; 2];
                Ok(())
            }
            Step::Rot(c, disk, copy) => {
                self.bound.rots -= 1;
                self.disks[disk][c][copy] = None;
                Ok(())
            }
        };
        if let Some(c) = controller {
            self.refresh(c);
        }
        if let Some(script) = script {
            let say = controller
                .and_then(|c| self.sides[c].arbiter.as_ref())
                .map_or_else(String::new, |a| {
                    let block = a.block();
                    let value = block.value.map_or("-".to_owned(), |value| value.to_string());
                    format!(
                        "instance {} mbal {} bal {} value {value}",
                        block.instance,
                        block.mbal.get(),
                        block.bal.get()
                    )
                });
            script.push(format!("{:<44} {say}", format!("{step:?}")));
        }
        result
    }

    fn fingerprint(&self) -> u128 {
        // The disks are alike: any order of them is the same world. Not so where a set names some of them.
        let alike = self.disks.len() == self.bound.disks;
        let ways = |disk: usize| [&self.sides[0].ways[disk], &self.sides[1].ways[disk]];
        let mut order: Vec<(u128, usize)> = (0..self.disks.len())
            .map(|disk| {
                (
                    fingerprint::of(&(&self.disks[disk], self.seats[disk].filter(|_| !alike), ways(disk))),
                    disk,
                )
            })
            .collect();
        if alike {
            order.sort_unstable();
        }
        let arbiters = self.sides.each_ref().map(|side| {
            let mut arbiter = side.arbiter.clone()?;
            arbiter.numbers(&mut |kind, number| {
                let place = order.iter().position(|(_, disk)| *disk as u64 == *number);
                *number = match kind {
                    Number::Disk => place.unwrap_or(0) as u64,
                    _ => 0,
                };
            });
            Some(arbiter)
        });
        let lives = self
            .sides
            .each_ref()
            .map(|side| (side.life, side.promised, side.ready));
        let shown: Vec<u128> = order.into_iter().map(|(shown, _)| shown).collect();
        fingerprint::of(&(&self.bound, arbiters, lives, shown, &self.decided, self.alone))
    }

    fn recoveries(&self) -> Vec<(String, Self)> {
        let next = self
            .decided
            .keys()
            .next_back()
            .map_or(Epoch::new(2), |epoch| epoch.next());
        let able = |c: &usize| self.alone.is_none() && self.readable(*c);
        let lone = |c: usize| {
            let mut world = self.clone();
            world.alone = Some((c, next));
            // Of the other nothing is left but what stands on the disks.
            world.sides[1 - c].fall();
            world.bound.proposals = [0; 2];
            world.bound.deaths = [0; 2];
            world.bound.changes = 0;
            (format!("{} goes on alone", id(c)), world)
        };
        [0, 1].into_iter().filter(able).map(lone).collect()
    }

    fn settled(&self) -> Result<(), String> {
        match self.alone {
            Some((_, epoch)) if self.decided.contains_key(&epoch) => Ok(()),
            Some((c, epoch)) => Err(format!("{} has not decided epoch {epoch}", id(c))),
            None => Err("nobody was left alone".to_owned()),
        }
    }
}
