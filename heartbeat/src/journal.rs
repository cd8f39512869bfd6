//! From the core's notes to incidents: which action a pool's move belongs to, and what its phases are called.
//!
//! A takeover, a start or a request is an incident with an action of its own. A planned move runs on both controllers:
//! each keeps its half under the action that is made from what both know, the pool and the generation of the claim, so
//! that `pollux trace` finds both halves from either side, and from the request that caused them.

use crate::timeline::Timeline;
use pollux_api::{
    action::ActionId,
    id::{ControllerId, Epoch, Generation, PoolId},
};
use pollux_heartbeat_core::effect::Note;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

/// Clocks at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// CLOCK_MONOTONIC, ns.
    pub ns: u64,
    /// Wall clock, ms since 1970: for people only.
    pub unix_ms: u64,
}

/// A pool's part in an incident.
#[derive(Clone, Copy, Debug)]
struct Part {
    incident: ActionId,
    cause: Option<ActionId>,
    phase: Option<&'static str>,
    /// It goes on where it was.
    stays: bool,
}

/// Follows the notes of one core.
pub struct Journal {
    controller: ControllerId,
    timeline: Arc<Mutex<Timeline>>,
    epoch: Epoch,
    suspected: Option<(u64, String)>,
    /// The incident of the record that is being decided, or was decided last and has pools to move.
    membership: Option<ActionId>,
    /// The action under which the last record was decided here.
    decision: Option<(Epoch, ActionId)>,
    requests: BTreeMap<PoolId, (ActionId, &'static str)>,
    parts: BTreeMap<PoolId, Part>,
    /// Incidents of which a pool has gone on where it was.
    unmoved: BTreeMap<ActionId, String>,
    generations: BTreeMap<PoolId, Generation>,
}

impl Journal {
    /// An empty one.
    #[must_use]
    pub fn new(controller: ControllerId, timeline: Arc<Mutex<Timeline>>) -> Self {
        Self {
            controller,
            timeline,
            epoch: Epoch::default(),
            suspected: None,
            membership: None,
            decision: None,
            requests: BTreeMap::new(),
            parts: BTreeMap::new(),
            unmoved: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }

    /// A person asked for these pools to move.
    pub fn requested(&mut self, pools: &[PoolId], action: ActionId, kind: &'static str) {
        for pool in pools {
            self.requests.insert(*pool, (action, kind));
        }
    }

    /// The action that brought this record, if it was decided here.
    #[must_use]
    pub fn decided(&self, epoch: Epoch) -> Option<ActionId> {
        self.decision
            .filter(|(decided, _)| *decided == epoch)
            .map(|(_, action)| action)
    }

    /// A pool is about to change hands; `generation` is that of the claim under which it will be held afterwards.
    pub fn link(&mut self, pool: PoolId, generation: Generation) {
        if !self.parts.contains_key(&pool) {
            self.generations.insert(pool, generation);
        }
    }

    /// The action under which a pool is moved now, and its cause.
    pub fn action(&mut self, pool: PoolId, now: Now) -> (ActionId, Option<ActionId>) {
        let part = self.part(pool, now);
        (part.incident, part.cause)
    }

    fn part(&mut self, pool: PoolId, now: Now) -> Part {
        if let Some(part) = self.parts.get(&pool) {
            return *part;
        }
        let request = self.requests.remove(&pool);
        let part = match (request, self.membership) {
            (Some((cause, kind)), _) => {
                let incident = self.move_action(pool);
                self.begin(incident, kind, "an operator asked for it".to_owned(), now);
                if let Some(running) = self.timeline().running(&incident.to_string()) {
                    running.caused_by = Some(cause.to_string());
                }
                Part {
                    incident,
                    cause: Some(cause),
                    phase: None,
                    stays: false,
                }
            }
            (None, Some(incident)) => Part {
                incident,
                cause: None,
                phase: None,
                stays: false,
            },
            (None, None) => {
                let incident = self.move_action(pool);
                self.begin(incident, "move", "a pool changes hands".to_owned(), now);
                Part {
                    incident,
                    cause: None,
                    phase: None,
                    stays: false,
                }
            }
        };
        self.parts.insert(pool, part);
        part
    }

    /// The action of a move outside a change of membership: both controllers make the same one.
    fn move_action(&self, pool: PoolId) -> ActionId {
        let Some(generation) = self.generations.get(&pool) else {
            return pollux_runtime::ctx::new_action();
        };
        let mut hasher = blake3::Hasher::new_derive_key("pollux 2026 action of a pool's move");
        hasher.update(pool.as_bytes());
        hasher.update(&generation.get().to_le_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        // Version 8: an identity by a rule of our own (RFC 9562, 5.8).
        ActionId::from_bytes(uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
    }

    fn begin(&self, incident: ActionId, kind: &str, cause: String, now: Now) {
        self.timeline().begin(
            &incident.to_string(),
            kind,
            self.controller,
            self.epoch,
            cause,
            now.unix_ms,
            now.ns,
        );
    }

    /// Takes a note of the core.
    pub fn note(&mut self, note: &Note, now: Now) {
        match note {
            Note::Suspected { since, cause } => self.suspected = Some((since.as_nanos(), cause.clone())),
            Note::Wire { alive: true } => self.suspected = None,
            Note::Proposing { epoch } => {
                self.epoch = *epoch;
                let incident = self.open_membership(now);
                self.timeline().open_phase(&incident, "arbitrate", None, now.ns);
            }
            Note::Abandoned { reason, .. } => {
                if let Some(incident) = self.membership.take() {
                    self.end(incident, &format!("aborted: {reason}"));
                }
            }
            Note::Decided(record) => {
                self.epoch = record.epoch;
                if let Some(incident) = self.membership {
                    self.decision = Some((record.epoch, incident));
                    self.timeline().close_phase(
                        &incident.to_string(),
                        "arbitrate",
                        None,
                        now.ns,
                        Some(record.to_string()),
                    );
                    if record.members.both() {
                        self.finish_membership();
                    }
                }
            }
            Note::Fencing(victim) => {
                let incident = self.open_membership(now);
                let mut timeline = self.timeline();
                if let Some(running) = timeline.running(&incident) {
                    running.cause = format!(
                        "{}; fencing {} (incarnation {})",
                        running.cause, victim.controller, victim.incarnation
                    );
                }
            }
            Note::Pool { pool, state } => self.pool_state(*pool, state, now),
            Note::Wire { alive: false }
            | Note::Fenced { .. }
            | Note::Left
            | Note::LastEnd { .. }
            | Note::Claimed { .. }
            | Note::Formatted { .. }
            | Note::Alarm { .. } => {}
        }
    }

    /// The incident of the present change of membership; begun if there is none.
    fn open_membership(&mut self, now: Now) -> String {
        let incident = *self
            .membership
            .get_or_insert_with(pollux_runtime::ctx::new_action);
        let name = incident.to_string();
        let suspicion = self.suspected.clone();
        let (kind, cause) = match &suspicion {
            Some((_, cause)) => ("takeover", cause.clone()),
            None => ("membership", "the members of the epoch change".to_owned()),
        };
        self.begin(incident, kind, cause, now);
        if let Some((since, _)) = suspicion {
            let mut timeline = self.timeline();
            let detected = timeline
                .running(&name)
                .is_some_and(|i| i.phases.iter().any(|p| p.name == "detect"));
            if !detected {
                timeline.open_phase(&name, "detect", None, since);
                timeline.close_phase(&name, "detect", None, now.ns, None);
            }
        }
        name
    }

    fn pool_state(&mut self, pool: PoolId, state: &'static str, now: Now) {
        let (phase, moving) = match state {
            "fencing" => (Some("fence"), true),
            "claiming" => (Some("claim"), true),
            "importing" => (Some("import"), true),
            "lease-wait" => (Some("lease"), true),
            "giving" => (Some("release"), true),
            // Their steps are timed one by one where they are done.
            "publishing" | "releasing" | "resuming" | "stopping" => (None, true),
            _ => (None, false),
        };
        if !moving && !self.parts.contains_key(&pool) {
            return;
        }
        let part = self.part(pool, now);
        let name = part.incident.to_string();
        {
            let mut timeline = self.timeline();
            if let Some(before) = part.phase.filter(|before| phase != Some(*before)) {
                timeline.close_phase(&name, before, Some(pool), now.ns, None);
            }
            if let Some(phase) = phase {
                timeline.open_phase(&name, phase, Some(pool), now.ns);
            }
        }
        if moving {
            let stays = part.stays || state == "resuming";
            self.parts.insert(pool, Part { phase, stays, ..part });
            return;
        }
        self.parts.remove(&pool);
        if part.stays && state == "serving" {
            let why = self.timeline().running(&name).and_then(|running| {
                let mut own = running
                    .phases
                    .iter()
                    .rev()
                    .filter(|phase| phase.pool == Some(pool));
                own.find_map(|phase| phase.note.clone())
            });
            let outcome = why.map_or_else(|| "aborted".to_owned(), |why| format!("failed: {why}"));
            self.unmoved.insert(part.incident, outcome);
        }
        let others: BTreeSet<_> = self.parts.values().map(|part| part.incident).collect();
        if !others.contains(&part.incident) {
            if self.membership == Some(part.incident) {
                self.membership = None;
            }
            let outcome = match (self.unmoved.remove(&part.incident), state) {
                (Some(outcome), _) => outcome,
                (None, "serving") => "done".to_owned(),
                (None, other) => format!("done: {other}"),
            };
            self.end(part.incident, &outcome);
        }
    }

    fn finish_membership(&mut self) {
        let Some(incident) = self.membership else { return };
        if !self.parts.values().any(|part| part.incident == incident) {
            self.membership = None;
            self.end(incident, "done");
        }
    }

    fn end(&self, incident: ActionId, outcome: &str) {
        if let Err(error) = self.timeline().end(&incident.to_string(), outcome) {
            tracing::error!(%error, "the timeline's journal cannot be written");
        }
    }

    fn timeline(&self) -> std::sync::MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::heartbeat::TimelineQuery;

    /// What a request is said to have become, after its pool has gone through these states.
    fn outcome(states: &[&'static str], exported: Option<&str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::open(&dir.path().join("timeline.jsonl")).unwrap();
        let timeline = Arc::new(Mutex::new(timeline));
        let mut journal = Journal::new(ControllerId::A, timeline.clone());
        let pool = PoolId::from_bytes([1; 16]);
        journal.requested(&[pool], pollux_runtime::ctx::new_action(), "switchover");
        let at = |ns| Now { ns, unix_ms: 0 };
        for (ns, state) in (1..).zip(states.iter().copied()) {
            journal.note(&Note::Pool { pool, state }, at(ns));
            if state == "releasing" {
                let (action, _) = journal.action(pool, at(ns));
                let (name, note) = (action.to_string(), exported.map(str::to_owned));
                let mut timeline = timeline.lock().unwrap();
                timeline.open_phase(&name, "export", Some(pool), ns);
                timeline.close_phase(&name, "export", Some(pool), ns, note);
            }
        }
        let told = timeline.lock().unwrap().query(&TimelineQuery::default());
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].outcome.clone()
    }

    #[test]
    fn a_move_that_ends_where_it_began_is_not_done() {
        assert_eq!(outcome(&["releasing", "giving", "given"], None), "done: given");
        assert_eq!(
            outcome(&["claiming", "importing", "publishing", "serving"], None),
            "done"
        );
        let back = ["releasing", "resuming", "publishing", "serving"];
        assert_eq!(outcome(&back, None), "aborted");
        assert_eq!(outcome(&back, Some("busy")), "failed: busy");
    }
}
