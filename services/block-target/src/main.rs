//! `block-targetd --config DIR/a/controller.toml`: see the library.

/// One thread for every two processors: the pool manager needs as many. A command wakes several tasks one after the
/// other, each of which does little; a thread too many is woken to help, and finds that there is nothing left to do.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / 2).clamp(1, 4)
}

fn main() -> std::process::ExitCode {
    pollux_runtime::daemon::run(threads(), pollux_block_target::daemon::run)
}
