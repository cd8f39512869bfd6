//! Which of the devices that the kernel has found is the disk of a slot: pure, from what sysfs shows; and what is asked of
//! the disk itself before it is served.
//!
//! A wrong disk is worse than none, so everything that is not as it must be is a reason against. The reasons are told, and
//! looked at again whenever the kernel tells of a device.

use crate::config::Disk;
use pollux_block_frame::EndpointInfo;
use pollux_platform::scsi::decode::{
    BlockLimits, Capabilities, Capacity, Inquiry, Medium, Wwn, designators, page, serial, supported_pages,
};
use pollux_platform::scsi::discover::{self, Found, Transport};
use pollux_platform::scsi::{ScsiDisk, ScsiError, command, run};
use uuid::Uuid;

/// TYPE of the reservation that guards a pool: Write Exclusive - Registrants Only (SPC-4, table 222).
const GUARD: u8 = 5;
/// Logical blocks that the layers above can use, bytes.
const BLOCKS: [u32; 2] = [512, 4096];

/// What becomes of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// This is its disk.
    Serve(&'a Found),
    /// Its disk is not there.
    Absent,
    /// Something is there that is not served, and why.
    Refused(String),
}

/// Chooses the device of a slot: among several paths to one disk, that of the lowest address against which nothing stands.
/// (One that is served already is not chosen again while it is up.)
pub(crate) fn choose<'a>(disk: &Disk, found: &'a [Found]) -> Verdict<'a> {
    let same: Vec<&Found> = found.iter().filter(|one| one.wwn == Some(disk.wwn)).collect();
    let Some(&first) = same.first() else {
        return Verdict::Absent;
    };
    let what = |one: &Found| (one.serial.clone(), one.block.as_ref().map(|block| block.bytes));
    if let Some(other) = same.iter().find(|one| what(one) != what(first)) {
        let name = |one: &Found| {
            let (serial, bytes) = what(one);
            let bytes = bytes.map_or("no".to_owned(), |bytes| bytes.to_string());
            let serial = serial.as_deref().unwrap_or("none");
            format!("{} (serial {serial}, {bytes} bytes)", one.address)
        };
        return Verdict::Refused(format!(
            "two devices call themselves {}: {} and {}; a WWN belongs to one disk",
            disk.wwn,
            name(first),
            name(other)
        ));
    }
    let sound = same.into_iter().find(|one| objection(disk, one).is_none());
    match (sound, objection(disk, first)) {
        (Some(found), _) => Verdict::Serve(found),
        (None, reason) => Verdict::Refused(reason.unwrap_or_default()),
    }
}

/// The kernel sends commands to it, or will as soon as it can.
pub(crate) fn is_up(found: &Found) -> bool {
    matches!(found.state.as_str(), "running" | "blocked")
}

/// What stands against a device, by what sysfs shows of it.
fn objection(disk: &Disk, found: &Found) -> Option<String> {
    let at = format!("{} at {}", disk.wwn, found.address);
    if found.kind != 0 {
        return Some(format!(
            "{at} is a device of type {}; a disk has type 0",
            found.kind
        ));
    }
    if found.vendor == "ATA" || found.transport == Transport::Sata {
        return Some(format!(
            "{at} is a SATA disk: it has one port and no persistent reservations; SAS disks with two ports are needed"
        ));
    }
    if found.transport == Transport::Nvme {
        return Some(format!("{at} is an NVMe disk. {}", discover::NVME));
    }
    if found.transport == Transport::Usb {
        return Some(format!(
            "{at} is a USB disk: it has one port; SAS disks with two ports are needed"
        ));
    }
    if !is_up(found) {
        return Some(format!(
            "{at}: the kernel has set it to \"{}\"; it must be \"running\"",
            found.state
        ));
    }
    let Some(block) = &found.block else {
        return Some(format!(
            "{at} has no block device; the kernel's sd driver has to take it"
        ));
    };
    if !block.holders.is_empty() {
        return Some(format!(
            "{at} ({}) is a part of {}; nothing else may use a disk of the shelf",
            block.name,
            block.holders.join(", ")
        ));
    }
    size(disk, &at, block.bytes, block.logical_block)
}

fn size(disk: &Disk, at: &str, bytes: u64, block: u32) -> Option<String> {
    if !BLOCKS.contains(&block) {
        return Some(format!(
            "{at} has logical blocks of {block} bytes; 512 or 4096 are needed"
        ));
    }
    match disk.bytes {
        Some(wanted) if wanted != bytes => Some(format!(
            "{at} has {bytes} bytes; disk.bytes of {} says {wanted}",
            disk.slot
        )),
        _ => None,
    }
}

/// What the disk itself has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Identity and geometry.
    pub(crate) info: EndpointInfo,
    /// Most blocks of a COMPARE AND WRITE; 0: none.
    pub(crate) swap: u8,
    /// It can keep registrations through a loss of power.
    pub(crate) persists: bool,
    /// In words, for the journal.
    pub(crate) words: String,
}

/// The identity of a disk by its name: the same on both controllers, since both are told the same name.
fn identity(wwn: Wwn) -> Uuid {
    Uuid::from_bytes(wwn.to_bytes())
}

/// Asks the disk behind an open node who and what it is. The name under which it was opened proves nothing: between the look
/// at sysfs and the opening it may have gone to another disk.
///
/// # Errors
/// Why it is not served.
pub(crate) fn interview(disk: &Disk, found: &Found, path: &dyn ScsiDisk) -> Result<Facts, String> {
    let at = format!("{} at {}", disk.wwn, found.address);
    let failed = |error: ScsiError| format!("{at}: {error}");
    let ask = |command| run(path, &command).map_err(failed);
    let names = designators(&ask(command::vital(page::IDENTIFICATION))?).map_err(failed)?;
    match Wwn::of(&names) {
        Some(wwn) if wwn == disk.wwn => {}
        Some(other) => {
            return Err(format!(
                "{at}: the disk behind the node calls itself {other}; looking again"
            ));
        }
        None => {
            return Err(format!(
                "{at}: the disk behind the node says no name; looking again"
            ));
        }
    }
    let inquiry = Inquiry::decode(&ask(command::inquiry())?).map_err(failed)?;
    if inquiry.device != 0 || inquiry.removable {
        return Err(format!(
            "{at} is a device of type {:#04x}{}; a disk that stays has type 0",
            inquiry.device,
            if inquiry.removable {
                " with a medium that can be taken out"
            } else {
                ""
            }
        ));
    }
    if inquiry.vendor == "ATA" {
        return Err(format!(
            "{at} is a SATA disk behind a translation: it has no persistent reservations"
        ));
    }
    // On SAS the ports are the disk's own; elsewhere they belong to what stands before it.
    if found.transport == Transport::Sas && !inquiry.multiple_ports {
        return Err(format!(
            "{at} says that it has a single port (MULTIP); the partner could not reach it"
        ));
    }
    match run(path, &command::test_unit_ready()) {
        // Somebody holds it exclusively: it is ready all the same.
        Ok(_) | Err(ScsiError::ReservationConflict { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    let capacity = Capacity::decode(&ask(command::read_capacity())?).map_err(failed)?;
    if let Some(block) = found
        .block
        .as_ref()
        .filter(|block| block.bytes != capacity.bytes())
    {
        return Err(format!(
            "{at} says that it has {} bytes, and the kernel says {} of {}; rescan the device",
            capacity.bytes(),
            block.bytes,
            block.name
        ));
    }
    if let Some(reason) = size(disk, &at, capacity.bytes(), capacity.block_size) {
        return Err(reason);
    }
    let pages = supported_pages(&ask(command::vital(page::SUPPORTED))?).map_err(failed)?;
    let has = |page| pages.contains(&page);
    let serial = match has(page::SERIAL) {
        true => serial(&ask(command::vital(page::SERIAL))?).map_err(failed)?,
        false => String::new(),
    };
    let swap = match has(page::BLOCK_LIMITS) {
        true => {
            BlockLimits::decode(&ask(command::vital(page::BLOCK_LIMITS))?)
                .map_err(failed)?
                .compare_and_write
        }
        false => 0,
    };
    let medium = match has(page::CHARACTERISTICS) {
        true => Medium::decode(&ask(command::vital(page::CHARACTERISTICS))?).map_err(failed)?,
        false => Medium::Unknown,
    };
    let persists = match disk.quorum {
        true => false,
        false => reservations(&at, path)?,
    };
    Ok(Facts {
        words: format!(
            "{} {} {}, {medium}, {} bytes, {}",
            inquiry.vendor,
            inquiry.product,
            inquiry.revision,
            capacity.bytes(),
            found.transport.as_str()
        ),
        info: EndpointInfo {
            block_size: capacity.block_size,
            physical_block_size: capacity.physical_block_size,
            blocks: capacity.blocks,
            id: identity(disk.wwn),
            volatile_cache: path.volatile_cache(),
            serial: if serial.is_empty() {
                disk.wwn.to_string()
            } else {
                serial
            },
        },
        swap,
        persists,
    })
}

/// Whether registrations persist; an error where there are no reservations that could guard a pool.
fn reservations(at: &str, path: &dyn ScsiDisk) -> Result<bool, String> {
    let report = run(
        path,
        &command::reserve_in(command::ReserveIn::ReportCapabilities, 8),
    );
    match report.and_then(|bytes| Capabilities::decode(&bytes)) {
        Ok(capabilities) if capabilities.has(GUARD) => Ok(capabilities.persist),
        Ok(_) => Err(format!(
            "{at} has no reservation of type {GUARD} (write exclusive, registrants only), which guards a pool"
        )),
        Err(error) => Err(format!(
            "{at} does not say what reservations it has ({error}); without them a pool cannot be guarded. A disk for the \
             quorum alone needs none: say `quorum = true`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::DiskIndex;
    use pollux_platform::fake::scsi::{FakeDisk, Model};

    const WWN: Wwn = Wwn::Naa(0x5000_c500_a1b2_c3d7);

    fn disk() -> Disk {
        Disk {
            slot: DiskIndex::new(3),
            wwn: WWN,
            bytes: None,
            quorum: false,
        }
    }

    fn refusal(disk: &Disk, found: &[Found]) -> String {
        match choose(disk, found) {
            Verdict::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_disk_is_chosen_by_its_name() {
        let fake = FakeDisk::new(Model::new(WWN));
        let other = FakeDisk::new(Model::new(Wwn::Naa(0x5000_0000_0000_0001)));
        let found = [
            other.found("1:0:0:0", "sda"),
            fake.found("1:0:1:0", "sdc"),
            fake.found("2:0:0:0", "sdb"),
        ];
        assert_eq!(choose(&disk(), &found), Verdict::Serve(&found[1]));
        let mut broken = found.clone();
        broken[1].state = "transport-offline".to_owned();
        assert_eq!(choose(&disk(), &broken), Verdict::Serve(&broken[2]));
        assert_eq!(choose(&disk(), &found[..1]), Verdict::Absent);
    }

    #[test]
    fn what_is_not_served_is_said_with_its_reason() {
        let fake = FakeDisk::new(Model::new(WWN));
        let good = fake.found("1:0:1:0", "sdc");
        type Change = fn(&mut Found);
        let cases: [(&str, Change); 9] = [
            ("NVMe shelves are not supported", |found| {
                found.transport = Transport::Nvme
            }),
            ("type 13", |found| found.kind = 13),
            ("SATA", |found| found.vendor = "ATA".to_owned()),
            ("SATA", |found| found.transport = Transport::Sata),
            ("USB", |found| found.transport = Transport::Usb),
            ("\"offline\"", |found| found.state = "offline".to_owned()),
            ("no block device", |found| found.block = None),
            ("part of dm-0", |found| {
                found.block.as_mut().expect("one").holders.push("dm-0".to_owned())
            }),
            ("520 bytes", |found| {
                found.block.as_mut().expect("one").logical_block = 520
            }),
        ];
        for (words, change) in cases {
            let mut found = good.clone();
            change(&mut found);
            let reason = refusal(&disk(), &[found]);
            assert!(
                reason.contains(words) && reason.contains("naa.5000c500a1b2c3d7"),
                "{reason}"
            );
        }
        let sized = Disk {
            bytes: Some(1),
            ..disk()
        };
        assert!(refusal(&sized, std::slice::from_ref(&good)).contains("disk.bytes of disk-03 says 1"));
        let mut copy = fake.found("2:0:0:0", "sdd");
        copy.serial = Some("another".to_owned());
        let reason = refusal(&disk(), &[good, copy]);
        assert!(
            reason.contains("two devices") && reason.contains("another"),
            "{reason}"
        );
    }

    #[test]
    fn the_disk_itself_is_asked() {
        let fake = FakeDisk::new(Model::new(WWN));
        let (found, port) = (fake.found("1:0:1:0", "sdc"), fake.port(1));
        fake.attention(1, 0x29, 0);
        let facts = interview(&disk(), &found, &port).expect("served");
        assert_eq!(
            (
                facts.info.blocks,
                facts.info.block_size,
                facts.info.physical_block_size
            ),
            (16384, 512, 4096)
        );
        assert_eq!(
            facts.info.id,
            interview(&disk(), &found, &fake.port(2)).expect("served").info.id
        );
        assert!(
            facts.persists && facts.swap == 8 && facts.words.contains("solid state"),
            "{}",
            facts.words
        );
        type Change = fn(&mut Model);
        let cases: [(&str, Change); 4] = [
            ("calls itself naa.5000000000000001", |model| {
                model.wwn = Wwn::Naa(0x5000_0000_0000_0001)
            }),
            ("single port", |model| model.multiple_ports = false),
            ("SATA", |model| model.vendor = "ATA".to_owned()),
            ("does not say what reservations", |model| {
                model.rejects_in.insert(2);
            }),
        ];
        for (words, change) in cases {
            let mut model = Model::new(WWN);
            change(&mut model);
            let port = FakeDisk::new(model).port(1);
            let reason = interview(&disk(), &found, &port).expect_err(words);
            assert!(reason.contains(words) && reason.contains("1:0:1:0"), "{reason}");
        }
        let mut without = Model::new(WWN);
        without.rejects_in.insert(2);
        let quorum = Disk {
            quorum: true,
            ..disk()
        };
        interview(&quorum, &found, &FakeDisk::new(without).port(1))
            .expect("a quorum disk needs no reservations");
        let mut larger = found.clone();
        larger.block.as_mut().expect("one").bytes += 512;
        let reason = interview(&disk(), &larger, &port).expect_err("sizes differ");
        assert!(reason.contains("rescan"), "{reason}");
        fake.cut(1, true);
        let reason = interview(&disk(), &found, &port).expect_err("no path");
        assert!(reason.contains("lost on the way"), "{reason}");
    }
}
