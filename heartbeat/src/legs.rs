//! The legs of the interconnect: the cables behind the bond, each watched for itself.
//!
//! The bond hides the loss of a cable, which is what it is for; somebody has to see it all the same, before the second one
//! goes. The kernel tells of every change by netlink, and every [`AGAIN`] the legs are looked at without having been told,
//! since it drops news when there is too much of it. What is seen is told to the core as carrier (an alarm, not an event
//! of the protocol) and to people with the reason.
//!
//! It must never decide anything: the wire is alive or silent by its datagrams alone.

use pollux_api::id::ControllerId;
use pollux_heartbeat_core::Event;
use pollux_platform::netlink::{Link, LinkEvent, LinkWatch, Netlink, NetlinkError};
use std::{fmt, time::Duration};
use tokio::sync::{mpsc, watch};

/// How often the legs are looked at without news.
const AGAIN: Duration = Duration::from_secs(5);
/// Pause before netlink is asked for again that could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// Why a leg carries nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such interface.
    Absent,
    /// It is switched off here.
    Off,
    /// Nothing at the other end of the cable.
    Dark,
    /// It is no port of the bond.
    Outside(String),
    /// The bond does not take its link for whole.
    Refused(String),
    /// LACP: the partner's end is no part of the same bond.
    FarEnd,
}

/// One leg as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Its interface.
    pub name: String,
    /// Why it carries nothing; none: it is whole.
    pub fault: Option<Fault>,
    /// An active-backup bond sends through it now; none where there is no such bond.
    pub active: Option<bool>,
}

impl Leg {
    /// Whether it is whole.
    #[must_use]
    pub fn up(&self) -> bool {
        self.fault.is_none()
    }
}

/// All legs of this controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legs(pub Vec<Leg>);

impl Legs {
    /// Before anybody has looked.
    #[must_use]
    pub fn unseen(names: &[String]) -> Self {
        let unseen = |name: &String| Leg {
            name: name.clone(),
            fault: Some(Fault::Absent),
            active: None,
        };
        Self(names.iter().map(unseen).collect())
    }

    /// The leg that the core calls `leg0`, `leg1`, ...
    #[must_use]
    pub fn called(&self, subject: &str) -> Option<&Leg> {
        let index: usize = subject.strip_prefix("leg")?.parse().ok()?;
        self.0.get(index)
    }

    /// What is wrong with a leg, for people at controller `me`.
    #[must_use]
    pub fn text(&self, leg: &Leg, me: ControllerId) -> String {
        let partner = me.partner();
        let name = &leg.name;
        let what = match &leg.fault {
            None => return format!("{name}, the leg of controller {me} to controller {partner}, is whole"),
            Some(Fault::Absent) => format!("there is no interface {name} on controller {me}"),
            Some(Fault::Off) => format!("{name} is switched off on controller {me}: ip link set {name} up"),
            Some(Fault::Dark) => format!(
                "{name} of controller {me} has no carrier: the cable, or its end at controller {partner}"
            ),
            Some(Fault::Outside(bond)) => {
                format!("{name} of controller {me} is no port of {bond}: ip link set {name} master {bond}")
            }
            Some(Fault::Refused(bond)) => {
                format!(
                    "{bond} of controller {me} does not use {name}: its link is not whole, or not for long enough"
                )
            }
            Some(Fault::FarEnd) => format!(
                "controller {partner}'s end of {name} of controller {me} is not in the bond: LACP (802.3ad) there?"
            ),
        };
        let others: Vec<&str> = self
            .0
            .iter()
            .filter(|other| other.up())
            .map(|other| &other.name[..])
            .collect();
        if others.is_empty() {
            format!("{what}; no other leg is left")
        } else {
            format!("{what}; left: {}", others.join(", "))
        }
    }
}

impl fmt::Display for Legs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |leg: &Leg| {
            let state = if leg.up() { "up" } else { "down" };
            let active = if leg.active == Some(true) { ", active" } else { "" };
            format!("{} {state}{active}", leg.name)
        };
        let all: Vec<String> = self.0.iter().map(one).collect();
        f.write_str(&all.join("; "))
    }
}

/// What a leg is, from its link and that of the interface to the partner.
#[must_use]
pub fn judge(name: &str, leg: Option<&Link>, above: Option<&Link>) -> Leg {
    let bond = above.filter(|above| above.is_bond);
    let port = leg.and_then(|leg| leg.bond_port);
    let fault = match (leg, bond) {
        (None, _) => Some(Fault::Absent),
        (Some(leg), _) if !leg.up => Some(Fault::Off),
        (Some(leg), _) if !leg.carrier => Some(Fault::Dark),
        (Some(leg), Some(bond)) if leg.upper != Some(bond.index) => Some(Fault::Outside(bond.name.clone())),
        (Some(_), Some(bond)) if port.is_some_and(|port| !port.whole) => {
            Some(Fault::Refused(bond.name.clone()))
        }
        (Some(_), Some(_)) if port.is_some_and(|port| port.far_end_joined == Some(false)) => {
            Some(Fault::FarEnd)
        }
        (Some(_), _) => None,
    };
    Leg {
        name: name.to_owned(),
        fault,
        active: bond.and(port).map(|port| port.active),
    }
}

/// Watches the legs, in the network in which it is called, for as long as somebody listens.
pub async fn watch(
    interface: String,
    names: Vec<String>,
    events: mpsc::UnboundedSender<Event>,
    seen: watch::Sender<Legs>,
) {
    // Nothing yet: the core hears of the legs even if there are none.
    let mut told: Option<Legs> = None;
    loop {
        // Opened before anything is looked at, so that no change falls between the two.
        let mut news = match (LinkWatch::open(), Netlink::open()) {
            (Ok(news), Ok(netlink)) => Some((news, netlink)),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "legs of the interconnect are not watched");
                None
            }
        };
        while let Some((watch, netlink)) = &mut news {
            match look(netlink, &interface, &names).await {
                Ok(legs) if told.as_ref() != Some(&legs) => {
                    tracing::info!(%legs, "legs of the interconnect");
                    let up = legs.0.iter().map(Leg::up).collect();
                    seen.send_replace(legs.clone());
                    told = Some(legs);
                    if events.send(Event::Legs(up)).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "legs of the interconnect are not seen"),
            }
            if !wait(watch, &interface, &names).await {
                news = None;
            }
        }
        // Nothing tells that a socket can be had again: what it lacked (descriptors, memory) comes back without a word.
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits for a change of one of these interfaces, or until it is time to look again; false: there will be no more news.
async fn wait(watch: &mut LinkWatch, interface: &str, names: &[String]) -> bool {
    let told = async {
        while let Some(change) = watch.next().await {
            let (LinkEvent::Present(link) | LinkEvent::Removed(link)) = change;
            if link.name == interface || names.contains(&link.name) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(AGAIN, told).await.unwrap_or(true)
}

async fn look(netlink: &Netlink, interface: &str, names: &[String]) -> Result<Legs, NetlinkError> {
    let links = netlink.links().await?;
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let above = find(interface);
    let legs = names.iter().map(|name| judge(name, find(name), above));
    Ok(Legs(legs.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::ControllerId::A;
    use pollux_platform::netlink::BondPort;

    fn link(name: &str, index: u32) -> Link {
        Link {
            index,
            name: name.into(),
            up: true,
            carrier: true,
            mac: None,
            is_bond: false,
            upper: None,
            bond_port: None,
        }
    }

    fn bond() -> Link {
        Link {
            is_bond: true,
            ..link("bond0", 9)
        }
    }

    fn port(active: bool, whole: bool, far_end_joined: Option<bool>) -> Link {
        Link {
            upper: Some(9),
            bond_port: Some(BondPort {
                active,
                whole,
                far_end_joined,
            }),
            ..link("eth1", 3)
        }
    }

    #[test]
    fn a_leg_is_what_its_link_and_its_bond_say() {
        let bond = bond();
        let outside = || Some(Fault::Outside("bond0".into()));
        let refused = || Some(Fault::Refused("bond0".into()));
        let off = Link {
            up: false,
            carrier: false,
            ..port(false, false, None)
        };
        let dark = Link {
            carrier: false,
            ..port(false, false, None)
        };
        let elsewhere = Link {
            upper: Some(8),
            ..link("eth1", 3)
        };
        for (leg, fault, active) in [
            (None, Some(Fault::Absent), None),
            (Some(off), Some(Fault::Off), Some(false)),
            (Some(dark), Some(Fault::Dark), Some(false)),
            (Some(link("eth1", 3)), outside(), None),
            (Some(elsewhere), outside(), None),
            (Some(port(false, false, None)), refused(), Some(false)),
            (Some(port(true, true, None)), None, Some(true)),
            (Some(port(false, true, None)), None, Some(false)),
            (Some(port(true, true, Some(true))), None, Some(true)),
            (
                Some(port(true, true, Some(false))),
                Some(Fault::FarEnd),
                Some(true),
            ),
        ] {
            let judged = judge("eth1", leg.as_ref(), Some(&bond));
            assert_eq!((&judged.fault, judged.active), (&fault, active), "{leg:?}");
        }
    }

    #[test]
    fn without_a_bond_carrier_is_all_there_is() {
        let bridge = link("ic0", 9);
        assert!(judge("leg0", Some(&link("leg0", 3)), Some(&bridge)).up());
        assert!(judge("eth1", Some(&link("eth1", 3)), None).up());
        let dark = Link {
            carrier: false,
            ..link("leg0", 3)
        };
        assert_eq!(judge("leg0", Some(&dark), Some(&bridge)).fault, Some(Fault::Dark));
    }

    #[test]
    fn what_is_wrong_names_the_interface_both_ends_and_what_is_left() {
        let leg = |name: &str, fault| Leg {
            name: name.into(),
            fault,
            active: None,
        };
        let legs = Legs(vec![leg("eth1", Some(Fault::Dark)), leg("eth2", None)]);
        let first = legs.called("leg0").unwrap();
        assert_eq!(
            legs.text(first, A),
            "eth1 of controller a has no carrier: the cable, or its end at controller b; left: eth2"
        );
        assert!(
            legs.called("leg1").unwrap().up()
                && legs.called("leg2").is_none()
                && legs.called("quorum").is_none()
        );
        let none = Legs(vec![
            leg("eth1", Some(Fault::FarEnd)),
            leg("eth2", Some(Fault::Off)),
        ]);
        let text = none.text(&none.0[0], A);
        assert!(
            text.contains("controller b's end") && text.ends_with("no other leg is left"),
            "{text}"
        );
    }
}
