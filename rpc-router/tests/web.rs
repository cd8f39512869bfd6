//! The switchboard through its side doors: what a line is answered, a WebSocket is answered too, and whoever behaves
//! badly there disturbs nobody.

mod common;

use common::{BOUND, Pair, Until, call, echo, say};
use futures_util::{SinkExt, StreamExt};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::role::Role;
use pollux_api::router::{
    MAX_MESSAGE, STATUS, Status, TOKEN_ADD, TOKEN_LIST, TOKEN_REMOVE, TRACE, Token, TokenAdd, TokenAdded,
    TokenRemove, TokenRemoved, TraceReport, WEB, Web,
};
use pollux_api::template;
use pollux_platform::file::raise_descriptors;
use pollux_rpc_router::web::certificate::{CERTIFICATE, KEY};
use pollux_rpc_router::web::management::{CLIENTS, STRANGERS};
use pollux_rpc_router::web::tokens::FILE;
use pollux_runtime::{Client, Ctx, Service};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::{WebSocketStream, client_async};

const A: ControllerId = ControllerId::A;
const ACTION: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// One router with a service that answers, and its socket.
struct House {
    _pair: Pair,
    socket: PathBuf,
    client: Client,
    _echo: pollux_runtime::Service,
}

impl House {
    async fn new() -> Self {
        let mut pair = Pair::new();
        pair.start(A);
        let service = echo(&pair.config(A));
        service.registered().await;
        Self {
            socket: pair.config(A).paths.router_socket(),
            client: pair.client(A).await,
            _pair: pair,
            _echo: service,
        }
    }

    async fn upgraded(&self) -> WebSocketStream<UnixStream> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        client_async("ws://localhost/rpc", stream).await.unwrap().0
    }

    /// Everybody else is served.
    async fn well(&self) {
        assert_eq!(call(&self.client, "echo.back", "well").await.unwrap(), "well");
    }
}

fn request(id: u64, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "action_id": ACTION, "method": method, "params": params }).to_string()
}

/// The next text message.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Value {
    loop {
        let message = timeout(BOUND, socket.next()).await.unwrap().unwrap().unwrap();
        match message {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, text: &str) -> Value {
    socket.send(Message::text(text)).await.unwrap();
    hear(socket).await
}

/// Code and reason with which the other side closes.
async fn closing<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> (CloseCode, String) {
    match timeout(BOUND, socket.next()).await.unwrap().unwrap().unwrap() {
        Message::Close(Some(frame)) => (frame.code, frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Messages that every door answers alike, but for times.
fn session() -> Vec<String> {
    vec![
        request(1, "echo.back", &json!("hi")),
        request(2, "nobody.home", &Value::Null),
        request(3, "echo.forth", &Value::Null),
        request(4, "c/echo.back", &Value::Null),
        format!(
            "[{},{}]",
            request(5, "echo.back", &json!("one")),
            r#"{"jsonrpc":"2.0","method":"echo.none"}"#
        ),
        "[]".into(),
        r#"{"jsonrpc":"1.0","id":6,"method":"echo.back"}"#.into(),
        r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"echo.back"}"#.into(),
        r#"{"jsonrpc":"2.0","id":9,"method":"echo.back","params":"#.to_owned() + &"[".repeat(70),
    ]
}

#[tokio::test]
async fn a_websocket_is_answered_as_a_line_is() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    for text in session() {
        let line: Value = serde_json::from_str(&say(&house.socket, &format!("{text}\n")).await).unwrap();
        assert_eq!(ask(&mut socket, &text).await, line, "{text}");
    }
    let answer = ask(&mut socket, &request(1, "echo.back", &json!("hi"))).await;
    assert_eq!(answer["action_id"], ACTION);
    // A text with line breaks is one message still.
    let broken = request(2, "echo.back", &json!("hi")).replace(',', "\n,\n");
    assert_eq!(ask(&mut socket, &broken).await["result"], "hi");
    // The router calls a client too: who registers here is a service.
    let register = json!({ "name": "side", "version": "0", "rank": 70,
        "methods": [{ "name": "side.x", "idempotent": true }] });
    assert_eq!(
        ask(&mut socket, &request(3, "router.register", &register)).await["result"]["controller"],
        "a"
    );
    let ctx = Ctx::new(BOUND);
    let serving = async {
        let asked = hear(&mut socket).await;
        assert_eq!(
            (&asked["method"], &asked["from"]),
            (&json!("side.x"), &json!("a/shell"))
        );
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": 7 });
        socket.send(Message::text(answer.to_string())).await.unwrap();
    };
    let (answer, ()) = tokio::join!(house.client.call::<_, u64>("side.x", &(), &ctx), serving);
    assert_eq!(answer.unwrap(), 7);
    // And it is gone with its connection.
    drop(socket);
    house
        .client
        .until(STATUS, |status: &Status| status.services.len() == 1)
        .await;
}

#[tokio::test]
async fn events_come_as_messages() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    let topics = json!({ "topics": ["echo.said"] });
    let answer = ask(&mut socket, &request(1, "router.subscribe", &topics)).await;
    assert_eq!(answer["result"], topics);
    house
        ._echo
        .client()
        .publish("echo.said", &json!({ "word": 1 }), &Ctx::new(BOUND))
        .unwrap();
    let event = hear(&mut socket).await;
    assert_eq!(event["method"], "router.event");
    assert_eq!(event["params"]["payload"], json!({ "word": 1 }));
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_costs_nothing_else() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    for (text, named) in [
        ("", "an empty text"),
        (" \n ", "an empty text"),
        ("hello", "no JSON object"),
        (r#"{"jsonrpc":"2.0","id":1"#, "ends before"),
        (r#"{"jsonrpc":"2.0"}{"jsonrpc":"2.0"}"#, "more than one"),
    ] {
        let answer = ask(&mut socket, text).await;
        let what = answer["error"]["data"]["what"].as_str().unwrap();
        assert!(what.contains(named) && answer["id"].is_null(), "{text}: {answer}");
    }
    socket.send(Message::binary(&b"{}"[..])).await.unwrap();
    let answer = hear(&mut socket).await;
    assert_eq!(answer["error"]["data"]["what"], "a binary message of 2 bytes");
    assert_eq!(
        ask(&mut socket, &request(1, "echo.back", &json!("after"))).await["result"],
        "after"
    );
    house.well().await;
}

#[tokio::test]
async fn fragments_are_one_message_and_together_no_longer_than_one() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    let fragment = |bytes: Vec<u8>, data, last| {
        Message::Frame(Frame::from_payload(
            FrameHeader {
                is_final: last,
                opcode: OpCode::Data(data),
                ..FrameHeader::default()
            },
            bytes.into(),
        ))
    };
    let whole = request(1, "echo.back", &json!("in pieces"));
    let (first, last) = whole.as_bytes().split_at(20);
    socket
        .send(fragment(first.into(), Data::Text, false))
        .await
        .unwrap();
    socket.send(Message::Ping("between".into())).await.unwrap();
    socket
        .send(fragment(last.into(), Data::Continue, true))
        .await
        .unwrap();
    let pong = timeout(BOUND, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(pong.is_pong(), "{pong:?}");
    assert_eq!(hear(&mut socket).await["result"], "in pieces");
    // One byte more than a message may have, in five pieces.
    let piece = vec![b' '; MAX_MESSAGE / 4];
    socket
        .feed(fragment(piece.clone(), Data::Text, false))
        .await
        .unwrap();
    for _ in 0..3 {
        socket
            .feed(fragment(piece.clone(), Data::Continue, false))
            .await
            .unwrap();
    }
    socket
        .feed(fragment(vec![b' '], Data::Continue, true))
        .await
        .unwrap();
    socket.flush().await.unwrap();
    assert_eq!(hear(&mut socket).await["error"]["message"], "parse_error");
    let (code, reason) = closing(&mut socket).await;
    assert_eq!(code, CloseCode::Size);
    assert!(reason.contains(&MAX_MESSAGE.to_string()), "{reason}");
    house.well().await;
}

#[tokio::test]
async fn a_message_has_the_length_of_a_line_and_no_more() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    let padded = |length: usize| {
        let empty = request(1, "echo.back", &json!(""));
        request(1, "echo.back", &json!("x".repeat(length - empty.len())))
    };
    // The answer is longer than the question and no longer than a message may be.
    let fits = padded(MAX_MESSAGE - 256);
    let answer = ask(&mut socket, &fits).await;
    assert!(answer["result"].as_str().unwrap().len() > MAX_MESSAGE - 512);
    // What is longer is refused by its head, however much follows.
    let long = Message::text("x".repeat(8 * MAX_MESSAGE));
    let _ = socket.send(long).await;
    assert_eq!(
        hear(&mut socket).await["error"]["data"]["what"],
        "message too long"
    );
    assert_eq!(closing(&mut socket).await.0, CloseCode::Size);
    house.well().await;
}

#[tokio::test]
async fn who_sends_and_never_reads_is_disconnected() {
    let house = House::new().await;
    let mut socket = house.upgraded().await;
    let text = request(1, "echo.back", &json!("x".repeat(32 << 10)));
    let flooding = async {
        for _ in 0..100_000 {
            if socket.send(Message::text(text.as_str())).await.is_err() {
                return true;
            }
        }
        false
    };
    let beside = async {
        for _ in 0..20 {
            house.well().await;
        }
    };
    let (ended, ()) = tokio::join!(timeout(BOUND, flooding), beside);
    assert!(ended.unwrap(), "3 GB of answers were queued");
    house.well().await;
}

/// What is answered to these bytes until the router closes.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&house.socket).await.unwrap();
    // It may have been closed before all was written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(BOUND, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

const UPGRADE: &str = "GET /rpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_bad_upgrade_is_refused_clearly() {
    let house = House::new().await;
    for (head, status, named) in [
        (
            "GET /rpc HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "426",
            "RFC 6455",
        ),
        (UPGRADE.replace("n: 13", "n: 12") + "\r\n", "426", "version 13"),
        (
            UPGRADE.replace("/rpc", "/there") + "\r\n",
            "404",
            "nothing is at /there",
        ),
        (
            "GET /rpc HTTP/1.1\r\nHost: x\r\n\r\n".replace("/1.1", "/7.1"),
            "400",
            "",
        ),
        (UPGRADE.to_owned() + &"X: y\r\n".repeat(100) + "\r\n", "431", ""),
        (
            UPGRADE.to_owned() + "X: " + &"y".repeat(64 << 10) + "\r\n\r\n",
            "431",
            "",
        ),
    ] {
        let answer = raw(&house, head.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(named),
            "{head:.80}: {answer}"
        );
        house.well().await;
    }
    // What begins otherwise is a line, whatever it looks like.
    for line in ["GETTING /rpc\n", "POST /rpc HTTP/1.1\n", "GE\n"] {
        let answer = say(&house.socket, line).await;
        assert!(answer.contains("parse_error"), "{line}: {answer}");
    }
}

#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let house = House::new().await;
    let mut stream = UnixStream::connect(&house.socket).await.unwrap();
    for byte in (UPGRADE.to_owned() + "\r\n").bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 12];
    timeout(BOUND, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    // Who stops in the middle of a word is a line that has not ended, and says so when it leaves.
    assert!(say(&house.socket, "GE").await.contains("parse_error"));
}

#[tokio::test]
async fn who_does_not_finish_an_upgrade_is_let_go() {
    let house = House::new().await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&house.socket).await.unwrap();
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    house.well().await;
    for mut stream in streams {
        let mut rest = Vec::new();
        // A head that never ends is not answered.
        let ended = timeout(BOUND, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still there after {BOUND:?}");
    }
}

/// One router with a management address, and a service of the contract.
struct Gate {
    pair: Pair,
    client: Client,
    address: SocketAddr,
    _template: Service,
}

/// What an HTTP server answered.
#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: String,
}

impl Answered {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The service `template` of the contract: it keeps a phrase.
fn template_service(pair: &Pair, controller: ControllerId) -> Service {
    let kept = Arc::new(Mutex::new("hello".to_owned()));
    let shown = Arc::clone(&kept);
    Service::of::<template::Contract>()
        .serve::<template::STATUS>(move |_: Ctx, ()| {
            let phrase = shown.lock().unwrap().clone();
            async { Ok(template::Status { phrase, heard: 0 }) }
        })
        .serve::<template::SET>(move |_: Ctx, template::Phrase { phrase }| {
            *kept.lock().unwrap() = phrase;
            async { Ok(template::Changed { changed: true }) }
        })
        .serve::<template::COUNT>(|_: Ctx, _: template::Count| async {
            Err(RpcError::new(Code::Refused, "template", "it does not count here"))
        })
        .start(&pair.config(controller))
}

impl Gate {
    async fn new() -> Self {
        let mut pair = Pair::new();
        pair.manage(A);
        pair.start(A);
        Self::of(pair).await
    }

    async fn of(pair: Pair) -> Self {
        let service = template_service(&pair, A);
        service.registered().await;
        let client = pair.client(A).await;
        client.until(WEB, |web: &Web| web.listening).await;
        Self {
            address: pair.config(A).management.unwrap().socket(),
            client,
            pair,
            _template: service,
        }
    }

    async fn token(&self, name: &str, role: Role) -> String {
        let asked = TokenAdd {
            name: name.into(),
            role,
            expires_days: Some(1),
        };
        let ctx = Ctx::new(BOUND);
        let added: TokenAdded = self.client.call(TOKEN_ADD, &asked, &ctx).await.unwrap();
        added.secret
    }

    async fn remove(&self, name: &str) -> bool {
        let asked = TokenRemove { name: name.into() };
        let ctx = Ctx::new(BOUND);
        let removed: TokenRemoved = self.client.call(TOKEN_REMOVE, &asked, &ctx).await.unwrap();
        removed.removed
    }

    async fn web(&self) -> Web {
        self.client.until(WEB, |_| true).await
    }

    fn connector(&self) -> TlsConnector {
        let file = self.pair.config(A).paths.keys.join(CERTIFICATE);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// A session that the certificate of the key store has vouched for.
    async fn tls(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        let connected = self.connector().connect(name, stream);
        timeout(BOUND, connected).await.unwrap().unwrap()
    }

    /// What is answered to these bytes until the router closes.
    async fn raw(&self, bytes: &[u8]) -> Answered {
        let mut stream = self.tls().await;
        // It may have been closed before all was written; what TLS keeps back has to go out too.
        if stream.write_all(bytes).await.is_ok() {
            let _ = stream.flush().await;
        }
        let mut answer = Vec::new();
        let _ = timeout(BOUND, stream.read_to_end(&mut answer)).await.unwrap();
        Answered::of(&String::from_utf8_lossy(&answer))
    }

    async fn post(&self, token: &str, body: &str) -> Answered {
        let head = format!(
            "POST /rpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.raw((head + body).as_bytes()).await
    }

    async fn websocket(&self, token: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        let mut request = format!("wss://{}/rpc", self.address)
            .into_client_request()
            .unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        let stream = self.tls().await;
        timeout(BOUND, client_async(request, stream))
            .await
            .unwrap()
            .unwrap()
            .0
    }

    fn memory(&self) -> usize {
        let router = self.pair.routers[0].as_ref().unwrap().0.id();
        let status = std::fs::read_to_string(format!("/proc/{router}/status")).unwrap();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.unwrap().trim().parse::<usize>().unwrap() << 10
    }

    /// Those on the controller are served, and memory is bounded.
    async fn well(&self, bytes: usize) {
        let status: template::Status = self
            .client
            .call(template::STATUS, &(), &Ctx::new(BOUND))
            .await
            .unwrap();
        assert!(!status.phrase.is_empty());
        let held = self.memory();
        println!("the router holds {} KiB", held >> 10);
        assert!(held < bytes, "the router holds {held} bytes, more than {bytes}");
    }
}

const STATUS_OF_TEMPLATE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"template.status"}"#;
/// What the router may hold in rough company.
const MEMORY: usize = 64 << 20;

/// Without what may differ: how long the router has been running.
fn lasting(mut answer: Value) -> Value {
    if let Some(remedy) = answer.pointer_mut("/error/data/remedy") {
        *remedy = Value::Null;
    }
    answer
}

#[tokio::test]
async fn a_session_is_answered_alike_at_every_door() {
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Operator).await;
    let socket = gate.pair.config(A).paths.router_socket();
    let stream = UnixStream::connect(&socket).await.unwrap();
    let (mut local, _) = client_async("ws://localhost/rpc", stream).await.unwrap();
    let mut remote = gate.websocket(&token).await;
    for text in [
        request(1, template::SET, &json!({ "phrase": "new" })),
        request(2, template::STATUS, &Value::Null),
        request(3, template::SET, &json!({ "phrase": 7 })),
        request(4, "config.status", &Value::Null),
        request(5, "partner/router.status", &Value::Null),
        request(6, "c/router.status", &Value::Null),
        request(7, "template.count", &json!({ "to": 1, "pause_ms": 1 })),
        format!(
            "[{},{}]",
            request(8, template::STATUS, &Value::Null),
            r#"{"jsonrpc":"2.0","method":"x.y"}"#
        ),
        "[]".into(),
        "[1]".into(),
        "hello".into(),
        r#"{"jsonrpc":"1.0","id":6,"method":"template.status"}"#.into(),
        r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"template.status"}"#.into(),
    ] {
        let line = say(&socket, &format!("{text}\n")).await;
        let line: Value = lasting(serde_json::from_str(&line).unwrap());
        assert_eq!(lasting(ask(&mut local, &text).await), line, "{text}");
        assert_eq!(lasting(ask(&mut remote, &text).await), line, "{text}");
        let posted = gate.post(&token, &text).await;
        assert_eq!(
            (posted.status, lasting(posted.json())),
            (200, line.clone()),
            "{text}"
        );
        if text.contains(ACTION) && !text.starts_with('[') {
            assert_eq!(line["action_id"], ACTION, "{text}");
        }
    }
    // What nobody answers.
    let note = r#"{"jsonrpc":"2.0","method":"template.none"}"#;
    for text in [note.to_owned(), format!("[{note}]")] {
        let posted = gate.post(&token, &text).await;
        assert_eq!((posted.status, posted.body.as_str()), (204, ""));
    }
    assert_eq!(gate.web().await.connections, 1);
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Viewer).await;
    let mut stream = gate.tls().await;
    let head = format!(
        "POST /rpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{STATUS_OF_TEMPLATE}",
        STATUS_OF_TEMPLATE.len()
    );
    for _ in 0..3 {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("}\n") {
            let byte = timeout(BOUND, stream.read_u8()).await.unwrap().unwrap();
            answer.push(byte.into());
        }
        assert_eq!(Answered::of(&answer).json()["result"]["phrase"], "hello");
    }
    // Nothing is left behind by those that have ended.
    let trace: TraceReport = gate
        .client
        .call(TRACE, &json!({}), &Ctx::new(BOUND))
        .await
        .unwrap();
    assert_eq!(
        trace
            .records
            .iter()
            .filter(|record| record.from == "a/web:ops")
            .count(),
        3
    );
}

#[tokio::test]
async fn only_a_token_that_is_good_opens() {
    let gate = Gate::new().await;
    let good = gate.token("good", Role::Viewer).await;
    let gone = gate.token("gone", Role::Admin).await;
    assert!(gate.remove("gone").await && !gate.remove("gone").await);
    let nothing = gate
        .raw(b"POST /rpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    let wrong = format!("pollux_{}", "0".repeat(64));
    let refused = [
        (nothing, "there is no token"),
        (gate.post("", STATUS_OF_TEMPLATE).await, "there is no token"),
        (gate.post(&wrong, STATUS_OF_TEMPLATE).await, "unknown"),
        (gate.post(&gone, STATUS_OF_TEMPLATE).await, "unknown"),
        (
            gate.post(&good[..good.len() - 1], STATUS_OF_TEMPLATE).await,
            "unknown",
        ),
    ];
    let count = refused.len() as u64;
    for (answer, why) in refused {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        let error = &answer.json()["error"];
        assert_eq!(error["message"], "not_permitted");
        assert!(error["data"]["what"].as_str().unwrap().contains(why), "{error}");
    }
    assert_eq!(gate.web().await.refused, count);
    assert_eq!(
        gate.post(&good, STATUS_OF_TEMPLATE).await.json()["result"]["phrase"],
        "hello"
    );
    // What is kept is no token, and nobody else can read it.
    let kept = gate.pair.config(A).paths.keys.join(FILE);
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!std::fs::read_to_string(kept).unwrap().contains(&good[7..]));
    let listed: Vec<Token> = gate.client.call(TOKEN_LIST, &(), &Ctx::new(BOUND)).await.unwrap();
    assert_eq!(
        listed.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(),
        ["good"]
    );
}

#[tokio::test]
async fn a_token_that_has_expired_opens_no_longer() {
    let mut gate = Gate::new().await;
    let token = gate.token("brief", Role::Viewer).await;
    assert_eq!(gate.post(&token, STATUS_OF_TEMPLATE).await.status, 200);
    // A day passes while the router is down.
    gate.pair.kill(A);
    let file = gate.pair.config(A).paths.keys.join(FILE);
    let mut board: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    board["tokens"][0]["expires_unix_ms"] = 1.into();
    std::fs::write(&file, board.to_string()).unwrap();
    gate.pair.start(A);
    let client = gate.pair.client(A).await;
    client.until(WEB, |web: &Web| web.listening).await;
    let answer = gate.post(&token, STATUS_OF_TEMPLATE).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json()["error"]["data"]["what"], "the token has expired");
}

#[tokio::test]
async fn who_is_wrong_too_often_has_to_wait() {
    let gate = Gate::new().await;
    let good = gate.token("good", Role::Viewer).await;
    let mut open = gate.websocket(&good).await;
    for _ in 0..10 {
        assert_eq!(gate.post("wrong", STATUS_OF_TEMPLATE).await.status, 401);
    }
    let answer = gate.post(&good, STATUS_OF_TEMPLATE).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    assert_eq!(gate.web().await.refused, 11);
    // Who is in already is not concerned.
    assert_eq!(
        ask(&mut open, STATUS_OF_TEMPLATE).await["result"]["phrase"],
        "hello"
    );
}

#[tokio::test]
async fn each_role_opens_its_methods_and_none_above() {
    let gate = Gate::new().await;
    let register = json!({ "name": "echo", "version": "0", "rank": 70, "methods": [] });
    let set = json!({ "phrase": "x" });
    for (role, open, shut, enough) in [
        (
            Role::Viewer,
            (template::STATUS, Value::Null),
            (template::SET, set.clone()),
            "operator or admin",
        ),
        (
            Role::Operator,
            (template::SET, set),
            ("heartbeat.open_alone", Value::Null),
            "a token of role admin",
        ),
        (
            Role::Admin,
            (TOKEN_LIST, Value::Null),
            ("router.register", register),
            "on the controller itself",
        ),
    ] {
        let token = gate.token(role.as_str(), role).await;
        let mut socket = gate.websocket(&token).await;
        let answer = ask(&mut socket, &request(1, open.0, &open.1)).await;
        assert!(answer["error"].is_null(), "{answer}");
        for prefix in ["", "a/", "partner/"] {
            let answer = ask(&mut socket, &request(2, &format!("{prefix}{}", shut.0), &shut.1)).await;
            let error: RpcError = serde_json::from_value(answer["error"].clone()).unwrap();
            assert!(error.is(Code::NotPermitted), "{error}");
            assert!(error.data.remedy.contains(enough), "{error}");
            assert!(error.data.what.contains(&format!("a/web:{role}")), "{error}");
            assert!(error.data.what.contains(shut.0), "{error}");
        }
        // What the contract does not know is shut for all.
        let answer = ask(&mut socket, &request(3, "echo.back", &json!("x"))).await;
        assert_eq!(answer["error"]["message"], "not_permitted");
    }
    let status: Status = gate.client.until(STATUS, |_| true).await;
    assert_eq!(status.services.len(), 1, "somebody registered from afar");
}

#[tokio::test]
async fn an_admin_gives_tokens_away_from_afar() {
    let gate = Gate::new().await;
    let admin = gate.token("admin", Role::Admin).await;
    let asked = json!({ "name": "eye", "role": "viewer" });
    let added = gate.post(&admin, &request(1, TOKEN_ADD, &asked)).await.json();
    let eye = added["result"]["secret"].as_str().unwrap().to_owned();
    let mut socket = gate.websocket(&eye).await;
    assert_eq!(
        ask(&mut socket, STATUS_OF_TEMPLATE).await["result"]["phrase"],
        "hello"
    );
    // Its removal ends what it had opened; whoever removes its own hears that it did.
    let removed = gate
        .post(&admin, &request(2, TOKEN_REMOVE, &json!({ "name": "eye" })))
        .await;
    assert_eq!(removed.json()["result"]["removed"], true);
    let (code, reason) = closing(&mut socket).await;
    assert_eq!(code, CloseCode::Policy);
    assert_eq!(reason, "its token was removed");
    let removed = gate
        .post(&admin, &request(3, TOKEN_REMOVE, &json!({ "name": "admin" })))
        .await;
    assert_eq!(
        (removed.status, &removed.json()["result"]["removed"]),
        (200, &json!(true))
    );
    assert_eq!(gate.post(&admin, STATUS_OF_TEMPLATE).await.status, 401);
}

#[tokio::test]
async fn events_reach_those_who_are_far_away() {
    let gate = Gate::new().await;
    let token = gate.token("eye", Role::Viewer).await;
    let mut socket = gate.websocket(&token).await;
    let topics = |topic: &str| json!({ "topics": [topic] });
    let answer = ask(
        &mut socket,
        &request(1, "router.subscribe", &topics(template::CHANGED)),
    )
    .await;
    assert_eq!(answer["result"], topics(template::CHANGED));
    let said = json!({ "phrase": "new" });
    gate._template
        .client()
        .publish(template::CHANGED, &said, &Ctx::new(BOUND))
        .unwrap();
    let event = hear(&mut socket).await;
    assert_eq!(
        (&event["method"], &event["params"]["payload"]),
        (&json!("router.event"), &said)
    );
    // A topic that the contract does not know is as shut as a method.
    let answer = ask(&mut socket, &request(2, "router.subscribe", &topics("echo.said"))).await;
    assert_eq!(answer["error"]["message"], "not_permitted");
}

#[tokio::test]
async fn the_partner_is_reached_and_both_books_say_by_whom() {
    let pair = Pair::new();
    pair.manage(A);
    let mut pair = pair;
    pair.start(A);
    pair.start(ControllerId::B);
    let there = template_service(&pair, ControllerId::B);
    there.registered().await;
    let gate = Gate::of(pair).await;
    gate.client.until(STATUS, |status: &Status| status.link.up).await;
    let token = gate.token("ops", Role::Operator).await;
    let text = request(1, "partner/template.set", &json!({ "phrase": "x" }));
    assert_eq!(gate.post(&token, &text).await.json()["result"]["changed"], true);
    for controller in ControllerId::ALL {
        let client = gate.pair.client(controller).await;
        let trace = json!({ "action_id": ACTION, "local": true });
        let report: TraceReport = client.call(TRACE, &trace, &Ctx::new(BOUND)).await.unwrap();
        let record = &report.records[0];
        assert_eq!(
            (record.from.as_str(), record.to.as_str()),
            ("a/web:ops", "b/template"),
            "{controller}"
        );
    }
}

/// `...` stands for anything.
fn matches(answer: &str, expected: &str) -> bool {
    let mut rest = answer.trim_end();
    let parts: Vec<&str> = expected.split("...").collect();
    parts.iter().enumerate().all(|(number, part)| {
        let found = if number == 0 {
            rest.starts_with(part).then_some(0)
        } else if number + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        found.is_some_and(|at| {
            rest = &rest[at + part.len()..];
            true
        })
    })
}

#[tokio::test]
async fn the_session_from_afar_is_what_is_answered() {
    let mut pair = Pair::new();
    pair.manage(A);
    pair.start(A);
    pair.start(ControllerId::B);
    let gate = Gate::of(pair).await;
    gate.client.until(STATUS, |status: &Status| status.link.up).await;
    let token = gate.token("ops", Role::Operator).await;
    let mut socket = gate.websocket(&token).await;
    let readme = include_str!("../README.md").split("## From afar").nth(1).unwrap();
    let session = readme
        .split("```console\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let (mut lines, mut door, mut typed) = (session.lines(), "", 0);
    while let Some(line) = lines.next() {
        if line.starts_with('$') {
            door = line;
            continue;
        }
        let expected = lines.next().unwrap();
        let answer = if door.contains("curl") {
            gate.post(&token, line).await.body
        } else {
            assert!(door.contains("websocat"), "{door}");
            socket.send(Message::text(line)).await.unwrap();
            timeout(BOUND, socket.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap()
                .to_string()
        };
        assert!(matches(&answer, expected), "{line}: {answer}");
        typed += 1;
    }
    assert_eq!(typed, 4);
}

#[tokio::test]
async fn what_is_no_tls_is_told_so() {
    let gate = Gate::new().await;
    let mut stream = TcpStream::connect(gate.address).await.unwrap();
    stream
        .write_all(b"POST /rpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(BOUND, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = Answered::of(&answer);
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["error"]["data"]["remedy"]
            .as_str()
            .unwrap()
            .contains("https://")
    );
    gate.well(MEMORY).await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let gate = Gate::new().await;
    let token = gate.token("eye", Role::Viewer).await;
    let head = |line: &str, more: &str| {
        format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
        )
    };
    for (bytes, status, named) in [
        (
            head("POST /there", "Content-Length: 0\r\n"),
            404,
            "nothing is at /there",
        ),
        (head("DELETE /rpc", ""), 405, "allow: get, post"),
        (head("GET /rpc", ""), 426, "sec-websocket-version: 13"),
        (head("POST /rpc", "Content-Length: 0\r\n"), 200, "an empty text"),
        (
            head("POST /rpc", "Content-Length: 3\r\n") + "xyz",
            200,
            "parse_error",
        ),
        (head("POST /rpc", &"X: y\r\n".repeat(100)), 431, ""),
        (
            head("POST /rpc", &format!("X: {}\r\n", "y".repeat(64 << 10))),
            431,
            "",
        ),
        ("POST\r\n\r\n".to_owned(), 400, ""),
    ] {
        let answer = gate.raw(bytes.as_bytes()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(
            answer.head.contains(named) || answer.body.contains(named),
            "{answer:?}"
        );
    }
    gate.well(MEMORY).await;
}

#[tokio::test]
async fn a_request_has_the_length_of_a_line_and_no_more() {
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Operator).await;
    let padded = |length: usize| {
        let text = |phrase: &str| request(1, template::SET, &json!({ "phrase": phrase }));
        text(&"x".repeat(length - text("").len()))
    };
    let answer = gate.post(&token, &padded(MAX_MESSAGE - 256)).await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.json()["result"]["changed"], true);
    let answer = gate.post(&token, STATUS_OF_TEMPLATE).await.json();
    assert!(answer["result"]["phrase"].as_str().unwrap().len() > MAX_MESSAGE - 512);
    let answer = gate.post(&token, &padded(MAX_MESSAGE + 1)).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (413, &json!("parse_error"))
    );
    let answer = gate.post(&token, &padded(8 * MAX_MESSAGE)).await;
    assert_eq!(answer.status, 413, "{}", answer.head);
    let mut socket = gate.websocket(&token).await;
    let _ = socket.send(Message::text(padded(2 * MAX_MESSAGE))).await;
    assert_eq!(hear(&mut socket).await["error"]["message"], "parse_error");
    assert_eq!(closing(&mut socket).await.0, CloseCode::Size);
    gate.well(MEMORY).await;
}

#[tokio::test]
async fn who_is_slow_with_a_head_or_a_body_is_let_go_and_hinders_nobody() {
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Viewer).await;
    let (mut slow, mut drip) = (Vec::new(), gate.tls().await);
    for _ in 0..20 {
        let mut stream = gate.tls().await;
        stream
            .write_all(b"POST /rpc HTTP/1.1\r\nHost: x\r\n")
            .await
            .unwrap();
        slow.push(stream);
    }
    // One more header now and then does not make it a request.
    let dripping = async {
        drip.write_all(b"POST /rpc HTTP/1.1\r\n").await.unwrap();
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        while drip.write_all(b"X: y\r\n").await.is_ok() && drip.flush().await.is_ok() {
            ticks.tick().await;
        }
    };
    let others = async {
        assert_eq!(gate.post(&token, STATUS_OF_TEMPLATE).await.status, 200);
        for mut stream in slow {
            let mut rest = Vec::new();
            let _ = timeout(BOUND, stream.read_to_end(&mut rest)).await.unwrap();
        }
    };
    let ((), dripped) = tokio::join!(others, timeout(BOUND, dripping));
    dripped.unwrap();
    gate.well(MEMORY).await;
}

#[tokio::test]
async fn who_sends_from_afar_and_never_reads_is_disconnected() {
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Operator).await;
    let mut socket = gate.websocket(&token).await;
    let text = request(1, "rpc.discover", &Value::Null);
    let length = ask(&mut socket, &text).await.to_string().len();
    assert!(length > 100 << 10, "{length}");
    // 1000 such answers; it may be disconnected before it has asked for all.
    let flooding = async {
        for _ in 0..1000 {
            if socket.send(Message::text(text.as_str())).await.is_err() {
                break;
            }
        }
    };
    let beside = async {
        for _ in 0..20 {
            gate.well(MEMORY).await;
        }
    };
    let (ended, ()) = tokio::join!(timeout(BOUND, flooding), beside);
    ended.unwrap();
    gate.client.until(WEB, |web: &Web| web.connections == 0).await;
    gate.well(MEMORY).await;
}

#[tokio::test]
async fn a_thousand_idle_connections_are_bounded_and_shut_nobody_out() {
    raise_descriptors(4096).unwrap();
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Viewer).await;
    let mut early = gate.websocket(&token).await;
    let mut idle = Vec::new();
    for number in 0..1000 {
        idle.push(TcpStream::connect(gate.address).await.unwrap());
        if number % 250 == 249 {
            assert_eq!(gate.post(&token, STATUS_OF_TEMPLATE).await.status, 200);
            gate.well(MEMORY).await;
        }
    }
    // The older ones have made room for the younger.
    let mut late = idle.split_off(1000 - STRANGERS);
    for stream in &mut idle {
        let read = timeout(BOUND, stream.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    // And the younger leave too when they show no token.
    for stream in &mut late {
        let read = timeout(BOUND, stream.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_eq!(
        ask(&mut early, STATUS_OF_TEMPLATE).await["result"]["phrase"],
        "hello"
    );
}

#[tokio::test]
async fn clients_are_bounded_and_idle_ones_cost_little() {
    raise_descriptors(4096).unwrap();
    let gate = Gate::new().await;
    let token = gate.token("ops", Role::Viewer).await;
    let before = gate.memory();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(gate.websocket(&token).await);
    }
    assert_eq!(gate.web().await.connections, CLIENTS as u64);
    let answer = gate.post(&token, STATUS_OF_TEMPLATE).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (503, &json!("overloaded"))
    );
    for client in &mut clients {
        assert_eq!(ask(client, STATUS_OF_TEMPLATE).await["result"]["phrase"], "hello");
    }
    let each = gate.memory().saturating_sub(before) / CLIENTS;
    println!("each of them costs {each} bytes");
    assert!(each < 64 << 10, "{each} bytes for each");
    clients.pop();
    gate.client
        .until(WEB, |web: &Web| web.connections < CLIENTS as u64)
        .await;
    assert_eq!(gate.post(&token, STATUS_OF_TEMPLATE).await.status, 200);
}

#[tokio::test]
async fn a_certificate_is_made_once_and_kept() {
    let mut gate = Gate::new().await;
    let keys = gate.pair.config(A).paths.keys;
    let first = gate.web().await;
    assert_eq!(
        first.fingerprint.as_ref().map(|text| text.split(':').count()),
        Some(32)
    );
    assert_eq!(first.certificate.as_deref(), keys.join(CERTIFICATE).to_str());
    for file in [CERTIFICATE, KEY] {
        let mode = std::fs::metadata(keys.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let token = gate.token("ops", Role::Viewer).await;
    gate.pair.kill(A);
    gate.pair.start(A);
    let client = gate.pair.client(A).await;
    let second: Web = client.until(WEB, |web: &Web| web.listening).await;
    assert_eq!(
        (second.fingerprint, second.certificate),
        (first.fingerprint, first.certificate)
    );
    // The token is good still.
    let listed: Vec<Token> = client.call(TOKEN_LIST, &(), &Ctx::new(BOUND)).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_ne!(gate.post(&token, STATUS_OF_TEMPLATE).await.status, 401);
}

#[tokio::test]
async fn the_operators_certificate_is_shown_and_a_bad_one_stops_nothing_else() {
    let gate = Gate::new().await;
    let own = gate.web().await.fingerprint;
    let made = gate.pair.config(A).paths.keys;
    let mut pair = Pair::new();
    pair.manage(A);
    let (certificate, key) = (pair.dir.path().join("mine.crt"), pair.dir.path().join("mine.key"));
    std::fs::copy(made.join(CERTIFICATE), &certificate).unwrap();
    std::fs::copy(made.join(KEY), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    pair.configure(A, |config| {
        let management = config.management.as_mut().unwrap();
        management.certificate = Some(certificate.clone());
        management.key = Some(key.clone());
    });
    pair.start(A);
    let client = pair.client(A).await;
    let web: Web = client.until(WEB, |web: &Web| web.problem.is_some()).await;
    let problem = web.problem.unwrap();
    assert!(
        !web.listening && problem.contains("mine.key has mode 644"),
        "{problem}"
    );
    // It is tried again until it is right.
    std::fs::write(&certificate, "nothing").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = |web: &Web| {
        web.problem
            .as_ref()
            .is_some_and(|problem| problem.contains("mine.crt"))
    };
    client.until(WEB, wrong).await;
    std::fs::copy(made.join(CERTIFICATE), &certificate).unwrap();
    let web: Web = client.until(WEB, |web: &Web| web.listening).await;
    assert_eq!((web.fingerprint, web.problem), (own, None));
    assert!(
        !pair.config(A).paths.keys.join(CERTIFICATE).exists(),
        "one was made all the same"
    );
}

#[tokio::test]
async fn tokens_that_cannot_be_read_open_nothing_and_stop_nothing_else() {
    let mut pair = Pair::new();
    pair.manage(A);
    std::fs::write(pair.config(A).paths.keys.join(FILE), "{}").unwrap();
    let file = pair.config(A).paths.keys.join(FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    pair.start(A);
    let gate = Gate::of(pair).await;
    assert!(gate.web().await.problem.unwrap().contains(FILE));
    assert_eq!(gate.post("x", STATUS_OF_TEMPLATE).await.status, 401);
    let asked = json!({ "name": "ops", "role": "viewer" });
    let refused = gate
        .client
        .call::<_, Value>(TOKEN_ADD, &asked, &Ctx::new(BOUND))
        .await
        .unwrap_err();
    assert!(
        refused.is(Code::Failed) && refused.data.what.contains(FILE),
        "{refused}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"{}");
    gate.well(MEMORY).await;
}
