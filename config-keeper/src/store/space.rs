//! How much room the boot disk has, and what a full or read-only disk is told.
//!
//! ```text
//! free >= 64 MiB and >= 5 %     nothing to say
//! below that                    alarm; everything goes on
//! below 16 MiB                  no change is begun: the write-ahead log and one checkpoint still fit, so what was
//!                               begun ends well, and nothing fails
//! a write fails all the same    the store stops: what the kernel did is not known
//! ```
//!
//! Never: a refusal that names no number; a guess at room that could not be asked for.

use super::{StoreError, WAL_BYTES};
use pollux_platform::file::{Space, mount_point, space};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Below this many bytes there is an alarm,
const ALARM_BYTES: u64 = 64 << 20;
/// or below this part of the disk.
const ALARM_PERCENT: u64 = 5;
/// Below this, no change is begun: a checkpoint of the whole log, a log that grows to twice its size meanwhile, and
/// as much again for everybody else who writes there.
const FLOOR: u64 = 4 * WAL_BYTES;
/// Copies of the partner's entries go on for longer: what is refused here is in doubt there.
const FLOOR_COPY: u64 = 2 * WAL_BYTES;
/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(1);

/// The room where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    folder: PathBuf,
    space: Space,
}

/// How much there is, in steps: a change of the step is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ample,
    Low,
    NoChange,
    Nothing,
}

impl Room {
    /// Asks the file system of `database`; none: it did not say.
    #[must_use]
    pub fn of(database: &Path) -> Option<Self> {
        let folder = folder(database);
        match space(folder) {
            Ok(space) => Some(Self {
                folder: folder.to_owned(),
                space,
            }),
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot ask how much space is free");
                None
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn new(free: u64, total: u64) -> Self {
        let space = Space {
            free,
            total,
            read_only: false,
        };
        Self {
            folder: "/var/lib/pollux".into(),
            space,
        }
    }

    fn step(&self) -> Step {
        let Space { free, total, .. } = self.space;
        if free < FLOOR_COPY {
            Step::Nothing
        } else if free < FLOOR {
            Step::NoChange
        } else if free < ALARM_BYTES || u128::from(free) * 100 < u128::from(total) * u128::from(ALARM_PERCENT)
        {
            Step::Low
        } else {
            Step::Ample
        }
    }

    /// What is wrong and what would clear it; none: there is room.
    #[must_use]
    pub fn alarm(&self) -> Option<(String, String)> {
        let what = match self.step() {
            Step::Ample => return None,
            Step::Low => format!("the boot disk is nearly full: {}", self.figures()),
            Step::NoChange | Step::Nothing => return self.refusal(false),
        };
        Some((what, self.remedy()))
    }

    /// Why no change (`copy`: not even a copy of the partner's) is begun, and what would clear it.
    #[must_use]
    pub fn refusal(&self, copy: bool) -> Option<(String, String)> {
        let floor = if copy { FLOOR_COPY } else { FLOOR };
        (self.space.free < floor).then(|| {
            let what = format!(
                "the boot disk is full: {}; {} MiB are needed to store a change",
                self.figures(),
                floor >> 20
            );
            (what, self.remedy())
        })
    }

    fn figures(&self) -> String {
        let Space { free, total, .. } = self.space;
        let (free, total) = (
            free as f64 / f64::from(1 << 20),
            total as f64 / f64::from(1 << 20),
        );
        format!(
            "{free:.1} MiB of {total:.0} MiB are free where {} is",
            self.folder.display()
        )
    }

    fn remedy(&self) -> String {
        format!(
            "free space there, at least {} MiB: old journals, and in {} the copies named config.db.v* and config.db.damaged-* \
             that nobody needs any more; it goes on by itself",
            ALARM_BYTES >> 20,
            self.folder.display()
        )
    }
}

/// Asks now and then.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<Instant>,
    told: Option<Step>,
}

impl Watch {
    /// The room, if a second has passed since it was asked for and it has changed its step.
    pub(super) fn look(&mut self, database: &Path) -> Option<Room> {
        if self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return None;
        }
        self.last = Some(Instant::now());
        let room = Room::of(database)?;
        // Figures are part of what a refusal says: while there is something to say, they are kept fresh.
        let step = room.step();
        let news = self.told.replace(step) != Some(step) || step != Step::Ample;
        news.then_some(room)
    }
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The error for a file that the file system refused: full and read-only disks have words of their own.
pub(super) fn storage(path: &Path, what: &'static str, source: io::Error) -> StoreError {
    let refused = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(full(path, what)),
        io::ErrorKind::ReadOnlyFilesystem => Some(read_only(path)),
        _ => None,
    };
    refused.unwrap_or_else(|| StoreError::Io {
        path: path.to_owned(),
        what,
        source,
    })
}

/// The error for a disk without room.
pub(super) fn full(path: &Path, what: &'static str) -> StoreError {
    StoreError::Full {
        path: path.to_owned(),
        what,
        room: Room::of(path).map_or_else(
            || "how much is free is not known".to_owned(),
            |room| room.figures(),
        ),
        needed: FLOOR >> 20,
    }
}

/// The error for a file system that takes no writes.
pub(super) fn read_only(path: &Path) -> StoreError {
    let mount = mount_point(folder(path)).unwrap_or_else(|_| folder(path).to_owned());
    StoreError::ReadOnly {
        path: path.to_owned(),
        mount,
    }
}

/// Refuses a file system that takes no writes, before anything is tried on it.
pub(super) fn writable(path: &Path) -> Result<(), StoreError> {
    match space(folder(path)) {
        Ok(Space { read_only: true, .. }) => Err(read_only(path)),
        // What cannot be asked shows at the first write.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_comes_before_a_refusal_and_each_names_figures_and_a_way_out() {
        const MIB: u64 = 1 << 20;
        assert_eq!(Room::new(64 * MIB, 1000 * MIB).alarm(), None);
        let (what, remedy) = Room::new(64 * MIB - 1, 1000 * MIB).alarm().unwrap();
        assert!(
            what.contains("64.0 MiB of 1000 MiB") && remedy.contains("/var/lib/pollux"),
            "{what}; {remedy}"
        );
        assert!(
            Room::new(499 * MIB, 10_000 * MIB).alarm().is_some(),
            "less than 5 %"
        );
        assert_eq!(Room::new(500 * MIB, 10_000 * MIB).alarm(), None);
        assert_eq!(Room::new(16 * MIB, 100 * MIB).refusal(false), None);
        let (what, _) = Room::new(16 * MIB - 1, 100 * MIB).refusal(false).unwrap();
        assert!(what.contains("16 MiB are needed"), "{what}");
        assert_eq!(Room::new(8 * MIB, 100 * MIB).refusal(true), None);
        assert!(Room::new(8 * MIB - 1, 100 * MIB).refusal(true).is_some());
        assert!(Room::new(0, u64::MAX).alarm().is_some());
    }
}
