//! Small things that every message carries: names that repeat, numbers as keys, and the identity of a request.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Names that came from outside and are kept to be shared; a name more is simply not shared.
const SHARED: usize = 1024;
/// A longer name is not kept.
const LONGEST: usize = 128;

/// Names that are shared by whoever holds them.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    /// For putting a pair together.
    pair: String,
}

impl Names {
    /// The shared form of a name.
    pub(super) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.known.get(name) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = name.into();
        if self.known.len() < SHARED && name.len() <= LONGEST {
            self.known.insert(Arc::clone(&shared));
        }
        shared
    }

    /// The shared form of `controller/name`.
    pub(super) fn share_pair(&mut self, controller: &str, name: &str) -> Arc<str> {
        let mut full = std::mem::take(&mut self.pair);
        full.clear();
        full.extend([controller, "/", name]);
        let shared = self.share(&full);
        self.pair = full;
        shared
    }
}

/// Hashes the router's own numbers, which nobody outside chooses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers;

impl BuildHasher for Numbers {
    type Hasher = Number;

    fn build_hasher(&self) -> Number {
        Number(0)
    }
}

/// Spreads one number over all bits.
pub(super) struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The odd number nearest to 2^64 divided by the golden ratio (Knuth, volume 3, 6.4).
        let spread = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// The `id` of a request as its sender wrote it, without an allocation for those that senders write.
#[derive(Debug)]
pub(super) enum RequestId {
    /// Length and bytes.
    Short(u8, [u8; 22]),
    Long(Box<str>),
}

impl RequestId {
    pub(super) fn new(id: &str) -> Self {
        let mut bytes = [0; 22];
        match (bytes.get_mut(..id.len()), u8::try_from(id.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(id.as_bytes());
                Self::Short(length, bytes)
            }
            _ => Self::Long(id.into()),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            // It was text before it was copied.
            Self::Short(length, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or("null")
            }
            Self::Long(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_stay_as_they_are() {
        for id in [
            "",
            "7",
            "\"é\"",
            &"9".repeat(22),
            &"9".repeat(23),
            &"é".repeat(200),
        ] {
            assert_eq!(RequestId::new(id).as_str(), id);
        }
    }

    #[test]
    fn names_are_shared_up_to_a_bound() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.share("a/pool"), &names.share("a/pool")));
        for number in 0..2 * SHARED {
            assert_eq!(&*names.share(&number.to_string()), number.to_string());
        }
        assert_eq!(names.known.len(), SHARED);
    }
}
