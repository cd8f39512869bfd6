//! Keys of three sizes: what somebody may do who comes from afar.
//!
//! Whoever speaks on this machine is known by the socket's peer credentials and may do what its user may. Whoever
//! comes over the management address shows a token, and the token has a role; each larger one opens what the smaller
//! ones open. Each method of the contract says which role opens it, and what says none stays shut.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// What a token opens; ordered, a larger one opens more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks, and changes nothing.
    Viewer,
    /// Moves pools and changes the configuration.
    Operator,
    /// Gives keys away, and overrides what protects data.
    Admin,
}

impl Role {
    /// Every role, the smallest first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether it opens what `needed` opens; what needs `None` is opened by no role.
    pub fn opens(self, needed: Option<Self>) -> bool {
        needed.is_some_and(|needed| self >= needed)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The word is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRole;

impl fmt::Display for NoRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a role is viewer, operator or admin")
    }
}

impl core::error::Error for NoRole {}

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        let named = |role: &Self| role.as_str() == text;
        Self::ALL.into_iter().find(named).ok_or(NoRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_larger_role_opens_what_a_smaller_one_opens() {
        for (number, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert!(!role.opens(None));
            for (other, needed) in Role::ALL.into_iter().enumerate() {
                assert_eq!(role.opens(Some(needed)), number >= other, "{role} {needed}");
            }
        }
        assert_eq!("root".parse::<Role>(), Err(NoRole));
    }
}
