//! `pollux quorum`: the disks that decide who serves, and another one in the place of one of them.
//!
//! Each controller sees the disks through its own ports, so each line says what each of them can do with a disk. A
//! replacement is asked of the controller that may begin it, shown first, and asked about, unless `--yes`.

use crate::array::{Array, BOTH, CHANGE, Place, QUESTION};
use crate::cli::{Care, Quorum};
use crate::error::Error;
use crate::moves::{confirm, plan_words};
use crate::owner;
use crate::print::{Style, span, span_ms, table};
use crate::resources::Shown;
use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::heartbeat::{Accepted, QuorumDisk, REPLACE_QUORUM_DISK, ReplaceQuorumDisk, STATUS, Status};
use pollux_api::id::{ControllerId, DiskIndex, Generation};
use pollux_runtime::{ControllerConfig, Ctx};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// What each controller says of the quorum disks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Generation of the set and its disks, by whose view it is.
    pub views: BTreeMap<ControllerId, (Generation, Vec<QuorumDisk>)>,
    /// Who does not answer, and why.
    pub unknown: BTreeMap<ControllerId, String>,
}

/// Shows the set, or changes it.
///
/// # Errors
/// Heartbeat refuses, the operator refuses, or the change did not end in time.
pub async fn run(
    array: &Array,
    what: Option<Quorum>,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    match what {
        Some(Quorum::Format) => unreachable!("handled before the array is asked"),
        None | Some(Quorum::Show) => {
            let report = gather(array).await;
            Ok(Shown::new(render(&report, style), &report))
        }
        Some(Quorum::Replace { old, new, care }) => replace(array, old, new, care, action, style).await,
    }
}

/// Writes an empty quorum area on the quorum disks: an array begins. It is `quorum-format` that does it, and refuses
/// unless every disk is there and blank.
///
/// # Errors
/// It refuses, and says why.
pub fn format(place: &Place) -> Result<Shown, Error> {
    let file = place.controller_dir()?.join(pollux_runtime::config::FILE);
    let config = ControllerConfig::load(&file)
        .map_err(|error| Error::usage(error.to_string(), "a controller.toml as `pollux setup` writes it"))?;
    let output = owner::helper("quorum-format", &config)?
        .arg("--config")
        .arg(&file)
        .output();
    let output =
        output.map_err(|error| Error::failed(format!("quorum-format: {error}"), "it must be a program"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failed(
            format!(
                "the quorum area was not written ({}):\n{}",
                output.status,
                said.trim_end()
            ),
            "the daemon that serves the disks must run (enclosured), and heartbeatd must not",
        ));
    }
    let disks: Vec<String> = config.quorum.disks.iter().map(DiskIndex::to_string).collect();
    Ok(Shown {
        text: format!(
            "The quorum area of array {} is on {}.\n",
            config.array,
            disks.join(", ")
        ),
        json: json!({ "array": config.array, "disks": config.quorum.disks }),
    })
}

async fn gather(array: &Array) -> Report {
    let mut report = Report {
        views: BTreeMap::new(),
        unknown: BTreeMap::new(),
    };
    for at in BOTH {
        match array.look::<Status>(at, STATUS).await {
            Ok(status) => drop(report.views.insert(at, (status.quorum_generation, status.quorum))),
            Err(error) => drop(report.unknown.insert(at, error.to_string())),
        }
    }
    report
}

fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for (at, (generation, disks)) in &report.views {
        let _ = writeln!(
            text,
            "{}",
            style.bold(&format!("quorum set {generation}, says {at}"))
        );
        let row = |disk: &QuorumDisk| {
            let state = match (&disk.readable, disk.writable) {
                (Ok(()), true) => "ok".to_owned(),
                (Ok(()), false) => "NOT WRITABLE".to_owned(),
                (Err(why), _) => format!("UNREAD ({why})"),
            };
            vec![
                disk.disk.to_string(),
                disk.part.clone(),
                format!("set {}", disk.since),
                state,
                disk.latency_us.map_or_else(|| "unknown".to_owned(), span),
                span_ms(disk.for_ms),
            ]
        };
        let rows: Vec<Vec<String>> = disks.iter().map(row).collect();
        text += &table(
            &["disk", "part", "joined", "from here", "write", "used for"],
            &rows,
        );
    }
    for (at, why) in &report.unknown {
        let _ = writeln!(
            text,
            "{}",
            style.warn(&format!("controller {at} does not answer: {why}"))
        );
    }
    text
}

/// Who may begin a change: the first controller while it is a member, otherwise the other one.
async fn changer(array: &Array) -> ControllerId {
    let first = array.look::<Status>(ControllerId::A, STATUS).await;
    let member = first.is_ok_and(|status| {
        let members = status.epoch.map(|epoch| epoch.members).unwrap_or_default();
        members.contains(&(ControllerId::A, status.incarnation))
    });
    if member { ControllerId::A } else { ControllerId::B }
}

async fn replace(
    array: &Array,
    from: DiskIndex,
    to: DiskIndex,
    care: Care,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let at = changer(array).await;
    let ask = async |dry_run: bool, ctx: &Ctx| -> Result<Accepted, RpcError> {
        let request = ReplaceQuorumDisk { from, to, dry_run };
        array.ask(at, REPLACE_QUORUM_DISK, &request, ctx).await
    };
    if care.dry_run || !care.yes {
        let plan = ask(true, &Ctx::new(QUESTION)).await?;
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
    let accepted = ask(false, &ctx).await?;
    let mut text = format!("accepted by controller {at}, action {}\n", accepted.action_id);
    let end = Instant::now() + Duration::from_secs(care.wait);
    let mut done = false;
    while !done && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(status) = array.look::<Status>(at, STATUS).await else {
            continue;
        };
        let has = |disk: DiskIndex| status.quorum.iter().any(|known| known.disk == disk);
        done = has(to) && !has(from);
        let about = |alarm: &&pollux_api::heartbeat::Alarm| {
            alarm.id == "quorum_change" && alarm.subject == to.to_string() && !has(to)
        };
        if let Some(alarm) = status.alarms.iter().find(about) {
            return Err(Error::failed(
                format!("{text}{to}: {}", alarm.text),
                "see pollux quorum",
            ));
        }
    }
    if care.wait > 0 && !done {
        return Err(Error::failed(
            format!("{text}{from} has not left after {} s", care.wait),
            "it goes on by itself: pollux quorum, pollux why",
        ));
    }
    let report = gather(array).await;
    text += &render(&report, style);
    Ok(Shown {
        text,
        json: json!({ "accepted": accepted, "at": at, "quorum": report }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_and_what_nobody_knows_are_printed() {
        let disk = |number, part: &str, readable: Result<(), String>| QuorumDisk {
            disk: DiskIndex::new(number),
            writable: readable.is_ok(),
            readable,
            latency_us: Some(900),
            since: Generation::new(2),
            part: part.to_owned(),
            for_ms: 61_000,
        };
        let disks = vec![disk(3, "joins", Ok(())), disk(1, "leaves", Err("Io".to_owned()))];
        let report = Report {
            views: [(ControllerId::A, (Generation::new(2), disks))].into(),
            unknown: [(ControllerId::B, "no route".to_owned())].into(),
        };
        let text = render(&report, Style::plain());
        for word in [
            "set 2, says a",
            "disk-03",
            "joins",
            "ok",
            "leaves",
            "UNREAD (Io)",
            "controller b does not answer",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
