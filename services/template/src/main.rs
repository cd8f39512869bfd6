//! The daemon that new ones are copied from; see the library.

fn main() -> std::process::ExitCode {
    pollux_runtime::daemon::run(1, pollux_template::run)
}
