//! Heartbeat: who is alive, who may serve, and the moves of pools.
//!
//! A night watch with two instruments, a lantern (the wire) and a log book (the quorum disks), and a rule book (the
//! core, in `heartbeat/core`) that says what to do for everything that can be seen. This daemon is the watchman: he
//! looks, asks the rule book, and does what it says.
//!
//! ```text
//! driver    select -> apply -> carry out; a thread of its own, real time where permitted
//!   wire      authenticated datagrams             quorum   blocks on the quorum disks; keys, what strangers left there
//! moves     fence, import, publish, release: one queue per pool
//! gate      what the kernel lets out to hosts while there is a lease
//! keeper    epochs and freezes of the configuration
//! power     the partner's power, one's own watchdog
//! legs      the cables behind the bond
//! machine   the word for whoever may take the machine down
//! journal, timeline    what happened, and how long each part of it took
//! service   what people ask, through the router
//! ```
//!
//! It must never decide anything that the core has not decided, make the driver wait, or grant a lease or pet the
//! watchdog by a timer of its own.

pub mod array;
pub mod disks;
pub mod driver;
pub mod gasp;
pub mod gate;
pub mod incarnation;
pub mod journal;
pub mod keeper;
pub mod keys;
pub mod legs;
pub mod machine;
pub mod moves;
pub mod power;
pub mod quorum;
pub mod service;
pub mod start;
pub mod timeline;
pub mod view;
pub mod wire;
