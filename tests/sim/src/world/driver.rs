//! What the heartbeat daemon is to the core: it brings events, and carries effects out in their order.

use super::*;

impl World {
    pub(super) fn tell_later(&mut self, c: usize, event: Event, low_us: u64, high_us: u64) {
        let (span, life) = (self.span(low_us, high_us), self.nodes[c].life);
        self.after(span, Happening::Tell { c, life, event });
    }

    /// The core of a controller takes an event, and its effects are carried out.
    pub(crate) fn tell(&mut self, c: usize, event: Event) {
        if self.nodes[c].core.is_none() {
            return;
        }
        if self.nodes[c].halted {
            let life = self.nodes[c].life;
            return self.nodes[c].deferred.push(Happening::Tell { c, life, event });
        }
        self.note(c, &event);
        let now = self.local(c);
        if !matches!(event, Event::Tick) {
            self.say(|| format!("{} <- {event:?}", id(c)));
        }
        let Some(core) = &mut self.nodes[c].core else {
            return;
        };
        self.stats.coverage.met(core.state(now), &event);
        if let Some((pool, number)) = crate::coverage::pool_event(&event)
            && let Some(state) = core.pool_state(pool)
        {
            self.stats.coverage.met_pool(state, number);
        }
        let effects = core.handle(now, event);
        let deadline = core.next_deadline();
        self.stats.handled += 1;
        let asked = self
            .stall_next
            .filter(|(of, _)| *of == c && effects.contains(&Effect::Pet));
        let chance = !effects.is_empty() && self.rng.chance(self.setup.stall_midway) && !self.healed;
        if asked.is_some() || chance {
            // The scheduler takes the processor away between the decision and the deed.
            self.stall_next = None;
            let life = self.nodes[c].life;
            self.nodes[c].stalled.push((life, effects));
            let pause = self.pause(c);
            let most = nanos(self.timing.watchdog) + SEC;
            let span = asked.map_or_else(|| self.rng.range(MS, most), |(_, span)| span);
            self.after(span, Happening::Resume { c, pause });
        } else {
            self.perform_all(c, effects);
        }
        let node = &self.nodes[c];
        if node.core.is_some() {
            let most = if self.saturated {
                100 * MS
            } else {
                self.setup.lateness
            };
            let late = self.rng.range(0, most);
            let at = self.nodes[c].clock.when(deadline).max(self.now + 50_000) + late;
            if at < self.nodes[c].tick || self.nodes[c].tick <= self.now {
                self.nodes[c].tick = at;
                let life = self.nodes[c].life;
                self.at(at, Happening::Tick { c, life });
            }
        }
    }

    /// Writes down what this event shows to the core.
    pub(super) fn note(&mut self, c: usize, event: &Event) {
        match event {
            Event::Received(datagram) => {
                if let Some(record) = datagram.record {
                    self.fact(Fact::Learnt { c, record });
                }
                self.note_advert(c, datagram.advert.incarnation, datagram.advert.role);
                let sent = self.nodes[c]
                    .nonces
                    .iter()
                    .find(|(nonce, _)| Some(*nonce) == datagram.echo);
                if let Some((_, at)) = sent.copied() {
                    self.fact(Fact::Sighted { c, since: at });
                }
            }
            Event::ReadDone { id: read, area, .. } => {
                let reading = self.nodes[c].readings.remove(read);
                if let (Some((seat, issued)), Ok(slot)) = (reading, &area.slot) {
                    // A change between two reads is life no earlier than the first of them.
                    let last = self.nodes[c].slots.get(&seat).copied();
                    let changed = last.filter(|(sequence, _)| *sequence != slot.sequence);
                    if let Some((_, since)) = changed {
                        self.fact(Fact::Sighted { c, since });
                    }
                    self.note_advert(c, slot.advert.incarnation, slot.advert.role);
                    self.nodes[c].slots.insert(seat, (slot.sequence, issued));
                }
                if let Ok(vote) = area.vote {
                    self.fact(Fact::Learnt {
                        c,
                        record: vote.decided,
                    });
                }
            }
            Event::Power {
                state: Power::Off,
                asked,
            } => {
                let reports = self.nodes[c].reports.iter();
                let report = reports.rev().find(|(of, ..)| of == asked).copied();
                if let Some((_, asked, incarnation)) = report {
                    self.fact(Fact::SeenOff {
                        c,
                        incarnation,
                        asked,
                    });
                }
            }
            Event::Request {
                request: Request::Takeover,
                ..
            } => self.fact(Fact::Demanded { c }),
            _ => {}
        }
    }

    pub(super) fn note_advert(&mut self, c: usize, incarnation: Incarnation, role: Role) {
        // Who says that its daemon ends may be back at once: that takes nothing away from what it shows of its life.
        let gone = if role == Role::Left || role == Role::Releasing {
            incarnation.get()
        } else {
            incarnation.get().saturating_sub(1)
        };
        self.fact(Fact::SeenGone { c, incarnation: gone });
    }

    pub(super) fn perform_all(&mut self, c: usize, effects: Vec<Effect>) {
        let boot = self.nodes[c].boot;
        for effect in effects {
            if self.nodes[c].boot == boot {
                self.perform(c, effect);
            }
        }
    }

    pub(super) fn perform(&mut self, c: usize, effect: Effect) {
        if !matches!(
            effect,
            Effect::Send(_) | Effect::ReadArea { .. } | Effect::Pet | Effect::GrantLease { .. }
        ) {
            self.say(|| format!("{} -> {effect:?}", id(c)));
        }
        match effect {
            Effect::WriteBlock {
                id: write,
                disk,
                block,
                content,
            } => self.submit(c, write, disk, block, content),
            Effect::ReadArea {
                id: read,
                disk,
                whose,
            } => {
                let seat = disk;
                let Some(disk) = self
                    .quorum
                    .iter()
                    .position(|known| known.place.seat.disk == seat.disk)
                else {
                    return;
                };
                let (life, boot) = (self.nodes[c].life, self.nodes[c].boot);
                let span = self.disk_latency(disk);
                let issued = self.now;
                self.after(
                    span,
                    Happening::QuorumRead {
                        c,
                        life,
                        boot,
                        id: read,
                        disk,
                        seat,
                        whose,
                        issued,
                    },
                );
            }
            Effect::UseDisks(set) => self.use_disks(c, set),
            Effect::FormatDisk { seat, parts } => self.format_soon(c, seat, parts),
            Effect::Send(datagram) => self.send(c, datagram),
            Effect::GrantLease { until, .. } => self.grant(c, until),
            Effect::ArmWatchdog { timeout } => {
                if self.setup.watchdog[c] {
                    let (life, timeout) = (self.nodes[c].life, timeout.as_nanos() as u64);
                    let span = self.span(100, 5_000);
                    self.after(span, Happening::Arm { c, life, timeout });
                } else {
                    self.tell_later(c, Event::Watchdog { armed: false }, 100, 5_000);
                }
            }
            Effect::Pet => self.pet(c),
            Effect::QueryPower => self.ask_power(c, false),
            Effect::PowerOff(_) => self.ask_power(c, true),
            Effect::FencePool { pool, key, victim } => {
                let _ = victim;
                self.job(c, pool_number(pool), Task::Fence(key));
            }
            Effect::TakePool { pool, key, evidence } => {
                let number = pool_number(pool);
                // Decided before a pause and done after it: what comes of it is judged at the disks.
                if !self.late {
                    self.fact(Fact::Taking { c, pool: number, key });
                }
                self.fact(Fact::Trusted {
                    c,
                    pool: number,
                    key,
                    evidence,
                });
                self.job(c, number, Task::Take(key, evidence));
            }
            Effect::PublishPool { pool, key } => self.job(c, pool_number(pool), Task::Publish(key)),
            Effect::ReleasePool { pool, key } => self.job(c, pool_number(pool), Task::Release(key)),
            Effect::ResumePool { pool, key } => self.job(c, pool_number(pool), Task::Resume(key)),
            Effect::DeletePool { pool, .. } => self.stop_pool(c, pool_number(pool)),
            Effect::StopPool { pool, generation, .. } => {
                self.stop_pool(c, pool_number(pool));
                let step = PoolStep::Stop;
                self.tell_later(
                    c,
                    Event::PoolDone {
                        pool,
                        generation,
                        step,
                        result: Ok(()),
                    },
                    100,
                    20_000,
                );
            }
            Effect::StopAll { reason } => self.stop_all(c, reason),
            Effect::ConfigEpoch { record, lock } => {
                self.fact(Fact::Published { c, record });
                self.ask_keeper(c, Ask::Epoch(record, lock));
            }
            Effect::ConfigFreeze { epoch } => self.ask_keeper(c, Ask::Freeze(epoch)),
            Effect::ConfigUnfreeze { epoch } => self.ask_keeper(c, Ask::Unfreeze(epoch)),
            Effect::ConfigProbe { base } => self.ask_keeper(c, Ask::Probe(base)),
            Effect::ConfigCatchUp => self.ask_keeper(c, Ask::CatchUp),
            Effect::Answer { result, .. } => self.answers.push((c, result.is_ok())),
            Effect::Route {
                pool,
                epoch,
                generation,
                role,
                partner_reachable,
            } => {
                let task = Task::Route {
                    claim: (epoch, generation),
                    role,
                    reachable: partner_reachable,
                };
                self.job(c, pool_number(pool), task);
            }
            Effect::Note(_) => {}
        }
    }

    /// Replies of this controller may leave.
    pub(crate) fn fresh(&self, c: usize) -> bool {
        self.breakage.lease_ignored || self.local(c) < self.nodes[c].lease_until
    }

    /// It has a lease, whatever the world makes of it.
    pub(crate) fn leased(&self, c: usize) -> bool {
        self.local(c) < self.nodes[c].lease_until
    }

    pub(super) fn grant(&mut self, c: usize, until: Instant) {
        let (was, leased) = (self.fresh(c), self.leased(c));
        self.nodes[c].lease_until = until;
        if !leased && self.leased(c) {
            self.fact(Fact::Leased);
        }
        let is = self.fresh(c);
        if was != is {
            self.say(|| format!("{} lease {}", id(c), if is { "fresh" } else { "revoked" }));
        }
        if is {
            for op in std::mem::take(&mut self.nodes[c].held) {
                self.reply(c, op);
            }
        } else if was {
            self.stats.revoked += 1;
        }
    }

    pub(super) fn pet(&mut self, c: usize) {
        if let Some((timeout, deadline)) = &mut self.nodes[c].watchdog {
            *deadline = self.now + *timeout;
        }
    }

    pub(super) fn look_at_watchdog(&mut self, c: usize) {
        let Some((_, deadline)) = self.nodes[c].watchdog else {
            return;
        };
        if self.now >= deadline {
            self.say(|| format!("{} WATCHDOG", id(c)));
            self.stats.watchdogs += 1;
            self.reset(c);
        } else {
            let boot = self.nodes[c].boot;
            self.at(deadline, Happening::Watchdog { c, boot });
        }
    }
}
