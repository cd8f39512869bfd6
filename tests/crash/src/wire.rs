//! What goes through the pipes: one JSON value in a line.

use pollux_api::config::{
    Append, AppendReply, CaughtUp, Changed, Fetch, Fetched, Freeze, LogHash, SetEpoch, Sync, SyncReply,
};
use serde::{Deserialize, Serialize};

/// To a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Die when this place is passed for the n-th time from now.
    Die {
        place: String,
        nth: u64,
    },
    SetEpoch {
        ticket: u64,
        set: SetEpoch,
    },
    Freeze {
        ticket: u64,
        freeze: Freeze,
    },
    CatchUp {
        ticket: u64,
    },
    Change {
        ticket: u64,
        number: u64,
    },
    /// A call of the partner.
    Call {
        id: u64,
        call: Call,
    },
    /// What came of a call to the partner.
    Reply {
        id: u64,
        reply: Result<Reply, String>,
    },
    Tick,
    /// Copy the WAL into the database now.
    Rest,
    /// Say what stands in the book.
    Audit {
        after: u64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Sync(Sync),
    Append(Append),
    Fetch(Fetch),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Sync(SyncReply),
    Append(AppendReply),
    Fetch(Fetched),
}

/// From a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// It has opened its database.
    Ready,
    /// It calls the partner.
    Call {
        id: u64,
        call: Call,
    },
    /// It answers a call of the partner.
    Reply {
        id: u64,
        reply: Result<Reply, String>,
    },
    /// To SetEpoch and Freeze.
    Done {
        ticket: u64,
        outcome: Result<(), String>,
    },
    CaughtUp {
        ticket: u64,
        outcome: Result<CaughtUp, String>,
    },
    Changed {
        ticket: u64,
        outcome: Result<Changed, String>,
    },
    /// It has copied the WAL.
    Rested,
    Book(Book),
    /// Where the log stands: after each order that can move it.
    View(View),
    /// It cannot go on.
    Failed(String),
}

impl Word {
    /// It is not only what comes after every tick.
    pub(crate) fn is_progress(&self) -> bool {
        !matches!(self, Self::View(_) | Self::Reply { .. } | Self::Call { .. })
    }
}

/// What heartbeat sees of a keeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) length: u64,
    pub(crate) hash: LogHash,
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_hash: LogHash,
    pub(crate) acknowledging: bool,
    pub(crate) locked: Option<String>,
    pub(crate) whole: u64,
    pub(crate) diverged: bool,
}

/// What stands on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Book {
    /// Length from which `hashes` go on: what was asked for, or what is kept.
    pub(crate) after: u64,
    /// Hash at that length.
    pub(crate) base: Option<LogHash>,
    /// Hashes of the entries behind it.
    pub(crate) hashes: Vec<LogHash>,
    pub(crate) entries: u64,
    /// Names of all hosts: each change makes one.
    pub(crate) hosts: Vec<String>,
    pub(crate) problems: Vec<String>,
}
