//! The portal: a TCP port where hosts log in.

use super::connection;
use crate::target::Target;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections that are served at once; more are closed.
const CONNECTIONS_MAX: usize = 4096;
/// A host that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// The portal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "portal {address}: port {} is in use; stop what listens there (`ss -ltnp 'sport = :{}'` names it) or set another `portal_port`",
        address.port(), address.port()
    )]
    Busy {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is not one of this machine.
    #[error("portal {address}: this controller has no such address; check `host_address` and that the interface is up")]
    NoAddress {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Something else.
    #[error("portal {address}: {source}")]
    Io {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Opens a listening socket, with an error that says what would be right.
///
/// # Errors
/// [`BindError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Busy { address },
        io::ErrorKind::AddrNotAvailable => BindError::NoAddress { address },
        _ => BindError::Io { address, source },
    })
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
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options");
    }
}
