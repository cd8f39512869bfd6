//! What people and the services below tell and ask heartbeat, through the router.

use crate::{
    driver::Input,
    keeper::{Ask, Asked},
    keys::{self, ClearError},
    machine,
    timeline::Timeline,
};
use pollux_api::{
    config::{self, Lease, LeaseAsked},
    error::{Code, RpcError},
    heartbeat::{
        self as api, Accepted, ClearKeys, ClearedKeys, Giveback, Machine, OpenAlone, ReplaceQuorumDisk,
        Shutdown, Switchover, Takeover, TimelineQuery,
    },
    pool::PoolEvent,
};
use pollux_heartbeat_core::{
    Event,
    effect::{Plan, Refusal},
    event::Request,
};
use pollux_runtime::{Client, Ctx, Service, typed::Typed};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The config keeper takes what it is told at once; it does not wait longer for it either.
const KEEPER_WITHIN: Duration = Duration::from_secs(2);

/// Ways into the daemon.
#[derive(Clone)]
pub struct Doors {
    /// Place for messages, `a/heartbeat`.
    pub place: String,
    /// To the loop.
    pub inputs: mpsc::UnboundedSender<Input>,
    /// Events for the core.
    pub events: mpsc::UnboundedSender<Event>,
    /// To the config keeper's end.
    pub asks: mpsc::UnboundedSender<Asked>,
    /// Incidents.
    pub timeline: Arc<Mutex<Timeline>>,
    /// What becomes of the machine after the good-bye that was asked for.
    pub machine: Arc<Mutex<Machine>>,
    /// To answer the config keeper; there as soon as the service has started.
    pub client: Arc<OnceLock<Client>>,
}

impl Doors {
    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, RpcError> {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            RpcError::new(Code::Failed, &self.place, "the decision loop has ended")
                .remedy("see heartbeat's log")
        };
        self.inputs.send(input(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Tells the config keeper whether this controller holds its lease now.
    async fn tell_lease(&self, number: u64) {
        let (Ok(epoch), Some(client)) = (self.ask(Input::StandsIn).await, self.client.get()) else {
            return; // The keeper does not wait for ever.
        };
        let lease = Lease { number, epoch };
        let told: Result<(), RpcError> = client.call(config::LEASE, &lease, &Ctx::new(KEEPER_WITHIN)).await;
        if let Err(error) = told {
            tracing::debug!(%error, "the config keeper was not told of the lease");
        }
    }

    /// `heartbeat.clear_keys`. The decision loop only says which disks vote: what a disk is asked takes time.
    async fn clear_keys(&self, ask: ClearKeys) -> Result<ClearedKeys, RpcError> {
        let ClearKeys {
            disk,
            keys: given,
            dry_run,
        } = ask;
        let mut wrong = RpcError::new(Code::InvalidParams, &self.place, "keys that are none");
        let mut named = BTreeSet::new();
        for (index, text) in given.iter().enumerate() {
            match pollux_block_frame::key::parse(text) {
                Ok(key) => drop(named.insert(key)),
                Err(why) => {
                    let right = "a key as `pool.status` shows it among the foreign ones";
                    wrong = wrong.problem(format!("keys[{index}]"), why, right);
                }
            }
        }
        if !wrong.data.problems.is_empty() {
            return Err(wrong);
        }
        let Some(way) = self.ask(|reply| Input::QuorumDisk(disk, reply)).await? else {
            let what = format!("{disk} is no quorum disk");
            return Err(RpcError::new(Code::Refused, &self.place, what)
                .remedy("pool.clear_key, for a disk that is none; pollux quorum shows them"));
        };
        let removed = keys::clear(&way, &named, dry_run).await.map_err(|error| {
            let (code, remedy) = match &error {
                ClearError::Own { .. } => (
                    Code::Refused,
                    "put another disk in its place (pollux quorum replace): on a disk that is no quorum disk the pool manager \
                     says whether the key is still somebody's",
                ),
                ClearError::Unnamed { .. } => (Code::Refused, "name all of them, if nobody uses the disk any more"),
                ClearError::Disk { .. } => (Code::Failed, "see the state of the disk: pollux quorum"),
                ClearError::Again { .. } => (Code::Failed, "stop whoever registers it"),
            };
            RpcError::new(code, &self.place, error.to_string()).remedy(remedy)
        })?;
        if !dry_run && !removed.is_empty() {
            tracing::warn!(%disk, keys = ?removed, "keys were removed from a quorum disk on an operator's word");
        }
        let removed = removed.iter().map(ToString::to_string).collect();
        Ok(ClearedKeys { disk, removed })
    }

    async fn request(
        &self,
        ctx: Ctx,
        request: Request,
        kind: &'static str,
        dry_run: bool,
    ) -> Result<Accepted, RpcError> {
        let result: Result<Plan, Refusal> = if dry_run {
            self.ask(|reply| Input::Plan(request, reply)).await?
        } else {
            self.ask(|reply| Input::Request(request, ctx.action, kind, reply))
                .await?
        };
        match result {
            Ok(plan) => Ok(Accepted {
                action_id: ctx.action.to_string(),
                pools: plan.pools,
                plan: plan.steps,
            }),
            Err(refusal) => {
                Err(RpcError::new(Code::Refused, &self.place, refusal.reason).remedy(refusal.remedy))
            }
        }
    }
}

/// The service, ready to be started.
#[must_use]
pub fn build(doors: &Doors) -> Typed<api::Contract> {
    macro_rules! doors {
        () => {
            doors.clone()
        };
    }
    let (status, why, timeline) = (doors!(), doors!(), doors!());
    let (switchover, giveback, takeover, abort) = (doors!(), doors!(), doors!(), doors!());
    let (shutdown, open_alone, replace, pool_event, config_status) =
        (doors!(), doors!(), doors!(), doors!(), doors!());
    let (config_lease, clear_keys) = (doors!(), doors!());
    Service::of::<api::Contract>()
        .serve::<api::STATUS>(move |_, (): ()| {
            let doors = status.clone();
            async move { doors.ask(Input::Status).await }
        })
        .serve::<api::WHY>(move |_, (): ()| {
            let doors = why.clone();
            async move { doors.ask(Input::Why).await }
        })
        .serve::<api::TIMELINE>(move |_, query: TimelineQuery| {
            let found = timeline
                .timeline
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .query(&query);
            async move { Ok(found) }
        })
        .serve::<api::SWITCHOVER>(move |ctx, ask: Switchover| {
            let doors = switchover.clone();
            async move {
                doors
                    .request(ctx, Request::Switchover(ask.pool), "switchover", ask.dry_run)
                    .await
            }
        })
        .serve::<api::GIVEBACK>(move |ctx, ask: Giveback| {
            let doors = giveback.clone();
            async move {
                doors
                    .request(ctx, Request::Giveback(ask.pool), "giveback", ask.dry_run)
                    .await
            }
        })
        .serve::<api::TAKEOVER>(move |ctx, ask: Takeover| {
            let doors = takeover.clone();
            let request = ask.override_epoch.map_or(Request::Takeover, Request::Override);
            async move { doors.request(ctx, request, "takeover", ask.dry_run).await }
        })
        .serve::<api::OPEN_ALONE>(move |ctx, ask: OpenAlone| {
            let doors = open_alone.clone();
            async move {
                doors
                    .request(ctx, Request::OpenAlone, "membership", ask.dry_run)
                    .await
            }
        })
        .serve::<api::REPLACE_QUORUM_DISK>(move |ctx, ask: ReplaceQuorumDisk| {
            let doors = replace.clone();
            let ReplaceQuorumDisk { from, to, dry_run } = ask;
            async move {
                doors
                    .request(ctx, Request::ReplaceQuorumDisk { from, to }, "quorum", dry_run)
                    .await
            }
        })
        .serve::<api::CLEAR_KEYS>(move |_, ask: ClearKeys| {
            let doors = clear_keys.clone();
            async move { doors.clear_keys(ask).await }
        })
        .serve::<api::SHUTDOWN>(move |ctx, ask: Shutdown| {
            let doors = shutdown.clone();
            async move {
                let unserved = ask.unserved;
                let wanted = || doors.machine.lock().unwrap_or_else(PoisonError::into_inner);
                let before = *wanted();
                if !ask.dry_run {
                    tracing::warn!(reason = ask.reason, machine = ?ask.machine, "asked to shut down");
                    // Before it begins: its end may come at once.
                    *wanted() = machine::both(before, ask.machine);
                }
                let answer = doors
                    .request(ctx, Request::Shutdown { unserved }, "shutdown", ask.dry_run)
                    .await;
                if answer.is_err() && !ask.dry_run {
                    // What was refused is not what somebody else wants who comes after it.
                    *wanted() = before;
                }
                answer
            }
        })
        .serve::<api::ABORT>(move |ctx, ask: Switchover| {
            let doors = abort.clone();
            async move {
                doors
                    .request(ctx, Request::Abort(ask.pool), "abort", ask.dry_run)
                    .await
            }
        })
        .hear::<api::POOL_EVENT>(move |_, event: PoolEvent| {
            let events = pool_event.events.clone();
            async move {
                match event {
                    PoolEvent::ExclusionLost { pool, disk, holder } => {
                        tracing::error!(%pool, %disk, ?holder, "exclusion lost");
                        drop(events.send(Event::ExclusionLost { pool, holder }));
                    }
                    PoolEvent::Suspended { pool, reason } => tracing::error!(%pool, reason, "pool suspended"),
                    PoolEvent::Resumed { pool } => tracing::info!(%pool, "pool resumed"),
                    PoolEvent::Space { pool, low, .. } => tracing::warn!(%pool, low, "free space of a pool"),
                    PoolEvent::Health { pool, health } => tracing::warn!(%pool, ?health, "health of a pool"),
                }
            }
        })
        .hear::<api::CONFIG_STATUS>(move |_, _| {
            let asks = config_status.asks.clone();
            async move { drop(asks.send(Ask::Look.into())) }
        })
        .hear::<api::CONFIG_LEASE>(move |_, asked: LeaseAsked| {
            let doors = config_lease.clone();
            async move { doors.tell_lease(asked.number).await }
        })
}
