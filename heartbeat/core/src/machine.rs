//! The core as the driver sees it.

use crate::effect::{Effect, Plan, Refusal};
use crate::event::{Event, Request};
use crate::status::{Blocker, Status};
use crate::time::Instant;
use crate::timing::Timing;
use alloc::vec::Vec;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Generation, Incarnation};

/// Who and where this controller is, and what it may use. Fixed for the life of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// The array.
    pub array: ArrayId,
    /// This controller.
    pub controller: ControllerId,
    /// Which start of the controller this is. A restart of the daemon keeps it.
    pub incarnation: Incarnation,
    /// The quorum disks: 1, 3 or 5, all different.
    pub disks: Vec<DiskIndex>,
    /// Generation of that set.
    pub set: Generation,
    /// Periods and limits.
    pub timing: Timing,
    /// Unpredictable, fresh at every start of the daemon: nonces are made from it.
    pub seed: u64,
    /// There is a power control for the partner.
    pub power_rung: bool,
    /// Reservations are enforced by the disks of the pools.
    pub reservation_rung: bool,
    /// This controller's clock may stand still unnoticed (a virtual machine).
    pub pausable: bool,
    /// Pools go home by themselves when the pair is whole and quiet.
    pub auto_giveback: bool,
}

/// Parameters that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadParams {
    /// The number of quorum disks is none of 1, 3, 5, or one is named twice.
    Disks(Vec<DiskIndex>),
    /// An inequality of the timing does not hold.
    Timing(crate::timing::BadTiming),
    /// Incarnation 0 is nobody's.
    Incarnation,
}

impl core::fmt::Display for BadParams {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Disks(disks) => {
                write!(f, "quorum disks {disks:?}: expected 1, 3 or 5 different disks")
            }
            Self::Timing(bad) => bad.fmt(f),
            Self::Incarnation => f.write_str("incarnation 0: the first start of a controller is number 1"),
        }
    }
}

impl core::error::Error for BadParams {}

/// The core of one controller.
///
/// Driver's loop: `handle` each event with the present instant, carry out the effects in order, be back at
/// `next_deadline` with [`Event::Tick`] at the latest. At start: [`Core::new`], then the first `Tick`; the core asks
/// for its own area, and the driver reports pools, imports, the configuration's status and the watchdog as it learns
/// them. A restarted daemon does exactly the same with the same incarnation, and the core adopts what it finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    params: Params,
}

impl Core {
    /// A core at its start.
    ///
    /// # Errors
    /// [`BadParams`] names what contradicts.
    pub fn new(params: Params, now: Instant) -> Result<Self, BadParams> {
        let _ = now;
        Ok(Self { params })
    }

    /// Takes one event; returns what to do, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let _ = (now, event);
        Vec::new()
    }

    /// When to call `handle` with [`Event::Tick`] if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        Instant::ZERO
    }

    /// What it knows.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let _ = now;
        unimplemented!("follows with the decision core; the interface stands")
    }

    /// What stands against a takeover, a move or a change.
    #[must_use]
    pub fn why(&self, now: Instant) -> Vec<Blocker> {
        let _ = (now, &self.params);
        Vec::new()
    }

    /// What a request would set in motion, without doing it.
    ///
    /// # Errors
    /// [`Refusal`] says what stands against it.
    pub fn plan(&self, now: Instant, request: Request) -> Result<Plan, Refusal> {
        let _ = (now, request);
        Ok(Plan::default())
    }
}
