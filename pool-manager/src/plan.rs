//! What the configuration asks of a pool, as a function of its tables.
//!
//! | of the configuration | here |
//! |---|---|
//! | the volumes of the pool; the list `thin` of the settings of service `pool` | [`WantedVolume`] |
//! | snapshots of them | [`WantedSnapshot`] |
//! | file systems of the pool, as large as their quota; snapshots of them | [`Wanted::file_systems`], [`Wanted::file_system_snapshots`] |
//! | the policy `alarms`: `pool_free_percent` | [`Wanted::low_percent`] |
//! | the value `overcommit_percent` of the settings of service `pool` | [`announced`] |

use crate::backend::{Wanted, WantedSnapshot, WantedVolume};
use crate::embedded::LOW_PERCENT;
use pollux_api::config::item::{Item, ItemId, Rule, Settings};
use pollux_api::config::{PoolSpace, Tables};
use pollux_api::id::{PoolId, VolumeId};
use pollux_api::lvm::{FileSystem, FileSystemSnapshot};
use pollux_api::pool::SERVICE;
use std::sync::Arc;

/// The configuration as far as it has been watched: index of its last change, and the tables.
pub type Known = Option<Arc<(u64, Tables)>>;

/// Most that may be promised of what a pool has, percent.
const OVERCOMMIT_MAX: u64 = 10_000;

fn settings(tables: &Tables) -> Option<&Settings> {
    tables.items().find_map(|item| match item {
        Item::Settings(settings) if settings.service == SERVICE => Some(settings),
        _ => None,
    })
}

/// What is wanted on a pool.
#[must_use]
pub fn wanted(tables: &Tables, pool: PoolId) -> Wanted {
    let thin: Vec<VolumeId> = settings(tables)
        .into_iter()
        .flat_map(|settings| settings.thin.iter().filter_map(|id| id.parse().ok()))
        .collect();
    let volumes = tables.volumes.values().filter(|volume| volume.pool == pool);
    let volumes = volumes.map(|volume| WantedVolume {
        id: volume.id,
        size_bytes: volume.size_bytes,
        thin: thin.contains(&volume.id),
    });
    let snapshots = tables.items().filter_map(|item| {
        let Item::Snapshot(snapshot) = item else {
            return None;
        };
        let volume: VolumeId = snapshot.volume.as_ref()?.parse().ok()?;
        let here = tables.volumes.get(&volume)?.pool == pool;
        let id = snapshot.id;
        here.then_some(WantedSnapshot { id, volume })
    });
    let id = pool.to_string();
    let file_systems: Vec<FileSystem> = (tables.items())
        .filter_map(|item| match item {
            Item::FileSystem(row) if row.pool == id => Some(FileSystem {
                id: row.id,
                size_bytes: row.quota_bytes,
            }),
            _ => None,
        })
        .collect();
    let file_system_snapshots = tables.items().filter_map(|item| {
        let Item::Snapshot(snapshot) = item else {
            return None;
        };
        let of = snapshot.file_system.as_ref()?;
        let of = file_systems.iter().find(|files| files.id.to_string() == *of)?;
        Some(FileSystemSnapshot {
            id: snapshot.id,
            file_system: of.id,
        })
    });
    let low = tables.items().find_map(|item| match item {
        Item::Policy(policy) => match policy.rule {
            Rule::Alarms {
                pool_free_percent, ..
            } => Some(pool_free_percent),
            _ => None,
        },
        _ => None,
    });
    Wanted {
        volumes: volumes.collect(),
        snapshots: snapshots.collect(),
        file_system_snapshots: file_system_snapshots.collect(),
        file_systems,
        low_percent: low.unwrap_or(LOW_PERCENT),
    }
}

/// The space of a pool as the configuration is to know it: what may be promised to volumes. That is what there is, or
/// more where thin volumes may be larger together than the pool; never less than what was promised already.
#[must_use]
pub fn announced(tables: &Tables, pool: PoolId, space: PoolSpace) -> PoolSpace {
    let text = settings(tables).and_then(|settings| settings.values.get("overcommit_percent"));
    let percent = text.map_or(100, |text| match text.parse() {
        Ok(percent @ 100..=OVERCOMMIT_MAX) => percent,
        _ => {
            tracing::warn!(
                text,
                "overcommit_percent is none of 100 to {OVERCOMMIT_MAX}: nothing is promised twice"
            );
            100
        }
    });
    let promised = (u128::from(space.capacity_bytes) * u128::from(percent) / 100).min(u128::from(u64::MAX));
    let promised = promised as u64 / space.extent_bytes * space.extent_bytes;
    let present = match percent {
        100 => 0,
        _ => tables.used_bytes(pool),
    };
    PoolSpace {
        capacity_bytes: promised.max(present),
        ..space
    }
}

/// Whether a volume may become what a snapshot says: no host sees it.
///
/// # Errors
/// Why not.
pub fn may_roll_back(tables: &Tables, snapshot: ItemId) -> Result<(), String> {
    let of = tables.items().find_map(|item| match item {
        Item::Snapshot(row) if row.id == snapshot => row.volume.clone(),
        _ => None,
    });
    let Some(volume) = of else {
        return Err(format!(
            "the configuration has no snapshot {snapshot} of a volume"
        ));
    };
    let seen = tables
        .mappings
        .values()
        .filter(|row| row.volume.to_string() == volume);
    match seen.count() {
        0 => Ok(()),
        hosts => Err(format!("{hosts} hosts see volume {volume}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::item::{FileSystem as Row, Snapshot};
    use pollux_api::config::{Hex, Resource, RowOp};

    #[test]
    fn a_pool_has_the_file_systems_that_are_on_it_and_their_snapshots() {
        let (here, there) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]));
        let id = |number| ItemId(Hex([number; 16]));
        let files = |number, pool: PoolId, quota_bytes| {
            Item::FileSystem(Row {
                name: format!("f{number}"),
                pool: pool.to_string(),
                quota_bytes,
                reserved_bytes: 0,
                id: id(number),
            })
        };
        let snapshot = |number, of: u8| {
            Item::Snapshot(Snapshot {
                name: format!("s{number}"),
                volume: None,
                file_system: Some(id(of).to_string()),
                taken_ms: 1,
                schedule: None,
                id: id(number),
            })
        };
        let mut tables = Tables::default();
        for item in [
            files(3, here, Some(1 << 30)),
            files(4, there, None),
            files(5, here, None),
            snapshot(6, 3),
            snapshot(7, 4),
        ] {
            tables.apply(&RowOp::Put(Resource::Item(item)));
        }
        let wanted = wanted(&tables, here);
        let sizes: Vec<_> = (wanted.file_systems.iter())
            .map(|files| (files.id, files.size_bytes))
            .collect();
        assert_eq!(sizes, [(id(3), Some(1 << 30)), (id(5), None)]);
        let taken = FileSystemSnapshot {
            id: id(6),
            file_system: id(3),
        };
        assert_eq!(wanted.file_system_snapshots, [taken]);
        assert!(wanted.snapshots.is_empty());
    }
}
