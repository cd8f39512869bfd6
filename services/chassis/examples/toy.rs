//! A daemon that does next to nothing, for tests of the enclosure. The name under which it is started is its role.
//!
//! Every role says that it is ready, feeds its service manager's watchdog, and ends on SIGTERM. `wired` sends a datagram to the partner every 10 ms over the
//! interconnect and reports in its status how many it has heard. `watched` arms the watchdog with 400 ms and pets it
//! every 50 ms. `crasher` crashes.

use pollux_platform::{
    notify::Notifier,
    power::{ChassisBmc, Watchdog},
    signal::Shutdown,
};
use pollux_runtime::config::ControllerConfig;
use std::{error::Error, path::Path, time::Duration};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args();
    let own = arguments.next().ok_or("no name")?;
    let role = Path::new(&own)
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("no name")?
        .to_owned();
    let file = arguments.nth(1).ok_or("--config FILE")?;
    let config = ControllerConfig::load(Path::new(&file))?;
    let shutdown = Shutdown::on_signals()?;
    let notifier = Notifier::from_env()?;
    let work = async {
        match role.as_str() {
            "wired" => wired(&config, &notifier).await,
            "watched" => watched(&config, &notifier).await,
            "crasher" => Err("this is what it is for".into()),
            _ => {
                notifier.ready()?;
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = notifier.feed() => Ok(()),
        () = shutdown.requested() => {
            // Whoever listens may be behind, with a full queue; this daemon ends in order all the same.
            let _ = notifier.stopping();
            Ok(())
        }
    }
}

async fn wired(config: &ControllerConfig, notifier: &Notifier) -> Result<(), Box<dyn Error>> {
    let port = config.interconnect.heartbeat_port;
    let socket = tokio::net::UdpSocket::bind((config.interconnect.local, port)).await?;
    notifier.ready()?;
    let mut heard = 0_u64;
    let mut buffer = [0; 16];
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                // A dark wire refuses; that is not this daemon's end.
                let _ = socket.send_to(b"ping", (config.interconnect.partner, port)).await;
            }
            message = socket.recv_from(&mut buffer) => if message.is_ok() {
                heard += 1;
                // After a pause many come at once, and the one who listens may be behind.
                let _ = notifier.status(&format!("heard {heard}"));
            }
        }
    }
}

async fn watched(config: &ControllerConfig, notifier: &Notifier) -> Result<(), Box<dyn Error>> {
    let limit = Duration::from_secs(1);
    let mut watchdog = ChassisBmc::new(&config.paths.bmc);
    watchdog.arm(Duration::from_millis(400), limit).await?;
    notifier.ready()?;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        watchdog.pet(limit).await?;
    }
}
