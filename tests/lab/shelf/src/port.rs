//! A cable: the portal of one port, which can be pulled and plugged.

use pollux_api::id::{ControllerId, Epoch, Generation};
use pollux_api::target::{Access, Backing};
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::server::{self, BindError};
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::target::Target;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Name of a port's target.
pub fn target_name(port: ControllerId) -> String {
    format!("iqn.2026-01.pollux.lab:shelf.{port}")
}

/// Takes the address and listens.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    server::reserve(address)?.listen(address)
}

/// The ways of a disk: both ports alike, everything below.
pub(crate) fn ways(port: ControllerId, target: &Target) -> Arc<Paths> {
    let paths = Paths::new(port);
    let route = Route {
        epoch: Epoch::new(1),
        generation: Generation::new(1),
        backing: Backing::Partner,
        access: [Access::Optimized; 2],
    };
    let first = target.flip(&paths, route);
    debug_assert!(first.is_ok(), "nothing is older than the first route");
    paths
}

/// The portal of one port.
#[derive(Debug)]
pub(crate) struct Portal {
    /// Where it listens whenever it does.
    pub(crate) address: SocketAddr,
    pub(crate) target: Arc<Target>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Portal {
    /// A portal at the address of this listener, which serves nobody yet.
    pub(crate) fn new(port: ControllerId, address: SocketAddr) -> Self {
        let portals = vec![format!("{address},{}", port.index() + 1)];
        let gate = Arc::new(ManualGate::default());
        Portal {
            address,
            target: Target::new(target_name(port), port, portals, gate),
            serving: Mutex::default(),
        }
    }

    /// Serves. True: it did not before.
    pub(crate) async fn plug(&self, listener: Option<TcpListener>) -> Result<bool, BindError> {
        let mut serving = self.serving.lock().await;
        if serving.is_some() {
            return Ok(false);
        }
        let listener = match listener {
            Some(listener) => listener,
            None => listen(self.address)?,
        };
        *serving = Some(tokio::spawn(server::serve(listener, self.target.clone())));
        Ok(true)
    }

    /// Every connection ends, new ones are refused. When this returns nobody is logged in. True: it served before.
    pub(crate) async fn pull(&self) -> bool {
        let mut serving = self.serving.lock().await;
        let Some(task) = serving.take() else {
            return false;
        };
        task.abort();
        // Cancelled, as was asked; the listener is closed now.
        let _ = task.await;
        let mut comings = self.target.comings();
        while !self.target.sessions().is_empty() {
            // The sender lives in the target.
            let _ = comings.changed().await;
        }
        true
    }
}
