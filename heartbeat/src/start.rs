//! From the controller's file to a daemon that runs.

use crate::{
    array::{self, Array},
    disks::{self, Disks, Outcomes},
    driver::{self, Driver, Handover, Inlets, Input},
    gasp::{self, LastSlots},
    gate::{self, Gate, GateError},
    incarnation::{self, IncarnationError},
    journal::Journal,
    keeper::{self, Ask, Asked},
    legs::{self, Legs},
    machine,
    moves::Moves,
    power::{self, Rungs},
    quorum,
    service::{self, Doors},
    timeline::Timeline,
    view::{self, Surroundings},
    wire::Wire,
};
use pollux_api::{heartbeat as api, id::Incarnation};
use pollux_heartbeat_core::{
    Core, Event, Params, QuorumSet, Seat, Timing,
    area::Unread,
    effect::{ReadId, StopReason},
    event::{Import, PoolInfo},
    layout,
    timing::Profile,
};
use pollux_platform::{
    file::{Lock, LockError},
    keys::{KeyError, KeyStore},
    lease,
    nft::NftError,
    power::{ChassisBmc, PowerControl},
    realtime,
    signal::Shutdown,
};
use pollux_runtime::{Client, ControllerConfig, Ctx};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Priority of the decision loop under SCHED_RR: above everything ordinary, below the kernel's own threads (50).
const PRIORITY: u8 = 20;
/// How long the pool manager may take to come to the end of what was begun; then it is asked again.
const IMPORTS: Duration = Duration::from_secs(60);
/// Pause before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long the old process may take to let go of its lock when a daemon is restarted.
const LOCK_WITHIN: Duration = Duration::from_secs(3);
/// How long the good-bye may take to stand on the quorum disks, when everything has stopped.
const FAREWELL_WITHIN: Duration = Duration::from_secs(10);

/// Why heartbeat cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process writes the quorum area for this controller.
    #[error("heartbeat already runs: {0}; there must be one writer of the quorum area")]
    Lock(#[from] LockError),
    /// The pairing key.
    #[error("{0}")]
    Keys(#[from] KeyError),
    /// The pairing key belongs to another array.
    #[error("key store {} is of array {found}, controller.toml says {expected}: the controller is paired with another array", path.display())]
    Array {
        /// The store.
        path: PathBuf,
        /// Its array.
        found: String,
        /// The file's.
        expected: String,
    },
    /// The incarnation.
    #[error("{0}")]
    Incarnation(#[from] IncarnationError),
    /// The lease.
    #[error("{0}")]
    Lease(#[from] lease::LeaseError),
    /// The gate before the hosts.
    #[error("{0}")]
    Gate(#[from] GateError),
    /// The quorum disks hold no area.
    #[error(
        "quorum disks {0} are blank: this array was never formatted; run `pollux quorum format` once, on one controller"
    )]
    Blank(String),
    /// Parameters.
    #[error("{0}")]
    Params(String),
    /// Anything of the system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Whether the disks of the controller with this file are real ones: enclosured has its file beside it. On the chassis there is
/// none, and nothing of the kernel answers hosts.
#[must_use]
pub fn is_appliance(controller_toml: &Path) -> bool {
    controller_toml.with_file_name("enclosure.toml").exists()
}

/// Runs until asked to stop; `appliance` as of [`is_appliance`].
///
/// # Errors
/// [`StartError`] says what keeps it from running.
pub async fn run(config: ControllerConfig, appliance: bool) -> Result<(), StartError> {
    let shutdown = Shutdown::on_signals().map_err(|source| StartError::Io {
        what: "signal handlers".to_owned(),
        source,
    })?;
    let lock_path = config.paths.run.join("heartbeat.lock");
    let _lock = take_lock(&lock_path).await?;
    let keys = KeyStore::load(&config.paths.keys)?;
    if keys.array != config.array {
        return Err(StartError::Array {
            path: config.paths.keys.clone(),
            found: keys.array.to_string(),
            expected: config.array.to_string(),
        });
    }
    // Before anything is granted, and before anything takes time: closed, or what a predecessor was granted.
    let lease = lease::Writer::open(&config.paths.lease())?;
    let (gate, gate_failed) = gate(&config, lease.deadline_ns())?.unzip();
    let ungated = appliance && gate.is_none();
    if ungated {
        tracing::warn!("{}", view::ungated(config.controller));
    }
    let timeline_path = config.paths.var.join("timeline.jsonl");
    let timeline = Timeline::open(&timeline_path).map_err(|source| StartError::Io {
        what: format!("timeline {}", timeline_path.display()),
        source,
    })?;
    let timeline = Arc::new(Mutex::new(timeline));

    let (event_sink, events) = mpsc::unbounded_channel();
    let (input_sink, inputs) = mpsc::unbounded_channel();
    let (handover_sink, handover) = mpsc::unbounded_channel();
    let (ask_sink, asks) = mpsc::unbounded_channel();
    let (bmc_sink, bmc_asks) = mpsc::unbounded_channel();
    let pets = watch::Sender::new(0);
    let (tables_sink, tables) = watch::channel(Arc::default());

    let doors = Doors {
        place: format!("{}/heartbeat", config.controller),
        inputs: input_sink,
        events: event_sink.clone(),
        asks: ask_sink.clone(),
        timeline: Arc::clone(&timeline),
        client: Arc::default(),
        machine: Arc::default(),
    };
    let machine = Arc::clone(&doors.machine);
    let left = Arc::new(AtomicBool::new(false));
    let service = service::build(&doors).start(&config);
    let client = service.client().clone();
    // Handlers run only when this function has returned to the runtime.
    let _ = doors.client.set(client.clone());
    let array = Array::new(
        client.clone(),
        config.controller,
        tables.clone(),
        Arc::clone(&timeline),
    );
    tokio::spawn(array::follow(client.clone(), tables_sink));
    tokio::spawn(keeper::serve(
        array.clone(),
        config.paths.run.clone(),
        asks,
        event_sink.clone(),
    ));
    let timing = timing(&config)?;
    let rungs = Rungs {
        power: config.fence.power,
        watchdog: config.fence.watchdog,
        ask: timing.power_ask(),
        cut: timing.power_cut(),
    };
    tokio::spawn(power::serve(
        config.paths.bmc.clone(),
        rungs,
        bmc_asks,
        pets.subscribe(),
        event_sink.clone(),
    ));
    tokio::spawn(pools(tables.clone(), event_sink.clone()));
    let (legs_sink, legs) = watch::channel(Legs::unseen(&config.interconnect.legs));
    tokio::spawn(legs::watch(
        config.interconnect.interface.clone(),
        config.interconnect.legs.clone(),
        event_sink.clone(),
        legs_sink,
    ));
    let (registered_sink, registered) = mpsc::unbounded_channel();
    tokio::spawn(array::registrations(client.clone(), registered_sink));
    let stand_in = watch::Sender::new(false);
    tokio::spawn(answer_for_the_partner(array.clone(), stand_in.subscribe()));
    let moves = Moves::new(array.clone(), event_sink.clone(), tables.clone());
    tokio::spawn(distribute(
        handover,
        registered,
        moves,
        array,
        client,
        ask_sink.clone(),
        event_sink.clone(),
        Down {
            config: config.clone(),
            machine,
            left: Arc::clone(&left),
            said: Arc::default(),
        },
    ));

    let (started, ready) = oneshot::channel();
    let inlets = (events, inputs);
    let loop_config = config.clone();
    let journal = Journal::new(config.controller, timeline);
    std::thread::Builder::new()
        .name("decide".to_owned())
        .spawn(move || {
            decide(
                loop_config,
                &keys,
                inlets,
                Outlets {
                    handover_sink,
                    event_sink,
                    ask_sink,
                    bmc_sink,
                    lease,
                    gate,
                    ungated,
                    legs,
                    pets,
                    tables,
                    journal,
                    stand_in,
                },
                started,
            );
        })
        .map_err(|source| StartError::Io {
            what: "decision thread".to_owned(),
            source,
        })?;
    // Asked to stop while the quorum disks are not there yet: nothing has begun.
    tokio::select! {
        result = ready => match result {
            Ok(result) => result?,
            Err(_) => return Err(StartError::Params("the decision thread ended at its start; see the log".to_owned())),
        },
        () = shutdown.requested() => return Ok(()),
    }
    tokio::select! {
        () = service.run(&shutdown) => {}
        error = failure(gate_failed) => return Err(error),
    }
    // What has left does not come back: the next daemon is another life of this controller. One that is killed instead, and
    // started again, finds its own good-bye, and keeps to it.
    if left.load(Ordering::Acquire) {
        if let Err(error) = machine::forget(&config.paths.run) {
            tracing::error!(%error, "the word about the machine stays, and may be done after the next start");
        }
        incarnation::end(&config.paths.run)?;
    }
    Ok(())
}

/// Why the gate cannot be kept; never, where there is none.
async fn failure(gate_failed: Option<oneshot::Receiver<NftError>>) -> StartError {
    let Some(failed) = gate_failed else {
        return std::future::pending().await;
    };
    match failed.await {
        Ok(error) => GateError::from(error).into(),
        Err(_) => StartError::Params("the thread of the gate ended; see the log".to_owned()),
    }
}

/// The gate before the hosts, where the configuration wants one, and who hears when it cannot be kept any more.
fn gate(
    config: &ControllerConfig,
    until_ns: u64,
) -> Result<Option<(Gate, oneshot::Receiver<NftError>)>, StartError> {
    if !config.front.gate {
        // What an earlier configuration has left would hold everything back for ever.
        if let Err(error) = gate::Tables::remove() {
            tracing::debug!(%error, "no gate, and whether one was left cannot be seen");
        }
        return Ok(None);
    }
    let (failed, hears) = oneshot::channel();
    let tables = gate::Tables::establish(gate::Rules::of(config), until_ns)?;
    let gate = Gate::start(tables, failed).map_err(|source| StartError::Io {
        what: "gate thread".to_owned(),
        source,
    })?;
    Ok(Some((gate, hears)))
}

/// The way down of this controller.
#[derive(Clone)]
struct Down {
    config: ControllerConfig,
    machine: Arc<Mutex<api::Machine>>,
    /// Good-bye stands where it counts.
    left: Arc<AtomicBool>,
    said: Arc<Notify>,
}

impl Down {
    /// Takes the machine down once the good-bye stands, or cannot be waited for any longer.
    async fn take(self) {
        if tokio::time::timeout(FAREWELL_WITHIN, self.said.notified())
            .await
            .is_err()
        {
            tracing::error!("good-bye could not be said: the partner has to wait, and fences");
        }
        let machine = *self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(word) = machine::word(machine) else {
            return tracing::warn!("this controller serves nothing until it is started again");
        };
        let run = &self.config.paths.run;
        match machine::leave(run, word) {
            Ok(()) => tracing::warn!(word, "the machine goes down"),
            Err(error) => tracing::error!(%error, run = %run.display(), "the machine is not taken down"),
        }
    }
}

struct Outlets {
    handover_sink: mpsc::UnboundedSender<Handover>,
    event_sink: mpsc::UnboundedSender<Event>,
    ask_sink: mpsc::UnboundedSender<Asked>,
    bmc_sink: mpsc::UnboundedSender<driver::Bmc>,
    lease: lease::Writer,
    gate: Option<Gate>,
    ungated: bool,
    legs: watch::Receiver<Legs>,
    pets: watch::Sender<u64>,
    tables: watch::Receiver<Arc<pollux_api::config::Tables>>,
    journal: Journal,
    stand_in: watch::Sender<bool>,
}

/// The decision thread.
fn decide(
    config: ControllerConfig,
    keys: &KeyStore,
    (events, inputs): (mpsc::UnboundedReceiver<Event>, mpsc::UnboundedReceiver<Input>),
    out: Outlets,
    started: oneshot::Sender<Result<(), StartError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            drop(started.send(Err(StartError::Io {
                what: "decision loop".to_owned(),
                source,
            })));
            return;
        }
    };
    let realtime = realtime::enter(PRIORITY).describe();
    if let Err(why) = &realtime {
        tracing::warn!(
            why,
            "no real time: a saturated machine may look dead; choose the profile accordingly"
        );
    }
    runtime.block_on(async move {
        match assemble(&config, keys, out, realtime.err()).await {
            Ok((driver, outcomes)) => {
                drop(started.send(Ok(())));
                driver
                    .run(Inlets {
                        events,
                        outcomes,
                        inputs,
                    })
                    .await;
            }
            Err(error) => drop(started.send(Err(error))),
        }
    });
}

async fn assemble(
    config: &ControllerConfig,
    keys: &KeyStore,
    out: Outlets,
    realtime: Option<String>,
) -> Result<(Driver, Outcomes), StartError> {
    let mut set = disks::hint(config);
    let (mut disks, mut outcomes) = Disks::new(config.clone());
    let incarnation = match incarnation::running(&config.paths.run)? {
        Some(kept) => kept,
        None => {
            let seen = remembered(config, &mut set, &mut disks, &mut outcomes).await?;
            incarnation::begin(&config.paths.run, &config.paths.var, seen)?
        }
    };
    let timing = timing(config)?;
    let now = driver::clock();
    // Only has to differ at every start and to be unknown to whoever replays old datagrams.
    let seed = u64::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 8]));
    let params = Params {
        array: config.array,
        controller: config.controller,
        incarnation,
        set,
        timing,
        seed,
        power_rung: config.fence.power,
        reservation_rung: config.fence.reservations,
        pausable: false,
        auto_giveback: true,
    };
    let core = Core::new(params, now).map_err(|error| StartError::Params(error.to_string()))?;
    let wire = Wire::open(
        config.controller,
        std::net::SocketAddr::new(config.interconnect.local, config.interconnect.heartbeat_port),
        std::net::SocketAddr::new(config.interconnect.partner, config.interconnect.heartbeat_port),
        keys.key.expose(),
    )
    .await
    .map_err(|source| StartError::Io {
        what: "interconnect".to_owned(),
        source,
    })?;
    let last_slots = LastSlots::default();
    gasp::install(wire.last_word().clone(), last_slots.clone()).map_err(|source| StartError::Io {
        what: "a thread".to_owned(),
        source,
    })?;
    let around = Surroundings {
        profile: config.profile.as_str().to_owned(),
        realtime,
        ungated: out.ungated.then_some(now.as_nanos()),
        ..Surroundings::default()
    };
    tracing::info!(controller = %config.controller, %incarnation, profile = around.profile, "heartbeat starts");
    let driver = Driver {
        core,
        controller: config.controller,
        wire,
        disks,
        events: out.event_sink,
        lease: out.lease,
        gate: out.gate,
        legs: out.legs,
        orders: out.handover_sink,
        asks: out.ask_sink,
        bmc: out.bmc_sink,
        pets: out.pets,
        journal: out.journal,
        around,
        tables: out.tables,
        waiting: BTreeMap::new(),
        stopped: None,
        left: false,
        told: "",
        last_slots,
        last_slot: None,
        stand_in: out.stand_in,
    };
    Ok((driver, outcomes))
}

fn timing(config: &ControllerConfig) -> Result<Timing, StartError> {
    let name = config.profile.as_str();
    let profile = Profile::from_name(name)
        .ok_or_else(|| StartError::Params(format!("timing profile {name} is not known")))?;
    Ok(Timing::derive(profile))
}

/// The highest incarnation of this controller that a majority of the quorum disks remembers. Waits for a majority:
/// without one nothing can be decided anyway. Of which set, the ballots there say: a later record that they know names its
/// own disks, and then these are asked.
async fn remembered(
    config: &ControllerConfig,
    set: &mut QuorumSet,
    disks: &mut Disks,
    outcomes: &mut Outcomes,
) -> Result<Incarnation, StartError> {
    let me = config.controller;
    let mut known = None;
    // The highest incarnation in the own slot, once the partner's ballot was read there as well.
    let mut seen: BTreeMap<Seat, Incarnation> = BTreeMap::new();
    let mut blank: BTreeSet<Seat> = BTreeSet::new();
    loop {
        disks.use_set(set);
        let missing: Vec<Seat> = set.all().filter(|seat| !seen.contains_key(seat)).collect();
        for seat in &missing {
            disks.read(*seat, (ReadId(0), me));
        }
        for _ in &missing {
            let Some((seat, quorum::Outcome::Read { result, .. })) = outcomes.recv().await else {
                continue;
            };
            let bytes = match result {
                Ok(bytes) => bytes,
                Err(why) => {
                    tracing::debug!(disk = %seat.disk, why, "quorum disk");
                    continue;
                }
            };
            let [mine, theirs] =
                [me, me.partner()].map(|whose| layout::decode_area(&disks.place(seat), whose, &bytes));
            for record in [&mine, &theirs]
                .iter()
                .filter_map(|area| Some(area.vote.ok()?.decided))
            {
                if known.is_none_or(|known| record.epoch > known) {
                    known = Some(record.epoch);
                    *set = record.disks;
                }
            }
            match (mine.slot, theirs.vote) {
                (Ok(slot), Ok(_)) => drop(seen.insert(seat, slot.advert.incarnation)),
                (slot, vote) => {
                    tracing::warn!(disk = %seat.disk, slot = ?slot.err(), vote = ?vote.err(), "quorum area cannot be read");
                    if mine.header == Err(Unread::Blank) {
                        blank.insert(seat);
                    }
                }
            }
        }
        let among = |seats: &dyn Fn(&Seat) -> bool| {
            set.reached(|disk| set.seat(disk).is_some_and(|seat| seats(&seat)))
        };
        if among(&|seat| seen.contains_key(seat)) {
            return Ok(seen.into_values().max().unwrap_or_default());
        }
        if among(&|seat| blank.contains(seat)) {
            let names: Vec<_> = blank.iter().map(|seat| seat.disk.to_string()).collect();
            return Err(StartError::Blank(names.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn take_lock(path: &Path) -> Result<Lock, LockError> {
    let end = tokio::time::Instant::now() + LOCK_WITHIN;
    loop {
        match Lock::acquire(path) {
            // A predecessor that was killed is reaped in a moment.
            Err(LockError::Held { .. }) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

/// Tells the core which pools there are, whenever that changes.
async fn pools(
    mut tables: watch::Receiver<Arc<pollux_api::config::Tables>>,
    events: mpsc::UnboundedSender<Event>,
) {
    while tables.changed().await.is_ok() {
        let tables = tables.borrow_and_update().clone();
        let known = tables
            .pools
            .values()
            .map(|row| PoolInfo {
                pool: row.id,
                home: row.home,
            })
            .collect();
        if events.send(Event::Pools(known)).is_err() {
            return;
        }
    }
}

/// Brings the partner's portal to what the core says of it; at the start as well, for what an earlier daemon left.
async fn answer_for_the_partner(array: Array, mut stand_in: watch::Receiver<bool>) {
    loop {
        let is = *stand_in.borrow_and_update();
        if let Err(error) = array.stand_in(is).await {
            tracing::warn!(stand_in = is, %error, "the partner's portal is not as it should be");
            // Whatever was wrong may be right by then; a change of mind does not wait.
            let again = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                () = again => if error.is(pollux_api::error::Code::NotFound) { drop(stand_in.changed().await) },
                _ = stand_in.changed() => {}
            }
            continue;
        }
        if stand_in.changed().await.is_err() {
            return;
        }
    }
}

/// Hands over what the loop asks, and tells it what the services report when they start.
#[expect(clippy::too_many_arguments, reason = "the channels of one task")]
async fn distribute(
    mut handover: mpsc::UnboundedReceiver<Handover>,
    mut registered: mpsc::UnboundedReceiver<String>,
    mut moves: Moves,
    array: Array,
    client: Client,
    asks: mpsc::UnboundedSender<Asked>,
    events: mpsc::UnboundedSender<Event>,
    down: Down,
) {
    let config = down.config.clone();
    let (mut going, mut asking) = (false, None::<tokio::task::JoinHandle<()>>);
    loop {
        let item = tokio::select! {
            item = handover.recv() => match item { Some(item) => item, None => return },
            Some(name) = registered.recv() => {
                tracing::info!(service = name, "registered");
                match name.as_str() {
                    pollux_api::pool::SERVICE => {
                        let task = tokio::spawn(imports(array.clone(), events.clone()));
                        // What the process before would have said is no longer true.
                        if let Some(older) = asking.replace(task) {
                            older.abort();
                        }
                    }
                    pollux_api::config::SERVICE => drop(asks.send(Ask::Look.into())),
                    pollux_api::alua::SERVICE | pollux_api::target::SERVICE | pollux_api::address::SERVICE => {
                        moves.tell_again();
                    }
                    _ => {}
                }
                continue;
            }
        };
        match item {
            Handover::Pool(order) => moves.order(order),
            Handover::StopAll(action) => moves.stop_all(action),
            Handover::Stopped(StopReason::Shutdown) => {
                if !std::mem::replace(&mut going, true) {
                    tokio::spawn(down.clone().take());
                }
            }
            Handover::Left => {
                down.left.store(true, Ordering::Release);
                down.said.notify_one();
            }
            Handover::Stopped(reason) => {
                tracing::error!(?reason, "everything is stopped: resetting this controller");
                let mut control = ChassisBmc::new(&config.paths.bmc);
                tokio::spawn(async move {
                    let error = control.reset_self(Duration::from_secs(5)).await;
                    tracing::error!(%error, "reset not done; the watchdog is no longer petted and will do it");
                });
            }
            Handover::QuorumSet(set) => {
                tracing::info!(generation = %set.generation(), disks = %set, "quorum disks");
                // Without it the next start looks where this one began to look.
                if let Err(error) = disks::keep(&config, &set) {
                    tracing::error!(%error, "the quorum disks are not kept for the next start");
                }
            }
            Handover::Partner(reachable) => moves.partner_reachable(reachable),
            Handover::Event(event) => {
                drop(client.publish(api::EVENTS, &event, &Ctx::new(Duration::from_secs(5))))
            }
        }
    }
}

/// Tells the core what the pool manager has imported, once what an earlier daemon has begun there has come to its end. Until
/// then nothing can be taken or given, so it is asked for as long as it takes.
async fn imports(array: Array, events: mpsc::UnboundedSender<Event>) {
    let imported = loop {
        match array.imported(true, IMPORTS).await {
            Ok(imported) => break imported,
            Err(error) => tracing::warn!(%error, "the pool manager does not say what it has imported"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    let one = |held: pollux_api::pool::Held| Import {
        pool: held.pool,
        key: held.key,
    };
    drop(events.send(Event::Imports(imported.into_iter().map(one).collect())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_disks_are_where_enclosured_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(pollux_runtime::config::FILE);
        assert!(!is_appliance(&file));
        std::fs::write(dir.path().join("enclosure.toml"), "").unwrap();
        assert!(is_appliance(&file));
    }
}
