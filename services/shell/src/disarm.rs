//! `pollux disarm`: the watchdog is disarmed once everything that writes has stopped.
//!
//! Heartbeat pets the watchdog and never disarms it: its death has to be the controller's. So a controller that is
//! stopped in order would be reset some seconds later, in the middle of a removal or on its way down. The unit
//! `pollux-disarm` calls this when it is stopped, which systemd does after the daemons that write and before the one
//! that has the watchdog.
//!
//! It must never disarm while heartbeat runs, or while a pool is still imported: the partner may be waiting for the watchdog to
//! bite.

use crate::array::Place;
use crate::error::Error;
use crate::owner;
use crate::resources::Shown;
use pollux_api::lvm::is_of_a_pool;
use pollux_platform::file::Lock;
use pollux_platform::power::{ChassisBmc, Watchdog};
use pollux_runtime::ControllerConfig;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Bound of the call.
const WITHIN: Duration = Duration::from_secs(5);

/// Where the pool manager writes down what it has imported, below the folder of what lives as long as a boot.
const POOLS: &str = "pools";
/// Where the kernel tells of its block devices.
const BLOCK: &str = "/sys/block";
/// What is given up a moment before may still be on its way out of the kernel.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What may still write to a shared disk though every daemon has stopped: pools whose import nobody has given up, and devices of
/// the kernel's, which need no daemon.
fn still_imported(pools: &Path, block: &Path) -> Vec<String> {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let records = names(pools).into_iter().filter_map(|file| {
        let record = file.extension().is_some_and(|ending| ending == "json");
        let name = file.file_stem()?.to_string_lossy().into_owned();
        record.then(|| format!("pool {name}"))
    });
    let devices = names(block).into_iter().filter_map(|device| {
        let name = std::fs::read_to_string(device.join("dm/name")).ok()?;
        is_of_a_pool(name.trim()).then(|| format!("device {}", name.trim()))
    });
    let mut all: Vec<String> = records.chain(devices).collect();
    all.sort_unstable();
    all
}

/// Disarms it.
///
/// # Errors
/// Heartbeat runs, a pool is still imported, nobody has the watchdog, or it cannot be disarmed: then it bites.
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
    let end = tokio::time::Instant::now() + ON_ITS_WAY;
    let left = loop {
        let left = still_imported(&config.paths.run.join(POOLS), Path::new(BLOCK));
        if left.is_empty() || tokio::time::Instant::now() >= end {
            break left;
        }
        tokio::time::sleep(LOOK).await;
    };
    if !left.is_empty() {
        return Err(Error::failed(
            format!(
                "the watchdog stays armed, and resets this machine within seconds: still imported here: {}",
                left.join(", ")
            ),
            "pollux leave gives pools up in good order; what holds one is in the journal of pool-managerd and lvmd",
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "pollux_8c6ffe94c501880c9473e91810855b26-pool";

    #[test]
    fn records_of_pools_and_devices_of_ours_are_still_imported() {
        let dir = tempfile::tempdir().unwrap();
        let (pools, block) = (dir.path().join("pools"), dir.path().join("block"));
        assert!(still_imported(&pools, &block).is_empty(), "neither is there");
        for (device, name) in [
            ("dm-0", OURS),
            ("dm-1", "vg0-root"),
            ("dm-2", "pollux--a--vg-root"),
        ] {
            std::fs::create_dir_all(block.join(device).join("dm")).unwrap();
            std::fs::write(block.join(device).join("dm/name"), format!("{name}\n")).unwrap();
        }
        std::fs::create_dir_all(block.join("sda")).unwrap();
        std::fs::create_dir_all(&pools).unwrap();
        std::fs::write(pools.join("8c6f.json"), "{}").unwrap();
        std::fs::write(pools.join("8c6f.json.new"), "").unwrap();
        assert_eq!(
            still_imported(&pools, &block),
            [format!("device {OURS}"), "pool 8c6f".to_owned()]
        );
    }
}
