//! A config keeper, reduced to its promises: one log, one sequencer, acknowledged when both hold it or when the record
//! says "alone and open". Durable at once; what crosses the wire may be late or lost.

use pollux_api::id::{ControllerId, Epoch, Hash32, LogLength};
use pollux_heartbeat_core::effect::Lock;
use pollux_heartbeat_core::event::ConfigStatus;
use pollux_heartbeat_core::record::{Base, Mode, Record};

/// Hash of a history: every entry matters, and so does its place.
fn chain(log: &[u64]) -> Hash32 {
    if log.is_empty() {
        return Hash32::ZERO;
    }
    let mut lanes = [1_u64, 2, 3, 4];
    for entry in log {
        for (at, lane) in lanes.iter_mut().enumerate() {
            *lane = (*lane ^ entry)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * at as u64)
                .rotate_left(29);
        }
    }
    let mut bytes = [0; 32];
    for (lane, eight) in lanes.iter().zip(bytes.chunks_exact_mut(8)) {
        eight.copy_from_slice(&lane.to_le_bytes());
    }
    Hash32::from_bytes(bytes)
}

/// The point at the end of a log.
pub(crate) fn base_of(log: &[u64]) -> Base {
    Base {
        length: LogLength::new(log.len() as u64),
        hash: chain(log),
    }
}

/// Between the two keepers.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// From the sequencer: here is what follows `from`.
    Append {
        epoch: Epoch,
        session: u64,
        from: usize,
        before: Hash32,
        entries: Vec<u64>,
    },
    /// From the follower: this is my durable log now.
    Have { epoch: Epoch, session: u64, log: Base },
    /// From the joiner: let me become equal.
    Fetch { round: u64 },
    /// From a keeper that is frozen: my whole log.
    Log { round: u64, log: Vec<u64> },
}

/// One controller's keeper.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    me: ControllerId,
    /// Durable.
    pub(crate) log: Vec<u64>,
    pub(crate) record: Option<Record>,
    pub(crate) lock: Option<Lock>,
    freezing: Option<Epoch>,
    frozen: Option<Epoch>,
    session: u64,
    /// What this session acknowledged.
    pub(crate) acknowledged: usize,
    follower: Base,
    /// The catch-up that is asked for: its answer must carry this number.
    pub(crate) round: Option<u64>,
    rounds: u64,
}

impl Keeper {
    pub(crate) fn new(me: ControllerId) -> Self {
        Self {
            me,
            log: Vec::new(),
            record: None,
            lock: None,
            freezing: None,
            frozen: None,
            session: 0,
            acknowledged: 0,
            follower: Base::default(),
            round: None,
            rounds: 0,
        }
    }

    /// The controller starts: the log is all that is left.
    pub(crate) fn boot(&mut self) {
        let session = self.session;
        *self = Self {
            log: std::mem::take(&mut self.log),
            session,
            ..Self::new(self.me)
        };
    }

    fn sequencer(&self, incarnation: u64) -> Option<Record> {
        let record = self.record?;
        let lowest = if record.members.get(ControllerId::A).is_some() {
            ControllerId::A
        } else {
            ControllerId::B
        };
        let mine = record
            .members
            .get(self.me)
            .is_some_and(|i| i.get() == incarnation);
        (lowest == self.me && mine && record.mode == Mode::Open).then_some(record)
    }

    /// This controller may append and acknowledge.
    pub(crate) fn acknowledging(&self, incarnation: u64) -> bool {
        self.sequencer(incarnation).is_some() && self.lock.is_none() && self.frozen.is_none()
    }

    pub(crate) fn status(&self, incarnation: u64) -> ConfigStatus {
        let log = base_of(&self.log);
        ConfigStatus {
            log,
            acknowledged: base_of(&self.log[..self.acknowledged.min(self.log.len())]),
            acknowledging: self.sequencer(incarnation).is_some(),
            in_sync: self.follower == log,
            diverged: false,
        }
    }

    /// A record is set: a session of its own begins with it.
    pub(crate) fn epoch(&mut self, record: Record, lock: Option<Lock>) {
        self.lock = lock;
        if self.record.is_some_and(|known| known.epoch >= record.epoch) {
            return;
        }
        self.record = Some(record);
        self.session += 1;
        self.follower = Base::default();
        // What was fetched under an earlier record is not the log of a member.
        self.round = None;
        // What the record rests on was decided with it; what was acknowledged stays so.
        self.acknowledged = self.acknowledged.max(record.base.length.get() as usize);
        if self.frozen.is_some_and(|epoch| epoch <= record.epoch) {
            self.frozen = None;
        }
    }

    /// A freeze is asked for; it takes a while.
    pub(crate) fn begin_freeze(&mut self, epoch: Epoch) {
        self.freezing = Some(epoch);
    }

    /// The freeze is complete. False: it was given up meanwhile.
    pub(crate) fn freeze(&mut self, epoch: Epoch) -> bool {
        if self.freezing != Some(epoch) || self.record.is_some_and(|record| record.epoch >= epoch) {
            return false;
        }
        self.frozen = Some(self.frozen.map_or(epoch, |old| old.max(epoch)));
        true
    }

    pub(crate) fn unfreeze(&mut self, epoch: Epoch) {
        if self.frozen == Some(epoch) {
            self.frozen = None;
        }
        if self.freezing == Some(epoch) {
            self.freezing = None;
        }
    }

    pub(crate) fn contains(&self, base: Base) -> bool {
        let length = base.length.get() as usize;
        self.log.get(..length).is_some_and(|log| chain(log) == base.hash)
    }

    /// A change is asked for here. `Some`: taken (not yet acknowledged).
    pub(crate) fn append(&mut self, incarnation: u64, entry: u64) -> bool {
        let may = self.acknowledging(incarnation);
        if may {
            self.log.push(entry);
        }
        may
    }

    /// What the sequencer sends until the follower has everything.
    pub(crate) fn push(&self, incarnation: u64) -> Option<Message> {
        let record = self.sequencer(incarnation)?;
        if !record.members.both() || !self.acknowledging(incarnation) || self.follower == base_of(&self.log) {
            return None;
        }
        let from = if self.contains(self.follower) {
            self.follower.length.get() as usize
        } else {
            0
        };
        Some(Message::Append {
            epoch: record.epoch,
            session: self.session,
            from,
            before: chain(&self.log[..from]),
            entries: self.log[from..].to_vec(),
        })
    }

    /// Entries that are acknowledged now, and were not before.
    pub(crate) fn settle(&mut self, incarnation: u64) -> Vec<u64> {
        let Some(record) = self.sequencer(incarnation) else {
            return Vec::new();
        };
        if !self.acknowledging(incarnation) {
            return Vec::new();
        }
        let durable = if !record.members.both() {
            self.log.len()
        } else if self.contains(self.follower) {
            self.follower.length.get() as usize
        } else {
            0
        };
        let from = self.acknowledged.min(durable);
        self.acknowledged = self.acknowledged.max(durable);
        self.log[from..durable].to_vec()
    }

    /// The catch-up is asked for.
    pub(crate) fn fetch(&mut self) -> Message {
        self.rounds += 1;
        self.round = Some(self.rounds);
        Message::Fetch { round: self.rounds }
    }

    /// Takes a message; returns the answer.
    pub(crate) fn receive(&mut self, incarnation: u64, message: Message) -> Option<Message> {
        match message {
            Message::Append {
                epoch,
                session,
                from,
                before,
                entries,
            } => {
                let record = self.record?;
                let mine = record
                    .members
                    .get(self.me)
                    .is_some_and(|i| i.get() == incarnation);
                if record.epoch != epoch || !mine || self.frozen.is_some() {
                    return None;
                }
                let fits = self.log.get(..from).is_some_and(|log| chain(log) == before);
                // Never cut what the record rests on.
                if fits && from as u64 >= record.base.length.get().min(self.log.len() as u64) {
                    let same =
                        self.log.len() >= from + entries.len() && self.log[from..].starts_with(&entries);
                    if !same {
                        self.log.truncate(from);
                        self.log.extend(entries);
                    }
                }
                Some(Message::Have {
                    epoch,
                    session,
                    log: base_of(&self.log),
                })
            }
            Message::Have { epoch, session, log } => {
                let present = self.record.is_some_and(|record| record.epoch == epoch);
                if present && session == self.session && self.frozen.is_none() {
                    self.follower = log;
                }
                None
            }
            Message::Fetch { round } => self.frozen.is_some().then(|| Message::Log {
                round,
                log: self.log.clone(),
            }),
            Message::Log { round, log } => {
                // An answer to an earlier question may be older than the log that stands now.
                if self.round == Some(round) {
                    self.round = None;
                    self.log = log;
                    self.acknowledged = 0;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::{Generation, Incarnation};
    use pollux_heartbeat_core::record::Members;

    /// K3: whoever has joined appends; what was fetched for the joining comes late and would cut that off.
    #[test]
    fn a_log_that_was_fetched_before_the_record_is_not_a_members_log() {
        let mut keeper = Keeper::new(ControllerId::A);
        keeper.log = vec![1, 2];
        let Message::Fetch { round } = keeper.fetch() else {
            unreachable!("a fetch is a fetch")
        };
        let first = Incarnation::new(1);
        let members = Members::alone(ControllerId::A, first).with(ControllerId::B, first);
        let joined = Record {
            epoch: Epoch::new(2),
            members,
            mode: Mode::Open,
            base: base_of(&[1, 2]),
            ..Record::genesis(Generation::new(1))
        };
        keeper.epoch(joined, None);
        assert!(keeper.append(1, 3));
        keeper.receive(
            1,
            Message::Log {
                round,
                log: vec![1, 2],
            },
        );
        assert_eq!(keeper.log, [1, 2, 3]);
    }
}
