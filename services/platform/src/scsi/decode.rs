//! What a disk says, read by someone who trusts nothing: every length is checked against what came, not against what was
//! announced.
//!
//! Clauses are those of SPC-4 (r37) and SBC-3 (r36).

use super::ScsiError;
use core::fmt;
use core::str::FromStr;

/// Vital product data pages.
pub mod page {
    /// Pages that the disk has.
    pub const SUPPORTED: u8 = 0x00;
    /// Serial number.
    pub const SERIAL: u8 = 0x80;
    /// Names of unit, port and target.
    pub const IDENTIFICATION: u8 = 0x83;
    /// Limits of block commands.
    pub const BLOCK_LIMITS: u8 = 0xb0;
    /// What the medium is made of.
    pub const CHARACTERISTICS: u8 = 0xb1;
}

/// Bytes of an answer, with the name of the command for messages.
#[derive(Clone, Copy)]
struct Answer<'a> {
    command: &'static str,
    bytes: &'a [u8],
}

impl<'a> Answer<'a> {
    fn new(command: &'static str, bytes: &'a [u8]) -> Self {
        Answer { command, bytes }
    }

    fn wrong(&self, what: &'static str) -> ScsiError {
        ScsiError::Malformed {
            command: self.command,
            length: self.bytes.len(),
            what,
        }
    }

    /// At least so many bytes.
    fn of(self, length: usize, what: &'static str) -> Result<Self, ScsiError> {
        match self.bytes.len() >= length {
            true => Ok(self),
            false => Err(self.wrong(what)),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Text that a disk says: printable ASCII, without the blanks around it.
fn text(bytes: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => ' ',
    };
    let text: String = bytes.iter().map(printable).collect();
    text.trim().to_owned()
}

/// Standard INQUIRY data (SPC-4, 6.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// PERIPHERAL DEVICE TYPE with its qualifier above: 0 is a disk that is there.
    pub device: u8,
    /// The medium can be taken out.
    pub removable: bool,
    /// MULTIP: more than one port.
    pub multiple_ports: bool,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Revision of its firmware.
    pub revision: String,
}

impl Inquiry {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        let bytes = Answer::new("INQUIRY", bytes)
            .of(36, "36 are the least of a standard answer")?
            .bytes;
        Ok(Inquiry {
            device: bytes[0],
            removable: bytes[1] & 0x80 != 0,
            multiple_ports: bytes[6] & 0x10 != 0,
            vendor: text(&bytes[8..16]),
            product: text(&bytes[16..32]),
            revision: text(&bytes[32..36]),
        })
    }
}

/// The body of a vital product data page, after its header has been checked.
fn body(page: u8, bytes: &[u8]) -> Result<&[u8], ScsiError> {
    let answer = Answer::new("INQUIRY (vital product data)", bytes).of(4, "4 are the header of a page")?;
    if bytes[1] != page {
        return Err(answer.wrong("the header names another page than was asked for"));
    }
    let length = usize::from(u16_at(bytes, 2).unwrap_or(0));
    // Longer than what was asked for: what came is the beginning.
    Ok(&bytes[4..bytes.len().min(4 + length)])
}

/// Pages that a disk has (SPC-4, 7.8.13).
///
/// # Errors
/// No such page.
pub fn supported_pages(bytes: &[u8]) -> Result<Vec<u8>, ScsiError> {
    body(page::SUPPORTED, bytes).map(<[u8]>::to_vec)
}

/// Unit serial number (SPC-4, 7.8.12).
///
/// # Errors
/// No such page.
pub fn serial(bytes: &[u8]) -> Result<String, ScsiError> {
    body(page::SERIAL, bytes).map(text)
}

/// A name of something (SPC-4, 7.8.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designator {
    /// Of what: 0 the logical unit, 1 the target port that was asked through, 2 the target.
    pub association: u8,
    /// DESIGNATOR TYPE: 2 EUI-64, 3 NAA, 4 relative target port.
    pub kind: u8,
    /// The name.
    pub name: Vec<u8>,
}

/// Names of the unit and of the port that was asked through (SPC-4, 7.8.5).
///
/// # Errors
/// No such page, or a name that runs over its end.
pub fn designators(bytes: &[u8]) -> Result<Vec<Designator>, ScsiError> {
    let mut rest = body(page::IDENTIFICATION, bytes)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = rest.get(3).map(|length| usize::from(*length));
        let (Some(&[_, kind, ..]), Some(name)) = (
            rest.first_chunk::<4>(),
            length.and_then(|length| rest.get(4..4 + length)),
        ) else {
            // A page that was longer than what was asked for ends in the middle of a name.
            let announced = usize::from(u16_at(bytes, 2).unwrap_or(0));
            return match announced + 4 > bytes.len() {
                true => Ok(found),
                false => Err(Answer::new("INQUIRY (vital product data)", bytes)
                    .wrong("a designator runs over the end of the page")),
            };
        };
        found.push(Designator {
            association: kind >> 4 & 3,
            kind: kind & 0xf,
            name: name.to_vec(),
        });
        rest = &rest[4 + name.len()..];
    }
    Ok(found)
}

/// The world wide name of a logical unit: the same through every port and on every controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wwn {
    /// NAA of 8 bytes (IEEE registered, or extended, or locally assigned).
    Naa(u64),
    /// NAA of 16 bytes (IEEE registered extended).
    NaaExtended(u128),
    /// EUI-64.
    Eui(u64),
}

impl Wwn {
    /// The best of the names of the logical unit: the longest NAA, then EUI-64.
    #[must_use]
    pub fn of(designators: &[Designator]) -> Option<Self> {
        let unit = designators.iter().filter(|name| name.association == 0);
        unit.filter_map(|name| match (name.kind, &name.name[..]) {
            (3, long) if long.len() == 16 && long[0] >> 4 == 6 => {
                Some((0, Wwn::NaaExtended(u128::from_be_bytes(long.try_into().ok()?))))
            }
            (3, short) if short.len() == 8 && matches!(short[0] >> 4, 2 | 3 | 5) => {
                Some((1, Wwn::Naa(u64_at(short, 0)?)))
            }
            (2, short) if short.len() == 8 => Some((2, Wwn::Eui(u64_at(short, 0)?))),
            _ => None,
        })
        .min()
        .map(|(_, wwn)| wwn)
    }

    /// The name in 16 bytes: that of 16 as it is, one of 8 with zeros behind it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        match self {
            Wwn::NaaExtended(long) => long.to_be_bytes(),
            Wwn::Naa(short) | Wwn::Eui(short) => (u128::from(short) << 64).to_be_bytes(),
        }
    }
}

impl fmt::Display for Wwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wwn::Naa(short) => write!(f, "naa.{short:016x}"),
            Wwn::NaaExtended(long) => write!(f, "naa.{long:032x}"),
            Wwn::Eui(short) => write!(f, "eui.{short:016x}"),
        }
    }
}

impl FromStr for Wwn {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let parse = || {
            let (kind, digits) = given.split_once('.')?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            match (kind, digits.len()) {
                _ if !plain => None,
                ("naa", 16) => u64::from_str_radix(digits, 16).ok().map(Wwn::Naa),
                ("naa", 32) => u128::from_str_radix(digits, 16).ok().map(Wwn::NaaExtended),
                ("eui", 16) => u64::from_str_radix(digits, 16).ok().map(Wwn::Eui),
                _ => None,
            }
        };
        let nvme = ["nvme.", "uuid."].iter().any(|kind| given.starts_with(kind))
            || given
                .strip_prefix("eui.")
                .is_some_and(|digits| digits.len() == 32);
        if nvme {
            return Err(format!(
                "{given:?} is the name of an NVMe disk. {}",
                super::discover::NVME
            ));
        }
        parse().ok_or_else(|| {
            format!(
                "{given:?} is no world wide name: it must be \"naa.\" with 16 or 32 hexadecimal digits, or \"eui.\" with \
                 16, as `enclosured --list` shows it"
            )
        })
    }
}

/// Limits of block commands (SBC-3, 6.6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// Most blocks of a COMPARE AND WRITE; 0: the disk has none.
    pub compare_and_write: u8,
}

impl BlockLimits {
    /// Reads it.
    ///
    /// # Errors
    /// No such page.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        let body = body(page::BLOCK_LIMITS, bytes)?;
        Ok(BlockLimits {
            compare_and_write: body.get(1).copied().unwrap_or(0),
        })
    }
}

/// What the medium is made of (SBC-3, 6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The disk does not say.
    Unknown,
    /// It does not turn.
    SolidState,
    /// Turns so often a minute.
    Rotating(u16),
}

impl Medium {
    /// Reads it.
    ///
    /// # Errors
    /// No such page.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        let body = body(page::CHARACTERISTICS, bytes)?;
        Ok(match u16_at(body, 0).unwrap_or(0) {
            1 => Medium::SolidState,
            rate @ 0x401..=0xfffe => Medium::Rotating(rate),
            _ => Medium::Unknown,
        })
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Medium::Unknown => f.write_str("of a medium that it does not name"),
            Medium::SolidState => f.write_str("solid state"),
            Medium::Rotating(rate) => write!(f, "{rate} turns a minute"),
        }
    }
}

/// Size and geometry (SBC-3, 5.16.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
}

impl Capacity {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short, or no disk has such figures.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        let answer = Answer::new("READ CAPACITY(16)", bytes).of(32, "32 are due")?;
        let last = u64_at(bytes, 0).unwrap_or(0);
        let block_size = u32_at(bytes, 8).unwrap_or(0);
        let exponent = u32::from(bytes[13] & 0xf);
        let sound = block_size.is_power_of_two() && (512..=1 << 16).contains(&block_size);
        let blocks = last.checked_add(1).filter(|blocks| {
            blocks
                .checked_mul(block_size.into())
                .is_some_and(|bytes| bytes <= i64::MAX as u64)
        });
        match blocks {
            Some(blocks) if sound => Ok(Capacity {
                blocks,
                block_size,
                physical_block_size: block_size << exponent.min(15),
            }),
            _ => Err(answer.wrong("a size below 2^63 bytes and blocks of 512 to 65536 bytes are due")),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }
}

/// WCE of the caching page: writes go into a volatile cache (SBC-3, 6.5.5); `None`: the disk has no such page.
///
/// # Errors
/// It is cut short.
pub fn caching(bytes: &[u8]) -> Result<Option<bool>, ScsiError> {
    let answer = Answer::new("MODE SENSE", bytes).of(4, "4 are the header of mode parameters")?;
    let page = bytes.get(4 + usize::from(bytes[3])..).unwrap_or_default();
    match *page {
        [] => Ok(None),
        [code, _, flags, ..] if code & 0x3f == 8 => Ok(Some(flags & 4 != 0)),
        _ => Err(answer.wrong("the caching page is due")),
    }
}

/// The announced length of a list behind a header of 8 bytes, against what came.
///
/// # Errors
/// The list is longer than what came: ask again with more room.
fn list<'a>(command: &'static str, bytes: &'a [u8]) -> Result<(u32, &'a [u8]), ScsiError> {
    let answer = Answer::new(command, bytes).of(8, "8 are the header of a list")?;
    let generation = u32_at(bytes, 0).unwrap_or(0);
    let length = u32_at(bytes, 4).unwrap_or(0);
    let list = usize::try_from(length)
        .ok()
        .and_then(|length| bytes[8..].get(..length))
        .ok_or_else(|| answer.wrong("its header announces more"))?;
    Ok((generation, list))
}

/// Bytes that an answer to READ KEYS, READ RESERVATION or READ FULL STATUS has as a whole, by its header; `None` where
/// there is no header.
#[must_use]
pub fn whole_list(bytes: &[u8]) -> Option<u64> {
    u32_at(bytes, 4).map(|length| 8 + u64::from(length))
}

/// Registered keys (SPC-4, 6.15.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// PRGENERATION.
    pub generation: u32,
    /// One for each registered nexus.
    pub keys: Vec<u64>,
}

impl Keys {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        const COMMAND: &str = "READ KEYS";
        let (generation, list) = list(COMMAND, bytes)?;
        if !list.len().is_multiple_of(8) {
            return Err(Answer::new(COMMAND, bytes).wrong("keys of 8 bytes are due"));
        }
        let keys = list.chunks_exact(8).filter_map(|key| u64_at(key, 0)).collect();
        Ok(Keys { generation, keys })
    }
}

/// A held reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Key of the holder; 0 where every registrant holds it.
    pub key: u64,
    /// TYPE field.
    pub kind: u8,
}

/// The reservation (SPC-4, 6.15.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// PRGENERATION.
    pub generation: u32,
    /// The reservation, if there is one.
    pub held: Option<Held>,
}

impl Reserved {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short, or not of the whole unit.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        const COMMAND: &str = "READ RESERVATION";
        let (generation, list) = list(COMMAND, bytes)?;
        let wrong = |what| Answer::new(COMMAND, bytes).wrong(what);
        let held = match list.len() {
            0 => None,
            16.. if list[13] >> 4 != 0 => return Err(wrong("only the scope of the whole unit exists")),
            16.. => Some(Held {
                key: u64_at(list, 0).unwrap_or(0),
                kind: list[13] & 0xf,
            }),
            _ => return Err(wrong("nothing, or 16 bytes of a reservation, are due")),
        };
        Ok(Reserved { generation, held })
    }
}

/// What a disk can do about reservations (SPC-4, 6.15.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PTPL_C: registrations can persist through a loss of power.
    pub persist: bool,
    /// The TYPE fields that it supports, bit by bit; `None`: it does not say.
    pub kinds: Option<u16>,
}

impl Capabilities {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        let bytes = Answer::new("REPORT CAPABILITIES", bytes)
            .of(8, "8 are due")?
            .bytes;
        // Bits of the mask (table 226): byte 4 has types 1 (bit 1), 3, 5, 6, 7; byte 5 has type 8 (bit 0).
        let kinds = u16::from(bytes[4]) | u16::from(bytes[5] & 1) << 8;
        Ok(Capabilities {
            persist: bytes[2] & 1 != 0,
            kinds: (bytes[3] & 0x80 != 0).then_some(kinds),
        })
    }

    /// Whether it supports a type, as far as it says so.
    #[must_use]
    pub fn has(&self, kind: u8) -> bool {
        self.kinds.is_none_or(|kinds| kinds >> kind & 1 == 1)
    }
}

/// A registered nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its key.
    pub key: u64,
    /// The TYPE field of the reservation that it holds, if it does.
    pub holds: Option<u8>,
    /// Relative identifier of the disk's port.
    pub target_port: u16,
    /// TransportID of the initiator port, as the disk says it.
    pub transport_id: Vec<u8>,
}

/// Everything about reservations at one instant (SPC-4, 6.15.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullStatus {
    /// PRGENERATION.
    pub generation: u32,
    /// Every registered nexus.
    pub registrations: Vec<Registration>,
}

impl FullStatus {
    /// Reads it.
    ///
    /// # Errors
    /// It is cut short.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScsiError> {
        const COMMAND: &str = "READ FULL STATUS";
        let (generation, mut rest) = list(COMMAND, bytes)?;
        let mut registrations = Vec::new();
        while !rest.is_empty() {
            let length = u32_at(rest, 20).and_then(|length| usize::try_from(length).ok());
            let Some(transport_id) = length
                .and_then(|length| length.checked_add(24))
                .and_then(|end| rest.get(24..end))
            else {
                return Err(Answer::new(COMMAND, bytes).wrong("a descriptor runs over the end of the list"));
            };
            registrations.push(Registration {
                key: u64_at(rest, 0).unwrap_or(0),
                holds: (rest[12] & 1 != 0).then_some(rest[13] & 0xf),
                target_port: u16_at(rest, 18).unwrap_or(0),
                transport_id: transport_id.to_vec(),
            });
            rest = &rest[24 + transport_id.len()..];
        }
        Ok(FullStatus {
            generation,
            registrations,
        })
    }
}
