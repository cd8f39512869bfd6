//! The shelf: disks with two ports each, and a camera.
//!
//! Picture a JBOD between two controllers. Every disk has a port to the left and one to the right; either port reads
//! and writes the same platters; a disk knows persistent reservations and turns away whoever is not registered; its
//! write cache forgets what was not flushed when the shelf loses its power. The shelf adds what a laboratory wants:
//! faults on demand, and a log of every write that the controllers cannot touch.
//!
//! | in the picture | here |
//! |---|---|
//! | disk | [`disk`](self::disk): image file, cache, reservations, faults |
//! | port | unix socket `<controller>/port/disk-NN.sock`, spoken to in block frames; or a [`Plug`] in this process |
//! | cable | [`Shelf::set_path`] |
//! | camera | [`WriteLog`] |
//!
//! Invariants:
//! * a command takes effect in one critical section of its disk, with its permission checked there; after an abort, a
//!   pulled cable, a power cut or the end of its session has returned, it never takes effect;
//! * nothing changes a disk without a record in the log, written before the answer;
//! * reservations that were answered survive the shelf's power and its process.
//!
//! It must never: repair a damaged file, accept one of another array, or run twice on one directory.

mod cache;
mod disk;
mod format;
mod log;
mod random;
mod reservation;
#[cfg(test)]
mod tests;

pub use disk::Plug;
pub use format::{BLOCK_SIZE, DiskSpec, Layout, PHYSICAL_BLOCK_SIZE, ShelfError};
pub use log::{
    Event, FLAG_FUA, FLAG_LOST, FLAG_MISDIRECTED, FLAG_TORN, LogError, Record, WRITE_LOG, WriteLog,
};

use disk::{Disk, DiskPort};
use pollux_api::chassis::{Disk as DiskStatus, DiskFault};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_block_frame::{Purpose, Server, ServerOptions};
use pollux_platform::file::{Lock, LockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Name of a disk's socket in a controller's port directory.
pub fn socket_name(disk: DiskIndex) -> String {
    format!("{disk}.sock")
}

/// A running shelf. Dropping it ends every session and frees the directory.
#[derive(Debug)]
pub struct Shelf {
    array: ArrayId,
    disks: Vec<Arc<Disk>>,
    /// One per disk and port that is served.
    ports: Mutex<Vec<Arc<Server<DiskPort>>>>,
    serving: Mutex<JoinSet<()>>,
    log_path: PathBuf,
    _lock: Lock,
}

impl Shelf {
    /// Makes a shelf of blank disks in `dir`, which may exist but holds no shelf yet.
    pub fn create(dir: &Path, layout: &Layout) -> Result<(), ShelfError> {
        layout.check()?;
        std::fs::create_dir_all(dir).map_err(ShelfError::io(dir))?;
        let _lock = lock(dir)?;
        let description = dir.join(format::DESCRIPTION);
        if description.try_exists().map_err(ShelfError::io(&description))? {
            return Err(ShelfError::Exists { path: description });
        }
        let disks = layout.disks();
        for spec in &disks {
            format::create_image(dir, layout.array, spec)?;
        }
        // Last: a shelf without a description was never finished.
        format::Description::new(layout.array, disks).write(dir)
    }

    /// Opens the shelf in `dir`. With `array`, it must be that array's. `seed` decides what faults leave open.
    pub fn open(dir: &Path, array: Option<ArrayId>, seed: u64) -> Result<Self, ShelfError> {
        let lock = lock(dir)?;
        let description = format::Description::read(dir)?;
        if let Some(expected) = array
            && description.array != expected
        {
            let path = dir.join(format::DESCRIPTION);
            return Err(ShelfError::WrongArray {
                path,
                found: description.array,
                expected,
            });
        }
        let array = description.array;
        let log_path = dir.join(WRITE_LOG);
        let log = Arc::new(log::Appender::open(&log_path, array)?);
        let disks = description
            .disks
            .into_iter()
            .map(|spec| Disk::open(dir, array, spec, seed, log.clone()).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Shelf {
            array,
            disks,
            ports: Mutex::default(),
            serving: Mutex::default(),
            log_path,
            _lock: lock,
        })
    }

    /// The array that the shelf belongs to.
    pub fn array(&self) -> ArrayId {
        self.array
    }

    /// Its log of every write; read it with [`WriteLog::read`] at any time.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Serves the port of `controller` of every disk at `<dir>/disk-NN.sock`. Call it inside a tokio runtime.
    pub fn serve(&self, controller: ControllerId, dir: &Path) -> Result<(), ShelfError> {
        std::fs::create_dir_all(dir).map_err(ShelfError::io(dir))?;
        for disk in &self.disks {
            let path = dir.join(socket_name(disk.spec.index));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ShelfError::Io { path, source: error });
                }
                _ => {}
            }
            let listener = UnixListener::bind(&path).map_err(ShelfError::io(&path))?;
            let array = Uuid::from_bytes(*self.array.as_bytes());
            let handler = Arc::new(DiskPort {
                disk: disk.clone(),
                port: controller,
            });
            let server = Server::new(handler, ServerOptions::new(array, Purpose::Disk, None));
            guard(&self.ports).push(server.clone());
            guard(&self.serving).spawn(async move { server.serve_unix(listener).await });
        }
        Ok(())
    }

    /// The port of `controller` of every disk, in the order of the slots, for somebody in this process.
    pub fn plugs(&self, controller: ControllerId) -> Vec<Plug> {
        let port = |disk: &Arc<Disk>| DiskPort {
            disk: disk.clone(),
            port: controller,
        };
        self.disks.iter().map(|disk| Plug::new(port(disk))).collect()
    }

    fn disk(&self, index: DiskIndex) -> Result<&Arc<Disk>, ShelfError> {
        self.disks
            .get(usize::from(index.get()))
            .ok_or(ShelfError::NoDisk {
                disk: index,
                last: self.disks.len().saturating_sub(1) as u16,
            })
    }

    fn selected(&self, index: Option<DiskIndex>) -> Result<Vec<&Arc<Disk>>, ShelfError> {
        match index {
            Some(index) => Ok(vec![self.disk(index)?]),
            None => Ok(self.disks.iter().collect()),
        }
    }

    fn disconnect(&self, port: Option<ControllerId>, disk: Option<DiskIndex>) {
        for server in guard(&self.ports).iter() {
            let DiskPort {
                disk: served,
                port: at,
            } = &**server.handler();
            if port.is_none_or(|port| port == *at) && disk.is_none_or(|disk| disk == served.spec.index) {
                server.disconnect();
            }
        }
    }

    /// Pulls or plugs the cable of one controller to one disk, or to all of them. When this returns, no command that
    /// came over a pulled cable takes effect any more. Says whether anything changed.
    pub fn set_path(
        &self,
        controller: ControllerId,
        disk: Option<DiskIndex>,
        connected: bool,
    ) -> Result<bool, ShelfError> {
        let mut changed = false;
        for each in self.selected(disk)? {
            changed |= each.set_path(controller, connected);
        }
        if !connected {
            self.disconnect(Some(controller), disk);
        }
        Ok(changed)
    }

    /// Makes a disk misbehave through one port, or both; faults add up until [`DiskFault::None`].
    pub fn set_fault(
        &self,
        disk: DiskIndex,
        port: Option<ControllerId>,
        fault: DiskFault,
    ) -> Result<bool, ShelfError> {
        Ok(self.disk(disk)?.add_fault(port, fault))
    }

    /// The shelf's power. Off: commands end, caches lose what was not flushed, sessions break; reservations persist.
    pub fn set_power(&self, on: bool) -> Result<bool, ShelfError> {
        let mut changed = false;
        for disk in &self.disks {
            changed |= disk.set_power(on)?;
        }
        if !on {
            self.disconnect(None, None);
        }
        Ok(changed)
    }

    /// A disk, or every disk, forgets who is registered and who holds it: what a shelf does whose disks do not keep
    /// reservations through a power loss.
    pub async fn forget_reservations(&self, disk: Option<DiskIndex>) -> Result<(), ShelfError> {
        for each in self.selected(disk)? {
            each.forget_reservations().await?;
        }
        Ok(())
    }

    /// Every cable plugged, every fault gone. Power stays as it is.
    pub fn heal(&self) {
        for disk in &self.disks {
            disk.add_fault(None, DiskFault::None);
            for controller in ControllerId::ALL {
                disk.set_path(controller, true);
            }
        }
    }

    /// What stands in the shelf.
    pub fn disks(&self) -> Vec<DiskStatus> {
        self.disks
            .iter()
            .map(|disk| DiskStatus {
                index: disk.spec.index,
                serial: disk.spec.serial.clone(),
                bytes: disk.spec.bytes,
                quorum: disk.spec.quorum,
                paths: disk.paths(),
                faults: disk.faults(),
            })
            .collect()
    }
}

fn lock(dir: &Path) -> Result<Lock, ShelfError> {
    Lock::acquire(&dir.join("lock")).map_err(|error| match error {
        held @ LockError::Held { .. } => ShelfError::Busy(held),
        LockError::Io { path, source } => ShelfError::Io { path, source },
    })
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
