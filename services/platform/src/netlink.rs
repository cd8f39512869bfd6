//! Links, bridges and addresses of one network namespace, over rtnetlink.
//!
//! [`Netlink`] is `ip link` and `ip addr` for the few things that the array does with them; [`LinkWatch`] is
//! `ip monitor link`. Each belongs to the namespace in which it was opened and goes on to act there.

use crate::netns::{NamespaceError, NetNs};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol},
        link::{
            BondPortState, InfoBondPort, InfoData, InfoKind, InfoPortData, InfoVeth, LacpState,
            LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MiiStatus,
        },
    },
};
use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    str::FromStr,
};
use tokio::task::JoinHandle;

/// An address with the length of its prefix, `10.78.0.50/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfAddr {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
}

impl fmt::Display for IfAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IfAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: String| {
            format!("{text:?}: {what}; an address is written like 10.78.0.50/24 or fd00::50/64")
        };
        let (address, prefix) = text
            .split_once('/')
            .ok_or_else(|| wrong("no prefix length".into()))?;
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong(format!("{address:?} is no IP address")))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        match prefix.parse() {
            Ok(prefix) if (1..=longest).contains(&prefix) => Ok(Self { address, prefix }),
            _ => Err(wrong(format!(
                "the prefix length must be a number from 1 to {longest}"
            ))),
        }
    }
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Switched on by the administrator.
    pub up: bool,
    /// The other end is there and switched on.
    pub carrier: bool,
    /// Hardware address, when it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// It is a bond.
    pub is_bond: bool,
    /// Index of the bridge or bond of which it is a port.
    pub upper: Option<u32>,
    /// What the bond makes of it, if it is a port of one.
    pub bond_port: Option<BondPort>,
}

/// A port of a bond, as the bond sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BondPort {
    /// Frames go out through it now; of an active-backup bond one port at most.
    pub active: bool,
    /// The bond takes its link for whole: after its monitoring and its delays, not only the carrier.
    pub whole: bool,
    /// With LACP: the far end sends and receives through this link as part of the same bond.
    pub far_end_joined: Option<bool>,
}

impl BondPort {
    fn from_attributes(attributes: &[InfoBondPort]) -> Self {
        let mut port = Self::default();
        for attribute in attributes {
            match attribute {
                InfoBondPort::BondPortState(state) => port.active = *state == BondPortState::Active,
                InfoBondPort::MiiStatus(status) => port.whole = *status == MiiStatus::Up,
                InfoBondPort::AdPartnerOperPortState(state) => {
                    let both = LacpState::COLLECTING | LacpState::DISTRIBUTING;
                    port.far_end_joined = Some(state.contains(both));
                }
                _ => {}
            }
        }
        port
    }
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            is_bond: false,
            upper: None,
            bond_port: None,
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            mac: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name.clone(),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Controller(index) => link.upper = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkInfo(info) => {
                    for info in info {
                        match info {
                            LinkInfo::Kind(kind) => link.is_bond = *kind == InfoKind::Bond,
                            LinkInfo::PortData(InfoPortData::BondPort(port)) => {
                                link.bond_port = Some(BondPort::from_attributes(port));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a request.
    #[error("{operation} {object}: {source}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of which interface or address.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no such interface here.
    #[error("no network interface {0}")]
    NoLink(String),
    /// The socket could not be opened.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

fn refused(
    operation: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let object = object.into();
    move |error| NetlinkError::Refused {
        operation,
        object,
        source: to_io(error),
    }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match &error {
        rtnetlink::Error::NetlinkError(message) => message
            .code
            .map_or_else(|| io::Error::other(error.to_string()), |_| message.to_io()),
        _ => io::Error::other(error.to_string()),
    }
}

fn has_code(error: &rtnetlink::Error, errno: i32) -> bool {
    to_io(error.clone()).raw_os_error() == Some(errno)
}

/// Who has put an address up, as the kernel keeps it beside the address since 5.18 (IFA_PROTO): the array. `ip address`
/// shows it as `proto 0x50`. Numbers below 4 are the kernel's own.
const OURS: u8 = 0x50;

/// How a bridge forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// Learns where addresses are, as a switch does.
    Switch,
    /// Sends everything everywhere, as a cable with two ends does: nothing is learned, nothing is stale after a cut.
    Hub,
}

/// A cable between two networks.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The end here.
    pub name: &'a str,
    /// Group of the end here, for [`Netlink::delete_group`]; 0 is none.
    pub group: u32,
    /// The far end.
    pub peer: &'a str,
    /// The network of the far end.
    pub peer_network: &'a NetNs,
    /// Hardware address of the far end, as of a card that keeps its own over reboots; or a random one.
    pub peer_mac: Option<[u8; 6]>,
}

/// A connection to the routing tables of one namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Netlink {
    /// Opens one in the caller's network. Needs a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    /// Opens one inside `network`.
    pub fn open_in(network: &NetNs) -> Result<Self, NetlinkError> {
        network.run(Self::open)?
    }

    /// Every interface.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("list links", ""))?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    /// One interface.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        match self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next_owned()
            .await
        {
            Ok(Some(message)) => Ok(Link::from_message(&message)),
            Ok(None) => Err(NetlinkError::NoLink(name.into())),
            Err(error) if has_code(&error, libc::ENODEV) => Err(NetlinkError::NoLink(name.into())),
            Err(error) => Err(refused("look up", name)(error)),
        }
    }

    /// Makes a bridge, switched on. A given hardware address stays when ports come and go.
    pub async fn add_bridge(
        &self,
        name: &str,
        kind: BridgeKind,
        mac: Option<[u8; 6]>,
    ) -> Result<(), NetlinkError> {
        // A bridge that ages entries at once learns none. Multicast snooping would keep neighbour discovery from
        // ports on which nobody has joined a group yet.
        let mut bridge = LinkBridge::new(name).mcast_snooping(false);
        if kind == BridgeKind::Hub {
            bridge = bridge.ageing_time(0);
        }
        if let Some(mac) = mac {
            bridge = bridge.address(mac.to_vec());
        }
        self.handle
            .link()
            .add(bridge.build())
            .execute()
            .await
            .map_err(refused("add bridge", name))
    }

    /// Makes a cable. Both ends are switched off.
    pub async fn add_veth(&self, cable: Veth<'_>) -> Result<(), NetlinkError> {
        let Veth {
            name,
            group,
            peer,
            peer_network,
            peer_mac,
        } = cable;
        let mut far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(peer_network.as_fd().as_raw_fd());
        if let Some(mac) = peer_mac {
            far = far.address(mac.to_vec());
        }
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .link_group(group)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(refused("add veth", name))
    }

    /// Removes every interface of a group at once (of cables: both ends). Much faster than one by one: the kernel
    /// waits only once until nobody uses them. Answers false when there was none. Group 0 is where interfaces are
    /// that nobody put into one; the kernel refuses it.
    pub async fn delete_group(&self, group: u32) -> Result<bool, NetlinkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
        match self.handle.link().del_with_message(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if has_code(&error, libc::ENODEV) => Ok(false),
            Err(error) => Err(refused("delete group", group.to_string())(error)),
        }
    }

    /// Removes an interface (of a cable: both ends). One that is not there is no error: answers false.
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let link = match self.link(name).await {
            Ok(link) => link,
            Err(NetlinkError::NoLink(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.handle.link().del(link.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) if has_code(&error, libc::ENODEV) => Ok(false),
            Err(error) => Err(refused("delete link", name)(error)),
        }
    }

    /// Switches an interface on or off.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name);
        let message = if up { message.up() } else { message.down() };
        let operation = if up { "set up" } else { "set down" };
        self.handle
            .link()
            .change(message.build())
            .execute()
            .await
            .map_err(refused(operation, name))
    }

    /// Makes an interface a port of `bridge`, or of none.
    pub async fn attach(&self, name: &str, bridge: Option<&str>) -> Result<(), NetlinkError> {
        let index = match bridge {
            Some(bridge) => self.link(bridge).await?.index,
            None => 0,
        };
        let message = LinkUnspec::new_with_name(name).controller(index).build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(refused("attach", name))
    }

    /// Lets frames leave the bridge through this port, or none. Frames that come in through it still pass: a cable
    /// that is broken in one direction. Only on a port of a [`BridgeKind::Hub`], which knows no addresses.
    pub async fn set_port_egress(&self, port: &str, open: bool) -> Result<(), NetlinkError> {
        let index = self.link(port).await?.index;
        let message = LinkBridgePort::new(index)
            .flood(open)
            .mcast_flood(open)
            .bcast_flood(open)
            .build();
        self.handle
            .link()
            .set_port(message)
            .execute()
            .await
            .map_err(refused("set egress of", port))
    }

    /// Addresses of an interface, but for those that the kernel makes itself (IPv6 link-local).
    pub async fn addresses(&self, name: &str) -> Result<Vec<IfAddr>, NetlinkError> {
        let index = self.link(name).await?.index;
        Ok(self
            .address_messages(name, index)
            .await?
            .iter()
            .filter_map(if_addr)
            .collect())
    }

    /// Those of them that [`Netlink::add_address`] has put up. Before Linux 5.18 nobody can tell: none.
    pub async fn own_addresses(&self, name: &str) -> Result<Vec<IfAddr>, NetlinkError> {
        let index = self.link(name).await?.index;
        let ours = |message: &&AddressMessage| {
            let mark = AddressAttribute::Protocol(AddressProtocol::from(OURS));
            message.attributes.contains(&mark)
        };
        Ok(self
            .address_messages(name, index)
            .await?
            .iter()
            .filter(ours)
            .filter_map(if_addr)
            .collect())
    }

    async fn address_messages(&self, name: &str, index: u32) -> Result<Vec<AddressMessage>, NetlinkError> {
        let request = self.handle.address().get().set_link_index_filter(index);
        request
            .execute()
            .try_collect()
            .await
            .map_err(refused("list addresses of", name))
    }

    /// Adds an address, marked as the array's. Answers false when it is there already, whoever has put it up. An IPv6
    /// address is usable at once: duplicate address detection would keep it silent for seconds, and who may have it has
    /// been decided by other means.
    pub async fn add_address(&self, name: &str, wanted: IfAddr) -> Result<bool, NetlinkError> {
        let index = self.link(name).await?.index;
        let mut request = self.handle.address().add(index, wanted.address, wanted.prefix);
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::from(OURS)));
        if wanted.address.is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(error) if has_code(&error, libc::EEXIST) => Ok(false),
            Err(error) => Err(refused("add address", format!("{wanted} to {name}"))(error)),
        }
    }

    /// Removes an address. Answers false when it is not there.
    pub async fn remove_address(&self, name: &str, unwanted: IfAddr) -> Result<bool, NetlinkError> {
        let index = self.link(name).await?.index;
        let messages = self.address_messages(name, index).await?;
        let Some(message) = messages
            .into_iter()
            .find(|message| if_addr(message) == Some(unwanted))
        else {
            return Ok(false);
        };
        match self.handle.address().del(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if has_code(&error, libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(refused("remove address", format!("{unwanted} from {name}"))(
                error,
            )),
        }
    }
}

fn if_addr(message: &AddressMessage) -> Option<IfAddr> {
    // On a point-to-point link `Address` is the far end, so `Local` goes first where there is one.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        address => Some(IfAddr {
            address,
            prefix: message.header.prefix_len,
        }),
    }
}

/// `try_next` on a stream that is not `Unpin`.
trait TryNextOwned<T, E> {
    async fn try_next_owned(self) -> Result<Option<T>, E>;
}

impl<S, T, E> TryNextOwned<T, E> for S
where
    S: futures_util::Stream<Item = Result<T, E>>,
{
    async fn try_next_owned(self) -> Result<Option<T>, E> {
        std::pin::pin!(self).try_next().await
    }
}

type Messages = Pin<Box<dyn futures_util::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync>>;

/// One change of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is there, and like this. The same state may be told more than once.
    Present(Link),
    /// It has been removed.
    Removed(Link),
}

/// The stream of changes of the interfaces of one namespace.
///
/// Changes are told as they happen; under overload the kernel may drop some, so whoever decides by them asks
/// [`Netlink::link`] again now and then.
pub struct LinkWatch {
    messages: Messages,
    driver: JoinHandle<()>,
}

impl fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkWatch")
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl LinkWatch {
    /// Opens one in the caller's network. Needs a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        let messages = Box::pin(messages.map(|(message, _)| message));
        Ok(Self {
            messages,
            driver: tokio::spawn(connection),
        })
    }

    /// Opens one inside `network`.
    pub fn open_in(network: &NetNs) -> Result<Self, NetlinkError> {
        network.run(Self::open)?
    }

    /// The next change. `None`: the socket is gone; open a new watch.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        loop {
            let NetlinkPayload::InnerMessage(message) = self.messages.next().await?.payload else {
                continue;
            };
            // A bridge reports its ports in its own family: a port that leaves a bridge is not an interface that
            // has been removed.
            let of_interface = |link: &LinkMessage| link.header.interface_family == AddressFamily::Unspec;
            match message {
                RouteNetlinkMessage::NewLink(link) if of_interface(&link) => {
                    return Some(LinkEvent::Present(Link::from_message(&link)));
                }
                RouteNetlinkMessage::DelLink(link) if of_interface(&link) => {
                    return Some(LinkEvent::Removed(Link::from_message(&link)));
                }
                _ => {}
            }
        }
    }
}
