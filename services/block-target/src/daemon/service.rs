//! The daemon's life: sockets, router, configuration.

use super::forward::Forwarded;
use super::neighbour::{self, Messenger, Neighbour};
use super::space;
use super::world::{Surroundings, World};
use crate::gate::{LeaseGate, ReplyGate};
use crate::iscsi::server::{self, BindError};
use crate::paths::{HOLD_LIMIT, Route};
use crate::scsi::inquiry::port_number;
use crate::target::Target;
use pollux_api::config::follow::Follower;
use pollux_api::config::{self, Kind, Unseal, Unsealed, Watched};
use pollux_api::error::{Code, RpcError};
use pollux_api::target::{
    Contract, FLIP, Flip, HOLD, Held, Hold, Hosts, PARTNER_HOSTS, PARTNER_RESET, PUBLISH, Publish, SERVICE,
    STATUS, Session, Status, UnitReset,
};
use pollux_block_frame::{AuthKey, Purpose, Server, ServerOptions};
use pollux_platform::keys::{KeyError, KeyStore};
use pollux_platform::signal::Shutdown;
use pollux_runtime::typed::Typed;
use pollux_runtime::{Client, ControllerConfig, Ctx, Service};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// How long a watch waits for news at the config keeper.
const WATCH: Duration = Duration::from_secs(20);
/// Pause after a watch that failed.
const WATCH_AGAIN: Duration = Duration::from_millis(100);
/// Seconds that hosts are given to log out at a stop. Who cannot is told that the connection ends.
const GOODBYE_SECONDS: u16 = 1;
/// How long the keeper may take to open one secret.
const UNSEAL: Duration = Duration::from_secs(5);
/// Pause after one that it did not open.
const UNSEAL_AGAIN: Duration = Duration::from_secs(1);
/// How long the first hosts wait for secrets. Those whose secret is not open then are told to come again.
const UNSEAL_FIRST: Duration = Duration::from_secs(2);
/// How long sessions may take to end at a stop.
const GOODBYE: Duration = Duration::from_millis(1_500);
/// Bound of `target.publish` where the caller has more time.
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The pairing key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key store belongs to another array.
    #[error(
        "the key store at {path} is of array {found}; this controller belongs to {expected}: pair it again"
    )]
    OtherArray {
        /// The store.
        path: String,
        /// Whose key it holds.
        found: String,
        /// Whose it should.
        expected: String,
    },
    /// Signals cannot be taken.
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Name of the target, equal on both controllers.
#[must_use]
fn target_name(config: &ControllerConfig) -> String {
    format!("iqn.2026-01.io.pollux:{}", config.array)
}

/// Serves until it is asked to stop.
///
/// # Errors
/// [`Failed`], before anything is served.
pub async fn run(config: ControllerConfig) -> Result<(), Failed> {
    let shutdown = Shutdown::on_signals()?;
    let keys = KeyStore::load(&config.paths.keys)?;
    if keys.array != config.array {
        return Err(Failed::OtherArray {
            path: config.paths.keys.display().to_string(),
            found: keys.array.to_string(),
            expected: config.array.to_string(),
        });
    }
    let key = AuthKey::new(*keys.key.expose());
    let own = config.controller;
    let portal = config.front.portal();
    let forward = |address| SocketAddr::new(address, config.interconnect.forward_port);
    let (local, partner) = (
        forward(config.interconnect.local),
        forward(config.interconnect.partner),
    );
    // Both ports are taken before anything else happens: a daemon that cannot serve says so at once.
    let portal_socket = server::reserve(portal)?;
    let forward_listener = server::reserve(local)?.listen(local)?;

    let gate: Arc<dyn ReplyGate> = Arc::new(LeaseGate::new(&config.paths.lease()));
    let portals = vec![format!("{portal},{}", port_number(own))];
    let target = Target::new(target_name(&config), own, portals, gate.clone());
    let array = config.array;
    let around = Surroundings {
        array,
        own,
        volumes: config.paths.volumes(),
        local,
        partner,
        key: key.clone(),
    };
    let world = World::new(around, target.clone());

    let handler = Arc::new(Forwarded::new(world.clone(), own, gate));
    let options = ServerOptions::new(Uuid::from_bytes(*array.as_bytes()), Purpose::Forward, Some(key));
    let forwarding = Server::new(handler, options);
    tokio::spawn(async move { forwarding.serve_tcp(forward_listener).await });

    let neighbour = Arc::new(Neighbour::default());
    let service = register(&world, portal, &neighbour).start(&config);
    target.set_herald(Arc::new(Messenger(service.client().clone())));
    let (first, told) = oneshot::channel();
    server::raise_descriptors();
    let (changes, changed) = watch::channel(());
    tokio::spawn(follow(service.client().clone(), world.clone(), first, changes));
    for topic in space::topics() {
        tokio::spawn(space::tell(service.client().clone(), world.clone(), topic));
    }
    tokio::spawn(open_secrets(service.client().clone(), world.clone(), changed));
    tokio::spawn(neighbour::learn(
        service.client().clone(),
        target.clone(),
        neighbour,
    ));
    tokio::spawn(neighbour::tell(service.client().clone(), target.clone(), portal));
    let hosts = target.clone();
    let opening = world.clone();
    let watched = target.clone();
    tokio::spawn(async move { server::leave_nobody_waiting(&watched).await });
    let serving = async move {
        // Hosts that were let in before the volumes are known would find none.
        if told.await.is_err() {
            return std::future::pending().await;
        }
        let opened = tokio::time::timeout(UNSEAL_FIRST, opening.secrets_open());
        let _ = opened.await;
        let listener = portal_socket.listen(portal)?;
        server::serve(listener, hosts).await;
        Ok::<(), Failed>(())
    };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = service.run(&shutdown) => {}
        served = &mut serving => served?,
    }
    if !target.gate().is_open() {
        // Nothing can be said; with this process every connection is reset.
        let sessions = target.sessions().len();
        tracing::info!(sessions, "stopped without a lease");
        return Ok(());
    }
    // Hosts are told, so that they log in again at once instead of when they miss an answer.
    target.end_sessions("the target is stopped", GOODBYE_SECONDS);
    let mut comings = target.comings();
    let emptied = async {
        // The sender lives in the target.
        while !target.sessions().is_empty() && comings.changed().await.is_ok() {}
    };
    if tokio::time::timeout(GOODBYE, emptied).await.is_err() {
        tracing::warn!(
            sessions = target.sessions().len(),
            "sessions still open at the stop"
        );
    }
    Ok(())
}

fn register(world: &Arc<World>, portal: SocketAddr, neighbour: &Arc<Neighbour>) -> Typed<Contract> {
    let (asked, told) = (neighbour.clone(), neighbour.clone());
    let (publish, hold, flip, status) = (world.clone(), world.clone(), world.clone(), world.clone());
    let (reset, hosts_of) = (world.clone(), world.clone());
    Service::of::<Contract>()
        .serve::<PUBLISH>(move |ctx: Ctx, ask: Publish| {
            let world = publish.clone();
            async move {
                // Time for the answer to travel is left.
                let within = ctx.remaining().mul_f32(0.8).min(PUBLISH_WITHIN);
                Ok(world.publish(ask.pool, within).await)
            }
        })
        .serve::<HOLD>(move |_ctx: Ctx, ask: Hold| {
            let world = hold.clone();
            async move {
                let paths = world.paths(ask.pool);
                let within = Duration::from_millis(ask.drain_ms).min(HOLD_LIMIT);
                let drained = paths.hold(within).await;
                let (waiting, in_flight) = paths.load();
                match drained {
                    true => Ok(Held { waiting }),
                    false => {
                        let what = format!(
                            "{in_flight} commands are still in flight after {} ms; new ones are held",
                            within.as_millis()
                        );
                        Err(RpcError::new(
                            Code::DeadlinePassed,
                            format!("{SERVICE}: pool {}", ask.pool),
                            what,
                        )
                        .remedy("flip the pool to where it was to let commands go on, or hold again"))
                    }
                }
            }
        })
        .serve::<FLIP>(move |_ctx: Ctx, ask: Flip| {
            let world = flip.clone();
            async move {
                let route = Route {
                    epoch: ask.epoch,
                    generation: ask.generation,
                    backing: ask.backing,
                    access: [ask.access_a, ask.access_b],
                };
                let flipped = world.flip(ask.pool, route).map_err(|stale| {
                    RpcError::new(
                        Code::Superseded,
                        format!("{SERVICE}: pool {}", ask.pool),
                        stale.to_string(),
                    )
                    .remedy("ask heartbeat for the pool's present claim")
                })?;
                if flipped.changed {
                    tracing::info!(pool = %ask.pool, ?route, ?flipped, "flipped");
                }
                Ok(flipped)
            }
        })
        .serve::<STATUS>(move |_ctx: Ctx, (): ()| {
            let world = status.clone();
            let neighbour = asked.clone();
            async move { Ok(report(&world, portal, &neighbour)) }
        })
        .serve::<PARTNER_HOSTS>(move |_ctx: Ctx, hosts: Hosts| {
            let (neighbour, target) = (told.clone(), hosts_of.target().clone());
            async move {
                target.set_partner_initiators(hosts.initiators.clone());
                neighbour.told(hosts);
                Ok(())
            }
        })
        .serve::<PARTNER_RESET>(move |_ctx: Ctx, unit: UnitReset| {
            let world = reset.clone();
            async move {
                world.target().reset_by_partner(&unit).await;
                Ok(())
            }
        })
}

fn report(world: &World, portal: SocketAddr, neighbour: &Neighbour) -> Status {
    let target = world.target();
    let sessions = target.sessions();
    let session = |nexus: &Arc<crate::target::Nexus>| Session {
        initiator: nexus.initiator.clone(),
        peer: nexus.peer.to_string(),
        in_flight: nexus.in_flight.load(Ordering::Relaxed),
    };
    Status {
        controller: target.controller(),
        portal: portal.to_string(),
        iqn: target.name().to_owned(),
        lease_fresh: target.gate().is_open(),
        sessions: sessions
            .iter()
            .filter(|nexus| !nexus.discovery)
            .map(session)
            .collect(),
        partner: neighbour.hosts(),
        pools: world.report(),
        limits: Some(target.limits()),
        forwarding: Some(world.forwarding()),
    }
}

/// Follows the configuration for ever.
async fn follow(client: Client, world: Arc<World>, first: oneshot::Sender<()>, changes: watch::Sender<()>) {
    let mut first = Some(first);
    let mut follower = Follower::default();
    loop {
        let ask = follower.ask(WATCH.as_millis() as u64);
        let ctx = Ctx::new(WATCH + Duration::from_secs(5));
        match client.call::<_, Watched>(config::WATCH, &ask, &ctx).await {
            Ok(answer) => {
                if !follower.take(answer) {
                    continue;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "configuration not available");
                client.connected().await;
                tokio::time::sleep(WATCH_AGAIN).await;
                continue;
            }
        }
        let Some((tables, _)) = follower.tables() else {
            continue;
        };
        world.apply(tables);
        changes.send_replace(());
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
    }
}

/// Has the keeper open what the configuration has sealed, after every change, for ever. What is open stays open while
/// the keeper is away.
async fn open_secrets(client: Client, world: Arc<World>, mut changed: watch::Receiver<()>) {
    loop {
        changed.borrow_and_update();
        let mut left = false;
        for sealed in world.sealed() {
            let ask = Unseal {
                kind: Kind::Key,
                which: sealed.id.to_string(),
                field: "secret".to_owned(),
            };
            let ctx = Ctx::new(UNSEAL);
            match client.call_retry::<_, Unsealed>(config::UNSEAL, &ask, &ctx).await {
                Ok(opened) => world.opened(sealed, opened.secret),
                Err(error) => {
                    tracing::warn!(key = %sealed.id, %error, "a host's secret cannot be opened: it is not let in");
                    left = true;
                }
            }
        }
        tokio::select! {
            gone = changed.changed() => if gone.is_err() { return },
            () = tokio::time::sleep(UNSEAL_AGAIN), if left => {}
        }
    }
}
