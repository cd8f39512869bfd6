//! Space of pools, as far as hosts hear of it: which volumes are thin, and that a pool runs out of space.
//!
//! The owner's pool manager says when free space gets below the threshold; the targets of both controllers listen to
//! both pool managers, so that every session on either port is told.

use super::BLOCK_SIZE;
use super::world::World;
use crate::scsi::provisioning::Provisioning;
use pollux_api::config::item::{Item, Rule};
use pollux_api::config::{Tables, Volume};
use pollux_api::pool::{EVENTS, PoolEvent, SERVICE};
use pollux_runtime::{Client, Update};
use std::sync::Arc;
use std::time::Duration;

/// Free space in percent below which hosts are told, until the configuration has said another figure; the pool manager's.
const LOW_PERCENT: u8 = 10;
/// Pause before a subscription that the router has refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How a volume of the configuration has its space.
pub(super) fn provisioning(tables: &Tables, row: &Volume) -> Provisioning {
    let id = row.id.to_string();
    let mut found = Provisioning {
        low_percent: LOW_PERCENT,
        ..Provisioning::default()
    };
    for item in tables.items() {
        match item {
            Item::Settings(settings) if settings.service == SERVICE => {
                // Several settings of one service may stand side by side; the pool manager takes all of them.
                found.thin |= settings.thin.contains(&id)
            }
            Item::Policy(policy) => {
                if let Rule::Alarms {
                    pool_free_percent, ..
                } = policy.rule
                {
                    found.low_percent = pool_free_percent;
                }
            }
            _ => {}
        }
    }
    if let Some(space) = tables.pools.get(&row.pool).and_then(|pool| pool.ready) {
        let blocks = space.extent_bytes / u64::from(BLOCK_SIZE);
        found.extent_blocks = u32::try_from(blocks).unwrap_or(0);
        found.pool_extents = space.capacity_bytes / space.extent_bytes.max(1);
    }
    found
}

/// Whether the operator lets writes to a volume stay in the disks' caches.
pub(super) fn write_cache(tables: &Tables, row: &Volume) -> bool {
    let id = row.id.to_string();
    tables.items().any(|item| match item {
        Item::Settings(settings) => settings.service == SERVICE && settings.write_cache.contains(&id),
        _ => false,
    })
}

/// Tells hosts what a pool manager says of space, for ever. `topic`: its events, own or the partner's.
pub(super) async fn tell(client: Client, world: Arc<World>, topic: String) {
    loop {
        client.connected().await;
        let mut events = match client.subscribe(&topic).await {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(topic, %error, "no word of the space of pools");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        loop {
            match events.next::<PoolEvent>().await {
                Some(Ok(Update::Event {
                    payload: PoolEvent::Space { pool, low: true, .. },
                    ..
                })) => {
                    let told = world.target().attend_space(&world.paths(pool));
                    tracing::info!(%pool, told, "hosts hear that space runs out");
                }
                // The next crossing is heard; until then the operator sees the state.
                Some(Ok(Update::Event { .. } | Update::Gap)) => {}
                Some(Err(error)) => tracing::debug!(topic, %error, "an event that cannot be read"),
                None => break,
            }
        }
    }
}

/// The topics on which both pool managers speak.
pub(super) fn topics() -> [String; 2] {
    [EVENTS.to_owned(), format!("partner/{EVENTS}")]
}
