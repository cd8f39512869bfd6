//! D-Bus, for the daemon and the broker alike: binary messages on a unix socket, to the unique name of a connection.
//!
//! ```text
//! message   'l' type flags 1 | length of body u32 | serial u32 | length of fields u32 | fields | padding to 8 | body
//! ```
//!
//! The body is an array of bytes, which a bus has to validate least.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Line, Protocol, Stream};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const HELLO: Duration = Duration::from_secs(5);
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const FAILURE: u8 = 3;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ANSWERS: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

/// Connects one side; a caller calls `callee`. Also the unique name that the bus has given.
///
/// # Errors
/// What the system says, or the bus.
pub fn connect(bus: &'static str, socket: &Path, callee: Option<&str>) -> Result<(Line, String)> {
    let mut stream = UnixStream::connect(socket).context(socket.display())?;
    stream.set_read_timeout(Some(HELLO)).context(bus)?;
    let uid: String = nix::unistd::getuid()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    write!(stream, "\0AUTH EXTERNAL {uid}\r\n").context(bus)?;
    let wrong = |what: &[u8]| Error::Wrong {
        bus,
        what: String::from_utf8_lossy(what).into_owned(),
    };
    let mut said = [0; 256];
    let read = stream.read(&mut said).context(bus)?;
    if !said[..read].starts_with(b"OK ") {
        return Err(wrong(&said[..read]));
    }
    stream.write_all(b"BEGIN\r\n").context(bus)?;
    let mut hello = Vec::new();
    write_message(
        &mut hello,
        CALL,
        1,
        &[
            (PATH, "o", "/org/freedesktop/DBus"),
            (INTERFACE, "s", "org.freedesktop.DBus"),
            (MEMBER, "s", "Hello"),
            (DESTINATION, "s", "org.freedesktop.DBus"),
        ],
        None,
        None,
    );
    stream.write_all(&hello).context(bus)?;
    // The answer, which is the name, and the signal that the name was acquired; nothing else comes unasked.
    let (mut bytes, mut name, mut signalled) = (Vec::new(), None, false);
    let name = loop {
        let read = stream.read(&mut said).context(bus)?;
        bytes.extend_from_slice(&said[..read]);
        if read == 0 {
            return Err(wrong(&bytes));
        }
        while let Some(message) = Message::read(&bytes) {
            if message.kind == ANSWER {
                let text = message.body.get(4..message.body.len().saturating_sub(1));
                name = Some(String::from_utf8_lossy(text.unwrap_or_default()).into_owned());
            } else {
                signalled = true;
            }
            bytes.drain(..message.length);
        }
        match name.take() {
            Some(name) if signalled => break name,
            other => name = other,
        }
    };
    let protocol = Binary {
        serial: 1,
        callee: callee.unwrap_or_default().to_owned(),
    };
    let line = Line {
        bus,
        stream: Stream::Unix(stream),
        protocol: Box::new(protocol),
    };
    Ok((line, name))
}

fn pad(out: &mut Vec<u8>, start: usize, to: usize) {
    while !(out.len() - start).is_multiple_of(to) {
        out.push(0);
    }
}

fn count(length: usize) -> [u8; 4] {
    u32::try_from(length)
        .expect("messages are a few KiB")
        .to_le_bytes()
}

fn write_message(
    out: &mut Vec<u8>,
    kind: u8,
    serial: u32,
    fields: &[(u8, &str, &str)],
    answers: Option<u32>,
    body: Option<&[u8]>,
) {
    let start = out.len();
    out.extend_from_slice(&[b'l', kind, 0, 1]);
    out.extend_from_slice(&count(body.map_or(0, |body| body.len() + 4)));
    out.extend_from_slice(&serial.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for (code, signature, value) in fields {
        pad(out, start, 8);
        out.extend_from_slice(&[*code, 1, signature.as_bytes()[0], 0]);
        out.extend_from_slice(&count(value.len()));
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    }
    if let Some(serial) = answers {
        pad(out, start, 8);
        out.extend_from_slice(&[ANSWERS, 1, b'u', 0]);
        out.extend_from_slice(&serial.to_le_bytes());
    }
    if body.is_some() {
        pad(out, start, 8);
        out.extend_from_slice(&[SIGNATURE, 1, b'g', 0, 2, b'a', b'y', 0]);
    }
    let length = count(out.len() - start - 16);
    out[start + 12..start + 16].copy_from_slice(&length);
    pad(out, start, 8);
    if let Some(body) = body {
        out.extend_from_slice(&count(body.len()));
        out.extend_from_slice(body);
    }
}

struct Message<'a> {
    kind: u8,
    serial: u32,
    fields: &'a [u8],
    body: &'a [u8],
    length: usize,
}

impl<'a> Message<'a> {
    /// The first message, or `None` until it is whole.
    fn read(input: &'a [u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(*input.get(at..)?.first_chunk()?));
        let fields_end = 16 + number(12)? as usize;
        let body = fields_end.next_multiple_of(8);
        let length = body + number(4)? as usize;
        Some(Self {
            kind: *input.get(1)?,
            serial: number(8)?,
            fields: input.get(16..fields_end)?,
            body: input.get(body..length)?,
            length,
        })
    }

    /// Who sent it.
    fn sender(&self) -> Option<&'a str> {
        let mut at = 0_usize;
        while at < self.fields.len() {
            at = at.next_multiple_of(8);
            let &[code, _, kind, _] = self.fields.get(at..)?.first_chunk()?;
            at += 4;
            let length = match kind {
                b'u' => 4,
                b'g' => usize::from(*self.fields.get(at)?) + 2,
                _ => u32::from_le_bytes(*self.fields.get(at..)?.first_chunk()?) as usize + 5,
            };
            if code == SENDER {
                return std::str::from_utf8(self.fields.get(at + 4..at + length - 1)?).ok();
            }
            at += length;
        }
        None
    }
}

struct Binary {
    serial: u32,
    callee: String,
}

impl Protocol for Binary {
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.serial += 1;
        let fields = [
            (PATH, "o", "/echo"),
            (INTERFACE, "s", "pollux.Echo"),
            (MEMBER, "s", "Back"),
            (DESTINATION, "s", self.callee.as_str()),
        ];
        write_message(out, CALL, self.serial, &fields, None, Some(payload));
    }

    fn answers(&mut self, payload: &[u8], input: &[u8]) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some(message) = Message::read(&input[found.used..]) {
            found.used += message.length;
            match message.kind {
                ANSWER if message.body.get(4..) == Some(payload) => found.answers += 1,
                ANSWER | FAILURE => return Err(String::from_utf8_lossy(message.body).into_owned()),
                _ => {}
            }
        }
        Ok(found)
    }

    fn serve(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String> {
        let mut used = 0;
        while let Some(message) = Message::read(&input[used..]) {
            used += message.length;
            // The bus itself sends signals.
            if message.kind != CALL {
                continue;
            }
            let sender = message.sender().ok_or("a call without a sender")?;
            let body = message.body.get(4..).ok_or("a call without a body")?;
            self.serial += 1;
            let fields = [(DESTINATION, "s", sender)];
            write_message(
                out,
                ANSWER,
                self.serial,
                &fields,
                Some(message.serial),
                Some(body),
            );
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_to_its_sender() {
        let mut call = Vec::new();
        write_message(&mut call, CALL, 9, &[(SENDER, "s", ":1.7")], None, Some(b"abc"));
        let mut binary = Binary {
            serial: 1,
            callee: ":1.8".into(),
        };
        let mut out = Vec::new();
        assert_eq!(
            binary.serve(&[&call[..], &call[..20]].concat(), &mut out),
            Ok(call.len())
        );
        let answer = Message::read(&out).unwrap();
        assert_eq!(
            (answer.kind, answer.length, answer.body),
            (ANSWER, out.len(), &b"\x03\0\0\0abc"[..])
        );
        let found = binary.answers(b"abc", &out).unwrap();
        assert_eq!((found.used, found.answers), (out.len(), 1));
        assert!(binary.answers(b"abd", &out).is_err());
    }
}
