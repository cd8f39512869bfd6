//! A controller's own key, and the key of its partner.
//!
//! Two files beside those of the pairing key ([`pollux_platform::keys`]):
//!
//! ```text
//! link.key      the controller's own Ed25519 key (PKCS #8, hexadecimal), readable by its owner alone; never leaves it
//! partner.pub   the partner's public key, 64 hexadecimal digits: the only key that the link accepts
//! ```

use pollux_platform::file::replace;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fmt;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const OWN: &str = "link.key";
const PARTNER: &str = "partner.pub";
const NEWEST: &str = "partner.newest";

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("key file {}: {source}; pair the controllers (pollux pair)", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("key file {} has mode {mode:03o}: others may have read it; remove it and pair again", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what it should be.
    #[error("key file {} is not {wanted}; remove it and pair again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
    },
    /// The system gave no randomness.
    #[error("cannot make a key: the system has no random bytes")]
    Random,
}

/// A public Ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The SubjectPublicKeyInfo of RFC 8410, which TLS sends in place of a certificate.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        const HEAD: [u8; 12] = [
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        [&HEAD[..], &self.0].concat()
    }

    /// Reads the pinned key of the partner.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub fn of_partner(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(PARTNER);
        let wanted = "a public key of 64 hexadecimal digits";
        let bytes = read_hex(&path, wanted)?;
        match bytes.try_into() {
            Ok(key) => Ok(Self(key)),
            Err(_) => Err(IdentityError::Malformed { path, wanted }),
        }
    }

    /// Pins this key as the partner's, in place of whatever was pinned. A partner that is paired anew may have been
    /// installed anew, and counts its starts from the first one again.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub fn pin(&self, directory: &Path) -> Result<(), IdentityError> {
        let path = directory.join(NEWEST);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IdentityError::Io { path, source });
            }
            _ => {}
        }
        let path = directory.join(PARTNER);
        write_hex(&path, &self.0)
    }
}

/// The newest start of the partner that was ever met here, if one was.
///
/// # Errors
/// [`IdentityError`], naming the file.
pub fn newest_start(directory: &Path) -> Result<Option<u64>, IdentityError> {
    let path = directory.join(NEWEST);
    let wanted = "a decimal number";
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { path, source }),
    };
    let number = text.trim_ascii().parse();
    number
        .map(Some)
        .map_err(|_| IdentityError::Malformed { path, wanted })
}

/// Remembers it beyond the end of this process and of the power.
///
/// # Errors
/// [`IdentityError`], naming the file.
pub fn remember_start(directory: &Path, newest: u64) -> Result<(), IdentityError> {
    let path = directory.join(NEWEST);
    replace(&path, format!("{newest}\n").as_bytes(), 0o600)
        .map_err(|source| IdentityError::Io { path, source })
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A controller's own key.
pub struct Identity {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(secret, public {})", self.public)
    }
}

impl Identity {
    /// Reads the key of the controller whose key store this is.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(OWN);
        let metadata = std::fs::metadata(&path).map_err(|source| IdentityError::Io {
            path: path.clone(),
            source,
        })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path, mode });
        }
        let wanted = "an Ed25519 key (PKCS #8) in hexadecimal digits";
        let pkcs8 = read_hex(&path, wanted)?;
        Self::of(pkcs8).ok_or(IdentityError::Malformed { path, wanted })
    }

    /// The same, or a new key where there is none. Never replaces one.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub fn load_or_make(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(OWN);
        if path.exists() {
            return Self::load(directory);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| IdentityError::Io {
                path: directory.to_owned(),
                source,
            })?;
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::Random)?;
        let identity = Self::of(made.as_ref().to_vec()).ok_or(IdentityError::Random)?;
        write_hex(&path, &identity.pkcs8)?;
        Ok(identity)
    }

    fn of(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pkcs8, public })
    }

    /// What the partner pins.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// Pairs two controllers whose key stores one person has on one machine: what [`crate::exchange`] does between two.
/// Keys that are there stay.
///
/// # Errors
/// [`IdentityError`], naming the file.
pub fn provision(stores: [&Path; 2]) -> Result<(), IdentityError> {
    let [one, other] = stores;
    let (first, second) = (Identity::load_or_make(one)?, Identity::load_or_make(other)?);
    second.public().pin(one)?;
    first.public().pin(other)
}

fn write_hex(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    replace(path, format!("{text}\n").as_bytes(), 0o600).map_err(|source| IdentityError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_hex(path: &Path, wanted: &'static str) -> Result<Vec<u8>, IdentityError> {
    let text = std::fs::read(path).map_err(|source| IdentityError::Io {
        path: path.to_owned(),
        source,
    })?;
    from_hex(text.trim_ascii()).ok_or_else(|| IdentityError::Malformed {
        path: path.to_owned(),
        wanted,
    })
}

pub(crate) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_know_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        provision([&a, &b]).unwrap();
        let (first, second) = (Identity::load(&a).unwrap(), Identity::load(&b).unwrap());
        assert_ne!(first.public(), second.public());
        assert_eq!(PublicKey::of_partner(&a).unwrap(), second.public());
        assert_eq!(PublicKey::of_partner(&b).unwrap(), first.public());
        provision([&a, &b]).unwrap();
        assert_eq!(Identity::load(&a).unwrap().public(), first.public());
        let secret: String = first.pkcs8().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!format!("{first:?}").contains(&secret[40..]));
    }

    #[test]
    fn the_newest_start_is_kept_until_the_partner_is_paired_anew() {
        let dir = tempfile::tempdir().unwrap();
        let partner = PublicKey::new([7; 32]);
        partner.pin(dir.path()).unwrap();
        assert_eq!(newest_start(dir.path()).unwrap(), None);
        for newest in [5, u64::MAX] {
            remember_start(dir.path(), newest).unwrap();
            assert_eq!(newest_start(dir.path()).unwrap(), Some(newest));
        }
        for damaged in ["", "five", "-1", "18446744073709551616"] {
            std::fs::write(dir.path().join(NEWEST), damaged).unwrap();
            let refused = newest_start(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("partner.newest"), "{refused}");
        }
        partner.pin(dir.path()).unwrap();
        assert_eq!(newest_start(dir.path()).unwrap(), None);
    }

    #[test]
    fn damage_is_named_and_not_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::load_or_make(dir.path()).unwrap();
        let own = dir.path().join(OWN);
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Identity::load(dir.path()),
            Err(IdentityError::Exposed { mode: 0o640, .. })
        ));
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).unwrap();
        let whole = std::fs::read(&own).unwrap();
        for damaged in [&whole[..20], b"xyz", b"", &whole.to_ascii_uppercase()[1..]] {
            std::fs::write(&own, damaged).unwrap();
            let refused = Identity::load_or_make(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("link.key"), "{refused}");
        }
        std::fs::write(&own, whole).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().public(), made.public());
        let missing = PublicKey::of_partner(dir.path()).unwrap_err().to_string();
        assert!(
            missing.contains("partner.pub") && missing.contains("pollux pair"),
            "{missing}"
        );
    }
}
