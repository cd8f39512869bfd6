//! `lvmd`: volume groups of the kernel for pools of the backend `lvm`; see README.md for the whole of it.
//!
//! A goods lift with two doors. The outer one (the *gate*, a linear map over a disk) is opened by whoever holds the keys, and
//! everything behind it, mirrors, thin pool, volumes, hangs on it. Closing it (*cut*) takes nothing apart first: from then on
//! nothing inside reaches a disk, whatever it believes.
//!
//! | in the picture | here |
//! |---|---|
//! | what has to be done next | [`plan`], pure: from what LVM reports ([`report`]) to its commands |
//! | the doors and what hangs on them | [`kernel`], pure: from the lines of `dmsetup` |
//! | the fitter | [`programs`]: a few programs, each with its path and its deadline |
//! | one job at a time for each pool | [`groups`] |
//! | rooms in which files are kept | [`files`]: an XFS on a volume, mounted while the group is active |
//! | the bell | [`service`] |
//!
//! It must never: look at a disk that it was not told of, decide whose a pool is, or make a group where one is missing.

#![forbid(unsafe_code)]

pub mod fake;
mod files;
pub mod groups;
pub mod kernel;
pub mod names;
pub mod plan;
pub mod programs;
pub mod report;
pub mod service;
