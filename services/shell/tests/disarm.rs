//! The watchdog of a controller that was stopped, disarmed by the shipped command.

use pollux_api::id::{ArrayId, ControllerId};
use pollux_platform::file::Lock;
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

struct Here {
    dir: tempfile::TempDir,
    config: ControllerConfig,
}

impl Here {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addresses = [1, 2].map(|last| Ipv4Addr::new(127, 9, 8, last));
        let array = ArrayId::from_bytes([7; 16]);
        let config = ControllerConfig::on_loopback(ControllerId::A, array, dir.path(), addresses);
        std::fs::write(dir.path().join(FILE), config.render()).unwrap();
        std::fs::create_dir(&config.paths.run).unwrap();
        Self { dir, config }
    }

    fn disarm(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pollux"));
        command
            .arg("--controller")
            .arg(self.dir.path())
            .arg("disarm")
            .output()
            .unwrap()
    }
}

#[test]
fn a_controller_that_was_stopped_has_its_watchdog_disarmed() {
    let here = Here::new();
    let listener = UnixListener::bind(&here.config.paths.bmc).unwrap();
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let request: Value = serde_json::from_str(&line).unwrap();
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": true });
        writeln!(&stream, "{answer}").unwrap();
        request["method"].as_str().unwrap().to_owned()
    });
    let output = here.disarm();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(asked.join().unwrap(), "bmc.watchdog_disarm");
}

#[test]
fn it_is_not_while_heartbeat_runs_and_says_so_where_nobody_has_it() {
    let here = Here::new();
    let listener = UnixListener::bind(&here.config.paths.bmc).unwrap();
    listener.set_nonblocking(true).unwrap();
    let heartbeat = Lock::acquire(&here.config.paths.run.join("heartbeat.lock")).unwrap();
    let output = here.disarm();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("stays armed") && said.contains("heartbeat.lock"),
        "{said}"
    );
    assert!(
        listener.accept().is_err(),
        "the watchdog was spoken to while heartbeat runs"
    );

    drop(heartbeat);
    let pools = here.config.paths.run.join("pools");
    std::fs::create_dir(&pools).unwrap();
    std::fs::write(pools.join("8c6f.json"), "{}").unwrap();
    let output = here.disarm();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("still imported here: pool 8c6f"), "{said}");
    assert!(
        listener.accept().is_err(),
        "the watchdog was spoken to while a pool is imported"
    );
    std::fs::remove_dir_all(&pools).unwrap();

    drop(listener);
    let output = here.disarm();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stays armed"), "{said}");
}
