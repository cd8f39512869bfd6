//! The embedded target against initiators that nobody here wrote: libiscsi's conformance suites and QEMU.
//!
//! Needs the Debian packages `libiscsi-bin` and, for QEMU, `qemu-utils` with `qemu-block-extra`; without them a
//! test says SKIPPED and why.

mod support;

use pollux_api::id::{ControllerId, Epoch, Generation, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::server;
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::target::{Mappings, Target};
use pollux_block_target::volume::{Identity, Volume};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::{HOST, Imported, LUN, Pair, SECOND_HOST};

const TARGET: &str = "iqn.2026-01.io.pollux:test";
/// Longest run of one suite.
const BOUND: &str = "120";

/// A target in this process with one volume in memory, optimized here.
struct Portal {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

impl Portal {
    fn start(block_size: u32, blocks: u64) -> Self {
        let runtime = runtime();
        let address = runtime.block_on(async {
            let any = "127.0.0.1:0".parse().expect("address");
            let listener = server::reserve(any)
                .and_then(|port| port.listen(any))
                .expect("a free port");
            let address = listener.local_addr().expect("bound");
            let portals = vec![format!("{address},1")];
            let gate = Arc::new(ManualGate::default());
            let target = Target::new(TARGET.into(), ControllerId::A, portals, gate);
            let paths = Paths::new(ControllerId::A);
            let id = VolumeId::from_bytes([0x5a; 16]);
            let identity = Identity {
                id,
                serial: "00c0ffee00c0ffee".into(),
                block_size,
            };
            let memory = Arc::new(Memory::new(block_size, blocks));
            let volume = Arc::new(Volume::new(
                identity,
                blocks,
                paths.clone(),
                memory.clone(),
                memory,
            ));
            let units = BTreeMap::from([(0, volume)]);
            let mappings: Mappings = [HOST, SECOND_HOST]
                .map(|host| (host.to_owned(), units.clone()))
                .into();
            target.set_mappings(mappings);
            let route = Route {
                epoch: Epoch::new(1),
                generation: Generation::new(1),
                backing: Backing::Local,
                access: [Access::Optimized, Access::NonOptimized],
            };
            target.flip(&paths, route).expect("first claim");
            tokio::spawn(server::serve(listener, target));
            address
        });
        Self { address, runtime }
    }

    fn url(&self) -> String {
        format!("iscsi://{}/{TARGET}/0", self.address)
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        let runtime = std::mem::replace(
            &mut self.runtime,
            tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("runtime"),
        );
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

fn find(program: &str) -> bool {
    ["/usr/bin", "/usr/local/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

fn bounded(program: &str, args: &[&str]) -> Output {
    // libiscsi 1.19 writes payload with writev(2): where the target has hung up for good reason, SIGPIPE would end the tool.
    Command::new("timeout")
        .args(["--kill-after=5", BOUND, "env", "--ignore-signal=PIPE", program])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("coreutils' timeout")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Tests that may be skipped, or that the tool has wrong, each with its reason.
const LIST: &str = include_str!("conformance-skips.txt");

/// What the tool has said of each of its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
}

/// Takes the tool's report apart: `Test: NAME ...`, notes in brackets (`[SKIPPED]`, also `[FAILED]` of what the test goes
/// on after), then the verdict `passed` or `FAILED`. A skip counts as passed there.
fn verdicts(text: &str) -> Vec<(String, Verdict)> {
    let mut found = Vec::new();
    for part in text.split("  Test: ").skip(1) {
        let name = part.split_whitespace().next().unwrap_or_default().to_owned();
        // What follows the last test is the summary.
        let part = part.split("Run Summary").next().unwrap_or_default();
        let failed = part.replace("[FAILED]", "").contains("FAILED");
        let verdict = if failed || !part.contains("passed") {
            Verdict::Failed
        } else if part.contains("[SKIPPED]") {
            Verdict::Skipped
        } else {
            Verdict::Passed
        };
        found.push((name, verdict));
    }
    found
}

/// A way from the tool to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A volume with blocks of 4096 bytes, by the owner's port.
    LargeBlocks,
    /// Blocks of 512 bytes as everywhere else, by the owner's port.
    Optimized,
    /// By the partner's port, which forwards.
    NonOptimized,
    /// By both at once.
    Both,
}

const WAYS: [Way; 4] = [Way::LargeBlocks, Way::Optimized, Way::NonOptimized, Way::Both];

/// Whether the list permits this end of a test.
fn permitted(suite: &str, test: &str, way: Way, verdict: Verdict) -> bool {
    let large = way == Way::LargeBlocks;
    let listed = |line: &str| {
        let mut words = line.split_whitespace();
        let (kind, scope, name) = (words.next(), words.next(), words.next());
        let kind = match kind {
            Some("skip") => verdict == Verdict::Skipped,
            Some("wrong") => verdict == Verdict::Failed,
            _ => false,
        };
        let scope = match scope {
            Some("always") => true,
            Some("one-path") => way != Way::Both,
            Some("4096") => large,
            Some("512") => !large,
            _ => false,
        };
        kind && scope && name == Some(&format!("{suite}.{test}"))
    };
    verdict == Verdict::Passed || LIST.lines().any(listed)
}

/// Runs one suite in a process of its own: in one process for all, suites leak state into each other. What the list does
/// not permit, with the tool's report.
fn run(suite: &str, way: Way, urls: &[String]) -> Vec<String> {
    let test = format!("ALL.{suite}");
    let mut args = vec!["--dataloss", "-V", "-i", HOST, "-I", SECOND_HOST, "-t", &test];
    args.extend(urls.iter().map(String::as_str));
    let output = bounded("iscsi-test-cu", &args);
    let text = text(&output);
    let verdicts = verdicts(&text);
    let count = |wanted: Verdict| verdicts.iter().filter(|(_, found)| *found == wanted).count();
    println!(
        "{suite}, {way:?}: {} passed, {} skipped, {} failed",
        count(Verdict::Passed),
        count(Verdict::Skipped),
        count(Verdict::Failed)
    );
    let mut wrong: Vec<String> = Vec::new();
    // The tool itself must come to its end; what it leaves with is the number of tests that it calls failed.
    let finished = output
        .status
        .code()
        .is_some_and(|code| code != 124 && code != 137);
    if verdicts.is_empty() || !finished || !text.contains("Run Summary") {
        wrong.push(format!("{suite}, {way:?}: {:?}", output.status));
    }
    for (test, verdict) in &verdicts {
        if *verdict != Verdict::Passed {
            println!("  {verdict:?}: {suite}.{test}");
        }
        if !permitted(suite, test, way, *verdict) {
            wrong.push(format!(
                "{suite}.{test}, {way:?}: {verdict:?}, and not on the list"
            ));
        }
    }
    if !wrong.is_empty() {
        wrong.push(text);
    }
    wrong
}

/// A suite by every way to a volume.
fn suite(name: &str) {
    if !find("iscsi-test-cu") {
        println!("SKIPPED: iscsi-test-cu is missing (Debian package libiscsi-bin)");
        return;
    }
    let mut wrong = Vec::new();
    for way in WAYS {
        if way == Way::LargeBlocks {
            let portal = Portal::start(4096, 64 * 1024 * 1024 / 4096);
            wrong.extend(run(name, way, &[portal.url()]));
            continue;
        }
        let array = Array::start();
        let ports = match way {
            Way::NonOptimized => &["b"][..],
            Way::Both => &["a", "b"],
            Way::LargeBlocks | Way::Optimized => &["a"],
        };
        let urls: Vec<String> = ports.iter().map(|port| array.url(port)).collect();
        wrong.extend(run(name, way, &urls));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two controllers in this process, a the owner.
struct Array {
    pair: Pair,
    imported: Option<Imported>,
    runtime: Stop,
}

/// Ends a runtime without waiting for what hangs in it.
struct Stop(Option<tokio::runtime::Runtime>);

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Array {
    fn start() -> Self {
        let runtime = runtime();
        let (pair, imported) = runtime.block_on(async {
            let pair = Pair::start().await;
            let imported = Imported::start(pair.a.directory.path(), &pair.memory);
            pair.own(ControllerId::A, 1);
            (pair, imported)
        });
        Self {
            pair,
            imported: Some(imported),
            runtime: Stop(Some(runtime)),
        }
    }

    fn url(&self, port: &str) -> String {
        let controller = if port == "a" { &self.pair.a } else { &self.pair.b };
        format!("iscsi://{}/{}/{LUN}", controller.portal, support::TARGET)
    }
}

macro_rules! suites {
    ($($test:ident $suite:literal)*) => {
        $(
            #[test]
            fn $test() {
                suite($suite);
            }
        )*

        /// Whatever the tool has, is run here.
        #[test]
        fn every_suite_of_the_tool_is_here() {
            if !find("iscsi-test-cu") {
                println!("SKIPPED: iscsi-test-cu is missing (Debian package libiscsi-bin)");
                return;
            }
            let text = text(&bounded("iscsi-test-cu", &["-l"]));
            let all: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("ALL."))
                .filter(|name| !name.contains('.'))
                .collect();
            assert_eq!(all, [$($suite),*]);
        }
    };
}

suites! {
    suite_compare_and_write "CompareAndWrite"
    suite_extended_copy "ExtendedCopy"
    suite_get_lba_status "GetLBAStatus"
    suite_inquiry "Inquiry"
    suite_mandatory "Mandatory"
    suite_mode_sense_6 "ModeSense6"
    suite_no_media "NoMedia"
    suite_or_write "OrWrite"
    suite_prefetch_10 "Prefetch10"
    suite_prefetch_16 "Prefetch16"
    suite_prevent_allow "PreventAllow"
    suite_prin_read_keys "PrinReadKeys"
    suite_prin_serviceaction_range "PrinServiceactionRange"
    suite_prin_report_capabilities "PrinReportCapabilities"
    suite_prout_register "ProutRegister"
    suite_prout_reserve "ProutReserve"
    suite_prout_clear "ProutClear"
    suite_prout_preempt "ProutPreempt"
    suite_read_6 "Read6"
    suite_read_10 "Read10"
    suite_read_12 "Read12"
    suite_read_16 "Read16"
    suite_read_capacity_10 "ReadCapacity10"
    suite_read_capacity_16 "ReadCapacity16"
    suite_read_defect_data_10 "ReadDefectData10"
    suite_read_defect_data_12 "ReadDefectData12"
    suite_read_only "ReadOnly"
    suite_receive_copy_results "ReceiveCopyResults"
    suite_report_supported_opcodes "ReportSupportedOpcodes"
    suite_reserve_6 "Reserve6"
    suite_sanitize "Sanitize"
    suite_start_stop_unit "StartStopUnit"
    suite_test_unit_ready "TestUnitReady"
    suite_unmap "Unmap"
    suite_verify_10 "Verify10"
    suite_verify_12 "Verify12"
    suite_verify_16 "Verify16"
    suite_write_10 "Write10"
    suite_write_12 "Write12"
    suite_write_16 "Write16"
    suite_write_atomic_16 "WriteAtomic16"
    suite_write_same_10 "WriteSame10"
    suite_write_same_16 "WriteSame16"
    suite_write_verify_10 "WriteVerify10"
    suite_write_verify_12 "WriteVerify12"
    suite_write_verify_16 "WriteVerify16"
    suite_iscsi_cmdsn "iSCSIcmdsn"
    suite_iscsi_datasn "iSCSIdatasn"
    suite_iscsi_residuals "iSCSIResiduals"
    suite_iscsi_tmf "iSCSITMF"
    suite_multipath_io "MultipathIO"
}

#[test]
fn skips_and_failures_are_told_from_the_report() {
    let report = concat!(
        "Suite: Read10\n  Test: Simple ...\n    [SKIPPED] no\npassed\n  Test: Async ...[FAILED] once\npassed\n",
        "  Test: Flags ...FAILED\n    1. here\n  Test: Dead ...\n\nRun Summary: passed\n"
    );
    let expected = [
        ("Simple", Verdict::Skipped),
        ("Async", Verdict::Passed),
        ("Flags", Verdict::Failed),
        ("Dead", Verdict::Failed),
    ];
    assert_eq!(
        verdicts(report),
        expected.map(|(name, verdict)| (name.to_owned(), verdict))
    );
    assert!(permitted("NoMedia", "NoMediaSBC", Way::Both, Verdict::Skipped));
    assert!(!permitted("NoMedia", "NoMediaSBC", Way::Both, Verdict::Failed));
    assert!(!permitted("MultipathIO", "Simple", Way::Both, Verdict::Skipped));
    assert!(!permitted("Read10", "Simple", Way::Optimized, Verdict::Skipped));
    for line in LIST.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let sound = words.len() > 4
            && matches!(words[0], "skip" | "wrong")
            && matches!(words[1], "always" | "one-path" | "4096" | "512");
        assert!(sound, "kind, scope, name, reason: {line}");
    }
}

/// Whether QEMU's initiator is there; if not, that is said.
fn qemu_is_missing() -> bool {
    // QEMU looks into the directory of this variable as well.
    let own = std::env::var_os("QEMU_MODULE_DIR").map(PathBuf::from);
    let driver = [
        "/usr/lib/x86_64-linux-gnu/qemu",
        "/usr/lib/aarch64-linux-gnu/qemu",
        "/usr/lib/qemu",
    ]
    .into_iter()
    .map(PathBuf::from)
    .chain(own)
    .any(|dir| dir.join("block-iscsi.so").exists());
    if !find("qemu-io") || !driver {
        println!(
            "SKIPPED: qemu-io or its iSCSI driver is missing (Debian packages qemu-utils, qemu-block-extra)"
        );
        return true;
    }
    false
}

/// Runs a script at a unit, and has it well.
fn qemu_io(portal: SocketAddr, target: &str, lun: u16, script: &[String]) {
    let mut args = vec!["-t", "none", "--image-opts"];
    script.iter().for_each(|line| args.extend(["-c", line]));
    // An address alone would leave QEMU its own initiator name, to which nothing is mapped.
    let image = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={target},file.lun={lun},\
         file.initiator-name={HOST}"
    );
    args.push(&image);
    let output = bounded("qemu-io", &args);
    let text = text(&output);
    assert!(output.status.success() && !text.contains("failed"), "{text}");
    let flushes = script.iter().filter(|line| *line == "flush").count();
    assert_eq!(text.matches("ops;").count(), script.len() - flushes, "{text}");
}

/// QEMU's own initiator: writes, reads back, compares, and finds zeros where nothing was written.
#[test]
fn qemu_io_reads_what_it_wrote() {
    if qemu_is_missing() {
        return;
    }
    // The blocks of the volumes that are shipped; QEMU 7.2 fails an assertion of its own on larger ones.
    let portal = Portal::start(512, 131_072);
    let script = [
        "write -P 0xa5 0 1M",
        "write -P 0x5a 12M 3M",
        "read -P 0xa5 0 1M",
        "read -P 0x5a 12M 3M",
        "read -P 0 1M 4k",
        "discard 12M 1M",
        "read -P 0 12M 1M",
        "read -P 0x5a 13M 2M",
        "write -z 0 64k",
        "read -P 0 0 64k",
        "flush",
    ];
    qemu_io(portal.address, TARGET, 0, &script.map(str::to_owned));
}

/// QEMU writes through the partner's port while the owner dies, its pool is taken over, and goes back: it sees a pause and
/// no error, and reads what it wrote.
#[test]
fn qemu_io_goes_on_through_takeovers() {
    if qemu_is_missing() {
        return;
    }
    let mut array = Array::start();
    let lines = |number: u64| {
        let (at, fill) = (number * 64, number % 251 + 1);
        [
            format!("write -P {fill} {at}k 64k"),
            format!("read -P {fill} {at}k 64k"),
        ]
    };
    let mut script: Vec<String> = (0..200).flat_map(lines).collect();
    script.push("flush".to_owned());
    // At the end everything is there.
    script.extend((0..200).map(|number| lines(number)[1].clone()));
    let portal = array.pair.b.portal;
    let writing = std::thread::spawn(move || qemu_io(portal, support::TARGET, LUN, &script));
    let mut imported = array.imported.take();
    let (pair, runtime) = (&array.pair, array.runtime.0.as_ref().expect("it runs"));
    let moves = runtime.block_on(async {
        let mut generation = 1;
        while !writing.is_finished() {
            generation += 1;
            let (to, owner) = match generation % 2 {
                0 => (&pair.b, ControllerId::B),
                _ => (&pair.a, ControllerId::A),
            };
            // The pool manager of the former owner is gone in the middle of whatever it does.
            drop(imported.take());
            tokio::time::sleep(Duration::from_millis(20)).await;
            imported = Some(Imported::start(to.directory.path(), &pair.memory));
            pair.own(owner, generation);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        generation - 1
    });
    writing.join().expect("QEMU saw no error");
    println!("{moves} takeovers under QEMU");
    assert!(moves > 0);
}
