//! The daemon: `alua` at the router, driving `target` of the same controller.

use crate::drive::{Driver, Target, Undone};
use pollux_api::alua::{Contract, SERVICE, SET, STATUS, Set, Status};
use pollux_api::error::{Code, RpcError};
use pollux_api::target::{self, Flip, Flipped, Held, Hold, PoolPaths};
use pollux_platform::signal::Shutdown;
use pollux_runtime::{Client, ControllerConfig, Ctx, Service};
use serde_json::Value;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often the target is looked at: a target that restarts holds its hosts' commands until it is driven again.
const RECONCILE: Duration = Duration::from_millis(250);
/// The same while it does not answer: it is about to be back.
const RECONCILE_SOON: Duration = Duration::from_millis(25);
/// How long one look, and the driving that follows, may take.
const LOOK: Duration = Duration::from_secs(10);

/// The block target of this controller, through the router: embedded or kernel is its own business.
#[derive(Debug, Default)]
struct Routed {
    client: OnceLock<LateClient>,
}

/// The client exists once the service is started, and the service needs the driver first.
struct LateClient(Client);

impl std::fmt::Debug for LateClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Routed {
    fn client(&self) -> Result<&Client, RpcError> {
        let starting =
            || RpcError::new(Code::ServiceGone, SERVICE, "the service is starting").remedy("ask again");
        self.client.get().map(|late| &late.0).ok_or_else(starting)
    }
}

impl Target for Arc<Routed> {
    type Context = Ctx;

    async fn hold(&self, hold: Hold, ctx: &Ctx) -> Result<(), RpcError> {
        self.client()?
            .call_retry::<_, Held>(target::HOLD, &hold, &ctx.child())
            .await
            .map(drop)
    }

    async fn flip(&self, flip: Flip, ctx: &Ctx) -> Result<Flipped, RpcError> {
        self.client()?.call_retry(target::FLIP, &flip, &ctx.child()).await
    }

    async fn report(&self, ctx: &Ctx) -> Result<Vec<PoolPaths>, RpcError> {
        let child = ctx.child();
        let status: target::Status = self.client()?.call(target::STATUS, &Value::Null, &child).await?;
        Ok(status.pools)
    }
}

/// Serves until it is asked to stop.
///
/// # Errors
/// Signals cannot be taken.
pub async fn run(config: ControllerConfig) -> io::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let routed = Arc::new(Routed::default());
    let record = config.paths.run.join("alua.json");
    let driver = Arc::new(Driver::new(config.controller, routed.clone(), record));
    let (setter, reporter, controller) = (driver.clone(), driver.clone(), config.controller);
    let service = Service::of::<Contract>()
        .serve::<SET>(move |ctx: Ctx, set: Set| {
            let driver = setter.clone();
            async move {
                let pool = set.pool;
                // A drain may use most of the caller's time; the flip and the answer need the rest.
                let drain = ctx.remaining().mul_f32(0.7);
                driver.set(set, drain, &ctx).await.map_err(|undone| match undone {
                    Undone::Target(error) => error,
                    Undone::Stale(stale) => RpcError::new(
                        Code::Superseded,
                        format!("{SERVICE}: pool {pool}"),
                        stale.to_string(),
                    )
                    .remedy("read the pool's claim again"),
                    Undone::Record { .. } => RpcError::new(Code::Failed, SERVICE, undone.to_string())
                        .remedy("free space in the controller's run directory"),
                })
            }
        })
        .serve::<STATUS>(move |_ctx: Ctx, (): ()| {
            let driver = reporter.clone();
            async move {
                Ok(Status {
                    controller,
                    pools: driver.report(),
                })
            }
        })
        .start(&config);
    if routed.client.set(LateClient(service.client().clone())).is_err() {
        unreachable!("set once");
    }
    tokio::spawn(reconcile(driver));
    service.run(&shutdown).await;
    Ok(())
}

async fn reconcile(driver: Arc<Driver<Arc<Routed>>>) {
    let mut pause = RECONCILE_SOON;
    loop {
        tokio::time::sleep(pause).await;
        pause = RECONCILE;
        if driver.report().is_empty() {
            continue;
        }
        if let Err(error) = driver.reconcile(&Ctx::new(LOOK)).await {
            tracing::debug!(%error, "the target does not answer");
            pause = RECONCILE_SOON;
        }
    }
}
