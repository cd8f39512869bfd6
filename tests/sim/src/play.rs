//! One seed from beginning to end: faults, heal, convergence, and a last fall.

use crate::rng::Rng;
use crate::setup::Setup;
use crate::shrink::{Mask, Small, Storm, smallest};
use crate::stats::Stats;
use crate::swarm::Kind;
use crate::world::{A, B, BLOCKS, Happening, MS, Onlooker, SEC, Violation, World, nanos};
use pollux_heartbeat_core::timing::watchdog_gone_after;
use std::collections::VecDeque;
use std::fmt;

/// Lines of the script that a failure shows.
const LAST: usize = 40;

/// A seed that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    violation: Violation,
    script: Vec<String>,
}

impl Failure {
    /// The name of the invariant.
    #[must_use]
    pub fn invariant(&self) -> &'static str {
        self.violation.invariant
    }
}

impl Failure {
    /// What was broken, in one line.
    #[must_use]
    pub fn last_line(&self) -> String {
        self.to_string().lines().last().unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.script {
            writeln!(f, "  {line}")?;
        }
        let Violation { at, invariant, what } = &self.violation;
        writeln!(
            f,
            "seed {} breaks {invariant} at {:.6} s: {what}",
            self.seed,
            *at as f64 / 1e9
        )
    }
}

/// What many seeds have seen.
#[derive(Clone, Debug, Default)]
pub struct Total(Stats);

impl Total {
    /// What others have seen as well.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0);
    }

    /// Events that were played.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.events
    }

    /// Visits of cells of state and event: events that a core took.
    #[must_use]
    pub fn cells(&self) -> u64 {
        self.0.handled
    }

    /// Which cells of state and event were visited, and why the others were not.
    #[must_use]
    pub fn coverage(&self) -> String {
        self.0.coverage.report()
    }

    /// Cells of state and event that nobody can explain: not visited without a reason, or visited against one.
    #[must_use]
    pub fn unexplained(&self) -> Vec<String> {
        self.0.coverage.unexplained()
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.summary())
    }
}

/// Plays one seed and adds what it saw to `total`.
///
/// # Errors
/// The first invariant that was broken, with the end of the script.
pub fn run(seed: u64, total: &mut Total) -> Result<(), Failure> {
    let world = play(seed, None);
    total.0.add(&world.stats);
    match world.violation {
        None => Ok(()),
        Some(_) => Err(failure(seed, play(seed, Some(LAST)))),
    }
}

/// Plays one seed and returns its whole script; the last line says what was broken, if anything was.
#[must_use]
pub fn replay(seed: u64) -> (Vec<String>, Option<Failure>) {
    let mut world = play(seed, Some(usize::MAX));
    let script = world.script.take().unwrap_or_default();
    let failure = world.violation.is_some().then(|| failure(seed, world));
    (script.into(), failure)
}

fn failure(seed: u64, world: World) -> Failure {
    let violation = world.violation.clone().unwrap_or(Violation {
        at: world.now,
        invariant: "determinism",
        what: "broken in the first run and not in the second".to_owned(),
    });
    Failure {
        seed,
        violation,
        script: world.script.unwrap_or_default().into(),
    }
}

/// Plays a failing seed with fewer and fewer faults; none if it does not fail.
#[must_use]
pub fn shrink(seed: u64) -> Option<Small> {
    let whole = play(seed, None);
    let broken = whole.violation.as_ref()?.invariant;
    let before = &whole.storm.before;
    let same = |world: &World| world.violation.as_ref().is_some_and(|v| v.invariant == broken);
    let mask = smallest(before.len(), |mask| {
        same(&masked(seed, Some((before.clone(), mask.clone()))))
    });
    only(seed, &mask)
}

/// Plays a seed with these faults alone; none if every invariant held.
#[must_use]
pub fn only(seed: u64, mask: &Mask) -> Option<Small> {
    let before = play(seed, None).storm.before;
    let of = before.len();
    let world = play_with(seed, Some(LAST), Some((before, mask.clone())), None);
    world.violation.as_ref()?;
    Some(Small {
        mask: mask.clone(),
        faults: world.storm.lines.values().cloned().collect(),
        of,
        failure: failure(seed, world),
    })
}

/// A play with some of its faults.
pub(crate) fn masked(seed: u64, faults: Option<(Vec<Rng>, Mask)>) -> World {
    play_with(seed, None, faults, None)
}

fn play(seed: u64, script: Option<usize>) -> World {
    play_with(seed, script, None, None)
}

/// A play with some of its faults, or all; somebody may look on.
pub(crate) fn play_with(
    seed: u64,
    script: Option<usize>,
    faults: Option<(Vec<Rng>, Mask)>,
    onlooker: Option<Onlooker>,
) -> World {
    let setup = Setup::swarm(seed);
    let length = setup.length;
    let mut world = World::new(seed, setup);
    if let Some((before, mask)) = faults {
        world.storm = Storm::planned(before, mask);
    }
    world.onlooker = onlooker;
    if let Some(limit) = script {
        world.script = Some(VecDeque::new());
        world.script_limit = limit;
        let setup = format!("{:?}", world.setup);
        world.say(|| setup);
    }
    acts(&mut world, length);
    world.stats.seeds = 1;
    world.stats.nanos = u128::from(world.now);
    world.stats.records = world.invariants.records();
    world
}

fn acts(world: &mut World, length: u64) {
    // Some faults meet an array that has not even started.
    let calm = world.rng.range(0, 15 * SEC);
    if !world.run_for(calm) {
        return;
    }
    world.unleash();
    if !world.run_for(length) {
        return;
    }
    world.heal();
    let operated = world.setup.faults.contains(&Kind::Operator);
    if operated {
        // Where a person has put a pool it stays, until a person asks for its home: again and again, like a person.
        for at in 0..30 {
            let c = at % 2;
            world.after(20 * SEC * at as u64, Happening::Home { c });
        }
    }
    if !converge(world) || !kept(world) {
        return;
    }
    fall(world);
}

/// Writes down that something that has to come true has not.
fn missed(world: &mut World, invariant: &'static str, what: String) -> bool {
    if world.violation.is_none() {
        world.say(|| format!("VIOLATED {invariant}: {what}"));
        world.violation = Some(Violation {
            at: world.now,
            invariant,
            what,
        });
    }
    false
}

/// L2 and L3: when the faults stop, the array becomes whole, from wherever it was.
pub(crate) fn converge(world: &mut World) -> bool {
    let healed = world.now;
    // The damper of a flapping wire is the longest that anything may wait.
    let bound = nanos(world.timing.flap_window) + nanos(world.timing.giveback_after) + 120 * SEC;
    let mut looked = 0;
    let whole = world.run_till(bound, |world| {
        // The answer costs more than an event: look now and then.
        let look = world.now >= looked + 200 * MS;
        if look {
            looked = world.now;
        }
        look && world.whole(healed).is_ok()
    });
    world.settled = whole;
    if whole {
        return true;
    }
    let why = world.whole(healed).err().unwrap_or_default();
    missed(
        world,
        "L2",
        format!("not whole {} s after the heal: {why}", bound / SEC),
    )
}

/// Everything that was acknowledged is there at the end.
pub(crate) fn kept(world: &mut World) -> bool {
    for c in [A, B] {
        let log = &world.nodes[c].keeper.log;
        if let Some(lost) = world
            .invariants
            .acknowledged()
            .iter()
            .find(|entry| !log.contains(entry))
            .copied()
        {
            return missed(
                world,
                "S3",
                format!("acknowledged change {lost} is gone from the log of {c}"),
            );
        }
    }
    for pool in 0..world.setup.pools.len() {
        for block in 0..BLOCKS {
            let floor = world.invariants.floor(pool, block);
            let found = world
                .disks
                .iter()
                .filter(|disk| disk.of.0 == pool)
                .map(|disk| disk.blocks[block])
                .max();
            if found.is_none_or(|found| found < floor) {
                return missed(
                    world,
                    "S4",
                    format!("block {block} of pool {pool} holds {found:?}; {floor} was acknowledged"),
                );
            }
        }
    }
    true
}

/// L1: whatever one controller dies of, the other ends up serving every pool, if any rung of the fence can be confirmed.
pub(crate) fn fall(world: &mut World) -> bool {
    let victim = world.rng.index(2);
    let survivor = 1 - victim;
    world.bmc[victim] = world.rng.chance(500_000);
    let death = world.rng.below(4);
    match death {
        0 => world.power_cut(victim),
        1 => {
            world.pause(victim);
        }
        2 => {
            // "Interconnect down, takeover disabled for ever, then the partner hangs and nobody takes over".
            world.links.iter_mut().for_each(|link| link.cut = true);
            let span = world.rng.range(SEC, 20 * SEC);
            if !world.run_for(span) {
                return false;
            }
            world.pause(victim);
        }
        _ => world.crash(victim, None),
    }
    let rung = world.setup.reservations
        || world.setup.power_rung && world.bmc[victim]
        || world.nodes[victim].watchdog.is_some();
    let mut fallen = world.now;
    let served = |world: &World, since: u64| {
        (0..world.setup.pools.len())
            .all(|pool| world.serves(survivor, pool) && world.answered_since(pool, since))
    };
    let bound = nanos(world.timing.budget) + nanos(watchdog_gone_after(world.timing.figures())) + 30 * SEC;
    let mut done = world.run_till(bound, |world| served(world, fallen));
    if world.violation.is_none() && !done && rung && death == 3 && !world.setup.watchdog[victim] {
        // A controller that lives without heartbeat and without a watchdog keeps its pools: nobody may take them but by
        // fencing, which was tried. Nothing more is promised.
        fallen = world.now;
        done = world.run_till(bound, |world| served(world, fallen));
    }
    if world.violation.is_some() {
        return false;
    }
    if !done && rung {
        let record = world.record();
        return missed(
            world,
            "L1",
            format!(
                "controller {survivor} does not serve every pool {} s after the fall of {victim}; {record}",
                bound / SEC
            ),
        );
    }
    // And the dead may come back.
    if world.nodes[victim].paused {
        world.resume(victim);
        return world.run_for(10 * SEC);
    }
    true
}
