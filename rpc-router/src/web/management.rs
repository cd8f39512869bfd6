//! The front gate: the management address, where those come in who are not on this machine.
//!
//! ```text
//! TCP --> TLS 1.3 --> HTTP/1.1 --> token? --> POST /rpc: one message or batch, and its answer
//!  (a stranger until then)          |     --> GET /rpc:  upgrade to WebSocket --> core
//!                                   +--> 401, and one try less
//! ```
//!
//! Who comes in is a stranger until it has shown a token that is good, and then a client of that token's role. The
//! answers and refusals to messages are the core's; the status of an HTTP answer speaks of the gate alone (401 no good
//! token, 429 too many bad ones, 413 too long, 503 too many clients), and its body says why as JSON-RPC does.
//!
//! Invariants
//! * Nothing of a request but its head is read before its token was good.
//! * Strangers are at most [`STRANGERS`], each for at most [`PROVE`]: when one more comes, the oldest of the address that
//!   has most of them makes room. Clients are at most [`CLIENTS`].
//! * Handshakes and HTTP are the work of a thread of their own: whoever knocks a thousand times in a second delays others
//!   who come from afar, and no message between services.
//! * A token that was removed, or has expired, ends what it had opened.
//! * A token is in no journal and in no answer but the first.
//!
//! It must never keep the router from starting: what is wrong here is told in `router.web` and in the journal, and tried
//! again.

use super::certificate::{self, Shown};
use super::failures::Failures;
use super::socket::{self, LINGER, linger};
use super::tokens::{self, Bad, Good, TokenError, Tokens};
use super::{Answer, HEADERS, PATH, http, json, refusal, upgrade};
use crate::pending::Ticket;
use crate::routing::Errand;
use crate::server::{Bus, Closed, Session};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pollux_api::error::{Code, RpcError};
use pollux_api::router::{MAX_MESSAGE, TokenRemove, TokenRemoved, Web};
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::Management;
use pollux_runtime::wire::{Envelope, Kind, Malformed, to_json};
use serde_json::value::RawValue;
use socket2::SockRef;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Connections that have shown no good token yet.
pub const STRANGERS: usize = 128;
/// Connections that have.
pub const CLIENTS: usize = 256;
/// Time to show a good token.
pub const PROVE: Duration = Duration::from_secs(10);
/// Time for the body of a request.
const BODY: Duration = Duration::from_secs(30);
/// A WebSocket on which nothing else is said is asked for a sign of life so often, and its token is looked at again.
const PING: Duration = Duration::from_secs(20);
/// A connection that has not acknowledged for so long is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// Pause before it is tried again to listen.
const RETRY: Duration = Duration::from_secs(1);
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// The thread of the management address; it ends with this value.
pub(crate) struct Running {
    /// Nothing is said through it; that it is gone is what is heard.
    _end: oneshot::Sender<()>,
}

impl Running {
    /// Begins to answer errands, and to listen if there is a management address.
    pub(crate) fn start(
        bus: &Arc<Bus>,
        config: &ControllerConfig,
        errands: mpsc::Receiver<(Ticket, Errand)>,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let (bus, config) = (Arc::clone(bus), config.clone());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::select! {
                    () = run(&bus, &config, errands) => {}
                    _ = ended => {}
                }
            });
            Ok::<_, io::Error>(())
        };
        let named = std::thread::Builder::new().name("management".into());
        // What it would have answered is answered `overloaded` then.
        let begun = named.spawn(move || {
            if let Err(error) = work() {
                tracing::error!(%error, "no management address: its thread cannot run");
            }
        });
        if let Err(error) = begun {
            tracing::error!(%error, "no management address: it has no thread");
        }
        Self { _end: end }
    }
}

/// Never returns.
async fn run(bus: &Arc<Bus>, config: &ControllerConfig, mut errands: mpsc::Receiver<(Ticket, Errand)>) {
    let desk = Arc::new(Desk::new(bus, config));
    let work = async {
        while let Some((ticket, errand)) = errands.recv().await {
            let removed = match &errand {
                Errand::Remove(TokenRemove { name }) => Some(name.clone()),
                _ => None,
            };
            let blocking = Arc::clone(&desk);
            let answer = tokio::task::spawn_blocking(move || blocking.carry_out(errand)).await;
            let answer = answer
                .unwrap_or_else(|error| Err(RpcError::new(Code::Internal, "router", error.to_string())));
            // Whoever removes its own token hears that it did.
            let gone = removed.filter(|_| answer.is_ok());
            bus.done(ticket, answer);
            if let Some(name) = gone {
                bus.revoked(&name);
            }
        }
    };
    let gate = async {
        match &config.management {
            Some(management) => Arc::clone(&desk).listen(management).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(work, gate);
}

/// What all connections share.
struct Desk {
    bus: Arc<Bus>,
    config: ControllerConfig,
    tokens: Result<Tokens, TokenError>,
    failures: Mutex<Failures>,
    refused: AtomicU64,
    strangers: Mutex<Vec<Stranger>>,
    numbers: AtomicU64,
    clients: Arc<Semaphore>,
    state: Mutex<State>,
}

/// How it is.
#[derive(Debug, Default)]
struct State {
    listening: bool,
    problem: Option<String>,
    certificate: Option<String>,
    fingerprint: Option<String>,
}

/// Somebody who has shown no good token yet; oldest first.
struct Stranger {
    number: u64,
    address: IpAddr,
    /// It has to make room.
    out: Arc<Notify>,
}

/// The place of a stranger, which is free again with this value.
struct Pass {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.desk.strangers).retain(|stranger| stranger.number != self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is behind one of these is left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn new(bus: &Arc<Bus>, config: &ControllerConfig) -> Self {
        let tokens = Tokens::load(&config.paths.keys);
        if let Err(error) = &tokens {
            tracing::error!(%error, "no token is good");
        }
        let problem = config
            .management
            .is_none()
            .then(|| "controller.toml has no [management]".to_owned());
        Self {
            bus: Arc::clone(bus),
            config: config.clone(),
            tokens,
            failures: Mutex::default(),
            refused: AtomicU64::new(0),
            strangers: Mutex::default(),
            numbers: AtomicU64::new(0),
            clients: Arc::new(Semaphore::new(CLIENTS)),
            state: Mutex::new(State {
                problem,
                ..State::default()
            }),
        }
    }

    fn now_unix_ms(&self) -> u64 {
        self.bus.now().unix_us / 1000
    }

    /// Waits for the disk.
    fn carry_out(&self, errand: Errand) -> Result<String, RpcError> {
        let tokens = || self.tokens.as_ref().map_err(tokens::refusal);
        match errand {
            Errand::Web => Ok(to_json(&self.web())),
            Errand::List => Ok(to_json(&tokens()?.list())),
            Errand::Add(asked) => {
                let added = tokens()?.add(&asked, self.now_unix_ms())?;
                tracing::info!(token = added.token.name, role = %added.token.role, "token made");
                Ok(to_json(&added))
            }
            Errand::Remove(asked) => {
                let TokenRemoved { removed } = tokens()?.remove(&asked)?;
                if removed {
                    tracing::info!(token = asked.name, "token removed");
                }
                Ok(to_json(&TokenRemoved { removed }))
            }
        }
    }

    fn web(&self) -> Web {
        let state = lock(&self.state);
        let management = self.config.management.as_ref();
        let broken = self.tokens.as_ref().err().map(ToString::to_string);
        Web {
            controller: self.config.controller,
            address: management.map(|management| management.socket().to_string()),
            listening: state.listening,
            problem: state.problem.clone().or(broken),
            certificate: state.certificate.clone(),
            fingerprint: state.fingerprint.clone(),
            connections: (CLIENTS - self.clients.available_permits()) as u64,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    async fn listen(self: Arc<Self>, management: &Management) {
        loop {
            match self.open(management).await {
                Ok((listener, shown)) => {
                    let Shown {
                        path,
                        fingerprint,
                        tls,
                    } = shown;
                    tracing::info!(address = %management.socket(), certificate = %path.display(), fingerprint,
                        "management address");
                    *lock(&self.state) = State {
                        listening: true,
                        problem: None,
                        certificate: Some(path.display().to_string()),
                        fingerprint: Some(fingerprint),
                    };
                    self.accept(&listener, &tls).await;
                }
                Err(problem) => {
                    let mut state = lock(&self.state);
                    if state.problem.as_ref() != Some(&problem) {
                        tracing::error!(problem, "no management address");
                        state.problem = Some(problem);
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    async fn open(self: &Arc<Self>, management: &Management) -> Result<(TcpListener, Shown), String> {
        let (desk, asked) = (Arc::clone(self), management.clone());
        let shown = tokio::task::spawn_blocking(move || certificate::load_or_make(&desk.config, &asked))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let address = management.socket();
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
        Ok((listener, shown))
    }

    /// Takes connections; never returns.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, tls: &Arc<ServerConfig>) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (pass, out) = self.enter(from.ip());
                    let visit = Arc::new(Visit {
                        desk: Arc::clone(self),
                        from,
                        pass: Mutex::new(Some(pass)),
                        slot: Mutex::default(),
                        upgraded: Mutex::default(),
                    });
                    let acceptor = TlsAcceptor::from(Arc::clone(tls));
                    tokio::spawn(async move {
                        tokio::select! {
                            () = visit.talk(stream, acceptor) => {}
                            () = out.notified() => tracing::debug!(%from, "a stranger made room"),
                            () = visit.too_long() => tracing::debug!(%from, "a stranger showed no token in time"),
                        }
                    });
                }
                Err(error) => {
                    // Usually too many open files: what closes meanwhile makes room.
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// A place for a stranger, and what tells it to leave.
    fn enter(self: &Arc<Self>, address: IpAddr) -> (Pass, Arc<Notify>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let out = Arc::new(Notify::new());
        let mut strangers = lock(&self.strangers);
        if strangers.len() >= STRANGERS {
            let place = crowded(&strangers);
            strangers.remove(place).out.notify_one();
        }
        strangers.push(Stranger {
            number,
            address,
            out: Arc::clone(&out),
        });
        let desk = Arc::clone(self);
        (Pass { desk, number }, out)
    }

    /// Whose token came with a request.
    fn authorize(&self, from: IpAddr, headers: &HeaderMap) -> Result<Good, Answer> {
        let now = Instant::now();
        let wait = lock(&self.failures).wait(from, now);
        if wait > Duration::ZERO {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let seconds = wait.as_secs() + 1;
            let what = format!("too many requests from {from} without a good token");
            let error = RpcError::new(Code::NotPermitted, "management", what);
            let error = error.remedy(format!("wait {seconds} s, and ask with a token that is good"));
            let mut answer = refusal(StatusCode::TOO_MANY_REQUESTS, &error);
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
            return Err(answer);
        }
        let why = match (bearer(headers), &self.tokens) {
            (None, _) => "there is no token",
            (Some(_), Err(_)) => "tokens cannot be read here; see `pollux management`",
            (Some(secret), Ok(tokens)) => match tokens.check(secret, self.now_unix_ms()) {
                Ok(good) => return Ok(good),
                Err(Bad::Unknown) => "the token is unknown",
                Err(Bad::Expired(name)) => {
                    tracing::warn!(%from, token = name, "a token has expired");
                    "the token has expired"
                }
            },
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let last = lock(&self.failures).wrong(from, now);
        tracing::warn!(%from, why, last, "a request was refused");
        let error = RpcError::new(Code::NotPermitted, "management", why).remedy(
            "Authorization: Bearer TOKEN, with one that `pollux token add` has made on this controller",
        );
        let mut answer = refusal(StatusCode::UNAUTHORIZED, &error);
        let bearer = HeaderValue::from_static("Bearer realm=\"pollux\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        Err(answer)
    }

    fn still(&self, good: &Good) -> bool {
        let now = self.now_unix_ms();
        self.tokens.as_ref().is_ok_and(|tokens| tokens.still(good, now))
    }
}

/// The oldest stranger of the address that has most of them.
fn crowded(strangers: &[Stranger]) -> usize {
    let of = |address: IpAddr| strangers.iter().filter(|other| other.address == address).count();
    let mut worst = (0, 0);
    for (place, stranger) in strangers.iter().enumerate() {
        let count = of(stranger.address);
        if count > worst.1 {
            worst = (place, count);
        }
    }
    worst.0
}

/// The token of a request. The scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// One connection.
struct Visit {
    desk: Arc<Desk>,
    from: SocketAddr,
    /// While it is a stranger.
    pass: Mutex<Option<Pass>>,
    /// From then on.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
    upgraded: Mutex<Option<(OnUpgrade, Good)>>,
}

impl Visit {
    /// Returns when it is a stranger still after [`PROVE`].
    async fn too_long(&self) {
        sleep(PROVE).await;
        if lock(&self.pass).is_none() {
            std::future::pending::<()>().await;
        }
    }

    async fn talk(self: &Arc<Self>, mut stream: TcpStream, acceptor: TlsAcceptor) {
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE)));
        if let Err(error) = prepared {
            tracing::debug!(from = %self.from, %error, "left at once");
            return;
        }
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first[0] != TLS_HANDSHAKE => {
                if stream.write_all(&plain()).await.is_ok() {
                    linger(stream).await;
                }
                return;
            }
            Ok(1) => {}
            _ => return,
        }
        let stream = match acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(from = %self.from, %error, "no TLS");
                return;
            }
        };
        let service = service_fn(|request| {
            let visit = Arc::clone(self);
            async move { Ok::<_, Infallible>(visit.answer(request).await) }
        });
        let serving = http()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = serving.await {
            tracing::debug!(from = %self.from, %error, "connection ended");
        }
        let upgraded = lock(&self.upgraded).take();
        if let Some((on, good)) = upgraded
            && let Ok(stream) = on.await
        {
            let session = self.session(&good);
            let lapsed = async {
                while self.desk.still(&good) {
                    sleep(PING).await;
                }
                "its token is good no longer".to_owned()
            };
            let end = socket::talk(TokioIo::new(stream), &session, PING, lapsed).await;
            tracing::debug!(from = %self.from, token = good.name, %end, "WebSocket ended");
        }
    }

    fn session(&self, good: &Good) -> Session {
        Session::afar(&self.desk.bus, &good.name, good.role)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let good = match self.desk.authorize(self.from.ip(), request.headers()) {
            Ok(good) => good,
            Err(refused) => return refused,
        };
        if let Err(refused) = self.admit(&good) {
            return refused;
        }
        if request.uri().path() != PATH {
            let what = format!("nothing is at {}", request.uri().path());
            let error = RpcError::new(Code::NotFound, "management", what).remedy(format!("POST {PATH}"));
            return refusal(StatusCode::NOT_FOUND, &error);
        }
        match *request.method() {
            Method::POST => self.post(&good, request.into_body()).await,
            Method::GET => self.upgrade(good, request),
            _ => {
                let what = format!("{} {PATH}", request.method());
                let error = RpcError::new(Code::InvalidRequest, "management", what)
                    .remedy(format!("POST {PATH}, or GET {PATH} for a WebSocket"));
                let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, &error);
                refused
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, POST"));
                refused
            }
        }
    }

    /// A stranger becomes a client.
    fn admit(&self, good: &Good) -> Result<(), Answer> {
        let mut slot = lock(&self.slot);
        if slot.is_none() {
            let Ok(permit) = Arc::clone(&self.desk.clients).try_acquire_owned() else {
                let what = format!("{CLIENTS} connections are served");
                let error = RpcError::new(Code::Overloaded, "management", what).remedy("ask again later");
                return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, &error));
            };
            *slot = Some(permit);
            *lock(&self.pass) = None;
            tracing::debug!(from = %self.from, token = good.name, role = %good.role, "came in");
        }
        Ok(())
    }

    fn upgrade(&self, good: Good, mut request: Request<Incoming>) -> Answer {
        match upgrade(&mut request) {
            Ok((answer, on)) => {
                *lock(&self.upgraded) = Some((on, good));
                answer
            }
            Err(refused) => refused,
        }
    }

    async fn post(&self, good: &Good, body: Incoming) -> Answer {
        let text = match timeout(BODY, whole(body)).await {
            Ok(Ok(text)) => text,
            Ok(Err(refused)) => return refused,
            Err(_) => {
                let what = format!("the body did not come within {} s", BODY.as_secs());
                let error = RpcError::new(Code::InvalidRequest, "management", what);
                return refusal(StatusCode::REQUEST_TIMEOUT, &error);
            }
        };
        let session = self.session(good);
        let closed = |why: String| {
            let error = RpcError::new(Code::NotPermitted, "management", why).remedy("ask with a good token");
            refusal(StatusCode::UNAUTHORIZED, &error)
        };
        // Whoever removed it meanwhile did not find this session.
        if !self.desk.still(good) {
            return closed("the token is good no longer".to_owned());
        }
        self.desk.bus.receive_whole(session.id(), &text);
        if !is_answered(&text) {
            let mut answer: Answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            return answer;
        }
        let mut line = Vec::new();
        loop {
            if let Err(Closed(why)) = session.queue().some(&mut line, 1).await
                && !session.queue().rest(&mut line, 1)
            {
                return closed(why);
            }
            if is_answer(&line) {
                return json(StatusCode::OK, line);
            }
        }
    }
}

/// The body of a request; what is too long is read away, so that its sender hears the refusal.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Answer> {
    let (mut text, mut taken) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let error = RpcError::new(Code::InvalidRequest, "management", "the body broke off");
            return Err(refusal(StatusCode::BAD_REQUEST, &error));
        };
        let Ok(bytes) = frame.into_data() else { continue };
        taken += bytes.len();
        if taken <= MAX_MESSAGE {
            text.extend_from_slice(&bytes);
        } else {
            text = Vec::new();
        }
        if taken > LINGER {
            break;
        }
    }
    if taken > MAX_MESSAGE {
        let error = RpcError::from(Malformed::TooLong);
        return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, &error));
    }
    Ok(text)
}

/// Whether the core answers a text: all but notifications and answers.
fn is_answered(text: &[u8]) -> bool {
    let one = |message: &[u8]| match Envelope::parse(message) {
        Ok(envelope) => !matches!(
            envelope.kind(),
            Ok(Kind::Notification { .. } | Kind::Answer { .. })
        ),
        Err(_) => true,
    };
    match serde_json::from_slice::<Vec<&RawValue>>(text) {
        Ok(parts) => parts.is_empty() || parts.iter().any(|part| one(part.get().as_bytes())),
        Err(_) => one(text.trim_ascii()),
    }
}

/// Whether a line is an answer: a request that subscribed may get events before.
fn is_answer(line: &[u8]) -> bool {
    let answer = |envelope: Envelope<'_>| matches!(envelope.kind(), Ok(Kind::Answer { .. }));
    line.starts_with(b"[") || Envelope::parse(line).is_ok_and(answer)
}

/// What somebody is told who speaks HTTP without TLS.
fn plain() -> Bytes {
    let error = RpcError::new(Code::InvalidRequest, "management", "this is no TLS")
        .remedy("https://, TLS 1.3; no request is read without it");
    let body = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{}}}"#, to_json(&error));
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}\n", body.len() + 1).into()
}

const _: () = assert!(HEADERS >= 8 << 10, "hyper wants at least 8 KiB");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_and_what_is_an_answer() {
        let request = r#"{"jsonrpc":"2.0","id":1,"method":"x.y"}"#;
        let note = r#"{"jsonrpc":"2.0","method":"x.y"}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":1}"#;
        for (text, answered) in [
            (request.to_owned(), true),
            (note.to_owned(), false),
            (format!(" {note}\n"), false),
            (answer.to_owned(), false),
            (format!("[{note},{answer}]"), false),
            (format!("[{note},{request}]"), true),
            ("[]".into(), true),
            ("[1]".into(), true),
            (String::new(), true),
            ("hello".into(), true),
            (format!("[{note}"), true),
        ] {
            assert_eq!(is_answered(text.as_bytes()), answered, "{text}");
        }
        assert!(is_answer(answer.as_bytes()) && is_answer(b"[]") && !is_answer(note.as_bytes()));
    }

    #[test]
    fn the_oldest_of_the_most_crowded_address_makes_room() {
        let strangers: Vec<Stranger> = [1, 2, 3, 2, 3, 3, 1]
            .into_iter()
            .enumerate()
            .map(|(number, last)| Stranger {
                number: number as u64,
                address: IpAddr::from([10, 0, 0, last]),
                out: Arc::default(),
            })
            .collect();
        assert_eq!(crowded(&strangers), 2);
        assert_eq!(crowded(&strangers[..3]), 0);
    }

    #[test]
    fn a_token_is_found_in_its_header_alone() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for wrong in ["abc", "Basic abc", "Bearer", ""] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
