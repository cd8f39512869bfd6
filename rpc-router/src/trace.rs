//! The post office's book: every letter that passed, under which action, and how it ended.
//!
//! [`Ring`] holds the newest records in memory and answers "what did this action cause"; [`Journal`] writes them to
//! `var/trace.jsonl`, so that the answer survives a restart: a call that may change something when it comes and when it
//! is answered, so that a router that dies in between does not hide it, all others when they are answered. What only the
//! partner saw, it has told in time, so that the answer survives the partner too. Both are bounded: the ring drops its
//! oldest records, the journal begins a new file and keeps one old one.
//!
//! What only looks something up, and was caused by nothing, comes in floods: whoever waits for a state asks for it again
//! and again. It has a ring of its own, so that it cannot wash out what happened.
//!
//! It must never hold up a message: the journal has a thread and a bounded queue of its own, and what does not fit is
//! dropped and counted.

use pollux_api::action::ActionId;
use pollux_api::id::ControllerId;
use pollux_api::router::{Outcome, TraceRecord};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Records of changes and effects in memory, about 10 MB.
pub const KEPT: usize = 32_768;
/// Records in memory of what only looked something up.
pub const LOOKS: usize = 4096;
/// Records that may wait for the disk.
const QUEUE: usize = 4096;
/// A journal file with so many records is put aside: both files together are what the ring holds, about 12 MB.
const ROTATE_AT: usize = KEPT / 2;

/// One message as the ring keeps it: a [`TraceRecord`] whose names are shared with all others of the same name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its action.
    pub action_id: ActionId,
    /// The action in whose course it was sent.
    pub parent: Option<ActionId>,
    /// The router that saw it.
    pub at: ControllerId,
    /// Method, without the controller.
    pub method: Arc<str>,
    /// Sender.
    pub from: Arc<str>,
    /// Receiver.
    pub to: Arc<str>,
    /// When it came, µs of Unix time.
    pub start_unix_us: u64,
    /// Time until it was answered, µs.
    pub duration_us: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Entry {
    /// For others.
    #[must_use]
    pub fn record(&self) -> TraceRecord {
        TraceRecord {
            action_id: self.action_id,
            parent: self.parent,
            at: self.at,
            method: self.method.to_string(),
            from: self.from.to_string(),
            to: self.to.to_string(),
            start_unix_us: self.start_unix_us,
            duration_us: self.duration_us,
            outcome: self.outcome.clone(),
        }
    }
}

impl From<TraceRecord> for Entry {
    fn from(record: TraceRecord) -> Self {
        Self {
            action_id: record.action_id,
            parent: record.parent,
            at: record.at,
            method: record.method.into(),
            from: record.from.into(),
            to: record.to.into(),
            start_unix_us: record.start_unix_us,
            duration_us: record.duration_us,
            outcome: record.outcome,
        }
    }
}

/// Where a record stands in a [`Ring`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Among changes and effects, with its number there.
    Kept(u64),
    /// Among what only looked something up.
    Look(u64),
}

/// The newest records, in the order in which the messages came.
#[derive(Debug)]
pub struct Ring {
    kept: Bounded,
    looks: Bounded,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            kept: Bounded::new(KEPT),
            looks: Bounded::new(LOOKS),
        }
    }
}

#[derive(Debug)]
struct Bounded {
    records: VecDeque<Entry>,
    /// Number of the first record in `records`, counted from the beginning of time.
    first: u64,
    most: usize,
}

impl Bounded {
    fn new(most: usize) -> Self {
        Self {
            records: VecDeque::new(),
            first: 0,
            most,
        }
    }

    fn push(&mut self, record: Entry) -> u64 {
        if self.records.len() == self.most {
            self.records.pop_front();
            self.first += 1;
        }
        self.records.push_back(record);
        self.first + self.records.len() as u64 - 1
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.records.get_mut(index)
    }
}

impl Ring {
    /// Notes a message; the place is for [`Ring::finish`]. `change`: it may change something.
    pub fn push(&mut self, record: Entry, change: bool) -> Place {
        if change || record.parent.is_some() {
            Place::Kept(self.kept.push(record))
        } else {
            Place::Look(self.looks.push(record))
        }
    }

    /// The record at this place, unless it was dropped meanwhile.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Entry> {
        match place {
            Place::Kept(number) => self.kept.get_mut(number),
            Place::Look(number) => self.looks.get_mut(number),
        }
    }

    /// The message was answered; the finished record, unless it was dropped meanwhile.
    pub fn finish(&mut self, place: Place, now_unix_us: u64, outcome: Outcome) -> Option<&Entry> {
        let record = self.get_mut(place)?;
        record.duration_us = Some(now_unix_us.saturating_sub(record.start_unix_us));
        record.outcome = outcome;
        Some(record)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.kept.records.iter().chain(&self.looks.records)
    }

    /// All records of the actions in `roots` and of every action that they caused, at most `limit`; whether there
    /// were more.
    pub fn descendants(&self, roots: &[ActionId], limit: usize) -> (Vec<TraceRecord>, bool) {
        let mut actions: HashSet<ActionId> = roots.iter().copied().collect();
        // A cause is noted before its effects, so one pass finds nearly all of them; the loop ends with the first
        // pass that finds none.
        loop {
            let before = actions.len();
            for record in &self.kept.records {
                if record.parent.is_some_and(|parent| actions.contains(&parent)) {
                    actions.insert(record.action_id);
                }
            }
            if actions.len() == before {
                break;
            }
        }
        let mut found = self
            .all()
            .filter(|record| actions.contains(&record.action_id))
            .map(Entry::record);
        let records = found.by_ref().take(limit).collect();
        (records, found.next().is_some())
    }

    /// The newest records of actions without a cause, at most `limit`, in order of time; whether there were more.
    pub fn roots(&self, limit: usize) -> (Vec<TraceRecord>, bool) {
        let mut found: Vec<&Entry> = self.all().filter(|record| record.parent.is_none()).collect();
        found.sort_by_key(|record| record.start_unix_us);
        let left_out = found.len().saturating_sub(limit);
        let newest = found.iter().skip(left_out);
        (newest.map(|record| record.record()).collect(), left_out > 0)
    }
}

/// What both routers saw of the same message is one record: the receiver's, if it has one.
pub fn merge(mut records: Vec<TraceRecord>) -> Vec<TraceRecord> {
    let key = |record: &TraceRecord| {
        (
            record.action_id,
            record.method.clone(),
            record.from.clone(),
            record.to.clone(),
        )
    };
    let at_receiver = |record: &TraceRecord| record.to.starts_with(record.at.as_str());
    let received: HashSet<_> = records
        .iter()
        .filter(|record| at_receiver(record))
        .map(key)
        .collect();
    records.retain(|record| at_receiver(record) || !received.contains(&key(record)));
    records.sort_by_key(|record| record.start_unix_us);
    records
}

/// Hands records to the thread that writes them.
#[derive(Debug)]
pub struct Journal {
    queue: SyncSender<TraceRecord>,
}

impl Journal {
    /// Opens `trace.jsonl` in `directory` and returns the newest records that it and its predecessor hold. A line that
    /// was torn by a crash is skipped.
    pub fn open(directory: &Path) -> io::Result<(Self, Ring)> {
        let path = directory.join("trace.jsonl");
        let mut ring = Ring::default();
        // A change stands there twice, from when it came and from when it was answered.
        let mut open = HashMap::new();
        let mut lines = 0;
        for path in [&aside(&path), &path] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            lines = 0;
            for line in BufReader::new(file).split(b'\n') {
                lines += 1;
                let Ok(record) = serde_json::from_slice::<TraceRecord>(&line?) else {
                    continue;
                };
                let key = (
                    record.action_id,
                    record.at,
                    record.start_unix_us,
                    record.method.clone(),
                    record.to.clone(),
                );
                if record.outcome == Outcome::Pending {
                    open.insert(key, ring.push(record.into(), true));
                } else if let Some(begun) = open.remove(&key).and_then(|place| ring.get_mut(place)) {
                    *begun = record.into();
                } else {
                    ring.push(record.into(), true);
                }
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let (queue, records) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("trace-journal".into())
            .spawn(move || {
                if let Err(error) = write(&path, file, lines, &records) {
                    // The ring still answers; what is lost is only its survival of a restart.
                    tracing::error!(path = %path.display(), %error, "trace journal stopped");
                }
            })?;
        Ok((Self { queue }, ring))
    }

    /// Queues a record; false if there was no room for it.
    pub fn write(&self, record: &Entry) -> bool {
        !matches!(
            self.queue.try_send(record.record()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

fn write(path: &Path, file: File, mut lines: usize, records: &Receiver<TraceRecord>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    // A line that a crash tore must not swallow the first new one.
    file.write_all(b"\n")?;
    while let Ok(record) = records.recv() {
        let mut next = Some(record);
        while let Some(record) = next {
            let line = serde_json::to_vec(&record)?;
            lines += 1;
            file.write_all(&line)?;
            file.write_all(b"\n")?;
            next = records.try_recv().ok();
        }
        file.flush()?;
        if lines >= ROTATE_AT {
            std::fs::rename(path, aside(path))?;
            file = BufWriter::new(OpenOptions::new().create(true).append(true).open(path)?);
            lines = 0;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u8, parent: Option<u8>, at: ControllerId, to: &str) -> TraceRecord {
        TraceRecord {
            action_id: ActionId::from_bytes([id; 16]),
            parent: parent.map(|parent| ActionId::from_bytes([parent; 16])),
            at,
            method: "x.y".into(),
            from: "a/shell".into(),
            to: to.into(),
            start_unix_us: u64::from(id),
            duration_us: None,
            outcome: Outcome::Pending,
        }
    }

    #[test]
    fn an_action_is_found_with_all_that_it_caused() {
        let mut ring = Ring::default();
        // The effect of 3 was noted before 3 itself: clocks and threads do such things.
        for (id, parent) in [(1, None), (4, Some(3)), (2, Some(1)), (3, Some(2)), (5, None)] {
            ring.push(record(id, parent, ControllerId::A, "a/x").into(), true);
        }
        let (found, more) = ring.descendants(&[ActionId::from_bytes([1; 16])], 10);
        let mut ids: Vec<u8> = found
            .iter()
            .map(|record| record.action_id.as_bytes()[0])
            .collect();
        ids.sort_unstable();
        assert_eq!((ids, more), (vec![1, 2, 3, 4], false));
        assert!(ring.descendants(&[ActionId::from_bytes([1; 16])], 3).1);
        assert_eq!(ring.roots(10).0.len(), 2);
    }

    #[test]
    fn the_ring_is_bounded_and_a_dropped_record_is_not_finished() {
        let mut ring = Ring::default();
        let entry = |id| Entry::from(record(id, None, ControllerId::A, "a/x"));
        let first = ring.push(entry(1), true);
        let second = ring.push(entry(2), true);
        for _ in 1..KEPT {
            ring.push(entry(3), true);
        }
        assert_eq!(ring.kept.records.len(), KEPT);
        assert!(ring.finish(first, 9, Outcome::Done).is_none());
        assert_eq!(
            ring.finish(second, 9, Outcome::Done).unwrap().duration_us,
            Some(7)
        );
    }

    #[test]
    fn who_asks_again_and_again_does_not_wash_out_what_happened() {
        let mut ring = Ring::default();
        let entry = |id, parent| Entry::from(record(id, parent, ControllerId::A, "a/x"));
        ring.push(entry(1, None), true);
        ring.push(entry(2, Some(1)), false);
        for _ in 0..=KEPT {
            ring.push(entry(3, None), false);
        }
        assert_eq!(ring.looks.records.len(), LOOKS);
        assert_eq!(ring.descendants(&[ActionId::from_bytes([1; 16])], 10).0.len(), 2);
    }

    #[test]
    fn a_message_that_both_saw_is_one_record() {
        let sent = record(1, None, ControllerId::A, "b/x");
        let received = record(1, None, ControllerId::B, "b/x");
        let lost = record(2, None, ControllerId::A, "b/x");
        assert_eq!(
            merge(vec![lost.clone(), sent, received.clone()]),
            [received, lost]
        );
    }

    #[test]
    fn the_journal_survives_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let kept = record(1, None, ControllerId::A, "a/x");
        let mut torn = serde_json::to_vec(&kept).unwrap();
        torn.extend_from_slice(b"\n{\"action_id\":\"01");
        std::fs::write(directory.path().join("trace.jsonl"), torn).unwrap();
        let (journal, ring) = Journal::open(directory.path()).unwrap();
        assert_eq!(ring.roots(10).0, [kept]);
        assert!(journal.write(&record(2, None, ControllerId::A, "a/x").into()));
        written(directory.path(), 2);
    }

    #[test]
    fn a_change_that_was_not_answered_is_known_and_an_answered_one_is_there_once() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        let begun = [1, 2].map(|id| record(id, None, ControllerId::A, "a/x"));
        let answered = TraceRecord {
            duration_us: Some(5),
            outcome: Outcome::Done,
            ..begun[0].clone()
        };
        for record in [&begun[0], &begun[1], &answered] {
            assert!(journal.write(&record.clone().into()));
        }
        written(directory.path(), 3);
        let (_, ring) = Journal::open(directory.path()).unwrap();
        assert_eq!(ring.roots(10).0, [answered, begun[1].clone()]);
    }

    #[test]
    fn the_files_are_bounded_and_hold_what_the_ring_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.jsonl");
        let line = serde_json::to_string(&record(1, None, ControllerId::A, "a/x")).unwrap();
        std::fs::write(&path, format!("{line}\n").repeat(ROTATE_AT - 1)).unwrap();
        let (journal, ring) = Journal::open(directory.path()).unwrap();
        assert_eq!(ring.kept.records.len(), ROTATE_AT - 1);
        assert!(journal.write(&record(2, None, ControllerId::A, "a/x").into()));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Between the old file's new name and the new file there is none.
        let is_new = || std::fs::metadata(&path).is_ok_and(|file| file.len() == 0);
        while !aside(&path).exists() || !is_new() {
            assert!(std::time::Instant::now() < end, "a full file was not put aside");
            std::thread::yield_now();
        }
        assert!(journal.write(&record(3, None, ControllerId::A, "a/x").into()));
        written(directory.path(), 1);
        let (_, ring) = Journal::open(directory.path()).unwrap();
        assert_eq!(ring.kept.records.len(), ROTATE_AT + 1);
    }

    /// Waits until so many whole records are in the journal.
    fn written(directory: &Path, records: usize) {
        let found = || {
            let text = std::fs::read_to_string(directory.join("trace.jsonl")).unwrap();
            text.lines()
                .filter(|line| serde_json::from_str::<TraceRecord>(line).is_ok())
                .count()
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while found() < records {
            assert!(
                std::time::Instant::now() < end,
                "the journal was not written within 10 s"
            );
            std::thread::yield_now();
        }
    }
}
