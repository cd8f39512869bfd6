//! How each bus and each system is spoken to, with as little as its protocol allows.

pub mod config;
pub mod dbus;
pub mod etcd;
pub mod frames;
pub mod ledger;
pub mod nats;
pub mod pollux;
pub mod tgtd;
