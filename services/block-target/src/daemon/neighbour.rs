//! What the targets of both controllers tell each other: their portals, who is connected to them, and what a host of one
//! has reset.
//!
//! Discovery on either port lists both portals. And whoever stands in for a portal whose controller has lost its
//! power must know which connections died with it: the dead cannot be asked, so each tells the other while it lives,
//! after every change.

use crate::{
    backend::BoxFuture,
    scsi::inquiry::port_number,
    target::{Herald, Target},
};
use pollux_api::target::{Hosts, PARTNER_HOSTS, PARTNER_RESET, STATUS, Status, UnitReset};
use pollux_runtime::{Client, Ctx};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long one question to the partner is repeated while it does not get through.
const ASK: Duration = Duration::from_secs(10);
/// How long the partner's hosts may take to end what they have under way at a unit that was reset.
const RESET: Duration = Duration::from_secs(2);
/// Pause before the next.
const AGAIN: Duration = Duration::from_secs(1);

/// What the partner's target has said.
#[derive(Debug, Default)]
pub(super) struct Neighbour(Mutex<Option<Hosts>>);

impl Neighbour {
    /// The last word of the partner.
    pub(super) fn hosts(&self) -> Option<Hosts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A newer one.
    pub(super) fn told(&self, hosts: Hosts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hosts);
    }
}

/// Who is connected to this controller's portal.
fn own(target: &Target, portal: SocketAddr) -> Hosts {
    let mut connections: Vec<String> = target
        .sessions()
        .iter()
        .map(|nexus| nexus.peer.to_string())
        .collect();
    connections.sort_unstable();
    Hosts {
        portal: portal.to_string(),
        connections,
        initiators: target.initiators(),
    }
}

/// The way to the partner's target over the routers.
pub(super) struct Messenger(pub(super) Client);

impl std::fmt::Debug for Messenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Messenger")
    }
}

impl Herald for Messenger {
    fn unit_reset(&self, reset: UnitReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let method = format!("partner/{PARTNER_RESET}");
            let told = self.0.call::<_, ()>(&method, &reset, &Ctx::new(RESET)).await;
            told.map_err(|error| error.to_string())
        })
    }
}

/// Asks the partner once for what it has, as it may have told an earlier daemon only.
pub(super) async fn learn(client: Client, target: Arc<Target>, neighbour: Arc<Neighbour>) {
    let method = format!("partner/{STATUS}");
    loop {
        match client
            .call_retry::<_, Status>(&method, &Value::Null, &Ctx::new(ASK))
            .await
        {
            Ok(status) => {
                target.add_portal(format!("{},{}", status.portal, port_number(status.controller)));
                if neighbour.hosts().is_none() {
                    neighbour.told(Hosts {
                        portal: status.portal,
                        connections: status.sessions.into_iter().map(|session| session.peer).collect(),
                        initiators: Vec::new(),
                    });
                }
                return;
            }
            Err(error) => tracing::debug!(%error, "the partner's portal is not known yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells the partner after every change, until it has heard.
pub(super) async fn tell(client: Client, target: Arc<Target>, portal: SocketAddr) {
    let method = format!("partner/{PARTNER_HOSTS}");
    let mut changes = target.comings();
    loop {
        changes.borrow_and_update();
        let hosts = own(&target, portal);
        let say = async {
            while let Err(error) = client.call_retry::<_, ()>(&method, &hosts, &Ctx::new(ASK)).await {
                tracing::debug!(%error, "the partner does not hear who is connected");
                tokio::time::sleep(AGAIN).await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = say => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
