//! A config keeper: the shipped core, and around it what the daemon has: a database that keeps whole transactions in
//! their order, calls that wait for an answer, and calls of the partner's keeper.

use pollux_api::action::ActionId;
use pollux_api::config::{
    Append, AppendReply, Change, Fetch, Fetched, Hex, LogEntry, Op, ReadIndex, Sync, SyncReply,
};
use pollux_api::id::{ControllerId, Epoch, Hash32, Incarnation, LogLength};
use pollux_config_core::keeper::{Job, Keeper as Core, Loaded, Request};
use pollux_config_core::plan::Site;
use pollux_heartbeat_core::event::ConfigStatus;
use pollux_heartbeat_core::record::Base;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What one keeper asks of the other.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Sync(Sync),
    Append(Append),
    Fetch(Fetch),
    Index(ReadIndex),
    /// Somebody at the other controller asks for this change.
    Change(u64),
}

impl Question {
    /// As one of the next version would write it.
    pub(crate) fn newer(&mut self) {
        if let Self::Append(append) = self {
            let newer = pollux_api::config::FORMAT + 1;
            append.entries.iter_mut().for_each(|entry| entry.format = newer);
        }
    }
}

/// What the other one says.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Synced(Result<SyncReply, String>),
    Appended(Result<AppendReply, String>),
    Fetched(Fetched),
    Index(u64),
    /// The change was made, as the one with this number.
    Changed(u64),
    /// Its fate is not known, or it was refused.
    NotChanged,
}

/// Between the two keepers. The number is the call's: an answer to another call is nobody's.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Question { number: u64, question: Question },
    Reply { number: u64, reply: Reply },
}

/// A call of the partner's keeper that is not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Called {
    Sync {
        session: u64,
        epoch: Epoch,
    },
    Append {
        session: u64,
        epoch: Epoch,
        last: Option<u64>,
    },
    Fetch,
    /// For readers: the number of the question.
    Witness {
        round: u64,
    },
    /// For somebody who asked for this change here.
    Change {
        entry: u64,
        deed: usize,
    },
}

/// Who waits for an answer of the core.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// Heartbeat, with this call.
    Heartbeat { number: u64 },
    /// Heartbeat, with this wish to become equal.
    CatchUp { number: u64 },
    /// The partner's keeper, with this call.
    Partner { number: u64 },
    /// A person, for this change.
    Person { entry: u64, deed: usize },
    /// The partner's keeper, for a person there.
    Carried { number: u64, entry: u64 },
    /// A person who reads.
    Reader { deed: usize },
    /// A person who brings a backup.
    #[cfg(test)]
    Restorer,
}

/// By the hash of an entry: which change it is, and the hash of what came before it.
type Links = BTreeMap<[u8; 32], (u64, Hex<32>)>;

/// Every entry that was ever written anywhere. What a keeper has let go, and what it never held, is told from here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain(Rc<RefCell<Links>>);

impl Chain {
    fn add(&self, entry: &LogEntry) {
        let link = (entry_of(entry), entry.previous);
        self.0.borrow_mut().insert(entry.hash.0, link);
    }

    /// The changes of the history that ends with this hash.
    fn story(&self, end: Hex<32>) -> Vec<u64> {
        let (links, mut at, mut story) = (self.0.borrow(), end, Vec::new());
        while let Some((entry, previous)) = links.get(&at.0) {
            story.push(*entry);
            at = *previous;
        }
        story.reverse();
        story
    }
}

/// One controller's keeper.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    me: ControllerId,
    chain: Chain,
    /// Entries that it keeps.
    keep: u64,
    /// Changes of which it has let the entries go.
    gone: Vec<u64>,
    /// How often its log was begun with the partner's rows.
    pub(crate) begun: u64,
    /// The database.
    disk: Loaded,
    /// Its log, by the numbers of the changes.
    pub(crate) log: Vec<u64>,
    /// What the services of this controller go by, if the database was lost while they ran.
    pub(crate) kept: Option<Vec<u64>>,
    /// The daemon's core; none: it does not run.
    pub(crate) core: Option<Core>,
    /// Lives of the daemon: what belongs to an earlier one does not happen any more.
    pub(crate) life: u32,
    /// Transactions that are not durable yet, oldest first.
    jobs: VecDeque<(u64, Job)>,
    /// When the last of them will be.
    pub(crate) busy_until: u64,
    next: Request,
    pub(crate) waiting: BTreeMap<Request, Waiting>,
    pub(crate) called: BTreeMap<u64, Called>,
    pub(crate) ticks: u32,
    /// What the last person who brought a backup was told.
    #[cfg(test)]
    pub(crate) restored: Option<Result<u64, String>>,
}

/// The action under which a change is asked for.
pub(crate) fn action(entry: u64) -> ActionId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&entry.to_be_bytes());
    ActionId::from_bytes(bytes)
}

/// Which change an entry is.
pub(crate) fn entry_of(entry: &LogEntry) -> u64 {
    entry.action_id.as_bytes()[8..]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A change that is right whatever was changed before: a host of so many initiators, of a fifth of a kilobyte each if there
/// are several.
pub(crate) fn change(entry: u64, initiators: usize) -> Change {
    let long = if initiators > 1 { 170 } else { 0 };
    let name = |at: usize| match at {
        0 => format!("iqn.2026-01.test:h{entry}{}", "-".repeat(long)),
        _ => format!("iqn.2026-01.test:{at}.h{entry}{}", "-".repeat(long)),
    };
    Change {
        ops: vec![Op::CreateHost {
            name: format!("h{entry}"),
            iqns: (0..initiators).map(name).collect(),
        }],
        expected_index: None,
        dry_run: false,
    }
}

fn base(length: u64, hash: Option<Hex<32>>) -> Base {
    Base {
        length: LogLength::new(length),
        hash: Hash32::from_bytes(hash.unwrap_or_default().0),
    }
}

impl Keeper {
    pub(crate) fn new(me: ControllerId, keep: u64, chain: Chain) -> Self {
        Self {
            me,
            chain,
            keep,
            gone: Vec::new(),
            begun: 0,
            disk: Loaded::default(),
            log: Vec::new(),
            kept: None,
            core: None,
            life: 0,
            jobs: VecDeque::new(),
            busy_until: 0,
            next: 0,
            waiting: BTreeMap::new(),
            called: BTreeMap::new(),
            ticks: 0,
            #[cfg(test)]
            restored: None,
        }
    }

    /// The daemon is gone. So many of the transactions that were on their way are in the database all the same.
    pub(crate) fn die(&mut self, durable: usize) -> Vec<Waiting> {
        for (_, job) in std::mem::take(&mut self.jobs).into_iter().take(durable) {
            self.commit(job);
        }
        self.core = None;
        self.life += 1;
        self.busy_until = 0;
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Transactions that are on their way.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// The daemon starts over what the database holds.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let core = Core::load(self.me, None, Site::default(), self.disk.clone())?;
        self.core = Some(core.keeping(self.keep));
        self.ticks = 0;
        Ok(())
    }

    /// A transaction is on its way.
    pub(crate) fn store(&mut self, serial: u64, job: Job) {
        self.jobs.push_back((serial, job));
    }

    /// The oldest one is durable.
    pub(crate) fn stored(&mut self) -> Option<u64> {
        let (serial, job) = self.jobs.pop_front()?;
        self.commit(job);
        Some(serial)
    }

    fn commit(&mut self, job: Job) {
        if let Job::Append(entries) | Job::Mend { entries, .. } = &job {
            entries.iter().for_each(|entry| self.chain.add(entry));
        }
        match job {
            Job::Append(entries) => self.disk.entries.extend(entries),
            Job::Session { epoch, session } => {
                (self.disk.session_epoch, self.disk.session) = (epoch, session);
                if std::mem::take(&mut self.disk.lost) {
                    self.kept = None;
                }
            }
            Job::Mend { keep, entries, .. } => {
                self.disk.entries.truncate(keep as usize - self.gone.len());
                self.disk.acknowledged = self.disk.acknowledged.min(keep);
                self.disk.entries.extend(entries);
            }
            Job::Compact(facts) => {
                let more = facts.length as usize - self.gone.len();
                for entry in self.disk.entries.drain(..more) {
                    self.gone.push(entry_of(&entry));
                    self.disk.compacted.take(&entry);
                }
                self.disk.compacted.facts.base = facts.base;
                self.disk.acknowledged = self.disk.acknowledged.max(facts.length);
            }
            Job::Begin { with, .. } => {
                self.begun += 1;
                self.gone = self.chain.story(with.facts.hash);
                self.disk.entries.clear();
                self.disk.acknowledged = with.facts.length;
                self.disk.compacted = *with;
            }
        }
        self.note();
    }

    /// The log as the judges read it.
    fn note(&mut self) {
        let kept = self.disk.entries.iter().map(entry_of);
        self.log = self.gone.iter().copied().chain(kept).collect();
    }

    /// What is acknowledged is noted when the database has nothing else to do.
    pub(crate) fn mark(&mut self) {
        if let Some(core) = self.core.as_ref().filter(|_| self.jobs.is_empty()) {
            self.disk.acknowledged = core.acknowledged().min(self.log.len() as u64);
        }
    }

    /// A ticket for a call.
    pub(crate) fn ticket(&mut self, waiting: Waiting) -> Request {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
        self.next
    }

    /// It takes changes now.
    pub(crate) fn acknowledging(&self) -> bool {
        self.core
            .as_ref()
            .is_some_and(|core| core.locked().is_none() && core.acknowledging())
    }

    /// While nothing runs: the database is a copy of when it held so many entries.
    #[cfg(test)]
    pub(crate) fn restore(&mut self, keep: usize) {
        self.disk.entries.truncate(keep - self.gone.len());
        self.disk = Loaded {
            compacted: std::mem::take(&mut self.disk.compacted),
            acknowledged: self.disk.acknowledged.min(keep as u64),
            entries: std::mem::take(&mut self.disk.entries),
            ..Loaded::default()
        };
        self.note();
    }

    /// While nothing runs: the database is damaged. It is put aside, and an empty one stands in its place.
    pub(crate) fn lose(&mut self) {
        let log = std::mem::take(&mut self.log);
        self.kept.get_or_insert(log);
        self.gone.clear();
        self.disk = Loaded {
            lost: true,
            ..Loaded::default()
        };
    }

    /// Its database was lost, and is not what it was again.
    pub(crate) fn lost(&self) -> bool {
        self.disk.lost || self.core.as_ref().is_some_and(Core::lost)
    }

    /// The database contains this point.
    pub(crate) fn holds(&self, point: Base) -> bool {
        let length = point.length.get();
        if length == 0 {
            return true;
        }
        let facts = &self.disk.compacted.facts;
        let kept = length
            .checked_sub(facts.length + 1)
            .and_then(|at| self.disk.entries.get(at as usize));
        let hash = kept.map(|entry| entry.hash).or_else(|| {
            let known = [Some((facts.length, facts.hash)), facts.base];
            known
                .into_iter()
                .flatten()
                .find(|(at, _)| *at == length)
                .map(|(_, hash)| hash)
        });
        hash.is_some() && base(length, hash) == point
    }

    /// What it shows to readers, change by change.
    pub(crate) fn shows(&self) -> Option<Vec<u64>> {
        let core = self.core.as_ref()?;
        let kept = core.entries(0, core.acknowledged());
        let mut story = self.chain.story(core.compacted().facts.hash);
        story.extend(kept.iter().map(entry_of));
        story.truncate(core.acknowledged() as usize);
        Some(story)
    }

    /// It stands still.
    pub(crate) fn frozen(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.frozen().is_some())
    }

    /// What it says to heartbeat; none: it does not run.
    pub(crate) fn seen(&self) -> Option<ConfigStatus> {
        let core = self.core.as_ref()?;
        let at = |length| base(length, core.hash_at(length));
        Some(ConfigStatus {
            log: at(core.durable()),
            acknowledged: at(core.acknowledged()),
            acknowledging: core.acknowledging(),
            in_sync: core.in_sync() == Some(core.durable()),
            diverged: core.diverged().is_some(),
            lost: core.lost(),
            frozen: core.frozen(),
            epoch: core.epoch().map(|record| record.epoch),
        })
    }

    /// The durable log contains this point.
    pub(crate) fn contains(&self, point: Base) -> Option<bool> {
        let core = self.core.as_ref()?;
        let length = point.length.get();
        Some(length <= core.durable() && base(length, core.hash_at(length)) == point)
    }

    /// The incarnation that heartbeat tells it.
    pub(crate) fn incarnation(number: u64) -> Option<Incarnation> {
        Some(Incarnation::new(number))
    }
}
