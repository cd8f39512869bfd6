//! Copies a file to a volume through the host, and reads it back.
//!
//! What `dd` is to a customer: a plain sequential copy with a few commands in flight, and a digest
//! (BLAKE3) of what went in, to be compared with what comes out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use serde::{Deserialize, Serialize};

use crate::engine::{Host, Op};

/// Bytes per command.
const CHUNK: usize = 128 * 1024;
/// Commands in flight.
const DEPTH: usize = 4;

/// A copy, done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes copied.
    pub bytes: u64,
    /// BLAKE3 of them, hexadecimal.
    pub digest: String,
}

fn device_of(host: &Host, lun: u16) -> Result<(usize, usize, u64), String> {
    let devices = host.devices();
    let index = devices
        .iter()
        .position(|device| device.lun == lun)
        .ok_or_else(|| {
            let known: Vec<u16> = devices.iter().map(|device| device.lun).collect();
            format!("no LUN {lun}; the target shows {known:?}")
        })?;
    let info = &devices[index];
    Ok((
        index,
        info.block_size as usize,
        info.blocks * u64::from(info.block_size),
    ))
}

/// Writes `file` to the start of the volume, and flushes it. `progress` counts acknowledged bytes as they come.
pub fn copy_in(host: &Host, lun: u16, file: &Path, progress: &AtomicU64) -> Result<Copied, String> {
    let (device, block_size, capacity) = device_of(host, lun)?;
    let named = |err: std::io::Error| format!("{}: {err}", file.display());
    let mut source = File::open(file).map_err(named)?;
    let length = source.metadata().map_err(named)?.len();
    if length > capacity {
        return Err(format!(
            "{}: {length} bytes do not fit LUN {lun} of {capacity} bytes; a larger volume or a smaller file is needed",
            file.display()
        ));
    }
    let mut hasher = blake3::Hasher::new();
    let (reply, done) = channel();
    let (mut at, mut in_flight) = (0u64, 0usize);
    while at < length || in_flight > 0 {
        while at < length && in_flight < DEPTH {
            let take = CHUNK.min((length - at) as usize);
            let mut data = vec![0; take.next_multiple_of(block_size)];
            source.read_exact(&mut data[..take]).map_err(named)?;
            hasher.update(&data[..take]);
            let op = Op::Write {
                lba: at / block_size as u64,
                data: data.into(),
                durable: false,
            };
            host.submit(device, op, None, take as u64, &reply);
            at += take as u64;
            in_flight += 1;
        }
        let completion = done.recv().map_err(|_| "the host was stopped".to_owned())?;
        completion
            .result
            .map_err(|err| format!("copy to LUN {lun}: {err}"))?;
        progress.fetch_add(completion.tag, Ordering::Relaxed);
        in_flight -= 1;
    }
    host.execute(device, Op::Flush, None)
        .map_err(|err| format!("flush of LUN {lun}: {err}"))?;
    Ok(Copied {
        bytes: length,
        digest: hasher.finalize().to_hex().to_string(),
    })
}

/// Reads `bytes` from the start of the volume into `file`.
pub fn copy_out(host: &Host, lun: u16, bytes: u64, file: &Path) -> Result<Copied, String> {
    let (device, block_size, capacity) = device_of(host, lun)?;
    if bytes > capacity {
        return Err(format!("{bytes} bytes asked for, LUN {lun} has {capacity}"));
    }
    let named = |err: std::io::Error| format!("{}: {err}", file.display());
    let mut sink = File::create(file).map_err(named)?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0u64;
    while at < bytes {
        let take = CHUNK.min((bytes - at) as usize);
        let blocks = take.div_ceil(block_size) as u32;
        let op = Op::Read {
            lba: at / block_size as u64,
            blocks,
        };
        let data = host
            .execute(device, op, None)
            .map_err(|err| format!("read of LUN {lun}: {err}"))?;
        hasher.update(&data[..take]);
        sink.seek(SeekFrom::Start(at)).map_err(named)?;
        sink.write_all(&data[..take]).map_err(named)?;
        at += take as u64;
    }
    Ok(Copied {
        bytes,
        digest: hasher.finalize().to_hex().to_string(),
    })
}
