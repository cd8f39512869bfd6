//! The quorum set: which disks decide, and what "most of them" means.
//!
//! A jury. Most of its members decide, whoever they are, because any two groups that are most of it share somebody who
//! has heard both. When a juror is replaced that is no longer so: most of {1, 2, 3} may be {1, 3}, most of {1, 2, 4} may
//! be {2, 4}, and these share nobody. So between the old jury and the new one there is a *joint* one, in which only what
//! is most of the old and most of the new counts (joint consensus: Ongaro, Raft, 2014, section 4.3).
//!
//! ```text
//!   record n              record n+1                      record n+2
//!   {1, 2, 3}    ---->    {1, 2, 4}, and 3 leaves  ---->  {1, 2, 4}
//!   chosen on ...         most of {1, 2, 3}               most of {1, 2, 3} and most of {1, 2, 4}
//! ```
//!
//! It maps to [`QuorumSet`], a field of every record: the set on which the *next* record is chosen.
//!
//! Invariants: 1, 3 or 5 seats, each disk once; at most one disk leaves at a time; two sets of neighbouring records have
//! no majorities that do not meet. A seat is known by disk, generation and mark, so that a disk that left and came back,
//! or was formatted twice, is another seat: blocks of the one are unread in the other.
//!
//! It must never be bypassed: no other line counts quorum disks.

use crate::codec::{Malformed, Parsed, Reader, Writer};
use core::fmt;
use pollux_api::id::{DiskIndex, Generation};

/// Seats of the largest set.
pub const SEATS_MAX: usize = 5;
/// Generation of the set with which an array is made.
pub const FIRST: Generation = Generation::new(1);

/// A disk in its capacity as a quorum disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seat {
    /// The disk.
    pub disk: DiskIndex,
    /// Generation of the set with which it joined. Every block of it carries that.
    pub since: Generation,
    /// Which formatting of it: no two for the same generation have the same mark. 0: with the array.
    pub mark: u32,
}

/// The quorum disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QuorumSet {
    generation: Generation,
    seats: [Option<Seat>; SEATS_MAX],
    leaving: Option<Seat>,
}

impl QuorumSet {
    /// The set with which an array is made; none unless these are 1, 3 or 5 different disks.
    #[must_use]
    pub fn first(disks: &[DiskIndex]) -> Option<Self> {
        let mut seats = [None; SEATS_MAX];
        for (seat, disk) in seats.iter_mut().zip(disks) {
            *seat = Some(Seat {
                disk: *disk,
                since: FIRST,
                mark: 0,
            });
        }
        let set = Self {
            generation: FIRST,
            seats,
            leaving: None,
        };
        (disks.len() <= SEATS_MAX && set.sound()).then_some(set)
    }

    /// Grows by one with each disk that is replaced.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The seats of the set; while a disk leaves, those of the new one.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + '_ {
        self.seats.iter().flatten().copied()
    }

    /// The disk that leaves, while the set is joint.
    #[must_use]
    pub fn leaving(&self) -> Option<Seat> {
        self.leaving
    }

    /// The disk that joins, while the set is joint.
    #[must_use]
    pub fn joining(&self) -> Option<Seat> {
        let newest = |seat: &Seat| seat.since == self.generation;
        self.leaving.and_then(|_| self.seats().find(newest))
    }

    /// Every seat on which something is to be written and read, the leaving one as well.
    pub fn all(&self) -> impl Iterator<Item = Seat> + '_ {
        self.seats().chain(self.leaving)
    }

    /// The seat of a disk, the leaving one as well.
    #[must_use]
    pub fn seat(&self, disk: DiskIndex) -> Option<Seat> {
        self.all().find(|seat| seat.disk == disk)
    }

    /// The seat that a disk gets if it is the next to join.
    #[must_use]
    pub fn next_seat(&self, disk: DiskIndex, mark: u32) -> Seat {
        let since = self.generation.next();
        Seat { disk, since, mark }
    }

    /// The joint set in which `from` leaves and `to`, as [`QuorumSet::next_seat`] gives it, joins; none unless the set is
    /// whole, has the one and has not the other.
    #[must_use]
    pub fn replaced(&self, from: DiskIndex, to: Seat) -> Option<Self> {
        let mut next = Self {
            generation: self.generation.next(),
            ..*self
        };
        let place = next
            .seats
            .iter_mut()
            .find(|seat| seat.is_some_and(|seat| seat.disk == from))?;
        next.leaving = place.replace(to);
        (self.leaving.is_none() && next.sound()).then_some(next)
    }

    /// The set when the disk that leaves has left.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self {
            leaving: None,
            ..*self
        }
    }

    /// A majority of the disks has it; while the set is joint, a majority of the old disks and one of the new.
    #[must_use]
    pub fn reached(&self, has: impl Fn(DiskIndex) -> bool) -> bool {
        self.common(|disk| has(disk).then_some(())).is_some()
    }

    /// The highest value that a majority has at least, of what each disk has; while the set is joint, both majorities.
    #[must_use]
    pub fn common<T: Copy + Ord>(&self, of: impl Fn(DiskIndex) -> Option<T>) -> Option<T> {
        let new = most(self.seats.map(|seat| seat.map(|seat| of(seat.disk))));
        let Some((leaving, joining)) = self.leaving.zip(self.joining()) else {
            return new;
        };
        let before = |seat: Seat| if seat == joining { leaving } else { seat };
        new.min(most(
            self.seats.map(|seat| seat.map(|seat| of(before(seat).disk))),
        ))
    }

    /// What the type promises.
    fn sound(&self) -> bool {
        let count = self.seats().count();
        let packed = self.seats.iter().take(count).all(Option::is_some);
        let disks = || self.all().map(|seat| seat.disk);
        let once = disks().all(|disk| disks().filter(|other| *other == disk).count() == 1);
        let newest = self.seats().filter(|seat| seat.since == self.generation).count();
        let known = self.all().all(|seat| seat.since <= self.generation);
        let joint = self
            .leaving
            .is_none_or(|leaving| newest == 1 && leaving.since < self.generation);
        matches!(count, 1 | 3 | 5) && packed && once && known && joint
    }

    /// As bytes: u64 generation · u8 count · seats · u8 1 and the leaving seat, or 0. A seat: u16 disk · u64 · u32.
    pub(crate) fn encode(&self, bytes: &mut Writer) {
        let seat = |seat: Seat, bytes: &mut Writer| {
            bytes.0.extend_from_slice(&seat.disk.get().to_le_bytes());
            bytes.u64(seat.since.get());
            bytes.0.extend_from_slice(&seat.mark.to_le_bytes());
        };
        bytes.u64(self.generation.get());
        bytes.count(self.seats().count());
        self.seats().for_each(|one| seat(one, bytes));
        bytes.flag(self.leaving.is_some());
        if let Some(leaving) = self.leaving {
            seat(leaving, bytes);
        }
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Parsed<Self> {
        let seat = |bytes: &mut Reader<'_>| {
            Ok(Seat {
                disk: DiskIndex::new(u16::from_le_bytes(bytes.array()?)),
                since: bytes.generation()?,
                mark: u32::from_le_bytes(bytes.array()?),
            })
        };
        let mut set = Self {
            generation: bytes.generation()?,
            ..Self::default()
        };
        for place in 0..bytes.count(SEATS_MAX)? {
            set.seats[place] = Some(seat(bytes)?);
        }
        if bytes.flag()? {
            set.leaving = Some(seat(bytes)?);
        }
        if set.sound() { Ok(set) } else { Err(Malformed) }
    }

    /// As the bytes that a controller keeps to know where to look for the disks after a restart.
    #[must_use]
    pub fn to_bytes(&self) -> alloc::vec::Vec<u8> {
        let mut bytes = Writer::default();
        self.encode(&mut bytes);
        bytes.0
    }

    /// From [`QuorumSet::to_bytes`]; none: these are not its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let set = Self::decode(&mut reader).ok()?;
        reader.0.is_empty().then_some(set)
    }
}

/// The highest value that more than half of the seats have at least.
fn most<T: Copy + Ord>(seats: [Option<Option<T>>; SEATS_MAX]) -> Option<T> {
    let count = seats.iter().flatten().count();
    let mut values: [Option<T>; SEATS_MAX] = seats.map(Option::flatten);
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(count / 2).copied().flatten()
}

impl fmt::Display for QuorumSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, seat) in self.seats().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, seat.disk)?;
        }
        match self.leaving {
            Some(leaving) => write!(f, " ({} leaves)", leaving.disk),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
