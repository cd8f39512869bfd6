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
    /// Its export was begun.
    released: bool,
    /// It goes on where it was.
    stays: bool,
}

/// The change of membership that goes on, or whose pools still move.
#[derive(Clone, Copy, Debug)]
struct Membership {
    incident: ActionId,
    decided: bool,
}

/// What the core knows of a pool when a note is told.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Generation of the claim to which its move leads.
    pub leads_to: Option<Generation>,
    /// What went wrong last.
    pub problem: Option<String>,
}

/// Follows the notes of one core.
pub struct Journal {
    controller: ControllerId,
    timeline: Arc<Mutex<Timeline>>,
    epoch: Epoch,
    suspected: Option<(u64, String)>,
    membership: Option<Membership>,
    /// The epoch that counts now, and the change of it that a person has asked for.
    base: Epoch,
    wanted: Option<(ActionId, &'static str, Epoch)>,
    /// The action under which the last record was decided here.
    decision: Option<(Epoch, ActionId)>,
    /// What people have asked for and has not begun.
    requests: BTreeMap<PoolId, (ActionId, &'static str)>,
    parts: BTreeMap<PoolId, Part>,
    /// Incidents that run, and what has become of the pools whose part in them is over for now; none: it is well.
    open: BTreeMap<ActionId, BTreeMap<PoolId, Option<String>>>,
    /// That everything is let go, under which action.
    stopping: Option<ActionId>,
    /// Deletions, of which the last one of a pool may still run.
    deletions: BTreeMap<PoolId, ActionId>,
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
            base: Epoch::default(),
            wanted: None,
            decision: None,
            requests: BTreeMap::new(),
            parts: BTreeMap::new(),
            open: BTreeMap::new(),
            stopping: None,
            deletions: BTreeMap::new(),
        }
    }

    /// The epoch that counts now.
    pub fn at(&mut self, epoch: Epoch) {
        self.base = epoch;
        self.epoch = self.epoch.max(epoch);
    }

    /// A person asked for these pools to move, or for another epoch.
    pub fn requested(&mut self, pools: &[PoolId], action: ActionId, kind: &'static str) {
        match kind {
            // It is called off under the move that it calls off.
            "abort" => {}
            "takeover" | "membership" | "quorum" => self.wanted = Some((action, kind, self.base)),
            kind => {
                for pool in pools {
                    self.requests.insert(*pool, (action, kind));
                }
            }
        }
    }

    /// The action that brought this record, if it was decided here.
    #[must_use]
    pub fn decided(&self, epoch: Epoch) -> Option<ActionId> {
        self.decision
            .filter(|(decided, _)| *decided == epoch)
            .map(|(_, action)| action)
    }

    /// The action under which a pool is moved now, and its cause.
    pub fn action(&mut self, pool: PoolId, turn: &Turn, now: Now) -> (ActionId, Option<ActionId>) {
        let part = self.part(pool, turn, now);
        (part.incident, part.cause)
    }

    fn part(&mut self, pool: PoolId, turn: &Turn, now: Now) -> Part {
        if let Some(part) = self.parts.get(&pool) {
            return *part;
        }
        let request = self.requests.remove(&pool);
        if let Some(Membership { incident, .. }) = self.membership {
            if let Some((cause, _)) = request {
                self.caused(incident, cause);
            }
            return self.join(pool, incident, request.map(|(cause, _)| cause));
        }
        if let Some((cause, kind)) = request {
            let incident = move_action(pool, turn);
            self.begin(incident, kind, "an operator asked for it".to_owned(), now);
            self.caused(incident, cause);
            return self.join(pool, incident, Some(cause));
        }
        // One that has failed is tried again.
        let tried = self.open.iter().find(|(_, pools)| pools.contains_key(&pool));
        if let Some(incident) = tried.map(|(incident, _)| *incident) {
            return self.join(pool, incident, None);
        }
        let incident = move_action(pool, turn);
        self.begin(incident, "move", "a pool changes hands".to_owned(), now);
        self.join(pool, incident, None)
    }

    fn join(&mut self, pool: PoolId, incident: ActionId, cause: Option<ActionId>) -> Part {
        // What was called off in this incident stays called off while the pool comes back.
        let over = self.open.entry(incident).or_default().remove(&pool).flatten();
        let part = Part {
            incident,
            cause,
            phase: None,
            released: false,
            stays: over.is_some_and(|over| over.starts_with("aborted")),
        };
        self.parts.insert(pool, part);
        part
    }

    fn caused(&self, incident: ActionId, cause: ActionId) {
        if let Some(running) = self.timeline().running(&incident.to_string()) {
            running.caused_by = Some(cause.to_string());
        }
    }

    fn begin(&mut self, incident: ActionId, kind: &str, cause: String, now: Now) {
        self.timeline().begin(
            &incident.to_string(),
            kind,
            self.controller,
            self.epoch,
            cause,
            now.unix_ms,
            now.ns,
        );
        self.open.entry(incident).or_default();
    }

    /// The configuration has this pool no more. The action of its deletion, which whoever carries it out ends.
    pub fn deleting(&mut self, pool: PoolId, now: Now) -> ActionId {
        self.requests.remove(&pool);
        if let Some(part) = self.parts.remove(&pool) {
            let gone = Some("the pool was deleted".to_owned());
            self.open.entry(part.incident).or_default().insert(pool, gone);
        }
        // Asked for again before it has come to its end, it is the same.
        let under_way = self.deletions.get(&pool).copied();
        if let Some(incident) = under_way
            && self.timeline().running(&incident.to_string()).is_some()
        {
            return incident;
        }
        let incident = pollux_runtime::ctx::new_action();
        let cause = "the configuration has this pool no more";
        self.begin(incident, "delete", cause.to_owned(), now);
        self.open.remove(&incident);
        self.deletions.insert(pool, incident);
        incident
    }

    /// Everything is let go.
    pub fn stopping(&mut self, reason: &str, now: Now) -> ActionId {
        // It is asked for until it is done.
        if let Some(incident) = self.stopping {
            return incident;
        }
        let incident = pollux_runtime::ctx::new_action();
        self.begin(incident, "stop", reason.to_owned(), now);
        self.open.remove(&incident);
        self.stopping = Some(incident);
        incident
    }

    /// It was, or not.
    pub fn stopped(&mut self, result: &Result<(), String>) {
        if let Some(incident) = self.stopping {
            self.end(incident, &outcome(result.as_ref().err()));
        }
    }

    /// No incident runs and nobody has asked for anything.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.open.is_empty() && self.requests.is_empty()
    }

    /// After each event: ends the incidents whose pools have come to rest. `moves` says whether a pool moves now, or will as soon
    /// as it can; one that is not known does not. `arbitrates`: another epoch is wanted or being decided.
    pub fn settle(
        &mut self,
        pools: &BTreeSet<PoolId>,
        moves: impl Fn(PoolId) -> bool,
        arbitrates: bool,
        now: Now,
    ) {
        let overtaken: Vec<PoolId> = self
            .requests
            .keys()
            .copied()
            .filter(|pool| !moves(*pool))
            .collect();
        for pool in overtaken {
            if let Some((cause, kind)) = self.requests.remove(&pool) {
                let incident = pollux_runtime::ctx::new_action();
                self.begin(incident, kind, format!("an operator asked for pool {pool}"), now);
                self.caused(incident, cause);
                let why = "it was overtaken by something else, or not answered in time";
                self.open
                    .entry(incident)
                    .or_default()
                    .insert(pool, Some(why.to_owned()));
            }
        }
        let running: BTreeSet<ActionId> = self.parts.values().map(|part| part.incident).collect();
        let membership = self.membership;
        let rests = |incident: &ActionId, over: &BTreeMap<PoolId, Option<String>>| match membership {
            Some(open) if open.incident == *incident => {
                (open.decided || !arbitrates) && !pools.iter().any(|pool| moves(*pool))
            }
            _ => !over.keys().any(|pool| moves(*pool)),
        };
        let ended: Vec<ActionId> = self
            .open
            .iter()
            .filter(|(incident, over)| !running.contains(incident) && rests(incident, over))
            .map(|(incident, _)| *incident)
            .collect();
        for incident in ended {
            let over = self.open.remove(&incident).unwrap_or_default();
            if membership.is_some_and(|open| open.incident == incident) {
                self.membership = None;
            }
            self.end(incident, &outcome(over.into_values().flatten().next().as_ref()));
        }
    }

    /// Takes a note of the core; of a pool, with what the core knows of it.
    pub fn note(&mut self, note: &Note, turn: &Turn, now: Now) {
        match note {
            Note::Suspected { since, cause } => self.suspected = Some((since.as_nanos(), cause.clone())),
            Note::Wire { alive: true } => self.suspected = None,
            Note::Proposing { epoch } => {
                self.epoch = *epoch;
                let incident = self.open_membership(now);
                self.timeline().open_phase(&incident, "arbitrate", None, now.ns);
            }
            Note::Abandoned { reason, .. } => self.abandoned(reason, now),
            Note::Decided(record) => {
                self.epoch = record.epoch;
                if let Some(membership) = &mut self.membership {
                    membership.decided = true;
                    let incident = membership.incident;
                    self.decision = Some((record.epoch, incident));
                    self.timeline().close_phase(
                        &incident.to_string(),
                        "arbitrate",
                        None,
                        now.ns,
                        Some(record.to_string()),
                    );
                    // What begins to move from now on, moves between two: each move is one of its own.
                    if record.members.both() {
                        self.membership = None;
                    }
                }
            }
            Note::Fencing(victim) => {
                let known = self.membership.is_some();
                let incident = self.open_membership(now);
                // An earlier daemon has seen the decision.
                if let Some(membership) = self.membership.as_mut().filter(|_| !known) {
                    membership.decided = true;
                }
                let mut timeline = self.timeline();
                if let Some(running) = timeline.running(&incident) {
                    running.cause = format!(
                        "{}; fencing {} (incarnation {})",
                        running.cause, victim.controller, victim.incarnation
                    );
                }
            }
            Note::Pool { pool, state } => self.pool_state(*pool, state, turn, now),
            // What was asked for with it does not come.
            Note::Formatted { result: Err(_), .. } => self.wanted = None,
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
        if let Some(open) = self.membership {
            return open.incident.to_string();
        }
        let incident = pollux_runtime::ctx::new_action();
        self.membership = Some(Membership {
            incident,
            decided: false,
        });
        let name = incident.to_string();
        let suspicion = self.suspected.clone();
        // What was asked for in an earlier epoch was for that one.
        let wanted = self.wanted.take().filter(|(_, _, base)| *base == self.base);
        // Nor was another disk, or a configuration that can be changed, asked for of one that dies.
        let wanted = wanted.filter(|(_, kind, _)| suspicion.is_none() || *kind == "takeover");
        let (kind, cause) = match (&suspicion, wanted) {
            (_, Some((_, kind, _))) => (kind, "an operator asked for it".to_owned()),
            (Some((_, cause)), None) => ("takeover", cause.clone()),
            (None, None) => ("membership", "the members of the epoch change".to_owned()),
        };
        self.begin(incident, kind, cause, now);
        if let Some((cause, ..)) = wanted {
            self.caused(incident, cause);
        }
        if let Some((since, _)) = suspicion {
            let mut timeline = self.timeline();
            timeline.open_phase(&name, "detect", None, since);
            timeline.close_phase(&name, "detect", None, now.ns, None);
        }
        name
    }

    /// A proposal was given up. What an earlier one has begun to move goes on.
    fn abandoned(&mut self, reason: &str, now: Now) {
        let Some(Membership { incident, decided }) = self.membership else {
            return;
        };
        let why = format!("aborted: {reason}");
        self.timeline().close_phase(
            &incident.to_string(),
            "arbitrate",
            None,
            now.ns,
            Some(why.clone()),
        );
        if !decided {
            self.membership = None;
            self.open.remove(&incident);
            self.end(incident, &why);
        }
    }

    fn pool_state(&mut self, pool: PoolId, state: &'static str, turn: &Turn, now: Now) {
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
        let known = self.parts.contains_key(&pool);
        if !moving && !known {
            return;
        }
        // Served without having been taken: it is imported already, by an earlier daemon.
        if !known && matches!(state, "publishing" | "lease-wait") {
            let incident = pollux_runtime::ctx::new_action();
            let cause = "heartbeat has started again: the pool is served on";
            self.begin(incident, "restart", cause.to_owned(), now);
            self.join(pool, incident, None);
        }
        let part = self.part(pool, turn, now);
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
            let released = part.released || state == "releasing";
            let part = Part {
                phase,
                released,
                stays,
                ..part
            };
            self.parts.insert(pool, part);
            return;
        }
        self.parts.remove(&pool);
        let over = match state {
            "serving" if part.stays => Some(self.why_it_stays(&name, pool)),
            "serving" | "given" => None,
            // Called off when it was exported already: it is taken again, and has gone nowhere.
            "idle" if part.released && turn.problem.is_none() => Some("aborted".to_owned()),
            _ => turn.problem.as_ref().map(|problem| format!("failed: {problem}")),
        };
        self.open.entry(part.incident).or_default().insert(pool, over);
    }

    /// Why a pool has gone on where it was: what its last step said, or that somebody called the move off.
    fn why_it_stays(&self, incident: &str, pool: PoolId) -> String {
        let mut timeline = self.timeline();
        let why = timeline.running(incident).and_then(|running| {
            let mut own = running
                .phases
                .iter()
                .rev()
                .filter(|phase| phase.pool == Some(pool));
            own.find_map(|phase| phase.note.clone())
        });
        why.map_or_else(|| "aborted".to_owned(), |why| format!("failed: {why}"))
    }

    fn end(&self, incident: ActionId, outcome: &str) {
        self.timeline().end(&incident.to_string(), outcome);
    }

    fn timeline(&self) -> std::sync::MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the contract's words: `done`, `aborted` or `failed: why`.
pub fn outcome(problem: Option<&String>) -> String {
    match problem {
        None => "done".to_owned(),
        Some(said) if said.starts_with("aborted") || said.starts_with("failed: ") => said.clone(),
        Some(why) => format!("failed: {why}"),
    }
}

/// The action of a move outside a change of membership: both controllers make the same one.
fn move_action(pool: PoolId, turn: &Turn) -> ActionId {
    let Some(generation) = turn.leads_to else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::heartbeat::{Incident, TimelineQuery};
    use pollux_heartbeat_core::record::{Base, Members, Mode, Record};

    const POOL: PoolId = PoolId::from_bytes([1; 16]);

    /// A journal, and what is told to it.
    struct Told {
        _dir: tempfile::TempDir,
        timeline: Arc<Mutex<Timeline>>,
        journal: Journal,
        ns: u64,
        turn: Turn,
        /// What is idle is to be taken again.
        wanted: bool,
    }

    impl Told {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let timeline = Timeline::open(&dir.path().join("timeline.jsonl")).unwrap();
            let timeline = Arc::new(Mutex::new(timeline));
            Self {
                _dir: dir,
                journal: Journal::new(ControllerId::A, timeline.clone()),
                timeline,
                ns: 0,
                turn: Turn {
                    leads_to: Some(Generation::new(5)),
                    problem: None,
                },
                wanted: false,
            }
        }

        fn now(&mut self) -> Now {
            self.ns += 1;
            Now {
                ns: self.ns,
                unix_ms: 0,
            }
        }

        /// The pool goes through these states; it moves, or is to be moved, in all but those at rest.
        fn states(&mut self, states: &[&'static str]) {
            for state in states.iter().copied() {
                let now = self.now();
                self.journal
                    .note(&Note::Pool { pool: POOL, state }, &self.turn, now);
                let wanted = self.wanted || self.turn.problem.is_some();
                let moves = |_| match state {
                    "serving" | "given" => false,
                    "idle" => wanted,
                    _ => true,
                };
                self.journal.settle(&[POOL].into(), moves, false, now);
            }
        }

        fn rest(&mut self) {
            let now = self.now();
            self.journal.settle(&[POOL].into(), |_| false, false, now);
        }

        fn incidents(&self) -> Vec<Incident> {
            self.timeline.lock().unwrap().query(&TimelineQuery::default())
        }

        fn outcomes(&self) -> Vec<(String, String)> {
            let told = self.incidents().into_iter();
            told.map(|incident| (incident.kind, incident.outcome)).collect()
        }
    }

    fn one(kind: &str, outcome: &str) -> Vec<(String, String)> {
        vec![(kind.to_owned(), outcome.to_owned())]
    }

    /// What a request is said to have become, after its pool has gone through these states.
    fn outcome_of(states: &[&'static str], exported: Option<&str>) -> String {
        let mut told = Told::new();
        told.wanted = true;
        told.journal
            .requested(&[POOL], pollux_runtime::ctx::new_action(), "switchover");
        for state in states.iter().copied() {
            told.states(&[state]);
            if state == "releasing" {
                let now = told.now();
                let turn = told.turn.clone();
                let (action, _) = told.journal.action(POOL, &turn, now);
                let (name, note) = (action.to_string(), exported.map(str::to_owned));
                let mut timeline = told.timeline.lock().unwrap();
                timeline.open_phase(&name, "export", Some(POOL), now.ns);
                timeline.close_phase(&name, "export", Some(POOL), now.ns, note);
            }
        }
        let all = told.incidents();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].caused_by.is_some());
        all[0].outcome.clone()
    }

    #[test]
    fn a_move_that_ends_where_it_began_is_not_done() {
        assert_eq!(outcome_of(&["releasing", "giving", "given"], None), "done");
        assert_eq!(
            outcome_of(&["claiming", "importing", "publishing", "serving"], None),
            "done"
        );
        let late = [
            "releasing",
            "idle",
            "claiming",
            "importing",
            "publishing",
            "serving",
        ];
        assert_eq!(outcome_of(&late, None), "aborted", "exported, and taken again");
        let back = ["releasing", "resuming", "publishing", "serving"];
        assert_eq!(outcome_of(&back, None), "aborted");
        assert_eq!(outcome_of(&back, Some("busy")), "failed: busy");
    }

    #[test]
    fn an_import_that_fails_is_one_incident_until_it_succeeds_or_is_given_up() {
        let mut told = Told::new();
        told.turn.problem = Some("disk-03 does not answer".into());
        for generation in 5..9 {
            told.turn.leads_to = Some(Generation::new(generation));
            told.states(&["claiming", "importing", "idle"]);
        }
        assert_eq!(told.outcomes(), one("move", "running"));
        told.rest();
        assert_eq!(told.outcomes(), one("move", "failed: disk-03 does not answer"));

        let mut told = Told::new();
        told.turn.problem = Some("disk-03 does not answer".into());
        told.states(&[
            "claiming",
            "importing",
            "idle",
            "claiming",
            "importing",
            "publishing",
        ]);
        told.turn.problem = None;
        told.states(&["serving"]);
        assert_eq!(told.outcomes(), one("move", "done"));
    }

    #[test]
    fn a_request_that_comes_to_nothing_is_told_and_taken_for_nothing_later() {
        let mut told = Told::new();
        let asked = pollux_runtime::ctx::new_action();
        told.journal.requested(&[POOL], asked, "switchover");
        told.rest();
        let all = told.incidents();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].caused_by, Some(asked.to_string()));
        assert!(all[0].outcome.starts_with("failed: it was overtaken"), "{all:?}");
        told.states(&["claiming", "importing", "publishing", "serving"]);
        assert_eq!(
            told.outcomes()[0],
            one("move", "done")[0],
            "nobody asked for this one"
        );
    }

    fn record(members: Members) -> Record {
        let disks = pollux_heartbeat_core::QuorumSet::first(&[pollux_api::id::DiskIndex::new(7)]).unwrap();
        Record {
            epoch: Epoch::new(7),
            members,
            mode: Mode::Sealed,
            base: Base::default(),
            disks,
        }
    }

    #[test]
    fn a_takeover_ends_when_its_pools_have_come_to_rest_or_where_there_are_none() {
        let mut told = Told::new();
        let alone = Members::alone(ControllerId::A, pollux_api::id::Incarnation::new(1));
        for pools in [true, false] {
            let now = told.now();
            let suspected = Note::Suspected {
                since: pollux_heartbeat_core::Instant::from_nanos(0),
                cause: "it is still".into(),
            };
            for note in [
                suspected,
                Note::Proposing { epoch: Epoch::new(7) },
                Note::Decided(record(alone)),
            ] {
                told.journal.note(&note, &Turn::default(), now);
            }
            // A person's request that was under way is filed under what has overtaken it.
            told.journal
                .requested(&[POOL], pollux_runtime::ctx::new_action(), "switchover");
            if pools {
                told.journal.settle(&[POOL].into(), |_| true, true, now);
                assert_eq!(
                    told.outcomes()[0],
                    one("takeover", "running")[0],
                    "its pool waits"
                );
                told.states(&["fencing", "importing", "publishing", "serving"]);
                assert!(told.incidents()[0].caused_by.is_some());
            } else {
                told.journal.requests.clear();
                told.rest();
            }
            assert_eq!(told.outcomes()[0], one("takeover", "done")[0]);
        }
        assert_eq!(told.incidents().len(), 2);
        told.states(&["claiming", "importing", "publishing", "serving"]);
        assert_eq!(told.outcomes()[0].0, "move", "the next one is no part of it");
    }

    #[test]
    fn what_a_person_wants_of_the_membership_is_its_cause_in_that_epoch_alone() {
        for (epoch, kind) in [(6, "takeover"), (9, "membership")] {
            let mut told = Told::new();
            told.journal.at(Epoch::new(6));
            let asked = pollux_runtime::ctx::new_action();
            told.journal.requested(&[], asked, "takeover");
            told.journal.at(Epoch::new(epoch));
            let now = told.now();
            let epoch = Epoch::new(epoch + 1);
            told.journal
                .note(&Note::Proposing { epoch }, &Turn::default(), now);
            let incident = told.incidents().remove(0);
            assert_eq!((incident.kind.as_str(), incident.epoch), (kind, epoch));
            assert_eq!(incident.caused_by.is_some(), kind == "takeover");
        }
    }

    #[test]
    fn that_everything_is_let_go_is_told_once_however_often_it_is_tried() {
        let mut told = Told::new();
        let now = told.now();
        let action = told.journal.stopping("it is shut down", now);
        assert_eq!(told.journal.stopping("it is shut down", now), action);
        told.journal.stopped(&Err("beta does not stop".into()));
        assert_eq!(told.journal.stopping("it is shut down", now), action);
        assert_eq!(told.outcomes(), one("stop", "failed: beta does not stop"));
    }

    #[test]
    fn who_starts_in_the_middle_of_a_fence_or_is_outvoted_leaves_nothing_open() {
        let victim = pollux_heartbeat_core::event::Victim {
            controller: ControllerId::B,
            incarnation: pollux_api::id::Incarnation::new(3),
        };
        for note in [Note::Fencing(victim), Note::Proposing { epoch: Epoch::new(7) }] {
            let mut told = Told::new();
            let now = told.now();
            told.journal.note(&note, &Turn::default(), now);
            told.journal.settle(&[POOL].into(), |_| true, true, now);
            assert_eq!(told.incidents()[0].outcome, "running");
            told.rest();
            assert_eq!(told.incidents()[0].outcome, "done");
            told.states(&["claiming", "importing", "publishing", "serving"]);
            assert_eq!(told.outcomes()[0].0, "move", "{note:?}");
        }
    }

    #[test]
    fn a_deletion_is_an_incident_of_its_own_and_ends_the_pools_part_in_another() {
        let mut told = Told::new();
        told.states(&["claiming", "importing"]);
        let now = told.now();
        let action = told.journal.deleting(POOL, now);
        told.rest();
        assert_eq!(
            told.outcomes(),
            [
                one("delete", "running"),
                one("move", "failed: the pool was deleted")
            ]
            .concat()
        );
        assert_eq!(told.journal.deleting(POOL, now), action, "it is still under way");
        told.timeline.lock().unwrap().end(&action.to_string(), "done");
        assert_ne!(told.journal.deleting(POOL, now), action);
        assert_eq!(told.outcomes().len(), 3);
    }

    #[test]
    fn what_a_restarted_daemon_serves_on_has_not_moved() {
        let mut told = Told::new();
        told.states(&["claiming", "importing", "publishing", "serving"]);
        for adopted in [
            &["publishing", "serving"][..],
            &["lease-wait", "publishing", "serving"],
        ] {
            told.states(adopted);
        }
        let restart = one("restart", "done");
        assert_eq!(
            told.outcomes(),
            [restart.clone(), restart, one("move", "done")].concat()
        );
        let actions: BTreeSet<String> = told
            .incidents()
            .into_iter()
            .map(|incident| incident.action_id)
            .collect();
        assert_eq!(actions.len(), 3);
    }
}
