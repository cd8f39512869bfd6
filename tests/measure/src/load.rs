//! Who calls and who answers: two plain threads on two plain sockets, the same for every bus, so that what differs
//! between two figures is the bus between them.
//!
//! No client library takes part: it would be measured too. A [`Protocol`] knows how to write a request, how to count
//! answers and how to answer requests; it checks that what comes back is what was sent, and nothing else.

use crate::error::{Context, Error, Result};
use crate::process::cpu_time;
use crate::statistics::{Sample, percentile};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Calls on their way at the same time, when there are many.
pub const WINDOW: usize = 64;
/// An answer that takes longer will not come any more.
const ANSWER: Duration = Duration::from_secs(5);
/// What is read at once.
const READ: usize = 128 << 10;

/// A connection to a bus.
#[derive(Debug)]
pub enum Stream {
    /// On a unix socket.
    Unix(UnixStream),
    /// On loopback.
    Tcp(TcpStream),
}

impl Stream {
    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Bounds the time of each read; `None`: for ever.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_within(&self, bound: Option<Duration>) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(bound),
            Self::Tcp(stream) => stream.set_read_timeout(bound),
        }
    }

    fn hang_up(&self) {
        // The other side may have hung up already.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a caller found in the bytes that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes of whole messages.
    pub used: usize,
    /// Answers among them.
    pub answers: usize,
}

/// How one side of a bus is spoken to.
pub trait Protocol: Send {
    /// Appends one request with this payload.
    fn ask(&mut self, payload: &[u8], out: &mut Vec<u8>);
    /// Counts the answers in what came; each must carry the payload.
    ///
    /// # Errors
    /// In words: an answer that is something else.
    fn answers(&mut self, payload: &[u8], input: &[u8]) -> Result<Found, String>;
    /// Answers every whole request in what came with the payload that it carries; the bytes that were used.
    ///
    /// # Errors
    /// In words: something else than a request.
    fn serve(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String>;
}

/// One side of a bus: its connection and its protocol.
pub struct Line {
    /// For messages.
    pub bus: &'static str,
    /// The connection.
    pub stream: Stream,
    /// What is spoken on it.
    pub protocol: Box<dyn Protocol>,
}

/// Bytes that came and are not used yet.
struct Inbox {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Inbox {
    fn new() -> Self {
        Self {
            bytes: vec![0; READ].into(),
            begin: 0,
            end: 0,
        }
    }

    fn fill(&mut self, stream: &mut Stream) -> std::io::Result<usize> {
        self.bytes.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        let read = stream.read(&mut self.bytes[self.end..])?;
        self.end += read;
        Ok(read)
    }

    fn waiting(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }
}

/// The side that answers, in a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Callee {
    stream: Stream,
    thread: Option<JoinHandle<()>>,
}

impl Callee {
    /// Begins to answer.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(mut line: Line) -> Result<Self> {
        let stream = line.stream.try_clone().context(line.bus)?;
        line.stream.read_within(None).context(line.bus)?;
        let answer = move || {
            let (mut inbox, mut out) = (Inbox::new(), Vec::new());
            while inbox.fill(&mut line.stream).is_ok_and(|read| read > 0) {
                out.clear();
                match line.protocol.serve(inbox.waiting(), &mut out) {
                    Ok(used) => inbox.begin += used,
                    // The caller, which gets no answer, reports that.
                    Err(what) => return eprintln!("{}: a request that is none: {what}", line.bus),
                }
                if line.stream.write_all(&out).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .spawn(answer)
            .context("start a thread")?;
        Ok(Self {
            stream,
            thread: Some(thread),
        })
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.stream.hang_up();
        if let Some(thread) = self.thread.take() {
            // It has printed why, if it panicked.
            let _ = thread.join();
        }
    }
}

/// The side that calls and measures.
pub struct Caller {
    line: Line,
    inbox: Inbox,
    out: Vec<u8>,
}

impl Caller {
    /// A caller on this line.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(line: Line) -> Result<Self> {
        line.stream.read_within(Some(ANSWER)).context(line.bus)?;
        Ok(Self {
            line,
            inbox: Inbox::new(),
            out: Vec::new(),
        })
    }

    fn ask(&mut self, payload: &[u8], calls: usize) -> Result<()> {
        self.out.clear();
        for _ in 0..calls {
            self.line.protocol.ask(payload, &mut self.out);
        }
        self.line.stream.write_all(&self.out).context(self.line.bus)
    }

    /// Waits until at least one answer has come; how many.
    fn hear(&mut self, payload: &[u8]) -> Result<usize> {
        loop {
            let wrong = |what| Error::Wrong {
                bus: self.line.bus,
                what,
            };
            match self.inbox.fill(&mut self.line.stream) {
                Ok(0) => return Err(wrong("hung up".into())),
                Ok(_) => {}
                Err(error) => return Err(wrong(format!("no answer: {error}"))),
            }
            let found = self
                .line
                .protocol
                .answers(payload, self.inbox.waiting())
                .map_err(wrong)?;
            self.inbox.begin += found.used;
            if found.answers > 0 {
                return Ok(found.answers);
            }
        }
    }

    /// One call after the other for `time`; how long each took, ns.
    ///
    /// # Errors
    /// An answer is wrong or missing.
    pub fn one_at_a_time(&mut self, payload: &[u8], time: Duration) -> Result<Vec<u64>> {
        let (begin, mut taken) = (Instant::now(), Vec::new());
        while begin.elapsed() < time {
            let asked = Instant::now();
            self.ask(payload, 1)?;
            self.hear(payload)?;
            taken.push(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(taken)
    }

    /// [`WINDOW`] calls on their way for `time`; how many were answered, and in which time.
    ///
    /// # Errors
    /// An answer is wrong or missing.
    pub fn many(&mut self, payload: &[u8], time: Duration) -> Result<(u64, Duration)> {
        let begin = Instant::now();
        self.ask(payload, WINDOW)?;
        let (mut answered, mut open) = (0_u64, WINDOW);
        while open > 0 {
            let heard = self.hear(payload)?;
            answered += heard as u64;
            open -= heard.min(open);
            if begin.elapsed() < time {
                self.ask(payload, heard)?;
                open += heard;
            }
        }
        Ok((answered, begin.elapsed()))
    }

    /// One round: half of `time` one call at a time, the other half many; `processes` are the bus.
    ///
    /// # Errors
    /// An answer is wrong or missing, or the bus has ended.
    pub fn round(&mut self, payload: &[u8], time: Duration, processes: &[u32]) -> Result<Sample> {
        let mut taken = self.one_at_a_time(payload, time / 2)?;
        let before = cpu_time(processes)?;
        let (answered, took) = self.many(payload, time / 2)?;
        let cpu = cpu_time(processes)?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let us = |ns: Option<u64>| ns.unwrap_or_default() as f64 / 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let calls = answered as f64;
        Ok(Sample {
            p50_us: us(percentile(&mut taken, 50.0)),
            p99_us: us(percentile(&mut taken, 99.0)),
            calls_per_s: calls / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / calls,
        })
    }
}

/// JSON of exactly `size` bytes (at least 64) as the array's services send it: a list of volumes.
#[must_use]
pub fn payload(size: usize) -> String {
    const FILL: usize = r#"],"note":""}"#.len();
    let mut text = String::from(r#"{"volumes":["#);
    for number in 0.. {
        let comma = if number == 0 { "" } else { "," };
        let volume = format!(
            r#"{comma}{{"name":"volume-{number:03}","pool":"tank","size":1099511627776,"used":0.375,"online":true}}"#
        );
        if text.len() + volume.len() + FILL > size {
            break;
        }
        text.push_str(&volume);
    }
    text.push_str(r#"],"note":""#);
    let rest = size.saturating_sub(text.len() + 2);
    text.extend(std::iter::repeat_n('x', rest));
    text.push_str("\"}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_is_one_line() {
        for size in [64, 200, 4096] {
            let text = payload(size);
            assert_eq!(text.len(), size, "{text}");
            assert!(!text.contains('\n'));
        }
    }
}
