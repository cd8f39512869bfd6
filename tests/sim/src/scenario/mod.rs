//! Directed plays: the counterexamples that shaped the protocol, K1 to K18, and named regressions. Each is played with a
//! few seeds (latencies and clocks differ), every invariant is asked all along, and each demands in the end what the
//! first version of the protocol did not achieve.

mod configuration;
mod fencing;
mod matrix;
mod quorum;
mod replace;
mod strangers;
mod takeover;

use crate::play::{converge, kept, linear};
use crate::setup::Setup;
use crate::world::{A, B, SEC, World};
use pollux_heartbeat_core::event::Request;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Plays a scenario with a few seeds. A play that fails is played again, with its script.
pub(crate) fn scenario(setup: impl Fn() -> Setup, act: impl Fn(&mut World)) {
    // A build that is not made for speed plays fewer: the sweeps inside the plays stay.
    let seeds = if cfg!(debug_assertions) { 2 } else { 4 };
    for seed in 0..seeds {
        let play = |script: bool| {
            let mut setup = setup();
            let slant = i64::try_from(seed).unwrap_or(0) * 3_000;
            setup.clock_ppm = [slant, -slant];
            let mut world = World::new(seed, setup);
            world.script = script.then(VecDeque::new);
            act(&mut world);
            let sound = world.violation.is_none();
            demand(&world, sound, "an invariant is broken");
        };
        if catch_unwind(AssertUnwindSafe(|| play(false))).is_err() {
            eprintln!("seed {seed}, again with its script:");
            play(true);
            unreachable!("the same seed is the same play");
        }
    }
}

/// Prints the end of the script.
fn tell(world: &World) {
    for line in world.script.iter().flatten() {
        eprintln!("  {line}");
    }
}

/// Demands something, with the end of the script if it is not so.
pub(crate) fn demand(world: &World, so: bool, what: &str) {
    if !so {
        tell(world);
    }
    assert!(so, "{what}; {:?}; {}", world.violation, world.record());
}

/// Runs until the array is whole.
pub(crate) fn whole(world: &mut World) {
    let since = world.now;
    let mut looked = 0;
    let done = world.run_till(120 * SEC, |world| {
        let look = world.now > looked + SEC / 10;
        if look {
            looked = world.now;
        }
        look && world.whole(since).is_ok()
    });
    let why = world.whole(since).err();
    demand(
        world,
        done || world.violation.is_some(),
        &format!("not whole: {why:?}"),
    );
    // And quiet: the last answers have arrived.
    world.run_for(SEC);
}

/// Runs until one controller serves every pool, alone. False: it does not.
pub(crate) fn alone(world: &mut World, c: usize) -> bool {
    let since = world.now;
    world.run_till(90 * SEC, |world| {
        (0..world.setup.pools.len()).all(|pool| world.serves(c, pool) && world.answered_since(pool, since))
    })
}

/// The same, demanded.
pub(crate) fn taken_over(world: &mut World, c: usize) {
    let done = alone(world, c);
    demand(world, done, &format!("controller {c} does not serve every pool"));
}

/// Everything is mended, and the array has to be whole with nothing lost.
pub(crate) fn mended(world: &mut World) {
    world.heal();
    let done = converge(world) && kept(world) && linear(world);
    demand(world, done, "not whole after the heal");
}

/// Both directions of the wire.
pub(crate) fn wire(world: &mut World, works: bool) {
    world.links.iter_mut().for_each(|link| link.cut = !works);
}

/// An operator opens a lone controller's configuration.
pub(crate) fn open_alone(world: &mut World, c: usize) {
    world.ask(c, Request::OpenAlone);
    world.run_for(5 * SEC);
}

#[test]
fn fine_weather_is_quiet() {
    scenario(Setup::fine, |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        world.run_for(60 * SEC);
        demand(
            world,
            world.invariants.borrow().records() == records,
            "a record was decided for nothing",
        );
        demand(
            world,
            world.stats.held == 0 && world.stats.stops == 0,
            "a lease ran out, or somebody stopped",
        );
        demand(
            world,
            world.stats.changes > 5 && world.stats.replies > 500,
            "nothing happened",
        );
    });
}

#[test]
fn a_switchover_and_back_is_no_takeover() {
    scenario(Setup::fine, |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        world.ask(A, Request::Switchover(crate::world::pool_id(0)));
        let moved = world.run_till(20 * SEC, |world| world.serves(B, 0));
        demand(world, moved, "pool 0 did not move");
        world.run_for(5 * SEC);
        world.ask(B, Request::Giveback(None));
        let moved = world.run_till(20 * SEC, |world| world.serves(A, 0));
        demand(world, moved, "pool 0 did not come home");
        demand(
            world,
            world.invariants.borrow().records() == records,
            "a move cost a record",
        );
        mended(world);
    });
}
