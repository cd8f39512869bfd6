//! "This address is now here": gratuitous ARP and unsolicited neighbour advertisement.
//!
//! Switches and hosts remember behind which hardware address an IP address lives. After a move they must be told, or
//! they go on talking to the controller that is gone. The frames are built here and sent as they are on a packet
//! socket, because the kernel sends none for an address that is added without duplicate detection.
//!
//! Formats: RFC 826 and RFC 5227 §3 (ARP announcement), RFC 4861 §4.4 and §7.2.6 (neighbour advertisement with the
//! override flag to all nodes).

use crate::{checksum, netlink::Link};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Sends announcements into the network in which it was opened.
#[derive(Debug)]
pub struct Announcer {
    socket: socket2::Socket,
}

impl Announcer {
    /// Opens one in the caller's network. Needs CAP_NET_RAW there.
    pub fn open() -> io::Result<Self> {
        // Without a protocol the socket receives nothing.
        Ok(Self {
            socket: socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None)?,
        })
    }

    /// Sends one announcement of `address` on `link`. An IPv4 address is announced as ARP request and as ARP reply:
    /// some hosts learn only from the one, some only from the other. Does not wait for the network.
    pub fn announce(&self, link: &Link, address: IpAddr) -> io::Result<()> {
        let mac = link.mac.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} has no Ethernet address", link.name),
            )
        })?;
        match address {
            IpAddr::V4(v4) => {
                self.send(link, ETHERTYPE_ARP, &arp_frame(mac, v4, ArpOperation::Request))?;
                self.send(link, ETHERTYPE_ARP, &arp_frame(mac, v4, ArpOperation::Reply))
            }
            IpAddr::V6(v6) => self.send(link, ETHERTYPE_IPV6, &advertisement_frame(mac, v6)),
        }
    }

    fn send(&self, link: &Link, ethertype: u16, frame: &[u8]) -> io::Result<()> {
        let destination = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ethertype.to_be(),
            sll_ifindex: link.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [frame[0], frame[1], frame[2], frame[3], frame[4], frame[5], 0, 0],
        };
        // SAFETY: the frame and the address are valid for the lengths given, for the duration of the call; the socket
        // is open.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const destination).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

#[derive(Clone, Copy)]
enum ArpOperation {
    Request = 1,
    Reply = 2,
}

fn arp_frame(mac: [u8; 6], address: Ipv4Addr, operation: ArpOperation) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&(operation as u16).to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    // The target's hardware address is unknown in a request; a gratuitous reply is addressed to everybody.
    if let ArpOperation::Reply = operation {
        frame[32..38].fill(0xff);
    }
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

fn advertisement_frame(mac: [u8; 6], address: Ipv6Addr) -> [u8; 86] {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const NEXT_HEADER_ICMPV6: u8 = 58;
    const LENGTH: u16 = 32;
    let mut frame = [0; 86];
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&LENGTH.to_be_bytes());
    frame[20] = NEXT_HEADER_ICMPV6;
    // Hop limit 255 is how receivers know that no router has passed it on.
    frame[21] = 255;
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    // Neighbour advertisement, override, target, option 2: target's link-layer address.
    frame[54] = 136;
    frame[58] = 0x20;
    frame[62..78].copy_from_slice(&address.octets());
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..86].copy_from_slice(&mac);
    // Pseudo header: both addresses, length, next header (RFC 8200 §8.1).
    let pseudo = [0, LENGTH as u8, 0, NEXT_HEADER_ICMPV6];
    let sum = checksum::internet(&[&pseudo, &frame[22..86]]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

    #[test]
    fn arp_announcement_has_the_address_as_sender_and_target() {
        let address = Ipv4Addr::new(10, 78, 0, 50);
        let request = arp_frame(MAC, address, ArpOperation::Request);
        assert_eq!(
            request[..14],
            [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 10, 8, 6]
        );
        assert_eq!(request[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(
            (&request[28..32], &request[38..42]),
            (&[10, 78, 0, 50][..], &[10, 78, 0, 50][..])
        );
        assert_eq!(request[32..38], [0; 6]);
        assert_eq!(arp_frame(MAC, address, ArpOperation::Reply)[20..22], [0, 2]);
    }

    #[test]
    fn advertisement_sums_to_all_ones_with_its_pseudo_header() {
        let frame = advertisement_frame(MAC, "fd00::50".parse().unwrap());
        assert_eq!(
            checksum::internet(&[&[0, 32, 0, 58], &frame[22..]]),
            0,
            "RFC 1071: what the receiver finds over everything"
        );
    }
}
