//! Namespaces, links and addresses on a real kernel, without root.
//!
//! Builds what the enclosure builds, in small: two networks joined by a cable through a hub in a third. Says SKIPPED
//! and why where the kernel refuses namespaces to this user; that is not a failure of the code.

use pollux_platform::{
    announce::Announcer,
    netlink::{BridgeKind, IfAddr, LinkEvent, LinkWatch, Netlink, NetlinkError, Veth},
    netns::{self, GroupSignal, NetNs, Spawner, signal_group},
};
use std::{
    net::{IpAddr, UdpSocket},
    process::Command,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(10);

fn main() {
    // This program is its own runner (it must have one thread), so it answers for itself when it is asked for a list.
    if std::env::args().any(|argument| argument == "--list") {
        if !std::env::args().any(|argument| argument == "--ignored") {
            println!("network: test");
        }
        return;
    }
    if let Err(error) = netns::enter_new() {
        println!("SKIPPED network: {error}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(6 * LIMIT, async {
            cable().await;
            processes().await;
        })
        .await
        .expect("the whole test is bounded");
    });
    println!("network: ok");
}

fn addr(text: &str) -> IfAddr {
    text.parse().unwrap()
}

async fn wait_for_carrier(watch: &mut LinkWatch, name: &str, carrier: bool) {
    tokio::time::timeout(LIMIT, async {
        loop {
            match watch.next().await.expect("the watch stays open") {
                LinkEvent::Present(link) if link.name == name && link.carrier == carrier => return,
                _ => {}
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{name}: carrier {carrier} was never reported"));
}

/// A datagram from one network arrives in the other, or does not within the limit.
fn passes(from: &NetNs, to: &NetNs, to_address: &str, limit: Duration) -> bool {
    let receiver = to.run(|| UdpSocket::bind((to_address, 0))).unwrap().unwrap();
    let sender = from.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let deadline = std::time::Instant::now() + limit;
    let mut buffer = [0; 16];
    while std::time::Instant::now() < deadline {
        // Not every send succeeds while a link is coming up.
        let _ = sender.send_to(b"ping", receiver.local_addr().unwrap());
        if receiver.recv(&mut buffer).is_ok() {
            return true;
        }
    }
    false
}

async fn cable() {
    let (a, b) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let (middle, in_a, in_b) = (
        Netlink::open().unwrap(),
        Netlink::open_in(&a).unwrap(),
        Netlink::open_in(&b).unwrap(),
    );
    let mut watch = LinkWatch::open_in(&a).unwrap();

    middle.add_bridge("hub", BridgeKind::Hub, None).await.unwrap();
    for (name, ns) in [("to-a", &a), ("to-b", &b)] {
        middle
            .add_veth(Veth {
                name,
                group: 7,
                peer: "leg0",
                peer_network: ns,
                peer_mac: None,
            })
            .await
            .unwrap();
        middle.attach(name, Some("hub")).await.unwrap();
        middle.set_up(name, true).await.unwrap();
    }
    let mac = [2, 0, 0, 0, 1, 1];
    for (inside, mac, address) in [(&in_a, Some(mac), "10.77.0.1/24"), (&in_b, None, "10.77.0.2/24")] {
        inside.add_bridge("ic0", BridgeKind::Hub, mac).await.unwrap();
        inside.attach("leg0", Some("ic0")).await.unwrap();
        inside.set_up("leg0", true).await.unwrap();
        assert!(inside.add_address("ic0", addr(address)).await.unwrap(), "new");
        assert!(
            !inside.add_address("ic0", addr(address)).await.unwrap(),
            "there already"
        );
    }
    assert_eq!(
        in_a.link("ic0").await.unwrap().mac,
        Some(mac),
        "a port must not change the bridge's own address"
    );
    wait_for_carrier(&mut watch, "leg0", true).await;
    assert!(
        passes(&a, &b, "10.77.0.2", LIMIT) && passes(&b, &a, "10.77.0.1", LIMIT),
        "a whole cable"
    );

    // Broken towards b, both ends lit.
    middle.set_port_egress("to-b", false).await.unwrap();
    assert!(
        !passes(&a, &b, "10.77.0.2", Duration::from_millis(300)),
        "nothing may arrive at b"
    );
    assert!(in_a.link("leg0").await.unwrap().carrier);
    middle.set_port_egress("to-b", true).await.unwrap();
    assert!(passes(&a, &b, "10.77.0.2", LIMIT));

    // Cut: the end in a sees it, and its own switch stays on.
    middle.set_up("to-a", false).await.unwrap();
    wait_for_carrier(&mut watch, "leg0", false).await;
    let leg = in_a.link("leg0").await.unwrap();
    assert!(leg.up && !leg.carrier, "{leg:?}");
    middle.set_up("to-a", true).await.unwrap();
    wait_for_carrier(&mut watch, "leg0", true).await;
    assert!(passes(&a, &b, "10.77.0.2", LIMIT));

    // Floating addresses, both families.
    let announcer = a.run(Announcer::open).unwrap().unwrap();
    for text in ["10.78.0.50/24", "fd00::50/64"] {
        let address = addr(text);
        assert!(in_a.add_address("ic0", address).await.unwrap());
        assert!(in_a.addresses("ic0").await.unwrap().contains(&address));
        let link = in_a.link("ic0").await.unwrap();
        announcer.announce(&link, address.address).unwrap();
        assert!(in_a.remove_address("ic0", address).await.unwrap());
        assert!(
            !in_a.remove_address("ic0", address).await.unwrap(),
            "gone already"
        );
    }
    assert_eq!(in_a.addresses("ic0").await.unwrap(), [addr("10.77.0.1/24")]);

    assert!(matches!(in_a.link("leg7").await, Err(NetlinkError::NoLink(name)) if name == "leg7"));
    let error = in_a.set_up("leg7", true).await.unwrap_err().to_string();
    assert!(error.contains("set up leg7"), "{error}");
    assert!(middle.delete_link("to-a").await.unwrap() && !middle.delete_link("to-a").await.unwrap());
    assert!(
        matches!(in_a.link("leg0").await, Err(NetlinkError::NoLink(_))),
        "both ends of a cable go together"
    );
}

async fn processes() {
    let network = NetNs::create().unwrap();
    let inside = Netlink::open_in(&network).unwrap();
    inside.add_bridge("mark", BridgeKind::Hub, None).await.unwrap();
    let spawner = Spawner::start().unwrap();

    let mut look = Command::new("/bin/sh");
    look.args(["-c", "grep -q mark: /proc/net/dev"]);
    let mut child = spawner.spawn(look, Some(&network)).await.unwrap();
    assert!(
        child.wait().await.unwrap().success(),
        "the child must see the network that it was put in"
    );

    // The whole group dies, not only its leader.
    let mut tree = Command::new("/bin/sh");
    tree.args(["-c", "sleep 600 & echo $!; wait"])
        .stdout(std::process::Stdio::piped());
    let mut child = spawner.spawn(tree, Some(&network)).await.unwrap();
    let leader = child.id().unwrap();
    let mut grandchild = String::new();
    let mut output = tokio::io::BufReader::new(child.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut output, &mut grandchild)
        .await
        .unwrap();
    assert!(signal_group(leader, GroupSignal::Kill).unwrap());
    child.wait().await.unwrap();
    let process = format!("/proc/{}/stat", grandchild.trim());
    tokio::time::timeout(LIMIT, async {
        // Reaped by whoever inherits it: gone or a zombie, but no longer running.
        while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the grandchild dies with the group");
    assert!(signal_group(1, GroupSignal::Kill).is_err() && signal_group(0, GroupSignal::Kill).is_err());

    assert!(
        "10.78.0.50"
            .parse::<IfAddr>()
            .unwrap_err()
            .contains("no prefix length")
    );
    assert!("10.78.0.50/33".parse::<IfAddr>().unwrap_err().contains("1 to 32"));
    assert_eq!(addr("fd00::1/64").address, "fd00::1".parse::<IpAddr>().unwrap());
}
