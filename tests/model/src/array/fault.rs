//! What may happen, and what it costs.

use super::node::Script;
use super::{Array, CALM, Card, Laid, Part, Recovery, Task};
use crate::search::Violation;
use pollux_api::id::Generation;
use pollux_heartbeat_core::event::Request;
use pollux_heartbeat_core::{Effect, Event};

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A write, a read, a datagram, a task or an answer is held back: before it takes effect, or after. A datagram that is
    /// held back after it has arrived comes twice.
    Hold,
    /// A write, a read, or a task of the pool manager fails.
    Fail,
    /// The heartbeat daemon dies; target and pool manager go on.
    Crash,
    /// The heartbeat daemon stands still; target and pool manager go on.
    Stall,
    /// A controller resets, and is back before it is missed.
    Reset,
    /// A controller loses power, until somebody presses the button.
    Cut,
    /// The wire is cut, in one direction or both.
    Wire,
    /// A controller loses its path to one quorum disk.
    Path,
    /// The key on the pool's disk is gone.
    Key,
    /// A quorum disk loses everything that stands on it.
    Wipe,
    /// A controller says that it dies, once: and does, or stands still, or lives on.
    Word,
}

/// What a controller does that has said that it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It was a lie.
    LivesOn,
    /// Its heartbeat daemon dies.
    Dies,
    /// Its heartbeat daemon stands still.
    StandsStill,
}

/// What becomes of the writes of a controller that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Landed,
    Torn,
}

/// One thing that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next card, or the next instant.
    Next,
    /// All cards, the next instant, and all cards of it.
    Round,
    /// The next card is held back; or its end, after it took effect.
    Hold {
        after: bool,
    },
    /// The next card fails.
    Fail,
    /// The next card is played; when so many of the deeds that follow are done, the daemon dies (or stands still).
    Between {
        crash: bool,
        deeds: u8,
    },
    Crash(usize),
    Stall(usize),
    Reset(usize, Fate),
    Cut(usize, Fate),
    Wire([bool; 2]),
    Path(usize, usize),
    Key,
    Wipe(usize),
    Ask(usize, usize),
    Word(usize, Then),
    // What ends again, at no cost.
    Release(usize),
    Resume(usize),
    Restart(usize),
    PowerOn(usize),
    PowerOff(usize),
    MendWire,
    MendPath(usize, usize),
}

const FATES: [Fate; 3] = [Fate::Lost, Fate::Landed, Fate::Torn];

impl Array {
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.setup.faults.contains(&kind)
    }

    pub(super) fn possible(&self, left: u8) -> Vec<(Step, u8)> {
        if self.recovery.is_some() {
            return vec![(Step::Round, 0)];
        }
        let calm = self.whole_since.is_some_and(|at| self.now.since(at) >= CALM);
        if self.struck && calm {
            return Vec::new();
        }
        let fine = left > 0 && self.setup.fine;
        let mut steps = vec![(if fine { Step::Next } else { Step::Round }, 0)];
        let quiet = self.tray.is_empty();
        if quiet {
            self.ends(&mut steps);
        }
        // The first last word costs nothing at rest, whatever else happens before and after it.
        let mut faults = Vec::new();
        if quiet || fine {
            self.words(&mut faults);
        }
        let spoken = self.nodes.iter().any(|node| node.word_said);
        let free = u8::from(!quiet || spoken);
        if left == 0 {
            steps.extend(
                faults
                    .into_iter()
                    .map(|step| (step, free))
                    .filter(|(_, cost)| *cost == 0),
            );
            return steps;
        }
        // What a world opens with costs nothing: a request, or a key that is gone.
        if quiet {
            self.faults_at_rest(&mut faults);
        } else if fine {
            self.faults_between(&mut faults);
        }
        for c in [0, 1] {
            let node = &self.nodes[c];
            if !node.powered || node.boots == 0 || node.boot_at.is_some() || !(quiet || fine) {
                continue;
            }
            let mine = |laid: &Laid| laid.c == c && matches!(laid.card, Card::Write { .. });
            let writing = self.tray.iter().chain(&self.held).any(mine);
            let fates = if writing { &FATES[..] } else { &FATES[..1] };
            for fate in fates {
                if self.has(Kind::Reset) {
                    faults.push(Step::Reset(c, *fate));
                }
                if self.has(Kind::Cut) {
                    faults.push(Step::Cut(c, *fate));
                }
            }
        }
        let cost = |step: &Step| match step {
            Step::Word(..) => free,
            Step::Ask(..) | Step::Key => u8::from(self.struck),
            _ => 1,
        };
        steps.extend(faults.into_iter().map(|step| (step, cost(&step))));
        steps
    }

    /// What ends again.
    fn ends(&self, steps: &mut Vec<(Step, u8)>) {
        for (at, laid) in self.held.iter().enumerate() {
            // One task of a pool manager at a time, in their order.
            let earlier = &self.held[..at];
            let waits = matches!(laid.card, Card::Pool(_) | Card::Observe)
                && earlier
                    .iter()
                    .any(|other| other.c == laid.c && matches!(other.card, Card::Pool(_)));
            if !waits {
                steps.push((Step::Release(at), 0));
            }
        }
        for c in [0, 1] {
            if self.nodes[c].stalled {
                steps.push((Step::Resume(c), 0));
            }
            if self.nodes[c].crashed {
                steps.push((Step::Restart(c), 0));
            }
            if !self.nodes[c].powered {
                steps.push((Step::PowerOn(c), 0));
            }
            if self.nodes[c].goes {
                steps.push((Step::PowerOff(c), 0));
            }
            for (at, disk) in self.disks.iter().enumerate() {
                if !disk.path[c] {
                    steps.push((Step::MendPath(c, at), 0));
                }
            }
        }
        if self.wire != [true; 2] {
            steps.push((Step::MendWire, 0));
        }
    }

    /// Who has a word ready says it: a daemon that is stopped for good may only do that.
    fn words(&self, faults: &mut Vec<Step>) {
        for c in [0, 1] {
            let node = &self.nodes[c];
            if node.spoken.is_none() || node.stalled || node.core.is_none() {
                continue;
            }
            let after: &[Then] = if node.stopped {
                &[Then::LivesOn]
            } else {
                &[Then::LivesOn, Then::Dies, Then::StandsStill]
            };
            faults.extend(after.iter().map(|then| Step::Word(c, *then)));
        }
    }

    fn faults_at_rest(&self, faults: &mut Vec<Step>) {
        for c in [0, 1] {
            let node = &self.nodes[c];
            let runs = node.core.is_some() && !node.stalled && !node.stopped;
            if runs && self.has(Kind::Crash) {
                faults.push(Step::Crash(c));
            }
            if runs && self.has(Kind::Stall) {
                faults.push(Step::Stall(c));
            }
            if self.has(Kind::Path) {
                let works = |disk: &usize| self.disks[*disk].path[c];
                faults.extend(
                    (0..self.disks.len())
                        .filter(works)
                        .map(|disk| Step::Path(c, disk)),
                );
            }
            if runs {
                faults.extend((0..self.setup.requests.len()).map(|request| Step::Ask(c, request)));
            }
        }
        if self.has(Kind::Wire) && self.wire == [true; 2] {
            faults.extend([[false, false], [false, true], [true, false]].map(Step::Wire));
        }
        if self.has(Kind::Key) && self.standing.is_some() {
            faults.push(Step::Key);
        }
        if self.has(Kind::Wipe) {
            let written = |disk: &usize| self.disks[*disk].parts.iter().any(|part| *part != Part::blank());
            faults.extend((0..self.disks.len()).filter(written).map(Step::Wipe));
        }
    }

    fn faults_between(&self, faults: &mut Vec<Step>) {
        let Some(laid) = self.tray.front() else { return };
        let node = &self.nodes[laid.c];
        let holdable = match &laid.card {
            Card::Write { .. } | Card::Read { .. } | Card::Arrive(_) | Card::Pool(_) | Card::Power { .. } => {
                true
            }
            Card::Tell(event) => matches!(event, Event::ConfigFrozen { .. }),
            Card::Tick | Card::Observe => false,
        };
        if holdable && self.has(Kind::Hold) {
            faults.push(Step::Hold { after: false });
            if !matches!(laid.card, Card::Tell(_)) {
                faults.push(Step::Hold { after: true });
            }
        }
        let fails = matches!(laid.card, Card::Write { .. } | Card::Read { .. } | Card::Pool(_));
        if fails && self.has(Kind::Fail) {
            faults.push(Step::Fail);
        }
        let runs = node.core.is_some() && !node.stalled && !node.stopped && node.life == laid.life;
        let asked = self.has(Kind::Crash) || self.has(Kind::Stall);
        if !runs || !asked {
            return;
        }
        // How many deeds would follow is found out by trying.
        let mut trial = self.clone();
        trial.tray.pop_front();
        let Ok(effects) = trial.play(laid.clone(), 0, &mut None) else {
            return;
        };
        let counts =
            |effect: &Effect| !matches!(effect, Effect::Note(_) | Effect::Pet | Effect::Route { .. });
        let between = (0..effects.len()).filter(|at| counts(&effects[*at]));
        for deeds in between.chain([effects.len()]) {
            for (kind, crash) in [(Kind::Crash, true), (Kind::Stall, false)] {
                if self.has(kind) {
                    faults.push(Step::Between {
                        crash,
                        deeds: deeds as u8,
                    });
                }
            }
        }
    }

    pub(super) fn carry_out(
        &mut self,
        step: Step,
        mut script: Option<&mut Vec<String>>,
    ) -> Result<(), Violation> {
        match step {
            Step::Next => return self.next(script),
            Step::Round => {
                self.go_on(&mut script)?;
                return self.round(script);
            }
            _ => {}
        }
        if let Some(script) = script.as_deref_mut() {
            script.push(format!("{step:?}"));
        }
        let script = &mut script;
        match step {
            Step::Next | Step::Round => {}
            Step::Hold { after } => self.hold(after, script)?,
            Step::Fail => self.fail(script)?,
            Step::Between { crash, deeds } => self.between(crash, usize::from(deeds), script)?,
            Step::Crash(c) => self.crash(c),
            Step::Stall(c) => self.stall(c, Vec::new()),
            Step::Reset(c, fate) => {
                self.settle_writes(c, fate);
                self.reset(c);
            }
            Step::Cut(c, fate) => {
                self.settle_writes(c, fate);
                self.power_cut(c);
            }
            Step::Wire(works) => self.wire = works,
            Step::Path(c, disk) => self.disks[disk].path[c] = false,
            Step::Key => self.standing = None,
            Step::Wipe(disk) => self.disks[disk].parts = [Part::blank(), Part::blank()],
            Step::Ask(c, request) => {
                let request = match (self.setup.requests[request], self.nodes[c].told) {
                    // A person types the epoch that stands there.
                    (Request::Override(_), Some(record)) => Request::Override(record.epoch),
                    (request, _) => request,
                };
                self.ask(c, request);
            }
            Step::Word(c, then) => self.last_word(c, then),
            Step::Release(at) => {
                let laid = self.held.remove(at);
                self.nodes[laid.c].well_since = self.now;
                self.tray.push_back(laid);
            }
            Step::Resume(c) => self.resume(c, script)?,
            Step::Restart(c) => {
                self.restart(c);
                self.wake(c);
            }
            Step::PowerOn(c) => self.power_on(c),
            Step::PowerOff(c) => self.power_cut(c),
            Step::MendWire => self.wire = [true; 2],
            Step::MendPath(c, disk) => {
                self.disks[disk].path[c] = true;
                self.nodes[c].well_since = self.now;
            }
        }
        let strikes = !matches!(
            step,
            Step::Release(_)
                | Step::Resume(_)
                | Step::Restart(_)
                | Step::PowerOn(_)
                | Step::PowerOff(_)
                | Step::MendWire
                | Step::MendPath(..)
        );
        if strikes {
            self.struck = true;
            self.whole_since = None;
        }
        self.judge()
    }

    /// A recovery mends whatever would be in its way.
    fn go_on(&mut self, script: Script<'_, '_>) -> Result<(), Violation> {
        let Some(recovery) = self.recovery else {
            return Ok(());
        };
        for c in [0, 1] {
            if recovery == Recovery::Alone(1 - c) {
                continue;
            }
            self.resume(c, script)?;
            self.power_on(c);
            self.restart(c);
        }
        Ok(())
    }

    fn hold(&mut self, after: bool, script: Script<'_, '_>) -> Result<(), Violation> {
        let Some(laid) = self.tray.pop_front() else {
            return Ok(());
        };
        if !after {
            self.held.push(laid);
            return Ok(());
        }
        if matches!(laid.card, Card::Arrive(_)) {
            self.held.push(laid.clone());
            return self.play(laid, usize::MAX, script).map(|_| ());
        }
        if let Some(event) = self.take_effect(&laid)? {
            self.held.push(Laid {
                card: Card::Tell(event),
                ..laid
            });
        }
        Ok(())
    }

    fn fail(&mut self, script: Script<'_, '_>) -> Result<(), Violation> {
        let Some(laid) = self.tray.pop_front() else {
            return Ok(());
        };
        let c = laid.c;
        self.nodes[c].well_since = self.now;
        let event = match laid.card {
            Card::Write { .. } | Card::Read { .. } => {
                let paths: Vec<bool> = self.disks.iter().map(|disk| disk.path[c]).collect();
                self.disks.iter_mut().for_each(|disk| disk.path[c] = false);
                let event = self.take_effect(&laid)?;
                for (disk, path) in self.disks.iter_mut().zip(paths) {
                    disk.path[c] = path;
                }
                event
            }
            Card::Pool(task) => Some(task.failed()),
            Card::Tell(_) | Card::Tick | Card::Arrive(_) | Card::Power { .. } | Card::Observe => None,
        };
        let Some(event) = event else { return Ok(()) };
        let told = Laid {
            card: Card::Tell(event),
            ..laid
        };
        self.play(told, usize::MAX, script).map(|_| ())
    }

    fn between(&mut self, crash: bool, deeds: usize, script: Script<'_, '_>) -> Result<(), Violation> {
        let Some(laid) = self.tray.pop_front() else {
            return Ok(());
        };
        let (c, life) = (laid.c, laid.life);
        let rest = self.play(laid, deeds, script)?;
        if self.nodes[c].life != life {
            // One of the deeds was its end.
            return Ok(());
        }
        if crash {
            self.crash(c);
        } else {
            self.stall(c, rest);
        }
        Ok(())
    }

    pub(super) fn stall(&mut self, c: usize, undone: Vec<Effect>) {
        let node = &mut self.nodes[c];
        node.stalled = node.core.is_some();
        node.undone = undone;
    }

    /// The writes of a controller that ends: lost, landed, or each of them torn.
    fn settle_writes(&mut self, c: usize, fate: Fate) {
        let writes: Vec<Laid> = self
            .tray
            .iter()
            .chain(&self.held)
            .filter(|laid| laid.c == c)
            .cloned()
            .collect();
        for laid in writes {
            let Card::Write {
                disk, block, content, ..
            } = laid.card
            else {
                continue;
            };
            if !self.disks[disk].path[c] {
                continue;
            }
            match fate {
                Fate::Lost => {}
                Fate::Landed => self.disks[disk].parts[c].put(block, &content),
                Fate::Torn => self.disks[disk].parts[c].tear(block),
            }
        }
    }
}

impl Task {
    /// How its failure is told.
    fn failed(self) -> Event {
        use pollux_heartbeat_core::event::PoolStep;
        let why = "the pool manager failed".to_owned();
        let (generation, step) = match self {
            Self::Fence(key) => {
                return Event::FenceDone {
                    pool: super::POOL,
                    key,
                    result: Err(why),
                };
            }
            Self::Take(key, _) => (key.generation, PoolStep::Take),
            Self::Publish(key) => (key.generation, PoolStep::Publish),
            Self::Release(key) => (key.generation, PoolStep::Release),
            Self::Resume(key) => (key.generation, PoolStep::Resume),
            Self::StopAll => (Generation::default(), PoolStep::StopAll),
        };
        Event::PoolDone {
            pool: super::POOL,
            generation,
            step,
            result: Err(why),
        }
    }
}
