//! `heartbeatd`: see the library.

use clap::Parser;
use pollux_heartbeat::start;
use pollux_runtime::daemon::{self, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    let appliance = start::is_appliance(&Args::parse().config);
    daemon::run(2, |config| start::run(config, appliance))
}
