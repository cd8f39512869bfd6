//! What makes the image a certain machine: its name, its addresses, the key that opens it, and what starts on it.

use crate::disk::Tree;
use crate::error::{Error, Result};
use crate::topology::{Node, Segment};
use std::fs;
use std::path::Path;

/// What a host says of its own disks; what it says of the array's is in the package for hosts.
const MULTIPATH: &str = include_str!("../guest/multipath.conf");

/// Fills the tree of a machine; `key` is the lab's public key.
///
/// # Errors
/// A file cannot be read or written.
pub fn fill(tree: &Tree, node: Node, key: &Path) -> Result<()> {
    let key = fs::read(key).map_err(Error::file("read", key))?;
    tree.folder("root", 0o700)?;
    tree.folder("root/.ssh", 0o700)?;
    tree.file("root/.ssh/authorized_keys", 0o600, &key)?;
    tree.file("etc/hostname", 0o644, format!("{node}\n").as_bytes())?;
    tree.file("etc/hosts", 0o644, hosts().as_bytes())?;
    let machine_id = format!("{:032x}\n", 0x1ab_0000 + u32::from(node.index()));
    tree.file("etc/machine-id", 0o444, machine_id.as_bytes())?;
    for (name, content) in networks(node) {
        tree.file(&format!("etc/systemd/network/{name}"), 0o644, content.as_bytes())?;
    }
    if node.is_controller() {
        return Ok(());
    }
    let initiator = format!("InitiatorName={INITIATOR}\n");
    tree.file("etc/iscsi/initiatorname.iscsi", 0o600, initiator.as_bytes())?;
    tree.file("etc/multipath.conf", 0o644, MULTIPATH.as_bytes())?;
    tree.enable("iscsid.service")?;
    tree.enable("multipathd.service")
}

/// Name of the host's initiator.
pub const INITIATOR: &str = "iqn.2026-01.pollux.lab:host";

fn hosts() -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    for node in Node::ALL {
        text += &format!("{} {node}\n", node.front());
    }
    text
}

/// Files of systemd-networkd (systemd.network(5)): names of interfaces follow their order, see
/// [`crate::topology::arguments`].
fn networks(node: Node) -> Vec<(String, String)> {
    // QEMU's own network gives this address to its only guest.
    let mut files = vec![(
        "10-lab.network".into(),
        static_network("eth0", "10.0.2.15/24", false),
    )];
    for (nic, segment) in (1..).zip(node.segments()) {
        let name = format!("eth{nic}");
        match segment {
            Segment::Front => files.push((
                "40-front.network".into(),
                static_network(&name, &format!("{}/24", node.front()), true),
            )),
            Segment::Leg0 | Segment::Leg1 => files.push((
                format!("20-{}.network", segment.as_str()),
                // Each leg is a cable with two ends and no switch between them: both ends must have the same one active.
                format!(
                    "[Match]\nName={name}\n[Network]\nBond=bond0\nPrimarySlave={}\n",
                    *segment == Segment::Leg0
                ),
            )),
        }
    }
    if let Some(address) = node.interconnect() {
        files.push((
            "10-bond0.netdev".into(),
            "[NetDev]\nName=bond0\nKind=bond\n[Bond]\nMode=active-backup\nPrimaryReselectPolicy=always\nMIIMonitorSec=100ms\n".into(),
        ));
        files.push((
            "30-bond0.network".into(),
            static_network("bond0", &format!("{address}/24"), false),
        ));
    }
    files
}

/// `needed`: the network counts as up once this interface is.
fn static_network(name: &str, address: &str, needed: bool) -> String {
    // The address stays when the cable is pulled: what is bound to it must not end.
    format!(
        "[Match]\nName={name}\n[Link]\nRequiredForOnline={}\n[Network]\nAddress={address}\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\nIgnoreCarrierLoss=yes\n",
        if needed { "yes" } else { "no" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_has_a_bond_of_two_legs_and_a_host_has_none() {
        let files = networks(Node::A);
        let text = |name: &str| {
            let found = files.iter().find(|(file, _)| file == name);
            found.map(|(_, text)| text.as_str()).unwrap_or_default()
        };
        assert!(text("20-leg0.network").contains("Name=eth1"));
        assert!(text("20-leg0.network").contains("PrimarySlave=true"));
        assert!(
            text("20-leg1.network").contains("PrimarySlave=false")
                && text("20-leg1.network").contains("Name=eth2")
        );
        assert!(text("30-bond0.network").contains("10.77.0.1/24"));
        assert!(text("40-front.network").contains("Name=eth3"));
        assert!(!networks(Node::Host).iter().any(|(name, _)| name.contains("bond")));
    }
}
