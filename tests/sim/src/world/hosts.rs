//! Hosts: streams of commands, one at a time per block, over whichever path answers; and the target that serves them.

use super::*;

impl World {
    pub(super) fn host(&mut self, stream: usize) {
        self.ops += 1;
        let (op, now) = (self.ops, self.now);
        let deed = if self.rng.chance(500_000) {
            self.values += 1;
            Deed::Write(self.values)
        } else {
            let entry = &self.streams[stream];
            Deed::Read {
                floor: self.floors[entry.pool][entry.block],
            }
        };
        // A path checker looks at the other path now and then.
        let other = self.rng.chance(150_000);
        let entry = &mut self.streams[stream];
        if other {
            entry.path = 1 - entry.path;
        }
        (entry.op, entry.deed, entry.began) = (op, Some(deed), now);
        self.attempt(stream);
    }

    pub(super) fn attempt(&mut self, stream: usize) {
        let deadline = self.now + HOST_PATIENCE;
        let entry = &mut self.streams[stream];
        entry.deadline = deadline;
        let (c, op, watched) = (entry.path, entry.op, entry.watches > 0);
        let boot = self.nodes[c].boot;
        let span = self.span(50, 500);
        self.after(span, Happening::Command { c, boot, stream, op });
        // Most commands are answered long before: one look serves those that follow each other.
        if !watched {
            self.watch(stream, deadline);
        }
    }

    fn watch(&mut self, stream: usize, at: u64) {
        self.streams[stream].watches += 1;
        self.at(at, Happening::Patience { stream });
    }

    /// A host looks whether the answer that it waits for is overdue.
    pub(super) fn patience(&mut self, stream: usize) {
        let now = self.now;
        let entry = &mut self.streams[stream];
        entry.watches -= 1;
        let (deadline, watched) = (entry.deadline, entry.watches > 0);
        if entry.deed.is_none() {
            return;
        }
        if now >= deadline {
            entry.path = 1 - entry.path;
            self.attempt(stream);
        } else if !watched {
            self.watch(stream, deadline);
        }
    }

    /// Not here, not now: the host tries its other path soon.
    pub(super) fn refuse(&mut self, stream: usize, op: u64) {
        let entry = &self.streams[stream];
        if entry.op == op && entry.deed.is_some() {
            let deadline = self.now + self.span(20_000, 200_000);
            self.streams[stream].deadline = deadline;
            self.watch(stream, deadline);
        }
    }

    pub(super) fn command(&mut self, c: usize, boot: u32, stream: usize, host: u64) {
        let entry = self.streams[stream].clone();
        // A command that its host has given up is aborted with its connection.
        let Some(deed) = entry.deed.filter(|_| entry.op == host) else {
            return;
        };
        let held = self.nodes[c].managers[entry.pool].imported.as_ref();
        let alive = self.nodes[c].boot == boot && self.nodes[c].up && self.nodes[c].stopped.is_none();
        let Some(key) = held
            .filter(|held| alive && held.published && !held.quiesced)
            .map(|held| held.key)
        else {
            return self.refuse(stream, host);
        };
        self.ops += 1;
        let (op, pool, block) = (self.ops, entry.pool, entry.block);
        let operation = Operation {
            stream,
            host,
            pool,
            block,
            deed,
            key,
            waiting: BTreeSet::new(),
            value: 0,
            retries: 0,
        };
        self.nodes[c].operations.insert(op, operation);
        let queue = self.nodes[c].busy.entry((pool, block)).or_default();
        queue.push_back(op);
        if queue.len() == 1 {
            self.issue(c, op);
        }
    }

    pub(super) fn leg_latency(&mut self) -> u64 {
        let slow = self.setup.leg_slowness.max(self.load());
        self.span(100, 4_000) + self.rng.range(0, slow)
    }

    /// A command of a host goes to the disks.
    pub(super) fn issue(&mut self, c: usize, op: u64) {
        let boot = self.nodes[c].boot;
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        match operation.deed {
            Deed::Read { .. } => {
                let span = self.leg_latency();
                self.after(span, Happening::LegRead { c, boot, op });
            }
            Deed::Write(value) => {
                let Some(held) = &self.nodes[c].managers[operation.pool].imported else {
                    return;
                };
                let legs: BTreeSet<usize> = held.in_sync.clone();
                for leg in &legs {
                    let span = self.leg_latency();
                    self.set_out(c, op, operation.pool, *leg, span);
                }
                if let Some(operation) = self.nodes[c].operations.get_mut(&op) {
                    operation.waiting = legs;
                    operation.value = value;
                }
                if self.breakage.early_acknowledgement {
                    self.reply(c, op);
                }
            }
        }
    }

    pub(super) fn disk_of(&self, pool: usize, leg: usize) -> usize {
        self.disks
            .iter()
            .position(|disk| disk.of == (pool, leg))
            .unwrap_or(0)
    }

    /// A write command sets out for a disk.
    fn set_out(&mut self, c: usize, op: u64, pool: usize, leg: usize, span: u64) {
        let cycle = self.disks[self.disk_of(pool, leg)].cycle;
        let boot = self.nodes[c].boot;
        let what = Happening::LegWrite {
            c,
            boot,
            op,
            leg,
            cycle,
        };
        self.after(span, what);
    }

    pub(super) fn leg_write(&mut self, c: usize, boot: u32, op: u64, leg: usize, cycle: u32) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let disk = self.disk_of(operation.pool, leg);
        let entry = &mut self.disks[disk];
        if entry.reaches(c) && entry.stuck_until > self.now {
            let at = (entry.stuck_until + 1).min(self.now + AGAIN);
            let what = Happening::LegWrite {
                c,
                boot,
                op,
                leg,
                cycle,
            };
            return self.at(at, what);
        }
        let status = if entry.cycle == cycle {
            entry.admit(c)
        } else {
            Status::Lost
        };
        if status == Status::Good {
            entry.blocks[operation.block] = operation.value;
            self.fact(Fact::Wrote {
                c,
                pool: operation.pool,
                leg,
                key: operation.key,
            });
        }
        let span = self.span(50, 500);
        self.after(
            span,
            Happening::LegDone {
                c,
                boot,
                op,
                leg,
                status,
            },
        );
    }

    pub(super) fn leg_done(&mut self, c: usize, op: u64, leg: usize, status: Status) {
        let Some(operation) = self.nodes[c].operations.get_mut(&op) else {
            return;
        };
        let (pool, key) = (operation.pool, operation.key);
        let disk = self.disk_of(pool, leg);
        let Some(operation) = self.nodes[c].operations.get_mut(&op) else {
            return;
        };
        let again = |world: &mut Self| {
            let span = world.leg_latency() + 100 * MS;
            world.set_out(c, op, pool, leg, span);
        };
        match status {
            Status::Good => {
                operation.waiting.remove(&leg);
                if operation.waiting.is_empty() {
                    self.written(c, op);
                }
            }
            Status::Attention if self.disks[disk].holds_alone(c, key) || !self.setup.reservations => {
                let span = self.leg_latency();
                self.disks[disk].acknowledge(c);
                self.set_out(c, op, pool, leg, span);
            }
            Status::Attention | Status::Conflict if self.blind[c] => again(self),
            Status::Attention | Status::Conflict => self.exclusion_lost(c, pool, disk),
            Status::Lost => {
                if !operation.waiting.contains(&leg) {
                    return;
                }
                operation.retries += 1;
                let patient = operation.retries < 8;
                if patient || !self.drop_leg(c, pool, leg) {
                    return again(self);
                }
                // Every command that waits for the leg goes on without it.
                let mut waiting = Vec::new();
                for (op, other) in self.nodes[c]
                    .operations
                    .iter_mut()
                    .filter(|(_, other)| other.pool == pool)
                {
                    if other.waiting.remove(&leg) && other.waiting.is_empty() {
                        waiting.push(*op);
                    }
                }
                for op in waiting {
                    self.written(c, op);
                }
            }
        }
    }

    /// A write is on every leg that counts.
    fn written(&mut self, c: usize, op: u64) {
        let Some(operation) = self.nodes[c].operations.get(&op) else {
            return;
        };
        let (pool, block, value) = (operation.pool, operation.block, operation.value);
        if let Some(held) = &mut self.nodes[c].managers[pool].imported {
            held.cache[block] = value;
        }
        self.reply(c, op);
    }

    /// Calls a leg failed on every other leg in sync; only then may writes go without it.
    pub(super) fn drop_leg(&mut self, c: usize, pool: usize, leg: usize) -> bool {
        let Some(held) = self.nodes[c].managers[pool].imported.clone() else {
            return false;
        };
        let rest: Vec<usize> = held
            .in_sync
            .iter()
            .filter(|other| **other != leg)
            .map(|other| self.disk_of(pool, *other))
            .collect();
        let good = |world: &mut Self, at: usize| {
            world.disks[at].stuck_until <= world.now && world.disks[at].admit(c) == Status::Good
        };
        if !held.in_sync.contains(&leg) || rest.is_empty() || !rest.iter().all(|at| good(self, *at)) {
            return false;
        }
        let Some(held) = &mut self.nodes[c].managers[pool].imported else {
            return false;
        };
        held.label += 1;
        held.in_sync.remove(&leg);
        let (label, key, in_sync) = (held.label, held.key, held.in_sync.clone());
        let failed: BTreeSet<usize> = (0..self.setup.pools[pool].legs)
            .filter(|at| !in_sync.contains(at))
            .collect();
        for at in rest {
            self.disks[at].label = crate::shelf::Label {
                event: label,
                failed: failed.clone(),
            };
            let leg = self.disks[at].of.1;
            self.fact(Fact::Wrote { c, pool, leg, key });
        }
        self.fact(Fact::CalledFailed { pool, leg });
        self.say(|| format!("{} pool {pool} goes on without leg {leg}", id(c)));
        true
    }

    pub(super) fn leg_read(&mut self, c: usize, op: u64) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let Some(held) = &self.nodes[c].managers[operation.pool].imported else {
            return;
        };
        let value = held.cache[operation.block];
        if let Some(operation) = self.nodes[c].operations.get_mut(&op) {
            operation.value = value;
        }
        if !self.nodes[c].paused {
            self.reply(c, op);
        } else {
            self.nodes[c].held.push(op);
        }
    }

    /// The reply leaves, if the lease is fresh; otherwise it is held.
    pub(super) fn reply(&mut self, c: usize, op: u64) {
        let Some(operation) = self.nodes[c].operations.get(&op).cloned() else {
            return;
        };
        let (pool, block, key, stream) = (operation.pool, operation.block, operation.key, operation.stream);
        if !self.fresh(c) {
            self.stats.held += 1;
            self.nodes[c].held.push(op);
            return;
        }
        let what = match operation.deed {
            Deed::Write(value) => Answer::Write { block, value },
            Deed::Read { floor } => Answer::Read {
                block,
                value: operation.value,
                floor,
            },
        };
        if let Deed::Write(value) = operation.deed {
            let floor = &mut self.floors[pool][block];
            *floor = (*floor).max(value);
        }
        self.fact(Fact::Replied { c, pool, key, what });
        self.nodes[c].operations.remove(&op);
        let next = self.nodes[c].busy.get_mut(&(pool, block)).and_then(|queue| {
            queue.retain(|other| *other != op);
            queue.front().copied()
        });
        if let Some(next) = next {
            self.issue(c, next);
        }
        let now = self.now;
        let entry = &mut self.streams[stream];
        if entry.op == operation.host && entry.deed.take().is_some() {
            entry.answered = entry.began;
            self.stats.pause(now - entry.began);
            let span = self.rng.range(20 * MS, self.setup.host_idle);
            self.after(span, Happening::Host { stream });
        }
    }
}
