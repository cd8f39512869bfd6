//! The proof can fail: for each invariant the world is broken on purpose, and the matching judge has to say so. The
//! cores are the shipped ones; it is disks, wire, hosts and services that lie.

use crate::scenario::{alone, whole};
use crate::setup::Setup;
use crate::world::{A, B, SEC, World, pool_id};
use pollux_api::id::{Epoch, Generation};
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::event::Request;

/// Plays `act` with a few seeds; one of them at least has to break exactly one of these invariants, and none may break
/// another.
fn must_break(invariants: &[&str], setup: impl Fn() -> Setup, act: impl Fn(&mut World)) {
    let mut caught = 0;
    for seed in 0..6 {
        let mut world = World::new(seed, setup());
        act(&mut world);
        if let Some(violation) = &world.violation {
            assert!(
                invariants.contains(&violation.invariant),
                "seed {seed}: expected {invariants:?}, got {violation:?}"
            );
            caught += 1;
        }
    }
    assert!(caught > 0, "nothing of {invariants:?} was caught");
}

/// Nobody but reservations can fence.
fn reservations_only() -> Setup {
    Setup {
        power_rung: false,
        watchdog: [false; 2],
        ..Setup::fine()
    }
}

/// Commands are under way to the disks for long from now on.
fn slow(world: &mut World) {
    world.setup.leg_slowness = 20 * SEC;
    world.run_for(SEC);
}

#[test]
fn disks_that_admit_every_write_break_s1() {
    must_break(&["S1"], reservations_only, |world| {
        whole(world);
        slow(world);
        world.pause(A);
        for disk in &mut world.disks {
            disk.open = true;
        }
        world.run_for(40 * SEC);
    });
}

#[test]
fn quorum_disks_that_forget_break_s2() {
    must_break(&["S2"], Setup::fine, |world| {
        world.links.iter_mut().for_each(|link| link.cut = true);
        for disk in &mut world.quorum {
            disk.forgets = true;
        }
        world.run_for(60 * SEC);
    });
}

#[test]
fn a_change_that_only_the_sequencer_holds_breaks_s3() {
    let busy = || Setup {
        change_idle: SEC / 4,
        ..Setup::fine()
    };
    must_break(&["S3"], busy, |world| {
        whole(world);
        world.breakage.lone_acknowledgement = true;
        world.links.iter_mut().for_each(|link| link.cut = true);
        world.run_for(SEC / 2);
        world.power_cut(A);
        world.run_for(60 * SEC);
    });
}

#[test]
fn a_sign_that_is_left_up_breaks_i4() {
    must_break(&["I4"], Setup::fine, |world| {
        whole(world);
        world.breakage.signs_left_up = true;
        world.ask(A, Request::Switchover(pool_id(0)));
        world.run_for(10 * SEC);
    });
}

#[test]
fn a_write_that_is_acknowledged_too_early_breaks_s4() {
    must_break(&["S4", "S7"], Setup::fine, |world| {
        whole(world);
        world.breakage.early_acknowledgement = true;
        world.run_for(SEC);
        world.power_cut(A);
        world.run_for(30 * SEC);
    });
}

#[test]
fn whoever_registers_without_being_asked_breaks_s5() {
    must_break(&["S5"], Setup::fine, |world| {
        whole(world);
        let key = ReservationKey {
            controller: pollux_api::id::ControllerId::B,
            epoch: Epoch::new(90),
            generation: Generation::new(1),
        };
        world.rogue_register(B, 0, key);
    });
}

#[test]
fn a_key_that_is_quietly_registered_again_breaks_s6() {
    let volatile = || Setup {
        aptpl: false,
        ..Setup::fine()
    };
    must_break(&["S6"], volatile, |world| {
        whole(world);
        world.breakage.silent_reregistration = true;
        world.shelf_fails();
        world.run_for(SEC);
        world.shelf_returns();
        world.run_for(10 * SEC);
    });
}

#[test]
fn replies_without_a_lease_break_s7() {
    must_break(&["S7", "S2", "S3"], reservations_only, |world| {
        whole(world);
        world.breakage.lease_ignored = true;
        world.blind[A] = true;
        slow(world);
        world.crash(A, None);
        world.run_for(30 * SEC);
    });
}

/// K1: two of three quorum disks are then the first pool's. Its owner is heard for ever, and its partner, which nothing has
/// struck, cannot say that it lives and loses what it serves.
#[test]
fn a_quorum_area_on_the_pools_disks_locks_the_partner_out_k1() {
    let mut world = World::new(1, reservations_only());
    whole(&mut world);
    world.breakage.quorum_on_pools = true;
    let lost = world.run_till(60 * SEC, |world| !world.serves(B, 1));
    assert!(lost, "{:?}", world.violation);
}

#[test]
fn a_forged_echo_breaks_l1() {
    let mut world = World::new(1, reservations_only());
    whole(&mut world);
    // The dead is heard for ever, because somebody echoes in its name.
    world.breakage.forged_echo = true;
    world.run_for(SEC);
    world.pause(A);
    assert!(
        !alone(&mut world, B),
        "the survivor took over from one that it hears"
    );
    world.breakage.forged_echo = false;
    assert!(alone(&mut world, B), "{:?}", world.violation);
}

#[test]
fn a_fence_that_is_confirmed_blindly_breaks_s1_or_s4() {
    must_break(&["S1", "S4"], reservations_only, |world| {
        whole(world);
        slow(world);
        world.breakage.fence_confirmed_blindly = true;
        for disk in &mut world.disks {
            disk.reservations = false;
        }
        world.pause(A);
        world.run_for(40 * SEC);
    });
}

#[test]
fn one_fenced_leg_is_not_enough_k6() {
    let three = || {
        let mut setup = reservations_only();
        setup.pools[0].legs = 3;
        setup
    };
    must_break(&["S1", "S4"], three, |world| {
        whole(world);
        slow(world);
        world.breakage.one_leg_is_enough = true;
        let open: Vec<usize> = (0..world.disks.len())
            .filter(|at| world.disks[*at].of == (0, 2))
            .collect();
        for at in open {
            world.disks[at].path[B] = false;
        }
        world.pause(A);
        world.run_for(40 * SEC);
    });
}

#[test]
fn a_controller_that_does_not_stop_breaks_s2() {
    must_break(&["S2", "S7", "S3"], reservations_only, |world| {
        whole(world);
        world.breakage.stop_ignored = true;
        world.breakage.lease_ignored = true;
        world.blind[A] = true;
        world.pause(A);
        world.run_for(20 * SEC);
        world.resume(A);
        world.run_for(10 * SEC);
    });
    // The identity of the pools is what every test above leans on.
    assert_ne!(pool_id(0), pool_id(1));
}
