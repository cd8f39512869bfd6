//! The shelf: dual-ported SCSI disks with reservations, served to both controllers by a process of its own, and its log of
//! who wrote what, which judges them.
//!
//! It is the shelf of the enclosure in software behind an iSCSI target; each machine's QEMU logs in once for each disk and
//! passes every command on as it is, so that the guest's kernel sees a SCSI disk.

use crate::error::{Error, Result};
use crate::lab::free_port;
use crate::places::Places;
use crate::process::Process;
use crate::programs;
use crate::topology::{Node, ShelfPort};
use crate::wait::wait_for;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Data disks of the array's own backend: two for each of two pools.
pub const OWN: u16 = 4;
/// Data disks: those, two for a volume group of the kernel, and one that is in no pool.
pub const DATA: u16 = OWN + 3;
/// The one that is in no pool.
pub const SPARE: u16 = DATA - 1;
/// Quorum disks, in the slots after those.
pub const QUORUM: u16 = 3;
/// Size of a data disk: an XFS has 300 MiB at least.
const SIZE: &str = "512M";
/// The program, of this workspace.
const PROGRAM: &str = "lab-shelf";
/// What the program ends with when it has found a second writer.
const SECOND_WRITER: i32 = 3;
const START: Duration = Duration::from_secs(60);

/// What `lab-shelf silences` says.
#[derive(Deserialize)]
struct Silence {
    port: String,
    longest_ms: Option<u64>,
}

/// A running shelf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shelf {
    process: Process,
    program: PathBuf,
    folder: PathBuf,
    control: PathBuf,
    ports: [u16; 2],
}

impl Shelf {
    /// What a shelf is made of, in a text.
    #[must_use]
    pub fn shape() -> String {
        format!("{DATA} of {SIZE} and {QUORUM}")
    }

    /// Starts one on the disks that are there; without any, on new ones.
    ///
    /// # Errors
    /// The program is not built, or does not start.
    pub fn start(places: &Places) -> Result<Self> {
        let what = "start the shelf";
        let program = places.programs.join(PROGRAM);
        if !program.is_file() {
            return Err(Error::step(
                what,
                format!(
                    "{} is not there: cargo build -p pollux-lab-shelf",
                    program.display()
                ),
            ));
        }
        let ports = [free_port()?, free_port()?];
        let folder = places.run.join("shelf");
        let control = places.run.join("shelf.sock");
        let mut command = Command::new(&program);
        command
            .args(["run", "--size", SIZE])
            .args(["--disks", &DATA.to_string(), "--quorum", &QUORUM.to_string()])
            .arg("--folder")
            .arg(&folder)
            .arg("--control")
            .arg(&control)
            .args(["--port-a", &format!("127.0.0.1:{}", ports[0])])
            .args(["--port-b", &format!("127.0.0.1:{}", ports[1])]);
        let log = places.run.join("shelf.log");
        let process = Process::start(what, &mut command, &log)?;
        let shelf = Self {
            process,
            program,
            folder,
            control,
            ports,
        };
        wait_for(what, START, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("\"ready\":true") {
                Ok(())
            } else if shelf.process.is_alive() {
                Err(format!("it says {:?}", said.trim()))
            } else {
                Err(format!("it has ended: {}", said.trim()))
            }
        })?;
        Ok(shelf)
    }

    /// Through which port a controller reaches every disk; the number of a unit is that of its slot.
    #[must_use]
    pub fn port(&self, node: Node) -> ShelfPort {
        let port = self.ports[usize::from(node.index() != 0)];
        ShelfPort {
            portal: format!("127.0.0.1:{port}"),
            target: format!("iqn.2026-01.pollux.lab:shelf.{node}"),
            luns: 0..DATA + QUORUM,
        }
    }

    /// Presses a button of the shelf, with parameters as JSON; returns what it says.
    ///
    /// # Errors
    /// It refuses.
    pub fn press(&self, method: &str, parameters: &serde_json::Value) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(["call", "--control"])
            .arg(&self.control)
            .args([method, &parameters.to_string()]);
        let output = programs::run(&format!("ask the shelf for {method}"), &mut command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One writer at every instant on the disks of each pool, by the shelf's own log. Returns what it saw.
    ///
    /// # Errors
    /// [`Error::Broken`]: there was a second writer.
    pub fn judge(&self, pools: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["audit", "--folder"]).arg(&self.folder);
        for pool in pools {
            command.args(["--pool", pool]);
        }
        let output = command
            .output()
            .map_err(|error| Error::step("judge the shelf's log", error))?;
        let seen = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok(seen),
            Some(SECOND_WRITER) => Err(Error::broken(
                "one writer at every instant",
                format!("{said}: {seen}"),
            )),
            _ => Err(Error::step("judge the shelf's log", said)),
        }
    }

    /// The longest time, ms, in which a controller's slot did not come to a majority of the quorum disks, over the last
    /// `span`, by the shelf's own log.
    ///
    /// # Errors
    /// The log cannot be read, or a controller wrote no slot.
    pub fn worst_slot(&self, node: Node, span: Duration) -> Result<u64> {
        let what = "find the longest silence of a slot";
        let quorum: Vec<String> = (DATA..DATA + QUORUM).map(|slot| slot.to_string()).collect();
        let mut command = Command::new(&self.program);
        command.args(["silences", "--folder"]).arg(&self.folder);
        command.args([
            "--disks",
            &quorum.join(","),
            "--last-s",
            &span.as_secs().to_string(),
        ]);
        let output = programs::run(what, &mut command)?;
        let found: Vec<Silence> =
            serde_json::from_slice(&output.stdout).map_err(|error| Error::step(what, error))?;
        let mut longest: Vec<u64> = found
            .into_iter()
            .filter(|silence| silence.port == node.as_str())
            .map(|silence| silence.longest_ms.unwrap_or(u64::MAX))
            .collect();
        longest.sort_unstable();
        // A slot counts once a majority of the disks has it.
        match longest.get(longest.len() / 2) {
            Some(ms) if *ms < u64::MAX => Ok(*ms),
            _ => Err(Error::step(what, format!("{node} wrote none: {longest:?}"))),
        }
    }

    /// Where its log and its disks are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(&self) -> Result<()> {
        self.process.end()
    }
}
