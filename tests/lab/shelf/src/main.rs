//! `lab-shelf`: runs the shelf of the lab, presses its buttons, and judges what it has seen.

use clap::{Args, Parser, Subcommand};
use pollux_api::id::ControllerId;
use pollux_api::size::{BadSize, Size};
use pollux_chassis::shelf::{WRITE_LOG, WriteLog};
use pollux_lab_shelf::audit::{self, Line};
use pollux_lab_shelf::{LabShelf, METHODS, Options, target_name};
use pollux_platform::lines::LineClient;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for a button.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(
    name = "lab-shelf",
    version,
    about = "A shelf of SCSI disks with two ports, over iSCSI on loopback",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong argument, 3 the audit has found a second writer."
)]
struct CommandLine {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the shelf until SIGTERM, SIGINT or chassis.shutdown; says in one line of JSON when it is ready
    Run(Run),
    /// Press a button and print the answer
    Call {
        /// The control socket
        #[arg(long, value_name = "SOCKET")]
        control: PathBuf,
        /// The method, for instance shelf.status
        #[arg(value_parser = METHODS)]
        method: String,
        /// Its parameters as JSON, for instance {"controller":"a","connected":false}
        params: Option<String>,
    },
    /// Print the log of the shelf, one record per line as JSON, also while it runs
    Log {
        /// The shelf's folder
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
    },
    /// Judge whether each pool had one writer at a time
    Audit {
        /// The shelf's folder
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// Slots of a pool's disks; once for each pool
        #[arg(long, value_name = "SLOT,...", required = true)]
        pool: Vec<Pool>,
    },
    /// Print the longest time in which each port wrote nothing to each of some disks
    Silences {
        /// The shelf's folder
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// Slots of the disks
        #[arg(long, value_name = "SLOT,...")]
        disks: Pool,
        /// Only in so many seconds before the last record
        #[arg(long, value_name = "N")]
        last_s: u64,
    },
}

/// Slots of disks that belong together.
#[derive(Clone, Debug)]
struct Pool(Vec<u16>);

impl std::str::FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slot = |word: &str| word.parse().map_err(|error| format!("slot {word:?}: {error}"));
        text.split(',').map(slot).collect::<Result<_, _>>().map(Pool)
    }
}

#[derive(Args)]
struct Run {
    /// Where the disks are; made if it is not there
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Data disks of a new shelf
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    disks: u16,
    /// Size of each data disk of a new shelf, for instance 256M or 1G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    size: u64,
    /// Quorum disks of a new shelf, in the last slots: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3)]
    quorum: u16,
    /// Size of each quorum disk of a new shelf
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_size)]
    quorum_size: u64,
    /// Where port a listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3270")]
    port_a: SocketAddr,
    /// Where port b listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3271")]
    port_b: SocketAddr,
    /// The control socket
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Seed of everything that is left to chance: which unflushed pages a power cut loses, how slow a slow disk is
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// End when standard input ends, so that nothing outlives the program that started this one
    #[arg(long)]
    end_with_stdin: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let Size(bytes) = text.parse().map_err(|error: BadSize| error.to_string())?;
    Ok(bytes)
}

type Failure = (u8, String);

fn failed(error: impl std::fmt::Display) -> Failure {
    (1, error.to_string())
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().action {
        Action::Run(options) => run(options),
        Action::Call {
            control,
            method,
            params,
        } => call(&control, &method, params.as_deref()),
        Action::Log { folder } => log(&folder),
        Action::Audit { folder, pool } => judge(&folder, &pool),
        Action::Silences {
            folder,
            disks,
            last_s,
        } => silences(&folder, &disks, last_s),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            // Nobody may be reading standard error; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "lab-shelf: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(given: Run) -> Result<(), Failure> {
    pollux_runtime::daemon::init_log();
    let options = Options {
        folder: given.folder,
        disks: given.disks,
        size: given.size,
        quorum: given.quorum,
        quorum_size: given.quorum_size,
        ports: [given.port_a, given.port_b],
        control: given.control,
        seed: given.seed,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
    let ended = runtime.block_on(async {
        let shelf = LabShelf::start(&options).await.map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let status = shelf.panel().status().await;
        let ready = serde_json::json!({
            "ready": true,
            "pid": status.pid,
            "luns": status.disks.len(),
            "ports": ControllerId::ALL.map(|port| serde_json::json!({
                "port": port,
                "portal": shelf.address(port),
                "target": target_name(port),
            })),
        });
        writeln!(std::io::stdout(), "{ready}").map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shelf.panel().ended() => {}
            () = stdin_ended(), if given.end_with_stdin => {}
        }
        shelf.stop().await;
        Ok(())
    });
    // A read of standard input cannot be called off.
    runtime.shutdown_background();
    ended
}

async fn stdin_ended() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}

fn call(control: &Path, method: &str, params: Option<&str>) -> Result<(), Failure> {
    let params: Option<serde_json::Value> = params
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| (2, format!("the parameters are no JSON: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer: serde_json::Value = runtime
        .map_err(failed)?
        .block_on(LineClient::new(control).call(method, params, LIMIT))
        .map_err(failed)?;
    writeln!(std::io::stdout(), "{answer:#}").map_err(failed)
}

/// The log of the shelf in a folder.
fn read(folder: &Path) -> Result<WriteLog, Failure> {
    audit::read(folder).map_err(|error| {
        let what = format!(
            "{} is no folder of a shelf whose log can be read: {error}; right would be the folder that `lab-shelf run` was \
             given, in which {} stands",
            folder.display(),
            WRITE_LOG
        );
        failed(what)
    })
}

fn log(folder: &Path) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for record in &read(folder)?.records {
        let line = serde_json::to_string(&Line::from(record)).map_err(failed)?;
        writeln!(out, "{line}").map_err(failed)?;
    }
    out.flush().map_err(failed)
}

fn silences(folder: &Path, Pool(disks): &Pool, last_s: u64) -> Result<(), Failure> {
    let log = read(folder)?;
    let span = Duration::from_secs(last_s).as_nanos() as u64;
    let found = audit::silences(&log, disks, span);
    let text = serde_json::to_string(&found).map_err(failed)?;
    writeln!(std::io::stdout(), "{text}").map_err(failed)
}

fn judge(folder: &Path, pools: &[Pool]) -> Result<(), Failure> {
    let log = read(folder)?;
    let mut second = 0;
    for Pool(slots) in pools {
        let verdict = audit::judge(&log, slots);
        second += verdict.second_writers.len();
        let line = serde_json::to_string(&verdict).map_err(failed)?;
        writeln!(std::io::stdout(), "{line}").map_err(failed)?;
    }
    match second {
        0 => Ok(()),
        count => Err((3, format!("{count} writes of a second writer"))),
    }
}
