//! The router of this repository: JSON-RPC, one object per line.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Line, Protocol, Stream};
use memchr::{memchr, memmem};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const BUS: &str = "pollux";
const HEAD: &[u8] = br#"{"jsonrpc":"2.0","id":"#;
const PARAMS: &[u8] = br#""params":"#;
const RESULT: &[u8] = br#""result":"#;
/// The router answers a registration at once.
const REGISTER: Duration = Duration::from_secs(5);

/// Which side of the bus a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A service of this name that answers its method `back`.
    Callee(&'static str),
    /// A service of this name that calls.
    Caller(&'static str),
    /// A program that has not registered, as a person's: what it says is validated at the door.
    Stranger,
}

/// Connects one side; `method` is what a caller calls.
///
/// # Errors
/// What the system says, or the router.
pub fn connect(socket: &Path, side: Side, method: &str) -> Result<Line> {
    let mut stream = UnixStream::connect(socket).context(socket.display())?;
    let register = match side {
        Side::Callee(name) => format!(
            r#"{{"name":"{name}","version":"0","rank":80,"methods":[{{"name":"{name}.back","idempotent":true}}]}}"#
        ),
        Side::Caller(name) => format!(r#"{{"name":"{name}","version":"0","rank":70,"methods":[]}}"#),
        Side::Stranger => String::new(),
    };
    if !register.is_empty() {
        let message = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"router.register","params":{register}}}"#);
        stream.set_read_timeout(Some(REGISTER)).context(BUS)?;
        writeln!(stream, "{message}").context(BUS)?;
        let mut answer = String::new();
        // Nothing follows the answer before the first call.
        BufReader::new(&stream).read_line(&mut answer).context(BUS)?;
        if !answer.contains("\"result\"") {
            return Err(Error::Wrong {
                bus: BUS,
                what: answer,
            });
        }
    }
    let protocol = Lines {
        number: 0,
        method: method.to_owned(),
    };
    Ok(Line {
        bus: BUS,
        stream: Stream::Unix(stream),
        protocol: Box::new(protocol),
    })
}

/// The router there and its partner's know each other.
pub fn is_linked(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REGISTER))?;
        writeln!(stream, r#"{{"jsonrpc":"2.0","id":0,"method":"router.status"}}"#)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let answer = ask()
        .ok()
        .and_then(|answer| serde_json::from_str::<serde_json::Value>(&answer).ok());
    answer.is_some_and(|answer| answer["result"]["link"]["up"] == true)
}

struct Lines {
    number: u64,
    method: String,
}

fn line(input: &[u8]) -> Option<&[u8]> {
    Some(&input[..=memchr(b'\n', input)?])
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned()
}

impl Protocol for Lines {
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.number += 1;
        out.extend_from_slice(HEAD);
        out.extend_from_slice(self.number.to_string().as_bytes());
        out.extend_from_slice(br#","method":""#);
        out.extend_from_slice(self.method.as_bytes());
        out.extend_from_slice(br#"","params":"#);
        out.extend_from_slice(payload);
        out.extend_from_slice(b"}\n");
    }

    fn answers(&mut self, payload: &[u8], input: &[u8]) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some(line) = line(&input[found.used..]) {
            let result = line
                .strip_suffix(b"}\n")
                .and_then(|line| line.strip_suffix(payload));
            if !result.is_some_and(|line| line.ends_with(RESULT)) {
                return Err(text(line));
            }
            found.used += line.len();
            found.answers += 1;
        }
        Ok(found)
    }

    fn serve(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String> {
        let mut used = 0;
        while let Some(line) = line(&input[used..]) {
            let id = line
                .strip_prefix(HEAD)
                .and_then(|rest| Some(&rest[..memchr(b',', rest)?]));
            let payload = memmem::find(line, PARAMS)
                .map(|at| &line[at + PARAMS.len()..])
                .and_then(|rest| rest.strip_suffix(b"}\n"));
            let (Some(id), Some(payload)) = (id, payload) else {
                return Err(text(line));
            };
            out.extend_from_slice(HEAD);
            out.extend_from_slice(id);
            out.push(b',');
            out.extend_from_slice(RESULT);
            out.extend_from_slice(payload);
            out.extend_from_slice(b"}\n");
            used += line.len();
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_served_and_counted() {
        let mut lines = Lines {
            number: 0,
            method: "echo.back".into(),
        };
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        lines.ask(b"{\"a\":1}", &mut asked);
        let whole = asked.len();
        asked.extend_from_slice(b"{\"jsonrpc");
        assert_eq!(lines.serve(&asked, &mut answered), Ok(whole));
        let found = lines.answers(b"{\"a\":1}", &answered).unwrap();
        assert_eq!((found.used, found.answers), (answered.len(), 1));
        let refusal = br#"{"jsonrpc":"2.0","id":1,"error":{"a":1}}"#;
        assert!(
            lines
                .answers(b"{\"a\":1}", &[&refusal[..], b"\n"].concat())
                .is_err()
        );
    }
}
