//! `cargo measure`: see the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pollux_measure::error::{Context, Error, Result};
use pollux_measure::peer::frames::{Other, forward};
use pollux_measure::peer::ledger;
use pollux_measure::router::{self, BUSES};
use pollux_measure::{keeper, machine, report};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Measures parts of the array beside others that do the same. Exit codes: 0 measured, 1 not, 2 wrong argument.
#[derive(Debug, Parser)]
#[command(name = "measure")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The message bus beside dbus-broker, dbus-daemon, NATS and a bare forwarder.
    Router {
        /// Less than a minute: three short rounds.
        #[arg(long)]
        quick: bool,
        /// Rounds; nine, or three if quick.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: Option<u16>,
        /// Where table and chart go.
        #[arg(long, value_name = "FOLDER", default_value = "target/measure")]
        folder: PathBuf,
        /// Only the bus of this name, or buses whose names contain it; may be repeated. Ratios need their floor.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// The config keeper beside two bare processes and etcd with one and three nodes.
    Keeper {
        /// About a minute: three short rounds, few objects.
        #[arg(long)]
        quick: bool,
        /// Rounds; nine, or three if quick.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: Option<u16>,
        /// Where table and chart go, and the data meanwhile: on a disk, or there is nothing to be measured.
        #[arg(long, value_name = "FOLDER", default_value = "target/measure")]
        folder: PathBuf,
        /// Only the system of this name, or systems whose names contain it; may be repeated. Ratios need their peers.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// So many objects; may be repeated. 10, 1000, 100000, or the first two if quick.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        objects: Vec<u32>,
        /// A member that comes back has missed so many changes; may be repeated. 1, 1000, 100000, or the first two.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        missed: Vec<u32>,
        /// How long objects and missed changes may take to be made, and a member to come back, s.
        #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u16).range(1..))]
        patience: u16,
    },
    /// The floor: forwards frames between two connections.
    #[command(hide = true)]
    Forward {
        socket: PathBuf,
        #[arg(long, conflicts_with = "dial")]
        listen: Option<SocketAddr>,
        #[arg(long)]
        dial: Option<SocketAddr>,
        #[arg(long)]
        keys: Option<PathBuf>,
    },
    /// The floor of the keeper: writes down what it is told.
    #[command(hide = true)]
    Ledger {
        file: PathBuf,
        #[arg(long, conflicts_with = "dial")]
        listen: Option<SocketAddr>,
        #[arg(long, requires = "socket")]
        dial: Option<SocketAddr>,
        #[arg(long)]
        socket: Option<PathBuf>,
    },
    /// Becomes dbus-broker's launcher, with what it wants to inherit.
    #[command(hide = true)]
    Broker { socket: PathBuf, config: PathBuf },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Router {
            quick,
            rounds,
            folder,
            only,
        } => router(quick, rounds, &folder, &only),
        What::Keeper {
            quick,
            rounds,
            folder,
            only,
            objects,
            missed,
            patience,
        } => {
            let plan = plan(quick, rounds, objects, missed, patience);
            keeper(&plan, &folder, &only)
        }
        What::Ledger {
            file,
            listen,
            dial,
            socket,
        } => match (listen, dial.zip(socket)) {
            (Some(address), _) => ledger::follow(address, &file),
            (None, Some((address, socket))) => ledger::lead(&socket, address, &file),
            (None, None) => Err(Error::Missing("--listen, or --dial and --socket".into())),
        },
        What::Forward {
            socket,
            listen,
            dial,
            keys,
        } => {
            let keys = keys.unwrap_or_default();
            let listen = listen.map(|address| Other::Listen(address, keys.clone()));
            run_forwarder(&socket, listen.or(dial.map(|address| Other::Dial(address, keys))))
        }
        What::Broker { socket, config } => become_broker(&socket, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Those of `all` that are named like that.
fn chosen(what: &str, all: &[&'static str], only: &[String]) -> Result<Vec<&'static str>> {
    let named = |name: &&'static str, part: &String| {
        if all.contains(&part.as_str()) {
            name == part
        } else {
            name.contains(part.as_str())
        }
    };
    let wanted: Vec<&'static str> = all
        .iter()
        .copied()
        .filter(|name| only.is_empty() || only.iter().any(|part| named(name, part)))
        .collect();
    if wanted.is_empty() {
        return Err(Error::Missing(format!(
            "no {what} is named like that: {}",
            all.join("; ")
        )));
    }
    Ok(wanted)
}

/// Writes table and chart down, and shows the table.
fn publish(folder: &Path, name: &str, table: &str, chart: &str) -> Result<()> {
    std::fs::create_dir_all(folder).context(folder.display())?;
    for (ending, text) in [("md", table), ("svg", chart)] {
        let path = folder.join(name).with_extension(ending);
        std::fs::write(&path, text).context(path.display())?;
    }
    println!("{table}\nThis table and its chart are in {}", folder.display());
    Ok(())
}

fn router(quick: bool, rounds: Option<u16>, folder: &Path, only: &[String]) -> Result<()> {
    let (usual, time) = if quick { (3, 400) } else { (9, 1000) };
    let plan = router::Plan {
        rounds: rounds.map_or(usual, usize::from),
        time: Duration::from_millis(time),
    };
    let wanted = chosen("bus", &BUSES, only)?;
    install(&router::PACKAGES)?;
    let outcome = router::measure(plan, &wanted, |round| {
        eprintln!("round {} of {}", round + 1, plan.rounds);
    })?;
    let head = head(plan.rounds, plan.time);
    let (table, chart) = (report::markdown(&outcome, &head), report::svg(&outcome, &head));
    publish(folder, "router", &table, &chart)
}

fn plan(
    quick: bool,
    rounds: Option<u16>,
    objects: Vec<u32>,
    missed: Vec<u32>,
    patience: u16,
) -> keeper::Plan {
    let ascending = |given: Vec<u32>, usual: [usize; 3]| {
        let mut numbers: Vec<usize> = given.into_iter().map(|number| number as usize).collect();
        if numbers.is_empty() {
            numbers = usual[..if quick { 2 } else { 3 }].to_vec();
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let (usual, time) = if quick { (3, 400) } else { (9, 1000) };
    keeper::Plan {
        rounds: rounds.map_or(usual, usize::from),
        time: Duration::from_millis(time),
        scales: ascending(objects, [10, 1000, 100_000]),
        missed: ascending(missed, [1, 1000, 100_000]),
        patience: Duration::from_secs(patience.into()),
    }
}

fn keeper(plan: &keeper::Plan, folder: &Path, only: &[String]) -> Result<()> {
    let wanted = chosen("system", &keeper::SYSTEMS, only)?;
    install(&keeper::PACKAGES)?;
    let outcome = keeper::measure(plan, &wanted, folder, |what| eprintln!("{what}"))?;
    let head = format!(
        "{}; data on {}",
        head(plan.rounds, plan.time),
        machine::file_system(folder)
    );
    let table = keeper::report::markdown(&outcome, &head);
    publish(folder, "keeper", &table, &keeper::report::svg(&outcome, &head))
}

fn head(rounds: usize, time: Duration) -> String {
    format!(
        "{}; {rounds} rounds of {} ms",
        machine::describe(),
        time.as_millis()
    )
}

/// Debian packages of the peers: installed if root runs this, otherwise named.
fn install(packages: &[&str]) -> Result<()> {
    let there = |package: &&str| {
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Status}", package])
            .output();
        output.is_ok_and(|output| output.stdout == b"install ok installed")
    };
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !there(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "not here, and left out: `apt install {}` brings them",
            missing.join(" ")
        );
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .context("apt-get")
    };
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    // The lists may be old, or missing altogether.
    let installed = apt(&arguments)?.success() || apt(&["update"])?.success() && apt(&arguments)?.success();
    if !installed {
        eprintln!("cannot be installed, and are left out: {}", missing.join(" "));
    }
    Ok(())
}

fn run_forwarder(socket: &Path, other: Option<Other>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(forward(socket, other))
}

/// Its launcher takes its socket as systemd passes it (descriptor 3) and logs to systemd's journal. Where there is
/// none, it gets a place for messages that nobody reads, in a namespace of its own.
fn become_broker(socket: &Path, config: &Path) -> Result<()> {
    const JOURNAL: &str = "/run/systemd/journal/socket";
    let listener = UnixListener::bind(socket).context(socket.display())?;
    if listener.as_raw_fd() != 3 {
        return Err(Error::Missing(format!(
            "descriptor 3 is taken; the socket got {}",
            listener.as_raw_fd()
        )));
    }
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).context("pass the socket on")?;
    if !Path::new(JOURNAL).exists() {
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace, for a journal socket")?;
        mount(none, "/", none, private, none).context("keep mounts private")?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mount /run")?;
        std::fs::create_dir_all("/run/systemd/journal").context(JOURNAL)?;
        let journal = UnixDatagram::bind(JOURNAL).context(JOURNAL)?;
        fcntl(&journal, FcntlArg::F_SETFD(FdFlag::empty())).context("keep the journal socket open")?;
        std::mem::forget(journal);
    }
    std::mem::forget(listener);
    let error = Command::new("dbus-broker-launch")
        .args(["--scope", "user", "--config-file"])
        .arg(config)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    Err(Error::Step {
        what: "start dbus-broker-launch".into(),
        why: error.to_string(),
    })
}
