//! The disks that the kernel knows, as sysfs shows them.
//!
//! Names like `sda` are given in the order in which disks appear and mean nothing; here a disk is its WWN, which the kernel
//! has read from its vital product data. What is found here is a hint: whoever opens a node asks the disk again who it is,
//! since between a look and an opening the name may have gone to another.
//!
//! ```text
//! class/scsi_device/2:0:1:0/device -> .../2:0:1:0   host:channel:target:unit; the way to it names the transport
//!     type vendor model state vpd_pg80 vpd_pg83
//!     block/sdX   size  ro  queue/logical_block_size  queue/write_cache  holders/
//! ```
//!
//! NVMe namespaces are found too (`class/block/nvme0n1`), so that whoever looks for a disk is told what becomes of it:
//! they are [not supported](NVME).
//!
//! Nothing here opens a device or sends a command. (The class of generic nodes, `scsi_generic`, shows the same devices, but
//! only where the driver sg is loaded.)

use super::decode::{self, Wwn};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why no NVMe disk is served. In words for people.
pub const NVME: &str = "NVMe shelves are not supported: the kernel's NVMe target has no reservations, so that fencing on such \
                        disks could not be proven; SAS disks with two ports are needed";

/// What lies between the controller and a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SAS: the ports are those of the disk itself.
    Sas,
    /// Fibre Channel.
    FibreChannel,
    /// iSCSI.
    Iscsi,
    /// SATA, on a port of its own.
    Sata,
    /// USB.
    Usb,
    /// A virtual machine's.
    Virtio,
    /// NVMe: no SCSI device at all.
    Nvme,
    /// Something else.
    Other,
}

impl Transport {
    /// By the way to the device in sysfs.
    fn of(device: &Path) -> Self {
        for part in device.iter().filter_map(|part| part.to_str()) {
            let begins = |with: &str| part.starts_with(with);
            let found = match part {
                _ if begins("end_device-") => Transport::Sas,
                _ if begins("rport-") => Transport::FibreChannel,
                _ if begins("session") => Transport::Iscsi,
                _ if begins("ata") => Transport::Sata,
                _ if begins("usb") => Transport::Usb,
                _ if begins("virtio") => Transport::Virtio,
                _ => continue,
            };
            return found;
        }
        Transport::Other
    }

    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Sas => "SAS",
            Transport::FibreChannel => "Fibre Channel",
            Transport::Iscsi => "iSCSI",
            Transport::Sata => "SATA",
            Transport::Usb => "USB",
            Transport::Virtio => "virtio",
            Transport::Nvme => "NVMe",
            Transport::Other => "another transport",
        }
    }
}

/// A block device of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name, `sda` for instance: good for opening it now, and for nothing else.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
    /// Bytes of a logical block.
    pub logical_block: u32,
    /// The kernel believes that it has a volatile cache.
    pub write_back: bool,
    /// Devices that are built on it (dm, md).
    pub holders: Vec<String>,
}

/// One path to one SCSI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Host, channel, target and unit, as the kernel writes them.
    pub address: String,
    /// Peripheral device type (SPC-4, table 148); 0 is a disk.
    pub kind: u8,
    /// Vendor; `ATA` where a SATA disk is spoken to by translation (SAT-3, 8.2).
    pub vendor: String,
    /// Product.
    pub product: String,
    /// `running`, `offline`, `transport-offline`, ...
    pub state: String,
    /// What lies between.
    pub transport: Transport,
    /// Serial number, if it says one.
    pub serial: Option<String>,
    /// Its name for all the world, if it says one.
    pub wwn: Option<Wwn>,
    /// It says that it has several ports (MULTIP of INQUIRY, SPC-4, 6.6.2), if the kernel has kept what it says.
    pub multiple_ports: Option<bool>,
    /// Its block device, if the kernel has made one.
    pub block: Option<Block>,
}

/// Every SCSI device under a sysfs, by address; then every NVMe namespace, by name.
///
/// # Errors
/// The class cannot be read. A device that goes away meanwhile is none.
pub fn scan(sysfs: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in entries(&sysfs.join("class/scsi_device"))? {
        found.extend(look(&entry.join("device")));
    }
    let order = |found: &Found| -> Vec<u64> {
        found
            .address
            .split(':')
            .map(|part| part.parse().unwrap_or(u64::MAX))
            .collect()
    };
    found.sort_by_key(order);
    let mut namespaces: Vec<Found> = entries(&sysfs.join("class/block"))?
        .iter()
        .filter_map(|device| namespace(device))
        .collect();
    namespaces.sort_by(|one, other| one.address.cmp(&other.address));
    found.append(&mut namespaces);
    Ok(found)
}

/// Paths in a folder of sysfs; none, where the kernel has no such class.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// One NVMe namespace; `None`: another block device, a partition, or one path of several to a namespace, which the kernel
/// hides.
fn namespace(device: &Path) -> Option<Found> {
    let name = device.file_name()?.to_str()?.to_owned();
    let hidden = line(&device.join("hidden")).is_some_and(|hidden| hidden == "1");
    if !name.starts_with("nvme") || hidden || device.join("partition").exists() {
        return None;
    }
    Some(Found {
        address: name.clone(),
        kind: 0,
        vendor: String::new(),
        product: line(&device.join("device/model")).unwrap_or_default(),
        state: line(&device.join("device/state")).unwrap_or_default(),
        transport: Transport::Nvme,
        serial: line(&device.join("device/serial")),
        wwn: line(&device.join("wwid")).and_then(|wwid| wwid.parse().ok()),
        multiple_ports: None,
        block: of_block(device),
    })
}

/// One device; `None` if it has gone.
fn look(device: &Path) -> Option<Found> {
    let device = device.canonicalize().ok()?;
    let address = device.file_name()?.to_str()?.to_owned();
    let kind = line(&device.join("type"))?.parse().ok()?;
    let page = |name: &str| fs::read(device.join(name)).ok();
    let designators = page("vpd_pg83").and_then(|bytes| decode::designators(&bytes).ok());
    Some(Found {
        address,
        kind,
        vendor: line(&device.join("vendor"))?,
        product: line(&device.join("model"))?,
        state: line(&device.join("state")).unwrap_or_default(),
        transport: Transport::of(&device),
        serial: page("vpd_pg80").and_then(|bytes| decode::serial(&bytes).ok()),
        wwn: designators.and_then(|names| Wwn::of(&names)),
        multiple_ports: page("inquiry").and_then(|bytes| Some(bytes.get(6)? & 0x10 != 0)),
        block: block(&device.join("block")),
    })
}

fn block(folder: &Path) -> Option<Block> {
    of_block(&fs::read_dir(folder).ok()?.next()?.ok()?.path())
}

fn of_block(device: &Path) -> Option<Block> {
    let number = |name: &str| line(&device.join(name))?.parse::<u64>().ok();
    // Whatever the logical block, sysfs counts sectors of 512 bytes.
    let bytes = number("size")?.checked_mul(512)?;
    let mut holders: Vec<String> = fs::read_dir(device.join("holders"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    holders.sort_unstable();
    Some(Block {
        name: device.file_name()?.to_str()?.to_owned(),
        bytes,
        logical_block: number("queue/logical_block_size")?.try_into().ok()?,
        write_back: line(&device.join("queue/write_cache")).is_some_and(|text| text == "write back"),
        holders,
    })
}

/// The one line of an attribute, without the blanks around it.
fn line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
