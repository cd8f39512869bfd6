//! What happened and how long each part of it took.
//!
//! An incident is one takeover, switchover, giveback, restart, deletion or stop. While it runs, phases are opened and closed with
//! the instants at which things were asked and confirmed; when it begins and when it has ended it is written to a journal, one JSON
//! object per line, by a thread of its own, and can be read after any number of restarts. Only the daemon that drives an incident
//! writes it, so the partner is asked for its own.

use pollux_api::heartbeat::{Incident, Phase, TimelineQuery};
use pollux_api::id::{ControllerId, Epoch, PoolId};
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

/// Incidents that are kept.
const KEPT: usize = 200;
/// Phases of an incident that are kept: one whose pool cannot be imported is tried again for as long as it takes.
const PHASES: usize = 200;
/// Lines that may wait to be written. Whoever decides never waits for the disk of the system.
const WAITING: usize = 1000;

/// The incidents of one controller.
#[derive(Debug)]
pub struct Timeline {
    ended: VecDeque<Incident>,
    /// How many of those, the oldest, are of an earlier process: what they say in its clock is nothing that goes on.
    earlier: usize,
    running: Vec<Incident>,
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Timeline {
    /// Reads the journal; lines that are no incidents (a line torn by a power cut) are dropped. What ran when the daemon ended has
    /// ended with it.
    ///
    /// # Errors
    /// The journal is there and cannot be read or rewritten, or no thread can be started.
    pub fn open(journal: &Path) -> io::Result<Self> {
        let mut ended = read(journal)?;
        for incident in &mut ended {
            if incident.outcome == RUNNING {
                "failed: the daemon has ended before it".clone_into(&mut incident.outcome);
            }
        }
        write(journal, &ended)?;
        let (lines, waiting) = sync_channel(WAITING);
        let (path, count) = (journal.to_owned(), ended.len());
        let writer = std::thread::Builder::new()
            .name("timeline".into())
            .spawn(move || keep(&path, count, &waiting))?;
        Ok(Self {
            earlier: ended.len(),
            ended,
            running: Vec::new(),
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    /// Begins an incident, unless one with this action runs already. One that had ended goes on: the same move is tried again.
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one record, each of its own type"
    )]
    pub fn begin(
        &mut self,
        action_id: &str,
        kind: &str,
        controller: ControllerId,
        epoch: Epoch,
        cause: String,
        started_unix_ms: u64,
        started_ns: u64,
    ) {
        if self
            .running
            .iter()
            .any(|incident| incident.action_id == action_id)
        {
            return;
        }
        let mut own = self.ended.iter().enumerate().skip(self.earlier);
        let before = own
            .find(|(_, incident)| incident.action_id == action_id)
            .map(|(at, _)| at);
        let incident = match before.and_then(|at| self.ended.remove(at)) {
            Some(again) => Incident {
                kind: kind.to_owned(),
                epoch,
                cause,
                caused_by: None,
                outcome: RUNNING.to_owned(),
                ..again
            },
            None => Incident {
                action_id: action_id.to_owned(),
                kind: kind.to_owned(),
                controller,
                epoch,
                caused_by: None,
                cause,
                started_unix_ms,
                started_ns,
                phases: Vec::new(),
                outcome: RUNNING.to_owned(),
            },
        };
        self.write_down(&incident);
        self.running.push(incident);
    }

    /// Hands a line to the writer; a disk that does not take so many loses this one, and the daemon goes on.
    fn write_down(&self, incident: &Incident) {
        let Ok(mut line) = serde_json::to_vec(incident) else {
            return;
        };
        line.push(b'\n');
        let taken = self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(line).is_ok());
        if !taken {
            tracing::error!(
                action_id = incident.action_id,
                outcome = incident.outcome,
                "the timeline's journal takes nothing: this line is not in it"
            );
        }
    }

    /// The incident with this action, while it runs.
    pub fn running(&mut self, action_id: &str) -> Option<&mut Incident> {
        self.running
            .iter_mut()
            .find(|incident| incident.action_id == action_id)
    }

    /// Opens a phase at `at_ns`, unless it is open.
    pub fn open_phase(&mut self, action_id: &str, name: &str, pool: Option<PoolId>, at_ns: u64) {
        let Some(incident) = self.running(action_id) else {
            return;
        };
        let open = |phase: &&mut Phase| phase.name == name && phase.pool == pool && phase.length_us.is_none();
        if incident.phases.iter_mut().find(open).is_none() {
            let start_us = offset_us(incident.started_ns, at_ns);
            if incident.phases.len() == PHASES {
                incident.phases.remove(0);
            }
            incident.phases.push(Phase {
                name: name.to_owned(),
                pool,
                start_us,
                length_us: None,
                note: None,
            });
        }
    }

    /// Closes a phase at `at_ns`; one that was not open is ignored.
    pub fn close_phase(
        &mut self,
        action_id: &str,
        name: &str,
        pool: Option<PoolId>,
        at_ns: u64,
        note: Option<String>,
    ) {
        let Some(incident) = self.running(action_id) else {
            return;
        };
        let started_ns = incident.started_ns;
        let open = |phase: &&mut Phase| phase.name == name && phase.pool == pool && phase.length_us.is_none();
        if let Some(phase) = incident.phases.iter_mut().find(open) {
            let end = offset_us(started_ns, at_ns);
            phase.length_us = Some(u64::try_from(end - phase.start_us).unwrap_or(0));
            phase.note = note;
        }
    }

    /// Ends an incident: phases that are still open stay without a length, which says that they never ended.
    pub fn end(&mut self, action_id: &str, outcome: &str) {
        let Some(at) = self
            .running
            .iter()
            .position(|incident| incident.action_id == action_id)
        else {
            return;
        };
        let mut incident = self.running.remove(at);
        outcome.clone_into(&mut incident.outcome);
        self.write_down(&incident);
        self.ended.push_back(incident);
        if self.ended.len() > KEPT {
            self.ended.pop_front();
            self.earlier = self.earlier.saturating_sub(1);
        }
    }

    /// Incidents, newest first.
    #[must_use]
    pub fn query(&self, query: &TimelineQuery) -> Vec<Incident> {
        let limit = if query.limit == 0 {
            usize::MAX
        } else {
            query.limit as usize
        };
        let all = self.running.iter().rev().chain(self.ended.iter().rev());
        all.filter(|incident| {
            query
                .action_id
                .as_ref()
                .is_none_or(|id| *id == incident.action_id || Some(id) == incident.caused_by.as_ref())
        })
        .take(limit)
        .cloned()
        .collect()
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // Whether its thread panicked or not: there is nothing more to be written.
            let _ = writer.join();
        }
    }
}

/// How an incident has ended that has not.
const RUNNING: &str = "running";

/// The incidents of a journal, each as it was written last, oldest first.
fn read(journal: &Path) -> io::Result<VecDeque<Incident>> {
    let text = match std::fs::read_to_string(journal) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut kept: VecDeque<Incident> = VecDeque::new();
    for incident in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Incident>(line).ok())
    {
        // The same action can have been begun in two processes, and then it has begun twice.
        let same = |older: &Incident| {
            (&older.action_id, older.started_unix_ms) == (&incident.action_id, incident.started_unix_ms)
        };
        kept.retain(|older| !same(older));
        kept.push_back(incident);
    }
    while kept.len() > KEPT {
        kept.pop_front();
    }
    Ok(kept)
}

fn write(journal: &Path, incidents: &VecDeque<Incident>) -> io::Result<()> {
    let mut text = Vec::new();
    for incident in incidents {
        serde_json::to_writer(&mut text, incident)?;
        text.push(b'\n');
    }
    pollux_platform::file::replace(journal, &text, 0o644)
}

/// Writes lines until nobody has any more; cuts the journal to what is kept when it has grown to three times that.
fn keep(journal: &Path, mut count: usize, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        count += 1;
        let written = append(journal, &line).and_then(|()| {
            if count > 3 * KEPT {
                let kept = read(journal)?;
                count = kept.len();
                write(journal, &kept)?;
            }
            Ok(())
        });
        if let Err(error) = written {
            tracing::error!(journal = %journal.display(), %error, "the timeline's journal cannot be written");
        }
    }
}

fn append(journal: &Path, line: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(journal)?
        .write_all(line)
}

fn offset_us(from_ns: u64, to_ns: u64) -> i64 {
    i64::try_from((i128::from(to_ns) - i128::from(from_ns)) / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(timeline: &mut Timeline, id: &str) {
        timeline.begin(
            id,
            "takeover",
            ControllerId::B,
            Epoch::new(3),
            "silence".into(),
            0,
            5_000_000,
        );
    }

    #[test]
    fn an_incident_survives_a_restart_and_a_torn_line_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("timeline.jsonl");
        let mut timeline = Timeline::open(&journal).unwrap();
        begun(&mut timeline, "one");
        timeline.open_phase("one", "detect", None, 4_000_000);
        timeline.close_phase("one", "detect", None, 5_000_000, None);
        timeline.open_phase("one", "fence", None, 5_000_000);
        timeline.end("one", "done");
        begun(&mut timeline, "two");
        drop(timeline);
        let mut torn = std::fs::read(&journal).unwrap();
        torn.extend_from_slice(b"{\"action_id\":\"tw");
        std::fs::write(&journal, torn).unwrap();

        let timeline = Timeline::open(&journal).unwrap();
        let found = timeline.query(&TimelineQuery::default());
        assert_eq!(found.len(), 2);
        assert!(
            found[0].outcome.starts_with("failed: the daemon has ended"),
            "{found:?}"
        );
        let found = &found[1..];
        assert_eq!(
            (found[0].phases[0].start_us, found[0].phases[0].length_us),
            (-1000, Some(1000))
        );
        assert_eq!(found[0].phases[1].length_us, None);
        assert_eq!(std::fs::read_to_string(&journal).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_newest_comes_first_and_a_running_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut timeline = Timeline::open(&dir.path().join("timeline.jsonl")).unwrap();
        begun(&mut timeline, "one");
        timeline.end("one", "done");
        begun(&mut timeline, "two");
        let found = timeline.query(&TimelineQuery {
            action_id: None,
            limit: 1,
        });
        assert_eq!(
            (found[0].action_id.as_str(), found[0].outcome.as_str()),
            ("two", "running")
        );
    }

    #[test]
    fn what_an_earlier_process_has_told_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("timeline.jsonl");
        let mut timeline = Timeline::open(&journal).unwrap();
        begun(&mut timeline, "one");
        timeline.end("one", "done");
        drop(timeline);
        let mut timeline = Timeline::open(&journal).unwrap();
        let (kind, cause) = ("move", "a pool changes hands".to_owned());
        timeline.begin("one", kind, ControllerId::B, Epoch::new(4), cause, 7, 9_000_000);
        timeline.end("one", "done");
        drop(timeline);
        let found = Timeline::open(&journal).unwrap().query(&TimelineQuery::default());
        let told: Vec<_> = found
            .iter()
            .map(|incident| (incident.kind.as_str(), incident.started_unix_ms))
            .collect();
        assert_eq!(told, [("move", 7), ("takeover", 0)]);
    }

    #[test]
    fn one_that_is_tried_again_is_the_same_and_the_journal_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("timeline.jsonl");
        let mut timeline = Timeline::open(&journal).unwrap();
        for attempt in 0..PHASES + 10 {
            begun(&mut timeline, "one");
            timeline.open_phase("one", "export", None, attempt as u64);
            timeline.close_phase("one", "export", None, attempt as u64, None);
            timeline.end("one", "aborted");
        }
        let found = timeline.query(&TimelineQuery::default());
        assert_eq!((found.len(), found[0].phases.len()), (1, PHASES));
        drop(timeline);
        assert!(std::fs::read_to_string(&journal).unwrap().lines().count() <= 3 * KEPT);
    }
}
