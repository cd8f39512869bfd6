//! The simulator: both controllers' shipped cores, everything that can fail between them, one seed, virtual time.
//!
//! It is a rehearsal stage. A seed writes the play: how the array is built, which faults strike, when and for how long.
//! After the time of faults everything is mended, and the array has to be whole again within a bound; then one
//! controller falls for good, and the other has to serve everything. At every instant each invariant (`invariant`) sees
//! what really happened on disks, wires and towards the hosts, and a play that breaks one is repeated with its script.
//!
//! A play must never use real time, threads, or anything whose order depends on the machine: the same seed is the same
//! play. `many` spreads whole plays over the processors; the runner of the mutants (`mutants`), which plays nothing
//! itself, waits for programs and measures time.

mod coverage;
mod invariant;
mod keeper;
pub mod ledger;
mod linear;
mod many;
mod mutants;
mod play;
mod quorum;
mod rng;
mod setup;
mod shelf;
mod shrink;
mod stats;
mod stepper;
mod swarm;
mod truth;
mod world;

#[cfg(test)]
mod breakage;
#[cfg(test)]
mod scenario;

pub use many::{Played, run_all};
pub use mutants::{Wanted as WantedMutants, copy, run as run_mutants};
pub use play::{Failure, Total, only, replay, run, shrink, write_coverage};
pub use shrink::{Mask, Small};
pub use stepper::step;
