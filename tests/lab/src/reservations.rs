//! Whether the shelf is what an array needs, asked of both controllers' kernels before anything is installed: a disk that
//! both reach, and whose reservations hold against the one who lost it.
//!
//! Every command goes through /dev/sgN: a block device that was opened for writing is scanned again by udev when it is
//! closed, and its links are gone for a moment.

use crate::error::{Error, Result};
use crate::machine::{LOOK, Machine, SETTLED};
use crate::shelf::{DATA, QUORUM};
use crate::ssh::Said;

/// What sg_dd says of a command that was ended by that status; its exit code is one for all that go wrong.
const CONFLICT: &str = "Reservation Conflict";
/// What sg_persist says of a command that was not executed, since the disk had something to tell first.
const TOLD: &str = "Unit Attention";
/// Write exclusive, registrants only (SPC-4, 6.13.3.4): the one that pools are fenced by.
const KIND: &str = "--prout-type=5";

/// Registers, reserves and preempts on one disk from both sides; leaves it without a registration.
///
/// # Errors
/// [`Error::Broken`]: a write passed that must not, or one did not that must.
pub fn hold(a: (Machine, &Disk), b: (Machine, &Disk)) -> Result<()> {
    let side = |(machine, disk): (Machine, &Disk)| Side {
        machine,
        device: disk.generic.clone(),
    };
    let (a, b) = (side(a), side(b));
    a.persist("--register-ignore --param-sark=0xa1")?;
    a.persist(&format!("--reserve --param-rk=0xa1 {KIND}"))?;
    a.writes(true, "a holds the reservation")?;
    b.writes(false, "a holds the reservation, b is not registered")?;
    b.persist("--register-ignore --param-sark=0xb1")?;
    b.persist(&format!(
        "--preempt-abort --param-rk=0xb1 --param-sark=0xa1 {KIND}"
    ))?;
    b.writes(true, "b has preempted a")?;
    a.writes(false, "b has preempted a")?;
    b.persist("--clear --param-rk=0xb1")?;
    // Not tried by a write: the shelf's log judges the disk from its first one, and nobody may write without a key.
    let said = a
        .machine
        .run(&format!("sg_persist --no-inquiry --in --read-keys {}", a.device))?;
    if said.contains("NO registered") {
        Ok(())
    } else {
        Err(Error::broken("every registration is cleared", said))
    }
}

/// Times that both sides preempt each other.
const RACES: usize = 4;

/// Both sides preempt each other in the same moment, again and again: each time one of them is registered afterwards, holds
/// the disk, and can write; the other cannot. Leaves the disk without a registration.
///
/// # Errors
/// [`Error::Broken`]: both passed, or none.
pub fn race(a: (Machine, &Disk), b: (Machine, &Disk)) -> Result<()> {
    let side = |(machine, disk): (Machine, &Disk)| Side {
        machine,
        device: disk.generic.clone(),
    };
    let (a, b) = (side(a), side(b));
    for round in 0..RACES {
        a.persist("--register-ignore --param-sark=0xa1")?;
        a.persist(&format!("--reserve --param-rk=0xa1 {KIND}"))?;
        b.persist("--register-ignore --param-sark=0xb1")?;
        std::thread::scope(|scope| {
            let other = scope.spawn(|| a.preempt("0xa1", "0xb1"));
            let this = b.preempt("0xb1", "0xa1");
            other
                .join()
                .unwrap_or_else(|_| Err(Error::step("preempt", "a thread died")))
                .and(this)
        })?;
        let left = a.keys()?;
        let (winner, loser, key) = match left.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["0xa1"] => (&a, &b, "0xa1"),
            ["0xb1"] => (&b, &a, "0xb1"),
            _ => {
                return Err(Error::broken(
                    "one of two that preempt each other is left",
                    format!("{left:?}"),
                ));
            }
        };
        winner.writes(true, &format!("race {round}"))?;
        loser.writes(false, &format!("race {round}"))?;
        winner.persist(&format!("--clear --param-rk={key}"))?;
    }
    Ok(())
}

/// Every key that is registered on a disk.
///
/// # Errors
/// The disk does not answer.
pub fn keys(machine: &Machine, disk: &Disk) -> Result<Vec<String>> {
    let side = Side {
        machine: machine.clone(),
        device: disk.generic.clone(),
    };
    side.keys()
}

/// What a stranger registers.
pub const STRANGER: &str = "0xbadbadbad";

/// A stranger registers itself from that machine, and preempts whoever holds the disk. Returns its key.
///
/// # Errors
/// Nobody holds the disk, or the disk refuses.
pub fn take(machine: &Machine, disk: &Disk) -> Result<String> {
    let side = Side {
        machine: machine.clone(),
        device: disk.generic.clone(),
    };
    let said = machine.run(&format!(
        "sg_persist --no-inquiry --in --read-reservation {}",
        side.device
    ))?;
    let holder = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Key="))
        .ok_or_else(|| Error::step("find the holder of the disk", said.clone()))?;
    register(machine, disk)?;
    side.persist(&format!(
        "--preempt-abort --param-rk={STRANGER} --param-sark={holder} {KIND}"
    ))?;
    Ok(STRANGER.into())
}

/// A stranger registers itself from that machine, and does no more.
///
/// # Errors
/// The disk refuses.
pub fn register(machine: &Machine, disk: &Disk) -> Result<()> {
    let side = Side {
        machine: machine.clone(),
        device: disk.generic.clone(),
    };
    side.persist(&format!("--register-ignore --param-sark={STRANGER}"))
}

/// A stranger clears the disk: every registration is gone.
///
/// # Errors
/// The disk refuses: somebody has preempted the stranger, which is as good.
pub fn clear(machine: &Machine, disk: &Disk, key: &str) -> Result<()> {
    let script = format!(
        "sg_persist --no-inquiry --out --clear --param-rk={key} {}",
        disk.generic
    );
    let said = machine.try_run(&script, LOOK)?;
    if said.status.success() || (said.out + &said.err).to_lowercase().contains("conflict") {
        Ok(())
    } else {
        Err(Error::step("clear the disk", said.status))
    }
}

/// A disk of the shelf as a machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Number of the unit, which is the slot of the shelf.
    pub unit: u16,
    /// Its name, the same through both ports.
    pub wwn: String,
    /// Its character device.
    pub generic: String,
}

/// Every disk of the shelf, by slot.
///
/// # Errors
/// One is missing, or is there twice.
pub fn disks(machine: &Machine) -> Result<Vec<Disk>> {
    // The name that udev has read from the disk (VPD 83h, NAA).
    let each = "for disk in /sys/class/scsi_generic/*; do \
                block=$(basename \"$disk\"/device/block/*); \
                wwn=$(udevadm info --query=property --property=ID_WWN --value --name=\"/dev/$block\"); \
                echo \"$(basename \"$(readlink -f \"$disk/device\")\") naa.${wwn#0x} /dev/$(basename \"$disk\")\"; done";
    let text = machine.run(&format!("{SETTLED}; {each}"))?;
    in_slots(&text).map_err(|why| Error::step(format!("find the disks on {}", machine.node), why))
}

/// Lines `HOST:CHANNEL:TARGET:LUN WWN DEVICE`, in the order of the units.
fn in_slots(text: &str) -> std::result::Result<Vec<Disk>, String> {
    let mut found = vec![];
    for line in text.lines() {
        let [address, wwn, generic] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is no disk"));
        };
        let unit = address.rsplit(':').next().and_then(|word| word.parse().ok());
        found.push(Disk {
            unit: unit.ok_or_else(|| format!("{address:?} is no address"))?,
            wwn: wwn.to_owned(),
            generic: generic.to_owned(),
        });
    }
    found.sort_by_key(|disk| disk.unit);
    let wanted: Vec<u16> = (0..DATA + QUORUM).collect();
    let units: Vec<u16> = found.iter().map(|disk| disk.unit).collect();
    if units == wanted {
        Ok(found)
    } else {
        Err(format!("units {units:?} where {wanted:?} should be"))
    }
}

/// A disk as one controller has it.
struct Side {
    machine: Machine,
    device: String,
}

impl Side {
    fn persist(&self, words: &str) -> Result<()> {
        let said = self.out(words)?;
        if said.status.success() {
            return Ok(());
        }
        Err(Error::step(
            format!("on {}: sg_persist {words} {}", self.machine.node, self.device),
            said.out + &said.err,
        ))
    }

    /// PERSISTENT RESERVE OUT, given again where the disk told something in its place: that a key was preempted, once.
    fn out(&self, words: &str) -> Result<Said> {
        let script = format!("sg_persist --no-inquiry --out {words} {}", self.device);
        let said = self.machine.try_run(&script, LOOK)?;
        if said.status.success() || !(said.out.clone() + &said.err).contains(TOLD) {
            return Ok(said);
        }
        self.machine.try_run(&script, LOOK)
    }

    fn keys(&self) -> Result<Vec<String>> {
        let said = self.machine.run(&format!(
            "sg_persist --no-inquiry --in --read-keys {}",
            self.device
        ))?;
        let words = said.lines().map(str::trim);
        Ok(words
            .filter(|word| word.starts_with("0x"))
            .map(str::to_owned)
            .collect())
    }

    /// Takes another's key away; one who has been preempted before is refused.
    fn preempt(&self, own: &str, other: &str) -> Result<()> {
        let words = format!("--preempt-abort --param-rk={own} --param-sark={other} {KIND}");
        let said = self.out(&words)?;
        let text = said.out + &said.err;
        if said.status.success() || text.to_lowercase().contains("conflict") {
            Ok(())
        } else {
            Err(Error::step(words, text))
        }
    }

    fn writes(&self, may: bool, when: &str) -> Result<()> {
        let script = format!("sg_dd if=/dev/zero of={} bs=512 count=1", self.device);
        let said = self.machine.try_run(&script, LOOK)?;
        let refused = !said.status.success() && said.err.contains(CONFLICT);
        if may && said.status.success() || !may && refused {
            return Ok(());
        }
        let right = if may { "passes" } else { "is refused" };
        Err(Error::broken(
            format!("{when}: a write of {} {right}", self.machine.node),
            format!("{}: {}", said.status, said.err.trim()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_stand_in_the_order_of_their_units() {
        let lines: Vec<String> = (0..DATA + QUORUM)
            .rev()
            .map(|unit| format!("0:0:0:{unit} naa.300000000000000{unit} /dev/sg{unit}"))
            .collect();
        let found = in_slots(&lines.join("\n")).expect("all are there");
        assert_eq!(
            (found[0].unit, found[0].wwn.as_str()),
            (0, "naa.3000000000000000")
        );
        assert_eq!(found.len(), usize::from(DATA + QUORUM));
        let refused = in_slots(&lines[1..].join("\n")).expect_err("one is missing");
        assert!(refused.contains("should be"), "{refused}");
        assert!(in_slots("nonsense").is_err());
    }
}
