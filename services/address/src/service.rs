//! The calls of service `address`.

use crate::{
    floating::{Access, Floating, OpenError},
    plan::Owner,
};
use pollux_api::{
    address::{Contract, LOWER, LOWER_ALL, Lower, RAISE, Raise, STAND_IN, STATUS, STEP_BACK, StandIn},
    error::{Code, RpcError},
};
use pollux_platform::signal::Shutdown;
use pollux_runtime::{ControllerConfig, Ctx, Service};
use std::{io, net::SocketAddr};

/// Name of the record in the controller's `run`.
const RECORD: &str = "addresses.json";

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The addresses that are there could not be taken over.
    #[error("cannot take over the floating addresses: {0}")]
    Open(#[from] OpenError),
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(#[from] io::Error),
}

/// Runs until SIGTERM or SIGINT. Addresses stay as they are at its end.
pub async fn run(config: ControllerConfig) -> Result<(), RunError> {
    let access = Access::open(&config.paths.lease()).map_err(OpenError::from)?;
    let record = config.paths.run.join(RECORD);
    let floating = Floating::open(access, &config.front.interface, config.front.address, &record).await?;
    let shutdown = Shutdown::on_signals()?;
    let (raise, lower, lower_all, status) = (
        floating.clone(),
        floating.clone(),
        floating.clone(),
        floating.clone(),
    );
    let (stand_in, step_back) = (floating.clone(), floating);
    let service = Service::of::<Contract>()
        .serve::<RAISE>(move |_: Ctx, Raise { pool, addresses }| {
            let floating = raise.clone();
            async move { floating.raise(pool, &addresses).await }
        })
        .serve::<LOWER>(move |_: Ctx, Lower { pool }| {
            let floating = lower.clone();
            async move { floating.lower(Some(Owner::Pool(pool))).await }
        })
        .serve::<LOWER_ALL>(move |_: Ctx, (): ()| {
            let floating = lower_all.clone();
            async move { floating.lower(None).await }
        })
        .serve::<STAND_IN>(move |_: Ctx, ask: StandIn| {
            let floating = stand_in.clone();
            async move {
                let (portal, hosts) = parse(&ask)?;
                floating.stand_in(portal, &hosts).await
            }
        })
        .serve::<STEP_BACK>(move |_: Ctx, (): ()| {
            let floating = step_back.clone();
            async move { floating.lower(Some(Owner::Partner)).await }
        })
        .serve::<STATUS>(move |_: Ctx, (): ()| {
            let floating = status.clone();
            async move { Ok(floating.status().await) }
        })
        .start(&config);
    service.run(&shutdown).await;
    Ok(())
}

/// The addresses of a request, or all that is wrong with them.
fn parse(ask: &StandIn) -> Result<(SocketAddr, Vec<SocketAddr>), RpcError> {
    let mut error = RpcError::new(Code::InvalidParams, STAND_IN, "addresses that are none");
    let mut read = |path: String, text: &str| {
        let parsed = text.parse::<SocketAddr>();
        parsed.map_err(|why| {
            error = error
                .clone()
                .problem(path, format!("{text:?}: {why}"), "address:port".to_owned());
        })
    };
    let portal = read("portal".into(), &ask.portal);
    let hosts: Vec<Result<SocketAddr, ()>> = ask
        .connections
        .iter()
        .enumerate()
        .map(|(index, text)| read(format!("connections[{index}]"), text))
        .collect();
    let hosts: Result<Vec<SocketAddr>, ()> = hosts.into_iter().collect();
    match (portal, hosts) {
        (Ok(portal), Ok(hosts)) => Ok((portal, hosts)),
        _ => Err(error),
    }
}
