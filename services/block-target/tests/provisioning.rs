//! Space of volumes as hosts see it, byte by byte: thin and thick, mapped and deallocated, full, growing; on both ports.

mod support;

use pollux_api::config::item::{Item, ItemId, Settings};
use pollux_api::config::{Class, Hex, Pool, PoolSpace, Redundancy, Resource, RowOp, Tables};
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_block_target::daemon::BLOCK_SIZE;
use std::collections::BTreeMap;
use support::{
    Answer, BLOCKS, BOUND, Imported, Initiator, POOL, Pair, QUIET, VOLUME, block, good, tables, write_cdb,
};
use tokio::time::timeout;

fn thin() -> Tables {
    let mut tables = tables();
    let space = PoolSpace {
        capacity_bytes: 1000 << 20,
        extent_bytes: 1 << 20,
    };
    let pool = Pool {
        id: POOL,
        name: "p".into(),
        class: Class::Fast,
        home: ControllerId::A,
        redundancy: Redundancy::Single,
        backend: None,
        disks: vec![DiskIndex::new(0)],
        ready: Some(space),
    };
    let settings = Settings {
        name: "pool".into(),
        service: "pool".into(),
        values: BTreeMap::new(),
        thin: vec![VOLUME.to_string()],
        write_cache: Vec::new(),
        id: ItemId(Hex([6; 16])),
    };
    tables.apply(&RowOp::Put(Resource::Pool(pool)));
    tables.apply(&RowOp::Put(Resource::Item(Item::Settings(settings))));
    tables
}

/// A pair whose owner is a, and a session at each port.
async fn start(tables: &Tables) -> (Pair, Imported, [Initiator; 2]) {
    let pair = Pair::start().await;
    pair.a.world.apply(tables);
    pair.b.world.apply(tables);
    let imported = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let sessions = [
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in(pair.b.portal).await,
    ];
    (pair, imported, sessions)
}

fn lba_status_cdb(lba: u64, allocation: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x9e, 0x12]);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

/// GET LBA STATUS: (block, how many, provisioning status).
async fn lba_status(host: &mut Initiator, lba: u64, allocation: u32) -> Vec<(u64, u32, u8)> {
    let answer = host.run(&lba_status_cdb(lba, allocation), allocation, None).await;
    assert_eq!(answer.status, 0, "{answer:?}");
    let length = u32::from_be_bytes(answer.data[..4].try_into().expect("four bytes")) as usize;
    assert_eq!(length + 4, answer.data.len());
    let descriptors = answer.data[8..].chunks_exact(16);
    descriptors
        .map(|bytes| {
            let lba = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
            let blocks = u32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
            (lba, blocks, bytes[12])
        })
        .collect()
}

async fn unmap(host: &mut Initiator, lba: u64, blocks: u32) -> Answer {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend_from_slice(&lba.to_be_bytes());
    list.extend_from_slice(&blocks.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    host.run(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0, Some(&list))
        .await
}

fn sense(key: u8, code: u16) -> Answer {
    Answer {
        status: 2,
        sense: Some((key, code)),
        data: vec![],
    }
}

#[tokio::test]
async fn every_page_of_a_thin_volume_says_so_on_both_ports() {
    let (_pair, _imported, hosts) = start(&thin()).await;
    for mut host in hosts {
        let limits = host.run(&[0x12, 1, 0xb0, 0, 255, 0], 255, None).await.data;
        assert_eq!(limits[20..24], (64_u32 << 11).to_be_bytes(), "64 MiB at once");
        assert_eq!(limits[24..28], 256_u32.to_be_bytes());
        assert_eq!(
            limits[28..36],
            [0, 0, 8, 0, 0x80, 0, 0, 0],
            "extents of 2048 blocks, aligned"
        );
        let provisioning = host.run(&[0x12, 1, 0xb2, 0, 255, 0], 255, None).await.data;
        assert_eq!(provisioning, [0, 0xb2, 0, 4, 11, 0xe4, 2, 0]);
        let capacity = host
            .run(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], 32, None)
            .await
            .data;
        assert_eq!(capacity[14] & 0xc0, 0xc0, "LBPME, LBPRZ");
        let threshold = host.run(&[0x1a, 8, 0x1c, 0x02, 255, 0], 255, None).await.data;
        assert_eq!(threshold[4..8], [0x5c, 2, 0, 20]);
        assert_eq!(
            threshold[20..28],
            [0x80, 1, 0, 0, 0, 0, 0, 100],
            "a tenth of 1000 extents"
        );
        let known = host
            .run(&[0xa3, 0x0c, 0x02, 0x9e, 0, 0x12, 0, 0, 0, 64, 0, 0], 64, None)
            .await
            .data;
        assert_eq!((known[1] & 7, known[3], known[4]), (3, 16, 0x9e));
    }
}

#[tokio::test]
async fn a_volume_that_becomes_thin_tells_its_hosts() {
    let (pair, _imported, hosts) = start(&tables()).await;
    let worlds = [&pair.a.world, &pair.b.world];
    for (mut host, world) in hosts.into_iter().zip(worlds) {
        let provisioning = host.run(&[0x12, 1, 0xb2, 0, 255, 0], 255, None).await.data;
        assert_eq!(provisioning[4..], [0, 0xe4, 0, 0], "a thick one");
        let threshold = host.run(&[0x1a, 8, 0x1c, 0x02, 255, 0], 255, None).await;
        assert_eq!(threshold, sense(5, 0x2400));
        world.apply(&thin());
        assert_eq!(host.read(0).await, sense(6, 0x3f03));
        assert_eq!(host.read(0).await, good(block(0)));
    }
}

#[tokio::test]
async fn what_is_mapped_is_told_truthfully_on_both_ports() {
    let (_pair, _imported, hosts) = start(&thin()).await;
    let [mut a, mut b] = hosts;
    let all = BLOCKS as u32;
    assert_eq!(a.write(3, 1).await, good(vec![]));
    assert_eq!(b.write(4, 2).await, good(vec![]));
    for host in [&mut a, &mut b] {
        assert_eq!(
            lba_status(host, 0, 255).await,
            [(0, 3, 1), (3, 2, 0), (5, all - 5, 1)]
        );
        assert_eq!(
            lba_status(host, 4, 24).await,
            [(4, 1, 0)],
            "from the block that is asked for"
        );
        let beyond = host.run(&lba_status_cdb(BLOCKS, 24), 24, None).await;
        assert_eq!(beyond, sense(5, 0x2100));
    }
    assert_eq!(unmap(&mut b, 4, 1).await, good(vec![]));
    assert_eq!(lba_status(&mut a, 3, 64).await, [(3, 1, 0), (4, all - 4, 1)]);
    assert_eq!(a.read(4).await, good(block(0)));
    // WRITE SAME(16): with UNMAP zeros are deallocated, and what is not zero is written.
    let same = |flags, lba| [0x93, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 1, 0, 0];
    assert_eq!(a.run(&same(0x08, 3), 0, Some(&block(0))).await, good(vec![]));
    assert_eq!(lba_status(&mut b, 0, 64).await, [(0, all, 1)]);
    assert_eq!(b.run(&same(0x08, 3), 0, Some(&block(7))).await, good(vec![]));
    assert_eq!(a.read(3).await, good(block(7)));
    assert_eq!(b.run(&same(0x09, 3), 0, None).await, good(vec![]), "NDOB");
    assert_eq!(lba_status(&mut a, 0, 64).await, [(0, all, 1)]);
}

#[tokio::test]
async fn a_full_pool_protects_its_data_and_serves_what_it_has() {
    let (pair, _imported, hosts) = start(&thin()).await;
    let [mut a, mut b] = hosts;
    assert_eq!(a.write(1, 1).await, good(vec![]));
    pair.memory.limit(2);
    for host in [&mut a, &mut b] {
        let two = [block(9), block(9)].concat();
        let refused = host.run(&[0x2a, 0, 0, 0, 0, 5, 0, 0, 2, 0], 0, Some(&two)).await;
        assert_eq!(refused, sense(7, 0x2707), "SPACE ALLOCATION FAILED WRITE PROTECT");
        assert_eq!(host.read(5).await, good(block(0)), "nothing of it was done");
        assert_eq!(host.read(1).await, good(block(1)));
        assert_eq!(host.write(1, 1).await, good(vec![]), "what has space is written");
    }
    let swap = [block(0), block(4)].concat();
    let cas = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0];
    pair.memory.limit(1);
    assert_eq!(b.run(&cas, 0, Some(&swap)).await, sense(7, 0x2707));
    assert_eq!(unmap(&mut b, 1, 1).await, good(vec![]));
    assert_eq!(a.run(&cas, 0, Some(&swap)).await, good(vec![]), "room again");
    assert_eq!(b.read(6).await, good(block(4)));
}

#[tokio::test]
async fn the_soft_threshold_is_told_to_every_session_of_thin_volumes() {
    let (pair, _imported, hosts) = start(&thin()).await;
    let worlds = [&pair.a.world, &pair.b.world];
    for (mut host, world) in hosts.into_iter().zip(worlds) {
        assert_eq!(host.read(0).await, good(block(0)));
        assert_eq!(world.target().attend_space(&world.paths(POOL)), 1);
        assert_eq!(
            host.read(0).await,
            sense(6, 0x3807),
            "THIN PROVISIONING SOFT THRESHOLD REACHED"
        );
        assert_eq!(host.read(0).await, good(block(0)));
        world.apply(&tables());
        assert_eq!(host.read(0).await, sense(6, 0x3f03));
        assert_eq!(
            world.target().attend_space(&world.paths(POOL)),
            0,
            "a thick one has its space"
        );
    }
}

#[tokio::test]
async fn a_volume_that_has_grown_tells_its_hosts_and_both_ports_say_how_large_it_is() {
    let (pair, _imported, hosts) = start(&tables()).await;
    let mut larger = tables();
    for row in larger.volumes.values_mut() {
        row.size_bytes = 2 * BLOCKS * u64::from(BLOCK_SIZE);
    }
    let worlds = [&pair.a.world, &pair.b.world];
    for (mut host, world) in hosts.into_iter().zip(worlds) {
        assert_eq!(host.read(0).await, good(block(0)));
        world.apply(&larger);
        assert_eq!(
            host.run(&write_cdb(0), 0, Some(&block(1))).await,
            sense(6, 0x2a09)
        );
        let capacity = host.run(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, None).await.data;
        assert_eq!(capacity[..4], (2 * BLOCKS as u32 - 1).to_be_bytes());
        // The pool follows: what comes before it has grown waits for it.
        let beyond = BLOCKS as u32 + 1;
        let mut write = write_cdb(0);
        write[2..6].copy_from_slice(&beyond.to_be_bytes());
        host.begin(&write, 0, Some(&block(5))).await;
        assert!(
            timeout(QUIET, host.end()).await.is_err(),
            "nothing is answered before the pool has the block"
        );
        pair.memory.grow(2 * BLOCKS);
        let answer = timeout(BOUND, host.end()).await.expect("in time");
        assert_eq!(answer, Some(good(vec![])));
        pair.memory.grow(BLOCKS);
    }
}

/// The operator switches the write cache on: hosts are told, see it, and say by FUA and SYNCHRONIZE CACHE what has to be
/// durable; by either port. Off again, everything is.
#[tokio::test]
async fn a_write_stays_in_the_cache_where_the_operator_and_the_host_let_it() {
    let (pair, _imported, hosts) = start(&tables()).await;
    let mut cached = thin();
    let settings = cached.items().find_map(|item| match item {
        Item::Settings(settings) => Some(settings.clone()),
        _ => None,
    });
    let settings = Settings {
        thin: Vec::new(),
        write_cache: vec![VOLUME.to_string()],
        ..settings.expect("the pool manager's")
    };
    cached.apply(&RowOp::Put(Resource::Item(Item::Settings(settings.clone()))));
    let mut off = cached.clone();
    let none = Settings {
        write_cache: Vec::new(),
        ..settings
    };
    off.apply(&RowOp::Put(Resource::Item(Item::Settings(none))));
    // As far as a host sees, the pool is the same.
    pair.a.world.apply(&off);
    pair.b.world.apply(&off);
    let caching = [0x1a, 8, 0x08, 0, 255, 0];
    let worlds = [&pair.a.world, &pair.b.world];
    for (mut host, world) in hosts.into_iter().zip(worlds) {
        while host.run(&[0, 0, 0, 0, 0, 0], 0, None).await.status != 0 {}
        assert_eq!(host.run(&caching, 255, None).await.data[6] & 4, 0, "WCE");
        assert_eq!(host.run(&write_cdb(0), 0, Some(&block(1))).await, good(vec![]));
        assert_eq!(pair.memory.unflushed(), 0);
        world.apply(&cached);
        assert_eq!(
            host.run(&write_cdb(0), 0, Some(&block(2))).await,
            sense(6, 0x2a01)
        );
        assert_eq!(host.run(&caching, 255, None).await.data[6] & 4, 4, "WCE");
        assert_eq!(host.run(&write_cdb(0), 0, Some(&block(2))).await, good(vec![]));
        assert_eq!(host.run(&write_cdb(1), 0, Some(&block(2))).await, good(vec![]));
        assert_eq!(pair.memory.unflushed(), 2);
        let mut fua = write_cdb(1);
        fua[1] = 0x08;
        assert_eq!(host.run(&fua, 0, Some(&block(3))).await, good(vec![]));
        assert_eq!(pair.memory.unflushed(), 1, "FUA");
        let flush = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(host.run(&flush, 0, None).await, good(vec![]));
        assert_eq!(pair.memory.unflushed(), 0, "SYNCHRONIZE CACHE");
        world.apply(&off);
        assert_eq!(host.read(1).await, sense(6, 0x2a01));
        assert_eq!(host.run(&write_cdb(0), 0, Some(&block(4))).await, good(vec![]));
        assert_eq!(pair.memory.unflushed(), 0);
    }
}
