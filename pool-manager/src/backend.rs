//! What a kind of pool has to offer.
//!
//! | backend | parts |
//! |---|---|
//! | [`embedded`](crate::embedded) | mirror over the shelf's disks, labels, extents |
//! | [`lvm`](crate::lvm) | volume group of the kernel on disks whose data are the kernel's; the same labels |
//!
//! Which one a pool is made of: [`kinds`](crate::kinds).
//!
//! [`Backend::create`] and [`Backend::import`] take an [`Exclusion`] by value: there is no way to write to a pool's disks
//! without having fenced them first, and none to use one proof for two imports.

use crate::fence::Exclusion;
use crate::label::TooLarge;
use crate::mirror::{Condition, MirrorError, ReadmitError};
use pollux_api::config;
use pollux_api::config::item::ItemId;
use pollux_api::id::{ControllerId, DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{FileSystem, FileSystemSnapshot, Files, Level};
use pollux_api::pool::{Made, PoolEvent, PoolHealth, ReservationKey, SeenPool};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

/// Why a pool was not created, imported, changed or exported.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The proof does not cover the disks that matter.
    #[error("pool {pool}: exclusion is not confirmed on {}", list(disks))]
    NotExclusive {
        /// The pool.
        pool: PoolId,
        /// Disks that are neither fenced nor called failed.
        disks: Vec<DiskIndex>,
    },
    /// No disk carries a label of the pool.
    #[error("pool {pool}: no label on {}: {why}", list(disks))]
    NoLabel {
        /// The pool.
        pool: PoolId,
        /// Where it was looked for.
        disks: Vec<DiskIndex>,
        /// What stands there instead.
        why: String,
    },
    /// A member that may hold acknowledged writes which the others lack cannot be read.
    #[error(
        "pool {pool}: {disk} is in sync by its label and cannot be used ({why}): without it nobody can tell whether the others hold every acknowledged write"
    )]
    MemberMissing {
        /// The pool.
        pool: PoolId,
        /// The member.
        disk: DiskIndex,
        /// Why.
        why: String,
    },
    /// A disk that is to become a member belongs to another pool, or is not blank.
    #[error("{disk} cannot become a member of pool {pool}: {why}")]
    Occupied {
        /// The pool.
        pool: PoolId,
        /// The disk.
        disk: DiskIndex,
        /// What stands on it.
        why: String,
    },
    /// A disk is for another kind of pool, or it cannot be asked which.
    #[error("{disk}: {why}")]
    Kind {
        /// The disk.
        disk: DiskIndex,
        /// Why.
        why: String,
    },
    /// A volume group cannot be had over so many disks.
    #[error("a volume group of {disks} disks: possible are {}", Level::DISKS)]
    Level {
        /// How many.
        disks: usize,
    },
    /// There are no volume groups on this controller.
    #[error("controller {controller} has no volume groups: {why}")]
    NoGroups {
        /// Which.
        controller: ControllerId,
        /// Why.
        why: String,
    },
    /// It was to be destroyed for a configuration that is older than its volumes.
    #[error(
        "pool {pool} stands on change {seen} of the configuration; that it is deleted was read in change {index}"
    )]
    Older {
        /// The pool.
        pool: PoolId,
        /// What it was last brought to.
        seen: u64,
        /// What does not have it.
        index: u64,
    },
    /// It was to be destroyed with something in it.
    #[error(
        "pool {pool} has {volumes} volumes and {snapshots} snapshots still: it is not destroyed with them"
    )]
    Used {
        /// The pool.
        pool: PoolId,
        /// Volumes.
        volumes: usize,
        /// Snapshots.
        snapshots: usize,
    },
    /// The pool would have no room.
    #[error("{disk} has {bytes} bytes: too small for a pool")]
    TooSmall {
        /// The smallest member.
        disk: DiskIndex,
        /// Its size.
        bytes: u64,
    },
    /// A volume does not fit.
    #[error("volume {volume} needs {needed} bytes more, and pool {pool} has {free}")]
    Full {
        /// The pool.
        pool: PoolId,
        /// The volume.
        volume: VolumeId,
        /// What it needs.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// There is no such volume, or it cannot be used.
    #[error("pool {pool} has no volume {volume}, or its table is damaged")]
    NoVolume {
        /// The pool.
        pool: PoolId,
        /// The volume.
        volume: VolumeId,
    },
    /// There is no such snapshot, or it cannot be used.
    #[error("pool {pool} has no snapshot {snapshot}, or it is damaged")]
    NoSnapshot {
        /// The pool.
        pool: PoolId,
        /// The snapshot.
        snapshot: ItemId,
    },
    /// The mirror could not do it.
    #[error("pool {pool}: {source}")]
    Mirror {
        /// The pool.
        pool: PoolId,
        /// Why.
        source: MirrorError,
    },
    /// The label has no room for it.
    #[error("pool {pool}: {source}")]
    Label {
        /// The pool.
        pool: PoolId,
        /// Why.
        source: TooLarge,
    },
    /// A leg cannot be taken back.
    #[error("pool {pool}: {source}")]
    Readmit {
        /// The pool.
        pool: PoolId,
        /// Why.
        source: ReadmitError,
    },
    /// Its volume group, or the daemon that has it.
    #[error("pool {pool}: {why}")]
    Group {
        /// The pool.
        pool: PoolId,
        /// Why.
        why: String,
    },
    /// It was not done within its deadline.
    #[error("pool {pool}: {what} did not end within {after:?}")]
    Deadline {
        /// The pool.
        pool: PoolId,
        /// What.
        what: &'static str,
        /// How long it was waited.
        after: Duration,
    },
    /// A socket or file of this controller.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn list(disks: &[DiskIndex]) -> String {
    let names: Vec<_> = disks.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "any disk".to_owned()
    } else {
        names.join(", ")
    }
}

/// A volume as the configuration wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedVolume {
    /// Its identity.
    pub id: VolumeId,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// It takes space when it is first written.
    pub thin: bool,
}

/// A snapshot as the configuration wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSnapshot {
    /// Its identity.
    pub id: ItemId,
    /// The volume of which it is.
    pub volume: VolumeId,
}

/// What the configuration wants on a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its volumes.
    pub volumes: Vec<WantedVolume>,
    /// Snapshots of them.
    pub snapshots: Vec<WantedSnapshot>,
    /// Its file systems. A pool that is a mirror of our own has none.
    pub file_systems: Vec<FileSystem>,
    /// Snapshots of them.
    pub file_system_snapshots: Vec<FileSystemSnapshot>,
    /// The free space, in percent, below which it is low.
    pub low_percent: u8,
}

/// A kind of pool.
pub trait Backend: Send + Sync + 'static {
    /// An imported pool.
    type Pool: Imported;

    /// Pools whose labels are on the disks, imported or not.
    fn discover(&self) -> impl Future<Output = Vec<SeenPool>> + Send;

    /// What a pool on these disks would be made of; `chosen`: it has to be that.
    fn propose(
        &self,
        disks: &[DiskIndex],
        chosen: Option<config::Backend>,
    ) -> impl Future<Output = Result<Made, PoolError>> + Send;

    /// Makes a pool of blank disks and imports it.
    fn create(
        &self,
        evidence: Exclusion,
        name: &str,
        disks: &[DiskIndex],
        chosen: Option<config::Backend>,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> impl Future<Output = Result<Self::Pool, (Exclusion, PoolError)>> + Send;

    /// Imports a pool. The proof comes back when it fails.
    fn import(
        &self,
        evidence: Exclusion,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> impl Future<Output = Result<Self::Pool, (Exclusion, PoolError)>> + Send;
}

/// A pool that this controller has imported.
pub trait Imported: Send + Sync + 'static {
    /// Its identity.
    fn id(&self) -> PoolId;
    /// Its name.
    fn name(&self) -> String;
    /// What it is made of.
    fn made(&self) -> Made;
    /// The key under which it is held.
    fn key(&self) -> ReservationKey;
    /// Bytes that volumes can use, bytes that they use, bytes of an extent.
    fn space(&self) -> (u64, u64, u64);
    /// State of each leg.
    fn health(&self) -> PoolHealth;
    /// Serves again what is not served: after an export that did not come to its end, however far it came.
    fn reopen(&self) -> impl Future<Output = Result<(), PoolError>> + Send;
    /// Volumes that are served.
    fn volumes(&self) -> Vec<VolumeId>;
    /// What it may do now, to watch.
    fn condition(&self) -> watch::Receiver<Condition>;
    /// Less is free than the configuration calls low.
    fn is_low(&self) -> bool;
    /// Snapshots that stand.
    fn snapshots(&self) -> Vec<ItemId>;
    /// File systems, and where they are mounted.
    fn files(&self) -> Vec<Files> {
        Vec::new()
    }
    /// Brings volumes and snapshots to what the configuration says as of change `index`: makes, grows, removes. Removes
    /// nothing if the pool has seen a later configuration. Returns what could not be done.
    fn reconcile(&self, index: u64, wanted: &Wanted) -> impl Future<Output = Vec<PoolError>> + Send;
    /// Makes a volume what it was when a snapshot was taken; which volume.
    fn roll_back(&self, snapshot: ItemId) -> impl Future<Output = Result<VolumeId, PoolError>> + Send;
    /// Takes a failed leg, or a new disk in its place, back; the copy runs on beside.
    fn resync(&self, disk: DiskIndex) -> impl Future<Output = Result<(), PoolError>> + Send;
    /// Ends all commands, leaves every leg equal and the label clean, gives the disks up.
    fn export(&self, within: Duration) -> impl Future<Output = Result<(), PoolError>> + Send;
    /// The configuration as of change `index` has the pool no more: leaves disks of which another one can be made, then as
    /// `export`. Refused if something is in it, or if it has seen a later configuration.
    fn destroy(&self, index: u64, within: Duration) -> impl Future<Output = Result<(), PoolError>> + Send;
    /// Ends everything at once without touching the disks, which may be another's already.
    fn stop(&self);
}
