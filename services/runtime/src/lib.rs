//! How a service of the array lives: it reads who and where it is, connects to its router, registers, serves calls,
//! makes calls, reports readiness, and leaves in order.
//!
//! ```no_run
//! use pollux_api::error::RpcError;
//! use pollux_platform::signal::Shutdown;
//! use pollux_runtime::{Ctx, Repeat, Service};
//!
//! fn main() -> std::process::ExitCode {
//!     pollux_runtime::daemon::run(1, |config| async move {
//!         let service = Service::builder("echo", 70)
//!             .method("echo.back", Repeat::Idempotent, |_ctx: Ctx, text: String| async move {
//!                 Ok::<_, RpcError>(text)
//!             })
//!             .start(&config);
//!         service.run(&Shutdown::on_signals()?).await;
//!         Ok::<_, std::io::Error>(())
//!     })
//! }
//! ```
//!
//! What it must never do: wait for the router where a caller did not ask to wait; lose an answer silently; run a
//! change twice under one action_id.

#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod ctx;
pub mod daemon;
pub mod lines;
mod memory;
pub mod service;
pub mod typed;
pub mod wire;
pub mod work;

pub use client::{Client, Subscription, Update};
pub use config::{ControllerConfig, Profile};
pub use ctx::Ctx;
pub use service::{Repeat, Service};
pub use typed::At;
