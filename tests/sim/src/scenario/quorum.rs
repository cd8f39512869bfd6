//! The quorum area and arbitration: K1, K2, K10, K11, K18.

use super::{demand, mended, scenario, taken_over, whole, wire};
use crate::quorum::BLOCKS;
use crate::setup::Setup;
use crate::world::{A, B, MS, SEC, World};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::effect::BlockId;
use pollux_heartbeat_core::event::Request;
use pollux_heartbeat_core::record::Ballot;

/// A controller has taken part in a ballot above the decided record on so many disks.
pub(super) fn promised(world: &mut World, c: usize, disks: usize, voted: bool) -> bool {
    let epoch = world.record().epoch;
    let count = world
        .quorum
        .iter_mut()
        .filter_map(|disk| disk.stands(ControllerId::ALL[c]).vote.ok());
    let ballot = count.filter(|vote| {
        let taken = if voted { vote.bal } else { vote.mbal };
        vote.instance > epoch && taken != Ballot::NONE
    });
    ballot.count() >= disks
}

#[test]
fn k01_an_owner_does_not_lock_its_partner_out_of_the_quorum_area() {
    scenario(Setup::fine, |world| {
        whole(world);
        let sequences = |world: &mut World, c: usize| -> Vec<u64> {
            let slots = world
                .quorum
                .iter_mut()
                .map(|disk| disk.stands(ControllerId::ALL[c]).slot);
            slots.map(|slot| slot.map_or(0, |slot| slot.sequence)).collect()
        };
        // a owns every pool, so every data disk rejects b's writes.
        world.ask(
            A,
            pollux_heartbeat_core::event::Request::Switchover(crate::world::pool_id(1)),
        );
        let both = world.run_till(20 * SEC, |world| world.serves(A, 0) && world.serves(A, 1));
        demand(world, both, "a does not own both");
        let before = [sequences(world, A), sequences(world, B)];
        world.run_for(2 * SEC);
        let after = [sequences(world, A), sequences(world, B)];
        let moved = before
            .iter()
            .flatten()
            .zip(after.iter().flatten())
            .all(|(old, new)| new > old);
        demand(world, moved, "a slot stands still");
    });
}

#[test]
fn k02_a_late_ballot_never_chooses_a_second_record() {
    for late in [0, 20, 200, 1_000, 5_000] {
        scenario(Setup::fine, |world| {
            whole(world);
            wire(world, false);
            world.pause(A);
            // b is in the middle of record n + 1 when it is stopped as well, ...
            world.run_till(30 * SEC, |world| promised(world, B, 1, false));
            world.pause(B);
            world.run_for(late * MS);
            // ... a goes on, decides n + 1 (and perhaps n + 2) in its turn, and then b finds its old decision half made.
            world.resume(A);
            world.run_for(10 * SEC);
            world.resume(B);
            world.run_for(10 * SEC);
            mended(world);
        });
    }
}

#[test]
fn k10_a_lost_quorum_with_a_living_wire_stops_nobody() {
    scenario(Setup::fine, |world| {
        whole(world);
        for disk in &mut world.quorum {
            disk.path = [false; 2];
        }
        let since = world.now;
        world.run_for(60 * SEC);
        let stats = &world.stats;
        demand(
            world,
            stats.watchdogs == 0 && stats.stops == 0 && stats.held == 0,
            "somebody stopped",
        );
        let served = world.serves(A, 0) && world.serves(B, 1) && world.answered_since(0, since + 50 * SEC);
        demand(world, served, "hosts wait");
        mended(world);
    });
}

#[test]
fn k10_a_stalled_data_disk_resets_nobody() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.disks[0].stuck_until = world.now + 20 * SEC;
        world.run_for(30 * SEC);
        demand(
            world,
            world.stats.watchdogs == 0 && world.stats.stops == 0,
            "somebody stopped",
        );
        whole(world);
    });
}

#[test]
fn k11_damage_is_no_vote() {
    for damage in 0..5 {
        scenario(Setup::fine, |world| {
            whole(world);
            wire(world, false);
            world.pause(A);
            world.run_till(30 * SEC, |world| promised(world, B, 1, false));
            match damage {
                0 => world.quorum[0].wipe(),
                1 => world.quorum[1].wipe(),
                2 => {
                    for at in 0..40 {
                        let writer = ControllerId::ALL[at % 2];
                        world.quorum[2].flip(writer, BLOCKS[at % 5], &mut world.rng);
                    }
                }
                // A write that was given up lands late: after the disk has let it wait for longer than any limit.
                3 => world.quorum[1].stuck_until = world.now + 15 * SEC,
                _ => {
                    // Power fails under three writes at once.
                    world.power_cut(B);
                    world.run_for(SEC);
                    world.power_on(B);
                }
            }
            world.resume(A);
            world.run_for(20 * SEC);
            mended(world);
        });
    }
}

/// Ballots of both cross each other in every order: each write, and each reading, may take effect long before or long
/// after the other's.
#[test]
fn k11_two_proposers_over_slow_disks_choose_one_record() {
    for apart in (0..40).map(|step| step * 20) {
        scenario(Setup::fine, |world| {
            whole(world);
            wire(world, false);
            for (at, disk) in (1..).zip(&mut world.quorum) {
                disk.slow = at * 150 * MS;
            }
            world.ask(A, Request::Takeover);
            world.run_for(apart * MS);
            world.ask(B, Request::Takeover);
            world.run_for(20 * SEC);
            world.quorum.iter_mut().for_each(|disk| disk.slow = 0);
            mended(world);
        });
    }
}

/// A disk is read, then the own ballot lands there, then the reading is answered: it says nothing about what the other wrote
/// after it.
#[test]
fn k11_a_reading_of_before_the_own_ballot_does_not_count() {
    for late in [100, 300, 900] {
        scenario(Setup::fine, |world| {
            whole(world);
            wire(world, false);
            world.late_answers = [late * MS; 2];
            world.pause(A);
            taken_over(world, B);
            world.late_answers = [0; 2];
            mended(world);
        });
    }
}

#[test]
fn k11_another_disk_in_this_place_is_no_vote() {
    scenario(Setup::fine, |world| {
        whole(world);
        // Blocks of disk 1 appear on disk 0: misdirected writes, or cables that were swapped.
        for writer in ControllerId::ALL {
            for block in BLOCKS {
                let other = world.quorum[1].bytes(writer, block).to_vec();
                world.quorum[0].bytes(writer, block).copy_from_slice(&other);
            }
        }
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn k18_a_vote_that_was_cast_stands_though_the_partner_resumes() {
    for disks in 1..=3 {
        scenario(Setup::fine, |world| {
            whole(world);
            world.pause(A);
            let epoch = world.record().epoch;
            world.run_till(30 * SEC, |world| promised(world, B, disks, true));
            world.resume(A);
            // Whoever has cast it goes on with it, or everybody waits for it.
            let decided = world.run_till(5 * SEC, |world| world.record().epoch > epoch);
            demand(world, decided, "the vote stands and nobody finishes it");
            world.run_for(20 * SEC);
            mended(world);
        });
    }
}

/// The reading that completes the promise may be the first that shows the partner's new slot.
#[test]
fn a_sign_of_life_in_the_reading_that_promises_stops_the_vote() {
    let one = || Setup {
        quorum_disks: 1,
        power_rung: false,
        ..Setup::fine()
    };
    for late in (0..16).map(|step| step * 10) {
        scenario(one, |world| {
            whole(world);
            wire(world, false);
            world.pause(A);
            world.run_till(30 * SEC, |world| promised(world, B, 1, false));
            world.quorum[0].slow = 100 * MS;
            world.run_for(late * MS);
            world.resume(A);
            world.run_for(5 * SEC);
            mended(world);
        });
    }
}

/// Found by the search (world `moves`, with slots that tear): who starts has never seen the torn slot whole.
#[test]
fn k11_slots_that_tore_before_anybody_looked_hide_no_death() {
    scenario(Setup::fine, |world| {
        world.bmc = [false; 2];
        whole(world);
        world.power_cut(A);
        world.power_cut(B);
        for disk in &mut world.quorum {
            disk.flip(ControllerId::A, BlockId::Slot, &mut world.rng);
        }
        world.power_on(B);
        taken_over(world, B);
        mended(world);
    });
}

/// Found by the search (world `boot`, with slots that tear): on its own disks slot and claims tore together, in its last life.
#[test]
fn k11_whoever_lost_slot_and_claims_with_the_power_starts_again() {
    for disks in [1, 3] {
        let some = || Setup {
            quorum_disks: disks,
            ..Setup::fine()
        };
        scenario(some, |world| {
            whole(world);
            world.power_cut(A);
            for disk in &mut world.quorum {
                for block in [BlockId::Slot, BlockId::Claims, BlockId::Mailbox] {
                    disk.flip(ControllerId::A, block, &mut world.rng);
                }
            }
            world.power_on(A);
            mended(world);
        });
    }
}

#[test]
fn k11_slots_that_tear_with_the_power_hide_no_death() {
    scenario(Setup::fine, |world| {
        world.bmc = [false; 2];
        whole(world);
        world.power_cut(A);
        for disk in 0..world.quorum.len() {
            world.quorum[disk].flip(ControllerId::ALL[A], BlockId::Slot, &mut world.rng);
        }
        taken_over(world, B);
        mended(world);
    });
}
