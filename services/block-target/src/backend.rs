//! Where the blocks of a volume are: the seam between the SCSI side and whatever holds the data.
//!
//! A backend takes one operation and answers when it is done for good. It waits by itself for what passes (a
//! connection that comes back, a pool that resumes) and sends again what may be sent twice; the caller bounds how
//! long it is willing to wait. So an error from here is final for the command.

use crate::scsi::Outcome;
use bytes::Bytes;
use pollux_block_frame::{Behalf, Operation};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use tokio::time::Instant;

/// A future that can be stored and sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why an operation has finally failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A reservation on the disks forbids it: this controller no longer holds the pool.
    Conflict,
    /// The medium failed, on every copy.
    Medium,
    /// The range lies beyond the last block.
    OutOfRange,
    /// Compare-and-write found other data; offset in bytes of the first difference.
    Miscompare(u64),
    /// The backing is not there any more, in words.
    Gone(String),
    /// It may or may not have been done, and must not be sent again by us (compare-and-write whose answer was lost).
    InDoubt,
    /// The backing does not know this operation.
    Unsupported,
    /// What the owner of the volume answers the host: a reservation conflict, a unit attention.
    Answered(Outcome),
    /// Another host has preempted this one and aborted its commands.
    Aborted,
    /// The pool has no room for it.
    NoRoom,
}

/// Holds the blocks of one volume.
///
/// Contract: `Read` answers exactly the bytes asked for; `Write` with `fua`, and everything before a `Flush`, is
/// durable when answered; `Unmap`ped blocks read as zeros; `CompareAndWrite` is atomic; what has no room
/// ([`Failure::NoRoom`]) was not begun. LBAs are in the volume's
/// logical blocks. Operations may run side by side; overlapping writes are never given at the same time.
/// Dropping the future gives up waiting; the operation may still be done, unless the backend says otherwise.
pub trait VolumeBackend: Send + Sync + fmt::Debug {
    /// Carries out one operation; the bytes are what was read.
    fn submit(&self, operation: Operation) -> BoxFuture<'_, Result<Bytes, Failure>>;

    /// Dropping the future ends the operation: it takes no effect any more, unless it has.
    fn ends_when_dropped(&self) -> bool {
        false
    }

    /// The same on behalf of a host, for a backend behind which somebody else decides on the host's reservations, and who
    /// must not begin with it after `_begin_by`: the host is told then that it was given up.
    fn submit_for(
        &self,
        _behalf: Option<Behalf>,
        _begin_by: Instant,
        operation: Operation,
    ) -> BoxFuture<'_, Result<Bytes, Failure>> {
        self.submit(operation)
    }
}

/// Whether sending it twice is the same as sending it once.
#[must_use]
pub fn may_be_sent_again(operation: &Operation) -> bool {
    match operation {
        Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::Flush
        | Operation::Unmap { .. }
        | Operation::LbaStatus { .. }
        | Operation::Info
        | Operation::ReservationIn
        // Its identity keeps it from being done twice.
        | Operation::Scsi { .. }
        | Operation::RecordLoad
        | Operation::RecordStore { .. } => true,
        Operation::CompareAndWrite { .. } | Operation::ReservationOut(_) => false,
    }
}

pub mod memory {
    //! A volume in memory: for tests and conformance runs. Same rules as the real thing, no durability; it says what would
    //! not be durable.

    use super::{BoxFuture, Bytes, Failure, Operation, VolumeBackend};
    use pollux_block_frame::{LbaRun, Reply};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// Blocks that were written, by LBA; absent ones read as zeros.
    #[derive(Debug)]
    pub struct Memory {
        block_size: usize,
        blocks: AtomicU64,
        written: Mutex<BTreeMap<u64, Bytes>>,
        /// Blocks that may be written.
        room: AtomicU64,
        record: Mutex<Bytes>,
        /// Blocks that were written without force unit access since the last flush.
        unflushed: Mutex<BTreeSet<u64>>,
    }

    impl Memory {
        /// An empty volume.
        #[must_use]
        pub fn new(block_size: u32, blocks: u64) -> Self {
            Self {
                block_size: block_size as usize,
                blocks: AtomicU64::new(blocks),
                written: Mutex::default(),
                room: AtomicU64::new(u64::MAX),
                record: Mutex::default(),
                unflushed: Mutex::default(),
            }
        }

        /// It has so many blocks from now on.
        pub fn grow(&self, blocks: u64) {
            self.blocks.store(blocks, Ordering::Relaxed);
        }

        /// Blocks whose last write is not durable.
        pub fn unflushed(&self) -> usize {
            self.cache().len()
        }

        fn cache(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
            self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Only so many blocks find room from now on.
        pub fn limit(&self, room: u64) {
            self.room.store(room, Ordering::Relaxed);
        }

        fn has_room(&self, written: &BTreeMap<u64, Bytes>, lba: u64, count: u64) -> bool {
            let more = count - written.range(lba..lba + count).count() as u64;
            written.len() as u64 + more <= self.room.load(Ordering::Relaxed)
        }

        fn record(&self) -> std::sync::MutexGuard<'_, Bytes> {
            self.record.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn apply(&self, operation: Operation) -> Result<Bytes, Failure> {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let blocks = self.blocks.load(Ordering::Relaxed);
            let inside = |lba: u64, count: u64| lba.checked_add(count).is_some_and(|end| end <= blocks);
            let count = |data: &Bytes| (data.len() / self.block_size) as u64;
            let read = |written: &BTreeMap<u64, Bytes>, lba: u64, count: u64| {
                let mut out = vec![0; count as usize * self.block_size];
                for (at, block) in written.range(lba..lba + count) {
                    let start = (at - lba) as usize * self.block_size;
                    out[start..start + self.block_size].copy_from_slice(block);
                }
                out
            };
            let write = |written: &mut BTreeMap<u64, Bytes>, lba: u64, data: &Bytes| {
                for (index, block) in data.chunks_exact(self.block_size).enumerate() {
                    written.insert(lba + index as u64, Bytes::copy_from_slice(block));
                }
            };
            if let Operation::Write { lba, data, .. } | Operation::CompareAndWrite { lba, data, .. } =
                &operation
                && inside(*lba, count(data))
                && !self.has_room(&written, *lba, count(data))
            {
                return Err(Failure::NoRoom);
            }
            match operation {
                Operation::Read { lba, blocks } if inside(lba, blocks.into()) => {
                    Ok(read(&written, lba, blocks.into()).into())
                }
                Operation::Write { lba, data, fua } if inside(lba, count(&data)) => {
                    write(&mut written, lba, &data);
                    let mut cache = self.cache();
                    for lba in lba..lba + count(&data) {
                        match fua {
                            true => cache.remove(&lba),
                            false => cache.insert(lba),
                        };
                    }
                    Ok(Bytes::new())
                }
                Operation::Unmap { lba, blocks } if inside(lba, blocks.into()) => {
                    let gone: Vec<u64> = written
                        .range(lba..lba + u64::from(blocks))
                        .map(|(at, _)| *at)
                        .collect();
                    gone.iter().for_each(|at| drop(written.remove(at)));
                    Ok(Bytes::new())
                }
                Operation::CompareAndWrite {
                    lba, compare, data, ..
                } if inside(lba, count(&data)) => {
                    let found = read(&written, lba, count(&compare));
                    if let Some(offset) = found.iter().zip(&compare).position(|(a, b)| a != b) {
                        return Err(Failure::Miscompare(offset as u64));
                    }
                    write(&mut written, lba, &data);
                    Ok(Bytes::new())
                }
                Operation::LbaStatus { lba, blocks } if inside(lba, blocks.into()) => {
                    let end = lba + u64::from(blocks);
                    let mut runs: Vec<LbaRun> = Vec::new();
                    let mut add = |lba: u64, until: u64, mapped| match runs.last_mut() {
                        _ if lba == until => {}
                        Some(run) if run.mapped == mapped => run.blocks += (until - lba) as u32,
                        _ => runs.push(LbaRun {
                            lba,
                            blocks: (until - lba) as u32,
                            mapped,
                        }),
                    };
                    let mut next = lba;
                    for (at, _) in written.range(lba..end) {
                        add(next, *at, false);
                        add(*at, at + 1, true);
                        next = at + 1;
                    }
                    add(next, end, false);
                    Ok(Reply::lba_status(&runs).payload)
                }
                Operation::Flush => {
                    self.cache().clear();
                    Ok(Bytes::new())
                }
                Operation::RecordLoad => Ok(self.record().clone()),
                Operation::RecordStore { record } => {
                    *self.record() = record;
                    Ok(Bytes::new())
                }
                Operation::Info
                | Operation::ReservationIn
                | Operation::ReservationOut(_)
                | Operation::Scsi { .. } => Err(Failure::Unsupported),
                _ => Err(Failure::OutOfRange),
            }
        }
    }

    impl VolumeBackend for Memory {
        fn submit(&self, operation: Operation) -> BoxFuture<'_, Result<Bytes, Failure>> {
            Box::pin(async move { self.apply(operation) })
        }
    }
}
