//! What has to be done next to a group, as a function of what LVM reports of it. No command is run here.
//!
//! Each function answers the commands of one step; they are run, the group is reported anew, and it is asked again until
//! nothing is left to do. So whatever an earlier process left half done is gone on with from where it stands.
//!
//! ```text
//! no group -> group -> pool, meta (mirrored) -> thin pool -> errors when full -> active
//! ```

use crate::names::{self, META, POOL, Role};
use crate::report::{Lv, Vg};
use pollux_api::config::item::ItemId;
use pollux_api::id::VolumeId;
use pollux_api::lvm::{Apply, EXTENT_BYTES, FILE_SYSTEM_MIN, FileSystem, HEAD_BYTES, Level, RollBack};
use std::collections::BTreeSet;

/// Bytes that a thin pool gives at a time: small, so that a snapshot copies little.
pub const CHUNK_BYTES: u64 = 64 << 10;
/// Smallest and largest map of a thin pool, bytes; more than the largest the kernel does not use.
const MAP_BYTES: (u64, u64) = (16 << 20, 15 << 30);
/// A chunk takes about so many bytes of the map.
const MAP_BYTES_PER_CHUNK: u64 = 64;
/// Of a hundred extents, so many stay free: for a larger map, and for the repair of one.
const SPARE_PERCENT: u64 = 2;

/// One call of `lvm`: the command and its arguments, without what is common to all.
pub type Call = Vec<String>;

fn call(words: &[&str]) -> Call {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What nothing is done about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another than the two controllers has it.
    #[error(
        "group {group} belongs to system {owner:?}; this controller's is {own:?}, its partner's {partner:?}"
    )]
    Foreign {
        /// Which.
        group: String,
        /// Whose it is.
        owner: String,
        /// The own system ID.
        own: String,
        /// The partner's.
        partner: String,
    },
    /// There is none, and none may be made.
    #[error("no group {group} on the pool's disks: that is damage, and no reason to make one")]
    Missing {
        /// Which.
        group: String,
    },
    /// The disks belong to another group.
    #[error("the disks of group {group} belong to group {other}")]
    Occupied {
        /// The wanted one.
        group: String,
        /// The one that is there.
        other: String,
    },
    /// There is no way to mirror over so many disks.
    #[error("a group of {disks} disks: possible are {}", Level::DISKS)]
    Disks {
        /// How many.
        disks: usize,
    },
    /// The disks are too small.
    #[error("{extents} extents of 1 MiB are too few for a pool")]
    Small {
        /// How many there are.
        extents: u64,
    },
    /// A volume cannot shrink.
    #[error("volume {id} has {has} bytes and should have {wanted}: a volume does not shrink")]
    Shrink {
        /// Which.
        id: VolumeId,
        /// Bytes that it has.
        has: u64,
        /// Bytes that are wanted.
        wanted: u64,
    },
    /// The group has lost no disk.
    #[error("group {group} has all its disks: there is none in whose place another could come")]
    Whole {
        /// Which.
        group: String,
    },
    /// Nothing in the group stands twice.
    #[error("group {group} is on one disk: what was on it is nowhere else")]
    Single {
        /// Which.
        group: String,
    },
    /// A file system cannot shrink.
    #[error("file system {id} has {has} bytes and should have {wanted}: XFS does not shrink")]
    ShrinkFiles {
        /// Which.
        id: ItemId,
        /// Bytes that it has.
        has: u64,
        /// Bytes that are wanted.
        wanted: u64,
    },
    /// A file system would be too small.
    #[error("file system {id} should have {wanted} bytes: XFS needs {FILE_SYSTEM_MIN} at least")]
    SmallFiles {
        /// Which.
        id: ItemId,
        /// Bytes that are wanted.
        wanted: u64,
    },
    /// What stands on the device of a file system is none.
    #[error("the device of file system {id} holds something that is no XFS: nothing is written over it")]
    NoFiles {
        /// Which.
        id: ItemId,
    },
    /// Something is in it still.
    #[error(
        "group {group} has {count} volumes, snapshots and file systems still: it is not removed with them"
    )]
    Used {
        /// Which.
        group: String,
        /// How many.
        count: usize,
    },
    /// There is no such snapshot.
    #[error("group {group} has no {lv}")]
    NoSnapshot {
        /// Where.
        group: String,
        /// What was looked for.
        lv: String,
    },
    /// The group is not active.
    #[error("group {group} is not active")]
    Inactive {
        /// Which.
        group: String,
    },
}

impl Refusal {
    /// It is about a file system: the rest of the pool has no part in it.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        matches!(
            self,
            Refusal::ShrinkFiles { .. } | Refusal::SmallFiles { .. } | Refusal::NoFiles { .. }
        )
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Systems {
    /// The own system ID.
    pub own: String,
    /// The partner's.
    pub partner: String,
}

/// How data lie on the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// On one disk, once.
    Linear,
    /// On every disk.
    Mirror {
        /// How many.
        disks: usize,
    },
    /// On pairs of disks, in stripes over the pairs.
    Pairs {
        /// How many pairs.
        pairs: usize,
    },
}

impl Layout {
    /// The layout over so many disks.
    ///
    /// # Errors
    /// There is none.
    pub fn over(disks: usize) -> Result<Self, Refusal> {
        match Level::over(disks) {
            Some(Level::Linear) => Ok(Layout::Linear),
            Some(Level::Raid1) => Ok(Layout::Mirror { disks }),
            Some(Level::Raid10) => Ok(Layout::Pairs { pairs: disks / 2 }),
            None => Err(Refusal::Disks { disks }),
        }
    }

    /// How often everything stands on the disks.
    fn copies(self) -> u64 {
        match self {
            Layout::Linear => 1,
            Layout::Mirror { disks } => disks as u64,
            Layout::Pairs { .. } => 2,
        }
    }

    /// Words of `lvcreate` for the data.
    fn words(self) -> Vec<String> {
        match self {
            Layout::Linear => call(&["--type", "linear"]),
            Layout::Mirror { disks } => call(&["--type", "raid1", "--mirrors", &(disks - 1).to_string()]),
            Layout::Pairs { pairs } => call(&[
                "--type",
                "raid10",
                "--mirrors",
                "1",
                "--stripes",
                &pairs.to_string(),
            ]),
        }
    }

    /// Words of `lvcreate` for the map: it is small, and is not striped.
    fn map_words(self) -> Vec<String> {
        match self {
            Layout::Pairs { .. } => Layout::Mirror { disks: 2 }.words(),
            other => other.words(),
        }
    }
}

/// Extents of data and of the map, out of those that every copy has.
fn sizes(layout: Layout, disks: usize, extents: u64) -> Result<(u64, u64), Refusal> {
    let small = Refusal::Small { extents };
    // Each image of a mirror has an extent of its own metadata, of the data's and of the map's.
    let own = 2 * disks as u64 / layout.copies().max(1);
    let usable = extents / layout.copies();
    let usable = usable - usable * SPARE_PERCENT / 100;
    let wanted = usable * EXTENT_BYTES / CHUNK_BYTES * MAP_BYTES_PER_CHUNK;
    let map = wanted.clamp(MAP_BYTES.0, MAP_BYTES.1).div_ceil(EXTENT_BYTES);
    // Pairs leave the map two disks: the stripes over all of them can only be as long as the shortest.
    let stripes = match layout {
        Layout::Pairs { pairs } => pairs as u64,
        _ => 1,
    };
    let data = usable.saturating_sub(map * stripes + own) / stripes * stripes;
    match data {
        0 => Err(small),
        data => Ok((data, map)),
    }
}

/// Makes what a group has to have, on these gates.
///
/// # Errors
/// It cannot be made there.
pub fn create(groups: &[Vg], group: &str, gates: &[String], systems: &Systems) -> Result<Vec<Call>, Refusal> {
    if let Some(other) = groups.iter().find(|vg| vg.name != group) {
        return Err(Refusal::Occupied {
            group: group.to_owned(),
            other: other.name.clone(),
        });
    }
    let layout = Layout::over(gates.len())?;
    let Some(vg) = groups.first() else {
        let mut make = call(&["vgcreate", "--yes", "--setautoactivation", "n"]);
        make.extend(call(&["--physicalextentsize", "1m", group]));
        make.extend(gates.iter().cloned());
        return Ok(vec![make]);
    };
    owned(vg, systems)?;
    // What the partner had begun to make is made to its end here.
    let mut calls: Vec<Call> = adopt(vg, systems).into_iter().collect();
    let pool = vg.lv(POOL);
    if let Some(pool) = pool.filter(|pool| pool.layout.contains("thin")) {
        if pool.error_when_full {
            return Ok(Vec::new());
        }
        calls.push(call(&[
            "lvchange",
            "--errorwhenfull",
            "y",
            &format!("{group}/{POOL}"),
        ]));
        return Ok(calls);
    }
    let (data, map) = sizes(layout, gates.len(), vg.extents)?;
    let make = |name: &str, extents: u64, words: Vec<String>| {
        let mut make = call(&["lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y"]);
        make.extend(words);
        make.extend(call(&["--name", name, "--extents", &extents.to_string(), group]));
        make
    };
    if pool.is_none() {
        calls.push(make(POOL, data, layout.words()));
    }
    if vg.lv(META).is_none() {
        calls.push(make(META, map, layout.map_words()));
    }
    let mut join = call(&["lvconvert", "--yes", "--type", "thin-pool", "--poolmetadata"]);
    join.push(format!("{group}/{META}"));
    join.extend(call(&["--poolmetadataspare", "n", "--zero", "y", "--chunksize"]));
    join.push(format!("{}k", CHUNK_BYTES >> 10));
    join.push(format!("{group}/{POOL}"));
    calls.push(join);
    Ok(calls)
}

/// A group of the own system or of the partner's.
fn owned(vg: &Vg, systems: &Systems) -> Result<(), Refusal> {
    match vg.system_id == systems.own || vg.system_id == systems.partner {
        true => Ok(()),
        false => Err(Refusal::Foreign {
            group: vg.name.clone(),
            owner: vg.system_id.clone(),
            own: systems.own.clone(),
            partner: systems.partner.clone(),
        }),
    }
}

/// The group among those that were reported.
///
/// # Errors
/// It is not there, or is another's.
pub fn find<'a>(groups: &'a [Vg], group: &str, systems: &Systems) -> Result<&'a Vg, Refusal> {
    let vg = groups
        .iter()
        .find(|vg| vg.name == group)
        .ok_or_else(|| Refusal::Missing {
            group: group.to_owned(),
        })?;
    owned(vg, systems)?;
    Ok(vg)
}

/// The group that is to be removed, if it stands on its disks still.
///
/// # Errors
/// Something is in it, or the disks are another's.
pub fn remove<'a>(groups: &'a [Vg], group: &str, systems: &Systems) -> Result<Option<&'a Vg>, Refusal> {
    if let Some(other) = groups.iter().find(|vg| vg.name != group && !vg.name.is_empty()) {
        return Err(Refusal::Occupied {
            group: group.to_owned(),
            other: other.name.clone(),
        });
    }
    let vg = match find(groups, group, systems) {
        Err(Refusal::Missing { .. }) => return Ok(None),
        found => found?,
    };
    match vg.lvs.iter().filter(|lv| names::role(&lv.name).is_some()).count() {
        0 => Ok(Some(vg)),
        count => Err(Refusal::Used {
            group: group.to_owned(),
            count,
        }),
    }
}

/// Makes a group of the partner's the own system's.
///
/// LVM does not change a group of which a disk is missing. It stays the partner's by name then, and is used under that name
/// ([`system`]); what excludes the partner are the reservations.
fn adopt(vg: &Vg, systems: &Systems) -> Option<Call> {
    let others = vg.system_id != systems.own && vg.missing == 0;
    others.then(|| call(&["vgchange", "--yes", "--systemid", &systems.own, &vg.name]))
}

/// The call makes a group another system's.
#[must_use]
pub fn gives_away(call: &Call) -> bool {
    call.iter().any(|word| word == "--systemid")
}

/// Makes the group the own system's, and activates it.
///
/// # Errors
/// It is not there, or is another's.
pub fn activate(groups: &[Vg], group: &str, systems: &Systems) -> Result<Vec<Call>, Refusal> {
    let vg = find(groups, group, systems)?;
    let mut calls: Vec<Call> = adopt(vg, systems).into_iter().collect();
    if vg.lvs.iter().any(|lv| !lv.active && !lv.skipped && in_use(lv)) {
        calls.push(call(&["vgchange", "--activate", "y", group]));
    }
    Ok(calls)
}

/// The system ID under which a group is used.
#[must_use]
pub fn system<'a>(vg: Option<&'a Vg>, systems: &'a Systems) -> &'a str {
    match vg {
        Some(vg) if vg.missing > 0 && vg.system_id == systems.partner => &vg.system_id,
        _ => &systems.own,
    }
}

/// It is the thin pool, or a volume.
fn in_use(lv: &Lv) -> bool {
    let role = names::role(&lv.name);
    lv.name == POOL || matches!(role, Some(Role::Volume(_) | Role::Next(_) | Role::FileSystem(_)))
}

/// Bytes of the device of a volume.
fn device_bytes(size_bytes: u64) -> u64 {
    HEAD_BYTES + size_bytes.next_multiple_of(EXTENT_BYTES)
}

/// Finishes what a roll-back left: a volume that has been removed gets its successor, one that has not keeps its place.
#[must_use]
pub fn settle(vg: &Vg) -> Vec<Call> {
    let mut calls = Vec::new();
    for lv in &vg.lvs {
        let Some(Role::Next(id)) = names::role(&lv.name) else {
            continue;
        };
        let volume = names::volume(id);
        calls.push(match vg.lv(&volume) {
            Some(_) => call(&["lvremove", "--yes", &format!("{}/{}", vg.name, lv.name)]),
            None => call(&["lvrename", &vg.name, &lv.name, &volume]),
        });
    }
    calls
}

/// A thin volume that is made.
fn thin(vg: &Vg, name: &str, bytes: u64) -> Call {
    // That nothing is activated by itself is said of the group; LVM does not take it for a thin volume.
    let mut make = call(&["lvcreate", "--yes", "--type", "thin", "--wipesignatures", "n"]);
    make.extend(call(&["--virtualsize", &format!("{bytes}b")]));
    make.extend(call(&["--name", name, "--thinpool", POOL, &vg.name]));
    make
}

/// A snapshot that is taken. What is on the origin is brought to rest for it by the kernel, a mounted file system too.
fn frozen(vg: &Vg, name: &str, of: &str) -> Call {
    let mut take = call(&["lvcreate", "--yes", "--snapshot", "--setactivationskip", "y"]);
    take.extend(call(&["--name", name, &format!("{}/{of}", vg.name)]));
    take
}

/// Bytes of the device of a file system.
fn files_bytes(vg: &Vg, wanted: &FileSystem) -> Result<u64, Refusal> {
    let all = || vg.lv(POOL).map_or(0, |pool| pool.bytes);
    let bytes = wanted.size_bytes.unwrap_or_else(all);
    match bytes >= FILE_SYSTEM_MIN {
        true => Ok(bytes.next_multiple_of(EXTENT_BYTES)),
        false => Err(Refusal::SmallFiles {
            id: wanted.id,
            wanted: bytes,
        }),
    }
}

/// Makes and grows what file systems stand on, and takes snapshots of those that are mounted: on another there is nothing yet.
fn apply_files(
    vg: &Vg,
    wanted: &Apply,
    mounted: &BTreeSet<String>,
    calls: &mut Vec<Call>,
    refusals: &mut Vec<Refusal>,
) {
    for files in &wanted.file_systems {
        let name = names::file_system(files.id);
        let bytes = match files_bytes(vg, files) {
            Ok(bytes) => bytes,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        match vg.lv(&name) {
            None => calls.push(thin(vg, &name, bytes)),
            Some(lv) if lv.bytes < bytes => {
                let (size, name) = (format!("{bytes}b"), format!("{}/{name}", vg.name));
                calls.push(call(&["lvextend", "--size", &size, &name]));
            }
            Some(lv) if lv.bytes > bytes && files.size_bytes.is_some() => {
                refusals.push(Refusal::ShrinkFiles {
                    id: files.id,
                    has: lv.bytes,
                    wanted: bytes,
                });
            }
            Some(_) => {}
        }
    }
    for snapshot in &wanted.file_system_snapshots {
        let (name, of) = (
            names::snapshot(snapshot.id),
            names::file_system(snapshot.file_system),
        );
        match vg.lv(&name) {
            None if mounted.contains(&of) => calls.push(frozen(vg, &name, &of)),
            // It is to be mounted, and snapshots are left out when a group is activated.
            Some(lv) if !lv.active => calls.push(call(&[
                "lvchange",
                "--activate",
                "y",
                "--ignoreactivationskip",
                &format!("{}/{name}", vg.name),
            ])),
            _ => {}
        }
    }
}

/// Whether something in a group is wanted, as far as it can be gone.
#[must_use]
pub fn stays(lv: &str, wanted: &Apply) -> bool {
    match names::role(lv) {
        Some(Role::Volume(id)) => wanted.volumes.iter().any(|volume| volume.id == id),
        Some(Role::FileSystem(id)) => wanted.file_systems.iter().any(|files| files.id == id),
        Some(Role::Snapshot(id)) => {
            wanted.snapshots.iter().any(|snapshot| snapshot.id == id)
                || (wanted.file_system_snapshots.iter()).any(|snapshot| snapshot.id == id)
        }
        Some(Role::Next(_)) | None => true,
    }
}

/// Makes, grows and removes volumes, file systems and snapshots; `mounted` are names of what is. What cannot be done to one of
/// them does not keep the others.
#[must_use]
pub fn apply(vg: &Vg, wanted: &Apply, mounted: &BTreeSet<String>) -> (Vec<Call>, Vec<Refusal>) {
    let (mut calls, mut refusals) = (settle(vg), Vec::new());
    if !calls.is_empty() {
        return (calls, refusals);
    }
    let full = |lv: &str| format!("{}/{lv}", vg.name);
    let goes = |lv: &&Lv| !stays(&lv.name, wanted) && !mounted.contains(&lv.name);
    for lv in vg.lvs.iter().filter(goes) {
        calls.push(call(&["lvremove", "--yes", &full(&lv.name)]));
    }
    for volume in &wanted.volumes {
        let (name, bytes) = (names::volume(volume.id), device_bytes(volume.size_bytes));
        match vg.lv(&name) {
            None => calls.push(thin(vg, &name, bytes)),
            Some(lv) if lv.bytes < bytes => {
                calls.push(call(&["lvextend", "--size", &format!("{bytes}b"), &full(&name)]));
            }
            Some(lv) if lv.bytes > bytes => refusals.push(Refusal::Shrink {
                id: volume.id,
                has: lv.bytes - HEAD_BYTES,
                wanted: volume.size_bytes,
            }),
            Some(_) => {}
        }
    }
    for snapshot in &wanted.snapshots {
        let (name, of) = (names::snapshot(snapshot.id), names::volume(snapshot.volume));
        // The volume of one may be made in this very step: then it is taken in the next one.
        if vg.lv(&name).is_none() && vg.lv(&of).is_some() {
            calls.push(frozen(vg, &name, &of));
        }
    }
    apply_files(vg, wanted, mounted, &mut calls, &mut refusals);
    (calls, refusals)
}

/// Whether another disk can come into the place of one that the group has lost.
///
/// # Errors
/// It has lost none, or has nothing to copy from.
pub fn may_replace(vg: &Vg) -> Result<(), Refusal> {
    let group = vg.name.clone();
    match (vg.missing, vg.lvs.iter().any(is_raid)) {
        (_, false) => Err(Refusal::Single { group }),
        (0, true) => Err(Refusal::Whole { group }),
        (_, true) => Ok(()),
    }
}

fn is_raid(lv: &Lv) -> bool {
    lv.layout.starts_with("raid")
}

/// Takes the disk behind a gate into the place of one that is lost: it joins, what is in pieces is made whole on it, and the
/// group forgets the lost one. LVM permits these three while a disk is missing. `tried` has been made whole already as far as
/// it can be: where two disks are lost, one that comes is not enough.
#[must_use]
pub fn replace(vg: &Vg, gate: &str, tried: &BTreeSet<String>) -> Vec<Call> {
    if !vg.present.iter().any(|present| present == gate) {
        return vec![call(&["vgextend", "--yes", &vg.name, gate])];
    }
    let torn: Vec<&Lv> = vg.lvs.iter().filter(|lv| is_raid(lv) && lv.partial).collect();
    if torn.is_empty() && vg.missing > 0 {
        return vec![call(&["vgreduce", "--removemissing", &vg.name])];
    }
    let torn = torn.into_iter().filter(|lv| !tried.contains(&lv.name));
    torn.map(|lv| {
        call(&[
            "lvconvert",
            "--yes",
            "--repair",
            &format!("{}/{}", vg.name, lv.name),
            gate,
        ])
    })
    .collect()
}

/// Makes a volume what a snapshot is; the snapshot stays.
///
/// # Errors
/// There is no such snapshot.
pub fn roll_back(vg: &Vg, request: &RollBack) -> Result<Vec<Call>, Refusal> {
    let (snapshot, next) = (names::snapshot(request.to.id), names::next(request.to.volume));
    let volume = names::volume(request.to.volume);
    if vg.lv(&snapshot).is_none() {
        return Err(Refusal::NoSnapshot {
            group: vg.name.clone(),
            lv: snapshot,
        });
    }
    let full = |lv: &str| format!("{}/{lv}", vg.name);
    let mut calls = settle(vg);
    calls.push(call(&[
        "lvcreate",
        "--yes",
        "--snapshot",
        "--setactivationskip",
        "n",
        "--name",
        &next,
        &full(&snapshot),
    ]));
    calls.push(call(&["lvremove", "--yes", &full(&volume)]));
    calls.push(call(&["lvrename", &vg.name, &next, &volume]));
    Ok(calls)
}

#[cfg(test)]
mod tests;
