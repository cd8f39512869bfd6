//! What a service tells the one who started it: sd_notify(3), without libsystemd.
//!
//! One datagram per message to the socket named by `NOTIFY_SOCKET`; a leading `@` means the abstract namespace.
//! Without the variable nobody listens and nothing is sent. The receiver reads the sender's process from the
//! socket's credentials.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where to report, from the environment.
#[derive(Debug)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`. An address that cannot be one is an error; no address is not.
    pub fn from_env() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self { target: None });
        };
        Self::to(&path)
    }

    /// Reports to the socket at `path`.
    pub fn to(path: &OsStr) -> io::Result<Self> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Who started us must never be able to stop us by not reading.
        socket.set_nonblocking(true)?;
        Ok(Self {
            target: Some((socket, address)),
        })
    }

    /// Somebody listens.
    pub fn is_connected(&self) -> bool {
        self.target.is_some()
    }

    fn send(&self, message: &str) -> io::Result<()> {
        match &self.target {
            None => Ok(()),
            Some((socket, address)) => socket.send_to_addr(message.as_bytes(), address).map(drop),
        }
    }

    /// The service is ready to be used.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// The service is on its way out.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// One line for people. Newlines would begin another assignment and become spaces.
    pub fn status(&self, line: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", line.replace('\n', " ")))
    }

    /// Says that the service still works, for as long as this future is polled: so by the task whose life is the service's, or
    /// by one beside it on the same executor. Three times in the interval that the watchdog of the service manager waits.
    /// It never ends; without a watchdog nothing is said.
    pub async fn feed(&self) {
        let interval = watchdog_interval().filter(|_| self.is_connected());
        let Some(interval) = interval else {
            return std::future::pending().await;
        };
        let mut beat = tokio::time::interval(interval / 3);
        loop {
            beat.tick().await;
            // The socket may be full for a moment; the next beat comes soon enough.
            if let Err(error) = self.send("WATCHDOG=1") {
                tracing::warn!(%error, "the service manager's watchdog was not fed");
            }
        }
    }
}

/// The interval within which something is expected to be said, from `WATCHDOG_USEC`, if it is for this process.
fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("WATCHDOG_PID") {
        Some(pid) if pid != u64::from(std::process::id()) => None,
        _ => number("WATCHDOG_USEC")
            .filter(|us| *us > 0)
            .map(Duration::from_micros),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_receive_what_is_said() {
        let name = format!("pollux-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let listeners = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (address, listener) in listeners {
            let notifier = Notifier::to(&address).unwrap();
            notifier.ready().unwrap();
            notifier.status("two\nlines").unwrap();
            let mut buffer = [0; 64];
            let n = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
            let n = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"STATUS=two lines");
        }
        std::fs::remove_file(path).unwrap();
    }
}
