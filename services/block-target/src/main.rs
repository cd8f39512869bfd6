//! `block-targetd --config DIR/a/controller.toml`: see the library.

fn main() -> std::process::ExitCode {
    pollux_runtime::daemon::run(2, pollux_block_target::daemon::run)
}
