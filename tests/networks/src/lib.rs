//! Networks of a test's own: a patch panel, the computers behind it, and something in them that answers.
//!
//! ```text
//!   this network: the hosts            one network for each computer
//!   +--------------------------+
//!   |  bridge --- name ========|=cable===== end, with addresses        answers whoever asks, and asks nobody:
//!   |    |                     |                                        what a target of the kernel is to the daemons
//!   |    +------- name ========|=cable===== end
//!   +--------------------------+
//! ```
//!
//! [`alone`] is the life of a test that makes such networks, [`Panel`] makes them, [`answer_tcp`] and [`answer_udp`] put
//! something into them, [`ask`] asks it. Nothing is left behind: networks end with the process that has them.
//!
//! What goes wrong here is no result of the test, so it ends it, with what was tried.

#![forbid(unsafe_code)]

use pollux_platform::{
    netlink::{BridgeKind, IfAddr, Netlink, Veth},
    netns::{self, NetNs},
};
use std::{
    fmt::Display,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

/// The result, or the end of the test.
fn sure<T, E: Display>(what: impl Display, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The life of a test that is a program of its own (`harness = false`): a process that enters a network must have one thread.
///
/// Answers for itself when a runner asks for a list; enters a new network, in which it is root; asks `ready` whether everything
/// is there that it needs; runs `test`, at most for `bound`. Says SKIPPED and why where the kernel refuses networks to this
/// user, or something is missing.
///
/// # Panics
/// As the test does, and where it takes longer than its bound.
pub fn alone(
    name: &str,
    bound: Duration,
    ready: impl FnOnce() -> Result<(), String>,
    test: impl Future<Output = ()>,
) {
    if std::env::args().any(|argument| argument == "--list") {
        if !std::env::args().any(|argument| argument == "--ignored") {
            println!("{name}: test");
        }
        return;
    }
    let entered = netns::enter_new().map_err(|error| error.to_string());
    if let Err(error) = entered.and_then(|()| ready()) {
        println!("SKIPPED {name}: {error}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    sure("the runtime", runtime).block_on(async {
        let ended = tokio::time::timeout(bound, test).await;
        sure(format!("{name}, which may take {bound:?}"), ended);
    });
    println!("{name}: ok");
}

/// An address with its prefix, as it is written.
///
/// # Panics
/// It is none.
#[must_use]
pub fn addr(text: &str) -> IfAddr {
    sure(format!("address {text:?}"), text.parse())
}

/// A cable from a bridge of this network to a computer.
#[derive(Clone, Copy, Debug)]
pub struct Cable<'a> {
    /// Its end here.
    pub name: &'a str,
    /// The bridge that it is plugged in.
    pub bridge: &'a str,
    /// The network of the computer.
    pub computer: &'a NetNs,
    /// Its end there.
    pub end: &'a str,
    /// Addresses of that end, with their prefixes.
    pub addresses: &'a [&'a str],
}

/// The bridges of the network in which this process is, and the cables to other ones.
#[derive(Debug)]
pub struct Panel {
    netlink: Netlink,
}

impl Panel {
    /// That of this network. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// The kernel refuses.
    #[must_use]
    pub fn here() -> Self {
        Self {
            netlink: sure("netlink of this network", Netlink::open()),
        }
    }

    /// To change what is here afterwards.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// A bridge, at which this network has these addresses. With a hardware address of its own it keeps that when cables come
    /// and go.
    ///
    /// # Panics
    /// The kernel refuses.
    pub async fn bridge(&self, name: &str, kind: BridgeKind, mac: Option<[u8; 6]>, addresses: &[&str]) {
        sure(name, self.netlink.add_bridge(name, kind, mac).await);
        for address in addresses {
            sure(name, self.netlink.add_address(name, addr(address)).await);
        }
    }

    /// Plugs in a cable. Both ends are switched on, and so is the computer's loopback.
    ///
    /// # Panics
    /// The kernel refuses.
    pub async fn cable(&self, cable: Cable<'_>) {
        let Cable {
            name,
            bridge,
            computer,
            end,
            addresses,
        } = cable;
        let veth = Veth {
            name,
            group: 0,
            peer: end,
            peer_network: computer,
            peer_mac: None,
        };
        sure(name, self.netlink.add_veth(veth).await);
        sure(name, self.netlink.attach(name, Some(bridge)).await);
        sure(name, self.netlink.set_up(name, true).await);
        let there = sure(
            format!("netlink at the end of {name}"),
            Netlink::open_in(computer),
        );
        for interface in ["lo", end] {
            sure(
                format!("{interface} of {name}"),
                there.set_up(interface, true).await,
            );
        }
        for address in addresses {
            sure(
                format!("{address} of {name}"),
                there.add_address(end, addr(address)).await,
            );
        }
    }
}

/// A new, empty network.
///
/// # Panics
/// The kernel refuses.
#[must_use]
pub fn computer() -> NetNs {
    sure("a new network", NetNs::create())
}

/// The network in which a process is. Only root may enter that of another user's.
///
/// # Panics
/// It has ended, or is not to be seen.
#[must_use]
pub fn of_process(pid: u32) -> NetNs {
    let file = PathBuf::from(format!("/proc/{pid}/ns/net"));
    sure(file.display(), NetNs::open(&file))
}

/// Whether this process is root, as who enters the networks of processes that are not its own has to be.
#[must_use]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|own| own.uid() == 0)
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was said.
    Echo,
    /// One letter to whatever is said.
    Letter(u8),
}

impl Answer {
    fn to(self, said: &[u8]) -> Vec<u8> {
        match self {
            Self::Echo => said.to_vec(),
            Self::Letter(letter) => vec![letter],
        }
    }
}

/// Answers each byte of each connection to an address of a computer, as long as this process lives.
///
/// # Panics
/// The address or the port is not to be had.
pub fn answer_tcp(computer: &NetNs, at: SocketAddr, answer: Answer) {
    let bound = sure("enter a network", computer.run(|| TcpListener::bind(at)));
    let listener = sure(at, bound);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&answer.to(&byte)).is_ok() {}
            });
        }
    });
}

/// Answers each datagram to an address of a computer, as long as this process lives.
///
/// # Panics
/// The address or the port is not to be had.
pub fn answer_udp(computer: &NetNs, at: SocketAddr, answer: Answer) {
    let bound = sure("enter a network", computer.run(|| UdpSocket::bind(at)));
    let socket = sure(at, bound);
    std::thread::spawn(move || {
        let mut buffer = [0; 8];
        loop {
            // An error is what came of an answer to somebody who is not there any more.
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // What a filter holds back is refused to the sender, too.
                let _ = socket.send_to(&answer.to(&buffer[..length]), from);
            }
        }
    });
}

/// A new connection, from a computer or from here, and what answers one byte on it; each step may take so long.
///
/// # Errors
/// Nobody answers, or not in time.
///
/// # Panics
/// The network cannot be entered.
pub fn ask(from: Option<&NetNs>, to: SocketAddr, within: Duration) -> io::Result<(TcpStream, u8)> {
    let connect = || TcpStream::connect_timeout(&to, within);
    let mut stream = match from {
        Some(computer) => sure("enter a network", computer.run(connect))?,
        None => connect()?,
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(b"?")?;
    let mut letter = [0];
    stream.read_exact(&mut letter)?;
    Ok((stream, letter[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_says_the_same_or_its_letter() {
        assert_eq!(Answer::Echo.to(b"ab"), b"ab");
        assert_eq!(Answer::Letter(b'x').to(b"ab"), b"x");
        assert_eq!(addr("10.78.0.1/24").to_string(), "10.78.0.1/24");
    }
}
