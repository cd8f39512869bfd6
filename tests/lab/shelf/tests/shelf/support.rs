//! A shelf in this process, hosts at its ports, and the command blocks that the tests send.

use pollux_api::chassis::{DiskFault, SetDiskFault};
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_host::scsi::{Direction, Status};
use pollux_host::single::{Login, Single};
use pollux_lab_shelf::{LabShelf, Options, Panel, target_name};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const A: ControllerId = ControllerId::A;
pub(crate) const B: ControllerId = ControllerId::B;
/// Longest wait for anything that is going to happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How long is watched that something does not happen.
pub(crate) const WHILE: Duration = Duration::from_millis(300);
pub(crate) const BLOCK: usize = 512;
/// A page of the cache, in blocks.
pub(crate) const PAGE: u64 = 8;
pub(crate) const DATA_DISKS: u16 = 3;

/// Whether libiscsi is missing; if it is, that is said.
pub(crate) fn no_library() -> bool {
    match pollux_host::library() {
        Ok(()) => false,
        Err(error) => {
            println!("SKIPPED: {error}");
            true
        }
    }
}

/// Initiator name of the machine that usually is at this port.
pub(crate) fn name(port: ControllerId) -> String {
    format!("iqn.2026-01.pollux.lab:machine.{port}")
}

/// A shelf in this process: three data disks of 16 MiB and a quorum disk of 1 MiB.
pub(crate) struct Lab {
    shelf: Option<LabShelf>,
    pub(crate) folder: TempDir,
    pub(crate) runtime: Runtime,
    size: u64,
}

impl Lab {
    pub(crate) fn start() -> Self {
        Self::start_with(16 << 20)
    }

    /// With data disks of this size, bytes.
    pub(crate) fn start_with(size: u64) -> Self {
        let folder = tempfile::tempdir().expect("scratch");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let mut lab = Lab {
            shelf: None,
            folder,
            runtime,
            size,
        };
        lab.restart();
        lab
    }

    /// The shelf's process ends and another one goes on with the folder.
    pub(crate) fn restart(&mut self) {
        if let Some(shelf) = self.shelf.take() {
            self.runtime.block_on(shelf.stop());
        }
        let options = Options {
            size: self.size,
            ..options(self.folder.path())
        };
        let started = self.runtime.block_on(LabShelf::start(&options));
        self.shelf = Some(started.expect("a shelf"));
    }

    fn shelf(&self) -> &LabShelf {
        self.shelf.as_ref().expect("it runs")
    }

    pub(crate) fn login(&self, port: ControllerId, initiator: &str, isid: u32) -> Login {
        Login {
            initiator: initiator.to_owned(),
            isid,
            target: target_name(port),
            portal: self.shelf().address(port).to_string(),
        }
    }

    /// The machine of this port.
    pub(crate) fn host(&self, port: ControllerId) -> Host {
        Host::log_in(&self.login(port, &name(port), 1)).expect("logged in")
    }

    pub(crate) fn url(&self, port: ControllerId, lun: u16) -> String {
        format!(
            "iscsi://{}/{}/{lun}",
            self.shelf().address(port),
            target_name(port)
        )
    }

    /// Presses a button.
    pub(crate) fn press<F: Future>(&self, button: impl FnOnce(Arc<Panel>) -> F) -> F::Output {
        self.runtime.block_on(button(self.shelf().panel().clone()))
    }

    pub(crate) fn fault(&self, disk: u16, port: Option<ControllerId>, fault: DiskFault) {
        let disk = DiskIndex::new(disk);
        let set = self.shelf().panel().fault(SetDiskFault { disk, port, fault });
        set.expect("such a disk");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.take() {
            self.runtime.block_on(shelf.stop());
        }
    }
}

pub(crate) fn options(folder: &Path) -> Options {
    Options {
        folder: folder.to_owned(),
        disks: DATA_DISKS,
        size: 16 << 20,
        quorum: 1,
        quorum_size: 1 << 20,
        ports: ["127.0.0.1:0"; 2].map(|any| any.parse().expect("an address")),
        control: folder.join("control.sock"),
        seed: 7,
    }
}

/// A host with one session.
pub(crate) struct Host(pub(crate) Single);

/// RESERVATION KEY, SERVICE ACTION RESERVATION KEY.
pub(crate) type Keys = (u64, u64);

pub(crate) const REGISTER: u8 = 0;
pub(crate) const RESERVE: u8 = 1;
pub(crate) const RELEASE: u8 = 2;
pub(crate) const CLEAR: u8 = 3;
pub(crate) const PREEMPT: u8 = 4;
pub(crate) const PREEMPT_AND_ABORT: u8 = 5;
pub(crate) const REGISTER_AND_IGNORE: u8 = 6;
/// Write exclusive, registrants only.
pub(crate) const WERO: u8 = 5;
pub(crate) const READ_KEYS: u8 = 0;
pub(crate) const READ_RESERVATION: u8 = 1;
pub(crate) const REPORT_CAPABILITIES: u8 = 2;
pub(crate) const READ_FULL_STATUS: u8 = 3;

pub(crate) fn sense(key: u8, code: u16) -> Status {
    let [asc, ascq] = code.to_be_bytes();
    Status::CheckCondition(pollux_host::scsi::Sense { key, asc, ascq })
}

impl Host {
    pub(crate) fn log_in(login: &Login) -> Result<Self, String> {
        Single::log_in(login, SOON).map(Host)
    }

    pub(crate) fn run(
        &mut self,
        lun: u16,
        cdb: &[u8],
        direction: Direction,
        data: Vec<u8>,
    ) -> (Status, Vec<u8>) {
        let ended = self.0.run(lun, cdb, direction, data, SOON);
        ended.expect("an answer")
    }

    pub(crate) fn ask(&mut self, lun: u16, cdb: &[u8], length: usize) -> (Status, Vec<u8>) {
        self.run(lun, cdb, Direction::In, vec![0; length])
    }

    pub(crate) fn ready(&mut self, lun: u16) -> Status {
        let cdb = pollux_host::scsi::test_unit_ready();
        self.run(lun, &cdb, Direction::None, Vec::new()).0
    }

    pub(crate) fn write(&mut self, lun: u16, lba: u64, blocks: u32, fill: u8, fua: bool) -> Status {
        let cdb = pollux_host::scsi::write16(lba, blocks, fua);
        self.run(lun, &cdb, Direction::Out, vec![fill; blocks as usize * BLOCK])
            .0
    }

    /// A write that is not waited for.
    pub(crate) fn begin_write(&mut self, lun: u16, lba: u64, fill: u8) -> u64 {
        let cdb = pollux_host::scsi::write16(lba, 1, false);
        let begun = self.0.begin(lun, &cdb, Direction::Out, vec![fill; BLOCK]);
        begun.expect("sent")
    }

    pub(crate) fn read(&mut self, lun: u16, lba: u64) -> (Status, u8) {
        let (status, data) = self.ask(lun, &pollux_host::scsi::read16(lba, 1), BLOCK);
        let first = data.first().copied().unwrap_or_default();
        assert!(data.iter().all(|byte| *byte == first), "half a block");
        (status, first)
    }

    pub(crate) fn flush(&mut self, lun: u16) -> Status {
        let cdb = pollux_host::scsi::synchronize_cache16();
        self.run(lun, &cdb, Direction::None, Vec::new()).0
    }

    /// PERSISTENT RESERVE OUT.
    pub(crate) fn reserve(&mut self, lun: u16, action: u8, kind: u8, keys: Keys) -> Status {
        self.reserve_with(lun, action, kind, keys, 0)
    }

    /// The same with the flags of byte 20.
    pub(crate) fn reserve_with(&mut self, lun: u16, action: u8, kind: u8, keys: Keys, flags: u8) -> Status {
        let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
        list.extend([0, 0, 0, 0, flags, 0, 0, 0]);
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, list.len() as u8, 0];
        self.run(lun, &cdb, Direction::Out, list).0
    }

    /// PERSISTENT RESERVE IN.
    pub(crate) fn reservations(&mut self, lun: u16, action: u8) -> (Status, Vec<u8>) {
        self.ask(lun, &[0x5e, action, 0, 0, 0, 0, 0, 2, 0, 0], 512)
    }

    /// READ KEYS.
    pub(crate) fn keys(&mut self, lun: u16) -> Vec<u64> {
        let (status, data) = self.reservations(lun, READ_KEYS);
        assert_eq!(status, Status::Good);
        let length = u32::from_be_bytes(data[4..8].try_into().expect("four")) as usize;
        data[8..8 + length]
            .chunks_exact(8)
            .map(|key| u64::from_be_bytes(key.try_into().expect("eight")))
            .collect()
    }

    /// READ RESERVATION: key of the holder and type.
    pub(crate) fn holder(&mut self, lun: u16) -> Option<(u64, u8)> {
        let (status, data) = self.reservations(lun, READ_RESERVATION);
        assert_eq!(status, Status::Good);
        let held = data[7] != 0;
        held.then(|| {
            (
                u64::from_be_bytes(data[8..16].try_into().expect("eight")),
                data[21] & 0x0f,
            )
        })
    }

    pub(crate) fn page(&mut self, lun: u16, page: u8) -> (Status, Vec<u8>) {
        self.ask(lun, &pollux_host::scsi::inquiry(Some(page), 255), 255)
    }
}
