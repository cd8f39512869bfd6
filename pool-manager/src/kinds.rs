//! Both kinds of pool under one roof. A new pool is what was chosen, or what its disks are for: those whose data are the
//! kernel's make a pool in a volume group, others a mirror of our own. What a pool is, its label says.

use crate::backend::{Backend, Imported, PoolError, Wanted};
use crate::embedded::{Embedded, EmbeddedPool};
use crate::fence::Exclusion;
use crate::lvm::{self, Lvm, LvmPool};
use crate::lvmd::Groups;
use crate::mirror::Condition;
use pollux_api::config;
use pollux_api::config::item::ItemId;
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::Files;
use pollux_api::pool::{Made, PoolEvent, PoolHealth, ReservationKey, SeenPool};
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

    async fn propose(&self, disks: &[DiskIndex], chosen: Option<config::Backend>) -> Result<Made, PoolError> {
        let ours = self.lvm.suits(disks).await?;
        match lvm::made(&ours, chosen)?.backend {
            backend @ config::Backend::Embedded => self.embedded.propose(disks, Some(backend)).await,
            backend @ config::Backend::Lvm => self.lvm.propose(disks, Some(backend)).await,
        }
    }

    async fn create(
        &self,
        evidence: Exclusion,
        name: &str,
        disks: &[DiskIndex],
        chosen: Option<config::Backend>,
        events: mpsc::UnboundedSender<PoolEvent>,
    ) -> Result<AnyPool<G>, (Exclusion, PoolError)> {
        let made = match self.propose(disks, chosen).await {
            Ok(made) => made,
            Err(error) => return Err((evidence, error)),
        };
        let chosen = Some(made.backend);
        match made.backend {
            config::Backend::Lvm => {
                let pool = self.lvm.create(evidence, name, disks, chosen, events).await;
                pool.map(AnyPool::Lvm)
            }
            config::Backend::Embedded => {
                let pool = self.embedded.create(evidence, name, disks, chosen, events).await;
                pool.map(AnyPool::Embedded)
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

    fn made(&self) -> Made {
        either!(self, pool => pool.made())
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

    async fn reopen(&self) -> Result<(), PoolError> {
        either!(self, pool => pool.reopen().await)
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

    fn files(&self) -> Vec<Files> {
        either!(self, pool => pool.files())
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

    async fn destroy(&self, index: u64, within: Duration) -> Result<(), PoolError> {
        either!(self, pool => pool.destroy(index, within).await)
    }

    fn stop(&self) {
        either!(self, pool => pool.stop());
    }
}
