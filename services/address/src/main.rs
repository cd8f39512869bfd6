//! `addressd`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One thread: an announcement that has been called off is then certainly not being sent.
    pollux_runtime::daemon::run(1, pollux_address::service::run)
}
