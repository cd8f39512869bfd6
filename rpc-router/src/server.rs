//! The sockets around the sorting room: one task per connection reads what comes and writes what is queued.
//!
//! Reader tasks hand whole messages to the core under one lock that is never held across a wait; what the core sends
//! is appended to the receiver's buffer, and its writer puts everything that has gathered on the wire in one go. So a
//! slow reader fills only its own buffer, and a full one is refused (`overloaded`), not waited for.

use crate::link;
use crate::routing::{ConnectionId, Core, Now, Peer, World};
use crate::trace::Journal;
use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::router::{MAX_MESSAGE, TraceRecord};
use pollux_platform::file::{Lock, LockError};
use pollux_platform::keys::{KeyError, KeyStore};
use pollux_platform::notify::Notifier;
use pollux_platform::signal::Shutdown;
use pollux_runtime::ControllerConfig;
use pollux_runtime::wire::Framer;
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Version that the router tells services and the partner.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Bytes that wait for one receiver; a message that does not fit is refused.
const QUEUE: usize = 4 * MAX_MESSAGE;
/// Local connections at the same time; the next is closed at once.
const CONNECTIONS: usize = 1024;
/// A buffer that has grown beyond this gives its memory back.
const KEEP: usize = 128 << 10;

/// Why the router cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another router runs here.
    #[error(transparent)]
    Running(#[from] LockError),
    /// The pairing key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The socket cannot be served.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The trace journal cannot be used.
    #[error("cannot use the trace journal in {}: {source}", path.display())]
    Journal {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process cannot follow signals.
    #[error("cannot follow signals: {0}")]
    Signals(io::Error),
}

/// What waits to be written to one connection.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    closed: Option<String>,
}

/// Why there is nothing more to write.
pub(crate) struct Closed(pub(crate) String);

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it was held leaves whole messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: &[u8]) -> bool {
        let mut state = self.state();
        if state.closed.is_some() {
            return true;
        }
        if state.bytes.len() + message.len() > QUEUE {
            return false;
        }
        state.bytes.extend_from_slice(message);
        drop(state);
        self.wake.notify_one();
        true
    }

    fn close(&self, why: &str) {
        self.state().closed.get_or_insert_with(|| why.to_owned());
        self.wake.notify_one();
    }

    /// Waits for bytes and swaps them into `out`, which must be empty.
    pub(crate) async fn take(&self, out: &mut Vec<u8>) -> Result<(), Closed> {
        loop {
            {
                let mut state = self.state();
                if let Some(why) = &state.closed {
                    return Err(Closed(why.clone()));
                }
                if !state.bytes.is_empty() {
                    std::mem::swap(out, &mut state.bytes);
                    return Ok(());
                }
            }
            self.wake.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        self.state().bytes.is_empty()
    }
}

/// The core and its surroundings.
#[derive(Debug)]
pub struct Bus {
    inner: Mutex<Inner>,
    begin: Instant,
    timer: Notify,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    outside: Outside,
    next_connection: ConnectionId,
    /// When the timer wakes up by itself.
    armed: Option<u64>,
}

#[derive(Debug)]
struct Outside {
    queues: HashMap<ConnectionId, Arc<Queue>>,
    journal: Journal,
}

impl World for Outside {
    fn send(&mut self, to: ConnectionId, message: &[u8]) -> bool {
        self.queues.get(&to).is_none_or(|queue| queue.push(message))
    }

    fn close(&mut self, connection: ConnectionId, why: &str) {
        if let Some(queue) = self.queues.get(&connection) {
            queue.close(why);
        }
    }

    fn new_action(&mut self) -> ActionId {
        pollux_runtime::ctx::new_action()
    }

    fn journal(&mut self, record: &TraceRecord) -> bool {
        self.journal.write(record)
    }
}

impl Bus {
    /// A switchboard without a socket; see [`run`].
    fn new(config: &ControllerConfig) -> Result<Arc<Self>, Error> {
        let path = &config.paths.var;
        let journal = fs::create_dir_all(path).and_then(|()| Journal::open(path));
        let (journal, ring) = journal.map_err(|source| Error::Journal {
            path: path.clone(),
            source,
        })?;
        let begin = Instant::now();
        let partner = config.interconnect.router_partner().to_string();
        let core = Core::new(config.controller, VERSION, partner, ring, now_since(begin));
        let outside = Outside {
            queues: HashMap::new(),
            journal,
        };
        let inner = Mutex::new(Inner {
            core,
            outside,
            next_connection: 1,
            armed: None,
        });
        Ok(Arc::new(Self {
            inner,
            begin,
            timer: Notify::new(),
        }))
    }

    /// Lets the core handle an event. Nothing in here may wait.
    fn with<R>(&self, event: impl FnOnce(&mut Core, &mut Outside, Now) -> R) -> R {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner {
            core, outside, armed, ..
        } = &mut *inner;
        let result = event(core, outside, now_since(self.begin));
        if core
            .next_deadline()
            .is_some_and(|next| armed.is_none_or(|armed| next < armed))
        {
            self.timer.notify_one();
        }
        result
    }

    fn connect(&self) -> (ConnectionId, Arc<Queue>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inner.next_connection;
        inner.next_connection += 1;
        let queue = Arc::new(Queue::default());
        inner.outside.queues.insert(id, Arc::clone(&queue));
        (id, queue)
    }

    fn disconnect(&self, id: ConnectionId) {
        self.with(|core, outside, now| {
            outside.queues.remove(&id);
            core.closed(id, now, outside);
        });
    }

    /// The link to the partner is up: its number and what is to be written to it.
    pub(crate) fn link_up(&self, version: String) -> (ConnectionId, Arc<Queue>) {
        let (id, queue) = self.connect();
        self.with(|core, outside, now| core.link_up(id, version, now, outside));
        (id, queue)
    }

    /// The link is down.
    pub(crate) fn link_down(&self, id: ConnectionId, why: String) {
        self.disconnect(id);
        self.link_problem(why);
    }

    /// There is no link, and why.
    pub(crate) fn link_problem(&self, why: String) {
        self.with(|core, _, _| core.link_problem(why));
    }

    /// Hands everything that has come to the core.
    pub(crate) fn receive(&self, id: ConnectionId, framer: &mut Framer) {
        while let Some(message) = framer.next_message() {
            self.with(|core, outside, now| match message {
                Ok(message) => core.receive(id, message, now, outside),
                Err(malformed) => core.garbage(id, &RpcError::from(malformed), outside),
            });
        }
    }

    /// Answers what has waited too long; never returns.
    async fn expire(&self) {
        loop {
            let next = {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.armed = inner.core.next_deadline();
                inner.armed
            };
            match next {
                None => self.timer.notified().await,
                Some(us) => tokio::select! {
                    () = sleep_until(self.begin + Duration::from_micros(us)) => {}
                    () = self.timer.notified() => {}
                },
            }
            self.with(|core, outside, now| core.expire(now, outside));
        }
    }

    /// One local connection, from its beginning to its end.
    async fn serve(self: Arc<Self>, mut stream: UnixStream, peer: Peer) {
        let (id, queue) = self.connect();
        self.with(|core, _, _| core.opened(id, peer));
        let (mut reader, mut writer) = stream.split();
        let read = async {
            let mut framer = Framer::default();
            loop {
                match reader.read_buf(framer.buffer()).await {
                    Ok(0) => break,
                    Ok(_) => self.receive(id, &mut framer),
                    Err(_) => return,
                }
            }
            // `echo ... | socat` has said all that it wants to say and waits for the answers.
            while self.with(|core, _, _| core.awaited(id)) > 0 || !queue.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let write = async {
            let mut bytes = Vec::new();
            loop {
                bytes.clear();
                if bytes.capacity() > KEEP {
                    bytes = Vec::new();
                }
                if let Err(Closed(why)) = queue.take(&mut bytes).await {
                    tracing::warn!(uid = peer.uid, pid = peer.pid, why, "connection closed");
                    return;
                }
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
        self.disconnect(id);
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        let own = fs::metadata("/proc/self")
            .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
            .ok();
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Usually too many open files: what closes meanwhile makes room.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(
                    connections = CONNECTIONS,
                    "too many connections; a new one was closed"
                );
                continue;
            };
            let peer = match stream.peer_cred() {
                Ok(cred) => {
                    let (uid, pid) = (cred.uid(), cred.pid().unwrap_or(0));
                    Peer {
                        uid,
                        pid,
                        trusted: uid == 0 || Some(uid) == own,
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a peer without credentials");
                    continue;
                }
            };
            let bus = Arc::clone(&self);
            tokio::spawn(async move {
                bus.serve(stream, peer).await;
                drop(slot);
            });
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the only wall clock of the router: stamps for people, no decision"
)]
fn now_since(begin: Instant) -> Now {
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Now {
        us: us(begin.elapsed()),
        unix_us: us(unix),
    }
}

/// Makes the socket at `path`, which only its owner may use. The lock says that no other router serves it, so what
/// lies there is a leftover.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    let bind = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| Error::Socket {
        path: path.to_owned(),
        source,
    })
}

/// Runs the router of a controller until it is asked to stop.
///
/// # Errors
/// [`Error`], when it cannot start.
pub async fn run(config: ControllerConfig, shutdown: Shutdown) -> Result<(), Error> {
    let path = config.paths.router_socket();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::Socket {
            path: path.clone(),
            source,
        })?;
    }
    let _lock = Lock::acquire(&config.paths.run.join("router.lock"))?;
    let keys = KeyStore::load(&config.paths.keys)?;
    let bus = Bus::new(&config)?;
    let listener = listen(&path)?;
    match Notifier::from_env().and_then(|notifier| notifier.ready()) {
        Ok(()) => tracing::info!(socket = %path.display(), controller = %config.controller, "ready"),
        Err(error) => tracing::warn!(%error, "cannot report readiness"),
    }
    tokio::select! {
        () = Arc::clone(&bus).accept(listener) => {}
        () = bus.expire() => {}
        () = link::run(&bus, &config, &keys) => {}
        () = shutdown.requested() => {}
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(%error, "cannot remove the socket");
    }
    Ok(())
}
