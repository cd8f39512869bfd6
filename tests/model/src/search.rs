//! The search: every state that a world can come to within its bound, each once.
//!
//! A cave is explored with a ball of thread and a bag of pebbles. Each junction gets a pebble (the fingerprint of the
//! state), so that nobody walks a passage twice; the thread (the number of the step that led here) leads back to the
//! entrance. Passages that cost a *fault* are kept for later: everything that can be reached with no fault is seen first,
//! then with one, and so on. So the first counterexample has the fewest faults, and among those few steps.
//!
//! From every state at rest the search also asks whether the array *recovers*: faults end, what happens next is decided
//! by a fixed and fair rule, and the world has to become settled. A run that comes back to a state it has passed is a
//! circle that never ends: a counterexample, too.
//!
//! It must never skip a state for want of room without saying so in its report.

use crate::fingerprint::Set;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Something that was promised and does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// What happened, in words.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self {
            promise,
            what: what.into(),
        }
    }
}

/// A world that can be searched.
pub(crate) trait World: Clone {
    /// One thing that may happen next.
    type Step: Copy;

    /// What may happen next, each with the number of faults that it costs, when `left` faults may still strike; always
    /// in the same order. Nothing: this is an end.
    fn steps(&self, left: u8) -> Vec<(Self::Step, u8)>;

    /// It happens. `script` gets a line for everything that was done, if somebody wants to read it.
    fn apply(&mut self, step: Self::Step, script: Option<&mut Vec<String>>) -> Result<(), Violation>;

    /// Equal for states that behave alike from here on.
    fn fingerprint(&self) -> u128;

    /// The worlds in which every fault ends here, with what that means in words; nothing if this is not the moment.
    fn recoveries(&self) -> Vec<(String, Self)>;

    /// What is missing until a recovery has come to its end.
    fn settled(&self) -> Result<(), String>;
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Faults that may strike in one run.
    pub(crate) faults: u8,
    /// States after which the search gives up, and says so.
    pub(crate) states: usize,
    /// Steps within which a recovery has to end.
    pub(crate) patience: usize,
}

/// What a search saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps that were taken.
    pub transitions: usize,
    /// Steps of the longest path that is the first to its end.
    pub depth: usize,
    /// Different states that recoveries went through.
    pub recovering: usize,
    /// New states by the number of faults that it took to reach them.
    pub by_faults: Vec<usize>,
    /// Every state within the bound was seen.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// The first counterexample.
    pub counterexample: Option<Counterexample>,
}

/// A run that breaks a promise.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What is broken.
    pub violation: Violation,
    /// The run, line by line.
    pub script: Vec<String>,
    /// Faults in it.
    pub faults: u8,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.script {
            writeln!(f, "    {line}")?;
        }
        write!(
            f,
            "  {} IS BROKEN ({} faults): {}",
            self.violation.promise, self.faults, self.violation.what
        )
    }
}

/// Where a state was reached first: from which, and by which of its steps.
#[derive(Clone, Copy)]
struct Thread {
    from: u32,
    step: u16,
}

struct Place<W> {
    world: W,
    thread: u32,
    depth: usize,
}

/// Junctions waiting to be explored, above which the newest is explored first: breadth is for short counterexamples,
/// memory is for all of them.
const BREADTH: usize = 50_000;

/// Searches a world.
pub(crate) fn search<W: World>(start: &W, limits: Limits) -> Report {
    let began = Instant::now();
    let mut search = Search {
        start,
        limits,
        seen: Set::default(),
        recovering: Set::default(),
        threads: Vec::new(),
        report: Report::default(),
    };
    if let Err(counterexample) = search.run() {
        search.report.counterexample = Some(*counterexample);
    }
    let Search {
        mut report,
        seen,
        recovering,
        ..
    } = search;
    report.states = seen.len();
    report.recovering = recovering.len();
    report.took = began.elapsed();
    report
}

struct Search<'a, W> {
    start: &'a W,
    limits: Limits,
    seen: Set,
    recovering: Set,
    threads: Vec<Thread>,
    report: Report,
}

impl<W: World> Search<'_, W> {
    fn run(&mut self) -> Result<(), Box<Counterexample>> {
        let mut levels: Vec<VecDeque<Place<W>>> = Vec::new();
        levels.resize_with(usize::from(self.limits.faults) + 1, VecDeque::new);
        self.report.by_faults = vec![0; levels.len()];
        self.seen.insert(self.start.fingerprint());
        self.threads.push(Thread { from: 0, step: 0 });
        levels[0].push_back(Place {
            world: self.start.clone(),
            thread: 0,
            depth: 0,
        });
        for used in 0..levels.len() {
            let left = self.limits.faults - used as u8;
            loop {
                let next = if levels[used].len() > BREADTH {
                    levels[used].pop_back()
                } else {
                    levels[used].pop_front()
                };
                let Some(place) = next else { break };
                self.recover(&place)?;
                for (at, (step, cost)) in place.world.steps(left).into_iter().enumerate() {
                    if cost > left {
                        continue;
                    }
                    let thread = Thread {
                        from: place.thread,
                        step: at as u16,
                    };
                    let mut world = place.world.clone();
                    self.report.transitions += 1;
                    if world.apply(step, None).is_err() {
                        return Err(self.tell(thread, None));
                    }
                    if !self.seen.insert(world.fingerprint()) {
                        continue;
                    }
                    if self.seen.len() > self.limits.states {
                        return Ok(());
                    }
                    let depth = place.depth + 1;
                    self.report.depth = self.report.depth.max(depth);
                    self.report.by_faults[used + usize::from(cost)] += 1;
                    self.threads.push(thread);
                    levels[used + usize::from(cost)].push_back(Place {
                        world,
                        thread: (self.threads.len() - 1) as u32,
                        depth,
                    });
                }
            }
        }
        self.report.complete = true;
        Ok(())
    }

    /// Every fault ends: the world has to settle.
    fn recover(&mut self, place: &Place<W>) -> Result<(), Box<Counterexample>> {
        for (at, (_, mut world)) in place.world.recoveries().into_iter().enumerate() {
            let mut passed = Set::default();
            for steps in 0.. {
                if world.settled().is_ok() {
                    break;
                }
                let fingerprint = world.fingerprint();
                let circle = !passed.insert(fingerprint);
                if self.recovering.contains(&fingerprint) {
                    break;
                }
                let next = world.steps(0).first().copied();
                let stuck = circle || steps == self.limits.patience || next.is_none();
                if stuck || next.is_some_and(|(step, _)| world.apply(step, None).is_err()) {
                    return Err(self.tell(self.threads[place.thread as usize], Some((at, passed.len()))));
                }
                self.report.transitions += 1;
            }
            self.recovering.extend(passed);
        }
        Ok(())
    }

    /// Follows the thread from the entrance once more, with a script.
    fn tell(&self, last: Thread, recovery: Option<(usize, usize)>) -> Box<Counterexample> {
        let mut path = Vec::new();
        let mut thread = last;
        // The entrance is its own beginning; a recovery may begin right there.
        let at_start = recovery.is_some() && (last.from, last.step) == (0, 0) && self.threads.len() == 1;
        if !at_start {
            path.push(thread.step);
            while thread.from != 0 {
                thread = self.threads[thread.from as usize];
                path.push(thread.step);
            }
        }
        let mut world = self.start.clone();
        let mut script = Vec::new();
        let mut faults = 0;
        let mut broken = None;
        for at in path.into_iter().rev() {
            let steps = world.steps(self.limits.faults - faults);
            let (step, cost) = steps[usize::from(at)];
            faults += cost;
            if let Err(violation) = world.apply(step, Some(&mut script)) {
                broken = Some(violation);
            }
        }
        if let Some((at, length)) = recovery {
            let (name, mut healed) = world.recoveries().swap_remove(at);
            script.push(format!("RECOVERY: {name}"));
            for _ in 0..length {
                let Some((step, _)) = healed.steps(0).first().copied() else {
                    break;
                };
                if let Err(violation) = healed.apply(step, Some(&mut script)) {
                    broken = Some(violation);
                    break;
                }
            }
            broken = broken.or_else(|| {
                let missing = healed.settled().err().unwrap_or_default();
                Some(Violation::new(
                    "recovery",
                    format!("after {length} steps: {missing}"),
                ))
            });
        }
        let violation = broken.unwrap_or_else(|| {
            Violation::new(
                "the model",
                "the run did not break when it was repeated: it is not a function",
            )
        });
        Box::new(Counterexample {
            violation,
            script,
            faults,
        })
    }
}
