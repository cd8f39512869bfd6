//! What is here: disks, interfaces, the watchdog, the clock.
//!
//! Everything is read, nothing is opened for writing, and no command is sent to a disk.

use pollux_api::lvm::is_of_a_pool;
use pollux_platform::netlink::{IfAddr, Netlink};
use pollux_platform::program::Program;
use pollux_platform::scsi::discover::{self, NVME, Transport};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Peripheral device type of a disk (SPC-5, table 150).
const DISK: u8 = 0;
/// Vendor of a disk that is spoken to by translation (SAT-4, 8.2): a SATA disk behind a SAS port.
const SAT_VENDOR: &str = "ATA";

/// Why disks with one port are not taken.
const SATA: &str =
    "SATA: one port, and no persistent reservations; only SAS disks with two ports can be shared";
const SATA_BEHIND_SAS: &str = "SATA behind a SAS port: one port, and no persistent reservations; only SAS disks with two ports can be shared";
const USB: &str =
    "USB: one port, and no persistent reservations; only SAS disks with two ports can be shared";

const SINGLE_PORT: &str = "a single port (MULTIP of INQUIRY): the partner could not reach it; only SAS disks with two ports can be shared";

/// What is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// SCSI disks, and NVMe disks, none of which is taken.
    pub disks: Vec<Disk>,
    /// Interfaces.
    pub nics: Vec<Nic>,
    /// The watchdog's device.
    pub watchdog: Option<PathBuf>,
    /// The clock.
    pub clock: Clock,
}

/// A disk as this controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name that the kernel gives it now.
    pub name: String,
    /// Vendor and product.
    pub model: String,
    /// Its name for all the world.
    pub wwn: Option<String>,
    /// Size, bytes.
    pub bytes: u64,
    /// Bytes of a logical block.
    pub block: u32,
    /// Why no disk of its kind is taken.
    pub unsuited: Option<&'static str>,
    /// Who on this machine uses it.
    pub used_by: Option<String>,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.model)
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Name.
    pub name: String,
    /// What it is bonded of.
    pub legs: Vec<String>,
    /// The bond that it is part of.
    pub bond: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IfAddr>,
}

/// How well the clock goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clock {
    /// As others' clocks.
    Synchronized,
    /// Something works at it.
    Waiting,
    /// Nothing does.
    Alone,
    /// It cannot be told.
    Unknown(String),
}

impl Clock {
    /// From what `timedatectl show` prints: `NTP=yes`, `NTPSynchronized=no`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let says = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        match (says("NTPSynchronized"), says("NTP")) {
            (Some("yes"), _) => Clock::Synchronized,
            (Some("no"), Some("yes")) => Clock::Waiting,
            (Some("no"), _) => Clock::Alone,
            _ => Clock::Unknown(format!("timedatectl says {text:?}")),
        }
    }

    /// The kernel's word for it, as timedated passes it on: whoever sets the clock, chrony or timesyncd, tells the kernel.
    pub async fn look() -> Self {
        let program = Program::timedatectl();
        let output = program.run(&["show", "--property=NTP", "--property=NTPSynchronized"], b"");
        match output.await {
            Ok(output) if output.status.success() => Self::of(&String::from_utf8_lossy(&output.stdout)),
            Ok(output) => Self::Unknown(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// Has whatever is installed for it keep the clock.
    ///
    /// # Errors
    /// In words: nothing is, or timedated does not answer.
    pub async fn keep() -> Result<(), String> {
        match Program::timedatectl().run(&["set-ntp", "true"], b"").await {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// SCSI and NVMe disks, and who uses them. `sysfs`: /sys.
///
/// # Errors
/// The kernel does not tell.
pub fn disks(sysfs: &Path) -> Result<Vec<Disk>, String> {
    let found = discover::scan(sysfs).map_err(|error| format!("{}: {error}", sysfs.display()))?;
    // Without them nothing is known to be in use, and then nothing may be taken.
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let (mounts, swaps) = (read("/proc/self/mounts")?, read("/proc/swaps")?);
    let mut disks = vec![];
    for device in found.into_iter().filter(|device| device.kind == DISK) {
        let Some(block) = device.block else {
            continue;
        };
        let class = sysfs.join("class/block");
        let partitions = partitions(&class.join(&block.name));
        // A volume group on a partition holds the partition, not the disk.
        let below = partitions
            .iter()
            .flat_map(|part| entries(&class.join(part).join("holders")));
        let built = block
            .holders
            .iter()
            .cloned()
            .chain(below)
            .find(|holder| !is_ours(&class.join(holder)))
            .map(|holder| format!("{holder} is built on it"));
        disks.push(Disk {
            model: format!("{} {}", device.vendor, device.product).trim().to_owned(),
            wwn: device.wwn.map(|wwn| wwn.to_string()),
            bytes: block.bytes,
            block: block.logical_block,
            unsuited: match device.transport {
                Transport::Sata => Some(SATA),
                Transport::Usb => Some(USB),
                Transport::Nvme => Some(NVME),
                _ if device.vendor == SAT_VENDOR => Some(SATA_BEHIND_SAS),
                // Elsewhere the ports belong to what stands before the disk.
                Transport::Sas if device.multiple_ports == Some(false) => Some(SINGLE_PORT),
                _ => None,
            },
            used_by: user_of(&block.name, &partitions, &mounts, &swaps).or(built),
            name: block.name,
        });
    }
    Ok(disks)
}

/// A device of the kernel's that a pool of this controller is made of: whoever sets up a second time takes nothing from anybody.
fn is_ours(device: &Path) -> bool {
    fs::read_to_string(device.join("dm/name")).is_ok_and(|name| is_of_a_pool(name.trim()))
}

/// Names of the partitions of a disk.
fn partitions(block: &Path) -> Vec<String> {
    entries(block)
        .into_iter()
        .filter(|entry| block.join(entry).join("partition").exists())
        .collect()
}

/// Names in a folder; none, if there is no such folder.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Interfaces, with their addresses.
///
/// # Errors
/// The kernel does not tell.
pub async fn nics(sysfs: &Path) -> Result<Vec<Nic>, String> {
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    let mut nics = vec![];
    for link in netlink.links().await.map_err(|error| error.to_string())? {
        // One that has gone meanwhile has none.
        let addresses = netlink.addresses(&link.name).await.unwrap_or_default();
        let (legs, bond) = bonded(&sysfs.join("class/net").join(&link.name));
        nics.push(Nic {
            name: link.name,
            legs,
            bond,
            addresses,
        });
    }
    Ok(nics)
}

/// What an interface is bonded of, and the bond that it is part of.
#[must_use]
pub fn bonded(interface: &Path) -> (Vec<String>, Option<String>) {
    let legs = fs::read_to_string(interface.join("bonding/slaves")).unwrap_or_default();
    let bond = fs::read_link(interface.join("master"))
        .ok()
        .filter(|_| interface.join("bonding_slave").exists())
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    (legs.split_whitespace().map(str::to_owned).collect(), bond)
}

/// Who uses a disk or a partition of it, by the kernel's list of mounts and of swap space.
#[must_use]
pub fn user_of(disk: &str, partitions: &[String], mounts: &str, swaps: &str) -> Option<String> {
    let is_of = |device: &str| {
        device
            .strip_prefix("/dev/")
            .is_some_and(|name| name == disk || partitions.iter().any(|part| part == name))
    };
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        is_of(words.next()?).then(|| format!("mounted on {}", words.next().unwrap_or_default()))
    });
    let swapped = || {
        let swap = swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .find(|device| is_of(device));
        swap.map(|device| format!("swap space {device}"))
    };
    mounted.or_else(swapped)
}
