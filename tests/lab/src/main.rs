//! `cargo lab`: see the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use pollux_lab::array::{self, Array};
use pollux_lab::cases::{CASES, Case};
use pollux_lab::error::{Error, Result};
use pollux_lab::host::Host;
use pollux_lab::lab::Lab;
use pollux_lab::topology::Node;
use pollux_lab::{diagnosis, image, switch};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Virtual machines that prove the appliance. Exit codes: 0 all is well, 1 something failed, 2 wrong argument.
#[derive(Debug, Parser)]
#[command(name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Switch the lab on: two controllers, a host and a shelf.
    Up {
        /// Only these: a, b, host.
        #[arg(value_parser = node)]
        nodes: Vec<Node>,
    },
    /// A command in a machine, or a terminal.
    Ssh {
        /// a, b or host.
        #[arg(value_parser = node)]
        node: Node,
        /// The command; without one a terminal.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Put the array into the machines of a lab that is on: packages, pairing, pools, volumes, the host's login.
    Install {
        /// The package is installed on both controllers; go on with their configuration.
        #[arg(long)]
        unpacked: bool,
    },
    /// One case on an array that is installed.
    Run {
        /// Its number, see `list`.
        #[arg(value_parser = case)]
        case: Case,
    },
    /// Switch on, install, every case, switch off; prints a table.
    All {
        /// Leave it on afterwards.
        #[arg(long)]
        keep: bool,
    },
    /// The cases.
    List,
    /// Collect what every machine says into target/lab/logs/now.
    Logs,
    /// Fetch and make what takes long, QEMU and the image, and nothing else.
    Make,
    /// Switch it off.
    Down,
    /// Carries frames between machines; started by `up`.
    #[command(hide = true)]
    Switch {
        /// Where their sockets are.
        folder: PathBuf,
    },
    /// Works inside the making of the image; started by `up`.
    #[command(hide = true)]
    ImageHook {
        /// The system that is made.
        root: PathBuf,
        /// Where kernel and first file system go.
        folder: PathBuf,
    },
}

fn node(text: &str) -> std::result::Result<Node, String> {
    Node::named(text).ok_or_else(|| format!("`{text}` is no machine of the lab: a, b or host"))
}

fn case(text: &str) -> std::result::Result<Case, String> {
    Case::named(text).ok_or_else(|| format!("`{text}` is no case: cargo lab list"))
}

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(code) => code,
        Err(error @ Error::Missing(_)) => {
            println!("SKIPPED: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<ExitCode> {
    match what {
        What::Up { nodes } => {
            let nodes = if nodes.is_empty() {
                Node::ALL.to_vec()
            } else {
                nodes
            };
            Lab::find()?.up(&nodes)?;
        }
        What::Ssh { node, command } => {
            let machine = Lab::find()?.machine(node)?;
            if command.is_empty() {
                machine.ssh().terminal()?;
            } else {
                let said = machine.try_run(&command.join(" "), pollux_lab::machine::LOOK)?;
                print!("{}", said.out);
                eprint!("{}", said.err);
                if !said.status.success() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        What::Install { unpacked } => install(&Lab::find()?, unpacked)?,
        What::Run { case } => {
            let outcome = case.run(&mut Lab::find()?)?;
            println!(
                "{}: ok, {} commands answered, pause {} ms, {:.0} s",
                case.name,
                outcome.answered,
                outcome.pause_ms,
                outcome.took.as_secs_f64()
            );
        }
        What::All { keep } => return all(keep),
        What::List => {
            for case in CASES {
                println!("{:<4} {}", case.name, case.what);
            }
        }
        What::Logs => println!("{}", diagnosis::collect(&Lab::find()?, "now")?.display()),
        What::Make => Lab::find()?.make()?,
        What::Down => Lab::find()?.down()?,
        What::Switch { folder } => switch::run(&folder)?,
        What::ImageHook { root, folder } => image::hook(&root, &folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn install(lab: &Lab, unpacked: bool) -> Result<()> {
    let array = Array::of(lab);
    let package = |name| array::package(&lab.places.target, name);
    let controllers = if unpacked { None } else { Some(package("pollux")?) };
    array.install(controllers.as_deref())?;
    array.provision()?;
    Host::of(lab)?.login(&package("pollux-host")?)
}

fn all(keep: bool) -> Result<ExitCode> {
    let mut lab = Lab::find()?;
    let start = Instant::now();
    let up = lab.up(&Node::ALL).and_then(|()| install(&lab, false));
    let mut rows = vec![("install", up.map(|()| None), start.elapsed())];
    if rows[0].1.is_ok() {
        for case in CASES {
            let start = Instant::now();
            let outcome = case.run(&mut lab).map(Some);
            rows.push((case.name, outcome, start.elapsed()));
        }
    } else {
        println!(
            "what the machines say: {}",
            diagnosis::collect(&lab, "install")?.display()
        );
    }
    if !keep {
        lab.down()?;
    }
    println!("{:<8} {:<7} {:>9} {:>7}", "case", "result", "pause", "time");
    let mut good = true;
    for (name, outcome, took) in &rows {
        let pause = match outcome {
            Ok(Some(outcome)) => format!("{} ms", outcome.pause_ms),
            _ => "-".into(),
        };
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name:<8} {word:<7} {pause:>9} {:>5.0} s", took.as_secs_f64());
        if let Err(error) = outcome {
            good = false;
            println!("  {error}");
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
