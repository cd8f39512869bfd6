//! The system that every virtual machine boots: a Debian with what a controller and a host need, without anything of ours.
//!
//! Think of a stack of transparent sheets. The lowest is the image, made once, the same for all, never written. On it lies
//! the machine's own disk ([`crate::disk`]), which holds what makes it *this* machine, and takes every write; that disk
//! outlives a power cut, as a real one does. A change of our own code changes the upper sheet only.
//!
//! Three files come out: `root.img` (ext4), `vmlinux` (unpacked, so that no emulated processor has to do it) and
//! `initrd.img` (the modules for two disks, and a shell that puts one sheet on the other).

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::mirror;
use crate::modules::{self, FIRST, Index, REST};
use crate::programs::{self, MKE2FS, MMDEBSTRAP};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Release of Debian in the virtual machines.
pub const SUITE: &str = "trixie";
/// What is installed, beyond the packages that every Debian has.
const PACKAGES: &[&str] = &[
    // The system itself.
    "busybox-static",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-amd64",
    "openssh-server",
    "systemd",
    "systemd-sysv",
    "udev",
    "xz-utils",
    "zstd",
    // Controllers: fences, pools, targets, and what a person looks with.
    "adduser",
    "e2fsprogs",
    "lsscsi",
    "lvm2",
    "nftables",
    "sg3-utils",
    "systemd-timesyncd",
    "tcpdump",
    "thin-provisioning-tools",
    "xfsprogs",
    // Hosts.
    "fio",
    "multipath-tools",
    "open-iscsi",
];
/// Never unpacked: nobody reads them there, and the kernel's hook would make an initramfs that nobody boots.
const LEFT_OUT: &[&str] = &[
    "/etc/kernel/postinst.d/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];
/// The first process.
const INIT: &str = include_str!("../guest/init");
/// Files of the image that no package brings.
const FILES: &[(&str, &str)] = &[
    ("etc/fstab", ""),
    (
        "etc/ssh/sshd_config.d/lab.conf",
        include_str!("../guest/sshd.conf"),
    ),
    (
        "etc/systemd/journald.conf.d/lab.conf",
        include_str!("../guest/journald.conf"),
    ),
    (
        "etc/systemd/system.conf.d/lab.conf",
        include_str!("../guest/system.conf"),
    ),
    (
        "etc/modules-load.d/lab.conf",
        include_str!("../guest/modules.conf"),
    ),
];
/// Started at each boot although nobody asks for them, and of no use here; each costs seconds on an emulated processor. What
/// a host needs of them is enabled on its own disk.
const OFF: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "blk-availability.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "iscsid.service",
    "iscsid.socket",
    "ldconfig.service",
    "lvm2-monitor.service",
    "multipathd.service",
    "multipathd.socket",
    "nftables.service",
    "open-iscsi.service",
    "serial-getty@.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-pstore.service",
    "systemd-update-done.service",
    "xfs_scrub_all.timer",
];
/// What making the image leaves behind and no Debian has: dpkg would go on without fsync, and a power cut after the
/// installation of a package would leave programs full of holes.
const FORGOTTEN: &[&str] = &["etc/dpkg/dpkg.cfg.d/99mmdebstrap"];
/// Free space in the image, MiB: none is written, but mke2fs wants room to move.
const ROOM_MIB: u64 = 64;
/// How the kernel inside the boot file is packed: first bytes, and who unpacks it.
const PACKED: [(&[u8], &str); 2] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
];
/// First bytes of what comes out.
const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image, from the cache or made now; `this` is the running program, which also works inside the making.
    ///
    /// # Errors
    /// What it is made with is missing or fails.
    pub fn get(cache: &Cache, this: &Path) -> Result<Self> {
        // How it is made is in here.
        let mut parts = vec![SUITE, INIT, include_str!("image.rs"), include_str!("modules.rs")];
        for list in [PACKAGES, LEFT_OUT, OFF, FORGOTTEN, FIRST, REST] {
            parts.extend(list);
            parts.push("");
        }
        for (path, content) in FILES {
            parts.extend([*path, *content]);
        }
        let folder = cache.get("image", &Key::of(&parts), |folder| make(folder, this))?;
        Ok(Self { folder })
    }

    /// A text by which it is told from every other one.
    #[must_use]
    pub fn identity(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The root file system.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The first file system in memory.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }
}

/// How mmdebstrap gets the rights of a root: it has them, or a user namespace lends them.
#[must_use]
pub fn mode() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "root"
    } else {
        "unshare"
    }
}

fn make(folder: &Path, this: &Path) -> Result<()> {
    println!("making the image of the virtual machines ({SUITE})");
    let root = folder.join("root");
    let mut command = MMDEBSTRAP.command()?;
    command
        .arg("--variant=minbase")
        .arg(format!("--mode={}", mode()))
        .arg("--format=directory")
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        // Nothing here has to survive a power cut.
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--keyring={}", mirror::KEYRING));
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command
        .arg(format!(
            "--customize-hook='{}' image-hook \"$1\" '{}'",
            this.display(),
            folder.display()
        ))
        .args([SUITE.into(), root.clone().into_os_string()])
        .arg(mirror::debian()?);
    programs::run("make the image", &mut command)?;
    // The files belong to the root of the namespace in which they were made; only there mke2fs sees them so.
    let mut inside = match mode() {
        "root" => MKE2FS.command()?,
        _ => {
            let mut helper = MMDEBSTRAP.command()?;
            helper.arg("--unshare-helper").arg(MKE2FS.path()?);
            helper
        }
    };
    let size = fs::read_to_string(folder.join("size-mib")).map_err(Error::file("read", folder))?;
    inside
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-L",
            "lab-image",
            "-d",
        ])
        .args([&root, &folder.join("root.img")])
        .arg(format!("{}M", size.trim()));
    programs::run("make the file system of the image", &mut inside)?;
    let mut remove = match mode() {
        "root" => Command::new("/bin/rm"),
        _ => {
            let mut helper = MMDEBSTRAP.command()?;
            helper.args(["--unshare-helper", "/bin/rm"]);
            helper
        }
    };
    programs::run("remove the folder of the image", remove.arg("-rf").arg(&root)).map(drop)
}

/// What is done inside the making, with the rights of a root: everything of the image that no package does. The kernel and
/// what it boots with go into `folder`.
///
/// # Errors
/// A module is missing, or a file cannot be written.
pub fn hook(root: &Path, folder: &Path) -> Result<()> {
    for (path, content) in FILES {
        write(&root.join(path), content.as_bytes())?;
    }
    let units = root.join("etc/systemd/system");
    for unit in OFF {
        let link = units.join(unit);
        let _ = fs::remove_file(&link);
        symlink("/dev/null", &link).map_err(Error::file("link", &link))?;
    }
    for unit in ["systemd-networkd.service", "ssh.service"] {
        chroot(root, &["systemctl", "enable", unit])?;
    }
    for path in FORGOTTEN {
        let path = root.join(path);
        fs::remove_file(&path).map_err(Error::file("remove", &path))?;
    }
    // An identity that all had would be none; each machine has its own on its own disk.
    for path in ["etc/machine-id", "etc/hostname", "etc/iscsi/initiatorname.iscsi"] {
        let _ = fs::remove_file(root.join(path));
    }
    make_folder(&root.join("var/log/journal"))?;
    let initrd = kernel(root, folder)?;
    fs::write(folder.join("initrd.img"), initrd).map_err(Error::file("write", folder))?;
    let listed = chroot(root, &["dpkg-query", "--show"])?;
    fs::write(folder.join("packages.txt"), listed).map_err(Error::file("write", folder))?;
    for path in ["boot", "var/cache/apt", "var/lib/apt/lists"] {
        let path = root.join(path);
        fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
        make_folder(&path)?;
    }
    let used = chroot(
        root,
        &["du", "--summarize", "--one-file-system", "--block-size=1M", "/"],
    )?;
    let used: u64 = String::from_utf8_lossy(&used)
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Error::step("measure the image", "du says no number"))?;
    // A tenth for inodes and tables.
    let size = (used + used / 10 + ROOM_MIB).to_string();
    fs::write(folder.join("size-mib"), size).map_err(Error::file("write", folder))
}

/// Takes the kernel and the first modules out, unpacks the other ones, and removes the thousands that nobody loads.
fn kernel(root: &Path, folder: &Path) -> Result<Vec<u8>> {
    let all = root.join("usr/lib/modules");
    let mut releases = fs::read_dir(&all).map_err(Error::file("read", &all))?.flatten();
    let release = match (releases.next(), releases.next()) {
        (Some(one), None) => one.file_name().to_string_lossy().into_owned(),
        _ => {
            return Err(Error::step(
                "find the kernel",
                format!("{} must hold one", all.display()),
            ));
        }
    };
    let packed = root.join("boot").join(format!("vmlinuz-{release}"));
    let packed = fs::read(&packed).map_err(Error::file("read", &packed))?;
    fs::write(folder.join("vmlinux"), unpack(root, &packed)?).map_err(Error::file("write", folder))?;

    let modules = all.join(&release);
    let read = |name: &str| {
        let path = modules.join(name);
        fs::read_to_string(&path).map_err(Error::file("read", &path))
    };
    let index = Index::read(&read("modules.dep")?, &read("modules.builtin")?);
    let first = index.closure(FIRST)?;
    let rest = index.closure(REST)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "image", "modules", "own", "proc", "sys", "system"] {
        archive.folder(folder);
    }
    let mut list = String::new();
    let mut kept = BTreeSet::new();
    for path in first.iter().chain(&rest) {
        let name = format!("{}.ko", modules::name(path));
        if !kept.insert(name.clone()) {
            continue;
        }
        let inside = format!("/usr/lib/modules/{release}/{path}");
        let bytes = if path.ends_with(".xz") {
            chroot(root, &["xz", "--decompress", "--stdout", &inside])?
        } else {
            fs::read(modules.join(path)).map_err(Error::file("read", &modules.join(path)))?
        };
        if first.contains(path) {
            archive.file(&format!("modules/{name}"), &bytes);
            list.push_str(&name);
            list.push('\n');
        }
        write(&modules.join("lab").join(name), &bytes)?;
    }
    let stock = modules.join("kernel");
    fs::remove_dir_all(&stock).map_err(Error::file("remove", &stock))?;
    chroot(root, &["depmod", &release])?;
    let busybox = root.join("usr/bin/busybox");
    archive.file(
        "bin/busybox",
        &fs::read(&busybox).map_err(Error::file("read", &busybox))?,
    );
    for word in ["insmod", "mount", "poweroff", "sh", "sleep", "switch_root"] {
        archive.link(&format!("bin/{word}"), "busybox");
    }
    archive.file("init", INIT.as_bytes());
    archive.file("modules.list", list.as_bytes());
    Ok(archive.finish())
}

/// The kernel out of its boot file.
fn unpack(root: &Path, packed: &[u8]) -> Result<Vec<u8>> {
    let what = "unpack the kernel";
    for (magic, tool) in PACKED {
        // The same bytes may stand in the code that unpacks: what comes out decides.
        for start in (0..packed.len()).filter(|start| packed[*start..].starts_with(magic)) {
            let inside = root.join("tmp/kernel.packed");
            write(&inside, &packed[start..])?;
            // What follows the stream is no part of it, and the tool says so by its exit code.
            let output = Command::new("chroot")
                .arg(root)
                .args([tool, "--decompress", "--stdout", "/tmp/kernel.packed"])
                .output()
                .map_err(|error| Error::step(what, error))?;
            fs::remove_file(&inside).map_err(Error::file("remove", &inside))?;
            if output.stdout.starts_with(&ELF) {
                return Ok(output.stdout);
            }
        }
    }
    Err(Error::step(
        what,
        "the boot file holds no kernel packed by zstd or xz, as Debian's do",
    ))
}

fn chroot(root: &Path, words: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("chroot");
    command.arg(root).args(words);
    programs::run(&words.join(" "), &mut command).map(|output| output.stdout)
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("make", path))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, content).map_err(Error::file("write", path))
}
