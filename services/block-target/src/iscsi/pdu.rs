//! Protocol data units: 48 bytes of header, sometimes more, sometimes data, sometimes checksums.
//!
//! ```text
//! | basic header 48 | additional headers 4n | header digest 0/4 | data, padded to 4 | data digest 0/4 |
//! ```
//!
//! Figures and offsets: RFC 7143, section 11.

use bytes::{Buf, Bytes, BytesMut};

/// Length of the basic header segment.
pub const BHS: usize = 48;
/// A tag that names nothing.
pub const NO_TAG: u32 = 0xffff_ffff;

/// The basic header segment: offsets are looked up by name, values are big-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header(pub [u8; BHS]);

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PDU {:#04x} flags {:#04x} tag {:#010x}",
            self.opcode(),
            self.0[1],
            self.tag()
        )
    }
}

/// What an initiator sends.
pub mod request {
    /// NOP-Out.
    pub const NOP_OUT: u8 = 0x00;
    /// SCSI Command.
    pub const SCSI_COMMAND: u8 = 0x01;
    /// Task Management Function Request.
    pub const TASK_MANAGEMENT: u8 = 0x02;
    /// Login Request.
    pub const LOGIN: u8 = 0x03;
    /// Text Request.
    pub const TEXT: u8 = 0x04;
    /// SCSI Data-Out.
    pub const DATA_OUT: u8 = 0x05;
    /// Logout Request.
    pub const LOGOUT: u8 = 0x06;
    /// SNACK Request.
    pub const SNACK: u8 = 0x10;
}

/// What a target sends.
pub mod response {
    /// NOP-In.
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response.
    pub const SCSI: u8 = 0x21;
    /// Task Management Function Response.
    pub const TASK_MANAGEMENT: u8 = 0x22;
    /// Login Response.
    pub const LOGIN: u8 = 0x23;
    /// Text Response.
    pub const TEXT: u8 = 0x24;
    /// SCSI Data-In.
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response.
    pub const LOGOUT: u8 = 0x26;
    /// Ready To Transfer.
    pub const R2T: u8 = 0x31;
    /// Asynchronous Message.
    pub const ASYNC: u8 = 0x32;
    /// Reject.
    pub const REJECT: u8 = 0x3f;
}

/// Why a PDU is rejected (11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reject {
    /// The data digest does not match.
    DataDigest = 0x02,
    /// What was sent once is not sent again (error recovery level 0).
    Snack = 0x03,
    /// Against the protocol.
    ProtocolError = 0x04,
    /// Not a thing that this target does.
    NotSupported = 0x05,
    /// More immediate commands than the target takes.
    TooManyImmediate = 0x06,
    /// A field of the PDU makes no sense.
    InvalidField = 0x09,
}

impl Header {
    /// A header of a response with the final bit set, everything else zero.
    #[must_use]
    pub fn response(opcode: u8, tag: u32) -> Self {
        let mut header = Self([0; BHS]);
        header.0[0] = opcode;
        header.0[1] = 0x80;
        header.put32(16, tag);
        header
    }

    /// Operation code, without the immediate bit.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// For immediate delivery.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// The final bit (transit, in a login).
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// Initiator task tag.
    #[must_use]
    pub fn tag(&self) -> u32 {
        self.get32(16)
    }

    /// Logical unit number, eight bytes as SAM has them.
    #[must_use]
    pub fn lun(&self) -> [u8; 8] {
        self.0[8..16].try_into().expect("eight bytes")
    }

    /// Length of the data segment without padding.
    #[must_use]
    pub fn data_length(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// Length of the additional header segments in bytes.
    #[must_use]
    pub fn additional_length(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Sets the length of the data segment.
    pub fn set_data_length(&mut self, length: usize) {
        debug_assert!(length < 1 << 24, "a data segment has 24 bits of length");
        self.0[5..8].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    }

    /// A 16 bit field.
    #[must_use]
    pub fn get16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// A 32 bit field.
    #[must_use]
    pub fn get32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    /// Sets a 16 bit field.
    pub fn put16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets a 32 bit field.
    pub fn put32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}

/// A PDU that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu {
    /// Basic header.
    pub header: Header,
    /// Additional headers.
    pub additional: Bytes,
    /// Data, without padding.
    pub data: Bytes,
}

/// Which checksums are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// CRC32C over the headers.
    pub header: bool,
    /// CRC32C over the data.
    pub data: bool,
}

/// Why the stream cannot be followed any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Where the next PDU begins is unknown.
    #[error("header digest {found:#010x} instead of {expected:#010x}")]
    HeaderDigest {
        /// What was computed.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// The PDU is dropped; the next one can be taken.
    #[error("data digest {found:#010x} instead of {expected:#010x} in {header:?}")]
    DataDigest {
        /// The PDU's header.
        header: Box<Header>,
        /// What was computed.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// More than was declared acceptable.
    #[error("{found} bytes of data in one PDU; at most {limit} were agreed")]
    TooLong {
        /// What the header says.
        found: usize,
        /// What was declared.
        limit: usize,
    },
}

/// Takes the next PDU from the front of `buffer`; `None`: more bytes are needed. `limit` is the longest data
/// segment that this end has declared; what is longer is refused before there is room for it.
///
/// # Errors
/// [`Broken`]: the connection has to end, except after [`Broken::DataDigest`].
pub fn take(buffer: &mut BytesMut, digests: Digests, limit: usize) -> Result<Option<Pdu>, Broken> {
    let Some(bytes) = buffer.first_chunk::<BHS>() else {
        return Ok(None);
    };
    let header = Header(*bytes);
    let length = header.data_length();
    if length > limit {
        return Err(Broken::TooLong { found: length, limit });
    }
    let headers = BHS + header.additional_length();
    let headers_end = headers + if digests.header { 4 } else { 0 };
    let data_end = headers_end + length.next_multiple_of(4);
    let end = data_end + if digests.data && length > 0 { 4 } else { 0 };
    if digests.header && buffer.len() >= headers_end {
        let (expected, found) = (crc32c::crc32c(&buffer[..headers]), le32(&buffer[headers..]));
        if expected != found {
            return Err(Broken::HeaderDigest { expected, found });
        }
    }
    if buffer.len() < end {
        buffer.reserve(end - buffer.len());
        return Ok(None);
    }
    if digests.data && length > 0 {
        let (expected, found) = (
            crc32c::crc32c(&buffer[headers_end..data_end]),
            le32(&buffer[data_end..]),
        );
        if expected != found {
            buffer.advance(end);
            return Err(Broken::DataDigest {
                header: Box::new(header),
                expected,
                found,
            });
        }
    }
    let pdu = buffer.split_to(end).freeze();
    Ok(Some(Pdu {
        header,
        additional: pdu.slice(BHS..headers),
        data: pdu.slice(headers_end..headers_end + length),
    }))
}

/// Digests travel in the byte order of the checksum's own definition: least significant first.
fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// Appends a PDU without additional headers to `out`.
pub fn put(out: &mut Vec<u8>, mut header: Header, data: &[u8], digests: Digests) {
    header.set_data_length(data.len());
    put_header(out, &header, digests);
    out.extend_from_slice(data);
    put_end(out, data, digests);
}

/// Appends what stands before the data.
pub(super) fn put_header(out: &mut Vec<u8>, header: &Header, digests: Digests) {
    out.extend_from_slice(&header.0);
    if digests.header {
        out.extend_from_slice(&crc32c::crc32c(&header.0).to_le_bytes());
    }
}

/// Appends what stands behind the data: padding, and the digest of both.
pub(super) fn put_end(out: &mut Vec<u8>, data: &[u8], digests: Digests) {
    let padding = &[0; 3][..data.len().next_multiple_of(4) - data.len()];
    out.extend_from_slice(padding);
    if digests.data && !data.is_empty() {
        let sum = crc32c::crc32c_append(crc32c::crc32c(data), padding);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_pdu_or_short_or_broken(bytes: Vec<u8>, header: bool, data: bool) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = take(&mut buffer, Digests { header, data }, 8192);
        }

        #[test]
        fn what_is_put_is_taken(first: [u8; BHS], data: Vec<u8>, header: bool, sums: bool, tail: Vec<u8>) {
            let digests = Digests { header, data: sums };
            let mut sent = Header(first);
            sent.0[4] = 0;
            let mut out = Vec::new();
            put(&mut out, sent, &data, digests);
            let whole = out.len();
            prop_assert_eq!(whole % 4, 0);
            for cut in [0, BHS - 1, whole - 1] {
                let mut short = BytesMut::from(&out[..cut]);
                prop_assert_eq!(take(&mut short, digests, 1 << 20), Ok(None));
            }
            out.extend_from_slice(&tail);
            let mut buffer = BytesMut::from(&out[..]);
            let pdu = take(&mut buffer, digests, 1 << 20).expect("sound").expect("whole");
            prop_assert_eq!(&pdu.data[..], &data[..]);
            prop_assert_eq!(&buffer[..], &tail[..]);
        }

        #[test]
        fn a_flipped_bit_is_noticed(data in proptest::collection::vec(any::<u8>(), 1..100), at: prop::sample::Index) {
            let digests = Digests { header: true, data: true };
            let mut out = Vec::new();
            put(&mut out, Header::response(0x25, 1), &data, digests);
            let at = at.index(out.len() * 8);
            out[at / 8] ^= 1 << (at % 8);
            let mut buffer = BytesMut::from(&out[..]);
            // A longer length may ask for bytes that are not there; nothing else passes.
            prop_assert!(!matches!(take(&mut buffer, digests, 1 << 24), Ok(Some(_))));
        }
    }
}
