//! Everything of Linux that the array touches, and all of its unsafe code.
//!
//! The other crates see plain Rust: values in, values and errors out. What stands behind is a system call, a netlink
//! message or a file of the kernel, and a sentence on why it is sound. Nothing here decides anything.

pub mod announce;
mod checksum;
pub mod clock;
pub mod fake;
pub mod file;
pub mod keys;
pub mod lease;
pub mod lines;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod notify;
pub mod power;
pub mod program;
pub mod realtime;
pub mod reset;
pub mod scsi;
pub mod signal;
pub mod simd;
pub mod tickle;
pub mod uevent;
pub mod unsynced;
pub mod watchdog;
