//! Files that are whole or not there, and files that one process owns.

use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Replaces the content of `path` so that a crash of the machine at any point leaves the old content or the new:
/// written beside, synced, renamed, directory synced. `mode` is the permission of the new file.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = write_and_rename(path, content, mode, true)?;
    sync_directory(directory)
}

/// As [`replace`], but only against the death of the process: after a crash of the machine the content is uncertain.
/// For what does not outlive a boot anyway, and must not wait for a disk.
pub fn replace_volatile(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_and_rename(path, content, mode, false).map(drop)
}

/// Answers the directory of `path`.
fn write_and_rename<'p>(path: &'p Path, content: &[u8], mode: u32, sync: bool) -> io::Result<&'p Path> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path
        .file_name()
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: not a file name", path.display()),
            )
        })?
        .to_owned();
    // The process id keeps two writers from sharing one temporary file; the last rename wins, whole.
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = directory.join(name);
    let written = (|| {
        // A leftover of a crashed process with the same id carries its own mode: start from nothing.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)
    })();
    if let Err(error) = written {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    Ok(directory)
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A file that this process holds alone until the value is dropped or the process ends. The kernel keeps the lock, so
/// a crash never leaves one behind; the process id in the file only serves the message to the next who tries.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by {}", path.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Held {
        /// The file.
        path: PathBuf,
        /// The holder, when it has written its id already.
        holder: Option<u32>,
    },
    /// The file cannot be used.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock or says at once who has it.
    pub fn acquire(path: &Path) -> Result<Lock, LockError> {
        let io = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(io)?;
                file.rewind().map_err(io)?;
                writeln!(file, "{}", std::process::id()).map_err(io)?;
                Ok(Lock {
                    _file: file,
                    path: path.to_owned(),
                })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let holder = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                Err(LockError::Held {
                    path: path.to_owned(),
                    holder,
                })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }

    /// The process that holds the lock at `path`, if one does.
    pub fn holder(path: &Path) -> Result<Option<u32>, LockError> {
        let io = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(io)?;
                Ok(text.trim().parse().ok())
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Lets this process have at least `wanted` open files, as far as its hard limit goes; how many it may have now.
///
/// # Errors
/// What the system says.
pub fn raise_descriptors(wanted: u64) -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = wanted.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, raised, hard)?;
    Ok(raised)
}

/// What a file system has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an ordinary process may still fill.
    pub free: u64,
    /// Its size, bytes.
    pub total: u64,
    /// It takes no writes.
    pub read_only: bool,
}

/// The room on the file system of `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let found = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(Space {
        free: bytes(found.blocks_available()),
        total: bytes(found.blocks()),
        read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// Where the file system of `path` is mounted.
pub fn mount_point(path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let mut path = path.canonicalize()?;
    let device = std::fs::metadata(&path)?.dev();
    // The highest folder that is on the same device.
    while let Some(parent) = path.parent() {
        if std::fs::metadata(parent)?.dev() != device {
            break;
        }
        path = parent.to_owned();
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_system_says_its_room_and_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let room = space(dir.path()).unwrap();
        assert!(
            room.free <= room.total && room.total > 0 && !room.read_only,
            "{room:?}"
        );
        assert_eq!(
            mount_point(Path::new("/proc/self/fd")).unwrap(),
            Path::new("/proc")
        );
        assert!(
            dir.path()
                .canonicalize()
                .unwrap()
                .starts_with(mount_point(dir.path()).unwrap())
        );
        assert!(space(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn replace_leaves_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        replace_volatile(&path, b"three", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn replace_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        assert!(
            replace(&path, b"x", 0o600).is_err(),
            "a directory cannot be replaced by a file"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(Lock::holder(&path).unwrap(), None);
        let held = Lock::acquire(&path).unwrap();
        assert_eq!(Lock::holder(&path).unwrap(), Some(std::process::id()));
        let refused = Lock::acquire(&path).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(held);
        Lock::acquire(&path).unwrap();
    }
}
