//! The iSCSI side of the target at the wire: an initiator of the tests' own says what hosts say, and what none should.
//!
//! Most tests run over a pipe in memory and on a clock that stands still unless everybody waits, so that times of
//! many seconds are tested in no time.

mod bounds;
mod digests;
mod ends;
mod initiator;
mod life;
mod login;
mod rig;
mod tasks;
mod transfer;
mod world;
