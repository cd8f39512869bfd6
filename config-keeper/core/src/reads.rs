//! Who may answer a reader, and on whose word.
//!
//! A reader wants to see every change that was acknowledged before it asked. What is shown here may lack one: the partner
//! decided it and the news is on its way, or this controller was replaced and does not know it yet. So somebody else is
//! asked, after the reader came, who would know. One question serves everybody who waits when it is sent.
//!
//! ```text
//!                          asks                      is sure because
//!  sequencer, both  ---> the follower, under epoch   it would not answer had it stood still for a later epoch, and no
//!                        and session                 later epoch is proposed by anybody who does not stand still
//!  follower         ---> the sequencer: up to where? the question itself is the follower's word that it stands by this
//!                                                    epoch, and the sequencer alone acknowledges in it
//!  alone            ---> its heartbeat: do I hold a  a record without this controller is decided only when its lease has
//!                        lease in this epoch?        run out, and a change under it needs that record
//! ```
//!
//! The first is the condition of an acknowledged change, with no change: had one been appended when the reader came, the
//! same answer would have acknowledged it, and nothing acknowledged is missing from what is decided later (S3).
//! The keeper itself cannot know of the third: its replacement asks nobody on this side. It has no clock; the lease has.
//! It counts neither where clocks can be stopped unnoticed: there a lone keeper answers no such reader.
//! (An operator's forced takeover does not wait for a lease, but it replaces one of two members, who asks by the wire.)
//!
//! Never: an answer on a word that was given before the reader asked, or under another basis than the present one.

use crate::keeper::Request;
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use pollux_api::config::{Append, AppendReply, ReadIndex};
use pollux_api::id::Epoch;

/// On whose word readers are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// The follower's, in this session.
    Follower {
        /// The epoch.
        epoch: Epoch,
        /// The session.
        session: u64,
    },
    /// The sequencer's.
    Sequencer {
        /// The epoch.
        epoch: Epoch,
    },
    /// Heartbeat's: the lease.
    Lease {
        /// The epoch.
        epoch: Epoch,
    },
}

impl Basis {
    /// Why readers are not answered when it was asked in vain, and what would help.
    pub(crate) fn unconfirmed(self, what: &str) -> (String, String) {
        match self {
            Self::Follower { .. } | Self::Sequencer { .. } => (
                format!("the partner's keeper does not confirm that this view is the latest: {what}"),
                "see `pollux why`; an older view is given to whoever asks with `stale_ok`".to_owned(),
            ),
            Self::Lease { .. } => (
                format!("heartbeat does not confirm that this controller still decides: {what}"),
                "see `pollux why`; an older view is given to whoever asks with `stale_ok`".to_owned(),
            ),
        }
    }
}

/// Who is asked, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The partner's keeper, which follows: an append without entries.
    Follower(Append),
    /// The partner's keeper, which numbers: up to where is acknowledged?
    Sequencer(ReadIndex),
    /// This controller's heartbeat: is there a lease now, as a member of the highest record that is known, and which?
    Lease {
        /// The epoch under which it has to be.
        epoch: Epoch,
    },
}

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// By the follower.
    Followed(AppendReply),
    /// By the sequencer: acknowledged up to here.
    Index(u64),
    /// By heartbeat: the lease is fresh, and this is the epoch.
    Leased(Epoch),
}

/// Those who wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    /// Nobody was asked for them yet.
    waiting: Vec<Request>,
    /// The question that is under way: its number, its basis, and for whom.
    under_way: Option<(u64, Basis, Vec<Request>)>,
    /// Answered as soon as so much is shown.
    until: BTreeMap<u64, Vec<Request>>,
    /// Under which basis those were promised.
    promised: Option<Basis>,
    rounds: u64,
}

impl Reads {
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none() && self.until.is_empty()
    }

    pub(crate) fn wait(&mut self, request: Request) {
        self.waiting.push(request);
    }

    /// A question for everybody who waits; none: nobody does, or one is under way.
    pub(crate) fn ask(&mut self, basis: Basis) -> Option<u64> {
        if self.waiting.is_empty() || self.under_way.is_some() {
            return None;
        }
        self.rounds += 1;
        self.under_way = Some((self.rounds, basis, core::mem::take(&mut self.waiting)));
        Some(self.rounds)
    }

    /// The question of this number is answered: its basis, and for whom.
    pub(crate) fn asked(&mut self, round: u64) -> Option<(Basis, Vec<Request>)> {
        let (_, basis, readers) = self.under_way.take_if(|(number, ..)| *number == round)?;
        Some((basis, readers))
    }

    /// They are answered as soon as so much is shown.
    pub(crate) fn until(&mut self, basis: Basis, index: u64, readers: Vec<Request>) {
        self.until.entry(index).or_default().extend(readers);
        self.promised = Some(basis);
    }

    /// Whom this much is enough for.
    pub(crate) fn shown(&mut self, shown: u64) -> Vec<Request> {
        let later = self.until.split_off(&(shown + 1));
        core::mem::replace(&mut self.until, later)
            .into_values()
            .flatten()
            .collect()
    }

    /// Those who were promised an answer under another basis than the present one.
    pub(crate) fn void(&mut self, present: Option<Basis>) -> Vec<Request> {
        let mut void = Vec::new();
        if let Some((_, _, readers)) = self.under_way.take_if(|(_, basis, _)| Some(*basis) != present) {
            void.extend(readers);
        }
        if self.promised != present {
            void.extend(core::mem::take(&mut self.until).into_values().flatten());
            self.promised = None;
        }
        if present.is_none() {
            void.append(&mut self.waiting);
        }
        void
    }
}
