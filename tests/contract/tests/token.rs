//! `pollux token` and `pollux management` against a real router, on loopback.

mod common;

use common::{BOUND, Router, client, config};
use pollux_api::router::{WEB, Web};
use pollux_runtime::config::Management;
use pollux_runtime::{Ctx, Profile};
use pollux_shell::array::{Array, Place};
use pollux_shell::cli::{Command, Line};
use pollux_shell::print::Style;
use pollux_shell::resources::Shown;
use pollux_shell::token;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a person types behind `pollux`.
async fn typed(array: &Array, words: &str) -> Result<Shown, pollux_shell::error::Error> {
    let words = ["pollux"].into_iter().chain(words.split_whitespace());
    match <Line as clap::Parser>::try_parse_from(words).unwrap().command {
        Command::Token(command) => token::run(array, command, None, Style::plain()).await,
        Command::Management => Ok(token::management(array, Style::plain()).await),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_shown_once_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.profile = Profile::Ci;
    config.management = Some(Management {
        address: config.interconnect.local,
        port: 7443,
        certificate: None,
        key: None,
    });
    let own = dir.path().join("a");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join(pollux_runtime::config::FILE), config.render()).unwrap();
    let _router = Router::start(&config);
    let client = client(&config).await;
    let end = Instant::now() + BOUND;
    let web = loop {
        let web: Web = client.call(WEB, &(), &Ctx::new(BOUND)).await.unwrap();
        if web.listening {
            break web;
        }
        assert!(Instant::now() < end, "{web:?}");
        sleep(Duration::from_millis(10)).await;
    };
    let place = Place {
        controller: Some(own),
        ..Place::default()
    };
    let array = place.connect().await.unwrap();
    let shown = typed(&array, "token add ops --role operator --expires 30")
        .await
        .unwrap();
    let secret = shown.json["added"]["secret"].as_str().unwrap().to_owned();
    assert!(
        secret.len() == 71 && shown.text.starts_with(&secret),
        "{}",
        shown.text
    );
    assert!(shown.text.contains("operator, good until 2"), "{}", shown.text);
    // Shown this once: never again, and in no file.
    let list = typed(&array, "token list").await.unwrap();
    assert!(
        list.text.contains("ops") && !list.text.contains(&secret),
        "{}",
        list.text
    );
    // The partner has not been started, and the list says so.
    assert!(
        list.text.contains("controller b does not answer"),
        "{}",
        list.text
    );
    let taken = typed(&array, "token add ops --role admin").await.err().unwrap();
    assert!(taken.to_string().contains("pollux token remove ops"), "{taken}");
    let management = typed(&array, "management").await.unwrap().text;
    let fingerprint = web.fingerprint.unwrap();
    assert!(
        management.contains(&format!("https://{}/rpc", web.address.unwrap())),
        "{management}"
    );
    assert!(management.contains(&fingerprint[..48]) && management.contains(&fingerprint[48..]));
    assert!(
        management
            .lines()
            .filter(|line| !line.contains("controller b"))
            .all(|line| line.len() <= 80)
    );
    typed(&array, "token remove ops").await.unwrap();
    let gone = typed(&array, "token remove ops").await.err().unwrap();
    assert!(
        gone.to_string().contains("no token ops") && gone.exit_code() == 1,
        "{gone}"
    );
    let list = typed(&array, "token list").await.unwrap();
    assert!(list.text.starts_with("no tokens"), "{}", list.text);
}
