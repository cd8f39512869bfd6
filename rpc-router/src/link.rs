//! The line between the two switchboards: TCP over the interconnect, on which each side has proven that it knows the
//! pairing key, and every frame that it comes from the other side, in order, unchanged.
//!
//! Controller a listens and b dials, so there is never a question of which of two connections is the right one.
//!
//! ```text
//! both:  hello { link version, program, array, controller, incarnation, nonce }      one JSON line each
//! both:  proof = keyed hash over (label, own name, both hellos)                      one line of hexadecimal digits
//! then:  frames   length u32 LE | keyed hash over (count, payload), 32 bytes | payload
//! ```
//!
//! Payloads joined are the stream of messages that the local socket has too. An empty payload says "still here". Keys
//! are derived from the pairing key and both nonces, one per direction, so nothing can be replayed or reflected.
//! Frames are authenticated, not encrypted: the interconnect is a cable inside one enclosure.
//!
//! Invariants: before the proof nothing is believed and at most 4 KiB are read; a frame that does not fit ends the
//! link; silence of [`SILENCE`] ends the link, whatever TCP thinks of it.

use crate::routing::ConnectionId;
use crate::server::{Beginning, Bus, Closed, Queue, VERSION};
use pollux_api::id::{ArrayId, ControllerId};
use pollux_platform::keys::{KeyStore, PairingKey};
use pollux_runtime::ControllerConfig;
use pollux_runtime::wire::to_json;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Version of this protocol.
const LINK_VERSION: u32 = 1;
/// A link on which nothing else is said says at least "still here" so often.
pub const PING: Duration = Duration::from_millis(200);
/// A link on which nothing was heard for so long is dead: five pings.
pub const SILENCE: Duration = Duration::from_millis(1000);
/// Time for connection and proof.
const HANDSHAKE: Duration = Duration::from_millis(1000);
/// Pause before the next attempt.
const REDIAL: Duration = Duration::from_millis(100);
/// Longest line of the handshake.
const LINE: u64 = 4096;
/// Longest payload of a frame.
const FRAME: usize = 64 << 10;
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
    /// No pairing key.
    #[error("the other side does not know the pairing key; pair the controllers again")]
    Stranger,
    /// Somebody else spoke.
    #[error("a frame that the partner did not send")]
    Forged,
    /// The core ended it.
    #[error("{0}")]
    Closed(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    pollux_router_link: u32,
    program: String,
    array: ArrayId,
    controller: ControllerId,
    #[serde(default)]
    incarnation: Option<u64>,
    nonce: [u8; 32],
}

/// One direction of a link: its key, and how many frames it has carried.
struct Direction {
    key: [u8; 32],
    count: u64,
}

impl Direction {
    fn new(pairing: &PairingKey, sender: ControllerId, hellos: [&str; 2]) -> Self {
        Self {
            key: *transcript("pollux router frames 1", pairing, sender, hellos).as_bytes(),
            count: 0,
        }
    }

    fn next_tag(&mut self, payload: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.count.to_le_bytes());
        hasher.update(payload);
        self.count += 1;
        hasher.finalize()
    }

    fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(payload.len()).expect("a frame is at most 64 KiB long");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(self.next_tag(payload).as_bytes());
        out.extend_from_slice(payload);
    }

    async fn open(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        payload: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let length = reader.read_u32_le().await? as usize;
        if length > FRAME {
            return Err(LinkError::Malformed("a frame that is too long"));
        }
        let mut tag = [0; 32];
        reader.read_exact(&mut tag).await?;
        payload.resize(length, 0);
        reader.read_exact(payload).await?;
        // Compares in constant time.
        if self.next_tag(payload) == blake3::Hash::from_bytes(tag) {
            Ok(())
        } else {
            Err(LinkError::Forged)
        }
    }
}

/// What a handshake yields: keys for what goes out and what comes in, and who the other side is.
struct Session {
    sending: Direction,
    receiving: Direction,
    partner: Hello,
}

/// Hash over both hellos, in the order of the controllers, that only who knows the pairing key can compute.
fn transcript(label: &str, pairing: &PairingKey, sender: ControllerId, hellos: [&str; 2]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(pairing.expose());
    for part in [label, sender.as_str(), hellos[0], hellos[1]] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

async fn line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<String, LinkError> {
    let mut line = String::new();
    let read = reader.take(LINE).read_line(&mut line).await;
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(LinkError::Malformed("something that is no text"))
        }
        Err(error) => Err(error.into()),
        Ok(_) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
        Ok(_) => Err(LinkError::Malformed("no line of a handshake")),
    }
}

/// Both sides do the same: say who they are, and prove it.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    mine: &Hello,
    pairing: &PairingKey,
) -> Result<Session, LinkError> {
    let my_line = to_json(mine);
    stream.write_all(format!("{my_line}\n").as_bytes()).await?;
    stream.flush().await?;
    let their_line = line(stream).await?;
    let theirs: Hello =
        serde_json::from_str(&their_line).map_err(|_| LinkError::Malformed("no hello of a pollux router"))?;
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
    let hellos = if mine.controller.index() < theirs.controller.index() {
        [my_line.as_str(), their_line.as_str()]
    } else {
        [their_line.as_str(), my_line.as_str()]
    };
    let proof = |sender| transcript("pollux router proof 1", pairing, sender, hellos);
    stream
        .write_all(format!("{}\n", proof(mine.controller).to_hex()).as_bytes())
        .await?;
    stream.flush().await?;
    let told = line(stream).await?;
    let told = blake3::Hash::from_hex(told).map_err(|_| LinkError::Malformed("no proof"))?;
    if told != proof(theirs.controller) {
        return Err(LinkError::Stranger);
    }
    Ok(Session {
        sending: Direction::new(pairing, mine.controller, hellos),
        receiving: Direction::new(pairing, theirs.controller, hellos),
        partner: theirs,
    })
}

/// Keeps the link for ever, as the listener or as the dialler.
pub(crate) async fn run(bus: &Arc<Bus>, config: &ControllerConfig, keys: &KeyStore) {
    let end = End {
        bus: Arc::clone(bus),
        config: config.clone(),
        key: keys.key.clone(),
    };
    match config.controller {
        ControllerId::A => end.listen().await,
        ControllerId::B => end.dial().await,
    }
}

#[derive(Clone)]
struct End {
    bus: Arc<Bus>,
    config: ControllerConfig,
    key: PairingKey,
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
                    if let Err(error) = end.talk(stream, || drop(slot)).await {
                        end.bus.link_problem(error.to_string());
                    }
                });
            }
        }
    }

    async fn dial(&self) {
        let address = self.config.interconnect.router_partner();
        loop {
            let problem = match timeout(HANDSHAKE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => self
                    .talk(stream, || ())
                    .await
                    .err()
                    .map(|error| error.to_string()),
                Ok(Err(error)) => Some(format!("cannot connect to {address}: {error}")),
                Err(_) => Some(LinkError::Slow("connection", HANDSHAKE).to_string()),
            };
            if let Some(problem) = problem {
                self.bus.link_problem(problem);
            }
            sleep(REDIAL).await;
        }
    }

    fn hello(&self) -> Hello {
        let mut nonce = [0; 32];
        for half in nonce.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let incarnation = std::fs::read_to_string(self.config.paths.run.join("incarnation"));
        Hello {
            pollux_router_link: LINK_VERSION,
            program: VERSION.to_owned(),
            array: self.config.array,
            controller: self.config.controller,
            incarnation: incarnation.ok().and_then(|text| text.trim().parse().ok()),
            nonce,
        }
    }

    /// One connection, from its first byte to its last. `known` is called when the other side is no stranger any more.
    async fn talk(&self, stream: TcpStream, known: impl FnOnce()) -> Result<(), LinkError> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE))?;
        let mut stream = BufReader::with_capacity(FRAME, stream);
        let shaken = timeout(HANDSHAKE, handshake(&mut stream, &self.hello(), &self.key)).await;
        let Session {
            sending,
            receiving,
            partner,
        } = shaken.map_err(|_| LinkError::Slow("handshake", HANDSHAKE))??;
        known();
        let (id, queue) = self.bus.link_up(partner.program.clone());
        tracing::info!(partner = %partner.controller, version = partner.program, incarnation = partner.incarnation, "link up");
        let (reader, writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = self.hear(reader, receiving, id) => ended,
            ended = say(writer, sending, &queue) => ended,
        };
        let why = ended.err().map_or_else(
            || "the partner's router closed the link".to_owned(),
            |e| e.to_string(),
        );
        tracing::warn!(partner = %partner.controller, why, "link down");
        self.bus.link_down(id, why);
        Ok(())
    }

    async fn hear(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut receiving: Direction,
        id: ConnectionId,
    ) -> Result<(), LinkError> {
        let (mut beginning, mut payload) = (Beginning::default(), Vec::new());
        loop {
            match timeout(SILENCE, receiving.open(&mut reader, &mut payload)).await {
                Err(_) => return Err(LinkError::Slow("sign of life", SILENCE)),
                Ok(Err(LinkError::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(());
                }
                Ok(opened) => opened?,
            }
            self.bus.receive(id, &mut beginning, &payload);
        }
    }
}

async fn say(
    mut writer: impl AsyncWrite + Unpin,
    mut sending: Direction,
    queue: &Queue,
) -> Result<(), LinkError> {
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    loop {
        bytes.clear();
        frames.clear();
        match timeout(PING, queue.take(&mut bytes)).await {
            Err(_) => sending.seal(b"", &mut frames),
            Ok(Err(Closed(why))) => return Err(LinkError::Closed(why)),
            Ok(Ok(())) => bytes
                .chunks(FRAME)
                .for_each(|payload| sending.seal(payload, &mut frames)),
        }
        writer.write_all(&frames).await?;
        writer.flush().await?;
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
            nonce: *uuid::Uuid::new_v4().as_bytes().repeat(2).first_chunk().unwrap(),
        }
    }

    async fn shake(
        a: (Hello, u8),
        b: (Hello, u8),
    ) -> (Result<Session, LinkError>, Result<Session, LinkError>) {
        let (left, right) = tokio::io::duplex(4096);
        let (mut left, mut right) = (BufReader::new(left), BufReader::new(right));
        let (ka, kb) = (PairingKey::new([a.1; 32]), PairingKey::new([b.1; 32]));
        // The side that refuses hangs up, so that the other one sees the end.
        let one = async move { handshake(&mut left, &a.0, &ka).await };
        let other = async move { handshake(&mut right, &b.0, &kb).await };
        timeout(HANDSHAKE, async { tokio::join!(one, other) })
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn both_sides_know_each_other_and_frames_are_sealed() {
        let (a, b) = shake((hello(ControllerId::A, 1), 9), (hello(ControllerId::B, 1), 9)).await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        assert_eq!(
            (a.partner.controller, b.partner.controller),
            (ControllerId::B, ControllerId::A)
        );
        let (mut first, mut second, mut payload) = (Vec::new(), Vec::new(), Vec::new());
        a.sending.seal(b"one", &mut first);
        a.sending.seal(b"two", &mut second);
        b.receiving.open(&mut &first[..], &mut payload).await.unwrap();
        assert_eq!(payload, b"one");
        // Sent again, sent back, and changed.
        assert!(matches!(
            b.receiving.open(&mut &first[..], &mut payload).await,
            Err(LinkError::Forged)
        ));
        assert!(matches!(
            a.receiving.open(&mut &first[..], &mut payload).await,
            Err(LinkError::Forged)
        ));
        for i in 4..second.len() {
            let mut receiving = Direction {
                key: b.receiving.key,
                count: 1,
            };
            let mut damaged = second.clone();
            damaged[i] ^= 1;
            assert!(
                matches!(
                    receiving.open(&mut &damaged[..], &mut payload).await,
                    Err(LinkError::Forged)
                ),
                "{i}"
            );
        }
        let mut receiving = Direction {
            key: b.receiving.key,
            count: 1,
        };
        receiving.open(&mut &second[..], &mut payload).await.unwrap();
        assert!(receiving.open(&mut &second[..20], &mut payload).await.is_err());
    }

    #[tokio::test]
    async fn who_does_not_belong_here_is_told_why() {
        let good = || (hello(ControllerId::A, 1), 9);
        let (a, _) = shake(good(), (hello(ControllerId::B, 1), 8)).await;
        assert!(matches!(a, Err(LinkError::Stranger)));
        let (a, _) = shake(good(), (hello(ControllerId::B, 2), 9)).await;
        assert!(matches!(a, Err(LinkError::Array { .. })));
        let (a, _) = shake(good(), (hello(ControllerId::A, 1), 9)).await;
        assert!(matches!(a, Err(LinkError::Twin(ControllerId::A))));
        let newer = Hello {
            pollux_router_link: 2,
            ..hello(ControllerId::B, 1)
        };
        let (a, _) = shake(good(), (newer, 9)).await;
        assert!(matches!(a, Err(LinkError::Version(2))));
    }

    #[tokio::test]
    async fn a_handshake_reads_little_and_refuses_what_is_none() {
        let long = vec![b'x'; 100_000];
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\xff\xfe\n", b"{}\n", b"", &long] {
            let mut reader = BufReader::new(bytes);
            let text = line(&mut reader).await;
            assert!(text.is_err() || serde_json::from_str::<Hello>(&text.unwrap()).is_err());
        }
    }
}
