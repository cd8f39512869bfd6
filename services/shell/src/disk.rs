//! `pollux disk`: reservation keys that are none of this array's, and their removal.
//!
//! Such a key is left by whoever had the disk before: another array, this one before it was set up anew, a test. Whoever has
//! it may write, so no pool is made on the disk while it stands; on a quorum disk its reservation keeps controllers from
//! voting. That it may go only a person can say.

use crate::array::{Array, BOTH, CHANGE};
use crate::cli::Disk;
use crate::error::Error;
use crate::moves::confirm;
use crate::print::{Style, table, wrap};
use crate::resources::Shown;
use pollux_api::action::ActionId;
use pollux_api::heartbeat::{self, ClearKeys, ClearedKeys};
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_api::pool::{CLEAR_KEY, ClearKey, ClearedKey, ForeignKey, STATUS, Status};
use pollux_runtime::Ctx;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What each controller finds on the disks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Keys of strangers, by whose view it is.
    pub foreign: BTreeMap<ControllerId, Vec<ForeignKey>>,
    /// Who does not answer, and why.
    pub unknown: BTreeMap<ControllerId, String>,
}

/// Shows the keys, or removes one.
///
/// # Errors
/// Nobody answers, the pool manager refuses, or the operator does.
pub async fn run(
    array: &Array,
    command: Disk,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    match command {
        Disk::Keys => {
            let report = gather(array).await;
            Ok(Shown::new(render(&report, style), &report))
        }
        Disk::ClearKey {
            disk,
            keys,
            dry_run,
            yes,
        } => clear(array, (disk, keys), (dry_run, yes), action).await,
    }
}

async fn gather(array: &Array) -> Report {
    let mut report = Report {
        foreign: BTreeMap::new(),
        unknown: BTreeMap::new(),
    };
    for at in BOTH {
        match array.look::<Status>(at, STATUS).await {
            Ok(status) => drop(report.foreign.insert(at, status.foreign)),
            Err(error) => drop(report.unknown.insert(at, error.to_string())),
        }
    }
    report
}

/// The command that removes a key, or several with a blank between them.
#[must_use]
pub fn removal(disk: DiskIndex, keys: &str) -> String {
    format!("pollux disk clear-key {disk} {keys}")
}

/// One line of each key, from whoever sees it.
pub(crate) fn line(found: &ForeignKey) -> String {
    let holds = if found.holds {
        " holds the disk"
    } else {
        " is registered"
    };
    format!("{}: key {}{holds}, {}", found.disk, found.key, found.whose)
}

fn render(report: &Report, style: Style) -> String {
    let mut seen: BTreeMap<(DiskIndex, &str), (&ForeignKey, Vec<&str>)> = BTreeMap::new();
    for (at, keys) in &report.foreign {
        for found in keys {
            let entry = seen.entry((found.disk, found.key.as_str()));
            entry.or_insert_with(|| (found, Vec::new())).1.push(at.as_str());
        }
    }
    let mut text = String::new();
    let rows: Vec<Vec<String>> = seen
        .values()
        .map(|(found, by)| {
            let state = if found.holds { "holds it" } else { "registered" };
            vec![
                found.disk.to_string(),
                found.key.clone(),
                state.to_owned(),
                by.join(" "),
                found.whose.clone(),
            ]
        })
        .collect();
    match rows.is_empty() {
        false => {
            text += &table(&["DISK", "KEY", "", "SEEN BY", "WHOSE"], &rows);
            text += &wrap(
                "Whoever has such a key may write to the disk. Make sure that nobody does, then remove it:",
                0,
            );
            let mut of_disk: BTreeMap<DiskIndex, Vec<&str>> = BTreeMap::new();
            for (disk, key) in seen.keys() {
                of_disk.entry(*disk).or_default().push(*key);
            }
            for (disk, keys) in of_disk {
                let _ = writeln!(text, "  {}", removal(disk, &keys.join(" ")));
            }
        }
        true if report.unknown.is_empty() => {
            text.push_str("every key on the disks is one of this array (both controllers say so)\n");
        }
        true if report.foreign.is_empty() => text.push_str("unknown: no pool manager answers\n"),
        true => {
            text.push_str("every key on the disks is one of this array, says the controller that answers\n")
        }
    }
    for (at, why) in &report.unknown {
        let head = format!("what controller {at} sees is unknown");
        let _ = write!(text, "{}\n{}", style.warn(&head), wrap(why, 2));
    }
    text
}

/// Removes keys: of a disk that votes by heartbeat, whose disk it is, of any other one by the pool manager.
async fn clear(
    array: &Array,
    (disk, keys): (DiskIndex, Vec<String>),
    (dry_run, yes): (bool, bool),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    if votes(array, disk).await? {
        return clear_quorum(array, (disk, keys), (dry_run, yes), action).await;
    }
    let mut shown = Vec::new();
    for key in keys {
        shown.push(clear_one(array, (disk, key), (dry_run, yes), action).await?);
    }
    let text = shown.iter().map(|one| &one.text[..]).collect();
    let mut all: Vec<serde_json::Value> = shown.into_iter().map(|one| one.json).collect();
    let json = match all.len() {
        1 => all.remove(0),
        _ => all.into(),
    };
    Ok(Shown { text, json })
}

/// Whether a disk is a quorum disk now, as a heartbeat says. Nobody guesses here: the other way would reserve it for a moment.
async fn votes(array: &Array, disk: DiskIndex) -> Result<bool, Error> {
    let mut why = String::new();
    for at in [array.here, array.here.partner()] {
        match array.look::<heartbeat::Status>(at, heartbeat::STATUS).await {
            Ok(status) => return Ok(status.quorum.iter().any(|known| known.disk == disk)),
            Err(error) => why = error.to_string(),
        }
    }
    Err(Error::failed(
        format!("whether {disk} is a quorum disk is not known: {why}"),
        "heartbeatd has to run on one of the controllers; nothing was done",
    ))
}

async fn clear_quorum(
    array: &Array,
    (disk, keys): (DiskIndex, Vec<String>),
    (dry_run, yes): (bool, bool),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let at = array.here;
    let ask = async |dry_run| {
        let request = ClearKeys {
            disk,
            keys: keys.clone(),
            dry_run,
        };
        array
            .ask::<_, ClearedKeys>(at, heartbeat::CLEAR_KEYS, &request, &ctx)
            .await
    };
    if dry_run || !yes {
        let would = ask(true).await?;
        let plan = quorum_plan(at, &would);
        if dry_run || would.removed.is_empty() {
            return Ok(Shown::new(format!("{plan}nothing was done\n"), &would));
        }
        confirm(&plan)?;
    }
    let cleared = ask(false).await?;
    let text = match cleared.removed.is_empty() {
        true => format!("no key was on {disk}\n"),
        false => wrap(
            &format!(
                "no key is left on the quorum disk {disk}, as read back by controller {at}; there were {}",
                cleared.removed.join(", ")
            ),
            0,
        ),
    };
    Ok(Shown::new(text, &cleared))
}

fn quorum_plan(at: ControllerId, would: &ClearedKeys) -> String {
    let disk = would.disk;
    match would.removed.is_empty() {
        true => format!("no key is on {disk}\n"),
        false => wrap(
            &format!(
                "controller {at} would take every registration and the reservation from the quorum disk {disk}: {}. No \
                 controller is kept from voting by that. Whoever has these keys is not stopped, and what he has under way may \
                 still be written: make sure that nobody uses the disk",
                would.removed.join(", ")
            ),
            0,
        ),
    }
}

async fn clear_one(
    array: &Array,
    (disk, key): (DiskIndex, String),
    (dry_run, yes): (bool, bool),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let at = array.here;
    let ask = async |dry_run| {
        let key = key.clone();
        let request = ClearKey { disk, key, dry_run };
        array.ask::<_, ClearedKey>(at, CLEAR_KEY, &request, &ctx).await
    };
    if dry_run || !yes {
        let would = ask(true).await?;
        let plan = plan(at, &would, &key);
        if dry_run || !would.was_there {
            return Ok(Shown::new(format!("{plan}nothing was done\n"), &would));
        }
        confirm(&plan)?;
    }
    let cleared = ask(false).await?;
    let mut text = match cleared.was_there {
        true => format!("key {key} is no longer on {disk}, as read back by controller {at}\n"),
        false => format!("key {key} was not on {disk}\n"),
    };
    for left in &cleared.left {
        text += &wrap(&format!("still there: {}", line(left)), 2);
    }
    Ok(Shown::new(text, &cleared))
}

fn plan(at: ControllerId, would: &ClearedKey, key: &str) -> String {
    let disk = would.disk;
    match would.was_there {
        true => wrap(
            &format!(
                "controller {at} would abort what {key} has under way on {disk}, and take away its registration and its \
                 reservation. If whoever has it lives, it writes there no more"
            ),
            0,
        ),
        false => format!("key {key} is not on {disk}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> ForeignKey {
        ForeignKey {
            disk: DiskIndex::new(3),
            key: "0x0000000000001234".into(),
            whose: "of a machine that is no controller of an array".into(),
            holds: true,
        }
    }

    #[test]
    fn each_key_stands_once_with_the_way_to_remove_it() {
        let report = Report {
            foreign: BOTH.map(|at| (at, vec![found()])).into(),
            unknown: BTreeMap::new(),
        };
        let text = render(&report, Style::plain());
        assert_eq!(
            text.matches("pollux disk clear-key disk-03 0x0000000000001234")
                .count(),
            1,
            "{text}"
        );
        assert!(
            text.contains("a b") && text.contains("of a machine that is no"),
            "{text}"
        );
    }

    #[test]
    fn keys_of_one_disk_are_removed_by_one_command() {
        let other = ForeignKey {
            key: "0x0000000000005678".into(),
            holds: false,
            ..found()
        };
        let report = Report {
            foreign: [(ControllerId::A, vec![found(), other])].into(),
            unknown: BTreeMap::new(),
        };
        let text = render(&report, Style::plain());
        let command = "pollux disk clear-key disk-03 0x0000000000001234 0x0000000000005678";
        assert!(text.lines().any(|line| line.trim() == command), "{text}");
        assert_eq!(text.matches("clear-key").count(), 1, "{text}");
    }

    #[test]
    fn of_a_quorum_disk_the_plan_names_every_key_that_goes() {
        let mut would = ClearedKeys {
            disk: DiskIndex::new(1),
            removed: vec!["0x0000000000001234".into(), "0x0000000000005678".into()],
        };
        let plan = quorum_plan(ControllerId::A, &would);
        for part in ["disk-01", "0x0000000000001234", "0x0000000000005678"] {
            assert!(plan.contains(part), "{part}: {plan}");
        }
        would.removed.clear();
        assert_eq!(quorum_plan(ControllerId::A, &would), "no key is on disk-01\n");
    }

    #[test]
    fn silence_is_no_clean_disk() {
        let nobody = Report {
            foreign: BTreeMap::new(),
            unknown: BOTH.map(|at| (at, "it does not answer".to_owned())).into(),
        };
        assert!(render(&nobody, Style::plain()).starts_with("unknown"));
        let mut one = nobody.clone();
        one.unknown.remove(&ControllerId::A);
        one.foreign.insert(ControllerId::A, Vec::new());
        let text = render(&one, Style::plain());
        assert!(
            text.contains("the controller that answers") && text.contains("controller b sees is unknown"),
            "{text}"
        );
    }
}
