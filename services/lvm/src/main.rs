//! `lvmd`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollux_runtime::daemon::run(1, pollux_lvm::service::run)
}
