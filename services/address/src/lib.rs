//! Floating addresses: door plates that are unscrewed from one house and put up at the other.
//!
//! A host knows a pool by an address. When the pool moves, the address moves with it: the old owner takes it down
//! before anything else, the new one puts it up last, and tells the network until everybody has heard.
//!
//! ```text
//! heartbeat --address.raise--> [plan] --record--> run/addresses.json   (whose the address is, before it is there)
//!                                     --netlink-> front interface
//!                                     --beside--> announcements at 0, 0.1, 0.3, 0.7, 1.5, 3, 5 s, and when the
//!                                                 carrier comes back
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | decisions, pure: what to add and remove, what to adopt after a crash, what to refuse |
//! | [`floating`] | the addresses on one interface: the decisions made real |
//! | [`service`] | the calls |
//!
//! When the partner has lost its power, its portal is silent, and a host waits for seconds until it believes that. So
//! its address is taken too (`address.stand_in`), with nothing behind it: the connections are refused and reset at
//! once, and hosts use the other path. It is given up as soon as the partner shows a sign of life, and the partner
//! announces its own address whenever its daemon starts.
//!
//! Invariants:
//! * an address is recorded before it is put up and struck out after it is down, so that after a crash every address on
//!   the interface is the controller's own, recorded, or nobody's; nobody's are removed;
//! * an address that is being lowered is announced no more;
//! * ending the daemon, in whatever way, changes no address: the next one adopts what is there.
//!
//! It must never: touch the controller's own address, or decide where an address belongs or whether the partner is off.

#![forbid(unsafe_code)]

pub mod floating;
pub mod plan;
pub mod service;
