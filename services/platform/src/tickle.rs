//! Ending the connections of a machine that is gone.
//!
//! A host that waits for an answer to a command that was acknowledged by TCP sends nothing, so it cannot learn that
//! the other end has lost its power; it waits until its own keepalive fails, seconds. Whoever has taken the address
//! over sends it an empty segment out of sequence: the host answers with an acknowledgement that says where it is
//! (RFC 9293 §3.10.7.4), that answer finds no connection here, and the system's reset has just the sequence number
//! that the host believes (§3.10.7.1). Nothing is guessed and nothing but that one connection can be hit.

use crate::checksum;
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// Length of a TCP header without options, bytes.
const TCP: usize = 20;
const ACK: u8 = 0x10;
const PROTOCOL_TCP: u8 = 6;
const HOPS: u8 = 64;

/// Sends such segments into the network in which it was opened.
#[derive(Debug)]
pub struct Tickler {
    v4: socket2::Socket,
    v6: socket2::Socket,
}

impl Tickler {
    /// Opens one in the caller's network. Needs CAP_NET_RAW there.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        // Of this protocol a socket sends whole packets and receives none.
        let open = |domain| {
            let protocol = Some(socket2::Protocol::from(libc::IPPROTO_RAW));
            socket2::Socket::new(domain, socket2::Type::RAW.nonblocking(), protocol)
        };
        Ok(Self {
            v4: open(socket2::Domain::IPV4)?,
            v6: open(socket2::Domain::IPV6)?,
        })
    }

    /// Sends one from `portal`, which should be an address of this machine, to a host that had a connection to it.
    ///
    /// # Errors
    /// The addresses are of different families, or what the system says.
    pub fn tickle(&self, portal: SocketAddr, host: SocketAddr) -> io::Result<()> {
        let packet = packet(portal, host).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{portal} and {host} are of different families"),
            )
        })?;
        let socket = if host.is_ipv4() { &self.v4 } else { &self.v6 };
        // The port is in the segment; what the address says of one is refused for IPv6.
        socket.send_to(&packet, &SocketAddr::new(host.ip(), 0).into())?;
        Ok(())
    }
}

fn packet(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let mut packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // Version 4, five words; the system fills in length, identification and checksum (raw(7)).
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[8] = HOPS;
            header[9] = PROTOCOL_TCP;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[5] = TCP as u8;
            header[6] = PROTOCOL_TCP;
            header[7] = HOPS;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            header
        }
        _ => return None,
    };
    packet.extend(segment(from, to));
    Some(packet)
}

fn segment(from: SocketAddr, to: SocketAddr) -> [u8; TCP] {
    let mut segment = [0; TCP];
    segment[..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    // Sequence and acknowledgement 0: outside any window but by a chance of 1 in 2^16, and then harmless: it is empty.
    segment[12] = (TCP as u8 / 4) << 4;
    segment[13] = ACK;
    let sum = checksum::internet(&[&pseudo(from, to), &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// What the checksum covers besides the segment (RFC 9293 §3.1).
fn pseudo(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36);
    for end in [from.ip(), to.ip()] {
        match end {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend([0, PROTOCOL_TCP, 0, TCP as u8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_an_empty_acknowledgement_with_a_right_checksum() {
        for (from, to) in [
            ("10.78.0.1:3260", "10.78.0.254:49152"),
            ("[fd00::1]:3260", "[fd00::fe]:50000"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let bytes = segment(from, to);
            assert_eq!(bytes[..2], 3260_u16.to_be_bytes());
            assert_eq!((bytes[12], bytes[13]), (0x50, 0x10));
            // RFC 1071: what the receiver finds over everything.
            assert_eq!(
                checksum::internet(&[&pseudo(from, to), &bytes]),
                0,
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn families_are_not_mixed() {
        assert_eq!(
            packet("10.0.0.1:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap()),
            None
        );
    }
}
