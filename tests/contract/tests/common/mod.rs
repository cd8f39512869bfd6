//! A controller's router in this process, on loopback, and what tests say to it.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use pollux_api::id::{ControllerId, DiskIndex};
use pollux_pairing::identity::provision;
use pollux_platform::keys::KeyStore;
use pollux_platform::signal::Shutdown;
use pollux_rpc_router::server::{Error, run};
use pollux_runtime::config::{Fence, Front, Interconnect, Paths, Quorum};
use pollux_runtime::{Client, ControllerConfig, Profile};
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
    let own = dir.join("a");
    let address = |last: u32| {
        format!(
            "127.{}.{}.{last}",
            100 + std::process::id() % 100,
            std::process::id() / 100 % 250
        )
    };
    let (local, partner) = (address(1).parse().unwrap(), address(2).parse().unwrap());
    ControllerConfig {
        controller: ControllerId::A,
        array: keys.array,
        profile: Profile::Ci,
        paths: Paths {
            run: own.join("run"),
            var: own.join("var"),
            log: own.join("log"),
            port: own.join("port"),
            bmc: own.join("bmc.sock"),
            keys: dir.join("keys"),
        },
        interconnect: Interconnect {
            interface: "lo".into(),
            legs: vec!["lo".into()],
            local,
            partner,
            heartbeat_port: 7700,
            router_port: 7710,
            forward_port: 7711,
        },
        front: Front {
            interface: "lo".into(),
            address: local,
            prefix: 32,
            portal_port: 3260,
        },
        quorum: Quorum {
            disks: vec![DiskIndex::new(0)],
        },
        fence: Fence {
            reservations: true,
            power: false,
            watchdog: false,
        },
        management: None,
    }
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
