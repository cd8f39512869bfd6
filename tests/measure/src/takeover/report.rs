//! What was measured of takeovers, for people: Markdown tables and curves as SVG.

use super::{FLOOR, Measured, Outcome, PHASES, Scale, Take, name_of};
use crate::chart::{Curve, Point, curves};
use crate::statistics::median;
use std::fmt::Write;

fn all(takes: &[Take], figure: impl Fn(&Take) -> f64) -> Vec<f64> {
    takes.iter().map(figure).collect()
}

/// The smallest, the middle and the largest value.
fn range(values: &[f64]) -> Option<[f64; 3]> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some([least, median(values)?, most])
}

/// Median over the rounds of the ratio to the floor of the same round.
fn ratio(takes: &[Take], floor: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = takes
        .iter()
        .zip(floor)
        .map(|(take, floor)| take.pause / floor)
        .collect();
    median(&ratios)
}

/// When the last thing was done that the host needs.
fn served(take: &Take) -> Option<f64> {
    ["import", "publish", "optimize"]
        .iter()
        .filter_map(|name| Some(take.phases.get(*name)?.1))
        .max_by(f64::total_cmp)
}

/// The report as Markdown; `head` says which machine and how much was measured.
#[must_use]
pub fn markdown(outcome: &Outcome, head: &str) -> String {
    let mut text = format!("# The pause of a takeover\n\n{head}\n\n");
    let _ = writeln!(
        text,
        "A host writes over two paths, the owner of its volumes dies. The longest time without an acknowledgement of the\n\
         stream that waited longest, ms: median, and in brackets the least and the most; the ratio to the floor of the same\n\
         round. The floor: tgtd is killed, and after as much time as the array took in the same round until it suspected its\n\
         partner a second tgtd, with the same file open already, is given the portal. (The profile suspects a partner that is\n\
         silent after {:.0} ms; one whose power control says that it is off, at once.) Everything was read back after each\n\
         takeover.\n",
        outcome.detection
    );
    text.push_str("| | pause, ms | to the floor |\n|---|---|---|\n");
    if let Some([least, middle, most]) = range(&outcome.floor) {
        let _ = writeln!(text, "| {FLOOR} | {middle:.0} ({least:.0}-{most:.0}) | 1.00 |");
    }
    for Measured { scale, takes } in &outcome.measured {
        let Some([least, middle, most]) = range(&all(takes, |take| take.pause)) else {
            continue;
        };
        let _ = write!(
            text,
            "| {} | {middle:.0} ({least:.0}-{most:.0}) ",
            name_of(*scale)
        );
        let _ = match ratio(takes, &outcome.floor) {
            Some(ratio) => writeln!(text, "| {ratio:.2} |"),
            None => writeln!(text, "| not measured |"),
        };
    }
    consists(&mut text, outcome);
    for (what, why) in &outcome.missing {
        let _ = writeln!(text, "\nNot measured: {what}: {why}");
    }
    text
}

/// What the pause consists of.
fn consists(text: &mut String, outcome: &Outcome) {
    text.push_str(
        "\n## What it consists of\n\nAs controller b's journal says (`pollux timeline`), median ms from the death to the end of\n\
         each phase, in brackets the phase's own length; phases of several pools overlap and are told from the\n\
         first to the last. Detection is told from the death. The host goes on when it has noticed: the last\n\
         column is from the end of the last phase that it needs to its first acknowledgement.\n\n| ",
    );
    for name in PHASES {
        let _ = write!(text, "| {name} ");
    }
    let _ = writeln!(text, "| host |\n|---{}|---|", "|---".repeat(PHASES.len()));
    for Measured { scale, takes } in &outcome.measured {
        let _ = write!(text, "| {} ", name_of(*scale));
        for name in PHASES {
            let of = |figure: fn(&(f64, f64)) -> f64| {
                let found: Vec<f64> = takes
                    .iter()
                    .filter_map(|take| take.phases.get(name).map(figure))
                    .collect();
                median(&found)
            };
            let _ = match (of(|phase| phase.1), of(|phase| phase.1 - phase.0)) {
                (Some(to), _) if name == "detect" => write!(text, "| {to:.0} "),
                (Some(to), Some(length)) => write!(text, "| {to:.0} ({length:.0}) "),
                _ => write!(text, "| - "),
            };
        }
        let host: Vec<f64> = takes
            .iter()
            .filter_map(|take| Some(take.resumed - served(take)?))
            .collect();
        let _ = match median(&host) {
            Some(time) => writeln!(text, "| {time:.0} |"),
            None => writeln!(text, "| - |"),
        };
    }
}

/// The curves: the pause against the volumes of one pool, and against pools of one volume.
#[must_use]
pub fn svg(outcome: &Outcome, head: &str) -> String {
    let point = |x: usize, takes: &[Take]| {
        let [low, middle, high] = range(&all(takes, |take| take.pause))?;
        #[expect(clippy::cast_precision_loss, reason = "some thousand")]
        let x = x as f64;
        Some(Point { x, low, middle, high })
    };
    let of = |chosen: fn(&Scale) -> Option<usize>| -> Vec<Point> {
        let mut points: Vec<Point> = outcome
            .measured
            .iter()
            .filter_map(|measured| point(chosen(&measured.scale)?, &measured.takes))
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        points
    };
    let volumes = of(|scale| (scale.pools == 1).then_some(scale.volumes));
    let pools = of(|scale| (scale.volumes == 1).then_some(scale.pools));
    let floor = median(&outcome.floor);
    let panel = |title, x, points| Curve {
        title,
        x,
        y: "pause, ms",
        points,
        level: floor.map(|level| ("floor", level)),
    };
    let panels = [
        panel("one pool", "volumes", volumes),
        panel("pools of one volume", "pools", pools),
    ];
    curves("The pause of a takeover", head, &panels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn outcome() -> Outcome {
        let take = |factor: f64| Take {
            pause: 1000.0 * factor,
            resumed: 990.0 * factor,
            phases: BTreeMap::from([
                ("detect".into(), (10.0, 700.0 * factor)),
                ("import".into(), (800.0 * factor, 900.0 * factor)),
            ]),
        };
        let measured = |pools, volumes, factor: f64| Measured {
            scale: Scale { pools, volumes },
            takes: vec![take(factor), take(factor * 3.0), take(factor * 1.5)],
        };
        Outcome {
            measured: vec![measured(1, 1, 1.0), measured(1, 10, 1.2), measured(4, 1, 2.0)],
            floor: vec![500.0, 1500.0, 750.0],
            detection: 1750.0,
            missing: vec![(
                name_of(Scale {
                    pools: 16,
                    volumes: 1,
                }),
                "late".into(),
            )],
        }
    }

    #[test]
    fn pauses_are_told_with_their_range_their_ratio_and_their_phases() {
        let text = markdown(&outcome(), "a machine");
        for line in [
            "silent after 1750 ms;",
            "| floor | 750 (500-1500) | 1.00 |",
            "| 1 pool of 1 volume | 1500 (1000-3000) | 2.00 |",
            "| 4 pools of 1 volume | 3000 (2000-6000) | 4.00 |",
            "| 1 pool of 1 volume | 1050 | - | - | - | 1350 (150) | - | - | - | - | 135 |",
            "Not measured: 16 pools of 1 volume: late",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn there_is_a_curve_over_volumes_and_one_over_pools() {
        let text = svg(&outcome(), "one < two");
        // Each has two points and the floor.
        assert_eq!(text.matches("<circle").count(), 4);
        assert_eq!(text.matches("floor").count(), 2);
        assert!(text.contains("one &lt; two") && text.ends_with("</svg>\n"));
        let nothing = svg(&Outcome::default(), "");
        assert_eq!(nothing.matches("<circle").count(), 0);
    }
}
