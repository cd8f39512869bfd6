//! Both kinds of pool under one roof. Nobody chooses: disks whose data are the kernel's make a pool in a volume group, others a
//! mirror of our own; what a pool is, its label says.

use crate::backend::{Backend, Imported, PoolError, Wanted};
use crate::embedded::{Embedded, EmbeddedPool};
use crate::fence::Exclusion;
use crate::lvm::{Lvm, LvmPool};
use crate::lvmd::Groups;
use crate::mirror::Condition;
use pollux_api::config::item::ItemId;
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::pool::{PoolEvent, PoolHealth, ReservationKey, SeenPool};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Both kinds.
#[derive(Debug)]
pub struct Kinds<G> {
    /// Mirrors of our own.
    pub embedded: Embedded,
    /// Volume groups.
    pub lvm: Lvm<G>,
}

/// A pool of one of them.
#[derive(Debug)]
pub enum AnyPool<G: Groups> {
    /// A mirror of our own.
    Embedded(EmbeddedPool),
    /// A volume group.
    Lvm(LvmPool<G>),
}

impl<G: Groups> Backend for Kinds<G> {
    type Pool = AnyPool<G>;

    async fn discover(&self) -> Vec<SeenPool> {
        self.embedded.discover().await
    }

    async fn create(
        &self,
        evidence: Exclusion,
        name: &str,
        disks: &[DiskIndex],
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<AnyPool<G>, (Exclusion, PoolError)> {
        match self.lvm.suits(disks).await {
            Some(true) => self
                .lvm
                .create(evidence, name, disks, events)
                .await
                .map(AnyPool::Lvm),
            Some(false) => (self.embedded.create(evidence, name, disks, events).await).map(AnyPool::Embedded),
            None => {
                let why = "some of the pool's disks are those whose data are the kernel's (kernel = true in enclosure.toml), \
                           and some are not"
                    .to_owned();
                let error = PoolError::Occupied {
                    pool: evidence.pool(),
                    disk: disks.first().copied().unwrap_or_default(),
                    why,
                };
                Err((evidence, error))
            }
        }
    }

    async fn import(
        &self,
        evidence: Exclusion,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<AnyPool<G>, (Exclusion, PoolError)> {
        match self.lvm.has(&evidence).await {
            true => self.lvm.import(evidence, events).await.map(AnyPool::Lvm),
            false => self
                .embedded
                .import(evidence, events)
                .await
                .map(AnyPool::Embedded),
        }
    }
}

/// Passes on to whichever it is.
macro_rules! either {
    ($pool:expr, $inner:ident => $what:expr) => {
        match $pool {
            AnyPool::Embedded($inner) => $what,
            AnyPool::Lvm($inner) => $what,
        }
    };
}

impl<G: Groups> Imported for AnyPool<G> {
    fn id(&self) -> PoolId {
        either!(self, pool => pool.id())
    }

    fn name(&self) -> String {
        either!(self, pool => pool.name())
    }

    fn key(&self) -> ReservationKey {
        either!(self, pool => pool.key())
    }

    fn space(&self) -> (u64, u64, u64) {
        either!(self, pool => pool.space())
    }

    fn health(&self) -> PoolHealth {
        either!(self, pool => pool.health())
    }

    fn serve_all(&self) -> Result<(), PoolError> {
        either!(self, pool => pool.serve_all())
    }

    fn volumes(&self) -> Vec<VolumeId> {
        either!(self, pool => pool.volumes())
    }

    fn condition(&self) -> watch::Receiver<Condition> {
        either!(self, pool => pool.condition())
    }

    fn is_low(&self) -> bool {
        either!(self, pool => pool.is_low())
    }

    fn snapshots(&self) -> Vec<ItemId> {
        either!(self, pool => pool.snapshots())
    }

    async fn reconcile(&self, index: u64, wanted: &Wanted) -> Vec<PoolError> {
        either!(self, pool => pool.reconcile(index, wanted).await)
    }

    async fn roll_back(&self, snapshot: ItemId) -> Result<VolumeId, PoolError> {
        either!(self, pool => pool.roll_back(snapshot).await)
    }

    async fn resync(&self, disk: DiskIndex) -> Result<(), PoolError> {
        either!(self, pool => pool.resync(disk).await)
    }

    async fn export(&self, within: Duration) -> Result<(), PoolError> {
        either!(self, pool => pool.export(within).await)
    }

    async fn destroy(&self, within: Duration) -> Result<(), PoolError> {
        either!(self, pool => pool.destroy(within).await)
    }

    fn stop(&self) {
        either!(self, pool => pool.stop());
    }
}
