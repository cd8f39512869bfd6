//! What a host asks of a volume, whatever the volume is made of: commands are checked, put in order by the ranges that they
//! touch, and answered here; a kind of volume says how its bytes are read and written ([`Blocks`]).
//!
//! With each volume goes its [journal](crate::journal), in two slots next to each other at a place that is no part of what
//! hosts see.

use crate::journal::{self, Found, Place, RECORD_MAX, SLOT_BYTES};
use crate::range::{Guard, Ranges};
use bytes::Bytes;
use futures_util::future::try_join;
use pollux_api::id::VolumeId;
use pollux_block_frame::{
    EndpointInfo, Handler, Hello, LbaRun, MAX_PAYLOAD, Operation, Reply, Request, Status,
};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes per logical block of a volume.
pub(crate) const BLOCK_SIZE: u32 = 512;
/// Bytes per physical block of a volume.
const PHYSICAL_BLOCK_SIZE: u32 = 4096;
/// Detail of [`Status::NoResources`]: there will be no room later either, unless somebody makes some.
pub(crate) const NO_ROOM: u64 = 1;

/// Why a command was not done: a status, with the figure that belongs to it.
#[derive(Debug)]
pub(crate) struct Undone(pub(crate) Status, pub(crate) u64);

impl From<Status> for Undone {
    fn from(status: Status) -> Self {
        Undone(status, 0)
    }
}

/// What stands where of a journal, once it was read. Held while the journal is read or written.
pub(crate) type Journal = tokio::sync::Mutex<Option<Place>>;

/// The bytes of a volume. Ranges are of what hosts see; they have been checked, and are held while they are used.
pub(crate) trait Blocks: Send + Sync + 'static {
    /// The volume.
    fn id(&self) -> VolumeId;
    /// Bytes that hosts see.
    fn size_bytes(&self) -> u64;
    /// Ranges that are in use.
    fn ranges(&self) -> &Ranges;
    /// Takes a range for a change of it; `unmap`: it is to be given back.
    fn claim(&self, at: u64, end: u64, unmap: bool) -> impl Future<Output = Guard<'_>> + Send;
    /// Reads.
    fn read(&self, at: u64, end: u64) -> impl Future<Output = Result<Bytes, Undone>> + Send;
    /// Writes; `durable`: it is answered when nothing loses it any more.
    fn write(&self, at: u64, data: Bytes, durable: bool) -> impl Future<Output = Result<(), Undone>> + Send;
    /// Makes durable what was written before.
    fn flush(&self) -> impl Future<Output = Result<(), Undone>> + Send;
    /// Gives a range back; it reads as zeros.
    fn unmap(&self, at: u64, end: u64) -> impl Future<Output = Result<(), Undone>> + Send;
    /// Parts of a range from its beginning on: their bytes, and whether they have space. It may end before the range does.
    fn mapped(&self, at: u64, end: u64) -> Result<Vec<(u64, bool)>, Undone>;
    /// Its journal, as far as it is known.
    fn journal(&self) -> &Journal;
    /// Where the slots of the journal are; `make`: a place is taken where there is none. None: there is none, and no room.
    fn journal_at(&self, make: bool) -> impl Future<Output = Result<Option<u64>, Undone>> + Send;
    /// Reads a slot.
    fn read_slot(&self, at: u64) -> impl Future<Output = Result<Bytes, Undone>> + Send;
    /// Writes a slot, durably.
    fn write_slot(&self, at: u64, bytes: Bytes) -> impl Future<Output = Result<(), Undone>> + Send;
}

/// The range that so many bytes from a block on are.
fn range<B: Blocks>(blocks: &B, lba: u64, bytes: u64) -> Result<(u64, u64), Status> {
    let at = lba.checked_mul(u64::from(BLOCK_SIZE)).ok_or(Status::OutOfRange)?;
    let end = at.checked_add(bytes).ok_or(Status::OutOfRange)?;
    match end <= blocks.size_bytes() {
        true => Ok((at, end)),
        false => Err(Status::OutOfRange),
    }
}

/// Bytes of whole blocks.
fn whole(data: &Bytes) -> Result<u64, Status> {
    match data.len() as u64 {
        length if length.is_multiple_of(u64::from(BLOCK_SIZE)) => Ok(length),
        _ => Err(Status::BadRequest),
    }
}

async fn carry_out<B: Blocks>(blocks: &B, operation: Operation) -> Result<Reply, Undone> {
    let block = u64::from(BLOCK_SIZE);
    match operation {
        Operation::Info => Ok(Reply::info(&EndpointInfo {
            block_size: BLOCK_SIZE,
            physical_block_size: PHYSICAL_BLOCK_SIZE,
            blocks: blocks.size_bytes() / block,
            id: Uuid::from_bytes(*blocks.id().as_bytes()),
            // What was written without force unit access stays in caches (of disks, of the kernel) until it is flushed.
            volatile_cache: true,
            serial: Uuid::from_bytes(*blocks.id().as_bytes()).simple().to_string(),
        })),
        Operation::Read { lba, blocks: count } => {
            let (at, end) = range(blocks, lba, u64::from(count) * block)?;
            if end - at > u64::from(MAX_PAYLOAD) {
                return Err(Status::BadRequest.into());
            }
            let _range = blocks.ranges().take(at, end, true).await;
            Ok(Reply::data(blocks.read(at, end).await?))
        }
        Operation::Write { lba, data, fua } => {
            let (at, end) = range(blocks, lba, whole(&data)?)?;
            let _range = blocks.claim(at, end, false).await;
            blocks.write(at, data, fua).await?;
            Ok(Reply::ok())
        }
        Operation::Flush => {
            blocks.flush().await?;
            Ok(Reply::ok())
        }
        Operation::Unmap { lba, blocks: count } => {
            let (at, end) = range(blocks, lba, u64::from(count) * block)?;
            let _range = blocks.claim(at, end, true).await;
            blocks.unmap(at, end).await?;
            Ok(Reply::ok())
        }
        Operation::CompareAndWrite {
            lba,
            compare,
            data,
            fua: _,
        } => {
            let (at, end) = range(blocks, lba, whole(&data)?)?;
            let _range = blocks.claim(at, end, false).await;
            let found = blocks.read(at, end).await?;
            if let Some(differs) = found.iter().zip(&compare).position(|(a, b)| a != b) {
                return Ok(Reply::with_detail(Status::Miscompare, differs as u64));
            }
            blocks.write(at, data, true).await?;
            Ok(Reply::ok())
        }
        Operation::LbaStatus { lba, blocks: count } => {
            let (at, end) = range(blocks, lba, u64::from(count) * block)?;
            let (mut lba, mut runs) = (lba, Vec::new());
            for (length, mapped) in blocks.mapped(at, end)? {
                // The range has no more blocks than this figure holds.
                let blocks = (length / block) as u32;
                if blocks > 0 {
                    runs.push(LbaRun { lba, blocks, mapped });
                    lba += u64::from(blocks);
                }
            }
            Ok(Reply::lba_status(&runs))
        }
        Operation::RecordLoad => Ok(Reply::data(record(blocks).await?)),
        Operation::RecordStore { record } => {
            store(blocks, &record).await?;
            Ok(Reply::ok())
        }
        // Hosts' reservations are the block target's; those of the disks are no host's business.
        Operation::ReservationOut(_) | Operation::ReservationIn | Operation::Scsi { .. } => {
            Err(Status::Unsupported.into())
        }
    }
}

async fn slots<B: Blocks>(blocks: &B, at: u64) -> Result<Found, Undone> {
    let (first, second) = try_join(blocks.read_slot(at), blocks.read_slot(at + SLOT_BYTES)).await?;
    Ok(journal::read([&first, &second], blocks.id()))
}

/// The record in force; empty: none was ever.
pub(crate) async fn record<B: Blocks>(blocks: &B) -> Result<Bytes, Undone> {
    let mut place = blocks.journal().lock().await;
    let Some(at) = blocks.journal_at(false).await? else {
        return Ok(Bytes::new());
    };
    match slots(blocks, at).await? {
        Found::Record(found, record) => {
            *place = Some(found);
            Ok(record)
        }
        Found::Damaged(_) => {
            tracing::error!(volume = %blocks.id(), at, "its journal is damaged");
            Err(Status::MediumError.into())
        }
    }
}

/// Puts a record in the place of the one in force.
pub(crate) async fn store<B: Blocks>(blocks: &B, record: &Bytes) -> Result<(), Undone> {
    if record.len() > RECORD_MAX {
        return Err(Status::BadRequest.into());
    }
    let mut known = blocks.journal().lock().await;
    let Some(at) = blocks.journal_at(true).await? else {
        return Err(Undone(Status::NoResources, NO_ROOM));
    };
    let (mut place, count) = match *known {
        Some(place) => (place, 1),
        None => match slots(blocks, at).await? {
            Found::Record(place, _) => (place, 1),
            // Who knows better writes both anew.
            Found::Damaged(place) => (place, 2),
        },
    };
    for _ in 0..count {
        let (sequence, slot) = place.begin();
        if count == 1 {
            *known = Some(place);
        }
        let bytes = journal::encode(blocks.id(), sequence, record);
        blocks.write_slot(at + slot as u64 * SLOT_BYTES, bytes).await?;
        place.stands(slot);
    }
    *known = Some(place);
    Ok(())
}

/// A volume, as a server of block frames has it.
#[derive(Debug)]
pub(crate) struct Commands<B>(pub(crate) Arc<B>);

/// A session of the block target.
#[derive(Debug)]
pub(crate) struct Visitor;

impl<B: Blocks> Handler for Commands<B> {
    type Session = Visitor;

    async fn log_in(&self, _: &Hello) -> Result<Visitor, Status> {
        Ok(Visitor)
    }

    async fn handle(&self, _: &Arc<Visitor>, request: Request) -> Reply {
        let mine = request.volume.is_nil() || request.volume.as_bytes() == self.0.id().as_bytes();
        if !mine {
            return Reply::status(Status::UnknownVolume);
        }
        carry_out(&*self.0, request.operation)
            .await
            .unwrap_or_else(|Undone(status, detail)| Reply::with_detail(status, detail))
    }

    fn ended(&self, _: &Arc<Visitor>) {}
}
