//! Stand-ins for hardware: they hold state and obey the rules of what they stand for, and misbehave where they are told to.
//!
//! For tests. No daemon makes one: what they stand for is chosen by the type that a daemon's `main` names.

pub mod scsi;
pub mod watchdog;
