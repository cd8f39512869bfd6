//! Command descriptor blocks: sixteen bytes from a stranger, turned into a [`Command`] or a reason why not.

use super::opcodes;
use super::reservation::{In, Parameters};
use super::sense::Sense;

/// A decoded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// TEST UNIT READY.
    TestUnitReady,
    /// REQUEST SENSE, fixed format.
    RequestSense {
        /// Allocation length.
        allocation: u32,
    },
    /// INQUIRY.
    Inquiry {
        /// Page of vital product data, or the standard data.
        page: Option<u8>,
        /// Allocation length.
        allocation: u32,
    },
    /// MODE SENSE(6) or (10).
    ModeSense {
        /// The ten byte form: its header is another.
        ten: bool,
        /// No block descriptor.
        no_block_descriptor: bool,
        /// The long block descriptor is accepted.
        long_lba: bool,
        /// Which values: 0 current, 1 changeable, 2 default, 3 saved.
        control: u8,
        /// Page code.
        page: u8,
        /// Subpage code.
        subpage: u8,
        /// Allocation length.
        allocation: u32,
    },
    /// START STOP UNIT that starts; a shared volume cannot be stopped by a host.
    StartUnit,
    /// REPORT LUNS.
    ReportLuns {
        /// Which ones.
        select: u8,
        /// Allocation length.
        allocation: u32,
    },
    /// READ CAPACITY(10).
    ReadCapacity10,
    /// READ CAPACITY(16).
    ReadCapacity16 {
        /// Allocation length.
        allocation: u32,
    },
    /// GET LBA STATUS.
    GetLbaStatus {
        /// First block.
        lba: u64,
        /// Allocation length.
        allocation: u32,
    },
    /// READ.
    Read {
        /// Which blocks.
        extent: Extent,
    },
    /// WRITE.
    Write {
        /// Which blocks.
        extent: Extent,
        /// Force unit access.
        fua: bool,
    },
    /// VERIFY, or WRITE AND VERIFY.
    Verify {
        /// Which blocks.
        extent: Extent,
        /// How.
        check: Check,
        /// Write first.
        write: bool,
    },
    /// SYNCHRONIZE CACHE.
    SynchronizeCache {
        /// Which blocks (all are written; the range is only checked).
        extent: Extent,
    },
    /// UNMAP.
    Unmap {
        /// Length of the parameter list.
        parameters: u32,
    },
    /// WRITE SAME.
    WriteSame {
        /// Which blocks.
        extent: Extent,
        /// Deallocate instead, where the data is zero.
        unmap: bool,
        /// No data comes: zeros.
        no_data: bool,
    },
    /// ORWRITE(16), the basic kind.
    OrWrite {
        /// Which blocks.
        extent: Extent,
    },
    /// PRE-FETCH. There is no cache to read into; the range is checked.
    Prefetch {
        /// Which blocks; none: up to the end.
        extent: Extent,
    },
    /// COMPARE AND WRITE.
    CompareAndWrite {
        /// Which blocks.
        extent: Extent,
        /// Force unit access.
        fua: bool,
    },
    /// REPORT TARGET PORT GROUPS.
    ReportTargetPortGroups {
        /// With the extended header.
        extended: bool,
        /// Allocation length.
        allocation: u32,
    },
    /// PERSISTENT RESERVE IN.
    PersistentReserveIn {
        /// What is asked.
        what: In,
        /// Allocation length.
        allocation: u32,
    },
    /// PERSISTENT RESERVE OUT.
    PersistentReserveOut(Parameters),
    /// RESERVE(6).
    Reserve6,
    /// RELEASE(6).
    Release6,
    /// REPORT SUPPORTED OPERATION CODES.
    ReportSupportedOpcodes {
        /// With command timeouts.
        timeouts: bool,
        /// Which ones.
        which: WhichOpcodes,
        /// Allocation length.
        allocation: u32,
    },
}

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

/// How VERIFY checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The medium can be read.
    Medium,
    /// It equals the data.
    Data,
    /// Each block equals the one block of data.
    OneBlock,
}

/// Which commands to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhichOpcodes {
    /// All.
    All,
    /// One without service actions.
    Code(u8),
    /// One service action.
    Action(u8, u16),
    /// One, with its service action if it has them.
    Either(u8, u16),
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// Whether a command exists only in service actions, and this one is not among them.
fn unknown_action(cdb: &[u8; 16]) -> bool {
    let mut ops = opcodes::of_code(cdb[0]).peekable();
    ops.peek().is_some_and(|op| op.action.is_some())
        && !ops.any(|op| op.action == Some(opcodes::action_of(cdb)))
}

impl Command {
    /// Decodes a CDB. Bytes beyond the command's own length are not looked at.
    ///
    /// # Errors
    /// The sense data to answer: no such command, or a field that is not supported.
    pub fn decode(cdb: &[u8; 16]) -> Result<Self, Sense> {
        if opcodes::of_code(cdb[0]).next().is_none() {
            return Err(Sense::INVALID_OPCODE);
        }
        if unknown_action(cdb) {
            return Err(Sense::invalid_field(1));
        }
        let length = opcodes::of_code(cdb[0]).next().map_or(6, |op| op.usage.len());
        // NACA asks for auto contingent allegiance, which NORMACA=0 says there is none of.
        if cdb[length - 1] & 0x04 != 0 {
            return Err(Sense::invalid_field(length as u16 - 1));
        }
        let extent = match length {
            6 => {
                let blocks = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
                Extent {
                    lba: u64::from(be32(cdb, 0) & 0x001f_ffff),
                    blocks,
                }
            }
            10 => Extent {
                lba: be32(cdb, 2).into(),
                blocks: be16(cdb, 7).into(),
            },
            12 => Extent {
                lba: be32(cdb, 2).into(),
                blocks: be32(cdb, 6),
            },
            _ => Extent {
                lba: be64(cdb, 2),
                blocks: be32(cdb, 10),
            },
        };
        // No protection information is kept, so a command may not ask for it.
        let protect = if cdb[1] & 0xe0 == 0 {
            Ok(())
        } else {
            Err(Sense::invalid_field(1))
        };
        let fua = cdb[1] & 0x08 != 0;
        Ok(match cdb[0] {
            0x00 => Self::TestUnitReady,
            0x03 if cdb[1] & 1 != 0 => return Err(Sense::invalid_field(1)),
            0x03 => Self::RequestSense {
                allocation: cdb[4].into(),
            },
            0x08 => Self::Read { extent },
            0x0a => Self::Write { extent, fua: false },
            0x12 => {
                let evpd = cdb[1] & 1 != 0;
                // CMDDT (bit 1) is obsolete; a page code without EVPD means nothing.
                if cdb[1] & 2 != 0 || !evpd && cdb[2] != 0 {
                    return Err(Sense::invalid_field(if evpd || cdb[1] & 2 != 0 { 1 } else { 2 }));
                }
                Self::Inquiry {
                    page: evpd.then_some(cdb[2]),
                    allocation: be16(cdb, 3).into(),
                }
            }
            0x1a | 0x5a => Self::ModeSense {
                ten: cdb[0] == 0x5a,
                no_block_descriptor: cdb[1] & 0x08 != 0,
                long_lba: cdb[0] == 0x5a && cdb[1] & 0x10 != 0,
                control: cdb[2] >> 6,
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                allocation: if cdb[0] == 0x5a {
                    be16(cdb, 7).into()
                } else {
                    cdb[4].into()
                },
            },
            // EXTENT and third party reservations (bits 4 and 0) are obsolete.
            0x16 | 0x17 if cdb[1] & 0x11 != 0 => return Err(Sense::invalid_field(1)),
            0x16 => Self::Reserve6,
            0x17 => Self::Release6,
            0x1b => {
                // Power conditions, eject and stop are not for one of many hosts to decide.
                let starts = cdb[4] & 0x01 != 0 && cdb[4] & 0x02 == 0;
                match cdb[4] & 0xf0 == 0 && starts {
                    true => Self::StartUnit,
                    false => return Err(Sense::invalid_field(4)),
                }
            }
            0x25 if cdb[8] & 1 == 0 && extent.lba != 0 => return Err(Sense::invalid_field(2)),
            0x25 if cdb[8] & 1 != 0 => return Err(Sense::invalid_field(8)),
            0x25 => Self::ReadCapacity10,
            0x28 | 0x88 | 0xa8 => protect.map(|()| Self::Read { extent })?,
            0x2a | 0x8a | 0xaa => protect.map(|()| Self::Write { extent, fua })?,
            0x2e | 0x2f | 0x8e | 0x8f | 0xae | 0xaf => {
                protect?;
                let write = cdb[0] & 0x0f == 0x0e;
                let check = match cdb[1] >> 1 & 3 {
                    0 => Check::Medium,
                    1 => Check::Data,
                    3 if !write => Check::OneBlock,
                    _ => return Err(Sense::invalid_field(1)),
                };
                Self::Verify { extent, check, write }
            }
            0x8b => protect.map(|()| Self::OrWrite { extent })?,
            0x34 | 0x90 => Self::Prefetch { extent },
            0x35 | 0x91 => Self::SynchronizeCache { extent },
            0x41 | 0x93 => {
                protect?;
                // ANCHOR: there are no anchored blocks.
                if cdb[1] & 0x10 != 0 {
                    return Err(Sense::invalid_field(1));
                }
                let no_data = cdb[0] == 0x93 && cdb[1] & 1 != 0;
                Self::WriteSame {
                    extent,
                    unmap: cdb[1] & 0x08 != 0,
                    no_data,
                }
            }
            0x42 if cdb[1] & 1 != 0 => return Err(Sense::invalid_field(1)),
            0x42 => Self::Unmap {
                parameters: be16(cdb, 7).into(),
            },
            0x5e => Self::PersistentReserveIn {
                what: match opcodes::action_of(cdb) {
                    0 => In::Keys,
                    1 => In::Reservation,
                    2 => In::Capabilities,
                    _ => In::FullStatus,
                },
                allocation: be16(cdb, 7).into(),
            },
            0x5f => Self::PersistentReserveOut(Parameters {
                action: cdb[1] & 0x1f,
                scope_and_type: cdb[2],
                length: be32(cdb, 5),
            }),
            0x89 => {
                protect?;
                let extent = Extent {
                    lba: be64(cdb, 2),
                    blocks: cdb[13].into(),
                };
                Self::CompareAndWrite { extent, fua }
            }
            0x9e if opcodes::action_of(cdb) == 0x10 => Self::ReadCapacity16 {
                allocation: be32(cdb, 10),
            },
            0x9e => Self::GetLbaStatus {
                lba: be64(cdb, 2),
                allocation: be32(cdb, 10),
            },
            0xa0 => Self::ReportLuns {
                select: cdb[2],
                allocation: be32(cdb, 6),
            },
            0xa3 if opcodes::action_of(cdb) == 0x0a => match cdb[1] >> 5 {
                format @ (0 | 1) => Self::ReportTargetPortGroups {
                    extended: format == 1,
                    allocation: be32(cdb, 6),
                },
                _ => return Err(Sense::invalid_field(1)),
            },
            0xa3 => {
                let (code, action) = (cdb[3], be16(cdb, 4));
                let which = match cdb[2] & 7 {
                    0 => WhichOpcodes::All,
                    1 => WhichOpcodes::Code(code),
                    2 => WhichOpcodes::Action(code, action),
                    3 => WhichOpcodes::Either(code, action),
                    _ => return Err(Sense::invalid_field(2)),
                };
                Self::ReportSupportedOpcodes {
                    timeouts: cdb[2] & 0x80 != 0,
                    which,
                    allocation: be32(cdb, 6),
                }
            }
            _ => return Err(Sense::INVALID_OPCODE),
        })
    }

    /// Bytes that the host has to send, for a volume with this block size.
    #[must_use]
    pub fn data_out(&self, block_size: u32) -> u64 {
        let block = u64::from(block_size);
        match self {
            Self::Write { extent, .. }
            | Self::OrWrite { extent }
            | Self::Verify {
                extent, write: true, ..
            } => u64::from(extent.blocks) * block,
            Self::Verify { extent, check, .. } => match check {
                Check::Medium => 0,
                Check::Data => u64::from(extent.blocks) * block,
                Check::OneBlock if extent.blocks == 0 => 0,
                Check::OneBlock => block,
            },
            Self::WriteSame { no_data, .. } if *no_data => 0,
            Self::WriteSame { .. } => block,
            Self::CompareAndWrite { extent, .. } => 2 * u64::from(extent.blocks) * block,
            Self::Unmap { parameters } => u64::from(*parameters),
            Self::PersistentReserveOut(parameters) => parameters.length.into(),
            _ => 0,
        }
    }

    /// Whether it is done with exactly the data that it needs, or not at all: with more or less than the host announces,
    /// the two do not mean the same command.
    #[must_use]
    pub fn takes_exactly(&self) -> bool {
        matches!(self, Self::CompareAndWrite { .. } | Self::WriteSame { .. })
    }

    /// The command block of a command that is for the owner of the volume to answer.
    #[must_use]
    pub fn question(&self) -> Option<[u8; 16]> {
        let mut cdb = [0; 16];
        match self {
            Self::PersistentReserveIn { what, allocation } => {
                let action = match what {
                    In::Keys => 0,
                    In::Reservation => 1,
                    In::Capabilities => 2,
                    In::FullStatus => 3,
                };
                cdb[..2].copy_from_slice(&[0x5e, action]);
                cdb[7..9].copy_from_slice(&(*allocation as u16).to_be_bytes());
            }
            Self::PersistentReserveOut(parameters) => {
                cdb[..3].copy_from_slice(&[0x5f, parameters.action, parameters.scope_and_type]);
                cdb[5..9].copy_from_slice(&parameters.length.to_be_bytes());
            }
            Self::Reserve6 => cdb[0] = 0x16,
            Self::Release6 => cdb[0] = 0x17,
            _ => return None,
        }
        Some(cdb)
    }

    /// A command block that reservations look at like this command, for one that is done without a look at the medium.
    /// `None`: it is answered whatever is reserved, or begins with an operation on the medium.
    #[must_use]
    pub fn to_be_let_in(&self) -> Option<[u8; 16]> {
        let mut cdb = [0; 16];
        match self {
            Self::TestUnitReady | Self::StartUnit => {}
            Self::ReadCapacity10 | Self::ReadCapacity16 { .. } => cdb[0] = 0x25,
            Self::GetLbaStatus { .. } => cdb[..2].copy_from_slice(&[0x9e, 0x12]),
            Self::ModeSense { .. } => cdb[0] = 0x1a,
            Self::Prefetch { .. } => cdb[0] = 0x34,
            Self::Read { extent } if extent.blocks == 0 => cdb[0] = 0x28,
            Self::Verify { extent, write, .. } if extent.blocks == 0 => {
                cdb[0] = if *write { 0x2e } else { 0x2f }
            }
            Self::Write { extent, .. } | Self::OrWrite { extent } | Self::CompareAndWrite { extent, .. }
                if extent.blocks == 0 =>
            {
                cdb[0] = 0x2a;
            }
            Self::Unmap { parameters: 0 } => cdb[0] = 0x42,
            _ => return None,
        }
        Some(cdb)
    }

    /// Blocks that it touches, to be checked against the size of the volume.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Self::Read { extent }
            | Self::Write { extent, .. }
            | Self::Verify { extent, .. }
            | Self::SynchronizeCache { extent }
            | Self::OrWrite { extent }
            | Self::Prefetch { extent }
            | Self::WriteSame { extent, .. }
            | Self::CompareAndWrite { extent, .. } => Some(*extent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sixteen_bytes_decode_or_are_refused(cdb: [u8; 16]) {
            let known = opcodes::of_code(cdb[0]).next().is_some();
            match Command::decode(&cdb) {
                Ok(command) => {
                    prop_assert!(known);
                    prop_assert!(command.data_out(4096) <= 2 * 4096 * u64::from(u32::MAX));
                }
                Err(sense) => prop_assert_eq!(sense == Sense::INVALID_OPCODE, !known),
            }
        }
    }

    #[test]
    fn each_command_of_the_table_decodes() {
        for op in opcodes::TABLE {
            let mut cdb = [0; 16];
            cdb[0] = op.code;
            cdb[1] = op.action.unwrap_or(0) as u8;
            cdb[4] = u8::from(op.code == 0x1b);
            assert!(Command::decode(&cdb).is_ok(), "{:#04x}", op.code);
        }
    }

    #[test]
    fn the_six_byte_form_has_21_bits_of_lba_and_zero_means_256() {
        let mut cdb = [0; 16];
        cdb[..6].copy_from_slice(&[0x08, 0xff, 0xff, 0xfe, 0, 0]);
        let Ok(Command::Read { extent }) = Command::decode(&cdb) else {
            panic!("a read")
        };
        assert_eq!(
            extent,
            Extent {
                lba: 0x1f_fffe,
                blocks: 256
            }
        );
    }
}
