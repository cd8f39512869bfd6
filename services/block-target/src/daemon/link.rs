//! A line to where the data is: dialled when it is needed, redialled when it breaks.
//!
//! What was sent and not answered when the line broke is sent again on the next one, where that does no harm: the
//! server drains the older session of the same identity before it lets the newer one in, so a copy of a command
//! never overtakes its original.
//!
//! A line carries the claim (epoch, generation) under which it was dialled. When the claim changes the line is reset, and
//! with it goes whatever had not been sent: nothing of an older claim reaches the other end late, and nothing of it is left
//! there when the next line is let in. A line to a pool may be dialled ahead of its claim, while no host's command goes by
//! it: the first claim then takes it over, and no time is lost at a takeover.
//!
//! A host's command says by when the partner may begin with it. Who waits gives up no earlier, so what was given up and is
//! still on its way is not begun any more. A partner of an older build cannot be told: the line is reset then, which
//! throws away what has not left this machine.

use super::BLOCK_SIZE;
use crate::backend::{BoxFuture, Failure, VolumeBackend, may_be_sent_again};
use crate::paths::Paths;
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status as ScsiStatus};
use bytes::Bytes;
use pollux_api::id::{ArrayId, ControllerId, Epoch, Generation};
use pollux_api::target::Backing;
use pollux_block_frame::{
    AuthKey, Behalf, Client, Error, Hello, Operation, Port, Purpose, Request, Status, VERSIONS,
};
use socket2::SockRef;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

/// How long dialling and logging in may take. A server that drains an older session takes its time.
const DIAL: Duration = Duration::from_secs(2);
/// Pause before the next attempt, first and longest.
const REDIAL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Pause before a command is sent again that the other end could not take now.
const AGAIN: Duration = Duration::from_millis(10);
/// Data that the partner does not acknowledge for so long ends the line.
const USER_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a line leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The pool manager's socket of one volume.
    Volume(PathBuf),
    /// The partner's block target.
    Partner {
        /// Own address, so that the line takes the interconnect.
        from: SocketAddr,
        /// The partner's forward port.
        to: SocketAddr,
    },
}

type Claim = (Epoch, Generation);

/// One line.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    array: Uuid,
    port: Port,
    name: String,
    key: Option<AuthKey>,
    paths: Arc<Paths>,
    /// Under which claim it was dialled; `None`: ahead of it.
    current: Mutex<Option<(Option<Claim>, Client)>>,
    dialling: tokio::sync::Mutex<()>,
    /// Version of the protocol that was agreed last; 0: none was.
    agreed: AtomicU16,
}

/// The initiator port of a controller on both kinds of lines.
#[must_use]
pub(super) const fn port_of(controller: ControllerId) -> Port {
    match controller {
        ControllerId::A => Port::A,
        ControllerId::B => Port::B,
    }
}

impl Link {
    /// A line for a pool whose paths these are. `name` is the program's part of the session's identity, `key` the
    /// pairing key (for the partner).
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        array: ArrayId,
        own: ControllerId,
        name: String,
        key: Option<AuthKey>,
        paths: Arc<Paths>,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            array: Uuid::from_bytes(*array.as_bytes()),
            port: port_of(own),
            name,
            key,
            paths,
            current: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            agreed: AtomicU16::new(0),
        })
    }

    /// Version of the protocol that was agreed when the line was last opened; `None`: it never was.
    #[must_use]
    pub fn agreed(&self) -> Option<u16> {
        match self.agreed.load(Ordering::Relaxed) {
            0 => None,
            version => Some(version),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<(Option<Claim>, Client)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the line; commands that wait on it end with an unknown fate. The next command dials again.
    pub fn reset(&self) {
        *self.current() = None;
    }

    /// Drops the line if what it was dialled for is no more; one that was dialled ahead is of this claim now.
    pub fn reset_if_outdated(&self) {
        let route = self.paths.route();
        let claim = (route.epoch, route.generation);
        let leads_to = match self.endpoint {
            Endpoint::Volume(_) => Backing::Local,
            Endpoint::Partner { .. } => Backing::Partner,
        };
        let mut current = self.current();
        match &mut *current {
            Some((dialled, _))
                if route.backing == leads_to && dialled.is_none_or(|dialled| dialled == claim) =>
            {
                *dialled = Some(claim);
            }
            _ => *current = None,
        }
    }

    /// Under which claim to dial; `None`: ahead of it.
    fn claim(&self) -> Option<Claim> {
        let route = self.paths.route();
        let ahead = matches!(self.endpoint, Endpoint::Volume(_)) && route.backing != Backing::Local;
        (!ahead).then_some((route.epoch, route.generation))
    }

    fn living(&self) -> Option<Client> {
        let claim = self.claim();
        let current = self.current();
        let (dialled, client) = current.as_ref()?;
        let sound = dialled.is_none() || *dialled == claim;
        (sound && !client.is_closed()).then(|| client.clone())
    }

    /// A living line, however long it takes; the caller bounds it.
    async fn client(&self) -> Client {
        if let Some(client) = self.living() {
            return client;
        }
        let _one = self.dialling.lock().await;
        let mut pause = REDIAL.0;
        let mut complained = false;
        loop {
            if let Some(client) = self.living() {
                return client;
            }
            let claim = self.claim();
            let under = claim.unwrap_or((Epoch::new(0), Generation::new(0)));
            match self.dial(under).await {
                Ok(client) => {
                    self.is_open(&client);
                    *self.current() = Some((claim, client));
                }
                Err(error) => {
                    if !complained {
                        tracing::info!(%error, "no line; commands wait");
                        complained = true;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(REDIAL.1);
                }
            }
        }
    }

    fn is_open(&self, client: &Client) {
        let version = client.welcome().version;
        let before = self.agreed.swap(version, Ordering::Relaxed);
        if version < VERSIONS.newest && before != version {
            let endpoint = client.endpoint();
            tracing::warn!(
                endpoint,
                version,
                newest = VERSIONS.newest,
                "the other end is of an older build: both go on with what it knows"
            );
        }
    }

    async fn dial(&self, (epoch, generation): Claim) -> Result<Client, Error> {
        let hello = |purpose| Hello {
            array: self.array,
            port: self.port,
            purpose,
            client: self.name.clone(),
            epoch: epoch.get(),
            generation: generation.get(),
        };
        match &self.endpoint {
            Endpoint::Volume(path) => {
                // The pool manager serves whoever is on its own controller.
                let hello = Hello {
                    epoch: 0,
                    generation: 0,
                    ..hello(Purpose::Volume)
                };
                Client::connect_unix(path, &hello, self.key.as_ref(), DIAL).await
            }
            Endpoint::Partner { from, to } => {
                let endpoint = to.to_string();
                let failed = |source| Error::Connect {
                    endpoint: endpoint.clone(),
                    source,
                };
                let timed_out = |_| failed(std::io::ErrorKind::TimedOut.into());
                let stream = timeout(DIAL, connect(*from, *to))
                    .await
                    .map_err(timed_out)?
                    .map_err(failed)?;
                let hello = hello(Purpose::Forward);
                let login = Client::over(stream, endpoint.clone(), &hello, self.key.as_ref());
                timeout(DIAL, login).await.map_err(timed_out)?
            }
        }
    }

    /// Dials now, and asks for the volume's geometry.
    ///
    /// # Errors
    /// In words: what does not answer or does not fit.
    pub async fn check(&self, blocks: u64, until: Instant) -> Result<(), String> {
        let client = timeout_at(until, self.client())
            .await
            .map_err(|_| format!("{:?} does not answer", self.endpoint))?;
        let info = client
            .info(Some(until))
            .await
            .map_err(|error| error.to_string())?;
        match info.block_size == BLOCK_SIZE && info.blocks >= blocks {
            true => Ok(()),
            false => Err(format!(
                "it has {} blocks of {} bytes; the configuration says {blocks} of {BLOCK_SIZE}",
                info.blocks, info.block_size
            )),
        }
    }

    /// Carries out one operation on a volume (nil: the one behind the socket), on behalf of a host, who hears at that
    /// moment that it was given up, or of nobody.
    ///
    /// # Errors
    /// [`Failure`], when it is final.
    pub async fn submit(
        &self,
        volume: Uuid,
        behalf: Option<(Option<Behalf>, Instant)>,
        operation: Operation,
    ) -> Result<Bytes, Failure> {
        let again = may_be_sent_again(&operation);
        loop {
            let client = self.client().await;
            let mut request = Request::for_volume(volume, operation.clone());
            let mut given_up = None;
            if let Some((behalf, begin_by)) = &behalf {
                request = request.on_behalf(behalf.clone()).begin_by(*begin_by);
                given_up = (!client.tells_when_to_begin()).then(|| GivenUp(self));
            }
            let verdict = match client.call(request, None).await {
                Ok(reply) => judge(reply.status, reply.detail, reply.payload),
                Err(error) if error.nothing_was_done() => Verdict::Later { done: false },
                Err(error) => {
                    tracing::debug!(%error, "line lost");
                    Verdict::Later { done: true }
                }
            };
            if let Some(given_up) = given_up {
                given_up.answered();
            }
            match verdict {
                Verdict::Final(result) => return result,
                Verdict::Later { done: true } if !again => return Err(Failure::InDoubt),
                Verdict::Later { .. } => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

/// A command at a partner that does not know by when to begin. Dropped, it was given up.
struct GivenUp<'a>(&'a Link);

impl GivenUp<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.reset();
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(from.ip(), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let options = SockRef::from(&stream);
    // Closing throws away what has not been sent: a command that was given up here must not arrive there later.
    options.set_linger(Some(Duration::ZERO))?;
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Final(Result<Bytes, Failure>),
    /// Not now. `done`: it may have been carried out.
    Later {
        done: bool,
    },
}

fn judge(status: Status, detail: u64, payload: Bytes) -> Verdict {
    Verdict::Final(match status {
        Status::Ok => Ok(payload),
        Status::ReservationConflict => Err(Failure::Conflict),
        Status::MediumError | Status::WriteProtected => Err(Failure::Medium),
        Status::OutOfRange => Err(Failure::OutOfRange),
        Status::Miscompare => Err(Failure::Miscompare(detail)),
        Status::Unsupported => Err(Failure::Unsupported),
        Status::Scsi => Err(answered(detail, &payload)),
        Status::Aborted if detail == BY_ANOTHER_HOST => Err(Failure::Aborted),
        Status::NoResources if detail == NO_ROOM => Err(Failure::NoRoom),
        // The pool is on its way, or its volume is not open yet: the route that heartbeat will set ends that.
        Status::NotReady
        | Status::Aborted
        | Status::NoResources
        | Status::UnknownVolume
        | Status::NotOwner => return Verdict::Later { done: false },
        Status::NoPath | Status::Held => return Verdict::Later { done: true },
        other => Err(Failure::Gone(other.text().to_owned())),
    })
}

/// Detail of [`Status::Aborted`]: a host has preempted the one that the command came from.
pub(super) const BY_ANOTHER_HOST: u64 = 1;
/// Detail of [`Status::NoResources`]: there will be no room later either.
const NO_ROOM: u64 = 1;

/// What the owner answers the host.
fn answered(status: u64, sense: &[u8]) -> Failure {
    match (ScsiStatus::from_code(status), Sense::from_fixed(sense)) {
        (Some(ScsiStatus::CheckCondition), Some(sense)) => Failure::Answered(sense.into()),
        (Some(status), None) if sense.is_empty() && status != ScsiStatus::CheckCondition => {
            Failure::Answered(Outcome::status(status))
        }
        _ => Failure::Gone(format!(
            "the owner answers status {status:#04x} with {} bytes",
            sense.len()
        )),
    }
}

/// A volume through a line.
#[derive(Debug)]
pub(crate) struct Through {
    pub(crate) link: Arc<Link>,
    pub(crate) volume: Uuid,
}

impl VolumeBackend for Through {
    fn submit(&self, operation: Operation) -> BoxFuture<'_, Result<Bytes, Failure>> {
        Box::pin(self.link.submit(self.volume, None, operation))
    }

    fn submit_for(
        &self,
        behalf: Option<Behalf>,
        begin_by: Instant,
        operation: Operation,
    ) -> BoxFuture<'_, Result<Bytes, Failure>> {
        Box::pin(self.link.submit(self.volume, Some((behalf, begin_by)), operation))
    }
}
