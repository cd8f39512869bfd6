//! The floor: a forwarder of frames with a length before them. It does what every bus has to do (read, find where a
//! message ends, find its receiver, queue it there, write each queue in one go) and nothing else: no names, no
//! rights, no deadlines, no record of who is owed an answer.
//!
//! ```text
//! frame   length u32 LE | receiver u32 LE | payload        the forwarder puts the sender where the receiver stood
//! ```
//!
//! [`forward`] is that process, as one writes it with tokio: a task that reads and a task that writes for each
//! connection; connections are numbered as they come. Two of them with a connection between that is secured as the
//! routers' link is are the floor of two routers; there, what comes over the link goes to connection 0, and the rest to
//! the link.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Line, Protocol, Stream};
use pollux_pairing::{Identity, PublicKey, tls};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

const HEAD: usize = 8;
const READ: usize = 128 << 10;

fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() >= 4 + length).then_some(4 + length)
}

/// Connects one side; a caller's frames go to connection `to`.
///
/// # Errors
/// What the system says.
pub fn connect(socket: &Path, to: u32) -> Result<Line> {
    let stream = StdUnixStream::connect(socket).context(socket.display())?;
    Ok(Line {
        bus: "forwarder",
        stream: Stream::Unix(stream),
        protocol: Box::new(Frames { to }),
    })
}

struct Frames {
    to: u32,
}

impl Protocol for Frames {
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(payload.len() + 4).expect("payloads are a few KiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(payload);
    }

    fn answers(&mut self, payload: &[u8], input: &[u8]) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some(length) = length(&input[found.used..]) {
            let frame = &input[found.used..found.used + length];
            if frame.get(HEAD..) != Some(payload) {
                return Err(format!("a frame of {length} bytes"));
            }
            found.used += length;
            found.answers += 1;
        }
        Ok(found)
    }

    fn serve(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String> {
        let mut used = 0;
        while let Some(length) = length(&input[used..]) {
            out.extend_from_slice(&input[used..used + length]);
            used += length;
        }
        Ok(used)
    }
}

/// The other forwarder, in a floor of two, and the key store with which it is met.
#[derive(Clone, Debug)]
pub enum Other {
    /// It dials this address.
    Listen(SocketAddr, PathBuf),
    /// It listens on this address.
    Dial(SocketAddr, PathBuf),
}

/// What waits for one receiver.
#[derive(Default)]
struct Queue {
    bytes: RefCell<Vec<u8>>,
    wake: Notify,
}

/// Every receiver by its number.
type Receivers = Rc<RefCell<HashMap<u32, Rc<Queue>>>>;

/// How long a forwarder goes on dialling the other one, and at what intervals.
const DIAL: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(5);
/// The number of the other forwarder.
const LINK: u32 = u32::MAX;

/// Forwards between the connections on `socket`, or between the first one and the other forwarder, for ever.
///
/// # Errors
/// What the system says.
pub async fn forward(socket: &Path, other: Option<Other>) -> Result<()> {
    let listener = UnixListener::bind(socket).context(socket.display())?;
    let receivers = Receivers::default();
    let fixed = other.as_ref().map(|_| LINK);
    let work = async {
        if let Some(other) = other {
            let (reader, writer) = tokio::io::split(connect_other(other).await?);
            attach(&receivers, LINK, Some(0), reader, writer);
        }
        for number in 0.. {
            let (stream, _) = listener.accept().await.context(socket.display())?;
            let (reader, writer) = stream.into_split();
            attach(&receivers, number, fixed, reader, writer);
        }
        Ok(())
    };
    LocalSet::new().run_until(work).await
}

/// Starts both tasks of a connection; its frames go to the receiver that they name, or all of them to `fixed`.
fn attach(
    receivers: &Receivers,
    number: u32,
    fixed: Option<u32>,
    reader: impl AsyncRead + Unpin + 'static,
    writer: impl AsyncWrite + Unpin + 'static,
) {
    let queue = Rc::<Queue>::default();
    receivers.borrow_mut().insert(number, Rc::clone(&queue));
    let receivers = Rc::clone(receivers);
    spawn_local(async move {
        let read = read_frames(reader, &receivers, number, fixed);
        let ended = tokio::select! {
            ended = read => ended,
            ended = write_frames(writer, &queue) => ended,
        };
        if let Err(error) = ended {
            eprintln!("connection {number}: {error}");
        }
        receivers.borrow_mut().remove(&number);
    });
}

async fn write_frames(mut writer: impl AsyncWrite + Unpin, queue: &Queue) -> Result<()> {
    let mut out = Vec::with_capacity(READ);
    loop {
        queue.wake.notified().await;
        std::mem::swap(&mut out, &mut queue.bytes.borrow_mut());
        writer.write_all(&out).await.context("write")?;
        writer.flush().await.context("write")?;
        out.clear();
    }
}

/// Reads a batch and puts each of its frames before its receiver.
async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    receivers: &Receivers,
    from: u32,
    fixed: Option<u32>,
) -> Result<()> {
    let (mut input, mut end) = (vec![0; READ], 0);
    loop {
        let read = reader.read(&mut input[end..]).await.context("read")?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let mut used = 0;
        while let Some(length) = length(&input[used..end]) {
            let frame = &mut input[used..used + length];
            let Some(place) = frame.get_mut(4..HEAD) else {
                return Err(too("short"));
            };
            let named = u32::from_le_bytes(*place.first_chunk().unwrap_or(&[0; 4]));
            if fixed.is_none() {
                place.copy_from_slice(&from.to_le_bytes());
            }
            if let Some(queue) = receivers.borrow().get(&fixed.unwrap_or(named)) {
                queue.bytes.borrow_mut().extend_from_slice(frame);
                queue.wake.notify_one();
            }
            used += length;
        }
        if used == 0 && end == input.len() {
            return Err(too("long"));
        }
        input.copy_within(used..end, 0);
        end -= used;
    }
}

fn too(much: &str) -> Error {
    Error::Step {
        what: "forward".into(),
        why: format!("a frame that is too {much}"),
    }
}

/// Both forwarders start at once: the other one may not listen yet.
async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let end = Instant::now() + DIAL;
    loop {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < end => {
                sleep(AGAIN).await;
            }
            dialled => return dialled,
        }
    }
}

async fn connect_other(other: Other) -> Result<TlsStream<TcpStream>> {
    let what = "the other forwarder";
    let keys = |store: &Path| {
        let own = Identity::load(store).context(what)?;
        PublicKey::of_partner(store)
            .context(what)
            .map(|partner| (own, partner))
    };
    match other {
        Other::Listen(address, store) => {
            let (own, partner) = keys(&store)?;
            let acceptor = TlsAcceptor::from(tls::server(&own, partner).context(what)?);
            let listener = TcpListener::bind(address).await.context(what)?;
            let (stream, _) = listener.accept().await.context(what)?;
            stream.set_nodelay(true).context(what)?;
            acceptor.accept(stream).await.map(TlsStream::from).context(what)
        }
        Other::Dial(address, store) => {
            let (own, partner) = keys(&store)?;
            let connector = TlsConnector::from(tls::client(&own, partner).context(what)?);
            let stream = dial(address).await.context(what)?;
            stream.set_nodelay(true).context(what)?;
            let connected = connector.connect(tls::name(), stream).await;
            connected.map(TlsStream::from).context(what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_served_and_counted() {
        let (mut one, mut other) = (Frames { to: 7 }, Frames { to: 0 });
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        one.ask(b"payload", &mut asked);
        one.ask(b"payload", &mut asked);
        let whole = asked.len();
        asked.extend_from_slice(&[7, 0]);
        assert_eq!(other.serve(&asked, &mut answered), Ok(whole));
        let found = Found {
            used: whole,
            answers: 2,
        };
        assert_eq!(one.answers(b"payload", &answered), Ok(found));
        assert!(one.answers(b"another", &answered).is_err());
    }
}
