//! The initiator's end of a session.

use crate::clock::Seen;
use crate::error::Error;
use crate::frame::{FrameError, HEADER_BYTES, Header, MAX_PAYLOAD, Opcode, Status};
use crate::hello::{AuthKey, Hello, VERSIONS, Versions, WITH_CLOCK, WITH_LBA_STATUS, Welcome, proof_matches};
use crate::message::{EndpointInfo, FullStatus, Operation, Reply, Request, ReservationOut};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use uuid::Uuid;

/// Socket buffer of one direction: larger ones leave the processor's cache.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;
/// Frames that wait for the writer before a sender waits.
pub(crate) const SEND_QUEUE: usize = 256;
/// Longest payload of a frame of the log-in, bytes: hellos of later versions may be longer than ours.
pub(crate) const OPENING_MAX: u32 = 4096;

/// A session at an endpoint. Cheap to clone; the connection closes with the last clone.
///
/// Requests run side by side and may be done in any order: whoever needs an order waits for the answer.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    send: mpsc::Sender<(Header, Bytes)>,
    welcome: Welcome,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    next_tag: AtomicU64,
    late: AtomicU64,
    /// The target's clock as it was last said.
    seen: Mutex<Option<Seen>>,
    pending: Mutex<Pending>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Pending {
    waiting: HashMap<u64, (Opcode, oneshot::Sender<Result<Reply, FrameError>>)>,
    closed: Option<String>,
}

impl Client {
    /// Opens a session over a unix socket. `within` bounds connecting and logging in, which includes the time that
    /// the target needs to end an older session of the same identity.
    pub async fn connect_unix(
        path: &Path,
        hello: &Hello,
        key: Option<&AuthKey>,
        within: Duration,
    ) -> Result<Client, Error> {
        let endpoint = path.display().to_string();
        bounded(&endpoint.clone(), within, async {
            let stream = UnixStream::connect(path).await.map_err(|source| Error::Connect {
                endpoint: endpoint.clone(),
                source,
            })?;
            Client::over(stream, endpoint, hello, key).await
        })
        .await
    }

    /// Opens a session over TCP; `key` is the pairing key.
    pub async fn connect_tcp(
        address: SocketAddr,
        hello: &Hello,
        key: Option<&AuthKey>,
        within: Duration,
    ) -> Result<Client, Error> {
        let endpoint = address.to_string();
        bounded(&endpoint.clone(), within, async {
            let connect = |source| Error::Connect {
                endpoint: endpoint.clone(),
                source,
            };
            let stream = TcpStream::connect(address).await.map_err(connect)?;
            stream.set_nodelay(true).map_err(connect)?;
            Client::over(stream, endpoint.clone(), hello, key).await
        })
        .await
    }

    /// Opens a session over a connected stream; `endpoint` names it in messages. The caller bounds the time.
    pub async fn over<S>(
        stream: S,
        endpoint: String,
        hello: &Hello,
        key: Option<&AuthKey>,
    ) -> Result<Client, Error>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let mut read = BufReader::with_capacity(BUFFER_BYTES, read);
        let mut write = BufWriter::with_capacity(BUFFER_BYTES, write);
        let welcome = log_in(&mut read, &mut write, &endpoint, (hello, VERSIONS), key).await?;
        let seen = (welcome.version >= WITH_CLOCK).then(|| Seen {
            clock_us: welcome.clock_us,
            at: Instant::now(),
        });

        let shared = Arc::new(Shared {
            endpoint,
            next_tag: AtomicU64::new(1),
            late: AtomicU64::new(0),
            seen: Mutex::new(seen),
            pending: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        let (send, receive) = mpsc::channel(SEND_QUEUE);
        let writer = {
            let shared = shared.clone();
            tokio::spawn(async move {
                if let Err(error) = write_frames(receive, write).await {
                    shared.close(format!("write: {error}"));
                }
            })
        };
        let reader = {
            let shared = shared.clone();
            tokio::spawn(async move {
                let why = read_replies(&shared, read).await;
                shared.close(why);
            })
        };
        let tasks = [writer.abort_handle(), reader.abort_handle()];
        Ok(Client {
            inner: Arc::new(Inner {
                shared,
                send,
                welcome,
                tasks,
            }),
        })
    }

    /// What the target said of itself.
    pub fn welcome(&self) -> &Welcome {
        &self.inner.welcome
    }

    /// The target is told by when a host's request may be begun, and keeps to it. Without, one that was given up here may
    /// still be begun there.
    pub fn tells_when_to_begin(&self) -> bool {
        self.inner.welcome.version >= WITH_CLOCK
    }

    /// What the target's clock was last, recent enough to count from.
    async fn seen(&self, within: Instant) -> Option<Seen> {
        let last = || {
            *self
                .inner
                .shared
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if last().is_some_and(|seen| seen.is_stale(Instant::now())) {
            // Whatever is answered, the reply says the time.
            let _ = self
                .exchange(Request::new(Operation::Info), None, Some(within))
                .await;
        }
        last()
    }

    /// Path or address of the endpoint.
    pub fn endpoint(&self) -> &str {
        &self.inner.shared.endpoint
    }

    /// The connection is gone; every later request fails at once.
    pub fn is_closed(&self) -> bool {
        *self.inner.shared.closed.borrow()
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        let mut closed = self.inner.shared.closed.subscribe();
        // The sender lives in `self`, so this only ends with the value.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Requests that were sent and not answered, those whose deadline has passed included. Zero means that nothing
    /// that this session sent can still take effect.
    pub fn outstanding(&self) -> usize {
        self.inner.shared.lock().waiting.len()
    }

    /// Answers that came after their caller had given up.
    pub fn late(&self) -> u64 {
        self.inner.shared.late.load(Ordering::Relaxed)
    }

    /// Sends one request and waits for its reply, whatever its status. With a deadline, gives up then; the request
    /// may still be done afterwards. Dropping the future gives up likewise.
    pub async fn call(&self, request: Request, deadline: Option<Instant>) -> Result<Reply, Error> {
        let seen = match request.begin_by {
            Some(moment) => self.seen(moment).await,
            None => None,
        };
        self.exchange(request, seen, deadline).await
    }

    async fn exchange(
        &self,
        request: Request,
        seen: Option<Seen>,
        deadline: Option<Instant>,
    ) -> Result<Reply, Error> {
        let operation = request.operation.opcode();
        let shared = &self.inner.shared;
        let tag = shared.next_tag.fetch_add(1, Ordering::Relaxed);
        let begin_by = request.begin_by;
        let (mut header, payload) = request.into_frame(tag);
        // An older target ends the session over an operation that it does not know.
        let unknown = operation == Opcode::LbaStatus && self.inner.welcome.version < WITH_LBA_STATUS;
        if unknown || payload.len() > self.inner.welcome.max_payload as usize {
            return Err(self.status_error(operation, &Reply::status(Status::BadRequest)));
        }
        if let (Some(moment), Some(seen), true) = (begin_by, seen, Request::names_a_moment(&header)) {
            header.key = seen.name(moment, Instant::now());
        }
        let wait = async {
            let (answer, answered) = oneshot::channel();
            let unsent = Unsent { shared, tag };
            {
                let mut pending = shared.lock();
                if let Some(why) = &pending.closed {
                    return Err(shared.disconnected(why));
                }
                pending.waiting.insert(tag, (operation, answer));
            }
            let sent = self.inner.send.send((header, payload)).await;
            // From here on the reply, or the end of the connection, removes the entry.
            std::mem::forget(unsent);
            if sent.is_err() {
                shared.lock().waiting.remove(&tag);
            }
            match answered.await {
                Ok(Ok(reply)) => Ok(reply),
                Ok(Err(source)) => Err(Error::Frame {
                    endpoint: shared.endpoint.clone(),
                    source,
                }),
                Err(_) => {
                    let why = shared.lock().closed.clone();
                    Err(shared.disconnected(why.as_deref().unwrap_or("closed")))
                }
            }
        };
        match deadline {
            None => wait.await,
            Some(deadline) => timeout_at(deadline, wait).await.unwrap_or_else(|_| {
                Err(Error::Deadline {
                    endpoint: shared.endpoint.clone(),
                    operation,
                })
            }),
        }
    }

    /// [`call`](Self::call) for the endpoint itself; every status but `Ok` is an error.
    pub async fn perform(&self, operation: Operation, deadline: Option<Instant>) -> Result<Reply, Error> {
        self.perform_on(Uuid::nil(), operation, deadline).await
    }

    /// [`call`](Self::call) for one volume; every status but `Ok` is an error.
    pub async fn perform_on(
        &self,
        volume: Uuid,
        operation: Operation,
        deadline: Option<Instant>,
    ) -> Result<Reply, Error> {
        let opcode = operation.opcode();
        let reply = self
            .call(Request::for_volume(volume, operation), deadline)
            .await?;
        match reply.status {
            Status::Ok => Ok(reply),
            _ => Err(self.status_error(opcode, &reply)),
        }
    }

    /// Identity and geometry.
    pub async fn info(&self, deadline: Option<Instant>) -> Result<EndpointInfo, Error> {
        let reply = self.perform(Operation::Info, deadline).await?;
        reply.to_info().map_err(|source| self.frame_error(source))
    }

    /// Reads `blocks` logical blocks.
    pub async fn read(&self, lba: u64, blocks: u32, deadline: Option<Instant>) -> Result<Bytes, Error> {
        Ok(self
            .perform(Operation::Read { lba, blocks }, deadline)
            .await?
            .payload)
    }

    /// Writes; with `fua` it is durable when this returns.
    pub async fn write(
        &self,
        lba: u64,
        data: Bytes,
        fua: bool,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        self.perform(Operation::Write { lba, data, fua }, deadline)
            .await
            .map(drop)
    }

    /// Makes every completed write durable.
    pub async fn flush(&self, deadline: Option<Instant>) -> Result<(), Error> {
        self.perform(Operation::Flush, deadline).await.map(drop)
    }

    /// Deallocates; the blocks read as zeros afterwards.
    pub async fn unmap(&self, lba: u64, blocks: u32, deadline: Option<Instant>) -> Result<(), Error> {
        self.perform(Operation::Unmap { lba, blocks }, deadline)
            .await
            .map(drop)
    }

    /// PERSISTENT RESERVE OUT.
    pub async fn reservation_out(&self, out: ReservationOut, deadline: Option<Instant>) -> Result<(), Error> {
        self.perform(Operation::ReservationOut(out), deadline)
            .await
            .map(drop)
    }

    /// PERSISTENT RESERVE IN: generation, keys and reservation at one instant.
    pub async fn reservation_status(&self, deadline: Option<Instant>) -> Result<FullStatus, Error> {
        let reply = self.perform(Operation::ReservationIn, deadline).await?;
        reply.to_full_status().map_err(|source| self.frame_error(source))
    }

    fn status_error(&self, operation: Opcode, reply: &Reply) -> Error {
        Error::Status {
            endpoint: self.endpoint().to_owned(),
            operation,
            status: reply.status,
            detail: reply.detail,
        }
    }

    fn frame_error(&self, source: FrameError) -> Error {
        Error::Frame {
            endpoint: self.endpoint().to_owned(),
            source,
        }
    }
}

/// Takes a request that was never handed to the writer out of the table when its future is dropped.
struct Unsent<'a> {
    shared: &'a Shared,
    tag: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.tag);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disconnected(&self, why: &str) -> Error {
        Error::Disconnected {
            endpoint: self.endpoint.clone(),
            why: why.to_owned(),
        }
    }

    fn close(&self, why: String) {
        let waiting = {
            let mut pending = self.lock();
            if pending.closed.is_none() {
                debug!(endpoint = %self.endpoint, %why, "block-frame session ended");
                pending.closed = Some(why);
            }
            std::mem::take(&mut pending.waiting)
        };
        self.closed.send_replace(true);
        drop(waiting);
    }
}

async fn bounded<T>(
    endpoint: &str,
    within: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout_at(Instant::now() + within, work)
        .await
        .unwrap_or_else(|_| {
            Err(Error::Deadline {
                endpoint: endpoint.to_owned(),
                operation: Opcode::Hello,
            })
        })
}

pub(crate) async fn log_in<R, W>(
    read: &mut R,
    write: &mut W,
    endpoint: &str,
    (hello, versions): (&Hello, Versions),
    key: Option<&AuthKey>,
) -> Result<Welcome, Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let lost = |error: ReadError| match error {
        ReadError::Io(error) => Error::Disconnected {
            endpoint: endpoint.to_owned(),
            why: format!("while logging in: {error}"),
        },
        ReadError::Frame(source) => Error::Frame {
            endpoint: endpoint.to_owned(),
            source,
        },
    };
    let refused = |header: &Header| Error::Login {
        endpoint: endpoint.to_owned(),
        status: header.status,
        detail: header.arg,
    };

    let mine: Bytes = hello.encode(versions, *Uuid::new_v4().as_bytes()).into();
    write_frame(write, &Header::new(Opcode::Hello, 0).covering(&mine), &mine)
        .await
        .map_err(lost)?;
    let (header, theirs) = read_opening(read).await.map_err(lost)?;
    if header.status != Status::Ok {
        return Err(refused(&header));
    }
    let (welcome, raw, proof) = Welcome::decode(&theirs).map_err(ReadError::Frame).map_err(lost)?;
    if !(versions.oldest..=versions.newest).contains(&welcome.version) {
        return Err(Error::Login {
            endpoint: endpoint.to_owned(),
            status: Status::VersionMismatch,
            detail: welcome.version.into(),
        });
    }
    if welcome.array != hello.array {
        return Err(Error::Login {
            endpoint: endpoint.to_owned(),
            status: Status::WrongArray,
            detail: 0,
        });
    }
    let proof_of_mine = match key {
        None => Bytes::new(),
        Some(key) => {
            let expected = key.target_proof(&mine, raw);
            if !proof.is_some_and(|proof| proof_matches(&expected, proof)) {
                return Err(Error::Login {
                    endpoint: endpoint.to_owned(),
                    status: Status::Unauthorized,
                    detail: 0,
                });
            }
            Bytes::copy_from_slice(&key.initiator_proof(&mine, raw))
        }
    };
    let header = Header::new(Opcode::Auth, 0).covering(&proof_of_mine);
    write_frame(write, &header, &proof_of_mine).await.map_err(lost)?;
    let (header, _) = read_opening(read).await.map_err(lost)?;
    if header.opcode != Opcode::Auth || header.status != Status::Ok {
        return Err(refused(&header));
    }
    Ok(welcome)
}

async fn read_replies<R: AsyncRead + Unpin>(shared: &Shared, mut read: R) -> String {
    loop {
        let (header, payload) = match read_frame(&mut read).await {
            Ok(frame) => frame,
            Err(error) => return error.to_string(),
        };
        if header.is_reply() && header.key != 0 {
            let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // Only of a target that has said in its welcome that it does.
            if let Some(seen) = seen.as_mut() {
                *seen = Seen {
                    clock_us: header.key,
                    at: Instant::now(),
                };
            }
        }
        let Some((asked, answer)) = shared.lock().waiting.remove(&header.tag) else {
            return format!("answer to tag {} that nobody asked", header.tag);
        };
        if !header.is_reply() || header.opcode != asked {
            let what = "not a reply to what was asked under this tag";
            let _ = answer.send(Err(FrameError::Malformed {
                opcode: header.opcode,
                what,
            }));
            return what.to_owned();
        }
        if answer.send(Ok(Reply::from_frame(&header, payload))).is_err() {
            shared.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// Reads one frame; the payload's length was bounded by the header's decoder.
/// A frame of the log-in. Who sends it is not known yet, so it does not get memory for a transfer of data.
pub(crate) async fn read_opening<R: AsyncRead + Unpin>(read: &mut R) -> Result<(Header, Bytes), ReadError> {
    read_bounded(read, OPENING_MAX).await
}

pub(crate) async fn read_frame<R: AsyncRead + Unpin>(read: &mut R) -> Result<(Header, Bytes), ReadError> {
    read_bounded(read, MAX_PAYLOAD).await
}

async fn read_bounded<R: AsyncRead + Unpin>(read: &mut R, limit: u32) -> Result<(Header, Bytes), ReadError> {
    let mut header = [0; HEADER_BYTES];
    read.read_exact(&mut header).await?;
    let header = Header::decode(&header)?;
    if header.payload_len > limit {
        let length = header.payload_len;
        return Err(FrameError::TooLong { length, limit }.into());
    }
    let payload = read_payload(read, header.payload_len).await?;
    header.check_payload(&payload)?;
    Ok((header, payload))
}

async fn read_payload<R: AsyncRead + Unpin>(read: &mut R, length: u32) -> io::Result<Bytes> {
    debug_assert!(length <= MAX_PAYLOAD);
    let mut payload = BytesMut::with_capacity(length as usize);
    let mut limited = read.take(length.into());
    while payload.len() < length as usize {
        if limited.read_buf(&mut payload).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload.freeze())
}

pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    write: &mut W,
    header: &Header,
    payload: &[u8],
) -> Result<(), ReadError> {
    write.write_all(&header.encode()).await?;
    write.write_all(payload).await?;
    Ok(write.flush().await?)
}

/// Writes what comes; flushes whenever nothing more is at hand. Ends when every sender is gone.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    mut receive: mpsc::Receiver<(Header, Bytes)>,
    mut write: W,
) -> io::Result<()> {
    while let Some(mut frame) = receive.recv().await {
        loop {
            // A large payload leaves together with its header, as it is; small frames are gathered.
            let header = frame.0.encode();
            let mut bytes = Buf::chain(&header[..], &frame.1[..]);
            write.write_all_buf(&mut bytes).await?;
            match receive.try_recv() {
                Ok(next) => frame = next,
                Err(_) => break,
            }
        }
        write.flush().await?;
    }
    Ok(())
}
