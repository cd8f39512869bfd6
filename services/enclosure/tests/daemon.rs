//! The daemon as a process: its files, its readiness, its end.

use pollux_api::error::Code;
use pollux_api::id::{ArrayId, ControllerId};
use pollux_platform::lines::CallError;
use pollux_platform::power::{ChassisBmc, Watchdog};
use pollux_runtime::ControllerConfig;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(120);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already where the test came to its end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn folder(enclosure: &str) -> (tempfile::TempDir, ControllerConfig) {
    let dir = tempfile::tempdir().unwrap();
    let addresses = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    let config = ControllerConfig::on_loopback(
        ControllerId::A,
        ArrayId::from_bytes([7; 16]),
        dir.path(),
        addresses,
    );
    std::fs::write(dir.path().join("controller.toml"), config.render()).unwrap();
    std::fs::write(dir.path().join("enclosure.toml"), enclosure).unwrap();
    (dir, config)
}

fn daemon(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enclosured"));
    command
        .arg("--config")
        .arg(dir.join("controller.toml"))
        .arg("--enclosure")
        .arg(dir.join("enclosure.toml"))
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code and journal.
fn refused(dir: &Path) -> (Option<i32>, String) {
    let output = daemon(dir).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test]
async fn it_serves_what_there_is_and_ends_when_asked() {
    let (dir, config) = folder("[[disk]]\nslot = 3\nwwn = \"naa.5000c500a1b2c3d7\"\n");
    let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let mut running = Running(daemon(dir.path()).stderr(Stdio::null()).spawn().unwrap());
    let said = async || {
        let mut buffer = [0; 64];
        let length = timeout(LIMIT, notify.recv(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(
        said().await,
        "READY=1",
        "a disk that is not there keeps nobody from starting"
    );
    assert!(!config.paths.port.join("disk-03.sock").exists());

    let refusal = ChassisBmc::new(&config.paths.bmc)
        .arm(LIMIT, LIMIT)
        .await
        .unwrap_err();
    match refusal {
        CallError::Refused { error, .. } => assert!(error.is(Code::Refused), "{error}"),
        other => panic!("{other}"),
    }
    let (code, journal) = refused(dir.path());
    assert_eq!(code, Some(1), "{journal}");
    assert!(journal.contains("one daemon serves the hardware"), "{journal}");
    assert!(config.paths.bmc.exists(), "whoever is refused takes nothing away");

    let pid = running.0.id().to_string();
    assert!(
        Command::new("kill")
            .arg("-TERM")
            .arg(pid)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(said().await, "STOPPING=1");
    let status = tokio::task::spawn_blocking(move || running.0.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!config.paths.bmc.exists());
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let (dir, _) = folder("[[disk]]\nslot = 3\nwwn = \"/dev/sda\"\n");
    let (code, journal) = refused(dir.path());
    assert_eq!(code, Some(78), "{journal}");
    assert!(
        journal.contains("enclosure.toml") && journal.contains("/dev/sda"),
        "{journal}"
    );
    std::fs::remove_file(dir.path().join("controller.toml")).unwrap();
    let (code, journal) = refused(dir.path());
    assert!(
        code == Some(78) && journal.contains("controller.toml"),
        "{journal}"
    );
    let nothing = Command::new(env!("CARGO_BIN_EXE_enclosured")).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    let listed = Command::new(env!("CARGO_BIN_EXE_enclosured"))
        .arg("--list")
        .output()
        .unwrap();
    assert_eq!(listed.status.code(), Some(0));
}
