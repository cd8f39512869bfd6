//! `pollux pool|volume|host|map|address`: one thing of the configuration at a time.

use crate::array::{Array, CHANGE, QUESTION};
use crate::cli::{Address, Backend, Class, Host, Map, Pool, Provisioning, Redundancy, Switch, Volume};
use crate::error::Error;
use crate::pools;
use crate::print::{now_unix_ms, size, table};
use crate::space;
use crate::status::{latest, not_the_latest, snapshot};
use pollux_api::action::ActionId;
use pollux_api::config::{self, Change, Changed, Get, Kind, Op, Resource, RowOp, Snapshot, Tables};
use pollux_api::error::{Code, RpcError};
use pollux_api::size::Size;
use pollux_runtime::Ctx;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// What to show: text for people and the same as JSON.
#[derive(Debug)]
pub struct Shown {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
}

impl Shown {
    /// From a value that has a JSON form.
    pub fn new(text: String, value: &impl Serialize) -> Self {
        let json = serde_json::to_value(value).unwrap_or(Value::Null);
        Self { text, json }
    }
}

/// Locks that pass by themselves do so within this, ms: a keeper starts, an epoch is decided.
const PASSING_MS: u64 = 3_000;

/// Makes a change, once: what does not get through, or whose answer is lost, is asked again under the same action.
///
/// # Errors
/// What the config keeper refuses, with every problem.
pub async fn change(
    array: &Array,
    ops: Vec<Op>,
    action: Option<ActionId>,
) -> Result<(ActionId, Changed), Error> {
    change_from(array, ops, None, action).await
}

/// The same, if the last change has that index.
pub(crate) async fn change_from(
    array: &Array,
    ops: Vec<Op>,
    expected_index: Option<u64>,
    action: Option<ActionId>,
) -> Result<(ActionId, Changed), Error> {
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let request = Change {
        ops,
        expected_index,
        dry_run: false,
    };
    let mut at = array.here;
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match array.ask::<_, Changed>(at, config::CHANGE, &request, &ctx).await {
            Ok(changed) => return Ok((ctx.action, changed)),
            Err(error) => error,
        };
        let again = error.is_transient() || error.is(Code::InDoubt) || is_passing(&error);
        // A service that is being started again needs about a second; more is for the operator to decide.
        if !again || ctx.remaining() + Duration::from_secs(10) < CHANGE {
            let mut error = error;
            if again && !error.is(Code::ConfigLocked) {
                error.data.remedy = format!("{}; repeat it with --action {}", error.data.remedy, ctx.action);
            }
            return Err(error.into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
        // Either controller carries a change to the sequencer.
        at = at.partner();
    }
}

/// A lock so young that it may be that of a keeper which has just started, or of an epoch that is being decided.
fn is_passing(error: &RpcError) -> bool {
    let young = |since| now_unix_ms().saturating_sub(since) < PASSING_MS;
    error.is(Code::ConfigLocked) && error.data.since_ms.is_some_and(young)
}

async fn changed(array: &Array, op: Op, action: Option<ActionId>, what: String) -> Result<Shown, Error> {
    let (action, changed) = change(array, vec![op], action).await?;
    Ok(done(action, &changed, &what))
}

pub(crate) fn done(action: ActionId, changed: &Changed, what: &str) -> Shown {
    let alone = if changed.alone {
        "; durable on one controller only, which is alone"
    } else {
        ""
    };
    let text = format!("{what}{alone}\n  index {}, action {action}\n", changed.index);
    Shown {
        text,
        json: json!({ "action_id": action, "changed": changed }),
    }
}

/// `pollux pool`
///
/// # Errors
/// What the config keeper refuses.
pub async fn pool(array: &Array, command: Pool, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Pool::Create {
            name,
            class,
            home,
            redundancy,
            backend,
            disks,
            dry_run,
            wait,
        } => {
            let class = match class {
                Class::Fast => config::Class::Fast,
                Class::Ordinary => config::Class::Ordinary,
            };
            let redundancy = match redundancy {
                Redundancy::Mirror => config::Redundancy::Mirror,
                Redundancy::Single => config::Redundancy::Single,
            };
            let backend = backend.map(|backend| match backend {
                Backend::Embedded => config::Backend::Embedded,
                Backend::Lvm => config::Backend::Lvm,
            });
            let new = pools::New {
                name,
                class,
                home,
                redundancy,
                backend,
                disks,
            };
            pools::create(array, new, (dry_run, wait), action).await
        }
        Pool::List => list(array, Kind::Pool).await,
        Pool::Show { name } => {
            let shown = show(array, Kind::Pool, &name).await?;
            Ok(pools::with_made(array, shown).await)
        }
        Pool::Home { name, home } => {
            let what = format!("the home of pool {name} is {home}; `pollux giveback {name}` moves it there");
            changed(array, Op::SetHome { pool: name, home }, action, what).await
        }
        Pool::ReplaceDisk {
            name,
            disk,
            dry_run,
            yes,
        } => pools::replace_disk(array, (&name, disk), (dry_run, yes), action).await,
        Pool::Delete { name } => delete(array, Kind::Pool, name, action).await,
    }
}

/// Waits until a new pool has been imported for the first time.
pub(crate) async fn wait_ready(array: &Array, name: &str, patience: Duration) -> Option<config::PoolSpace> {
    let end = Instant::now() + patience;
    loop {
        let space = snapshot(array).await.ok().and_then(|snapshot| {
            snapshot
                .tables
                .pools
                .values()
                .find(|pool| pool.name == name)
                .and_then(|pool| pool.ready)
        });
        if space.is_some() || Instant::now() >= end {
            return space;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `pollux volume`
///
/// # Errors
/// What the config keeper refuses.
pub async fn volume(array: &Array, command: Volume, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Volume::Create {
            name,
            pool,
            size: Size(size_bytes),
            thin: true,
        } => space::create_thin(array, (name, pool, size_bytes), action).await,
        Volume::Create {
            name,
            pool,
            size: Size(size_bytes),
            thin: false,
        } => {
            let what = format!("volume {name} made on pool {pool}, {}", size(size_bytes));
            changed(
                array,
                Op::CreateVolume {
                    name,
                    pool,
                    size_bytes,
                },
                action,
                what,
            )
            .await
        }
        Volume::List => list(array, Kind::Volume).await,
        Volume::Show { name } => show(array, Kind::Volume, &name).await,
        Volume::Resize {
            name,
            size: Size(size_bytes),
        } => {
            let what = format!("volume {name} has {}", size(size_bytes));
            changed(
                array,
                Op::ResizeVolume {
                    volume: name,
                    size_bytes,
                },
                action,
                what,
            )
            .await
        }
        Volume::Convert { name, to } => space::convert(array, &name, to == Provisioning::Thin, action).await,
        Volume::WriteCache { name, to } => space::cache_writes(array, &name, to == Switch::On, action).await,
        Volume::Delete { name } => {
            let (ops, as_of) = space::delete_volume(array, &name).await?;
            let (action, changed) = change_from(array, ops, as_of, action).await?;
            Ok(done(action, &changed, &format!("volume {name} deleted")))
        }
    }
}

/// `pollux host`
///
/// # Errors
/// What the config keeper refuses.
pub async fn host(array: &Array, command: Host, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Host::Create { name, iqn } => {
            let what = format!("host {name} made");
            changed(array, Op::CreateHost { name, iqns: iqn }, action, what).await
        }
        Host::List => list(array, Kind::Host).await,
        Host::Show { name } => show(array, Kind::Host, &name).await,
        Host::Delete { name } => delete(array, Kind::Host, name, action).await,
    }
}

/// `pollux map`
///
/// # Errors
/// What the config keeper refuses.
pub async fn map(array: &Array, command: Map, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Map::Create { volume, host, lun } => {
            let op = Op::Map {
                volume: volume.clone(),
                host: host.clone(),
                lun,
            };
            let (action, changed) = change(array, vec![op], action).await?;
            let given = changed.rows.iter().find_map(|row| match row {
                RowOp::Put(Resource::Mapping(mapping)) => Some(mapping.lun.to_string()),
                _ => None,
            });
            let lun = given.unwrap_or_else(|| "the number it had".to_owned());
            Ok(done(
                action,
                &changed,
                &format!("host {host} sees volume {volume} as LUN {lun}"),
            ))
        }
        Map::List => list(array, Kind::Mapping).await,
        Map::Show { name } => {
            let (snapshot, remark) = latest(array).await?;
            let tables = &snapshot.tables;
            let rows: Vec<&config::Mapping> = tables
                .mappings
                .values()
                .filter(|row| {
                    let (volume, host) = names(tables, row);
                    [volume, host, row.volume.to_string(), row.host.to_string()].contains(&name)
                })
                .collect();
            if rows.is_empty() {
                let what = format!("no mapping of a volume or host `{name}`");
                return Err(Error::failed(what, "`pollux map list` shows all"));
            }
            let cells: Vec<Vec<String>> = rows.iter().map(|row| mapping_cells(tables, row)).collect();
            Ok(Shown::new(remark + &table(MAPPING, &cells), &rows))
        }
        Map::Delete { volume, host } => {
            let what = format!("host {host} does not see volume {volume} any more");
            changed(array, Op::Unmap { volume, host }, action, what).await
        }
    }
}

/// `pollux address`
///
/// # Errors
/// What the config keeper refuses.
pub async fn address(array: &Array, command: Address, action: Option<ActionId>) -> Result<Shown, Error> {
    match command {
        Address::Create { address: cidr, pool } => {
            let what = format!("address {cidr} moves with pool {pool}");
            changed(array, Op::CreateAddress { pool, cidr }, action, what).await
        }
        Address::List => list(array, Kind::Address).await,
        Address::Show { address } => show(array, Kind::Address, &address).await,
        Address::Delete { address } => delete(array, Kind::Address, address, action).await,
    }
}

async fn delete(array: &Array, kind: Kind, which: String, action: Option<ActionId>) -> Result<Shown, Error> {
    let what = format!("{} {which} deleted", kind.as_str());
    changed(array, Op::Delete { kind, which }, action, what).await
}

const MAPPING: &[&str] = &["HOST", "LUN", "VOLUME"];

fn names(tables: &Tables, row: &config::Mapping) -> (String, String) {
    let volume = tables
        .volumes
        .get(&row.volume)
        .map_or_else(|| row.volume.to_string(), |volume| volume.name.clone());
    let host = tables
        .hosts
        .get(&row.host)
        .map_or_else(|| row.host.to_string(), |host| host.name.clone());
    (volume, host)
}

fn mapping_cells(tables: &Tables, row: &config::Mapping) -> Vec<String> {
    let (volume, host) = names(tables, row);
    vec![host, row.lun.to_string(), volume]
}

pub(crate) fn pool_name(tables: &Tables, id: pollux_api::id::PoolId) -> String {
    tables
        .pools
        .get(&id)
        .map_or_else(|| id.to_string(), |pool| pool.name.clone())
}

async fn list(array: &Array, kind: Kind) -> Result<Shown, Error> {
    let (snapshot, remark) = latest(array).await?;
    let rows = snapshot.tables.of_kind(kind);
    let text = remark + &listing(&snapshot, kind, &rows);
    let json = json!({ "controller": snapshot.controller, "as_of": snapshot.as_of, "rows": rows });
    Ok(Shown { text, json })
}

/// Rows of one kind as a table, and whose view it is.
pub(crate) fn listing(snapshot: &Snapshot, kind: Kind, rows: &[Resource]) -> String {
    let tables = &snapshot.tables;
    let heading: &[&str] = match kind {
        Kind::Pool => &["NAME", "CLASS", "HOME", "REDUNDANCY", "USED", "CAPACITY", "DISKS"],
        Kind::Volume => &["NAME", "POOL", "SIZE", "SPACE", "CACHE", "SERIAL"],
        Kind::Host => &["NAME", "INITIATORS"],
        Kind::Mapping => MAPPING,
        Kind::Address => &["ADDRESS", "POOL"],
        _ => &["NAME", "SETTINGS"],
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| match row {
            Resource::Pool(pool) => vec![
                pool.name.clone(),
                word(&pool.class),
                pool.home.to_string(),
                word(&pool.redundancy),
                size(tables.used_bytes(pool.id)),
                pool.ready
                    .map_or_else(|| "not ready".to_owned(), |space| size(space.capacity_bytes)),
                pool.disks
                    .iter()
                    .map(|disk| disk.get().to_string())
                    .collect::<Vec<_>>()
                    .join(","),
            ],
            Resource::Volume(volume) => vec![
                volume.name.clone(),
                pool_name(tables, volume.pool),
                size(volume.size_bytes),
                if space::is_thin(tables, &volume.name) {
                    "thin".to_owned()
                } else {
                    "thick".to_owned()
                },
                if space::is_cached(tables, &volume.name) {
                    "on".to_owned()
                } else {
                    "off".to_owned()
                },
                volume.serial.clone(),
            ],
            Resource::Host(host) => vec![host.name.clone(), host.iqns.join(" ")],
            Resource::Mapping(mapping) => mapping_cells(tables, mapping),
            Resource::Address(address) => vec![address.cidr.clone(), pool_name(tables, address.pool)],
            Resource::Item(_) => crate::item::cells(tables, row),
        })
        .collect();
    let mut text = if rows.is_empty() {
        format!("no {}\n", kind.as_str())
    } else {
        table(heading, &cells)
    };
    let _ = writeln!(
        text,
        "{} in all, as controller {} has it at index {}",
        rows.len(),
        snapshot.controller,
        snapshot.as_of
    );
    text
}

/// The word of an enum of the contract.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

async fn show(array: &Array, kind: Kind, which: &str) -> Result<Shown, Error> {
    let get = async |stale_ok| -> Result<Resource, RpcError> {
        let which = which.to_owned();
        let get = Get {
            kind,
            which,
            stale_ok,
        };
        array
            .ask(array.here, config::GET, &get, &Ctx::new(QUESTION))
            .await
    };
    let (row, mut text) = match get(false).await {
        Ok(row) => (row, String::new()),
        Err(missing) if missing.is(Code::NotFound) => return Err(missing.into()),
        Err(unsure) => {
            let known = get(true).await?;
            (known, not_the_latest(&unsure, array.here, None))
        }
    };
    let json = serde_json::to_value(&row).unwrap_or(Value::Null);
    if let Value::Object(members) = &json {
        for (name, value) in members {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Null if name == "ready" => "no: it was never imported".to_owned(),
                other => other.to_string(),
            };
            let _ = writeln!(text, "{name:<12} {value}");
        }
    }
    Ok(Shown { text, json })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_young_lock_is_asked_again() {
        let locked = |since| RpcError::new(Code::ConfigLocked, "a/config", "locked").since_ms(since);
        assert!(is_passing(&locked(now_unix_ms())));
        assert!(!is_passing(&locked(now_unix_ms() - 2 * PASSING_MS)));
        assert!(!is_passing(&RpcError::new(
            Code::ConfigLocked,
            "a/config",
            "locked"
        )));
        assert!(!is_passing(
            &RpcError::new(Code::Conflict, "a/config", "no").since_ms(now_unix_ms())
        ));
    }
}
