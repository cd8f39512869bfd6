//! `cargo lab`: see the library.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use pollux_lab::array::{self, Array};
use pollux_lab::cases::{self, CASES, Case, Outcome};
use pollux_lab::error::{Error, Result};
use pollux_lab::host::Host;
use pollux_lab::lab::Lab;
use pollux_lab::topology::Node;
use pollux_lab::{diagnosis, image, switch};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Virtual machines that prove the appliance. Exit codes: 0 all is well, 1 something failed, 2 wrong argument, 3 this machine
/// lacks what the lab needs, which is said.
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
        #[command(flatten)]
        packages: Packages,
    },
    /// One case on an array that is installed.
    Run {
        /// Its number, see `list`.
        #[arg(value_parser = case)]
        case: Case,
    },
    /// Switch on, install, every case, switch off; prints a table.
    All {
        /// Only these, see `list`.
        #[arg(value_parser = case)]
        cases: Vec<Case>,
        /// Only the few that are run where time is short; `list` marks them.
        #[arg(long, conflicts_with = "cases")]
        quick: bool,
        /// Leave it on afterwards.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        packages: Packages,
    },
    /// Case c9 for longer: random writes as fast as they go, with little memory left.
    Saturate {
        /// How long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
        minutes: u64,
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

#[derive(Debug, Args)]
struct Packages {
    /// Folder of the packages that are installed; target/debian, where `cargo debs` puts them, if not said.
    #[arg(long, value_name = "FOLDER")]
    packages: Option<PathBuf>,
}

fn node(text: &str) -> std::result::Result<Node, String> {
    Node::named(text).ok_or_else(|| format!("`{text}` is no machine of the lab: a, b or host"))
}

fn case(text: &str) -> std::result::Result<Case, String> {
    Case::named(text).ok_or_else(|| format!("`{text}` is no case: cargo lab list"))
}

/// Exit code where the lab cannot be had.
const SKIPPED: u8 = 3;

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(code) => code,
        Err(error @ Error::Missing(_)) => {
            println!("SKIPPED: {error}");
            ExitCode::from(SKIPPED)
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
        What::Install { unpacked, packages } => install(&Lab::find()?, unpacked, &packages)?,
        What::Run { case } => {
            told(case.name, case.run(&mut Lab::find()?)?);
        }
        What::All {
            cases,
            quick,
            keep,
            packages,
        } => {
            let cases = match (cases.is_empty(), quick) {
                (false, _) => cases,
                (true, quick) => CASES.into_iter().filter(|case| case.quick || !quick).collect(),
            };
            return all(&cases, keep, &packages);
        }
        What::Saturate { minutes } => {
            let length = Duration::from_secs(minutes * 60);
            told("saturate", cases::saturated(&mut Lab::find()?, length)?);
        }
        What::List => {
            for case in CASES {
                let mark = if case.quick { "quick" } else { "" };
                println!("{:<8} {mark:<5} {}", case.name, case.what);
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

/// Prints how one case went.
fn told(name: &str, outcome: Outcome) {
    println!(
        "{name}: ok, {} commands answered, pause {} ms from {} ms after the fault, {:.0} s{}",
        outcome.answered,
        outcome.pause.length_ms,
        outcome.pause.from_ms,
        outcome.took.as_secs_f64(),
        outcome.phases.map_or(String::new(), |phases| format!(
            "\n{:.1} times the import: {}",
            phases.whole_ms as f64 / phases.import_ms.max(1) as f64,
            phases.text
        ))
    );
}

fn install(lab: &Lab, unpacked: bool, packages: &Packages) -> Result<()> {
    let array = Array::of(lab);
    let folder = match &packages.packages {
        Some(folder) => folder.clone(),
        None => lab.places.target.join("debian"),
    };
    let package = |name| array::package(&folder, name);
    let controllers = if unpacked { None } else { Some(package("pollux")?) };
    array.install(controllers.as_deref())?;
    array.provision()?;
    Host::of(lab)?.login(&package("pollux-host")?)
}

fn all(cases: &[Case], keep: bool, packages: &Packages) -> Result<ExitCode> {
    let mut lab = Lab::find()?;
    let start = Instant::now();
    if let Err(error) = lab.up(&Node::ALL) {
        if !keep {
            lab.down()?;
        }
        return Err(error);
    }
    let installed = install(&lab, false, packages);
    let mut rows = vec![("install", installed.map(|()| None), start.elapsed())];
    if rows[0].1.is_ok() {
        for case in cases {
            let start = Instant::now();
            // What one has left is not the next one's to fail of.
            let failed = rows.last().is_some_and(|(_, outcome, _)| outcome.is_err());
            let mended = if failed { cases::mend(&mut lab) } else { Ok(()) };
            let outcome = mended.and_then(|()| case.run(&mut lab)).map(Some);
            let word = if outcome.is_ok() { "ok" } else { "FAILED" };
            println!("{}: {word}, {:.0} s", case.name, start.elapsed().as_secs_f64());
            if let Err(error) = &outcome {
                println!("  {error}");
            }
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
    Ok(if table(&rows) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints how everything went; true: all of it well.
fn table(rows: &[(&str, Result<Option<Outcome>>, Duration)]) -> bool {
    println!(
        "{:<8} {:<7} {:>9} {:>7} {:>9}  phases of the longest import, ms",
        "case", "result", "pause", "time", "x import"
    );
    for (name, outcome, took) in rows {
        let told = outcome.as_ref().ok().and_then(Option::as_ref);
        let pause = told.map_or("-".into(), |outcome| format!("{} ms", outcome.pause.length_ms));
        let phases = told.and_then(|outcome| outcome.phases.as_ref());
        let times = phases.map_or("-".into(), |phases| {
            format!("{:.1}", phases.whole_ms as f64 / phases.import_ms.max(1) as f64)
        });
        let text = phases.map_or("", |phases| phases.text.as_str());
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!(
            "{name:<8} {word:<7} {pause:>9} {:>5.0} s {times:>9}  {text}",
            took.as_secs_f64()
        );
        if let Err(error) = outcome {
            println!("  {error}");
        }
    }
    rows.iter().all(|(_, outcome, _)| outcome.is_ok())
}
