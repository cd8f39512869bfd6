//! Heartbeat datagrams over the interconnect.
//!
//! The core makes and reads the bodies; here they get a tag that only the two paired controllers can make (keyed
//! BLAKE3 over the body) and leave by UDP. A datagram without the right tag never reaches the core: it is counted,
//! and that is all. Freshness is not decided here: the nonces inside the body do that.

use pollux_api::id::ControllerId;
use pollux_heartbeat_core::wire::BODY_MAX;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket as Blocking},
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::Duration,
};
use tokio::net::UdpSocket;

/// Bytes of the tag behind the body.
const TAG: usize = 32;
/// Pause after an error of the socket.
const RETRY: Duration = Duration::from_millis(10);

/// The socket, and the key behind it.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
    partner: SocketAddr,
    last_word: LastWord,
    send_key: [u8; 32],
    receive_key: [u8; 32],
    /// Datagrams that were dropped because the tag or the length was wrong, or the sender is not the partner.
    pub rejected: u64,
}

/// An address that no interface has yet is waited for: it may come with the carrier, and that with the partner's power.
fn bind(local: SocketAddr) -> io::Result<Blocking> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    match socket.bind(&local.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            tracing::warn!(
                %local,
                "no interface has this address: it is waited for; a cable may be out, or controller.toml may name another one"
            );
            match local {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
            socket.bind(&local.into())?;
        }
        bound => bound?,
    }
    Ok(socket.into())
}

impl Wire {
    /// Binds `local` and aims at `partner`. Each direction has a key of its own, so that a datagram sent back to its
    /// sender is not taken for the partner's.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn open(
        this: ControllerId,
        local: SocketAddr,
        partner: SocketAddr,
        pairing: &[u8; 32],
    ) -> io::Result<Self> {
        let socket = bind(local).map_err(|error| {
            io::Error::new(error.kind(), format!("heartbeat socket {local}/udp: {error}"))
        })?;
        let send_key = direction_key(pairing, this);
        let last_word = LastWord {
            socket: Arc::new(socket.try_clone()?),
            partner,
            key: send_key,
            datagram: Arc::default(),
        };
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            partner,
            last_word,
            send_key,
            receive_key: direction_key(pairing, this.partner()),
            rejected: 0,
        })
    }

    /// Sends a body, at once or not at all: a full queue is a lost datagram, and the loop goes on.
    pub fn send(&self, body: &[u8]) -> io::Result<()> {
        self.socket
            .try_send_to(&sealed(&self.send_key, body), self.partner)
            .map(drop)
    }

    /// What is said when the daemon panics.
    #[must_use]
    pub fn last_word(&self) -> &LastWord {
        &self.last_word
    }

    /// The next body whose tag is right. Cancel safe. While the interface is gone nothing comes, which is what the
    /// core has to notice: errors are no events.
    pub async fn receive(&mut self) -> Vec<u8> {
        let mut buffer = [0_u8; BODY_MAX + TAG + 1];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP answer to what was sent: the partner's daemon is not there, which is no news.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::debug!(%error, "heartbeat socket");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            match verified(&self.receive_key, &buffer[..length]) {
                Some(body) if from.ip() == self.partner.ip() => return body.to_vec(),
                _ => self.rejected = self.rejected.saturating_add(1),
            }
        }
    }
}

/// The last datagram of a daemon that panics, kept ready: it says that the sender ends. The partner then waits for no longer
/// than the lease lasts, and fences as always.
#[derive(Clone, Debug)]
pub struct LastWord {
    socket: Arc<Blocking>,
    partner: SocketAddr,
    key: [u8; 32],
    datagram: Arc<Mutex<Option<Vec<u8>>>>,
}

impl LastWord {
    /// This is to be said.
    pub fn prepare(&self, body: &[u8]) {
        self.set(Some(sealed(&self.key, body)));
    }

    /// Nothing is to be said.
    pub fn forget(&self) {
        self.set(None);
    }

    fn set(&self, datagram: Option<Vec<u8>>) {
        *self.datagram.lock().unwrap_or_else(PoisonError::into_inner) = datagram;
    }

    /// Says it, at once or not at all; whoever panics may hold the lock.
    pub fn say(&self) {
        let datagram = match self.datagram.try_lock() {
            Ok(datagram) => datagram,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(datagram) = &*datagram {
            // Nobody is left who could do something about an error.
            let _ = self.socket.send_to(datagram, self.partner);
        }
    }
}

fn sealed(key: &[u8; 32], body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(body.len() + TAG);
    datagram.extend_from_slice(body);
    datagram.extend_from_slice(blake3::keyed_hash(key, body).as_bytes());
    datagram
}

fn direction_key(pairing: &[u8; 32], sender: ControllerId) -> [u8; 32] {
    let context = match sender {
        ControllerId::A => "pollux 2026 heartbeat datagram a to b",
        ControllerId::B => "pollux 2026 heartbeat datagram b to a",
    };
    blake3::derive_key(context, pairing)
}

fn verified<'a>(key: &[u8; 32], datagram: &'a [u8]) -> Option<&'a [u8]> {
    let (body, tag) = datagram.split_at_checked(datagram.len().checked_sub(TAG)?)?;
    let tag: [u8; TAG] = tag.try_into().ok()?;
    // `blake3::Hash` compares in constant time.
    (body.len() <= BODY_MAX && blake3::keyed_hash(key, body) == tag).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAIRING: [u8; 32] = [7; 32];

    fn sealed(sender: ControllerId, body: &[u8]) -> Vec<u8> {
        super::sealed(&direction_key(&PAIRING, sender), body)
    }

    #[tokio::test]
    async fn a_panic_says_what_was_prepared_and_nothing_that_was_taken_back() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut b = Wire::open(ControllerId::B, any, any, &PAIRING).await.unwrap();
        let at_b = b.socket.local_addr().unwrap();
        let a = Wire::open(ControllerId::A, any, at_b, &PAIRING).await.unwrap();
        b.partner = a.socket.local_addr().unwrap();
        let last = a.last_word().clone();
        last.say();
        last.prepare(b"too late");
        last.forget();
        last.say();
        last.prepare(b"it ends");
        let said = std::thread::spawn(move || {
            let _held = last.clone();
            last.say();
        });
        said.join().unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(10), b.receive()).await;
        assert_eq!(heard.unwrap(), b"it ends");
    }

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_is_waited_for() {
        // TEST-NET-1 (RFC 5737): no interface has it.
        let nowhere: SocketAddr = "192.0.2.77:0".parse().unwrap();
        let wire = Wire::open(ControllerId::A, nowhere, nowhere, &PAIRING)
            .await
            .unwrap();
        assert_eq!(wire.socket.local_addr().unwrap().ip(), nowhere.ip());
    }

    #[test]
    fn a_reflected_datagram_is_not_the_partners() {
        let datagram = sealed(ControllerId::A, b"body");
        assert_eq!(
            verified(&direction_key(&PAIRING, ControllerId::A), &datagram),
            Some(&b"body"[..])
        );
        assert_eq!(
            verified(&direction_key(&PAIRING, ControllerId::B), &datagram),
            None
        );
    }

    proptest! {
        #[test]
        fn any_change_of_a_datagram_is_noticed(body in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut datagram = sealed(ControllerId::A, &body);
            let at = at.index(datagram.len());
            datagram[at] ^= flip;
            prop_assert_eq!(verified(&direction_key(&PAIRING, ControllerId::A), &datagram), None);
        }

        #[test]
        fn what_is_not_a_datagram_is_refused(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(verified(&direction_key(&PAIRING, ControllerId::A), &noise), None);
        }
    }
}
