//! What can go wrong in the lab, apart from what a case is there to find.

use std::fmt::Display;
use std::path::Path;

/// A step that could not be taken, or a state that was not reached in time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine lacks something without which nothing can run; the reason of a SKIPPED.
    #[error("{0}")]
    Missing(String),
    /// A step failed.
    #[error("{what}: {why}")]
    Step {
        /// The step.
        what: String,
        /// Why, and what would be right where that is known.
        why: String,
    },
    /// A state was not reached in time.
    #[error("{what}: not so after {} s; last seen: {seen}", waited_ms / 1000)]
    Late {
        /// The state.
        what: String,
        /// The bound.
        waited_ms: u64,
        /// What was there instead.
        seen: String,
    },
    /// What a case is there to find: a promise was not kept.
    #[error("{what}: {seen}")]
    Broken {
        /// The promise.
        what: String,
        /// What was seen instead.
        seen: String,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A step that failed.
    pub fn step(what: impl Into<String>, why: impl Display) -> Self {
        Self::Step {
            what: what.into(),
            why: why.to_string(),
        }
    }

    /// A promise that was not kept.
    pub fn broken(what: impl Into<String>, seen: impl Display) -> Self {
        Self::Broken {
            what: what.into(),
            seen: seen.to_string(),
        }
    }

    /// A step on a file that failed; for `map_err`.
    pub fn file<E: Display>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let what = format!("{what} {}", path.display());
        move |why| Self::step(what, why)
    }
}
