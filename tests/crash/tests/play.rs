//! A short play, and two that must fail: keepers that count too early, disks that lie.

use pollux_crash::{Fault, Options, Outcome, run};

fn play(cycles: u64, seed: u64, fault: Fault) -> Result<Outcome, String> {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        program: env!("CARGO_BIN_EXE_pollux-crash").into(),
        folder: folder.path().to_owned(),
        cycles,
        seed,
        fault,
    };
    run(options, |_| {})
}

#[test]
fn nothing_that_was_acknowledged_is_lost_wherever_somebody_dies() {
    let outcome = play(100, 7, Fault::None).unwrap();
    assert_eq!(outcome.cycles, 100);
    let deaths: u64 = outcome.deaths.values().sum();
    assert!(deaths >= 100 && outcome.deaths.len() > 15, "{:?}", outcome.deaths);
    assert!(outcome.acknowledged > 300 && outcome.both > 0, "{outcome:?}");
    println!("{outcome:?}");
}

#[test]
fn keepers_that_count_before_it_is_durable_are_found_out() {
    let found = play(400, 1, Fault::Early).unwrap_err();
    assert!(
        found.contains("is lost") || found.contains("and then as"),
        "{found}"
    );
}

#[test]
fn disks_that_say_that_they_have_flushed_and_have_not_are_found_out() {
    let found = play(400, 1, Fault::Lies).unwrap_err();
    assert!(
        found.contains("damaged") || found.contains("is lost") || found.contains("and then as"),
        "{found}"
    );
}
