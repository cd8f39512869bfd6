//! Addresses that move between two controllers' networks, seen from a host that talks to them all the time.
//!
//! Says SKIPPED and why where the kernel refuses namespaces to this user.

use pollux_address::{
    floating::{Access, Floating, Lease},
    plan::Owner,
};
use pollux_api::{error::Code, id::PoolId};
use pollux_networks::{Answer, Cable, Panel, addr, alone, answer_udp, computer};
use pollux_platform::{
    announce::Announcer,
    lease,
    netlink::{BridgeKind, LinkEvent, LinkWatch, Netlink},
    netns::NetNs,
    tickle::Tickler,
};
use std::{
    io::{ErrorKind, Read},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(20);
const P: PoolId = PoolId::from_bytes([1; 16]);
const Q: PoolId = PoolId::from_bytes([2; 16]);

fn main() {
    alone("floating", 3 * LIMIT, || Ok(()), async {
        let net = Net::build().await;
        move_between_controllers(&net).await;
        crash_and_adopt(&net).await;
        refusals(&net).await;
        the_dead_are_answered_for(&net).await;
    });
}

/// Two controllers on a switch with the host, which is where this test runs.
struct Net {
    a: NetNs,
    b: NetNs,
    host: Panel,
    dir: tempfile::TempDir,
    /// The lease of both controllers.
    granted: lease::Writer,
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

impl Net {
    async fn build() -> Self {
        let host = Panel::here();
        let (mac, addresses) = (Some([2, 0, 0, 0, 0, 254]), ["10.78.0.254/24", "fd00::fe/64"]);
        host.bridge("hosts", BridgeKind::Switch, mac, &addresses).await;
        let (a, b) = (computer(), computer());
        for (name, computer, own) in [("to-a", &a, "10.78.0.1/24"), ("to-b", &b, "10.78.0.2/24")] {
            host.cable(Cable {
                name,
                bridge: "hosts",
                computer,
                end: "host0",
                addresses: &[own],
            })
            .await;
        }
        let dir = tempfile::tempdir().unwrap();
        let granted = lease::Writer::open(&dir.path().join("lease")).unwrap();
        granted.grant(u64::MAX, 1);
        Self {
            a,
            b,
            host,
            dir,
            granted,
        }
    }

    fn lease_path(&self) -> std::path::PathBuf {
        self.record("lease")
    }

    async fn open(&self, ns: &NetNs, own: &str, record: &Path) -> Floating {
        let access = Access {
            netlink: Netlink::open_in(ns).unwrap(),
            announcer: ns.run(Announcer::open).unwrap().unwrap(),
            tickler: ns.run(Tickler::open).unwrap().unwrap(),
            watch: LinkWatch::open_in(ns).unwrap(),
            lease: Lease::new(&self.lease_path()),
        };
        Floating::open(access, "host0", own.parse().unwrap(), record)
            .await
            .unwrap()
    }

    fn record(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

/// Asks an address until `letter` answers; how long that took. A Linux host that is not told goes on asking the old
/// hardware address for at least 8 s (gc_stale, delay 5 s, three probes), so a bound of half of that tells the two apart.
async fn answered_by(address: &str, letter: u8) -> Duration {
    let began = Instant::now();
    let from = if address.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = tokio::net::UdpSocket::bind(from).await.unwrap();
    let mut buffer = [0; 8];
    loop {
        assert!(
            began.elapsed() < LIMIT,
            "{address} is never answered by {}",
            letter as char
        );
        let _ = socket.send_to(b"?", (address, 7)).await;
        let answer = tokio::time::timeout(Duration::from_millis(20), socket.recv(&mut buffer)).await;
        if matches!(answer, Ok(Ok(1))) && buffer[0] == letter {
            return began.elapsed();
        }
    }
}

async fn silent(address: &str) {
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let _ = socket.send_to(b"?", (address, 7)).await;
    let answer = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut [0; 8])).await;
    assert!(
        !matches!(answer, Ok(Ok(_))),
        "{address} is answered after it was lowered"
    );
}

async fn move_between_controllers(net: &Net) {
    let (a, b) = (
        net.open(&net.a, "10.78.0.1", &net.record("move-a")).await,
        net.open(&net.b, "10.78.0.2", &net.record("move-b")).await,
    );
    for (computer, letter) in [(&net.a, b'a'), (&net.b, b'b')] {
        answer_udp(computer, "[::]:7".parse().unwrap(), Answer::Letter(letter));
    }
    let wanted = texts(&["10.78.0.50/24", "fd00::50/64"]);

    let changed = a.raise(P, &wanted).await.unwrap();
    assert_eq!((changed.added.len(), changed.removed.len()), (2, 0));
    assert_eq!(a.raise(P, &wanted).await.unwrap().added.len(), 0, "idempotent");
    for address in ["10.78.0.50", "fd00::50"] {
        answered_by(address, b'a').await;
    }

    // The host has a's hardware address in its table. It must learn b's by being told: its own doubts take seconds.
    for _ in 0..2 {
        for (from, to, letter) in [(&a, &b, b'b'), (&b, &a, b'a')] {
            let lowered = from.lower(Some(Owner::Pool(P))).await.unwrap();
            assert_eq!(lowered.removed, wanted);
            silent("10.78.0.50").await;
            to.raise(P, &wanted).await.unwrap();
            for address in ["10.78.0.50", "fd00::50"] {
                let pause = answered_by(address, letter).await;
                println!(
                    "{address} moved to {} after {} ms",
                    letter as char,
                    pause.as_millis()
                );
            }
        }
    }

    let status = a.status().await;
    assert_eq!((status.interface.as_str(), status.addresses.len()), ("host0", 2));
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = a.status().await;
        if status.addresses.iter().all(|address| address.announcements >= 4) {
            assert!(
                status
                    .addresses
                    .iter()
                    .all(|address| address.announced_after_ms.is_some())
            );
            break;
        }
        assert!(Instant::now() < deadline, "announced again and again: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A cable that comes back is told, too.
    let before = announcements(&a).await;
    replug(net).await;
    let deadline = Instant::now() + LIMIT;
    while announcements(&a).await[0] < before[0] + 3 {
        assert!(
            Instant::now() < deadline,
            "the carrier is back and nobody is told"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // But not by one whose lease is over: the address may be elsewhere by now.
    net.granted.grant(0, 1);
    replug(net).await;
    withholds(&a, 1).await;
    let before = announcements(&a).await;
    // Twice more it was time for both.
    withholds(&a, 4).await;
    assert_eq!(announcements(&a).await, before, "no lease");
    net.granted.grant(u64::MAX, 1);
    let deadline = Instant::now() + LIMIT;
    while announcements(&a).await == before {
        assert!(Instant::now() < deadline, "the lease is back and nobody is told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.lower(None).await.unwrap();
    assert!(a.status().await.addresses.is_empty());
}

/// Takes a's cable out and plugs it in again; a has seen both by then.
async fn replug(net: &Net) {
    let mut watch = LinkWatch::open_in(&net.a).unwrap();
    for up in [false, true] {
        net.host.netlink().set_up("to-a", up).await.unwrap();
        let told = async {
            while !matches!(watch.next().await, Some(LinkEvent::Present(link)) if link.name == "host0" && link.carrier == up)
            {
            }
        };
        tokio::time::timeout(LIMIT, told)
            .await
            .expect("the kernel tells of the cable");
    }
}

/// How often each of the addresses was announced.
async fn announcements(floating: &Floating) -> Vec<u32> {
    let up = floating.status().await.addresses;
    up.iter().map(|address| address.announcements).collect()
}

/// Waits until it was so many times more time to announce an address and it was not done, for want of a lease.
async fn withholds(floating: &Floating, times: u32) {
    let (before, deadline) = (floating.withheld(), Instant::now() + LIMIT);
    while floating.withheld() < before + times {
        assert!(Instant::now() < deadline, "nothing is withheld without a lease");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn crash_and_adopt(net: &Net) {
    let record = net.record("crash");
    let kernel = Netlink::open_in(&net.a).unwrap();
    let first = net.open(&net.a, "10.78.0.1", &record).await;
    first
        .raise(P, &texts(&["10.78.0.51/24", "10.78.0.52/24"]))
        .await
        .unwrap();
    // As after a SIGKILL: nothing is said, the kernel keeps the addresses. Meanwhile the array has put one up that it does
    // not remember, somebody else another one, and one was taken away.
    drop(first);
    kernel.add_address("host0", addr("10.78.0.98/24")).await.unwrap();
    let marks = kernel.own_addresses("host0").await.unwrap();
    let can_mark = marks.contains(&addr("10.78.0.98/24"));
    let by_hand = || {
        std::process::Command::new("ip")
            .args(["address", "add", "10.78.0.99/24", "dev", "host0"])
            .status()
    };
    let theirs = net.a.run(by_hand).unwrap().is_ok_and(|status| status.success());
    kernel
        .remove_address("host0", addr("10.78.0.52/24"))
        .await
        .unwrap();

    let second = net.open(&net.a, "10.78.0.1", &record).await;
    let mut up = kernel.addresses("host0").await.unwrap();
    up.sort();
    let mut expected = vec![addr("10.78.0.1/24"), addr("10.78.0.51/24")];
    if !can_mark {
        println!("not checked: this kernel does not keep who has put an address up");
        expected.push(addr("10.78.0.98/24"));
    }
    if theirs {
        expected.push(addr("10.78.0.99/24"));
    } else {
        println!("not checked: the address of somebody else; ip is not installed");
    }
    assert_eq!(
        up, expected,
        "adopted; what is nobody's is gone, what is somebody's stays"
    );
    for left in &expected[2..] {
        kernel.remove_address("host0", *left).await.unwrap();
    }
    let status = second.status().await;
    assert_eq!(status.addresses.len(), 1);
    assert_eq!(status.addresses[0].pool, Some(P));
    // Whoever asked for both asks again.
    let again = second
        .raise(P, &texts(&["10.78.0.51/24", "10.78.0.52/24"]))
        .await
        .unwrap();
    assert_eq!(again.added, ["10.78.0.52/24"]);
    second.lower(Some(Owner::Pool(P))).await.unwrap();
    assert_eq!(kernel.addresses("host0").await.unwrap(), [addr("10.78.0.1/24")]);
}

async fn refusals(net: &Net) {
    let record = net.record("refusals");
    let kernel = Netlink::open_in(&net.b).unwrap();
    let b = net.open(&net.b, "10.78.0.2", &record).await;
    b.raise(P, &texts(&["10.78.0.60/24"])).await.unwrap();
    let before = kernel.addresses("host0").await.unwrap();

    let taken = b
        .raise(Q, &texts(&["10.78.0.61/24", "10.78.0.60/24"]))
        .await
        .unwrap_err();
    assert!(taken.is(Code::Conflict), "{taken}");
    let own = b.raise(Q, &texts(&["10.78.0.2/24"])).await.unwrap_err();
    assert!(own.is(Code::InvalidParams), "{own}");
    // The last one cannot be put up: the record's directory is gone.
    let hidden = net.record("hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::rename(&record, hidden.join("record")).unwrap();
    std::fs::create_dir(&record).unwrap();
    let unrecorded = b.raise(Q, &texts(&["10.78.0.61/24"])).await.unwrap_err();
    assert!(
        unrecorded.is(Code::Failed) && unrecorded.to_string().contains("refusals"),
        "{unrecorded}"
    );
    assert_eq!(
        kernel.addresses("host0").await.unwrap(),
        before,
        "what is refused changes nothing"
    );
    std::fs::remove_dir(&record).unwrap();

    std::fs::write(&record, "rubbish").unwrap();
    let access = Access {
        netlink: Netlink::open_in(&net.b).unwrap(),
        announcer: net.b.run(Announcer::open).unwrap().unwrap(),
        tickler: net.b.run(Tickler::open).unwrap().unwrap(),
        watch: LinkWatch::open_in(&net.b).unwrap(),
        lease: Lease::new(&net.lease_path()),
    };
    let damaged = Floating::open(access, "host0", "10.78.0.2".parse().unwrap(), &record)
        .await
        .unwrap_err();
    assert!(damaged.to_string().contains("refusals"), "{damaged}");
}

/// A host with a connection on which it waits and sends nothing learns that a's power is gone; and a has its address
/// again when it is back.
async fn the_dead_are_answered_for(net: &Net) {
    let portal: SocketAddr = "10.78.0.1:3260".parse().unwrap();
    let listener = net
        .a
        .run(|| std::net::TcpListener::bind(portal))
        .unwrap()
        .unwrap();
    let mut idle = std::net::TcpStream::connect(portal).unwrap();
    let (_server_end, host) = listener.accept().unwrap();
    let b = net.open(&net.b, "10.78.0.2", &net.record("stand-in")).await;
    net.host.netlink().set_up("to-a", false).await.unwrap();

    let changed = b.stand_in(portal, &[host]).await.unwrap();
    assert_eq!(changed.added, ["10.78.0.1/32"]);
    assert_eq!(
        b.stand_in(portal, &[host]).await.unwrap().added,
        [""; 0],
        "idempotent"
    );
    idle.set_read_timeout(Some(LIMIT)).unwrap();
    let ended = tokio::task::spawn_blocking(move || idle.read(&mut [0; 1]))
        .await
        .unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let refused = tokio::net::TcpStream::connect(portal).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(b.status().await.addresses[0].pool, None);
    // What it stands in for is nobody's to serve at.
    let pool = b.raise(P, &texts(&["10.78.0.1/24"])).await.unwrap_err();
    assert!(pool.is(Code::Conflict), "{pool}");

    // b's daemon is killed and started: it still answers.
    drop(b);
    let b = net.open(&net.b, "10.78.0.2", &net.record("stand-in")).await;
    assert_eq!(b.status().await.addresses[0].address, "10.78.0.1/32");

    net.host.netlink().set_up("to-a", true).await.unwrap();
    assert_eq!(
        b.lower(Some(Owner::Partner)).await.unwrap().removed,
        ["10.78.0.1/32"]
    );
    let back = net.open(&net.a, "10.78.0.1", &net.record("back")).await;
    let began = Instant::now();
    while tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(portal))
        .await
        .is_ok_and(|connected| connected.is_err())
    {
        assert!(began.elapsed() < LIMIT, "a is not reached at its own address");
    }
    drop((back, listener));
}
