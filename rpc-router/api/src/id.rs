//! Identities and counters that appear in messages, on the wire and on the disks.
//!
//! Each is a type of its own, so that an epoch cannot be passed for a generation. Counters grow by one and never
//! fall; zero is "none yet".

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize, de};

/// One of the two controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ControllerId {
    /// Controller a.
    A,
    /// Controller b.
    B,
}

impl ControllerId {
    /// Both, in the order of their rank.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn partner(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 for a, 1 for b: the place of its blocks on a quorum disk.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The inverse of [`Self::index`].
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }

    /// `a` or `b`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for ControllerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ControllerId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        match s {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            _ => Err(BadId {
                what: "controller",
                given: s.to_string(),
                right: "`a` or `b`",
            }),
        }
    }
}

/// Text that is not an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadId {
    /// Which identity was expected.
    pub what: &'static str,
    /// What was given.
    pub given: String,
    /// What would be right.
    pub right: &'static str,
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a {}: expected {}",
            self.given, self.what, self.right
        )
    }
}

impl core::error::Error for BadId {}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The counter at this value.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// Its value.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one. Saturates: at one step per nanosecond that is 584 years away.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter! {
    /// Number of the membership {a,b}, {a} or {b}; grows by one at each change.
    Epoch
}
counter! {
    /// Count of a controller's starts. A daemon's restart does not change it.
    Incarnation
}
counter! {
    /// Generation of a claim on a pool, or of the set of quorum disks.
    Generation
}

/// Number of a disk in the shelf, from 0: its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct DiskIndex(u16);

impl DiskIndex {
    /// The disk in this slot.
    #[must_use]
    pub const fn new(slot: u16) -> Self {
        Self(slot)
    }

    /// Its slot.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DiskIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk-{:02}", self.0)
    }
}

/// An identity of its own type, written as a UUID.
#[macro_export]
macro_rules! uuid_id {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From the 16 bytes of a UUID, in network order.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes, in network order.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::id::BadId;

            fn from_str(s: &str) -> Result<Self, $crate::id::BadId> {
                $crate::id::parse_uuid(s, stringify!($name)).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::id::UuidText("a UUID")).map(Self)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> alloc::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::contract::text_schema(concat!($($doc),*).trim(), "format", "uuid")
            }
        }
    };
}

counter! {
    /// Number of entries of the configuration log.
    LogLength
}

uuid_id! {
    /// Identity of the array.
    ArrayId
}
uuid_id! {
    /// Identity of a pool.
    PoolId
}
uuid_id! {
    /// Identity of a volume; its NAA designator and its serial number are made from it.
    VolumeId
}

/// Reads a UUID: hyphens stand where RFC 9562 puts them, or nowhere.
///
/// # Errors
/// [`BadId`], for `what`.
pub fn parse_uuid(s: &str, what: &'static str) -> Result<[u8; 16], BadId> {
    let right = "a UUID, as in 01234567-89ab-cdef-0123-456789abcdef";
    uuid_bytes(s).ok_or_else(|| BadId {
        what,
        given: s.to_string(),
        right,
    })
}

/// Reads an identity from text of any lifetime.
#[doc(hidden)]
pub struct UuidText(pub &'static str);

impl de::Visitor<'_> for UuidText {
    type Value = [u8; 16];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<[u8; 16], E> {
        parse_uuid(text, "identity").map_err(E::custom)
    }
}

fn uuid_bytes(s: &str) -> Option<[u8; 16]> {
    let text = s.as_bytes();
    let hyphens = match text.len() {
        36 => true,
        32 => false,
        _ => return None,
    };
    let mut bytes = [0_u8; 16];
    let mut digits = 0_usize;
    for (at, &c) in text.iter().enumerate() {
        if hyphens && matches!(at, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let value = char::from(c).to_digit(16)?;
        let byte = bytes.get_mut(digits / 2)?;
        *byte = (*byte << 4) | u8::try_from(value).ok()?;
        digits += 1;
    }
    (digits == 32).then_some(bytes)
}

/// A 256-bit content hash (BLAKE3): of the configuration log, of an epoch's base.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash32([u8; 32]);

impl Hash32 {
    /// The hash of nothing: what an empty log has.
    pub const ZERO: Self = Self([0; 32]);

    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash32 {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            what: "hash",
            given: s.to_string(),
            right: "64 hexadecimal digits",
        };
        if s.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0_u8; 32];
        for (at, c) in s.bytes().enumerate() {
            let value = char::from(c)
                .to_digit(16)
                .and_then(|v| u8::try_from(v).ok())
                .ok_or_else(bad)?;
            bytes[at / 2] = (bytes[at / 2] << 4) | value;
        }
        Ok(Self(bytes))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Hash32 {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Hash32".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::contract::text_schema("A content hash (BLAKE3).", "pattern", "^[0-9A-Fa-f]{64}$")
    }
}

impl Serialize for Hash32 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_back_what_it_prints() {
        let id = PoolId::from_bytes([
            1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 7,
        ]);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0001-020304050607");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0123456789abcdef0001020304050607".parse(), Ok(id));
    }

    #[test]
    fn what_is_not_a_uuid_is_refused() {
        for bad in [
            "",
            "0",
            "01234567-89ab-cdef-0001-02030405060",
            "01234567+89ab-cdef-0001-020304050607",
            "g1234567-89ab-cdef-0001-020304050607",
        ] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
        }
    }
}
