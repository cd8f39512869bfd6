//! Envelopes for secrets: what is kept, replicated, shown and exported is the sealed form.
//!
//! ```text
//! sealed:1:<key>:<sealed bytes>      key: first 8 bytes of the key's digest; both in hexadecimal digits
//! ```
//!
//! XChaCha's shorter sister (ChaCha20-Poly1305, RFC 8439) with a nonce that follows from key, action, place and secret:
//! the same action asked again gives the same change, and two different secrets never share a nonce. The keys stand in a
//! file beside those of the pairing, never in the database. Both controllers have all of them: a controller gives its
//! keys to the other before it seals anything ([`Ring::adopt`]).
//!
//! Never: a key or an open secret in a log, an error or a debug print; a key that is replaced (what it sealed would be
//! lost).

use pollux_api::action::ActionId;
use pollux_api::config::item::{Item, Secret};
use pollux_platform::file::replace;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Name of the file in the key store.
const FILE: &str = "seal.keys";
/// Most keys that are kept: each side makes one, and more only after both were lost.
const KEYS_MAX: usize = 64;
const KEY: usize = 32;

/// Why a secret cannot be sealed or opened, or the keys not be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read or written.
    #[error("{path}: cannot {what}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was answered.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path} has mode {mode:03o}: others may have read it; make it 600, and give the secrets anew", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line of it is no key.
    #[error("{path}: line {line} is no key (64 hexadecimal digits); restore the file from the other controller", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// No sealed form.
    #[error("this is no sealed secret")]
    NoSeal,
    /// Sealed by a key that is not here.
    #[error(
        "it was sealed by key {key}, which this controller has not got; start the other controller, which gives it, or set the secret anew"
    )]
    NoKey {
        /// Which.
        key: String,
    },
    /// Somebody has changed it, or it stands in another place than it was sealed for.
    #[error("the seal is broken; set the secret anew")]
    Broken,
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// Too many keys.
    #[error("there would be more than {KEYS_MAX} keys")]
    TooMany,
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; KEY]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(secret)")
    }
}

impl SealKey {
    /// Which key this is: eight bytes of its digest.
    fn name(&self) -> String {
        let digest = blake3::derive_key("pollux 2026 name of a sealing key", &self.0);
        hex(&digest[..8])
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("32 bytes are a key");
        LessSafeKey::new(key)
    }

    fn nonce(&self, action: ActionId, place: &str, clear: &str) -> [u8; NONCE_LEN] {
        let key = blake3::derive_key("pollux 2026 nonce of a sealed secret", &self.0);
        let mut hash = blake3::Hasher::new_keyed(&key);
        hash.update(action.as_bytes());
        for part in [place, clear] {
            hash.update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        let mut nonce = [0; NONCE_LEN];
        hash.finalize_xof().fill(&mut nonce);
        nonce
    }
}

/// The keys of this controller.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    keys: Vec<SealKey>,
}

impl Ring {
    /// Reads the keys from the key store; none there: none yet.
    ///
    /// # Errors
    /// The file cannot be read, others can read it, or it is damaged.
    pub fn load(store: &Path) -> Result<Self, SealError> {
        let path = store.join(FILE);
        let io = |what| {
            let path = path.clone();
            move |source| SealError::Io { path, what, source }
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    keys: Vec::new(),
                });
            }
            Err(error) => return Err(io("read it")(error)),
        };
        let mode = std::fs::metadata(&path)
            .map_err(io("look at it"))?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealError::Exposed { path, mode });
        }
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            match line.trim().parse::<pollux_api::config::Hex<KEY>>() {
                Ok(key) => keys.push(SealKey(key.0)),
                Err(_) => {
                    return Err(SealError::Malformed {
                        path,
                        line: number + 1,
                    });
                }
            }
        }
        Ok(Self { path, keys })
    }

    /// The keys, as the partner's keeper is given them.
    #[must_use]
    pub fn give(&self) -> Vec<Secret> {
        self.keys.iter().map(|key| Secret::new(hex(&key.0))).collect()
    }

    /// There is one.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Makes a key where there is none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn provide(&mut self) -> Result<(), SealError> {
        if self.can_seal() {
            return Ok(());
        }
        let mut key = [0; KEY];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
            .map_err(|_| SealError::NoRandom)?;
        self.keep(vec![SealKey(key)])
    }

    /// Takes the partner's keys beside its own; both have all of them then.
    ///
    /// # Errors
    /// One is no key, or the file cannot be written.
    pub fn adopt(&mut self, given: &[Secret]) -> Result<(), SealError> {
        let mut fresh: Vec<SealKey> = Vec::new();
        for (number, key) in given.iter().enumerate() {
            let key = key.expose().parse::<pollux_api::config::Hex<KEY>>();
            let key = key.map_err(|_| SealError::Malformed {
                path: self.path.clone(),
                line: number + 1,
            })?;
            let key = SealKey(key.0);
            if !self.keys.contains(&key) && !fresh.contains(&key) {
                fresh.push(key);
            }
        }
        self.keep(fresh)
    }

    /// On the disk before it is used: what a lost key has sealed is lost.
    fn keep(&mut self, fresh: Vec<SealKey>) -> Result<(), SealError> {
        if fresh.is_empty() {
            return Ok(());
        }
        if self.keys.len() + fresh.len() > KEYS_MAX {
            return Err(SealError::TooMany);
        }
        let keys: Vec<SealKey> = self.keys.iter().cloned().chain(fresh).collect();
        let text: String = keys.iter().map(|key| hex(&key.0) + "\n").collect();
        let write = || {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            replace(&self.path, text.as_bytes(), 0o600)
        };
        write().map_err(|source| SealError::Io {
            path: self.path.clone(),
            what: "write it",
            source,
        })?;
        self.keys = keys;
        Ok(())
    }

    /// Seals a secret for a place (`user/ada/password`); only there it opens again.
    ///
    /// # Errors
    /// There is no key.
    ///
    /// # Panics
    /// Never: a secret is far shorter than what one nonce may seal (256 GiB).
    pub fn seal(&self, action: ActionId, place: &str, clear: &str) -> Result<Secret, SealError> {
        // The same on both controllers once they have each other's keys, so that an action that is asked again on the
        // other one is the same change.
        let key = self.keys.iter().min_by_key(|key| key.name());
        let key = key.ok_or(SealError::NoKey {
            key: "(none)".to_owned(),
        })?;
        let nonce = key.nonce(action, place, clear);
        let mut bytes = clear.as_bytes().to_vec();
        key.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes)
            .expect("a short secret");
        let sealed = hex(&[&nonce[..], &bytes].concat());
        Ok(Secret::new(format!("{}{}:{sealed}", Secret::SEALED, key.name())))
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// It is no seal, its key is not here, or it was changed.
    pub fn open(&self, place: &str, sealed: &Secret) -> Result<String, SealError> {
        let rest = sealed
            .expose()
            .strip_prefix(Secret::SEALED)
            .ok_or(SealError::NoSeal)?;
        let (name, bytes) = rest.split_once(':').ok_or(SealError::NoSeal)?;
        let mut bytes = unhex(bytes)
            .filter(|bytes| bytes.len() > NONCE_LEN)
            .ok_or(SealError::NoSeal)?;
        let key = self.keys.iter().find(|key| key.name() == name);
        let key = key.ok_or_else(|| SealError::NoKey {
            key: name.escape_default().to_string(),
        })?;
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce: [u8; NONCE_LEN] = bytes.try_into().map_err(|_| SealError::NoSeal)?;
        let clear = key
            .cipher()
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
            .map_err(|_| SealError::Broken)?
            .to_vec();
        String::from_utf8(clear).map_err(|_| SealError::Broken)
    }
}

/// Where a secret of an item stands. The identity of the item is not part of it: an item may be exported and made again,
/// and a renamed one is not another's; what protects is that a seal of one kind and field does not open as another.
#[must_use]
pub fn place(item: &Item, field: &str) -> String {
    format!("{}/{field}", item.kind())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(number: u8) -> ActionId {
        ActionId::from_bytes([number; 16])
    }

    fn ring(folder: &Path) -> Ring {
        let mut ring = Ring::load(folder).unwrap();
        ring.provide().unwrap();
        ring
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let ring = ring(folder.path());
        let sealed = ring.seal(action(1), "user/password", "correct horse").unwrap();
        assert!(sealed.is_sealed() && !sealed.expose().contains("horse"));
        assert_eq!(ring.open("user/password", &sealed).unwrap(), "correct horse");
        assert!(matches!(ring.open("key/secret", &sealed), Err(SealError::Broken)));
        // The same action again is the same change; another action has another nonce.
        assert_eq!(
            ring.seal(action(1), "user/password", "correct horse").unwrap(),
            sealed
        );
        assert_ne!(
            ring.seal(action(2), "user/password", "correct horse").unwrap(),
            sealed
        );
        // Any digit that is changed is noticed.
        let text = sealed.expose().to_owned();
        for at in Secret::SEALED.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = Secret::new(String::from_utf8(bytes).unwrap());
            assert!(ring.open("user/password", &changed).is_err(), "digit {at}");
        }
        for bad in [
            "",
            "sealed:1:",
            "sealed:1:00",
            "sealed:1:00:zz",
            "sealed:1:00:0",
            "clear",
        ] {
            assert!(ring.open("user/password", &Secret::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_made_once_kept_and_given_to_the_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut a, mut b) = (ring(one.path()), Ring::load(other.path()).unwrap());
        let sealed = a.seal(action(1), "p", "secret").unwrap();
        assert!(matches!(b.open("p", &sealed), Err(SealError::NoKey { .. })));
        assert!(!b.can_seal());
        // Both have made one before they met: each has both afterwards, and both seal by the same.
        b.provide().unwrap();
        let theirs = b.seal(action(2), "p", "other").unwrap();
        b.adopt(&a.give()).unwrap();
        a.adopt(&b.give()).unwrap();
        for ring in [
            &a,
            &b,
            &Ring::load(one.path()).unwrap(),
            &Ring::load(other.path()).unwrap(),
        ] {
            assert_eq!(ring.keys.len(), 2);
            assert_eq!(ring.open("p", &sealed).unwrap(), "secret");
            assert_eq!(ring.open("p", &theirs).unwrap(), "other");
        }
        assert_eq!(
            a.seal(action(3), "p", "x").unwrap(),
            b.seal(action(3), "p", "x").unwrap()
        );
        let before = std::fs::read(one.path().join(FILE)).unwrap();
        a.adopt(&b.give()).unwrap();
        a.provide().unwrap();
        assert_eq!(
            std::fs::read(one.path().join(FILE)).unwrap(),
            before,
            "nothing new"
        );
        assert!(!format!("{a:?}{:?}", a.give()).contains(&hex(&a.keys[0].0)));
    }

    #[test]
    fn a_key_file_that_is_damaged_or_open_to_others_is_named_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        drop(ring(folder.path()));
        let path = folder.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Ring::load(folder.path()),
            Err(SealError::Exposed { mode: 0o644, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("nonsense\n");
        std::fs::write(&path, &text).unwrap();
        let error = Ring::load(folder.path()).unwrap_err();
        assert!(matches!(error, SealError::Malformed { line: 2, .. }), "{error}");
        assert!(!error.to_string().contains(&text[..64]), "a key in an error");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
