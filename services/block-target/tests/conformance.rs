//! The embedded target against initiators that nobody here wrote: libiscsi's conformance suites and QEMU.
//!
//! Needs the Debian packages `libiscsi-bin` and, for QEMU, `qemu-utils` with `qemu-block-extra`; without them a
//! test says SKIPPED and why.

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

const TARGET: &str = "iqn.2026-01.io.pollux:test";
const HOST: &str = "iqn.2026-01.io.pollux:host";
const SECOND_HOST: &str = "iqn.2026-01.io.pollux:host2";
/// Longest run of one suite.
const BOUND: &str = "120";

/// A target in this process with one volume in memory, optimized here.
struct Portal {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Portal {
    fn start(block_size: u32, blocks: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
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
    Command::new("timeout")
        .args(["--kill-after=5", BOUND, program])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("coreutils' timeout")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The tool looks for leftover reservations of hosts before each suite. The embedded target has none to leave: it
/// answers that it does not know the command, and the tool goes on to the suite's tests.
const PREPARATION: &str = "PERSISTENT RESERVE IN is not implemented";

/// Runs one suite in a process of its own: in one process for all, suites leak state into each other.
fn suite(name: &str, block_size: u32) {
    if !find("iscsi-test-cu") {
        println!("SKIPPED: iscsi-test-cu is missing (Debian package libiscsi-bin)");
        return;
    }
    let portal = Portal::start(block_size, 64 * 1024 * 1024 / u64::from(block_size));
    let test = format!("ALL.{name}");
    let args = [
        "--dataloss",
        "-V",
        "-i",
        HOST,
        "-I",
        SECOND_HOST,
        "-t",
        &test,
        &portal.url(),
    ];
    let output = bounded("iscsi-test-cu", &args);
    let text = text(&output);
    let passed = text.matches("passed").count();
    let skips: Vec<_> = text.lines().filter(|line| line.contains("[SKIPPED]")).collect();
    println!(
        "{name} ({block_size} B blocks): {} tests passed, {} notes of skips",
        passed,
        skips.len()
    );
    assert!(
        output.status.success() && !text.contains("FAILED") && passed > 0,
        "{text}"
    );
    let unexpected: Vec<_> = skips.iter().filter(|line| !line.contains(PREPARATION)).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{text}");
}

macro_rules! suites {
    ($($test:ident $suite:literal)*) => {
        $(
            #[test]
            fn $test() {
                suite($suite, 4096);
                suite($suite, 512);
            }
        )*
    };
}

suites! {
    suite_inquiry "Inquiry"
    suite_mandatory "Mandatory"
    suite_read_capacity_10 "ReadCapacity10"
    suite_read_capacity_16 "ReadCapacity16"
    suite_read_10 "Read10"
    suite_read_16 "Read16"
    suite_write_10 "Write10"
    suite_write_16 "Write16"
    suite_test_unit_ready "TestUnitReady"
    suite_report_supported_opcodes "ReportSupportedOpcodes"
}

/// QEMU's own initiator: writes, reads back, compares, and finds zeros where nothing was written.
#[test]
fn qemu_io_reads_what_it_wrote() {
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
    let mut args = vec!["-t", "none", "--image-opts"];
    script.iter().for_each(|line| args.extend(["-c", line]));
    // An address alone would leave QEMU its own initiator name, to which nothing is mapped.
    let image = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={TARGET},file.lun=0,\
         file.initiator-name={HOST}",
        portal.address
    );
    args.push(&image);
    let output = bounded("qemu-io", &args);
    let text = text(&output);
    assert!(output.status.success() && !text.contains("failed"), "{text}");
    assert_eq!(text.matches("ops;").count(), script.len() - 1, "{text}");
}
