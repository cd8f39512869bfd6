//! What was measured of the target, for people: Markdown tables and an SVG chart.

use super::{CACHED, FORWARDED, Measured, ONE, ONE_CACHED, Outcome, Parts, SYSTEMS, TGTD, WORKLOADS};
use crate::chart::{Bar, Chart};
use crate::statistics::{FIGURES, Figure, median, medians, ratio};
use std::fmt::Write;

/// Places in [`FIGURES`].
const P50: usize = 0;
const PER_SECOND: usize = 2;
const CPU: usize = 3;

/// What the target is held to.
struct Target {
    system: &'static str,
    /// With whom it is compared.
    peer: &'static str,
    /// Place in [`FIGURES`].
    figure: usize,
    /// Places in [`WORKLOADS`].
    workloads: &'static [usize],
    bound: f64,
}

/// Every target. Of commands per second more is better, of the rest less.
const TARGETS: [Target; 7] = [
    target(ONE, TGTD, PER_SECOND, &[2, 3], 2.0),
    target(ONE, TGTD, P50, &[0, 1], 0.7),
    target(ONE, TGTD, CPU, &[2, 3], 0.6),
    target(ONE_CACHED, CACHED, PER_SECOND, &[2, 3], 2.0),
    target(ONE_CACHED, CACHED, P50, &[0, 1], 0.7),
    target(ONE_CACHED, CACHED, CPU, &[2, 3], 0.6),
    target(FORWARDED, ONE, PER_SECOND, &[2, 3, 4, 5], 0.5),
];

const fn target(
    system: &'static str,
    peer: &'static str,
    figure: usize,
    workloads: &'static [usize],
    bound: f64,
) -> Target {
    Target {
        system,
        peer,
        figure,
        workloads,
        bound,
    }
}

/// The name of a figure where commands are counted.
const fn named(figure: Figure) -> &'static str {
    match figure.0.as_bytes() {
        b"calls/s" => "commands/s",
        _ => figure.0,
    }
}

fn against(outcome: &Outcome, measured: &Measured, peer: &str, figure: Figure) -> Option<f64> {
    let peer = outcome.of(peer, measured.workload)?;
    ratio(&measured.samples, &peer.samples, figure.1)
}

/// The report as Markdown; `head` says which machine and how much was measured.
#[must_use]
pub fn markdown(outcome: &Outcome, head: &str) -> String {
    let mut text = format!("# The block target beside tgtd\n\n{head}\n\n");
    text.push_str(
        "Medians over interleaved rounds; in brackets the ratio to tgtd in the same round. One initiator (libiscsi), one\n\
         session, the same network. CPU is the processor time of a command, µs: of tgtd, which reads and writes its file\n\
         itself; of the array, `block-targetd` and `pool-managerd`, and after the plus what the enclosure spends in the\n\
         place of the disks.\n\n\
         What a write is before GOOD: `tgtd` has written it to its file and called `fdatasync`; `tgtd, write cache` has\n\
         written it to the page cache; `pollux` has marked its region in the pool's intents and written it to one disk\n\
         with force unit access; `pollux, write cache` has given it to the disk, which keeps it in its cache;\n\
         `pollux, mirror` as `pollux` on two disks; `pollux, forwarded` as `pollux`, asked at the partner's portal.\n",
    );
    for (place, workload) in WORKLOADS.iter().enumerate() {
        let _ = writeln!(
            text,
            "\n## {}\n\n| system | p50, µs | p99, µs | commands/s | CPU, µs |\n|---|---|---|---|---|",
            workload.name
        );
        for measured in SYSTEMS.iter().filter_map(|system| outcome.of(system, place)) {
            line(&mut text, outcome, measured);
        }
    }
    parts(&mut text, outcome);
    targets(&mut text, outcome);
    for (system, why) in &outcome.missing {
        let _ = writeln!(text, "\nNot measured: {system}: {why}");
    }
    text
}

fn line(text: &mut String, outcome: &Outcome, measured: &Measured) {
    let Some(values) = medians(&measured.samples) else {
        return;
    };
    let _ = write!(text, "| {} ", measured.system);
    for (place, figure) in FIGURES.into_iter().enumerate() {
        let _ = write!(text, "| {:.0}", figure.1(&values));
        if place == CPU {
            let disks = part(measured, |parts| parts.disks).unwrap_or_default();
            if disks > 0.0 {
                let _ = write!(text, " + {disks:.0}");
            }
        }
        if let Some(ratio) = against(outcome, measured, TGTD, figure) {
            let _ = write!(text, " ({ratio:.2})");
        }
        text.push(' ');
    }
    text.push_str("|\n");
}

/// Median of one part of the processor time.
fn part(measured: &Measured, which: fn(&Parts) -> f64) -> Option<f64> {
    median(&measured.parts.iter().map(which).collect::<Vec<_>>())
}

fn parts(text: &mut String, outcome: &Outcome) {
    text.push_str(
        "\n## Where processor time goes\n\nµs of a command.\n\n| workload | system | target | pool manager | disks |\n\
         |---|---|---|---|---|\n",
    );
    for (place, workload) in WORKLOADS.iter().enumerate() {
        for measured in SYSTEMS.iter().filter_map(|system| outcome.of(system, place)) {
            let _ = write!(text, "| {} | {} ", workload.name, measured.system);
            let all: [fn(&Parts) -> f64; 3] = [|parts| parts.target, |parts| parts.pool, |parts| parts.disks];
            for which in all {
                let _ = match part(measured, which) {
                    Some(time) if time > 0.0 => write!(text, "| {time:.1} "),
                    _ => write!(text, "| - "),
                };
            }
            text.push_str("|\n");
        }
    }
}

fn targets(text: &mut String, outcome: &Outcome) {
    text.push_str("\n## Targets\n\n| | workload | against | |\n|---|---|---|---|\n");
    for wanted in &TARGETS {
        let figure = FIGURES[wanted.figure];
        let more = wanted.figure == PER_SECOND;
        let than = if more { ">=" } else { "<=" };
        for &place in wanted.workloads {
            let _ = write!(
                text,
                "| {}, {} | {} | {} ",
                wanted.system,
                named(figure),
                WORKLOADS[place].name,
                wanted.peer
            );
            let found = outcome
                .of(wanted.system, place)
                .and_then(|measured| against(outcome, measured, wanted.peer, figure));
            let bound = wanted.bound;
            let _ = match found {
                None => writeln!(text, "| not measured ({than} {bound}) |"),
                Some(ratio) => {
                    let met = if more { ratio >= bound } else { ratio <= bound };
                    let word = if met { "met" } else { "**missed**" };
                    writeln!(text, "| {ratio:.2} ({than} {bound}) {word} |")
                }
            };
        }
    }
}

/// The chart: a row of panels for each workload, a bar for each system, tgtd at 1.
#[must_use]
pub fn svg(outcome: &Outcome, head: &str) -> String {
    let shown = [PER_SECOND, P50, CPU].map(|place| FIGURES[place]);
    let panels = shown.len() * WORKLOADS.len();
    let title = "The block target beside tgtd (ratio to tgtd; CPU without the disks)";
    let mut chart = Chart::new(title, head, shown.len(), panels, SYSTEMS.len());
    for (place, workload) in WORKLOADS.iter().enumerate() {
        for figure in shown {
            let bars: Vec<Bar<'_>> = SYSTEMS
                .iter()
                .enumerate()
                .filter_map(|(row, &label)| {
                    let measured = outcome.of(label, place)?;
                    let ratio = against(outcome, measured, TGTD, figure)?;
                    Some(Bar { label, ratio, row })
                })
                .collect();
            let name = named(figure);
            let better = if name == "commands/s" { "more" } else { "less" };
            chart.panel(&format!("{name}, {} ({better} is better)", workload.name), &bars);
        }
    }
    chart.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Sample;
    use crate::target::MIRROR;

    fn outcome() -> Outcome {
        let measured = |system, factor: f64, disks: f64| {
            let sample = move |round: f64| Sample {
                p50_us: 100.0 * factor * round,
                p99_us: 200.0 * factor * round,
                calls_per_s: 1000.0 / factor / round,
                cpu_us: 50.0 * factor * round,
            };
            let parts = Parts {
                target: 30.0 * factor,
                pool: if disks > 0.0 { 20.0 * factor } else { 0.0 },
                disks,
            };
            (0..WORKLOADS.len()).map(move |workload| Measured {
                system,
                workload,
                samples: vec![sample(1.0), sample(9.0), sample(1.1)],
                parts: vec![parts; 3],
            })
        };
        Outcome {
            measured: measured(TGTD, 1.0, 0.0)
                .chain(measured(ONE, 0.5, 7.0))
                .chain(measured(FORWARDED, 1.5, 7.0))
                .collect(),
            missing: vec![(MIRROR, "no disks".into())],
        }
    }

    #[test]
    fn targets_are_judged_by_ratios_of_the_same_round_and_what_is_missing_is_named() {
        let text = markdown(&outcome(), "a machine");
        for line in [
            "## 4 KiB random read, depth 32",
            "| tgtd | 110 (1.00) | 220 (1.00) | 909 (1.00) | 55 (1.00) |",
            "| pollux | 55 (0.50) | 110 (0.50) | 1818 (2.00) | 28 + 7 (0.50) |",
            "| 4 KiB random read, depth 1 | pollux | 15.0 | 10.0 | 7.0 |",
            "| 4 KiB random read, depth 1 | tgtd | 30.0 | - | - |",
            "| pollux, commands/s | 4 KiB random read, depth 32 | tgtd | 2.00 (>= 2) met |",
            "| pollux, p50 | 4 KiB random write, depth 1 | tgtd | 0.50 (<= 0.7) met |",
            "| pollux, forwarded, commands/s | 4 KiB random read, depth 32 | pollux | 0.33 (>= 0.5) **missed** |",
            "Not measured: pollux, mirror: no disks",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        let nothing = markdown(&Outcome::default(), "");
        assert!(nothing.contains("| tgtd | not measured (>= 2) |"), "{nothing}");
    }

    #[test]
    fn the_chart_has_a_bar_for_each_system_workload_and_figure() {
        let text = svg(&outcome(), "one < two");
        assert_eq!(text.matches("<rect").count(), 1 + 3 * 3 * WORKLOADS.len());
        assert!(text.contains("one &lt; two") && text.ends_with("</svg>\n"));
    }
}
