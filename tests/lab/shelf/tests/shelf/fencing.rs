//! Reservations over both ports: what fencing stands on.

use crate::support::*;
use pollux_api::chassis::{DiskFault, PowerAction};
use pollux_host::scsi::Status;
use pollux_lab_shelf::audit;

const KEY_A: u64 = 0xa;
const KEY_B: u64 = 0xb;

fn owns(host: &mut Host, lun: u16, key: u64) {
    assert_eq!(host.reserve(lun, REGISTER, 0, (0, key)), Status::Good);
    assert_eq!(host.reserve(lun, RESERVE, WERO, (key, 0)), Status::Good);
}

#[test]
fn the_preempted_port_writes_no_more_and_what_it_had_under_way_is_ended() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    owns(&mut a, 0, KEY_A);
    assert_eq!(a.write(0, 0, 1, 1, true), Status::Good);
    assert_eq!(b.write(0, 0, 1, 9, false), Status::ReservationConflict);
    assert_eq!(b.read(0, 0), (Status::Good, 1), "everybody reads");
    // A write of a's hangs in the disk while b takes over.
    lab.fault(0, Some(A), DiskFault::Stuck);
    let late = a.begin_write(0, 0, 2);
    assert_eq!(a.0.end(late, WHILE).expect("the session stands"), None);
    assert_eq!(b.reserve(0, REGISTER_AND_IGNORE, 0, (0, KEY_B)), Status::Good);
    assert_eq!(
        b.reserve(0, PREEMPT_AND_ABORT, WERO, (KEY_B, KEY_A)),
        Status::Good
    );
    assert_eq!(b.write(0, 0, 1, 3, true), Status::Good);
    lab.fault(0, Some(A), DiskFault::None);
    assert_eq!(
        a.0.end(late, WHILE).expect("the session stands"),
        None,
        "TAS=0: no answer"
    );
    assert_eq!(a.ready(0), sense(6, 0x2a05), "registrations preempted");
    assert_eq!(a.write(0, 0, 1, 4, false), Status::ReservationConflict);
    assert_eq!(a.flush(0), Status::ReservationConflict);
    assert_eq!(
        a.read(0, 0),
        (Status::Good, 3),
        "b's, and a's late one never came"
    );
    // The same as both ports tell it.
    for host in [&mut a, &mut b] {
        assert_eq!(host.keys(0), [KEY_B]);
        assert_eq!(host.holder(0), Some((KEY_B, WERO)));
    }
    assert_eq!(
        b.reserve(0, PREEMPT, WERO, (KEY_B, KEY_A)),
        Status::ReservationConflict
    );
    let log = lab
        .press(|panel| async move { panel.log().await })
        .expect("the log");
    let verdict = audit::judge(&log, &[0]);
    assert_eq!((verdict.writes, verdict.second_writers), (2, vec![]));
}

#[test]
fn a_rogue_writer_is_condemned_from_the_log() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    assert_eq!(a.write(1, 0, 1, 1, false), Status::Good);
    assert_eq!(b.write(2, 8, 1, 1, false), Status::Good, "nothing is reserved");
    let log = audit::read(lab.folder.path()).expect("the log");
    assert_eq!(audit::judge(&log, &[1]).second_writers, []);
    let verdict = audit::judge(&log, &[1, 2]);
    assert_eq!((verdict.writes, verdict.second_writers.len()), (2, 1));
    let rogue = &verdict.second_writers[0];
    assert_eq!((rogue.disk, rogue.port, rogue.lba), (2, Some(B), 8));
}

#[test]
fn full_status_names_initiators_and_ports_after_a_loss_of_power_and_a_restart() {
    if no_library() {
        return;
    }
    let mut lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    owns(&mut a, 0, KEY_A);
    assert_eq!(b.reserve(0, REGISTER, 0, (0, KEY_B)), Status::Good);
    let told = |host: &mut Host| {
        let (status, data) = host.reservations(0, READ_FULL_STATUS);
        assert_eq!(status, Status::Good);
        let length = u32::from_be_bytes(data[4..8].try_into().expect("four")) as usize;
        let mut rest = &data[8..8 + length];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let id = u32::from_be_bytes(rest[20..24].try_into().expect("four")) as usize;
            let key = u64::from_be_bytes(rest[..8].try_into().expect("eight"));
            let port = u16::from_be_bytes([rest[18], rest[19]]);
            let name = String::from_utf8_lossy(&rest[28..24 + id]).into_owned();
            found.push((
                key,
                rest[12] & 1 == 1,
                port,
                name.split(',').next().unwrap_or_default().to_owned(),
            ));
            rest = &rest[24 + id..];
        }
        found
    };
    let expected = [(KEY_A, true, 1, name(A)), (KEY_B, false, 2, name(B))];
    assert_eq!(told(&mut a), expected);
    lab.press(|panel| async move { panel.power(PowerAction::Reset).await })
        .expect("again");
    assert_eq!(told(&mut lab.host(B)), expected, "they persist");
    drop((a, b));
    lab.restart();
    let mut b = lab.host(B);
    assert_eq!(told(&mut b), expected);
    assert_eq!(b.write(0, 0, 1, 1, false), Status::Good, "a registrant writes");
    let forgotten = lab.press(|panel| async move { panel.forget_reservations(None).await });
    forgotten.expect("every disk");
    assert_eq!((told(&mut b), b.holder(0)), (vec![], None));
}

#[test]
fn the_other_port_is_told_what_was_taken_from_it() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    owns(&mut a, 0, KEY_A);
    assert_eq!(b.reserve(0, REGISTER, 0, (0, KEY_B)), Status::Good);
    assert_eq!(a.reserve(0, RELEASE, WERO, (KEY_A, 0)), Status::Good);
    assert_eq!(b.ready(0), sense(6, 0x2a04));
    assert_eq!(b.ready(0), Status::Good, "once");
    assert_eq!(b.ready(1), Status::Good, "of that disk only");
    assert_eq!(a.reserve(0, CLEAR, 0, (KEY_A, 0)), Status::Good);
    assert_eq!(b.ready(0), sense(6, 0x2a03));
    assert_eq!((a.ready(0), a.keys(0)), (Status::Good, vec![]));
}

#[test]
fn what_the_disk_does_not_have_is_refused_and_reported_so() {
    if no_library() {
        return;
    }
    const ALL_REGISTRANTS: u8 = 7;
    const REGISTER_AND_MOVE: u8 = 7;
    const ALL_TG_PT: u8 = 4;
    let lab = Lab::start();
    let mut a = lab.host(A);
    let (_, capabilities) = a.reservations(0, REPORT_CAPABILITIES);
    assert_eq!(capabilities[..8], [0, 8, 0x01, 0x81, 0x6a, 0, 0, 0]);
    assert_eq!(
        a.reserve_with(0, REGISTER, 0, (0, KEY_A), ALL_TG_PT),
        sense(5, 0x2600)
    );
    assert_eq!(a.reserve(0, REGISTER, 0, (0, KEY_A)), Status::Good);
    assert_eq!(
        a.reserve(0, RESERVE, ALL_REGISTRANTS, (KEY_A, 0)),
        sense(5, 0x2400)
    );
    assert_eq!(a.reserve(0, REGISTER_AND_MOVE, 0, (KEY_A, 1)), sense(5, 0x2400));
    assert_eq!(
        a.reserve(0, RESERVE, WERO, (KEY_B, 0)),
        Status::ReservationConflict,
        "not its key"
    );
    assert_eq!(a.reserve(0, RESERVE, WERO, (KEY_A, 0)), Status::Good);
    assert_eq!(
        a.reserve(0, RELEASE, 1, (KEY_A, 0)),
        sense(5, 0x2604),
        "another type"
    );
    assert_eq!(
        a.reserve(0, PREEMPT, WERO, (KEY_A, 0)),
        sense(5, 0x2600),
        "nobody's key"
    );
    // Quorum disks are written by both at all times.
    assert_eq!(a.reserve(DATA_DISKS, REGISTER, 0, (0, KEY_A)), sense(5, 0x2000));
}
