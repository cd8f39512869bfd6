//! Little-endian fields, one after the other: shared by the quorum area and the wire.

use crate::area::{Advert, Figures, Letter, Role};
use crate::record::{Base, Members, Mode, Record};
use crate::set::QuorumSet;
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::{ControllerId, Epoch, Generation, Hash32, Incarnation, LogLength, PoolId};

/// The bytes break the rules of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) type Parsed<T> = Result<T, Malformed>;

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn pool(&mut self, pool: PoolId) {
        self.0.extend_from_slice(pool.as_bytes());
    }

    /// Lengths are bounded by the makers of what is written: they are far below 256.
    pub(crate) fn count(&mut self, count: usize) {
        debug_assert!(count <= usize::from(u8::MAX), "{count} does not fit its field");
        self.u8(u8::try_from(count).unwrap_or(u8::MAX));
    }

    fn span(&mut self, span: Duration) {
        self.u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn base(&mut self, base: Base) {
        self.u64(base.length.get());
        self.0.extend_from_slice(base.hash.as_bytes());
    }

    pub(crate) fn record(&mut self, record: &Record) {
        self.u64(record.epoch.get());
        for controller in ControllerId::ALL {
            let member = record.members.get(controller);
            self.flag(member.is_some());
            self.u64(member.map_or(0, Incarnation::get));
        }
        self.u8(match record.mode {
            Mode::Open => 0,
            Mode::Sealed => 1,
        });
        self.base(record.base);
        record.disks.encode(self);
    }

    pub(crate) fn option_record(&mut self, record: Option<&Record>) {
        self.flag(record.is_some());
        if let Some(record) = record {
            self.record(record);
        }
    }

    pub(crate) fn advert(&mut self, advert: &Advert) {
        self.u64(advert.incarnation.get());
        self.u8(match advert.role {
            Role::Starting => 0,
            Role::Waiting => 1,
            Role::Serving => 2,
            Role::Releasing => 3,
            Role::Dying => 4,
            Role::Left => 5,
        });
        self.u64(advert.epoch.get());
        self.base(advert.log);
        let flags = [advert.eligible, advert.shelf, advert.watchdog, advert.pausable];
        flags.into_iter().for_each(|flag| self.flag(flag));
        let Figures {
            slot_period,
            lease,
            watchdog,
        } = advert.figures;
        [slot_period, lease, watchdog]
            .into_iter()
            .for_each(|span| self.span(span));
    }

    pub(crate) fn letter(&mut self, letter: &Letter) {
        self.u64(letter.from.get());
        self.u64(letter.to.get());
        self.u64(letter.epoch.get());
        self.flag(letter.consent);
        self.flag(letter.invite);
        self.count(letter.asks.len());
        letter.asks.iter().for_each(|pool| self.pool(*pool));
        self.count(letter.gifts.len());
        for (pool, generation) in &letter.gifts {
            self.pool(*pool);
            self.u64(generation.get());
        }
    }
}

/// Takes fields off the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Parsed<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// One encoding for each value, so that what was read and what was written compare equal.
    pub(crate) fn flag(&mut self) -> Parsed<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn pool(&mut self) -> Parsed<PoolId> {
        self.array().map(PoolId::from_bytes)
    }

    pub(crate) fn count(&mut self, max: usize) -> Parsed<usize> {
        let count = usize::from(self.u8()?);
        if count <= max { Ok(count) } else { Err(Malformed) }
    }

    pub(crate) fn epoch(&mut self) -> Parsed<Epoch> {
        self.u64().map(Epoch::new)
    }

    pub(crate) fn incarnation(&mut self) -> Parsed<Incarnation> {
        self.u64().map(Incarnation::new)
    }

    pub(crate) fn generation(&mut self) -> Parsed<Generation> {
        self.u64().map(Generation::new)
    }

    fn span(&mut self) -> Parsed<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    pub(crate) fn base(&mut self) -> Parsed<Base> {
        let length = LogLength::new(self.u64()?);
        Ok(Base {
            length,
            hash: Hash32::from_bytes(self.array()?),
        })
    }

    pub(crate) fn record(&mut self) -> Parsed<Record> {
        let epoch = self.epoch()?;
        let mut members = Members::default();
        for controller in ControllerId::ALL {
            let (present, incarnation) = (self.flag()?, self.incarnation()?);
            if present {
                members = members.with(controller, incarnation);
            } else if incarnation.get() != 0 {
                return Err(Malformed);
            }
        }
        let mode = match self.u8()? {
            0 => Mode::Open,
            1 => Mode::Sealed,
            _ => return Err(Malformed),
        };
        Ok(Record {
            epoch,
            members,
            mode,
            base: self.base()?,
            disks: QuorumSet::decode(self)?,
        })
    }

    pub(crate) fn option_record(&mut self) -> Parsed<Option<Record>> {
        if self.flag()? {
            self.record().map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn advert(&mut self) -> Parsed<Advert> {
        let incarnation = self.incarnation()?;
        let role = match self.u8()? {
            0 => Role::Starting,
            1 => Role::Waiting,
            2 => Role::Serving,
            3 => Role::Releasing,
            4 => Role::Dying,
            5 => Role::Left,
            _ => return Err(Malformed),
        };
        Ok(Advert {
            incarnation,
            role,
            epoch: self.epoch()?,
            log: self.base()?,
            eligible: self.flag()?,
            shelf: self.flag()?,
            watchdog: self.flag()?,
            pausable: self.flag()?,
            figures: Figures {
                slot_period: self.span()?,
                lease: self.span()?,
                watchdog: self.span()?,
            },
        })
    }

    pub(crate) fn letter(&mut self) -> Parsed<Letter> {
        let mut letter = Letter {
            from: self.incarnation()?,
            to: self.incarnation()?,
            epoch: self.epoch()?,
            consent: self.flag()?,
            invite: self.flag()?,
            ..Letter::default()
        };
        for _ in 0..self.count(crate::area::LETTER_MAX)? {
            letter.asks.push(self.pool()?);
        }
        for _ in 0..self.count(crate::area::LETTER_MAX)? {
            letter.gifts.push((self.pool()?, self.generation()?));
        }
        Ok(letter)
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
