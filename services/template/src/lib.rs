//! `templated`: a form with the blanks filled in, from which new services are copied.
//!
//! It keeps a phrase. It shows one of everything: a request (`template.status`), an idempotent change (`template.set`),
//! an event (`template.changed`), a subscription (`router.work`), and long work (`template.count`) that is watched and
//! cancelled with `pollux action`. How to make a service of it stands in services/runtime/README.md.
//!
//! Invariant: what was set is published. It must never wait for whoever hears it.

#![forbid(unsafe_code)]

use pollux_api::error::RpcError;
use pollux_api::router::WORK;
use pollux_api::template::{CHANGED, COUNT, Changed, Contract, Count, Phrase, SET, STATUS, Status};
use pollux_platform::signal::Shutdown;
use pollux_runtime::work::Work;
use pollux_runtime::{Client, ControllerConfig, Ctx, Service};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What the service knows.
#[derive(Debug, Default)]
struct State {
    phrase: watch::Sender<String>,
    /// Reports of long work that were heard.
    heard: AtomicU64,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Signals cannot be taken.
pub async fn run(config: ControllerConfig) -> std::io::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    start(&config).run(&shutdown).await;
    Ok(())
}

/// Begins to serve; must be called inside a tokio runtime.
pub fn start(config: &ControllerConfig) -> Service {
    let state = Arc::new(State::default());
    let (shown, changed) = (state.clone(), state.clone());
    let service = Service::of::<Contract>()
        .serve::<STATUS>(move |_ctx, ()| {
            let phrase = shown.phrase.borrow().clone();
            let heard = shown.heard.load(Ordering::Relaxed);
            async move { Ok(Status { phrase, heard }) }
        })
        .serve::<SET>(move |ctx: Ctx, Phrase { phrase }| {
            let changed = changed
                .phrase
                .send_if_modified(|old| std::mem::replace(old, phrase.clone()) != phrase);
            tracing::info!(action_id = %ctx.action, phrase, changed, "set");
            async move { Ok(Changed { changed }) }
        })
        .work::<COUNT>(count)
        .version(env!("CARGO_PKG_VERSION"))
        .start(config);
    tokio::spawn(follow(service.client().clone(), state));
    service
}

/// Long work: it says how far it is, and ends early when it is withdrawn.
async fn count(work: Work, Count { to, pause_ms }: Count) -> Result<(), RpcError> {
    work.phase("count", true);
    for number in 1..=to {
        tokio::select! {
            () = work.withdrawn() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
        work.percent(u8::try_from(u64::from(number) * 100 / u64::from(to)).unwrap_or(100));
    }
    Ok(())
}

/// Publishes what changes here, and hears what others publish.
async fn follow(client: Client, state: Arc<State>) {
    let mut phrase = state.phrase.subscribe();
    let mut work = match client.subscribe(WORK).await {
        Ok(work) => work,
        Err(error) => return tracing::error!(%error, "cannot subscribe"),
    };
    loop {
        tokio::select! {
            Ok(()) = phrase.changed() => {
                let payload = Phrase { phrase: phrase.borrow_and_update().clone() };
                if let Err(error) = client.publish(CHANGED, &payload, &Ctx::new(Duration::from_secs(5))) {
                    tracing::warn!(%error, "not published; subscribers see a gap");
                }
            }
            update = work.next::<pollux_api::action::Action>() => match update {
                Some(_) => drop(state.heard.fetch_add(1, Ordering::Relaxed)),
                None => return,
            },
        }
    }
}
