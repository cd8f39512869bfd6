//! The state as a record on the pool: what a controller that takes over goes on from.
//!
//! ```text
//!  0 [8] magic    8 u16 version   10 u8 flags (1: APTPL)   11 u8 type (0: none)   12 u32 PRGENERATION
//! 16 u32 number of registrations   20 u32 holder (its index; all ones: no single one)   24 u32 number of commands done
//! 28 u32 zero    32 registrations: u64 key, u16 port, [6] ISID, u16 length, name    then [16] per command done
//! end - 4: CRC32C of everything before
//! ```
//!
//! Little-endian. Whoever stores it sees to it that the old or the new one stands after a crash; the checksum is here
//! nevertheless, because a record that says something else would let the wrong host write.

use super::{Held, Kind, Nexus, REGISTRATIONS_MAX, State};
use std::collections::BTreeMap;

const MAGIC: [u8; 8] = *b"PLXHRES1";
const VERSION: u16 = 1;
const HEAD: usize = 32;
const NOBODY: u32 = u32::MAX;

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
        let (registered, done) = (self.registrations.len() as u32, self.done.len() as u32);
        for word in [self.generation, registered, holder, done, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for (nexus, key) in &self.registrations {
            out.extend_from_slice(&key.to_le_bytes());
            out.extend_from_slice(&nexus.port.to_le_bytes());
            out.extend_from_slice(&nexus.isid);
            out.extend_from_slice(&(nexus.initiator.len() as u16).to_le_bytes());
            out.extend_from_slice(nexus.initiator.as_bytes());
        }
        self.done.iter().for_each(|id| out.extend_from_slice(id));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
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
        if registered > REGISTRATIONS_MAX {
            return Err(damaged("more registrations than there may be"));
        }
        let mut rest = &body[HEAD..];
        let mut take = |count: usize| {
            let (taken, left) = rest
                .split_at_checked(count)
                .ok_or_else(|| damaged("it ends early"))?;
            rest = left;
            Ok::<_, Damaged>(taken)
        };
        let mut registrations = BTreeMap::new();
        let mut holding = None;
        for index in 0..registered {
            let head = take(18)?;
            let key = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
            let length = usize::from(u16::from_le_bytes([head[16], head[17]]));
            let initiator = std::str::from_utf8(take(length)?).map_err(|_| damaged("a name is no text"))?;
            let nexus = Nexus {
                initiator: initiator.to_owned(),
                isid: head[10..16].try_into().expect("six bytes"),
                port: u16::from_le_bytes([head[8], head[9]]),
            };
            if holder as usize == index {
                holding = Some(nexus.clone());
            }
            if key == 0 || registrations.insert(nexus, key).is_some() {
                return Err(damaged("a registration without key, or twice"));
            }
        }
        let done = (0..done)
            .map(|_| Ok(take(16)?.try_into().expect("sixteen bytes")))
            .collect::<Result<_, Damaged>>()?;
        if !rest.is_empty() {
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
        Ok(Self {
            generation: word(12),
            aptpl: body[10] & 1 != 0,
            registrations,
            held,
            done,
        })
    }
}
