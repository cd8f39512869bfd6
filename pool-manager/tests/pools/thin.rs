//! Thin volumes and snapshots on a real shelf, over changes of owner.

use super::*;
use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::pool::RollBack;
use pollux_block_frame::{LbaRun, Reply};
use pollux_pool_manager::backend::{WantedSnapshot, WantedVolume};

const OTHER: VolumeId = VolumeId::from_bytes([6; 16]);
const BLOCKS: u64 = EXTENT_BYTES / 512;

fn snapshot(number: u8, volume: VolumeId) -> WantedSnapshot {
    WantedSnapshot {
        id: ItemId(Hex([number; 16])),
        volume,
    }
}

fn volume(id: VolumeId, extents: u64, thin: bool) -> WantedVolume {
    WantedVolume {
        id,
        size_bytes: extents * EXTENT_BYTES,
        thin,
    }
}

fn wanted(volumes: &[WantedVolume], snapshots: &[WantedSnapshot]) -> Wanted {
    Wanted {
        volumes: volumes.to_vec(),
        snapshots: snapshots.to_vec(),
        low_percent: 10,
        ..Wanted::default()
    }
}

impl Controller {
    async fn want(&self, index: u64, volumes: &[WantedVolume], snapshots: &[WantedSnapshot]) {
        let errors = self
            .manager
            .reconcile(POOL, index, &wanted(volumes, snapshots))
            .await;
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// Extents of the pool that are in use.
    async fn used(&self) -> u64 {
        let mut status = self.manager.status().await;
        status.imported.pop().expect("imported").used_bytes / EXTENT_BYTES
    }

    async fn volume_of(&self, id: VolumeId) -> Client {
        let path = self.volumes.join(format!("{id}.sock"));
        let hello = hello(Purpose::Volume, self.controller, "block-target");
        Client::connect_unix(&path, &hello, None, LONG)
            .await
            .expect("volume session")
    }
}

/// The 4 KiB at the beginning of an extent.
async fn put_extent(volume: &Client, extent: u64, fill: u8) -> Result<(), Error> {
    volume.write(extent * BLOCKS, block(fill), true, None).await
}

async fn get_extent(volume: &Client, extent: u64) -> u8 {
    let data = volume.read(extent * BLOCKS, 8, None).await.expect("read");
    assert!(data.iter().all(|byte| *byte == data[0]), "torn");
    data[0]
}

async fn mapped(volume: &Client, lba: u64, blocks: u32) -> Vec<LbaRun> {
    let answer = volume
        .perform(Operation::LbaStatus { lba, blocks }, None)
        .await
        .expect("status");
    Reply::to_lba_status(&answer.payload).expect("runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thin_volume_takes_space_when_it_is_written_and_moves_with_its_pool() {
    let array = Array::new(2);
    let a = array.serving().await;
    // Larger than the pool, whose extents had other data before.
    put(&a.volume().await, 0, 0xee).await;
    a.want(2, &[volume(OTHER, 1000, true)], &[]).await;
    assert_eq!(a.used().await, 1, "its table");
    let thin = a.volume_of(OTHER).await;
    assert_eq!(get_extent(&thin, 999).await, 0);
    put_extent(&thin, 7, 1).await.expect("write");
    put_extent(&thin, 999, 2).await.expect("write");
    let middle = thin.read(7 * BLOCKS + 8, 2040, None).await.expect("read");
    assert!(middle.iter().all(|byte| *byte == 0), "the rest of a new extent");
    let run = |lba, blocks, mapped| LbaRun { lba, blocks, mapped };
    let extent = BLOCKS as u32;
    assert_eq!(
        mapped(&thin, 6 * BLOCKS, 3 * extent).await,
        [
            run(6 * BLOCKS, extent, false),
            run(7 * BLOCKS, extent, true),
            run(8 * BLOCKS, extent, false)
        ]
    );
    assert_eq!(a.used().await, 3);
    // The power of the owner goes; its legs need not agree about anything.
    a.kill();
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.import(key(B, 2, 2)).await;
    let thin = b.volume_of(OTHER).await;
    assert_eq!(
        (
            get_extent(&thin, 7).await,
            get_extent(&thin, 999).await,
            b.used().await
        ),
        (1, 2, 3)
    );
    // Whole extents come back, and what a part had is zero.
    thin.unmap(7 * BLOCKS - 4, extent + 8, None).await.expect("unmap");
    assert_eq!((get_extent(&thin, 7).await, b.used().await), (0, 2));
    thin.unmap(999 * BLOCKS, 8, None).await.expect("unmap");
    assert_eq!((get_extent(&thin, 999).await, b.used().await), (0, 2));
    // Until the pool is full: nothing is half done, and what stands stands.
    let mut written = 0;
    let full = loop {
        match put_extent(&thin, written, 5).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((full.status(), written), (Some(Status::NoResources), 12));
    let across = thin.write(written * BLOCKS - 4, block(6), true, None).await;
    assert_eq!(across.expect_err("full").status(), Some(Status::NoResources));
    let before = thin.read(written * BLOCKS - 4, 4, None).await.expect("read");
    assert!(before.iter().all(|byte| *byte == 0));
    thin.unmap(0, extent, None).await.expect("unmap");
    put_extent(&thin, written, 6).await.expect("room again");
    assert_eq!(
        (get_extent(&thin, written).await, get_extent(&thin, 1).await),
        (6, 5)
    );
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_what_the_volume_was_after_a_takeover_and_comes_back() {
    let array = Array::new(2);
    let a = array.serving().await;
    let thick = [volume(VOLUME, 4, false)];
    let client = a.volume().await;
    put_extent(&client, 0, 1).await.expect("write");
    put_extent(&client, 3, 1).await.expect("write");
    let first = snapshot(1, VOLUME);
    a.want(2, &thick, &[first]).await;
    assert_eq!(a.used().await, 4 + 2, "extents, and two tables");
    put_extent(&client, 0, 2).await.expect("write");
    put_extent(&client, 1, 2).await.expect("write");
    assert_eq!(a.used().await, 8);
    // Twice the same is one snapshot; an older configuration removes none.
    a.want(2, &thick, &[first]).await;
    a.want(1, &thick, &[]).await;
    // 14 extents: 8 in use, 2 promised for what is still shared. Three tables are too many where two more extents would be
    // shared that must find room to be written anew.
    let more = [2, 3, 4].map(|number| snapshot(number, VOLUME));
    let all = [&[first][..], &more].concat();
    let errors = a.manager.reconcile(POOL, 3, &wanted(&thick, &all)).await;
    assert!(
        errors.len() == 1 && errors[0].to_string().contains("needs"),
        "{errors:?}"
    );
    a.kill();
    let b = array.start(B);
    assert!(b.take(key(B, 2, 2)).await.confirmed);
    b.import(key(B, 2, 2)).await;
    let status = b.manager.status().await.imported.pop().expect("imported");
    assert_eq!(
        (status.snapshots, status.used_bytes / EXTENT_BYTES),
        (vec![first.id], 8)
    );
    let client = b.volume().await;
    put_extent(&client, 2, 3).await.expect("write");
    let found = [0, 1, 2, 3].map(|extent| get_extent(&client, extent));
    assert_eq!(futures_util::future::join_all(found).await, [2, 2, 3, 1]);
    let back = RollBack {
        pool: POOL,
        snapshot: first.id,
    };
    let rolled = b.manager.roll_back_unseen(&back).await.expect("rolled back");
    assert_eq!(rolled.volume, VOLUME);
    let seen = b
        .manager
        .roll_back(back.clone())
        .await
        .expect_err("nobody knows who sees it");
    assert!(seen.to_string().contains("not known yet"), "{seen}");
    let found = [0, 1, 2, 3].map(|extent| get_extent(&client, extent));
    assert_eq!(futures_util::future::join_all(found).await, [1, 0, 0, 1]);
    assert_eq!(b.used().await, 6, "what was written since is free");
    // From the snapshot's extents a write goes away, and the snapshot keeps what it had.
    put_extent(&client, 0, 9).await.expect("write");
    b.manager.roll_back_unseen(&back).await.expect("again");
    assert_eq!(get_extent(&client, 0).await, 1);
    b.want(4, &thick, &[]).await;
    assert_eq!((b.used().await, get_extent(&client, 3).await), (5, 1));
    let gone = b.manager.roll_back_unseen(&back).await.expect_err("gone");
    assert!(gone.to_string().contains("has no snapshot"), "{gone}");
    b.want(5, &[], &[]).await;
    assert_eq!(b.used().await, 0);
    array.assert_one_writer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_becomes_thin_and_thick_and_grows_while_it_is_used() {
    let array = Array::new(2);
    let mut a = array.serving().await;
    let client = a.volume().await;
    put_extent(&client, 1, 1).await.expect("write");
    a.want(2, &[volume(VOLUME, 4, true)], &[]).await;
    assert_eq!((a.used().await, get_extent(&client, 1).await), (5, 1));
    client.unmap(0, BLOCKS as u32, None).await.expect("unmap");
    assert_eq!(a.used().await, 4);
    a.want(3, &[volume(VOLUME, 9, true)], &[]).await;
    let info = client.info(None).await.expect("info");
    assert_eq!((info.blocks, a.used().await), (9 * BLOCKS, 4));
    put_extent(&client, 8, 2).await.expect("write");
    // Thick again: every extent has its place, if there is one.
    let too_large = wanted(&[volume(VOLUME, 20, false)], &[]);
    let errors = a.manager.reconcile(POOL, 4, &too_large).await;
    assert!(
        errors.len() == 1 && errors[0].to_string().contains("needs"),
        "{errors:?}"
    );
    a.want(5, &[volume(VOLUME, 9, false)], &[]).await;
    assert_eq!(a.used().await, 10);
    client.unmap(0, 4 * BLOCKS as u32, None).await.expect("unmap");
    assert_eq!(a.used().await, 10, "a thick volume keeps its extents");
    let found = [0, 1, 8].map(|extent| get_extent(&client, extent));
    assert_eq!(futures_util::future::join_all(found).await, [0, 0, 2]);
    // Of 14 extents one is to be free at 10 percent; the last one is not enough.
    a.want(6, &[volume(VOLUME, 9, false), volume(OTHER, 100, true)], &[])
        .await;
    let other = a.volume_of(OTHER).await;
    for extent in 0..3 {
        put_extent(&other, extent, 1).await.expect("write");
    }
    let low = a
        .event("space", |event| matches!(event, PoolEvent::Space { .. }))
        .await;
    assert!(matches!(low, PoolEvent::Space { low: true, .. }), "{low:?}");
    assert!(a.manager.status().await.imported[0].low_space);
    other.unmap(0, 3 * BLOCKS as u32, None).await.expect("unmap");
    let high = a
        .event("space", |event| matches!(event, PoolEvent::Space { .. }))
        .await;
    assert!(matches!(high, PoolEvent::Space { low: false, .. }), "{high:?}");
}
