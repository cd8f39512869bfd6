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
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
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

/// The mark of a key of an array, and of one that is there for a moment, to remove others; as pool-manager writes them.
const MARK: u64 = 0xa;
const REMOVER: u64 = 0xb;

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

/// The low bits of a key by which arrays are told apart.
fn tag(array: ArrayId) -> u64 {
    let bytes = array.as_bytes().iter();
    bytes.fold(0, |tag, byte| tag ^ u64::from(*byte))
}

/// The controller that has registered this key, if it is one of this array.
#[must_use]
pub fn owner(array: ArrayId, key: Key) -> Option<ControllerId> {
    match (key.0 >> 60, key.0 >> 56 & 0xf, key.0 >> 48 & 0xff) {
        (MARK, 1, found) if found == tag(array) => Some(ControllerId::A),
        (MARK, 2, found) if found == tag(array) => Some(ControllerId::B),
        _ => None,
    }
}

/// The key under which a controller removes others.
#[must_use]
pub fn remover(array: ArrayId, controller: ControllerId) -> Key {
    let controller = controller.index() as u64 + 1;
    Key(REMOVER << 60 | controller << 56 | tag(array) << 48 | 1)
}

/// As people write it: 16 hexadecimal digits, with or without `0x`.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Key, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = u64::from_str_radix(digits, 16)
        .ok()
        .filter(|key| plain && *key != 0);
    key.map(Key)
        .ok_or_else(|| format!("{text:?} is no key: 0x and 16 hexadecimal digits, and not zero"))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ARRAY: ArrayId = ArrayId::from_bytes(*b"0123456789abcdef");

    #[test]
    fn a_key_of_this_array_is_known_and_no_other() {
        let mine =
            |mark: u64, controller: u64| Key(mark << 60 | controller << 56 | tag(ARRAY) << 48 | 7 << 24 | 3);
        assert_eq!(owner(ARRAY, mine(MARK, 1)), Some(ControllerId::A));
        assert_eq!(owner(ARRAY, mine(MARK, 2)), Some(ControllerId::B));
        let other = ArrayId::from_bytes(*b"another array :)");
        for key in [
            mine(MARK, 3),
            mine(5, 1),
            remover(ARRAY, ControllerId::B),
            Key(0x1234),
        ] {
            assert_eq!(owner(ARRAY, key), None, "{key}");
        }
        assert_eq!(owner(other, mine(MARK, 1)), None);
    }

    #[test]
    fn a_key_is_read_as_it_is_shown() {
        for key in [Key(1), remover(ARRAY, ControllerId::A)] {
            assert_eq!(parse(&key.to_string()), Ok(key));
        }
        assert_eq!(parse("00000000000012aF"), Ok(Key(0x12af)));
        for wrong in [
            "",
            "0x",
            "12",
            "0x0000000000000000",
            "0x+000000000001234",
            "g000000000001234",
        ] {
            assert!(
                parse(wrong).is_err_and(|why| why.contains("16 hexadecimal digits")),
                "{wrong}"
            );
        }
    }
}
