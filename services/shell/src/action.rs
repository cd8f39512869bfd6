//! `pollux action`: long work on both controllers: what goes on, how far it is, and how it is called off.

use crate::array::{Array, QUESTION};
use crate::cli::Work;
use crate::error::Error;
use crate::print::{now_unix_ms, span_ms, table};
use crate::resources::Shown;
use pollux_api::action::{Action, ActionId, ActionQuery, Cancel, State};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::{ACTIONS, CANCEL, Missing, WORK};
use pollux_runtime::{Ctx, Update};
use serde::Serialize;
use std::io::Write;

/// Work of both controllers, and of whom it is not known.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Oldest first.
    pub actions: Vec<Action>,
    /// Controllers that could not be asked.
    pub missing: Vec<Missing>,
}

/// Carries a command out.
///
/// # Errors
/// It is refused, nobody knows the action, or the work that was watched failed.
pub async fn run(array: &Array, command: Work) -> Result<Shown, Error> {
    match command {
        Work::List { all } => {
            let report = gather(
                array,
                ActionQuery {
                    action_id: None,
                    ended: all,
                },
            )
            .await;
            Ok(Shown::new(render(&report, now_unix_ms()), &report))
        }
        Work::Watch { id } => watch(array, id).await,
        Work::Cancel { id } => {
            let action = find(array, id).await?;
            let answer: Action = array
                .ask(
                    action.controller,
                    CANCEL,
                    &Cancel { action_id: id },
                    &Ctx::new(QUESTION),
                )
                .await?;
            let text = format!(
                "{} was told; how it ends: pollux action watch {id}\n",
                answer.service
            );
            Ok(Shown::new(text, &answer))
        }
    }
}

async fn gather(array: &Array, query: ActionQuery) -> Report {
    let mut report = Report {
        actions: Vec::new(),
        missing: Vec::new(),
    };
    for controller in ControllerId::ALL {
        let answer: Result<Vec<Action>, RpcError> =
            array.ask(controller, ACTIONS, &query, &Ctx::new(QUESTION)).await;
        match answer {
            Ok(actions) => report.actions.extend(actions),
            Err(error) => report.missing.push(Missing {
                controller,
                why: error.to_string(),
            }),
        }
    }
    report
        .actions
        .sort_by_key(|action| action.progress.started_unix_ms);
    report
}

async fn find(array: &Array, id: ActionId) -> Result<Action, Error> {
    let report = gather(
        array,
        ActionQuery {
            action_id: Some(id),
            ended: true,
        },
    )
    .await;
    report.actions.into_iter().next().ok_or_else(|| {
        let unknown: Vec<String> = report
            .missing
            .iter()
            .map(|missing| format!("{}: {}", missing.controller, missing.why))
            .collect();
        let remedy = match unknown.is_empty() {
            true => "`pollux action list --all`; old ones are forgotten".to_owned(),
            false => format!("not everybody could be asked: {}", unknown.join("; ")),
        };
        Error::failed(format!("no long work under action {id} is known"), remedy)
    })
}

/// Shows each news on standard error until the work has ended.
async fn watch(array: &Array, id: ActionId) -> Result<Shown, Error> {
    let controller = find(array, id).await?.controller;
    let (client, topic) = array.topic(controller, WORK);
    let mut news = client.subscribe(&topic).await?;
    // What came between the question and the subscription.
    let mut action = find(array, id).await?;
    let mut shown = String::new();
    loop {
        let line = words(&action);
        if line != shown {
            let _ = writeln!(std::io::stderr(), "{line}");
            shown = line;
        }
        match &action.progress.state {
            State::Running | State::Cancelling => {}
            State::Failed(error) => return Err(error.clone().into()),
            State::Done | State::Cancelled => return Ok(Shown::new(format!("{shown}\n"), &action)),
        }
        match news.next::<Action>().await {
            Some(Ok(Update::Event { payload, .. })) if payload.progress.action_id == id => action = payload,
            Some(Ok(Update::Event { .. })) => {}
            // Something was missed: ask for the whole.
            Some(Ok(Update::Gap) | Err(_)) => action = find(array, id).await?,
            None => {
                return Err(RpcError::new(
                    Code::RouterGone,
                    "pollux",
                    "the router went away; the work goes on",
                )
                .remedy("watch it again")
                .into());
            }
        }
    }
}

/// The work in a table.
pub fn render(report: &Report, now_unix_ms: u64) -> String {
    let row = |action: &Action| {
        let progress = &action.progress;
        vec![
            progress.action_id.to_string(),
            format!("{}/{}", action.controller, progress.method),
            span_ms(now_unix_ms.saturating_sub(progress.started_unix_ms)),
            how(action),
        ]
    };
    let mut text = match report.actions.is_empty() {
        true => "no long work\n".to_owned(),
        false => table(
            &["ACTION", "WORK", "SINCE", "STATE"],
            &report.actions.iter().map(row).collect::<Vec<_>>(),
        ),
    };
    for missing in &report.missing {
        text += &format!(
            "controller {} does not tell: {}\n",
            missing.controller, missing.why
        );
    }
    text
}

fn words(action: &Action) -> String {
    format!(
        "{}/{}: {}",
        action.controller,
        action.progress.method,
        how(action)
    )
}

fn how(action: &Action) -> String {
    let progress = &action.progress;
    let percent = progress
        .percent
        .map_or(String::new(), |percent| format!(" {percent} %"));
    let rate = progress.rate.as_ref().map_or(String::new(), |rate| {
        format!(", {} {}/s", rate.per_second, rate.unit)
    });
    match &progress.state {
        State::Running => format!("{}{percent}{rate}", progress.phase),
        State::Cancelling => format!("{}{percent}, to be cancelled", progress.phase),
        State::Done => "done".to_owned(),
        State::Cancelled => format!("cancelled in {}{percent}", progress.phase),
        State::Failed(error) => error.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::action::{Progress, Rate};

    fn action(state: State) -> Action {
        Action {
            controller: ControllerId::B,
            service: "pool".into(),
            heard_unix_ms: 5,
            progress: Progress {
                action_id: ActionId::from_bytes([1; 16]),
                method: "pool.resync".into(),
                started_unix_ms: 1000,
                phase: "copy".into(),
                percent: Some(40),
                rate: Some(Rate {
                    per_second: 7,
                    unit: "bytes".into(),
                }),
                cancellable: true,
                state,
            },
        }
    }

    #[test]
    fn work_is_shown_with_how_far_it_is_and_who_does_not_tell() {
        let missing = Missing {
            controller: ControllerId::A,
            why: "off".into(),
        };
        let report = Report {
            actions: vec![action(State::Running)],
            missing: vec![missing],
        };
        let text = render(&report, 3000);
        assert!(
            text.contains("b/pool.resync") && text.contains("copy 40 %, 7 bytes/s"),
            "{text}"
        );
        assert!(text.contains("controller a does not tell: off"), "{text}");
        let none = Report {
            actions: vec![],
            missing: vec![],
        };
        assert_eq!(render(&none, 0), "no long work\n");
    }

    #[test]
    fn ends_are_told_apart() {
        let error = RpcError::new(Code::ServiceGone, "b/pool", "x");
        let ends = [
            State::Done,
            State::Cancelled,
            State::Failed(error),
            State::Cancelling,
        ];
        let told: Vec<String> = ends.into_iter().map(|state| how(&action(state))).collect();
        assert_eq!(
            told,
            [
                "done",
                "cancelled in copy 40 %",
                "service_gone",
                "copy 40 %, to be cancelled"
            ]
        );
    }
}
