//! What happened in the enclosure, on the clock that all its processes share.
//!
//! Every fault and every start and end of a process is one line of `chassis.jsonl`, written at the moment it is true,
//! so that a timeline can be drawn over the journals of the daemons. The journal of the run before is kept beside it.

use pollux_api::{
    chassis::{Event, JOURNAL},
    id::ControllerId,
};
use pollux_platform::clock::monotonic_ns;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

/// Events that [`Journal::after`] can still tell; older ones are in the file.
const KEPT: usize = 65_536;

/// The journal; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    last: u64,
    recent: VecDeque<Event>,
}

impl Journal {
    /// Starts a new journal in the array's directory.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(JOURNAL);
        match std::fs::rename(&path, dir.join(format!("{JOURNAL}.1"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::create_new(&path)?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                file,
                last: 0,
                recent: VecDeque::new(),
            })),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records an event now; answers when that was.
    pub(crate) fn record(
        &self,
        controller: Option<ControllerId>,
        kind: &str,
        object: impl Into<Option<String>>,
        detail: impl Into<String>,
    ) -> u64 {
        let mut inner = self.lock();
        // The stamp is taken under the lock, so that numbers and times rise together.
        let at_ns = monotonic_ns();
        inner.last += 1;
        let event = Event {
            seq: inner.last,
            at_ns,
            controller,
            kind: kind.to_owned(),
            object: object.into(),
            detail: detail.into(),
        };
        tracing::debug!(
            controller = event.controller.map(|c| c.as_str()),
            kind,
            object = event.object,
            "{}",
            event.detail
        );
        let mut line = serde_json::to_vec(&event).expect("an event is plain data");
        line.push(b'\n');
        // A full disk must not stop the enclosure; the event is still in memory.
        if let Err(error) = inner.file.write_all(&line) {
            tracing::warn!(%error, "cannot write {JOURNAL}");
        }
        inner.recent.push_back(event);
        if inner.recent.len() > KEPT {
            inner.recent.pop_front();
        }
        at_ns
    }

    /// Events with a higher number than `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let inner = self.lock();
        let first = inner.recent.partition_point(|event| event.seq <= seq);
        inner.recent.range(first..).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_memory_tell_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for run in 1..=2 {
            let journal = Journal::create(dir.path()).unwrap();
            journal.record(None, "start", None, format!("run {run}"));
            journal.record(Some(ControllerId::A), "leg", "0".to_owned(), "cut");
            let text = std::fs::read_to_string(dir.path().join(JOURNAL)).unwrap();
            let file: Vec<Event> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(file, journal.after(0));
            assert_eq!(journal.after(1), file[1..]);
            assert!(journal.after(2).is_empty());
        }
        let before = std::fs::read_to_string(dir.path().join(format!("{JOURNAL}.1"))).unwrap();
        assert!(before.contains("run 1"), "the journal of the run before is kept");
    }
}
