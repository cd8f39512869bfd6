//! What takes long to make is made once: folders under `target/lab/cache`, each named by a hash of all that went in.
//!
//! A folder appears whole or not at all: it is made under another name and renamed. Two labs that make the same one at
//! once take turns.

use crate::error::{Error, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of everything that is kept.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// Hash of everything that goes into a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of a thing that is made of these texts, in this order.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in parts {
            // With its length, so that no two lists of texts run into the same bytes.
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().to_hex()[..16].to_owned())
    }
}

impl Cache {
    /// The cache in `folder`, which is made when it is first needed.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Something is there under this key already.
    #[must_use]
    pub fn has(&self, name: &str, key: &Key) -> bool {
        self.folder.join(format!("{name}-{}", key.0)).is_dir()
    }

    /// The folder of `name` under `key`; `make` fills a new one where there is none. Others of that name, whose key is not
    /// the present one, are removed: nobody asks for them again.
    ///
    /// # Errors
    /// What `make` says, or that a file cannot be written.
    pub fn get(&self, name: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder).map_err(Error::file("make", &self.folder))?;
        let place = self.folder.join(format!("{name}-{}", key.0));
        let guard = self.folder.join(format!("{name}.lock"));
        let file = fs::File::create(&guard).map_err(Error::file("open", &guard))?;
        let _turn = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| Error::file("lock", &guard)(error))?;
        if place.is_dir() {
            return Ok(place);
        }
        let entries = fs::read_dir(&self.folder).map_err(Error::file("read", &self.folder))?;
        for entry in entries.flatten() {
            let old = entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{name}-"));
            if old {
                remove(&entry.path())?;
            }
        }
        let fresh = self.folder.join(format!("{name}-{}.new", key.0));
        fs::create_dir_all(&fresh).map_err(Error::file("make", &fresh))?;
        make(&fresh)?;
        fs::rename(&fresh, &place).map_err(Error::file("rename", &fresh))?;
        Ok(place)
    }
}

/// Removes a folder, unless something is mounted in it: what was ended in the middle of making a system may have left parts
/// of this machine there, and those are not ours to remove.
fn remove(folder: &Path) -> Result<()> {
    let mounts = Path::new("/proc/self/mounts");
    let text = fs::read_to_string(mounts).map_err(Error::file("read", mounts))?;
    match mounted_in(&text, folder) {
        Some(mount) => Err(Error::step(
            format!("remove {}", folder.display()),
            format!("{mount} is mounted there; umount it first"),
        )),
        None => fs::remove_dir_all(folder).map_err(Error::file("remove", folder)),
    }
}

/// The first mount in a folder, by a list as in proc_pid_mounts(5).
fn mounted_in<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .find(|mount| Path::new(mount).starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_a_folder_is_seen() {
        let mounts = "proc /proc proc rw 0 0\nproc /lab/cache/x/proc proc rw 0 0\n";
        assert_eq!(
            mounted_in(mounts, Path::new("/lab/cache/x")),
            Some("/lab/cache/x/proc")
        );
        assert_eq!(mounted_in(mounts, Path::new("/lab/cache/xy")), None);
    }

    #[test]
    fn keys_tell_lists_apart() {
        assert_eq!(Key::of(&["a", "b"]), Key::of(&["a", "b"]));
        assert_ne!(Key::of(&["a", "b"]), Key::of(&["ab"]));
        assert_ne!(Key::of(&["a", "b"]), Key::of(&["b", "a"]));
    }

    #[test]
    fn a_thing_is_made_once_and_a_failure_leaves_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path().join("cache"));
        let (one, two) = (Key::of(&["1"]), Key::of(&["2"]));
        let failed = cache.get("thing", &one, |_| Err(Error::step("make it", "no")));
        assert!(failed.is_err());
        let made = cache.get("thing", &one, |folder| {
            fs::write(folder.join("x"), "1").map_err(|error| Error::step("write", error))
        });
        let made = made.expect("it is made");
        assert_eq!(fs::read_to_string(made.join("x")).expect("it is there"), "1");
        let again = cache.get("thing", &one, |_| panic!("made twice"));
        assert_eq!(again.expect("it is there"), made);
        cache.get("thing", &two, |_| Ok(())).expect("another");
        assert!(!made.exists(), "the old one stays for ever");
    }
}
