//! `pollux disarm`: the watchdog is disarmed once everything that writes has stopped.
//!
//! Heartbeat pets the watchdog and never disarms it: its death has to be the controller's. So a controller that is
//! stopped in order would be reset some seconds later, in the middle of a removal or on its way down. The unit
//! `pollux-disarm` calls this when it is stopped, which systemd does after the daemons that write and before the one
//! that has the watchdog.
//!
//! It must never disarm while heartbeat runs: the partner may be waiting for the watchdog to bite.

use crate::array::Place;
use crate::error::Error;
use crate::owner;
use crate::resources::Shown;
use pollux_platform::file::Lock;
use pollux_platform::power::{ChassisBmc, Watchdog};
use pollux_runtime::ControllerConfig;
use serde_json::json;
use std::time::Duration;

/// Bound of the call.
const WITHIN: Duration = Duration::from_secs(5);

/// Disarms it.
///
/// # Errors
/// Heartbeat runs, nobody has the watchdog, or it cannot be disarmed: then it bites.
pub async fn run(place: &Place) -> Result<Shown, Error> {
    let file = place.controller_dir()?.join(pollux_runtime::config::FILE);
    let config = ControllerConfig::load(&file)
        .map_err(|error| Error::usage(error.to_string(), "a controller.toml as `pollux setup` writes it"))?;
    owner::act_as(&config)?;
    // Held until the watchdog is disarmed: a heartbeat that starts meanwhile waits, and arms it again.
    let _lock = Lock::acquire(&config.paths.run.join("heartbeat.lock")).map_err(|error| {
        Error::failed(
            format!("the watchdog stays armed: {error}"),
            "stop heartbeat first: systemctl stop pollux.target stops everything in order",
        )
    })?;
    let disarmed = ChassisBmc::new(&config.paths.bmc).disarm(WITHIN).await;
    disarmed.map_err(|error| {
        Error::failed(
            format!("the watchdog stays armed: {error}"),
            "if it was armed, it resets this machine within seconds",
        )
    })?;
    Ok(Shown {
        text: "The watchdog is disarmed.\n".into(),
        json: json!({ "armed": false }),
    })
}
