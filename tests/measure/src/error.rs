//! What can keep a measurement from being made.

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the measurement needs is not on this machine.
    #[error("{0}")]
    Missing(String),
    /// A step failed.
    #[error("{what}: {why}")]
    Step {
        /// The step.
        what: String,
        /// Why.
        why: String,
    },
    /// An answer is not what was asked for.
    #[error("{bus}: {what}")]
    Wrong {
        /// Who answered.
        bus: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the step that failed.
pub trait Context<T> {
    /// `what` was being done, or to what.
    fn context(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| Error::Step {
            what: what.to_string(),
            why: error.to_string(),
        })
    }
}
