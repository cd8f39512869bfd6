//! A controller's router in this process, on loopback, and what tests say to it.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use pollux_api::id::ControllerId;
use pollux_pairing::identity::provision;
use pollux_platform::keys::KeyStore;
use pollux_platform::signal::Shutdown;
use pollux_rpc_router::server::{Error, run};
use pollux_runtime::{Client, ControllerConfig};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

pub const BOUND: Duration = Duration::from_secs(30);

/// A router with threads of its own, so that it can die at once.
pub struct Router(Option<Runtime>);

impl Router {
    pub fn start(config: &ControllerConfig) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = config.clone();
        runtime.spawn(async move {
            // The one before may not have let go of its lock yet.
            while let Err(Error::Running(_)) = run(config.clone(), Shutdown::on_signals().unwrap()).await {
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self(Some(runtime))
    }
}

impl Router {
    /// Returns when nothing of it lives any more.
    pub async fn die(mut self) {
        let runtime = self.0.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(BOUND))
            .await
            .unwrap();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn config(dir: &Path) -> ControllerConfig {
    let keys = KeyStore::provision(&dir.join("keys")).unwrap();
    // The partner never comes; its key is only pinned.
    provision([&dir.join("keys"), &dir.join("partner")]).unwrap();
    let (high, low) = (100 + std::process::id() % 100, std::process::id() / 100 % 250);
    let addresses = [1, 2].map(|last| Ipv4Addr::new(127, high as u8, low as u8, last));
    let mut config = ControllerConfig::on_loopback(ControllerId::A, keys.array, &dir.join("a"), addresses);
    config.paths.keys = dir.join("keys");
    config
}

pub async fn client(config: &ControllerConfig) -> Client {
    let end = Instant::now() + BOUND;
    loop {
        match Client::connect(&config.paths.router_socket()).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "no router: {error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}
