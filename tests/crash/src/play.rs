//! The play: changes, deaths, what heartbeat would decide, and the audit.

use crate::child::LOOP;
use crate::link::{Birth, Heard, Life};
use crate::wire::{Book, Call, Order, Reply, View, Word};
use pollux_api::config::{EpochRecord, Freeze, LogHash, SetEpoch};
use pollux_api::id::{ControllerId, Epoch, Incarnation};
use pollux_config_keeper::store::Places;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// So long nobody says anything until the clock ticks for the keepers.
const SILENCE: Duration = Duration::from_millis(2);
/// So many silences one after the other are an end that is not reached: ten seconds, or more on a busy machine.
const PATIENCE: u32 = 5_000;
/// Cycles on one array; then the next one begins, from nothing.
const ARRAY_CYCLES: u64 = 20;
/// Entries that the keepers of every second array keep.
const KEEP: u64 = 6;
/// How a death is counted that the play itself brings about.
const OUTSIDE: &str = "anywhere (killed from outside)";

/// What is broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Keepers count a job before it is durable.
    Early,
    /// The disks say that they have flushed, and have not.
    Lies,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program whose `keeper` is a keeper.
    pub program: PathBuf,
    /// Where the databases are made.
    pub folder: PathBuf,
    /// How often somebody is shot.
    pub cycles: u64,
    /// Chooses everything.
    pub seed: u64,
    /// What is broken on purpose.
    pub fault: Fault,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Cycles that were played to the end.
    pub cycles: u64,
    /// Deaths, by the place at which they happened.
    pub deaths: BTreeMap<String, u64>,
    /// Cycles in which both died.
    pub both: u64,
    /// Arrays that were begun.
    pub arrays: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Changes whose fate was not known, and that were asked for again.
    pub in_doubt: u64,
    /// Actions that were asked for again after a crash and got the answer that they had got.
    pub repeated: u64,
    /// Audits that found a log shortened since the one before.
    pub compacted: u64,
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the one who proposes an epoch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Rest,
    /// Its keeper has been asked to stand still.
    Freezing {
        at: usize,
        joining: bool,
        ticket: u64,
    },
    /// It stands still; the next view says where.
    Frozen {
        at: usize,
        joining: bool,
        seen: bool,
    },
}

#[derive(Default)]
struct Side {
    life: Option<Life>,
    ready: bool,
    /// It has been told the record that counts.
    told: bool,
    view: View,
    /// Where it dies in this life, if that comes.
    fate: Option<String>,
    /// The place for its next life.
    next_fate: Option<(String, u64)>,
    book: Option<Book>,
}

/// A play on one array after the other.
pub struct Play {
    options: Options,
    dice: Dice,
    sides: [Side; 2],
    heard: Receiver<Heard>,
    mouth: Sender<Heard>,
    record: EpochRecord,
    plan: Plan,
    /// Who goes on alone after a death.
    sealer: Option<usize>,
    /// The catch-up that runs, and with what it ended.
    catching: Option<u64>,
    equal: Option<(u64, LogHash)>,
    /// Lone changes of this epoch were asked for.
    lone: bool,
    next: u64,
    lives: u64,
    /// Calls on their way: who called, in which life, under which number.
    calls: BTreeMap<u64, (usize, u64, u64)>,
    /// Records that keepers were told and have not confirmed.
    records: BTreeSet<u64>,
    /// Changes that were asked for and not answered yet: by ticket, whom and which.
    asked: BTreeMap<u64, (usize, u64)>,
    numbers: u64,
    doubtful: BTreeSet<u64>,
    acknowledged: BTreeMap<u64, (u64, LogHash)>,
    /// Hashes of what was seen at audits, by index.
    history: BTreeMap<u64, LogHash>,
    array: Option<tempfile::TempDir>,
    died: [bool; 2],
    /// Ticks since something happened that a tick alone does not bring about.
    quiet: u32,
    outcome: Outcome,
}

fn controller(at: usize) -> ControllerId {
    ControllerId::ALL[at]
}

fn record(epoch: u64, members: &[usize], open: bool, base: (u64, LogHash)) -> EpochRecord {
    EpochRecord {
        epoch: Epoch::new(epoch),
        members: members
            .iter()
            .map(|at| (controller(*at), Incarnation::new(1)))
            .collect(),
        open,
        base_length: base.0,
        base_hash: base.1,
        quorum: Vec::new(),
    }
}

/// Plays.
///
/// # Errors
/// What was lost or wrong, with the cycle and the seed.
pub fn run(options: Options, mut progress: impl FnMut(&Outcome)) -> Result<Outcome, String> {
    let (cycles, seed) = (options.cycles, options.seed);
    let mut play = Play::new(options);
    for cycle in 0..cycles {
        let done = play.cycle(cycle);
        done.map_err(|what| format!("cycle {cycle} of seed {seed}: {what}"))?;
        play.outcome.cycles = cycle + 1;
        progress(&play.outcome);
    }
    play.end_array()
        .map_err(|what| format!("at the end of seed {seed}: {what}"))?;
    Ok(play.outcome)
}

impl Play {
    fn new(options: Options) -> Self {
        let (mouth, heard) = channel();
        Self {
            dice: Dice(options.seed),
            options,
            sides: Default::default(),
            heard,
            mouth,
            record: record(1, &[0, 1], true, (0, LogHash::default())),
            plan: Plan::Rest,
            sealer: None,
            catching: None,
            equal: None,
            lone: false,
            next: 0,
            lives: 0,
            calls: BTreeMap::new(),
            records: BTreeSet::new(),
            asked: BTreeMap::new(),
            numbers: 0,
            doubtful: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            history: BTreeMap::new(),
            array: None,
            died: [false; 2],
            quiet: 0,
            outcome: Outcome::default(),
        }
    }

    fn cycle(&mut self, cycle: u64) -> Result<(), String> {
        self.died = [false; 2];
        if cycle.is_multiple_of(ARRAY_CYCLES) {
            self.end_array()?;
            self.begin_array()?;
        }
        // Whom, where, and when.
        let victims: &[usize] = [&[0_usize][..], &[1], &[0, 1]][self.dice.below(3) as usize];
        let (mut waiting, mut rest) = (vec![], 15);
        for &at in victims {
            // One numbers and answers, the other one follows and replies.
            let passed = |place: &&str| match *place {
                place if place.ends_with("migration") => false,
                place if place.ends_with("answer") || place.ends_with("sending") => at == 0,
                place if place.ends_with("replying") => at == 1,
                _ => true,
            };
            let places: Vec<&str> = Places::ALL.iter().chain(LOOP).copied().filter(passed).collect();
            let place = places[self.dice.below(places.len() as u64) as usize];
            let resting = place.ends_with("checkpoint");
            let nth = 1 + self.dice.below(if resting { 2 } else { 6 });
            rest = if resting { 100 } else { rest };
            if place.ends_with("mend") || self.dice.chance(20) {
                // It dies now, and again on its way back.
                self.kill(at);
                self.sealer = Some(1 - at).filter(|_| victims.len() == 1 || self.sealer.is_none());
                self.sides[at].next_fate = Some((place.to_owned(), 1 + self.dice.below(2)));
            } else {
                self.arm(at, place, nth);
            }
            waiting.push(at);
        }
        let mut burst = 4 + self.dice.below(12);
        self.quiet = 0;
        while waiting
            .iter()
            .any(|at| self.sides[*at].life.is_some() && !self.died[*at])
        {
            if burst > 0 && self.asked.len() < 4 {
                burst -= 1;
                self.ask_somewhere();
                if self.dice.chance(rest) {
                    for at in 0..2 {
                        self.order(at, &Order::Rest);
                    }
                }
            }
            self.hear()?;
            // Nothing is left to do that would lead it there.
            if self.quiet > 3 {
                for &at in &waiting {
                    if !self.died[at] {
                        self.kill(at);
                    }
                }
            }
        }
        if self.died == [true; 2] {
            self.outcome.both += 1;
        }
        // Somebody may go on alone meanwhile.
        if self.sealer.is_none() && self.dice.chance(50) {
            let survivor = (0..2).find(|at| !self.died[*at]);
            self.sealer = Some(survivor.unwrap_or(self.dice.below(2) as usize));
        }
        self.recover()?;
        self.audit()
    }

    fn begin_array(&mut self) -> Result<(), String> {
        let folder = tempfile::Builder::new()
            .prefix("crash-")
            .tempdir_in(&self.options.folder)
            .map_err(|error| format!("{}: {error}", self.options.folder.display()))?;
        for side in ["a", "b"] {
            std::fs::create_dir(folder.path().join(side)).map_err(|error| error.to_string())?;
        }
        self.array = Some(folder);
        self.outcome.arrays += 1;
        self.record = record(1, &[0, 1], true, (0, LogHash::default()));
        (self.plan, self.sealer, self.catching, self.equal) = (Plan::Rest, None, None, None);
        for at in 0..2 {
            let migrations: Vec<&str> = Places::ALL
                .iter()
                .copied()
                .filter(|place| place.ends_with("migration") || place.ends_with("commit"))
                .chain(["in flush"])
                .collect();
            let place = migrations[self.dice.below(migrations.len() as u64) as usize];
            let nth = 1 + self.dice.below(if place == "in flush" { 12 } else { 1 });
            let fate = self.dice.chance(70).then(|| (place.to_owned(), nth));
            self.sides[at] = Side {
                next_fate: fate,
                ..Side::default()
            };
        }
        self.recover()
    }

    /// Both keepers end in order.
    fn end_array(&mut self) -> Result<(), String> {
        for (at, side) in self.sides.iter_mut().enumerate() {
            if let Some(life) = side.life.take()
                && !life.end()
            {
                return Err(format!(
                    "{} did not end well when it was asked to",
                    controller(at)
                ));
            }
            *side = Side::default();
        }
        while self.heard.try_recv().is_ok() {}
        self.array = None;
        self.calls.clear();
        self.records.clear();
        self.asked.clear();
        self.doubtful.clear();
        self.acknowledged.clear();
        self.history.clear();
        self.numbers = 0;
        Ok(())
    }

    // Orders.

    fn order(&mut self, at: usize, order: &Order) {
        if let Some(life) = &mut self.sides[at].life {
            life.order(order);
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn arm(&mut self, at: usize, place: &str, nth: u64) {
        self.sides[at].fate = Some(place.to_owned());
        let place = place.to_owned();
        self.order(at, &Order::Die { place, nth });
    }

    fn disarm(&mut self) {
        for at in 0..2 {
            self.sides[at].next_fate = None;
            if self.sides[at].fate.take().is_some() {
                let order = Order::Die {
                    place: String::new(),
                    nth: u64::MAX,
                };
                self.order(at, &order);
            }
        }
    }

    fn kill(&mut self, at: usize) {
        if let Some(life) = &mut self.sides[at].life {
            self.sides[at].fate = None;
            life.kill();
        }
    }

    fn ask(&mut self, at: usize, number: u64) -> u64 {
        let ticket = self.ticket();
        self.asked.insert(ticket, (at, number));
        self.order(at, &Order::Change { ticket, number });
        ticket
    }

    /// A new change, or one whose fate is not known, of the one who decides.
    fn ask_somewhere(&mut self) {
        let Some((member, _)) = self.record.members.first() else {
            return;
        };
        let at = member.index();
        if self.sides[at].life.is_none() {
            return;
        }
        let again = self.doubtful.first().copied().filter(|_| self.dice.chance(30));
        let number = again.unwrap_or_else(|| {
            self.numbers += 1;
            self.numbers
        });
        self.ask(at, number);
    }

    // What is heard.

    /// One word, or silence, at which the clock ticks.
    fn hear(&mut self) -> Result<(), String> {
        match self.heard.recv_timeout(SILENCE) {
            Ok((at, life, word)) => {
                if word.as_ref().is_none_or(Word::is_progress) {
                    self.quiet = 0;
                }
                if self.sides[at]
                    .life
                    .as_ref()
                    .is_some_and(|present| present.number == life)
                {
                    match word {
                        Some(word) => self.word(at, word)?,
                        None => self.gone(at),
                    }
                }
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                for at in 0..2 {
                    self.order(at, &Order::Tick);
                }
                self.quiet += 1;
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err("nobody can say anything any more".into()),
        }
    }

    fn gone(&mut self, at: usize) {
        let side = &mut self.sides[at];
        let place = side.fate.take().unwrap_or_else(|| OUTSIDE.to_owned());
        // Dropped: reaped.
        let life = side.life.take().map(|life| life.number);
        (side.ready, side.told, side.book) = (false, false, None);
        *self.outcome.deaths.entry(place).or_default() += 1;
        self.died[at] = true;
        // Its router fails what was on its way to it, and forgets what it had asked.
        let lost: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, (caller, ..))| *caller != at)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            if let Some((caller, of, number)) = self.calls.remove(&id) {
                self.deliver_reply(caller, of, number, Err("service gone".into()));
            }
        }
        self.calls
            .retain(|_, (caller, of, _)| *caller != at || Some(*of) != life);
        let doubtful: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (whom, _))| *whom == at)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in doubtful {
            self.doubt(ticket);
        }
        if matches!(self.plan, Plan::Freezing { at: whose, .. } | Plan::Frozen { at: whose, .. } if whose == at)
        {
            self.plan = Plan::Rest;
        }
        (self.catching, self.equal) = (None, None);
    }

    fn doubt(&mut self, ticket: u64) {
        if let Some((_, number)) = self.asked.remove(&ticket)
            && !self.acknowledged.contains_key(&number)
            && self.doubtful.insert(number)
        {
            self.outcome.in_doubt += 1;
        }
    }

    fn deliver_reply(&mut self, caller: usize, life: u64, id: u64, reply: Result<Reply, String>) {
        if let Some(present) = self.sides[caller]
            .life
            .as_mut()
            .filter(|present| present.number == life)
        {
            present.order(&Order::Reply { id, reply });
        }
    }

    fn word(&mut self, at: usize, word: Word) -> Result<(), String> {
        match word {
            Word::Ready => self.sides[at].ready = true,
            Word::View(view) => {
                if view.diverged {
                    return Err(format!("{}: two histories", controller(at)));
                }
                self.sides[at].view = view;
                if let Plan::Frozen { at: whose, seen, .. } = &mut self.plan {
                    *seen |= *whose == at;
                }
            }
            Word::Call { id, call } => self.call(at, id, call),
            Word::Reply { id, reply } => {
                if let Some((caller, life, number)) = self.calls.remove(&id) {
                    self.deliver_reply(caller, life, number, reply);
                }
            }
            Word::Done { ticket, outcome } => self.done(at, ticket, outcome)?,
            Word::CaughtUp { ticket, outcome } => {
                if self.catching == Some(ticket) {
                    self.catching = None;
                    let equal = outcome.ok().filter(|done| done.equal);
                    self.equal = equal.map(|done| (done.length, done.hash));
                }
            }
            Word::Changed { ticket, outcome } => {
                let Some((_, number)) = self.asked.remove(&ticket) else {
                    return Ok(());
                };
                let Ok(changed) = outcome else { return Ok(()) };
                self.doubtful.remove(&number);
                let place = (changed.index, changed.hash);
                match self.acknowledged.insert(number, place) {
                    None => self.outcome.acknowledged += 1,
                    Some(before) if before == place => {}
                    Some(before) => {
                        return Err(format!(
                            "change {number} was acknowledged as entry {} ({}), and then as {} ({})",
                            before.0, before.1, place.0, place.1
                        ));
                    }
                }
            }
            Word::Rested => {}
            Word::Book(book) => self.sides[at].book = Some(book),
            Word::Failed(what) => return Err(format!("{}: {what}", controller(at))),
        }
        Ok(())
    }

    fn call(&mut self, at: usize, id: u64, call: Call) {
        let Some(life) = self.sides[at].life.as_ref().map(|life| life.number) else {
            return;
        };
        if self.sides[1 - at].ready {
            let onward = self.ticket();
            self.calls.insert(onward, (at, life, id));
            self.order(1 - at, &Order::Call { id: onward, call });
        } else {
            self.deliver_reply(at, life, id, Err("service gone".into()));
        }
    }

    fn done(&mut self, at: usize, ticket: u64, outcome: Result<(), String>) -> Result<(), String> {
        if self.asked.contains_key(&ticket) {
            // Refused, or in doubt: asked again later.
            self.doubt(ticket);
        } else if self.catching == Some(ticket) {
            self.catching = None;
        } else if let Plan::Freezing {
            at: whose,
            joining,
            ticket: frozen,
        } = self.plan
            && frozen == ticket
            && whose == at
        {
            self.plan = match outcome {
                Ok(()) => Plan::Frozen {
                    at,
                    joining,
                    seen: false,
                },
                Err(_) => Plan::Rest,
            };
        } else if self.records.remove(&ticket)
            && let Err(what) = outcome
        {
            return Err(format!("{} refused a record: {what}", controller(at)));
        }
        Ok(())
    }

    // What heartbeat does.

    /// Until both are members, hold the same log, and all of it is acknowledged.
    fn recover(&mut self) -> Result<(), String> {
        self.quiet = 0;
        let mut rounds = 0_u32;
        loop {
            self.heartbeat()?;
            if self.together() {
                self.disarm();
                if self.together() {
                    return Ok(());
                }
            }
            self.hear()?;
            rounds += 1;
            // A place that is not reached on the way keeps nobody waiting; one that is reached again and again is
            // reached in one life only.
            if self.quiet > PATIENCE || rounds > 1000 * PATIENCE {
                let views: Vec<&View> = self.sides.iter().map(|side| &side.view).collect();
                return Err(format!(
                    "no end: {:?}, {:?}, {views:?}, {:?}",
                    self.record, self.plan, self.catching
                ));
            }
        }
    }

    fn together(&self) -> bool {
        let [a, b] = &self.sides;
        let whole = |side: &Side| {
            let view = &side.view;
            side.ready
                && side.told
                && view.length == view.whole
                && view.acknowledged == view.whole
                && view.locked.is_none()
        };
        self.record.members.len() == 2
            && self.sealer.is_none()
            && self.plan == Plan::Rest
            && self.asked.is_empty()
            && whole(a)
            && whole(b)
            && (a.view.length, a.view.hash) == (b.view.length, b.view.hash)
    }

    fn heartbeat(&mut self) -> Result<(), String> {
        for at in 0..2 {
            if self.sides[at].life.is_none() {
                self.bear(at)?;
            } else if self.sides[at].ready && !self.sides[at].told {
                self.sides[at].told = true;
                let (ticket, record) = (self.ticket(), self.record.clone());
                self.records.insert(ticket);
                // What it shows is older than what it is told.
                self.sides[at].view.locked = Some("it was told a record just now".into());
                let set = SetEpoch {
                    record,
                    lock: None,
                    incarnation: None,
                };
                self.order(at, &Order::SetEpoch { ticket, set });
            }
        }
        let members: Vec<usize> = self
            .record
            .members
            .iter()
            .map(|(member, _)| member.index())
            .collect();
        for &at in &members {
            // Its base was on the disks of all its members when it was decided.
            let side = &self.sides[at];
            if side.told
                && let Some(reason) = side
                    .view
                    .locked
                    .as_ref()
                    .filter(|reason| reason.contains("does not hold"))
            {
                return Err(format!(
                    "{}: history that was decided is lost: {reason}",
                    controller(at)
                ));
            }
        }
        match (self.plan, members.as_slice()) {
            (Plan::Rest, [_, _]) => {
                if let Some(at) = self.sealer
                    && self.sides[at].told
                {
                    self.propose(at, false);
                }
            }
            (Plan::Rest, &[at]) if self.sides[at].told => self.alone(at),
            (
                Plan::Frozen {
                    at,
                    joining,
                    seen: true,
                },
                _,
            ) => self.decide(at, joining, &members),
            _ => {}
        }
        Ok(())
    }

    fn bear(&mut self, at: usize) -> Result<(), String> {
        let Some(array) = &self.array else {
            return Err("there is no array".into());
        };
        self.lives += 1;
        let fate = self.sides[at].next_fate.take();
        let birth = Birth {
            seed: self.dice.next(),
            early: self.options.fault == Fault::Early,
            lies: self.options.fault == Fault::Lies,
            // In every second array so few that somebody who was away misses what is gone.
            keep: self.outcome.arrays.is_multiple_of(2).then_some(KEEP),
            fate: fate.clone(),
        };
        let folder = array.path().join(controller(at).as_str());
        let life = Life::begin(
            &self.options.program,
            &folder,
            at,
            self.lives,
            &birth,
            self.mouth.clone(),
        );
        self.sides[at].life = Some(life.map_err(|error| format!("a keeper cannot be started: {error}"))?);
        self.sides[at].fate = fate.map(|(place, _)| place);
        Ok(())
    }

    fn propose(&mut self, at: usize, joining: bool) {
        let ticket = self.ticket();
        self.plan = Plan::Freezing { at, joining, ticket };
        let freeze = Freeze {
            epoch: self.record.epoch.next(),
            reason: "proposal".into(),
        };
        self.order(at, &Order::Freeze { ticket, freeze });
    }

    /// One controller is the whole membership: it opens, changes, and takes the other one in.
    fn alone(&mut self, at: usize) {
        self.sealer = None;
        if !self.record.open {
            return self.propose(at, false);
        }
        if !self.lone {
            self.lone = true;
            if self.dice.chance(25) && self.sides[at].fate.is_none() {
                let place = [
                    "before commit",
                    "in commit",
                    "after commit",
                    "after report",
                    "after answer",
                    "in flush",
                ][self.dice.below(6) as usize];
                let nth = 1 + self.dice.below(4);
                self.arm(at, place, nth);
            }
            for _ in 0..self.dice.below(6) {
                self.ask_somewhere();
            }
            return;
        }
        let whole = (self.sides[at].view.length, self.sides[at].view.hash);
        if self.equal.is_some_and(|equal| equal == whole) || !self.asked.is_empty() {
            return;
        }
        // Stand still, then let the other one become equal.
        self.propose(at, true);
    }

    fn decide(&mut self, at: usize, joining: bool, members: &[usize]) {
        let view = self.sides[at].view.clone();
        let epoch = self.record.epoch.get() + 1;
        let whole = (view.length, view.hash);
        let base = (self.record.base_length, self.record.base_hash);
        let next = if joining {
            if self.equal != Some(whole) {
                let joiner = 1 - at;
                if self.sides[joiner].told && self.catching.is_none() {
                    let ticket = self.ticket();
                    self.catching = Some(ticket);
                    self.order(joiner, &Order::CatchUp { ticket });
                }
                return;
            }
            record(epoch, &[0, 1], true, whole)
        } else if members.len() == 2 {
            let base = if view.acknowledging {
                (view.acknowledged, view.acknowledged_hash)
            } else {
                whole
            };
            record(epoch, &[at], false, base)
        } else {
            record(epoch, &[at], true, base)
        };
        self.record = next;
        self.plan = Plan::Rest;
        (self.sealer, self.equal, self.catching, self.lone) = (None, None, None, false);
        for side in &mut self.sides {
            side.told = false;
        }
    }

    // The audit.

    /// Length of the history that was seen.
    fn last(&self) -> u64 {
        self.history.last_key_value().map_or(0, |(index, _)| *index)
    }

    fn audit(&mut self) -> Result<(), String> {
        // Asked again: one that was answered, and all whose fate is not known.
        // Actions are known again as long as their entries are kept.
        let newest = self.acknowledged.values().map(|(index, _)| *index).max();
        let kept = |(index, _): &(u64, LogHash)| index + KEEP > newest.unwrap_or(0);
        let known = self.acknowledged.iter().filter(|(_, place)| kept(place));
        let known: Vec<u64> = known.map(|(number, _)| *number).collect();
        let mut again: Vec<u64> = self.doubtful.iter().copied().take(8).collect();
        if !known.is_empty() {
            again.push(known[self.dice.below(known.len() as u64) as usize]);
            again.extend(known.last());
            self.outcome.repeated += 2;
        }
        let at = self
            .record
            .members
            .first()
            .map_or(0, |(member, _)| member.index());
        for number in again {
            self.ask(at, number);
        }
        let after = self.last();
        // A death that was ordered earlier may still come: nobody who has died is waited for.
        for _ in 0..10 {
            self.recover()?;
            for at in 0..2 {
                self.sides[at].book = None;
                self.order(at, &Order::Audit { after });
            }
            self.quiet = 0;
            while self.sides.iter().any(|side| side.book.is_none()) {
                self.hear()?;
                if self.quiet > PATIENCE {
                    return Err("a keeper does not say what stands in its book".into());
                }
                if self.sides.iter().any(|side| side.life.is_none()) {
                    break;
                }
            }
            if self.sides.iter().all(|side| side.book.is_some()) {
                break;
            }
        }
        let end = self.history.get(&after).copied().unwrap_or_default();
        let mut books = vec![];
        for (at, side) in self.sides.iter_mut().enumerate() {
            let Some(book) = side.book.take() else { continue };
            let me = controller(at);
            if !book.problems.is_empty() {
                return Err(format!("{me}: {}", book.problems.join("; ")));
            }
            if book.after == after && book.base != Some(end) {
                return Err(format!("{me}: acknowledged history up to entry {after} is lost"));
            }
            if book.hosts.len() as u64 != book.entries {
                return Err(format!(
                    "{me}: {} hosts in the tables, {} in the log",
                    book.hosts.len(),
                    book.entries
                ));
            }
            let hosts: BTreeSet<&str> = book.hosts.iter().map(String::as_str).collect();
            let lost = self
                .acknowledged
                .keys()
                .find(|number| !hosts.contains(format!("h{number}").as_str()));
            if let Some(number) = lost {
                return Err(format!("{me}: what acknowledged change {number} made is lost"));
            }
            self.outcome.compacted += u64::from(book.after > after);
            let places = (book.after..).skip(1);
            books.push(places.zip(book.hashes).collect::<BTreeMap<u64, LogHash>>());
        }
        let [ours, theirs] = books.as_slice() else {
            return Err("a book is missing".into());
        };
        let differ = |(index, hash): (&u64, &LogHash)| theirs.get(index).is_some_and(|other| other != hash);
        if ours.iter().any(differ) || ours.last_key_value() != theirs.last_key_value() {
            return Err("the books differ".into());
        }
        self.history
            .extend(ours.iter().chain(theirs).map(|(index, hash)| (*index, *hash)));
        for (number, (index, hash)) in &self.acknowledged {
            // Those that were let go between two audits are in the tables, as was seen.
            let known = self.history.get(index);
            if known.is_some_and(|known| known != hash) || known.is_none() && *index > self.last() {
                return Err(format!("acknowledged change {number} (entry {index}) is lost"));
            }
        }
        Ok(())
    }
}
