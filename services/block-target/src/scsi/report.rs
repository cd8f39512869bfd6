//! Parameter data of the reports: capacity, logical units, port groups, commands.

use super::access_state;
use super::cdb::WhichOpcodes;
use super::inquiry::port_number;
use super::kind::Kind;
use super::opcodes::{self, Opcode};
use super::sense::Sense;
use pollux_api::id::ControllerId;
use pollux_api::target::Access;

/// How long an implicit change of state may take, seconds: the hard budget of a takeover under the safe profile.
/// A host waits that long for a transitioning port before it takes it for dead.
pub const IMPLICIT_TRANSITION_S: u8 = 30;

/// READ CAPACITY(10).
#[must_use]
pub fn capacity10(blocks: u64, block_size: u32) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), block_size.to_be_bytes()].concat()
}

/// READ CAPACITY(16): LBPME and LBPRZ where blocks can be unmapped, because those read as zeros.
#[must_use]
pub fn capacity16(kind: Kind, blocks: u64, block_size: u32) -> Vec<u8> {
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&blocks.saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&block_size.to_be_bytes());
    // The shelf works in 4 KiB: with smaller logical blocks say how many make a physical one.
    data[13] = (4096 / block_size.clamp(512, 4096)).trailing_zeros() as u8;
    data[14] = if kind.is_provisioned() { 0xc0 } else { 0 };
    data
}

/// REPORT LUNS. `luns` ascending; none are well known.
///
/// # Errors
/// A selection that is not supported.
pub fn luns(select: u8, luns: &[u16]) -> Result<Vec<u8>, Sense> {
    let shown = match select {
        0x00 | 0x02 => luns,
        0x01 => &[],
        _ => return Err(Sense::invalid_field(2)),
    };
    let mut data = vec![0; 8];
    data[..4].copy_from_slice(&(8 * shown.len() as u32).to_be_bytes());
    for lun in shown {
        data.extend_from_slice(&encode_lun(*lun));
    }
    Ok(data)
}

/// Single level structure (SAM-5, 4.7): peripheral addressing below 256, flat space above.
#[must_use]
pub fn encode_lun(lun: u16) -> [u8; 8] {
    let mut bytes = [0; 8];
    let method = if lun < 256 { 0 } else { 0x4000 };
    bytes[..2].copy_from_slice(&(method | lun).to_be_bytes());
    bytes
}

/// The inverse; `None` for what can name no unit of ours.
#[must_use]
pub fn decode_lun(bytes: [u8; 8]) -> Option<u16> {
    let first = u16::from_be_bytes([bytes[0], bytes[1]]);
    let single_level = bytes[2..].iter().all(|byte| *byte == 0);
    match first >> 14 {
        0 if first < 256 && single_level => Some(first),
        1 if single_level => Some(first & 0x3fff),
        _ => None,
    }
}

/// REPORT TARGET PORT GROUPS: one group per controller with one port each, the same tale on both ports.
#[must_use]
pub fn port_groups(extended: bool, access: [Access; 2]) -> Vec<u8> {
    /// The states change by themselves, not by a command.
    const IMPLICIT: u8 = 0x02;
    let mut data = vec![0; 4];
    if extended {
        data.extend_from_slice(&[0x10, IMPLICIT_TRANSITION_S, 0, 0]);
    }
    for controller in ControllerId::ALL {
        let (state, supported) = (
            access_state::code(access[controller.index()]),
            access_state::SUPPORTED,
        );
        let [high, low] = port_number(controller).to_be_bytes();
        data.extend_from_slice(&[state, supported, high, low, 0, IMPLICIT, 0, 1, 0, 0, high, low]);
    }
    let length = data.len() as u32 - 4;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

/// REPORT SUPPORTED OPERATION CODES.
///
/// # Errors
/// A question that contradicts the command's kind.
pub fn opcodes(kind: Kind, which: WhichOpcodes, timeouts: bool) -> Result<Vec<u8>, Sense> {
    let found = |op: Option<&Opcode>| Ok(one_opcode(op, timeouts));
    let of_code = |code| opcodes::of_code(code).filter(|op| kind.has(op));
    let with_actions = |code| of_code(code).any(|op| op.action.is_some());
    let of = |code, action| of_code(code).find(|op| op.action == action);
    match which {
        WhichOpcodes::All => Ok(all_opcodes(kind, timeouts)),
        WhichOpcodes::Code(code) if with_actions(code) => Err(Sense::invalid_field(2)),
        WhichOpcodes::Code(code) => found(of(code, None)),
        WhichOpcodes::Action(code, _) if of_code(code).next().is_some() && !with_actions(code) => {
            Err(Sense::invalid_field(2))
        }
        WhichOpcodes::Action(code, action) => found(of(code, Some(action))),
        WhichOpcodes::Either(code, action) if with_actions(code) => found(of(code, Some(action))),
        WhichOpcodes::Either(code, 0) => found(of(code, None)),
        WhichOpcodes::Either(..) => found(None),
    }
}

/// Command timeouts descriptor: neither nominal nor recommended timeouts are given.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn all_opcodes(kind: Kind, timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for op in opcodes::TABLE.iter().filter(|op| kind.has(op)) {
        let [high, low] = op.action.unwrap_or(0).to_be_bytes();
        let flags = u8::from(op.action.is_some()) | if timeouts { 0x02 } else { 0 };
        data.extend_from_slice(&[op.code, 0, high, low, 0, flags, 0, op.usage.len() as u8]);
        if timeouts {
            data.extend_from_slice(&TIMEOUTS);
        }
    }
    let length = data.len() as u32 - 4;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

fn one_opcode(op: Option<&Opcode>, timeouts: bool) -> Vec<u8> {
    let Some(op) = op else {
        // SUPPORT 001b: not supported.
        return vec![0, 0x01, 0, 0];
    };
    // SUPPORT 011b: supported as the standard says.
    let mut data = vec![0, 0x03 | if timeouts { 0x80 } else { 0 }, 0, op.usage.len() as u8];
    data.extend_from_slice(op.usage);
    if timeouts {
        data.extend_from_slice(&TIMEOUTS);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_groups_are_described_in_either_form() {
        let access = [Access::Optimized, Access::Unavailable];
        let short = port_groups(false, access);
        assert_eq!(
            u32::from_be_bytes(short[..4].try_into().expect("four")) as usize,
            short.len() - 4
        );
        assert_eq!(short[4..16], [0x00, 0x8f, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1]);
        assert_eq!(short[16..28], [0x03, 0x8f, 0, 2, 0, 2, 0, 1, 0, 0, 0, 2]);
        let long = port_groups(true, access);
        assert_eq!(long[4..8], [0x10, IMPLICIT_TRANSITION_S, 0, 0]);
        assert_eq!(long[8..], short[4..]);
    }

    #[test]
    fn luns_of_both_methods_come_back() {
        for lun in [0, 1, 255, 256, 16383] {
            assert_eq!(decode_lun(encode_lun(lun)), Some(lun));
        }
        assert_eq!(
            decode_lun([0xc1, 0x01, 0, 0, 0, 0, 0, 0]),
            None,
            "well known units are not here"
        );
        assert_eq!(decode_lun([0, 1, 0, 1, 0, 0, 0, 0]), None, "nor second levels");
    }

    #[test]
    fn opcodes_are_reported_as_the_table_has_them() {
        let all = opcodes(Kind::Volume, WhichOpcodes::All, true).expect("all");
        assert_eq!(all.len(), 4 + 20 * opcodes::TABLE.len());
        let one = opcodes(Kind::Volume, WhichOpcodes::Action(0xa3, 0x0a), false).expect("RTPG");
        assert_eq!((one[1] & 7, usize::from(one[3])), (3, 12));
        assert_eq!(
            opcodes(Kind::Volume, WhichOpcodes::Code(0x04), false).expect("FORMAT UNIT"),
            [0, 1, 0, 0]
        );
        assert!(opcodes(Kind::Volume, WhichOpcodes::Code(0xa3), false).is_err());
        assert!(opcodes(Kind::Volume, WhichOpcodes::Action(0x28, 0), false).is_err());
    }
}
