//! Service `pool`: what a pool manager is asked to do, and what it reports.
//!
//! A pool is imported by exactly one controller. Heartbeat decides which; the pool manager obeys, but
//! only with exclusion taken on the disks themselves: [`Take`] registers the new owner's key on every
//! member disk, preempts (and aborts) whoever was there, and reads keys and reservation back. `import`
//! succeeds only in the process that holds that proof.
//!
//! Order of a take: `pool.take` -> `pool.import`. Order of a release: `pool.export`.

use crate::config::Backend;
use crate::config::item::ItemId;
use crate::id::{ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId, VolumeId};
use crate::lvm::{Files, Level};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

crate::contract! {
    service "pool", rank crate::rank::POOL_MANAGER, door crate::contract::Door::Router;
    /// Imports and exports pools, holds their disks exclusively, and keeps their mirrors whole.
    calls [
        crate::config::WATCH, crate::config::CHANGE, crate::heartbeat::POOL_EVENT,
        crate::lvm::ACTIVATE, crate::lvm::APPLY, crate::lvm::REPLACE, crate::lvm::ROLL_BACK, crate::lvm::STATE,
        crate::lvm::DEACTIVATE, crate::lvm::CUT, crate::lvm::REMOVE, crate::lvm::POOLS,
    ];
    requests {
        /// Takes exclusion: registers a key on every member disk, preempts and aborts every other, reads back.
        /// Idempotent for one key.
        idempotent nobody TAKE = "pool.take": Take => Taken, [Conflict, Refused, Superseded, Failed];
        /// Imports a pool whose exclusion this process has taken, and serves its volumes. Idempotent for one key.
        idempotent nobody IMPORT = "pool.import": Import => Imported, [Conflict, Refused, Superseded, Failed];
        /// Gives a pool up: flushes, stops serving its volumes, unregisters. Idempotent.
        idempotent nobody EXPORT = "pool.export": Export => Exported, [Refused, Superseded, Failed];
        /// Gives up a pool that the configuration has no more, so that another one can be made of its disks; refused while this
        /// controller's configuration still has it, and while something is in it that the configuration does not know to be
        /// deleted. Idempotent.
        idempotent nobody DELETE = "pool.delete": Export => Exported, [Refused, Superseded, Failed];
        /// Stops a pool at once without touching its disks: they may be another's. Idempotent.
        idempotent nobody STOP = "pool.stop": Export => Exported, [Failed];
        /// Brings a returned or replaced leg back into its mirror. Answers when the copy has begun; its progress is
        /// in the status. Idempotent.
        idempotent operator RESYNC = "pool.resync": Resync => PoolHealth, [NotFound, Conflict, Refused, Failed];
        /// What a pool on these disks would be made of; refused where no such pool can be made here, with why. Makes nothing.
        idempotent viewer PROPOSE = "pool.propose": Propose => Made, [Refused, Failed];
        /// Makes a volume what it was when a snapshot was taken; refused while a host sees the volume. Idempotent.
        idempotent operator ROLL_BACK = "pool.roll_back": RollBack => RolledBack, [NotFound, Conflict, Refused, Failed];
        /// Removes a key of a stranger from a disk; refused where a controller of this array could own the disk. Idempotent.
        idempotent operator CLEAR_KEY = "pool.clear_key": ClearKey => ClearedKey, [Refused, Failed];
        /// What is imported here, and what is seen on the disks.
        idempotent viewer STATUS = "pool.status": () => Status, [];
        /// What is imported here, and nothing else: no disk is asked, so a disk that does not answer delays nothing.
        idempotent viewer IMPORTED = "pool.imported": ListImported => Vec<Held>, [];
    }
    notifications {}
    topics {
        /// Something happened to a pool; heartbeat also gets it as `heartbeat.pool_event`.
        viewer EVENTS = "pool.events": PoolEvent;
    }
}
/// The key of a persistent reservation: who, in which epoch, under which claim. Never constant, so that a
/// stale fencer cannot preempt a later owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReservationKey {
    /// The controller that holds the pool.
    pub controller: ControllerId,
    /// The epoch in which it took the pool.
    pub epoch: Epoch,
    /// The generation of its claim.
    pub generation: Generation,
}

/// Take exclusion of a pool: register `key` on every member disk, preempt and abort every other key, read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Take {
    /// The pool.
    pub pool: PoolId,
    /// Member disks as the configuration lists them; the labels on the disks decide where they are readable.
    pub disks: Vec<DiskIndex>,
    /// The key under which the pool will be held.
    pub key: ReservationKey,
    /// The controller that is being fenced, if any; none for the first import of a new pool.
    pub victim: Option<ControllerId>,
}

/// Exclusion was taken and read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Taken {
    /// The key that now stands alone on every fenced disk.
    pub key: ReservationKey,
    /// Disks on which the key was read back alone.
    pub fenced: Vec<DiskIndex>,
    /// Disks that could not be fenced. Confirmed only when `confirmed`.
    pub unfenced: Vec<DiskIndex>,
    /// Every disk is fenced but those that the pool's own metadata on fenced disks already calls failed.
    pub confirmed: bool,
}

/// Import a pool under a key whose exclusion this process has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Import {
    /// The pool.
    pub pool: PoolId,
    /// Its name, for labels and messages.
    pub name: String,
    /// Member disks as the configuration lists them.
    pub disks: Vec<DiskIndex>,
    /// The key given to `pool.take`.
    pub key: ReservationKey,
    /// The configuration says that the pool was never ready: blank disks may be labelled. Otherwise a
    /// missing label is damage, never a reason to create.
    pub create: bool,
    /// What keeps its data, as the configuration has it; none: what its disks are for. Counts with `create` alone: what a
    /// pool is, its label says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Stands in for reservations that could not be confirmed: the previous owner's incarnation was
    /// reported off after the epoch was chosen.
    pub power_off: Option<PowerOff>,
}

/// The previous owner was reported off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PowerOff {
    /// Whose power.
    pub controller: ControllerId,
    /// The incarnation that was running.
    pub incarnation: Incarnation,
    /// The epoch under which the report was gathered.
    pub epoch: Epoch,
}

/// A pool is imported and its volumes are served at `run/volumes/<volume>.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Imported {
    /// The pool.
    pub pool: PoolId,
    /// Bytes that volumes can use.
    pub capacity_bytes: u64,
    /// Volumes that are served.
    pub volumes: Vec<VolumeId>,
    /// State of each leg.
    pub health: PoolHealth,
}

/// Give a pool up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Export {
    /// The pool.
    pub pool: PoolId,
}

/// The pool is no longer used by this controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exported {
    /// The pool.
    pub pool: PoolId,
    /// It had been imported (false: there was nothing to do).
    pub was_imported: bool,
}

/// Bring one leg back into its mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resync {
    /// The pool.
    pub pool: PoolId,
    /// The disk to copy to.
    pub disk: DiskIndex,
}

/// Ask what a pool would be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Propose {
    /// Its disks.
    pub disks: Vec<DiskIndex>,
    /// What is to keep its data; none: what its disks are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

/// What a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Made {
    /// What keeps its data.
    pub backend: Backend,
    /// How its data lie on its disks, where a volume group keeps them; otherwise each disk holds all.
    pub level: Option<Level>,
}

/// Health of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolHealth {
    /// One line per member disk.
    pub legs: Vec<Leg>,
    /// No leg in sync can be written now: commands wait.
    pub suspended: bool,
}

/// One member disk of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leg {
    /// The disk.
    pub disk: DiskIndex,
    /// Its state.
    pub state: LegState,
    /// Share of a resync that is done, 0..=100, while it runs.
    pub resync_percent: Option<u8>,
}

/// State of a member disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LegState {
    /// Holds every acknowledged write.
    InSync,
    /// Is being copied to; not read.
    Resyncing,
    /// Recorded as failed in the labels of the other legs; neither read nor written.
    Failed,
}

/// What this controller has imported, and what it sees on the disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Pools imported here.
    pub imported: Vec<ImportedPool>,
    /// Pools whose labels were found, imported here or not.
    pub seen: Vec<SeenPool>,
    /// Reservation keys on the disks that nobody of this array has registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<ForeignKey>,
}

/// A reservation key on a disk that nobody of this array has registered. Whoever has it may write there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForeignKey {
    /// The disk.
    pub disk: DiskIndex,
    /// The key: 0x and 16 hexadecimal digits.
    pub key: String,
    /// Whose it is, in words, as far as the key says so.
    pub whose: String,
    /// The reservation is held under it.
    pub holds: bool,
}

/// Remove a key from a disk, with its reservation; its commands are aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClearKey {
    /// The disk.
    pub disk: DiskIndex,
    /// The key: 16 hexadecimal digits, with or without 0x.
    pub key: String,
    /// Say whether it would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A key is not on a disk, as read back (with `dry_run`: would not be).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClearedKey {
    /// The disk.
    pub disk: DiskIndex,
    /// The key was there.
    pub was_there: bool,
    /// Keys of strangers that stand there still.
    pub left: Vec<ForeignKey>,
}

/// Ask what is imported here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ListImported {
    /// Wait until what was begun with each pool before, an import or an export, has come to its end.
    #[serde(default)]
    pub settled: bool,
}

/// A pool that is imported here, and under which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// The pool.
    pub pool: PoolId,
    /// The key under which it is held.
    pub key: ReservationKey,
    /// No leg in sync can be written from here now.
    pub suspended: bool,
}

/// A pool that is imported here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImportedPool {
    /// The pool.
    pub pool: PoolId,
    /// Its name.
    pub name: String,
    /// The key under which it is held.
    pub key: ReservationKey,
    /// What it is made of; none: a program from before there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// Bytes that volumes can use, and how many they use.
    pub capacity_bytes: u64,
    /// Bytes given to volumes.
    pub used_bytes: u64,
    /// State of each leg.
    pub health: PoolHealth,
    /// Volumes that are served.
    pub volumes: Vec<VolumeId>,
    /// Snapshots that stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<ItemId>,
    /// File systems, and those of their snapshots that are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Files>,
    /// Less space is free than the configuration calls low.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub low_space: bool,
}

/// Make a volume what it was when a snapshot was taken. What was written since is lost; the snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RollBack {
    /// The pool.
    pub pool: PoolId,
    /// The snapshot, by its identity in the configuration.
    pub snapshot: ItemId,
}

/// A volume is what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RolledBack {
    /// The volume.
    pub volume: VolumeId,
}

/// A pool whose label was read on at least one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeenPool {
    /// The pool.
    pub pool: PoolId,
    /// Its name.
    pub name: String,
    /// Disks on which a valid label was read.
    pub disks: Vec<DiskIndex>,
    /// Whose key the disks carry; none where no reservation is held or the key is not of this array.
    pub holder: Option<ReservationKey>,
}

/// Something happened to a pool that heartbeat must know at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PoolEvent {
    /// A readable wrong key, or a reservation conflict, on a disk of an imported pool: the pool has been
    /// stopped here already.
    ExclusionLost {
        /// The pool.
        pool: PoolId,
        /// The disk on which it was seen.
        disk: DiskIndex,
        /// The key that stands there instead, where it is one of this array's.
        holder: Option<ReservationKey>,
    },
    /// No in-sync leg can be written: the pool is suspended, its commands are held.
    Suspended {
        /// The pool.
        pool: PoolId,
        /// Why, in words.
        reason: String,
    },
    /// A suspended pool serves again.
    Resumed {
        /// The pool.
        pool: PoolId,
    },
    /// A leg failed or came back.
    Health {
        /// The pool.
        pool: PoolId,
        /// State of each leg.
        health: PoolHealth,
    },
    /// Free space has got below what the configuration calls low, or above it again.
    Space {
        /// The pool.
        pool: PoolId,
        /// It is low now.
        low: bool,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that there are.
        capacity_bytes: u64,
    },
}
