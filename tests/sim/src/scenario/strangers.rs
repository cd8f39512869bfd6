//! Blocks that are whole, and not from here: a cable, a replaced disk or a misdirected write brings them, and what they
//! say was once decided, by somebody, somewhere else.

use super::{demand, mended, scenario, taken_over, whole};
use crate::setup::Setup;
use crate::world::{A, B, SEC, World};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation};
use pollux_heartbeat_core::Seat;
use pollux_heartbeat_core::area::Content;
use pollux_heartbeat_core::effect::BlockId;
use pollux_heartbeat_core::layout::{self, Place};
use pollux_heartbeat_core::record::{Record, Vote};

/// Ballots of both controllers on one disk, as written at another place: a much later record, decided there.
fn ballots_from(world: &mut World, place: Place) {
    let record = Record {
        epoch: Epoch::new(world.record().epoch.get() + 40),
        ..world.record()
    };
    for writer in ControllerId::ALL {
        for block in [BlockId::Vote0, BlockId::Vote1] {
            let bytes = layout::encode(&place, block, writer, &Content::Vote(Vote::after(record)));
            world.quorum[0].bytes(writer, block).copy_from_slice(&bytes[..]);
        }
    }
}

fn mean_nothing(stranger: fn(Place) -> Place) {
    scenario(Setup::fine, |world| {
        whole(world);
        let records = world.invariants.borrow().records();
        let place = stranger(world.quorum[0].place);
        ballots_from(world, place);
        world.run_for(10 * SEC);
        let served = world.serves(A, 0) && world.serves(B, 1) && world.stats.stops == 0;
        demand(
            world,
            served && world.invariants.borrow().records() == records,
            "somebody has listened to a stranger",
        );
        world.power_cut(A);
        taken_over(world, B);
        mended(world);
    });
}

#[test]
fn ballots_of_another_array_mean_nothing() {
    mean_nothing(|place| Place {
        array: ArrayId::from_bytes(*b"not this one, 1!"),
        ..place
    });
}

#[test]
fn ballots_of_another_set_of_disks_mean_nothing() {
    mean_nothing(|place| Place {
        seat: Seat {
            since: Generation::new(place.seat.since.get() + 1),
            ..place.seat
        },
        ..place
    });
}

#[test]
fn ballots_of_another_formatting_mean_nothing() {
    mean_nothing(|place| Place {
        seat: Seat {
            mark: place.seat.mark + 1,
            ..place.seat
        },
        ..place
    });
}

#[test]
fn ballots_of_another_disk_mean_nothing() {
    mean_nothing(|place| Place {
        seat: Seat {
            disk: DiskIndex::new(place.seat.disk.get() + 1),
            ..place.seat
        },
        ..place
    });
}
