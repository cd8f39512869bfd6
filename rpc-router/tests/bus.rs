//! The switchboard with real sockets and real processes: both routers, services that come, go and are killed.

mod common;

use common::{BOUND, Pair, Process, Until, call, echo, say};
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::{Outcome, STATUS, Status, TRACE, Trace, TraceReport};
use pollux_runtime::{Client, ControllerConfig, Ctx, Repeat, Service, Update};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn a_call_reaches_local_partner_and_named_controllers() {
    let pair = Pair::started().await;
    let (a, b) = (pair.config(ControllerId::A), pair.config(ControllerId::B));
    let at_b = echo(&b);
    at_b.registered().await;
    let client = pair.client(ControllerId::A).await;
    for method in ["partner/echo.back", "b/echo.back"] {
        assert_eq!(call(&client, method, "hello").await.unwrap(), "hello");
    }
    let refused = call(&client, "echo.back", "x").await.unwrap_err();
    assert!(
        refused.is(Code::UnknownService) && refused.data.place == "a/echo",
        "{refused}"
    );
    let refused = call(&client, "c/echo.back", "x").await.unwrap_err();
    assert!(refused.is(Code::InvalidRequest), "{refused}");
    let refused = call(&client, "b/echo.forth", "x").await.unwrap_err();
    assert!(
        refused.is(Code::MethodNotFound) && refused.data.remedy.contains("echo.back"),
        "{refused}"
    );
    let refused = client
        .call::<_, String>("b/echo.back", &7, &Ctx::new(BOUND))
        .await
        .unwrap_err();
    assert!(refused.is(Code::InvalidParams), "{refused}");
    // The same name on the other controller is another service.
    let at_a = echo(&a);
    at_a.registered().await;
    assert_eq!(call(&client, "a/echo.back", "here").await.unwrap(), "here");
}

#[tokio::test]
async fn a_person_with_a_plain_socket_is_answered() {
    let mut pair = Pair::new();
    pair.start(ControllerId::A);
    let service = echo(&pair.config(ControllerId::A));
    service.registered().await;
    let socket = pair.config(ControllerId::A).paths.router_socket();
    let answer = say(
        &socket,
        r#"{"jsonrpc":"2.0","id":"me","method":"echo.back","params":"hi"}"#,
    )
    .await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["id"], &answer["result"]), (&"me".into(), &"hi".into()));
    let given: ActionId = answer["action_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        given.as_bytes()[6] >> 4,
        7,
        "an action_id is a UUID of version 7: {given}"
    );
    // A batch, with a notification and a mistake in it; and after it something that is no message at all.
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"echo.back","params":"one"},{"jsonrpc":"2.0","method":"echo.none"},
        {"jsonrpc":"2.0","id":2,"method":"echo.back","params":"two"},{"jsonrpc":"1.0","id":3,"method":"x"}]
        hello"#;
    let answers = say(&socket, batch).await;
    let mut stream = serde_json::Deserializer::from_str(&answers).into_iter::<serde_json::Value>();
    let mut parts: Vec<serde_json::Value> = stream.by_ref().map(Result::unwrap).collect();
    parts.sort_by_key(serde_json::Value::is_object);
    assert_eq!(parts.len(), 2, "{answers}");
    let mut results: Vec<String> = parts[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer["result"].to_string())
        .collect();
    results.sort_unstable();
    assert_eq!(results, ["\"one\"", "\"two\"", "null"]);
    assert_eq!(parts[1]["error"]["message"], "parse_error");
    let status: Status = pair.client(ControllerId::A).await.until(STATUS, |_| true).await;
    assert_eq!(status.counters.malformed, 2);
}

#[tokio::test]
async fn a_slow_handler_delays_nobody_and_its_deadline_passes() {
    let mut pair = Pair::new();
    pair.start(ControllerId::A);
    let service = echo(&pair.config(ControllerId::A));
    service.registered().await;
    let client = pair.client(ControllerId::A).await;
    let begin = Instant::now();
    let ctx = Ctx::new(Duration::from_millis(300));
    let (slow, quick) = tokio::join!(client.call::<_, u64>("echo.slow", &60_000, &ctx), async {
        let answer = call(&client, "echo.back", "quick").await;
        (answer, begin.elapsed())
    });
    assert!(slow.unwrap_err().is(Code::DeadlinePassed));
    assert_eq!(quick.0.unwrap(), "quick");
    assert!(
        quick.1 < Duration::from_millis(300),
        "the quick call took {:?}",
        quick.1
    );
    // The router has given the ticket back too; the late answer has nowhere to go.
    let status: Status = client
        .until(STATUS, |status: &Status| status.services[0].pending == 0)
        .await;
    assert_eq!(status.services[0].name, "echo");
}

#[tokio::test]
async fn a_change_repeated_under_its_action_is_done_once() {
    let mut pair = Pair::new();
    pair.start(ControllerId::A);
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let service = Service::builder("till", 70)
        .method("till.add", Repeat::Once, move |_: Ctx, amount: usize| {
            let count = Arc::clone(&count);
            async move {
                let total = count.fetch_add(amount, Ordering::SeqCst) + amount;
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, RpcError>(total)
            }
        })
        .start(&pair.config(ControllerId::A));
    service.registered().await;
    let client = pair.client(ControllerId::A).await;
    let ctx = Ctx::new(BOUND);
    let (first, second) = tokio::join!(
        client.call::<_, usize>("till.add", &5, &ctx),
        client.call::<_, usize>("till.add", &5, &ctx)
    );
    let third = client.call::<_, usize>("till.add", &5, &ctx).await;
    assert_eq!((first.unwrap(), second.unwrap(), third.unwrap()), (5, 5, 5));
    let other = client.call::<_, usize>("till.add", &6, &ctx).await.unwrap_err();
    assert!(other.is(Code::InvalidRequest), "{other}");
    assert_eq!(
        client
            .call::<_, usize>("till.add", &5, &Ctx::new(BOUND))
            .await
            .unwrap(),
        10
    );
}

#[tokio::test]
async fn calls_go_uphill_and_to_the_same_service_at_the_partner() {
    let pair = Pair::started().await;
    let start = |controller, name: &'static str, rank, methods: [&'static str; 2]| {
        let answer = move |_: Ctx, (): ()| async move { Ok::<_, RpcError>(name.to_owned()) };
        Service::builder(name, rank)
            .method(methods[0], Repeat::Idempotent, answer)
            .peer(methods[1], Repeat::Idempotent, answer)
            .start(&pair.config(controller))
    };
    let low = start(ControllerId::A, "low", 70, ["low.x", "low.peer"]);
    let high = start(ControllerId::A, "high", 80, ["high.x", "high.peer"]);
    let other = start(ControllerId::B, "low", 70, ["low.x", "low.peer"]);
    for service in [&low, &high, &other] {
        service.registered().await;
    }
    let ask = async |service: &Service, method| {
        service
            .client()
            .call::<_, String>(method, &(), &Ctx::new(BOUND))
            .await
            .map_err(|error| error.kind())
    };
    assert_eq!(ask(&low, "high.x").await, Ok("high".to_owned()));
    assert_eq!(ask(&other, "partner/high.x").await, Ok("high".to_owned()));
    assert_eq!(ask(&low, "partner/low.peer").await, Ok("low".to_owned()));
    assert_eq!(ask(&low, "partner/low.x").await, Err(Some(Code::NotPermitted)));
    assert_eq!(ask(&low, "low.peer").await, Err(Some(Code::NotPermitted)));
    assert_eq!(ask(&high, "low.x").await, Err(Some(Code::NotPermitted)));
    assert_eq!(
        ask(&high, "partner/low.peer").await,
        Err(Some(Code::NotPermitted))
    );
}

#[tokio::test]
async fn a_name_belongs_to_one_living_service() {
    let mut pair = Pair::new();
    pair.start(ControllerId::A);
    let config = pair.config(ControllerId::A);
    let first = echo(&config);
    first.registered().await;
    let second = echo(&config);
    // The second one keeps asking; it is in as soon as the first one has left.
    let waiting = timeout(Duration::from_millis(200), second.registered()).await;
    assert!(waiting.is_err(), "two services had one name");
    first.close(BOUND).await;
    timeout(BOUND, second.registered()).await.unwrap();
    let client = pair.client(ControllerId::A).await;
    assert_eq!(call(&client, "echo.back", "second").await.unwrap(), "second");
    // The contract knows the rank of its services.
    let socket = config.paths.router_socket();
    let register = r#"{"jsonrpc":"2.0","id":1,"method":"router.register","params":{"name":"pool","version":"0","rank":1,"methods":[]}}"#;
    let answer = say(&socket, register).await;
    assert!(
        answer.contains("invalid_params") && answer.contains("\"50\""),
        "{answer}"
    );
}

/// Not a test of its own: the service that [`a_killed_service_fails_its_calls_at_once`] kills.
#[tokio::test]
async fn child_service() {
    let Ok(file) = std::env::var("POLLUX_TEST_SERVICE") else {
        return;
    };
    let service = echo(&ControllerConfig::load(Path::new(&file)).unwrap());
    service.registered().await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_service_fails_its_calls_at_once() {
    let pair = Pair::started().await;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_service"])
        .env("POLLUX_TEST_SERVICE", pair.file(ControllerId::A))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Process(child);
    let (here, there) = (
        pair.client(ControllerId::A).await,
        pair.client(ControllerId::B).await,
    );
    here.until(STATUS, |status: &Status| {
        status.services.iter().any(|service| service.name == "echo")
    })
    .await;
    let (ctx, begin) = (Ctx::new(BOUND), Instant::now());
    let local = here.call::<_, u64>("echo.slow", &60_000, &ctx);
    let remote = there.call::<_, u64>("a/echo.slow", &60_000, &ctx);
    let killer = async {
        pair.client(ControllerId::A)
            .await
            .until(STATUS, |status: &Status| {
                status.services.iter().any(|service| service.pending == 2)
            })
            .await;
        child.kill();
    };
    let (local, remote, ()) = tokio::join!(local, remote, killer);
    for refused in [local.unwrap_err(), remote.unwrap_err()] {
        assert!(
            refused.is(Code::ServiceGone) && refused.is_transient(),
            "{refused}"
        );
        assert_eq!(refused.data.place, "a/echo");
    }
    assert!(begin.elapsed() < BOUND / 2);
}

#[tokio::test]
async fn a_killed_router_comes_back_and_everybody_registers_again() {
    let mut pair = Pair::started().await;
    let service = echo(&pair.config(ControllerId::A));
    service.registered().await;
    // A service whose own calls are on their way when its router dies.
    let caller = Service::builder("caller", 60).start(&pair.config(ControllerId::A));
    caller.registered().await;
    let pending = {
        let client = caller.client().clone();
        tokio::spawn(async move {
            client
                .call::<_, u64>("echo.slow", &60_000, &Ctx::new(BOUND))
                .await
        })
    };
    let watcher = pair.client(ControllerId::A).await;
    watcher
        .until(STATUS, |status: &Status| {
            status.services.iter().any(|service| service.pending == 1)
        })
        .await;
    let before = call(&watcher, "echo.back", "before").await;
    assert_eq!(before.unwrap(), "before");
    pair.kill(ControllerId::A);
    let refused = pending.await.unwrap().unwrap_err();
    assert!(
        refused.is(Code::RouterGone) && refused.is_transient(),
        "{refused}"
    );
    // Asked while it is down, answered when it is back: the same action all the time.
    let retried = {
        let client = caller.client().clone();
        tokio::spawn(async move {
            client
                .call_retry::<_, String>("echo.back", "again", &Ctx::new(BOUND))
                .await
        })
    };
    let other = pair.client(ControllerId::B).await;
    let refused = call(&other, "partner/echo.back", "x").await.unwrap_err();
    assert!(
        refused.is(Code::PartnerUnreachable) && refused.data.since_ms.is_some(),
        "{refused}"
    );
    pair.start(ControllerId::A);
    assert_eq!(retried.await.unwrap().unwrap(), "again");
    other.until(STATUS, |status: &Status| status.link.up).await;
    assert_eq!(
        other
            .call_retry::<_, String>("partner/echo.back", "back", &Ctx::new(BOUND))
            .await
            .unwrap(),
        "back"
    );
    // What passed before the kill is still in the book.
    let trace = Trace {
        action_id: None,
        also: Vec::new(),
        limit: None,
        local: true,
    };
    let client = pair.client(ControllerId::A).await;
    let report: TraceReport = client.call(TRACE, &trace, &Ctx::new(BOUND)).await.unwrap();
    assert!(
        report
            .records
            .iter()
            .filter(|record| record.method == "echo.back")
            .count()
            >= 2,
        "{report:?}"
    );
}

/// Services that call one after the other, here and there; the last refuses.
fn chain(pair: &Pair) -> [Service; 5] {
    let (a, b) = (pair.config(ControllerId::A), pair.config(ControllerId::B));
    // shell -> a/first -> b/second -> a/third -> a/fourth: the last call is seen by a alone, its cause by b alone.
    let relay =
        |name: &'static str, rank, method: &'static str, next: &'static str, config: &ControllerConfig| {
            let client: Arc<Mutex<Option<Client>>> = Arc::default();
            let slot = Arc::clone(&client);
            let service = Service::builder(name, rank)
                .method(method, Repeat::Once, move |ctx: Ctx, (): ()| {
                    let client = slot.lock().unwrap().clone().unwrap();
                    async move {
                        if next.is_empty() {
                            return Err(RpcError::new(Code::Refused, "fourth", "on purpose"));
                        }
                        client.call::<_, ()>(next, &(), &ctx.child()).await
                    }
                })
                .start(config);
            *client.lock().unwrap() = Some(service.client().clone());
            service
        };
    [
        relay("first", 70, "first.go", "partner/second.go", &a),
        relay("second", 71, "second.go", "second-b.go", &b),
        relay("second-b", 72, "second-b.go", "partner/third.go", &b),
        relay("third", 73, "third.go", "fourth.go", &a),
        relay("fourth", 74, "fourth.go", "", &a),
    ]
}

#[tokio::test]
async fn an_action_is_traced_across_both_controllers() {
    let pair = Pair::started().await;
    let services = chain(&pair);
    for service in &services {
        service.registered().await;
    }
    let client = pair.client(ControllerId::A).await;
    let ctx = Ctx::new(BOUND);
    let refused = client.call::<_, ()>("first.go", &(), &ctx).await.unwrap_err();
    assert!(refused.is(Code::Refused), "{refused}");
    for controller in [ControllerId::A, ControllerId::B] {
        let trace = Trace {
            action_id: Some(ctx.action),
            also: Vec::new(),
            limit: None,
            local: false,
        };
        let client = pair.client(controller).await;
        let report: TraceReport = client.call(TRACE, &trace, &Ctx::new(BOUND)).await.unwrap();
        let chain: Vec<(&str, &str, &str)> = report
            .records
            .iter()
            .map(|r| (r.method.as_str(), r.from.as_str(), r.to.as_str()))
            .collect();
        assert_eq!(
            chain,
            [
                ("first.go", "a/shell", "a/first"),
                ("second.go", "a/first", "b/second"),
                ("second-b.go", "b/second", "b/second-b"),
                ("third.go", "b/second-b", "a/third"),
                ("fourth.go", "a/third", "a/fourth"),
            ]
        );
        for (cause, effect) in report.records.iter().zip(&report.records[1..]) {
            assert_eq!(effect.parent, Some(cause.action_id));
            assert_eq!(effect.outcome, Outcome::Error("refused".into()));
        }
        assert_eq!(report.seen.len(), 2);
        assert!(!report.truncated && report.missing.is_empty());
    }
}

#[tokio::test]
async fn events_reach_subscribers_here_and_at_the_partner() {
    let mut pair = Pair::started().await;
    let publisher = Service::builder("news", 70).start(&pair.config(ControllerId::A));
    publisher.registered().await;
    let reader = Service::builder("reader", 70).start(&pair.config(ControllerId::B));
    reader.registered().await;
    let here = pair.client(ControllerId::A).await;
    let mut local = here.subscribe("news.daily").await.unwrap();
    let mut remote = reader.client().subscribe("partner/news.daily").await.unwrap();
    assert!(
        here.subscribe("news").await.is_err(),
        "a topic has a service and a name"
    );
    // The subscription at the partner is made behind the answer; the first event that comes shows that it is there.
    let mut n = 0_u64;
    let first = loop {
        n += 1;
        publisher
            .client()
            .publish("news.daily", &n, &Ctx::new(BOUND))
            .unwrap();
        if let Ok(update) = timeout(Duration::from_millis(50), remote.next::<u64>()).await {
            break update.unwrap().unwrap();
        }
        assert!(n < 200, "no event came to the partner");
    };
    assert!(
        matches!(
            first,
            Update::Event {
                controller: ControllerId::A,
                ..
            }
        ),
        "{first:?}"
    );
    for expected in 1..=n {
        let update = timeout(BOUND, local.next::<u64>())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            update,
            Update::Event {
                controller: ControllerId::A,
                payload: expected
            }
        );
    }
    // Whoever does not own a topic may not publish on it.
    reader
        .client()
        .publish("news.daily", &0, &Ctx::new(BOUND))
        .unwrap();
    // The link breaks and comes back: the subscriber hears that it may have missed something, then goes on.
    pair.kill(ControllerId::A);
    pair.start(ControllerId::A);
    let gap = async {
        loop {
            if remote.next::<u64>().await.unwrap().unwrap() == Update::Gap {
                break;
            }
        }
    };
    timeout(BOUND, gap).await.unwrap();
    publisher.registered().await;
    let next = async {
        loop {
            publisher
                .client()
                .publish("news.daily", &77, &Ctx::new(BOUND))
                .ok();
            match timeout(Duration::from_millis(50), remote.next::<u64>()).await {
                Ok(Some(Ok(Update::Event { payload: 77, .. }))) => break,
                _ => continue,
            }
        }
    };
    timeout(BOUND, next).await.unwrap();
}

#[tokio::test]
async fn a_second_router_on_the_same_directory_is_refused() {
    let mut pair = Pair::new();
    pair.start(ControllerId::A);
    pair.client(ControllerId::A).await;
    let second = Command::new(env!("CARGO_BIN_EXE_rpc-routerd"))
        .arg("--config")
        .arg(pair.file(ControllerId::A))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let (pid, text) = (
        pair.routers[0].as_ref().unwrap().0.id(),
        String::from_utf8_lossy(&second.stderr).into_owned(),
    );
    assert!(
        text.contains(&pid.to_string()) && text.contains("router.lock"),
        "{text}"
    );
    // The first one still serves.
    pair.client(ControllerId::A)
        .await
        .until(STATUS, |_: &Status| true)
        .await;
}

#[tokio::test]
async fn the_survivor_tells_what_the_dead_partner_saw_after_a_kill_of_its_own_router() {
    let mut pair = Pair::started().await;
    let services = chain(&pair);
    for service in &services {
        service.registered().await;
    }
    let ctx = Ctx::new(BOUND);
    let client = pair.client(ControllerId::A).await;
    let refused = client.call::<_, ()>("first.go", &(), &ctx).await.unwrap_err();
    assert!(refused.is(Code::Refused), "{refused}");
    // On the disk of a: its own records, and what only b saw.
    let journal = pair.config(ControllerId::A).paths.var.join("trace.jsonl");
    let end = Instant::now() + BOUND;
    let methods = ["first.go", "second.go", "second-b.go", "third.go", "fourth.go"];
    loop {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        if methods.iter().all(|method| text.contains(method)) {
            break;
        }
        assert!(Instant::now() < end, "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pair.kill(ControllerId::B);
    pair.kill(ControllerId::A);
    pair.start(ControllerId::A);
    let trace = Trace {
        action_id: Some(ctx.action),
        also: Vec::new(),
        limit: None,
        local: false,
    };
    let client = pair.client(ControllerId::A).await;
    let report: TraceReport = client.call(TRACE, &trace, &Ctx::new(BOUND)).await.unwrap();
    let told: Vec<&str> = report
        .records
        .iter()
        .map(|record| record.method.as_str())
        .collect();
    assert_eq!(told, methods);
    for (cause, effect) in report.records.iter().zip(&report.records[1..]) {
        assert_eq!(effect.parent, Some(cause.action_id));
    }
    // And it says whom it could not ask.
    assert_eq!(report.seen, [ControllerId::A]);
    assert_eq!(report.missing[0].controller, ControllerId::B);
}

/// Each line that is typed is answered by the line below it; `...` stands for what differs each time.
#[tokio::test]
async fn the_session_of_the_readme_is_what_is_answered() {
    let pair = Pair::started().await;
    let socket = pair.config(ControllerId::A).paths.router_socket();
    let readme = include_str!("../README.md");
    let session = readme.split("```console\n").nth(1).unwrap();
    let mut lines = session.split("```").next().unwrap().lines();
    assert!(lines.next().unwrap().starts_with("$ socat"));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.len() >= 8, "{lines:?}");
    for (typed, expected) in lines.chunks_exact(2).map(|pair| (pair[0], pair[1])) {
        let answer = say(&socket, &format!("{typed}\n")).await;
        let (first, last) = (expected.split("...").next(), expected.rsplit("...").next());
        let mut rest = answer.trim_end();
        assert!(
            first.is_some_and(|first| rest.starts_with(first)),
            "{typed}: {answer}"
        );
        assert!(last.is_some_and(|last| rest.ends_with(last)), "{typed}: {answer}");
        for part in expected.split("...") {
            let at = rest.find(part);
            assert!(at.is_some(), "{part} is not in the answer to {typed}: {answer}");
            rest = &rest[at.unwrap() + part.len()..];
        }
    }
}
