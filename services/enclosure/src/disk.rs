//! One disk, as the server of its socket: block frames in, calls of the kernel out.
//!
//! ```text
//! session --> lane (so many at a time) --> blocking thread: has the session ended? --> the kernel, to the end
//! ```
//!
//! Two lanes: reads and writes in one, reservations in the other, so that a fence does not wait behind writes that the disk
//! does not answer. A command that has reached the kernel is waited for, whatever becomes of its session: the session that
//! comes after is let in when nothing of the older one is under way. A command that still waits in its lane when its session
//! ends is never begun.

use crate::choice::Facts;
use crate::reservations::{Refusal, Reservations, status_of};
use bytes::Bytes;
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_block_frame::{
    EndpointInfo, Handler, Hello, MAX_PAYLOAD, Operation, Port, Purpose, Reply, Request, ReservationOut,
    Status,
};
use pollux_platform::scsi::sense::key;
use pollux_platform::scsi::{ScsiDisk, ScsiError, command, run};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Reads and writes of one disk that are in the kernel at a time.
pub(crate) const DATA_LANE: usize = 16;
/// Commands for reservations of one disk that are in the kernel at a time.
pub(crate) const CONTROL_LANE: usize = 2;
/// Most bytes that are zeroed by one call: between two calls a session that has ended is noticed.
const ZERO_BYTES: u64 = 32 << 20;

/// A disk that is served.
pub(crate) struct Served {
    path: Arc<dyn ScsiDisk>,
    slot: DiskIndex,
    port: Port,
    info: EndpointInfo,
    swap: u8,
    quorum: bool,
    reservations: Arc<Reservations>,
    data: Semaphore,
    control: Semaphore,
    /// The status of the last command that the journal has been told of; `Ok`: it is well.
    told: AtomicU16,
}

/// A session at it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    ended: AtomicBool,
}

/// The port of a controller at every disk.
pub(crate) fn port_of(controller: ControllerId) -> Port {
    match controller {
        ControllerId::A => Port::A,
        ControllerId::B => Port::B,
    }
}

impl Served {
    pub(crate) fn new(
        path: Arc<dyn ScsiDisk>,
        slot: DiskIndex,
        controller: ControllerId,
        quorum: bool,
        facts: Facts,
        reservations: Reservations,
    ) -> Self {
        Served {
            path,
            slot,
            port: port_of(controller),
            info: facts.info,
            swap: facts.swap,
            quorum,
            reservations: Arc::new(reservations),
            data: Semaphore::new(DATA_LANE),
            control: Semaphore::new(CONTROL_LANE),
            told: AtomicU16::new(Status::Ok as u16),
        }
    }

    /// Does something in a blocking thread, to its end, unless the session has ended or the moment has passed before.
    async fn work<F>(
        &self,
        lane: &Semaphore,
        session: &Arc<Session>,
        begin_by: Option<Instant>,
        work: F,
    ) -> Result<Reply, Refusal>
    where
        F: FnOnce(&dyn ScsiDisk, &Session) -> Result<Reply, Refusal> + Send + 'static,
    {
        // Never closed.
        let _place = lane.acquire().await;
        let (path, session) = (self.path.clone(), session.clone());
        let done = tokio::task::spawn_blocking(move || {
            session.may_begin()?;
            match begin_by {
                Some(moment) if moment < Instant::now() => Err(Status::Aborted.into()),
                _ => work(&*path, &session),
            }
        });
        done.await.unwrap_or_else(|error| {
            Err(Refusal {
                status: Status::NoPath,
                why: format!("a command did not come to its end: {error}"),
            })
        })
    }

    /// Offset and length in bytes of a range of blocks.
    fn range(&self, lba: u64, blocks: u64) -> Result<(u64, u64), Refusal> {
        let size = u64::from(self.info.block_size);
        match lba.checked_add(blocks) {
            Some(end) if end <= self.info.blocks => Ok((lba * size, blocks * size)),
            _ => Err(Status::OutOfRange.into()),
        }
    }

    /// The range that some data fill.
    fn extent(&self, lba: u64, data: &Bytes) -> Result<(u64, u64), Refusal> {
        let size = self.info.block_size as usize;
        match data.len().is_multiple_of(size) {
            true => self.range(lba, (data.len() / size) as u64),
            false => Err(Status::BadRequest.into()),
        }
    }

    async fn perform(&self, session: &Arc<Session>, request: Request) -> Result<Reply, Refusal> {
        let begin_by = request.begin_by;
        match request.operation {
            Operation::Info => Ok(Reply::info(&self.info)),
            Operation::Read { lba, blocks } => {
                let (offset, length) = self.range(lba, blocks.into())?;
                if length > u64::from(MAX_PAYLOAD) {
                    return Err(Status::BadRequest.into());
                }
                self.work(&self.data, session, begin_by, move |path, _| {
                    let data = path
                        .read(offset, length as usize)
                        .map_err(|error| of_io(path, &error))?;
                    Ok(Reply::data(Bytes::from_owner(data)))
                })
                .await
            }
            Operation::Write { lba, data, fua } => {
                let (offset, _) = self.extent(lba, &data)?;
                self.work(&self.data, session, begin_by, move |path, _| {
                    path.write(offset, &data, fua)
                        .map_err(|error| of_io(path, &error))?;
                    Ok(Reply::ok())
                })
                .await
            }
            Operation::Flush => {
                self.work(&self.data, session, begin_by, |path, _| {
                    path.flush().map_err(|error| of_io(path, &error))?;
                    Ok(Reply::ok())
                })
                .await
            }
            Operation::Unmap { lba, blocks } => {
                let (offset, length) = self.range(lba, blocks.into())?;
                self.work(&self.data, session, begin_by, move |path, session| {
                    let mut done = 0;
                    while done < length {
                        session.may_begin()?;
                        let part = ZERO_BYTES.min(length - done);
                        path.zero(offset + done, part)
                            .map_err(|error| of_io(path, &error))?;
                        done += part;
                    }
                    Ok(Reply::ok())
                })
                .await
            }
            Operation::CompareAndWrite {
                lba,
                compare,
                data,
                fua,
            } => {
                let (_, length) = self.extent(lba, &data)?;
                let blocks = u8::try_from(length / u64::from(self.info.block_size)).unwrap_or(u8::MAX);
                if self.swap == 0 {
                    return Err(Refusal {
                        status: Status::Unsupported,
                        why: "this disk has no COMPARE AND WRITE".to_owned(),
                    });
                }
                if blocks == 0 || blocks > self.swap || compare.len() != data.len() {
                    let why = format!("COMPARE AND WRITE of this disk takes 1 to {} blocks", self.swap);
                    return Err(Refusal {
                        status: Status::BadRequest,
                        why,
                    });
                }
                self.work(&self.data, session, begin_by, move |path, _| {
                    let command = command::compare_and_write(lba, blocks, &compare, &data, fua);
                    match run(path, &command) {
                        Ok(_) => Ok(Reply::ok()),
                        Err(error) => swapped(error),
                    }
                })
                .await
            }
            Operation::ReservationIn => {
                let reservations = self.reservations.clone();
                self.work(&self.control, session, begin_by, move |path, _| {
                    Ok(Reply::full_status(&reservations.read(path)?))
                })
                .await
            }
            Operation::ReservationOut(out) if self.quorum && !leaves_none(&out) => Err(Refusal {
                status: Status::Unsupported,
                why: "a quorum disk takes no reservation: both controllers vote on it".to_owned(),
            }),
            Operation::ReservationOut(out) => {
                let (reservations, slot) = (self.reservations.clone(), self.slot);
                self.work(&self.control, session, begin_by, move |path, _| {
                    reservations.change(path, out)?;
                    tracing::info!(disk = %slot, ?out, "reservation changed");
                    Ok(Reply::ok())
                })
                .await
            }
            // What hosts reserve is no disk's business, nor is what a volume has of the pool.
            Operation::LbaStatus { .. }
            | Operation::Scsi { .. }
            | Operation::RecordLoad
            | Operation::RecordStore { .. } => Err(Status::Unsupported.into()),
        }
    }
}

impl Session {
    /// Nothing of a session that has ended is begun.
    fn may_begin(&self) -> Result<(), Refusal> {
        match self.ended.load(Ordering::SeqCst) {
            true => Err(Status::Aborted.into()),
            false => Ok(()),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal {
            status,
            why: status.text().to_owned(),
        }
    }
}

/// Whether nobody of the array can have the disk reserved through this: a key that is registered keeps nobody out, and CLEAR
/// ends every reservation, a stranger's that keeps the controllers from voting, too.
fn leaves_none(out: &ReservationOut) -> bool {
    match out {
        ReservationOut::Register { .. }
        | ReservationOut::RegisterAndIgnore { .. }
        | ReservationOut::Clear { .. } => true,
        ReservationOut::Reserve { .. } | ReservationOut::Release { .. } | ReservationOut::Preempt { .. } => {
            false
        }
    }
}

/// The end of a COMPARE AND WRITE that was not done.
fn swapped(error: ScsiError) -> Result<Reply, Refusal> {
    match error.sense() {
        Some(sense) if sense.key == key::MISCOMPARE => Ok(Reply::with_detail(
            Status::Miscompare,
            sense.information.unwrap_or(0),
        )),
        _ => Err(error.into()),
    }
}

/// What the block layer's errors mean (`blk_errors` in block/blk-core.c).
///
/// EIO is said of a medium and of a device that has just been taken away alike: the disk itself tells which.
fn of_io(path: &dyn ScsiDisk, error: &io::Error) -> Refusal {
    /// `errno` values that libc's users know by name.
    const EBADE: i32 = 52;
    const ENODATA: i32 = 61;
    const EILSEQ: i32 = 84;
    const EREMOTEIO: i32 = 121;
    const EIO: i32 = 5;
    const EROFS: i32 = 30;
    const EPERM: i32 = 1;
    const ENOMEM: i32 = 12;
    let scsi = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ScsiError>());
    let status = match (scsi, error.raw_os_error()) {
        (Some(scsi), _) => status_of(scsi),
        (_, Some(EBADE)) => Status::ReservationConflict,
        (_, Some(ENODATA | EILSEQ | EREMOTEIO)) => Status::MediumError,
        (_, Some(EIO)) => match run(path, &command::test_unit_ready()) {
            Err(ScsiError::Io { .. } | ScsiError::Transport { .. }) => Status::NoPath,
            _ => Status::MediumError,
        },
        // The kernel has made the device read-only.
        (_, Some(EROFS | EPERM)) => Status::WriteProtected,
        (_, Some(ENOMEM)) => Status::MediumError,
        // ENOLINK, ETIMEDOUT, ENXIO, ENODEV, and a device that ends too early: it is not there any more.
        _ => Status::NoPath,
    };
    Refusal {
        status,
        why: error.to_string(),
    }
}

impl Handler for Served {
    type Session = Session;

    async fn log_in(&self, hello: &Hello) -> Result<Session, Status> {
        match hello.purpose == Purpose::Disk && hello.port == self.port {
            true => Ok(Session::default()),
            false => Err(Status::Unauthorized),
        }
    }

    async fn handle(&self, session: &Arc<Session>, request: Request) -> Reply {
        if !request.volume.is_nil() {
            return Reply::status(Status::UnknownVolume);
        }
        let opcode = request.operation.opcode();
        let result = self.perform(session, request).await;
        let status = result.as_ref().err().map_or(Status::Ok, |refusal| refusal.status);
        // Told once, not for each of the many commands that a broken disk fails.
        let news = self.told.swap(status as u16, Ordering::Relaxed) != status as u16;
        match result {
            Ok(reply) => reply,
            Err(Refusal { status, why }) => {
                match status {
                    Status::ReservationConflict | Status::Aborted => {
                        tracing::debug!(disk = %self.slot, ?opcode, why, "not done");
                    }
                    _ if news => tracing::warn!(disk = %self.slot, ?opcode, ?status, why, "not done"),
                    _ => tracing::debug!(disk = %self.slot, ?opcode, ?status, why, "not done"),
                }
                Reply::status(status)
            }
        }
    }

    fn ended(&self, session: &Arc<Session>) {
        session.ended.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_platform::fake::scsi::{FakeDisk, Model};
    use pollux_platform::scsi::decode::Wwn;

    #[test]
    fn errors_of_the_block_layer_are_told_as_what_they_mean() {
        let errno = io::Error::from_raw_os_error;
        let disk = FakeDisk::new(Model::new(Wwn::Naa(0x5000_c500_a1b2_c3d7)));
        let path = disk.port(7);
        for (error, status) in [
            (errno(52), Status::ReservationConflict),
            (errno(61), Status::MediumError),
            (errno(5), Status::MediumError),
            (errno(67), Status::NoPath),
            (errno(19), Status::NoPath),
            (errno(110), Status::NoPath),
            (errno(30), Status::WriteProtected),
            (io::ErrorKind::UnexpectedEof.into(), Status::NoPath),
            (
                io::Error::other(ScsiError::ReservationConflict { command: "X" }),
                Status::ReservationConflict,
            ),
        ] {
            assert_eq!(of_io(&path, &error).status, status, "{error}");
        }
        disk.cut(7, true);
        for error in [errno(5), path.write(0, &[0; 512], true).expect_err("it is gone")] {
            assert_eq!(of_io(&path, &error).status, Status::NoPath, "{error}");
        }
        assert!(
            errno(52).to_string().contains("xchange"),
            "EBADE is 52 here: {}",
            errno(52)
        );
        assert!(
            errno(61).to_string().contains("No data"),
            "ENODATA is 61 here: {}",
            errno(61)
        );
    }
}
