//! The kernel's cry that a device has come, gone or changed.
//!
//! A bell, not a letter: whoever hears it looks at sysfs and acts on what stands there. So a message that was lost (the
//! socket's buffer ran over) is one more reason to look, and nothing else.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// The multicast group to which the kernel itself speaks (udev uses another).
const KERNEL: u32 = 1;
/// Longest message: the kernel's buffer for one is 2048 bytes (UEVENT_BUFFER_SIZE), and its head comes before.
const LONGEST: usize = 8192;

/// A socket on which the kernel tells of devices.
#[derive(Debug)]
pub struct Uevents {
    socket: AsyncFd<OwnedFd>,
}

impl Uevents {
    /// Listens from now on. Must be called inside a tokio runtime. Needs no privilege; outside of the machine's own network
    /// namespace nothing is heard.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, kind)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on, and nothing here closes or replaces it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Uevents { socket })
    }

    /// Waits until something has happened to a device of one of these subsystems, or may have. Everything that was said up
    /// to then is one call.
    ///
    /// # Errors
    /// What the system says.
    pub async fn heard(&self, subsystems: &[&str]) -> io::Result<()> {
        let mut message = [0; LONGEST];
        let mut concerned = false;
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(length) => concerned |= concerns(&message[..length], subsystems),
                Err(Errno::EINTR) => {}
                // Messages were lost.
                Err(Errno::ENOBUFS) => concerned = true,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    if concerned {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// `add@/devices/...`, then `NAME=value`, each ended by a zero byte.
fn concerns(message: &[u8], subsystems: &[&str]) -> bool {
    message
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"SUBSYSTEM="))
        .any(|name| subsystems.iter().any(|wanted| wanted.as_bytes() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_concerns_is_heard() {
        let message = b"add@/devices/x/block/sda\0ACTION=add\0SUBSYSTEM=block\0SEQNUM=7\0";
        assert!(concerns(message, &["scsi", "block"]));
        assert!(!concerns(message, &["net", "bloc"]));
        assert!(!concerns(b"", &["block"]) && !concerns(&[0xff; 64], &["block"]));
        Uevents::open().expect("the socket needs no privilege");
    }
}
