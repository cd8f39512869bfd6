//! The daemon that has volume groups, as this one asks it.

use crate::device::Node;
use pollux_api::id::PoolId;
use pollux_api::lvm::{
    ACTIVATE, APPLY, Activate, Apply, CUT, DEACTIVATE, Group, POOLS, REMOVE, REPLACE, ROLL_BACK, Remove,
    Replace, RollBack, STATE, State, Which,
};
use pollux_platform::lines::LineClient;
use pollux_platform::scsi::{LinuxDisk, Sharing};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long what changes a group may take; making one takes longest, since its parts are cleared.
const CHANGE: Duration = Duration::from_secs(90);
/// How long an import or an export may take: more than one call of LVM that waits for a disk, less than a host waits.
const MOVE: Duration = Duration::from_secs(28);
/// How long a question to the kernel may take.
const ASK: Duration = Duration::from_secs(10);

/// Volume groups of this controller. Errors are words for people.
pub trait Groups: Send + Sync + 'static {
    /// Activates the group of a pool; makes it first, where that is permitted and there is none.
    fn activate(&self, request: Activate) -> impl Future<Output = Result<Group, String>> + Send;
    /// Brings volumes and snapshots to what is wanted.
    fn apply(&self, request: Apply) -> impl Future<Output = Result<Group, String>> + Send;
    /// Takes a disk into the place of one that the group has lost.
    fn replace(&self, request: Replace) -> impl Future<Output = Result<Group, String>> + Send;
    /// Makes a volume what a snapshot is.
    fn roll_back(&self, request: RollBack) -> impl Future<Output = Result<Group, String>> + Send;
    /// What the kernel says of a group.
    fn state(&self, pool: PoolId) -> impl Future<Output = Result<State, String>> + Send;
    /// Deactivates a group.
    fn deactivate(&self, pool: PoolId) -> impl Future<Output = Result<(), String>> + Send;
    /// Lets nothing of a group reach a disk any more.
    fn cut(&self, pool: PoolId) -> impl Future<Output = Result<(), String>> + Send;
    /// Removes a group in which nothing is.
    fn remove(&self, request: Remove) -> impl Future<Output = Result<(), String>> + Send;
    /// Pools of which something stands in the kernel.
    fn pools(&self) -> impl Future<Output = Result<Vec<PoolId>, String>> + Send;
    /// Opens the device of a volume. Blocks.
    ///
    /// # Errors
    /// What the system says; `EBUSY` while somebody else has it.
    fn open(&self, node: &Path) -> io::Result<Node>;
}

/// The one behind a socket.
#[derive(Debug)]
pub struct Lvmd {
    socket: PathBuf,
}

impl Lvmd {
    /// The daemon that listens there.
    pub fn new(socket: &Path) -> Self {
        Lvmd {
            socket: socket.to_owned(),
        }
    }

    /// A connection for each call: what a hanging disk holds up is that pool's alone.
    async fn ask<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        within: Duration,
    ) -> Result<R, String> {
        let mut client = LineClient::new(&self.socket);
        let answer = client.call(method, Some(params), within).await;
        answer.map_err(|error| error.to_string())
    }
}

impl Groups for Lvmd {
    async fn activate(&self, request: Activate) -> Result<Group, String> {
        let within = if request.create { CHANGE } else { MOVE };
        self.ask(ACTIVATE, request, within).await
    }

    async fn apply(&self, request: Apply) -> Result<Group, String> {
        self.ask(APPLY, request, CHANGE).await
    }

    async fn replace(&self, request: Replace) -> Result<Group, String> {
        self.ask(REPLACE, request, CHANGE).await
    }

    async fn roll_back(&self, request: RollBack) -> Result<Group, String> {
        self.ask(ROLL_BACK, request, CHANGE).await
    }

    async fn state(&self, pool: PoolId) -> Result<State, String> {
        self.ask(STATE, Which { pool }, ASK).await
    }

    async fn deactivate(&self, pool: PoolId) -> Result<(), String> {
        self.ask::<bool>(DEACTIVATE, Which { pool }, MOVE).await.map(drop)
    }

    async fn cut(&self, pool: PoolId) -> Result<(), String> {
        self.ask::<bool>(CUT, Which { pool }, MOVE).await.map(drop)
    }

    async fn remove(&self, request: Remove) -> Result<(), String> {
        self.ask::<bool>(REMOVE, request, CHANGE).await.map(drop)
    }

    async fn pools(&self) -> Result<Vec<PoolId>, String> {
        self.ask(POOLS, (), ASK).await
    }

    fn open(&self, node: &Path) -> io::Result<Node> {
        // The kernel knows of the caches behind its own devices.
        Ok(Arc::new(LinuxDisk::open(node, true, Sharing::Alone)?))
    }
}
