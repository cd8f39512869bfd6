//! The stranger at every door: each place that takes bytes from outside is a target, a function of bytes that must
//! come back, whatever they are.
//!
//! ```text
//!  corpus/<target>/*  +  seeds (made by the encoders)
//!            |
//!            +--> replayed, and mutated blindly for a moment:  tests/corpus.rs, always
//!            +--> mutated where coverage says that it pays:     guided.rs (libFuzzer), `cargo fuzz-long`
//! ```
//!
//! What every target demands: no panic, no more memory at once than [`Target::memory`] says, an end; and where an
//! encoder exists, that what was decoded is encoded to the same bytes again. Checksums and lengths are made right on
//! purpose where they would only keep the search from what lies behind them; each target also takes its bytes raw.
//!
//! A target never reads a clock, never draws a random number and never looks at what an earlier input left behind: a
//! file of the corpus finds tomorrow what it found today.

#![forbid(unsafe_code)]

pub mod blind;
pub mod script;
mod targets;

use peak_alloc::PeakAlloc;
use std::io;
use std::path::{Path, PathBuf};

pub use targets::TARGETS;

/// Counts what is allocated, so that [`Target::run`] can bound it.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One door.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, also of its folder in the corpus.
    pub name: &'static str,
    /// Longest input that is worth trying, bytes.
    pub longest: usize,
    /// Most bytes that may be allocated at the same time while it runs: decoded values, and everything that stands
    /// around the decoder.
    pub memory: usize,
    /// Takes the bytes; panics where a promise is broken.
    pub take: fn(&[u8]),
    /// Sound inputs, from which a search starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Runs the target on one input.
    ///
    /// # Panics
    /// A promise is broken: that of the target, or the bound of its memory. (Other threads that allocate meanwhile are
    /// counted too.)
    pub fn run(&self, data: &[u8]) {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        (self.take)(data);
        let taken = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(
            taken <= self.memory,
            "{}: {taken} bytes of memory for an input of {} bytes; at most {}",
            self.name,
            data.len(),
            self.memory
        );
    }

    /// Its folder in the corpus.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// Files of its corpus with their contents, by name. None without a folder.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn corpus(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let entries = match std::fs::read_dir(self.folder()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        let read = |path: PathBuf| std::fs::read(&path).map(|bytes| (path, bytes));
        paths.into_iter().map(read).collect()
    }
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
