//! The programs that are run, each once declared: where it is, how long it may take, in whose surroundings it runs.
//!
//! A mount has to be seen by others. The daemon has the machine's mounts in a copy of its own, as its unit has it, where what it
//! mounts nobody else sees; so what mounts is run by the service manager, beside the daemon. What is mounted comes into the copy by
//! itself.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Most that is read of what a program writes, bytes. A group of a thousand volumes takes a quarter of a megabyte.
const SAID: u64 = 16 << 20;
/// What LVM writes of its own at the beginning of a disk, bytes: its label and the description of the group.
const OWN: usize = 1 << 20;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Volume groups.
    Lvm,
    /// The device mapper.
    Dmsetup,
    /// Makes a file system.
    Mkfs,
    /// Grows a file system that is mounted.
    Grow,
    /// Mounts one.
    Mount,
    /// Ends a mount.
    Unmount,
}

impl Program {
    /// Where it is.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Program::Lvm => "/usr/sbin/lvm",
            Program::Dmsetup => "/usr/sbin/dmsetup",
            Program::Mkfs => "/usr/sbin/mkfs.xfs",
            Program::Grow => "/usr/sbin/xfs_growfs",
            Program::Mount => "/usr/bin/mount",
            Program::Unmount => "/usr/bin/umount",
        }
    }

    /// How long one run may take. A disk that does not answer is given up by the kernel later than that.
    #[must_use]
    pub const fn deadline(self) -> Duration {
        match self {
            Program::Lvm => Duration::from_secs(25),
            Program::Dmsetup => Duration::from_secs(15),
            Program::Mkfs | Program::Grow => Duration::from_secs(40),
            // What was written and not put in its place yet is put there first: as much as the log holds.
            Program::Mount => Duration::from_secs(60),
            Program::Unmount => Duration::from_secs(20),
        }
    }

    /// The package that brings it.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Program::Lvm => "lvm2",
            Program::Dmsetup => "dmsetup",
            Program::Mkfs | Program::Grow => "xfsprogs",
            Program::Mount | Program::Unmount => "mount",
        }
    }

    /// It changes what others see of the machine's files.
    const fn is_for_all(self) -> bool {
        matches!(self, Program::Mount | Program::Unmount)
    }
}

/// Has the service manager run a program, and waits for it.
const BESIDE: &str = "/usr/bin/systemd-run";
/// It is there while systemd is the service manager.
const SYSTEMD: &str = "/run/systemd/system";
/// What is mounted, as this process sees it.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Bytes at the beginning of a device by which it is recognized what stands there.
pub const BEGINNING: usize = 64 << 10;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device.
    pub number: (u32, u32),
    /// Where.
    pub at: String,
}

/// Mounts from the lines of `/proc/PID/mountinfo`: `ID PARENT MAJOR:MINOR ROOT WHERE ...`.
fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(2);
        let (major, minor) = words.next()?.split_once(':')?;
        Some(Mount {
            number: (major.parse().ok()?, minor.parse().ok()?),
            at: words.nth(1)?.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// What stands at the beginning of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing.
    Blank,
    /// XFS.
    Xfs,
    /// An XFS whose making was cut short: it was never used.
    Unfinished,
    /// Something else.
    Other,
}

impl Beginning {
    /// By its first bytes: the superblock of XFS has its name in front, and says at byte 126 that it is still being made.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match (bytes.get(..4), bytes.get(126)) {
            (Some(b"XFSB"), Some(0)) => Beginning::Xfs,
            (Some(b"XFSB"), Some(_)) => Beginning::Unfinished,
            _ if bytes.iter().all(|byte| *byte == 0) => Beginning::Blank,
            _ => Beginning::Other,
        }
    }
}

/// Why a program did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be run.
    #[error("{program} cannot be run: {source}; it is in the package {package}")]
    Start {
        /// Which.
        program: &'static str,
        /// What brings it.
        package: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} {words}: {status}, and said: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it was told.
        words: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        said: String,
    },
    /// It did not end in time. What it was told may still happen, if the kernel waits for a disk.
    #[error("{program} {words}: no end within {after:?}")]
    Deadline {
        /// Which.
        program: &'static str,
        /// What it was told.
        words: String,
        /// How long it was waited.
        after: Duration,
    },
}

/// Runs programs, and finds disks.
pub trait Tools: Send + Sync + 'static {
    /// Runs a program; what it wrote.
    fn run(
        &self,
        program: Program,
        args: &[String],
    ) -> impl Future<Output = Result<String, ToolError>> + Send;

    /// The disk with an identity.
    ///
    /// # Errors
    /// In words; none is used then.
    fn disk(&self, id: [u8; 16]) -> impl Future<Output = Result<Found, String>> + Send;

    /// What stands at the beginning of a device.
    ///
    /// # Errors
    /// In words.
    fn beginning(&self, node: &str) -> impl Future<Output = Result<Beginning, String>> + Send;

    /// What is mounted.
    ///
    /// # Errors
    /// In words.
    fn mounts(&self) -> impl Future<Output = Result<Vec<Mount>, String>> + Send;

    /// Writes zeros over the beginning of a device, as far as anything of LVM can stand there.
    ///
    /// # Errors
    /// In words.
    fn erase(&self, node: &str) -> impl Future<Output = Result<(), String>> + Send;

    /// Lets the group of this process open a node: who serves the volume is not root.
    ///
    /// # Errors
    /// In words.
    fn share(&self, node: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// A disk that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number in the kernel.
    pub number: (u32, u32),
    /// Its size, bytes.
    pub bytes: u64,
}

/// The programs of this machine.
#[derive(Debug)]
pub struct Machine {
    /// A directory in which no file of LVM is: what an administrator has written for other disks does not count here.
    empty: PathBuf,
    sysfs: PathBuf,
}

impl Machine {
    /// With its own, empty, configuration of LVM in `directory`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let empty = directory.join("lvm");
        std::fs::create_dir_all(&empty)?;
        Ok(Machine {
            empty,
            sysfs: "/sys".into(),
        })
    }
}

impl Tools for Machine {
    async fn run(&self, program: Program, args: &[String]) -> Result<String, ToolError> {
        let path = program.path();
        let start = |source| ToolError::Start {
            program: path,
            package: program.package(),
            source,
        };
        let mut command = match program.is_for_all() && Path::new(SYSTEMD).exists() {
            true => {
                let mut command = Command::new(BESIDE);
                let most = format!("--property=RuntimeMaxSec={}", program.deadline().as_secs());
                command.args(["--quiet", "--wait", "--pipe", "--collect", &most, "--", path]);
                command
            }
            false => Command::new(path),
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("LVM_SYSTEM_DIR", &self.empty)
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            // The programs make their nodes by themselves: a takeover waits for no udev, which may have every disk of the
            // shelf to look at just then.
            .env("DM_DISABLE_UDEV", "1")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Given up in the middle, it begins nothing more.
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(start)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let conversation = async {
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let read = async |pipe: Option<tokio::process::ChildStdout>, into: &mut Vec<u8>| match pipe {
                Some(pipe) => pipe.take(SAID).read_to_end(into).await.map(drop),
                None => Ok(()),
            };
            let complaints = async {
                match err {
                    Some(pipe) => pipe.take(SAID).read_to_end(&mut stderr).await.map(drop),
                    None => Ok(()),
                }
            };
            let (heard, complained) = tokio::join!(read(out, &mut stdout), complaints);
            heard.and(complained)?;
            child.wait().await
        };
        // Without what is the same each time.
        let words = || {
            let told: Vec<&str> = args
                .iter()
                .map(String::as_str)
                .filter(|word| !word.contains('{'))
                .collect();
            told.join(" ")
        };
        match tokio::time::timeout(program.deadline(), conversation).await {
            Ok(Ok(status)) if status.success() => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            Ok(Ok(status)) => Err(ToolError::Failed {
                program: path,
                words: words(),
                status: status.to_string(),
                said: said(&stderr),
            }),
            Ok(Err(source)) => Err(start(source)),
            Err(_) => Err(ToolError::Deadline {
                program: path,
                words: words(),
                after: program.deadline(),
            }),
        }
    }

    async fn disk(&self, id: [u8; 16]) -> Result<Found, String> {
        let sysfs = self.sysfs.clone();
        let look = move || find(&sysfs, id);
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| format!("the disks were not looked at: {error}"))?
    }

    async fn beginning(&self, node: &str) -> Result<Beginning, String> {
        let node = node.to_owned();
        let read = move || {
            let mut bytes = vec![0; BEGINNING];
            let mut device = std::fs::File::open(&node)?;
            device.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(Beginning::of(&bytes))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(beginning)) => Ok(beginning),
            Ok(Err(error)) => Err(format!("its beginning cannot be read: {error}")),
            Err(error) => Err(format!("its beginning was not read: {error}")),
        }
    }

    async fn mounts(&self) -> Result<Vec<Mount>, String> {
        let text = tokio::fs::read_to_string(MOUNTS).await;
        let text = text.map_err(|error| format!("{MOUNTS}: {error}"))?;
        Ok(mounts(&text))
    }

    async fn erase(&self, node: &str) -> Result<(), String> {
        let node = node.to_owned();
        let write = move || {
            let mut device = std::fs::File::options().write(true).open(&node)?;
            device.write_all(&vec![0; OWN])?;
            // What LVM reads next, it reads past the page cache.
            device.sync_all()
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("its beginning cannot be overwritten: {error}")),
            Err(error) => Err(format!("its beginning was not overwritten: {error}")),
        }
    }

    async fn share(&self, node: &str) -> Result<(), String> {
        let group = nix::unistd::getegid().as_raw();
        let path = node.to_owned();
        let share = move || {
            std::os::unix::fs::chown(&path, None, Some(group))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))
        };
        match tokio::task::spawn_blocking(share).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{node} cannot be given to the group {group}: {error}")),
            Err(error) => Err(format!("{node} was not given to the group {group}: {error}")),
        }
    }
}

/// The one device with an identity. Of two paths to one disk neither is used: a registration belongs to a path, and which of
/// them has it is not seen here.
fn find(sysfs: &Path, id: [u8; 16]) -> Result<Found, String> {
    let name = pollux_api::config::Hex(id);
    let scanned = pollux_platform::scsi::discover::scan(sysfs).map_err(|error| format!("sysfs: {error}"))?;
    let mut found = scanned
        .iter()
        .filter(|one| one.wwn.is_some_and(|wwn| wwn.to_bytes() == id));
    let (Some(one), None) = (found.next(), found.next()) else {
        let paths = scanned
            .iter()
            .filter(|one| one.wwn.is_some_and(|wwn| wwn.to_bytes() == id))
            .count();
        return Err(format!("{paths} devices call themselves {name}; one is needed"));
    };
    let block = one
        .block
        .as_ref()
        .ok_or_else(|| format!("{name} at {} has no block device", one.address))?;
    let dev = sysfs.join("class/block").join(&block.name).join("dev");
    let text = std::fs::read_to_string(&dev).map_err(|error| format!("{}: {error}", dev.display()))?;
    let number = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    Ok(Found {
        number: number.ok_or_else(|| format!("{}: {text:?} is no number of a device", dev.display()))?,
        bytes: block.bytes,
    })
}

/// The first lines that say something.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("WARNING"));
    let lines: Vec<_> = lines.take(4).collect();
    match lines.is_empty() {
        true => "nothing".to_owned(),
        false => lines.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let text = "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            91 28 253:12 / /run/pollux-files/ab rw,nosuid,nodev,noexec shared:60 - xfs /dev/mapper/pollux_x-f_ab rw,attr2\n\
            torn\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        let files = Mount {
            number: (253, 12),
            at: "/run/pollux-files/ab".to_owned(),
        };
        assert_eq!(found[1], files);
    }

    #[test]
    fn a_beginning_says_what_stands_there() {
        let mut bytes = vec![0; BEGINNING];
        assert_eq!(Beginning::of(&bytes), Beginning::Blank);
        bytes[..4].copy_from_slice(b"XFSB");
        assert_eq!(Beginning::of(&bytes), Beginning::Xfs);
        bytes[126] = 1;
        assert_eq!(Beginning::of(&bytes), Beginning::Unfinished);
        bytes[0] = b'Y';
        assert_eq!(Beginning::of(&bytes), Beginning::Other);
        assert_eq!(Beginning::of(b"XFSB"), Beginning::Other, "too short to say");
    }
}
