//! The count of this controller's boots.
//!
//! Two files, as on any system: one in `var/`, which survives, and one in `run/`, which a boot wipes. A daemon that
//! restarts finds the second and keeps its incarnation; a controller that boots does not, and counts on. What the
//! quorum disks remember counts too, so that a lost `var/` cannot bring an old incarnation back: a slot of the
//! "same" incarnation that had already stopped would otherwise look like proof of life.

use pollux_api::id::Incarnation;
use std::{
    io,
    path::{Path, PathBuf},
};

const FILE: &str = "incarnation";

/// Why the incarnation cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    /// A file cannot be read or written.
    #[error("incarnation file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold a count.
    #[error("incarnation file {} holds {found:?} where a decimal count of boots should be; \
             if the file is damaged remove it: the quorum disks remember the count", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds (its beginning).
        found: String,
    },
}

/// The incarnation that is running, if a daemon of this boot has already fixed it.
///
/// # Errors
/// The file is there but cannot be read.
pub fn running(run: &Path) -> Result<Option<Incarnation>, IncarnationError> {
    read(&run.join(FILE))
}

/// Fixes the incarnation of this boot: one more than any that was seen, durable before it is used.
///
/// `on_disks` is the highest incarnation of this controller on a majority of the quorum disks.
///
/// # Errors
/// A file cannot be read or written.
pub fn begin(run: &Path, var: &Path, on_disks: Incarnation) -> Result<Incarnation, IncarnationError> {
    if let Some(kept) = running(run)? {
        return Ok(kept);
    }
    let last = read(&var.join(FILE))?.unwrap_or_default().max(on_disks);
    let next = last.next();
    write(&var.join(FILE), next)?;
    write(&run.join(FILE), next)?;
    Ok(next)
}

/// Ends the incarnation of this boot: whoever starts next is another.
///
/// # Errors
/// The file cannot be removed.
pub fn end(run: &Path) -> Result<(), IncarnationError> {
    let path = run.join(FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(IncarnationError::Io { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<Incarnation>, IncarnationError> {
    match std::fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(count) => Ok(Some(Incarnation::new(count))),
            Err(_) => Err(IncarnationError::Malformed {
                path: path.to_owned(),
                found: text.chars().take(32).collect(),
            }),
        },
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IncarnationError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, incarnation: Incarnation) -> Result<(), IncarnationError> {
    pollux_platform::file::replace(path, format!("{incarnation}\n").as_bytes(), 0o644).map_err(|source| {
        IncarnationError::Io {
            path: path.to_owned(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_it_and_a_boot_counts_on() {
        let dir = tempfile::tempdir().unwrap();
        let (run, var) = (dir.path().join("run"), dir.path().join("var"));
        std::fs::create_dir(&run).unwrap();
        std::fs::create_dir(&var).unwrap();
        let zero = Incarnation::default();
        assert_eq!(begin(&run, &var, zero).unwrap().get(), 1);
        assert_eq!(begin(&run, &var, zero).unwrap().get(), 1);
        end(&run).unwrap();
        end(&run).unwrap();
        assert_eq!(begin(&run, &var, zero).unwrap().get(), 2);
        // `var/` is lost, the disks remember.
        std::fs::remove_file(run.join(FILE)).unwrap();
        std::fs::remove_file(var.join(FILE)).unwrap();
        assert_eq!(begin(&run, &var, Incarnation::new(2)).unwrap().get(), 3);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "seven").unwrap();
        let error = begin(dir.path(), dir.path(), Incarnation::default()).unwrap_err();
        assert!(error.to_string().contains("seven"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), "seven");
    }
}
