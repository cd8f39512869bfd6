//! How each bus is spoken to, with as little as its protocol allows.

pub mod dbus;
pub mod frames;
pub mod nats;
pub mod pollux;
