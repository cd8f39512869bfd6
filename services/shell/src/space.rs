//! What takes space of a pool as it is written: thin volumes, and `pollux snapshot`.
//!
//! That a volume is thin stands in the settings of service `pool`, in the same change that makes the volume: there is no
//! moment at which it is thick. A snapshot is made by the owner of its pool once the configuration has it, so the command
//! waits until the owner says that it stands.

use crate::array::{Array, CHANGE};
use crate::cli::Snapshot;
use crate::error::Error;
use crate::print::{now_unix_ms, size, table};
use crate::resources::{Shown, change, change_from, done};
use crate::status::latest;
use pollux_api::action::ActionId;
use pollux_api::config::item::{self, Item, ItemId};
use pollux_api::config::{Kind, Op, Resource, RowOp, Tables};
use pollux_api::id::{ControllerId, PoolId};
use pollux_api::pool::{ROLL_BACK, RollBack, RolledBack, SERVICE, STATUS, Status};
use pollux_config_document::named;
use pollux_runtime::Ctx;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The settings of the pool manager, with names for what they refer to.
fn settings(tables: &Tables) -> item::Settings {
    let found = tables.items().find_map(|item| match item {
        Item::Settings(settings) if settings.service == SERVICE => match named(tables, item) {
            Item::Settings(settings) => Some(settings),
            _ => None,
        },
        _ => None,
    });
    found.unwrap_or_else(|| item::Settings {
        name: SERVICE.to_owned(),
        service: SERVICE.to_owned(),
        values: BTreeMap::new(),
        thin: Vec::new(),
        write_cache: Vec::new(),
        id: ItemId::default(),
    })
}

/// Whether a volume of that name is thin.
pub(crate) fn is_thin(tables: &Tables, volume: &str) -> bool {
    settings(tables).thin.iter().any(|name| name == volume)
}

/// Whether writes to a volume of that name may stay in the disks' caches.
pub(crate) fn is_cached(tables: &Tables, volume: &str) -> bool {
    settings(tables).write_cache.iter().any(|name| name == volume)
}

/// The name of a volume that is named by its name or identity.
fn volume_name(tables: &Tables, which: &str) -> String {
    let mut volumes = tables.volumes.values();
    let found = volumes.find(|volume| volume.name == which || volume.id.to_string() == which);
    found.map_or_else(|| which.to_owned(), |volume| volume.name.clone())
}

fn set(settings: item::Settings) -> Op {
    let item = Item::Settings(settings);
    Op::Set { item }
}

/// Makes a thin volume.
pub(crate) async fn create_thin(
    array: &Array,
    (name, pool, size_bytes): (String, String, u64),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let (snapshot, _) = latest(array).await?;
    let mut settings = settings(&snapshot.tables);
    settings.thin.push(name.clone());
    let what = format!(
        "thin volume {name} made on pool {pool}, {}: it takes space when it is written",
        size(size_bytes)
    );
    let create = Op::CreateVolume {
        name,
        pool,
        size_bytes,
    };
    let ops = vec![create, set(settings)];
    let (action, changed) = change_from(array, ops, Some(snapshot.as_of), action).await?;
    Ok(done(action, &changed, &what))
}

/// What deletes a volume: with it goes what the settings say of it. And up to which change that was looked up.
pub(crate) async fn delete_volume(array: &Array, which: &str) -> Result<(Vec<Op>, Option<u64>), Error> {
    let delete = Op::Delete {
        kind: Kind::Volume,
        which: which.to_owned(),
    };
    let (snapshot, _) = latest(array).await?;
    let name = volume_name(&snapshot.tables, which);
    if !is_thin(&snapshot.tables, &name) && !is_cached(&snapshot.tables, &name) {
        return Ok((vec![delete], None));
    }
    let mut settings = settings(&snapshot.tables);
    settings.thin.retain(|thin| *thin != name);
    settings.write_cache.retain(|cached| *cached != name);
    Ok((vec![set(settings), delete], Some(snapshot.as_of)))
}

/// Makes a volume thin, or thick.
pub(crate) async fn convert(
    array: &Array,
    which: &str,
    thin: bool,
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let (snapshot, _) = latest(array).await?;
    let name = volume_name(&snapshot.tables, which);
    let mut settings = settings(&snapshot.tables);
    settings.thin.retain(|present| *present != name);
    if thin {
        settings.thin.push(name.clone());
    }
    let what = match thin {
        true => format!("volume {name} is thin: what hosts unmap goes back to the pool"),
        false => format!("volume {name} is thick: the pool gives it all its space"),
    };
    let (action, changed) = change_from(array, vec![set(settings)], Some(snapshot.as_of), action).await?;
    Ok(done(action, &changed, &what))
}

/// Lets writes to a volume stay in the disks' caches until a host flushes them, or not.
pub(crate) async fn cache_writes(
    array: &Array,
    which: &str,
    cached: bool,
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let (snapshot, _) = latest(array).await?;
    let name = volume_name(&snapshot.tables, which);
    let mut settings = settings(&snapshot.tables);
    settings.write_cache.retain(|present| *present != name);
    if cached {
        settings.write_cache.push(name.clone());
    }
    let what = match cached {
        true => format!(
            "the write cache of volume {name} is on: what a host has not flushed is lost when the disks lose power"
        ),
        false => format!("the write cache of volume {name} is off: a write is durable before it is answered"),
    };
    let (action, changed) = change_from(array, vec![set(settings)], Some(snapshot.as_of), action).await?;
    Ok(done(action, &changed, &what))
}

/// `pollux snapshot`
///
/// # Errors
/// What the config keeper or the pool manager refuses.
pub async fn snapshot(array: &Array, command: Snapshot, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Snapshot::Create {
            name,
            volume,
            file_system,
            wait,
        } => {
            let of = match (&volume, &file_system) {
                (Some(volume), _) => format!("volume {volume}"),
                (None, files) => format!("file system {}", files.as_deref().unwrap_or("?")),
            };
            let item = Item::Snapshot(item::Snapshot {
                name: name.clone(),
                volume,
                file_system,
                taken_ms: now_unix_ms(),
                schedule: None,
                id: ItemId::default(),
            });
            let (before, _) = latest(array).await?;
            let same = |item: &Item| matches!(item, Item::Snapshot(row) if row.name == name);
            if before.tables.items().any(same) {
                let what = format!("a snapshot {name} exists");
                return Err(Error::usage(what, "a name that is free"));
            }
            let (action, changed) =
                change_from(array, vec![Op::Set { item }], Some(before.as_of), action).await?;
            let id = changed.rows.iter().find_map(|row| match row {
                RowOp::Put(Resource::Item(item)) => Some(item.id()),
                _ => None,
            });
            let mut shown = done(action, &changed, &format!("snapshot {name} of {of} asked for"));
            let stands = match id {
                Some(id) => wait_stands(array, id, Duration::from_secs(wait)).await,
                None => false,
            };
            shown.text += &match stands {
                true => format!("  it stands: {of} is kept there as it is now\n"),
                false => "  it does not stand yet: `pollux snapshot list` says when\n".to_owned(),
            };
            shown.json["stands"] = stands.into();
            Ok(shown)
        }
        Snapshot::List => list(array).await,
        Snapshot::Delete { name, discard_data } => {
            if !discard_data {
                let what = format!("the data of snapshot {name} would be lost; nothing was done");
                return Err(Error::usage(what, "--discard-data, if that is meant"));
            }
            let op = Op::Delete {
                kind: Kind::Snapshot,
                which: name.clone(),
            };
            let (action, changed) = change(array, vec![op], action).await?;
            Ok(done(action, &changed, &format!("snapshot {name} deleted")))
        }
        Snapshot::Rollback { name, discard_data } => {
            if !discard_data {
                let what = format!("what was written since snapshot {name} would be lost; nothing was done");
                return Err(Error::usage(what, "--discard-data, if that is meant"));
            }
            let (configured, _) = latest(array).await?;
            let (pool, row) = find(&configured.tables, &name)?;
            let ask = RollBack {
                pool,
                snapshot: row.id,
            };
            let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
            let owner = owner(array, pool).await?;
            let rolled: RolledBack = array.ask(owner, ROLL_BACK, &ask, &ctx).await?;
            let text = format!("volume {} is what it was when {name} was taken\n", rolled.volume);
            Ok(Shown::new(text, &rolled))
        }
    }
}

/// The pool on which a snapshot is.
fn pool_of(tables: &Tables, row: &item::Snapshot) -> Option<PoolId> {
    let of_volume = row.volume.as_ref().and_then(|id| id.parse().ok());
    if let Some(volume) = of_volume.and_then(|id| tables.volumes.get(&id)) {
        return Some(volume.pool);
    }
    let of = row.file_system.as_ref()?;
    tables.items().find_map(|item| match item {
        Item::FileSystem(files) if files.id.to_string() == *of => files.pool.parse().ok(),
        _ => None,
    })
}

/// A snapshot of a volume, and the pool of that volume.
fn find(tables: &Tables, which: &str) -> Result<(PoolId, item::Snapshot), Error> {
    let found = tables.items().find_map(|item| match item {
        Item::Snapshot(row) if row.name == which || row.id.to_string() == which => {
            let volume = tables.volumes.get(&row.volume.as_ref()?.parse().ok()?)?;
            Some((volume.pool, row.clone()))
        }
        _ => None,
    });
    let missing = || {
        Error::failed(
            format!("there is no snapshot `{}` of a volume", which.escape_default()),
            "`pollux snapshot list` shows those that exist",
        )
    };
    found.ok_or_else(missing)
}

/// What the pool managers say.
async fn pools(array: &Array) -> Vec<(ControllerId, Status)> {
    let mut told = Vec::new();
    for at in ControllerId::ALL {
        if let Ok(status) = array.look::<Status>(at, STATUS).await {
            told.push((at, status));
        }
    }
    told
}

async fn owner(array: &Array, pool: PoolId) -> Result<ControllerId, Error> {
    let told = pools(array).await;
    let mut owners = told
        .iter()
        .filter(|(_, status)| status.imported.iter().any(|imported| imported.pool == pool));
    let none = || {
        Error::failed(
            format!("no controller that answers has pool {pool}"),
            "`pollux why` says what keeps it away",
        )
    };
    owners.next().map(|(at, _)| *at).ok_or_else(none)
}

async fn wait_stands(array: &Array, id: ItemId, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let told = pools(array).await;
        let mut imported = told.iter().flat_map(|(_, status)| &status.imported);
        if imported.any(|pool| pool.snapshots.contains(&id)) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn list(array: &Array) -> Result<Shown, Error> {
    let (configured, remark) = latest(array).await?;
    let tables = &configured.tables;
    let told = pools(array).await;
    let mut rows = Vec::new();
    let mut cells = Vec::new();
    for item in tables.items() {
        let (Item::Snapshot(row), Item::Snapshot(shown)) = (item, named(tables, item)) else {
            continue;
        };
        let of = match (&shown.volume, &shown.file_system) {
            (Some(volume), _) => format!("volume {volume}"),
            (None, Some(files)) => format!("file system {files}"),
            (None, None) => continue,
        };
        let mut imported = told.iter().flat_map(|(_, status)| &status.imported);
        let known = pool_of(tables, row);
        let state = match known.and_then(|pool| imported.find(|imported| imported.pool == pool)) {
            None => "unknown: nobody tells",
            Some(pool) if pool.snapshots.contains(&row.id) => "stands",
            Some(_) => "not taken",
        };
        cells.push(vec![
            row.name.clone(),
            of,
            row.taken_ms.to_string(),
            shown.schedule.clone().unwrap_or_else(|| "-".to_owned()),
            state.to_owned(),
        ]);
        rows.push(json!({ "snapshot": row, "state": state }));
    }
    let text = match rows.is_empty() {
        true => "no snapshot\n".to_owned(),
        false => table(&["NAME", "OF", "TAKEN (ms)", "SCHEDULE", "STATE"], &cells),
    };
    Ok(Shown::new(remark + &text, &rows))
}
