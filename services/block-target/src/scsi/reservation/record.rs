//! The state as a record on the pool: what a controller that takes over goes on from.
//!
//! ```text
//!  0 [8] magic    8 u16 version   10 u8 flags (1: APTPL)   11 u8 type (0: none)   12 u32 PRGENERATION
//! 16 u32 number of registrations   20 u32 holder (its index; all ones: no single one)   24 u32 number of commands done
//! 28 u32 number of words of the tail    32 registrations: u64 key, nexus    then [16] per command done
//! tail: words of 16 bytes, counted among the commands done, too
//!   u8 format (1)   u8 flags (1: held by RESERVE(6))   u16 nexuses that have something to be told
//!   the holder's nexus   then for each: nexus, u8 number, u8 per unit attention (1: 2A03, 2: 2A04, 3: 2A05)   zeros
//! end - 4: CRC32C of everything before
//! nexus: u16 port, [6] ISID, u16 length, name
//! ```
//!
//! Builds that know no tail have zero at offset 28, and take its words for names of commands, which no command has: in a
//! pair of two builds each reads the record of the other, and the older one drops the tail with the next change.
//!
//! Little-endian. Whoever stores it sees to it that the old or the new one stands after a crash; the checksum is here
//! nevertheless, because a record that says something else would let the wrong host write.

use super::{Held, Kind, Nexus, PENDING_MAX, REGISTRATIONS_MAX, State};
use crate::scsi::sense::Sense;
use std::collections::BTreeMap;

const MAGIC: [u8; 8] = *b"PLXHRES1";
const VERSION: u16 = 1;
const HEAD: usize = 32;
const NOBODY: u32 = u32::MAX;
/// Of the tail.
const FORMAT: u8 = 1;
const WORD: usize = 16;
/// What can be told, by its number less one.
const ATTENTIONS: [Sense; 3] = [
    Sense::RESERVATIONS_PREEMPTED,
    Sense::RESERVATIONS_RELEASED,
    Sense::REGISTRATIONS_PREEMPTED,
];

fn put_nexus(out: &mut Vec<u8>, nexus: &Nexus) {
    out.extend_from_slice(&nexus.port.to_le_bytes());
    out.extend_from_slice(&nexus.isid);
    out.extend_from_slice(&(nexus.initiator.len() as u16).to_le_bytes());
    out.extend_from_slice(nexus.initiator.as_bytes());
}

/// What is left of a record.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, left) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Damaged("it ends early".to_owned()))?;
        self.0 = left;
        Ok(taken)
    }

    fn nexus(&mut self) -> Result<Nexus, Damaged> {
        let head = self.take(10)?;
        let length = usize::from(u16::from_le_bytes([head[8], head[9]]));
        let name = std::str::from_utf8(self.take(length)?);
        Ok(Nexus {
            initiator: name
                .map_err(|_| Damaged("a name is no text".to_owned()))?
                .to_owned(),
            isid: head[2..8].try_into().expect("six bytes"),
            port: u16::from_le_bytes([head[0], head[1]]),
        })
    }
}

/// A record that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of hosts' reservations: {0}")]
pub struct Damaged(String);

impl State {
    /// As a record.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let holder = self.held.as_ref().and_then(|held| held.holder.as_ref());
        let holder = holder.and_then(|holder| self.registrations.keys().position(|nexus| nexus == holder));
        let holder = holder.map_or(NOBODY, |at| at as u32);
        let kind = self.held.as_ref().map_or(0, |held| held.kind as u8);
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[u8::from(self.aptpl), kind]);
        let tail = self.tail();
        let (registered, words) = (self.registrations.len() as u32, (tail.len() / WORD) as u32);
        let done = self.done.len() as u32 + words;
        for word in [self.generation, registered, holder, done, words] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for (nexus, key) in &self.registrations {
            out.extend_from_slice(&key.to_le_bytes());
            put_nexus(&mut out, nexus);
        }
        self.done.iter().for_each(|id| out.extend_from_slice(id));
        out.extend_from_slice(&tail);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    fn tail(&self) -> Vec<u8> {
        if self.legacy.is_none() && self.pending.is_empty() {
            return Vec::new();
        }
        let mut out = vec![FORMAT, u8::from(self.legacy.is_some())];
        out.extend_from_slice(&(self.pending.len() as u16).to_le_bytes());
        if let Some(holder) = &self.legacy {
            put_nexus(&mut out, holder);
        }
        for (nexus, senses) in &self.pending {
            put_nexus(&mut out, nexus);
            let numbers = ATTENTIONS.iter().zip(1_u8..);
            let numbers: Vec<u8> = senses
                .iter()
                .filter_map(|sense| numbers.clone().find(|(known, _)| *known == sense))
                .map(|(_, number)| number)
                .collect();
            out.push(numbers.len() as u8);
            out.extend_from_slice(&numbers);
        }
        out.resize(out.len().next_multiple_of(WORD), 0);
        out
    }

    fn take_tail(&mut self, tail: &[u8]) -> Result<(), Damaged> {
        if tail.is_empty() {
            return Ok(());
        }
        let mut rest = Rest(tail);
        let head = rest.take(4)?;
        if head[0] != FORMAT || head[1] > 1 {
            let found = format!("its tail has format {}; this build reads {FORMAT}", head[0]);
            return Err(Damaged(found));
        }
        if head[1] == 1 {
            self.legacy = Some(rest.nexus()?);
        }
        let waiting = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if waiting > PENDING_MAX {
            return Err(Damaged("more is to be told than there may be".to_owned()));
        }
        for _ in 0..waiting {
            let nexus = rest.nexus()?;
            let count = usize::from(rest.take(1)?[0]);
            let senses = rest.take(count)?.iter().map(|number| {
                let at = usize::from(*number).wrapping_sub(1);
                ATTENTIONS
                    .get(at)
                    .copied()
                    .ok_or_else(|| Damaged("nothing that can be told".to_owned()))
            });
            self.pending.insert(nexus, senses.collect::<Result<_, _>>()?);
        }
        match rest.0.len() < WORD && rest.0.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(Damaged("its tail has more than it says".to_owned())),
        }
    }

    /// From a record; an empty one is that of a volume which nobody ever reserved.
    ///
    /// # Errors
    /// [`Damaged`], in words. Then nobody knows who holds the volume: see [`State::in_doubt`].
    pub fn from_record(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let damaged = |what: &str| Damaged(what.to_owned());
        let Some((body, crc)) = bytes
            .split_last_chunk::<4>()
            .filter(|(body, _)| body.len() >= HEAD)
        else {
            return Err(damaged("shorter than its head"));
        };
        if body[..8] != MAGIC {
            return Err(damaged("something else stands there"));
        }
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return Err(damaged("its checksum does not match"));
        }
        let version = u16::from_le_bytes([body[8], body[9]]);
        if version != VERSION {
            return Err(Damaged(format!("version {version}; this build reads {VERSION}")));
        }
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
        let (registered, holder, done) = (word(16) as usize, word(20), word(24) as usize);
        let words = word(28) as usize;
        if words > done {
            return Err(damaged("its tail is longer than the record"));
        }
        if registered > REGISTRATIONS_MAX {
            return Err(damaged("more registrations than there may be"));
        }
        let mut rest = Rest(&body[HEAD..]);
        let mut registrations = BTreeMap::new();
        let mut holding = None;
        for index in 0..registered {
            let key = u64::from_le_bytes(rest.take(8)?.try_into().expect("eight bytes"));
            let nexus = rest.nexus()?;
            if holder as usize == index {
                holding = Some(nexus.clone());
            }
            if key == 0 || registrations.insert(nexus, key).is_some() {
                return Err(damaged("a registration without key, or twice"));
            }
        }
        let done = (0..done - words)
            .map(|_| Ok(rest.take(16)?.try_into().expect("sixteen bytes")))
            .collect::<Result<_, Damaged>>()?;
        let tail = rest.0;
        if tail.len() != words * WORD {
            return Err(damaged("it has more than it says"));
        }
        let held = match body[11] {
            0 => None,
            code => {
                let kind = Kind::from_code(code).ok_or_else(|| damaged("no such type"))?;
                Some(Held {
                    kind,
                    holder: holding,
                })
            }
        };
        let whole = match &held {
            None => holder == NOBODY,
            Some(held) => held.kind.all_registrants() == held.holder.is_none() && registered > 0,
        };
        if !whole {
            return Err(damaged("its holder is not registered"));
        }
        let mut state = Self {
            generation: word(12),
            aptpl: body[10] & 1 != 0,
            registrations,
            held,
            done,
            ..Self::default()
        };
        state.take_tail(tail)?;
        Ok(state)
    }
}
