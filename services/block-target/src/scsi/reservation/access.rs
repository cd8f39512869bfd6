//! What a command needs of a reservation: one row of the tables of SPC-4 (5.13.1, "SPC commands that are allowed in
//! the presence of various reservations") and SBC-3 (4.17, the same for SBC commands).
//!
//! The tables have five columns; for the commands of this target only three patterns of rows occur:
//!
//! | | write exclusive | exclusive access | registered (*registrants* types) | not registered, write excl. | excl. access |
//! |---|---|---|---|---|---|
//! | [`Free`](Access::Free) | allowed | allowed | allowed | allowed | allowed |
//! | [`Read`](Access::Read) | allowed | conflict | allowed | allowed | conflict |
//! | [`Write`](Access::Write) | conflict | conflict | allowed | conflict | conflict |

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing: it goes through whatever is reserved.
    Free,
    /// To read.
    Read,
    /// To change something.
    Write,
}

/// The row of a command. PERSISTENT RESERVE, RESERVE and RELEASE have rules of their own and count as free here; what is
/// not known needs the most.
#[must_use]
pub fn access_of(cdb: &[u8; 16]) -> Access {
    match cdb[0] {
        // TEST UNIT READY, REQUEST SENSE, INQUIRY, READ CAPACITY(10), LOG SENSE, REPORT LUNS
        0x00 | 0x03 | 0x12 | 0x25 | 0x4d | 0xa0 => Access::Free,
        // RESERVE and RELEASE(6) and (10), PERSISTENT RESERVE IN and OUT
        0x16 | 0x17 | 0x56 | 0x57 | 0x5e | 0x5f => Access::Free,
        // START STOP UNIT: START=1 with POWER CONDITION=0 only
        0x1b if cdb[4] & 0xf1 == 0x01 => Access::Free,
        // PREVENT ALLOW MEDIUM REMOVAL: PREVENT=0 only
        0x1e if cdb[4] & 0x03 == 0 => Access::Free,
        // SERVICE ACTION IN(16): READ CAPACITY(16), GET LBA STATUS
        0x9e if cdb[1] & 0x1f == 0x10 => Access::Free,
        0x9e => Access::Read,
        // MAINTENANCE IN: the reports are free
        0xa3 => Access::Free,
        // READ, VERIFY, PRE-FETCH, MODE SENSE
        0x08 | 0x28 | 0x88 | 0xa8 | 0x2f | 0x8f | 0xaf | 0x34 | 0x90 | 0x1a | 0x5a => Access::Read,
        _ => Access::Write,
    }
}
