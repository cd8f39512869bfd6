//! What happened and how long each part of it took.
//!
//! An incident is one takeover, switchover, giveback or start. While it runs, phases are opened and closed with the
//! instants at which things were asked and confirmed; when it has ended it is written to a journal, one JSON object
//! per line, and can be read after any number of restarts. Only the daemon that drives an incident writes it, so the
//! partner is asked for its own.

use pollux_api::heartbeat::{Incident, Phase, TimelineQuery};
use pollux_api::id::{ControllerId, Epoch, PoolId};
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Incidents that are kept in memory, and lines to which the journal is cut at start.
const KEPT: usize = 200;

/// The incidents of one controller.
#[derive(Debug)]
pub struct Timeline {
    journal: PathBuf,
    ended: VecDeque<Incident>,
    running: Vec<Incident>,
}

impl Timeline {
    /// Reads the journal; lines that are no incidents (a line torn by a power cut) are dropped.
    ///
    /// # Errors
    /// The journal is there and cannot be read or rewritten.
    pub fn open(journal: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(journal) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let lines = text.lines().count();
        let mut ended: VecDeque<Incident> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        while ended.len() > KEPT {
            ended.pop_front();
        }
        if lines != ended.len() {
            let mut kept = Vec::new();
            for incident in &ended {
                serde_json::to_writer(&mut kept, incident)?;
                kept.push(b'\n');
            }
            pollux_platform::file::replace(journal, &kept, 0o644)?;
        }
        Ok(Self {
            journal: journal.to_owned(),
            ended,
            running: Vec::new(),
        })
    }

    /// Begins an incident, unless one with this action runs already.
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
        self.running.push(Incident {
            action_id: action_id.to_owned(),
            kind: kind.to_owned(),
            controller,
            epoch,
            caused_by: None,
            cause,
            started_unix_ms,
            started_ns,
            phases: Vec::new(),
            outcome: "running".to_owned(),
        });
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
    ///
    /// # Errors
    /// The journal cannot be written; the incident is kept in memory all the same.
    pub fn end(&mut self, action_id: &str, outcome: &str) -> io::Result<()> {
        let Some(at) = self
            .running
            .iter()
            .position(|incident| incident.action_id == action_id)
        else {
            return Ok(());
        };
        let mut incident = self.running.remove(at);
        incident.outcome = outcome.to_owned();
        let mut line = serde_json::to_vec(&incident)?;
        line.push(b'\n');
        self.ended.push_back(incident);
        if self.ended.len() > KEPT {
            self.ended.pop_front();
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.journal)?
            .write_all(&line)
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
        timeline.end("one", "done").unwrap();
        let mut torn = std::fs::read(&journal).unwrap();
        torn.extend_from_slice(b"{\"action_id\":\"tw");
        std::fs::write(&journal, torn).unwrap();

        let timeline = Timeline::open(&journal).unwrap();
        let found = timeline.query(&TimelineQuery::default());
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].phases[0].start_us, found[0].phases[0].length_us),
            (-1000, Some(1000))
        );
        assert_eq!(found[0].phases[1].length_us, None);
        assert_eq!(std::fs::read_to_string(&journal).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_newest_comes_first_and_a_running_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut timeline = Timeline::open(&dir.path().join("timeline.jsonl")).unwrap();
        begun(&mut timeline, "one");
        timeline.end("one", "done").unwrap();
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
}
