//! Plays seeds and says what they saw. Exit code 0: every invariant held, or every mutant was caught; 1: not so; 2: bad usage.

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates both controllers of an array under random faults, each run decided by one seed.
#[derive(Debug, Parser)]
#[command(name = "pollux-sim")]
struct Options {
    /// How many seeds to play.
    #[arg(long, default_value_t = 1_000, conflicts_with = "seed", value_parser = how_many, allow_negative_numbers = true)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed", value_parser = a_seed, allow_negative_numbers = true)]
    from: u64,
    /// Play this seed alone.
    #[arg(long, value_parser = a_seed, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Print every event and effect of both sides.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Play the seed at the pace of commands from the standard input: n [COUNT], c [WORD], b [KIND], s, r COUNT, q.
    #[arg(long, requires = "seed", conflicts_with_all = ["trace", "seeds", "from"])]
    step: bool,
    /// Play the seed with these of its faults alone, such as `3,7/4` (numbers, and what their time is divided by).
    #[arg(long, requires = "seed", conflicts_with_all = ["trace", "seeds", "from"])]
    mask: Option<pollux_sim::Mask>,
    /// Take one sentence away from the cores after the other, and see that each is missed: `MUTANTS.md`.
    #[arg(long, conflicts_with_all = ["seed", "keep_going"])]
    mutants: bool,
    /// Only mutants whose names contain this; may be repeated.
    #[arg(long, requires = "mutants", value_name = "NAME")]
    only: Vec<String>,
    /// List the mutants and do nothing.
    #[arg(long, requires = "mutants")]
    list: bool,
    /// Search the worlds of tests/model for mutants that nothing else has caught (minutes each).
    #[arg(long, requires = "mutants")]
    search: bool,
    /// Write `MUTANTS.md`, or with --coverage `COVERAGE.md`.
    #[arg(long)]
    write: bool,
    /// Add a line on this run to `LEDGER.md`.
    #[arg(long, conflicts_with_all = ["seed", "mutants"])]
    ledger: bool,
    /// Go on after a failure and list every seed that fails, one line each.
    #[arg(long, conflicts_with = "seed")]
    keep_going: bool,
    /// Print which cells of state and event were visited, and why the others were not.
    #[arg(long, conflicts_with = "trace")]
    coverage: bool,
}

/// A number of seeds.
fn how_many(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => {
            Err("nothing would be played; give a whole number of seeds from 1 on, such as 10000".to_owned())
        }
        Ok(count) => Ok(count),
        Err(why) => Err(format!(
            "{why}; give a whole number of seeds from 1 on, such as 10000"
        )),
    }
}

/// A seed.
fn a_seed(text: &str) -> Result<u64, String> {
    let most = u64::MAX;
    text.parse()
        .map_err(|why| format!("{why}; a seed is a whole number from 0 to {most}, such as 42"))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = std::io::stdout();
    // Whoever reads may stop reading; the exit code still counts.
    let mut say = |line: String| {
        let _ = writeln!(out, "{line}");
    };
    if options.mutants {
        let wanted = pollux_sim::WantedMutants {
            only: options.only,
            list: options.list,
            write: options.write,
            search: options.search,
        };
        return match pollux_sim::run_mutants(&wanted, &mut say) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(problem) => {
                eprintln!("mutants: {problem}");
                ExitCode::from(2)
            }
        };
    }
    if let Some(seed) = options.seed.filter(|_| options.trace) {
        let (script, failure) = pollux_sim::replay(seed);
        script.into_iter().for_each(&mut say);
        let Some(failure) = failure else {
            say(format!("seed {seed}: every invariant held"));
            return ExitCode::SUCCESS;
        };
        say(failure.to_string());
        return ExitCode::FAILURE;
    }
    if let Some(seed) = options.seed.filter(|_| options.step) {
        let input = std::io::BufReader::new(std::io::stdin());
        pollux_sim::step(seed, options.mask.as_ref(), input, |line| {
            let _ = writeln!(std::io::stdout(), "{line}");
        });
        return ExitCode::SUCCESS;
    }
    if let Some((seed, mask)) = options.seed.zip(options.mask) {
        let Some(small) = pollux_sim::only(seed, &mask) else {
            say(format!("seed {seed} with faults {mask}: every invariant held"));
            return ExitCode::SUCCESS;
        };
        say(small.failure.to_string());
        say(small.to_string());
        return ExitCode::FAILURE;
    }
    let (from, seeds) = options
        .seed
        .map_or((options.from, options.seeds), |seed| (seed, 1));
    if options.write && !options.coverage {
        eprintln!("--write goes with --mutants or --coverage");
        return ExitCode::from(2);
    }
    let commit = match options.ledger.then(pollux_sim::ledger::commit).transpose() {
        Ok(commit) => commit,
        Err(problem) => {
            eprintln!("ledger: {problem}");
            return ExitCode::from(2);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = std::time::Instant::now();
    let played = pollux_sim::run_all(from..from.saturating_add(seeds), threads, options.keep_going);
    let seconds = began.elapsed().as_secs_f64();
    for failure in &played.failures {
        if options.keep_going {
            say(failure.last_line());
        } else {
            say(failure.to_string());
            if let Some(small) = pollux_sim::shrink(failure.seed) {
                say(small.to_string());
            }
        }
    }
    say(played.total.to_string());
    say(format!(
        "{seconds:.1} s on {threads} threads: {:.0} events and {:.0} visits of cells of state and event a second",
        played.total.events() as f64 / seconds,
        played.total.cells() as f64 / seconds
    ));
    if options.coverage {
        say(played.total.coverage());
    }
    let unexplained = played.total.unexplained();
    if options.write && !unexplained.is_empty() {
        unexplained.into_iter().for_each(&mut say);
        eprintln!(
            "COVERAGE.md is not written: play more seeds, or say in src/coverage.rs why these cells are empty"
        );
        return ExitCode::FAILURE;
    }
    if options.write
        && let Err(problem) = pollux_sim::write_coverage(&played.total)
    {
        eprintln!("{problem}");
        return ExitCode::from(2);
    }
    if let Some(commit) = commit {
        let failed: Vec<String> = played
            .failures
            .iter()
            .map(|failure| failure.seed.to_string())
            .collect();
        let result = if failed.is_empty() {
            "every invariant held".to_owned()
        } else {
            format!("failed: {}", failed.join(", "))
        };
        let (events, faults) = (played.total.events(), played.total.faults());
        if let Err(problem) = pollux_sim::ledger::add(&commit, from, seeds, events, faults, &result) {
            eprintln!("ledger: {problem}");
            return ExitCode::from(2);
        }
    }
    if !played.failures.is_empty() {
        say(format!("{} seeds failed", played.failures.len()));
        return ExitCode::FAILURE;
    }
    say("every invariant held".to_owned());
    ExitCode::SUCCESS
}
