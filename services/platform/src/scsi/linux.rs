//! The postman: one block device node of the kernel.

use super::command::{self, Command, Data};
use super::decode::caching;
use super::sense::Sense;
use super::{Buffer, ScsiDisk, ScsiError, status};
use nix::fcntl::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// `struct sg_io_hdr` of <scsi/sg.h>: version 3 of the interface. A test compares it with the header of this machine.
#[repr(C)]
#[derive(Debug)]
pub(super) struct SgIoHdr {
    pub(super) interface_id: libc::c_int,
    pub(super) dxfer_direction: libc::c_int,
    pub(super) cmd_len: libc::c_uchar,
    pub(super) mx_sb_len: libc::c_uchar,
    pub(super) iovec_count: libc::c_ushort,
    pub(super) dxfer_len: libc::c_uint,
    pub(super) dxferp: *mut libc::c_void,
    pub(super) cmdp: *mut libc::c_uchar,
    pub(super) sbp: *mut libc::c_uchar,
    pub(super) timeout: libc::c_uint,
    pub(super) flags: libc::c_uint,
    pub(super) pack_id: libc::c_int,
    pub(super) usr_ptr: *mut libc::c_void,
    pub(super) status: libc::c_uchar,
    pub(super) masked_status: libc::c_uchar,
    pub(super) msg_status: libc::c_uchar,
    pub(super) sb_len_wr: libc::c_uchar,
    pub(super) host_status: libc::c_ushort,
    pub(super) driver_status: libc::c_ushort,
    pub(super) resid: libc::c_int,
    pub(super) duration: libc::c_uint,
    pub(super) info: libc::c_uint,
}

/// The request of <scsi/sg.h>.
pub(super) const SG_IO: libc::c_ulong = 0x2285;
/// No data.
pub(super) const SG_DXFER_NONE: libc::c_int = -1;
/// Data to the disk.
pub(super) const SG_DXFER_TO_DEV: libc::c_int = -2;
/// Data from the disk.
pub(super) const SG_DXFER_FROM_DEV: libc::c_int = -3;
/// The interface of version 3.
const INTERFACE: libc::c_int = b'S' as libc::c_int;
/// Driver byte: there are sense data. All that a driver byte says beside that is an error of its own.
const DRIVER_SENSE: u16 = 0x08;
/// Room for sense data; `mx_sb_len` is a byte.
const SENSE_BYTES: u8 = 252;

/// With whom a node is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// With nobody: neither another process nor a part of the kernel has it.
    Alone,
    /// With the kernel's mapped devices. Another process that opens it in this way has to wait until everything of this one
    /// has left the kernel.
    WithKernel,
}

/// A disk of the kernel, held by this process alone, or by it and the kernel.
#[derive(Debug)]
pub struct LinuxDisk {
    file: File,
    cache: Cache,
}

/// Who has to see to it that a disk's cache is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// The kernel knows of it, and flushes where it is asked to.
    Kernel,
    /// The disk says that it has none, or that it is off.
    None,
    /// The disk does not describe it. The kernel takes that for "none" and asks the disk for nothing, so we ask.
    Ask,
}

impl LinuxDisk {
    /// Opens a block device node for reading and writing past the page cache. `write_back` is what sysfs says of the disk's
    /// cache.
    ///
    /// # Errors
    /// `EBUSY`: somebody else has it.
    pub fn open(node: &Path, write_back: bool, sharing: Sharing) -> io::Result<Self> {
        let exclusive = match sharing {
            Sharing::Alone => libc::O_EXCL,
            Sharing::WithKernel => 0,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | exclusive)
            .open(node)?;
        if sharing == Sharing::WithKernel {
            // SAFETY: an open descriptor and two flags. The lock goes with the last close of the file, which comes after its
            // last call has left the kernel.
            let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            if locked != 0 {
                let error = io::Error::last_os_error();
                return Err(match error.kind() {
                    io::ErrorKind::WouldBlock => io::Error::from_raw_os_error(libc::EBUSY),
                    _ => error,
                });
            }
        }
        let cache = match write_back {
            true => Cache::Kernel,
            false => {
                // Raw, not through `run`: a unit attention leaves it unknown, and asking is always right.
                let page = execute(&file, &command::mode_caching()).and_then(|page| caching(&page));
                match page {
                    Ok(Some(false)) => Cache::None,
                    _ => Cache::Ask,
                }
            }
        };
        Ok(LinuxDisk { file, cache })
    }

    /// `pwritev2` of one buffer; how much of it was written.
    fn write_durably(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        // SAFETY: one vector that points to `data`, which outlives the call; the kernel only reads from it.
        let written = unsafe { libc::pwritev2(self.file.as_raw_fd(), &part, 1, offset, libc::RWF_DSYNC) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

/// Repeats a read or write until all of it is done. `step` says how much it did from where.
fn whole(length: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        match step(done) {
            Ok(0) => {
                let text = format!("the device ended after {done} of {length} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ScsiDisk for LinuxDisk {
    fn volatile_cache(&self) -> bool {
        self.cache != Cache::None
    }

    fn execute(&self, command: &Command) -> Result<Vec<u8>, ScsiError> {
        execute(&self.file, command)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        let mut buffer = Buffer::zeroed(length);
        let bytes = buffer.as_mut();
        whole(length, |done| {
            self.file.read_at(&mut bytes[done..], offset + done as u64)
        })?;
        Ok(buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let buffer = Buffer::copy_of(data);
        let bytes = buffer.as_ref();
        whole(bytes.len(), |done| {
            let (rest, at) = (&bytes[done..], offset + done as u64);
            match durable {
                true => self.write_durably(rest, at),
                false => self.file.write_at(rest, at),
            }
        })?;
        match durable && self.cache == Cache::Ask {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.cache != Cache::Ask {
            return Ok(());
        }
        // A disk that does not know the question has no cache.
        match super::run(self, &command::synchronize_cache()) {
            Err(error) if !error.is_unsupported() => Err(to_io(error)),
            _ => Ok(()),
        }
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = |_| io::ErrorKind::InvalidInput;
        let (offset, length) = (
            i64::try_from(offset).map_err(range)?,
            i64::try_from(length).map_err(range)?,
        );
        let ask = |flag| {
            nix::fcntl::fallocate(
                &self.file,
                flag | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                offset,
                length,
            )
        };
        // A hole is only punched where the disk says that deallocated blocks read as zeros (block/fops.c: zero out
        // without fallback); everything else is written.
        match ask(FallocateFlags::FALLOC_FL_PUNCH_HOLE) {
            Err(nix::errno::Errno::EOPNOTSUPP) => Ok(ask(FallocateFlags::FALLOC_FL_ZERO_RANGE)?),
            end => Ok(end?),
        }
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = [offset, length];
        // SAFETY: BLKDISCARD reads two numbers from where the pointer leads, and `range` outlives the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // It has nothing to give back, or is no block device.
            Some(libc::EOPNOTSUPP | libc::ENOTTY) => self.zero(offset, length),
            _ => Err(error),
        }
    }
}

/// `BLKDISCARD` of <linux/fs.h>: `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// As the block layer would say it.
fn to_io(error: ScsiError) -> io::Error {
    match error {
        ScsiError::ReservationConflict { .. } => io::Error::from_raw_os_error(libc::EBADE),
        ScsiError::Transport { .. } => io::Error::from_raw_os_error(libc::ENOLINK),
        ScsiError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// SG_IO: sends one command and waits until it has ended.
fn execute(file: &File, command: &Command) -> Result<Vec<u8>, ScsiError> {
    let name = command.name();
    let mut cdb = command.cdb().to_vec();
    let (direction, mut data) = match command.data() {
        Data::None => (SG_DXFER_NONE, Vec::new()),
        Data::In(length) => (SG_DXFER_FROM_DEV, vec![0; *length as usize]),
        Data::Out(data) => (SG_DXFER_TO_DEV, data.clone()),
    };
    let mut sense = [0; SENSE_BYTES as usize];
    let too_long = |_| ScsiError::Io {
        command: name,
        source: io::ErrorKind::InvalidInput.into(),
    };
    let mut header = SgIoHdr {
        interface_id: INTERFACE,
        dxfer_direction: direction,
        cmd_len: u8::try_from(cdb.len()).map_err(too_long)?,
        mx_sb_len: SENSE_BYTES,
        iovec_count: 0,
        dxfer_len: u32::try_from(data.len()).map_err(too_long)?,
        dxferp: data.as_mut_ptr().cast(),
        cmdp: cdb.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: u32::try_from(command::TIMEOUT.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: `header` is the structure that SG_IO takes, and its three pointers lead to buffers of the lengths beside
    // them, which outlive the call: the kernel has copied everything when it returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), SG_IO as _, &mut header) };
    if result != 0 {
        let source = io::Error::last_os_error();
        return Err(ScsiError::Io {
            command: name,
            source,
        });
    }
    let sense = &sense[..usize::from(header.sb_len_wr).min(sense.len())];
    judge(name, &Outcome::of(&header), sense)?;
    match command.data() {
        Data::In(_) => {
            let missing = usize::try_from(header.resid).unwrap_or(0);
            data.truncate(data.len().saturating_sub(missing));
            Ok(data)
        }
        _ => Ok(Vec::new()),
    }
}

/// How a command ended, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) status: u8,
    pub(super) host: u16,
    pub(super) driver: u16,
}

impl Outcome {
    fn of(header: &SgIoHdr) -> Self {
        Outcome {
            status: header.status,
            host: header.host_status,
            driver: header.driver_status,
        }
    }
}

/// Whether a command was done, and if not, why.
pub(super) fn judge(command: &'static str, outcome: &Outcome, sense: &[u8]) -> Result<(), ScsiError> {
    let &Outcome { status, host, driver } = outcome;
    let decoded = Sense::decode(sense);
    match status {
        // The disk has said something: that outweighs what the path says beside it.
        status::CHECK_CONDITION => match decoded {
            // A recovered error was done.
            Some(sense) if matches!(sense.key, 0 | 1) && !sense.deferred && host == 0 => Ok(()),
            Some(sense) => Err(ScsiError::Check { command, sense }),
            None => Err(ScsiError::Status { command, status }),
        },
        status::RESERVATION_CONFLICT => Err(ScsiError::ReservationConflict { command }),
        status::GOOD if host == 0 && driver & !DRIVER_SENSE == 0 => Ok(()),
        status::GOOD => Err(ScsiError::Transport {
            command,
            host,
            driver,
        }),
        status => Err(ScsiError::Status { command, status }),
    }
}
