//! How long a caller waits while somebody else misbehaves, beside how long it waits alone.
//!
//! Each of [`ROUGH`] goes on in a thread of its own for the time of a sample, against the same router; the caller and
//! the service that it calls have nothing to do with it. A sample alone and one beside each of them make a round, so
//! that what disturbs the machine disturbs both. Caller, service, router and whoever misbehaves share the processors:
//! on two of them somebody who keeps one busy is felt whatever the router does, and so [`BUSY`] is among them, who
//! keeps one busy and says nothing to the router at all.

use crate::error::{Context, Result};
use crate::load::{Callee, Caller};
use crate::peer::pollux::{Side, connect};
use crate::statistics::{Sample, percentile};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nobody misbehaves.
pub const ALONE: &str = "nobody";
/// A processor is kept busy, and the router hears nothing of it.
pub const BUSY: &str = "a busy processor";
/// Everybody who is tried.
pub const ROUGH: [&str; 10] = [
    ALONE,
    BUSY,
    "64 calls at a time",
    "calls, and reads no answer",
    "a service that never reads",
    "answers to nothing",
    "dies in the middle of a message",
    "what is no message",
    "messages of 16 MiB",
    "2,000 idle connections",
];

/// A caller that is slower than this has been forgotten.
const PATIENCE: Duration = Duration::from_millis(100);
const BACK: &str = "near.back";

/// Samples of each of [`ROUGH`], one per round.
pub type Beside = Vec<(&'static str, Vec<Sample>)>;

/// Measures one call at a time of `caller` beside each of them.
///
/// # Errors
/// The caller got a wrong answer or none, or somebody could not begin.
pub fn measure(
    socket: &Path,
    caller: &mut Caller,
    payload: &[u8],
    rounds: usize,
    time: Duration,
) -> Result<Beside> {
    let mut beside: Beside = ROUGH.map(|name| (name, Vec::new())).to_vec();
    for round in 0..rounds {
        for step in 0..ROUGH.len() {
            let (name, samples) = &mut beside[(round + step) % ROUGH.len()];
            samples.push(sample(socket, name, caller, payload, time)?);
        }
    }
    Ok(beside)
}

fn sample(socket: &Path, name: &str, caller: &mut Caller, payload: &[u8], time: Duration) -> Result<Sample> {
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let rough = scope.spawn(|| {
            let done = misbehave(socket, name, &begun, &stop);
            // Whoever could not begin is not waited for.
            begun.store(true, Ordering::Relaxed);
            done
        });
        let measured = {
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            caller.one_at_a_time(payload, time)
        };
        stop.store(true, Ordering::Relaxed);
        let mut taken = measured?;
        rough.join().unwrap_or(Ok(())).context(name)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let us = |ns: Option<u64>| ns.unwrap_or_default() as f64 / 1000.0;
        Ok(Sample {
            p50_us: us(percentile(&mut taken, 50.0)),
            p99_us: us(percentile(&mut taken, 99.0)),
            ..Sample::default()
        })
    })
}

/// Goes on until it is to stop. That the router hangs up is what some of them are after: they come again.
fn misbehave(socket: &Path, name: &str, begun: &AtomicBool, stop: &AtomicBool) -> std::io::Result<()> {
    let stopped = || stop.load(Ordering::Relaxed);
    let begin = || begun.store(true, Ordering::Relaxed);
    let open = || -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let call = |method: &str, id: usize, params: &str| {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n")
    };
    let mut sink = vec![0; 64 << 10];
    match name {
        ALONE => begin(),
        BUSY => {
            begin();
            while !stopped() {
                std::hint::spin_loop();
            }
        }
        "64 calls at a time" => {
            let other = |side, method| connect(socket, side, method).map_err(std::io::Error::other);
            let callee = Callee::start(other(Side::Callee("other"), "")?);
            let callee = callee.map_err(std::io::Error::other)?;
            let line = other(Side::Caller("other-caller"), "other.back")?;
            let mut caller = Caller::new(line).map_err(std::io::Error::other)?;
            begin();
            while !stopped() {
                let while_of_it = Duration::from_millis(10);
                caller.many(b"{}", while_of_it).map_err(std::io::Error::other)?;
            }
            drop(callee);
        }
        "calls, and reads no answer" => {
            let many: String = (0..64).map(|id| call("router.status", id, "{}")).collect();
            until_hung_up(&stopped, &begin, open, many.as_bytes())?;
        }
        "a service that never reads" => {
            let service = connect(socket, Side::Callee("mute"), "").map_err(std::io::Error::other)?;
            let mut caller = open()?;
            let asked = call("mute.back", 1, &format!("\"{}\"", "x".repeat(16 << 10)));
            begin();
            let mut full = false;
            while !stopped() {
                // Nobody answers until its queue is full; from then on each call is refused at once.
                caller.write_all(asked.as_bytes())?;
                if full || caller.read(&mut sink).is_ok_and(|read| read > 0) {
                    full = true;
                }
            }
            drop(service);
        }
        "answers to nothing" => {
            let many: String = (0..64)
                .map(|id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":null}}\n"))
                .collect();
            until_hung_up(&stopped, &begin, open, many.as_bytes())?;
        }
        "dies in the middle of a message" => {
            let whole = call(BACK, 1, &format!("\"{}\"", "x".repeat(100 << 10)));
            begin();
            while !stopped() {
                let mut stream = open()?;
                // It may be closed already.
                let _ = stream.write_all(&whole.as_bytes()[..whole.len() / 2]);
            }
        }
        "what is no message" => {
            let deep = "[".repeat(10_000);
            let lines = [
                &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"near.\xff\"}\n"[..],
                deep.as_bytes(),
                b"\n{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"near.back\"}\n{}\nnot JSON\n",
            ];
            until_hung_up(&stopped, &begin, open, &lines.concat())?;
        }
        "messages of 16 MiB" => {
            let text = call(BACK, 1, &format!("\"{}\"", "x".repeat(16 << 20)));
            until_hung_up(&stopped, &begin, open, text.as_bytes())?;
        }
        _ => {
            let mut idle: Vec<UnixStream> = (0..2000).map(|_| open()).collect::<std::io::Result<_>>()?;
            begin();
            while !stopped() {
                // Nothing comes; a look ends after some patience.
                let _ = idle[0].read(&mut sink);
            }
        }
    }
    Ok(())
}

/// Says the same again and again and reads nothing.
fn until_hung_up(
    stopped: &impl Fn() -> bool,
    begin: &impl Fn(),
    open: impl Fn() -> std::io::Result<UnixStream>,
    said: &[u8],
) -> std::io::Result<()> {
    begin();
    while !stopped() {
        let mut stream = open()?;
        let opened = Instant::now();
        while !stopped() && stream.write_all(said).is_ok() && opened.elapsed() < PATIENCE * 10 {}
    }
    Ok(())
}
