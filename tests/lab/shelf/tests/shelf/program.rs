//! The program: how it is started, asked, and ended.

use crate::support::*;
use pollux_host::scsi::Status;
use pollux_host::single::Login;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lab-shelf");

fn start(folder: &Path, more: &[&str]) -> (Child, Value) {
    let mut child = Command::new(PROGRAM)
        .args([
            "run",
            "--disks",
            "2",
            "--size",
            "16M",
            "--quorum",
            "1",
            "--quorum-size",
            "1M",
        ])
        .args([
            "--port-a",
            "127.0.0.1:0",
            "--port-b",
            "127.0.0.1:0",
            "--end-with-stdin",
        ])
        .arg("--folder")
        .arg(folder)
        .arg("--control")
        .arg(folder.join("control"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    (child, serde_json::from_str(&line).unwrap_or_default())
}

fn say(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("it runs")
}

#[test]
fn it_is_ready_when_it_says_so_and_ends_with_who_started_it() {
    let folder = tempfile::tempdir().expect("scratch");
    let (mut child, ready) = start(folder.path(), &[]);
    assert_eq!((&ready["ready"], &ready["luns"]), (&json!(true), &json!(3)));
    let control = folder.path().join("control");
    let control = control.to_str().expect("plain");
    let call = |method: &str, params: &str| -> Result<Value, String> {
        let output = say(&["call", "--control", control, method, params]);
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let status = call("shelf.status", "{}").expect("it answers");
    assert_eq!(status["ports"]["b"]["address"], ready["ports"][1]["portal"]);
    assert_eq!(status["disks"][2]["quorum"], json!(true));
    let fault = r#"{"disk":0,"port":"a","fault":{"slow":{"min_ms":1,"max_ms":2}}}"#;
    assert_eq!(
        call("chassis.disk_fault", fault).expect("done")["changed"],
        json!(true)
    );
    let status = call("shelf.status", "{}").expect("it answers");
    assert_eq!(
        status["disks"][0]["faults"][0],
        json!("slow (1-2 ms) through port a")
    );
    assert!(
        call("chassis.disk_fault", r#"{"disk":9,"port":null,"fault":"stuck"}"#)
            .unwrap_err()
            .contains("disk-09")
    );
    assert_eq!(call("chassis.heal", "{}").expect("done")["changed"], json!(true));
    if !no_library() {
        let target = &ready["ports"][0];
        let login = Login {
            initiator: name(A),
            isid: 1,
            target: target["target"].as_str().expect("a name").to_owned(),
            portal: target["portal"].as_str().expect("an address").to_owned(),
        };
        let mut host = Host::log_in(&login).expect("logged in");
        assert_eq!(host.write(1, 3, 1, 1, true), Status::Good);
        let folder = folder.path().to_str().expect("plain");
        let log = say(&["log", "--folder", folder]);
        let line: Value = serde_json::from_slice(&log.stdout).expect("one record");
        let fields = (&line["event"], &line["lba"], &line["port"], &line["flags"]);
        assert_eq!(fields, (&json!("Write"), &json!(3), &json!("a"), &json!(["fua"])));
        assert_eq!(
            say(&["audit", "--folder", folder, "--pool", "0,1"]).status.code(),
            Some(0)
        );
        let judged = call("shelf.judge", r#"{"disks":[0,1]}"#).expect("judged");
        assert_eq!(
            (&judged["writes"], &judged["second_writers"]),
            (&json!(1), &json!([]))
        );
    }
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn what_cannot_be_is_said() {
    let folder = tempfile::tempdir().expect("scratch");
    let path = folder.path().to_str().expect("plain");
    let socket = folder.path().join("control");
    let socket = socket.to_str().expect("plain");
    let run = ["run", "--folder", path, "--control", socket];
    let refused = |more: &[&str]| {
        let output = say(&[&run[..], more].concat());
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["--port-a", "0.0.0.0:0"]).contains("no loopback address"));
    assert!(refused(&["--quorum", "2"]).contains("1, 3 or 5"));
    assert!(refused(&["--size", "1M"]).contains("from 2 MiB"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    assert!(refused(&["--port-a", "127.0.0.1:0", "--port-b", &taken]).contains("in use"));
    let (mut first, _) = start(folder.path(), &[]);
    let second = refused(&["--port-a", "127.0.0.1:0", "--port-b", "127.0.0.1:0"]);
    assert!(second.contains("lock"), "{second}");
    drop(first.stdin.take());
    assert!(first.wait().expect("it ends").success());
    assert_eq!(
        say(&["audit", "--folder", path, "--pool", "x"]).status.code(),
        Some(2)
    );
    let nowhere = format!("{path}/nowhere");
    for words in [&["audit", "--pool", "1"][..], &["log"]] {
        let output = say(&[words, &["--folder", &nowhere]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for told in [&nowhere, "no folder of a shelf", "`lab-shelf run` was given"] {
            assert!(said.contains(told), "{said}");
        }
    }
}
