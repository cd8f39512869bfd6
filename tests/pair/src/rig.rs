//! One crash test: an array with volumes, a host with two cables, load, and a judgement.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use pollux_api::config::item::{Item, ItemId, Settings};
use pollux_api::config::{Class, Op, Redundancy, Resource, RowOp};
use pollux_api::error::Code;
use pollux_api::id::{ControllerId, DiskIndex, PoolId, VolumeId};
use pollux_api::pool::SERVICE;
use pollux_host::client::HostProcess;
use pollux_host::control::Report;
use pollux_host::engine::{DeviceInfo, HostConfig};
use pollux_host::workload::{StreamConfig, StreamReport, Verdict, WorkloadConfig};
use pollux_platform::file::Lock;

use crate::array::{Array, Options};
use crate::audit::{self, Audit};
use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::wait::{that, wait_for};

/// Name of the host's initiator.
pub const INITIATOR: &str = "iqn.2026-01.org.pollux.host:rig";
/// How long boot and join may take on a busy build machine.
pub const BOOT: Duration = Duration::from_secs(40);
/// How long a takeover or a move may take before the test calls it late; budgets are reported.
pub const MOVE: Duration = Duration::from_secs(40);

/// A pool of the rig.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: PoolId,
    /// Where it belongs.
    pub home: ControllerId,
    /// Its disks.
    pub disks: Vec<DiskIndex>,
    /// Its floating address.
    pub address: String,
}

/// A volume of the rig.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: VolumeId,
    /// Its pool, by place in [`Rig::pools`].
    pub pool: usize,
    /// The number under which the host sees it.
    pub lun: u16,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The array.
    pub array: Options,
    /// Volumes on each of the two pools.
    pub volumes_per_pool: u16,
    /// Size of a volume, bytes.
    pub volume_bytes: u64,
    /// Volumes take space of their pools when they are written.
    pub thin: bool,
    /// Writes may stay in the disks' caches until the host flushes them.
    pub write_cache: bool,
    /// Bytes at the start of each volume that streams leave alone (for an image).
    pub reserved_bytes: u64,
    /// Seed of the host's choices.
    pub seed: u64,
    /// Where the host notes what was acknowledged; none: in memory only.
    pub ack_log: Option<PathBuf>,
}

impl Plan {
    /// One volume of 32 MiB on each pool.
    pub fn new(array: Options) -> Self {
        let seed = array.seed;
        Plan {
            array,
            volumes_per_pool: 1,
            volume_bytes: 32 << 20,
            thin: false,
            write_cache: false,
            reserved_bytes: 0,
            seed,
            ack_log: None,
        }
    }
}

/// An array with its host. Dropping it ends both.
pub struct Rig {
    /// The host; ends before the array.
    pub host: HostProcess,
    /// The array.
    pub array: Array,
    /// Pools: the first at home on a, the second on b.
    pub pools: Vec<Pool>,
    /// Volumes, by LUN.
    pub volumes: Vec<Volume>,
    /// Devices as the host found them.
    pub devices: Vec<DeviceInfo>,
    plan: Plan,
    loaded: bool,
}

/// Everything that was found, once the load has stopped.
#[derive(Debug)]
pub struct Judgement {
    /// One line per audit.
    pub audits: Vec<Audit>,
    /// What the streams did.
    pub streams: Vec<StreamReport>,
    /// What reading everything back showed.
    pub verdict: Verdict,
    /// Statuses, events, conflicts.
    pub report: Report,
    /// Longest time without acknowledgement that ended after the fault, over all streams.
    pub pause: Option<Duration>,
}

impl Judgement {
    /// Every audit held.
    pub fn is_clean(&self) -> bool {
        self.audits.iter().all(|audit| audit.finding.is_ok())
    }

    /// Panics with every finding, for tests.
    #[track_caller]
    pub fn expect_clean(&self) {
        assert!(self.is_clean(), "{}", self.text());
    }

    /// The audit of this name.
    pub fn audit(&self, name: &str) -> Option<&Audit> {
        self.audits.iter().find(|audit| audit.name == name)
    }

    /// In words, one line per audit.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for audit in &self.audits {
            text += &format!("{audit}\n");
        }
        for (what, count) in &self.report.counts {
            text += &format!("  port {} {}: {} x {count}\n", what.port, what.class, what.status);
        }
        for event in self.report.events.iter().rev().take(20).rev() {
            text += &format!(
                "  {} ns port {} lun {:?}: {}\n",
                event.at_ns, event.port, event.lun, event.what
            );
        }
        text
    }
}

impl Rig {
    /// Builds the array, makes pools, volumes, host, mappings and addresses, and logs the host in.
    pub fn build(programs: &Programs, plan: Plan) -> Result<Self> {
        let array = Array::start(programs, &plan.array)?;
        array.wait_joined(BOOT)?;
        let (pools, volumes) = provision(&array, &plan)?;
        for pool in &pools {
            array.wait_owner(pool.home, pool.id, BOOT)?;
        }
        let (iqn, portals) = target_of(&array)?;
        let host = HostProcess::spawn(array.in_host_network(&programs.host()))
            .map_err(|err| Error::step("start the host", err))?;
        let config = HostConfig {
            initiator: INITIATOR.into(),
            target: iqn,
            portals,
            settings: Default::default(),
            header_digest: false,
        };
        host.connect(config)
            .map_err(|err| Error::step("connect the host", err))?;
        let devices = host
            .wait_ready(volumes.len(), 2, BOOT.as_millis() as u64)
            .map_err(|err| Error::step("find every volume over two paths", err))?;
        Ok(Rig {
            host,
            array,
            pools,
            volumes,
            devices,
            plan,
            loaded: false,
        })
    }

    /// The pool at home on a controller.
    pub fn pool_of(&self, home: ControllerId) -> &Pool {
        self.pools
            .iter()
            .find(|pool| pool.home == home)
            .expect("one pool for each controller")
    }

    /// Starts a stream of sealed blocks with readers on every volume, and waits until all flow.
    pub fn load(&mut self) -> Result<()> {
        let streams = self
            .volumes
            .iter()
            .map(|volume| self.stream(volume))
            .collect::<Result<Vec<_>>>()?;
        let workload = WorkloadConfig {
            seed: self.plan.seed,
            streams,
            ack_log: self.plan.ack_log.clone(),
        };
        self.host
            .start(workload)
            .map_err(|err| Error::step("start the streams", err))?;
        self.loaded = true;
        self.wait_progress(50, BOOT)
    }

    fn stream(&self, volume: &Volume) -> Result<StreamConfig> {
        let device = self
            .devices
            .iter()
            .find(|device| device.lun == volume.lun)
            .ok_or_else(|| Error::step("plan the streams", format!("the host sees no LUN {}", volume.lun)))?;
        let block = u64::from(device.block_size);
        let first_lba = self.plan.reserved_bytes.div_ceil(block);
        let unit_blocks = (4096 / block).max(1) as u32;
        let units = ((device.blocks - first_lba) / u64::from(unit_blocks)).min(1024);
        Ok(StreamConfig {
            writer: u32::from(volume.lun) + 1,
            lun: volume.lun,
            first_lba,
            units,
            unit_blocks,
            queue_depth: 4,
            think_us: 1_000,
            readers: 1,
        })
    }

    /// Waits until every stream has had `more` further writes acknowledged.
    pub fn wait_progress(&self, more: u64, bound: Duration) -> Result<()> {
        let count = || -> std::result::Result<BTreeMap<u32, u64>, String> {
            Ok(self
                .host
                .progress()?
                .iter()
                .map(|stream| (stream.writer, stream.acknowledged))
                .collect())
        };
        let start = count().map_err(|err| Error::step("look at the streams", err))?;
        wait_for(
            &format!("every stream gets {more} more acknowledgements"),
            bound,
            || {
                let now = count()?;
                let late: Vec<String> = now
                    .iter()
                    .filter(|(writer, acked)| **acked < start[writer] + more)
                    .map(|(writer, acked)| format!("writer {writer} {} more", acked - start[writer]))
                    .collect();
                that(late.is_empty(), || late.join(", "))
            },
        )
    }

    /// Waits until a controller serves a pool and the host's writes flow again.
    pub fn wait_taken(&self, by: ControllerId, pool: PoolId) -> Result<()> {
        self.array.wait_owner(by, pool, MOVE)?;
        self.wait_progress(50, MOVE)
    }

    /// Every pool is served where it belongs.
    pub fn nothing_moved(&self) -> Result<()> {
        for pool in &self.pools {
            let served = self.array.serves(pool.home, pool.id);
            served.map_err(|seen| Error::step(format!("{} stays at home", pool.name), seen))?;
        }
        Ok(())
    }

    /// Waits until both controllers have locked the configuration.
    pub fn wait_locked(&self) -> Result<()> {
        wait_for("both controllers lock the configuration", MOVE, || {
            for at in ControllerId::ALL {
                let status = self.array.heartbeat(at)?;
                that(status.config_lock.is_some(), || {
                    format!("{at}: wire {}", status.wire.state)
                })?;
            }
            Ok(())
        })
    }

    /// Waits until both controllers have raised an alarm, or neither has it any more.
    pub fn wait_alarm(&self, id: &str, raised: bool) -> Result<()> {
        let word = if raised { "raise" } else { "clear" };
        wait_for(&format!("both controllers {word} the alarm {id}"), MOVE, || {
            for at in ControllerId::ALL {
                let alarms = self.array.heartbeat(at)?.alarms;
                that(alarms.iter().any(|alarm| alarm.id == id) == raised, || {
                    format!("{at}: {alarms:?}")
                })?;
            }
            Ok(())
        })
    }

    /// Stops the load, reads everything back, and runs every audit. `since_ns` is when the fault
    /// began: the pause is the longest one that ended after it.
    pub fn judge(&mut self, since_ns: u64) -> Result<Judgement> {
        if !self.loaded {
            return Err(Error::step("judge", "nothing was loaded"));
        }
        let ask = |what: &str, err: String| Error::step(what.to_owned(), err);
        let streams = self.host.stop().map_err(|err| ask("stop the streams", err))?;
        let verdict = self
            .host
            .verify()
            .map_err(|err| ask("read everything back", err))?;
        let report = self
            .host
            .report()
            .map_err(|err| ask("ask the host for its report", err))?;
        let gaps = streams.iter().filter_map(|stream| stream.longest_gap(since_ns));
        let pause = gaps.map(|gap| Duration::from_nanos(gap.length_ns())).max();
        let mut audits = vec![
            audit::one_writer(&self.array, &self.pools),
            audit::nothing_lost(&streams, &verdict),
            audit::ports_agree(&self.host, &self.volumes),
            audit::configuration(&self.array),
            audit::addresses(&self.array, &self.pools),
            audit::no_error(&streams, &report),
            audit::traceable(&self.array),
            audit::no_stale_read(&streams),
        ];
        audits.sort_by_key(|audit| audit.name.len() * 100 + usize::from(audit.name.as_bytes()[1]));
        Ok(Judgement {
            audits,
            streams,
            verdict,
            report,
            pause,
        })
    }
}

/// Makes pools, volumes, host, mappings and addresses in two changes, as an operator would.
fn provision(array: &Array, plan: &Plan) -> Result<(Vec<Pool>, Vec<Volume>)> {
    let status = array.enclosure_status()?;
    let data: Vec<DiskIndex> = status
        .disks
        .iter()
        .filter(|disk| !disk.quorum)
        .map(|disk| disk.index)
        .collect();
    if data.len() < 2 {
        return Err(Error::step(
            "make the pools",
            format!("{} data disks, at least 2 are needed", data.len()),
        ));
    }
    let half = data.len() / 2;
    let layout = [
        ("alpha", ControllerId::A, &data[..half]),
        // Of an odd number the last disk is nobody's.
        ("beta", ControllerId::B, &data[half..2 * half]),
    ];
    let redundancy = if half >= 2 {
        Redundancy::Mirror
    } else {
        Redundancy::Single
    };
    let ops = layout
        .iter()
        .map(|(name, home, disks)| Op::CreatePool {
            name: (*name).into(),
            class: Class::Fast,
            home: *home,
            redundancy,
            backend: None,
            disks: disks.to_vec(),
        })
        .collect();
    let rows = change(array, "make the pools", ops)?;
    let mut pools = Vec::new();
    for (index, (name, home, disks)) in layout.into_iter().enumerate() {
        let id = rows
            .iter()
            .find_map(|row| match row {
                Resource::Pool(pool) if pool.name == name => Some(pool.id),
                _ => None,
            })
            .ok_or_else(|| Error::step("make the pools", format!("no row for {name} came back")))?;
        pools.push(Pool {
            name: name.into(),
            id,
            home,
            disks: disks.to_vec(),
            address: format!("10.78.0.{}/24", 50 + index),
        });
    }
    // A pool can take volumes once its disks are labelled.
    wait_for("both pools are ready for volumes", BOOT, || {
        let snapshot: pollux_api::config::Snapshot = array
            .call(ControllerId::A, pollux_api::config::SHOW, &())
            .map_err(|err| err.to_string())?;
        for pool in &pools {
            let ready = snapshot
                .tables
                .pools
                .get(&pool.id)
                .is_some_and(|row| row.ready.is_some());
            that(ready, || format!("{} is not labelled yet", pool.name))?;
        }
        Ok(())
    })?;
    let mut ops = vec![Op::CreateHost {
        name: "rig".into(),
        iqns: vec![INITIATOR.into()],
    }];
    let mut names = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        ops.push(Op::CreateAddress {
            pool: pool.name.clone(),
            cidr: pool.address.clone(),
        });
        for number in 0..plan.volumes_per_pool {
            let name = format!("{}-{number}", pool.name);
            let lun = names.len() as u16;
            let size_bytes = plan.volume_bytes;
            ops.push(Op::CreateVolume {
                name: name.clone(),
                pool: pool.name.clone(),
                size_bytes,
            });
            ops.push(Op::Map {
                volume: name.clone(),
                host: "rig".into(),
                lun: Some(lun),
            });
            names.push((name, index, lun));
        }
    }
    if plan.thin || plan.write_cache {
        let names_if = |wanted: bool| match wanted {
            true => names.iter().map(|(name, ..)| name.clone()).collect(),
            false => Vec::new(),
        };
        let settings = Settings {
            name: SERVICE.into(),
            service: SERVICE.into(),
            values: BTreeMap::new(),
            thin: names_if(plan.thin),
            write_cache: names_if(plan.write_cache),
            id: ItemId::default(),
        };
        ops.push(Op::Set {
            item: Item::Settings(settings),
        });
    }
    let rows = change(array, "make volumes, host, mappings and addresses", ops)?;
    let mut volumes = Vec::new();
    for (name, pool, lun) in names {
        let id = rows.iter().find_map(|row| match row {
            Resource::Volume(volume) if volume.name == name => Some(volume.id),
            _ => None,
        });
        let id = id.ok_or_else(|| Error::step("make the volumes", format!("no row for {name} came back")))?;
        volumes.push(Volume { name, id, pool, lun });
    }
    Ok((pools, volumes))
}

/// A change that must succeed; returns the rows that it put. A lock that says "ask again" (the
/// membership has only just settled) is asked again, as an operator would; a locked change has
/// changed nothing.
pub fn change(array: &Array, what: &str, ops: Vec<Op>) -> Result<Vec<Resource>> {
    let changed = wait_for(what, BOOT, || match array.change(ControllerId::A, ops.clone()) {
        Ok((_, changed)) => Ok(Ok(changed)),
        Err(locked) if locked.is(Code::ConfigLocked) => Err(refusal(&locked)),
        Err(refused) => Ok(Err(refused)),
    })?;
    let changed = changed.map_err(|refused| Error::step(what, refusal(&refused)))?;
    Ok(changed
        .rows
        .into_iter()
        .filter_map(|row| match row {
            RowOp::Put(resource) => Some(resource),
            RowOp::Delete(_) => None,
        })
        .collect())
}

/// A refusal with every wrong field.
pub fn refusal(err: &pollux_api::error::RpcError) -> String {
    let problems: Vec<String> = err
        .data
        .problems
        .iter()
        .map(|p| format!("{}: {} ({})", p.path, p.what, p.remedy))
        .collect();
    format!("{err} {}", problems.join("; "))
}

/// Name of the target and its portal on each controller, as the controllers say.
pub fn target_of(array: &Array) -> Result<(String, Vec<String>)> {
    wait_for("both targets tell their portals", BOOT, || {
        let (a, b) = (array.target(ControllerId::A)?, array.target(ControllerId::B)?);
        that(a.iqn == b.iqn, || format!("two names: {} and {}", a.iqn, b.iqn))?;
        Ok((a.iqn, vec![a.portal, b.portal]))
    })
}

/// One array at a time on a machine: timing profiles assume that the processors are there.
pub struct Turn {
    _lock: Lock,
}

impl Turn {
    /// Waits for the machine, at most half an hour.
    pub fn take() -> Result<Self> {
        // One file per user: another user's could not be opened.
        let user = std::fs::metadata("/proc/self")
            .map_err(|err| Error::step("ask who runs this", err))?
            .uid();
        let path = std::env::temp_dir().join(format!("pollux-pair-{user}.turn"));
        let lock = wait_for(
            "the machine is free for an array",
            Duration::from_secs(1800),
            || Lock::acquire(&path).map_err(|err| err.to_string()),
        )?;
        Ok(Turn { _lock: lock })
    }
}
