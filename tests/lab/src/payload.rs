//! What makes the image a certain machine: its name, its addresses, the key that opens it, and what starts on it.

use crate::disk::Tree;
use crate::error::{Error, Result};
use crate::topology::Node;
use std::fs;
use std::path::Path;

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
    tree.enable("iscsid.service")?;
    tree.enable("multipathd.service")
}

/// Name of the host's initiator.
pub const INITIATOR: &str = "iqn.2026-01.pollux.lab:host";

/// How the host proves itself (CHAP). The lab's machines are nobody else's to reach.
pub const CHAP_USER: &str = "lab";
/// See [`CHAP_USER`].
pub const CHAP_SECRET: &str = "of-the-labs-own-host";

fn hosts() -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    for node in Node::ALL {
        text += &format!("{} {node}\n", node.front());
    }
    text
}

/// The examples that controllers get, under their names.
const EXAMPLES: [(&str, &str); 5] = [
    (
        "20-pollux-bond.netdev",
        include_str!("../../../packaging/network/20-pollux-bond.netdev"),
    ),
    (
        "21-pollux-leg-1.network",
        include_str!("../../../packaging/network/21-pollux-leg-1.network"),
    ),
    (
        "21-pollux-leg-2.network",
        include_str!("../../../packaging/network/21-pollux-leg-2.network"),
    ),
    (
        "22-pollux-bond.network",
        include_str!("../../../packaging/network/22-pollux-bond.network"),
    ),
    (
        "23-pollux-front.network",
        include_str!("../../../packaging/network/23-pollux-front.network"),
    ),
];

/// Files of systemd-networkd (systemd.network(5)): names of interfaces follow their order, see
/// [`crate::topology::arguments`]. Those of a controller are the examples that are shipped, with the places filled in that a
/// person fills in.
fn networks(node: Node) -> Vec<(String, String)> {
    // QEMU's own network gives this address to its only guest.
    let mut files = vec![(
        "10-lab.network".into(),
        static_network("eth0", "10.0.2.15/24", false),
    )];
    let Some(interconnect) = node.interconnect() else {
        let front = static_network("eth1", &format!("{}/24", node.front()), true);
        files.push(("40-front.network".into(), front));
        return files;
    };
    for (name, example) in EXAMPLES {
        let filled = example
            .replace("MACAddress=02:00:00:00:00:01", "Name=eth1")
            .replace("MACAddress=02:00:00:00:00:02", "Name=eth2")
            .replace("MACAddress=02:00:00:00:00:03", "Name=eth3")
            .replace("Address=10.77.0.1/", &format!("Address={interconnect}/"))
            .replace("Address=10.78.0.1/", &format!("Address={}/", node.front()));
        files.push((name.to_owned(), filled));
    }
    files
}

/// `needed`: the network counts as up once this interface is.
fn static_network(name: &str, address: &str, needed: bool) -> String {
    let needed = if needed { "yes" } else { "no" };
    format!(
        "[Match]\nName={name}\n[Link]\nRequiredForOnline={needed}\n[Network]\nAddress={address}\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\nIgnoreCarrierLoss=yes\n"
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
        let (first, second) = (text("21-pollux-leg-1.network"), text("21-pollux-leg-2.network"));
        assert!(
            first.contains("Name=eth1") && first.contains("PrimarySlave=true"),
            "{first}"
        );
        assert!(
            second.contains("Name=eth2") && !second.contains("PrimarySlave"),
            "{second}"
        );
        assert!(text("22-pollux-bond.network").contains("Address=10.77.0.1/30"));
        let front = text("23-pollux-front.network");
        assert!(
            front.contains("Name=eth3") && front.contains("Address=10.78.0.1/24"),
            "{front}"
        );
        assert!(
            files.iter().all(|(_, text)| !text.contains("MACAddress=")),
            "every place is filled in"
        );
        let of_b = networks(Node::B);
        assert!(of_b.iter().any(|(_, text)| text.contains("Address=10.77.0.2/30")));
        assert!(of_b.iter().any(|(_, text)| text.contains("Address=10.78.0.2/24")));
        assert!(!networks(Node::Host).iter().any(|(name, _)| name.contains("bond")));
    }
}
