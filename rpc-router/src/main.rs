//! The switchboard of one controller; see the library.

use pollux_platform::signal::Shutdown;
use pollux_rpc_router::server::{Error, run};

fn main() -> std::process::ExitCode {
    // One thread: the work is moving bytes, and a second one would only fight for the tables.
    pollux_runtime::daemon::run(1, |config| async move {
        run(config, Shutdown::on_signals().map_err(Error::Signals)?).await
    })
}
