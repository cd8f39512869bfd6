//! Service `lvm`: volume groups of the kernel, as the one privileged daemon that runs the programs of LVM has them.
//!
//! Not a service of the router: pool-manager alone asks, on the socket [`SOCKET`], and it asks only for pools whose disks it
//! holds. Nothing in here decides whose a pool is.
//!
//! ```text
//! disk:  | label area (2 MiB): pool-manager's, through the port of the disk | gate (a linear map): the volume group |
//! ```

use crate::config::Hex;
use crate::config::item::ItemId;
use crate::id::{DiskIndex, PoolId, VolumeId};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// File name of the socket in the daemon's own directory.
pub const SOCKET: &str = "lvmd.sock";
/// Where the daemon's directory is on an appliance.
pub const DIRECTORY: &str = "/run/pollux-lvm";

/// How names of volume groups begin in the kernel; the identity of the pool follows, 32 hexadecimal digits.
pub const GROUP: &str = "pollux_";
/// How names of gates begin: linear maps of a disk, below a group. The same identity follows.
pub const GATE: &str = "pollux_gate_";

/// A mapped device of the kernel with this name is of one of the array's pools.
#[must_use]
pub fn is_of_a_pool(name: &str) -> bool {
    let identity = |text: &str| text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let gate = || name.strip_prefix(GATE)?.split_once('_');
    let group = || name.strip_prefix(GROUP)?.split_once('-');
    gate().or_else(group).is_some_and(|(pool, _)| identity(pool))
}

/// Bytes at the beginning of a disk that are no part of its gate. It is all that is reached of such a disk through its port.
pub const LABEL_AREA_BYTES: u64 = 2 << 20;
/// Bytes at the beginning of a volume's device that hosts do not see: its journal.
pub const HEAD_BYTES: u64 = 1 << 20;
/// Sizes of volumes are multiples of it.
pub const EXTENT_BYTES: u64 = 1 << 20;
/// Smallest file system: a smaller one XFS does not make.
pub const FILE_SYSTEM_MIN: u64 = 300 << 20;
/// Where file systems and their snapshots are mounted, each in a folder that is called by its identity.
pub const FILES: &str = "/run/pollux-files";

crate::contract! {
    service "lvm", rank crate::rank::TOP, door crate::contract::Door::Socket(SOCKET);
    /// Volume groups of the kernel: makes, activates, changes, deactivates and cuts them off.
    calls [];
    requests {
        /// Opens the gates of a pool's disks and activates its volume group; with `create` makes it first where there is
        /// none. Everything that is done already stays as it is. Idempotent.
        idempotent nobody ACTIVATE = "lvm.activate": Activate => Group, [NotFound, Conflict, Refused, Failed];
        /// Makes, grows and removes volumes, file systems and snapshots of an active group, and mounts those that hold files.
        /// Idempotent.
        idempotent nobody APPLY = "lvm.apply": Apply => Group, [NotFound, Conflict, Refused, Failed];
        /// Takes a disk into an active group in the place of one that it has lost. Everything behind the disk's label area is
        /// overwritten. Answers when the copy has begun; the state says how far it is. Idempotent.
        idempotent nobody REPLACE = "lvm.replace": Replace => Group, [NotFound, Refused, Failed];
        /// Makes a volume what a snapshot is. Nobody may have the volume's device open. Idempotent.
        idempotent nobody ROLL_BACK = "lvm.roll_back": RollBack => Group, [NotFound, Conflict, Refused, Failed];
        /// What the kernel says of an active group; asks no disk.
        idempotent nobody STATE = "lvm.state": Which => State, [NotFound, Failed];
        /// Deactivates a group and closes its gates. Idempotent.
        idempotent nobody DEACTIVATE = "lvm.deactivate": Which => bool, [Failed];
        /// Nothing of a group reaches a disk any more, whatever is under way in it; then it is taken down. Idempotent.
        idempotent nobody CUT = "lvm.cut": Which => bool, [Failed];
        /// Removes a group in which nothing is any more: its disks bear nothing of it afterwards. Answers whether there was
        /// one. Idempotent.
        idempotent nobody REMOVE = "lvm.remove": Remove => bool, [Conflict, Refused, Failed];
        /// Pools of which anything stands in the kernel.
        idempotent nobody POOLS = "lvm.pools": () => Vec<PoolId>, [Failed];
    }
    notifications {}
    topics {}
}

/// How the data of a group lie on its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// On one disk, once.
    Linear,
    /// On every disk.
    Raid1,
    /// On pairs of disks, in stripes over the pairs.
    Raid10,
}

impl Level {
    /// Numbers of disks over which there is one, in words.
    pub const DISKS: &'static str =
        "1 (linear, no mirror), 2 or 3 (raid1, each holds all), or an even number from 4 on (raid10, pairs)";

    /// The level over so many disks; none: there is none. RAID 5 and 6 are none: a fence takes disks one after the other, so
    /// the old owner may lose one and tear a stripe over the rest, and what is computed from a torn stripe is no longer what
    /// was written.
    #[must_use]
    pub const fn over(disks: usize) -> Option<Self> {
        match disks {
            1 => Some(Self::Linear),
            2 | 3 => Some(Self::Raid1),
            4.. if disks.is_multiple_of(2) => Some(Self::Raid10),
            _ => None,
        }
    }

    /// The word for it, as LVM has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
        }
    }
}

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Which.
    pub pool: PoolId,
}

/// A disk of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its slot.
    pub slot: DiskIndex,
    /// Its identity, as its port tells it: the WWN in 16 bytes.
    pub id: Hex<16>,
}

/// Parameters of [`ACTIVATE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The pool.
    pub pool: PoolId,
    /// Its disks, all of them held by the caller. Nothing else is looked at.
    pub disks: Vec<Disk>,
    /// The group may be made where there is none; otherwise a missing one is damage.
    pub create: bool,
}

/// Parameters of [`REMOVE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// The pool.
    pub pool: PoolId,
    /// Its disks, all of them held by the caller; without those that have failed. Without any, those whose gates are open.
    #[serde(default)]
    pub disks: Vec<Disk>,
}

/// A volume that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its identity.
    pub id: VolumeId,
    /// Bytes that hosts see.
    pub size_bytes: u64,
}

/// A snapshot that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Its identity.
    pub id: ItemId,
    /// Of which volume it is.
    pub volume: VolumeId,
}

/// A file system that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// Its identity.
    pub id: ItemId,
    /// Bytes of its device; none: as many as the pool has.
    pub size_bytes: Option<u64>,
}

/// A snapshot of a file system that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileSystemSnapshot {
    /// Its identity.
    pub id: ItemId,
    /// Of which file system it is.
    pub file_system: ItemId,
}

/// Parameters of [`APPLY`]: what is not in here is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The pool.
    pub pool: PoolId,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Snapshots of them.
    pub snapshots: Vec<Snapshot>,
    /// File systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystem>,
    /// Snapshots of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_system_snapshots: Vec<FileSystemSnapshot>,
}

/// Parameters of [`REPLACE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The pool.
    pub pool: PoolId,
    /// The disk that comes, held by the caller: a new one in the slot of the lost one, or that one again.
    pub disk: Disk,
}

/// Parameters of [`ROLL_BACK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// The pool.
    pub pool: PoolId,
    /// The snapshot and its volume.
    pub to: Snapshot,
}

/// A volume of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// The volume.
    pub id: VolumeId,
    /// Bytes that hosts see: its device has [`HEAD_BYTES`] more, at the beginning.
    pub size_bytes: u64,
    /// The node of its device.
    pub node: String,
}

/// A group that is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    /// Its volumes.
    pub volumes: Vec<Device>,
    /// Its snapshots.
    pub snapshots: Vec<ItemId>,
    /// Its file systems, and those of their snapshots that are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Files>,
    /// What of its file systems is not as it should be, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What the kernel says of it.
    pub state: State,
}

/// A file system of a group, or a snapshot of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Files {
    /// Its identity.
    pub id: ItemId,
    /// Bytes of its device.
    pub size_bytes: u64,
    /// Where it is mounted; none: nowhere.
    pub path: Option<String>,
}

/// What the kernel says of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct State {
    /// Bytes that volumes and snapshots can use.
    pub capacity_bytes: u64,
    /// Bytes that they use.
    pub used_bytes: u64,
    /// The same of the map that says where they are.
    pub map_capacity_bytes: u64,
    /// Bytes of the map that are used.
    pub map_used_bytes: u64,
    /// It takes writes: it is neither full nor broken.
    pub writable: bool,
    /// One line per disk that has a gate.
    pub legs: Vec<Leg>,
}

/// A disk of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leg {
    /// The disk.
    pub slot: DiskIndex,
    /// How it is.
    pub health: Health,
    /// Share of a copy to it that is done, 0..=100, while it runs.
    pub copied_percent: Option<u8>,
}

/// How a disk of a group is, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Holds what the others hold.
    InSync,
    /// Is copied to.
    Copying,
    /// Neither read nor written.
    Failed,
}
