//! Disks with SCSI commands: what is sent to them, what they answer, where they are found.
//!
//! Think of letters and a postman. A [`Command`] is a letter, written by a pure function; an answer is read by another
//! pure function, which trusts nothing in it. Only the postman ([`LinuxDisk`]) touches the kernel. So everything that
//! can be wrong with bytes is tested without a disk.
//!
//! | part | what it is |
//! |---|---|
//! | [`command`] | command blocks and parameter lists (SPC-4, SBC-3) |
//! | [`decode`] | INQUIRY, VPD pages, capacity, reservations: bytes from the disk to values |
//! | [`sense`] | why a command was not done |
//! | [`discover`] | the disks that the kernel knows, by WWN, from sysfs |
//! | [`LinuxDisk`] | one block device node, opened once: reads, writes, and SG_IO |
//!
//! Invariants:
//! * one file descriptor per disk, opened `O_RDWR | O_DIRECT | O_EXCL`, for the life of the process. Closing a node that
//!   was open for writing makes udev read the partitions anew, and links of the disk vanish for a moment; a node that is
//!   never closed does not. `O_EXCL` is refused while anybody else has the disk (a mount, md, dm, an older process of
//!   ours), and an older process has it until its last read or write has left the kernel: whoever gets the descriptor has
//!   drained the past.
//! * commands go through SG_IO on that same descriptor. The kernel waits there without being interruptible
//!   (`blk_execute_rq` in drivers/scsi/scsi_ioctl.c), so a command has ended when the call returns, whatever signal came.
//!   On `/dev/sgN` the wait can be interrupted (drivers/scsi/sg.c): the command goes on as an orphan, and after a signal or
//!   a stop the call is made *again*. So `/dev/sgN` is not used at all.
//! * the middle layer retries nothing that is sent this way (`allowed = 0`): a unit attention comes back, and says that
//!   the command was not done. [`run`] sends it again; nothing else is ever sent twice.
//!
//! It must never: turn a short or foreign answer into a value, or a command whose end is not known into one that has not
//! happened.

pub mod command;
pub mod decode;
pub mod discover;
mod linux;
pub mod sense;
#[cfg(test)]
pub(crate) mod tests;

pub use command::Command;
pub use linux::{LinuxDisk, Sharing};
pub use sense::Sense;

use std::io;

/// Unit attentions of one command that are let pass: power on, reservations preempted, capacity or mode changed, and then
/// some. A disk that has more to say than that is not well.
const ATTENTIONS: usize = 8;

/// Status bytes of a command (SAM-5, 5.3.1).
pub mod status {
    /// GOOD.
    pub const GOOD: u8 = 0x00;
    /// CHECK CONDITION: sense data say why.
    pub const CHECK_CONDITION: u8 = 0x02;
    /// BUSY.
    pub const BUSY: u8 = 0x08;
    /// RESERVATION CONFLICT.
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    /// TASK SET FULL.
    pub const TASK_SET_FULL: u8 = 0x28;
    /// TASK ABORTED.
    pub const TASK_ABORTED: u8 = 0x40;
}

/// Why a command has no good end.
#[derive(Debug, thiserror::Error)]
pub enum ScsiError {
    /// The system did not take it, or the device is gone. Nothing was sent.
    #[error("{command}: {source}")]
    Io {
        /// Its name.
        command: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It was lost on its way there or back (host byte of the kernel, `DID_...`), a timeout among that. Whether it was done
    /// is not known.
    #[error(
        "{command}: lost on the way to the disk or back (host byte {host:#04x}, driver byte {driver:#04x})"
    )]
    Transport {
        /// Its name.
        command: &'static str,
        /// Host byte.
        host: u16,
        /// Driver byte.
        driver: u16,
    },
    /// RESERVATION CONFLICT. Nothing was done.
    #[error("{command}: reservation conflict")]
    ReservationConflict {
        /// Its name.
        command: &'static str,
    },
    /// CHECK CONDITION.
    #[error("{command}: {sense}")]
    Check {
        /// Its name.
        command: &'static str,
        /// Why.
        sense: Sense,
    },
    /// Any other status byte.
    #[error("{command}: status {status:#04x} ({})", status_name(*status))]
    Status {
        /// Its name.
        command: &'static str,
        /// The byte.
        status: u8,
    },
    /// An answer that is not what the standard says.
    #[error("{command}: an answer of {length} bytes where {what}")]
    Malformed {
        /// Its name.
        command: &'static str,
        /// Bytes of the answer.
        length: usize,
        /// What would be right.
        what: &'static str,
    },
}

impl ScsiError {
    /// The sense data, if there are any.
    #[must_use]
    pub fn sense(&self) -> Option<&Sense> {
        match self {
            ScsiError::Check { sense, .. } => Some(sense),
            _ => None,
        }
    }

    /// The disk does not know this command, this service action or a field of it. Nothing was done.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.sense().is_some_and(Sense::is_unsupported)
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        status::BUSY => "BUSY",
        status::TASK_SET_FULL => "TASK SET FULL",
        status::TASK_ABORTED => "TASK ABORTED",
        _ => "not expected of a disk",
    }
}

/// One path to one disk. Every call blocks until what it asked for has ended, and may be made by several threads at once.
pub trait ScsiDisk: Send + Sync + 'static {
    /// Writes that are neither durable nor flushed may be lost with the power.
    fn volatile_cache(&self) -> bool;

    /// Sends one command once; answers its data.
    ///
    /// # Errors
    /// Everything but GOOD.
    fn execute(&self, command: &Command) -> Result<Vec<u8>, ScsiError>;

    /// Reads `length` bytes at `offset`; both are multiples of the logical block.
    ///
    /// # Errors
    /// As the kernel's block layer says it: `EBADE` is a reservation conflict, `ENODATA` the medium.
    fn read(&self, offset: u64, length: usize) -> io::Result<Buffer>;

    /// Writes `data` at `offset`; with `durable` it stands on the medium when this returns.
    ///
    /// # Errors
    /// As [`ScsiDisk::read`]. A part may have been written.
    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()>;

    /// Makes every completed write durable.
    ///
    /// # Errors
    /// As [`ScsiDisk::read`].
    fn flush(&self) -> io::Result<()>;

    /// Makes a range read as zeros: deallocates it where the disk promises that such blocks read as zeros, and writes
    /// zeros otherwise.
    ///
    /// # Errors
    /// As [`ScsiDisk::write`].
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Gives the room of a range back, where the device can. What is read there afterwards is what the device says of such
    /// ranges: zeros, of whole chunks of a thin volume.
    ///
    /// # Errors
    /// As [`ScsiDisk::write`].
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length)
    }
}

/// Sends a command, and again for as long as the disk answers with a unit attention: by that it says that the command was
/// not begun (SAM-5, 5.14).
///
/// # Errors
/// As [`ScsiDisk::execute`].
pub fn run(disk: &dyn ScsiDisk, command: &Command) -> Result<Vec<u8>, ScsiError> {
    let mut left = ATTENTIONS;
    loop {
        match disk.execute(command) {
            Err(ScsiError::Check { sense, .. }) if sense.is_unit_attention() && left > 0 => {
                tracing::debug!(command = command.name(), %sense, "unit attention");
                left -= 1;
            }
            end => return end,
        }
    }
}

/// Bytes whose beginning is aligned as direct I/O wants it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

/// Alignment of a buffer for direct I/O, bytes: a page, which is more than any queue asks for (`dma_alignment`).
const ALIGNMENT: usize = 4096;

impl Buffer {
    /// Zeros.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let address = bytes.as_ptr().addr();
        let start = address.next_multiple_of(ALIGNMENT) - address;
        Buffer { bytes, start, length }
    }

    /// A copy.
    #[must_use]
    pub fn copy_of(data: &[u8]) -> Self {
        let mut buffer = Buffer::zeroed(data.len());
        buffer.as_mut().copy_from_slice(data);
        buffer
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
