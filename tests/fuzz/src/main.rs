//! `pollux-fuzz`: names the targets, writes their seeds, replays an input, searches blindly.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use pollux_fuzz::{TARGETS, Target, blind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Every byte that comes from outside. Exit codes: 0 all is well, 1 a promise is broken or a file cannot be used, 2
/// wrong argument.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The targets, one per line: name, and the longest input that is worth trying.
    List,
    /// Write the seeds of a target into a folder.
    Seeds {
        #[arg(value_parser = target)]
        target: &'static Target,
        folder: PathBuf,
    },
    /// Run a target on files; without any, on its corpus.
    Replay {
        #[arg(value_parser = target)]
        target: &'static Target,
        files: Vec<PathBuf>,
    },
    /// Mutate corpus and seeds for a while, without coverage. What breaks a promise is written to `broken-<target>`.
    Blind {
        #[arg(value_parser = target)]
        target: &'static Target,
        #[arg(default_value_t = 10)]
        seconds: u64,
        /// Another one searches elsewhere.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn target(name: &str) -> Result<&'static Target, String> {
    pollux_fuzz::target(name).ok_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        format!("no such target; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    match command {
        Command::List => {
            for target in TARGETS {
                println!("{} {}", target.name, target.longest);
            }
        }
        Command::Seeds { target, folder } => {
            std::fs::create_dir_all(&folder).map_err(text)?;
            for (number, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:02}")), seed).map_err(text)?;
            }
        }
        Command::Replay { target, files } => {
            let mut broken = vec![];
            let inputs = match files.is_empty() {
                true => target.corpus().map_err(text)?,
                false => files
                    .into_iter()
                    .map(|path| std::fs::read(&path).map(|bytes| (path, bytes)).map_err(text))
                    .collect::<Result<_, _>>()?,
            };
            for (path, input) in &inputs {
                if !blind::survives(target, input) {
                    broken.push(path.display().to_string());
                }
            }
            println!("{}: {} inputs", target.name, inputs.len());
            if !broken.is_empty() {
                return Err(format!("broken by {}", broken.join(", ")));
            }
        }
        Command::Blind {
            target,
            seconds,
            seed,
        } => {
            let mut known = (target.seeds)();
            known.extend(target.corpus().map_err(text)?.into_iter().map(|(_, bytes)| bytes));
            let time = Duration::from_secs(seconds);
            match blind::search(target, &known, seed, u64::MAX, time) {
                Ok(done) => println!(
                    "{}: {} inputs, {} of them known",
                    target.name, done.runs, done.known
                ),
                Err(broken) => {
                    let file = format!("broken-{}", target.name);
                    std::fs::write(&file, &broken.input).map_err(text)?;
                    return Err(format!("{}: broken by {file}", target.name));
                }
            }
        }
    }
    Ok(())
}
