//! `pollux trace`: what an action caused, on both controllers, as a tree with times.

use crate::array::{Array, QUESTION};
use crate::error::Error;
use crate::print::{Style, fit, span, table, utc, wrap};
use pollux_api::action::ActionId;
use pollux_api::router::{Outcome, TRACE, Trace, TraceRecord, TraceReport};
use pollux_runtime::Ctx;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Asks the router; it asks the partner's.
///
/// # Errors
/// It refuses, or nobody has seen the action.
pub async fn gather(array: &Array, id: Option<ActionId>, limit: u32) -> Result<TraceReport, Error> {
    let query = Trace {
        action_id: id,
        also: Vec::new(),
        limit: Some(limit),
        local: false,
    };
    let report: TraceReport = array.ask(array.here, TRACE, &query, &Ctx::new(QUESTION)).await?;
    if let (Some(id), true, true) = (id, report.records.is_empty(), report.missing.is_empty()) {
        return Err(Error::failed(
            format!("neither router has seen the action {id}"),
            "`pollux trace` lists the newest actions; old ones are forgotten",
        ));
    }
    Ok(report)
}

/// The tree below `id`, or the list of actions.
pub fn render(report: &TraceReport, id: Option<ActionId>, all: bool, style: Style) -> String {
    let mut text = String::new();
    match id {
        None => list(&mut text, &report.records, all),
        Some(id) => tree(&mut text, &report.records, id, style),
    }
    let seen: Vec<&str> = report.seen.iter().map(|id| id.as_str()).collect();
    let _ = writeln!(
        text,
        "{}",
        style.dim(&format!(
            "{} messages, seen by {}",
            report.records.len(),
            seen.join(" and ")
        ))
    );
    for missing in &report.missing {
        let line = format!(
            "controller {} does not tell: what only it saw is unknown",
            missing.controller
        );
        let _ = writeln!(text, "{}", style.warn(&line));
        text.push_str(&wrap(&missing.why, 2));
    }
    if report.truncated {
        text.push_str("there are more: --limit\n");
    }
    text
}

/// Methods that only look something up; of these there are many, and they have no effects.
fn looks(method: &str) -> bool {
    let name = method.split_once('.').map_or(method, |(_, name)| name);
    matches!(
        name,
        "status" | "show" | "list" | "get" | "log" | "watch" | "why" | "timeline" | "subscribe" | "register"
    )
}

fn list(text: &mut String, records: &[TraceRecord], all: bool) {
    let shown: Vec<&TraceRecord> = records
        .iter()
        .filter(|record| all || !looks(&record.method))
        .collect();
    for record in &shown {
        let time = utc(record.start_unix_us / 1000);
        // Whole actions, so that they can be copied; the day stands in `--json`.
        let time = time.get(11..19).unwrap_or(&time);
        let _ = writeln!(
            text,
            "{}  {time}  {}  {}",
            record.action_id,
            fit(&record.method, 20),
            outcome(record)
        );
    }
    let hidden = records.len() - shown.len();
    if hidden > 0 {
        let _ = writeln!(text, "{hidden} more only looked something up: --all");
    }
}

fn tree(text: &mut String, records: &[TraceRecord], id: ActionId, style: Style) {
    let start = records
        .iter()
        .map(|record| record.start_unix_us)
        .min()
        .unwrap_or(0);
    let _ = writeln!(
        text,
        "{}  {}",
        style.bold(&format!("action {id}")),
        utc(start / 1000)
    );
    if let Some(parent) = records
        .iter()
        .find(|record| record.action_id == id)
        .and_then(|record| record.parent)
    {
        let _ = writeln!(text, "caused by {parent}: pollux trace {parent}");
    }
    let mut effects: BTreeMap<ActionId, Vec<&TraceRecord>> = BTreeMap::new();
    for record in records {
        if let Some(parent) = record.parent.filter(|_| record.action_id != id) {
            effects.entry(parent).or_default().push(record);
        }
    }
    let mut rows = Vec::new();
    let roots: Vec<&TraceRecord> = records.iter().filter(|record| record.action_id == id).collect();
    let mut drawn = BTreeSet::new();
    branch(&mut rows, &roots, &effects, "", true, start, &mut drawn);
    // An action of which no message is known, only effects: they hang directly under it.
    if roots.is_empty()
        && let Some(orphans) = effects.get(&id)
    {
        branch(&mut rows, orphans, &effects, "", true, start, &mut drawn);
    }
    text.push_str(&table(&["METHOD", "FROM", "TO", "AT", "TOOK", "OUTCOME"], &rows));
}

fn branch(
    rows: &mut Vec<Vec<String>>,
    records: &[&TraceRecord],
    effects: &BTreeMap<ActionId, Vec<&TraceRecord>>,
    indent: &str,
    top: bool,
    start: u64,
    drawn: &mut BTreeSet<ActionId>,
) {
    for (i, record) in records.iter().enumerate() {
        let last = i + 1 == records.len();
        let (mark, below) = match (top, last) {
            (true, _) => ("", ""),
            (false, true) => ("└ ", "  "),
            (false, false) => ("├ ", "│ "),
        };
        rows.push(vec![
            format!("{indent}{mark}{}", record.method),
            record.from.clone(),
            record.to.clone(),
            format!("+{}", span(record.start_unix_us.saturating_sub(start))),
            record.duration_us.map_or_else(|| "-".to_owned(), span),
            outcome(record),
        ]);
        // Records come from outside: an action that claims to be its own ancestor is drawn once.
        if drawn.insert(record.action_id)
            && let Some(effects_of) = effects.get(&record.action_id)
        {
            let indent = format!("{indent}{below}");
            branch(rows, effects_of, effects, &indent, false, start, drawn);
        }
    }
}

fn outcome(record: &TraceRecord) -> String {
    match &record.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Sent => "sent".to_owned(),
        Outcome::Pending => "pending".to_owned(),
        Outcome::Error(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::ControllerId;

    fn record(id: u8, parent: Option<u8>, method: &str, start_unix_us: u64) -> TraceRecord {
        TraceRecord {
            action_id: ActionId::from_bytes([id; 16]),
            parent: parent.map(|parent| ActionId::from_bytes([parent; 16])),
            at: ControllerId::A,
            method: method.into(),
            from: "a/heartbeat".into(),
            to: "b/pool".into(),
            start_unix_us,
            duration_us: Some(1500),
            outcome: Outcome::Done,
        }
    }

    fn report(records: Vec<TraceRecord>) -> TraceReport {
        TraceReport {
            records,
            seen: vec![ControllerId::A],
            missing: Vec::new(),
            truncated: false,
        }
    }

    #[test]
    fn effects_hang_below_their_cause() {
        let records = vec![
            record(1, None, "heartbeat.switchover", 1_000),
            record(2, Some(1), "pool.export", 3_000),
            record(3, Some(2), "config.show", 4_000),
            record(4, Some(1), "alua.set", 9_000),
        ];
        let text = render(
            &report(records),
            Some(ActionId::from_bytes([1; 16])),
            false,
            Style::plain(),
        );
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(
            lines[0].starts_with("heartbeat.switchover  a/heartbeat  b/pool  +0 us"),
            "{text}"
        );
        assert!(lines[1].starts_with("├ pool.export"), "{text}");
        assert!(lines[2].starts_with("│ └ config.show"), "{text}");
        assert!(lines[3].starts_with("└ alua.set"), "{text}");
        assert!(
            lines[3].contains("+8.0 ms") && lines[3].contains("1.5 ms"),
            "{text}"
        );
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= crate::print::WIDTH),
            "{text}"
        );
    }

    #[test]
    fn the_list_shows_whole_actions_and_hides_what_only_looked() {
        let records = vec![
            record(1, None, "config.status", 0),
            record(2, None, "heartbeat.switchover", 0),
        ];
        let text = render(&report(records.clone()), None, false, Style::plain());
        assert!(
            !text.contains("config.status") && text.contains("1 more only looked"),
            "{text}"
        );
        assert!(
            text.contains(&ActionId::from_bytes([2; 16]).to_string()),
            "{text}"
        );
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= crate::print::WIDTH),
            "{text}"
        );
        assert!(render(&report(records), None, true, Style::plain()).contains("config.status"));
    }

    #[test]
    fn a_circle_is_drawn_once() {
        let records = vec![record(1, Some(2), "x.y", 0), record(2, Some(1), "y.x", 0)];
        let text = render(
            &report(records),
            Some(ActionId::from_bytes([1; 16])),
            false,
            Style::plain(),
        );
        assert_eq!(text.matches("x.y").count(), 1, "{text}");
    }
}
