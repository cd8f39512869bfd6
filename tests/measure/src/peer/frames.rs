//! The floor: a forwarder of frames with a length before them. It does what every bus has to do (read, find where a
//! message ends, put it before the right receiver, write) and nothing else; no bus that passes a message through a
//! process of its own can be faster.
//!
//! ```text
//! frame   length u32 LE | number u32 LE | payload
//! ```
//!
//! [`forward`] is that process: frames of one side go to the other. Two of them with a TCP connection between are the
//! floor of two routers.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Line, Protocol, Stream};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

const HEAD: usize = 8;
const READ: usize = 128 << 10;

fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() >= 4 + length).then_some(4 + length)
}

/// Connects one side.
///
/// # Errors
/// What the system says.
pub fn connect(socket: &Path) -> Result<Line> {
    let stream = StdUnixStream::connect(socket).context(socket.display())?;
    Ok(Line {
        bus: "forwarder",
        stream: Stream::Unix(stream),
        protocol: Box::new(Frames::default()),
    })
}

#[derive(Default)]
struct Frames {
    number: u32,
}

impl Protocol for Frames {
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.number = self.number.wrapping_add(1);
        let length = u32::try_from(payload.len() + 4).expect("payloads are a few KiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
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

/// The other forwarder, in a floor of two.
#[derive(Clone, Copy, Debug)]
pub enum Other {
    /// It dials this address.
    Listen(SocketAddr),
    /// It listens on this address.
    Dial(SocketAddr),
}

/// Forwards between the first two connections on `socket`, or between the first one and the other forwarder, until
/// one of them ends.
///
/// # Errors
/// What the system says.
pub async fn forward(socket: &Path, other: Option<Other>) -> Result<()> {
    let listener = UnixListener::bind(socket).context(socket.display())?;
    let accept = async || {
        let accepted = listener.accept().await;
        accepted.map(|(stream, _)| stream).context(socket.display())
    };
    match other {
        None => join(accept().await?.into_split(), accept().await?.into_split()).await,
        Some(other) => {
            let link = connect_other(other).await.context("the other forwarder")?;
            link.set_nodelay(true).context("the other forwarder")?;
            join(accept().await?.into_split(), link.into_split()).await
        }
    }
}

async fn connect_other(other: Other) -> std::io::Result<TcpStream> {
    match other {
        Other::Listen(address) => Ok(TcpListener::bind(address).await?.accept().await?.0),
        Other::Dial(address) => TcpStream::connect(address).await,
    }
}

async fn join(
    (one_in, one_out): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (other_in, other_out): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> Result<()> {
    tokio::select! {
        ended = pass(one_in, other_out) => ended,
        ended = pass(other_in, one_out) => ended,
    }
}

/// Reads a batch, walks over its frames, writes them in one go.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Result<()> {
    let (mut input, mut end) = (vec![0; READ], 0);
    let mut out = Vec::with_capacity(READ);
    loop {
        let read = from.read(&mut input[end..]).await.context("read")?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let mut used = 0;
        out.clear();
        while let Some(length) = length(&input[used..end]) {
            out.extend_from_slice(&input[used..used + length]);
            used += length;
        }
        if used == 0 && end == input.len() {
            return Err(Error::Step {
                what: "forward".into(),
                why: format!("a frame of more than {READ} bytes"),
            });
        }
        to.write_all(&out).await.context("write")?;
        to.flush().await.context("write")?;
        input.copy_within(used..end, 0);
        end -= used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_served_and_counted() {
        let (mut one, mut other) = (Frames::default(), Frames::default());
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
