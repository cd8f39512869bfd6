//! NATS: text lines over TCP; a request is a message that names a subject for the answer.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Line, Protocol, Stream};
use memchr::memchr;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const BUS: &str = "nats-server";
const HELLO: Duration = Duration::from_secs(5);

/// Connects one side: the callee answers on subject `echo`, the caller gets its answers on subjects `inbox.N`.
///
/// # Errors
/// What the system says, or the server.
pub fn connect(address: SocketAddr, subject: &str) -> Result<Line> {
    let mut stream = TcpStream::connect(address).context(address)?;
    stream.set_nodelay(true).context(BUS)?;
    stream.set_read_timeout(Some(HELLO)).context(BUS)?;
    let mut reader = BufReader::new(stream.try_clone().context(BUS)?);
    let mut said = String::new();
    reader.read_line(&mut said).context(BUS)?;
    let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {subject} 1\r\nPING\r\n");
    stream.write_all(hello.as_bytes()).context(BUS)?;
    // The answer to the ping says that the subscription is made.
    reader.read_line(&mut said).context(BUS)?;
    if !said.starts_with("INFO ") || !said.ends_with("PONG\r\n") {
        return Err(Error::Wrong { bus: BUS, what: said });
    }
    Ok(Line {
        bus: BUS,
        stream: Stream::Tcp(stream),
        protocol: Box::new(Subjects { number: 0 }),
    })
}

struct Subjects {
    number: u64,
}

struct Message<'a> {
    reply: Option<&'a str>,
    payload: &'a [u8],
    length: usize,
}

/// `MSG subject sid [reply] length`, payload; `None` until it is whole. A `PING` of the server has no payload.
fn message(input: &[u8]) -> Result<Option<Message<'_>>, String> {
    let Some(end) = memchr(b'\n', input) else {
        return Ok(None);
    };
    let line = std::str::from_utf8(&input[..end])
        .map_err(|error| error.to_string())?
        .trim_end();
    let wrong = || Err(line.to_owned());
    let mut words = line.split(' ');
    match words.next() {
        Some("PING" | "PONG") => {
            return Ok(Some(Message {
                reply: None,
                payload: b"",
                length: end + 1,
            }));
        }
        Some("MSG") => {}
        _ => return wrong(),
    }
    let rest: Vec<&str> = words.collect();
    let (reply, size) = match rest[..] {
        [_, _, reply, size] => (Some(reply), size),
        [_, _, size] => (None, size),
        _ => return wrong(),
    };
    let Ok(size) = size.parse::<usize>() else {
        return wrong();
    };
    let begin = end + 1;
    if input.len() < begin + size + 2 {
        return Ok(None);
    }
    Ok(Some(Message {
        reply,
        payload: &input[begin..begin + size],
        length: begin + size + 2,
    }))
}

fn publish(subject: &str, reply: &str, payload: &[u8], out: &mut Vec<u8>) {
    for part in ["PUB ", subject, " ", reply] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(payload.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

impl Protocol for Subjects {
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.number += 1;
        publish("echo", &format!("inbox.{} ", self.number), payload, out);
    }

    fn answers(&mut self, payload: &[u8], input: &[u8]) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some(message) = message(&input[found.used..])? {
            found.used += message.length;
            if message.payload == payload {
                found.answers += 1;
            } else if !message.payload.is_empty() {
                return Err(format!("a payload of {} bytes", message.payload.len()));
            }
        }
        Ok(found)
    }

    fn serve(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String> {
        let mut used = 0;
        while let Some(message) = message(&input[used..])? {
            used += message.length;
            if let Some(reply) = message.reply {
                publish(reply, "", message.payload, out);
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_on_the_subject_that_it_names() {
        let mut subjects = Subjects { number: 0 };
        let mut out = Vec::new();
        let input = b"MSG echo 1 inbox.7 3\r\nabc\r\nPING\r\nMSG echo 1 inbox.8 3\r\nab";
        assert_eq!(subjects.serve(input, &mut out), Ok(33));
        assert_eq!(out, b"PUB inbox.7 3\r\nabc\r\n");
        let found = subjects
            .answers(b"abc", b"MSG inbox.7 1 3\r\nabc\r\nMSG inb")
            .unwrap();
        assert_eq!((found.used, found.answers), (22, 1));
        assert!(subjects.answers(b"abc", b"MSG inbox.7 1 3\r\nabd\r\n").is_err());
        assert!(subjects.answers(b"abc", b"-ERR 'no'\r\n").is_err());
    }
}
