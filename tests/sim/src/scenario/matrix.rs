//! The fault matrix: one play per row that is a decision of the cores, named by the row. What a play here is not, and which
//! older play stands for a row, is in the table of `README.md`.

use super::{alone, demand, mended, open_alone, scenario, taken_over, whole, wire};
use crate::setup::Setup;
use crate::shelf::DataDisk;
use crate::world::{A, B, BLOCKS, MS, SEC, World, pool_id};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::event::Request;
use pollux_heartbeat_core::{Event, Profile};

/// Nobody but reservations can fence.
fn reservations_only() -> Setup {
    Setup {
        power_rung: false,
        watchdog: [false; 2],
        ..Setup::fine()
    }
}

/// Where a pool is put, it stays.
fn stays() -> Setup {
    Setup {
        auto_giveback: false,
        ..Setup::fine()
    }
}

/// The configuration changes often.
fn busy() -> Setup {
    Setup {
        change_idle: SEC / 4,
        ..Setup::fine()
    }
}

/// Nothing of this is a reason to decide anything: no record, no stop, no reset, and no host waits for long.
fn undisturbed(world: &mut World, span: u64, act: impl FnOnce(&mut World)) {
    let records = world.invariants.borrow().records();
    let before = (world.stats.stops, world.stats.watchdogs, world.stats.takeovers);
    act(world);
    world.run_for(span);
    let after = (world.stats.stops, world.stats.watchdogs, world.stats.takeovers);
    demand(world, after == before, "somebody stopped, or took over");
    demand(
        world,
        world.invariants.borrow().records() == records,
        "a record was decided for nothing",
    );
    let since = world.now;
    let answered = world.run_till(10 * SEC, |world| {
        (0..world.setup.pools.len()).all(|pool| world.answered_since(pool, since))
    });
    demand(world, answered, "hosts wait");
}

fn alarm(world: &World, c: usize, name: &str) -> bool {
    let core = world.nodes[c].core.as_ref();
    core.is_some_and(|core| {
        let alarms = core.status(world.local(c)).alarms;
        alarms.iter().any(|alarm| alarm.id == name)
    })
}

fn state(world: &World, c: usize, pool: usize) -> &'static str {
    let core = world.nodes[c].core.as_ref();
    core.map_or("", |core| core.status(world.local(c)).pools[pool].state)
}

fn refused(world: &mut World, c: usize, request: Request) {
    world.ask(c, request);
    let answer = world.answers.last().copied();
    demand(
        world,
        answer == Some((c, false)),
        &format!("{request:?} is not refused"),
    );
}

// A: a controller dies.

#[test]
fn a2_a_kernel_that_panics_is_reset_and_replaced() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.bmc = [false; 2];
        world.setup.boot_time = (30 * SEC, 40 * SEC);
        world.reset(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn a4_heartbeat_that_is_stopped_and_goes_on_late_has_lost_its_pools() {
    for span in [2, 4, 8] {
        scenario(reservations_only, |world| {
            whole(world);
            world.halt(A);
            world.run_for(span * SEC);
            world.go_on(A);
            let stopped = world.run_till(20 * SEC, |world| world.stats.stops > 0);
            demand(
                world,
                stopped || span == 2,
                "a does not notice that it was replaced",
            );
            mended(world);
        });
    }
}

#[test]
fn a4_heartbeat_that_is_stopped_for_less_than_detection_keeps_its_pools() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 10 * SEC, |world| {
            world.halt(A);
            world.run_for(600 * MS);
            world.go_on(A);
        });
        mended(world);
    });
}

#[test]
fn a6_a_writer_that_hangs_gives_its_pools_by_wire() {
    scenario(stays, |world| {
        whole(world);
        world.wedged[A] = &crate::quorum::BLOCKS;
        taken_over(world, B);
        demand(world, world.stats.watchdogs == 0, "a was reset");
        mended(world);
    });
}

#[test]
fn a8_a_clean_reboot_gives_first() {
    scenario(Setup::fine, |world| {
        whole(world);
        let takeovers = world.stats.takeovers;
        world.ask(A, Request::Shutdown { unserved: true });
        let off = world.run_till(30 * SEC, |world| !world.nodes[A].powered);
        demand(world, off, "a does not shut down");
        taken_over(world, B);
        demand(
            world,
            world.stats.takeovers == takeovers,
            "what was given had to be fenced",
        );
        mended(world);
    });
}

/// How long it takes from a controller's stop until it is no member any more.
fn left_behind(world: &mut World, c: usize) -> u64 {
    let stopped = world.run_till(30 * SEC, |world| {
        world.nodes[c].stopped.is_some() || world.nodes[c].core.is_none()
    });
    demand(world, stopped, "it does not stop");
    let since = world.now;
    let out = world.run_till(30 * SEC, |world| !world.record().members.both());
    demand(world, out, "the record keeps it");
    world.now - since
}

#[test]
fn a8_a_good_bye_is_taken_at_its_word_and_nobody_is_fenced() {
    scenario(Setup::fine, |world| {
        whole(world);
        let fences = world.stats.power_fences;
        world.ask(A, Request::Shutdown { unserved: false });
        let took = left_behind(world, A);
        demand(world, took < 600 * MS, "the partner waited for a death");
        taken_over(world, B);
        demand(
            world,
            world.stats.power_fences == fences,
            "who had left was fenced",
        );
        mended(world);
    });
}

#[test]
fn a8_who_shuts_down_last_exports_and_either_comes_back_alone() {
    for (first, comes) in [(A, A), (A, B), (B, A), (B, B)] {
        scenario(Setup::fine, |world| {
            whole(world);
            for c in [first, 1 - first] {
                world.ask(c, Request::Shutdown { unserved: true });
                let off = world.run_till(30 * SEC, |world| !world.nodes[c].powered);
                demand(world, off, "it does not shut down");
            }
            world.run_for(SEC);
            let fences = world.stats.power_fences;
            world.power_on(comes);
            taken_over(world, comes);
            demand(
                world,
                world.stats.power_fences == fences,
                "who had left was fenced",
            );
            mended(world);
        });
    }
}

#[test]
fn a8_both_shut_down_at_once_and_one_comes_back() {
    for comes in [A, B] {
        scenario(Setup::fine, |world| {
            whole(world);
            world.ask(A, Request::Shutdown { unserved: true });
            world.ask(B, Request::Shutdown { unserved: true });
            let off = world.run_till(60 * SEC, |world| world.nodes.iter().all(|node| !node.powered));
            demand(world, off, "they do not shut down");
            world.run_for(SEC);
            world.power_on(comes);
            taken_over(world, comes);
            mended(world);
        });
    }
}

#[test]
fn a8_after_its_good_bye_no_daemon_of_that_life_serves_again() {
    for after in [1, 5, 20, 40] {
        scenario(Setup::fine, |world| {
            whole(world);
            world.ask(A, Request::Shutdown { unserved: false });
            let stopped = world.run_till(30 * SEC, |world| world.nodes[A].stopped.is_some());
            demand(world, stopped, "it does not stop");
            world.run_for(after * MS);
            world.crash(A, Some(MS));
            taken_over(world, B);
            mended(world);
        });
    }
}

#[test]
fn a16_a_daemon_that_panics_and_stays_away_is_suspected_sooner() {
    let took = |panics: bool| {
        let longest = std::cell::Cell::new(0);
        scenario(reservations_only, |world| {
            whole(world);
            if panics {
                world.panics(A, None);
            } else {
                world.crash(A, None);
            }
            longest.set(longest.get().max(left_behind(world, A)));
            taken_over(world, B);
            mended(world);
        });
        longest.get()
    };
    let (word, silence) = (took(true), took(false));
    assert!(word + 100 * MS < silence, "{word} ns against {silence} ns");
}

#[test]
fn a16_a_daemon_that_panics_and_is_back_at_once_keeps_its_pools() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 10 * SEC, |world| {
            for c in [A, B] {
                world.panics(c, Some(100 * MS));
                world.run_for(3 * SEC);
            }
        });
        mended(world);
    });
}

/// Back after its last word, behind a wire that has died meanwhile: its slot alone can take the word back, and for as long as
/// the wire is dead, a stall of its way to the disks that is shorter than Td must not look like death (S5).
#[test]
fn a16_a_daemon_that_is_back_behind_a_dead_wire_is_waited_for_as_long_as_ever() {
    let safe = || Setup {
        profile: Profile::Safe,
        ..Setup::fine()
    };
    scenario(safe, |world| {
        whole(world);
        let (takeovers, records) = (world.stats.takeovers, world.invariants.borrow().records());
        world.panics(A, Some(200 * MS));
        world.run_for(50 * MS);
        wire(world, false);
        world.run_for(20 * SEC);
        let written = |world: &mut World| {
            world.quorum[0]
                .stands(ControllerId::A)
                .slot
                .map(|slot| slot.sequence)
        };
        let before = written(world);
        let wrote = world.run_till(5 * SEC, |world| written(world) != before);
        demand(world, wrote, "a is not back");
        // The same word on the other disks.
        world.run_for(20 * MS);
        world.quorum.iter_mut().for_each(|disk| disk.path[A] = false);
        // Longer than who dies is waited for, and with what it takes to write again no longer than Td.
        world.run_for(6_500 * MS);
        world.quorum.iter_mut().for_each(|disk| disk.path[A] = true);
        world.run_for(10 * SEC);
        demand(
            world,
            world.stats.takeovers == takeovers && world.invariants.borrow().records() == records,
            "a stall was taken for the death of which it had spoken before",
        );
        mended(world);
    });
}

#[test]
fn a10_without_a_power_control_other_rungs_confirm() {
    scenario(Setup::fine, |world| {
        whole(world);
        world.bmc = [false; 2];
        world.pause(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn a11_both_at_once_come_back() {
    for apart in [0, 1, 300, 3_000] {
        scenario(Setup::fine, |world| {
            whole(world);
            world.power_cut(A);
            world.run_for(apart * MS);
            world.power_cut(B);
            world.run_for(SEC);
            mended(world);
        });
    }
}

#[test]
fn a13_a_taker_that_dies_within_a_minute_is_replaced() {
    for later in [1, 5, 20, 40, 60] {
        scenario(Setup::fine, |world| {
            whole(world);
            world.power_cut(A);
            taken_over(world, B);
            world.power_on(A);
            world.run_for(later * SEC);
            world.power_cut(B);
            // Whatever point of its return a has reached: what both hold is served again.
            taken_over(world, A);
            mended(world);
        });
    }
}

#[test]
fn a14_a_controller_that_crashes_again_and_again_disturbs_its_partner_once_each_time() {
    scenario(stays, |world| {
        whole(world);
        let since = world.now;
        for _ in 0..8 {
            world.reset(A);
            let span = world.rng.range(SEC, 8 * SEC);
            world.run_for(span);
        }
        taken_over(world, B);
        demand(
            world,
            world.answered_since(1, since + 20 * SEC),
            "b's own pool waits",
        );
        mended(world);
    });
}

// B: the interconnect.

#[test]
fn b1_one_leg_is_an_alarm_and_nothing_else() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 20 * SEC, |world| {
            world.tell(A, Event::Legs(vec![true, false]));
        });
        demand(world, alarm(world, A, "leg_down"), "no alarm");
        world.tell(A, Event::Legs(vec![true, true]));
        demand(world, !alarm(world, A, "leg_down"), "the alarm stands");
    });
}

/// Both legs dead, the interface down, or one way: the controllers see each other on the disks and go on.
fn wire_trouble(cut: [bool; 2]) {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 30 * SEC, |world| {
            for (link, cut) in world.links.iter_mut().zip(cut) {
                link.cut = cut;
            }
        });
        let locked = !world.nodes[A].keeper.acknowledging();
        demand(world, locked, "the configuration is not locked");
        demand(world, alarm(world, A, "wire_silent"), "no alarm");
        undisturbed(world, 5 * SEC, |world| wire(world, true));
        mended(world);
    });
}

#[test]
fn b2_both_legs_dead_lock_the_configuration() {
    wire_trouble([true, true]);
}

#[test]
fn b3_one_way_is_as_good_as_none() {
    wire_trouble([true, false]);
    wire_trouble([false, true]);
}

#[test]
fn b4_loss_is_no_death() {
    for loss in [10_000, 100_000, 300_000, 500_000] {
        scenario(Setup::fine, |world| {
            whole(world);
            undisturbed(world, 60 * SEC, |world| {
                world.links.iter_mut().for_each(|link| link.loss = loss);
            });
            mended(world);
        });
    }
}

#[test]
fn b5_a_delay_of_a_second_is_no_death() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 60 * SEC, |world| {
            world.links.iter_mut().for_each(|link| link.delay = SEC);
        });
        mended(world);
    });
}

#[test]
fn b6_a_wire_that_flaps_moves_nothing() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, SEC, |world| {
            for _ in 0..40 {
                wire(world, false);
                world.run_for(3 * SEC);
                wire(world, true);
                world.run_for(3 * SEC);
            }
        });
        demand(
            world,
            alarm(world, A, "wire_flapping") && alarm(world, B, "wire_flapping"),
            "no alarm",
        );
        mended(world);
    });
}

#[test]
fn b8_a_hole_for_large_packets_acknowledges_no_change_and_stops_nobody() {
    scenario(busy, |world| {
        whole(world);
        world.filtered = true;
        world.run_for(SEC);
        let changes = world.stats.changes;
        undisturbed(world, 20 * SEC, |_| ());
        demand(
            world,
            world.stats.changes == changes,
            "a change was acknowledged that one controller holds",
        );
        mended(world);
    });
}

#[test]
fn b9_an_interface_that_is_down_is_both_legs() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 20 * SEC, |world| {
            world.tell(A, Event::Legs(vec![false, false]));
            wire(world, false);
        });
        demand(
            world,
            alarm(world, A, "leg_down") && alarm(world, B, "wire_silent"),
            "no alarm",
        );
        world.tell(A, Event::Legs(vec![true, true]));
        mended(world);
    });
}

#[test]
fn b10_with_the_stream_filtered_nobody_joins_behind() {
    scenario(busy, |world| {
        whole(world);
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        world.run_for(5 * SEC);
        world.filtered = true;
        world.power_on(B);
        world.run_for(40 * SEC);
        demand(
            world,
            !world.record().members.both(),
            "b has joined without a's log",
        );
        demand(world, world.serves(A, 0) && world.serves(A, 1), "a has stopped");
        mended(world);
    });
}

// C: the quorum area.

#[test]
fn c1_one_quorum_disk_is_an_alarm_and_two_decide() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 20 * SEC, |world| world.quorum[1].path = [false; 2]);
        demand(world, alarm(world, A, "quorum_disk"), "no alarm");
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn c3_a_slow_quorum_disk_is_no_death() {
    for slow in [5, 20, 60] {
        scenario(Setup::fine, |world| {
            whole(world);
            undisturbed(world, 60 * SEC, |world| world.quorum[0].slow = slow * SEC);
            mended(world);
        });
        // On a majority the wire still says who lives.
        scenario(stays, |world| {
            whole(world);
            let takeovers = world.stats.takeovers;
            world.quorum[0].slow = slow * SEC;
            world.quorum[1].slow = slow * SEC;
            world.run_for(60 * SEC);
            demand(
                world,
                world.stats.takeovers == takeovers && world.stats.watchdogs == 0,
                "slow disks killed somebody",
            );
            mended(world);
        });
    }
}

#[test]
fn c4_blocks_of_the_past_are_no_votes() {
    scenario(Setup::fine, |world| {
        whole(world);
        let mut old = Vec::new();
        for writer in ControllerId::ALL {
            for block in crate::quorum::BLOCKS {
                old.push((writer, block, world.quorum[2].bytes(writer, block).to_vec()));
            }
        }
        world.power_cut(A);
        taken_over(world, B);
        // A disk that was restored from a copy shows what was true before.
        for (writer, block, bytes) in old {
            world.quorum[2].bytes(writer, block).copy_from_slice(&bytes);
        }
        world.run_for(5 * SEC);
        world.power_on(A);
        mended(world);
    });
}

#[test]
fn c5_a_wiped_quorum_disk_is_written_again() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 10 * SEC, |world| world.quorum[0].wipe());
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn c7_half_a_minute_of_error_recovery_is_no_death() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 40 * SEC, |world| {
            world.quorum[0].stuck_until = world.now + 30 * SEC;
        });
        mended(world);
    });
}

#[test]
fn c9_saturation_is_no_death() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 180 * SEC, |world| {
            world.setup.lateness = 100 * MS;
            world.setup.leg_slowness = 500 * MS;
            world.quorum.iter_mut().for_each(|disk| disk.slow = 300 * MS);
        });
        mended(world);
    });
}

#[test]
fn c10_quorum_disks_that_refuse_writes_stop_nobody_while_the_wire_lives() {
    scenario(Setup::fine, |world| {
        whole(world);
        undisturbed(world, 20 * SEC, |world| world.quorum[0].read_only = true);
        world.quorum.iter_mut().for_each(|disk| disk.read_only = true);
        world.run_for(30 * SEC);
        demand(
            world,
            world.stats.stops == 0 && world.stats.watchdogs == 0,
            "somebody stopped",
        );
        demand(world, alarm(world, A, "shelf_lost"), "no alarm");
        mended(world);
    });
}

// D: fencing.

#[test]
fn d3_a_leg_that_was_replaced_meanwhile_is_no_source() {
    let two = || {
        let mut setup = reservations_only();
        setup.pools[0].legs = 3;
        setup
    };
    scenario(two, |world| {
        whole(world);
        let at = world.disks.iter().position(|disk| disk.of == (0, 1)).unwrap_or(0);
        world.disks[at].path[A] = false;
        let dropped = world.run_till(60 * SEC, |world| {
            world
                .disks
                .iter()
                .any(|disk| disk.of.0 == 0 && disk.label.failed.contains(&1))
        });
        demand(world, dropped, "a does not go on without the leg");
        world.disks[at] = DataDisk::new((0, 1), BLOCKS);
        world.pause(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn d4_both_take_over_at_once_and_one_does() {
    for apart in [0, 1, 5, 50, 500] {
        scenario(reservations_only, |world| {
            whole(world);
            wire(world, false);
            world.ask(A, Request::Takeover);
            world.run_for(apart * MS);
            world.ask(B, Request::Takeover);
            let since = world.now;
            let served = world.run_till(60 * SEC, |world| {
                [A, B]
                    .into_iter()
                    .any(|c| (0..2).all(|pool| world.serves(c, pool) && world.answered_since(pool, since)))
            });
            demand(world, served, "neither takes over");
            mended(world);
        });
    }
}

#[test]
fn d6_a_disk_without_reservations_is_not_taken_by_them() {
    scenario(reservations_only, |world| {
        whole(world);
        let at = world.disks.iter().position(|disk| disk.of == (0, 1)).unwrap_or(0);
        world.disks[at].reservations = false;
        world.blind = [true; 2];
        world.pause(A);
        world.run_for(60 * SEC);
        demand(world, !world.serves(B, 0), "a leg that nothing fences was taken");
        demand(world, world.serves(B, 1), "b lost its own pool");
    });
}

#[test]
fn d7_a_conflict_in_mid_write_stops_the_old_owner() {
    scenario(reservations_only, |world| {
        world.setup.leg_slowness = 500 * MS;
        whole(world);
        world.pause(A);
        taken_over(world, B);
        let stops = world.stats.stops;
        world.resume(A);
        let stopped = world.run_till(10 * SEC, |world| world.stats.stops > stops);
        demand(world, stopped, "a goes on after its writes were refused");
        mended(world);
    });
}

#[test]
fn d8_a_disk_out_of_resources_delays_the_takeover_until_it_has_some() {
    scenario(reservations_only, |world| {
        whole(world);
        for disk in world.disks.iter_mut().filter(|disk| disk.of.0 == 0) {
            disk.full = true;
        }
        world.pause(A);
        world.run_for(30 * SEC);
        demand(world, !world.serves(B, 0), "pool 0 was taken without a fence");
        world.disks.iter_mut().for_each(|disk| disk.full = false);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn d9_a_fencer_whose_daemon_dies_at_any_step_takes_over_all_the_same() {
    for delay in (0..20).map(|step| 1_400 + step * 20) {
        scenario(reservations_only, |world| {
            whole(world);
            world.pause(A);
            world.run_for(delay * MS);
            world.crash(B, Some(100 * MS));
            taken_over(world, B);
            mended(world);
        });
    }
}

// E: pools.

#[test]
fn e1_a_suspended_pool_is_nobodys_reason_to_take_it() {
    scenario(Setup::fine, |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        for disk in world.disks.iter_mut().filter(|disk| disk.of.0 == 0) {
            disk.stuck_until = world.now + 40 * SEC;
        }
        world.run_for(45 * SEC);
        demand(
            world,
            world.invariants.borrow().records() == records && world.stats.stops == 0,
            "a stuck pool was taken from the living",
        );
        whole(world);
    });
}

#[test]
fn e2_a_degraded_pool_is_taken_with_what_it_has() {
    scenario(reservations_only, |world| {
        whole(world);
        let at = world.disks.iter().position(|disk| disk.of == (0, 1)).unwrap_or(0);
        world.disks[at].path = [false; 2];
        let dropped = world.run_till(60 * SEC, |world| {
            world
                .disks
                .iter()
                .any(|disk| disk.of.0 == 0 && disk.label.failed.contains(&1))
        });
        demand(world, dropped, "a does not go on without the leg");
        world.pause(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn e3_a_busy_export_is_given_up_and_served_on() {
    scenario(stays, |world| {
        whole(world);
        let at = world.disks.iter().position(|disk| disk.of == (0, 0)).unwrap_or(0);
        world.disks[at].stuck_until = world.now + 8 * SEC;
        world.run_for(SEC);
        world.ask(A, Request::Switchover(pool_id(0)));
        let resumed = world.run_till(20 * SEC, |world| state(world, A, 0) == "resuming");
        demand(world, resumed, "the move is not given up");
        let since = world.now;
        let served = world.run_till(20 * SEC, |world| {
            world.serves(A, 0) && world.answered_since(0, since)
        });
        demand(world, served, "a does not go on");
        mended(world);
    });
}

// F: the port groups, as far as they are decided.

#[test]
fn f1_a_target_that_dies_is_told_again_what_it_is() {
    for c in [A, B] {
        scenario(stays, |world| {
            whole(world);
            world.crash_target(c);
            demand(world, world.one_story(0).is_err(), "nothing has happened");
            let told = world.run_till(5 * SEC, |world| (0..2).all(|pool| world.one_story(pool).is_ok()));
            demand(world, told, "the target is not told again");
            mended(world);
        });
    }
}

/// The report of a target is asked for, or its daemon dies, or the target itself, at any point of a flip.
#[test]
fn f6_whatever_dies_in_mid_flip_both_tell_one_story_in_the_end() {
    for delay in (0..16).map(|step| step * 8) {
        scenario(stays, |world| {
            whole(world);
            let (c, target) = ((delay / 8 % 2) as usize, delay / 8 % 4 > 1);
            world.ask(A, Request::Switchover(pool_id(0)));
            world.run_for(delay * MS);
            world.crash_port(c, 50 * MS);
            if target {
                world.crash_target(c);
            }
            let moved = world.run_till(10 * SEC, |world| world.serves(B, 0) && world.one_story(0).is_ok());
            demand(world, moved, "the port groups tell two stories");
            mended(world);
        });
    }
}

// H: the configuration.

#[test]
fn h1_a_change_during_a_takeover_is_there_or_was_not_acknowledged() {
    for delay in (0..10).map(|step| step * 50) {
        scenario(busy, |world| {
            whole(world);
            world.run_for(delay * MS);
            world.power_cut(A);
            taken_over(world, B);
            mended(world);
        });
    }
}

#[test]
fn h2_a_lone_boot_with_an_older_log_serves_nothing() {
    scenario(busy, |world| {
        whole(world);
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        world.run_for(5 * SEC);
        world.power_cut(A);
        world.power_on(B);
        world.run_for(60 * SEC);
        demand(
            world,
            !world.serves(B, 0) && !world.serves(B, 1),
            "b serves without a's changes",
        );
        mended(world);
    });
}

#[test]
fn h3_a_lone_boot_with_the_newer_log_serves() {
    scenario(busy, |world| {
        whole(world);
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        world.run_for(5 * SEC);
        world.power_cut(A);
        world.run_for(SEC);
        world.power_on(A);
        taken_over(world, A);
        mended(world);
    });
}

#[test]
fn h4_two_who_were_alone_in_turn_meet_with_one_log() {
    scenario(busy, |world| {
        whole(world);
        // a alone, then b alone (both sealed: nothing is changed), then both.
        world.power_cut(B);
        taken_over(world, A);
        world.power_cut(A);
        world.power_on(B);
        let served = alone(world, B);
        world.power_on(A);
        world.run_for(SEC);
        demand(
            world,
            served || world.invariants.borrow().acknowledged().len() > 1,
            "neither served",
        );
        mended(world);
    });
}

/// Changes of a quarter of a megabyte: the log of one that was away comes in several pieces; one that is larger than any
/// piece is refused and disturbs nobody.
#[test]
fn h5_huge_changes_are_replicated_in_pieces_and_none_is_larger_than_a_piece() {
    let calm = || Setup {
        change_idle: 2 * SEC,
        ..Setup::fine()
    };
    scenario(calm, |world| {
        whole(world);
        world.initiators = 1_000;
        let changes = world.stats.changes;
        world.run_for(3 * SEC);
        demand(world, world.stats.changes > changes, "a huge change is not taken");
        world.power_cut(B);
        taken_over(world, A);
        open_alone(world, A);
        let changes = world.stats.changes;
        world.run_for(5 * SEC);
        demand(
            world,
            world.stats.changes > changes + 2,
            "a alone takes no change",
        );
        world.power_on(B);
        whole(world);
        world.initiators = 1_500;
        world.run_for(SEC);
        let changes = world.stats.changes;
        undisturbed(world, 5 * SEC, |_| ());
        demand(
            world,
            world.stats.changes == changes,
            "a change without bound is taken",
        );
        world.initiators = 1;
        mended(world);
    });
}

/// What the newer one writes the older one cannot read: it takes none of it, and nothing is acknowledged.
#[test]
fn h6_a_partner_one_version_older_acknowledges_nothing_that_it_cannot_read() {
    scenario(busy, |world| {
        whole(world);
        world.older = Some(B);
        world.run_for(SEC);
        let (changes, log) = (world.stats.changes, world.nodes[B].keeper.log.len());
        undisturbed(world, 10 * SEC, |_| ());
        demand(
            world,
            world.stats.changes == changes && world.nodes[B].keeper.log.len() == log,
            "a change was taken that b cannot read",
        );
        world.older = None;
        let again = world.run_till(10 * SEC, |world| world.stats.changes > changes);
        demand(world, again, "nothing is acknowledged after the upgrade");
        mended(world);
    });
}

#[test]
fn h8_the_configuration_unlocks_after_the_heal() {
    scenario(busy, |world| {
        whole(world);
        wire(world, false);
        world.run_for(10 * SEC);
        let changes = world.stats.changes;
        world.run_for(10 * SEC);
        demand(
            world,
            world.stats.changes == changes,
            "a change was taken while locked",
        );
        wire(world, true);
        let unlocked = world.run_till(10 * SEC, |world| world.stats.changes > changes);
        demand(world, unlocked, "it stays locked");
        mended(world);
    });
}

#[test]
fn h9_a_death_in_mid_replication_loses_nothing_that_was_acknowledged() {
    for victim in [A, B] {
        for delay in 0..6 {
            scenario(busy, |world| {
                whole(world);
                world.links.iter_mut().for_each(|link| link.delay = 40 * MS);
                let changes = world.stats.changes;
                world.run_till(5 * SEC, |world| world.stats.changes > changes);
                world.run_for(delay * 15 * MS);
                world.power_cut(victim);
                taken_over(world, 1 - victim);
                mended(world);
            });
        }
    }
}

/// The same with a keeper's daemon alone: what it had not made durable is gone, and heartbeat tells the new one again
/// where the array stands, a freeze before any record.
#[test]
fn h9_a_keeper_that_dies_in_mid_replication_loses_nothing_that_was_acknowledged() {
    for victim in [A, B] {
        for delay in 0..8 {
            scenario(busy, |world| {
                whole(world);
                let changes = world.stats.changes;
                world.run_till(5 * SEC, |world| world.stats.changes > changes);
                world.run_for(delay * 2 * MS);
                world.crash_keeper(victim, delay * 100 * MS + MS);
                let changes = world.stats.changes;
                let again = world.run_till(10 * SEC, |world| world.stats.changes > changes + 2);
                demand(world, again, "no change is acknowledged after the restart");
                demand(world, world.stats.stops == 0, "a keeper's death stopped somebody");
                // And while an epoch is being decided.
                world.power_cut(1 - victim);
                world.run_for(delay * 30 * MS);
                world.crash_keeper(victim, 10 * MS);
                taken_over(world, victim);
                mended(world);
            });
        }
    }
}

#[test]
fn h10_messages_that_are_lost_doubled_and_overtaken_change_nothing() {
    scenario(busy, |world| {
        whole(world);
        world.misrouted = 300_000;
        let changes = world.stats.changes;
        undisturbed(world, 30 * SEC, |_| ());
        demand(
            world,
            world.stats.changes > changes,
            "nothing is acknowledged any more",
        );
        world.power_cut(A);
        taken_over(world, B);
        world.power_on(A);
        world.run_for(30 * SEC);
        mended(world);
    });
}

// I: planned moves.

#[test]
fn i2_a_move_that_is_aborted_before_the_point_of_no_return_never_was() {
    for delay in (0..12).map(|step| step * 3) {
        scenario(stays, |world| {
            whole(world);
            let records = world.invariants.borrow().records();
            world.ask(A, Request::Switchover(pool_id(0)));
            world.run_for(delay * MS);
            world.ask(A, Request::Abort(pool_id(0)));
            let aborted = world.answers.last() == Some(&(A, true));
            let (wanted, since) = (if aborted { A } else { B }, world.now);
            let served = world.run_till(20 * SEC, |world| {
                world.serves(wanted, 0) && world.answered_since(0, since)
            });
            demand(world, served, "the pool is not where the answer says");
            demand(
                world,
                world.invariants.borrow().records() == records,
                "a move that was given up cost a record",
            );
            mended(world);
        });
    }
}

#[test]
fn i3_pools_go_home_by_themselves_and_not_for_ever() {
    scenario(Setup::fine, |world| {
        whole(world);
        let mut homes = 0;
        for _ in 0..4 {
            world.power_cut(A);
            taken_over(world, B);
            world.power_on(A);
            homes += u64::from(world.run_till(60 * SEC, |world| world.serves(A, 0)));
        }
        demand(world, homes >= 2, "a pool does not go home");
        demand(world, homes < 4, "a pool goes to and fro without end");
        mended(world);
    });
}

#[test]
fn i4_a_move_that_cannot_be_is_refused_with_its_reason() {
    scenario(stays, |world| {
        whole(world);
        refused(world, A, Request::Abort(pool_id(0)));
        refused(world, A, Request::OpenAlone);
        let epoch = world.record().epoch;
        refused(world, A, Request::Override(epoch));
        wire(world, false);
        world.run_for(5 * SEC);
        refused(world, A, Request::Switchover(pool_id(0)));
        wire(world, true);
        world.power_cut(B);
        taken_over(world, A);
        refused(world, A, Request::Switchover(pool_id(0)));
        refused(world, A, Request::Takeover);
        mended(world);
    });
}

#[test]
fn i5_an_upgrade_of_one_after_the_other_takes_nothing_from_the_living() {
    scenario(Setup::fine, |world| {
        whole(world);
        let takeovers = world.stats.takeovers;
        for c in [A, B, A, B] {
            world.ask(c, Request::Shutdown { unserved: true });
            let off = world.run_till(30 * SEC, |world| !world.nodes[c].powered);
            demand(world, off, "it does not shut down");
            taken_over(world, 1 - c);
            // Not while its power is still being cut.
            world.run_for(2 * SEC);
            world.power_on(c);
            let back = world.run_till(60 * SEC, |world| world.record().members.both() && world.member(c));
            demand(world, back, "it does not come back");
            world.run_for(SEC);
        }
        demand(
            world,
            world.stats.takeovers == takeovers && world.stats.watchdogs == 0,
            "an upgrade became a takeover",
        );
        mended(world);
    });
}

#[test]
fn i6_a_thousand_switchovers_cost_no_record() {
    scenario(stays, |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        let mut from = A;
        for _ in 0..250 {
            world.ask(from, Request::Switchover(pool_id(0)));
            let moved = world.run_till(20 * SEC, |world| {
                state(world, 1 - from, 0) == "serving" && state(world, from, 0) == "partner"
            });
            demand(world, moved, "the pool did not move");
            from = 1 - from;
        }
        demand(
            world,
            world.invariants.borrow().records() == records && world.stats.stops == 0,
            "a move cost a record or a controller",
        );
        mended(world);
    });
}
