//! Why a command was not done: sense data, in both of their formats (SPC-4, 4.5).

use core::fmt;

/// What sense data say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
    /// The INFORMATION field, if it is valid: for a miscompare, the offset of the first byte that differs.
    pub information: Option<u64>,
    /// They speak of an earlier command.
    pub deferred: bool,
}

/// Sense keys (SPC-4, table 28).
pub mod key {
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
    /// MISCOMPARE.
    pub const MISCOMPARE: u8 = 0xe;
}

impl Sense {
    /// Reads sense data. Anything that is cut short or of another format says nothing, and is told as that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let code = bytes.first()? & 0x7f;
        match code {
            0x70 | 0x71 => Some(Sense {
                key: bytes.get(2)? & 0xf,
                // Fewer than 14 bytes carry no code; 0/0 is "no additional information".
                code: bytes.get(12).copied().unwrap_or(0),
                qualifier: bytes.get(13).copied().unwrap_or(0),
                information: match bytes[0] & 0x80 != 0 {
                    true => word(bytes, 3).map(u64::from),
                    false => None,
                },
                deferred: code == 0x71,
            }),
            0x72 | 0x73 => Some(Sense {
                key: bytes.get(1)? & 0xf,
                code: *bytes.get(2)?,
                qualifier: *bytes.get(3)?,
                information: information(bytes),
                deferred: code == 0x73,
            }),
            _ => None,
        }
    }

    /// The command was not begun; something else has happened since the last one.
    #[must_use]
    pub fn is_unit_attention(&self) -> bool {
        self.key == key::UNIT_ATTENTION && !self.deferred
    }

    /// INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB, which a service action is.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.key == key::ILLEGAL_REQUEST && matches!(self.code, 0x20 | 0x24)
    }
}

/// The information descriptor (type 0) among those behind the header.
fn information(bytes: &[u8]) -> Option<u64> {
    let length = usize::from(*bytes.get(7)?);
    let mut rest = bytes.get(8..)?;
    rest = &rest[..rest.len().min(length)];
    while let [kind, length, ..] = *rest {
        let end = 2 + usize::from(length);
        let descriptor = rest.get(..end)?;
        if kind == 0 && descriptor.len() >= 12 && descriptor[2] & 0x80 != 0 {
            return Some(u64::from(word(descriptor, 4)?) << 32 | u64::from(word(descriptor, 8)?));
        }
        rest = &rest[end..];
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KEYS: [&str; 16] = [
            "no sense",
            "recovered error",
            "not ready",
            "medium error",
            "hardware error",
            "illegal request",
            "unit attention",
            "data protect",
            "blank check",
            "vendor specific",
            "copy aborted",
            "aborted command",
            "reserved",
            "volume overflow",
            "miscompare",
            "completed",
        ];
        let name = KEYS[usize::from(self.key & 0xf)];
        let deferred = if self.deferred {
            ", of an earlier command"
        } else {
            ""
        };
        write!(
            f,
            "{name} (sense {:x}/{:02x}/{:02x}{deferred})",
            self.key, self.code, self.qualifier
        )
    }
}
