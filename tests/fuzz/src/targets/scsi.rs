//! Commands with their data, against a volume in memory and against a plain model of one.

use super::{block_on, volume};
use crate::script::{Script, put_long};
use bytes::Bytes;
use pollux_api::id::ControllerId;
use pollux_block_target::paths::Scope;
use pollux_block_target::scsi::cdb::{Command, Extent};
use pollux_block_target::scsi::exec::{Unit, execute};
use pollux_block_target::scsi::inquiry::PortNames;
use pollux_block_target::scsi::sense::Sense;
use pollux_block_target::scsi::{Outcome, Status};

const BLOCK: usize = 512;
const BLOCKS: usize = 64;

/// Commands: a CDB, and the data that comes with it behind its length; bit 15 of that length says how to see it: the
/// rest counts blocks, not bytes.
pub(super) fn commands(data: &[u8]) {
    let mut script = Script(data);
    let (volume, _) = volume(BLOCK as u32, BLOCKS as u64);
    let mut model = vec![0_u8; BLOCK * BLOCKS];
    while !script.is_empty() {
        let cdb: [u8; 16] = script.array();
        let length = script.word();
        let data = if length & 0x8000 != 0 {
            let blocks = usize::from(length & 0x1ff);
            Bytes::from(script.array::<BLOCK>().repeat(blocks))
        } else {
            Bytes::copy_from_slice(script.bytes(length.into()))
        };
        let command = match Command::decode(&cdb) {
            Ok(command) => command,
            Err(sense) => {
                assert_ne!(sense.key(), 0, "refused with NO SENSE");
                continue;
            }
        };
        // What hosts reserve is decided by the owner of the volume, before a command is carried out.
        if command.question().is_some() {
            continue;
        }
        let port = PortNames {
            target: "iqn.2026-01.io.pollux:fuzz",
            controller: ControllerId::A,
        };
        let unit = Unit {
            port,
            luns: &[0, 300],
            volume: (cdb[15] & 0x80 == 0).then_some(&*volume),
        };
        let scope = Scope::new();
        let present = unit.volume.is_some();
        let outcome = block_on(execute(&command, data.clone(), unit, &scope));
        check(&command, &outcome);
        if present {
            follow(&mut model, &command, &data, &outcome);
        }
        let whole = Command::Read {
            extent: Extent {
                lba: 0,
                blocks: BLOCKS as u32,
            },
        };
        let unit = Unit {
            volume: Some(&volume),
            ..unit
        };
        let read = block_on(execute(&whole, Bytes::new(), unit, &scope));
        assert_eq!(read.status, Status::Good);
        assert!(
            read.data[..] == model[..],
            "after {command:?} the volume is not what it should be"
        );
    }
}

/// What holds for every outcome.
fn check(command: &Command, outcome: &Outcome) {
    match outcome.status {
        Status::CheckCondition => {
            let sense = outcome.sense.expect("CHECK CONDITION says why");
            assert_ne!(sense.key(), 0, "{command:?}: CHECK CONDITION with NO SENSE");
            assert!(outcome.data.is_empty(), "{command:?}: data with CHECK CONDITION");
        }
        status => {
            assert_eq!(status, Status::Good, "{command:?}: nothing else happens here");
            assert_eq!(outcome.sense, None);
        }
    }
    let allocation = match command {
        Command::Read { extent } => extent.blocks as usize * BLOCK,
        Command::ReadCapacity10 => 8,
        Command::Inquiry { allocation, .. }
        | Command::RequestSense { allocation }
        | Command::ReadCapacity16 { allocation }
        | Command::GetLbaStatus { allocation, .. }
        | Command::ReportLuns { allocation, .. }
        | Command::ReportTargetPortGroups { allocation, .. }
        | Command::ReportSupportedOpcodes { allocation, .. }
        | Command::ModeSense { allocation, .. } => *allocation as usize,
        _ => 0,
    };
    assert!(
        outcome.data.len() <= allocation,
        "{command:?}: {} bytes of data",
        outcome.data.len()
    );
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    let at = extent.lba as usize * BLOCK;
    at..at + extent.blocks as usize * BLOCK
}

/// What a command does to a volume, as plainly as it can be said.
fn follow(model: &mut [u8], command: &Command, data: &[u8], outcome: &Outcome) {
    let good = outcome.status == Status::Good;
    match command {
        Command::CompareAndWrite { extent, .. }
            if !good && outcome.sense.map(|s| s.code()) == Some(Sense::MISCOMPARE.code()) =>
        {
            let half = extent.blocks as usize * BLOCK;
            assert!(model[range(*extent)] != data[..half], "equal blocks miscompare");
        }
        _ if !good => {}
        Command::Read { extent } => assert!(
            outcome.data[..] == model[range(*extent)],
            "{command:?}: a stale read"
        ),
        Command::Write { extent, .. }
        | Command::Verify {
            extent, write: true, ..
        } => {
            let place = range(*extent);
            let length = data.len().min(place.len());
            model[place.start..place.start + length].copy_from_slice(&data[..length]);
        }
        Command::OrWrite { extent } => {
            for (there, new) in model[range(*extent)].iter_mut().zip(data) {
                *there |= new;
            }
        }
        Command::WriteSame { extent, no_data, .. } => {
            let place = match extent.blocks {
                0 => extent.lba as usize * BLOCK..model.len(),
                _ => range(*extent),
            };
            let zeros = [0; BLOCK];
            let block = if *no_data { &zeros[..] } else { &data[..BLOCK] };
            for to in model[place].chunks_exact_mut(BLOCK) {
                to.copy_from_slice(block);
            }
        }
        Command::CompareAndWrite { extent, .. } => {
            let half = extent.blocks as usize * BLOCK;
            assert!(model[range(*extent)] == data[..half], "unequal blocks compare");
            model[range(*extent)].copy_from_slice(&data[half..2 * half]);
        }
        Command::Unmap { parameters } if *parameters >= 8 => {
            let listed = usize::from(u16::from_be_bytes([data[2], data[3]]));
            for descriptor in data[8..8 + listed].chunks_exact(16) {
                let extent = Extent {
                    lba: u64::from_be_bytes(descriptor[..8].try_into().expect("eight bytes")),
                    blocks: u32::from_be_bytes(descriptor[8..12].try_into().expect("four bytes")),
                };
                model[range(extent)].fill(0);
            }
        }
        _ => {}
    }
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let one = |cdb: &[u8], data: &[u8]| {
        let mut out = [0; 16].to_vec();
        out[..cdb.len()].copy_from_slice(cdb);
        put_long(&mut out, data);
        out
    };
    let block = [7; BLOCK];
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0]);
    let looks: &[&[u8]] = &[
        &[0x00],
        &[0x03, 0, 0, 0, 18],
        &[0x12, 0, 0, 0, 96],
        &[0x12, 1, 0x83, 0, 255],
        &[0x12, 1, 0xb0, 0, 255],
        &[0x12, 1, 0xb2, 0, 255],
        &[0x1a, 0, 0x3f, 0, 255],
        &[0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, 1, 0],
        &[0x1b, 0, 0, 0, 1],
        &[0x25],
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 64],
        &[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 64],
        &[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 4, 0],
        &[0xa3, 0x0c, 0x83, 0x9e, 0, 0x10, 0, 0, 4, 0],
        &[0x35],
        &[0x91],
        &[0x08, 0, 0, 3, 2],
        &[0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2],
    ];
    vec![
        looks.iter().flat_map(|cdb| one(cdb, &[])).collect(),
        [
            one(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 2], &block.repeat(2)),
            one(&[0x28, 0, 0, 0, 0, 3, 0, 0, 2], &[]),
            one(&[0x2f, 2, 0, 0, 0, 3, 0, 0, 2], &block.repeat(2)),
            one(&[0x2f, 6, 0, 0, 0, 3, 0, 0, 2], &block),
            one(&[0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2], &[]),
            one(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24], &unmap),
        ]
        .concat(),
        [
            one(&[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9], &block),
            one(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 60], &[]),
            one(&[0x41, 8, 0, 0, 0, 3, 0, 0, 1], &[0; BLOCK]),
            one(
                &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1],
                &[block, [1; BLOCK]].concat(),
            ),
            one(
                &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1],
                &[block, [1; BLOCK]].concat(),
            ),
            one(&[0x2e, 2, 0, 0, 0, 5, 0, 0, 1], &block),
            one(&[0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 63, 0, 0, 0, 2], &block.repeat(2)),
            one(&[0x0a, 0, 0, 1, 1], &block),
        ]
        .concat(),
    ]
}
