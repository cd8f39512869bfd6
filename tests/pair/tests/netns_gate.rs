//! S7 where the kernel answers: the shipped heartbeatd stands still, and what it does not know of is silent all the same.
//!
//! The userspace target looks at the lease before each reply, so it proves nothing here. Beside it, in the controller's
//! network, stands what a target of the kernel is to heartbeat: something that answers and asks nobody.
//!
//! Needs root, to be in the networks of the enclosure; says SKIPPED otherwise.

use pollux_api::chassis::DaemonAction;
use pollux_api::id::ControllerId::{self, A, B};
use pollux_networks::{Answer, answer_tcp, is_root, of_process};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};
use pollux_platform::netns::NetNs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// A port that the gate holds and none of our daemons has: that of NFS.
const PORT: u16 = 2049;
/// The lease of the `ci` profile, which every grant before that moment is within.
const LEASE: Duration = Duration::from_secs(3);

/// Answers one letter to each byte that comes, at every address of a controller.
fn answer(controller: &NetNs, letter: u8) {
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT);
    answer_tcp(controller, everywhere, Answer::Letter(letter));
}

/// A new connection from the hosts, and one answer on it.
fn ask(hosts: &NetNs, address: IpAddr, within: Duration) -> std::io::Result<(TcpStream, u8)> {
    pollux_networks::ask(Some(hosts), SocketAddr::new(address, PORT), within)
}

/// Everybody who says that an address is his, by his hardware address.
fn claims(hosts: &NetNs, address: IpAddr) -> Vec<String> {
    let ask = || {
        Command::new("/usr/bin/arping")
            .args(["-b", "-c", "3", "-w", "3", "-I", "hosts", &address.to_string()])
            .output()
    };
    let output = hosts
        .run(ask)
        .expect("in the network of the hosts")
        .expect("arping");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<String> = text
        .split(['[', ']'])
        .filter(|part| part.matches(':').count() == 5)
        .map(str::to_lowercase)
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What the chassis gives the front port of a controller.
fn card(controller: ControllerId) -> &'static str {
    match controller {
        A => "02:70:6c:78:02:01",
        B => "02:70:6c:78:02:02",
    }
}

#[test]
fn netns_what_the_kernel_answers_is_held_when_heartbeat_stands_still() -> Result<()> {
    if !is_root() {
        eprintln!("SKIPPED: only root may enter the networks of the enclosure");
        return Ok(());
    }
    let Some(mut stage) = Stage::set(|plan| plan.array.gate = true) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let floating = stage
        .pool_of(A)
        .address
        .split('/')
        .next()
        .unwrap_or_default()
        .parse()
        .expect("an address");
    let portal: IpAddr = pollux_chassis::network::front_address(A);
    let status = stage.array.enclosure_status()?;
    let hosts = of_process(status.pid);
    let of = |controller| {
        let daemon = &status.controllers[&controller].daemons["heartbeatd"];
        of_process(daemon.pid.expect("heartbeat runs"))
    };
    let (a, b) = (of(A), of(B));
    answer(&a, b'a');
    answer(&b, b'b');

    let (mut open, letter) = ask(&hosts, floating, MOVE).expect("a answers while it has its lease");
    assert_eq!(letter, b'a');
    let has_arping = std::path::Path::new("/usr/bin/arping").exists();
    if has_arping {
        assert_eq!(claims(&hosts, floating), [card(A)]);
    } else {
        eprintln!("not checked: who answers for the address (Debian package iputils-arping)");
    }

    // Nothing but the lease may keep a from answering.
    stage.array.bmc(B, false)?;
    stage.array.watchdog(A, false)?;
    let stopped = stage.array.daemon(A, "heartbeatd", DaemonAction::Stop)?;
    let still = Instant::now();
    open.set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a socket");
    let mut last = None;
    while still.elapsed() < 2 * LEASE {
        let _ = open.write(b"?");
        match open.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => last = Some(still.elapsed()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    eprintln!("the last reply came {last:?} after heartbeat stood still");
    assert!(last.is_none_or(|last| last < LEASE), "{last:?}");
    // Neither at the address that never moves nor at the one that is about to.
    assert!(ask(&hosts, portal, Duration::from_millis(500)).is_err());

    stage.wait_taken(B, alpha)?;
    wait_for("b answers at the floating address", MOVE, || {
        match ask(&hosts, floating, Duration::from_millis(500)) {
            Ok((_, letter)) => that(letter == b'b', || "a answers".into()),
            Err(error) => Err(error.to_string()),
        }
    })?;
    // a's kernel still has the address, and a's target is alive; nobody is told of the one or the other.
    let addresses = stage.array.addresses(A).expect("addressd of a lives");
    assert!(
        addresses.addresses.iter().any(|up| up.pool == Some(alpha)),
        "{addresses:?}"
    );
    if has_arping {
        assert_eq!(claims(&hosts, floating), [card(B)], "a second address");
    }
    for _ in 0..5 {
        let (_, letter) = ask(&hosts, floating, MOVE).expect("b serves");
        assert_eq!(letter, b'b');
    }

    stage.array.daemon(A, "heartbeatd", DaemonAction::Continue)?;
    stage.wait_progress(200, MOVE)?;
    // It starts itself again. Only then: b has never seen its fence work, and would cut what it can reach again.
    stage.array.wait_joined(MOVE + BOOT)?;
    stage.array.heal()?;
    stage.judge(stopped.began_ns)?.expect_clean();
    Ok(())
}
