//! The operator's command: its arguments, and what it makes of answers that an array gave.

use crate::script::Script;
use clap::Parser;
use pollux_api::heartbeat::Incident;
use pollux_api::id::ControllerId;
use pollux_api::router::TraceReport;
use pollux_api::size::Size;
use pollux_shell::cli::Line;
use pollux_shell::print::{self, Style};
use pollux_shell::status::{self, Known, View};
use pollux_shell::{timeline, trace};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Arguments, each ended by a zero byte.
pub(super) fn arguments(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // `--help` of every command is clap's own, long, and read by people only.
    let words: Vec<&str> = text.split('\0').collect();
    for word in &words {
        if let Ok(size) = word.parse::<Size>() {
            let again = size.to_string().parse();
            assert_eq!(again, Ok(size), "one size, two readings");
        }
        assert!(print::wrap(word, 2).lines().count() <= 2 * word.len() + 2);
        let _ = print::fit(word, words.len() % 40);
    }
    match Line::try_parse_from(std::iter::once("pollux").chain(words)) {
        Ok(line) => assert!(!format!("{line:?}").is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub(super) fn argument_seeds() -> Vec<Vec<u8>> {
    [
        "status",
        "--json why",
        "--on a timeline",
        "trace 0197fab0-0000-7000-8000-000000000001",
        "pool create fast --disks 3,4 --home a",
        "volume create v --pool fast --size 10G",
        "volume resize v --size 1.5TiB",
        "host create h --iqn iqn.2026-01.com.example:h",
        "map create v h --lun 3",
        "address create 10.78.0.50/24 --pool fast",
        "switchover --to b --pool fast",
        "takeover --action 0197fab0-0000-7000-8000-000000000001",
        "config history",
        "config diff 0 3",
        "config import x.toml --dry-run",
        "chassis power off a",
        "chassis fault delay disk-03 5",
    ]
    .map(|line| line.replace(' ', "\0").into_bytes())
    .into()
}

fn known<T: DeserializeOwned>(json: &[u8]) -> Known<T> {
    match serde_json::from_slice(json) {
        Ok(value) => Known::Yes(value),
        Err(error) => Known::No {
            unknown: error.to_string(),
        },
    }
}

/// Answers, one JSON text per line, in the order in which a screen needs them; what is missing is unknown. The first
/// byte says which screen.
pub(super) fn screens(data: &[u8]) {
    let mut script = Script(data);
    let screen = script.byte();
    let mut lines = script.0.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let style = Style::plain();
    let text = match screen & 3 {
        0 => {
            let mut view = || View {
                router: known(next()),
                heartbeat: known(next()),
                config: known(next()),
                target: known(next()),
                address: known(next()),
                pool: known(next()),
            };
            let controllers = BTreeMap::from([(ControllerId::A, view()), (ControllerId::B, view())]);
            let report = status::Report {
                asked_unix_ms: 1_780_000_000_000,
                controllers,
                configuration: known(next()),
            };
            status::render(&report, style)
        }
        1 => {
            let incidents = std::iter::from_fn(|| serde_json::from_slice::<Incident>(next()).ok());
            let report = timeline::Report {
                incidents: incidents.collect(),
                unknown: BTreeMap::from([(ControllerId::B, "it does not answer".to_owned())]),
            };
            timeline::render(&report, None, style)
        }
        _ => {
            let Ok(report) = serde_json::from_slice::<TraceReport>(next()) else {
                return;
            };
            let id = report.records.first().map(|record| record.action_id);
            trace::render(&report, id.filter(|_| screen & 1 != 0), screen & 0x20 != 0, style)
        }
    };
    assert!(text.ends_with('\n'), "a screen that does not end its last line");
}

pub(super) fn screen_seeds() -> Vec<Vec<u8>> {
    vec![vec![0], vec![1], vec![2]]
}
