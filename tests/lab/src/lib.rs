//! The lab: virtual machines that prove the appliance.
//!
//! Think of a crash test again ([`pollux-pair`](../pollux_pair/index.html) is one in a wind tunnel: the shipped daemons as
//! processes of one machine). Here whole cars are driven against the wall: machines with kernels of their own, installed
//! from the packages, on disks whose reservations are SCSI's, under systemd, used by a stock Linux host with multipath.
//! What a hand could do from outside is done from outside: power is cut by ending a process, a hang is a stopped
//! processor, a cable is pulled by name.
//!
//! | part | where |
//! |---|---|
//! | what everything is made of | [`programs`], [`mirror`], [`tools`] (QEMU), [`image`], [`modules`], [`cpio`], [`cache`] |
//! | what stands where | [`topology`], [`payload`], [`disk`], [`places`] |
//! | what runs | [`lab`], [`saved`], [`machine`], [`process`], [`switch`], [`shelf`], [`qmp`], [`ssh`] |
//! | what is proven | [`reservations`], [`array`], [`host`], [`cases`], [`diagnosis`] |
//!
//! Invariants: every wait has a bound and says what it saw; every process is written down before anything waits for it, and
//! is ended by its number; the array is judged by the shelf's log and by the host's writer, never by its own word alone.
//!
//! Must never: need a root where a user namespace will do, touch the network of this machine, or go on after a failure as
//! if there had been none.

#![forbid(unsafe_code)]

pub mod array;
pub mod cache;
pub mod cases;
pub mod cpio;
pub mod diagnosis;
pub mod disk;
pub mod error;
pub mod host;
pub mod image;
pub mod lab;
pub mod machine;
pub mod mirror;
pub mod modules;
pub mod payload;
pub mod places;
pub mod process;
pub mod programs;
pub mod qmp;
pub mod reservations;
pub mod saved;
pub mod shelf;
pub mod ssh;
pub mod switch;
pub mod tools;
pub mod topology;
pub mod wait;
