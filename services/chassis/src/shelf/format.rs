//! What the shelf keeps in its directory, and how it recognizes what is not its own.
//!
//! ```text
//! shelf.json     array, seed, and one line per disk (index, serial, id, bytes, quorum); CRC32C over all of it
//! disk-NN.img    4 KiB header (magic, version, array, disk, serial, size, CRC32C), then the data, sparse
//! disk-NN.pr     registrations and reservation (persistence through power loss), replaced as a whole; CRC32C
//! writes.log     see `log`
//! lock           held while a shelf runs; names its process
//! ```
//!
//! Nothing here repairs anything: a file that is missing, cut short, damaged or another array's is named, with what
//! stood there and what would be right, and the shelf does not start.

use pollux_api::id::{ArrayId, DiskIndex};
use pollux_block_frame::{FullStatus, Reply};
use pollux_platform::file::{LockError, replace};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use uuid::Uuid;

use super::log::LogError;

/// Offset of the data in an image.
pub(super) const DATA_OFFSET: u64 = 4096;
/// Bytes per logical block: the unit of every address.
pub const BLOCK_SIZE: u32 = 512;
/// Bytes per physical block: whole or not at all.
pub const PHYSICAL_BLOCK_SIZE: u32 = 4096;

const IMAGE_MAGIC: [u8; 8] = *b"PLXDISK1";
const PR_MAGIC: [u8; 8] = *b"PLXPRST1";

/// What a shelf is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The array that it will belong to.
    pub array: ArrayId,
    /// Disks for pools.
    pub data_disks: u16,
    /// Size of each, bytes; a multiple of 4096.
    pub data_bytes: u64,
    /// Quorum disks: 1, 3 or 5; they stand in the last slots.
    pub quorum_disks: u16,
    /// Size of each, bytes; a multiple of 4096.
    pub quorum_bytes: u64,
}

/// One disk, as built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Its slot.
    pub index: DiskIndex,
    /// Serial number.
    pub serial: String,
    /// Identity.
    pub id: Uuid,
    /// Size, bytes.
    pub bytes: u64,
    /// A quorum disk: carries no pool and no reservation.
    pub quorum: bool,
}

/// Why a shelf does not start, or cannot be made.
#[derive(Debug, Error)]
pub enum ShelfError {
    /// A file or directory cannot be used.
    #[error("shelf: {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another chassis has this directory.
    #[error("shelf: {0}; end it, or name another directory")]
    Busy(#[source] LockError),
    /// There is a shelf already where one was to be made.
    #[error("shelf: {} exists already; name an empty directory, or start what is there", path.display())]
    Exists {
        /// Its description.
        path: PathBuf,
    },
    /// A size, count or combination that no shelf has.
    #[error("shelf: {what} {given}: {right}")]
    Layout {
        /// Which figure.
        what: &'static str,
        /// As given.
        given: u64,
        /// What would be right.
        right: &'static str,
    },
    /// A file that is damaged, cut short, or not what it should be.
    #[error("shelf: {}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        what: String,
    },
    /// A file of another array.
    #[error("shelf: {} belongs to array {found}, not to {expected}", path.display())]
    WrongArray {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ArrayId,
        /// Whose it should be.
        expected: ArrayId,
    },
    /// The write log cannot be used.
    #[error("shelf: {0}")]
    Log(#[from] LogError),
    /// A fault or question that names a disk which does not exist.
    #[error("shelf: no {disk}; this shelf has disk-00 to disk-{last:02}")]
    NoDisk {
        /// As named.
        disk: DiskIndex,
        /// The last slot that is filled.
        last: u16,
    },
}

impl ShelfError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> ShelfError + use<'_> {
        move |source| ShelfError::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn damaged(path: &Path, what: impl Into<String>) -> ShelfError {
        ShelfError::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl Layout {
    /// Every figure is one that a shelf can have.
    pub fn check(&self) -> Result<(), ShelfError> {
        let wrong = |what, given, right| Err(ShelfError::Layout { what, given, right });
        match self {
            Layout { quorum_disks, .. } if !matches!(quorum_disks, 1 | 3 | 5) => wrong(
                "number of quorum disks",
                (*quorum_disks).into(),
                "1, 3 or 5 have a majority",
            ),
            Layout { data_disks, .. } if !(1..=64).contains(data_disks) => wrong(
                "number of data disks",
                (*data_disks).into(),
                "a shelf has 1 to 64",
            ),
            Layout { data_bytes, .. } if !size_ok(*data_bytes, 2 << 20) => wrong(
                "size of a data disk",
                *data_bytes,
                "a multiple of 4096, from 2 MiB (room for a label) to 16 TiB",
            ),
            Layout { quorum_bytes, .. } if !size_ok(*quorum_bytes, 1 << 20) => wrong(
                "size of a quorum disk",
                *quorum_bytes,
                "a multiple of 4096, from 1 MiB to 16 TiB",
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn disks(&self) -> Vec<DiskSpec> {
        let serial_of_array = &Uuid::from_bytes(*self.array.as_bytes()).simple().to_string()[20..];
        (0..self.data_disks + self.quorum_disks)
            .map(|slot| {
                let quorum = slot >= self.data_disks;
                DiskSpec {
                    index: DiskIndex::new(slot),
                    serial: format!("PLX{serial_of_array}{slot:02}").to_uppercase(),
                    id: Uuid::new_v4(),
                    bytes: if quorum {
                        self.quorum_bytes
                    } else {
                        self.data_bytes
                    },
                    quorum,
                }
            })
            .collect()
    }
}

fn size_ok(bytes: u64, least: u64) -> bool {
    bytes.is_multiple_of(PHYSICAL_BLOCK_SIZE.into()) && (least..=16 << 40).contains(&bytes)
}

/// `shelf.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) magic: String,
    pub(super) version: u32,
    pub(super) array: ArrayId,
    pub(super) disks: Vec<DiskSpec>,
    /// CRC32C of this object written with a zero here.
    pub(super) crc32c: u32,
}

pub(super) const DESCRIPTION: &str = "shelf.json";
const MAGIC: &str = "pollux-shelf";
const VERSION: u32 = 1;

impl Description {
    pub(super) fn new(array: ArrayId, disks: Vec<DiskSpec>) -> Self {
        let mut new = Description {
            magic: MAGIC.to_owned(),
            version: VERSION,
            array,
            disks,
            crc32c: 0,
        };
        new.crc32c = new.checksum();
        new
    }

    fn checksum(&self) -> u32 {
        let plain = Description {
            crc32c: 0,
            ..self.clone()
        };
        crc32c::crc32c(&serde_json::to_vec(&plain).expect("strings and numbers always serialize"))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), ShelfError> {
        let path = dir.join(DESCRIPTION);
        let mut text = serde_json::to_vec_pretty(self).expect("strings and numbers always serialize");
        text.push(b'\n');
        replace(&path, &text, 0o600).map_err(ShelfError::io(&path))
    }

    pub(super) fn read(dir: &Path) -> Result<Self, ShelfError> {
        let path = dir.join(DESCRIPTION);
        let text = std::fs::read(&path).map_err(ShelfError::io(&path))?;
        let read: Description = serde_json::from_slice(&text)
            .map_err(|error| ShelfError::damaged(&path, format!("not a shelf's description: {error}")))?;
        if read.magic != MAGIC || read.version != VERSION {
            let what = format!(
                "{} version {}; this build reads {MAGIC} version {VERSION}",
                read.magic.escape_default(),
                read.version
            );
            return Err(ShelfError::damaged(&path, what));
        }
        let computed = read.checksum();
        if read.crc32c != computed {
            let what = format!(
                "checksum {:#010x} does not match its contents ({computed:#010x}): the file was damaged or edited",
                read.crc32c
            );
            return Err(ShelfError::damaged(&path, what));
        }
        Ok(read)
    }
}

pub(super) fn image_path(dir: &Path, disk: DiskIndex) -> PathBuf {
    dir.join(format!("{disk}.img"))
}

fn image_header(array: ArrayId, spec: &DiskSpec) -> Vec<u8> {
    let mut out = vec![0; DATA_OFFSET as usize];
    out[0..8].copy_from_slice(&IMAGE_MAGIC);
    out[8..24].copy_from_slice(array.as_bytes());
    out[24..40].copy_from_slice(spec.id.as_bytes());
    out[40..48].copy_from_slice(&spec.bytes.to_le_bytes());
    out[48..50].copy_from_slice(&spec.index.get().to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Makes the image of a blank disk.
pub(super) fn create_image(dir: &Path, array: ArrayId, spec: &DiskSpec) -> Result<(), ShelfError> {
    let path = image_path(dir, spec.index);
    let make = || {
        let file = File::options().write(true).create_new(true).open(&path)?;
        file.write_all_at(&image_header(array, spec), 0)?;
        file.set_len(DATA_OFFSET + spec.bytes)
    };
    make().map_err(ShelfError::io(&path))
}

/// Opens an image that is exactly what the description says.
pub(super) fn open_image(dir: &Path, array: ArrayId, spec: &DiskSpec) -> Result<File, ShelfError> {
    let path = image_path(dir, spec.index);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(ShelfError::io(&path))?;
    let length = file.metadata().map_err(ShelfError::io(&path))?.len();
    let mut found = vec![0; DATA_OFFSET as usize];
    file.read_exact_at(&mut found, 0).map_err(|_| {
        ShelfError::damaged(&path, format!("{length} bytes, too short for its header of 4096"))
    })?;
    let word = |at: usize| u32::from_le_bytes([found[at], found[at + 1], found[at + 2], found[at + 3]]);
    if found[..8] != IMAGE_MAGIC || word(60) != crc32c::crc32c(&found[..60]) {
        return Err(ShelfError::damaged(
            &path,
            "its header is not that of a disk image, or is damaged",
        ));
    }
    let mut owner = [0; 16];
    owner.copy_from_slice(&found[8..24]);
    let owner = ArrayId::from_bytes(owner);
    if owner != array {
        return Err(ShelfError::WrongArray {
            path,
            found: owner,
            expected: array,
        });
    }
    if found != image_header(array, spec) {
        let what = format!(
            "is the image of another disk (slot {}); here stands {} with serial {}",
            u16::from_le_bytes([found[48], found[49]]),
            spec.index,
            spec.serial
        );
        return Err(ShelfError::damaged(&path, what));
    }
    if length != DATA_OFFSET + spec.bytes {
        let what = format!(
            "{length} bytes, but {} has {} with its header",
            spec.index,
            DATA_OFFSET + spec.bytes
        );
        return Err(ShelfError::damaged(&path, what));
    }
    Ok(file)
}

pub(super) fn reservations_path(dir: &Path, disk: DiskIndex) -> PathBuf {
    dir.join(format!("{disk}.pr"))
}

/// Registrations and reservation as a file: magic, CRC32C, then the encoding that the block protocol has for them.
pub(super) fn write_reservations(path: &Path, status: &FullStatus) -> io::Result<()> {
    let body = Reply::full_status(status).payload;
    let crc = crc32c::crc32c(&body);
    replace(path, &[&PR_MAGIC[..], &crc.to_le_bytes(), &body].concat(), 0o600)
}

/// Reads them back; no file means that nobody ever registered.
pub(super) fn read_reservations(path: &Path) -> Result<FullStatus, ShelfError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FullStatus::default()),
        Err(error) => return Err(ShelfError::io(path)(error)),
    };
    let damaged = || ShelfError::damaged(path, "not a file of reservations, or damaged");
    let body = bytes.strip_prefix(&PR_MAGIC).ok_or_else(damaged)?;
    let (crc, body) = body.split_at_checked(4).ok_or_else(damaged)?;
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Err(damaged());
    }
    Reply::data(body.to_vec().into())
        .to_full_status()
        .map_err(|_| damaged())
}
