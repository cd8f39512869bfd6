//! What people and the services below tell and ask heartbeat, through the router.

use crate::{
    driver::Input,
    keeper::{Ask, Asked},
    machine,
    timeline::Timeline,
};
use pollux_api::{
    config::{self, Lease, LeaseAsked},
    error::{Code, RpcError},
    heartbeat::{
        self as api, Accepted, Giveback, Machine, OpenAlone, ReplaceQuorumDisk, Shutdown, Switchover,
        Takeover, TimelineQuery,
    },
    pool::PoolEvent,
};
use pollux_heartbeat_core::{
    Event,
    effect::{Plan, Refusal},
    event::Request,
};
use pollux_runtime::{Client, Ctx, Service, typed::Typed};
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
    let config_lease = doors!();
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
