//! What is handed to the socket together: PDUs one after the other, their headers and what is small gathered in one
//! place, large data where it is.

use super::pdu::{self, Digests, Header};
use bytes::Bytes;
use std::io::IoSlice;

/// Data of at least so many bytes is not copied: a piece of its own costs about as much as the copy of some KiB.
const LARGE: usize = 16 * 1024;

/// PDUs on their way out.
#[derive(Debug, Default)]
pub struct Outgoing {
    small: Vec<u8>,
    /// Large data, and before which byte of `small` it belongs.
    large: Vec<(usize, Bytes)>,
    length: usize,
}

impl Outgoing {
    /// Appends a PDU without additional headers.
    pub fn put(&mut self, mut header: Header, data: &Bytes, digests: Digests) {
        let before = self.small.len();
        if data.len() < LARGE {
            pdu::put(&mut self.small, header, data, digests);
        } else {
            header.set_data_length(data.len());
            pdu::put_header(&mut self.small, &header, digests);
            self.large.push((self.small.len(), data.clone()));
            self.length += data.len();
            pdu::put_end(&mut self.small, data, digests);
        }
        self.length += self.small.len() - before;
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// There is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All of it, in order.
    #[must_use]
    pub fn pieces(&self) -> Vec<IoSlice<'_>> {
        let mut pieces = Vec::with_capacity(2 * self.large.len() + 1);
        let mut from = 0;
        for (at, data) in &self.large {
            pieces.push(IoSlice::new(&self.small[from..*at]));
            pieces.push(IoSlice::new(data));
            from = *at;
        }
        pieces.push(IoSlice::new(&self.small[from..]));
        pieces
    }

    /// Takes everything out, and keeps the room for what is small.
    pub fn clear(&mut self) {
        self.small.clear();
        self.large.clear();
        self.length = 0;
    }

    /// Gives the room back, if it is more than so many bytes.
    pub fn shrink(&mut self, room: usize) {
        if self.is_empty() && self.small.capacity() > room {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is copied and whatever is not: on the wire it is the same.
        #[test]
        fn the_bytes_are_those_of_the_pdus(
            lengths in proptest::collection::vec(prop_oneof![0_usize..50, LARGE - 3..LARGE + 3], 0..6),
            header: bool,
            data: bool,
        ) {
            let digests = Digests { header, data };
            let (mut expected, mut out) = (Vec::new(), Outgoing::default());
            for (number, length) in lengths.into_iter().enumerate() {
                let data = Bytes::from(vec![number as u8 + 1; length]);
                let header = Header::response(0x25, number as u32);
                pdu::put(&mut expected, header, &data, digests);
                out.put(header, &data, digests);
            }
            let pieces: Vec<u8> = out.pieces().iter().flat_map(|piece| piece.to_vec()).collect();
            prop_assert_eq!(out.len(), expected.len());
            prop_assert_eq!(pieces, expected);
            out.clear();
            prop_assert!(out.is_empty() && out.pieces().iter().all(|piece| piece.is_empty()));
        }
    }
}
