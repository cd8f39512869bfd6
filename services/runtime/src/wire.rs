//! Letters in a pneumatic tube: where one message ends, what stands on its envelope, and nothing about its inside.
//!
//! One JSON object per line; objects that follow each other without a newline are accepted, and so is an array of
//! messages (a batch). Parameters and results stay the bytes that they came in.
//!
//! Invariants: a message is at most [`MAX_MESSAGE`] bytes long and [`MAX_DEPTH`] deep, whoever sends it; a broken one
//! costs its sender the rest of that line and nobody else anything. No input makes this panic.

use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::rank::Rank;
use pollux_api::router::{MAX_DEPTH, MAX_MESSAGE};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A buffer that has grown beyond this gives its memory back when it is empty.
const KEEP: usize = 128 << 10;

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Where the message that is being scanned begins.
    begin: usize,
    /// How far it has been scanned.
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Something was wrong: everything up to the end of the line is dropped.
    skipping: bool,
}

/// The bytes are no message; the rest of the line is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Something else stands where a message should begin.
    NotAMessage,
    /// Longer than [`MAX_MESSAGE`].
    TooLong,
    /// Deeper than [`MAX_DEPTH`].
    TooDeep,
    /// A line ends within a string.
    OpenString,
}

impl From<Malformed> for RpcError {
    fn from(malformed: Malformed) -> Self {
        let (what, remedy) = match malformed {
            Malformed::NotAMessage => (
                "no JSON object where a message should begin".to_owned(),
                "one JSON-RPC object per line".into(),
            ),
            Malformed::TooLong => (
                "message too long".to_owned(),
                format!("at most {MAX_MESSAGE} bytes"),
            ),
            Malformed::TooDeep => (
                "message nested too deep".to_owned(),
                format!("at most {MAX_DEPTH} levels"),
            ),
            Malformed::OpenString => (
                "a line ends within a string".to_owned(),
                "write a newline in a string as \\n".into(),
            ),
        };
        Self::new(Code::Parse, "connection", what).remedy(remedy)
    }
}

impl Framer {
    /// The buffer to append received bytes to, and nothing else.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            self.buffer.reserve(16 << 10);
        }
        &mut self.buffer
    }

    /// The next whole message, or `None` until more bytes have come.
    pub fn next_message(&mut self) -> Option<Result<&[u8], Malformed>> {
        let end = loop {
            let Some(&byte) = self.buffer.get(self.scanned) else {
                self.compact();
                return None;
            };
            self.scanned += 1;
            if self.skipping || (self.depth == 0 && byte.is_ascii_whitespace()) {
                self.skipping &= byte != b'\n';
                self.begin = self.scanned;
                continue;
            }
            if let Err(malformed) = self.scan(byte) {
                (self.depth, self.in_string, self.escaped) = (0, false, false);
                self.skipping = byte != b'\n';
                self.begin = self.scanned;
                return Some(Err(malformed));
            }
            if self.depth == 0 {
                break self.scanned;
            }
        };
        let begin = std::mem::replace(&mut self.begin, end);
        Some(Ok(&self.buffer[begin..end]))
    }

    fn scan(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.scanned - self.begin > MAX_MESSAGE {
            return Err(Malformed::TooLong);
        }
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                b'\n' => return Err(Malformed::OpenString),
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b'{' | b'[' if self.depth == MAX_DEPTH => return Err(Malformed::TooDeep),
            b'{' | b'[' => self.depth += 1,
            _ if self.depth == 0 => return Err(Malformed::NotAMessage),
            b'}' | b']' => self.depth -= 1,
            b'"' => self.in_string = true,
            _ => {}
        }
        Ok(())
    }

    /// Forgets what has been handed out, so that the buffer never holds more than one message and one read.
    fn compact(&mut self) {
        if self.begin == 0 {
            return;
        }
        self.buffer.drain(..self.begin);
        self.scanned -= self.begin;
        self.begin = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
    }
}

/// What stands on the envelope of one message. A member that comes twice is refused.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// `"2.0"`.
    #[serde(default)]
    jsonrpc: Option<Cow<'a, str>>,
    /// Identity of the request, as its sender wrote it.
    #[serde(borrow, default, deserialize_with = "present")]
    pub id: Option<&'a RawValue>,
    /// Method, with or without the controller.
    #[serde(default)]
    pub method: Option<Cow<'a, str>>,
    /// Parameters.
    #[serde(borrow, default, deserialize_with = "present")]
    pub params: Option<&'a RawValue>,
    /// Result of the answer.
    #[serde(borrow, default, deserialize_with = "present")]
    pub result: Option<&'a RawValue>,
    /// Error of the answer.
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
    /// The action that it belongs to.
    #[serde(default)]
    pub action_id: Option<ActionId>,
    /// The action in whose course it was sent.
    #[serde(default)]
    pub parent: Option<ActionId>,
    /// Time left for the answer, ms.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Who sent it, `a/heartbeat`; only what a router wrote counts.
    #[serde(default)]
    pub from: Option<Cow<'a, str>>,
    /// Rank of the sender; only what a router wrote counts.
    #[serde(default)]
    pub rank: Option<Rank>,
}

/// `null` is a value; only what is missing is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// What kind of message it is.
#[derive(Debug)]
pub enum Kind<'a> {
    /// Wants an answer under this id.
    Request {
        /// As the sender wrote it.
        id: &'a RawValue,
        /// With or without the controller.
        method: &'a str,
    },
    /// Wants none.
    Notification {
        /// With or without the controller.
        method: &'a str,
    },
    /// Answers the request of this id.
    Answer {
        /// As we wrote it.
        id: &'a RawValue,
        /// Result or error, as its sender wrote it.
        answer: Result<&'a RawValue, &'a RawValue>,
    },
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of one message.
    ///
    /// # Errors
    /// `parse_error` or `invalid_request`.
    pub fn parse(message: &'a [u8]) -> Result<Self, RpcError> {
        // serde would read an array as the members in the order in which they stand above.
        if message.trim_ascii_start().first() == Some(&b'[') {
            let what = "an array where a message should be";
            return Err(RpcError::new(Code::InvalidRequest, "message", what).remedy("one JSON-RPC object"));
        }
        serde_json::from_slice(message).map_err(|error| {
            let code = if error.is_data() {
                Code::InvalidRequest
            } else {
                Code::Parse
            };
            RpcError::new(code, "message", error.to_string())
        })
    }

    /// What kind of message it is.
    ///
    /// # Errors
    /// `invalid_request`, if it is none that JSON-RPC 2.0 knows.
    pub fn kind(&self) -> Result<Kind<'_>, RpcError> {
        let refuse = |what, remedy| Err(RpcError::new(Code::InvalidRequest, "message", what).remedy(remedy));
        if self.jsonrpc.as_deref() != Some("2.0") {
            return refuse(
                "member `jsonrpc` is missing or another version",
                "\"jsonrpc\":\"2.0\"",
            );
        }
        if let Some(id) = self.id
            && id.get().starts_with(['{', '[', 't', 'f'])
        {
            return refuse("member `id` is neither string nor number", "a string or a number");
        }
        match (self.method.as_deref(), self.id, self.result, self.error) {
            (Some(method), Some(id), None, None) => Ok(Kind::Request { id, method }),
            (Some(method), None, None, None) => Ok(Kind::Notification { method }),
            (None, Some(id), Some(result), None) => Ok(Kind::Answer {
                id,
                answer: Ok(result),
            }),
            (None, Some(id), None, Some(error)) => Ok(Kind::Answer {
                id,
                answer: Err(error),
            }),
            _ => refuse(
                "neither a request, a notification nor an answer",
                "a request has `method` and `id`, a notification `method`, an answer `id` and `result` or `error`",
            ),
        }
    }
}

/// The members of a request or notification that stand beside method and parameters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// The action.
    pub action_id: Option<ActionId>,
    /// Its cause.
    pub parent: Option<ActionId>,
    /// Time left, ms.
    pub deadline_ms: Option<u64>,
    /// Sender, as a router writes it.
    pub from: Option<&'a str>,
    /// Rank of the sender, as a router writes it.
    pub rank: Option<Rank>,
}

/// Appends a request (with `id`) or a notification (without) and a newline.
/// `id` and `params` are JSON without newlines outside of strings, as [`RawValue`] or serde_json writes it.
pub fn write_call(out: &mut Vec<u8>, id: Option<&str>, method: &str, params: Option<&str>, head: &Head<'_>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        member(out, "id", id);
    }
    string_member(out, "method", method);
    if let Some(action) = head.action_id {
        string_member(out, "action_id", &action.to_string());
    }
    if let Some(parent) = head.parent {
        string_member(out, "parent", &parent.to_string());
    }
    if let Some(ms) = head.deadline_ms {
        member(out, "deadline_ms", &ms.to_string());
    }
    if let Some(from) = head.from {
        string_member(out, "from", from);
    }
    if let Some(rank) = head.rank {
        member(out, "rank", &rank.to_string());
    }
    if let Some(params) = params {
        member(out, "params", params);
    }
    out.extend_from_slice(b"}\n");
}

/// Appends an answer and a newline; `result` is JSON.
pub fn write_answer(out: &mut Vec<u8>, id: &str, result: Result<&str, &str>, action_id: Option<ActionId>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    member(out, "id", id);
    if let Some(action) = action_id {
        string_member(out, "action_id", &action.to_string());
    }
    match result {
        Ok(result) => member(out, "result", result),
        Err(error) => member(out, "error", error),
    }
    out.extend_from_slice(b"}\n");
}

/// Appends a refusal and a newline.
pub fn write_error(out: &mut Vec<u8>, id: &str, error: &RpcError, action_id: Option<ActionId>) {
    write_answer(out, id, Err(&to_json(error)), action_id);
}

/// The JSON of a value of the contract.
pub fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    // Fails only for maps with keys that are no strings and for types that refuse to be serialized; the contract's
    // payloads are structures and enums.
    serde_json::to_string(value).expect("a payload of the contract always has a JSON form")
}

fn member(out: &mut Vec<u8>, name: &str, json: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // A newline outside of a string is white space in JSON and the end of the message here.
    out.extend(json.bytes().map(|byte| {
        if byte == b'\n' || byte == b'\r' {
            b' '
        } else {
            byte
        }
    }));
}

fn string_member(out: &mut Vec<u8>, name: &str, text: &str) {
    member(out, name, &to_json(text));
}

/// Reads parameters as `T`. What is missing, empty or null stands for each other, so that a method without
/// parameters can be called in every way that callers know.
///
/// # Errors
/// `invalid_params`, naming the method and what is wrong.
pub fn params<T: serde::de::DeserializeOwned>(method: &str, raw: &str) -> Result<T, RpcError> {
    let parsed = serde_json::from_str(raw);
    let parsed = match (parsed, raw.trim()) {
        (Err(first), "null" | "{}" | "[]") => serde_json::from_str("{}")
            .or_else(|_| serde_json::from_str("null"))
            .map_err(|_| first),
        (parsed, _) => parsed,
    };
    parsed.map_err(|error| RpcError::new(Code::InvalidParams, format!("{method} params"), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(bytes: &[u8], step: usize) -> Vec<Result<Vec<u8>, Malformed>> {
        let (mut framer, mut found) = (Framer::default(), Vec::new());
        for chunk in bytes.chunks(step.max(1)) {
            framer.buffer().extend_from_slice(chunk);
            while let Some(message) = framer.next_message() {
                found.push(message.map(<[u8]>::to_vec));
            }
        }
        found
    }

    #[test]
    fn messages_are_cut_however_they_arrive() {
        let stream = b" {\"a\":\"}\\\"{\"}\n{\"b\":[1,{}]}{\"c\":2} [{},{}]\n";
        let expected: Vec<Result<Vec<u8>, Malformed>> = [
            &b"{\"a\":\"}\\\"{\"}"[..],
            b"{\"b\":[1,{}]}",
            b"{\"c\":2}",
            b"[{},{}]",
        ]
        .map(|m| Ok(m.to_vec()))
        .into();
        for step in 1..stream.len() {
            assert_eq!(cut(stream, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn an_array_is_no_envelope() {
        for message in [r#"["2.0",1,"router.status"]"#, " [null]", "["] {
            let refusal = Envelope::parse(message.as_bytes()).expect_err("no object");
            assert!(refusal.to_string().contains("an array"), "{message}: {refusal}");
        }
    }

    #[test]
    fn a_broken_line_costs_only_itself() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        let stream = format!("hello {{}}\n{{\"a\":\"b\n{deep}\n{{\"ok\":1}}\n");
        assert_eq!(
            cut(stream.as_bytes(), 7),
            [
                Err(Malformed::NotAMessage),
                Err(Malformed::OpenString),
                Err(Malformed::TooDeep),
                Ok(b"{\"ok\":1}".to_vec()),
            ]
        );
    }

    #[test]
    fn a_message_without_end_is_bounded() {
        let mut framer = Framer::default();
        framer.buffer().extend_from_slice(b"{\"a\":\"");
        let mut refused = None;
        for _ in 0..MAX_MESSAGE / 4096 + 2 {
            framer.buffer().extend_from_slice(&[b'x'; 4096]);
            refused = framer.next_message().map(|m| m.map(<[u8]>::to_vec)).or(refused);
            assert!(framer.buffer.len() <= MAX_MESSAGE + 4096);
        }
        assert_eq!(refused, Some(Err(Malformed::TooLong)));
    }

    #[test]
    fn a_member_that_comes_twice_is_refused() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x.y"}"#,
            r#"{"method":"x.y","method":"x.z"}"#,
        ] {
            assert!(
                Envelope::parse(text.as_bytes())
                    .unwrap_err()
                    .is(Code::InvalidRequest),
                "{text}"
            );
        }
    }

    #[test]
    fn null_is_a_result_and_an_id_but_not_an_error() {
        let envelope = Envelope::parse(br#"{"jsonrpc":"2.0","id":null,"result":null,"error":null}"#).unwrap();
        assert!(
            matches!(envelope.kind(), Ok(Kind::Answer { answer: Ok(result), .. }) if result.get() == "null")
        );
    }

    #[test]
    fn what_is_written_is_read_back_and_stays_on_one_line() {
        let (action, parent) = (ActionId::from_bytes([1; 16]), ActionId::from_bytes([2; 16]));
        let head = Head {
            action_id: Some(action),
            parent: Some(parent),
            deadline_ms: Some(7),
            from: Some("a/\"x\n"),
            rank: Some(3),
        };
        let mut out = Vec::new();
        write_call(
            &mut out,
            Some("\"i\""),
            "pool.import",
            Some("{\n\"a\": 1}"),
            &head,
        );
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        let envelope = Envelope::parse(&out).unwrap();
        assert_eq!(
            (envelope.action_id, envelope.parent),
            (Some(action), Some(parent))
        );
        assert_eq!(
            (envelope.deadline_ms, envelope.rank, envelope.from.as_deref()),
            (Some(7), Some(3), head.from)
        );
        assert!(matches!(
            envelope.kind(),
            Ok(Kind::Request {
                method: "pool.import",
                ..
            })
        ));
    }

    #[test]
    fn no_parameters_can_be_written_in_every_way() {
        #[derive(Deserialize, Default, PartialEq, Debug)]
        struct AllOptional {
            #[serde(default)]
            limit: Option<u32>,
        }
        for raw in ["null", "{}", "[]"] {
            params::<()>("x.y", raw).unwrap();
            assert_eq!(params::<AllOptional>("x.y", raw).unwrap(), AllOptional::default());
        }
        assert!(
            params::<()>("x.y", "{\"a\":1}")
                .unwrap_err()
                .is(Code::InvalidParams)
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_never_grow(bytes in proptest::collection::vec(any::<u8>(), 0..4096), step in 1..512usize) {
            for message in cut(&bytes, step).into_iter().flatten() {
                prop_assert!(message.len() <= bytes.len());
                if let Ok(envelope) = Envelope::parse(&message) {
                    let _ = envelope.kind();
                }
            }
        }

        #[test]
        fn near_messages_never_panic(text in "[{}\\[\\]\":,\\\\a-e0-9 \n]{0,200}", step in 1..64usize) {
            for message in cut(text.as_bytes(), step).into_iter().flatten() {
                let _ = Envelope::parse(&message).map(|envelope| envelope.kind().is_ok());
            }
        }
    }
}
