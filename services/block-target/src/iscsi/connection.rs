//! One connection: login, then a session, until it ends.
//!
//! ```text
//!  socket --read--> pdu::take --> Session::receive --> actions --> tasks (one per command)
//!                                        ^                            |
//!                                        +-------- completed ---------+
//!  socket <-write-- gate <-- encode <-- queue of replies <-- actions
//! ```
//!
//! The reader stops reading while too much waits to be written, so a host that does not take its answers cannot
//! make the target grow. A reply passes the gate before every write to the socket.
//!
//! When the connection ends its commands are given up; the session is gone only when none of them is below any
//! more, and only then may the same initiator port log in again.

use super::login::{Login, MAX_RECEIVE, Step};
use super::pdu::{self, BHS, Broken, Digests, Pdu, Reject, put};
use super::session::{Action, Execute, Reply, Session, Stamps, Surroundings, rejection};
use crate::gate::ReplyGate;
use crate::paths::Scope;
use crate::scsi::Outcome;
use crate::scsi::inquiry::port_number;
use crate::scsi::sense::Sense;
use crate::target::{Nexus, Notice, Target};
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

/// How long a host may take for each step of a login.
const LOGIN_STEP: Duration = Duration::from_secs(10);
/// How long the last replies of a session may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Data of a session's commands that is in memory at once, in KiB.
const BUDGET_KIB: u32 = 64 * 1024;
/// Replies that wait to be written before the reader pauses, bytes.
const QUEUE_LIMIT: usize = 16 * 1024 * 1024;
/// Bytes that are handed to the socket together.
const BATCH: usize = 256 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The host closed it.
    #[error("closed by the host")]
    Closed,
    /// It was ended here.
    #[error("{0}")]
    Here(String),
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// What came could not be followed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The login failed.
    #[error("login refused: {0}")]
    Refused(String),
}

/// Serves one connection to its end.
pub async fn serve<S>(stream: S, peer: SocketAddr, target: Arc<Target>) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let reader = Reader {
        socket: read,
        buffer: BytesMut::new(),
    };
    match log_in(reader, write, peer, &target).await {
        Ok(connection) => connection.run().await,
        Err(ended) => ended,
    }
}

struct Reader<S> {
    socket: ReadHalf<S>,
    buffer: BytesMut,
}

impl<S: AsyncRead> Reader<S> {
    /// The next PDU. Dropping the future loses nothing: what has been read stays in the buffer.
    async fn next(&mut self, digests: Digests) -> Result<Pdu, Ended> {
        loop {
            if let Some(pdu) = pdu::take(&mut self.buffer, digests, MAX_RECEIVE as usize)? {
                return Ok(pdu);
            }
            self.buffer.reserve(64 * 1024);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(Ended::Closed);
            }
        }
    }
}

async fn log_in<S: AsyncRead + AsyncWrite + Send + 'static>(
    mut reader: Reader<S>,
    mut write: WriteHalf<S>,
    peer: SocketAddr,
    target: &Arc<Target>,
) -> Result<Connection<S>, Ended> {
    let mut login = Login::new(target.name(), port_number(target.controller()));
    let mut stat_sn = 1_u32;
    loop {
        let request = timeout(LOGIN_STEP, reader.next(Digests::default()))
            .await
            .map_err(|_| Ended::Refused(format!("no request for {} s", LOGIN_STEP.as_secs())))??;
        let cmd_sn = request.header.get32(24);
        let step = login.step(&request);
        let (mut header, data, agreed, refused) = match step {
            Step::Continue(header, data) => (header, data, None, None),
            Step::Done(header, data, agreed) => (header, data, Some(agreed), None),
            Step::Refuse(header, why) => (header, Vec::new(), None, Some(why)),
        };
        let mut joined = None;
        if let Some(agreed) = agreed {
            let (nexus, notices) = target
                .join(agreed.initiator.clone(), agreed.isid, agreed.discovery, peer)
                .await;
            // A TSIH only has to differ from zero: sessions have one connection each.
            header.put16(14, 1);
            joined = Some((
                Member {
                    target: target.clone(),
                    nexus,
                },
                notices,
                agreed,
            ));
        }
        let session = joined
            .as_ref()
            .map(|(_, _, agreed)| Session::new(agreed.parameters.clone(), agreed.discovery, agreed.cmd_sn));
        let window = session.as_ref().map_or((cmd_sn, cmd_sn), Session::window);
        header.put32(24, stat_sn);
        header.put32(28, window.0);
        header.put32(32, window.1);
        stat_sn = stat_sn.wrapping_add(1);
        let mut out = Vec::new();
        put(&mut out, header, &data, Digests::default());
        write_gated(&mut write, &out, target.gate().as_ref()).await?;
        if let Some(why) = refused {
            return Err(Ended::Refused(why));
        }
        if let (Some((member, notices, _)), Some(session)) = (joined, session) {
            tracing::info!(initiator = member.nexus.initiator, %peer, "logged in");
            return Ok(Connection {
                reader,
                write,
                member,
                notices,
                session,
                stat_sn,
            });
        }
    }
}

/// Writes bytes to the socket, each piece of them under a fresh lease.
async fn write_gated<W: AsyncWrite + Unpin>(
    write: &mut W,
    mut bytes: &[u8],
    gate: &dyn ReplyGate,
) -> io::Result<()> {
    while !bytes.is_empty() {
        while !gate.is_open() {
            gate.opened().await;
        }
        match write.write(bytes).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Membership in the target's list of sessions; leaves when dropped.
struct Member {
    target: Arc<Target>,
    nexus: Arc<Nexus>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.target.leave(&self.nexus);
    }
}

struct Connection<S> {
    reader: Reader<S>,
    write: WriteHalf<S>,
    member: Member,
    notices: mpsc::UnboundedReceiver<Notice>,
    session: Session,
    stat_sn: u32,
}

/// What the running commands and the writer say to the connection.
enum Event {
    Reserved {
        tag: u32,
        permit: Option<OwnedSemaphorePermit>,
    },
    Completed {
        tag: u32,
        outcome: Outcome,
        permit: Option<OwnedSemaphorePermit>,
    },
    OthersReset(u64),
    WriteFailed(io::Error),
}

/// Sequence numbers and the length of the queue, between the connection and its writer.
#[derive(Default)]
struct Shared {
    exp_cmd_sn: AtomicU32,
    max_cmd_sn: AtomicU32,
    queued: AtomicUsize,
    drained: Notify,
}

type Queued = (Reply, Option<OwnedSemaphorePermit>);

struct Around<'a> {
    target: &'a Target,
    initiator: &'a str,
}

impl Surroundings for Around<'_> {
    fn block_size(&self, lun: [u8; 8]) -> Option<u32> {
        self.target
            .unit(self.initiator, lun)
            .map(|volume| volume.identity().block_size)
    }

    fn target(&self) -> (String, Vec<String>) {
        (self.target.name().to_owned(), self.target.portals())
    }
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Connection<S> {
    async fn run(self) -> Ended {
        let Self {
            mut reader,
            write,
            member,
            mut notices,
            session,
            stat_sn,
        } = self;
        let (events, mut event) = mpsc::unbounded_channel();
        let (replies, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let writer = {
            let (shared, gate, events) = (shared.clone(), member.target.gate().clone(), events.clone());
            let p = session.parameters().clone();
            tokio::spawn(async move {
                if let Err(error) = write_replies(queue, write, &p, stat_sn, &shared, gate.as_ref()).await {
                    let _ = events.send(Event::WriteFailed(error));
                }
            })
        };
        let mut driver = Driver {
            target: member.target.clone(),
            nexus: member.nexus.clone(),
            session,
            shared: shared.clone(),
            replies: Some(replies),
            events,
            budget: Arc::new(Semaphore::new(BUDGET_KIB as usize)),
            permits: HashMap::new(),
            resets: HashMap::new(),
            next_reset: u64::MAX,
            ended: None,
        };
        driver.publish_window();
        while driver.ended.is_none() {
            let full = shared.queued.load(Ordering::Relaxed) > QUEUE_LIMIT;
            tokio::select! {
                biased;
                Some(event) = event.recv() => driver.event(event),
                Some(notice) = notices.recv() => driver.notice(notice),
                pdu = reader.next(driver.session.digests()), if !full => match pdu {
                    Ok(pdu) => driver.pdu(pdu),
                    Err(Ended::Broken(broken)) => {
                        if let Broken::DataDigest { header, .. } = &broken {
                            driver.send(rejection(header, Reject::DataDigest), None);
                        }
                        driver.ended = Some(Ended::Broken(broken));
                    }
                    Err(ended) => driver.ended = Some(ended),
                },
                () = shared.drained.notified(), if full => {}
            }
        }
        let ended = driver.ended.take().unwrap_or(Ended::Closed);
        driver.session.abandon();
        driver.permits.clear();
        driver.replies = None;
        // Those who left by themselves read no more; the others get what is queued.
        let abort = writer.abort_handle();
        if matches!(ended, Ended::Closed | Ended::Socket(_)) || timeout(LAST_WORDS, writer).await.is_err() {
            abort.abort();
        }
        drop(reader);
        while driver.session.tasks() > 0 {
            match event.recv().await {
                Some(event) => driver.event(event),
                None => break,
            }
        }
        tracing::info!(initiator = member.nexus.initiator, peer = %member.nexus.peer, why = %ended, "session ended");
        drop(driver);
        drop(member);
        ended
    }
}

/// Does what the session decides.
struct Driver {
    target: Arc<Target>,
    nexus: Arc<Nexus>,
    session: Session,
    shared: Arc<Shared>,
    replies: Option<mpsc::UnboundedSender<Queued>>,
    events: mpsc::UnboundedSender<Event>,
    budget: Arc<Semaphore>,
    /// Memory of tasks that are collecting their data or run.
    permits: HashMap<u32, OwnedSemaphorePermit>,
    /// Resets by other sessions whose tasks have not ended here.
    resets: HashMap<u64, mpsc::Sender<()>>,
    next_reset: u64,
    ended: Option<Ended>,
}

impl Driver {
    fn pdu(&mut self, pdu: Pdu) {
        let target = self.target.clone();
        let nexus = self.nexus.clone();
        let around = Around {
            target: &target,
            initiator: &nexus.initiator,
        };
        let actions = self.session.receive(pdu, &around);
        self.act(actions);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Reserved { tag, permit } => {
                let mut actions = Vec::new();
                if self.session.reserved(tag, &mut actions) {
                    self.permits.extend(permit.map(|permit| (tag, permit)));
                }
                self.act(actions);
            }
            Event::Completed { tag, outcome, permit } => {
                let permit = permit.or(self.permits.remove(&tag));
                let actions = self.session.completed(tag, outcome);
                self.publish_window();
                for action in actions {
                    match action {
                        // The memory is given back when the reply has left.
                        Action::Send(reply @ Reply::Scsi { .. }) => return self.send(reply, permit),
                        other => self.act(vec![other]),
                    }
                }
            }
            Event::OthersReset(id) => {
                let actions = self.session.others_reset(id);
                self.act(actions);
            }
            Event::WriteFailed(error) => self.ended = Some(Ended::Socket(error)),
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Reset { volumes, done, cold } => {
                self.next_reset -= 1;
                let id = self.next_reset;
                self.resets.insert(id, done);
                let (target, nexus) = (self.target.clone(), self.nexus.clone());
                let concerns = |lun| {
                    let unit = target.unit(&nexus.initiator, lun);
                    unit.is_some_and(|unit| volumes.contains(&unit.identity().id))
                };
                let actions = self.session.reset_by_other(id, concerns);
                self.act(actions);
                if cold {
                    let actions = self.session.shut_down("another host has reset the target");
                    self.act(actions);
                }
            }
            Notice::End(why) => {
                let actions = self.session.shut_down(why);
                self.act(actions);
            }
        }
    }

    fn publish_window(&self) {
        let (exp, max) = self.session.window();
        self.shared.exp_cmd_sn.store(exp, Ordering::Relaxed);
        self.shared.max_cmd_sn.store(max, Ordering::Relaxed);
        self.nexus
            .in_flight
            .store(self.session.tasks() as u64, Ordering::Relaxed);
    }

    fn send(&mut self, reply: Reply, permit: Option<OwnedSemaphorePermit>) {
        if let Some(replies) = &self.replies {
            self.shared.queued.fetch_add(reply.size(), Ordering::Relaxed);
            let _ = replies.send((reply, permit));
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        self.publish_window();
        for action in actions {
            match action {
                Action::Send(reply) => self.send(reply, None),
                Action::Reserve { tag, bytes } => self.reserve(tag, bytes),
                Action::Execute(execute) => self.execute(*execute),
                Action::ResetOthers { id, reach, cold } => {
                    let (target, nexus, events) =
                        (self.target.clone(), self.nexus.clone(), self.events.clone());
                    tokio::spawn(async move {
                        target.reset(&nexus, reach, cold).await;
                        let _ = events.send(Event::OthersReset(id));
                    });
                }
                Action::Settled(id) => drop(self.resets.remove(&id)),
                Action::Close(why) => self.ended = Some(Ended::Here(why)),
            }
        }
        self.publish_window();
    }

    fn reserve(&mut self, tag: u32, bytes: u32) {
        let kib = bytes.div_ceil(1024).min(BUDGET_KIB);
        match self.budget.clone().try_acquire_many_owned(kib) {
            Ok(permit) => self.event(Event::Reserved {
                tag,
                permit: Some(permit),
            }),
            Err(_) => {
                let (budget, events) = (self.budget.clone(), self.events.clone());
                tokio::spawn(async move {
                    let permit = budget.acquire_many_owned(kib).await.ok();
                    let _ = events.send(Event::Reserved { tag, permit });
                });
            }
        }
    }

    fn execute(&mut self, execute: Execute) {
        let Execute {
            tag,
            lun,
            command,
            data,
            returns,
            cancel,
        } = execute;
        let (target, nexus, budget) = (self.target.clone(), self.nexus.clone(), self.budget.clone());
        let end = End {
            tag,
            events: self.events.clone(),
            done: None,
        };
        tokio::spawn(async move {
            let permit = match returns.div_ceil(1024) {
                0 => None,
                kib => budget.acquire_many_owned(kib.min(BUDGET_KIB)).await.ok(),
            };
            let scope = Scope {
                cancel,
                ..Scope::new()
            };
            let outcome = target.execute(&nexus, lun, command, data, &scope).await;
            end.with(outcome, permit);
        });
    }
}

/// Reports the end of a command, however it ends.
struct End {
    tag: u32,
    events: mpsc::UnboundedSender<Event>,
    done: Option<(Outcome, Option<OwnedSemaphorePermit>)>,
}

impl End {
    fn with(mut self, outcome: Outcome, permit: Option<OwnedSemaphorePermit>) {
        self.done = Some((outcome, permit));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Nothing is there only if the command's task was torn down: the host hears that it failed.
        let (outcome, permit) = self
            .done
            .take()
            .unwrap_or_else(|| (Sense::TARGET_FAILURE.into(), None));
        let _ = self.events.send(Event::Completed {
            tag: self.tag,
            outcome,
            permit,
        });
    }
}

async fn write_replies<W: AsyncWrite + Unpin>(
    mut queue: mpsc::UnboundedReceiver<Queued>,
    mut write: W,
    p: &super::login::Parameters,
    stat_sn: u32,
    shared: &Shared,
    gate: &dyn ReplyGate,
) -> io::Result<()> {
    let mut stamps = Stamps {
        stat_sn,
        exp_cmd_sn: 0,
        max_cmd_sn: 0,
    };
    let mut out = Vec::with_capacity(BATCH + BHS);
    while let Some(first) = queue.recv().await {
        let mut permits = Vec::new();
        let mut taken = 0;
        let mut next = Some(first);
        while let Some((reply, permit)) = next.take() {
            stamps.exp_cmd_sn = shared.exp_cmd_sn.load(Ordering::Relaxed);
            stamps.max_cmd_sn = shared.max_cmd_sn.load(Ordering::Relaxed);
            taken += reply.size();
            permits.push(permit);
            reply.encode(&mut out, p, &mut stamps);
            if out.len() < BATCH {
                next = queue.try_recv().ok();
            }
        }
        write_gated(&mut write, &out, gate).await?;
        out.clear();
        out.shrink_to(4 * BATCH);
        drop(permits);
        shared.queued.fetch_sub(taken, Ordering::Relaxed);
        shared.drained.notify_one();
    }
    write.shutdown().await
}
