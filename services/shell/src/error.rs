//! Why a command did not do what it should, and the exit code that says so.

use pollux_api::error::{Code, RpcError};
use std::path::PathBuf;

/// Shown by `--help`: the meaning of every exit code. They are for ever.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done, or shown (also when a part of what is shown is unknown)
  1  refused or failed; nothing was changed, unless the message says otherwise
  2  wrong option, name, size or address; nothing was asked of the array
  3  no controller answers
  4  in doubt: the change may or may not have been made; repeat it with --action ID

Where the array is found: --controller DIR/a, --dir DIR, POLLUX_CONTROLLER, POLLUX_DIR; else /etc/pollux/controller.toml.";

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command makes no sense as it stands.
    #[error("{what}\n  {remedy}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What would be right.
        remedy: String,
    },
    /// Nobody to ask.
    #[error("no controller answers: {}\n  is it started? `systemctl start pollux.target` on it, \
         or `pollux-chassis run --dir DIR` for an array in software; or power it on", list(.0))]
    Unreachable(Vec<(PathBuf, String)>),
    /// A service refused.
    #[error("{}", refusal(.0))]
    Refused(Box<RpcError>),
    /// What is asked for is not there.
    #[error("{what}\n  {remedy}")]
    Failed {
        /// What is wrong.
        what: String,
        /// What would be right.
        remedy: String,
    },
}

impl From<RpcError> for Error {
    fn from(error: RpcError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl Error {
    /// A command that makes no sense as it stands.
    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Something that cannot be done.
    pub fn failed(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// See [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Unreachable(_) => 3,
            Self::Failed { .. } => 1,
            Self::Refused(error) => match error.kind() {
                Some(Code::InDoubt | Code::DeadlinePassed | Code::ServiceGone | Code::RouterGone) => 4,
                _ => 1,
            },
        }
    }

    /// For `--json`: the error object of the service that refused, or one of the same shape.
    pub fn to_rpc(&self) -> RpcError {
        let (code, what, remedy) = match self {
            Self::Refused(error) => return (**error).clone(),
            Self::Usage { what, remedy } => (Code::InvalidParams, what.clone(), remedy.clone()),
            Self::Failed { what, remedy } => (Code::Failed, what.clone(), remedy.clone()),
            Self::Unreachable(tried) => (
                Code::RouterGone,
                format!("no controller answers: {}", list(tried)),
                "start it".to_owned(),
            ),
        };
        RpcError::new(code, "pollux", what).remedy(remedy)
    }
}

fn list(tried: &[(PathBuf, String)]) -> String {
    let tried: Vec<String> = tried
        .iter()
        .map(|(path, why)| format!("{}: {why}", path.display()))
        .collect();
    tried.join("; ")
}

/// A refusal in lines: what, each problem, since when, what would clear it.
fn refusal(error: &RpcError) -> String {
    let mut text = format!("{} ({})", error.data.what, error.message);
    if error.data.what.is_empty() {
        text.clone_from(&error.message);
    }
    if !error.data.place.is_empty() {
        text += &format!("\n  where: {}", error.data.place);
    }
    for problem in &error.data.problems {
        text += &format!(
            "\n  {}: {}; right would be: {}",
            problem.path, problem.what, problem.remedy
        );
    }
    if let Some(since) = error.data.since_ms {
        text += &format!("\n  since: {}", crate::print::utc(since));
    }
    if !error.data.remedy.is_empty() {
        text += &format!("\n  remedy: {}", error.data.remedy);
    }
    text
}
