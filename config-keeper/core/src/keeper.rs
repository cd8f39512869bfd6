//! Two clerks, two ledgers, one pen.
//!
//! ```text
//!                 SetEpoch: which record counts
//!                        |
//!      +-----------------+------------------+----------------------+
//!      v                 v                  v                      v
//!    Idle             Alone              Follower              Sequencer
//!  nothing is     members = {me},     persists what the     Starting -> Syncing -> Standing
//!  appended       open: durable       sequencer numbered    a session counts once the follower
//!                 here is enough      in the session that   answered it; then: durable on both
//!                                     it has answered       is enough
//! ```
//!
//! The log only grows while a role permits it; entries become *acknowledged* from the front, and only
//! acknowledged ones are shown. What was appended and is not acknowledged when the role ends is *in doubt*: it
//! stays in the log, and the epoch that follows decides it (it is history for a lone successor; it is set aside
//! if the partner went on without it).
//!
//! Invariants:
//! * acknowledged <= durable <= log; the store is told of entries in order and at most one batch at a time.
//! * Frozen, nothing is appended, acknowledged or counted (K3, K13); the answer to a freeze comes when nothing is
//!   on its way to the disk.
//! * Answers that name another epoch or session are dropped (K13). A sequencer that starts anew first takes over
//!   what the follower holds of its earlier sessions (K7: it must not append over a change that it sent and lost).
//! * A record whose base this log does not contain permits nothing (S3).
//! * Same epoch, same index, different hash: stop. Never pick.
//! * Entries leave the log only at its front, acknowledged, and where nobody will ask for them ([`compaction`]).
//! * A read is answered once somebody has borne witness, asked after the read began, that nobody decides elsewhere
//!   ([`crate::reads`] says who, and why that is enough).
//!
//! A database that was lost (damaged and put aside, or older than what the record stands on) holds less than this
//! controller was counted for. Until it has it back it takes no role: it neither numbers, follows nor counts, and
//! heartbeat lets it stand behind no new history. It gets its log back from the partner, where that is proof enough:
//! * Both are members: what was acknowledged in this epoch is durable on both, and what was before is the base. So the
//!   partner's durable log holds all of it, if it is asked after the loss. A sequencer whose follower says that it lost its
//!   log begins a new session first: what it counted for the follower is void. One that lost its own log takes a session
//!   above the one that the follower knows.
//! * Alone and sealed: everything acknowledged is the base, and the record has its hash. Whoever gives entries, the hash
//!   proves them; what goes on behind the base was never in this history.
//! * Alone and open, or the partner lost its own as well: what was acknowledged behind the base is nowhere else. It stays
//!   locked and says so; a person restores a copy, or has the partner go on with what it holds.
//!
//! Lost ends on the disk with the next session that is stored: when the log is whole again one is stored for that, and until
//! then a restart asks the partner again.
//!
//! Never: a clock, randomness, I/O; an answer before the condition that it claims.

use crate::book::Book;
use crate::compacted::{Arriving, Compacted};
use crate::log::{self, follows, request_digest};
use crate::plan::{Site, plan};
use crate::reads::{Basis, Proof, Reads, Witness};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use pollux_api::action::ActionId;
use pollux_api::config::{
    self, Append, AppendReply, CaughtUp, Change, Changed, CompactedPart, Diverged, EpochRecord, FORMAT,
    FORMAT_FIRST, Fetch, Fetched, Freeze, Kind, LogEntry, LogHash, ReadIndex, Resource, Restore, RowOp,
    SetEpoch, Sync, SyncReply, Tables, Unfreeze, format_of,
};
use pollux_api::error::Problem;
use pollux_api::id::{ControllerId, DiskIndex, Epoch, Incarnation};

/// Most entries in one message or in one piece of history.
pub const BATCH_ENTRIES: u64 = 256;
/// Most bytes of rows in one message, but for a single entry. Half of what the router carries.
pub const BATCH_BYTES: usize = 512 << 10;
/// Most bytes of rows in one change.
pub const CHANGE_BYTES: usize = 256 << 10;

/// Entries that are kept behind what is acknowledged: history that can be shown and taken back, actions that are known
/// again, and a partner that was away gets what it missed and not everything.
pub const KEPT: u64 = 1 << 16;

/// Ticks for which the follower may leave calls unanswered before nothing more is taken and whoever waits is told so. What
/// a call may take comes before; a keeper that restarts is back within this.
pub const SILENT_TICKS: u32 = 5;

/// The shell's ticket for a call that waits for an answer.
pub type Request = u64;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The slots that hold a disk now; none: not known, any slot is taken for good.
    Disks {
        /// Their numbers.
        slots: BTreeSet<DiskIndex>,
    },
    /// Somebody asks for a change; this controller is to decide it (the shell forwards what is not its to decide).
    Change {
        /// Ticket.
        request: Request,
        /// Its action.
        action: ActionId,
        /// What is asked.
        change: Change,
    },
    /// Heartbeat: this record counts.
    SetEpoch {
        /// Ticket.
        request: Request,
        /// Record and lock.
        set: SetEpoch,
    },
    /// Heartbeat is about to propose.
    Freeze {
        /// Ticket.
        request: Request,
        /// For which epoch, and why.
        freeze: Freeze,
    },
    /// Heartbeat gave a proposal up before its first ballot.
    Unfreeze {
        /// Ticket.
        request: Request,
        /// Which.
        unfreeze: Unfreeze,
    },
    /// Heartbeat: become equal to the partner.
    CatchUp {
        /// Ticket.
        request: Request,
    },
    /// The partner begins a session.
    SyncIn {
        /// Ticket.
        request: Request,
        /// Its words.
        sync: Sync,
    },
    /// The partner sends entries.
    AppendIn {
        /// Ticket.
        request: Request,
        /// Its words.
        append: Append,
    },
    /// Answer to [`Effect::Sync`]; an error is silence in words.
    SyncOut {
        /// Session that was sent.
        session: u64,
        /// Epoch that was sent.
        epoch: Epoch,
        /// The follower's answer.
        answer: Result<SyncReply, String>,
    },
    /// Answer to [`Effect::Append`].
    AppendOut {
        /// Session that was sent.
        session: u64,
        /// Epoch that was sent.
        epoch: Epoch,
        /// Index of the last entry that was sent; none: it was a notice.
        last: Option<u64>,
        /// The follower's answer.
        answer: Result<AppendReply, String>,
    },
    /// Answer to [`Effect::Fetch`].
    FetchOut {
        /// The partner's answer.
        answer: Result<Fetched, String>,
    },
    /// Somebody reads: answered by [`Answer::ReadAt`] once what is shown here holds everything that was acknowledged
    /// before the read began.
    Read {
        /// Ticket.
        request: Request,
    },
    /// The follower asks up to where it has to show for its readers.
    IndexIn {
        /// Ticket.
        request: Request,
        /// Its words.
        ask: ReadIndex,
    },
    /// Answer to [`Effect::Witness`].
    Witnessed {
        /// The number of the question.
        round: u64,
        /// What was said; an error is silence, or a refusal, in words.
        answer: Result<Proof, String>,
    },
    /// The partner asks for history because it lost its log: it holds nothing that was counted for it.
    PartnerLost,
    /// A person gives back what a lost database held, piece by piece.
    Restore {
        /// Ticket.
        request: Request,
        /// A piece of a backup.
        restore: Restore,
        /// Length of the partner's log, if it answers and has not lost it.
        partner: Option<u64>,
    },
    /// The oldest job that the store had not finished is durable.
    Stored {
        /// Its number.
        serial: u64,
    },
    /// The store failed: it will take no more.
    StoreFailed {
        /// In words, with the file.
        what: String,
    },
    /// Time to repeat what was not answered.
    Tick,
}

/// Something to do. Jobs are done in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make durable; answered by [`Event::Stored`].
    Store {
        /// Its number, growing by one.
        serial: u64,
        /// What.
        job: Job,
    },
    /// Ask the partner to follow a session.
    Sync(Sync),
    /// Send entries, or (empty) only the news of what is acknowledged.
    Append(Append),
    /// Ask the partner for history.
    Fetch(Fetch),
    /// Ask whoever can tell whether this controller may answer readers; answered by [`Event::Witnessed`].
    Witness {
        /// The number of the question.
        round: u64,
        /// Who is asked, and what.
        witness: Witness,
    },
    /// Answer a call.
    Answer {
        /// Its ticket.
        request: Request,
        /// The answer.
        answer: Result<Answer, Refusal>,
    },
    /// More is acknowledged than before, or the log changed: tell watchers and heartbeat.
    Moved,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Entries at the end of the log, with their effect on the tables.
    Append(Vec<LogEntry>),
    /// This session of this epoch has begun; nothing older is listened to.
    Session {
        /// The epoch.
        epoch: Epoch,
        /// The session.
        session: u64,
    },
    /// Cut the log after `keep`, keep what is cut off aside, append.
    Mend {
        /// Length that stays.
        keep: u64,
        /// What is cut off, and whether it may have been acknowledged.
        aside: Vec<(LogEntry, bool)>,
        /// What comes after.
        entries: Vec<LogEntry>,
    },
    /// Let the entries up to this length go, and keep what they amount to.
    Compact(config::Compacted),
    /// The log begins with this, and there is no entry behind it.
    Begin {
        /// The beginning.
        with: Box<Compacted>,
        /// What was there and is not known to be in that history, and whether it may have been acknowledged.
        aside: Vec<(LogEntry, bool)>,
    },
}

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a change.
    Changed(Changed),
    /// To set_epoch, freeze, unfreeze: the shell adds the status.
    Done,
    /// To catch_up.
    CaughtUp(CaughtUp),
    /// To sync.
    Synced(SyncReply),
    /// To append.
    Appended(AppendReply),
    /// To a piece of a backup: it is durable.
    Restored {
        /// Length of the log.
        length: u64,
    },
    /// To a read, and to the follower: everything up to this index is acknowledged and shown.
    ReadAt {
        /// The index.
        index: u64,
    },
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Every problem of the request.
    Invalid(Vec<Problem>),
    /// Nothing can be changed now: reason and remedy.
    Locked(String, String),
    /// The fate of this change is not known yet.
    InDoubt,
    /// It contradicts what is so: what and remedy.
    Conflict(String, String),
    /// From another epoch or session.
    Stale(String),
    /// Two histories.
    Diverged(Diverged),
    /// The database.
    Storage(String),
    /// The partner did not answer, or not well.
    Partner(String),
}

/// What the database held at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Loaded {
    /// What the entries that are gone amount to.
    pub compacted: Compacted,
    /// The log behind that.
    pub entries: Vec<LogEntry>,
    /// How much of it was known to be acknowledged (it may be more).
    pub acknowledged: u64,
    /// Epoch of the last session.
    pub session_epoch: Epoch,
    /// The last session.
    pub session: u64,
    /// The log was lost: it held more than it does. So from when that is found until a [`Job::Session`] is committed.
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Idle,
    Alone,
    Follower,
    Sequencer(Session),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Session {
    /// Its number is on its way to the disk.
    Starting,
    /// The follower has been asked.
    Syncing { asked: bool, trouble: Option<String> },
    /// The follower holds the log up to `remote`; a message up to `sent` is under way.
    Standing {
        remote: u64,
        sent: Option<u64>,
        told: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    serial: u64,
    /// Length of the log that is durable when it is done.
    length: u64,
    append: bool,
    compact: bool,
    then: Vec<Then>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Then {
    ReplySync {
        request: Request,
        sync: Sync,
    },
    ReplyAppend {
        request: Request,
        epoch: Epoch,
        session: u64,
    },
    BeginSession,
    Mended,
    /// The log begins with rows of the partner's.
    Begun,
    Restored {
        request: Request,
        last: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CatchingUp {
    /// Heartbeat's call; none: it is the repair of a lost log.
    request: Option<Request>,
    asked: bool,
    copied: u64,
    aside: u64,
    /// Both logs are the same up to here.
    verified: u64,
    /// The partner's log as it was at the last answer: length, hash, frozen.
    goal: Option<(u64, LogHash, bool)>,
    /// Rows with which the partner's log begins, as far as they have come.
    arriving: Option<Arriving>,
}

impl CatchingUp {
    fn of(request: Option<Request>) -> Self {
        Self {
            request,
            asked: false,
            copied: 0,
            aside: 0,
            verified: 0,
            goal: None,
            arriving: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiter {
    request: Request,
    rows: Vec<RowOp>,
}

/// The decisions of one keeper.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keeper {
    me: ControllerId,
    incarnation: Option<Incarnation>,
    site: Site,
    /// Entries that are kept behind what is acknowledged, at least.
    keep: u64,
    compacted: Compacted,
    /// Behind what is compacted.
    log: VecDeque<LogEntry>,
    weights: VecDeque<usize>,
    actions: BTreeMap<ActionId, u64>,
    durable: u64,
    head: Book,
    acknowledged: u64,
    announced: u64,
    shown: Book,
    session_epoch: Epoch,
    session: u64,
    /// The newest version of the log's encoding that the partner's program knows; none: it has not said.
    partner_format: Option<u16>,
    /// The newest that stands in the log: whoever reads it knows that one.
    log_format: u16,
    epoch: Option<EpochRecord>,
    lock: Option<String>,
    frozen: Option<(Epoch, String)>,
    stood: bool,
    role: Role,
    waiters: BTreeMap<u64, Vec<Waiter>>,
    jobs: VecDeque<Pending>,
    next_serial: u64,
    draining: Vec<Request>,
    catching: Option<CatchingUp>,
    in_sync: Option<u64>,
    diverged: Option<Diverged>,
    broken: Option<String>,
    /// The log held more than it does.
    lost: bool,
    /// The database says so as well.
    lost_on_disk: bool,
    /// Why the last try to get it back failed.
    unrepaired: Option<String>,
    /// Rows with which the log of a backup begins, as far as they were brought.
    brought: Option<Arriving>,
    reads: Reads,
    /// How the last call of the follower failed, and how many ticks ago the first one since an answer did.
    silence: Option<(String, u32)>,
    effects: Outbox,
}

/// What one event brings forth; empty between events, so it is no part of what makes two keepers alike.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Outbox(Vec<Effect>);

impl Hash for Outbox {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Keeper {
    /// A keeper over what its database holds. It does nothing until heartbeat says which record counts.
    ///
    /// # Errors
    /// The log is no chain: which entry, and why.
    pub fn load(
        me: ControllerId,
        incarnation: Option<Incarnation>,
        site: Site,
        loaded: Loaded,
    ) -> Result<Self, String> {
        let mut keeper = Self {
            me,
            incarnation,
            site,
            keep: KEPT,
            log: VecDeque::with_capacity(loaded.entries.len()),
            weights: VecDeque::new(),
            actions: BTreeMap::new(),
            durable: 0,
            head: Book::from(&loaded.compacted.tables),
            acknowledged: loaded.compacted.facts.length,
            announced: 0,
            shown: Book::from(&loaded.compacted.tables),
            log_format: loaded.compacted.facts.format,
            compacted: loaded.compacted,
            session_epoch: loaded.session_epoch,
            session: loaded.session,
            partner_format: None,
            epoch: None,
            lock: None,
            frozen: None,
            stood: false,
            role: Role::Idle,
            waiters: BTreeMap::new(),
            jobs: VecDeque::new(),
            next_serial: 1,
            draining: vec![],
            catching: None,
            in_sync: None,
            diverged: None,
            broken: None,
            lost: loaded.lost,
            lost_on_disk: loaded.lost,
            unrepaired: None,
            brought: None,
            reads: Reads::default(),
            silence: None,
            effects: Outbox::default(),
        };
        for entry in loaded.entries {
            keeper.push(entry)?;
        }
        keeper.durable = keeper.length();
        if loaded.acknowledged > keeper.durable {
            return Err(format!(
                "{} entries are acknowledged, the log has {}",
                loaded.acknowledged, keeper.durable
            ));
        }
        keeper.show(loaded.acknowledged);
        keeper.effects.0.clear();
        Ok(keeper)
    }

    /// The same, but so many entries are kept behind what is acknowledged.
    #[must_use]
    pub fn keeping(self, keep: u64) -> Self {
        Self { keep, ..self }
    }

    /// Takes an event in; what is to be done comes out, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Change {
                request,
                action,
                change,
            } => self.change(request, action, &change),
            Event::Disks { slots } => self.site.disks = slots,
            Event::SetEpoch { request, set } => self.set_epoch(request, set),
            Event::Freeze { request, freeze } => self.freeze(request, freeze),
            Event::Unfreeze { request, unfreeze } => self.unfreeze(request, unfreeze),
            Event::CatchUp { request } => self.catch_up(request),
            Event::SyncIn { request, sync } => self.sync_in(request, sync),
            Event::AppendIn { request, append } => self.append_in(request, append),
            Event::SyncOut {
                session,
                epoch,
                answer,
            } => self.sync_out(session, epoch, answer),
            Event::AppendOut {
                session,
                epoch,
                last,
                answer,
            } => self.append_out(session, epoch, last, answer),
            Event::FetchOut { answer } => self.fetch_out(answer),
            Event::Read { request } => self.read(request),
            Event::IndexIn { request, ask } => self.index_in(request, ask),
            Event::Witnessed { round, answer } => self.witnessed(round, answer),
            Event::PartnerLost => self.partner_lost(),
            Event::Restore {
                request,
                restore,
                partner,
            } => self.restore(request, restore, partner),
            Event::Stored { serial } => self.stored(serial),
            Event::StoreFailed { what } => self.store_failed(what),
            Event::Tick => self.tick(),
        }
        self.pump_reads();
        self.pump();
        core::mem::take(&mut self.effects.0)
    }

    // What others may look at.

    /// Length of the whole log, with what is on its way to the disk.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.compacted.facts.length + self.log.len() as u64
    }

    /// What the entries that are gone amount to.
    #[must_use]
    pub const fn compacted(&self) -> &Compacted {
        &self.compacted
    }

    /// Length of the durable log.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Length of what is acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The configuration as far as it is acknowledged.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        self.shown.tables()
    }

    /// The acknowledged row with this name or identity; see [`Book::find`].
    #[must_use]
    pub fn find(&self, kind: Kind, which: &str) -> Option<Resource> {
        self.shown.find(kind, which)
    }

    /// Hash of the log at a length; none beyond its end, nor where it is not known any more.
    #[must_use]
    pub fn hash_at(&self, length: u64) -> Option<LogHash> {
        let facts = &self.compacted.facts;
        if length == 0 {
            Some(LogHash::default())
        } else if length == facts.length {
            Some(facts.hash)
        } else if length < facts.length {
            facts.base.filter(|(at, _)| *at == length).map(|(_, hash)| hash)
        } else {
            self.entry(length).map(|entry| entry.hash)
        }
    }

    /// Epoch of the last entry of the log at a length; zero where that is not known.
    fn epoch_at(&self, length: u64) -> Epoch {
        if length == self.compacted.facts.length {
            return self.compacted.facts.epoch;
        }
        self.entry(length)
            .map_or_else(Epoch::default, |entry| entry.epoch)
    }

    /// Entries `after < index <= upto`, as far as they are kept.
    #[must_use]
    pub fn entries(&self, after: u64, upto: u64) -> Vec<LogEntry> {
        let gone = self.compacted.facts.length;
        let upto = upto.min(self.length()).saturating_sub(gone);
        let after = after.saturating_sub(gone).min(upto);
        self.log.range(after as usize..upto as usize).cloned().collect()
    }

    /// The record that counts.
    #[must_use]
    pub fn epoch(&self) -> Option<&EpochRecord> {
        self.epoch.as_ref()
    }

    /// The session, as known here.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The epoch for which the log is frozen.
    #[must_use]
    pub fn frozen(&self) -> Option<Epoch> {
        self.frozen.as_ref().map(|(epoch, _)| *epoch)
    }

    /// The sequencer of the epoch.
    #[must_use]
    pub fn sequencer(&self) -> Option<ControllerId> {
        self.epoch
            .as_ref()?
            .members
            .iter()
            .map(|(controller, _)| *controller)
            .min()
    }

    /// It was deciding changes, up to now or up to the freeze: `acknowledged` is exact.
    #[must_use]
    pub fn acknowledging(&self) -> bool {
        self.stood || matches!(self.role, Role::Alone | Role::Sequencer(Session::Standing { .. }))
    }

    /// Both held the same log up to here when they last spoke.
    #[must_use]
    pub fn in_sync(&self) -> Option<u64> {
        self.in_sync
    }

    /// Two histories that cannot both be true.
    #[must_use]
    pub fn diverged(&self) -> Option<&Diverged> {
        self.diverged.as_ref()
    }

    /// The log held more than it does, and is not repaired.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// A change is to be asked of the partner: it numbers.
    #[must_use]
    pub fn is_partners_to_decide(&self) -> bool {
        matches!(self.role, Role::Follower)
    }

    /// The answer that an action got, where it is acknowledged here.
    #[must_use]
    pub fn answered(&self, action: ActionId, change: &Change) -> Option<Result<Answer, Refusal>> {
        let index = *self.actions.get(&action)?;
        let entry = self.entry(index)?;
        if entry.request != request_digest(change) {
            return Some(Err(reused(action, index)));
        }
        (index <= self.acknowledged).then(|| Ok(self.changed(index, entry.rows.clone())))
    }

    /// Something waits for the next [`Event::Tick`]; otherwise ticks only carry news.
    #[must_use]
    pub fn waits_for_tick(&self) -> bool {
        match &self.role {
            Role::Sequencer(Session::Syncing { .. } | Session::Standing { sent: Some(0), .. }) => true,
            Role::Sequencer(Session::Standing { .. }) => self.silence.is_some(),
            Role::Idle => {
                self.frozen.is_none() && self.epoch.as_ref().is_some_and(|record| record.open || self.lost)
            }
            Role::Sequencer(Session::Starting) | Role::Alone | Role::Follower => false,
        }
    }

    /// Why nothing can be changed here now, and what would clear it.
    #[must_use]
    pub fn locked(&self) -> Option<(String, String)> {
        let lock = |reason: String, remedy: &str| Some((reason, remedy.to_owned()));
        if let Some(what) = &self.broken {
            return lock(
                format!("the database failed: {what}"),
                "free or repair the disk of this controller, then restart config-keeperd",
            );
        }
        if let Some(Diverged {
            epoch,
            index,
            ours,
            theirs,
        }) = &self.diverged
        {
            let what = format!("entry {index} of epoch {epoch} is {ours} here and {theirs} at the partner");
            return lock(
                what,
                "compare `pollux config log` of both controllers; nothing is chosen without you",
            );
        }
        if let Some((epoch, reason)) = &self.frozen {
            return lock(
                format!("epoch {epoch} is being decided: {reason}"),
                "wait: it is over when the epoch is decided",
            );
        }
        let Some(record) = &self.epoch else {
            return lock(
                "heartbeat has not said which epoch counts".into(),
                "wait for heartbeat, or see `pollux why`",
            );
        };
        if !self.is_member(record) {
            return lock(
                format!("this controller is no member of epoch {}", record.epoch),
                "wait until it has joined, or ask the partner",
            );
        }
        if !self.contains_base(record) {
            let what = format!(
                "epoch {} stands on a log of {} entries that this controller does not hold",
                record.epoch, record.base_length
            );
            return Some((what, self.way_back(record)));
        }
        if self.lost {
            let why = self
                .unrepaired
                .as_deref()
                .map_or_else(String::new, |why| format!(" ({why})"));
            let what =
                format!("the database of this controller was lost, and its log is not complete again{why}");
            return Some((what, self.way_back(record)));
        }
        if !record.open {
            return lock(
                format!("epoch {} is sealed: this controller serves alone", record.epoch),
                "wait until the partner has joined, or open the epoch",
            );
        }
        if let Some(reason) = &self.lock {
            return lock(reason.clone(), "mend the interconnect; see `pollux why`");
        }
        match &self.role {
            Role::Sequencer(Session::Syncing {
                trouble: Some(trouble),
                ..
            }) => lock(
                format!("the partner's keeper does not follow: {trouble}"),
                "see `pollux status` of both controllers",
            ),
            Role::Sequencer(Session::Starting | Session::Syncing { .. }) => lock(
                "the partner's keeper has not answered in this session yet".into(),
                "wait, or see `pollux why`",
            ),
            Role::Idle => lock("the log is being brought up to date".into(), "wait"),
            Role::Sequencer(Session::Standing { .. }) if self.is_silent() => {
                let how = self.silence.as_ref().map_or("", |(how, _)| how);
                lock(
                    format!("the partner's keeper does not answer: {how}"),
                    "see `pollux status` of both controllers; what was asked for meanwhile is done or not when it answers",
                )
            }
            Role::Alone | Role::Follower | Role::Sequencer(Session::Standing { .. }) => None,
        }
    }

    /// History from the first of `points` that is also here. Answered from what is durable.
    #[must_use]
    pub fn fetch(&self, fetch: &Fetch) -> Fetched {
        let common = |(length, hash): &&(u64, LogHash)| {
            *length <= self.durable && self.hash_at(*length) == Some(*hash)
        };
        let after = fetch.points.iter().find(common).map_or(0, |(length, _)| *length);
        let compacted = self.beginning_for(after, fetch);
        let upto = self.batch_end(after, self.durable, u64::from(fetch.limit));
        let entries = match compacted {
            None => self.entries(after, upto),
            Some(_) => vec![],
        };
        Fetched {
            after,
            entries,
            length: self.durable,
            hash: self.hash_at(self.durable).unwrap_or_default(),
            acknowledged: self.acknowledged,
            frozen: self.frozen.is_some() && self.jobs.is_empty(),
            session_epoch: self.session_epoch,
            session: self.session,
            lost: self.lost,
            compacted: compacted.map(Box::new),
        }
    }

    /// End of a batch that begins after `after`: bounded in entries and bytes, at least one entry if there is one.
    #[must_use]
    pub fn batch_end(&self, after: u64, upto: u64, limit: u64) -> u64 {
        let upto = upto.min(after.saturating_add(limit.clamp(1, BATCH_ENTRIES)));
        let mut bytes = 0;
        let gone = self.compacted.facts.length;
        let fits = |index: &u64| {
            let at = index.checked_sub(gone).and_then(|at| usize::try_from(at).ok());
            bytes += at.and_then(|at| self.weights.get(at)).copied().unwrap_or(0);
            *index == after || bytes <= BATCH_BYTES
        };
        after + (after..upto).take_while(fits).count() as u64
    }

    // Changes.

    fn change(&mut self, request: Request, action: ActionId, change: &Change) {
        if let Some(answer) = self.answered(action, change) {
            return self.answer(request, answer);
        }
        let decides = self.locked().is_none() && self.acknowledging();
        if let Some(index) = self.actions.get(&action).copied() {
            // Appended, not acknowledged: it waits for the same two disks, or nobody knows.
            return match self
                .entry(index)
                .filter(|_| decides)
                .map(|entry| entry.rows.clone())
            {
                Some(rows) => self
                    .waiters
                    .entry(index)
                    .or_default()
                    .push(Waiter { request, rows }),
                None => self.refuse(request, Refusal::InDoubt),
            };
        }
        if let Some((reason, remedy)) = self.locked() {
            return self.refuse(request, Refusal::Locked(reason, remedy));
        }
        if !decides {
            let who = self.sequencer().map_or("nobody", ControllerId::as_str);
            return self.refuse(
                request,
                Refusal::Stale(format!("{who} decides changes in this epoch")),
            );
        }
        if let Some(expected) = change
            .expected_index
            .filter(|expected| *expected != self.length())
        {
            let what = format!("the last change has index {}, not {expected}", self.length());
            return self.refuse(
                request,
                Refusal::Conflict(what, "look again, then ask with the present index".into()),
            );
        }
        let rows = match plan(&self.site, &mut self.head, action, change) {
            Ok(rows) => rows,
            Err(problems) => return self.refuse(request, Refusal::Invalid(problems)),
        };
        let index = self.length();
        if !change.dry_run && !rows.is_empty() {
            if let Err(refusal) = self.number(action, change, rows.clone()) {
                return self.refuse(request, refusal);
            }
            return self
                .waiters
                .entry(index + 1)
                .or_default()
                .push(Waiter { request, rows });
        }
        // Nothing to append; but what it was compared with must be certain before it is said.
        if index <= self.acknowledged {
            let answer = self.changed(index, rows);
            self.answer(request, Ok(answer));
        } else {
            self.waiters
                .entry(index)
                .or_default()
                .push(Waiter { request, rows });
        }
    }

    /// Gives the next number to a change.
    fn number(&mut self, action_id: ActionId, change: &Change, rows: Vec<RowOp>) -> Result<(), Refusal> {
        let Some(record) = &self.epoch else {
            return Err(Refusal::Stale("there is no epoch".into()));
        };
        let format = format_of(&rows);
        let common = self.partner_format.unwrap_or(FORMAT_FIRST).max(self.log_format);
        if format > common {
            let what = match self.partner_format {
                Some(theirs) => format!(
                    "the change needs version {format} of the log, the partner's program knows up to {theirs}"
                ),
                None => format!(
                    "the change needs version {format} of the log, and the partner has not said which it knows"
                ),
            };
            let remedy = "upgrade the partner, or start it, then ask again: it could not come back to a log that it \
                          cannot read";
            return Err(Refusal::Conflict(what, remedy.into()));
        }
        let mut entry = LogEntry {
            index: self.length() + 1,
            epoch: record.epoch,
            session: self.session,
            action_id,
            request: request_digest(change),
            rows,
            format,
            previous: self.hash_at(self.length()).unwrap_or_default(),
            hash: LogHash::default(),
        };
        let (hash, weight) = log::hash(&entry);
        if weight > CHANGE_BYTES {
            let problem = Problem {
                path: "ops".into(),
                what: format!("the change takes {weight} bytes"),
                remedy: format!("at most {CHANGE_BYTES}: make several changes of it"),
            };
            return Err(Refusal::Invalid(vec![problem]));
        }
        entry.hash = hash;
        self.push(entry).map_err(Refusal::Storage)
    }

    // Epochs.

    fn set_epoch(&mut self, request: Request, set: SetEpoch) {
        let SetEpoch {
            record,
            lock,
            incarnation,
        } = set;
        if let Some(present) = &self.epoch {
            if record.epoch < present.epoch {
                let what = format!("epoch {} is known, {} is older", present.epoch, record.epoch);
                return self.refuse(request, Refusal::Stale(what));
            }
            if record.epoch == present.epoch && record != *present {
                let what = format!(
                    "two records for epoch {}: {present:?} and {record:?}",
                    record.epoch
                );
                return self.refuse(
                    request,
                    Refusal::Conflict(what, "this must never be: save both controllers' journals".into()),
                );
            }
        }
        if self.lock.is_some() && lock.is_none() {
            // The partner is heard again: its silence of before says nothing of now.
            self.silence = None;
        }
        self.lock = lock;
        if self.lock.is_some() {
            self.doubt();
        }
        let reborn = incarnation.is_some() && incarnation != self.incarnation;
        if reborn {
            self.incarnation = incarnation;
        }
        let thawed = self
            .frozen
            .as_ref()
            .is_some_and(|(epoch, _)| *epoch <= record.epoch);
        if thawed {
            self.frozen = None;
        }
        if !record.quorum.is_empty() {
            self.site.quorum = record.quorum.iter().copied().collect();
        }
        if self.epoch.as_ref() != Some(&record) || thawed || reborn {
            self.epoch = Some(record);
            self.begin();
        }
        self.answer(request, Ok(Answer::Done));
    }

    fn freeze(&mut self, request: Request, freeze: Freeze) {
        if let Some(present) = self
            .epoch
            .as_ref()
            .filter(|present| freeze.epoch <= present.epoch)
        {
            let what = format!(
                "epoch {} is decided, {} cannot be proposed",
                present.epoch, freeze.epoch
            );
            return self.refuse(request, Refusal::Stale(what));
        }
        let epoch = self
            .frozen()
            .map_or(freeze.epoch, |epoch| epoch.max(freeze.epoch));
        self.stood = self.acknowledging();
        self.frozen = Some((epoch, freeze.reason));
        self.role = Role::Idle;
        self.doubt();
        if self.jobs.is_empty() {
            self.answer(request, Ok(Answer::Done));
        } else {
            self.draining.push(request);
        }
    }

    fn unfreeze(&mut self, request: Request, unfreeze: Unfreeze) {
        match self.frozen() {
            Some(epoch) if epoch > unfreeze.epoch => {
                let what = format!(
                    "it is frozen for epoch {epoch}, which is above {}",
                    unfreeze.epoch
                );
                return self.refuse(request, Refusal::Stale(what));
            }
            Some(_) => {
                self.frozen = None;
                self.begin();
            }
            None => {}
        }
        self.answer(request, Ok(Answer::Done));
    }

    /// Takes the role that the record gives.
    fn begin(&mut self) {
        self.role = Role::Idle;
        self.silence = None;
        let Some(record) = self.epoch.clone() else { return };
        let permitted = self.frozen.is_none() && self.diverged.is_none() && self.broken.is_none();
        if permitted && self.is_lacking(&record) {
            self.doubt();
            return self.repair(&record);
        }
        if !permitted || !self.is_member(&record) {
            return self.doubt();
        }
        self.stood = false;
        if let Some(request) = self.catching.take().and_then(|catching| catching.request) {
            self.refuse(
                request,
                Refusal::Conflict(
                    "this controller has become a member".into(),
                    "nothing needs to be done".into(),
                ),
            );
        }
        // What the record stands on is decided.
        self.show(record.base_length.max(self.acknowledged));
        if !record.open {
            return self.doubt();
        }
        if self.session_epoch < record.epoch {
            (self.session_epoch, self.session) = (record.epoch, 0);
        }
        if record.members.len() == 1 {
            self.role = Role::Alone;
            return self.acknowledge();
        }
        self.doubt();
        if self.sequencer() == Some(self.me) {
            self.session += 1;
            self.role = Role::Sequencer(Session::Starting);
            let job = Job::Session {
                epoch: record.epoch,
                session: self.session,
            };
            self.store(job, vec![Then::BeginSession]);
        } else {
            self.role = Role::Follower;
        }
    }

    /// Whoever waits is told that nobody knows.
    fn doubt(&mut self) {
        for waiter in core::mem::take(&mut self.waiters).into_values().flatten() {
            self.refuse(waiter.request, Refusal::InDoubt);
        }
    }

    fn is_member(&self, record: &EpochRecord) -> bool {
        let mine = |incarnation: Incarnation| self.incarnation.is_none_or(|own| own == incarnation);
        record
            .members
            .iter()
            .any(|(controller, incarnation)| *controller == self.me && mine(*incarnation))
    }

    fn contains_base(&self, record: &EpochRecord) -> bool {
        record.base_length <= self.durable && self.hash_at(record.base_length) == Some(record.base_hash)
    }

    // Following.

    /// The epoch, if a message of `epoch` may be listened to.
    fn follows(&self, epoch: Epoch) -> Result<(), Refusal> {
        if let Some(diverged) = &self.diverged {
            return Err(Refusal::Diverged(diverged.clone()));
        }
        if let Some(what) = &self.broken {
            return Err(Refusal::Storage(what.clone()));
        }
        match &self.epoch {
            Some(record) if record.epoch == epoch && self.role == Role::Follower => Ok(()),
            Some(record) if record.epoch == epoch => Err(Refusal::Stale(format!(
                "epoch {epoch}: this controller does not follow now (frozen, or not up to date)"
            ))),
            Some(record) => Err(Refusal::Stale(format!(
                "epoch {} is known here, not {epoch}",
                record.epoch
            ))),
            None => Err(Refusal::Stale(format!("epoch {epoch} is not known here yet"))),
        }
    }

    fn sync_in(&mut self, request: Request, sync: Sync) {
        if let Err(refusal) = self.follows(sync.epoch) {
            return self.refuse(request, refusal);
        }
        if sync.session < self.session {
            let what = format!("session {} is known, {} is older", self.session, sync.session);
            return self.refuse(request, Refusal::Stale(what));
        }
        if self.compare(sync.length, sync.entry_epoch, sync.hash) {
            return self.refuse_diverged(request);
        }
        self.session = sync.session;
        let job = Job::Session {
            epoch: sync.epoch,
            session: sync.session,
        };
        self.store(job, vec![Then::ReplySync { request, sync }]);
    }

    fn append_in(&mut self, request: Request, append: Append) {
        if let Err(refusal) = self.follows(append.epoch) {
            return self.refuse(request, refusal);
        }
        if append.session != self.session {
            let what = format!("session {} is followed, not {}", self.session, append.session);
            return self.refuse(request, Refusal::Stale(what));
        }
        for entry in append.entries {
            if entry.index > self.length() + 1 {
                break; // A gap: the answer says from where.
            }
            if entry.index <= self.length() {
                if self.compare(entry.index, entry.epoch, entry.hash) {
                    return self.refuse_diverged(request);
                }
                // What is gone here was acknowledged: this is an old message, sent again or late.
                if self.hash_at(entry.index).is_some_and(|own| own != entry.hash) {
                    let what = format!(
                        "entry {} here is of another epoch: this log must catch up",
                        entry.index
                    );
                    return self.refuse(request, Refusal::Stale(what));
                }
            } else if let Err(what) = self.push(entry) {
                return self.refuse(request, Refusal::Partner(what));
            }
        }
        self.announced = self.announced.max(append.acknowledged);
        self.in_sync = self.in_sync.max(Some(append.acknowledged.min(self.durable)));
        let then = Then::ReplyAppend {
            request,
            epoch: append.epoch,
            session: append.session,
        };
        let enqueued = self.enqueued();
        if self.length() > enqueued {
            let entries = self.entries(enqueued, self.length());
            self.store(Job::Append(entries), vec![then]);
        } else if let Some(job) = self.jobs.back_mut() {
            job.then.push(then);
        } else {
            self.then(then);
        }
        self.acknowledge();
    }

    /// True (and remembered): the same place in the same epoch holds something else here.
    fn compare(&mut self, index: u64, epoch: Epoch, theirs: LogHash) -> bool {
        let own = self.hash_at(index).filter(|_| index > 0);
        let Some(ours) = own.filter(|ours| self.epoch_at(index) == epoch && *ours != theirs) else {
            return false;
        };
        self.diverged = Some(Diverged {
            epoch,
            index,
            ours,
            theirs,
        });
        self.role = Role::Idle;
        self.doubt();
        self.effects.0.push(Effect::Moved);
        true
    }

    fn refuse_diverged(&mut self, request: Request) {
        if let Some(diverged) = self.diverged.clone() {
            self.refuse(request, Refusal::Diverged(diverged));
        }
    }

    // Sequencing.

    /// A session that `session` and `epoch` name and that may be listened to.
    fn listening(&mut self, session: u64, epoch: Epoch) -> Option<&mut Session> {
        let current =
            self.session == session && self.epoch.as_ref().is_some_and(|record| record.epoch == epoch);
        match &mut self.role {
            Role::Sequencer(state) if current => Some(state),
            _ => None, // K13: what belongs to an older session or epoch, or comes after a freeze, counts for nothing.
        }
    }

    fn sync_out(&mut self, session: u64, epoch: Epoch, answer: Result<SyncReply, String>) {
        let Some(Session::Syncing { asked, trouble }) = self.listening(session, epoch) else {
            return;
        };
        *asked = false;
        let reply = match answer {
            Ok(reply) if reply.session == session && reply.epoch == epoch => reply,
            Ok(reply) => {
                *trouble = Some(format!(
                    "it answered for epoch {}, session {}",
                    reply.epoch, reply.session
                ));
                return;
            }
            Err(what) => {
                *trouble = Some(what);
                return;
            }
        };
        self.partner_format = Some(reply.format);
        if self.compare(reply.length, reply.entry_epoch, reply.hash) {
            return;
        }
        if self.hash_at(reply.length) != Some(reply.hash) {
            return self.trouble(format!(
                "entry {} is of epoch {} there and of another here: it must catch up",
                reply.length, reply.entry_epoch
            ));
        }
        // K7: what the follower holds beyond this log was sent by an earlier session and lost here. It is taken
        // over, never appended over. All of it is of this epoch: a join makes both logs equal first.
        let mut remote = reply.length;
        for entry in reply.tail {
            remote = entry.index;
            if self.compare(entry.index, entry.epoch, entry.hash) {
                return;
            }
            if self.hash_at(entry.index) == Some(entry.hash) {
                continue;
            }
            if entry.epoch != epoch || entry.index <= self.length() {
                return self.trouble(format!(
                    "entry {} is of epoch {} there: it must catch up",
                    entry.index, entry.epoch
                ));
            }
            if let Err(what) = self.push(entry) {
                return self.trouble(what);
            }
        }
        self.role = Role::Sequencer(Session::Standing {
            remote,
            sent: None,
            told: None,
        });
        self.acknowledge();
    }

    fn trouble(&mut self, what: String) {
        if let Role::Sequencer(Session::Syncing { trouble, .. }) = &mut self.role {
            *trouble = Some(what);
        }
    }

    fn append_out(
        &mut self,
        session: u64,
        epoch: Epoch,
        last: Option<u64>,
        answer: Result<AppendReply, String>,
    ) {
        let Some(Session::Standing { remote, sent, .. }) = self.listening(session, epoch) else {
            return;
        };
        let mine = last.is_some() && *sent == last;
        if mine {
            *sent = None;
        }
        let before = *remote;
        let reply = match answer {
            Ok(reply) => reply,
            Err(how) => {
                self.silence = Some((how, self.silence.as_ref().map_or(0, |(_, ticks)| *ticks)));
                // Silence. Ask again at the next tick; until then nothing more is sent.
                return self.send_again(session, epoch, mine);
            }
        };
        if reply.session != session || reply.epoch != epoch {
            return;
        }
        self.silence = None;
        // What is gone here was acknowledged since: this is an old answer.
        let old = reply.length < self.compacted.facts.length;
        let ours = self.hash_at(reply.length);
        if ours != Some(reply.hash) && !(old && ours.is_none()) {
            let theirs = reply.hash;
            let ours = ours.unwrap_or_default();
            self.diverged = Some(Diverged {
                epoch,
                index: reply.length,
                ours,
                theirs,
            });
            self.role = Role::Idle;
            self.doubt();
            self.effects.0.push(Effect::Moved);
            return;
        }
        if mine && reply.length < before {
            // The follower holds less than it said: begin again, and find out what it holds.
            return self.begin();
        }
        if let Some(Session::Standing { remote, .. }) = self.listening(session, epoch) {
            *remote = before.max(reply.length);
        }
        self.acknowledge();
    }

    /// What was not answered is sent again at the next tick.
    fn send_again(&mut self, session: u64, epoch: Epoch, mine: bool) {
        if mine && let Some(Session::Standing { sent, .. }) = self.listening(session, epoch) {
            *sent = Some(0);
        }
    }

    /// The follower has been silent for longer than anybody has to wait.
    fn is_silent(&self) -> bool {
        self.silence
            .as_ref()
            .is_some_and(|(_, ticks)| *ticks >= SILENT_TICKS)
    }

    /// Whoever waits for a follower that is silent is told, once, that nobody knows.
    fn count_silence(&mut self) {
        let standing = matches!(self.role, Role::Sequencer(Session::Standing { .. }));
        if let Some((_, ticks)) = self.silence.as_mut().filter(|_| standing) {
            *ticks += 1;
            if *ticks == SILENT_TICKS {
                self.doubt();
                self.effects.0.push(Effect::Moved);
            }
        }
    }

    fn tick(&mut self) {
        self.count_silence();
        let acknowledged = self.acknowledged;
        let mut notice = None;
        match &mut self.role {
            Role::Sequencer(Session::Syncing { asked, .. }) => *asked = false,
            Role::Sequencer(Session::Standing { sent, told, .. }) => {
                if *sent == Some(0) {
                    *sent = None; // The last message was lost: pump sends again.
                }
                *told = Some(acknowledged);
                notice = Some(acknowledged);
            }
            Role::Sequencer(Session::Starting) | Role::Idle | Role::Alone | Role::Follower => {}
        }
        // A word at each tick, so that a follower that restarted learns what is acknowledged.
        if let Some((acknowledged, epoch)) = notice.zip(self.epoch.as_ref().map(|record| record.epoch)) {
            self.effects.0.push(Effect::Append(Append {
                epoch,
                session: self.session,
                entries: vec![],
                acknowledged,
            }));
        }
        if self.jobs.is_empty()
            && self.role == Role::Idle
            && self.epoch.as_ref().is_some_and(|record| record.open || self.lost)
        {
            self.begin(); // No state is terminal.
        }
    }

    /// Hands on what can go: to the store, to the follower, to the partner of a catch-up.
    fn pump(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let enqueued = self.enqueued();
        let appending = self.jobs.iter().any(|job| job.append);
        if self.length() > enqueued && !appending {
            let entries = self.entries(enqueued, self.length());
            self.store(Job::Append(entries), vec![]);
        }
        self.compact();
        let Some(epoch) = self.epoch.as_ref().map(|record| record.epoch) else {
            return self.pump_fetch();
        };
        let (length, durable, acknowledged, session) =
            (self.length(), self.durable, self.acknowledged, self.session);
        match self.role.clone() {
            Role::Sequencer(Session::Syncing {
                asked: false,
                trouble,
            }) => {
                let entry_epoch = self.epoch_at(durable);
                let hash = self.hash_at(durable).unwrap_or_default();
                self.effects.0.push(Effect::Sync(Sync {
                    epoch,
                    session,
                    length: durable,
                    entry_epoch,
                    hash,
                }));
                self.role = Role::Sequencer(Session::Syncing { asked: true, trouble });
            }
            Role::Sequencer(Session::Standing {
                remote,
                sent: None,
                told,
            }) if length > remote => {
                // Not further ahead of the own disk than one batch: what would be lost here fits into one answer.
                let upto = self.batch_end(remote, length.min(durable + BATCH_ENTRIES), BATCH_ENTRIES);
                if upto > remote {
                    let entries = self.entries(remote, upto);
                    self.effects.0.push(Effect::Append(Append {
                        epoch,
                        session,
                        entries,
                        acknowledged,
                    }));
                    self.role = Role::Sequencer(Session::Standing {
                        remote,
                        sent: Some(upto),
                        told: told.max(Some(acknowledged)),
                    });
                }
            }
            Role::Sequencer(Session::Standing { remote, sent, told }) if told < Some(acknowledged) => {
                self.effects.0.push(Effect::Append(Append {
                    epoch,
                    session,
                    entries: vec![],
                    acknowledged,
                }));
                self.role = Role::Sequencer(Session::Standing {
                    remote,
                    sent,
                    told: Some(acknowledged),
                });
            }
            Role::Sequencer(_) | Role::Idle | Role::Alone | Role::Follower => {}
        }
        self.pump_fetch();
    }

    // Readers.

    /// On whose word this controller may answer readers now; otherwise why it may not, and what would clear it.
    ///
    /// # Errors
    /// Reason and remedy.
    pub fn readable(&self) -> Result<Basis, (String, String)> {
        let refused = || {
            let unknown = || {
                (
                    "nobody is known to decide".to_owned(),
                    "wait, or see `pollux why`".to_owned(),
                )
            };
            self.locked().unwrap_or_else(unknown)
        };
        let Some(record) = &self.epoch else {
            return Err(refused());
        };
        let (epoch, session) = (record.epoch, self.session);
        // What heartbeat knows to be silent is not asked: that would only take its time.
        let heard = self.lock.is_none() && !self.is_silent();
        match &self.role {
            Role::Alone => Ok(Basis::Lease { epoch }),
            Role::Idle if self.is_sealed_alone(record) => Ok(Basis::Lease { epoch }),
            Role::Follower if heard => Ok(Basis::Sequencer { epoch }),
            Role::Sequencer(Session::Standing { .. }) if heard => Ok(Basis::Follower { epoch, session }),
            Role::Idle | Role::Follower | Role::Sequencer(_) => Err(refused()),
        }
    }

    /// Alone in a sealed epoch: everything that was ever acknowledged is shown.
    fn is_sealed_alone(&self, record: &EpochRecord) -> bool {
        let sound = self.frozen.is_none() && self.diverged.is_none() && self.broken.is_none() && !self.lost;
        sound
            && !record.open
            && record.members.len() == 1
            && self.is_member(record)
            && self.contains_base(record)
    }

    fn read(&mut self, request: Request) {
        match self.readable() {
            Ok(_) => self.reads.wait(request),
            Err((reason, remedy)) => self.refuse(request, Refusal::Locked(reason, remedy)),
        }
    }

    /// The follower asks while it follows this epoch: that is its word, given after its readers asked.
    fn index_in(&mut self, request: Request, ask: ReadIndex) {
        match self.readable() {
            Ok(Basis::Follower { epoch, .. }) if epoch == ask.epoch => {
                let index = self.acknowledged;
                self.answer(request, Ok(Answer::ReadAt { index }));
            }
            Ok(_) => {
                let what = format!("this controller does not decide in epoch {}", ask.epoch);
                self.refuse(request, Refusal::Stale(what));
            }
            Err((reason, remedy)) => self.refuse(request, Refusal::Locked(reason, remedy)),
        }
    }

    fn witnessed(&mut self, round: u64, answer: Result<Proof, String>) {
        let Some((basis, readers)) = self.reads.asked(round) else {
            return; // Whoever asked was told otherwise meanwhile.
        };
        if self.readable() != Ok(basis) {
            return self.turn_away(readers);
        }
        let index = match (basis, answer) {
            (Basis::Follower { epoch, session }, Ok(Proof::Followed(reply)))
                if (reply.epoch, reply.session) == (epoch, session) =>
            {
                Ok(self.acknowledged)
            }
            (Basis::Lease { epoch }, Ok(Proof::Leased(leased))) if leased == epoch => Ok(self.acknowledged),
            (Basis::Sequencer { .. }, Ok(Proof::Index(index))) => {
                self.announced = self.announced.max(index);
                self.acknowledge();
                Ok(index)
            }
            (_, Ok(_)) => Err("the answer is about another epoch or session".to_owned()),
            (_, Err(what)) => Err(what),
        };
        match index {
            Ok(index) => self.reads.until(basis, index, readers),
            Err(what) => {
                for request in readers {
                    let (reason, remedy) = basis.unconfirmed(&what);
                    self.refuse(request, Refusal::Locked(reason, remedy));
                }
            }
        }
    }

    /// What these readers waited for is not so any more.
    fn turn_away(&mut self, readers: Vec<Request>) {
        for request in readers {
            let refusal = match self.readable() {
                Ok(_) => Refusal::Stale("membership changed while it was read".to_owned()),
                Err((reason, remedy)) => Refusal::Locked(reason, remedy),
            };
            self.refuse(request, refusal);
        }
    }

    /// Answers readers whose time has come, refuses those who cannot be answered any more, asks for the others.
    fn pump_reads(&mut self) {
        if self.reads.is_idle() {
            return;
        }
        let readable = self.readable().ok();
        let void = self.reads.void(readable);
        self.turn_away(void);
        let shown = self.acknowledged;
        for request in self.reads.shown(shown) {
            self.answer(request, Ok(Answer::ReadAt { index: shown }));
        }
        let Some(basis) = readable else { return };
        let Some(round) = self.reads.ask(basis) else {
            return;
        };
        let witness = match basis {
            Basis::Follower { epoch, session } => Witness::Follower(Append {
                epoch,
                session,
                entries: vec![],
                acknowledged: shown,
            }),
            Basis::Lease { epoch } => Witness::Lease { epoch },
            Basis::Sequencer { epoch } => Witness::Sequencer(ReadIndex { epoch }),
        };
        self.effects.0.push(Effect::Witness { round, witness });
    }

    // The store.

    /// Length of the log of which the store knows.
    fn enqueued(&self) -> u64 {
        self.jobs.back().map_or(self.durable, |job| job.length)
    }

    fn store(&mut self, job: Job, then: Vec<Then>) {
        let length = match &job {
            Job::Append(entries) => self.enqueued() + entries.len() as u64,
            Job::Session { .. } | Job::Compact(_) => self.enqueued(),
            Job::Begin { with, .. } => with.facts.length,
            Job::Mend { keep, entries, .. } => keep + entries.len() as u64,
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        self.jobs.push_back(Pending {
            serial,
            length,
            append: matches!(job, Job::Append(_)),
            compact: matches!(job, Job::Compact(_)),
            then,
        });
        self.effects.0.push(Effect::Store { serial, job });
    }

    fn stored(&mut self, serial: u64) {
        // The store finishes in order: anything else would be a defect of the shell, and counting it a lie.
        assert_eq!(
            self.jobs.front().map(|job| job.serial),
            Some(serial),
            "the store finishes jobs in order"
        );
        let Some(job) = self.jobs.pop_front() else { return };
        self.durable = job.length;
        self.effects.0.push(Effect::Moved);
        for then in job.then {
            self.then(then);
        }
        self.acknowledge();
        if self.jobs.is_empty() && self.length() == self.durable {
            for request in core::mem::take(&mut self.draining) {
                self.answer(request, Ok(Answer::Done));
            }
        }
    }

    fn then(&mut self, then: Then) {
        match then {
            Then::BeginSession => {
                if self.role == Role::Sequencer(Session::Starting)
                    && !self.jobs.iter().any(|job| job.then.contains(&Then::BeginSession))
                {
                    self.role = Role::Sequencer(Session::Syncing {
                        asked: false,
                        trouble: None,
                    });
                }
            }
            Then::Restored { request, last } => {
                let length = self.durable;
                self.answer(request, Ok(Answer::Restored { length }));
                if last && self.lost {
                    self.show(length);
                    self.repaired();
                }
            }
            Then::Mended => self.show(self.announced.min(self.durable).max(self.acknowledged)),
            Then::Begun => self.show(self.compacted.facts.length.min(self.durable)),
            Then::ReplySync { request, sync } => {
                let current = self.follows(sync.epoch).and_then(|()| {
                    if sync.session == self.session {
                        Ok(())
                    } else {
                        Err(Refusal::Stale(format!("session {} has begun", self.session)))
                    }
                });
                if let Err(refusal) = current {
                    return self.refuse(request, refusal);
                }
                let length = sync.length.min(self.durable);
                let reply = SyncReply {
                    epoch: sync.epoch,
                    session: sync.session,
                    length,
                    entry_epoch: self.epoch_at(length),
                    hash: self.hash_at(length).unwrap_or_default(),
                    tail: self.entries(sync.length, self.durable),
                    format: FORMAT,
                };
                self.answer(request, Ok(Answer::Synced(reply)));
            }
            Then::ReplyAppend {
                request,
                epoch,
                session,
            } => {
                if let Err(refusal) = self.follows(epoch) {
                    return self.refuse(request, refusal);
                }
                if session != self.session {
                    return self.refuse(
                        request,
                        Refusal::Stale(format!("session {} has begun", self.session)),
                    );
                }
                let hash = self.hash_at(self.durable).unwrap_or_default();
                self.answer(
                    request,
                    Ok(Answer::Appended(AppendReply {
                        epoch,
                        session,
                        length: self.durable,
                        hash,
                    })),
                );
            }
        }
    }

    fn store_failed(&mut self, what: String) {
        self.broken = Some(what.clone());
        self.role = Role::Idle;
        self.doubt();
        let jobs = core::mem::take(&mut self.jobs);
        for then in jobs.into_iter().flat_map(|job| job.then) {
            if let Then::ReplySync { request, .. }
            | Then::ReplyAppend { request, .. }
            | Then::Restored { request, .. } = then
            {
                self.refuse(request, Refusal::Storage(what.clone()));
            }
        }
        for request in core::mem::take(&mut self.draining) {
            self.refuse(request, Refusal::Storage(what.clone()));
        }
        if let Some(request) = self.catching.take().and_then(|catching| catching.request) {
            self.refuse(request, Refusal::Storage(what));
        }
        self.effects.0.push(Effect::Moved);
    }

    // The log in memory.

    fn entry(&self, index: u64) -> Option<&LogEntry> {
        let at = index.checked_sub(self.compacted.facts.length + 1)?;
        self.log.get(usize::try_from(at).ok()?)
    }

    /// Adds an entry that comes next; otherwise says why not.
    fn push(&mut self, entry: LogEntry) -> Result<(), String> {
        follows(
            self.length(),
            self.hash_at(self.length()).unwrap_or_default(),
            &entry,
        )?;
        self.record(entry);
        Ok(())
    }

    fn record(&mut self, entry: LogEntry) {
        self.weights.push_back(log::encode_rows(&entry.rows).len());
        self.log_format = self.log_format.max(entry.format);
        self.actions.insert(entry.action_id, entry.index);
        for row in &entry.rows {
            self.head.apply(row);
        }
        self.log.push_back(entry);
    }

    /// Everything up to here is acknowledged and shown.
    fn show(&mut self, upto: u64) {
        let upto = upto.min(self.length());
        let gone = self.compacted.facts.length;
        if upto <= self.acknowledged || upto < gone {
            return;
        }
        if self.acknowledged < gone {
            // The log has begun anew: what it begins with is acknowledged.
            self.shown = Book::from(&self.compacted.tables);
            self.acknowledged = gone;
        }
        let new = (self.acknowledged - gone) as usize..(upto - gone) as usize;
        for row in self.log.range(new).flat_map(|entry| &entry.rows) {
            self.shown.apply(row);
        }
        self.acknowledged = upto;
        self.effects.0.push(Effect::Moved);
    }

    /// Counts what the role permits to count.
    fn acknowledge(&mut self) {
        let upto = match self.role {
            Role::Alone => self.durable,
            Role::Follower => self.announced.min(self.durable),
            Role::Sequencer(Session::Standing { remote, .. }) => {
                let both = self.durable.min(remote);
                self.in_sync = self.in_sync.max(Some(both));
                both
            }
            Role::Idle | Role::Sequencer(_) => return,
        };
        self.show(upto);
        let later = self.waiters.split_off(&(self.acknowledged + 1));
        for (index, waiters) in core::mem::replace(&mut self.waiters, later) {
            for waiter in waiters {
                let answer = self.changed(index, waiter.rows);
                self.answer(waiter.request, Ok(answer));
            }
        }
    }

    fn changed(&self, index: u64, rows: Vec<RowOp>) -> Answer {
        let alone = self.entry(index).is_some_and(|entry| entry.session == 0);
        Answer::Changed(Changed {
            index,
            hash: self.hash_at(index).unwrap_or_default(),
            rows,
            alone,
        })
    }

    fn answer(&mut self, request: Request, answer: Result<Answer, Refusal>) {
        self.effects.0.push(Effect::Answer { request, answer });
    }

    fn refuse(&mut self, request: Request, refusal: Refusal) {
        self.answer(request, Err(refusal));
    }
}

fn reused(action: ActionId, index: u64) -> Refusal {
    Refusal::Conflict(
        format!("action_id {action} belongs to change {index}, which asked for something else"),
        "give every change an action_id of its own".into(),
    )
}

mod coming_back;
mod compaction;
#[cfg(test)]
mod tests;
