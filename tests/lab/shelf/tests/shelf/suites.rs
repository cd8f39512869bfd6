//! The conformance suites of libiscsi, over both ports of one disk at once: where a test needs a second I_T nexus, that is
//! the other port.

use crate::support::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// Longest run of one suite, seconds.
const BOUND: &str = "180";
const TOOL: &str = "/usr/bin/iscsi-test-cu";
/// Tests that may end otherwise than passed, each with its reason.
const LIST: &str = include_str!("suites.txt");

/// What the tool has said of one of its tests: its name, and `passed`, `skip` or `failed`.
fn verdicts(text: &str) -> Vec<(String, &'static str)> {
    let part = |part: &str| {
        let name = part.split_whitespace().next().unwrap_or_default().to_owned();
        // What follows the last test is the summary. Notes in brackets are of what the test goes on after.
        let part = part.split("Run Summary").next().unwrap_or_default();
        let verdict = if part.replace("[FAILED]", "").contains("FAILED") || !part.contains("passed") {
            "failed"
        } else if part.contains("[SKIPPED]") {
            "skip"
        } else {
            "passed"
        };
        (name, verdict)
    };
    text.split("  Test: ").skip(1).map(part).collect()
}

/// `verdict Suite.Test` of each line.
fn listed() -> BTreeSet<String> {
    let lines = LIST.lines().filter(|line| !line.starts_with('#'));
    let first_two = |line: &str| {
        let mut words = line.split_whitespace();
        let key = format!(
            "{} {}",
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default()
        );
        assert!(words.next().is_some(), "no reason: {line}");
        key
    };
    lines.map(first_two).collect()
}

fn run(suites: &[&str]) {
    if !Path::new(TOOL).exists() {
        println!("SKIPPED: {TOOL} is missing (Debian package libiscsi-bin)");
        return;
    }
    let listed = listed();
    let mut wrong = Vec::new();
    for suite in suites {
        // Of its own for each: suites leave reservations behind.
        let lab = Lab::start_with(64 << 20);
        // libiscsi 1.19 dies of SIGPIPE where the target has hung up for good reason.
        let output = Command::new("timeout")
            .args(["--kill-after=5", BOUND, "env", "--ignore-signal=PIPE", TOOL])
            .args(["--dataloss", "-V", "-i", &name(A), "-t", &format!("ALL.{suite}")])
            .args([lab.url(A, 0), lab.url(B, 0)])
            .stdin(Stdio::null())
            .output()
            .expect("coreutils' timeout");
        let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        let verdicts = verdicts(&text);
        let count = |wanted: &str| verdicts.iter().filter(|(_, found)| *found == wanted).count();
        println!(
            "{suite}: {} passed, {} skipped, {} failed",
            count("passed"),
            count("skip"),
            count("failed")
        );
        let mut said = Vec::new();
        if verdicts.is_empty() || !text.contains("Run Summary") {
            said.push(format!(
                "{suite}: the tool did not come to its end: {:?}",
                output.status
            ));
        }
        for (test, verdict) in verdicts {
            let key = format!("{verdict} {suite}.{test}");
            if verdict != "passed" && !listed.contains(&key) {
                said.push(format!("{key}: not on the list"));
            }
        }
        if !said.is_empty() {
            wrong.extend(said);
            wrong.push(text);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reservations() {
    run(&[
        "PrinReadKeys",
        "PrinServiceactionRange",
        "PrinReportCapabilities",
        "ProutRegister",
        "ProutReserve",
        "ProutClear",
        "ProutPreempt",
    ]);
}

#[test]
fn what_it_is() {
    run(&[
        "Inquiry",
        "Mandatory",
        "ModeSense6",
        "ReadCapacity10",
        "ReadCapacity16",
        "ReportSupportedOpcodes",
        "TestUnitReady",
        "StartStopUnit",
        "GetLBAStatus",
        "Unmap",
        "Reserve6",
    ]);
}

#[test]
fn reads_and_writes() {
    run(&[
        "Read6",
        "Read10",
        "Read12",
        "Read16",
        "Write10",
        "Write12",
        "Write16",
        "WriteSame10",
        "WriteSame16",
        "WriteVerify10",
        "WriteVerify16",
        "Verify10",
        "Verify16",
        "OrWrite",
        "CompareAndWrite",
        "Prefetch10",
    ]);
}

#[test]
fn the_transport_and_both_paths() {
    run(&["iSCSIcmdsn", "iSCSIResiduals", "iSCSITMF", "MultipathIO"]);
}

#[test]
fn the_report_is_read_as_it_is_meant() {
    let report = concat!(
        "Suite: Read10\n  Test: Simple ...\n    [SKIPPED] no\npassed\n  Test: Async ...[FAILED] once\npassed\n",
        "  Test: Flags ...FAILED\n    1. here\n  Test: Dead ...\n\nRun Summary: passed\n"
    );
    let expected = [
        ("Simple", "skip"),
        ("Async", "passed"),
        ("Flags", "failed"),
        ("Dead", "failed"),
    ];
    assert_eq!(
        verdicts(report),
        expected.map(|(name, verdict)| (name.to_owned(), verdict))
    );
    assert!(
        listed()
            .iter()
            .all(|line| line.starts_with("skip ") || line.starts_with("failed "))
    );
}
