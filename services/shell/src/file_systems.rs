//! `pollux file-system`: what files are kept in, on a pool that a volume group keeps.
//!
//! A file system is an item of the configuration; the owner of its pool makes and mounts it once the configuration has it, so
//! the command waits until the owner says where it is. As of volumes: it grows and does not shrink.

use crate::array::{Array, BOTH, CHANGE};
use crate::cli::FileSystem;
use crate::error::Error;
use crate::print::{size, table};
use crate::resources::{Shown, change_from, done, pool_name};
use crate::status::latest;
use pollux_api::action::ActionId;
use pollux_api::config::item::{self, Item, ItemId};
use pollux_api::config::{self, Backend, Kind, Op, Resource, RowOp, Tables};
use pollux_api::id::PoolId;
use pollux_api::lvm::{FILE_SYSTEM_MIN, Files};
use pollux_api::pool::{ImportedPool, STATUS, Status};
use pollux_api::size::Size;
use pollux_config_document::named;
use pollux_runtime::Ctx;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// How a change is gone about.
#[derive(Clone, Copy)]
struct How {
    dry_run: bool,
    wait: u64,
    action: Option<ActionId>,
}

/// `pollux file-system`
///
/// # Errors
/// What the config keeper refuses, or what makes no sense.
pub async fn run(array: &Array, command: FileSystem, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        FileSystem::Create {
            name,
            pool,
            size,
            dry_run,
            wait,
        } => {
            let how = How {
                dry_run,
                wait,
                action,
            };
            create(array, (name, &pool, size), how).await
        }
        FileSystem::List => list(array).await,
        FileSystem::Show { name } => show(array, &name).await,
        FileSystem::Resize {
            name,
            size,
            dry_run,
            wait,
        } => {
            let how = How {
                dry_run,
                wait,
                action,
            };
            resize(array, &name, size, how).await
        }
        FileSystem::Delete {
            name,
            discard_data,
            dry_run,
        } => {
            if !discard_data && !dry_run {
                let what = format!("the data of file system {name} would be lost; nothing was done");
                return Err(Error::usage(what, "--discard-data, if that is meant"));
            }
            let (snapshot, _) = latest(array).await?;
            let row = find(&snapshot.tables, &name)?;
            let op = Op::Delete {
                kind: Kind::FileSystem,
                which: row.id.to_string(),
            };
            let what = format!("file system {} deleted", row.name);
            match dry_run {
                true => try_out(array, op, snapshot.as_of, &what).await,
                false => {
                    let (action, changed) =
                        change_from(array, vec![op], Some(snapshot.as_of), action).await?;
                    Ok(done(action, &changed, &what))
                }
            }
        }
    }
}

fn rows(tables: &Tables) -> impl Iterator<Item = &item::FileSystem> {
    tables.items().filter_map(|item| match item {
        Item::FileSystem(row) => Some(row),
        _ => None,
    })
}

fn find<'a>(tables: &'a Tables, which: &str) -> Result<&'a item::FileSystem, Error> {
    let found = rows(tables).find(|row| row.name == which || row.id.to_string() == which);
    found.ok_or_else(|| {
        Error::failed(
            format!("there is no file system `{}`", which.escape_default()),
            "`pollux file-system list` shows those that exist",
        )
    })
}

/// Pools as their owners have them.
async fn imported(array: &Array) -> Vec<ImportedPool> {
    let mut pools = Vec::new();
    for at in BOTH {
        let status = array.look::<Status>(at, STATUS).await.ok();
        pools.extend(status.into_iter().flat_map(|status| status.imported));
    }
    pools
}

/// Where something is, as the owner of its pool says.
fn where_is(pools: &[ImportedPool], id: ItemId) -> Option<&Files> {
    let mut files = pools.iter().flat_map(|pool| &pool.files);
    files.find(|files| files.id == id)
}

/// A file system of that size can be made on that pool.
fn may_make(pool: &config::Pool, pools: &[ImportedPool], size: Option<Size>) -> Result<(), Error> {
    let made = pools.iter().find(|made| made.pool == pool.id);
    let backend = made.and_then(|made| Some(made.made?.backend)).or(pool.backend);
    if backend.unwrap_or(Backend::Embedded) != Backend::Lvm {
        let what = format!(
            "pool {} is no volume group of the kernel: there are no file systems on it",
            pool.name
        );
        return Err(Error::failed(what, "a pool that is made with `--backend lvm`"));
    }
    match size {
        Some(Size(bytes)) if bytes < FILE_SYSTEM_MIN => Err(Error::usage(
            format!("a file system of {}", Size(bytes)),
            format!("{} at least: a smaller XFS is not made", Size(FILE_SYSTEM_MIN)),
        )),
        _ => Ok(()),
    }
}

async fn create(
    array: &Array,
    (name, pool, size): (String, &str, Option<Size>),
    how: How,
) -> Result<Shown, Error> {
    let (snapshot, _) = latest(array).await?;
    let tables = &snapshot.tables;
    let mut pools = tables.pools.values();
    let Some(row) = pools.find(|row| row.name == pool || row.id.to_string() == pool) else {
        return Err(Error::failed(
            format!("there is no pool `{}`", pool.escape_default()),
            "`pollux pool list` shows those that exist",
        ));
    };
    if find(tables, &name).is_ok() {
        let what = format!("a file system {name} exists");
        return Err(Error::usage(what, "a name that is free"));
    }
    may_make(row, &imported(array).await, size)?;
    let item = Item::FileSystem(item::FileSystem {
        name: name.clone(),
        pool: row.id.to_string(),
        quota_bytes: size.map(|Size(bytes)| bytes),
        reserved_bytes: 0,
        id: ItemId::default(),
    });
    let room = size.map_or_else(
        || "as large as the pool".to_owned(),
        |Size(bytes)| self::size(bytes),
    );
    let what = format!("file system {name} made on pool {}, {room}", row.name);
    bring(array, item, snapshot.as_of, &what, how).await
}

/// A file system with another size: larger, and one that has a size at all.
fn larger(row: &item::FileSystem, Size(bytes): Size) -> Result<item::FileSystem, Error> {
    match row.quota_bytes {
        None => Err(Error::usage(
            format!("file system {} is as large as its pool", row.name),
            "nothing: it has all there is",
        )),
        Some(now) if bytes < now => Err(Error::usage(
            format!(
                "file system {} has {}, and XFS does not shrink",
                row.name,
                Size(now)
            ),
            format!("{} or more", Size(now)),
        )),
        Some(_) => Ok(item::FileSystem {
            quota_bytes: Some(bytes),
            ..row.clone()
        }),
    }
}

async fn resize(array: &Array, which: &str, size: Size, how: How) -> Result<Shown, Error> {
    let (snapshot, _) = latest(array).await?;
    let row = larger(find(&snapshot.tables, which)?, size)?;
    let what = format!("file system {} has {size}", row.name);
    bring(array, Item::FileSystem(row), snapshot.as_of, &what, how).await
}

/// Says what a change would be, if it can be made.
async fn try_out(array: &Array, op: Op, as_of: u64, what: &str) -> Result<Shown, Error> {
    let request = config::Change {
        ops: vec![op],
        expected_index: Some(as_of),
        dry_run: true,
    };
    let ctx = Ctx::new(CHANGE);
    let asked: Result<config::Changed, _> = array.ask(array.here, config::CHANGE, &request, &ctx).await;
    asked?;
    Ok(Shown {
        text: format!("would be done: {what}\nnothing was done\n"),
        json: json!({ "dry_run": true }),
    })
}

/// Makes a file system what it is to be, and waits until its owner has it so.
async fn bring(array: &Array, item: Item, as_of: u64, what: &str, how: How) -> Result<Shown, Error> {
    let wanted = match &item {
        Item::FileSystem(row) => row.quota_bytes.unwrap_or(0),
        _ => 0,
    };
    let known = item.id();
    let op = Op::Set { item };
    if how.dry_run {
        return try_out(array, op, as_of, what).await;
    }
    let (action, changed) = change_from(array, vec![op], Some(as_of), how.action).await?;
    let made = changed.rows.iter().find_map(|row| match row {
        RowOp::Put(Resource::Item(item)) => Some(item.id()),
        _ => None,
    });
    let id = made.unwrap_or(known);
    let mut shown = done(action, &changed, what);
    let files = wait_mounted(array, id, wanted, Duration::from_secs(how.wait)).await;
    shown.text += &match files.as_ref().and_then(|files| files.path.as_ref()) {
        Some(path) => format!("  mounted at {path} on the owner of its pool\n"),
        None => {
            "  not so yet: `pollux file-system list` says when; the journal of pool-managerd says why not\n"
                .to_owned()
        }
    };
    shown.json["files"] = serde_json::to_value(&files).unwrap_or(Value::Null);
    Ok(shown)
}

/// Waits until a file system is mounted, and has so many bytes.
async fn wait_mounted(array: &Array, id: ItemId, bytes: u64, patience: Duration) -> Option<Files> {
    let end = Instant::now() + patience;
    loop {
        let pools = imported(array).await;
        let found = where_is(&pools, id).filter(|files| files.path.is_some() && files.size_bytes >= bytes);
        if found.is_some() || Instant::now() >= end {
            return found.cloned();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn list(array: &Array) -> Result<Shown, Error> {
    let (snapshot, remark) = latest(array).await?;
    let (tables, pools) = (&snapshot.tables, imported(array).await);
    let mut cells = Vec::new();
    for row in rows(tables) {
        let pool: Option<PoolId> = row.pool.parse().ok();
        let found = where_is(&pools, row.id);
        let path = found.and_then(|files| files.path.clone());
        cells.push(vec![
            row.name.clone(),
            pool.map_or_else(|| row.pool.clone(), |pool| pool_name(tables, pool)),
            row.quota_bytes.map_or_else(|| "as its pool".to_owned(), size),
            path.unwrap_or_else(|| "not mounted, or nobody tells".to_owned()),
        ]);
    }
    let text = match cells.is_empty() {
        true => "no file system\n".to_owned(),
        false => table(&["NAME", "POOL", "SIZE", "MOUNTED ON ITS OWNER AT"], &cells),
    };
    let json: Vec<Value> = rows(tables)
        .map(|row| json!({ "file_system": row, "files": where_is(&pools, row.id) }))
        .collect();
    Ok(Shown::new(remark + &text, &json))
}

async fn show(array: &Array, which: &str) -> Result<Shown, Error> {
    let (snapshot, remark) = latest(array).await?;
    let (tables, pools) = (&snapshot.tables, imported(array).await);
    let row = find(tables, which)?;
    let place = |id| {
        let path = where_is(&pools, id).and_then(|files| files.path.clone());
        path.unwrap_or_else(|| "not mounted, or nobody tells".to_owned())
    };
    let mut text = remark;
    let shown = match named(tables, &Item::FileSystem(row.clone())) {
        Item::FileSystem(shown) => shown,
        _ => row.clone(),
    };
    let room = row.quota_bytes.map_or_else(|| "as its pool".to_owned(), size);
    for (name, value) in [
        ("name", &shown.name),
        ("pool", &shown.pool),
        ("size", &room),
        ("mounted", &place(row.id)),
    ] {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    let of = row.id.to_string();
    let snapshots = tables.items().filter_map(|item| match item {
        Item::Snapshot(snapshot) if snapshot.file_system.as_ref() == Some(&of) => Some(snapshot),
        _ => None,
    });
    for snapshot in snapshots {
        let _ = writeln!(
            text,
            "  snapshot {}: {}, only to be read",
            snapshot.name,
            place(snapshot.id)
        );
    }
    let json = json!({ "file_system": row, "files": where_is(&pools, row.id) });
    Ok(Shown { text, json })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::{Class, Redundancy};
    use pollux_api::id::ControllerId;

    fn pool(backend: Option<Backend>) -> config::Pool {
        config::Pool {
            id: PoolId::from_bytes([1; 16]),
            name: "fast".to_owned(),
            class: Class::Fast,
            home: ControllerId::A,
            redundancy: Redundancy::Mirror,
            backend,
            disks: Vec::new(),
            ready: None,
        }
    }

    #[test]
    fn a_file_system_is_on_a_volume_group_and_not_too_small() {
        for backend in [None, Some(Backend::Embedded)] {
            let error = may_make(&pool(backend), &[], None).expect_err("no volume group");
            assert!(error.to_string().contains("--backend lvm"), "{error}");
        }
        let group = pool(Some(Backend::Lvm));
        assert!(may_make(&group, &[], None).is_ok());
        assert!(may_make(&group, &[], Some(Size(FILE_SYSTEM_MIN))).is_ok());
        let error = may_make(&group, &[], Some(Size(FILE_SYSTEM_MIN - 1))).expect_err("too small");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn it_grows_and_does_not_shrink() {
        let row = |quota_bytes| item::FileSystem {
            name: "home".to_owned(),
            pool: String::new(),
            quota_bytes,
            reserved_bytes: 0,
            id: ItemId::default(),
        };
        let grown = larger(&row(Some(1 << 30)), Size(2 << 30)).expect("larger");
        assert_eq!(grown.quota_bytes, Some(2 << 30));
        let error = larger(&row(Some(1 << 30)), Size(1 << 20)).expect_err("smaller");
        assert!(error.to_string().contains("does not shrink"), "{error}");
        assert!(larger(&row(None), Size(1 << 40)).is_err());
    }
}
