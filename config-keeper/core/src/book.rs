//! The tables with a register: who has which name, and who refers to whom.
//!
//! A change to an array of a hundred thousand things looks up a few of them; without a register each look would turn
//! every page. The register follows from the tables and is no part of what makes two books alike.
//!
//! Invariant: after every [`Book::apply`] the register is what one would make from the tables.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use pollux_api::config::{HostId, Key, Kind, Pool, Resource, RowOp, Tables, Volume};
use pollux_api::id::PoolId;

/// Tables and their register.
#[derive(Clone, Debug, Default)]
pub struct Book {
    tables: Tables,
    names: BTreeMap<(Kind, String), Key>,
    users: BTreeMap<Key, BTreeSet<Key>>,
    /// Bytes that the volumes of a pool take from it, in whole extents.
    used: BTreeMap<PoolId, u64>,
    initiators: BTreeMap<String, HostId>,
}

impl PartialEq for Book {
    fn eq(&self, other: &Self) -> bool {
        self.tables == other.tables
    }
}

impl Eq for Book {}

impl Hash for Book {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tables.hash(state);
    }
}

impl From<&Tables> for Book {
    fn from(tables: &Tables) -> Self {
        let mut book = Self::default();
        for row in tables.rows() {
            book.apply(&RowOp::Put(row));
        }
        book
    }
}

fn extent(pool: Option<&Pool>) -> u64 {
    pool.and_then(|pool| pool.ready)
        .map_or(1, |space| space.extent_bytes.max(1))
}

fn whole(volume: &Volume, extent: u64) -> u64 {
    volume.size_bytes.div_ceil(extent).saturating_mul(extent)
}

impl Book {
    /// What stands in it.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Folds one row operation in; what was there before comes out.
    pub fn apply(&mut self, op: &RowOp) -> Option<Resource> {
        let key = match op {
            RowOp::Put(row) => row.key(),
            RowOp::Delete(key) => *key,
        };
        let before = self.tables.get(&key);
        if let Some(before) = &before {
            self.register(before, false);
        }
        self.tables.apply(op);
        if let RowOp::Put(row) = op {
            self.register(row, true);
        }
        if let Key::Pool(id) = key {
            let was = match &before {
                Some(Resource::Pool(pool)) => extent(Some(pool)),
                _ => 1,
            };
            let is = extent(self.tables.pools.get(&id));
            if was != is {
                let volumes = self.volumes_of(id).map(|volume| whole(volume, is));
                let used = volumes.fold(0, u64::saturating_add);
                self.used.insert(id, used);
            }
        }
        before
    }

    /// Takes a row operation back: `before` is what [`Self::apply`] gave.
    pub fn undo(&mut self, op: &RowOp, before: Option<Resource>) {
        let key = match op {
            RowOp::Put(row) => row.key(),
            RowOp::Delete(key) => *key,
        };
        self.apply(&before.map_or(RowOp::Delete(key), RowOp::Put));
    }

    fn register(&mut self, row: &Resource, here: bool) {
        let key = row.key();
        let name = match row {
            Resource::Address(address) => Some(&address.cidr),
            other => other.name(),
        };
        if let Some(name) = name {
            let place = (key.kind(), name.clone());
            if here {
                self.names.insert(place, key);
            } else if self.names.get(&place) == Some(&key) {
                self.names.remove(&place);
            }
        }
        for used in row.uses() {
            let users = self.users.entry(used).or_default();
            if here {
                users.insert(key);
            } else {
                users.remove(&key);
                if users.is_empty() {
                    self.users.remove(&used);
                }
            }
        }
        match row {
            Resource::Volume(volume) => {
                let bytes = whole(volume, extent(self.tables.pools.get(&volume.pool)));
                let used = self.used.entry(volume.pool).or_default();
                *used = if here {
                    used.saturating_add(bytes)
                } else {
                    used.saturating_sub(bytes)
                };
            }
            Resource::Host(host) => {
                for iqn in &host.iqns {
                    if here {
                        self.initiators.insert(iqn.clone(), host.id);
                    } else if self.initiators.get(iqn) == Some(&host.id) {
                        self.initiators.remove(iqn);
                    }
                }
            }
            _ => {}
        }
    }

    /// Rows that refer to this one.
    pub fn users(&self, key: Key) -> impl Iterator<Item = &Key> + '_ {
        self.users.get(&key).into_iter().flatten()
    }

    fn volumes_of(&self, pool: PoolId) -> impl Iterator<Item = &Volume> + '_ {
        self.users(Key::Pool(pool)).filter_map(|key| match key {
            Key::Volume(id) => self.tables.volumes.get(id),
            _ => None,
        })
    }

    /// Bytes that the volumes of a pool take from it, each rounded up to whole extents.
    #[must_use]
    pub fn used_bytes(&self, pool: PoolId) -> u64 {
        self.used.get(&pool).copied().unwrap_or(0)
    }

    /// The host that has this initiator.
    #[must_use]
    pub fn host_of(&self, initiator: &str) -> Option<HostId> {
        self.initiators.get(initiator).copied()
    }

    /// The row with this name or identity; of an address also by the address, of a mapping by `volume@host`.
    #[must_use]
    pub fn find(&self, kind: Kind, which: &str) -> Option<Resource> {
        self.tables.get(&self.key_of(kind, which)?)
    }

    fn key_of(&self, kind: Kind, which: &str) -> Option<Key> {
        if let Some(key) = self.names.get(&(kind, which.to_string())) {
            return Some(*key);
        }
        let id = Key::parse(kind, which).ok();
        if let Some(key) = id.filter(|key| self.tables.get(key).is_some()) {
            return Some(key);
        }
        match kind {
            Kind::Mapping => {
                let (volume, host) = which.split_once('@')?;
                let volume = self.key_of(Kind::Volume, volume)?;
                let host = self.key_of(Kind::Host, host)?;
                self.mapping_of(&volume, &host)
            }
            Kind::Address => {
                let ip = format!("{}/", which.parse::<IpAddr>().ok()?);
                let mut rows = self.tables.addresses.values();
                let row = rows.find(|row| row.cidr.starts_with(&ip))?;
                Some(Key::Address(row.id))
            }
            _ => None,
        }
    }

    /// The mapping of a volume to a host.
    #[must_use]
    pub fn mapping_of(&self, volume: &Key, host: &Key) -> Option<Key> {
        let of_host = self.users.get(host)?;
        let mut of_volume = self.users(*volume);
        of_volume
            .find(|key| matches!(key, Key::Mapping(_)) && of_host.contains(key))
            .copied()
    }
}

#[cfg(test)]
mod tests;
