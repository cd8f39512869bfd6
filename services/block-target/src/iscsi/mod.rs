//! iSCSI (RFC 7143), the target's half: one connection per session, error recovery level 0.
//!
//! [`pdu`], [`text`], [`keys`], [`chap`], [`login`], [`transfer`], [`session`] and [`alive`] are functions of state and
//! what came in; [`connection`] and [`server`] own the sockets. What anybody can take at most is in [`limits`].

pub mod alive;
pub mod chap;
pub mod connection;
pub mod keys;
pub mod limits;
pub mod login;
pub mod outgoing;
pub mod pdu;
pub mod reply;
mod seldom;
pub mod server;
pub mod session;
pub mod text;
pub mod transfer;
