//! The switchboard through its side doors: what a line is answered, a WebSocket is answered too, and whoever behaves
//! badly there disturbs nobody.

mod common;

use common::{BOUND, Pair, Until, call, echo, say};
use futures_util::{SinkExt, StreamExt};
use pollux_api::id::ControllerId;
use pollux_api::router::{MAX_MESSAGE, STATUS, Status};
use pollux_runtime::{Client, Ctx};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
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
