//! The pairing key store: what makes two controllers one array.
//!
//! Pairing writes it once, on both controllers; every daemon that talks to the partner reads it. Two files in one
//! directory, readable by their owner alone:
//!
//! ```text
//! array-id      a UUID: the identity of the array, no secret
//! pairing.key   64 hexadecimal digits: 32 random bytes from which every message between the controllers is keyed
//! ```
//!
//! The key is never printed, never logged and never part of an error.

use pollux_api::id::ArrayId;
use std::{
    fmt, io,
    io::Read,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

const ARRAY_FILE: &str = "array-id";
const KEY_FILE: &str = "pairing.key";

/// The 32 bytes that both controllers share.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingKey([u8; 32]);

impl PairingKey {
    /// Wraps key material.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a keyed hash.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PairingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingKey(secret)")
    }
}

/// Identity of the array and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStore {
    /// Identity of the array.
    pub array: ArrayId,
    /// Its key.
    pub key: PairingKey,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file of the store cannot be read or written.
    #[error("key store file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("key store file {} has mode {mode:03o}: others may have read it; make it 600 and pair again", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what it should be.
    #[error("key store file {}: {found} where {wanted} should be; pair again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is there, without its content.
        found: String,
        /// What should be there.
        wanted: &'static str,
    },
    /// One of the two files is missing: half a store is damage, not a fresh system.
    #[error("key store {} has {present} but not {absent}; restore it or pair again", directory.display())]
    Half {
        /// The store.
        directory: PathBuf,
        /// The file that is there.
        present: &'static str,
        /// The file that is not.
        absent: &'static str,
    },
}

impl KeyStore {
    /// Reads the store.
    pub fn load(directory: &Path) -> Result<Self, KeyError> {
        let key_path = directory.join(KEY_FILE);
        let metadata = std::fs::metadata(&key_path).map_err(|source| KeyError::Io {
            path: key_path.clone(),
            source,
        })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: key_path, mode });
        }
        let array_path = directory.join(ARRAY_FILE);
        let malformed = |path: &Path, found, wanted| KeyError::Malformed {
            path: path.to_owned(),
            found,
            wanted,
        };
        let array = read_line(&array_path)?;
        let array = array
            .parse()
            .map_err(|_| malformed(&array_path, format!("{array:?}"), "a UUID"))?;
        let key = parse_key(&read_line(&key_path)?)
            .map_err(|found| malformed(&key_path, found, "64 hexadecimal digits"))?;
        Ok(Self {
            array,
            key: PairingKey(key),
        })
    }

    /// Writes the same store into another directory, in place of what is there.
    pub fn write(&self, directory: &Path) -> Result<(), KeyError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Io { path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io(directory))?;
        let (array_path, key_path) = (directory.join(ARRAY_FILE), directory.join(KEY_FILE));
        crate::file::replace(&key_path, format!("{}\n", hex(&self.key.0)).as_bytes(), 0o600)
            .map_err(io(&key_path))?;
        crate::file::replace(&array_path, format!("{}\n", self.array).as_bytes(), 0o600)
            .map_err(io(&array_path))
    }

    /// Reads the store, or makes a new identity and key where there is none. Never replaces anything.
    pub fn provision(directory: &Path) -> Result<Self, KeyError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Io { path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io(directory))?;
        let (array_path, key_path) = (directory.join(ARRAY_FILE), directory.join(KEY_FILE));
        match (array_path.exists(), key_path.exists()) {
            (true, true) => return Self::load(directory),
            (true, false) => {
                return Err(KeyError::Half {
                    directory: directory.to_owned(),
                    present: ARRAY_FILE,
                    absent: KEY_FILE,
                });
            }
            (false, true) => {
                return Err(KeyError::Half {
                    directory: directory.to_owned(),
                    present: KEY_FILE,
                    absent: ARRAY_FILE,
                });
            }
            (false, false) => {}
        }
        let mut random = [0; 48];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .map_err(io(Path::new("/dev/urandom")))?;
        let mut array: [u8; 16] = random[..16].try_into().expect("16 of 48 bytes");
        // Marked as a random UUID (RFC 9562, version 4), so that other tools print it as what it is.
        array[6] = array[6] & 0x0f | 0x40;
        array[8] = array[8] & 0x3f | 0x80;
        let array = ArrayId::from_bytes(array);
        let key = PairingKey(random[16..].try_into().expect("32 of 48 bytes"));
        let store = Self { array, key };
        store.write(directory)?;
        Ok(store)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_line(path: &Path) -> Result<String, KeyError> {
    let text = std::fs::read(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(text.trim_ascii()).into_owned())
}

/// The key, or what is there instead without telling its content.
fn parse_key(text: &str) -> Result<[u8; 32], String> {
    let digits: Vec<char> = text.chars().collect();
    if digits.len() != 64 {
        return Err(format!("{} characters", digits.len()));
    }
    let digit = |at: usize| {
        digits[at]
            .to_digit(16)
            .ok_or_else(|| format!("character {} that is no digit", at + 1))
    };
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = (digit(2 * at)? << 4 | digit(2 * at + 1)?) as u8;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provisioned_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("keys");
        let first = KeyStore::provision(&store).unwrap();
        assert_eq!(
            KeyStore::provision(&store).unwrap(),
            first,
            "a second pairing of the same store changes nothing"
        );
        assert_eq!(KeyStore::load(&store).unwrap(), first);
        let other = dir.path().join("other");
        first.write(&other).unwrap();
        assert_eq!(KeyStore::load(&other).unwrap(), first);
        assert!(
            !format!("{first:?}").contains(&hex(first.key.expose())),
            "a debug print must not tell the key"
        );
    }

    #[test]
    fn damage_is_named_and_not_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let first = KeyStore::provision(dir.path()).unwrap();
        let key = dir.path().join(KEY_FILE);

        let mut permissions = std::fs::metadata(&key).unwrap().permissions();
        permissions.set_mode(0o640);
        std::fs::set_permissions(&key, permissions.clone()).unwrap();
        assert!(matches!(
            KeyStore::load(dir.path()),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
        permissions.set_mode(0o600);
        std::fs::set_permissions(&key, permissions).unwrap();

        let whole = std::fs::read(&key).unwrap();
        std::fs::write(&key, &whole[..40]).unwrap();
        let truncated = KeyStore::provision(dir.path()).unwrap_err().to_string();
        assert!(truncated.contains("40 characters where 64"), "{truncated}");
        let mut wrong = whole.clone();
        wrong[4] = b'x';
        std::fs::write(&key, &wrong).unwrap();
        assert!(
            KeyStore::load(dir.path())
                .unwrap_err()
                .to_string()
                .contains("character 5 that is no digit")
        );
        std::fs::write(&key, &whole).unwrap();
        assert_eq!(KeyStore::load(dir.path()).unwrap(), first);

        std::fs::remove_file(dir.path().join(ARRAY_FILE)).unwrap();
        assert!(matches!(
            KeyStore::provision(dir.path()),
            Err(KeyError::Half { .. })
        ));
    }
}
