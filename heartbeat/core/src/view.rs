//! What people see and ask: status, blockers, alarms, requests.

use crate::area::{ClaimState, Role};
use crate::detect::{DiskSight, WireSight};
use crate::effect::{Effect, Lock, Note, Plan, Refusal};
use crate::event::{Power, Request, RequestId};
use crate::machine::{Core, Disk, Phase};
use crate::pools::{Basis, Kind, Pool, State};
use crate::record::Mode;
use crate::status::{Alarm, Blocker, PoolStatus, QuorumStatus, Status};
use crate::table::{Partner, PowerSight, ShelfSight};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use pollux_api::id::{Epoch, Generation, PoolId};

fn refuse<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        reason: reason.into(),
        remedy: remedy.into(),
    })
}

impl Core {
    /// What it knows.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let record = Some(*self.record()).filter(|record| record.epoch.get() > 0);
        let lease = self.params.timing.lease;
        let quorum = self.disks.iter().map(|disk| QuorumStatus {
            seat: disk.seat,
            part: match (self.set().leaving(), self.set().joining()) {
                (Some(leaves), _) if leaves == disk.seat => "leaves",
                (_, Some(joins)) if joins == disk.seat => "joins",
                _ => "member",
            },
            entered: disk.entered,
            writable: disk.slot_submitted.is_some_and(|at| now.since(at) < lease),
            readable: match (disk.watch.problem, disk.watch.read) {
                (Some(why), _) => Err(format!("{why:?}")),
                (None, Some(_)) => Ok(()),
                (None, None) => Err("not read yet".into()),
            },
            latency: disk.latency,
        });
        Status {
            controller: self.me(),
            incarnation: self.params.incarnation,
            state: self.state(now),
            role: self.role(),
            record,
            wire: self.wire_sight,
            disk: self.disk_sight,
            power: self.partner.power.unwrap_or(Power::Unknown),
            partner: Some(self.partner.incarnation).filter(|incarnation| incarnation.get() > 0),
            lease_until: self.lease_until,
            watchdog: self.watchdog == Some(true),
            round_trip: self.wire.round_trip,
            set: *self.set(),
            quorum: quorum.collect(),
            pools: self.pools.keys().filter_map(|id| self.pool_status(*id)).collect(),
            lock: self.locked(),
            alarms: self.alarms.values().cloned().collect(),
        }
    }

    /// The epoch in which this controller surely is a member at this instant; none: it may have been replaced. Whoever
    /// replaces a member decides that when its lease has run out, unless a clock was stopped unnoticed, or an operator forced
    /// it upon one of two.
    #[must_use]
    pub fn stands_in_epoch(&self, now: Instant) -> Option<Epoch> {
        let sure =
            self.phase == Phase::Up && self.member() && now < self.lease_until && !self.params.pausable;
        sure.then(|| self.record().epoch)
    }

    /// This controller is alone, and the partner's power is off beyond doubt: its front port is dead, and its hosts may
    /// be told so. Ends with the first sign of its next life.
    #[must_use]
    pub fn stands_in(&self) -> bool {
        self.phase == Phase::Up
            && self.member()
            && self.partner_member().is_none()
            && self.power_sight() == PowerSight::Off
    }

    /// This controller has let go of everything and said so where it counts: the machine may go.
    #[must_use]
    pub fn left(&self) -> bool {
        self.farewell_stands()
    }

    /// Stable name of what this controller is doing, as in [`Status::state`].
    #[must_use]
    pub fn state(&self, now: Instant) -> &'static str {
        match self.phase {
            Phase::Starting => "starting",
            Phase::Stopped(_) if self.farewell_stands() => "left",
            Phase::Stopped(_) => "stopped",
            Phase::Up if self.arbiter.running() || self.arbiter.voted() => "arbitrating",
            Phase::Up if !self.member() => {
                if self.mail().is_some_and(|letter| letter.invite) {
                    "joining"
                } else {
                    "waiting"
                }
            }
            Phase::Up if self.role() == Role::Releasing => "releasing",
            Phase::Up if now < self.lease_until => "serving",
            Phase::Up => "holding",
        }
    }

    /// Stable name of what this controller is doing with a pool; none: it does not know the pool.
    #[must_use]
    pub fn pool_state(&self, pool: PoolId) -> Option<&'static str> {
        self.pools.get(&pool).map(Pool::name)
    }

    /// Generation of the claim to which the present move of a pool leads, here or at the partner (both know the move by it), and
    /// what went wrong with the pool last.
    #[must_use]
    pub fn turn(&self, id: PoolId) -> Option<(Generation, Option<&str>)> {
        let pool = self.pools.get(&id)?;
        let top = || self.top_claim(id).map(|(_, claim)| claim.generation);
        let leads_to = pool
            .leads_to()
            .unwrap_or_else(|| top().unwrap_or_default().next());
        Some((leads_to, pool.problem.as_deref()))
    }

    /// The epoch that counts, as far as it is known here.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.record().epoch
    }

    /// The pools that there are.
    pub fn known(&self) -> impl Iterator<Item = PoolId> {
        self.pools.keys().copied()
    }

    /// A pool is on its way, here or from here, or will be as soon as it can.
    #[must_use]
    pub fn moves(&self, id: PoolId) -> bool {
        self.pools.get(&id).is_some_and(|pool| match pool.state {
            State::Idle => pool.ask.is_some() || self.basis(id) != Basis::No,
            State::Serving { .. } => {
                let leaves = self.leaving || self.wishes.shutdown.is_some();
                leaves || pool.ask.is_some() || pool.is_wanted_away()
            }
            State::Given { .. } => false,
            _ => true,
        })
    }

    fn pool_status(&self, id: PoolId) -> Option<PoolStatus> {
        let pool = self.pools.get(&id)?;
        let top = self.top_claim(id);
        let live = |who, incarnation| {
            let member = self.record().members.get(who);
            member == Some(incarnation)
        };
        let held =
            top.filter(|(who, claim)| claim.state == ClaimState::Held && live(*who, claim.incarnation));
        let state = match (&pool.state, held) {
            (State::Idle, Some((who, _))) if who != self.me() => "partner",
            (State::Idle, _) if self.claims_read().is_none() => "unknown",
            (State::Idle, _) => "unowned",
            _ => pool.name(),
        };
        Some(PoolStatus {
            pool: id,
            home: pool.home,
            owner: held.map(|(who, _)| who),
            generation: top.map(|(_, claim)| claim.generation).unwrap_or_default(),
            state,
            since: pool.since,
            problem: pool.problem.clone(),
        })
    }

    fn locked(&self) -> Option<(String, Instant)> {
        if let Some(freeze) = self.freeze {
            return Some((format!("epoch {} is being decided", freeze.epoch), freeze.asked));
        }
        if let Some(lock) = self.lock() {
            let reason = match lock {
                Lock::PartnerUnreachable => "the partner is a member, lives, and cannot be reached by wire",
                Lock::PartnerUnknown => "the partner is a member and was not heard yet",
                Lock::QuorumUnreadable => "the wire is silent and too few quorum disks can be read",
            };
            return Some((reason.into(), self.lock_since));
        }
        if !self.member() {
            return Some((
                "this controller is not a member of the epoch".into(),
                self.decided_at,
            ));
        }
        let sealed = self.record().mode == Mode::Sealed;
        sealed.then(|| {
            (
                "this controller serves alone and the epoch is sealed".into(),
                self.decided_at,
            )
        })
    }

    /// What stands against a takeover, a move or a change, one line each.
    #[must_use]
    pub fn why(&self, now: Instant) -> Vec<Blocker> {
        let mut all = Vec::new();
        let mut add = |blocks, reason: String, since, remedy: &str| {
            all.push(Blocker {
                blocks,
                reason,
                since,
                remedy: remedy.into(),
            });
        };
        let partner = self.me().partner();
        if self.phase == Phase::Starting {
            let reason = "the own area of the quorum disks was not read back from a majority";
            add(
                "takeover",
                reason.into(),
                self.started,
                "bring the quorum disks back, or format replaced ones",
            );
        }
        if let Phase::Stopped(reason) = self.phase {
            add(
                "takeover",
                format!("this controller has stopped: {reason:?}"),
                self.decided_at,
                "it resets by itself",
            );
        }
        match self.verdict {
            Partner::TakeNothing => add(
                "takeover",
                "too few quorum disks can be read: this controller may be the sick one".into(),
                self.disk_sight.1,
                "bring the quorum disks back",
            ),
            Partner::Watch => {
                add(
                    "takeover",
                    "the partner was not watched for long enough".into(),
                    self.started,
                    "wait",
                );
            }
            Partner::LockAndGoOn => {
                let reason =
                    format!("controller {partner} is silent on the wire and alive on the quorum disks");
                add(
                    "switchover",
                    reason,
                    self.wire_sight.1,
                    "bring the interconnect back",
                );
            }
            Partner::Normal
            | Partner::AlarmDisk
            | Partner::Receive
            | Partner::ReceiveByMailbox
            | Partner::Ask
            | Partner::AwaitStop
            | Partner::TakeOver
            | Partner::TakeOverAtOnce => {}
        }
        if self.imports.is_none() && self.is_late(now) {
            let reason = "the pool manager does not say what it has imported";
            for blocks in ["takeover", "switchover"] {
                add(
                    blocks,
                    reason.into(),
                    self.started,
                    "systemctl status pool-managerd; while a pool is being imported or exported it waits for that",
                );
            }
        }
        if self.phase == Phase::Up && !self.member() {
            if self.config.is_none() {
                add(
                    "takeover",
                    "the configuration's status is not known".into(),
                    self.started,
                    "start the config keeper",
                );
            } else if self.config.is_some_and(|config| config.diverged) {
                let reason = "the configuration has two histories that cannot both be true".into();
                add("takeover", reason, self.started, "pollux config verify");
            } else if self.config.is_some_and(|config| config.lost) {
                let reason = "the configuration of this controller was lost, and is not whole again".into();
                add("takeover", reason, self.started, "pollux config status");
            } else if self.eligible().is_none() {
                let record = self.record();
                let reason =
                    format!("this controller may not go on alone from {record}: its log may lack changes");
                let remedy = if record.mode == Mode::Open && record.members.get(self.me()).is_none() {
                    format!(
                        "bring controller {partner} back, or pollux takeover --override {}",
                        record.epoch
                    )
                } else {
                    format!("bring controller {partner} back")
                };
                add("takeover", reason, self.decided_at, &remedy);
            }
        }
        if self.partner_dead() && self.freeze.is_some_and(|freeze| freeze.done.is_none()) {
            let since = self.freeze.map_or(now, |freeze| freeze.asked);
            add(
                "takeover",
                "the config keeper does not confirm that it stands still".into(),
                since,
                "start it",
            );
        }
        for (id, pool) in &self.pools {
            if let (State::Fencing { .. }, Some(problem)) = (&pool.state, &pool.problem) {
                let reason = format!("no rung of the fence is confirmed for pool {id}: {problem}");
                let remedy = format!("cut the power of controller {partner}, or bring the pool's disks back");
                add("takeover", reason, pool.since, &remedy);
            } else if let Some(problem) = &pool.problem {
                add(
                    "switchover",
                    format!("pool {id}: {problem}"),
                    pool.since,
                    "see the alarms",
                );
            }
            let away = pool.home != self.me() && matches!(pool.state, State::Serving { .. });
            if away && self.flapping(now) {
                add(
                    "giveback",
                    "the wire was flapping".into(),
                    self.wire_sight.1,
                    "mend the interconnect, or pollux giveback",
                );
            }
            if away && let Some(reason) = self.partner_unready() {
                add(
                    "giveback",
                    reason,
                    self.decided_at,
                    "wait for it, or bring it back",
                );
            }
        }
        if let Some((reason, since)) = self.locked() {
            add(
                "configuration",
                reason,
                since,
                "bring the partner back; alone: pollux config open",
            );
        }
        all
    }

    /// Whoever was asked at the start has had time to answer.
    fn is_late(&self, now: Instant) -> bool {
        now.since(self.started) > self.params.timing.watchdog
    }

    /// Why the partner cannot receive a pool now.
    fn partner_unready(&self) -> Option<String> {
        let partner = self.me().partner();
        if self.partner_ready() {
            None
        } else if self.partner_member() != Some(self.partner.incarnation) {
            Some(format!("controller {partner} is not a member of the epoch"))
        } else if !self.partner_alive() {
            Some(format!("controller {partner} is neither heard nor seen"))
        } else {
            Some(format!(
                "controller {partner} is leaving, starting, or has lost the shelf"
            ))
        }
    }

    /// What a request would set in motion, without doing it.
    ///
    /// # Errors
    /// [`Refusal`] says what stands against it.
    pub fn plan(&self, now: Instant, request: Request) -> Result<Plan, Refusal> {
        if self.phase != Phase::Up {
            return refuse(
                "this controller is starting or has stopped",
                "wait until it is up",
            );
        }
        let partner = self.me().partner();
        match request {
            Request::Switchover(id) => self.plan_move(id),
            Request::Giveback(one) => {
                let away = |id: &PoolId| self.pools.get(id).is_some_and(|pool| self.away(*id, pool.home));
                let pools: Vec<PoolId> = match one {
                    Some(id) if !self.pools.contains_key(&id) => return self.plan_move(id),
                    Some(id) => Some(id).into_iter().filter(away).collect(),
                    None => self.pools.keys().copied().filter(away).collect(),
                };
                let mut plan = Plan::default();
                for id in pools {
                    let one = self.plan_move(id)?;
                    plan.pools.extend(one.pools);
                    plan.steps.extend(one.steps);
                }
                if plan.pools.is_empty() {
                    plan.steps.push("nothing to do: every pool is at home".into());
                }
                Ok(plan)
            }
            Request::Takeover => {
                if !self.member() {
                    return refuse("this controller is not a member of the epoch", "see pollux why");
                }
                if self.partner_member().is_none() {
                    return refuse(
                        format!("controller {partner} is not a member: nothing is its"),
                        "nothing to do",
                    );
                }
                let theirs = |id: &&PoolId| self.top_claim(**id).is_some_and(|(who, _)| who == partner);
                let pools: Vec<PoolId> = self.pools.keys().filter(theirs).copied().collect();
                let steps = alloc::vec![
                    format!("decide an epoch without controller {partner}"),
                    format!("fence controller {partner}, with confirmation"),
                    format!("take {} of its pools", pools.len()),
                ];
                Ok(Plan { pools, steps })
            }
            Request::Abort(id) => match self.pools.get(&id).map(|pool| &pool.state) {
                None => refuse(format!("there is no pool {id}"), "pollux pool list"),
                Some(State::Releasing { .. }) => Ok(Plan {
                    pools: alloc::vec![id],
                    steps: alloc::vec!["go back to serving it here".into()],
                }),
                Some(State::Giving { .. } | State::Given { .. }) => refuse(
                    "the point of no return has passed: it was given",
                    "switch it back when it has arrived",
                ),
                Some(_) => refuse("it is not being moved away from here", "nothing to abort"),
            },
            Request::Override(epoch) => {
                let record = self.record();
                if record.epoch != epoch {
                    return refuse(
                        format!("the highest epoch is {}, not {epoch}", record.epoch),
                        "look at pollux status, and name the epoch that stands there",
                    );
                }
                let blocked =
                    !self.member() && record.mode == Mode::Open && record.members.get(self.me()).is_none();
                if !blocked {
                    return refuse(
                        "nothing to override: the ordinary rules let this controller go on",
                        "see pollux why",
                    );
                }
                if self.partner_alive() {
                    return refuse(
                        format!("controller {partner} lives"),
                        "it will let this controller join",
                    );
                }
                let lost = format!("changes that only controller {partner} holds are lost");
                Ok(Plan {
                    pools: Vec::new(),
                    steps: alloc::vec![lost, "go on alone, sealed".into()],
                })
            }
            Request::OpenAlone => {
                if !self.member() || self.partner_member().is_some() {
                    return refuse("this controller does not serve alone", "nothing to open");
                }
                if self.record().mode == Mode::Open {
                    return Ok(Plan {
                        pools: Vec::new(),
                        steps: alloc::vec!["nothing to do: it is open".into()],
                    });
                }
                if self.partner_alive() {
                    return refuse(
                        format!("controller {partner} is there and joins"),
                        "wait until it has joined",
                    );
                }
                let step =
                    format!("controller {partner} cannot go on without this controller's log from here on");
                Ok(Plan {
                    pools: Vec::new(),
                    steps: alloc::vec![step],
                })
            }
            Request::ReplaceQuorumDisk { from, to } => self.plan_replace(now, from, to),
            Request::Shutdown { unserved } => {
                let mine = |id: &&PoolId| self.basis(**id) == Basis::Take(Kind::Own);
                let pools: Vec<PoolId> = self.pools.keys().filter(mine).copied().collect();
                let step = match self.partner_unready() {
                    None => format!("give {} pools to controller {partner}, then stop", pools.len()),
                    Some(reason) if !unserved && !pools.is_empty() => {
                        return refuse(
                            format!("{} pools would not be served by anybody: {reason}", pools.len()),
                            "bring the partner back, or shut the whole array down: pollux shutdown",
                        );
                    }
                    Some(reason) => {
                        format!(
                            "export {} pools, which stay unserved ({reason}), then stop",
                            pools.len()
                        )
                    }
                };
                Ok(Plan {
                    pools,
                    steps: alloc::vec![step],
                })
            }
        }
    }

    fn away(&self, id: PoolId, home: pollux_api::id::ControllerId) -> bool {
        self.top_claim(id)
            .is_some_and(|(who, claim)| claim.state == ClaimState::Held && who != home)
    }

    fn plan_move(&self, id: PoolId) -> Result<Plan, Refusal> {
        let Some(pool) = self.pools.get(&id) else {
            return refuse(format!("there is no pool {id}"), "pollux pool list");
        };
        let (me, partner) = (self.me(), self.me().partner());
        if !self.member() {
            return refuse(
                "this controller is not a member of the epoch",
                "ask the other one, or see pollux why",
            );
        }
        if let Some(reason) = self.partner_unready() {
            return refuse(reason, "see pollux why");
        }
        if self.wire_sight.0 != WireSight::Alive {
            return refuse("the interconnect is down", "bring it back");
        }
        let (from, to) = match (&pool.state, self.top_claim(id)) {
            (State::Serving { .. }, _) => (me, partner),
            (State::Idle, Some((who, claim))) if who == partner && claim.state == ClaimState::Held => {
                (partner, me)
            }
            _ => {
                return refuse(
                    format!("pool {id} is {}", pool.name()),
                    "wait until it is served, then ask again",
                );
            }
        };
        let steps = alloc::vec![
            format!("controller {from} quiesces, exports and gives pool {id}"),
            format!("controller {to} fences, imports and publishes it"),
        ];
        Ok(Plan {
            pools: alloc::vec![id],
            steps,
        })
    }

    pub(crate) fn request(&mut self, now: Instant, id: RequestId, request: Request) {
        let result = self.plan(now, request);
        if let Ok(plan) = &result {
            let epoch = self.record().epoch;
            match request {
                Request::Switchover(_) | Request::Giveback(_) => {
                    for pool in plan.pools.clone() {
                        let here = matches!(
                            self.pools.get(&pool).map(|pool| &pool.state),
                            Some(State::Serving { .. })
                        );
                        if here {
                            self.release(pool);
                        } else if let Some(pool) = self.pools.get_mut(&pool) {
                            pool.ask = Some(now);
                        }
                    }
                }
                Request::Takeover => self.wishes.force = Some(epoch),
                Request::Abort(pool) => {
                    if let Some(pool) = self.pools.get_mut(&pool) {
                        pool.abort = true;
                    }
                }
                Request::Override(epoch) => self.wishes.override_of = Some(epoch),
                Request::OpenAlone => self.wishes.open = Some(epoch),
                Request::ReplaceQuorumDisk { from, to } => self.replace(now, from, to),
                Request::Shutdown { .. } => {
                    self.wishes.shutdown.get_or_insert(now);
                }
            }
        }
        self.answer(id, result);
    }

    // ---- alarms ---------------------------------------------------------------------------------------------

    pub(crate) fn raise_alarms(&mut self, now: Instant) {
        let mut standing: BTreeMap<(&'static str, String), String> = BTreeMap::new();
        let mut raise = |id, subject: String, text: String| {
            standing.insert((id, subject), text);
        };
        let partner = self.me().partner();
        for (leg, up) in self.legs.iter().enumerate() {
            if !up {
                raise(
                    "leg_down",
                    format!("leg{leg}"),
                    "a leg of the interconnect has no carrier".into(),
                );
            }
        }
        if self.wire_sight.0 == WireSight::Silent && self.partner_alive() {
            let text = format!("controller {partner} lives and is not heard: the configuration is locked");
            raise("wire_silent", partner.to_string(), text);
        }
        if self.flapping(now) {
            raise(
                "wire_flapping",
                partner.to_string(),
                "no pool goes home by itself until the wire is quiet".into(),
            );
        }
        if self.disk_sight.0 == DiskSight::Unreadable {
            raise(
                "quorum_unreadable",
                "quorum".into(),
                "too few quorum disks can be read".into(),
            );
        }
        if self.phase == Phase::Up && self.member() && self.shelf(now) == ShelfSight::Lost {
            raise(
                "shelf_lost",
                self.me().to_string(),
                "the own slot cannot be written on a majority".into(),
            );
        }
        let late = self.params.timing.disk_limit;
        let mend = |disk: &Disk| format!("if it stays so: pollux quorum replace {} NEW", disk.seat.disk);
        for disk in &self.disks {
            let written = disk.slot_submitted.unwrap_or(disk.entered);
            if let Some(why) = disk.watch.problem {
                raise(
                    "quorum_disk",
                    disk.seat.disk.to_string(),
                    format!("the partner's slot cannot be read: {why:?}; {}", mend(disk)),
                );
            } else if self.phase == Phase::Up && now.since(written) >= late {
                raise(
                    "quorum_disk",
                    disk.seat.disk.to_string(),
                    format!("the own slot cannot be written; {}", mend(disk)),
                );
            }
        }
        if self.phase == Phase::Starting && now.since(self.started) >= late {
            let text = "the own area cannot be read back from a majority of the quorum disks";
            raise("quorum_own_area", self.me().to_string(), text.into());
        }
        if let Some((disk, text)) = self.change_alarm(now) {
            raise("quorum_change", disk.to_string(), text);
        }
        if self.member() && self.partner_member().is_none() {
            raise(
                "alone",
                partner.to_string(),
                format!("controller {partner} is not a member: nobody could take over"),
            );
        }
        if self.imports.is_none() && self.is_late(now) {
            let text = "the pool manager does not say what it has imported: no pool is taken or given";
            raise("imports_unknown", self.me().to_string(), text.into());
        }
        // Not known is as good as none, once it had time to be known.
        let armed = self.watchdog.unwrap_or(!self.is_late(now));
        if self.member() && !armed {
            let text =
                "no watchdog is armed: if this controller hangs, only other rungs can confirm the fence";
            raise("watchdog", self.me().to_string(), text.into());
        }
        if self.config.is_some_and(|config| config.diverged) {
            raise(
                "config_diverged",
                self.me().to_string(),
                "two histories that cannot both be true".into(),
            );
        }
        if self.config.is_some_and(|config| config.lost) {
            raise(
                "config_lost",
                self.me().to_string(),
                "its database was lost and is not whole again: this controller can go on alone with nothing"
                    .into(),
            );
        }
        if self.surplus_pools > 0 {
            let text = format!(
                "{} pools more than an array can have: they are not served",
                self.surplus_pools
            );
            raise("too_many_pools", "pools".into(), text);
        }
        if self.verdict == Partner::AwaitStop {
            let text = format!("controller {partner} serves a pool neither nor gives it");
            raise("ask_ignored", partner.to_string(), text);
        }
        if self.member() {
            for (id, pool) in &self.pools {
                let (served, theirs) = (matches!(pool.state, State::Serving { .. }), pool.unserved_since);
                if let Some(problem) = pool.problem.as_ref().filter(|_| !served) {
                    raise("pool_unserved", id.to_string(), problem.clone());
                } else if theirs.is_some_and(|since| now.since(since) >= self.params.timing.unserved_limit) {
                    raise(
                        "pool_unserved",
                        id.to_string(),
                        format!("controller {partner} does not serve it"),
                    );
                }
            }
        }
        for (id, subject) in self
            .alarms
            .keys()
            .filter(|key| !standing.contains_key(*key))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.alarms.remove(&(id, subject.clone()));
            self.emit(Effect::Note(Note::Alarm {
                id,
                subject,
                raised: false,
            }));
        }
        for ((id, subject), text) in standing {
            match self.alarms.get_mut(&(id, subject.clone())) {
                Some(alarm) => alarm.text = text,
                None => {
                    let alarm = Alarm {
                        id,
                        subject: subject.clone(),
                        text,
                        since: now,
                    };
                    self.alarms.insert((id, subject.clone()), alarm);
                    self.emit(Effect::Note(Note::Alarm {
                        id,
                        subject,
                        raised: true,
                    }));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
