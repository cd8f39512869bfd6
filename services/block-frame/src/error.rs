//! What can go wrong at a client.

use crate::frame::{FrameError, Opcode, Status};
use crate::hello::{VERSIONS, Versions};
use std::io;
use thiserror::Error;

/// A session could not be opened, or a request did not succeed.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("connect to {endpoint}: {source}")]
    Connect {
        /// Path or address.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The other end refused the session.
    #[error("log in at {endpoint}: {}{}", status.text(), detail_text(*status, *detail))]
    Login {
        /// Path or address.
        endpoint: String,
        /// Its reason.
        status: Status,
        /// What belongs to the reason (the versions that it speaks).
        detail: u64,
    },
    /// The session ended before the request was answered: whether it was done is unknown.
    #[error("{endpoint}: connection lost: {why}")]
    Disconnected {
        /// Path or address.
        endpoint: String,
        /// Why, in words.
        why: String,
    },
    /// No answer within the deadline: whether it was, or will be, done is unknown.
    #[error("{endpoint}: {operation:?} not answered within its deadline")]
    Deadline {
        /// Path or address.
        endpoint: String,
        /// What was asked.
        operation: Opcode,
    },
    /// The answer was damaged or made no sense.
    #[error("{endpoint}: {source}")]
    Frame {
        /// Path or address.
        endpoint: String,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The endpoint answered with another status than `Ok`.
    #[error("{endpoint}: {operation:?}: {}", status.text())]
    Status {
        /// Path or address.
        endpoint: String,
        /// What was asked.
        operation: Opcode,
        /// How it ended.
        status: Status,
        /// The figure that belongs to the status.
        detail: u64,
    },
}

impl Error {
    /// The status that the endpoint answered, if it did answer.
    pub fn status(&self) -> Option<Status> {
        match self {
            Error::Status { status, .. } | Error::Login { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The endpoint has said that nothing was done and nothing will be. False: the fate of a write is unknown.
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Login { .. } => true,
            Error::Disconnected { .. } | Error::Deadline { .. } | Error::Frame { .. } => false,
            Error::Status { status, .. } => !matches!(
                status,
                Status::Ok | Status::MediumError | Status::NoPath | Status::Held | Status::Scsi
            ),
        }
    }
}

fn detail_text(status: Status, detail: u64) -> String {
    match status {
        Status::VersionMismatch => {
            let theirs = Versions::from_detail(detail);
            format!(" (it speaks {theirs}, this end {VERSIONS}): upgrade the older end first")
        }
        _ => String::new(),
    }
}
