//! The array's configuration: how a change is asked for at a router, and who plays heartbeat for the keepers.
//!
//! A writer is an operator's program: it has not registered, sends one `config.change` at a time under an action of its
//! own, and takes nothing for an answer that does not say where the change is durable.
//!
//! [`Heart`] is registered under heartbeat's name, because only heartbeat may tell a keeper which epoch counts. It
//! decides nothing: it says what the measurement tells it to say, and hears the keeper's reports as heartbeat would.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Stream};
use crate::writers::{Speech, VALUE, Writer, fresh};
use memchr::{memchr, memmem};
use pollux_api::config::{Change, Hex, Host, HostId, Op, Resource};
use pollux_api::{config, heartbeat, rank};
use pollux_runtime::ctx::new_action;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Objects that one change makes: the most that a keeper takes at once, in operations and in bytes of rows.
pub const TOGETHER: usize = 1000;
const DEADLINE_MS: u64 = 25_000;
/// How an answer begins.
const ANSWER: &[u8] = br#"{"jsonrpc":"2.0","id":"#;

/// The host of this number; the name of its initiator is new each time, and the row has [`VALUE`] bytes.
fn host(object: usize) -> Host {
    let mut host = Host {
        id: HostId(Hex([0; 16])),
        name: format!("h{object:07}"),
        iqns: vec![String::new()],
    };
    let row = serde_json::to_vec(&Resource::Host(host.clone())).unwrap_or_default();
    let begin = "iqn.2026-01.org.pollux.measure:";
    let value = fresh(VALUE.saturating_sub(row.len() + begin.len()));
    host.iqns = vec![format!("{begin}{value}")];
    host
}

struct Changes {
    number: u64,
    /// Where a change must be durable: on one controller that is alone, or on both.
    alone: bool,
}

impl Changes {
    fn request(&mut self, ops: Vec<Op>, out: &mut Vec<u8>) {
        self.number += 1;
        let change = Change {
            ops,
            expected_index: None,
            dry_run: false,
        };
        let params = serde_json::to_string(&change).unwrap_or_default();
        let text = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"{}\",\"action_id\":\"{}\",\"deadline_ms\":{DEADLINE_MS},\
             \"params\":{params}}}\n",
            self.number,
            config::CHANGE,
            new_action(),
        );
        out.extend_from_slice(text.as_bytes());
    }
}

impl Speech for Changes {
    fn make(&mut self, objects: Range<usize>, out: &mut Vec<u8>) {
        let make = |object| {
            let Host { name, iqns, .. } = host(object);
            Op::CreateHost { name, iqns }
        };
        self.request(objects.map(make).collect(), out);
    }

    fn change(&mut self, object: usize, out: &mut Vec<u8>) {
        let Host { name, iqns, .. } = host(object);
        self.request(vec![Op::SetIqns { host: name, iqns }], out);
    }

    fn hear(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Found, String> {
        let mut found = Found::default();
        while let Some(length) = memchr(b'\n', &input[found.used..]) {
            let line = &input[found.used..found.used + length];
            let right: &[u8] = if self.alone {
                br#""alone":true"#
            } else {
                br#""alone":false"#
            };
            let own = line.strip_prefix(ANSWER).and_then(|rest| {
                let id = rest.get(..memchr(b',', rest)?)?;
                std::str::from_utf8(id).ok()?.parse::<u64>().ok()
            });
            let done = memmem::find(line, br#""result":{"index":"#).is_some()
                && memmem::rfind(line, right).is_some();
            if own != Some(self.number) || !done {
                return Err(String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned());
            }
            found.used += length + 1;
            found.answers += 1;
        }
        Ok(found)
    }
}

/// A writer at this router, whose changes must be durable on both controllers, or on one that is `alone`.
///
/// # Errors
/// What the system says.
pub fn writer(system: &'static str, socket: &Path, alone: bool) -> Result<Writer> {
    let stream = UnixStream::connect(socket).context(socket.display())?;
    Writer::new(system, Stream::Unix(stream), Changes { number: 0, alone })
}

/// Heartbeat, as far as a keeper sees it.
pub struct Heart {
    stream: UnixStream,
    number: u64,
    answers: Receiver<Value>,
    reader: Option<JoinHandle<()>>,
}

impl Heart {
    /// Registers under heartbeat's name at this router.
    ///
    /// # Errors
    /// What the system says, or the router.
    pub fn register(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context(socket.display())?;
        let incoming = stream.try_clone().context(socket.display())?;
        let (sender, answers) = channel();
        let read = move || {
            let (mut incoming, mut line) = (BufReader::new(incoming), Vec::new());
            while incoming.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                // Anything else is a report of the keeper, which is heard and forgotten.
                if line.starts_with(ANSWER)
                    && let Ok(answer) = serde_json::from_slice(&line)
                    && sender.send(answer).is_err()
                {
                    return;
                }
                line.clear();
            }
        };
        let reader = std::thread::Builder::new()
            .spawn(read)
            .context("start a thread")?;
        let mut heart = Self {
            stream,
            number: 0,
            answers,
            reader: Some(reader),
        };
        let status =
            json!({"name": heartbeat::CONFIG_STATUS.to_string(), "idempotent": true, "notification": true});
        let register = json!({
            "name": heartbeat::SERVICE,
            "version": "0",
            "rank": rank::HEARTBEAT,
            "methods": [status],
        });
        let _: Value = heart.call(pollux_api::router::REGISTER, &register, Duration::from_secs(5))?;
        Ok(heart)
    }

    /// Calls a method and waits for its answer, at most so long.
    ///
    /// # Errors
    /// A refusal, with its words; no answer in time.
    pub fn call<Q: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &Q,
        within: Duration,
    ) -> Result<R> {
        self.number += 1;
        let request = json!({
            "jsonrpc": "2.0",
            "id": self.number,
            "method": method,
            "action_id": new_action().to_string(),
            "deadline_ms": u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            "params": params,
        });
        let text = format!("{request}\n");
        self.stream.write_all(text.as_bytes()).context(method)?;
        // The router answers at the deadline at the latest.
        let end = Instant::now() + within + Duration::from_secs(1);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut answer = self.answers.recv_timeout(left).context(method)?;
            if answer["id"] != self.number {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let words = error["message"].as_str().unwrap_or_default();
                return Err(Error::Step {
                    what: method.to_owned(),
                    why: format!("{words} {}", error["data"]),
                });
            }
            return serde_json::from_value(answer["result"].take()).context(method);
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        // The router may have hung up already.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            // It has printed why, if it panicked.
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(alone: bool) -> Changes {
        Changes { number: 0, alone }
    }

    #[test]
    fn a_row_has_the_size_of_a_value() {
        let row = serde_json::to_string(&Resource::Host(host(7))).unwrap();
        assert_eq!(row.len(), VALUE, "{row}");
        assert_ne!(host(7), host(7), "a change that changes nothing");
    }

    #[test]
    fn what_is_asked_is_a_change_of_the_contract() {
        let (mut changes, mut out) = (changes(false), Vec::new());
        changes.make(3..5, &mut out);
        changes.change(4, &mut out);
        let lines: Vec<Value> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let asked: Vec<Change> = lines
            .iter()
            .map(|line| serde_json::from_value(line["params"].clone()).unwrap())
            .collect();
        assert_eq!((asked[0].ops.len(), asked[1].ops.len()), (2, 1));
        assert!(matches!(&asked[1].ops[0], Op::SetIqns { host, .. } if host == "h0000004"));
        assert_ne!(lines[0]["action_id"], lines[1]["action_id"]);
    }

    #[test]
    fn only_a_change_that_is_durable_where_it_must_be_is_an_answer() {
        let answer =
            |id: u64, rest: &str| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{rest}}}\n").into_bytes();
        let done = |alone: bool| format!(r#""result":{{"index":9,"hash":"00","rows":[],"alone":{alone}}}"#);
        let hear = |alone, input: &[u8]| {
            let mut changes = changes(alone);
            changes.change(1, &mut Vec::new());
            changes.hear(input, &mut Vec::new())
        };
        let both = answer(1, &done(false));
        assert_eq!(hear(false, &both).map(|found| found.answers), Ok(1));
        assert_eq!(
            hear(false, &both[..both.len() - 1]).map(|found| found.used),
            Ok(0)
        );
        assert!(hear(true, &both).is_err(), "it is on both");
        assert!(hear(false, &answer(1, &done(true))).is_err(), "it is on one");
        assert!(hear(false, &answer(2, &done(false))).is_err(), "it is another's");
        let refusal = answer(1, r#""error":{"code":-32050,"message":"config_locked"}"#);
        assert!(hear(false, &refusal).unwrap_err().contains("config_locked"));
    }
}
