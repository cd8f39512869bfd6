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
use pollux_measure::{keeper, machine, report, takeover, target};
use pollux_runtime::Profile;
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
    /// The block target beside tgtd: IOPS, latency, processor time; direct, mirrored and forwarded.
    Target {
        /// About a minute: three short rounds.
        #[arg(long)]
        quick: bool,
        /// Rounds; nine, or three if quick.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: Option<u16>,
        /// Where table and chart go.
        #[arg(long, value_name = "FOLDER", default_value = "target/measure")]
        folder: PathBuf,
        /// Where the data is meanwhile; a short path, since sockets are there, too. On a disk tgtd waits for it and the
        /// enclosure's disks do not. Memory (/dev/shm) where there is some.
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// Size of a volume, MiB.
        #[arg(long, value_name = "MIB", default_value = "256", value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
        volume: u32,
        /// Only the system of this name, or systems whose names contain it; may be repeated. Ratios need their peer.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// The pause of a host that writes when the owner of its volumes dies, against what detection alone costs.
    Takeover {
        /// Some minutes: one round, few volumes and pools.
        #[arg(long)]
        quick: bool,
        /// Rounds; five, or one if quick.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: Option<u16>,
        /// Where table and curves go.
        #[arg(long, value_name = "FOLDER", default_value = "target/measure")]
        folder: PathBuf,
        /// Where the data is meanwhile; a short path, since sockets are there, too. Memory (/dev/shm) where there is some.
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// So many volumes in one pool; may be repeated. 1, 10, 100, 1000, or the first two if quick.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=16_000))]
        volumes: Vec<u16>,
        /// So many pools of one volume; may be repeated. 1, 4, 16, or the first two if quick.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=64))]
        pools: Vec<u16>,
        /// Timing profile of the array: fast, safe or ci.
        #[arg(long, value_name = "PROFILE", default_value = "fast", value_parser = profile)]
        profile: Profile,
        /// How the owner dies: power (it loses its power) or hang (all its processes stop without a word).
        #[arg(long, value_name = "FAULT", default_value = "power", value_parser = fault)]
        fault: takeover::Fault,
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
        What::Target {
            quick,
            rounds,
            folder,
            data,
            volume,
            only,
        } => target(quick, rounds, &folder, data, volume, &only),
        What::Takeover {
            quick,
            rounds,
            folder,
            data,
            volumes,
            pools,
            profile,
            fault,
        } => {
            let plan = takeover::Plan {
                rounds: rounds.map_or(if quick { 1 } else { 5 }, usize::from),
                scales: scales(quick, &volumes, &pools),
                profile,
                fault,
                data: data.unwrap_or_else(machine::memory),
            };
            takeover(&plan, &folder)
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

fn target(
    quick: bool,
    rounds: Option<u16>,
    folder: &Path,
    data: Option<PathBuf>,
    volume: u32,
    only: &[String],
) -> Result<()> {
    let (usual, time) = if quick { (3, 300) } else { (9, 1000) };
    let plan = target::Plan {
        rounds: rounds.map_or(usual, usize::from),
        time: Duration::from_millis(time),
        volume_bytes: u64::from(volume) << 20,
        data: data.unwrap_or_else(machine::memory),
    };
    let wanted = chosen("system", &target::SYSTEMS, only)?;
    install(&target::PACKAGES)?;
    let outcome = target::measure(&plan, &wanted, |what| eprintln!("{what}"))?;
    let head = format!(
        "{}; volumes of {volume} MiB on {}",
        head(plan.rounds, plan.time),
        machine::file_system(&plan.data)
    );
    let table = target::report::markdown(&outcome, &head);
    publish(folder, "target", &table, &target::report::svg(&outcome, &head))
}

fn profile(text: &str) -> Result<Profile, String> {
    [Profile::Fast, Profile::Safe, Profile::Ci]
        .into_iter()
        .find(|profile| profile.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no profile; there are fast, safe and ci"))
}

/// Volumes of one pool, and pools of one volume; what both name is measured once.
fn scales(quick: bool, volumes: &[u16], pools: &[u16]) -> Vec<takeover::Scale> {
    let mut scales: Vec<takeover::Scale> = Vec::new();
    let mut add = |given: &[u16], usual: &[u16], scale: fn(usize) -> takeover::Scale| {
        let usual = if quick { &usual[..2] } else { usual };
        let numbers = if given.is_empty() { usual } else { given };
        for number in numbers {
            let scale = scale(usize::from(*number));
            if !scales.contains(&scale) {
                scales.push(scale);
            }
        }
    };
    add(volumes, &[1, 10, 100, 1000], |volumes| takeover::Scale {
        pools: 1,
        volumes,
    });
    add(pools, &[1, 4, 16], |pools| takeover::Scale { pools, volumes: 1 });
    scales
}

fn fault(text: &str) -> Result<takeover::Fault, String> {
    match text {
        "power" => Ok(takeover::Fault::Power),
        "hang" => Ok(takeover::Fault::Hang),
        _ => Err(format!("{text:?} is no fault; there are power and hang")),
    }
}

fn takeover(plan: &takeover::Plan, folder: &Path) -> Result<()> {
    install(&takeover::PACKAGES)?;
    let outcome = takeover::measure(plan, |what| eprintln!("{what}"))?;
    let (name, fault) = match plan.fault {
        takeover::Fault::Power => ("takeover", "loss of power"),
        takeover::Fault::Hang => ("takeover-hang", "hang"),
    };
    let head = format!(
        "{}; {} rounds, {fault}, profile {}; data on {}",
        machine::describe(),
        plan.rounds,
        plan.profile.as_str(),
        machine::file_system(&plan.data)
    );
    let table = takeover::report::markdown(&outcome, &head);
    publish(folder, name, &table, &takeover::report::svg(&outcome, &head))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_twice_is_measured_once() {
        let numbers = |scales: Vec<takeover::Scale>| -> Vec<(usize, usize)> {
            scales.iter().map(|scale| (scale.pools, scale.volumes)).collect()
        };
        assert_eq!(numbers(scales(true, &[], &[])), [(1, 1), (1, 10), (4, 1)]);
        assert_eq!(
            numbers(scales(false, &[], &[])),
            [(1, 1), (1, 10), (1, 100), (1, 1000), (4, 1), (16, 1)]
        );
        assert_eq!(numbers(scales(false, &[7], &[2, 2])), [(1, 7), (2, 1)]);
        assert!(profile("slow").is_err_and(|why| why.contains("fast, safe and ci")));
        assert!(fault("flood").is_err_and(|why| why.contains("power and hang")));
    }

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
