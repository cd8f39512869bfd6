//! A whole array as it is shipped, with a host: both controllers with all their daemons under the enclosure, made by the
//! same code as the tests of [`pollux_pair`].
//!
//! Invariants: one array at a time on a machine, tests included; nothing of it outlives the value.

use crate::error::{Context, Error, Result};
use crate::process::cpu_time;
use pollux_api::config::item::{Item, ItemId, Settings};
use pollux_api::config::{Class, LUN_MAX, Op, Redundancy, Resource, SHOW, Snapshot};
use pollux_api::id::{ControllerId, DiskIndex, PoolId};
use pollux_api::pool::SERVICE;
use pollux_host::client::HostProcess;
use pollux_pair::array::{Array, Options};
use pollux_pair::programs::Programs;
use pollux_pair::rig::{BOOT, INITIATOR, Turn, change, target_of};
use pollux_pair::wait::{that, wait_for};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a pool's disk holds beside its volumes, bytes.
const ROOM: u64 = 64 << 20;
/// Volumes that are made with one change of the configuration.
const TOGETHER: usize = 50;

/// A pool that is wanted: all of them at home on controller a.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) name: String,
    /// One disk, or a mirror of two.
    pub(crate) disks: u16,
    pub(crate) volumes: usize,
    pub(crate) volume_bytes: u64,
    /// Writes to its volumes may stay in the disks' caches.
    pub(crate) write_cache: bool,
}

/// A running array with a host process in the hosts' network, not yet connected.
pub(crate) struct Whole {
    pub(crate) host: HostProcess,
    pub(crate) array: Array,
    /// In the order in which they were asked for.
    pub(crate) pools: Vec<PoolId>,
    /// Name of the target.
    pub(crate) iqn: String,
    /// Portals of both controllers.
    pub(crate) portals: [String; 2],
    /// Units that the host sees.
    pub(crate) units: usize,
    /// It goes after the array.
    _directory: tempfile::TempDir,
    _turn: Turn,
}

/// A folder below `data` that goes away.
pub(crate) fn scratch(data: &Path) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(data).context(data.display())?;
    tempfile::Builder::new()
        .prefix("px-")
        .tempdir_in(data)
        .context(data.display())
}

impl Whole {
    /// Starts an array with its disks below `data`, and makes pools and volumes; the units of the host are numbered in
    /// this order. Of more volumes than a host can see it sees every second, every third and so on; the others are
    /// mapped to hosts that never come.
    pub(crate) fn start(data: &Path, pools: &[Pool], adjust: impl FnOnce(&mut Options)) -> Result<Self> {
        let turn = Turn::take().context("wait for other arrays on this machine")?;
        let programs = Programs::beside_this().context("the array's programs")?;
        let directory = scratch(data)?;
        let mut options = Options::new(&directory.path().join("a"));
        options.disks = pools.iter().map(|pool| pool.disks).sum();
        let needed = pools.iter().map(|pool| pool.volumes as u64 * pool.volume_bytes);
        options.disk_size = (needed.max().unwrap_or(0) + ROOM).next_multiple_of(1 << 20);
        adjust(&mut options);
        let array = Array::start(&programs, &options).context("start the array")?;
        array.wait_joined(BOOT).context("start the array")?;
        let total: usize = pools.iter().map(|pool| pool.volumes).sum();
        let hosts = total.div_ceil(usize::from(LUN_MAX) + 1).max(1);
        let pools = make_pools(&array, pools, hosts)?;
        for pool in &pools {
            array
                .wait_owner(ControllerId::A, *pool, BOOT)
                .context("start the array")?;
        }
        let (iqn, portals) = target_of(&array).context("find the target")?;
        let portals = portals
            .try_into()
            .map_err(|other: Vec<String>| Error::Missing(format!("two portals were expected: {other:?}")))?;
        let host = array.in_host_network(&programs.host());
        let host = HostProcess::spawn(host).context("start the host")?;
        Ok(Self {
            host,
            array,
            pools,
            iqn,
            portals,
            units: total.div_ceil(hosts),
            _directory: directory,
            _turn: turn,
        })
    }

    /// Process number of a daemon.
    pub(crate) fn daemon(&self, at: ControllerId, name: &str) -> Result<u32> {
        let status = self.array.enclosure_status().context("ask the enclosure")?;
        let controller = status.controllers.get(&at);
        controller
            .and_then(|controller| controller.daemons.get(name)?.pid)
            .ok_or_else(|| Error::Missing(format!("{at}/{name} does not run")))
    }

    /// Process number of the enclosure, which is the disks.
    pub(crate) fn enclosure(&self) -> Result<u32> {
        Ok(self.array.enclosure_status().context("ask the enclosure")?.pid)
    }

    /// A command that runs `program` in the network of a controller, beside its daemons.
    pub(crate) fn in_network_of(&self, at: ControllerId, program: &str) -> Result<Command> {
        let neighbour = self.daemon(at, "block-targetd")?;
        let theirs = format!("/proc/{neighbour}/ns/user");
        let user = |path: &str| std::fs::read_link(path).context(path);
        let mut command = Command::new("nsenter");
        // Where the enclosure's user namespace is this one, to enter it is refused.
        if user(&theirs)? != user("/proc/self/ns/user")? {
            command.arg(format!("--user={theirs}"));
        }
        command.arg(format!("--net=/proc/{neighbour}/ns/net")).args([
            "--preserve-credentials",
            "--",
            program,
        ]);
        Ok(command)
    }
}

/// Makes pools, their volumes and hosts, and maps every volume to one host after the other.
fn make_pools(array: &Array, pools: &[Pool], hosts: usize) -> Result<Vec<PoolId>> {
    let status = array.enclosure_status().context("ask the enclosure")?;
    let mut disks = status
        .disks
        .iter()
        .filter(|disk| !disk.quorum)
        .map(|disk| disk.index);
    let ops = pools
        .iter()
        .map(|pool| Op::CreatePool {
            name: pool.name.clone(),
            class: Class::Fast,
            home: ControllerId::A,
            redundancy: if pool.disks == 1 {
                Redundancy::Single
            } else {
                Redundancy::Mirror
            },
            backend: None,
            disks: disks.by_ref().take(pool.disks.into()).collect::<Vec<DiskIndex>>(),
        })
        .collect();
    let rows = change(array, "make the pools", ops).context("make the pools")?;
    let id = |name: &str| {
        let found = rows.iter().find_map(|row| match row {
            Resource::Pool(pool) if pool.name == name => Some(pool.id),
            _ => None,
        });
        found.ok_or_else(|| Error::Missing(format!("no row for pool {name} came back")))
    };
    let ids: Vec<PoolId> = pools.iter().map(|pool| id(&pool.name)).collect::<Result<_>>()?;
    // A pool can take volumes once its disks are labelled.
    wait_for("every pool is ready for volumes", BOOT, || {
        let snapshot: Snapshot = array
            .call(ControllerId::A, SHOW, &())
            .map_err(|err| err.to_string())?;
        for id in &ids {
            let row = snapshot.tables.pools.get(id);
            that(row.is_some_and(|row| row.ready.is_some()), || {
                format!("{id} is not labelled yet")
            })?;
        }
        Ok(())
    })
    .context("make the pools")?;
    let host = |number: usize| match number {
        0 => ("rig".to_owned(), INITIATOR.to_owned()),
        _ => (format!("idle-{number}"), format!("{INITIATOR}-{number}")),
    };
    let create = |number| {
        let (name, iqn) = host(number);
        let iqns = vec![iqn];
        Op::CreateHost { name, iqns }
    };
    let mut ops: Vec<Op> = (0..hosts).map(create).collect();
    let volumes = pools
        .iter()
        .flat_map(|pool| (0..pool.volumes).map(move |number| (pool, number)));
    for (place, (pool, number)) in volumes.enumerate() {
        let name = format!("{}-{number}", pool.name);
        ops.push(Op::CreateVolume {
            name: name.clone(),
            pool: pool.name.clone(),
            size_bytes: pool.volume_bytes,
        });
        ops.push(Op::Map {
            volume: name,
            host: host(place % hosts).0,
            lun: u16::try_from(place / hosts).ok(),
        });
    }
    for ops in ops.chunks(2 * TOGETHER) {
        change(array, "make the volumes", ops.to_vec()).context("make the volumes")?;
    }
    let cached = pools.iter().filter(|pool| pool.write_cache);
    let cached: Vec<String> = cached
        .flat_map(|pool| (0..pool.volumes).map(move |number| format!("{}-{number}", pool.name)))
        .collect();
    if !cached.is_empty() {
        let settings = Settings {
            name: SERVICE.into(),
            service: SERVICE.into(),
            values: BTreeMap::new(),
            thin: Vec::new(),
            write_cache: cached,
            id: ItemId::default(),
        };
        let item = Item::Settings(settings);
        change(array, "switch write caches on", vec![Op::Set { item }]).context("switch write caches on")?;
    }
    Ok(ids)
}

/// Processor time of groups of processes, to be asked for again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    /// Whose time counts as the target's.
    pub(crate) target: Vec<u32>,
    /// Whose time counts as that of the way from the target to the disks.
    pub(crate) pool: Vec<u32>,
    /// Whose time counts as that of the disks.
    pub(crate) disks: Vec<u32>,
}

impl Watched {
    /// The time of each group until now.
    pub(crate) fn times(&self) -> Result<[Duration; 3]> {
        Ok([
            cpu_time(&self.target)?,
            cpu_time(&self.pool)?,
            cpu_time(&self.disks)?,
        ])
    }
}
