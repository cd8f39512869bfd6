//! The configuration and who may go on alone: K3, K7, K9, K13, K16.

use super::quorum::promised;
use super::{demand, mended, open_alone, scenario, taken_over, whole, wire};
use crate::play::linear;
use crate::setup::Setup;
use crate::world::{A, B, MS, SEC, World};
use pollux_api::config::LogEntry;
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

/// H7: the file is damaged, the keeper starts beside an empty one, and its partner has it all. Nobody is taken over for that.
#[test]
fn h7_a_database_that_is_lost_under_a_living_pair_is_given_back_by_the_partner() {
    for c in [A, B] {
        scenario(busy, |world| {
            whole(world);
            world.run_for(10 * SEC);
            let records = world.invariants.borrow().records();
            world.lose_database(c, 300 * MS);
            world.run_for(200 * MS);
            demand(
                world,
                world.nodes[c].keeper.log.is_empty(),
                "the database is still there",
            );
            whole(world);
            let kept = world.invariants.borrow().records() == records;
            demand(world, kept, "a record was decided for a file");
            // It is worth something again.
            world.power_cut(1 - c);
            taken_over(world, c);
            mended(world);
        });
    }
}

/// H7: the partner dies before it has given anything back.
#[test]
fn h7_who_has_lost_its_database_takes_nothing_over_and_gives_nothing_away() {
    for c in [A, B] {
        scenario(busy, |world| {
            whole(world);
            world.run_for(5 * SEC);
            world.filtered = true;
            world.lose_database(c, 300 * MS);
            world.run_for(2 * SEC);
            let record = world.record();
            world.power_cut(1 - c);
            world.run_for(60 * SEC);
            demand(
                world,
                world.record() == record,
                "it decides about a history that it does not hold",
            );
            demand(world, !world.serves(c, 1 - c), "it took over");
            demand(world, world.serves(c, c), "it stopped what it serves");
            let locked = world.nodes[c].keeper.core.as_ref().and_then(|core| core.locked());
            let told =
                locked.is_some_and(|(what, remedy)| what.contains("was lost") && remedy.contains("restore"));
            demand(world, told, "nobody is told what is wrong, and what helps");
            world.filtered = false;
            world.power_on(1 - c);
            mended(world);
        });
    }
}

/// H7: everything that was acknowledged is in what a sealed record stands on, and whoever holds that can give it back.
#[test]
fn h7_a_lone_sealed_controller_gets_its_lost_database_from_a_partner_that_is_no_member() {
    scenario(busy, |world| {
        whole(world);
        world.run_for(5 * SEC);
        world.power_cut(B);
        taken_over(world, A);
        world.lose_database(A, 300 * MS);
        world.run_for(5 * SEC);
        demand(
            world,
            world.nodes[A].keeper.lost(),
            "it is whole without anybody's help",
        );
        world.power_on(B);
        mended(world);
    });
}

/// H7: nobody has it any more. Hosts are served as before; the configuration stays as it was known, and locked.
#[test]
fn h7_when_both_have_lost_their_databases_nothing_is_changed_and_both_say_how_to_restore() {
    scenario(busy, |world| {
        whole(world);
        world.run_for(5 * SEC);
        world.lose_database(A, 300 * MS);
        world.lose_database(B, 500 * MS);
        world.run_for(SEC);
        let changes = world.stats.changes;
        world.run_for(30 * SEC);
        demand(world, world.stats.changes == changes, "something was changed");
        for c in [A, B] {
            let core = world.nodes[c].keeper.core.as_ref();
            let locked = core.and_then(|core| core.locked());
            let told = locked.is_some_and(|(_, remedy)| remedy.contains("pollux config restore"));
            demand(world, told, "nobody is told what helps");
            demand(world, world.serves(c, c), "hosts are not served any more");
        }
        let explained = linear(world);
        demand(world, explained, "what was read cannot have been");
    });
}

/// As [`busy`], and the keepers keep two entries of their logs.
fn forgetful() -> Setup {
    Setup { keep: 2, ..busy() }
}

/// The partner missed more than the survivor keeps: it begins with what that amounts to, and becomes a member.
#[test]
fn a_partner_that_missed_what_is_gone_begins_with_what_it_amounts_to() {
    scenario(forgetful, |world| {
        whole(world);
        world.run_for(5 * SEC);
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        world.run_for(60 * SEC);
        let before = world.nodes[B].keeper.begun;
        world.power_on(B);
        mended(world);
        let begun = world.nodes[B].keeper.begun;
        demand(world, begun > before, "it had every entry that it missed");
    });
}

/// H7 once more: the partner of a controller that has lost its database keeps only the end of the log.
#[test]
fn h7_a_lost_database_is_got_back_from_a_partner_that_keeps_only_the_end() {
    scenario(forgetful, |world| {
        whole(world);
        world.run_for(20 * SEC);
        for c in [B, A] {
            let before = world.nodes[c].keeper.begun;
            world.lose_database(c, 300 * MS);
            mended(world);
            let begun = world.nodes[c].keeper.begun;
            demand(world, begun > before, "it had every entry");
        }
    });
}

/// A backup of what a controller's keeper has on its disk, after so many entries.
fn backup(world: &World, c: usize, after: u64) -> Vec<LogEntry> {
    let core = world.nodes[c].keeper.core.as_ref().expect("it runs");
    core.entries(after, core.durable())
}

/// What a person is told who brings this backup.
fn brought(world: &mut World, c: usize, entries: Vec<LogEntry>) -> Result<u64, String> {
    world.restore_backup(c, entries);
    let answered = world.run_till(SEC, |world| world.nodes[c].keeper.restored.is_some());
    demand(world, answered, "nobody answers who brings a backup");
    world.nodes[c].keeper.restored.take().expect("it was answered")
}

/// H7: nobody has it any more but a person. Who gets it gives it to the other.
#[test]
fn h7_a_backup_brings_back_what_both_have_lost_and_none_that_is_too_old() {
    for c in [A, B] {
        scenario(busy, |world| {
            whole(world);
            world.run_for(5 * SEC);
            world.power_cut(1 - c);
            taken_over(world, c);
            world.power_on(1 - c);
            whole(world);
            world.run_for(5 * SEC);
            let base = world.record().base.length.get();
            demand(world, base > 0, "the epoch stands on nothing");
            let entries = backup(world, c, 0);
            world.lose_database(A, 300 * MS);
            world.lose_database(B, 300 * MS);
            world.run_for(SEC);
            let mut old = entries.clone();
            old.truncate(usize::try_from(base - 1).expect("a short log"));
            let refused = brought(world, c, old);
            let told = refused.is_err_and(|what| what.contains("stands on change"));
            demand(world, told, "a backup is taken that gives history away");
            demand(world, world.nodes[c].keeper.lost(), "half a backup counts");
            // What of it is sound is on its way to the disk.
            world.run_for(SEC);
            let restored = brought(world, c, entries.clone());
            demand(
                world,
                restored == Ok(entries.len() as u64),
                &format!("the backup is refused: {restored:?}"),
            );
            whole(world);
            world.power_cut(1 - c);
            taken_over(world, c);
            mended(world);
        });
    }
}

/// H7: what the partner holds and the backup lacks would be counted for this controller.
#[test]
fn h7_no_backup_is_taken_while_the_partner_has_the_log_or_nothing_is_lost() {
    for c in [A, B] {
        scenario(busy, |world| {
            whole(world);
            world.run_for(5 * SEC);
            let entries = backup(world, c, 0);
            let refused = brought(world, c, entries.clone());
            let told = refused.is_err_and(|what| what.contains("no database is lost"));
            demand(world, told, "a backup is put over a sound log");
            world.run_for(5 * SEC);
            world.lose_database(c, 300 * MS);
            let started = world.run_till(SEC, |world| world.nodes[c].keeper.core.is_some());
            demand(world, started, "the keeper does not start again");
            let refused = brought(world, c, entries);
            let told = refused.is_err_and(|what| what.contains("the partner holds the log"));
            demand(world, told, "a backup takes the place of what the partner has");
            whole(world);
            mended(world);
        });
    }
}

/// S8: the old sequencer stood still while the other took over, went on alone and changed things. It does not know yet.
#[test]
fn s8_a_sequencer_that_was_replaced_while_it_stood_still_answers_no_reader() {
    scenario(busy, |world| {
        whole(world);
        world.run_for(5 * SEC);
        world.pause(A);
        taken_over(world, B);
        open_alone(world, B);
        let before = world.stats.changes;
        world.run_for(5 * SEC);
        demand(world, world.stats.changes > before, "nothing was changed");
        world.resume(A);
        world.read();
        world.run_for(5 * SEC);
        mended(world);
    });
}

/// S8: the same of one that was alone. Nobody at the other side would have asked it; its lease has run out.
#[test]
fn s8_a_lone_controller_that_was_replaced_while_it_stood_still_answers_no_reader() {
    scenario(busy, |world| {
        whole(world);
        world.run_for(5 * SEC);
        world.power_cut(B);
        taken_over(world, A);
        let reads = world.stats.reads;
        world.run_for(5 * SEC);
        demand(
            world,
            world.stats.reads > reads,
            "a lone controller answers no reader",
        );
        wire(world, false);
        world.power_on(B);
        world.run_for(10 * SEC);
        world.pause(A);
        taken_over(world, B);
        open_alone(world, B);
        let before = world.stats.changes;
        world.run_for(5 * SEC);
        demand(world, world.stats.changes > before, "nothing was changed");
        world.resume(A);
        world.read();
        world.run_for(5 * SEC);
        mended(world);
    });
}

/// S8: on both sides, from what was changed on both sides.
#[test]
fn s8_readers_on_both_sides_see_what_was_changed_on_both_sides_before_they_came() {
    scenario(busy, |world| {
        whole(world);
        world.links = [crate::world::Link {
            delay: 300 * MS,
            ..world.setup.link
        }; 2];
        let (reads, changes) = (world.stats.reads, world.stats.changes);
        for _ in 0..200 {
            world.read();
            world.run_for(50 * MS);
        }
        let (reads, changes) = (world.stats.reads - reads, world.stats.changes - changes);
        demand(world, reads > 300, "hardly any reader was answered");
        demand(world, changes > 50, "hardly anything was changed");
        mended(world);
    });
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
