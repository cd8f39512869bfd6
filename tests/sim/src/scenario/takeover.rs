//! Who dies, when, and who goes on: K14, K15, and regressions of groups A and B.

use super::{alone, demand, mended, scenario, taken_over, whole, wire};
use crate::setup::Setup;
use crate::world::{A, B, MS, SEC, World, pool_id};
use pollux_heartbeat_core::area::Role;
use pollux_heartbeat_core::event::Request;

#[test]
fn a1_power_cut_that_the_power_control_confirms() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn a3_hang_and_a_late_return() {
    let unfenced = || Setup {
        power_rung: false,
        watchdog: [false; 2],
        ..Setup::fine()
    };
    scenario(unfenced, |world| {
        whole(world);
        world.pause(A);
        taken_over(world, B);
        world.resume(A);
        let stopped = world.run_till(10 * SEC, |world| world.stats.stops > 0);
        demand(world, stopped, "a did not notice that it was excluded");
        mended(world);
    });
}

#[test]
fn a5_a_heartbeat_daemon_that_crashes_ten_times_is_no_dead_controller() {
    scenario(Setup::fine, |world| {
        whole(world);
        let (records, takeovers) = (world.invariants.borrow().records(), world.stats.takeovers);
        for round in 0..10_u64 {
            let c = (round % 2) as usize;
            let restart = world.rng.range(MS, 500 * MS);
            world.crash(c, Some(restart));
            let wait = world.rng.range(SEC, 4 * SEC);
            world.run_for(wait);
        }
        demand(
            world,
            world.invariants.borrow().records() == records,
            "a daemon's death cost a record",
        );
        demand(
            world,
            world.stats.takeovers == takeovers,
            "a daemon's death cost a takeover",
        );
        mended(world);
    });
}

#[test]
fn a12_a_taker_that_dies_in_any_phase_is_replaced() {
    for delay in (0..16).map(|step| step * 200) {
        scenario(Setup::fine, |world| {
            whole(world);
            world.power_cut(A);
            world.run_for(delay * MS);
            world.reset(B);
            world.run_for(delay * MS / 2);
            world.power_on(A);
            mended(world);
        });
    }
}

#[test]
fn b7_wire_dead_and_later_a_hang() {
    scenario(Setup::fine, |world| {
        whole(world);
        let takeovers = world.stats.takeovers;
        wire(world, false);
        world.run_for(60 * SEC);
        demand(
            world,
            world.serves(A, 0) && world.serves(B, 1),
            "a dead wire alone stopped somebody",
        );
        demand(
            world,
            world.stats.takeovers == takeovers,
            "a dead wire alone caused a takeover",
        );
        world.pause(A);
        taken_over(world, B);
        mended(world);
    });
}

/// a has lost the shelf, so its slot is still; b sleeps for longer than Tn, so it has heard nothing. It listens before it calls
/// a dead: a lives, and gives what it has (seed 213754).
#[test]
fn c8_a_controller_that_has_slept_listens_before_it_judges() {
    for lost in (0..10).map(|step| 600 + step * 100) {
        scenario(Setup::fine, |world| {
            whole(world);
            let members = world.record().members;
            world.shelf_path(A, false);
            world.run_for(lost * MS);
            world.pause(B);
            world.run_for(1_200 * MS);
            world.resume(B);
            world.run_for(2 * SEC);
            demand(
                world,
                world.record().members == members,
                "b has called a dead that answers on the wire",
            );
            world.shelf_path(A, true);
            mended(world);
        });
    }
}

#[test]
fn c8_shelf_lost_by_one_controller_with_a_living_wire_gives_its_pools() {
    let volatile = || Setup {
        aptpl: false,
        ..Setup::fine()
    };
    scenario(volatile, |world| {
        whole(world);
        world.shelf_path(A, false);
        taken_over(world, B);
        let agreed = world.run_till(10 * SEC, |world| (0..2).all(|pool| world.one_story(pool).is_ok()));
        demand(world, agreed, "the port groups tell two stories");
        // Taken anew under a claim that only the wire can tell: what is forwarded goes under that one.
        let claims = |world: &World| [0, 1].map(|pool| world.claim(B, pool));
        let before = claims(world);
        world.shelf_fails();
        world.run_for(SEC);
        world.shelf_returns();
        let agreed = world.run_till(30 * SEC, |world| {
            (0..2).all(|pool| claims(world)[pool] > before[pool] && world.one_story(pool).is_ok())
        });
        demand(
            world,
            agreed,
            "the port groups tell two stories of pools that were taken again",
        );
        mended(world);
    });
}

#[test]
fn k14_a_reboot_inside_detection_keeps_nothing() {
    let swift = || Setup {
        boot_time: (100 * MS, 300 * MS),
        ..Setup::fine()
    };
    scenario(swift, |world| {
        whole(world);
        for _ in 0..3 {
            let before = world.nodes[A].incarnation;
            world.reset(A);
            world.run_for(30 * SEC);
            demand(
                world,
                world.nodes[A].incarnation == before + 1,
                "one reset, one start",
            );
        }
        mended(world);
    });
}

/// b returns as another incarnation and takes what it had; a, which joins it, cannot read that. What b's last incarnation
/// claimed is nobody's.
#[test]
fn k14_claims_that_were_read_before_the_record_say_nothing() {
    let stays = || Setup {
        auto_giveback: false,
        ..Setup::fine()
    };
    scenario(stays, |world| {
        whole(world);
        world.power_cut(A);
        taken_over(world, B);
        super::open_alone(world, B);
        // As long as the keepers do not speak nobody joins.
        world.filtered = true;
        world.power_on(A);
        let waits = world.run_till(20 * SEC, |world| world.nodes[A].role == Role::Waiting);
        demand(world, waits, "a does not wait to be joined");
        world.deaf[A] = true;
        world.reset(B);
        world.run_for(5 * SEC);
        world.filtered = false;
        let joined = world.run_till(60 * SEC, |world| world.record().members.both() && world.member(A));
        demand(world, joined, "b does not join a");
        world.run_for(5 * SEC);
        demand(world, world.serves(B, 0), "b had to stop what it served");
        world.deaf[A] = false;
        mended(world);
    });
}

#[test]
fn k15_a_pool_that_its_living_owner_does_not_serve_is_taken() {
    scenario(Setup::fine, |world| {
        world.lame[A] = true;
        let since = world.now;
        let served = world.run_till(180 * SEC, |world| {
            world.serves(B, 0) && world.answered_since(0, since)
        });
        demand(world, served, "nobody serves the pool of a");
        world.lame[A] = false;
        mended(world);
    });
}

#[test]
fn an_operators_takeover_fences_too() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.ask(B, Request::Takeover);
        let done = alone(world, B);
        demand(world, done, "b did not take over");
        mended(world);
    });
}

#[test]
fn a_lame_receiver_declines_and_the_giver_goes_on() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.lame[B] = true;
        world.ask(A, Request::Switchover(pool_id(0)));
        world.run_for(2 * SEC);
        let back = world.run_till(120 * SEC, |world| world.serves(A, 0));
        demand(world, back, "the giver does not go on");
        world.lame[B] = false;
        mended(world);
    });
}
