//! When snapshots are due, as a function of the configuration and the time of day.
//!
//! A schedule divides the time into slots: from `offset_minutes` after midnight UTC every `every_minutes`, and each day
//! anew where that is less than a day. In each slot there is one snapshot of each of its volumes and file systems; one that was missed,
//! because nobody served the pool, is taken as soon as somebody does. Beyond `keep` the oldest that the schedule took go.
//!
//! The owner of a pool asks the configuration for what is due; it takes the snapshots when the configuration has them. A
//! name says volume, slot and schedule, so that two owners who follow one another ask for the same.

use pollux_api::config::item::{Item, ItemId, Schedule, Snapshot};
use pollux_api::config::{Backend, Kind, Op, Tables};
use pollux_api::id::PoolId;
use std::collections::BTreeSet;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 24 * 60;
/// As much of its volume's name as stands in the name of its snapshots.
const NAME_PART: usize = 24;

/// The beginning of the slot in which `now` is, minutes since 1970 UTC.
#[must_use]
pub fn slot(now: u64, every: u64, offset: u64) -> u64 {
    let every = every.max(1);
    if every >= DAY_MINUTES {
        return now.saturating_sub(offset) / every * every + offset;
    }
    let midnight = now / DAY_MINUTES * DAY_MINUTES;
    match now.checked_sub(midnight + offset) {
        Some(since) => midnight + offset + since / every * every,
        // The last one of yesterday.
        None => {
            let day = midnight.saturating_sub(DAY_MINUTES) + offset;
            day + (DAY_MINUTES - 1 - offset) / every * every
        }
    }
}

/// What snapshots are taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    name: String,
    /// The volume, or the file system: one of the two.
    volume: Option<String>,
    file_system: Option<String>,
}

impl Origin {
    fn id(&self) -> &str {
        let id = self.volume.as_ref().or(self.file_system.as_ref());
        id.map_or("", String::as_str)
    }
}

/// What of a schedule is on these pools. Where mirrors of our own keep a pool there are no file systems.
fn origins(tables: &Tables, schedule: &Schedule, pools: &BTreeSet<PoolId>) -> Vec<Origin> {
    let volumes = schedule
        .volumes
        .iter()
        .filter_map(|id| tables.volumes.get(&id.parse().ok()?))
        .filter(|volume| pools.contains(&volume.pool))
        .map(|volume| Origin {
            name: volume.name.clone(),
            volume: Some(volume.id.to_string()),
            file_system: None,
        });
    let is_group = |pool: &PoolId| {
        let row = tables.pools.get(pool);
        row.is_some_and(|row| row.backend == Some(Backend::Lvm))
    };
    let files = tables.items().filter_map(|item| match item {
        Item::FileSystem(row) => {
            let (id, pool) = (row.id.to_string(), row.pool.parse().ok()?);
            let is_ours = schedule.file_systems.contains(&id) && pools.contains(&pool) && is_group(&pool);
            is_ours.then(|| Origin {
                name: row.name.clone(),
                volume: None,
                file_system: Some(id),
            })
        }
        _ => None,
    });
    volumes.chain(files).collect()
}

fn name(schedule: ItemId, origin: &Origin, slot: u64) -> String {
    let head = |id: &str| id.chars().take(8).collect::<String>();
    let part: String = origin.name.chars().take(NAME_PART).collect();
    let (by, of) = (head(&schedule.to_string()), head(origin.id()));
    format!("{part}-{slot}-{by}{of}")
}

fn of_schedule<'a>(tables: &'a Tables, schedule: &Schedule, origin: &Origin) -> Vec<&'a Snapshot> {
    let by = schedule.id.to_string();
    let is_of = |row: &Snapshot| {
        let same = row.volume == origin.volume && row.file_system == origin.file_system;
        same && row.schedule.as_ref() == Some(&by)
    };
    let mut found: Vec<&Snapshot> = tables
        .items()
        .filter_map(|item| match item {
            Item::Snapshot(row) if is_of(row) => Some(row),
            _ => None,
        })
        .collect();
    found.sort_by_key(|row| row.taken_ms);
    found
}

/// What the configuration is to be asked for now, for volumes and file systems of these pools.
#[must_use]
pub fn due(tables: &Tables, pools: &BTreeSet<PoolId>, now_ms: u64) -> Vec<Op> {
    let (mut made, mut ended) = (Vec::new(), Vec::new());
    let schedules = tables.items().filter_map(|item| match item {
        Item::Schedule(schedule) if schedule.enabled => Some(schedule),
        _ => None,
    });
    for schedule in schedules {
        let every = u64::from(schedule.every_minutes);
        let slot = slot(now_ms / MINUTE_MS, every, schedule.offset_minutes.into());
        for origin in origins(tables, schedule, pools) {
            let present = of_schedule(tables, schedule, &origin);
            let fresh = present.last().is_none_or(|row| row.taken_ms < slot * MINUTE_MS);
            if fresh {
                let item = Item::Snapshot(Snapshot {
                    name: name(schedule.id, &origin, slot),
                    volume: origin.volume.clone(),
                    file_system: origin.file_system.clone(),
                    taken_ms: now_ms,
                    schedule: Some(schedule.id.to_string()),
                    id: ItemId::default(),
                });
                made.push(Op::Set { item });
            }
            let stay = (schedule.keep as usize).saturating_sub(usize::from(fresh));
            let over = present.len().saturating_sub(stay);
            ended.extend(present.iter().take(over).map(|row| Op::Delete {
                kind: Kind::Snapshot,
                which: row.id.to_string(),
            }));
        }
    }
    made.append(&mut ended);
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::item::FileSystem;
    use pollux_api::config::{Class, Hex, Pool, Redundancy, Resource, RowOp, Volume};
    use pollux_api::id::{ControllerId, VolumeId};

    const POOL: PoolId = PoolId::from_bytes([2; 16]);
    const HOUR_MS: u64 = 60 * MINUTE_MS;

    fn tables(every_minutes: u32, keep: u32) -> Tables {
        let mut tables = Tables::default();
        let volume = |number: u8, pool| Volume {
            id: VolumeId::from_bytes([number; 16]),
            name: format!("volume-{number}"),
            pool,
            size_bytes: 1 << 20,
            serial: "0123456789abcdef".into(),
        };
        for row in [
            volume(1, POOL),
            volume(2, POOL),
            volume(3, PoolId::from_bytes([9; 16])),
        ] {
            tables.volumes.insert(row.id, row);
        }
        let schedule = Schedule {
            name: "often".into(),
            volumes: tables.volumes.keys().map(ToString::to_string).collect(),
            file_systems: vec![],
            every_minutes,
            offset_minutes: 0,
            keep,
            enabled: true,
            id: ItemId(Hex([7; 16])),
        };
        tables.apply(&RowOp::Put(Resource::Item(Item::Schedule(schedule))));
        tables
    }

    /// Does what is asked, as the keeper would.
    fn apply(tables: &mut Tables, ops: &[Op], number: &mut u8) {
        for op in ops {
            match op {
                Op::Set { item } => {
                    *number += 1;
                    let mut item = item.clone();
                    *item.id_mut() = ItemId(Hex([*number; 16]));
                    tables.apply(&RowOp::Put(Resource::Item(item)));
                }
                Op::Delete { kind, which } => {
                    let id = ItemId(which.parse().expect("an identity"));
                    tables.apply(&RowOp::Delete(pollux_api::config::Key::Item(*kind, id)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn slots_follow_the_day() {
        let day = 100 * DAY_MINUTES;
        for (now, every, offset, expected) in [
            (day, 60, 0, day),
            (day + 59, 60, 0, day),
            (day + 60, 60, 0, day + 60),
            (day + 10, 60, 15, day - DAY_MINUTES + 15 + 23 * 60),
            (day + 16, 60, 15, day + 15),
            // Seven hours do not divide a day: it begins anew.
            (day + 1439, 420, 0, day + 1260),
            (day + DAY_MINUTES, 420, 0, day + DAY_MINUTES),
            (7 * DAY_MINUTES + 5, 7 * DAY_MINUTES, 10, 10),
            (7 * DAY_MINUTES + 15, 7 * DAY_MINUTES, 10, 7 * DAY_MINUTES + 10),
        ] {
            assert_eq!(slot(now, every, offset), expected, "{now} {every} {offset}");
        }
    }

    #[test]
    fn one_in_each_slot_and_so_many_stay() {
        let mut tables = tables(60, 3);
        let pools = BTreeSet::from([POOL]);
        let mut number = 0;
        let begin = 1000 * DAY_MINUTES * MINUTE_MS;
        for hour in 0..6 {
            let now = begin + hour * HOUR_MS + 1234;
            let ops = due(&tables, &pools, now);
            let made = ops.iter().filter(|op| matches!(op, Op::Set { .. })).count();
            assert_eq!(made, 2, "both volumes of the pool, in one change; not the third");
            apply(&mut tables, &ops, &mut number);
            assert_eq!(
                due(&tables, &pools, now + HOUR_MS / 2),
                [],
                "nothing more in this slot"
            );
        }
        let stay: Vec<u64> = tables
            .items()
            .filter_map(|item| match item {
                Item::Snapshot(row) => Some((row.taken_ms - begin) / HOUR_MS),
                _ => None,
            })
            .collect();
        assert_eq!((stay.len(), stay.iter().min()), (6, Some(&3)));
        assert!(
            due(&tables, &BTreeSet::new(), begin * 2).is_empty(),
            "only of pools that are here"
        );
    }

    #[test]
    fn file_systems_are_kept_where_there_are_any() {
        let mut tables = tables(60, 1);
        let put = |tables: &mut Tables, row| tables.apply(&RowOp::Put(row));
        let group = PoolId::from_bytes([4; 16]);
        for (id, backend) in [(group, Some(Backend::Lvm)), (POOL, None)] {
            let pool = Pool {
                id,
                name: format!("pool-{id}"),
                class: Class::Fast,
                home: ControllerId::A,
                redundancy: Redundancy::Mirror,
                backend,
                disks: vec![],
                ready: None,
            };
            put(&mut tables, Resource::Pool(pool));
        }
        let ids = [20, 21].map(|number| ItemId(Hex([number; 16])));
        for (id, pool) in ids.into_iter().zip([group, POOL]) {
            let row = FileSystem {
                name: format!("files-{id}"),
                pool: pool.to_string(),
                quota_bytes: None,
                reserved_bytes: 0,
                id,
            };
            put(&mut tables, Resource::Item(Item::FileSystem(row)));
        }
        let schedule = tables.items().find_map(|item| match item {
            Item::Schedule(row) => Some(row.clone()),
            _ => None,
        });
        let schedule = Schedule {
            volumes: vec![],
            file_systems: ids.map(|id| id.to_string()).to_vec(),
            ..schedule.expect("one")
        };
        put(&mut tables, Resource::Item(Item::Schedule(schedule)));
        let pools = BTreeSet::from([POOL, group]);
        let begin = 1000 * DAY_MINUTES * MINUTE_MS;
        let mut number = 100;
        for hour in 0..2 {
            let ops = due(&tables, &pools, begin + hour * HOUR_MS);
            let made: Vec<_> = ops
                .iter()
                .filter_map(|op| match op {
                    Op::Set {
                        item: Item::Snapshot(row),
                    } => Some((row.volume.clone(), row.file_system.clone())),
                    _ => None,
                })
                .collect();
            assert_eq!(
                made,
                [(None, Some(ids[0].to_string()))],
                "not on a mirror of our own"
            );
            assert_eq!(ops.len() as u64, 1 + hour, "the one before goes");
            apply(&mut tables, &ops, &mut number);
        }
    }

    #[test]
    fn names_are_names() {
        let origin = Origin {
            name: "v".repeat(63),
            volume: Some(VolumeId::from_bytes([1; 16]).to_string()),
            file_system: None,
        };
        let name = name(ItemId(Hex([7; 16])), &origin, u64::from(u32::MAX));
        assert!(name.len() <= pollux_api::config::NAME_MAX, "{name}");
    }
}
