//! Service `template`: what new services are copied from; it shows one of everything that a contract can say.

use crate::action::Begun;
use alloc::string::String;
use serde::{Deserialize, Serialize};

crate::contract! {
    service "template", rank crate::rank::TEMPLATE, door crate::contract::Door::Router;
    /// Keeps a phrase, and shows one of everything that a service does.
    calls [crate::router::WORK];
    requests {
        /// The phrase, and what was heard.
        idempotent viewer STATUS = "template.status": () => Status, [];
        /// Sets the phrase. Idempotent.
        idempotent operator SET = "template.set": Phrase => Changed, [];
        /// Counts, which takes long. Answered when it has begun; it can be cancelled.
        once operator COUNT = "template.count": Count => Begun, [];
    }
    notifications {}
    topics {
        /// The phrase that was set.
        viewer CHANGED = "template.changed": Phrase;
    }
}

/// Answer to [`STATUS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The phrase.
    pub phrase: String,
    /// Reports of long work on this controller that were heard.
    pub heard: u64,
}

/// A phrase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Phrase {
    /// Its words.
    pub phrase: String,
}

/// Answer to [`SET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// False: it was so already.
    pub changed: bool,
}

/// How to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Count {
    /// To this number, from 1.
    pub to: u32,
    /// Time for each number, ms.
    pub pause_ms: u64,
}
