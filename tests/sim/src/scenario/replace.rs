//! Another disk in the place of a quorum disk (C1, C5), and whom that may not deceive: who dies in the middle, who slept
//! through it, who has forgotten where to look.
//!
//! In most plays each controller reaches two of the three old disks, and they share one: there is no majority that both
//! can do without.

use super::{alone, demand, mended, scenario, taken_over, whole, wire};
use crate::quorum::BLOCKS;
use crate::setup::Setup;
use crate::world::{A, B, MS, SEC, World, first_set, quorum_index};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::event::Request;

fn spares(spares: usize) -> impl Fn() -> Setup {
    move || Setup {
        spares,
        ..Setup::fine()
    }
}

/// Nothing but reservations can fence.
fn on_their_own() -> Setup {
    Setup {
        spares: 2,
        power_rung: false,
        watchdog: [false; 2],
        ..Setup::fine()
    }
}

fn replace(world: &mut World, c: usize, from: usize, to: usize) {
    let (from, to) = (quorum_index(from), quorum_index(to));
    world.ask(c, Request::ReplaceQuorumDisk { from, to });
}

/// Disk number `from` has left, number `to` has joined, and the change has ended.
fn replaced(world: &World, from: usize, to: usize) -> bool {
    let set = world.record().disks;
    set.leaving().is_none() && set.seat(quorum_index(to)).is_some() && set.seat(quorum_index(from)).is_none()
}

fn demand_replaced(world: &mut World, from: usize, to: usize) {
    let done = world.run_till(20 * SEC, |world| replaced(world, from, to));
    demand(
        world,
        done,
        &format!("quorum disk {to} is not in the place of {from}"),
    );
}

fn joint(world: &World) -> bool {
    world.record().disks.leaving().is_some()
}

/// What a controller reaches of the quorum disks, one flag for each disk.
fn reaches(world: &mut World, c: usize, which: [bool; 4]) {
    for (disk, works) in world.quorum.iter_mut().zip(which) {
        disk.path[c] = works;
    }
}

/// Everything that both controllers have on a quorum disk.
fn contents(world: &mut World, disk: usize) -> Vec<Vec<u8>> {
    let all = ControllerId::ALL
        .into_iter()
        .flat_map(|writer| BLOCKS.map(|block| (writer, block)));
    all.map(|(writer, block)| world.quorum[disk].bytes(writer, block).to_vec())
        .collect()
}

#[test]
fn c1_a_failing_quorum_disk_is_replaced_and_the_next_may_fail() {
    scenario(spares(1), |world| {
        whole(world);
        world.quorum[1].path = [false; 2];
        world.run_for(5 * SEC);
        replace(world, A, 1, 3);
        demand_replaced(world, 1, 3);
        world.run_for(SEC);
        let (stops, held) = (world.stats.stops, world.stats.held);
        demand(world, (stops, held) == (0, 0), "the change has cost something");
        // Two of the three that are left decide, one of them the new one.
        world.quorum[2].path = [false; 2];
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn c1_a_disk_that_has_left_is_nobodys_when_it_comes_back() {
    scenario(spares(1), |world| {
        whole(world);
        world.quorum[1].path = [false; 2];
        world.run_for(5 * SEC);
        replace(world, A, 1, 3);
        demand_replaced(world, 1, 3);
        let records = world.invariants.borrow().records();
        let before = contents(world, 1);
        world.quorum[1].path = [true; 2];
        world.run_for(10 * SEC);
        let after = contents(world, 1);
        demand(world, after == before, "somebody writes to a disk that has left");
        demand(
            world,
            world.invariants.borrow().records() == records,
            "a record was decided for nothing",
        );
        // And may come back as another seat: what stands there from before does not count.
        replace(world, A, 2, 1);
        demand_replaced(world, 2, 1);
        world.power_cut(B);
        taken_over(world, A);
        mended(world);
    });
}

#[test]
fn c1_one_of_one_and_one_of_five_are_replaced_as_well() {
    for disks in [1, 5] {
        let setup = || Setup {
            quorum_disks: disks,
            ..spares(1)()
        };
        scenario(setup, |world| {
            whole(world);
            replace(world, A, 0, disks);
            demand_replaced(world, 0, disks);
            world.quorum[0].path = [false; 2];
            if disks == 5 {
                world.quorum[1].path = [false; 2];
                world.quorum[2].path = [false; 2];
            }
            world.run_for(5 * SEC);
            world.power_cut(A);
            taken_over(world, B);
            mended(world);
        });
    }
}

#[test]
fn c1_death_in_every_step_of_a_replacement() {
    for victim in [A, B] {
        for wait in [0, 2, 5, 8, 11, 15, 20, 30, 60, 260, 270, 280, 300, 520] {
            scenario(spares(1), |world| {
                whole(world);
                replace(world, A, 2, 3);
                world.run_for(wait * MS);
                world.power_cut(victim);
                taken_over(world, 1 - victim);
                mended(world);
                // Whatever became of it, the next one is taken.
                if world.record().disks.seat(quorum_index(3)).is_none() {
                    replace(world, A, 2, 3);
                }
                demand_replaced(world, 2, 3);
                mended(world);
            });
        }
    }
}

#[test]
fn c1_a_new_disk_that_fails_in_the_middle_stops_nobody() {
    for wait in [0, 3, 6, 9, 12, 16, 24, 40, 200, 260, 280] {
        scenario(spares(2), |world| {
            whole(world);
            replace(world, A, 0, 3);
            world.run_for(wait * MS);
            world.quorum[3].path = [false; 2];
            world.run_for(10 * SEC);
            demand(
                world,
                world.stats.stops == 0 && world.stats.held == 0,
                "somebody stopped",
            );
            // The two that stay are most of the old disks and of the new ones.
            world.power_cut(A);
            taken_over(world, B);
            mended(world);
        });
    }
}

#[test]
fn c1_nothing_is_decided_on_a_disk_that_is_not_formatted() {
    scenario(spares(1), |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        world.quorum[3].stuck_until = world.now + 10 * SEC;
        replace(world, A, 0, 3);
        world.run_for(9 * SEC);
        demand(
            world,
            world.invariants.borrow().records() == records,
            "a disk that is not formatted is in the set",
        );
        demand_replaced(world, 0, 3);
        mended(world);
    });
}

#[test]
fn c1_one_change_at_a_time_and_of_two_members_by_the_first() {
    scenario(spares(2), |world| {
        whole(world);
        let ask = |world: &mut World, (c, from, to), taken: bool, what: &str| {
            world.answers.clear();
            replace(world, c, from, to);
            demand(world, world.answers == [(c, taken)], what);
        };
        ask(world, (B, 0, 3), false, "both may format a disk at once");
        ask(world, (A, 0, 1), false, "a disk is in the set twice");
        ask(world, (A, 3, 4), false, "a disk leaves that is not in the set");
        ask(world, (A, 0, 3), true, "the change is refused");
        ask(
            world,
            (A, 1, 4),
            false,
            "a second change is taken before the first is decided",
        );
        let begun = world.run_till(5 * SEC, |world| joint(world));
        demand(world, begun, "the change does not begin");
        ask(
            world,
            (A, 1, 4),
            false,
            "a second change is taken before the first has ended",
        );
        demand_replaced(world, 0, 3);
        world.run_for(SEC);
        ask(world, (A, 1, 4), true, "the next change is refused");
        demand_replaced(world, 1, 4);
        mended(world);
    });
}

/// a reaches 1, 2 and the new disk 3, b reaches 0 and 2: in the middle of the change a loses the one that they share. With
/// the new set alone a would see b stand still on 1 and 3, while b lives, and serves, on 0 and 2.
#[test]
fn c1_most_of_the_new_disks_do_not_outvote_most_of_the_old() {
    scenario(on_their_own, |world| {
        whole(world);
        wire(world, false);
        reaches(world, A, [false, true, true, true]);
        reaches(world, B, [true, false, true, false]);
        world.run_for(2 * SEC);
        replace(world, A, 2, 3);
        let begun = world.run_till(5 * SEC, |world| joint(world));
        demand(world, begun, "the change does not begin");
        world.quorum[2].path[A] = false;
        world.run_for(20 * SEC);
        demand(world, joint(world), "the change has ended without b");
        demand(world, world.stats.takeovers == 0, "the living was taken from");
        mended(world);
    });
}

/// The change ends only when b's words stand on the new disks as well: until then they are read on the old ones.
#[test]
fn c1_a_change_waits_for_every_members_copy() {
    scenario(on_their_own, |world| {
        whole(world);
        // b reaches one disk of the new set.
        reaches(world, B, [true, false, true, false]);
        world.run_for(SEC);
        replace(world, A, 2, 3);
        let begun = world.run_till(5 * SEC, |world| joint(world));
        demand(world, begun, "the change does not begin");
        let ended = world.run_till(10 * SEC, |world| !joint(world));
        demand(world, !ended, "b's words are left behind on the old disks");
        reaches(world, B, [true, true, true, false]);
        demand_replaced(world, 2, 3);
        mended(world);
    });
}

/// b's daemon stands still right after a sign of life on the disk that leaves; its target answers for a lease longer. a
/// takes b's pools at once, by order, and lets that disk go before the lease has run out.
#[test]
fn c1_a_lease_outlives_the_disk_on_which_it_was_seen() {
    for wait in [0, 60, 120, 180, 240] {
        scenario(on_their_own, |world| {
            whole(world);
            wire(world, false);
            reaches(world, A, [false, true, true, true]);
            reaches(world, B, [true, false, true, false]);
            world.run_for(3 * SEC + wait * MS);
            world.blind[B] = true;
            world.halt(B);
            world.ask(A, Request::Takeover);
            let lone = world.run_till(SEC, |world| !world.record().members.both());
            demand(world, lone, "b is not excluded");
            replace(world, A, 2, 3);
            demand_replaced(world, 2, 3);
            let taken = alone(world, A);
            demand(world, taken, "a does not serve b's pools");
            world.blind[B] = false;
            world.go_on(B);
            mended(world);
        });
    }
}

/// Two disks were replaced while b slept, and nobody tells it by wire.
#[test]
fn c1_who_slept_through_two_changes_answers_nobody() {
    for long in [false, true] {
        scenario(on_their_own, |world| {
            whole(world);
            wire(world, false);
            world.pause(B);
            taken_over(world, A);
            replace(world, A, 0, 3);
            demand_replaced(world, 0, 3);
            world.run_for(SEC);
            replace(world, A, 1, 4);
            demand_replaced(world, 1, 4);
            if long {
                // What has left is used for something else by now.
                for disk in [0, 1] {
                    for (writer, block) in ControllerId::ALL.into_iter().flat_map(|w| BLOCKS.map(|b| (w, b)))
                    {
                        world.quorum[disk].bytes(writer, block).fill(0x77);
                    }
                }
            }
            world.resume(B);
            world.run_for(30 * SEC);
            demand(world, !world.member(B), "b is a member");
            mended(world);
        });
    }
}

/// b's daemon is started again with the set of long ago, the wire is cut, and the disks that have left still hold what it
/// wrote there then.
#[test]
fn c1_a_forgotten_set_is_found_again_from_the_old_disks() {
    scenario(on_their_own, |world| {
        whole(world);
        replace(world, A, 0, 3);
        demand_replaced(world, 0, 3);
        world.run_for(SEC);
        replace(world, A, 1, 4);
        demand_replaced(world, 1, 4);
        world.run_for(SEC);
        wire(world, false);
        // The disk that is in the old set and in the new: the next ones are found without it.
        world.quorum[2].path[B] = false;
        world.nodes[B].hint = first_set(3);
        let before = [contents(world, 0), contents(world, 1)];
        world.crash(B, Some(100 * MS));
        world.run_for(10 * SEC);
        demand(world, world.serves(B, 1), "b does not serve again");
        let after = [contents(world, 0), contents(world, 1)];
        demand(world, before == after, "b writes to disks that have left");
        demand(
            world,
            world.nodes[B].hint == world.record().disks,
            "b goes by another set",
        );
        mended(world);
    });
}

/// The same when the old disks are somebody else's by now: nothing is written to them, and the wire tells b.
#[test]
fn c1_with_a_forgotten_set_no_strangers_disk_is_written_to() {
    scenario(on_their_own, |world| {
        whole(world);
        replace(world, A, 0, 3);
        demand_replaced(world, 0, 3);
        world.run_for(SEC);
        replace(world, A, 1, 4);
        demand_replaced(world, 1, 4);
        world.run_for(SEC);
        wire(world, false);
        world.nodes[B].hint = first_set(3);
        world.quorum[0].sell();
        world.quorum[1].sell();
        world.crash(B, Some(100 * MS));
        world.run_for(20 * SEC);
        let sold = world.quorum[0].is_sold() && world.quorum[1].is_sold();
        demand(world, sold, "b writes to disks that are somebody else's");
        mended(world);
        let sold = world.quorum[0].is_sold() && world.quorum[1].is_sold();
        demand(world, sold, "somebody writes to disks that are somebody else's");
    });
}

/// The only quorum disk leaves and comes back, and both have forgotten where to look: what they look for is not there, and
/// what is there says what they have missed (seed 238329).
#[test]
fn c1_a_disk_that_came_back_leads_whoever_has_forgotten_the_set() {
    let one = || Setup {
        quorum_disks: 1,
        ..spares(1)()
    };
    scenario(one, |world| {
        whole(world);
        replace(world, A, 0, 1);
        demand_replaced(world, 0, 1);
        world.run_for(SEC);
        replace(world, A, 1, 0);
        demand_replaced(world, 1, 0);
        world.run_for(SEC);
        for c in [A, B] {
            world.power_cut(c);
            world.nodes[c].hint = first_set(1);
        }
        world.power_on(A);
        world.power_on(B);
        mended(world);
    });
}

/// A disk of another array, or one that holds something else, is not formatted.
#[test]
fn c5_what_is_not_blank_is_not_formatted() {
    scenario(spares(1), |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        world.quorum[3].sell();
        replace(world, A, 0, 3);
        world.run_for(5 * SEC);
        demand(world, world.quorum[3].is_sold(), "somebody's data is gone");
        demand(
            world,
            world.invariants.borrow().records() == records,
            "it is in the set",
        );
        let alarmed = world.nodes[A].core.as_ref().is_some_and(|core| {
            let alarms = core.status(world.local(A)).alarms;
            alarms.iter().any(|alarm| alarm.id == "quorum_change")
        });
        demand(world, alarmed, "nobody is told");
        mended(world);
    });
}

/// A disk that was wiped in the middle of everything is replaced by one that is whole.
#[test]
fn c5_a_wiped_quorum_disk_is_replaced() {
    scenario(spares(1), |world| {
        whole(world);
        world.quorum[0].wipe();
        replace(world, A, 0, 3);
        demand_replaced(world, 0, 3);
        world.reset(A);
        world.reset(B);
        mended(world);
    });
}
