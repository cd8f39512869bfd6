//! The configuration and who may go on alone: K3, K7, K9, K13, K16.

use super::quorum::promised;
use super::{demand, mended, open_alone, scenario, taken_over, whole, wire};
use crate::setup::Setup;
use crate::world::{A, B, MS, SEC, World};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::effect::BlockId;

fn busy() -> Setup {
    Setup {
        change_idle: SEC / 4,
        ..Setup::fine()
    }
}

#[test]
fn k03_a_joiner_has_everything_before_it_is_a_member() {
    for delay in [0, 5, 50, 500] {
        scenario(busy, |world| {
            whole(world);
            world.power_cut(B);
            taken_over(world, A);
            open_alone(world, A);
            let before = world.stats.changes;
            world.run_for(5 * SEC);
            demand(
                world,
                world.stats.changes > before,
                "a lone open controller accepts no change",
            );
            world.power_on(B);
            let joined = world.run_till(60 * SEC, |world| world.record().members.both() && world.member(B));
            demand(world, joined, "b does not join");
            world.run_for(delay * MS);
            world.power_cut(A);
            taken_over(world, B);
            mended(world);
        });
    }
}

#[test]
fn k07_a_sequencer_that_restarts_appends_over_nothing() {
    // Pools that come and go too often stay where they are.
    let stays = || Setup {
        auto_giveback: false,
        repower: true,
        ..busy()
    };
    scenario(stays, |world| {
        whole(world);
        for round in 0..4 {
            world.links[A].delay = 300 * MS;
            world.links[B].delay = 300 * MS;
            world.run_for((3 + round) * SEC);
            world.reset(A);
            world.run_for(SEC);
            world.links = [world.setup.link; 2];
            whole(world);
        }
        mended(world);
    });
}

#[test]
fn k09_a_repaired_identical_partner_may_go_on() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.power_cut(A);
        taken_over(world, B);
        // Nothing was changed meanwhile, or a would not know it.
        let record = world.record();
        world.power_cut(B);
        world.run_for(SEC);
        demand(
            world,
            record.members.get(ControllerId::A).is_none(),
            "a is still a member",
        );
        if record.mode == pollux_heartbeat_core::record::Mode::Sealed {
            world.power_on(A);
            taken_over(world, A);
        }
        mended(world);
    });
}

/// b, alone and open, has voted for the return of a and dies: what a may do stands nowhere but in that vote.
#[test]
fn k09_a_vote_of_the_dead_is_finished_by_whoever_finds_it() {
    for disks in [1, 2] {
        scenario(Setup::fine, |world| {
            whole(world);
            world.power_cut(A);
            taken_over(world, B);
            open_alone(world, B);
            let open = world.record().mode == pollux_heartbeat_core::record::Mode::Open;
            demand(world, open, "b is not open");
            world.power_on(A);
            let voted = world.run_till(60 * SEC, |world| promised(world, B, disks, true));
            demand(world, voted, "b does not vote for the return of a");
            world.power_cut(B);
            taken_over(world, A);
            mended(world);
        });
    }
}

/// Whoever returns with a database that is not the one it left with holds less than it was counted for.
#[test]
fn h7_a_database_that_was_lost_or_restored_from_a_copy_serves_nothing_that_it_lacks() {
    for lost in [true, false] {
        scenario(busy, |world| {
            whole(world);
            world.run_for(10 * SEC);
            let joined = world.record().base.length.get() as usize;
            world.power_cut(A);
            taken_over(world, B);
            world.power_cut(B);
            let behind = world.nodes[A].keeper.log.len() > joined;
            demand(world, behind, "nothing was changed since both are members");
            world.nodes[A].keeper.restore(if lost { 0 } else { joined });
            world.power_on(A);
            world.run_for(60 * SEC);
            let served = (0..2).any(|pool| world.serves(A, pool));
            demand(world, !served, "a serves without what was acknowledged");
            mended(world);
        });
    }
}

#[test]
fn k13_an_acknowledgement_of_before_does_not_count_after() {
    for delay in [100, 400, 900] {
        scenario(busy, |world| {
            whole(world);
            // What b has durably taken is on its way to a while b is excluded, and while it joins again.
            world.links[B].delay = delay * MS;
            world.run_for(SEC);
            world.pause(B);
            world.run_for(4 * SEC);
            world.resume(B);
            world.run_for(15 * SEC);
            mended(world);
        });
    }
}

/// Found by seed 10706: heartbeat had the configuration stand still, died, and its successor knew nothing of that.
#[test]
fn k13_a_freeze_outlives_the_heartbeat_that_asked_for_it_and_ends() {
    for delay in 0..40 {
        scenario(busy, |world| {
            whole(world);
            world.pause(B);
            let freezes = world.run_till(60 * SEC, |world| world.nodes[A].keeper.frozen());
            demand(world, freezes, "a does not begin to take over");
            world.run_for(delay * 100_000);
            world.crash(A, Some(5 * MS));
            world.resume(B);
            mended(world);
        });
    }
}

#[test]
fn k16_both_boot_with_the_wire_down_and_the_better_one_serves() {
    scenario(busy, |world| {
        whole(world);
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        world.run_for(5 * SEC);
        world.power_cut(A);
        world.run_for(SEC);
        wire(world, false);
        world.power_on(B);
        world.power_on(A);
        taken_over(world, A);
        mended(world);
    });
}

#[test]
fn k16_both_boot_with_the_wire_down_and_equal_logs() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.power_cut(B);
        world.power_cut(A);
        world.run_for(SEC);
        wire(world, false);
        world.power_on(B);
        world.power_on(A);
        let served = world.run_till(90 * SEC, |world| {
            (0..2).all(|pool| world.serves(A, pool) || world.serves(B, pool))
        });
        demand(world, served, "both wait for each other");
        mended(world);
    });
}

/// The one that would go on hears nothing from the other, which lives: its consent hangs on its way to the disks.
#[test]
fn k16_of_two_that_have_booted_neither_goes_on_without_the_others_consent() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.power_cut(B);
        world.power_cut(A);
        world.run_for(SEC);
        wire(world, false);
        world.wedged = [&[BlockId::Mailbox]; 2];
        world.power_on(B);
        world.power_on(A);
        let served = |world: &World| (0..2).all(|pool| world.serves(A, pool) || world.serves(B, pool));
        let early = world.run_till(30 * SEC, |world| served(world));
        demand(world, !early, "one went on without the other's consent");
        world.wedged = [&[]; 2];
        let done = world.run_till(60 * SEC, |world| served(world));
        demand(world, done, "neither goes on with the other's consent");
        mended(world);
    });
}
