//! A volume that is a block device of the kernel: block frames in, reads and writes past the page cache out.
//!
//! ```text
//!  | head, 1 MiB: the journal (two slots) | what hosts see ....................................... |
//! ```
//!
//! A command that has reached the kernel is waited for. The device is opened for this process alone, so that nothing mounts
//! what hosts write, and a volume that is still in use is not taken down under them.

use crate::journal::{self, Found, Place, RECORD_MAX, SLOT_BYTES};
use crate::range::Ranges;
use crate::volume::{BLOCK_SIZE, NO_ROOM, PHYSICAL_BLOCK_SIZE, Visitor};
use bytes::Bytes;
use pollux_api::id::VolumeId;
use pollux_api::lvm::HEAD_BYTES;
use pollux_block_frame::{
    EndpointInfo, Handler, Hello, LbaRun, MAX_PAYLOAD, Operation, Reply, Request, Status,
};
use pollux_platform::scsi::ScsiDisk;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Commands of one volume that are in the kernel at a time.
const LANE: usize = 32;
/// Whole chunks of the thin pool can be given back, and read as zeros then; at least as large as its own.
const CHUNK_BYTES: u64 = 64 << 10;
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
    /// Where the record in force stands, once it was read. Held while the journal is read or written.
    journal: tokio::sync::Mutex<Option<Place>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a command was not done: a status, with the figure that belongs to it.
#[derive(Debug)]
struct Undone(Status, u64);

impl From<Status> for Undone {
    fn from(status: Status) -> Self {
        Undone(status, 0)
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
            journal: tokio::sync::Mutex::default(),
        }
    }

    /// Bytes that hosts see.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    /// It has grown.
    pub fn set_size(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
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

    async fn read(&self, at: u64, length: u64) -> Result<Bytes, Undone> {
        self.work(move |node| Ok(Bytes::from_owner(node.read(at, length as usize)?)))
            .await
    }

    async fn write(&self, at: u64, data: Bytes, durable: bool) -> Result<(), Undone> {
        self.work(move |node| node.write(at, &data, durable)).await
    }

    /// The range of the device that belongs to a range of blocks.
    fn range(&self, lba: u64, bytes: u64) -> Result<(u64, u64), Status> {
        let at = lba.checked_mul(u64::from(BLOCK_SIZE)).ok_or(Status::OutOfRange)?;
        let end = at.checked_add(bytes).ok_or(Status::OutOfRange)?;
        match end <= self.size_bytes() {
            true => Ok((HEAD_BYTES + at, HEAD_BYTES + end)),
            false => Err(Status::OutOfRange),
        }
    }

    fn whole(data: &Bytes) -> Result<u64, Status> {
        match data.len() as u64 {
            length if length.is_multiple_of(u64::from(BLOCK_SIZE)) => Ok(length),
            _ => Err(Status::BadRequest),
        }
    }

    async fn carry_out(&self, operation: Operation) -> Result<Reply, Undone> {
        let block = u64::from(BLOCK_SIZE);
        match operation {
            Operation::Info => Ok(Reply::info(&EndpointInfo {
                block_size: BLOCK_SIZE,
                physical_block_size: PHYSICAL_BLOCK_SIZE,
                blocks: self.size_bytes() / block,
                id: Uuid::from_bytes(*self.id.as_bytes()),
                // What was written without force unit access may be lost with a disk's cache or the thin pool's last commit.
                volatile_cache: true,
                serial: Uuid::from_bytes(*self.id.as_bytes()).simple().to_string(),
            })),
            Operation::Read { lba, blocks } => {
                let (at, end) = self.range(lba, u64::from(blocks) * block)?;
                if end - at > u64::from(MAX_PAYLOAD) {
                    return Err(Status::BadRequest.into());
                }
                let _range = self.ranges.take(at, end, true).await;
                Ok(Reply::data(self.read(at, end - at).await?))
            }
            Operation::Write { lba, data, fua } => {
                let (at, end) = self.range(lba, Self::whole(&data)?)?;
                let _range = self.ranges.take(at, end, false).await;
                self.write(at, data, fua).await?;
                Ok(Reply::ok())
            }
            Operation::Flush => {
                self.work(|node| node.flush()).await?;
                Ok(Reply::ok())
            }
            Operation::Unmap { lba, blocks } => {
                let (at, end) = self.range(lba, u64::from(blocks) * block)?;
                let _range = self.ranges.take(at, end, false).await;
                for (whole, mut at, end) in parts(at, end) {
                    while at < end {
                        let part = ZERO_BYTES.min(end - at);
                        self.work(move |node| match whole {
                            true => node.discard(at, part),
                            false => node.zero(at, part),
                        })
                        .await?;
                        at += part;
                    }
                }
                Ok(Reply::ok())
            }
            Operation::CompareAndWrite {
                lba,
                compare,
                data,
                fua: _,
            } => {
                let (at, end) = self.range(lba, Self::whole(&data)?)?;
                let _range = self.ranges.take(at, end, false).await;
                let found = self.read(at, end - at).await?;
                if let Some(differs) = found.iter().zip(&compare).position(|(a, b)| a != b) {
                    return Ok(Reply::with_detail(Status::Miscompare, differs as u64));
                }
                self.write(at, data, true).await?;
                Ok(Reply::ok())
            }
            Operation::LbaStatus { lba, blocks } => {
                self.range(lba, u64::from(blocks) * block)?;
                let mapped = true;
                Ok(Reply::lba_status(&[LbaRun { lba, blocks, mapped }]))
            }
            Operation::RecordLoad => Ok(Reply::data(self.record().await?)),
            Operation::RecordStore { record } => {
                self.keep(&record).await?;
                Ok(Reply::ok())
            }
            // Hosts' reservations are the block target's; those of the disks are no host's business.
            Operation::ReservationOut(_) | Operation::ReservationIn | Operation::Scsi { .. } => {
                Err(Status::Unsupported.into())
            }
        }
    }

    async fn slots(&self) -> Result<Found, Undone> {
        let first = self.read(0, SLOT_BYTES).await?;
        let second = self.read(SLOT_BYTES, SLOT_BYTES).await?;
        Ok(journal::read([&first, &second], self.id))
    }

    async fn record(&self) -> Result<Bytes, Undone> {
        let mut place = self.journal.lock().await;
        match self.slots().await? {
            Found::Record(found, record) => {
                *place = Some(found);
                Ok(record)
            }
            Found::Damaged(_) => {
                tracing::error!(volume = %self.id, "its journal is damaged");
                Err(Status::MediumError.into())
            }
        }
    }

    async fn keep(&self, record: &Bytes) -> Result<(), Undone> {
        if record.len() > RECORD_MAX {
            return Err(Status::BadRequest.into());
        }
        let mut known = self.journal.lock().await;
        let (mut place, slots) = match *known {
            Some(place) => (place, 1),
            None => match self.slots().await? {
                Found::Record(place, _) => (place, 1),
                // Who knows better writes both anew.
                Found::Damaged(place) => (place, 2),
            },
        };
        for _ in 0..slots {
            let (sequence, slot) = place.begin();
            if slots == 1 {
                *known = Some(place);
            }
            let bytes = journal::encode(self.id, sequence, record);
            self.write(slot as u64 * SLOT_BYTES, bytes, true).await?;
            place.stands(slot);
        }
        *known = Some(place);
        Ok(())
    }

    /// What the block target keeps here, for a volume that becomes what it was: the record is not older for that.
    ///
    /// # Errors
    /// The status of the command that failed.
    pub async fn take_record(&self) -> Result<Bytes, Status> {
        self.record().await.map_err(|Undone(status, _)| status)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// The status of the command that failed.
    pub async fn put_record(&self, record: &Bytes) -> Result<(), Status> {
        self.keep(record).await.map_err(|Undone(status, _)| status)
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

impl Handler for Device {
    type Session = Visitor;

    async fn log_in(&self, _: &Hello) -> Result<Visitor, Status> {
        Ok(Visitor)
    }

    async fn handle(&self, _: &Arc<Visitor>, request: Request) -> Reply {
        let mine = request.volume.is_nil() || request.volume.as_bytes() == self.id.as_bytes();
        if !mine {
            return Reply::status(Status::UnknownVolume);
        }
        self.carry_out(request.operation)
            .await
            .unwrap_or_else(|Undone(status, detail)| Reply::with_detail(status, detail))
    }

    fn ended(&self, _: &Arc<Visitor>) {}
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
