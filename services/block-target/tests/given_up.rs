//! What was given up after the bound of a hold never takes effect after something that came later: not on the owner's port,
//! not over the forwarding link, not by a command that was still on its way, not by an abort.

mod support;

use bytes::Bytes;
use pollux_api::id::ControllerId;
use pollux_api::target::Backing;
use pollux_block_frame::Operation;
use pollux_block_target::backend::VolumeBackend;
use pollux_block_target::daemon::BLOCK_SIZE;
use pollux_block_target::gate::ReplyGate;
use pollux_block_target::paths::{Refused, Scope};
use pollux_block_target::scsi::reservation::Nexus;
use pollux_block_target::volume::{Undone, Volume};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{
    BOUND, HOST, Imported, Initiator, POOL, Pair, QUIET, SECOND_HOST, VOLUME, block, good, write_cdb,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long the commands wait here instead of `HOLD_LIMIT`.
const PATIENCE: Duration = Duration::from_millis(400);

fn write(fill: u8) -> Operation {
    Operation::Write {
        lba: 5,
        data: block(fill).into(),
        fua: true,
    }
}

fn impatient() -> Scope {
    Scope {
        deadline: Instant::now() + PATIENCE,
        ..Scope::new()
    }
}

/// A host's command by a port.
fn begin(volume: &Arc<Volume>, operation: Operation, scope: Scope) -> JoinHandle<Result<Bytes, Undone>> {
    let volume = volume.clone();
    let nexus = Nexus {
        initiator: HOST.to_owned(),
        isid: [1; 6],
        port: match volume.paths().route().backing {
            Backing::Local => 1,
            Backing::Partner | Backing::None => 2,
        },
    };
    let scope = Scope {
        nexus: Some(Arc::new(nexus)),
        ..scope
    };
    tokio::spawn(async move { volume.submit(operation, &scope).await })
}

async fn end(task: JoinHandle<Result<Bytes, Undone>>) -> Result<Bytes, Undone> {
    timeout(BOUND, task).await.expect("in time").expect("no panic")
}

/// What stands on the medium.
async fn medium(pair: &Pair) -> Bytes {
    let read = Operation::Read { lba: 5, blocks: 1 };
    pair.memory.submit(read).await.expect("inside")
}

async fn below(imported: &Imported, count: u64) {
    let come = async {
        while imported.pool.commands.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, come).await.expect("they come");
}

#[tokio::test]
async fn later_commands_for_the_blocks_wait_for_the_end_of_what_was_given_up() {
    for by_partner in [false, true] {
        let pair = Pair::start().await;
        let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
        pair.own(ControllerId::A, 1);
        let [owner, partner] = [&pair.a, &pair.b].map(|c| c.world.volume(VOLUME).expect("configured"));
        let first = if by_partner { &partner } else { &owner };
        at_a.pool.stuck.set(false);
        let old = begin(first, write(1), impatient());
        below(&at_a, 1).await;
        assert_eq!(end(old).await, Err(Undone::Refused(Refused::Busy)));
        // By either port, to write or to read: they wait, and what does not overlap does not.
        let newer = begin(&owner, write(2), Scope::new());
        let read = begin(&partner, Operation::Read { lba: 5, blocks: 1 }, Scope::new());
        let beside = Operation::Write {
            lba: 6,
            data: block(6).into(),
            fua: true,
        };
        let beside = begin(&partner, beside, Scope::new());
        below(&at_a, 2).await;
        tokio::time::sleep(QUIET).await;
        assert_eq!(
            at_a.pool.commands.load(Ordering::SeqCst),
            2,
            "only the one beside it came"
        );
        assert!(!newer.is_finished() && !read.is_finished());
        // A planned move waits for it as well.
        assert!(!pair.a.world.paths(POOL).hold(QUIET).await, "something is below");
        pair.own(ControllerId::A, 1);
        at_a.pool.stuck.set(true);
        for (what, task) in [("newer", newer), ("read", read), ("beside", beside)] {
            let ended = end(task).await;
            assert!(
                ended.is_ok(),
                "{what}, by the partner's port: {by_partner}: {ended:?}"
            );
        }
        assert_eq!(
            medium(&pair).await,
            block(2),
            "by the partner's port: {by_partner}"
        );
        assert!(pair.a.world.paths(POOL).hold(BOUND).await, "nothing is left");
    }
}

#[tokio::test]
async fn what_is_still_on_its_way_to_the_owner_is_not_begun_any_more() {
    let (pair, relay) = Pair::start_with_relay().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let [owner, partner] = [&pair.a, &pair.b].map(|c| c.world.volume(VOLUME).expect("configured"));
    let read = Operation::Read { lba: 5, blocks: 1 };
    assert!(
        end(begin(&partner, read, Scope::new())).await.is_ok(),
        "the line is open"
    );
    relay.open.set(false);
    let old = begin(&partner, write(1), impatient());
    assert_eq!(end(old).await, Err(Undone::Refused(Refused::Busy)));
    // The host was told, and writes by the other path.
    assert!(end(begin(&owner, write(2), Scope::new())).await.is_ok());
    let before = at_a.pool.commands.load(Ordering::SeqCst);
    relay.open.set(true);
    // It has arrived when a later command on the same line is answered.
    let later = Operation::Read { lba: 9, blocks: 1 };
    assert!(end(begin(&partner, later, Scope::new())).await.is_ok());
    assert_eq!(
        at_a.pool.commands.load(Ordering::SeqCst),
        before + 1,
        "only the read was begun"
    );
    assert_eq!(medium(&pair).await, block(2));
}

/// Task management functions.
const ABORT_TASK_SET: u8 = 2;
const LUN_RESET: u8 = 5;

#[tokio::test]
async fn an_abort_is_answered_when_nothing_of_it_can_follow() {
    for function in [ABORT_TASK_SET, LUN_RESET] {
        let pair = Pair::start().await;
        let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
        pair.own(ControllerId::A, 1);
        let mut by_a = Initiator::log_in(pair.a.portal).await;
        let mut by_b = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
        for host in [&mut by_a, &mut by_b] {
            assert_eq!(host.read(0).await, good(block(0)));
        }
        at_a.pool.stuck.set(false);
        by_b.begin(&write_cdb(5), 0, Some(&block(1))).await;
        below(&at_a, 3).await;
        // It is below the owner: the function waits for its end.
        let answer = {
            let mut abort = std::pin::pin!(by_b.manage(function));
            assert!(timeout(QUIET, &mut abort).await.is_err(), "function {function}");
            at_a.pool.stuck.set(true);
            timeout(BOUND, abort).await.expect("in time")
        };
        assert_eq!(answer, 0);
        // Nothing of the aborted command comes after that.
        while by_a.write(5, 2).await != good(vec![]) {}
        assert_eq!(medium(&pair).await, block(2));
        let told = by_b.read(5).await;
        let reset = function == LUN_RESET;
        assert_eq!(told.sense, reset.then_some((6, 0x2903)), "{told:?}");
        assert!(pair.a.gate.is_open());
        assert_eq!(by_b.read(5).await.data.len(), BLOCK_SIZE as usize);
    }
}

/// The whole of it by the clock of the target: `HOLD_LIMIT` on the wire, BUSY, and a newer write.
#[tokio::test]
async fn a_host_that_was_told_busy_and_goes_on_reads_what_it_wrote_last() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut by_b = Initiator::log_in(pair.b.portal).await;
    let mut by_a = Initiator::log_in_as(pair.a.portal, SECOND_HOST).await;
    at_a.pool.stuck.set(false);
    by_b.begin(&write_cdb(5), 0, Some(&block(1))).await;
    let busy = timeout(BOUND, by_b.end())
        .await
        .expect("in time")
        .expect("answered");
    assert_eq!(busy.status, 0x08, "BUSY");
    by_a.begin(&write_cdb(5), 0, Some(&block(2))).await;
    assert!(
        timeout(QUIET, by_a.end()).await.is_err(),
        "it waits for the former"
    );
    at_a.pool.stuck.set(true);
    assert_eq!(
        timeout(BOUND, by_a.end()).await.expect("in time"),
        Some(good(vec![]))
    );
    for host in [&mut by_a, &mut by_b] {
        assert_eq!(host.read(5).await, good(block(2)));
    }
    assert_eq!(medium(&pair).await, block(2));
}
