//! `pollux disk`: reservation keys that are none of this array's, and their removal.
//!
//! Such a key is left by whoever had the disk before: another array, this one before it was set up anew, a test. Whoever has
//! it may write, so no pool is made on the disk while it stands. That it may go only a person can say.

use crate::array::{Array, BOTH, CHANGE};
use crate::cli::Disk;
use crate::error::Error;
use crate::moves::confirm;
use crate::print::{Style, table, wrap};
use crate::resources::Shown;
use pollux_api::action::ActionId;
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
            key,
            dry_run,
            yes,
        } => clear(array, (disk, key), (dry_run, yes), action).await,
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

/// The command that removes a key.
#[must_use]
pub fn removal(disk: DiskIndex, key: &str) -> String {
    format!("pollux disk clear-key {disk} {key}")
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
            for (found, _) in seen.values() {
                let _ = writeln!(text, "  {}", removal(found.disk, &found.key));
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

async fn clear(
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
