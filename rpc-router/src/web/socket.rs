//! One WebSocket, from its upgrade to its end: text messages in, text messages out.
//!
//! Reading does not wait for writing: who sends and never reads fills its queue and is disconnected, as on a line.
//! Messages that come in fragments are put together (RFC 6455 has every server do so) up to the length that a message
//! may have, and count as one. What has come of a message that has not ended counts among what all connections have
//! begun, as on a line.

use crate::server::{Begun, Bus, Closed, Session, TOO_MUCH, TURN};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Bytes;
use pollux_api::error::{Code, RpcError};
use pollux_api::router::MAX_MESSAGE;
use pollux_runtime::wire::Malformed;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

/// What is read at once.
const READ: usize = 8 << 10;
/// What is written at once, if no message is longer.
const WRITE: usize = 64 << 10;
/// Time for the last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that are still taken from somebody who is being disconnected, so that the last words are not lost.
pub(super) const LINGER: usize = 16 << 20;
/// Longest reason in a close frame (RFC 6455, 5.5), bytes.
const REASON: usize = 123;

/// How a session ended.
pub(super) enum End {
    /// The other side left, or the connection broke.
    Gone,
    /// It was closed from here, and why.
    Refused(CloseCode, String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the other side left"),
            Self::Refused(code, why) => write!(f, "{why} ({code})"),
        }
    }
}

type Socket<S> = WebSocketStream<Counted<S>>;
type Sink<S> = SplitSink<Socket<S>, Message>;
type Stream<S> = SplitStream<Socket<S>>;

/// Counts what comes.
struct Counted<S> {
    stream: S,
    begun: Arc<Begun>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        Poll::Ready(if self.begun.grows(read) {
            Ok(())
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Carries messages both ways until one side has enough, or it has `lapsed`; asks for a sign of life after `silence`.
pub(super) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    session: &Session,
    silence: Duration,
    lapsed: impl Future<Output = String>,
) -> End {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(WRITE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let begun = Arc::clone(session.begun());
    let socket =
        WebSocketStream::from_raw_socket(Counted { stream, begun }, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    let end = tokio::select! {
        end = hear(&mut stream, session) => end,
        end = say(&mut sink, session, silence) => end,
        why = lapsed => End::Refused(CloseCode::Policy, why),
    };
    if let End::Refused(code, why) = &end {
        // Who does not listen is not waited for.
        let _ = timeout(FAREWELL, part(sink, stream, session, *code, why)).await;
    }
    end
}

async fn hear<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Stream<S>, session: &Session) -> End {
    use tungstenite::Error;
    let (bus, id): (&Bus, _) = (session.bus(), session.id());
    let mut turn = Duration::ZERO;
    while let Some(message) = stream.next().await {
        // It has ended; of the next no more can have come than is read at once. A control frame ends nothing.
        if matches!(message, Ok(Message::Text(_) | Message::Binary(_))) {
            session.begun().is(0);
        }
        match message {
            Ok(Message::Text(text)) => {
                let begin = Instant::now();
                bus.receive_whole(id, text.as_bytes());
                turn += begin.elapsed();
                if turn >= TURN {
                    turn = Duration::ZERO;
                    yield_now().await;
                }
            }
            Ok(Message::Binary(bytes)) => {
                let what = format!("a binary message of {} bytes", bytes.len());
                let error = RpcError::new(Code::InvalidRequest, "connection", what);
                bus.garbage(
                    id,
                    &error.remedy("one JSON-RPC message or batch per text message"),
                );
            }
            // Pings are answered, and closing is agreed to, by the library.
            Ok(_) => {}
            Err(Error::Capacity(_)) => {
                let error = RpcError::from(Malformed::TooLong);
                bus.garbage(id, &error);
                return End::Refused(
                    CloseCode::Size,
                    format!("{}: {}", error.data.what, error.data.remedy),
                );
            }
            Err(Error::Utf8(_)) => {
                return End::Refused(CloseCode::Invalid, "a text message that is no UTF-8".into());
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                return End::Refused(CloseCode::Again, TOO_MUCH.into());
            }
            Err(Error::Protocol(error)) => return End::Refused(CloseCode::Protocol, error.to_string()),
            Err(_) => return End::Gone,
        }
    }
    End::Gone
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut Sink<S>,
    session: &Session,
    silence: Duration,
) -> End {
    let mut lines = Vec::new();
    loop {
        match timeout(silence, session.queue().some(&mut lines, WRITE)).await {
            Ok(Ok(())) => {}
            Ok(Err(Closed(why))) => return End::Refused(CloseCode::Policy, why),
            // No line: a ping.
            Err(_) => lines.clear(),
        }
        // That a receiver which does not read is to be disconnected has to be heard nevertheless.
        tokio::select! {
            written = write(sink, &lines) => if written.is_err() {
                return End::Gone;
            },
            Closed(why) = session.queue().closed() => return End::Refused(CloseCode::Policy, why),
        }
    }
}

/// Writes each line as a text message.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut Sink<S>,
    lines: &[u8],
) -> Result<(), tungstenite::Error> {
    if lines.is_empty() {
        sink.feed(Message::Ping(Bytes::new())).await?;
    }
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // What was read at this door and at the others is text; a service that is not read here may lie.
        let text = String::from_utf8_lossy(line).into_owned();
        sink.feed(Message::text(text)).await?;
    }
    sink.flush().await
}

/// The last words: what was still to be said, and why it ends.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: Sink<S>,
    stream: Stream<S>,
    session: &Session,
    code: CloseCode,
    why: &str,
) -> Option<()> {
    let mut lines = Vec::new();
    while session.queue().rest(&mut lines, WRITE) {
        write(&mut sink, &lines).await.ok()?;
    }
    let fits = |(at, letter): &(usize, char)| at + letter.len_utf8() <= REASON;
    let reason = why.char_indices().take_while(fits).map(|(_, letter)| letter);
    let reason = reason.collect::<String>().into();
    sink.send(Message::Close(Some(CloseFrame { code, reason })))
        .await
        .ok()?;
    linger(sink.reunite(stream).ok()?.into_inner().stream).await;
    Some(())
}

/// Ends a connection so that what was written last arrives: one that is closed with something unread is reset.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let take = async {
        stream.shutdown().await?;
        let (mut taken, mut buffer) = (0, [0; 4096]);
        while taken < LINGER {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => taken += read,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Who does not listen is not waited for.
    let _ = timeout(FAREWELL, take).await;
}
