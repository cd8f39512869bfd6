//! Which mutant is on: a number in the environment, read once. Part of the rewritten copy alone.

extern crate std;

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

static ACTIVE: OnceLock<usize> = OnceLock::new();
static REACHED: [AtomicU8; 20_000] = [const { AtomicU8::new(0) }; 20_000];

/// The mutant of this number is on. Where a file is named for it, each number is written there when it is first asked.
pub(crate) fn on(number: usize) -> bool {
    let active = *ACTIVE.get_or_init(|| {
        let active = std::env::var("POLLUX_MUTANT").ok();
        active.and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
    });
    if REACHED[number].load(Ordering::Relaxed) == 0
        && REACHED[number].swap(1, Ordering::Relaxed) == 0
        && let Some(path) = std::env::var_os("POLLUX_MUTANTS_REACHED")
    {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let line = std::format!("{number}\n");
        // Whoever counts what was reached must not count too little.
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            panic!("the file of what was reached: {error}");
        }
    }
    number == active
}
