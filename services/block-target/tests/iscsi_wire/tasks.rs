//! The command window and task management.

use crate::initiator::{block, read_cdb, write_cdb};
use crate::rig::{BLOCK, HOST, NEIGHBOUR, OTHER, Rig};
use pollux_block_target::gate::ReplyGate;
use pollux_block_target::iscsi::pdu::{NO_TAG, request, response};
use pollux_block_target::iscsi::session::DEPTH;
use std::time::Duration;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_ACA: u8 = 3;
const CLEAR_TASK_SET: u8 = 4;
const LUN_RESET: u8 = 5;
const WARM_RESET: u8 = 6;
const COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

const RESET: (u8, Option<(u8, u16)>) = (2, Some((6, 0x2903)));
const CLEARED: (u8, Option<(u8, u16)>) = (2, Some((6, 0x2f00)));

#[tokio::test(start_paused = true)]
async fn commands_run_in_the_order_of_their_numbers_and_once() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let first = host.cmd_sn;
    // The second before the first, a third one twice, and some that are out of the window.
    host.cmd_sn = first + 1;
    let second = host.begin(&write_cdb(0, 1), BLOCK, Some(&block(2))).await;
    for outside in [
        first.wrapping_sub(1),
        first + DEPTH,
        first.wrapping_add(u32::MAX / 2),
    ] {
        host.cmd_sn = outside;
        host.begin(&write_cdb(0, 1), BLOCK, Some(&block(9))).await;
    }
    host.cmd_sn = first + 1;
    host.begin(&write_cdb(0, 1), BLOCK, Some(&block(9))).await;
    host.cmd_sn = first;
    let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    let mut ended = Vec::new();
    for _ in 0..2 {
        let pdu = host.next().await.expect("connected");
        if pdu.header.opcode() == response::DATA_IN {
            assert_eq!(pdu.data[0], 0, "the read came first");
        }
        ended.push(pdu.header.tag());
        assert_eq!(pdu.header.get32(28), first + 2, "ExpCmdSN");
    }
    ended.sort_unstable();
    assert_eq!(ended, [second, tag]);
    host.cmd_sn = first + 2;
    assert_eq!(
        host.read(0).await.data,
        block(2),
        "neither twice nor from outside"
    );
}

#[tokio::test(start_paused = true)]
async fn the_window_narrows_with_the_tasks_and_immediate_commands_have_their_own_bound() {
    let rig = Rig::new();
    rig.slow.door.set(false);
    let mut host = rig.log_in().await;
    for _ in 0..DEPTH {
        host.begin(&read_cdb(0, 1), BLOCK, None).await;
    }
    rig.come(u64::from(DEPTH)).await;
    // One more has no number left: it is as if it had not come.
    host.begin(&read_cdb(0, 1), BLOCK, None).await;
    host.cmd_sn -= 1;
    // Immediate commands come on top, and are rejected when there are too many.
    for _ in 0..16 {
        let mut header = host.header(0x40 | request::SCSI_COMMAND, 0xc1);
        header.0[9] = 1;
        header.put32(20, BLOCK);
        header.0[32..42].copy_from_slice(&read_cdb(0, 1));
        host.send(header, &[]).await;
    }
    rig.come(u64::from(DEPTH) + 16).await;
    let mut header = host.header(0x40 | request::SCSI_COMMAND, 0x81);
    header.0[9] = 1;
    host.send(header, &[]).await;
    let reject = host.expect(response::REJECT).await.header;
    assert_eq!(reject.0[2], 6);
    assert_eq!(
        reject.get32(32).wrapping_add(1),
        reject.get32(28),
        "the window is shut"
    );
    rig.slow.door.set(true);
    for _ in 0..DEPTH + 16 {
        host.expect(response::DATA_IN).await;
    }
    assert!(host.read(0).await.is_good());
}

#[tokio::test(start_paused = true)]
async fn what_a_host_may_not_say_is_rejected() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    // SNACK, at error recovery level 0; an unknown opcode; a tag that is in use.
    let snack = host.header(request::SNACK, 0x80);
    host.send(snack, &[]).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 3);
    let unknown = host.header(0x1c, 0x80);
    host.send(unknown, &[]).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 5);
    rig.slow.door.set(false);
    let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    host.tag = tag - 1;
    host.begin(&read_cdb(0, 1), BLOCK, None).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 9);
    rig.slow.door.set(true);
    assert!(host.end(tag).await.is_good());
    // A question comes back as it went, but no longer than the host takes.
    for length in [0, 5, 8192, 9000] {
        let mut header = host.header(0x40 | request::NOP_OUT, 0x80);
        header.put32(20, NO_TAG);
        host.send(header, &vec![7; length]).await;
        let answer = host.expect(response::NOP_IN).await;
        assert_eq!(answer.data, vec![7; length.min(8192)]);
        assert_eq!(
            (answer.header.tag(), answer.header.get32(20)),
            (header.tag(), NO_TAG)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_takes_effect_after_the_abort_was_answered() {
    let rig = Rig::new();
    rig.slow.door.set(false);
    let mut host = rig.log_in().await;
    // Below the target: the abort waits for its end. Not there yet: it never will be.
    let below = host.begin(&write_cdb(1, 1), BLOCK, Some(&block(1))).await;
    rig.come(1).await;
    let waiting = host.begin(&write_cdb(2, 1), BLOCK, Some(&[])).await;
    let r2t = host.expect(response::R2T).await.header;
    let number = host.cmd_sn;
    assert_eq!(host.manage(ABORT_TASK, waiting, number - 1).await, 0);
    host.data_out(waiting, r2t.get32(20), 0, 0, &block(2), true).await;
    let abort = host.begin_manage(ABORT_TASK, below, number - 2).await;
    let question = host.header(0x40 | request::NOP_OUT, 0x80);
    host.send(question, &[]).await;
    // The question overtakes the abort, which is not answered while the write is below.
    assert_eq!(host.expect(response::NOP_IN).await.header.tag(), question.tag());
    rig.slow.door.set(true);
    let answer = host.expect(response::TASK_MANAGEMENT).await.header;
    assert_eq!((answer.tag(), answer.0[2]), (abort, 0));
    // It was done before that, or not at all; from now on it is not.
    let now = host.read(1).await.data;
    assert!(host.write(1, 3).await.is_good());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(host.read(1).await.data, block(3), "{now:?}");
    assert_eq!(host.read(2).await.data, block(0));
}

#[tokio::test(start_paused = true)]
async fn functions_are_answered_by_what_there_is() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let done = host.cmd_sn;
    assert!(host.read(0).await.is_good());
    let next = host.cmd_sn;
    // A task that has ended; one that never was; one whose number has not come.
    assert_eq!(host.manage(ABORT_TASK, host.tag, done).await, 1);
    assert_eq!(host.manage(ABORT_TASK, 0x7777, next + DEPTH).await, 1);
    host.cmd_sn = next + 1;
    assert_eq!(host.manage(ABORT_TASK, 0x7777, next).await, 0);
    assert!(host.read(0).await.is_good(), "its number counts as received");
    assert_eq!(host.manage(CLEAR_ACA, 0, 0).await, 5);
    assert_eq!(host.manage(TASK_REASSIGN, 0, 0).await, 4);
    assert_eq!(host.manage(0x55, 0, 0).await, 5);
    for function in [ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET] {
        let mut header = host.header(0x40 | request::TASK_MANAGEMENT, 0x80 | function);
        header.0[9] = 77;
        host.send(header, &[]).await;
        let answer = host.expect(response::TASK_MANAGEMENT).await.header;
        assert_eq!(answer.0[2], 2, "no such unit for function {function}");
    }
    // Another unit's task.
    rig.slow.door.set(false);
    let number = host.cmd_sn;
    let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    let mut header = host.header(0x40 | request::TASK_MANAGEMENT, 0x80 | ABORT_TASK);
    header.0[9] = 2;
    header.put32(20, tag);
    header.put32(32, number);
    host.send(header, &[]).await;
    assert_eq!(host.expect(response::TASK_MANAGEMENT).await.header.0[2], 1);
    rig.slow.door.set(true);
    assert!(host.end(tag).await.is_good());
}

#[tokio::test(start_paused = true)]
async fn an_abort_of_the_task_set_is_the_hosts_own_affair() {
    let rig = Rig::new();
    let (mut host, mut neighbour) = (rig.log_in().await, rig.log_in_as(NEIGHBOUR, &[]).await);
    rig.slow.door.set(false);
    let theirs = neighbour.begin(&read_cdb(0, 1), BLOCK, None).await;
    for _ in 0..3 {
        host.begin(&read_cdb(0, 1), BLOCK, None).await;
    }
    rig.come(4).await;
    // What is ahead of its turn belongs to the set, too.
    host.cmd_sn += 1;
    host.begin(&write_cdb(0, 1), BLOCK, Some(&block(9))).await;
    host.cmd_sn -= 2;
    let lost = host.cmd_sn;
    host.cmd_sn += 2;
    let abort = host.begin_manage(ABORT_TASK_SET, NO_TAG, 0).await;
    rig.slow.door.set(true);
    let answer = host.expect(response::TASK_MANAGEMENT).await.header;
    assert_eq!((answer.tag(), answer.0[2]), (abort, 0));
    host.cmd_sn = lost;
    assert_eq!(host.read(0).await.data, block(0));
    host.cmd_sn = lost + 2;
    assert_eq!(host.read(0).await.data, block(0), "the early write was aborted");
    assert!(neighbour.end(theirs).await.is_good());
    assert!(neighbour.read(0).await.is_good(), "nobody else is told");
}

#[tokio::test(start_paused = true)]
async fn others_are_told_what_was_done_to_their_commands() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let mut neighbour = rig.log_in_as(NEIGHBOUR, &[]).await;
    let mut other = rig.log_in_as(OTHER, &[]).await;
    // CLEAR TASK SET: who had none there is not told.
    assert_eq!(host.manage(CLEAR_TASK_SET, NO_TAG, 0).await, 0);
    assert!(neighbour.read(0).await.is_good());
    rig.slow.door.set(false);
    neighbour.begin(&write_cdb(5, 1), BLOCK, Some(&block(5))).await;
    rig.come(2).await;
    let clear = host.begin_manage(CLEAR_TASK_SET, NO_TAG, 0).await;
    let question = host.header(0x40 | request::NOP_OUT, 0x80);
    host.send(question, &[]).await;
    host.expect(response::NOP_IN).await;
    rig.slow.door.set(true);
    // Answered when the other's command has ended.
    assert_eq!(host.expect(response::TASK_MANAGEMENT).await.header.tag(), clear);
    assert_eq!(neighbour.read(0).await.refused(), CLEARED);
    assert!(neighbour.read(0).await.is_good());
    assert!(host.read(0).await.is_good(), "who cleared is not told");
    // Resets: everybody who sees the volume is told.
    for function in [LUN_RESET, WARM_RESET] {
        assert_eq!(host.manage(function, NO_TAG, 0).await, 0);
        assert_eq!(neighbour.read(0).await.refused(), RESET);
        assert_eq!(host.read(0).await.refused(), RESET);
        assert!(other.read(0).await.is_good(), "another volume");
    }
    // A cold reset ends the sessions of those who see the volume.
    assert_eq!(host.manage(COLD_RESET, NO_TAG, 0).await, 0);
    host.closed().await;
    assert_eq!(neighbour.expect(response::ASYNC).await.header.0[36], 2);
    neighbour.closed().await;
    assert!(other.read(0).await.is_good());
    rig.sessions(1).await;
    assert!(rig.log_in_as(HOST, &[]).await.read(0).await.is_good());
}

#[tokio::test(start_paused = true)]
async fn no_answer_leaves_while_the_gate_is_shut() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    rig.gate.set(false);
    let tag = host.begin(&read_cdb(0, 1), BLOCK, None).await;
    rig.come(1).await;
    // For as long as it takes, and the host is not taken for dead.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!rig.gate.is_open());
    assert_eq!(rig.target.sessions().len(), 1);
    rig.gate.set(true);
    assert!(host.end(tag).await.is_good());
}
