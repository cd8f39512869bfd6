//! `pollux timeline`: how long each phase of a takeover or switchover took, as bars.

use crate::array::{Array, BOTH, QUESTION};
use crate::error::Error;
use crate::print::{Style, fit, span, utc, wrap};
use pollux_api::action::ActionId;
use pollux_api::config::Snapshot;
use pollux_api::heartbeat::{Incident, Phase, TIMELINE, TimelineQuery};
use pollux_api::id::ControllerId;
use pollux_runtime::Ctx;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Columns of the bars.
const BARS: usize = 36;

/// Incidents of both controllers, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The incidents.
    pub incidents: Vec<Incident>,
    /// Controllers that did not say theirs, and why.
    pub unknown: BTreeMap<ControllerId, String>,
}

/// Asks both controllers.
///
/// # Errors
/// An action was named, both answered, and neither knows it.
pub async fn gather(array: &Array, id: Option<ActionId>, limit: u32) -> Result<Report, Error> {
    let query = TimelineQuery {
        action_id: id.map(|id| id.to_string()),
        limit,
    };
    let mut report = Report {
        incidents: Vec::new(),
        unknown: BTreeMap::new(),
    };
    for at in BOTH {
        match array
            .ask::<_, Vec<Incident>>(at, TIMELINE, &query, &Ctx::new(QUESTION))
            .await
        {
            Ok(incidents) => report.incidents.extend(incidents),
            Err(error) => {
                report.unknown.insert(at, error.to_string());
            }
        }
    }
    report
        .incidents
        .sort_by_key(|incident| std::cmp::Reverse(incident.started_unix_ms));
    if limit > 0 {
        report.incidents.truncate(limit as usize);
    }
    if let (Some(id), true, true) = (id, report.incidents.is_empty(), report.unknown.is_empty()) {
        return Err(Error::failed(
            format!("no takeover, switchover or giveback has the action {id}"),
            "`pollux timeline` lists the newest; `pollux trace ID` shows any action",
        ));
    }
    Ok(report)
}

/// Bars of every incident, oldest first, so that the newest stands at the end where one looks.
pub fn render(report: &Report, names: Option<&Snapshot>, style: Style) -> String {
    let mut text = String::new();
    for (id, why) in &report.unknown {
        let _ = writeln!(
            text,
            "{}",
            style.warn(&format!("controller {id} does not tell: what it saw is unknown"))
        );
        text.push_str(&wrap(why, 2));
    }
    if report.incidents.is_empty() {
        text.push_str("no takeover, switchover or giveback is kept\n");
    }
    for incident in report.incidents.iter().rev() {
        render_one(&mut text, incident, names, style);
    }
    text
}

fn render_one(text: &mut String, incident: &Incident, names: Option<&Snapshot>, style: Style) {
    let Incident {
        action_id,
        kind,
        controller,
        epoch,
        cause,
        started_unix_ms,
        phases,
        outcome,
        ..
    } = incident;
    let head = format!("{kind} by {controller}, epoch {epoch}: {outcome}");
    let painted = match outcome.as_str() {
        "done" => style.bold(&head),
        "running" => style.warn(&head),
        _ => style.bad(&head),
    };
    let _ = writeln!(text, "{painted}\n  {}  action {action_id}", utc(*started_unix_ms));
    text.push_str(&wrap(cause, 2));
    let begin = phases.iter().map(|phase| phase.start_us).min().unwrap_or(0);
    let end = phases.iter().map(phase_end).max().unwrap_or(0);
    let whole = u64::try_from(end.saturating_sub(begin)).unwrap_or(0).max(1);
    for phase in phases {
        let pool = phase.pool.map_or_else(String::new, |pool| {
            let named = names.and_then(|snapshot| snapshot.tables.pools.get(&pool));
            named.map_or_else(|| pool.to_string(), |pool| pool.name.clone())
        });
        let length = phase.length_us.map_or_else(|| "running".to_owned(), span);
        let bar = bar(phase, begin, whole);
        let _ = writeln!(
            text,
            "  {} {} |{bar}| {length:>8}",
            fit(&phase.name, 10),
            fit(&pool, 14)
        );
        if let Some(note) = &phase.note {
            text.push_str(&wrap(note, 29));
        }
    }
    if !phases.is_empty() {
        let _ = writeln!(
            text,
            "  {} {} |{}| {:>8}",
            fit("whole", 10),
            " ".repeat(14),
            "=".repeat(BARS),
            span(whole)
        );
    }
    text.push('\n');
}

fn phase_end(phase: &Phase) -> i64 {
    phase
        .start_us
        .saturating_add_unsigned(phase.length_us.unwrap_or(0))
}

/// A bar on the scale of the whole; a phase is never so short that it has none, and one that runs has no end.
fn bar(phase: &Phase, begin: i64, whole: u64) -> String {
    let column = |us: i64| {
        let offset = u128::try_from(us.saturating_sub(begin)).unwrap_or(0);
        usize::try_from(offset * BARS as u128 / u128::from(whole))
            .unwrap_or(BARS)
            .min(BARS)
    };
    let from = column(phase.start_us).min(BARS - 1);
    let to = if phase.length_us.is_some() {
        column(phase_end(phase)).max(from + 1)
    } else {
        BARS
    };
    let mark = if phase.length_us.is_some() { "#" } else { ">" };
    format!(
        "{}{}{}",
        " ".repeat(from),
        mark.repeat(to - from),
        " ".repeat(BARS - to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::Epoch;

    fn phase(name: &str, start_us: i64, length_us: Option<u64>) -> Phase {
        Phase {
            name: name.into(),
            pool: None,
            start_us,
            length_us,
            note: None,
        }
    }

    #[test]
    fn phases_are_bars_on_one_scale() {
        let mut fence = phase("fence", 10_000, Some(40_000));
        fence.note = Some("power off confirmed".into());
        let incident = Incident {
            action_id: "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506".into(),
            kind: "takeover".into(),
            controller: ControllerId::B,
            epoch: Epoch::new(6),
            caused_by: None,
            cause: "silent on wire and disk".into(),
            started_unix_ms: 0,
            started_ns: 0,
            phases: vec![
                phase("detect", -90_000, Some(90_000)),
                phase("arbitrate", 0, Some(10_000)),
                fence,
                phase("import", 50_000, None),
            ],
            outcome: "running".into(),
        };
        let report = Report {
            incidents: vec![incident],
            unknown: BTreeMap::new(),
        };
        let text = render(&report, None, Style::plain());
        let expected = "\
takeover by b, epoch 6: running
  1970-01-01 00:00:00.000 UTC  action 0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506
  silent on wire and disk
  detect                    |#######################             |  90.0 ms
  arbitrate                 |                       ##           |  10.0 ms
  fence                     |                         ###########|  40.0 ms
                             power off confirmed
  import                    |                                   >|  running
  whole                     |====================================|   140 ms

";
        assert_eq!(text, expected);
    }

    #[test]
    fn figures_from_outside_never_panic() {
        for start in [i64::MIN, -1, 0, 1, i64::MAX] {
            for length in [None, Some(0), Some(u64::MAX)] {
                for (begin, whole) in [(i64::MIN, u64::MAX), (0, 1), (i64::MAX, 1)] {
                    assert_eq!(
                        bar(&phase("x", start, length), begin, whole).chars().count(),
                        BARS
                    );
                }
            }
        }
    }
}
