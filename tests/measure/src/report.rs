//! What was measured, for people: a Markdown table and an SVG chart.

use crate::chart::{Bar, Chart};
use crate::router::{FLOOR, FLOOR_OF_TWO, Measured, Outcome, ROUTER, ROUTERS, SIZES};
use crate::statistics::{FIGURES, Figure, medians, ratio};
use std::fmt::Write;

/// What the router is held to: against whom, in which figure, the bound for each size, and whether less is better.
pub struct Target {
    /// The router or both of them.
    pub bus: &'static str,
    /// With whom it is compared.
    pub peer: &'static str,
    /// Place in [`FIGURES`].
    pub figure: usize,
    /// Bound of the ratio, by the place of the size in [`SIZES`].
    pub bounds: [f64; 2],
    /// The ratio should be at most the bound; else at least.
    pub at_most: bool,
}

const fn target(bus: &'static str, peer: &'static str, figure: usize, bounds: [f64; 2]) -> Target {
    Target {
        bus,
        peer,
        figure,
        bounds,
        // Of calls per second more is better, of the rest less.
        at_most: figure != 2,
    }
}

/// Every target of the router.
pub const TARGETS: [Target; 7] = [
    target(ROUTER, FLOOR, 0, [1.15, 1.15]),
    target(ROUTER, "dbus-broker", 0, [0.75, 0.75]),
    target(ROUTER, "nats-server", 0, [0.6, 0.6]),
    target(ROUTER, "dbus-broker", 2, [7.0, 7.0]),
    target(ROUTER, "nats-server", 2, [1.5, 1.5]),
    target(ROUTER, FLOOR, 3, [2.0, 2.5]),
    target(ROUTERS, FLOOR_OF_TWO, 3, [1.5, 1.5]),
];

fn find<'a>(outcome: &'a Outcome, bus: &str) -> Option<&'a Measured> {
    outcome.measured.iter().find(|measured| measured.bus == bus)
}

/// The bus that a bus is a multiple of.
fn floor(bus: &str) -> &'static str {
    if bus == ROUTERS || bus == FLOOR_OF_TWO {
        FLOOR_OF_TWO
    } else {
        FLOOR
    }
}

/// The report as Markdown; `head` says which machine and how much was measured.
#[must_use]
pub fn markdown(outcome: &Outcome, head: &str) -> String {
    let mut text = format!("# The router beside other buses\n\n{head}\n\n");
    text.push_str(
        "Medians over interleaved rounds; in brackets the ratio to the floor of the same round (`forwarder`, and `two\n\
         forwarders` for both routers). One call at a time: p50, p99. 64 calls on their way: calls/s, and the\n\
         processor time of the bus alone (all its processes) per call.\n",
    );
    for (place, size) in SIZES.iter().enumerate() {
        let _ = writeln!(
            text,
            "\n## {size} bytes\n\n| bus | p50, µs | p99, µs | calls/s | CPU, µs |"
        );
        text.push_str("|---|---|---|---|---|\n");
        for measured in &outcome.measured {
            let _ = write!(text, "| {} ", measured.bus);
            let Some(values) = medians(&measured.samples[place]) else {
                continue;
            };
            for (name, figure) in FIGURES {
                let digits = if name == "calls/s" { 0 } else { 1 };
                let _ = write!(text, "| {:.digits$}", figure(&values));
                let of_floor = find(outcome, floor(measured.bus))
                    .and_then(|floor| ratio(&measured.samples[place], &floor.samples[place], figure));
                if let Some(ratio) = of_floor {
                    let _ = write!(text, " ({ratio:.2})");
                }
                text.push(' ');
            }
            text.push_str("|\n");
        }
    }
    text.push_str("\n## Targets\n\n| | against | 200 B | 4 KiB |\n|---|---|---|---|\n");
    for target in &TARGETS {
        let (name, figure): Figure = FIGURES[target.figure];
        let _ = write!(text, "| {}, {name} | {} ", target.bus, target.peer);
        for place in 0..SIZES.len() {
            let measured = find(outcome, target.bus)
                .zip(find(outcome, target.peer))
                .and_then(|(bus, peer)| ratio(&bus.samples[place], &peer.samples[place], figure));
            let bound = target.bounds[place];
            let (sign, word) = match measured {
                None => ("", "not measured".to_owned()),
                Some(ratio) => {
                    let met = if target.at_most {
                        ratio <= bound
                    } else {
                        ratio >= bound
                    };
                    (if met { "met" } else { "**missed**" }, format!("{ratio:.2}"))
                }
            };
            let than = if target.at_most { "<=" } else { ">=" };
            let _ = write!(text, "| {word} ({than} {bound}) {sign} ");
        }
        text.push_str("|\n");
    }
    company(outcome, &mut text);
    for (bus, why) in &outcome.missing {
        let _ = writeln!(text, "\nNot measured: {bus}: {why}");
    }
    text
}

/// What others make a caller wait who has nothing to do with them.
fn company(outcome: &Outcome, text: &mut String) {
    let Some((_, alone)) = outcome.beside.first() else {
        return;
    };
    text.push_str(
        "\n## The router in rough company\n\nOne call at a time, 200 bytes, while somebody else keeps on doing this; in\n\
         brackets the ratio to the same round alone.\n\n| who is beside | p50, µs | p99, µs |\n|---|---|---|\n",
    );
    for (name, samples) in &outcome.beside {
        let Some(values) = medians(samples) else { continue };
        let _ = write!(text, "| {name} ");
        for (_, figure) in &FIGURES[..2] {
            let ratio = ratio(samples, alone, *figure).unwrap_or(f64::NAN);
            let _ = write!(text, "| {:.1} ({ratio:.2}) ", figure(&values));
        }
        text.push_str("|\n");
    }
}

/// The chart: a panel for each figure and size, a bar for each bus, the floor at 1.
#[must_use]
pub fn svg(outcome: &Outcome, head: &str) -> String {
    let title = "The router beside other buses (ratio to the floor)";
    let panels = SIZES.len() * FIGURES.len();
    let mut chart = Chart::new(title, head, SIZES.len(), panels, outcome.measured.len());
    for (name, figure) in FIGURES {
        for (place, size) in SIZES.iter().enumerate() {
            let better = if name == "calls/s" { "more" } else { "less" };
            let rows = outcome.measured.iter().enumerate();
            let bars: Vec<Bar<'_>> = rows
                .filter_map(|(row, measured)| {
                    let floor = find(outcome, floor(measured.bus))?;
                    let ratio = ratio(&measured.samples[place], &floor.samples[place], figure)?;
                    Some(Bar {
                        label: measured.bus,
                        ratio,
                        row,
                    })
                })
                .collect();
            chart.panel(&format!("{name}, {size} bytes ({better} is better)"), &bars);
        }
    }
    chart.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Sample;

    fn outcome() -> Outcome {
        let measured = |bus, factor: f64| Measured {
            bus,
            samples: [1.0, 2.0].map(|size| {
                let sample = |round: f64| Sample {
                    p50_us: 10.0 * factor * size * round,
                    p99_us: 20.0 * factor * size * round,
                    calls_per_s: 1000.0 / factor / size / round,
                    cpu_us: 5.0 * factor * size * round,
                };
                vec![sample(1.0), sample(9.0), sample(1.1)]
            }),
        };
        Outcome {
            measured: vec![
                measured(FLOOR, 1.0),
                measured(ROUTER, 1.125),
                measured("dbus-broker", 9.0),
            ],
            missing: vec![("nats-server", "not here".into())],
            beside: [("nobody", 1.0), ("a flood", 3.0)]
                .map(|(name, factor)| {
                    let sample = |round: f64| Sample {
                        p50_us: 10.0 * factor * round,
                        p99_us: 20.0 * factor * round,
                        ..Sample::default()
                    };
                    (name, vec![sample(1.0), sample(9.0), sample(1.1)])
                })
                .to_vec(),
        }
    }

    #[test]
    fn targets_are_judged_by_ratios_and_what_is_missing_is_named() {
        let text = markdown(&outcome(), "a machine");
        for line in [
            "| pollux | 12.4 (1.12) | 24.8 (1.12) | 808 (0.89) | 6.2 (1.12) |",
            "| pollux, p50 | forwarder | 1.12 (<= 1.15) met | 1.12 (<= 1.15) met |",
            "| pollux, calls/s | dbus-broker | 8.00 (>= 7) met | 8.00 (>= 7) met |",
            "| pollux, p50 | nats-server | not measured (<= 0.6)  | not measured (<= 0.6)  |",
            "| a flood | 33.0 (3.00) | 66.0 (3.00) |",
            "Not measured: nats-server: not here",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        let mut slow = outcome();
        for samples in &mut slow.measured[1].samples {
            samples.iter_mut().for_each(|sample| sample.p50_us *= 2.0);
        }
        assert!(markdown(&slow, "").contains("| pollux, p50 | forwarder | 2.25 (<= 1.15) **missed**"));
    }

    #[test]
    fn the_chart_has_a_bar_for_each_bus_and_figure() {
        let text = svg(&outcome(), "one < two");
        assert_eq!(text.matches("<rect").count(), 1 + 3 * 4 * 2);
        assert!(text.contains("one &lt; two") && text.ends_with("</svg>\n"));
    }
}
