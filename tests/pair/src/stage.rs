//! The stage on which each test of the pair plays: its turn on the machine, a scratch directory,
//! and a loaded rig. What a test leaves behind when it fails is printed, not kept.

use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::programs::Programs;
use crate::rig::{Plan, Rig, Turn};

/// A loaded rig with everything that it needs. Dropping it ends all of it.
pub struct Stage {
    rig: Rig,
    _directory: tempfile::TempDir,
    _turn: Turn,
}

impl Stage {
    /// Builds and loads a rig; `adjust` may change the plan. `None`, with SKIPPED and the reason
    /// printed, where this machine lacks something that the project does not bring.
    #[track_caller]
    pub fn set(adjust: impl FnOnce(&mut Plan)) -> Option<Self> {
        let lacking = crate::demo::missing_packages();
        if lacking.contains(&"libiscsi7") {
            eprintln!("SKIPPED: no libiscsi on this machine (Debian package libiscsi7)");
            return None;
        }
        let programs = Programs::up_to_date().unwrap_or_else(|err| panic!("{err}"));
        let turn = Turn::take().unwrap_or_else(|err| panic!("{err}"));
        let directory = tempfile::Builder::new()
            .prefix("px-")
            .tempdir()
            .expect("scratch directory");
        let array = directory.path().join("a");
        let mut plan = Plan::new(crate::array::Options::new(&array));
        // Build machines are noisy: the profile that is made for them, by the same inequalities.
        plan.array.profile = pollux_runtime::Profile::Ci;
        plan.array.disk_size = 128 << 20;
        adjust(&mut plan);
        let built = Rig::build(&programs, plan).and_then(|mut rig| rig.load().map(|()| rig));
        let rig = match built {
            Ok(rig) => rig,
            Err(err @ Error::Missing(_)) => {
                eprintln!("SKIPPED: {err}");
                return None;
            }
            Err(err) => {
                print_logs(&array);
                panic!("{err}");
            }
        };
        Some(Stage {
            rig,
            _directory: directory,
            _turn: turn,
        })
    }

    /// The operator's command, with something on its standard input: its exit code, and what it said on both outputs.
    pub fn pollux(&self, arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut child = Command::new(self.array.programs().pollux())
            .arg("--dir")
            .arg(self.array.directory())
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the operator's command starts");
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("the operator's command ends");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Deref for Stage {
    type Target = Rig;
    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Rig {
        &mut self.rig
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for event in self.rig.array.journal().unwrap_or_default() {
            eprintln!("{}", serde_json::to_string(&event).unwrap_or_default());
        }
        print_logs(self.rig.array.directory());
    }
}

/// The end of every daemon's log.
fn print_logs(directory: &Path) {
    for controller in ["a", "b"] {
        let Ok(logs) = std::fs::read_dir(directory.join(controller).join("log")) else {
            continue;
        };
        for log in logs.flatten() {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("== {}", log.path().display());
            for line in &lines[lines.len().saturating_sub(25)..] {
                eprintln!("{line}");
            }
        }
    }
    let text = std::fs::read_to_string(directory.join(pollux_chassis::LOG)).unwrap_or_default();
    eprintln!("== enclosure\n{text}");
}
