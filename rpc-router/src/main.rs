//! The switchboard of one controller; see the library.

use pollux_platform::signal::Shutdown;
use pollux_rpc_router::server::{Error, run};

fn main() -> std::process::ExitCode {
    // One thread for messages: the work is moving bytes, and a second one would only fight for the tables. What costs
    // more than that, the handshakes of those who come from afar, has a thread of its own.
    pollux_runtime::daemon::run(1, |config| async move {
        run(config, Shutdown::on_signals().map_err(Error::Signals)?).await
    })
}
