//! The binary block protocol of the array: one SCSI-like command per frame, many in flight, over any byte stream.
//!
//! Think of a SAS cable. At one end sits an initiator (a controller), at the other a target port (one port of a
//! disk, a volume of an imported pool, the partner's block target). What travels is a command descriptor with a
//! tag, data, and a status under the same tag, in any order.
//!
//! | cable | stream | commands address |
//! |---|---|---|
//! | controller to a disk of the shelf | unix socket `port/disk-NN.sock` | the disk |
//! | block target to a volume of an imported pool | unix socket `run/volumes/<volume>.sock` | the volume |
//! | block target to the partner's block target | TCP over the interconnect | the volume that each request names |
//!
//! A session is an *I_T nexus*: its [`Identity`] is (port, client, endpoint). When the same identity logs in
//! again the older session is superseded: its commands are aborted or run to their end **before** the new session
//! is let in, so a client that reconnects and sends a command again can never be overtaken by its own past.
//!
//! Invariants:
//! * every length is bounded before anything is allocated; header and payload carry CRC32C; a damaged frame ends
//!   the session (the stream cannot be trusted any more), it is never interpreted;
//! * a tag is answered at most once; a tag whose answer came after its deadline is dropped and counted;
//! * a session over TCP proves the pairing key in both directions before the first command;
//! * a request that says by when it may be begun is not begun later, however long it was on its way.
//!
//! It must never: retry by itself, reconnect by itself, or turn a lost connection into a status. Whether a write
//! happened when the connection broke is *unknown*, and only the caller knows what to do about it.

mod client;
mod clock;
mod error;
mod frame;
mod hello;
pub mod key;
mod message;
mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions_tests;

pub use client::Client;
pub use error::Error;
pub use frame::{FrameError, HEADER_BYTES, Header, MAX_PAYLOAD, Opcode, Status};
pub use hello::{AuthKey, CLIENT_NAME_MAX, Hello, Port, Purpose, VERSIONS, Versions, Welcome};
pub use message::{
    Behalf, EndpointInfo, FullStatus, INITIATOR_NAME_MAX, Key, LbaRun, Nexus, Operation, Registrant, Reply,
    Request, Reservation, ReservationOut, ReservationType,
};
pub use server::{Handler, Identity, Server, ServerOptions};
