//! The block target beside tgtd, both as they are shipped: daemons, spoken to by one initiator over the same network.
//!
//! | system | what it is here |
//! |---|---|
//! | tgtd | Debian's, one unit on a file, write cache off: each write is followed by `fdatasync` before GOOD |
//! | tgtd, write cache | the same with the cache on: GOOD once the write is in the page cache |
//! | pollux | a pool of one disk: `block-targetd`, `pool-managerd`, a port of the disk; each write with force unit access |
//! | pollux, write cache | the same with the volume's write cache on: GOOD once the disk has it in its cache |
//! | pollux, mirror | the same with a pool of two disks: two copies before GOOD |
//! | pollux, forwarded | the pool of one disk through the partner's portal: one controller more, and the interconnect |
//!
//! The array's disks are files of the enclosure, and their medium is the page cache of this machine. So data belongs in
//! memory here ([`Plan::data`]): there `fdatasync` costs nothing, and everybody's write is on the medium before GOOD. On
//! a real disk tgtd would wait for it and the enclosure would not.
//!
//! tgtd does all its work in one process. The array's way to a disk is `block-targetd`, `pool-managerd` and the disk
//! itself, which is no part of a controller; so processor time is told for each of them.
//!
//! Every system is filled once; in each round each one is measured once per workload, in an order that rotates.

pub mod report;

use crate::error::{Context, Error, Result};
use crate::peer::tgtd::{self, Tgtd};
use crate::stage::Stage;
use crate::statistics::Sample;
use crate::whole::{Pool, Watched, Whole, scratch};
use pollux_api::id::ControllerId;
use pollux_host::load::{Kind, LoadConfig, LoadReport};
use pollux_pair::rig::INITIATOR;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::peer::tgtd::PACKAGES;

/// Name of the peer, which answers for what it has written.
pub const TGTD: &str = "tgtd";
/// Name of the peer that does not.
pub const CACHED: &str = "tgtd, write cache";
/// Name of the array with a pool of one disk.
pub const ONE: &str = "pollux";
/// Name of the array with a pool of one disk and the write cache on.
pub const ONE_CACHED: &str = "pollux, write cache";
/// Name of the array with a mirror.
pub const MIRROR: &str = "pollux, mirror";
/// Name of the array, asked at the partner.
pub const FORWARDED: &str = "pollux, forwarded";
/// The name of every system, in the order of the report.
pub const SYSTEMS: [&str; 6] = [TGTD, CACHED, ONE, ONE_CACHED, MIRROR, FORWARDED];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What the commands do.
    pub kind: Kind,
    /// Bytes of a command.
    pub bytes: u32,
    /// Commands in flight.
    pub depth: u32,
}

const fn workload(name: &'static str, kind: Kind, bytes: u32, depth: u32) -> Workload {
    Workload {
        name,
        kind,
        bytes,
        depth,
    }
}

/// Every workload, in the order of the report.
pub const WORKLOADS: [Workload; 6] = [
    workload("4 KiB random read, depth 1", Kind::RandomRead, 4 << 10, 1),
    workload("4 KiB random write, depth 1", Kind::RandomWrite, 4 << 10, 1),
    workload("4 KiB random read, depth 32", Kind::RandomRead, 4 << 10, 32),
    workload("4 KiB random write, depth 32", Kind::RandomWrite, 4 << 10, 32),
    workload(
        "256 KiB sequential read, depth 8",
        Kind::SequentialRead,
        256 << 10,
        8,
    ),
    workload(
        "256 KiB sequential write, depth 8",
        Kind::SequentialWrite,
        256 << 10,
        8,
    ),
];

/// What was asleep wakes up for so long before it is measured.
const WAKE_MS: u64 = 50;
/// Port of the peers, in the network of controller a.
const PORTS: [u16; 2] = [3270, 3271];

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Time of one system and one workload in one round.
    pub time: Duration,
    /// Size of a volume, bytes.
    pub volume_bytes: u64,
    /// Where the data of all systems is.
    pub data: PathBuf,
}

/// Processor time of a command, by what spent it, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// tgtd, or `block-targetd` of every controller on the way.
    pub target: f64,
    /// `pool-managerd`.
    pub pool: f64,
    /// The enclosure, which is the disks.
    pub disks: f64,
}

/// What was measured of one system under one workload.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The system.
    pub system: &'static str,
    /// Place in [`WORKLOADS`].
    pub workload: usize,
    /// A sample for each round; its processor time is that of the controllers, without the disks.
    pub samples: Vec<Sample>,
    /// Processor time of each round.
    pub parts: Vec<Parts>,
}

/// What was measured, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every system under every workload.
    pub measured: Vec<Measured>,
    /// Every system that could not be measured, and why.
    pub missing: Vec<(&'static str, String)>,
}

impl Outcome {
    /// What was measured of this system under this workload.
    #[must_use]
    pub fn of(&self, system: &str, workload: usize) -> Option<&Measured> {
        let all = self.measured.iter();
        all.filter(|measured| measured.workload == workload)
            .find(|measured| measured.system == system)
    }
}

/// A system that runs.
struct System {
    name: &'static str,
    target: String,
    portal: String,
    lun: u16,
    watched: Watched,
}

/// What runs behind the systems; peers end before the network in which they are.
struct Running {
    systems: Vec<System>,
    _peers: Vec<Tgtd>,
    whole: Whole,
    _folder: tempfile::TempDir,
}

/// Starts what can be started of `wanted`, and measures it. `progress` hears what is being done.
///
/// # Errors
/// The array does not run, or somebody answered with something else than GOOD, or with other data.
pub fn measure(plan: &Plan, wanted: &[&'static str], progress: impl Fn(&str)) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new()?;
    progress("starting an array");
    let running = start(&stage, plan, wanted, &mut outcome)?;
    let mut filled: Vec<(&str, u16)> = Vec::new();
    for system in &running.systems {
        // Forwarded or not, it is one volume.
        let volume = (system.target.as_str(), system.lun);
        if !filled.contains(&volume) {
            progress(&format!("filling {}", system.name));
            load(&running.whole, system, Kind::Fill, 256 << 10, 8, plan, 0)?;
            filled.push(volume);
        }
    }
    let mut taken: BTreeMap<(usize, usize), (Vec<Sample>, Vec<Parts>)> = BTreeMap::new();
    for round in 0..plan.rounds {
        progress(&format!("round {} of {}", round + 1, plan.rounds));
        for (
            work,
            Workload {
                kind, bytes, depth, ..
            },
        ) in WORKLOADS.iter().enumerate()
        {
            for step in 0..running.systems.len() {
                let place = (round + step) % running.systems.len();
                let system = &running.systems[place];
                let before = system.watched.times()?;
                let report = load(&running.whole, system, *kind, *bytes, *depth, plan, round as u64)?;
                let after = system.watched.times()?;
                let (sample, parts) = judge(&report, before, after);
                let (samples, all) = taken.entry((place, work)).or_default();
                samples.push(sample);
                all.push(parts);
            }
        }
    }
    for ((place, workload), (samples, parts)) in taken {
        outcome.measured.push(Measured {
            system: running.systems[place].name,
            workload,
            samples,
            parts,
        });
    }
    Ok(outcome)
}

fn load(
    whole: &Whole,
    system: &System,
    kind: Kind,
    bytes: u32,
    depth: u32,
    plan: &Plan,
    seed: u64,
) -> Result<LoadReport> {
    let config = LoadConfig {
        initiator: INITIATOR.into(),
        target: system.target.clone(),
        portal: system.portal.clone(),
        lun: system.lun,
        kind,
        bytes,
        depth,
        warm_ms: WAKE_MS,
        time_ms: plan.time.as_millis() as u64,
        seed,
    };
    let done = whole.host.load(config);
    done.map_err(|what| Error::Wrong {
        bus: system.name,
        what,
    })
}

/// Figures of one run, from what the host and the clocks of the processes say.
#[expect(clippy::cast_precision_loss, reason = "counts and times of seconds")]
fn judge(report: &LoadReport, before: [Duration; 3], after: [Duration; 3]) -> (Sample, Parts) {
    let us = |ns: u64| ns as f64 / 1e3;
    let spent = |group: usize| {
        let time = after[group].saturating_sub(before[group]);
        time.as_secs_f64() * 1e6 / report.all.max(1) as f64
    };
    let parts = Parts {
        target: spent(0),
        pool: spent(1),
        disks: spent(2),
    };
    let sample = Sample {
        p50_us: us(report.p50_ns),
        p99_us: us(report.p99_ns),
        calls_per_s: report.commands as f64 * 1e9 / report.took_ns.max(1) as f64,
        cpu_us: parts.target + parts.pool,
    };
    (sample, parts)
}

fn start(stage: &Stage, plan: &Plan, wanted: &[&'static str], outcome: &mut Outcome) -> Result<Running> {
    use ControllerId::{A, B};
    let pool = |name: &str, disks| Pool {
        name: name.into(),
        disks,
        volumes: 1,
        volume_bytes: plan.volume_bytes,
        write_cache: false,
    };
    let cached = Pool {
        write_cache: true,
        ..pool("cached", 1)
    };
    let pools = [pool("one", 1), pool("two", 2), cached];
    let whole = Whole::start(&plan.data, &pools, |_| {})?;
    let folder = scratch(&plan.data)?;
    let (mut systems, mut peers) = (Vec::new(), Vec::new());
    let pool = vec![whole.daemon(A, "pool-managerd")?];
    let (a, b) = (
        whole.daemon(A, "block-targetd")?,
        whole.daemon(B, "block-targetd")?,
    );
    let disks = vec![whole.enclosure()?];
    for &name in wanted {
        let started = match name {
            TGTD | CACHED => peer(stage, plan, &whole, folder.path(), name).map(|peer| {
                let system = of_peer(name, &peer, &whole);
                peers.push(peer);
                system
            }),
            _ => Ok(System {
                name,
                target: whole.iqn.clone(),
                portal: whole.portals[usize::from(name == FORWARDED)].clone(),
                lun: match name {
                    MIRROR => 1,
                    ONE_CACHED => 2,
                    _ => 0,
                },
                watched: Watched {
                    target: if name == FORWARDED { vec![a, b] } else { vec![a] },
                    pool: pool.clone(),
                    disks: disks.clone(),
                },
            }),
        };
        match started {
            Ok(system) => systems.push(system),
            Err(error) => outcome.missing.push((name, error.to_string())),
        }
    }
    Ok(Running {
        systems,
        _peers: peers,
        whole,
        _folder: folder,
    })
}

/// Where a peer listens: at the address of controller a's portal.
fn portal_of(name: &str, whole: &Whole) -> Option<SocketAddr> {
    let portal: SocketAddr = whole.portals[0].parse().ok()?;
    let address: IpAddr = portal.ip();
    Some((address, PORTS[usize::from(name == CACHED)]).into())
}

fn peer(stage: &Stage, plan: &Plan, whole: &Whole, folder: &Path, name: &'static str) -> Result<Tgtd> {
    let portal = portal_of(name, whole)
        .ok_or_else(|| Error::Missing(format!("{} is no address with a port", whole.portals[0])))?;
    let file = folder.join(if name == CACHED { "cached" } else { "direct" });
    let made = std::fs::File::create(&file).context(file.display())?;
    made.set_len(plan.volume_bytes).context(file.display())?;
    let command = whole.in_network_of(ControllerId::A, tgtd::PROGRAM)?;
    let short = if name == CACHED { "cached" } else { "direct" };
    Tgtd::start(command, &stage.path(""), short, portal, &file, name == CACHED)
}

fn of_peer(name: &'static str, peer: &Tgtd, whole: &Whole) -> System {
    System {
        name,
        target: peer.iqn.clone(),
        portal: portal_of(name, whole)
            .map(|portal| portal.to_string())
            .unwrap_or_default(),
        lun: tgtd::LUN,
        watched: Watched {
            target: vec![peer.id()],
            ..Watched::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_shared_out_among_all_commands_and_speed_among_the_measured() {
        let report = LoadReport {
            commands: 1000,
            all: 1250,
            took_ns: 500_000_000,
            p50_ns: 90_000,
            p99_ns: 450_000,
        };
        let ms = |[a, b, c]: [u64; 3]| [a, b, c].map(Duration::from_millis);
        let (sample, parts) = judge(&report, ms([10, 20, 30]), ms([135, 70, 80]));
        assert_eq!((sample.p50_us, sample.p99_us), (90.0, 450.0));
        assert!((sample.calls_per_s - 2000.0).abs() < 1e-6);
        assert!((parts.target - 100.0).abs() < 1e-6 && (parts.pool - 40.0).abs() < 1e-6);
        assert!((parts.disks - 40.0).abs() < 1e-6 && (sample.cpu_us - 140.0).abs() < 1e-6);
    }

    #[test]
    fn workloads_have_names_of_their_own_and_fit_the_stopwatch() {
        let mut names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len());
        assert!(
            WORKLOADS
                .iter()
                .all(|workload| workload.bytes % 4096 == 0 && workload.depth > 0)
        );
    }
}
