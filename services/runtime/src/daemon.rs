//! What every daemon does before its own work: arguments, journal, configuration.

use crate::config::ControllerConfig;
use clap::Parser;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Exit code: `controller.toml` cannot be used (EX_CONFIG of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code: the daemon could not start or go on.
pub const EXIT_FAILED: u8 = 1;

/// Arguments of a daemon. A wrong one ends the process with exit code 2.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "A daemon of one controller. Exit codes: 0 stopped as asked, 1 failed, 2 wrong argument, 78 controller.toml cannot be used."
)]
pub struct Args {
    /// The controller's file, DIR/a/controller.toml.
    #[arg(long, value_name = "FILE", env = "POLLUX_CONTROLLER_TOML")]
    pub config: PathBuf,
}

/// Writes the journal to standard error: one line per event, filtered by `POLLUX_LOG` (`info` if it is not set).
pub fn init_log() {
    let filter = EnvFilter::try_from_env("POLLUX_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only if a journal is there already, as in tests that run a daemon in their own process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// Runs a daemon: reads the arguments and the configuration, then `body` on a tokio runtime of one thread
/// (`threads` = 1) or several, and turns its result into the exit code.
pub fn run<F, Fut, E>(threads: usize, body: F) -> ExitCode
where
    F: FnOnce(ControllerConfig) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let args = Args::parse();
    init_log();
    let config = match ControllerConfig::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    match runtime.block_on(body(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
