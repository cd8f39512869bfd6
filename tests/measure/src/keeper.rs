//! The config keeper beside others that promise the same: a change is answered when it is durable where it must be.
//!
//! | system | what it is here |
//! |---|---|
//! | floor | two processes that write down what they are told ([`crate::peer::ledger`]) |
//! | pollux | two `rpc-routerd` with their link over TLS, two `config-keeperd`, a caller at the sequencer's router |
//! | pollux, from the follower | the same, the caller at the other one's router: the change is carried |
//! | etcd, 1 node; etcd, 3 nodes | Debian's, as it is shipped; the caller at the leader, over gRPC |
//!
//! All of them write to one disk and make durable what they answer. A value has [`VALUE`] bytes; to the array it is the
//! row of a host, whose initiator gets another name with each change.
//!
//! First each system is given its objects, then all are measured in rounds, in an order that rotates, and so on with more
//! objects. [`rejoin`] comes after that, with an array and a cluster of its own: one member is killed, misses changes,
//! and is started again. What does not come to its end within the plan's patience is left out from then on, and the
//! report says how far it came.

pub mod array;
pub mod cluster;
pub mod rejoin;
pub mod report;

use crate::error::{Context, Error, Result};
use crate::peer::{config, etcd, ledger};
use crate::stage::{Stage, free_port};
use crate::statistics::Sample;
use crate::writers::{self, WRITERS, Writer};
use array::Array;
use cluster::Cluster;
use pollux_api::id::ControllerId;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub use crate::peer::etcd::PACKAGES;
pub use crate::writers::VALUE;

/// Name of the floor.
pub const FLOOR: &str = ledger::NAME;
/// Name of the array, asked at its sequencer.
pub const ARRAY: &str = "pollux";
/// Name of the array, asked at the other controller.
pub const FOLLOWER: &str = "pollux, from the follower";
/// Name of one node of etcd.
pub const ONE: &str = etcd::ONE;
/// Name of three.
pub const THREE: &str = etcd::THREE;
/// The name of every system, in the order of the report.
pub const SYSTEMS: [&str; 5] = [FLOOR, ARRAY, FOLLOWER, ONE, THREE];
/// What was asleep wakes up for so long before it is measured.
const WAKE: Duration = Duration::from_millis(50);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Time of one system in one round.
    pub time: Duration,
    /// Numbers of objects, ascending.
    pub scales: Vec<usize>,
    /// Numbers of changes that a member misses.
    pub missed: Vec<usize>,
    /// How long objects or missed changes may take to be made, and a member to come back.
    pub patience: Duration,
}

/// What was measured of one system with so many objects.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its name.
    pub system: &'static str,
    /// Objects.
    pub objects: usize,
    /// A sample for each round.
    pub samples: Vec<Sample>,
}

/// Something that was not measured.
#[derive(Clone, Debug)]
pub struct Missing {
    /// The system.
    pub system: &'static str,
    /// From where on.
    pub what: String,
    /// Why.
    pub why: String,
}

/// How long a member was away that came back.
#[derive(Clone, Debug)]
pub struct Rejoined {
    /// The system.
    pub system: &'static str,
    /// Changes that it had missed.
    pub missed: usize,
    /// The time of each round, s.
    pub took: Vec<f64>,
}

/// What was measured, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Changes.
    pub measured: Vec<Measured>,
    /// Members that came back.
    pub rejoined: Vec<Rejoined>,
    /// Everything that could not be measured, and why.
    pub missing: Vec<Missing>,
}

impl Outcome {
    /// What was measured of this system with so many objects.
    #[must_use]
    pub fn of(&self, system: &str, objects: usize) -> Option<&Measured> {
        let all = self.measured.iter();
        all.filter(|measured| measured.objects == objects)
            .find(|measured| measured.system == system)
    }

    /// How long members of this system took that had missed so many changes.
    #[must_use]
    pub fn back(&self, system: &str, missed: usize) -> Option<&Rejoined> {
        let all = self.rejoined.iter();
        all.filter(|rejoined| rejoined.missed == missed)
            .find(|rejoined| rejoined.system == system)
    }

    fn miss(&mut self, system: &'static str, what: impl Into<String>, error: &Error) {
        self.missing.push(Missing {
            system,
            what: what.into(),
            why: error.to_string(),
        });
    }
}

/// A system that runs, and its writers.
struct System {
    name: &'static str,
    /// Systems that share their objects have the same.
    objects_of: &'static str,
    writers: Vec<Writer>,
    /// Objects that one request makes, and writers that do so at the same time.
    makes: (usize, usize),
    /// Processes whose time counts.
    counted: Vec<u32>,
}

/// What runs behind the systems.
struct Running {
    systems: Vec<System>,
    /// They end before the stage on which they were started.
    _array: Option<Array>,
    _clusters: Vec<Cluster>,
}

/// Starts what can be started of `wanted` with its data in a folder below `folder`, and measures it. `progress` hears
/// what is being done.
///
/// # Errors
/// The folder cannot be used. What does not run, refuses or takes too long is part of the outcome.
pub fn measure(
    plan: &Plan,
    wanted: &[&'static str],
    folder: &Path,
    progress: impl Fn(&str),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    {
        let mut stage = Stage::new()?;
        let data = data_folder(folder)?;
        let mut running = start(&mut stage, data.path(), wanted, &mut outcome);
        let mut have = BTreeMap::new();
        for &objects in &plan.scales {
            progress(&format!("{objects} objects"));
            fill(plan, &mut running.systems, objects, &mut have, &mut outcome);
            rounds(plan, &mut running.systems, objects, &mut outcome, &progress);
        }
    }
    if !plan.missed.is_empty() {
        let mut stage = Stage::new()?;
        let data = data_folder(folder)?;
        rejoin::measure(plan, wanted, &mut stage, data.path(), &mut outcome, &progress);
    }
    Ok(outcome)
}

fn data_folder(folder: &Path) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(folder).context(folder.display())?;
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("data-")
        .tempdir_in(folder)
        .context(folder.display())
}

fn start(stage: &mut Stage, data: &Path, wanted: &[&'static str], outcome: &mut Outcome) -> Running {
    let mut running = Running {
        systems: Vec::new(),
        _array: None,
        _clusters: Vec::new(),
    };
    let mut array: Option<Result<Array>> = None;
    for &name in wanted {
        let started = match name {
            FLOOR => floor(stage, data),
            ONE | THREE => Cluster::start(stage, data, name).and_then(|mut cluster| {
                let system = of_cluster(&mut cluster);
                running._clusters.push(cluster);
                system
            }),
            _ => match array.get_or_insert_with(|| Array::start(stage, data)) {
                Ok(array) => of_array(name, array),
                Err(error) => Err(Error::Missing(error.to_string())),
            },
        };
        match started {
            Ok(system) => running.systems.push(system),
            Err(error) => outcome.miss(name, "everything", &error),
        }
    }
    running._array = array.and_then(Result::ok);
    running
}

fn floor(stage: &mut Stage, data: &Path) -> Result<System> {
    let (address, socket) = (free_port()?.to_string(), stage.path("floor.sock"));
    let mut second = Command::new(&stage.this);
    second
        .args(["ledger", "--listen", &address])
        .arg(data.join("floor-second"));
    let (second, ()) = stage.start(&mut second, "floor-second.log", "starts", || Some(()))?;
    let mut first = Command::new(&stage.this);
    first
        .args(["ledger", "--dial", &address])
        .arg("--socket")
        .arg(&socket)
        .arg(data.join("floor-first"));
    let (first, _) = stage.start(&mut first, "floor-first.log", "listens", || {
        ledger::writer(&socket).ok()
    })?;
    Ok(System {
        name: FLOOR,
        objects_of: FLOOR,
        writers: some(|| ledger::writer(&socket))?,
        // It knows no objects.
        makes: (usize::MAX, 1),
        counted: vec![first, second],
    })
}

fn of_array(name: &'static str, array: &Array) -> Result<System> {
    let at = if name == FOLLOWER {
        ControllerId::B
    } else {
        ControllerId::A
    };
    Ok(System {
        name,
        objects_of: ARRAY,
        writers: some(|| config::writer(name, array.socket(at), false))?,
        // A request is large: one at a time.
        makes: (config::TOGETHER, 1),
        counted: array.processes(),
    })
}

fn of_cluster(cluster: &mut Cluster) -> Result<System> {
    let (name, leader) = (cluster.name, cluster.leader()?);
    let address = cluster.address(leader);
    Ok(System {
        name,
        objects_of: name,
        writers: some(|| etcd::writer(name, address))?,
        makes: (etcd::TOGETHER, WRITERS),
        counted: cluster.processes(),
    })
}

fn some(writer: impl Fn() -> Result<Writer>) -> Result<Vec<Writer>> {
    (0..WRITERS).map(|_| writer()).collect()
}

/// Gives every system its objects; one that does not take them in time is left out from now on.
fn fill(
    plan: &Plan,
    systems: &mut Vec<System>,
    objects: usize,
    have: &mut BTreeMap<&'static str, usize>,
    outcome: &mut Outcome,
) {
    let mut failed: BTreeMap<&str, String> = BTreeMap::new();
    systems.retain_mut(|system| {
        let had = have.entry(system.objects_of).or_insert(0);
        if *had < objects && !failed.contains_key(system.objects_of) {
            let (each, at_once) = system.makes;
            let writers = &mut system.writers[..at_once];
            match writers::make(writers, *had..objects, each, plan.patience) {
                Ok(()) => *had = objects,
                Err(error) => drop(failed.insert(system.objects_of, error.to_string())),
            }
        }
        let Some(why) = failed.get(system.objects_of) else {
            return true;
        };
        outcome.miss(
            system.name,
            format!("{objects} objects"),
            &Error::Missing(why.clone()),
        );
        false
    });
}

/// Measures every system in every round; one that fails is left out from now on.
fn rounds(
    plan: &Plan,
    systems: &mut Vec<System>,
    objects: usize,
    outcome: &mut Outcome,
    progress: &impl Fn(&str),
) {
    let mut samples: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
    for round in 0..plan.rounds {
        progress(&format!(
            "{objects} objects, round {} of {}",
            round + 1,
            plan.rounds
        ));
        for step in 0..systems.len() {
            let place = (round + step) % systems.len();
            let system = &mut systems[place];
            let name = system.name;
            if outcome.missing.iter().any(|missing| missing.system == name) {
                continue;
            }
            let measured = system.writers[0]
                .one_at_a_time(objects, WAKE)
                .and_then(|_| writers::round(&mut system.writers, objects, plan.time, &system.counted));
            match measured {
                Ok(sample) => samples.entry(name).or_default().push(sample),
                Err(error) => outcome.miss(name, format!("{objects} objects"), &error),
            }
        }
        systems.retain(|system| {
            !outcome
                .missing
                .iter()
                .any(|missing| missing.system == system.name)
        });
    }
    for system in systems {
        outcome.measured.push(Measured {
            system: system.name,
            objects,
            samples: samples.remove(system.name).unwrap_or_default(),
        });
    }
}
