//! What the camera over the shelf has seen, in lines, and what to think of it.

use pollux_api::id::{ControllerId, DiskIndex};
use pollux_chassis::shelf::{
    FLAG_FUA, FLAG_LOST, FLAG_MISDIRECTED, FLAG_TORN, LogError, Record, WRITE_LOG, WriteLog,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One record of the log, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 1.
    pub sequence: u64,
    /// CLOCK_MONOTONIC of this machine, ns.
    pub at_ns: u64,
    /// Slot.
    pub disk: u16,
    /// Whose port; absent: the shelf itself.
    pub port: Option<ControllerId>,
    /// What it was, for instance `Write` or `PreemptAndAbort`.
    pub event: String,
    /// First block of 512 bytes; or the new key or the victim's, of a command that has one.
    pub lba: u64,
    /// Blocks; or pages that the cache has lost.
    pub blocks: u32,
    /// Key of the writer, hexadecimal; zero: not registered.
    pub key: String,
    /// Key of the reservation's holder, hexadecimal; zero: nobody.
    pub holder: String,
    /// The disk did it.
    pub accepted: bool,
    /// `fua`, and the faults that were applied: `torn`, `lost`, `misdirected`.
    pub flags: Vec<String>,
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        let flags = [
            (FLAG_FUA, "fua"),
            (FLAG_TORN, "torn"),
            (FLAG_LOST, "lost"),
            (FLAG_MISDIRECTED, "misdirected"),
        ];
        Line {
            sequence: record.sequence,
            at_ns: record.at_ns,
            disk: record.disk.get(),
            port: record.port,
            event: format!("{:?}", record.event),
            lba: record.lba,
            blocks: record.blocks,
            key: record.key.to_string(),
            holder: record.holder.to_string(),
            accepted: record.accepted(),
            flags: flags
                .into_iter()
                .filter(|(flag, _)| record.flags & flag != 0)
                .map(|(_, word)| word.to_owned())
                .collect(),
        }
    }
}

/// The verdict on one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Slots of the pool's disks.
    pub disks: Vec<u16>,
    /// Writes that they accepted.
    pub writes: u64,
    /// Of these, the writes of a second writer (see [`WriteLog::second_writers`]). None: one writer at a time.
    pub second_writers: Vec<Line>,
}

/// Reads the log of the shelf in `folder`, also while it runs.
pub fn read(folder: &Path) -> Result<WriteLog, LogError> {
    WriteLog::read(&folder.join(WRITE_LOG))
}

/// Judges S1, one writer of a pool at a time, for a pool on these disks.
#[must_use]
pub fn judge(log: &WriteLog, pool: &[u16]) -> Verdict {
    use pollux_chassis::shelf::Event::{CompareAndWrite, Unmap, Write};
    let disks: Vec<DiskIndex> = pool.iter().map(|slot| DiskIndex::new(*slot)).collect();
    let writes = log.records.iter().filter(|record| {
        let data = matches!(record.event, Write | Unmap | CompareAndWrite);
        data && record.accepted() && disks.contains(&record.disk)
    });
    Verdict {
        disks: pool.to_vec(),
        writes: writes.count() as u64,
        second_writers: log.second_writers(&disks).iter().map(Line::from).collect(),
    }
}

/// The longest time in which one port wrote nothing to one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Slot.
    pub disk: u16,
    /// Whose port.
    pub port: ControllerId,
    /// Between two writes that the disk accepted, ms; absent: there were not two.
    pub longest_ms: Option<u64>,
    /// Writes that the disk accepted.
    pub writes: u64,
}

/// The silences of both ports on each of these disks in the last `span_ns` of the log. On a quorum disk that is how late a
/// controller's slot came at the worst, as nobody can say better than the disk.
#[must_use]
pub fn silences(log: &WriteLog, disks: &[u16], span_ns: u64) -> Vec<Silence> {
    let end = log.records.last().map_or(0, |record| record.at_ns);
    let begin = end.saturating_sub(span_ns);
    let mut found = vec![];
    for disk in disks {
        for port in ControllerId::ALL {
            let writes = log.records.iter().filter(|record| {
                record.at_ns >= begin
                    && record.disk == DiskIndex::new(*disk)
                    && record.port == Some(port)
                    && record.event == pollux_chassis::shelf::Event::Write
                    && record.accepted()
            });
            let times: Vec<u64> = writes.map(|record| record.at_ns).collect();
            let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
            found.push(Silence {
                disk: *disk,
                port,
                longest_ms: gaps.max().map(|ns| ns / 1_000_000),
                writes: times.len() as u64,
            });
        }
    }
    found
}
