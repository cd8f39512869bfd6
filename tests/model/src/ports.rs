//! The port groups alone: both controllers' shipped machines and their targets, for one pool that moves.
//!
//! Two doormen, each with a sign at his own door that also says what the other's reads. Heartbeat sends each of them notes,
//! in the order in which they were written; a doorman reads a note, turns his sign, and looks at it now and then. He may be
//! replaced in the middle of it, the sign may fall down, and one of the houses may burn.
//!
//! It maps to the shipped [`Groups`], with a target that takes one flip at a time and refuses those of an older claim, and
//! with what heartbeat does around it: a giver's groups are transitioning before its pool is given; the receiver calls itself
//! owner under a claim of its own; who takes over does so when the dead answers nobody any more. Time is left out: a look is
//! a step like any other, so a port may run out of patience at any moment.
//!
//! Promises: never are two that answer both optimized (I4); whenever nothing is on its way and both machines leave their
//! targets alone, both tell one story; from every state they come to that.

use crate::fingerprint;
use crate::search::{Violation, World};
use pollux_alua_core::Groups;
use pollux_api::alua::{Role, Set};
use pollux_api::id::{ControllerId, Epoch, Generation, PoolId};
use pollux_api::target::{Access, Backing, Flip, PoolPaths};
use std::collections::VecDeque;

const POOL: PoolId = PoolId::from_bytes([1; 16]);

/// What is broken on purpose, so that the search has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakage {
    /// A pool is given before its giver's sign is down.
    GivenTooEarly,
    /// A daemon that starts again knows nothing of what was wanted.
    Forgets,
    /// Nobody looks at a target.
    NoLooks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The owner serves, or is about to.
    Rest,
    /// The owner's sign comes down.
    Releasing,
}

/// A note of heartbeat's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    generation: u64,
    role: Role,
    reachable: bool,
}

#[derive(Clone, Debug)]
struct Side {
    /// It may answer hosts.
    lives: bool,
    groups: Groups,
    /// What the target is.
    target: Option<Flip>,
    /// A flip on its way to it.
    flight: Option<Flip>,
    notes: VecDeque<Note>,
    /// The last note that was written, whoever has read it.
    last: Note,
    /// The last note of an earlier claim that was read.
    earlier: Option<Note>,
}

/// Both controllers' port groups of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    sides: [Side; 2],
    /// The claim that counts, and whose it is.
    generation: u64,
    owner: usize,
    phase: Phase,
    wire: bool,
    recovering: bool,
    breakage: Option<Breakage>,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The next note is read.
    Read(usize),
    /// The target takes the flip that is on its way.
    Land(usize),
    /// The machine looks at its target.
    Look(usize),
    /// The giver's sign is down: the pool is given, and the receiver has claimed it.
    Give,
    /// An operator moves the pool.
    Move,
    /// The machine's daemon dies and is started again; a flip that was on its way has landed, or is lost.
    Restart(usize, bool),
    /// The target dies, and a new one knows nothing.
    Target(usize),
    /// A controller dies, and its partner takes over when it answers nobody any more.
    Die(usize),
    /// It starts again.
    Boot(usize),
    /// A note of an earlier claim is read once more.
    Again(usize),
    Cut,
    Mend,
}

fn id(c: usize) -> ControllerId {
    ControllerId::ALL[c]
}

fn set(note: Note) -> Set {
    Set {
        pool: POOL,
        epoch: Epoch::new(1),
        generation: Generation::new(note.generation),
        role: note.role,
        partner_reachable: note.reachable,
    }
}

fn own_access(flip: &Flip, c: usize) -> Access {
    [flip.access_a, flip.access_b][c]
}

impl Side {
    fn new(c: usize) -> Self {
        let nobody = Note {
            generation: 0,
            role: Role::Nobody,
            reachable: false,
        };
        Self {
            lives: true,
            groups: Groups::new(id(c), Vec::new()),
            target: None,
            flight: None,
            notes: VecDeque::new(),
            last: nobody,
            earlier: None,
        }
    }

    fn write(&mut self, note: Note) {
        self.last = note;
        self.notes.push_back(note);
    }

    /// What a look would make of it: the machine after it, and whether the target has to be told again.
    fn looked(&self) -> (Groups, bool) {
        let report = self.target.as_ref().map(|flip| PoolPaths {
            pool: flip.pool,
            epoch: flip.epoch,
            generation: flip.generation,
            backing: flip.backing,
            access_a: flip.access_a,
            access_b: flip.access_b,
            held: 0,
            volumes: Vec::new(),
        });
        let mut groups = self.groups.clone();
        let astray = groups.observe(report.as_slice()).contains(&POOL);
        (groups, astray)
    }

    /// A look would change something: the target is told again, or patience runs out.
    fn worth_a_look(&self) -> bool {
        let waits = self.last.role == Role::Partner && !self.last.reachable && self.notes.is_empty();
        let plan = |groups: &Groups| groups.plan(POOL).map(|plan| plan.flip);
        let patient = plan(&self.groups).is_some_and(|flip| flip.access_a == Access::Transitioning);
        self.lives && self.flight.is_none() && (self.looked().1 || waits && patient)
    }

    fn drive(&mut self) {
        if self.flight.is_none() {
            self.flight = self.groups.plan(POOL).map(|plan| plan.flip);
        }
    }

    /// The target takes a flip, or refuses one of an older claim.
    fn take(&mut self, flip: &Flip) -> Result<(), String> {
        let claim = |flip: &Flip| (flip.epoch, flip.generation);
        if self
            .target
            .as_ref()
            .is_some_and(|stands| claim(stands) > claim(flip))
        {
            return Err("stale".to_owned());
        }
        self.target = Some(flip.clone());
        Ok(())
    }
}

impl Ports {
    /// A pool at rest on its owner, both targets told.
    pub(crate) fn new(breakage: Option<Breakage>) -> Self {
        let mut ports = Self {
            sides: [Side::new(0), Side::new(1)],
            generation: 1,
            owner: 0,
            phase: Phase::Rest,
            wire: true,
            recovering: false,
            breakage: None,
        };
        ports.tell_roles();
        for c in [0, 1] {
            ports.read(c);
            ports.land(c);
        }
        ports.breakage = breakage;
        ports
    }

    /// Writes to both what they are while the pool rests.
    fn tell_roles(&mut self) {
        for c in [0, 1] {
            if self.sides[c].lives {
                let role = if c == self.owner {
                    Role::Owner
                } else {
                    Role::Partner
                };
                self.write(c, role);
            }
        }
    }

    fn write(&mut self, c: usize, role: Role) {
        let reachable = self.wire && self.sides[1 - c].lives;
        self.sides[c].write(Note {
            generation: self.generation,
            role,
            reachable,
        });
    }

    fn read(&mut self, c: usize) {
        let side = &mut self.sides[c];
        let Some(note) = side.notes.pop_front() else {
            return;
        };
        let before = side.groups.wanted().first().map(|set| Note {
            generation: set.generation.get(),
            role: set.role,
            reachable: set.partner_reachable,
        });
        side.earlier = before
            .filter(|before| before.generation < note.generation)
            .or(side.earlier);
        if side.groups.accept(set(note)) == Ok(true) {
            side.drive();
        }
    }

    fn land(&mut self, c: usize) {
        let side = &mut self.sides[c];
        let Some(flip) = side.flight.take() else { return };
        let result = side.take(&flip);
        let taken = result.is_ok();
        side.groups.confirmed(&flip, result);
        // What is wanted may have changed meanwhile: the newest counts.
        if taken && side.groups.plan(POOL).is_some_and(|plan| plan.flip != flip) {
            side.drive();
        }
    }

    /// The giver's sign is down, as its target has confirmed.
    fn down(&self) -> bool {
        let side = &self.sides[self.owner];
        let planned = side.groups.plan(POOL).map(|plan| plan.flip);
        let confirmed = side.notes.is_empty() && side.flight.is_none() && side.target == planned;
        self.phase == Phase::Releasing && (confirmed || self.breakage == Some(Breakage::GivenTooEarly))
    }

    /// The pool changes hands: the new owner has claimed it.
    fn give(&mut self, to: usize) {
        self.generation += 1;
        self.owner = to;
        self.phase = Phase::Rest;
        self.write(to, Role::Moving);
        self.tell_roles();
    }

    fn die(&mut self, c: usize) {
        let partner = 1 - c;
        self.sides[c] = Side {
            lives: false,
            ..Side::new(c)
        };
        let role = self.sides[partner].last.role;
        if self.owner == c {
            // First it is silent; then it is taken over.
            self.write(partner, role);
            self.give(partner);
        } else {
            self.phase = Phase::Rest;
            self.write(partner, Role::Owner);
        }
    }

    fn boot(&mut self, c: usize) {
        self.sides[c] = Side::new(c);
        self.write(c, Role::Nobody);
        self.tell_roles();
    }

    /// The same roles, with the partner within reach or not.
    fn tell_reach(&mut self) {
        for c in [0, 1] {
            if self.sides[c].lives {
                self.write(c, self.sides[c].last.role);
            }
        }
    }

    /// Nothing is on its way, and both machines leave their targets alone.
    fn rests(&self) -> bool {
        let quiet = |side: &Side| {
            !side.lives || side.notes.is_empty() && side.flight.is_none() && !side.worth_a_look()
        };
        self.phase == Phase::Rest && self.sides.iter().all(quiet)
    }

    fn one_story(&self) -> Result<(), String> {
        let owner = self.owner;
        let access = |flip: &Flip| (flip.access_a, flip.access_b);
        let shown = |c: usize| self.sides[c].target.as_ref();
        let right = |c: usize| {
            shown(c).is_some_and(|flip| {
                let backing = match (c == owner, self.wire) {
                    (true, _) => Backing::Local,
                    (false, true) => Backing::Partner,
                    (false, false) => Backing::None,
                };
                flip.generation.get() == self.generation
                    && flip.backing == backing
                    && own_access(flip, owner) == Access::Optimized
            })
        };
        let both = self.sides.iter().all(|side| side.lives);
        let other = if both && self.wire {
            Access::NonOptimized
        } else {
            Access::Unavailable
        };
        let of_other = shown(owner).map(|flip| own_access(flip, 1 - owner));
        let alike = !both || shown(0).map(access) == shown(1).map(access);
        if alike && right(owner) && (!both || right(1 - owner)) && of_other == Some(other) {
            Ok(())
        } else {
            Err(format!("a says {:?}, b says {:?}", shown(0), shown(1)))
        }
    }

    fn judge(&self) -> Result<(), Violation> {
        let optimized = |c: usize| {
            let side = &self.sides[c];
            let target = side.target.as_ref().filter(|_| side.lives);
            target.is_some_and(|flip| own_access(flip, c) == Access::Optimized)
        };
        if optimized(0) && optimized(1) {
            let [a, b] = [0, 1].map(|c| &self.sides[c].target);
            return Err(Violation::new(
                "I4",
                format!("both are optimized: a says {a:?}, b says {b:?}"),
            ));
        }
        if self.rests() {
            self.one_story()
                .map_err(|what| Violation::new("one story", what))?;
        }
        Ok(())
    }

    /// What goes on by itself, in the order in which a recovery lets it.
    fn goes_on(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for c in [0, 1] {
            let side = &self.sides[c];
            if !side.lives {
                steps.push(Step::Boot(c));
                continue;
            }
            if !side.notes.is_empty() {
                steps.push(Step::Read(c));
            }
            if side.flight.is_some() {
                steps.push(Step::Land(c));
            }
            if side.worth_a_look() && self.breakage != Some(Breakage::NoLooks) {
                steps.push(Step::Look(c));
            }
        }
        if self.down() {
            steps.push(Step::Give);
        }
        if !self.wire {
            steps.push(Step::Mend);
        }
        steps
    }
}

impl World for Ports {
    type Step = Step;

    fn steps(&self, left: u8) -> Vec<(Step, u8)> {
        let mut steps: Vec<(Step, u8)> = self.goes_on().into_iter().map(|step| (step, 0)).collect();
        if left == 0 || self.recovering {
            return steps;
        }
        let both = self.sides.iter().all(|side| side.lives);
        if self.phase == Phase::Rest && both && self.sides.iter().all(|side| side.notes.is_empty()) {
            steps.push((Step::Move, 1));
        }
        if self.wire {
            steps.push((Step::Cut, 1));
        }
        for c in [0, 1] {
            let side = &self.sides[c];
            if !side.lives {
                continue;
            }
            steps.push((Step::Restart(c, false), 1));
            if side.flight.is_some() {
                steps.push((Step::Restart(c, true), 1));
            }
            steps.push((Step::Target(c), 1));
            if side.earlier.is_some() {
                steps.push((Step::Again(c), 1));
            }
            if both {
                steps.push((Step::Die(c), 1));
            }
        }
        steps
    }

    fn apply(&mut self, step: Step, script: Option<&mut Vec<String>>) -> Result<(), Violation> {
        match step {
            Step::Read(c) => self.read(c),
            Step::Land(c) => self.land(c),
            Step::Look(c) => {
                let (groups, astray) = self.sides[c].looked();
                self.sides[c].groups = groups;
                if astray {
                    self.sides[c].drive();
                }
            }
            Step::Give => self.give(1 - self.owner),
            Step::Move => {
                self.phase = Phase::Releasing;
                self.write(self.owner, Role::Moving);
            }
            Step::Restart(c, landed) => {
                let forgets = self.breakage == Some(Breakage::Forgets);
                let side = &mut self.sides[c];
                if let Some(flip) = side.flight.take().filter(|_| landed) {
                    // Whether the target takes it, nobody hears.
                    let _ = side.take(&flip);
                }
                let kept = if forgets { Vec::new() } else { side.groups.wanted() };
                side.groups = Groups::new(id(c), kept);
            }
            Step::Target(c) => self.sides[c].target = None,
            Step::Die(c) => self.die(c),
            Step::Boot(c) => self.boot(c),
            Step::Again(c) => {
                let side = &mut self.sides[c];
                if let Some(note) = side.earlier
                    && side.groups.accept(set(note)) == Ok(true)
                {
                    side.drive();
                }
            }
            Step::Cut | Step::Mend => {
                self.wire = matches!(step, Step::Mend);
                self.tell_reach();
            }
        }
        if let Some(script) = script {
            script.push(format!("{step:?}"));
            for c in [0, 1] {
                let side = &self.sides[c];
                script.push(format!(
                    "    {} {:?}, on its way {:?}",
                    id(c),
                    side.target,
                    side.flight
                ));
            }
        }
        self.judge()
    }

    fn fingerprint(&self) -> u128 {
        fingerprint::of(&format!("{self:?}"))
    }

    fn recoveries(&self) -> Vec<(String, Self)> {
        if self.recovering {
            return Vec::new();
        }
        let recovering = Self {
            recovering: true,
            ..self.clone()
        };
        vec![("every fault ends".to_owned(), recovering)]
    }

    fn settled(&self) -> Result<(), String> {
        let whole = self.wire && self.sides.iter().all(|side| side.lives);
        match (whole, self.rests()) {
            (true, true) => self.one_story(),
            (false, _) => Err("not everything is mended".to_owned()),
            (true, false) => Err("something is on its way".to_owned()),
        }
    }
}
