//! One controller: its heartbeat daemon, its pool manager, its power and its watchdog.

use super::fault::Then;
use super::judge::shown;
use super::{ARRAY, Array, Breakage, Card, Kind, Laid, POOL, Recovery, Task, UNIT, id, set, timing};
use crate::search::Violation;
use pollux_api::id::{Generation, Incarnation};
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::area::{Area, Content, Role, Unread};
use pollux_heartbeat_core::effect::{BlockId, Evidence, StopReason, WriteId};
use pollux_heartbeat_core::event::{ConfigStatus, Import, PoolInfo, PoolStep, Power, Request};
use pollux_heartbeat_core::record::Record;
use pollux_heartbeat_core::wire::Datagram;
use pollux_heartbeat_core::{Core, Effect, Event, Instant, Params};

/// A boot takes so long: less than it takes to be missed.
const BOOT: u32 = 2;
/// Datagrams that wait for a daemon that stands still; what comes when the buffer is full is lost.
const BUFFER: usize = 2;

/// What a search finds on its way is read by one who wants to know what happened.
pub(super) type Script<'a, 'b> = &'a mut Option<&'b mut Vec<String>>;

/// One controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) core: Option<Box<Core>>,
    /// Which life of the daemon this is, over all boots.
    pub(super) life: u32,
    pub(super) boots: u64,
    pub(super) powered: bool,
    pub(super) boot_at: Option<Instant>,
    /// The daemon is started then.
    pub(super) daemon_at: Option<Instant>,
    /// The daemon died, and when it comes back is open.
    pub(super) crashed: bool,
    /// The daemon stands still; target and pool manager go on.
    pub(super) stalled: bool,
    /// Deeds that a stall has come between.
    pub(super) undone: Vec<Effect>,
    /// What a stalled daemon will find.
    pub(super) late: Vec<Laid>,
    pub(super) lease_until: Instant,
    pub(super) watchdog: Option<Instant>,
    /// It shuts down, and its power goes then.
    pub(super) off_at: Option<Instant>,
    /// It shuts down, and when its power goes is open.
    pub(super) goes: bool,
    /// The pool, and whether hosts are answered.
    pub(super) imported: Option<(ReservationKey, bool)>,
    pub(super) stopped: bool,
    /// The record that this controller's services were told last.
    pub(super) told: Option<Record>,
    /// No fault has kept its slot from being written since then.
    pub(super) well_since: Instant,
    /// An operator has demanded the takeover.
    pub(super) demanded: bool,
    /// The last record that it voted for, in any of its lives.
    pub(super) cast: Option<Record>,
    /// The last datagram that its daemon has sent: what it would say when it dies is the same, and that it does.
    pub(super) spoken: Option<Box<Datagram>>,
    /// It has said that it dies, in any of its lives.
    pub(super) word_said: bool,
}

impl Node {
    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.boots)
    }

    /// When something is due here, no earlier than `soonest`.
    pub(super) fn due(&self, soonest: Instant) -> Option<Instant> {
        let core = self.core.as_ref().filter(|_| !self.stalled);
        let deadline = core.map(|core| core.next_deadline());
        let all = [deadline, self.boot_at, self.daemon_at, self.watchdog, self.off_at];
        all.into_iter().flatten().min().map(|at| at.max(soonest))
    }
}

impl Array {
    /// What is due at this instant.
    pub(super) fn wake(&mut self, c: usize) {
        let now = self.now;
        let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        if due(&self.nodes[c].off_at) {
            return self.power_cut(c);
        }
        if due(&self.nodes[c].watchdog) {
            return self.reset(c);
        }
        if due(&self.nodes[c].boot_at) {
            let node = &mut self.nodes[c];
            node.boot_at = None;
            node.boots += 1;
            node.told = None;
            node.well_since = now;
            node.daemon_at =
                Some(now).filter(|_| self.setup.breakage != Some(Breakage::NoDaemon) || node.boots == 1);
        }
        if due(&self.nodes[c].daemon_at) {
            self.start(c);
        }
        self.check_keys(c);
        let node = &self.nodes[c];
        let deadline = node.core.as_ref().map(|core| core.next_deadline());
        if !node.stalled && due(&deadline) {
            self.lay(c, Card::Tick);
        }
    }

    /// What the keeper says: both hold the same log.
    fn config(&self, c: usize) -> ConfigStatus {
        ConfigStatus {
            in_sync: true,
            epoch: self.nodes[c].told.map(|record| record.epoch),
            ..ConfigStatus::default()
        }
    }

    /// The pool manager looks at its key, and tells the daemon. One whose daemon does not run looks at nothing: the
    /// target is blind, as a kernel target is.
    fn check_keys(&mut self, c: usize) {
        let node = &self.nodes[c];
        let Some((key, _)) = node.imported.filter(|_| self.setup.reservations) else {
            return;
        };
        if node.core.is_none() || node.stalled || self.standing == Some(key) {
            return;
        }
        let holder = self.standing.filter(|key| key.controller != id(c));
        self.nodes[c].imported = None;
        self.lay(c, Card::Tell(Event::ExclusionLost { pool: POOL, holder }));
    }

    /// The heartbeat daemon starts, once the writes of the last one have ended.
    fn start(&mut self, c: usize) {
        let life = self.nodes[c].life;
        let mine = |laid: &Laid| laid.c == c && laid.life <= life && matches!(laid.card, Card::Write { .. });
        if self.tray.iter().chain(&self.held).any(mine) {
            self.nodes[c].daemon_at = Some(self.now + UNIT);
            return;
        }
        let node = &mut self.nodes[c];
        node.daemon_at = None;
        node.life += 1;
        node.well_since = self.now;
        // Whoever was to go down was told so by a daemon that is no more.
        if std::mem::take(&mut node.goes) {
            node.stopped = false;
        }
        let params = Params {
            array: ARRAY,
            controller: id(c),
            incarnation: node.incarnation(),
            set: set(self.setup.disks),
            timing: timing(),
            seed: u64::from(node.life) * 2 + c as u64,
            power_rung: self.setup.power,
            reservation_rung: self.setup.reservations,
            pausable: false,
            auto_giveback: true,
        };
        node.core = Core::new(params, self.now).ok().map(Box::new);
        let armed = node.watchdog.is_some();
        self.lay(c, Card::Tick);
        let pool = PoolInfo {
            pool: POOL,
            home: id(0),
        };
        self.lay(c, Card::Tell(Event::Pools(vec![pool])));
        let status = self.config(c);
        self.lay(c, Card::Tell(Event::Config(status)));
        self.lay(c, Card::Observe);
        if armed {
            self.lay(c, Card::Tell(Event::Watchdog { armed }));
        }
    }

    /// Plays a card. Of what the core wants done as its consequence the first `deeds` are done; the rest is returned.
    pub(super) fn play(
        &mut self,
        laid: Laid,
        deeds: usize,
        script: Script<'_, '_>,
    ) -> Result<Vec<Effect>, Violation> {
        if let Some(script) = script.as_deref_mut()
            && !matches!(laid.card, Card::Tell(_))
        {
            script.push(format!("  {} {}", id(laid.c), brief(&format!("{:?}", laid.card))));
        }
        let (c, life) = (laid.c, laid.life);
        let ends = self.take_effect(&laid)?;
        match ends {
            Some(event) => self.tell(c, life, event, deeds, script),
            None => Ok(Vec::new()),
        }
    }

    /// What a card does to the world, and what is told of it.
    pub(super) fn take_effect(&mut self, laid: &Laid) -> Result<Option<Event>, Violation> {
        let c = laid.c;
        let event = match &laid.card {
            Card::Tell(event) => event.clone(),
            Card::Tick => Event::Tick,
            Card::Write {
                id: write,
                disk,
                block,
                content,
                submitted,
            } => {
                let result = if self.disks[*disk].path[c] {
                    Ok(())
                } else {
                    Err(())
                };
                let vote = matches!(block, BlockId::Vote0 | BlockId::Vote1);
                let forgotten = vote && self.setup.breakage == Some(Breakage::ForgottenVotes);
                if result.is_ok() && !forgotten {
                    self.disks[*disk].parts[c].put(*block, content);
                }
                Event::WriteDone {
                    id: *write,
                    submitted: *submitted,
                    result,
                }
            }
            Card::Read {
                id: read,
                disk,
                whose,
                issued,
            } => {
                let quorum = &self.disks[*disk];
                let area = if quorum.path[c] {
                    quorum.parts[whose.index()].area()
                } else {
                    Area::unread(Unread::Io)
                };
                Event::ReadDone {
                    id: *read,
                    issued: *issued,
                    area,
                }
            }
            Card::Arrive(datagram) => Event::Received(datagram.clone()),
            Card::Pool(task) => {
                let earlier = |other: &Laid| other.c == c && matches!(other.card, Card::Pool(_));
                if self.held.iter().any(earlier) {
                    // One task at a time, in their order.
                    self.held.push(laid.clone());
                    return Ok(None);
                }
                return self.manage(c, *task).map(Some);
            }
            Card::Power { cut, asked } => {
                let victim = 1 - c;
                if *cut {
                    self.power_cut(victim);
                }
                let state = if self.nodes[victim].powered {
                    Power::On
                } else {
                    Power::Off
                };
                Event::Power { state, asked: *asked }
            }
            Card::Observe => {
                let busy = |laid: &Laid| laid.c == c && matches!(laid.card, Card::Pool(_));
                if self.held.iter().any(busy) {
                    // The pool manager answers when what it was told before is done.
                    self.held.push(laid.clone());
                    return Ok(None);
                }
                let import = |(key, _)| Import { pool: POOL, key };
                Event::Imports(self.nodes[c].imported.into_iter().map(import).collect())
            }
        };
        Ok(Some(event))
    }

    /// The pool manager does a task.
    fn manage(&mut self, c: usize, task: Task) -> Result<Event, Violation> {
        let done = |generation, step, good: Result<(), &str>| Event::PoolDone {
            pool: POOL,
            generation,
            step,
            result: good.map_err(str::to_owned),
        };
        Ok(match task {
            Task::Fence(key) => Event::FenceDone {
                pool: POOL,
                key,
                result: self.register(c, key)?.map_err(str::to_owned),
            },
            Task::Take(key, evidence) => {
                let result = self.import(c, key, Some(evidence))?;
                done(key.generation, PoolStep::Take, result)
            }
            Task::Publish(key) => {
                let result = match &mut self.nodes[c].imported {
                    Some((held, published)) if *held == key => {
                        *published = true;
                        Ok(())
                    }
                    _ => Err("it is not imported"),
                };
                done(key.generation, PoolStep::Publish, result)
            }
            Task::Release(key) => {
                if self.nodes[c].imported.is_some_and(|(held, _)| held == key) {
                    self.nodes[c].imported = None;
                    if self.standing == Some(key) {
                        self.standing = None;
                    }
                }
                done(key.generation, PoolStep::Release, Ok(()))
            }
            Task::Resume(key) => {
                let result = self.import(c, key, None)?;
                if result.is_ok() {
                    self.nodes[c].imported = Some((key, true));
                }
                done(key.generation, PoolStep::Resume, result)
            }
            Task::StopAll => {
                self.nodes[c].imported = None;
                done(Generation::default(), PoolStep::StopAll, Ok(()))
            }
        })
    }

    /// Register, preempt what is lower, read back.
    fn register(&mut self, c: usize, key: ReservationKey) -> Result<Result<(), &'static str>, Violation> {
        let rank = |key: ReservationKey| (key.epoch, key.generation);
        let higher = |other: ReservationKey| {
            rank(other) > rank(key) || (rank(other) == rank(key) && other.controller != id(c))
        };
        if !self.setup.reservations {
            return Ok(Err("no reservations"));
        }
        if self.standing.is_some_and(higher) {
            return Ok(Err("a later key stands here"));
        }
        self.judge_taking(c, key)?;
        if self.setup.breakage != Some(Breakage::FenceAlways) || self.standing.is_none() {
            self.standing = Some(key);
        }
        Ok(Ok(()))
    }

    fn import(
        &mut self,
        c: usize,
        key: ReservationKey,
        evidence: Option<Evidence>,
    ) -> Result<Result<(), &'static str>, Violation> {
        match self.nodes[c].imported {
            Some((held, _)) if held == key => return Ok(Ok(())),
            Some(_) => return Ok(Err("imported under another key")),
            None => {}
        }
        let elsewhere = matches!(
            evidence,
            None | Some(Evidence::PowerOff { .. } | Evidence::Waited { .. } | Evidence::Rebooted { .. })
        );
        if self.setup.reservations && self.setup.breakage != Some(Breakage::FenceAlways) {
            if elsewhere && self.standing != Some(key) && self.register(c, key)?.is_err() {
                return Ok(Err("a later key stands here"));
            }
            if self.standing != Some(key) {
                return Ok(Err("the key does not stand alone"));
            }
        }
        self.judge_import(c, key, evidence)?;
        self.nodes[c].imported = Some((key, false));
        Ok(Ok(()))
    }

    fn tell(
        &mut self,
        c: usize,
        life: u32,
        event: Event,
        deeds: usize,
        script: Script<'_, '_>,
    ) -> Result<Vec<Effect>, Violation> {
        let now = self.now;
        let node = &mut self.nodes[c];
        if node.life != life || node.core.is_none() {
            return Ok(Vec::new());
        }
        if node.stalled {
            let heard = |laid: &&Laid| matches!(laid.card, Card::Tell(Event::Received(_)));
            let full =
                matches!(event, Event::Received(_)) && node.late.iter().filter(heard).count() >= BUFFER;
            if !full {
                node.late.push(Laid {
                    c,
                    life,
                    card: Card::Tell(event),
                });
            }
            return Ok(Vec::new());
        }
        if let Some(script) = script.as_deref_mut()
            && event != Event::Tick
        {
            script.push(format!("  {} <- {}", id(c), brief(&format!("{event:?}"))));
        }
        let Some(core) = &mut node.core else {
            return Ok(Vec::new());
        };
        let shown = shown(&event);
        let mut effects = core.handle(now, event);
        if core.next_deadline() <= now {
            let text = format!(
                "{} asks to be woken at an instant that has come: its driver spins",
                id(c)
            );
            return Err(Violation::new("rest", text));
        }
        self.judge_decision(c, &effects)?;
        let rest = effects.split_off(deeds.min(effects.len()));
        self.do_all(c, effects, script)?;
        if rest.is_empty() && self.nodes[c].life == life {
            self.judge_shown(c, shown)?;
        }
        Ok(rest)
    }

    pub(super) fn do_all(
        &mut self,
        c: usize,
        effects: Vec<Effect>,
        script: Script<'_, '_>,
    ) -> Result<(), Violation> {
        let life = self.nodes[c].life;
        for effect in effects {
            if self.nodes[c].life != life {
                break;
            }
            if let Some(script) = script.as_deref_mut()
                && !matches!(
                    effect,
                    Effect::Pet | Effect::ReadArea { .. } | Effect::Route { .. }
                )
            {
                script.push(format!("  {} -> {}", id(c), brief(&format!("{effect:?}"))));
            }
            self.perform(c, effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, c: usize, effect: Effect) -> Result<(), Violation> {
        let now = self.now;
        match effect {
            Effect::WriteBlock {
                id,
                disk,
                block,
                content,
            } => {
                if let Content::Vote(vote) = &content
                    && vote.decided.epoch.get() > 1
                {
                    self.judge_record(c, vote.decided)?;
                }
                let disk = usize::from(disk.disk.get());
                self.lay(
                    c,
                    Card::Write {
                        id,
                        disk,
                        block,
                        content,
                        submitted: now,
                    },
                );
            }
            Effect::ReadArea { id, disk, whose } => {
                let disk = usize::from(disk.disk.get());
                self.lay(
                    c,
                    Card::Read {
                        id,
                        disk,
                        whose,
                        issued: now,
                    },
                );
            }
            // Nobody asks for a change of the set.
            Effect::UseDisks(_) | Effect::FormatDisk { .. } => {}
            Effect::Send(datagram) => {
                if let Some(record) = datagram.record {
                    self.judge_record(c, record)?;
                }
                if self.has(Kind::Word) && self.recovery.is_none() {
                    let node = &mut self.nodes[c];
                    let left = node.core.as_ref().is_none_or(|core| core.left());
                    node.spoken = (!left && !node.word_said).then(|| Box::new(datagram.clone()));
                }
                self.send(c, datagram);
            }
            Effect::GrantLease { until, .. } => self.nodes[c].lease_until = until,
            Effect::ArmWatchdog { timeout } => {
                let armed = self.setup.watchdog;
                if armed {
                    self.nodes[c].watchdog = Some(now + timeout);
                }
                self.lay(c, Card::Tell(Event::Watchdog { armed }));
            }
            Effect::Pet => {
                if let Some(deadline) = &mut self.nodes[c].watchdog {
                    *deadline = now + timing().watchdog;
                }
            }
            Effect::QueryPower => self.lay(
                c,
                Card::Power {
                    cut: false,
                    asked: now,
                },
            ),
            Effect::PowerOff(_) => self.lay(
                c,
                Card::Power {
                    cut: true,
                    asked: now,
                },
            ),
            Effect::FencePool { key, .. } => {
                self.lay(c, Card::Pool(Task::Fence(key)));
            }
            Effect::TakePool { key, evidence, .. } => {
                self.lay(c, Card::Pool(Task::Take(key, evidence)));
            }
            Effect::PublishPool { key, .. } => self.lay(c, Card::Pool(Task::Publish(key))),
            Effect::ReleasePool { key, .. } => {
                // Quiesced at once: nobody is answered while it is being released.
                if let Some((_, published)) = &mut self.nodes[c].imported {
                    *published = false;
                }
                self.lay(c, Card::Pool(Task::Release(key)));
            }
            Effect::ResumePool { key, .. } => self.lay(c, Card::Pool(Task::Resume(key))),
            Effect::StopPool { generation, .. } | Effect::DeletePool { generation, .. } => {
                self.stop_pool(c, generation);
            }
            Effect::StopAll { reason } => self.stop_all(c, reason),
            Effect::ConfigEpoch { record, .. } => {
                self.judge_record(c, record)?;
                // Of an older one than they know they take no notice.
                let told = &mut self.nodes[c].told;
                if told.is_none_or(|told| told.epoch <= record.epoch) {
                    *told = Some(record);
                }
            }
            // A keeper that goes by a record does not stand still for one that is not above it.
            Effect::ConfigFreeze { epoch } if self.nodes[c].told.is_some_and(|told| told.epoch >= epoch) => {}
            Effect::ConfigFreeze { epoch } => {
                let status = self.config(c);
                self.lay(c, Card::Tell(Event::ConfigFrozen { epoch, status }));
            }
            Effect::ConfigProbe { base } => {
                let contained = true;
                self.lay(c, Card::Tell(Event::ConfigProbed { base, contained }));
            }
            Effect::ConfigCatchUp => {
                let (log, equal) = (self.config(c).log, true);
                self.lay(c, Card::Tell(Event::ConfigCaughtUp { log, equal }));
            }
            Effect::Route { .. }
            | Effect::ConfigUnfreeze { .. }
            | Effect::Answer { .. }
            | Effect::Note(_) => {}
        }
        Ok(())
    }

    fn send(&mut self, c: usize, datagram: Datagram) {
        let partner = 1 - c;
        if self.wire[c] && self.nodes[partner].core.is_some() {
            self.lay(partner, Card::Arrive(datagram));
        }
    }

    /// It says that it dies.
    pub(super) fn last_word(&mut self, c: usize, then: Then) {
        let node = &mut self.nodes[c];
        let Some(datagram) = node.spoken.take() else {
            return;
        };
        // Who has no last word ends all the same.
        if let Some(mut word) = datagram.last_word() {
            node.word_said = true;
            if self.setup.breakage == Some(Breakage::FalseFarewell) {
                word.advert.role = Role::Left;
            }
            self.send(c, word);
        }
        match then {
            Then::LivesOn => {}
            Then::Dies => {
                self.last_slot(c);
                self.crash(c);
            }
            Then::StandsStill => self.stall(c, Vec::new()),
        }
    }

    /// What it writes into its slot before it ends: it may land, late or on some disks only, as any write.
    fn last_slot(&mut self, c: usize) {
        let now = self.now;
        let node = &self.nodes[c];
        let last = node.core.as_ref().and_then(|core| core.last_slot(now));
        let Some((slot, seats)) = last else { return };
        for (at, seat) in seats.into_iter().enumerate() {
            self.lay(
                c,
                Card::Write {
                    id: WriteId(u64::MAX - at as u64),
                    disk: usize::from(seat.disk.get()),
                    block: BlockId::Slot,
                    content: Content::Slot(slot),
                    submitted: now,
                },
            );
        }
    }

    /// Jobs that were waiting end with the pool.
    fn stop_pool(&mut self, c: usize, generation: Generation) {
        let job = |laid: &Laid| laid.c == c && matches!(laid.card, Card::Pool(_));
        self.tray.retain(|laid| !job(laid));
        self.held.retain(|laid| !job(laid));
        self.nodes[c].imported = None;
        let (pool, step, result) = (POOL, PoolStep::Stop, Ok(()));
        self.lay(
            c,
            Card::Tell(Event::PoolDone {
                pool,
                generation,
                step,
                result,
            }),
        );
    }

    fn stop_all(&mut self, c: usize, reason: StopReason) {
        if self.setup.breakage == Some(Breakage::DeafToStop) {
            return;
        }
        let job = |laid: &Laid| laid.c == c && matches!(laid.card, Card::Pool(_));
        self.tray.retain(|laid| !job(laid));
        self.held.retain(|laid| !job(laid));
        let lingers = self.setup.lingers && reason == StopReason::Shutdown;
        let node = &mut self.nodes[c];
        node.stopped = true;
        if !lingers {
            node.imported = None;
        }
        if lingers {
            // Nobody is answered from here on; what is imported is so until somebody has seen to it.
            if let Some((_, published)) = &mut node.imported {
                *published = false;
            }
            node.goes = true;
            let (life, card) = (node.life, Card::Pool(Task::StopAll));
            if self.recovery.is_some() {
                node.off_at.get_or_insert(self.now + UNIT);
                self.tray.push_back(Laid { c, life, card });
            } else {
                self.held.push(Laid { c, life, card });
            }
        } else if reason == StopReason::Shutdown {
            // On its way down: time enough for a good-bye.
            if node.off_at.is_none() {
                node.off_at = Some(self.now + UNIT);
            }
            let (pool, step, result) = (POOL, PoolStep::StopAll, Ok(()));
            let generation = Generation::default();
            self.lay(
                c,
                Card::Tell(Event::PoolDone {
                    pool,
                    generation,
                    step,
                    result,
                }),
            );
        } else if node.boot_at.is_none() {
            // The reset follows a little later.
            let reset = self.now + UNIT;
            node.watchdog = Some(node.watchdog.map_or(reset, |at| at.min(reset)));
        }
    }

    /// Everything of a controller ends here and now. What becomes of its writes was decided before.
    pub(super) fn die(&mut self, c: usize) {
        self.tray.retain(|laid| laid.c != c);
        self.held.retain(|laid| laid.c != c);
        let node = &mut self.nodes[c];
        *node = Node {
            life: node.life + 1,
            boots: node.boots,
            powered: node.powered,
            cast: node.cast,
            word_said: node.word_said,
            well_since: self.now,
            ..Node::default()
        };
    }

    pub(super) fn reset(&mut self, c: usize) {
        self.die(c);
        self.nodes[c].boot_at = Some(self.now + UNIT * BOOT);
    }

    pub(super) fn power_cut(&mut self, c: usize) {
        self.die(c);
        self.nodes[c].powered = false;
    }

    pub(super) fn power_on(&mut self, c: usize) {
        let node = &mut self.nodes[c];
        if !node.powered {
            node.powered = true;
            node.boot_at = Some(self.now + UNIT);
        }
    }

    /// The daemon dies; what is on its way to the disks and what the pool manager does goes on. That everything stops was in
    /// its own hands.
    pub(super) fn crash(&mut self, c: usize) {
        let stays = |laid: &Laid| {
            let goes_on = matches!(laid.card, Card::Write { .. } | Card::Pool(_) | Card::Power { .. });
            laid.c != c || goes_on && !matches!(laid.card, Card::Pool(Task::StopAll))
        };
        self.tray.retain(stays);
        self.held.retain(stays);
        let node = &mut self.nodes[c];
        node.core = None;
        node.spoken = None;
        node.undone.clear();
        node.late.clear();
        node.stalled = false;
        node.crashed = true;
        node.well_since = self.now;
    }

    pub(super) fn restart(&mut self, c: usize) {
        let now = self.now;
        let node = &mut self.nodes[c];
        if node.crashed {
            node.crashed = false;
            node.daemon_at = Some(now);
        }
    }

    /// A stalled daemon goes on: with what it was about to do, then with everything that came meanwhile.
    pub(super) fn resume(&mut self, c: usize, script: Script<'_, '_>) -> Result<(), Violation> {
        let node = &mut self.nodes[c];
        if !node.stalled {
            return Ok(());
        }
        node.stalled = false;
        node.well_since = self.now;
        let (undone, late) = (std::mem::take(&mut node.undone), std::mem::take(&mut node.late));
        self.do_all(c, undone, script)?;
        self.tray.extend(late);
        self.lay(c, Card::Tick);
        Ok(())
    }

    /// Every fault ends here.
    pub(super) fn mended(&self, recovery: Recovery) -> Self {
        let mut array = self.clone();
        array.recovery = Some(recovery);
        array.wire = [true; 2];
        for disk in &mut array.disks {
            disk.path = [true; 2];
        }
        // Datagrams that were held back are lost; everything else ends.
        let held = std::mem::take(&mut array.held);
        array.tray.extend(
            held.into_iter()
                .filter(|laid| !matches!(laid.card, Card::Arrive(_))),
        );
        for c in [0, 1] {
            if recovery == Recovery::Alone(1 - c) {
                array.power_cut(c);
                continue;
            }
            array.nodes[c].well_since = self.now;
            array.power_on(c);
            array.restart(c);
        }
        for node in &mut array.nodes {
            node.spoken = None;
            if node.goes {
                node.off_at = Some(self.now + UNIT);
            }
        }
        array
    }

    /// An operator asks.
    pub(super) fn ask(&mut self, c: usize, request: Request) {
        self.nodes[c].demanded |= request == Request::Takeover;
        let request_id = pollux_heartbeat_core::event::RequestId(0);
        self.lay(
            c,
            Card::Tell(Event::Request {
                id: request_id,
                request,
            }),
        );
    }
}

/// A line of a script: what is the same everywhere is left out.
fn brief(text: &str) -> String {
    let mut short = text.to_owned();
    let nothing = format!("Base {{ length: LogLength(0), hash: {} }}", "0".repeat(64));
    let figures = short.find(", figures: Figures").zip(short.find("} }, "));
    if let Some((from, to)) = figures.filter(|(from, to)| from < to) {
        short.replace_range(from..to + 1, "");
    }
    for (long, instead) in [
        (nothing.as_str(), "-"),
        ("PoolId", "Pool"),
        ("Incarnation", ""),
        ("Generation", ""),
        ("Epoch", ""),
        ("Members", ""),
        (", disks: (1)", ""),
        (", base: -", ""),
        (", log: -", ""),
        ("01010101-0101-0101-0101-010101010101", "1"),
    ] {
        short = short.replace(long, instead);
    }
    short.chars().take(300).collect()
}
