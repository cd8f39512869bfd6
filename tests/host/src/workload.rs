//! Streams that write and readers that doubt: the notary's work.
//!
//! A *stream* owns a region of a volume, cut into units of a few blocks. It keeps some writes in
//! flight, never two to one unit, each with the unit's next edition number, and notes what was
//! acknowledged and when. A *reader* picks units of that region at random, through each port in
//! turn, and judges what comes: at least the edition acknowledged before the read began, at most
//! the newest issued (audit I11). At the end [`Workload::verify`] reads everything back through
//! every port and compares (audit I2).
//!
//! A write that was never acknowledged may be there, in part or not at all, block by block; it may
//! never be torn inside a block.
//!
//! The pause of a stream is the longest time between two acknowledgements. It is reported, never
//! judged here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::block::{Origin, Random, Wrong};
use crate::engine::{DeviceInfo, Host, Op};
use crate::time::{ms, now_ns};

/// One stream of writes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Number of the writer; no two streams of a run have the same.
    pub writer: u32,
    /// Unit number of the volume.
    pub lun: u16,
    /// First logical block of the region.
    pub first_lba: u64,
    /// Units in the region.
    pub units: u64,
    /// Logical blocks of a unit.
    pub unit_blocks: u32,
    /// Writes in flight.
    pub queue_depth: u32,
    /// Wait after an acknowledgement before the next write takes its place, microseconds.
    pub think_us: u64,
    /// Reads in flight per port that doubt this stream; 0 for none.
    pub readers: u32,
}

/// What the run has in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// Says which units are picked.
    pub seed: u64,
    /// The streams.
    pub streams: Vec<StreamConfig>,
    /// File of acknowledged writes, one line each; none if absent.
    #[serde(default)]
    pub ack_log: Option<PathBuf>,
}

/// A block that was not what it had to be.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Finding {
    /// Unit number of the volume.
    pub lun: u16,
    /// Logical block.
    pub lba: u64,
    /// Port that answered.
    pub port: usize,
    /// When the read began (CLOCK_MONOTONIC ns).
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

/// A time without acknowledgement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Gap {
    /// Last acknowledgement before.
    pub from_ns: u64,
    /// First one after.
    pub to_ns: u64,
}

impl Gap {
    /// Its length.
    pub fn length_ns(&self) -> u64 {
        self.to_ns - self.from_ns
    }
}

/// What a stream did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Number of the writer.
    pub writer: u32,
    /// Unit number of the volume.
    pub lun: u16,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Reads that were judged.
    pub reads: u64,
    /// Commands that failed for good, at most 20 of them told.
    pub errors: Vec<String>,
    /// How many failed.
    pub error_count: u64,
    /// Blocks that were wrong, at most 20 of them told.
    pub findings: Vec<Finding>,
    /// How many were wrong.
    pub finding_count: u64,
    /// Last acknowledgement (CLOCK_MONOTONIC ns), 0 if none.
    pub last_ack_ns: u64,
    /// Times of 20 ms or more without acknowledgement, in order.
    pub gaps: Vec<Gap>,
}

impl StreamReport {
    /// The longest time without acknowledgement that ends after `since_ns`.
    pub fn longest_gap(&self, since_ns: u64) -> Option<Gap> {
        self.gaps
            .iter()
            .filter(|gap| gap.to_ns > since_ns)
            .copied()
            .max_by_key(Gap::length_ns)
    }
}

/// Gaps shorter than this are noise of the machine and not kept.
const GAP_NS: u64 = ms(20);
/// How many findings and errors are told in full.
const TOLD: usize = 20;

#[derive(Clone, Copy, Default)]
struct Unit {
    acked: u64,
    issued: u64,
    in_flight: bool,
}

struct Region {
    units: Vec<Unit>,
    report: StreamReport,
}

struct Stream {
    config: StreamConfig,
    device: usize,
    block_size: usize,
    origin: Origin,
    ports: usize,
    region: Mutex<Region>,
}

impl Stream {
    fn lba_of(&self, unit: u64) -> u64 {
        self.config.first_lba + unit * u64::from(self.config.unit_blocks)
    }

    fn fail(&self, error: String) {
        let mut region = self.region.lock().expect("no panic under the lock");
        region.report.error_count += 1;
        if region.report.errors.len() < TOLD {
            region.report.errors.push(error);
        }
    }

    /// Judges a unit that was read; returns the editions of its blocks.
    fn judge(
        &self,
        unit: u64,
        data: &[u8],
        floor: u64,
        port: usize,
        began: u64,
        ended: u64,
    ) -> Vec<Option<u64>> {
        let mut region = self.region.lock().expect("no panic under the lock");
        let ceiling = region.units[unit as usize].issued;
        let first = self.lba_of(unit);
        let mut editions = Vec::new();
        for (lba, block) in (first..).zip(data.chunks_exact(self.block_size)) {
            let verdict = self.origin.judge(lba, block, floor, ceiling);
            editions.push(verdict.as_ref().ok().copied());
            if let Err(wrong) = verdict {
                region.report.finding_count += 1;
                if region.report.findings.len() < TOLD {
                    let lun = self.config.lun;
                    region.report.findings.push(Finding {
                        lun,
                        lba,
                        port,
                        began_ns: began,
                        ended_ns: ended,
                        wrong,
                    });
                }
            }
        }
        region.report.reads += 1;
        editions
    }
}

/// What reading everything back showed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Units read, over all streams and ports.
    pub units: u64,
    /// Blocks with an acknowledged edition.
    pub acknowledged_blocks: u64,
    /// Blocks that were wrong, at most 20 told.
    pub findings: Vec<Finding>,
    /// How many were wrong.
    pub finding_count: u64,
    /// Blocks that two ports showed in two editions.
    pub disagreements: Vec<String>,
    /// Reads that failed.
    pub errors: Vec<String>,
}

impl Verdict {
    /// Nothing is wrong, and there was something to look at.
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0 && self.disagreements.is_empty() && self.errors.is_empty() && self.units > 0
    }
}

/// A running (or stopped, not yet verified) workload.
pub struct Workload {
    host: Arc<Host>,
    streams: Vec<Arc<Stream>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

type AckLog = Arc<Mutex<Option<BufWriter<File>>>>;

impl Workload {
    /// Starts all streams and readers. Refuses, before anything is written, a region that does not
    /// fit its volume or overlaps another.
    pub fn start(host: Arc<Host>, config: &WorkloadConfig) -> Result<Self, String> {
        let devices = host.devices();
        let run = u128::from(now_ns()) << 64
            | u128::from(std::process::id()) << 32
            | u128::from(config.seed as u32);
        let mut streams: Vec<Arc<Stream>> = Vec::new();
        for stream in &config.streams {
            check(stream, &devices, &config.streams)?;
            let device = devices
                .iter()
                .position(|d| d.lun == stream.lun)
                .expect("checked above");
            let info = &devices[device];
            streams.push(Arc::new(Stream {
                config: stream.clone(),
                device,
                block_size: info.block_size as usize,
                origin: Origin {
                    run,
                    volume: volume_id(info),
                    writer: stream.writer,
                },
                ports: info.paths.len(),
                region: Mutex::new(Region {
                    units: vec![Unit::default(); stream.units as usize],
                    report: StreamReport {
                        writer: stream.writer,
                        lun: stream.lun,
                        ..StreamReport::default()
                    },
                }),
            }));
        }
        let log: AckLog = Arc::new(Mutex::new(config.ack_log.as_deref().map(create_log).transpose()?));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for stream in &streams {
            let seed = config.seed ^ u64::from(stream.config.writer) << 40;
            threads.push(spawn("writer", {
                let (host, stream, stop, log) = (
                    Arc::clone(&host),
                    Arc::clone(stream),
                    Arc::clone(&stop),
                    Arc::clone(&log),
                );
                move || write_stream(&host, &stream, &stop, seed, &log)
            }));
            if stream.config.readers > 0 {
                threads.push(spawn("reader", {
                    let (host, stream, stop) = (Arc::clone(&host), Arc::clone(stream), Arc::clone(&stop));
                    move || read_stream(&host, &stream, &stop, seed ^ 0x5ead)
                }));
            }
        }
        Ok(Workload {
            host,
            streams,
            stop,
            threads,
        })
    }

    /// What the streams have done so far.
    pub fn reports(&self) -> Vec<StreamReport> {
        self.streams
            .iter()
            .map(|s| s.region.lock().expect("no panic under the lock").report.clone())
            .collect()
    }

    /// Stops: no new command; waits for those in flight.
    pub fn stop(&mut self) -> Vec<StreamReport> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.streams[0].fail("a thread of the workload panicked".into());
            }
        }
        self.reports()
    }

    /// Reads every unit that was ever written through every port and judges it. Call after `stop`.
    pub fn verify(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for stream in &self.streams {
            verify_stream(&self.host, stream, &mut verdict);
        }
        verdict
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .expect("a thread")
}

fn create_log(path: &Path) -> Result<BufWriter<File>, String> {
    let file =
        File::create(path).map_err(|err| format!("{}: {err}; a writable file is needed", path.display()))?;
    Ok(BufWriter::new(file))
}

fn volume_id(info: &DeviceInfo) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for designator in &info.identity {
        hasher.update(designator.as_bytes());
        hasher.update(b"\n");
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("8 bytes"))
}

fn check(stream: &StreamConfig, devices: &[DeviceInfo], all: &[StreamConfig]) -> Result<(), String> {
    let who = format!("stream of writer {}", stream.writer);
    let Some(device) = devices.iter().find(|device| device.lun == stream.lun) else {
        let known: Vec<u16> = devices.iter().map(|device| device.lun).collect();
        return Err(format!(
            "{who}: no LUN {}; the target shows {known:?}",
            stream.lun
        ));
    };
    if stream.units == 0 || stream.unit_blocks == 0 || stream.queue_depth == 0 {
        return Err(format!(
            "{who}: units, unit_blocks and queue_depth must be 1 or more"
        ));
    }
    let extent = |s: &StreamConfig| {
        s.units
            .checked_mul(u64::from(s.unit_blocks))
            .and_then(|n| Some(s.first_lba..s.first_lba.checked_add(n)?))
    };
    let Some(mine) = extent(stream).filter(|extent| extent.end <= device.blocks) else {
        return Err(format!(
            "{who}: {} units of {} blocks from {} do not fit LUN {} of {} blocks",
            stream.units, stream.unit_blocks, stream.first_lba, stream.lun, device.blocks
        ));
    };
    for other in all
        .iter()
        .filter(|other| other.writer != stream.writer && other.lun == stream.lun)
    {
        if extent(other).is_some_and(|theirs| theirs.start < mine.end && mine.start < theirs.end) {
            return Err(format!(
                "{who}: its region overlaps that of writer {}",
                other.writer
            ));
        }
    }
    if all.iter().filter(|other| other.writer == stream.writer).count() > 1 {
        return Err(format!("{who}: two streams have this number"));
    }
    Ok(())
}

/// How long the loops wait for a completion before they look whether to stop.
const LOOK: Duration = Duration::from_millis(20);

fn write_stream(host: &Host, stream: &Stream, stop: &AtomicBool, seed: u64, log: &AckLog) {
    let mut random = Random::new(seed);
    let (reply, done) = channel();
    let mut in_flight = 0;
    // Slots that wait out their think time, by the instant they are free.
    let mut thinking: Vec<u64> = vec![0; stream.config.queue_depth as usize];
    loop {
        let now = now_ns();
        let stopping = stop.load(Ordering::Acquire);
        if !stopping {
            let free = thinking.iter().filter(|at| **at <= now).count();
            thinking.retain(|at| *at > now);
            for _ in 0..free {
                if submit_write(host, stream, &mut random, &reply) {
                    in_flight += 1;
                } else {
                    thinking.push(now + ms(1));
                }
            }
        } else if in_flight == 0 {
            break;
        }
        let wait = thinking
            .iter()
            .min()
            .map_or(LOOK, |at| Duration::from_nanos(at.saturating_sub(now)).min(LOOK));
        let Ok(completion) = done.recv_timeout(wait) else {
            continue;
        };
        in_flight -= 1;
        thinking.push(completion.completed_ns + stream.config.think_us * 1000);
        let unit = completion.tag;
        match completion.result {
            Ok(_) => acknowledge(stream, unit, completion.completed_ns, log),
            Err(err) => {
                stream.region.lock().expect("no panic under the lock").units[unit as usize].in_flight = false;
                stream.fail(format!("write of LBA {}: {err}", stream.lba_of(unit)));
            }
        }
    }
    let flushed = log
        .lock()
        .expect("no panic under the lock")
        .as_mut()
        .map_or(Ok(()), BufWriter::flush);
    if let Err(err) = flushed {
        stream.fail(format!("file of acknowledged writes: {err}"));
    }
}

/// Submits a write of a random unit that has none in flight; false if every try found it busy.
fn submit_write(
    host: &Host,
    stream: &Stream,
    random: &mut Random,
    reply: &Sender<crate::engine::Completion>,
) -> bool {
    for _ in 0..8 {
        let unit = random.below(stream.config.units);
        let seq = {
            let mut region = stream.region.lock().expect("no panic under the lock");
            let state = &mut region.units[unit as usize];
            if state.in_flight {
                continue;
            }
            state.in_flight = true;
            state.issued += 1;
            state.issued
        };
        let first = stream.lba_of(unit);
        let mut data = vec![0; stream.config.unit_blocks as usize * stream.block_size];
        for (lba, block) in (first..).zip(data.chunks_exact_mut(stream.block_size)) {
            stream.origin.seal(lba, seq, block);
        }
        host.submit(
            stream.device,
            Op::Write {
                lba: first,
                data: data.into(),
                durable: true,
            },
            None,
            unit,
            reply,
        );
        return true;
    }
    false
}

fn acknowledge(stream: &Stream, unit: u64, at: u64, log: &AckLog) {
    let seq = {
        let mut region = stream.region.lock().expect("no panic under the lock");
        let state = &mut region.units[unit as usize];
        state.acked = state.issued;
        state.in_flight = false;
        let seq = state.acked;
        let report = &mut region.report;
        report.acknowledged += 1;
        if report.last_ack_ns != 0 && at.saturating_sub(report.last_ack_ns) >= GAP_NS {
            report.gaps.push(Gap {
                from_ns: report.last_ack_ns,
                to_ns: at,
            });
        }
        report.last_ack_ns = report.last_ack_ns.max(at);
        seq
    };
    if let Some(file) = log.lock().expect("no panic under the lock").as_mut() {
        let (writer, lun, lba) = (stream.config.writer, stream.config.lun, stream.lba_of(unit));
        if let Err(err) = writeln!(file, "{at} writer={writer} lun={lun} lba={lba} seq={seq}") {
            stream.fail(format!("file of acknowledged writes: {err}"));
        }
    }
}

fn read_stream(host: &Host, stream: &Stream, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    let (reply, done) = channel();
    let slots = stream.config.readers as usize * stream.ports;
    // Per slot: unit, floor at the beginning, beginning.
    let mut reading: Vec<Option<(u64, u64, u64)>> = vec![None; slots];
    let mut free_at = vec![0u64; slots];
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if stopping && reading.iter().all(Option::is_none) {
            return;
        }
        let now = now_ns();
        for slot in 0..slots {
            if stopping || reading[slot].is_some() || free_at[slot] > now {
                continue;
            }
            let unit = random.below(stream.config.units);
            let floor = stream.region.lock().expect("no panic under the lock").units[unit as usize].acked;
            reading[slot] = Some((unit, floor, now_ns()));
            let op = Op::Read {
                lba: stream.lba_of(unit),
                blocks: stream.config.unit_blocks,
            };
            host.submit(stream.device, op, Some(slot % stream.ports), slot as u64, &reply);
        }
        let Ok(completion) = done.recv_timeout(Duration::from_millis(2)) else {
            continue;
        };
        let slot = completion.tag as usize;
        let (unit, floor, began) = reading[slot].take().expect("one completion per read");
        free_at[slot] = completion.completed_ns + stream.config.think_us * 1000;
        match completion.result {
            Ok(data) => {
                stream.judge(
                    unit,
                    &data,
                    floor,
                    completion.port,
                    began,
                    completion.completed_ns,
                );
            }
            Err(err) => stream.fail(format!("read of LBA {}: {err}", stream.lba_of(unit))),
        }
    }
}

fn verify_stream(host: &Host, stream: &Stream, verdict: &mut Verdict) {
    let units: Vec<(u64, Unit)> = {
        let region = stream.region.lock().expect("no panic under the lock");
        (0..)
            .zip(region.units.iter().copied())
            .filter(|(_, unit)| unit.issued > 0)
            .collect()
    };
    let before = stream
        .region
        .lock()
        .expect("no panic under the lock")
        .report
        .finding_count;
    let told = stream
        .region
        .lock()
        .expect("no panic under the lock")
        .report
        .findings
        .len();
    let mut seen: Vec<Vec<Option<u64>>> = Vec::new();
    for port in 0..stream.ports {
        // A bounded number in flight, in order.
        for (chunk, batch) in units.chunks(16).enumerate() {
            let (reply, done) = channel();
            let began = now_ns();
            for (slot, (unit, _)) in batch.iter().enumerate() {
                let op = Op::Read {
                    lba: stream.lba_of(*unit),
                    blocks: stream.config.unit_blocks,
                };
                host.submit(stream.device, op, Some(port), slot as u64, &reply);
            }
            drop(reply);
            let mut answers: Vec<_> = done.iter().collect();
            answers.sort_by_key(|completion| completion.tag);
            if answers.len() != batch.len() {
                verdict.errors.push("the host was stopped".into());
                return;
            }
            for completion in answers {
                let index = completion.tag as usize;
                let (unit, state) = batch[index];
                let at = chunk * 16 + index;
                verdict.units += 1;
                let editions = match completion.result {
                    Ok(data) => {
                        let ended = completion.completed_ns;
                        stream.judge(unit, &data, state.acked, completion.port, began, ended)
                    }
                    Err(err) => {
                        verdict
                            .errors
                            .push(format!("LUN {} unit {unit}: {err}", stream.config.lun));
                        vec![None; stream.config.unit_blocks as usize]
                    }
                };
                if port == 0 {
                    if state.acked > 0 {
                        verdict.acknowledged_blocks += u64::from(stream.config.unit_blocks);
                    }
                    seen.push(editions);
                } else if seen[at] != editions {
                    verdict.disagreements.push(format!(
                        "LUN {} LBA {}: editions {:?} first, {editions:?} through port {}",
                        stream.config.lun,
                        stream.lba_of(unit),
                        seen[at],
                        completion.port
                    ));
                }
            }
        }
    }
    let region = stream.region.lock().expect("no panic under the lock");
    verdict.finding_count += region.report.finding_count - before;
    verdict
        .findings
        .extend(region.report.findings[told..].iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(writer: u32, lun: u16, first_lba: u64, units: u64) -> StreamConfig {
        StreamConfig {
            writer,
            lun,
            first_lba,
            units,
            unit_blocks: 8,
            queue_depth: 4,
            think_us: 0,
            readers: 1,
        }
    }

    fn device(lun: u16, blocks: u64) -> DeviceInfo {
        DeviceInfo {
            lun,
            identity: vec!["x".into()],
            blocks,
            block_size: 512,
            write_cache: false,
            paths: vec![],
        }
    }

    #[test]
    fn regions_that_do_not_fit_are_refused_with_the_figures() {
        let devices = [device(0, 100)];
        for (bad, word) in [
            (vec![stream(1, 0, 0, 13)], "do not fit"),
            (vec![stream(1, 0, u64::MAX, 1)], "do not fit"),
            (vec![stream(1, 1, 0, 1)], "no LUN 1"),
            (vec![stream(1, 0, 0, 0)], "1 or more"),
            (vec![stream(1, 0, 0, 4), stream(2, 0, 24, 4)], "overlaps"),
            (vec![stream(1, 0, 0, 4), stream(1, 0, 32, 4)], "two streams"),
        ] {
            let err = check(&bad[0], &devices, &bad).expect_err(word);
            assert!(err.contains(word), "{err}");
        }
        let good = [stream(1, 0, 0, 4), stream(2, 0, 32, 4)];
        assert_eq!(check(&good[1], &devices, &good), Ok(()));
    }

    #[test]
    fn the_pause_is_the_longest_gap_that_ends_after_the_fault() {
        let gap = |from_ns, to_ns| Gap { from_ns, to_ns };
        let report = StreamReport {
            gaps: vec![gap(0, 500), gap(600, 700), gap(800, 1000)],
            ..Default::default()
        };
        assert_eq!(report.longest_gap(550), Some(gap(800, 1000)));
        assert_eq!(report.longest_gap(0), Some(gap(0, 500)));
        assert_eq!(report.longest_gap(1000), None);
    }

    #[test]
    fn nothing_looked_at_is_not_clean() {
        assert!(!Verdict::default().is_clean());
    }
}
