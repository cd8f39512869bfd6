//! A long errand: whoever sent for it gets a ticket and may go; the errand says how far it is, and can be called off.
//!
//! ```text
//! caller --pool.resync--> service     answered at once: Begun { action_id }
//!                            |
//!                 task, with a Work:  phase("copy") .. at(40) .. done / cancelled / failed
//!                            |  router.progress, at each change and every second
//!                         router:  router.actions (list), router.work (watch), router.cancel --router.withdrawn--> task
//! ```
//!
//! Invariants: work that was begun is reported to its end, once; dropping a [`Work`] without an end is a failure that
//! is reported; a router that is away misses reports, not the work.

use crate::client::Client;
use crate::ctx::Ctx;
use crate::service::{Builder, Service};
use crate::typed::Typed;
use pollux_api::action::{ActionId, Begun, Cancel, Progress, Rate, State};
use pollux_api::contract::{Contract, Request};
use pollux_api::error::{Code, RpcError};
use pollux_api::router::{PROGRESS, WITHDRAWN};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::Instrument;

/// Work that goes on is reported at least so often, so that a new router, and who begins to watch, soon know of it.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Work that moves fast is reported once in so long.
const REPORT_NO_MORE_THAN: Duration = Duration::from_millis(50);
/// Time that the end of a piece of work has to reach the router.
const LAST_REPORT: Duration = Duration::from_secs(60);
/// Pieces of work of one service at the same time; the next is refused with `overloaded`.
const PIECES: usize = 256;

/// What long work does with its parameters. `Ok`: done (or ended early because [`Work::is_withdrawn`]).
pub trait Labour<P>: Fn(Work, P) -> Self::End + Send + Sync + 'static {
    /// The work.
    type End: Future<Output = Result<(), RpcError>> + Send + 'static;
}

impl<P, F, Fut> Labour<P> for F
where
    F: Fn(Work, P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), RpcError>> + Send + 'static,
{
    type End = Fut;
}

/// All long work of one service.
#[derive(Clone)]
pub(crate) struct Works {
    inner: Arc<Inner>,
}

struct Inner {
    /// Comes when the service is started.
    client: watch::Sender<Option<Client>>,
    running: Mutex<HashMap<ActionId, watch::Sender<bool>>>,
}

impl Default for Works {
    fn default() -> Self {
        let inner = Inner {
            client: watch::Sender::new(None),
            running: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Works {
    /// Work is reported from now on.
    pub(crate) fn started(&self, service: Service) -> Service {
        self.inner.client.send_replace(Some(service.client().clone()));
        service
    }

    /// The service hears when work is withdrawn; the router needs no registration for that.
    pub(crate) fn listen(&self, builder: Builder) -> Builder {
        let works = self.clone();
        builder.inside(WITHDRAWN, move |_ctx, cancel: Cancel| {
            if let Some(withdrawn) = works.running().get(&cancel.action_id) {
                withdrawn.send_replace(true);
            }
            std::future::ready(Ok(()))
        })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ActionId, watch::Sender<bool>>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a piece of work; the ticket is the action that asked for it.
    fn begin<P>(
        &self,
        method: &'static str,
        ctx: Ctx,
        params: P,
        labour: &impl Labour<P>,
    ) -> Result<Begun, RpcError> {
        let (action_id, cause) = (ctx.action, ctx.parent);
        let withdrawn = {
            let mut running = self.running();
            if running.contains_key(&action_id) {
                return Ok(Begun { action_id });
            }
            if running.len() >= PIECES {
                let what = format!("{PIECES} pieces of work are under way");
                return Err(
                    RpcError::new(Code::Overloaded, method, what).remedy("ask again when one has ended")
                );
            }
            let sender = watch::Sender::new(false);
            let withdrawn = sender.subscribe();
            running.insert(action_id, sender);
            withdrawn
        };
        let progress = watch::Sender::new(Progress {
            action_id,
            method: method.to_owned(),
            started_unix_ms: unix_ms(),
            phase: "begin".to_owned(),
            percent: None,
            rate: None,
            cancellable: false,
            state: State::Running,
        });
        tokio::spawn(self.clone().tell(progress.subscribe()));
        let work = Work {
            ctx: ctx.child(),
            progress: progress.clone(),
            withdrawn,
        };
        let gone = work.withdrawn.clone();
        let span =
            tracing::info_span!("work", method, %action_id, parent = cause.map(tracing::field::display));
        let end = tokio::spawn(labour(work, params).instrument(span));
        let works = self.clone();
        tokio::spawn(async move {
            let state = match end.await {
                Ok(Ok(())) if *gone.borrow() && progress.borrow().percent != Some(100) => State::Cancelled,
                Ok(Ok(())) => State::Done,
                Ok(Err(error)) => State::Failed(error),
                Err(panic) => {
                    tracing::error!(method, %action_id, error = %panic, "work panicked");
                    let what = format!("{method} failed by a defect of the service");
                    State::Failed(RpcError::new(Code::Internal, method, what).remedy("see the service's log"))
                }
            };
            progress.send_modify(|progress| {
                progress.cancellable = false;
                progress.state = state;
            });
            works.running().remove(&action_id);
        });
        Ok(Begun { action_id })
    }

    /// Tells the router of one piece of work until its end has been told.
    async fn tell(self, mut progress: watch::Receiver<Progress>) {
        let mut client = self.inner.client.subscribe();
        let Ok(client) = client
            .wait_for(Option::is_some)
            .await
            .map(|client| client.clone())
        else {
            return;
        };
        let Some(client) = client else { return };
        let mut end = None;
        loop {
            let now = progress.borrow_and_update().clone();
            let over = now.state.is_over();
            let ctx = Ctx::of(now.action_id, REPORT_EVERY);
            let told = client.notify(PROGRESS, &now, &ctx);
            let patience = *end.get_or_insert_with(|| Instant::now() + LAST_REPORT);
            match (over, told) {
                (true, Ok(())) => return,
                (true, Err(error)) if Instant::now() >= patience => {
                    tracing::warn!(action_id = %now.action_id, %error, "the end of the work was not reported");
                    return;
                }
                (true, Err(_)) => sleep(REPORT_EVERY / 4).await,
                (false, _) => {
                    end = None;
                    let begin = Instant::now();
                    // The sender lives as long as the work; its last change is its end.
                    let _ = timeout_at(begin + REPORT_EVERY, progress.changed()).await;
                    if !progress.borrow().state.is_over() {
                        sleep_until(begin + REPORT_NO_MORE_THAN).await;
                    }
                }
            }
        }
    }
}

/// One piece of work, in the hands of whoever does it.
#[derive(Debug)]
pub struct Work {
    ctx: Ctx,
    progress: watch::Sender<Progress>,
    withdrawn: watch::Receiver<bool>,
}

impl Work {
    /// For calls made in the course of the work: its cause is the action that asked for it. The work outlives its
    /// caller, so each call says its own time ([`Ctx::extended`]).
    pub fn ctx(&self) -> Ctx {
        self.ctx.clone()
    }

    /// A new phase; `cancellable`: the work can end in it without harm.
    pub fn phase(&self, phase: &str, cancellable: bool) {
        self.progress.send_modify(|progress| {
            progress.phase = phase.to_owned();
            progress.cancellable = cancellable;
        });
    }

    /// So much of the whole is done, 0..=100.
    pub fn percent(&self, percent: u8) {
        self.progress.send_if_modified(|progress| {
            let new = Some(percent.min(100));
            std::mem::replace(&mut progress.percent, new) != new
        });
    }

    /// How fast it goes.
    pub fn rate(&self, per_second: u64, unit: &str) {
        self.progress.send_modify(|progress| {
            progress.rate = Some(Rate {
                per_second,
                unit: unit.to_owned(),
            });
        });
    }

    /// Whoever asked for the work wants it no more: end where that is safe.
    pub fn is_withdrawn(&self) -> bool {
        *self.withdrawn.borrow()
    }

    /// Waits until the work is withdrawn.
    pub async fn withdrawn(&self) {
        if self
            .withdrawn
            .clone()
            .wait_for(|withdrawn| *withdrawn)
            .await
            .is_err()
        {
            // The service has ended the work otherwise; nobody withdraws it any more.
            std::future::pending::<()>().await;
        }
    }
}

impl<C: Contract> Typed<C> {
    /// Answers a request at once with its action, and does the work in a task that outlives the caller. A repetition
    /// under the same action begins nothing.
    #[must_use]
    pub fn work<M>(self, labour: impl Labour<M::Params>) -> Self
    where
        M: Request<Service = C, Result = Begun>,
        M::Params: DeserializeOwned + Send + 'static,
    {
        let works = self.works.clone();
        let name = M::DECLARATION.name;
        self.serve::<M>(move |ctx: Ctx, params| std::future::ready(works.begin(name, ctx, params, &labour)))
    }
}

#[expect(clippy::disallowed_methods, reason = "a stamp for people, no decision")]
fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
