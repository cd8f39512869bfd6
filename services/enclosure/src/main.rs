//! The daemon; see the library.

use clap::Parser;
use pollux_enclosure::{Args, blocking_threads, config::EnclosureConfig, in_real_time, list, run};
use pollux_runtime::ControllerConfig;
use pollux_runtime::daemon::{EXIT_CONFIG, EXIT_FAILED, init_log};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    init_log();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            tracing::error!(%error, "stopped");
            ExitCode::from(code)
        }
    }
}

fn start(args: &Args) -> Result<(), (u8, String)> {
    let failed = |error: std::io::Error| (EXIT_FAILED, error.to_string());
    if args.list {
        let lines = list(Path::new("/sys")).map_err(failed)?;
        return std::io::stdout().write_all(lines.as_bytes()).map_err(failed);
    }
    // The command line requires it.
    let config = args.config.as_deref().unwrap_or(Path::new("controller.toml"));
    let controller = ControllerConfig::load(config).map_err(|error| (EXIT_CONFIG, error.to_string()))?;
    let enclosure =
        EnclosureConfig::load(&args.enclosure).map_err(|error| (EXIT_CONFIG, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking_threads(enclosure.disks.len()))
        .on_thread_start(in_real_time)
        .enable_all()
        .build()
        .map_err(failed)?;
    in_real_time();
    runtime
        .block_on(run(controller, enclosure))
        .map_err(|error| (EXIT_FAILED, error.to_string()))
}
