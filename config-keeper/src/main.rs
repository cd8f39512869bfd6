//! `config-keeperd`: see the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pollux_runtime::daemon::run(1, pollux_config_keeper::service::run)
}
