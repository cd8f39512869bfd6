//! The disks of the shelf as this controller reaches them: one session per disk, shared by all who need it.
//!
//! A disk lets in one session of this program at a time and drains the older one first. So a session that is dropped
//! because a command did not come back in time, and replaced, leaves nothing behind that could still take effect.

use futures_util::future::join_all;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_block_frame::key::port_of;
use pollux_block_frame::{Client, EndpointInfo, Error, Hello, Purpose};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a disk may take for one command. Far below a host's timeout (30 s), far above an error recovery that
/// a disk should be allowed.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(4);

/// Sessions at the disks.
#[derive(Debug)]
pub struct Disks {
    directory: PathBuf,
    array: ArrayId,
    controller: ControllerId,
    sessions: Mutex<BTreeMap<DiskIndex, Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Option<Session>>;

/// A session at one disk.
#[derive(Clone, Debug)]
pub struct Session {
    /// To send commands.
    pub client: Client,
    /// Identity and geometry, asked at its beginning.
    pub info: EndpointInfo,
}

impl Session {
    /// Tells two sessions at one disk apart.
    pub fn number(&self) -> u64 {
        self.client.welcome().session
    }

    /// Size of the disk, bytes.
    pub fn bytes(&self) -> u64 {
        self.info.blocks.saturating_mul(self.info.block_size.into())
    }
}

/// The instant at which a command that starts now is given up.
pub fn deadline() -> Option<Instant> {
    Some(Instant::now() + COMMAND_DEADLINE)
}

impl Disks {
    /// The disks behind the port directory of a controller.
    pub fn new(directory: &Path, array: ArrayId, controller: ControllerId) -> Self {
        Disks {
            directory: directory.to_owned(),
            array,
            controller,
            sessions: Mutex::default(),
        }
    }

    /// The array.
    pub fn array(&self) -> ArrayId {
        self.array
    }

    /// The controller through whose port they are reached.
    pub fn controller(&self) -> ControllerId {
        self.controller
    }

    fn slot(&self, disk: DiskIndex) -> Arc<Slot> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(disk).or_default().clone()
    }

    /// The session at a disk; a new one if there is none, or it has broken.
    pub async fn session(&self, disk: DiskIndex) -> Result<Session, Error> {
        let slot = self.slot(disk);
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(session.clone());
        }
        let hello = Hello {
            array: Uuid::from_bytes(*self.array.as_bytes()),
            port: port_of(self.controller),
            purpose: Purpose::Disk,
            client: "pool-manager".to_owned(),
            epoch: 0,
            generation: 0,
        };
        let path = self.directory.join(format!("{disk}.sock"));
        let client = Client::connect_unix(&path, &hello, None, COMMAND_DEADLINE).await?;
        let info = client.info(deadline()).await?;
        let session = Session { client, info };
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Gives up a session in which a command is stuck, so that the next one drains it first.
    pub async fn give_up(&self, disk: DiskIndex, stuck: &Session) {
        let slot = self.slot(disk);
        let mut slot = slot.lock().await;
        if slot
            .as_ref()
            .is_some_and(|session| session.number() == stuck.number())
        {
            *slot = None;
        }
    }

    /// Ends every session that nobody uses now.
    pub fn hang_up(&self) {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Disks that have a socket here, ascending.
    pub fn present(&self) -> std::io::Result<Vec<DiskIndex>> {
        let mut disks: Vec<_> = std::fs::read_dir(&self.directory)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let slot = name.to_str()?.strip_prefix("disk-")?.strip_suffix(".sock")?;
                slot.parse().ok().map(DiskIndex::new)
            })
            .collect();
        disks.sort_unstable();
        Ok(disks)
    }

    /// Does the same with several disks at once; results in the order of `disks`.
    pub async fn each<T, F>(&self, disks: &[DiskIndex], work: impl Fn(DiskIndex) -> F) -> Vec<(DiskIndex, T)>
    where
        F: Future<Output = T>,
    {
        join_all(disks.iter().map(|&disk| {
            let work = work(disk);
            async move { (disk, work.await) }
        }))
        .await
    }
}
