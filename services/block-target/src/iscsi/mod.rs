//! iSCSI (RFC 7143), the target's half: one connection per session, error recovery level 0.
//!
//! [`pdu`], [`text`], [`login`], [`transfer`] and [`session`] are functions of state and what came in;
//! [`connection`] and [`server`] own the sockets.

pub mod connection;
pub mod login;
pub mod pdu;
pub mod server;
pub mod session;
pub mod text;
pub mod transfer;
