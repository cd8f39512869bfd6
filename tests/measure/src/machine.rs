//! Which machine it was, for the head of a report.

use std::fs;
use std::path::{Path, PathBuf};

/// Name, processor, kernel and load, one line.
#[must_use]
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{}, {cores} x {processor}, Linux {}, load {}",
        read("/proc/sys/kernel/hostname").trim(),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg")
            .split_whitespace()
            .next()
            .unwrap_or("unknown"),
    )
}

/// Memory that behaves as a file system, or the usual place of what is temporary.
#[must_use]
pub fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// The file system on which `folder` is, by its name and what it is on.
#[must_use]
pub fn file_system(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_default();
    let of_mount = |line: &str| -> Option<(usize, String)> {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        folder
            .starts_with(place)
            .then(|| (place.len(), format!("{kind} ({device})")))
    };
    let found = mounts
        .lines()
        .filter_map(of_mount)
        .max_by_key(|(length, _)| *length);
    found.map_or_else(|| "an unknown file system".to_owned(), |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_the_file_system_that_is_mounted_nearest() {
        assert!(file_system(Path::new("/proc/self")).starts_with("proc ("));
        assert_eq!(file_system(Path::new("no such folder")), "an unknown file system");
    }
}
