//! A volume whose extents are given one by one: thin volumes, and every volume of which there are snapshots.
//!
//! | event | order |
//! |---|---|
//! | first write into an extent | zeros on the new extent, the data on it, the page that leads to it; then the answer |
//! | write into an extent that a snapshot shares | a copy with the data on a new extent, the page; then the answer |
//! | unmap of a whole extent | the page that leads nowhere; the extent is given back; then the answer |
//! | unmap of a part | zeros |
//! | snapshot | the volume stands still; a copy of its table; the label that names it; the volume goes on |
//!
//! So at each point in time the table on the disks leads to whole extents only, and what was not answered is there or
//! not. The [`Map`] says what may be given back when. A write that may stay in the disks' caches does so only where it
//! needs no new extent: what a table leads to must be the volume's own, also after a loss of power.
//!
//! The caller holds the range of a command against others, and whole extents where [`Mapped::settled`] says no. It must
//! never: begin a write before it has all the extents that it needs; let an extent go that a page on the disks leads to.

use crate::extents::{Misplaced, Space};
use crate::label::EXTENT_BYTES;
use crate::map::Map;
use crate::mirror::{Mirror, MirrorError};
use crate::table::{self, Damaged, Owner, PAGE};
use bytes::{Bytes, BytesMut};
use futures_util::future::{join_all, try_join_all};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error as ThisError;

/// Pages of a table are read in pieces of so many bytes.
const READ_PIECE: u64 = EXTENT_BYTES;

/// Where the bytes of a pool are: a mirror, or what stands for it in a test.
pub trait Store: Send + Sync + fmt::Debug {
    /// Reads a range of the pool's data.
    fn read(&self, at: u64, length: u64) -> impl Future<Output = Result<Bytes, MirrorError>> + Send;
    /// Writes, durably.
    fn write(&self, at: u64, data: Bytes) -> impl Future<Output = Result<(), MirrorError>> + Send;
    /// Writes; durable with the next flush.
    fn write_cached(&self, at: u64, data: Bytes) -> impl Future<Output = Result<(), MirrorError>> + Send;
    /// Zeros, durably.
    fn zero(&self, at: u64, length: u64) -> impl Future<Output = Result<(), MirrorError>> + Send;
}

impl Store for Mirror {
    fn read(&self, at: u64, length: u64) -> impl Future<Output = Result<Bytes, MirrorError>> + Send {
        self.read(at, length)
    }

    fn write(&self, at: u64, data: Bytes) -> impl Future<Output = Result<(), MirrorError>> + Send {
        self.write(at, data)
    }

    fn write_cached(&self, at: u64, data: Bytes) -> impl Future<Output = Result<(), MirrorError>> + Send {
        self.write_cached(at, data)
    }

    fn zero(&self, at: u64, length: u64) -> impl Future<Output = Result<(), MirrorError>> + Send {
        self.unmap(at, length)
    }
}

/// Why a command on such a volume was not done.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum MappedError {
    /// The pool has no extent for it. Nothing was done.
    #[error("no extent of the pool is free")]
    NoRoom,
    /// The mirror has failed it.
    #[error("{0}")]
    Mirror(#[from] MirrorError),
}

/// Why a table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Unreadable {
    /// The mirror has failed it.
    #[error("{0}")]
    Mirror(#[from] MirrorError),
    /// Its bytes mean nothing.
    #[error("{0}")]
    Damaged(#[from] Damaged),
    /// It leads where it cannot.
    #[error("{0}")]
    Misplaced(#[from] Misplaced),
}

/// Reads the table of a volume or a snapshot with so many extents.
///
/// # Errors
/// [`Unreadable`]: the pool cannot be read now, or the table is damaged.
pub async fn read_table(
    store: &impl Store,
    owner: Owner,
    table: &[u64],
    extents: u64,
) -> Result<Map, Unreadable> {
    let count = table::pages(extents);
    let mut pages = Vec::with_capacity(count as usize);
    let mut bytes = count * 2 * PAGE;
    for extent in table {
        let length = bytes.min(READ_PIECE);
        if length == 0 {
            break;
        }
        let piece = store.read(extent * EXTENT_BYTES, length).await?;
        for places in piece.chunks_exact(2 * PAGE as usize) {
            let (first, second) = places.split_at(PAGE as usize);
            pages.push(table::decode(owner, pages.len() as u64, [first, second])?);
        }
        bytes -= length;
    }
    Ok(Map::new(owner, table.to_vec(), extents, pages))
}

/// What one extent of a write needs.
#[derive(Debug)]
struct Step {
    /// The extent of the volume.
    extent: u64,
    /// Where the data goes in it.
    from: u64,
    data: Bytes,
    to: To,
    fua: bool,
}

#[derive(Clone, Copy, Debug)]
enum To {
    /// Into the extent that is the volume's own.
    Own(u64),
    /// Into a new one, over a copy of what stands in the shared one, or over zeros.
    New { taken: u64, over: Option<u64> },
}

/// The extents of one volume.
#[derive(Debug)]
pub struct Mapped<S> {
    store: Arc<S>,
    space: Arc<Space>,
    map: Mutex<Map>,
    /// Held while a page is written: whoever waits finds its change durable already.
    writer: tokio::sync::Mutex<()>,
    /// Unmapped extents are given back; otherwise they stay, and are zeroed.
    thin: AtomicBool,
}

impl<S: Store> Mapped<S> {
    /// A volume with this map, whose extents `space` knows of.
    pub fn new(store: Arc<S>, space: Arc<Space>, map: Map, thin: bool) -> Self {
        Mapped {
            store,
            space,
            map: Mutex::new(map),
            writer: tokio::sync::Mutex::default(),
            thin: AtomicBool::new(thin),
        }
    }

    /// Looks at the map.
    pub fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extents are given when they are first written, and given back.
    pub fn is_thin(&self) -> bool {
        self.thin.load(Ordering::Relaxed)
    }

    /// It is thin, or thick, from now on.
    pub fn set_thin(&self, thin: bool) {
        self.thin.store(thin, Ordering::Relaxed);
    }

    /// A write of this range needs no new extent and no page: it is held by its bytes alone.
    pub fn settled(&self, at: u64, end: u64) -> bool {
        let map = self.map();
        extents(at, end).all(|extent| {
            let own = map
                .get(extent)
                .is_some_and(|place| !self.space.with(|extents| extents.is_shared(place)));
            own && map.is_settled(extent)
        })
    }

    /// Extents that it shares with snapshots, and those that are its own.
    pub fn shared_and_own(&self) -> (u64, u64) {
        let map = self.map();
        let shared = |extent: &u64| self.space.with(|extents| extents.is_shared(*extent));
        let (shared, own): (Vec<u64>, Vec<u64>) = map.mapped().partition(shared);
        (shared.len() as u64, own.len() as u64)
    }

    /// Reads.
    ///
    /// # Errors
    /// What the mirror says.
    pub async fn read(&self, at: u64, end: u64) -> Result<Bytes, MirrorError> {
        let parts = self.segments(at, end);
        if let [(Some(at), length)] = parts[..] {
            return self.store.read(at, length).await;
        }
        let parts = parts.into_iter().map(async |(place, length)| match place {
            Some(at) => self.store.read(at, length).await,
            None => Ok(vec![0; length as usize].into()),
        });
        let parts = try_join_all(parts).await?;
        let mut all = BytesMut::with_capacity((end - at) as usize);
        parts.iter().for_each(|part| all.extend_from_slice(part));
        Ok(all.freeze())
    }

    /// Where a range stands, in order; neighbours are one.
    fn segments(&self, at: u64, end: u64) -> Vec<(Option<u64>, u64)> {
        let map = self.map();
        let mut out: Vec<(Option<u64>, u64)> = Vec::new();
        for (extent, from, length) in pieces(at, end) {
            let place = map.get(extent).map(|place| place * EXTENT_BYTES + from);
            match out.last_mut() {
                Some((None, size)) if place.is_none() => *size += length,
                Some((Some(last), size)) if place == Some(*last + *size) => *size += length,
                _ => out.push((place, length)),
            }
        }
        out
    }

    /// Which parts of a range have extents of the pool: (length, mapped), in order, at most `most`.
    pub fn status(&self, at: u64, end: u64, most: usize) -> Vec<(u64, bool)> {
        let map = self.map();
        let mut out: Vec<(u64, bool)> = Vec::new();
        for (extent, _, length) in pieces(at, end) {
            let mapped = map.get(extent).is_some();
            let full = out.len() == most;
            match out.last_mut() {
                Some((size, last)) if *last == mapped => *size += length,
                _ if full => break,
                _ => out.push((length, mapped)),
            }
        }
        out
    }

    /// Writes; with `fua` durable when it returns, otherwise with the next flush.
    ///
    /// # Errors
    /// [`MappedError::NoRoom`]: nothing was done. Otherwise it may have been done in part, and may be done again.
    pub async fn write(&self, at: u64, data: Bytes, fua: bool) -> Result<(), MappedError> {
        let end = at + data.len() as u64;
        let mut rest = data;
        let parts =
            pieces(at, end).map(|(extent, from, length)| (extent, from, rest.split_to(length as usize)));
        let steps = self.plan(parts.collect(), fua)?;
        self.carry(steps).await?;
        self.settle(extents(at, end)).await?;
        Ok(())
    }

    /// Takes every extent that these need, or none.
    fn plan(&self, parts: Vec<(u64, u64, Bytes)>, fua: bool) -> Result<Vec<Step>, MappedError> {
        let mut map = self.map();
        let promised = !self.is_thin();
        self.space.with(|space| {
            let (mut steps, mut fresh) = (Vec::with_capacity(parts.len()), Vec::new());
            for (extent, from, data) in parts {
                let over = map.get(extent);
                let to = match over {
                    Some(own) if !space.is_shared(own) => To::Own(own),
                    over => {
                        let taken = map.spare(extent).or_else(|| {
                            let (taken, redeemed) = space.take_one(promised)?;
                            map.keep(extent, taken);
                            fresh.push((extent, redeemed));
                            Some(taken)
                        });
                        let Some(taken) = taken else {
                            for (extent, redeemed) in fresh {
                                if let Some(taken) = map.discard(extent) {
                                    space.release(taken);
                                    space.promise(space.promised() + u64::from(redeemed));
                                }
                            }
                            return Err(MappedError::NoRoom);
                        };
                        To::New { taken, over }
                    }
                };
                steps.push(Step {
                    extent,
                    from,
                    data,
                    to,
                    fua,
                });
            }
            Ok(steps)
        })
    }

    /// Brings data to where it goes, and changes the map where that is elsewhere than before.
    async fn carry(&self, steps: Vec<Step>) -> Result<(), MirrorError> {
        // Every part runs to its end, so that nothing is under way any more when the range is given back.
        let done = join_all(steps.into_iter().map(|step| self.step(step))).await;
        done.into_iter().collect()
    }

    async fn step(&self, step: Step) -> Result<(), MirrorError> {
        let Step {
            extent,
            from,
            data,
            to,
            fua,
        } = step;
        let (taken, over) = match to {
            To::Own(own) if fua => return self.store.write(own * EXTENT_BYTES + from, data).await,
            To::Own(own) => return self.store.write_cached(own * EXTENT_BYTES + from, data).await,
            To::New { taken, over } => (taken, over),
        };
        let at = taken * EXTENT_BYTES;
        match over {
            _ if data.len() as u64 == EXTENT_BYTES => self.store.write(at, data).await?,
            None => {
                // Whoever had the extent before must not be read here, and legs that never were equal become so.
                self.store.zero(at, EXTENT_BYTES).await?;
                self.store.write(at + from, data).await?;
            }
            Some(shared) => {
                let mut whole =
                    BytesMut::from(&self.store.read(shared * EXTENT_BYTES, EXTENT_BYTES).await?[..]);
                whole[from as usize..from as usize + data.len()].copy_from_slice(&data);
                self.store.write(at, whole.freeze()).await?;
            }
        }
        self.map().set(extent, Some(taken));
        Ok(())
    }

    /// Unmaps a range of a volume of `size` bytes: whole extents are given back, parts of others are zeroed; durable
    /// when it returns.
    ///
    /// # Errors
    /// As [`write`](Self::write): a part of an extent that a snapshot shares needs a new one.
    pub async fn unmap(&self, at: u64, end: u64, size: u64) -> Result<(), MappedError> {
        let (mut zeros, mut copies, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        {
            let map = self.map();
            for (extent, from, length) in pieces(at, end) {
                let Some(place) = map.get(extent) else { continue };
                let there = EXTENT_BYTES.min(size.saturating_sub(extent * EXTENT_BYTES));
                if self.is_thin() && from == 0 && length >= there {
                    whole.push(extent);
                } else if self.space.with(|extents| extents.is_shared(place)) {
                    copies.push((extent, from, Bytes::from(vec![0; length as usize])));
                } else {
                    zeros.push((place * EXTENT_BYTES + from, length));
                }
            }
        }
        let steps = self.plan(copies, true)?;
        let zeroed = join_all(zeros.into_iter().map(|(at, length)| self.store.zero(at, length)));
        let (zeroed, carried) = futures_util::future::join(zeroed, self.carry(steps)).await;
        zeroed.into_iter().collect::<Result<(), _>>()?;
        carried?;
        {
            let mut map = self.map();
            whole.iter().for_each(|extent| map.set(*extent, None));
        }
        self.settle(extents(at, end)).await?;
        Ok(())
    }

    /// Gives an extent of a thick volume its place, zeroed, if it has none yet.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn fill(&self, extent: u64) -> Result<(), MappedError> {
        if self.map().get(extent).is_none() {
            // The smallest write there is: the rest of a new extent is zeroed for it.
            let zeros = Bytes::from(vec![0; PAGE as usize]);
            self.write(extent * EXTENT_BYTES, zeros, true).await?;
        }
        Ok(())
    }

    /// Makes the entries of these extents durable.
    ///
    /// # Errors
    /// What the mirror says; they are made durable before anything in these extents is answered.
    pub async fn settle(&self, extents: Range<u64>) -> Result<(), MirrorError> {
        if self.map().unsettled(extents.clone()).is_empty() {
            return Ok(());
        }
        let _one = self.writer.lock().await;
        let pages = self.map().unsettled(extents);
        for page in pages {
            let write = self.map().begin(page);
            self.store.write(write.at, write.bytes.clone()).await?;
            let gone = self.map().stands(&write);
            self.space
                .with(|space| gone.into_iter().for_each(|extent| space.release(extent)));
        }
        Ok(())
    }

    /// Writes a copy of its table for another owner, into extents that have been zeroed. The caller holds the whole
    /// volume, and everything is settled.
    ///
    /// # Errors
    /// What the mirror says.
    pub async fn copy(&self, owner: Owner, table: &[u64]) -> Result<(), MirrorError> {
        let pages: Vec<_> = self.map().copies(owner, table).collect();
        for (at, page) in pages {
            self.store.write(at, page).await?;
        }
        Ok(())
    }
}

/// The extents of a range.
fn extents(at: u64, end: u64) -> Range<u64> {
    at / EXTENT_BYTES..end.div_ceil(EXTENT_BYTES)
}

/// A range, extent by extent: (extent, where in it, how much).
fn pieces(at: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    extents(at, end).filter_map(move |extent| {
        let start = extent * EXTENT_BYTES;
        let (from, until) = (at.max(start), end.min(start + EXTENT_BYTES));
        (from < until).then(|| (extent, from - start, until - from))
    })
}

#[cfg(test)]
mod tests;
