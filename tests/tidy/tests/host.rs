//! The package for hosts: its login does what its README says, and both name the same limits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Detection in the profile `safe`, s: a host that needs longer to give up a silent path waits for itself alone.
const DETECTION: u32 = 8;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .join("packaging/pollux-host")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// What stands behind the name of a setting in a file of the package.
fn setting(file: &str, name: &str) -> u32 {
    let text = read(file);
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.parse().ok());
    value.unwrap_or_else(|| panic!("packaging/pollux-host/{file} has no number behind {name:?}"))
}

#[test]
fn a_silent_path_is_given_up_before_the_array_has_taken_over() {
    let interval = setting("login", "INTERVAL=");
    let timeout = setting("login", "TIMEOUT=");
    let fail = setting("multipath.conf", "fast_io_fail_tmo ");
    let sum = interval + timeout + fail;
    assert!(sum <= DETECTION, "{interval} s + {timeout} s + {fail} s");
    // TCP finds by 3.4 s that an outage of 3 s is over; the answer needs a moment.
    assert!(timeout >= 4, "{timeout} s");
    let readme = read("README.md");
    for (name, value) in [
        (
            "`node.conn[0].timeo.noop_out_interval` |",
            format!("{interval} s"),
        ),
        ("`node.conn[0].timeo.noop_out_timeout` |", format!("{timeout} s")),
        (
            "`fast_io_fail_tmo` (`recovery_tmo` of the session) |",
            format!("{fail} s"),
        ),
        ("|", format!("**{sum} s**")),
    ] {
        let row = format!("| {name} {value} |");
        assert!(
            readme.contains(&row),
            "packaging/pollux-host/README.md has no row {row:?}"
        );
    }
}

/// A host whose `iscsiadm` notes what it is asked and answers what a test wants.
struct Host(tempfile::TempDir);

impl Host {
    /// `answers`: a case of a shell for each beginning of the arguments.
    fn new(answers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("iscsiadm");
        let log = folder.path().join("log");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>'{}'\ncase \"$*\" in\n{answers}\nesac\n",
            log.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn login(&self, portals: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        let mut command = Command::new(folder().join("login"));
        command.args(portals).env("PATH", path).output().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

const ARRAY: &str = "iqn.2026-01.io.pollux:00000000-0000-0000-0000-000000000001";

#[test]
fn the_login_sets_the_limits_before_it_logs_in() {
    // Each portal lists both; at one there is a target of somebody else, too, and a session already.
    let host = Host::new(&format!(
        "*'--portal 10.78.0.1 --op new') echo '10.78.0.1:3260,1 {ARRAY}'; echo '10.78.0.2:3260,2 {ARRAY}' ;;\n\
         *'--portal 10.78.0.2 --op new') echo '10.78.0.2:3260,2 {ARRAY}'; echo '10.78.0.1:3260,1 {ARRAY}'\n\
         echo '10.78.0.2:3260,1 iqn.2001-04.com.example:other' ;;\n\
         *'10.78.0.2:3260 --login') exit 15 ;;"
    ));
    let output = host.login(&["10.78.0.1", "10.78.0.2"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("10.78.0.2:3260: logged in before"), "{said}");
    let mut wanted = ["10.78.0.1", "10.78.0.2"]
        .map(|portal| format!("--mode discovery --type sendtargets --portal {portal} --op new"))
        .to_vec();
    for portal in ["10.78.0.1:3260", "10.78.0.2:3260"] {
        let record = format!("--mode node --targetname {ARRAY} --portal {portal}");
        wanted.extend([
            format!("{record} --op update --name node.conn[0].timeo.noop_out_interval --value 2"),
            format!("{record} --op update --name node.conn[0].timeo.noop_out_timeout --value 4"),
            format!("{record} --op update --name node.startup --value automatic"),
            format!("{record} --login"),
        ]);
    }
    assert_eq!(host.asked(), wanted);
}

#[test]
fn what_is_missing_is_named_and_the_rest_is_done() {
    let host = Host::new(&format!(
        "*'--portal 10.78.0.1 --op new') echo '10.78.0.1:3260,1 {ARRAY}' ;;\n\
         *'--portal 10.78.0.2 --op new') exit 4 ;;\n\
         *--login) exit 24 ;;"
    ));
    let output = host.login(&["10.78.0.1", "10.78.0.2"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in [
        "10.78.0.2 does not answer",
        "no login to 10.78.0.1:3260 (iscsiadm ends with 24)",
        "portals found: 1; needed: 2",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(host.asked().last().is_some_and(|last| last.ends_with("--login")));
    let unused = Host::new("*) exit 1 ;;");
    let output = unused.login(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(unused.asked().is_empty() && String::from_utf8_lossy(&output.stderr).contains("usage"));
}
