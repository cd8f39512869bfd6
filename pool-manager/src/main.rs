//! `pool-managerd`: the pool manager of one controller.

use std::process::ExitCode;

/// One thread for every two processors: the block target needs as many. A command wakes several tasks one after the
/// other, each of which does little; a thread too many is woken to help, and finds that there is nothing left to do.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / 2).clamp(1, 4)
}

fn main() -> ExitCode {
    pollux_runtime::daemon::run(threads(), pollux_pool_manager::service::run)
}
