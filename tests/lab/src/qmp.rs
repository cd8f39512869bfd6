//! What is done to a machine from outside, as a hand at its power button, its cables or its clock would: QEMU's own
//! protocol, one JSON object per line over a Unix socket (QEMU Machine Protocol).

use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once, or not at all.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection to one QEMU; it takes one at a time.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and agrees on the protocol.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).map_err(Error::file("connect to", socket))?;
        stream
            .set_read_timeout(Some(ANSWER))
            .map_err(Error::file("set a bound on", socket))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        // The greeting; what it offers is not needed.
        qmp.line()?;
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One command and its answer; events that come meanwhile are passed over.
    ///
    /// # Errors
    /// QEMU refuses, or does not answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let what = format!("ask QEMU for {command}");
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let stream = self.reader.get_mut();
        stream
            .write_all(text.as_bytes())
            .and_then(|()| stream.write_all(b"\n"))
            .map_err(|error| Error::step(&what, error))?;
        loop {
            let mut said = self.line()?;
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = said.get("error") {
                return Err(Error::step(what, error));
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let what = "read from QEMU";
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(Error::step(what, "it closed the connection")),
            Ok(_) => {
                serde_json::from_str(&line).map_err(|error| Error::step(what, format!("{line:?}: {error}")))
            }
            Err(error) => Err(Error::step(what, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn events_are_passed_over_and_refusals_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a caller");
            let mut reader = BufReader::new(stream);
            let mut heard = vec![];
            for said in [
                "{\"QMP\":{}}\n",
                "{\"return\":{}}\n",
                "{\"event\":\"STOP\"}\n{\"return\":{\"status\":\"paused\"}}\n",
                "{\"error\":{\"desc\":\"no such thing\"}}\n",
            ] {
                reader.get_mut().write_all(said.as_bytes()).expect("it is sent");
                let mut line = String::new();
                reader.read_line(&mut line).expect("it is read");
                heard.push(line);
            }
            heard
        });
        let mut qmp = Qmp::connect(&socket).expect("it answers");
        let status = qmp.ask("query-status", json!({})).expect("an answer");
        assert_eq!(status["status"], "paused");
        let refused = qmp.ask("set_link", json!({ "name": "x" })).expect_err("refused");
        assert!(refused.to_string().contains("no such thing"), "{refused}");
        drop(qmp);
        let heard = server.join().expect("it ends");
        assert!(
            heard[0].contains("qmp_capabilities") && heard[2].contains("set_link"),
            "{heard:?}"
        );
    }
}
