//! The programs of others that the lab runs, each declared once: where it comes from and what for.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A program of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What the lab needs it for.
    pub what_for: &'static str,
}

/// Makes Debian systems out of packages: the guests' image, and the QEMU where this machine's is too old.
pub const MMDEBSTRAP: Program = Program {
    name: "mmdebstrap",
    package: "mmdebstrap",
    what_for: "makes the image of the virtual machines out of Debian packages",
};
/// Makes file systems out of folders.
pub const MKE2FS: Program = Program {
    name: "mke2fs",
    package: "e2fsprogs",
    what_for: "makes the disks from which the virtual machines boot",
};
/// Commands in the virtual machines.
pub const SSH: Program = Program {
    name: "ssh",
    package: "openssh-client",
    what_for: "runs commands in the virtual machines",
};
/// Files into the virtual machines.
pub const SCP: Program = Program {
    name: "scp",
    package: "openssh-client",
    what_for: "copies files into the virtual machines, and out of them",
};
/// The lab's own key.
pub const SSH_KEYGEN: Program = Program {
    name: "ssh-keygen",
    package: "openssh-client",
    what_for: "makes the key with which the lab enters its virtual machines",
};
/// Copies of disks that are mostly empty.
pub const CP: Program = Program {
    name: "cp",
    package: "coreutils",
    what_for: "copies disks with their holes",
};
/// Packs the controllers' package anew, with a higher version.
pub const DPKG_DEB: Program = Program {
    name: "dpkg-deb",
    package: "dpkg",
    what_for: "makes a newer package of the one that is installed",
};
/// This machine's own QEMU; where it is absent or too old, another one is fetched.
pub const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
    what_for: "runs the virtual machines",
};

/// Every program without which nothing runs. [`QEMU`] is none of them.
pub const NEEDED: [Program; 7] = [MMDEBSTRAP, MKE2FS, SSH, SCP, SSH_KEYGEN, CP, DPKG_DEB];

/// Folders of programs, whatever the caller's PATH says: mke2fs is in /usr/sbin.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

impl Program {
    /// Where it is.
    ///
    /// # Errors
    /// [`Error::Missing`] names the package.
    pub fn path(&self) -> Result<PathBuf> {
        FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(self.name))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                Error::Missing(format!(
                    "{} is not here ({}): apt install {}",
                    self.name, self.what_for, self.package
                ))
            })
    }

    /// A command that runs it.
    ///
    /// # Errors
    /// It is not here.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.path()?);
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// All that is missing, in one message.
///
/// # Errors
/// [`Error::Missing`] names every package.
pub fn all_here() -> Result<()> {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter_map(|program| program.path().err())
        .map(|error| error.to_string())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::Missing(missing.join("; ")))
    }
}

/// Runs a command to its end and returns what it wrote.
///
/// # Errors
/// It cannot be started, or ends with anything but 0; then its last lines are the reason.
pub fn run(what: &str, command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .map_err(|error| Error::step(what, format!("cannot start {command:?}: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::step(
        what,
        format!("{}: {}", output.status, last_lines(&said, 12)),
    ))
}

/// The last lines of a text.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let program = Program {
            name: "no-such-program-anywhere",
            package: "no-such-package",
            what_for: "nothing",
        };
        let text = program.path().expect_err("it is nowhere").to_string();
        assert!(text.contains("no-such-program-anywhere") && text.contains("apt install no-such-package"));
    }

    #[test]
    fn a_failure_shows_the_last_lines() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "for i in 1 2 3; do echo line $i; done; exit 4"]);
        let text = run("count", &mut command).expect_err("it fails").to_string();
        assert!(text.contains("count") && text.contains("line 3"), "{text}");
    }
}
