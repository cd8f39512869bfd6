//! What was measured of the keeper, for people: Markdown tables and an SVG chart.

use super::{ARRAY, FLOOR, Measured, ONE, Outcome, SYSTEMS, THREE};
use crate::chart::{Bar, Chart};
use crate::statistics::{FIGURES, Figure, median, medians, ratio};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Places in [`FIGURES`].
const P50: usize = 0;
const PER_SECOND: usize = 2;
/// With whom everybody is compared, in the order in which ratios are written.
const PEERS: [&str; 3] = [FLOOR, ONE, THREE];

/// What the keeper is held to: with whom it is compared, in which figure, and the bound of the ratio.
struct Target {
    peer: &'static str,
    /// Place in [`FIGURES`].
    figure: usize,
    bound: f64,
}

/// Every target of the keeper. Of changes per second more is better, of time less.
const TARGETS: [Target; 6] = [
    target(FLOOR, P50, 1.5),
    target(ONE, P50, 1.0),
    target(THREE, P50, 0.35),
    target(ONE, PER_SECOND, 2.0),
    target(THREE, PER_SECOND, 4.0),
    target(FLOOR, PER_SECOND, 0.6),
];

const fn target(peer: &'static str, figure: usize, bound: f64) -> Target {
    Target { peer, figure, bound }
}

/// The name of a figure where changes are counted.
const fn named(figure: Figure) -> &'static str {
    match figure.0.as_bytes() {
        b"calls/s" => "changes/s",
        _ => figure.0,
    }
}

fn against(outcome: &Outcome, measured: &Measured, peer: &str, figure: Figure) -> Option<f64> {
    let peer = outcome.of(peer, measured.objects)?;
    ratio(&measured.samples, &peer.samples, figure.1)
}

fn scales(outcome: &Outcome) -> BTreeSet<usize> {
    outcome.measured.iter().map(|measured| measured.objects).collect()
}

fn missed(outcome: &Outcome) -> BTreeSet<usize> {
    outcome.rejoined.iter().map(|rejoined| rejoined.missed).collect()
}

/// A number with its thousands apart.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The report as Markdown; `head` says which machine and how much was measured.
#[must_use]
pub fn markdown(outcome: &Outcome, head: &str) -> String {
    let mut text = format!("# The config keeper beside others\n\n{head}\n\n");
    text.push_str(
        "Medians over interleaved rounds; in brackets the ratios to the floor, to etcd with one node and to etcd with\n\
         three, of the same round. One writer: p50, p99. 32 writers, each with a connection and one change on its way:\n\
         changes/s, and the processor time of the system (all its processes) per change. A value has 200 bytes.\n\
         Everybody makes durable on the same disk what is answered: both controllers, both processes of the floor, the\n\
         node, or a majority of three. etcd is spoken to over gRPC, at its leader.\n",
    );
    for objects in scales(outcome) {
        let _ = writeln!(
            text,
            "\n## {} objects\n\n| system | p50, µs | p99, µs | changes/s | CPU, µs |\n|---|---|---|---|---|",
            thousands(objects)
        );
        for measured in outcome
            .measured
            .iter()
            .filter(|measured| measured.objects == objects)
        {
            let Some(values) = medians(&measured.samples) else {
                continue;
            };
            let _ = write!(text, "| {} ", measured.system);
            for figure in FIGURES {
                let _ = write!(text, "| {:.0}", figure.1(&values));
                let ratios: Vec<String> = PEERS
                    .iter()
                    .map(|peer| {
                        against(outcome, measured, peer, figure)
                            .map_or("-".into(), |ratio| format!("{ratio:.2}"))
                    })
                    .collect();
                let _ = write!(text, " ({}) ", ratios.join(", "));
            }
            text.push_str("|\n");
        }
    }
    rejoined(&mut text, outcome);
    targets(&mut text, outcome);
    for missing in &outcome.missing {
        let _ = writeln!(
            text,
            "\nNot measured: {}, {}: {}",
            missing.system, missing.what, missing.why
        );
    }
    text
}

fn rejoined(text: &mut String, outcome: &Outcome) {
    if outcome.rejoined.is_empty() {
        return;
    }
    text.push_str(
        "\n## A member that comes back\n\nFrom the start of its program, after a kill and so many missed changes, until a \
         change is durable on both controllers\nagain, or the node of three holds the leader's revision; median, in \
         brackets the ratio to etcd in the same round.\n\n| missed changes | system | ms | changes/s |\n|---|---|---|---|\n",
    );
    for count in missed(outcome) {
        for system in SYSTEMS {
            let Some(back) = outcome.back(system, count) else {
                continue;
            };
            let Some(time) = median(&back.took) else { continue };
            let _ = write!(text, "| {} | {system} | {:.0}", thousands(count), time * 1000.0);
            if let Some(ratio) = coming_back(outcome, system, count) {
                let _ = write!(text, " ({ratio:.2})");
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let rate = count as f64 / time;
            let _ = writeln!(text, " | {rate:.0} |");
        }
    }
}

/// Median ratio of the time of this system to that of etcd, of the same rounds.
fn coming_back(outcome: &Outcome, system: &str, count: usize) -> Option<f64> {
    let (this, peer) = (outcome.back(system, count)?, outcome.back(THREE, count)?);
    let ratios: Vec<f64> = this
        .took
        .iter()
        .zip(&peer.took)
        .map(|(this, peer)| this / peer)
        .collect();
    median(&ratios)
}

fn targets(text: &mut String, outcome: &Outcome) {
    let scales = scales(outcome);
    text.push_str("\n## Targets\n\n| | against ");
    for objects in &scales {
        let _ = write!(text, "| {} objects ", thousands(*objects));
    }
    let _ = writeln!(text, "|\n|---|---{}|", "|---".repeat(scales.len()));
    for Target { peer, figure, bound } in TARGETS {
        let figure = FIGURES[figure];
        let more = named(figure) == "changes/s";
        let writers = if more { "32 writers" } else { "1 writer" };
        let _ = write!(text, "| {writers}, {} | {peer} ", named(figure));
        for objects in &scales {
            let measured = outcome
                .of(ARRAY, *objects)
                .and_then(|measured| against(outcome, measured, peer, figure));
            let than = if more { ">=" } else { "<=" };
            let _ = match measured {
                None => write!(text, "| not measured ({than} {bound}) "),
                Some(ratio) => {
                    let met = if more { ratio >= bound } else { ratio <= bound };
                    let word = if met { "met" } else { "**missed**" };
                    write!(text, "| {ratio:.2} ({than} {bound}) {word} ")
                }
            };
        }
        text.push_str("|\n");
    }
}

/// The chart: a panel for each figure and number of objects, a bar for each system, the floor at 1; and one for each
/// number of missed changes, etcd at 1.
#[must_use]
pub fn svg(outcome: &Outcome, head: &str) -> String {
    let (scales, missed) = (scales(outcome), missed(outcome));
    let columns = scales.len().max(missed.len());
    let panels = columns * (FIGURES.len() + 1);
    let title = "The config keeper beside others (ratio to the floor; of a member that comes back, to etcd)";
    let mut chart = Chart::new(title, head, columns, panels, SYSTEMS.len());
    let row_of = |wanted: &str| SYSTEMS.iter().position(|system| *system == wanted);
    for figure in FIGURES {
        let better = if named(figure) == "changes/s" {
            "more"
        } else {
            "less"
        };
        for column in 0..columns {
            let Some(&objects) = scales.iter().nth(column) else {
                chart.panel("", &[]);
                continue;
            };
            let bars: Vec<Bar<'_>> = outcome
                .measured
                .iter()
                .filter(|measured| measured.objects == objects)
                .filter_map(|measured| {
                    Some(Bar {
                        label: measured.system,
                        ratio: against(outcome, measured, FLOOR, figure)?,
                        row: row_of(measured.system)?,
                    })
                })
                .collect();
            let name = named(figure);
            let count = thousands(objects);
            chart.panel(&format!("{name}, {count} objects ({better} is better)"), &bars);
        }
    }
    for count in missed {
        let bars: Vec<Bar<'_>> = SYSTEMS
            .iter()
            .enumerate()
            .filter_map(|(row, &label)| {
                let ratio = coming_back(outcome, label, count)?;
                Some(Bar { label, ratio, row })
            })
            .collect();
        let count = thousands(count);
        chart.panel(
            &format!("back after {count} missed changes (less is better)"),
            &bars,
        );
    }
    chart.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::{FOLLOWER, Missing, Rejoined};
    use crate::statistics::Sample;

    fn outcome() -> Outcome {
        let measured = |system, objects: usize, factor: f64| {
            let sample = |round: f64| Sample {
                p50_us: 100.0 * factor * round,
                p99_us: 200.0 * factor * round,
                calls_per_s: 1000.0 / factor / round,
                cpu_us: 50.0 * factor * round,
            };
            Measured {
                system,
                objects,
                samples: vec![sample(1.0), sample(9.0), sample(1.1)],
            }
        };
        let back = |system, took: [f64; 3]| Rejoined {
            system,
            missed: 1000,
            took: took.to_vec(),
        };
        Outcome {
            measured: vec![
                measured(FLOOR, 10, 1.0),
                measured(ARRAY, 10, 1.25),
                measured(ONE, 10, 1.25),
                measured(FLOOR, 1000, 1.0),
                measured(ARRAY, 1000, 2.0),
            ],
            rejoined: vec![back(ARRAY, [0.2, 2.0, 0.3]), back(THREE, [0.4, 4.0, 0.6])],
            missing: vec![Missing {
                system: FOLLOWER,
                what: "1000 objects".into(),
                why: "not finished in 1 s: 7 of 1000 objects".into(),
            }],
        }
    }

    #[test]
    fn targets_are_judged_by_ratios_of_the_same_round_and_what_is_missing_is_named() {
        let text = markdown(&outcome(), "a machine");
        for line in [
            "## 1,000 objects",
            "| floor | 110 (1.00, 0.80, -) | 220 (1.00, 0.80, -) | 909 (1.00, 1.25, -) | 55 (1.00, 0.80, -) |",
            "| pollux | 138 (1.25, 1.00, -) | 275 (1.25, 1.00, -) | 727 (0.80, 1.00, -) | 69 (1.25, 1.00, -) |",
            "| 1,000 | pollux | 300 (0.50) | 3333 |",
            "| | against | 10 objects | 1,000 objects |",
            "| 1 writer, p50 | floor | 1.25 (<= 1.5) met | 2.00 (<= 1.5) **missed** |",
            "| 1 writer, p50 | etcd, 3 nodes | not measured (<= 0.35) | not measured (<= 0.35) |",
            "| 32 writers, changes/s | floor | 0.80 (>= 0.6) met | 0.50 (>= 0.6) **missed** |",
            "| 32 writers, changes/s | etcd, 1 node | 1.00 (>= 2) **missed** | not measured (>= 2) |",
            "Not measured: pollux, from the follower, 1000 objects: not finished in 1 s: 7 of 1000 objects",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn the_chart_has_a_bar_for_each_system_and_figure_and_for_each_that_came_back() {
        let text = svg(&outcome(), "one < two");
        assert_eq!(text.matches("<rect").count(), 1 + 5 * 4 + 2);
        assert!(text.contains("one &lt; two") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            [1, 999, 1000, 100_000].map(thousands),
            ["1", "999", "1,000", "100,000"]
        );
    }
}
