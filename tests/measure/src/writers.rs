//! Who asks for changes: one writer, or many, each with a connection of its own and one change on its way.
//!
//! No client library takes part: it would be measured too. A [`Speech`] knows how a change is asked for and what an
//! answer looks like; it takes nothing for an answer that is a refusal. One thread serves all writers, the same for
//! every system, so that what differs between two figures is the system.
//!
//! Never: a wait without a bound; a change that is counted before its answer has come.

use crate::error::{Context, Error, Result};
use crate::load::{Found, Stream};
use crate::process::cpu_time;
use crate::statistics::{Sample, percentile};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Writers at the same time, when there are many.
pub const WRITERS: usize = 32;
/// Bytes of a value.
pub const VALUE: usize = 200;
/// An answer that takes longer will not come any more.
pub const ANSWER: Duration = Duration::from_secs(30);
/// What is read at once.
const READ: usize = 64 << 10;

/// How a system is spoken to.
pub trait Speech: Send {
    /// Appends one request that makes all of `objects`.
    fn make(&mut self, objects: Range<usize>, out: &mut Vec<u8>);
    /// Appends one request that gives an object another value.
    fn change(&mut self, object: usize, out: &mut Vec<u8>);
    /// Counts the answers in what came. `out` is for what the protocol itself has to say.
    ///
    /// # Errors
    /// In words: a refusal, or something that is no answer.
    fn hear(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Found, String>;
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Another value of this object.
    Change(usize),
    /// These objects.
    Make(Range<usize>),
}

/// One connection to a system.
pub struct Writer {
    /// For messages.
    system: &'static str,
    stream: Stream,
    speech: Box<dyn Speech>,
    inbox: Vec<u8>,
    out: Vec<u8>,
}

impl Writer {
    /// A writer on this connection.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(system: &'static str, stream: Stream, speech: impl Speech + 'static) -> Result<Self> {
        stream.read_within(Some(ANSWER)).context(system)?;
        Ok(Self {
            system,
            stream,
            speech: Box::new(speech),
            inbox: Vec::with_capacity(READ),
            out: Vec::new(),
        })
    }

    fn wrong(&self, what: String) -> Error {
        Error::Wrong {
            bus: self.system,
            what,
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Change(object) => self.speech.change(object, &mut self.out),
            Ask::Make(objects) => self.speech.make(objects, &mut self.out),
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context(self.system)?;
        self.out.clear();
        Ok(())
    }

    /// Reads once; how many answers that completed.
    fn hear(&mut self) -> Result<usize> {
        let before = self.inbox.len();
        self.inbox.resize(before + READ, 0);
        let read = match self.stream.read(&mut self.inbox[before..]) {
            Ok(0) => return Err(self.wrong("hung up".into())),
            Ok(read) => read,
            Err(error) => return Err(self.wrong(format!("no answer: {error}"))),
        };
        self.inbox.truncate(before + read);
        let found = self.speech.hear(&self.inbox, &mut self.out);
        let Found { used, answers } = found.map_err(|what| self.wrong(what))?;
        self.inbox.drain(..used);
        if !self.out.is_empty() {
            self.flush()?;
        }
        Ok(answers)
    }

    /// Asks for one thing and waits until it is done.
    ///
    /// # Errors
    /// A refusal, something that is no answer, or none.
    pub fn once(&mut self, ask: Ask) -> Result<()> {
        self.ask(ask)?;
        while self.hear()? == 0 {}
        Ok(())
    }

    /// One change after the other for `time`, but at least one; how long each took, ns.
    ///
    /// # Errors
    /// As [`Writer::once`].
    pub fn one_at_a_time(&mut self, objects: usize, time: Duration) -> Result<Vec<u64>> {
        let (begin, mut taken) = (Instant::now(), Vec::new());
        while taken.is_empty() || begin.elapsed() < time {
            let asked = Instant::now();
            self.once(nth(taken.len(), objects))?;
            taken.push(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(taken)
    }
}

/// Every writer asks for what `next` says, again as soon as it is answered, until `next` has nothing more and all is
/// answered; how many answers, and in which time.
///
/// # Errors
/// As [`Writer::once`].
pub fn drive(writers: &mut [Writer], mut next: impl FnMut() -> Option<Ask>) -> Result<(u64, Duration)> {
    let begin = Instant::now();
    let (mut open, mut answered) = (0_usize, 0_u64);
    for writer in &mut *writers {
        let Some(ask) = next() else { break };
        writer.ask(ask)?;
        open += 1;
    }
    let bound = PollTimeout::try_from(ANSWER).unwrap_or(PollTimeout::MAX);
    while open > 0 {
        let mut places: Vec<PollFd<'_>> = writers
            .iter()
            .map(|writer| PollFd::new(writer.stream.as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut places, bound).context("wait for answers")? == 0 {
            let what = format!("no answer within {ANSWER:?}");
            return Err(writers
                .first()
                .map_or(Error::Missing(what.clone()), |writer| writer.wrong(what)));
        }
        let ready: Vec<usize> = (0..places.len())
            .filter(|place| places[*place].any() == Some(true))
            .collect();
        for place in ready {
            let writer = &mut writers[place];
            for _ in 0..writer.hear()? {
                open -= 1;
                answered += 1;
                if let Some(ask) = next() {
                    writer.ask(ask)?;
                    open += 1;
                }
            }
        }
    }
    Ok((answered, begin.elapsed()))
}

/// The change of this number: of `objects`, none of them twice before each was changed, and far apart.
fn nth(number: usize, objects: usize) -> Ask {
    /// A prime, so that it has nothing in common with a number of objects.
    const STEP: usize = 7919;
    Ask::Change(number.wrapping_mul(STEP) % objects)
}

/// Changes objects one after the other for `time`.
///
/// # Errors
/// As [`Writer::once`].
pub fn many(writers: &mut [Writer], objects: usize, time: Duration) -> Result<(u64, Duration)> {
    let (begin, mut number) = (Instant::now(), 0);
    drive(writers, || {
        number += 1;
        (number <= WRITERS || begin.elapsed() < time).then(|| nth(number, objects))
    })
}

/// Changes objects one after the other until `changes` are done; in which time.
///
/// # Errors
/// As [`Writer::once`]; they are not done within `patience`.
pub fn exactly(
    writers: &mut [Writer],
    objects: usize,
    changes: usize,
    patience: Duration,
) -> Result<Duration> {
    let (begin, mut number) = (Instant::now(), 0);
    let (answered, took) = drive(writers, || {
        let more = number < changes && begin.elapsed() < patience;
        number += usize::from(more);
        more.then(|| nth(number, objects))
    })?;
    if answered == changes as u64 {
        Ok(took)
    } else {
        Err(Error::Missing(format!(
            "not finished in {} s: {answered} of {changes} changes",
            patience.as_secs()
        )))
    }
}

/// Makes `objects`, so many with one request.
///
/// # Errors
/// As [`Writer::once`]; they are not made within `patience`.
pub fn make(writers: &mut [Writer], objects: Range<usize>, each: usize, patience: Duration) -> Result<()> {
    let (begin, mut made) = (Instant::now(), objects.start);
    drive(writers, || {
        let from = made;
        if from >= objects.end || begin.elapsed() >= patience {
            return None;
        }
        made = objects.end.min(from.saturating_add(each));
        Some(Ask::Make(from..made))
    })?;
    if made == objects.end {
        Ok(())
    } else {
        Err(Error::Missing(format!(
            "not finished in {} s: {made} of {} objects",
            patience.as_secs(),
            objects.end
        )))
    }
}

/// One round: half of `time` one change at a time, the other half many; `processes` are the system.
///
/// # Errors
/// As [`Writer::once`]; the system has ended.
pub fn round(writers: &mut [Writer], objects: usize, time: Duration, processes: &[u32]) -> Result<Sample> {
    let Some(first) = writers.first_mut() else {
        return Err(Error::Missing("there is no writer".into()));
    };
    let mut taken = first.one_at_a_time(objects, time / 2)?;
    let before = cpu_time(processes)?;
    let (answered, took) = many(writers, objects, time / 2)?;
    let cpu = cpu_time(processes)?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let us = |ns: Option<u64>| ns.unwrap_or_default() as f64 / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let changes = answered as f64;
    Ok(Sample {
        p50_us: us(percentile(&mut taken, 50.0)),
        p99_us: us(percentile(&mut taken, 99.0)),
        calls_per_s: changes / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / changes,
    })
}

/// A value that no writer has written before, as text of exactly `size` bytes.
#[must_use]
pub fn fresh(size: usize) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut text = format!("{:012}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let rest = size.saturating_sub(text.len());
    text.extend(std::iter::repeat_n('x', rest));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A byte for each request, a byte for each answer: `!` refuses.
    struct Bytes;

    impl Speech for Bytes {
        fn make(&mut self, objects: Range<usize>, out: &mut Vec<u8>) {
            out.push(u8::try_from(objects.len()).unwrap());
        }

        fn change(&mut self, object: usize, out: &mut Vec<u8>) {
            out.push(u8::try_from(object).unwrap());
        }

        fn hear(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Found, String> {
            if input.contains(&b'!') {
                return Err("refused".into());
            }
            Ok(Found {
                used: input.len(),
                answers: input.len(),
            })
        }
    }

    /// So many writers, and a thread for each that hands every byte to `answer` until its writer is gone.
    fn writers(count: usize, answer: fn(u8) -> u8) -> (Vec<Writer>, Vec<std::thread::JoinHandle<Vec<u8>>>) {
        (0..count)
            .map(|_| {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let thread = std::thread::spawn(move || {
                    let (mut seen, mut byte) = (Vec::new(), [0]);
                    while theirs.read(&mut byte).is_ok_and(|read| read > 0) {
                        seen.push(byte[0]);
                        if theirs.write_all(&[answer(byte[0])]).is_err() {
                            break;
                        }
                    }
                    seen
                });
                let writer = Writer::new("bytes", Stream::Unix(ours), Bytes).unwrap();
                (writer, thread)
            })
            .unzip()
    }

    #[test]
    fn so_many_changes_are_made_as_were_asked_for_by_all_writers() {
        let (mut some, threads) = writers(3, |_| b'.');
        exactly(&mut some, 10, 100, ANSWER).unwrap();
        drop(some);
        let seen: Vec<Vec<u8>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), 100);
        assert!(seen.iter().all(|seen| !seen.is_empty()), "{seen:?}");
        assert!(seen.iter().flatten().all(|object| *object < 10), "{seen:?}");
    }

    #[test]
    fn what_cannot_be_done_in_time_is_said_with_how_far_it_came() {
        let (mut some, _threads) = writers(1, |_| b'.');
        let error = exactly(&mut some, 10, 5, Duration::ZERO).unwrap_err().to_string();
        assert_eq!(error, "not finished in 0 s: 0 of 5 changes");
        let error = make(&mut some, 4..9, 3, Duration::ZERO).unwrap_err().to_string();
        assert_eq!(error, "not finished in 0 s: 4 of 9 objects");
    }

    #[test]
    fn objects_are_made_each_once() {
        let (mut some, threads) = writers(1, |_| b'.');
        make(&mut some, 4..11, 3, ANSWER).unwrap();
        drop(some);
        let seen: Vec<u8> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(seen, [3, 3, 1]);
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let (mut some, _threads) = writers(2, |object| if object == 7 { b'!' } else { b'.' });
        let error = many(&mut some, 10, ANSWER).unwrap_err().to_string();
        assert_eq!(error, "bytes: refused");
    }

    #[test]
    fn every_object_is_changed_in_its_turn() {
        for objects in [1, 3, 10, 1000] {
            let mut changed: Vec<usize> = (0..objects)
                .map(|number| match nth(number, objects) {
                    Ask::Change(object) => object,
                    Ask::Make(_) => unreachable!("a change was asked for"),
                })
                .collect();
            changed.sort_unstable();
            assert_eq!(changed, (0..objects).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_value_comes_twice() {
        let (one, other) = (fresh(VALUE), fresh(VALUE));
        assert_eq!((one.len(), other.len()), (VALUE, VALUE));
        assert_ne!(one, other);
    }
}
