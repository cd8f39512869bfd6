//! `cargo verify`, `cargo demo`, `cargo sim`, `cargo model`, `cargo sweep`, `cargo crash`, `cargo measure`, `cargo lab`,
//! `cargo debs`,
//! `cargo fuzz-smoke`, `cargo fuzz-long`, `cargo fix-all`: see the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use pollux_tidy::Repository;
use pollux_tidy::run::Runner;
use std::path::PathBuf;
use std::process::ExitCode;

/// The commands of this repository. Exit codes: 0 all is well, 1 something failed, 2 wrong argument; `demo`, `sim`,
/// `model`, `sweep`, `crash`, `measure` and `lab` exit as the program that they run.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Formatting, lints, licences, the rules of the repository, and every test that this machine can run.
    Verify {
        /// Install missing tools (cargo-deny, Debian packages) instead of naming them.
        #[arg(long)]
        install: bool,
    },
    /// Only the rules of the repository and the licences.
    Check,
    /// Repair what a program can repair: lints, formatting.
    FixAll,
    /// Build everything and run `pollux demo` with these arguments.
    Demo {
        /// Arguments of the demo: see `cargo demo --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the simulator, built for speed, with these arguments.
    Sim {
        /// Arguments of the simulator: see `cargo sim --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the exhaustive search, built for speed, with these arguments.
    Model {
        /// Arguments of the search: see `cargo model --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Try every small change of heartbeat's decision core, and say who notices it, with these arguments.
    Sweep {
        /// Arguments of the sweep: see `cargo sweep --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill two keepers of the configuration at every point of their work, with these arguments.
    Crash {
        /// Arguments of the play: see `cargo crash --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the daemons and run the lab of virtual machines with these arguments.
    Lab {
        /// Arguments of the lab: see `cargo lab --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a benchmark, built for speed, with these arguments.
    Measure {
        /// Arguments of the benchmark: see `cargo measure --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the Debian packages, of programs that are built for it.
    Debs {
        /// Folder of programs that are built already; without it they are built with --release.
        #[arg(long, value_name = "FOLDER")]
        programs: Option<PathBuf>,
        /// Folder that gets the packages; target/debian if not said.
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
        /// Another version than that of packaging/changelog.
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
    /// Look for inputs that break a decoder, a second or two on every target.
    FuzzSmoke,
    /// Look for inputs that break one decoder, for long.
    FuzzLong {
        /// Name of the target: `cargo run -p pollux-fuzz -- list`.
        target: String,
        /// How long.
        #[arg(default_value_t = 600)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    // `cargo demo --help` asks the demo, not this program.
    let given: Vec<String> = std::env::args().skip(1).collect();
    let command = match given.split_first() {
        Some((word, rest))
            if matches!(
                word.as_str(),
                "demo" | "sim" | "model" | "sweep" | "measure" | "crash" | "lab"
            ) =>
        {
            let arguments = rest
                .iter()
                .skip_while(|argument| *argument == "--")
                .cloned()
                .collect();
            match word.as_str() {
                "demo" => Command::Demo { arguments },
                "sim" => Command::Sim { arguments },
                "sweep" => Command::Sweep { arguments },
                "measure" => Command::Measure { arguments },
                "crash" => Command::Crash { arguments },
                "lab" => Command::Lab { arguments },
                _ => Command::Model { arguments },
            }
        }
        _ => Arguments::parse().command,
    };
    let repository = match Repository::read() {
        Ok(repository) => repository,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match command {
        Command::Verify { install } => Runner::new(repository, install).verify(),
        Command::Check => Runner::new(repository, false).check(),
        Command::FixAll => Runner::new(repository, false).fix_all(),
        Command::Demo { arguments } => Runner::new(repository, false).demo(&arguments),
        Command::Sim { arguments } => Runner::new(repository, false).fast("pollux-sim", &arguments),
        Command::Model { arguments } => Runner::new(repository, false).fast("pollux-model", &arguments),
        Command::Sweep { arguments } => Runner::new(repository, false).plain_run("pollux-sweep", &arguments),
        Command::Crash { arguments } => Runner::new(repository, false).plain_run("pollux-crash", &arguments),
        Command::Lab { arguments } => Runner::new(repository, false).lab(&arguments),
        Command::Measure { arguments } => Runner::new(repository, false).measure(&arguments),
        Command::Debs {
            programs,
            out,
            version,
        } => Runner::new(repository, false).debs(programs, out, version),
        Command::FuzzSmoke => Runner::new(repository, false).fuzz_smoke(),
        Command::FuzzLong { target, seconds } => Runner::new(repository, false).fuzz_long(&target, seconds),
    }
}
