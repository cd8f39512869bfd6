//! The gate on a real kernel: what answers a host when heartbeat stands still, and what does not.
//!
//! A controller is a network of its own with a floating address beside its own; in it runs what knows nothing of a lease,
//! as targets of the kernel do: something that echoes. The refresher is a process of its own, this program again, so that
//! it can be stopped while the echo lives. The judges are the sockets of the hosts and, where it is installed, nft(8).
//!
//! Says SKIPPED and why where the kernel refuses namespaces to this user, or has no nf_tables.

use pollux_heartbeat::gate::{Gate, Rules, Tables};
use pollux_networks::{Answer, Cable, Panel, alone, answer_tcp, answer_udp, ask, computer};
use pollux_platform::{
    lease,
    netlink::BridgeKind,
    netns::{GroupSignal, NetNs, Spawner, signal_group},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Tells this program to be the refresher: the path of the lease word.
const REFRESHER: &str = "NETNS_GATE_LEASE";
/// Bound of whatever has to happen.
const LIMIT: Duration = Duration::from_secs(20);
/// The lease of the fast profile.
const LEASE: Duration = Duration::from_secs(1);
/// Between two grants, as between two beats.
const BEAT: Duration = Duration::from_millis(100);
/// So long nothing must come where nothing may come.
const SILENCE: Duration = Duration::from_millis(700);

const OWN: &str = "10.78.0.1";
const FLOATING: &str = "10.78.0.50";
const FLOATING_6: &str = "fd00::50";
const INTERCONNECT: &str = "10.77.0.1";
const PORTAL: u16 = 3260;
const NFS: u16 = 2049;
const NVME: u16 = 4420;
const MANAGEMENT: u16 = 7443;
const FORWARD: u16 = 7711;
const ECHO: u16 = 7;

fn main() {
    if let Some(path) = std::env::var_os(REFRESHER) {
        return refresh(Path::new(&path));
    }
    let ready = || Tables::close_before_all(rules()).map_err(|error| error.to_string());
    alone("netns_gate", 6 * LIMIT, ready, all());
}

fn rules() -> Rules {
    Rules {
        interconnect: "ic0".into(),
        front: "host0".into(),
        own: OWN.parse().unwrap(),
        portal: PORTAL,
    }
}

/// What heartbeat's daemon does with grants, without what decides about them.
fn refresh(path: &Path) {
    let word = lease::Writer::open(path).unwrap();
    let tables = Tables::establish(rules(), word.deadline_ns()).unwrap();
    let (failed, mut hears) = tokio::sync::oneshot::channel();
    let gate = Gate::start(tables, failed).unwrap();
    // Ends with the test, whose process it belongs to.
    loop {
        let until = lease::now_ns() + LEASE.as_nanos() as u64;
        word.grant(until, 1);
        gate.grant(until);
        assert!(hears.try_recv().is_err(), "{:?}", gate.problem());
        std::thread::park_timeout(BEAT);
    }
}

/// A controller, its partner at the interconnect, and two hosts; the first one is where this test runs.
struct Net {
    controller: NetNs,
    partner: NetNs,
    /// Has never asked for any address.
    late: NetNs,
    spawner: Spawner,
    lease: PathBuf,
    _dir: tempfile::TempDir,
}

impl Net {
    async fn build() -> Self {
        let here = Panel::here();
        let mac = Some([2, 0, 0, 0, 0, 254]);
        let hosts = ["10.78.0.254/24", "fd00::fe/64"];
        here.bridge("hosts", BridgeKind::Switch, mac, &hosts).await;
        here.bridge("cable", BridgeKind::Hub, None, &[]).await;
        let [controller, partner, late] = [0; 3].map(|_| computer());
        let own = format!("{OWN}/24");
        let floating = [format!("{FLOATING}/24"), format!("{FLOATING_6}/64")];
        let beside = [&own[..], &floating[0], &floating[1]];
        for (name, bridge, computer, end, addresses) in [
            ("to-controller", "hosts", &controller, "host0", &beside[..]),
            (
                "to-late",
                "hosts",
                &late,
                "eth0",
                &["10.78.0.253/24", "fd00::fd/64"],
            ),
            ("ic-controller", "cable", &controller, "ic0", &["10.77.0.1/24"]),
            ("ic-partner", "cable", &partner, "ic0", &["10.77.0.2/24"]),
        ] {
            here.cable(Cable {
                name,
                bridge,
                computer,
                end,
                addresses,
            })
            .await;
        }
        let dir = tempfile::tempdir().unwrap();
        Self {
            controller,
            partner,
            late,
            spawner: Spawner::start().unwrap(),
            lease: dir.path().join("lease"),
            _dir: dir,
        }
    }

    async fn refresher(&self) -> tokio::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(REFRESHER, &self.lease);
        self.spawner.spawn(command, Some(&self.controller)).await.unwrap()
    }

    /// What nft(8) says of the gate, where it is installed.
    fn listed(&self) -> Option<String> {
        self.nft(&["list", "ruleset"])
    }

    fn nft(&self, arguments: &[&str]) -> Option<String> {
        let run = || Command::new("/usr/sbin/nft").args(arguments).output();
        match self.controller.run(run).unwrap() {
            Ok(output) => {
                let text = [&output.stdout[..], &output.stderr].concat();
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("nft: {error}"),
        }
    }
}

/// Echoes what comes to a port of an address, over TCP and UDP. A socket for each address: from one for all, answers to datagrams
/// would leave under whichever address the kernel likes.
fn echo(network: &NetNs, address: &str, port: u16) {
    let socket = SocketAddr::new(address.parse().unwrap(), port);
    answer_tcp(network, socket, Answer::Echo);
    answer_udp(network, socket, Answer::Echo);
}

/// Asks until there is an answer, for so long: by a connection to the portal, which only TCP has, by datagrams elsewhere.
fn answered(from: Option<&NetNs>, address: &str, port: u16, within: Duration) -> bool {
    let target: IpAddr = address.parse().unwrap();
    if port == PORTAL {
        return ask(from, SocketAddr::new(target, port), within).is_ok();
    }
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let bind = || UdpSocket::bind(any).unwrap();
    let socket = match from {
        Some(network) => network.run(bind).unwrap(),
        None => bind(),
    };
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        // Not every send succeeds: a neighbour that does not answer is an error sooner or later.
        let _ = socket.send_to(b"?", (target, port));
        if socket.recv(&mut [0; 8]).is_ok() {
            return true;
        }
    }
    false
}

fn answers(address: &str, port: u16) {
    assert!(
        answered(None, address, port, LIMIT),
        "{address} port {port} is silent"
    );
}

fn is_silent(address: &str, port: u16) {
    assert!(
        !answered(None, address, port, SILENCE),
        "{address} port {port} answers without a lease"
    );
}

fn connect(address: &str, port: u16) -> TcpStream {
    let stream = TcpStream::connect((address, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream
}

/// Writes bytes and reads what comes back until nothing has come for so long, or until the first one if none is given;
/// when the last one came.
fn talk(stream: &mut TcpStream, silent_for: Option<Duration>) -> Instant {
    let began = Instant::now();
    let mut last = None;
    loop {
        let _ = stream.write(b"x");
        match stream.read(&mut [0; 64]) {
            Ok(0) => panic!("the connection has ended"),
            Ok(_) => last = Some(Instant::now()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        match (silent_for, last) {
            (None, Some(last)) => return last,
            (Some(silence), _) if last.unwrap_or(began).elapsed() >= silence => return last.unwrap_or(began),
            _ => {}
        }
        assert!(began.elapsed() < LIMIT, "no end of it: last reply {last:?}");
    }
}

/// The state of a process, one letter (proc(5)).
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    after_name.chars().take(1).collect()
}

async fn stop(pid: u32) -> Instant {
    assert!(signal_group(pid, GroupSignal::Stop).unwrap());
    tokio::time::timeout(LIMIT, async {
        while state(pid) != "T" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it stops");
    Instant::now()
}

/// Whether a host knows who has an address: a complete entry of its table (flag 2 of /proc/net/arp, ATF_COM).
fn knows(host: &NetNs, address: &str) -> bool {
    let table = host
        .run(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap())
        .unwrap();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.first() == Some(&address) && fields.get(2) == Some(&"0x2")
    })
}

async fn all() {
    let net = Net::build().await;
    for address in [OWN, FLOATING, FLOATING_6, INTERCONNECT] {
        for port in [PORTAL, NFS, MANAGEMENT, FORWARD, ECHO] {
            echo(&net.controller, address, port);
        }
    }
    no_gate_holds_nothing(&net);
    closed_from_the_start(&net);
    stopped_and_continued(&net).await;
    only_a_reset_gets_out(&net).await;
    killed_and_started(&net).await;
    removed(&net);
}

/// What the other checks find silent does answer when nothing holds it.
fn no_gate_holds_nothing(net: &Net) {
    net.controller.run(|| Tables::remove().unwrap()).unwrap();
    for (address, port) in [(OWN, PORTAL), (OWN, NFS), (FLOATING, ECHO), (FLOATING_6, ECHO)] {
        answers(address, port);
    }
}

/// Before heartbeat has ever run.
fn closed_from_the_start(net: &Net) {
    let close = || Tables::close_before_all(rules()).unwrap();
    net.controller.run(close).unwrap();
    // And again, as a unit that is started twice.
    net.controller.run(close).unwrap();
    held(net);
}

/// What has to be silent without a lease is, and the rest is not.
fn held(net: &Net) {
    for (address, port) in [
        (OWN, PORTAL),
        (OWN, NFS),
        (FLOATING, NFS),
        (FLOATING, ECHO),
        (FLOATING_6, ECHO),
        (FLOATING, MANAGEMENT),
    ] {
        is_silent(address, port);
    }
    answers(OWN, MANAGEMENT);
    answers(OWN, ECHO);
    assert!(
        answered(Some(&net.partner), INTERCONNECT, NFS, LIMIT),
        "the interconnect is never held"
    );
    assert!(answered(Some(&net.partner), INTERCONNECT, FORWARD, LIMIT));
    assert!(
        answered(Some(&net.controller), OWN, PORTAL, LIMIT),
        "nor is what the controller says to itself"
    );
}

async fn stopped_and_continued(net: &Net) {
    let mut refresher = net.refresher().await;
    let pid = refresher.id().unwrap();
    for (address, port) in [(OWN, PORTAL), (OWN, NFS), (FLOATING, NFS), (FLOATING_6, ECHO)] {
        answers(address, port);
    }
    let (mut portal, mut floating) = (connect(OWN, PORTAL), connect(FLOATING, NFS));
    talk(&mut portal, None);
    talk(&mut floating, None);
    if let Some(listed) = net.listed() {
        assert!(
            listed.contains("elements = { ipv4"),
            "nft sees a lease:\n{listed}"
        );
    }

    let stopped = stop(pid).await;
    let last = talk(&mut portal, Some(SILENCE));
    let after = last.saturating_duration_since(stopped);
    println!(
        "the last reply came {} ms after heartbeat stood still",
        after.as_millis()
    );
    assert!(
        after < LEASE,
        "a reply {after:?} after it: the lease was {LEASE:?}"
    );
    let last = talk(&mut floating, Some(SILENCE));
    assert!(last.saturating_duration_since(stopped) < LEASE + SILENCE);
    held(net);

    // A host that does not know the address yet is not told where it is; the one that never moves, it is.
    assert!(answered(Some(&net.late), OWN, ECHO, LIMIT));
    assert!(!answered(Some(&net.late), FLOATING, ECHO, 3 * SILENCE));
    assert!(knows(&net.late, OWN) && !knows(&net.late, FLOATING));
    assert!(!answered(Some(&net.late), FLOATING_6, ECHO, SILENCE));
    let again = net
        .late
        .run(|| TcpStream::connect_timeout(&format!("{OWN}:{PORTAL}").parse().unwrap(), SILENCE))
        .unwrap();
    assert_eq!(again.unwrap_err().kind(), ErrorKind::TimedOut);

    // Nobody else throws the gate away while heartbeat is there, standing or running.
    if let Some(listed) = net.listed() {
        assert!(
            listed.contains("set lease") && !listed.contains("elements"),
            "{listed}"
        );
        if listed.contains("owner") {
            net.nft(&["flush", "ruleset"]);
            held(net);
        } else {
            println!("not checked: this kernel or nft has no tables with an owner");
        }
    } else {
        println!("not judged by nft: it is not installed");
    }

    assert!(signal_group(pid, GroupSignal::Continue).unwrap());
    talk(&mut portal, None);
    talk(&mut floating, None);
    assert!(answered(Some(&net.late), FLOATING, ECHO, LIMIT), "found again");
    refresher.start_kill().unwrap();
    refresher.wait().await.unwrap();
}

/// A connection that ends without a lease: its host hears of a reset, behind data that is held back too, and of no other end.
async fn only_a_reset_gets_out(net: &Net) {
    let socket = SocketAddr::new(OWN.parse().unwrap(), NVME);
    let listener = net.controller.run(|| TcpListener::bind(socket).unwrap()).unwrap();
    let mut refresher = net.refresher().await;
    answers(OWN, PORTAL);
    let mut portal = connect(OWN, PORTAL);
    let [(mut resets, mut ends_so), (mut waits, ends)] = [(); 2].map(|()| {
        let host = connect(OWN, NVME);
        (host, listener.accept().unwrap().0)
    });
    refresher.start_kill().unwrap();
    refresher.wait().await.unwrap();
    talk(&mut portal, Some(SILENCE));

    // Closing a socket that has not been read to its end is a reset (RFC 2525, 2.17), as is closing one without linger.
    resets.write_all(b"?").unwrap();
    ends_so.peek(&mut [0]).unwrap();
    ends_so.write_all(b"held back").unwrap();
    drop((ends_so, ends));
    resets.set_read_timeout(Some(LIMIT)).unwrap();
    let end = resets.read(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    waits.set_read_timeout(Some(SILENCE)).unwrap();
    let end = waits.read(&mut [0; 16]).map_err(|error| error.kind());
    assert!(
        matches!(end, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{end:?} without a lease"
    );
}

/// A heartbeat that is killed leaves a gate that closes by itself; the next one opens it.
async fn killed_and_started(net: &Net) {
    let mut first = net.refresher().await;
    answers(FLOATING, NFS);
    let mut portal = connect(OWN, PORTAL);
    talk(&mut portal, None);
    first.start_kill().unwrap();
    first.wait().await.unwrap();
    talk(&mut portal, Some(SILENCE));
    held(net);

    let mut second = net.refresher().await;
    talk(&mut portal, None);
    // One that is back within the lease goes on with it: it need not be granted anything to be open.
    second.start_kill().unwrap();
    second.wait().await.unwrap();
    let word = lease::Writer::open(&net.lease).unwrap();
    word.grant(lease::now_ns() + 60_000_000_000, 1);
    let open = || Tables::establish(rules(), word.deadline_ns()).unwrap();
    let tables = net.controller.run(open).unwrap();
    answers(FLOATING, NFS);
    drop(tables);
    answers(OWN, PORTAL);
    // And is closed at once when told so: a controller that was replaced.
    let shut = || {
        let tables = Tables::establish(rules(), word.deadline_ns()).unwrap();
        let (failed, _hears) = tokio::sync::oneshot::channel();
        Gate::start(tables, failed).unwrap().grant(0);
    };
    net.controller.run(shut).unwrap();
    talk(&mut portal, Some(SILENCE));
    held(net);
}

fn removed(net: &Net) {
    net.controller.run(|| Tables::remove().unwrap()).unwrap();
    answers(OWN, PORTAL);
    answers(FLOATING, ECHO);
    net.controller
        .run(|| Tables::remove().expect("nothing there is no error"))
        .unwrap();
}
