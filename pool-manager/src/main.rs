//! `pool-managerd`: the pool manager of one controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollux_runtime::daemon::run(2, pollux_pool_manager::service::run)
}
