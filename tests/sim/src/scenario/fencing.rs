//! Fences, leases and watchdogs: K4, K5, K6, K8, K12, and exclusion that is lost with the shelf's power.

use super::quorum::promised;
use super::{demand, mended, scenario, taken_over, whole, wire};
use crate::setup::{PoolSpec, Setup};
use crate::world::{A, B, MS, SEC, World, nanos, pool_id};
use pollux_api::id::{ControllerId, Epoch};
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::Event;
use pollux_heartbeat_core::area::{Claims, Content};
use pollux_heartbeat_core::effect::BlockId;
use pollux_heartbeat_core::event::Request;
use pollux_heartbeat_core::layout;

/// Nobody but reservations can fence.
fn reservations_only() -> Setup {
    Setup {
        power_rung: false,
        watchdog: [false; 2],
        ..Setup::fine()
    }
}

/// What a controller says of pool 0.
fn state(world: &World, c: usize) -> &'static str {
    let core = world.nodes[c].core.as_ref();
    core.map_or("", |core| core.status(world.local(c)).pools[0].state)
}

#[test]
fn k04_without_heartbeat_a_living_target_answers_for_no_longer_than_its_lease() {
    scenario(reservations_only, |world| {
        whole(world);
        // Nothing of ours is left on a but what the kernel serves.
        world.blind[A] = true;
        world.crash(A, None);
        taken_over(world, B);
        demand(
            world,
            !world.fresh(A),
            "the lease of a lives on without its heartbeat",
        );
        demand(
            world,
            world.held(A, 0).is_some() || world.stats.exclusions_lost > 0,
            "nothing was left to answer",
        );
        world.run_for(10 * SEC);
        mended(world);
    });
}

#[test]
fn k05_a_hand_over_that_is_interrupted_anywhere_has_one_owner() {
    for delay in (0..24).map(|step| step * 25) {
        // Where a person puts a pool, it stays.
        let stays = || Setup {
            auto_giveback: false,
            ..reservations_only()
        };
        scenario(stays, |world| {
            whole(world);
            world.ask(A, Request::Switchover(pool_id(0)));
            world.run_for(delay * MS);
            wire(world, false);
            world.run_for(MS);
            if delay % 50 == 0 {
                world.ask(A, Request::Abort(pool_id(0)));
            }
            world.run_for(8 * SEC);
            wire(world, true);
            world.run_for(5 * SEC);
            mended(world);
        });
    }
}

/// A new pool whose home was changed at once: each controller has been told, for the moment, that it is the home. Nothing
/// but the claims stands between them, because the disks know no reservations.
#[test]
fn k05_of_two_who_both_think_that_a_pool_is_theirs_one_yields() {
    let three = || {
        let mut setup = Setup {
            reservations: false,
            ..Setup::fine()
        };
        setup.pools.push(PoolSpec { home: A, legs: 2 });
        setup
    };
    for apart in (0..8).map(|step| step * 500_000) {
        scenario(three, |world| {
            world.untold = 1;
            let joined = world.run_till(60 * SEC, |world| {
                world.record().members.both() && world.serves(A, 0) && world.serves(B, 1)
            });
            demand(world, joined, "not whole without the new pool");
            world.untold = 0;
            let lists = [A, B].map(|c| world.pool_list(Some(c)));
            let [first, second] = lists;
            world.tell(A, first);
            world.run_for(apart);
            world.tell(B, second);
            world.run_for(2 * SEC);
            for c in [A, B] {
                let list = world.pool_list(None);
                world.tell(c, list);
            }
            whole(world);
            mended(world);
        });
    }
}

#[test]
fn k06_a_pool_is_not_taken_while_one_leg_is_open() {
    let three = || {
        let mut setup = reservations_only();
        setup.pools[0].legs = 3;
        setup
    };
    scenario(three, |world| {
        whole(world);
        let open = (0..world.disks.len())
            .find(|at| world.disks[*at].of == (0, 2))
            .unwrap_or(0);
        world.disks[open].path[B] = false;
        world.pause(A);
        world.run_for(30 * SEC);
        demand(world, !world.serves(B, 0), "pool 0 was taken with one leg open");
        demand(world, world.serves(B, 1), "b lost its own pool");
        world.disks[open].path[B] = true;
        taken_over(world, B);
        world.resume(A);
        mended(world);
    });
}

/// b takes over while a lives, and dies as a daemon while it waits for the lease of a. Its successor finds the pool imported
/// and not yet published.
#[test]
fn k04_who_adopts_an_import_waits_for_the_old_lease_like_who_made_it() {
    scenario(reservations_only, |world| {
        whole(world);
        wire(world, false);
        world.blind[A] = true;
        world.deaf[A] = true;
        world.ask(B, Request::Takeover);
        let waits = world.run_till(5 * SEC, |world| state(world, B) == "lease-wait");
        demand(world, waits, "b waits for no lease");
        world.crash(B, Some(MS));
        taken_over(world, B);
        world.deaf[A] = false;
        mended(world);
    });
}

/// b takes over while a lives, and loses the exclusion while it waits for the lease of a. Under the next epoch the pool is its
/// own, and yet was never published.
#[test]
fn k04_what_is_taken_again_in_a_later_epoch_waits_for_the_old_lease() {
    scenario(reservations_only, |world| {
        whole(world);
        wire(world, false);
        world.blind[A] = true;
        world.deaf[A] = true;
        world.ask(B, Request::Takeover);
        let waits = world.run_till(5 * SEC, |world| state(world, B) == "lease-wait");
        demand(world, waits, "b waits for no lease");
        let epoch = world.record().epoch;
        for disk in 0..world.disks.len() {
            if world.disks[disk].of.0 == 0 {
                world.stranger_clears(disk);
            }
        }
        let renewed = world.run_till(5 * SEC, |world| world.record().epoch > epoch);
        demand(world, renewed, "exclusion is not confirmed by a new epoch");
        taken_over(world, B);
        world.deaf[A] = false;
        mended(world);
    });
}

/// A daemon that starts finds an import, and a claim that is another one's: it is no owner by that.
#[test]
fn k12_an_import_of_another_claim_is_not_adopted() {
    scenario(reservations_only, |world| {
        whole(world);
        let key = world.held(A, 0).map(|held| held.key);
        world.crash(A, Some(300 * MS));
        let claim = |claims: &mut Claims| {
            claims.sequence += 1;
            for claim in claims.pools.values_mut() {
                claim.generation = claim.generation.next();
            }
        };
        world.run_for(100 * MS);
        for disk in &mut world.quorum {
            let Ok(mut claims) = disk.stands(ControllerId::A).claims else {
                continue;
            };
            claim(&mut claims);
            let (block, content) = (BlockId::Claims, Content::Claims(claims));
            let bytes = layout::encode(&disk.place, block, ControllerId::A, &content);
            disk.write(ControllerId::A, block, &bytes);
        }
        let anew = world.run_till(10 * SEC, |world| {
            world.serves(A, 0) && world.held(A, 0).map(|held| held.key) > key
        });
        demand(world, anew, "a does not take its pool anew");
        mended(world);
    });
}

#[test]
fn k08_waiting_outlasts_a_watchdog_that_was_petted_late() {
    let waiting = || Setup {
        power_rung: false,
        reservations: false,
        ..Setup::fine()
    };
    for share in [10, 50, 90, 99] {
        scenario(waiting, |world| {
            whole(world);
            // Checked, stalled for almost w, petted, and then nothing more.
            let stall = nanos(world.timing.watchdog) * share / 100;
            world.stall_next = Some((A, stall));
            let resumed = world.run_till(5 * SEC, |world| world.nodes[A].paused);
            demand(world, resumed, "a never pets");
            world.run_till(20 * SEC, |world| !world.nodes[A].paused);
            world.pause(A);
            taken_over(world, B);
            demand(
                world,
                world.stats.watchdogs > 0,
                "b did not wait for the watchdog",
            );
            mended(world);
        });
    }
}

/// The daemon of the one that waits dies while it waits: its successor knows whom it has to wait for.
#[test]
fn k08_a_daemon_that_restarts_goes_on_waiting() {
    let waiting = || Setup {
        power_rung: false,
        reservations: false,
        ..Setup::fine()
    };
    for delay in (0..8).map(|step| step * 200) {
        scenario(waiting, |world| {
            whole(world);
            world.pause(A);
            let epoch = world.record().epoch;
            let decided = world.run_till(30 * SEC, |world| world.record().epoch > epoch);
            demand(world, decided, "b does not decide to take over");
            world.run_for(delay * MS);
            world.crash(B, Some(5 * MS));
            taken_over(world, B);
            demand(
                world,
                world.stats.watchdogs > 0,
                "b did not wait for the watchdog",
            );
            mended(world);
        });
    }
}

/// b has served, its slot tears, and it dies as a daemon while a goes on alone. Its successor has to know that it served, or
/// both wait for ever: a for the end of that life, b to be joined (seed 237646).
#[test]
fn k08_a_daemon_that_starts_beside_a_torn_slot_knows_that_it_served() {
    let one = || Setup {
        quorum_disks: 1,
        ..reservations_only()
    };
    scenario(one, |world| {
        whole(world);
        let epoch = world.record().epoch;
        world.crash(B, Some(10 * SEC));
        let alone = world.run_till(9 * SEC, |world| world.record().epoch > epoch);
        demand(world, alone, "a does not take over");
        world.quorum[0].bytes(ControllerId::B, BlockId::Slot)[100] ^= 1;
        world.run_for(5 * SEC);
        mended(world);
    });
}

/// Its own area cannot be read, so that it does not know that it served; what it hears of is enough to end the lease under
/// which the target goes on answering (seed 338198).
#[test]
fn k04_a_daemon_that_starts_and_hears_of_an_epoch_without_itself_ends_the_lease() {
    scenario(reservations_only, |world| {
        whole(world);
        let epoch = world.record().epoch;
        world.blind[A] = true;
        world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
        world.crash(A, Some(100 * MS));
        world.ask(B, Request::Takeover);
        let decided = world.run_till(90 * MS, |world| world.record().epoch > epoch);
        demand(world, decided, "b does not take over at once");
        let hears = |world: &World| {
            let core = world.nodes[A].core.as_ref();
            let record = core.and_then(|core| core.status(world.local(A)).record);
            record.is_some_and(|record| record.epoch > epoch)
        };
        let heard = world.run_till(SEC / 2, |world| hears(world) || !world.fresh(A));
        demand(
            world,
            heard && hears(world),
            "the lease ran out before a heard of anything",
        );
        demand(world, !world.fresh(A), "the lease runs on");
        mended(world);
    });
}

/// b votes a out and loses its power. Its next life finishes that vote, is no member itself, and hears a, which knows nothing
/// of it, serving on: nothing that it says may lengthen that lease (seed 694545).
#[test]
fn k04_whoever_acts_as_a_member_and_is_none_is_not_echoed() {
    scenario(reservations_only, |world| {
        whole(world);
        world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
        world.links[B].cut = true;
        world.ask(B, Request::Takeover);
        let voted = world.run_till(SEC, |world| promised(world, B, 1, true));
        demand(world, voted, "b does not vote");
        world.reset(B);
        let back = world.run_till(10 * SEC, |world| {
            let core = world.nodes[B].core.as_ref();
            core.is_some_and(|core| core.status(world.local(B)).state == "waiting")
        });
        demand(
            world,
            back && world.nodes[A].stopped.is_none(),
            "a does not outlast the boot of b",
        );
        world.run_for(SEC);
        mended(world);
    });
}

/// a holds a pool of b's and boots so fast that nobody misses it. Its claims have torn, and its new life claims nothing: that
/// says nothing of what the member held, whose commands may still be under way (seed 766804).
#[test]
fn k12_what_a_later_life_claims_says_nothing_of_the_member() {
    let fast = || Setup {
        quorum_disks: 1,
        boot_time: (400 * MS, 400 * MS),
        auto_giveback: false,
        ..reservations_only()
    };
    scenario(fast, |world| {
        whole(world);
        world.pause(B);
        taken_over(world, A);
        world.reset(B);
        let joined = world.run_till(30 * SEC, |world| world.record().members.both());
        demand(
            world,
            joined && world.serves(A, 1),
            "b does not join, or gets its pool back",
        );
        world.run_for(SEC);
        let epoch = world.record().epoch;
        wire(world, false);
        world.reset(A);
        world.quorum[0].bytes(ControllerId::A, BlockId::Claims)[100] ^= 1;
        // No record without a is decided before b has read what the new life claims.
        world.crash_keeper(B, 2 * SEC);
        let taken = world.run_till(20 * SEC, |world| world.serves(B, 1));
        demand(world, taken, "b does not take what a has left");
        let key = world.held(B, 1).map(|held| held.key);
        demand(
            world,
            key.is_some_and(|key| key.epoch > epoch),
            "under the record of the one that has ended",
        );
        mended(world);
    });
}

/// Its daemon was the only one to know what was decided, and told its keeper; it ends before that stands on the disk. Its
/// successor finishes what it voted for, though its keeper does not stand still for an epoch that it goes by (seed 324547).
#[test]
fn k13_what_was_told_and_is_on_no_disk_is_finished_by_the_next_daemon() {
    let one = || Setup {
        quorum_disks: 1,
        ..Setup::fine()
    };
    scenario(one, |world| {
        whole(world);
        let epoch = world.record().epoch;
        world.power_cut(A);
        let decided = world.run_till(30 * SEC, |world| world.record().epoch > epoch);
        world.quorum[0].read_only = true;
        let keeper = |world: &World| world.nodes[B].keeper.seen().and_then(|seen| seen.epoch);
        let told = world.run_till(SEC, |world| keeper(world) > Some(epoch));
        demand(world, decided && told, "b decides nothing, or tells nobody");
        world.crash(B, Some(50 * MS));
        world.quorum[0].read_only = false;
        taken_over(world, B);
        mended(world);
    });
}

/// The same by one whose lease is out, when it is about to stop by itself: its last pet was long ago.
#[test]
fn k08_whoever_has_no_lease_pets_no_more() {
    let waiting = || Setup {
        power_rung: false,
        reservations: false,
        ..Setup::fine()
    };
    scenario(waiting, |world| {
        whole(world);
        let (lease, watchdog) = (nanos(world.timing.lease), nanos(world.timing.watchdog));
        wire(world, false);
        world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
        world.run_for(lease + watchdog * 8 / 10);
        world.stall_next = Some((A, watchdog * 9 / 10));
        world.run_till(SEC / 2, |world| world.nodes[A].paused);
        world.stall_next = None;
        world.run_till(20 * SEC, |world| !world.nodes[A].paused);
        world.pause(A);
        taken_over(world, B);
        demand(
            world,
            world.stats.watchdogs > 0,
            "b did not wait for the watchdog",
        );
        mended(world);
    });
}

/// Whoever was stopped while it was replaced, and goes on, writes its slot at once. Its readings hang: it cannot know that it
/// was replaced, and so that slot is no lease. Its target serves on like a kernel's.
#[test]
fn k04_a_slot_is_no_lease_before_the_ballots_are_read() {
    scenario(reservations_only, |world| {
        whole(world);
        wire(world, false);
        world.blind[A] = true;
        world.pause(A);
        let served = world.run_till(10 * SEC, |world| world.serves(B, 0));
        demand(world, served, "b does not take over");
        world.deaf[A] = true;
        world.resume(A);
        world.run_for(4 * SEC);
        world.deaf[A] = false;
        mended(world);
    });
}

/// It goes on in the moment in which it is voted out: its slot is written after the last look before the vote, and its last
/// look at the ballots comes before the vote is there. From then on its readings hang, and its target serves like a kernel's.
#[test]
fn k04_a_last_slot_before_the_vote_is_seen_after_it() {
    for late in (0..40).map(|step| step * 250_000) {
        scenario(reservations_only, |world| {
            whole(world);
            wire(world, false);
            world.blind[A] = true;
            world.pause(A);
            world.run_till(30 * SEC, |world| promised(world, B, 1, false));
            world.run_for(late);
            world.resume(A);
            let epoch = world.record().epoch;
            world.run_till(40 * MS, |world| world.record().epoch > epoch);
            world.deaf[A] = true;
            world.run_for(5 * SEC);
            world.deaf[A] = false;
            mended(world);
        });
    }
}

/// It reads the vote against it, and nothing else: the ballots that would tell that the record is decided hang.
#[test]
fn k04_a_slot_is_no_lease_while_a_vote_against_its_writer_stands() {
    scenario(reservations_only, |world| {
        whole(world);
        wire(world, false);
        world.blind[A] = true;
        world.pause(A);
        let epoch = world.record().epoch;
        let decided = world.run_till(30 * SEC, |world| world.record().epoch > epoch);
        demand(world, decided, "b does not take over");
        world.wedged[B] = &[BlockId::Vote0, BlockId::Vote1];
        let served = world.run_till(10 * SEC, |world| world.serves(B, 0));
        demand(world, served, "b does not take the pool");
        world.resume(A);
        world.run_for(4 * SEC);
        world.wedged[B] = &[];
        mended(world);
    });
}

/// It sleeps between its claim and the taking; meanwhile the partner boots, takes it for dead and takes everything. What it
/// finds when it wakes is the answer to its claim, and nothing that tells what has happened (seed 169728).
#[test]
fn a3_one_who_has_slept_takes_nothing_by_what_it_knew_before() {
    scenario(reservations_only, |world| {
        whole(world);
        world.power_cut(B);
        let claiming = |world: &mut World| {
            let core = world.nodes[A].core.as_ref();
            core.is_some_and(|core| core.status(world.local(A)).pools[1].state == "claiming")
        };
        let claimed = world.run_till(30 * SEC, claiming);
        demand(world, claimed, "a does not take the pool of b");
        world.pause(A);
        wire(world, false);
        world.power_on(B);
        taken_over(world, B);
        world.resume(A);
        world.run_for(5 * SEC);
        mended(world);
    });
}

/// What was written long before its answer came gives a lease from when it was written, or the taker waits for too little.
#[test]
fn k08_a_slow_answer_is_no_longer_lease() {
    let shown = |world: &mut World| -> Vec<u64> {
        let slots = world
            .quorum
            .iter_mut()
            .map(|disk| disk.stands(ControllerId::A).slot);
        slots.map(|slot| slot.map_or(0, |slot| slot.sequence)).collect()
    };
    for late in (0..8).map(|step| step * 30) {
        scenario(reservations_only, |world| {
            whole(world);
            wire(world, false);
            world.blind[A] = true;
            world.late_confirmations[A] = 1_400 * MS;
            world.run_for(20 * MS);
            let before = shown(world);
            let landed = world.run_till(5 * SEC, |world| {
                let now = shown(world);
                now.iter()
                    .zip(&before)
                    .filter(|(now, before)| now > before)
                    .count()
                    > 1
            });
            demand(world, landed, "no slot is written");
            // It is confirmed when its lease would be out; no later one lands, and soon nothing more is read.
            world.wedged[A] = &[BlockId::Slot];
            world.run_for((1_430 + late) * MS);
            world.deaf[A] = true;
            taken_over(world, B);
            world.wedged[A] = &[];
            world.deaf[A] = false;
            mended(world);
        });
    }
}

/// What was sent long before it was echoed gives a lease from when it was sent: the partner counts from its echo.
#[test]
fn k08_a_slow_echo_is_no_longer_lease() {
    for late in (0..10).map(|step| step * 100) {
        scenario(reservations_only, |world| {
            whole(world);
            world.blind[A] = true;
            // A second and a half to the partner, and as much back.
            world.links.iter_mut().for_each(|link| link.delay = 1_500 * MS);
            world.run_for(SEC + late * MS);
            wire(world, false);
            world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
            taken_over(world, B);
            world.links.iter_mut().for_each(|link| link.delay = 0);
            mended(world);
        });
    }
}

/// Waiting is worth nothing where a watchdog may stand still with its clock.
#[test]
fn no_rung_of_waiting_where_clocks_may_stand_still() {
    let machines = || Setup {
        power_rung: false,
        reservations: false,
        pausable: true,
        ..Setup::fine()
    };
    scenario(machines, |world| {
        whole(world);
        world.setup.boot_time = (100 * SEC, 100 * SEC);
        world.pause(A);
        world.run_for(60 * SEC);
        demand(world, !world.serves(B, 0), "pool 0 was taken by waiting");
        mended(world);
    });
}

#[test]
fn no_rung_no_takeover() {
    let none = || Setup {
        power_rung: false,
        reservations: false,
        watchdog: [false; 2],
        ..Setup::fine()
    };
    scenario(none, |world| {
        whole(world);
        world.pause(A);
        world.run_for(60 * SEC);
        demand(world, !world.serves(B, 0), "pool 0 was taken without any fence");
        demand(world, world.serves(B, 1), "b lost its own pool");
        mended(world);
    });
}

#[test]
fn k12_a_fencer_that_comes_late_takes_nothing() {
    for late in [1, 5, 20] {
        scenario(reservations_only, |world| {
            whole(world);
            world.pause(A);
            // b stands before a's disks with the deed decided, and is stopped there.
            let key = |world: &mut World| {
                world
                    .disks
                    .iter()
                    .any(|disk| disk.of.0 == 0 && disk.keys[B].is_some())
            };
            let fencing = world.run_till(30 * SEC, key);
            demand(world, fencing, "b does not fence");
            world.pause(B);
            world.resume(A);
            world.run_for(late * SEC);
            world.resume(B);
            world.run_for(10 * SEC);
            mended(world);
        });
    }
}

/// The fence of an earlier epoch is answered when that of the present one is under way, and cannot succeed.
#[test]
fn k12_an_answer_to_an_earlier_fence_confirms_nothing() {
    scenario(reservations_only, |world| {
        whole(world);
        for disk in world.disks.iter_mut().filter(|disk| disk.of.0 == 0) {
            disk.full = true;
        }
        world.pause(A);
        let fencing = |world: &World| state(world, B) == "fencing";
        let begun = world.run_till(30 * SEC, |world| fencing(world));
        demand(world, begun, "b does not fence");
        let epoch = Epoch::new(world.record().epoch.get() - 1);
        for generation in 1..6 {
            let key = ReservationKey {
                controller: ControllerId::B,
                epoch,
                generation: pollux_api::id::Generation::new(generation),
            };
            let (pool, result) = (pool_id(0), Ok(()));
            world.tell(B, Event::FenceDone { pool, key, result });
        }
        world.run_for(5 * SEC);
        demand(world, fencing(world), "b takes the pool without its fence");
        world.disks.iter_mut().for_each(|disk| disk.full = false);
        taken_over(world, B);
        mended(world);
    });
}

/// Asked while the partner was off, answered when it is back and serves: what was true then is no proof now.
#[test]
fn a10_a_late_report_of_the_power_says_nothing_of_the_next_incarnation() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.bmc_slow[A] = 40 * SEC;
        world.power_cut(A);
        taken_over(world, B);
        // One of the answers has come, and nobody cuts it again.
        world.run_for(15 * SEC);
        world.power_on(A);
        let back = world.run_till(30 * SEC, |world| world.record().members.both() && world.member(A));
        demand(world, back, "a does not come back");
        let records = world.invariants.borrow().records();
        world.run_for(45 * SEC);
        let quiet = world.invariants.borrow().records() == records && world.stats.stops == 0;
        demand(world, quiet, "a was voted out on a report of before");
        mended(world);
    });
}

#[test]
fn exclusion_lost_with_the_shelf_is_taken_again_in_a_new_epoch() {
    let volatile = || Setup {
        aptpl: false,
        ..Setup::fine()
    };
    scenario(volatile, |world| {
        whole(world);
        let epoch = world.record().epoch;
        world.shelf_fails();
        world.run_for(2 * SEC);
        world.shelf_returns();
        mended(world);
        demand(
            world,
            world.record().epoch > epoch,
            "exclusion came back without a new epoch",
        );
    });
}

#[test]
fn a_reservation_preempted_by_a_stranger_stops_the_pool_and_not_for_ever() {
    scenario(reservations_only, |world| {
        whole(world);
        for disk in world.disks.iter_mut().filter(|disk| disk.of.0 == 0) {
            disk.keys = [None; 2];
            disk.holder = None;
        }
        let lost = world.run_till(5 * SEC, |world| world.stats.exclusions_lost > 0);
        demand(world, lost, "a did not notice");
        mended(world);
    });
}

/// A pool manager whose release is cut short by the loss of exclusion must not take the same key again to resume.
#[test]
fn a_release_that_meets_a_power_cycle_registers_nothing_again() {
    let volatile = || Setup {
        aptpl: false,
        auto_giveback: false,
        ..Setup::fine()
    };
    for late in 0..40 {
        scenario(volatile, |world| {
            whole(world);
            world.shelf_fails();
            world.run_for(SEC);
            world.ask(A, Request::Switchover(pool_id(0)));
            world.run_for(late * 7 * MS);
            world.shelf_returns();
            world.run_for(5 * SEC);
            mended(world);
        });
    }
}

/// A fence of the owner's hangs, the pool is given away meanwhile, and then power cycles sweep the receiver's keys.
#[test]
fn k12_a_fence_that_was_called_back_registers_nothing_late() {
    let volatile = || Setup {
        aptpl: false,
        auto_giveback: false,
        ..reservations_only()
    };
    let fencing = |world: &World| state(world, A) == "fencing";
    for cycle in (0..8).map(|step| 1_000 + step * 60) {
        scenario(volatile, |world| {
            whole(world);
            world.shelf_fails();
            world.run_for(SEC);
            world.shelf_returns();
            world.setup.pool_slowness = 60 * SEC;
            let begun = world.run_till(30 * SEC, |world| fencing(world));
            demand(world, begun, "a does not take its pool again");
            world.setup.pool_slowness = 0;
            world.run_till(60 * SEC, |world| {
                world.held(A, 0).is_some() || world.held(B, 0).is_some()
            });
            for _ in 0..20 {
                world.shelf_fails();
                world.run_for(300 * MS);
                world.shelf_returns();
                world.run_for(cycle * MS);
            }
            mended(world);
        });
    }
}

/// Disks that are out of reach take no label: the pool is still its owner's, whatever was asked for.
#[test]
fn an_export_without_disks_is_none() {
    let stays = || Setup {
        aptpl: false,
        auto_giveback: false,
        ..Setup::fine()
    };
    for outage in (0..8).map(|step| 400 + step * 400) {
        scenario(stays, |world| {
            whole(world);
            world.ask(A, Request::Switchover(pool_id(0)));
            world.shelf_fails();
            world.run_for(outage * MS);
            demand(
                world,
                world.held(A, 0).is_some(),
                "pool 0 was exported to nowhere",
            );
            world.shelf_returns();
            mended(world);
        });
    }
}

/// A daemon that starts learns of the loss just before it reads which epoch it is in.
#[test]
fn exclusion_lost_before_the_area_is_read_is_taken_again_in_a_new_epoch() {
    for early in 0..8 {
        scenario(reservations_only, |world| {
            whole(world);
            let epoch = world.record().epoch;
            // It sees what is imported, nothing of the quorum area yet, and nobody tells it.
            wire(world, false);
            world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
            world.run_for(10 * MS);
            world.crash(A, Some(MS));
            world.run_for(100 * MS);
            let read_at = world.now + 500 * MS;
            for disk in &mut world.quorum {
                disk.path[A] = true;
                disk.stuck_until = read_at;
            }
            world.run_until(read_at - early * MS);
            for disk in world.disks.iter_mut().filter(|disk| disk.of.0 == 0) {
                disk.keys = [None; 2];
                disk.holder = None;
            }
            world.exclusion_lost(A, 0, 0);
            world.run_for(SEC);
            mended(world);
            demand(
                world,
                world.record().epoch > epoch,
                "exclusion came back without a new epoch",
            );
        });
    }
}
