//! Letters in a pneumatic tube: where one message ends, what stands on its envelope, and nothing about its inside.
//!
//! One JSON object per line; objects that follow each other without a newline are accepted, and so is an array of
//! messages (a batch). Parameters and results stay the bytes that they came in; what they say is read, and what is
//! wrong in them is refused, by who takes them ([`params`]). [`validate`] reads all of a message, for the door at
//! which strangers come in.
//!
//! [`Cutter`] and [`Framer`] find the end of each message, [`Envelope`] reads what stands around its inside, the
//! writers make the next one.
//!
//! Invariants: a message is at most [`MAX_MESSAGE`](pollux_api::router::MAX_MESSAGE) bytes long and
//! [`MAX_DEPTH`](pollux_api::router::MAX_DEPTH) deep, whoever sends it; a broken one costs its sender the rest of that
//! line and nobody else anything. No input makes this panic.

mod cut;
mod envelope;
mod write;

pub use cut::{Cutter, Framer, Malformed, Message};
pub use envelope::{Envelope, Kind};
pub use write::{Head, to_json, write_answer, write_call, write_error};

use pollux_api::error::{Code, RpcError};
use serde::de::IgnoredAny;

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

/// Reads all of a message, its inside too.
///
/// # Errors
/// `parse_error`: it is no JSON.
pub fn validate(message: &[u8]) -> Result<(), RpcError> {
    match serde_json::from_slice::<IgnoredAny>(message) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => Err(RpcError::new(Code::Parse, "message", error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::action::ActionId;
    use pollux_api::router::{MAX_DEPTH, MAX_MESSAGE};
    use proptest::prelude::*;
    use serde::Deserialize;

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
        assert!(matches!(envelope.kind(), Ok(Kind::Answer { answer: Ok(result), .. }) if result == "null"));
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
