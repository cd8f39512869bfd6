//! CHAP both ways, digests and discovery, with an initiator that nobody here wrote: the tools of libiscsi.
//!
//! Needs the Debian package `libiscsi-bin`; without it a test says SKIPPED and why.

use pollux_api::id::{ControllerId, Epoch, Generation, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::chap::{Credential, Credentials};
use pollux_block_target::iscsi::login::Admission;
use pollux_block_target::iscsi::server;
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::target::Target;
use pollux_block_target::volume::{Identity, Volume};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const TARGET: &str = "iqn.2026-01.io.pollux:tools";
/// Let in by its name.
const OPEN: &str = "iqn.2026-01.io.pollux:open";
/// Let in when it has proven itself.
const PROVEN: &str = "iqn.2026-01.io.pollux:proven";
/// The target has no key for it.
const ONE_WAY: &str = "iqn.2026-01.io.pollux:one-way";
const USER: &str = "user";
const SECRET: &str = "secret-of-a-host";
const TARGET_USER: &str = "array";
const TARGET_SECRET: &str = "secret-of-the-array";
const BLOCKS: u64 = 8192;
/// Longest run of a tool, seconds.
const BOUND: &str = "30";

struct Portal {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Portal {
    fn start() -> Self {
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
            let target = Target::new(
                TARGET.into(),
                ControllerId::A,
                portals,
                Arc::new(ManualGate::default()),
            );
            let paths = Paths::new(ControllerId::A);
            let identity = Identity {
                id: VolumeId::from_bytes([0x5a; 16]),
                serial: "00c0ffee00c0ffee".into(),
                block_size: 512,
            };
            let memory = Arc::new(Memory::new(512, BLOCKS));
            let volume = Volume::new(identity, BLOCKS, paths.clone(), memory.clone(), memory);
            let units = BTreeMap::from([(0, Arc::new(volume))]);
            let chap = |target: Option<Credential>| {
                Admission::Chap(Arc::new(Credentials {
                    host: Credential::new(USER, SECRET),
                    target,
                }))
            };
            let both = Some(Credential::new(TARGET_USER, TARGET_SECRET));
            let admissions = [
                (OPEN, Admission::Open),
                (PROVEN, chap(both)),
                (ONE_WAY, chap(None)),
            ];
            target.set_hosts(
                [OPEN, PROVEN, ONE_WAY]
                    .map(|host| (host.to_owned(), units.clone()))
                    .into(),
                admissions.map(|(host, way)| (host.to_owned(), way)).into(),
            );
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
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// A tool as this initiator, with `user%password` and what stands behind the URL; whether it was content, and what
    /// it said.
    fn tool(&self, program: &str, host: &str, login: &str, arguments: &str) -> (bool, String) {
        let at = if login.is_empty() { "" } else { "@" };
        let unit = match program {
            "iscsi-ls" => String::new(),
            _ => format!("/{TARGET}/0"),
        };
        let url = format!("iscsi://{login}{at}{}{unit}{arguments}", self.address);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", BOUND, program, "-i", host]);
        if program == "iscsi-ls" {
            command.arg("-s");
        }
        let output = command
            .arg(&url)
            .stdin(Stdio::null())
            .output()
            .expect("timeout(1) runs");
        let mut said = output.stdout;
        said.extend_from_slice(&output.stderr);
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

fn missing() -> bool {
    let missing = ["iscsi-ls", "iscsi-inq", "iscsi-readcapacity16"]
        .iter()
        .any(|tool| !Path::new("/usr/bin").join(tool).exists());
    if missing {
        println!("SKIPPED: the tools of libiscsi are missing (Debian package libiscsi-bin)");
    }
    missing
}

const RIGHT: &str = "user%secret-of-a-host";

#[test]
fn who_has_proven_himself_sees_the_volume_with_and_without_digests() {
    if missing() {
        return;
    }
    let portal = Portal::start();
    for (host, login) in [(OPEN, ""), (PROVEN, RIGHT), (ONE_WAY, RIGHT)] {
        for digest in ["none", "crc32c"] {
            let arguments = format!("?header_digest={digest}");
            let (content, said) = portal.tool("iscsi-inq", host, login, &arguments);
            assert!(content && said.contains("POLLUX"), "{host} {digest}: {said}");
            let (content, said) = portal.tool("iscsi-readcapacity16", host, login, &arguments);
            assert!(
                content && said.contains(&(BLOCKS - 1).to_string()),
                "{host} {digest}: {said}"
            );
        }
        let (content, said) = portal.tool("iscsi-ls", host, login, "");
        assert!(
            content && said.contains(TARGET) && said.contains("Lun:0"),
            "{host}: {said}"
        );
    }
}

#[test]
fn both_ends_prove_themselves_and_each_notices_a_wrong_secret() {
    if missing() {
        return;
    }
    let portal = Portal::start();
    let mutual = |secret: &str| format!("?target_user={TARGET_USER}&target_password={secret}");
    let (content, said) = portal.tool("iscsi-inq", PROVEN, RIGHT, &mutual(TARGET_SECRET));
    assert!(content && said.contains("POLLUX"), "{said}");
    // The tool checks what the target answers.
    let (content, said) = portal.tool("iscsi-inq", PROVEN, RIGHT, &mutual("not-the-arrays-secret"));
    assert!(!content, "{said}");
    // The target has nothing to prove itself by.
    let (content, said) = portal.tool("iscsi-inq", ONE_WAY, RIGHT, &mutual(TARGET_SECRET));
    assert!(!content && said.contains("Authentication failure"), "{said}");
    for (host, login, why) in [
        (PROVEN, "user%not-the-hosts-secret", "Authentication failure"),
        (PROVEN, "somebody%secret-of-a-host", "Authentication failure"),
        (PROVEN, "user%secret-of-the-array", "Authentication failure"),
        (PROVEN, "", "Authentication failure"),
        ("iqn.2026-01.io.pollux:stranger", "", "Authorization failure"),
    ] {
        let (content, said) = portal.tool("iscsi-inq", host, login, "");
        assert!(!content && said.contains(why), "{host} {login}: {said}");
    }
    // A discovery needs the proof, too, and a stranger's finds nothing.
    let (content, said) = portal.tool("iscsi-ls", PROVEN, "", "");
    assert!(!content && !said.contains(TARGET), "{said}");
    let (_, said) = portal.tool("iscsi-ls", "iqn.2026-01.io.pollux:stranger", "", "");
    assert!(!said.contains(TARGET), "{said}");
}
