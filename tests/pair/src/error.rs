//! What can go wrong with a run, apart from what it is there to find.

/// A step that could not be taken, or a state that was not reached in time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the run needs is not on this machine.
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
    #[error("{what}: not so after {waited_ms} ms; last seen: {seen}")]
    Late {
        /// The state.
        what: String,
        /// The bound.
        waited_ms: u64,
        /// What was there instead.
        seen: String,
    },
    /// The user has asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A step that failed.
    pub fn step(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Error::Step {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
