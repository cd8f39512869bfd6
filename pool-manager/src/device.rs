//! A volume that is a block device of the kernel: block frames in, reads and writes past the page cache out.
//!
//! ```text
//!  | head, 1 MiB: the journal (two slots) | what hosts see ....................................... |
//! ```
//!
//! A command that has reached the kernel is waited for. The device is opened for this process alone, so that nothing mounts
//! what hosts write, and a volume that is still in use is not taken down under them.

use crate::commands::{self, Blocks, Journal, NO_ROOM, Undone};
use crate::journal::SLOT_BYTES;
use crate::range::{Guard, Ranges};
use bytes::Bytes;
use pollux_api::id::VolumeId;
use pollux_api::lvm::HEAD_BYTES;
use pollux_block_frame::Status;
use pollux_platform::scsi::ScsiDisk;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Commands of one volume that are in the kernel at a time.
const LANE: usize = 32;
/// Whole chunks of the thin pool can be given back, and read as zeros then; at least as large as its own. The head is whole
/// chunks, so that a chunk of the device is one of what hosts see.
const CHUNK_BYTES: u64 = 64 << 10;
const _: () = assert!(HEAD_BYTES.is_multiple_of(CHUNK_BYTES) && HEAD_BYTES >= 2 * SLOT_BYTES);
/// Most bytes that are zeroed by one call.
const ZERO_BYTES: u64 = 32 << 20;

/// A block device of the kernel, or what stands for one.
pub type Node = Arc<dyn ScsiDisk>;

/// A volume of an imported pool.
pub struct Device {
    id: VolumeId,
    node: Node,
    size_bytes: AtomicU64,
    ranges: Ranges,
    lane: Semaphore,
    journal: Journal,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl From<io::Error> for Undone {
    fn from(error: io::Error) -> Self {
        const ENOSPC: i32 = 28;
        const EBADE: i32 = 52;
        match error.raw_os_error() {
            // The thin pool is full: there will be no room later either, unless somebody makes some.
            Some(ENOSPC) => Undone(Status::NoResources, NO_ROOM),
            Some(EBADE) => Status::NotOwner.into(),
            _ => Status::MediumError.into(),
        }
    }
}

impl Device {
    /// The volume behind an open node.
    pub fn new(id: VolumeId, node: Node, size_bytes: u64) -> Self {
        Device {
            id,
            node,
            size_bytes: AtomicU64::new(size_bytes),
            ranges: Ranges::default(),
            lane: Semaphore::new(LANE),
            journal: Journal::default(),
        }
    }

    /// It has grown.
    pub fn set_size(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
    }

    /// Bytes that hosts see.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    /// Does something in a blocking thread, to its end.
    async fn work<T, F>(&self, work: F) -> Result<T, Undone>
    where
        T: Send + 'static,
        F: FnOnce(&dyn ScsiDisk) -> io::Result<T> + Send + 'static,
    {
        // Never closed.
        let _place = self.lane.acquire().await;
        let node = self.node.clone();
        match tokio::task::spawn_blocking(move || work(&*node)).await {
            Ok(done) => done.map_err(|error| {
                tracing::warn!(volume = %self.id, %error, "a command of a volume failed");
                error.into()
            }),
            Err(_) => Err(Status::MediumError.into()),
        }
    }

    /// What the block target keeps here, for a volume that becomes what it was: the record is not older for that.
    ///
    /// # Errors
    /// The status of the command that failed.
    pub async fn take_record(&self) -> Result<Bytes, Status> {
        commands::record(self).await.map_err(|Undone(status, _)| status)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// The status of the command that failed.
    pub async fn put_record(&self, record: &Bytes) -> Result<(), Status> {
        let stored = commands::store(self, record).await;
        stored.map_err(|Undone(status, _)| status)
    }
}

/// The parts of a range that is given back: whole chunks of the thin pool, and what is written over with zeros beside them.
fn parts(at: u64, end: u64) -> Vec<(bool, u64, u64)> {
    let (from, until) = (at.next_multiple_of(CHUNK_BYTES), end / CHUNK_BYTES * CHUNK_BYTES);
    match from < until {
        true => vec![(false, at, from), (true, from, until), (false, until, end)],
        false => vec![(false, at, end)],
    }
}

impl Blocks for Device {
    fn id(&self) -> VolumeId {
        self.id
    }

    fn size_bytes(&self) -> u64 {
        Device::size_bytes(self)
    }

    fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    async fn claim(&self, at: u64, end: u64, _: bool) -> Guard<'_> {
        self.ranges.take(at, end, false).await
    }

    async fn read(&self, at: u64, end: u64) -> Result<Bytes, Undone> {
        self.work(move |node| {
            Ok(Bytes::from_owner(
                node.read(HEAD_BYTES + at, (end - at) as usize)?,
            ))
        })
        .await
    }

    async fn write(&self, at: u64, data: Bytes, durable: bool) -> Result<(), Undone> {
        self.work(move |node| node.write(HEAD_BYTES + at, &data, durable))
            .await
    }

    async fn flush(&self) -> Result<(), Undone> {
        self.work(|node| node.flush()).await
    }

    async fn unmap(&self, at: u64, end: u64) -> Result<(), Undone> {
        for (whole, mut at, end) in parts(at, end) {
            while at < end {
                let part = ZERO_BYTES.min(end - at);
                self.work(move |node| match whole {
                    true => node.discard(HEAD_BYTES + at, part),
                    false => node.zero(HEAD_BYTES + at, part),
                })
                .await?;
                at += part;
            }
        }
        Ok(())
    }

    /// What the thin pool has given to it, it does not say.
    fn mapped(&self, at: u64, end: u64) -> Result<Vec<(u64, bool)>, Undone> {
        Ok(vec![(end - at, true)])
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    async fn journal_at(&self, _: bool) -> Result<Option<u64>, Undone> {
        Ok(Some(0))
    }

    async fn read_slot(&self, at: u64) -> Result<Bytes, Undone> {
        self.work(move |node| Ok(Bytes::from_owner(node.read(at, SLOT_BYTES as usize)?)))
            .await
    }

    async fn write_slot(&self, at: u64, bytes: Bytes) -> Result<(), Undone> {
        self.work(move |node| node.write(at, &bytes, true)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_chunks_are_given_back() {
        const CHUNK: u64 = CHUNK_BYTES;
        assert_eq!(
            parts(CHUNK - 512, 3 * CHUNK + 512),
            [
                (false, CHUNK - 512, CHUNK),
                (true, CHUNK, 3 * CHUNK),
                (false, 3 * CHUNK, 3 * CHUNK + 512)
            ]
        );
        assert_eq!(parts(512, CHUNK), [(false, 512, CHUNK)]);
        assert_eq!(
            parts(0, CHUNK),
            [(false, 0, 0), (true, 0, CHUNK), (false, CHUNK, CHUNK)]
        );
    }
}
