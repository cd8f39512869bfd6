//! The line between the two switchboards: TLS 1.3 over the interconnect, on which each side has proven that it has the
//! key that the other one pinned when they were paired ([`pollux_pairing`]); inside, the same lines as on the local
//! socket.
//!
//! Controller a listens and b dials, so there is never a question of which of two connections is the right one.
//!
//! ```text
//! both:  TLS 1.3, raw public keys, each compared with the pinned one; no resumption
//! both:  hello { link version, program, array, controller, incarnation, epoch }       one JSON line each
//! then:  messages, one per line; an empty line says "still here"
//!        router.present { epoch }      notification, when the epoch of the sender has changed
//! ```
//!
//! Each session has keys of its own, so no byte of an older one can be played again. An older *controller* can: a copy
//! of its disks that somebody started, say. It has the right key and an incarnation that has been seen to be over (the
//! newest is kept beside the key, until a key is pinned again); it is refused, and so is whoever names another array or
//! says that it is this controller. Such a hello is no accident and is reported as an error, as the link's problem, and
//! in the counter `foreign_links`.
//!
//! Invariants: before the hello nothing is believed and at most 4 KiB are kept beside the handshake; silence of
//! [`SILENCE`] ends the link, whatever TCP thinks of it.

use crate::routing::{ConnectionId, PRESENT};
use crate::server::{Beginning, Bus, Closed, Queue, VERSION};
use pollux_api::id::{ArrayId, ControllerId};
use pollux_pairing::identity::{newest_start, remember_start};
use pollux_pairing::{Identity, PublicKey, tls};
use pollux_platform::lease::Reader as Lease;
use pollux_runtime::ControllerConfig;
use pollux_runtime::wire::to_json;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::{self, ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Version of this protocol.
const LINK_VERSION: u32 = 2;
/// A link on which nothing else is said says at least "still here" so often.
pub const PING: Duration = Duration::from_millis(200);
/// A link on which nothing was heard for so long is dead: five pings.
pub const SILENCE: Duration = Duration::from_millis(1000);
/// Time for connection and hello.
const HANDSHAKE: Duration = Duration::from_millis(1000);
/// Pause before the next attempt.
const REDIAL: Duration = Duration::from_millis(100);
/// Longest hello.
const LINE: u64 = 4096;
/// What is read at once.
const READ: usize = 64 << 10;
/// Connections that have not proven anything yet.
const STRANGERS: usize = 4;

/// Why there is no link, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Took too long.
    #[error("no {0} within {1:?}")]
    Slow(&'static str, Duration),
    /// Not our protocol.
    #[error("the other side sent {0}")]
    Malformed(&'static str),
    /// Another version of it.
    #[error(
        "the partner's router speaks version {0} of the link protocol, this one {LINK_VERSION}; update the older"
    )]
    Version(u32),
    /// Another array.
    #[error("the partner belongs to array {theirs}, this controller to {ours}; check the cables")]
    Array {
        /// Said by the other side.
        theirs: ArrayId,
        /// From the configuration.
        ours: ArrayId,
    },
    /// Two of the same.
    #[error(
        "the other side says that it is controller {0}, which this one is; check controller.toml of both"
    )]
    Twin(ControllerId),
    /// A start of the partner that is over.
    #[error(
        "the other side says that it is start {said} of the partner, but start {seen} was here: a copy of it, or its past: \
         stop one of them; if the partner was installed anew, pair the controllers (pollux pair)"
    )]
    Past {
        /// Incarnation in the hello.
        said: u64,
        /// Newest incarnation that was seen.
        seen: u64,
    },
    /// Another key.
    #[error(
        "the other side's key is not the pinned one; check the cables, or pair the controllers (pollux pair)"
    )]
    Stranger,
    /// The core ended it.
    #[error("{0}")]
    Closed(String),
}

impl LinkError {
    /// It does not happen by accident.
    fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::Array { .. } | Self::Twin(_) | Self::Past { .. } | Self::Stranger
        )
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    pollux_router_link: u32,
    program: String,
    array: ArrayId,
    controller: ControllerId,
    /// Count of the controller's starts; none before heartbeat has begun one.
    #[serde(default)]
    incarnation: Option<u64>,
    /// Epoch of its lease; none before heartbeat has granted one.
    #[serde(default)]
    epoch: Option<u64>,
}

/// Whether a link to who says this is one to the partner. `seen` is the newest incarnation that was here.
fn judge(mine: &Hello, theirs: &Hello, seen: Option<u64>) -> Result<(), LinkError> {
    if theirs.pollux_router_link != LINK_VERSION {
        return Err(LinkError::Version(theirs.pollux_router_link));
    }
    if theirs.array != mine.array {
        return Err(LinkError::Array {
            theirs: theirs.array,
            ours: mine.array,
        });
    }
    if theirs.controller == mine.controller {
        return Err(LinkError::Twin(mine.controller));
    }
    match (theirs.incarnation, seen) {
        (Some(said), Some(seen)) if said < seen => Err(LinkError::Past { said, seen }),
        _ => Ok(()),
    }
}

async fn line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<String, LinkError> {
    let mut line = Vec::new();
    reader.take(LINE).read_until(b'\n', &mut line).await?;
    match String::from_utf8(line) {
        Ok(line) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
        Ok(_) => Err(LinkError::Malformed("no line of a hello")),
        Err(_) => Err(LinkError::Malformed("something that is no text")),
    }
}

/// Both sides do the same: say who they are, and hear it.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    mine: &Hello,
    seen: Option<u64>,
) -> Result<Hello, LinkError> {
    stream
        .write_all(format!("{}\n", to_json(mine)).as_bytes())
        .await?;
    stream.flush().await?;
    let theirs: Hello = serde_json::from_str(&line(stream).await?)
        .map_err(|_| LinkError::Malformed("no hello of a pollux router"))?;
    judge(mine, &theirs, seen)?;
    Ok(theirs)
}

/// What both kinds of a failed handshake say.
fn handshake_error(error: io::Error) -> LinkError {
    let stranger = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(tls::is_stranger);
    if stranger {
        LinkError::Stranger
    } else {
        LinkError::Io(error)
    }
}

/// Keeps the link for ever, as the listener or as the dialler.
pub(crate) async fn run(bus: &Arc<Bus>, config: &ControllerConfig, keys: Keys) {
    let seen = newest_start(&config.paths.keys).unwrap_or_else(|error| {
        tracing::error!(%error, "it is not known which starts of the partner are over: a copy from its past is not refused");
        None
    });
    let end = End {
        bus: Arc::clone(bus),
        config: config.clone(),
        keys,
        seen: Arc::new(Mutex::new(seen)),
    };
    match config.controller {
        ControllerId::A => end.listen().await,
        ControllerId::B => end.dial().await,
    }
}

/// What a link is made with.
#[derive(Clone)]
pub(crate) struct Keys {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Keys {
    /// Of a controller and its partner.
    pub(crate) fn new(own: &Identity, partner: PublicKey) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: tls::server(own, partner)?,
            client: tls::client(own, partner)?,
        })
    }
}

#[derive(Clone)]
struct End {
    bus: Arc<Bus>,
    config: ControllerConfig,
    keys: Keys,
    /// The newest incarnation of the partner.
    seen: Arc<Mutex<Option<u64>>>,
}

impl End {
    async fn listen(&self) {
        let address = self.config.interconnect.router_local();
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        loop {
            let listener = match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => {
                    self.bus
                        .link_problem(format!("cannot listen on {address}: {error}"));
                    sleep(REDIAL).await;
                    continue;
                }
            };
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        self.bus
                            .link_problem(format!("cannot accept on {address}: {error}"));
                        sleep(REDIAL).await;
                        break;
                    }
                };
                // Without a slot the stranger is hung up on; the partner dials again.
                let Ok(slot) = Arc::clone(&strangers).try_acquire_owned() else {
                    continue;
                };
                let end = self.clone();
                tokio::spawn(async move {
                    let acceptor = TlsAcceptor::from(Arc::clone(&end.keys.server));
                    let accept = async |stream| acceptor.accept(stream).await.map(TlsStream::from);
                    if let Err(error) = end.talk(stream, accept, || drop(slot)).await {
                        end.failed(&error);
                    }
                });
            }
        }
    }

    async fn dial(&self) {
        let address = self.config.interconnect.router_partner();
        let connector = TlsConnector::from(Arc::clone(&self.keys.client));
        loop {
            let connect = async |stream| {
                let connected = connector.connect(tls::name(), stream).await;
                connected.map(TlsStream::from)
            };
            let done = match timeout(HANDSHAKE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => self.talk(stream, connect, || ()).await,
                Ok(Err(error)) => Err(LinkError::Io(io::Error::new(
                    error.kind(),
                    format!("cannot connect to {address}: {error}"),
                ))),
                Err(_) => Err(LinkError::Slow("connection", HANDSHAKE)),
            };
            if let Err(error) = done {
                self.failed(&error);
            }
            sleep(REDIAL).await;
        }
    }

    fn failed(&self, error: &LinkError) {
        if error.is_foreign() {
            self.bus.foreign(error.to_string());
        } else {
            self.bus.link_problem(error.to_string());
        }
    }

    fn hello(&self, epoch: Option<u64>) -> Hello {
        let incarnation = std::fs::read_to_string(self.config.paths.run.join("incarnation"));
        Hello {
            pollux_router_link: LINK_VERSION,
            program: VERSION.to_owned(),
            array: self.config.array,
            controller: self.config.controller,
            incarnation: incarnation.ok().and_then(|text| text.trim().parse().ok()),
            epoch,
        }
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This start of the partner is here; those before it are over, for the next router too.
    async fn remember(&self, start: Option<u64>) {
        let Some(start) = start.filter(|start| Some(*start) > *self.newest()) else {
            return;
        };
        *self.newest() = Some(start);
        let keys = self.config.paths.keys.clone();
        let written = tokio::task::spawn_blocking(move || remember_start(&keys, start)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, "the next router will not know that earlier starts of the partner are over");
        }
    }

    /// One connection, from its first byte to its last. `known` is called when the other side is no stranger any more.
    async fn talk(
        &self,
        stream: TcpStream,
        secure: impl AsyncFnOnce(TcpStream) -> io::Result<TlsStream<TcpStream>>,
        known: impl FnOnce(),
    ) -> Result<(), LinkError> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE))?;
        let mut epoch = OwnEpoch::new(&self.config);
        let mine = self.hello(epoch.now());
        let seen = *self.newest();
        let meet = async {
            let stream = secure(stream).await.map_err(handshake_error)?;
            let mut stream = BufReader::with_capacity(READ, stream);
            let theirs = greet(&mut stream, &mine, seen).await;
            // With TLS 1.3 the dialler hears that its key was refused only when it reads.
            let theirs = theirs.map_err(|error| match error {
                LinkError::Io(error) => handshake_error(error),
                other => other,
            })?;
            Ok::<_, LinkError>((stream, theirs))
        };
        let met = timeout(HANDSHAKE, meet).await;
        let (stream, partner) = met.map_err(|_| LinkError::Slow("handshake", HANDSHAKE))??;
        known();
        self.remember(partner.incarnation).await;
        let (id, queue) = self
            .bus
            .link_up(partner.program.clone(), mine.epoch, partner.epoch);
        tracing::info!(partner = %partner.controller, version = partner.program, incarnation = partner.incarnation,
            epoch = partner.epoch, "link up");
        let (reader, writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = self.hear(reader, id) => ended,
            ended = self.say(writer, &queue, &mut epoch) => ended,
        };
        let why = ended.err().map_or_else(
            || "the partner's router closed the link".to_owned(),
            |e| e.to_string(),
        );
        tracing::warn!(partner = %partner.controller, why, "link down");
        self.bus.link_down(id, why);
        Ok(())
    }

    async fn hear(&self, mut reader: impl AsyncRead + Unpin, id: ConnectionId) -> Result<(), LinkError> {
        let (mut beginning, mut buffer) = (Beginning::default(), vec![0; READ]);
        loop {
            match timeout(SILENCE, reader.read(&mut buffer)).await {
                Err(_) => return Err(LinkError::Slow("sign of life", SILENCE)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(read) => match read? {
                    0 => return Ok(()),
                    read => self.bus.receive(id, &mut beginning, &buffer[..read]).await,
                },
            }
        }
    }

    async fn say(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        queue: &Queue,
        epoch: &mut OwnEpoch,
    ) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match timeout(PING, queue.take(&mut bytes)).await {
                Err(_) => bytes.push(b'\n'),
                Ok(Err(Closed(why))) => return Err(LinkError::Closed(why)),
                Ok(Ok(())) => {}
            }
            if let Some(changed) = epoch.changed() {
                self.bus.own_epoch(changed);
                let told =
                    format!(r#"{{"jsonrpc":"2.0","method":"{PRESENT}","params":{{"epoch":{changed}}}}}"#);
                bytes.splice(..0, told.into_bytes());
            }
            writer.write_all(&bytes).await?;
            writer.flush().await?;
        }
    }
}

/// The epoch of this controller, as the lease reports it. Looked at no more often than a link says "still here".
struct OwnEpoch {
    path: std::path::PathBuf,
    lease: Option<Lease>,
    last: Option<u64>,
    looked: Instant,
}

impl OwnEpoch {
    fn new(config: &ControllerConfig) -> Self {
        Self {
            path: config.paths.lease(),
            lease: None,
            last: None,
            looked: Instant::now(),
        }
    }

    fn now(&mut self) -> Option<u64> {
        self.looked = Instant::now();
        if self.lease.is_none() {
            self.lease = Lease::open(&self.path).ok();
        }
        self.last = self.lease.as_ref().map(Lease::epoch).filter(|epoch| *epoch > 0);
        self.last
    }

    /// The epoch, if it is another one than before.
    fn changed(&mut self) -> Option<u64> {
        if self.looked.elapsed() < PING {
            return None;
        }
        let before = self.last;
        self.now().filter(|epoch| Some(*epoch) != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(controller: ControllerId, array: u8) -> Hello {
        Hello {
            pollux_router_link: LINK_VERSION,
            program: "test".into(),
            array: ArrayId::from_bytes([array; 16]),
            controller,
            incarnation: Some(3),
            epoch: Some(7),
        }
    }

    async fn meet(a: Hello, b: Hello) -> (Result<Hello, LinkError>, Result<Hello, LinkError>) {
        let (left, right) = tokio::io::duplex(4096);
        let (mut left, mut right) = (BufReader::new(left), BufReader::new(right));
        let (one, other) = (greet(&mut left, &a, None), greet(&mut right, &b, None));
        timeout(HANDSHAKE, async { tokio::join!(one, other) })
            .await
            .unwrap()
    }

    /// Said by routers of this version of the protocol: a line that is not read any more, or is written otherwise, needs
    /// another [`LINK_VERSION`].
    #[test]
    fn a_recorded_hello_is_read_and_written_alike() {
        assert_eq!(
            LINK_VERSION, 2,
            "record a hello of the new version beside this one"
        );
        let recorded = concat!(
            r#"{"pollux_router_link":2,"program":"0.1.0","array":"01010101-0101-0101-0101-010101010101","#,
            r#""controller":"a","incarnation":3,"epoch":7}"#
        );
        let read: Hello = serde_json::from_str(recorded).unwrap();
        assert_eq!((read.incarnation, read.epoch), (Some(3), Some(7)));
        assert_eq!(to_json(&read), recorded);
        // What a newer version adds is ignored; what an older one did not know is not known.
        let newer = recorded.replace(r#""epoch":7"#, r#""epoch":7,"of_a_newer_version":1"#);
        assert_eq!(to_json(&serde_json::from_str::<Hello>(&newer).unwrap()), recorded);
        let older = recorded.replace(r#","incarnation":3,"epoch":7"#, "");
        let read: Hello = serde_json::from_str(&older).unwrap();
        assert_eq!((read.incarnation, read.epoch), (None, None));
        let bare = recorded.replace(r#""pollux_router_link":2,"#, "");
        assert!(
            serde_json::from_str::<Hello>(&bare).is_err(),
            "whoever says no version is no router"
        );
    }

    #[tokio::test]
    async fn both_sides_learn_who_the_other_is() {
        let (a, b) = meet(hello(ControllerId::A, 1), hello(ControllerId::B, 1)).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.controller, a.epoch), (ControllerId::B, Some(7)));
        assert_eq!((b.controller, b.incarnation), (ControllerId::A, Some(3)));
    }

    #[test]
    fn who_does_not_belong_here_is_told_why() {
        let (mine, theirs) = (hello(ControllerId::A, 1), hello(ControllerId::B, 1));
        assert!(judge(&mine, &theirs, Some(3)).is_ok());
        let foreign = judge(&mine, &hello(ControllerId::B, 2), None).unwrap_err();
        assert!(matches!(foreign, LinkError::Array { .. }) && foreign.is_foreign());
        let twin = judge(&mine, &hello(ControllerId::A, 1), None).unwrap_err();
        assert!(matches!(twin, LinkError::Twin(ControllerId::A)) && twin.is_foreign());
        let past = judge(&mine, &theirs, Some(4)).unwrap_err();
        assert!(matches!(past, LinkError::Past { said: 3, seen: 4 }) && past.is_foreign());
        let newer = Hello {
            pollux_router_link: LINK_VERSION + 1,
            ..theirs
        };
        let version = judge(&mine, &newer, None).unwrap_err();
        assert!(matches!(version, LinkError::Version(3)) && !version.is_foreign());
    }

    #[tokio::test]
    async fn a_hello_is_short_and_everything_else_is_none() {
        let long = vec![b'x'; 100_000];
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\xff\xfe\n", b"{}\n", b"", &long] {
            let mut reader = BufReader::new(bytes);
            let text = line(&mut reader).await;
            assert!(text.is_err() || serde_json::from_str::<Hello>(&text.unwrap()).is_err());
        }
    }
}
