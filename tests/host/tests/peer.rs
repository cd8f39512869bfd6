//! The host against a target that nobody here wrote (tgtd): what it reads is what it wrote, it
//! sees two portals as one device, and it goes on through the other portal when one dies.
//!
//! Needs Debian's `libiscsi7` and `tgt`; says SKIPPED without them. Everything runs on loopback
//! with ports of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollux_host::engine::{HostConfig, Op};
use pollux_host::time::now_ns;
use pollux_host::workload::{StreamConfig, Workload, WorkloadConfig};
use pollux_host::{Host, LoadError, Settings};

const TARGET: &str = "iqn.2026-01.test:peer";

/// One tgtd with one unit; killed when dropped.
struct Tgtd {
    child: Child,
    directory: tempfile::TempDir,
    portal: String,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

impl Tgtd {
    /// Serves `backing`; `None` if tgt is not installed.
    fn start(backing: &Path) -> Option<Self> {
        let directory = tempfile::tempdir().expect("scratch directory");
        let port = free_port();
        let child = Command::new("tgtd")
            .args(["-f", "--iscsi", &format!("portal=127.0.0.1:{port}")])
            .env("TGT_IPC_SOCKET", directory.path().join("ipc"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let tgtd = Tgtd {
            child,
            directory,
            portal: format!("127.0.0.1:{port}"),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !tgtd.admin(&["--op", "show", "--mode", "system"]) {
            assert!(Instant::now() < deadline, "tgtd answers its socket within 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        let backing = backing.to_str().expect("plain path");
        for arguments in [
            vec!["--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET],
            vec![
                "--op",
                "new",
                "--mode",
                "logicalunit",
                "--tid",
                "1",
                "--lun",
                "1",
                "-b",
                backing,
            ],
            vec![
                "--op",
                "update",
                "--mode",
                "logicalunit",
                "--tid",
                "1",
                "--lun",
                "1",
                "--params",
                "vendor_id=TEST,product_id=PEER,scsi_id=PEER1,scsi_sn=PEER1",
            ],
            vec!["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
        ] {
            assert!(tgtd.admin(&arguments), "tgtadm {arguments:?}");
        }
        Some(tgtd)
    }

    fn admin(&self, arguments: &[&str]) -> bool {
        Command::new("tgtadm")
            .args(["--lld", "iscsi"])
            .args(arguments)
            .env("TGT_IPC_SOCKET", self.directory.path().join("ipc"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of ours that has not been reaped.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pair of portals over one file, and a connected host; `None` with the reason printed.
fn peers() -> Option<(tempfile::NamedTempFile, Tgtd, Tgtd, Arc<Host>)> {
    let file = tempfile::NamedTempFile::new().expect("scratch file");
    file.as_file().set_len(16 << 20).expect("sparse file");
    let (Some(one), Some(two)) = (Tgtd::start(file.path()), Tgtd::start(file.path())) else {
        eprintln!("SKIPPED: tgtd is not installed (Debian package tgt)");
        return None;
    };
    let config = HostConfig {
        initiator: "iqn.2026-01.test:host".into(),
        target: TARGET.into(),
        portals: vec![one.portal.clone(), two.portal.clone()],
        settings: Settings::default(),
        header_digest: true,
    };
    let host = match Host::start(config) {
        Ok(host) => Arc::new(host),
        Err(err @ LoadError::Missing { .. }) => {
            eprintln!("SKIPPED: {err}");
            return None;
        }
        Err(err) => panic!("{err}"),
    };
    host.wait_ready(1, 2, 20_000)
        .expect("both portals lead to the unit");
    Some((file, one, two, host))
}

/// LUN 0 of tgt is its controller; the disk is LUN 1.
fn disk(host: &Host) -> usize {
    host.devices()
        .iter()
        .position(|device| device.lun == 1)
        .expect("LUN 1")
}

fn streams() -> WorkloadConfig {
    let stream = StreamConfig {
        writer: 1,
        lun: 1,
        first_lba: 0,
        units: 512,
        unit_blocks: 8,
        queue_depth: 4,
        think_us: 500,
        readers: 1,
    };
    let other = StreamConfig {
        writer: 2,
        first_lba: 4096,
        ..stream.clone()
    };
    WorkloadConfig {
        seed: 1,
        streams: vec![stream, other],
        ack_log: None,
    }
}

fn wait_for_acks(workload: &Workload, more: u64, why: &str) {
    let start: Vec<u64> = workload
        .reports()
        .iter()
        .map(|report| report.acknowledged)
        .collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    while workload
        .reports()
        .iter()
        .zip(&start)
        .any(|(report, before)| report.acknowledged < before + more)
    {
        assert!(
            Instant::now() < deadline,
            "{why}: {more} more acknowledgements within 30 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_written_is_read_back_on_both_ports() {
    let Some((_file, _one, _two, host)) = peers() else {
        return;
    };
    let mut workload = Workload::start(Arc::clone(&host), &streams()).expect("fits");
    wait_for_acks(&workload, 500, "undisturbed");
    for report in workload.stop() {
        assert_eq!(report.errors, [] as [String; 0]);
        assert_eq!(report.findings, []);
        assert!(report.reads > 0);
    }
    let verdict = workload.verify();
    assert!(verdict.is_clean(), "{verdict:?}");
    assert!(verdict.acknowledged_blocks > 0);
    assert_eq!(host.conflicts(), [] as [String; 0]);
}

#[test]
fn a_lost_session_and_a_silent_one_move_the_load_to_the_other_port() {
    let Some((_file, mut one, two, host)) = peers() else {
        return;
    };
    let mut workload = Workload::start(Arc::clone(&host), &streams()).expect("fits");
    wait_for_acks(&workload, 100, "before the faults");
    let killed = now_ns();
    one.child.kill().expect("ours to kill");
    one.child.wait().expect("ours to reap");
    wait_for_acks(&workload, 100, "after the first portal died");
    // The second goes silent without a word, and comes back: no other path, so I/O waits for it.
    two.signal(libc::SIGSTOP);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !host
        .events()
        .iter()
        .any(|event| event.what.contains("no answer to NOP-Out"))
    {
        assert!(Instant::now() < deadline, "silence is noticed within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    two.signal(libc::SIGCONT);
    wait_for_acks(&workload, 100, "after the second portal came back");
    let reports = workload.stop();
    for report in &reports {
        assert_eq!(
            (report.errors.as_slice(), report.findings.as_slice()),
            ([].as_slice(), [].as_slice())
        );
        let pause = report.longest_gap(killed).expect("a pause");
        assert!(
            pause.length_ns() > 900_000_000,
            "the silence shows as a pause: {pause:?}"
        );
    }
    let counts = host.counts();
    assert!(
        counts
            .iter()
            .any(|(what, _)| what.class == "io" && what.status == "transport lost"),
        "{counts:?}"
    );
    let verdict = workload.verify();
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_write_behind_the_hosts_back_is_found() {
    use std::os::unix::fs::FileExt;
    let Some((file, _one, _two, host)) = peers() else {
        return;
    };
    let mut workload = Workload::start(Arc::clone(&host), &streams()).expect("fits");
    wait_for_acks(&workload, 300, "undisturbed");
    workload.stop();
    assert!(workload.verify().is_clean());
    // Give one unit an older edition back: blank, as before the first write.
    let units: Vec<u64> = (0..512u64)
        .filter(|unit| {
            let mut head = [0; 8];
            file.as_file()
                .read_exact_at(&mut head, unit * 4096)
                .expect("readable");
            head != [0; 8]
        })
        .collect();
    file.as_file()
        .write_all_at(&[0; 512], units[0] * 4096)
        .expect("writable");
    let verdict = workload.verify();
    assert_eq!(
        verdict.finding_count, 2,
        "one block, seen through two ports: {verdict:?}"
    );
    assert!(!verdict.is_clean());
}

#[test]
fn a_file_goes_in_and_comes_out_the_same() {
    let Some((_file, _one, _two, host)) = peers() else {
        return;
    };
    let directory = tempfile::tempdir().expect("scratch directory");
    let (source, copy) = (directory.path().join("in"), directory.path().join("out"));
    let bytes: Vec<u8> = (0..1_000_001u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&source, &bytes).expect("scratch file");
    let progress = Default::default();
    let written = pollux_host::image::copy_in(&host, 1, &source, &progress).expect("copied in");
    let read = pollux_host::image::copy_out(&host, 1, written.bytes, &copy).expect("copied out");
    assert_eq!(written, read);
    assert_eq!(std::fs::read(&copy).expect("readable"), bytes);
    std::fs::File::create(&source)
        .and_then(|file| file.set_len(64 << 20))
        .expect("sparse file");
    let err = pollux_host::image::copy_in(&host, 1, &source, &progress).expect_err("too large");
    assert!(err.contains("do not fit LUN 1"), "{err}");
}

#[test]
fn a_command_that_the_target_refuses_is_the_applications_error() {
    let Some((_file, _one, _two, host)) = peers() else {
        return;
    };
    let far = Op::Read {
        lba: 1 << 40,
        blocks: 1,
    };
    let err = host.execute(disk(&host), far, None).expect_err("past the end");
    assert!(err.to_string().contains("05/2100"), "{err}");
    assert!(
        host.counts()
            .iter()
            .any(|(what, _)| what.status.contains("05/2100"))
    );
}
