//! `pollux-host`: the test host as a process. Lines of JSON in, lines of JSON out; see
//! `pollux_host::control`.
//!
//! Exit codes: 0 the input ended, 1 input or output failed, 2 called with an argument that it does
//! not have.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        None => {}
        Some(argument) if argument == "--help" => {
            println!("usage: pollux-host\n\nReads calls, one JSON object per line, from standard input.");
            return ExitCode::SUCCESS;
        }
        Some(argument) => {
            eprintln!(
                "pollux-host: unknown argument {argument:?}; it takes calls on standard input, no argument"
            );
            return ExitCode::from(2);
        }
    }
    match pollux_host::control::serve(std::io::stdin().lock(), std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("pollux-host: standard input: {err}");
            ExitCode::FAILURE
        }
    }
}
