//! The shelf of the lab, asked by initiators that nobody here wrote: libiscsi by hand, and its conformance suites.
//!
//! Needs the Debian packages `libiscsi7`, `libiscsi-bin` and, to compare, `tgt`; without them a test says SKIPPED and why.

mod cables;
mod disks;
mod fencing;
mod peer;
mod program;
mod suites;
mod support;
