//! `pollux-chassis run`: from a directory to a running array, and back to nothing.

use crate::{
    options::{Options, check_length, lock_file},
    panel::{Panel, StartError},
    shelf::{Layout, Shelf, ShelfError},
};
use pollux_api::id::ControllerId;
use pollux_pairing::{IdentityError, identity::provision};
use pollux_platform::{
    file::{Lock, LockError, replace},
    keys::{KeyError, KeyStore},
    netns::{self, NamespaceError},
    signal::Shutdown,
};
use std::{io, path::PathBuf};
use tokio::{io::AsyncReadExt, task::JoinSet};

/// Size of a quorum disk, bytes; the quorum area takes a small part of it.
const QUORUM_DISK_BYTES: u64 = 4 << 20;

/// Why an enclosure does not run. Each kind has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An option does not fit this system.
    #[error("{0}")]
    Option(String),
    /// Another enclosure has the directory.
    #[error("{0}: end it (pollux-chassis call --dir ... chassis.shutdown), or choose another directory")]
    Busy(LockError),
    /// The shelf or the key store is damaged, cut short or of another array.
    #[error("{0}")]
    Damaged(String),
    /// This user may not create namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A program of a daemon is missing.
    #[error("{0}")]
    NoProgram(StartError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl RunError {
    /// The exit code, as the help of `pollux-chassis` states it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Option(_) => 2,
            Self::Busy(_) => 3,
            Self::Damaged(_) => 4,
            Self::Namespace(_) => 5,
            Self::NoProgram(_) => 6,
        }
    }
}

/// What the exit codes mean, for the help.
pub const EXIT_CODES: &str = "Exit codes: 0 ended as asked; 1 failed; 2 wrong option; 3 another enclosure has the \
                              directory; 4 the shelf or the key store is damaged or of another array; 5 this user may \
                              not create namespaces; 6 a daemon's program is missing.";

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> RunError {
    let what = what.to_string();
    move |error| RunError::Failed(format!("{what}: {error}"))
}

/// Gives each controller its own key store: what `pollux pair` does for two that stand in different places. Keys that
/// are there stay.
fn pair(options: &Options, keys: &KeyStore) -> Result<(), RunError> {
    let stores = ControllerId::ALL.map(|controller| options.controller_dir(controller).join("keys"));
    for store in &stores {
        match KeyStore::load(store) {
            Ok(_) => {}
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => keys
                .write(store)
                .map_err(|error| RunError::Failed(error.to_string()))?,
            Err(error) => return Err(RunError::Damaged(error.to_string())),
        }
    }
    provision([&stores[0], &stores[1]]).map_err(|error| match error {
        IdentityError::Io { .. } | IdentityError::Random => RunError::Failed(error.to_string()),
        _ => RunError::Damaged(error.to_string()),
    })
}

/// Runs an enclosure until it is asked to end (SIGTERM, SIGINT, `chassis.shutdown`). The calling process must have one
/// thread.
pub fn run(mut options: Options) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.dir)
        .map_err(failed(options.dir.display()))?;
    options.dir = options
        .dir
        .canonicalize()
        .map_err(failed(options.dir.display()))?;
    check_length(&options.dir).map_err(RunError::Option)?;
    let _lock = Lock::acquire(&lock_file(&options.dir)).map_err(|error| match error {
        held @ LockError::Held { .. } => RunError::Busy(held),
        other => RunError::Failed(other.to_string()),
    })?;
    check_programs(&options)?;
    let keys = KeyStore::provision(&options.dir.join("keys")).map_err(|error| match error {
        KeyError::Io { .. } => RunError::Failed(error.to_string()),
        _ => RunError::Damaged(error.to_string()),
    })?;
    pair(&options, &keys)?;
    let shelf_dir = options.dir.join("shelf");
    let layout = Layout {
        array: keys.array,
        data_disks: options.disks,
        data_bytes: options.disk_size,
        quorum_disks: options.quorum,
        quorum_bytes: QUORUM_DISK_BYTES,
    };
    // Says that the shelf is new and its quorum area has still to be formatted. Stands before the shelf does and until
    // that is done, so that whoever dies in between leaves neither a shelf that is never formatted nor one that could
    // be formatted twice.
    let unformatted = options.dir.join("quorum.unformatted");
    if !shelf_dir.exists() {
        replace(&unformatted, b"", 0o600).map_err(failed(unformatted.display()))?;
    }
    match Shelf::create(&shelf_dir, &layout) {
        // Of an array that ran before: its disks are what they are.
        Ok(()) | Err(ShelfError::Exists { .. }) => {}
        Err(error) => return Err(shelf_error(error)),
    }
    netns::enter_new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed("runtime"))?;
    let outcome = runtime.block_on(async {
        let shelf = Shelf::open(&shelf_dir, Some(keys.array), options.seed).map_err(shelf_error)?;
        let shutdown = Shutdown::on_signals().map_err(failed("signals"))?;
        if options.end_with_stdin {
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let mut input = tokio::io::stdin();
                while input.read(&mut [0; 64]).await.is_ok_and(|length| length > 0) {}
                shutdown.request();
            });
        }
        let mut tasks = JoinSet::new();
        let started = Panel::start(
            options,
            keys.array,
            shelf,
            &unformatted,
            shutdown.clone(),
            &mut tasks,
        )
        .await;
        let panel = started.map_err(|error| match error {
            StartError::NoProgram { .. } => RunError::NoProgram(error),
            StartError::Shelf(error) => shelf_error(error),
            other => RunError::Failed(other.to_string()),
        })?;
        shutdown.requested().await;
        // From here on nobody presses a button.
        tasks.shutdown().await;
        panel.end().await;
        Ok(())
    });
    // A read of standard input may never return.
    runtime.shutdown_background();
    outcome
}

/// A shelf that is damaged, of another array or in use, or a system that fails.
fn shelf_error(error: ShelfError) -> RunError {
    match error {
        ShelfError::Busy(held) => RunError::Busy(held),
        ShelfError::Layout { .. } => RunError::Option(error.to_string()),
        ShelfError::Damaged { .. } | ShelfError::WrongArray { .. } | ShelfError::Log(_) => {
            RunError::Damaged(error.to_string())
        }
        other => RunError::Failed(other.to_string()),
    }
}

/// A missing program is told before anything is started.
fn check_programs(options: &Options) -> Result<(), RunError> {
    let missing: Option<(&String, PathBuf)> = options
        .daemons
        .iter()
        .map(|name| (name, options.program(name)))
        .find(|(_, path)| !path.is_file());
    match missing {
        None => Ok(()),
        Some((name, path)) => Err(RunError::NoProgram(StartError::NoProgram {
            path,
            package: package(name),
        })),
    }
}

/// The package that makes a daemon's program.
fn package(program: &str) -> String {
    let name = match program {
        "rpc-routerd" => "rpc-router",
        "config-keeperd" => "config-keeper",
        "pool-managerd" => "pool-manager",
        "block-targetd" => "block-target",
        "addressd" => "address",
        other => other.trim_end_matches('d'),
    };
    format!("pollux-{name}")
}
