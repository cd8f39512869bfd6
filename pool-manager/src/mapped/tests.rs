use super::*;
use crate::extents::Extents;
use crate::label::tests::label_with;
use crate::label::{Label, MemberState, SnapshotEntry, VolumeEntry};
use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::id::VolumeId;
use proptest::prelude::*;
use std::collections::BTreeMap;

const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const EXTENTS: u64 = 5;
/// The last extent of the volume is used in part.
const SIZE: u64 = EXTENTS * EXTENT_BYTES - EXTENT_BYTES / 2;
const POOL: u64 = 16;
const SECTOR: usize = 512;

/// The disks, as one: what a write leaves behind when the power goes in the middle of it are some of its sectors.
#[derive(Debug)]
struct Disk {
    bytes: Mutex<Vec<u8>>,
    /// Writes until the power goes, and which sectors of the last one, and of the cache, get there.
    power: Mutex<(u64, u64)>,
    /// Sectors whose last write is in the cache, with what is on the medium.
    cache: Mutex<BTreeMap<usize, Vec<u8>>>,
}

impl Disk {
    fn new() -> Arc<Self> {
        // Whoever had these extents before has left something there.
        Arc::new(Disk {
            bytes: Mutex::new(vec![0xee; (POOL * EXTENT_BYTES) as usize]),
            power: Mutex::new((u64::MAX, 0)),
            cache: Mutex::default(),
        })
    }

    fn lasts(&self, writes: u64, sectors: u64) {
        *self.power.lock().expect("lock") = (writes, sectors);
    }

    fn is_on(&self) -> bool {
        self.power.lock().expect("lock").0 > 0
    }

    fn flush(&self) {
        self.cache.lock().expect("lock").clear();
    }

    fn put(&self, at: u64, data: &[u8], cached: bool) -> Result<(), MirrorError> {
        let mut cache = self.cache.lock().expect("lock");
        let mut power = self.power.lock().expect("lock");
        if power.0 == 0 {
            return Err(MirrorError::Stopped);
        }
        power.0 -= 1;
        let all = power.0 > 0;
        let mut bytes = self.bytes.lock().expect("lock");
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            if all || power.1 >> (number % 64) & 1 == 1 {
                let at = at as usize + number * SECTOR;
                let place = &mut bytes[at..at + sector.len()];
                match cached {
                    true => drop(cache.entry(at).or_insert_with(|| place.to_vec())),
                    false => drop(cache.remove(&at)),
                }
                place.copy_from_slice(sector);
            }
        }
        if !all {
            for (number, (at, old)) in std::mem::take(&mut *cache).into_iter().enumerate() {
                if power.1 >> (number % 61) & 1 == 0 {
                    bytes[at..at + old.len()].copy_from_slice(&old);
                }
            }
        }
        if all { Ok(()) } else { Err(MirrorError::Stopped) }
    }
}

impl Store for Disk {
    async fn read(&self, at: u64, length: u64) -> Result<Bytes, MirrorError> {
        if !self.is_on() {
            return Err(MirrorError::Stopped);
        }
        let bytes = self.bytes.lock().expect("lock");
        Ok(Bytes::copy_from_slice(
            &bytes[at as usize..(at + length) as usize],
        ))
    }

    async fn write(&self, at: u64, data: Bytes) -> Result<(), MirrorError> {
        self.put(at, &data, false)
    }

    async fn write_cached(&self, at: u64, data: Bytes) -> Result<(), MirrorError> {
        self.put(at, &data, true)
    }

    async fn zero(&self, at: u64, length: u64) -> Result<(), MirrorError> {
        self.put(at, &vec![0; length as usize], false)
    }
}

/// What a volume, or a snapshot, must say: a byte for each sector.
type Model = Vec<u8>;

fn sectors(at: u64, end: u64) -> Range<usize> {
    at as usize / SECTOR..end as usize / SECTOR
}

/// One pool with one volume, and what it should say.
struct World {
    disk: Arc<Disk>,
    label: Label,
    space: Arc<Space>,
    mapped: Mapped<Disk>,
    volume: Model,
    /// What each sector may say instead when caches are lost: what it said since the last flush.
    older: Vec<Vec<u8>>,
    snapshots: BTreeMap<ItemId, Model>,
    thin: bool,
}

fn owner(id: ItemId) -> Owner {
    id.0.0
}

async fn blank_table(disk: &Disk, space: &Space) -> Option<Vec<u64>> {
    let run = space.with(|extents| extents.take(table::size(EXTENTS)))?[0];
    disk.zero(run.start * EXTENT_BYTES, EXTENT_BYTES).await.ok()?;
    Some(vec![run.start])
}

impl World {
    async fn new(thin: bool) -> Self {
        let disk = Disk::new();
        let mut label = label_with(&[MemberState::InSync]);
        label.extents = POOL;
        let space = Arc::new(Space::new(Extents::of(&label)));
        let table = blank_table(&disk, &space).await.expect("room");
        let entry = VolumeEntry {
            size_bytes: SIZE,
            runs: Vec::new(),
            journal: None,
            table: table.clone(),
            thin,
        };
        label.volumes.insert(VOLUME, entry);
        let map = Map::new(*VOLUME.as_bytes(), table, EXTENTS, Vec::new());
        let mapped = Mapped::new(disk.clone(), space.clone(), map, thin);
        if !thin {
            for extent in 0..EXTENTS {
                mapped.fill(extent).await.expect("room");
            }
        }
        World {
            disk,
            label,
            space,
            mapped,
            volume: vec![0; SIZE as usize / SECTOR],
            older: vec![Vec::new(); SIZE as usize / SECTOR],
            snapshots: BTreeMap::new(),
            thin,
        }
    }

    /// As after an import.
    async fn open(&mut self) {
        self.disk.lasts(u64::MAX, 0);
        let mut extents = Extents::of(&self.label);
        let mut tables = Vec::new();
        for (id, entry) in &self.label.snapshots {
            let map = read_table(&*self.disk, owner(*id), &entry.table, entry.extents());
            tables.push(map.await.expect("a snapshot's table is whole"));
        }
        let entry = &self.label.volumes[&VOLUME];
        let map = read_table(&*self.disk, *VOLUME.as_bytes(), &entry.table, EXTENTS);
        tables.push(map.await.expect("the volume's table is whole"));
        for map in &tables {
            let referred = map.mapped().try_for_each(|extent| extents.refer(extent));
            referred.expect("tables lead to extents that are nobody else's");
        }
        self.space = Arc::new(Space::new(extents));
        let map = tables.pop().expect("the volume's");
        self.mapped = Mapped::new(self.disk.clone(), self.space.clone(), map, self.thin);
        self.promise();
    }

    fn promise(&self) {
        let shared = if self.thin {
            0
        } else {
            self.mapped.shared_and_own().0
        };
        self.space.with(|extents| extents.promise(shared));
    }

    /// What the volume and its snapshots say is what they should; `open`: of these sectors either is right. `lost`: what
    /// was in the cache may be gone.
    async fn check(&mut self, open: Range<usize>, new: u8, lost: bool) {
        let found = self.mapped.read(0, SIZE).await.expect("read");
        for (number, sector) in found.chunks_exact(SECTOR).enumerate() {
            let fill = sector[0];
            assert!(*sector == [fill; SECTOR], "sector {number} is torn");
            let right = fill == self.volume[number]
                || open.contains(&number) && fill == new
                || lost && self.older[number].contains(&fill);
            assert!(
                right,
                "sector {number}: {fill}, and it should be {}",
                self.volume[number]
            );
            self.volume[number] = fill;
            if lost {
                self.older[number].clear();
            }
        }
        for (id, model) in &self.snapshots {
            let entry = &self.label.snapshots[id];
            let map = read_table(&*self.disk, owner(*id), &entry.table, entry.extents());
            let map = map.await.expect("whole");
            let then = Mapped::new(self.disk.clone(), self.space.clone(), map, true);
            let found = then.read(0, SIZE).await.expect("read");
            for (number, sector) in found.chunks_exact(SECTOR).enumerate() {
                assert!(
                    *sector == [model[number]; SECTOR],
                    "snapshot {id}, sector {number}"
                );
            }
        }
    }

    fn flush(&mut self) {
        if self.disk.is_on() {
            self.disk.flush();
            self.older.iter_mut().for_each(Vec::clear);
        }
    }

    async fn take_snapshot(&mut self, id: ItemId) -> Result<(), MappedError> {
        let (_, needed) = self.mapped.shared_and_own();
        let Some(table) = blank_table(&self.disk, &self.space).await else {
            return Ok(());
        };
        if !self.thin && needed > self.space.with(|extents| extents.available()) {
            self.space.with(|extents| extents.release(table[0]));
            return Ok(());
        }
        self.flush();
        self.mapped.copy(owner(id), &table).await?;
        let mapped: Vec<u64> = self.mapped.map().mapped().collect();
        self.space
            .with(|extents| mapped.iter().try_for_each(|extent| extents.refer(*extent)))
            .expect("tables' own");
        // The label is written as a whole or not at all; here it always is.
        let entry = SnapshotEntry {
            volume: VOLUME,
            size_bytes: SIZE,
            table,
        };
        self.label.snapshots.insert(id, entry);
        self.snapshots.insert(id, self.volume.clone());
        self.promise();
        Ok(())
    }

    async fn end_snapshot(&mut self, id: ItemId) -> Result<(), MappedError> {
        let Some(entry) = self.label.snapshots.get(&id).cloned() else {
            return Ok(());
        };
        let Ok(map) = read_table(&*self.disk, owner(id), &entry.table, entry.extents()).await else {
            return Ok(());
        };
        self.label.snapshots.remove(&id);
        self.snapshots.remove(&id);
        self.space.with(|extents| {
            map.mapped()
                .chain(entry.table)
                .for_each(|extent| extents.release(extent));
        });
        self.promise();
        Ok(())
    }
}

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Write {
        sector: u64,
        sectors: u64,
        fill: u8,
        fua: bool,
    },
    Flush,
    Unmap {
        sector: u64,
        sectors: u64,
    },
    Take(u8),
    End(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let all = SIZE / SECTOR as u64;
    // Whole extents, pieces of one, and what lies across their borders.
    let range = prop_oneof![
        (0..EXTENTS, 1..3_u64).prop_map(|(extent, count)| (extent * 2048, count * 2048)),
        (0..all, 1..64_u64),
        (1..EXTENTS, 1..32_u64).prop_map(|(extent, before)| (extent * 2048 - before, before * 2)),
    ];
    let range = range.prop_map(move |(sector, count)| (sector, count.min(all - sector)));
    prop_oneof![
        4 => (range.clone(), 1..250_u8, any::<bool>())
            .prop_map(|((sector, sectors), fill, fua)| Deed::Write { sector, sectors, fill, fua }),
        1 => Just(Deed::Flush),
        2 => range.prop_map(|(sector, sectors)| Deed::Unmap { sector, sectors }),
        1 => (0..3_u8).prop_map(Deed::Take),
        1 => (0..3_u8).prop_map(Deed::End),
    ]
}

async fn play(thin: bool, deeds: Vec<(Deed, Option<(u64, u64)>)>) {
    let mut world = World::new(thin).await;
    for (deed, cut) in deeds {
        if let Some((writes, sectors)) = cut {
            world.disk.lasts(writes, sectors);
        }
        let item = |id: u8| ItemId(Hex([id + 1; 16]));
        let size = SECTOR as u64;
        let mut open = (0..0, 0);
        let mut durable = true;
        let done = match deed {
            Deed::Write {
                sector,
                sectors: count,
                fill,
                fua,
            } => {
                durable = fua;
                let (at, end) = (sector * size, (sector + count) * size);
                open = (sectors(at, end), fill);
                let data = vec![fill; (count * size) as usize];
                world.mapped.write(at, data.into(), fua).await
            }
            Deed::Unmap {
                sector,
                sectors: count,
            } => {
                let (at, end) = (sector * size, (sector + count) * size);
                open = (sectors(at, end), 0);
                world.mapped.unmap(at, end, SIZE).await
            }
            Deed::Flush => {
                world.flush();
                Ok(())
            }
            Deed::Take(id) if !world.snapshots.contains_key(&item(id)) => world.take_snapshot(item(id)).await,
            Deed::Take(_) => Ok(()),
            Deed::End(id) => world.end_snapshot(item(id)).await,
        };
        match done {
            Ok(()) => {
                for sector in open.0.clone() {
                    match durable {
                        true => world.older[sector].clear(),
                        false => world.older[sector].push(world.volume[sector]),
                    }
                }
                world.volume[open.0.clone()].fill(open.1);
            }
            Err(MappedError::NoRoom) => {
                assert!(thin, "a thick volume always has room: {deed:?}");
                open.0 = 0..0;
            }
            Err(MappedError::Mirror(_)) => assert!(!world.disk.is_on(), "{deed:?}"),
        }
        let lost = !world.disk.is_on();
        if cut.is_some() {
            world.open().await;
        }
        world.check(open.0, open.1, lost).await;
    }
    let before = world.space.with(|extents| extents.used());
    world.open().await;
    let after = world.space.with(|extents| extents.used());
    assert!(before >= after, "something is in use that was thought free");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// Any deeds, each of which may be cut off by the power after any of its writes and in the middle of it: what was
    /// answered is there, what was not is there or not, sector by sector; snapshots say what they said; no extent has two
    /// owners; nobody reads what somebody else has written.
    #[test]
    fn no_cut_loses_or_shows_what_it_must_not(
        thin in any::<bool>(),
        deeds in prop::collection::vec((deed(), prop::option::of((1..8_u64, any::<u64>()))), 1..25),
    ) {
        runtime().block_on(play(thin, deeds));
    }
}

#[test]
fn a_full_pool_fails_a_write_as_a_whole() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        let left = world.space.with(|extents| extents.available());
        world.space.with(|extents| extents.take(left - 1)).expect("room");
        world
            .mapped
            .write(0, vec![1; SECTOR].into(), true)
            .await
            .expect("the last extent");
        world.volume[0] = 1;
        // Two extents, of which one is its own already.
        let across = EXTENT_BYTES - SECTOR as u64;
        let refused = world.mapped.write(across, vec![2; 2 * SECTOR].into(), true).await;
        assert_eq!(refused, Err(MappedError::NoRoom));
        world.check(0..0, 0, false).await;
        world.mapped.unmap(0, EXTENT_BYTES, SIZE).await.expect("unmap");
        assert_eq!(world.mapped.status(0, SIZE, 9), [(SIZE, false)]);
        world
            .mapped
            .write(SIZE - SECTOR as u64, vec![3; SECTOR].into(), true)
            .await
            .expect("room again");
        let half = EXTENT_BYTES / 2;
        assert_eq!(
            world.mapped.status(0, SIZE, 9),
            [(SIZE - half, false), (half, true)]
        );
        assert_eq!(world.mapped.status(0, SIZE, 1), [(SIZE - half, false)]);
    });
}

#[test]
fn what_was_not_durable_is_made_so_before_the_next_answer() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.disk.lasts(3, 0);
        // Zeros, data; the page does not get there.
        world
            .mapped
            .write(0, vec![1; SECTOR].into(), true)
            .await
            .expect_err("cut");
        world.disk.lasts(u64::MAX, 0);
        assert!(!world.mapped.settled(0, 512));
        // Into the same extent, which no page on the disk leads to yet.
        world
            .mapped
            .write(512, vec![2; SECTOR].into(), true)
            .await
            .expect("written");
        assert!(world.mapped.settled(0, 512));
        world.volume[1] = 2;
        world.open().await;
        world.check(0..1, 1, true).await;
    });
}
