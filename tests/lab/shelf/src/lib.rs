//! The shelf of the lab: disks with two SCSI ports each, for virtual machines.
//!
//! Picture the enclosure's shelf with another plug. There, controllers that are processes speak block frames to it; here,
//! controllers that are whole machines find SCSI disks behind it, as a JBOD on two cables would show them. The disks are
//! the same: image files, a cache that forgets, reservations, faults on demand, and the camera over all of it
//! ([`pollux_chassis::shelf`]).
//!
//! ```text
//!   machine a (QEMU, iSCSI)                     machine b
//!        | iqn.2026-01.pollux.lab:shelf.a            | ...:shelf.b
//!   port a  (relative target port 1)            port b  (2)          block-target: PDUs, CDBs, pages
//!        \________ disk 0 = LUN 0 ______________/
//!                  disk 1 = LUN 1                                    chassis: medium, cache, reservations, faults
//!                  ...          control socket: faults, cables, power, the log
//! ```
//!
//! | on a real shelf | here |
//! |---|---|
//! | a SAS port of each disk, two cables | one iSCSI target per port, slot n is LUN n of both |
//! | one initiator at the end of a cable | whoever logs in first has the port; another name is refused until it has left |
//! | I_T nexus | the port: registrations outlive sessions, logins and the shelf's power |
//! | what a disk answers | what the chassis' disk answers, as SCSI status and sense |
//!
//! Invariants: both ports show one identity (NAA, serial, UUID) and differ in the relative port alone; a command passes
//! the disk's own permission check, so what its log shows is what happened; when a cable is pulled, the power is cut or
//! another port has preempted and aborted, nothing of the commands before takes effect any more.
//!
//! It must never: listen anywhere but on loopback (nobody has to prove himself), or hide a fault by trying again.

pub mod audit;
mod disk;
mod names;
mod panel;
mod port;
mod shelf;

pub use panel::{METHODS, Panel, PortState, Status};
pub use port::target_name;
pub use shelf::{LabShelf, Options, StartError};
