//! The pool manager of each controller: one job per pool at a time, exclusion by reservations, mirrors that lose legs and
//! get them back.

use super::*;

impl World {
    pub(super) fn legs(&self, pool: usize) -> Vec<usize> {
        (0..self.disks.len())
            .filter(|at| self.disks[*at].of.0 == pool)
            .collect()
    }

    pub(super) fn job(&mut self, c: usize, pool: usize, task: Task) {
        if self.nodes[c].stopped.is_some() && !self.breakage.stop_ignored {
            return;
        }
        self.jobs += 1;
        let mut order = self.legs(pool);
        let by = self.rng.index(order.len());
        order.rotate_left(by);
        let fails = self.lame[c] || self.rng.chance(self.setup.pool_failures);
        let (job, life) = (self.jobs, self.nodes[c].life);
        let entry = Job {
            id: job,
            life,
            task,
            fails,
            order,
            deadline: u64::MAX,
        };
        self.nodes[c].managers[pool].queue.push_back(entry);
        self.next_job(c, pool);
    }

    pub(super) fn next_job(&mut self, c: usize, pool: usize) {
        let now = self.now;
        let manager = &mut self.nodes[c].managers[pool];
        if manager.job.is_some() {
            return;
        }
        let Some(mut job) = manager.queue.pop_front() else {
            return;
        };
        job.deadline = now + 3 * SEC;
        let number = job.id;
        manager.job = Some(job);
        self.pool_step(c, pool, number, 0);
    }

    pub(super) fn pool_step(&mut self, c: usize, pool: usize, job: u64, step: usize) {
        let span = self.span(500, 15_000) + self.rng.range(0, self.setup.pool_slowness);
        let boot = self.nodes[c].boot;
        self.after(
            span,
            Happening::Pool {
                c,
                boot,
                pool,
                job,
                step,
            },
        );
    }

    pub(super) fn end_job(&mut self, c: usize, pool: usize, result: Result<(), String>) {
        let Some(job) = self.nodes[c].managers[pool].job.take() else {
            return;
        };
        self.answer_job(c, pool, &job, result);
        self.next_job(c, pool);
    }

    pub(super) fn answer_job(&mut self, c: usize, pool: usize, job: &Job, result: Result<(), String>) {
        let done = |key: ReservationKey, step, result| Event::PoolDone {
            pool: pool_id(pool),
            generation: key.generation,
            step,
            result,
        };
        let event = match job.task {
            Task::Fence(key) => Event::FenceDone {
                pool: pool_id(pool),
                key,
                result,
            },
            Task::Take(key, _) => done(key, PoolStep::Take, result),
            Task::Publish(key) => done(key, PoolStep::Publish, result),
            Task::Release(key) => done(key, PoolStep::Release, result),
            Task::Resume(key) => done(key, PoolStep::Resume, result),
            Task::Route { .. } => return,
        };
        let span = self.span(100, 3_000);
        self.after(
            span,
            Happening::Tell {
                c,
                life: job.life,
                event,
            },
        );
    }

    pub(super) fn pool(&mut self, c: usize, pool: usize, number: u64, step: usize) {
        let Some(job) = self.nodes[c].managers[pool]
            .job
            .clone()
            .filter(|job| job.id == number)
        else {
            return;
        };
        match job.task {
            Task::Fence(key) => match job.order.get(step) {
                Some(disk) => {
                    if self.disks[*disk].stuck_until > self.now && self.now < job.deadline {
                        return self.pool_step(c, pool, number, step);
                    }
                    // A command that is given up is aborted; the disk says so before the answer goes out.
                    if self.disks[*disk].stuck_until <= self.now && !self.breakage.fence_confirmed_blindly {
                        self.register(c, *disk, key);
                    }
                    self.pool_step(c, pool, number, step + 1);
                }
                None => {
                    let result = self.fenced(c, pool, key).and_then(|()| self.chance_fails(&job));
                    self.nodes[c].managers[pool].confirmed = result.is_ok().then_some(key);
                    self.end_job(c, pool, result);
                }
            },
            Task::Take(key, evidence) => {
                let result = self
                    .chance_fails(&job)
                    .and_then(|()| self.import(c, pool, key, evidence));
                self.end_job(c, pool, result);
            }
            Task::Publish(key) => {
                let result = self.chance_fails(&job).and_then(|()| self.publish(c, pool, key));
                self.end_job(c, pool, result);
            }
            Task::Resume(key) => {
                let result = self.chance_fails(&job).and_then(|()| self.publish(c, pool, key));
                self.end_job(c, pool, result);
            }
            Task::Release(key) => self.release(c, pool, &job, key, step),
            Task::Route {
                claim,
                role,
                reachable,
            } => {
                // What a daemon had in its queue is gone with it.
                if job.life == self.nodes[c].life {
                    self.nodes[c].port.reachable = reachable;
                    self.assert_role(c, pool, claim, role);
                }
                self.end_job(c, pool, Ok(()));
            }
        }
    }

    pub(super) fn chance_fails(&self, job: &Job) -> Result<(), String> {
        if job.fails {
            Err("the pool manager failed".to_owned())
        } else {
            Ok(())
        }
    }

    pub(super) fn register(&mut self, c: usize, disk: usize, key: ReservationKey) -> bool {
        let done = self.disks[disk].take(c, key);
        if done.is_ok() {
            let (pool, leg) = self.disks[disk].of;
            self.fact(Fact::Registered { c, pool, leg, key });
        }
        self.say(|| format!("{} registers {key:?} on data disk {disk}: {done:?}", id(c)));
        done.is_ok()
    }

    /// The legs that count, by the newest label that this controller can read; all of them must be readable, or a
    /// newer label may stand on the missing one.
    pub(super) fn current(&self, c: usize, pool: usize) -> Result<(u64, BTreeSet<usize>), String> {
        let legs = self.legs(pool);
        let readable = legs
            .iter()
            .filter(|at| self.disks[**at].reaches(c) && self.disks[**at].stuck_until <= self.now);
        let newest = readable
            .max_by_key(|at| self.disks[**at].label.event)
            .ok_or("no leg can be read")?;
        let label = &self.disks[*newest].label;
        let wanted = legs
            .iter()
            .filter(|at| !label.failed.contains(&self.disks[**at].of.1));
        let wanted = wanted.copied().collect::<BTreeSet<_>>();
        match wanted
            .iter()
            .find(|at| !self.disks[**at].reaches(c) || self.disks[**at].stuck_until > self.now)
        {
            Some(missing) => Err(format!(
                "leg {} cannot be read and no label calls it failed",
                self.disks[*missing].of.1
            )),
            None => Ok((label.event, wanted)),
        }
    }

    pub(super) fn fenced(&self, c: usize, pool: usize, key: ReservationKey) -> Result<(), String> {
        if self.breakage.fence_confirmed_blindly {
            return Ok(());
        }
        let alone = |at: &usize| self.disks[*at].reaches(c) && self.disks[*at].holds_alone(c, key);
        if self.breakage.one_leg_is_enough {
            return if self.legs(pool).iter().any(alone) {
                Ok(())
            } else {
                Err("no leg is fenced".to_owned())
            };
        }
        // The label counts only where it stands on fenced disks (K6).
        let (_, wanted) = self.current(c, pool)?;
        match wanted.iter().find(|at| !alone(at)) {
            Some(open) => Err(format!(
                "leg {} is not fenced: {:?}",
                self.disks[*open].of.1, self.disks[*open].keys
            )),
            None => Ok(()),
        }
    }

    pub(super) fn import(
        &mut self,
        c: usize,
        pool: usize,
        key: ReservationKey,
        evidence: Evidence,
    ) -> Result<(), String> {
        if self.nodes[c].managers[pool]
            .imported
            .as_ref()
            .is_some_and(|held| held.key == key)
        {
            return Ok(());
        }
        if self.nodes[c].managers[pool].imported.is_some() {
            return Err("imported under another key".to_owned());
        }
        let (event, legs) = if self.breakage.one_leg_is_enough {
            let legs = self
                .legs(pool)
                .into_iter()
                .filter(|at| self.disks[*at].holds_alone(c, key));
            (1, legs.collect::<BTreeSet<_>>())
        } else {
            self.current(c, pool)?
        };
        // Exclusion has been proven by other means, or it is proven by the keys alone.
        let other_means = matches!(
            evidence,
            Evidence::PowerOff { .. } | Evidence::Waited { .. } | Evidence::Rebooted { .. }
        ) || !self.setup.reservations;
        for leg in &legs {
            if other_means && self.setup.reservations && !self.disks[*leg].holds_alone(c, key) {
                self.register(c, *leg, key);
            }
            let excluded = self.disks[*leg].holds_alone(c, key) || !self.setup.reservations;
            if !excluded && !self.breakage.fence_confirmed_blindly {
                return Err(format!(
                    "leg {} is not held alone: {:?}",
                    self.disks[*leg].of.1, self.disks[*leg].keys
                ));
            }
        }
        // Writes that reached some legs only are made whole, under the own key.
        let blocks: Vec<u64> = (0..BLOCKS)
            .map(|b| legs.iter().map(|at| self.disks[*at].blocks[b]).max().unwrap_or(0))
            .collect();
        let mut in_sync = BTreeSet::new();
        for at in &legs {
            self.disks[*at].acknowledge(c);
            if self.disks[*at].admit(c) != Status::Good {
                return Err(format!("leg {} refuses writes", self.disks[*at].of.1));
            }
        }
        for at in &legs {
            self.disks[*at].blocks.clone_from(&blocks);
            self.disks[*at].label.event = event + 1;
            let leg = self.disks[*at].of.1;
            in_sync.insert(leg);
            self.fact(Fact::Wrote { c, pool, leg, key });
        }
        let cache = blocks.clone();
        let label = event + 1;
        self.nodes[c].managers[pool].imported = Some(Imported {
            key,
            published: false,
            quiesced: false,
            in_sync,
            label,
            cache,
        });
        self.say(|| format!("{} imported pool {pool} under {key:?}", id(c)));
        let hand = match evidence {
            Evidence::Unowned | Evidence::Own => Hand::Own,
            Evidence::Released { .. } => Hand::Given,
            Evidence::Reserved { .. }
            | Evidence::PowerOff { .. }
            | Evidence::Waited { .. }
            | Evidence::Rebooted { .. } => Hand::Fenced,
        };
        self.fact(Fact::Imported {
            c,
            pool,
            key,
            blocks,
            hand,
        });
        Ok(())
    }

    pub(super) fn publish(&mut self, c: usize, pool: usize, key: ReservationKey) -> Result<(), String> {
        match &mut self.nodes[c].managers[pool].imported {
            Some(held) if held.key == key => {
                held.published = true;
                held.quiesced = false;
                self.assert_role(c, pool, (key.epoch, key.generation), alua::Role::Owner);
                Ok(())
            }
            _ => Err("not imported under this key".to_owned()),
        }
    }

    pub(super) fn release(&mut self, c: usize, pool: usize, job: &Job, key: ReservationKey, step: usize) {
        if step == 0 {
            if self.nodes[c].managers[pool]
                .imported
                .as_ref()
                .is_some_and(|held| held.key != key)
            {
                return self.end_job(c, pool, Err("imported under another key".to_owned()));
            }
            if let Some(held) = &mut self.nodes[c].managers[pool].imported {
                held.quiesced = true;
            }
            self.assert_role(c, pool, (key.epoch, key.generation), alua::Role::Moving);
            return self.pool_step(c, pool, job.id, 1);
        }
        if self.nodes[c].operations.values().any(|op| op.pool == pool) {
            let busy = self.now < job.deadline;
            if busy {
                return self.pool_step(c, pool, job.id, 1);
            }
            return self.end_job(c, pool, Err("commands are in flight".to_owned()));
        }
        // A failure may strike before the export or after it.
        if job.fails && job.id.is_multiple_of(2) {
            return self.end_job(c, pool, Err("busy".to_owned()));
        }
        // The label says last that the pool was left in good order. Disks that do not take it under this key were not
        // left at all.
        if let Some(leg) = self.reluctant(c, pool, key) {
            if self.drop_leg(c, pool, leg) {
                return self.pool_step(c, pool, job.id, 1);
            }
            return self.end_job(c, pool, Err(format!("leg {leg} does not take the label")));
        }
        self.nodes[c].managers[pool].imported = None;
        for disk in self.legs(pool) {
            if self.disks[disk].keys[c] == Some(key) {
                self.disks[disk].unregister(c);
            }
        }
        self.say(|| format!("{} exported pool {pool}", id(c)));
        let result = if job.fails {
            Err("export: the answer was lost".to_owned())
        } else {
            Ok(())
        };
        self.end_job(c, pool, result);
    }

    /// A leg in sync that would not take a write now.
    fn reluctant(&mut self, c: usize, pool: usize, key: ReservationKey) -> Option<usize> {
        let in_sync = self.nodes[c].managers[pool].imported.as_ref()?.in_sync.clone();
        in_sync.into_iter().find(|leg| {
            let at = self.disk_of(pool, *leg);
            let mine = !self.setup.reservations || self.disks[at].holds_alone(c, key);
            let disk = &mut self.disks[at];
            if disk.admit(c) == Status::Attention && mine {
                disk.acknowledge(c);
            }
            disk.stuck_until > self.now || disk.admit(c) != Status::Good || !mine
        })
    }

    pub(super) fn stop_pool(&mut self, c: usize, pool: usize) {
        let manager = std::mem::take(&mut self.nodes[c].managers[pool]);
        for job in manager.job.into_iter().chain(manager.queue) {
            self.answer_job(c, pool, &job, Err("the pool was stopped".to_owned()));
        }
        self.lower_role(c, pool);
        self.nodes[c].operations.retain(|_, op| op.pool != pool);
        self.nodes[c].busy.retain(|(of, _), _| *of != pool);
    }

    pub(super) fn stop_all(&mut self, c: usize, reason: StopReason) {
        self.stats.stops += 1;
        if self.breakage.stop_ignored {
            return;
        }
        self.nodes[c].stopped = Some(reason);
        for pool in 0..self.setup.pools.len() {
            self.stop_pool(c, pool);
        }
        let done = Event::PoolDone {
            pool: pool_id(0),
            generation: Generation::default(),
            step: PoolStep::StopAll,
            result: Ok(()),
        };
        self.tell_later(c, done, 1_000, 20_000);
        let (boot, span) = (self.nodes[c].boot, self.span(50_000, 500_000));
        self.after(
            span,
            Happening::Reset {
                c,
                boot,
                off: reason == StopReason::Shutdown,
            },
        );
    }

    pub(super) fn key_check(&mut self, c: usize) {
        if self.blind[c] {
            return;
        }
        for pool in 0..self.setup.pools.len() {
            let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
                continue;
            };
            for disk in self.legs(pool) {
                let leg = &self.disks[disk];
                let readable = leg.reservations && leg.reaches(c) && leg.stuck_until <= self.now;
                if held.in_sync.contains(&leg.of.1) && readable && !leg.holds_alone(c, held.key) {
                    self.exclusion_lost(c, pool, disk);
                    break;
                }
            }
            self.resync(c, pool);
        }
    }

    pub(crate) fn exclusion_lost(&mut self, c: usize, pool: usize, disk: usize) {
        if self.breakage.silent_reregistration
            && let Some(held) = self.nodes[c].managers[pool].imported.clone()
            && self.register(c, disk, held.key)
        {
            return;
        }
        let holder = self.disks[disk].standing().filter(|key| key.controller != id(c));
        self.say(|| format!("{} exclusion of pool {pool} is lost: {holder:?}", id(c)));
        self.stats.exclusions_lost += 1;
        self.stop_pool(c, pool);
        self.tell_later(
            c,
            Event::ExclusionLost {
                pool: pool_id(pool),
                holder,
            },
            100,
            3_000,
        );
    }

    /// A leg that came back is made equal and counts again.
    pub(super) fn resync(&mut self, c: usize, pool: usize) {
        let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
            return;
        };
        let legs = self.legs(pool);
        let usable =
            |world: &Self, at: usize| world.disks[at].reaches(c) && world.disks[at].stuck_until <= world.now;
        if held.quiesced || held.in_sync.len() == legs.len() || !legs.iter().all(|at| usable(self, *at)) {
            return;
        }
        let member = |world: &Self, at: usize| held.in_sync.contains(&world.disks[at].of.1);
        let reservations = self.setup.reservations;
        let mine = legs
            .iter()
            .filter(|at| member(self, **at))
            .all(|at| !reservations || self.disks[*at].holds_alone(c, held.key));
        if !mine || self.nodes[c].operations.values().any(|op| op.pool == pool) {
            return;
        }
        let Some(source) = legs.iter().find(|at| member(self, **at)).copied() else {
            return;
        };
        let blocks = self.disks[source].blocks.clone();
        for at in &legs {
            if !member(self, *at) && reservations && !self.register(c, *at, held.key) {
                return;
            }
        }
        let Some(held) = &mut self.nodes[c].managers[pool].imported else {
            return;
        };
        held.label += 1;
        let (label, key) = (held.label, held.key);
        for at in legs {
            let leg = self.disks[at].of.1;
            held.in_sync.insert(leg);
            self.disks[at].blocks.clone_from(&blocks);
            self.disks[at].label = crate::shelf::Label {
                event: label,
                failed: BTreeSet::new(),
            };
            self.facts.push(Fact::Wrote { c, pool, leg, key });
        }
        self.say(|| format!("{} pool {pool} is whole again", id(c)));
    }
}
