//! Cables: who is at the end of one, and what a pulled one takes with it.

use crate::support::*;
use pollux_api::chassis::DiskFault;
use pollux_api::id::DiskIndex;
use pollux_host::scsi::Status;
use std::time::Instant;

#[test]
fn a_pulled_cable_ends_what_is_under_way_and_a_plugged_one_serves_again() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    assert_eq!(a.write(0, 0, 1, 1, true), Status::Good);
    lab.fault(0, Some(A), DiskFault::Stuck);
    let write = a.begin_write(0, 0, 2);
    assert_eq!(a.0.end(write, WHILE).expect("the session stands"), None);
    lab.press(|panel| async move { panel.disk_path(A, None, false).await })
        .expect("pulled");
    let status = lab.press(|panel| async move { panel.status().await });
    assert!(!status.ports[&A].connected && status.ports[&A].sessions.is_empty());
    assert!(a.0.is_lost(SOON));
    assert!(
        Host::log_in(&lab.login(A, &name(A), 1)).is_err(),
        "nobody listens"
    );
    lab.fault(0, Some(A), DiskFault::None);
    assert_eq!(b.read(0, 0), (Status::Good, 1), "nor does it come later");
    lab.press(|panel| async move { panel.disk_path(A, None, true).await })
        .expect("plugged");
    let mut a = lab.host(A);
    assert_eq!(a.write(0, 0, 1, 3, true), Status::Good);
    assert_eq!(b.read(0, 0), (Status::Good, 3));
}

#[test]
fn one_disk_is_out_of_reach_of_one_port() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    let cut = |connected| {
        let disk = Some(DiskIndex::new(1));
        lab.press(move |panel| async move { panel.disk_path(A, disk, connected).await })
            .expect("such a disk");
    };
    cut(false);
    assert_eq!(a.write(1, 0, 1, 1, false), sense(0xb, 0x0800));
    assert_eq!(a.ready(1), sense(0xb, 0x0800));
    assert_eq!((a.ready(0), b.ready(1)), (Status::Good, Status::Good));
    cut(true);
    assert_eq!(a.write(1, 0, 1, 1, false), Status::Good);
    let wrong = Some(DiskIndex::new(9));
    let refused = lab.press(|panel| async move { panel.disk_path(A, wrong, false).await });
    assert!(refused.expect_err("no such disk").to_string().contains("disk-09"));
}

#[test]
fn a_port_has_one_initiator_with_as_many_sessions_as_it_likes() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let mut sessions: Vec<Host> = (1..=8)
        .map(|isid| Host::log_in(&lab.login(A, &name(A), isid)).expect("the same initiator"))
        .collect();
    let refused = Host::log_in(&lab.login(A, &name(B), 1)).map(drop);
    // 0202h: class initiator error, authorization failure.
    assert!(refused.expect_err("another one").contains("(514)"));
    let mut other = Host::log_in(&lab.login(B, &name(B), 1)).expect("the other port is free");
    assert_eq!(
        (sessions[7].ready(0), other.ready(0)),
        (Status::Good, Status::Good)
    );
    for session in sessions {
        session.0.log_out(SOON);
    }
    // The answer to a logout leaves before the session has.
    let end = Instant::now() + SOON;
    let mut left = usize::MAX;
    while left > 0 && Instant::now() < end {
        let status = lab.press(|panel| async move { panel.status().await });
        left = status.ports[&A].sessions.len();
    }
    assert_eq!(left, 0);
    assert!(
        Host::log_in(&lab.login(A, &name(B), 1)).is_ok(),
        "whoever is plugged in"
    );
}
