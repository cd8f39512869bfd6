//! Many seeds at once: each play on one thread, as many plays as there are processors.
//!
//! What is counted is a sum and does not depend on who played what; the seed that is named after a failure is the first
//! one of all that fail, because every seed before it is played to its end.

use crate::play::{Failure, Total, run};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What became of a range of seeds.
#[derive(Debug, Default)]
pub struct Played {
    /// What was seen. After a failure that ended the run it covers a few seeds more than those before it.
    pub total: Total,
    /// Seeds that failed, in their order; without `go_on` the first alone.
    pub failures: Vec<Failure>,
}

/// Plays every seed of a range on `threads` threads, or up to the first that fails.
#[must_use]
pub fn run_all(seeds: Range<u64>, threads: usize, go_on: bool) -> Played {
    let next = AtomicU64::new(seeds.start);
    // No seed from here on is begun.
    let end = AtomicU64::new(seeds.end);
    let played = Mutex::new(Played::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut mine = Played::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(failure) = run(seed, &mut mine.total) {
                        mine.failures.push(failure);
                        if !go_on {
                            end.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                }
                let mut all = played.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                all.total.add(&mine.total);
                all.failures.append(&mut mine.failures);
            });
        }
    });
    let mut played = played
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    played.failures.sort_by_key(|failure| failure.seed);
    if !go_on {
        played.failures.truncate(1);
    }
    played
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_nothing_that_is_seen() {
        let [one, three] = [1, 3].map(|threads| run_all(100..112, threads, true));
        assert!(one.failures.is_empty() && three.failures.is_empty());
        assert_eq!(one.total.to_string(), three.total.to_string());
        assert_eq!(one.total.coverage(), three.total.coverage());
    }
}
