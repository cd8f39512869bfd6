//! Header and data digests by the published figures: the examples of RFC 3720, B.4 (the same in RFC 7143), byte for byte.
//!
//! libiscsi speaks header digests and no data digests, so these are what shows that ours are those of the standard and
//! not only those of our own initiator.

use crate::initiator::{Initiator, block, write_cdb};
use crate::rig::{BLOCK, HOST, Rig};
use pollux_block_target::iscsi::pdu::{self, BHS, Digests, Header, NO_TAG, request, response};

/// Thirty-two bytes and the four of their CRC as they follow on the wire.
fn published() -> [([u8; 32], [u8; 4]); 4] {
    let mut up = [0; 32];
    up.iter_mut().zip(0_u8..).for_each(|(byte, value)| *byte = value);
    let mut down = up;
    down.reverse();
    [
        ([0; 32], [0xaa, 0x36, 0x91, 0x8a]),
        ([0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
        (up, [0x4e, 0x79, 0xdd, 0x46]),
        (down, [0x5c, 0xdb, 0x3f, 0x11]),
    ]
}

/// The PDU of an iSCSI command, READ(10), that the RFC has as its last example, and its CRC.
const COMMAND: [u8; BHS] = [
    0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0,
    0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
];
const COMMAND_CRC: [u8; 4] = [0x56, 0x3a, 0x96, 0xd9];

/// Logged in with these digests, and then without any: what comes and goes is looked at as bytes.
async fn raw(rig: &Rig, keys: &[(&str, &str)]) -> Initiator {
    let mut host = rig.log_in_as(HOST, keys).await;
    host.digests = Digests::default();
    host
}

#[tokio::test(start_paused = true)]
async fn data_digests_are_the_published_ones_both_ways() {
    let rig = Rig::new();
    let mut host = raw(&rig, &[("DataDigest", "CRC32C")]).await;
    for (data, crc) in published() {
        let mut ping = host.header(0x40 | request::NOP_OUT, 0x80);
        ping.put32(20, NO_TAG);
        ping.set_data_length(data.len());
        host.raw(&[&ping.0[..], &data, &crc].concat()).await;
        // The echo: its header, the same data, the same digest.
        let echo = host.bytes(BHS + 36).await;
        assert_eq!((echo[0], &echo[16..20]), (response::NOP_IN, &ping.0[16..20]));
        assert_eq!((&echo[BHS..BHS + 32], &echo[BHS + 32..]), (&data[..], &crc[..]));
        // One bit of the digest is another: the PDU is rejected, and the session goes on.
        let mut wrong = crc;
        wrong[3] ^= 0x80;
        let mut ping = host.header(0x40 | request::NOP_OUT, 0x80);
        ping.put32(20, NO_TAG);
        ping.set_data_length(data.len());
        host.raw(&[&ping.0[..], &data, &wrong].concat()).await;
        let reject = host.bytes(BHS + BHS + 4).await;
        assert_eq!((reject[0], reject[2]), (response::REJECT, 2));
        assert_eq!(reject[BHS..2 * BHS], ping.0, "with the header as evidence");
    }
}

#[tokio::test(start_paused = true)]
async fn header_digests_are_the_published_ones() {
    let rig = Rig::new();
    for (crc, served) in [(COMMAND_CRC, true), ([0x56, 0x3a, 0x96, 0xd8], false)] {
        let (mut host, serving) = rig.connect();
        // CmdSN of the example.
        host.cmd_sn = 0x14;
        assert_eq!(host.log_in(HOST, &[("HeaderDigest", "CRC32C")]).await, 0);
        host.raw(&[&COMMAND[..], &crc].concat()).await;
        if !served {
            host.closed().await;
            let ended = serving.await.expect("no panic").to_string();
            assert!(ended.contains("header digest"), "{ended}");
            continue;
        }
        // There is no unit 0 for this host; that it says so shows that the command was taken.
        let answer = host.expect(response::SCSI).await;
        assert_eq!((answer.header.tag(), answer.header.0[3]), (0x1400_0000, 2));
        assert_eq!(answer.data[14..16], [0x25, 0x00]);
    }
}

#[tokio::test(start_paused = true)]
async fn data_with_both_digests_is_written_and_read_in_every_length() {
    let rig = Rig::new();
    let keys = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    let mut host = rig.log_in_as(HOST, &keys).await;
    // Lengths that need padding are only in text and pings.
    for length in 0..9_usize {
        let mut ping = host.header(0x40 | request::NOP_OUT, 0x80);
        ping.put32(20, NO_TAG);
        let data: Vec<u8> = (0..length as u8).collect();
        host.send(ping, &data).await;
        assert_eq!(host.expect(response::NOP_IN).await.data, data);
    }
    assert!(host.write(3, 7).await.is_good());
    assert_eq!(host.read(3).await.data, block(7));
    // The digest covers the padding (RFC 7143, 11.2.4): one that is not zero is no error if the digest has it.
    let mut header = Header([0; BHS]);
    header.0[..2].copy_from_slice(&[0x40 | request::NOP_OUT, 0x80]);
    header.put32(16, 0x99);
    header.put32(20, NO_TAG);
    header.put32(24, host.cmd_sn);
    header.set_data_length(3);
    let padded = [1, 2, 3, 0xee];
    let mut out = header.0.to_vec();
    out.extend_from_slice(&crc32c::crc32c(&header.0).to_le_bytes());
    out.extend_from_slice(&padded);
    out.extend_from_slice(&crc32c::crc32c(&padded).to_le_bytes());
    host.raw(&out).await;
    assert_eq!(host.expect(response::NOP_IN).await.data, [1, 2, 3][..]);
    let mut plain = Vec::new();
    pdu::put(&mut plain, header, &[1, 2, 3], Digests::default());
    assert_eq!(plain.len(), BHS + 4, "and what we send is padded with zeros");
    let write = host.run(&write_cdb(4, 1), BLOCK, Some(&block(8))).await;
    assert!(write.is_good());
}
