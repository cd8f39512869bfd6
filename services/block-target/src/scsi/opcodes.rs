//! The commands that there are: one table, from which the decoder takes what it accepts and from which REPORT
//! SUPPORTED OPERATION CODES answers, so that the two cannot disagree.

/// One command, or one service action of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode {
    /// Operation code.
    pub code: u8,
    /// Service action, where the command has them.
    pub action: Option<u16>,
    /// CDB usage data (SPC-4, 6.35.3): the operation code, then a one for each bit that is looked at.
    pub usage: &'static [u8],
}

const fn op(code: u8, usage: &'static [u8]) -> Opcode {
    Opcode {
        code,
        action: None,
        usage,
    }
}

const fn action(code: u8, action: u16, usage: &'static [u8]) -> Opcode {
    Opcode {
        code,
        action: Some(action),
        usage,
    }
}

// Group numbers are ignored, and so are no part of the usage data.
const fn rw10(code: u8, flags: u8) -> [u8; 10] {
    [code, flags, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x04]
}
const fn rw12(code: u8, flags: u8) -> [u8; 12] {
    [
        code, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04,
    ]
}
const fn rw16(code: u8, flags: u8) -> [u8; 16] {
    [
        code, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04,
    ]
}

const fn pr_in(action: u8) -> [u8; 10] {
    [0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04]
}
const fn pr_out(action: u8, scope_and_type: u8) -> [u8; 10] {
    [0x5f, action, scope_and_type, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x04]
}

/// Protection, DPO and FUA of a read or write.
const RW: u8 = 0xf8;
/// Protection, DPO and BYTCHK of a verify.
const VF: u8 = 0xf6;

/// Every command, ascending by operation code and service action.
pub const TABLE: &[Opcode] = &[
    op(0x00, &[0x00, 0, 0, 0, 0, 0x04]),
    op(0x03, &[0x03, 0x01, 0, 0, 0xff, 0x04]),
    op(0x08, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0x04]),
    op(0x0a, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0x04]),
    op(0x12, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x04]),
    op(0x16, &[0x16, 0, 0, 0, 0, 0x04]),
    op(0x17, &[0x17, 0, 0, 0, 0, 0x04]),
    op(0x1a, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x04]),
    op(0x1b, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0x04]),
    op(0x25, &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0x04]),
    op(0x28, &rw10(0x28, RW)),
    op(0x2a, &rw10(0x2a, RW)),
    op(0x2e, &rw10(0x2e, VF)),
    op(0x2f, &rw10(0x2f, VF)),
    op(0x34, &rw10(0x34, 0x02)),
    op(0x35, &rw10(0x35, 0x02)),
    op(0x41, &rw10(0x41, 0xf8)),
    op(0x42, &[0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04]),
    op(0x5a, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04]),
    action(0x5e, 0, &pr_in(0)),
    action(0x5e, 1, &pr_in(1)),
    action(0x5e, 2, &pr_in(2)),
    action(0x5e, 3, &pr_in(3)),
    action(0x5f, 0, &pr_out(0, 0)),
    action(0x5f, 1, &pr_out(1, 0xff)),
    action(0x5f, 2, &pr_out(2, 0xff)),
    action(0x5f, 3, &pr_out(3, 0)),
    action(0x5f, 4, &pr_out(4, 0xff)),
    action(0x5f, 5, &pr_out(5, 0xff)),
    action(0x5f, 6, &pr_out(6, 0)),
    action(0x5f, 7, &pr_out(7, 0)),
    op(0x88, &rw16(0x88, RW)),
    op(
        0x89,
        &[
            0x89, RW, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0x04,
        ],
    ),
    op(0x8a, &rw16(0x8a, RW)),
    op(0x8b, &rw16(0x8b, RW)),
    op(0x8e, &rw16(0x8e, VF)),
    op(0x8f, &rw16(0x8f, VF)),
    op(0x90, &rw16(0x90, 0x02)),
    op(0x91, &rw16(0x91, 0x02)),
    op(0x93, &rw16(0x93, 0xf9)),
    action(
        0x9e,
        0x10,
        &[
            0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04,
        ],
    ),
    action(
        0x9e,
        0x12,
        &[
            0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04,
        ],
    ),
    op(0xa0, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04]),
    action(
        0xa3,
        0x0a,
        &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
    ),
    action(
        0xa3,
        0x0c,
        &[
            0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04,
        ],
    ),
    op(0xa8, &rw12(0xa8, RW)),
    op(0xaa, &rw12(0xaa, RW)),
    op(0xae, &rw12(0xae, VF)),
    op(0xaf, &rw12(0xaf, VF)),
];

/// Commands with this operation code.
pub fn of_code(code: u8) -> impl Iterator<Item = &'static Opcode> {
    TABLE.iter().filter(move |op| op.code == code)
}

/// Where the service action stands: bits 0-4 of byte 1 in every command of the table that has one.
#[must_use]
pub fn action_of(cdb: &[u8]) -> u16 {
    u16::from(cdb[1] & 0x1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_and_lengths_follow_the_group_code() {
        for pair in TABLE.windows(2) {
            assert!(
                (pair[0].code, pair[0].action) < (pair[1].code, pair[1].action),
                "{pair:?}"
            );
        }
        for op in TABLE {
            let length = match op.code >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group} has no fixed length"),
            };
            assert_eq!(op.usage.len(), length, "{:#04x}", op.code);
            assert_eq!(op.usage[0], op.code);
            if let Some(action) = op.action {
                assert_eq!(action_of(op.usage), action & 0x1f, "{:#04x}", op.code);
            }
        }
    }
}
