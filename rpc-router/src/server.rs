//! The sockets around the sorting room: one task per connection reads what comes, hands it to the core, and writes
//! what the core has queued.
//!
//! ```text
//! socket --read--> one buffer for all --cut--> core --> queue of each receiver --one write per batch--> socket
//!                                                             | what the socket does not take at once
//!                                                             +--> the receiver's writer, when there is room
//! ```
//!
//! The core stands behind one lock that is never held across a wait. Every read goes into the same 64 KiB, which stay
//! in the processor's cache; a connection keeps only the beginning of a message that has not come whole. A slow reader
//! fills only its own queue, and a full one is refused (`overloaded`), not waited for. Connections take turns: whoever
//! has said so much that it took [`TURN`] is heard again when the others were, and keeps the rest meanwhile; and of
//! those who come, one is let in between two turns.

use crate::link;
use crate::pending::Ticket;
use crate::routing::{ConnectionId, Core, Errand, Now, Peer, World};
use crate::trace::{Entry, Journal};
use crate::web;
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::role::Role;
use pollux_api::router::MAX_MESSAGE;
use pollux_pairing::{Identity, IdentityError, PublicKey};
use pollux_platform::file::{Lock, LockError, raise_descriptors};
use pollux_platform::notify::Notifier;
use pollux_platform::signal::Shutdown;
use pollux_runtime::ControllerConfig;
use pollux_runtime::wire::{Cutter, Message};
use std::collections::HashMap;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use std::{fs, io};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Version that the router tells services and the partner.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Bytes that wait for one receiver; a message that does not fit is refused.
const QUEUE: usize = 4 * MAX_MESSAGE;
/// Bytes that wait for all receivers together; beyond it, each may still have [`SHARE`], so that those who read are
/// served beside those who do not.
const QUEUES: usize = 64 << 20;
/// See [`QUEUES`].
const SHARE: usize = 64 << 10;
/// Bytes of messages that have begun and not ended, on all connections together; beyond it, whoever has begun more than
/// [`SHARE`] is disconnected.
const BEGINNINGS: usize = 64 << 20;
/// Local connections at the same time; the next is closed at once.
const CONNECTIONS: usize = 4096;
/// Errands that wait for a disk at the same time.
const ERRANDS: usize = 64;
/// Files beside local connections: those of the management address, the journal, the link, the library's own.
const FILES: usize = 64 + web::CONNECTIONS;
/// A buffer that has grown beyond this gives its memory back.
const KEEP: usize = 128 << 10;
/// What is read at once: what becomes of it, with what the router adds, fits a queue that keeps its memory.
const READ: usize = 64 << 10;
/// A connection is listened to for so long before it is the next one's turn. Two turns stand between a call and its
/// answer for each who has that much to say; of 64 calls that come at once most are handled in one.
pub(crate) const TURN: Duration = Duration::from_micros(100);
/// Messages between two looks at the clock.
const LOOK: usize = 2;
/// The beginning of a message is put before what is read next if it is no longer than this; else that is put behind it.
const SMALL: usize = 16 << 10;

/// Why the router cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another router runs here.
    #[error(transparent)]
    Running(#[from] LockError),
    /// A key of the link cannot be used.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The keys are no keys for TLS.
    #[error("the keys in {} cannot be used for the link: {source}; pair the controllers (pollux pair)", path.display())]
    Tls {
        /// The key store.
        path: PathBuf,
        /// What the library said.
        source: tokio_rustls::rustls::Error,
    },
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
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    /// Wakes the connection's writer.
    wake: Notify,
    /// To write what is waiting at once; a link has its own way.
    socket: Option<OwnedWriteHalf>,
    /// Bytes that wait in all queues.
    all: Arc<AtomicUsize>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let waiting = self.state().waiting();
        self.all.fetch_sub(waiting, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// So many of them are written.
    written: usize,
    /// So many more are being written by who took them, and are not known to be.
    taken: usize,
    closed: Option<String>,
    /// The socket has not taken all, and the writer waits until it takes more.
    full: bool,
    /// It stands among those that are written at the end of the batch.
    touched: bool,
}

impl Waiting {
    const fn waiting(&self) -> usize {
        self.bytes.len() - self.written + self.taken
    }
}

/// Why there is nothing more to write.
pub(crate) struct Closed(pub(crate) String);

impl Queue {
    fn new(socket: Option<OwnedWriteHalf>, all: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            wake: Notify::new(),
            socket,
            all,
        })
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it was held leaves whole messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        self.state().closed.get_or_insert_with(|| why.to_owned());
        self.wake.notify_one();
    }

    /// Writes what the socket takes now; the rest is the writer's.
    fn flush(&self) {
        let mut state = self.state();
        state.touched = false;
        let Some(socket) = &self.socket else {
            return self.wake.notify_one();
        };
        if state.closed.is_some() || state.bytes.is_empty() {
            return;
        }
        match socket.try_write(&state.bytes[state.written..]) {
            Ok(written) => {
                state.written += written;
                self.all.fetch_sub(written, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => state.closed = Some(error.to_string()),
        }
        if state.written == state.bytes.len() {
            state.written = 0;
            state.bytes.clear();
            state.bytes.shrink_to(KEEP);
            state.full = false;
        } else if !std::mem::replace(&mut state.full, true) {
            // Once: whoever writes also reads, and is not to be woken in the turns of others for nothing.
            self.wake.notify_one();
        }
    }

    /// Writes whatever waits, whenever the socket has room, until the connection is closed.
    async fn write(&self, socket: &OwnedWriteHalf) -> Closed {
        loop {
            let waits = {
                let state = self.state();
                if let Some(why) = &state.closed {
                    return Closed(why.clone());
                }
                !state.bytes.is_empty()
            };
            if !waits {
                self.wake.notified().await;
                continue;
            }
            // A receiver that does not read is never writable; that it is to be closed has to be heard nevertheless.
            tokio::select! {
                writable = socket.writable() => match writable {
                    Ok(()) => self.flush(),
                    Err(error) => return Closed(error.to_string()),
                },
                () = self.wake.notified() => {}
            }
        }
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
                    self.all.fetch_sub(out.len(), Ordering::Relaxed);
                    return Ok(());
                }
            }
            self.wake.notified().await;
        }
    }

    /// Waits for whole messages and moves some into `out`, in place of what is there, which is written: as many as
    /// `limit` bytes hold, or one.
    pub(crate) async fn some(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), Closed> {
        loop {
            if let Some(why) = &self.state().closed {
                return Err(Closed(why.clone()));
            }
            if self.rest(out, limit) {
                return Ok(());
            }
            self.wake.notified().await;
        }
    }

    /// The same without waiting, and of a queue that is closed too; false if nothing is left.
    pub(crate) fn rest(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        out.clear();
        out.shrink_to(KEEP);
        let mut state = self.state();
        self.all
            .fetch_sub(std::mem::take(&mut state.taken), Ordering::Relaxed);
        let waiting = &state.bytes[state.written..];
        let newline = |byte: &u8| *byte == b'\n';
        let ends = waiting[..waiting.len().min(limit)].iter().rposition(newline);
        let Some(end) = ends.or_else(|| waiting.iter().position(newline)) else {
            return false;
        };
        out.extend_from_slice(&waiting[..=end]);
        state.written += out.len();
        state.taken = out.len();
        if state.written == state.bytes.len() {
            state.written = 0;
            state.bytes.clear();
            state.bytes.shrink_to(KEEP);
        }
        true
    }

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) -> Closed {
        loop {
            if let Some(why) = &self.state().closed {
                return Closed(why.clone());
            }
            self.wake.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        self.state().bytes.is_empty()
    }
}

/// A connection of the core that is not a socket of lines; it ends with this value.
pub(crate) struct Session {
    bus: Arc<Bus>,
    id: ConnectionId,
    queue: Arc<Queue>,
    begun: Arc<Begun>,
}

impl Session {
    fn new(bus: &Arc<Bus>, open: impl FnOnce(&mut Core, ConnectionId)) -> Self {
        let (id, queue) = bus.connect(None);
        bus.with(|core, _, _| open(core, id));
        Self {
            bus: Arc::clone(bus),
            id,
            queue,
            begun: Arc::new(bus.begun()),
        }
    }

    /// Of somebody on this machine.
    pub(crate) fn local(bus: &Arc<Bus>, peer: Peer) -> Self {
        Self::new(bus, |core, id| core.opened(id, peer))
    }

    /// Of somebody who has shown the token `name`.
    pub(crate) fn afar(bus: &Arc<Bus>, name: &str, role: Role) -> Self {
        Self::new(bus, |core, id| core.opened_from_afar(id, name, role))
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(crate) const fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn begun(&self) -> &Arc<Begun> {
        &self.begun
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.bus.disconnect(self.id);
    }
}

/// How many bytes one connection has begun and not ended, and how many all have.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    mine: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Begun {
    /// So many it is now; false: it is more than there is room for.
    pub(crate) fn is(&self, now: usize) -> bool {
        let before = self.mine.swap(now, Ordering::Relaxed);
        self.all.fetch_add(now, Ordering::Relaxed);
        let all = self.all.fetch_sub(before, Ordering::Relaxed) - before;
        now <= SHARE || all <= BEGINNINGS
    }

    /// So many have come; false: the same.
    pub(crate) fn grows(&self, by: usize) -> bool {
        self.is(self.mine.load(Ordering::Relaxed) + by)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.is(0);
    }
}

/// What is said to whom that is too much.
pub(crate) const TOO_MUCH: &str = "too much has begun and not ended, here and elsewhere";

/// The beginning of a message whose end has not come yet; or what a connection has said beyond its turn.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    cutter: Cutter,
    bytes: Vec<u8>,
    /// Whole messages may be among them.
    whole: bool,
    /// Since when it has been this connection's turn; none: nothing more had come.
    turn: Option<Instant>,
    begun: Begun,
}

impl Beginning {
    fn turn(&mut self) -> Instant {
        *self.turn.get_or_insert_with(Instant::now)
    }

    /// Hands whole messages to the core, of what is here and of `more` behind it, and keeps the rest.
    fn hand_over(&mut self, inner: &mut Inner, id: ConnectionId, more: &[u8], now: Now) {
        let turn = self.turn();
        if self.bytes.is_empty() {
            let (done, whole) = cut(inner, id, &mut self.cutter, more, now, turn);
            self.bytes.extend_from_slice(&more[done..]);
            self.whole = whole;
        } else {
            self.bytes.extend_from_slice(more);
            let (done, whole) = cut(inner, id, &mut self.cutter, &self.bytes, now, turn);
            self.bytes.drain(..done);
            self.whole = whole;
        }
    }

    /// The turn is over, and the next may begin when the others had theirs.
    fn is_over(&mut self) -> bool {
        let over = self.whole || self.turn.is_some_and(|since| since.elapsed() >= TURN);
        self.turn = self.turn.filter(|_| !over);
        over
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
    /// What is read, from whomever.
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Outside {
    queues: HashMap<ConnectionId, Arc<Queue>>,
    /// Queues to which something was added in this batch.
    touched: Vec<Arc<Queue>>,
    /// Bytes in all queues.
    waiting: Arc<AtomicUsize>,
    /// Bytes that have begun and not ended, on all connections.
    begun: Arc<AtomicUsize>,
    journal: Journal,
    errands: mpsc::Sender<(Ticket, Errand)>,
}

impl World for Outside {
    fn send(&mut self, to: ConnectionId, message: &[u8]) -> bool {
        let Some(queue) = self.queues.get(&to) else {
            return true;
        };
        let mut state = queue.state();
        if state.closed.is_some() {
            return true;
        }
        let waiting = state.waiting() + message.len();
        let all = self.waiting.load(Ordering::Relaxed) + message.len();
        if waiting > QUEUE || all > QUEUES && waiting > SHARE {
            return false;
        }
        self.waiting.store(all, Ordering::Relaxed);
        if state.written > QUEUE {
            let written = std::mem::take(&mut state.written);
            state.bytes.drain(..written);
        }
        state.bytes.extend_from_slice(message);
        if !std::mem::replace(&mut state.touched, true) {
            self.touched.push(Arc::clone(queue));
        }
        true
    }

    fn close(&mut self, connection: ConnectionId, why: &str) {
        if let Some(queue) = self.queues.get(&connection) {
            queue.close(why);
        }
    }

    fn new_action(&mut self) -> ActionId {
        pollux_runtime::ctx::new_action()
    }

    fn journal(&mut self, record: &Entry) -> bool {
        self.journal.write(record)
    }

    fn run(&mut self, ticket: Ticket, errand: Errand) -> bool {
        self.errands.try_send((ticket, errand)).is_ok()
    }
}

impl Bus {
    /// A switchboard without a socket; see [`run`].
    fn new(config: &ControllerConfig, errands: mpsc::Sender<(Ticket, Errand)>) -> Result<Arc<Self>, Error> {
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
            touched: Vec::new(),
            waiting: Arc::default(),
            begun: Arc::default(),
            journal,
            errands,
        };
        let inner = Mutex::new(Inner {
            core,
            outside,
            next_connection: 1,
            armed: None,
            buffer: vec![0; SMALL + READ].into(),
        });
        Ok(Arc::new(Self {
            inner,
            begin,
            timer: Notify::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The core's tables are whole after each event; a panic in one is the end of that connection's task.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the core handle an event, and writes what it has queued. Nothing in here may wait.
    fn with<R>(&self, event: impl FnOnce(&mut Core, &mut Outside, Now) -> R) -> R {
        self.handle(&mut self.lock(), |inner, now| {
            event(&mut inner.core, &mut inner.outside, now)
        })
    }

    fn handle<R>(&self, inner: &mut Inner, event: impl FnOnce(&mut Inner, Now) -> R) -> R {
        let result = event(inner, now_since(self.begin));
        for queue in inner.outside.touched.drain(..) {
            queue.flush();
        }
        if inner
            .core
            .earliest_deadline()
            .is_some_and(|next| inner.armed.is_none_or(|armed| next < armed))
        {
            self.timer.notify_one();
        }
        result
    }

    fn connect(&self, socket: Option<OwnedWriteHalf>) -> (ConnectionId, Arc<Queue>) {
        let mut inner = self.lock();
        let id = inner.next_connection;
        inner.next_connection += 1;
        let queue = Queue::new(socket, Arc::clone(&inner.outside.waiting));
        inner.outside.queues.insert(id, Arc::clone(&queue));
        (id, queue)
    }

    /// For a connection that begins nothing yet.
    fn begun(&self) -> Begun {
        Begun {
            mine: AtomicUsize::new(0),
            all: Arc::clone(&self.lock().outside.begun),
        }
    }

    fn disconnect(&self, id: ConnectionId) {
        self.with(|core, outside, now| {
            outside.queues.remove(&id);
            core.closed(id, now, outside);
        });
    }

    /// The present.
    pub(crate) fn now(&self) -> Now {
        now_since(self.begin)
    }

    /// An errand is done, or could not be.
    pub(crate) fn done(&self, ticket: Ticket, answer: Result<String, RpcError>) {
        self.with(|core, outside, now| core.done(ticket, answer, now, outside));
    }

    /// A token is good no longer.
    pub(crate) fn revoked(&self, name: &str) {
        self.with(|core, outside, _| core.revoked(name, outside));
    }

    /// The link to the partner is up: its number and what is to be written to it.
    pub(crate) fn link_up(
        &self,
        version: String,
        own: Option<u64>,
        partner: Option<u64>,
    ) -> (ConnectionId, Arc<Queue>) {
        let (id, queue) = self.connect(None);
        self.with(|core, outside, now| {
            core.link_up(id, version, now, outside);
            core.own_epoch(own);
            core.partner_epoch(partner);
        });
        (id, queue)
    }

    /// This controller has another epoch.
    pub(crate) fn own_epoch(&self, epoch: u64) {
        self.with(|core, _, _| core.own_epoch(Some(epoch)));
    }

    /// Somebody who is not the partner wanted to be the link.
    pub(crate) fn foreign(&self, why: String) {
        self.with(|core, _, _| {
            // Once per reason, not once per attempt.
            if core.foreign(why.clone()) {
                tracing::error!(why, "a foreign link was refused");
            }
        });
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

    /// Hands everything that has come to the core, turn by turn.
    pub(crate) async fn receive(&self, id: ConnectionId, beginning: &mut Beginning, mut bytes: &[u8]) {
        loop {
            self.handle(&mut self.lock(), |inner, now| {
                beginning.hand_over(inner, id, bytes, now);
                if beginning.bytes.len() <= SMALL {
                    beginning.bytes.shrink_to(KEEP);
                }
            });
            bytes = &[];
            let more = beginning.whole;
            if beginning.is_over() {
                yield_now().await;
            }
            if !more {
                break;
            }
        }
    }

    /// Hands a text to the core that is one message, or one batch; what is none is refused.
    pub(crate) fn receive_whole(&self, id: ConnectionId, text: &[u8]) {
        self.handle(&mut self.lock(), |inner, now| {
            let Inner { core, outside, .. } = inner;
            match whole(text) {
                Ok(message) => core.receive(id, message, now, outside),
                Err(error) => core.garbage(id, &error, outside),
            }
        });
    }

    /// Something came on a connection that is no message.
    pub(crate) fn garbage(&self, id: ConnectionId, error: &RpcError) {
        self.with(|core, outside, _| core.garbage(id, error, outside));
    }

    /// Reads what has come and hands it to the core; how many bytes.
    fn poll_read(
        &self,
        context: &mut Context<'_>,
        socket: &mut OwnedReadHalf,
        id: ConnectionId,
        beginning: &mut Beginning,
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if beginning.whole {
            // What was left when its turn was over.
            self.handle(inner, |inner, now| {
                beginning.hand_over(inner, id, &[], now);
            });
            return Poll::Ready(Ok(1));
        }
        let mut buffer = std::mem::take(&mut inner.buffer);
        let kept = beginning.bytes.len();
        // A long beginning stays where it is.
        let before = if kept <= SMALL { kept } else { 0 };
        buffer[..before].copy_from_slice(&beginning.bytes[..before]);
        let mut space = ReadBuf::new(&mut buffer[before..before + READ]);
        let read = Pin::new(socket)
            .poll_read(context, &mut space)
            .map_ok(|()| space.filled().len());
        if let Poll::Ready(Ok(read @ 1..)) = read {
            self.handle(inner, |inner, now| {
                if before == kept {
                    beginning.bytes.clear();
                    beginning.hand_over(inner, id, &buffer[..before + read], now);
                } else {
                    beginning.hand_over(inner, id, &buffer[..read], now);
                }
                if beginning.bytes.len() <= SMALL {
                    beginning.bytes.shrink_to(SMALL);
                }
                // Whole messages that wait for the next turn are no more than was read at once.
                if !beginning.begun.is(beginning.bytes.len()) && !beginning.whole {
                    inner.outside.close(id, TOO_MUCH);
                }
            });
        }
        inner.buffer = buffer;
        if read.is_pending() {
            beginning.turn = None;
        }
        Poll::Ready(ready!(read))
    }

    /// Answers what has waited too long; never returns.
    async fn expire(&self) {
        loop {
            let next = {
                let mut inner = self.lock();
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
    async fn serve(self: Arc<Self>, stream: UnixStream, peer: Peer) {
        if web::begins_as_http(&stream).await {
            // In a box: connections of lines are many, and should not have room for it.
            Box::pin(web::serve_local(&self, stream, peer)).await;
        } else {
            self.lines(stream, peer).await;
        }
    }

    /// One connection of lines.
    async fn lines(&self, stream: UnixStream, peer: Peer) {
        let (mut reader, writer) = stream.into_split();
        let (id, queue) = self.connect(Some(writer));
        self.with(|core, _, _| core.opened(id, peer));
        let read = async {
            let mut beginning = Beginning {
                begun: self.begun(),
                ..Beginning::default()
            };
            loop {
                match poll_fn(|context| self.poll_read(context, &mut reader, id, &mut beginning)).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
                if beginning.is_over() {
                    yield_now().await;
                }
            }
            // `echo ... | socat` has said all that it wants to say and waits for the answers.
            while self.with(|core, _, _| core.awaited(id)) > 0 || !queue.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let write = async {
            if let Some(socket) = &queue.socket {
                let Closed(why) = queue.write(socket).await;
                tracing::warn!(uid = peer.uid, pid = peer.pid, why, "connection closed");
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
            // Many who come at once must not have their first turns one after the other.
            yield_now().await;
        }
    }
}

/// The one message that a text is.
fn whole(text: &[u8]) -> Result<Message<'_>, RpcError> {
    let mut cutter = Cutter::default();
    let refuse = |code, what: &str| {
        RpcError::new(code, "connection", what).remedy("one JSON-RPC message or batch per text message")
    };
    let message = match cutter.next_message(text) {
        Some(message) => message?,
        None if text.trim_ascii().is_empty() => return Err(refuse(Code::Parse, "an empty text")),
        None => return Err(refuse(Code::Parse, "the text ends before the message does")),
    };
    match text[cutter.done()..].trim_ascii() {
        [] => Ok(message),
        _ => Err(refuse(Code::InvalidRequest, "more than one message in a text")),
    }
}

/// Hands whole messages in `bytes` to the core, until the turn that began then is over: how many bytes are done with,
/// and whether there may be more.
fn cut(
    inner: &mut Inner,
    id: ConnectionId,
    cutter: &mut Cutter,
    bytes: &[u8],
    now: Now,
    turn: Instant,
) -> (usize, bool) {
    let Inner { core, outside, .. } = inner;
    let mut handled = 0;
    while let Some(message) = cutter.next_message(bytes) {
        match message {
            Ok(message) => core.receive(id, message, now, outside),
            Err(malformed) => core.garbage(id, &RpcError::from(malformed), outside),
        }
        handled += 1;
        if handled % LOOK == 0 && turn.elapsed() >= TURN {
            return (cutter.done(), true);
        }
    }
    (cutter.done(), false)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the only wall clock of the router: stamps for people, and the dates until which tokens are good"
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
    match raise_descriptors((CONNECTIONS + FILES) as u64) {
        Ok(files) if files < (CONNECTIONS + FILES) as u64 => {
            tracing::warn!(files, "fewer connections are possible: raise LimitNOFILE");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
    let own = Identity::load(&config.paths.keys)?;
    let partner = PublicKey::of_partner(&config.paths.keys)?;
    let keys = link::Keys::new(&own, partner).map_err(|source| Error::Tls {
        path: config.paths.keys.clone(),
        source,
    })?;
    let (errands, asked) = mpsc::channel(ERRANDS);
    let bus = Bus::new(&config, errands)?;
    let _management = web::management::Running::start(&bus, &config, asked);
    let listener = listen(&path)?;
    let notifier = Notifier::from_env().map_err(|source| Error::Socket {
        path: "NOTIFY_SOCKET".into(),
        source,
    })?;
    match notifier.ready() {
        Ok(()) => tracing::info!(socket = %path.display(), controller = %config.controller, "ready"),
        Err(error) => tracing::warn!(%error, "cannot report readiness"),
    }
    tokio::select! {
        () = notifier.feed() => {}
        () = Arc::clone(&bus).accept(listener) => {}
        () = bus.expire() => {}
        () = link::run(&bus, &config, keys) => {}
        () = shutdown.requested() => {}
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(%error, "cannot remove the socket");
    }
    Ok(())
}
