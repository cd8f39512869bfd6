//! Both controllers' shipped cores with everything between them, on a clock that moves from deadline to deadline.
//!
//! A chess clock and a tray of cards. Each card is something that is about to happen: a write that reaches its disk, a
//! datagram that arrives, the end of an import. The rule of the house plays the cards in the order in which they were
//! laid down, at once, and moves the clock only when the tray is empty, to the next instant at which somebody asked to
//! be woken. Left to that rule the array comes up and stays whole. Each departure from it is a *fault* and is counted:
//! a card that is held back, a daemon that dies with half of its deeds done, a cable, a power cut. How long a fault
//! lasts costs nothing: that it ends is one more thing that may happen whenever the tray is empty.
//!
//! So the bound of a world reads: *every placing of so many faults of these kinds, each ending at any instant*. A world
//! ends where the array is whole again, because what follows is the world from the beginning with higher numbers.
//!
//! It must never ask a core for the truth where disks, hosts or the clock can tell it.

mod canonical;
mod fault;
mod judge;
mod node;

use crate::search::{Violation, World};
use fault::Step;
use node::Node;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, PoolId};
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::area::{Area, Claims, Content, Letter, Slot, Unread};
use pollux_heartbeat_core::effect::{BlockId, Evidence, ReadId, WriteId};
use pollux_heartbeat_core::event::Request;
use pollux_heartbeat_core::record::{Record, Vote};
use pollux_heartbeat_core::wire::Datagram;
use pollux_heartbeat_core::{Event, Instant, QuorumSet, Timing};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(crate) use fault::Kind;

/// The unit of every period: so large that the fixed allowances of the timing are small against it.
const UNIT: Duration = Duration::from_secs(1);
const ARRAY: ArrayId = ArrayId::from_bytes(*b"all of its ways.");
/// What has been whole for so long has no consequences on their way.
const CALM: Duration = Duration::from_secs(4);
/// No more than so many cards are played at one instant, or somebody spins.
const CARDS: usize = 1_000;
const POOL: PoolId = PoolId::from_bytes([1; 16]);

fn id(c: usize) -> ControllerId {
    ControllerId::ALL[c]
}

/// The smallest figures that contradict nothing: few instants at which something is due.
fn timing() -> Timing {
    Timing {
        beat: UNIT,
        bond_failover: Duration::ZERO,
        wire_limit: UNIT * 4,
        slot_period: UNIT,
        disk_stall: Duration::ZERO,
        disk_limit: UNIT * 4,
        lease: UNIT * 3,
        watchdog: UNIT * 4,
        key_check: UNIT / 2,
        unserved_limit: UNIT * 5,
        ask_limit: UNIT * 5,
        flap_count: 1,
        flap_window: UNIT * 8,
        giveback_after: UNIT * 5,
        retry: UNIT,
        budget: UNIT * 5,
    }
}

/// What is broken on purpose, so that the search has something to find.
#[cfg_attr(not(test), expect(dead_code, reason = "only tests break worlds"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakage {
    /// Quorum disks confirm ballots and forget them.
    ForgottenVotes,
    /// Hosts are answered for so much longer than the lease says.
    LongLease(Duration),
    /// A controller whose record is without it goes on as if nothing had been said.
    DeafToStop,
    /// A reboot does not bring the daemon back.
    NoDaemon,
    /// Fencing and importing succeed whoever else holds the pool, and nobody is rejected.
    FenceAlways,
    /// Whoever says that it dies says good-bye instead, and lives on.
    FalseFarewell,
}

/// How a world is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Quorum disks.
    pub(crate) disks: usize,
    /// The pool's disk enforces reservations.
    pub(crate) reservations: bool,
    /// There is a power control.
    pub(crate) power: bool,
    /// There are watchdogs.
    pub(crate) watchdog: bool,
    /// The array is whole when the search begins; otherwise it is formatted and both controllers start.
    pub(crate) whole: bool,
    /// Faults strike between any two cards, and between any two deeds; otherwise only when the tray is empty.
    pub(crate) fine: bool,
    /// Kinds of faults.
    pub(crate) faults: &'static [Kind],
    /// What operators ask; each request is a fault, too.
    pub(crate) requests: &'static [Request],
    /// Whether one controller alone has to come to serve as well.
    pub(crate) lone_recovery: bool,
    /// The way down of a controller that shuts down takes any time: until everything below has stopped, and until its
    /// power goes.
    pub(crate) lingers: bool,
    /// The world is broken.
    pub(crate) breakage: Option<Breakage>,
}

/// A task of a pool manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Fence(ReservationKey),
    Take(ReservationKey, Evidence),
    Publish(ReservationKey),
    Release(ReservationKey),
    Resume(ReservationKey),
    StopAll,
}

/// Something that is about to happen at a controller, or because of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::large_enum_variant,
    reason = "an area that was read is what most cards bring"
)]
enum Card {
    /// The core is told.
    Tell(Event),
    /// The core's deadline.
    Tick,
    /// A write reaches its quorum disk.
    Write {
        id: WriteId,
        disk: usize,
        block: BlockId,
        content: Content,
        submitted: Instant,
    },
    /// A read reaches its quorum disk.
    Read {
        id: ReadId,
        disk: usize,
        whose: ControllerId,
        issued: Instant,
    },
    /// A datagram arrives here.
    Arrive(Datagram),
    /// The pool manager does something.
    Pool(Task),
    /// The power control is asked, after having cut (or not).
    Power { cut: bool, asked: Instant },
    /// A restarted daemon hears what is imported.
    Observe,
}

/// A card and whose it is. `life` is one life of the heartbeat daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Laid {
    c: usize,
    life: u32,
    card: Card,
}

/// The quorum disks of a world.
fn set(disks: usize) -> QuorumSet {
    let disks: Vec<_> = (0..disks as u16).map(DiskIndex::new).collect();
    QuorumSet::first(&disks).unwrap_or_default()
}

/// One controller's part of a quorum disk. `None`: unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    slot: Option<Slot>,
    votes: [Option<Vote>; 2],
    claims: Option<Claims>,
    letter: Option<Letter>,
}

impl Part {
    fn formatted(disks: usize) -> Self {
        let vote = Vote::after(Record::genesis(set(disks)));
        Self {
            slot: Some(Slot::default()),
            votes: [Some(vote); 2],
            claims: Some(Claims::default()),
            letter: Some(Letter::default()),
        }
    }

    fn blank() -> Self {
        Self {
            slot: None,
            votes: [None; 2],
            claims: None,
            letter: None,
        }
    }

    /// As the layout's decoder gives it.
    fn area(&self) -> Area {
        let age = |vote: &Vote| (vote.instance, vote.mbal, vote.bal);
        let vote = match self.votes {
            [Some(first), Some(second)] if age(&second) > age(&first) => Some(second),
            [first, second] => first.or(second),
        };
        Area {
            header: Ok(()),
            slot: self.slot.ok_or(Unread::Checksum),
            vote: vote.ok_or(Unread::Checksum),
            claims: self.claims.clone().ok_or(Unread::Checksum),
            elsewhere: None,
            letter: self.letter.clone().ok_or(Unread::Checksum),
        }
    }

    fn put(&mut self, block: BlockId, content: &Content) {
        match (block, content) {
            (BlockId::Vote0, Content::Vote(vote)) => self.votes[0] = Some(*vote),
            (BlockId::Vote1, Content::Vote(vote)) => self.votes[1] = Some(*vote),
            (_, Content::Slot(slot)) => self.slot = Some(*slot),
            (_, Content::Claims(claims)) => self.claims = Some(claims.clone()),
            (_, Content::Letter(letter)) => self.letter = Some(letter.clone()),
            (_, Content::Vote(_)) => {}
        }
    }

    fn tear(&mut self, block: BlockId) {
        match block {
            BlockId::Slot => self.slot = None,
            BlockId::Vote0 => self.votes[0] = None,
            BlockId::Vote1 => self.votes[1] = None,
            BlockId::Claims => self.claims = None,
            BlockId::Mailbox => self.letter = None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Quorum {
    parts: [Part; 2],
    /// Per controller: the path works.
    path: [bool; 2],
}

/// How a recovery goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Recovery {
    /// Both controllers run.
    Both,
    /// This one runs, the other stays off.
    Alone(usize),
}

/// The array.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    setup: Setup,
    now: Instant,
    nodes: [Node; 2],
    disks: Vec<Quorum>,
    /// The key that stands on the pool's disk.
    standing: Option<ReservationKey>,
    /// What each controller sends arrives.
    wire: [bool; 2],
    tray: VecDeque<Laid>,
    /// Cards that are held back.
    held: Vec<Laid>,
    /// Every record that anybody has published.
    records: BTreeMap<Epoch, Record>,
    /// A fault has struck.
    struck: bool,
    whole_since: Option<Instant>,
    recovery: Option<Recovery>,
}

impl Array {
    /// A world at its beginning.
    ///
    /// # Errors
    /// The array does not come up without any fault.
    pub(crate) fn new(setup: Setup) -> Result<Self, Violation> {
        let quorum = Quorum {
            parts: [Part::formatted(setup.disks), Part::formatted(setup.disks)],
            path: [true; 2],
        };
        let mut array = Self {
            setup,
            now: Instant::ZERO + UNIT * 100,
            nodes: [Node::default(), Node::default()],
            disks: vec![quorum; setup.disks],
            standing: None,
            wire: [true; 2],
            tray: VecDeque::new(),
            held: Vec::new(),
            records: BTreeMap::new(),
            struck: false,
            whole_since: None,
            recovery: None,
        };
        for c in [0, 1] {
            array.nodes[c].powered = true;
            array.nodes[c].boot_at = Some(array.now + UNIT);
        }
        if !setup.whole {
            return Ok(array);
        }
        // A while longer than it takes, so that what is remembered of the start is as old as it gets.
        let mut quiet = 0;
        for _ in 0..400 {
            array.round(None)?;
            quiet = if array.whole().is_ok() { quiet + 1 } else { 0 };
            if quiet > 60 {
                return Ok(array);
            }
        }
        let missing = array.whole().err().unwrap_or_default();
        Err(Violation::new("the beginning", missing))
    }

    fn lay(&mut self, c: usize, card: Card) {
        let life = self.nodes[c].life;
        self.tray.push_back(Laid { c, life, card });
    }

    /// Everything on the tray, then the next instant and everything that comes of it.
    fn round(&mut self, mut script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        self.clear(script.as_deref_mut())?;
        self.advance(script.as_deref_mut())?;
        self.clear(script)
    }

    /// Plays every card, and what comes of them at the same instant.
    fn clear(&mut self, mut script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        for _ in 0..CARDS {
            if self.tray.is_empty() {
                return Ok(());
            }
            self.next(script.as_deref_mut())?;
        }
        Err(Violation::new(
            "rest",
            format!("{CARDS} cards were played at one instant"),
        ))
    }

    fn next(&mut self, mut script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        let Some(laid) = self.tray.pop_front() else {
            return self.advance(script);
        };
        self.play(laid, usize::MAX, &mut script)?;
        self.judge()
    }

    /// The next instant at which anything is due.
    fn advance(&mut self, script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        // A core that asks for this very instant again gets the next one that a driver could manage.
        let soonest = self.now + Duration::from_millis(1);
        let due = self.nodes.iter().filter_map(|node| node.due(soonest)).min();
        let Some(at) = due else { return Ok(()) };
        self.now = at;
        if let Some(script) = script {
            script.push(format!("{at}"));
        }
        for c in [0, 1] {
            self.wake(c);
        }
        self.judge()
    }

    /// The array is as it should be; if not, what is missing first.
    fn whole(&self) -> Result<(), &'static str> {
        if !self.held.is_empty() || !self.tray.is_empty() {
            return Err("something is on its way");
        }
        // Where an operator has put it, it may stay.
        let served = self.answers(0) || !self.setup.requests.is_empty() && self.answers(1);
        if !served {
            return Err("the pool is not served where it belongs");
        }
        let Some(record) = self.records.values().next_back() else {
            return Err("there is no record");
        };
        for (node, controller) in self.nodes.iter().zip(ControllerId::ALL) {
            if node.core.is_none() || node.stopped || node.stalled {
                return Err("a controller does not run");
            }
            if !record.admits(controller, node.incarnation()) {
                return Err("a controller is not a member of the highest record");
            }
            if node.told != Some(*record) {
                return Err("a controller does not know the highest record");
            }
        }
        let held = self
            .nodes
            .each_ref()
            .map(|node| node.imported.map(|(key, _)| key));
        if self.setup.reservations && !held.contains(&self.standing) {
            return Err("the pool is not excluded");
        }
        if self.wire != [true; 2] || self.disks.iter().any(|disk| disk.path != [true; 2]) {
            return Err("not everything is mended");
        }
        Ok(())
    }
}

impl World for Array {
    type Step = Step;

    fn steps(&self, left: u8) -> Vec<(Step, u8)> {
        self.possible(left)
    }

    fn apply(&mut self, step: Step, script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        self.carry_out(step, script)
    }

    fn fingerprint(&self) -> u128 {
        self.canonical()
    }

    fn recoveries(&self) -> Vec<(String, Self)> {
        if self.recovery.is_some() || !self.tray.is_empty() {
            return Vec::new();
        }
        let mut all = vec![("every fault ends".to_owned(), self.mended(Recovery::Both))];
        if self.setup.lone_recovery {
            for c in [0, 1] {
                let text = format!("every fault ends, but {} is off for good", id(1 - c));
                all.push((text, self.mended(Recovery::Alone(c))));
            }
        }
        all
    }

    fn settled(&self) -> Result<(), String> {
        match self.recovery {
            None | Some(Recovery::Both) => self.whole().map_err(str::to_owned),
            Some(Recovery::Alone(c)) if self.answers(c) && self.tray.is_empty() => Ok(()),
            Some(Recovery::Alone(c)) => Err(format!("{} does not serve the pool alone", id(c))),
        }
    }
}
