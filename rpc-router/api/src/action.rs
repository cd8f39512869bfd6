//! The number on a job sheet: one identity that every message about one piece of work carries.
//!
//! An `action_id` is a UUID of version 7 (RFC 9562), so identities sort by the time they were given. Here it is
//! only 16 bytes with a text form; giving new ones needs a clock and randomness and is the runtime's work.

use core::fmt;
use core::str::FromStr;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identity of one action, 16 bytes in network order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId([u8; 16]);

impl ActionId {
    /// From the 16 bytes of a UUID.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the UUID.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no UUID of the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnActionId;

impl fmt::Display for NotAnActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an action_id is a UUID: 32 hexadecimal digits in groups of 8-4-4-4-12")
    }
}

impl core::error::Error for NotAnActionId {}

impl FromStr for ActionId {
    type Err = NotAnActionId;

    fn from_str(text: &str) -> Result<Self, NotAnActionId> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(NotAnActionId);
        }
        let (mut bytes, mut digits) = ([0_u8; 16], 0);
        for (i, &c) in text.iter().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != b'-' {
                    return Err(NotAnActionId);
                }
                continue;
            }
            let digit = char::from(c).to_digit(16).ok_or(NotAnActionId)?;
            bytes[digits / 2] = bytes[digits / 2] << 4 | digit as u8;
            digits += 1;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ActionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ActionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ActionId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an action_id (UUID as text)")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ActionId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_and_bytes_are_the_same_identity() {
        let text = "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506";
        let id: ActionId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.as_bytes()[..4], [0x01, 0x92, 0xf3, 0xa4]);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "0192f3a4",
            "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f50g",
            "0192f3a45-b6c-7d8e-9fa0-b1c2d3e4f506",
        ] {
            assert_eq!(text.parse::<ActionId>(), Err(NotAnActionId), "{text}");
        }
    }
}
