//! Rough company: callers and services that flood, never read, lie, die in the middle of a word, or say what is no
//! message. In each case everybody else is served, and the router's memory stays within a bound.

mod common;

use common::{BOUND, Pair, Until, call, echo, say};
use futures_util::{SinkExt, StreamExt};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::{MAX_DEPTH, MAX_MESSAGE, STATUS, Status};
use pollux_platform::file::raise_descriptors;
use pollux_runtime::{Client, Ctx};
use serde_json::Value;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::tungstenite::{self, Message};

const A: ControllerId = ControllerId::A;
const MIB: usize = 1 << 20;
/// What the router of these tests may hold at any time: a queue of 4 MiB for each of two rough ones, a message that
/// has not ended, and itself.
const MEMORY: usize = 48 * MIB;

/// One router with a service that answers, and the socket.
struct Company {
    pair: Pair,
    socket: PathBuf,
    client: Client,
    _echo: pollux_runtime::Service,
}

impl Company {
    async fn new() -> Self {
        let mut pair = Pair::new();
        pair.start(A);
        let service = echo(&pair.config(A));
        service.registered().await;
        Self {
            socket: pair.config(A).paths.router_socket(),
            client: pair.client(A).await,
            pair,
            _echo: service,
        }
    }

    /// Everybody else is served, and memory is bounded.
    async fn well(&self) {
        self.well_within(MEMORY).await;
    }

    async fn well_within(&self, bytes: usize) {
        let begin = Instant::now();
        assert_eq!(call(&self.client, "echo.back", "well").await.unwrap(), "well");
        let held = self.memory();
        println!(
            "answered after {:?}; the router holds {} KiB",
            begin.elapsed(),
            held >> 10
        );
        assert!(held < bytes, "the router holds {held} bytes, more than {bytes}");
    }

    fn memory(&self) -> usize {
        let router = self.pair.routers[0].as_ref().unwrap().0.id();
        let status = std::fs::read_to_string(format!("/proc/{router}/status")).unwrap();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.unwrap().trim().parse::<usize>().unwrap() << 10
    }

    async fn status(&self) -> Status {
        self.client.until(STATUS, |_| true).await
    }

    /// A service `rough` with the method `rough.x`, spoken by hand.
    async fn rough(&self) -> BufReader<UnixStream> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await.unwrap());
        let register = r#"{"jsonrpc":"2.0","id":0,"method":"router.register","params":{"name":"rough","version":"0",
            "rank":70,"methods":[{"name":"rough.x","idempotent":true}]}}"#;
        stream.write_all(register.as_bytes()).await.unwrap();
        assert!(line(&mut stream).await.contains("\"result\""));
        stream
    }
}

async fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    timeout(BOUND, stream.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    line
}

/// What a router answers to each of these lines, in order.
async fn answers(socket: &std::path::Path, lines: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut said = Vec::new();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        writer.write_all(lines).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(write, timeout(BOUND, reader.read_to_end(&mut said)));
    read.unwrap().unwrap();
    serde_json::Deserializer::from_slice(&said)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn request(id: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo.back","params":{params}}}"#)
}

/// More than one turn's worth, with a message that is none in the middle, and one that ends later.
#[tokio::test]
async fn what_comes_at_once_is_answered_whole_and_in_order_over_many_turns() {
    let company = Company::new().await;
    let status = |id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"router.status\"}}\n");
    let mut lines = String::new();
    for id in 0..3000 {
        lines += &status(id);
        if id == 1500 {
            lines += "no message\n";
        }
    }
    let said = answers(&company.socket, lines.as_bytes()).await;
    assert_eq!(said.len(), 3001);
    let ids: Vec<u64> = said.iter().filter_map(|answer| answer["id"].as_u64()).collect();
    assert!(ids.into_iter().eq(0..3000));
    assert_eq!(said[1501]["error"]["message"], "parse_error");
    company.well().await;
}

#[tokio::test]
async fn a_service_that_never_reads_is_refused_to_its_callers_and_slows_nobody() {
    let company = Company::new().await;
    let _rough = company.rough().await;
    let text = "x".repeat(64 << 10);
    let mut refused = 0;
    // 4 MiB wait for it and the socket holds some more; nobody gets an answer.
    for _ in 0..200 {
        let ctx = Ctx::new(std::time::Duration::from_millis(30));
        let error = company
            .client
            .call::<_, String>("rough.x", &text, &ctx)
            .await
            .unwrap_err();
        refused += usize::from(error.is(Code::Overloaded));
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3, "its queue never became full");
    company.well().await;
}

#[tokio::test]
async fn who_floods_and_never_reads_is_disconnected() {
    let company = Company::new().await;
    let mut stream = UnixStream::connect(&company.socket).await.unwrap();
    let mut flood = request("7", &format!("\"{}\"", "x".repeat(32 << 10)));
    flood.push('\n');
    let flooding = async {
        for _ in 0..100_000 {
            if stream.write_all(flood.as_bytes()).await.is_err() {
                return true;
            }
        }
        false
    };
    let beside = async {
        for _ in 0..20 {
            company.well().await;
        }
    };
    let (ended, ()) = tokio::join!(timeout(BOUND, flooding), beside);
    assert!(ended.unwrap(), "3 GB of answers were queued");
    company.well().await;
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_delivered_once() {
    let company = Company::new().await;
    let mut rough = company.rough().await;
    let ctx = Ctx::new(BOUND);
    let asked = company.client.call::<_, u64>("rough.x", &(), &ctx);
    let answering = async {
        let call: Value = serde_json::from_str(&line(&mut rough).await).unwrap();
        let answer = |result: u64| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}\n",
                call["id"]
            )
        };
        let twice = answer(1) + &answer(2) + &answer(3).replace(&call["id"].to_string(), "99");
        rough.write_all(twice.as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, answering);
    assert_eq!(answer.unwrap(), 1);
    company
        .client
        .until(STATUS, |status: &Status| status.counters.late_answers == 2)
        .await;
    company.well().await;
}

#[tokio::test]
async fn a_service_that_dies_in_the_middle_of_an_answer_has_not_answered() {
    let company = Company::new().await;
    let mut rough = company.rough().await;
    let ctx = Ctx::new(BOUND);
    let asked = company.client.call::<_, u64>("rough.x", &(), &ctx);
    let dying = async move {
        let call: Value = serde_json::from_str(&line(&mut rough).await).unwrap();
        let half = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":[1,2", call["id"]);
        rough.write_all(half.as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, dying);
    let refused: RpcError = answer.unwrap_err();
    assert!(refused.is(Code::ServiceGone), "{refused}");
    company.well().await;
}

#[tokio::test]
async fn identities_of_every_json_type_are_kept_or_refused() {
    let company = Company::new().await;
    for id in [
        "1",
        "-1",
        "1.5",
        "18446744073709551615",
        "\"x\"",
        "\"\\u00e9\"",
        "null",
    ] {
        let said = say(&company.socket, &request(id, "\"hi\"")).await;
        assert!(
            said.contains(&format!("\"id\":{id},")) && said.contains("\"hi\""),
            "{said}"
        );
    }
    for id in ["true", "[1]", "{\"a\":1}"] {
        let said = say(&company.socket, &request(id, "\"hi\"")).await;
        assert!(
            said.contains("invalid_request") && said.contains("\"id\":null"),
            "{said}"
        );
    }
    company.well().await;
}

#[tokio::test]
async fn a_message_that_is_far_too_long_costs_its_sender_that_line_alone() {
    let company = Company::new().await;
    let mut stream = vec![b'x'; 16 * MIB];
    stream.splice(
        ..0,
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo.back\",\"params\":\"".to_owned(),
    );
    stream.extend_from_slice(b"\"}\n");
    stream.extend_from_slice(request("2", "\"after\"").as_bytes());
    let answers = answers(&company.socket, &stream).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!(answers[0]["error"]["message"], "parse_error");
    assert!(
        answers[0]["error"]["data"]["remedy"]
            .to_string()
            .contains(&MAX_MESSAGE.to_string())
    );
    assert_eq!(answers[1]["result"], "after");
    company.well().await;
}

#[tokio::test]
async fn depth_is_bounded() {
    let company = Company::new().await;
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    // The message itself is the first level.
    let lines = [
        request("1", &nested(MAX_DEPTH - 1)),
        request("2", &nested(MAX_DEPTH)),
        request("3", &nested(200_000)),
        request("4", "\"after\""),
    ];
    let answers = answers(&company.socket, (lines.join("\n") + "\n").as_bytes()).await;
    let told: Vec<&Value> = answers.iter().map(|answer| &answer["error"]["message"]).collect();
    assert_eq!(
        told.iter().filter(|told| **told == "parse_error").count(),
        2,
        "{told:?}"
    );
    assert_eq!(
        told.iter().filter(|told| **told == "invalid_params").count(),
        1,
        "{told:?}"
    );
    assert!(answers.iter().any(|answer| answer["result"] == "after"));
    company.well().await;
}

#[tokio::test]
async fn members_that_come_twice_and_bytes_that_are_no_text_are_refused() {
    let company = Company::new().await;
    for twice in [
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"echo.back","params":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"echo.back","\u006dethod":"router.status"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"echo.back","params":"x","params":"y"}"#,
    ] {
        let said = say(&company.socket, twice).await;
        assert!(
            said.contains("invalid_request") && said.contains("duplicate"),
            "{said}"
        );
    }
    for place in ["\"\u{1}\"", "{\"\u{1}\":1}"] {
        let mut line = request("1", place).into_bytes();
        line.iter_mut()
            .filter(|byte| **byte == 1)
            .for_each(|byte| *byte = 0xff);
        let answers = answers(&company.socket, &line).await;
        assert_eq!(answers[0]["error"]["message"], "parse_error", "{answers:?}");
    }
    assert_eq!(company.status().await.counters.malformed, 5);
    company.well().await;
}

#[tokio::test]
async fn two_thousand_connections_cost_little_and_hinder_nobody() {
    raise_descriptors(4096).unwrap();
    let company = Company::new().await;
    let before = company.memory();
    let mut streams = Vec::new();
    for _ in 0..2000 {
        streams.push(UnixStream::connect(&company.socket).await.unwrap());
    }
    let ask = request("1", "\"hello\"") + "\n";
    // The service takes 512 calls at a time.
    for some in streams.chunks_mut(256) {
        for stream in &mut *some {
            stream.write_all(ask.as_bytes()).await.unwrap();
        }
        for stream in some {
            let mut answer = String::new();
            timeout(BOUND, BufReader::new(stream).read_line(&mut answer))
                .await
                .unwrap()
                .unwrap();
            assert!(answer.contains("\"result\":\"hello\""), "{answer}");
        }
    }
    // 16 KiB for each that has nothing to say.
    company.well_within(before + 2000 * (16 << 10)).await;
}

#[tokio::test]
async fn messages_that_never_end_have_a_bound_together_and_hinder_nobody() {
    let company = Company::new().await;
    let before = company.memory();
    let endless = vec![b'x'; 1_000_000];
    let (mut lines, mut sockets) = (Vec::new(), Vec::new());
    // Whoever is beyond the bound is disconnected while it still writes.
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&company.socket).await.unwrap();
        let begun = async {
            stream.write_all(b"{\"method\":\"").await?;
            stream.write_all(&endless).await
        };
        if timeout(BOUND, begun).await.unwrap().is_ok() {
            lines.push(stream);
        }
        let stream = UnixStream::connect(&company.socket).await.unwrap();
        let (mut socket, _) = client_async("ws://localhost/rpc", stream).await.unwrap();
        let head = FrameHeader {
            is_final: false,
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let first = Message::Frame(Frame::from_payload(head, endless.clone().into()));
        let answered = async {
            socket.send(first).await?;
            // A ping comes back from whoever is still listened to.
            socket.send(Message::Ping("there?".into())).await?;
            Ok::<_, tungstenite::Error>(socket.next().await)
        };
        match timeout(BOUND, answered).await.unwrap() {
            Ok(Some(Ok(Message::Pong(_)))) => sockets.push(socket),
            Ok(Some(Ok(Message::Close(Some(why))))) => assert_eq!(why.code, CloseCode::Again, "{why}"),
            // It was let go while it still wrote.
            _ => {}
        }
    }
    let all = lines.len() + sockets.len();
    assert!((60..80).contains(&all), "{all} of 100 MB wait");
    assert!(lines.len() > 20 && sockets.len() > 20);
    let mut caller = UnixStream::connect(&company.socket).await.unwrap();
    let ask = request("1", "\"hello\"") + "\n";
    caller.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = BufReader::new(&mut caller).read_line(&mut answer).await;
    assert!(
        read.is_ok() && answer.contains("\"result\":\"hello\""),
        "{answer}"
    );
    // What has gone makes room.
    drop((lines, sockets));
    company.well_within(before + (16 << 20)).await;
}
