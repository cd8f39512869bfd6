//! The enclosure's network in the kernel: [`crate::cabling`] made real with bridges and veth pairs.
//!
//! A controller's network is made when it gets power and destroyed when it loses it, addresses and connections with
//! it, as with a machine. Hardware addresses stay the same over reboots, as those of cards do.

use crate::{
    cabling::{Cabling, Wiring},
    journal::Journal,
};
use pollux_api::{chassis::Cable, id::ControllerId};
use pollux_platform::{
    netlink::{BridgeKind, IfAddr, Netlink, NetlinkError, Veth},
    netns::NetNs,
};
use std::net::{IpAddr, Ipv4Addr};

/// The bond as the controller sees it.
pub const INTERCONNECT: &str = "ic0";
/// The legs of the bond as the controller sees them.
pub const LEGS: [&str; 2] = ["leg0", "leg1"];
/// The front end as the controller sees it.
pub const FRONT: &str = "host0";
/// Prefix length of both networks.
pub const PREFIX: u8 = 24;
/// The hosts' own address.
pub const HOSTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 254));

/// Bridge of the hosts in the enclosure's network.
const HOSTS_BRIDGE: &str = "hosts";
/// Hubs of the legs in the enclosure's network.
const HUBS: [&str; 2] = ["ic-0", "ic-1"];

/// Address of a controller on the interconnect.
pub fn interconnect_address(controller: ControllerId) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, 1 + controller.index() as u8).into()
}

/// Address of a controller's iSCSI portal.
pub fn front_address(controller: ControllerId) -> IpAddr {
    Ipv4Addr::new(10, 78, 0, 1 + controller.index() as u8).into()
}

/// Locally administered address of a card.
fn mac(controller: ControllerId, card: u8) -> [u8; 6] {
    [0x02, 0x70, 0x6c, 0x78, card, 1 + controller.index() as u8]
}

/// All cables of a controller, to be torn out at once.
fn group(controller: ControllerId) -> u32 {
    1 + controller.index() as u32
}

fn socket(controller: ControllerId, end: &str) -> String {
    format!("{controller}-{end}")
}

/// The network of one powered controller.
#[derive(Debug)]
struct Side {
    ns: NetNs,
    netlink: Netlink,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Network {
    here: Netlink,
    sides: [Option<Side>; 2],
    cabling: Cabling,
    applied: Wiring,
    journal: Journal,
}

impl Network {
    /// Builds what is there without any controller, in the network of the calling process.
    pub(crate) async fn build(journal: Journal) -> Result<Self, NetlinkError> {
        let here = Netlink::open()?;
        here.set_up("lo", true).await?;
        for hub in HUBS {
            here.add_bridge(hub, BridgeKind::Hub, None).await?;
        }
        here.add_bridge(
            HOSTS_BRIDGE,
            BridgeKind::Switch,
            Some([0x02, 0x70, 0x6c, 0x78, 9, 254]),
        )
        .await?;
        here.add_address(
            HOSTS_BRIDGE,
            IfAddr {
                address: HOSTS,
                prefix: PREFIX,
            },
        )
        .await?;
        let cabling = Cabling::default();
        let applied = cabling.wiring();
        Ok(Self {
            here,
            sides: [None, None],
            cabling,
            applied,
            journal,
        })
    }

    /// What was done to the cables.
    pub(crate) fn cabling(&self) -> &Cabling {
        &self.cabling
    }

    /// The network of a controller that has power.
    pub(crate) fn namespace(&self, controller: ControllerId) -> Option<&NetNs> {
        self.sides[controller.index()].as_ref().map(|side| &side.ns)
    }

    /// Gives a controller its cards and cables. Whatever is left of an earlier life is removed first.
    pub(crate) async fn plug(&mut self, controller: ControllerId) -> Result<(), NetlinkError> {
        self.unplug(controller).await?;
        let ns = NetNs::create()?;
        let inside = Netlink::open_in(&ns)?;
        inside.set_up("lo", true).await?;
        for (end, bridge, address) in [
            (LEGS[0], HUBS[0], None),
            (LEGS[1], HUBS[1], None),
            (FRONT, HOSTS_BRIDGE, Some(mac(controller, 2))),
        ] {
            let name = socket(controller, end);
            let cable = Veth {
                name: &name,
                group: group(controller),
                peer: end,
                peer_network: &ns,
                peer_mac: address,
            };
            self.here.add_veth(cable).await?;
            self.here.attach(&name, Some(bridge)).await?;
            inside.set_up(end, true).await?;
        }
        inside
            .add_bridge(INTERCONNECT, BridgeKind::Hub, Some(mac(controller, 1)))
            .await?;
        inside
            .attach(LEGS[self.cabling.active], Some(INTERCONNECT))
            .await?;
        for (name, address) in [
            (INTERCONNECT, interconnect_address(controller)),
            (FRONT, front_address(controller)),
        ] {
            inside
                .add_address(
                    name,
                    IfAddr {
                        address,
                        prefix: PREFIX,
                    },
                )
                .await?;
        }
        self.sides[controller.index()] = Some(Side { ns, netlink: inside });
        // The sockets are new: off, and open.
        for leg in 0..2 {
            self.applied.leg_up[leg][controller.index()] = false;
            self.applied.leg_open[leg][controller.index()] = true;
        }
        self.applied.host_up[controller.index()] = false;
        self.cabling.powered[controller.index()] = true;
        self.apply().await
    }

    /// Tears all cables out of a controller at once. Its network ends with the last process in it.
    pub(crate) async fn unplug(&mut self, controller: ControllerId) -> Result<(), NetlinkError> {
        self.cabling.powered[controller.index()] = false;
        self.here.delete_group(group(controller)).await?;
        self.sides[controller.index()] = None;
        self.apply().await
    }

    /// Changes a leg. Answers whether anything changed.
    pub(crate) async fn set_leg(&mut self, leg: usize, cable: Cable) -> Result<bool, NetlinkError> {
        let changed = std::mem::replace(&mut self.cabling.legs[leg], cable) != cable;
        self.apply().await.map(|()| changed)
    }

    /// Changes a front-end cable. Answers whether anything changed.
    pub(crate) async fn set_host_port(
        &mut self,
        c: ControllerId,
        connected: bool,
    ) -> Result<bool, NetlinkError> {
        let changed = std::mem::replace(&mut self.cabling.host_ports[c.index()], connected) != connected;
        self.apply().await.map(|()| changed)
    }

    /// The bond should use another leg.
    pub(crate) fn bond_is_unsettled(&self) -> bool {
        self.cabling.wanted_leg() != self.cabling.active
    }

    /// Moves the bond of both controllers to the leg that it wants, if it still wants another. Between the two steps
    /// no leg is a member of either bond, so that no frame can circle.
    pub(crate) async fn settle_bond(&mut self) -> Result<(), NetlinkError> {
        let (old, new) = (self.cabling.active, self.cabling.wanted_leg());
        if old == new {
            return Ok(());
        }
        for (leg, bridge) in [(old, None), (new, Some(INTERCONNECT))] {
            for side in self.sides.iter().flatten() {
                side.netlink.attach(LEGS[leg], bridge).await?;
            }
        }
        self.cabling.active = new;
        self.journal
            .record(None, "bond", LEGS[new].to_owned(), format!("from {}", LEGS[old]));
        Ok(())
    }

    /// Brings the sockets from how they are set to how they must be. What was not done stays to be done next time.
    async fn apply(&mut self) -> Result<(), NetlinkError> {
        let wanted = self.cabling.wiring();
        // Dark before lit: a cut must never wait for a repair.
        for turn_on in [false, true] {
            for controller in ControllerId::ALL {
                let c = controller.index();
                if !self.cabling.powered[c] {
                    continue;
                }
                for (leg, end) in LEGS.iter().enumerate() {
                    let name = socket(controller, end);
                    if wanted.leg_open[leg][c] == turn_on && self.applied.leg_open[leg][c] != turn_on {
                        self.here.set_port_egress(&name, turn_on).await?;
                        self.applied.leg_open[leg][c] = turn_on;
                    }
                    if wanted.leg_up[leg][c] == turn_on && self.applied.leg_up[leg][c] != turn_on {
                        self.here.set_up(&name, turn_on).await?;
                        self.applied.leg_up[leg][c] = turn_on;
                    }
                }
                if wanted.host_up[c] == turn_on && self.applied.host_up[c] != turn_on {
                    self.here.set_up(&socket(controller, FRONT), turn_on).await?;
                    self.applied.host_up[c] = turn_on;
                }
            }
        }
        Ok(())
    }
}
