//! The socket of the daemon, and who may use it.

use crate::groups::{GroupError, Groups};
use crate::names;
use crate::plan::{Refusal, Systems};
use crate::programs::{Machine, ToolError, Tools};
use pollux_api::error::{Code, RpcError};
use pollux_api::lvm::{
    ACTIVATE, APPLY, CUT, DEACTIVATE, DIRECTORY, POOLS, REMOVE, REPLACE, ROLL_BACK, SOCKET, STATE, Which,
};
use pollux_platform::file::Lock;
use pollux_platform::lines::server::{self, Handler, Reply, params, unknown};
use pollux_platform::notify::Notifier;
use pollux_platform::signal::Shutdown;
use pollux_runtime::ControllerConfig;
use serde::Serialize;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

/// Everything that is answered.
const METHODS: [&str; 9] = [
    ACTIVATE, APPLY, REPLACE, ROLL_BACK, STATE, DEACTIVATE, CUT, REMOVE, POOLS,
];

/// Answers at the socket.
#[derive(Debug)]
pub struct Door<T>(Arc<Groups<T>>);

impl<T: Tools> Door<T> {
    /// To these groups.
    pub fn new(groups: Groups<T>) -> Arc<Self> {
        Arc::new(Door(Arc::new(groups)))
    }
}

fn told(method: &str, error: &GroupError) -> RpcError {
    let (code, remedy) = match error {
        GroupError::Refused(Refusal::Inactive { .. }) => (Code::NotFound, "lvm.activate comes first"),
        GroupError::Refused(Refusal::NoSnapshot { .. }) => {
            (Code::NotFound, "lvm.activate says which there are")
        }
        GroupError::Refused(Refusal::Foreign { .. } | Refusal::Occupied { .. }) => (
            Code::Conflict,
            "choose other disks, or give these up where they are used",
        ),
        GroupError::Refused(Refusal::Missing { .. }) => (Code::Refused, "bring the pool's disks back"),
        GroupError::Refused(Refusal::Disks { .. } | Refusal::Small { .. } | Refusal::Shrink { .. }) => {
            (Code::Refused, "ask for what is possible")
        }
        GroupError::Refused(Refusal::ShrinkFiles { .. } | Refusal::SmallFiles { .. }) => {
            (Code::Refused, "ask for what is possible")
        }
        GroupError::Refused(Refusal::NoFiles { .. }) => (
            Code::Refused,
            "look at the device; if nothing of it is needed, delete the file system and make another",
        ),
        GroupError::Refused(Refusal::Used { .. }) => (
            Code::Refused,
            "remove what is in it first; a configuration that has the pool brings it back",
        ),
        GroupError::Refused(Refusal::Whole { .. }) => (Code::Refused, "nothing: it has all it needs"),
        GroupError::Refused(Refusal::Single { .. }) => {
            (Code::Refused, "make another pool, and restore a backup")
        }
        GroupError::Disk { .. } => (Code::Refused, "bring the disk or the path to it back"),
        GroupError::Tool(ToolError::Deadline { .. }) => {
            (Code::DeadlinePassed, "ask again, or cut the group off")
        }
        GroupError::Tool(_)
        | GroupError::Report(_)
        | GroupError::Mounts(_)
        | GroupError::Files { .. }
        | GroupError::Node(_)
        | GroupError::Stuck { .. }
        | GroupError::Endless { .. } => (Code::Failed, "the journal of lvmd says what was done before"),
    };
    RpcError::new(code, method, error.to_string()).remedy(remedy)
}

fn answer(method: &str, result: Result<impl Serialize, GroupError>) -> Result<Value, RpcError> {
    let value = result.map_err(|error| {
        tracing::warn!(method, %error, "not done");
        told(method, &error)
    })?;
    serde_json::to_value(value).map_err(|error| RpcError::new(Code::Internal, method, error.to_string()))
}

impl<T: Tools> Handler for Door<T> {
    async fn call(&self, method: &str, given: Value) -> Reply {
        Reply::Answer(self.ask(method, given).await)
    }
}

impl<T: Tools> Door<T> {
    /// One request.
    ///
    /// # Errors
    /// What was refused or went wrong, in words for whoever asked.
    pub async fn ask(&self, method: &str, given: Value) -> Result<Value, RpcError> {
        let (groups, name) = (self.0.clone(), method.to_owned());
        // Brought to its end even if whoever asked hangs up: half of a step is worse than all of it.
        let done = match method {
            ACTIVATE => {
                let request = params(method, given)?;
                tokio::spawn(async move { answer(&name, groups.activate(&request).await) })
            }
            APPLY => {
                let request = params(method, given)?;
                tokio::spawn(async move { answer(&name, groups.apply(&request).await) })
            }
            REPLACE => {
                let request = params(method, given)?;
                tokio::spawn(async move { answer(&name, groups.replace(&request).await) })
            }
            ROLL_BACK => {
                let request = params(method, given)?;
                tokio::spawn(async move { answer(&name, groups.roll_back(&request).await) })
            }
            POOLS => tokio::spawn(async move { answer(&name, groups.pools().await) }),
            REMOVE => {
                let request = params(method, given)?;
                tokio::spawn(async move { answer(&name, groups.remove(&request).await) })
            }
            STATE | DEACTIVATE | CUT => {
                let Which { pool } = params(method, given)?;
                tokio::spawn(async move {
                    match &*name {
                        STATE => answer(&name, groups.state(pool).await),
                        DEACTIVATE => answer(&name, groups.deactivate(pool).await),
                        _ => answer(&name, groups.cut(pool).await),
                    }
                })
            }
            _ => return Err(unknown(method, &METHODS)),
        };
        let lost = |error| {
            RpcError::new(
                Code::Internal,
                method,
                format!("it did not come to its end: {error}"),
            )
        };
        done.await.map_err(lost)?
    }
}

/// Binds the socket anew. Who may open it is said by its directory and by the mask of the process.
///
/// # Errors
/// What the system says.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Serves until SIGTERM or SIGINT. Groups stay as they are.
///
/// # Errors
/// The socket, a directory or a signal cannot be had.
pub async fn run(config: ControllerConfig) -> io::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let notifier = Notifier::from_env()?;
    let directory = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_else(|| DIRECTORY.into());
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory)?;
    let _lock = Lock::acquire(&directory.join("lvmd.lock")).map_err(io::Error::other)?;
    let own = names::system_id(config.array, config.controller);
    let partner = names::system_id(config.array, config.controller.partner());
    let door = Door::new(Groups::new(Machine::new(directory)?, Systems { own, partner }));
    let listener = bind(&directory.join(SOCKET))?;
    let beat = async {
        if let Err(error) = notifier.ready() {
            tracing::debug!(%error, "service manager not told");
        }
        tracing::info!("ready");
        notifier.feed().await;
    };
    tokio::select! {
        () = shutdown.requested() => {}
        () = server::serve(listener, door) => {}
        () = beat => {}
    }
    Ok(())
}
