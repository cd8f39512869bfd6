//! tgtd, the iSCSI target of Debian's package `tgt`, with one unit on a file.
//!
//! Its control socket is a file of ours, so that it meets no other tgtd of this machine. What can be agreed at a login
//! is set to what the array's target agrees to: by itself tgtd takes data in pieces of 8 KiB and asks for every write.

use crate::error::{Context, Error, Result};
use crate::process::Process;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian packages.
pub const PACKAGES: [&str; 1] = ["tgt"];
/// The program; `/usr/sbin` is not on everybody's PATH.
pub(crate) const PROGRAM: &str = "/usr/sbin/tgtd";
const ADMIN: &str = "/usr/sbin/tgtadm";
/// Number of the unit; 0 is tgtd's own.
pub(crate) const LUN: u16 = 1;
/// Its file system finds the socket by this number.
const CONTROL_PORT: &str = "1";
/// What is agreed at a login.
const AGREED: [(&str, &str); 5] = [
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxXmitDataSegmentLength", "262144"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "262144"),
    ("InitialR2T", "No"),
];

/// Mode page 08h as tgtd wants to be told it: page, subpage, length, and its bytes. The second bit of the first byte is
/// WCE; the rest is what tgtd has by itself.
fn caching_page(write_cache: bool) -> String {
    let first = if write_cache { "0x14" } else { "0x10" };
    format!("mode_page=8:0:18:{first}:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0")
}

/// A tgtd that runs.
#[derive(Debug)]
pub(crate) struct Tgtd {
    process: Process,
    socket: PathBuf,
    /// Name of its target.
    pub(crate) iqn: String,
}

impl Tgtd {
    /// Starts `command` (which becomes tgtd) with one unit on `file`, at `portal`. Sockets and log are in `folder`.
    pub(crate) fn start(
        mut command: Command,
        folder: &Path,
        name: &str,
        portal: SocketAddr,
        file: &Path,
        write_cache: bool,
    ) -> Result<Self> {
        if !Path::new(PROGRAM).is_file() {
            let what = "is not there: install the Debian package tgt (apt-get install tgt)";
            return Err(Error::Missing(format!("{PROGRAM} {what}")));
        }
        let socket = folder.join(name);
        command
            .args(["--foreground", "--control-port", CONTROL_PORT, "--iscsi"])
            .arg(format!("portal={portal}"))
            .env("TGT_IPC_SOCKET", &socket);
        let process = Process::start(&mut command, &folder.join(name).with_extension("log"))?;
        let iqn = format!("iqn.2026-01.org.pollux.peer:{name}");
        let mut tgtd = Self { process, socket, iqn };
        let show = tgtd.admin(&["--op", "show", "--mode", "target"]);
        tgtd.process.until("takes orders", || run(&show).ok())?;
        tgtd.set_up(file, write_cache)?;
        Ok(tgtd)
    }

    fn set_up(&self, file: &Path, write_cache: bool) -> Result<()> {
        let file = file.display().to_string();
        let target = ["--mode", "target", "--tid", "1"];
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        let order = |op: &str, about: &[&str], rest: &[&str]| {
            let order = [&["--op", op], about, rest].concat();
            run(&self.admin(&order)).map(drop)
        };
        order("new", &target, &["--targetname", &self.iqn])?;
        order("new", &unit, &["--backing-store", &file, "--bstype", "rdwr"])?;
        order("update", &unit, &["--params", &caching_page(write_cache)])?;
        for (name, value) in AGREED {
            order("update", &target, &["--name", name, "--value", value])?;
        }
        order("bind", &target, &["--initiator-address", "ALL"])
    }

    /// Listens at one more portal.
    pub(crate) fn add_portal(&self, portal: SocketAddr) -> Result<()> {
        let portal = format!("portal={portal}");
        run(&self.admin(&["--op", "new", "--mode", "portal", "--param", &portal])).map(drop)
    }

    fn admin(&self, order: &[&str]) -> Admin {
        Admin {
            socket: self.socket.clone(),
            order: order.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a loss of power would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        // It takes no notice of being asked to end. It may have ended by itself.
        let _ = self.process.kill();
    }
}

/// An order for tgtd.
struct Admin {
    socket: PathBuf,
    order: Vec<String>,
}

fn run(admin: &Admin) -> Result<String> {
    let output = Command::new(ADMIN)
        .args(["--control-port", CONTROL_PORT, "--lld", "iscsi"])
        .args(&admin.order)
        .env("TGT_IPC_SOCKET", &admin.socket)
        .output()
        .context(ADMIN)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Step {
        what: format!("tgtadm {}", admin.order.join(" ")),
        why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caching_page_has_as_many_bytes_as_it_says_and_one_bit_of_difference() {
        let bytes = |page: &str| -> Vec<u8> {
            let words = page.split(':').skip(3);
            let number = |word: &str| match word.strip_prefix("0x") {
                Some(digits) => u8::from_str_radix(digits, 16).unwrap(),
                None => word.parse().unwrap(),
            };
            words.map(number).collect()
        };
        let (off, on) = (bytes(&caching_page(false)), bytes(&caching_page(true)));
        assert_eq!((off.len(), on.len()), (18, 18));
        assert_eq!((off[0] & 4, on[0] & 4), (0, 4));
        assert_eq!(off[1..], on[1..]);
    }

    #[test]
    fn an_order_that_nobody_takes_says_which_one_it_was() {
        if !Path::new(ADMIN).is_file() {
            eprintln!("SKIPPED: {ADMIN} is not there (Debian package tgt)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let admin = Admin {
            socket: folder.path().join("nobody"),
            order: vec!["--op".into(), "show".into(), "--mode".into(), "target".into()],
        };
        let refused = run(&admin).unwrap_err().to_string();
        assert!(
            refused.starts_with("tgtadm --op show --mode target: "),
            "{refused}"
        );
    }
}
