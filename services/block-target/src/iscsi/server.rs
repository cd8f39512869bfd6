//! The portal: a TCP port where hosts log in.
//!
//! A connection ends with a reset unless it is brought to its end in order ([`Connected`]), and all of them end so when the
//! lease is gone ([`leave_nobody_waiting`]).

use super::connection;
use super::limits::{LOGINS_MAX, LOGINS_PER_ADDRESS, OTHER_DESCRIPTORS, SESSIONS_MAX};
use super::seldom::Seldom;
use crate::gate;
use crate::target::{self, Target};
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// That one address has too many logins under way is said this often.
static TOO_MANY: Seldom = Seldom::new(Duration::from_secs(60));
/// Connections that wait to be taken: a storm of logins after a failover.
const BACKLOG: u32 = 4096;
/// A host that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "{address}: port {} is in use; stop what listens there (`ss -ltnp 'sport = :{}'` names it) or set another port in controller.toml",
        address.port(), address.port()
    )]
    Busy {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is not one of this machine.
    #[error(
        "{address}: this controller has no such address; check it in controller.toml and that its interface is up"
    )]
    NoAddress {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Something else.
    #[error("{address}: {source}")]
    Io {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A port that is ours and on which nobody is let in yet.
#[derive(Debug)]
pub struct Reserved(TcpSocket);

impl Reserved {
    /// Lets hosts in. `address` is for the message.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn listen(self, address: SocketAddr) -> Result<TcpListener, BindError> {
        self.0
            .listen(BACKLOG)
            .map_err(|source| bind_error(address, source))
    }
}

/// Takes a port, with an error that says what would be right.
///
/// # Errors
/// [`BindError`].
pub fn reserve(address: SocketAddr) -> Result<Reserved, BindError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A port whose former connections linger is free all the same.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Reserved(socket))
    };
    open().map_err(|source| bind_error(address, source))
}

fn bind_error(address: SocketAddr, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Busy { address },
        io::ErrorKind::AddrNotAvailable => BindError::NoAddress { address },
        _ => BindError::Io { address, source },
    }
}

/// Lets this process have the descriptors that as many sessions as the target serves need; less only where its hard
/// limit forbids it, which is said.
pub fn raise_descriptors() {
    let wanted = (SESSIONS_MAX + LOGINS_MAX + OTHER_DESCRIPTORS) as u64;
    match pollux_platform::file::raise_descriptors(wanted) {
        Ok(files) if files < wanted => {
            tracing::warn!(files, wanted, "fewer sessions are possible: raise LimitNOFILE");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files is unknown"),
    }
}

/// Who is logging in, by address.
#[derive(Debug, Default)]
struct LoggingIn(Mutex<HashMap<IpAddr, usize>>);

impl LoggingIn {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, unless this address has all that it may have.
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let mut all = self.lock();
        let count = all.entry(address).or_default();
        if *count >= LOGINS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        let of = self.clone();
        Some(AddressPlace { of, address })
    }
}

/// One login of an address.
struct AddressPlace {
    of: Arc<LoggingIn>,
    address: IpAddr,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// A login's place among all, and among those of its address.
struct Place {
    _all: OwnedSemaphorePermit,
    _address: AddressPlace,
    _counted: target::LoggingIn,
}

/// Serves hosts for ever. Dropping the future ends every connection.
pub async fn serve(listener: TcpListener, target: Arc<Target>) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(LOGINS_MAX));
    let logging_in = Arc::new(LoggingIn::default());
    let next = async || {
        // Who finds no place waits in the listen queue, and is not refused.
        let place = places.clone().acquire_owned().await;
        (listener.accept().await, place)
    };
    loop {
        tokio::select! {
            (accepted, place) = next() => match (accepted, place) {
                (Ok((stream, peer)), Ok(all)) => {
                    let Some(address) = logging_in.take(peer.ip()) else {
                        if let Some(left_out) = TOO_MANY.say(Instant::now()) {
                            tracing::warn!(%peer, left_out, "closed: {LOGINS_PER_ADDRESS} logins of this address are under way");
                        }
                        continue;
                    };
                    prepare(&stream);
                    let stream = Connected(stream);
                    let target = target.clone();
                    let place = Place { _all: all, _address: address, _counted: target.login_begins() };
                    connections.spawn(async move {
                        let ended = connection::serve_from(stream, peer, target, place).await;
                        tracing::debug!(%peer, why = %ended, "connection ended");
                    });
                }
                (Err(error), _) => {
                    // Descriptors or memory are short; a pause keeps that from spinning.
                    tracing::warn!(%error, "accept");
                    sleep(Duration::from_millis(50)).await;
                }
                // Nobody closes the semaphore.
                (Ok(_), Err(_)) => {}
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Resets the connections of hosts whenever the lease has been gone for [`gate::GRACE`], for ever.
///
/// A host that waits for an answer from here would wait for its own limits (a ping and its timeout, seconds each), while the
/// partner is about to serve it or does already. Nothing is told that was not answered, so nothing depends on a lease.
pub async fn leave_nobody_waiting(target: &Target) {
    let door = target.gate();
    loop {
        gate::lost(door.as_ref()).await;
        // Looked at for as long as it lasts: meanwhile the partner may have come to be a way, or a login have slipped through.
        while !door.is_open() {
            let sessions = target.cut_sessions("the lease is gone");
            if sessions > 0 {
                tracing::warn!(
                    sessions,
                    "no lease: connections are reset, so that hosts take the other path"
                );
            }
            sleep(gate::LOOK).await;
        }
    }
}

/// A connection of a host that ends with a reset, whatever ends it: the task that serves it, or this process. Only a
/// shutdown before makes it an end in order, behind which everything that was written arrives.
///
/// Heartbeat's gate holds back whatever the kernel sends to hosts without a lease, the FIN of an ordinary end included; a
/// reset passes. What a reset throws away are replies that the host has not got: to it they are commands without an answer,
/// and it asks again.
#[derive(Debug)]
struct Connected(TcpStream);

impl Connected {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl AsyncRead for Connected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SockRef::from(&self.0).set_linger(None)?;
        self.stream().poll_shutdown(cx)
    }
}

fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2));
    let set = socket
        .set_linger(Some(Duration::ZERO))
        .and_then(|()| socket.set_tcp_nodelay(true))
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options");
    }
}
