//! Collecting the data of one write: what comes with the command, what comes unasked, what is asked for.
//!
//! Data comes in order (DataPDUInOrder, DataSequenceInOrder), so the state is a position and the bursts that are under
//! way: an unsolicited one, or as many that were asked for as MaxOutstandingR2T allows, the first of which is next.

use super::keys::Parameters;
use super::pdu::{Header, NO_TAG};
use bytes::Bytes;
use std::collections::VecDeque;

/// Against the protocol; the connection ends, as error recovery level 0 has no finer means.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Data that was not agreed to.
    #[error("{length} bytes of data at {offset}, where the burst goes from {from} to {to}")]
    Outside {
        /// Where the data says it belongs.
        offset: u64,
        /// How much it is.
        length: u64,
        /// What has come so far.
        from: u64,
        /// Where the burst ends.
        to: u64,
    },
    /// A Data-Out is missing or came twice.
    #[error("DataSN {found} where {expected} follows")]
    Sequence {
        /// What follows.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// The burst ended too early.
    #[error("the last Data-Out of a burst ends at {at}, the burst at {end}")]
    Short {
        /// Where the data ended.
        at: u64,
        /// Where it had to end.
        end: u64,
    },
    /// Not the tag that is outstanding.
    #[error("target transfer tag {found:#x} where {expected:#x} is outstanding")]
    Tag {
        /// What is outstanding.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// Nothing was asked for.
    #[error("data that was not asked for")]
    Unexpected,
}

/// A burst under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    tag: u32,
    end: u64,
    /// An unsolicited burst may be shorter than it might be.
    may_be_short: bool,
    next_data_sn: u32,
}

/// A request for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Target transfer tag.
    pub tag: u32,
    /// Number of this request within the command.
    pub number: u32,
    /// Where the data begins.
    pub offset: u32,
    /// How much.
    pub length: u32,
}

/// The data of one command.
#[derive(Debug)]
pub struct Transfer {
    /// Bytes that the command needs, no more than the host will send.
    wanted: u64,
    received: u64,
    /// Up to where data was asked for.
    asked: u64,
    data: Vec<u8>,
    /// What came with the command, while it is all there is.
    whole: Option<Bytes>,
    bursts: VecDeque<Burst>,
    requests: u32,
    /// A part of it was damaged on the way: no more is asked for.
    damaged: bool,
}

impl Transfer {
    /// A command that will send `expected` bytes, needs `wanted` of them, and came with `immediate`; `more`: it is
    /// followed by unsolicited data.
    ///
    /// # Errors
    /// [`Violation`] where the command sends what was not agreed.
    pub fn begin(
        p: &Parameters,
        expected: u32,
        wanted: u64,
        immediate: Bytes,
        more: bool,
    ) -> Result<Self, Violation> {
        let limit = u64::from(p.first_burst.min(expected));
        let length = immediate.len() as u64;
        if length > 0 && !p.immediate_data || more && p.initial_r2t {
            return Err(Violation::Unexpected);
        }
        if length > limit {
            return Err(Violation::Outside {
                offset: 0,
                length,
                from: 0,
                to: limit,
            });
        }
        let burst = more.then_some(Burst {
            tag: NO_TAG,
            end: limit,
            may_be_short: true,
            next_data_sn: 0,
        });
        let wanted = wanted.min(expected.into());
        let mut transfer = Self {
            wanted,
            received: length,
            asked: 0,
            data: Vec::new(),
            whole: None,
            bursts: burst.into_iter().collect(),
            requests: 0,
            damaged: false,
        };
        if length >= wanted {
            transfer.whole = Some(immediate.slice(..wanted as usize));
        } else {
            transfer.data.extend_from_slice(&immediate);
        }
        Ok(transfer)
    }

    /// Bytes that have to be asked for before the command can run.
    #[must_use]
    pub fn missing(&self) -> u64 {
        match self.damaged {
            true => 0,
            false => self.wanted.saturating_sub(self.received),
        }
    }

    /// No burst is under way: either all is here, or the next part has to be asked for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.bursts.is_empty()
    }

    /// The data is not what the host has sent.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Takes a Data-Out. True: the burst is complete.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn data_out(&mut self, header: &Header, data: &[u8]) -> Result<bool, Violation> {
        let end = self.advance(header, data.len())?;
        if self.whole.is_none() {
            let room = (self.wanted as usize).saturating_sub(self.data.len());
            self.data.extend_from_slice(&data[..data.len().min(room)]);
        }
        Ok(end)
    }

    /// Takes a Data-Out whose data did not arrive whole. True: the burst is complete.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn damaged(&mut self, header: &Header) -> Result<bool, Violation> {
        self.damaged = true;
        self.advance(header, header.data_length())
    }

    fn advance(&mut self, header: &Header, length: usize) -> Result<bool, Violation> {
        let burst = self.bursts.front_mut().ok_or(Violation::Unexpected)?;
        let (tag, number) = (header.get32(20), header.get32(36));
        let (offset, length) = (u64::from(header.get32(40)), length as u64);
        if tag != burst.tag {
            return Err(Violation::Tag {
                expected: burst.tag,
                found: tag,
            });
        }
        if number != burst.next_data_sn {
            return Err(Violation::Sequence {
                expected: burst.next_data_sn,
                found: number,
            });
        }
        if offset != self.received || offset + length > burst.end {
            return Err(Violation::Outside {
                offset,
                length,
                from: self.received,
                to: burst.end,
            });
        }
        burst.next_data_sn = burst.next_data_sn.wrapping_add(1);
        self.received += length;
        let (full, ends) = (self.received == burst.end, header.is_final());
        if ends && !full && !burst.may_be_short {
            return Err(Violation::Short {
                at: self.received,
                end: burst.end,
            });
        }
        if full && !ends && !burst.may_be_short {
            // All that was asked for is here, and yet more is announced.
            return Err(Violation::Outside {
                offset: burst.end,
                length: 0,
                from: burst.end,
                to: burst.end,
            });
        }
        if ends {
            self.bursts.pop_front();
        }
        Ok(ends)
    }

    /// Asks for the next part under `tag`; `None`: everything was asked for, or enough is under way.
    pub fn request(&mut self, p: &Parameters, tag: u32) -> Option<Request> {
        let unsolicited = self.bursts.front().is_some_and(|burst| burst.may_be_short);
        if unsolicited || self.damaged || self.bursts.len() >= p.outstanding_r2t as usize {
            return None;
        }
        let from = self.asked.max(self.received);
        let length = self.wanted.saturating_sub(from).min(p.max_burst.into());
        if length == 0 {
            return None;
        }
        if self.requests == 0 {
            self.data
                .reserve_exact((self.wanted as usize).saturating_sub(self.data.len()));
        }
        self.asked = from + length;
        self.bursts.push_back(Burst {
            tag,
            end: self.asked,
            may_be_short: false,
            next_data_sn: 0,
        });
        let number = self.requests;
        self.requests += 1;
        Some(Request {
            tag,
            number,
            offset: from as u32,
            length: length as u32,
        })
    }

    /// The data, once nothing is missing.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.whole.unwrap_or_else(|| self.data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data_out(tag: u32, number: u32, offset: u64, last: bool) -> Header {
        let mut header = Header([0; 48]);
        header.0[0] = 5;
        header.0[1] = if last { 0x80 } else { 0 };
        header.put32(20, tag);
        header.put32(36, number);
        header.put32(40, offset as u32);
        header
    }

    proptest! {
        /// A well-behaved host, whatever was negotiated: what arrives is what was sent.
        #[test]
        fn all_data_arrives(
            data in proptest::collection::vec(any::<u8>(), 0..20_000),
            extra in 0_u32..600,
            immediate in 0_usize..5000,
            unsolicited in 0_usize..5000,
            first_burst in 512_u32..4096,
            max_burst in 512_u32..4096,
            segment in 1_usize..3000,
            outstanding_r2t in 1_u32..5,
        ) {
            let p = Parameters { initial_r2t: false, first_burst, max_burst, outstanding_r2t, ..Parameters::default() };
            let expected = data.len() as u32 + extra;
            let mut sent = data.clone();
            sent.resize(expected as usize, 0xee);
            let first = immediate.min(first_burst as usize).min(sent.len());
            let second = (first + unsolicited).min(first_burst as usize).min(sent.len());
            let more = second > first;
            let now = Bytes::copy_from_slice(&sent[..first]);
            let mut transfer = Transfer::begin(&p, expected, data.len() as u64, now, more).expect("agreed");
            let send = |transfer: &mut Transfer, tag, from: usize, to: usize| {
                let mut at = from;
                let mut number = 0;
                loop {
                    let end = (at + segment).min(to);
                    let header = data_out(tag, number, at as u64, end == to);
                    let done = transfer.data_out(&header, &sent[at..end]).expect("in order");
                    assert_eq!(done, end == to);
                    if done { break }
                    (at, number) = (end, number + 1);
                }
            };
            if more {
                prop_assert!(transfer.request(&p, 9).is_none(), "a burst is under way");
                send(&mut transfer, NO_TAG, first, second);
            }
            let (mut number, mut asked) = (0, VecDeque::new());
            loop {
                while let Some(request) = transfer.request(&p, 100 + number) {
                    prop_assert_eq!(request.number, number);
                    prop_assert!(request.length <= max_burst);
                    asked.push_back(request);
                    number += 1;
                }
                prop_assert!(asked.len() <= outstanding_r2t as usize);
                let Some(request) = asked.pop_front() else { break };
                send(&mut transfer, request.tag, request.offset as usize, (request.offset + request.length) as usize);
            }
            prop_assert!(transfer.is_idle());
            prop_assert_eq!(transfer.missing(), 0);
            prop_assert_eq!(&transfer.finish()[..], &data[..]);
        }

        #[test]
        fn any_data_out_is_taken_or_refused(header: [u8; 48], data: Vec<u8>, wanted in 0_u64..9000) {
            let p = Parameters { initial_r2t: false, ..Parameters::default() };
            let mut transfer = Transfer::begin(&p, 9000, wanted, Bytes::new(), true).expect("agreed");
            let _ = transfer.data_out(&Header(header), &data);
            prop_assert!(transfer.finish().len() as u64 <= wanted);
        }
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        let p = Parameters::default();
        let one = || Bytes::from_static(b"x");
        assert_eq!(
            Transfer::begin(&p, 1, 1, Bytes::new(), true).err(),
            Some(Violation::Unexpected)
        );
        assert!(matches!(
            Transfer::begin(&p, 0, 1, one(), false),
            Err(Violation::Outside { .. })
        ));
        let quiet = Parameters {
            immediate_data: false,
            ..Parameters::default()
        };
        assert_eq!(
            Transfer::begin(&quiet, 1, 1, one(), false).err(),
            Some(Violation::Unexpected)
        );
        let mut transfer = Transfer::begin(&p, 1024, 1024, Bytes::new(), false).expect("agreed");
        assert_eq!(
            transfer.data_out(&data_out(NO_TAG, 0, 0, true), b"x"),
            Err(Violation::Unexpected)
        );
        let request = transfer.request(&p, 7).expect("all of it");
        assert_eq!((request.offset, request.length), (0, 1024));
        for (header, data) in [
            (data_out(8, 0, 0, false), &b"x"[..]),
            (data_out(7, 1, 0, false), b"x"),
            (data_out(7, 0, 1, false), b"x"),
            (data_out(7, 0, 0, true), b"x"),
        ] {
            let mut transfer = Transfer::begin(&p, 1024, 1024, Bytes::new(), false).expect("agreed");
            transfer.request(&p, 7).expect("all of it");
            assert!(transfer.data_out(&header, data).is_err(), "{header:?}");
        }
    }

    #[test]
    fn damaged_data_is_waited_for_and_no_more_is_asked_for() {
        let p = Parameters {
            max_burst: 512,
            outstanding_r2t: 2,
            ..Parameters::default()
        };
        let mut transfer = Transfer::begin(&p, 2048, 2048, Bytes::new(), false).expect("agreed");
        for tag in [7, 8] {
            transfer.request(&p, tag).expect("two at once");
        }
        assert_eq!(transfer.request(&p, 9), None);
        let mut header = data_out(7, 0, 0, true);
        header.set_data_length(512);
        assert_eq!(transfer.damaged(&header), Ok(true));
        assert_eq!((transfer.request(&p, 9), transfer.is_idle()), (None, false));
        assert_eq!(transfer.data_out(&data_out(8, 0, 512, true), &[0; 512]), Ok(true));
        assert!(transfer.is_idle() && transfer.is_damaged() && transfer.missing() == 0);
    }
}
