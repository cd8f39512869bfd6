//! The reset of one's own machine, at once: no process is asked, nothing is flushed.

use std::io;

/// Resets the machine. Returns only if that failed.
///
/// First by `sysrq` (`b`: Documentation/admin-guide/sysrq.rst of the kernel), which touches no device; where that is not
/// there, by reboot(2), which lets drivers finish and can wait for a disk.
pub fn now() -> io::Error {
    let error = match std::fs::write("/proc/sysrq-trigger", "b") {
        Ok(()) => io::Error::other("/proc/sysrq-trigger was written, and the machine still runs"),
        Err(error) => error,
    };
    // SAFETY: takes no pointer; the kernel checks the privilege.
    match unsafe { libc::reboot(libc::RB_AUTOBOOT) } {
        0 => error,
        _ => {
            let reboot = io::Error::last_os_error();
            io::Error::other(format!("/proc/sysrq-trigger: {error}; reboot: {reboot}"))
        }
    }
}
