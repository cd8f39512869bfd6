//! What a refusal says: a stable name, what was refused, where, since when, and what would clear it.
//!
//! On the wire it is the `error` object of JSON-RPC 2.0: `code` is the number, `message` the stable name, `data`
//! the rest. Programs compare names; people read `what` and `remedy`.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// Kind of an error. Numbers and names are for ever: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The number in JSON-RPC's `code`.
            pub const fn number(self) -> i32 {
                match self { $(Code::$variant => $code,)* }
            }

            /// The stable name in JSON-RPC's `message`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// What it says, in sentences.
            pub const fn about(self) -> &'static str {
                match self { $(Code::$variant => concat!($($doc, "\n"),*),)* }
            }

            /// The code with this number.
            pub const fn from_number(number: i32) -> Option<Code> {
                match number { $($code => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// The bytes are no JSON, too deep or too long.
    Parse = -32700, "parse_error";
    /// JSON, but no message of this protocol.
    InvalidRequest = -32600, "invalid_request";
    /// The service lives and has no such method.
    MethodNotFound = -32601, "method_not_found";
    /// The parameters are wrong; `problems` names each.
    InvalidParams = -32602, "invalid_params";
    /// The service broke a rule of its own.
    Internal = -32603, "internal_error";
    /// No service of that name is registered on that controller.
    UnknownService = -32001, "unknown_service";
    /// The partner's router does not answer.
    PartnerUnreachable = -32002, "partner_unreachable";
    /// No answer came in time; the work may still be done.
    DeadlinePassed = -32003, "deadline_passed";
    /// A queue is full; nothing was done.
    Overloaded = -32004, "overloaded";
    /// The configuration is locked.
    ConfigLocked = -32005, "config_locked";
    /// The caller may not do this.
    NotPermitted = -32006, "not_permitted";
    /// The service went away before it answered; the work may have been done.
    ServiceGone = -32007, "service_gone";
    /// The router went away before the answer came; the work may have been done.
    RouterGone = -32008, "router_gone";
    /// The named thing does not exist.
    NotFound = -32009, "not_found";
    /// It exists already, or is not in the state that this needs.
    Conflict = -32010, "conflict";
    /// The fate of the change is not known yet; ask again under the same action_id.
    InDoubt = -32011, "in_doubt";
    /// The service understands and refuses now; `remedy` says what would change that.
    Refused = -32012, "refused";
    /// A part that this needs failed (disk, socket, file).
    Failed = -32013, "failed";
    /// Superseded: an epoch, generation or session newer than the caller's is known.
    Superseded = -32014, "superseded";
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// Path of the field, `volumes[0].size`.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

/// JSON-RPC's `data` of an [`RpcError`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorData {
    /// What is wrong, one sentence.
    #[serde(default)]
    pub what: String,
    /// Where: `a/pool`, a file, a field.
    #[serde(default, rename = "where")]
    pub place: String,
    /// Since when, milliseconds of Unix time, if the state that refuses has a beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// What would clear it: a command or a sentence.
    #[serde(default)]
    pub remedy: String,
    /// Every wrong field, for `invalid_params`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// A refusal, as JSON-RPC's `error` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RpcError {
    /// Number; see [`Code`]. A number of a newer version stays what it is.
    pub code: i32,
    /// Stable name.
    pub message: String,
    /// The rest. A foreign error may have none.
    #[serde(default)]
    pub data: ErrorData,
}

impl RpcError {
    /// An error of kind `code`: `what` is wrong, at `place`.
    pub fn new(code: Code, place: impl Into<String>, what: impl Into<String>) -> Self {
        let data = ErrorData {
            what: what.into(),
            place: place.into(),
            ..ErrorData::default()
        };
        Self {
            code: code.number(),
            message: code.name().to_owned(),
            data,
        }
    }

    /// Says what would clear it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.data.remedy = remedy.into();
        self
    }

    /// Says since when it is so, milliseconds of Unix time.
    #[must_use]
    pub fn since_ms(mut self, unix_ms: u64) -> Self {
        self.data.since_ms = Some(unix_ms);
        self
    }

    /// Adds one wrong field.
    #[must_use]
    pub fn problem(mut self, path: impl ToString, what: impl ToString, remedy: impl ToString) -> Self {
        let (path, what, remedy) = (path.to_string(), what.to_string(), remedy.to_string());
        self.data.problems.push(Problem { path, what, remedy });
        self
    }

    /// Its kind; `None` for a number that this version does not know.
    pub fn kind(&self) -> Option<Code> {
        Code::from_number(self.code)
    }

    /// Whether it is of kind `code`.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.number()
    }

    /// The message did not get through or its answer did not come back; the same call under the same action_id
    /// may succeed when the part that is missing is back.
    pub fn is_transient(&self) -> bool {
        use Code::{Overloaded, PartnerUnreachable, RouterGone, ServiceGone, UnknownService};
        matches!(
            self.kind(),
            Some(Overloaded | PartnerUnreachable | RouterGone | ServiceGone | UnknownService)
        )
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.data.place.is_empty() {
            write!(f, " at {}", self.data.place)?;
        }
        if !self.data.what.is_empty() {
            write!(f, ": {}", self.data.what)?;
        }
        for Problem { path, what, remedy } in &self.data.problems {
            write!(f, "; {path}: {what} ({remedy})")?;
        }
        if !self.data.remedy.is_empty() {
            write!(f, " [{}]", self.data.remedy)?;
        }
        Ok(())
    }
}

impl core::error::Error for RpcError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and names are compared by programs of other versions: this table only ever grows.
    #[test]
    fn codes_are_frozen() {
        let frozen = [
            (-32700, "parse_error"),
            (-32600, "invalid_request"),
            (-32601, "method_not_found"),
            (-32602, "invalid_params"),
            (-32603, "internal_error"),
            (-32001, "unknown_service"),
            (-32002, "partner_unreachable"),
            (-32003, "deadline_passed"),
            (-32004, "overloaded"),
            (-32005, "config_locked"),
            (-32006, "not_permitted"),
            (-32007, "service_gone"),
            (-32008, "router_gone"),
            (-32009, "not_found"),
            (-32010, "conflict"),
            (-32011, "in_doubt"),
            (-32012, "refused"),
            (-32013, "failed"),
            (-32014, "superseded"),
        ];
        assert_eq!(Code::ALL.len(), frozen.len());
        for (code, (number, name)) in Code::ALL.iter().zip(frozen) {
            assert_eq!(
                (code.number(), code.name(), Code::from_number(number)),
                (number, name, Some(*code))
            );
        }
    }
}
