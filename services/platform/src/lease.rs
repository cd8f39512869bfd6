//! The lease: one word of memory that says how long this controller may answer hosts.
//!
//! Picture a parking meter. Heartbeat feeds it; everybody who parks looks at it before every step, and nobody
//! asks anybody. When heartbeat stalls, the meter runs out by itself, and replies stop without a message.
//!
//! It maps to a file of [`SIZE`] bytes in the controller's `run/` directory, shared as memory:
//!
//! ```text
//! offset  0  u64  magic, written before the file gets its name
//! offset  8  u64  deadline, CLOCK_MONOTONIC in nanoseconds; fresh while now < deadline
//! offset 16  u64  epoch under which the deadline was granted (for reports; it decides nothing)
//! offset 24  ...  zero
//! ```
//!
//! Invariants: one writer, heartbeat. The file is never replaced or truncated while the controller is up: a
//! restarted heartbeat writes into the same memory that targets have mapped. The clock is the kernel's monotonic
//! one, common to all processes of a controller; it goes on while a process is stopped, so a process that
//! was stopped finds the lease expired when it goes on.
//!
//! It must never be written by a reader, and never be read once and remembered: each reply looks again.

use memmap2::{MmapMut, MmapRaw};
use nix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Size of the file in bytes: one cache line, so that nothing else bounces it.
pub const SIZE: u64 = 64;
/// First word of the file.
const MAGIC: u64 = u64::from_le_bytes(*b"PXLEASE1");
const WORD_DEADLINE: usize = 1;
const WORD_EPOCH: usize = 2;

/// Why a lease could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The operating system refused.
    #[error("lease {path}: {operation}: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's answer; `NotFound` while heartbeat has not made the file yet.
        source: io::Error,
    },
    /// The file is not a lease.
    #[error(
        "lease {path}: {what}; stop the controller's daemons and remove the file, heartbeat makes a new one"
    )]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl LeaseError {
    /// Heartbeat has not made the file yet: try again later.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Now, on the clock of the lease: CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    // The kernel has had this clock since 2.6 and never fails for it.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// The shared words.
#[derive(Debug)]
struct Words {
    map: MmapRaw,
}

impl Words {
    fn open(path: &Path, file: &File) -> Result<Self, LeaseError> {
        let io = |operation| {
            move |source| LeaseError::Io {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        let len = file.metadata().map_err(io("read its size"))?.len();
        if len != SIZE {
            let what = format!("it has {len} bytes, a lease has {SIZE}");
            return Err(LeaseError::Damaged {
                path: path.to_owned(),
                what,
            });
        }
        // SAFETY: the file lies in the controller's private run directory; by the rule above nobody truncates
        // it while the controller is up, and it is only ever accessed through the atomics of `word`.
        let map = unsafe { MmapMut::map_mut(file) }.map_err(io("map"))?;
        let words = Self { map: map.into() };
        let magic = words.word(0).load(Ordering::Relaxed);
        if magic != MAGIC {
            let what = format!("it begins with {magic:#018x}, a lease with {MAGIC:#018x}");
            return Err(LeaseError::Damaged {
                path: path.to_owned(),
                what,
            });
        }
        Ok(words)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(
            (index + 1) * 8 <= self.map.len(),
            "word {index} lies outside of the lease"
        );
        // SAFETY: the mapping is page aligned, index * 8 + 8 lies inside (asserted), the memory lives as long as
        // `self`, and every access in every process is atomic.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(index) }
    }
}

/// Heartbeat's end.
#[derive(Debug)]
pub struct Writer {
    words: Words,
}

impl Writer {
    /// Opens the lease, or makes it, expired, where there is none. A lease that is there keeps its deadline:
    /// a restarted heartbeat adopts what its predecessor granted.
    ///
    /// # Errors
    /// [`LeaseError`] where the file cannot be made or is not a lease.
    pub fn open(path: &Path) -> Result<Self, LeaseError> {
        match Self::existing(path) {
            Err(error) if error.is_absent() => {}
            done => return done,
        }
        let io = |operation| {
            move |source| LeaseError::Io {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        // Complete before it has its name, so that no reader ever sees half a lease.
        let draft = path.with_extension(format!("new.{}", std::process::id()));
        let mut bytes = [0u8; SIZE as usize];
        bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        let written = File::create(&draft).and_then(|mut file| file.write_all(&bytes));
        let linked = written.and_then(|()| std::fs::hard_link(&draft, path));
        // The draft has served either way; a leftover draft is overwritten by the next attempt.
        let _ = std::fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io("create")(error)),
            _ => {}
        }
        Self::existing(path)
    }

    fn existing(path: &Path) -> Result<Self, LeaseError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| LeaseError::Io {
                path: path.to_owned(),
                operation: "open",
                source,
            })?;
        Ok(Self {
            words: Words::open(path, &file)?,
        })
    }

    /// Grants the lease until `deadline_ns` (CLOCK_MONOTONIC), under `epoch`. A deadline in the past, such as 0,
    /// revokes it at once. The caller computes it from the *submission* of what proves its right.
    pub fn grant(&self, deadline_ns: u64, epoch: u64) {
        self.words.word(WORD_EPOCH).store(epoch, Ordering::Relaxed);
        self.words
            .word(WORD_DEADLINE)
            .store(deadline_ns, Ordering::Release);
    }

    /// The deadline that stands.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.words.word(WORD_DEADLINE).load(Ordering::Acquire)
    }
}

/// The end of everybody who answers hosts.
#[derive(Debug)]
pub struct Reader {
    words: Words,
}

impl Reader {
    /// Opens the lease that heartbeat has made.
    ///
    /// # Errors
    /// [`LeaseError::is_absent`] while there is none; the caller holds its replies and tries again.
    pub fn open(path: &Path) -> Result<Self, LeaseError> {
        // Mapped writable because the atomics are one type for both ends; no method here stores.
        Ok(Self {
            words: Writer::existing(path)?.words,
        })
    }

    /// What is left of the lease now; `None` when it has run out.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.left_at(now_ns())
    }

    /// The same at a given instant of CLOCK_MONOTONIC.
    #[must_use]
    pub fn left_at(&self, now_ns: u64) -> Option<Duration> {
        let deadline = self.words.word(WORD_DEADLINE).load(Ordering::Acquire);
        deadline
            .checked_sub(now_ns)
            .filter(|left| *left > 0)
            .map(Duration::from_nanos)
    }

    /// Whether a reply may leave now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.left().is_some()
    }

    /// Epoch under which the lease was last granted, for reports.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.words.word(WORD_EPOCH).load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("pollux-lease-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("scratch directory");
            Self(dir)
        }
        fn file(&self) -> PathBuf {
            self.0.join("lease")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn absent_until_the_writer_made_it_and_expired_until_granted() {
        let scratch = Scratch::new("absent");
        assert!(
            Reader::open(&scratch.file())
                .expect_err("nothing there")
                .is_absent()
        );
        let writer = Writer::open(&scratch.file()).expect("writer");
        let reader = Reader::open(&scratch.file()).expect("reader");
        assert!(!reader.is_fresh());
        writer.grant(now_ns() + 60_000_000_000, 7);
        assert!(reader.is_fresh());
        assert_eq!(reader.epoch(), 7);
        writer.grant(0, 7);
        assert!(!reader.is_fresh());
    }

    #[test]
    fn the_deadline_itself_is_too_late() {
        let scratch = Scratch::new("edge");
        let writer = Writer::open(&scratch.file()).expect("writer");
        let reader = Reader::open(&scratch.file()).expect("reader");
        writer.grant(1_000, 1);
        assert_eq!(reader.left_at(999), Some(Duration::from_nanos(1)));
        assert_eq!(reader.left_at(1_000), None);
        assert_eq!(reader.left_at(u64::MAX), None);
    }

    #[test]
    fn a_restarted_writer_adopts_and_readers_follow_it() {
        let scratch = Scratch::new("adopt");
        let far = now_ns() + 60_000_000_000;
        let first = Writer::open(&scratch.file()).expect("writer");
        first.grant(far, 3);
        let reader = Reader::open(&scratch.file()).expect("reader");
        drop(first);
        let second = Writer::open(&scratch.file()).expect("restarted writer");
        assert_eq!(second.deadline_ns(), far);
        second.grant(0, 4);
        assert!(
            !reader.is_fresh(),
            "the reader kept the mapping of the first writer"
        );
    }

    #[test]
    fn what_is_not_a_lease_is_refused_by_name() {
        let scratch = Scratch::new("damage");
        for (bytes, says) in [
            (vec![0u8; 64], "begins with"),
            (vec![1u8; 10], "10 bytes"),
            (vec![], "0 bytes"),
        ] {
            std::fs::write(scratch.file(), &bytes).expect("write");
            let text = Reader::open(&scratch.file()).expect_err("damaged").to_string();
            assert!(text.contains(says), "{text}");
            assert!(
                Writer::open(&scratch.file()).is_err(),
                "the writer must not adopt {says}"
            );
        }
    }
}
