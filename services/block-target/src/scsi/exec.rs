//! Carrying commands out.
//!
//! Unless a volume's write cache is on ([`Volume::write_cache`]), whatever changes the medium is durable before GOOD, whether
//! the host sets FUA or not. With it on, the host says what has to be durable.

use super::access_state;
use super::cdb::{Check, Command, Extent};
use super::inquiry::{
    self, MAX_COMPARE_AND_WRITE, MAX_TRANSFER, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME, PortNames,
};
use super::sense::Sense;
use super::{Outcome, Status, mode, provisioning, report};
use crate::backend::Failure;
use crate::paths::{Refused, Scope};
use crate::volume::{Question, Undone, Volume};
use bytes::Bytes;
use pollux_api::target::Access;
use pollux_block_frame::{LbaRun, Operation, Reply};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// What a command meets: the port, and what the host may see through it.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The port on which it came.
    pub port: PortNames<'a>,
    /// Logical units of this host, ascending.
    pub luns: &'a [u16],
    /// The unit that is addressed, if the host has it.
    pub volume: Option<&'a Volume>,
}

/// Blocks that are written or read at once where a command may span more than one transfer.
const PIECE: u32 = 1024 * 1024;

/// Carries out one command with the data that the host sent for it.
pub async fn execute(command: &Command, data: Bytes, unit: Unit<'_>, scope: &Scope) -> Outcome {
    let done = match (command, unit.volume) {
        (Command::ReportLuns { select, allocation }, _) => {
            report::luns(*select, unit.luns).map(|list| cut(list, *allocation))
        }
        (
            Command::Inquiry {
                page: None,
                allocation,
            },
            volume,
        ) => {
            let data = inquiry::standard(volume.map(Volume::kind));
            Ok(cut(qualified(data, volume, unit.port), *allocation))
        }
        (Command::RequestSense { allocation }, volume) => {
            let state = |volume: &Volume| access_state::polled(access_of(volume, unit.port));
            let sense = volume.map_or(Sense::LUN_NOT_SUPPORTED, state);
            Ok(cut(sense.to_fixed().to_vec(), *allocation))
        }
        (_, None) => Err(Sense::LUN_NOT_SUPPORTED),
        (command, Some(volume)) => {
            let work = Work {
                volume,
                scope,
                begun: AtomicBool::new(false),
            };
            return work.run(command, data, unit.port).await;
        }
    };
    done.unwrap_or_else(Outcome::from)
}

fn access_of(volume: &Volume, port: PortNames<'_>) -> Access {
    volume.paths().route().access_of(port.controller)
}

/// INQUIRY data, with the peripheral qualifier as the state of the port has it.
fn qualified(mut data: Vec<u8>, volume: Option<&Volume>, port: PortNames<'_>) -> Vec<u8> {
    if volume.is_some_and(|volume| access_of(volume, port) == Access::Unavailable) {
        data[0] |= access_state::NOT_CONNECTED;
    }
    data
}

fn cut(mut data: Vec<u8>, allocation: u32) -> Outcome {
    data.truncate(allocation as usize);
    Outcome::data(data)
}

struct Work<'a> {
    volume: &'a Volume,
    scope: &'a Scope,
    /// The owner has let it in once: a unit attention would come too late.
    begun: AtomicBool,
}

/// A command that ends early, with this.
struct Ends(Outcome);

impl From<Sense> for Ends {
    fn from(sense: Sense) -> Self {
        Self(sense.into())
    }
}

impl From<Refused> for Ends {
    fn from(refused: Refused) -> Self {
        Self(match refused {
            // An aborted command is never answered; what stands here is seen by nobody.
            Refused::Busy | Refused::Cancelled => Outcome::status(Status::Busy),
            Refused::Standby => Sense::PORT_STANDBY.into(),
            Refused::Unavailable => Sense::PORT_UNAVAILABLE.into(),
        })
    }
}

/// What a host hears of a command that was not done.
pub(crate) fn undone(undone: Undone, reads: bool) -> Outcome {
    match undone {
        Undone::Refused(refused) => Ends::from(refused).0,
        Undone::Failed(failure) => failed(&failure, reads),
        Undone::Answered(outcome) => outcome,
        Undone::Aborted => Outcome::status(Status::TaskAborted),
    }
}

impl Work<'_> {
    async fn run(&self, command: &Command, data: Bytes, port: PortNames<'_>) -> Outcome {
        match self.medium_or_page(command, data, port).await {
            Ok(outcome) | Err(Ends(outcome)) => outcome,
        }
    }

    async fn medium_or_page(
        &self,
        command: &Command,
        data: Bytes,
        port: PortNames<'_>,
    ) -> Result<Outcome, Ends> {
        let (blocks, block_size) = (self.volume.blocks(), self.volume.identity().block_size);
        let kind = self.volume.kind();
        if let Some(extent) = command.extent() {
            self.check_extent(extent)?;
        }
        let needed = command.data_out(block_size);
        if needed > MAX_TRANSFER.into() {
            return Err(Sense::INVALID_FIELD_IN_CDB.into());
        }
        // A host may announce less data than a WRITE's length says: the blocks that it does send are written, and the
        // residual overflow tells it how much was left out (RFC 7143, 11.4.5). Nothing else can be done in part.
        let writes = matches!(
            command,
            Command::Write { .. } | Command::Verify { write: true, .. }
        );
        let short_write = writes && data.len().is_multiple_of(block_size as usize);
        if (data.len() as u64) < needed && !short_write {
            return Err(Sense::INVALID_FIELD_IN_INFORMATION_UNIT.into());
        }
        let access = access_of(self.volume, port);
        let asks_nobody = matches!(command, Command::ReadCapacity10 | Command::ReadCapacity16 { .. })
            && !matches!(access, Access::Optimized | Access::NonOptimized);
        if let Some(cdb) = command.to_be_let_in().filter(|_| !asks_nobody) {
            self.let_in(cdb).await?;
        }
        match command {
            Command::Inquiry { page, allocation } => {
                let page = page.unwrap_or_default();
                let space = self.volume.provisioning();
                let page = inquiry::vpd(page, kind, self.volume.identity(), space, port);
                let page = page.ok_or(Sense::invalid_field(2))?;
                return Ok(cut(qualified(page, Some(self.volume), port), *allocation));
            }
            Command::ModeSense {
                ten,
                no_block_descriptor,
                long_lba,
                control,
                page,
                subpage,
                allocation,
            } => {
                let query = mode::Query {
                    ten: *ten,
                    no_block_descriptor: *no_block_descriptor,
                    long_lba: *long_lba,
                    control: *control,
                    page: *page,
                    subpage: *subpage,
                };
                let medium = mode::Medium {
                    blocks,
                    block_size,
                    space: self.volume.provisioning(),
                    write_cache: self.volume.write_cache(),
                };
                return Ok(cut(mode::sense(query, &medium)?, *allocation));
            }
            Command::ReportTargetPortGroups { extended, allocation } => {
                let access = self.volume.paths().route().access;
                return Ok(cut(report::port_groups(*extended, access), *allocation));
            }
            Command::ReportSupportedOpcodes {
                timeouts,
                which,
                allocation,
            } => {
                return Ok(cut(report::opcodes(kind, *which, *timeouts)?, *allocation));
            }
            Command::TestUnitReady | Command::StartUnit => {}
            Command::ReadCapacity10 => {
                return Ok(Outcome::data(report::capacity10(blocks, block_size)));
            }
            Command::ReadCapacity16 { allocation } => {
                return Ok(cut(report::capacity16(kind, blocks, block_size), *allocation));
            }
            Command::GetLbaStatus { lba, allocation } => {
                if *lba >= blocks {
                    return Err(Sense::LBA_OUT_OF_RANGE.into());
                }
                let runs = self.lba_status(*lba, blocks - *lba).await?;
                return Ok(cut(provisioning::lba_status(&runs, *allocation), *allocation));
            }
            Command::Read { extent } => {
                self.check_transfer(*extent)?;
                return Ok(Outcome::data(self.read(*extent).await?));
            }
            Command::Write { extent, fua } => {
                let data = data.slice(..data.len().min(self.bytes(extent.blocks)));
                self.write(extent.lba, data, *fua).await?;
            }
            Command::Verify { extent, check, write } => {
                let mut extent = *extent;
                if *write {
                    extent.blocks = extent.blocks.min((data.len() / block_size as usize) as u32);
                }
                self.verify(extent, *check, *write, data).await?;
            }
            Command::SynchronizeCache { .. } => self.flush().await?,
            Command::Unmap { parameters } => {
                // Data beyond what the command names is not the command's.
                self.unmap(&data[..*parameters as usize]).await?;
            }
            Command::WriteSame {
                extent,
                unmap,
                no_data,
            } => {
                let block = if *no_data {
                    Bytes::new()
                } else {
                    data.slice(..block_size as usize)
                };
                self.write_same(*extent, *unmap, block).await?;
            }
            Command::OrWrite { extent } => self.or_write(*extent, data).await?,
            Command::Prefetch { .. } => {}
            Command::CompareAndWrite { extent, fua } => {
                self.compare_and_write(*extent, data, *fua).await?;
            }
            Command::ReportLuns { .. } | Command::RequestSense { .. } => {
                unreachable!("answered without a volume")
            }
            Command::PersistentReserveIn { .. }
            | Command::PersistentReserveOut(_)
            | Command::Reserve6
            | Command::Release6 => unreachable!("answered by the owner"),
        }
        Ok(Outcome::good())
    }

    fn bytes(&self, blocks: u32) -> usize {
        blocks as usize * self.volume.identity().block_size as usize
    }

    fn check_extent(&self, extent: Extent) -> Result<(), Ends> {
        let blocks = self.volume.blocks();
        match extent.lba.checked_add(extent.blocks.into()) {
            // A command of no blocks still names a block, which may be the one after the last.
            Some(end) if end <= blocks => Ok(()),
            _ => Err(Sense::LBA_OUT_OF_RANGE.with_information(extent.lba).into()),
        }
    }

    fn check_transfer(&self, extent: Extent) -> Result<(), Ends> {
        match self.bytes(extent.blocks) <= MAX_TRANSFER as usize {
            true => Ok(()),
            false => Err(Sense::INVALID_FIELD_IN_CDB.into()),
        }
    }

    async fn submit(&self, operation: Operation) -> Result<Bytes, Ends> {
        let reads = matches!(operation, Operation::Read { .. });
        let done = match self.begun.swap(true, Ordering::Relaxed) {
            false => self.volume.submit_first(operation, self.scope).await,
            true => self.volume.submit(operation, self.scope).await,
        };
        done.map_err(|why| Ends(undone(why, reads)))
    }

    /// Has the owner let a command in that does nothing below.
    async fn let_in(&self, cdb: [u8; 16]) -> Result<(), Ends> {
        let begins = !self.begun.swap(true, Ordering::Relaxed);
        let question = Question {
            cdb,
            id: [0; 16],
            data: Bytes::new(),
            begins,
        };
        let answer = self.volume.ask(&question, self.scope).await;
        match answer.map_err(|why| Ends(undone(why, false)))?.outcome {
            outcome if outcome.status == Status::Good => Ok(()),
            outcome => Err(Ends(outcome)),
        }
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, Ends> {
        if extent.blocks == 0 {
            return Ok(Bytes::new());
        }
        let data = self
            .submit(Operation::Read {
                lba: extent.lba,
                blocks: extent.blocks,
            })
            .await?;
        match data.len() == self.bytes(extent.blocks) {
            true => Ok(data),
            false => Err(Sense::TARGET_FAILURE.into()),
        }
    }

    /// What has no cache is durable before GOOD, asked or not.
    fn durable(&self, fua: bool) -> bool {
        fua || !self.volume.write_cache()
    }

    async fn write(&self, lba: u64, data: Bytes, fua: bool) -> Result<(), Ends> {
        if data.is_empty() {
            return Ok(());
        }
        let fua = self.durable(fua);
        self.submit(Operation::Write { lba, data, fua }).await.map(drop)
    }

    async fn flush(&self) -> Result<(), Ends> {
        self.submit(Operation::Flush).await.map(drop)
    }

    /// Pieces of an extent, each small enough for one operation.
    fn pieces(&self, extent: Extent) -> impl Iterator<Item = Extent> + use<> {
        let piece = PIECE / self.volume.identity().block_size;
        (0..extent.blocks.div_ceil(piece)).map(move |index| {
            let done = index * piece;
            Extent {
                lba: extent.lba + u64::from(done),
                blocks: piece.min(extent.blocks - done),
            }
        })
    }

    async fn verify(&self, extent: Extent, check: Check, write: bool, data: Bytes) -> Result<(), Ends> {
        if write {
            // What is verified is the medium, not the cache.
            self.write(extent.lba, data.slice(..self.bytes(extent.blocks)), true)
                .await?;
        }
        for piece in self.pieces(extent) {
            let found = self.read(piece).await?;
            let from = self.bytes((piece.lba - extent.lba) as u32);
            let differs = match check {
                Check::Medium => None,
                Check::Data => {
                    let expected = &data[from..from + found.len()];
                    found.iter().zip(expected).position(|(a, b)| a != b)
                }
                Check::OneBlock => {
                    let block = &data[..self.bytes(1)];
                    found.iter().zip(block.iter().cycle()).position(|(a, b)| a != b)
                }
            };
            if let Some(at) = differs {
                return Err(Sense::MISCOMPARE.with_information((from + at) as u64).into());
            }
        }
        Ok(())
    }

    async fn unmap(&self, list: &[u8]) -> Result<(), Ends> {
        if list.is_empty() {
            return Ok(());
        }
        if list.len() < 8 {
            return Err(Sense::PARAMETER_LIST_LENGTH.into());
        }
        let length = usize::from(u16::from_be_bytes([list[2], list[3]]));
        let descriptors = list[8..]
            .get(..length)
            .ok_or(Sense::PARAMETER_LIST_LENGTH)?
            .chunks_exact(16);
        if descriptors.len() > MAX_UNMAP_DESCRIPTORS as usize {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS.into());
        }
        let extents: Vec<_> = descriptors
            .map(|bytes| Extent {
                lba: u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes")),
                blocks: u32::from_be_bytes(bytes[8..12].try_into().expect("four bytes")),
            })
            .collect();
        // All are checked before the first is done.
        let mut total = 0_u64;
        for extent in &extents {
            self.check_extent(*extent)?;
            total += self.bytes(extent.blocks) as u64;
        }
        if total > MAX_WRITE_SAME {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS.into());
        }
        for extent in extents {
            self.deallocate(extent).await?;
        }
        self.flush().await
    }

    async fn deallocate(&self, extent: Extent) -> Result<(), Ends> {
        // In one go: what is cut into pieces has fewer whole extents.
        let Extent { lba, blocks } = extent;
        if blocks > 0 {
            self.submit(Operation::Unmap { lba, blocks }).await?;
        }
        Ok(())
    }

    /// What is mapped from a block on. It may end before the volume does.
    async fn lba_status(&self, lba: u64, left: u64) -> Result<Vec<LbaRun>, Ends> {
        let blocks = u32::try_from(left).unwrap_or(u32::MAX);
        let answer = self.submit(Operation::LbaStatus { lba, blocks }).await?;
        match Reply::to_lba_status(&answer) {
            Ok(runs) if runs.first().is_some_and(|run| run.lba == lba) => Ok(runs),
            _ => {
                tracing::warn!(lba, blocks, "what is mapped was answered with something else");
                Err(Sense::TARGET_FAILURE.into())
            }
        }
    }

    async fn write_same(&self, extent: Extent, unmap: bool, block: Bytes) -> Result<(), Ends> {
        let to_end = self.volume.blocks() - extent.lba;
        let blocks = match extent.blocks {
            0 => u32::try_from(to_end).map_err(|_| Sense::INVALID_FIELD_IN_CDB)?,
            blocks => blocks,
        };
        if self.bytes(blocks) as u64 > MAX_WRITE_SAME {
            return Err(Sense::INVALID_FIELD_IN_CDB.into());
        }
        let extent = Extent { blocks, ..extent };
        if blocks == 0 {
            return Ok(());
        }
        if unmap && block.iter().all(|byte| *byte == 0) {
            self.deallocate(extent).await?;
            return self.flush().await;
        }
        let block = if block.is_empty() {
            vec![0; self.bytes(1)].into()
        } else {
            block
        };
        let largest = (PIECE as usize / block.len()).min(blocks as usize);
        let full = Bytes::from(block.repeat(largest));
        for piece in self.pieces(extent) {
            self.write(piece.lba, full.slice(..self.bytes(piece.blocks)), false)
                .await?;
        }
        Ok(())
    }

    /// ORWRITE (SBC-3, 5.15): an uninterrupted series of read, OR and write for every initiator on either port. What was
    /// read is compared again by whoever writes, so nobody gets in between; and to do it once more changes nothing, so an
    /// answer that was lost does not matter.
    async fn or_write(&self, extent: Extent, data: Bytes) -> Result<(), Ends> {
        if self.bytes(extent.blocks) > PIECE as usize {
            return Err(Sense::invalid_field(10).into());
        }
        let data = data.slice(..self.bytes(extent.blocks));
        loop {
            let before = self.read(extent).await?;
            let after: Vec<u8> = before.iter().zip(&data).map(|(a, b)| a | b).collect();
            if after[..] == before[..] {
                return Ok(());
            }
            let swap = Operation::CompareAndWrite {
                lba: extent.lba,
                compare: before,
                data: after.into(),
                fua: self.durable(false),
            };
            match self.volume.submit(swap, self.scope).await {
                Err(Undone::Failed(Failure::Miscompare(_) | Failure::InDoubt))
                    if Instant::now() < self.scope.deadline => {}
                done => return done.map(drop).map_err(|why| Ends(undone(why, false))),
            }
        }
    }

    async fn compare_and_write(&self, extent: Extent, data: Bytes, fua: bool) -> Result<(), Ends> {
        if extent.blocks > MAX_COMPARE_AND_WRITE.into() {
            return Err(Sense::invalid_field(13).into());
        }
        if extent.blocks == 0 {
            return Ok(());
        }
        let half = self.bytes(extent.blocks);
        let (compare, data) = (data.slice(..half), data.slice(half..2 * half));
        self.submit(Operation::CompareAndWrite {
            lba: extent.lba,
            compare,
            data,
            fua: self.durable(fua),
        })
        .await
        .map(drop)
    }
}

fn failed(failure: &Failure, reads: bool) -> Outcome {
    match failure {
        Failure::Conflict => return Outcome::status(Status::Busy),
        Failure::Medium if reads => Sense::UNRECOVERED_READ,
        Failure::Medium => Sense::WRITE_ERROR,
        Failure::OutOfRange => Sense::LBA_OUT_OF_RANGE,
        Failure::Miscompare(offset) => Sense::MISCOMPARE.with_information(*offset),
        Failure::Gone(why) => {
            tracing::warn!(%why, "command failed");
            Sense::TARGET_FAILURE
        }
        Failure::InDoubt => Sense::IN_DOUBT,
        Failure::Answered(outcome) => return outcome.clone(),
        Failure::Aborted => return Outcome::status(Status::TaskAborted),
        Failure::NoRoom => Sense::SPACE_ALLOCATION_FAILED,
        Failure::Unsupported => Sense::INVALID_OPCODE,
    }
    .into()
}
