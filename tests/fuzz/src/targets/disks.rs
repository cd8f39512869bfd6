//! What stands on disks besides data: labels and intents of pools, and the files of the shelf.

use crate::script::{Script, put_long};
use pollux_api::config::item::ItemId;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, PoolId, VolumeId};
use pollux_api::pool::ReservationKey;
use pollux_block_frame::{FullStatus, Key, Port, Registrant, Reply};
use pollux_chassis::shelf::{DiskSpec, Shelf, WRITE_LOG, WriteLog};
use pollux_pool_manager::extents::Extents;
use pollux_pool_manager::intent::{self, INTENT_BYTES};
use pollux_pool_manager::label::{EXTENT_BYTES, Label, Member, MemberState, Run, SnapshotEntry, VolumeEntry};
use pollux_pool_manager::table::{self, PAGE};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;

const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);
const POOL: PoolId = PoolId::from_bytes([8; 16]);
const DISK: Uuid = Uuid::from_bytes([3; 16]);
/// Header of a label.
const HEADER: usize = 64;

/// A label: a byte of choices, then its bytes. Bit 0 leaves checksums and the length of the body as they come.
pub(super) fn label(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let mut bytes = script.0.to_vec();
    if choices & 1 == 0 && bytes.len() >= HEADER {
        let (header, rest) = bytes.split_at_mut(HEADER);
        let end = rest
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        header[..8].copy_from_slice(b"PLXPOOL1");
        header[12..16].copy_from_slice(&(end as u32).to_le_bytes());
        header[56..60].copy_from_slice(&crc32c::crc32c(&rest[..end]).to_le_bytes());
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
    }
    let Ok(label) = Label::decode(&bytes, ARRAY, DISK) else {
        return;
    };
    if label.extents <= 10_000 {
        let fresh = Extents::of(&label);
        let free = fresh.available();
        assert_eq!(fresh.used() + free, label.extents, "each extent is used or free");
        for count in [1, free, free + 1] {
            let runs = fresh.clone().take(count);
            assert_eq!(runs.is_some(), count <= free, "{count} extents of {free}");
            let given = runs
                .unwrap_or_default()
                .iter()
                .fold(0_u64, |sum, run| sum + run.count);
            assert!(
                given == count || count > free,
                "asked for {count} extents, given {given}"
            );
        }
    }
    for state in [MemberState::InSync, MemberState::Resyncing, MemberState::Failed] {
        for disk in label.disks_in(state) {
            assert!(label.member(disk).is_some());
        }
    }
    if let Ok(again) = label.encode(DISK) {
        assert_eq!(
            Label::decode(&again, ARRAY, DISK),
            Ok(label),
            "one label, two readings"
        );
    }
}

pub(super) fn labels() -> Vec<Vec<u8>> {
    let volume = |number| VolumeId::from_bytes([number; 16]);
    let entry = |size_extents: u64, runs: &[(u64, u64)]| VolumeEntry {
        size_bytes: size_extents * EXTENT_BYTES,
        runs: runs.iter().map(|&(start, count)| Run { start, count }).collect(),
        journal: None,
        table: Vec::new(),
        thin: false,
    };
    let member = |slot, state| Member {
        disk: DiskIndex::new(slot),
        id: Uuid::from_bytes([slot as u8; 16]),
        state,
    };
    let label = Label {
        txg: 9,
        array: ARRAY,
        pool: POOL,
        name: "fast".into(),
        key: ReservationKey {
            controller: ControllerId::A,
            epoch: Epoch::new(4),
            generation: Generation::new(2),
        },
        clean: true,
        members: vec![member(3, MemberState::InSync), member(4, MemberState::Failed)],
        extents: 100,
        config_index: 4,
        volumes: BTreeMap::from([
            (volume(1), entry(3, &[(0, 2), (5, 1)])),
            (volume(2), entry(4, &[(10, 4)])),
        ]),
        snapshots: BTreeMap::new(),
        group: None,
    };
    let mut thin = label.clone();
    thin.volumes.insert(
        volume(3),
        VolumeEntry {
            table: vec![20],
            thin: true,
            ..entry(40, &[])
        },
    );
    thin.snapshots.insert(
        ItemId::default(),
        SnapshotEntry {
            volume: volume(3),
            size_bytes: EXTENT_BYTES,
            table: vec![21],
        },
    );
    let bytes = label.encode(DISK).expect("a small label fits");
    let thin = thin.encode(DISK).expect("a small label fits");
    vec![
        [&[0][..], &thin].concat(),
        [&[0][..], &bytes].concat(),
        [&[1][..], &bytes].concat(),
        vec![1; 80],
    ]
}

const OWNER: table::Owner = [9; 16];
const SECTOR: usize = 512;

/// Both places of a page of a table: a byte of choices, then their bytes. Bit 0 leaves checksums as they come.
pub(super) fn page(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let mut bytes = script.0.to_vec();
    bytes.resize(2 * PAGE as usize, 0);
    if choices & 1 == 0 {
        for (number, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
            if sector.iter().any(|byte| *byte != 0) {
                let own = [&OWNER[..], &0_u64.to_le_bytes(), &[(number % 8) as u8]].concat();
                let crc = crc32c::crc32c_append(crc32c::crc32c(&own), &sector[..SECTOR - 4]);
                sector[SECTOR - 4..].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
    let (first, second) = bytes.split_at(PAGE as usize);
    if let Ok(page) = table::decode(OWNER, 0, [first, second]) {
        let again = table::encode(OWNER, 0, page.sequence.max(1), &page.entries);
        let mut places = [&[0; PAGE as usize][..]; 2];
        places[page.place] = &again;
        let read = table::decode(OWNER, 0, places);
        assert_eq!(
            read.map(|read| read.entries),
            Ok(page.entries),
            "one page, two readings"
        );
    }
}

pub(super) fn pages() -> Vec<Vec<u8>> {
    let one = |sequence, entries: &[u32]| table::encode(OWNER, 0, sequence, entries);
    let (older, newer) = (one(4, &[1, 0, 7]), one(5, &[1, 9, 7]));
    let cut = [&newer[..SECTOR], &one(3, &[])[SECTOR..]].concat();
    vec![
        [&[0][..], &older, &newer].concat(),
        [&[1][..], &older, &newer].concat(),
        [&[0][..], &older, &cut].concat(),
        vec![0; 80],
    ]
}

const REGION: u64 = 1 << 20;

/// A block of intents: a byte of choices, then its bytes. Bit 0 leaves magic and checksum as they come.
pub(super) fn intents(data: &[u8]) {
    let mut script = Script(data);
    let choices = script.byte();
    let mut bytes = script.0.to_vec();
    if choices & 1 == 0 {
        bytes.resize(INTENT_BYTES as usize, 0);
        bytes[..8].copy_from_slice(b"PLXINTN1");
        bytes[60..64].fill(0);
        let crc = crc32c::crc32c(&bytes);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    if let Some((sequence, marked)) = intent::decode(&bytes, POOL, REGION) {
        let again = intent::encode(POOL, sequence, REGION, &marked);
        let read = intent::decode(&again, POOL, REGION);
        assert_eq!(
            read,
            Some((sequence, marked)),
            "one block of intents, two readings"
        );
    }
    let [at, length, size] = [
        Script(script.0).array(),
        Script(&data[data.len() / 2..]).array(),
        Script(data).array(),
    ];
    let size = intent::region_bytes(u64::from_le_bytes(size) >> 8);
    let (at, length) = (u64::from_le_bytes(at) >> 20, u64::from_le_bytes(length) >> 20);
    let regions = intent::regions(size, at, length);
    assert!(regions.start <= regions.end);
}

pub(super) fn intent_seeds() -> Vec<Vec<u8>> {
    let bytes = intent::encode(POOL, 3, REGION, &BTreeSet::from([0, 7, 900]));
    vec![
        [&[0][..], &bytes[..200]].concat(),
        [&[1][..], &bytes].concat(),
        vec![1, 2],
    ]
}

/// `shelf.json`, as the shelf writes it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    magic: String,
    version: u32,
    array: ArrayId,
    disks: Vec<DiskSpec>,
    crc32c: u32,
}

const IMAGE_BYTES: u64 = 16 << 20;

fn spec() -> DiskSpec {
    DiskSpec {
        index: DiskIndex::new(0),
        serial: "PLX00".into(),
        id: DISK,
        bytes: IMAGE_BYTES,
        quorum: false,
    }
}

/// A shelf with one disk, out of a byte of choices, the description, the header of the image, the reservations and
/// the log, each behind its length. Bit 0 leaves all checksums as they come.
pub(super) fn shelf(data: &[u8]) {
    thread_local! {
        // One for the life of the process: every file of it is written anew for each input.
        static DIRECTORY: TempDir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a directory for the shelf");
    }
    DIRECTORY.with(|directory| shelf_in(directory.path(), data));
}

fn shelf_in(dir: &Path, data: &[u8]) {
    let mut script = Script(data);
    let right = script.byte() & 1 == 0;
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("a file of the shelf");
    let mut description = script.long().to_vec();
    if let (true, Ok(mut read)) = (right, serde_json::from_slice::<Description>(&description)) {
        let json = |read: &Description| serde_json::to_vec(read).expect("plain data");
        read.crc32c = 0;
        read.crc32c = crc32c::crc32c(&json(&read));
        description = json(&read);
    }
    put("shelf.json", &description);
    let mut header = [0; 4096];
    let given = script.long();
    header[..given.len().min(60)].copy_from_slice(&given[..given.len().min(60)]);
    if right {
        let crc = crc32c::crc32c(&header[..60]);
        header[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    let image = File::create(dir.join("disk-00.img")).expect("an image");
    image.write_all_at(&header, 0).expect("its header");
    image.set_len(4096 + IMAGE_BYTES).expect("its length");
    let mut reservations = script.long().to_vec();
    if right && reservations.len() >= 12 {
        let crc = crc32c::crc32c(&reservations[12..]);
        reservations[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    put("disk-00.pr", &reservations);
    let mut log = script.0.to_vec();
    for record in log.chunks_exact_mut(64).filter(|_| right) {
        let crc = crc32c::crc32c(&record[..60]);
        record[60..].copy_from_slice(&crc.to_le_bytes());
    }
    put(WRITE_LOG, &log);

    let before = WriteLog::read(&dir.join(WRITE_LOG));
    if let Ok(log) = &before {
        let disks: Vec<DiskIndex> = log.records.iter().map(|record| record.disk).collect();
        assert!(log.second_writers(&disks).len() <= log.records.len());
    }
    match Shelf::open(dir, None, 1) {
        Err(why) => assert!(why.to_string().starts_with("shelf: "), "{why}"),
        Ok(shelf) => {
            let disks = shelf.disks().len();
            drop(shelf);
            let read = WriteLog::read(&dir.join(WRITE_LOG)).expect("an opened shelf has a log");
            assert_eq!(
                read,
                before.expect("a shelf with a bad log opened"),
                "opening changed the log"
            );
            let again = Shelf::open(dir, Some(ARRAY), 1);
            let again = again.or_else(|_| Shelf::open(dir, Some(read.array), 1));
            assert_eq!(again.expect("what opened once").disks().len(), disks);
        }
    }
}

pub(super) fn shelves() -> Vec<Vec<u8>> {
    let description = Description {
        magic: "pollux-shelf".into(),
        version: 1,
        array: ARRAY,
        disks: vec![spec()],
        crc32c: 0,
    };
    let mut header = b"PLXDISK1".to_vec();
    header.extend_from_slice(ARRAY.as_bytes());
    header.extend_from_slice(DISK.as_bytes());
    header.extend_from_slice(&IMAGE_BYTES.to_le_bytes());
    header.extend_from_slice(&[0; 12]);
    let status = FullStatus {
        generation: 3,
        registrants: vec![Registrant {
            port: Port::A,
            key: Key(5),
        }],
        reservation: None,
    };
    let reservations = [b"PLXPRST1\0\0\0\0", &Reply::full_status(&status).payload[..]].concat();
    let mut log = [&b"PLXWLOG1"[..], ARRAY.as_bytes(), &[0; 40]].concat();
    for (sequence, event) in (1_u8..).zip([1, 2, 3]) {
        let mut record = [0; 64];
        (record[0], record[16], record[24], record[32]) = (sequence, 8, 1, 5);
        (record[50], record[51]) = (1, event);
        log.extend_from_slice(&record);
    }
    let seed = |choices: u8, description: &[u8]| {
        let mut out = vec![choices];
        put_long(&mut out, description);
        put_long(&mut out, &header);
        put_long(&mut out, &reservations);
        out.extend_from_slice(&log);
        out
    };
    let json = serde_json::to_vec(&description).expect("plain data");
    vec![seed(0, &json), seed(1, &json), seed(0, b"{}")]
}
