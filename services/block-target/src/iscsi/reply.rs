//! What goes out: replies, as the PDUs that carry them.
//!
//! A reply waits in the writer's queue; its sequence numbers are stamped when it leaves ([`Stamps`]), so that StatSN
//! is in the order of the wire and ExpCmdSN is as young as it can be.

use super::keys::Parameters;
use super::outgoing::Outgoing;
use super::pdu::{Header, NO_TAG, Reject, response};
use crate::scsi::{Outcome, Status};
use bytes::Bytes;

/// Something for the wire. Sequence numbers are stamped when it leaves.
#[derive(Debug)]
pub enum Reply {
    /// One PDU.
    Plain {
        /// Header.
        header: Header,
        /// Data segment.
        data: Bytes,
        /// It carries a StatSN of its own.
        counts: bool,
    },
    /// The end of a SCSI command, with its data.
    Scsi {
        /// Initiator task tag.
        tag: u32,
        /// How it ended.
        outcome: Outcome,
        /// Bytes that the host expects to move.
        expected: u32,
        /// Bytes that the command would move.
        moves: u64,
        /// The host takes data.
        reads: bool,
    },
}

/// Sequence numbers of an outgoing PDU.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// Next StatSN.
    pub stat_sn: u32,
    /// ExpCmdSN.
    pub exp_cmd_sn: u32,
    /// MaxCmdSN.
    pub max_cmd_sn: u32,
}

impl Stamps {
    fn stamp(&mut self, header: &mut Header, counts: bool) {
        header.put32(24, self.stat_sn);
        header.put32(28, self.exp_cmd_sn);
        header.put32(32, self.max_cmd_sn);
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(counts));
    }
}

impl Reply {
    pub(super) fn plain(header: Header, data: impl Into<Bytes>) -> Self {
        Self::Plain {
            header,
            data: data.into(),
            counts: true,
        }
    }

    /// It asks the host whether it is there: a NOP-In that no NOP-Out has asked for.
    #[must_use]
    pub fn is_ping(&self) -> bool {
        matches!(self, Self::Plain { header, .. } if header.opcode() == response::NOP_IN && header.tag() == NO_TAG)
    }

    /// Bytes that it will take on the wire, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        48 + match self {
            Self::Plain { data, .. } => data.len(),
            Self::Scsi { outcome, .. } => outcome.data.len(),
        }
    }

    /// Appends its PDUs to `out`.
    pub fn encode(self, out: &mut Outgoing, p: &Parameters, stamps: &mut Stamps) {
        match self {
            Self::Plain {
                mut header,
                data,
                counts,
            } => {
                stamps.stamp(&mut header, counts);
                out.put(header, &data, p.digests);
            }
            Self::Scsi {
                tag,
                outcome,
                expected,
                moves,
                reads,
            } => {
                let expected_u64 = u64::from(expected);
                let residual = u32::try_from(moves.abs_diff(expected_u64)).unwrap_or(u32::MAX);
                let flag = match moves.cmp(&expected_u64) {
                    std::cmp::Ordering::Less => 0x02,
                    std::cmp::Ordering::Equal => 0x00,
                    std::cmp::Ordering::Greater => 0x04,
                };
                let sendable = if reads { expected as usize } else { 0 };
                let data = outcome.data.slice(..outcome.data.len().min(sendable));
                let good = outcome.status == Status::Good;
                encode_data(out, tag, &data, p, stamps, good.then_some((flag, residual)));
                if good && !data.is_empty() {
                    return;
                }
                let mut header = Header::response(response::SCSI, tag);
                header.0[1] |= flag;
                header.0[3] = outcome.status as u8;
                header.put32(44, residual);
                stamps.stamp(&mut header, true);
                let mut sense = Vec::new();
                if let Some(data) = outcome.sense {
                    sense.extend_from_slice(&(crate::scsi::sense::FIXED_LEN as u16).to_be_bytes());
                    sense.extend_from_slice(&data.to_fixed());
                }
                out.put(header, &sense.into(), p.digests);
            }
        }
    }
}

/// The Reject PDU for a header, which it carries as evidence.
#[must_use]
pub fn rejection(rejected: &Header, reason: Reject) -> Reply {
    let mut header = Header::response(response::REJECT, NO_TAG);
    header.0[2] = reason as u8;
    Reply::plain(header, Bytes::copy_from_slice(&rejected.0))
}

/// Data-In PDUs; the last one carries the status if there is one to carry.
fn encode_data(
    out: &mut Outgoing,
    tag: u32,
    data: &Bytes,
    p: &Parameters,
    stamps: &mut Stamps,
    status: Option<(u8, u32)>,
) {
    let (segment, burst) = (p.max_send as usize, p.max_burst as usize);
    let (mut at, mut number) = (0, 0);
    while at < data.len() {
        let burst_end = (at / burst + 1) * burst;
        let end = (at + segment).min(burst_end).min(data.len());
        let mut header = Header::response(response::DATA_IN, tag);
        header.0[1] = if end == burst_end || end == data.len() {
            0x80
        } else {
            0
        };
        header.put32(20, NO_TAG);
        let mut counts = false;
        if let Some((flag, residual)) = status.filter(|_| end == data.len()) {
            header.0[1] |= 0x01 | flag;
            header.put32(44, residual);
            counts = true;
        }
        stamps.stamp(&mut header, counts);
        if !counts {
            // StatSN is only there together with status.
            header.put32(24, 0);
        }
        header.put32(36, number);
        header.put32(40, at as u32);
        out.put(header, &data.slice(at..end), p.digests);
        (at, number) = (end, number + 1);
    }
}
