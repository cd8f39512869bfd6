//! The host of the tests: a multipath iSCSI initiator that believes nobody.
//!
//! Think of a customer's server with two cables into the array and a notary on board. The server
//! ([`engine`], on libiscsi, which nobody here wrote) does what a Linux host does: it logs in
//! twice, sees one device, prefers the optimized path, retries by Linux' rules ([`policy`]) and by
//! no others. The notary ([`workload`]) writes numbered, sealed blocks ([`block`]), notes what was
//! acknowledged and when, and at the end reads everything back. [`load`] is the server without the notary: for
//! stopwatches.
//!
//! How it maps: `pollux-host` is a process of its own, so that it can stand in the hosts' network
//! namespace; a test talks to it in lines of JSON ([`control`], [`client`]).
//!
//! Invariants: an acknowledgement is noted only after GOOD; every status other than GOOD is
//! counted; a stamp is CLOCK_MONOTONIC.
//!
//! Must never: depend on the array's own code (what judges is not what is judged), or need a C
//! header to build.

pub mod block;
pub mod client;
pub mod control;
pub mod engine;
mod ffi;
pub mod image;
pub mod load;
pub mod policy;
pub mod scsi;
mod session;
pub mod single;
pub mod time;
pub mod workload;

pub use engine::{Host, HostConfig};
pub use ffi::LoadError;
pub use policy::Settings;

/// Whether libiscsi is there and is one that the host understands.
pub fn library() -> Result<(), LoadError> {
    ffi::Api::load().map(|_| ())
}
