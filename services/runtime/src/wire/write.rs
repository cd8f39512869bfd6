//! Writing of messages: each on one line.

use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::rank::Rank;

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

/// Appends a request (with `id`) or a notification (without) and a newline. `id` and `params` are JSON.
pub fn write_call(out: &mut Vec<u8>, id: Option<&str>, method: &str, params: Option<&str>, head: &Head<'_>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        member(out, br#","id":"#, id);
    }
    text(out, br#","method":"#, method);
    if let Some(action) = head.action_id {
        identity(out, br#","action_id":""#, action);
    }
    if let Some(parent) = head.parent {
        identity(out, br#","parent":""#, parent);
    }
    if let Some(ms) = head.deadline_ms {
        number(out, br#","deadline_ms":"#, ms);
    }
    if let Some(from) = head.from {
        text(out, br#","from":"#, from);
    }
    if let Some(rank) = head.rank {
        number(out, br#","rank":"#, rank.into());
    }
    if let Some(params) = params {
        member(out, br#","params":"#, params);
    }
    out.extend_from_slice(b"}\n");
}

/// Appends an answer and a newline; `id` and `result` are JSON.
pub fn write_answer(out: &mut Vec<u8>, id: &str, result: Result<&str, &str>, action_id: Option<ActionId>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    member(out, br#","id":"#, id);
    if let Some(action) = action_id {
        identity(out, br#","action_id":""#, action);
    }
    match result {
        Ok(result) => member(out, br#","result":"#, result),
        Err(error) => member(out, br#","error":"#, error),
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

fn member(out: &mut Vec<u8>, name: &[u8], json: &str) {
    out.extend_from_slice(name);
    let begin = out.len();
    out.extend_from_slice(json.as_bytes());
    // A newline outside of a string is white space in JSON and the end of the message here. Hardly any value has
    // one, and asking many bytes at once is fast.
    if has_break(json.as_bytes()) {
        for byte in &mut out[begin..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

fn has_break(bytes: &[u8]) -> bool {
    let one = |byte: &u8| u8::from(*byte == b'\n') | u8::from(*byte == b'\r');
    let (blocks, rest) = bytes.as_chunks::<64>();
    let all = |block: &[u8]| block.iter().map(one).fold(0, |all, one| all | one) != 0;
    blocks.iter().any(|block| all(block)) || all(rest)
}

fn text(out: &mut Vec<u8>, name: &[u8], text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.extend_from_slice(name);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        member(out, name, &to_json(text));
    }
}

fn number(out: &mut Vec<u8>, name: &[u8], mut value: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(&digits[first..]);
}

/// `name` ends with the opening quote.
fn identity(out: &mut Vec<u8>, name: &[u8], action: ActionId) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut text, mut at) = ([b'-'; 37], 0);
    for (place, byte) in action.as_bytes().iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    text[at] = b'"';
    out.extend_from_slice(name);
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_identities_are_written_as_they_print() {
        for value in [0, 7, 10, 30_000, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, b"", value);
            assert_eq!(out, value.to_string().as_bytes());
        }
        let action = ActionId::from_bytes([0, 1, 0x2f, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        let mut out = Vec::new();
        identity(&mut out, b"\"", action);
        assert_eq!(out, format!("\"{action}\"").as_bytes());
    }
}
