//! The disks of this enclosure: each comes, is served, goes, and comes again.
//!
//! ```text
//!            found, and nothing against it          asked, and it is who it should be
//!   absent ------------------------------> opening ---------------------------------> served
//!     ^                                       | refused, and why                        | not found any more
//!     +---------------------------------------+----------------- drained <--------------+
//! ```
//!
//! Whoever holds the bell (the kernel's events) only says "look"; what is done follows from what stands in sysfs then. A
//! slot is opened again only when everything of its disk that was under way has ended: also where the path has failed and
//! there is another one, which then inherits what the first was registered with.

use crate::choice::{Facts, Verdict, choose, interview, is_up};
use crate::config::Disk;
use crate::disk::{Served, port_of};
use crate::reservations::{Refusal, Reservations};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_block_frame::{Purpose, Server, ServerOptions};
use pollux_platform::scsi::discover::{self, Block, Found};
use pollux_platform::scsi::{LinuxDisk, ScsiDisk, Sharing};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use uuid::Uuid;

/// After so long a disk that is not served is looked at again without having been called: one that only was not ready yet
/// rings no bell when it is.
const AGAIN: Duration = Duration::from_secs(2);

/// Where disks are looked for and opened. Both block.
pub trait World: Send + Sync + 'static {
    /// Every SCSI device there is.
    ///
    /// # Errors
    /// What the system says.
    fn scan(&self) -> io::Result<Vec<Found>>;

    /// Opens a block device.
    ///
    /// # Errors
    /// What the system says; `EBUSY` while somebody else has it.
    fn open(&self, found: &Found, block: &Block, sharing: Sharing) -> io::Result<Arc<dyn ScsiDisk>>;
}

/// The kernel's.
#[derive(Clone, Debug)]
pub struct Kernel {
    sysfs: PathBuf,
    dev: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}

impl World for Kernel {
    fn scan(&self) -> io::Result<Vec<Found>> {
        discover::scan(&self.sysfs)
    }

    fn open(&self, _found: &Found, block: &Block, sharing: Sharing) -> io::Result<Arc<dyn ScsiDisk>> {
        let disk = LinuxDisk::open(&self.dev.join(&block.name), block.write_back, sharing)?;
        Ok(Arc::new(disk))
    }
}

/// Whose shelf it is, and where its sockets stand.
#[derive(Clone, Debug)]
pub struct Place {
    /// The array.
    pub array: ArrayId,
    /// The controller whose port this is.
    pub controller: ControllerId,
    /// Directory of the sockets.
    pub directory: PathBuf,
}

/// What becomes of a slot.
enum State {
    /// Nothing; why was said.
    Idle,
    /// It is being opened and asked.
    Opening,
    /// It is served.
    Served {
        server: Arc<Server<Served>>,
        task: JoinHandle<()>,
        /// Address and block name under which it was found.
        at: (String, String),
    },
    /// What was under way is coming to its end.
    Draining,
}

struct Slot {
    disk: Disk,
    state: State,
    /// What was last said of it, so that it is said once.
    said: String,
}

impl Slot {
    fn say(&mut self, what: String) {
        if self.said != what {
            tracing::warn!(disk = %self.disk.slot, what, "not served");
            self.said = what;
        }
    }
}

/// A task has ended.
enum Event {
    Opened(
        DiskIndex,
        (String, String),
        Result<(Arc<dyn ScsiDisk>, Facts, Reservations), String>,
    ),
    Drained(DiskIndex),
}

/// The shelf.
pub struct Shelf<W> {
    world: Arc<W>,
    place: Place,
    slots: BTreeMap<DiskIndex, Slot>,
    tasks: JoinSet<Event>,
    settled: watch::Sender<bool>,
}

impl<W> std::fmt::Debug for Shelf<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl<W: World> Shelf<W> {
    /// A shelf none of whose disks has been looked for. Sockets of an earlier process are removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn new(world: W, place: Place, disks: &[Disk]) -> io::Result<Self> {
        fs::create_dir_all(&place.directory)?;
        for entry in fs::read_dir(&place.directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with("disk-") && name.ends_with(".sock") {
                remove(&path)?;
            }
        }
        let slot = |disk: &Disk| Slot {
            disk: disk.clone(),
            state: State::Idle,
            said: String::new(),
        };
        Ok(Shelf {
            world: Arc::new(world),
            place,
            slots: disks.iter().map(|disk| (disk.slot, slot(disk))).collect(),
            tasks: JoinSet::new(),
            settled: watch::Sender::new(false),
        })
    }

    /// Becomes true when every disk that was there at first is served, or was refused.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Serves until `stop` is done; looks again whenever `bell` is done, and after a while where something is not served.
    pub async fn run<B: Future<Output = ()>>(
        &mut self,
        bell: impl Fn() -> B,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.look().await;
            // Until the next look only ends of tasks are taken in.
            let mut ring = std::pin::pin!(bell());
            let mut again = std::pin::pin!(tokio::time::sleep(AGAIN));
            loop {
                let idle = self.slots.values().any(|slot| matches!(slot.state, State::Idle));
                if self.tasks.is_empty() {
                    self.settled.send_replace(true);
                }
                tokio::select! {
                    () = &mut stop => return self.close().await,
                    Some(event) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                        if self.take_in(event) {
                            break;
                        }
                    }
                    () = &mut ring => break,
                    () = &mut again, if idle => break,
                }
            }
        }
    }

    /// Looks at what is there, and begins what follows from it.
    async fn look(&mut self) {
        let world = self.world.clone();
        let scanned = tokio::task::spawn_blocking(move || world.scan()).await;
        let found = match scanned {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::error!(%error, "sysfs cannot be read; disks stay as they are"),
            Err(error) => return tracing::error!(%error, "sysfs was not read; disks stay as they are"),
        };
        for slot in self.slots.values_mut() {
            let index = slot.disk.slot;
            match &slot.state {
                State::Opening | State::Draining => {}
                State::Served { at, .. } => {
                    let name = |one: &Found| one.block.as_ref().map(|block| block.name.clone());
                    let still = found.iter().any(|one| {
                        one.address == at.0
                            && name(one).as_deref() == Some(&at.1)
                            && one.wwn == Some(slot.disk.wwn)
                            && is_up(one)
                    });
                    if !still {
                        tracing::warn!(disk = %index, address = at.0, device = at.1, "gone");
                        let state = std::mem::replace(&mut slot.state, State::Draining);
                        let socket = socket(&self.place.directory, index);
                        self.tasks.spawn(async move {
                            end(state, &socket).await;
                            Event::Drained(index)
                        });
                    }
                }
                State::Idle => match choose(&slot.disk, &found) {
                    Verdict::Absent => {
                        let what = format!("no device calls itself {}", slot.disk.wwn);
                        slot.say(what);
                    }
                    Verdict::Refused(reason) => slot.say(reason),
                    Verdict::Serve(found) => {
                        slot.state = State::Opening;
                        let (world, disk, found) = (self.world.clone(), slot.disk.clone(), found.clone());
                        self.tasks.spawn(open(world, self.place.clone(), disk, found));
                    }
                },
            }
        }
    }

    /// A task has ended; true: look again at once.
    fn take_in(&mut self, event: Result<Event, JoinError>) -> bool {
        match event {
            Ok(Event::Opened(index, at, result)) => {
                let place = self.place.clone();
                let Some(slot) = self.slots.get_mut(&index) else {
                    return false;
                };
                let served = result.and_then(|(path, facts, reservations)| {
                    serve(&place, &slot.disk, path, facts, reservations)
                });
                match served {
                    Ok((server, task, words)) => {
                        let (address, device) = (&at.0, &at.1);
                        tracing::info!(disk = %index, wwn = %slot.disk.wwn, address, device, words, "served");
                        slot.said.clear();
                        slot.state = State::Served { server, task, at };
                    }
                    Err(reason) => {
                        slot.state = State::Idle;
                        slot.say(reason);
                    }
                }
                false
            }
            Ok(Event::Drained(index)) => {
                if let Some(slot) = self.slots.get_mut(&index) {
                    slot.state = State::Idle;
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "a task of the shelf was lost; its slot stays as it is");
                false
            }
        }
    }

    /// Ends everything, after what is under way.
    async fn close(&mut self) {
        let mut ends = JoinSet::new();
        for (index, slot) in &mut self.slots {
            let state = std::mem::replace(&mut slot.state, State::Draining);
            let socket = socket(&self.place.directory, *index);
            ends.spawn(async move { end(state, &socket).await });
        }
        while ends.join_next().await.is_some() {}
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Removes the socket, then ends the sessions, each after what it has under way.
async fn end(state: State, socket: &Path) {
    let State::Served { server, task, .. } = state else {
        return;
    };
    if let Err(error) = remove(socket) {
        tracing::error!(socket = %socket.display(), %error, "cannot be removed");
    }
    server.close();
    if let Err(error) = task.await {
        tracing::error!(%error, "the server of a disk did not come to its end");
    }
}

fn socket(directory: &Path, disk: DiskIndex) -> PathBuf {
    directory.join(format!("{disk}.sock"))
}

/// Removes a socket that may not be there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn open<W: World>(world: Arc<W>, place: Place, disk: Disk, found: Found) -> Event {
    let index = disk.slot;
    let block = found.block.clone();
    let at = (
        found.address.clone(),
        block.as_ref().map(|block| block.name.clone()).unwrap_or_default(),
    );
    let opened = tokio::task::spawn_blocking(move || {
        let block = block.ok_or_else(|| format!("{} has no block device", found.address))?;
        let sharing = match disk.kernel {
            true => Sharing::WithKernel,
            false => Sharing::Alone,
        };
        let path = world.open(&found, &block, sharing).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => format!(
                "{} is held by somebody else (a mount, md, dm, or another process): nothing else may use a disk of the shelf",
                block.name
            ),
            _ => format!("{} cannot be opened: {error}", block.name),
        })?;
        let facts = interview(&disk, &found, &*path)?;
        let reservations = Reservations::new(place.array, facts.persists);
        if !disk.quorum {
            let address = &found.address;
            // The kernel may use another path than this one for what is its own.
            let alone = !disk.kernel;
            match reservations.inherit(&*path, port_of(place.controller), alone) {
                Ok(None) => {}
                Ok(Some(key)) => {
                    tracing::info!(disk = %disk.slot, address, %key, "registered as this controller is")
                }
                // It may be registered by now, and the disk still hold writes of the path before.
                Err(Refusal { status, why }) if alone => {
                    return Err(format!(
                        "what came over another path of this controller was not ended ({status:?}: {why}): it is tried again"
                    ));
                }
                Err(Refusal { status, why }) => tracing::warn!(
                    disk = %disk.slot, address, ?status, why,
                    "what this controller is registered with is not known here: its writes may meet a conflict"
                ),
            }
        }
        Ok((path, facts, reservations))
    });
    let result = opened
        .await
        .unwrap_or_else(|error| Err(format!("it could not be asked: {error}")));
    Event::Opened(index, at, result)
}

type Running = (Arc<Server<Served>>, JoinHandle<()>, String);

fn serve(
    place: &Place,
    disk: &Disk,
    path: Arc<dyn ScsiDisk>,
    facts: Facts,
    reservations: Reservations,
) -> Result<Running, String> {
    let socket = socket(&place.directory, disk.slot);
    let listener = remove(&socket)
        .and_then(|()| UnixListener::bind(&socket))
        .map_err(|error| format!("{}: {error}", socket.display()))?;
    let words = match (disk.quorum, facts.persists) {
        (true, _) => format!("{}, for the quorum alone", facts.words),
        (false, true) if disk.kernel => format!("{}, its label area; its data are the kernel's", facts.words),
        (false, true) => facts.words.clone(),
        (false, false) => format!("{}, registrations do not outlive its power", facts.words),
    };
    let served = Served::new(
        path,
        disk.slot,
        place.controller,
        disk.quorum,
        facts,
        reservations,
    );
    let array = Uuid::from_bytes(*place.array.as_bytes());
    let server = Server::new(Arc::new(served), ServerOptions::new(array, Purpose::Disk, None));
    let serving = server.clone();
    let task = tokio::spawn(async move { serving.serve_unix(listener).await });
    Ok((server, task, words))
}
