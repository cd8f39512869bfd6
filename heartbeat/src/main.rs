//! `heartbeatd`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollux_runtime::daemon::run(2, pollux_heartbeat::start::run)
}
