//! `cargo crash`: see the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use pollux_crash::child::{self, Start};
use pollux_crash::{Fault, Options, Outcome, run};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Two keepers of the configuration that are killed at every point of their work, with loss of what was not flushed;
/// after each kill everything that was acknowledged must be there. Exit codes: 0 nothing was lost, 1 something was, or
/// could not be played, 2 wrong argument.
#[derive(Debug, Parser)]
#[command(name = "crash", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// How often somebody is killed
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    cycles: u64,
    /// Chooses whom, where and what is lost
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where the databases are made; the system's folder for such things if it is not given
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Keepers that count before it is durable: must be found
    #[arg(long, hide = true, conflicts_with = "lies")]
    early: bool,
    /// Disks that say that they have flushed, and have not: must be found
    #[arg(long, hide = true)]
    lies: bool,
    #[command(subcommand)]
    keeper: Option<Keeper>,
}

#[derive(Debug, Subcommand)]
enum Keeper {
    /// One of the two.
    #[command(hide = true)]
    Keeper(Start),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Keeper::Keeper(start)) = &arguments.keeper {
        return child::main(start);
    }
    match play(&arguments) {
        Ok(outcome) => {
            print(&outcome);
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<Outcome, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program has no name: {error}"))?;
    let fault = match (arguments.early, arguments.lies) {
        (true, _) => Fault::Early,
        (_, true) => Fault::Lies,
        _ => Fault::None,
    };
    let options = Options {
        program,
        folder: arguments.folder.clone().unwrap_or_else(std::env::temp_dir),
        cycles: arguments.cycles,
        seed: arguments.seed,
        fault,
    };
    let cycles = options.cycles;
    let seen = std::io::stderr().is_terminal();
    run(options, |outcome| {
        if seen || outcome.cycles.is_multiple_of(500) {
            eprint!("\r{} of {cycles} cycles", outcome.cycles);
            if !seen || outcome.cycles == cycles {
                eprintln!();
            }
        }
    })
}

fn print(outcome: &Outcome) {
    let deaths: u64 = outcome.deaths.values().sum();
    println!(
        "{} cycles on {} arrays, {deaths} kills, both at once in {}:",
        outcome.cycles, outcome.arrays, outcome.both
    );
    for (place, count) in &outcome.deaths {
        println!("{count:8}  {place}");
    }
    println!("{} audits found that entries had been let go", outcome.compacted);
    println!(
        "{} changes acknowledged, {} in doubt and asked again, {} answers repeated; lost: 0",
        outcome.acknowledged, outcome.in_doubt, outcome.repeated
    );
}
