//! A counter in a post office: it hangs out its name, takes what comes, and knocks at other counters.
//!
//! ```text
//! Service::of::<pool::Contract>() .serve::<pool::TAKE>(..) .hear::<..>(..)  .start(&config)  ->  Service
//!                                                                                                |
//!    handlers: one task per call, so that a slow one delays nobody        client(): call, notify, subscribe, publish
//! ```
//!
//! The service holds one connection to the router of its controller, over which calls go both ways. When the router
//! goes away, every call that is pending fails with `router_gone`, and the service connects and registers again, for
//! ever: a router's restart is no event in the life of a service. Handlers that run go on; their answers have no
//! taker, but a change repeated under its action_id gets the answer it had.
//!
//! Invariants: queues are bounded and a full one refuses (`overloaded`) instead of waiting; notifications are handled
//! one after the other in the order in which they came; calls are handled in any order.

use crate::client::{Client, Connection};
use crate::config::ControllerConfig;
use crate::ctx::Ctx;
use crate::memory::{Answer, Memory, Verdict};
use crate::wire;
use pollux_api::contract;
use pollux_api::error::{Code, RpcError};
use pollux_api::rank::Rank;
use pollux_api::router::{Method, Register};
use pollux_platform::notify::Notifier;
use pollux_platform::signal::Shutdown;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::Instrument;

/// Calls that a service handles at the same time; the next is refused with `overloaded`.
const CONCURRENT_CALLS: usize = 512;
/// Notifications that wait to be handled; the next is dropped and counted in the log.
const WAITING_NOTIFICATIONS: usize = 4096;
/// Answers that are kept for repetitions.
const REMEMBERED_ANSWERS: usize = 4096;

type Reply = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Handler = Arc<dyn Fn(Ctx, &str) -> Reply + Send + Sync>;

/// Repeating the call has no further effect, or the runtime has to see to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Doing it twice is the same as doing it once (and reading always is): it is simply done again.
    Idempotent,
    /// Done once per action_id; a repetition gets the first one's answer.
    Once,
}

struct Entry {
    method: Method,
    name: &'static str,
    handler: Handler,
}

/// What a service without a contract offers; see [`Service::builder`].
pub struct Builder {
    name: &'static str,
    rank: Rank,
    version: &'static str,
    entries: Vec<Entry>,
    /// What only the router says, without having been told that it can.
    inside: Vec<Entry>,
}

impl Builder {
    pub(crate) fn new(name: &'static str, rank: Rank) -> Self {
        Self {
            name,
            rank,
            version: env!("CARGO_PKG_VERSION"),
            entries: Vec::new(),
            inside: Vec::new(),
        }
    }

    pub(crate) fn serves(&self, method: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == method)
    }

    /// A notification from the router itself.
    pub(crate) fn inside<Req, F, Fut>(mut self, name: &'static str, handler: F) -> Self
    where
        Req: DeserializeOwned,
        F: Fn(Ctx, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RpcError>> + Send + 'static,
    {
        let method = Method {
            name: name.to_owned(),
            idempotent: true,
            peer: false,
            notification: true,
        };
        let mut made = Self::new(self.name, self.rank).entry(name, method, handler);
        self.inside.append(&mut made.entries);
        self
    }

    pub(crate) fn entry<Req, Resp, F, Fut>(mut self, name: &'static str, method: Method, handler: F) -> Self
    where
        Req: DeserializeOwned,
        Resp: Serialize,
        F: Fn(Ctx, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Resp, RpcError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |ctx, raw| match wire::params::<Req>(name, raw) {
            Ok(request) => {
                let reply = handler(ctx, request);
                Box::pin(async move { reply.await.map(|response| wire::to_json(&response)) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        });
        self.entries.push(Entry {
            method,
            name,
            handler,
        });
        self
    }

    /// A method that services of lower rank, and people, may call.
    #[must_use]
    pub fn method<Req, Resp, F, Fut>(self, name: &'static str, repeat: Repeat, handler: F) -> Self
    where
        Req: DeserializeOwned,
        Resp: Serialize,
        F: Fn(Ctx, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Resp, RpcError>> + Send + 'static,
    {
        let idempotent = repeat == Repeat::Idempotent;
        let method = Method {
            name: name.to_owned(),
            idempotent,
            peer: false,
            notification: false,
        };
        self.entry(name, method, handler)
    }

    /// A method that the same service on the partner may call too.
    #[must_use]
    pub fn peer<Req, Resp, F, Fut>(self, name: &'static str, repeat: Repeat, handler: F) -> Self
    where
        Req: DeserializeOwned,
        Resp: Serialize,
        F: Fn(Ctx, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Resp, RpcError>> + Send + 'static,
    {
        let idempotent = repeat == Repeat::Idempotent;
        let method = Method {
            name: name.to_owned(),
            idempotent,
            peer: true,
            notification: false,
        };
        self.entry(name, method, handler)
    }

    /// A notification that anybody may send. They are handled one after the other, in order.
    #[must_use]
    pub fn on<Req, F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        Req: DeserializeOwned,
        F: Fn(Ctx, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let method = Method {
            name: name.to_owned(),
            idempotent: true,
            peer: false,
            notification: true,
        };
        self.entry(name, method, move |ctx, request: Req| {
            let handled = handler(ctx, request);
            async move {
                handled.await;
                Ok(())
            }
        })
    }

    /// The version that the router and the partner are told; the runtime's own if not said.
    #[must_use]
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Begins to connect, register and serve at the router of the controller, and never gives up. Returns at once;
    /// must be called inside a tokio runtime.
    pub fn start(self, config: &ControllerConfig) -> Service {
        self.start_at(&config.paths.router_socket(), &config.controller.to_string())
    }

    /// The same, at a socket; `controller` is only for messages to people.
    pub fn start_at(self, socket: &Path, controller: &str) -> Service {
        let place = format!("{controller}/{}", self.name);
        let register = Register {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            rank: self.rank,
            methods: self.entries.iter().map(|entry| entry.method.clone()).collect(),
        };
        let (notifications, queue) = mpsc::channel(WAITING_NOTIFICATIONS);
        let dispatch = Arc::new(Dispatch {
            place,
            entries: self
                .entries
                .into_iter()
                .chain(self.inside)
                .map(|entry| (entry.name, entry))
                .collect(),
            memory: Mutex::new(Memory::new(REMEMBERED_ANSWERS)),
            slots: Arc::new(Semaphore::new(CONCURRENT_CALLS)),
            notifications,
        });
        tokio::spawn(handle_notifications(Arc::downgrade(&dispatch), queue));
        let client = Connection::keep(socket.to_owned(), register, Arc::clone(&dispatch));
        Service { client, dispatch }
    }
}

/// A service that is registered, or about to be; clones share it.
#[derive(Clone)]
pub struct Service {
    client: Client,
    dispatch: Arc<Dispatch>,
}

impl Service {
    /// A service that the contract does not know, for tests and others' programs: its name, with which every method
    /// begins, and its rank. A service of the array is [`Service::of`] its contract.
    ///
    /// # Panics
    /// When the name is one of the contract's: a defect of the program that every start shows.
    pub fn builder(name: &'static str, rank: Rank) -> Builder {
        assert!(
            contract::service(name).is_none(),
            "{name} is a service of the contract: Service::of"
        );
        Builder::new(name, rank)
    }

    /// To call, notify, subscribe and publish.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until the router has taken the registration.
    pub async fn registered(&self) {
        self.client.connected().await;
    }

    /// Says `READY=1` to whoever started the process, and keeps its watchdog fed if there is one. For a daemon
    /// that can do its work; usually after [`Service::registered`].
    pub fn ready(&self) {
        match Notifier::from_env() {
            Ok(notifier) => {
                if let Err(error) = notifier.ready() {
                    tracing::warn!(%error, "cannot report readiness");
                }
                tokio::spawn(async move { notifier.feed().await });
            }
            Err(error) => tracing::warn!(%error, "NOTIFY_SOCKET is no address"),
        }
    }

    /// The ordinary life of a daemon after its start: registers, reports readiness, waits until it is asked to stop,
    /// and closes.
    pub async fn run(&self, shutdown: &Shutdown) {
        tokio::select! {
            () = self.registered() => {
                self.ready();
                tracing::info!(service = self.dispatch.place, "ready");
                shutdown.requested().await;
            }
            () = shutdown.requested() => {}
        }
        self.close(Duration::from_secs(5)).await;
    }

    /// Leaves: says so, takes no further calls, and waits at most `patience` for those that run.
    pub async fn close(&self, patience: Duration) {
        if let Err(error) = Notifier::from_env().and_then(|notifier| notifier.stopping()) {
            tracing::debug!(%error, "cannot report the stop");
        }
        self.client.unregister(patience).await;
        let all = u32::try_from(CONCURRENT_CALLS).expect("a small constant");
        if tokio::time::timeout(patience, self.dispatch.slots.acquire_many(all))
            .await
            .is_err()
        {
            let running = CONCURRENT_CALLS - self.dispatch.slots.available_permits();
            tracing::warn!(running, "calls still run at the stop");
        }
        self.client.close().await;
    }
}

/// Everything that a connection needs to hand a message to its handler.
pub(crate) struct Dispatch {
    place: String,
    entries: HashMap<&'static str, Entry>,
    memory: Mutex<Memory<oneshot::Sender<Answer>>>,
    slots: Arc<Semaphore>,
    notifications: mpsc::Sender<(Ctx, &'static str, String)>,
}

impl Dispatch {
    /// A service that offers nothing: a client.
    pub(crate) fn nothing() -> Arc<Self> {
        Arc::new(Self {
            place: "client".into(),
            entries: HashMap::new(),
            memory: Mutex::new(Memory::new(0)),
            slots: Arc::new(Semaphore::new(0)),
            notifications: mpsc::channel(1).0,
        })
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// A request came: runs its handler in a task of its own and hands the answer to `reply`.
    pub(crate) fn request(
        self: &Arc<Self>,
        ctx: Ctx,
        method: &str,
        params: &str,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) {
        let Some(entry) = self
            .entries
            .get(method)
            .filter(|entry| !entry.method.notification)
        else {
            return reply(Err(RpcError::new(
                Code::MethodNotFound,
                &self.place,
                format!("no method {method}"),
            )));
        };
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return reply(Err(RpcError::new(
                Code::Overloaded,
                &self.place,
                format!("{CONCURRENT_CALLS} calls are being handled"),
            )
            .remedy("ask again later under the same action_id")));
        };
        let (name, once) = (entry.name, !entry.method.idempotent);
        if once {
            let (waiter, answer) = oneshot::channel();
            match self.memory().ask(ctx.action, name, params, waiter) {
                Verdict::Do => {}
                Verdict::Answer(answer) => return reply(answer),
                Verdict::Wait => {
                    let place = self.place.clone();
                    tokio::spawn(async move {
                        let gone = || Err(RpcError::new(Code::Internal, place, "the first call was dropped"));
                        reply(answer.await.unwrap_or_else(|_| gone()));
                    });
                    return;
                }
            }
        }
        let span = tracing::info_span!(
            "call",
            method = name,
            action_id = %ctx.action,
            parent = ctx.parent.map(tracing::field::display),
            from = ctx.caller,
        );
        let action = ctx.action;
        let work = (entry.handler)(ctx, params);
        let dispatch = Arc::clone(self);
        tokio::spawn(async move {
            // A panic in a handler is a defect of the service: the caller must hear of it, and so must all who wait.
            let answer = tokio::spawn(work.instrument(span)).await.unwrap_or_else(|error| {
                tracing::error!(method = name, %action, %error, "handler panicked");
                Err(RpcError::new(
                    Code::Internal,
                    &dispatch.place,
                    format!("{name} failed by a defect of the service"),
                )
                .remedy("see the service's log"))
            });
            if once {
                for waiter in dispatch.memory().done(action, name, &answer) {
                    // Whoever waited may have gone.
                    let _ = waiter.send(answer.clone());
                }
            }
            reply(answer);
            drop(slot);
        });
    }

    /// A notification came.
    pub(crate) fn notification(&self, ctx: Ctx, method: &str, params: &str) {
        let Some(entry) = self.entries.get(method) else {
            tracing::debug!(method, "notification without a handler");
            return;
        };
        if self
            .notifications
            .try_send((ctx, entry.name, params.to_owned()))
            .is_err()
        {
            tracing::warn!(method, "notification dropped: too many wait");
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory<oneshot::Sender<Answer>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handle_notifications(
    dispatch: Weak<Dispatch>,
    mut queue: mpsc::Receiver<(Ctx, &'static str, String)>,
) {
    while let Some((ctx, name, params)) = queue.recv().await {
        let Some(dispatch) = dispatch.upgrade() else {
            return;
        };
        let Some(entry) = dispatch.entries.get(name) else {
            continue;
        };
        let span =
            tracing::info_span!("notification", method = name, action_id = %ctx.action, from = ctx.caller);
        let work = (entry.handler)(ctx, &params);
        match tokio::spawn(work.instrument(span)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(method = name, %error, "notification refused"),
            Err(error) => tracing::error!(method = name, %error, "handler panicked"),
        }
    }
}
