//! `block-targetd`: the target of one controller, brought to what the configuration and `alua` say.
//!
//! ```text
//!  config.watch, config.unseal
//!           |--> world: volumes, mappings, keys        hosts --> portal (host0:3260)
//!  alua --------->  target.publish | hold | flip                     |
//!                                                               volume, paths
//!                                                               /           \
//!                     run/volumes/<id>.sock (pool manager)  <--+             +--> partner's forward port
//!                               ^
//!  partner's target --> forward port (interconnect:7711)
//! ```
//!
//! It keeps no state of its own. After a crash it reads the configuration again, holds every command until
//! `alua` has said where each pool is, and hosts log in again.

mod forward;
mod link;
mod neighbour;
mod secrets;
mod service;
mod space;
mod world;

pub use forward::Forwarded;
pub use link::{Endpoint, Link};
pub use secrets::{Sealed, Secrets};
pub use service::run;
pub use world::{Surroundings, World};

/// Logical block size of every volume, as the pool manager serves it; the physical one is the shelf's 4 KiB.
pub const BLOCK_SIZE: u32 = 512;
