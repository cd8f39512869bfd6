//! The pause of a host that writes when the owner of its volumes dies: how it depends on how much has to be taken.
//!
//! A whole array as it is shipped, a multipath host that writes and keeps account, and then controller a dies.
//! What is reported is the longest time without an acknowledgement, of the stream that waited longest, and what the
//! array's own journal says of where that time went. Afterwards everything is read back: a pause that lost something is
//! no pause but a failure.
//!
//! | system | what it is here |
//! |---|---|
//! | pollux | pools at home on controller a, each on one disk; a dies; controller b takes them |
//! | floor | tgtd with a unit on a file is killed; a second one, with the same file open, takes its portal |
//!
//! The second tgtd is given the portal when as much time has passed as the array has just taken, in the same round, until
//! it suspected its partner.
//!
//! The floor does nothing of what makes a takeover safe: nobody asks the quorum disks, nobody is fenced, nothing is
//! imported, and its host hears at once that the connection is gone. It is what the detection alone costs, with a host
//! that connects again; what the array takes beyond it is the price of safety.
//!
//! In each round each number of volumes and pools is measured once, with an array of its own, and the floor once.

pub mod report;

use crate::error::{Context, Error, Result};
use crate::peer::tgtd::{LUN, PROGRAM, Tgtd};
use crate::stage::{Stage, free_ports};
use crate::whole::{Pool, Whole, scratch};
use pollux_api::chassis::PowerAction;
use pollux_api::heartbeat::Incident;
use pollux_api::id::ControllerId::{A, B};
use pollux_heartbeat_core::timing::{self, Timing};
use pollux_host::client::HostProcess;
use pollux_host::engine::{DeviceInfo, HostConfig};
use pollux_host::time::now_ns;
use pollux_host::workload::{StreamConfig, StreamReport, WorkloadConfig};
use pollux_pair::programs::Programs;
use pollux_pair::rig::INITIATOR;
use pollux_pair::wait::{pause, that, wait_for};
use pollux_runtime::Profile;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub use crate::peer::tgtd::PACKAGES;

/// Name of the array.
pub const ARRAY: &str = "pollux";
/// Name of the floor.
pub const FLOOR: &str = "floor";
/// Phases of a takeover as the array's journal names them, in their order.
pub const PHASES: [&str; 9] = [
    "detect",
    "arbitrate",
    "fence",
    "claim",
    "import",
    "lease",
    "publish",
    "optimize",
    "addresses",
];
/// Streams at most; on a pool with more volumes they are spread over all of them.
const STREAMS: usize = 16;
/// Of one pool.
const STREAMS_OF_ONE: usize = 4;
/// Size of a volume, bytes: nothing of a takeover depends on it.
const VOLUME: u64 = 4 << 20;
/// How long boot, discovery and takeover may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Writes of each stream before and after.
const WRITES: u64 = 20;

/// How the owner dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It loses its power, which its partner can ask for.
    Power,
    /// Every process of it stops without a word: it has to be suspected, and fenced.
    Hang,
}

/// How much is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scale {
    /// Pools.
    pub pools: usize,
    /// Volumes of each.
    pub volumes: usize,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// What is to be taken, each in an array of its own.
    pub scales: Vec<Scale>,
    /// Timing profile.
    pub profile: Profile,
    /// How the owner dies.
    pub fault: Fault,
    /// Where the data of all systems is.
    pub data: PathBuf,
}

/// One takeover, as the host and the array saw it; ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Take {
    /// The longest time without an acknowledgement.
    pub pause: f64,
    /// From the death to the first acknowledgement of the stream that waited longest.
    pub resumed: f64,
    /// Phases, from and to, since the death. Those of several pools overlap: from the first to the last.
    pub phases: BTreeMap<String, (f64, f64)>,
}

/// What was measured with one scale.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Which.
    pub scale: Scale,
    /// Each round.
    pub takes: Vec<Take>,
}

/// What was measured, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of the array.
    pub measured: Vec<Measured>,
    /// Pauses of the floor, ms.
    pub floor: Vec<f64>,
    /// What the profile takes at most until a silent partner is suspected, ms.
    pub detection: f64,
    /// What could not be measured, and why.
    pub missing: Vec<(String, String)>,
}

impl Outcome {
    /// How long the array took in this round until it suspected its partner: the shortest of all scales.
    fn noticed(&self, round: usize) -> Option<Duration> {
        let takes = self
            .measured
            .iter()
            .filter_map(|measured| measured.takes.get(round));
        let ends = takes.filter_map(|take| Some(take.phases.get(PHASES[0])?.1));
        let least = ends.min_by(f64::total_cmp)?;
        Some(Duration::from_secs_f64(least.max(0.0) / 1e3))
    }
}

/// Measures every scale and the floor in every round. `progress` hears what is being done.
///
/// # Errors
/// Something was lost, or an acknowledged write was not what it was. What does not run is part of the outcome.
pub fn measure(plan: &Plan, progress: impl Fn(&str)) -> Result<Outcome> {
    let detection = timing(plan.profile).detection();
    let mut outcome = Outcome {
        detection: detection.as_secs_f64() * 1e3,
        ..Outcome::default()
    };
    for &scale in &plan.scales {
        let takes = Vec::new();
        outcome.measured.push(Measured { scale, takes });
    }
    for round in 0..plan.rounds {
        for step in 0..plan.scales.len() {
            let place = (round + step) % plan.scales.len();
            let scale = plan.scales[place];
            let name = name_of(scale);
            if outcome.missing.iter().any(|(missing, _)| *missing == name) {
                continue;
            }
            progress(&format!("round {} of {}: {name}", round + 1, plan.rounds));
            match take(plan, scale) {
                Ok(take) => outcome.measured[place].takes.push(take),
                Err(wrong @ Error::Wrong { .. }) => return Err(wrong),
                Err(error) => outcome.missing.push((name, error.to_string())),
            }
        }
        if outcome.missing.iter().any(|(missing, _)| missing == FLOOR) {
            continue;
        }
        progress(&format!("round {} of {}: {FLOOR}", round + 1, plan.rounds));
        let noticed = outcome.noticed(round).unwrap_or(detection);
        match floor(plan, noticed) {
            Ok(pause) => outcome.floor.push(pause),
            Err(error) => outcome.missing.push((FLOOR.into(), error.to_string())),
        }
    }
    outcome.measured.retain(|measured| !measured.takes.is_empty());
    Ok(outcome)
}

/// A scale in words.
#[must_use]
pub fn name_of(Scale { pools, volumes }: Scale) -> String {
    let plural = |number: usize| if number == 1 { "" } else { "s" };
    format!(
        "{pools} pool{} of {volumes} volume{}",
        plural(pools),
        plural(volumes)
    )
}

fn timing(profile: Profile) -> Timing {
    Timing::derive(match profile {
        Profile::Fast => timing::Profile::Fast,
        Profile::Safe => timing::Profile::Safe,
        Profile::Ci => timing::Profile::Ci,
    })
}

/// Units that are written to: of many volumes of a pool that the host sees some, from the first to the last.
fn written(Scale { pools, volumes }: Scale) -> Vec<u16> {
    let of_each = if pools == 1 {
        STREAMS_OF_ONE
    } else {
        STREAMS / pools
    }
    .clamp(1, volumes);
    let spread = |place: usize| match of_each {
        1 => 0,
        _ => place * (volumes - 1) / (of_each - 1),
    };
    let of_pool = |pool: usize| (0..of_each).map(move |place| pool * volumes + spread(place));
    (0..pools.min(STREAMS))
        .flat_map(of_pool)
        .map(|lun| lun as u16)
        .collect()
}

/// One death.
fn take(plan: &Plan, scale: Scale) -> Result<Take> {
    let pools: Vec<Pool> = (0..scale.pools)
        .map(|number| Pool {
            name: format!("pool-{number}"),
            disks: 1,
            volumes: scale.volumes,
            volume_bytes: VOLUME,
            write_cache: false,
        })
        .collect();
    let whole = Whole::start(&plan.data, &pools, |options| options.profile = plan.profile)?;
    let luns = written(Scale {
        volumes: whole.units / scale.pools,
        ..scale
    });
    connect(&whole.host, &whole.iqn, &whole.portals)?;
    let devices = ready(&whole.host, whole.units, 2)?;
    write(&whole.host, &devices, &luns)?;
    let cut = match plan.fault {
        Fault::Power => whole.array.power(A, PowerAction::Off),
        Fault::Hang => whole.array.hang(A, true),
    }
    .context("let controller a die")?;
    for pool in &whole.pools {
        whole
            .array
            .wait_owner(B, *pool, PATIENCE)
            .context("wait for the takeover")?;
    }
    progressed(&whole.host)?;
    let streams = stopped(&whole.host)?;
    let incident = wait_for("the journal tells of the takeover", PATIENCE, || {
        let incidents = whole.array.timeline(B)?;
        let found = incidents.into_iter().find(|incident| {
            incident.kind == "takeover" && incident.started_ns > cut.began_ns && incident.outcome == "done"
        });
        found.ok_or_else(|| "no takeover that is done".to_owned())
    })
    .context("read the journal")?;
    Ok(account(cut.began_ns, &streams, &incident))
}

#[expect(clippy::cast_precision_loss, reason = "times of minutes")]
fn since(start_ns: u64, ns: u64) -> f64 {
    (ns as f64 - start_ns as f64) / 1e6
}

/// Lays what the host saw over what the array's journal says; both are on one clock.
fn account(cut_ns: u64, streams: &[StreamReport], incident: &Incident) -> Take {
    let gaps = streams.iter().filter_map(|stream| stream.longest_gap(cut_ns));
    let longest = gaps.max_by_key(pollux_host::workload::Gap::length_ns);
    let mut phases: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for phase in &incident.phases {
        let Some(length) = phase.length_us else { continue };
        let from = incident.started_ns.saturating_add_signed(phase.start_us * 1000);
        let (from, to) = (since(cut_ns, from), since(cut_ns, from + length * 1000));
        phases
            .entry(phase.name.clone())
            .and_modify(|known| *known = (known.0.min(from), known.1.max(to)))
            .or_insert((from, to));
    }
    Take {
        pause: longest.map_or(0.0, |gap| since(gap.from_ns, gap.to_ns)),
        resumed: longest.map_or(0.0, |gap| since(cut_ns, gap.to_ns)),
        phases,
    }
}

/// The floor: the pause, ms.
fn floor(plan: &Plan, detection: Duration) -> Result<f64> {
    let stage = Stage::new()?;
    let data = scratch(&plan.data)?;
    let programs = Programs::beside_this().context("the array's programs")?;
    let file = data.path().join("unit");
    let made = std::fs::File::create(&file).context(file.display())?;
    made.set_len(VOLUME).context(file.display())?;
    let [portal, aside] = free_ports::<2>()?;
    // Both have the same name of the target: to the host they are one.
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = stage.path(name);
        std::fs::create_dir_all(&folder).context(folder.display())?;
        Ok(folder)
    };
    let mut first = Tgtd::start(
        Command::new(PROGRAM),
        &folder("1")?,
        "floor",
        portal,
        &file,
        false,
    )?;
    let second = Tgtd::start(Command::new(PROGRAM), &folder("2")?, "floor", aside, &file, false)?;
    let host = HostProcess::spawn(Command::new(programs.host())).context("start the host")?;
    connect(&host, &first.iqn, &[portal.to_string()])?;
    // Its unit 0 is no disk.
    let devices = wait_for("the unit of tgtd can be written to", PATIENCE, || {
        let devices = host.devices()?;
        let usable = |device: &DeviceInfo| {
            device.lun == LUN && device.blocks > 0 && device.paths.iter().any(|path| path.usable)
        };
        let found = devices.iter().any(usable);
        that(found, || format!("{devices:?}")).map(|()| devices)
    })
    .context("find the unit")?;
    write(&host, &devices, &[LUN])?;
    let killed = now_ns();
    first.kill()?;
    pause(detection);
    second.add_portal(portal)?;
    progressed(&host)?;
    let streams = stopped(&host)?;
    let gaps = streams.iter().filter_map(|stream| stream.longest_gap(killed));
    let longest = gaps.max_by_key(pollux_host::workload::Gap::length_ns);
    longest
        .map(|gap| since(gap.from_ns, gap.to_ns))
        .ok_or_else(|| Error::Missing("the host had no pause".into()))
}

fn connect(host: &HostProcess, target: &str, portals: &[String]) -> Result<()> {
    let config = HostConfig {
        initiator: INITIATOR.into(),
        target: target.into(),
        portals: portals.to_vec(),
        settings: Default::default(),
        header_digest: false,
    };
    host.connect(config).map(drop).context("connect the host")
}

/// Every unit that can be written to, over so many paths.
fn ready(host: &HostProcess, units: usize, paths: usize) -> Result<Vec<DeviceInfo>> {
    host.wait_ready(units, paths, PATIENCE.as_millis() as u64)
        .context("find every unit")
}

/// Starts a stream on each unit, and waits until all flow.
fn write(host: &HostProcess, devices: &[DeviceInfo], luns: &[u16]) -> Result<()> {
    let stream = |lun: u16| {
        let device = devices.iter().find(|device| device.lun == lun);
        let device = device.ok_or_else(|| Error::Missing(format!("the host sees no LUN {lun}")))?;
        let unit_blocks = (4096 / device.block_size.max(1)).max(1);
        Ok(StreamConfig {
            writer: u32::from(lun) + 1,
            lun,
            first_lba: 0,
            units: (device.blocks / u64::from(unit_blocks)).min(256),
            unit_blocks,
            queue_depth: 1,
            think_us: 1_000,
            readers: 0,
        })
    };
    let workload = WorkloadConfig {
        seed: 1,
        streams: luns.iter().map(|lun| stream(*lun)).collect::<Result<_>>()?,
        ack_log: None,
    };
    host.start(workload).context("start the streams")?;
    progressed(host)
}

/// Waits until every stream has gone on.
fn progressed(host: &HostProcess) -> Result<()> {
    let counts = || -> std::result::Result<BTreeMap<u32, u64>, String> {
        let streams = host.progress()?;
        Ok(streams
            .iter()
            .map(|stream| (stream.writer, stream.acknowledged))
            .collect())
    };
    let before = counts().context("ask the streams")?;
    wait_for("every stream goes on", PATIENCE, || {
        let now = counts()?;
        let late = now
            .iter()
            .filter(|(writer, count)| **count < before[writer] + WRITES);
        let late: Vec<&u32> = late.map(|(writer, _)| writer).collect();
        that(late.is_empty(), || format!("writers {late:?}"))
    })
    .context("wait for the streams")
}

/// Stops the streams and reads back what they wrote.
fn stopped(host: &HostProcess) -> Result<Vec<StreamReport>> {
    let streams = host.stop().context("stop the streams")?;
    let wrong = |what: String| Error::Wrong { bus: ARRAY, what };
    if let Some(failed) = streams.iter().find(|stream| stream.error_count > 0) {
        return Err(wrong(format!("writer {}: {:?}", failed.writer, failed.errors)));
    }
    let verdict = host.verify().context("read everything back")?;
    if !verdict.is_clean() {
        return Err(wrong(format!("{verdict:?}")));
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::heartbeat::Phase;
    use pollux_api::id::Epoch;
    use pollux_host::workload::Gap;

    #[test]
    fn streams_are_spread_from_the_first_volume_to_the_last() {
        let of = |pools, volumes| written(Scale { pools, volumes });
        assert_eq!(of(1, 1), [0]);
        assert_eq!(of(1, 10), [0, 3, 6, 9]);
        assert_eq!(of(1, 1000), [0, 333, 666, 999]);
        assert_eq!(of(4, 1), [0, 1, 2, 3]);
        assert_eq!(of(16, 1), (0..16).collect::<Vec<u16>>());
        assert_eq!(of(2, 3).len(), 6);
    }

    #[test]
    fn what_the_host_saw_and_what_the_journal_says_are_on_one_clock() {
        let phase = |name: &str, start_us, length_us| Phase {
            name: name.into(),
            pool: None,
            start_us,
            length_us,
            note: None,
        };
        let incident = Incident {
            action_id: String::new(),
            kind: "takeover".into(),
            controller: B,
            epoch: Epoch::new(2),
            caused_by: None,
            cause: String::new(),
            started_unix_ms: 0,
            started_ns: 3_000_000_000,
            phases: vec![
                phase("detect", -900_000, Some(900_000)),
                phase("import", 10_000, Some(20_000)),
                phase("import", 5_000, Some(10_000)),
                phase("publish", 30_000, None),
            ],
            outcome: "done".into(),
        };
        let stream = |from_ns, to_ns| StreamReport {
            gaps: vec![Gap { from_ns, to_ns }],
            ..StreamReport::default()
        };
        let cut = 2_000_000_000;
        let streams = [
            stream(1_999_000_000, 3_100_000_000),
            stream(1_998_000_000, 3_050_000_000),
            // Before the death: another pause.
            stream(1_000_000_000, 1_900_000_000),
        ];
        let take = account(cut, &streams, &incident);
        assert!((take.pause - 1101.0).abs() < 1e-6 && (take.resumed - 1100.0).abs() < 1e-6);
        assert_eq!(take.phases["detect"], (100.0, 1000.0));
        assert_eq!(take.phases["import"], (1005.0, 1030.0));
        assert!(!take.phases.contains_key("publish"));
        let scale = Scale { pools: 1, volumes: 1 };
        let outcome = Outcome {
            measured: vec![Measured {
                scale,
                takes: vec![take],
            }],
            ..Outcome::default()
        };
        assert_eq!(outcome.noticed(0), Some(Duration::from_secs(1)));
        assert_eq!(outcome.noticed(1), None);
    }
}
