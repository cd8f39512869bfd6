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
//!
//! An end in order is a shutdown of the stream behind the last reply. A stream that is dropped without tells the host that
//! something was lost (TCP: [`super::server`] has it reset).

use super::alive::{Alive, Due};
use super::chap::Challenge;
use super::limits::{
    LAST_WORDS, LOGIN_SEGMENT, LOGIN_TIME, PING_TIMEOUT, REPLIES_MAX, SESSION_MEMORY_KIB, WRITE_STALL,
};
use super::login::{Login, MAX_RECEIVE, Parameters, Refusal, Step, refuse};
use super::outgoing::Outgoing;
use super::pdu::{self, BHS, Broken, Digests, Header, Pdu, put};
use super::seldom::Seldom;
use super::session::{Action, Execute, Reply, Reset, Session, Stamps, Surroundings};
use crate::gate::ReplyGate;
use crate::paths::Scope;
use crate::scsi::Outcome;
use crate::scsi::inquiry::port_number;
use crate::scsi::sense::Sense;
use crate::target::{Joined, Legacy, Nexus, Notice, Target};
use bytes::BytesMut;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Bytes that are handed to the socket together.
const BATCH: usize = 256 * 1024;
/// Pieces that are handed to it together: what a system call takes for sure (IOV_MAX of POSIX is 16 at least).
const PIECES: usize = 16;
/// Bytes that are read from the socket together: of a host that is quiet, and of one that sends as fast as it can.
const READ: [usize; 2] = [4 * 1024, 64 * 1024];
/// Logins that are refused are said this often.
static REFUSED: Seldom = Seldom::new(Duration::from_secs(10));
/// That there are too many sessions is said this often.
static FULL: Seldom = Seldom::new(Duration::from_secs(60));

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
    /// It was ended here without a word.
    #[error("reset: {0}")]
    Cut(&'static str),
    /// The login failed.
    #[error("login refused: {0}")]
    Refused(String),
}

/// Serves one connection to its end.
pub async fn serve<S>(stream: S, peer: SocketAddr, target: Arc<Target>) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    serve_from(stream, peer, target, ()).await
}

/// The same; `place` is one of those that log in, and is given back when the login is over.
pub(super) async fn serve_from<S, P>(stream: S, peer: SocketAddr, target: Arc<Target>, place: P) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let reader = Reader {
        socket: read,
        buffer: BytesMut::new(),
        busy: false,
    };
    let logged_in = log_in(reader, write, peer, &target).await;
    drop(place);
    match logged_in {
        Ok(connection) => connection.run().await,
        Err(ended) => ended,
    }
}

struct Reader<S> {
    socket: ReadHalf<S>,
    buffer: BytesMut,
    /// The last read took all that it could.
    busy: bool,
}

impl<S: AsyncRead> Reader<S> {
    /// The next PDU. Dropping the future loses nothing: what has been read stays in the buffer.
    async fn next(&mut self, digests: Digests, limit: usize) -> Result<Pdu, Ended> {
        loop {
            if let Some(pdu) = pdu::take(&mut self.buffer, digests, limit)? {
                return Ok(pdu);
            }
            let room = READ[usize::from(self.busy)];
            self.buffer.reserve(room);
            match self.socket.read_buf(&mut self.buffer).await? {
                0 => return Err(Ended::Closed),
                read => self.busy = read >= room,
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
    let until = Instant::now() + LOGIN_TIME;
    let late = |_| Ended::Refused(format!("not done within {} s", LOGIN_TIME.as_secs()));
    let challenge = Challenge::draw().map_err(|error| Ended::Here(format!("no random numbers: {error}")))?;
    let mut login = Login::new(target.name(), port_number(target.controller()), challenge);
    let mut stat_sn = 1_u32;
    loop {
        let request = timeout_at(until, reader.next(Digests::default(), LOGIN_SEGMENT))
            .await
            .map_err(late)??;
        let cmd_sn = request.header.get32(24);
        let mut joined = None;
        let (mut header, data, refused) = match login.step(&request, target.as_ref()) {
            Step::Continue(header, data) => (header, data, None),
            Step::Refuse(header, why) => (header, Vec::new(), Some(why)),
            Step::Done(header, data, agreed) => match target.join(&agreed, peer).await {
                Ok(new) => {
                    joined = Some((new, agreed));
                    (header, data, None)
                }
                Err((refusal, why)) => (refuse(header, refusal), Vec::new(), Some(why.to_owned())),
            },
        };
        let begun = joined.map(|(joined, agreed)| Begun::new(target, joined, *agreed));
        let window = begun
            .as_ref()
            .map_or((cmd_sn, cmd_sn), |begun| begun.session.window());
        if let Some(begun) = &begun {
            header.put16(14, begun.member.nexus.tsih);
        }
        header.put32(24, stat_sn);
        header.put32(28, window.0);
        header.put32(32, window.1);
        stat_sn = stat_sn.wrapping_add(1);
        let mut out = Vec::new();
        put(&mut out, header, &data, Digests::default());
        let mut answer = [IoSlice::new(&out)];
        let answering = write_gated(&mut write, &mut answer, target.gate().as_ref());
        match begun {
            // Who has joined may have waited for an older session to end.
            Some(begun) => {
                timeout(LOGIN_TIME, answering).await.map_err(late)??;
                begun.member.nexus.answered();
                tracing::info!(initiator = begun.member.nexus.initiator, %peer, "logged in");
                return Ok(Connection {
                    reader,
                    write,
                    begun,
                    stat_sn,
                });
            }
            None => timeout_at(until, answering).await.map_err(late)??,
        }
        if let Some(why) = refused {
            // The answer has to arrive; where this fails the host is gone.
            let _ = write.shutdown().await;
            say_refused(&header, login.initiator(), peer, &why);
            return Err(Ended::Refused(why));
        }
    }
}

fn say_refused(header: &Header, initiator: Option<&str>, peer: SocketAddr, why: &str) {
    let status = header.get16(36);
    let seldom = if status == Refusal::OutOfResources as u16 {
        &FULL
    } else {
        &REFUSED
    };
    if let Some(left_out) = seldom.say(Instant::now()) {
        let initiator = initiator.unwrap_or_default();
        tracing::warn!(initiator, %peer, status = format!("{status:04x}"), left_out, "login refused: {why}");
    }
}

/// A session that begins, with what is told to it.
struct Begun {
    member: Member,
    notices: mpsc::UnboundedReceiver<Notice>,
    session: Session,
}

impl Begun {
    fn new(target: &Arc<Target>, joined: Joined, agreed: super::login::Agreed) -> Self {
        let (parameters, cmd_sn) = match joined.legacy {
            // What concerns the connection is new, what concerns the session stands (RFC 7143, 6.3.4).
            Some(legacy) => {
                let parameters = Parameters {
                    digests: agreed.parameters.digests,
                    max_send: agreed.parameters.max_send,
                    ..legacy.parameters
                };
                (parameters, legacy.exp_cmd_sn)
            }
            None => (agreed.parameters, agreed.cmd_sn),
        };
        Self {
            member: Member {
                target: target.clone(),
                nexus: joined.nexus,
            },
            notices: joined.notices,
            session: Session::new(parameters, agreed.discovery, cmd_sn, agreed.cid),
        }
    }
}

/// Writes bytes to the socket, whatever it takes at once under a fresh lease.
async fn write_gated<W: AsyncWrite + Unpin>(
    write: &mut W,
    mut pieces: &mut [IoSlice<'_>],
    gate: &dyn ReplyGate,
) -> io::Result<()> {
    // What is empty goes first: a write of nothing would look like the end.
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        while !gate.is_open() {
            gate.opened().await;
        }
        let some = pieces.len().min(PIECES);
        let written = timeout(WRITE_STALL, write.write_vectored(&pieces[..some]))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the host takes nothing"))?;
        match written? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut pieces, written),
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
    begun: Begun,
    stat_sn: u32,
}

/// Memory that data takes, accounted for at the session and at the target.
struct Memory {
    _session: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Where a session finds memory.
#[derive(Clone)]
struct Budget {
    session: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Budget {
    /// A session's share of `all`.
    fn of(all: &Arc<Semaphore>) -> Self {
        Self {
            session: Arc::new(Semaphore::new(SESSION_MEMORY_KIB as usize)),
            all: all.clone(),
        }
    }

    fn kib(bytes: u32) -> u32 {
        bytes.div_ceil(1024).min(SESSION_MEMORY_KIB)
    }

    /// If there is some now.
    fn try_find(&self, bytes: u32) -> Option<Memory> {
        let kib = Self::kib(bytes);
        let session = self.session.clone().try_acquire_many_owned(kib).ok()?;
        let all = self.all.clone().try_acquire_many_owned(kib).ok()?;
        Some(Memory {
            _session: session,
            _all: all,
        })
    }

    /// When there is some. First the session's own: a session that has used up its share takes no place in the
    /// common queue.
    async fn find(&self, bytes: u32) -> Option<Memory> {
        let kib = Self::kib(bytes);
        let session = self.session.clone().acquire_many_owned(kib).await.ok()?;
        let all = self.all.clone().acquire_many_owned(kib).await.ok()?;
        Some(Memory {
            _session: session,
            _all: all,
        })
    }
}

/// What the running commands and the writer say to the connection.
enum Event {
    Reserved {
        tag: u32,
        memory: Option<Memory>,
    },
    Completed {
        tag: u32,
        outcome: Outcome,
        memory: Option<Memory>,
    },
    OthersReset(u64),
    /// A question whether the host is there has left.
    Pinged,
    WriteFailed(io::Error),
}

/// Sequence numbers and the length of the queue, between the connection and its writer.
#[derive(Default)]
struct Shared {
    exp_cmd_sn: AtomicU32,
    max_cmd_sn: AtomicU32,
    max_send: AtomicU32,
    queued: AtomicUsize,
    drained: Notify,
}

type Queued = (Reply, Vec<Memory>);

struct Around<'a> {
    target: &'a Target,
    nexus: &'a Nexus,
    unasked: &'a Budget,
    taken: RefCell<Vec<(u32, Memory)>>,
}

impl Surroundings for Around<'_> {
    fn block_size(&self, lun: [u8; 8]) -> Option<u32> {
        self.target
            .unit(&self.nexus.initiator, lun)
            .map(|volume| volume.identity().block_size)
    }

    fn target(&self) -> Option<(String, Vec<String>)> {
        let known = self.target.is_known(&self.nexus.initiator);
        known.then(|| (self.target.name().to_owned(), self.target.portals()))
    }

    fn take_memory(&self, tag: u32, bytes: u32) -> bool {
        let memory = self.unasked.try_find(bytes);
        let found = memory.is_some();
        self.taken.borrow_mut().extend(memory.map(|memory| (tag, memory)));
        found
    }
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Connection<S> {
    async fn run(self) -> Ended {
        let Self {
            mut reader,
            mut write,
            begun,
            stat_sn,
        } = self;
        let Begun {
            member,
            mut notices,
            session,
        } = begun;
        let (events, mut event) = mpsc::unbounded_channel();
        let (replies, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let mut driver = Driver::new(&member, session, shared.clone(), replies, events.clone());
        driver.publish();
        let writer = {
            let (shared, gate) = (shared.clone(), member.target.gate().clone());
            let p = driver.session.parameters().clone();
            tokio::spawn(async move {
                let written =
                    write_replies(queue, &mut write, p, stat_sn, &shared, gate.as_ref(), &events).await;
                match written {
                    Ok(()) => Some(write),
                    Err(error) => {
                        let _ = events.send(Event::WriteFailed(error));
                        None
                    }
                }
            })
        };
        while driver.ended.is_none() {
            let full = shared.queued.load(Ordering::Relaxed) > REPLIES_MAX;
            let deadline = driver.deadline();
            tokio::select! {
                biased;
                Some(event) = event.recv() => driver.event(event),
                Some(notice) = notices.recv() => driver.notice(notice),
                // It is only polled where there is one.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => driver.tick(),
                pdu = reader.next(driver.session.digests(), MAX_RECEIVE as usize), if !full => match pdu {
                    Ok(pdu) => driver.pdu(pdu),
                    Err(Ended::Broken(Broken::DataDigest { header, .. })) => driver.damaged(&header),
                    Err(ended) => driver.ended = Some(ended),
                },
                // While it is not listened to, a host that takes its answers proves that it is there.
                () = shared.drained.notified(), if full => driver.alive.heard(Instant::now()),
            }
        }
        let ended = driver.ended.take().unwrap_or(Ended::Closed);
        driver.session.abandon();
        driver.replies = None;
        // Those who left by themselves read no more, and who is cut off gets nothing more; the others get what is queued.
        let abort = writer.abort_handle();
        if matches!(ended, Ended::Closed | Ended::Socket(_) | Ended::Cut(_)) {
            abort.abort();
        } else {
            match timeout(LAST_WORDS, writer).await {
                Ok(Ok(Some(mut write))) => {
                    // Where this fails the host is gone.
                    let _ = write.shutdown().await;
                }
                Ok(_) => {}
                Err(_) => abort.abort(),
            }
        }
        // Who is cut off asks again by the other port as soon as he notices, which is when the last half of the stream goes:
        // not before everything that he has under way here has ended, so that nothing of it takes effect after what comes
        // there.
        let reader = matches!(ended, Ended::Cut(_)).then_some(reader);
        while driver.session.tasks() > 0 {
            match event.recv().await {
                Some(event) => driver.event(event),
                None => break,
            }
        }
        drop(reader);
        member.nexus.leave_behind(Legacy {
            parameters: driver.session.parameters().clone(),
            exp_cmd_sn: driver.session.window().0,
        });
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
    alive: Alive,
    /// When the host has to be gone, and why.
    leave: Option<(Instant, &'static str)>,
    shared: Arc<Shared>,
    replies: Option<mpsc::UnboundedSender<Queued>>,
    events: mpsc::UnboundedSender<Event>,
    /// For data that can wait.
    budget: Budget,
    /// For data that comes with commands.
    unasked: Budget,
    /// Memory of tasks that are collecting their data or run.
    memory: HashMap<u32, Vec<Memory>>,
    /// Resets by other sessions whose tasks have not ended here.
    resets: HashMap<u64, mpsc::Sender<()>>,
    next_reset: u64,
    ended: Option<Ended>,
}

impl Driver {
    fn new(
        member: &Member,
        session: Session,
        shared: Arc<Shared>,
        replies: mpsc::UnboundedSender<Queued>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            target: member.target.clone(),
            nexus: member.nexus.clone(),
            session,
            alive: Alive::new(Instant::now(), member.nexus.discovery),
            leave: None,
            shared,
            replies: Some(replies),
            events,
            budget: Budget::of(member.target.memory()),
            unasked: Budget::of(member.target.unasked()),
            memory: HashMap::new(),
            resets: HashMap::new(),
            next_reset: u64::MAX,
            ended: None,
        }
    }

    fn pdu(&mut self, pdu: Pdu) {
        self.alive.heard(Instant::now());
        let (target, nexus, unasked) = (self.target.clone(), self.nexus.clone(), self.unasked.clone());
        let around = Around {
            target: &target,
            nexus: &nexus,
            unasked: &unasked,
            taken: RefCell::default(),
        };
        let actions = self.session.receive(pdu, &around);
        for (tag, memory) in around.taken.into_inner() {
            self.memory.entry(tag).or_default().push(memory);
        }
        self.act(actions);
    }

    /// The data of a PDU is not what the host has sent.
    fn damaged(&mut self, header: &Header) {
        self.alive.heard(Instant::now());
        tracing::warn!(initiator = self.nexus.initiator, peer = %self.nexus.peer, ?header, "data digest is wrong");
        let actions = self.session.receive_damaged(header);
        self.act(actions);
    }

    /// When [`tick`](Self::tick) is due.
    fn deadline(&self) -> Option<Instant> {
        let leave = self.leave.map(|(at, _)| at);
        self.alive.deadline().into_iter().chain(leave).min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if let Some((_, why)) = self.leave.take_if(|(at, _)| now >= *at) {
            let actions = self.session.shut_down(why);
            return self.act(actions);
        }
        match self.alive.due(now) {
            Due::Nothing => {}
            Due::Ask => {
                let actions = self.session.ping();
                self.act(actions);
            }
            Due::Dead if self.nexus.discovery => {
                self.ended = Some(Ended::Here("the host asks for nothing".to_owned()));
            }
            Due::Dead => {
                let why = format!("the host has not answered for {} s", PING_TIMEOUT.as_secs());
                self.ended = Some(Ended::Here(why));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Reserved { tag, memory } => {
                let mut actions = Vec::new();
                if self.session.reserved(tag, &mut actions) {
                    self.memory.entry(tag).or_default().extend(memory);
                }
                self.act(actions);
            }
            Event::Completed { tag, outcome, memory } => {
                let mut held = self.memory.remove(&tag).unwrap_or_default();
                held.extend(memory);
                let actions = self.session.completed(tag, outcome);
                self.publish();
                for action in actions {
                    match action {
                        // The memory is given back when the reply has left.
                        Action::Send(reply @ Reply::Scsi { .. }) => {
                            self.send(reply, std::mem::take(&mut held));
                        }
                        other => self.act(vec![other]),
                    }
                }
            }
            Event::OthersReset(id) => {
                let actions = self.session.others_reset(id);
                self.act(actions);
            }
            Event::Pinged => self.alive.written(Instant::now()),
            Event::WriteFailed(error) => self.ended = Some(Ended::Socket(error)),
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Reset { volumes, done, reset } => {
                self.next_reset -= 1;
                let id = self.next_reset;
                self.resets.insert(id, done);
                let (target, nexus) = (self.target.clone(), self.nexus.clone());
                let volume = |lun| {
                    let unit = target.unit(&nexus.initiator, lun)?;
                    Some(unit.identity().id).filter(|id| volumes.contains(id))
                };
                let (actions, units) = self.session.reset_by_other(id, |lun| volume(lun).is_some());
                if reset == Reset::Clear {
                    for id in units.into_iter().filter_map(volume) {
                        nexus.attend(id, Sense::COMMANDS_CLEARED);
                    }
                }
                self.act(actions);
                if reset == Reset::Cold {
                    let actions = self.session.shut_down("another host has reset the target");
                    self.act(actions);
                }
            }
            Notice::End(why) => {
                let actions = self.session.shut_down(why);
                self.act(actions);
            }
            Notice::Cut(why) => self.ended = Some(Ended::Cut(why)),
            // Who is here to ask for targets has nothing to bring to its end.
            Notice::Leave(why, _) if self.nexus.discovery => {
                let actions = self.session.shut_down(why);
                self.act(actions);
            }
            Notice::Leave(why, seconds) => {
                if self.leave.is_none() {
                    self.leave = Some((Instant::now() + Duration::from_secs(seconds.into()), why));
                    let actions = self.session.request_logout(seconds);
                    self.act(actions);
                }
            }
        }
    }

    fn publish(&self) {
        let (exp, max) = self.session.window();
        self.shared.exp_cmd_sn.store(exp, Ordering::Relaxed);
        self.shared.max_cmd_sn.store(max, Ordering::Relaxed);
        let max_send = self.session.parameters().max_send;
        self.shared.max_send.store(max_send, Ordering::Relaxed);
        self.nexus
            .in_flight
            .store(self.session.tasks() as u64, Ordering::Relaxed);
    }

    fn send(&mut self, reply: Reply, memory: Vec<Memory>) {
        if let Some(replies) = &self.replies {
            self.shared.queued.fetch_add(reply.size(), Ordering::Relaxed);
            let _ = replies.send((reply, memory));
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        self.publish();
        for action in actions {
            match action {
                Action::Send(reply) => self.send(reply, Vec::new()),
                Action::Reserve { tag, bytes } => self.reserve(tag, bytes),
                Action::Execute(execute) => self.execute(*execute),
                Action::ResetOthers { id, reach, reset } => {
                    let (target, nexus, events) =
                        (self.target.clone(), self.nexus.clone(), self.events.clone());
                    tokio::spawn(async move {
                        target.reset(&nexus, reach, reset).await;
                        let _ = events.send(Event::OthersReset(id));
                    });
                }
                Action::Settled(id) => drop(self.resets.remove(&id)),
                Action::Dropped(tag) => drop(self.memory.remove(&tag)),
                Action::Close(why) => self.ended = Some(Ended::Here(why)),
            }
        }
        self.publish();
    }

    fn reserve(&mut self, tag: u32, bytes: u32) {
        if let Some(memory) = self.budget.try_find(bytes) {
            let memory = Some(memory);
            return self.event(Event::Reserved { tag, memory });
        }
        let (budget, events) = (self.budget.clone(), self.events.clone());
        tokio::spawn(async move {
            let memory = budget.find(bytes).await;
            let _ = events.send(Event::Reserved { tag, memory });
        });
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
            let memory = match returns {
                0 => None,
                bytes => budget.find(bytes).await,
            };
            let scope = Scope {
                cancel,
                ..Scope::new()
            };
            let outcome = target.execute(&nexus, lun, command, data, &scope).await;
            end.with(outcome, memory);
        });
    }
}

/// Reports the end of a command, however it ends.
struct End {
    tag: u32,
    events: mpsc::UnboundedSender<Event>,
    done: Option<(Outcome, Option<Memory>)>,
}

impl End {
    fn with(mut self, outcome: Outcome, memory: Option<Memory>) {
        self.done = Some((outcome, memory));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Nothing is there only if the command's task was torn down: the host hears that it failed.
        let (outcome, memory) = self
            .done
            .take()
            .unwrap_or_else(|| (Sense::TARGET_FAILURE.into(), None));
        let _ = self.events.send(Event::Completed {
            tag: self.tag,
            outcome,
            memory,
        });
    }
}

async fn write_replies<W: AsyncWrite + Unpin>(
    mut queue: mpsc::UnboundedReceiver<Queued>,
    write: &mut W,
    mut p: Parameters,
    stat_sn: u32,
    shared: &Shared,
    gate: &dyn ReplyGate,
    events: &mpsc::UnboundedSender<Event>,
) -> io::Result<()> {
    let mut stamps = Stamps {
        stat_sn,
        exp_cmd_sn: 0,
        max_cmd_sn: 0,
    };
    // Made with the first reply, and given back when the host is quiet: there may be many quiet hosts.
    let mut out = Outgoing::default();
    while let Some(first) = queue.recv().await {
        let mut memory = Vec::new();
        let (mut taken, mut pinged) = (0, false);
        let mut next = Some(first);
        while let Some((reply, held)) = next.take() {
            stamps.exp_cmd_sn = shared.exp_cmd_sn.load(Ordering::Relaxed);
            stamps.max_cmd_sn = shared.max_cmd_sn.load(Ordering::Relaxed);
            p.max_send = shared.max_send.load(Ordering::Relaxed);
            taken += reply.size();
            pinged |= reply.is_ping();
            memory.extend(held);
            reply.encode(&mut out, &p, &mut stamps);
            if out.len() < BATCH {
                next = queue.try_recv().ok();
            }
        }
        write_gated(write, &mut out.pieces(), gate).await?;
        out.clear();
        if queue.is_empty() {
            out.shrink(BHS * 64);
        }
        drop(memory);
        if pinged {
            let _ = events.send(Event::Pinged);
        }
        shared.queued.fetch_sub(taken, Ordering::Relaxed);
        shared.drained.notify_one();
    }
    Ok(())
}
