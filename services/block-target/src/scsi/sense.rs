//! Sense data: why a command was not done, in the host's own vocabulary (SPC-4, 4.5 and annex D).

/// Sense key, additional code and qualifier, and what some of them carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sense {
    key: u8,
    code: u16,
    /// INFORMATION field, valid if present (miscompare: offset; out of range: the LBA).
    information: Option<u32>,
    /// Sense-key specific bytes: where in the CDB (`true`) or the data (`false`) the wrong field begins.
    field: Option<(bool, u16)>,
}

macro_rules! senses {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $code:literal;)*) => {
        impl Sense {
            $($(#[$doc])* pub const $name: Self =
                Self { key: $key, code: $code, information: None, field: None };)*
        }
    };
}

senses! {
    /// Nothing to report.
    NONE = 0x0, 0x0000;
    /// It cannot work now, for a reason that is not told.
    NOT_READY = 0x2, 0x0400;
    /// The asymmetric access state of this port is changing.
    PORT_TRANSITION = 0x2, 0x040a;
    /// This port is in standby.
    PORT_STANDBY = 0x2, 0x040b;
    /// This port has no way to the owner of the volume.
    PORT_UNAVAILABLE = 0x2, 0x040c;
    /// Every copy of the medium failed to read.
    UNRECOVERED_READ = 0x3, 0x1100;
    /// Every copy of the medium failed to write.
    WRITE_ERROR = 0x3, 0x0c00;
    /// The host's transfer length is too short for the data that the command needs.
    INVALID_FIELD_IN_INFORMATION_UNIT = 0x5, 0x0e03;
    /// No such command.
    INVALID_OPCODE = 0x5, 0x2000;
    /// Beyond the last block.
    LBA_OUT_OF_RANGE = 0x5, 0x2100;
    /// A field of the CDB has a value that is not supported.
    INVALID_FIELD_IN_CDB = 0x5, 0x2400;
    /// No such logical unit for this host.
    LUN_NOT_SUPPORTED = 0x5, 0x2500;
    /// The parameter list is shorter than it says, or than it must be.
    PARAMETER_LIST_LENGTH = 0x5, 0x1a00;
    /// A field of the parameter list has a value that is not supported.
    INVALID_FIELD_IN_PARAMETERS = 0x5, 0x2600;
    /// RELEASE of another scope or type than the reservation has.
    INVALID_RELEASE = 0x5, 0x2604;
    /// There are no saved mode pages.
    SAVING_NOT_SUPPORTED = 0x5, 0x3900;
    /// No room for one more registration.
    INSUFFICIENT_REGISTRATIONS = 0x5, 0x5504;
    /// A task attribute that is not supported (SAM-5, 8.6).
    INVALID_MESSAGE = 0x5, 0x4900;
    /// The target was reset by a host.
    RESET_OCCURRED = 0x6, 0x2903;
    /// The medium is write-protected.
    WRITE_PROTECTED = 0x7, 0x2700;
    /// The pool has no space for a block that is written for the first time. Nothing was written.
    SPACE_ALLOCATION_FAILED = 0x7, 0x2707;
    /// The pool has less free space than its soft threshold says.
    SOFT_THRESHOLD_REACHED = 0x6, 0x3807;
    /// A mode page says something else than before.
    MODE_PARAMETERS_CHANGED = 0x6, 0x2a01;
    /// The volume has another kind of space than before.
    INQUIRY_DATA_CHANGED = 0x6, 0x3f03;
    /// Another nexus has preempted or cleared the reservation.
    RESERVATIONS_PREEMPTED = 0x6, 0x2a03;
    /// The reservation that a registered nexus had to do with was released.
    RESERVATIONS_RELEASED = 0x6, 0x2a04;
    /// Another nexus has removed the registration.
    REGISTRATIONS_PREEMPTED = 0x6, 0x2a05;
    /// Another host has cleared the task set, commands of this one with it.
    COMMANDS_CLEARED = 0x6, 0x2f00;
    /// The asymmetric access state has changed.
    ACCESS_STATE_CHANGED = 0x6, 0x2a06;
    /// The volume has another size.
    CAPACITY_CHANGED = 0x6, 0x2a09;
    /// The host sees other logical units than before.
    LUNS_CHANGED = 0x6, 0x3f0e;
    /// Nobody knows whether it was done.
    IN_DOUBT = 0xb, 0x0800;
    /// A data digest was wrong (RFC 7143, 11.4.7.2: protocol service CRC error).
    DATA_DIGEST = 0xb, 0x4705;
    /// The backing has gone.
    TARGET_FAILURE = 0xb, 0x4400;
    /// Compare found other data.
    MISCOMPARE = 0xe, 0x1d00;
}

/// Length of fixed format sense data as it is sent here.
pub const FIXED_LEN: usize = 18;

impl Sense {
    /// Sense key.
    #[must_use]
    pub const fn key(&self) -> u8 {
        self.key
    }

    /// Additional sense code and qualifier, as one number.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// With the INFORMATION field; a value that does not fit leaves it invalid, as fixed format demands.
    #[must_use]
    pub fn with_information(self, value: u64) -> Self {
        Self {
            information: u32::try_from(value).ok(),
            ..self
        }
    }

    /// INVALID FIELD IN CDB that points at byte `at`.
    #[must_use]
    pub const fn invalid_field(at: u16) -> Self {
        Self {
            field: Some((true, at)),
            ..Self::INVALID_FIELD_IN_CDB
        }
    }

    /// INVALID FIELD IN PARAMETER LIST that points at byte `at`.
    #[must_use]
    pub const fn invalid_parameter(at: u16) -> Self {
        Self {
            field: Some((false, at)),
            ..Self::INVALID_FIELD_IN_PARAMETERS
        }
    }

    /// The inverse of [`to_fixed`](Self::to_fixed): what the owner of a volume has sent. `None`: not of that form.
    #[must_use]
    pub fn from_fixed(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; FIXED_LEN] = bytes.try_into().ok()?;
        if bytes[0] & 0x7f != 0x70 {
            return None;
        }
        let word = u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]);
        let field = u16::from_be_bytes([bytes[16], bytes[17]]);
        Some(Self {
            key: bytes[2] & 0x0f,
            code: u16::from_be_bytes([bytes[12], bytes[13]]),
            information: (bytes[0] & 0x80 != 0).then_some(word),
            field: (bytes[15] & 0x80 != 0).then_some((bytes[15] & 0x40 != 0, field)),
        })
    }

    /// Fixed format, current (response code 70h).
    #[must_use]
    pub fn to_fixed(&self) -> [u8; FIXED_LEN] {
        let mut bytes = [0; FIXED_LEN];
        bytes[0] = 0x70;
        if let Some(information) = self.information {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[2] = self.key;
        bytes[7] = (FIXED_LEN - 8) as u8;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some((in_cdb, at)) = self.field {
            bytes[15] = 0x80 | if in_cdb { 0x40 } else { 0 };
            bytes[16..18].copy_from_slice(&at.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_comes_back() {
        for sense in [
            Sense::ACCESS_STATE_CHANGED,
            Sense::MISCOMPARE.with_information(0x1234_5678),
            Sense::invalid_field(300),
            Sense::invalid_parameter(24),
        ] {
            assert_eq!(Sense::from_fixed(&sense.to_fixed()), Some(sense));
        }
        assert_eq!(Sense::from_fixed(&[0x72; FIXED_LEN]), None, "descriptor format");
        assert_eq!(Sense::from_fixed(b"in words"), None);
    }
}
