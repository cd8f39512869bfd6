//! A data disk of a pool: blocks, the pool's label, and persistent reservations as SPC-4 has them (Write Exclusive -
//! Registrants Only), one nexus per controller.
//!
//! A command takes effect at one instant, and the reservation is looked at at that instant: what PREEMPT AND ABORT
//! drains is then what simply arrives too late. A nexus that lost its registration, or saw the power go, gets a unit
//! attention, and so does every further command until the pool manager has established its session again, which begins
//! with a look at the keys. Commands that were under way when the power went are lost.

use pollux_api::pool::ReservationKey;
use std::collections::BTreeSet;

/// What the pool knows of its own legs; written to every leg in sync before it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label {
    /// Grows with each change.
    pub(crate) event: u64,
    /// Legs (by index among the pool's members) that missed writes.
    pub(crate) failed: BTreeSet<usize>,
}

/// How a command to a data disk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    /// No path; nothing happened.
    Lost,
    /// Reservation conflict; nothing happened.
    Conflict,
    /// Something happened to this nexus since its last command; nothing happened now.
    Attention,
}

/// One member disk.
#[derive(Clone, Debug)]
pub(crate) struct DataDisk {
    /// Pool and leg.
    pub(crate) of: (usize, usize),
    /// It implements reservations.
    pub(crate) reservations: bool,
    /// Registrations survive the loss of power.
    pub(crate) aptpl: bool,
    /// It has no room for another registration (insufficient registration resources).
    pub(crate) full: bool,
    pub(crate) keys: [Option<ReservationKey>; 2],
    pub(crate) holder: Option<usize>,
    attention: [bool; 2],
    pub(crate) path: [bool; 2],
    pub(crate) up: bool,
    /// How often the power has gone.
    pub(crate) cycle: u32,
    pub(crate) stuck_until: u64,
    pub(crate) blocks: Vec<u64>,
    pub(crate) label: Label,
    /// Breakage of the simulator's own world: conflicts are not reported and writes take effect.
    pub(crate) open: bool,
}

/// Order of keys: a later epoch, then a later claim.
pub(crate) fn rank(key: ReservationKey) -> (u64, u64) {
    (key.epoch.get(), key.generation.get())
}

impl DataDisk {
    pub(crate) fn new(of: (usize, usize), blocks: usize) -> Self {
        Self {
            of,
            reservations: true,
            aptpl: true,
            full: false,
            keys: [None; 2],
            holder: None,
            attention: [false; 2],
            path: [true; 2],
            up: true,
            cycle: 0,
            stuck_until: 0,
            blocks: vec![0; blocks],
            label: Label::default(),
            open: false,
        }
    }

    pub(crate) fn reaches(&self, c: usize) -> bool {
        self.up && self.path[c]
    }

    /// Would a write of this controller take effect now?
    pub(crate) fn admit(&self, c: usize) -> Status {
        if !self.reaches(c) {
            return Status::Lost;
        }
        if self.open {
            return Status::Good;
        }
        if self.attention[c] {
            return Status::Attention;
        }
        if self.reservations && self.holder.is_some() && self.keys[c].is_none() {
            return Status::Conflict;
        }
        Status::Good
    }

    /// The session is established again.
    pub(crate) fn acknowledge(&mut self, c: usize) {
        self.attention[c] = false;
    }

    /// The highest key that stands here.
    pub(crate) fn standing(&self) -> Option<ReservationKey> {
        self.keys.iter().flatten().copied().max_by_key(|key| rank(*key))
    }

    /// This key stands alone and holds the reservation.
    pub(crate) fn holds_alone(&self, c: usize, key: ReservationKey) -> bool {
        self.holder == Some(c) && self.keys[c] == Some(key) && self.keys[1 - c].is_none()
    }

    /// REGISTER, then PREEMPT AND ABORT of exactly the keys that were read. A key that is not lower than ours is
    /// left alone, and nothing stays registered (K12).
    pub(crate) fn take(&mut self, c: usize, key: ReservationKey) -> Result<(), &'static str> {
        if !self.reaches(c) {
            return Err("no path");
        }
        if !self.reservations {
            return Err("no reservations");
        }
        if self.full && self.keys[c].is_none() {
            return Err("insufficient registration resources");
        }
        let higher = |other: ReservationKey| {
            rank(other) > rank(key) || (rank(other) == rank(key) && other.controller != key.controller)
        };
        if self.keys.iter().flatten().any(|other| higher(*other)) {
            return Err("a later key stands here");
        }
        self.attention[c] = false;
        if self.keys[1 - c].take().is_some() {
            self.attention[1 - c] = true;
        }
        self.keys[c] = Some(key);
        self.holder = Some(c);
        Ok(())
    }

    /// REGISTER with key zero; the reservation goes with its last registrant.
    pub(crate) fn unregister(&mut self, c: usize) {
        if self.reaches(c) {
            self.keys[c] = None;
            self.holder = (0..2).find(|other| self.keys[*other].is_some());
        }
    }

    /// CLEAR by another host; returns the keys that are lost.
    pub(crate) fn clear(&mut self) -> Vec<ReservationKey> {
        if !self.reservations {
            return Vec::new();
        }
        self.attention = [true; 2];
        self.holder = None;
        std::mem::take(&mut self.keys).into_iter().flatten().collect()
    }

    /// The shelf's power goes; returns the keys that are lost.
    pub(crate) fn power_fails(&mut self) -> Vec<ReservationKey> {
        self.up = false;
        self.cycle += 1;
        self.attention = [true; 2];
        if self.aptpl {
            return Vec::new();
        }
        self.holder = None;
        std::mem::take(&mut self.keys).into_iter().flatten().collect()
    }
}
