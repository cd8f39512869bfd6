//! The target's end: sessions, their order, and the commands in flight.
//!
//! ```text
//!  accept -> log in -> older session of the same identity ends and drains -> Handler::log_in -> serve
//!                                                                                         |
//!           Handler::ended  <-  connection lost, superseded, or server closing  <---------+
//!           commands in flight run out (a handler may cut them short in `ended`) -> identity is free
//! ```

use crate::client::{
    BUFFER_BYTES, ReadError, SEND_QUEUE, read_frame, read_opening, write_frame, write_frames,
};
use crate::clock::Clock;
use crate::frame::{FrameError, Header, MAX_PAYLOAD, Opcode, Status};
use crate::hello::{AuthKey, Hello, Port, Purpose, VERSIONS, Versions, WITH_CLOCK, Welcome, proof_matches};
use crate::message::{Reply, Request};
use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, warn};
use uuid::Uuid;

const SUPERSEDED: &str = "superseded by a newer session";
const CLOSING: &str = "closing";

/// What stands behind a target port.
pub trait Handler: Send + Sync + 'static {
    /// What the handler keeps for a session.
    type Session: Send + Sync + 'static;

    /// A session whose identity is known (and proven, where a key is set) wants in. No older session of this
    /// identity has a command in flight any more. An error is the reason for the refusal.
    fn log_in(&self, hello: &Hello) -> impl Future<Output = Result<Self::Session, Status>> + Send;

    /// Carries out one command. Runs beside the other commands of the session, and to its end even if the session
    /// ends meanwhile.
    fn handle(&self, session: &Arc<Self::Session>, request: Request) -> impl Future<Output = Reply> + Send;

    /// The session has ended; what it has in flight is waited for after this returns. Nobody reads its replies.
    fn ended(&self, session: &Arc<Self::Session>);
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The array; initiators of another are refused.
    pub array: Uuid,
    /// Purposes that are served here.
    pub purpose: Purpose,
    /// The pairing key; with one, every initiator has to prove it.
    pub key: Option<AuthKey>,
    /// Requests in flight per session before no more are read.
    pub queue_depth: u32,
    /// Bytes of data in flight per session before no more are read; at least [`MAX_PAYLOAD`].
    pub bytes_in_flight: u32,
    /// How long an initiator may take to log in.
    pub login_timeout: Duration,
    /// The versions that are spoken.
    pub versions: Versions,
}

impl ServerOptions {
    /// Usual bounds: 256 requests, 64 MiB, 5 s to log in.
    pub fn new(array: Uuid, purpose: Purpose, key: Option<AuthKey>) -> Self {
        ServerOptions {
            array,
            purpose,
            key,
            queue_depth: 256,
            bytes_in_flight: 64 * 1024 * 1024,
            login_timeout: Duration::from_secs(5),
            versions: VERSIONS,
        }
    }
}

/// Who a session is: at most one session of an identity is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The initiator port.
    pub port: Port,
    /// The program.
    pub client: String,
}

/// Serves one endpoint on any number of listeners.
#[derive(Debug)]
pub struct Server<H: Handler> {
    handler: Arc<H>,
    options: ServerOptions,
    next_session: AtomicU64,
    clock: Clock,
    /// The youngest session of each identity, and how to end it.
    sessions: Mutex<HashMap<Identity, Running>>,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
struct Running {
    session: u64,
    /// Set: stop reading, drain, leave.
    end: watch::Sender<bool>,
    /// Closed when nothing of the session is in flight.
    drained: mpsc::Sender<()>,
}

impl<H: Handler> Server<H> {
    /// A server of `handler`.
    pub fn new(handler: Arc<H>, options: ServerOptions) -> Arc<Self> {
        assert!(options.queue_depth > 0, "a queue depth of zero serves nobody");
        assert!(
            options.bytes_in_flight >= MAX_PAYLOAD,
            "the largest payload must fit"
        );
        Arc::new(Server {
            handler,
            options,
            next_session: AtomicU64::new(1),
            clock: Clock::new(Instant::now()),
            sessions: Mutex::default(),
            closing: watch::Sender::new(false),
        })
    }

    /// What it serves.
    pub fn handler(&self) -> &Arc<H> {
        &self.handler
    }

    /// Ends every session after its commands in flight, and makes `serve_*` return.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Ends every session of now, as if its cable had been pulled; later ones are the handler's to refuse.
    pub fn disconnect(&self) {
        for running in self.lock().values() {
            running.end.send_replace(true);
        }
    }

    /// Serves a unix socket until [`close`](Self::close). Dropping the future drops sessions and commands at once.
    pub async fn serve_unix(self: &Arc<Self>, listener: UnixListener) {
        self.serve(|| async { listener.accept().await.map(|(stream, _)| stream) })
            .await;
    }

    /// Serves a TCP socket until [`close`](Self::close). Dropping the future drops sessions and commands at once.
    pub async fn serve_tcp(self: &Arc<Self>, listener: TcpListener) {
        let accept = || async {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        self.serve(accept).await;
    }

    async fn serve<S, A>(self: &Arc<Self>, accept: impl Fn() -> A)
    where
        A: Future<Output = io::Result<S>>,
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut connections = JoinSet::new();
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = raised(&mut closing) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = accept() => match accepted {
                    Ok(stream) => {
                        let server = self.clone();
                        connections.spawn(async move { server.connection(stream).await });
                    }
                    Err(error) => {
                        // Out of descriptors or a connection reset while it waited: neither ends the server, and
                        // the pause keeps a persistent cause from spinning.
                        warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        while connections.join_next().await.is_some() {}
    }

    /// Serves one connected stream until it ends.
    pub async fn connection<S: AsyncRead + AsyncWrite + Send + 'static>(self: &Arc<Self>, stream: S) {
        let (read, write) = tokio::io::split(stream);
        let mut read = BufReader::with_capacity(BUFFER_BYTES, read);
        let mut write = BufWriter::with_capacity(BUFFER_BYTES, write);
        let logging_in = self.log_in(&mut read, &mut write);
        let (version, hello) = match timeout(self.options.login_timeout, logging_in).await {
            Err(_) => return debug!("an initiator did not log in in time"),
            Ok(Err(error)) => return debug!(%error, "an initiator did not log in"),
            Ok(Ok(hello)) => hello,
        };
        let identity = Identity {
            port: hello.port,
            client: hello.client.clone(),
        };
        let (number, mut end, in_flight) = self.supersede(&identity).await;
        let login = self.handler.log_in(&hello).await;
        let status = login.as_ref().err().copied().unwrap_or(Status::Ok);
        let (answer, payload) = Reply::status(status).into_frame(Opcode::Auth, 0);
        let sent = write_frame(&mut write, &answer, &payload).await;
        if let Ok(session) = login {
            let session = Arc::new(session);
            if sent.is_ok() {
                debug!(port = %identity.port, client = %identity.client, number, "session begins");
                let clock = (version >= WITH_CLOCK).then_some(self.clock);
                let why = self.session(&session, clock, read, write, &mut end).await;
                debug!(port = %identity.port, client = %identity.client, number, why, "session ended");
            } else {
                self.handler.ended(&session);
            }
        }
        drop(in_flight);
        let mut sessions = self.lock();
        if sessions
            .get(&identity)
            .is_some_and(|running| running.session == number)
        {
            sessions.remove(&identity);
        }
    }

    async fn log_in<R, W>(&self, read: &mut R, write: &mut W) -> Result<(u16, Hello), ReadError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let malformed = |opcode, what| FrameError::Malformed { opcode, what };
        let (header, theirs) = read_opening(read).await?;
        if header.opcode != Opcode::Hello {
            return Err(malformed(header.opcode, "a session begins with a hello").into());
        }
        let refuse = async |write: &mut W, status, detail| {
            let (header, payload) = Reply::with_detail(status, detail).into_frame(Opcode::Hello, 0);
            write_frame(write, &header, &payload).await?;
            Err(ReadError::Frame(malformed(Opcode::Hello, status.text())))
        };
        let ours = self.options.versions;
        let (version, hello) = match Hello::decode(&theirs, ours)? {
            (_, Some(agreed)) => agreed,
            (theirs, None) => {
                // Whether it hears of it or has hung up: there is no session.
                let _refused = refuse(write, Status::VersionMismatch, ours.to_detail()).await;
                return Err(FrameError::Versions { theirs, ours }.into());
            }
        };
        if hello.array != self.options.array {
            return refuse(write, Status::WrongArray, 0).await;
        }
        if hello.purpose != self.options.purpose {
            return refuse(write, Status::BadRequest, 0).await;
        }

        let welcome = Welcome {
            array: self.options.array,
            session: self.next_session.fetch_add(1, Ordering::Relaxed),
            max_payload: MAX_PAYLOAD,
            queue_depth: self.options.queue_depth,
            version,
            clock_us: match version >= WITH_CLOCK {
                true => self.clock.shows(Instant::now()),
                false => 0,
            },
        };
        let raw = welcome.encode(ours, *Uuid::new_v4().as_bytes());
        let mut mine = raw.clone();
        if let Some(key) = &self.options.key {
            mine.extend_from_slice(&key.target_proof(&theirs, &raw));
        }
        let (header, payload) = Reply::data(mine.into()).into_frame(Opcode::Hello, 0);
        write_frame(write, &header, &payload).await?;

        let (header, proof) = read_opening(read).await?;
        if header.opcode != Opcode::Auth {
            return Err(malformed(header.opcode, "a proof is due").into());
        }
        if let Some(key) = &self.options.key
            && !proof_matches(&key.initiator_proof(&theirs, &raw), &proof)
        {
            let (header, payload) = Reply::status(Status::Unauthorized).into_frame(Opcode::Auth, 0);
            write_frame(write, &header, &payload).await?;
            return Err(malformed(Opcode::Auth, Status::Unauthorized.text()).into());
        }
        Ok((version, hello))
    }

    /// Takes the place of an older session and waits until nothing of it is in flight.
    ///
    /// Each newcomer waits for its predecessor only, and does so even if its own initiator has left meanwhile:
    /// otherwise its successor could get past a session that still drains.
    async fn supersede(&self, identity: &Identity) -> (u64, watch::Receiver<bool>, mpsc::Receiver<()>) {
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        let (end, ending) = watch::channel(false);
        let (drained, in_flight) = mpsc::channel(1);
        let older = self.lock().insert(
            identity.clone(),
            Running {
                session: number,
                end,
                drained,
            },
        );
        if let Some(older) = older {
            older.end.send_replace(true);
            older.drained.closed().await;
        }
        (number, ending, in_flight)
    }

    /// Reads and starts commands until the session ends, then drains them. Says why it ended.
    async fn session<R, W>(
        &self,
        session: &Arc<H::Session>,
        clock: Option<Clock>,
        mut read: R,
        write: W,
        end: &mut watch::Receiver<bool>,
    ) -> String
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (replies, receive) = mpsc::channel(SEND_QUEUE);
        let mut writer = tokio::spawn(write_frames(receive, write));
        let slots = Arc::new(Semaphore::new(self.options.queue_depth as usize));
        let memory = Arc::new(Semaphore::new(self.options.bytes_in_flight as usize));
        // Commands run side by side in the session's own task: most only wait for somebody else, and a task for each of
        // them would wake two others, on whatever processor, with every command.
        let mut commands = FuturesUnordered::new();
        let mut closing = self.closing.subscribe();
        let mut ended = pin!(raised(end));
        let mut closed = pin!(raised(&mut closing));
        let why = 'session: loop {
            let next = async {
                let frame = read_frame(&mut read).await?;
                // Neither semaphore is ever closed.
                let slot = slots.clone().acquire_owned().await.ok();
                let bytes = memory
                    .clone()
                    .acquire_many_owned(frame.0.payload_len.max(1))
                    .await
                    .ok();
                Ok::<_, ReadError>((frame, slot, bytes))
            };
            // Pinned across the turns of the inner loop: dropping it half-way would lose the place in the stream.
            let mut next = pin!(next);
            let ((header, payload), slot, bytes) = loop {
                tokio::select! {
                    () = &mut ended => break 'session SUPERSEDED.to_owned(),
                    () = &mut closed => break 'session CLOSING.to_owned(),
                    result = &mut writer => break 'session format!("write: {result:?}"),
                    Some(done) = commands.next(), if !commands.is_empty() => {
                        let done: Result<(), Box<dyn Any + Send>> = done;
                        if let Err(panic) = done {
                            // Its initiator would wait for ever; a lost connection it understands.
                            error!(panic = said(&*panic), "a command did not come to its end");
                            break 'session "a command did not come to its end".to_owned();
                        }
                    }
                    next = &mut next => match next {
                        Ok(next) => break next,
                        Err(error) => break 'session error.to_string(),
                    },
                }
            };
            let replies = replies.clone();
            let command = async move {
                let reply = match Request::from_frame(&header, payload) {
                    Ok(mut request) => {
                        let named = clock.filter(|_| Request::names_a_moment(&header));
                        request.begin_by = named.and_then(|clock| clock.at(header.key));
                        self.handler.handle(session, request).await
                    }
                    Err(_) => Reply::status(Status::BadRequest),
                };
                let (mut answer, payload) = reply.into_frame(header.opcode, header.tag);
                answer.key = clock.map_or(0, |clock| clock.shows(Instant::now()));
                // The writer is gone when the session is: nobody waits for the reply then.
                let _: Result<(), mpsc::error::SendError<(Header, Bytes)>> =
                    replies.send((answer, payload)).await;
                drop((slot, bytes));
            };
            // Of a command that has panicked nothing is used any more but that it has.
            commands.push(AssertUnwindSafe(command).catch_unwind());
        };
        self.handler.ended(session);
        // The initiator sees the end of the session now, not when its last command has drained.
        drop((read, replies));
        // Only a server that closes still has somebody who reads; and not even that one may wait for an initiator
        // that has stopped reading. Without a writer every command's reply is dropped at once.
        if why == CLOSING {
            let drain = async {
                while commands.next().await.is_some() {}
                if !writer.is_finished() {
                    let _ = (&mut writer).await;
                }
            };
            let _ = timeout(Duration::from_secs(5), drain).await;
        }
        writer.abort();
        while commands.next().await.is_some() {}
        why
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Running>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("something that is no text")
}

/// Waits until the flag is raised; for ever, if whoever could raise it is gone.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let gone = flag.wait_for(|raised| *raised).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}
