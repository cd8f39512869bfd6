//! `pollux switchover|giveback|takeover|abort`: asking heartbeat to move pools.
//!
//! A planned move is asked of the owner, a takeover of the taker. What would happen is shown first, and asked about,
//! unless `--yes`.

use crate::array::{Array, BOTH, CHANGE, QUESTION};
use crate::cli::Care;
use crate::error::Error;
use crate::news::News;
use crate::print::{Style, wrap};
use crate::resources::Shown;
use crate::status::snapshot;
use crate::timeline;
use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::heartbeat::{
    ABORT, Accepted, GIVEBACK, Giveback, Incident, OPEN_ALONE, OpenAlone, STATUS, SWITCHOVER, Status,
    Switchover, TAKEOVER, TIMELINE, Takeover, TimelineQuery,
};
use pollux_api::id::{ControllerId, Epoch, PoolId};
use pollux_runtime::Ctx;
use serde::Serialize;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// A move that is asked for.
#[derive(Clone, Debug)]
pub enum Move {
    /// A pool to the partner of its owner.
    Switchover(String),
    /// Pools to their homes.
    Giveback(Option<String>),
    /// What the partner owns; against a record that names the partner alone, if its epoch is given.
    Takeover(Option<u64>),
    /// The configuration is to be changed by a lone controller.
    OpenAlone,
    /// Not to move after all.
    Abort(String),
}

/// The identity of a pool by its name or identity, from the configuration or, without it, from heartbeat.
async fn pool_id(array: &Array, which: &str) -> Result<PoolId, Error> {
    if let Ok(id) = which.parse() {
        return Ok(id);
    }
    let configured = snapshot(array).await;
    if let Ok(snapshot) = &configured
        && let Some(pool) = snapshot.tables.pools.values().find(|pool| pool.name == which)
    {
        return Ok(pool.id);
    }
    for at in BOTH {
        let Ok(status) = array.look::<Status>(at, STATUS).await else {
            continue;
        };
        if let Some(pool) = status
            .pools
            .iter()
            .find(|pool| pool.name.as_deref() == Some(which))
        {
            return Ok(pool.pool);
        }
    }
    Err(Error::failed(
        format!("there is no pool `{which}`"),
        "`pollux pool list` shows all",
    ))
}

/// Who owns a pool, as far as anybody can say.
async fn owner(array: &Array, pool: PoolId) -> Option<ControllerId> {
    for at in [array.here, array.here.partner()] {
        let Ok(status) = array.look::<Status>(at, STATUS).await else {
            continue;
        };
        let owner = status
            .pools
            .iter()
            .find(|known| known.pool == pool)
            .and_then(|known| known.owner);
        if owner.is_some() {
            return owner;
        }
    }
    None
}

/// A controller that owns a pool which belongs elsewhere.
async fn away(array: &Array) -> Option<ControllerId> {
    let status = array.look::<Status>(array.here, STATUS).await.ok()?;
    let lost = status
        .pools
        .iter()
        .find(|pool| pool.owner.is_some() && pool.home.is_some() && pool.owner != pool.home);
    lost.and_then(|pool| pool.owner)
}

struct Request {
    at: ControllerId,
    method: &'static str,
    what: Move,
    pool: Option<PoolId>,
}

impl Request {
    async fn ask(&self, array: &Array, dry_run: bool, ctx: &Ctx) -> Result<Accepted, RpcError> {
        async fn ask(
            array: &Array,
            at: ControllerId,
            method: &str,
            request: &impl Serialize,
            ctx: &Ctx,
        ) -> Result<Accepted, RpcError> {
            array.ask(at, method, request, ctx).await
        }
        match (&self.what, self.pool) {
            (Move::Takeover(epoch), _) => {
                let override_epoch = epoch.map(Epoch::new);
                let request = Takeover {
                    override_epoch,
                    dry_run,
                };
                ask(array, self.at, self.method, &request, ctx).await
            }
            (Move::OpenAlone, _) => ask(array, self.at, self.method, &OpenAlone { dry_run }, ctx).await,
            (Move::Giveback(_), pool) => {
                ask(array, self.at, self.method, &Giveback { pool, dry_run }, ctx).await
            }
            (Move::Switchover(_) | Move::Abort(_), Some(pool)) => {
                ask(array, self.at, self.method, &Switchover { pool, dry_run }, ctx).await
            }
            (Move::Switchover(name) | Move::Abort(name), None) => Err(RpcError::new(
                pollux_api::error::Code::NotFound,
                "pollux",
                format!("there is no pool `{name}`"),
            )),
        }
    }
}

/// Asks for a move, shows the plan, asks the operator, and waits for the end.
///
/// # Errors
/// Heartbeat refuses, the operator refuses, or it did not end well.
pub async fn run(
    array: &Array,
    what: Move,
    care: Care,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (method, name) = match &what {
        Move::Switchover(name) => (SWITCHOVER, Some(name.clone())),
        Move::Giveback(name) => (GIVEBACK, name.clone()),
        Move::Takeover(_) => (TAKEOVER, None),
        Move::OpenAlone => (OPEN_ALONE, None),
        Move::Abort(name) => (ABORT, Some(name.clone())),
    };
    let pool = match &name {
        Some(name) => Some(pool_id(array, name).await?),
        None => None,
    };
    let at = match (&what, pool) {
        (Move::Giveback(_), None) => away(array).await.unwrap_or(array.here),
        (_, Some(pool)) => owner(array, pool).await.unwrap_or(array.here),
        (_, None) => array.here,
    };
    let request = Request {
        at,
        method,
        what,
        pool,
    };
    let harmless = matches!(request.what, Move::Abort(_));
    if care.dry_run || !(care.yes || harmless) {
        let plan = request.ask(array, true, &Ctx::new(QUESTION)).await?;
        let text = plan_words(at, &plan);
        if care.dry_run {
            return Ok(Shown {
                text: text + "nothing was done\n",
                json: json!({ "dry_run": true, "plan": plan.plan }),
            });
        }
        confirm(&text)?;
    }
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let accepted = request.ask(array, false, &ctx).await?;
    let mut text = format!("accepted by controller {at}, action {}\n", accepted.action_id);
    let incident = if care.wait == 0 || harmless {
        None
    } else {
        wait(array, &accepted, care.wait).await
    };
    let json = json!({ "accepted": accepted, "at": at, "incident": incident });
    match incident {
        None => text += &format!("  pollux timeline {}\n", accepted.action_id),
        Some(incident) => {
            let outcome = incident.outcome.clone();
            let report = timeline::Report {
                incidents: vec![incident],
                unknown: std::collections::BTreeMap::new(),
            };
            text += &timeline::render(&report, snapshot(array).await.ok().as_ref(), style);
            if outcome != "done" && outcome != "running" {
                return Err(Error::failed(
                    format!("{}it ended as: {outcome}", text),
                    format!("`pollux why`, `pollux trace {}`", accepted.action_id),
                ));
            }
        }
    }
    Ok(Shown { text, json })
}

pub(crate) fn plan_words(at: ControllerId, accepted: &Accepted) -> String {
    let mut text = format!("controller {at} would:\n");
    for line in &accepted.plan {
        text += &wrap(&format!("- {line}"), 2);
    }
    if accepted.plan.is_empty() {
        text += "  do nothing\n";
    }
    text
}

/// Asks the operator.
pub(crate) fn confirm(plan: &str) -> Result<(), Error> {
    let refused = || {
        Error::usage(
            "not confirmed; nothing was done",
            "--yes does it without asking, --dry-run only shows it",
        )
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let mut out = std::io::stderr();
    // If nobody can read the question, nobody can answer it.
    let asked = write!(out, "{plan}go on? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(refused())
    }
}

/// It is the half of a move in which a pool was given.
fn is_given(incident: &Incident) -> bool {
    let has = |name: &str| incident.phases.iter().any(|phase| phase.name == name);
    has("release") && !has("import")
}

/// Waits until the incident of an accepted move has ended, for its taker too; what is known of it then.
async fn wait(array: &Array, accepted: &Accepted, seconds: u64) -> Option<Incident> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let query = TimelineQuery {
        action_id: Some(accepted.action_id.clone()),
        limit: 1,
    };
    let mut last = None;
    let mut news = News::of(array).await;
    loop {
        for at in BOTH {
            let told = array
                .ask::<_, Vec<Incident>>(at, TIMELINE, &query, &Ctx::new(QUESTION))
                .await;
            let Some(incident) = told.ok().and_then(|told| told.into_iter().next()) else {
                continue;
            };
            // Who gives is done before who takes: that half has the same action, there.
            let given = incident.outcome == "done" && is_given(&incident);
            let half = TimelineQuery {
                action_id: Some(incident.action_id.clone()),
                limit: 1,
            };
            let taken = match given {
                true => array
                    .ask::<_, Vec<Incident>>(at.partner(), TIMELINE, &half, &Ctx::new(QUESTION))
                    .await
                    .ok()
                    .and_then(|told| told.into_iter().next()),
                false => Some(incident.clone()),
            };
            match taken {
                Some(taken) if taken.outcome != "running" => return Some(taken),
                Some(taken) => last = Some(taken),
                // Not begun there: it is not where it was to go.
                None => {
                    last = Some(Incident {
                        outcome: "running".to_owned(),
                        ..incident
                    });
                }
            }
        }
        if Instant::now() >= end {
            return last;
        }
        news.wait(end).await;
    }
}
