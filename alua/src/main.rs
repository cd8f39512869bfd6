//! `aluad --config DIR/a/controller.toml`: see the library.

fn main() -> std::process::ExitCode {
    pollux_runtime::daemon::run(1, pollux_alua::service::run)
}
