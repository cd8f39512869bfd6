//! What a disk says of itself, what it loses with the power, and how its faults look to a host.

use crate::support::*;
use pollux_api::chassis::{DiskFault, PowerAction};
use pollux_host::scsi::{self, Direction, Status};

#[test]
fn both_ports_show_one_disk_that_is_no_volume() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let mut seen = Vec::new();
    for port in [A, B] {
        let mut host = lab.host(port);
        let (_, luns) = host.ask(0, &scsi::report_luns(256), 256);
        assert_eq!(scsi::parse_luns(&luns).expect("a list"), [0, 1, 2, 3]);
        let (_, inquiry) = host.ask(1, &scsi::inquiry(None, 96), 96);
        assert_eq!(scsi::parse_tpgs(&inquiry).expect("long enough"), 0);
        assert_eq!(&inquiry[8..32], b"POLLUX  DISK            ");
        let id = scsi::parse_identification(&host.page(1, 0x83).1).expect("page 83h");
        let number = if port == A { 1 } else { 2 };
        assert_eq!((id.port, id.group), (Some(number), None));
        let (_, serial) = host.page(1, 0x80);
        let (_, caching) = host.ask(1, &scsi::mode_sense_caching(64), 64);
        assert_eq!(scsi::parse_write_cache(&caching), Ok(true));
        let (_, capacity) = host.ask(1, &scsi::read_capacity16(), 32);
        let size = scsi::parse_capacity(&capacity).expect("a size");
        assert_eq!((size.blocks, size.block_size), (16 << 11, 512));
        assert_eq!(capacity[14] & 0x80, 0, "LBPME");
        for page in [0xb0, 0xb1] {
            assert_eq!(host.page(1, page).0, Status::Good);
        }
        assert_eq!(host.page(1, 0xb2).0, sense(5, 0x2400));
        let groups = host.ask(1, &scsi::report_target_port_groups(64), 64);
        assert_eq!(groups.0, sense(5, 0x2400), "no asymmetric access");
        assert_eq!(host.ready(4), sense(5, 0x2500), "no such slot");
        seen.push((id.unit, serial));
        let other = scsi::parse_identification(&host.page(2, 0x83).1).expect("page 83h");
        assert_ne!(other.unit, seen[0].0, "another disk");
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_power_cut_loses_only_what_was_not_flushed() {
    if no_library() {
        return;
    }
    const PAGES: u64 = 64;
    const FLUSHED: u8 = 1;
    const FORCED: u8 = 2;
    const CACHED: u8 = 3;
    let lab = Lab::start();
    let mut host = lab.host(A);
    for page in 0..PAGES {
        assert_eq!(host.write(0, page * PAGE, 8, FLUSHED, false), Status::Good);
    }
    assert_eq!(host.flush(0), Status::Good);
    for page in PAGES..2 * PAGES {
        assert_eq!(host.write(0, page * PAGE, 8, FORCED, true), Status::Good);
    }
    for page in 0..PAGES {
        assert_eq!(host.write(0, page * PAGE, 8, CACHED, false), Status::Good);
    }
    // What is in the cache is read, through either port.
    assert_eq!(lab.host(B).read(0, 0), (Status::Good, CACHED));
    lab.press(|panel| async move { panel.power(PowerAction::Off).await })
        .expect("off");
    assert!(host.0.is_lost(SOON), "every connection ends");
    assert!(
        Host::log_in(&lab.login(A, &name(A), 1)).is_err(),
        "nobody listens"
    );
    lab.press(|panel| async move { panel.power(PowerAction::On).await })
        .expect("on");
    let mut host = lab.host(A);
    let mut lost = 0;
    for page in 0..PAGES {
        let (status, found) = host.read(0, page * PAGE);
        assert_eq!(status, Status::Good);
        assert!(found == FLUSHED || found == CACHED, "page {page}: {found}");
        lost += u64::from(found == FLUSHED);
    }
    assert!(lost > 0 && lost < PAGES, "by a coin: {lost} of {PAGES}");
    for page in PAGES..2 * PAGES {
        assert_eq!(host.read(0, page * PAGE), (Status::Good, FORCED), "page {page}");
    }
}

#[test]
fn faults_look_like_those_of_a_disk() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    lab.fault(
        0,
        Some(A),
        DiskFault::Failing {
            reads: true,
            writes: true,
        },
    );
    assert_eq!(a.read(0, 0).0, sense(3, 0x1100));
    assert_eq!(a.write(0, 0, 1, 1, false), sense(3, 0x0c00));
    assert_eq!(b.write(0, 0, 1, 1, false), Status::Good, "through port a only");
    assert_eq!(a.write(1, 0, 1, 1, false), Status::Good, "disk 0 only");
    lab.fault(0, None, DiskFault::None);
    lab.fault(0, None, DiskFault::ReadOnly);
    assert_eq!(b.write(0, 0, 1, 2, false), sense(7, 0x2700));
    assert_eq!(a.read(0, 0), (Status::Good, 1));
    lab.fault(0, None, DiskFault::None);
    lab.fault(0, None, DiskFault::LostWrite);
    assert_eq!(a.write(0, 0, 1, 3, true), Status::Good, "a lie");
    assert_eq!(a.read(0, 0), (Status::Good, 1));
    lab.fault(0, None, DiskFault::TornWrite);
    assert_eq!(a.write(0, 0, 8, 4, false), sense(3, 0x0c00));
    assert_eq!((a.read(0, 0).1, a.read(0, 7).1), (4, 0), "a part of it");
    // What the log says of the faults.
    let log = lab
        .press(|panel| async move { panel.log().await })
        .expect("the log");
    let flags: Vec<u8> = log
        .records
        .iter()
        .map(|record| record.flags & !1)
        .filter(|flags| *flags != 0)
        .collect();
    assert_eq!(
        flags,
        [pollux_chassis::shelf::FLAG_LOST, pollux_chassis::shelf::FLAG_TORN]
    );
}

#[test]
fn a_stuck_disk_answers_nothing_and_lets_go_of_what_is_aborted() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let mut a = lab.host(A);
    assert_eq!(a.write(0, 0, 1, 1, true), Status::Good);
    lab.fault(0, Some(A), DiskFault::Stuck);
    let write = a.begin_write(0, 0, 2);
    assert_eq!(a.0.end(write, WHILE).expect("the session stands"), None);
    let ready =
        a.0.begin(0, &scsi::test_unit_ready(), Direction::None, Vec::new())
            .expect("sent");
    assert_eq!(a.0.end(ready, WHILE).expect("the session stands"), None);
    assert_eq!(a.ready(1), Status::Good, "the others go on");
    assert!(a.0.abort(write, SOON).expect("answered"));
    lab.fault(0, Some(A), DiskFault::None);
    let (status, _) =
        a.0.end(ready, SOON)
            .expect("the session stands")
            .expect("it goes on");
    assert_eq!(status, Status::Good);
    assert_eq!(
        a.read(0, 0),
        (Status::Good, 1),
        "what was aborted never takes effect"
    );
}

#[test]
fn compare_and_write_is_one_step_for_both_ports() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    let swap = |host: &mut Host, from: u8, to: u8| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x89, 1);
        let data = [[from; BLOCK], [to; BLOCK]].concat();
        host.run(0, &cdb, Direction::Out, data).0
    };
    assert_eq!(swap(&mut a, 0, 1), Status::Good);
    assert_eq!(swap(&mut b, 0, 2), sense(0xe, 0x1d00));
    assert_eq!(swap(&mut b, 1, 2), Status::Good);
    assert_eq!(a.read(0, 0), (Status::Good, 2));
}
