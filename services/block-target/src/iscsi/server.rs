//! The portal: a TCP port where hosts log in.

use super::connection;
use crate::target::Target;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Connections that are served at once; more are closed.
const CONNECTIONS_MAX: usize = 4096;
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

/// Serves hosts for ever. Dropping the future ends every connection.
pub async fn serve(listener: TcpListener, target: Arc<Target>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < CONNECTIONS_MAX => {
                    prepare(&stream);
                    let target = target.clone();
                    connections.spawn(async move {
                        let ended = connection::serve(stream, peer, target).await;
                        tracing::debug!(%peer, why = %ended, "connection ended");
                    });
                }
                Ok((_, peer)) => tracing::warn!(%peer, "refused: {CONNECTIONS_MAX} connections are served"),
                Err(error) => {
                    // Descriptors or memory are short; a pause keeps that from spinning.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2));
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options");
    }
}
