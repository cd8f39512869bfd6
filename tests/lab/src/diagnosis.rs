//! What is kept of a case: what every machine can still say, and what the lab saw from outside.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::machine::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A machine that hangs says nothing; the others must not wait long for it.
const ASK: Duration = Duration::from_secs(60);

/// What is asked of each machine: name of the file, and the command.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "journal.txt",
        "journalctl --no-pager --output=short-monotonic --boot=all",
    ),
    ("dmesg.txt", "dmesg"),
    (
        "units.txt",
        "systemctl --no-pager --all list-units; systemctl --no-pager --failed",
    ),
    (
        "network.txt",
        "ip -details address; ip route; cat /proc/net/bonding/* 2>/dev/null",
    ),
    (
        "disks.txt",
        "lsscsi --generic --wwn --size; multipath -ll; iscsiadm --mode session --print 3",
    ),
    ("writer.txt", "cat /var/tmp/*.job /var/tmp/*.json 2>/dev/null"),
    (
        "pollux.txt",
        "pollux status; pollux timeline --limit 5; ls -lR /etc/pollux /run/pollux",
    ),
];

/// Collects everything into a new folder `target/lab/logs/NAME`.
///
/// # Errors
/// A file cannot be written. What a machine does not answer is noted in place of its answer.
pub fn collect(lab: &Lab, name: &str) -> Result<PathBuf> {
    let folder = lab.places.logs.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    for machine in lab.machines() {
        let own = folder.join(machine.node.as_str());
        fs::create_dir_all(&own).map_err(Error::file("make", &own))?;
        ask(&machine, &own)?;
        for file in ["console.log", "qemu.log"] {
            let from = lab.places.run.join(machine.node.as_str()).join(file);
            if from.is_file() {
                fs::copy(&from, own.join(file)).map_err(Error::file("copy", &from))?;
            }
        }
    }
    for file in ["shelf.log", "switch.log"] {
        let from = lab.places.run.join(file);
        if from.is_file() {
            fs::copy(&from, folder.join(file)).map_err(Error::file("copy", &from))?;
        }
    }
    Ok(folder)
}

fn ask(machine: &Machine, folder: &Path) -> Result<()> {
    let mut reachable = machine.process.is_alive();
    for (file, question) in QUESTIONS {
        let text = if reachable {
            match machine.try_run(question, ASK) {
                Ok(said) => said.out + &said.err,
                Err(error) => {
                    // Its other answers would have to be waited for as long.
                    reachable = false;
                    format!("{error}\n")
                }
            }
        } else {
            "not asked: the machine is off or does not answer\n".to_owned()
        };
        let path = folder.join(file);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}
