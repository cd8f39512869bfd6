//! The loop that turns: select, apply, carry out.
//!
//! It runs on a thread of its own, with real-time priority where the system permits it, and with the wire and the
//! quorum disks for itself: nothing that the rest of the daemon or of the controller does can make it wait. It waits
//! for nobody: every effect that takes time is handed over, and its result comes back as an event.

use crate::{
    disks::{Disks, Done, Outcomes},
    gasp::{self, LastSlots},
    gate::Gate,
    journal::{Journal, Now, Turn},
    keeper::{Ask, Asked},
    legs::Legs,
    moves::{Job, Order},
    quorum,
    view::{self, Surroundings},
    wire::Wire,
};
use pollux_api::{
    action::ActionId,
    config::Tables,
    heartbeat as api,
    id::{ControllerId, DiskIndex, Epoch, PoolId},
};
use pollux_heartbeat_core::{
    Core, Effect, Event, Instant, QuorumSet, Seat,
    area::{Content, Slot},
    effect::{BlockId, Note, Plan, Refusal, StopReason},
    event::{PoolStep, Request, RequestId, Victim},
    layout,
    wire::Datagram,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};

/// A pet that could not be delivered for so long is not delivered at all: it would prove what was, not what is.
pub const PET_WITHIN: Duration = Duration::from_millis(200);

/// What the rest of the daemon asks of the loop.
pub enum Input {
    /// How things stand.
    Status(oneshot::Sender<api::Status>),
    /// The epoch in which this controller surely is a member now; none: it may have been replaced.
    StandsIn(oneshot::Sender<Option<Epoch>>),
    /// The way to a disk, if it is a quorum disk.
    QuorumDisk(DiskIndex, oneshot::Sender<Option<quorum::Path>>),
    /// What blocks.
    Why(oneshot::Sender<Vec<api::Blocker>>),
    /// What a request would do.
    Plan(Request, oneshot::Sender<Result<Plan, Refusal>>),
    /// A person's request, its action and its kind for the timeline.
    Request(
        Request,
        ActionId,
        &'static str,
        oneshot::Sender<Result<Plan, Refusal>>,
    ),
}

/// What the loop hands over.
pub enum Handover {
    /// To the pools.
    Pool(Order),
    /// Stop everything, under this action.
    StopAll(ActionId),
    /// Nothing is used any more: reset the controller, or stay stopped.
    Stopped(StopReason),
    /// Good-bye stands where it counts: this incarnation does nothing any more.
    Left,
    /// The partner answers on the wire, or does so no longer.
    Partner(bool),
    /// These are the quorum disks: to be kept for the next start.
    QuorumSet(QuorumSet),
    /// Something for the journal of events.
    Event(api::Event),
}

/// What the loop asks of the power control and the watchdog.
#[derive(Debug)]
pub enum Bmc {
    /// Arm the watchdog.
    Arm {
        /// It bites after so long without a pet.
        timeout: Duration,
        /// When that was asked for: to arm it is to pet it.
        asked: Instant,
    },
    /// Ask for the partner's power, or cut it first.
    Power {
        /// Cut it.
        off: Option<Victim>,
        /// When the core asked.
        asked: Instant,
    },
}

/// Everything that the loop owns.
pub struct Driver {
    /// The decision core.
    pub core: Core,
    /// This controller.
    pub controller: ControllerId,
    /// Datagrams.
    pub wire: Wire,
    /// The quorum disks.
    pub disks: Disks,
    /// Events for the core, from what was handed over.
    pub events: mpsc::UnboundedSender<Event>,
    /// The lease of everybody who answers hosts.
    pub lease: pollux_platform::lease::Writer,
    /// The lease of the kernel, where it holds replies back.
    pub gate: Option<Gate>,
    /// To the pools and to the rest of the daemon.
    pub orders: mpsc::UnboundedSender<Handover>,
    /// To the config keeper.
    pub asks: mpsc::UnboundedSender<Asked>,
    /// To the power control and the watchdog.
    pub bmc: mpsc::UnboundedSender<Bmc>,
    /// Pets, each with the instant at which it was due.
    pub pets: watch::Sender<u64>,
    /// Incidents.
    pub journal: Journal,
    /// For `status`.
    pub around: Surroundings,
    /// The legs of the interconnect as they were last seen.
    pub legs: watch::Receiver<Legs>,
    /// The acknowledged configuration, for names.
    pub tables: watch::Receiver<Arc<Tables>>,
    /// Requests that wait for the core's answer; it comes within the same call.
    pub waiting: BTreeMap<RequestId, Waiting>,
    /// Why everything was stopped, if it was.
    pub stopped: Option<StopReason>,
    /// Good-bye was handed over.
    pub left: bool,
    /// What the array was last told that this controller is doing.
    pub told: &'static str,
    /// The partner is off, and its portal is answered for here.
    pub stand_in: watch::Sender<bool>,
    /// What is written into the own slots if the daemon panics.
    pub last_slots: LastSlots,
    /// The same, as the core has it.
    pub last_slot: Option<(Slot, Vec<Seat>)>,
}

/// A request whose answer is awaited.
pub struct Waiting {
    action: ActionId,
    kind: &'static str,
    reply: oneshot::Sender<Result<Plan, Refusal>>,
}

/// What comes in from outside the loop.
pub struct Inlets {
    /// Results of what was handed over, and what the services report.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Results of the quorum disks.
    pub outcomes: Outcomes,
    /// Requests of people.
    pub inputs: mpsc::UnboundedReceiver<Input>,
}

impl Driver {
    /// Turns until the daemon is gone.
    pub async fn run(mut self, mut inlets: Inlets) {
        self.apply(Event::Tick);
        let mut next_request = 0;
        loop {
            let deadline = self.core.next_deadline();
            let left = deadline.since(clock());
            let event = tokio::select! {
                biased;
                Some((seat, outcome)) = inlets.outcomes.recv() => Some(self.outcome(seat, outcome)),
                body = self.wire.receive() => self.datagram(&body),
                Some(event) = inlets.events.recv() => Some(event),
                input = inlets.inputs.recv() => match input {
                    Some(input) => {
                        next_request += 1;
                        self.input(input, RequestId(next_request))
                    }
                    None => return,
                },
                () = tokio::time::sleep(left) => Some(Event::Tick),
            };
            if let Some(event) = event {
                self.apply(event);
            }
        }
    }

    fn outcome(&self, seat: Seat, outcome: Done) -> Event {
        match outcome {
            quorum::Outcome::Written {
                token,
                submitted_ns,
                result,
            } => {
                if let Err(why) = &result {
                    tracing::debug!(disk = %seat.disk, why, "write to a quorum disk");
                }
                let submitted = Instant::from_nanos(submitted_ns);
                Event::WriteDone {
                    id: token,
                    submitted,
                    result: result.map_err(drop),
                }
            }
            quorum::Outcome::Read {
                token: (id, whose),
                issued_ns,
                result,
            } => {
                let bytes = result.unwrap_or_default();
                let area = layout::decode_area(&self.disks.place(seat), whose, &bytes);
                Event::ReadDone {
                    id,
                    issued: Instant::from_nanos(issued_ns),
                    area,
                }
            }
        }
    }

    fn datagram(&self, body: &[u8]) -> Option<Event> {
        match Datagram::decode(body, self.disks.array(), self.controller.partner()) {
            Ok(datagram) => Some(Event::Received(datagram)),
            Err(error) => {
                tracing::warn!(%error, "authenticated datagram that cannot be read: is the partner of another version?");
                None
            }
        }
    }

    fn input(&mut self, input: Input, id: RequestId) -> Option<Event> {
        let now = clock();
        // Whoever asked may have gone: then nobody reads the answer.
        match input {
            Input::Status(reply) => {
                self.around.legs = self.legs.borrow().clone();
                self.around.gate = self.gate.as_ref().and_then(Gate::problem);
                let status = view::status(&self.core.status(now), now, &self.around, &self.tables.borrow());
                drop(reply.send(status));
            }
            Input::StandsIn(reply) => drop(reply.send(self.core.stands_in_epoch(now))),
            Input::QuorumDisk(disk, reply) => drop(reply.send(self.disks.way(disk))),
            Input::Why(reply) => drop(reply.send(view::why(self.core.why(now), now))),
            Input::Plan(request, reply) => {
                let taken = self.taken(request);
                drop(reply.send(taken.and_then(|()| self.core.plan(now, request))));
            }
            Input::Request(request, action, kind, reply) => {
                if let Err(refusal) = self.taken(request) {
                    drop(reply.send(Err(refusal)));
                    return None;
                }
                self.waiting.insert(id, Waiting { action, kind, reply });
                return Some(Event::Request { id, request });
            }
        }
        None
    }

    /// What the core cannot know: the configuration says which disks are in use.
    fn taken(&self, request: Request) -> Result<(), Refusal> {
        let Request::ReplaceQuorumDisk { to, .. } = request else {
            return Ok(());
        };
        let tables = self.tables.borrow();
        match tables.pools.values().find(|pool| pool.disks.contains(&to)) {
            Some(pool) => Err(Refusal {
                reason: format!("{to} is a member of pool `{}`", pool.name),
                remedy: "name a disk that no pool has: pollux pool list".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn apply(&mut self, event: Event) {
        gasp::stand_still();
        tracing::trace!(?event, "event");
        match &event {
            Event::DiskFormatted { seat, .. } => self.disks.formatted(seat.disk),
            Event::PoolDone {
                step: PoolStep::StopAll,
                result,
                ..
            } => {
                self.journal.stopped(result);
                if let Some(reason) = self.stopped {
                    drop(self.orders.send(Handover::Stopped(reason)));
                }
            }
            _ => {}
        }
        let now = clock();
        let effects = self.core.handle(now, event);
        self.journal.at(self.core.epoch());
        for effect in effects {
            gasp::stand_still();
            self.carry_out(effect);
        }
        self.prepare_last_slot(now);
        if !self.journal.is_at_rest() {
            let (core, pools) = (&self.core, self.core.known().collect());
            let arbitrates = core.arbitrates(now);
            self.journal
                .settle(&pools, |pool| core.moves(pool), arbitrates, self::now());
        }
        // Before the machine may go: whoever waits for this hears of it.
        let state = self.core.state(now);
        if std::mem::replace(&mut self.told, state) != state {
            self.publish("state", format!("controller {} is {state}", self.controller));
        }
        if self.core.left() && !std::mem::replace(&mut self.left, true) {
            drop(self.orders.send(Handover::Left));
        }
        let stands_in = self.core.stands_in();
        self.stand_in
            .send_if_modified(|now| std::mem::replace(now, stands_in) != stands_in);
    }

    /// Should it come to that, there is no time to think.
    fn prepare_last_slot(&mut self, now: Instant) {
        let last = self.core.last_slot(now);
        if last == self.last_slot {
            return;
        }
        let slots = last.iter().flat_map(|(slot, seats)| {
            seats.iter().map(|seat| {
                let (place, content) = (self.disks.place(*seat), Content::Slot(*slot));
                gasp::LastSlot {
                    path: self.disks.path(*seat),
                    block: layout::block_number(BlockId::Slot, self.controller),
                    data: layout::encode(&place, BlockId::Slot, self.controller, &content).to_vec(),
                }
            })
        });
        self.last_slots.prepare(slots.collect());
        self.last_slot = last;
    }

    fn carry_out(&mut self, effect: Effect) {
        if !matches!(
            effect,
            Effect::WriteBlock { .. }
                | Effect::ReadArea { .. }
                | Effect::Send(_)
                | Effect::GrantLease { .. }
                | Effect::Pet
        ) {
            tracing::debug!(?effect, "effect");
        }
        match effect {
            Effect::WriteBlock {
                id,
                disk,
                block,
                content,
            } => {
                let data = layout::encode(&self.disks.place(disk), block, self.controller, &content).to_vec();
                let block = layout::block_number(block, self.controller);
                let token = id;
                self.disks
                    .ask(disk, quorum::Command::Write { token, block, data });
            }
            Effect::ReadArea { id, disk, whose } => self.disks.read(disk, (id, whose)),
            Effect::UseDisks(set) => {
                self.disks.use_set(&set);
                drop(self.orders.send(Handover::QuorumSet(set)));
            }
            Effect::FormatDisk { seat, parts } => self.disks.format(seat, parts, self.events.clone()),
            Effect::Send(datagram) => {
                let (array, sender) = (self.disks.array(), self.controller);
                if let Err(error) = self.wire.send(&datagram.encode(array, sender)) {
                    tracing::trace!(%error, "datagram not sent");
                }
                // The same, and that it ends: should it come to that, there is no time to think.
                match datagram.last_word() {
                    Some(word) => self.wire.last_word().prepare(&word.encode(array, sender)),
                    None => self.wire.last_word().forget(),
                }
            }
            Effect::GrantLease { until, epoch } => self.grant(until.as_nanos(), epoch.get()),
            Effect::ArmWatchdog { timeout } => drop(self.bmc.send(Bmc::Arm {
                timeout,
                asked: clock(),
            })),
            Effect::Pet => drop(self.pets.send_replace(clock().as_nanos())),
            Effect::QueryPower => drop(self.bmc.send(Bmc::Power {
                off: None,
                asked: clock(),
            })),
            Effect::PowerOff(victim) => drop(self.bmc.send(Bmc::Power {
                off: Some(victim),
                asked: clock(),
            })),
            Effect::FencePool { pool, key, victim } => self.order(pool, Job::Fence(key, victim)),
            Effect::TakePool { pool, key, evidence } => {
                tracing::info!(%pool, ?evidence, epoch = %key.epoch, generation = %key.generation, "taking pool");
                self.order(pool, Job::Take(key, evidence));
            }
            Effect::PublishPool { pool, key } => self.order(pool, Job::Publish(key)),
            Effect::ReleasePool { pool, key } => self.order(pool, Job::Release(key)),
            Effect::ResumePool { pool, key } => self.order(pool, Job::Resume(key)),
            Effect::StopPool {
                pool,
                generation,
                reason,
            } => {
                tracing::warn!(%pool, %generation, reason, "stopping pool");
                self.order(pool, Job::Stop(generation));
            }
            Effect::DeletePool { pool, generation } => {
                tracing::info!(%pool, %generation, "the configuration has this pool no more");
                let action = self.journal.deleting(pool, now());
                drop(self.orders.send(Handover::Pool(Order {
                    pool,
                    action,
                    cause: None,
                    job: Job::Delete(generation),
                })));
            }
            Effect::StopAll { reason } => {
                tracing::error!(?reason, "stopping everything");
                self.grant(0, 0);
                self.stopped = Some(reason);
                let action = self
                    .journal
                    .stopping(&format!("everything is let go: {reason:?}"), now());
                drop(self.orders.send(Handover::StopAll(action)));
            }
            Effect::Route {
                pool,
                epoch,
                generation,
                role,
                partner_reachable,
            } => {
                drop(self.orders.send(Handover::Partner(partner_reachable)));
                let job = Job::Route(epoch, generation, role, partner_reachable);
                let action = pollux_runtime::ctx::new_action();
                drop(self.orders.send(Handover::Pool(Order {
                    pool,
                    action,
                    cause: None,
                    job,
                })));
            }
            Effect::ConfigEpoch { record, lock } => {
                drop(self.asks.send(Asked {
                    ask: Ask::Epoch(record, lock),
                    action: self.journal.decided(record.epoch),
                }));
            }
            Effect::ConfigFreeze { epoch } => drop(self.asks.send(Ask::Freeze(epoch).into())),
            Effect::ConfigUnfreeze { epoch } => drop(self.asks.send(Ask::Unfreeze(epoch).into())),
            Effect::ConfigProbe { base } => drop(self.asks.send(Ask::Probe(base).into())),
            Effect::ConfigCatchUp => drop(self.asks.send(Ask::CatchUp.into())),
            Effect::Answer { id, result } => self.answer(id, result),
            Effect::Note(note) => self.note(&note),
        }
    }

    fn grant(&self, until_ns: u64, epoch: u64) {
        self.lease.grant(until_ns, epoch);
        if let Some(gate) = &self.gate {
            gate.grant(until_ns);
        }
    }

    fn order(&mut self, pool: PoolId, job: Job) {
        // The first order of a move comes before the note of it.
        let turn = self.turn(pool);
        let (action, cause) = self.journal.action(pool, &turn, now());
        drop(self.orders.send(Handover::Pool(Order {
            pool,
            action,
            cause,
            job,
        })));
    }

    fn answer(&mut self, id: RequestId, result: Result<Plan, Refusal>) {
        let Some(waiting) = self.waiting.remove(&id) else {
            return;
        };
        if let Ok(plan) = &result {
            self.journal.requested(&plan.pools, waiting.action, waiting.kind);
        }
        drop(waiting.reply.send(result));
    }

    /// What the core knows of a pool.
    fn turn(&self, pool: PoolId) -> Turn {
        let (leads_to, problem) = self.core.turn(pool).unzip();
        Turn {
            leads_to,
            problem: problem.flatten().map(str::to_owned),
        }
    }

    fn note(&mut self, note: &Note) {
        let mut text = words(note);
        if let Note::Alarm {
            id: view::LEG_DOWN,
            subject,
            raised,
        } = note
        {
            let legs = self.legs.borrow();
            if let Some(leg) = legs.called(subject) {
                let is = if *raised { "raised" } else { "cleared" };
                text.1 = format!(
                    "{} ({}) {is}: {}",
                    view::LEG_DOWN,
                    leg.name,
                    legs.text(leg, self.controller)
                );
            }
        }
        tracing::info!(note = text.1, "{}", text.0);
        let turn = match note {
            Note::Pool { pool, .. } => self.turn(*pool),
            _ => Turn::default(),
        };
        self.journal.note(note, &turn, now());
        self.publish(text.0, text.1);
    }

    fn publish(&self, name: &str, text: String) {
        let event = api::Event {
            at_ns: clock().as_nanos(),
            controller: self.controller,
            name: name.to_owned(),
            text,
        };
        drop(self.orders.send(Handover::Event(event)));
    }
}

/// A stable name and a sentence.
fn words(note: &Note) -> (&'static str, String) {
    match note {
        Note::Wire { alive: true } => ("wire_alive", "the partner answers on the wire".to_owned()),
        Note::Wire { alive: false } => (
            "wire_silent",
            "the partner does not answer on the wire".to_owned(),
        ),
        Note::Suspected { cause, .. } => ("partner_suspected", cause.clone()),
        Note::Proposing { epoch } => ("proposing", format!("epoch {epoch} is proposed")),
        Note::Abandoned { epoch, reason } => {
            ("abandoned", format!("epoch {epoch} is not proposed: {reason}"))
        }
        Note::Decided(record) => ("decided", record.to_string()),
        Note::Fencing(victim) => (
            "fencing",
            format!(
                "controller {} (incarnation {}) is fenced",
                victim.controller, victim.incarnation
            ),
        ),
        Note::Fenced {
            pool: Some(pool),
            rung,
        } => ("fenced", format!("pool {pool}: {rung} confirmed")),
        Note::Fenced { pool: None, rung } => ("fenced", format!("all pools: {rung} confirmed")),
        Note::Left => (
            "left",
            "this controller has let go of everything and says good-bye".to_owned(),
        ),
        Note::LastEnd {
            incarnation,
            orderly: true,
        } => (
            "last_end",
            format!("incarnation {incarnation} of this controller ended in good order"),
        ),
        Note::LastEnd {
            incarnation,
            orderly: false,
        } => (
            "last_end",
            format!("incarnation {incarnation} of this controller ended without a good-bye"),
        ),
        Note::Claimed { pool, generation } => {
            ("claimed", format!("pool {pool}: claim {generation} is durable"))
        }
        Note::Pool { pool, state } => ("pool", format!("pool {pool}: {state}")),
        Note::Formatted { disk, result: Ok(()) } => {
            ("formatted", format!("{disk} is ready to join the quorum"))
        }
        Note::Formatted {
            disk,
            result: Err(why),
        } => ("formatted", format!("{disk} cannot join the quorum: {why}")),
        Note::Alarm { id, subject, raised } => (
            "alarm",
            format!("{id} ({subject}) {}", if *raised { "raised" } else { "cleared" }),
        ),
    }
}

/// The present instant of CLOCK_MONOTONIC.
#[must_use]
pub fn clock() -> Instant {
    Instant::from_nanos(pollux_platform::clock::monotonic_ns())
}

#[expect(
    clippy::disallowed_methods,
    reason = "wall clock for people: the start of an incident; nothing is decided by it"
)]
fn now() -> Now {
    let unix_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    Now {
        ns: clock().as_nanos(),
        unix_ms,
    }
}
