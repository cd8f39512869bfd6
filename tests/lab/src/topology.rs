//! What stands in the lab: two controllers, a host, the cables between them, and a shelf.
//!
//! ```text
//!        front (10.78.0.0/24):  a .1   b .2   host .10
//!          |            |            |
//!   +------+---+  +-----+----+  +----+----+
//!   |    a     |==|    b     |  |  host   |     == leg 0, leg 1: bond0, 10.77.0.1 and .2
//!   +----+-----+  +----+-----+  +---------+
//!     port A         port B
//!   +----+-------------+-----+
//!   |         shelf          |                  every disk through either port, found by its WWN
//!   +------------------------+
//! ```
//!
//! Each machine has one more interface, eth0, which leads to nobody but the lab itself.

use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// A machine of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Controller a.
    A,
    /// Controller b.
    B,
    /// The host, which uses their volumes.
    Host,
}

/// What connects interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// First leg of the interconnect.
    Leg0,
    /// Second leg of the interconnect.
    Leg1,
    /// Where hosts are.
    Front,
}

/// A machine's own disk, over the image.
pub const OWN_DISK: &str = "disk.img";
/// A second disk of a controller's own, empty until a case wants one that is no part of its system.
pub const STATE_DISK: &str = "state.img";

/// Memory of a machine, MiB. A controller of the tests needs some 300.
const MEMORY_MIB: u32 = 768;

impl Node {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Host];
    /// The controllers.
    pub const CONTROLLERS: [Self; 2] = [Self::A, Self::B];

    /// Its name, of its folder too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Host => "host",
        }
    }

    /// The node of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|node| node.as_str() == name)
    }

    /// Its place, from 0; addresses and numbers are made of it.
    #[must_use]
    pub const fn index(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
            Self::Host => 2,
        }
    }

    /// Whether it is a controller.
    #[must_use]
    pub const fn is_controller(self) -> bool {
        !matches!(self, Self::Host)
    }

    /// The other controller.
    #[must_use]
    pub const fn partner(self) -> Self {
        match self {
            Self::A => Self::B,
            _ => Self::A,
        }
    }

    /// Segments of its interfaces eth1, eth2 ..., in this order.
    #[must_use]
    pub const fn segments(self) -> &'static [Segment] {
        match self {
            Self::A | Self::B => &[Segment::Leg0, Segment::Leg1, Segment::Front],
            Self::Host => &[Segment::Front],
        }
    }

    /// Its address in the network of the hosts.
    #[must_use]
    pub const fn front(self) -> &'static str {
        match self {
            Self::A => "10.78.0.1",
            Self::B => "10.78.0.2",
            Self::Host => "10.78.0.10",
        }
    }

    /// The hardware address of its interface of that number.
    fn mac(self, nic: usize) -> String {
        format!("52:54:00:4c:{:02x}:{nic:02x}", self.index())
    }

    /// The hardware address of its interface in the network of the hosts.
    #[must_use]
    pub fn front_mac(self) -> String {
        // The first one is the lab's own.
        let nic = (1..)
            .zip(self.segments())
            .find(|(_, segment)| **segment == Segment::Front);
        self.mac(nic.map_or(0, |(nic, _)| nic))
    }

    /// Its address on the interconnect.
    #[must_use]
    pub const fn interconnect(self) -> Option<&'static str> {
        match self {
            Self::A => Some("10.77.0.1"),
            Self::B => Some("10.77.0.2"),
            Self::Host => None,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Segment {
    /// All.
    pub const ALL: [Self; 3] = [Self::Leg0, Self::Leg1, Self::Front];
    /// The interconnect.
    pub const LEGS: [Self; 2] = [Self::Leg0, Self::Leg1];

    /// Its name, by which QEMU knows the interface on it too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leg0 => "leg0",
            Self::Leg1 => "leg1",
            Self::Front => "front",
        }
    }

    /// Whose interfaces are on it.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        Node::ALL
            .into_iter()
            .filter(move |node| node.segments().contains(&self))
    }
}

/// Name of the machine's end of a cable's socket, in the folder of the switch.
#[must_use]
pub fn machine_end(segment: Segment, node: Node) -> String {
    format!("{}-{node}.vm", segment.as_str())
}

/// Name of the switch's end.
#[must_use]
pub fn switch_end(segment: Segment, node: Node) -> String {
    format!("{}-{node}.port", segment.as_str())
}

/// A disk of the shelf as a controller's QEMU reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfPort {
    /// Address and port of the portal.
    pub portal: String,
    /// Name of the target.
    pub target: String,
    /// Logical units, as many as there are disks: 0 or 1 is the first.
    pub luns: std::ops::Range<u16>,
}

/// A way from a controller to a disk of the shelf: a session and a device of its own. The shelf takes both for one nexus, since
/// its disks know ports and not initiators; that a second nexus gets a key of its own is tried in tests/appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The one that is always there.
    First,
    /// One that a case plugs in.
    Second,
}

/// One way to one disk, in the words of QEMU: what it logs in with, and the device that the guest finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWay {
    /// For `-blockdev` and `blockdev-add`.
    pub block: Value,
    /// For `-device` and `device_add`.
    pub device: Value,
}

impl Way {
    /// This way of a controller to the disk in a slot.
    #[must_use]
    pub fn to(self, node: Node, port: &ShelfPort, slot: u16) -> DiskWay {
        let block = json!({
            "driver": "iscsi",
            "node-name": self.block(slot),
            "transport": "tcp",
            "portal": port.portal,
            "target": port.target,
            "lun": port.luns.start + slot,
            "initiator-name": format!("iqn.2026-01.pollux.lab:{node}"),
            "timeout": 30,
            "cache": { "direct": true },
        });
        let device = json!({
            "driver": "scsi-block",
            "id": self.device(slot),
            "bus": "shelf.0",
            "drive": self.block(slot),
            "channel": 0,
            "scsi-id": u8::from(self == Self::Second),
            "lun": slot,
            "rerror": "report",
            "werror": "report",
        });
        DiskWay { block, device }
    }

    /// How QEMU calls the device.
    #[must_use]
    pub fn device(self, slot: u16) -> String {
        format!("{}-device", self.block(slot))
    }

    /// How QEMU calls what is behind it.
    #[must_use]
    pub fn block(self, slot: u16) -> String {
        match self {
            Self::First => format!("disk{slot}"),
            Self::Second => format!("disk{slot}-second"),
        }
    }
}

/// Where the files of a machine are, and what it is booted from.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    /// The machine's own folder.
    pub own: &'a Path,
    /// The folder of the switch.
    pub switch: &'a Path,
    /// Image, kernel and first file system.
    pub root: &'a Path,
    /// See [`Places::root`].
    pub kernel: &'a Path,
    /// See [`Places::root`].
    pub initrd: &'a Path,
}

/// What a machine is made of, without what differs from lab to lab: two machines of one shape can go on from the same memory.
#[must_use]
pub fn shape(node: Node) -> Vec<String> {
    let nowhere = Path::new("/");
    let places = Places {
        own: nowhere,
        switch: nowhere,
        root: nowhere,
        kernel: nowhere,
        initrd: nowhere,
    };
    let port = ShelfPort {
        portal: String::new(),
        target: String::new(),
        luns: 0..crate::shelf::DATA + crate::shelf::QUORUM,
    };
    arguments(node, &places, node.is_controller().then_some(&port), 0, None)
}

/// Arguments of the QEMU of a machine (qemu(1)). `ssh_port`: port of the loopback that leads to its sshd; `tsc_khz`: how fast
/// this machine's clock runs, so that the guest need not find out on a processor that is not its own.
#[must_use]
pub fn arguments(
    node: Node,
    places: &Places<'_>,
    shelf: Option<&ShelfPort>,
    ssh_port: u16,
    tsc_khz: Option<u64>,
) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    let show = |path: &Path| path.display().to_string();
    let own = |name: &str| show(&places.own.join(name));
    for (name, value) in [
        ("-name", format!("lab-{node}")),
        ("-machine", "q35,vmport=off,i8042=off".into()),
        // One processor, emulated by a thread of its own.
        ("-accel", "tcg,thread=multi".into()),
        ("-cpu", "max".into()),
        // One processor, and a board that could have another: an emulated one that is alone for ever leaves out the barriers
        // of locked instructions (`CF_PARALLEL`), which its devices, in another thread, need. Interrupts get lost without.
        ("-smp", "1,maxcpus=2".into()),
        ("-m", format!("{MEMORY_MIB}M")),
        ("-display", "none".into()),
        ("-rtc", "base=utc,clock=host".into()),
    ] {
        add(name, value);
    }
    let tsc = tsc_khz.map_or(String::new(), |khz| format!(" tsc_early_khz={khz}"));
    add("-kernel", show(places.kernel));
    add("-initrd", show(places.initrd));
    add(
        "-append",
        format!(
            "console=ttyS0 loglevel=5 net.ifnames=0 panic=1 audit=0 mitigations=off no_timer_check tsc=reliable{tsc} \
             systemd.show_status=error"
        ),
    );
    add(
        "-chardev",
        format!("file,id=console,append=on,path={}", own("console.log")),
    );
    add("-serial", "chardev:console".into());
    add("-qmp", format!("unix:{},server=on,wait=off", own("qmp.sock")));
    add("-device", "virtio-rng-pci".into());
    // A guest's flush reaches this process and no further: what a power cut takes is what the guest had not written.
    let disk = |id: &str, path: String, read_only: bool| {
        let locking = if read_only { ",file.locking=off" } else { "" };
        format!(
            "driver=raw,node-name={id},read-only={},cache.no-flush=on,file.driver=file,file.filename={path}{locking}",
            if read_only { "on" } else { "off" }
        )
    };
    add("-blockdev", disk("image", show(places.root), true));
    add("-device", "virtio-blk-pci,drive=image".into());
    add("-blockdev", disk("own", own(OWN_DISK), false));
    add("-device", "virtio-blk-pci,drive=own".into());
    if node.is_controller() {
        add("-blockdev", disk("state", own(STATE_DISK), false));
        add("-device", "virtio-blk-pci,drive=state".into());
    }
    add(
        "-netdev",
        format!("user,id=lab,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
    );
    add(
        "-device",
        format!(
            "virtio-net-pci,netdev=lab,id=nic-lab,mac={},romfile=",
            node.mac(0)
        ),
    );
    for (nic, segment) in (1..).zip(node.segments()) {
        let name = segment.as_str();
        let end = |name: String| show(&places.switch.join(name));
        add(
            "-netdev",
            format!(
                "dgram,id={name},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                end(machine_end(*segment, node)),
                end(switch_end(*segment, node))
            ),
        );
        add(
            "-device",
            format!(
                "virtio-net-pci,netdev={name},id=nic-{name},mac={},romfile=",
                node.mac(nic)
            ),
        );
    }
    if node.is_controller() {
        add("-device", "i6300esb".into());
        add("-action", "watchdog=reset".into());
    }
    if let Some(port) = shelf {
        add("-device", "virtio-scsi-pci,id=shelf".into());
        for slot in 0..u16::try_from(port.luns.len()).unwrap_or(u16::MAX) {
            let way = Way::First.to(node, port, slot);
            add("-blockdev", way.block.to_string());
            add("-device", way.device.to_string());
        }
    }
    words.extend(["-nodefaults".into(), "-no-user-config".into()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(node: Node, shelf: Option<&ShelfPort>) -> Vec<String> {
        let places = Places {
            own: Path::new("/lab/own"),
            switch: Path::new("/lab/switch"),
            root: Path::new("/lab/root.img"),
            kernel: Path::new("/lab/vmlinux"),
            initrd: Path::new("/lab/initrd.img"),
        };
        arguments(node, &places, shelf, 2222, Some(2_596_138))
    }

    fn count(words: &[String], start: &str) -> usize {
        words.iter().filter(|word| word.contains(start)).count()
    }

    #[test]
    fn a_controller_has_two_legs_a_front_every_disk_and_a_watchdog() {
        let shelf = ShelfPort {
            portal: "127.0.0.1:3270".into(),
            target: "iqn.2026-01.pollux.lab:shelf.a".into(),
            luns: 1..8,
        };
        let words = words(Node::A, Some(&shelf));
        assert_eq!(count(&words, "dgram,"), 3);
        assert_eq!(count(&words, r#""driver":"iscsi""#), 7);
        assert_eq!(count(&words, r#""driver":"scsi-block""#), 7);
        assert_eq!(count(&words, "i6300esb"), 1);
        let seventh = |word: &String| {
            let word: Value = serde_json::from_str(word).unwrap_or_default();
            word["lun"] == 7 && word["initiator-name"] == "iqn.2026-01.pollux.lab:a"
        };
        assert!(words.iter().any(seventh));
        assert!(words.iter().any(|word| word.contains("tsc_early_khz=2596138")));
    }

    #[test]
    fn a_second_way_is_another_device_for_the_same_unit() {
        let port = ShelfPort {
            portal: String::new(),
            target: String::new(),
            luns: 1..8,
        };
        let [first, second] = [Way::First, Way::Second].map(|way| way.to(Node::A, &port, 2));
        assert_eq!(first.block["lun"], second.block["lun"]);
        assert_ne!(first.block["node-name"], second.block["node-name"]);
        for key in ["id", "drive", "scsi-id"] {
            assert_ne!(first.device[key], second.device[key], "{key}");
        }
        assert_eq!(second.device["drive"], second.block["node-name"]);
    }

    #[test]
    fn a_host_has_neither_legs_nor_disks() {
        let words = words(Node::Host, None);
        assert_eq!(count(&words, "dgram,"), 1);
        assert_eq!(count(&words, "iscsi"), 0);
        assert_eq!(count(&words, "i6300esb"), 0);
    }

    #[test]
    fn no_two_interfaces_have_one_address() {
        let mut seen = std::collections::BTreeSet::new();
        for node in Node::ALL {
            for word in words(node, None) {
                if let Some((_, mac)) = word.split_once("mac=") {
                    assert!(seen.insert(mac.to_owned()), "{mac} twice");
                }
            }
        }
        assert_eq!(seen.len(), 4 + 4 + 2);
        assert!(seen.iter().any(|seen| seen.starts_with(&Node::B.front_mac())));
    }

    #[test]
    fn names_lead_back_to_their_nodes() {
        for node in Node::ALL {
            assert_eq!(Node::named(node.as_str()), Some(node));
        }
        assert_eq!(Node::named("c"), None);
        assert_eq!(Segment::Leg0.nodes().collect::<Vec<_>>(), [Node::A, Node::B]);
        assert_eq!(Segment::Front.nodes().count(), 3);
    }
}
