//! Reservation keys on quorum disks, left by whoever had the disk before, and their removal on an operator's word.
//!
//! A quorum disk is a ballot box: both controllers write to it, so nobody of the array ever locks it. A stranger's lock keeps
//! one or both of them from voting; a stranger's key without a lock harms nobody, until somebody locks with it.
//!
//! Elsewhere a key is removed by PREEMPT AND ABORT, which hands the lock over to whoever preempts: for that moment, and for
//! ever if he is killed in it, the partner could not vote. Here all of them go at once, by CLEAR, which leaves no lock:
//!
//! ```text
//!  read: are all that stand there named, and none of this array's?  -> register a key that locks nothing
//!                                                                   -> CLEAR: every key and the lock, ours among them
//!                                                                   -> read back
//!  killed between the two: a key of ours stands there, locks nothing, and goes with the next removal
//! ```
//!
//! Since all go, all have to be named: what an operator did not see is not removed. Commands of who had the key are not
//! aborted, as they are by PREEMPT AND ABORT: one that is under way may still write, as anybody may to a disk without a lock.
//!
//! It must never reserve, nor remove a key of this array: what that is there for, only the pool manager knows.

use crate::quorum::{self, Path};
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_block_frame::key::{owner, remover};
use pollux_block_frame::{Key, ReservationOut, Status};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// The name under which a disk's port knows this session: not that of the decision loop, which would be replaced by it.
const NAME: &str = "heartbeat-keys";
/// Bound of one command.
const WITHIN: Duration = Duration::from_secs(5);
/// Attempts. Each leaves nothing, unless somebody registers meanwhile.
const ROUNDS: usize = 4;

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// A key of this array stands there.
    #[error("{disk}: {key} is a key of controller {of} of this array")]
    Own {
        /// The disk.
        disk: DiskIndex,
        /// The key.
        key: Key,
        /// Whose it is.
        of: ControllerId,
    },
    /// There are others than those that are named.
    #[error("{disk}: {} stands there, too, and all go at once", words(keys))]
    Unnamed {
        /// The disk.
        disk: DiskIndex,
        /// The keys.
        keys: Vec<Key>,
    },
    /// The disk.
    #[error("{disk}: {why}")]
    Disk {
        /// Which.
        disk: DiskIndex,
        /// What it says.
        why: String,
    },
    /// It was done, and keys are there again.
    #[error("{disk}: {} is there again: somebody registers it", words(keys))]
    Again {
        /// The disk.
        disk: DiskIndex,
        /// The keys.
        keys: Vec<Key>,
    },
}

fn words(keys: &[Key]) -> String {
    let words: Vec<String> = keys.iter().map(Key::to_string).collect();
    words.join(", ")
}

/// Removes every key from a quorum disk, and the reservation with them, if these are all that stand there and none is of this
/// array. Answers those that were there, as read before; none: nothing was to be done. With `dry_run` nothing is done.
///
/// # Errors
/// [`ClearError`] says what stands against it. Nothing of ours is left behind but where the disk does not answer any more.
pub async fn clear(path: &Path, named: &BTreeSet<Key>, dry_run: bool) -> Result<BTreeSet<Key>, ClearError> {
    let (array, disk) = (path.array, path.seat.disk);
    let failed = |why: String| ClearError::Disk { disk, why };
    let deadline = || Some(Instant::now() + WITHIN);
    let client = quorum::client(path, NAME).await.map_err(failed)?;
    let passing = remover(array, path.controller);
    let mut removed = BTreeSet::new();
    let mut standing = BTreeSet::new();
    for _ in 0..ROUNDS {
        let status = client
            .reservation_status(deadline())
            .await
            .map_err(|error| failed(error.to_string()))?;
        standing = status.registrants.iter().map(|one| one.key).collect();
        if standing.is_empty() {
            return Ok(removed);
        }
        let own = |key: &Key| owner(array, *key).map(|of| ClearError::Own { disk, key: *key, of });
        if let Some(own) = standing.iter().find_map(own) {
            return Err(own);
        }
        // Ours of a removal that was cut short need not be named: it is as if it had been registered below.
        let theirs: BTreeSet<Key> = standing.iter().copied().filter(|key| *key != passing).collect();
        let unnamed: Vec<Key> = theirs.difference(named).copied().collect();
        if !unnamed.is_empty() {
            return Err(ClearError::Unnamed { disk, keys: unnamed });
        }
        if dry_run {
            return Ok(standing);
        }
        removed.extend(
            standing
                .iter()
                .filter(|key| theirs.contains(*key) || named.contains(*key)),
        );
        let register = ReservationOut::RegisterAndIgnore { new: passing };
        client
            .reservation_out(register, deadline())
            .await
            .map_err(|error| failed(error.to_string()))?;
        match client
            .reservation_out(ReservationOut::Clear { key: passing }, deadline())
            .await
        {
            Ok(()) => {}
            // Somebody else has removed ours meanwhile: looked at again.
            Err(error) if error.status() == Some(Status::ReservationConflict) => {}
            Err(error) => {
                let unregister = ReservationOut::Register {
                    current: passing,
                    new: Key(0),
                };
                let why = match client.reservation_out(unregister, deadline()).await {
                    Ok(()) => error.to_string(),
                    Err(second) => format!("{error}; and {passing} of this controller stays there: {second}"),
                };
                return Err(failed(why));
            }
        }
    }
    let keys = standing.into_iter().collect();
    Err(ClearError::Again { disk, keys })
}
