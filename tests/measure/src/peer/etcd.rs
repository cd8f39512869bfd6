//! etcd, in its own protocol: gRPC, which is HTTP/2 with protobuf in it.
//!
//! ```text
//! frame     length u24 | type u8 | flags u8 | stream u32 | payload                       (RFC 9113)
//! request   HEADERS, DATA with END_STREAM        answer   HEADERS, DATA, HEADERS with END_STREAM (trailers)
//! message   0 u8 | length u32 | protobuf                  a refusal has no DATA, only trailers
//! ```
//!
//! That is little enough to be written by hand: one request is on its way at a time, header fields are sent as
//! literals that touch no table, and those of answers need not be understood, because a method that answers with one
//! message has failed exactly when it sends none. The receive window is opened to its most at the start.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Stream};
use crate::writers::{Speech, VALUE, Writer, fresh};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// Name of one node.
pub const ONE: &str = "etcd, 1 node";
/// Name of three.
pub const THREE: &str = "etcd, 3 nodes";
/// Debian packages of it.
pub const PACKAGES: [&str; 1] = ["etcd-server"];
/// Objects that one transaction makes: its request fits into one frame (16 KiB).
pub const TOGETHER: usize = 32;

const FRAME: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What may come without being asked for again: all that a window can hold.
const WINDOW: u32 = 0x7fff_ffff - 0xffff;
const ANSWER: Duration = Duration::from_secs(5);

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header field that no table takes in: `name` as it is written before the value's length.
fn field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(value.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// A field of bytes (or of another message).
fn bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn read_varint(input: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

/// What stands in a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The field of this number in a message.
fn find(mut message: &[u8], number: u64) -> Option<Value<'_>> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(read_varint(&mut message)?),
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                let (value, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        if tag >> 3 == number {
            return Some(value);
        }
    }
    None
}

/// A number in a message that is none if it is zero.
fn number(message: &[u8], field: u64) -> u64 {
    match find(message, field) {
        Some(Value::Number(value)) => value,
        _ => 0,
    }
}

/// A number of the head that every answer has.
fn of_head(answer: &[u8], field: u64) -> u64 {
    match find(answer, 1) {
        Some(Value::Bytes(head)) => number(head, field),
        _ => 0,
    }
}

/// One connection.
struct Connection {
    /// The stream of the last request; zero: none yet.
    stream: u32,
    /// The message of the answer, with what stands before it.
    message: Vec<u8>,
}

impl Connection {
    fn new() -> Self {
        Self {
            stream: 0,
            message: Vec::new(),
        }
    }

    /// Appends a request.
    fn ask(&mut self, method: &str, message: &[u8], out: &mut Vec<u8>) {
        if self.stream == 0 {
            out.extend_from_slice(PREFACE);
            frame(out, SETTINGS, 0, 0, &[]);
            frame(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
            self.stream = 1;
        } else {
            self.stream += 2;
        }
        self.message.clear();
        // `:method: POST` and `:scheme: http` stand in the table that everybody has.
        let mut head = vec![0x83, 0x86];
        field(&mut head, &[0x04], method);
        field(&mut head, &[0x01], "etcd");
        field(&mut head, &[0x0f, 0x10], "application/grpc");
        field(&mut head, b"\x00\x02te", "trailers");
        frame(out, HEADERS, END_HEADERS, self.stream, &head);
        let mut data = vec![0];
        data.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        data.extend_from_slice(message);
        frame(out, DATA, END_STREAM, self.stream, &data);
    }

    /// Reads whole frames; an answer that has ended stands in `message`.
    fn hear(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some((head, rest)) = input[found.used..].split_at_checked(FRAME) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = rest.get(..length) else { break };
            found.used += FRAME + length;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            match kind {
                SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
                GOAWAY => return Err("it ends the connection".into()),
                RST_STREAM => return Err("it ends the request".into()),
                DATA if stream == self.stream => self.message.extend_from_slice(payload),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && stream == self.stream && flags & END_STREAM != 0 {
                if self.message.len() < 5 {
                    return Err(format!("a refusal: {}", payload.escape_ascii()));
                }
                found.answers += 1;
            }
        }
        Ok(found)
    }
}

/// The key of an object.
fn key(object: usize) -> Vec<u8> {
    format!("host/{object:07}").into_bytes()
}

fn put(object: usize) -> Vec<u8> {
    let mut request = Vec::with_capacity(VALUE + 32);
    bytes(&mut request, 1, &key(object));
    bytes(&mut request, 2, fresh(VALUE).as_bytes());
    request
}

struct Puts(Connection);

impl Speech for Puts {
    fn make(&mut self, objects: Range<usize>, out: &mut Vec<u8>) {
        let mut request = Vec::new();
        for object in objects {
            let mut op = Vec::new();
            bytes(&mut op, 2, &put(object));
            bytes(&mut request, 2, &op);
        }
        self.0.ask("/etcdserverpb.KV/Txn", &request, out);
    }

    fn change(&mut self, object: usize, out: &mut Vec<u8>) {
        self.0.ask("/etcdserverpb.KV/Put", &put(object), out);
    }

    fn hear(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Found, String> {
        self.0.hear(input, out)
    }
}

fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A writer to the node at this address.
///
/// # Errors
/// What the system says.
pub fn writer(system: &'static str, address: SocketAddr) -> Result<Writer> {
    let stream = dial(address).context(system)?;
    Writer::new(system, Stream::Tcp(stream), Puts(Connection::new()))
}

/// A node, and what one wants to know of it.
pub struct Node {
    stream: TcpStream,
    connection: Connection,
    inbox: Vec<u8>,
}

impl Node {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = dial(address).context(address)?;
        stream.set_read_timeout(Some(ANSWER)).context(address)?;
        Ok(Self {
            stream,
            connection: Connection::new(),
            inbox: Vec::new(),
        })
    }

    fn call(&mut self, method: &str, request: &[u8]) -> Result<&[u8]> {
        let (mut out, mut part) = (Vec::new(), [0; 4096]);
        self.connection.ask(method, request, &mut out);
        loop {
            self.stream.write_all(&out).context(method)?;
            out.clear();
            let read = self.stream.read(&mut part).context(method)?;
            if read == 0 {
                return Err(Error::Missing(format!("{method}: hung up")));
            }
            self.inbox.extend_from_slice(&part[..read]);
            let found = self.connection.hear(&self.inbox, &mut out).context(method)?;
            self.inbox.drain(..found.used);
            if found.answers > 0 {
                return Ok(&self.connection.message[5..]);
            }
        }
    }

    /// Whether a leader is known, and whether this node is it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn leads(&mut self) -> Result<Option<bool>> {
        let answer = self.call("/etcdserverpb.Maintenance/Status", &[])?;
        let (own, leader) = (of_head(answer, 2), number(answer, 4));
        Ok((leader != 0).then_some(leader == own))
    }

    /// The revision that this node itself holds, whatever the others do.
    ///
    /// # Errors
    /// It does not answer.
    pub fn revision(&mut self) -> Result<u64> {
        let mut request = Vec::new();
        bytes(&mut request, 1, &key(0));
        // Serializable: answered from what is here.
        request.extend_from_slice(&[7 << 3, 1]);
        let answer = self.call("/etcdserverpb.KV/Range", &request)?;
        Ok(of_head(answer, 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_protobuf_writes_them() {
        for (value, written) in [(0, &[0][..]), (127, &[127]), (300, &[0xac, 2])] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, written);
            assert_eq!(read_varint(&mut &out[..]), Some(value));
        }
        assert_eq!(read_varint(&mut &[0xff; 20][..]), None, "it does not end");
    }

    #[test]
    fn a_put_has_key_and_value() {
        let message = put(7);
        assert!(matches!(find(&message, 1), Some(Value::Bytes(b"host/0000007"))));
        assert!(matches!(find(&message, 2), Some(Value::Bytes(value)) if value.len() == VALUE));
        assert!(find(&message, 3).is_none() && find(&message[..20], 2).is_none());
    }

    #[test]
    fn a_request_to_make_objects_fits_into_a_frame() {
        let mut out = Vec::new();
        Puts(Connection::new()).make(0..TOGETHER, &mut out);
        assert!(out.len() < 16 << 10, "{}", out.len());
    }

    #[test]
    fn an_answer_ends_with_its_trailers_and_a_refusal_has_no_message() {
        let (mut connection, mut out) = (Connection::new(), Vec::new());
        connection.ask("/x/Y", b"?", &mut out);
        assert!(out.starts_with(PREFACE));
        let answer = |stream, data: &[u8]| {
            let mut input = Vec::new();
            frame(&mut input, SETTINGS, 0, 0, &[]);
            frame(&mut input, HEADERS, END_HEADERS, stream, b"head");
            if !data.is_empty() {
                frame(&mut input, DATA, 0, stream, data);
            }
            frame(&mut input, HEADERS, END_HEADERS | END_STREAM, stream, b"tail");
            input
        };
        let input = answer(1, b"\0\0\0\0\x02\x0a\0");
        for end in 0..input.len() {
            let (mut half, mut said) = (Connection::new(), Vec::new());
            half.ask("/x/Y", b"?", &mut said);
            said.clear();
            let first = half.hear(&input[..end], &mut said).unwrap();
            assert_eq!(first.answers, 0, "at {end}");
            let second = half.hear(&input[first.used..], &mut said).unwrap();
            assert_eq!(
                (first.used + second.used, second.answers),
                (input.len(), 1),
                "at {end}"
            );
            assert_eq!(&half.message[5..], b"\x0a\0");
            // Its settings are acknowledged.
            assert_eq!(said, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
        }
        let refusal = connection.hear(&answer(1, b""), &mut out).unwrap_err();
        assert_eq!(refusal, "a refusal: tail");
    }
}
