//! The proof can fail: each world is broken on purpose, and the search has to find out. The cores are the shipped ones; it
//! is disks, hosts and boots that lie.

use crate::array::{Array, Breakage, Kind, Setup};
use crate::consensus::{Bound, Proposers};
use crate::ports;
use crate::search::{Limits, Report, World, search};
use crate::worlds::{CALM, CHANGED, TAKEOVER};
use std::time::Duration;

fn limits(faults: u8) -> Limits {
    Limits {
        faults,
        states: 2_000_000,
        patience: 300,
    }
}

fn must_break(promise: &str, report: &Report) {
    let Some(found) = &report.counterexample else {
        panic!("nothing was found in {} states", report.states);
    };
    assert_eq!(found.violation.promise, promise, "{found}");
    assert!(found.script.len() > 1, "{found}");
}

fn broken(breakage: Breakage, setup: Setup) -> Report {
    let setup = Setup {
        breakage: Some(breakage),
        ..setup
    };
    let array = Array::new(setup).unwrap_or_else(|violation| panic!("{violation:?}"));
    search(&array, limits(1))
}

#[test]
fn a_disk_that_forgets_an_acknowledged_vote_decides_twice() {
    let bound = Bound {
        proposals: [1, 1],
        deaths: [0, 0],
        forgotten: 1,
        ..CALM
    };
    must_break("S2", &search(&Proposers::new(bound), limits(0)));
}

#[test]
fn a_set_that_changes_at_once_decides_twice() {
    let bound = Bound {
        at_once: true,
        ..CHANGED
    };
    must_break("S2", &search(&Proposers::new(bound), limits(0)));
}

#[test]
fn a_wiped_disk_that_reads_as_empty_decides_twice_k11() {
    let bound = Bound {
        proposals: [1, 1],
        deaths: [0, 0],
        wipes: 1,
        blank_is_empty: true,
        ..CALM
    };
    must_break("S2", &search(&Proposers::new(bound), limits(0)));
}

#[test]
fn a_lease_longer_than_the_wait_of_the_partner_breaks_s7() {
    let faults = &[Kind::Stall];
    let setup = Setup { faults, ..TAKEOVER };
    must_break("S7", &broken(Breakage::LongLease(Duration::from_secs(5)), setup));
}

#[test]
fn a_controller_that_is_deaf_to_its_end_breaks_a_promise() {
    let faults = &[Kind::Stall];
    let setup = Setup { faults, ..TAKEOVER };
    let report = broken(Breakage::DeafToStop, setup);
    assert!(report.counterexample.is_some(), "{} states", report.states);
}

#[test]
fn a_daemon_that_never_comes_back_does_not_recover() {
    let faults = &[Kind::Reset];
    let setup = Setup { faults, ..TAKEOVER };
    must_break("recovery", &broken(Breakage::NoDaemon, setup));
}

#[test]
fn fencing_that_rejects_nobody_breaks_s1() {
    let faults = &[Kind::Stall];
    let setup = Setup { faults, ..TAKEOVER };
    must_break("S1", &broken(Breakage::FenceAlways, setup));
}

#[test]
fn a_good_bye_of_one_who_lives_on_breaks_s5() {
    let faults = &[Kind::Word];
    let setup = Setup { faults, ..TAKEOVER };
    must_break("S5", &broken(Breakage::FalseFarewell, setup));
}

/// Renaming must not merge what differs: with every number as it is, the same worlds hold the same promises.
#[test]
fn the_same_world_has_the_same_fingerprint_and_time_alone_changes_nothing() {
    let array = Array::new(TAKEOVER).unwrap_or_else(|violation| panic!("{violation:?}"));
    let mut later = array.clone();
    assert_eq!(array.fingerprint(), later.fingerprint());
    let mut seen = vec![array.fingerprint()];
    for _ in 0..3 {
        let step = later.steps(0)[0].0;
        assert_eq!(later.apply(step, None), Ok(()));
        seen.push(later.fingerprint());
    }
    assert_eq!(
        seen[1], seen[0],
        "a whole array comes back to itself after one period"
    );
    let mut struck = array.clone();
    let (step, _) = struck
        .steps(1)
        .into_iter()
        .find(|(_, cost)| *cost == 1)
        .unwrap_or_else(|| panic!("no fault"));
    assert_eq!(struck.apply(step, None), Ok(()));
    assert_ne!(struck.fingerprint(), array.fingerprint());
}

fn broken_ports(breakage: ports::Breakage) -> Report {
    search(&ports::Ports::new(Some(breakage)), limits(2))
}

#[test]
fn a_pool_that_is_given_before_its_sign_is_down_breaks_i4() {
    must_break("I4", &broken_ports(ports::Breakage::GivenTooEarly));
}

#[test]
fn a_machine_that_forgets_what_is_wanted_breaks_a_promise() {
    let report = broken_ports(ports::Breakage::Forgets);
    assert!(report.counterexample.is_some(), "{} states", report.states);
}

#[test]
fn a_target_that_nobody_looks_at_does_not_recover() {
    let report = broken_ports(ports::Breakage::NoLooks);
    assert!(report.counterexample.is_some(), "{} states", report.states);
}
