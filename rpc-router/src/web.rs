//! The side doors: the same switchboard for programs that speak WebSocket or HTTPS instead of lines.
//!
//! ```text
//! run/router.sock      else   --> lines ---------------------------+
//!                      "GET " --> HTTP/1.1 upgrade --> WebSocket --+--> core
//! management address   TLS 1.3 --> token --> upgrade, or one POST -+
//! ```
//!
//! * [`management`]: HTTPS; [`tokens`]: who may come in, [`failures`]: how often one may be wrong, [`certificate`]: what
//!   is shown.
//! * [`socket`]: one WebSocket, through whichever door.
//!
//! One text message is one JSON-RPC message or one batch, and becomes an event of the core exactly as a line does; what
//! the core queues for the connection goes out as one text message per line. So rights, limits and refusals are the
//! core's, and are the same at every door.
//!
//! HTTP is hyper's and WebSocket tungstenite's. The server of jsonrpsee would bring both, but it answers each request
//! from a table of methods of its own: a top-level `action_id` does not reach that table and is not in the answer, and
//! it cannot carry a call from the router to a client. Messages here must pass through unopened, in both directions.
//!
//! Invariants: whoever has not finished its upgrade within [`UPGRADE`] is disconnected; headers are at most [`HEADERS`]
//! bytes long; nothing in here knows what a message says.
//!
//! It must never make a line slower: a connection is looked at once, before its first byte is read.

pub mod certificate;
mod failures;
pub mod management;
mod socket;
pub mod tokens;

use crate::routing::Peer;
use crate::server::{Bus, Session};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE as UPGRADES,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{MsgFlags, recv};
use pollux_api::error::{Code, RpcError};
use pollux_runtime::wire;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

/// Time from the first byte of a connection to the end of its upgrade.
pub const UPGRADE: Duration = Duration::from_secs(5);
/// Longest head of an HTTP request, bytes.
pub const HEADERS: usize = 16 << 10;
/// Nobody on this machine is asked for a sign of life.
const NEVER: Duration = Duration::MAX;
/// Most headers of an HTTP request.
const COUNT: usize = 64;
/// Where messages are taken.
pub const PATH: &str = "/rpc";
/// How an upgrade begins.
const GET: &[u8; 4] = b"GET ";
/// Connections of those who come from afar, and of those who are just leaving.
pub const CONNECTIONS: usize = management::STRANGERS + management::CLIENTS + 64;

/// An HTTP answer.
type Answer = Response<Full<Bytes>>;

/// Whether a connection begins as an HTTP request does; waits until that is known, and takes nothing from it.
pub(crate) async fn begins_as_http(stream: &UnixStream) -> bool {
    loop {
        let Ok(ready) = stream.ready(Interest::READABLE).await else {
            return false;
        };
        let mut first = [0; GET.len()];
        let look = || {
            let seen = recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK)?;
            // Undecided: as if nothing had come, so that the next wait is for the next byte.
            let undecided = (1..GET.len()).contains(&seen) && GET.starts_with(&first[..seen]);
            if undecided && !ready.is_read_closed() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(seen)
        };
        match stream.try_io(Interest::READABLE, look) {
            Ok(_) => return first == *GET,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

/// A local connection that begins with an upgrade, to its end.
pub(crate) async fn serve_local(bus: &Arc<Bus>, stream: UnixStream, peer: Peer) {
    let upgraded: Mutex<Option<OnUpgrade>> = Mutex::default();
    let service = service_fn(async |mut request: Request<Incoming>| {
        let answer = match local(&request).and_then(|()| upgrade(&mut request)) {
            Ok((answer, on)) => {
                *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(on);
                answer
            }
            Err(mut refused) => {
                let close = HeaderValue::from_static("close");
                refused.headers_mut().insert(CONNECTION, close);
                refused
            }
        };
        Ok::<_, Infallible>(answer)
    });
    let serving = http()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let upgrading = async {
        if let Err(error) = serving.await {
            tracing::debug!(uid = peer.uid, pid = peer.pid, %error, "no upgrade");
        }
        let on = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
        on?.await.ok()
    };
    let Ok(Some(stream)) = timeout(UPGRADE, upgrading).await else {
        return;
    };
    let session = Session::local(bus, peer);
    let end = socket::talk(TokioIo::new(stream), &session, NEVER, std::future::pending()).await;
    tracing::debug!(uid = peer.uid, pid = peer.pid, %end, "WebSocket ended");
}

/// What begins with `GET ` on the local socket is an upgrade and nothing else.
fn local<B>(request: &Request<B>) -> Result<(), Answer> {
    let (status, what) = if !matches!(request.uri().path(), "/" | PATH) {
        let what = format!("nothing is at {}", request.uri().path());
        (StatusCode::NOT_FOUND, what)
    } else if request.method() != Method::GET {
        let what = format!("{} is no upgrade", request.method());
        (StatusCode::METHOD_NOT_ALLOWED, what)
    } else {
        return Ok(());
    };
    let error = RpcError::new(Code::InvalidRequest, "upgrade", what).remedy(format!("GET {PATH}"));
    let mut refused = refusal(status, &error);
    refused
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    Err(refused)
}

/// HTTP/1.1 as every door speaks it.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(UPGRADE)
        .max_buf_size(HEADERS)
        .max_headers(COUNT);
    http
}

/// The answer to a request for an upgrade, and what becomes of the connection behind it; or the refusal.
fn upgrade<B>(request: &mut Request<B>) -> Result<(Answer, OnUpgrade), Answer> {
    match create_response_with_body(request, Full::default) {
        Ok(answer) => Ok((answer, hyper::upgrade::on(request))),
        Err(error) => {
            let error = RpcError::new(Code::InvalidRequest, "upgrade", error.to_string())
                .remedy("a WebSocket upgrade (RFC 6455), version 13");
            let mut refused = refusal(StatusCode::UPGRADE_REQUIRED, &error);
            let headers = refused.headers_mut();
            headers.insert(UPGRADES, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            Err(refused)
        }
    }
}

/// An HTTP answer that says why, as JSON-RPC would.
fn refusal(status: StatusCode, error: &RpcError) -> Answer {
    let mut body = Vec::new();
    wire::write_error(&mut body, "null", error, None);
    json(status, body)
}

fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
