//! Two controllers' routers as processes, and what tests say to them.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use pollux_api::error::RpcError;
use pollux_api::id::{ArrayId, ControllerId};
use pollux_api::router::{STATUS, Status};
use pollux_pairing::identity::provision;
use pollux_runtime::config::{FILE, Management};
use pollux_runtime::{Client, ControllerConfig, Ctx, Repeat, Service};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

pub const BOUND: Duration = Duration::from_secs(20);

/// A process that does not outlive its owner.
pub struct Process(pub Child);

impl Process {
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either may have happened already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two controllers on loopback addresses of their own.
pub struct Pair {
    pub dir: tempfile::TempDir,
    pub routers: [Option<Process>; 2],
}

impl Pair {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = std::process::id().wrapping_mul(31) + NEXT.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (1 + (n >> 8) % 250, n % 250);
        let addresses = [1, 2].map(|last| Ipv4Addr::new(127, high as u8, low as u8, last));
        let dir = tempfile::tempdir().unwrap();
        let stores = ["a", "b"].map(|own| dir.path().join(own).join("keys"));
        provision([&stores[0], &stores[1]]).unwrap();
        let array = ArrayId::from_bytes([7; 16]);
        for controller in [ControllerId::A, ControllerId::B] {
            let own = dir.path().join(controller.as_str());
            std::fs::create_dir_all(&own).unwrap();
            let config = ControllerConfig::on_loopback(controller, array, &own, addresses);
            std::fs::write(own.join(FILE), config.render()).unwrap();
        }
        Self {
            dir,
            routers: [None, None],
        }
    }

    pub fn file(&self, controller: ControllerId) -> PathBuf {
        self.dir.path().join(controller.as_str()).join(FILE)
    }

    pub fn config(&self, controller: ControllerId) -> ControllerConfig {
        ControllerConfig::load(&self.file(controller)).unwrap()
    }

    /// Changes the file of a controller that has still to start.
    pub fn configure(&self, controller: ControllerId, change: impl FnOnce(&mut ControllerConfig)) {
        let mut config = self.config(controller);
        change(&mut config);
        std::fs::write(self.file(controller), config.render()).unwrap();
    }

    /// Gives it a management address: the address of its end of the interconnect, and a port of its own.
    pub fn manage(&self, controller: ControllerId) {
        self.configure(controller, |config| {
            config.management = Some(Management {
                address: config.interconnect.local,
                port: 7443,
                certificate: None,
                key: None,
            });
        });
    }

    pub fn start(&mut self, controller: ControllerId) {
        let child = Command::new(env!("CARGO_BIN_EXE_rpc-routerd"))
            .arg("--config")
            .arg(self.file(controller))
            .env("POLLUX_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.routers[controller.index()] = Some(Process(child));
    }

    pub fn kill(&mut self, controller: ControllerId) {
        self.routers[controller.index()].take().unwrap().kill();
    }

    pub async fn client(&self, controller: ControllerId) -> Client {
        let socket = self.config(controller).paths.router_socket();
        let end = Instant::now() + BOUND;
        loop {
            match Client::connect(&socket).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < end, "no router at {}: {error}", socket.display()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Both routers, linked.
    pub async fn started() -> Self {
        let mut pair = Self::new();
        pair.start(ControllerId::A);
        pair.start(ControllerId::B);
        for controller in [ControllerId::A, ControllerId::B] {
            pair.client(controller)
                .await
                .until(STATUS, |status: &Status| status.link.up)
                .await;
        }
        pair
    }
}

pub trait Until {
    async fn until<T: serde::de::DeserializeOwned>(&self, method: &str, good: impl Fn(&T) -> bool) -> T;
}

impl Until for Client {
    /// Asks until the answer is good.
    async fn until<T: serde::de::DeserializeOwned>(&self, method: &str, good: impl Fn(&T) -> bool) -> T {
        let end = Instant::now() + BOUND;
        loop {
            let answer = self.call::<_, T>(method, &(), &Ctx::new(BOUND)).await;
            if let Ok(answer) = answer
                && good(&answer)
            {
                return answer;
            }
            assert!(
                Instant::now() < end,
                "{method} did not become what it should be within {BOUND:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A service of rank 70 that answers with what it was given.
pub fn echo(config: &ControllerConfig) -> Service {
    Service::builder("echo", 70)
        .method(
            "echo.back",
            Repeat::Idempotent,
            |_: Ctx, text: String| async move { Ok::<_, RpcError>(text) },
        )
        .method("echo.slow", Repeat::Idempotent, |_: Ctx, ms: u64| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok::<_, RpcError>(ms)
        })
        .start(config)
}

pub async fn call(client: &Client, method: &str, text: &str) -> Result<String, RpcError> {
    client.call(method, text, &Ctx::new(BOUND)).await
}

/// Says something on the socket as a person would, and reads until the router has nothing more to say.
pub async fn say(socket: &Path, text: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(BOUND, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}
