//! What there is to serve: volumes with their paths and lines, as the configuration has them.

use super::BLOCK_SIZE;
use super::link::{Endpoint, Link, Through};
use super::secrets::{Sealed, Secrets};
use super::space::{provisioning, write_cache};
use crate::paths::{Paths, Route, Stale};
use crate::scsi::inquiry::port_number;
use crate::scsi::sense::Sense;
use crate::target::{Mappings, Target};
use crate::volume::{Identity, Volume};
use pollux_api::config::Tables;
use pollux_api::config::item::Secret;
use pollux_api::id::{ArrayId, ControllerId, PoolId, VolumeId};
use pollux_api::target::{Access, Flipped, Forwarding, PoolPaths, Published};
use pollux_block_frame::{AuthKey, VERSIONS};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// Who this end is and where the others are.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The array.
    pub array: ArrayId,
    /// This controller.
    pub own: ControllerId,
    /// Directory of the volumes' sockets.
    pub volumes: PathBuf,
    /// This end of the interconnect.
    pub local: SocketAddr,
    /// The partner's forward port.
    pub partner: SocketAddr,
    /// The pairing key.
    pub key: AuthKey,
}

#[derive(Debug)]
struct Pool {
    paths: Arc<Paths>,
    forward: Arc<Link>,
}

#[derive(Debug)]
struct Entry {
    pool: PoolId,
    volume: Arc<Volume>,
    local: Arc<Link>,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<PoolId, Pool>,
    volumes: BTreeMap<VolumeId, Entry>,
    secrets: Secrets,
    mappings: Mappings,
}

/// Volumes, pools and lines of one controller.
#[derive(Debug)]
pub struct World {
    around: Surroundings,
    target: Arc<Target>,
    state: Mutex<State>,
    /// Held from a look at the state to the target's hosts, so that an older look never replaces a newer.
    telling: Mutex<()>,
    /// Changes when a secret was sealed or opened.
    secrets: watch::Sender<()>,
}

/// Name of the session that forwards for a pool: the identity of the pool fills the 32 bytes that there are.
pub(super) fn session_name(pool: PoolId) -> String {
    pool.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The inverse of [`session_name`].
pub(super) fn pool_of_session(name: &str) -> Option<PoolId> {
    if name.len() != 32 || !name.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&name[at..at + 2], 16).ok()?;
    }
    Some(PoolId::from_bytes(bytes))
}

impl World {
    /// A world without volumes.
    #[must_use]
    pub fn new(around: Surroundings, target: Arc<Target>) -> Arc<Self> {
        Arc::new(Self {
            around,
            target,
            state: Mutex::default(),
            telling: Mutex::default(),
            secrets: watch::Sender::new(()),
        })
    }

    /// The port that serves it.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paths of a pool, made unknown where it is new.
    #[must_use]
    pub fn paths(&self, pool: PoolId) -> Arc<Paths> {
        self.pool(&mut self.state(), pool).0
    }

    fn pool(&self, state: &mut State, pool: PoolId) -> (Arc<Paths>, Arc<Link>) {
        let around = &self.around;
        let entry = state.pools.entry(pool).or_insert_with(|| {
            let paths = Paths::new(around.own);
            let endpoint = Endpoint::Partner {
                from: around.local,
                to: around.partner,
            };
            let (name, key) = (session_name(pool), Some(around.key.clone()));
            let forward = Link::new(endpoint, around.array, around.own, name, key, paths.clone());
            Pool { paths, forward }
        });
        (entry.paths.clone(), entry.forward.clone())
    }

    /// A volume, if the configuration has it.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.state().volumes.get(&id).map(|entry| entry.volume.clone())
    }

    /// Brings volumes, mappings and hosts to what the configuration says. Hosts whose secret is not open yet are not
    /// let in ([`sealed`](Self::sealed), [`opened`](Self::opened)).
    pub fn apply(&self, tables: &Tables) {
        let (mut resized, mut provisioned) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            let moved = |id: &VolumeId, entry: &Entry| {
                tables.volumes.get(id).is_some_and(|row| row.pool == entry.pool)
            };
            state.volumes.retain(|id, entry| moved(id, entry));
            for row in tables.volumes.values() {
                let blocks = row.size_bytes / u64::from(BLOCK_SIZE);
                if let Some(entry) = state.volumes.get(&row.id) {
                    if entry.volume.resize(blocks) {
                        resized.push(row.id);
                    }
                    let told = entry.volume.provision(provisioning(tables, row));
                    provisioned.extend(told.map(|sense| (row.id, sense)));
                    let told = entry.volume.cache_writes(write_cache(tables, row));
                    provisioned.extend(told.map(|sense| (row.id, sense)));
                    continue;
                }
                let (paths, forward) = self.pool(&mut state, row.pool);
                let socket = self.around.volumes.join(format!("{}.sock", row.id));
                let (array, own) = (self.around.array, self.around.own);
                let name = "block-targetd".to_owned();
                let local = Link::new(Endpoint::Volume(socket), array, own, name, None, paths.clone());
                let identity = Identity {
                    id: row.id,
                    serial: row.serial.clone(),
                    block_size: BLOCK_SIZE,
                };
                let here = Arc::new(Through {
                    link: local.clone(),
                    volume: Uuid::nil(),
                });
                let there = Arc::new(Through {
                    link: forward,
                    volume: Uuid::from_bytes(*row.id.as_bytes()),
                });
                let volume = Arc::new(Volume::new(identity, blocks, paths, here, there));
                volume.provision(provisioning(tables, row));
                volume.cache_writes(write_cache(tables, row));
                state.volumes.insert(
                    row.id,
                    Entry {
                        pool: row.pool,
                        volume,
                        local,
                    },
                );
            }
            state.mappings = mappings(tables, &state.volumes);
            state.secrets.configure(tables);
        }
        self.tell_hosts();
        self.secrets.send_replace(());
        for volume in resized {
            self.target.attend(volume, Sense::CAPACITY_CHANGED);
        }
        for (volume, sense) in provisioned {
            self.target.attend(volume, sense);
        }
    }

    fn tell_hosts(&self) {
        let _turn = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let (mappings, admissions) = {
            let state = self.state();
            (state.mappings.clone(), state.secrets.admissions())
        };
        self.target.set_hosts(mappings, admissions);
    }

    /// Secrets of hosts that have to be opened.
    #[must_use]
    pub fn sealed(&self) -> Vec<Sealed> {
        self.state().secrets.missing()
    }

    /// A secret in the clear: its host is let in by it from now on.
    pub fn opened(&self, sealed: Sealed, clear: Secret) {
        self.state().secrets.opened(sealed, clear);
        self.tell_hosts();
        self.secrets.send_replace(());
    }

    /// Waits until no secret is sealed.
    pub async fn secrets_open(&self) {
        let mut changes = self.secrets.subscribe();
        loop {
            changes.borrow_and_update();
            if self.sealed().is_empty() {
                return;
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    /// Opens the lines to the local volumes of a pool, all at once.
    pub async fn publish(&self, pool: PoolId, within: Duration) -> Published {
        let until = Instant::now() + within;
        let mut checks = JoinSet::new();
        for (id, entry) in self
            .state()
            .volumes
            .iter()
            .filter(|(_, entry)| entry.pool == pool)
        {
            let (id, blocks, local) = (*id, entry.volume.blocks(), entry.local.clone());
            checks.spawn(async move { (id, local.check(blocks, until).await) });
        }
        let mut published = Published {
            volumes: Vec::new(),
            failed: Vec::new(),
        };
        while let Some(checked) = checks.join_next().await {
            match checked {
                Ok((id, Ok(()))) => published.volumes.push(id),
                Ok((id, Err(why))) => published.failed.push((id, why)),
                Err(error) => tracing::error!(%error, "checking a volume failed"),
            }
        }
        published.volumes.sort_unstable();
        published.failed.sort_unstable();
        published
    }

    /// Switches the volumes of a pool.
    ///
    /// # Errors
    /// [`Stale`] where a newer claim stands.
    pub fn flip(&self, pool: PoolId, route: Route) -> Result<Flipped, Stale> {
        let paths = self.paths(pool);
        let (outcome, sessions) = self.target.flip(&paths, route)?;
        let state = self.state();
        if let Some(pool) = state.pools.get(&pool) {
            pool.forward.reset_if_outdated();
        }
        for entry in state.volumes.values().filter(|entry| entry.pool == pool) {
            entry.local.reset_if_outdated();
            // A port that is gone has taken its nexuses along, and what RESERVE(6) held with them.
            let partner = self.around.own.partner();
            let gone = route.access_of(partner) == Access::Unavailable;
            entry
                .volume
                .registry()
                .port_is_gone(gone.then(|| port_number(partner)));
        }
        Ok(Flipped {
            changed: outcome.changed,
            sessions,
            released: outcome.released,
        })
    }

    /// Versions of the block protocol, and the oldest that was agreed on a line to the partner.
    #[must_use]
    pub fn forwarding(&self) -> Forwarding {
        let state = self.state();
        Forwarding {
            oldest: VERSIONS.oldest,
            newest: VERSIONS.newest,
            agreed: state
                .pools
                .values()
                .filter_map(|pool| pool.forward.agreed())
                .min(),
        }
    }

    /// One line per pool.
    #[must_use]
    pub fn report(&self) -> Vec<PoolPaths> {
        let state = self.state();
        let line = |(id, pool): (&PoolId, &Pool)| {
            let route = pool.paths.route();
            let volumes = state.volumes.iter().filter(|(_, entry)| entry.pool == *id);
            PoolPaths {
                pool: *id,
                epoch: route.epoch,
                generation: route.generation,
                backing: route.backing,
                access_a: route.access_of(ControllerId::A),
                access_b: route.access_of(ControllerId::B),
                held: pool.paths.load().0,
                volumes: volumes.map(|(id, _)| *id).collect(),
            }
        };
        state.pools.iter().map(line).collect()
    }
}

fn mappings(tables: &Tables, volumes: &BTreeMap<VolumeId, Entry>) -> Mappings {
    let mut all = Mappings::new();
    for row in tables.mappings.values() {
        let (Some(host), Some(entry)) = (tables.hosts.get(&row.host), volumes.get(&row.volume)) else {
            // The config keeper deletes nothing that is referred to; between two changes of one batch it may be so.
            continue;
        };
        for iqn in &host.iqns {
            all.entry(iqn.clone())
                .or_default()
                .insert(row.lun, entry.volume.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_names_its_session_and_back() {
        let pool = PoolId::from_bytes(*b"0123456789abcdef");
        let name = session_name(pool);
        assert_eq!(name.len(), pollux_block_frame::CLIENT_NAME_MAX);
        assert_eq!(pool_of_session(&name), Some(pool));
        for bad in [
            "",
            "x",
            "30313233343536373839616263646566ff",
            "zz313233343536373839616263646566",
            "äöü",
        ] {
            assert_eq!(pool_of_session(bad), None, "{bad}");
        }
    }
}
