//! What the kernel says of mapped devices: the lines of `dmsetup`, without a question to any disk.

use crate::names;
use pollux_api::id::{DiskIndex, PoolId};
use pollux_api::lvm::{Health, Leg, State};
use std::collections::BTreeMap;

/// Bytes of a sector in tables of the device mapper.
pub const SECTOR: u64 = 512;
/// Bytes of a block of a thin pool's map.
const MAP_BLOCK: u64 = 4096;

/// Number of a device: major, minor.
pub type Number = (u32, u32);

/// Where a gate leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// To a disk: its number, the first sector, and how many.
    Open {
        /// The disk.
        disk: Number,
        /// The first sector of it that belongs to the gate.
        from: u64,
        /// How many.
        sectors: u64,
    },
    /// Nowhere: it has been cut.
    Cut,
}

/// One mapped device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapped {
    number: Number,
    /// Sectors, and the words of its table behind them.
    table: (u64, Vec<String>),
    /// The words of its status.
    status: Vec<String>,
}

/// Mapped devices of the kernel, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    mapped: BTreeMap<String, Mapped>,
}

fn device(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Name, sectors and the words behind, of a line of `dmsetup table` or `dmsetup status`. Devices of several parts are
/// none of ours, and only their first part is kept.
fn line(text: &str) -> Option<(String, u64, Vec<String>)> {
    let (name, rest) = text.split_once(": ")?;
    let mut words = rest.split_whitespace();
    let _start = words.next()?;
    let sectors = words.next()?.parse().ok()?;
    Some((name.to_owned(), sectors, words.map(str::to_owned).collect()))
}

impl Kernel {
    /// From `dmsetup info -c --noheadings --separator , -o name,major,minor`, `dmsetup table` and
    /// `dmsetup status --noflush`. A device that came or went between the three is not in it.
    #[must_use]
    pub fn read(info: &str, table: &str, status: &str) -> Self {
        let mut mapped = BTreeMap::new();
        let tables: BTreeMap<_, _> = (table.lines().rev().filter_map(line))
            .map(|(name, sectors, words)| (name, (sectors, words)))
            .collect();
        let statuses: BTreeMap<_, _> = (status.lines().rev().filter_map(line))
            .map(|(name, _, words)| (name, words))
            .collect();
        for row in info.lines() {
            let mut words = row.trim().split(',');
            let (Some(name), Some(major), Some(minor)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
                continue;
            };
            let (table, status) = (tables.get(name).cloned(), statuses.get(name).cloned());
            mapped.insert(
                name.to_owned(),
                Mapped {
                    number: (major, minor),
                    table: table.unwrap_or_default(),
                    status: status.unwrap_or_default(),
                },
            );
        }
        Kernel { mapped }
    }

    /// Every pool of which something stands here.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolId> {
        let mut pools: Vec<_> = self
            .mapped
            .keys()
            .filter_map(|name| names::pool_of(name))
            .collect();
        pools.sort_unstable();
        pools.dedup();
        pools
    }

    /// Devices of a pool, those that stand on others first as far as names tell: volumes, the thin pool, its parts, gates.
    #[must_use]
    pub fn of(&self, pool: PoolId) -> Vec<String> {
        let mut own: Vec<_> = (self.mapped.iter())
            .filter(|(name, _)| names::pool_of(name) == Some(pool))
            .collect();
        // LVM makes what lies below first, and the kernel counts upwards.
        own.sort_by_key(|(name, mapped)| (names::is_gate(name), std::cmp::Reverse(mapped.number)));
        own.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Whether anything of a pool stands here beside its gates.
    #[must_use]
    pub fn is_active(&self, pool: PoolId) -> bool {
        self.of(pool).iter().any(|name| !names::is_gate(name))
    }

    /// The gates of a pool.
    #[must_use]
    pub fn gates(&self, pool: PoolId) -> BTreeMap<DiskIndex, Gate> {
        let gate = |(name, mapped): (&String, &Mapped)| {
            let (of, slot) = names::of_gate(name)?;
            (of == pool).then(|| (slot, mapped.gate()))
        };
        self.mapped.iter().filter_map(gate).collect()
    }

    /// The number of a device.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<Number> {
        self.mapped.get(name).map(|mapped| mapped.number)
    }

    /// A device of that name stands here.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.mapped.contains_key(name)
    }

    fn by_number(&self, number: Number) -> Option<(&String, &Mapped)> {
        self.mapped.iter().find(|(_, mapped)| mapped.number == number)
    }

    /// What stands of an active group; `None` where there is no thin pool.
    #[must_use]
    pub fn state(&self, pool: PoolId) -> Option<State> {
        // In which no volume was made yet, the pool's own name stands for it (`lv_is_new_thin_pool` in LVM's lib/metadata).
        let thin = |mapped: &&Mapped| mapped.table.1.first().is_some_and(|target| target == "thin-pool");
        let tpool = ["pool-tpool", "pool"]
            .iter()
            .find_map(|name| self.mapped.get(&names::mapped(pool, name)).filter(thin))?;
        let block = tpool.table.1.get(3).and_then(|word| word.parse::<u64>().ok())? * SECTOR;
        let mut state = State {
            capacity_bytes: tpool.table.0 * SECTOR,
            used_bytes: 0,
            map_capacity_bytes: 0,
            map_used_bytes: 0,
            writable: false,
            legs: Vec::new(),
        };
        // thin-pool <transaction> <used>/<total of the map> <used>/<total of data> <held root> rw|ro|out_of_data_space ...
        let pair = |at: usize| {
            let (used, total) = tpool.status.get(at)?.split_once('/')?;
            Some((used.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
        };
        if let (Some(map), Some(data)) = (pair(2), pair(3)) {
            (state.map_used_bytes, state.map_capacity_bytes) = (map.0 * MAP_BLOCK, map.1 * MAP_BLOCK);
            (state.used_bytes, state.capacity_bytes) = (data.0 * block, data.1 * block);
            state.writable = tpool.status.get(5).is_some_and(|mode| mode == "rw");
        }
        state.legs = self.legs(pool);
        Some(state)
    }

    fn legs(&self, pool: PoolId) -> Vec<Leg> {
        let mut legs: BTreeMap<DiskIndex, Leg> = (self.gates(pool).into_iter())
            .map(|(slot, gate)| {
                let health = match gate {
                    Gate::Open { .. } => Health::InSync,
                    Gate::Cut => Health::Failed,
                };
                let copied_percent = None;
                (
                    slot,
                    Leg {
                        slot,
                        health,
                        copied_percent,
                    },
                )
            })
            .collect();
        for part in ["pool_tdata", "pool_tmeta"] {
            let Some(raid) = self.mapped.get(&names::mapped(pool, part)) else {
                continue;
            };
            let images = self.images(raid);
            // Each disk of a mirrored group has an image of the data. One that has none yet is to get one: it takes no write.
            if part == "pool_tdata" && raid.is_raid() {
                let without = |slot: &DiskIndex| images.iter().all(|(of, ..)| of != slot);
                for (_, leg) in legs.iter_mut().filter(|(slot, _)| without(slot)) {
                    if leg.health == Health::InSync {
                        (leg.health, leg.copied_percent) = (Health::Copying, Some(0));
                    }
                }
            }
            for (slot, health, copied_percent) in images {
                if let Some(leg) = legs.get_mut(&slot)
                    && (health > leg.health || (health == leg.health && leg.copied_percent.is_none()))
                {
                    (leg.health, leg.copied_percent) = (health, copied_percent);
                }
            }
        }
        legs.into_values().collect()
    }

    /// The images of a RAID device: the disk behind each, and how it is.
    fn images(&self, raid: &Mapped) -> Vec<(DiskIndex, Health, Option<u8>)> {
        // raid <level> <images> <a letter for each> <done>/<total> <action> ...
        let [kind, _, _, letters, ratio, action, ..] = &raid.status[..] else {
            return Vec::new();
        };
        if kind != "raid" {
            return Vec::new();
        }
        let percent = ratio.split_once('/').and_then(|(done, total)| {
            let (done, total) = (done.parse::<u64>().ok()?, total.parse::<u64>().ok()?);
            u8::try_from(done.saturating_mul(100) / total.max(1)).ok()
        });
        // The table ends with two devices for each image, its own metadata and its data.
        let devices = &raid.table.1[raid.table.1.len().saturating_sub(2 * letters.len())..];
        let mut images = Vec::new();
        for (letter, pair) in letters.chars().zip(devices.chunks(2)) {
            let image = pair.get(1).and_then(|data| self.by_number(device(data)?));
            let below = image.and_then(|(_, image)| match image.gate() {
                Gate::Open { disk, .. } => self.by_number(disk),
                Gate::Cut => None,
            });
            let Some((_, slot)) = below.and_then(|(name, _)| names::of_gate(name)) else {
                continue;
            };
            let (health, copied) = match letter {
                'A' => (Health::InSync, None),
                // While the images of a new group are made equal each of them takes every write.
                'a' if action == "resync" => (Health::InSync, percent),
                'a' => (Health::Copying, percent),
                _ => (Health::Failed, None),
            };
            images.push((slot, health, copied));
        }
        images
    }
}

impl Mapped {
    fn is_raid(&self) -> bool {
        self.table.1.first().is_some_and(|kind| kind == "raid")
    }

    fn gate(&self) -> Gate {
        let (sectors, words) = &self.table;
        match &words[..] {
            [kind, disk, from] if kind == "linear" => match (device(disk), from.parse()) {
                (Some(disk), Ok(from)) => Gate::Open {
                    disk,
                    from,
                    sectors: *sectors,
                },
                _ => Gate::Cut,
            },
            _ => Gate::Cut,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const POOL: PoolId = PoolId::from_bytes([0xaa; 16]);
    const STATUS: &str = include_str!("../tests/recorded/status.txt");
    const TABLE: &str = include_str!("../tests/recorded/table.txt");
    const INFO: &str = include_str!("../tests/recorded/info.txt");

    fn slot(number: u16) -> DiskIndex {
        DiskIndex::new(number)
    }

    fn healths(kernel: &Kernel) -> Vec<(Health, Option<u8>)> {
        let state = kernel.state(POOL).expect("active");
        state
            .legs
            .iter()
            .map(|leg| (leg.health, leg.copied_percent))
            .collect()
    }

    #[test]
    fn a_group_is_read_as_dmsetup_wrote_it() {
        let kernel = Kernel::read(INFO, TABLE, STATUS);
        assert_eq!(kernel.pools(), [POOL]);
        assert!(kernel.is_active(POOL));
        let state = kernel.state(POOL).expect("active");
        assert_eq!(
            (state.capacity_bytes, state.used_bytes),
            (14400 * 65536, 640 * 65536)
        );
        assert_eq!(
            (state.map_capacity_bytes, state.map_used_bytes),
            (4096 * 4096, 430 * 4096)
        );
        assert!(state.writable);
        // The first disk was cut, and the kernel has gone on without it.
        let sync = (Health::InSync, None);
        assert_eq!(healths(&kernel), [(Health::Failed, None), sync, sync, sync]);
        let gates = kernel.gates(POOL);
        assert_eq!(gates[&slot(0)], Gate::Cut);
        let open = Gate::Open {
            disk: (8, 16),
            from: 4096,
            sectors: 1_044_480,
        };
        assert_eq!(gates[&slot(1)], open);
        // What stands on others goes first, gates last.
        let order = kernel.of(POOL);
        let place = |end: &str| order.iter().position(|name| name.ends_with(end)).expect(end);
        assert!(place("-v_1") < place("-pool-tpool") && place("-pool-tpool") < place("-pool_tdata"));
        assert!(place("-pool_tdata") < place("rimage_0") && place("rmeta_1") < place("_03"));
    }

    #[test]
    fn a_thin_pool_without_a_layer_of_its_own_is_active() {
        let plain = |text: &str| -> String {
            let lines = text
                .lines()
                .filter(|line| !line.contains("-pool:") && !line.contains("-pool,"));
            lines
                .map(|line| line.replace("-pool-tpool", "-pool") + "\n")
                .collect()
        };
        let kernel = Kernel::read(&plain(INFO), &plain(TABLE), &plain(STATUS));
        let layered = Kernel::read(INFO, TABLE, STATUS);
        assert_eq!(kernel.state(POOL), layered.state(POOL));
        let gone = |text: &str| text.replace("-pool-tpool", "-other");
        let without = Kernel::read(&gone(INFO), &gone(TABLE), &gone(STATUS));
        assert_eq!(without.state(POOL), None, "what stands on a thin pool is none");
    }

    #[test]
    fn legs_that_are_copied_to_and_pools_that_are_full_are_seen() {
        let with = |from: &str, to: &str| {
            assert!(STATUS.contains(from), "{from}");
            Kernel::read(INFO, TABLE, &STATUS.replace(from, to))
        };
        let letters = "raid raid10 4 DAAA 1843200/1843200 idle";
        let copying = with(letters, "raid raid10 4 aAAA 460800/1843200 recover");
        // Its map has failed there: the worse of the two counts.
        assert_eq!(healths(&copying)[0], (Health::Failed, None));
        let new = with(letters, "raid raid10 4 aaaa 921600/1843200 resync");
        assert_eq!(
            healths(&new)[1],
            (Health::InSync, Some(50)),
            "each takes every write already"
        );
        let behind = with(letters, "raid raid10 4 DAaA 460800/1843200 recover");
        assert_eq!(healths(&behind)[2], (Health::Copying, Some(25)));
        let full = with(" - rw ", " - out_of_data_space ");
        assert!(!full.state(POOL).expect("active").writable);
        let line = "thin-pool 4 430/4096 640/14400 - rw discard_passdown error_if_no_space - 1024";
        assert!(!with(line, "thin-pool Fail").state(POOL).expect("there").writable);
        assert_eq!(
            Kernel::read("No devices found\n", "No devices found\n", "").pools(),
            []
        );
    }
}
