//! The services that heartbeat drives, as steps that are timed.
//!
//! Each step is one call uphill, under the action of the incident that it belongs to, with a deadline, and repeated
//! under the same action while the service is away (it restarts; it does not die with its controller). A step that
//! has succeeded is idempotent: asked again, it finds the work done.

use crate::timeline::Timeline;
use pollux_api::config::follow::Follower;
use pollux_api::{
    action::ActionId,
    address, alua,
    config::{self, Tables},
    error::{Code, RpcError},
    id::{ControllerId, Epoch, Generation, PoolId},
    pool, router, target,
};
use pollux_runtime::{Client, Ctx};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// Bound of one step. Not a budget: a step that is slower than this is repeated or given up, and said so.
const STEP: Duration = Duration::from_secs(20);
/// The same for the deletion of a pool, which nobody waits for: LVM may take a minute and a half.
const DELETE: Duration = Duration::from_secs(100);

/// The services of this controller.
#[derive(Clone)]
pub struct Array {
    client: Client,
    controller: ControllerId,
    tables: watch::Receiver<Arc<Tables>>,
    timeline: Arc<Mutex<Timeline>>,
}

/// Under which action, for which pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// The action of this part of the incident: the parent of every call that it makes.
    pub action: ActionId,
    /// What caused it, where that is another action (a person's request).
    pub cause: Option<ActionId>,
    /// The pool.
    pub pool: PoolId,
    /// Epoch of the claim.
    pub epoch: Epoch,
    /// Generation of the claim.
    pub generation: Generation,
}

impl Array {
    /// Over the router's client; `tables` is the acknowledged configuration.
    #[must_use]
    pub fn new(
        client: Client,
        controller: ControllerId,
        tables: watch::Receiver<Arc<Tables>>,
        timeline: Arc<Mutex<Timeline>>,
    ) -> Self {
        Self {
            client,
            controller,
            tables,
            timeline,
        }
    }

    /// Registers the new owner's key on every member disk, preempts everybody else's and reads back.
    ///
    /// # Errors
    /// The pool manager's, or that the configuration does not know the pool.
    pub async fn fence(&self, task: Task, victim: Option<ControllerId>) -> Result<pool::Taken, RpcError> {
        let disks = self.row(task.pool)?.disks;
        let request = pool::Take {
            pool: task.pool,
            disks,
            key: self.key(task),
            victim,
        };
        self.step(task, "fence", pool::TAKE, &request).await
    }

    /// Imports a pool whose exclusion was taken.
    ///
    /// # Errors
    /// The pool manager's, or that the configuration does not know the pool.
    pub async fn import(
        &self,
        task: Task,
        power_off: Option<pool::PowerOff>,
    ) -> Result<pool::Imported, RpcError> {
        let row = self.row(task.pool)?;
        let request = pool::Import {
            pool: task.pool,
            name: row.name,
            disks: row.disks,
            key: self.key(task),
            create: row.ready.is_none(),
            backend: row.backend,
            power_off,
        };
        self.step(task, "import", pool::IMPORT, &request).await
    }

    /// Opens the pool's volumes at the target; hosts notice nothing yet.
    ///
    /// # Errors
    /// The target's.
    pub async fn publish(&self, task: Task) -> Result<target::Published, RpcError> {
        let request = target::Publish {
            pool: task.pool,
            generation: task.generation,
        };
        self.step(task, "publish", target::PUBLISH, &request).await
    }

    /// Tells the port groups what this controller is for a pool.
    ///
    /// # Errors
    /// The port-group service's.
    pub async fn role(&self, task: Task, role: alua::Role, partner: bool) -> Result<alua::Done, RpcError> {
        let request = alua::Set {
            pool: task.pool,
            epoch: task.epoch,
            generation: task.generation,
            role,
            partner_reachable: partner,
        };
        // The one call that is made under the action itself, so that the action is tied to its cause.
        let mut ctx = Ctx::of(task.action, STEP);
        ctx.parent = task.cause;
        let phase = match role {
            alua::Role::Owner => "optimize",
            alua::Role::Moving => "quiesce",
            alua::Role::Partner | alua::Role::Nobody => "route",
        };
        self.timed(task, phase, self.client.call_retry(alua::SET, &request, &ctx))
            .await
    }

    /// Raises the addresses of a pool.
    ///
    /// # Errors
    /// The address service's.
    pub async fn raise(&self, task: Task) -> Result<address::Changed, RpcError> {
        let tables = self.tables.borrow().clone();
        let of_pool = tables.addresses.values().filter(|row| row.pool == task.pool);
        let addresses = of_pool.map(|row| row.cidr.clone()).collect();
        self.step(
            task,
            "addresses",
            address::RAISE,
            &address::Raise {
                pool: task.pool,
                addresses,
            },
        )
        .await
    }

    /// Answers for the portal of the partner, which is off, or no longer. The connections are those of which the
    /// partner's target has told this one.
    ///
    /// # Errors
    /// The target's or the address service's.
    pub async fn stand_in(&self, is: bool) -> Result<(), RpcError> {
        let ctx = Ctx::new(STEP);
        let call = async {
            if !is {
                return self.client.call_retry(address::STEP_BACK, &(), &ctx).await;
            }
            let status: target::Status = self.client.call_retry(target::STATUS, &(), &ctx).await?;
            let Some(target::Hosts {
                portal, connections, ..
            }) = status.partner
            else {
                return Err(RpcError::new(
                    Code::NotFound,
                    format!("{}/target", self.controller),
                    "the portal of the partner is not known",
                )
                .remedy("nothing to do: its hosts find out by their own keepalive"));
            };
            let ask = address::StandIn { portal, connections };
            self.client.call_retry(address::STAND_IN, &ask, &ctx).await
        };
        let changed: address::Changed = call.await?;
        tracing::info!(?changed, "the partner's portal");
        Ok(())
    }

    /// Takes the addresses of a pool down.
    ///
    /// # Errors
    /// The address service's.
    pub async fn lower(&self, task: Task) -> Result<address::Changed, RpcError> {
        self.step(
            task,
            "addresses",
            address::LOWER,
            &address::Lower { pool: task.pool },
        )
        .await
    }

    /// Holds the commands of a pool's volumes until none is in flight.
    ///
    /// # Errors
    /// The target's; `deadline_passed` if commands are still in flight after `drain`.
    pub async fn hold(&self, task: Task, drain: Duration) -> Result<target::Held, RpcError> {
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.step(
            task,
            "quiesce",
            target::HOLD,
            &target::Hold {
                pool: task.pool,
                drain_ms,
            },
        )
        .await
    }

    /// Flushes and exports a pool, and gives its reservations up.
    ///
    /// # Errors
    /// The pool manager's.
    pub async fn export(&self, task: Task) -> Result<pool::Exported, RpcError> {
        self.step(task, "export", pool::EXPORT, &pool::Export { pool: task.pool })
            .await
    }

    /// Leaves disks of a pool that was deleted of which another one can be made.
    ///
    /// # Errors
    /// The pool manager's.
    pub async fn delete(&self, task: Task) -> Result<pool::Exported, RpcError> {
        let ctx = Ctx::of(task.action, DELETE).child();
        let request = pool::Export { pool: task.pool };
        self.timed(
            task,
            "delete",
            self.client.call_retry(pool::DELETE, &request, &ctx),
        )
        .await
    }

    /// Stops a pool at once, without touching its disks.
    ///
    /// # Errors
    /// The pool manager's.
    pub async fn stop(&self, task: Task) -> Result<pool::Exported, RpcError> {
        self.step(task, "stop", pool::STOP, &pool::Export { pool: task.pool })
            .await
    }

    /// What the pool manager has imported; no disk is asked. `settled`: once what was begun before has come to its end.
    ///
    /// # Errors
    /// The pool manager's.
    pub async fn imported(&self, settled: bool, within: Duration) -> Result<Vec<pool::Held>, RpcError> {
        let request = pool::ListImported { settled };
        self.client
            .call_retry(pool::IMPORTED, &request, &Ctx::new(within))
            .await
    }

    /// Any call to the config keeper, repeated while it is away.
    ///
    /// # Errors
    /// The config keeper's.
    pub async fn config<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        method: &str,
        request: &Req,
        within: Duration,
    ) -> Result<Resp, RpcError> {
        self.config_under(method, request, &Ctx::new(within)).await
    }

    /// The same, under an action.
    ///
    /// # Errors
    /// The config keeper's.
    pub async fn config_under<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        method: &str,
        request: &Req,
        ctx: &Ctx,
    ) -> Result<Resp, RpcError> {
        self.client.call_retry(method, request, ctx).await
    }

    fn key(&self, task: Task) -> pool::ReservationKey {
        pool::ReservationKey {
            controller: self.controller,
            epoch: task.epoch,
            generation: task.generation,
        }
    }

    fn row(&self, pool: PoolId) -> Result<config::Pool, RpcError> {
        let tables = self.tables.borrow().clone();
        tables.pools.get(&pool).cloned().ok_or_else(|| {
            RpcError::new(
                Code::NotFound,
                format!("{}/heartbeat", self.controller),
                format!("pool {pool} is not in the configuration"),
            )
            .remedy("wait until the config keeper answers: `pollux pool list`")
        })
    }

    async fn step<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        task: Task,
        phase: &str,
        method: &str,
        request: &Req,
    ) -> Result<Resp, RpcError> {
        let ctx = Ctx::of(task.action, STEP).child();
        self.timed(task, phase, self.client.call_retry(method, request, &ctx))
            .await
    }

    async fn timed<T>(
        &self,
        task: Task,
        phase: &str,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let action = task.action.to_string();
        let now = pollux_platform::clock::monotonic_ns;
        self.timeline().open_phase(&action, phase, Some(task.pool), now());
        let answer = call.await;
        let note = answer.as_ref().err().map(ToString::to_string);
        if let Some(note) = &note {
            tracing::warn!(phase, pool = %task.pool, action_id = %action, error = note, "step did not succeed");
        }
        self.timeline()
            .close_phase(&action, phase, Some(task.pool), now(), note);
        answer
    }

    /// The incidents.
    ///
    /// A poisoned lock means that another thread panicked between two whole records: they are still whole.
    pub fn timeline(&self) -> std::sync::MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the configuration for ever; the receiver always has the newest acknowledged tables.
pub async fn follow(client: Client, tables: watch::Sender<Arc<Tables>>) {
    let mut follower = Follower::default();
    loop {
        let ctx = Ctx::new(Duration::from_secs(15));
        match client
            .call::<_, config::Watched>(config::WATCH, &follower.ask(10_000), &ctx)
            .await
        {
            Ok(answer) => {
                if follower.take(answer)
                    && let Some((fresh, _)) = follower.tables()
                {
                    tables.send_replace(Arc::new(fresh.clone()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the configuration cannot be followed now");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Watches the router's register and names every service that has (re)registered since the last look.
pub async fn registrations(client: Client, sink: mpsc::UnboundedSender<String>) {
    let mut known = BTreeMap::new();
    loop {
        let ctx = Ctx::new(Duration::from_secs(2));
        if let Ok(status) = client.call::<_, router::Status>(router::STATUS, &(), &ctx).await {
            for service in status.services {
                if known.insert(service.name.clone(), service.since_unix_ms) != Some(service.since_unix_ms)
                    && sink.send(service.name).is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
