//! What stands on the envelope of one message.

use super::cut::{Cutter, Message};
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::rank::Rank;
use pollux_platform::simd::marks;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// The envelope of one message. Only its members are read; of what they hold, only what the router needs. A member
/// that comes twice is refused.
#[derive(Debug, Default)]
pub struct Envelope<'a> {
    version: bool,
    /// Identity of the request, as its sender wrote it (JSON).
    pub id: Option<&'a str>,
    /// Method, with or without the controller.
    pub method: Option<Cow<'a, str>>,
    /// Parameters (JSON, but see the module: nobody has looked inside).
    pub params: Option<&'a str>,
    /// Result of the answer (as `params`).
    pub result: Option<&'a str>,
    /// Error of the answer (as `params`).
    pub error: Option<&'a str>,
    /// The action that it belongs to.
    pub action_id: Option<ActionId>,
    /// The action in whose course it was sent.
    pub parent: Option<ActionId>,
    /// Time left for the answer, ms.
    pub deadline_ms: Option<u64>,
    /// Who sent it, `a/heartbeat`; only what a router wrote counts.
    pub from: Option<Cow<'a, str>>,
    /// Rank of the sender; only what a router wrote counts.
    pub rank: Option<Rank>,
}

/// What kind of message it is.
#[derive(Debug)]
pub enum Kind<'a> {
    /// Wants an answer under this id.
    Request {
        /// As the sender wrote it.
        id: &'a str,
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
        id: &'a str,
        /// Result or error, as its sender wrote it.
        answer: Result<&'a str, &'a str>,
    },
}

/// A string of this length may be an identity or a name, and is looked into; bytes.
const SHORT: usize = 64;

/// Members of an envelope, in the order of the bits by which [`Envelope::read`] remembers them.
const MEMBERS: [&str; 11] = [
    "jsonrpc",
    "id",
    "method",
    "params",
    "result",
    "error",
    "action_id",
    "parent",
    "deadline_ms",
    "from",
    "rank",
];

impl<'a> Envelope<'a> {
    /// Reads the envelope of one message.
    ///
    /// # Errors
    /// `parse_error` or `invalid_request`.
    pub fn parse(message: &'a [u8]) -> Result<Self, RpcError> {
        Self::of(&message.into())
    }

    /// The same for a message that was cut out of a stream.
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn of(message: &Message<'a>) -> Result<Self, RpcError> {
        let text = std::str::from_utf8(message.bytes).map_err(|error| broken(error.to_string()))?;
        let mut reader = Reader {
            text,
            at: 0,
            inner: message.inner,
        };
        reader.space();
        if reader.peek() == Some(b'[') {
            let what = "an array where a message should be";
            return Err(RpcError::new(Code::InvalidRequest, "message", what).remedy("one JSON-RPC object"));
        }
        Self::read(&mut reader)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, RpcError> {
        let (mut envelope, mut seen) = (Self::default(), 0_u16);
        reader.expect(b'{')?;
        reader.space();
        if reader.peek() == Some(b'}') {
            reader.at += 1;
            return reader.end().map(|()| envelope);
        }
        loop {
            let name = reader.name()?;
            let member = MEMBERS.iter().position(|member| *member == name);
            reader.space();
            reader.expect(b':')?;
            reader.space();
            let value = reader.value()?;
            if let Some(member) = member {
                let bit = 1 << member;
                if seen & bit != 0 {
                    return Err(wrong(format!("duplicate field `{}`", MEMBERS[member])));
                }
                seen |= bit;
                envelope.set(MEMBERS[member], value)?;
            }
            reader.space();
            match reader.peek() {
                Some(b',') => reader.at += 1,
                Some(b'}') => {
                    reader.at += 1;
                    return reader.end().map(|()| envelope);
                }
                _ => return Err(reader.broken("`,` or `}`")),
            }
            reader.space();
        }
    }

    fn set(&mut self, member: &'static str, value: &'a str) -> Result<(), RpcError> {
        match member {
            "jsonrpc" => self.version = value == "\"2.0\"" || text(member, value)?.as_deref() == Some("2.0"),
            "id" => {
                if value.len() > SHORT && value.starts_with('"') {
                    sound(value)?;
                }
                self.id = Some(value);
            }
            "method" => self.method = text(member, value)?,
            "params" => self.params = Some(value),
            "result" => self.result = Some(value),
            "error" => self.error = Some(value).filter(|value| *value != "null"),
            "action_id" => self.action_id = identity(member, value)?,
            "parent" => self.parent = identity(member, value)?,
            "deadline_ms" => self.deadline_ms = json(member, value)?,
            "from" => self.from = text(member, value)?,
            _ => self.rank = json(member, value)?,
        }
        Ok(())
    }

    /// What kind of message it is.
    ///
    /// # Errors
    /// `invalid_request`, if it is none that JSON-RPC 2.0 knows.
    pub fn kind(&self) -> Result<Kind<'_>, RpcError> {
        let refuse = |what, remedy| Err(RpcError::new(Code::InvalidRequest, "message", what).remedy(remedy));
        if !self.version {
            return refuse(
                "member `jsonrpc` is missing or another version",
                "\"jsonrpc\":\"2.0\"",
            );
        }
        if let Some(id) = self.id
            && id.starts_with(['{', '[', 't', 'f'])
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

fn broken(what: impl Into<String>) -> RpcError {
    RpcError::new(Code::Parse, "message", what)
}

fn wrong(what: impl Into<String>) -> RpcError {
    RpcError::new(Code::InvalidRequest, "message", what)
}

/// A member that is a value of type `T` or null.
fn json<'a, T: Deserialize<'a>>(member: &str, value: &'a str) -> Result<Option<T>, RpcError> {
    serde_json::from_str(value).map_err(|error| wrong(format!("member `{member}`: {error}")))
}

/// A member that is text or null.
fn text<'a>(member: &str, value: &'a str) -> Result<Option<Cow<'a, str>>, RpcError> {
    let plain = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inside| !inside.contains('\\'));
    match plain {
        Some(inside) => Ok(Some(Cow::Borrowed(inside))),
        None => Ok(json::<String>(member, value)?.map(Cow::Owned)),
    }
}

fn identity(member: &str, value: &str) -> Result<Option<ActionId>, RpcError> {
    let Some(text) = text(member, value)? else {
        return Ok(None);
    };
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|error| wrong(format!("member `{member}`: {error}")))
}

/// Walks over the members of one object.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Where an array or object is known to begin and end.
    inner: (usize, usize),
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn broken(&self, wanted: &str) -> RpcError {
        broken(format!("byte {} is not {wanted}", self.at + 1))
    }

    fn expect(&mut self, byte: u8) -> Result<(), RpcError> {
        if self.peek() != Some(byte) {
            return Err(self.broken(&format!("`{}`", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), RpcError> {
        self.space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.broken("the end of the message"))
        }
    }

    /// The text up to `end`, which becomes the place.
    fn up_to(&mut self, end: usize) -> Result<&'a str, RpcError> {
        // `end` stands behind an ASCII byte, so it is the border of a character.
        let part = self
            .text
            .get(self.at..end)
            .ok_or_else(|| self.broken("a character"))?;
        self.at = end;
        Ok(part)
    }

    /// Name of a member, without quotes and escapes.
    fn name(&mut self) -> Result<Cow<'a, str>, RpcError> {
        if self.peek() != Some(b'"') {
            return Err(self.broken("the name of a member"));
        }
        let quoted = self.string()?;
        match text("name", quoted) {
            Ok(Some(name)) => Ok(name),
            _ => Err(broken("a name of a member that is no JSON string")),
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a str, RpcError> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            // 64: none of them is among the next 64 bytes.
            let stop = match rest.first_chunk() {
                Some(block) => {
                    let seen = marks(block);
                    (seen.quotes | seen.escapes).trailing_zeros() as usize
                }
                None => rest
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'\\'))
                    .unwrap_or(64),
            };
            match rest.get(stop) {
                Some(_) if stop == 64 => at += 64,
                Some(b'"') => return self.up_to(at + stop + 1),
                Some(_) => at += stop + 2,
                None => return Err(broken("a string without an end")),
            }
        }
    }

    /// The next value. Strings, arrays and objects are not looked into; an identity or a number is sound.
    fn value(&mut self) -> Result<&'a str, RpcError> {
        match self.peek() {
            Some(b'"') => {
                let quoted = self.string()?;
                // It may be an identity, which goes into answers and must be JSON.
                if quoted.len() <= SHORT && quoted.bytes().any(|byte| byte < 0x20 || byte == b'\\') {
                    sound(quoted)?;
                }
                Ok(quoted)
            }
            Some(b'{' | b'[') if self.at == self.inner.0 && self.inner.1 > self.at => {
                self.up_to(self.inner.1)
            }
            Some(b'{' | b'[') => {
                let mut cutter = Cutter::default();
                match cutter.next_message(&self.text.as_bytes()[self.at..]) {
                    Some(Ok(value)) => self.up_to(self.at + value.bytes.len()),
                    Some(Err(malformed)) => Err(malformed.into()),
                    None => Err(broken("an array or object without an end")),
                }
            }
            Some(_) => {
                let rest = &self.text.as_bytes()[self.at..];
                let length = rest
                    .iter()
                    .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                    .unwrap_or(rest.len());
                if !rest[..length].is_ascii() {
                    return Err(self.broken("a value"));
                }
                let plain = self.up_to(self.at + length)?;
                let digits = plain.bytes().all(|byte| byte.is_ascii_digit());
                if !(digits && matches!(plain.as_bytes(), [_] | [b'1'..=b'9', ..])) {
                    sound(plain)?;
                }
                Ok(plain)
            }
            None => Err(self.broken("a value")),
        }
    }
}

/// The text is JSON.
fn sound(text: &str) -> Result<(), RpcError> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => Err(broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_compared_as_what_they_say() {
        let escaped = r#"{"jsonrpc":"2.0","\u0069d":1,"method":"x.y"}"#;
        assert_eq!(Envelope::parse(escaped.as_bytes()).unwrap().id, Some("1"));
        let twice = r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"x.y"}"#;
        assert!(
            Envelope::parse(twice.as_bytes())
                .unwrap_err()
                .is(Code::InvalidRequest)
        );
        // Members that nobody here knows may be whatever they like.
        let unknown = r#"{"x":{"id":[1]},"jsonrpc":"2.0","method":"a.b","x":1,"params":["id"]}"#;
        let envelope = Envelope::parse(unknown.as_bytes()).unwrap();
        assert_eq!((envelope.id, envelope.params), (None, Some(r#"["id"]"#)));
    }

    /// Strings are looked at in blocks: wherever in a block one ends, it ends there.
    #[test]
    fn a_string_of_any_length_ends_where_it_ends() {
        for length in 0..400 {
            for escape in [None, Some(length / 2), Some(length)] {
                let mut name = "m".repeat(length);
                if let Some(at) = escape {
                    name.insert_str(at, r#"\""#);
                }
                let text =
                    format!(r#"{{"jsonrpc":"2.0","method":"a.{name}","id":"{name}","params":["{name}"]}}"#);
                let envelope = Envelope::parse(text.as_bytes()).unwrap();
                assert_eq!(
                    envelope.method.as_deref(),
                    Some(format!("a.{}", name.replace('\\', "")).as_str())
                );
                assert_eq!(envelope.id, Some(format!("\"{name}\"").as_str()), "{length}");
                assert_eq!(
                    envelope.params,
                    Some(format!("[\"{name}\"]").as_str()),
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn identities_of_every_kind_stay_as_they_are_or_are_refused() {
        for id in [
            "0",
            "-7",
            "1.5e300",
            "18446744073709551616",
            "\"\"",
            "\"\\u00e9\\n\"",
            "null",
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x.y"}}"#);
            let envelope = Envelope::parse(text.as_bytes()).unwrap();
            assert!(
                matches!(envelope.kind(), Ok(Kind::Request { id: read, .. }) if read == id),
                "{id}"
            );
        }
        for id in [
            "01", "+1", "0x1", "nul", "1 2", "\"\\x\"", "\"\t\"", "'a'", "", "é",
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x.y"}}"#);
            assert!(Envelope::parse(text.as_bytes()).is_err(), "{id}");
        }
        for id in ["true", "false", "[1]", "{\"a\":1}"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x.y"}}"#);
            assert!(Envelope::parse(text.as_bytes()).unwrap().kind().is_err(), "{id}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let message = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x.y\",\"params\":\"\xff\"}";
        assert!(Envelope::parse(message).unwrap_err().is(Code::Parse));
    }

    proptest! {
        /// Whatever serde takes for an object is read to the same members here.
        #[test]
        fn members_are_those_that_serde_reads(
            parts in proptest::collection::vec((0..6_usize, "[a-z\\\\\"\u{e9}\n]{0,80}", 0..4_u8), 0..6),
            wide in any::<bool>(),
        ) {
            let mut object = serde_json::Map::new();
            object.insert("jsonrpc".into(), "2.0".into());
            for (member, text, shape) in parts {
                let name = ["id", "method", "params", "result", "other", "x\"y"][member];
                let value = match (name, shape) {
                    ("method", _) | (_, 0) => text.into(),
                    (_, 1) => serde_json::json!(text.len()),
                    (_, 2) => serde_json::json!([text, { "id": [text] }]),
                    _ => serde_json::json!({ "id": text, "b": [[], {}] }),
                };
                object.insert(name.into(), value);
            }
            let written = if wide { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let mut cutter = Cutter::default();
            let message = cutter.next_message(written.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(message.bytes, written.as_bytes());
            let envelope = Envelope::of(&message).unwrap();
            let read = |part: Option<&str>| part.map(|part| serde_json::from_str::<serde_json::Value>(part).unwrap());
            prop_assert_eq!(read(envelope.id), object.get("id").cloned());
            prop_assert_eq!(read(envelope.params), object.get("params").cloned());
            prop_assert_eq!(read(envelope.result), object.get("result").cloned());
            prop_assert_eq!(envelope.method.as_deref(), object.get("method").map(|it| it.as_str().unwrap()));
        }
    }
}
