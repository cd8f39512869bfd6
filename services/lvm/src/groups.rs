//! What is asked of a group, carried out: the plan's calls run one after the other, the kernel read before and after.
//!
//! Per pool one thing happens at a time, except [`Groups::cut`], which waits for nobody; pools do not wait for each other.
//! Nothing is remembered: a restarted daemon sees in the kernel what its predecessor did.

use crate::files;
use crate::kernel::{Gate, Kernel, SECTOR};
use crate::names;
use crate::plan::{self, Call, Refusal, Systems};
use crate::programs::{Found, Program, ToolError, Tools};
use crate::report::{self, ReportError, Vg};
use futures_util::future::{join_all, try_join_all};
use pollux_api::config::item::ItemId;
use pollux_api::id::{DiskIndex, PoolId};
use pollux_api::lvm::{
    Activate, Apply, Device, Disk, EXTENT_BYTES, Group, HEAD_BYTES, Health, LABEL_AREA_BYTES, Remove,
    Replace, RollBack, State,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Most steps of one request. The longest, making a group, takes five.
const STEPS: usize = 10;
/// How long parts of a group are tried to be taken down: udev may have one open for a moment.
const TAKE_DOWN: Duration = Duration::from_secs(5);
/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(50);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The plan refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What LVM reported.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A disk cannot be used.
    #[error("{slot}: {why}")]
    Disk {
        /// Which.
        slot: DiskIndex,
        /// Why.
        why: String,
    },
    /// What is mounted cannot be read.
    #[error("{0}")]
    Mounts(String),
    /// The device of a file system.
    #[error("file system {id}: {why}")]
    Files {
        /// Which.
        id: ItemId,
        /// Why.
        why: String,
    },
    /// The node of a volume is not as it should be.
    #[error("{0}")]
    Node(String),
    /// Parts of a group do not go: somebody has them open.
    #[error("still there: {}", names.join(", "))]
    Stuck {
        /// Which.
        names: Vec<String>,
    },
    /// The plan did not come to an end.
    #[error("group {group}: after {STEPS} steps there is still something to do: {next}")]
    Endless {
        /// Which.
        group: String,
        /// What would be next.
        next: String,
    },
}

/// Groups of the pools of one array, as one controller has them.
#[derive(Debug)]
pub struct Groups<T> {
    tools: T,
    systems: Systems,
    turns: Mutex<HashMap<PoolId, Arc<tokio::sync::Mutex<()>>>>,
}

/// What LVM is told each time: nothing of it acts by itself, and it looks at the gates of the pool alone.
fn configuration(system: &str) -> String {
    format!(
        "local {{ system_id=\"{system}\" }} \
         global {{ system_id_source=\"lvmlocal\" use_lvmlockd=0 use_lvmpolld=0 event_activation=0 notify_dbus=0 }} \
         devices {{ use_devicesfile=0 scan_lvs=0 obtain_device_list_from_udev=0 external_device_info_source=\"none\" \
         md_component_detection=0 multipath_component_detection=0 }} \
         activation {{ monitoring=0 auto_activation_volume_list=[] thin_pool_autoextend_threshold=100 \
         snapshot_autoextend_threshold=100 udev_sync=0 udev_rules=0 }} \
         backup {{ backup=0 archive=0 }}"
    )
}

/// First sector, and how many, of a disk behind its label area.
fn behind_label(found: &Found) -> (u64, u64) {
    let from = LABEL_AREA_BYTES / SECTOR;
    (from, (found.bytes / SECTOR).saturating_sub(from))
}

/// The gate that leads to a disk.
fn gate_to(found: &Found) -> Gate {
    let (from, sectors) = behind_label(found);
    Gate::Open {
        disk: found.number,
        from,
        sectors,
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl<T: Tools> Groups<T> {
    /// Groups under these system IDs.
    pub fn new(tools: T, systems: Systems) -> Self {
        Groups {
            tools,
            systems,
            turns: Mutex::default(),
        }
    }

    /// The tools.
    pub fn tools(&self) -> &T {
        &self.tools
    }

    fn turn(&self, pool: PoolId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(pool).or_default().clone()
    }

    async fn dmsetup(&self, args: Vec<String>) -> Result<String, ToolError> {
        self.tools.run(Program::Dmsetup, &args).await
    }

    /// Mapped devices as they are now.
    pub(crate) async fn kernel(&self) -> Result<Kernel, ToolError> {
        let columns = words(&[
            "info",
            "-c",
            "--noheadings",
            "--separator",
            ",",
            "-o",
            "name,major,minor",
        ]);
        let (info, table, status) = futures_util::try_join!(
            self.dmsetup(columns),
            self.dmsetup(words(&["table"])),
            self.dmsetup(words(&["status", "--noflush"])),
        )?;
        Ok(Kernel::read(&info, &table, &status))
    }

    /// One call of LVM that sees these gates and no other device.
    async fn lvm(&self, gates: &[String], system: &str, call: &Call) -> Result<String, ToolError> {
        let mut args = vec![call.first().cloned().unwrap_or_default()];
        args.extend(words(&[
            "--devices",
            &gates.join(","),
            "--config",
            &configuration(system),
        ]));
        args.extend(call.iter().skip(1).cloned());
        self.tools.run(Program::Lvm, &args).await
    }

    async fn report(&self, gates: &[String]) -> Result<Vec<Vg>, GroupError> {
        let mut call = words(&["fullreport"]);
        call.extend(words(&report::COLUMNS));
        Ok(report::parse(&self.lvm(gates, &self.systems.own, &call).await?)?)
    }

    /// Asks the plan and does what it says, until it says nothing more.
    async fn follow(
        &self,
        pool: PoolId,
        gates: &[String],
        next: impl Fn(&[Vg]) -> Result<Vec<Call>, GroupError>,
    ) -> Result<Vec<Vg>, GroupError> {
        let mut last = String::new();
        for _ in 0..STEPS {
            let began = Instant::now();
            let groups = self.report(gates).await?;
            info!(%pool, took = ?began.elapsed(), "reported");
            let calls = next(&groups)?;
            if calls.is_empty() {
                return Ok(groups);
            }
            let system = plan::system(groups.first(), &self.systems);
            for call in calls {
                let began = Instant::now();
                // LVM lets a group's present system give it away, and nobody else take it.
                let giver = groups.first().filter(|_| plan::gives_away(&call));
                let system = giver.map_or(system, |vg| &vg.system_id);
                self.lvm(gates, system, &call).await?;
                last = call.join(" ");
                info!(%pool, took = ?began.elapsed(), "{last}");
            }
        }
        Err(GroupError::Endless {
            group: names::group(pool),
            next: last,
        })
    }

    /// Nodes of the gates that are open.
    fn nodes(pool: PoolId, kernel: &Kernel) -> Vec<String> {
        let open = (kernel.gates(pool).into_iter()).filter(|(_, gate)| *gate != Gate::Cut);
        open.map(|(slot, _)| names::node(&names::gate(pool, slot)))
            .collect()
    }

    /// `lvm.activate`.
    ///
    /// # Errors
    /// What stands in the way. What was begun stays: [`Groups::cut`] takes it down.
    pub async fn activate(&self, request: &Activate) -> Result<Group, GroupError> {
        let turn = self.turn(request.pool);
        let _turn = turn.lock().await;
        let began = Instant::now();
        self.open_gates(request.pool, &request.disks).await?;
        info!(pool = %request.pool, disks = request.disks.len(), took = ?began.elapsed(), "gates open");
        let group = names::group(request.pool);
        let gate = |disk: &Disk| names::node(&names::gate(request.pool, disk.slot));
        let gates: Vec<_> = request.disks.iter().map(gate).collect();
        if request.create {
            let next = |groups: &[Vg]| Ok(plan::create(groups, &group, &gates, &self.systems)?);
            self.follow(request.pool, &gates, next).await?;
        }
        let next = |groups: &[Vg]| {
            let mut calls = plan::activate(groups, &group, &self.systems)?;
            if calls.is_empty() {
                calls = plan::settle(plan::find(groups, &group, &self.systems)?);
            }
            Ok(calls)
        };
        let groups = self.follow(request.pool, &gates, next).await?;
        let done = self.group(request.pool, &groups).await?;
        info!(pool = %request.pool, volumes = done.volumes.len(), took = ?began.elapsed(), "active");
        Ok(done)
    }

    /// Opens the gates of these disks; those that are open already stay.
    async fn open_gates(&self, pool: PoolId, disks: &[Disk]) -> Result<(), GroupError> {
        let found = try_join_all(
            disks
                .iter()
                .map(async |disk| Ok::<_, GroupError>((disk.slot, self.find(disk).await?))),
        );
        let found: BTreeMap<DiskIndex, Found> = found.await?.into_iter().collect();
        let mut kernel = self.kernel().await?;
        let gates = kernel.gates(pool);
        // A gate that leads nowhere, or to a device that is not the disk any more, is the rest of something that has ended.
        let stale = gates.iter().any(|(slot, gate)| match found.get(slot) {
            Some(found) => *gate != gate_to(found),
            None => *gate == Gate::Cut,
        });
        if stale {
            warn!(%pool, "rests of it stand in the kernel: they are taken down first");
            self.cut_gates(pool).await?;
            self.hide_mounts(pool).await;
            self.take_down(pool).await?;
            kernel = self.kernel().await?;
        }
        let gates = kernel.gates(pool);
        let opened = found.iter().filter(|(slot, _)| !gates.contains_key(slot));
        let opened =
            join_all(opened.map(async |(slot, found)| self.open_gate(pool, *slot, found, &kernel).await));
        opened.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// The disk with an identity, if there is room behind its label area.
    async fn find(&self, disk: &Disk) -> Result<Found, GroupError> {
        let wrong = |why| GroupError::Disk { slot: disk.slot, why };
        let found = self.tools.disk(disk.id.0).await.map_err(wrong)?;
        match found.bytes > LABEL_AREA_BYTES {
            true => Ok(found),
            false => Err(wrong(format!(
                "{} bytes leave no room behind the label area",
                found.bytes
            ))),
        }
    }

    /// Opens the gate of a disk. Another one of that slot may have been put aside.
    async fn open_gate(
        &self,
        pool: PoolId,
        slot: DiskIndex,
        found: &Found,
        kernel: &Kernel,
    ) -> Result<(), GroupError> {
        let aside = names::aside(pool, slot);
        let other = match kernel.has(&aside) {
            true => {
                let of = words(&["info", "-c", "--noheadings", "-o", "uuid", &aside]);
                Some(self.dmsetup(of).await?)
            }
            false => None,
        };
        let (major, minor) = found.number;
        let (from, sectors) = behind_label(found);
        let table = format!("0 {sectors} linear {major}:{minor} {from}");
        let name = names::gate(pool, slot);
        let uuid = names::gate_uuid(pool, slot, other.as_deref().map(str::trim));
        self.dmsetup(words(&["create", &name, "--uuid", &uuid, "--table", &table]))
            .await?;
        Ok(())
    }

    async fn group(&self, pool: PoolId, groups: &[Vg]) -> Result<Group, GroupError> {
        let vg = plan::find(groups, &names::group(pool), &self.systems)?;
        let mut group = Group {
            volumes: Vec::new(),
            snapshots: Vec::new(),
            files: files::listed(vg, &self.mounted(pool).await?),
            problems: Vec::new(),
            state: self.state_of(pool).await?,
        };
        for lv in &vg.lvs {
            match names::role(&lv.name) {
                Some(names::Role::Volume(id)) => {
                    let node = names::node(&names::mapped(pool, &lv.name));
                    self.tools.share(&node).await.map_err(GroupError::Node)?;
                    group.volumes.push(Device {
                        id,
                        size_bytes: lv.bytes.saturating_sub(HEAD_BYTES) / EXTENT_BYTES * EXTENT_BYTES,
                        node,
                    });
                }
                Some(names::Role::Snapshot(id)) => group.snapshots.push(id),
                Some(names::Role::Next(_) | names::Role::FileSystem(_)) | None => {}
            }
        }
        Ok(group)
    }

    async fn state_of(&self, pool: PoolId) -> Result<State, GroupError> {
        let group = names::group(pool);
        Ok(self
            .kernel()
            .await?
            .state(pool)
            .ok_or(Refusal::Inactive { group })?)
    }

    /// `lvm.state`.
    ///
    /// # Errors
    /// It is not active, or the kernel cannot be asked.
    pub async fn state(&self, pool: PoolId) -> Result<State, GroupError> {
        self.state_of(pool).await
    }

    /// The open gates of a group that is active.
    async fn active(&self, pool: PoolId) -> Result<Vec<String>, GroupError> {
        let kernel = self.kernel().await?;
        let group = names::group(pool);
        match kernel.is_active(pool) {
            true => Ok(Self::nodes(pool, &kernel)),
            false => Err(Refusal::Inactive { group }.into()),
        }
    }

    /// `lvm.apply`.
    ///
    /// # Errors
    /// The first thing about volumes that could not be done; everything else was. What is not as it should be about file systems
    /// stands in the answer.
    pub async fn apply(&self, wanted: &Apply) -> Result<Group, GroupError> {
        let turn = self.turn(wanted.pool);
        let _turn = turn.lock().await;
        let gates = self.active(wanted.pool).await?;
        let group = names::group(wanted.pool);
        // What is to be removed must not be mounted; what somebody uses is removed later.
        let busy = self
            .unmount(wanted.pool, |lv| !plan::stays(lv, wanted))
            .await
            .err();
        let mut mounted = self.mounted_names(wanted.pool).await?;
        loop {
            let refused = Mutex::new(Vec::new());
            let next = |groups: &[Vg]| {
                let vg = plan::find(groups, &group, &self.systems)?;
                let (calls, refusals) = plan::apply(vg, wanted, &mounted);
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = refusals;
                Ok(calls)
            };
            let groups = self.follow(wanted.pool, &gates, next).await?;
            let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
            let vg = plan::find(&groups, &group, &self.systems)?;
            let errors = self.provide_files(wanted.pool, vg, wanted).await;
            // A snapshot of a file system that has just been made can be taken only now.
            let now = self.mounted_names(wanted.pool).await?;
            let grown = !now.is_subset(&mounted);
            mounted = now;
            if errors.is_empty() && grown && !wanted.file_system_snapshots.is_empty() {
                continue;
            }
            let (of_files, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(Refusal::is_of_files);
            if let Some(refusal) = refused.into_iter().next() {
                return Err(refusal.into());
            }
            // Volumes are served whatever becomes of file systems.
            let problems = errors.iter().map(ToString::to_string);
            let problems = problems
                .chain(of_files.iter().map(ToString::to_string))
                .chain(busy.iter().map(ToString::to_string));
            let done = self.group(wanted.pool, &groups).await?;
            return Ok(Group {
                problems: problems.collect(),
                ..done
            });
        }
    }

    /// `lvm.replace`.
    ///
    /// # Errors
    /// The group has lost no disk, the one that comes is too small, or LVM refuses. A repetition goes on where this ended.
    pub async fn replace(&self, request: &Replace) -> Result<Group, GroupError> {
        let (pool, slot) = (request.pool, request.disk.slot);
        let turn = self.turn(pool);
        let _turn = turn.lock().await;
        let began = Instant::now();
        let found = self.find(&request.disk).await?;
        let kernel = self.kernel().await?;
        let group = names::group(pool);
        let state = kernel
            .state(pool)
            .ok_or_else(|| Refusal::Inactive { group: group.clone() })?;
        let (name, gates) = (names::gate(pool, slot), kernel.gates(pool));
        let node = names::node(&name);
        let works = (state.legs.iter()).any(|leg| leg.slot == slot && leg.health != Health::Failed);
        let is_its = gates.get(&slot) == Some(&gate_to(&found));
        if works && !is_its {
            let why = "the disk that the group has in its slot works, and is another one".to_owned();
            return Err(GroupError::Disk { slot, why });
        }
        let comes = !works;
        if comes {
            let others = gates.iter().filter(|(other, _)| **other != slot);
            let smallest = others.filter_map(|(_, gate)| match gate {
                Gate::Open { sectors, .. } => Some(*sectors),
                Gate::Cut => None,
            });
            let (_, sectors) = behind_label(&found);
            if let Some(least) = smallest.min().filter(|least| sectors < *least) {
                let why = format!(
                    "{} bytes are behind its label area, and the smallest of the others has {}",
                    sectors * SECTOR,
                    least * SECTOR
                );
                return Err(GroupError::Disk { slot, why });
            }
            // Everything that can be refused is, before a gate is opened or anything overwritten.
            let others = Self::nodes(pool, &kernel)
                .into_iter()
                .filter(|open| *open != node);
            let groups = self.report(&others.collect::<Vec<_>>()).await?;
            plan::may_replace(plan::find(&groups, &group, &self.systems)?)?;
            if gates.contains_key(&slot) {
                self.put_aside(pool, slot, &kernel).await?;
            }
            self.open_gate(pool, slot, &found, &self.kernel().await?).await?;
        }
        let gates = Self::nodes(pool, &self.kernel().await?);
        let groups = self.report(&gates).await?;
        let vg = plan::find(&groups, &group, &self.systems)?;
        // A disk that failed and works again bears the group's name still, and holds what is older than the rest.
        if comes || !vg.present.contains(&node) {
            if !comes {
                plan::may_replace(vg)?;
            }
            let erased = self.tools.erase(&node).await;
            erased.map_err(|why| GroupError::Disk { slot, why })?;
        }
        let tried = Mutex::new(BTreeSet::new());
        let next = |groups: &[Vg]| {
            let vg = plan::find(groups, &group, &self.systems)?;
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            let mut calls = plan::replace(vg, &node, &tried);
            if calls.is_empty() {
                // Without a missing disk LVM gives the group its own system ID again.
                calls = plan::activate(groups, &group, &self.systems)?;
            } else if calls.iter().all(|call| call[0] == "lvconvert") {
                let torn = vg.lvs.iter().filter(|lv| lv.partial);
                tried.extend(torn.map(|lv| lv.name.clone()));
            }
            Ok(calls)
        };
        let groups = self.follow(pool, &gates, next).await?;
        let aside = names::aside(pool, slot);
        if self.kernel().await?.has(&aside)
            && let Err(error) = self.dmsetup(words(&["remove", &aside])).await
        {
            warn!(%pool, %slot, %error, "the gate of the disk that has gone stays, and leads nowhere");
        }
        info!(%pool, %slot, took = ?began.elapsed(), "a disk has come in the place of another");
        self.group(pool, &groups).await
    }

    /// Lets the gate of a disk lead nowhere, and gives it another name: the group may stand on it still.
    async fn put_aside(&self, pool: PoolId, slot: DiskIndex, kernel: &Kernel) -> Result<(), GroupError> {
        let (name, aside) = (names::gate(pool, slot), names::aside(pool, slot));
        if kernel.has(&aside) {
            self.dmsetup(words(&["remove", &aside])).await?;
        }
        if kernel.gates(pool).get(&slot) != Some(&Gate::Cut) {
            self.dmsetup(words(&["wipe_table", "--noflush", "--nolockfs", &name]))
                .await?;
        }
        self.dmsetup(words(&["rename", &name, &aside])).await?;
        Ok(())
    }

    /// `lvm.roll_back`.
    ///
    /// # Errors
    /// There is no such snapshot, or somebody has the volume open. A repetition goes on where this ended.
    pub async fn roll_back(&self, request: &RollBack) -> Result<Group, GroupError> {
        let turn = self.turn(request.pool);
        let _turn = turn.lock().await;
        let gates = self.active(request.pool).await?;
        let group = names::group(request.pool);
        let groups = self.report(&gates).await?;
        let vg = plan::find(&groups, &group, &self.systems)?;
        let system = plan::system(Some(vg), &self.systems);
        for call in plan::roll_back(vg, request)? {
            self.lvm(&gates, system, &call).await?;
        }
        let groups = self.report(&gates).await?;
        self.group(request.pool, &groups).await
    }

    /// `lvm.deactivate`.
    ///
    /// # Errors
    /// Somebody has a volume open, or a disk does not answer.
    pub async fn deactivate(&self, pool: PoolId) -> Result<bool, GroupError> {
        let turn = self.turn(pool);
        let _turn = turn.lock().await;
        let kernel = self.kernel().await?;
        let was = kernel.is_active(pool);
        let gates = Self::nodes(pool, &kernel);
        self.unmount(pool, |_| true).await?;
        if was && !gates.is_empty() {
            let began = Instant::now();
            let groups = self.report(&gates).await?;
            let system = plan::system(groups.first(), &self.systems).to_owned();
            let call = words(&["vgchange", "--activate", "n", &names::group(pool)]);
            self.lvm(&gates, &system, &call).await?;
            info!(%pool, took = ?began.elapsed(), "not active any more");
        }
        self.take_down(pool).await?;
        Ok(was)
    }

    /// `lvm.remove`. What stands on the disks counts, whether or not the group is active, and whatever an earlier attempt has
    /// left. LVM does not change a group of which a disk is missing, so what it has written is overwritten instead.
    ///
    /// # Errors
    /// Something is in the group, somebody has it open, or a disk does not answer. Nothing was overwritten then, or some disks
    /// were: a repetition goes on.
    pub async fn remove(&self, request: &Remove) -> Result<bool, GroupError> {
        let pool = request.pool;
        let turn = self.turn(pool);
        let _turn = turn.lock().await;
        if !self.kernel().await?.is_active(pool) {
            self.open_gates(pool, &request.disks).await?;
        }
        let kernel = self.kernel().await?;
        let gates = Self::nodes(pool, &kernel);
        let groups = match gates.is_empty() {
            true => Vec::new(),
            false => self.report(&gates).await?,
        };
        let vg = plan::remove(&groups, &names::group(pool), &self.systems)?;
        if let Some(vg) = vg
            && kernel.is_active(pool)
        {
            self.unmount(pool, |_| true).await?;
            let call = words(&["vgchange", "--activate", "n", &vg.name]);
            self.lvm(&gates, plan::system(Some(vg), &self.systems), &call)
                .await?;
        }
        for (slot, gate) in kernel.gates(pool) {
            if gate == Gate::Cut {
                continue;
            }
            let erased = self.tools.erase(&names::node(&names::gate(pool, slot))).await;
            erased.map_err(|why| GroupError::Disk { slot, why })?;
        }
        self.take_down(pool).await?;
        info!(%pool, "removed from its disks");
        Ok(vg.is_some())
    }

    /// `lvm.cut`.
    ///
    /// # Errors
    /// A disk holds a command for so long that its gate does not close in time, or a device is open and stays: whatever is
    /// written to it ends in an error.
    pub async fn cut(&self, pool: PoolId) -> Result<bool, GroupError> {
        let was = self.cut_gates(pool).await?;
        self.hide_mounts(pool).await;
        // Whoever is about to do something with the group finds out by an error.
        let turn = self.turn(pool);
        let _turn = turn.lock().await;
        let late = self.cut_gates(pool).await?;
        self.hide_mounts(pool).await;
        self.take_down(pool).await?;
        Ok(was || late)
    }

    /// Lets no gate of a pool lead anywhere.
    async fn cut_gates(&self, pool: PoolId) -> Result<bool, GroupError> {
        let gates = self.kernel().await?.gates(pool);
        let open = gates.iter().filter(|(_, gate)| **gate != Gate::Cut);
        let cut = join_all(open.map(async |(slot, _)| {
            let name = names::gate(pool, *slot);
            // What is under way is waited for; nothing is written out first, since nothing may reach the disk.
            self.dmsetup(words(&["wipe_table", "--noflush", "--nolockfs", &name]))
                .await
        }));
        cut.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(!gates.is_empty())
    }

    /// Removes what stands of a pool in the kernel, what stands on others first, until nothing is left.
    async fn take_down(&self, pool: PoolId) -> Result<(), GroupError> {
        let until = Instant::now() + TAKE_DOWN;
        loop {
            let left = self.kernel().await?.of(pool);
            if left.is_empty() {
                return Ok(());
            }
            let mut removed = 0;
            let mut last = None;
            for name in &left {
                match self.dmsetup(words(&["remove", name])).await {
                    Ok(_) => removed += 1,
                    Err(error) => last = Some(error),
                }
            }
            match last {
                None => {}
                Some(error @ ToolError::Deadline { .. }) => return Err(error.into()),
                Some(_) if removed > 0 => {}
                Some(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Some(_) => return Err(GroupError::Stuck { names: left }),
            }
        }
    }

    /// `lvm.pools`.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn pools(&self) -> Result<Vec<PoolId>, GroupError> {
        Ok(self.kernel().await?.pools())
    }
}
