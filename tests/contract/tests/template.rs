//! The template lives as a service does, and its long work as long work does: with a real router, on loopback.

mod common;

use common::{BOUND, Router, client, config};
use pollux_api::action::{Action, ActionQuery, Begun, Cancel, State};
use pollux_api::error::Code;
use pollux_api::id::ControllerId;
use pollux_api::router::{ACTIONS, CANCEL, WORK};
use pollux_api::template::{CHANGED, COUNT, Count, Phrase, SET, STATUS, Status};
use pollux_runtime::{At, Client, Ctx, Update};
use pollux_shell::action;
use pollux_shell::array::Place;
use pollux_shell::cli::Work;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Asks until the list of actions is good.
async fn actions_until(client: &Client, ended: bool, good: impl Fn(&[Action]) -> bool) -> Vec<Action> {
    let end = Instant::now() + BOUND;
    let query = ActionQuery {
        action_id: None,
        ended,
    };
    loop {
        let actions: Vec<Action> = client.call(ACTIONS, &query, &Ctx::new(BOUND)).await.unwrap();
        if good(&actions) {
            return actions;
        }
        assert!(Instant::now() < end, "{actions:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn cancel(client: &Client, begun: Begun) -> Result<Action, pollux_api::error::RpcError> {
    client
        .call(
            CANCEL,
            &Cancel {
                action_id: begun.action_id,
            },
            &Ctx::new(BOUND),
        )
        .await
}

const LONG: Count = Count {
    to: 1_000_000,
    pause_ms: 100,
};

#[tokio::test]
async fn a_change_is_idempotent_and_published() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let _router = Router::start(&config);
    let service = pollux_template::start(&config);
    timeout(BOUND, service.registered()).await.unwrap();
    let client = client(&config).await;
    let mut changes = client.subscribe(CHANGED).await.unwrap();
    let hello = Phrase {
        phrase: "hello".into(),
    };
    for changed in [true, false] {
        let answer = client
            .ask::<SET>(At::Here, &hello, &Ctx::new(BOUND))
            .await
            .unwrap();
        assert_eq!(answer.changed, changed);
    }
    let status = client
        .ask::<STATUS>(At::Here, &(), &Ctx::new(BOUND))
        .await
        .unwrap();
    assert_eq!(status.phrase, "hello");
    let heard = timeout(BOUND, changes.next::<Phrase>())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        heard,
        Update::Event {
            controller: ControllerId::A,
            payload: hello
        }
    );
    // The router knows the contract.
    let document: serde_json::Value = client.call("rpc.discover", &(), &Ctx::new(BOUND)).await.unwrap();
    let methods = document["methods"].as_array().unwrap();
    let marked: Vec<&str> = methods
        .iter()
        .filter(|method| method["x-registered"] == true)
        .filter_map(|method| method["name"].as_str())
        .filter(|name| !name.starts_with("router.") && !name.starts_with("rpc."))
        .collect();
    assert_eq!(marked, ["template.status", "template.set", "template.count"]);
}

#[tokio::test]
async fn long_work_survives_its_caller_and_is_watched_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let _router = Router::start(&config);
    let service = pollux_template::start(&config);
    timeout(BOUND, service.registered()).await.unwrap();
    let watcher = client(&config).await;
    let mut news = watcher.subscribe(WORK).await.unwrap();
    let ctx = Ctx::new(BOUND);
    {
        let caller = client(&config).await;
        let count = Count { to: 20, pause_ms: 20 };
        for _ in 0..2 {
            // A repetition begins nothing.
            let begun = caller.ask::<COUNT>(At::Here, &count, &ctx).await.unwrap();
            assert_eq!(begun.action_id, ctx.action);
        }
        caller.close().await;
    }
    let mut percents = Vec::new();
    loop {
        let update = timeout(BOUND, news.next::<Action>())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let Update::Event { payload: action, .. } = update else {
            panic!("news were lost")
        };
        assert_eq!(
            (action.progress.action_id, action.service.as_str()),
            (ctx.action, "template")
        );
        percents.extend(action.progress.percent);
        if action.progress.state.is_over() {
            assert_eq!(action.progress.state, State::Done);
            break;
        }
    }
    assert!(
        percents.is_sorted() && percents.len() > 2 && percents.last() == Some(&100),
        "{percents:?}"
    );
    assert_eq!(actions_until(&watcher, false, <[Action]>::is_empty).await, []);
    let ended = actions_until(&watcher, true, |actions| actions.len() == 1).await;
    assert_eq!(ended[0].progress.state, State::Done);
    let end = Instant::now() + BOUND;
    while watcher
        .ask::<STATUS>(At::Here, &(), &Ctx::new(BOUND))
        .await
        .unwrap()
        == (Status {
            phrase: String::new(),
            heard: 0,
        })
    {
        assert!(Instant::now() < end, "the template heard nothing of long work");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn long_work_is_cancelled_once_and_outlives_a_router() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let router = Router::start(&config);
    let service = pollux_template::start(&config);
    timeout(BOUND, service.registered()).await.unwrap();
    let begun = client(&config)
        .await
        .ask::<COUNT>(At::Here, &LONG, &Ctx::new(BOUND))
        .await
        .unwrap();
    router.die().await;
    let _router = Router::start(&config);
    // Both the line of the service and the router are new, the work is not.
    let client = client(&config).await;
    let safe = |actions: &[Action]| actions.len() == 1 && actions[0].progress.cancellable;
    let running = actions_until(&client, false, safe).await;
    assert_eq!(running[0].progress.action_id, begun.action_id);
    // As the operator does it: look, watch, and call off.
    let place = Place {
        dir: Some(dir.path().to_owned()),
        ..Place::default()
    };
    let array = place.connect().await.unwrap();
    let listed = action::run(&array, Work::List { all: false }).await.unwrap().text;
    assert!(
        listed.contains("a/template.count") && listed.contains("controller b does not tell"),
        "{listed}"
    );
    let id = begun.action_id;
    let (watched, told) = tokio::join!(
        timeout(BOUND, action::run(&array, Work::Watch { id })),
        action::run(&array, Work::Cancel { id })
    );
    assert!(told.unwrap().text.contains("template was told"));
    let watched = watched.unwrap().unwrap().text;
    assert!(watched.contains("cancelled in count"), "{watched}");
    let over = |actions: &[Action]| actions[0].progress.state.is_over();
    assert_eq!(
        actions_until(&client, true, over).await[0].progress.state,
        State::Cancelled
    );
    assert!(cancel(&client, begun).await.unwrap_err().is(Code::Conflict));
    let other = Begun {
        action_id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
    };
    assert!(cancel(&client, other).await.unwrap_err().is(Code::NotFound));
}

#[test]
fn the_template_is_short_enough_to_be_copied() {
    let text = include_str!("../../../services/template/src/lib.rs");
    assert!(text.lines().count() < 100, "{} lines", text.lines().count());
}
