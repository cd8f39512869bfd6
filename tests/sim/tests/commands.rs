//! The program as a person types it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs the simulator with these commands on its standard input.
fn sim(arguments: &[&str], commands: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pollux-sim"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the simulator starts");
    let mut input = child.stdin.take().expect("its standard input");
    // It may have ended already: what it says counts.
    let _ = input.write_all(commands.as_bytes());
    drop(input);
    child.wait_with_output().expect("the simulator ends")
}

#[test]
fn the_stepper_takes_commands_from_a_pipe() {
    let output = sim(&["--seed", "3", "--step"], "n 5\ns\nr 2\n");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for expected in ["#0 at ", "#5 at ", "#3 at ", "machine "] {
        assert!(
            said.lines().any(|line| line.starts_with(expected)),
            "{expected}: {said}"
        );
    }
}

#[test]
fn a_mask_that_is_none_is_named() {
    let output = sim(&["--seed", "3", "--mask", "1,x"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("such as 3,7/4"), "{said}");
}

#[test]
fn a_mask_belongs_to_one_seed() {
    let output = sim(&["--seeds", "2", "--mask", "3"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--seeds"), "{said}");
}

#[test]
fn no_seeds_are_no_success() {
    let output = sim(&["--seeds", "0"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--seeds"), "{said}");
}

#[test]
fn a_mutant_of_no_name_is_no_success() {
    let output = sim(&["--mutants", "--only", "no such mutant"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--mutants --list"), "{said}");
}

#[test]
fn a_number_that_is_none_is_told_what_would_be_right() {
    for (arguments, right) in [
        (
            ["--seeds", "x"],
            "a whole number of seeds from 1 on, such as 10000",
        ),
        (
            ["--seeds", "0"],
            "a whole number of seeds from 1 on, such as 10000",
        ),
        (["--seeds", "-1"], "a whole number of seeds from 1 on"),
        (["--from", "1.5"], "a whole number from 0 to 18446744073709551615"),
        (["--seed", "0x10"], "such as 42"),
    ] {
        let output = sim(&arguments, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(right), "{arguments:?}: {said}");
        assert!(said.contains(arguments[0]), "it names the argument: {said}");
    }
}
