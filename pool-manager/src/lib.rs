//! The pool manager of a controller: takes pools, imports them, serves their volumes, gives them up.
//!
//! Think of a safe-deposit vault with two keyholders. A box is opened by one of them at a time; before the vault keeper
//! opens it for you, he changes the lock himself and tries the old key. What you put in is written on two sheets, and a
//! torn sheet is noted on the other before you get your receipt.
//!
//! | in the picture | here |
//! |---|---|
//! | changing the lock, trying the old key | [`fence`]: reservations, read back; its proof is the only way into an import |
//! | two sheets | [`mirror`] over the disks of [`disks`], described by a [`label`], marked by [`intent`] |
//! | which drawer belongs to whom | [`extents`]; a [`table`] per volume whose drawers are given one by one ([`mapped`]) |
//! | receipt | the answer at a [`volume`]'s socket, durable on every leg |
//! | who decides whose box it is | heartbeat, through [`service`] |
//!
//! It must never: import without proof of exclusion; go on after a reservation conflict; create where a label is missing;
//! acknowledge what only a failed leg holds.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod backend;
mod commands;
pub mod device;
pub mod disks;
pub mod embedded;
pub mod extents;
pub mod fence;
pub mod intent;
pub mod journal;
pub mod kinds;
pub mod label;
pub mod lvm;
pub mod lvmd;
pub mod map;
pub mod mapped;
pub mod mirror;
pub mod plan;
pub mod range;
pub mod record;
pub mod schedule;
pub mod service;
mod snapshots;
pub mod table;
pub mod volume;
