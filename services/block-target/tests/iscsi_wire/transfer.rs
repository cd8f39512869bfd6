//! Data, both ways: bursts, digests, residuals, and what was not agreed.

use crate::initiator::{block, data_out_header, read_cdb, write_cdb};
use crate::rig::{BLOCK, HOST, Rig};
use pollux_block_target::iscsi::pdu::{NO_TAG, request, response};

const DIGESTS: [(&str, &str); 2] = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_with_every_combination_of_keys() {
    let rig = Rig::new();
    for (number, digests) in [&[][..], &DIGESTS[..1], &DIGESTS[1..], &DIGESTS]
        .iter()
        .enumerate()
    {
        for (initial, immediate) in [("Yes", "Yes"), ("Yes", "No"), ("No", "Yes"), ("No", "No")] {
            let keys = [
                ("InitialR2T", initial),
                ("ImmediateData", immediate),
                ("FirstBurstLength", "2048"),
                ("MaxBurstLength", "4096"),
                ("MaxOutstandingR2T", "2"),
                ("MaxRecvDataSegmentLength", "1024"),
            ];
            let mut host = rig.log_in_as(HOST, &[&keys[..], digests].concat()).await;
            let data: Vec<u8> = pattern(20 * BLOCK as usize)
                .iter()
                .map(|byte| byte.wrapping_add(number as u8))
                .collect();
            let now = if immediate == "Yes" { 512 } else { 0 };
            let unsolicited = if initial == "No" { 2048 } else { now };
            let last_now = if unsolicited == now { 0x80 } else { 0 };
            let mut header = host.header(request::SCSI_COMMAND, last_now | 0x21);
            header.0[9] = 1;
            header.put32(20, data.len() as u32);
            header.0[32..42].copy_from_slice(&write_cdb(0, 20));
            host.send(header, &data[..now]).await;
            let tag = header.tag();
            if unsolicited > now {
                let middle = now + 512;
                host.data_out(tag, NO_TAG, 0, now as u32, &data[now..middle], false)
                    .await;
                host.data_out(tag, NO_TAG, 1, middle as u32, &data[middle..unsolicited], true)
                    .await;
            }
            let (mut at, mut asked) = (unsolicited, std::collections::VecDeque::new());
            let mut number = 0;
            while at < data.len() {
                // Two requests at once, as long as there is so much to ask for.
                let left = (data.len() - at).div_ceil(4096);
                while asked.len() < left.min(2) {
                    let r2t = host.expect(response::R2T).await.header;
                    assert_eq!(r2t.get32(36), number);
                    number += 1;
                    asked.push_back(r2t);
                }
                let r2t = asked.pop_front().expect("asked for");
                let (offset, length) = (r2t.get32(40) as usize, r2t.get32(44) as usize);
                assert!(offset == at && length <= 4096, "{offset} {length}");
                let transfer = r2t.get32(20);
                let half = offset + length / 2;
                host.data_out(tag, transfer, 0, offset as u32, &data[offset..half], false)
                    .await;
                host.data_out(tag, transfer, 1, half as u32, &data[half..offset + length], true)
                    .await;
                at += length;
            }
            assert!(host.end(tag).await.is_good());
            let read = host.run(&read_cdb(0, 20), data.len() as u32, None).await;
            assert!(read.is_good() && read.data == data && read.residual == (0, 0));
            assert_eq!(host.log_out(0, 0).await, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn residuals_say_what_was_not_moved() {
    let rig = Rig::new();
    let mut host = rig.log_in().await;
    let under = host.run(&read_cdb(0, 1), 2 * BLOCK, None).await;
    assert_eq!((under.residual, under.data.len()), ((2, BLOCK), 512));
    let over = host.run(&read_cdb(0, 2), BLOCK, None).await;
    assert_eq!((over.residual, over.data.len()), ((4, BLOCK), 512));
    let none = host.run(&[0; 6], BLOCK, None).await;
    assert_eq!((none.residual, none.data.len()), ((2, BLOCK), 0));
}

#[tokio::test(start_paused = true)]
async fn data_that_was_not_agreed_ends_the_session_and_writes_nothing() {
    let rig = Rig::new();
    let big = pattern(64 * 1024);
    // What the keys are, and the Data-Out that breaks them: tag, number, offset, length, last.
    let of = |keys: &'static [(&'static str, &'static str)]| keys;
    for (keys, transfer, number, offset, length, last) in [
        (of(&[]), None, 0, 0, 512, true),
        (of(&[("InitialR2T", "No")]), Some(NO_TAG), 1, 0, 512, true),
        (of(&[("InitialR2T", "No")]), Some(NO_TAG), 0, 512, 512, true),
        (of(&[("InitialR2T", "No")]), Some(7), 0, 0, 512, true),
        (
            of(&[("InitialR2T", "No"), ("FirstBurstLength", "512")]),
            Some(NO_TAG),
            0,
            0,
            1024,
            true,
        ),
    ] {
        let mut host = rig.log_in_as(HOST, keys).await;
        let more = if transfer.is_some() { 0 } else { 0x80 };
        let mut header = host.header(request::SCSI_COMMAND, more | 0x21);
        header.0[9] = 1;
        header.put32(20, 4096);
        header.0[32..42].copy_from_slice(&write_cdb(9, 8));
        host.send(header, &[]).await;
        // Asked for under another tag than the one that is used.
        let transfer = match transfer {
            Some(transfer) => transfer,
            None => host.expect(response::R2T).await.header.get32(20) + 1,
        };
        host.data_out(header.tag(), transfer, number, offset, &big[..length], last)
            .await;
        assert_eq!(host.expect(response::REJECT).await.header.0[2], 4, "{keys:?}");
        host.closed().await;
    }
    // With the command: where none may come, more than the first burst, more than was announced, with a read.
    for (keys, flags, expected, length) in [
        (of(&[("ImmediateData", "No")]), 0xa1, 4096, 512),
        (of(&[("FirstBurstLength", "512")]), 0xa1, 4096, 1024),
        (of(&[]), 0xa1, 512, 1024),
        (of(&[]), 0xc1, 4096, 512),
    ] {
        let mut host = rig.log_in_as(HOST, keys).await;
        let mut header = host.header(request::SCSI_COMMAND, flags);
        header.0[9] = 1;
        header.put32(20, expected);
        header.0[32..42].copy_from_slice(&write_cdb(9, 8));
        host.send(header, &big[..length]).await;
        assert_eq!(
            host.expect(response::REJECT).await.header.0[2],
            4,
            "{keys:?} {flags:#x}"
        );
        host.closed().await;
    }
    rig.sessions(0).await;
    let mut host = rig.log_in().await;
    assert_eq!(host.read(9).await.data, block(0));
}

#[tokio::test(start_paused = true)]
async fn damaged_data_of_a_task_fails_the_task_alone() {
    let rig = Rig::new();
    let mut host = rig.log_in_as(HOST, &DIGESTS).await;
    let tag = host.begin(&write_cdb(4, 2), 1024, Some(&[])).await;
    let r2t = host.expect(response::R2T).await.header;
    let transfer = r2t.get32(20);
    host.send_damaged(data_out_header(tag, transfer, 0, 0, false), &block(4))
        .await;
    let reject = host.expect(response::REJECT).await;
    assert_eq!((reject.header.0[2], reject.data.len()), (2, 48));
    // The answer waits for the rest of the data.
    host.data_out(tag, transfer, 1, BLOCK, &block(4), true).await;
    assert_eq!(host.end(tag).await.refused(), (2, Some((0xb, 0x4705))));
    assert_eq!(host.read(4).await.data, block(0), "nothing was written");
    assert!(host.write(4, 4).await.is_good(), "the session goes on");
    // A question that is damaged is dropped; the session goes on.
    let mut header = host.header(0x40 | request::NOP_OUT, 0x80);
    header.put32(20, NO_TAG);
    host.send_damaged(header, b"ping").await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 2);
    assert_eq!(host.read(4).await.data, block(4));
    // A command that is damaged leaves a gap in the numbers that level 0 cannot fill.
    let mut header = host.header(request::SCSI_COMMAND, 0xa1);
    header.0[9] = 1;
    header.put32(20, BLOCK);
    header.0[32..42].copy_from_slice(&write_cdb(4, 1));
    host.send_damaged(header, &block(5)).await;
    assert_eq!(host.expect(response::REJECT).await.header.0[2], 2);
    host.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_header_ends_the_session() {
    let rig = Rig::new();
    let mut host = rig.log_in_as(HOST, &DIGESTS[..1]).await;
    let mut header = host.header(request::SCSI_COMMAND, 0x81);
    header.0[9] = 1;
    let mut out = Vec::new();
    pollux_block_target::iscsi::pdu::put(&mut out, header, &[], host.digests);
    out[20] ^= 0x10;
    host.raw(&out).await;
    host.closed().await;
    rig.sessions(0).await;
}
