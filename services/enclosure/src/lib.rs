//! `enclosured`: the hardware of one controller behind the sockets that the other daemons know.
//!
//! Picture the back of a controller: a row of cables to the disks, one to the power control of the partner, and a button that
//! resets the machine if nobody presses it. The other daemons see sockets there and never ask what is behind: in the demo and
//! the tests it is the chassis, on an appliance it is this.
//!
//! | socket | what is behind |
//! |---|---|
//! | `paths.port/disk-NN.sock` | [`shelf`]: a SCSI disk, found by its WWN; reads and writes past the page cache, PERSISTENT RESERVE |
//! | `paths.bmc` | a watchdog device, the reset of this machine, and a fence agent for the partner's power |
//!
//! Invariants:
//! * a disk is served only after it has said who it is, over the descriptor through which it is served;
//! * nothing of a session is under way when the next one of the same client begins, also over a restart of this daemon;
//! * what a disk refuses is told as that; nothing is done in its place that promises less.
//!
//! It must never: decide who owns a disk, repeat a command whose end it does not know, or serve a disk under a name that the
//! kernel gave.

#![forbid(unsafe_code)]

mod agent;
mod bmc;
mod choice;
pub mod config;
mod disk;
mod dog;
mod reservations;
pub mod shelf;
#[cfg(test)]
mod tests;

use agent::Agent;
use bmc::Bmc;
use config::EnclosureConfig;
use dog::Dog;
use pollux_platform::file::Lock;
use pollux_platform::lines::server;
use pollux_platform::notify::Notifier;
use pollux_platform::realtime;
use pollux_platform::scsi::discover;
use pollux_platform::signal::Shutdown;
use pollux_platform::uevent::Uevents;
use pollux_platform::watchdog::LinuxWatchdog;
use pollux_runtime::ControllerConfig;
use shelf::{Kernel, Place, Shelf};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixListener;

/// Subsystems whose events are a reason to look at the disks.
const SUBSYSTEMS: [&str; 3] = ["block", "scsi", "scsi_device"];

/// So long a start waits at most for disks that are there to say who they are.
const SETTLE: Duration = Duration::from_secs(15);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something of the system that it needs.
    #[error("{what}: {source}")]
    Io {
        /// What.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// Another process serves these sockets.
    #[error("{0}; one daemon serves the hardware of a controller")]
    Busy(pollux_platform::file::LockError),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io {
        what: what.into(),
        source,
    }
}

/// Priority of every thread, below heartbeat's own.
const PRIORITY: u8 = 10;

/// Puts the calling thread under real time: the slots of the heartbeat and the pets of the watchdog pass through here, and one
/// that is late looks like a dead controller. Where that is not permitted it is said once.
pub fn in_real_time() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if let Err(why) = realtime::schedule_current_thread(PRIORITY)
        && !SAID.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(why, "without real time");
    }
}

/// Threads that may wait in the kernel at a time, for so many disks.
#[must_use]
pub fn blocking_threads(disks: usize) -> usize {
    // Each disk with both lanes full, one that looks and opens, and some for what is beside.
    disks * (disk::DATA_LANE + disk::CONTROL_LANE + 1) + 16
}

/// Serves the hardware until SIGTERM or SIGINT.
///
/// # Errors
/// A socket or a signal cannot be had.
pub async fn run(controller: ControllerConfig, enclosure: EnclosureConfig) -> Result<(), StartError> {
    let shutdown = Shutdown::on_signals().map_err(io_error("signals"))?;
    let notifier = Notifier::from_env().map_err(io_error("NOTIFY_SOCKET"))?;
    let bell = Uevents::open().map_err(io_error("the kernel's events (netlink)"))?;
    let served = serve(&controller, &enclosure, &bell, &shutdown, async || {
        tell(notifier.ready());
        tracing::info!("ready");
        notifier.feed().await;
    });
    served.await?;
    tell(notifier.stopping());
    Ok(())
}

/// Who started us may have gone: that ends nothing.
fn tell(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "service manager not told");
    }
}

/// Serves until `shutdown`; `ready` runs from the moment at which everything that is there is served, or has had its time.
async fn serve(
    controller: &ControllerConfig,
    enclosure: &EnclosureConfig,
    bell: &Uevents,
    shutdown: &Shutdown,
    ready: impl AsyncFnOnce(),
) -> Result<(), StartError> {
    let place = Place {
        array: controller.array,
        controller: controller.controller,
        directory: controller.paths.port.clone(),
    };
    let directory = place.directory.display().to_string();
    std::fs::create_dir_all(&place.directory).map_err(io_error(directory.clone()))?;
    let _lock = Lock::acquire(&place.directory.join("enclosured.lock")).map_err(StartError::Busy)?;
    let (bmc, listener) = power(&place.directory, &controller.paths.bmc, enclosure)?;
    let mut shelf = Shelf::new(Kernel::default(), place, &enclosure.disks).map_err(io_error(directory))?;
    let mut settled = shelf.settled();
    let heard = || async {
        if let Err(error) = bell.heard(&SUBSYSTEMS).await {
            tracing::error!(%error, "the kernel's events are not heard any more; disks are looked at only when one is missing");
            std::future::pending().await
        }
    };
    let told = async {
        // The shelf outlives this. A disk that does not answer keeps nobody from starting.
        let _ = tokio::time::timeout(SETTLE, settled.wait_for(|settled| *settled)).await;
        ready().await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = shelf.run(heard, shutdown.requested()) => {}
        () = told => {}
        () = server::serve(listener, bmc) => {}
    }
    // Not the watchdog's file: that one runs on.
    shelf::remove(&controller.paths.bmc).map_err(io_error(controller.paths.bmc.display().to_string()))
}

/// The watchdog and the power control, and the socket on which they are asked for.
fn power(
    directory: &Path,
    socket: &Path,
    enclosure: &EnclosureConfig,
) -> Result<(Arc<Bmc<LinuxWatchdog>>, UnixListener), StartError> {
    // Where it is hidden (ProcSubset= of systemd) the directory, which is wiped at each boot, has to do.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or("unknown".to_owned());
    let dog = enclosure
        .watchdog
        .as_ref()
        .map(|watchdog| Dog::new(LinuxWatchdog::new(&watchdog.device), directory, boot.trim()));
    let agent = enclosure.bmc.clone().map(Agent::new);
    let bmc = Bmc::new(dog, agent, pollux_platform::reset::now);
    let failed = || io_error(socket.display().to_string());
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(failed())?;
    }
    shelf::remove(socket).map_err(failed())?;
    let listener = UnixListener::bind(socket).map_err(failed())?;
    Ok((Arc::new(bmc), listener))
}

/// The disks of this machine, one a line, and under it why it is not served where that is known, for whoever writes `enclosure.toml`.
///
/// # Errors
/// sysfs cannot be read.
pub fn list(sysfs: &Path) -> io::Result<String> {
    let mut lines = String::new();
    for found in discover::scan(sysfs)? {
        let wwn = found.wwn.map_or("no WWN".to_owned(), |wwn| wwn.to_string());
        let block = found.block.as_ref();
        let (name, bytes) = block.map_or(("no block device", 0), |block| (&block.name, block.bytes));
        lines += &format!(
            "{:<36} {:<12} {:<8} {:>15} bytes  {:<13} {} {} serial {}\n",
            wwn,
            found.address,
            name,
            bytes,
            found.transport.as_str(),
            found.vendor,
            found.product,
            found.serial.as_deref().unwrap_or("none"),
        );
        if found.transport == discover::Transport::Nvme {
            lines += &format!("    {}\n", discover::NVME);
        }
    }
    Ok(lines)
}

/// Where the daemon finds its two files.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "The hardware of one controller: disks, watchdog, the partner's power. Exit codes: 0 stopped as asked, 1 failed, \
             2 wrong argument, 78 a file cannot be used."
)]
pub struct Args {
    /// The controller's file.
    #[arg(
        long,
        value_name = "FILE",
        env = "POLLUX_CONTROLLER_TOML",
        required_unless_present = "list"
    )]
    pub config: Option<PathBuf>,
    /// What stands in the enclosure.
    #[arg(long, value_name = "FILE", default_value = config::FILE)]
    pub enclosure: PathBuf,
    /// Show the disks of this machine with their WWN, and end.
    #[arg(long)]
    pub list: bool,
}
