//! The word about the machine and the shipped command that does it, with a bus that it does not get through to.

use pollux_api::id::{ArrayId, ControllerId};
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use pollux_shell::machine::{REFUSED, WORD};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

struct Here {
    dir: tempfile::TempDir,
    word: PathBuf,
    bus: PathBuf,
}

impl Here {
    fn new(word: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addresses = [1, 2].map(|last| Ipv4Addr::new(127, 9, 7, last));
        let array = ArrayId::from_bytes([7; 16]);
        let config = ControllerConfig::on_loopback(ControllerId::A, array, dir.path(), addresses);
        std::fs::write(dir.path().join(FILE), config.render()).unwrap();
        std::fs::create_dir(&config.paths.run).unwrap();
        let here = Self {
            word: config.paths.run.join(WORD),
            bus: dir.path().join("bus"),
            dir,
        };
        std::fs::write(&here.word, word).unwrap();
        here
    }

    /// The command, with this test's bus in the place of the system's.
    fn start(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_pollux"))
            .arg("--controller")
            .arg(self.dir.path())
            .arg("machine")
            .env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", self.bus.display()),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn end(&self) -> Output {
        self.start().wait_with_output().unwrap()
    }

    fn word(&self) -> Option<Vec<u8>> {
        std::fs::read(&self.word).ok()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_that_is_killed_before_systemd_has_the_job_leaves_the_word_for_the_next_one() {
    let here = Here::new(b"off\n");
    let bus = UnixListener::bind(&here.bus).unwrap();
    for _ in 0..2 {
        let mut killed = here.start();
        let (mut line, _) = bus.accept().unwrap();
        // It speaks, and waits for an answer that does not come.
        assert_ne!(line.read(&mut [0; 16]).unwrap(), 0);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(here.word().as_deref(), Some(&b"off\n"[..]));
    }

    // There is no bus at all: it is worth another try, which exit code 2 would not be.
    drop(bus);
    let output = here.end();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("systemctl start poweroff.target"));
    assert_eq!(here.word().as_deref(), Some(&b"off\n"[..]));
}

#[test]
fn half_a_word_is_moved_aside_and_not_tried_again() {
    let here = Here::new(b"of");
    let bus = UnixListener::bind(&here.bus).unwrap();
    bus.set_nonblocking(true).unwrap();
    let output = here.end();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("\"of\"") && said(&output).contains(REFUSED));
    assert_eq!(here.word(), None);
    let output = here.end();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("pollux shutdown"));
    assert!(bus.accept().is_err(), "systemd was spoken to without a word");
}
