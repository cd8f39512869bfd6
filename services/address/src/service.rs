//! The calls of service `address`.

use crate::floating::{Access, Floating, OpenError};
use pollux_api::{
    address::{LOWER, LOWER_ALL, Lower, RAISE, Raise, SERVICE, STATUS},
    rank,
};
use pollux_platform::signal::Shutdown;
use pollux_runtime::{ControllerConfig, Ctx, Repeat, Service};
use std::io;

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
    let access = Access::open().map_err(OpenError::from)?;
    let record = config.paths.run.join(RECORD);
    let floating = Floating::open(access, &config.front.interface, config.front.address, &record).await?;
    let shutdown = Shutdown::on_signals()?;
    let (raise, lower, lower_all, status) = (floating.clone(), floating.clone(), floating.clone(), floating);
    let service = Service::builder(SERVICE, rank::ADDRESS)
        .method(
            RAISE,
            Repeat::Idempotent,
            move |_: Ctx, Raise { pool, addresses }| {
                let floating = raise.clone();
                async move { floating.raise(pool, &addresses).await }
            },
        )
        .method(LOWER, Repeat::Idempotent, move |_: Ctx, Lower { pool }| {
            let floating = lower.clone();
            async move { floating.lower(Some(pool)).await }
        })
        .method(LOWER_ALL, Repeat::Idempotent, move |_: Ctx, (): ()| {
            let floating = lower_all.clone();
            async move { floating.lower(None).await }
        })
        .method(STATUS, Repeat::Idempotent, move |_: Ctx, (): ()| {
            let floating = status.clone();
            async move { Ok(floating.status().await) }
        })
        .start(&config);
    service.run(&shutdown).await;
    Ok(())
}
