//! `cargo sweep`: see the library. Exit code 0: enough was caught and the rest is explained; 1: not so; 2: it did not
//! run.

#![forbid(unsafe_code)]

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// Tries every small change of heartbeat's decision core, and says who notices it.
#[derive(Debug, Parser)]
#[command(name = "pollux-sweep")]
struct Options {
    /// Only mutants of files whose names contain this.
    #[arg(long)]
    file: Option<String>,
    /// Only the mutant of this number (see --list); may be repeated.
    #[arg(long, value_name = "NUMBER")]
    only: Vec<usize>,
    /// Print the list with its numbers and do nothing.
    #[arg(long)]
    list: bool,
    /// Write `heartbeat/core/MUTANTS.md`.
    #[arg(long)]
    write: bool,
    /// What was caught once is caught, although tests or sources have changed since; a table says how many those are.
    #[arg(long)]
    trust_caught: bool,
    /// Ask only the core's tests and few seeds: what passes may still be caught. For whoever writes tests.
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Ask nobody: show, or write, what is known already.
    #[arg(long, conflicts_with = "quick")]
    known: bool,
    /// How many mutants are judged at the same time.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let wanted = pollux_sweep::Wanted {
        file: options.file,
        only: options.only,
        list: options.list,
        write: options.write,
        trust_caught: options.trust_caught,
        quick: options.quick,
        known: options.known,
        workers: options.workers,
    };
    // Whoever reads may stop reading; the exit code still counts.
    let mut say = |line: String| {
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    match pollux_sweep::run(&wanted, &mut say) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("sweep: {problem}");
            ExitCode::from(2)
        }
    }
}
