//! Programs that are none: LVM and the device mapper of one machine over disks that two machines share. A fake, not a mock:
//! it holds what stands on the disks and in each kernel, and obeys the rules that matter here:
//!
//! * a device that another one stands on is not removed, and a disk has one gate;
//! * LVM sees the devices that it is told of, and of those only what does not lead nowhere;
//! * a group of another system is read and never changed or activated; one of which a disk is missing is activated and
//!   never changed, except by what brings another disk into its place;
//! * a mirrored group goes on without a disk that leads nowhere, and holds on to its gate until it is repaired.

use crate::kernel::Number;
use crate::names;
use crate::programs::{Beginning, Found, Mount, Program, ToolError, Tools};
use crate::report::{Lv, Vg};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Disks that both machines reach.
#[derive(Debug, Default)]
pub struct Shelf {
    /// By identity: number in the kernel, bytes, and the group that stands on it.
    disks: BTreeMap<[u8; 16], (Number, u64, Option<String>)>,
    /// Groups, as the disks describe them.
    groups: BTreeMap<String, Vg>,
    /// Disks of a group that stand nowhere any more: they were overwritten.
    ghosts: BTreeMap<String, u64>,
    /// By group: on which disk each image of its data is.
    images: BTreeMap<String, Vec<[u8; 16]>>,
    /// Disks to which a copy runs.
    copying: BTreeSet<[u8; 16]>,
    /// Devices on which an XFS stands, by their names, and how large it is.
    xfs: BTreeMap<String, u64>,
}

impl Shelf {
    /// Disks of a group that are not there.
    fn missing(&self, group: &str, seen: &BTreeSet<[u8; 16]>) -> u64 {
        let members = (self.disks.iter()).filter(|(_, disk)| disk.2.as_deref() == Some(group));
        let unseen = members.filter(|(id, _)| !seen.contains(*id)).count() as u64;
        unseen + self.ghosts.get(group).copied().unwrap_or(0)
    }

    /// An image of its data is on a disk that is not there, or is not the group's any more.
    fn is_torn(&self, group: &str, seen: &BTreeSet<[u8; 16]>) -> bool {
        let whole = |id: &[u8; 16]| seen.contains(id) && self.disks[id].2.as_deref() == Some(group);
        !self.images.get(group).into_iter().flatten().all(whole)
    }

    /// The disk of a number.
    fn by_number(&self, numbers: &BTreeSet<Number>) -> Option<[u8; 16]> {
        let mut disks = self.disks.iter();
        let found = disks.find(|(_, (number, ..))| numbers.contains(number));
        found.map(|(id, _)| *id)
    }
}

/// A mapped device: number, table, and the numbers that it stands on.
type Mapped = (Number, String, BTreeSet<Number>);

/// One machine.
#[derive(Debug, Default)]
pub struct FakeTools {
    shelf: Arc<Mutex<Shelf>>,
    /// By name.
    mapped: Mutex<BTreeMap<String, Mapped>>,
    /// Disks to which this machine has no path.
    lost: Mutex<BTreeSet<[u8; 16]>>,
    /// UUIDs of those that have one.
    uuids: Mutex<BTreeMap<String, String>>,
    /// What is mounted: where, which device, and how.
    mounts: Mutex<BTreeMap<String, (String, String)>>,
    /// Volumes that a program has open.
    open: Mutex<BTreeSet<String>>,
    /// A command that fails when it is called next.
    breaks: Mutex<Option<String>>,
    /// Every call.
    calls: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Outcome = Result<String, String>;

impl FakeTools {
    /// Two machines at one shelf of so many disks.
    #[must_use]
    pub fn pair(disks: u8) -> [Self; 2] {
        let all = (0..disks).map(|disk| ([disk; 16], ((8, u32::from(disk) * 16), 512 << 20, None)));
        let shelf = Arc::new(Mutex::new(Shelf {
            disks: all.collect(),
            ..Shelf::default()
        }));
        [0, 1].map(|_| FakeTools {
            shelf: shelf.clone(),
            ..FakeTools::default()
        })
    }

    /// This machine loses its path to a disk, or has it again.
    pub fn lose(&self, disk: [u8; 16], lost: bool) {
        match lost {
            true => lock(&self.lost).insert(disk),
            false => lock(&self.lost).remove(&disk),
        };
    }

    /// Another disk stands where this one stood: another identity, and nothing on it.
    pub fn exchange(&self, old: [u8; 16], new: [u8; 16], bytes: u64) {
        let mut shelf = lock(&self.shelf);
        if let Some((number, _, group)) = shelf.disks.remove(&old) {
            // And another number in the kernel.
            shelf.disks.insert(new, ((number.0, number.1 + 1), bytes, None));
            if let Some(group) = group {
                *shelf.ghosts.entry(group).or_default() += 1;
            }
        }
    }

    /// How a file system is mounted: the options, and the bytes of it.
    pub fn mount_of(&self, at: &str) -> Option<(String, u64)> {
        let (device, options) = lock(&self.mounts).get(at)?.clone();
        Some((options, lock(&self.shelf).xfs.get(&device).copied()?))
    }

    /// A program or a mount has a device open.
    fn is_open(&self, name: &str) -> bool {
        lock(&self.open).contains(name) || lock(&self.mounts).values().any(|(device, _)| device == name)
    }

    /// The next call of a command fails.
    pub fn break_at(&self, command: &str) {
        *lock(&self.breaks) = Some(command.to_owned());
    }

    /// The copy to every disk has come to its end.
    pub fn copied(&self) {
        lock(&self.shelf).copying.clear();
    }

    /// A program opens a mapped device, or closes it.
    pub fn hold(&self, name: &str, open: bool) {
        match open {
            true => lock(&self.open).insert(name.to_owned()),
            false => lock(&self.open).remove(name),
        };
    }

    /// Everything that was run since this was asked last, without the words that are the same each time.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.calls))
    }

    /// The system ID that the disks show of a group.
    pub fn owner(&self, group: &str) -> Option<String> {
        lock(&self.shelf).groups.get(group).map(|vg| vg.system_id.clone())
    }

    /// The table of a mapped device.
    pub fn table(&self, name: &str) -> Option<String> {
        lock(&self.mapped).get(name).map(|(_, table, _)| table.clone())
    }

    fn add(&self, name: &str, table: String, on: BTreeSet<Number>) {
        let mut mapped = lock(&self.mapped);
        let minor = mapped
            .values()
            .map(|(number, ..)| number.1 + 1)
            .max()
            .unwrap_or(0);
        mapped.insert(name.to_owned(), ((253, minor), table, on));
    }

    fn dmsetup(&self, args: &[&str]) -> Outcome {
        let lines = |line: &dyn Fn(&String, &Mapped) -> String| {
            let mapped = lock(&self.mapped);
            Ok(mapped
                .iter()
                .map(|(name, device)| line(name, device) + "\n")
                .collect())
        };
        match args {
            ["info", "-c", "--noheadings", "-o", "uuid", name] => {
                let uuids = lock(&self.uuids);
                Ok(uuids.get(*name).ok_or("no such device")?.clone() + "\n")
            }
            ["info", ..] => lines(&|name, (number, ..)| format!("{name},{},{}", number.0, number.1)),
            ["table"] => lines(&|name, (_, table, _)| format!("{name}: {table}")),
            ["status", "--noflush"] => {
                let letters = self.letters();
                lines(&|name, (_, table, _)| {
                    let status = match table.split_whitespace().nth(2) {
                        Some("thin-pool") => {
                            "0 819200 thin-pool 1 10/4096 100/6400 - rw discard_passdown error_if_no_space - 1024"
                                .to_owned()
                        }
                        Some("raid") => {
                            let letters = letters.get(name).cloned().unwrap_or_default();
                            let (done, action) = match letters.contains('a') {
                                true => (2, "recover"),
                                false => (8, "idle"),
                            };
                            let images = letters.len();
                            format!("0 819200 raid raid1 {images} {letters} {done}/8 {action} 0 0 -")
                        }
                        _ => "0 1 linear ".to_owned(),
                    };
                    format!("{name}: {status}")
                })
            }
            ["rename", from, to] => {
                let (mut mapped, mut uuids) = (lock(&self.mapped), lock(&self.uuids));
                let device = mapped.remove(*from).ok_or("no such device")?;
                mapped.insert((*to).to_owned(), device);
                if let Some(uuid) = uuids.remove(*from) {
                    uuids.insert((*to).to_owned(), uuid);
                }
                Ok(String::new())
            }
            ["create", name, "--uuid", uuid, "--table", table] => {
                let disk = table
                    .split_whitespace()
                    .nth(3)
                    .and_then(|word| word.split_once(':'));
                let number = disk.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
                let number = number.ok_or("no such device")?;
                let taken = lock(&self.mapped)
                    .iter()
                    .any(|(other, (.., on))| other == name || on.contains(&number));
                let known = lock(&self.uuids).values().any(|other| other == uuid);
                match taken || known {
                    true => Err("Device or resource busy".to_owned()),
                    false => {
                        self.add(name, (*table).to_owned(), BTreeSet::from([number]));
                        lock(&self.uuids).insert((*name).to_owned(), (*uuid).to_owned());
                        Ok(String::new())
                    }
                }
            }
            ["wipe_table", "--noflush", "--nolockfs", name] => {
                let mut mapped = lock(&self.mapped);
                let (_, table, on) = mapped.get_mut(*name).ok_or("no such device")?;
                *table = "0 1044480 error ".to_owned();
                on.clear();
                Ok(String::new())
            }
            ["remove", name] => {
                let mut mapped = lock(&self.mapped);
                let number = mapped.get(*name).ok_or("no such device")?.0;
                let used = mapped.values().any(|(.., on)| on.contains(&number)) || self.is_open(name);
                match used {
                    true => Err("Device or resource busy".to_owned()),
                    false => {
                        mapped.remove(*name);
                        lock(&self.uuids).remove(*name);
                        Ok(String::new())
                    }
                }
            }
            other => Err(format!("dmsetup does not know {other:?}")),
        }
    }

    /// Identities of the disks behind gates that lead to one.
    fn seen(&self, gates: &[&str]) -> BTreeSet<[u8; 16]> {
        let (shelf, mapped, lost) = (lock(&self.shelf), lock(&self.mapped), lock(&self.lost));
        let behind = |gate: &&str| {
            let (.., on) = mapped.get(gate.strip_prefix(names::MAPPER)?)?;
            shelf.by_number(on).filter(|id| !lost.contains(id))
        };
        gates.iter().filter_map(behind).collect()
    }

    /// How the kernel has the images of each mirror: `A`, `a` while it is copied to, `D` where it leads nowhere.
    fn letters(&self) -> BTreeMap<String, String> {
        let (shelf, mapped, lost) = (lock(&self.shelf), lock(&self.mapped), lock(&self.lost));
        let below = |on: &BTreeSet<Number>| mapped.values().find(|(number, ..)| on.contains(number));
        let raids = mapped
            .iter()
            .filter(|(_, (_, table, _))| table.contains(" raid "));
        let letters = raids.map(|(name, (_, table, _))| {
            // Images are without metadata of their own here: `-` stands in its place.
            let devices = table.split_whitespace().skip(8).filter_map(|word| {
                let (major, minor) = word.split_once(':')?;
                Some((major.parse().ok()?, minor.parse().ok()?))
            });
            let letter = |image: Number| {
                let gate = below(&BTreeSet::from([image])).and_then(|(.., on)| below(on));
                let disk = gate.and_then(|(.., on)| shelf.by_number(on));
                match disk.filter(|id| !lost.contains(id)) {
                    None => 'D',
                    Some(id) if shelf.copying.contains(&id) => 'a',
                    Some(_) => 'A',
                }
            };
            (name.clone(), devices.map(letter).collect())
        });
        letters.collect()
    }

    fn lvm(&self, args: &[&str]) -> Outcome {
        let [command, "--devices", gates, "--config", config, rest @ ..] = args else {
            return Err(format!("lvm without its devices and configuration: {args:?}"));
        };
        let gates: Vec<&str> = gates.split(',').collect();
        let seen = self.seen(&gates);
        let system = config.split('"').nth(1).unwrap_or_default().to_owned();
        let mut shelf = lock(&self.shelf);
        let on_disks: BTreeSet<String> = (seen.iter()).filter_map(|id| shelf.disks[id].2.clone()).collect();
        if *command == "fullreport" {
            let parts = on_disks
                .iter()
                .map(|name| self.part(&shelf, &shelf.groups[name], &seen));
            let parts: Vec<_> = parts.collect();
            return Ok(json!({ "report": parts }).to_string());
        }
        let last = rest.last().copied().unwrap_or_default();
        if *command == "vgcreate" {
            let at = rest
                .iter()
                .position(|word| word.starts_with(names::MAPPER))
                .ok_or("no disks")?;
            let name = rest[at - 1].to_owned();
            if !on_disks.is_empty() || seen.len() != rest.len() - at {
                return Err("a disk is used already, or is not there".to_owned());
            }
            for id in &seen {
                shelf
                    .disks
                    .entry(*id)
                    .and_modify(|disk| disk.2 = Some(name.clone()));
            }
            let extents = seen.len() as u64 * 509;
            shelf.groups.insert(
                name.clone(),
                Vg {
                    name,
                    system_id: system,
                    extent_bytes: 1 << 20,
                    extents,
                    free_extents: extents,
                    missing: 0,
                    present: Vec::new(),
                    lvs: Vec::new(),
                },
            );
            return Ok(String::new());
        }
        let name = on_disks.first().ok_or("Volume group not found")?.clone();
        let whole = shelf.missing(&name, &seen) == 0;
        let vg = shelf.groups.get_mut(&name).ok_or("Volume group not found")?;
        if vg.system_id != system {
            return Err(format!("Cannot access VG {name} with system ID {}", vg.system_id));
        }
        let activation = rest
            .iter()
            .position(|word| *word == "--activate")
            .map(|at| rest[at + 1]);
        let repairs = matches!(*command, "vgextend" | "vgreduce") || rest.contains(&"--repair");
        if !whole && activation.is_none() && !repairs {
            return Err(format!("Cannot change VG {name} while PVs are missing."));
        }
        if repairs {
            return self.repair(shelf, (*command, rest), &name, &gates, &seen);
        }
        match (*command, activation) {
            ("vgchange", Some("y")) => {
                let lvs = vg.lvs.clone();
                self.raise(shelf, &name, &gates, lvs.iter().filter(|lv| !lv.skipped));
            }
            ("vgchange", Some(_)) => {
                drop(shelf);
                let own = format!("{name}-");
                let mounted = lock(&self.mounts)
                    .values()
                    .any(|(device, _)| device.starts_with(&own));
                if mounted || lock(&self.open).iter().any(|open| open.starts_with(&own)) {
                    return Err("Logical volume contains a filesystem in use".to_owned());
                }
                lock(&self.mapped).retain(|device, _| !device.starts_with(&own));
            }
            ("vgchange", None) => {
                let heir = rest
                    .iter()
                    .skip_while(|word| **word != "--systemid")
                    .nth(1)
                    .ok_or("vgchange: nothing to change")?;
                vg.system_id = (*heir).to_owned();
            }
            _ => {
                let made = self.change(vg, command, rest, last)?;
                let has_data = vg.lv("pool_tdata").is_some();
                let of = |lv: &str| format!("{name}-{lv}");
                let target = last.rsplit('/').next().unwrap_or_default();
                if *command == "lvremove" {
                    shelf.xfs.remove(&of(target));
                } else if rest.contains(&"--snapshot") {
                    let new = rest
                        .iter()
                        .position(|word| *word == "--name")
                        .map(|at| rest[at + 1]);
                    let bytes = shelf.xfs.get(&of(target)).copied();
                    if let Some((new, bytes)) = new.zip(bytes) {
                        shelf.xfs.insert(of(new), bytes);
                    }
                }
                if has_data && !shelf.images.contains_key(&name) && seen.len() > 1 {
                    shelf.images.insert(name.clone(), seen.iter().copied().collect());
                }
                self.raise(shelf, &name, &gates, made.iter());
            }
        }
        Ok(String::new())
    }

    /// Brings a disk into the place of one that is missing.
    fn repair(
        &self,
        mut shelf: MutexGuard<'_, Shelf>,
        (command, rest): (&str, &[&str]),
        name: &str,
        gates: &[&str],
        seen: &BTreeSet<[u8; 16]>,
    ) -> Outcome {
        let last = rest.last().copied().unwrap_or_default();
        let new = |shelf: &Shelf| {
            let on = lock(&self.mapped)
                .get(last.strip_prefix(names::MAPPER)?)?
                .2
                .clone();
            shelf.by_number(&on)
        };
        match command {
            "vgextend" => {
                let id = new(&shelf).filter(|id| seen.contains(id)).ok_or("no such disk")?;
                let disk = shelf.disks.get_mut(&id).ok_or("no such disk")?;
                match &disk.2 {
                    Some(other) => return Err(format!("PV is used by VG {other}")),
                    None => disk.2 = Some(name.to_owned()),
                }
            }
            "lvconvert" => {
                let id = new(&shelf).ok_or("no such disk")?;
                let member = |shelf: &Shelf, id: &[u8; 16]| {
                    shelf
                        .disks
                        .get(id)
                        .is_some_and(|disk| disk.2.as_deref() == Some(name))
                };
                if !member(&shelf, &id) {
                    return Err("the disk is in no group".to_owned());
                }
                let images = shelf.images.get(name).cloned().unwrap_or_default();
                let torn = |image: &[u8; 16]| !seen.contains(image) || !member(&shelf, image);
                let at = images.iter().position(torn).ok_or("nothing is in pieces")?;
                shelf.images.get_mut(name).ok_or("no mirror")?[at] = id;
                shelf.copying.insert(id);
                let lvs = shelf.groups[name].lvs.clone();
                self.raise(
                    shelf,
                    name,
                    gates,
                    lvs.iter().filter(|lv| lv.name == "pool_tdata"),
                );
            }
            _ if shelf.is_torn(name, seen) => return Err(format!("{name} has partial LVs")),
            _ => {
                shelf.ghosts.remove(name);
                let gone = (shelf.disks.iter_mut()).filter(|(id, _)| !seen.contains(*id));
                let gone = gone.filter(|(_, disk)| disk.2.as_deref() == Some(name));
                gone.for_each(|(_, disk)| disk.2 = None);
            }
        }
        Ok(String::new())
    }

    /// Changes what is in a group; what stands in the kernel after it.
    fn change(&self, vg: &mut Vg, command: &str, rest: &[&str], last: &str) -> Result<Vec<Lv>, String> {
        let of = |flag: &str| rest.iter().position(|word| *word == flag).map(|at| rest[at + 1]);
        let target = last.rsplit('/').next().unwrap_or_default().to_owned();
        let bytes = |text: Option<&str>| {
            let digits = text.unwrap_or_default().trim_end_matches('b');
            digits.parse::<u64>().map_err(|_| format!("{text:?} is no size"))
        };
        let new = |name: &str, bytes, layout: &str, skipped| Lv {
            name: name.to_owned(),
            bytes,
            active: false,
            layout: layout.to_owned(),
            error_when_full: false,
            skipped,
            partial: false,
        };
        let name = of("--name").unwrap_or_default();
        if command == "lvcreate" && vg.lv(name).is_some() {
            return Err(format!("{name} exists"));
        }
        let known = |vg: &Vg| {
            vg.lv(&target)
                .cloned()
                .ok_or_else(|| format!("no {target} in {}", vg.name))
        };
        match command {
            "lvcreate" if rest.contains(&"--snapshot") => {
                let origin = known(vg)?;
                let lv = new(
                    name,
                    origin.bytes,
                    "thin,sparse",
                    of("--setactivationskip") == Some("y"),
                );
                vg.lvs.push(lv.clone());
                Ok(Vec::from_iter((!lv.skipped).then_some(lv)))
            }
            "lvcreate" if of("--type") == Some("thin") => {
                let lv = new(name, bytes(of("--virtualsize"))?, "thin,sparse", false);
                vg.lvs.push(lv.clone());
                Ok(vec![lv])
            }
            "lvcreate" => {
                let extents = bytes(of("--extents"))?;
                vg.free_extents = vg
                    .free_extents
                    .checked_sub(extents)
                    .ok_or("insufficient free space")?;
                let layout = match of("--type").unwrap_or_default() {
                    "linear" => "linear".to_owned(),
                    level => format!("raid,{level}"),
                };
                vg.lvs.push(new(name, extents << 20, &layout, false));
                Ok(Vec::new())
            }
            "lvconvert" => {
                vg.lvs.retain(|lv| lv.name != names::META);
                let pool = vg.lvs.iter_mut().find(|lv| lv.name == target).ok_or("no pool")?;
                let data = std::mem::replace(&mut pool.layout, "thin,pool".to_owned());
                let pool = pool.clone();
                vg.lvs.push(new("pool_tdata", pool.bytes, &data, false));
                Ok(vec![pool])
            }
            "lvchange" if rest.contains(&"--ignoreactivationskip") => Ok(vec![known(vg)?]),
            "lvchange" => {
                let pool = vg.lvs.iter_mut().find(|lv| lv.name == target).ok_or("no pool")?;
                pool.error_when_full = of("--errorwhenfull") == Some("y");
                Ok(Vec::new())
            }
            "lvextend" => {
                let size = bytes(of("--size"))?;
                let lv = vg
                    .lvs
                    .iter_mut()
                    .find(|lv| lv.name == target)
                    .ok_or("no such volume")?;
                lv.bytes = size;
                Ok(Vec::new())
            }
            "lvremove" => {
                known(vg)?;
                let mapped = format!("{}-{target}", vg.name);
                if self.is_open(&mapped) {
                    return Err(format!("{target} in use"));
                }
                vg.lvs.retain(|lv| lv.name != target);
                lock(&self.mapped).remove(&mapped);
                Ok(Vec::new())
            }
            "lvrename" => {
                let [.., from, to] = rest else {
                    return Err("two names".to_owned());
                };
                let lv = vg
                    .lvs
                    .iter_mut()
                    .find(|lv| lv.name == *from)
                    .ok_or("no such volume")?;
                lv.name = (*to).to_owned();
                let mut mapped = lock(&self.mapped);
                if let Some(device) = mapped.remove(&format!("{}-{from}", vg.name)) {
                    mapped.insert(format!("{}-{to}", vg.name), device);
                }
                Ok(Vec::new())
            }
            other => Err(format!("lvm does not know {other}")),
        }
    }

    /// Programs that are for files.
    fn files(&self, program: Program, args: &[&str]) -> Outcome {
        // A gate that leads nowhere is enough: there are two copies at least, or the device is of no use.
        let works = |name: &str| {
            let mapped = lock(&self.mapped);
            let leads =
                |(name, (.., on)): (&String, &Mapped)| names::of_gate(name).is_some() && !on.is_empty();
            mapped.contains_key(name) && mapped.iter().any(leads)
        };
        let last = args.last().copied().unwrap_or_default();
        let device = |node: &str| node.strip_prefix(names::MAPPER).unwrap_or(node).to_owned();
        match (program, args) {
            (Program::Mkfs, ["-q", "-f", "-K", "-m", _, node]) => {
                let name = device(node);
                if !works(&name) || self.is_open(&name) {
                    return Err("cannot open the device".to_owned());
                }
                let bytes = self.bytes(&name).ok_or("no such device")?;
                lock(&self.shelf).xfs.insert(name, bytes);
            }
            (Program::Mount, ["-t", "xfs", "-o", options, node, at]) => {
                let name = device(node);
                let is_xfs = lock(&self.shelf).xfs.contains_key(&name);
                if !is_xfs || !works(&name) || lock(&self.mounts).contains_key(*at) {
                    return Err("wrong fs type, bad superblock, or already mounted".to_owned());
                }
                lock(&self.mounts).insert((*at).to_owned(), (name, (*options).to_owned()));
            }
            (Program::Unmount, [lazy @ .., at]) => {
                let device = lock(&self.mounts).get(*at).cloned().ok_or("not mounted")?.0;
                if lazy.is_empty() && lock(&self.open).contains(&device) {
                    return Err("target is busy.".to_owned());
                }
                lock(&self.mounts).remove(*at);
            }
            (Program::Grow, ["-d", at]) => {
                let device = lock(&self.mounts)
                    .get(*at)
                    .cloned()
                    .ok_or("is not a mounted XFS")?
                    .0;
                let bytes = self.bytes(&device).ok_or("no such device")?;
                lock(&self.shelf).xfs.insert(device, bytes);
            }
            (program, other) => return Err(format!("{program:?} does not know {other:?} ({last})")),
        }
        Ok(String::new())
    }

    /// Bytes of a volume.
    fn bytes(&self, name: &str) -> Option<u64> {
        let shelf = lock(&self.shelf);
        let (group, lv) = name.split_once('-')?;
        shelf.groups.get(group)?.lv(lv).map(|lv| lv.bytes)
    }

    /// Makes devices of a group in the kernel, where they are not yet; the mirror is made anew, as it is now.
    fn raise<'a>(
        &self,
        shelf: MutexGuard<'_, Shelf>,
        group: &str,
        gates: &[&str],
        lvs: impl Iterator<Item = &'a Lv>,
    ) {
        let images = shelf.images.get(group).cloned().unwrap_or_default();
        let numbers: Vec<Option<Number>> = (images.iter()).map(|id| Some(shelf.disks.get(id)?.0)).collect();
        let has_volumes = (shelf.groups.get(group).into_iter())
            .flat_map(|vg| &vg.lvs)
            .any(|lv| names::role(&lv.name).is_some());
        drop(shelf);
        let number = |name: &str| self.number(name);
        let (tdata, pool) = (format!("{group}-pool_tdata"), format!("{group}-pool"));
        // A thin pool has a layer of its own from its first volume on.
        let tpool = if has_volumes {
            format!("{pool}-tpool")
        } else {
            pool.clone()
        };
        if has_volumes
            && let Some((_, table, on)) = lock(&self.mapped).get_mut(&pool)
            && table.contains(" thin-pool ")
        {
            *table = "0 819200 linear 253:3 0".to_owned();
            on.clear();
        }
        let behind = |disk: Number| {
            let mapped = lock(&self.mapped);
            let gate = |gate: &&str| {
                let (number, _, on) = mapped.get(gate.strip_prefix(names::MAPPER)?)?;
                on.contains(&disk).then_some(*number)
            };
            gates.iter().find_map(gate)
        };
        for lv in lvs {
            let is_mirror = lv.name == "pool_tdata";
            if (is_mirror || number(&tpool).is_none()) && !numbers.is_empty() {
                let mut table = format!("0 819200 raid raid1 3 0 region_size 4096 {}", numbers.len());
                let mut on = BTreeSet::new();
                for (at, disk) in numbers.iter().enumerate() {
                    let image = format!("{group}-pool_tdata_rimage_{at}");
                    let gate = disk.and_then(behind);
                    let of_gate = gate.map(|(major, minor)| format!("0 819200 linear {major}:{minor} 4096"));
                    // While the group is active an image keeps the gate that it has, wherever that leads.
                    if number(&image).is_none() || (is_mirror && gate.is_some()) {
                        self.put(
                            &image,
                            of_gate.unwrap_or_else(|| "0 819200 error ".to_owned()),
                            gate.into_iter().collect(),
                        );
                    }
                    let (major, minor) = number(&image).unwrap_or_default();
                    table += &format!(" - {major}:{minor}");
                    on.extend(number(&image));
                }
                self.put(&tdata, table, on);
            }
            if number(&tpool).is_none() {
                let on_gates = gates
                    .iter()
                    .filter_map(|gate| number(gate.strip_prefix(names::MAPPER)?));
                let on = match number(&tdata) {
                    Some(tdata) => BTreeSet::from([tdata]),
                    None => on_gates.collect(),
                };
                let table = "0 819200 thin-pool 253:1 253:2 128 0 1 error_if_no_space ";
                self.put(&tpool, table.to_owned(), on);
            }
            let name = format!("{group}-{}", lv.name);
            if number(&name).is_none() && !is_mirror {
                let table = format!("0 {} thin 253:3 1", lv.bytes / 512);
                self.put(&name, table, number(&tpool).into_iter().collect());
            }
        }
    }

    fn number(&self, name: &str) -> Option<Number> {
        lock(&self.mapped).get(name).map(|(number, ..)| *number)
    }

    /// Makes a device, or changes the one of that name, which keeps its number.
    fn put(&self, name: &str, table: String, on: BTreeSet<Number>) {
        let there = lock(&self.mapped).get(name).map(|(number, ..)| *number);
        match there {
            None => self.add(name, table, on),
            Some(number) => drop(lock(&self.mapped).insert(name.to_owned(), (number, table, on))),
        }
    }

    fn part(&self, shelf: &Shelf, vg: &Vg, seen: &BTreeSet<[u8; 16]>) -> serde_json::Value {
        let (missing, torn) = (shelf.missing(&vg.name, seen), shelf.is_torn(&vg.name, seen));
        let nodes = lock(&self.mapped);
        let gates = nodes.iter().filter(|(name, _)| names::of_gate(name).is_some());
        let present = gates.filter(|(_, (.., on))| {
            let disk = shelf.by_number(on).filter(|id| seen.contains(id));
            disk.is_some_and(|id| shelf.disks[&id].2.as_ref() == Some(&vg.name))
        });
        let present: Vec<_> = present
            .map(|(name, _)| json!({ "pv_name": names::node(name), "pv_missing": "" }))
            .collect();
        drop(nodes);
        let lv = |lv: &Lv| {
            let active = lock(&self.mapped).contains_key(&format!("{}-{}", vg.name, lv.name));
            json!({
                "lv_name": lv.name, "lv_size": lv.bytes.to_string(), "lv_layout": lv.layout,
                "lv_active": if active { "active" } else { "" },
                "lv_when_full": if lv.error_when_full { "error" } else { "queue" },
                "lv_skip_activation": if lv.skipped { "skip activation" } else { "" },
                "lv_health_status": if torn { "partial" } else { "" },
            })
        };
        json!({
            "vg": [{
                "vg_name": vg.name, "vg_systemid": vg.system_id, "vg_extent_size": vg.extent_bytes.to_string(),
                "vg_extent_count": vg.extents.to_string(), "vg_free_count": vg.free_extents.to_string(),
                "vg_missing_pv_count": missing.to_string(),
            }],
            "pv": present,
            "lv": vg.lvs.iter().map(lv).collect::<Vec<_>>(),
        })
    }
}

impl Tools for FakeTools {
    async fn run(&self, program: Program, args: &[String]) -> Result<String, ToolError> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut breaks = lock(&self.breaks);
        let broken = words.first().copied() == breaks.as_deref() && breaks.take().is_some();
        drop(breaks);
        let done = match program {
            _ if broken => Err("Input/output error".to_owned()),
            Program::Dmsetup => self.dmsetup(&words),
            Program::Lvm => self.lvm(&words),
            other => self.files(other, &words),
        };
        let name = match program {
            Program::Lvm | Program::Dmsetup => None,
            other => other.path().rsplit('/').next(),
        };
        let told: Vec<_> = (name.iter().chain(&words))
            .filter(|word| !word.contains('{') && !word.contains(names::MAPPER))
            .copied()
            .collect();
        if !matches!(told[0], "info" | "table" | "status" | "fullreport") {
            lock(&self.calls).push(told.join(" "));
        }
        done.map_err(|said| ToolError::Failed {
            program: program.path(),
            words: told.join(" "),
            status: "exit status: 5".to_owned(),
            said,
        })
    }

    async fn beginning(&self, node: &str) -> Result<Beginning, String> {
        let name = node.strip_prefix(names::MAPPER).unwrap_or(node);
        match (self.number(name), lock(&self.shelf).xfs.contains_key(name)) {
            (None, _) => Err("No such device".to_owned()),
            (Some(_), true) => Ok(Beginning::Xfs),
            (Some(_), false) => Ok(Beginning::Blank),
        }
    }

    async fn mounts(&self) -> Result<Vec<Mount>, String> {
        let mounts = lock(&self.mounts).clone();
        let mount = |(at, (device, _)): (&String, &(String, String))| {
            let number = self.number(device)?;
            let at = at.clone();
            Some(Mount { number, at })
        };
        Ok(mounts.iter().filter_map(mount).collect())
    }

    async fn erase(&self, node: &str) -> Result<(), String> {
        let gate = node.strip_prefix(names::MAPPER).unwrap_or(node);
        let on = lock(&self.mapped).get(gate).map(|(.., on)| on.clone());
        lock(&self.calls).push(format!("erase {gate}"));
        let mut shelf = lock(&self.shelf);
        let id = on.and_then(|on| shelf.by_number(&on)).ok_or("No such device")?;
        let group = shelf.disks.get_mut(&id).and_then(|disk| disk.2.take());
        if let Some(group) = group {
            match shelf.disks.values().any(|disk| disk.2.as_ref() == Some(&group)) {
                true => *shelf.ghosts.entry(group).or_default() += 1,
                // Nobody describes it any more.
                false => {
                    shelf.groups.remove(&group);
                    shelf.images.remove(&group);
                    shelf.ghosts.remove(&group);
                }
            }
        }
        Ok(())
    }

    async fn disk(&self, id: [u8; 16]) -> Result<Found, String> {
        let shelf = lock(&self.shelf);
        match shelf.disks.get(&id) {
            Some((number, bytes, _)) if !lock(&self.lost).contains(&id) => Ok(Found {
                number: *number,
                bytes: *bytes,
            }),
            _ => Err("0 devices call themselves so; one is needed".to_owned()),
        }
    }

    async fn share(&self, _node: &str) -> Result<(), String> {
        Ok(())
    }
}
