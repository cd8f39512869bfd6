//! The line between two routers: who gets one, and what is sent over it.

mod common;

use common::{BOUND, Pair, Until, call, echo};
use pollux_api::error::Code;
use pollux_api::id::ControllerId;
use pollux_api::router::{STATUS, Status};
use pollux_pairing::{Identity, PublicKey};
use pollux_platform::lease::Writer;
use pollux_runtime::Ctx;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

#[tokio::test]
async fn a_router_with_another_key_is_refused_and_reported() {
    let mut pair = Pair::new();
    let stranger = tempfile::tempdir().unwrap();
    let stranger = Identity::load_or_make(stranger.path()).unwrap().public();
    for deceived in [A, B] {
        let store = pair.config(deceived).paths.keys;
        let right = PublicKey::of_partner(&store).unwrap();
        stranger.pin(&store).unwrap();
        pair.start(A);
        pair.start(B);
        let status: Status = pair
            .client(deceived)
            .await
            .until(STATUS, |status: &Status| status.counters.foreign_links > 0)
            .await;
        let problem = status.link.problem.unwrap_or_default();
        assert!(
            !status.link.up && problem.contains("not the pinned one"),
            "{problem}"
        );
        pair.kill(A);
        pair.kill(B);
        right.pin(&store).unwrap();
    }
    pair.start(A);
    pair.start(B);
    pair.client(A)
        .await
        .until(STATUS, |status: &Status| status.link.up)
        .await;
}

#[tokio::test]
async fn whoever_only_knocks_at_the_port_gets_nothing_and_disturbs_nobody() {
    let pair = Pair::started().await;
    let address = pair.config(A).interconnect.router_local();
    let hello = br#"{"pollux_router_link":2,"program":"x","array":"07070707-0707-0707-0707-070707070707","controller":"b"}"#;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], hello, b""] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may hang up before everything is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(BOUND, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.windows(7).any(|part| part == b"jsonrpc"), "{answer:?}");
    }
    let status: Status = pair.client(A).await.until(STATUS, |_| true).await;
    assert!(status.link.up, "{:?}", status.link.problem);
}

#[tokio::test]
async fn a_copy_of_the_partner_from_its_past_is_refused_and_reported() {
    let mut pair = Pair::new();
    let run = pair.config(B).paths.run;
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("incarnation"), "5\n").unwrap();
    pair.start(A);
    pair.start(B);
    let up = |status: &Status| status.link.up;
    pair.client(A).await.until(STATUS, up).await;
    // By the router that met the later one, and by its successor.
    for again in [false, true] {
        pair.kill(B);
        std::fs::write(run.join("incarnation"), "4\n").unwrap();
        if again {
            pair.kill(A);
            pair.start(A);
        }
        pair.start(B);
        let client = pair.client(A).await;
        let refused = |status: &Status| status.counters.foreign_links > 0;
        let status = client.until(STATUS, refused).await;
        let problem = status.link.problem.unwrap_or_default();
        assert!(
            !status.link.up && problem.contains("start 4") && problem.contains("start 5"),
            "{problem}"
        );
    }
    pair.kill(B);
    std::fs::write(run.join("incarnation"), "6\n").unwrap();
    pair.start(B);
    pair.client(A).await.until(STATUS, up).await;
}

#[tokio::test]
async fn a_partner_of_a_lower_epoch_gets_only_what_it_needs_to_join() {
    let mut pair = Pair::new();
    let leases = [A, B].map(|controller| {
        let config = pair.config(controller);
        std::fs::create_dir_all(&config.paths.run).unwrap();
        Writer::open(&config.paths.lease()).unwrap()
    });
    leases[0].grant(1, 5);
    leases[1].grant(1, 4);
    pair.start(A);
    pair.start(B);
    let services = [A, B].map(|controller| echo(&pair.config(controller)));
    for service in &services {
        service.registered().await;
    }
    let (a, b) = (pair.client(A).await, pair.client(B).await);
    a.until(STATUS, |status: &Status| status.link.partner_epoch == Some(4))
        .await;
    b.until(STATUS, |status: &Status| status.link.partner_epoch == Some(5))
        .await;
    let refused = call(&a, "partner/echo.back", "x").await.unwrap_err();
    assert!(
        refused.is(Code::PartnerUnreachable) && refused.data.what.contains("has to join"),
        "{refused}"
    );
    // Questions how it is, and the other direction.
    let status = a
        .call::<_, Status>("partner/router.status", &(), &Ctx::new(BOUND))
        .await;
    assert_eq!(status.unwrap().controller, B);
    let joining = a
        .call::<_, ()>("partner/config.sync", &(), &Ctx::new(BOUND))
        .await
        .unwrap_err();
    assert!(
        joining.is(Code::UnknownService) && joining.data.place == "b/config",
        "{joining}"
    );
    assert_eq!(call(&b, "partner/echo.back", "up").await.unwrap(), "up");
    // It joins.
    leases[1].grant(1, 5);
    a.until(STATUS, |status: &Status| status.link.partner_epoch == Some(5))
        .await;
    let ctx = Ctx::new(Duration::from_secs(10));
    let answer: String = a.call_retry("partner/echo.back", "joined", &ctx).await.unwrap();
    assert_eq!(answer, "joined");
}
