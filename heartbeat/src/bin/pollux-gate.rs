//! `pollux-gate`: the gate before the hosts while no heartbeat runs: closed before any target starts, removed with the
//! package.

use clap::{Parser, Subcommand};
use pollux_heartbeat::gate::{Rules, Tables};
use pollux_runtime::{
    ControllerConfig,
    daemon::{EXIT_CONFIG, EXIT_FAILED, init_log},
};
use std::{path::PathBuf, process::ExitCode};

/// The gate before the hosts: what the kernel lets out while there is a lease.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Close it where there is none yet; only heartbeat opens it. Does nothing where controller.toml says front.gate = false
    Close {
        /// The controller's file
        #[arg(long, value_name = "FILE", env = "POLLUX_CONTROLLER_TOML")]
        config: PathBuf,
    },
    /// Remove it: whatever still serves hosts on this machine answers them from now on
    Remove,
}

fn main() -> ExitCode {
    let args = Args::parse();
    init_log();
    let done = match args.command {
        Command::Close { config } => match ControllerConfig::load(&config) {
            Ok(config) if config.front.gate => {
                Tables::close_before_all(Rules::of(&config)).map_err(|error| error.to_string())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "cannot start");
                return ExitCode::from(EXIT_CONFIG);
            }
        },
        Command::Remove => Tables::remove().map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the gate is not as it was to be");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
