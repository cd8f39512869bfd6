//! The migration of pools: what the core asks of one pool, carried out step by step.
//!
//! Each pool has a queue of its own, so that all pools move at the same time and the steps of one pool never overtake
//! each other. Only a stop and a deletion do not wait: they end whatever runs for their pool and come first.
//!
//! ```text
//! fence      pool.take
//! take       pool.import
//! publish    target.publish -> alua.set owner (flip, unit attention, commands go on) -> address.raise
//! release    alua.set moving (commands held) -> address.lower -> target.hold (drain) -> pool.export
//! resume     pool.import (imported still, or it fails) -> publish
//! stop       address.lower, alua.set nobody, pool.stop: all three, whatever the others say
//! delete     address.lower, alua.set nobody, pool.delete (again while it fails), then as stop
//! ```
//!
//! It decides nothing: which pool, when, and on what evidence is the core's.

use crate::array::{Array, Task};
use crate::journal::outcome;
use pollux_api::{
    action::ActionId,
    alua::Role,
    config::Tables,
    error::Code,
    id::{ControllerId, Epoch, Generation, PoolId},
    pool::{PowerOff, ReservationKey},
};
use pollux_heartbeat_core::{Event, effect::Evidence, event::PoolStep};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// How long commands in flight may take to end when a pool is released. Below every host's patience (30 s).
const DRAIN: Duration = Duration::from_secs(2);

/// How long the pool manager may take to say what it has imported. It asks no disk for that.
const LOOK: Duration = Duration::from_secs(10);

/// Attempts to remove a deleted pool from its disks, and the pause between two: somebody may have a device open, or the change
/// of the configuration be on its way to the pool manager.
const DELETIONS: u32 = 5;
const DELETE_AGAIN: Duration = Duration::from_secs(2);

/// Pause before port groups that did not take what they were told are told again.
const AGAIN: Duration = Duration::from_millis(250);

/// What the core asks of one pool.
#[derive(Clone, Debug)]
pub enum Job {
    /// Take exclusion of its disks.
    Fence(ReservationKey, Option<ControllerId>),
    /// Import it.
    Take(ReservationKey, Evidence),
    /// Serve it.
    Publish(ReservationKey),
    /// Give it up in good order.
    Release(ReservationKey),
    /// Serve it again after a release that failed.
    Resume(ReservationKey),
    /// Stop using it at once.
    Stop(Generation),
    /// Use it no more, and leave disks of which another one can be made.
    Delete(Generation),
    /// Tell port groups and forwarding what this controller is for it.
    Route(Epoch, Generation, Role, bool),
}

/// A job, under which action.
#[derive(Clone, Debug)]
pub struct Order {
    /// The pool.
    pub pool: PoolId,
    /// The action of this part of the incident.
    pub action: ActionId,
    /// What caused it.
    pub cause: Option<ActionId>,
    /// What to do.
    pub job: Job,
}

/// What the port groups of a pool were last told; kept to tell it again.
type Roles = Arc<Mutex<BTreeMap<PoolId, (Task, Role)>>>;

/// All pools of this controller.
pub struct Moves {
    array: Array,
    events: mpsc::UnboundedSender<Event>,
    workers: HashMap<PoolId, Worker>,
    roles: Roles,
    partner: watch::Sender<bool>,
    again: Arc<Notify>,
}

struct Worker {
    queue: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Moves {
    /// Results go to `events`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(
        array: Array,
        events: mpsc::UnboundedSender<Event>,
        tables: watch::Receiver<Arc<Tables>>,
    ) -> Self {
        let roles = Roles::default();
        let partner = watch::Sender::new(false);
        let again = Arc::new(Notify::new());
        tokio::spawn(assert_roles(
            array.clone(),
            Arc::clone(&roles),
            partner.subscribe(),
            tables,
            Arc::clone(&again),
        ));
        Self {
            array,
            events,
            workers: HashMap::new(),
            roles,
            partner,
            again,
        }
    }

    /// A service below has started again: it is told once more what it has to be.
    pub fn tell_again(&self) {
        self.again.notify_one();
    }

    /// The partner is a member and answers on the wire, or does so no longer.
    pub fn partner_reachable(&self, reachable: bool) {
        self.partner
            .send_if_modified(|is| std::mem::replace(is, reachable) != reachable);
    }

    /// Puts an order into the queue of its pool; a stop or a deletion goes first and ends what runs.
    pub fn order(&mut self, order: Order) {
        if matches!(order.job, Job::Stop(_) | Job::Delete(_))
            && let Some(worker) = self.workers.remove(&order.pool)
        {
            worker.task.abort();
        }
        let worker = self.workers.entry(order.pool).or_insert_with(|| {
            let (queue, orders) = mpsc::unbounded_channel();
            let hands = Hands {
                array: self.array.clone(),
                events: self.events.clone(),
                roles: Arc::clone(&self.roles),
                partner: self.partner.subscribe(),
            };
            Worker {
                queue,
                task: tokio::spawn(hands.work(orders)),
            }
        });
        if worker.queue.send(order).is_err() {
            tracing::error!("a pool's worker has ended although its queue is open");
        }
    }

    /// Stops every pool and lowers every address; tells the core when nothing is used any more.
    pub fn stop_all(&mut self, action: ActionId) {
        for (_, worker) in self.workers.drain() {
            worker.task.abort();
        }
        let (array, events) = (self.array.clone(), self.events.clone());
        let known: Vec<_> = lock(&self.roles)
            .iter()
            .map(|(pool, (task, _))| (*pool, *task))
            .collect();
        lock(&self.roles).clear();
        tokio::spawn(async move {
            // Not settled: what hangs is stopped, too, and not waited for.
            let imported = match array.imported(false, DRAIN).await {
                Ok(imported) => imported,
                Err(error) => {
                    tracing::error!(%error, "what is imported cannot be asked: stopping what is known");
                    Vec::new()
                }
            };
            let mut well = true;
            let mut tasks: BTreeMap<PoolId, Task> = known.into_iter().collect();
            for pool in imported {
                let (epoch, generation) = (pool.key.epoch, pool.key.generation);
                tasks.insert(
                    pool.pool,
                    Task {
                        action,
                        cause: None,
                        pool: pool.pool,
                        epoch,
                        generation,
                    },
                );
            }
            for task in tasks.into_values() {
                if let Err(error) = stop(&array, task).await {
                    well = false;
                    tracing::error!(pool = %task.pool, error, "pool not stopped in good order");
                }
            }
            // Whoever says good-bye has to know: what is imported after all of that may still be written.
            let left = array.imported(true, LOOK).await.map(|imported| imported.len());
            let result = match (well, left) {
                (true, Ok(0)) => Ok(()),
                (false, _) => Err("something does not stop".to_owned()),
                (true, Ok(count)) => Err(format!("{count} pools are still imported")),
                (true, Err(error)) => Err(error.to_string()),
            };
            if let Err(error) = &result {
                tracing::error!(error, "not everything has stopped");
            }
            // For the last of all: a reset that follows ends everything, in good order or not.
            let (pool, generation) = (PoolId::from_bytes([0; 16]), Generation::default());
            drop(events.send(Event::PoolDone {
                pool,
                generation,
                step: PoolStep::StopAll,
                result,
            }));
        });
    }
}

/// One pool's worker.
struct Hands {
    array: Array,
    events: mpsc::UnboundedSender<Event>,
    roles: Roles,
    partner: watch::Receiver<bool>,
}

impl Hands {
    async fn work(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            self.carry_out(order).await;
        }
    }

    async fn carry_out(&self, order: Order) {
        let Order {
            pool,
            action,
            cause,
            job,
        } = order;
        let task = |key: ReservationKey| Task {
            action,
            cause,
            pool,
            epoch: key.epoch,
            generation: key.generation,
        };
        let done = |step, generation, result| {
            drop(self.events.send(Event::PoolDone {
                pool,
                generation,
                step,
                result,
            }));
        };
        match job {
            Job::Fence(key, victim) => {
                let result = self.fence(task(key), victim).await;
                drop(self.events.send(Event::FenceDone { pool, key, result }));
            }
            Job::Take(key, evidence) => {
                done(
                    PoolStep::Take,
                    key.generation,
                    self.take(task(key), power_off(evidence)).await,
                );
            }
            Job::Publish(key) => done(PoolStep::Publish, key.generation, self.publish(task(key)).await),
            Job::Release(key) => done(PoolStep::Release, key.generation, self.release(task(key)).await),
            Job::Resume(key) => done(PoolStep::Resume, key.generation, self.resume(task(key)).await),
            Job::Stop(generation) | Job::Delete(generation) => {
                let task = lock(&self.roles).get(&pool).map_or(
                    Task {
                        action,
                        cause,
                        pool,
                        epoch: Epoch::default(),
                        generation,
                    },
                    |(task, _)| Task {
                        action,
                        cause,
                        ..*task
                    },
                );
                self.remember(task, Role::Nobody);
                if let Job::Delete(_) = job {
                    self.delete(task).await;
                } else {
                    done(PoolStep::Stop, generation, stop(&self.array, task).await);
                }
            }
            Job::Route(epoch, generation, role, reachable) => {
                let task = Task {
                    action,
                    cause,
                    pool,
                    epoch,
                    generation,
                };
                self.remember(task, role);
                if let Err(error) = self.array.role(task, role, reachable).await {
                    tracing::warn!(%pool, %error, "port groups not told yet; they will be told again");
                }
            }
        }
    }

    /// Nobody waits for the end of this.
    async fn delete(&self, task: Task) {
        let pool = task.pool;
        let (lowered, told) =
            tokio::join!(self.array.lower(task), self.array.role(task, Role::Nobody, false));
        if let Some(error) = lowered.err().or(told.err()) {
            tracing::warn!(%pool, %error, "not out of sight yet: it is tried again when it is stopped");
        }
        let mut problem = None;
        for attempt in 1..=DELETIONS {
            match self.array.delete(task).await {
                Ok(done) if done.was_imported => tracing::info!(%pool, "deleted"),
                Ok(_) => {}
                Err(_) if attempt < DELETIONS => {
                    tokio::time::sleep(DELETE_AGAIN).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%pool, %error, "its disks stay as they are");
                    problem = Some(format!("its disks stay as they are: {error}"));
                }
            }
            break;
        }
        if let Err(error) = stop(&self.array, task).await {
            tracing::error!(%pool, error, "a deleted pool was not stopped in good order");
            problem.get_or_insert(error);
        }
        lock(&self.roles).remove(&pool);
        let ended = outcome(problem.as_ref());
        self.array.timeline().end(&task.action.to_string(), &ended);
    }

    async fn fence(&self, task: Task, victim: Option<ControllerId>) -> Result<(), String> {
        let taken = self.array.fence(task, victim).await;
        if let Err(error) = &taken
            && error.is(Code::Conflict)
        {
            // Perhaps an import under an earlier claim of this controller that came to its end unseen. It is not what the core
            // goes by, and would be in the way of every attempt. What it has in the kernel goes meanwhile.
            self.array.stop(task).await.map_err(words)?;
            return Err(format!(
                "{error}; what was imported of it is stopped, and it is tried again"
            ));
        }
        let taken = taken.map_err(words)?;
        if taken.confirmed {
            return Ok(());
        }
        let disks: Vec<_> = taken.unfenced.iter().map(ToString::to_string).collect();
        Err(format!("exclusion not confirmed on {}", disks.join(", ")))
    }

    async fn take(&self, task: Task, power_off: Option<PowerOff>) -> Result<(), String> {
        let imported = self.array.import(task, power_off).await.map_err(words)?;
        tracing::info!(pool = %task.pool, volumes = imported.volumes.len(), action_id = %task.action, "imported");
        Ok(())
    }

    /// It is imported here under this claim. What the core knows of it may be older: a daemon that was started in the middle of
    /// a move, or a pool manager that was.
    async fn is_held(&self, task: Task) -> Result<(), String> {
        let imported = self.array.imported(false, LOOK).await.map_err(words)?;
        let same = |key: ReservationKey| key.epoch == task.epoch && key.generation == task.generation;
        match imported.iter().find(|held| held.pool == task.pool) {
            Some(held) if same(held.key) => Ok(()),
            Some(held) => Err(format!(
                "it is imported under another claim: epoch {}, generation {}",
                held.key.epoch, held.key.generation
            )),
            None => Err("it is not imported".into()),
        }
    }

    async fn publish(&self, task: Task) -> Result<(), String> {
        self.is_held(task).await?;
        let published = self.array.publish(task).await.map_err(words)?;
        for (volume, why) in published.failed {
            tracing::warn!(%volume, why, "volume is not served yet");
        }
        let reachable = *self.partner.borrow();
        self.array
            .role(task, Role::Owner, reachable)
            .await
            .map_err(words)?;
        self.remember(task, Role::Owner);
        // Block service stands. An address that cannot be raised is an alarm, not a reason to withhold the volumes.
        if let Err(error) = self.array.raise(task).await {
            tracing::error!(pool = %task.pool, %error, "addresses not raised; tried again");
        }
        Ok(())
    }

    async fn release(&self, task: Task) -> Result<(), String> {
        // What is below a suspended pool cannot end, and it cannot be closed either: no host waits for that.
        let imported = self.array.imported(false, LOOK).await.map_err(words)?;
        if imported
            .iter()
            .any(|held| held.pool == task.pool && held.suspended)
        {
            return Err("no leg in sync can be written from here: it cannot be drained".into());
        }
        self.remember(task, Role::Moving);
        let reachable = *self.partner.borrow();
        self.array
            .role(task, Role::Moving, reachable)
            .await
            .map_err(words)?;
        self.array.lower(task).await.map_err(words)?;
        self.array.hold(task, DRAIN).await.map_err(words)?;
        self.array.export(task).await.map_err(words)?;
        Ok(())
    }

    /// Only what is still imported goes on: exclusion that has ended is taken again under a later claim, or not at all.
    async fn resume(&self, task: Task) -> Result<(), String> {
        self.is_held(task).await?;
        // After an export that did not come to its end its volumes are opened again.
        self.take(task, None).await?;
        self.publish(task).await
    }

    fn remember(&self, task: Task, role: Role) {
        lock(&self.roles).insert(task.pool, (task, role));
    }
}

/// Every step is tried, whatever the others say: less service is the safe side.
async fn stop(array: &Array, task: Task) -> Result<(), String> {
    let (lowered, told, stopped) = tokio::join!(
        array.lower(task),
        array.role(task, Role::Nobody, false),
        array.stop(task)
    );
    let problems: Vec<String> = [
        lowered.err().map(words),
        told.err().map(words),
        stopped.err().map(words),
    ]
    .into_iter()
    .flatten()
    .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}

/// Tells the port groups again when the partner comes or goes or a service has started again, and raises the addresses
/// that the configuration has given to a pool that is served here.
async fn assert_roles(
    array: Array,
    roles: Roles,
    mut partner: watch::Receiver<bool>,
    mut tables: watch::Receiver<Arc<Tables>>,
    again: Arc<Notify>,
) {
    loop {
        let (groups, addresses) = tokio::select! {
            changed = partner.changed() => match changed { Ok(()) => (true, false), Err(_) => return },
            changed = tables.changed() => match changed { Ok(()) => (false, true), Err(_) => return },
            () = again.notified() => (true, true),
        };
        let reachable = *partner.borrow_and_update();
        let known: Vec<_> = lock(&roles).values().copied().collect();
        let mut failed = false;
        for (task, role) in known {
            // A pool that has moved on meanwhile is told by its worker; the services refuse what is older.
            let current = || lock(&roles).get(&task.pool) == Some(&(task, role));
            if groups
                && current()
                && let Err(error) = array.role(task, role, reachable).await
            {
                tracing::warn!(pool = %task.pool, %error, "port groups not told");
                failed = true;
            }
            if addresses
                && role == Role::Owner
                && current()
                && let Err(error) = array.raise(task).await
            {
                tracing::warn!(pool = %task.pool, %error, "addresses not raised");
            }
        }
        if failed {
            // An error may come at once, and as often as it is asked for.
            tokio::time::sleep(AGAIN).await;
            again.notify_one();
        }
    }
}

fn power_off(evidence: Evidence) -> Option<PowerOff> {
    match evidence {
        Evidence::PowerOff { victim, epoch }
        | Evidence::Waited { victim, epoch }
        | Evidence::Rebooted { victim, epoch } => Some(PowerOff {
            controller: victim.controller,
            incarnation: victim.incarnation,
            epoch,
        }),
        Evidence::Unowned | Evidence::Own | Evidence::Released { .. } | Evidence::Reserved { .. } => None,
    }
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
