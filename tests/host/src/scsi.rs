//! The words of SCSI that the host speaks: command blocks out, raw answers in.
//!
//! Everything here is a function of bytes. Answers are decoded from the raw bytes (and not by the
//! library, whose bit fields are wrong on little-endian machines); an answer that is too short or
//! contradicts itself is an error that says which field, never a guess.

use serde::{Deserialize, Serialize};

/// Statuses of a command, with the library's own for what never reached the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// 00h.
    Good,
    /// 02h, with what the sense says.
    CheckCondition(Sense),
    /// 08h.
    Busy,
    /// 18h.
    ReservationConflict,
    /// 28h.
    TaskSetFull,
    /// 40h.
    TaskAborted,
    /// The session was lost while the command was in flight.
    TransportLost,
    /// No answer in time; the command was aborted.
    TimedOut,
    /// A status byte that the host has no rule for.
    Other(u32),
}

impl Status {
    /// A status as the library reports it; `sense` is asked for only on CHECK CONDITION.
    pub fn from_library(status: i32, sense: impl FnOnce() -> Sense) -> Self {
        match status {
            0 => Status::Good,
            0x02 => Status::CheckCondition(sense()),
            0x08 => Status::Busy,
            0x18 => Status::ReservationConflict,
            0x28 => Status::TaskSetFull,
            0x40 => Status::TaskAborted,
            0x0f00_0000 | 0x0f00_0001 => Status::TransportLost,
            0x0f00_0002 => Status::TimedOut,
            other => Status::Other(other as u32),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status::Good => write!(f, "GOOD"),
            Status::CheckCondition(sense) => write!(f, "CHECK CONDITION {sense}"),
            Status::Busy => write!(f, "BUSY"),
            Status::ReservationConflict => write!(f, "RESERVATION CONFLICT"),
            Status::TaskSetFull => write!(f, "TASK SET FULL"),
            Status::TaskAborted => write!(f, "TASK ABORTED"),
            Status::TransportLost => write!(f, "transport lost"),
            Status::TimedOut => write!(f, "timed out"),
            Status::Other(code) => write!(f, "status {code:#x}"),
        }
    }
}

/// Sense key with additional code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sense {
    /// Sense key, 0 to 15.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

/// NOT READY.
pub const NOT_READY: u8 = 0x2;
/// MEDIUM ERROR.
pub const MEDIUM_ERROR: u8 = 0x3;
/// HARDWARE ERROR.
pub const HARDWARE_ERROR: u8 = 0x4;
/// ILLEGAL REQUEST.
pub const ILLEGAL_REQUEST: u8 = 0x5;
/// UNIT ATTENTION.
pub const UNIT_ATTENTION: u8 = 0x6;
/// DATA PROTECT.
pub const DATA_PROTECT: u8 = 0x7;
/// ABORTED COMMAND.
pub const ABORTED_COMMAND: u8 = 0xb;

impl Sense {
    /// Asymmetric access state changed (06/2A06).
    pub fn is_access_state_changed(self) -> bool {
        self.key == UNIT_ATTENTION && (self.asc, self.ascq) == (0x2a, 0x06)
    }
}

impl std::fmt::Display for Sense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}/{:02x}{:02x}", self.key, self.asc, self.ascq)
    }
}

/// Which way a command's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// From the target.
    In,
    /// To the target.
    Out,
}

/// READ (16) of `blocks` logical blocks.
pub fn read16(lba: u64, blocks: u32) -> [u8; 16] {
    rw16(0x88, lba, blocks, false)
}

/// WRITE (16); `fua` asks for the medium, past any cache.
pub fn write16(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    rw16(0x8a, lba, blocks, fua)
}

fn rw16(opcode: u8, lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = if fua { 0x08 } else { 0 };
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// SYNCHRONIZE CACHE (16) of the whole unit.
pub fn synchronize_cache16() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x91;
    cdb
}

/// READ CAPACITY (16) into 32 bytes.
pub fn read_capacity16() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x9e;
    cdb[1] = 0x10;
    cdb[10..14].copy_from_slice(&32u32.to_be_bytes());
    cdb
}

/// TEST UNIT READY.
pub fn test_unit_ready() -> [u8; 6] {
    [0; 6]
}

/// INQUIRY; `page` of the vital product data, or the standard data.
pub fn inquiry(page: Option<u8>, length: u16) -> [u8; 6] {
    let [high, low] = length.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0]
}

/// REPORT LUNS of all units that this initiator may see.
pub fn report_luns(length: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[6..10].copy_from_slice(&length.to_be_bytes());
    cdb
}

/// REPORT TARGET PORT GROUPS, plain header.
pub fn report_target_port_groups(length: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[0] = 0xa3;
    cdb[1] = 0x0a;
    cdb[6..10].copy_from_slice(&length.to_be_bytes());
    cdb
}

/// MODE SENSE (6), caching page, no block descriptors.
pub fn mode_sense_caching(length: u8) -> [u8; 6] {
    [0x1a, 0x08, 0x08, 0, length, 0]
}

/// An answer that cannot be what it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answer}: {problem}")]
pub struct Malformed {
    /// Which answer.
    pub answer: &'static str,
    /// Which field, and what would be right.
    pub problem: String,
}

fn malformed(answer: &'static str, problem: impl Into<String>) -> Malformed {
    Malformed {
        answer,
        problem: problem.into(),
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// State of a target port group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessState {
    /// 0h.
    Optimized,
    /// 1h.
    NonOptimized,
    /// 2h.
    Standby,
    /// 3h.
    Unavailable,
    /// Eh.
    Offline,
    /// Fh.
    Transitioning,
}

impl AccessState {
    fn from_nibble(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0x0 => AccessState::Optimized,
            0x1 => AccessState::NonOptimized,
            0x2 => AccessState::Standby,
            0x3 => AccessState::Unavailable,
            0xe => AccessState::Offline,
            0xf => AccessState::Transitioning,
            _ => return None,
        })
    }
}

/// One group of a REPORT TARGET PORT GROUPS answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortGroup {
    /// Target port group identifier.
    pub group: u16,
    /// Its state.
    pub state: AccessState,
    /// The preferred bit.
    pub preferred: bool,
    /// Relative target port identifiers of its members.
    pub ports: Vec<u16>,
}

/// Decodes REPORT TARGET PORT GROUPS (plain header); groups sorted by identifier.
pub fn parse_target_port_groups(bytes: &[u8]) -> Result<Vec<PortGroup>, Malformed> {
    const WHAT: &str = "REPORT TARGET PORT GROUPS";
    if bytes.len() < 4 {
        return Err(malformed(
            WHAT,
            format!("{} bytes, shorter than its header of 4", bytes.len()),
        ));
    }
    let length = be32(bytes, 0) as usize;
    let Some(mut rest) = bytes.get(4..4 + length) else {
        return Err(malformed(
            WHAT,
            format!("length field says {length}, {} bytes follow", bytes.len() - 4),
        ));
    };
    let mut groups = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 8 {
            return Err(malformed(
                WHAT,
                format!("{} bytes left, a group descriptor has at least 8", rest.len()),
            ));
        }
        let nibble = rest[0] & 0x0f;
        let state = AccessState::from_nibble(nibble)
            .ok_or_else(|| malformed(WHAT, format!("access state {nibble:#x} is reserved")))?;
        let count = usize::from(rest[7]);
        let end = 8 + 4 * count;
        if rest.len() < end {
            return Err(malformed(
                WHAT,
                format!("{count} ports announced, {} bytes left of {end}", rest.len()),
            ));
        }
        groups.push(PortGroup {
            group: be16(rest, 2),
            state,
            preferred: rest[0] & 0x80 != 0,
            ports: (0..count).map(|port| be16(rest, 8 + 4 * port + 2)).collect(),
        });
        rest = &rest[end..];
    }
    groups.sort();
    Ok(groups)
}

/// Who a unit is and through which port one is looking, from the device identification page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// The unit's own designators (association 0), as hexadecimal "code-set/type:value", sorted.
    pub unit: Vec<String>,
    /// Target port group of the port that answered.
    pub group: Option<u16>,
    /// Relative target port identifier of the port that answered.
    pub port: Option<u16>,
}

/// Decodes the device identification page (83h).
pub fn parse_identification(bytes: &[u8]) -> Result<Identification, Malformed> {
    const WHAT: &str = "device identification page";
    if bytes.len() < 4 || bytes[1] != 0x83 {
        return Err(malformed(WHAT, "not a page 83h"));
    }
    let length = usize::from(be16(bytes, 2));
    let Some(mut rest) = bytes.get(4..4 + length) else {
        return Err(malformed(
            WHAT,
            format!("length field says {length}, {} bytes follow", bytes.len() - 4),
        ));
    };
    let mut id = Identification {
        unit: Vec::new(),
        group: None,
        port: None,
    };
    while !rest.is_empty() {
        if rest.len() < 4 || rest.len() < 4 + usize::from(rest[3]) {
            return Err(malformed(WHAT, "a designator runs past the end of the page"));
        }
        let (designator, later) = rest.split_at(4 + usize::from(rest[3]));
        let (set, association, kind) = (
            designator[0] & 0x0f,
            (designator[1] >> 4) & 3,
            designator[1] & 0x0f,
        );
        let value = &designator[4..];
        match (association, kind) {
            (0, _) => {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                id.unit.push(format!("{set:x}/{kind:x}:{hex}"));
            }
            (1, 4) if value.len() == 4 => id.port = Some(be16(value, 2)),
            (1, 5) if value.len() == 4 => id.group = Some(be16(value, 2)),
            _ => {}
        }
        rest = later;
    }
    if id.unit.is_empty() {
        return Err(malformed(WHAT, "no designator of the unit itself"));
    }
    id.unit.sort();
    Ok(id)
}

/// Size of a unit, from READ CAPACITY (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
}

/// Decodes READ CAPACITY (16).
pub fn parse_capacity(bytes: &[u8]) -> Result<Capacity, Malformed> {
    const WHAT: &str = "READ CAPACITY (16)";
    if bytes.len() < 12 {
        return Err(malformed(
            WHAT,
            format!("{} bytes, at least 12 are needed", bytes.len()),
        ));
    }
    let last = u64::from(be32(bytes, 0)) << 32 | u64::from(be32(bytes, 4));
    let block_size = be32(bytes, 8);
    if !(512..=65536).contains(&block_size) || !block_size.is_power_of_two() {
        return Err(malformed(
            WHAT,
            format!("block length {block_size}, a power of two from 512 to 65536 is right"),
        ));
    }
    let blocks = last
        .checked_add(1)
        .ok_or_else(|| malformed(WHAT, "last address is all ones"))?;
    Ok(Capacity { blocks, block_size })
}

/// Units named by REPORT LUNS, sorted. Only the peripheral and flat methods are understood.
pub fn parse_luns(bytes: &[u8]) -> Result<Vec<u16>, Malformed> {
    const WHAT: &str = "REPORT LUNS";
    if bytes.len() < 8 {
        return Err(malformed(
            WHAT,
            format!("{} bytes, shorter than its header of 8", bytes.len()),
        ));
    }
    let length = be32(bytes, 0) as usize;
    let Some(list) = bytes
        .get(8..8 + length)
        .filter(|list| list.len().is_multiple_of(8))
    else {
        return Err(malformed(
            WHAT,
            format!(
                "list of {length} bytes, {} follow; a multiple of 8 is right",
                bytes.len() - 8
            ),
        ));
    };
    let mut luns = Vec::new();
    for entry in list.chunks_exact(8) {
        match entry[0] >> 6 {
            0 | 1 => luns.push(be16(entry, 0) & 0x3fff),
            method => {
                return Err(malformed(
                    WHAT,
                    format!("addressing method {method} is not understood"),
                ));
            }
        }
    }
    luns.sort_unstable();
    Ok(luns)
}

/// Whether the write cache is on, from MODE SENSE (6) of the caching page.
pub fn parse_write_cache(bytes: &[u8]) -> Result<bool, Malformed> {
    const WHAT: &str = "MODE SENSE (6), caching page";
    let header = 4 + usize::from(*bytes.get(3).ok_or_else(|| malformed(WHAT, "no header"))?);
    match bytes.get(header..header + 3) {
        Some([code, _, flags]) if code & 0x3f == 0x08 => Ok(flags & 0x04 != 0),
        _ => Err(malformed(WHAT, format!("no caching page at byte {header}"))),
    }
}

/// The TPGS field of standard INQUIRY data: 0 when the unit has no asymmetric access.
pub fn parse_tpgs(bytes: &[u8]) -> Result<u8, Malformed> {
    bytes
        .get(5)
        .map(|flags| (flags >> 4) & 3)
        .ok_or_else(|| malformed("INQUIRY", format!("{} bytes, at least 6 are needed", bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_blocks_have_their_fields_in_place() {
        let cdb = write16(0x0102_0304_0506_0708, 9, true);
        assert_eq!(cdb, [0x8a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0]);
        assert_eq!(read16(1, 2)[..2], [0x88, 0]);
        assert_eq!(inquiry(Some(0x83), 0x1234), [0x12, 1, 0x83, 0x12, 0x34, 0]);
        assert_eq!(report_target_port_groups(4096)[..2], [0xa3, 0x0a]);
    }

    #[test]
    fn port_groups_come_from_raw_bytes() {
        let answer = [
            0, 0, 0, 24, // two descriptors of 12
            0x01, 0x0f, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, // group 2, non-optimized
            0x80, 0x0f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, // group 1, optimized, preferred
        ];
        let groups = parse_target_port_groups(&answer).expect("well formed");
        assert_eq!(
            groups,
            [
                PortGroup {
                    group: 1,
                    state: AccessState::Optimized,
                    preferred: true,
                    ports: vec![1]
                },
                PortGroup {
                    group: 2,
                    state: AccessState::NonOptimized,
                    preferred: false,
                    ports: vec![2]
                },
            ]
        );
        for cut in 0..answer.len() {
            assert!(parse_target_port_groups(&answer[..cut]).is_err(), "cut at {cut}");
        }
        let mut reserved = answer;
        reserved[4] = 0x07;
        let err = parse_target_port_groups(&reserved).expect_err("state 7 is reserved");
        assert!(err.to_string().contains("0x7"), "{err}");
    }

    #[test]
    fn identification_separates_unit_and_port() {
        let page = [
            0, 0x83, 0, 20, // header
            0x01, 0x03, 0, 4, 0xde, 0xad, 0xbe, 0xef, // unit, NAA
            0x01, 0x14, 0, 4, 0, 0, 0, 2, // port, relative target port 2
            0x01, 0x15, 0, 0, // port group, empty: ignored
        ];
        let id = parse_identification(&page).expect("well formed");
        assert_eq!(id.unit, ["1/3:deadbeef"]);
        assert_eq!((id.port, id.group), (Some(2), None));
        for cut in 0..page.len() {
            assert!(parse_identification(&page[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn capacity_refuses_what_no_disk_has() {
        let mut answer = [0u8; 32];
        answer[7] = 99;
        answer[10] = 0x10;
        assert_eq!(
            parse_capacity(&answer),
            Ok(Capacity {
                blocks: 100,
                block_size: 4096
            })
        );
        answer[11] = 1;
        assert!(parse_capacity(&answer).is_err());
        assert!(parse_capacity(&[0xff; 32]).is_err());
    }

    #[test]
    fn luns_of_both_simple_methods() {
        let mut answer = vec![0, 0, 0, 16, 0, 0, 0, 0];
        answer.extend([0x40, 5, 0, 0, 0, 0, 0, 0]);
        answer.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_luns(&answer), Ok(vec![1, 5]));
        answer[8] = 0xc1;
        assert!(parse_luns(&answer).is_err());
    }

    #[test]
    fn random_answers_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..round % 64)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 56) as u8 & if round % 3 == 0 { 0x1f } else { 0xff }
                })
                .collect();
            let _ = parse_target_port_groups(&bytes);
            let _ = parse_identification(&bytes);
            let _ = parse_capacity(&bytes);
            let _ = parse_luns(&bytes);
            let _ = parse_write_cache(&bytes);
            let _ = parse_tpgs(&bytes);
        }
    }
}
