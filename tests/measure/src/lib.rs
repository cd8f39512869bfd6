//! A stopwatch with a second runner beside it: how fast a part of the array is, and how fast others are that do the
//! same on the same machine in the same minute.
//!
//! A figure alone says more about the machine than about the program. So every measurement here has peers, their
//! rounds are interleaved (what disturbs one round disturbs all of it), and what is reported is the median and its
//! ratio to each peer.
//!
//! * [`router`]: the message bus against a bare forwarder, dbus-broker, dbus-daemon and NATS.
//! * [`company`]: the same while somebody else misbehaves, against alone.
//! * [`keeper`]: the config keeper against two bare processes and etcd, and how fast a member comes back.
//! * [`target`]: the block target against tgtd, direct and forwarded.
//! * [`takeover`]: the pause of a host when the owner dies, against what detection alone costs.
//! * [`load`], [`writers`]: who calls and who answers, the same for every bus; [`peer`]: how each bus wants to be spoken to.
//! * [`statistics`], [`report`], [`keeper::report`], [`target::report`], [`takeover::report`], [`chart`]: medians and
//!   ratios; the tables and the charts.
//!
//! Figures are reports: nothing in here fails because something was slow, only because an answer was wrong or missing.
//! Everything runs on unix sockets and loopback, is bounded in time, and ends with its processes.

#![forbid(unsafe_code)]

pub mod chart;
pub mod company;
pub mod error;
pub mod keeper;
pub mod load;
pub mod machine;
pub mod peer;
pub mod process;
pub mod report;
pub mod router;
mod stage;
pub mod statistics;
pub mod takeover;
pub mod target;
mod whole;
pub mod writers;
