//! Pairing with the shipped command: a code goes from one terminal to the other, and nowhere else.

use pollux_api::id::{ArrayId, ControllerId};
use pollux_pairing::{Identity, PublicKey};
use pollux_platform::keys::KeyStore;
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Two controllers that have never met, on loopback addresses of their own.
struct Two {
    dir: tempfile::TempDir,
}

impl Two {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = std::process::id().wrapping_mul(31) + NEXT.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (1 + (n >> 8) % 250, n % 250);
        let addresses = [1, 2].map(|last| Ipv4Addr::new(127, high as u8, low as u8, last));
        let dir = tempfile::tempdir().unwrap();
        for controller in ControllerId::ALL {
            let own = dir.path().join(controller.as_str());
            std::fs::create_dir(&own).unwrap();
            let array = ArrayId::from_bytes([7; 16]);
            let config = ControllerConfig::on_loopback(controller, array, &own, addresses);
            std::fs::write(own.join(FILE), config.render()).unwrap();
        }
        Self { dir }
    }

    fn controller(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn keys(&self, name: &str) -> PathBuf {
        self.controller(name).join("keys")
    }
}

fn pollux(controller: &Path, word: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollux"));
    command
        .arg("--controller")
        .arg(controller)
        .args(["pair", word])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The side that shows the code; ended when the test is.
struct Show {
    child: Child,
    stderr: BufReader<ChildStderr>,
    code: String,
}

impl Show {
    fn start(two: &Two) -> Self {
        let mut child = pollux(&two.controller("a"), "show").spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut code = String::new();
        while code.trim().len() != 9 || !code.trim().is_ascii() || !code.starts_with("    ") {
            code.clear();
            assert_ne!(stderr.read_line(&mut code).unwrap(), 0, "it ended without a code");
        }
        let code = code.trim().to_owned();
        Self { child, stderr, code }
    }

    /// Waits until it ends; its exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

fn enter(two: &Two, typed: &str) -> Output {
    let mut child = pollux(&two.controller("b"), "enter").spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn another(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &code[..8])
}

#[test]
fn the_right_code_makes_partners_also_after_a_wrong_one() {
    let two = Two::new();
    let show = Show::start(&two);
    let code = show.code.clone();
    let entered = enter(&two, &format!("what?\n{}\n{code}\n", another(&code)));
    let said = String::from_utf8_lossy(&entered.stderr).into_owned();
    assert_eq!(entered.status.code(), Some(0), "{said}");
    assert!(
        said.contains("The code is wrong") && said.contains("8 digits"),
        "{said}"
    );
    let (status, shown) = show.end();
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("2 of 3 tries are left"), "{shown}");
    let (a, b) = (two.keys("a"), two.keys("b"));
    assert_eq!(KeyStore::load(&a).unwrap(), KeyStore::load(&b).unwrap());
    assert_eq!(
        PublicKey::of_partner(&a).unwrap(),
        Identity::load(&b).unwrap().public()
    );
    assert_eq!(
        PublicKey::of_partner(&b).unwrap(),
        Identity::load(&a).unwrap().public()
    );
}

#[test]
fn three_wrong_codes_end_it_and_nothing_is_kept() {
    let two = Two::new();
    let show = Show::start(&two);
    let wrong = another(&show.code);
    let entered = enter(&two, &format!("{wrong}\n{wrong}\n{wrong}\n{}\n", show.code));
    assert_eq!(entered.status.code(), Some(1));
    let (status, shown) = show.end();
    assert_eq!(status, Some(1));
    assert!(shown.contains("wrong 3 times"), "{shown}");
    for store in [two.keys("a"), two.keys("b")] {
        assert!(PublicKey::of_partner(&store).is_err() && KeyStore::load(&store).is_err());
    }
}

#[test]
fn a_controller_that_runs_is_not_paired_and_nobody_shows_a_code_twice() {
    let two = Two::new();
    let show = Show::start(&two);
    let second = pollux(&two.controller("a"), "show").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("router.lock") && said.contains("stop"), "{said}");
    let mut child = show.child;
    child.kill().unwrap();
    child.wait().unwrap();
    let alone = enter(&two, "1234-5678\n");
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert_eq!(alone.status.code(), Some(1), "{said}");
    assert!(said.contains("pollux pair show"), "{said}");
}

/// On an appliance the daemons are no root, and the operator is: what pairing writes must be theirs.
#[test]
fn what_root_pairs_belongs_to_the_daemons() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("SKIPPED: only root can act for another user");
    }
    // nobody, on every system.
    let daemons = 65534;
    let two = Two::new();
    std::fs::set_permissions(two.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["a", "b"] {
        let own = two.controller(name);
        for folder in [own.clone(), own.join("var")] {
            std::fs::create_dir_all(&folder).unwrap();
            chown(&folder, Some(daemons), Some(daemons)).unwrap();
        }
    }
    let show = Show::start(&two);
    let entered = enter(&two, &format!("{}\n", show.code));
    assert_eq!(
        entered.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&entered.stderr)
    );
    let (status, shown) = show.end();
    assert_eq!(status, Some(0), "{shown}");
    for name in ["a", "b"] {
        let mut written = vec![two.controller(name).join("run/router.lock")];
        written.extend(
            std::fs::read_dir(two.keys(name))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        assert!(written.len() > 3, "{written:?}");
        for file in written {
            assert_eq!(
                std::fs::metadata(&file).unwrap().uid(),
                daemons,
                "{}",
                file.display()
            );
        }
    }
}
