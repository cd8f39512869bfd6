//! Power, pauses, the life of the heartbeat daemon, and the partner's power control.

use super::*;

impl World {
    /// The power button: on.
    pub(crate) fn power_on(&mut self, c: usize) {
        let node = &mut self.nodes[c];
        if node.up || (node.powered && node.boot > 0) {
            return;
        }
        node.powered = true;
        node.boot += 1;
        let boot = node.boot;
        let span = self.rng.range(self.setup.boot_time.0, self.setup.boot_time.1);
        self.after(span, Happening::Boot { c, boot });
    }

    /// Everything of a controller ends here and now: power cut, reset, watchdog.
    pub(super) fn die(&mut self, c: usize) {
        let writes = std::mem::take(&mut self.nodes[c].writes);
        for write in writes.into_values().filter(|write| !write.applied) {
            // In flight when the power went: not at all, or in full, or torn.
            let fate = self.rng.below(4);
            if !self.quorum[write.disk].reaches(c)
                || fate < 2
                || self.quorum[write.disk].stuck_until > self.now
            {
                continue;
            }
            if fate == 2 {
                self.apply(c, &write);
            } else {
                let disk = &mut self.quorum[write.disk];
                disk.tear(id(c), write.block, &write.bytes, &mut self.rng);
                self.say(|| format!("{} torn on quorum disk {}: {:?}", id(c), write.disk, write.block));
            }
        }
        let legs = self.setup.pools.len();
        let node = &mut self.nodes[c];
        node.up = false;
        node.paused = false;
        node.halted = false;
        node.core = None;
        node.boot += 1;
        node.life += 1;
        node.deferred.clear();
        node.stalled.clear();
        node.stopped = None;
        node.watchdog = None;
        node.lease_until = Instant::ZERO;
        node.tick = u64::MAX;
        node.managers = vec![Manager::default(); legs];
        node.operations.clear();
        node.busy.clear();
        node.held.clear();
        node.nonces.clear();
        node.slots.clear();
        node.readings.clear();
        node.reports.clear();
        node.role = Role::Starting;
        node.spoken = None;
        node.desk = super::configuration::Desk::default();
        self.end_keeper(c);
        // Services that start have nothing to go by but what the keeper gives them.
        self.nodes[c].keeper.kept = None;
        self.nodes[c].port.end(id(c));
    }

    /// The power goes.
    pub(crate) fn power_cut(&mut self, c: usize) {
        if self.nodes[c].powered {
            self.say(|| format!("{} POWER OFF", id(c)));
            self.die(c);
            self.nodes[c].powered = false;
        }
    }

    /// A reset: everything ends and starts again.
    pub(crate) fn reset(&mut self, c: usize) {
        if self.nodes[c].powered {
            self.say(|| format!("{} RESET", id(c)));
            self.die(c);
            let boot = self.nodes[c].boot;
            let span = self.rng.range(self.setup.boot_time.0, self.setup.boot_time.1);
            self.after(span, Happening::Boot { c, boot });
        }
    }

    /// All of a controller stands still; the pause that has to be ended for it to go on.
    pub(crate) fn pause(&mut self, c: usize) -> u32 {
        if self.nodes[c].up && !self.nodes[c].paused {
            self.say(|| format!("{} PAUSED", id(c)));
            self.nodes[c].paused = true;
            self.nodes[c].pauses += 1;
        }
        self.nodes[c].pauses
    }

    /// It goes on, and finds everything that waited.
    pub(crate) fn resume(&mut self, c: usize) {
        if !self.nodes[c].paused {
            return;
        }
        self.say(|| format!("{} RESUMED", id(c)));
        self.nodes[c].paused = false;
        self.wake(c);
    }

    /// The heartbeat daemon stands still while everything else goes on.
    pub(crate) fn halt(&mut self, c: usize) {
        if self.nodes[c].core.is_some() {
            self.say(|| format!("{} heartbeat daemon STOPPED", id(c)));
            self.nodes[c].halted = true;
        }
    }

    /// And goes on.
    pub(crate) fn go_on(&mut self, c: usize) {
        if self.nodes[c].halted {
            self.say(|| format!("{} heartbeat daemon CONTINUED", id(c)));
            self.nodes[c].halted = false;
            self.wake(c);
        }
    }

    /// Whoever stood still finds everything that waited.
    fn wake(&mut self, c: usize) {
        for (life, effects) in std::mem::take(&mut self.nodes[c].stalled) {
            if life == self.nodes[c].life {
                self.late = true;
                self.perform_all(c, effects);
                self.late = false;
            }
        }
        let mut waiting = std::mem::take(&mut self.nodes[c].deferred);
        // Whichever process the scheduler wakes first.
        if self.rng.chance(500_000) {
            let by = self.rng.index(waiting.len().max(1));
            waiting.rotate_left(by);
        }
        for what in waiting {
            let span = self.span(0, 300);
            self.after(span, what);
        }
    }

    /// The heartbeat daemon panics: its last word is that it ends. In its slot it says so on those disks that take it in time.
    pub(crate) fn panics(&mut self, c: usize, restart: Option<u64>) {
        let node = &self.nodes[c];
        if node.up
            && node.core.is_some()
            && !node.paused
            && !node.halted
            && let Some(word) = node.spoken.as_ref().and_then(|spoken| spoken.last_word())
        {
            self.transmit(c, word);
        }
        let node = &self.nodes[c];
        let now = self.local(c);
        let slot = match &node.core {
            Some(core) if node.up && !node.paused && !node.halted => core.last_slot(now),
            _ => None,
        };
        if let Some((slot, seats)) = slot {
            for (at, seat) in seats.into_iter().enumerate() {
                // A write that is under way is brought to its end first, and may take longer than the daemon lives.
                let under_way = |write: &QuorumWrite| write.seat == seat && write.block == BlockId::Slot;
                let busy = self.nodes[c].writes.values().any(under_way);
                if !busy && self.rng.chance(500_000) {
                    let id = WriteId(u64::MAX - at as u64);
                    self.submit(c, id, seat, BlockId::Slot, Content::Slot(slot));
                }
            }
        }
        self.crash(c, restart);
    }

    /// The heartbeat daemon dies; systemd starts it again after a while.
    pub(crate) fn crash(&mut self, c: usize, restart: Option<u64>) {
        let node = &mut self.nodes[c];
        if !node.up || node.core.is_none() {
            return;
        }
        node.core = None;
        node.halted = false;
        node.life += 1;
        node.tick = u64::MAX;
        node.stalled.clear();
        node.desk = super::configuration::Desk::default();
        let boot = node.boot;
        self.say(|| format!("{} heartbeat daemon DIES", id(c)));
        match restart {
            Some(span) => self.after(span, Happening::Daemon { c, boot }),
            None => self.nodes[c].maimed = true,
        }
    }

    pub(super) fn boot(&mut self, c: usize) {
        self.nodes[c].up = true;
        self.nodes[c].incarnation += 1;
        self.nodes[c].clock.offset = self.rng.range(SEC, 100_000 * SEC);
        let (boot, incarnation) = (self.nodes[c].boot, self.nodes[c].incarnation);
        self.say(|| format!("{} BOOTED as incarnation {incarnation}", id(c)));
        self.fact(Fact::Booted { c });
        let span = self.span(100, 50_000);
        self.after(span, Happening::Daemon { c, boot });
        let span = self.span(1_000, 50_000);
        self.after(span, Happening::KeeperStarts { c, boot });
        self.open_port(c);
        let span = self.timing.key_check.as_nanos() as u64;
        self.after(span, Happening::KeyCheck { c, boot });
    }

    pub(super) fn daemon(&mut self, c: usize, boot: u32) {
        if self.nodes[c].core.is_some() || self.nodes[c].maimed {
            return;
        }
        // The dead daemon's writes hold the lock of the quorum area until they have ended.
        if !self.nodes[c].writes.is_empty() {
            return self.after(10 * MS, Happening::Daemon { c, boot });
        }
        let params = Params {
            array: ARRAY,
            controller: id(c),
            incarnation: Incarnation::new(self.nodes[c].incarnation),
            set: self.nodes[c].hint,
            timing: self.timing,
            seed: self.rng.next(),
            power_rung: self.setup.power_rung,
            reservation_rung: self.setup.reservations,
            pausable: self.setup.pausable,
            auto_giveback: self.setup.auto_giveback,
        };
        let now = self.local(c);
        let core = Core::new(params, now).unwrap_or_else(|bad| panic!("the setup is refused: {bad}"));
        self.nodes[c].core = Some(core);
        self.nodes[c].life += 1;
        self.nodes[c].spoken = None;
        self.nodes[c].nonces.clear();
        self.nodes[c].slots.clear();
        self.nodes[c].readings.clear();
        self.nodes[c].reports.clear();
        self.nodes[c].open = QuorumSet::default();
        let life = self.nodes[c].life;
        self.say(|| format!("{} heartbeat daemon starts", id(c)));
        self.tell(c, Event::Tick);
        self.open_desk(c);
        for event in [self.pool_list(None), Event::Legs(vec![true; 2])] {
            let span = self.span(100, 30_000);
            self.after(span, Happening::Tell { c, life, event });
        }
        let span = self.span(100, 30_000);
        self.after(span, Happening::Observe { c, life });
        if self.nodes[c].watchdog.is_some() {
            self.tell_later(c, Event::Watchdog { armed: true }, 100, 30_000);
        }
    }

    /// The pools of the configuration, as a controller is told them; `home`: that one has just become the home of all.
    pub(crate) fn pool_list(&self, home: Option<usize>) -> Event {
        let pools = self.setup.pools.iter().enumerate();
        let pools = pools.take(self.setup.pools.len() - self.untold);
        let info = |(at, spec): (usize, &crate::setup::PoolSpec)| PoolInfo {
            pool: pool_id(at),
            home: id(home.unwrap_or(spec.home)),
        };
        Event::Pools(pools.map(info).collect())
    }

    pub(super) fn ask_power(&mut self, c: usize, cut: bool) {
        let (life, asked) = (self.nodes[c].life, self.now);
        let span = if cut {
            self.span(5_000, 300_000)
        } else {
            self.span(1_000, 50_000)
        };
        self.after(span, Happening::PowerControl { c, life, cut, asked });
    }

    pub(super) fn power_control(&mut self, c: usize, life: u32, cut: bool, asked: u64) {
        let victim = 1 - c;
        let reachable = self.bmc[victim] && self.setup.power_rung;
        if reachable && cut {
            self.stats.power_fences += 1;
            self.power_cut(victim);
            if self.setup.repower {
                let (boot, span) = (self.nodes[victim].boot, self.rng.range(2 * SEC, 40 * SEC));
                let mend = crate::swarm::Mend::PowerOn { c: victim, boot };
                self.after(span, Happening::Mend(mend));
            }
        }
        let state = match (reachable, self.nodes[victim].powered) {
            (false, _) => Power::Unknown,
            (true, false) => Power::Off,
            (true, true) => Power::On,
        };
        // Asked when it was sent; with a cut, the question follows the deed.
        let at = if cut { self.now } else { asked };
        let asked = self.nodes[c].clock.read(at);
        if state == Power::Off && self.nodes[c].life == life {
            let incarnation = self.nodes[victim].incarnation;
            let reports = &mut self.nodes[c].reports;
            if reports.len() == 256 {
                reports.pop_front();
            }
            reports.push_back((asked, at, incarnation));
        }
        let span = self.span(500, 20_000) + self.rng.range(0, self.bmc_slow[victim]);
        self.after(
            span,
            Happening::Tell {
                c,
                life,
                event: Event::Power { state, asked },
            },
        );
    }
}
