//! Searches worlds and says what it saw. Exit code 0: every promise holds in every state; 1: one does not, and the
//! shortest run that breaks it is printed; 2: bad usage, or no such world.

use clap::Parser;
use pollux_model::{ALL, Named, Report};
use std::io::Write;
use std::process::ExitCode;

/// Searches the shipped decision code exhaustively, in worlds with a bounded number of faults.
#[derive(Debug, Parser)]
#[command(name = "pollux-model")]
struct Options {
    /// Search this world alone.
    #[arg(long)]
    world: Option<String>,
    /// Say which worlds there are, with their bounds, and search none.
    #[arg(long)]
    list: bool,
    /// Search the large worlds as well (an hour).
    #[arg(long, conflicts_with = "world")]
    large: bool,
    /// Give a world up after so many states.
    #[arg(long, default_value_t = 50_000_000)]
    states: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = std::io::stdout().lock();
    // Whoever reads may stop reading; the exit code still counts.
    let mut say = |line: String| {
        let _ = writeln!(out, "{line}");
    };
    let wanted = |world: &&Named| match &options.world {
        Some(name) => world.name == name,
        None => options.list || options.large || !world.large,
    };
    let worlds: Vec<&Named> = ALL.iter().filter(wanted).collect();
    if worlds.is_empty() {
        let name = options.world.unwrap_or_default();
        say(format!("there is no world {name}: `--list` names them"));
        return ExitCode::from(2);
    }
    if options.list {
        for world in worlds {
            say(described(world));
        }
        return ExitCode::SUCCESS;
    }
    let mut broken = 0;
    for world in worlds {
        say(described(world));
        let report = world.search(options.states);
        say(summary(&report));
        if let Some(counterexample) = &report.counterexample {
            say(counterexample.to_string());
            broken += 1;
        }
    }
    if broken > 0 {
        say(format!("{broken} worlds broke a promise"));
        return ExitCode::FAILURE;
    }
    say("every promise held in every state that was seen".to_owned());
    ExitCode::SUCCESS
}

fn described(world: &Named) -> String {
    format!(
        "{}{}\n  bound: {}\n  left out: {}",
        world.name,
        if world.large { " (large)" } else { "" },
        world.bound,
        world.left_out
    )
}

fn summary(report: &Report) -> String {
    format!(
        "  {} states{}, {} transitions, depth {}, {} more states of recoveries, new states by faults {:?}, {:.1} s",
        report.states,
        if report.complete {
            " (all)"
        } else {
            " (NOT ALL: given up)"
        },
        report.transitions,
        report.depth,
        report.recovering,
        report.by_faults,
        report.took.as_secs_f64()
    )
}
