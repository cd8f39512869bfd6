//! A watchdog device: a timer in hardware that resets the machine unless it is fed.
//!
//! Opening it starts it. Closing it leaves it running, unless the letter `V` was written last (magic close,
//! Documentation/watchdog/watchdog-api.rst of the kernel). So whoever dies while it is armed leaves it armed, which is what
//! it is for; a device that stops when it is merely closed would be disarmed by a crash, and is of no use here.
//!
//! It must never: write that letter but to disarm.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// `struct watchdog_info` of <linux/watchdog.h>. A test compares it with the header of this machine.
#[repr(C)]
#[derive(Debug, Default)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const WDIOC_GETSUPPORT: libc::c_ulong = 0x8028_5700;
const WDIOC_KEEPALIVE: libc::c_ulong = 0x8004_5705;
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
const WDIOC_GETTIMEOUT: libc::c_ulong = 0x8004_5707;
const WDIOF_SETTIMEOUT: u32 = 0x0080;
const WDIOF_MAGICCLOSE: u32 = 0x0100;
const WDIOF_ALARMONLY: u32 = 0x0400;
const WDIOF_KEEPALIVEPING: u32 = 0x8000;

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Its name.
    pub identity: String,
    /// Its timeout can be set.
    pub sets_timeout: bool,
    /// It goes on when it is closed without being told to stop.
    pub outlives_its_process: bool,
    /// It can be fed.
    pub is_fed: bool,
    /// It rings somewhere instead of resetting the machine.
    pub only_alarms: bool,
}

/// A device that can be started.
pub trait Device: Send + 'static {
    /// The device once it is started.
    type Running: Running;

    /// Opens it, which starts it, or feeds it if it runs.
    ///
    /// # Errors
    /// What the system says; `EBUSY` while another process has it.
    fn start(&self) -> io::Result<Self::Running>;

    /// In words, for messages.
    fn name(&self) -> String;
}

/// A device that runs, and goes on if this is dropped.
pub trait Running: Send + 'static {
    /// What it says of itself.
    ///
    /// # Errors
    /// What the system says.
    fn support(&self) -> io::Result<Support>;

    /// Sets its timeout, in seconds; what it is then, which may differ.
    ///
    /// # Errors
    /// What the system says: it cannot have this timeout.
    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32>;

    /// Starts its time anew.
    ///
    /// # Errors
    /// What the system says.
    fn feed(&mut self) -> io::Result<()>;

    /// It cannot be stopped any more.
    fn cannot_stop(&self) -> bool;

    /// Stops it.
    ///
    /// # Errors
    /// What the system says; it goes on then.
    fn stop(self) -> io::Result<()>;
}

/// A node of the kernel, `/dev/watchdog` for instance.
#[derive(Clone, Debug)]
pub struct LinuxWatchdog {
    node: PathBuf,
}

impl LinuxWatchdog {
    /// The device of a node.
    #[must_use]
    pub fn new(node: &Path) -> Self {
        LinuxWatchdog {
            node: node.to_owned(),
        }
    }
}

/// The same, started.
#[derive(Debug)]
pub struct LinuxRunning {
    file: File,
    node: PathBuf,
}

impl Device for LinuxWatchdog {
    type Running = LinuxRunning;

    fn start(&self) -> io::Result<LinuxRunning> {
        let file = OpenOptions::new().write(true).open(&self.node)?;
        Ok(LinuxRunning {
            file,
            node: self.node.clone(),
        })
    }

    fn name(&self) -> String {
        self.node.display().to_string()
    }
}

impl LinuxRunning {
    /// An ioctl that reads or writes one `int`.
    fn number(&self, request: libc::c_ulong, mut value: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: each request that is made here takes a pointer to one int, which outlives the call.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, &mut value) } {
            0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Running for LinuxRunning {
    fn support(&self) -> io::Result<Support> {
        let mut info = WatchdogInfo::default();
        // SAFETY: the request writes one structure of this layout to the pointer, which outlives the call.
        if unsafe { libc::ioctl(self.file.as_raw_fd(), WDIOC_GETSUPPORT as _, &mut info) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let end = info
            .identity
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(info.identity.len());
        let has = |flag| info.options & flag != 0;
        Ok(Support {
            identity: String::from_utf8_lossy(&info.identity[..end]).into_owned(),
            sets_timeout: has(WDIOF_SETTIMEOUT),
            outlives_its_process: has(WDIOF_MAGICCLOSE),
            is_fed: has(WDIOF_KEEPALIVEPING),
            only_alarms: has(WDIOF_ALARMONLY),
        })
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
        let seconds = i32::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.number(WDIOC_SETTIMEOUT, seconds)?;
        // What the first call gave back is what the driver was asked for on some; this is what it has.
        let set = self.number(WDIOC_GETTIMEOUT, 0)?;
        u32::try_from(set).map_err(|_| io::Error::other(format!("a timeout of {set} s")))
    }

    fn feed(&mut self) -> io::Result<()> {
        self.number(WDIOC_KEEPALIVE, 0).map(drop)
    }

    fn cannot_stop(&self) -> bool {
        attribute(&self.node, "nowayout").is_some_and(|text| text == "1")
    }

    fn stop(mut self) -> io::Result<()> {
        self.file.write_all(b"V")?;
        // Closing it is what stops it, and says nothing of whether it did.
        let node = self.node.clone();
        drop(self);
        match attribute(&node, "state").as_deref() {
            Some("active") => Err(io::Error::other(
                "it was closed, and the kernel says that it is active still",
            )),
            _ => Ok(()),
        }
    }
}

/// What the kernel says of the device of a node, where it has such an attribute.
fn attribute(node: &Path, attribute: &str) -> Option<String> {
    // `/dev/watchdog` is the first one under its old name.
    let name = match node.file_name()?.to_str()? {
        "watchdog" => "watchdog0",
        name => name,
    };
    let path = Path::new("/sys/class/watchdog").join(name).join(attribute);
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn structure_and_numbers_are_those_of_the_headers() {
        let values: [(&str, &str, u64); 12] = [
            (
                "size",
                "sizeof(struct watchdog_info)",
                size_of::<WatchdogInfo>() as u64,
            ),
            (
                "options",
                "offsetof(struct watchdog_info, options)",
                offset_of!(WatchdogInfo, options) as u64,
            ),
            (
                "firmware",
                "offsetof(struct watchdog_info, firmware_version)",
                offset_of!(WatchdogInfo, firmware_version) as u64,
            ),
            (
                "identity",
                "offsetof(struct watchdog_info, identity)",
                offset_of!(WatchdogInfo, identity) as u64,
            ),
            ("support", "WDIOC_GETSUPPORT", WDIOC_GETSUPPORT),
            ("feed", "WDIOC_KEEPALIVE", WDIOC_KEEPALIVE),
            ("set", "WDIOC_SETTIMEOUT", WDIOC_SETTIMEOUT),
            ("get", "WDIOC_GETTIMEOUT", WDIOC_GETTIMEOUT),
            ("may_set", "WDIOF_SETTIMEOUT", WDIOF_SETTIMEOUT.into()),
            ("magic", "WDIOF_MAGICCLOSE", WDIOF_MAGICCLOSE.into()),
            ("alarm", "WDIOF_ALARMONLY", WDIOF_ALARMONLY.into()),
            ("ping", "WDIOF_KEEPALIVEPING", WDIOF_KEEPALIVEPING.into()),
        ];
        let lines: String = values
            .iter()
            .map(|(name, value, _)| format!("printf(\"{name} %lu\\n\", (unsigned long)({value}));\n"))
            .collect();
        let source = format!(
            "#include <stdio.h>\n#include <stddef.h>\n#include <linux/watchdog.h>\nint main(void) {{\n{lines}return 0;\n}}\n"
        );
        if let Some(theirs) = crate::scsi::tests::from_headers("the watchdog's structures", &source) {
            assert_eq!(
                values.map(|(name, _, number)| (name.to_owned(), number)).to_vec(),
                theirs
            );
        }
    }

    #[test]
    fn what_is_no_watchdog_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("no-watchdog");
        assert!(LinuxWatchdog::new(&node).start().is_err(), "it is not made");
        fs::write(&node, "").unwrap();
        let mut running = LinuxWatchdog::new(&node).start().unwrap();
        assert!(running.support().is_err() && running.feed().is_err() && running.set_timeout(5).is_err());
        drop(running);
        assert_eq!(fs::read(&node).unwrap(), b"", "nothing is written by closing");
        LinuxWatchdog::new(&node).start().unwrap().stop().unwrap();
        assert_eq!(fs::read(&node).unwrap(), b"V");
    }
}
